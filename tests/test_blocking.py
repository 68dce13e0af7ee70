"""ferrule.blocking, the worker threads under it, and the wake-up they use."""

from __future__ import annotations

import contextvars
import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
from ferrule._core.sync import Waiter
from ferrule.workers import WorkerThreads, worker_threads

Run = Callable[..., Any]

LANGUAGE = contextvars.ContextVar("language", default="none")


def test_blocking_returns_the_result(run: Run) -> None:
    assert run(ferrule.blocking, pow, 2, 10) == 1024


def test_blocking_passes_exceptions_through(run: Run) -> None:
    def main() -> None:
        with pytest.raises(ZeroDivisionError) as info:
            ferrule.blocking(divmod, 1, 0)
        assert info.value.__traceback__ is not None
        with pytest.raises(SystemExit):
            ferrule.blocking(raise_system_exit)

    run(main)


def raise_system_exit() -> None:
    raise SystemExit(1)


def test_blocking_runs_on_another_thread_and_parks_only_its_fiber(run: Run) -> None:
    def main() -> None:
        here = threading.get_ident()
        release = threading.Event()
        call = ferrule.spawn(ferrule.blocking, lambda: release.wait(10) and threading.get_ident())
        ferrule.sleep(0.01)
        assert not call.done()
        release.set()
        assert call.result() != here

    run(main)


def test_several_calls_block_at_once(run: Run) -> None:
    def main() -> None:
        barrier = threading.Barrier(10)
        with ferrule.TaskGroup() as group:
            for _ in range(10):
                group.spawn(ferrule.blocking, barrier.wait, 10)

    run(main)


def test_the_callers_context_variables_are_visible_as_a_copy(run: Run) -> None:
    def main() -> None:
        LANGUAGE.set("python")

        def elsewhere() -> str:
            before = LANGUAGE.get()
            LANGUAGE.set("other")
            return before

        assert ferrule.blocking(elsewhere) == "python"
        assert LANGUAGE.get() == "python"

    run(main)


def test_a_cancelled_caller_still_awaits_the_call_and_gets_its_result(run: Run) -> None:
    def main() -> None:
        release = threading.Event()
        got = []

        def body() -> None:
            got.append(ferrule.blocking(lambda: release.wait(10) and "result"))
            ferrule.checkpoint()
            got.append("not reached")

        task = ferrule.spawn(body)
        ferrule.sleep(0.01)
        task.cancel()
        ferrule.sleep(0.01)
        assert not task.done()
        release.set()
        task.join()
        assert got == ["result"]
        assert task.cancelled()

    run(main)


def test_a_caller_that_is_cancelled_already_does_not_start_the_call(run: Run) -> None:
    def main() -> None:
        called = []
        with ferrule.CancelScope() as scope:
            scope.cancel()
            ferrule.blocking(called.append, 1)
        assert scope.cancelled_caught
        assert called == []

    run(main)


def test_blocking_is_refused_inside_no_switch_before_it_starts(run: Run) -> None:
    def main() -> None:
        called = []
        with pytest.raises(RuntimeError, match="no_switch"), ferrule.no_switch():
            ferrule.blocking(called.append, 1)
        assert called == []

    run(main)


def test_blocking_needs_a_runtime() -> None:
    with pytest.raises(RuntimeError, match=r"ferrule\.run"):
        ferrule.blocking(int)


def test_a_blocking_call_in_flight_is_no_deadlock(run: Run) -> None:
    def main() -> None:
        event = ferrule.Event()

        def elsewhere() -> None:
            time.sleep(0.05)
            event.set()

        ferrule.spawn(ferrule.blocking, elsewhere)
        assert event.wait()

    run(main)


def test_an_idle_worker_does_not_hide_a_deadlock(run: Run) -> None:
    def main() -> None:
        ferrule.blocking(int)
        ferrule.Event().wait()

    with pytest.raises(ferrule.DeadlockError):
        run(main)


def test_more_calls_than_threads_wait_their_turn(run: Run) -> None:
    def main() -> None:
        pool = WorkerThreads("few", 2)
        running, most = 0, 0
        lock = threading.Lock()

        def job() -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.002)
            with lock:
                running -= 1

        try:
            with ferrule.TaskGroup() as group:
                for _ in range(20):
                    group.spawn(pool.call, job)
        finally:
            pool.close()
        assert most == 2

    run(main)


