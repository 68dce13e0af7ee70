"""A million short tasks through one group, a thousand at a time: what they leave in memory."""

from __future__ import annotations

import time
from typing import Any

from .harness import Benchmark, Case, Column, Peers, Sample, Target, in_child, run_uvloop
from .parked import resident_kib

PEERS = Peers()
TASKS, QUICK_TASKS = 1_000_000, 100_000
AT_ONCE = 1000
CASE = "max_concurrency=1000"


class Scales:
    """Weighs the process ten times on the way; from the first on it should not grow."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.tasks = QUICK_TASKS if options["quick"] else TASKS
        self.ended = 0
        self.mib: list[float] = []
        self.begin = time.perf_counter()

    def weigh(self, spawned: int) -> None:
        """Before the next task is spawned."""
        if spawned and spawned % (self.tasks // 10) == 0:
            self.mib.append(resident_kib() / 1024)

    def sample(self) -> Sample:
        if self.ended != self.tasks:
            raise AssertionError(f"{self.ended} of {self.tasks} tasks ended")
        self.mib.append(resident_kib() / 1024)
        return {
            "value": (time.perf_counter() - self.begin) / self.tasks * 1e9,
            "before_mib": self.mib[0],
            "after_mib": self.mib[-1],
            "grown_mib": max(self.mib) - self.mib[0],
        }


@PEERS.add("Ferrule")
def ferrule_million(options: dict[str, Any]) -> Sample:
    import ferrule

    scales = Scales(options)

    def work() -> None:
        ferrule.sleep(0)
        scales.ended += 1

    def main() -> Sample:
        with ferrule.TaskGroup(max_concurrency=AT_ONCE) as group:
            for number in range(scales.tasks):
                scales.weigh(number)
                group.spawn(work)
        return scales.sample()

    return ferrule.run(main)


async def asyncio_tasks(options: dict[str, Any]) -> Sample:
    import asyncio

    scales = Scales(options)
    room = asyncio.Semaphore(AT_ONCE)

    async def work() -> None:
        await asyncio.sleep(0)
        scales.ended += 1
        room.release()

    async with asyncio.TaskGroup() as group:
        for number in range(scales.tasks):
            scales.weigh(number)
            await room.acquire()
            group.create_task(work())
    return scales.sample()


@PEERS.add("asyncio with a Semaphore")
def asyncio_million(options: dict[str, Any]) -> Sample:
    import asyncio

    return asyncio.run(asyncio_tasks(options))


@PEERS.add("the same on uvloop")
def uvloop_million(options: dict[str, Any]) -> Sample:
    return run_uvloop(asyncio_tasks(options))


@PEERS.add("trio with a Semaphore")
def trio_million(options: dict[str, Any]) -> Sample:
    import trio

    scales = Scales(options)

    async def main() -> Sample:
        room = trio.Semaphore(AT_ONCE)

        async def work() -> None:
            await trio.sleep(0)
            scales.ended += 1
            room.release()

        async with trio.open_nursery() as nursery:
            for number in range(scales.tasks):
                scales.weigh(number)
                await room.acquire()
                nursery.start_soon(work)
        return scales.sample()

    return trio.run(main)


@PEERS.add("gevent Pool")
def gevent_million(options: dict[str, Any]) -> Sample:
    import gevent
    from gevent.pool import Pool

    scales = Scales(options)

    def work() -> None:
        gevent.sleep(0)
        scales.ended += 1

    pool = Pool(AT_ONCE)
    for number in range(scales.tasks):
        scales.weigh(number)
        pool.spawn(work)
    pool.join()
    return scales.sample()


BENCHMARK = Benchmark(
    name="million",
    title="A million tasks through one group",
    measures="Each yields once and ends; at most a thousand run at a time, and the task that "
    "spawns them waits for room. The time is per task, all included. The process is weighed after "
    "each tenth of them: its resident set after the first tenth, at the end, and how far above "
    "the first it ever was.",
    unit="ns",
    higher_is_better=False,
    cases=[Case(CASE)],
    peers=PEERS,
    measure=in_child,
    targets=[Target(CASE, at_most=2, column="grown_mib", unit=" MiB")],
    columns=[
        Column("before_mib", "MiB after a tenth"),
        Column("after_mib", "MiB at the end"),
        Column("grown_mib", "MiB grown at most"),
    ],
)
