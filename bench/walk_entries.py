"""Walk /usr from Python: names and types, as columns and as objects, and sizes and times too."""

from __future__ import annotations

import functools
from typing import Any

from . import walk_trees
from .harness import (
    Benchmark,
    Case,
    Column,
    Peers,
    Sample,
    Settings,
    Target,
    in_child_on_all_cpus,
)

PEERS = Peers()
NAMES, SIZES = "names and types", "sizes and times too"
C = "C recursion"
ONE, TWO = "Ferrule walk_batches, 1 worker", "Ferrule walk_batches, 2 workers"
OBJECTS = "Ferrule walk, 2 workers"
SIZES_TWO, SIZES_ONE = (f"Ferrule walk_batches, sizes, {n}" for n in ("2 workers", "1 worker"))
OF_NAMES = (TWO, ONE, OBJECTS, "os.walk", "scandir-rs Walk", C)
OF_SIZES = (SIZES_TWO, SIZES_ONE, "os.walk and os.lstat", "scandir-rs Scandir Ext")


def walk_usr(peer: str, options: dict[str, Any]) -> Sample:
    return walk_trees.time_walk(peer, walk_trees.USR, options["seconds"])


for name in (*OF_NAMES, *OF_SIZES):
    PEERS[name] = functools.partial(walk_usr, name)


def measure(benchmark: Benchmark, case: Case, peer: str, settings: Settings) -> Sample:
    if peer == C:
        return walk_trees.time_c_recursion(walk_trees.USR, 2 if settings.quick else 8)
    return in_child_on_all_cpus(benchmark, case, peer, settings)


BENCHMARK = Benchmark(
    name="walk_entries",
    title="Walking /usr",
    measures="Time of one walk over all of /usr, which the page cache holds: at least 100,000 "
    "entries. Every walk has to count as many as `os.walk` does. All processors may be used; "
    "“CPU” is what the process used of them, all its threads. scandir-rs gives sizes and times "
    "with `Scandir` and `ReturnType.Ext` only; its `Walk` leaves symbolic links out unless asked "
    "with `Ext`.",
    unit="ms",
    higher_is_better=False,
    cases=[Case(NAMES, peers=OF_NAMES), Case(SIZES, peers=OF_SIZES)],
    peers=PEERS,
    measure=measure,
    together=True,
    prepare=walk_trees.check_usr,
    targets=[
        Target(NAMES, "os.walk", at_least=2.6, subject=ONE),
        Target(NAMES, "os.walk", at_least=4, subject=TWO),
        Target(NAMES, "scandir-rs Walk", at_least=1, subject=TWO),
        Target(NAMES, "os.walk", at_least=2.2, subject=OBJECTS),
        Target(SIZES, "os.walk and os.lstat", at_least=4, subject=SIZES_TWO),
        Target(SIZES, "scandir-rs Scandir Ext", at_least=1, subject=SIZES_TWO),
    ],
    columns=[Column("cpu_ms", walk_trees.CPU), Column("entries", "entries")],
)
