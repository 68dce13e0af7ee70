"""The scheduler: order, fairness, the budget, many fibers, and what it keeps."""

from __future__ import annotations

import gc
import os
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import ferrule

Run = Callable[..., Any]

MANY = 100_000 if os.environ.get("FERRULE_SOAK") == "long" else 20_000


def statistics() -> dict[str, Any]:
    return ferrule.current_runtime().statistics()


@pytest.mark.one_thread("fibers of one thread take turns")
def test_tasks_start_in_the_order_they_were_spawned(run: Run) -> None:
    def main() -> None:
        order: list[int] = []
        for n in range(100):
            ferrule.spawn(order.append, n)
        ferrule.yield_now()
        assert order == list(range(100))

    run(main)


def test_spawn_does_not_switch(run: Run) -> None:
    def main() -> None:
        ran: list[int] = []
        with ferrule.no_switch():
            ferrule.spawn(ran.append, 1)
        assert ran == []

    run(main)


@pytest.mark.one_thread("fibers of one thread take turns")
def test_yielding_fibers_take_turns(run: Run) -> None:
    def main() -> None:
        turns: list[str] = []

        def body(name: str) -> None:
            for _ in range(3):
                turns.append(name)
                ferrule.yield_now()

        with ferrule.TaskGroup() as group:
            for name in "abc":
                group.spawn(body, name)
        assert "".join(turns) == "abcabcabc"

    run(main)


@pytest.mark.one_thread("fibers of one thread take turns")
def test_woken_fibers_go_behind_those_that_are_ready(run: Run) -> None:
    def main() -> None:
        order: list[str] = []
        event = ferrule.Event()

        def waiter() -> None:
            event.wait()
            order.append("woken")

        ferrule.spawn(waiter)
        ferrule.yield_now()
        ferrule.spawn(order.append, "ready")
        event.set()
        ferrule.yield_now()
        assert order == ["ready", "woken"]

    run(main)


@pytest.mark.one_thread("fibers of one thread take turns")
@pytest.mark.parametrize("kind", ["queue", "event", "lock"])
def test_operations_that_complete_at_once_yield_by_budget(run: Run, kind: str) -> None:
    def main() -> None:
        queue: ferrule.Queue[int] = ferrule.Queue()
        event, lock = ferrule.Event(), ferrule.Lock()
        event.set()

        def operate() -> None:
            if kind == "queue":
                queue.put(1)
                queue.get()
            elif kind == "event":
                event.wait()
            else:
                with lock:
                    pass

        turns: list[int] = []

        def other() -> None:
            for _ in range(20):
                turns.append(1)
                ferrule.yield_now()

        task = ferrule.spawn(other)
        count = 0
        while len(turns) < 20:
            operate()
            count += 1
            assert count < 64 * 21 + 64, "the budget is 64 operations"
        task.result()

    run(main)


def test_a_lone_fiber_that_yields_goes_on(run: Run) -> None:
    def main() -> None:
        for _ in range(1000):
            ferrule.yield_now()

    run(main)


def test_many_fibers_are_parked_at_once(run: Run) -> None:
    def main() -> None:
        event = ferrule.Event()
        woken = 0

        def body() -> None:
            nonlocal woken
            event.wait()
            woken += 1

        tasks = [ferrule.spawn(body) for _ in range(MANY)]
        ferrule.yield_now()
        assert statistics()["live_tasks"] == MANY + 1
        event.set()
        for task in tasks:
            task.join()
        assert woken == MANY

    run(main)


