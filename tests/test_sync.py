"""What all synchronisation has in common: who may call it, and what a hop costs."""

from __future__ import annotations

import functools
import os
import random
import signal
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ferrule
import ferrule.fs
from ferrule import Event, Lock, Queue
from sync_support import OSThread, settle

Run = Callable[..., Any]
Wait = Callable[[], Any]


def held_lock(kind: Any = Lock) -> Any:
    lock = kind()
    lock.acquire()
    return lock


def full_queue(kind: Any = Queue) -> Any:
    items = kind(1)
    items.put_nowait(1)
    return items


def written() -> ferrule.RWLock:
    lock = ferrule.RWLock()
    lock.write_lock().acquire()
    return lock


def wait_in(condition: ferrule.Condition) -> None:
    with condition:
        condition.wait()


# A wait of each kind that nobody ends; what it needs is made by whoever is at hand.
WAITS: dict[str, Callable[[], Wait]] = {
    "Event": lambda: Event().wait,
    "Lock": lambda: held_lock().acquire,
    "Condition": lambda: functools.partial(wait_in, ferrule.Condition()),
    "Semaphore": lambda: ferrule.Semaphore(0).acquire,
    "Barrier": lambda: ferrule.Barrier(2).wait,
    "RWLock, to read": lambda: written_elsewhere().read_lock().acquire,
    "Queue.get": lambda: Queue().get,
    "LifoQueue.get": lambda: ferrule.LifoQueue().get,
    "PriorityQueue.get": lambda: ferrule.PriorityQueue().get,
    "Queue.put": lambda: functools.partial(full_queue().put, 2),
    "PriorityQueue.put": lambda: functools.partial(full_queue(ferrule.PriorityQueue).put, 2),
    "rendezvous": lambda: functools.partial(Queue.rendezvous().put, 1),
    "Queue.join": lambda: full_queue().join,
}
each_wait = pytest.mark.parametrize("wait", WAITS)


@each_wait
def test_a_wait_is_a_cancellation_point_and_leaves_nothing_behind(run: Run, wait: str) -> None:
    def main() -> None:
        task = ferrule.spawn(ready := WAITS[wait]())
        settle()
        assert not task.done()
        task.cancel()
        task.join()
        assert task.cancelled()
        again = ferrule.spawn(ready)
        again.cancel()  # before it starts
        again.join()
        assert again.cancelled()

    make_held = WAITS[wait]
    assert callable(make_held())
    run(main)


@each_wait
def test_a_wait_ends_with_the_deadline_of_a_scope(run: Run, wait: str) -> None:
    def main() -> None:
        begin = time.monotonic()
        with ferrule.move_on_after(0.01) as scope:
            WAITS[wait]()()
        assert scope.cancelled_caught
        assert time.monotonic() - begin >= 0.01

    run(main)


@each_wait
def test_a_wait_is_refused_inside_no_switch(run: Run, wait: str) -> None:
    def main() -> None:
        ready = WAITS[wait]()
        with ferrule.no_switch(), pytest.raises(RuntimeError, match="no_switch"):
            ready()

    run(main)


@each_wait
def test_a_wait_is_refused_in_a_done_callback(
    run: Run, wait: str, unraisable: list[Any]
) -> None:
    def main() -> None:
        ready = WAITS[wait]()
        task = ferrule.spawn(int)
        task.add_done_callback(lambda task: ready())
        task.join()

    run(main)
    assert [type(exc) for _, exc in unraisable] == [RuntimeError]


@pytest.mark.parametrize(
    "wait",
    [
        lambda: Event().wait(0.02),
        lambda: held_lock().acquire(timeout=0.02),
        lambda: ferrule.Semaphore(0).acquire(timeout=0.02),
        lambda: written_elsewhere().read_lock().acquire(timeout=0.02),
    ],
)
def test_a_thread_without_a_loop_really_blocks(wait: Wait) -> None:
    begin = time.monotonic()
    assert wait() is False
    assert time.monotonic() - begin >= 0.02


def written_elsewhere() -> ferrule.RWLock:
    return OSThread(written).result()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "make",
    [
        Event, Lock, ferrule.RLock, ferrule.Condition, ferrule.Semaphore, ferrule.BoundedSemaphore,
        lambda: ferrule.Barrier(1), ferrule.RWLock, Queue, ferrule.LifoQueue, ferrule.PriorityQueue,
    ],
)
def test_weak_references_are_told_of_the_end(make: Callable[[], Any]) -> None:
    gone: list[Any] = []
    one = make()
    ref = weakref.ref(one, gone.append)
    assert ref() is one
    del one
    assert gone == [ref]  # a reference that nobody clears would only look dead


