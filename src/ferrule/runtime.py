"""Starting and ending a runtime: which engine, Ctrl-C, statistics."""

from __future__ import annotations

import collections
import contextlib
import math
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, TypeVarTuple

from ferrule._core import scheduler as _scheduler
from ferrule.engines import ENGINES, choose, engine_class, forget_choice, refuse

if TYPE_CHECKING:
    from ferrule.executor import Future
    from ferrule.workers import WorkerThreads

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_THREADS = 64
BACKENDS = tuple(ENGINES)
Backend = Literal["auto", "uring", "kqueue", "epoll", "threads"]


def _choose_backend(name: str | None) -> str:
    name = name or os.environ.get("FERRULE_BACKEND") or "auto"
    if name == "auto":
        return choose()
    if name not in BACKENDS:
        raise ValueError(f"backend must be 'auto' or one of {', '.join(BACKENDS)}; not {name!r}")
    return name


def _choose_threads(threads: int | None) -> int:
    text = os.environ.get("FERRULE_THREADS")
    if threads is None and text:
        if not text.isdigit():
            raise ValueError(f"FERRULE_THREADS must be a whole number, not {text!r}")
        threads = int(text)
    if threads is None:
        return usable_cpus() if _without_gil() else 1
    if not 1 <= threads <= MAX_THREADS:
        raise ValueError(f"threads must be 1 to {MAX_THREADS}, not {threads}")
    return threads


def _without_gil() -> bool:
    return not getattr(sys, "_is_gil_enabled", lambda: True)()


def usable_cpus() -> int:
    """How many processors this process may keep busy: by its affinity and its cgroup's quota."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        count = os.cpu_count() or 1
    return max(1, min(count, math.ceil(_cpu_quota()), MAX_THREADS))


def _cpu_quota() -> float:
    """Processors' worth of time that the cgroup (version 2) grants; 64 where it sets no limit."""
    try:
        with open("/proc/self/cgroup") as file:
            path = file.read().strip().rpartition("::")[2]
        with open(f"/sys/fs/cgroup{path}/cpu.max") as file:
            quota, period = file.read().split()
        return MAX_THREADS if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return MAX_THREADS


class _Job(Protocol):
    def start(self) -> object: ...
    def drop(self) -> object: ...


class _Entrance:
    """Where other threads hand jobs to a loop: each is started there, or dropped at its end."""

    def __init__(self, scheduler: _scheduler.Scheduler) -> None:
        self._scheduler = scheduler
        self._lock = threading.RLock()  # a signal handler may come in the middle
        self._jobs: collections.deque[_Job] = collections.deque()
        self._is_closed = False

    def enter(self, job: _Job) -> None:
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the runtime has ended")
            self._jobs.append(job)
            if len(self._jobs) == 1:
                self._scheduler.call_soon(self._start_all)

    def _start_all(self) -> None:
        for job in self._take_all():
            job.start()

    def _take_all(self) -> list[_Job]:
        with self._lock:
            jobs = list(self._jobs)
            self._jobs.clear()
        return jobs

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
        for job in self._take_all():
            job.drop()


class Runtime:
    """One run of Ferrule, as an object.

    ``with Runtime() as rt: rt.run(main)``; ``run`` may be called once.  The arguments are those of
    `run`.  A runtime belongs to the thread that runs it.
    """

    def __init__(
        self,
        *,
        backend: Backend = "auto",
        threads: int | None = None,
        max_fibers: int | None = None,
    ) -> None:
        self.backend = _choose_backend(None if backend == "auto" else backend)
        self.threads = _choose_threads(threads)
        if max_fibers is not None and max_fibers < 1:
            raise ValueError("max_fibers must be at least 1")
        self._crew = _new_crew(self.backend, self.threads, max_fibers)
        self._crew.runtime = self
        self._scheduler = self._crew.schedulers[0]
        self._entrance = _Entrance(self._scheduler)
        self.worker_pools: dict[str, WorkerThreads] = {}

    def run(self, main: Callable[[*Ts], T], /, *args: *Ts) -> T:
        """Run ``main(*args)`` as the first fiber; return its result.  See `ferrule.run`."""
        self._scheduler.claim()  # before anything that a run of another thread has
        with _Interrupts(self._scheduler), _observers(self):
            try:
                return self._scheduler.run(main, args)
            except _scheduler.EngineUnavailable as exc:
                forget_choice()
                raise refuse(self.backend, exc) from exc
            finally:
                self._entrance.close()
                if not self._scheduler.dead:  # after a fork its threads are the parent's
                    for pool in self.worker_pools.values():
                        pool.close()

    def spawn_threadsafe(
        self, fn: Callable[[*Ts], T], /, *args: *Ts, name: str | None = None
    ) -> Future[T]:
        """Run ``fn(*args)`` in a fiber of this runtime, from any thread; return its `Future`.

        The call has a copy of the caller's context variables.  Before `run` it waits for the
        runtime to begin; one that has not started when the runtime ends is cancelled.
        RuntimeError once the runtime has ended.  Not a switch point.
        """
        from ferrule.executor import Call

        if not callable(fn):
            raise TypeError(f"the first argument must be callable, not {type(fn).__name__}")
        call = Call(fn, args, name=name)
        future: Future[T] = call.future
        self.admit(call)
        return future

    def admit(self, job: _Job) -> None:
        """Have ``job.start()`` called on a thread of this runtime, where it must not block.

        Or ``job.drop()``, when the runtime ends first; RuntimeError if it has ended.  At once where
        this thread is one of the runtime's.
        """
        if runtime_or_none() is self:
            job.start()
        elif self._scheduler.dead:
            raise RuntimeError("the runtime did not survive fork()")
        else:
            self._entrance.enter(job)

    def statistics(self) -> dict[str, Any]:
        """Counters: what is alive now (tasks, slots, timers) and what happened since the start.

        They are sums over the loop threads; ``per_thread`` has a dict for each that was started.
        """
        each = [scheduler.statistics() for scheduler in self._crew.schedulers]
        total = {name: sum(counters[name] for counters in each) for name in each[0]}
        total["live_tasks"] = self._crew.live_tasks
        return {"backend": self.backend, "threads": self.threads, **total, "per_thread": each}

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        return None


