"""Programming mistakes get a clear error that names the remedy."""

from __future__ import annotations

import copy
import pickle
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
from ferrule import CancelScope, Event, Lock, Queue

Run = Callable[..., Any]


@pytest.mark.one_thread("a switch shows in what else its thread runs")
@pytest.mark.parametrize(
    "switch",
    [
        lambda: ferrule.sleep(0),
        lambda: ferrule.sleep(0.001),
        ferrule.yield_now,
        lambda: ferrule.sleep_until(0),
        lambda: Event().wait(),
        lambda: Queue().get(),
        lambda: ferrule.spawn(int).result(),
        lambda: held_lock().acquire(),
        lambda: ferrule.blocking(int),
        lambda: group_with_a_member(),
    ],
)
def test_no_switch_refuses_whatever_would_switch(run: Run, switch: Callable[[], Any]) -> None:
    def main() -> None:
        ran: list[int] = []
        ferrule.spawn(ran.append, 1)
        with pytest.raises(RuntimeError, match="no_switch"), ferrule.no_switch():
            switch()
        assert ran == []
        ferrule.sleep(0)
        assert ran == [1]

    run(main)


def held_lock() -> Lock:
    lock = Lock()
    lock.acquire()
    return lock


def group_with_a_member() -> None:
    with ferrule.TaskGroup() as group:
        group.spawn(int)


def test_no_switch_lets_pass_what_does_not_switch(run: Run) -> None:
    def main() -> None:
        queue: Queue[int] = Queue()
        event, lock = Event(), Lock()
        event.set()
        ran: list[int] = []
        ferrule.spawn(ran.append, 1)
        with ferrule.no_switch():
            for n in range(1000):  # also when the budget is used up
                queue.put(n)
                assert queue.get() == n
                assert event.wait()
                with lock:
                    pass
            ferrule.checkpoint()
            ferrule.spawn(int)
        assert ran == []

    run(main)


def test_no_switch_nests_and_is_entered_once(run: Run) -> None:
    def main() -> None:
        with ferrule.no_switch():
            with ferrule.no_switch():
                pass
            with pytest.raises(RuntimeError, match="no_switch"):
                ferrule.sleep(0)
        ferrule.sleep(0)
        guard = ferrule.no_switch()
        with guard, pytest.raises(RuntimeError, match="already entered"):
            guard.__enter__()
        with pytest.raises(RuntimeError, match="not entered"):
            guard.__exit__(None, None, None)

    run(main)


def test_no_switch_is_of_its_task_alone(run: Run) -> None:
    def main() -> None:
        other = ferrule.spawn(ferrule.sleep, 0.001)
        ferrule.sleep(0)
        with ferrule.no_switch():
            pass
        other.result()

    run(main)


@pytest.mark.parametrize("method", ["join", "result", "exception"])
def test_a_pending_task_cannot_be_waited_for_by_a_foreign_thread(run: Run, method: str) -> None:
    def main() -> None:
        go = Event()
        task = ferrule.spawn(go.wait)

        def elsewhere() -> None:
            with pytest.raises(RuntimeError, match=r"ferrule\.run"):
                getattr(task, method)()
            go.set()

        ferrule.blocking(elsewhere)
        assert task.result()
        assert ferrule.blocking(task.result)  # it has ended: nothing to wait for

    run(main)


