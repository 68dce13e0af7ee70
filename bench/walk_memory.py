"""The most memory a process has while it walks a tree of a million entries and keeps nothing."""

from __future__ import annotations

import functools
import time
from typing import Any

from .harness import Benchmark, Case, Column, Peers, Sample, Target, in_child_on_all_cpus
from .walk_trees import CPU, WALKS, make_folders, make_tree

PEERS = Peers()
ENTRIES = 1_000_000
CASE = "a tree of 1,000,000 entries"
FOLDERS = "a tree of 1,000,000 folders, 999 in each of 1,000"
BATCHES, OBJECTS = "Ferrule walk_batches, 2 workers", "Ferrule walk, 2 workers"
BREADTH_FIRST = "Ferrule walk_batches, breadth-first, 2 workers"
OTHERS = ("os.walk", "scandir-rs Walk")


def most_memory() -> float:
    """Return the largest resident set of this program, in MiB; ru_maxrss is also its parent's."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024


def walk_once(peer: str, options: dict[str, Any]) -> Sample:
    if peer.startswith("Ferrule"):
        import ferrule  # noqa: F401
    before = most_memory()
    begin, cpu = time.perf_counter(), time.process_time()
    make = make_folders if options.get("folders") else make_tree
    found = WALKS[peer](str(make(ENTRIES)))
    if found != ENTRIES:
        raise AssertionError(f"saw {found} entries of {ENTRIES}")
    return {
        "value": most_memory(),
        "before_mib": before,
        "wall_ms": (time.perf_counter() - begin) * 1e3,
        "cpu_ms": (time.process_time() - cpu) * 1e3,
    }


for name in (BATCHES, OBJECTS, BREADTH_FIRST, *OTHERS):
    PEERS[name] = functools.partial(walk_once, name)


def prepare() -> None:
    make_tree(ENTRIES)
    make_folders(ENTRIES)


BENCHMARK = Benchmark(
    name="walk_memory",
    title="Memory of a long walk",
    measures="The largest resident set of a fresh process that walks the tree once and keeps "
    "nothing of it, interpreter and modules included; and how long the walk took.",
    unit="MiB",
    higher_is_better=False,
    cases=[
        Case(CASE, peers=(BATCHES, OBJECTS, *OTHERS)),
        Case(FOLDERS, {"folders": True}, peers=(BREADTH_FIRST, BATCHES, *OTHERS)),
    ],
    peers=PEERS,
    measure=in_child_on_all_cpus,
    prepare=prepare,
    targets=[
        Target(CASE, at_most=200, unit=" MiB", subject=BATCHES),
        Target(CASE, at_most=200, unit=" MiB", subject=OBJECTS),
        Target(FOLDERS, at_most=200, unit=" MiB", subject=BREADTH_FIRST),
        Target(FOLDERS, at_most=200, unit=" MiB", subject=BATCHES),
    ],
    columns=[
        Column("before_mib", "before it, MiB"),
        Column("wall_ms", "ms"),
        Column("cpu_ms", CPU),
    ],
)
