"""Receiving again and again: multishot receives and messages, and bundles of buffers."""

import array
import errno
import os
import socket
import struct

import pytest

from ferrule.ring import (
    BufferRing,
    BufferRingFlags,
    RecvSendFlags,
    SetupFlags,
    SqeFlags,
)
from ring_support import (
    CANCELED,
    cancel_all,
    clean_ring,
    each_setup,
    fill,
    finish,
    hand_over,
    read_exactly,
    receive,
    tcp_pair,
    udp_pair,
    until_last,
)

BUNDLE = RecvSendFlags.BUNDLE
POLL_FIRST = RecvSendFlags.POLL_FIRST


# ---- multishot receive -------------------------------------------------------------------------


@each_setup
def test_multishot_receive_may_bring_little_at_a_time_and_end_at_a_limit(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(8, 64)
        client.send(b"0123456789abcdefghij")
        sqe = ring.prep_recv_multishot(server, group, length=6, limit=12)
        assert sqe.len == 6
        cqes = until_last(ring)
        assert [(cqe.res, cqe.more) for cqe in cqes] == [(6, True), (6, False)]
        assert b"".join(map(group.take, cqes)) == b"0123456789ab"
        # The socket keeps the rest for the next.
        ring.prep_recv(server, None).buffer_select(group)
        assert group.take(finish(ring)[0]) == b"cdefghij"


@each_setup
def test_multishot_receive_refuses_waitall_and_dontwait_ends_it(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(2, 8)
        ring.prep_recv_multishot(server, group, socket.MSG_WAITALL)
        assert finish(ring)[0].res == -errno.EINVAL
        client.send(b"data")
        ring.prep_recv_multishot(server, group, socket.MSG_DONTWAIT)
        cqes = until_last(ring)
        assert [cqe.res for cqe in cqes] == [4, -errno.EAGAIN]


@each_setup
def test_multishot_receive_loses_nothing_while_buffers_run_dry_and_return(flags):
    with clean_ring(16, flags=flags) as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(4, 16)
        sent = os.urandom(4000)
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        received, dry, ended = b"", 0, False
        while not ended:
            ring.prep_recv_multishot(server, group)
            cqes = until_last(ring)
            # Every buffer is out before it is dry; only then do they return.
            if cqes[-1].res == -errno.ENOBUFS:
                dry += 1
                assert len(cqes) == 5
            else:
                ended = cqes[-1].res == 0
            received += b"".join(group.take(cqe) for cqe in cqes if cqe.res > 0)
        assert received == sent
        assert dry > 10
        assert group.available() == 4


@each_setup
def test_multishot_receive_ends_honestly_when_completions_overflow(flags):
    with (
        clean_ring(4, cq_entries=4, flags=flags | SetupFlags.CQSIZE) as ring,
        tcp_pair() as (client, server),
    ):
        group = ring.register_buf_ring(64, 1)
        ring.prep_recv_multishot(server, group)
        hand_over(ring)
        received = b""
        client.send(bytes(range(32)))
        while len(received) < 32:
            cqe = ring.copy_cqe(timeout=5)
            received += group.take(cqe)
            if not cqe.more:
                ring.prep_recv_multishot(server, group)
                ring.submit()
        assert received == bytes(range(32))
        assert ring.cq_overflow() == 0
        assert [cqe.res for cqe in cancel_all(ring)] == [CANCELED]


@each_setup
def test_data_and_the_end_that_come_together_are_both_seen(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(4, 16)
        ring.prep_recv_multishot(server, group)
        hand_over(ring)
        client.send(b"last words")
        client.shutdown(socket.SHUT_WR)  # before the receiver has woken
        cqes = until_last(ring)
        assert [cqe.res for cqe in cqes] == [10, 0]
        assert group.take(cqes[0]) == b"last words"


@each_setup
def test_multishot_receive_starts_with_what_waits_also_with_poll_first(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(4, 16)
        client.send(b"early")
        ring.prep_recv_multishot(server, group, ioprio=POLL_FIRST)
        hand_over(ring)
        assert group.take(ring.copy_cqe(timeout=5)) == b"early"
        client.send(b"late")
        assert group.take(ring.copy_cqe(timeout=5)) == b"late"
        assert [cqe.res for cqe in cancel_all(ring)] == [CANCELED]


# ---- bundles -----------------------------------------------------------------------------------


@each_setup
def test_multishot_bundle_fills_buffers_as_data_comes(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(16, 8)
        ring.prep_recv_multishot(server, group, ioprio=BUNDLE)
        hand_over(ring)
        sent = os.urandom(2000)
        received, spans = b"", 0
        for start in range(0, len(sent), 50):
            client.send(sent[start:start + 50])
            while len(received) < start + 50:
                cqe = ring.copy_cqe(timeout=5)
                assert cqe.more, cqe
                spans = max(spans, len(group.views(cqe)))
                received += group.take(cqe)
        assert received == sent
        assert spans > 1
        assert group.available() == 16
        client.close()
        assert ring.copy_cqe(timeout=5).res == 0


@each_setup
def test_single_bundle_takes_what_fits(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(4, 4)
        client.send(b"aaaabbbbccccddddeeee")
        ring.prep_recv(server, None, ioprio=BUNDLE).buffer_select(group).len = 100
        [cqe] = finish(ring)
        assert group.take(cqe) == b"aaaabbbbccccdddd"
        ring.prep_recv(server, None, ioprio=BUNDLE | POLL_FIRST).buffer_select(group)
        assert group.take(finish(ring)[0]) == b"eeee"


def filled(group: BufferRing, parts: list[bytes]) -> None:
    for number, part in enumerate(parts):
        group.get(number)[:len(part)] = part
        group.add(number, len(part))
    group.advance()


@each_setup
def test_bundle_sends_all_buffers_in_order(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(8, 16, provide=False)
        filled(group, [b"one ", b"after ", b"the ", b"other"])
        ring.prep_send_bundle(client, group)
        cqes = until_last(ring)
        assert sum(cqe.res for cqe in cqes) == 19
        assert cqes[0].buffer_id == 0
        assert [bytes(view) for cqe in cqes for view in group.views(cqe)] == [
            b"one ", b"after ", b"the ", b"other",
        ]
        assert read_exactly(server, 19) == b"one after the other"
        assert group.available() == 0
        ring.prep_send_bundle(client, group)
        assert finish(ring)[0].res == -errno.ENOBUFS


@each_setup
def test_send_takes_one_provided_buffer(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(2, 16, provide=False)
        filled(group, [b"first", b"second"])
        for number, data in enumerate((b"first", b"second")):
            ring.prep_send(client, None, socket.MSG_WAITALL).buffer_select(group)
            [cqe] = finish(ring)
            assert (cqe.res, cqe.buffer_id) == (len(data), number)
            assert server.recv(100) == data
        assert group.available() == 0


@each_setup
def test_bundle_that_finds_the_socket_full_waits_and_goes_on(flags):
    size, count = 1 << 14, 64
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)
        group = ring.register_buf_ring(count, size, provide=False)
        data = os.urandom(size * count)
        for number in range(count):
            group.get(number)[:] = data[number * size:][:size]
            group.add(number)
        group.advance()
        full = fill(client)
        ring.prep_send_bundle(client, group)
        hand_over(ring)
        assert ring.copy_cqes(1, 1, timeout=0.02) == []
        received, cqes = receive(ring, server, full + len(data))
        while not cqes or cqes[-1].more:
            cqes.append(ring.copy_cqe(timeout=5))
        assert received[full:] == data
        assert sum(cqe.res for cqe in cqes) == len(data)


@each_setup
def test_buffers_that_were_sent_unseen_are_not_sent_again(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(2, 16, provide=False)
        filled(group, [b"once"])
        ring.prep_send(client, None).buffer_select(group).flags |= SqeFlags.CQE_SKIP_SUCCESS
        ring.submit()
        assert server.recv(10) == b"once"
        ring.prep_nop()
        finish(ring)
        assert group.available() == 0


# ---- multishot recvmsg -------------------------------------------------------------------------


@each_setup
def test_multishot_recvmsg_tells_who_sent_each_message(flags):
    with (
        clean_ring(flags=flags) as ring,
        udp_pair() as (one, two),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(("127.0.0.1", 0))
        group = ring.register_buf_ring(4, 256)
        ring.prep_recvmsg_multishot(receiver, group, user_data="recvmsg")
        hand_over(ring)
        for number, sender in enumerate((one, two) * 4):
            data = b"message %d" % number
            sender.sendto(data, receiver.getsockname())
            cqe = ring.copy_cqe(timeout=5)
            assert cqe.more
            assert cqe.message is cqe.address is None
            seen = group.get_message(cqe)
            assert bytes(seen.data) == data
            assert seen[1:] == ([], 0, sender.getsockname())
            assert group.take_message(cqe) == (data, [], 0, sender.getsockname())
            assert group.available() == 4
        assert [cqe.res for cqe in cancel_all(ring)] == [CANCELED]


@each_setup
def test_multishot_recvmsg_cuts_what_does_not_fit_and_says_so(flags):
    head = 16 + 16 + 24  # header, an IPv4 address, one small control message
    with clean_ring(flags=flags) as ring, udp_pair() as (sender, receiver):
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 7)
        group = ring.register_buf_ring(4, head + 10)
        ring.prep_recvmsg_multishot(receiver, group, 24, namelen=16)
        hand_over(ring)
        for data in (b"0123456789abcdef", b"0123456789", b""):
            sender.sendto(data, receiver.getsockname())
            cqe = ring.copy_cqe(timeout=5)
            assert cqe.more == (data != b"")  # an empty message ends it
            message = group.take_message(cqe)
            assert message.data == data[:10]
            assert message.msg_flags == (socket.MSG_TRUNC if len(data) > 10 else 0)
            assert message.address == sender.getsockname()
            [(level, kind, value)] = message.ancdata
            assert (level, kind, value) == (socket.IPPROTO_IP, socket.IP_TOS, b"\0")
        # No room for the address, nor for the control message.
        ring.prep_recvmsg_multishot(receiver, group, 8, namelen=4)
        hand_over(ring)
        sender.sendto(b"x", receiver.getsockname())
        message = group.take_message(ring.copy_cqe(timeout=5))
        assert message == (b"x", [], socket.MSG_CTRUNC, None)
        cancel_all(ring)
        ring.prep_recvmsg_multishot(receiver, group, namelen=0)
        hand_over(ring)
        sender.sendto(b"y", receiver.getsockname())
        message = group.take_message(ring.copy_cqe(timeout=5))
        assert message.data == b"y"
        assert message.address is None
        cancel_all(ring)


def test_multishot_recvmsg_tells_the_length_of_a_message_that_was_cut():
    with clean_ring() as ring, udp_pair() as (sender, receiver):
        group = ring.register_buf_ring(4, 16 + 4)
        ring.prep_recvmsg_multishot(receiver, group, 0, socket.MSG_TRUNC, namelen=0)
        ring.submit()
        sender.sendto(b"0123456789", receiver.getsockname())
        message = group.take_message(ring.copy_cqe(timeout=5))
        assert (message.data, message.msg_flags) == (b"0123", socket.MSG_TRUNC)
        cancel_all(ring)


@each_setup
def test_multishot_recvmsg_carries_descriptors_and_unix_names(flags, tmp_path):
    with (
        clean_ring(flags=flags) as ring,
        open(tmp_path / "f", "w+") as file,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
    ):
        sender.bind(str(tmp_path / "sender"))
        receiver.bind(str(tmp_path / "receiver"))
        sent = array.array("i", [file.fileno()])
        room = socket.CMSG_SPACE(sent.itemsize)
        # An odd size: control data is read from wherever it lies.
        group = ring.register_buf_ring(2, 16 + 128 + room + 13)
        ring.prep_recvmsg_multishot(receiver, group, room, socket.MSG_CMSG_CLOEXEC)
        hand_over(ring)
        for _ in range(2):
            sender.sendmsg(
                [b"have it"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)],
                0, str(tmp_path / "receiver"),
            )
            message = group.take_message(ring.copy_cqe(timeout=5))
            assert message.data == b"have it"
            assert message.address == str(tmp_path / "sender")
            [(level, kind, data)] = message.ancdata
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            [fd] = array.array("i", data)
            assert os.path.sameopenfile(fd, file.fileno())
            os.close(fd)
        cancel_all(ring)


@each_setup
def test_multishot_recvmsg_of_a_stream_ends_with_it(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right:
        group = ring.register_buf_ring(2, 16 + 128 + 8)
        ring.prep_recvmsg_multishot(right, group)
        hand_over(ring)
        left.send(b"abc")
        assert group.take_message(ring.copy_cqe(timeout=5)) == (b"abc", [], 0, None)
        left.close()
        cqe = ring.copy_cqe(timeout=5)
        assert not cqe.more
        assert cqe.message is cqe.address is None
        if cqe.buffer_id is not None:
            assert group.take_message(cqe).data == b""


@each_setup
def test_multishot_recvmsg_runs_dry_and_is_armed_again(flags):
    with clean_ring(flags=flags) as ring, udp_pair() as (sender, receiver):
        group = ring.register_buf_ring(2, 200)
        for data in (b"one", b"two", b"three"):
            sender.sendto(data, receiver.getsockname())
        ring.prep_recvmsg_multishot(receiver, group)
        cqes = until_last(ring)
        assert cqes[-1].res == -errno.ENOBUFS
        assert [group.take_message(cqe).data for cqe in cqes[:2]] == [b"one", b"two"]
        ring.prep_recvmsg_multishot(receiver, group)
        assert group.take_message(finish(ring)[0]).data == b"three"
        cancel_all(ring)


@each_setup
def test_multishot_recvmsg_lays_several_messages_into_an_incremental_buffer(flags):
    with clean_ring(flags=flags) as ring, udp_pair() as (sender, receiver):
        group = ring.register_buf_ring(2, 1000, flags=BufferRingFlags.INC)
        ring.prep_recvmsg_multishot(receiver, group, namelen=16)
        hand_over(ring)
        for data in (b"one", b"three", b"fifteen"):
            sender.sendto(data, receiver.getsockname())
            cqe = ring.copy_cqe(timeout=5)
            assert cqe.buffer_more
            assert group.take_message(cqe) == (data, [], 0, sender.getsockname())
        cancel_all(ring)


def test_message_is_unpacked_only_from_its_own_completion():
    with clean_ring() as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(2, 200)
        ring.prep_recv(server, None).buffer_select(group)
        client.send(b"x")
        [cqe] = finish(ring)
        with pytest.raises(ValueError, match="not one of prep_recvmsg_multishot"):
            group.get_message(cqe)
        assert group.take(cqe) == b"x"
        ring.prep_recvmsg(server, [], 0).buffer_select(group)
        client.send(b"y")
        [cqe] = finish(ring)
        assert cqe.message.nbytes == 1
        with pytest.raises(ValueError, match="not one of prep_recvmsg_multishot"):
            group.take_message(cqe)
        assert group.take(cqe) == b"y"
        client.send(bytes(300))
        ring.prep_recv(server, None, ioprio=BUNDLE).buffer_select(group).len = 400
        [cqe] = finish(ring)
        with pytest.raises(ValueError, match="spans 2 buffers"):
            group.get_message(cqe)
        assert group.take(cqe) == bytes(300)
        ring.prep_nop()
        with pytest.raises(ValueError, match="used no provided buffer"):
            group.get_message(finish(ring)[0])


def test_lengths_in_a_messages_header_are_not_believed():
    with clean_ring() as ring, udp_pair() as (sender, receiver):
        group = ring.register_buf_ring(2, 200)
        ring.prep_recvmsg_multishot(receiver, group, 32, namelen=16)
        ring.submit()
        sender.sendto(b"honest", receiver.getsockname())
        cqe = ring.copy_cqe(timeout=5)
        start = cqe.buffer_id * 200
        whole = memoryview(group)
        whole[start + 16 + 16:start + 16 + 16 + 16] = struct.pack("=Qii", 1 << 60, 1, 1)
        whole[start:start + 16] = struct.pack("=4I", 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
        message = group.get_message(cqe)
        assert bytes(message.data) == b"honest"
        assert message.address is None
        assert [(level, kind, len(data)) for level, kind, data in message.ancdata] == [(1, 1, 16)]
        whole[start:start + 16] = bytes(16)
        assert group.take_message(cqe) == (b"", [], 0, None)
        cancel_all(ring)


@each_setup
@pytest.mark.parametrize("multishot", [False, True], ids=["single", "multishot"])
def test_descriptors_of_messages_that_nobody_took_are_closed_with_the_ring(flags, multishot):
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with clean_ring(flags=flags) as ring, left, right, tcp_pair() as (one, other):
        right.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        before = len(os.listdir("/proc/self/fd"))
        if multishot:
            group = ring.register_buf_ring(4, 301)
            ring.prep_recvmsg_multishot(right, group, 200, namelen=16)
        else:
            for _ in range(2):
                ring.prep_recvmsg(right, [bytearray(10)], 200)
        hand_over(ring)
        for _ in range(2):
            socket.send_fds(left, [b"two"], [one.fileno(), other.fileno()])
        ring.submit_and_wait_timeout(2, 5)
        assert len(os.listdir("/proc/self/fd")) == before + 4
        ring.close()
        assert len(os.listdir("/proc/self/fd")) == before - 1
