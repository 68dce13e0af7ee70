"""How late a 1 ms ticker comes while 64 tasks read cold 16 MiB files and one opens a FIFO.

Nobody ever writes to the FIFO, so its open blocks until the end of the benchmark.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
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
FILES = 64
SIZE = 16 * 1024 * 1024
PERIOD_S = 0.001
FOLDER = SCRATCH / "large"
FIFO = SCRATCH / "fifo"
CASE = "64 readers and a FIFO"


def prepare() -> None:
    """Write 1 GiB of files, once."""
    refuse_tmpfs(SCRATCH)
    FOLDER.mkdir(exist_ok=True)
    if not FIFO.exists():
        os.mkfifo(FIFO)
    for number in range(FILES):
        path = FOLDER / f"{number:02}"
        if path.exists() and path.stat().st_size == SIZE:
            continue
        with open(path, "wb") as file:
            file.write(os.urandom(SIZE))
            os.fsync(file.fileno())


def is_cached(fd: int) -> bool:
    """Say whether the middle of a file is in the page cache."""
    try:
        return os.preadv(fd, [bytearray(4096)], SIZE // 2, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False


def evict(path: str) -> None:
    """Throw one file out of the page cache, and make sure that it is out."""
    fd = os.open(path, os.O_RDONLY)
    try:
        for _ in range(50):  # pages that somebody is just using stay, for the moment
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if not is_cached(fd):
                return
            time.sleep(0.02)
        raise AssertionError(f"{path} stayed in the page cache")
    finally:
        os.close(fd)


class Watch:
    """The ticker's book: how late each tick came, and what the readers got done meanwhile."""

    def __init__(self) -> None:
        self.paths = [str(FOLDER / f"{number:02}") for number in range(FILES)]
        for path in self.paths:
            evict(path)
        self.bytes = 0
        self.over = False
        self.late_s: list[float] = []
        self.begin = time.perf_counter()
        self.planned = self.begin + PERIOD_S

    def delay(self) -> float:
        """Return the seconds to sleep until the next tick."""
        return max(self.planned - time.perf_counter(), 0.0)

    def tick(self) -> None:
        """Book every tick that is due: a stall of 50 ms makes 50 late ticks, not one."""
        now = time.perf_counter()
        while self.planned <= now:
            self.late_s.append(now - self.planned)
            self.planned += PERIOD_S

    def count(self, data: bytes) -> None:
        self.bytes += len(data)

    def sample(self) -> Sample:
        seconds = time.perf_counter() - self.begin
        if self.bytes != FILES * SIZE:
            raise AssertionError(f"read {self.bytes} bytes of {FILES * SIZE}")
        late = sorted(self.late_s)
        return {
            "value": late[int(len(late) * 0.99)] * 1e3,
            "p50_ms": late[len(late) // 2] * 1e3,
            "max_ms": late[-1] * 1e3,
            "ticks": len(late),
            "mb_s": self.bytes / seconds / 1e6,
            "cpu_ms": time.process_time() * 1e3,
        }


def free_the_fifo() -> int:
    """Let everybody pass who waits in the FIFO's open; the caller closes what it gets."""
    return os.open(FIFO, os.O_RDWR | os.O_NONBLOCK)


def read_plain(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def ferrule_ticker(read: Callable[[str], bytes], open_and_close: Callable[[str], None]) -> Sample:
    import ferrule

    def main() -> Sample:
        watch = Watch()

        def tick() -> None:
            while not watch.over:
                ferrule.sleep(watch.delay())
                watch.tick()

        stuck = ferrule.spawn(open_and_close, str(FIFO))
        ticker = ferrule.spawn(tick)
        readers = [ferrule.spawn(lambda path: watch.count(read(path)), p) for p in watch.paths]
        for reader in readers:
            reader.result()
        watch.over = True
        ticker.result()
        sample = watch.sample()
        fd = free_the_fifo()
        stuck.result()
        os.close(fd)
        return sample

    return ferrule.run(main)


@PEERS.add("Ferrule")
def ferrule_open(options: dict[str, Any]) -> Sample:
    import ferrule

    def read(path: str) -> bytes:
        with ferrule.open(path, "rb") as file:
            return file.read()

    return ferrule_ticker(read, lambda path: ferrule.open(path, "rb", buffering=0).close())


@PEERS.add("Ferrule fs.File")
def ferrule_file(options: dict[str, Any]) -> Sample:
    import ferrule

    def read(path: str) -> bytes:
        with ferrule.fs.File.open(path, os.O_RDONLY) as file:
            parts = []
            length = 0
            while length < SIZE and (part := file.pread(SIZE - length, length)):
                parts.append(part)
                length += len(part)
            return b"".join(parts)

    return ferrule_ticker(read, lambda path: ferrule.fs.File.open(path, os.O_RDONLY).close())


async def aiofiles_ticker() -> Sample:
    import asyncio

    import aiofiles

    watch = Watch()

    async def tick() -> None:
        while not watch.over:
            await asyncio.sleep(watch.delay())
            watch.tick()

    async def read(path: str) -> None:
        async with aiofiles.open(path, "rb") as file:
            watch.count(await file.read())

    async def open_fifo() -> None:
        async with aiofiles.open(FIFO, "rb"):
            pass

    stuck = asyncio.create_task(open_fifo())
    ticker = asyncio.create_task(tick())
    await asyncio.gather(*[read(path) for path in watch.paths])
    watch.over = True
    await ticker
    sample = watch.sample()
    fd = free_the_fifo()
    await stuck
    os.close(fd)
    return sample


@PEERS.add("aiofiles")
def aiofiles_asyncio(options: dict[str, Any]) -> Sample:
    import asyncio

    return asyncio.run(aiofiles_ticker())


@PEERS.add("aiofiles on uvloop")
def aiofiles_uvloop(options: dict[str, Any]) -> Sample:
    return run_uvloop(aiofiles_ticker())


@PEERS.add("gevent thread pool")
def gevent_ticker(options: dict[str, Any]) -> Sample:
    import gevent

    watch = Watch()
    pool = gevent.get_hub().threadpool

    def tick() -> None:
        while not watch.over:
            gevent.sleep(watch.delay())
            watch.tick()

    def read(path: str) -> None:
        watch.count(pool.apply(read_plain, (path,)))

    stuck = pool.spawn(lambda: open(FIFO, "rb").close())
    ticker = gevent.spawn(tick)
    gevent.joinall([gevent.spawn(read, path) for path in watch.paths], raise_error=True)
    watch.over = True
    ticker.get()
    sample = watch.sample()
    fd = free_the_fifo()
    stuck.get()
    os.close(fd)
    return sample


@PEERS.add("threads")
def threads_ticker(options: dict[str, Any]) -> Sample:
    from concurrent.futures import ThreadPoolExecutor

    watch = Watch()

    def tick() -> None:
        while not watch.over:
            time.sleep(watch.delay())
            watch.tick()

    with ThreadPoolExecutor(FILES + 2) as pool:
        stuck = pool.submit(lambda: open(FIFO, "rb").close())
        ticker = pool.submit(tick)
        for data in pool.map(read_plain, watch.paths):
            watch.count(data)
        watch.over = True
        ticker.result()
        sample = watch.sample()
        fd = free_the_fifo()
        stuck.result()
    os.close(fd)
    return sample


BENCHMARK = Benchmark(
    name="ticker",
    title="A ticker beside heavy reading",
    measures="p99 lateness of a 1 ms tick. The files are thrown out of the page cache before each "
    "sample (fsync, POSIX_FADV_DONTNEED, checked); each task reads one file whole. A tick missed "
    "in a stall counts with its full lateness. All processors may be used.",
    unit="ms",
    higher_is_better=False,
    cases=[Case(CASE)],
    peers=PEERS,
    measure=in_child_on_all_cpus,
    prepare=prepare,
    targets=[
        Target(CASE, at_most=5, unit=" ms p99"),
        Target(CASE, at_most=5, unit=" ms p99", subject="Ferrule fs.File"),
    ],
    columns=[
        Column("p50_ms", "p50 ms"),
        Column("max_ms", "max ms"),
        Column("mb_s", "read MB/s"),
        Column("cpu_ms", "CPU ms"),
    ],
)
