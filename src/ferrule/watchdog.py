"""Reports from outside the loop: the watchdog, and the dump on a signal; see `ferrule.inspect`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, TextIO

from ferrule._core import snapshot as _core
from ferrule._core.scheduler import Scheduler, open_runtimes
from ferrule.runtime import Runtime, current_runtime
from ferrule.snapshots import (
    Fiber,
    Snapshot,
    Wait,
    count_of,
    running_fiber,
    schedulers_of,
    snapshot,
    take_snapshot,
)

_ANSWER_SECONDS = 1.0
_JOIN_SECONDS = 2.0
_HANDLER_SECONDS = 0.2  # soon, so that what keeps a loop from answering is seen in the dump
# A peer, a disk or a clock may take its time; who waits for tasks waits as long as they do.
_MAY_TAKE_LONG = {"operation", "batch", "timer", "task", "group", "close"}


@dataclass(frozen=True, slots=True)
class Report:
    """What a watchdog has seen."""

    kind: str
    """ "hog": the fiber has kept its thread; "stuck": it has waited."""
    seconds: float
    """So long when seen; it may go on."""
    fiber: Fiber | None
    """None for a callback of the loop that keeps its thread."""
    text: str
    """All of it, for people, with the stack."""


class watchdog:
    """``with watchdog(limit=0.1):`` reports fibers that keep their thread longer than ``limit``.

    While one does, no other fiber of that thread runs.  It is named, with its stack, once for each
    time; one that goes on for half as long again is sure to be seen, unless compiled code holds the
    GIL all the while.  ``stuck``: also report, once for each wait, fibers that have waited so many
    seconds for what only fibers and threads of this program can end (locks, queues, events …), with
    the holder; of those that wait for tasks and groups the ones that wait in a circle.

    Reports are printed to ``file`` (default: sys.stderr) or, as `Report`, given to ``callback``,
    which is called on the watchdog's own thread and must not wait for the loop.  Watches the given
    ``runtime``, by default the one of the caller's fiber; it need not run yet.  Costs nothing per
    switch: a thread wakes up twice in each ``limit`` and compares counters.

    ValueError unless ``limit`` and ``stuck`` are positive.  Entering and leaving do not switch.
    """

    def __init__(
        self,
        limit: float = 0.1,
        *,
        stuck: float | None = None,
        file: TextIO | None = None,
        callback: Callable[[Report], object] | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self._limit = _positive(limit, "limit")
        self._stuck = None if stuck is None else _positive(stuck, "stuck")
        self._file = file
        self._callback = callback
        self._runtime = runtime
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._busy_since: dict[Scheduler, tuple[Any, float]] = {}
        self._reported: dict[Scheduler, Any] = {}
        # Of each waiting fiber, by its id: which wait, when first seen, whether reported.
        self._waits: dict[int, tuple[float, float, bool]] = {}

    def __enter__(self) -> watchdog:
        if self._thread is not None:
            raise RuntimeError("this watchdog has been entered: make a new one")
        if self._runtime is None:
            self._runtime = current_runtime()
        self._thread = threading.Thread(target=self._watch, name="ferrule-watchdog", daemon=True)
        self._thread._ferrule_worker = True  # type: ignore[attr-defined]  # it wakes no fiber
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        assert self._thread is not None
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join(_JOIN_SECONDS)  # a callback that hangs must not hang the program

    def _watch(self) -> None:
        assert self._runtime is not None
        pause = self._limit / 2
        look_again = 0.0
        while not self._stopped.wait(pause):
            for scheduler in schedulers_of(self._runtime):
                self._look_for_hog(scheduler)
            if self._stuck is not None and time.monotonic() >= look_again:
                self._look_for_stuck(self._runtime, self._stuck)
                look_again = time.monotonic() + self._stuck / 4

    def _look_for_hog(self, scheduler: Scheduler) -> None:
        progress = _core.progress(scheduler)
        now = time.monotonic()
        seen, since = self._busy_since.get(scheduler, (None, now))
        if progress is None or progress != seen:
            self._busy_since[scheduler] = progress, now
            return
        if now - since < self._limit or self._reported.get(scheduler) == progress:
            return
        fiber, stack = running_fiber(scheduler)
        if _core.progress(scheduler) != progress:
            return  # it has let go meanwhile: what was read may be of another
        self._reported[scheduler] = progress
        who = "a callback of the loop" if fiber is None else f"fiber {fiber.name} #{fiber.id}"
        title = f"{who} has kept its thread for {now - since:.2f} s (limit: {self._limit} s)"
        self._report(Report("hog", now - since, fiber, _text(title, stack)))

    def _look_for_stuck(self, runtime: Runtime, limit: float) -> None:
        # Without stacks: they would cost the loop most of the time that this takes.
        picture = self._look(runtime, stack_limit=0)
        circle = picture.circle()
        now = time.monotonic()
        waits = {}
        stuck = {}
        for fiber in picture.fibers:
            if fiber.wait is None or (fiber not in circle and _ends_by_itself(fiber.wait)):
                continue
            # Counted from when it was first seen: the loop's clock is coarse.
            wait, seen, reported = self._waits.get(fiber.id, (0.0, now, False))
            if wait != fiber.wait.since:
                seen, reported = now, False
            elif not reported and now - seen >= limit:
                reported = True
                stuck[fiber.id] = now - seen
            waits[fiber.id] = fiber.wait.since, seen, reported
        self._waits = waits
        if stuck:
            self._report_stuck(self._look(runtime, stack_limit=None), stuck)

    def _look(self, runtime: Runtime, stack_limit: int | None) -> Snapshot:
        return take_snapshot(runtime, _ANSWER_SECONDS, stack_limit, self._stopped.is_set)

    def _report_stuck(self, picture: Snapshot, stuck: dict[int, float]) -> None:
        circle = picture.circle()
        for fiber in picture.fibers:
            seconds = stuck.get(fiber.id)
            if seconds is None or fiber.wait is None:
                continue
            if fiber.wait.since != self._waits[fiber.id][0]:
                continue  # it has gone on meanwhile
            title = (f"fiber {fiber.name} #{fiber.id} has waited {seconds:.1f} s "
                     f"for {fiber.wait.text}")
            if fiber in circle:
                names = [one.name for one in [*circle, circle[0]]]
                title += f", in a circle: {' -> '.join(names)}"
            self._report(Report("stuck", seconds, fiber, _text(title, fiber.stack)))

    def _report(self, report: Report) -> None:
        try:
            if self._callback is not None:
                self._callback(report)
            else:
                _write(self._file, report.text)
        except Exception as exc:
            hook_args = threading.ExceptHookArgs(
                (type(exc), exc, exc.__traceback__, threading.current_thread()))
            threading.excepthook(hook_args)  # and go on watching


def _positive(seconds: float, what: str) -> float:
    if not seconds > 0:
        raise ValueError(f"{what} must be a positive number of seconds, not {seconds!r}")
    return float(seconds)


def _ends_by_itself(wait: Wait) -> bool:
    return wait.seconds_left is not None or wait.kind in _MAY_TAKE_LONG


def _text(title: str, stack: traceback.StackSummary) -> str:
    return f"ferrule: {title}\n{''.join(stack.format())}"


class dump_on_signal:
    """From now on, print every fiber with its stack when the signal arrives.

    Printed is what ``print_tree(stacks=True)`` prints, of the given ``runtime``, by default of all
    that run in this process, to ``file`` (default: sys.stderr).  `close`, or the end of a ``with``
    block, puts the handler back that was there before.

    The handler runs on the main thread, in between whatever that does: a fiber that computes, a
    loop that waits in the kernel.  Other loop threads are asked, for 0.2 s at most.  Compiled
    code that does not come back to the interpreter puts it off.  Unlike other handlers written in
    Python it leaves the deadlock check on, because it wakes no fiber.

    Not a switch point.  ValueError on any but the main thread, as of ``signal.signal``.
    """

    def __init__(
        self,
        signum: int = signal.SIGUSR1,
        *,
        file: TextIO | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self._signum = signum
        self._file = file
        self._runtime = runtime
        self._dumping = False
        self._before = signal.signal(signum, self._dump)

    def close(self) -> None:
        """Put the former handler back, unless somebody has set another one since.  Idempotent."""
        if signal.getsignal(self._signum) == self._dump:
            # None: it was not Python's, and cannot be had back.
            signal.signal(
                self._signum, signal.SIG_DFL if self._before is None else self._before)

    def __enter__(self) -> dump_on_signal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def _dump(self, signum: int, frame: FrameType | None) -> None:
        if self._dumping:
            return  # the signal came again meanwhile
        self._dumping = True
        try:
            runtimes = open_runtimes() if self._runtime is None else [self._runtime]
            name = signal.Signals(signum).name
            parts = [f"ferrule: {name} in process {os.getpid()}, {count_of(runtimes, 'runtime')}\n"]
            parts += [
                snapshot(one, timeout=_HANDLER_SECONDS).format(stacks=True) for one in runtimes]
            _write(self._file, "".join(parts))
        except Exception as exc:
            # It must not be raised in whatever was interrupted.
            sys.excepthook(type(exc), exc, exc.__traceback__)
        finally:
            self._dumping = False


setattr(dump_on_signal._dump, "ferrule_own", True)  # for the deadlock check  # noqa: B010


def _write(file: TextIO | None, text: str) -> None:
    """Write at once, past the file's buffer if it has a descriptor: a signal handler may have
    interrupted a write to it, and then the buffer refuses.
    """
    file = sys.stderr if file is None else file
    if file is None:
        return  # a program without one
    try:
        fd = file.fileno()
    except (OSError, AttributeError):
        file.write(text)
        file.flush()
        return
    data = text.encode("utf-8", "backslashreplace")
    while data:
        data = data[os.write(fd, data):]


def from_environment(runtime: Runtime) -> contextlib.ExitStack:
    """Start what FERRULE_WATCHDOG (a limit in seconds) and FERRULE_DUMP (1) ask for."""
    observers = contextlib.ExitStack()
    limit = os.environ.get("FERRULE_WATCHDOG")
    if limit:
        observers.enter_context(watchdog(_limit_from(limit), runtime=runtime))
    if os.environ.get("FERRULE_DUMP", "0") not in ("", "0") and _is_free(signal.SIGUSR1):
        observers.enter_context(dump_on_signal())
    return observers


def _limit_from(text: str) -> float:
    try:
        return _positive(float(text), "FERRULE_WATCHDOG")
    except ValueError:
        raise ValueError(
            f"FERRULE_WATCHDOG must be a positive number of seconds, not {text!r}") from None


def _is_free(signum: int) -> bool:
    # The program's own handler goes first; and only the main thread may set one.
    return (threading.current_thread() is threading.main_thread()
            and signal.getsignal(signum) is signal.SIG_DFL)
