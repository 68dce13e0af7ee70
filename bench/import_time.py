"""What `import ferrule` adds to the start of an interpreter."""

from __future__ import annotations

import statistics
import sys
import time

from .harness import (
    SERVER_CPU,
    Benchmark,
    Case,
    Column,
    Sample,
    Settings,
    Target,
    Unavailable,
    output_of,
)

CASE = "import in a fresh interpreter"


def seconds_to_run(statement: str) -> float:
    begin = time.perf_counter()
    output_of([sys.executable, "-c", statement], [SERVER_CPU], timeout=30)
    return time.perf_counter() - begin


def measure(benchmark: Benchmark, case: Case, peer: str, settings: Settings) -> Sample:
    """Alternate between an empty program and one that imports; the difference is the import's."""
    try:
        seconds_to_run(f"import {peer}")  # also brings the files into the page cache
    except RuntimeError as error:
        raise Unavailable(f"{error}") from None
    empty, importing = [], []
    for _ in range(3 if settings.quick else 10):
        empty.append(seconds_to_run("pass"))
        importing.append(seconds_to_run(f"import {peer}"))
    start = statistics.median(empty)
    return {
        "value": (statistics.median(importing) - start) * 1e3,
        "start_ms": start * 1e3,
    }


BENCHMARK = Benchmark(
    name="import_time",
    title="Import time",
    measures="Wall time of `python -c 'import X'` beyond that of `python -c pass`.",
    unit="ms",
    higher_is_better=False,
    cases=[Case(CASE)],
    peers=dict.fromkeys(("ferrule", "asyncio", "uvloop", "gevent", "trio", "anyio")),
    measure=measure,
    targets=[Target(CASE, at_most=60, unit=" ms", subject="ferrule")],
    columns=[Column("start_ms", "interpreter alone, ms")],
)
