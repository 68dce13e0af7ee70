"""fs.File: positional, streaming and vectored operations beside os, and its life."""

from __future__ import annotations

import array
import errno
import fcntl
import gc
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ferrule
from ferrule import fs
from ferrule.fs import File, Open
from net_support import settle

Run = Callable[..., Any]
LARGE = 3 * 1024 * 1024 + 17


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789" * 10)
    return path


def opened(path: Path, flags: int = os.O_RDWR) -> File:
    return File.open(path, flags)


# ---- at an offset ----


def test_positional_reads_do_not_move_the_position(run: Run, path: Path) -> None:
    def main() -> None:
        with opened(path) as file:
            assert file.pread(5, 3) == b"34567"
            assert file.pread(100, 95) == b"56789"
            assert file.pread(5, 1000) == b""
            assert file.pread(0, 0) == b""
            assert file.read(3) == b"012"

    run(main)


def test_positional_writes_grow_the_file(run: Run, path: Path) -> None:
    def main() -> None:
        with opened(path) as file:
            assert file.pwrite(b"AB", 0) == 2
            assert file.pwrite(b"end", 200) == 3
            assert file.pwrite(b"", 500) == 0
            assert file.seek_by(0) == 0

    run(main)
    data = path.read_bytes()
    assert data[:3] == b"AB2"
    assert data[100:] == bytes(100) + b"end"


def test_readinto_at_fills_any_writable_buffer(run: Run, path: Path) -> None:
    def main() -> None:
        with opened(path) as file:
            for buffer in (bytearray(5), memoryview(bytearray(9))[2:7], array.array("b", bytes(5))):
                assert file.readinto_at(buffer, 1) == 5
                assert bytes(buffer) == b"12345"

    run(main)


@pytest.mark.parametrize("size", [256 * 1024, 1024 * 1024 + 1, LARGE, 9 * 1024 * 1024])
def test_large_transfers_are_complete(run: Run, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)

    def main() -> None:
        with opened(tmp_path / "large", os.O_RDWR | os.O_CREAT) as file:
            assert file.pwrite(data, 5) == size
            assert file.pread(size, 5) == data
            buffer = bytearray(size)
            assert file.readinto_at(buffer, 5) == size
            assert buffer == data
            file.seek_to(5)
            assert file.read() == data

    run(main)