def test_what_does_not_wait_may_be_called_in_a_done_callback(run: Run) -> None:
    done: list[Any] = []

    def use(task: Any) -> None:
        lock, items, permits = Lock(), Queue[int](1), ferrule.Semaphore()
        assert lock.acquire(False)
        assert not lock.acquire(False)
        lock.release()
        with ferrule.RLock(), ferrule.RWLock().read_lock(), permits:
            items.put_nowait(1)
            assert items.get_nowait() == 1
        with ferrule.Condition() as entered:
            assert entered
        done.append(task)

    def main() -> None:
        task = ferrule.spawn(int)
        task.add_done_callback(use)
        task.join()

    run(main)
    assert len(done) == 1


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


def test_a_signal_that_a_worker_took_is_handled_while_fibers_are_busy(
    run: Run, tmp_path: Path
) -> None:
    """As the one that interrupts it, where the program handles that: Python does not see it."""
    handled: list[int] = []
    previous = signal.signal(signal.SIGURG, lambda number, frame: handled.append(number))
    path = tmp_path / "file"
    path.touch()

    def busy() -> bool:
        until = time.monotonic() + 10
        while not handled and time.monotonic() < until:
            ferrule.yield_now()
        return bool(handled)

    def main() -> bool:
        with ferrule.fs.File.open(path, os.O_RDWR) as one, ferrule.fs.File.open(path) as two:
            one.lock()
            waiting = ferrule.spawn(two.lock)
            ferrule.sleep(0.05)
            waiting.cancel()
            took = busy()
            ferrule.wait([waiting])
            return took

    try:
        assert run(main)
    finally:
        signal.signal(signal.SIGURG, previous)


def test_primitives_are_usable_across_runs(run: Run) -> None:
    items: Queue[int] = Queue()
    lock = Lock()

    def main(n: int) -> int:
        getter = ferrule.spawn(items.get)
        with lock:
            items.put(n)
            return getter.result()

    assert [run(main, n) for n in range(3)] == [0, 1, 2]


@pytest.mark.one_thread("a hop to another thread wakes it")
def test_no_system_call_per_hop(run: Run, most_looks: Callable[[float], float]) -> None:
    def main() -> None:
        there: Queue[int] = Queue(1)
        back: Queue[int] = Queue(1)

        def answer() -> None:
            for _ in range(1000):
                back.put(there.get())

        task = ferrule.spawn(answer)
        ferrule.sleep(0)
        runtime = ferrule.current_runtime()
        start, before = time.monotonic(), runtime.statistics()["enters"]
        for n in range(1000):
            there.put(n)
            assert back.get() == n
        assert runtime.statistics()["enters"] - before <= most_looks(time.monotonic() - start)
        task.result()

    run(main)


# ---- all at once ----


@pytest.mark.parametrize("kind", [Lock, ferrule.RLock])
@pytest.mark.parametrize("loop_threads", [1, 2])
def test_a_lock_is_never_lost_nor_held_twice(run: Run, kind: Any, loop_threads: int) -> None:
    seed = random.randrange(1 << 30)
    lock, inside, most = kind(), 0, 0

    def use(sleep: Callable[[float], None], dice: random.Random) -> None:
        nonlocal inside, most
        for _ in range(40):
            if not lock.acquire(timeout=dice.choice([-1, -1, 0.001, 0.0001, 0])):
                continue
            try:
                inside += 1
                most = max(most, inside)
                sleep(dice.choice([0, 0, 0.0005]))
            finally:
                inside -= 1
                lock.release()

    def main() -> None:
        threads = [OSThread(use, time.sleep, random.Random(seed + n)) for n in range(3)]
        fibers = [ferrule.spawn(use, ferrule.sleep, random.Random(seed + 9 + n)) for n in range(6)]
        for n in range(5):
            ferrule.sleep(0.002)
            fibers[n].cancel()
        for fiber in fibers:
            fiber.join()
        for thread in threads:
            ferrule.blocking(thread.result)

    run(main, threads=loop_threads)
    assert (inside, most) == (0, 1), f"seed {seed}"
    assert lock.acquire(False)


def test_fibers_of_several_loop_threads_and_os_threads_use_everything(run: Run) -> None:
    items, back = Queue[int](2), Queue[int].rendezvous()
    permits, barrier = ferrule.Semaphore(2), ferrule.Barrier(4)
    condition, shared = ferrule.Condition(), ferrule.RWLock()
    total = 0

    def work(first: int) -> None:
        nonlocal total
        for n in range(first, first + 30):
            items.put(n)
            with permits:
                got = items.get()
            with shared.write_lock() if n % 5 == 0 else shared.read_lock():
                pass
            with condition:
                total += got
                condition.notify_all()
        barrier.wait(20)
        back.put(first)

    def main() -> list[int]:
        threads = [OSThread(work, n * 30) for n in range(2)]
        with ferrule.TaskGroup() as group:
            for n in range(2, 4):
                group.spawn(work, n * 30)
            with condition:
                assert condition.wait_for(lambda: total == sum(range(120)), 20)
            came = [back.get() for _ in range(4)]
        for thread in threads:
            ferrule.blocking(thread.result)
        return came

    assert sorted(run(main, threads=2)) == [0, 30, 60, 90]
