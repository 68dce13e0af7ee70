"""Queue, LifoQueue, PriorityQueue, rendezvous: queue's meaning; no item is lost."""

from __future__ import annotations

import gc
import heapq
import queue
import random
import sys
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import ferrule
from ferrule import LifoQueue, PriorityQueue, Queue, QueueShutDown
from sync_support import OSThread, World, alarm, cancel_here_and_there, settle, spawn_in_order

Run = Callable[..., Any]
KINDS = ["Queue", "LifoQueue", "PriorityQueue"]
of_all_kinds = pytest.mark.parametrize("name", KINDS)
all_kinds = pytest.mark.parametrize("kind", [Queue, LifoQueue, PriorityQueue])


# ---- as queue has them ----


@of_all_kinds
def test_a_queue_as_the_standard_library_has_it(world: World, name: str) -> None:
    def main() -> None:
        items = getattr(world, name)(2)
        assert (items.qsize(), items.empty(), items.full(), items.maxsize) == (0, True, False, 2)
        for get in (items.get_nowait, lambda: items.get(False), lambda: items.get(timeout=0.005)):
            with pytest.raises(queue.Empty):
                get()
        getter = world.spawn(items.get)
        world.settle()
        items.put(1)
        assert getter.result() == 1
        items.put(2)
        items.put_nowait(3)
        assert (items.qsize(), items.empty(), items.full()) == (2, False, True)
        for put in (items.put_nowait, lambda n: items.put(n, False)):
            with pytest.raises(queue.Full):
                put(4)
        for timeout in (0, 0.005):
            with pytest.raises(queue.Full):
                items.put(4, timeout=timeout)
        putter = world.spawn(items.put, 4)
        world.settle()
        assert not putter.done()
        assert items.get() == (3 if name == "LifoQueue" else 2)
        putter.result()
        assert sorted([items.get(), items.get()]) == ([2, 4] if name == "LifoQueue" else [3, 4])
        with pytest.raises(ValueError, match="non-negative"):
            items.get(timeout=-1)
        with pytest.raises(ValueError, match="non-negative"):
            items.put(1, timeout=-1)

    world.run(main)


@of_all_kinds
def test_join_waits_until_every_item_is_done(world: World, name: str) -> None:
    def main() -> None:
        items = getattr(world, name)()
        items.join()
        for n in range(3):
            items.put(n)
        joiners = [world.spawn(items.join) for _ in range(2)]
        for _ in range(3):
            world.settle()
            assert not any(joiner.done() for joiner in joiners)
            assert items.unfinished_tasks > 0
            items.get()
            items.task_done()
        for joiner in joiners:
            joiner.result()
        with pytest.raises(ValueError, match="too many times"):
            items.task_done()

    world.run(main)


def test_no_limit(world: World) -> None:
    for maxsize in (0, -1):
        items = world.Queue(maxsize)
        for n in range(100):
            items.put(n)
        assert not items.full()
        assert [items.get() for _ in range(100)] == list(range(100))


def test_last_in_first_out(world: World) -> None:
    items = world.LifoQueue()
    for n in range(100):
        items.put(n)
    assert [items.get() for _ in range(100)] == list(reversed(range(100)))


def test_the_order_of_priorities_is_that_of_the_standard_library(world: World) -> None:
    class Item:
        def __init__(self, key: int, number: int) -> None:
            self.key, self.number = key, number

        def __lt__(self, other: Item) -> bool:
            return self.key < other.key

    dice = random.Random(5)
    items, heap = world.PriorityQueue(), list[Item]()
    for number in range(2000):
        if dice.random() < 0.6 or not heap:
            item = Item(dice.randrange(20), number)
            items.put(item)
            heapq.heappush(heap, item)
        else:
            assert items.get().number == heapq.heappop(heap).number
    while heap:
        assert items.get() is heapq.heappop(heap)