def test_cold_reads_give_the_same(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "cold"
    data = os.urandom(800_000)
    path.write_bytes(data)

    def evict(file: File) -> None:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def main() -> None:
        with opened(path) as file:
            evict(file)
            assert file.pread(100, 400_000) == data[400_000:400_100]
            evict(file)
            assert file.read() == data
            evict(file)
            buffers = [bytearray(300_000), bytearray(600_000)]
            assert file.preadv(buffers, 0) == len(data)
            assert b"".join(buffers)[: len(data)] == data

    run(main)


# ---- vectors ----


def test_vectored_reads_and_writes_agree_with_os(run: Run, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(path.read_bytes())
    pieces = [b"one", b"", bytearray(b"two"), memoryview(b"--three")[2:]]

    def main() -> None:
        fd = os.open(other, os.O_RDWR)
        with opened(path) as file:
            assert file.pwritev(pieces, 7) == os.pwritev(fd, pieces, 7)
            mine: list[Any] = [bytearray(4), bytearray(0), bytearray(50)]
            theirs: list[Any] = [bytearray(4), bytearray(0), bytearray(50)]
            assert file.preadv(mine, 60) == os.preadv(fd, theirs, 60)
            assert mine == theirs
            assert file.writev(pieces) == os.writev(fd, pieces)
            assert file.readv(mine) == os.readv(fd, theirs)
            assert mine == theirs
            assert file.seek_by(0) == os.lseek(fd, 0, os.SEEK_CUR)
            assert file.preadv([], 0) == 0
        os.close(fd)

    run(main)
    assert path.read_bytes() == other.read_bytes()


def test_a_vector_longer_than_the_kernels_limit_is_split(run: Run, tmp_path: Path) -> None:
    pieces = [b"%04d" % n for n in range(3000)]

    def main() -> None:
        with opened(tmp_path / "file", os.O_RDWR | os.O_CREAT) as file:
            assert file.writev(pieces) == 12_000
            buffers = [bytearray(4) for _ in pieces]
            assert file.preadv(buffers, 0) == 12_000
            assert [bytes(buffer) for buffer in buffers] == pieces

    run(main)


# ---- at the position ----


def test_streaming_keeps_a_position(run: Run, path: Path) -> None:
    def main() -> None:
        with opened(path) as file:
            assert file.read(4) == b"0123"
            assert file.seek_by(3) == 7
            assert file.read(3) == b"789"
            assert file.seek_to(98) == 98
            assert file.read() == b"89"
            assert file.read(1) == b""
            assert file.write(b"more") == 4
            assert file.seek_by(-6) == 98
            buffer = bytearray(100)
            assert file.readinto(buffer) == 6
            assert buffer[:6] == b"89more"

    run(main)


def test_read_without_a_size_starts_at_the_position(run: Run, tmp_path: Path) -> None:
    data = os.urandom(LARGE)
    (tmp_path / "file").write_bytes(data)

    def main() -> None:
        with opened(tmp_path / "file") as file:
            assert file.read(10) == data[:10]
            assert file.read() == data[10:]
            assert file.read() == b""
            assert file.read(None) == b""

    run(main)


def test_a_file_that_grows_while_it_is_read_is_read_to_its_new_end(
    run: Run, path: Path
) -> None:
    def main() -> None:
        with opened(path) as file, opened(path, os.O_WRONLY | os.O_APPEND) as writer:
            writer.write(b"x" * 20_000)
            assert len(file.read()) == 20_100

    run(main)


# ---- the file itself ----


def test_stat_agrees_with_os(run: Run, path: Path) -> None:
    def main() -> os.stat_result:
        with opened(path) as file:
            return file.stat()

    mine, theirs = run(main), os.stat(path)
    assert mine == theirs
    assert [getattr(mine, name) for name in dir(mine) if name.startswith("st_")] == [
        getattr(theirs, name) for name in dir(theirs) if name.startswith("st_")
    ]


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no tmpfs at /dev/shm")
def test_stat_agrees_with_os_where_the_kernel_may_have_to_ask(run: Run) -> None:
    path = f"/dev/shm/ferrule-test-{os.getpid()}"

    def main() -> None:
        with File.open(path, os.O_RDWR | os.O_CREAT) as file:
            file.write(b"data")
            expected = os.stat(path)
            for found in (file.stat(), fs.stat(path), fs.stat(file.fileno()), fs.lstat(path)):
                assert found == expected
                assert found.st_mtime_ns == expected.st_mtime_ns

    try:
        run(main)
    finally:
        os.unlink(path)


def test_truncate_cuts_and_grows(run: Run, path: Path) -> None:
    def main() -> None:
        with opened(path) as file:
            file.truncate(5)
            assert file.pread(10, 0) == b"01234"
            file.truncate(7)
            assert file.pread(10, 0) == b"01234\0\0"

    run(main)


def test_fsync_fdatasync_fallocate_and_chmod(run: Run, path: Path) -> None:
    def main() -> None:
        with opened(path) as file:
            file.write(b"x")
            file.fsync()
            file.fdatasync()
            file.fallocate(0, 1 << 20)
            assert file.stat().st_size == 1 << 20
            file.chmod(0o640)
            assert file.stat().st_mode & 0o777 == 0o640

    run(main)


def test_open_flags_by_name(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "new"

    def main() -> None:
        with File.open(path, Open.WRITE | Open.EXCLUSIVE, 0o600) as file:
            file.write(b"old content")
        with pytest.raises(FileExistsError):
            File.open(path, Open.WRITE | Open.EXCLUSIVE)
        with File.open(path, Open.READ_WRITE | Open.TRUNCATE) as file:
            assert file.read() == b""
            file.write(b"new")
        with File.open(path, Open.WRITE | Open.APPEND) as file:
            file.write(b"er")
        os.symlink(path, tmp_path / "link")
        with pytest.raises(OSError) as caught:
            File.open(tmp_path / "link", Open.READ | Open.NO_FOLLOW)
        assert caught.value.errno == errno.ELOOP

    run(main)
    assert path.read_bytes() == b"newer"
    assert path.stat().st_mode & 0o777 == 0o600


def test_o_path_and_o_tmpfile(run: Run, tmp_path: Path, path: Path) -> None:
    def main() -> None:
        with File.open(path, os.O_PATH) as file:
            assert file.stat().st_size == 100
            with pytest.raises(OSError):
                file.pread(1, 0)
        with File.open(tmp_path, os.O_TMPFILE | os.O_RDWR) as file:
            file.write(b"nameless")
            assert file.stat().st_nlink == 0

    run(main)
    assert os.listdir(tmp_path) == ["file"]


def test_the_umask_and_the_mode_are_honoured(run: Run, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        run(lambda: File.open(tmp_path / "new", os.O_CREAT | os.O_WRONLY, 0o666).close())
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


def test_the_descriptor_blocks_and_is_not_inherited(run: Run, path: Path) -> None:
    def main() -> None:
        with opened(path) as file:
            assert os.get_blocking(file.fileno())
            assert not os.get_inheritable(file.fileno())
        with opened(path, os.O_RDONLY | os.O_NONBLOCK) as file:
            assert not os.get_blocking(file.fileno())

    run(main)


# ---- wrong use ----


def test_errors_name_the_path(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        with pytest.raises(FileNotFoundError) as caught:
            File.open(tmp_path / "none")
        assert caught.value.filename == str(tmp_path / "none")
        with pytest.raises(IsADirectoryError):
            File.open(tmp_path, os.O_WRONLY)
        with pytest.raises(ValueError, match="null"):
            File.open("a\0b")
        with pytest.raises(TypeError):
            File.open(3.5)  # type: ignore[arg-type]

    run(main)


def test_wrong_arguments_are_refused(run: Run, path: Path) -> None:
    def main() -> None:
        with opened(path) as file:
            for call in (
                lambda: file.pread(-1, 0),
                lambda: file.pread(1, -1),
                lambda: file.pwrite(b"", -1),
                lambda: file.truncate(-1),
                lambda: file.seek_to(-1),
                lambda: file.fallocate(-1, 1),
            ):
                with pytest.raises(ValueError, match="negative"):
                    call()
            for call in (
                lambda: file.pwrite("text", 0),  # type: ignore[arg-type]
                lambda: file.readinto_at(b"read-only", 0),
                lambda: file.pread("1", 0),  # type: ignore[arg-type]
                lambda: file.preadv(5, 0),  # type: ignore[arg-type]
                lambda: file.pwritev(["text"], 0),  # type: ignore[list-item]
            ):
                with pytest.raises(TypeError):
                    call()
            with pytest.raises(BufferError):
                file.preadv([b"read-only"], 0)
            with pytest.raises(OSError) as caught:
                file.seek_by(-1000)
            assert caught.value.errno == errno.EINVAL

    run(main)


def test_the_wrong_direction_is_a_bad_descriptor(run: Run, path: Path) -> None:
    def main() -> None:
        with opened(path, os.O_RDONLY) as file:
            for call in (lambda: file.write(b"x"), lambda: file.pwritev([b"x"], 0)):
                with pytest.raises(OSError) as caught:
                    call()
                assert caught.value.errno == errno.EBADF
        with opened(path, os.O_WRONLY) as file, pytest.raises(OSError):
            file.read()

    run(main)


def test_a_closed_file_refuses_everything(run: Run, path: Path) -> None:
    def main() -> None:
        file = opened(path)
        file.close()
        file.close()
        assert file.closed
        for call in (
            lambda: file.pread(1, 0),
            lambda: file.write(b""),
            lambda: file.readv([bytearray(1)]),
            lambda: file.seek_by(0),
            file.stat,
            file.fsync,
            file.lock,
            file.try_lock,
            file.unlock,
            file.__enter__,
        ):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.EBADF
        with pytest.raises(ValueError, match="closed"):
            file.fileno()

    run(main)


def test_outside_a_runtime_it_names_run(path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ferrule\.run"):
        File.open(path)
    file = ferrule.run(lambda: opened(path))
    with pytest.raises(RuntimeError, match=r"ferrule\.run"):
        file.pread(1, 0)
    file.close()


def test_inside_no_switch_what_is_cached_works_and_what_waits_is_refused(
    run: Run, path: Path
) -> None:
    def main() -> None:
        with opened(path) as file:
            assert file.pread(4, 0) == b"0123"
            with ferrule.no_switch():
                assert file.pread(4, 0) == b"0123"
                with pytest.raises(RuntimeError, match="no_switch"):
                    file.fsync()
                file.close()

    run(main)


# ---- buffers in flight ----


def test_a_buffer_that_is_being_read_into_cannot_be_resized(run: Run) -> None:
    def main() -> None:
        read_fd, write_fd = os.pipe()
        buffer = bytearray(10)
        with ferrule.open(read_fd, "rb", 0) as file:
            reader = ferrule.spawn(file.readinto, buffer)
            settle()
            with pytest.raises(BufferError):
                buffer.extend(b"more")
            with pytest.raises(BufferError):
                buffer.clear()
            os.write(write_fd, b"data")
            assert reader.result() == 4
            buffer.extend(b"more")
        os.close(write_fd)

    run(main)


def test_a_memoryview_in_flight_cannot_be_released(run: Run) -> None:
    def main() -> None:
        read_fd, write_fd = os.pipe()
        view = memoryview(bytearray(10))
        with ferrule.open(read_fd, "rb", 0) as file:
            reader = ferrule.spawn(file.readinto, view)
            settle()
            with pytest.raises(BufferError):
                view.release()
            os.write(write_fd, b"data")
            assert reader.result() == 4
            view.release()
        os.close(write_fd)

    run(main)


def test_a_buffer_whose_last_reference_goes_stays_until_the_end(run: Run) -> None:
    def main() -> None:
        read_fd, write_fd = os.pipe()
        with ferrule.open(read_fd, "rb", 0) as file:
            reader = ferrule.spawn(lambda: file.readinto(bytearray(1000)))
            settle()
            gc.collect()
            os.write(write_fd, b"x" * 1000)
            assert reader.result() == 1000
        os.close(write_fd)

    run(main)


# ---- closing while something is in flight ----


def test_closing_ends_a_read_that_waits_with_EBADF(run: Run) -> None:
    def main() -> None:
        read_fd, write_fd = os.pipe()
        file = ferrule.open(read_fd, "rb", 0)
        readers = [ferrule.spawn(file.read, 1) for _ in range(3)]
        settle()
        file.close()
        for reader in readers:
            with pytest.raises(OSError) as caught:
                reader.result()
            assert caught.value.errno == errno.EBADF
        with pytest.raises(OSError):
            os.fstat(read_fd)
        os.close(write_fd)

    run(main)


def test_the_number_is_not_reused_before_what_is_in_flight_has_ended(run: Run) -> None:
    def main() -> None:
        for _ in range(50):
            read_fd, write_fd = os.pipe()
            file = ferrule.open(read_fd, "rb", 0)
            reader = ferrule.spawn(lambda file=file: file.read(100))
            settle()
            file.close()
            fresh = os.open("/dev/zero", os.O_RDONLY)
            with pytest.raises(OSError):
                reader.result()
            os.close(fresh)
            os.close(write_fd)

    run(main)


def test_the_close_of_a_large_nameless_file(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        file = opened(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        file.fallocate(0, 64 << 20)
        fs.unlink(tmp_path / "file")
        fd = file.fileno()
        file.close()
        with pytest.raises(OSError):
            os.fstat(fd)

    run(main)


def test_a_forgotten_file_gives_its_descriptor_back(run: Run, path: Path) -> None:
    def main() -> None:
        file = opened(path)
        fd = file.fileno()
        del file
        with pytest.raises(OSError):
            os.fstat(fd)

    run(main)


# ---- many at once, forks, fairness ----


def test_positional_operations_run_at_the_same_time(run: Run, tmp_path: Path) -> None:
    block = 5000

    def main() -> None:
        with opened(tmp_path / "file", os.O_RDWR | os.O_CREAT) as file:
            def write(n: int) -> None:
                file.pwrite(bytes([n % 251]) * block, n * block)

            tasks = [ferrule.spawn(write, n) for n in range(300)]
            for task in tasks:
                task.result()
            for n in range(300):
                assert file.pread(block, n * block) == bytes([n % 251]) * block

    run(main)


def test_large_transfers_take_turns_and_all_come_to_their_end(run: Run, tmp_path: Path) -> None:
    data = os.urandom(2 * 1024 * 1024)

    def main() -> None:
        def work(n: int) -> bytes:
            path = tmp_path / f"{n}"
            fs.write_bytes(path, data)
            return fs.read_bytes(path)

        tasks = [ferrule.spawn(work, n) for n in range(20)]
        tasks[7].cancel()
        results = [task.result() for n, task in enumerate(tasks) if n != 7]
        assert all(result == data for result in results)

    run(main)


@pytest.mark.one_thread("fibers of one thread take turns")
def test_a_busy_reader_lets_a_ticker_tick(run: Run, path: Path) -> None:
    def main() -> int:
        ticks = 0
        over = False

        def tick() -> None:
            nonlocal ticks
            while not over:
                ferrule.yield_now()
                ticks += 1

        ticker = ferrule.spawn(tick)
        with opened(path) as file:
            for _ in range(1000):
                file.pread(10, 0)
        over = True
        ticker.result()
        return ticks

    assert run(main) >= 10


def test_a_forked_child_can_use_and_close_what_it_inherited(run_script: Any, path: Path) -> None:
    done = run_script(f"""
import os, ferrule
def main():
    file = ferrule.fs.File.open({str(path)!r}, os.O_RDWR)
    text = ferrule.open({str(path)!r}, "w")
    text.write("from the parent")
    read_fd, write_fd = os.pipe()
    pipe = ferrule.open(read_fd, "rb", 0)
    waiting = ferrule.spawn(pipe.read, 10)
    ferrule.yield_now()
    pid = os.fork()
    if pid == 0:
        try:
            file.pread(1, 0)
        except RuntimeError as exc:
            assert "fork" in str(exc), exc
            file.close()
            pipe.close()
            os._exit(0 if file.closed and pipe.closed else 2)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    os.write(write_fd, b"still")
    print(waiting.result())
    text.close()
    file.close(); pipe.close(); os.close(write_fd)
ferrule.run(main)
""")
    assert done.stdout == "b'still'\n", done.stderr
    assert path.read_text() == "from the parent"


def test_a_child_process_gets_no_descriptor_of_ours(run: Run, path: Path) -> None:
    def main() -> str:
        with opened(path) as file, ferrule.open(path) as text:
            numbers = (file.fileno(), text.fileno())
            code = f"import os\nfor fd in {numbers}:\n  try: os.fstat(fd); print(fd)\n" \
                   "  except OSError: pass"
            return subprocess.run(
                [sys.executable, "-c", code], close_fds=False, capture_output=True, text=True
            ).stdout

    assert run(main) == ""


def test_a_lease_that_is_in_the_way_is_waited_for(run: Run, path: Path) -> None:
    """Opening what somebody holds a lease on waits until they let go: not on the loop thread."""
    import signal

    holder = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(holder, fcntl.F_SETSIG, 0)
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as exc:
        os.close(holder)
        pytest.skip(f"no leases here: {exc}")
    before = signal.signal(signal.SIGIO, lambda *_: None)

    def main() -> bytes:
        opening = ferrule.spawn(opened, path, os.O_RDONLY)
        ferrule.sleep(0.02)
        assert not opening.done()
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        with ferrule.fail_after(10), opening.result() as file:
            return file.read(3)

    try:
        assert run(main) == b"012"
    finally:
        signal.signal(signal.SIGIO, before)
        os.close(holder)


def test_o_direct_leaves_the_waiting_for_the_device_to_the_ring(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(8192))
    try:
        os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
    except OSError as error:
        pytest.skip(f"no O_DIRECT on this file system: {error}")

    def main() -> None:
        buffer = mmap.mmap(-1, 4096)  # aligned, as O_DIRECT wants it
        sqes = statistics()["sqes"]
        with File.open(path, os.O_RDWR | os.O_DIRECT) as file:
            calls: list[Callable[[], int]] = [
                lambda: file.readinto_at(buffer, 0), lambda: file.preadv([buffer], 4096),
                lambda: file.pwrite(buffer, 0), lambda: file.pwritev([buffer], 4096),
            ]
            for number, call in enumerate(calls, 1):
                assert call() == 4096
                if ferrule.current_runtime().backend == "uring":
                    assert statistics()["sqes"] >= sqes + number

    def statistics() -> dict[str, int]:
        return dict(ferrule.current_runtime().statistics())

    run(main)
