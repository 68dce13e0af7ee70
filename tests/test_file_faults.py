"""What files survive: errors and short transfers at every attempt, cancellation at every point."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ferrule
from ferrule import fs
from ferrule.fs import File

Run = Callable[..., Any]
SIZE = 600_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * (SIZE // 256 + 1))
    os.truncate(path, SIZE)
    return path


def inject(kind: str, nth: int, **fault: Any) -> None:
    ferrule.current_runtime()._scheduler.inject_fault(kind, nth, **fault)


def no_faults() -> None:
    """Take back what was not used up."""
    ferrule.current_runtime()._scheduler.forget_faults()


# ---- short transfers ----


@pytest.mark.parametrize("shorten_to", [0, 1, 17, 4096])
def test_short_reads_are_continued(run: Run, path: Path, shorten_to: int) -> None:
    data = path.read_bytes()

    def main() -> None:
        with File.open(path) as file:
            for nth in (1, 2, 3):
                if shorten_to == 0:
                    continue  # to a reader that is the end of the file
                inject("read", nth, shorten_to=shorten_to)
            assert file.pread(SIZE, 0) == data
            buffer = bytearray(SIZE)
            if shorten_to:
                inject("read", 1, shorten_to=shorten_to)
            assert file.readinto_at(buffer, 0) == SIZE
            assert buffer == data
            if shorten_to:
                inject("read", 2, shorten_to=shorten_to)
            assert file.read() == data

    run(main)


@pytest.mark.parametrize("shorten_to", [1, 17, 4096])
def test_short_reads_under_a_buffer_are_continued(
    run: Run, path: Path, shorten_to: int
) -> None:
    data = path.read_bytes()

    def main() -> None:
        for buffering in (0, -1):
            with ferrule.open(path, "rb", buffering) as file:
                inject("read", 1, shorten_to=shorten_to)
                inject("read", 3, shorten_to=shorten_to)
                assert file.read() == data
                no_faults()

    run(main)


@pytest.mark.parametrize("shorten_to", [1, 17, 4096])
def test_short_writes_are_continued(run: Run, tmp_path: Path, shorten_to: int) -> None:
    data = os.urandom(SIZE)
    path = tmp_path / "out"

    def main() -> None:
        with File.open(path, os.O_RDWR | os.O_CREAT) as file:
            for nth in (1, 2, 4):
                inject("write", nth, shorten_to=shorten_to)
            assert file.pwrite(data, 0) == SIZE
            no_faults()
            assert file.pread(SIZE, 0) == data
        for buffering in (0, -1):
            with ferrule.open(path, "wb", buffering) as raw:
                for nth in (1, 2, 4):
                    inject("write", nth, shorten_to=shorten_to)
                assert raw.write(data) == SIZE
                no_faults()
            assert path.read_bytes() == data

    run(main)


def test_large_transfers_that_come_short_are_continued(run: Run, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    path = tmp_path / "large"

    def main() -> None:
        inject("write", 1, shorten_to=1_500_001)
        fs.write_bytes(path, data)
        inject("read", 1, shorten_to=2_000_003)
        inject("read", 2, shorten_to=5)
        assert fs.read_bytes(path) == data

    run(main)


# ---- errors ----


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE])
def test_a_read_that_fails_says_so_and_the_file_stays_usable(
    run: Run, path: Path, nth: int, error: int
) -> None:
    def main() -> None:
        with File.open(path) as file:
            inject("read", nth, error=error)
            if nth == 1:
                with pytest.raises(OSError) as caught:
                    file.pread(SIZE, 0)
                assert caught.value.errno == error
            else:
                assert 0 < len(file.pread(SIZE, 0)) <= SIZE  # what came before the error
            no_faults()
            assert len(file.pread(SIZE, 0)) == SIZE
            inject("read", nth, error=error)
            with pytest.raises(OSError) as caught:
                file.read()
            assert caught.value.errno == error

    run(main)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_write_that_fails_says_so(run: Run, tmp_path: Path, error: int, nth: int) -> None:
    def main() -> None:
        with File.open(tmp_path / "out", os.O_RDWR | os.O_CREAT) as file:
            inject("write", nth, error=error)
            with pytest.raises(OSError) as caught:
                file.pwrite(b"x" * SIZE, 0)
                file.pwrite(b"x" * SIZE, 0)
            assert caught.value.errno == error
            no_faults()
            assert file.pwrite(b"y", 0) == 1

    run(main)


def test_a_flush_that_fails_at_close_is_told_and_the_file_is_closed(
    run: Run, tmp_path: Path
) -> None:
    def main() -> None:
        for mode in ("w", "wb", "r+b"):
            (tmp_path / "out").touch()
            file: Any = ferrule.open(tmp_path / "out", mode)
            file.write(b"data" if "b" in mode else "data")
            inject("write", 1, error=errno.ENOSPC)
            with pytest.raises(OSError) as caught:
                file.close()
            assert caught.value.errno == errno.ENOSPC
            assert file.closed

    run(main)


def test_a_close_that_fails_is_told_and_the_descriptor_is_gone(run: Run, path: Path) -> None:
    def main() -> None:
        for flags in (os.O_RDONLY, os.O_RDWR):
            file = File.open(path, flags)
            fd = file.fileno()
            inject("close", 1, error=errno.EIO)
            with pytest.raises(OSError) as caught:
                file.close()
            assert caught.value.errno == errno.EIO
            assert file.closed
            with pytest.raises(OSError):
                os.fstat(fd)

    run(main)


OPERATIONS: dict[str, tuple[str, Callable[[Path, File], Any]]] = {
    "open": ("openat", lambda path, file: File.open(path).close()),
    "open for writing": ("openat", lambda path, file: ferrule.open(path, "wb").close()),
    "open_dir": ("openat", lambda path, file: fs.open_dir(path.parent).close()),
    "fsync": ("fsync", lambda path, file: file.fsync()),
    "fdatasync": ("fsync", lambda path, file: file.fdatasync()),
    "fallocate": ("fallocate", lambda path, file: file.fallocate(0, 10)),
    "truncate": ("ftruncate", lambda path, file: file.truncate(5)),
    "chmod": ("fchmod", lambda path, file: file.chmod(0o600)),
    "seek": ("lseek", lambda path, file: file.seek_to(0)),
    "stat": ("statx", lambda path, file: file.stat()),
    "stat of a path": ("statx", lambda path, file: fs.stat(path)),
    "lock": ("flock", lambda path, file: file.lock()),
    "try_lock": ("flock", lambda path, file: file.try_lock()),
    "preadv": ("readv", lambda path, file: file.preadv([bytearray(5)], 0)),
    "pwritev": ("writev", lambda path, file: file.pwritev([b"x"], 0)),
    "mkdir": ("mkdirat", lambda path, file: fs.mkdir(path.parent / "new")),
    "unlink": ("unlinkat", lambda path, file: fs.unlink(path)),
    "rename": ("renameat", lambda path, file: fs.rename(path, path.parent / "new")),
    "link": ("linkat", lambda path, file: fs.link(path, path.parent / "new")),
    "symlink": ("symlinkat", lambda path, file: fs.symlink(path, path.parent / "new")),
    "readlink": ("readlinkat", lambda path, file: fs.readlink(path.parent / "link")),
    "scandir": ("getdents", lambda path, file: list(fs.scandir(path.parent))),
    "copy_file": ("copy_range", lambda path, file: fs.copy_file(path, path.parent / "new")),
}


NEVER_WAIT = ("lseek", "statx")


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_error_of_any_operation_is_raised(run: Run, path: Path, name: str) -> None:
    kind, call = OPERATIONS[name]
    os.symlink("x", path.parent / "link")

    def main() -> None:
        with File.open(path, os.O_RDWR) as file:
            inject(kind, 1, error=errno.EIO)
            with pytest.raises(OSError) as caught:
                call(path, file)
            assert caught.value.errno == errno.EIO

    run(main)


@pytest.mark.parametrize("name", [n for n in OPERATIONS if OPERATIONS[n][0] not in NEVER_WAIT])
def test_an_interrupted_operation_is_repeated(run: Run, path: Path, name: str) -> None:
    kind, call = OPERATIONS[name]
    os.symlink("x", path.parent / "link")

    def main() -> None:
        with File.open(path, os.O_RDWR) as file:
            inject(kind, 1, error=errno.EINTR)
            call(path, file)

    run(main)


@pytest.mark.parametrize("refusal", [errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.EAGAIN])
def test_where_inline_opens_are_refused_the_ring_opens(
    run_script: Any, path: Path, refusal: int
) -> None:
    """An old kernel or a seccomp filter; in a process of its own, for it remembers ENOSYS."""
    done = run_script(f"""