def test_many_fibers_are_cancelled_at_once(run: Run) -> None:
    def main() -> None:
        with ferrule.move_on_after(3600) as scope, ferrule.TaskGroup() as group:
            tasks = [group.spawn(ferrule.sleep, 3600) for _ in range(MANY // 4)]
            ferrule.yield_now()
            scope.cancel()
        assert all(task.cancelled() for task in tasks)
        assert statistics()["timers"] == 0

    run(main)


def test_fibers_are_reused(run: Run) -> None:
    def main() -> None:
        for _ in range(1000):
            ferrule.spawn(int).result()
        assert statistics()["idle_fibers"] <= 2

    run(main)


def test_a_fiber_that_parked_deep_is_not_kept(run: Run) -> None:
    def main() -> None:
        # Through C frames, which is what takes stack: sorted() calls back into Python.
        def dive(n: int) -> int:
            if n == 0:
                ferrule.sleep(0.001)
                return 0
            return sorted([n], key=lambda n: dive(n - 1))[0]

        before = statistics()["idle_fibers"]
        ferrule.spawn(dive, 200).result()
        ferrule.spawn(int).result()
        assert statistics()["idle_fibers"] <= before + 1

    run(main)


def test_ending_tasks_leaves_no_objects(run: Run) -> None:
    class Thing:
        pass

    def main() -> None:
        refs = []

        def body() -> Thing:
            thing = Thing()
            refs.append(weakref.ref(thing))
            ferrule.sleep(0)
            return thing

        for _ in range(50):
            ferrule.spawn(body).join()
        ferrule.spawn(int).join()
        gc.collect()
        assert [ref for ref in refs if ref() is not None] == []

    run(main)


def test_runs_leave_no_objects(run: Run, engine: str) -> None:
    kinds = ("Task", "Fiber", "Scheduler", "CancelScope", "UringBackend", "greenlet", "Runtime")

    def count() -> dict[str, int]:
        gc.collect()
        found = dict.fromkeys(kinds, 0)
        for thing in gc.get_objects():
            name = type(thing).__name__
            if name in found:
                found[name] += 1
        return found

    def main() -> None:
        with ferrule.TaskGroup() as group:
            for _ in range(20):
                group.spawn(ferrule.sleep, 0.001)
        with ferrule.move_on_after(0):
            ferrule.Event().wait()

    run(main)
    before = count()
    for _ in range(3):
        run(main)
    kept = 6 if engine.endswith("-2") else 3  # this test's fixture remembers them
    assert count()["Scheduler"] <= before["Scheduler"] + kept
    for kind in ("Task", "Fiber", "greenlet"):
        assert count()[kind] <= before[kind] + 1, kind


def test_memory_does_not_grow_with_the_number_of_tasks(run: Run) -> None:
    def main() -> None:
        def burst() -> None:
            with ferrule.TaskGroup() as group:
                for _ in range(200):
                    group.spawn(ferrule.sleep, 0)

        burst()
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(20):
            burst()
        gc.collect()
        assert sys.getallocatedblocks() - before < 500

    run(main)


def test_idle_looks_cost_no_system_call(run: Run, most_looks: Callable[[float], float]) -> None:
    def main() -> None:
        def busy() -> None:
            for _ in range(1000):
                ferrule.yield_now()

        task = ferrule.spawn(busy)
        start, before = time.monotonic(), statistics()["enters"]
        for _ in range(1000):
            ferrule.yield_now()
        assert statistics()["enters"] - before <= most_looks(time.monotonic() - start)
        task.join()

    run(main)


@pytest.mark.one_thread("what was spawned has to have run by the next switch")
def test_a_task_can_spawn_from_a_destructor(run: Run) -> None:
    ran: list[int] = []

    class Spawner:
        def __del__(self) -> None:
            ferrule.spawn(ran.append, 1)

    def main() -> None:
        ferrule.spawn(Spawner).join()
        ferrule.yield_now()

    run(main)
    assert ran == [1]


def test_a_stress_of_everything_at_once(run: Run) -> None:
    def main() -> None:
        queue: ferrule.Queue[int] = ferrule.Queue(3)
        lock, event = ferrule.Lock(), ferrule.Event()
        outcome = {"got": 0, "put": 0}

        def producer(n: int) -> None:
            for k in range(50):
                with ferrule.move_on_after(0.0005 * (k % 3 + 1)):
                    queue.put(n)
                    outcome["put"] += 1

        def consumer() -> None:
            while True:
                with ferrule.move_on_after(0.001):
                    queue.get()
                    outcome["got"] += 1
                with lock:
                    ferrule.yield_now()

        def flipper() -> None:
            while True:
                event.set()
                ferrule.sleep(0.0005)
                event.clear()
                ferrule.yield_now()

        def waiter() -> None:
            while True:
                event.wait(0.001)
                ferrule.yield_now()

        with ferrule.TaskGroup() as background:
            for body in (consumer, consumer, consumer, flipper, waiter, waiter):
                background.spawn(body)
            with ferrule.TaskGroup() as group:
                for n in range(10):
                    group.spawn(producer, n)
            background.cancel()
        assert outcome["put"] == outcome["got"] + queue.qsize()
        assert lock.acquire(blocking=False)

    run(main)
