"""Tasks: results, failures, waiting for their end, done callbacks, limits."""

from __future__ import annotations

import concurrent.futures
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
from net_support import settle

Run = Callable[..., Any]


class Boom(Exception):
    pass


def fail() -> None:
    raise Boom("boom")


def test_run_returns_what_main_returns_and_passes_arguments(run: Run) -> None:
    assert run(lambda a, b: a + b, 1, 2) == 3


def test_run_raises_what_main_raises(run: Run) -> None:
    with pytest.raises(Boom, match="boom"):
        run(fail)


def test_result_returns_the_functions_value(run: Run) -> None:
    assert run(lambda: ferrule.spawn(pow, 2, 10).result()) == 1024


def test_result_can_be_asked_for_again(run: Run) -> None:
    def main() -> None:
        task = ferrule.spawn(lambda: "once")
        assert [task.result(), task.result()] == ["once", "once"]

    run(main)


def test_result_raises_what_the_function_raised_every_time(run: Run) -> None:
    def main() -> None:
        task = ferrule.spawn(fail)
        for _ in range(2):
            with pytest.raises(Boom):
                task.result()

    run(main)


def test_exception_returns_the_failure_or_none(run: Run) -> None:
    def main() -> None:
        assert isinstance(ferrule.spawn(fail).exception(), Boom)
        assert ferrule.spawn(int).exception() is None

    run(main)


def test_result_of_a_cancelled_task_is_an_ordinary_cancelled_error(run: Run) -> None:
    def main() -> None:
        task = ferrule.spawn(ferrule.sleep, 100)
        task.cancel()
        with pytest.raises(concurrent.futures.CancelledError) as info:
            task.result()
        assert isinstance(info.value, Exception)  # not mistaken for the caller's own
        with pytest.raises(concurrent.futures.CancelledError):
            task.exception()
        assert task.cancelled()

    run(main)


def test_join_waits_without_raising_the_failure(run: Run) -> None:
    def main() -> None:
        task = ferrule.spawn(fail)
        task.join()
        assert task.done()
        assert not task.cancelled()
        task.exception()

    run(main)


@pytest.mark.parametrize("wait", ["join", "result", "exception"])
def test_a_timeout_raises_and_leaves_the_task_alone(run: Run, wait: str) -> None:
    def main() -> None:
        go = ferrule.Event()
        task = ferrule.spawn(lambda: go.wait() and "done")
        with pytest.raises(TimeoutError, match="slow"):
            task.name = "slow"
            getattr(task, wait)(timeout=0.01)
        assert not task.done()
        go.set()
        assert task.result() == "done"

    run(main)


def test_many_tasks_may_wait_for_one(run: Run) -> None:
    def main() -> None:
        go = ferrule.Event()
        task = ferrule.spawn(lambda: go.wait() and 7)
        waiters = [ferrule.spawn(task.result) for _ in range(10)]
        settle()
        for waiter in waiters[::3]:
            waiter.cancel()
        settle()
        go.set()
        assert [w.result() for i, w in enumerate(waiters) if i % 3] == [7] * 6
        assert all(waiters[i].cancelled() for i in range(0, 10, 3))

    run(main)


def test_a_cancelled_join_leaves_the_target_alone(run: Run) -> None:
    def main() -> None:
        go = ferrule.Event()
        target = ferrule.spawn(lambda: go.wait() and "fine")
        with ferrule.move_on_after(0.01) as scope:
            target.join()
        assert scope.cancelled_caught
        assert not target.done()
        go.set()
        assert target.result() == "fine"

    run(main)


def test_a_task_cannot_wait_for_itself(run: Run) -> None:
    def main() -> None:
        with pytest.raises(RuntimeError, match="its own end"):
            ferrule.current_task().join()

    run(main)


def test_result_of_a_finished_task_works_after_the_run(run: Run) -> None:
    def main() -> Any:
        tasks = [ferrule.spawn(lambda: 5), ferrule.spawn(ferrule.sleep, 100)]
        ferrule.sleep(0)
        return tasks

    finished, cancelled = run(main)
    assert finished.result() == 5
    assert cancelled.cancelled()
    assert cancelled.done()


def test_current_task_names_and_reprs(run: Run) -> None:
    def main() -> None:
        task = ferrule.spawn(ferrule.current_task, name="carol")
        assert task.name == "carol"
        assert "carol" in repr(task)
        assert "new" in repr(task)
        assert task.result() is task
        assert "done" in repr(task)
        assert ferrule.current_task().name == "main"
        unnamed = ferrule.spawn(int)
        assert unnamed.name.startswith("task-")

    run(main)


def test_tasks_still_running_when_main_returns_are_cancelled_and_awaited(run: Run) -> None:
    ended = []

    def straggler() -> None:
        try:
            ferrule.sleep(100)
        finally:
            with ferrule.shield():
                ferrule.sleep(0.01)
            ended.append(ferrule.current_task().name)

    def main() -> str:
        ferrule.spawn(straggler, name="straggler")
        ferrule.sleep(0)
        return "result"

    assert run(main) == "result"
    assert ended == ["straggler"]


def test_a_task_spawned_last_starts_with_a_pending_cancellation(run: Run) -> None:
    seen: list[Any] = []

    def late() -> None:
        seen.append(ferrule.cancel_requested())
        ferrule.sleep(0)
        seen.append("not reached")

    run(lambda: [ferrule.spawn(late)])
    assert seen == [True]


def test_done_callbacks_get_the_task_once_it_is_done(run: Run) -> None:
    seen = []

    def main() -> None:
        task = ferrule.spawn(lambda: 3)
        task.add_done_callback(lambda t: seen.append((t is task, t.done(), t.result())))
        task.join()
        assert seen == [(True, True, 3)]
        task.add_done_callback(lambda t: seen.append("at once"))
        assert seen[1:] == ["at once"]

    run(main)


