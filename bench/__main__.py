"""The runner: `python -m bench [NAMES…]`; `make bench BENCH_ARGS="echo --quick"` is the same."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from . import report
from .harness import Benchmark, Settings, run_benchmark

# In the order of the table "what it must reach".
NAMES = (
    "echo",
    "spawn",
    "group",
    "million",
    "queue_hop",
    "hops",
    "threads",
    "threads_echo",
    "batch",
    "sleepers",
    "files",
    "ioqueue",
    "metadata",
    "ticker",
    "static",
    "parked",
    "import_time",
    "empty_run",
    "ring_nops",
    "ring_random",
    "ring_warm",
    "walk_entries",
    "walk_find",
    "walk_memory",
    "walk_sizes",
)
GROUPS = {
    group: tuple(name for name in NAMES if name.startswith(f"{group}_"))
    for group in ("ring", "walk")
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; "
                        "or ring, walk: all that begin so")  # fmt: skip
    parser.add_argument("--rounds", type=int, help="interleaved rounds (5; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="short samples, to try things out")
    parser.add_argument("--peers", default="", help="only peers with one of these in their name, "
                        "comma-separated")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="DIR", help="where the results go "
                        "(bench/results; nowhere with --quick or --peers)")  # fmt: skip
    parser.add_argument("--docs", action="store_true", help="refresh docs/BENCHMARKS.md from all "
                        "results; with --rounds 0, from those already there")  # fmt: skip
    chosen = parser.parse_args()
    chosen.names = [name for given in chosen.names for name in GROUPS.get(given, (given,))]
    if unknown := set(chosen.names) - set(NAMES):
        parser.error(f"no benchmark named {', '.join(sorted(unknown))}; there are {NAMES}")
    return chosen


def load(name: str) -> Benchmark:
    return importlib.import_module(f"bench.{name}").BENCHMARK


def run(name: str, settings: Settings, peers: list[str]) -> report.Document:
    benchmark, weather = load(name), report.Weather()
    rows = run_benchmark(benchmark, settings, peers)
    return report.document(benchmark, rows, settings, weather.report())


def in_order(documents: list[report.Document]) -> list[report.Document]:
    return sorted(documents, key=lambda found: NAMES.index(found["benchmark"]))


def main() -> int:
    chosen = arguments()
    rounds = chosen.rounds if chosen.rounds is not None else (1 if chosen.quick else 5)
    settings = Settings(rounds, chosen.quick)
    peers = [part for part in chosen.peers.split(",") if part]
    partial = chosen.quick or peers
    folder = chosen.json or (None if partial else report.RESULTS)
    if len(os.sched_getaffinity(0)) < 2:
        print("One processor only: servers and clients share it.", file=sys.stderr)
    documents = []
    for name in chosen.names or NAMES if rounds else ():
        found = run(name, settings, peers)
        documents.append(found)
        print(f"## {found['title']}\n\n{report.section(found)}\n", flush=True)
        if folder:
            report.save(found, folder)
    if documents:
        print(f"## What it must reach\n\n{report.targets_table(documents)}")
    if chosen.docs:
        report.refresh_docs(in_order(report.load(folder or report.RESULTS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
