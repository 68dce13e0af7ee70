"""A storm of calls that take paths, from 64 tasks at once: where such a call is best made."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .harness import (
    SCRATCH,
    Benchmark,
    Case,
    Column,
    Peers,
    Sample,
    in_child_on_all_cpus,
    refuse_tmpfs,
)

PEERS = Peers()
NAMES = 2_000
TASKS = 64
FOLDER = SCRATCH / "metadata"
# Not making files and folders: a journal's turns are what that measures.
CASES = STAT, STAT_ELSEWHERE, UNLINK, RENAME = (
    "stat", "stat, never on the loop", "unlink", "rename",
)  # fmt: skip
OWN, IN_WORKERS = "Ferrule", "Ferrule, all in workers"
EPOLL, THREADS = "Ferrule on epoll", "Ferrule on threads"
LOOP, POOL, TO_THREAD = "a plain loop", "ThreadPoolExecutor(8).map", "asyncio.to_thread"
STATX_BASIC_STATS = 0x7FF

Call = Callable[[str], object]


def prepare() -> None:
    """See to it that there is a place for the names."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    refuse_tmpfs(SCRATCH)


class Storm:
    """The names, made anew for each pass, and the time that each pass over them took."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.case = options["case"]
        self.passes = 3 if options["quick"] else 9
        self.names = [f"{FOLDER}/{number:05}" for number in range(NAMES)]
        self.seconds: list[float] = []
        self.cpu: list[float] = []

    def __iter__(self) -> Iterator[Iterator[str]]:
        """Give an iterator that the tasks share, once for each pass; the first warms up."""
        for _ in range(self.passes + 1):
            shutil.rmtree(FOLDER, ignore_errors=True)
            FOLDER.mkdir()
            for name in self.names:
                Path(name).touch()
            cpu, begin = time.process_time(), time.perf_counter()
            yield iter(self.names)
            self.seconds.append(time.perf_counter() - begin)
            self.cpu.append(time.process_time() - cpu)
            self.check()

    def check(self) -> None:
        """Raise unless every call was made."""
        left = len(os.listdir(FOLDER))
        renamed = self.case == RENAME and not os.path.exists(f"{self.names[-1]}.new")
        if left != (0 if self.case == UNLINK else NAMES) or renamed:
            raise AssertionError(f"{self.case} left {left} of {NAMES} names")

    def sample(self) -> Sample:
        return {
            "value": statistics.median(self.seconds[1:]) / NAMES * 1e6,
            "cpu_us": statistics.median(self.cpu[1:]) / NAMES * 1e6,
        }


# --- by Ferrule -----------------------------------------------------------------------------------


def functions_of_fs() -> dict[str, Call]:
    from ferrule import fs

    return rows(in_worker=False) | {
        STAT: fs.stat,
        UNLINK: fs.unlink,
        RENAME: lambda name: fs.rename(name, f"{name}.new"),
    }


def rows(in_worker: bool) -> dict[str, Call]:
    """Return the calls as bare operations, which the engine or a thread carries out."""
    from ferrule._core.fs_paths import perform_row

    def row(kind: str, name: str, **arguments: Any) -> int:
        result = perform_row(kind, path=os.fsencode(name), in_worker=in_worker, **arguments)
        if result < 0:
            raise OSError(-result, os.strerror(-result), name)
        return result

    def stat(name: str) -> int:
        return row("statx", name, mode=STATX_BASIC_STATS)

    return {
        STAT: stat,
        STAT_ELSEWHERE: stat,
        UNLINK: lambda name: row("unlinkat", name),
        RENAME: lambda name: row("renameat", name, path2=os.fsencode(f"{name}.new")),
    }


def ferrule_storm(
    options: dict[str, Any], calls: Callable[[], dict[str, Call]], **how: Any
) -> Sample:
    import ferrule

    def main() -> Sample:
        storm = Storm(options)
        call = calls()[storm.case]

        def work(names: Iterator[str]) -> None:
            for name in names:
                call(name)

        for names in storm:
            for task in [ferrule.spawn(work, names) for _ in range(options["tasks"])]:
                task.result()
        return storm.sample()

    return ferrule.run(main, **how)


@PEERS.add(OWN)
def ferrule_fs(options: dict[str, Any]) -> Sample:
    return ferrule_storm(options, functions_of_fs)


@PEERS.add(IN_WORKERS)
def ferrule_workers(options: dict[str, Any]) -> Sample:
    return ferrule_storm(options, lambda: rows(in_worker=True))


@PEERS.add(EPOLL)
def ferrule_epoll(options: dict[str, Any]) -> Sample:
    return ferrule_storm(options, functions_of_fs, backend="epoll")


@PEERS.add(THREADS)
def ferrule_threads(options: dict[str, Any]) -> Sample:
    return ferrule_storm(options, functions_of_fs, backend="threads")


# --- by others ------------------------------------------------------------------------------------

PLAIN: dict[str, Call] = {
    STAT: os.stat,
    UNLINK: os.unlink,
    RENAME: lambda name: os.rename(name, f"{name}.new"),
}


@PEERS.add(LOOP)
def plain_loop(options: dict[str, Any]) -> Sample:
    storm = Storm(options)
    call = PLAIN[storm.case]
    for names in storm:
        for name in names:
            call(name)
    return storm.sample()


@PEERS.add(POOL)
def thread_pool(options: dict[str, Any]) -> Sample:
    from concurrent.futures import ThreadPoolExecutor

    storm = Storm(options)
    with ThreadPoolExecutor(8) as pool:
        for names in storm:
            for _ in pool.map(PLAIN[storm.case], names):
                pass
    return storm.sample()


@PEERS.add(TO_THREAD)
def asyncio_to_thread(options: dict[str, Any]) -> Sample:
    import asyncio

    async def main() -> Sample:
        storm = Storm(options)
        call = PLAIN[storm.case]

        async def work(names: Iterator[str]) -> None:
            for name in names:
                await asyncio.to_thread(call, name)

        for names in storm:
            await asyncio.gather(*[work(names) for _ in range(TASKS)])
        return storm.sample()

    return asyncio.run(main())


BENCHMARK = Benchmark(
    name="metadata",
    title="A storm of calls that take paths",
    measures="Time per call; 64 tasks, or one, share a list of 2,000 names in one folder. Ferrule "
    "is `ferrule.fs`, by io_uring unless another engine is named; all in workers: by threads "
    "of Ferrule's, as on other engines. CPU is that of all threads, the kernel's for the ring "
    "included. All processors may be used.",
    unit="µs/call",
    higher_is_better=False,
    cases=[
        *(
            Case(
                name,
                {"case": name, "tasks": TASKS},
                None if name in PLAIN else [OWN, IN_WORKERS, EPOLL, THREADS],
            )
            for name in CASES
        ),
        *(
            Case(f"{name}, one task", {"case": name, "tasks": 1}, [OWN, IN_WORKERS])
            for name in (STAT_ELSEWHERE, UNLINK, RENAME)
        ),
    ],
    peers=PEERS,
    measure=in_child_on_all_cpus,
    prepare=prepare,
    columns=[Column("cpu_us", "CPU µs/call")],
)
