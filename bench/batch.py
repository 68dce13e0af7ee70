"""Many operations in flight at once: by one fiber with a Batch, by a fiber for each."""

from __future__ import annotations

import mmap
import os
import random
from typing import Any

from .harness import (
    SCRATCH,
    Benchmark,
    Case,
    Column,
    Peers,
    Sample,
    in_child,
    refuse_tmpfs,
    repeat_for,
)

PEERS = Peers()
FILE = SCRATCH / "batch.data"
FILE_SIZE = 64 << 20
SIZE = 4096
DEPTH = 32
SOCKETS = 1000
CACHED = "4 KiB reads at random places of a warm file, 32 at a time"
DIRECT = "the same past the page cache (O_DIRECT)"
RECEIVES = "one byte received on each of 1,000 sockets that all wait"


def prepare() -> None:
    """Write the file, once."""
    refuse_tmpfs(SCRATCH)
    if not FILE.exists() or FILE.stat().st_size != FILE_SIZE:
        FILE.write_bytes(os.urandom(FILE_SIZE))


class Reads:
    """Where to read, a buffer for each, and how to open the file."""

    def __init__(self, options: dict[str, Any]) -> None:
        FILE.read_bytes()  # warm, whatever ran before
        choose = random.Random(1)
        self.flags = os.O_RDONLY | (os.O_DIRECT if options["direct"] else 0)
        self.count = 320 if options["direct"] else 3200
        memory = memoryview(mmap.mmap(-1, self.count * SIZE))  # aligned, as O_DIRECT wants it
        self.places = [
            (memory[number * SIZE:][:SIZE], choose.randrange(FILE_SIZE // SIZE) * SIZE)
            for number in range(self.count)
        ]


def in_ferrule(options: dict[str, Any], read_all: Any, receive_all: Any) -> Sample:
    """Repeat one of the two in a fiber, whatever the case asks for."""
    import ferrule
    import ferrule.socket

    def reads() -> Sample:
        reads = Reads(options)
        with ferrule.fs.File.open(FILE, reads.flags) as file:
            return repeat_for(
                options["seconds"], lambda _: read_all(file, reads.places), reads.count
            )

    def receives() -> Sample:
        pairs = [ferrule.socket.socketpair() for _ in range(SOCKETS)]

        def round_of(size: int) -> None:
            # Plain send(2): what is compared is the waiting and the receiving.
            receive_all(pairs[:size], lambda pair: os.write(pair[1].fileno(), b"x"))

        sample = repeat_for(options["seconds"], round_of, SOCKETS)
        for pair in pairs:
            pair[0].close()
            pair[1].close()
        return sample

    return ferrule.run(reads if options["what"] == "reads" else receives)


@PEERS.add("Ferrule Batch")
def batch(options: dict[str, Any]) -> Sample:
    import ferrule

    def read_all(file: Any, places: list[Any]) -> None:
        with ferrule.Batch() as batch:
            for buffer, offset in places:
                if len(batch) == DEPTH:
                    for completion in batch.wait(DEPTH // 2):
                        completion.result()
                batch.add(file.readinto_at, buffer, offset)
            for completion in batch:
                completion.result()

    def receive_all(pairs: list[Any], send: Any) -> None:
        with ferrule.Batch() as batch:
            for pair in pairs:
                batch.add(pair[0].recv, 1)
            batch.completed()
            for pair in pairs:
                send(pair)
            for completion in batch.wait(len(pairs)):
                completion.result()

    return in_ferrule(options, read_all, receive_all)


@PEERS.add("Ferrule, a fiber for each operation")
def fiber_for_each(options: dict[str, Any]) -> Sample:
    import ferrule

    def read_all(file: Any, places: list[Any]) -> None:
        for first in range(0, len(places), DEPTH):
            tasks = [
                ferrule.spawn(file.readinto_at, *place) for place in places[first:first + DEPTH]
            ]
            for task in tasks:
                task.result()

    def receive_all(pairs: list[Any], send: Any) -> None:
        tasks = [ferrule.spawn(pair[0].recv, 1) for pair in pairs]
        ferrule.yield_now()
        for pair in pairs:
            send(pair)
        for task in tasks:
            task.result()

    return in_ferrule(options, read_all, receive_all)


@PEERS.add("Ferrule, one call after another")
def one_after_another(options: dict[str, Any]) -> Sample:
    def read_all(file: Any, places: list[Any]) -> None:
        for buffer, offset in places:
            file.readinto_at(buffer, offset)

    def receive_all(pairs: list[Any], send: Any) -> None:
        for pair in pairs:
            send(pair)
            pair[0].recv(1)

    return in_ferrule(options, read_all, receive_all)


@PEERS.add("os.preadv, one after another")
def plain_preadv(options: dict[str, Any]) -> Sample:
    reads = Reads(options)
    fd = os.open(FILE, reads.flags)

    def read_all(_: int) -> None:
        for buffer, offset in reads.places:
            os.preadv(fd, [buffer], offset)

    return repeat_for(options["seconds"], read_all, reads.count)


FERRULES = [name for name in PEERS if name.startswith("Ferrule")]
BENCHMARK = Benchmark(
    name="batch",
    title="Batch",
    measures="What an operation costs, begun and ended, when one fiber has many in flight.",
    unit="ns",
    higher_is_better=False,
    cases=[
        Case(CACHED, {"what": "reads", "direct": False}),
        Case(DIRECT, {"what": "reads", "direct": True}),
        Case(RECEIVES, {"what": "receives"}, peers=FERRULES),
    ],
    peers=PEERS,
    measure=in_child,
    prepare=prepare,
    columns=[Column("cpu_us", "CPU µs each")],
)