def _observers(runtime: Runtime) -> contextlib.AbstractContextManager[object]:
    if not (os.environ.get("FERRULE_WATCHDOG") or os.environ.get("FERRULE_DUMP")):
        return contextlib.nullcontext()
    from ferrule.watchdog import from_environment

    return from_environment(runtime)


def _new_crew(backend: str, threads: int, max_fibers: int | None) -> _scheduler.Crew:
    try:
        new_backend = engine_class(backend)
    except ImportError as exc:
        raise refuse(backend, exc) from exc
    return _scheduler.Crew(new_backend, threads, max_fibers)


class _Interrupts:
    """While a run is on: Ctrl-C cancels the root scope instead of raising in a random fiber.

    Only on the main thread, and only if the program has no SIGINT handler of its own.  A second
    Ctrl-C raises KeyboardInterrupt at once, for fibers that never come to a cancellation point.
    """

    def __init__(self, scheduler: _scheduler.Scheduler) -> None:
        self._scheduler = scheduler
        self._installed = False
        self._wakeup_fd = -1

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._installed = True
            signal.signal(signal.SIGINT, self._interrupt)
        self._scheduler.on_open = self._wake_on_signals

    def _wake_on_signals(self) -> None:
        # Closes the gap between looking for signals and waiting in the kernel.
        self._wakeup_fd = signal.set_wakeup_fd(self._scheduler.wake_fd(), warn_on_full_buffer=False)
        self._scheduler.on_open = None
        self._scheduler.on_close = self._stop_waking

    def _stop_waking(self) -> None:
        signal.set_wakeup_fd(self._wakeup_fd)
        self._scheduler.on_close = None
        if self._scheduler.dead:  # a forked child never comes to __exit__ if it runs on from here
            self._restore_handler()

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._scheduler.crew.interrupt()

    def _restore_handler(self) -> None:
        if self._installed and signal.getsignal(signal.SIGINT) == self._interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._installed = False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._restore_handler()
        if self._scheduler.crew.interrupted and not isinstance(exc, KeyboardInterrupt):
            raise KeyboardInterrupt  # it came when the run had ended already


setattr(_Interrupts._interrupt, "ferrule_own", True)  # for the deadlock check  # noqa: B010


def run(
    main: Callable[[*Ts], T],
    /,
    *args: *Ts,
    backend: Backend = "auto",
    threads: int | None = None,
    max_fibers: int | None = None,
) -> T:
    """Run ``main(*args)`` in a fiber, and everything it spawns; return its result.

    ``backend``: "auto" takes the environment's FERRULE_BACKEND, else the best engine there is.
    ``threads``: how many loop threads there may be, FERRULE_THREADS; by default 1, on a
    free-threaded Python one for each processor that this process may use.  They start when there is
    work for them; a task that has not started runs on whichever is free, and then stays there.
    ``max_fibers``: how many tasks may be alive at once (default: no limit); `spawn` beyond it
    raises ConcurrencyUnavailable.

    When main returns, tasks still running are cancelled and awaited.  Raises what main raised;
    KeyboardInterrupt after Ctrl-C, once every ``finally`` has run; DeadlockError when every fiber
    waits and nothing can wake one; BackendUnavailable with cause and remedy; RuntimeError when this
    thread already runs one.
    """
    runtime = Runtime(backend=backend, threads=threads, max_fibers=max_fibers)
    return runtime.run(main, *args)


def current_runtime() -> Runtime:
    """The runtime of the running fiber; RuntimeError outside one."""
    runtime: Runtime = _scheduler.current_thread_scheduler().runtime
    return runtime


def runtime_or_none() -> Runtime | None:
    """The runtime whose loop this thread runs, or None."""
    try:
        return current_runtime()
    except RuntimeError:
        return None


if sys.platform == "win32":  # pragma: no cover
    raise ImportError("Ferrule needs a POSIX system")
