"""The I/O queue with many files: contents and metadata of warm ones, contents of cold ones."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .harness import (
    SCRATCH,
    Benchmark,
    Case,
    Column,
    Peers,
    Sample,
    Settings,
    Target,
    Unavailable,
    in_child_on_all_cpus,
    refuse_tmpfs,
)

PEERS = Peers()
SIZE = 4096
PER_FOLDER = 1000
WARM, COLD, STATS = SCRATCH / "ioqueue_warm", SCRATCH / "ioqueue_cold", SCRATCH / "ioqueue_stats"
WARM_FILES, COLD_FILES, STAT_FILES = 5_000, 20_000, 100_000
READ_WARM = "read 5,000 warm files of 4 KiB"
READ_COLD = "read 20,000 cold files of 4 KiB"
STAT_WARM = "stat 100,000 files"
LOOP, POOL = "a plain loop", "ThreadPoolExecutor(8).map"
ONE, TWO, EIGHT = "Ferrule, 1 worker", "Ferrule, 2 workers", "Ferrule, 8 workers"
DROP_CACHES = Path("/proc/sys/vm/drop_caches")

Work = Callable[[list[str]], int]


def prepare() -> None:
    """Write the files, once."""
    refuse_tmpfs(SCRATCH)
    for folder, count, size in (
        (WARM, WARM_FILES, SIZE), (COLD, COLD_FILES, SIZE), (STATS, STAT_FILES, 0),
    ):  # fmt: skip
        for number in range(count):
            path = name(folder, number)
            if number % PER_FOLDER == 0:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            if not os.path.exists(path) or os.path.getsize(path) != size:
                Path(path).write_bytes(os.urandom(size))
    os.sync()


def name(folder: Path, number: int) -> str:
    return f"{folder}/{number // PER_FOLDER:03}/{number % PER_FOLDER:03}"


def drop_caches() -> None:
    os.sync()
    DROP_CACHES.write_text("3")


def measure(benchmark: Benchmark, case: Case, peer: str, settings: Settings) -> Sample:
    if case.options["cold"] and not os.access(DROP_CACHES, os.W_OK):
        raise Unavailable("only root can drop the page cache")
    return in_child_on_all_cpus(benchmark, case, peer, settings)


def timed(options: dict[str, Any], work: Work) -> Sample:
    """Time passes over all paths; the first of warm ones only warms up."""
    paths = [name(Path(options["folder"]), number) for number in range(options["files"])]
    expected = len(paths) * options["size"]
    passes = 1 if options["cold"] else 3 if options["quick"] else 6
    seconds, cpu = [], []
    for _ in range(passes):
        if options["cold"]:
            drop_caches()
        cpu_begin, begin = time.process_time(), time.perf_counter()
        total = work(paths)
        seconds.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - cpu_begin)
        if total != expected:
            raise AssertionError(f"{total} bytes instead of {expected}")
    warm = slice(1, None) if passes > 1 else slice(None)
    return {
        "value": statistics.median(seconds[warm]) / len(paths) * 1e6,
        "cpu_us": statistics.median(cpu[warm]) / len(paths) * 1e6,
    }


def ferrule_queue(options: dict[str, Any], threads: int) -> Sample:
    from ferrule.ioqueue import IOQueue

    with IOQueue(threads=threads) as queue:

        def read(paths: list[str]) -> int:
            return sum(len(data) for _, data in queue.iter_files(paths))

        def stat(paths: list[str]) -> int:
            return sum(found.st_size for found in queue.stat_many(paths))

        return timed(options, read if options["size"] else stat)


@PEERS.add(ONE)
def ferrule_one(options: dict[str, Any]) -> Sample:
    return ferrule_queue(options, 1)


@PEERS.add(TWO)
def ferrule_two(options: dict[str, Any]) -> Sample:
    return ferrule_queue(options, 2)


@PEERS.add(EIGHT)
def ferrule_eight(options: dict[str, Any]) -> Sample:
    return ferrule_queue(options, 8)


def read_plain(path: str) -> int:
    fd = os.open(path, os.O_RDONLY)
    data = os.read(fd, SIZE + 1)
    os.close(fd)
    return len(data)


def size_plain(path: str) -> int:
    return os.stat(path).st_size


@PEERS.add(LOOP)
def plain_loop(options: dict[str, Any]) -> Sample:
    each = read_plain if options["size"] else size_plain
    return timed(options, lambda paths: sum([each(path) for path in paths]))


@PEERS.add(POOL)
def thread_pool(options: dict[str, Any]) -> Sample:
    from concurrent.futures import ThreadPoolExecutor

    each = read_plain if options["size"] else size_plain
    with ThreadPoolExecutor(8) as pool:
        return timed(options, lambda paths: sum(pool.map(each, paths)))


def case(title: str, folder: Path, files: int, size: int, cold: bool, peers: list[str]) -> Case:
    options = {"folder": str(folder), "files": files, "size": size, "cold": cold}
    return Case(title, options, peers)


BENCHMARK = Benchmark(
    name="ioqueue",
    title="Many files through the I/O queue",
    measures="Time per file. Reading is open, read to the end, close, the contents as `bytes` of "
    "each file handed over (`IOQueue.iter_files`); the plain loop is os.open, os.read, os.close. "
    "Metadata are a StatResult each (`IOQueue.stat_many`), against os.stat. Cold: the caches are "
    "dropped before each pass, once per sample. All processors may be used.",
    unit="µs/file",
    higher_is_better=False,
    cases=[
        case(READ_WARM, WARM, WARM_FILES, SIZE, False, [ONE, TWO, LOOP, POOL]),
        case(STAT_WARM, STATS, STAT_FILES, 0, False, [ONE, TWO, LOOP, POOL]),
        case(READ_COLD, COLD, COLD_FILES, SIZE, True, [ONE, TWO, EIGHT, LOOP, POOL]),
    ],
    peers=PEERS,
    measure=measure,
    together=True,
    prepare=prepare,
    targets=[
        Target(READ_WARM, LOOP, at_least=1.3, subject=TWO),
        Target(READ_WARM, POOL, at_least=8, subject=TWO),
        Target(STAT_WARM, LOOP, at_least=1.5, subject=TWO),
        Target(READ_COLD, POOL, at_least=1.5, subject=TWO),
    ],
    columns=[Column("cpu_us", "CPU µs/file")],
)
