"""10,000 tasks at once, each a Python function that sleeps 50 ms in its middle."""

from __future__ import annotations

import statistics
import time
from typing import Any

from .harness import Benchmark, Case, Column, Peers, Sample, Target, in_child, run_uvloop

PEERS = Peers()
TASKS = 10_000
NAP_S = 0.05
FIRST = "first time in the process"
AGAIN = "again, in the same process"


class Stopwatch:
    """Collects processor and wall seconds of each pass; the last passes are what counts."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.passes = options["passes"]
        self.discarded = options["discarded"]
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def __enter__(self) -> None:
        self.begin = time.process_time(), time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.cpu.append(time.process_time() - self.begin[0])
        self.wall.append(time.perf_counter() - self.begin[1])

    def sample(self) -> Sample:
        cpu = statistics.median(self.cpu[self.discarded :])
        wall = statistics.median(self.wall[self.discarded :])
        return {"value": cpu * 1e3, "cpu_us": cpu / TASKS * 1e6, "wall_ms": wall * 1e3}


def before(number: int) -> list[int]:
    return [number, number + 1]


def after(parts: list[int]) -> int:
    return sum(parts)


def check(results: Any) -> None:
    """A peer that lost a task has not earned its figure."""
    if sum(results) != TASKS * TASKS:
        raise AssertionError("a task did not do its work")


@PEERS.add("Ferrule")
def ferrule_sleepers(options: dict[str, Any]) -> Sample:
    import ferrule

    def work(number: int) -> int:
        parts = before(number)
        ferrule.sleep(NAP_S)
        return after(parts)

    def main() -> Sample:
        watch = Stopwatch(options)
        for _ in range(watch.passes):
            with watch:
                tasks = [ferrule.spawn(work, number) for number in range(TASKS)]
                check(task.result() for task in tasks)
        return watch.sample()

    return ferrule.run(main)


async def asyncio_passes(options: dict[str, Any]) -> Sample:
    import asyncio

    async def work(number: int) -> int:
        parts = before(number)
        await asyncio.sleep(NAP_S)
        return after(parts)

    watch = Stopwatch(options)
    for _ in range(watch.passes):
        with watch:
            check(await asyncio.gather(*[work(number) for number in range(TASKS)]))
    return watch.sample()


@PEERS.add("uvloop")
def uvloop_sleepers(options: dict[str, Any]) -> Sample:
    return run_uvloop(asyncio_passes(options))


@PEERS.add("asyncio")
def asyncio_sleepers(options: dict[str, Any]) -> Sample:
    import asyncio

    return asyncio.run(asyncio_passes(options))


@PEERS.add("gevent")
def gevent_sleepers(options: dict[str, Any]) -> Sample:
    import gevent

    def work(number: int) -> int:
        parts = before(number)
        gevent.sleep(NAP_S)
        return after(parts)

    watch = Stopwatch(options)
    for _ in range(watch.passes):
        with watch:
            tasks = [gevent.spawn(work, number) for number in range(TASKS)]
            check(task.get() for task in tasks)
    return watch.sample()


@PEERS.add("trio")
def trio_sleepers(options: dict[str, Any]) -> Sample:
    import trio

    async def work(number: int, results: list[int]) -> None:
        parts = before(number)
        await trio.sleep(NAP_S)
        results.append(after(parts))

    async def main() -> Sample:
        watch = Stopwatch(options)
        for _ in range(watch.passes):
            with watch:
                results: list[int] = []
                async with trio.open_nursery() as nursery:
                    for number in range(TASKS):
                        nursery.start_soon(work, number, results)
                check(results)
        return watch.sample()

    return trio.run(main)


BENCHMARK = Benchmark(
    name="sleepers",
    title="10,000 sleeping tasks",
    measures="Processor milliseconds for starting 10,000 tasks, letting each sleep 50 ms, and "
    "collecting their results. The first time has to make the fibers; later times reuse them.",
    unit="CPU ms",
    higher_is_better=False,
    cases=[
        Case(FIRST, {"passes": 1, "discarded": 0}),
        Case(AGAIN, {"passes": 4, "discarded": 1}),
    ],
    peers=PEERS,
    measure=in_child,
    targets=[Target(FIRST, "uvloop", at_most=1.0), Target(AGAIN, "uvloop", at_most=1.0)],
    columns=[Column("cpu_us", "CPU µs/task"), Column("wall_ms", "wall ms")],
)
