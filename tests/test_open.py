"""ferrule.open beside builtins.open, on the same inputs."""

from __future__ import annotations

import builtins
import errno
import gc
import io
import os
import pty
import subprocess
import sys
import threading
import tty
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ferrule
from net_support import settle

Run = Callable[..., Any]
BOTH = [pytest.param(builtins.open, id="builtins"), pytest.param(ferrule.open, id="ferrule")]
LARGE = 3 * 1024 * 1024 + 17  # more than two inline chunks, and large enough for a worker


def outcome(fn: Callable[[], Any]) -> Any:
    """What a call gives: its result, or the type and the message of its exception."""
    try:
        return fn()
    except Exception as exc:
        return type(exc), str(exc)


def same(run: Run, scenario: Callable[[Callable[..., Any]], Any]) -> Any:
    """Play a scenario with both; they must agree, and what they gave is returned."""
    expected = outcome(lambda: scenario(builtins.open))
    got = run(lambda: outcome(lambda: scenario(ferrule.open)))
    assert got == expected
    return got


# ---- arguments ----


@pytest.mark.parametrize(
    "mode",
    ["", "rw", "rbt", "bogus", "r+w", "U", "+", "rr", "b", "t", "wa", "x+w", "r++", "br",
     "+br", "rt", "tr+"],
)
def test_a_mode_is_accepted_or_refused_as_by_builtins(run: Run, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")

    def scenario(open: Any) -> Any:
        with open(path, mode) as file:
            return type(file), file.mode

    same(run, scenario)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "rb", "encoding": "utf-8"},
        {"mode": "rb", "errors": "strict"},
        {"mode": "rb", "newline": ""},
        {"buffering": 0},
        {"newline": "q"},
        {"closefd": False},
        {"encoding": "no-such"},
        {"mode": 3},
        {"buffering": "x"},
    ],
)
def test_bad_combinations_are_refused_with_the_same_message(
    run: Run, tmp_path: Path, options: dict[str, Any]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    got = same(run, lambda open: open(path, **options))
    assert issubclass(got[0], (ValueError, TypeError, LookupError))


@pytest.mark.parametrize("file", [-1, 99999, 1.5, None, "a\0b", "", "no/such", b"no-such", []])
def test_a_bad_file_argument_gives_the_same_error(run: Run, file: Any) -> None:
    same(run, lambda open: open(file).close())


def test_an_error_names_the_path_as_it_was_given(run: Run, tmp_path: Path) -> None:
    for path in (str(tmp_path / "none"), os.fsencode(tmp_path / "none"), tmp_path / "none"):

        def scenario(open: Any, path: Any = path) -> Any:
            try:
                open(path)
            except FileNotFoundError as exc:
                return exc.filename, exc.errno

        same(run, scenario)


def test_a_directory_is_refused(run: Run, tmp_path: Path) -> None:
    got = same(run, lambda open: open(tmp_path))
    assert got[0] is IsADirectoryError
    same(run, lambda open: open(tmp_path, "w"))


@pytest.mark.parametrize(
    ("mode", "buffering", "kind"),
    [
        ("rb", -1, io.BufferedReader),
        ("wb", -1, io.BufferedWriter),
        ("r+b", -1, io.BufferedRandom),
        ("w+b", 4096, io.BufferedRandom),
        ("ab", 100, io.BufferedWriter),
        ("r", -1, io.TextIOWrapper),
        ("w", 1, io.TextIOWrapper),
    ],
)
def test_it_returns_the_io_modules_own_classes(
    run: Run, tmp_path: Path, mode: str, buffering: int, kind: type
) -> None:
    path = tmp_path / "file"
    path.touch()

    def main() -> None:
        with ferrule.open(path, mode, buffering) as file:
            assert type(file) is kind

    run(main)


def test_unbuffered_it_returns_a_raw_file(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        with ferrule.open(tmp_path / "file", "wb", 0) as file:
            assert isinstance(file, io.RawIOBase)
            assert not isinstance(file, io.BufferedIOBase)

    run(main)


def test_buffering_1_in_binary_mode_warns(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        with pytest.warns(RuntimeWarning, match="line buffering"):
            ferrule.open(tmp_path / "file", "wb", 1).close()

    run(main)


def test_the_audit_hook_hears_of_it(run: Run, tmp_path: Path) -> None:
    heard: list[Any] = []
    path = str(tmp_path / "file")

    def hook(event: str, args: Any) -> None:
        if event == "open" and args[0] == path:
            heard.append(args[1])

    sys.addaudithook(hook)
    run(lambda: ferrule.open(path, "w").close())
    assert heard == ["w"]


def test_outside_a_runtime_it_names_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ferrule\.run"):
        ferrule.open(tmp_path / "file", "w")


# ---- contents ----


@pytest.mark.parametrize("size", [0, 1, 4096, 65536, 256 * 1024, 256 * 1024 + 1, LARGE])
@pytest.mark.parametrize("buffering", [0, -1, 7])
def test_what_is_written_is_read_back(run: Run, tmp_path: Path, size: int, buffering: int) -> None:
    data = os.urandom(size)
    path = tmp_path / "file"

    def main() -> bytes:
        with ferrule.open(path, "wb", buffering) as file:
            assert file.write(data) == size
        with ferrule.open(path, "rb", buffering) as file:
            return file.read()

    assert run(main) == data
    assert path.read_bytes() == data


@pytest.mark.parametrize("size", [0, 10, 300_000, LARGE])
def test_reads_in_pieces_agree_with_builtins(run: Run, tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))

    def scenario(open: Any) -> Any:
        found = []
        for buffering in (0, -1):
            with open(path, "rb", buffering) as file:
                found += [file.read(3), file.tell(), file.read(size // 2), file.tell()]
                buffer = bytearray(1000)
                found += [file.readinto(buffer), bytes(buffer), file.seek(-5, 2) if size else 0]
                found += [file.read(100), file.read(100), file.read()]
        return found

    same(run, scenario)


@pytest.mark.parametrize("mode", ["r+b", "w+b", "a+b", "r+", "w+", "a+"])
def test_reading_and_writing_in_one_file(run: Run, tmp_path: Path, mode: str) -> None:
    def scenario(open: Any) -> Any:
        path = tmp_path / open.__module__
        path.write_bytes(b"0123456789\n" * 3)
        add: Any = b"abc" if "b" in mode else "abc"
        with open(path, mode) as file:
            found = [file.read(4), file.tell(), file.write(add), file.tell(), file.seek(2)]
            found += [file.read(5), file.truncate(20), file.seek(0, 2), file.write(add)]
        return found, path.read_bytes()

    same(run, scenario)


def test_append_writes_at_the_end_whatever_the_position(run: Run, tmp_path: Path) -> None:
    def scenario(open: Any) -> Any:
        path = tmp_path / open.__module__
        path.write_bytes(b"start ")
        with open(path, "ab") as one, open(path, "ab", 0) as two:
            found = [one.tell(), two.tell()]
            one.write(b"one ")
            one.flush()
            two.seek(0)
            two.write(b"two ")
            found += [one.tell(), two.tell()]
        return found, path.read_bytes()

    same(run, scenario)


def test_x_makes_a_new_file_and_refuses_an_old_one(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "file"

    def main() -> None:
        with ferrule.open(path, "x") as file:
            file.write("new")
        with pytest.raises(FileExistsError) as caught:
            ferrule.open(path, "x")
        assert caught.value.filename == str(path)

    run(main)
    assert path.read_text() == "new"


@pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
def test_newlines_are_translated_alike(run: Run, tmp_path: Path, newline: str | None) -> None:
    def scenario(open: Any) -> Any:
        path = tmp_path / open.__module__
        with open(path, "w", newline=newline) as file:
            file.write("one\ntwo\r\nthree\rfour")
        with open(path, newline=newline) as file:
            return path.read_bytes(), file.readlines(), file.newlines

    same(run, scenario)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1", "utf-8-sig", None])
def test_encodings_work_alike(run: Run, tmp_path: Path, encoding: str | None) -> None:
    def scenario(open: Any) -> Any:
        path = tmp_path / open.__module__
        with open(path, "w", encoding=encoding, errors="replace") as file:
            file.write("grüße £ " * 5000)
        with open(path, "a", encoding=encoding) as file:
            file.write("ende")
        with open(path, encoding=encoding) as file:
            return path.read_bytes(), file.read(7), file.read(), file.encoding

    same(run, scenario)


def test_a_decoding_error_is_the_same(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xff\xfe\xfd")

    def scenario(open: Any) -> Any:
        with open(path, encoding="utf-8") as file:
            return file.read()

    assert same(run, scenario)[0] is UnicodeDecodeError


def test_iteration_and_lines(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"".join(b"line %d\n" % n for n in range(20000)) + b"last")

    def scenario(open: Any) -> Any:
        with open(path) as text, open(path, "rb") as binary, open(path, "rb", 0) as raw:
            found: list[Any] = [list(text), list(binary), raw.readline(), raw.readline(3)]
            return [*found, next(raw), raw.readlines(5)]

    same(run, scenario)


def test_writelines_and_a_line_buffered_text_file(run: Run, tmp_path: Path) -> None:
    def scenario(open: Any) -> Any:
        path = tmp_path / open.__module__
        with open(path, "w", buffering=1) as file:
            file.write("no line yet")
            before = path.read_bytes()
            file.writelines([" but now\n", "rest"])
            return before, path.read_bytes(), file.line_buffering

    same(run, scenario)


@pytest.mark.parametrize("path", ["/proc/self/comm", "/proc/version", "/dev/null", "/dev/zero"])
def test_files_that_are_no_files_on_a_disk(run: Run, path: str) -> None:
    def scenario(open: Any) -> Any:
        with open(path, "rb") as file:
            return file.read(64)

    same(run, scenario)


def test_proc_files_are_read_to_their_end(run: Run) -> None:
    def main() -> bytes:
        with ferrule.open("/proc/self/maps", "rb") as file:
            return file.read()

    assert len(run(main)) > 4096


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no tmpfs at /dev/shm")
def test_tmpfs_files(run: Run) -> None:
    path = f"/dev/shm/ferrule-test-{os.getpid()}"
    data = os.urandom(700_000)

    def main() -> bytes:
        with ferrule.open(path, "wb") as file:
            file.write(data)
        with ferrule.open(path, "rb") as file:
            return file.read()

    try:
        assert run(main) == data
    finally:
        os.unlink(path)


# ---- attributes and wrong use ----


@pytest.mark.parametrize("mode", ["rb", "wb", "ab", "r+b", "w+b"])
def test_a_raw_file_looks_like_a_FileIO(run: Run, tmp_path: Path, mode: str) -> None:
    path = str(tmp_path / "file")
    Path(path).touch()

    def scenario(open: Any) -> Any:
        with open(path, mode, 0) as raw:
            found = [raw.mode, raw.name, raw.closefd, raw.closed, raw.readable(), raw.writable()]
            found += [raw.seekable(), raw.isatty(), raw.tell(), isinstance(raw, io.RawIOBase)]
        found += [raw.closed, outcome(raw.fileno), outcome(raw.tell), outcome(raw.readable)]
        found += [outcome(lambda: raw.read(1)), outcome(lambda: raw.__enter__())]
        return [*found, raw.close()]

    same(run, scenario)


def test_reading_what_is_for_writing_and_the_reverse(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "file"

    def scenario(open: Any) -> Any:
        with open(path, "wb", 0) as file:
            found = [outcome(lambda: file.read(1)), outcome(lambda: file.readinto(bytearray(1)))]
        with open(path, "rb", 0) as file:
            found += [outcome(lambda: file.write(b"")), outcome(lambda: file.truncate())]
        with open(path, "rb") as file:
            return [*found, outcome(lambda: file.write(b"x"))]

    same(run, scenario)


def test_wrong_arguments_of_a_raw_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "file"

    def main() -> None:
        with ferrule.open(path, "w+b", 0) as file:
            for call in (
                lambda: file.write("text"),
                lambda: file.write(None),
                lambda: file.readinto(b"read-only"),
                lambda: file.readinto(memoryview(bytearray(10))[::2]),
                lambda: file.read("x"),
            ):
                with pytest.raises(TypeError):
                    call()
            with pytest.raises(OSError) as caught:
                file.seek(-1)
            assert caught.value.errno == errno.EINVAL
            with pytest.raises(OSError):
                file.truncate(-1)

    run(main)


def test_seek_data_and_seek_hole(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with open(path, "wb") as file:
        file.seek(1 << 20)
        file.write(b"data")

    def scenario(open: Any) -> Any:
        with open(path, "rb", 0) as file:
            return file.seek(0, os.SEEK_DATA), file.seek(0, os.SEEK_HOLE)

    same(run, scenario)


def test_the_name_and_the_mode_show_on_every_layer(run: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "file")

    def scenario(open: Any) -> Any:
        with open(path, "w+") as file:
            return (file.name, file.mode, file.buffer.name, file.buffer.mode,
                    file.buffer.raw.name, file.buffer.raw.mode)

    same(run, scenario)


def test_detaching_and_closing_the_layers_one_by_one(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "file"

    def main() -> None:
        text = ferrule.open(path, "w")
        text.write("kept")
        buffered = text.detach()
        raw = buffered.detach()
        assert path.read_text() == "kept"
        raw.write(b" too")
        raw.close()

    run(main)
    assert path.read_text() == "kept too"


# ---- descriptors as files ----


def test_a_number_is_taken_over_and_closed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")

    def main() -> int:
        fd = os.open(path, os.O_RDONLY)
        with ferrule.open(fd, "rb") as file:
            assert file.fileno() == fd
            assert file.name == fd
            assert file.read() == b"data"
        return fd

    fd = run(main)
    with pytest.raises(OSError):
        os.fstat(fd)


def test_with_closefd_false_the_number_stays_open(run: Run, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        def main() -> None:
            with ferrule.open(fd, "w", closefd=False) as file:
                file.write("kept")

        run(main)
        assert os.pread(fd, 10, 0) == b"kept"
    finally:
        os.close(fd)


def test_a_number_that_does_not_fit_is_not_closed(run: Run, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        def main() -> None:
            with pytest.raises(IsADirectoryError):
                ferrule.open(fd, closefd=False)

        run(main)
        os.fstat(fd)
    finally:
        os.close(fd)


def test_an_opener_is_called_with_the_path_and_the_flags(run: Run, tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)

    def opener(path: str, flags: int) -> int:
        return os.open(path, flags, 0o600, dir_fd=folder)

    def scenario(open: Any) -> Any:
        with open("file", "w", opener=opener) as file:
            file.write("x")
            return file.name, os.get_inheritable(file.fileno()), os.stat(file.fileno()).st_mode

    try:
        same(run, scenario)
    finally:
        os.close(folder)


@pytest.mark.parametrize("result", [-1, -5, "3", None])
def test_an_opener_that_gives_no_descriptor_is_refused(run: Run, result: Any) -> None:
    same(run, lambda open: open("x", opener=lambda path, flags: result))


def test_descriptors_are_not_inheritable_and_block(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def main() -> None:
        for mode in ("r", "r+", "w", "a"):
            with ferrule.open(tmp_path / "file", mode) as file:
                assert not os.get_inheritable(file.fileno())
                assert os.get_blocking(file.fileno())

    run(main)


def test_flags_that_were_asked_for_stay(run: Run, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "file").touch()

    def main() -> None:
        with ferrule.open(tmp_path / "file", "a") as file:
            assert fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_APPEND
        flags = os.O_RDONLY | os.O_NOATIME
        with ferrule.fs.File.open(tmp_path / "file", flags) as raw:
            assert fcntl.fcntl(raw.fileno(), fcntl.F_GETFL) & os.O_NOATIME

    run(main)


# ---- pipes, FIFOs, terminals ----


def test_a_pipe_parks_the_reader_until_data_comes(run: Run) -> None:
    order = []

    def main() -> bytes:
        read_fd, write_fd = os.pipe()

        def reader() -> bytes:
            with ferrule.open(read_fd, "rb") as file:
                data = file.read()
                order.append("read")
                return data

        task = ferrule.spawn(reader)
        ferrule.yield_now()
        order.append("write")
        with ferrule.open(write_fd, "wb") as file:
            file.write(b"x" * 300_000)  # more than a pipe holds
        return task.result()

    assert run(main) == b"x" * 300_000
    assert order == ["write", "read"]


def test_an_unbuffered_write_to_a_pipe_writes_everything(run: Run) -> None:
    def main() -> int:
        read_fd, write_fd = os.pipe()
        with ferrule.open(read_fd, "rb") as source, ferrule.open(write_fd, "wb", 0) as sink:
            reader = ferrule.spawn(source.read, 1_000_000)
            count = sink.write(b"y" * 1_000_000)
            assert len(reader.result()) == count
            return count

    assert run(main) == 1_000_000


def test_a_nonblocking_pipe_parks_too(run: Run) -> None:
    def main() -> bytes:
        read_fd, write_fd = os.pipe2(os.O_NONBLOCK)
        with ferrule.open(read_fd, "rb", 0) as source, ferrule.open(write_fd, "wb", 0) as sink:
            reader = ferrule.spawn(source.read, 10)
            ferrule.sleep(0.01)
            assert not reader.done()
            sink.write(b"there")
            return reader.result()

    assert run(main) == b"there"


def test_writing_to_a_pipe_that_nobody_reads_is_a_broken_pipe(run: Run) -> None:
    def main() -> None:
        read_fd, write_fd = os.pipe()
        os.close(read_fd)
        with ferrule.open(write_fd, "wb", 0) as sink, pytest.raises(BrokenPipeError):
            sink.write(b"x")

    run(main)


def test_a_pipe_has_no_position(run: Run) -> None:
    def scenario(open: Any) -> Any:
        read_fd, write_fd = os.pipe()
        os.close(write_fd)
        with open(read_fd, "rb", 0) as file:
            return file.seekable(), outcome(file.tell), outcome(lambda: file.seek(0))

    got = same(run, scenario)
    assert got[0] is False


def test_a_fifos_reader_and_writer_wait_for_each_other(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)

    def main() -> str:
        def write() -> None:
            with ferrule.open(path, "w") as file:
                file.write("through the fifo")

        for first in (True, False):
            if first:
                writer = ferrule.spawn(write)
                ferrule.sleep(0.005)
                assert not writer.done()
                with ferrule.open(path) as file:
                    text = file.read()
            else:
                reader = ferrule.spawn(lambda: ferrule.open(path).read())
                ferrule.sleep(0.005)
                assert not reader.done()
                write()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ResourceWarning)
                    text = reader.result()
                    gc.collect()
            assert text == "through the fifo"
        return text

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        run(main)


def test_nothing_written_to_a_fifo_is_lost_while_its_reader_opens(
    run: Run, tmp_path: Path
) -> None:
    """A writer that comes, writes and goes at any moment of the reader's open is heard."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    rounds = 400
    # Only once the reader has closed: what is written before that, nobody would hear.
    reader_is_away = threading.Semaphore(0)

    def write_all() -> None:
        for n in range(rounds):
            reader_is_away.acquire()
            for _ in range(n % 40 * 20):
                pass  # another moment each time
            with open(path, "wb", 0) as file:
                file.write(b"%d" % n)

    def main() -> None:
        for n in range(rounds):
            reader_is_away.release()
            with ferrule.open(path, "rb") as file:
                assert file.read() == b"%d" % n

    writer = threading.Thread(target=write_all)
    writer.start()
    run(within, 20, main)
    writer.join()


def within(seconds: float, fn: Callable[[], Any]) -> Any:
    with ferrule.fail_after(seconds):
        return fn()


def test_a_fifo_without_a_peer_holds_up_nobody_else(run: Run, tmp_path: Path) -> None:
    """Also many of them: they have threads of their own, not the few for bounded work."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def main() -> None:
        stuck = [ferrule.spawn(ferrule.open, fifo) for _ in range(40)]
        ferrule.sleep(0.01)
        with ferrule.fail_after(5):
            for n in range(40):
                ferrule.fs.write_bytes(tmp_path / f"{n}", b"x")
                ferrule.fs.access(tmp_path / f"{n}", os.R_OK)
        for task in stuck:
            task.cancel()
        for task in stuck:
            task.join()

    run(main)


def test_a_terminal_is_a_terminal(run: Run) -> None:
    ours, theirs = pty.openpty()
    tty.setraw(theirs)

    def main() -> None:
        with ferrule.open(theirs, "r+b", 0) as file:
            assert file.isatty()
            reader = ferrule.spawn(file.read, 100)
            ferrule.sleep(0.005)
            os.write(ours, b"typed")
            assert reader.result() == b"typed"
            file.write(b"shown")
            assert os.read(ours, 100) == b"shown"

    run(main)
    os.close(ours)


def test_a_terminals_text_file_is_line_buffered(run: Run) -> None:
    ours, theirs = pty.openpty()

    def main() -> None:
        with ferrule.open(theirs, "w") as file:
            assert file.line_buffering
            file.write("line\n")
            assert os.read(ours, 100) == b"line\r\n"

    run(main)
    os.close(ours)


def test_a_write_that_fills_a_terminal_does_not_hold_up_its_reader(run: Run) -> None:
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    data = bytes(range(32, 127)) * 1000

    def main() -> bytes:
        with ferrule.open(theirs, "wb", 0) as screen, ferrule.open(ours, "rb", 0) as other:
            writer = ferrule.spawn(screen.write, data)
            seen = b""
            while len(seen) < len(data):
                seen += other.read(65536)
            assert writer.result() == len(data)
            return seen

    assert run(within, 20, main) == data


@pytest.mark.parametrize("how", ["pipe", "file", "pty"])
def test_stdin_of_any_kind(tmp_path: Path, how: str) -> None:
    source = (
        "import ferrule\n"
        "def main():\n"
        "    with ferrule.open(0, closefd=False) as f:\n"
        "        return f.readline(), f.readline()\n"
        "print(ferrule.run(main))\n"
    )
    text = b"one\ntwo\n"
    command = [sys.executable, "-c", source]
    if how == "pipe":
        done = subprocess.run(command, input=text, capture_output=True, timeout=30)
    elif how == "file":
        path = tmp_path / "input"
        path.write_bytes(text)
        with open(path, "rb") as file:
            done = subprocess.run(command, stdin=file, capture_output=True, timeout=30)
    else:
        ours, theirs = pty.openpty()
        os.write(ours, text)
        done = subprocess.run(command, stdin=theirs, capture_output=True, timeout=30)
        os.close(ours)
        os.close(theirs)
    assert done.stdout == b"('one\\n', 'two\\n')\n", done.stderr


# ---- the end of a file object ----


@pytest.mark.parametrize("mode", ["w", "wb", "w+b"])
def test_a_forgotten_file_is_flushed_closed_and_warned_about(
    run: Run, tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "file"

    def main() -> None:
        file: Any = ferrule.open(path, mode)
        file.write(b"kept" if "b" in mode else "kept")
        with pytest.warns(ResourceWarning, match="unclosed file"):
            del file

    run(main)
    assert path.read_bytes() == b"kept"


@pytest.mark.parametrize("mode", ["w", "wb", "w+b"])
def test_a_forgotten_file_in_a_cycle_is_flushed_too(
    run: Run, tmp_path: Path, mode: str
) -> None:
    """Where builtins.open loses the data: there the collector closes the raw file first."""
    path = tmp_path / "file"

    def main() -> None:
        holder: list[Any] = [ferrule.open(path, mode)]
        holder.append(holder)
        holder[0].write(b"kept" if "b" in mode else "kept")
        del holder
        with pytest.warns(ResourceWarning, match="unclosed file"):
            gc.collect()

    run(main)
    assert path.read_text() == "kept"


def test_a_file_that_outlives_its_runtime_can_be_closed(run: Run, tmp_path: Path) -> None:
    file = run(lambda: ferrule.open(tmp_path / "file", "wb"))
    file.close()
    assert file.closed


@pytest.mark.parametrize("mode", ["r", "rb", "w", "wb", "r+b", "r+"])
def test_closing_a_file_that_was_only_opened_warns_of_nothing(
    run: Run, tmp_path: Path, mode: str
) -> None:
    (tmp_path / "file").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(lambda: ferrule.open(tmp_path / "file", mode).close())


def test_the_close_of_a_dead_file_is_harmless(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        file = ferrule.open(tmp_path / "file", "wb")
        close = file.close
        close()
        del file
        gc.collect()
        close()

    run(main)


def test_dropping_a_buffered_file_needs_no_collector(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        gc.disable()
        try:
            for mode in ("r", "rb", "w", "wb", "r+b"):
                (tmp_path / "file").touch()
                with ferrule.open(tmp_path / "file", mode) as file:
                    fd = file.fileno()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ResourceWarning)
                    file = ferrule.open(tmp_path / "file", mode)
                    fd = file.fileno()
                    del file
                with pytest.raises(OSError):
                    os.fstat(fd)
        finally:
            gc.enable()

    run(main)


@pytest.mark.one_thread("for another thread the buffer's own lock waits")
def test_two_fibers_inside_one_buffered_reader_are_told_so(run: Run) -> None:
    def main() -> None:
        read_fd, write_fd = os.pipe()
        with ferrule.open(read_fd, "rb") as file:
            first = ferrule.spawn(file.read, 10)
            settle()
            with pytest.raises(RuntimeError, match="reentrant"):
                file.read(10)
            os.write(write_fd, b"0123456789")
            assert first.result() == b"0123456789"
        os.close(write_fd)

    run(main)


def test_many_fibers_read_many_files(run: Run, tmp_path: Path) -> None:
    data = {}
    for n in range(200):
        path = tmp_path / f"{n}"
        data[str(path)] = os.urandom(n * 100)
        path.write_bytes(data[str(path)])

    def read(path: str) -> bytes:
        with ferrule.open(path, "rb") as file:
            return file.read()

    def main() -> dict[str, bytes]:
        tasks = {path: ferrule.spawn(read, path) for path in data}
        return {path: task.result() for path, task in tasks.items()}

    assert run(main) == data
