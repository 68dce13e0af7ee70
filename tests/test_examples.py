"""The README's first program and every file in examples/ run as they stand."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
# How a user runs them, but that a warning (of something not closed) is a failure.
PYTHON = [sys.executable, "-W", "error"]
STATED_PORT = "7000"
SECONDS = 60


def first_readme_program() -> str:
    found = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    assert found, "the README has no Python block"
    return found[1]


def run_example(name: str, folder: Path, *args: object) -> list[str]:
    """The lines it prints; it has to end by itself, well, and without a word on stderr."""
    done = subprocess.run(
        [*PYTHON, str(EXAMPLES / name), *map(str, args)],
        cwd=folder, capture_output=True, text=True, timeout=SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(folder.iterdir()) == [], "it leaves files in the current folder"
    return done.stdout.splitlines()


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def connect_when_up(port: int, server: subprocess.Popen[str]) -> socket.socket:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        except ConnectionRefusedError:
            assert server.poll() is None, server.communicate()[1]
            assert time.monotonic() < deadline, "it does not listen"
            time.sleep(0.02)  # another process: there is nothing to wait on


@contextmanager
def serving(program: Path) -> Iterator[subprocess.Popen[str]]:
    server = subprocess.Popen([*PYTHON, str(program)], stderr=subprocess.PIPE, text=True)
    try:
        yield server
    finally:
        server.kill()
        server.communicate()


@pytest.fixture
def echo_server(tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The README's first program, with nothing changed but the port, which may be taken."""
    source, port = first_readme_program(), free_port()
    assert source.count(STATED_PORT) == 1
    program = tmp_path / "echo.py"
    program.write_text(source.replace(STATED_PORT, str(port)))
    with serving(program) as server:
        yield port, server


def receive(conn: socket.socket, count: int) -> bytes:
    with conn.makefile("rb") as file:
        return file.read(count)


def test_the_readmes_first_program_echoes_to_several_clients_at_once(
    echo_server: tuple[int, subprocess.Popen[str]],
) -> None:
    port, server = echo_server
    with connect_when_up(port, server) as one, connect_when_up(port, server) as other:
        for conn in (one, other):
            message = os.urandom(100_000)
            conn.sendall(message)
            assert receive(conn, len(message)) == message
        one.shutdown(socket.SHUT_WR)
        assert one.recv(1) == b""
        other.sendall(b"still")
        assert receive(other, 5) == b"still"


def test_ctrl_c_ends_the_readmes_first_program(
    echo_server: tuple[int, subprocess.Popen[str]],
) -> None:
    port, server = echo_server
    with connect_when_up(port, server) as conn:
        conn.sendall(b"x")
        assert conn.recv(1) == b"x"  # in the middle of a connection
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=SECONDS)
        assert errors.splitlines()[-1] == "KeyboardInterrupt"
        assert conn.recv(1) == b""


def test_the_readmes_first_program_is_under_ten_lines_and_an_example() -> None:
    source = first_readme_program()
    assert len(source.splitlines()) < 10
    assert (EXAMPLES / "echo_server.py").read_text() == source


def test_https_get_prints_the_status_and_the_page(empty: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    assert run_example("https_get.py", empty) == [
        "localhost: HTTP/1.1 200 OK",
        "<h1>Hello over TLS</h1>",
    ]


def test_fetch_many_gets_all_but_the_late_pages(empty: Path) -> None:
    size = sum(len(f"This is page {number}.\n") for number in range(100) if number % 25)
    assert run_example("fetch_many.py", empty) == [
        f"96 pages, {size} bytes",
        "too late: [0, 25, 50, 75]",
    ]


def test_checksums_reads_many_files_from_one_fiber(empty: Path) -> None:
    assert run_example("checksums.py", empty) == ["100 files identical"]


def test_checksums_prints_those_of_given_files(empty: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one", "other")]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(number * 600_000))
    lines = run_example("checksums.py", empty, *paths)
    expected = [f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path}" for path in paths]
    assert sorted(lines) == sorted(expected)


def test_duplicate_files_finds_those_of_its_own(empty: Path) -> None:
    assert run_example("duplicate_files.py", empty) == ["50 pairs"]


def test_duplicate_files_finds_those_among_given_files(empty: Path, tmp_path: Path) -> None:
    for name, content in {"a": b"same", "b": b"else", "c": b"same", "d": b"longer"}.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in "abcd"]
    assert run_example("duplicate_files.py", empty, *paths) == [f"{paths[0]} {paths[2]}"]


def test_copy_files_copies_a_folder_of_its_own(empty: Path) -> None:
    size = sum(len(f"{number}\n") * 1000 for number in range(50))
    assert run_example("copy_files.py", empty) == [f"50 files, {size} bytes", "identical"]


def test_copy_files_copies_a_given_folder(empty: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    files = {Path("a"): b"", Path("in/b"): os.urandom(100_000), Path("in/side/c"): b"c"}
    for path, content in files.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(content)
    assert run_example("copy_files.py", empty, source, target) == ["3 files, 100001 bytes"]
    copied = {path.relative_to(target): path.read_bytes() for path in all_files(target)}
    assert copied == files


def test_random_reader_reads_a_file_of_its_own_and_a_given_one(empty: Path, tmp_path: Path) -> None:
    line = re.compile(r"[1-9]\d* reads per second, (O_DIRECT|through the page cache), 32 at a time")
    given = tmp_path / "given"
    given.write_bytes(os.urandom(50 * 4096))
    for arguments in ([], [given, 0.1]):
        [printed] = run_example("ring_random_reader.py", empty, *arguments)
        assert line.fullmatch(printed)


def test_ring_copy_copies_a_file_of_its_own(empty: Path) -> None:
    assert run_example("ring_copy.py", empty) == ["10000000 bytes", "identical"]


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 3_000_001])
def test_ring_copy_copies_a_given_file(size: int, empty: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(size))
    target.write_bytes(b"old, and longer than an empty file")
    assert run_example("ring_copy.py", empty, source, target) == [f"{size} bytes"]
    assert target.read_bytes() == source.read_bytes()