def test_workers_are_reused(run: Run) -> None:
    def main() -> None:
        idents = {ferrule.blocking(threading.get_ident) for _ in range(20)}
        assert len(idents) == 1

    run(main)


def test_idle_workers_end_by_themselves(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ferrule.workers.IDLE_SECONDS", 0.01)

    def main() -> None:
        thread = ferrule.blocking(threading.current_thread)
        with ferrule.fail_after(10):
            while thread.is_alive():
                ferrule.sleep(0.01)
        assert ferrule.blocking(lambda: "again") == "again"

    run(main)


def test_the_end_of_the_run_ends_its_workers(run: Run) -> None:
    thread = run(ferrule.blocking, threading.current_thread)
    assert not thread.is_alive()
    assert thread.daemon


def test_each_name_has_a_pool_of_its_own(run: Run) -> None:
    def main() -> None:
        names, other = worker_threads("names", 4), worker_threads("other", 4)
        assert names is not other
        assert names is worker_threads("names", 4)
        assert "names" in names.call(lambda: threading.current_thread().name)

    run(main)


def test_a_thread_that_cannot_start_is_an_error_and_not_a_hang(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            with pytest.raises(RuntimeError, match="start new thread"):
                ferrule.blocking(int)
        assert ferrule.blocking(int) == 0

    run(main)


def test_results_and_exceptions_are_not_kept_alive(run: Run) -> None:
    class Thing:
        pass

    class Failure(Exception):
        pass

    def fail() -> None:
        raise Failure

    def main() -> None:
        gc.disable()
        try:
            result = weakref.ref(ferrule.blocking(Thing))
            assert result() is None
            try:
                ferrule.blocking(fail)
            except Failure as exc:
                failure = weakref.ref(exc)
            # The worker may still be on its way out of the job.
            with ferrule.fail_after(5):
                while failure() is not None:
                    ferrule.sleep(0.001)
        finally:
            gc.enable()

    run(main)


def test_a_fiber_function_called_in_a_worker_says_that_it_needs_a_runtime(run: Run) -> None:
    def main() -> None:
        with pytest.raises(RuntimeError, match=r"ferrule\.run"):
            ferrule.blocking(ferrule.sleep, 0)

    run(main)


# ---- Waiter ----


def test_a_wake_before_the_wait_is_remembered(run: Run) -> None:
    def main() -> None:
        waiter = Waiter()
        assert waiter.wake("early")
        assert waiter.wait() == "early"

    run(main)


def test_only_the_first_wake_counts(run: Run) -> None:
    def main() -> None:
        waiter = Waiter()
        task = ferrule.spawn(lambda: (waiter.wake(1), waiter.wake(2)))
        assert waiter.wait() == 1
        assert task.result() == (True, False)

    run(main)


def test_a_wait_can_time_out_and_a_late_wake_harms_nobody(run: Run) -> None:
    def main() -> None:
        waiter = Waiter("the oracle")
        with pytest.raises(TimeoutError, match="the oracle"):
            waiter.wait(timeout=0.01)
        sleeper = ferrule.spawn(ferrule.sleep, 0.02)
        begin = time.monotonic()
        ferrule.blocking(waiter.wake, "late")
        sleeper.result()
        assert time.monotonic() - begin >= 0.015

    run(main)


def test_a_cancellable_wait_is_cancelled_and_an_uncancellable_one_is_not(run: Run) -> None:
    def main() -> None:
        waiter = Waiter()
        with ferrule.move_on_after(0.01) as scope:
            waiter.wait()
        assert scope.cancelled_caught
        threading.Timer(0.03, waiter.wake, ["value"]).start()
        with ferrule.move_on_after(0.01) as scope:
            assert waiter.wait(cancellable=False) == "value"
        assert scope.cancel_called
        assert not scope.cancelled_caught

    run(main)


def test_wakes_from_threads_race_with_cancellations(run: Run) -> None:
    def main() -> None:
        woken = cancelled = 0
        for n in range(300):
            waiter = Waiter()
            with ferrule.CancelScope() as scope:
                ferrule.spawn(scope.cancel)
                thread = threading.Thread(target=waiter.wake, args=(n,))
                thread.start()
                if n % 3:
                    thread.join()
                assert waiter.wait() == n
                woken += 1
            thread.join()
            cancelled += scope.cancelled_caught
        assert woken + cancelled == 300
        assert woken

    run(main)
