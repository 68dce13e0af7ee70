"""Groups of tasks, and scopes with a time limit."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar, TypeVarTuple

from ferrule._core.scheduler import Cancelled, CancelScope, GroupScope, Task, checkpoint
from ferrule.clocks import now

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class TaskGroup:
    """Tasks that end together: leaving the ``with`` block waits for all of them.

    The first failure cancels the others and the body; the failures come out as one
    ``ExceptionGroup``.  Leaving is a switch and cancellation point if there is something to wait
    for: a cancellation from outside reaches the members, their end is waited for all the same, and
    then Cancelled is raised.

    With ``max_concurrency`` (at least 1) at most so many members run at a time: then `spawn` parks
    the task that opened the group until there is room, and queues what anybody else spawns.  A
    group may be opened again after it was left.
    """

    def __init__(self, max_concurrency: int | None = None) -> None:
        self._limit = check_concurrency(max_concurrency)
        self._scope: GroupScope | None = None

    def __enter__(self) -> TaskGroup:
        if self._scope is not None:
            raise RuntimeError("this TaskGroup is open already")
        scope = GroupScope(self._limit)
        scope.__enter__()
        self._scope = scope
        return self

    def spawn(self, fn: Callable[[*Ts], T], /, *args: *Ts, name: str | None = None) -> Task[T]:
        """Run ``fn(*args)`` in a fiber of this group.

        In a group that is being cancelled the task is born cancelled: it starts, and its first
        cancellation point raises.  ConcurrencyUnavailable at the runtime's ``max_fibers``.  Not a
        switch point, but for the task that opened a group with ``max_concurrency``: at the limit
        it is a switch and cancellation point.  For others the task then starts when it is its turn.
        """
        return self._open_scope().spawn(fn, args, name)

    def spawn_or_run(
        self, fn: Callable[[*Ts], T], /, *args: *Ts, name: str | None = None
    ) -> Task[T]:
        """As `spawn`; once there are ``max_fibers`` tasks, run ``fn(*args)`` here and now.

        See `ferrule.spawn_or_run`.  A failure cancels the group like that of any member.
        """
        return self._open_scope().spawn_or_run(fn, args, name)

    def wait(self) -> None:
        """Wait until every task spawned so far has ended; the group stays open.

        A switch and cancellation point.  When a member failed or the group was cancelled, waits
        for the end of all, raises Cancelled here, and leaves the failures to the end of the block.
        Only for the task that opened the group.
        """
        self._open_scope().wait_members(cancellable=True)
        checkpoint()

    def cancel(self) -> None:
        """Cancel the members and the body.  Idempotent; from any thread; not a switch point."""
        self._open_scope().cancel()

    def _open_scope(self) -> GroupScope:
        scope = self._scope  # once: its owner may leave the group at this moment
        if scope is None:
            raise RuntimeError("this TaskGroup is not open: use it in a with statement")
        return scope

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> bool:
        scope = self._open_scope()
        scope.about_to_leave()
        if exc is not None:
            scope.cancel()
        waited = False
        try:
            waited = scope.wait_members(cancellable=False)
        finally:
            self._scope = None
            caught = scope.__exit__(kind, exc, tb) if isinstance(exc, Cancelled) else (
                scope.__exit__(None, None, None)
            )
        failures = list(scope.errors)
        if exc is not None and not isinstance(exc, Cancelled):
            failures.append(exc)
        try:
            if failures:
                _raise_failures(failures)
            if waited and exc is None:
                checkpoint()
        finally:
            del exc, failures  # their tracebacks refer to this frame
        return bool(caught)


def check_concurrency(limit: int | None) -> int | None:
    """``limit``, if it is None or a number of tasks ≥ 1."""
    if limit is not None and operator.index(limit) < 1:
        raise ValueError(f"max_concurrency must be at least 1, not {limit}")
    return limit


def _raise_failures(failures: list[BaseException]) -> None:
    """Raise them as one group; an exception that asks for the end of the program stays bare."""
    try:
        for failure in failures:
            if isinstance(failure, (KeyboardInterrupt, SystemExit, GeneratorExit)):
                others = [other for other in failures if other is not failure]
                if not others:
                    raise failure
                raise failure from BaseExceptionGroup("tasks of the group failed too", others)
        raise BaseExceptionGroup("a task of the group failed", failures) from None
    finally:
        del failures


def move_on_after(seconds: float) -> CancelScope:
    """``with move_on_after(s) as scope:`` cancels the block after ``seconds`` and goes on after it.

    ``scope.cancelled_caught`` tells whether it did.
    """
    return CancelScope(deadline=_deadline(seconds))


class fail_after:
    """``with fail_after(s):`` cancels the block after ``seconds`` and raises TimeoutError."""

    def __init__(self, seconds: float) -> None:
        self._scope = CancelScope(deadline=_deadline(seconds))
        self._seconds = seconds

    def __enter__(self) -> CancelScope:
        self._scope.__enter__()
        return self._scope

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._scope.__exit__(kind, exc, tb)
        if self._scope.cancelled_caught:
            raise TimeoutError(f"not done within {self._seconds} s") from exc


def shield() -> CancelScope:
    """``with shield():`` keeps cancellation from outside away until the block is left."""
    return CancelScope(shield=True)


def _deadline(seconds: float) -> float | None:
    if not seconds >= 0:
        raise ValueError(f"seconds must be a number ≥ 0, not {seconds!r}")
    return None if math.isinf(seconds) else now() + seconds