# ---- first in, first out ----


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
        getters = spawn_in_order([items.get] * 3)
        for n in range(3):
            items.put(n)
        assert [getter.result() for getter in getters] == [0, 1, 2]
        putters = spawn_in_order(partial(items.put, n) for n in range(4))
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
        cancelled, other = spawn_in_order(partial(items.put, n) for n in (2, 3))
        cancel_here_and_there(cancelled)
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


@pytest.mark.one_thread("fibers of one thread take turns")
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


@pytest.mark.one_thread("what was spawned has to have run by the next switch")
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


# ---- priorities ----


class Picky:
    """Compares with whatever ``compare`` says."""

    def __init__(self, key: int, compare: Callable[[], Any]) -> None:
        self.key, self.compare = key, compare

    def __lt__(self, other: Any) -> bool:
        self.compare()
        return self.key < getattr(other, "key", other)

    def __gt__(self, other: Any) -> bool:
        self.compare()
        return self.key > getattr(other, "key", other)


def fail() -> None:
    raise ArithmeticError("not comparable")


def test_a_comparison_that_fails_leaves_the_queue_as_it_was(run: Run) -> None:
    def main() -> None:
        items: PriorityQueue[Any] = PriorityQueue()
        for n in (5, 3, 8, 1):
            items.put(n)
        with pytest.raises(ArithmeticError):
            items.put(Picky(0, fail))
        assert items.unfinished_tasks == 4
        with pytest.raises(TypeError):
            items.put("four")
        assert [items.get() for _ in range(4)] == [1, 3, 5, 8]

        hidden = Picky(2, lambda: None)
        for item in (0, 1, hidden, 3):
            items.put(item)
        hidden.compare = fail
        with pytest.raises(ArithmeticError):
            for _ in range(4):
                items.get()
        hidden.compare = lambda: None
        rest = [items.get() for _ in range(items.qsize())]
        assert hidden in rest
        assert rest == sorted(rest, key=lambda item: getattr(item, "key", item))

    run(main)


def test_who_waits_for_room_gets_the_exception_of_comparing_its_item(run: Run) -> None:
    def main() -> None:
        items: PriorityQueue[Any] = PriorityQueue(2)
        items.put(1)
        items.put(2)
        bad, good = ferrule.spawn(items.put, Picky(0, fail)), ferrule.spawn(items.put, 3)
        settle()
        assert items.get() == 1
        with pytest.raises(ArithmeticError):
            bad.result()
        good.result()  # has the room that the other one did not use
        assert [items.get(), items.get()] == [2, 3]
        assert items.unfinished_tasks == 3

    run(main)


def test_a_comparison_may_wait_and_may_use_the_queue(run: Run) -> None:
    def main() -> None:
        items: PriorityQueue[Any] = PriorityQueue()
        for n in range(0, 40, 2):
            items.put(n)

        def slow() -> None:
            ferrule.sleep(0.0005)

        tasks = [ferrule.spawn(items.put, Picky(n, slow)) for n in (31, 3, 17)]
        got = []
        while len(got) < 10:
            got.append(items.get())
            ferrule.sleep(0.0007)
        for task in tasks:
            task.result()
        interrupted: list[Any] = []
        items.put(Picky(-1, lambda: interrupted or interrupted.append(items.get_nowait())))
        assert len(interrupted) == 1
        got += interrupted + [items.get() for _ in range(items.qsize())]
        keys = [getattr(item, "key", item) for item in got]
        assert sorted(keys) == sorted([*range(0, 40, 2), 31, 3, 17, -1])

    run(main)


def test_a_put_that_its_own_comparison_cancels_does_not_wait(run: Run) -> None:
    def main() -> None:
        items: PriorityQueue[Any] = PriorityQueue(1)
        items.put(1)
        with ferrule.CancelScope() as scope:
            items.put(Picky(0, scope.cancel))
        assert scope.cancelled_caught
        assert items.get() == 1
        assert items.empty()

    run(main)


