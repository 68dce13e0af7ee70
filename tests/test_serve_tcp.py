"""Serving: one fiber per connection, limits, failures that end nothing else, stopping."""

from __future__ import annotations

import errno
import os
import resource
import socket as std
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ferrule
from net_support import Run, inject, settle


def echo(conn: Any) -> None:
    while data := conn.recv(65536):
        conn.sendall(data)


@contextmanager
def server(handler: Callable[..., Any], **options: Any) -> Iterator[Any]:
    """A running serve_tcp; gives its listener, and with `.task` the task."""
    listeners: list[Any] = []

    def serve() -> None:
        ferrule.serve_tcp(handler, "127.0.0.1", 0, on_listening=listeners.append, **options)

    task = ferrule.spawn(serve)
    while not listeners:
        ferrule.yield_now()
    running = Running(listeners[0], task)
    try:
        yield running
    finally:
        running.listener.close()
        task.result()


class Running:
    def __init__(self, listener: Any, task: Any) -> None:
        self.listener, self.task = listener, task
        self.port = listener.getsockname()[1]

    def connect(self) -> Any:
        return ferrule.connect_tcp("127.0.0.1", self.port)


def test_many_clients_are_served_at_once(run: Run) -> None:
    def main() -> None:
        with server(echo) as running:
            def client(number: int) -> None:
                with running.connect() as conn:
                    for _ in range(5):
                        conn.sendall(b"%d" % number)
                        assert conn.recv(100) == b"%d" % number

            with ferrule.TaskGroup() as group:
                for number in range(100):
                    group.spawn(client, number)

    run(main)


def test_the_example_of_the_readme_runs_as_it_stands(run_script: Callable[..., Any]) -> None:
    readme = Path(__file__).parent.parent / "README.md"
    source = readme.read_text().split("```python\n")[1].split("```")[0]
    assert len(source.splitlines()) < 10
    with std.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = source.replace("7000", str(port))
    client = f"""
import socket, threading, time, os, signal
def talk():
    for _ in range(500):
        try:
            with socket.create_connection(("127.0.0.1", {port})) as conn:
                conn.sendall(b"hello")
                print(conn.recv(100).decode(), flush=True)
                break
        except ConnectionRefusedError:
            time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=talk).start()
"""
    done = run_script(client + source)
    assert done.stdout == "hello\n"
    assert "KeyboardInterrupt" in done.stderr


def test_a_handlers_error_is_reported_and_ends_only_its_connection(
    run: Run, unraisable: list[Any]
) -> None:
    def handler(conn: Any) -> None:
        if conn.recv(10) == b"bad":
            raise ZeroDivisionError("in the handler")
        conn.sendall(b"fine")

    def main() -> None:
        with server(handler) as running:
            with running.connect() as conn:
                conn.sendall(b"bad")
                assert conn.recv(10) == b""
            with running.connect() as conn:
                conn.sendall(b"good")
                assert conn.recv(10) == b"fine"

    run(main)
    assert [(obj, type(exc)) for obj, exc in unraisable] == [(handler, ZeroDivisionError)]
    assert unraisable[0][1].__traceback__ is not None


def test_on_error_gets_the_connection_and_the_exception(run: Run, unraisable: list[Any]) -> None:
    seen: list[Any] = []

    def main() -> None:
        def handler(conn: Any) -> None:
            raise LookupError("mine")

        with (
            server(handler, on_error=lambda conn, exc: seen.append((conn.fileno() >= 0, exc)))
            as running,
            running.connect() as conn,
        ):
            assert conn.recv(1) == b""

    run(main)
    assert seen[0][0]
    assert isinstance(seen[0][1], LookupError)
    assert unraisable == []


def test_a_connection_that_the_handler_gave_away_stays_open(run: Run) -> None:
    kept: list[int] = []

    def main() -> None:
        with (
            server(lambda conn: kept.append(conn.detach())) as running,
            running.connect() as conn,
        ):
            while not kept:
                ferrule.sleep(0.001)
            os.write(kept[0], b"later")
            assert conn.recv(10) == b"later"
            os.close(kept[0])

    run(main)


def test_no_more_than_max_connections_are_served_at_once(run: Run) -> None:
    running_now = peak = 0

    def handler(conn: Any) -> None:
        nonlocal running_now, peak
        running_now += 1
        peak = max(peak, running_now)
        conn.recv(1)
        running_now -= 1

    def main() -> None:
        with server(handler, max_connections=3) as running:
            conns = [running.connect() for _ in range(10)]
            settle()
            assert running_now == 3
            for conn in conns:
                conn.close()
            while running_now:
                ferrule.sleep(0.001)
            with running.connect() as conn:
                conn.sendall(b"x")
                assert conn.recv(1) == b""

    run(main)
    assert peak == 3