def test_a_signal_handler_that_blocks_while_nothing_runs_is_told_so(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[BaseException] = []
    over = Event()

    def handler(number: int, frame: Any) -> None:
        try:
            ferrule.sleep(1)
        except BaseException as exc:
            errors.append(exc)
        over.set()

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        def main() -> None:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            over.wait()

        run(main)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert [type(exc) for exc in errors] == [RuntimeError]
    assert "no fiber to park" in str(errors[0])


def test_a_scope_of_another_thread_cannot_be_left_here(run: Run) -> None:
    def main() -> None:
        scope = CancelScope()
        scope.__enter__()

        def elsewhere() -> None:
            with pytest.raises(RuntimeError):
                scope.__exit__(None, None, None)

        ferrule.blocking(elsewhere)
        scope.__exit__(None, None, None)

    run(main)


def test_a_group_of_another_runtime_takes_no_tasks(run: Run) -> None:
    def main() -> None:
        with ferrule.TaskGroup() as group:

            def elsewhere() -> None:
                with pytest.raises(RuntimeError, match="another runtime"):
                    group.spawn(int)

            ferrule.blocking(ferrule.run, elsewhere)

    run(main)


def test_wrong_types_are_refused_like_the_standard_library_does(run: Run) -> None:
    def main() -> None:
        with pytest.raises(TypeError):
            Event().wait("soon")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            Queue("big")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            CancelScope(1)  # type: ignore[misc]
        with pytest.raises(TypeError):
            CancelScope(deadline="noon")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            ferrule.spawn()  # type: ignore[call-overload]

    run(main)


@pytest.mark.parametrize(
    "kind",
    [
        ferrule.Task, CancelScope, ferrule.no_switch, Event, Lock, ferrule.RLock, ferrule.Condition,
        ferrule.Semaphore, ferrule.BoundedSemaphore, ferrule.Barrier, ferrule.RWLock, Queue,
        ferrule.LifoQueue, ferrule.PriorityQueue,
    ],
)
def test_an_object_that_was_never_initialised_does_not_crash(run: Run, kind: type) -> None:
    def touch(blank: Any, name: str) -> None:
        member = getattr(blank, name)
        if callable(member):
            member(*([None] * 3 if name == "__exit__" else []))

    def main() -> None:
        for name in dir(kind):
            if not name.startswith("__") or name in ("__enter__", "__exit__", "__repr__"):
                task = ferrule.spawn(touch, kind.__new__(kind), name)
                ferrule.yield_now()
                task.cancel()
                task.join()  # a result or an ordinary exception: all the same here
                if not task.cancelled():
                    task.exception()

    run(main)


@pytest.mark.parametrize(
    "make",
    [
        CancelScope, Event, Lock, ferrule.RLock, ferrule.Condition, ferrule.Semaphore,
        ferrule.RWLock, ferrule.RWLock().read_lock, Queue, ferrule.PriorityQueue,
        lambda: ferrule.Barrier(1),
    ],
)
def test_what_waits_cannot_be_copied_or_pickled(make: Callable[[], Any]) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(make())
    with pytest.raises(TypeError):
        copy.copy(make())


def test_threads_may_look_at_tasks_and_scopes(run: Run) -> None:
    def main() -> None:
        task = ferrule.spawn(ferrule.sleep, 100, name="watched")
        ferrule.sleep(0)

        def elsewhere() -> tuple[Any, ...]:
            return task.done(), task.cancelled(), task.name, repr(task)

        assert ferrule.blocking(elsewhere) == (False, False, "watched", "<Task 'watched' waiting>")
        ferrule.blocking(task.cancel)
        task.join()
        assert task.cancelled()

    run(main)


def test_a_run_in_a_thread_needs_no_main_thread(run: Run) -> None:
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(run(lambda: 5)))
    thread.start()
    thread.join()
    assert results == [5]


def test_a_second_run_of_a_runtime_is_refused_and_harms_nothing(run: Run) -> None:
    runtime = ferrule.Runtime()

    def elsewhere() -> int:
        with pytest.raises(RuntimeError, match="running in another thread"):
            runtime.run(int)
        return runtime.spawn_threadsafe(lambda: 5).result()

    def main() -> int:
        with pytest.raises(RuntimeError, match="already running in this thread"):
            runtime.run(int)
        return ferrule.blocking(elsewhere)

    assert runtime.run(main) == 5
    with pytest.raises(RuntimeError, match="has ended: make a new one"):
        runtime.run(int)


def test_a_runtime_that_threads_run_at_the_same_moment_runs_once(run: Run) -> None:
    def race() -> list[object]:
        runtime = ferrule.Runtime()
        start = threading.Barrier(4)
        ends: list[object] = []

        def runs() -> None:
            start.wait()
            try:
                ends.append(runtime.run(ferrule.sleep, 0.001))
            except RuntimeError as exc:
                ends.append(str(exc))

        threads = [threading.Thread(target=runs) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ends

    refusals = {"this runtime is running in another thread",
                "this runtime has ended: make a new one"}
    for _ in range(50):
        ends = race()
        assert ends.count(None) == 1
        assert len(ends) == 4
        assert set(ends) - refusals == {None}
