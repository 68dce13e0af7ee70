"""Random 4 KiB reads past the page cache, 32 at a time: what is left of the disk's speed.

Each read that ended is followed by the next one at once, with a submit of its own, as fio does by
default.  Submitting all that ended together costs less CPU, but the disk waits for it meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import os
import shutil
import time
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from .harness import (
    SCRATCH,
    SERVER_CPU,
    Benchmark,
    Case,
    Column,
    Peers,
    Sample,
    Settings,
    Target,
    Unavailable,
    output_of,
    refuse_tmpfs,
    run_child,
)
from .ring_file import BLOCK, check_blocks, shuffled_offsets, write_file

PEERS = Peers()
FILE = SCRATCH / "random.bin"
SIZE = 1 << 30
DEPTH = 32
TIMED_SLOT = 0  # the latency of one read in 32 is taken: enough of them, at no cost
CASE = "O_DIRECT, queue depth 32, 1 GiB"
FAST, FIO = "Ferrule fast", "fio io_uring"


def prepare() -> None:
    """Write the file, once; what the page cache has of it would be read from there by nobody."""
    refuse_tmpfs(SCRATCH)
    write_file(FILE, SIZE)
    with open(FILE, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def opened() -> Iterator[int]:
    """Open the file for reads that go past the page cache."""
    descriptor = os.open(FILE, os.O_RDONLY | os.O_DIRECT)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Clock:
    """Times a stretch of reads, and those among them that go through one slot."""

    def __init__(self, seconds: float) -> None:
        self.latencies: list[float] = []
        self.reads = 0
        self.running = True
        self.cpu = time.process_time()
        self.begin = self.now = self.started = time.perf_counter()
        self.end = self.begin + seconds

    def tick(self) -> None:
        """Look at the clock, once for all reads that ended together."""
        self.now = time.perf_counter()
        self.running = self.now < self.end

    def timed_slot_ended(self) -> None:
        """Note that the timed slot's read has ended and its next one begins."""
        self.latencies.append(self.now - self.started)
        self.started = self.now

    def sample(self) -> Sample:
        """Return reads per second, and how long a read took."""
        cpu = time.process_time() - self.cpu
        self.latencies.sort()

        def percentile(percent: int) -> float:
            return self.latencies[len(self.latencies) * percent // 100] * 1e6

        return {
            "value": self.reads / (self.now - self.begin),
            "cpu_us": cpu / self.reads * 1e6,
            "p50_us": percentile(50),
            "p99_us": percentile(99),
        }


@PEERS.add("Ferrule")
def ferrule_reads(options: dict[str, Any]) -> Sample:
    from ferrule.ring import Ring

    offsets = itertools.cycle(shuffled_offsets(SIZE))
    memory = memoryview(mmap.mmap(-1, DEPTH * BLOCK))  # page-aligned, as O_DIRECT asks for
    slots = [memory[n * BLOCK : (n + 1) * BLOCK] for n in range(DEPTH)]
    asked = [0] * DEPTH  # the offset that each slot reads
    with opened() as file, Ring(DEPTH) as ring:

        def read_next(slot: int) -> None:
            asked[slot] = offset = next(offsets)
            ring.prep_read(file, slots[slot], offset, user_data=slot)
            ring.submit()

        def slots_read(completions: Sequence[Any]) -> Iterator[int]:
            for cqe in completions:
                if cqe.raise_for_error() != BLOCK:
                    raise AssertionError(f"read {cqe.res} bytes of {BLOCK}")
                yield cqe.user_data

        for slot in range(DEPTH):
            read_next(slot)
        clock = Clock(options["seconds"])
        while clock.running:
            completions = ring.copy_cqes(wait_nr=1)
            clock.tick()
            for slot in slots_read(completions):
                clock.reads += 1
                if slot == TIMED_SLOT:
                    clock.timed_slot_ended()
                read_next(slot)
        sample = clock.sample()
        ring.submit_and_wait(DEPTH)
        if len(list(slots_read(ring.copy_cqes()))) != DEPTH:
            raise AssertionError("a completion is missing")
        check_blocks(memory, asked)
    return sample


@PEERS.add(FAST)
def ferrule_fast_reads(options: dict[str, Any]) -> Sample:
    from ferrule.ring import Ring

    offsets = memoryview(shuffled_offsets(SIZE))
    memory = memoryview(mmap.mmap(-1, DEPTH * BLOCK))
    # A read's tag is where in the memory it goes, so the tags that come back say what is free.
    tags = array("Q", range(0, DEPTH * BLOCK, BLOCK))
    results = array("i", [0]) * DEPTH
    log: list[int] = []  # the slots in the order of their reads; looked at after the clock stops
    with opened() as file, Ring(DEPTH) as ring:
        queue = ring.batch_queue(DEPTH, memory)

        def take_completions(wait_nr: int) -> int:
            count = queue.complete(results, tags, wait_nr=wait_nr)
            if results[:count].count(BLOCK) != count:
                raise AssertionError(f"{list(results[:count])}: not all are {BLOCK} bytes")
            return count

        def read_next(number: int) -> None:
            start, tag = tags[number], tags[number : number + 1]
            place = len(log) % len(offsets)
            if queue.prep_read(file, start, BLOCK, offsets[place : place + 1], tags=tag) != 1:
                raise AssertionError("the queue is full")
            log.append(start)
            ring.submit()

        for number in range(DEPTH):
            read_next(number)
        clock = Clock(options["seconds"])
        while clock.running:
            count = take_completions(1)
            clock.tick()
            clock.reads += count
            if TIMED_SLOT in tags[:count]:
                clock.timed_slot_ended()
            for number in range(count):
                read_next(number)
        sample = clock.sample()
        if take_completions(DEPTH) != DEPTH:
            raise AssertionError("a completion is missing")
        asked = {start: offsets[n % len(offsets)] for n, start in enumerate(log)}
        check_blocks(memory, [asked[start] for start in sorted(asked)])
    return sample


PEERS.add(FIO)(lambda options: None)


def fio_sample(report: str) -> Sample:
    """Make a sample of fio's JSON report."""
    job = json.loads(report)["jobs"][0]
    reads = job["read"]
    if job["error"] or not reads["total_ios"]:
        raise RuntimeError(f"fio's job ended with error {job['error']}")
    cpu_ms = (job["usr_cpu"] + job["sys_cpu"]) / 100 * reads["runtime"]
    return {
        "value": reads["iops"],
        "cpu_us": cpu_ms * 1e3 / reads["total_ios"],
        "p50_us": reads["lat_ns"]["percentile"]["50.000000"] / 1e3,
        "p99_us": reads["lat_ns"]["percentile"]["99.000000"] / 1e3,
    }


def measure_fio(seconds: int) -> Sample:
    """Run fio with its own defaults: it too makes a ring with SINGLE_ISSUER and DEFER_TASKRUN."""
    fio = shutil.which("fio")
    if not fio:
        raise Unavailable("fio is not installed (Debian: apt-get install fio)")
    command = [
        fio, "--name=random", f"--filename={FILE}", "--readonly", f"--size={SIZE}",
        "--rw=randread", f"--bs={BLOCK}", "--direct=1", "--ioengine=io_uring",
        f"--iodepth={DEPTH}", "--time_based", f"--runtime={seconds}", "--randrepeat=0",
        "--clat_percentiles=0", "--lat_percentiles=1", "--output-format=json", "--eta=never",
    ]  # fmt: skip
    return fio_sample(output_of(command, [SERVER_CPU], timeout=60))


def measure(benchmark: Benchmark, case: Case, peer: str, settings: Settings) -> Sample:
    seconds = 1 if settings.quick else 3  # fio takes whole seconds
    if peer == FIO:
        return measure_fio(seconds)
    timed = Case(case.name, {"seconds": seconds})
    return run_child(benchmark, timed, peer, settings, [SERVER_CPU])


BENCHMARK = Benchmark(
    name="ring_random",
    title="Ring: random reads from the disk",
    measures="4 KiB at a random, aligned offset, again and again, on one processor; the offsets "
    "of Ferrule's rows are shuffled before the clock starts, fio draws them as it goes. A read's "
    "latency contains its submission; Ferrule's rows time one read in 32, fio every one. All "
    "submit each read by itself. The blocks in memory at the end are checked.",
    unit="reads/s",
    higher_is_better=True,
    cases=[Case(CASE)],
    peers=PEERS,
    measure=measure,
    prepare=prepare,
    targets=[
        Target(CASE, FIO, at_least=0.9),
        Target(CASE, FIO, at_least=0.9, subject=FAST),
    ],
    columns=[
        Column("cpu_us", "CPU µs/read"),
        Column("p50_us", "p50 µs"),
        Column("p99_us", "p99 µs"),
    ],
)
