"""Semaphore and BoundedSemaphore: threading's meaning; no permit is lost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
from ferrule import BoundedSemaphore, Semaphore
from sync_support import OSThread, World, alarm, cancel_here_and_there, settle, spawn_in_order

Run = Callable[..., Any]
both = pytest.mark.parametrize("name", ["Semaphore", "BoundedSemaphore"])


@both
def test_a_semaphore_as_threading_has_it(world: World, name: str) -> None:
    def main() -> None:
        permits = getattr(world, name)(2)
        assert permits.acquire()
        with permits as entered:
            assert entered is True
            assert permits.acquire(False) is False
            assert permits.acquire(blocking=True, timeout=0.005) is False
            assert permits.acquire(timeout=0) is False
            assert permits.acquire(timeout=-1) is False
            waiter = world.spawn(permits.acquire)
            world.settle()
            assert not waiter.done()
        assert waiter.result() is True
        permits.release(2)
        assert [permits.acquire(False) for _ in range(3)] == [True, True, False]

    world.run(main)


@both
def test_bad_arguments(world: World, name: str) -> None:
    kind = getattr(world, name)
    with pytest.raises(ValueError, match="initial value must be >= 0"):
        kind(-1)
    with pytest.raises(ValueError, match="can't specify timeout"):
        kind().acquire(False, 1)
    with pytest.raises(ValueError, match="one or more"):
        kind().release(0)
    with pytest.raises(TypeError):
        kind("two")


def test_release_of_several_wakes_as_many(world: World) -> None:
    def main() -> None:
        permits = world.Semaphore(0)
        waiters = [world.spawn(permits.acquire) for _ in range(4)]
        world.settle()
        permits.release(3)
        world.settle()
        assert sum(waiter.done() for waiter in waiters) == 3
        permits.release(2)
        assert all(waiter.result() for waiter in waiters)
        assert permits.acquire(False)
        assert not permits.acquire(False)

    world.run(main)


def test_a_bounded_semaphore_refuses_more_releases_than_acquires(world: World) -> None:
    permits = world.BoundedSemaphore(2)
    permits.acquire()
    with pytest.raises(ValueError, match="released too many times"):
        permits.release(2)
    permits.release()
    with pytest.raises(ValueError, match="released too many times"):
        permits.release()


@pytest.mark.one_thread("they stand in the order of their spawning")
def test_permits_are_handed_over_in_order_and_nobody_overtakes(run: Run) -> None:
    def main() -> None:
        permits, order = Semaphore(0), []

        def body(n: int) -> None:
            permits.acquire()
            order.append(n)

        tasks = [ferrule.spawn(body, n) for n in range(4)]
        settle()
        permits.release(4)
        assert not permits.acquire(False)
        for task in tasks:
            task.result()
        assert order == [0, 1, 2, 3]

    run(main)


def test_a_permit_wins_over_a_cancellation_and_is_not_lost(run: Run) -> None:
    def main() -> None:
        permits = Semaphore(0)

        def body() -> None:
            with permits:
                ferrule.checkpoint()

        task = ferrule.spawn(body)
        settle()
        permits.release()
        task.cancel()
        task.join()
        assert task.cancelled()
        assert permits.acquire(False)

    run(main)


def test_a_cancelled_waiter_takes_no_permit(run: Run) -> None:
    def main() -> None:
        permits = Semaphore(0)
        cancelled, other = spawn_in_order([permits.acquire] * 2)
        cancel_here_and_there(cancelled)
        permits.release()
        assert other.result()
        cancelled.join()
        assert cancelled.cancelled()
        assert not permits.acquire(False)

    run(main)


def test_an_exception_of_a_signal_handler_gives_the_permit_back() -> None:
    permits = Semaphore(0)

    def handler() -> None:
        permits.release()  # to the main thread, which waits
        raise KeyboardInterrupt

    with alarm(0.02, handler), pytest.raises(KeyboardInterrupt):
        permits.acquire()
    assert permits.acquire(False)


def test_threads_and_fibers_share_permits(run: Run) -> None:
    seed = random.randrange(1 << 30)
    permits, most = BoundedSemaphore(3), 0
    inside: list[None] = []  # a list: its append and pop are atomic without the GIL too

    def body(sleep: Callable[[float], None], dice: random.Random) -> None:
        nonlocal most
        for _ in range(30):
            if permits.acquire(timeout=dice.choice([None, 0.001, 0.0001, 0])):
                inside.append(None)
                most = max(most, len(inside))
                try:
                    sleep(dice.choice([0, 0, 0.0005]))
                finally:
                    inside.pop()
                    permits.release()

    def main() -> None:
        threads = [OSThread(body, time.sleep, random.Random(seed + n)) for n in range(3)]
        fibers = [
            ferrule.spawn(body, ferrule.sleep, random.Random(seed + 10 + n)) for n in range(5)
        ]
        for n in range(10):
            ferrule.sleep(0.001)
            fibers[n % 5].cancel()
        for fiber in fibers:
            fiber.join()
        for thread in threads:
            ferrule.blocking(thread.result)

    run(main)
    assert most <= 3
    assert [permits.acquire(False) for _ in range(4)] == [True, True, True, False], f"seed {seed}"


def test_semaphores_are_named_in_deadlocks_and_have_reprs(run: Run) -> None:
    with pytest.raises(ferrule.DeadlockError, match="main waits for a BoundedSemaphore"):
        run(BoundedSemaphore(0).acquire)
    permits = Semaphore(3)
    assert "value 3" in repr(permits)
