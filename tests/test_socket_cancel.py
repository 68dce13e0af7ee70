"""Every wait of a socket ends by cancellation, deadline, timeout, close or its peer, and loses
nothing: no slot, no descriptor and no byte."""

from __future__ import annotations

import errno
import os
import socket as std
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ferrule
import ferrule.socket as fs
from net_support import Run, drain, fill, settle, statistics, tcp_pair, unix_pair

BIG = bytes(20_000_000)  # more than any loopback connection holds


@dataclass
class Wait:
    """A call that waits; ``sock`` is whose timeout ends it, ``check`` what must still work."""

    call: Callable[[], Any]
    sock: Any = None
    check: Callable[[], None] = lambda: None
    deadline: Callable[[float], Any] | None = None  # the call with a timeout of its own
    callers: int = 3  # how many fibers may do it at once


Make = Callable[[ExitStack], Wait]


# ---- one function per kind of wait: it makes the pair and says how to wait ----


def receiving(call: Callable[[Any], Any], large: bool = False) -> Make:
    def make(stack: ExitStack) -> Wait:
        client, server = stack.enter_context(tcp_pair())
        if large:  # from now on it receives into the scratch buffer
            client.sendall(bytes(60_000))
            settle()
            assert len(server.recv(100_000)) + len(server.recv(100_000)) == 60_000

        def check() -> None:
            server.settimeout(5)
            client.sendall(b"still here")
            assert drain(server, 10) == b"still here"

        return Wait(lambda: call(server), server, check)

    return make


def sending(call: Callable[[Any], Any]) -> Make:
    def make(stack: ExitStack) -> Wait:
        client, server = stack.enter_context(tcp_pair())
        fill(client)
        settle()
        fill(client)  # what the kernel moved on meanwhile

        def check() -> None:
            client.settimeout(5)
            server.settimeout(0.05)  # the end of what a broken-off send may have left
            with pytest.raises(TimeoutError):
                while server.recv(1 << 20):
                    pass
            server.settimeout(5)
            client.sendall(b"still here")
            assert drain(server, 10) == b"still here"

        return Wait(lambda: call(client), client, check)

    return make


def datagram(stack: ExitStack) -> Wait:
    receiver = stack.enter_context(ferrule.udp_socket(("127.0.0.1", 0)))

    def check() -> None:
        with ferrule.udp_socket(remote=receiver.getsockname()) as sender:
            sender.send(b"still here")
        receiver.settimeout(5)
        assert receiver.recvfrom(100)[0] == b"still here"

    return Wait(lambda: receiver.recvfrom(100), receiver, check)


def turn_to_send(stack: ExitStack) -> Wait:
    client, _server = stack.enter_context(unix_pair())
    fill(client)

    def hold() -> None:
        with suppress(OSError):
            client.sendall(BIG)

    holder = ferrule.spawn(hold)
    stack.callback(holder.join)
    stack.callback(holder.cancel)
    settle()
    return Wait(lambda: client.send(b"x"), client)


def write_through_file(sock: Any, data: bytes) -> Any:
    # Closed here: in the cycle of an exception the collector may come to the socket first, and
    # warn that nobody closed it.
    with sock.makefile("wb", 0) as file:
        return file.write(data)


def sending_file(path: Path) -> Make:
    def make(stack: ExitStack) -> Wait:
        file = stack.enter_context(path.open("rb"))
        return sending(lambda sock: sock.sendfile(file))(stack)

    return make


def accepting(call: Callable[[Any], Any]) -> Make:
    def make(stack: ExitStack) -> Wait:
        listener = stack.enter_context(ferrule.listen_tcp("127.0.0.1", 0))

        def check() -> None:
            listener.settimeout(5)
            with ferrule.connect_tcp(*listener.getsockname()), listener.accept()[0]:
                pass

        return Wait(lambda: call(listener), listener, check)

    return make


