"""What each way of doing a file operation costs: the figures behind the choices in docs/files.md.

`python -m bench.files_choices` prints, per operation, microseconds per call inline (plain system
call on the loop thread), through the ring, and in a worker thread; for one fiber and for 64.
A call here includes some 0.5 µs of Python around it, the same for all ways.
"""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ferrule
from ferrule._core.fs_paths import perform_row

ROUNDS = 5
Way = Callable[[int], object]


class Operation:
    """One operation, as a function of the call's number, by each way that it can be done."""

    def __init__(
        self,
        name: str,
        ways: dict[str, Way],
        *,
        calls: int = 2000,
        before: Callable[[], None] = lambda: None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.ways = ways
        self.calls = calls
        self.before = before
        self.after = after

    def time(self, way: Way, fibers: int) -> float:
        """Return microseconds per call; the calls are shared out among `fibers` fibers."""
        numbers = iter(range(self.calls))

        def work(numbers: Iterator[int]) -> None:
            for number in numbers:
                result = way(number)
                if isinstance(result, int) and result < 0:
                    raise OSError(-result, f"{self.name}: {os.strerror(-result)}")

        self.before()
        begin = time.perf_counter()
        tasks = [ferrule.spawn(work, numbers) for _ in range(fibers)]
        for task in tasks:
            task.result()
        seconds = time.perf_counter() - begin
        self.after()
        return seconds / self.calls * 1e6


def row(kind: str, **fixed: object) -> dict[str, Way]:
    """The ring's and the worker's way of an operation with the same arguments each time."""
    return {
        "ring": lambda _: perform_row(kind, **fixed),
        "worker": lambda _: perform_row(kind, in_worker=True, **fixed),
    }


def numbered(kind: str, folder: Path, **fixed: object) -> dict[str, Way]:
    """The same for operations that need another path each time."""

    def path(number: int) -> bytes:
        return os.fsencode(folder / f"{number:06}")

    return {
        "ring": lambda n: perform_row(kind, path=path(n), **fixed),
        "worker": lambda n: perform_row(kind, path=path(n), in_worker=True, **fixed),
    }


def operations(folder: Path) -> Iterator[Operation]:
    """Everything that is compared; files that stay open are closed by the end of the process."""
    small = folder / "small"
    small.write_bytes(os.urandom(4096))
    path = os.fsencode(small)
    fd = os.open(small, os.O_RDWR)
    many = folder / "many"

    def empty() -> None:
        shutil.rmtree(many, ignore_errors=True)
        many.mkdir()

    def full() -> None:
        empty()
        for number in range(2000):
            (many / f"{number:06}").touch()

    yield Operation("nothing", {"inline": lambda _: 0, **row("nop")})
    for size in (4096, 65536, 262144):
        target = os.open(folder / "data", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        data = bytearray(os.urandom(size))
        os.pwrite(target, data, 0)
        yield Operation(
            f"read {size >> 10} KiB, cached",
            {
                "inline": lambda _, d=data, f=target: os.preadv(f, [d], 0, os.RWF_NOWAIT),
                **row("read", fd=target, buffer=data),
            },
        )
        yield Operation(
            f"write {size >> 10} KiB",
            {
                "inline": lambda _, d=data, f=target: os.pwrite(f, d, 0),
                **row("write", fd=target, buffer=data),
            },
        )
    shm = Path(tempfile.mkdtemp(dir="/dev/shm")) if os.path.isdir("/dev/shm") else None
    if shm is not None:
        block = bytearray(4096)
        in_memory = os.open(shm / "data", os.O_RDWR | os.O_CREAT)
        os.write(in_memory, block)
        shutil.rmtree(shm)
        yield Operation(
            "read 4 KiB, tmpfs",
            {
                "inline": lambda _: os.preadv(in_memory, [block], 0),
                **row("read", fd=in_memory, buffer=block),
            },
        )
    proc = os.open("/proc/self/status", os.O_RDONLY)
    text = bytearray(4096)
    yield Operation(
        "read /proc/self/status",
        {"inline": lambda _: os.preadv(proc, [text], 0), **row("read", fd=proc, buffer=text)},
    )
    yield Operation(
        "open and close, cached",
        {
            "inline": lambda _: os.close(os.open(path, os.O_RDONLY)),
            "ring": lambda _: os.close(perform_row("openat", path=path)),
            "worker": lambda _: os.close(perform_row("openat", path=path, in_worker=True)),
        },
    )
    flags = os.O_WRONLY | os.O_CREAT
    yield Operation(
        "open with O_CREAT and close",
        {
            "inline": lambda n: os.close(os.open(many / f"{n:06}", flags)),
            "ring": lambda n: os.close(
                perform_row("openat", path=os.fsencode(many / f"{n:06}"), flags=flags, mode=0o666)
            ),
            "worker": lambda n: os.close(
                perform_row(
                    "openat",
                    path=os.fsencode(many / f"{n:06}"),
                    flags=flags,
                    mode=0o666,
                    in_worker=True,
                )
            ),
        },
        before=empty,
    )
    yield Operation(
        "close, opened for reading",
        {
            "inline": lambda _: os.close(os.dup(fd)),
            "ring": lambda _: perform_row("close", fd=os.dup(fd)),
            "worker": lambda _: perform_row("close", fd=os.dup(fd), in_worker=True),
        },
    )
    yield Operation(
        "stat of a path, cached",
        {
            "inline": lambda _: os.stat(path) and 0,
            "O_PATH, fstat": lambda _: ferrule.fs.stat(path) and 0,
            **row("statx", path=path, mode=0x7FF),
        },
    )
    yield Operation(
        "fdatasync, clean",
        {"inline": lambda _: os.fdatasync(fd), **row("fsync", fd=fd, flags=1)},
    )
    yield Operation(
        "ftruncate",
        {
            "inline": lambda _: os.ftruncate(fd, 4096),
            **row("ftruncate", fd=fd, size=4096),
        },
    )
    yield Operation(
        "mkdir",
        {
            "inline": lambda n: os.mkdir(many / f"{n:06}"),
            **numbered("mkdirat", many, mode=0o777),
        },
        before=empty,
    )
    yield Operation(
        "unlink",
        {"inline": lambda n: os.unlink(many / f"{n:06}"), **numbered("unlinkat", many)},
        before=full,
    )
    counter = itertools.count()
    names = [os.fsencode(folder / "one"), os.fsencode(folder / "two")]
    Path(os.fsdecode(names[0])).touch()

    def rename(way: Callable[[bytes, bytes], object]) -> Way:
        def call(_: int) -> object:
            number = next(counter)
            return way(names[number % 2], names[1 - number % 2])

        return call

    yield Operation(
        "rename (1 fiber only)",
        {
            "inline": rename(os.rename),
            "ring": rename(lambda a, b: perform_row("renameat", path=a, path2=b)),
            "worker": rename(lambda a, b: perform_row("renameat", path=a, path2=b, in_worker=True)),
        },
    )
    cold = folder / "cold"
    cold.write_bytes(os.urandom(64 << 20))
    cold_fd = os.open(cold, os.O_RDONLY)
    os.fsync(cold_fd)

    def evict() -> None:
        os.posix_fadvise(cold_fd, 0, 0, os.POSIX_FADV_DONTNEED)

    for size in (4096, 262144, 1 << 20):
        count = min(500, (64 << 20) // size)
        step = (64 << 20) // count
        buffers = [bytearray(size) for _ in range(64)]
        yield Operation(
            f"read {size >> 10} KiB, not cached",
            {
                "inline": lambda n, b=buffers, t=step: os.preadv(cold_fd, [b[n % 64]], n * t),
                "ring": lambda n, b=buffers, t=step: perform_row(
                    "read", fd=cold_fd, buffer=b[n % 64], offset=n * t
                ),
                "worker": lambda n, b=buffers, t=step: perform_row(
                    "read", fd=cold_fd, buffer=b[n % 64], offset=n * t, in_worker=True
                ),
            },
            calls=count,
            before=evict,
        )


def measure(operation: Operation) -> dict[tuple[str, int], float]:
    """Return medians; the ways take turns."""
    samples: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for name, way in operation.ways.items():
            for fibers in (1, 64):
                if fibers > 1 and "1 fiber" in operation.name:
                    continue
                samples.setdefault((name, fibers), []).append(operation.time(way, fibers))
    return {key: statistics.median(values) for key, values in samples.items()}


def main() -> None:
    """Print the table."""
    # Not /tmp, which is tmpfs on many systems: it has no page cache to miss.
    scratch = os.environ.get("FERRULE_BENCH_DIR", "/var/tmp")
    folder = Path(tempfile.mkdtemp(prefix="ferrule-files-", dir=scratch))
    try:
        print("| µs per call, 1 fiber / 64 fibers | inline | ring | worker | other |")
        print("|---|---|---|---|---|")
        for operation in operations(folder):
            medians = measure(operation)
            cells = [cell(medians, way) for way in ("inline", "ring", "worker")]
            other = [
                f"{w}: {cell(medians, w)}"
                for w in operation.ways
                if w not in ("inline", "ring", "worker")
            ]
            print(f"| {operation.name} | {' | '.join(cells)} | {', '.join(other)} |", flush=True)
    finally:
        shutil.rmtree(folder)


def cell(medians: dict[tuple[str, int], float], way: str) -> str:
    """One figure for each number of fibers."""
    return " / ".join(f"{medians[way, n]:.1f}" for n in (1, 64) if (way, n) in medians)


if __name__ == "__main__":
    ferrule.run(main)
