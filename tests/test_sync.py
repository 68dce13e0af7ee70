"""Event, Lock, Queue: their meaning, FIFO hand-over, and use from threads and signal handlers."""

from __future__ import annotations

import gc
import queue
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
from ferrule import Event, Lock, Queue, QueueShutDown

Run = Callable[..., Any]


def settle() -> None:
    """Let every other fiber run until it waits."""
    for _ in range(3):
        ferrule.sleep(0)


# ---- Event ----


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


# ---- Lock ----


def test_a_lock_excludes_and_is_handed_over_in_order(run: Run) -> None:
    def main() -> None:
        lock, inside, order = Lock(), [], []

        def body(n: int) -> None:
            with lock:
                inside.append(n)
                assert len(inside) == 1
                ferrule.sleep(0.001)
                inside.remove(n)
                order.append(n)

        with ferrule.TaskGroup() as group:
            for n in range(5):
                group.spawn(body, n)
        assert order == [0, 1, 2, 3, 4]
        assert not lock.locked()

    run(main)


def test_a_released_lock_belongs_to_the_waiter_before_it_has_run(run: Run) -> None:
    def main() -> None:
        lock = Lock()
        lock.acquire()
        waiter = ferrule.spawn(lock.acquire)
        settle()
        lock.release()
        assert lock.locked()
        assert not lock.acquire(blocking=False)  # nobody overtakes
        assert waiter.result() is True
        lock.release()
        assert not lock.locked()

    run(main)


def test_acquire_without_blocking_and_with_a_timeout(run: Run) -> None:
    def main() -> None:
        lock = Lock()
        assert lock.acquire(blocking=False) is True
        assert lock.acquire(blocking=False) is False
        assert lock.acquire(timeout=0.01) is False
        assert lock.acquire(timeout=0) is False
        lock.release()
        assert lock.acquire(timeout=5) is True

    run(main)


def test_lock_refuses_the_arguments_that_threading_refuses() -> None:
    lock = Lock()
    with pytest.raises(ValueError):
        lock.acquire(blocking=False, timeout=1)
    with pytest.raises(ValueError):
        lock.acquire(timeout=-2)


def test_releasing_an_unlocked_lock_is_an_error(run: Run) -> None:
    lock = Lock()
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        lock.release()

    def main() -> None:
        with lock:
            pass
        with pytest.raises(RuntimeError):
            lock.release()

    run(main)


def test_a_lock_handed_to_a_task_that_is_then_cancelled_is_not_lost(run: Run) -> None:
    def main() -> None:
        lock, got = Lock(), []

        def body() -> None:
            with lock:
                got.append("lock")
                ferrule.checkpoint()

        lock.acquire()
        task = ferrule.spawn(body)
        settle()
        lock.release()
        task.cancel()
        task.join()
        assert got == ["lock"]
        assert task.cancelled()
        assert lock.acquire(blocking=False)

    run(main)


def test_a_cancelled_waiter_leaves_the_queue_for_the_lock(run: Run) -> None:
    def main() -> None:
        lock = Lock()
        lock.acquire()
        waiters = [ferrule.spawn(lock.acquire) for _ in range(3)]
        settle()
        waiters[0].cancel()
        waiters[1].cancel()
        lock.release()
        assert waiters[2].result()
        assert waiters[0].cancelled()
        assert waiters[1].cancelled()

    run(main)


def test_a_lock_may_be_released_by_another_thread(run: Run) -> None:
    def main() -> None:
        lock = Lock()
        lock.acquire()
        waiter = ferrule.spawn(lock.acquire)
        settle()
        threading.Timer(0.01, lock.release).start()
        assert waiter.result()

    run(main)


# ---- Queue ----


def test_a_queue_is_first_in_first_out(run: Run) -> None:
    def main() -> None:
        items: Queue[int] = Queue()
        for n in range(100):
            items.put(n)
        assert [items.get() for _ in range(100)] == list(range(100))

    run(main)


