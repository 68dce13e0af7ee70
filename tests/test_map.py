"""map: a function over an iterable, some calls at a time.

With ``threads=1`` run those that depend on what runs before what.
"""

from __future__ import annotations

import contextlib
import gc
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ferrule
from ferrule import Event

Run = Callable[..., Any]


def forever(_: Any = None) -> None:
    Event().wait()


class Source:
    """Numbers, and how many were taken."""

    def __init__(self, count: int = 1_000_000) -> None:
        self.taken = 0
        self.count = count

    def __iter__(self) -> Iterator[int]:
        for n in range(self.count):
            self.taken += 1
            yield n


class Calls:
    """What calls of `work` saw."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.started: list[Any] = []
        self.cancelled: list[Any] = []

    def work(self, item: Any) -> Any:
        self.started.append(item)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            ferrule.sleep(0.001)
            return item
        except ferrule.Cancelled:
            self.cancelled.append(item)
            raise
        finally:
            self.now -= 1


def live_tasks() -> int:
    count: int = ferrule.current_runtime().statistics()["live_tasks"]
    return count


def test_results_come_in_the_order_of_the_items(run: Run) -> None:
    def main() -> None:
        def work(n: int) -> int:
            ferrule.sleep(0.01 - n / 1000)
            return n * n

        assert list(ferrule.map(work, range(10))) == [n * n for n in range(10)]

    run(main)


def test_unordered_results_come_as_they_are_ready(run: Run) -> None:
    def main() -> None:
        def work(seconds: float) -> float:
            ferrule.sleep(seconds)
            return seconds

        delays = [0.03, 0.0, 0.01]
        assert list(ferrule.map(work, delays, ordered=False)) == [0.0, 0.01, 0.03]

    run(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_every_item_has_one_result(run: Run, ordered: bool) -> None:
    def main() -> None:
        results = list(ferrule.map(Calls().work, range(300), max_concurrency=7, ordered=ordered))
        assert sorted(results) == list(range(300))

    run(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_no_more_calls_run_at_a_time_than_asked(run: Run, ordered: bool) -> None:
    def main() -> None:
        calls = Calls()
        for _ in ferrule.map(calls.work, range(50), max_concurrency=4, ordered=ordered):
            assert calls.now <= 4
        assert calls.most == 4

    run(main)


def test_the_default_is_a_hundred_at_a_time(run: Run) -> None:
    def main() -> None:
        calls = Calls()
        assert len(list(ferrule.map(calls.work, range(1000)))) == 1000
        assert calls.most == 100

    run(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_it_runs_no_further_ahead_of_its_consumer(run: Run, ordered: bool) -> None:
    def main() -> None:
        source = Source()
        results = ferrule.map(abs, source, max_concurrency=5, ordered=ordered)
        assert source.taken == 0  # lazy
        for taken in range(1, 20):
            next(results)
            ferrule.sleep(0.001)
            assert taken <= source.taken <= taken + 5
        results.close()

    run(main)


def test_the_window_is_kept_full_while_results_are_ready(run: Run) -> None:
    def main() -> None:
        calls = Calls()
        results = ferrule.map(calls.work, range(100), max_concurrency=10)
        next(results)
        for taken in range(1, 50):
            ferrule.sleep(0.002)  # all that run end
            next(results)
            assert len(calls.started) >= taken + 8
        results.close()

    run(main, threads=1)


def test_the_iterable_may_block(run: Run) -> None:
    def main() -> None:
        queue: ferrule.Queue[int | None] = ferrule.Queue()

        def feed() -> None:
            for n in range(5):
                ferrule.sleep(0.001)
                queue.put(n)
            queue.put(None)

        ferrule.spawn(feed)
        assert list(ferrule.map(str, iter(queue.get, None))) == ["0", "1", "2", "3", "4"]

    run(main)


def test_a_result_need_not_wait_for_more_than_one_further_item(run: Run) -> None:
    def main() -> None:
        queue: ferrule.Queue[int] = ferrule.Queue()
        results = ferrule.map(abs, iter(queue.get, None), max_concurrency=50)
        queue.put(1)
        ferrule.spawn(lambda: (ferrule.sleep(0.001), queue.put(2)))
        assert next(results) == 1
        results.close()

    run(main, threads=1)


@pytest.mark.one_thread("what was spawned has to have run by the next switch")
@pytest.mark.parametrize("ordered", [True, False])
def test_the_first_failure_cancels_the_rest_and_is_raised(run: Run, ordered: bool) -> None:
    def main() -> None:
        ended = []

        def work(n: int) -> int:
            if n == 3:
                ferrule.sleep(0.001)
                raise ValueError("three")
            if n < 3:
                return n
            try:
                forever()
            finally:
                ended.append(n)

        results = ferrule.map(work, range(10), ordered=ordered)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="three"):
            next(results)
        assert sorted(ended) == [4, 5, 6, 7, 8, 9]
        assert live_tasks() == 1
        assert list(results) == []

    run(main)


def test_in_order_results_before_a_failure_come_first(run: Run) -> None:
    def main() -> None:
        def work(n: int) -> int:
            if n == 2:
                raise ValueError("two")
            ferrule.sleep(0.01)
            return n

        results = ferrule.map(work, range(3))
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="two"):
            next(results)

    run(main)


def test_further_failures_are_dropped(run: Run, unraisable: list[Any]) -> None:
    def main() -> None:
        with pytest.raises(ZeroDivisionError):
            list(ferrule.map(lambda n: n / 0, range(5)))

    run(main)
    assert unraisable == []


def test_a_failing_iterable_is_raised_after_the_results_before(run: Run) -> None:
    def main() -> None:
        def source() -> Iterator[int]:
            yield from range(3)
            raise OSError("no more")

        results = ferrule.map(abs, source())
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(OSError, match="no more"):
            next(results)
        assert list(results) == []

    run(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_closing_early_cancels_and_awaits(run: Run, ordered: bool) -> None:
    def main() -> None:
        ended = []

        def work(n: int) -> int:
            try:
                return n if n == 0 else forever()  # type: ignore[return-value]
            finally:
                if n:
                    with ferrule.shield():
                        ferrule.sleep(0.005)
                    ended.append(n)

        with contextlib.closing(
            ferrule.map(work, range(50), max_concurrency=5, ordered=ordered)
        ) as results:
            assert next(results) == 0
        assert sorted(ended) == [1, 2, 3, 4]
        assert live_tasks() == 1
        results.close()
        assert list(results) == []

    run(main, threads=1)


def test_closing_before_the_first_step_takes_no_item(run: Run) -> None:
    def main() -> None:
        source = Source()
        ferrule.map(abs, source).close()
        assert source.taken == 0

    run(main)


def test_closing_in_a_cancelled_scope_awaits_all_the_same(run: Run) -> None:
    def main() -> None:
        calls = Calls()
        with ferrule.CancelScope() as scope:
            results = ferrule.map(calls.work, range(9), max_concurrency=3)
            next(results)
            scope.cancel()
            results.close()
            assert live_tasks() == 1

    run(main)


def test_dropping_it_cancels_what_runs(run: Run, unraisable: list[Any]) -> None:
    def main() -> None:
        for _ in ferrule.map(lambda n: n and forever(), range(10)):
            break
        gc.collect()
        ferrule.sleep(0.001)
        assert live_tasks() == 1

    run(main)
    assert unraisable == []


def test_a_cancellation_of_the_consumer_cancels_and_awaits(run: Run) -> None:
    def main() -> None:
        calls = Calls()
        with ferrule.move_on_after(0.02) as scope:
            for _ in ferrule.map(lambda n: (calls.work(n), forever()), range(5)):
                pytest.fail("there is no result")
        assert scope.cancelled_caught
        assert live_tasks() == 1

    run(main)


def test_a_cancellation_in_the_iterable_is_the_consumers(run: Run) -> None:
    def main() -> None:
        def source() -> Iterator[int]:
            yield 1
            forever()

        with ferrule.move_on_after(0.01) as scope:
            list(ferrule.map(forever, source()))
        assert scope.cancelled_caught
        assert live_tasks() == 1

    run(main)


def test_one_fiber_at_a_time_takes_results(run: Run) -> None:
    def main() -> None:
        results = ferrule.map(forever, range(3))
        taker = ferrule.spawn(next, results)
        ferrule.sleep(0.001)
        with pytest.raises(ValueError, match="another fiber"):
            next(results)
        with pytest.raises(ValueError, match="a fiber is taking"):
            results.close()
        taker.cancel()
        taker.join()
        assert list(results) == []

    run(main)


def test_where_there_is_no_further_fiber_calls_run_in_the_consumers(run: Run) -> None:
    def main() -> None:
        assert list(ferrule.map(Calls().work, range(10))) == list(range(10))

    run(main, max_fibers=1)


def test_calls_are_tasks_with_the_consumers_context(run: Run) -> None:
    def main() -> None:
        tasks = list(ferrule.map(lambda _: ferrule.current_task().id, range(5)))
        assert len(set(tasks)) == 5

    run(main)


def test_a_long_iteration_needs_no_memory(run: Run) -> None:
    def main() -> None:
        peaks = []
        results = ferrule.map(abs, range(30_000), max_concurrency=50)
        for _ in range(3):
            tracemalloc.reset_peak()
            for _ in range(10_000):
                next(results)
            peaks.append(tracemalloc.get_traced_memory()[1])
        assert peaks[2] < peaks[0] + 100_000

    tracemalloc.start()
    try:
        run(main)
    finally:
        tracemalloc.stop()


def test_map_checks_its_arguments_at_the_call(run: Run) -> None:
    def main() -> None:
        with pytest.raises(TypeError, match="must be callable, not int"):
            ferrule.map(3, [])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="not iterable"):
            ferrule.map(abs, 3)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="max_concurrency must be at least 1, not 0"):
            ferrule.map(abs, [], max_concurrency=0)

    run(main)


def test_map_needs_a_runtime() -> None:
    with pytest.raises(RuntimeError, match=r"ferrule\.run"):
        ferrule.map(abs, [])


def test_results_may_be_closed_after_the_run(run: Run) -> None:
    def main() -> Any:
        results = ferrule.map(lambda n: n and forever(), range(3))
        next(results)
        return results

    results = run(main)
    results.close()