import ferrule
def main():
    s = ferrule.current_runtime()._scheduler
    for rounds in range(2):
        if rounds == 0:
            s.inject_fault("openat", 1, error={refusal})
        with ferrule.open({str(path)!r}, "rb") as file:
            print(len(file.read()))
        s.forget_faults()
    if {refusal} != {errno.ENOSYS}:
        s.inject_fault("statx", 1, error={refusal})
    print(ferrule.fs.stat({str(path)!r}).st_size)
ferrule.run(main)
""")
    assert done.stdout == f"{SIZE}\n" * 3, done.stderr


def test_a_refusal_for_good_is_an_error_after_all(run: Run, path: Path) -> None:
    def main() -> None:
        inject("openat", 1, error=errno.EPERM)
        inject("openat", 2, error=errno.EPERM)
        with pytest.raises(PermissionError):
            File.open(path)

    run(main)


@pytest.mark.parametrize("refusal", [errno.EAGAIN, errno.EOPNOTSUPP])
def test_where_inline_transfers_are_refused_the_ring_transfers(
    run: Run, path: Path, refusal: int
) -> None:
    data = path.read_bytes()

    def main() -> None:
        for call in (
            lambda file: file.pread(1000, 5) == data[5:1005],
            lambda file: file.preadv([bytearray(10), bytearray(20)], 0) == 30,
            lambda file: file.pwrite(data[:1000], 0) == 1000,
            lambda file: file.pwritev([data[:10], data[10:20]], 0) == 20,
        ):
            with File.open(path, os.O_RDWR) as file:
                for kind in ("read", "readv", "write", "writev"):
                    inject(kind, 1, error=refusal)
                assert call(file)
                assert call(file)
                no_faults()

    run(main)
    assert path.read_bytes() == data


# ---- no descriptors left ----


def test_without_free_descriptors_opens_fail_and_later_ones_work(run: Run, path: Path) -> None:
    def main() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        fs.stat(path)
        ferrule.open(path).close()
        lowest = os.open(path, os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            for call in (
                lambda: ferrule.open(path),
                lambda: ferrule.open(path, "w+"),
                lambda: File.open(path),
                lambda: fs.open_dir(path.parent),
                lambda: fs.scandir(path.parent),
                lambda: fs.rmtree(path.parent),
            ):
                with pytest.raises(OSError) as caught:
                    call()
                assert caught.value.errno == errno.EMFILE
            assert fs.stat(path).st_size == SIZE  # needs none
            fs.rename(path, path.parent / "other")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert fs.read_bytes(path.parent / "other")[:3] == b"\0\1\2"

    run(main)


# ---- cancellation ----


def steps(limit: int = 40) -> Iterator[int]:
    """How many turns to leave a task before it is cancelled."""
    yield from range(limit)


WORK: dict[str, Callable[[Path], Any]] = {
    "open and read": lambda path: ferrule.open(path, "rb").read(),
    "create and write": lambda path: fs.write_bytes(path.parent / "new", b"x" * SIZE),
    "text": lambda path: write_text(path.parent / "text"),
    "vectors": lambda path: vectors(path),
    "sync": lambda path: sync(path),
    "scan": lambda path: list(fs.scandir(path.parent)),
    "copy": lambda path: fs.copy_file(path, path.parent / "copy"),
    "atomic": lambda path: fs.write_atomic(path.parent / "atomic", b"x"),
    "directories": lambda path: directories(path.parent),
    "stat": lambda path: [fs.stat(path), fs.access(path, 0), fs.lstat(path)],
    "bulk": lambda path: bulk(path.parent),
}


def write_text(path: Path) -> None:
    with ferrule.open(path, "w") as file:
        for n in range(3000):
            file.write(f"line {n} of a text that is longer than the buffer\n")


def vectors(path: Path) -> None:
    with File.open(path, os.O_RDWR) as file:
        buffers = [bytearray(200_000), bytearray(300_000)]
        file.preadv(buffers, 0)
        file.pwritev(buffers, 0)


def sync(path: Path) -> None:
    with File.open(path, os.O_RDWR) as file:
        file.pwrite(b"x", 0)
        file.fdatasync()
        file.truncate(SIZE)
        file.fallocate(0, SIZE)
        file.lock()
        file.unlock()


def directories(top: Path) -> None:
    fs.makedirs(top / "a" / "b", exist_ok=True)
    fs.rename(top / "a" / "b", top / "a" / "c")
    fs.symlink("x", top / "a" / "s")
    fs.readlink(top / "a" / "s")
    fs.rmtree(top / "a")


def bulk(top: Path) -> None:
    fs.write_bytes(top / "bulk", b"x" * 2_000_000)
    assert len(fs.read_bytes(top / "bulk")) == 2_000_000


@pytest.mark.parametrize("name", WORK)
def test_work_that_is_cancelled_at_any_moment_leaves_nothing_open(
    run: Run, path: Path, name: str
) -> None:
    """Descriptors, slots, threads and fibers are counted by the fixture that watches every test."""

    def main() -> None:
        for turns in steps():
            task = ferrule.spawn(WORK[name], path)
            for _ in range(turns):
                ferrule.yield_now()
            if turns % 3 == 0:
                ferrule.sleep(0.0003)
            task.cancel()
            task.join()
            if not task.cancelled() and isinstance(task.exception(), OSError):
                assert name == "directories", task.exception()  # the rest of the last round

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        run(main)


@pytest.mark.parametrize("name", [n for n in OPERATIONS if n != "seek"])
def test_every_operation_is_a_cancellation_point(run: Run, path: Path, name: str) -> None:
    os.symlink("x", path.parent / "link")
    before = sorted(os.listdir(path.parent))

    def main() -> None:
        with File.open(path, os.O_RDWR) as file:
            with ferrule.CancelScope() as scope:
                scope.cancel()
                OPERATIONS[name][1](path, file)
                pytest.fail("not cancelled")
            assert scope.cancelled_caught

    run(main)
    assert sorted(os.listdir(path.parent)) == before


def test_reads_and_writes_of_what_is_cached_are_cancellation_points(run: Run, path: Path) -> None:
    def main() -> None:
        with File.open(path, os.O_RDWR) as file, ferrule.open(path, "r+b", 0) as raw:
            for call in (
                lambda: file.pread(1, 0), lambda: file.pwrite(b"x", 0), lambda: file.read(1),
                lambda: raw.read(1), lambda: raw.write(b"x"), lambda: raw.readinto(bytearray(1)),
                raw.readall, lambda: raw.truncate(5),
            ):
                with ferrule.CancelScope() as scope:
                    scope.cancel()
                    call()
                assert scope.cancelled_caught
            assert file.seek_by(0) == 0

    run(main)


def test_an_endless_writer_can_be_cancelled(run: Run, tmp_path: Path) -> None:
    def write_for_ever() -> None:
        with ferrule.open(tmp_path / "out", "w") as file:
            while True:
                file.write("for ever and ever\n")
                if file.tell() > 5_000_000:
                    file.seek(0)

    def main() -> None:
        task = ferrule.spawn(write_for_ever)
        ferrule.sleep(0.02)
        task.cancel()
        task.join()
        assert task.cancelled()

    run(main)


@pytest.mark.parametrize("mode", ["w", "wb", "r+b", "w+"])
def test_what_is_buffered_gets_out_when_a_cancelled_file_is_closed(
    run: Run, tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "out"
    path.touch()

    def work() -> None:
        with ferrule.open(path, mode) as file:
            file.write(b"kept" * 2000 if "b" in mode else "kept" * 2000)
            ferrule.sleep(10)

    def main() -> None:
        task = ferrule.spawn(work)
        ferrule.sleep(0.01)
        task.cancel()
        task.join()
        assert task.cancelled()

    run(main)
    assert path.read_bytes() == b"kept" * 2000


def test_what_was_written_before_a_cancellation_is_not_written_twice(run: Run) -> None:
    """A pipe takes a part, the fiber is cancelled, and close() flushes the rest."""
    data = bytes(n % 251 for n in range(300_000))

    def main() -> None:
        read_fd, write_fd = os.pipe()

        def work() -> None:
            with ferrule.open(write_fd, "wb", 1_000_000) as file:
                file.write(data)
                file.flush()

        task = ferrule.spawn(work)
        ferrule.sleep(0.005)
        task.cancel()
        task.join()
        seen = b""
        while part := os.read(read_fd, 65536):
            seen += part
        os.close(read_fd)
        assert seen == data[: len(seen)]
        assert 0 < len(seen) < len(data)

    run(main)


def test_closing_a_cancelled_pipe_that_is_full_does_not_hang(run: Run) -> None:
    def main() -> None:
        read_fd, write_fd = os.pipe()

        def work() -> None:
            with ferrule.open(write_fd, "wb") as file:
                while True:
                    file.write(b"x" * 1000)

        task = ferrule.spawn(work)
        ferrule.sleep(0.005)
        task.cancel()
        with ferrule.fail_after(5):
            task.join()
        assert task.cancelled()
        os.close(read_fd)

    run(main)


@pytest.mark.parametrize("mode", ["rb", "wb"])
def test_fifo_opens_are_cancelled_at_any_moment(run: Run, tmp_path: Path, mode: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def main() -> None:
        for turns in range(60):
            task = ferrule.spawn(ferrule.open, fifo, mode, 0)
            for _ in range(turns % 10):
                ferrule.yield_now()
            if turns % 3 == 0:
                ferrule.sleep(0.0005)
            task.cancel()
            with ferrule.fail_after(10):
                task.join()
            assert task.cancelled()

    run(main)


def test_a_fifo_open_that_completes_while_it_is_cancelled_loses_no_descriptor(
    run: Run, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def main() -> None:
        for turns in range(100):
            task = ferrule.spawn(ferrule.open, fifo, "rb", 0)
            for _ in range(1 + turns % 5):
                ferrule.yield_now()
            if turns % 2:
                ferrule.sleep(0.0005)
            peer = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
            if turns % 3:
                ferrule.yield_now()
            task.cancel()
            with ferrule.fail_after(10):
                task.join()
            if not task.cancelled():
                task.result().close()
            os.close(peer)

    run(main)


def test_a_read_of_a_terminal_is_cancelled(run: Run) -> None:
    ours, theirs = os.openpty()

    def main() -> None:
        with ferrule.open(theirs, "rb", 0) as file:
            for _ in range(20):
                with ferrule.move_on_after(0.001) as scope:
                    file.read(1)
                assert scope.cancelled_caught

    run(main)
    os.close(ours)


def test_the_end_of_the_run_cancels_what_waits(run: Run, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read_fd, write_fd = os.pipe()

    def main() -> None:
        for _ in range(5):
            ferrule.spawn(ferrule.open, fifo)
            ferrule.spawn(ferrule.open, fifo, "w")
        ferrule.spawn(lambda: ferrule.open(read_fd, "rb", 0, closefd=False).read(1))
        ferrule.sleep(0.005)

    run(main)
    os.close(read_fd)
    os.close(write_fd)


# ---- signals ----


def test_an_ignored_urgent_signal_does_not_stop_cancellation(
    run_script: Any, tmp_path: Path
) -> None:
    """Workers are interrupted by SIGURG; a program that ignores it still can cancel."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    done = run_script(f"""