@pytest.mark.parametrize("maxsize", [0, 1, 3])
def test_items_cross_between_fibers_in_order(run: Run, maxsize: int) -> None:
    def main() -> None:
        items: Queue[int] = Queue(maxsize)

        def produce() -> None:
            for n in range(1000):
                items.put(n)

        producer = ferrule.spawn(produce)
        assert [items.get() for _ in range(1000)] == list(range(1000))
        producer.result()
        assert items.empty()

    run(main)


def test_getters_and_putters_are_served_in_the_order_they_came(run: Run) -> None:
    def main() -> None:
        items: Queue[int] = Queue(1)
        getters = [ferrule.spawn(items.get) for _ in range(3)]
        settle()
        for n in range(3):
            items.put(n)
        assert [getter.result() for getter in getters] == [0, 1, 2]
        putters = [ferrule.spawn(items.put, n) for n in range(4)]
        settle()
        assert [items.get() for _ in range(4)] == [0, 1, 2, 3]
        for putter in putters:
            putter.result()

    run(main)


def test_an_item_goes_to_the_waiting_getter_and_not_to_a_later_one(run: Run) -> None:
    def main() -> None:
        items: Queue[str] = Queue()
        getter = ferrule.spawn(items.get)
        settle()
        items.put_nowait("mine")
        with pytest.raises(queue.Empty):
            items.get_nowait()
        assert getter.result() == "mine"

    run(main)


def test_sizes_and_fullness() -> None:
    items: Queue[int] = Queue(2)
    assert items.maxsize == 2
    assert (items.qsize(), items.empty(), items.full()) == (0, True, False)
    items.put_nowait(1)
    assert (items.qsize(), items.empty(), items.full()) == (1, False, False)
    items.put_nowait(2)
    assert (items.qsize(), items.empty(), items.full()) == (2, False, True)
    assert not Queue().full()
    assert not Queue(-1).full()


def test_what_need_not_wait_works_without_a_runtime() -> None:
    items: Queue[int] = Queue(1)
    items.put(1)
    with pytest.raises(queue.Full):
        items.put_nowait(2)
    with pytest.raises(queue.Full):
        items.put(2, block=False)
    with pytest.raises(queue.Full):
        items.put(2, timeout=0)
    assert items.get() == 1
    with pytest.raises(queue.Empty):
        items.get_nowait()
    with pytest.raises(queue.Empty):
        items.get(block=False)
    with pytest.raises(queue.Empty):
        items.get(timeout=0)
    lock, event = Lock(), Event()
    with lock:
        assert not lock.acquire(blocking=False)
    event.set()
    assert event.wait()


@pytest.mark.parametrize(
    "wait",
    [
        lambda: Queue().get(),
        lambda: Queue().get(timeout=1),
        lambda: held_queue().put(2),
        lambda: held_queue().join(),
        lambda: Event().wait(),
        lambda: Event().wait(1),
        lambda: held_lock().acquire(),
        lambda: held_lock().__enter__(),
    ],
)
def test_what_must_wait_needs_a_runtime(wait: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError, match=r"ferrule\.run"):
        wait()


def held_queue() -> Queue[int]:
    items: Queue[int] = Queue(1)
    items.put_nowait(1)
    return items


def held_lock() -> Lock:
    lock = Lock()
    lock.acquire()
    return lock


def test_get_and_put_with_timeouts(run: Run) -> None:
    def main() -> None:
        items: Queue[int] = Queue(1)
        with pytest.raises(queue.Empty):
            items.get(timeout=0.01)
        items.put(1)
        with pytest.raises(queue.Full):
            items.put(2, timeout=0.01)
        for call in (items.get, lambda timeout: items.put(1, timeout=timeout)):
            with pytest.raises(ValueError, match="non-negative"):
                call(timeout=-1)
        assert items.get() == 1
        assert items.empty()  # the item that timed out was not put

    run(main)


def test_a_cancelled_put_does_not_put(run: Run) -> None:
    def main() -> None:
        items: Queue[int] = Queue(1)
        items.put(1)
        cancelled, other = ferrule.spawn(items.put, 2), ferrule.spawn(items.put, 3)
        settle()
        cancelled.cancel()
        assert [items.get(), items.get()] == [1, 3]
        other.result()
        assert items.unfinished_tasks == 2

    run(main)