def test_a_signal_handler_uses_a_queue_that_it_found_half_way() -> None:
    items: PriorityQueue[Any] = PriorityQueue()
    for n in range(100):
        items.put(n)
    seen: list[Any] = []

    def wait_for_the_handler() -> None:
        while not seen:
            time.sleep(0.001)

    with alarm(0.02, lambda: (seen.append(items.get_nowait()), items.put_nowait(-5))):
        items.put(Picky(-1, wait_for_the_handler))
    assert seen == [0]
    first = [items.get() for _ in range(3)]
    assert [getattr(item, "key", item) for item in first] == [-5, -1, 1]


# ---- without a buffer ----


@pytest.mark.one_thread("what was spawned has to have run by the next switch")
def test_a_rendezvous_put_returns_when_the_item_is_taken(run: Run) -> None:
    def main() -> None:
        items: Queue[int] = Queue.rendezvous()
        assert (items.qsize(), items.empty(), items.full()) == (0, True, True)
        with pytest.raises(queue.Full):
            items.put_nowait(1)
        with pytest.raises(queue.Full):
            items.put(1, timeout=0.005)
        with pytest.raises(queue.Empty):
            items.get_nowait()
        putters = [ferrule.spawn(items.put, n) for n in range(3)]
        settle()
        assert not any(putter.done() for putter in putters)
        assert items.get() == 0
        assert items.get_nowait() == 1
        putters[0].result()
        putters[1].result()
        assert not putters[2].done()
        assert items.unfinished_tasks == 2
        putters[2].cancel()
        with pytest.raises(queue.Empty):
            items.get(timeout=0.005)
        getter = ferrule.spawn(items.get)
        settle()
        items.put_nowait(7)
        assert getter.result() == 7

    run(main)


@all_kinds
def test_a_rendezvous_of_threads_and_fibers(run: Run, kind: type[Queue[int]]) -> None:
    items = kind.rendezvous()
    got: list[int] = []

    def main() -> None:
        threads = [OSThread(put_range, items, n * 100, 100) for n in range(2)]
        fibers = [ferrule.spawn(put_range, items, 200 + n * 100, 100) for n in range(2)]
        other = OSThread(lambda: [items.get() for _ in range(200)])
        got.extend(items.get() for _ in range(200))
        for fiber in fibers:
            fiber.result()
        for thread in threads:
            ferrule.blocking(thread.result)
        got.extend(ferrule.blocking(other.result))

    run(main)
    assert sorted(got) == list(range(400))


def put_range(items: Any, first: int, count: int) -> None:
    for n in range(first, first + count):
        items.put(n)


def test_a_rendezvous_shut_down_wakes_both_sides(run: Run) -> None:
    def main() -> None:
        for wait in ("get", "put"):
            items: Queue[int] = Queue.rendezvous()
            task = ferrule.spawn(items.get) if wait == "get" else ferrule.spawn(items.put, 1)
            settle()
            items.shutdown()
            with pytest.raises(QueueShutDown):
                task.result()

    run(main)


# ---- threads ----


@all_kinds
@pytest.mark.parametrize("maxsize", [0, 1, 3])
def test_threads_and_fibers_share_a_queue_under_random_cancels(
    run: Run, kind: type[Queue[int]], maxsize: int
) -> None:
    seed = random.randrange(1 << 30)
    items = kind(maxsize)
    got: list[int] = []
    put: list[int] = []

    def produce(first: int, dice: random.Random) -> None:
        for n in range(first, first + 100):
            try:
                items.put(n, timeout=dice.choice([None, None, 0.0005, 0]))
            except queue.Full:
                continue
            put.append(n)

    def consume(dice: random.Random) -> None:
        while True:
            try:
                got.append(items.get(timeout=dice.choice([None, None, 0.0005, 0])))
            except queue.Empty:
                (ferrule.sleep if ferrule_thread() else time.sleep)(0.0001)
            except QueueShutDown:
                return

    def main() -> None:
        dice = random.Random(seed)
        threads = [OSThread(produce, n * 100, random.Random(seed + n)) for n in range(2)]
        threads += [OSThread(consume, random.Random(seed + 5 + n)) for n in range(2)]
        makers = [ferrule.spawn(produce, n * 100, random.Random(seed + n)) for n in range(2, 5)]
        users = [ferrule.spawn(consume, random.Random(seed + 9 + n)) for n in range(4)]
        for _ in range(10):
            ferrule.sleep(0.0005)
            users.pop(dice.randrange(4)).cancel()
            users.append(ferrule.spawn(consume, random.Random(seed + 20)))
        for task in makers:
            task.result()
        for thread in threads[:2]:
            ferrule.blocking(thread.result)
        items.shutdown()
        for task in users:
            task.result()
        for thread in threads[2:]:
            ferrule.blocking(thread.result)

    run(main)
    assert sorted(got) == sorted(put), f"seed {seed}"
    assert items.empty()


