"""ferrule.ssl: handshakes, data, ends, limits, and two fibers on one connection."""

from __future__ import annotations

import os
import socket as std_socket
import ssl as std
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ferrule
import ferrule.socket
import ferrule.ssl as fssl
from net_support import Run, drain, make_certificate, settle, tcp_pair


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


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
                for byte in b"\x16\x03\x03\x40\x00" + bytes(100):
                    other.sendall(bytes([byte]))
                    ferrule.sleep(0.02)

            dripping = ferrule.spawn(drip)
            with pytest.raises(TimeoutError):
                contexts[0].wrap_socket(one, server_hostname="localhost")
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
            with contexts[1].wrap_socket(conn, server_side=True) as tls:
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