def test_nothing_is_lost_between_cancelled_getters(run: Run) -> None:
    def main() -> None:
        items: Queue[int] = Queue(2)
        got: list[int] = []

        def consumer() -> None:
            while True:
                got.append(items.get())

        def producer() -> None:
            for n in range(500):
                items.put(n)
                if n % 7 == 0:
                    victim = consumers.pop(0)
                    victim.cancel()
                    consumers.append(ferrule.spawn(consumer))

        consumers = [ferrule.spawn(consumer) for _ in range(5)]
        ferrule.spawn(producer).result()
        settle()
        assert sorted(got) == list(range(500))
        for task in consumers:
            task.cancel()

    run(main)


def test_join_waits_until_every_item_is_done(run: Run) -> None:
    def main() -> None:
        items: Queue[int] = Queue()
        for n in range(3):
            items.put(n)

        def worker() -> None:
            for _ in range(3):
                items.get()
                ferrule.sleep(0.001)
                items.task_done()

        joiner = ferrule.spawn(items.join)
        ferrule.spawn(worker)
        settle()
        assert not joiner.done()
        joiner.result()
        assert items.unfinished_tasks == 0
        items.join()
        with pytest.raises(ValueError, match="too many times"):
            items.task_done()

    run(main)


def test_shutdown_lets_getters_drain_and_refuses_putters(run: Run) -> None:
    def main() -> None:
        items: Queue[int] = Queue(2)
        items.put(1)
        items.put(2)
        putter = ferrule.spawn(items.put, 3)
        settle()
        items.shutdown()
        assert items.is_shutdown
        with pytest.raises(QueueShutDown):
            putter.result()
        for put in (items.put, items.put_nowait):
            with pytest.raises(QueueShutDown):
                put(4)
        assert [items.get(), items.get_nowait()] == [1, 2]
        for get in (items.get, items.get_nowait):
            with pytest.raises(QueueShutDown):
                get()

    run(main)


def test_shutdown_wakes_waiting_getters(run: Run) -> None:
    def main() -> None:
        items: Queue[int] = Queue()
        getters = [ferrule.spawn(items.get) for _ in range(3)]
        settle()
        items.shutdown()
        for getter in getters:
            with pytest.raises(QueueShutDown):
                getter.result()

    run(main)


def test_immediate_shutdown_drops_the_items_and_releases_join(run: Run) -> None:
    def main() -> None:
        items: Queue[int] = Queue()
        for n in range(3):
            items.put(n)
        items.get()
        joiner = ferrule.spawn(items.join)
        settle()
        items.shutdown(immediate=True)
        assert items.empty()
        with pytest.raises(QueueShutDown):
            items.get()
        settle()
        assert not joiner.done()  # one item is still being worked on
        items.task_done()
        joiner.result()

    run(main)


def test_queue_shut_down_is_the_standard_librarys_where_it_has_one() -> None:
    if sys.version_info < (3, 13):
        assert issubclass(QueueShutDown, Exception)
        assert not hasattr(queue, "ShutDown")
    else:
        assert QueueShutDown is queue.ShutDown


def test_a_busy_queue_does_not_starve_the_other_fibers(run: Run) -> None:
    def main() -> None:
        items: Queue[int] = Queue()
        ticks = []

        def ticker() -> None:
            for _ in range(10):
                ticks.append(1)
                ferrule.yield_now()

        task = ferrule.spawn(ticker)
        for n in range(10_000):  # completes without waiting, every time
            items.put(n)
            items.get()
        assert len(ticks) == 10
        task.result()

    run(main)


def test_an_item_that_waits_is_not_kept_by_the_queue_once_taken(run: Run) -> None:
    class Thing:
        pass

    def main() -> None:
        gc.disable()
        try:
            items: Queue[Thing] = Queue(1)
            thing = Thing()
            ref = weakref.ref(thing)
            getter = ferrule.spawn(items.get)
            settle()
            items.put(thing)
            del thing
            getter.join()
            del getter
            settle()
            assert ref() is None
        finally:
            gc.enable()

    run(main)


