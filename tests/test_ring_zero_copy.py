"""Zero-copy sends: two completions, and a buffer that is held between them."""

import errno
import gc
import os
import socket
import struct
import time

import pytest

from ferrule.ring import (
    NotSupported,
    Op,
    RecvSendFlags,
    Ring,
    SqeFlags,
    leaked_operations,
)
from ring_support import (
    CANCELED,
    clean_ring,
    each_setup,
    fill,
    finish,
    hand_over,
    read_exactly,
    receive,
    tcp_pair,
    udp_pair,
)

POLL_FIRST = RecvSendFlags.POLL_FIRST
REPORT = RecvSendFlags.SEND_ZC_REPORT_USAGE


# ---- zero-copy send ----------------------------------------------------------------------------


@each_setup
def test_zero_copy_send_gives_its_result_and_then_a_notification(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        data = bytearray(os.urandom(20_000))
        ring.prep_send_zc(client, data, user_data="zc")
        sent, notice = finish(ring, 2)
        assert (sent.res, sent.more, sent.notification, sent.copied) == (20_000, True, False, None)
        assert (notice.user_data, notice.opcode) == ("zc", Op.SEND_ZC)
        assert (notice.res, notice.more, notice.notification) == (0, False, True)
        assert notice.copied is False
        data.append(0)  # nothing holds it any more
        assert read_exactly(server, 20_000) == data[:-1]


@each_setup
def test_notification_tells_that_the_loopback_had_to_copy(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        ring.prep_send_zc(client, bytes(10_000), 0, REPORT)
        ring.prep_sendmsg_zc(client, [bytes(5_000)] * 2, zc_flags=REPORT | POLL_FIRST)
        cqes = finish(ring, 4)
        notices = [cqe for cqe in cqes if cqe.notification]
        assert len(notices) == 2
        for cqe in notices:
            assert cqe.copied
            assert cqe.res & 1 << 31
            assert cqe.ok
            assert cqe.raise_for_error() == cqe.res
        assert sorted(cqe.res for cqe in cqes if not cqe.notification) == [10_000, 10_000]
        assert read_exactly(server, 20_000) == bytes(20_000)


@each_setup
def test_buffer_of_a_zero_copy_send_is_held_until_the_notification(flags):
    """The data lies in the sender's queue, because the receiver reads nothing."""
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        full = fill(client)
        data = bytearray(os.urandom(100_000))
        sent_data = bytes(data)
        ring.prep_send_zc(client, data, socket.MSG_WAITALL, user_data="zc")
        hand_over(ring)
        with pytest.raises(BufferError):
            data.append(0)
        gc.collect()
        received, cqes = receive(ring, server, full + len(sent_data))
        assert received[full:] == sent_data
        while len(cqes) < 2:
            cqes.append(ring.copy_cqe(timeout=5))
        assert [cqe.res for cqe in cqes] == [100_000, 0]
        assert cqes[1].notification
        data.append(0)


@each_setup
def test_zero_copy_send_of_several_buffers_and_to_an_address(flags):
    with (
        clean_ring(16, flags=flags) as ring,
        tcp_pair() as (client, server),
        udp_pair() as (one, other),
    ):
        ring.prep_send_zc(client, [b"gathered ", b"without a copy"])
        ring.prep_send_zc(one, b"datagram", 0, 0, other.getsockname())
        assert sum(cqe.notification for cqe in finish(ring, 4)) == 2
        assert server.recv(100) == b"gathered without a copy"
        assert other.recvfrom(100) == (b"datagram", one.getsockname())
        ring.prep_sendmsg_zc(
            one, [b"and ", b"message"],
            [(socket.IPPROTO_IP, socket.IP_TTL, struct.pack("i", 3))],
            address=other.getsockname(),
        )
        assert sum(cqe.notification for cqe in finish(ring, 2)) == 1
        assert other.recv(100) == b"and message"


@each_setup
def test_failed_zero_copy_send_gives_its_error_and_still_a_notification(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right, tcp_pair() as (client, server):
        data = bytearray(10)
        ring.prep_send_zc(left, data)  # not for Unix sockets
        failed, notice = finish(ring, 2)
        assert (failed.res, failed.more) == (-errno.EOPNOTSUPP, True)
        assert (notice.res, notice.notification) == (0, True)
        data.append(0)
        server.close()
        client.send(b"x")
        time.sleep(0.01)
        for prepare in (ring.prep_send_zc, lambda *a: ring.prep_sendmsg_zc(client, [data])):
            prepare(client, data)
            failed, notice = finish(ring, 2)
            assert failed.res in (-errno.EPIPE, -errno.ECONNRESET)
            assert notice.notification


@each_setup
def test_skipped_success_of_a_zero_copy_send_skips_its_notification_too(flags):
    """Where it failed the notification comes: its error said `more`."""
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        left, right = socket.socketpair()
        with left, right:
            data = bytearray(1000)
            ring.prep_send_zc(client, data, 0, REPORT).flags |= SqeFlags.CQE_SKIP_SUCCESS
            ring.prep_send_zc(left, b"x", user_data="bad").flags |= SqeFlags.CQE_SKIP_SUCCESS
            ring.prep_timeout(0.05, user_data="late")
            failed, notice, late = finish(ring, 3)
            assert (failed.user_data, failed.res, failed.more) == ("bad", -errno.EOPNOTSUPP, True)
            assert (notice.user_data, notice.notification) == ("bad", True)
            assert late.user_data == "late"
            assert ring.copy_cqes() == []
            assert ring.cq_ready() == 0
            data.append(0)
            assert len(read_exactly(server, 1000)) == 1000


@each_setup
def test_cancelled_zero_copy_send_lets_go_of_its_buffer(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, _server):
        fill(client)
        data = bytearray(1000)
        ring.prep_send_zc(client, data, user_data="zc")
        hand_over(ring)
        with pytest.raises(BufferError):
            data.append(0)
        ring.prep_cancel("zc", user_data="cancel")
        cqes = finish(ring, 3)
        assert {cqe.res for cqe in cqes if cqe.user_data == "zc" and not cqe.notification} == {
            CANCELED
        }
        assert sum(cqe.notification for cqe in cqes) == 1
        data.append(0)


@each_setup
def test_closing_a_ring_in_the_middle_of_a_zero_copy_send_frees_the_buffer(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, _server):
        fill(client)
        data = bytearray(1000)
        ring.prep_send_zc(client, data)
        hand_over(ring)
        ring.close()
        data.append(0)


def test_buffer_that_the_network_still_holds_is_leaked_by_a_close_that_cannot_wait():
    """Data in the sender's queue is read by the kernel whenever the receiver takes it."""
    before = leaked_operations()
    ring = Ring(8)
    with tcp_pair() as (client, server):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        data = bytearray(1 << 22)
        ring.prep_send_zc(client, data)
        [sent] = finish(ring)
        assert 0 < sent.res < len(data)
        ring.close(timeout=0.1)
        assert ring.statistics().leaked == leaked_operations() - before == 1
        with pytest.raises(BufferError):
            data.append(0)


@each_setup
def test_notification_may_come_after_the_socket_is_gone(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        data = bytearray(1 << 22)
        ring.prep_send_zc(client, data, user_data="zc")
        [sent] = finish(ring)
        assert (sent.user_data, sent.more) == ("zc", True)
        assert ring.statistics().in_flight == 1
        # What is not sent yet is thrown away with the connection.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        server.close()
        assert ring.copy_cqe(timeout=5).notification
        data.append(0)


# ---- registered buffers --------------------------------------------------------------------------


@each_setup
def test_zero_copy_send_from_a_registered_buffer(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        memory = bytearray(os.urandom(8192))
        [registered] = ring.register_buffers([memory])
        ring.prep_send_zc_fixed(client, registered[100:5100])
        sent, notice = finish(ring, 2)
        assert (sent.res, notice.notification) == (5000, True)
        assert read_exactly(server, 5000) == memory[100:5100]
        ring.prep_send_zc_fixed(client, memoryview(memory)[:10], 0, REPORT, 0)
        sent, notice = finish(ring, 2)
        assert (sent.res, notice.copied) == (10, True)
        assert read_exactly(server, 10) == memory[:10]
        pieces = [registered[:3], registered[8000:], memoryview(memory)[5:6]]
        ring.prep_sendmsg_zc_fixed(client, pieces, zc_flags=REPORT)
        sent, notice = finish(ring, 2)
        assert (sent.res, notice.notification) == (196, True)
        assert read_exactly(server, 196) == memory[:3] + memory[8000:] + memory[5:6]


@each_setup
def test_datagrams_are_sent_from_a_registered_buffer(flags):
    with clean_ring(flags=flags) as ring, udp_pair() as (one, other):
        [registered] = ring.register_buffers([bytearray(b"0123456789")])
        name = other.getsockname()
        ring.prep_send_zc_fixed(one, registered[:4], address=name)
        assert finish(ring, 2)[0].res == 4
        ring.prep_sendmsg_zc_fixed(one, [registered[4:6], registered[8:]], address=name)
        assert finish(ring, 2)[0].res == 4
        assert [other.recv(10) for _ in range(2)] == [b"0123", b"4589"]


@each_setup
def test_registered_buffer_stays_until_the_notification_though_its_place_is_emptied(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        full = fill(client)
        memory = bytearray(os.urandom(10_000))
        [registered] = ring.register_buffers([memory])
        ring.prep_send_zc_fixed(client, registered)
        hand_over(ring)
        ring.unregister_buffers()
        del registered
        gc.collect()
        with pytest.raises(BufferError):
            memory.append(0)
        received, cqes = receive(ring, server, full + 10_000)
        assert received[full:] == memory
        while len(cqes) < 2:
            cqes.append(ring.copy_cqe(timeout=5))
        memory.append(0)


def test_memory_outside_the_registered_buffer_is_refused():
    with clean_ring() as ring, tcp_pair() as (client, _):
        memory = bytearray(100)
        [registered] = ring.register_buffers([memory])
        other = bytearray(10)
        for call in (
            lambda: ring.prep_send_zc_fixed(client, other, 0, 0, 0),
            lambda: ring.prep_send_zc_fixed(client, memory, 0, 0, 1),
            lambda: ring.prep_send_zc_fixed(client, memory, 0, RecvSendFlags.FIXED_BUF, 0),
            lambda: ring.prep_send_zc_fixed(client, registered, address=("localhost", 1)),
            lambda: ring.prep_sendmsg_zc_fixed(client, [registered, other]),
            lambda: ring.prep_sendmsg_zc_fixed(client, []),
        ):
            with pytest.raises(ValueError, match=r"\w"):
                call()
        with pytest.raises(TypeError, match="buf_index is needed"):
            ring.prep_send_zc_fixed(client, memory)
        assert ring.sq_ready() == 0
        ring.unregister_buffers()
        for buffer in (memory, other):
            buffer.append(0)


def test_sendmsg_from_a_registered_buffer_needs_linux_6_15(hidden_operations):
    with clean_ring() as ring, tcp_pair() as (client, _):
        [registered] = ring.register_buffers([bytearray(10)])
        hidden_operations(Op.READV_FIXED)
        with pytest.raises(NotSupported, match=r"needs Linux 6\.15;"):
            ring.prep_sendmsg_zc_fixed(client, [registered])
