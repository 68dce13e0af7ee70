"""Entries per second against the size of the tree."""

from __future__ import annotations

import functools
from typing import Any

from . import walk_trees
from .harness import Benchmark, Case, Column, Peers, Sample, Settings, in_child_on_all_cpus

PEERS = Peers()
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
C = "C recursion"
WALKS = (
    "Ferrule walk_batches, 2 workers",
    "Ferrule walk_batches, 1 worker",
    "Ferrule walk, 2 workers",
    "os.walk",
    "scandir-rs Walk",
    C,
)


def rate(sample: Sample) -> Sample:
    """Turn a walk's milliseconds into entries per second."""
    per_second = sample["entries"] / sample["value"] * 1e3
    return {"value": per_second, "cpu_us": sample["cpu_ms"] / sample["entries"] * 1e3}


def walk_tree(peer: str, options: dict[str, Any]) -> Sample:
    top = str(walk_trees.make_tree(options["x"]))
    return rate(walk_trees.time_walk(peer, top, options["seconds"] / 3))


for name in WALKS:
    PEERS[name] = functools.partial(walk_tree, name)


def measure(benchmark: Benchmark, case: Case, peer: str, settings: Settings) -> Sample:
    if peer == C:
        top = str(walk_trees.make_tree(case.options["x"]))
        return rate(walk_trees.time_c_recursion(top, 3))
    return in_child_on_all_cpus(benchmark, case, peer, settings)


def prepare() -> None:
    for size in SIZES:
        walk_trees.make_tree(size)


BENCHMARK = Benchmark(
    name="walk_sizes",
    title="Walking trees of all sizes",
    measures="Entries per second of walks that see names and types, over trees of 90 files and 10 "
    "folders in a folder, warm. The first entries of a small tree pay for the threads.",
    unit="entries/s",
    higher_is_better=True,
    cases=[Case(f"{size:,} entries", {"x": size}) for size in SIZES],
    peers=PEERS,
    measure=measure,
    together=True,
    prepare=prepare,
    columns=[Column("cpu_us", "CPU µs/entry")],
    axis="entries in the tree",
)
