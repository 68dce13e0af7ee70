"""Datagrams: udp_socket, message boundaries, and several messages in one call."""

from __future__ import annotations

import errno
import os
import socket as std
import time
from typing import Any

import pytest

import ferrule
import ferrule.socket
from net_support import Run, inject, settle, unix_pair


def pair() -> tuple[Any, Any]:
    receiver = ferrule.udp_socket(("127.0.0.1", 0))
    return ferrule.udp_socket(remote=receiver.getsockname()), receiver


def test_a_connected_socket_sends_without_an_address(run: Run) -> None:
    def main() -> None:
        sender, receiver = pair()
        with sender, receiver:
            sender.send(b"one")
            data, address = receiver.recvfrom(100)
            assert (data, address) == (b"one", sender.getsockname())
            receiver.sendto(b"back", address)
            assert sender.recv(100) == b"back"

    run(main)


def test_the_family_follows_the_addresses(run: Run) -> None:
    def main() -> None:
        with ferrule.udp_socket() as plain:
            assert plain.family == std.AF_INET
        with ferrule.udp_socket(("", 0)) as every:
            assert every.getsockname()[0] == "0.0.0.0"
        if std.has_ipv6:
            with ferrule.udp_socket(("::1", 0)) as six:
                assert six.family == std.AF_INET6
            with ferrule.udp_socket(family=std.AF_INET6) as six:
                assert six.family == std.AF_INET6
        with pytest.raises(OSError, match=r"192\.0\.2\.1") as caught:
            ferrule.udp_socket(("192.0.2.1", 0))
        assert caught.value.errno == errno.EADDRNOTAVAIL

    run(main)


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 9000, 60_000])
def test_a_datagram_of_any_size_arrives_whole(run: Run, size: int) -> None:
    payload = os.urandom(size)

    def main() -> None:
        sender, receiver = pair()
        with sender, receiver:
            waiting = ferrule.spawn(receiver.recv, 65536)
            settle()
            sender.send(payload)
            assert waiting.result() == payload
            sender.sendall(payload)
            assert receiver.recv(1 << 20) == payload

    run(main)


def test_what_does_not_fit_is_cut_at_the_message(run: Run) -> None:
    def main() -> None:
        sender, receiver = pair()
        with sender, receiver:
            sender.send(b"first message")
            sender.send(b"second")
            data, _, flags, _ = receiver.recvmsg(5)
            assert data == b"first"
            assert flags & std.MSG_TRUNC
            assert receiver.recv(100) == b"second"

    run(main)


def test_a_refused_datagram_is_reported_to_a_connected_sender(run: Run) -> None:
    def main() -> None:
        sender, receiver = pair()
        receiver.close()
        with sender:
            sender.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                sender.recv(10)

    run(main)


def test_send_many_sends_every_kind_of_message(run: Run) -> None:
    def main() -> None:
        sender, receiver = pair()
        with sender, receiver, ferrule.udp_socket(("127.0.0.1", 0)) as other:
            sent = sender.send_many(
                [
                    b"bytes",
                    bytearray(b"array"),
                    (b"alone",),
                    ([b"in ", b"parts"], []),
                ]
            )
            assert sent == 4
            assert sent.error is None
            got = receiver.recv_many(10, 100)
            assert [message[0] for message in got] == [b"bytes", b"array", b"alone", b"in parts"]
            assert got.error is None
            assert got[0][3] == sender.getsockname()
            assert other.send_many(
                [(b"to", None, receiver.getsockname()), (b"too", [], receiver.getsockname())]
            ) == 2
            assert [m[0] for m in ferrule.socket.recv_many(receiver, 10, 100)] == [b"to", b"too"]
            assert ferrule.socket.send_many(other, []) == 0

    run(main)


