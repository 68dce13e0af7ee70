"""spawn_or_run: a task where there can be one, else the call itself, at once.

With ``threads=1`` run those that depend on what runs before what.
"""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
from ferrule import Cancelled, Event, TaskGroup

Run = Callable[..., Any]


class Boom(Exception):
    pass


def fail(text: str = "boom") -> None:
    raise Boom(text)


def forever() -> None:
    Event().wait()


def test_below_the_limit_it_spawns(run: Run) -> None:
    def main() -> None:
        task = ferrule.spawn_or_run(ferrule.current_task, name="own")
        assert not task.done()
        assert task.result() is task
        assert task.name == "own"

    run(main, threads=1)


def test_at_the_limit_it_runs_the_function_at_once(run: Run) -> None:
    def main() -> None:
        task = ferrule.spawn_or_run(pow, 2, 5, name="power")
        assert task.done()
        assert not task.cancelled()
        assert task.result() == 32
        assert task.exception() is None
        assert task.name == "power"
        task.cancel()
        assert task.result() == 32

    run(main, max_fibers=1)


def test_the_ended_task_counts_for_nothing(run: Run) -> None:
    def main() -> None:
        for _ in range(100):
            ferrule.spawn_or_run(ferrule.sleep, 0)
        assert ferrule.current_runtime().statistics()["live_tasks"] == 1
        with pytest.raises(ferrule.ConcurrencyUnavailable):
            ferrule.spawn(int)

    run(main, max_fibers=1)


def test_an_inline_failure_goes_to_its_task(run: Run, unraisable: list[Any]) -> None:
    def main() -> None:
        task = ferrule.spawn_or_run(fail)
        with pytest.raises(Boom) as info:
            task.result()
        assert info.value.__context__ is None
        assert isinstance(task.exception(), Boom)

    run(main, max_fibers=1)
    assert unraisable == []


def test_an_inline_failure_nobody_asks_for_is_reported(run: Run, unraisable: list[Any]) -> None:
    run(lambda: ferrule.spawn_or_run(fail, name="sad") and None, max_fibers=1)
    ((task, exc),) = unraisable
    assert (task.name, str(exc)) == ("sad", "boom")


def test_an_inline_call_handles_no_exception(run: Run) -> None:
    assert run(lambda: ferrule.spawn_or_run(sys.exc_info).result(), max_fibers=1)[0] is None


def test_an_inline_call_is_part_of_the_callers_task(run: Run) -> None:
    def main() -> None:
        me = ferrule.current_task()
        task = ferrule.spawn_or_run(ferrule.current_task)
        assert task.result() is me
        waits_for_itself = ferrule.spawn_or_run(me.join)
        assert "its own end" in str(waits_for_itself.exception())

    run(main, max_fibers=1)


def test_an_inline_call_has_its_own_context_variables(run: Run) -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    def change() -> str:
        before = variable.get()
        variable.set("inside")
        ferrule.sleep(0)
        return before + " " + variable.get()

    def main() -> None:
        variable.set("outside")
        assert ferrule.spawn_or_run(change).result() == "outside inside"
        assert variable.get() == "outside"

    run(main, max_fibers=1)


def test_an_inline_call_may_switch_and_nest(run: Run) -> None:
    def countdown(n: int) -> int:
        ferrule.sleep(0.001)
        return 0 if n == 0 else 1 + ferrule.spawn_or_run(countdown, n - 1).result()

    def main() -> None:
        ticks: list[int] = []
        other = ferrule.spawn(lambda: [ferrule.sleep(0.001) or ticks.append(n) for n in range(3)])
        assert ferrule.spawn_or_run(countdown, 5).result() == 5
        other.join()
        assert ticks == [0, 1, 2]

    run(main, max_fibers=2)


def test_a_cancellation_of_the_caller_passes_through(run: Run) -> None:
    def main() -> None:
        with ferrule.move_on_after(0.01) as scope:
            ferrule.spawn_or_run(forever)
            pytest.fail("not reached")
        assert scope.cancelled_caught

    run(main, max_fibers=1)


def test_a_cancellation_inside_stays_inside(run: Run) -> None:
    def inner() -> str:
        with ferrule.move_on_after(0.01):
            forever()
        return "went on"

    def raises_cancelled() -> None:
        raise Cancelled("by hand")

    def main() -> None:
        assert ferrule.spawn_or_run(inner).result() == "went on"
        assert ferrule.spawn_or_run(raises_cancelled).cancelled()

    run(main, max_fibers=1)


def test_an_inline_result_comes_in_spite_of_a_cancellation(run: Run) -> None:
    def main() -> None:
        with ferrule.CancelScope() as scope:
            task = ferrule.spawn_or_run(lambda: (scope.cancel(), "done")[1])
            assert task.result() == "done"

    run(main, max_fibers=1)


def test_what_ends_the_program_passes_through(run: Run) -> None:
    with pytest.raises(SystemExit):
        run(lambda: ferrule.spawn_or_run(sys.exit, 3), max_fibers=1)


def test_it_refuses_what_cannot_be_called(run: Run) -> None:
    def main() -> None:
        with pytest.raises(TypeError, match="must be callable, not int"):
            ferrule.spawn_or_run(3)  # type: ignore[arg-type]

    run(main)
    run(main, max_fibers=1)


def test_it_needs_a_runtime() -> None:
    with pytest.raises(RuntimeError, match=r"ferrule\.run"):
        ferrule.spawn_or_run(int)


def test_a_group_runs_a_member_inline(run: Run) -> None:
    def main() -> None:
        with TaskGroup() as group:
            spawned = group.spawn_or_run(ferrule.current_task)
            inline = group.spawn_or_run(ferrule.current_task, name="inline")
            assert inline.done()
        assert spawned.result() is spawned
        assert inline.result() is ferrule.current_task()
        assert inline.name == "inline"

    run(main, max_fibers=2, threads=1)


def test_an_inline_failure_cancels_the_group(run: Run, unraisable: list[Any]) -> None:
    def main() -> None:
        with pytest.raises(ExceptionGroup) as info, TaskGroup() as group:
            sibling = group.spawn(forever)
            failed = group.spawn_or_run(fail)
            assert failed.done()
            ferrule.sleep(100)
        assert [str(exc) for exc in info.value.exceptions] == ["boom"]
        assert sibling.cancelled()

    run(main, max_fibers=2)
    assert unraisable == []


def test_a_cancelled_group_reaches_its_inline_members(run: Run) -> None:
    def main() -> None:
        with TaskGroup() as group:
            group.spawn(lambda: (ferrule.sleep(0.01), group.cancel()))
            group.spawn_or_run(forever)
            pytest.fail("not reached")

    run(main, max_fibers=2)


def test_a_group_awaits_a_call_that_a_stranger_runs_inline(run: Run) -> None:
    def main() -> None:
        ended = []
        started = Event()

        def call() -> None:
            started.set()
            ferrule.sleep(0.01)
            ended.append(True)

        with TaskGroup() as group:
            stranger = ferrule.spawn(lambda: group.spawn_or_run(call))
            started.wait()
        assert ended == [True]
        stranger.join()

    run(main, max_fibers=2)
