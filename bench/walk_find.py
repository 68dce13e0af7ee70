"""`ferrule find /usr` beside bfs, fd and find: the walk, and the start of the program."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .harness import ROOT, Benchmark, Case, Column, Sample, Settings, Target, Unavailable
from .walk_trees import CPU, USR, check_usr, empty_folder

WALK, START = "all of /usr, less the start", "start: an empty folder"
FERRULE = [str(Path(sys.executable).parent / "ferrule"), "find"]
# Put there by `make bench`; WALK_PEERS names another folder.
BROUGHT = Path(os.environ.get("WALK_PEERS", ROOT / "build" / "walk-peers")) / "bin"
VERSION = re.compile(r"\d+(?:\.\d+)+")
OLDEST = {"bfs": (4, 0, 6), "fd": (10,), "find": (4,)}


def program(name: str) -> str:
    """Return a program's path, the one brought for this before the machine's."""
    brought = BROUGHT / name
    found = str(brought) if brought.exists() else shutil.which(name)
    if not found:
        raise Unavailable(f"there is no {name}, nor {brought}")
    answer = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    version = VERSION.search(answer.stdout)
    oldest = OLDEST[name]
    if not version or tuple(map(int, version[0].split("."))) < oldest:
        wanted = ".".join(map(str, oldest))
        raise Unavailable(f"{found} says {answer.stdout.split()[:2]}; {wanted} is the oldest")
    return found


PEERS = {
    "Ferrule": lambda top: [*FERRULE, top],
    "Ferrule -j1": lambda top: [*FERRULE, "-j1", top],
    "Ferrule -j2": lambda top: [*FERRULE, "-j2", top],
    "bfs -j1": lambda top: [program("bfs"), "-j1", top],
    "bfs -j2": lambda top: [program("bfs"), "-j2", top],
    "fd -u": lambda top: [program("fd"), "-u", "--color=never", ".", top],
    "GNU find": lambda top: [program("find"), top],
}


def run_once(command: Sequence[str]) -> tuple[float, float]:
    """Return the seconds a program took, and those of the processor, threads and all."""
    begin = time.perf_counter()
    pid = os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - begin
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return wall, usage.ru_utime + usage.ru_stime


def run_often(command: Sequence[str], seconds: float) -> tuple[float, float]:
    """Return the medians of some runs, after one that warms, in milliseconds."""
    run_once(command)
    runs, end = [], time.perf_counter() + seconds
    while len(runs) < 5 or time.perf_counter() < end:
        runs.append(run_once(command))
    wall, cpu = (statistics.median(figures) * 1e3 for figures in zip(*runs, strict=True))
    return wall, cpu


def measure(benchmark: Benchmark, case: Case, peer: str, settings: Settings) -> Sample:
    """Time the program on an empty folder, and for the walk also on /usr; take the difference."""
    command = PEERS[peer]
    start, start_cpu = run_often(command(str(empty_folder())), settings.seconds / 3)
    if case.name == START:
        return {"value": start, "cpu_ms": start_cpu}
    wall, cpu = run_often(command(USR), settings.seconds)
    return {"value": wall - start, "cpu_ms": cpu - start_cpu, "start_ms": start}


BENCHMARK = Benchmark(
    name="walk_find",
    title="ferrule find",
    measures="Wall time to print every path of /usr, page cache warm, to /dev/null, less the same "
    "program's time on an empty folder; and that time. fd shows hidden and ignored files too "
    "(`-u`). bfs and fd are those of Debian trixie, started through the C library they come with.",
    unit="ms",
    higher_is_better=False,
    cases=[Case(WALK), Case(START)],
    peers=dict(PEERS),
    measure=measure,
    together=True,
    prepare=check_usr,
    targets=[
        Target(WALK, "bfs -j1", at_least=0.9),
        Target(WALK, "bfs -j2", at_least=0.9),
        Target(WALK, "fd -u", at_least=1.1),
        Target(WALK, "GNU find", at_least=1.1),
        Target(START, at_most=80, unit=" ms"),
    ],
    columns=[Column("cpu_ms", CPU), Column("start_ms", "start, ms")],
)
