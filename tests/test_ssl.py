"""ferrule.ssl: handshakes, data, ends, limits, and two fibers on one connection."""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import socket as std_socket
import ssl as std
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ferrule
import ferrule.socket
import ferrule.ssl as fssl
from net_support import Run, drain, inject, make_certificate, settle, tcp_pair


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Another server's certificate."""
    return make_certificate(tmp_path_factory.mktemp("other"), "other.test")


@pytest.fixture
def contexts(certificate: tuple[str, str]) -> tuple[fssl.SSLContext, fssl.SSLContext]:
    """(client's, server's)"""
    server = fssl.SSLContext(std.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificate)
    client = fssl.create_default_context(cafile=certificate[0])
    return client, server


Contexts = tuple[fssl.SSLContext, fssl.SSLContext]


@contextmanager
def tls_pair(contexts: Contexts, **client_options: Any) -> Iterator[tuple[Any, Any]]:
    client_context, server_context = contexts
    client_options.setdefault("server_hostname", "localhost")
    with tcp_pair() as (one, other):
        task = ferrule.spawn(lambda: server_context.wrap_socket(other, server_side=True))
        with client_context.wrap_socket(one, **client_options) as client, task.result() as server:
            yield client, server


def connect(context: Any, sock: Any) -> Any:
    return context.wrap_socket(sock, server_hostname="localhost")


def shrink_send_buffer(sock: Any) -> None:
    """So that the kernel takes only parts of what it is given."""
    sock.setsockopt(std_socket.SOL_SOCKET, std_socket.SO_SNDBUF, 8192)


