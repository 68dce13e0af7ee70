"""A ``concurrent.futures.Executor`` whose workers are fibers, and calls from other threads."""

from __future__ import annotations

import atexit
import collections
import concurrent.futures
import contextvars
import threading
import weakref
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from ferrule._core.scheduler import (
    Cancelled,
    ConcurrencyUnavailable,
    Task,
    cancel_requested,
    current_task,
    current_thread_scheduler,
    spawn,
)
from ferrule._core.sync import Event
from ferrule._core.waits import Completions, deadline_ns
from ferrule.runtime import Runtime, runtime_or_none
from ferrule.workers import blocking

P = ParamSpec("P")
T = TypeVar("T")


class Future(concurrent.futures.Future[T]):
    """What `Executor.submit` and `Runtime.spawn_threadsafe` return.

    A ``concurrent.futures.Future``: in OS threads `result` and `exception` block, in fibers they
    park only the fiber, as switch and cancellation points.  `cancel` succeeds before the call has
    started and returns False later, as in the standard library; ``future.task.cancel()`` asks a
    running call to end, and if it does so the future is cancelled.
    """

    #: The task in which the call runs; None before and after.
    task: Task[Any] | None = None

    def result(self, timeout: float | None = None) -> T:
        """Wait for the end of the call; return its result or raise what it raised.

        CancelledError if it was cancelled.  ``timeout`` is in seconds; TimeoutError when it passes.
        """
        self._park(timeout)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end of the call; return what it raised, or None.

        CancelledError if it was cancelled.  ``timeout`` is in seconds; TimeoutError when it passes.
        """
        self._park(timeout)
        return super().exception(timeout)

    def _park(self, timeout: float | None) -> None:
        if self.done() or runtime_or_none() is None:
            return
        completions: Completions[Future[T]] = Completions()
        try:
            completions.add(self)
            if not completions.wait(1, deadline_ns(timeout)):
                raise TimeoutError("the call did not end in time")
        finally:
            completions.close()

    def _end_cancelled(self) -> None:
        """From running to cancelled, for which the standard class has no way."""
        with self._condition:
            self._state = "PENDING"
        self.cancel()
        self.set_running_or_notify_cancel()


class Call:
    """A function with its arguments, the submitter's context variables, and its future."""

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        self.future: Future[Any] = Future()
        self._job: tuple[Any, ...] | None = (fn, args, kwargs or {})
        self._context = contextvars.copy_context()
        self._name = name

    def start(self) -> None:
        """Spawn the task that runs it.  On a thread of the runtime; not a switch point."""
        try:
            spawn(self.run, name=self._name)
        except ConcurrencyUnavailable as exc:
            self.refuse(exc)

    def refuse(self, exc: ConcurrencyUnavailable) -> None:
        """There is no fiber for it; in a runtime that is ending it counts as not started."""
        if current_thread_scheduler().crew.root.cancel_called:
            self.future.cancel()
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(exc)

    def drop(self) -> None:
        """It will not run: the runtime has ended."""
        self.future.cancel()
        self.future.set_running_or_notify_cancel()

    def run(self) -> None:
        """Call the function, in a fiber; in a runtime that is ending the call is cancelled."""
        future, job = self.future, self._job
        self._job = None  # from here on the call keeps nothing alive
        if cancel_requested():
            future.cancel()
        if not future.set_running_or_notify_cancel():
            return
        future.task = current_task()
        try:
            result = self._context.run(_apply, job)
        except BaseException as exc:
            future.task = None
            _end_with(future, exc)
        else:
            future.task = None
            future.set_result(result)
        finally:
            del future, job, self  # else they would be kept by the traceback, and it by the future


def _apply(job: Any) -> Any:
    fn, args, kwargs = job
    return fn(*args, **kwargs)


def _end_with(future: Future[Any], exc: BaseException) -> None:
    """Set what ended a call; a cancellation is no failure."""
    rest: BaseException | None = exc
    if isinstance(exc, Cancelled):
        rest = None
    elif isinstance(exc, BaseExceptionGroup) and cancel_requested():
        rest = exc.split(Cancelled)[1]
    if rest is None:
        future._end_cancelled()
    else:
        future.set_exception(rest)


class _WorkersCall(Call):
    """A call that, when it has ended, gives its place to the next."""

    def __init__(
        self, workers: _Workers, fn: Callable[..., Any], args: Any, kwargs: Any
    ) -> None:
        super().__init__(fn, args, kwargs)
        self._workers = workers

    def start(self) -> None:
        call: _WorkersCall | None = self
        while call is not None:
            try:
                spawn(call._work)
                return
            except ConcurrencyUnavailable as exc:
                call.refuse(exc)
                call = self._workers.next_call(call)

    def _work(self) -> None:
        call: _WorkersCall | None = self
        while call is not None:
            call.run()
            call = self._workers.next_call(call)
            if call is not None:
                try:
                    spawn(call._work)
                    return
                except ConcurrencyUnavailable:
                    pass  # this task's is the only fiber to be had

    def drop(self) -> None:
        call: _WorkersCall | None = self
        while call is not None:
            Call.drop(call)
            call = self._workers.next_call(call)


