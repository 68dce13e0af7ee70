"""Sleeping and clocks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
from ferrule import Clock

Run = Callable[..., Any]


def test_sleep_lasts_at_least_as_long_as_asked(run: Run) -> None:
    def main() -> None:
        begin = time.monotonic()
        ferrule.sleep(0.02)
        assert 0.02 <= time.monotonic() - begin < 1

    run(main)


def test_sleepers_wake_in_the_order_of_their_deadlines(run: Run) -> None:
    def main() -> None:
        woken: list[float] = []

        def sleeper(seconds: float) -> None:
            ferrule.sleep(seconds)
            woken.append(seconds)

        with ferrule.TaskGroup() as group:
            for seconds in (0.03, 0.01, 0.02, 0.0, 0.015):
                group.spawn(sleeper, seconds)
        assert woken == [0.0, 0.01, 0.015, 0.02, 0.03]

    run(main)


def test_many_sleepers_take_as_long_as_one(run: Run) -> None:
    def main() -> None:
        begin = time.monotonic()
        with ferrule.TaskGroup() as group:
            for _ in range(1000):
                group.spawn(ferrule.sleep, 0.05)
        assert 0.05 <= time.monotonic() - begin < 2

    run(main)


@pytest.mark.one_thread("fibers of one thread take turns")
def test_sleep_zero_lets_every_other_ready_fiber_run_once(run: Run) -> None:
    def main() -> None:
        ran: list[int] = []
        for n in range(3):
            ferrule.spawn(ran.append, n)
        ferrule.sleep(0)
        assert ran == [0, 1, 2]

    run(main)


@pytest.mark.parametrize("clock", list(Clock))
def test_sleep_until_follows_its_clock(run: Run, clock: Clock) -> None:
    def main() -> None:
        when = ferrule.now(clock) + 0.02
        ferrule.sleep_until(when, clock=clock)
        assert when <= ferrule.now(clock) < when + 1

    run(main)


@pytest.mark.one_thread("fibers of one thread take turns")
@pytest.mark.parametrize("clock", list(Clock))
@pytest.mark.parametrize("ago", [0.0, 1e-9, 100.0, 1e12])
def test_sleep_until_a_time_that_has_passed_only_yields(
    run: Run, clock: Clock, ago: float
) -> None:
    def main() -> None:
        ran: list[int] = []
        ferrule.spawn(ran.append, 1)
        begin = time.monotonic()
        ferrule.sleep_until(ferrule.now(clock) - ago, clock)
        assert time.monotonic() - begin < 1
        assert ran == [1]

    run(main)


def test_now_reads_the_systems_clocks_without_a_runtime() -> None:
    assert abs(ferrule.now() - time.monotonic()) < 1
    assert abs(ferrule.now(Clock.REALTIME) - time.time()) < 1
    assert abs(ferrule.now(Clock.BOOTTIME) - time.clock_gettime(time.CLOCK_BOOTTIME)) < 1


def test_a_very_long_sleep_can_be_cancelled(run: Run) -> None:
    def main() -> None:
        for seconds in (1e10, 1e300, math.inf):
            with ferrule.move_on_after(0.001) as scope:
                ferrule.sleep(seconds)
            assert scope.cancelled_caught

    run(main)


@pytest.mark.parametrize("seconds", [-1, -1e-9, math.nan])
def test_senseless_lengths_are_refused(run: Run, seconds: float) -> None:
    def main() -> None:
        with pytest.raises(ValueError):
            ferrule.sleep(seconds)
        with pytest.raises(ValueError):
            ferrule.spawn(ferrule.sleep, 0).join(timeout=seconds)

    run(main)


def test_sleep_wants_a_number(run: Run) -> None:
    def main() -> None:
        with pytest.raises(TypeError, match="number of seconds"):
            ferrule.sleep("1")  # type: ignore[arg-type]

    run(main)


def test_sleep_until_refuses_nan() -> None:
    with pytest.raises(ValueError, match="NaN"):
        ferrule.sleep_until(math.nan)


@pytest.mark.parametrize(
    "call",
    [lambda: ferrule.sleep(0), ferrule.yield_now, ferrule.checkpoint, ferrule.cancel_requested,
     lambda: ferrule.sleep_until(0), ferrule.current_task, ferrule.current_runtime],
)
def test_outside_a_run_the_remedy_is_named(call: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError, match=r"ferrule\.run"):
        call()


def test_a_timeout_that_did_not_fire_leaves_no_timer(run: Run) -> None:
    def main() -> None:
        event = ferrule.Event()
        for _ in range(100):
            event.set()
            assert event.wait(timeout=100)
            event.clear()
            task = ferrule.spawn(event.wait, 100)
            ferrule.sleep(0)
            event.set()
            assert task.result()
            event.clear()
        assert ferrule.current_runtime().statistics()["timers"] <= 1

    run(main)


def test_a_short_wait_after_a_long_one_ends_in_time(run: Run) -> None:
    def main() -> None:
        event = ferrule.Event()
        for first, second in ((100, 0.01), (0.01, 0.02)):
            ferrule.spawn(event.set)
            assert event.wait(timeout=first)  # ends early: its timer is still armed
            event.clear()
            begin = time.monotonic()
            assert not event.wait(timeout=second)
            assert second <= time.monotonic() - begin < 1

    run(main)


def test_sleepers_do_not_starve_behind_fibers_that_yield(run: Run) -> None:
    def main() -> None:
        done = ferrule.Event()

        def busy() -> None:
            while not done.is_set():
                ferrule.yield_now()

        for _ in range(10):
            ferrule.spawn(busy)
        begin = time.monotonic()
        ferrule.sleep(0.02)
        assert time.monotonic() - begin < 1
        done.set()

    run(main)
