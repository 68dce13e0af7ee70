"""The same test for the standard library in threads, and for Ferrule in threads and in fibers."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import ferrule
from ferrule._core.scheduler import current_thread_scheduler

PATIENCE = 20.0
STANDARD = SimpleNamespace(**{**vars(queue), **vars(threading)})


def settle() -> None:
    """Let every other fiber run until it waits."""
    for _ in range(3):
        ferrule.sleep(0)
    if ferrule.current_runtime().threads > 1:
        await_others()


def spawn_in_order(calls: Iterable[Callable[[], Any]]) -> list[ferrule.Task[Any]]:
    """Tasks of which each waits before the next one is there, on whichever thread it is."""
    tasks = []
    for call in calls:
        tasks.append(ferrule.spawn(call))
        settle()
    return tasks


def cancel_here_and_there(*tasks: ferrule.Task[Any]) -> None:
    """Cancel tasks, and let the other loop threads hear of it; with one this does not switch."""
    for task in tasks:
        task.cancel()
    if ferrule.current_runtime().threads > 1:
        pass_through_every_loop()


def await_others() -> None:
    """As `settle`, with several loop threads; those that never wait are given a moment."""
    until = time.monotonic() + 0.1
    while time.monotonic() < until:
        before = resting()
        # What was on its way to another thread has been read after the first of these; and after
        # the second what those who had just ended then sent.
        pass_through_every_loop()
        pass_through_every_loop()
        if before is not None and before == resting():
            return


def resting() -> list[int] | None:
    """The other tasks, if all of them wait."""
    me = ferrule.current_task()
    tasks = [task for task in current_thread_scheduler().tasks() if task is not me]
    if all(repr(task).endswith(" waiting>") for task in tasks):
        return [task.id for task in tasks]
    return None


def pass_through_every_loop() -> None:
    """What has been sent to any loop thread until now has been read there on return."""
    schedulers = list(ferrule.current_runtime()._crew.schedulers)
    passed: list[int] = []
    for scheduler in schedulers:
        scheduler.call_soon(lambda: passed.append(1))
    ferrule.yield_now()
    until = time.monotonic() + PATIENCE
    while len(passed) < len(schedulers):
        assert time.monotonic() < until, "a loop thread hangs"
        ferrule.sleep(1e-5)  # lets go of the GIL too


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
