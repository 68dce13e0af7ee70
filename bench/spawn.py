"""Start a task that returns at once, and wait for it: the price of a task."""

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


def nothing() -> None:
    pass


async def nothing_async() -> None:
    pass


@PEERS.add("Ferrule")
def ferrule_spawn(options: dict[str, Any]) -> Sample:
    import ferrule

    def batch(size: int) -> None:
        spawn = ferrule.spawn
        for _ in range(size):
            spawn(nothing).result()

    return ferrule.run(repeat_for, options["seconds"], batch)


async def create_and_await(options: dict[str, Any]) -> Sample:
    import asyncio

    async def batch(size: int) -> None:
        create_task = asyncio.create_task
        for _ in range(size):
            await create_task(nothing_async())

    return await repeat_for_async(options["seconds"], batch)


@PEERS.add("asyncio")
def asyncio_spawn(options: dict[str, Any]) -> Sample:
    import asyncio

    return asyncio.run(create_and_await(options))


@PEERS.add("uvloop")
def uvloop_spawn(options: dict[str, Any]) -> Sample:
    return run_uvloop(create_and_await(options))


@PEERS.add("gevent")
def gevent_spawn(options: dict[str, Any]) -> Sample:
    import gevent

    def batch(size: int) -> None:
        spawn = gevent.spawn
        for _ in range(size):
            spawn(nothing).join()

    return repeat_for(options["seconds"], batch)


@PEERS.add("trio")
def trio_spawn(options: dict[str, Any]) -> Sample:
    import trio

    async def batch(size: int) -> None:
        for _ in range(size):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nothing_async)

    return trio.run(repeat_for_async, options["seconds"], batch)


@PEERS.add("threads")
def threads_spawn(options: dict[str, Any]) -> Sample:
    import threading

    def batch(size: int) -> None:
        for _ in range(size):
            thread = threading.Thread(target=nothing)
            thread.start()
            thread.join()

    return repeat_for(options["seconds"], batch)


CASE = "spawn a task and await it"

BENCHMARK = Benchmark(
    name="spawn",
    title="Spawn and await",
    measures="`spawn(f).result()` in a loop, for a function that does nothing; the peers' own way "
    "to say the same.",
    unit="ns",
    higher_is_better=False,
    cases=[Case(CASE)],
    peers=PEERS,
    measure=in_child,
    targets=[Target(CASE, "asyncio", at_least=6), Target(CASE, "gevent", at_least=15)],
    columns=[Column("cpu_us", "CPU µs/task")],
)
