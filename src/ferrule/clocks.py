"""Clocks, and sleeping until a point of time."""

from __future__ import annotations

import enum
import time

from ferrule._core.scheduler import sleep_until_ns as _sleep_until_ns


class Clock(enum.IntEnum):
    """What `now` reads and `sleep_until` follows."""

    MONOTONIC = 0
    """Seconds since some start; never set, stops while the machine is suspended."""
    REALTIME = 1
    """Seconds since 1970; follows when the clock is set."""
    BOOTTIME = 2
    """As MONOTONIC, but goes on while the machine is suspended (MONOTONIC where there is none)."""


_IDS = {
    Clock.MONOTONIC: time.CLOCK_MONOTONIC,
    Clock.REALTIME: time.CLOCK_REALTIME,
    Clock.BOOTTIME: getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC),
}


def now(clock: Clock = Clock.MONOTONIC) -> float:
    """Seconds on a clock.  Neither a switch nor a cancellation point; needs no runtime."""
    return time.clock_gettime(_IDS[clock])


def sleep_until(when: float, clock: Clock = Clock.MONOTONIC) -> None:
    """Park this fiber until ``when`` seconds on ``clock``; a time that has passed only yields.

    On REALTIME and BOOTTIME it follows jumps of the clock: on io_uring at once, on other engines
    within a second.  A switch and cancellation
    point.
    """
    if not when == when:
        raise ValueError("when must be a number of seconds, not NaN")
    _sleep_until_ns(max(0, min(int(when * 1e9), 1 << 62)), Clock(clock))
