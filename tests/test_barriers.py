"""Barrier: threading's meaning, in fibers and threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
from ferrule import Barrier, BrokenBarrierError
from sync_support import OSThread, World, alarm, settle

Run = Callable[..., Any]


def test_a_barrier_as_threading_has_it(world: World) -> None:
    def main() -> None:
        actions: list[int] = []
        barrier = world.Barrier(3, lambda: actions.append(1))
        assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)
        for n in range(3):
            waiters = [world.spawn(barrier.wait) for _ in range(2)]
            world.settle()
            assert barrier.n_waiting == 2
            assert len(actions) == n
            last = barrier.wait()
            assert sorted([last, *(waiter.result() for waiter in waiters)]) == [0, 1, 2]
            assert len(actions) == n + 1

    world.run(main)


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_timeout_breaks_the_barrier_for_all(world: World, timeout: float) -> None:
    def main() -> None:
        barrier = world.Barrier(3)
        waiter = world.spawn(barrier.wait)
        world.settle()
        with pytest.raises(BrokenBarrierError):
            barrier.wait(timeout)
        with pytest.raises(BrokenBarrierError):
            waiter.result()
        assert barrier.broken
        with pytest.raises(BrokenBarrierError):
            barrier.wait()
        barrier.reset()
        assert not barrier.broken
        waiters = [world.spawn(barrier.wait) for _ in range(3)]
        assert sorted(waiter.result() for waiter in waiters) == [0, 1, 2]

    world.run(main)


def test_the_constructors_timeout_is_the_default(world: World) -> None:
    def main() -> None:
        barrier = world.Barrier(2, timeout=0.01)
        with pytest.raises(BrokenBarrierError):
            barrier.wait()

    world.run(main)


@pytest.mark.parametrize("end", ["abort", "reset"])
def test_abort_and_reset_wake_those_who_wait(world: World, end: str) -> None:
    def main() -> None:
        barrier = world.Barrier(3)
        waiters = [world.spawn(barrier.wait) for _ in range(2)]
        world.settle()
        getattr(barrier, end)()
        for waiter in waiters:
            with pytest.raises(BrokenBarrierError):
                waiter.result()
        assert barrier.broken is (end == "abort")
        assert barrier.n_waiting == 0

    world.run(main)


def test_an_action_that_fails_breaks_the_barrier(world: World) -> None:
    def main() -> None:
        def action() -> None:
            raise KeyError("action")

        barrier = world.Barrier(2, action)
        waiter = world.spawn(barrier.wait)
        world.settle()
        with pytest.raises(KeyError):
            barrier.wait()
        with pytest.raises(BrokenBarrierError):
            waiter.result()
        assert barrier.broken

    world.run(main)


def test_a_barrier_of_one_never_waits(world: World) -> None:
    barrier = world.Barrier(1)
    assert [barrier.wait() for _ in range(3)] == [0, 0, 0]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="parties"):
        Barrier(0)
    with pytest.raises(TypeError, match="callable"):
        Barrier(1, 5)  # type: ignore[arg-type]
    assert BrokenBarrierError is ferrule.BrokenBarrierError


def test_a_cancelled_party_breaks_the_barrier(run: Run) -> None:
    def main() -> None:
        barrier = Barrier(3)
        cancelled, other = ferrule.spawn(barrier.wait), ferrule.spawn(barrier.wait)
        settle()
        cancelled.cancel()
        with pytest.raises(BrokenBarrierError):
            other.result()
        assert cancelled.cancelled()
        assert barrier.broken

    run(main)


def test_who_has_been_let_through_cannot_be_cancelled_back(run: Run) -> None:
    def main() -> None:
        barrier = Barrier(2)
        waiter = ferrule.spawn(barrier.wait)
        settle()
        assert barrier.wait() == 1
        waiter.cancel()
        assert waiter.result() == 0
        assert not barrier.broken

    run(main)


def test_nobody_gives_up_or_passes_while_the_action_runs(run: Run) -> None:
    def main() -> None:
        running = ferrule.Event()

        def action() -> None:
            running.set()
            ferrule.sleep(0.03)

        barrier = Barrier(3, action)
        fiber = ferrule.spawn(barrier.wait, 0.02)
        settle()
        thread = OSThread(barrier.wait, 0.02)
        ferrule.sleep(0.005)
        last = ferrule.spawn(barrier.wait)
        running.wait()
        fiber.cancel()
        late = ferrule.spawn(barrier.wait)  # of the next round
        ferrule.sleep(0.02)
        assert not fiber.done()
        assert not thread.done()
        assert (fiber.result(), ferrule.blocking(thread.result), last.result()) == (0, 1, 2)
        assert not barrier.broken
        assert barrier.n_waiting == 1
        barrier.abort()
        with pytest.raises(BrokenBarrierError):
            late.result()

    run(main)


def test_threads_and_fibers_meet(run: Run) -> None:
    barrier = Barrier(4)
    rounds: list[int] = []

    def body() -> None:
        for n in range(30):
            barrier.wait(10)
            rounds.append(n)
            barrier.wait(10)

    def main() -> None:
        threads = [OSThread(body) for _ in range(2)]
        with ferrule.TaskGroup() as group:
            group.spawn(body)
            group.spawn(body)
        for thread in threads:
            thread.result()

    run(main)
    assert rounds == [n for n in range(30) for _ in range(4)]


def test_an_exception_of_a_signal_handler_breaks_the_barrier() -> None:
    barrier = Barrier(3)
    other = OSThread(barrier.wait)
    time.sleep(0.02)

    def handler() -> None:
        raise KeyboardInterrupt

    with alarm(0.02, handler), pytest.raises(KeyboardInterrupt):
        barrier.wait()
    with pytest.raises(BrokenBarrierError):
        other.result()


def test_a_barrier_in_a_deadlock(run: Run) -> None:
    with pytest.raises(ferrule.DeadlockError, match="a Barrier where 1 of 2 are"):
        run(Barrier(2).wait)
    assert "0 of 2 waiting" in repr(Barrier(2))
