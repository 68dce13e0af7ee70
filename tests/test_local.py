"""local: attributes that each task has for itself, as threading.local for threads."""

from __future__ import annotations

import contextvars
import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import ferrule

Run = Callable[..., Any]


class Thing:
    """Something a weak reference can follow."""


def test_each_task_has_its_own_attributes(run: Run) -> None:
    def main() -> None:
        mine = ferrule.local()
        mine.x = "main"

        def task(n: int) -> list[int]:
            assert not hasattr(mine, "x")
            mine.x = n
            ferrule.sleep(0.001)
            found = [mine.x]
            del mine.x
            with pytest.raises(AttributeError, match="local' object has no attribute 'x'"):
                mine.x  # noqa: B018
            with pytest.raises(AttributeError, match="local' object has no attribute 'x'"):
                del mine.x
            return found

        tasks = [ferrule.spawn(task, n) for n in range(10)]
        assert [task.result() for task in tasks] == [[n] for n in range(10)]
        assert mine.x == "main"

    run(main)


def test_tasks_on_the_same_fiber_share_nothing(run: Run) -> None:
    def main() -> None:
        mine = ferrule.local()

        def task() -> bool:
            found = hasattr(mine, "x")
            mine.x = 1
            return found

        assert [ferrule.spawn(task).result() for _ in range(5)] == [False] * 5

    run(main)


def test_the_dict_is_the_running_tasks(run: Run) -> None:
    def main() -> None:
        mine = ferrule.local()
        mine.x = 1
        assert mine.__dict__ == {"x": 1}
        mine.__dict__["y"] = 2
        assert mine.y == 2
        assert ferrule.spawn(lambda: mine.__dict__).result() == {}
        assert {"x", "y"} <= set(dir(mine))
        with pytest.raises(AttributeError, match="'__dict__' is read-only"):
            mine.__dict__ = {}
        with pytest.raises(AttributeError, match="'__dict__' is read-only"):
            del mine.__dict__

    run(main)


class Counted(ferrule.local):
    default = "of the class"

    def __init__(self, first: int, *, second: int) -> None:
        self.first = first
        self.second = second
        self.values: list[int] = []

    @property
    def total(self) -> int:
        return self.first + self.second

    @total.setter
    def total(self, value: int) -> None:
        self.first = value - self.second

    def method(self) -> tuple[int, int]:
        return self.first, self.second


def test_a_subclass_is_initialised_in_each_task_with_the_same_arguments(run: Run) -> None:
    def main() -> None:
        mine = Counted(1, second=2)
        mine.values.append(0)
        mine.first = 10

        def task() -> tuple[Any, ...]:
            mine.values.append(1)
            return mine.method(), mine.values, mine.default, mine.total

        assert ferrule.spawn(task).result() == ((1, 2), [1], "of the class", 3)
        assert mine.method() == (10, 2)
        assert mine.values == [0]

    run(main)


def test_properties_and_slots_belong_to_the_class(run: Run) -> None:
    class Slotted(ferrule.local):
        __slots__ = ("shared",)

    def main() -> None:
        mine = Counted(1, second=2)
        mine.total = 7
        assert mine.first == 5
        assert "total" not in mine.__dict__
        slotted = Slotted()
        slotted.shared = "by all"
        assert ferrule.spawn(lambda: slotted.shared).result() == "by all"
        del slotted.shared
        assert not hasattr(slotted, "shared")

    run(main)


def test_an_attribute_hides_the_classs(run: Run) -> None:
    class WithDefault(ferrule.local):
        x = "default"

    def main() -> None:
        mine = WithDefault()
        mine.x = "own"
        assert mine.x == "own"
        assert ferrule.spawn(lambda: mine.x).result() == "default"
        del mine.x
        assert mine.x == "default"

    run(main)


def test_arguments_need_an_init() -> None:
    class Without(ferrule.local):
        pass

    for kind in (ferrule.local, Without):
        with pytest.raises(TypeError, match="Initialization arguments are not supported"):
            kind(1)
        with pytest.raises(TypeError, match="Initialization arguments are not supported"):
            kind(x=1)


