"""The same test for the standard library in threads, and for Ferrule in threads and in fibers."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import ferrule

PATIENCE = 20.0
STANDARD = SimpleNamespace(**{**vars(queue), **vars(threading)})


def settle() -> None:
    """Let every other fiber run until it waits."""
    for _ in range(3):
        ferrule.sleep(0)


class OSThread:
    """A thread whose function's outcome can be asked for."""

    def __init__(self, fn: Callable[..., Any], *args: Any) -> None:
        self._thread = threading.Thread(target=self._run, args=(fn, args), daemon=True)
        self._thread.start()

    def _run(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            self._outcome: Any = fn(*args)
            self._failure: BaseException | None = None
        except BaseException as exc:
            self._failure = exc

    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self, timeout: float = PATIENCE) -> Any:
        self._thread.join(timeout)
        assert self.done(), "the thread hangs"
        if self._failure is not None:
            raise self._failure
        return self._outcome


class World:
    """Whose classes a test uses, and what runs at the same time in it."""

    def __init__(self, classes: Any, run: Callable[..., Any] | None) -> None:
        self.classes = classes
        self._run = run

    def __getattr__(self, name: str) -> Any:
        return getattr(self.classes, name)

    def run(self, main: Callable[[], Any]) -> Any:
        return main() if self._run is None else self._run(main)

    def spawn(self, fn: Callable[..., Any], *args: Any) -> Any:
        return OSThread(fn, *args) if self._run is None else ferrule.spawn(fn, *args)

    def settle(self) -> None:
        """Give what was spawned the time to come to where it waits."""
        if self._run is None:
            time.sleep(0.03)
        else:
            settle()

    def sleep(self, seconds: float) -> None:
        (time if self._run is None else ferrule).sleep(seconds)


@contextmanager
def alarm(seconds: float, handler: Callable[[], Any]) -> Iterator[None]:
    """Call ``handler()`` in the main thread, as a signal's handler, once ``seconds`` are over."""
    previous = signal.signal(signal.SIGALRM, lambda number, frame: handler())
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
