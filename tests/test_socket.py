"""ferrule.socket.socket: streams, timeouts, files, closing, and what the module has."""

from __future__ import annotations

import errno
import gc
import io
import os
import pickle
import socket as std
import struct
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

import ferrule
import ferrule.socket as fs
from net_support import Run, drain, fill, settle, tcp_pair, unix_pair


def test_the_module_has_every_public_name_of_the_standard_one() -> None:
    missing = [name for name in std.__all__ if not hasattr(fs, name)]
    assert missing == []


def test_the_class_has_every_public_method_of_the_standard_one() -> None:
    names = [name for name in dir(std.socket) if not name.startswith("_")]
    assert [name for name in names if not hasattr(fs.socket, name)] == []


def test_constants_and_errors_are_the_standard_ones() -> None:
    assert fs.AF_INET is std.AF_INET
    assert fs.timeout is TimeoutError
    assert fs.error is OSError
    assert fs.gaierror is std.gaierror


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_bytes_cross_a_tcp_connection_in_both_directions(run: Run, host: str) -> None:
    if host == "::1" and not std.has_ipv6:
        pytest.skip("no IPv6 here")

    def main() -> None:
        with tcp_pair(host) as (client, server):
            client.sendall(b"ping")
            assert server.recv(100) == b"ping"
            server.sendall(b"pong")
            assert client.recv(2) == b"po"
            assert client.recv(100) == b"ng"
            assert client.getpeername() == server.getsockname()
            assert client.family == (std.AF_INET6 if host == "::1" else std.AF_INET)

    run(main)


def test_a_large_message_arrives_whole_while_the_peer_reads_slowly(run: Run) -> None:
    payload = os.urandom(3_000_000)

    def main() -> None:
        with tcp_pair() as (client, server):
            sender = ferrule.spawn(client.sendall, payload)
            assert drain(server, len(payload)) == payload
            sender.result()

    run(main)


