"""Sockets whose operations fail, come short or are interrupted at the n-th attempt."""

from __future__ import annotations

import errno
import os
import socket as std
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import ferrule
from net_support import Run, drain, fill, inject, settle, statistics, tcp_pair

Receive = Callable[[Any], bytes]
Send = Callable[[Any, bytes], Any]
AGAIN = pytest.mark.parametrize("error", ["EINTR", "EAGAIN"])


def into(sock: Any, flags: int = 0) -> bytes:
    buffer = bytearray(8)
    return bytes(buffer[: sock.recv_into(buffer, 8, flags)])


RECEIVERS: dict[str, tuple[str, Receive]] = {
    "recv": ("recv", lambda sock: sock.recv(8)),
    "recv, all": ("recv", lambda sock: sock.recv(8, std.MSG_WAITALL)),
    "recv, peek": ("recv", lambda sock: (sock.recv(8, std.MSG_PEEK), sock.recv(8))[1]),
    "recv_into": ("recv", into),
    "recv_into, all": ("recv", lambda sock: into(sock, std.MSG_WAITALL)),
    "recvfrom": ("recvmsg", lambda sock: sock.recvfrom(8)[0]),
    "recvmsg": ("recvmsg", lambda sock: sock.recvmsg(8)[0]),
    "recv_many": ("recvmsg", lambda sock: sock.recv_many(1, 8)[0][0]),
    "read of a file": ("recv", lambda sock: sock.makefile("rb").read(8)),
}
SENDERS: dict[str, tuple[str, Send]] = {
    "send": ("send", lambda sock, data: sock.send(data)),
    "sendall": ("send", lambda sock, data: sock.sendall(data)),
    "sendmsg": ("sendmsg", lambda sock, data: sock.sendmsg([data])),
    "send_many": ("sendmsg", lambda sock, data: sock.send_many([data])),
    "write to a file": ("send", lambda sock, data: sock.makefile("wb", 0).write(data)),
}
each_receiver = pytest.mark.parametrize(("kind", "receive"), RECEIVERS.values(), ids=RECEIVERS)
each_sender = pytest.mark.parametrize(("kind", "send"), SENDERS.values(), ids=SENDERS)


@contextmanager
def busy_loop(count: int = 150) -> Iterator[None]:
    """So much in flight that sends are queued in the ring instead of tried first."""
    reader, writer = os.pipe()
    with ferrule.TaskGroup() as group:
        for _ in range(count):
            group.spawn(ferrule.wait_readable, reader)
        settle(2)
        yield
        group.cancel()
    os.close(reader)
    os.close(writer)


# ---- receiving ----


@AGAIN
@pytest.mark.parametrize("waiting", [False, True], ids=["data there", "data later"])
@each_receiver
def test_a_receive_is_tried_again(
    run: Run, kind: str, receive: Receive, waiting: bool, error: str
) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            if not waiting:
                client.sendall(b"whatever")
                settle()
            inject(kind, 1, error=getattr(errno, error))
            inject(kind, 2, error=errno.EINTR)
            task = ferrule.spawn(receive, server)
            settle()
            if waiting:
                assert not task.done()
                client.sendall(b"whatever")
            assert task.result(timeout=5) == b"whatever"

    run(main)


@each_receiver
def test_an_error_of_a_receive_is_raised_and_the_data_stay(
    run: Run, kind: str, receive: Receive
) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            client.sendall(b"whatever")
            settle()
            slots = statistics()["slots_in_use"]
            inject(kind, error=errno.ECONNRESET)
            with pytest.raises(ConnectionResetError) as caught:
                receive(server)
            assert caught.value.errno == errno.ECONNRESET
            assert statistics()["slots_in_use"] == slots
            assert receive(server) == b"whatever"

    run(main)


