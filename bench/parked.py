"""100,000 tasks that wait for one event: what one of them keeps in memory."""

from __future__ import annotations

import os
import time
from typing import Any

from .harness import Benchmark, Case, Column, Peers, Sample, Target, in_child, run_uvloop

PEERS = Peers()
TASKS = 100_000
CASE = "100,000 parked"


def resident_kib() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1024


class Census:
    """Counts the tasks that wait and weighs the process before and after they came."""

    def __init__(self) -> None:
        self.tasks = TASKS
        self.waiting = 0
        self.ended = 0
        self.before_kib = resident_kib()
        self.begin = time.perf_counter()

    def weigh(self) -> None:
        """Take the weight once everybody waits."""
        if self.waiting != self.tasks:
            raise AssertionError(f"{self.waiting} of {self.tasks} tasks wait")
        self.parked_s = time.perf_counter() - self.begin
        self.grown_kib = resident_kib() - self.before_kib

    def sample(self) -> Sample:
        if self.ended != self.tasks:
            raise AssertionError(f"{self.ended} of {self.tasks} tasks woke up")
        return {
            "value": self.grown_kib / self.tasks,
            "parked": self.tasks,
            "park_ms": self.parked_s * 1e3,
            "all_ms": (time.perf_counter() - self.begin) * 1e3,
            "mappings": self.mappings,
        }

    @property
    def mappings(self) -> int:
        """How many mappings the process has; the kernel allows 65,530 unless told otherwise."""
        with open("/proc/self/maps", encoding="ascii") as file:
            return sum(1 for _ in file)


@PEERS.add("Ferrule")
def ferrule_parked(options: dict[str, Any]) -> Sample:
    import ferrule

    def main() -> Sample:
        go = ferrule.Event()
        census = Census()

        def work() -> None:
            census.waiting += 1
            go.wait()
            census.ended += 1

        tasks = [ferrule.spawn(work) for _ in range(census.tasks)]
        while census.waiting < census.tasks:
            ferrule.yield_now()
        census.weigh()
        go.set()
        for task in tasks:
            task.result()
        return census.sample()

    return ferrule.run(main)


@PEERS.add("gevent")
def gevent_parked(options: dict[str, Any]) -> Sample:
    import gevent
    from gevent.event import Event

    go = Event()
    census = Census()

    def work() -> None:
        census.waiting += 1
        go.wait()
        census.ended += 1

    tasks = [gevent.spawn(work) for _ in range(census.tasks)]
    while census.waiting < census.tasks:
        gevent.sleep(0)
    census.weigh()
    go.set()
    gevent.joinall(tasks)
    return census.sample()


async def asyncio_tasks() -> Sample:
    import asyncio

    go = asyncio.Event()
    census = Census()

    async def work() -> None:
        census.waiting += 1
        await go.wait()
        census.ended += 1

    tasks = [asyncio.create_task(work()) for _ in range(census.tasks)]
    while census.waiting < census.tasks:
        await asyncio.sleep(0)
    census.weigh()
    go.set()
    await asyncio.gather(*tasks)
    return census.sample()


@PEERS.add("asyncio tasks")
def asyncio_parked(options: dict[str, Any]) -> Sample:
    import asyncio

    return asyncio.run(asyncio_tasks())


@PEERS.add("uvloop tasks")
def uvloop_parked(options: dict[str, Any]) -> Sample:
    return run_uvloop(asyncio_tasks())


@PEERS.add("trio tasks")
def trio_parked(options: dict[str, Any]) -> Sample:
    import trio

    async def main() -> Sample:
        go = trio.Event()
        census = Census()

        async def work() -> None:
            census.waiting += 1
            await go.wait()
            census.ended += 1

        async with trio.open_nursery() as nursery:
            for _ in range(census.tasks):
                nursery.start_soon(work)
            while census.waiting < census.tasks:
                await trio.sleep(0)
            census.weigh()
            go.set()
        return census.sample()

    return trio.run(main)


BENCHMARK = Benchmark(
    name="parked",
    title="Parked tasks",
    measures="Growth of the resident set per task, 100,000 tasks waiting for one event; then all "
    "are woken and must end. Tasks of asyncio and trio have no stack of their own, so they are "
    "smaller by nature.",
    unit="KiB/task",
    higher_is_better=False,
    cases=[Case(CASE)],
    peers=PEERS,
    measure=in_child,
    targets=[Target(CASE, at_least_value=TASKS, column="parked", unit=" tasks")],
    columns=[
        Column("parked", "parked at once"),
        Column("park_ms", "ms to park"),
        Column("all_ms", "ms in all"),
        Column("mappings", "mappings at the end"),
    ],
)
