"""Condition: threading's meaning; no notification is lost, and the lock is always taken again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import ferrule
from ferrule import Condition, Lock, RLock
from sync_support import OSThread, World, alarm, cancel_here_and_there, settle, spawn_in_order

Run = Callable[..., Any]


def wait_in(condition: Any, timeout: float | None = None) -> bool:
    with condition:
        notified: bool = condition.wait(timeout)
        assert not condition.acquire(False) or condition.release() is None
        return notified


# ---- as threading has it ----


@pytest.mark.parametrize("lock", ["Lock", "RLock", None])
def test_a_condition_as_threading_has_it(world: World, lock: str | None) -> None:
    def main() -> None:
        condition = world.Condition(getattr(world, lock)() if lock else None)
        items: list[int] = []

        def consume() -> int:
            with condition:
                while not items:
                    assert condition.wait(10)
                return items.pop()

        consumers = [world.spawn(consume) for _ in range(3)]
        world.settle()
        with condition:
            items.append(1)
            condition.notify()
        world.settle()
        assert sum(consumer.done() for consumer in consumers) == 1
        with condition:
            items.extend([2, 3])
            condition.notify(2)
        assert sorted(consumer.result() for consumer in consumers) == [1, 2, 3]

    world.run(main)


def test_notify_all_wakes_everybody_and_no_one_that_comes_later(world: World) -> None:
    def main() -> None:
        condition = world.Condition()
        waiters = [world.spawn(wait_in, condition) for _ in range(4)]
        world.settle()
        with condition:
            condition.notify_all()
            condition.notify(0)
        assert [waiter.result() for waiter in waiters] == [True] * 4
        assert world.spawn(wait_in, condition, 0.01).result() is False

    world.run(main)


@pytest.mark.parametrize("timeout", [-1, 0, 0.01])
def test_a_wait_that_timed_out_holds_the_lock_again(world: World, timeout: float) -> None:
    def main() -> None:
        condition = world.Condition()
        with condition:
            assert condition.wait(timeout) is False
            assert not world.spawn(condition.acquire, False).result()

    world.run(main)


def test_wait_for_returns_what_the_predicate_did(world: World) -> None:
    def main() -> None:
        condition = world.Condition()
        values: list[str] = []

        def wait_for_value() -> Any:
            with condition:
                return condition.wait_for(lambda: values and values[0], 10)

        waiter = world.spawn(wait_for_value)
        world.settle()
        for value in ("", "found"):
            with condition:
                values[:] = [value]
                condition.notify_all()
            world.settle()
        assert waiter.result() == "found"
        with condition:
            begin = time.monotonic()
            assert condition.wait_for(list, 0.02) == []
            assert time.monotonic() - begin >= 0.02
            assert condition.wait_for(lambda: "at once") == "at once"

    world.run(main)


def test_an_rlock_held_twice_is_let_go_and_held_twice_again(world: World) -> None:
    def main() -> None:
        condition = world.Condition()

        def waiter() -> None:
            with condition, condition:
                assert condition.wait(10)
                condition.release()
                assert not world.spawn(condition.acquire, False).result()
                condition.acquire()

        task = world.spawn(waiter)
        world.settle()
        with condition:
            condition.notify()
        task.result()
        assert condition.acquire(False)
        condition.release()

    world.run(main)


def test_only_the_holder_may_wait_and_notify(world: World) -> None:
    def main() -> None:
        condition = world.Condition()
        calls = [condition.wait, condition.notify, condition.notify_all]
        for call in calls:
            with pytest.raises(RuntimeError, match="un-acquired lock"):
                call()
        with condition:
            for call in calls:
                with pytest.raises(RuntimeError, match="un-acquired lock"):
                    world.spawn(call).result()

    world.run(main)


# ---- Ferrule's own rules ----


def test_it_refuses_locks_that_would_block_the_thread() -> None:
    for lock in (threading.Lock(), threading.RLock(), 1):
        with pytest.raises(TypeError, match=r"ferrule\.Lock"):
            Condition(lock)  # type: ignore[arg-type]


def test_a_holder_of_a_plain_lock_is_known_too(run: Run) -> None:
    def main() -> None:
        condition = Condition(Lock())
        with condition, pytest.raises(RuntimeError, match="un-acquired lock"):
            ferrule.spawn(condition.notify).result()

    run(main)


def test_waiters_are_served_in_the_order_they_came(run: Run) -> None:
    def main() -> None:
        condition, order = Condition(), []

        def waiter(n: int) -> None:
            with condition:
                condition.wait()
                order.append(n)

        tasks = spawn_in_order(partial(waiter, n) for n in range(5))
        for _ in tasks:
            with condition:
                condition.notify()
        for task in tasks:
            task.result()
        assert order == [0, 1, 2, 3, 4]

    run(main)


def test_a_notified_fiber_switches_once_holding_the_lock(run: Run) -> None:
    def main() -> None:
        condition = Condition()
        tasks = [ferrule.spawn(wait_in, condition) for _ in range(50)]
        settle()
        runtime = ferrule.current_runtime()
        before = runtime.statistics()["switches"]
        with condition:
            condition.notify_all()
            for _ in range(3):
                ferrule.sleep(0)  # nobody is woken only to find the lock taken
        for task in tasks:
            task.result()
        assert runtime.statistics()["switches"] - before <= 110

    run(main)


def test_a_cancelled_wait_holds_the_lock_when_it_raises(run: Run) -> None:
    def main() -> None:
        condition = Condition()
        lock_was_mine: list[bool] = []

        def waiter() -> None:
            with condition:
                try:
                    condition.wait()
                finally:
                    condition.notify()  # would raise if the lock were not held
                    lock_was_mine.append(True)

        task = ferrule.spawn(waiter)
        settle()
        with condition:
            task.cancel()
            for _ in range(3):
                ferrule.sleep(0)
            assert not task.done()  # the lock is ours
        task.join()
        assert task.cancelled()
        assert lock_was_mine == [True]
        assert condition.acquire(False)
        condition.release()

    run(main)


def test_a_wait_that_timed_out_waits_for_the_lock_without_limit(run: Run) -> None:
    def main() -> None:
        condition = Condition()
        task = ferrule.spawn(wait_in, condition, 0.01)
        settle()
        with condition:
            ferrule.sleep(0.03)
            assert not task.done()
        assert task.result() is False

    run(main)


def test_a_notification_wins_over_a_cancellation(run: Run) -> None:
    def main() -> None:
        condition = Condition()
        seen: list[bool] = []

        def waiter() -> None:
            with condition:
                seen.append(condition.wait())
            ferrule.checkpoint()

        task = ferrule.spawn(waiter)
        settle()
        with condition:
            condition.notify()
            task.cancel()
        task.join()
        assert seen == [True]
        assert task.cancelled()

    run(main)


def test_a_notification_is_not_lost_on_a_waiter_that_was_cancelled_first(run: Run) -> None:
    def main() -> None:
        condition = Condition()
        tasks = spawn_in_order([partial(wait_in, condition)] * 3)
        with condition:
            cancel_here_and_there(tasks[0])
            condition.notify()
        assert tasks[1].result() is True
        tasks[0].join()
        assert tasks[0].cancelled()
        tasks[2].cancel()

    run(main)


def test_a_notification_wins_over_a_timeout_of_a_thread(run: Run) -> None:
    def main() -> None:
        condition = Condition()
        thread = OSThread(wait_in, condition, 0.03)
        ferrule.sleep(0.01)
        with condition:
            condition.notify()
            time.sleep(0.05)  # the thread's time is up, and it cannot have the lock
        assert ferrule.blocking(thread.result) is True

    run(main)


def test_an_exception_of_a_signal_handler_passes_the_notification_on() -> None:
    condition = Condition()
    others: list[OSThread] = []

    def handler() -> None:
        others.append(OSThread(wait_in, condition, 10))
        time.sleep(0.02)
        with condition:
            condition.notify()  # the main thread, which waited first
        raise KeyboardInterrupt

    with alarm(0.02, handler), pytest.raises(KeyboardInterrupt), condition:
        try:
            condition.wait()
        finally:
            condition.notify(0)  # would raise if the lock were not held
    assert others[0].result() is True


def test_an_exception_of_a_signal_handler_ends_a_wait_with_the_lock_held() -> None:
    condition = Condition()

    def handler() -> None:
        raise KeyboardInterrupt

    with alarm(0.02, handler), pytest.raises(KeyboardInterrupt), condition:
        try:
            condition.wait()
        finally:
            condition.notify(0)
    assert condition.acquire(False)
    condition.release()


def test_a_condition_in_a_deadlock(run: Run) -> None:
    condition = Condition()

    def main() -> None:
        with condition:
            condition.wait()

    with pytest.raises(ferrule.DeadlockError, match="main waits for a Condition"):
        run(main)
    assert "unlocked" in repr(condition)


def test_a_notified_fiber_waits_for_the_lock(run: Run) -> None:
    condition = Condition()

    def main() -> None:
        ferrule.spawn(wait_in, condition, name="waiter")
        settle()
        with condition:
            condition.notify()
            ferrule.Event().wait()

    with pytest.raises(ferrule.DeadlockError, match="waiter waits for an RLock held by main"):
        run(main)


def test_a_wait_that_is_broken_off_while_its_lock_is_never_released(
    run: Run, unraisable: list[Any]
) -> None:
    condition = Condition(Lock())

    def main() -> None:
        task = ferrule.spawn(wait_in, condition, name="waiter")
        settle()

        def die_holding() -> None:
            condition.acquire()
            condition.notify()

        ferrule.spawn(die_holding, name="thief").join()
        task.join()

    with pytest.raises(ferrule.DeadlockError, match="held by thief, which has ended"):
        run(main)


def test_random_cancels_and_timeouts_lose_no_notification(run: Run) -> None:
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)

    def main() -> None:
        condition = Condition()
        ready = served = 0

        def consume() -> None:
            nonlocal ready, served
            while True:
                with condition:
                    while not ready:
                        condition.wait(dice.choice([None, 0.0005, 0.001]))
                    ready -= 1
                    served += 1

        def produce() -> None:
            nonlocal ready
            for _ in range(300):
                with condition:
                    ready += 1
                    condition.notify()
                if dice.random() < 0.3:
                    consumers.pop(dice.randrange(len(consumers))).cancel()
                    consumers.append(ferrule.spawn(consume))
                ferrule.sleep(0)

        consumers = [ferrule.spawn(consume) for _ in range(5)]
        ferrule.spawn(produce).result()
        with ferrule.move_on_after(5):
            while served < 300:
                ferrule.sleep(0)
        assert (ready, served) == (0, 300), f"seed {seed}"
        for consumer in consumers:
            consumer.cancel()

    run(main)


@pytest.mark.parametrize("lock", [Lock, RLock])
def test_threads_and_fibers_play_ping_pong(run: Run, lock: type[Lock] | type[RLock]) -> None:
    condition = Condition(lock())
    turn = 0

    def play(me: int, players: int) -> None:
        nonlocal turn

        def mine() -> bool:
            return turn % players == me

        for _ in range(50):
            with condition:
                assert condition.wait_for(mine, 10)
                turn += 1
                condition.notify_all()

    def main() -> None:
        threads = [OSThread(play, n, 4) for n in range(2)]
        with ferrule.TaskGroup() as group:
            group.spawn(play, 2, 4)
            group.spawn(play, 3, 4)
        for thread in threads:
            thread.result()

    run(main)
    assert turn == 200