def ferrule_thread() -> bool:
    try:
        ferrule.current_task()
    except RuntimeError:
        return False
    return True


@all_kinds
def test_an_exception_of_a_signal_handler_leaves_the_item_in_the_queue(
    kind: type[Queue[int]],
) -> None:
    items = kind()

    def handler() -> None:
        items.put_nowait(1)  # goes to the main thread, which waits
        items.put_nowait(2)
        raise KeyboardInterrupt

    with alarm(0.02, handler), pytest.raises(KeyboardInterrupt):
        items.get()
    assert sorted([items.get_nowait(), items.get_nowait()]) == [1, 2]
    assert items.unfinished_tasks == 2


def test_an_exception_of_a_signal_handler_leaves_the_room_to_others() -> None:
    for kind in (Queue, PriorityQueue):
        items: Queue[int] = kind(1)
        items.put(1)
        others: list[OSThread] = []

        def handler(items: Queue[int] = items, others: list[OSThread] = others) -> None:
            others.append(OSThread(items.put, 3))
            time.sleep(0.02)
            items.get_nowait()
            raise KeyboardInterrupt

        with alarm(0.02, handler), pytest.raises(KeyboardInterrupt):
            items.put(2)
        if kind is Queue:
            assert items.get() == 2  # was put before the exception came
        others[0].result()
        assert items.get() == 3
        assert items.empty()


def test_fibers_of_two_loops_share_a_queue(run: Run) -> None:
    items: Queue[int] = Queue(2)

    def main(work: Callable[[], Any]) -> Any:
        return ferrule.spawn(work).result()

    maker = OSThread(run, main, lambda: put_range(items, 0, 500))
    user = OSThread(run, main, lambda: [items.get() for _ in range(500)])
    maker.result()
    assert user.result() == list(range(500))


# ---- what can be seen ----


@pytest.mark.parametrize(
    ("wait", "words"),
    [
        (lambda: LifoQueue().get(), "an item of a Queue"),
        (lambda: Queue.rendezvous().put(1), "room in a Queue"),
    ],
)
def test_deadlocks_name_queues(run: Run, wait: Callable[[], Any], words: str) -> None:
    with pytest.raises(ferrule.DeadlockError, match=f"main waits for {words}"):
        run(wait)


def test_reprs_tell_the_state() -> None:
    assert repr(Queue(3)) == "<ferrule.Queue 0 items, maxsize 3>"
    assert repr(PriorityQueue()) == "<ferrule.PriorityQueue 0 items, maxsize 0>"
    assert repr(LifoQueue.rendezvous()) == "<ferrule.LifoQueue without a buffer>"


@all_kinds
def test_queues_can_be_subscripted_and_derived_from(kind: Any) -> None:
    assert "int" in repr(kind[int])

    class Named(kind):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            super().__init__(1)
            self.name = name

    items = Named("mine")
    items.put(1)
    assert items.full()
    assert items.name == "mine"


@all_kinds
def test_the_items_of_a_queue_that_is_dropped_go_with_it(kind: Any) -> None:
    class Thing:
        def __init__(self, owner: Any) -> None:
            self.owner = owner

        def __lt__(self, other: Any) -> bool:
            return id(self) < id(other)

    items = kind()
    for _ in range(3):
        items.put(Thing(items))
    ref = weakref.ref(items)
    del items
    gc.collect()
    assert ref() is None
