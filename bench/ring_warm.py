"""4 KiB reads of a file that is in the page cache, 64 at a time."""

from __future__ import annotations

import itertools
import mmap
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .harness import (
    CPUS,
    SCRATCH,
    SERVER_CPU,
    Benchmark,
    Case,
    Column,
    Peers,
    Sample,
    Settings,
    Target,
    refuse_tmpfs,
    repeat_for,
    run_child,
)
from .ring_file import BLOCK, check_blocks, shuffled_offsets, write_file

PEERS = Peers()
# One that a processor has in its own caches, and one that no cache holds: the copy differs.
SIZES_MIB = (1, 64)
BATCH = 64
TURN = 16 * BATCH  # reads between two looks at the clock
SECONDS = 0.6
FAST, LOOP = "Ferrule fast", "os.preadv loop"
REGISTERED = f"{FAST}, registered file and memory"
POOL, POOL_OF_CHUNKS = "thread pool, a task per read", "thread pool, a task per processor"


def path_of(mib: int) -> Path:
    return SCRATCH / f"warm-{mib}.bin"


def case_of(mib: int) -> str:
    return f"batches of 64, a file of {mib} MiB"


def prepare() -> None:
    """Write the files, once."""
    refuse_tmpfs(SCRATCH)
    for mib in SIZES_MIB:
        write_file(path_of(mib), mib << 20)