# ---- from elsewhere ----


def test_threads_wake_fibers(run: Run) -> None:
    def main() -> None:
        event = Event()
        items: Queue[int] = Queue()

        def elsewhere() -> None:
            time.sleep(0.01)
            event.set()
            for n in range(1000):
                items.put(n)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        assert event.wait(10)
        assert [items.get() for _ in range(1000)] == list(range(1000))
        thread.join()

    run(main)


def test_many_threads_feed_one_queue_while_getters_are_cancelled(run: Run) -> None:
    def main() -> None:
        items: Queue[int] = Queue()
        got: list[int] = []

        def feed(first: int) -> None:
            for n in range(first, first + 500):
                items.put_nowait(n)

        def consumer() -> None:
            while len(got) < 2000:
                got.append(items.get())

        def churn() -> None:
            while len(got) < 2000:
                victim = ferrule.spawn(consumer)
                ferrule.yield_now()
                victim.cancel()
                victim.join()

        threads = [threading.Thread(target=feed, args=(n * 500,)) for n in range(4)]
        for thread in threads:
            thread.start()
        churn()
        for thread in threads:
            thread.join()
        assert sorted(got) == list(range(2000))

    run(main)


def test_a_foreign_thread_cannot_block_but_is_told_so(run: Run) -> None:
    def main() -> None:
        full = held_queue()

        def elsewhere() -> str:
            with pytest.raises(RuntimeError, match=r"ferrule\.run") as info:
                full.put(2)
            return str(info.value)

        assert "runtime" in ferrule.blocking(elsewhere)

    run(main)


@pytest.mark.parametrize("what", ["event", "lock", "queue"])
def test_signal_handlers_wake_fibers(run: Run, what: str) -> None:
    event, lock = Event(), Lock()
    items: Queue[int] = Queue()
    lock.acquire()
    wake, wait = {
        "event": (event.set, event.wait),
        "lock": (lock.release, lock.acquire),
        "queue": (lambda: items.put_nowait(1), items.get),
    }[what]
    previous = signal.signal(signal.SIGALRM, lambda number, frame: wake())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        run(wait)  # no deadlock: a handler of the program may wake a fiber
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_a_signal_wakes_a_fiber_while_others_are_busy(run: Run) -> None:
    event = Event()
    previous = signal.signal(signal.SIGALRM, lambda number, frame: event.set())

    def main() -> None:
        def busy() -> None:
            while not event.is_set():
                ferrule.yield_now()

        task = ferrule.spawn(busy)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert event.wait(10)
        task.result()

    try:
        run(main)
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_primitives_are_usable_across_runs(run: Run) -> None:
    items: Queue[int] = Queue()
    lock = Lock()

    def main(n: int) -> int:
        getter = ferrule.spawn(items.get)
        with lock:
            items.put(n)
            return getter.result()

    assert [run(main, n) for n in range(3)] == [0, 1, 2]


def test_no_system_call_per_hop(run: Run) -> None:
    def main() -> None:
        there: Queue[int] = Queue(1)
        back: Queue[int] = Queue(1)

        def answer() -> None:
            for _ in range(1000):
                back.put(there.get())

        task = ferrule.spawn(answer)
        ferrule.sleep(0)
        runtime = ferrule.current_runtime()
        before = runtime.statistics()["enters"]
        for n in range(1000):
            there.put(n)
            assert back.get() == n
        assert runtime.statistics()["enters"] - before <= 2
        task.result()

    run(main)


def test_reprs_tell_the_state() -> None:
    event, lock = Event(), Lock()
    assert "unset" in repr(event)
    event.set()
    assert "unset" not in repr(event)
    assert "unlocked" in repr(lock)
    assert "maxsize 3" in repr(Queue(3))


def test_queue_can_be_subscripted() -> None:
    assert "int" in repr(Queue[int])