def test_max_fibers_holds_connections_back_instead_of_failing(run: Run) -> None:
    def main() -> None:
        with server(echo) as running:
            conns = [running.connect() for _ in range(6)]
            settle()
            for conn in conns:
                conn.sendall(b"x")
            for conn in conns:  # each leaves a fiber for another
                assert conn.recv(1) == b"x"
                conn.close()

    run(main, max_fibers=5)


def test_closing_the_listener_lets_handlers_finish(run: Run) -> None:
    def main() -> None:
        with server(echo) as running:
            with running.connect() as conn:
                conn.sendall(b"1")
                assert conn.recv(1) == b"1"
                running.listener.close()
                settle()
                assert not running.task.done()
                conn.sendall(b"2")
                assert conn.recv(1) == b"2"
                with pytest.raises(ConnectionRefusedError):
                    running.connect()
            running.task.result(timeout=5)

    run(main)


def test_handlers_are_cancelled_when_the_grace_is_over(run: Run) -> None:
    cancelled: list[bool] = []

    def handler(conn: Any) -> None:
        try:
            conn.recv(1)
        except ferrule.Cancelled:
            cancelled.append(True)
            raise

    def main() -> None:
        with server(handler, grace=0.05) as running, running.connect():
            settle()
            start = time.monotonic()
            running.listener.close()
            running.task.result(timeout=5)
            assert 0.04 < time.monotonic() - start < 4

    run(main)
    assert cancelled == [True]


def test_cancelling_the_server_cancels_its_handlers_at_once(run: Run) -> None:
    def main() -> None:
        task = ferrule.spawn(ferrule.serve_tcp, echo, "127.0.0.1", 0)
        settle()
        task.cancel()
        task.join(timeout=5)
        assert task.cancelled()
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            with ferrule.CancelScope() as scope:
                address = listener.getsockname()
                conn = ferrule.connect_tcp(*address)
                serving = ferrule.spawn(ferrule.serve, echo, listener)
                settle()
                serving.cancel()
                serving.join(timeout=5)
                assert conn.recv(1) == b""
                conn.close()
            assert not scope.cancelled_caught

    run(main)


@pytest.mark.parametrize("err", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED"])
def test_an_accept_that_fails_for_now_is_tried_again(run: Run, err: str) -> None:
    def main() -> None:
        for nth in (1, 2, 3):
            inject("accept", nth, error=getattr(errno, err))
        with server(echo) as running, running.connect() as conn:
            conn.sendall(b"x")
            assert conn.recv(1) == b"x"

    run(main)


def test_other_accept_errors_end_the_server(run: Run) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            inject("accept", error=errno.EINVAL)
            with pytest.raises(ExceptionGroup) as caught:
                ferrule.serve(echo, listener)
            assert caught.value.exceptions[0].errno == errno.EINVAL  # type: ignore[union-attr]

    run(main)


def test_running_out_of_descriptors_backs_off_and_recovers(run: Run) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def main() -> None:
        with server(echo) as running:
            conns = [running.connect() for _ in range(4)]
            settle()
            clients = [std.socket() for _ in range(3)]
            in_use = max(int(fd) for fd in os.listdir("/proc/self/fd"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (in_use, hard))
            spare = []
            try:
                while True:  # the free numbers below the limit
                    spare.append(os.dup(0))
            except OSError:
                pass
            try:
                for client in clients:
                    client.connect(("127.0.0.1", running.port))
                    client.setblocking(False)
                ferrule.sleep(0.05)
                ticks = ferrule.current_runtime().statistics()["ticks"]
                ferrule.sleep(0.2)
                assert ferrule.current_runtime().statistics()["ticks"] - ticks < 50, "it spins"
                conns[0].sendall(b"alive")  # the others are served meanwhile
                assert conns[0].recv(10) == b"alive"
            finally:
                for fd in spare:
                    os.close(fd)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for client in clients:
                client.sendall(b"x")
                ferrule.wait_readable(client, timeout=5)
                assert client.recv(1) == b"x"
                client.close()
            for conn in conns:
                conn.close()

    run(main)


def test_a_client_that_resets_before_it_is_accepted_disturbs_nobody(run: Run) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            for _ in range(5):
                client = ferrule.connect_tcp("127.0.0.1", listener.getsockname()[1])
                client.setsockopt(std.SOL_SOCKET, std.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            good = ferrule.connect_tcp("127.0.0.1", listener.getsockname()[1])
            good.sendall(b"good")
            for conn in listener:
                with conn:
                    try:
                        if conn.recv(10) == b"good":
                            break
                    except ConnectionResetError:
                        continue
            good.close()

    run(main)


def test_iterating_ends_when_the_listener_is_closed(run: Run) -> None:
    def main() -> None:
        listener = ferrule.listen_tcp("127.0.0.1", 0)
        task = ferrule.spawn(list, listener)
        settle()
        listener.close()
        assert task.result(timeout=5) == []
        assert list(listener) == []

    run(main)