def test_ring_copy_does_not_copy_a_file_onto_itself(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"precious")
    link.symlink_to(file)
    done = subprocess.run(
        [*PYTHON, str(EXAMPLES / "ring_copy.py"), str(file), str(link)],
        capture_output=True, text=True, timeout=SECONDS,
    )
    assert done.returncode == 1
    assert "are the same file" in done.stderr
    assert file.read_bytes() == b"precious"


def cat(*paths: Path, given: bytes = b"") -> bytes:
    done = subprocess.run(
        [*PYTHON, str(EXAMPLES / "ring_cat.py"), *map(str, paths)],
        input=given, capture_output=True, timeout=SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def test_ring_cat_prints_files_one_after_the_other(tmp_path: Path) -> None:
    contents = [os.urandom(200_001), b"", os.urandom(64 * 1024)]
    paths = [tmp_path / str(number) for number in range(3)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    assert cat(*paths) == b"".join(contents)


def test_ring_cat_prints_its_standard_input(tmp_path: Path) -> None:
    given = os.urandom(300_000)
    assert cat(given=given) == given
    assert cat() == b""


def test_ring_cat_ends_quietly_when_nobody_reads_on(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(1_000_000))
    with subprocess.Popen(
        [*PYTHON, str(EXAMPLES / "ring_cat.py"), str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.stdout.read(10) == bytes(10)
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait(SECONDS) == 0


@contextmanager
def ring_echo_server(*args: object) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    command = [*PYTHON, str(EXAMPLES / "ring_echo_server.py"), "0", *map(str, args)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            yield int(server.stdout.readline().removeprefix("echoing on port ")), server
        finally:
            server.kill()


def flood(conn: socket.socket, data: bytes) -> int:
    """Send until the server takes no more; how much it took."""
    sent = 0
    conn.settimeout(0.3)
    with suppress(TimeoutError):
        while sent < len(data):
            sent += conn.send(data[sent:])
    conn.settimeout(SECONDS)
    return sent


def test_ring_echo_server_echoes_and_ends_cleanly_on_ctrl_c() -> None:
    with ring_echo_server() as (port, server), ExitStack() as stack:
        conns = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), SECONDS))
            for _ in range(50)
        ]
        for size in (1, 4096, 50_000):
            messages = [os.urandom(size) for _ in conns]
            for conn, message in zip(conns, messages, strict=True):
                conn.sendall(message)
            assert [receive(conn, size) for conn in conns] == messages
        conns[0].shutdown(socket.SHUT_WR)
        assert conns[0].recv(1) == b""
        conns[1].sendall(b"still")
        assert receive(conns[1], 5) == b"still"
        server.send_signal(signal.SIGINT)
        assert server.communicate(timeout=SECONDS) == ("", "")
        assert server.returncode == 0
        assert conns[1].recv(1) == b""


def test_ring_echo_server_arms_receives_again_when_buffers_return() -> None:
    data = os.urandom(50_000_000)
    with (
        ring_echo_server() as (port, server),
        socket.create_connection(("127.0.0.1", port), SECONDS) as greedy,
        socket.create_connection(("127.0.0.1", port), SECONDS) as patient,
    ):
        sent = flood(greedy, data)
        assert 1 << 20 < sent < len(data), "it takes all that comes, buffers or not"
        patient.sendall(b"are you there?")
        patient.settimeout(0.1)
        with pytest.raises(TimeoutError):
            patient.recv(1)
        assert receive(greedy, sent) == data[:sent]
        patient.settimeout(SECONDS)
        assert receive(patient, 14) == b"are you there?"
        server.send_signal(signal.SIGINT)
        assert server.communicate(timeout=SECONDS) == ("", "")


def test_ring_echo_server_disconnects_who_takes_nothing() -> None:
    with (
        ring_echo_server(0.5) as (port, server),
        socket.create_connection(("127.0.0.1", port), SECONDS) as greedy,
        socket.create_connection(("127.0.0.1", port), SECONDS) as patient,
    ):
        flood(greedy, os.urandom(50_000_000))
        patient.sendall(b"are you there?")
        assert receive(patient, 14) == b"are you there?"
        with pytest.raises(ConnectionError):
            while True:
                greedy.send(bytes(4096))
        server.send_signal(signal.SIGINT)
        assert server.communicate(timeout=SECONDS) == ("", "")


def all_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_every_example_is_tested() -> None:
    here = Path(__file__).read_text()
    untested = [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in here]
    assert untested == []
