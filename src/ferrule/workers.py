"""OS threads for calls that really block: `ferrule.blocking`, and the pools it is made of.

Each runtime has its own pools, by name, so that slow calls of one kind cannot starve another kind
(name look-ups have theirs), and a runtime that ends leaves no thread behind.
"""

from __future__ import annotations

import collections
import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

from ferrule._core.scheduler import current_thread_scheduler
from ferrule._core.sync import Waiter
from ferrule.runtime import current_runtime

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

IDLE_SECONDS = 10.0
BLOCKING_THREADS = 64


class WorkerThreads:
    """Up to ``limit`` OS threads that take jobs in order; started when needed, gone when idle.

    They are daemon threads: one that is stuck in a call cannot keep the process from ending.
    """

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self._crew = current_thread_scheduler().crew
        self._jobs: collections.deque[Callable[[], object]] = collections.deque()
        # Re-entrant, because a signal handler may run in the middle of submit().
        self._changed = threading.Condition(threading.RLock())
        self._threads: set[threading.Thread] = set()
        self._busy: set[threading.Thread] = set()
        self._started = 0
        self._closed = False

    def submit(self, job: Callable[[], object]) -> None:
        """Have ``job()`` run on a thread.  It must not raise.  Not a switch point; any thread."""
        with self._changed:
            if self._closed:
                raise RuntimeError(f"the {self.name} threads have ended with their runtime")
            self._jobs.append(job)
            self._crew.external_work(1)
            if len(self._threads) - len(self._busy) >= len(self._jobs):
                self._changed.notify()
            elif len(self._threads) < self.limit:
                self._start_thread()

    def _start_thread(self) -> None:
        self._started += 1
        thread = threading.Thread(
            target=self._work, name=f"ferrule-{self.name}-{self._started}", daemon=True
        )
        thread._ferrule_worker = True  # type: ignore[attr-defined]  # no sign of foreign life
        self._threads.add(thread)
        try:
            thread.start()
        except BaseException:
            self._threads.discard(thread)
            if not self._threads:  # otherwise one of them will come to it
                self._jobs.pop()
                self._crew.external_work(-1)
                raise

    def _work(self) -> None:
        while True:
            job = self._next_job()
            if job is None:
                return
            try:
                job()
            finally:
                self._crew.external_work(-1)
                del job  # an idle thread keeps nothing alive

    def _next_job(self) -> Callable[[], object] | None:
        me = threading.current_thread()
        with self._changed:
            self._busy.discard(me)
            while not self._jobs:
                in_time = not self._closed and self._changed.wait(IDLE_SECONDS)
                if not in_time and not self._jobs:
                    self._threads.discard(me)
                    return None
            self._busy.add(me)
            return self._jobs.popleft()

    def call(self, fn: Callable[[*Ts], T], /, *args: *Ts) -> T:
        """Run ``fn(*args)`` on a thread, park this fiber until it returns, and return its result.

        Always awaited: a cancellation comes at the caller's next point.  The caller's context
        variables are visible in ``fn``.  A switch point; a cancellation point before ``fn`` starts.
        """
        waiter = Waiter(f"a {self.name} call: {getattr(fn, '__qualname__', fn)}")
        context = contextvars.copy_context()

        def job() -> None:
            try:
                outcome = True, context.run(fn, *args)
            except BaseException as exc:
                waiter.wake((False, exc))  # in no variable: its traceback refers to this frame
            else:
                waiter.wake(outcome)

        self.submit(job)
        result: T = _unpack(waiter.wait(cancellable=False))
        return result

    def close(self) -> None:
        """End and join the idle threads.  One that is stuck in a call is left to its end."""
        with self._changed:
            self._closed = True
            self._crew.external_work(-len(self._jobs))
            self._jobs.clear()
            self._changed.notify_all()
            idle = self._threads - self._busy
        for thread in idle:
            thread.join()


def _unpack(outcome: tuple[bool, Any]) -> Any:
    returned, value = outcome
    if returned:
        return value
    try:
        raise value
    finally:
        del outcome, value  # its traceback refers to this frame


def worker_threads(name: str, limit: int) -> WorkerThreads:
    """The current runtime's pool of that name, made at the first use."""
    pools = current_runtime().worker_pools
    pool = pools.get(name)
    if pool is None:  # of two loop threads that come here at once one keeps its pool
        pool = pools.setdefault(name, WorkerThreads(name, limit))
    return pool


def blocking(fn: Callable[[*Ts], T], /, *args: *Ts) -> T:
    """Run ``fn(*args)``, which really blocks, on an OS thread and park only this fiber.

    Returns what ``fn`` returns and raises what it raises.  ``fn`` is always awaited, also when the
    caller is cancelled meanwhile: the cancellation comes at the next point.  The caller's context
    variables are visible in ``fn``, as a copy.  At most 64 calls run at once; more wait their turn.
    A switch point, and a cancellation point before ``fn`` starts.
    """
    return worker_threads("blocking", BLOCKING_THREADS).call(fn, *args)