import signal, ferrule
signal.signal(signal.SIGURG, signal.SIG_IGN)
def main():
    with ferrule.move_on_after(0.05) as scope:
        ferrule.open({str(fifo)!r})
    print(scope.cancelled_caught)
ferrule.run(main)
""")
    assert done.stdout == "True\n", done.stderr


def test_ctrl_c_ends_a_fifo_open(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    source = f"""
import os, signal, ferrule
def main():
    ferrule.spawn(lambda: (ferrule.sleep(0.05), os.kill(os.getpid(), signal.SIGINT)))
    try:
        ferrule.open({str(fifo)!r})
    finally:
        print("finally", flush=True)
ferrule.run(main)
"""
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "finally\n"
    assert "KeyboardInterrupt" in done.stderr


def test_a_signal_handler_that_runs_while_a_worker_waits_disturbs_nothing(
    run_script: Any, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    done = run_script(f"""
import signal, time, ferrule
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
def main():
    one = ferrule.fs.File.open({str(path)!r}, 0o102)
    two = ferrule.fs.File.open({str(path)!r}, 0o102)
    one.lock()
    waiting = ferrule.spawn(two.lock)
    ferrule.sleep(0.05)
    one.unlock()
    waiting.result()
    for n in range(300):
        ferrule.fs.write_bytes({str(path)!r}, b"x" * n)
        assert len(ferrule.fs.read_bytes({str(path)!r})) == n
    signal.setitimer(signal.ITIMER_REAL, 0)
    one.close(); two.close()
    print(len(seen) > 10)
ferrule.run(main)
""")
    assert done.stdout == "True\n", done.stderr
