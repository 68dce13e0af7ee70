"""NOPs through a ring: what the binding itself costs, since the kernel does nearly nothing."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

from .harness import (
    ROOT,
    SERVER_CPU,
    Benchmark,
    Case,
    Peers,
    Sample,
    Settings,
    Target,
    compiled,
    output_of,
    repeat_for,
    run_child,
)

PEERS = Peers()
BATCHES = (1, 16, 256)
TURN = 2048  # NOPs between two looks at the clock
SECONDS = 0.4
# SINGLE_ISSUER, DEFER_TASKRUN, TASKRUN_FLAG, SUBMIT_ALL, NO_SQARRAY; the same for every peer.
FLAGS = 0x13280
LIBURING, C = "Python liburing", "C"
FAST = "Ferrule fast"
HEADERS = ("ring.h", "uring_abi.h")


def case_of(batch: int) -> str:
    return f"batches of {batch}"


def rate(options: dict[str, Any], do_batch: Callable[[], None]) -> Sample:
    """Return how many NOPs a second `do_batch` completes."""
    batch = options["batch"]

    def turn(size: int) -> None:
        for _ in range(size // batch):
            do_batch()

    return {"value": 1e9 / repeat_for(options["seconds"], turn, TURN)["value"]}


def check_last(tag: int, batch: int) -> None:
    """Raise unless the last completion read is the last NOP's: NOPs complete in order."""
    if tag != batch - 1:
        raise AssertionError(f"the last of {batch} completions was number {tag}")


@PEERS.add("Ferrule")
def ferrule_nops(options: dict[str, Any]) -> Sample:
    from ferrule.ring import Ring

    batch = options["batch"]
    numbers = range(batch)
    with Ring(batch, flags=FLAGS) as ring:
        prep_nop, submit_and_wait, copy_cqes = ring.prep_nop, ring.submit_and_wait, ring.copy_cqes

        def do_batch() -> None:
            for number in numbers:
                prep_nop(number)
            submit_and_wait(batch)
            tag = -1
            for cqe in copy_cqes():
                if cqe.res:
                    cqe.raise_for_error()
                tag = cqe.user_data
            check_last(tag, batch)

        return rate(options, do_batch)


def ferrule_fast(options: dict[str, Any], check: Callable[[Any, Any], None]) -> Sample:
    from ferrule.ring import Ring

    batch = options["batch"]
    results, tags = array("i", [-1]) * batch, array("Q", [0]) * batch
    with Ring(batch, flags=FLAGS) as ring:
        queue = ring.batch_queue(batch)

        def do_batch() -> None:
            queue.prep_nop(batch)
            if queue.submit_and_complete(results, tags, wait_nr=batch) != batch:
                raise AssertionError("a completion is missing")
            check(results, tags)

        return rate(options, do_batch)


@PEERS.add(FAST)
def ferrule_fast_arrays(options: dict[str, Any]) -> Sample:
    batch = options["batch"]
    all_zero, all_numbers = array("i", [0]) * batch, array("Q", range(batch))

    def check(results: Any, tags: Any) -> None:
        if results != all_zero or tags != all_numbers:
            raise AssertionError("wrong results")

    return ferrule_fast(options, check)


@PEERS.add(f"{FAST}, each looked at in Python")
def ferrule_fast_each(options: dict[str, Any]) -> Sample:
    batch = options["batch"]

    def check(results: Any, tags: Any) -> None:
        tag = -1
        for result, tag in zip(results, tags, strict=True):
            if result:
                raise AssertionError(f"NOP {tag} gave {result}")
        check_last(tag, batch)

    return ferrule_fast(options, check)


def liburing_nops(options: dict[str, Any], new_queue_batch: Callable[[Any, int], Any]) -> Sample:
    """Measure liburing; of its ways to take completions, its iterator is among the fastest.

    Indexing as it does (`cqe[i]`) is no faster, and reads beyond the queue where that wraps;
    `wait_cqe` and `cqe_seen` for each completion, as in its README, are slower by a fifth or more.
    """
    import liburing

    batch = options["batch"]
    ring, cqe = liburing.Ring(), liburing.Cqe()
    liburing.io_uring_queue_init(batch, ring, FLAGS)
    queue_batch = new_queue_batch(ring, batch)
    submit_and_wait, advance = liburing.io_uring_submit_and_wait, liburing.io_uring_cq_advance
    completions = liburing.CqeIter

    def do_batch() -> None:
        queue_batch()
        submit_and_wait(ring, batch)
        tag = -1
        for _ in completions(ring, cqe):
            entry = cqe[0]
            if entry.res:  # raises for an error by itself; read all the same
                raise AssertionError(f"a NOP gave {entry.res}")
            tag = entry.user_data
        advance(ring, batch)
        check_last(tag, batch)

    try:
        return rate(options, do_batch)
    finally:
        liburing.io_uring_queue_exit(ring)


@PEERS.add(LIBURING)
def liburing_prepared_each_time(options: dict[str, Any]) -> Sample:
    import liburing

    get_sqe, prep_nop = liburing.io_uring_get_sqe, liburing.io_uring_prep_nop

    def new_queue_batch(ring: Any, batch: int) -> Callable[[], None]:
        numbers = range(batch)

        def queue_batch() -> None:
            for number in numbers:
                sqe = get_sqe(ring)
                prep_nop(sqe)
                sqe.user_data = number

        return queue_batch

    return liburing_nops(options, new_queue_batch)


@PEERS.add(f"{LIBURING}, SQEs prepared once")
def liburing_prepared_once(options: dict[str, Any]) -> Sample:
    """Put the same SQEs again and again: nothing is prepared in the timed stretch."""
    import liburing

    put_sqe = liburing.put_sqe

    def new_queue_batch(ring: Any, batch: int) -> Callable[[], None]:
        sqes = liburing.Sqe(batch)
        for number in range(batch):
            liburing.io_uring_prep_nop(sqes[number])
            sqes[number].user_data = number
        return lambda: put_sqe(ring, sqes)

    return liburing_nops(options, new_queue_batch)


PEERS.add(C)(lambda options: None)


def measure(benchmark: Benchmark, case: Case, peer: str, settings: Settings) -> Sample:
    if peer != C:
        return run_child(benchmark, case, peer, settings, [SERVER_CPU])
    program = compiled("ring_nops.c", *(ROOT / "src/ferrule/_core/ring" / name for name in HEADERS))
    command = [str(program), str(case.options["batch"]), str(SECONDS), hex(FLAGS)]
    return {"value": float(output_of(command, [SERVER_CPU], timeout=60))}


BENCHMARK = Benchmark(
    name="ring_nops",
    title="Ring: NOPs",
    measures="A batch of NOPs is prepared, submitted and waited for with one system call, and the "
    "result and user_data of each are checked. Same set-up flags for all; C stands on the same "
    "`ring.h` as Ferrule. The fast rows and liburing's `put_sqe` prepare no SQE in Python.",
    unit="NOPs/s",
    higher_is_better=True,
    cases=[Case(case_of(batch), {"batch": batch, "seconds": SECONDS}) for batch in BATCHES],
    peers=PEERS,
    measure=measure,
    targets=[
        *(Target(case_of(batch), LIBURING, at_least=1.5) for batch in BATCHES),
        Target(case_of(256), C, at_least=0.5, subject=FAST),
    ],
)
