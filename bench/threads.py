"""Several loop threads on a Python without the GIL: what they gain, and what crossing costs.

Its peers run on the interpreter that `make test-free-threaded` builds Ferrule for.
"""

from __future__ import annotations

import json
import time
from typing import Any

from .harness import (
    CPUS,
    ROOT,
    Benchmark,
    Case,
    Column,
    Peers,
    Sample,
    Settings,
    Target,
    Unavailable,
    child_command,
    last_line,
    output_of,
    repeat_for,
)

PEERS = Peers()
PYTHON = ROOT / "build/free-threaded/venv/bin/python"
WORK, HOP = "40 tasks that compute", "a hop between two threads"
ONE, TWO = "Ferrule, 1 thread", "Ferrule, 2 threads"
PIPE = "Ferrule, 2 threads that wake each other through pipes"


def compute() -> int:
    total = 0
    for number in range(200_000):
        total += number
    return total


def ferrule_work(options: dict[str, Any], threads: int) -> Sample:
    import ferrule

    def main() -> None:
        with ferrule.TaskGroup() as group:
            for _ in range(40):
                group.spawn(compute)

    taken = []
    for _ in range(5):
        began = time.perf_counter(), time.process_time()
        ferrule.run(main, threads=threads)
        taken.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    wall, cpu = min(taken)
    return {"value": wall * 1e3, "cpu_us": cpu * 1e6}


def ferrule_hops(options: dict[str, Any]) -> Sample:
    """Between a fiber of this thread and one that another thread has taken."""
    import threading

    import ferrule

    def main() -> Sample:
        questions: Any = ferrule.Queue()
        answers: Any = ferrule.Queue()
        here, found = threading.get_ident(), threading.Event()

        def answer() -> None:
            if threading.get_ident() == here or found.is_set():
                return
            found.set()
            while (item := questions.get()) is not None:
                answers.put(item)

        while not found.is_set():
            ferrule.spawn(answer)
            compute()

        def batch(size: int) -> None:
            for item in range(size // 2):
                questions.put(item)
                answers.get()

        sample = repeat_for(options["seconds"], batch)
        questions.put(None)
        return sample

    return ferrule.run(main, threads=2)


@PEERS.add(TWO)
def ferrule_two(options: dict[str, Any]) -> Sample:
    return ferrule_hops(options) if options["hop"] else ferrule_work(options, 2)


@PEERS.add(PIPE)
def ferrule_pipes(options: dict[str, Any]) -> Sample:
    """As where the kernel takes no message for another ring."""
    import functools

    from ferrule import runtime
    from ferrule._core.backend_uring import UringBackend

    runtime.engine_class = lambda name: functools.partial(UringBackend, messages=False)
    return ferrule_hops(options)


@PEERS.add(ONE)
def ferrule_one(options: dict[str, Any]) -> Sample:
    return ferrule_work(options, 1)


def thread_work(options: dict[str, Any]) -> Sample:
    from concurrent.futures import ThreadPoolExecutor

    taken = []
    for _ in range(5):
        began = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(compute) for _ in range(40)]:
                future.result()
        taken.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    wall, cpu = min(taken)
    return {"value": wall * 1e3, "cpu_us": cpu * 1e6}


def thread_hops(options: dict[str, Any]) -> Sample:
    import queue
    import threading

    questions: Any = queue.SimpleQueue()
    answers: Any = queue.SimpleQueue()

    def answer() -> None:
        while (item := questions.get()) is not None:
            answers.put(item)

    def batch(size: int) -> None:
        for item in range(size // 2):
            questions.put(item)
            answers.get()

    thread = threading.Thread(target=answer)
    thread.start()
    sample = repeat_for(options["seconds"], batch)
    questions.put(None)
    thread.join()
    return sample


@PEERS.add("two OS threads")
def os_threads(options: dict[str, Any]) -> Sample:
    return thread_hops(options) if options["hop"] else thread_work(options)


def on_free_threaded(command: list[str]) -> list[str]:
    """The same command for the interpreter without the GIL."""
    if not PYTHON.exists():
        raise Unavailable("there is no free-threaded Python: `make test-free-threaded` builds one")
    return [str(PYTHON), *command[1:]]


def measure(benchmark: Benchmark, case: Case, peer: str, settings: Settings) -> Sample:
    """Measure on the free-threaded interpreter, on all processors."""
    options = {"seconds": settings.seconds, "quick": settings.quick, **case.options}
    command = on_free_threaded(child_command(benchmark, peer, options))
    return json.loads(last_line(output_of(command, CPUS, timeout=120)))


BENCHMARK = Benchmark(
    name="threads",
    title="Several loop threads, without the GIL",
    measures="On CPython 3.13t and both processors. The computing tasks are plain Python; the "
    "best of five runs, in ms. A hop is half of a question and its answer through two queues, in "
    "ns: between fibers of two loop threads, and between two OS threads with queue.SimpleQueue.",
    unit="ms or ns",
    higher_is_better=False,
    cases=[
        Case(WORK, {"hop": False}, peers=[TWO, ONE, "two OS threads"]),
        Case(HOP, {"hop": True}, peers=[TWO, PIPE, "two OS threads"]),
    ],
    peers=PEERS,
    measure=measure,
    together=True,
    targets=[
        Target(WORK, ONE, at_least=1.6, subject=TWO),
        Target(HOP, "two OS threads", at_most=3, subject=TWO),
    ],
    columns=[Column("cpu_us", "CPU µs")],
)
