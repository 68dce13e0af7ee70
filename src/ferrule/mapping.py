"""A function over an iterable, some calls at a time."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any, Generic, TypeVar

from ferrule._core.scheduler import CancelScope, Task, current_thread_scheduler, spawn_or_run
from ferrule._core.waits import Completions
from ferrule.tasks import check_concurrency

T = TypeVar("T")
R = TypeVar("R")

MAX_CONCURRENCY = 100


def map(  # the name it has in the standard library's executors too
    fn: Callable[[T], R],
    iterable: Iterable[T],
    max_concurrency: int | None = None,
    ordered: bool = True,
) -> MapResults[R]:
    """Iterate over ``fn(item)`` for each item, with up to ``max_concurrency`` calls at a time.

    Each call is a task.  The default is 100.  Nothing begins before the first step, and at most
    ``max_concurrency`` calls are ever ahead of the results taken, running or ended.  Results come
    in the order of the items, or with ``ordered=False`` as they are ready.  The items are taken
    from ``iterable`` in the fiber that asks for a result, so it may block; what it raises comes
    after the results of the items before.  The first failure is raised in its place, after the
    other calls were cancelled and have ended, and ends the iteration.  Each step is a switch and
    cancellation point.
    """
    limit = check_concurrency(max_concurrency) or MAX_CONCURRENCY
    current_thread_scheduler()
    if not callable(fn):
        raise TypeError(f"the first argument must be callable, not {type(fn).__name__}")
    return MapResults(fn, iter(iterable), limit, _InOrder() if ordered else _AsReady())


class MapResults(Iterator[R]):
    """The results of `ferrule.map`: an iterator that can be closed."""

    def __init__(
        self,
        fn: Callable[[T], R],
        items: Iterator[T],
        limit: int,
        window: _InOrder[R] | _AsReady[R],
    ) -> None:
        self._fn: Callable[[Any], R] = fn
        self._items: Iterator[Any] | None = items
        self._items_failure: Exception | None = None
        self._limit = limit
        self._window = window
        self._is_running = False

    def __next__(self) -> R:
        if self._is_running:
            raise ValueError("another fiber is taking a result of this map() already")
        self._is_running = True
        try:
            self._fill_window()
            if self._window:
                return self._window.take().result()
            failure, self._items_failure = self._items_failure, None
            if failure is not None:
                raise failure
            raise StopIteration
        except BaseException:
            self._end()
            raise
        finally:
            self._is_running = False
            failure = None  # its traceback refers to this frame

    def _fill_window(self) -> None:
        """Take one item at least: else a slow consumer's window would run dry."""
        took_one = False
        while self._items is not None and len(self._window) < self._limit:
            if took_one and self._window.is_ready():
                return
            try:
                item = next(self._items)
            except StopIteration:
                self._items = None
                return
            except Exception as exc:
                self._items, self._items_failure = None, exc
                return
            self._window.add(spawn_or_run(self._fn, item))
            took_one = True

    def close(self) -> None:
        """Cancel the calls that run, and wait for their end.  Idempotent.

        Their failures, if any, are dropped.  A switch point if there are such calls; never a
        cancellation point.
        """
        if self._is_running:
            raise ValueError("a fiber is taking a result of this map()")
        self._end()

    def _end(self) -> None:
        self._items = None
        tasks = self._window.take_all()
        for task in tasks:
            task.cancel()
        if not all(task.done() for task in tasks):
            with CancelScope(shield=True):
                for task in tasks:
                    task.join()
        for task in tasks:
            _drop_failure(task)

    def __del__(self) -> None:
        # Waiting is out of the question: this may be the garbage collector, anywhere.
        for task in self._window.take_all():
            task.cancel()
            task.add_done_callback(_drop_failure)


def _drop_failure(task: Task[Any]) -> None:
    with contextlib.suppress(CancelledError):
        task.exception()  # so that it counts as seen


class _InOrder(Generic[R]):
    """The calls ahead of the consumer, in the order of their items."""

    def __init__(self) -> None:
        self._tasks: collections.deque[Task[R]] = collections.deque()

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: Task[R]) -> None:
        self._tasks.append(task)

    def is_ready(self) -> bool:
        """Whether `take` need not wait."""
        return self._tasks[0].done()

    def take(self) -> Task[R]:
        """Wait for the next one that is to be handed out, and take it out."""
        self._tasks[0].join()
        return self._tasks.popleft()

    def take_all(self) -> list[Task[R]]:
        tasks = list(self._tasks)
        self._tasks.clear()
        return tasks


class _AsReady(Generic[R]):
    """The calls ahead of the consumer, in the order of their ends."""

    def __init__(self) -> None:
        self._tasks: set[Task[R]] = set()
        self._completions: Completions[Task[R]] = Completions()
        self._ended: collections.deque[Task[R]] = collections.deque()

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: Task[R]) -> None:
        self._tasks.add(task)
        self._completions.add(task)

    def is_ready(self) -> bool:
        self._ended += self._completions.take()
        return bool(self._ended)

    def take(self) -> Task[R]:
        if not self._ended:
            self._ended += self._completions.wait(1)
        task = self._ended.popleft()
        self._tasks.remove(task)
        return task

    def take_all(self) -> list[Task[R]]:
        self._completions.close()
        self._ended.clear()
        tasks = list(self._tasks)
        self._tasks.clear()
        return tasks
