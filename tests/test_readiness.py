"""What is easily lost where the kernel tells only of readiness; every engine has to pass it."""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
import ferrule.engines
import ferrule.socket
from ferrule._core.sockets import SocketCore
from net_support import drain, fill, settle, tcp_pair, unix_pair
from thread_support import os_threads

Run = Callable[..., Any]


def enters() -> int:
    count: int = ferrule.current_runtime().statistics()["enters"]
    return count


# ---- several fibers and one descriptor ----


def test_many_fibers_that_receive_from_one_socket_get_one_part_each(run: Run) -> None:
    def main() -> None:
        client, server = ferrule.socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with client, server:
            tasks = [ferrule.spawn(server.recv, 100) for _ in range(100)]
            settle()
            for number in range(100):
                client.send(b"%d" % number)
            assert sorted(int(task.result(5)) for task in tasks) == list(range(100))

    run(main)


def test_all_who_wait_for_one_descriptor_are_told(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (client, server):
            tasks = [ferrule.spawn(ferrule.wait_readable, server) for _ in range(20)]
            settle()
            client.send(b"x")
            for task in tasks:
                task.result(5)

    run(main)


def test_one_fiber_reads_while_others_write_to_the_same_socket(run: Run) -> None:
    size = 300_000

    def main() -> None:
        with tcp_pair() as (client, server):
            senders = [ferrule.spawn(client.sendall, b"%d" % n * size) for n in range(4)]
            back = ferrule.spawn(lambda: drain(client, 10))
            settle()
            server.sendall(b"0123456789")
            assert back.result(5) == b"0123456789"
            assert len(drain(server, 4 * size)) == 4 * size
            for sender in senders:
                sender.result(5)

    run(main)


def test_a_wait_for_either_ends_by_the_one_that_comes(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (client, server):
            fill(client)
            settle()
            fill(client)
            either = ferrule.spawn(
                lambda: ferrule.wait_readable(client) or "readable", name="either")
            settle()
            assert not either.done()
            server.sendall(b"x")
            either.join(5)
            assert either.done()

    run(main)


def test_a_cancelled_wait_leaves_the_others_waiting(run: Run) -> None:
    def main() -> None:
        client, server = ferrule.socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with client, server:
            tasks = [ferrule.spawn(server.recv, 10) for _ in range(9)]
            settle()
            for task in tasks[::2]:
                task.cancel()
            for task in tasks[::2]:
                task.join(5)
                assert task.cancelled()
            for _ in tasks[1::2]:
                client.send(b"x")
            for task in tasks[1::2]:
                assert task.result(5) == b"x"

    run(main)


@pytest.mark.parametrize("count", [1, 50])
def test_a_socket_closed_under_many_waits_ends_them_all(run: Run, count: int) -> None:
    def main() -> None:
        with tcp_pair() as (_client, server):
            fill(server)
            settle()
            fill(server)
            tasks = [ferrule.spawn(server.recv, 10) for _ in range(count)]
            tasks += [ferrule.spawn(server.sendall, b"more") for _ in range(count)]
            settle()
            server.close()
            for task in tasks:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    task.result(5)

    run(main)


# ---- numbers that are used again ----


def test_a_number_that_is_reused_at_once_is_a_new_socket(run: Run) -> None:
    def main() -> None:
        numbers = set()
        for turn in range(50):
            with unix_pair() as (client, server):
                numbers.add(server.fileno())
                task = ferrule.spawn(server.recv, 100)
                settle() if turn % 2 else ferrule.yield_now()
                client.sendall(b"%d" % turn)
                assert task.result(5) == b"%d" % turn
        assert len(numbers) < 10

    run(main)


def test_a_number_that_was_closed_behind_our_back_is_a_new_socket(run: Run) -> None:
    def main() -> None:
        one, other = socket.socketpair()
        kept = ferrule.socket.socket(fileno=one.detach())
        number = kept.fileno()
        task = ferrule.spawn(kept.recv, 10)
        settle()
        task.cancel()
        task.join(5)
        os.close(number)  # kept does not know
        again, peer = socket.socketpair()
        assert again.fileno() == number
        fresh = ferrule.socket.socket(fileno=again.detach())
        with fresh, peer, other:
            task = ferrule.spawn(fresh.recv, 10)
            settle()
            peer.send(b"new")
            assert task.result(5) == b"new"
            kept.detach()

    run(main)


def test_a_foreign_number_closed_and_reused_between_waits_is_waited_for(run: Run) -> None:
    def main() -> None:
        for _ in range(20):
            reader, writer = os.pipe()
            try:
                task = ferrule.spawn(ferrule.wait_readable, reader)
                settle()
                os.write(writer, b"x")
                task.result(5)
            finally:
                os.close(reader)
                os.close(writer)

    run(main)


def test_a_foreign_wait_and_a_receive_on_one_socket_both_go_on(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            for turn in range(10):
                receive = ferrule.spawn(server.recv, 10)
                settle()
                wait = ferrule.spawn(ferrule.wait_readable, server.fileno())
                settle()
                client.sendall(b"%d" % turn)
                assert receive.result(5) == b"%d" % turn
                client.sendall(b"y")  # the wait may have been too late for the first
                wait.result(5)
                assert server.recv(10) == b"y"

    run(main)


def test_two_objects_for_one_number_wait_side_by_side(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (client, server):
            second = ferrule.socket.socket(fileno=server.fileno())
            filled = fill(second)
            for turn in range(5):
                receive = ferrule.spawn(server.recv, 10)
                settle()
                if turn == 0:
                    send = ferrule.spawn(second.sendall, b"s")
                    settle()
                client.sendall(b"%d" % turn)
                assert receive.result(5) == b"%d" % turn
            assert not send.done()
            assert len(drain(client, filled + 1)) == filled + 1
            send.result(5)
            second.detach()

    run(main)


def test_a_copy_of_a_closed_socket_elsewhere_does_not_wake_the_loop(run: Run) -> None:
    def main() -> None:
        client, server = socket.socketpair()
        mine = ferrule.socket.socket(fileno=server.detach())
        task = ferrule.spawn(mine.recv, 10)
        settle()
        client.send(b"x")
        assert task.result(5) == b"x"
        copy = os.dup(mine.fileno())
        mine.close()
        try:
            before = enters()
            for _ in range(50):
                client.send(b"for nobody")
                ferrule.sleep(0.0005)
            # A sleep is one wait, or two; each needless event would be one more.
            assert enters() - before < 50 * 3
        finally:
            os.close(copy)
            client.close()

    run(main)


# ---- ends of data that an event does not tell twice ----


def test_the_end_of_a_stream_right_behind_its_data_is_seen(run: Run) -> None:
    def main() -> None:
        for turn in range(30):
            with tcp_pair() as (client, server):
                receive = ferrule.spawn(lambda s=server: (s.recv(100), s.recv(100)))
                if turn % 2:
                    settle()
                client.sendall(b"last")
                client.shutdown(socket.SHUT_WR)
                assert receive.result(5) == (b"last", b"")

    run(main)


@pytest.mark.usefixtures("kept_socket_errors")
def test_a_reset_right_behind_the_data_is_seen(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            receive = ferrule.spawn(server.recv, 100)
            settle()
            client.sendall(b"last")
            assert receive.result(5) == b"last"
            receive = ferrule.spawn(server.recv, 100)
            settle()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            with pytest.raises(ConnectionResetError):
                receive.result(5)

    run(main)


def test_data_behind_an_urgent_byte_is_read(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            receive = ferrule.spawn(lambda: drain(server, 6))
            settle()
            client.sendall(b"abc")
            client.send(b"!", socket.MSG_OOB)
            client.sendall(b"def")
            assert receive.result(5) == b"abcdef"

    run(main)


def test_messages_with_descriptors_are_read_one_by_one(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (client, server):
            receive = ferrule.spawn(lambda: drain(server, 6))
            settle()
            with open(os.devnull) as file:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))]
                for part in (b"ab", b"cd", b"ef"):
                    client.sendmsg([part], rights)
            assert receive.result(5) == b"abcdef"

    run(main)


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
@pytest.mark.parametrize("address", [False, True])
def test_messages_that_came_together_are_received_one_by_one(
    run: Run, kind: int, address: bool
) -> None:
    def receive(sock: Any) -> list[bytes]:
        return [sock.recvfrom(100)[0] if address else sock.recv(100) for _ in range(4)]

    def main() -> None:
        one, other = ferrule.socket.socketpair(socket.AF_UNIX, kind)
        with one, other:
            receiver = ferrule.spawn(receive, other)
            settle()
            for part in (b"a", b"", b"cc", b"d"):
                one.send(part)
            assert receiver.result(5) == [b"a", b"", b"cc", b"d"]

    run(main)


class ClaimsTcp:
    """A socket with message boundaries that says it were TCP, as one with kernel TLS does."""

    family, type, proto = socket.AF_INET, socket.SOCK_STREAM, 0

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def test_a_stream_of_records_is_asked_of_the_kernel_not_guessed(run: Run) -> None:
    def main() -> None:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with one, other:
            core = SocketCore(ClaimsTcp(other))
            receiver = ferrule.spawn(lambda: [core.recv(100) for _ in range(3)])
            settle()
            for part in (b"1", b"2", b"3"):
                one.send(part)
            assert receiver.result(5) == [b"1", b"2", b"3"]
            core._release()

    run(main)


TCP_ULP, SOL_TLS, TLS_TX, TLS_RX, TLS_SET_RECORD_TYPE = 31, 282, 1, 2, 1
# struct tls12_crypto_info_aes_gcm_128: version, cipher, iv, key, salt, sequence number.
TLS_1_2_WITH_AES_128_GCM = struct.pack(
    "=HH8s16s4s8s", 0x0303, 51, b"i" * 8, b"k" * 16, b"salt", b""
)
ALERT = 21


def use_kernel_tls(sock: Any, direction: int) -> None:
    try:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
        sock.setsockopt(SOL_TLS, direction, TLS_1_2_WITH_AES_128_GCM)
    except OSError as exc:
        pytest.skip(f"this kernel has no TLS: {exc}")


def test_a_record_of_kernel_tls_behind_a_short_read_is_found(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            use_kernel_tls(client, TLS_TX)
            use_kernel_tls(server, TLS_RX)
            receiver = ferrule.spawn(server.recv, 100)
            settle()
            client.sendall(b"data")
            client.sendmsg([b"\1\0"], [(SOL_TLS, TLS_SET_RECORD_TYPE, bytes([ALERT]))])
            assert receiver.result(5) == b"data"
            # What is no data ends the read before it, and recv cannot give it.
            receiver = ferrule.spawn(server.recv, 100)
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                receiver.result(5)

    run(main)


def test_a_receive_of_all_is_filled_by_parts(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            receive = ferrule.spawn(server.recv, 10, socket.MSG_WAITALL)
            for part in (b"01", b"234", b"56789", b"next"):
                settle()
                assert not receive.done()
                client.sendall(part)
                if part == b"56789":
                    break
            assert receive.result(5) == b"0123456789"
            receive = ferrule.spawn(server.recv, 10, socket.MSG_WAITALL)
            settle()
            client.sendall(b"end")
            settle()
            client.shutdown(socket.SHUT_WR)
            assert receive.result(5) == b"end"

    run(main)


def test_a_datagram_is_all_there_is_to_receive(run: Run) -> None:
    def main() -> None:
        one, other = ferrule.socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with one, other:
            receive = ferrule.spawn(other.recv, 10, socket.MSG_WAITALL)
            settle()
            one.send(b"short")
            assert receive.result(5) == b"short"

    run(main)


# ---- other kinds of descriptors ----


def test_files_and_directories_are_always_ready(run: Run, tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")

    def main() -> None:
        for opened in (os.open(path, os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)):
            try:
                with ferrule.fail_after(5):
                    ferrule.wait_readable(opened)
            finally:
                os.close(opened)

    run(main)


@pytest.mark.parametrize("kind", ["pipe", "eventfd", "terminal", "socket as a file"])
def test_a_file_object_over_anything_waits_for_data(run: Run, kind: str) -> None:
    def main() -> None:
        if kind == "pipe":
            reader, writer = os.pipe()
        elif kind == "eventfd":
            reader = os.eventfd(0)
            writer = os.dup(reader)
        elif kind == "terminal":
            writer, reader = os.openpty()
        else:
            one, other = socket.socketpair()
            reader, writer = one.detach(), other.detach()
        try:
            with ferrule.open(reader, "rb", buffering=0) as file:
                receive = ferrule.spawn(file.read, 8)
                settle()
                assert not receive.done()
                os.write(writer, b"\n\0\0\0\0\0\0\0" if kind == "eventfd" else b"data...\n")
                assert len(receive.result(5)) == 8
        finally:
            os.close(writer)

    run(main)


def test_a_listener_that_somebody_made_blocking_accepts(run: Run) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            os.set_blocking(listener.fileno(), True)
            for _ in range(3):
                accept = ferrule.spawn(listener.accept)
                settle()
                with socket.create_connection(listener.getsockname()):
                    conn, _ = accept.result(5)
                    conn.close()
            accept = ferrule.spawn(listener.accept)
            settle()
            accept.cancel()
            accept.join(5)
            assert accept.cancelled()

    run(main)


# ---- clocks that others set ----


def test_sleeps_until_a_time_of_day_end_in_order_and_can_be_cancelled(run: Run) -> None:
    def main() -> None:
        ends: list[int] = []

        def sleeper(number: int) -> None:
            ferrule.sleep_until(time.time() + 0.01 * number, clock=ferrule.Clock.REALTIME)
            ends.append(number)

        tasks = [ferrule.spawn(sleeper, number) for number in (3, 1, 2, 900)]
        for task in tasks[:3]:
            task.result(5)
        assert ends == [1, 2, 3]
        tasks[3].cancel()
        tasks[3].join(5)
        assert tasks[3].cancelled()

    run(main)


# ---- many ----

CLIENTS = """
import resource, socket, sys
count, port = map(int, sys.argv[1:])
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
print("connected", flush=True)
for line in sys.stdin:
    held[int(line)].sendall(line.encode())
    print(held[int(line)].recv(100).decode(), end="", flush=True)
"""


def test_thousands_of_idle_connections_cost_the_busy_one_nothing(run: Run) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard - 200)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def echo(conn: Any) -> None:
        with conn:
            while data := conn.recv(100):
                conn.sendall(data)

    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0, backlog=1024) as listener:
            port = listener.getsockname()[1]
            program = [sys.executable, "-c", CLIENTS, str(count), str(port)]
            with subprocess.Popen(
                program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as clients, ferrule.TaskGroup() as group:
                assert clients.stdin is not None
                assert clients.stdout is not None
                for _ in range(count):
                    group.spawn(echo, listener.accept()[0])
                assert ferrule.blocking(clients.stdout.readline) == "connected\n"
                for number in (0, count // 2, count - 1):
                    clients.stdin.write(f"{number}\n")
                    clients.stdin.flush()
                    assert ferrule.blocking(clients.stdout.readline) == f"{number}\n"
                idle = enters()
                ferrule.sleep(0.05)
                assert enters() - idle < 20
                clients.stdin.close()

    try:
        run(main)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- io_uring without some of its operations ----

RECV, SEND, ACCEPT, CONNECT, READ, WRITE, POLL_ADD = 27, 26, 13, 16, 22, 23, 6


@pytest.mark.parametrize(
    "opcodes", [[RECV], [SEND], [ACCEPT], [READ, WRITE], [RECV, SEND, ACCEPT, CONNECT, READ, WRITE]]
)
def test_operations_that_the_ring_does_not_have_go_by_readiness(
    hidden_operations: Callable[..., None], opcodes: list[int]
) -> None:
    refused = ferrule.engines.try_out("uring")
    if refused:
        pytest.skip(f"cannot here: {refused}")
    hidden_operations(*opcodes)

    def main() -> None:
        before = len(os_threads())
        with tcp_pair() as (client, server):
            receive = ferrule.spawn(lambda: drain(server, 3_000_000))
            send = ferrule.spawn(client.sendall, bytes(3_000_000))
            assert len(receive.result(5)) == 3_000_000
            send.result(5)
            waiting = [ferrule.spawn(server.recv, 10) for _ in range(20)]
            settle()
            assert len(os_threads()) - before < 3  # none of them has a thread
            for task in waiting[1:]:
                task.cancel()
                task.join(5)
                assert task.cancelled()
            client.sendall(b"x")
            assert waiting[0].result(5) == b"x"
            last = ferrule.spawn(server.recv, 10)
            settle()
            server.close()
            with pytest.raises(OSError, match="Bad file descriptor"):
                last.result(5)
        reader, writer = os.pipe()
        with ferrule.open(reader, "rb", buffering=0) as source, \
                ferrule.open(writer, "wb", buffering=0) as sink:
            read = ferrule.spawn(source.read, 10)
            settle()
            sink.write(b"data")
            assert read.result(5) == b"data"

    ferrule.run(main, backend="uring")


def test_a_ring_without_polls_is_refused(hidden_operations: Callable[..., None]) -> None:
    if ferrule.engines.try_out("uring"):
        pytest.skip(f"cannot here: {ferrule.engines.try_out('uring')}")
    hidden_operations(POLL_ADD)
    with pytest.raises(ferrule.BackendUnavailable, match="no cancel or poll"):
        ferrule.run(int, backend="uring")
