"""Open, read and close 5,000 small files that are in the page cache, from 64 tasks at once."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .harness import (
    SCRATCH,
    Benchmark,
    Case,
    Column,
    Peers,
    Sample,
    Target,
    in_child_on_all_cpus,
    refuse_tmpfs,
    run_uvloop,
)

PEERS = Peers()
FILES = 5_000
SIZE = 4096
TASKS = 64
FOLDER = SCRATCH / "files"
CASE = "5,000 warm files of 4 KiB"


def prepare() -> None:
    """Write the files, once."""
    refuse_tmpfs(SCRATCH)
    FOLDER.mkdir(exist_ok=True)
    for number in range(FILES):
        path = FOLDER / f"{number:05}"
        if not path.exists() or path.stat().st_size != SIZE:
            path.write_bytes(os.urandom(SIZE))


def read_plain(path: str) -> int:
    with open(path, "rb") as file:
        return len(file.read())


class Passes:
    """The files to read, and the time that each pass over all of them took."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.count = 2 if options["quick"] else 5
        self.paths = [str(path) for path in sorted(Path(FOLDER).iterdir())]
        self.seconds: list[float] = []
        self.cpu: list[float] = []
        for path in self.paths:  # warm, whatever ran before
            read_plain(path)

    def __iter__(self) -> Iterator[Iterator[str]]:
        """Give `count` times an iterator that the tasks share, and time what is done with it."""
        for _ in range(self.count + 1):
            self.bytes = 0
            cpu, begin = time.process_time(), time.perf_counter()
            yield iter(self.paths)
            self.seconds.append(time.perf_counter() - begin)
            self.cpu.append(time.process_time() - cpu)
            if self.bytes != FILES * SIZE:
                raise AssertionError(f"read {self.bytes} bytes of {FILES * SIZE}")

    def sample(self) -> Sample:
        """Return microseconds per file; the first pass also started threads or fibers."""
        return {
            "value": statistics.median(self.seconds[1:]) / FILES * 1e6,
            "cpu_us": statistics.median(self.cpu[1:]) / FILES * 1e6,
            "first_us": self.seconds[0] / FILES * 1e6,
        }


def ferrule_passes(options: dict[str, Any], read: Any) -> Sample:
    import ferrule

    def work(paths: Iterator[str], passes: Passes) -> None:
        for path in paths:
            length = read(path)  # by itself: `+=` reads the old sum before it parks
            passes.bytes += length

    def main() -> Sample:
        passes = Passes(options)
        for paths in passes:
            tasks = [ferrule.spawn(work, paths, passes) for _ in range(TASKS)]
            for task in tasks:
                task.result()
        return passes.sample()

    return ferrule.run(main)


@PEERS.add("Ferrule")
def ferrule_open(options: dict[str, Any]) -> Sample:
    import ferrule

    def read(path: str) -> int:
        with ferrule.open(path, "rb") as file:
            return len(file.read())

    return ferrule_passes(options, read)


@PEERS.add("Ferrule fs.read_bytes")
def ferrule_read_bytes(options: dict[str, Any]) -> Sample:
    import ferrule

    return ferrule_passes(options, lambda path: len(ferrule.fs.read_bytes(path)))


@PEERS.add("plain open().read() loop")
def plain_loop(options: dict[str, Any]) -> Sample:
    passes = Passes(options)
    for paths in passes:
        for path in paths:
            passes.bytes += read_plain(path)
    return passes.sample()


async def aiofiles_passes(options: dict[str, Any]) -> Sample:
    import asyncio

    import aiofiles

    async def work(paths: Iterator[str], passes: Passes) -> None:
        for path in paths:
            async with aiofiles.open(path, "rb") as file:
                data = await file.read()
            passes.bytes += len(data)

    passes = Passes(options)
    for paths in passes:
        await asyncio.gather(*[work(paths, passes) for _ in range(TASKS)])
    return passes.sample()


@PEERS.add("aiofiles")
def aiofiles_tasks(options: dict[str, Any]) -> Sample:
    import asyncio

    return asyncio.run(aiofiles_passes(options))


@PEERS.add("aiofiles on uvloop")
def aiofiles_uvloop(options: dict[str, Any]) -> Sample:
    return run_uvloop(aiofiles_passes(options))


@PEERS.add("anyio")
def anyio_tasks(options: dict[str, Any]) -> Sample:
    import anyio

    async def work(paths: Iterator[str], passes: Passes) -> None:
        for path in paths:
            async with await anyio.open_file(path, "rb") as file:
                data = await file.read()
            passes.bytes += len(data)

    async def main() -> Sample:
        passes = Passes(options)
        for paths in passes:
            async with anyio.create_task_group() as group:
                for _ in range(TASKS):
                    group.start_soon(work, paths, passes)
        return passes.sample()

    return anyio.run(main)


@PEERS.add("thread pool of 64")
def thread_pool(options: dict[str, Any]) -> Sample:
    from concurrent.futures import ThreadPoolExecutor

    passes = Passes(options)
    with ThreadPoolExecutor(TASKS) as pool:
        for paths in passes:
            passes.bytes = sum(pool.map(read_plain, paths))
    return passes.sample()


BENCHMARK = Benchmark(
    name="files",
    title="Small files",
    measures="Time per file for open, read to the end, close; a path is taken from a list that "
    "64 tasks share. All processors may be used, since most peers live off threads.",
    unit="µs/file",
    higher_is_better=False,
    cases=[Case(CASE)],
    peers=PEERS,
    measure=in_child_on_all_cpus,
    prepare=prepare,
    targets=[
        Target(CASE, "aiofiles", at_least=8),
        Target(CASE, "plain open().read() loop", at_most=1.5),
    ],
    columns=[Column("cpu_us", "CPU µs/file"), Column("first_us", "first pass, µs/file")],
)
