"""Executor: concurrent.futures' interface, in fibers and from OS threads; spawn_threadsafe.

With ``threads=1`` run those that depend on what runs before what.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

import ferrule
from ferrule import Executor, Runtime

Run = Callable[..., Any]


def fail(text: str = "boom") -> None:
    raise ValueError(text)


def forever() -> None:
    ferrule.Event().wait()


class Gauge:
    """How many calls run at a time, and how many have run."""

    def __init__(self) -> None:
        self.now = self.most = self.ended = 0

    def work(self, seconds: float = 0.001) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        ferrule.sleep(seconds)
        self.now -= 1
        self.ended += 1


# In a fiber, in an OS thread without a runtime, in an OS thread beside a runtime: the same tests.


def in_a_fiber(run: Run, test: Callable[[], None]) -> None:
    run(test)


def in_a_thread(run: Run, test: Callable[[], None]) -> None:
    test()


@pytest.fixture(params=[in_a_fiber, in_a_thread], ids=["fiber", "thread"])
def anywhere(request: pytest.FixtureRequest, run: Run) -> Callable[[Callable[[], None]], None]:
    return lambda test: request.param(run, test)


Anywhere = Callable[[Callable[[], None]], None]


def wait_for_all(futures: list[Any]) -> set[Any]:
    try:
        ferrule.current_runtime()
    except RuntimeError:
        return concurrent.futures.wait(futures, timeout=10).done
    return ferrule.wait(futures, timeout=10).done


def test_submit_returns_a_future_with_the_result(anywhere: Anywhere) -> None:
    def test() -> None:
        with Executor() as executor:
            future = executor.submit(divmod, 7, 3)
            assert future.result() == (2, 1)
            assert future.exception() is None
            assert executor.submit(sorted, [1, 3, 2], reverse=True).result() == [3, 2, 1]
        assert isinstance(executor, concurrent.futures.Executor)
        assert isinstance(future, concurrent.futures.Future)

    anywhere(test)


def test_calls_run_in_fibers_each_in_its_own(anywhere: Anywhere) -> None:
    def test() -> None:
        with Executor() as executor:
            tasks = [executor.submit(ferrule.current_task).result() for _ in range(3)]
        assert len({task.id for task in tasks}) == 3

    anywhere(test)


def test_what_a_call_raises_is_the_futures(anywhere: Anywhere) -> None:
    def test() -> None:
        with Executor() as executor:
            future = executor.submit(fail)
            with pytest.raises(ValueError, match="boom"):
                future.result()
            assert isinstance(future.exception(), ValueError)
            assert isinstance(executor.submit(sys.exit, 3).exception(), SystemExit)
            assert executor.submit(int).result() == 0

    anywhere(test)


def test_result_waits_and_times_out(anywhere: Anywhere) -> None:
    def test() -> None:
        begun, may_end = ferrule.Event(), ferrule.Event()
        with Executor() as executor:
            future = executor.submit(lambda: begun.set() or may_end.wait())
            for wait in (future.result, future.exception):
                with pytest.raises(TimeoutError):
                    wait(timeout=0.001)
            assert begun.wait(timeout=10)
            assert not future.done()
            assert future.running()
            may_end.set()
            assert future.result(timeout=10) is True

    anywhere(test)


def test_leaving_the_executor_waits_for_all_calls(anywhere: Anywhere) -> None:
    def test() -> None:
        gauge = Gauge()
        with Executor() as executor:
            futures = [executor.submit(gauge.work) for _ in range(20)]
        assert gauge.ended == 20
        assert all(future.done() for future in futures)

    anywhere(test)


@pytest.mark.one_thread("they stand in the order of their spawning")
def test_at_most_max_workers_calls_run_at_a_time_in_order(anywhere: Anywhere) -> None:
    def test() -> None:
        gauge, order = Gauge(), []
        with Executor(max_workers=2) as executor:
            for n in range(10):
                executor.submit(lambda n: (order.append(n), gauge.work()), n)
        assert (gauge.most, gauge.ended) == (2, 10)
        assert order == list(range(10))

    anywhere(test)


def test_without_a_limit_all_run_at_once(anywhere: Anywhere) -> None:
    def test() -> None:
        gauge = Gauge()
        with Executor() as executor:
            for _ in range(200):
                executor.submit(gauge.work, 0.05)
        assert gauge.most == 200

    anywhere(test)


def test_map_yields_results_in_order(anywhere: Anywhere) -> None:
    def test() -> None:
        with Executor(max_workers=3) as executor:
            assert list(executor.map(pow, range(5), [2] * 5)) == [0, 1, 4, 9, 16]
            with pytest.raises(ZeroDivisionError):
                list(executor.map(divmod, [1, 1], [1, 0]))
            with pytest.raises(TimeoutError):
                list(executor.map(ferrule.sleep, [0, 0.05], timeout=0.01))

    anywhere(test)


def test_a_call_can_be_cancelled_before_it_starts(anywhere: Anywhere) -> None:
    def test() -> None:
        ran = []
        with Executor(max_workers=1) as executor:
            first = executor.submit(ferrule.sleep, 0.02)
            second = executor.submit(ran.append, "second")
            third = executor.submit(ran.append, "third")
            assert second.cancel()
            assert second.cancelled()
            with pytest.raises(CancelledError):
                second.result()
            with pytest.raises(CancelledError):
                second.exception()
        assert ran == ["third"]
        assert {first, second, third} == wait_for_all([first, second, third])

    anywhere(test)


def test_a_running_call_is_cancelled_through_its_task(anywhere: Anywhere) -> None:
    def test() -> None:
        with Executor() as executor:
            future = executor.submit(forever)
            while not future.running():
                time.sleep(0) if future.task is None else None
                wait_a_little()
            assert not future.cancel()  # as in the standard library
            assert not future.cancelled()
            assert future.task is not None
            future.task.cancel()
            with pytest.raises(CancelledError):
                future.result(timeout=10)
            assert future.cancelled()
            assert future.task is None
            assert wait_for_all([future]) == {future}

    anywhere(test)


def wait_a_little() -> None:
    try:
        ferrule.sleep(0.001)
    except RuntimeError:
        time.sleep(0.001)


def test_a_cancelled_call_may_return_a_result_all_the_same(anywhere: Anywhere) -> None:
    def stubborn() -> str:
        try:
            forever()
        except ferrule.Cancelled:
            pass
        return "kept"

    def test() -> None:
        with Executor() as executor:
            future = executor.submit(stubborn)
            while future.task is None:
                wait_a_little()
            future.task.cancel()
            assert future.result() == "kept"

    anywhere(test)


def test_shutdown_takes_no_more_calls(anywhere: Anywhere) -> None:
    def test() -> None:
        executor = Executor()
        gauge = Gauge()
        executor.submit(gauge.work)
        executor.shutdown()
        assert gauge.ended == 1
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(int)
        executor.shutdown()

    anywhere(test)


def test_an_executor_that_was_never_used_can_be_shut_down(anywhere: Anywhere) -> None:
    anywhere(lambda: Executor().shutdown())


def test_shutdown_without_waiting_lets_the_calls_end(anywhere: Anywhere) -> None:
    def test() -> None:
        executor, may_end = Executor(max_workers=1), ferrule.Event()
        futures = [executor.submit(may_end.wait) for _ in range(3)]
        executor.shutdown(wait=False)
        assert not futures[0].done()
        may_end.set()
        assert wait_for_all(futures) == set(futures)
        executor.shutdown(wait=True)

    anywhere(test)


def test_shutdown_may_cancel_what_has_not_started(anywhere: Anywhere) -> None:
    def test() -> None:
        executor, may_end = Executor(max_workers=3), ferrule.Event()
        futures = [executor.submit(may_end.wait) for _ in range(30)]
        while not futures[2].running():
            wait_a_little()
        executor.shutdown(wait=False, cancel_futures=True)
        cancelled = [future for future in futures if future.cancelled()]
        assert cancelled == futures[3:]
        may_end.set()
        executor.shutdown()
        assert [future.result() for future in futures[:3]] == [True] * 3

    anywhere(test)


def test_done_callbacks_are_called(anywhere: Anywhere) -> None:
    def test() -> None:
        seen = []
        with Executor(max_workers=1) as executor:
            running = executor.submit(ferrule.sleep, 0.001)
            running.add_done_callback(seen.append)
            waiting = executor.submit(int)
            waiting.add_done_callback(seen.append)
            waiting.cancel()
        assert len(seen) == 2
        assert set(seen) == {waiting, running}

    anywhere(test)


def test_a_call_has_the_submitters_context_variables(anywhere: Anywhere) -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    def test() -> None:
        variable.set("submitter's")
        with Executor(max_workers=1) as executor:
            futures = [executor.submit(variable.get) for _ in range(2)]
            executor.submit(variable.set, "call's")
            futures.append(executor.submit(variable.get))
        assert [future.result() for future in futures] == ["submitter's"] * 3

    contextvars.copy_context().run(anywhere, test)


def test_a_call_may_submit_further_calls(anywhere: Anywhere) -> None:
    def test() -> None:
        with Executor(max_workers=2) as executor:
            def outer() -> int:
                return executor.submit(pow, 2, 5).result()

            assert executor.submit(outer).result() == 32

    anywhere(test)


def test_nothing_keeps_a_call_or_its_result_alive(anywhere: Anywhere) -> None:
    class Thing:
        def method(self) -> Thing:
            return Thing()

    def test() -> None:
        with Executor() as executor:
            thing = Thing()
            argument = weakref.ref(thing)
            future = executor.submit(thing.method)
            result = weakref.ref(future.result())
            wait_a_little()
            del thing, future
            gc.collect()
            assert argument() is None
            assert result() is None

    anywhere(test)


@pytest.mark.parametrize("workers", [0, -1])
def test_the_limit_must_be_positive(workers: int) -> None:
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        Executor(max_workers=workers)


def test_submit_refuses_what_cannot_be_called(anywhere: Anywhere) -> None:
    def test() -> None:
        with Executor() as executor, pytest.raises(TypeError, match="must be callable, not int"):
            executor.submit(3)  # type: ignore[arg-type]

    anywhere(test)


# ---- in a fiber ----


def test_in_a_fiber_the_executor_uses_its_runtime(run: Run) -> None:
    def main() -> None:
        with Executor() as executor:
            assert executor.submit(ferrule.current_runtime).result() is ferrule.current_runtime()
            assert "ferrule-executor" not in [thread.name for thread in threading.enumerate()]

    run(main)


def test_waiting_for_a_future_parks_only_the_fiber(run: Run) -> None:
    def main() -> None:
        with Executor() as executor:
            ticked = ferrule.Event()
            future = executor.submit(ticked.wait)
            other = ferrule.spawn(lambda: [ferrule.sleep(0.001), ticked.set()])
            assert future.result(timeout=10)
            other.join()

    run(main)


def test_cancelling_a_fiber_that_waits_leaves_the_call_alone(run: Run) -> None:
    def main() -> None:
        with Executor() as executor:
            future = executor.submit(lambda: (ferrule.sleep(0.02), "done")[1])
            with ferrule.move_on_after(0.001) as scope:
                future.result()
            assert scope.cancelled_caught
            assert future.result() == "done"

    run(main)


def test_a_call_cannot_wait_for_itself(run: Run) -> None:
    def main() -> None:
        with Executor() as executor:
            own: list[Any] = []
            own.append(executor.submit(lambda: own[0].result()))
            with pytest.raises(RuntimeError, match="its own end"):
                own[0].result()

    run(main, threads=1)


def test_a_negative_timeout_is_refused_in_a_fiber(run: Run) -> None:
    def main() -> None:
        with Executor() as executor, pytest.raises(ValueError, match="negative"):
            executor.submit(ferrule.sleep, 0.001).result(timeout=-1)

    run(main)


def test_calls_still_running_when_the_runtime_ends_are_cancelled(run: Run) -> None:
    def main() -> list[Any]:
        executor = Executor(max_workers=2)
        futures = [executor.submit(forever) for _ in range(5)]
        ferrule.sleep(0.001)
        return [executor, *futures]

    executor, *futures = run(main)
    assert all(future.cancelled() for future in futures)
    with pytest.raises(RuntimeError, match="the runtime has ended"):
        executor.submit(int)
    executor.shutdown()


@pytest.mark.one_thread("what was spawned has to have run by the next switch")
def test_a_call_for_which_there_is_no_fiber_fails(run: Run) -> None:
    def main() -> None:
        with Executor() as executor:
            runs, refused = executor.submit(forever), executor.submit(int)
            assert isinstance(refused.exception(), ferrule.ConcurrencyUnavailable)
            ferrule.yield_now()
            assert runs.task is not None
            runs.task.cancel()

    run(main, max_fibers=2)


def test_calls_that_wait_for_a_worker_get_its_fiber_if_there_is_no_other(run: Run) -> None:
    def main() -> None:
        with Executor(max_workers=1) as executor:
            futures = [executor.submit(lambda n=n: (ferrule.sleep(0), n)[1]) for n in range(5)]
        assert [future.result() for future in futures] == list(range(5))

    run(main, max_fibers=2)


def test_a_foreign_thread_may_use_a_fibers_executor(run: Run) -> None:
    def main() -> None:
        results: list[Any] = []
        with Executor(max_workers=4) as executor:
            def use() -> None:
                futures = [executor.submit(pow, n, 2) for n in range(50)]
                concurrent.futures.wait(futures)
                results.append([future.result() for future in futures])

            threads = [threading.Thread(target=use) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                ferrule.blocking(thread.join)
        assert results == [[n * n for n in range(50)]] * 4

    run(main)


# ---- in an OS thread ----


def test_in_a_thread_the_executor_has_its_own_runtime_from_the_first_call_on() -> None:
    executor = Executor()
    assert "ferrule-executor" not in [thread.name for thread in threading.enumerate()]
    with executor:
        assert executor.submit(threading.current_thread).result().name.startswith("ferrule-")
    assert "ferrule-executor" not in [thread.name for thread in threading.enumerate()]


def test_the_standard_librarys_functions_take_its_futures() -> None:
    with Executor() as executor:
        quick, slow = executor.submit(ferrule.sleep, 0), executor.submit(ferrule.sleep, 0.03)
        first = concurrent.futures.wait([slow, quick], return_when="FIRST_COMPLETED")
        assert first.done == {quick}
        assert list(concurrent.futures.as_completed([slow, quick])) == [quick, slow]


def test_many_threads_may_submit_at_once() -> None:
    sums: list[int] = []
    with Executor(max_workers=3) as executor:
        def use() -> None:
            sums.append(sum(executor.map(abs, range(100))))

        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sums == [4950] * 8


def test_an_executor_that_is_dropped_ends_once_its_calls_have() -> None:
    executor = Executor()
    future = executor.submit(lambda: (ferrule.sleep(0.02), "done")[1])
    del executor
    gc.collect()
    assert future.result() == "done"  # the fixture sees to it that the thread ends


def test_calls_end_before_the_interpreter_does(run_script: Callable[..., Any]) -> None:
    ended = run_script(
        "import ferrule\n"
        "executor = ferrule.Executor()\n"
        "executor.submit(lambda: (ferrule.sleep(0.05), print('done')))\n"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_a_fiber_may_use_a_threads_executor(run: Run) -> None:
    with Executor() as executor:
        def main() -> None:
            future = executor.submit(lambda: (ferrule.sleep(0.01), "there")[1])
            assert future.result() == "there"
            assert ferrule.select([future]) == (0, future)
            executor.shutdown()

        run(main)


def test_where_there_can_be_no_runtime_submit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Any:
        raise ferrule.BackendUnavailable("not here")

    executor = Executor()
    monkeypatch.setattr(Runtime, "run", refuse)
    with pytest.raises(ferrule.BackendUnavailable, match="not here"):
        executor.submit(int)


# ---- spawn_threadsafe ----


@pytest.fixture
def runtime_elsewhere(run: Run) -> Iterator[Runtime]:
    """A runtime that another thread runs, until the test ends."""
    runtime, stop = Runtime(), threading.Event()
    thread = threading.Thread(target=runtime.run, args=(lambda: ferrule.blocking(stop.wait),))
    thread.start()
    yield runtime
    stop.set()
    thread.join()


def test_any_thread_may_spawn_into_a_runtime(runtime_elsewhere: Runtime) -> None:
    def call(a: int, b: int) -> tuple[Any, int]:
        ferrule.sleep(0.001)
        return ferrule.current_runtime(), a + b

    future = runtime_elsewhere.spawn_threadsafe(call, 1, 2)
    assert future.result(timeout=10) == (runtime_elsewhere, 3)
    named = runtime_elsewhere.spawn_threadsafe(ferrule.current_task, name="from outside")
    assert named.result().name == "from outside"
    assert isinstance(runtime_elsewhere.spawn_threadsafe(fail).exception(), ValueError)


def test_a_spawned_call_can_be_cancelled_from_outside(runtime_elsewhere: Runtime) -> None:
    future = runtime_elsewhere.spawn_threadsafe(forever)
    while future.task is None:
        time.sleep(0.001)
    future.task.cancel()
    with pytest.raises(CancelledError):
        future.result(timeout=10)


def test_many_threads_may_spawn_at_once(runtime_elsewhere: Runtime) -> None:
    results: list[int] = []

    def use() -> None:
        futures = [runtime_elsewhere.spawn_threadsafe(int, n) for n in range(100)]
        results.extend(future.result() for future in futures)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(list(range(100)) * 4)


def test_a_fiber_of_the_runtime_may_spawn_so_too(run: Run) -> None:
    def main() -> None:
        assert ferrule.current_runtime().spawn_threadsafe(pow, 2, 3).result() == 8

    run(main)


def test_a_call_from_before_the_run_waits_for_it() -> None:
    runtime = Runtime()
    future = runtime.spawn_threadsafe(pow, 2, 3)
    assert runtime.run(future.result) == 8


def test_a_call_that_comes_too_late_is_refused_and_one_that_has_not_started_is_cancelled() -> None:
    runtime = Runtime()
    futures = []

    def main() -> None:
        thread = threading.Thread(
            target=lambda: futures.append(runtime.spawn_threadsafe(forever))
        )
        thread.start()
        thread.join()

    runtime.run(main)
    assert futures[0].cancelled()
    with pytest.raises(RuntimeError, match="the runtime has ended"):
        runtime.spawn_threadsafe(int)


def test_no_call_is_lost_however_the_runtime_ends() -> None:
    for _ in range(20):
        runtime = Runtime()
        futures: list[Any] = []

        def spawn_until_refused(runtime: Runtime = runtime, futures: list[Any] = futures) -> None:
            try:
                while True:
                    futures.append(runtime.spawn_threadsafe(int))
            except RuntimeError:
                pass

        thread = threading.Thread(target=spawn_until_refused)
        runtime.run(lambda thread=thread: (thread.start(), ferrule.sleep(0.002)))
        thread.join()
        assert futures
        assert concurrent.futures.wait(futures, timeout=10).not_done == set()


def test_spawn_threadsafe_refuses_what_cannot_be_called(runtime_elsewhere: Runtime) -> None:
    with pytest.raises(TypeError, match="must be callable, not int"):
        runtime_elsewhere.spawn_threadsafe(3)  # type: ignore[arg-type]


def test_a_forked_child_cannot_spawn_into_its_parents_runtime(
    run_script: Callable[..., Any],
) -> None:
    ended = run_script(
        "import os, ferrule\n"
        "def main():\n"
        "    runtime = ferrule.current_runtime()\n"
        "    if os.fork() == 0:\n"
        "        try: runtime.spawn_threadsafe(int)\n"
        "        except RuntimeError as exc: print(exc, flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
        "ferrule.run(main)\n"
    )
    assert "did not survive fork" in ended.stdout
