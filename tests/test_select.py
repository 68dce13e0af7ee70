"""select: the first of several tasks to end.

With ``threads=1`` run those that depend on what runs before what.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

import ferrule
from ferrule import Event, Task, TaskGroup

Run = Callable[..., Any]


def forever() -> None:
    Event().wait()


def sleep_and_return(seconds: float, value: Any) -> Any:
    ferrule.sleep(seconds)
    return value


def test_select_returns_the_first_to_end_and_its_index(run: Run) -> None:
    def main() -> None:
        tasks = [ferrule.spawn(sleep_and_return, seconds, seconds) for seconds in (0.05, 0.01, 9)]
        index, task = ferrule.select(tasks)
        assert (index, task) == (1, tasks[1])
        assert task.result() == 0.01

    run(main)


def test_the_losers_of_a_select_keep_running(run: Run) -> None:
    def main() -> None:
        slow = ferrule.spawn(sleep_and_return, 0.02, "slow")
        index, _ = ferrule.select([slow, ferrule.spawn(int)])
        assert index == 1
        assert slow.result() == "slow"

    run(main)


def test_of_several_that_end_at_once_the_lowest_index_wins(run: Run) -> None:
    def main() -> None:
        gate = Event()
        tasks = [ferrule.spawn(forever), *(ferrule.spawn(gate.wait) for _ in range(3))]
        ferrule.yield_now()
        ferrule.spawn(gate.set)
        assert ferrule.select(reversed(tasks))[0] == 0
        assert ferrule.select(tasks)[0] == 1

    run(main, threads=1)  # with more the ends would not come at once


def test_select_takes_what_has_ended_already_without_a_switch(run: Run) -> None:
    def main() -> None:
        done = ferrule.spawn(int)
        done.join()
        other = ferrule.spawn(forever)
        with ferrule.no_switch():
            assert ferrule.select([other, done, done]) == (1, done)

    run(main)


def test_a_task_may_be_given_to_select_twice(run: Run) -> None:
    def main() -> None:
        task = ferrule.spawn(ferrule.sleep, 0.001)
        assert ferrule.select([task, task]) == (0, task)

    run(main)


@pytest.mark.parametrize("end", ["failure", "cancellation"])
def test_a_task_that_did_not_return_has_ended_too(run: Run, end: str) -> None:
    def main() -> None:
        task = ferrule.spawn((lambda: {}["missing"]) if end == "failure" else forever)
        ferrule.yield_now()
        task.cancel()
        index, ended = ferrule.select([ferrule.spawn(forever), task])
        assert index == 1
        assert ended.cancelled() == (end == "cancellation")
        if end == "failure":
            assert isinstance(ended.exception(), KeyError)

    run(main)


def test_a_failure_that_select_found_is_still_reported_if_nobody_asks(
    run: Run, unraisable: list[Any]
) -> None:
    def main() -> None:
        ferrule.select([ferrule.spawn(lambda: {}["missing"], name="sad")])

    run(main)
    assert [task.name for task, _ in unraisable] == ["sad"]


def test_a_cancelled_select_leaves_the_tasks_alone_and_nothing_behind(run: Run) -> None:
    def main() -> None:
        tasks = [ferrule.spawn(forever) for _ in range(3)]
        ferrule.yield_now()
        references = sys.getrefcount(tasks[0])
        for _ in range(3):
            with ferrule.move_on_after(0.001) as scope:
                ferrule.select(tasks)
            assert scope.cancelled_caught
        assert not any(task.done() for task in tasks)
        assert entered_waits() == 0
        references_now = sys.getrefcount(tasks[0])
        assert references_now == references

    run(main, threads=1)


def entered_waits() -> int:
    """How many are still entered in tasks or futures."""
    gc.collect()
    kind = "ferrule._core.waits.Completions"
    return sum(f"{type(x).__module__}.{type(x).__name__}" == kind for x in gc.get_objects())


def test_a_select_in_a_loop_leaves_nothing_with_those_that_lose(run: Run) -> None:
    def main() -> None:
        loser = ferrule.spawn(forever)
        for _ in range(100):
            winner = ferrule.spawn(int)
            assert ferrule.select([loser, winner]) == (1, winner)
        assert entered_waits() == 0

    run(main)


def test_a_thousand_fibers_may_select_the_same_task(run: Run) -> None:
    def seconds(count: int) -> float:
        begin = time.perf_counter()
        target = ferrule.spawn(forever)
        with TaskGroup() as group:
            for _ in range(count):
                group.spawn(ferrule.select, [target])
            ferrule.yield_now()
            group.cancel()  # each takes itself out
        target.cancel()
        return time.perf_counter() - begin

    def main() -> None:
        seconds(8000)  # makes the fibers
        assert seconds(8000) < 8 * 4 * min(seconds(1000) for _ in range(3))

    run(main, threads=1)


def test_an_end_wins_over_a_cancellation_at_the_same_time(run: Run) -> None:
    def main() -> None:
        gate = Event()
        task = ferrule.spawn(gate.wait)
        with ferrule.CancelScope() as scope:
            def end_and_cancel() -> None:
                gate.set()
                ferrule.yield_now()
                scope.cancel()

            ferrule.spawn(end_and_cancel)
            assert ferrule.select([task]) == (0, task)
        assert not scope.cancelled_caught

    run(main, threads=1)


def test_a_cancellation_before_the_end_wins_also_if_the_task_ends_before_the_waiter_runs(
    run: Run,
) -> None:
    def main() -> None:
        gate = Event()
        task = ferrule.spawn(gate.wait)
        with ferrule.CancelScope() as scope:
            ferrule.spawn(lambda: (gate.set(), scope.cancel()))
            ferrule.select([task])  # cancelled first, but there is a result: it is delivered
        assert task.done()

    run(main, threads=1)


def test_select_is_a_cancellation_point_even_if_it_need_not_wait(run: Run) -> None:
    def main() -> None:
        done = ferrule.spawn(int)
        done.join()
        with ferrule.CancelScope() as scope:
            scope.cancel()
            ferrule.select([done])
            pytest.fail("not reached")

    run(main)


@pytest.mark.one_thread("fibers of one thread take turns")
def test_select_on_what_has_ended_lets_others_run_now_and_then(run: Run) -> None:
    def main() -> None:
        done, other = ferrule.spawn(int), ferrule.spawn(int)
        done.join()
        other = ferrule.spawn(int)
        for _ in range(1000):
            ferrule.select([done])
        assert other.done()

    run(main)


def test_select_takes_futures_of_threads(run: Run) -> None:
    def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(time.sleep, 0.01)
            tasks: list[Task[Any] | Future[Any]] = [ferrule.spawn(forever), future]
            assert ferrule.select(tasks) == (1, future)
            with ferrule.move_on_after(0.001):
                ferrule.select([pool.submit(time.sleep, 0.02)])

    run(main)


def test_a_cancelled_select_leaves_nothing_in_a_future(run: Run) -> None:
    def main() -> None:
        future: Future[int] = Future()
        future.add_done_callback(print)
        with ferrule.move_on_after(0.001):
            ferrule.select([future])
        assert future._done_callbacks == [print]  # type: ignore[attr-defined]

    run(main)


def test_a_future_that_threads_complete_wakes_once(run: Run) -> None:
    def main() -> None:
        for _ in range(50):
            futures: list[Future[int]] = [Future() for _ in range(4)]
            threads = [threading.Thread(target=f.set_result, args=(1,)) for f in futures]
            for thread in threads:
                thread.start()
            ferrule.select(futures)
            ferrule.sleep(0)
            ferrule.wait(futures)
            for thread in threads:
                thread.join()

    run(main)


def test_select_of_nothing_is_an_error(run: Run) -> None:
    def main() -> None:
        with pytest.raises(ValueError, match="at least one task"):
            ferrule.select([])

    run(main)


def test_select_refuses_what_is_no_task(run: Run) -> None:
    def main() -> None:
        with pytest.raises(TypeError, match="takes tasks and futures, not int"):
            ferrule.select([ferrule.spawn(int), 3])  # type: ignore[list-item]
        with pytest.raises(TypeError):
            ferrule.select(ferrule.spawn(int))  # type: ignore[call-overload,arg-type]

    run(main)


def test_a_task_cannot_select_itself(run: Run) -> None:
    def main() -> None:
        other = ferrule.spawn(forever)
        with pytest.raises(RuntimeError, match="cannot wait for its own end"):
            ferrule.select([other, ferrule.current_task()])
        assert entered_waits() == 0

    run(main)


def test_select_refuses_the_tasks_of_another_runtime(run: Run) -> None:
    other: list[Task[Any]] = []
    stop = threading.Event()

    def elsewhere() -> None:
        def main() -> None:
            other.append(ferrule.spawn(forever))
            ferrule.blocking(stop.wait)

        run(main)

    def main() -> None:
        while not other:
            ferrule.sleep(0.001)
        with pytest.raises(RuntimeError, match="another runtime"):
            ferrule.select(other)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    try:
        run(main)
    finally:
        stop.set()
        thread.join()


def test_select_needs_a_runtime(run: Run) -> None:
    task = run(lambda: ferrule.spawn(int))
    with pytest.raises(RuntimeError, match=r"ferrule\.run"):
        ferrule.select([task])


def test_select_does_not_wait_inside_no_switch(run: Run) -> None:
    def main() -> None:
        task = ferrule.spawn(forever)
        with pytest.raises(RuntimeError, match="no_switch"), ferrule.no_switch():
            ferrule.select([task])

    run(main)


def test_a_deadlock_names_all_that_a_select_waits_for(run: Run) -> None:
    def main() -> None:
        me = ferrule.current_task()
        ferrule.select([ferrule.spawn(me.join, name="left"), ferrule.spawn(me.join, name="right")])

    with pytest.raises(ferrule.DeadlockError) as info:
        run(main)
    assert info.value.waiting[0].what == "the end of 1 of 2 tasks"
    assert len(info.value.cycle) == 2