@pytest.mark.one_thread("all three are to be there before the receiver runs")
def test_recv_many_waits_for_the_first_and_takes_no_more_than_asked(run: Run) -> None:
    def main() -> None:
        sender, receiver = pair()
        with sender, receiver:
            waiting = ferrule.spawn(receiver.recv_many, 2, 100)
            settle()
            assert not waiting.done()
            sender.send_many([b"1", b"2", b"3"])
            assert [m[0] for m in waiting.result()] == [b"1", b"2"]
            assert [m[0] for m in receiver.recv_many(2, 100)] == [b"3"]
            start = time.monotonic()
            with pytest.raises(TimeoutError):
                receiver.recv_many(2, 100, timeout=0.02)
            assert time.monotonic() - start >= 0.015
            receiver.settimeout(0)
            with pytest.raises(BlockingIOError):
                receiver.recv_many(2, 100)
            with pytest.raises(ValueError):
                receiver.recv_many(0, 100)

    run(main)


def test_the_count_is_returned_when_a_later_message_fails(run: Run) -> None:
    def main() -> None:
        sender, receiver = pair()
        with sender, receiver:
            sent = sender.send_many([b"good", b"fine", bytes(100_000), b"never"])
            assert sent == 2
            assert isinstance(sent.error, OSError)
            assert sent.error.errno == errno.EMSGSIZE
            with pytest.raises(OSError) as caught:
                sender.send_many([bytes(100_000), b"never"])
            assert caught.value.errno == errno.EMSGSIZE
            assert [m[0] for m in receiver.recv_many(10, 100)] == [b"good", b"fine"]
            inject("sendmsg", 3, error=errno.ENOBUFS)
            sent = sender.send_many([b"1", b"2", b"3", b"4"])
            assert (sent, sent.error.errno) == (2, errno.ENOBUFS)

    run(main)


def test_a_malformed_message_is_refused_before_anything_is_sent(run: Run) -> None:
    def main() -> None:
        sender, receiver = pair()
        with sender, receiver:
            for wrong in ("text", (), (b"1", [], None, 4), 7):
                with pytest.raises(TypeError):
                    sender.send_many([b"good", wrong])  # type: ignore[list-item]
            receiver.settimeout(0.01)
            with pytest.raises(TimeoutError):
                receiver.recv(10)

    run(main)


def test_a_timeout_in_the_middle_leaves_the_count(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (one, other):
            sent = one.send_many([bytes(50_000)] * 100, timeout=0.05)
            assert 0 < sent < 100
            assert isinstance(sent.error, TimeoutError)
            got = 0
            while got < sent * 50_000:
                got += len(other.recv(1 << 20))

    run(main)


def test_a_cancellation_in_the_middle_leaves_the_count(run: Run) -> None:
    def main() -> None:
        counts: list[Any] = []
        with unix_pair() as (one, _):
            def send() -> None:
                counts.append(one.send_many([bytes(50_000)] * 100))
                ferrule.checkpoint()
                pytest.fail("not reached")

            task = ferrule.spawn(send)
            settle()
            task.cancel()
            task.join()
        assert 0 < counts[0] < 100
        assert isinstance(counts[0].error, ferrule.Cancelled)

    run(main)


def test_a_stream_message_counts_when_all_of_it_was_taken(run: Run) -> None:
    big = os.urandom(700_000)

    def main() -> None:
        with unix_pair() as (one, other):
            task = ferrule.spawn(one.send_many, [b"x", ([big, b"tail"],), b"end"])
            expected = b"x" + big + b"tail" + b"end"
            got = b""
            while len(got) < len(expected):
                got += other.recv(1 << 20)
            assert got == expected
            assert task.result() == 3

    run(main)


def test_descriptors_travel_with_several_messages(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (one, other):
            read_fd, write_fd = os.pipe()
            rights = [(std.SOL_SOCKET, std.SCM_RIGHTS, write_fd.to_bytes(4, "little"))]
            assert one.send_many([([b"a"], rights), b"b"]) == 2
            os.close(write_fd)
            data, ancdata, _, _ = other.recv_many(1, 1, std.CMSG_SPACE(4))[0]
            assert data == b"a"
            received = int.from_bytes(ancdata[0][2], "little")
            os.write(received, b"works")
            os.close(received)
            assert os.read(read_fd, 10) == b"works"
            os.close(read_fd)

    run(main)


def test_recv_many_at_the_end_of_a_stream_gives_one_empty_message(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (one, other):
            one.sendall(b"last")
            one.close()
            assert [m[0] for m in other.recv_many(5, 100)] == [b"last"]
            assert [m[0] for m in other.recv_many(5, 100)] == [b""]

    run(main)
