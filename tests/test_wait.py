"""wait and as_completed: concurrent.futures' meaning, for tasks and futures.

With ``threads=1`` run those that depend on what runs before what.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

import ferrule
from ferrule import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, Event, Task

Run = Callable[..., Any]


def forever() -> None:
    Event().wait()


def fail() -> None:
    raise ValueError("boom")


def sleepers(*seconds: float) -> list[Task[None]]:
    return [ferrule.spawn(ferrule.sleep, s) for s in seconds]


# ---- wait ----


def test_the_constants_and_the_result_are_those_of_the_standard_library(run: Run) -> None:
    assert ALL_COMPLETED is concurrent.futures.ALL_COMPLETED
    assert FIRST_COMPLETED is concurrent.futures.FIRST_COMPLETED
    assert FIRST_EXCEPTION is concurrent.futures.FIRST_EXCEPTION

    def main() -> None:
        result = ferrule.wait(sleepers(0))
        assert type(result) is type(concurrent.futures.wait([]))
        assert (len(result.done), len(result.not_done)) == (1, 0)

    run(main)


def test_wait_waits_for_all(run: Run) -> None:
    def main() -> None:
        tasks = sleepers(0.02, 0, 0.01)
        done, not_done = ferrule.wait(tasks)
        assert done == set(tasks)
        assert not_done == set()

    run(main)


def test_wait_for_the_first(run: Run) -> None:
    def main() -> None:
        tasks = sleepers(9, 0.01, 9)
        done, not_done = ferrule.wait(tasks, return_when=FIRST_COMPLETED)
        assert done == {tasks[1]}
        assert not_done == {tasks[0], tasks[2]}

    run(main)


def test_wait_for_the_first_failure(run: Run) -> None:
    def main() -> None:
        tasks = [ferrule.spawn(int), ferrule.spawn(forever), ferrule.spawn(fail)]
        done, not_done = ferrule.wait(tasks, return_when=FIRST_EXCEPTION)
        assert tasks[2] in done
        assert not_done == {tasks[1]}
        tasks[2].exception()

    run(main)


def test_a_failure_from_before_the_wait_counts(run: Run) -> None:
    def main() -> None:
        failed = ferrule.spawn(fail)
        failed.exception()
        assert ferrule.wait([ferrule.spawn(forever), failed], return_when=FIRST_EXCEPTION).done == {
            failed
        }

    run(main)


def test_a_cancelled_task_is_no_failure_but_has_ended(run: Run) -> None:
    def main() -> None:
        cancelled = ferrule.spawn(forever)
        cancelled.cancel()
        (slow,) = sleepers(0.01)
        assert ferrule.wait([cancelled, slow], return_when=FIRST_EXCEPTION).not_done == set()
        future: Future[int] = Future()
        future.cancel()
        (slow,) = sleepers(0.01)
        assert ferrule.wait([future, slow], return_when=FIRST_EXCEPTION).not_done == set()

    run(main)


def test_after_the_timeout_wait_returns_what_there_is(run: Run) -> None:
    def main() -> None:
        quick, slow = sleepers(0, 9)
        begin = ferrule.now()
        assert ferrule.wait([quick, slow], timeout=0.02) == ({quick}, {slow})
        assert ferrule.now() - begin >= 0.02
        assert ferrule.wait([slow], timeout=0) == (set(), {slow})

    run(main)


@pytest.mark.parametrize("when", [ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION])
def test_wait_for_nothing_returns_at_once(run: Run, when: str) -> None:
    assert run(ferrule.wait, [], None, when) == (set(), set())


def test_duplicates_count_once(run: Run) -> None:
    def main() -> None:
        quick, slow = sleepers(0, 0.01)
        assert ferrule.wait([quick, quick, slow, quick]) == ({quick, slow}, set())

    run(main)


def test_tasks_and_futures_of_threads_and_executors_mix(run: Run) -> None:
    def main() -> None:
        with ThreadPoolExecutor(2) as threads, ferrule.Executor() as fibers:
            mixed = [
                threads.submit(time.sleep, 0.01), fibers.submit(ferrule.sleep, 0.01),
                *sleepers(0, 0.02), threads.submit(int),
            ]
            assert ferrule.wait(mixed) == (set(mixed), set())
            assert set(ferrule.as_completed(mixed)) == set(mixed)

    run(main)


def test_a_failing_future_ends_a_wait_for_the_first_failure(run: Run) -> None:
    def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            failing = pool.submit(lambda: (time.sleep(0.01), fail()))
            (slow,) = sleepers(9)
            done, _ = ferrule.wait([slow, failing], return_when=FIRST_EXCEPTION)
            assert done == {failing}

    run(main)


def test_a_cancelled_wait_leaves_the_tasks_alone(run: Run) -> None:
    def main() -> None:
        (slow,) = sleepers(0.05)
        with ferrule.move_on_after(0.01) as scope:
            ferrule.wait([slow])
        assert scope.cancelled_caught
        assert not slow.done()
        slow.result()

    run(main)


def test_wait_is_a_cancellation_point_even_if_all_have_ended(run: Run) -> None:
    def main() -> None:
        with ferrule.CancelScope() as scope:
            scope.cancel()
            ferrule.wait([])
            pytest.fail("not reached")

    run(main)


def test_wait_checks_its_arguments(run: Run) -> None:
    def main() -> None:
        task = ferrule.spawn(forever)
        with pytest.raises(TypeError, match=r"wait\(\) takes tasks and futures, not function"):
            ferrule.wait([task, forever])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="timeout must not be negative"):
            ferrule.wait([task], timeout=-1)
        with pytest.raises(TypeError, match="timeout must be a number of seconds, not str"):
            ferrule.wait([task], timeout="1")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="invalid return condition: 'SOON'"):
            ferrule.wait([task], return_when="SOON")
        with pytest.raises(RuntimeError, match="its own end"):
            ferrule.wait([task, ferrule.current_task()])

    run(main)


def test_wait_needs_a_runtime() -> None:
    for use in (ferrule.wait, ferrule.as_completed):
        with pytest.raises(RuntimeError, match=r"ferrule\.run"):
            use([])


def test_a_loop_of_waits_ends_when_the_last_task_does(run: Run) -> None:
    def main() -> None:
        pending: set[Task[None]] = set(sleepers(*(n / 1000 for n in range(20))))
        rounds = 0
        while pending:
            done, pending = ferrule.wait(pending, return_when=FIRST_COMPLETED)
            assert done
            rounds += 1
        assert rounds <= 20

    run(main)


# ---- as_completed ----


def test_tasks_come_as_they_end(run: Run) -> None:
    def main() -> None:
        slow, quick, middle = tasks = sleepers(0.03, 0, 0.01)
        assert list(ferrule.as_completed(tasks)) == [quick, middle, slow]

    run(main)


def test_those_that_have_ended_come_first_and_duplicates_once(run: Run) -> None:
    def main() -> None:
        slow, quick = sleepers(0.01, 0)
        quick.join()
        assert list(ferrule.as_completed([slow, quick, slow, quick])) == [quick, slow]

    run(main)


def test_as_completed_of_nothing_is_empty(run: Run) -> None:
    assert run(lambda: list(ferrule.as_completed([]))) == []


def test_as_completed_raises_when_the_time_since_the_call_is_up(run: Run) -> None:
    def main() -> None:
        quick, slow = sleepers(0, 9)
        iterator = ferrule.as_completed([quick, slow], timeout=0.02)
        ferrule.sleep(0.03)
        assert next(iterator) is quick
        with pytest.raises(TimeoutError, match=r"1 \(of 2\) tasks"):
            next(iterator)

    run(main)


def test_as_completed_checks_at_the_call(run: Run) -> None:
    def main() -> None:
        with pytest.raises(TypeError, match="takes tasks and futures, not int"):
            ferrule.as_completed([1])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="timeout must not be negative"):
            ferrule.as_completed([], timeout=-1)
        with pytest.raises(RuntimeError, match="its own end"):
            next(ferrule.as_completed([ferrule.current_task()]))

    run(main)


def test_a_cancellation_ends_a_step_and_the_iterator(run: Run) -> None:
    def main() -> None:
        task = ferrule.spawn(forever)
        iterator = ferrule.as_completed([task])
        with ferrule.move_on_after(0.01) as scope:
            next(iterator)
        assert scope.cancelled_caught
        assert list(iterator) == []

    run(main)


def test_an_abandoned_iteration_leaves_nothing_behind(run: Run) -> None:
    def main() -> None:
        future: Future[int] = Future()
        quick, slow = sleepers(0, 9)
        iterator = ferrule.as_completed([quick, slow, future])
        assert next(iterator) is quick
        iterator.close()  # type: ignore[attr-defined]
        assert future._done_callbacks == []  # type: ignore[attr-defined]
        gc.collect()
        assert not any(type(thing).__name__ == "Completions" for thing in gc.get_objects())

    run(main)


def test_a_task_that_was_handed_out_is_not_kept(run: Run) -> None:
    def main() -> None:
        iterator = ferrule.as_completed([ferrule.spawn(int) for _ in range(3)])
        reference = weakref.ref(next(iterator))
        assert reference() is None
        assert len(list(iterator)) == 2

    run(main, threads=1)


def test_as_completed_over_many_tasks_takes_linear_time(run: Run) -> None:
    def seconds(count: int) -> float:
        tasks = [ferrule.spawn(ferrule.sleep, 0) for _ in range(count)]
        begin = time.perf_counter()
        assert sum(1 for _ in ferrule.as_completed(tasks)) == count
        return time.perf_counter() - begin

    def main() -> None:
        seconds(16_000)  # makes the fibers
        assert seconds(16_000) < 8 * 5 * min(seconds(2000) for _ in range(3))

    run(main, threads=1)


def test_an_iteration_may_go_on_in_another_fiber(run: Run) -> None:
    def main() -> None:
        iterator = ferrule.as_completed(sleepers(0, 0.01))
        next(iterator)
        ferrule.spawn(next, iterator).result()
        with contextlib.suppress(StopIteration):
            next(iterator)
            pytest.fail("there were but two")

    run(main)
