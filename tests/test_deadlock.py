"""Every fiber waits and nothing can wake one: said, with names, and cleaned up."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
from ferrule import DeadlockError, Event, Lock, Queue
from ferrule._core.sync import Waiter

Run = Callable[..., Any]
Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("wait", "words"),
    [
        (lambda: Event().wait(), "an Event"),
        (lambda: Queue().get(), "an item of a Queue"),
        (lambda: full_queue().put(1), "room in a Queue"),
        (lambda: full_queue().join(), "the end of the work in a Queue"),
        (lambda: locked_twice(), "a Lock held by main"),
        (lambda: ferrule.spawn(Event().wait, name="dawdler").join(), "the end of dawdler"),
        (lambda: group_of_one(), "the tasks of its group"),
    ],
)
def test_a_deadlock_names_who_waits_for_what(
    run: Run, wait: Callable[[], Any], words: str
) -> None:
    with pytest.raises(DeadlockError) as info:
        run(wait)
    assert f"main waits for {words}" in str(info.value)


def full_queue() -> Queue[int]:
    queue: Queue[int] = Queue(1)
    queue.put_nowait(1)
    return queue


def locked_twice() -> None:
    lock = Lock()
    lock.acquire()
    lock.acquire()


def group_of_one() -> None:
    with ferrule.TaskGroup() as group:
        group.spawn(Event().wait)


def names(waiting: tuple[Any, ...]) -> list[str]:
    return [one.name for one in waiting]


def test_two_locks_taken_in_opposite_order_are_a_circle(run: Run) -> None:
    with pytest.raises(DeadlockError, match="in a circle: adam -> berta -> adam") as info:
        run(opposite_locks)
    assert names(info.value.waiting) == ["main", "adam", "berta"]
    assert names(info.value.cycle) == ["adam", "berta"]
    adam = info.value.cycle[0]
    assert adam.what == "a Lock held by berta"
    assert re.fullmatch(rf"{re.escape(__file__)}:\d+ in take", adam.where)


def opposite_locks() -> None:
    first, second = Lock(), Lock()

    def take(a: Lock, b: Lock) -> None:
        with a:
            ferrule.sleep(0.001)
            with b:
                pass

    with ferrule.TaskGroup() as group:
        group.spawn(take, first, second, name="adam")
        group.spawn(take, second, first, name="berta")


def test_a_lock_held_by_its_waiter_is_a_circle_of_one(run: Run) -> None:
    with pytest.raises(DeadlockError, match="in a circle: main -> main") as info:
        run(locked_twice)
    assert names(info.value.cycle) == ["main"]


@pytest.mark.one_thread("what was spawned has to have run by the next switch")
def test_a_circle_goes_through_locks_joins_and_groups(run: Run) -> None:
    def main() -> None:
        lock = Lock()

        def join(task: ferrule.Task[Any]) -> None:
            task.join()

        def open_a_group() -> None:
            lock.acquire()
            ferrule.sleep(0.001)  # the others wait by then
            with ferrule.TaskGroup() as group:
                ferrule.spawn(Event().wait, name="bystander")
                group.spawn(Event().wait, name="dead end")
                group.spawn(join, locker, name="joiner")

        ferrule.spawn(open_a_group, name="owner")
        locker = ferrule.spawn(lock.acquire, name="locker")
        locker.join()

    with pytest.raises(DeadlockError) as info:
        run(main)
    assert names(info.value.cycle) == ["owner", "joiner", "locker"]
    assert [one.what for one in info.value.cycle] == [
        "the tasks of its group", "the end of locker", "a Lock held by owner",
    ]
    assert "in a circle: owner -> joiner -> locker -> owner" in str(info.value)


def test_a_circle_goes_through_a_wait_for_any_of_several(run: Run) -> None:
    def main() -> None:
        def wait_for_one() -> None:
            ferrule.select([second, dawdler])

        dawdler = ferrule.spawn(Event().wait, name="dawdler")
        first = ferrule.spawn(wait_for_one, name="first")
        second = ferrule.spawn(first.join, name="second")
        second.join()

    with pytest.raises(DeadlockError, match="in a circle: first -> second -> first"):
        run(main)


def test_a_deadlock_without_a_circle_has_none(run: Run) -> None:
    def main() -> None:
        ferrule.spawn(Event().wait, name="dawdler").join()

    with pytest.raises(DeadlockError) as info:
        run(main)
    assert names(info.value.waiting) == ["main", "dawdler"]
    assert info.value.cycle == ()
    assert "circle" not in str(info.value)


def test_a_lock_whose_holder_has_ended_says_so(run: Run) -> None:
    def main() -> None:
        lock = Lock()
        ferrule.spawn(lock.acquire, name="forgetful").join()
        lock.acquire()

    with pytest.raises(DeadlockError, match="held by forgetful, which has ended") as info:
        run(main)
    assert info.value.cycle == ()


def test_a_circle_of_many_is_found_without_recursion(run: Run) -> None:
    count = 5000

    def main() -> None:
        tasks: list[ferrule.Task[Any]] = []

        def join_the_next(place: int) -> None:
            tasks[(place + 1) % count].join()

        tasks += [ferrule.spawn(join_the_next, place) for place in range(count)]
        tasks[7].join()

    with pytest.raises(DeadlockError) as info:
        run(main)
    assert len(info.value.cycle) == count


def test_the_fibers_of_a_deadlock_run_their_finally(run: Run) -> None:
    cleaned: list[str] = []

    def body(name: str) -> None:
        try:
            Event().wait()
        finally:
            with ferrule.shield():
                ferrule.sleep(0.001)
            cleaned.append(name)

    def main() -> None:
        for name in "ab":
            ferrule.spawn(body, name)
        body("main")

    with pytest.raises(DeadlockError):
        run(main)
    assert sorted(cleaned) == ["a", "b", "main"]


def test_a_shielded_deadlock_is_ended_too(run: Run) -> None:
    cleaned: list[str] = []

    def body(name: str) -> None:
        try:
            with ferrule.shield():
                Event().wait()
        finally:
            cleaned.append(name)

    def main() -> None:
        ferrule.spawn(body, "child")
        body("main")

    with pytest.raises(DeadlockError):
        run(main)
    assert sorted(cleaned) == ["child", "main"]


def test_a_deadlock_in_every_cleanup_still_ends(run: Run) -> None:
    depth = 0

    def main() -> None:
        nonlocal depth
        try:
            with ferrule.shield():
                Event().wait()
        finally:
            depth += 1
            if depth < 10:
                main()

    with pytest.raises(DeadlockError):
        run(main)
    assert depth == 10


def test_waits_that_cannot_be_cancelled_are_broken_off(
    run: Run, unraisable: list[Any]
) -> None:
    cleaned: list[str] = []

    def body() -> None:
        try:
            Waiter("nobody").wait(cancellable=False)
        finally:
            cleaned.append(ferrule.current_task().name)

    def main() -> None:
        for name in "ab":
            ferrule.spawn(body, name=name)
        body()

    with pytest.raises(DeadlockError, match="a waits for nobody") as info:
        run(main)
    assert sorted(cleaned) == ["a", "b", "main"]
    assert "broken off" in str(info.value.__context__)
    assert len(unraisable) == 2


@pytest.mark.parametrize(
    "wait",
    [
        lambda: ferrule.sleep(0.05),
        lambda: Event().wait(timeout=0.05),
        lambda: Queue().join(),
        lambda: in_time(0.05),
        lambda: ferrule.blocking(threading.Event().wait, 0.05),
        lambda: ferrule.sleep_until(
            ferrule.now(ferrule.Clock.REALTIME) + 0.05, ferrule.Clock.REALTIME
        ),
    ],
)
def test_what_will_end_by_itself_is_no_deadlock(run: Run, wait: Callable[[], Any]) -> None:
    run(wait)


def in_time(seconds: float) -> None:
    with ferrule.move_on_after(seconds):
        Event().wait()


def test_a_stale_timer_does_not_hide_a_deadlock(run: Run) -> None:
    def main() -> None:
        event = Event()
        ferrule.spawn(event.set)
        assert event.wait(timeout=3600)  # its timer stays armed
        Event().wait()

    with pytest.raises(DeadlockError):
        run(main)


def test_an_infinite_deadline_does_not_hide_a_deadlock(run: Run) -> None:
    def main() -> None:
        with ferrule.move_on_after(float("inf")):
            Event().wait()

    with pytest.raises(DeadlockError):
        run(main)


def test_a_foreign_thread_might_still_wake_a_fiber(run: Run) -> None:
    def main() -> None:
        event = Event()
        thread = threading.Thread(target=lambda: (threading.Event().wait(0.1), event.set()))
        thread.start()
        assert event.wait()
        thread.join()

    run(main)


def test_a_thread_that_ends_without_waking_anybody_leaves_the_deadlock_to_the_watchdog(
    run: Run,
) -> None:
    def main() -> None:
        thread = threading.Thread(target=threading.Event().wait, args=(0.05,))
        thread.start()
        ended = ferrule.spawn(ferrule.blocking, thread.join)
        with ferrule.move_on_after(0.3) as scope:
            Event().wait()
        assert scope.cancelled_caught
        ended.result()

    run(main)


def test_a_run_in_a_thread_is_not_alone(run: Run) -> None:
    def main() -> None:
        event = Event()

        def elsewhere() -> None:
            ferrule.run(event.wait)  # this thread's main may wake it

        call = ferrule.spawn(ferrule.blocking, elsewhere)
        ferrule.sleep(0.05)
        event.set()
        call.result()

    run(main)


def test_the_exception_of_a_cleanup_is_the_deadlocks_context(run: Run) -> None:
    def main() -> None:
        try:
            Event().wait()
        finally:
            raise ValueError("while cleaning up")

    with pytest.raises(DeadlockError) as info:
        run(main)
    assert isinstance(info.value.__context__, ValueError)