def reset(sock: Any) -> None:
    sock.setsockopt(std_socket.SOL_SOCKET, std_socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def within(limit: float, call: Callable[[], Any]) -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        call()
    assert limit * 0.8 < time.monotonic() - start < limit + 2


def test_a_handshake_gives_both_sides_the_same_parameters(run: Run, contexts: Contexts) -> None:
    for context in contexts:
        context.set_alpn_protocols(["h2", "http/1.1"])

    def main() -> None:
        with tls_pair(contexts) as (client, server):
            assert client.version() == server.version() == "TLSv1.3"
            assert client.cipher() == server.cipher()
            assert client.selected_alpn_protocol() == server.selected_alpn_protocol() == "h2"
            assert dict(x[0] for x in client.getpeercert()["subject"]) == {
                "commonName": "localhost"
            }
            assert client.getpeercert(True).startswith(b"0")
            assert server.getpeercert() is None
            assert client.server_hostname == "localhost"
            assert server.server_side
            assert isinstance(client, fssl.SSLSocket)
            assert client.context is contexts[0]
            assert client.compression() is None
            assert server.shared_ciphers()
            client.sendall(b"secret")
            assert server.recv(100) == b"secret"
            assert server.send(b"answer") == 6
            buffer = bytearray(10)
            assert client.recv_into(buffer) == 6
            assert buffer[:6] == b"answer"

    run(main)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_large_messages_cross_in_both_directions_at_once(
    run: Run, contexts: Contexts, version: str
) -> None:
    contexts[0].maximum_version = getattr(std.TLSVersion, version)
    contexts[0].minimum_version = getattr(std.TLSVersion, version)
    one, other = os.urandom(1_500_000), os.urandom(1_500_000)

    def main() -> None:
        with tls_pair(contexts) as (client, server), ferrule.TaskGroup() as group:
            group.spawn(client.sendall, one)
            group.spawn(server.sendall, other)
            at_server = group.spawn(drain, server, len(one))
            assert drain(client, len(other)) == other
            assert at_server.result() == one

    run(main)


def test_it_talks_to_the_standard_library_in_a_thread(
    run: Run, contexts: Contexts, certificate: tuple[str, str]
) -> None:
    listener = std_socket.create_server(("127.0.0.1", 0))
    context = std.SSLContext(std.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    def serve() -> None:
        conn, _ = listener.accept()
        with context.wrap_socket(conn, server_side=True) as tls:
            while data := tls.recv(1000):
                tls.sendall(data.upper())
            tls.unwrap()

    thread = threading.Thread(target=serve)
    thread.start()

    def main() -> None:
        conn = ferrule.connect_tcp("localhost", listener.getsockname()[1])
        with contexts[0].wrap_socket(conn, server_hostname="localhost") as tls:
            tls.sendall(b"across")
            assert tls.recv(100) == b"ACROSS"
            plain = tls.unwrap()
            assert plain.recv(10) == b""

    run(main)
    thread.join()
    listener.close()


def test_a_wrong_name_is_refused_on_both_sides(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tcp_pair() as (one, other):
            server = ferrule.spawn(lambda: contexts[1].wrap_socket(other, server_side=True))
            with pytest.raises(std.SSLCertVerificationError, match="mismatch"):
                contexts[0].wrap_socket(one, server_hostname="example.org")
            with pytest.raises(std.SSLError, match=r"alert|ALERT"):
                server.result()
            assert one.fileno() == other.fileno() == -1

    run(main)


def test_an_unknown_certificate_is_refused(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tcp_pair() as (one, other):
            server = ferrule.spawn(lambda: contexts[1].wrap_socket(other, server_side=True))
            with pytest.raises(std.SSLCertVerificationError):
                fssl.create_default_context().wrap_socket(one, server_hostname="localhost")
            with pytest.raises(std.SSLError):
                server.result()

    run(main)


def test_the_server_name_reaches_the_sni_callback(run: Run, contexts: Contexts) -> None:
    seen: list[Any] = []
    other_context = contexts[1]
    first = fssl.SSLContext(std.PROTOCOL_TLS_SERVER)

    def choose(sock: Any, name: str, context: Any) -> None:
        seen.append((type(sock), name, context is first))
        sock.context = other_context

    first.sni_callback = choose

    def main() -> None:
        with tls_pair((contexts[0], first)) as (client, server):
            client.sendall(b"x")
            assert server.recv(1) == b"x"
            assert server.context is other_context

    run(main)
    assert seen == [(fssl.SSLSocket, "localhost", True)]


def test_a_session_is_reused(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tls_pair(contexts) as (client, server):
            server.sendall(b"x")  # the tickets come with it
            assert client.recv(1) == b"x"
            assert not client.session_reused
            session = client.session
            assert session is not None
        with tls_pair(contexts, session=session) as (client, server):
            assert client.session_reused
            assert server.session_reused

    run(main)


def test_a_client_certificate_is_asked_for_and_shown(
    run: Run, contexts: Contexts, certificate: tuple[str, str]
) -> None:
    contexts[0].load_cert_chain(*certificate)
    contexts[1].verify_mode = std.CERT_REQUIRED
    contexts[1].load_verify_locations(certificate[0])

    def main() -> None:
        with tls_pair(contexts) as (_, server):
            assert server.getpeercert()["subject"] == ((("commonName", "localhost"),),)

    run(main)


# ---- ends ----


def test_closing_tls_properly_ends_the_stream_and_leaves_the_plain_socket(
    run: Run, contexts: Contexts
) -> None:
    def main() -> None:
        with tls_pair(contexts, suppress_ragged_eofs=False) as (client, server):
            def serve() -> None:
                assert server.recv(10) == b"last"
                assert server.recv(10) == b""
                plain = server.unwrap()
                plain.sendall(b"in the clear")
                assert plain.recv(20) == b"also"

            task = ferrule.spawn(serve)
            client.sendall(b"last")
            plain = client.unwrap()
            assert plain.recv(2) == b"in"
            buffer = bytearray(20)
            count = plain.recv_into(buffer)
            assert buffer[:count] == b" the clear"
            plain.sendall(b"also")
            task.result()
            with pytest.raises(ValueError, match="No SSL wrapper"):
                client.unwrap()

    run(main)


@pytest.mark.parametrize("suppress", [True, False])
def test_a_truncated_stream_is_told_unless_suppressed(
    run: Run, contexts: Contexts, suppress: bool
) -> None:
    def main() -> None:
        with tls_pair(contexts, suppress_ragged_eofs=suppress) as (client, server):
            server.sendall(b"all there is")
            server.close()  # without TLS's own end
            assert client.recv(100) == b"all there is"
            if suppress:
                assert client.recv(100) == b""
                assert client.recv_into(bytearray(5)) == 0
            else:
                with pytest.raises(std.SSLEOFError):
                    client.recv(100)

    run(main)


def test_a_peer_that_goes_away_in_the_handshake_is_an_error(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tcp_pair() as (one, other):
            task = ferrule.spawn(lambda: contexts[0].wrap_socket(one, server_hostname="localhost"))
            settle()
            other.recv(10_000)
            other.close()
            with pytest.raises((std.SSLEOFError, ConnectionResetError)):
                task.result()

    run(main)


def test_a_peer_that_does_not_speak_tls_is_an_error(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tcp_pair() as (one, other):
            task = ferrule.spawn(lambda: contexts[0].wrap_socket(one, server_hostname="localhost"))
            other.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with pytest.raises(std.SSLError):
                task.result()

    run(main)


@pytest.mark.usefixtures("kept_socket_errors")
def test_a_reset_raises_connection_reset(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tls_pair(contexts) as (client, server):
            reader = ferrule.spawn(client.recv, 10)
            settle()
            server.setsockopt(std_socket.SOL_SOCKET, std_socket.SO_LINGER, struct.pack("ii", 1, 0))
            server.close()
            with pytest.raises(ConnectionResetError):
                reader.result()

    run(main)


def test_bytes_sent_before_the_handshake_by_a_peer_that_is_gone_are_refused(
    run: Run, contexts: Contexts
) -> None:
    def main() -> None:
        with tcp_pair() as (one, other):
            one.sendall(b"not encrypted")
            one.setsockopt(std_socket.SOL_SOCKET, std_socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
            settle()
            with pytest.raises(OSError):
                contexts[1].wrap_socket(other, server_side=True)
            assert other.fileno() == -1

    run(main)


# ---- limits ----


def test_the_timeout_is_for_the_whole_handshake(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tcp_pair() as (one, other):
            one.settimeout(0.15)

            def drip() -> None:  # the start of a record that never ends
                for byte in b"\x16\x03\x03\x40\x00" + bytes(200):
                    other.sendall(bytes([byte]))
                    ferrule.sleep(0.02)

            dripping = ferrule.spawn(drip)
            within(0.15, lambda: connect(contexts[0], one))
            dripping.cancel()

    run(main)


def test_reads_and_writes_time_out_and_the_connection_goes_on(
    run: Run, contexts: Contexts
) -> None:
    def count_until_end(server: Any) -> bytes:
        last = b""
        while not last.endswith(b"end"):
            last = server.recv(1 << 20)
            assert last
        return last

    def main() -> None:
        with tls_pair(contexts) as (client, server):
            client.settimeout(0.03)
            with pytest.raises(TimeoutError):
                client.recv(10)
            with pytest.raises(TimeoutError):
                client.sendall(bytes(30_000_000))
            client.settimeout(None)
            reader = ferrule.spawn(count_until_end, server)
            client.sendall(b"end")
            assert reader.result().endswith(b"end")

    run(main)


def test_a_cancelled_send_does_not_damage_the_connection(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tls_pair(contexts) as (client, server):
            for _ in range(3):
                with ferrule.move_on_after(0.01) as scope:
                    client.sendall(b"a" * 30_000_000)
                assert scope.cancelled_caught

            def read() -> bytes:
                got = b""
                while not got.endswith(b"end"):
                    got = got[-3:] + server.recv(1 << 20)
                    assert set(got) <= set(b"aend")
                return got

            reader = ferrule.spawn(read)
            client.sendall(b"end")
            reader.result(timeout=10)

    run(main)


def test_a_cancelled_receive_loses_nothing(run: Run, contexts: Contexts) -> None:
    payload = os.urandom(300_000)

    def main() -> None:
        with tls_pair(contexts) as (client, server):
            sender = ferrule.spawn(server.sendall, payload)
            got = b""
            while len(got) < len(payload):
                with ferrule.move_on_after(0.0002):
                    while len(got) < len(payload):
                        got += client.recv(1000)
                        if len(got) % 7 == 0:
                            ferrule.yield_now()
            assert got == payload
            sender.result()

    run(main)


def test_timeout_zero_raises_want_read_and_want_write(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tcp_pair() as (one, _):
            one.settimeout(0)
            with pytest.raises(ValueError, match="non-blocking"):
                contexts[0].wrap_socket(one, server_hostname="localhost")
        with tls_pair(contexts) as (client, server):
            client.setblocking(False)
            with pytest.raises(std.SSLWantReadError):
                client.recv(10)
            with pytest.raises(std.SSLWantWriteError):
                while True:
                    client.send(bytes(65536))
            drained = ferrule.spawn(server.recv, 1 << 20)
            settle()
            assert drained.result()

    run(main)


def test_a_handshake_can_be_done_step_by_step(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tcp_pair() as (one, other):
            server = ferrule.spawn(lambda: contexts[1].wrap_socket(other, server_side=True))
            one.setblocking(False)
            client = contexts[0].wrap_socket(
                one, server_hostname="localhost", do_handshake_on_connect=False
            )
            with client:
                for _ in range(1000):
                    try:
                        client.do_handshake()
                        break
                    except std.SSLWantReadError:
                        ferrule.wait_readable(client)
                assert client.version()
                server.result().close()

    run(main)


# ---- several fibers ----


def test_a_reader_and_a_writer_share_a_connection(run: Run, contexts: Contexts) -> None:
    size = 400_000

    def main() -> None:
        with tls_pair(contexts) as (client, server), ferrule.TaskGroup() as group:
            for value in b"abc":
                group.spawn(client.sendall, bytes([value]) * size)
            group.spawn(server.sendall, b"z" * size)
            reading = group.spawn(drain, client, size)
            for _ in range(3):
                assert len(set(drain(server, size))) == 1  # messages do not mix
            assert reading.result() == b"z" * size

    run(main)


def test_a_reader_that_waits_does_not_keep_a_writer_from_writing(
    run: Run, contexts: Contexts
) -> None:
    def main() -> None:
        with tls_pair(contexts) as (client, server):
            reader = ferrule.spawn(client.recv, 10)
            settle()
            client.sendall(b"question")
            assert server.recv(10) == b"question"
            server.sendall(b"answer")
            assert reader.result() == b"answer"

    run(main)


def test_two_readers_share_what_comes(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tls_pair(contexts) as (client, server):
            readers = [ferrule.spawn(client.recv, 1) for _ in range(2)]
            settle()
            server.sendall(b"ab")
            assert sorted(reader.result(timeout=5) for reader in readers) == [b"a", b"b"]

    run(main)


def test_readers_and_writers_in_a_crowd_lose_nothing(run: Run, contexts: Contexts) -> None:
    messages, size = 200, 3000

    def write(tls: Any, value: int) -> None:
        for _ in range(messages):
            tls.sendall(bytes([value]) * size)

    def read(tls: Any, counts: collections.Counter[int]) -> None:
        while sum(counts.values()) < 2 * messages * size:
            with ferrule.move_on_after(0.05):  # the other may have taken the last
                counts.update(tls.recv(1 << 16))

    def main() -> None:
        counts = [collections.Counter[int]() for _ in range(2)]
        with tls_pair(contexts) as pair, ferrule.TaskGroup() as group:
            for tls, seen in zip(pair, counts, strict=True):
                for value in b"xy":
                    group.spawn(write, tls, value)
                for _ in range(2):
                    group.spawn(read, tls, seen)
        assert counts == [dict.fromkeys(b"xy", messages * size)] * 2

    run(main)


def test_closing_ends_the_waits_of_other_fibers(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tls_pair(contexts) as (client, _):
            reader = ferrule.spawn(client.recv, 10)
            settle()
            client.close()
            with pytest.raises(OSError):
                reader.result(timeout=5)

    run(main)


# ---- the rest of the interface ----


def test_files_and_sendfile_are_encrypted_too(
    run: Run, contexts: Contexts, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(200_000))

    def main() -> None:
        with tls_pair(contexts) as (client, server):
            with client.makefile("rw", newline="\n") as here, server.makefile("rb") as there:
                here.write("a line\n")
                here.flush()
                assert there.readline() == b"a line\n"
            with open(path, "rb") as file:
                task = ferrule.spawn(client.sendfile, file)
                assert drain(server, 200_000) == path.read_bytes()
                assert task.result() == 200_000

    run(main)


def test_what_would_go_around_the_encryption_is_refused(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tls_pair(contexts) as (client, _):
            for call in (
                lambda: client.sendmsg([b"x"]),
                lambda: client.recvmsg(1),
                lambda: client.send_many([b"x"]),
                lambda: client.recv_many(1, 1),
                client.dup,
            ):
                with pytest.raises(NotImplementedError):
                    call()
            for call in (
                lambda: client.sendto(b"x", ("127.0.0.1", 1)),
                lambda: client.recvfrom(1),
                lambda: client.recvfrom_into(bytearray(1)),
                lambda: client.recv(1, std_socket.MSG_PEEK),
                lambda: client.sendall(b"x", std_socket.MSG_OOB),
            ):
                with pytest.raises(ValueError):
                    call()

    run(main)


def test_wrong_use_of_wrap_socket_is_told(contexts: Contexts) -> None:
    client, server = contexts
    with (
        ferrule.socket.socket(type=std_socket.SOCK_DGRAM) as datagrams,
        pytest.raises(NotImplementedError),
    ):
        client.wrap_socket(datagrams, server_hostname="x")
    with ferrule.socket.socket() as sock:
        with pytest.raises(ValueError):
            client.wrap_socket(sock)
        with pytest.raises(ValueError):
            server.wrap_socket(sock, server_side=True, server_hostname="x")
    with pytest.raises(TypeError):
        fssl.SSLSocket()


def test_a_socket_wrapped_first_is_connected_later(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        listener = contexts[1].wrap_socket(
            ferrule.socket.create_server(("127.0.0.1", 0)), server_side=True
        )
        with listener:
            accepting = ferrule.spawn(listener.accept)
            with contexts[0].wrap_socket(
                ferrule.socket.socket(), server_hostname="localhost"
            ) as client:
                client.connect(listener.getsockname())
                server, address = accepting.result()
                with server:
                    assert address == client.getsockname()
                    client.sendall(b"x")
                    assert server.recv(1) == b"x"
                with pytest.raises(ValueError, match="already-connected"):
                    client.connect(listener.getsockname())

    run(main)


def test_a_context_of_the_standard_library_can_be_adopted(
    run: Run, contexts: Contexts, certificate: tuple[str, str]
) -> None:
    context = std.create_default_context(cafile=certificate[0])
    context.set_alpn_protocols(["x"])
    contexts[1].set_alpn_protocols(["x"])
    adopted = fssl.SSLContext.adopt(context)

    def main() -> None:
        with tls_pair((adopted, contexts[1])) as (client, _):
            assert client.selected_alpn_protocol() == "x"

    run(main)


def test_get_server_certificate_fetches_it(
    run: Run, contexts: Contexts, certificate: tuple[str, str]
) -> None:
    def main() -> None:
        def serve() -> None:
            conn, _ = listener.accept()
            with (
                contexts[1].wrap_socket(conn, server_side=True) as tls,
                contextlib.suppress(ConnectionResetError),  # the client read no session tickets
            ):
                assert tls.recv(1) == b""

        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            task = ferrule.spawn(serve)
            pem = fssl.get_server_certificate(listener.getsockname()[:2])
            task.result()
        assert pem.split() == Path(certificate[0]).read_text().split()

    run(main)


def test_contexts_are_loaded_off_the_loop(
    run: Run, certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    real: Callable[..., Any] = std.SSLContext.load_cert_chain

    def spy(*args: Any) -> None:
        threads.append(threading.current_thread())
        real(*args)

    monkeypatch.setattr(std.SSLContext, "load_cert_chain", spy, raising=False)
    run(lambda: fssl.SSLContext(std.PROTOCOL_TLS_SERVER).load_cert_chain(*certificate))
    assert threads
    assert threading.main_thread() not in threads


def test_the_module_has_every_public_name_of_the_standard_one() -> None:
    public = [
        name
        for name, value in vars(std).items()
        if not name.startswith("_") and not isinstance(value, type(std))
    ]
    assert [name for name in public if not hasattr(fssl, name)] == []
    methods = [name for name in dir(std.SSLSocket) if not name.startswith("_")]
    assert [name for name in methods if not hasattr(fssl.SSLSocket, name)] == []


def test_a_full_send_buffer_does_not_keep_a_reader_from_reading(
    run: Run, contexts: Contexts
) -> None:
    def main() -> None:
        with tls_pair(contexts) as (client, server):
            with ferrule.move_on_after(0.02):
                client.sendall(bytes(30_000_000))  # leaves bytes that could not be sent
            server.sendall(b"read me")
            assert client.recv(100) == b"read me"

    run(main)


# ---- transfers, byte by byte ----


def test_a_connection_that_passes_single_bytes_works(run: Run, contexts: Contexts) -> None:
    def relay(source: Any, sink: Any) -> None:
        while data := source.recv(4096):
            for value in data:
                sink.sendall(bytes([value]))
        sink.shutdown(std_socket.SHUT_WR)

    def main() -> None:
        client, server = contexts
        with tcp_pair() as (near, inner), tcp_pair() as (outer, far), ferrule.TaskGroup() as group:
            group.spawn(relay, inner, outer)
            group.spawn(relay, outer, inner)
            accepting = group.spawn(server.wrap_socket, far, True)
            near_tls = connect(client, near)
            far_tls = accepting.result()
            with near_tls, far_tls:
                near_tls.sendall(b"slowly")
                assert drain(far_tls, 6) == b"slowly"
                far_tls.sendall(b"back")
                assert drain(near_tls, 4) == b"back"

    run(main)


@pytest.mark.parametrize("kind", ["send", "recv"])
def test_transfers_that_come_short_lose_nothing(run: Run, contexts: Contexts, kind: str) -> None:
    payload = os.urandom(1 << 23)

    def main() -> None:
        with tls_pair(contexts) as (near, far):
            for nth in range(1, 60):
                inject(kind, nth, shorten_to=nth * 7)
            sending = ferrule.spawn(near.sendall, payload)
            assert drain(far, len(payload)) == payload
            sending.result()

    run(main)


def test_a_small_send_buffer_loses_nothing(run: Run, contexts: Contexts) -> None:
    payload = os.urandom(1 << 21)

    def main() -> None:
        with tls_pair(contexts) as (near, far):
            shrink_send_buffer(near)
            sending = ferrule.spawn(near.sendall, payload)
            assert drain(far, len(payload)) == payload
            sending.result()

    run(main)


def test_recv_into_fills_what_it_is_given(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tls_pair(contexts) as (near, far):
            buffer = bytearray(b"........")
            near.sendall(b"12345")
            assert far.recv_into(memoryview(buffer)[2:6]) == 4
            assert buffer == b"..1234.."
            assert far.recv_into(buffer, 3) == 1
            assert buffer == b"5.1234.."

    run(main)


def test_a_file_keeps_the_connection_open_when_the_socket_is_closed(
    run: Run, contexts: Contexts
) -> None:
    def main() -> None:
        with tls_pair(contexts) as (near, far):
            file = near.makefile("rb")
            near.close()
            far.sendall(b"still")
            with file:
                assert file.read(5) == b"still"
            with pytest.raises((ConnectionError, fssl.SSLError)):
                while True:
                    far.sendall(bytes(100_000))

    run(main)


# ---- what the handshake settles ----


def test_the_servers_callback_chooses_the_certificate_by_name(
    run: Run, contexts: Contexts, other: tuple[str, str]
) -> None:
    def main() -> None:
        client, first = contexts
        client.load_verify_locations(other[0])
        second = fssl.SSLContext(std.PROTOCOL_TLS_SERVER)
        second.load_cert_chain(*other)
        asked: list[Any] = []

        def choose(sock: Any, name: str | None, context: Any) -> None:
            asked.append((type(sock), name, context is first))
            if name == "other.test":
                sock.context = second

        first.sni_callback = choose
        for name in ("localhost", "other.test"):
            with tls_pair(contexts, server_hostname=name) as (near, _):
                assert near.getpeercert()["subjectAltName"][0] == ("DNS", name)
        assert asked == [
            (fssl.SSLSocket, "localhost", True),
            (fssl.SSLSocket, "other.test", True),
        ]

    run(main)


def test_a_switch_in_the_name_callback_fails_that_handshake(
    run: Run, contexts: Contexts, unraisable: list[Any]
) -> None:
    def main() -> None:
        server = contexts[1]
        server.sni_callback = lambda *args: ferrule.sleep(0)
        with tcp_pair() as (near, far):
            accepting = ferrule.spawn(server.wrap_socket, far, True)
            with pytest.raises(fssl.SSLError):
                contexts[0].wrap_socket(near, server_hostname="localhost")
            with pytest.raises(fssl.SSLError):
                accepting.result()

    run(main)
    assert [type(exc) for _, exc in unraisable] == [RuntimeError]


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["imap"], None), ([], None)]
)
def test_alpn_gives_both_ends_the_servers_choice(
    run: Run, contexts: Contexts, offered: list[str], chosen: str | None
) -> None:
    def main() -> None:
        client, server = contexts
        server.set_alpn_protocols(["http/1.1", "http/1.0"])
        if offered:
            client.set_alpn_protocols(offered)
        with tls_pair((client, server)) as (near, far):
            assert near.selected_alpn_protocol() == chosen
            assert far.selected_alpn_protocol() == chosen

    run(main)


def test_before_the_handshake_nothing_is_settled(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tcp_pair() as (near, _):
            options = {"server_hostname": "localhost", "do_handshake_on_connect": False}
            with contexts[0].wrap_socket(near, **options) as sock:
                assert sock.version() is None
                assert sock.cipher() is None
                assert sock.session_reused in (None, False)
                with pytest.raises(ValueError, match="handshake"):
                    sock.getpeercert()

    run(main)


def test_both_ends_see_the_same_channel_binding(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        contexts[0].maximum_version = std.TLSVersion.TLSv1_2
        with tls_pair(contexts) as (near, far):
            assert near.get_channel_binding() == far.get_channel_binding()
            assert near.get_channel_binding()

    run(main)


def test_an_unknown_issuer_is_refused_and_the_server_is_told(
    run: Run, contexts: Contexts, other: tuple[str, str]
) -> None:
    def main() -> None:
        client = fssl.create_default_context(cafile=other[0])
        with tcp_pair() as (near, far):
            accepting = ferrule.spawn(contexts[1].wrap_socket, far, True)
            with pytest.raises(fssl.SSLCertVerificationError) as at_client:
                connect(client, near)
            with pytest.raises(fssl.SSLError, match="UNKNOWN_CA"):
                accepting.result()
            assert at_client.value.verify_code == 18  # self-signed
            assert near.fileno() == far.fileno() == -1

    run(main)


def test_an_unverified_context_takes_any_certificate(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        client = fssl._create_unverified_context()
        with tls_pair((client, contexts[1]), server_hostname="elsewhere.test") as (near, _):
            assert near.getpeercert() == {}

    run(main)


def test_a_client_without_the_required_certificate_is_refused(
    run: Run, contexts: Contexts
) -> None:
    def main() -> None:
        client, server = contexts
        server.verify_mode = std.CERT_REQUIRED
        with tcp_pair() as (near, far):
            accepting = ferrule.spawn(server.wrap_socket, far, True)
            with connect(client, near) as sock:
                with pytest.raises(fssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
                    accepting.result()
                with pytest.raises(fssl.SSLError, match="CERTIFICATE_REQUIRED"):
                    sock.recv(1)  # in TLS 1.3 the client learns it after its handshake

    run(main)


# ---- more ends ----


def test_unwrap_of_a_peer_that_vanishes_is_an_error(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tls_pair(contexts) as (near, far):
            ending = ferrule.spawn(near.unwrap)
            settle()
            far.shutdown(std_socket.SHUT_RDWR)
            with pytest.raises(OSError):
                ending.result()

    run(main)


def test_a_clean_end_reads_as_the_end_even_when_ragged_ones_are_errors(
    run: Run, contexts: Contexts
) -> None:
    def main() -> None:
        with tls_pair(contexts, suppress_ragged_eofs=False) as (near, far):
            ending = ferrule.spawn(far.unwrap)
            assert near.recv(10) == b""
            assert near.recv_into(bytearray(10)) == 0
            near.unwrap()
            ending.result()

    run(main)


def test_sending_to_a_peer_that_is_gone_raises_a_connection_error(
    run: Run, contexts: Contexts
) -> None:
    def main() -> None:
        with tls_pair(contexts) as (near, far):
            reset(far)
            with pytest.raises(ConnectionError):
                for _ in range(100):
                    near.sendall(bytes(100_000))

    run(main)


def test_a_closed_socket_refuses_reading_and_writing(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tls_pair(contexts) as (near, _):
            near.close()
            near.close()
            for call in (lambda: near.recv(1), lambda: near.sendall(b"x")):
                with pytest.raises(OSError):
                    call()
            for call in (lambda: near.read(1), lambda: near.write(b"x")):
                with pytest.raises((ValueError, OSError)):
                    call()

    run(main)


@pytest.mark.usefixtures("kept_socket_errors")
def test_a_reset_in_the_middle_of_the_handshake_is_reported(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tcp_pair() as (near, far):
            client = contexts[0]
            shaking = ferrule.spawn(connect, client, near)
            assert far.recv(1) == b"\x16"  # the hello is on its way
            reset(far)
            with pytest.raises(ConnectionResetError):
                shaking.result()
            assert near.fileno() == -1

    run(main)


def test_an_end_in_the_middle_of_the_handshake_is_reported(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tcp_pair() as (near, far):
            accepting = ferrule.spawn(contexts[1].wrap_socket, far, True)
            near.sendall(b"\x16\x03\x01")
            near.shutdown(std_socket.SHUT_WR)
            with pytest.raises((fssl.SSLEOFError, ConnectionError)):
                accepting.result()

    run(main)


def test_a_peer_that_speaks_plain_text_is_refused_by_the_server(
    run: Run, contexts: Contexts
) -> None:
    def main() -> None:
        with tcp_pair() as (near, far):
            accepting = ferrule.spawn(contexts[1].wrap_socket, far, True)
            near.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with pytest.raises(fssl.SSLError, match="HTTP_REQUEST"):
                accepting.result()

    run(main)


# ---- more limits and cancellations ----


def test_the_handshake_times_out_when_the_peer_is_silent(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tcp_pair() as (near, far):
            near.settimeout(0.05)
            far.settimeout(0.05)
            client, server = contexts
            within(0.05, lambda: connect(client, near))
            assert near.fileno() == -1
        with tcp_pair() as (_, far):
            far.settimeout(0.05)
            within(0.05, lambda: server.wrap_socket(far, server_side=True))

    run(main)


def test_sendall_times_out_and_what_it_had_begun_arrives_intact(
    run: Run, contexts: Contexts
) -> None:
    payload = os.urandom(1 << 25)

    def main() -> None:
        with tls_pair(contexts) as (near, far):
            near.settimeout(0.1)
            within(0.1, lambda: near.sendall(payload))
            near.settimeout(10)
            ending = ferrule.spawn(lambda: (near.sendall(b"THE END"), near.unwrap()))
            received = bytearray()
            while data := far.recv(1 << 20):
                received += data
            far.unwrap()
            ending.result()
            assert received.endswith(b"THE END")
            assert 0 < len(received) - 7 < len(payload)
            assert payload.startswith(received[:-7])

    run(main)


def test_the_timeout_of_sendall_is_for_the_whole(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tls_pair(contexts) as (near, far), ferrule.TaskGroup() as group:
            def sip() -> None:
                while True:
                    far.recv(1 << 14)
                    ferrule.sleep(0.002)

            shrink_send_buffer(near)
            near.settimeout(0.3)
            group.spawn(sip)
            within(0.3, lambda: near.sendall(bytes(1 << 28)))
            group.cancel()

    run(main)


def test_a_cancelled_handshake_closes_its_connection(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tcp_pair() as (near, far):
            client = contexts[0]
            shaking = ferrule.spawn(connect, client, near)
            assert far.recv(1) == b"\x16"
            shaking.cancel()
            shaking.join()
            assert shaking.cancelled()
            assert near.fileno() == -1
            assert drain_to_end(far) > 0  # what was left of the hello, then the end

    run(main)


def drain_to_end(sock: Any) -> int:
    count = 0
    with ferrule.fail_after(10):
        while data := sock.recv(65536):
            count += len(data)
    return count


@pytest.mark.one_thread("its steps are counted in turns")
@pytest.mark.parametrize("victim", ["client", "server"])
def test_a_handshake_may_be_cancelled_at_every_step(
    run: Run, contexts: Contexts, victim: str
) -> None:
    def attempt(server: Any, client: Any, steps: int) -> bool:
        with tcp_pair() as (near, far):
            tasks = {
                "client": ferrule.spawn(connect, client, near),
                "server": ferrule.spawn(server.wrap_socket, far, True),
            }
            for _ in range(steps):
                ferrule.yield_now()
            tasks[victim].cancel()
            for task in tasks.values():
                task.join()
                if task.cancelled():
                    assert task is tasks[victim]
                elif task.exception() is None:
                    task.result().close()
                else:
                    assert isinstance(task.exception(), OSError)  # the other's connection ended
            return bool(tasks[victim].cancelled())

    def main() -> None:
        client, server = contexts
        outcomes = [attempt(server, client, steps) for steps in (*range(40), 3000)]
        assert outcomes[0] is True
        assert outcomes[-1] is False  # so the steps did cover the whole handshake

    run(main)


def test_a_cancelled_reader_passes_its_turn_on(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        with tls_pair(contexts) as (near, far):
            first, second = ferrule.spawn(near.recv, 10), ferrule.spawn(near.recv, 10)
            settle()
            first.cancel()
            first.join()
            far.sendall(b"yours")
            with ferrule.fail_after(10):
                assert second.result() == b"yours"

    run(main)


def test_a_cancelled_sendall_leaves_a_stream_that_goes_on(run: Run, contexts: Contexts) -> None:
    payload = os.urandom(1 << 25)

    def main() -> None:
        with tls_pair(contexts) as (near, far):
            sending = ferrule.spawn(near.sendall, payload)
            settle()
            sending.cancel()
            sending.join()
            assert sending.cancelled()
            after = ferrule.spawn(near.sendall, b"AFTER")
            received = bytearray()
            while not received.endswith(b"AFTER"):
                data = far.recv(1 << 20)
                assert data
                received += data
            after.result()
            assert payload.startswith(received[:-5])

    run(main)


# ---- a client of the standard library ----


def test_a_standard_client_in_a_thread_talks_to_our_server(
    run: Run, contexts: Contexts, certificate: tuple[str, str]
) -> None:
    payload = os.urandom(1 << 20)

    def standard_client(port: int) -> bytes:
        context = std.create_default_context(cafile=certificate[0])
        with (
            std_socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as sock,
        ):
            sock.sendall(payload)
            reply = b"".join(iter(lambda: sock.recv(65536), b""))
            sock.unwrap()
            return reply

    def main() -> None:
        server = contexts[1]
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            asking = ferrule.spawn(ferrule.blocking, standard_client, listener.getsockname()[1])
            with server.wrap_socket(next(listener), server_side=True) as conn:
                data = drain(conn, len(payload))
                conn.sendall(data[::-1])
                conn.unwrap()
            assert asking.result() == payload[::-1]

    run(main)


def test_wrapping_refuses_what_cannot_work(run: Run, contexts: Contexts) -> None:
    def main() -> None:
        client, server = contexts
        with pytest.raises(TypeError, match="wrap_socket"):
            fssl.SSLSocket()
        with ferrule.udp_socket() as datagrams, pytest.raises(NotImplementedError):
            client.wrap_socket(datagrams, server_hostname="localhost")
        with tcp_pair() as (near, far):
            with pytest.raises(ValueError, match="check_hostname"):
                client.wrap_socket(near)
            with pytest.raises(ValueError, match="client mode"):
                server.wrap_socket(far, server_side=True, server_hostname="localhost")
            near.sendall(b"both are")
            assert far.recv(100) == b"both are"  # untouched by what was refused

    run(main)


def test_a_context_makes_the_class_of_socket_that_it_is_told_to(contexts: Contexts) -> None:
    class Mine(fssl.SSLSocket):
        pass

    contexts[0].sslsocket_class = Mine  # type: ignore[assignment]
    with contexts[0].wrap_socket(ferrule.socket.socket(), server_hostname="x") as sock:
        assert isinstance(sock, Mine)


def test_a_connect_that_does_not_wait_is_followed_by_a_handshake(
    run: Run, contexts: Contexts
) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener, contexts[0].wrap_socket(
            ferrule.socket.socket(), server_hostname="localhost", do_handshake_on_connect=False
        ) as client:
            client.setblocking(False)
            assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
            ferrule.wait_writable(client)
            conn, _ = listener.accept()
            server = ferrule.spawn(lambda: contexts[1].wrap_socket(conn, server_side=True))
            client.settimeout(5)
            client.do_handshake()
            assert client.version() == "TLSv1.3"
            server.result().close()

    run(main)
