"""Waiting for the first, the next or all of several tasks and futures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    Future,
)
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from ferrule._core.scheduler import Task, current_thread_scheduler
from ferrule._core.waits import Completions, deadline_ns

__all__ = ["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION", "as_completed", "select", "wait"]

Waited = TypeVar("Waited", bound="Task[Any] | Future[Any]")

if TYPE_CHECKING:

    class DoneAndNotDone(NamedTuple, Generic[Waited]):
        done: set[Waited]
        not_done: set[Waited]

else:
    from concurrent.futures._base import DoneAndNotDoneFutures as DoneAndNotDone


def select(tasks: Iterable[Waited]) -> tuple[int, Waited]:
    """Park until one of the tasks has ended; return its index and itself.

    Of several that end at once the lowest index wins.  The others go on, and nothing of the wait
    stays with them.  Takes futures too, of `Executor` and other ``concurrent.futures``.  ValueError
    if there are none; RuntimeError for the running task itself.  A switch and cancellation point.
    """
    candidates = _checked("select", tasks)
    if not candidates:
        raise ValueError("select() needs at least one task")
    _wait_for(candidates, 1, 0)
    return next((index, task) for index, task in enumerate(candidates) if task.done())


def wait(
    tasks: Iterable[Waited], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> DoneAndNotDone[Waited]:
    """Park until all, the first, or the first failed of the tasks has ended.

    ``concurrent.futures.wait`` for fibers: the same constants and the same named tuple of two sets,
    ``done`` and ``not_done``.  Takes tasks and futures mixed.  After ``timeout`` seconds returns
    what there is.  RuntimeError for the running task itself.  A switch and cancellation point.
    """
    if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        raise ValueError(f"invalid return condition: {return_when!r}")
    deadline = deadline_ns(timeout)
    candidates = dict.fromkeys(_checked("wait", tasks))
    wanted = min(1, len(candidates)) if return_when == FIRST_COMPLETED else len(candidates)
    _wait_for(candidates, wanted, deadline, return_when == FIRST_EXCEPTION)
    done = {task for task in candidates if task.done()}
    return DoneAndNotDone(done, candidates.keys() - done)


def as_completed(tasks: Iterable[Waited], timeout: float | None = None) -> Iterator[Waited]:
    """Iterate over the tasks as they end, each once; tasks and futures mixed.

    TimeoutError when not all have ended ``timeout`` seconds after this call.  Each step is a switch
    and cancellation point.
    """
    current_thread_scheduler()
    return _as_completed(dict.fromkeys(_checked("as_completed", tasks)), deadline_ns(timeout))


def _as_completed(candidates: dict[Waited, None], deadline: int) -> Iterator[Waited]:
    completions: Completions[Waited] = Completions()
    total = missing = len(candidates)
    try:
        for task in candidates:
            completions.add(task)
        candidates.clear()
        while missing:
            ended = completions.wait(1, deadline)
            if not ended:
                raise TimeoutError(f"{missing} (of {total}) tasks have not ended in time")
            missing -= len(ended)
            ended.reverse()
            while ended:
                yield ended.pop()  # no reference stays here
    finally:
        completions.close()


def _wait_for(
    candidates: Iterable[Waited], wanted: int, deadline: int, until_failure: bool = False
) -> None:
    completions: Completions[Waited] = Completions()
    try:
        for task in candidates:
            completions.add(task)
        completions.wait(wanted, deadline, until_failure)
    finally:
        completions.close()


def _checked(name: str, tasks: Iterable[Waited]) -> list[Waited]:
    found = list(tasks)
    for task in found:
        if not isinstance(task, (Task, Future)):
            raise TypeError(f"{name}() takes tasks and futures, not {type(task).__name__}")
    return found