class Reads:
    """A warm file, places for a batch of its blocks, and batches of offsets without end."""

    def __init__(
        self, options: dict[str, Any], new_batch: Callable[[array[int]], Sequence[int]]
    ) -> None:
        self.seconds = options["seconds"]
        self.file = os.open(path_of(options["mib"]), os.O_RDONLY)
        while os.read(self.file, 1 << 20):
            pass
        offsets = shuffled_offsets(options["mib"] << 20)
        batches = [new_batch(offsets[n : n + BATCH]) for n in range(0, len(offsets), BATCH)]
        self.batches: Iterator[Sequence[int]] = itertools.cycle(batches)
        self.memory = memoryview(mmap.mmap(-1, BATCH * BLOCK))
        self.slots = [self.memory[n * BLOCK : (n + 1) * BLOCK] for n in range(BATCH)]

    def measure(self, read_batch: Callable[[Sequence[int]], None]) -> Sample:
        """Return microseconds per read of `read_batch`, which reads the blocks of a batch."""
        batches = self.batches

        def turn(size: int) -> None:
            for _ in range(size // BATCH):
                read_batch(next(batches))

        taken = repeat_for(self.seconds, turn, TURN)
        last = next(batches)
        read_batch(last)
        check_blocks(self.memory, last)
        os.close(self.file)
        return {"value": taken["value"] / 1e3, "cpu_us": taken["cpu_us"]}


def ferrule_batches(ring: Any, reads: Reads, prepare: Callable[[Any, Any], None]) -> Sample:
    """Measure the fast level, where `prepare(queue, offsets)` queues the reads of a batch."""
    results, full = array("i", [0]) * BATCH, array("i", [BLOCK]) * BATCH
    queue = ring.batch_queue(BATCH, reads.memory)

    def read_batch(offsets: Sequence[int]) -> None:
        prepare(queue, offsets)
        taken = queue.submit_and_complete(results, wait_nr=BATCH)
        if taken != BATCH or results != full:
            raise AssertionError("a read is short or missing")

    return reads.measure(read_batch)


@PEERS.add(REGISTERED)
def ferrule_registered_reads(options: dict[str, Any]) -> Sample:
    from ferrule.ring import Ring, SqeFlags

    reads = Reads(options, lambda offsets: offsets)
    fixed = SqeFlags.FIXED_FILE
    with Ring(BATCH) as ring:
        ring.register_files([reads.file])
        ring.register_buffers([reads.memory])
        return ferrule_batches(ring, reads, lambda queue, offsets: queue.prep_read_fixed(
            0, 0, BLOCK, offsets, 0, flags=fixed))  # one block behind the other


@PEERS.add(FAST)
def ferrule_fast_reads(options: dict[str, Any]) -> Sample:
    from ferrule.ring import Ring

    reads = Reads(options, lambda offsets: offsets)
    with Ring(BATCH) as ring:
        return ferrule_batches(ring, reads, lambda queue, offsets: queue.prep_read(
            reads.file, 0, BLOCK, offsets))


@PEERS.add("Ferrule")
def ferrule_reads(options: dict[str, Any]) -> Sample:
    from ferrule.ring import Ring

    reads = Reads(options, list)
    file, slots = reads.file, reads.slots
    with Ring(BATCH) as ring:

        def read_batch(offsets: Sequence[int]) -> None:
            for slot, offset in zip(slots, offsets, strict=True):
                ring.prep_read(file, slot, offset, user_data=slot)
            ring.submit_and_wait(BATCH)
            for cqe in ring.copy_cqes():
                if cqe.res != BLOCK:
                    raise AssertionError(f"read {cqe.raise_for_error()} bytes of {BLOCK}")

        return reads.measure(read_batch)


def read_each(file: int, buffers: Sequence[Any], offsets: Sequence[int]) -> None:
    for buffer, offset in zip(buffers, offsets, strict=True):
        if os.preadv(file, buffer, offset) != BLOCK:
            raise AssertionError("a read is short")


@PEERS.add(LOOP)
def preadv_loop(options: dict[str, Any]) -> Sample:
    reads = Reads(options, list)
    buffers = [(slot,) for slot in reads.slots]
    return reads.measure(lambda offsets: read_each(reads.file, buffers, offsets))


@PEERS.add(POOL)
def thread_pool(options: dict[str, Any]) -> Sample:
    from concurrent.futures import ThreadPoolExecutor

    reads = Reads(options, list)
    file, buffers = reads.file, [(slot,) for slot in reads.slots]
    with ThreadPoolExecutor(len(CPUS)) as pool:

        def read_batch(offsets: Sequence[int]) -> None:
            tasks = [
                pool.submit(os.preadv, file, buffer, offset)
                for buffer, offset in zip(buffers, offsets, strict=True)
            ]
            for task in tasks:
                if task.result() != BLOCK:
                    raise AssertionError("a read is short")

        return reads.measure(read_batch)


@PEERS.add(POOL_OF_CHUNKS)
def thread_pool_of_chunks(options: dict[str, Any]) -> Sample:
    from concurrent.futures import ThreadPoolExecutor

    reads = Reads(options, list)
    file, buffers = reads.file, [(slot,) for slot in reads.slots]
    workers = len(CPUS)
    size = -(-BATCH // workers)
    parts = [slice(begin, begin + size) for begin in range(0, BATCH, size)]
    with ThreadPoolExecutor(workers) as pool:

        def read_batch(offsets: Sequence[int]) -> None:
            tasks = [pool.submit(read_each, file, buffers[part], offsets[part]) for part in parts]
            for task in tasks:
                task.result()

        return reads.measure(read_batch)


def measure(benchmark: Benchmark, case: Case, peer: str, settings: Settings) -> Sample:
    threads = peer in (POOL, POOL_OF_CHUNKS)
    return run_child(benchmark, case, peer, settings, CPUS if threads else [SERVER_CPU])


BENCHMARK = Benchmark(
    name="ring_warm",
    title="Ring: warm reads",
    measures="64 blocks of a file in the page cache, at random offsets, into memory that is "
    "used again for each batch; every length is checked, and the blocks of the last batch. The "
    "thread pools have a thread per processor; more are no faster.",
    unit="µs/read",
    higher_is_better=False,
    cases=[Case(case_of(mib), {"mib": mib, "seconds": SECONDS}) for mib in SIZES_MIB],
    peers=PEERS,
    measure=measure,
    prepare=prepare,
    targets=[
        Target(case_of(mib), peer, at_least=factor, subject=FAST)
        for mib in SIZES_MIB
        for peer, factor in ((LOOP, 1.2), (POOL_OF_CHUNKS, 3), (POOL, 3))
    ],
    columns=[Column("cpu_us", "CPU µs/read")],
)
