"""What `ferrule.run` of an empty function costs on each engine, beyond `import ferrule`."""

from __future__ import annotations

import json
import sys

from .harness import (
    SERVER_CPU,
    Benchmark,
    Case,
    Column,
    Sample,
    Settings,
    Target,
    Unavailable,
    is_engine_built,
    output_of,
)

FIRST = "the first run of a process"
ENGINES = ("auto", "uring", "epoll", "kqueue", "threads")
PROGRAM = """
import json, sys, time
import ferrule
def once():
    begin = time.perf_counter()
    ferrule.run(int, backend=sys.argv[1])
    return (time.perf_counter() - begin) * 1e3
first = once()
rest = sorted(once() for _ in range(20))
print(json.dumps({"value": first, "next_ms": rest[len(rest) // 2]}))
"""


def measure(benchmark: Benchmark, case: Case, peer: str, settings: Settings) -> Sample:
    """Time it in a fresh interpreter, after the import."""
    if peer == "kqueue" and not is_engine_built(peer):
        raise Unavailable("the kqueue engine is not built here")
    return json.loads(output_of([sys.executable, "-c", PROGRAM, peer], [SERVER_CPU], timeout=30))


BENCHMARK = Benchmark(
    name="empty_run",
    title="Run of an empty main",
    measures="Wall time of ferrule.run(int) after import ferrule; the first in a process also "
    "imports the engine, and \"auto\" chooses it by doing one operation.",
    unit="ms",
    higher_is_better=False,
    cases=[Case(FIRST)],
    peers=dict.fromkeys(ENGINES),
    measure=measure,
    targets=[Target(FIRST, at_most=3, unit=" ms", subject=engine) for engine in ENGINES],
    columns=[Column("next_ms", "later runs, ms")],
)