def test_recv_switches_to_large_reads_and_back(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            client.sendall(bytes(300_000))
            settle()
            sizes = []
            while sum(sizes) < 300_000:
                sizes.append(len(server.recv(1 << 20)))
            assert max(sizes) > 4096
            for _ in range(3):
                client.sendall(b"small")
                assert server.recv(1 << 20) == b"small"

    run(main)


def test_a_peer_that_sends_one_byte_at_a_time_is_read_byte_by_byte(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            def trickle() -> None:
                for value in b"trickle":
                    client.sendall(bytes([value]))
                    ferrule.yield_now()
                client.shutdown(std.SHUT_WR)

            ferrule.spawn(trickle)
            got = b""
            while data := server.recv(100):
                got += data
            assert got == b"trickle"

    run(main)


def test_a_half_closed_connection_still_carries_the_other_direction(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            client.shutdown(std.SHUT_WR)
            assert server.recv(10) == b""
            assert server.recv(10) == b""
            server.sendall(b"still here")
            assert client.recv(100) == b"still here"

    run(main)


@pytest.mark.usefixtures("kept_socket_errors")
def test_a_reset_raises_connection_reset_in_a_waiting_reader(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            reader = ferrule.spawn(server.recv, 10)
            settle()
            client.setsockopt(std.SOL_SOCKET, std.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            with pytest.raises(ConnectionResetError) as caught:
                reader.result()
            assert caught.value.errno == errno.ECONNRESET

    run(main)


def test_sending_to_a_closed_peer_raises_broken_pipe_or_reset(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            server.close()
            with pytest.raises(ConnectionError):
                for _ in range(10):
                    client.sendall(bytes(1000))
                    settle(1)

    run(main)


def test_recv_of_zero_bytes_returns_at_once_and_loses_nothing(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            assert server.recv(0) == b""
            client.sendall(b"kept")
            settle()
            assert server.recv(0) == b""
            assert server.recv_into(bytearray()) == 0
            assert server.recv(10) == b"kept"

    run(main)


def test_peeking_leaves_the_bytes_in_place(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            client.sendall(b"look")
            assert server.recv(10, std.MSG_PEEK) == b"look"
            assert server.recv(10) == b"look"

    run(main)


def test_waitall_waits_for_the_whole(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            reader = ferrule.spawn(server.recv, 6, std.MSG_WAITALL)
            buffer = bytearray(6)
            client.sendall(b"abc")
            settle()
            assert not reader.done()
            client.sendall(b"def")
            assert reader.result() == b"abcdef"
            client.sendall(b"ghi")
            into = ferrule.spawn(server.recv_into, buffer, 6, std.MSG_WAITALL)
            settle()
            client.sendall(b"jkl")
            assert into.result() == 6
            assert buffer == b"ghijkl"

    run(main)


def test_dontwait_raises_instead_of_waiting(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            for call in (
                lambda: server.recv(1, std.MSG_DONTWAIT),
                lambda: server.recv_into(bytearray(1), 1, std.MSG_DONTWAIT),
                lambda: server.recvfrom(1, std.MSG_DONTWAIT),
                lambda: server.recvmsg(1, 0, std.MSG_DONTWAIT),
            ):
                with pytest.raises(BlockingIOError):
                    call()
            fill(client)
            with pytest.raises(BlockingIOError):
                client.send(bytes(100_000), std.MSG_DONTWAIT)
            with pytest.raises(BlockingIOError):
                client.sendmsg([bytes(100_000)], [], std.MSG_DONTWAIT)

    run(main)


def test_recv_into_fills_what_it_is_given(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            buffer = bytearray(b"........")
            client.sendall(b"12345")
            assert server.recv_into(memoryview(buffer)[2:6]) == 4
            assert buffer == b"..1234.."
            assert server.recv_into(buffer, 3) == 1
            assert buffer == b"5.1234.."
            with pytest.raises(ValueError, match="too small"):
                server.recv_into(buffer, 100)
            with pytest.raises((TypeError, BufferError)):
                server.recv_into(b"read-only")

    run(main)


# ---- timeouts ----


def test_each_operation_times_out_after_the_sockets_timeout(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server), ferrule.listen_tcp("127.0.0.1", 0) as listener:
            fill(client)
            for sock in (client, server, listener):
                sock.settimeout(0.02)
            server_empty = client  # nothing comes this way
            calls: list[Any] = [
                lambda: server_empty.recv(10),
                lambda: server_empty.recv_into(bytearray(10)),
                lambda: server_empty.recvfrom(10),
                lambda: server_empty.recvmsg(10),
                lambda: server_empty.recv(10, std.MSG_WAITALL),
                lambda: client.sendall(bytes(10_000_000)),
                lambda: client.sendmsg([bytes(10_000_000)]),
                listener.accept,
            ]
            for call in calls:
                start = time.monotonic()
                with pytest.raises(TimeoutError):
                    call()
                assert 0.015 < time.monotonic() - start < 2

    run(main)


def test_the_timeout_of_sendall_is_for_the_whole(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            client.settimeout(0.1)

            def sip() -> None:
                while server.recv(20_000):
                    ferrule.sleep(0.005)

            reader = ferrule.spawn(sip)
            with pytest.raises(TimeoutError):
                client.sendall(bytes(100_000_000))
            client.close()
            reader.result()

    run(main)


def test_timeout_zero_never_waits(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server), ferrule.listen_tcp("127.0.0.1", 0) as listener:
            for sock in (client, server, listener):
                sock.setblocking(False)
                assert sock.gettimeout() == 0.0
                assert not sock.getblocking()
            for call in (
                lambda: server.recv(1),
                lambda: server.recv_into(bytearray(1)),
                lambda: server.recvfrom(1),
                lambda: server.recvmsg(1),
                listener.accept,
            ):
                with pytest.raises(BlockingIOError):
                    call()
            fill(client)
            with pytest.raises(BlockingIOError):
                client.sendall(bytes(100_000))
            fresh = fs.socket()
            fresh.setblocking(False)
            with pytest.raises(BlockingIOError):
                fresh.connect(listener.getsockname())
            listener.settimeout(5)
            conn, _ = listener.accept()
            conn.close()
            fresh.close()

    run(main)


def test_timeouts_are_checked_and_read_back() -> None:
    with fs.socket() as sock:
        assert sock.gettimeout() is None
        assert sock.getblocking()
        sock.settimeout(1.5)
        assert sock.gettimeout() == sock.timeout == 1.5
        assert not os.get_blocking(sock.fileno())
        sock.setblocking(True)
        assert sock.gettimeout() is None
        assert os.get_blocking(sock.fileno())
        for wrong in (-1, -0.001, float("nan")):
            with pytest.raises(ValueError):
                sock.settimeout(wrong)
        with pytest.raises(TypeError):
            sock.settimeout("soon")  # type: ignore[arg-type]


def test_the_default_timeout_is_the_standard_modules(run: Run) -> None:
    def main() -> None:
        std.setdefaulttimeout(0.02)
        try:
            with unix_pair() as (one, other):
                assert one.gettimeout() == other.gettimeout() == 0.02
                with pytest.raises(TimeoutError):
                    one.recv(1)
        finally:
            std.setdefaulttimeout(None)

    run(main)


# ---- addresses, options, life ----


def test_a_host_name_is_looked_up_off_the_loop(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    asked: list[threading.Thread] = []
    real = std.getaddrinfo

    def spy(*args: Any) -> Any:
        asked.append(threading.current_thread())
        return real(*args)

    monkeypatch.setattr(std, "getaddrinfo", spy)

    def main() -> None:
        with fs.socket() as listener:
            listener.bind(("localhost", 0))
            listener.listen()
            with fs.socket() as client:
                client.connect(("localhost", listener.getsockname()[1]))
        with fs.socket(type=std.SOCK_DGRAM) as datagrams:
            datagrams.sendto(b"x", ("localhost", 9))

    run(main)
    assert len(asked) == 3
    assert threading.main_thread() not in asked


def test_a_numeric_address_asks_nobody(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(std, "getaddrinfo", lambda *args: pytest.fail("asked"))

    def main() -> None:
        for address in ("127.0.0.1", ""):
            with fs.socket() as sock:
                sock.bind((address, 0))
                assert sock.getsockname()[1] > 0

    run(main)


def test_connect_reports_a_refusal_and_connect_ex_returns_it(run: Run) -> None:
    def main() -> None:
        with fs.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = free.getsockname()
            with fs.socket() as sock, pytest.raises(ConnectionRefusedError):
                sock.connect(address)
            with fs.socket() as sock:
                assert sock.connect_ex(address) == errno.ECONNREFUSED
            with fs.socket() as sock, pytest.raises(std.gaierror):
                sock.connect(("no-such-host.invalid", 1))

    run(main)


def test_options_and_flags_pass_through(run: Run) -> None:
    with fs.socket() as sock:
        sock.setsockopt(std.IPPROTO_TCP, std.TCP_NODELAY, 1)
        assert sock.getsockopt(std.IPPROTO_TCP, std.TCP_NODELAY) == 1
        assert len(sock.getsockopt(std.SOL_SOCKET, std.SO_LINGER, 8)) == 8
        assert not sock.get_inheritable()
        sock.set_inheritable(True)
        assert sock.get_inheritable()
        assert (sock.family, sock.type, sock.proto) == (std.AF_INET, std.SOCK_STREAM, 0)
        assert repr(sock.type) == repr(std.SOCK_STREAM)


def test_repr_tells_the_addresses_and_whether_it_is_closed(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, _):
            text = repr(client)
            assert f"fd={client.fileno()}" in text
            assert str(client.getsockname()) in text
            assert str(client.getpeername()) in text
            client.close()
            assert "[closed]" in repr(client)

    run(main)


def test_a_socket_cannot_be_pickled() -> None:
    with fs.socket() as sock, pytest.raises(TypeError, match="cannot pickle 'socket' object"):
        pickle.dumps(sock)


def test_an_operation_outside_a_runtime_names_the_remedy() -> None:
    one, other = fs.socketpair()
    with one, other, pytest.raises(RuntimeError, match=r"ferrule\.run"):
        one.recv(1)


def test_operations_on_a_closed_socket_raise_ebadf(run: Run) -> None:
    def main() -> None:
        sock = fs.socket()
        sock.close()
        sock.close()
        assert sock.fileno() == -1
        calls: list[Any] = [
            lambda: sock.recv(1),
            lambda: sock.recv_into(bytearray(1)),
            lambda: sock.send(b"x"),
            lambda: sock.sendall(b"x"),
            lambda: sock.recvfrom(1),
            lambda: sock.sendmsg([b"x"]),
            lambda: sock.sendto(b"x", ("127.0.0.1", 1)),
            lambda: sock.connect(("127.0.0.1", 1)),
            sock.accept,
            sock.getsockname,
            lambda: sock.setsockopt(std.SOL_SOCKET, std.SO_REUSEADDR, 1),
        ]
        for call in calls:
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.EBADF

    run(main)


@pytest.mark.parametrize("end", ["close", "detach"])
def test_ending_a_socket_ends_the_waits_of_other_fibers_with_ebadf(run: Run, end: str) -> None:
    def main() -> None:
        with tcp_pair() as (client, _):
            fill(client)
            listener = ferrule.listen_tcp("127.0.0.1", 0)
            waits = [
                ferrule.spawn(client.recv, 10),
                ferrule.spawn(client.recv_into, bytearray(10)),
                ferrule.spawn(client.recvmsg, 10),
                ferrule.spawn(client.sendall, bytes(1_000_000)),
                ferrule.spawn(client.send, b"x"),  # waits for its turn behind sendall
                ferrule.spawn(client.sendmsg, [b"x"]),
                ferrule.spawn(listener.accept),
            ]
            settle()
            assert not any(task.done() for task in waits)
            for sock in (client, listener):
                fd = getattr(sock, end)()
                if fd is not None:
                    os.close(fd)
            for task in waits:
                with pytest.raises(OSError) as caught:
                    task.result(timeout=5)
                assert caught.value.errno == errno.EBADF

    run(main)


def test_a_closed_number_is_not_confused_with_the_next_socket_of_that_number(run: Run) -> None:
    def main() -> None:
        for _ in range(20):
            one, other = fs.socketpair()
            reader = ferrule.spawn(one.recv, 10)
            settle(1)
            one.close()
            other.close()
            with unix_pair() as (again, peer):
                peer.sendall(b"mine")
                with pytest.raises(OSError):
                    reader.result()
                assert again.recv(10) == b"mine"

    run(main)


def test_detach_gives_the_descriptor_up(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (one, other):
            fd = one.detach()
            assert one.fileno() == -1
            with fs.socket(fileno=fd) as again:
                assert again.family == std.AF_UNIX
                other.sendall(b"x")
                assert again.recv(1) == b"x"

    run(main)


def test_a_listener_made_blocking_from_outside_still_parks_only_its_fiber(run: Run) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            for spoil in (
                lambda: listener.settimeout(None),
                lambda: listener.dup().close(),
                lambda: os.set_blocking(listener.fileno(), True),
            ):
                spoil()
                task = ferrule.spawn(listener.accept)
                settle()
                with ferrule.connect_tcp(*listener.getsockname()) as client:
                    conn, address = task.result(timeout=5)
                    assert address == client.getsockname()
                    conn.close()
            listener.settimeout(0)
            os.set_blocking(listener.fileno(), True)
            with pytest.raises(BlockingIOError):
                listener.accept()
            listener.settimeout(None)
            fd = listener.detach()
            assert os.get_blocking(fd)
            os.close(fd)

    run(main)


def test_dup_and_fromfd_share_the_connection(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (one, other):
            one.settimeout(3)
            with one.dup() as twin, fs.fromfd(one.fileno(), one.family, one.type) as third:
                assert twin.gettimeout() == 3
                assert len({one.fileno(), twin.fileno(), third.fileno()}) == 3
                one.close()
                twin.sendall(b"from the twin")
                assert other.recv(100) == b"from the twin"
                third.sendall(b"and the third")
                assert other.recv(100) == b"and the third"

    run(main)


def test_an_abandoned_socket_warns_and_is_closed(run: Run) -> None:
    sock = fs.socket()
    fd = sock.fileno()
    gone = weakref.ref(sock)
    with pytest.warns(ResourceWarning, match="unclosed"):
        sock = None  # type: ignore[assignment]
    gc.collect()
    assert gone() is None
    with pytest.raises(OSError):
        os.fstat(fd)


def test_closing_with_linger_does_not_hold_up_the_loop(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            client.setsockopt(std.SOL_SOCKET, std.SO_LINGER, struct.pack("ii", 1, 5))
            fill(client)
            closer = ferrule.spawn(client.close)
            start = time.monotonic()
            for _ in range(20):
                ferrule.sleep(0.001)
            assert time.monotonic() - start < 4
            assert not closer.done()
            server.setsockopt(std.SOL_SOCKET, std.SO_LINGER, struct.pack("ii", 1, 0))
            server.close()
            closer.result()

    run(main)


# ---- several fibers on one socket ----


def test_messages_of_several_senders_do_not_mix(run: Run) -> None:
    size = 200_000

    def main() -> None:
        with tcp_pair() as (client, server):
            senders = [
                ferrule.spawn(client.sendall, bytes([value]) * size) for value in range(5)
            ]
            for _ in senders:
                assert len(set(drain(server, size))) == 1
            for sender in senders:
                sender.result()

    run(main)


def test_several_readers_share_what_comes(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            readers = [ferrule.spawn(server.recv, 1) for _ in range(5)]
            settle()
            client.sendall(b"abcde")
            assert sorted(reader.result() for reader in readers) == [b"a", b"b", b"c", b"d", b"e"]

    run(main)


# ---- buffers in flight ----


def test_a_buffer_cannot_be_resized_while_it_is_in_flight(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            buffer = bytearray(10)
            reader = ferrule.spawn(server.recv_into, buffer)
            payload = bytearray(5_000_000)
            sender = ferrule.spawn(client.sendall, payload)
            settle()
            for held in (payload,):
                with pytest.raises(BufferError):
                    held.clear()
            drain(server, 5_000_000 - reader.result())
            sender.result()
            buffer.clear()
            payload.clear()

    run(main)


def test_a_buffer_dropped_by_its_owner_lives_until_the_completion(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            buffer = bytearray(100)
            view = memoryview(buffer)
            reader = ferrule.spawn(server.recv_into, view)
            settle()
            with pytest.raises(BufferError):
                view.release()
            del view
            gc.collect()
            client.sendall(b"late")
            assert reader.result() == 4
            assert buffer[:4] == b"late"
            sender = ferrule.spawn(client.sendall, os.urandom(100_000))
            gc.collect()
            drain(server, 100_000)
            sender.result()

    run(main)


# ---- makefile ----


def test_a_file_reads_lines_and_writes_text(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            with client.makefile("w", encoding="utf-8", newline="\n") as out:
                out.write("erste Zeile\nzweite: äöü\n")
            with server.makefile("r", encoding="utf-8") as lines:
                assert lines.readline() == "erste Zeile\n"
                assert lines.readline() == "zweite: äöü\n"
            with server.makefile("rwb") as both, client.makefile("rwb", buffering=0) as raw:
                both.write(b"binary\n")
                both.flush()
                assert raw.readline() == b"binary\n"

    run(main)


def test_the_descriptor_is_closed_with_the_last_file(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            reader = server.makefile("rb")
            server.close()
            assert server.fileno() >= 0
            client.sendall(b"after close")
            client.close()
            assert reader.read() == b"after close"
            reader.close()
            assert server.fileno() == -1

    run(main)


def test_a_files_read_times_out_and_says_so_again(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (_, server):
            server.settimeout(0.01)
            with server.makefile("rb") as file:
                with pytest.raises(TimeoutError):
                    file.read(1)
                with pytest.raises(OSError, match="cannot read from timed out object"):
                    file.read(1)

    run(main)


def test_wrong_modes_of_a_file_are_refused() -> None:
    with fs.socket() as sock:
        for mode in ("a", "x", "r+"):
            with pytest.raises(ValueError, match="invalid mode"):
                sock.makefile(mode)
        with pytest.raises(ValueError, match="unbuffered"):
            sock.makefile("r", buffering=0)


# ---- sendfile ----


@pytest.fixture
def big_file(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(2_500_000))
    return path


@pytest.mark.parametrize(("offset", "count"), [(0, None), (1000, None), (0, 70_000), (5, 100)])
def test_sendfile_sends_the_range_and_moves_the_position(
    run: Run, big_file: Path, offset: int, count: int | None
) -> None:
    content = big_file.read_bytes()
    expected = content[offset:] if count is None else content[offset : offset + count]

    def main() -> None:
        with tcp_pair() as (client, server), open(big_file, "rb") as file:
            task = ferrule.spawn(client.sendfile, file, offset, count)
            assert drain(server, len(expected)) == expected
            assert task.result() == len(expected)
            assert file.tell() == offset + len(expected)

    run(main)


@pytest.mark.parametrize("kind", ["memory", "pipe", "ferrule"])
def test_sendfile_sends_what_is_no_regular_file(run: Run, kind: str, big_file: Path) -> None:
    def main() -> None:
        payload = b"x" * 100_000
        file: Any
        if kind == "memory":
            file = io.BytesIO(payload)
        elif kind == "ferrule":
            payload = big_file.read_bytes()
            file = ferrule.open(big_file, "rb")
        else:
            read_fd, write_fd = os.pipe()
            payload = b"x" * 50_000
            os.write(write_fd, payload)
            os.close(write_fd)
            file = open(read_fd, "rb")  # noqa: SIM115
        with tcp_pair() as (client, server), file:
            task = ferrule.spawn(client.sendfile, file)
            assert drain(server, len(payload)) == payload
            assert task.result() == len(payload)

    run(main)


def test_sendfile_refuses_what_the_standard_one_refuses(run: Run, big_file: Path) -> None:
    def main() -> None:
        with unix_pair() as (one, _), open(big_file) as text, open(big_file, "rb") as file:
            with pytest.raises(ValueError, match="binary"):
                one.sendfile(text)
            for count in (0, -1):
                with pytest.raises(ValueError, match="positive"):
                    one.sendfile(file, count=count)
            with pytest.raises(TypeError, match="positive"):
                one.sendfile(file, count=1.5)  # type: ignore[arg-type]
            one.setblocking(False)
            with pytest.raises(ValueError, match="non-blocking"):
                one.sendfile(file)
            with fs.socket(type=std.SOCK_DGRAM) as datagrams, pytest.raises(ValueError):
                datagrams.sendfile(file)

    run(main)


def test_sendfile_times_out_when_the_peer_does_not_read(run: Run, big_file: Path) -> None:
    def main() -> None:
        with tcp_pair() as (client, _), open(big_file, "rb") as file:
            fill(client)
            client.settimeout(0.05)
            with pytest.raises(TimeoutError):
                client.sendfile(file)

    run(main)


# ---- the module's functions ----


def test_create_server_and_create_connection_meet(run: Run) -> None:
    def main() -> None:
        with fs.create_server(("127.0.0.1", 0)) as server:
            address = server.getsockname()
            with fs.create_connection(address, timeout=3, source_address=("127.0.0.1", 0)) as conn:
                assert conn.gettimeout() == 3
                accepted, peer = server.accept()
                with accepted:
                    assert peer == conn.getsockname()
        with pytest.raises(ConnectionRefusedError):
            fs.create_connection(address)
        with pytest.raises(ExceptionGroup) as caught:
            fs.create_connection(address, all_errors=True)
        assert all(isinstance(exc, ConnectionRefusedError) for exc in caught.value.exceptions)

    run(main)


def test_create_server_names_the_address_it_could_not_take(run: Run) -> None:
    def main() -> None:
        with fs.create_server(("127.0.0.1", 0)) as server:
            address = server.getsockname()
            with pytest.raises(OSError, match=str(address[1])) as caught:
                fs.create_server(address)
            assert caught.value.errno == errno.EADDRINUSE

    run(main)


def test_interfaces_have_names_and_numbers() -> None:
    for index, name in fs.if_nameindex():
        assert fs.if_nametoindex(name) == index
        assert fs.if_indextoname(index) == name


def test_waiting_for_another_librarys_descriptor(run: Run) -> None:
    def main() -> None:
        one, other = std.socketpair()
        one.setblocking(False)
        with one, other:
            ferrule.wait_writable(one)
            with pytest.raises(TimeoutError):
                ferrule.wait_readable(one, timeout=0.01)
            waiter = ferrule.spawn(ferrule.wait_readable, one.fileno())
            settle()
            assert not waiter.done()
            other.send(b"x")
            waiter.result()
            assert one.recv(1) == b"x"
            other.close()
            ferrule.wait_readable(one)  # the end is something to read
        with pytest.raises(ValueError):
            ferrule.wait_readable(-1)
        with pytest.raises(ValueError):
            ferrule.wait_readable(0, timeout=-1)

    run(main)