def test_an_init_that_fails_is_tried_again(run: Run) -> None:
    class Moody(ferrule.local):
        def __init__(self) -> None:
            moods.pop()()
            self.x = "ready"

    def fail() -> None:
        raise ValueError("not now")

    moods = [int, fail, int]

    def main() -> None:
        mine = Moody()

        def task() -> str:
            with pytest.raises(ValueError, match="not now"):
                mine.x  # noqa: B018
            result: str = mine.x
            return result

        assert ferrule.spawn(task).result() == "ready"

    run(main)


def test_what_a_task_stored_is_dropped_when_it_ends(run: Run) -> None:
    def main() -> None:
        mine = ferrule.local()

        def task() -> weakref.ref[Thing]:
            mine.thing = Thing()
            return weakref.ref(mine.thing)

        ended = ferrule.spawn(task)
        assert ended.result()() is None  # though the task object lives
        gc.collect()
        assert not any(isinstance(thing, Thing) for thing in gc.get_objects())

    run(main)


def test_what_all_tasks_stored_is_dropped_with_the_local(run: Run) -> None:
    def main() -> None:
        mine: Any = ferrule.local()
        mine.thing = Thing()
        reference = weakref.ref(mine.thing)
        stored, gate = ferrule.Event(), ferrule.Event()
        others: list[weakref.ref[Thing]] = []

        def task() -> None:
            mine.thing = Thing()
            others.append(weakref.ref(mine.thing))
            stored.set()
            gate.wait()

        other = ferrule.spawn(task)
        stored.wait()
        mine = None
        gc.collect()  # the frames above refer to it through a cell
        assert reference() is None
        assert others[0]() is None
        gate.set()
        other.join()

    run(main)


def test_a_local_that_refers_to_itself_is_collected(run: Run) -> None:
    def main() -> None:
        mine = ferrule.local()
        mine.me = mine
        reference = weakref.ref(mine)
        del mine
        gc.collect()
        assert reference() is None

    run(main)


def test_many_locals_leave_nothing_in_a_task_that_lives_on(run: Run) -> None:
    def main() -> None:
        for _ in range(1000):
            ferrule.local().x = 1
        gc.collect()
        names = [type(thing).__name__ for thing in gc.get_objects()]
        assert names.count("Spaces") == 0

    run(main)


def test_outside_a_runtime_each_thread_has_its_own(run: Run) -> None:
    mine = ferrule.local()
    mine.x = "main thread"
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(hasattr, mine, "x").result() is False
    assert run(hasattr, mine, "x") is False
    assert mine.x == "main thread"


def test_what_a_thread_stored_is_dropped_when_it_ends() -> None:
    mine = ferrule.local()
    references: list[weakref.ref[Thing]] = []

    def store() -> None:
        mine.thing = Thing()
        references.append(weakref.ref(mine.thing))

    thread = threading.Thread(target=store)
    thread.start()
    thread.join()
    deadline = time.monotonic() + 5
    while references[0]() is not None:
        assert time.monotonic() < deadline
        gc.collect()


def test_a_blocking_call_sees_its_threads_attributes(run: Run) -> None:
    def main() -> None:
        mine = ferrule.local()
        mine.x = 1
        assert ferrule.blocking(hasattr, mine, "x") is False

    run(main)


def test_an_inline_call_sees_the_callers_attributes(run: Run) -> None:
    def main() -> None:
        mine = ferrule.local()
        mine.x = "caller's"
        assert ferrule.spawn_or_run(lambda: mine.x).result() == "caller's"

    run(main, max_fibers=1)


def test_a_local_may_be_used_from_any_context(run: Run) -> None:
    def main() -> None:
        mine = ferrule.local()
        contextvars.copy_context().run(setattr, mine, "x", 1)
        assert mine.x == 1

    run(main)


def test_the_end_of_the_interpreter_is_quiet(run_script: Callable[..., Any]) -> None:
    ended = run_script(
        "import ferrule, threading\n"
        "mine = ferrule.local()\n"
        "mine.x = 1\n"
        "thread = threading.Thread(target=setattr, args=(mine, 'x', 2))\n"
        "thread.start()\n"
        "thread.join()\n"
        "ferrule.run(lambda: setattr(mine, 'x', 3))\n"
    )
    assert (ended.returncode, ended.stderr) == (0, "")