def test_a_done_callback_that_fails_is_reported_and_harms_nobody(
    run: Run, unraisable: list[Any]
) -> None:
    def bad(task: Any) -> None:
        raise Boom("callback")

    def main() -> None:
        task = ferrule.spawn(lambda: 3)
        after = []
        task.add_done_callback(bad)
        task.add_done_callback(lambda t: after.append(1))
        assert task.result() == 3
        assert after == [1]

    run(main)
    assert [str(exc) for _, exc in unraisable] == ["callback"]


def test_a_done_callback_must_not_block(run: Run, unraisable: list[Any]) -> None:
    def main() -> None:
        task = ferrule.spawn(int)
        task.add_done_callback(lambda t: ferrule.sleep(0))
        task.join()
        task.add_done_callback(lambda t: ferrule.sleep(0))

    run(main)
    assert [type(exc) for _, exc in unraisable] == [RuntimeError, RuntimeError]


def test_a_done_callback_may_spawn(run: Run) -> None:
    ran = []

    def main() -> None:
        first = ferrule.spawn(int)
        first.add_done_callback(lambda t: ferrule.spawn(ran.append, 1))

    run(main)
    assert ran == [1]


def test_max_fibers_counts_tasks_that_have_not_ended(run: Run) -> None:
    def main() -> None:
        tasks = [ferrule.spawn(ferrule.sleep, 100) for _ in range(2)]
        with pytest.raises(ferrule.ConcurrencyUnavailable, match="max_fibers=3"):
            ferrule.spawn(int)
        tasks[0].cancel()
        tasks[0].join()
        ferrule.spawn(int).result()

    run(main, max_fibers=3)


@pytest.mark.one_thread("the other thread lets go of a task when it comes to it")
def test_an_exception_nobody_asks_for_is_reported_with_the_tasks_name(
    run: Run, unraisable: list[Any]
) -> None:
    def main() -> None:
        ferrule.spawn(fail, name="lonely")
        ferrule.sleep(0)
        gc.collect()
        assert [(task.name, str(exc)) for task, exc in unraisable] == [("lonely", "boom")]

    run(main)
    assert len(unraisable) == 1


def test_an_exception_of_a_task_still_held_is_reported_when_the_run_ends(
    run: Run, unraisable: list[Any]
) -> None:
    held = []

    def main() -> None:
        held.append(ferrule.spawn(fail))
        ferrule.sleep(0)
        assert not unraisable  # somebody may still ask

    run(main)
    assert [task for task, _ in unraisable] == held
    assert unraisable[0][1].__traceback__ is not None


def test_an_exception_somebody_asked_for_is_not_reported(run: Run, unraisable: list[Any]) -> None:
    def main() -> None:
        tasks = [ferrule.spawn(fail) for _ in range(200)]
        for task in tasks:
            assert isinstance(task.exception(), Boom)

    run(main)
    gc.collect()
    assert unraisable == []


@pytest.mark.one_thread("the other thread lets go of a task when it comes to it")
def test_finished_tasks_and_their_results_are_freed_without_the_collector(run: Run) -> None:
    class Thing:
        pass

    def main() -> None:
        gc.disable()
        try:
            task = ferrule.spawn(Thing)
            refs = [weakref.ref(task.result()), weakref.ref(task)]
            del task
            ferrule.sleep(0)
            assert [ref() for ref in refs] == [None, None]
        finally:
            gc.enable()

    run(main)


def test_system_exit_in_a_task_ends_the_run(run: Run) -> None:
    cleaned = []

    def main() -> None:
        ferrule.spawn(exit_now)
        try:
            ferrule.sleep(100)
        finally:
            cleaned.append(True)

    def exit_now() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit) as info:
        run(main)
    assert info.value.code == 3
    assert cleaned == [True]


def test_spawn_outside_a_run_names_the_remedy() -> None:
    with pytest.raises(RuntimeError, match=r"ferrule\.run"):
        ferrule.spawn(int)


def test_spawn_refuses_what_cannot_be_called(run: Run) -> None:
    def main() -> None:
        with pytest.raises(TypeError, match="callable"):
            ferrule.spawn(3)  # type: ignore[call-overload]
        before = ferrule.current_runtime().statistics()["live_tasks"]
        assert before == 1

    run(main)


def test_tasks_are_made_by_spawn_only() -> None:
    with pytest.raises(TypeError, match="spawn"):
        ferrule.Task()


def test_a_task_is_no_scope_to_the_outside(run: Run) -> None:
    def main() -> None:
        task = ferrule.current_task()
        with pytest.raises(TypeError, match="TaskGroup"), task:  # type: ignore[attr-defined]
            pass
        with pytest.raises(AttributeError, match="move_on_after"):
            _ = task.deadline  # type: ignore[attr-defined]
        with pytest.raises(AttributeError):
            task.shield = True  # type: ignore[attr-defined]

    run(main)


def test_a_task_of_another_runtime_cannot_be_waited_for(run: Run) -> None:
    def main() -> None:
        foreign: list[Any] = []
        ready, over = threading.Event(), ferrule.Event()

        def elsewhere() -> None:
            def body() -> None:
                done = ferrule.Event()
                foreign.extend([ferrule.spawn(done.wait), done])
                ready.set()
                done.wait()

            ferrule.run(body)
            over.set()

        thread = threading.Thread(target=elsewhere)
        thread.start()
        ferrule.blocking(ready.wait)
        with pytest.raises(RuntimeError, match="another runtime"):
            foreign[0].join()
        foreign[1].set()
        over.wait()
        thread.join()

    run(main)
