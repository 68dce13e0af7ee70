"""Start a hundred tasks in a group and leave it: the price of a task that others wait with."""

from __future__ import annotations

from typing import Any

from .harness import (
    Benchmark,
    Case,
    Column,
    Peers,
    Sample,
    Target,
    in_child,
    repeat_for,
    repeat_for_async,
    run_uvloop,
)

PEERS = Peers()
MEMBERS = 100


def nothing() -> None:
    pass


async def nothing_async() -> None:
    pass


@PEERS.add("Ferrule")
def ferrule_group(options: dict[str, Any]) -> Sample:
    import ferrule

    def batch(size: int) -> None:
        for _ in range(size // MEMBERS):
            with ferrule.TaskGroup() as group:
                spawn = group.spawn
                for _ in range(MEMBERS):
                    spawn(nothing)

    return ferrule.run(repeat_for, options["seconds"], batch)


async def asyncio_groups(options: dict[str, Any]) -> Sample:
    import asyncio

    async def batch(size: int) -> None:
        for _ in range(size // MEMBERS):
            async with asyncio.TaskGroup() as group:
                create_task = group.create_task
                for _ in range(MEMBERS):
                    create_task(nothing_async())

    return await repeat_for_async(options["seconds"], batch)


@PEERS.add("asyncio")
def asyncio_group(options: dict[str, Any]) -> Sample:
    import asyncio

    return asyncio.run(asyncio_groups(options))


@PEERS.add("asyncio on uvloop")
def uvloop_group(options: dict[str, Any]) -> Sample:
    return run_uvloop(asyncio_groups(options))


@PEERS.add("trio")
def trio_group(options: dict[str, Any]) -> Sample:
    import trio

    async def batch(size: int) -> None:
        for _ in range(size // MEMBERS):
            async with trio.open_nursery() as nursery:
                start_soon = nursery.start_soon
                for _ in range(MEMBERS):
                    start_soon(nothing_async)

    return trio.run(repeat_for_async, options["seconds"], batch)


@PEERS.add("gevent")
def gevent_group(options: dict[str, Any]) -> Sample:
    from gevent.pool import Group

    def batch(size: int) -> None:
        for _ in range(size // MEMBERS):
            group = Group()
            spawn = group.spawn
            for _ in range(MEMBERS):
                spawn(nothing)
            group.join()

    return repeat_for(options["seconds"], batch)


@PEERS.add("ThreadPoolExecutor, 4 threads")
def threads_group(options: dict[str, Any]) -> Sample:
    from concurrent.futures import ThreadPoolExecutor, wait

    def batch(size: int) -> None:
        for _ in range(size // MEMBERS):
            wait([pool.submit(nothing) for _ in range(MEMBERS)])

    with ThreadPoolExecutor(4) as pool:
        return repeat_for(options["seconds"], batch)


CASE = f"a group of {MEMBERS} tasks, per task"

BENCHMARK = Benchmark(
    name="group",
    title="A group of tasks",
    measures="`with TaskGroup() as group:` with a hundred `group.spawn(f)` inside, for a function "
    "that does nothing; the peers' own way to say the same.",
    unit="ns",
    higher_is_better=False,
    cases=[Case(CASE)],
    peers=PEERS,
    measure=in_child,
    targets=[
        Target(CASE, "asyncio", at_least=6),
        Target(CASE, "asyncio on uvloop", at_least=4),
    ],
    columns=[Column("cpu_us", "CPU µs/task")],
)