@pytest.mark.parametrize("name", [name for name, (kind, _) in RECEIVERS.items() if kind == "recv"])
def test_a_short_receive_leaves_the_rest(run: Run, name: str) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            client.sendall(b"whatever")
            settle()
            inject("recv", shorten_to=3)
            first = RECEIVERS[name][1](server)
            if name != "read of a file" and "peek" not in name:
                assert first == b"wha"
            assert first + drain(server, 8 - len(first)) == b"whatever"

    run(main)


def test_a_receive_without_provided_buffers_uses_one_of_its_own(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            inject("recv", error=errno.ENOBUFS)
            task = ferrule.spawn(server.recv, 100)
            settle()
            client.sendall(b"data")
            assert task.result(timeout=5) == b"data"

    run(main)


# ---- sending ----


@AGAIN
@pytest.mark.parametrize("queued", [False, True], ids=["tried first", "queued"])
@each_sender
def test_a_send_is_tried_again(run: Run, kind: str, send: Send, queued: bool, error: str) -> None:
    def main() -> None:
        with ExitStack() as stack:
            client, server = stack.enter_context(tcp_pair())
            if queued:
                stack.enter_context(busy_loop())
            inject(kind, 1, error=getattr(errno, error))
            inject(kind, 2, error=errno.EINTR)
            send(client, b"whatever")
            assert drain(server, 8) == b"whatever"

    run(main)


@each_sender
def test_an_error_of_a_send_is_raised_and_the_turn_is_passed_on(
    run: Run, kind: str, send: Send
) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            slots = statistics()["slots_in_use"]
            inject(kind, error=errno.ECONNRESET)
            with pytest.raises(ConnectionResetError):
                send(client, b"lost")
            assert statistics()["slots_in_use"] == slots
            send(client, b"whatever")
            assert drain(server, 8) == b"whatever"

    run(main)


@pytest.mark.parametrize("queued", [False, True], ids=["tried first", "queued"])
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_sendall_completes_short_sends(run: Run, queued: bool, size: int) -> None:
    payload = os.urandom(size)

    def main() -> None:
        with ExitStack() as stack:
            client, server = stack.enter_context(tcp_pair())
            if queued:
                stack.enter_context(busy_loop())
            for nth, length in ((1, 1), (2, 2), (3, 3), (5, 1)):
                inject("send", nth, shorten_to=length)
            sender = ferrule.spawn(client.sendall, payload)
            assert drain(server, size) == payload
            sender.result(timeout=5)

    run(main)


def test_sendall_that_fails_after_a_short_send_says_so(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            inject("send", 1, shorten_to=2)
            inject("send", 2, error=errno.ECONNRESET)
            with pytest.raises(ConnectionResetError):
                client.sendall(b"whatever")
            assert server.recv(100) == b"wh"

    run(main)


def test_send_returns_how_much_a_short_send_took(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            inject("send", shorten_to=3)
            assert client.send(b"whatever") == 3
            assert server.recv(100) == b"wha"

    run(main)


@pytest.mark.parametrize(
    "faults",
    [
        [{"error": errno.EINTR}],
        [{"error": errno.EAGAIN}, {"error": errno.EINTR}],
        [{"shorten_to": 1000}, {"error": errno.EAGAIN}, {"shorten_to": 1}],
    ],
)
def test_sendfile_goes_on_after_what_passes(
    run: Run, tmp_path: Path, faults: list[dict[str, int]]
) -> None:
    payload = os.urandom(2_000_000)
    path = tmp_path / "file"
    path.write_bytes(payload)

    def main() -> None:
        with tcp_pair() as (client, server), path.open("rb") as file:
            for nth, fault in enumerate(faults, 1):
                inject("sendfile", nth, **fault)
            sender = ferrule.spawn(client.sendfile, file)
            assert drain(server, len(payload)) == payload
            assert sender.result(timeout=5) == file.tell() == len(payload)

    run(main)


def test_sendfile_that_fails_leaves_the_position_at_what_was_sent(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2_000_000))

    def main() -> None:
        with tcp_pair() as (client, server), path.open("rb") as file:
            inject("sendfile", 1, shorten_to=1000)
            inject("sendfile", 2, error=errno.ECONNRESET)
            with pytest.raises(ConnectionResetError):
                client.sendfile(file)
            assert file.tell() == len(server.recv(5000)) == 1000

    run(main)


# ---- connecting, accepting, waiting ----


def test_an_interrupted_connect_is_made_all_the_same(run: Run) -> None:
    def main() -> None:
        inject("connect", error=errno.EINTR)
        with tcp_pair() as (client, server):
            client.sendall(b"x")
            assert server.recv(1) == b"x"

    run(main)


@pytest.mark.parametrize("error", ["ECONNREFUSED", "ENETUNREACH", "ECONNRESET", "EADDRNOTAVAIL"])
def test_an_error_of_connect_is_raised_and_the_socket_closed(run: Run, error: str) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            inject("connect", error=getattr(errno, error))
            with pytest.raises(OSError) as caught:
                ferrule.connect_tcp(*listener.getsockname())
            assert caught.value.errno == getattr(errno, error)

    run(main)


@AGAIN
@pytest.mark.parametrize("waiting", [False, True], ids=["client there", "client later"])
def test_an_accept_is_tried_again(run: Run, waiting: bool, error: str) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener, std.socket() as client:
            if not waiting:
                client.connect(listener.getsockname())
            inject("accept", 1, error=getattr(errno, error))
            inject("accept", 2, error=errno.EINTR)
            task = ferrule.spawn(listener.accept)
            settle()
            if waiting:
                assert not task.done()
                client.connect(listener.getsockname())
            task.result(timeout=5)[0].close()

    run(main)


def test_an_interrupted_wait_for_readiness_goes_on(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            for call in (server.recvfrom, server.recvmsg, lambda _: ferrule.wait_readable(server)):
                inject("poll", error=errno.EINTR)
                task = ferrule.spawn(call, 10)
                settle()
                assert not task.done()
                client.sendall(b"x")
                task.result(timeout=5)
            fill(client)
            inject("poll", error=errno.EINTR)
            sender = ferrule.spawn(client.sendmsg, [bytes(10_000)])
            settle()
            assert not sender.done()
            server.settimeout(0.2)
            with pytest.raises(TimeoutError):
                while server.recv(1 << 20):
                    pass
            sender.result(timeout=5)

    run(main)


def test_an_error_of_a_wait_for_readiness_is_raised(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (_, server):
            for call in (server.recvfrom, server.recvmsg, lambda _: ferrule.wait_readable(server)):
                inject("poll", error=errno.ENOMEM)
                with pytest.raises(OSError) as caught:
                    call(10)
                assert caught.value.errno == errno.ENOMEM

    run(main)


SMALL_SERVER = """
import resource
import ferrule

served = 0


def echo(conn):
    global served
    while data := conn.recv(100):
        conn.sendall(data)
    served += 1
    if served == CLIENTS:
        listening.close()


def on_listening(listener):
    global listening
    listening = listener
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    print(listener.getsockname()[1], flush=True)


ferrule.run(lambda: ferrule.serve_tcp(echo, "127.0.0.1", 0, on_listening=on_listening))
print(served)
"""


def test_a_server_with_few_descriptors_serves_many_clients_in_the_end(
    run: Run, tmp_path: Path
) -> None:
    clients = 120
    script = tmp_path / "server.py"
    script.write_text(SMALL_SERVER.replace("CLIENTS", str(clients)))
    with (
        subprocess.Popen(
            [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as server,
        ExitStack() as stack,
    ):
        stack.callback(server.kill)
        assert server.stdout is not None
        port = int(server.stdout.readline())
        conns = [
            stack.enter_context(std.create_connection(("127.0.0.1", port), timeout=20))
            for _ in range(clients)
        ]
        for conn in conns:  # in the order of the backlog: each end makes room for one more
            conn.sendall(b"x")
            assert conn.recv(1) == b"x"
            conn.close()
        out, err = server.communicate(timeout=20)
        assert (out.strip(), err, server.returncode) == (str(clients), "", 0)
