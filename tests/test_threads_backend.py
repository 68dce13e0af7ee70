"""The engine of plain threads: what it does differently from the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
from thread_support import os_threads

Run = Callable[..., Any]


@pytest.fixture
def run() -> Run:
    def run(main: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return ferrule.run(main, *args, backend="threads", **options)

    return run


@pytest.fixture
def few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERRULE_WAITING_THREADS", "2")


def echo(conn: Any) -> None:
    with conn:
        while data := conn.recv(65536):
            conn.sendall(data)


def exchange(conn: Any, message: bytes) -> None:
    conn.sendall(message)
    received = b""
    while len(received) < len(message):
        received += conn.recv(65536)
    assert received == message


def talk(connections: int, rounds: int) -> None:
    with ferrule.listen_tcp("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            for conn in listener:
                ferrule.spawn(echo, conn)

        def client(number: int) -> None:
            with ferrule.connect_tcp("127.0.0.1", port) as conn:
                for i in range(rounds):
                    exchange(conn, b"%d.%d;" % (number, i))

        server = ferrule.spawn(serve)
        with ferrule.TaskGroup() as group:
            for number in range(connections):
                group.spawn(client, number)
        server.cancel()


def test_echo(run: Run) -> None:
    run(talk, 64, 20)


@pytest.mark.usefixtures("few_threads")
def test_more_waits_than_threads_go_on_all_the_same(run: Run) -> None:
    run(talk, 64, 20)


@pytest.mark.usefixtures("few_threads")
def test_waits_beyond_the_limit_take_no_threads(run: Run) -> None:
    def main() -> int:
        pairs = [ferrule.socket.socketpair() for _ in range(50)]
        readers = [ferrule.spawn(reader.recv, 10) for reader, _ in pairs]
        ferrule.sleep(0.05)
        threads = len(os_threads())
        for number, (_, writer) in enumerate(pairs):
            writer.sendall(b"%d" % number)
        assert [task.result() for task in readers] == [b"%d" % number for number in range(50)]
        for pair in pairs:
            for end in pair:
                end.close()
        return threads

    before = len(os_threads())
    assert run(main) - before <= 2


@pytest.mark.usefixtures("few_threads")
def test_waits_beyond_the_limit_can_be_cancelled(run: Run) -> None:
    def main() -> None:
        reader, writer = ferrule.socket.socketpair()
        with reader, writer:
            tasks = [ferrule.spawn(reader.recv, 10) for _ in range(20)]
            ferrule.sleep(0.02)
            started = time.monotonic()
            for task in tasks:
                task.cancel()
            for task in tasks:
                task.join(1)
                assert task.cancelled()
            assert time.monotonic() - started < 1

    run(main)


@pytest.mark.usefixtures("few_threads")
def test_a_listener_accepts_when_all_threads_wait(run: Run) -> None:
    def main() -> None:
        pairs = [ferrule.socket.socketpair() for _ in range(4)]
        idle = [ferrule.spawn(reader.recv, 1) for reader, _ in pairs]
        ferrule.sleep(0.02)
        talk(3, 3)
        for (reader, writer), task in zip(pairs, idle, strict=True):
            writer.sendall(b"x")
            assert task.result() == b"x"
            reader.close()
            writer.close()

    run(main)


@pytest.mark.usefixtures("few_threads")
def test_a_cold_read_beyond_the_limit_is_done(run: Run, tmp_path: Any) -> None:
    # ext4 and tmpfs differ in what RWF_NOWAIT answers; a pipe is waited for in any case.
    (tmp_path / "file").write_bytes(b"abc")

    def main() -> None:
        pairs = [ferrule.socket.socketpair() for _ in range(4)]
        idle = [ferrule.spawn(reader.recv, 1) for reader, _ in pairs]
        ferrule.sleep(0.02)
        with ferrule.open(tmp_path / "file", "rb") as file:
            assert file.read() == b"abc"
        for (reader, writer), task in zip(pairs, idle, strict=True):
            task.cancel()
            task.join()
            reader.close()
            writer.close()

    run(main)


@pytest.mark.parametrize("value", ["0", "769", "many", "-1", "1.5"])
def test_a_senseless_limit_is_refused(
    run: Run, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FERRULE_WAITING_THREADS", value)
    with pytest.raises(ValueError, match="FERRULE_WAITING_THREADS.*768.*" + value):
        run(lambda: None)


def test_fibers_of_one_thread_run_one_at_a_time(run: Run) -> None:
    def main() -> None:
        me = threading.get_ident()
        reader, writer = ferrule.socket.socketpair()
        inside = 0

        def work() -> None:
            nonlocal inside
            for _ in range(50):
                assert threading.get_ident() == me
                inside += 1
                assert inside == 1
                inside -= 1
                reader.recv(1)

        with reader, writer:
            tasks = [ferrule.spawn(work) for _ in range(8)]
            for _ in range(8 * 50):
                writer.sendall(b"x")
                ferrule.yield_now()
            for task in tasks:
                task.result(5)

    run(main)


def test_a_send_takes_what_fits_and_returns(run: Run) -> None:
    def main() -> None:
        reader, writer = ferrule.socket.socketpair()
        with reader, writer:
            writer.setblocking(True)
            filled = 0
            while True:
                try:
                    filled += writer.send(b"x" * 65536, ferrule.socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
            sending = ferrule.spawn(writer.send, b"y" * 10_000_000)
            ferrule.sleep(0.02)
            assert not sending.done()
            while filled > 0:
                filled -= len(reader.recv(min(filled, 65536)))
            assert 0 < sending.result(5) < 10_000_000

    run(main)


@pytest.mark.parametrize("delay", [0, 0.0001, 0.001, 0.01])
def test_no_cancellation_is_lost_between_the_check_and_the_call(run: Run, delay: float) -> None:
    def main() -> None:
        reader, writer = ferrule.socket.socketpair()
        with reader, writer:
            for _ in range(50):
                task = ferrule.spawn(reader.recv, 1)
                ferrule.sleep(delay)
                task.cancel()
                task.join(5)
                assert task.cancelled()

    run(main)
