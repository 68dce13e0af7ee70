"""Event: threading's meaning, in fibers and threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
from ferrule import Event
from sync_support import OSThread, World, settle

Run = Callable[..., Any]


def test_an_event_as_threading_has_it(world: World) -> None:
    def main() -> None:
        event = world.Event()
        assert not event.is_set()
        assert event.wait(0) is False
        assert event.wait(-1) is False
        assert event.wait(0.005) is False
        waiters = [world.spawn(event.wait) for _ in range(3)]
        world.settle()
        assert not any(waiter.done() for waiter in waiters)
        event.set()
        event.clear()  # whoever was woken by set() has True all the same
        assert [waiter.result() for waiter in waiters] == [True] * 3
        assert not event.is_set()
        event.set()
        assert event.wait() is True
        assert event.wait(timeout=0) is True

    world.run(main)


def test_wait_returns_at_once_when_the_event_is_set(run: Run) -> None:
    def main() -> None:
        event = Event()
        assert not event.is_set()
        event.set()
        assert event.is_set()
        assert event.wait() is True
        event.clear()
        assert not event.is_set()

    run(main)


@pytest.mark.one_thread("they stand in the order of their spawning")
def test_set_wakes_all_waiters_in_the_order_they_came(run: Run) -> None:
    def main() -> None:
        event, woken = Event(), []

        def waiter(n: int) -> None:
            assert event.wait() is True
            woken.append(n)

        tasks = [ferrule.spawn(waiter, n) for n in range(5)]
        settle()
        assert woken == []
        event.set()
        for task in tasks:
            task.result()
        assert woken == [0, 1, 2, 3, 4]

    run(main)


def test_a_wait_that_was_ended_by_set_is_true_even_if_the_flag_was_cleared(run: Run) -> None:
    def main() -> None:
        event = Event()
        task = ferrule.spawn(event.wait)
        settle()
        event.set()
        event.clear()
        assert task.result() is True

    run(main)


def test_wait_with_a_timeout_returns_false_when_it_passes(run: Run) -> None:
    def main() -> None:
        event = Event()
        begin = time.monotonic()
        assert event.wait(timeout=0.02) is False
        assert time.monotonic() - begin >= 0.02
        assert event.wait(0) is False
        assert event.wait(-1) is False  # as threading.Event
        event.set()
        assert event.wait(timeout=0) is True

    run(main)


def test_a_waiter_that_gave_up_is_not_woken_later(run: Run) -> None:
    def main() -> None:
        event = Event()
        early = ferrule.spawn(event.wait, 0.005)
        late = ferrule.spawn(event.wait)
        assert early.result() is False
        sleeper = ferrule.spawn(ferrule.sleep, 0.02)
        event.set()
        assert late.result() is True
        begin = time.monotonic()
        sleeper.result()
        assert time.monotonic() - begin > 0.005

    run(main)


def test_set_and_a_timeout_in_the_same_tick(run: Run) -> None:
    def main() -> None:
        for setter_first in (True, False):
            event = Event()
            task = ferrule.spawn(event.wait, 0.01)
            settle()
            if setter_first:
                event.set()
                time.sleep(0.02)
                assert task.result() is True
            else:
                time.sleep(0.02)
                ferrule.sleep(0)  # the deadline is seen
                event.set()
                assert task.result() in (True, False)

    run(main)


def test_a_thread_waits_for_a_fiber_and_a_fiber_for_a_thread(run: Run) -> None:
    def main() -> None:
        there, back = Event(), Event()

        def elsewhere() -> bool:
            came = there.wait(10)
            back.set()
            return came

        thread = OSThread(elsewhere)
        ferrule.sleep(0.01)
        there.set()
        assert back.wait(10)
        assert thread.result()

    run(main)


def test_set_wakes_threads_and_fibers_alike(run: Run) -> None:
    def main() -> None:
        event = Event()
        threads = [OSThread(event.wait) for _ in range(3)]
        fibers = [ferrule.spawn(event.wait) for _ in range(3)]
        ferrule.sleep(0.02)
        threading.Timer(0.01, event.set).start()
        assert all(fiber.result() for fiber in fibers)
        assert all(thread.result() for thread in threads)

    run(main)
