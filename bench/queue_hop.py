"""Hand items from one task to another through a queue: the price of waking somebody."""

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
ONE_WAY = "one way, a queue of one place"
ROUND_TRIP = "there and back, two queues (per hop)"


def put_all(queue: Any, size: int) -> None:
    for item in range(size):
        queue.put(item)


def get_all(queue: Any, size: int) -> None:
    for _ in range(size):
        queue.get()


def answer_all(questions: Any, answers: Any, size: int) -> None:
    for _ in range(size):
        answers.put(questions.get())


def ask_all(questions: Any, answers: Any, size: int) -> None:
    for item in range(size):
        questions.put(item)
        answers.get()


def hop(options: dict[str, Any], new_queue: Any, spawn: Any) -> Sample:
    """Measure hops between this task and one that `spawn` starts; it returns a way to wait."""

    def one_way(size: int) -> None:
        queue = new_queue(1)
        wait = spawn(put_all, queue, size)
        get_all(queue, size)
        wait()

    def round_trip(size: int) -> None:
        questions, answers = new_queue(1), new_queue(1)
        wait = spawn(answer_all, questions, answers, size // 2)
        ask_all(questions, answers, size // 2)
        wait()

    return repeat_for(options["seconds"], one_way if options["one_way"] else round_trip)


@PEERS.add("Ferrule")
def ferrule_hop(options: dict[str, Any]) -> Sample:
    import ferrule

    return ferrule.run(
        hop, options, ferrule.Queue, lambda function, *args: ferrule.spawn(function, *args).result
    )


async def asyncio_hops(options: dict[str, Any]) -> Sample:
    import asyncio

    async def put_all(queue: Any, size: int) -> None:
        for item in range(size):
            await queue.put(item)

    async def answer_all(questions: Any, answers: Any, size: int) -> None:
        for _ in range(size):
            await answers.put(await questions.get())

    async def one_way(size: int) -> None:
        queue: Any = asyncio.Queue(1)
        task = asyncio.create_task(put_all(queue, size))
        for _ in range(size):
            await queue.get()
        await task

    async def round_trip(size: int) -> None:
        questions: Any = asyncio.Queue(1)
        answers: Any = asyncio.Queue(1)
        task = asyncio.create_task(answer_all(questions, answers, size // 2))
        for item in range(size // 2):
            await questions.put(item)
            await answers.get()
        await task

    return await repeat_for_async(options["seconds"], one_way if options["one_way"] else round_trip)


@PEERS.add("asyncio.Queue")
def asyncio_hop(options: dict[str, Any]) -> Sample:
    import asyncio

    return asyncio.run(asyncio_hops(options))


@PEERS.add("asyncio.Queue on uvloop")
def uvloop_hop(options: dict[str, Any]) -> Sample:
    return run_uvloop(asyncio_hops(options))


@PEERS.add("gevent")
def gevent_hop(options: dict[str, Any]) -> Sample:
    import gevent
    from gevent.queue import Queue

    return hop(options, Queue, lambda function, *args: gevent.spawn(function, *args).join)


@PEERS.add("trio memory channel")
def trio_hop(options: dict[str, Any]) -> Sample:
    import trio

    async def put_all(items: Any, size: int) -> None:
        for item in range(size):
            await items.send(item)

    async def answer_all(questions: Any, answers: Any, size: int) -> None:
        for _ in range(size):
            await answers.send(await questions.receive())

    async def one_way(size: int) -> None:
        items_in, items_out = trio.open_memory_channel[int](1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put_all, items_in, size)
            for _ in range(size):
                await items_out.receive()

    async def round_trip(size: int) -> None:
        questions_in, questions_out = trio.open_memory_channel[int](1)
        answers_in, answers_out = trio.open_memory_channel[int](1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_all, questions_out, answers_in, size // 2)
            for item in range(size // 2):
                await questions_in.send(item)
                await answers_out.receive()

    return trio.run(
        repeat_for_async, options["seconds"], one_way if options["one_way"] else round_trip
    )


@PEERS.add("queue.Queue, threads")
def threads_hop(options: dict[str, Any]) -> Sample:
    import queue
    import threading

    def spawn(function: Any, *args: Any) -> Any:
        thread = threading.Thread(target=function, args=args)
        thread.start()
        return thread.join

    return hop(options, queue.Queue, spawn)


BENCHMARK = Benchmark(
    name="queue_hop",
    title="Queue hop",
    measures="One task puts, another gets. With one place in the queue neither can run ahead.",
    unit="ns",
    higher_is_better=False,
    cases=[Case(ONE_WAY, {"one_way": True}), Case(ROUND_TRIP, {"one_way": False})],
    peers=PEERS,
    measure=in_child,
    targets=[
        Target(ONE_WAY, "asyncio.Queue", at_least=6),
        Target(ROUND_TRIP, "asyncio.Queue", at_least=6),
    ],
    columns=[Column("cpu_us", "CPU µs/hop")],
)