class _Workers:
    """At most ``limit`` calls at a time in one runtime; further ones wait their turn."""

    def __init__(self, runtime: Runtime, limit: int | None) -> None:
        self._runtime = runtime
        self._limit = limit
        self._lock = threading.RLock()  # a signal handler may come in the middle
        self._waiting: collections.deque[_WorkersCall] = collections.deque()
        self._busy: set[_WorkersCall] = set()
        self._is_shut_down = False
        #: Done once it was shut down and nothing is left to do.
        self.drained: Future[None] = Future()

    def submit(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any]:
        call = _WorkersCall(self, fn, args, kwargs)
        future = call.future  # it may be over before this ends
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._limit is not None and len(self._busy) >= self._limit:
                self._waiting.append(call)
                return future
            self._busy.add(call)
        try:
            self._runtime.admit(call)
        except BaseException:
            self.next_call(call)
            raise
        return future

    def next_call(self, ended: _WorkersCall) -> _WorkersCall | None:
        """The call that gets the place of one that has ended."""
        with self._lock:
            self._busy.discard(ended)
            if self._waiting:
                call = self._waiting.popleft()
                self._busy.add(call)
                return call
        self._look_whether_drained()
        return None

    def shut_down(self, cancel_futures: bool = False) -> None:
        """Take no more calls.  Not a switch point; from any thread."""
        with self._lock:
            self._is_shut_down = True
            calls = [*self._busy, *self._waiting] if cancel_futures else []
        for call in calls:
            call.future.cancel()  # those that have started are left alone
        self._look_whether_drained()

    def _look_whether_drained(self) -> None:
        with self._lock:
            if not self._is_shut_down or self._busy or self.drained.running():
                return
            if self.drained.done():
                return
            self.drained.set_running_or_notify_cancel()
        self.drained.set_result(None)


class _Host:
    """A thread that runs a runtime for an executor of a thread that has none."""

    def __init__(self) -> None:
        self.runtime = Runtime()
        self._stop = Event()
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ferrule-executor", daemon=True)

    def start(self) -> None:
        """Start it; raises BackendUnavailable if there can be no runtime."""
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self.runtime.run(self._main)
        except BaseException as exc:
            if self._started.is_set():
                raise
            self._failure = exc
        finally:
            self._started.set()

    def _main(self) -> None:
        self._started.set()
        self._stop.wait()

    def stop(self) -> None:
        """End the runtime, and what its calls have left running.  From any thread."""
        self._stop.set()

    def join(self) -> None:
        """Wait for the end of the thread."""
        if self._thread is threading.current_thread():
            return
        if runtime_or_none() is None:
            self._thread.join()
        else:
            blocking(self._thread.join)


class Executor(concurrent.futures.Executor):
    """Runs calls in fibers: ``concurrent.futures.Executor``, for fibers and for OS threads.

    Made in a fiber it uses that fiber's runtime, made elsewhere a runtime of its own, in a thread
    that begins with the first call and ends with `shutdown`.  At most ``max_workers`` calls run at
    a time (None: no limit but the runtime's ``max_fibers``, beyond which a call that cannot start
    has ConcurrencyUnavailable for its exception).  Every method may be called from any thread.
    """

    def __init__(self, max_workers: int | None = None) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        runtime = runtime_or_none()
        self._host: _Host | None = None
        self._lock = threading.RLock()
        if runtime is None:
            self._host = host = _Host()
            runtime = host.runtime
        self._workers = workers = _Workers(runtime, max_workers)
        self._host_runs = False
        # An executor that nobody holds any more ends once its calls have.
        weakref.finalize(self, workers.shut_down).atexit = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have ``fn(*args, **kwargs)`` run in a fiber; return its `Future`.

        It starts with a copy of the caller's context variables.  RuntimeError after `shutdown` and
        when the runtime has ended.  Not a switch point.
        """
        if not callable(fn):
            raise TypeError(f"the first argument must be callable, not {type(fn).__name__}")
        if self._host is not None and not self._host_runs:
            self._start_host(self._host)
        return self._workers.submit(fn, args, kwargs)

    def _start_host(self, host: _Host) -> None:
        with self._lock:
            if self._host_runs:
                return
            host.start()
            self._host_runs = True
        self._workers.drained.add_done_callback(lambda _: host.stop())
        _end_at_exit(self._workers, host)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; with ``wait``, wait for the end of all.

        ``cancel_futures`` cancels those that have not started.  With ``wait`` a switch and
        cancellation point in a fiber, and a wait that blocks in an OS thread.
        """
        self._workers.shut_down(cancel_futures)
        if wait:
            self._workers.drained.result()
            if self._host is not None and self._host_runs:
                self._host.join()


def _end_at_exit(workers: _Workers, host: _Host) -> None:
    """Let calls end before the interpreter does, as the standard executors do."""

    def end() -> None:
        workers.shut_down()
        host.join()

    atexit.register(end)
    workers.drained.add_done_callback(lambda _: atexit.unregister(end))
