"""What belongs to a task and must not leak to the next one on the same fiber."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ferrule

Run = Callable[..., Any]

WORD = contextvars.ContextVar("word", default="none")


def test_a_task_starts_with_a_copy_of_its_spawners_context(run: Run) -> None:
    def main() -> None:
        WORD.set("parent")

        def child() -> str:
            seen = WORD.get()
            WORD.set("child")
            ferrule.sleep(0)
            assert WORD.get() == "child"
            return seen

        task = ferrule.spawn(child)
        WORD.set("later")
        assert task.result() == "parent"
        assert WORD.get() == "later"

    run(main)


def test_the_context_around_run_is_visible_and_not_changed(run: Run) -> None:
    token = WORD.set("outside")
    try:

        def main() -> str:
            seen = WORD.get()
            WORD.set("inside")
            return seen

        assert run(main) == "outside"
        assert WORD.get() == "outside"
    finally:
        WORD.reset(token)


def test_contexts_stay_apart_over_many_switches_and_reused_fibers(run: Run) -> None:
    def main() -> None:
        def body(n: int) -> None:
            assert WORD.get() == "none"
            WORD.set(str(n))
            for _ in range(5):
                ferrule.yield_now()
                assert WORD.get() == str(n)

        for _ in range(5):
            with ferrule.TaskGroup() as group:
                for n in range(20):
                    group.spawn(body, n)
        assert WORD.get() == "none"

    run(main)


def test_a_task_may_run_things_in_contexts_of_its_own(run: Run) -> None:
    def main() -> None:
        context = contextvars.copy_context()

        def inside() -> str:
            WORD.set("inner")
            ferrule.sleep(0.001)
            return WORD.get()

        other = ferrule.spawn(lambda: (ferrule.sleep(0), WORD.get())[1])
        assert context.run(inside) == "inner"
        assert WORD.get() == "none"
        assert other.result() == "none"

    run(main)


def test_done_callbacks_do_not_see_the_tasks_context(run: Run) -> None:
    def main() -> None:
        seen = []

        def body() -> None:
            WORD.set("task")

        task = ferrule.spawn(body)
        task.add_done_callback(lambda t: seen.append(WORD.get()))
        task.join()
        assert seen == ["none"]

    run(main)


def test_a_task_spawned_in_an_except_block_handles_nothing(run: Run) -> None:
    def main() -> None:
        def child() -> None:
            assert sys.exc_info() == (None, None, None)
            with pytest.raises(RuntimeError, match="No active exception"):
                raise

        try:
            raise KeyError("parent's")
        except KeyError:
            ferrule.spawn(child).result()
            exc = ferrule.spawn(raise_value_error).exception()
            assert exc is not None
            assert exc.__context__ is None
            assert isinstance(sys.exc_info()[1], KeyError)
        assert sys.exc_info() == (None, None, None)

    run(main)


def raise_value_error() -> None:
    raise ValueError


def test_handled_exceptions_stay_with_the_fiber_that_handles_them(run: Run) -> None:
    def main() -> None:
        def body(n: int) -> None:
            try:
                raise KeyError(n)
            except KeyError:
                for _ in range(3):
                    ferrule.yield_now()
                    error = sys.exc_info()[1]
                    assert isinstance(error, KeyError)
                    assert error.args == (n,)
            assert sys.exc_info() == (None, None, None)

        with ferrule.TaskGroup() as group:
            for n in range(10):
                group.spawn(body, n)

    run(main)


def test_a_fiber_is_clean_after_a_task_that_failed(run: Run) -> None:
    def main() -> None:
        for _ in range(10):
            assert isinstance(ferrule.spawn(raise_value_error).exception(), ValueError)
            assert ferrule.spawn(sys.exc_info).result() == (None, None, None)

    run(main)


def test_the_recursion_depth_does_not_grow_with_chained_spawns(run: Run) -> None:
    def main() -> None:
        def depth_left() -> int:
            def dive(n: int) -> int:
                try:
                    return dive(n + 1)
                except RecursionError:
                    return n

            return dive(0)

        alone = ferrule.spawn(depth_left).result()

        def chain(n: int) -> int:
            if n == 0:
                return depth_left()
            return ferrule.spawn(chain, n - 1).result()

        assert chain(2000) >= alone - 5

    run(main)


def test_deep_recursion_in_a_task_is_an_ordinary_error(run: Run) -> None:
    def main() -> None:
        def dive() -> None:
            dive()

        for _ in range(3):
            assert isinstance(ferrule.spawn(dive).exception(), RecursionError)
        assert ferrule.spawn(lambda: "fine").result() == "fine"

    run(main)


def test_a_fiber_may_park_deep_in_recursion(run: Run) -> None:
    def main() -> None:
        def dive(n: int) -> int:
            if n == 0:
                ferrule.sleep(0.001)
                return 0
            return 1 + dive(n - 1)

        with ferrule.TaskGroup() as group:
            tasks = [group.spawn(dive, 500) for _ in range(20)]
        assert [task.result() for task in tasks] == [500] * 20

    run(main)


def test_a_generator_may_park_and_move_between_fibers(run: Run) -> None:
    def main() -> None:
        def numbers() -> Iterator[int]:
            for n in range(4):
                ferrule.sleep(0.001)
                yield n

        generator = numbers()
        assert next(generator) == 0
        assert ferrule.spawn(next, generator).result() == 1
        assert list(generator) == [2, 3]

    run(main)


def test_two_fibers_in_one_generator_get_the_ordinary_error(run: Run) -> None:
    def main() -> None:
        go, inside = ferrule.Event(), ferrule.Event()

        def numbers() -> Iterator[int]:
            inside.set()
            go.wait()
            yield 1

        generator = numbers()
        first = ferrule.spawn(next, generator)
        inside.wait()
        second = ferrule.spawn(next, generator)
        with pytest.raises(ValueError, match="already executing"):
            second.result()
        go.set()
        assert first.result() == 1

    run(main)


def test_tracebacks_end_at_the_tasks_function(run: Run) -> None:
    def main() -> None:
        exc = ferrule.spawn(raise_value_error).exception()
        assert exc is not None
        names = []
        tb = exc.__traceback__
        while tb is not None:
            names.append(tb.tb_frame.f_code.co_name)
            tb = tb.tb_next
        assert names[-1] == "raise_value_error"
        assert "main" not in names

    run(main)
