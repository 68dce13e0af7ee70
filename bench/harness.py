"""What every benchmark shares: child processes, pinning, interleaved rounds, medians, verdicts.

A benchmark is a module with a `BENCHMARK`: cases (what is done) × peers (who does it).  Each
sample is taken in a fresh process, so no peer inherits another's heap, threads or imports.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .processors import Processors

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "build" / "bench"
CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPU, CLIENT_CPU = CPUS[0], CPUS[-1]
MAX_FAILURES = 2

Sample = dict[str, Any]
PeerFunction = Callable[[dict[str, Any]], Any]


class Unavailable(Exception):
    """A peer cannot take part here; the message says why and becomes its row."""


@dataclass(frozen=True)
class Case:
    """One thing to do; `options` reach the peer's function as they are."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    peers: Sequence[str] | None = None  # None: all of the benchmark's


@dataclass(frozen=True)
class Target:
    """A line of "what it must reach".

    `at_least` asks how many times *better* than the peer Ferrule is; `at_most` bounds Ferrule's own
    figure, as a multiple of the peer's or, without a peer, as it is.
    """

    case: str
    peer: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    at_least_value: float | None = None
    column: str = "value"
    unit: str = ""
    subject: str = "Ferrule"


@dataclass(frozen=True)
class Column:
    """A further figure of a sample, shown as a median."""

    key: str
    header: str
    scale: float = 1.0


@dataclass(frozen=True)
class Benchmark:
    """Everything the runner needs to know about one benchmark."""

    name: str
    title: str
    measures: str
    unit: str
    higher_is_better: bool
    cases: Sequence[Case]
    peers: dict[str, PeerFunction]
    measure: Callable[[Benchmark, Case, str, Settings], Sample]
    targets: Sequence[Target] = ()
    columns: Sequence[Column] = ()
    prepare: Callable[[], None] = lambda: None
    together: bool = False  # counts only while the host has both processors on one cache
    axis: str = ""  # what its cases' option "x" counts; they are drawn as points of lines then


@dataclass(frozen=True)
class Settings:
    """How long and how often; the same for all peers."""

    rounds: int = 5
    quick: bool = False

    @property
    def seconds(self) -> float:
        """Length of one timed stretch."""
        return 0.4 if self.quick else 1.5


class Peers(dict[str, PeerFunction]):
    """The peers of a benchmark, in the order of their tables."""

    def add(self, name: str) -> Callable[[PeerFunction], PeerFunction]:
        """Return a decorator that registers a function as the peer `name`."""

        def register(function: PeerFunction) -> PeerFunction:
            self[name] = function
            return function

        return register


# --- running one sample ---------------------------------------------------------------------------