@contextmanager
def full_listener() -> Iterator[Any]:
    """The address of a listener that answers no more: its backlog is full, nobody accepts."""
    with ExitStack() as stack:
        listener = stack.enter_context(std.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(20):
            filler = stack.enter_context(std.socket())
            filler.settimeout(0.1)
            try:
                filler.connect(listener.getsockname())
            except TimeoutError:
                yield listener.getsockname()
                return
        pytest.skip("cannot here: connections beyond the backlog are answered all the same")


def connecting(stack: ExitStack) -> Wait:
    address = stack.enter_context(full_listener())
    sock = stack.enter_context(fs.socket())
    return Wait(lambda: sock.connect(address), sock, callers=1)


def connecting_by_name(stack: ExitStack) -> Wait:
    _, port = stack.enter_context(full_listener())
    return Wait(
        lambda: ferrule.connect_tcp("localhost", port),
        deadline=lambda timeout: ferrule.connect_tcp("localhost", port, timeout),
    )


def connecting_by_address(stack: ExitStack) -> Wait:
    address = stack.enter_context(full_listener())
    return Wait(
        lambda: ferrule.connect_tcp(*address),
        deadline=lambda timeout: ferrule.connect_tcp(*address, timeout),
    )


def connecting_unix(stack: ExitStack) -> Wait:
    name = f"\0ferrule-test-{os.getpid()}"
    listener = stack.enter_context(std.socket(std.AF_UNIX))
    listener.bind(name)
    listener.listen(0)
    filler = stack.enter_context(std.socket(std.AF_UNIX))
    filler.connect(name)
    return Wait(
        lambda: ferrule.connect_unix(name),
        deadline=lambda timeout: ferrule.connect_unix(name, timeout),
    )


def waiting_for(ready: Callable[..., None]) -> Make:
    def make(stack: ExitStack) -> Wait:
        client, _server = stack.enter_context(unix_pair())
        fill(client)
        fd = client.fileno()
        return Wait(lambda: ready(fd), deadline=lambda timeout: ready(fd, timeout))

    return make


def serving(stack: ExitStack) -> Wait:
    def handler(conn: Any) -> None:
        conn.recv(1)

    def serve() -> None:
        ferrule.serve_tcp(handler, "127.0.0.1", 0, on_listening=keep_one_connection)

    def keep_one_connection(listener: Any) -> None:
        client = stack.enter_context(std.socket())
        client.connect(listener.getsockname())

    return Wait(serve)


WAITS: dict[str, Make] = {
    "recv": receiving(lambda sock: sock.recv(10)),
    "recv of a socket with large reads": receiving(lambda sock: sock.recv(10), large=True),
    "recv, all": receiving(lambda sock: sock.recv(10, std.MSG_WAITALL)),
    "recv, peek": receiving(lambda sock: sock.recv(10, std.MSG_PEEK)),
    "recv_into": receiving(lambda sock: sock.recv_into(bytearray(10))),
    "recv_into, all": receiving(lambda s: s.recv_into(bytearray(10), 10, std.MSG_WAITALL)),
    "recvfrom": receiving(lambda sock: sock.recvfrom(10)),
    "recvfrom_into": receiving(lambda sock: sock.recvfrom_into(bytearray(10))),
    "recvmsg": receiving(lambda sock: sock.recvmsg(10)),
    "recvmsg_into": receiving(lambda sock: sock.recvmsg_into([bytearray(10)])),
    "recv_many": receiving(lambda sock: sock.recv_many(3, 10)),
    "a datagram": datagram,
    "send": sending(lambda sock: sock.send(BIG)),
    "sendall": sending(lambda sock: sock.sendall(BIG)),
    "sendmsg": sending(lambda sock: sock.sendmsg([b"x", BIG])),
    "send_many": sending(lambda sock: sock.send_many([BIG])),
    "its turn to send": turn_to_send,
    "accept": accepting(lambda sock: sock.accept()),
    "the next of a listener": accepting(lambda sock: next(sock, None)),
    "connect": connecting,
    "connect_tcp by address": connecting_by_address,
    "connect_tcp by name": connecting_by_name,
    "connect_unix": connecting_unix,
    "wait_readable": waiting_for(ferrule.wait_readable),
    "wait_writable": waiting_for(ferrule.wait_writable),
    "serve_tcp": serving,
    "read of a file": receiving(lambda sock: sock.makefile("rb").read(10)),
    "readline of a text file": receiving(lambda sock: sock.makefile("r").readline()),
    "write to a file": sending(lambda sock: write_through_file(sock, BIG)),
}


@pytest.fixture
def slow_lookup(monkeypatch: pytest.MonkeyPatch) -> Make:
    answer = threading.Event()
    monkeypatch.setattr(std, "getaddrinfo", lambda *args: answer.wait(30) and [])

    def make(stack: ExitStack) -> Wait:
        stack.callback(answer.set)
        return Wait(lambda: fs.getaddrinfo("slow.invalid", 1))

    return make


@pytest.fixture
def make_wait(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """What the test's parameter names."""
    name = request.param
    if name == "sendfile":
        path = tmp_path / "big"
        path.write_bytes(BIG)
        return sending_file(path)
    if name == "getaddrinfo":
        made: Make = request.getfixturevalue("slow_lookup")
        return made
    return WAITS[name]


WITHOUT_TIMEOUT = {"serve_tcp", "getaddrinfo"}
# Of a socket's file the socket stays open until the file is closed; a listener's iteration ends.
NOT_ENDED_BY_CLOSE = {
    "connect_tcp by address", "connect_tcp by name", "connect_unix", "wait_readable",
    "wait_writable", "read of a file", "readline of a text file", "write to a file",
    "the next of a listener",
} | WITHOUT_TIMEOUT
ALL = [*WAITS, "sendfile", "getaddrinfo"]
each_wait = pytest.mark.parametrize("make_wait", ALL, indirect=True)


@each_wait
def test_a_cancelled_wait_ends_and_everything_still_works(run: Run, make_wait: Make) -> None:
    def main() -> None:
        with ExitStack() as stack:
            wait = make_wait(stack)
            before = statistics()["slots_in_use"]
            task = ferrule.spawn(wait.call)
            settle()
            assert not task.done()
            task.cancel()
            task.join(timeout=5)
            assert task.cancelled()
            assert statistics()["slots_in_use"] == before
            wait.check()

    run(main)


@each_wait
def test_a_wait_cancelled_before_it_begins_does_nothing(run: Run, make_wait: Make) -> None:
    def main() -> None:
        with ExitStack() as stack:
            wait = make_wait(stack)
            before = statistics()["slots_in_use"]
            task = ferrule.spawn(wait.call)
            task.cancel()
            task.join(timeout=5)
            assert task.cancelled()
            assert statistics()["slots_in_use"] == before
            wait.check()

    run(main)


@each_wait
def test_move_on_after_ends_the_wait_in_time(run: Run, make_wait: Make) -> None:
    def main() -> None:
        with ExitStack() as stack:
            wait = make_wait(stack)
            before = statistics()["slots_in_use"]
            start = time.monotonic()
            with ferrule.move_on_after(0.02) as scope:
                wait.call()
            assert scope.cancelled_caught
            assert 0.015 < time.monotonic() - start < 3
            assert statistics()["slots_in_use"] == before
            wait.check()

    run(main)


@pytest.mark.parametrize(
    "make_wait", [name for name in ALL if name not in WITHOUT_TIMEOUT], indirect=True
)
def test_a_timeout_ends_the_wait_with_timeout_error(run: Run, make_wait: Make) -> None:
    def main() -> None:
        with ExitStack() as stack:
            wait = make_wait(stack)
            before = statistics()["slots_in_use"]
            start = time.monotonic()
            with pytest.raises(TimeoutError):
                if wait.deadline is not None:
                    wait.deadline(0.02)
                else:
                    wait.sock.settimeout(0.02)
                    wait.call()
            assert 0.015 < time.monotonic() - start < 3
            assert statistics()["slots_in_use"] == before
            wait.check()

    run(main)


@pytest.mark.parametrize(
    "make_wait", [name for name in ALL if name not in NOT_ENDED_BY_CLOSE], indirect=True
)
def test_closing_the_socket_ends_the_wait_with_ebadf(run: Run, make_wait: Make) -> None:
    def main() -> None:
        with ExitStack() as stack:
            wait = make_wait(stack)
            tasks = [ferrule.spawn(wait.call) for _ in range(wait.callers)]
            settle()
            assert not any(task.done() for task in tasks)
            wait.sock.close()
            for task in tasks:
                error = task.exception(timeout=5)
                assert isinstance(error, OSError)
                assert error.errno == errno.EBADF

    run(main)


def test_closing_a_listener_ends_its_iterations(run: Run) -> None:
    def main() -> None:
        listener = ferrule.listen_tcp("127.0.0.1", 0)
        tasks = [ferrule.spawn(list, listener) for _ in range(3)]
        settle()
        listener.close()
        assert [task.result(timeout=5) for task in tasks] == [[], [], []]

    run(main)


@pytest.mark.parametrize("touch", [lambda sock: sock.settimeout(None), lambda sock: sock.dup()])
def test_a_listener_never_holds_up_the_loop(run: Run, touch: Callable[[Any], Any]) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            other = touch(listener)  # either could take O_NONBLOCK away
            assert not os.get_blocking(listener.fileno())
            task = ferrule.spawn(listener.accept)
            settle()
            task.cancel()
            task.join(timeout=5)
            assert task.cancelled()
            if other is not None:
                other.close()

    run(main)


# ---- what arrives at the moment of the cancellation ----


def into(sock: Any, flags: int = 0) -> bytes:
    buffer = bytearray(8)
    return bytes(buffer[: sock.recv_into(buffer, 8, flags)])


def scattered(sock: Any) -> bytes:
    parts = [bytearray(3), bytearray(5)]
    count = sock.recvmsg_into(parts)[0]
    return b"".join(parts)[:count]


RECEIVERS: dict[str, Callable[[Any], bytes]] = {
    "recv": lambda sock: sock.recv(8),
    "recv, all": lambda sock: sock.recv(8, std.MSG_WAITALL),
    "recv_into": into,
    "recv_into, all": lambda sock: into(sock, std.MSG_WAITALL),
    "recvfrom": lambda sock: sock.recvfrom(8)[0],
    "recvmsg": lambda sock: sock.recvmsg(8)[0],
    "recvmsg_into": scattered,
    "recv_many": lambda sock: b"".join(message[0] for message in sock.recv_many(2, 8)),
}
each_receiver = pytest.mark.parametrize("receive", RECEIVERS.values(), ids=RECEIVERS.keys())


@each_receiver
@pytest.mark.parametrize("end", ["data, cancel", "cancel, data", "data and deadline", "timeout"])
def test_data_that_meets_a_cancellation_is_returned_or_still_there(
    run: Run, receive: Callable[[Any], bytes], end: str
) -> None:
    def main() -> None:
        for _ in range(20):
            meet()

    def meet() -> None:
        got: list[bytes] = []

        def read() -> None:
            with suppress(TimeoutError), ferrule.move_on_after(limit):
                got.append(receive(server))

        limit = 0.003 if end == "data and deadline" else 100
        with tcp_pair() as (client, server):
            if end == "timeout":
                server.settimeout(0.003)
            task = ferrule.spawn(read)
            ferrule.sleep(0.001)
            if end == "cancel, data":
                task.cancel()
            if end in ("data and deadline", "timeout"):
                time.sleep(0.003)  # holds up the loop: both are found in one turn of it
            client._sock.send(b"data")
            if end == "data, cancel":
                task.cancel()
            task.join(timeout=5)
            server.settimeout(5)
            text = b"".join(got)
            assert text + drain(server, 4 - len(text)) == b"data"

    run(main)


@pytest.mark.parametrize("end", ["connection, cancel", "cancel, connection"])
def test_a_connection_that_meets_a_cancellation_is_accepted_or_still_there(
    run: Run, end: str
) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            for _ in range(20):
                meet(listener)

    def meet(listener: Any) -> None:
        got: list[Any] = []
        task = ferrule.spawn(lambda: got.append(listener.accept()[0]))
        settle(1)
        with std.socket() as client:
            if end == "cancel, connection":
                task.cancel()
            client.connect(listener.getsockname())
            if end == "connection, cancel":
                task.cancel()
            task.join(timeout=5)
            listener.settimeout(5)
            with got[0] if got else listener.accept()[0] as conn:
                assert conn.getpeername() == client.getsockname()
            listener.settimeout(None)

    run(main)


def test_a_connect_cancelled_at_any_moment_leaves_no_socket_behind(run: Run) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            port = listener.getsockname()[1]
            for turns in range(12):
                for host in ("127.0.0.1", "localhost"):
                    task = ferrule.spawn(ferrule.connect_tcp, host, port)
                    for _ in range(turns):
                        ferrule.yield_now()
                    task.cancel()
                    task.join(timeout=5)
                    if not task.cancelled():
                        task.result().close()

    run(main)


@pytest.mark.parametrize(
    "send",
    [
        lambda sock, data: sock.sendall(data),
        lambda sock, data: sock.sendmsg([data]),
        lambda sock, data: sock.send_many([data]),
        write_through_file,
    ],
    ids=["sendall", "sendmsg", "send_many", "file"],
)
def test_what_a_cancelled_send_got_through_is_a_prefix(
    run: Run, send: Callable[[Any, bytes], Any]
) -> None:
    payload = os.urandom(5_000_000)

    def main() -> None:
        with tcp_pair() as (client, server):
            sender = ferrule.spawn(send, client, payload)
            settle()
            received = drain(server, 100_000)
            sender.cancel()
            sender.join(timeout=5)
            client.close()
            while data := server.recv(1 << 20):
                received += data
            assert len(received) >= 100_000
            assert payload.startswith(received)

    run(main)


def test_a_wait_that_is_cancelled_leaves_the_other_waits_of_the_socket_alone(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            readers = [ferrule.spawn(server.recv, 1) for _ in range(5)]
            settle()
            for task in (readers[2], readers[0]):
                task.cancel()
                task.join(timeout=5)
                assert task.cancelled()
            client.sendall(b"abc")
            rest = [readers[n].result(timeout=5) for n in (1, 3, 4)]
            assert sorted(rest) == [b"a", b"b", b"c"]

    run(main)


def test_a_sender_cancelled_in_the_queue_passes_the_turn_on(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (client, server):
            filled = fill(client)
            first, second, third = (ferrule.spawn(client.sendall, bytes([n])) for n in (1, 2, 3))
            settle()
            second.cancel()
            second.join(timeout=5)
            assert second.cancelled()
            assert drain(server, filled + 2)[-2:] == bytes([1, 3])
            first.result(timeout=5)
            third.result(timeout=5)

    run(main)


@pytest.mark.one_thread("the senders stand in the order of their spawning")
def test_a_sender_cancelled_as_it_gets_the_turn_passes_it_on(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (client, server):
            filled = fill(client)
            first, second, third = (ferrule.spawn(client.sendall, bytes([n])) for n in (1, 2, 3))
            settle()
            first.add_done_callback(lambda _: second.cancel())
            rest = drain(server, filled + 2)
            settle()
            if second.cancelled():
                assert rest[-2:] == bytes([1, 3])
            else:
                assert rest[-2:] + drain(server, 1) == bytes([1, 2, 3])
            first.result(timeout=5)
            third.result(timeout=5)

    run(main)


# ---- peers that do not behave ----


def reset(sock: Any) -> None:
    sock.setsockopt(std.SOL_SOCKET, std.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.usefixtures("kept_socket_errors")
@each_receiver
@pytest.mark.parametrize("early", [False, True], ids=["while it waits", "before it waits"])
def test_a_reset_reaches_every_receiver(
    run: Run, receive: Callable[[Any], bytes], early: bool
) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            if early:
                reset(client)
            task = ferrule.spawn(receive, server)
            settle()
            if not early:
                assert not task.done()
                reset(client)
            with pytest.raises(ConnectionResetError):
                task.result(timeout=5)

    run(main)


@pytest.mark.parametrize(
    "send",
    [
        lambda sock: sock.send(BIG),
        lambda sock: sock.sendall(BIG),
        lambda sock: sock.sendmsg([BIG]),
        lambda sock: sock.send_many([BIG]),
        lambda sock: write_through_file(sock, BIG),
    ],
    ids=["send", "sendall", "sendmsg", "send_many", "file"],
)
def test_a_reset_reaches_every_sender(run: Run, send: Callable[[Any], Any]) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            fill(client)
            settle()
            fill(client)
            task = ferrule.spawn(send, client)
            settle()
            assert not task.done()
            reset(server)
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                task.result(timeout=5)

    run(main)


@each_receiver
def test_a_half_closed_stream_gives_its_rest_and_then_the_end(
    run: Run, receive: Callable[[Any], bytes]
) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            task = ferrule.spawn(receive, server)
            settle()
            client._sock.send(b"rest")
            client.shutdown(std.SHUT_WR)
            assert task.result(timeout=5) == b"rest"
            assert receive(server) == b""
            server.sendall(b"the other direction")
            assert client.recv(100) == b"the other direction"

    run(main)


@each_receiver
def test_a_stream_of_single_bytes_is_received_whole(
    run: Run, receive: Callable[[Any], bytes]
) -> None:
    text = bytes(range(50))

    def main() -> None:
        with tcp_pair() as (client, server):
            def drip() -> None:
                for value in text:
                    client.sendall(bytes([value]))
                    ferrule.sleep(0.0005)
                client.shutdown(std.SHUT_WR)

            dripper = ferrule.spawn(drip)
            received = b""
            while data := receive(server):
                received += data
            assert received == text
            dripper.result()

    run(main)


def test_a_file_reads_lines_that_come_byte_by_byte(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server), server.makefile("r", encoding="utf-8") as file:
            def drip() -> None:
                for value in "grün\nblau\nrest".encode():
                    client.sendall(bytes([value]))
                    ferrule.yield_now()
                client.shutdown(std.SHUT_WR)

            ferrule.spawn(drip)
            assert file.readlines() == ["grün\n", "blau\n", "rest"]

    run(main)


@pytest.mark.parametrize("end", [reset, lambda sock: sock.shutdown(std.SHUT_WR)])
def test_the_peers_end_makes_a_descriptor_readable(run: Run, end: Callable[[Any], None]) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            task = ferrule.spawn(ferrule.wait_readable, server)
            settle()
            assert not task.done()
            end(client)
            task.result(timeout=5)

    run(main)
