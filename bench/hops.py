"""Wake another task of the same thread through a Lock or an Event."""

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
EVENT = "Event: two tasks wake each other"
LOCK = "Lock: two tasks hand it over"


def events(size: int, new_event: Any, spawn: Any) -> None:
    mine, yours = new_event(), new_event()

    def answer() -> None:
        for _ in range(size // 2):
            yours.wait()
            yours.clear()
            mine.set()

    wait = spawn(answer)
    for _ in range(size // 2):
        yours.set()
        mine.wait()
        mine.clear()
    wait()


def locks(size: int, new_lock: Any, spawn: Any) -> None:
    """Each holds one of two locks that the other waits for, in turn."""
    table = [new_lock(), new_lock(), new_lock()]

    def walk(place: int, steps: int) -> None:
        for _ in range(steps):
            following = (place + 1) % 3
            table[following].acquire()
            table[place].release()
            place = following
        table[place].release()

    table[0].acquire()
    table[1].acquire()
    wait = spawn(walk, 1, size // 2)
    walk(0, size // 2)
    wait()


@PEERS.add("Ferrule")
def ferrule_hops(options: dict[str, Any]) -> Sample:
    import ferrule

    def spawn(function: Any, *args: Any) -> Any:
        return ferrule.spawn(function, *args).result

    def batch(size: int) -> None:
        if options["lock"]:
            locks(size, ferrule.Lock, spawn)
        else:
            events(size, ferrule.Event, spawn)

    return ferrule.run(repeat_for, options["seconds"], batch)


async def asyncio_hops(options: dict[str, Any]) -> Sample:
    import asyncio

    async def events(size: int) -> None:
        mine, yours = asyncio.Event(), asyncio.Event()

        async def answer() -> None:
            for _ in range(size // 2):
                await yours.wait()
                yours.clear()
                mine.set()

        task = asyncio.create_task(answer())
        for _ in range(size // 2):
            yours.set()
            await mine.wait()
            mine.clear()
        await task

    async def locks(size: int) -> None:
        table = [asyncio.Lock(), asyncio.Lock(), asyncio.Lock()]

        async def walk(place: int, steps: int) -> None:
            for _ in range(steps):
                following = (place + 1) % 3
                await table[following].acquire()
                table[place].release()
                place = following
            table[place].release()

        await table[0].acquire()
        await table[1].acquire()
        task = asyncio.create_task(walk(1, size // 2))
        await walk(0, size // 2)
        await task

    return await repeat_for_async(options["seconds"], locks if options["lock"] else events)


@PEERS.add("asyncio")
def asyncio_hop(options: dict[str, Any]) -> Sample:
    import asyncio

    return asyncio.run(asyncio_hops(options))


@PEERS.add("asyncio on uvloop")
def uvloop_hop(options: dict[str, Any]) -> Sample:
    return run_uvloop(asyncio_hops(options))


BENCHMARK = Benchmark(
    name="hops",
    title="Lock and Event hops",
    measures="Two tasks, each of which can go on only when the other has. Events: a set and a wait "
    "per hop. Locks: three of them in a circle, a task takes the next and lets go of its own, so "
    "each step waits for the other task's.",
    unit="ns",
    higher_is_better=False,
    cases=[Case(EVENT, {"lock": False}), Case(LOCK, {"lock": True})],
    peers=PEERS,
    measure=in_child,
    targets=[
        *(Target(case, "asyncio", at_least=6) for case in (EVENT, LOCK)),
        *(Target(case, at_most=900, unit="ns") for case in (EVENT, LOCK)),
    ],
    columns=[Column("cpu_us", "CPU µs/hop")],
)