def start(
    command: Sequence[str], cpus: Sequence[int] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """Start a program, on the given processors only."""

    def pin() -> None:
        if cpus:
            os.sched_setaffinity(0, cpus)

    # The runner has no threads when it forks, so preexec_fn is safe here.
    return subprocess.Popen(
        command, cwd=ROOT, text=True, preexec_fn=pin, start_new_session=True, **options
    )


def stop(process: subprocess.Popen[str]) -> None:
    """End a program of ours and everything it started; wait for it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(3)
            break
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()


def last_line(text: str) -> str:
    """Return the last line that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def complaint(text: str) -> str:
    """Return the line of an error output that says most: the last exception's, or the last."""
    exceptions = re.findall(r"^[\w.]*(?:Error|Exception|Exit|Cancelled)\b: .*", text, re.M)
    return exceptions[-1] if exceptions else last_line(text)


def output_of(command: Sequence[str], cpus: Sequence[int] | None, timeout: float) -> str:
    """Run a program to its end; return what it printed, or raise with its last words."""
    process = start(command, cpus, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no result after {timeout:.0f} s") from None
    finally:
        stop(process)
    if process.returncode:
        raise RuntimeError(f"exit {process.returncode}: {complaint(err or out)}")
    return out


def child_command(benchmark: Benchmark, peer: str, options: dict[str, Any]) -> list[str]:
    """Return the command that runs one peer of a benchmark in a Python process of its own."""
    return [sys.executable, "-m", "bench.child", benchmark.name, peer, json.dumps(options)]


def in_child(benchmark: Benchmark, case: Case, peer: str, settings: Settings) -> Sample:
    """Measure a peer that times itself, on one processor."""
    return run_child(benchmark, case, peer, settings, [SERVER_CPU])


def in_child_on_all_cpus(benchmark: Benchmark, case: Case, peer: str, settings: Settings) -> Sample:
    """Measure a peer that times itself, on every processor: for those that live off threads."""
    return run_child(benchmark, case, peer, settings, CPUS)


def run_child(
    benchmark: Benchmark, case: Case, peer: str, settings: Settings, cpus: Sequence[int]
) -> Sample:
    """Run a peer's function in a child and return the sample it prints as its last line."""
    options = {"seconds": settings.seconds, "quick": settings.quick, **case.options}
    printed = output_of(child_command(benchmark, peer, options), cpus, timeout=120)
    return json.loads(last_line(printed))


@contextlib.contextmanager
def server(
    command: Sequence[str], cpus: Sequence[int] = (SERVER_CPU,), timeout: float = 20
) -> Iterator[tuple[int, str]]:
    """Run a server on its processors; yield its process id and the first line it prints."""
    with open(SCRATCH / "server.stderr", "w+", encoding="utf-8") as errors:
        process = start(command, cpus, stdout=subprocess.PIPE, stderr=errors)
        # A server that prints nothing must not hang the run: killing it ends the readline.
        watchdog = threading.Timer(timeout, process.kill)
        watchdog.start()
        try:
            assert process.stdout
            line = process.stdout.readline()
            watchdog.cancel()
            watchdog.join()
            if not line:
                errors.seek(0)
                raise RuntimeError(f"the server did not start: {complaint(errors.read())}")
            yield process.pid, line.strip()
        finally:
            watchdog.cancel()
            stop(process)


def process_cpu_seconds(pid: int) -> float:
    """Return the processor time a process has used, all its threads, to the nanosecond."""
    # What clock_getcpuclockid(3) computes: ~pid in the high bits, CPUCLOCK_SCHED (2) in the low.
    return time.clock_gettime((~pid << 3) | 2)


def compiled(source: str, *headers: Path) -> Path:
    """Compile one of bench/c with cc -O2, if it or a header changed; return the program."""
    path = Path(__file__).parent / "c" / source
    program = SCRATCH / path.stem
    changed = max(file.stat().st_mtime for file in (path, *headers))
    if not program.exists() or program.stat().st_mtime < changed:
        flags = ["-O2", "-pthread", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["cc", *flags, "-o", str(program), str(path)], check=True)
    return program


def is_engine_built(name: str) -> bool:
    """Say whether Ferrule was built with an engine that not every machine has."""
    return importlib.util.find_spec(f"ferrule._core.backend_{name}") is not None


def refuse_tmpfs(path: Path) -> None:
    """Raise unless a folder is on a real file system: tmpfs would answer another question."""
    kind = output_of(["stat", "-f", "-c", "%T", str(path)], None, timeout=10).strip()
    if kind in ("tmpfs", "ramfs"):
        raise Unavailable(f"{path} is on {kind}; files are measured on a disk's file system")


# --- for the children -----------------------------------------------------------------------------


def repeat_for(seconds: float, batch: Callable[[int], Any], size: int = 1000) -> Sample:
    """Call `batch(size)` until the time is over; return nanoseconds per operation.

    The first batch only warms up.
    """
    batch(size)
    done = 0
    cpu = time.process_time_ns()
    begin = now = time.perf_counter_ns()
    while now - begin < seconds * 1e9:
        batch(size)
        done += size
        now = time.perf_counter_ns()
    return {
        "value": (now - begin) / done,
        "cpu_us": (time.process_time_ns() - cpu) / done / 1e3,
    }


async def repeat_for_async(seconds: float, batch: Callable[[int], Any], size: int = 1000) -> Sample:
    """Do what `repeat_for` does, for a batch that is a coroutine function."""
    await batch(size)
    done = 0
    cpu = time.process_time_ns()
    begin = now = time.perf_counter_ns()
    while now - begin < seconds * 1e9:
        await batch(size)
        done += size
        now = time.perf_counter_ns()
    return {
        "value": (now - begin) / done,
        "cpu_us": (time.process_time_ns() - cpu) / done / 1e3,
    }


def run_uvloop(main: Any) -> Any:
    """Run a coroutine on uvloop."""
    import uvloop

    return uvloop.run(main)


# --- running all of them --------------------------------------------------------------------------


@dataclass
class Row:
    """All samples of one peer in one case."""

    case: str
    peer: str
    samples: list[Sample] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    unavailable: bool = False

    def given_up(self) -> bool:
        """Say whether trying again would only cost time."""
        return self.unavailable or len(self.errors) >= MAX_FAILURES

    def figures(self, key: str = "value") -> list[float]:
        """Return a figure of every round that gave one."""
        return [sample[key] for sample in self.samples if sample.get(key) is not None]

    def median(self, key: str = "value") -> float | None:
        """Return a figure's median over the rounds."""
        figures = self.figures(key)
        return statistics.median(figures) if figures else None

    def note(self) -> str:
        """Say what went wrong, and how often."""
        if not self.errors:
            return ""
        total = len(self.samples) + len(self.errors)
        often = "" if not self.samples else f"{len(self.errors)} of {total} failed: "
        return often + self.errors[-1]


def run_benchmark(benchmark: Benchmark, settings: Settings, only_peers: Sequence[str]) -> list[Row]:
    """Take every sample: rounds outermost, so that the peers share the machine's weather."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    by_case = {
        case.name: [
            Row(case.name, peer)
            for peer in case.peers or benchmark.peers
            if not only_peers or any(part.lower() in peer.lower() for part in only_peers)
        ]
        for case in benchmark.cases
    }
    try:
        benchmark.prepare()
    except Exception as error:
        for row in (row for rows in by_case.values() for row in rows):
            row.unavailable = True
            row.errors.append(f"could not prepare: {error}")
    for number in range(settings.rounds):
        for case in benchmark.cases:
            rows = by_case[case.name]
            turn = number % len(rows) if rows else 0
            for row in rows[turn:] + rows[:turn]:
                take_sample(benchmark, case, row, settings, number)
    return [row for rows in by_case.values() for row in rows]


def take_sample(
    benchmark: Benchmark, case: Case, row: Row, settings: Settings, number: int
) -> None:
    """Add one sample, or the reason why there is none, to a row."""
    if row.given_up():
        return
    try:
        sample = measure_sample(benchmark, case, row.peer, settings)
        row.samples.append(sample)
        outcome = f"{sample['value']:.6g} {benchmark.unit}"
    except Unavailable as error:
        row.unavailable = True
        row.errors.append(f"skipped: {error}")
        outcome = row.errors[-1]
    except Exception as error:  # one broken peer must not end the run
        row.errors.append(f"{error}"[:200] or type(error).__name__)
        outcome = f"FAILED: {row.errors[-1]}"
    where = f"{benchmark.name} [{number + 1}/{settings.rounds}] {case.name}, {row.peer}"
    print(f"{where}: {outcome}", file=sys.stderr, flush=True)


def measure_sample(benchmark: Benchmark, case: Case, peer: str, settings: Settings) -> Sample:
    """Take one sample, with the processors together where that matters."""

    def take() -> Sample:
        return benchmark.measure(benchmark, case, peer, settings)

    if not benchmark.together or SERVER_CPU == CLIENT_CPU:
        return take()
    return both_processors().sample_together(take)


@functools.cache
def both_processors() -> Processors:
    """Return the two that benchmarks run on."""
    return Processors(str(compiled("processors_apart.c")), SERVER_CPU, CLIENT_CPU)


# --- verdicts -------------------------------------------------------------------------------------


def better_by(benchmark: Benchmark, subject: float, peer: float) -> float:
    """Say how many times better one figure is than another."""
    return subject / peer if benchmark.higher_is_better else peer / subject


def verdict(benchmark: Benchmark, target: Target, rows: Sequence[Row]) -> dict[str, Any]:
    """Hold a target against the medians."""
    medians = {row.peer: row.median(target.column) for row in rows if row.case == target.case}
    subject = medians.get(target.subject)
    peer = medians.get(target.peer) if target.peer else None
    reached: float | None = None
    if subject is not None and target.peer is None:
        reached = subject
    elif subject is not None and peer is not None:
        reached = better_by(benchmark, subject, peer) if target.at_least else subject / peer
    return {
        "benchmark": benchmark.name,
        "measure": target.case + (f", {target.subject}" if target.subject != "Ferrule" else ""),
        "required": requirement(target),
        "reached": reached,
        "pass": None if reached is None else is_reached(target, reached),
    }


def requirement(target: Target) -> str:
    """Put a target into words."""
    versus = f" × {target.peer}" if target.peer else ""
    if target.at_most is not None:
        return f"≤ {target.at_most:g}{versus}{target.unit}"
    least = target.at_least if target.at_least is not None else target.at_least_value
    return f"≥ {least:g}{versus}{target.unit}"


def is_reached(target: Target, reached: float) -> bool:
    """Say whether a figure is good enough."""
    if target.at_most is not None:
        return reached <= target.at_most
    least = target.at_least if target.at_least is not None else target.at_least_value
    assert least is not None
    return reached >= least
