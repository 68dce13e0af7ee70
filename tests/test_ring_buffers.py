"""Provided buffers: rings of them, receives that pick from them, and running dry."""

import errno
import gc
import os
import socket
import tempfile
import time
import weakref
from array import array

import pytest

from ferrule.ring import BufferRingFlags, CancelFlags, CqeFlags, Op, RecvSendFlags, Ring, SqeFlags
from ring_support import CANCELED, cancel_all, clean_ring, each_setup, finish, results, tcp_pair


@each_setup
def test_multishot_receive_takes_buffers_and_names_them(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(4, 64, 3)
        assert (len(group), group.entries, group.buffer_size, group.bgid) == (4, 4, 64, 3)
        assert group.available() == 4
        sqe = ring.prep_recv_multishot(server, group, user_data="recv")
        assert sqe.flags == SqeFlags.BUFFER_SELECT
        assert sqe.buf_group == 3
        ring.submit()
        for number in range(10):
            data = f"message {number}".encode()
            client.send(data)
            cqe = ring.copy_cqe(timeout=5)
            assert (cqe.user_data, cqe.res) == ("recv", len(data))
            assert cqe.more
            assert cqe.flags & CqeFlags.BUFFER
            assert 0 <= cqe.buffer_id < 4
            assert bytes(group.get(cqe)) == data
            assert group.available() == 3
            group.recycle(cqe)
            assert group.available() == 4
        client.close()
        cqe = ring.copy_cqe(timeout=5)
        assert cqe.res == 0
        assert not cqe.more
        group.close()
        assert group.closed


@each_setup
def test_receive_that_finds_no_buffer_ends_with_enobufs_and_can_be_armed_again(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(2, 4)
        ring.prep_recv_multishot(server, group, user_data="recv")
        ring.submit()
        client.send(b"aaaabbbbcccc")
        cqes = []
        while not cqes or cqes[-1].more:
            cqes.append(ring.copy_cqe(timeout=5))
        assert [cqe.res for cqe in cqes] == [4, 4, -errno.ENOBUFS]
        assert cqes[-1].buffer_id is None
        assert group.available() == 0
        assert [group.take(cqe) for cqe in cqes[:2]] == [b"aaaa", b"bbbb"]
        assert group.available() == 2
        ring.prep_recv_multishot(server, group, user_data="again")
        cqe = finish(ring)[0]
        assert group.take(cqe) == b"cccc"
        ring.prep_cancel("again")
        finish(ring, 2)
        group.close()


@each_setup
def test_single_receive_and_read_pick_a_buffer_too(flags, tmp_path):
    (tmp_path / "f").write_bytes(b"file data")
    with (
        clean_ring(flags=flags) as ring,
        tcp_pair() as (client, server),
        open(tmp_path / "f", "rb") as file,
        ring.register_buf_ring(2, 64) as group,
    ):
        ring.prep_recv(server, None, user_data="recv").buffer_select(group)
        ring.prep_read(file, None, 0, user_data="read").buffer_select(group.bgid).len = 4
        client.send(b"socket data")
        cqes = {cqe.user_data: cqe for cqe in finish(ring, 2)}
        assert group.take(cqes["recv"]) == b"socket data"
        assert group.take(cqes["read"]) == b"file"


def test_buffer_select_by_fields_is_the_same():
    with clean_ring() as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(2, 64, 9)
        sqe = ring.prep_recv(server, None)
        with pytest.raises(ValueError, match="no buffer ring with the id 0"):
            sqe.flags |= SqeFlags.BUFFER_SELECT
        with pytest.raises(ValueError, match="no buffer ring with the id 8"):
            sqe.buf_group = 8
        sqe.buf_group = 9
        sqe.flags |= SqeFlags.BUFFER_SELECT
        client.send(b"x")
        assert group.take(finish(ring)[0]) == b"x"


def test_buffers_go_back_one_by_one_or_together():
    with clean_ring() as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(4, 1)
        ring.prep_recv_multishot(server, group)
        ring.submit()
        client.send(b"abcd and more")
        cqes = [ring.copy_cqe(timeout=5) for _ in range(5)]
        assert [cqe.res for cqe in cqes] == [1, 1, 1, 1, -errno.ENOBUFS]
        ids = [cqe.buffer_id for cqe in cqes[:4]]
        assert sorted(ids) == [0, 1, 2, 3]
        assert b"".join(bytes(group.get(cqe)) for cqe in cqes[:4]) == b"abcd"
        group.add(ids[0])
        group.add(ids[1])
        assert group.advance() == 2
        assert group.advance() == 0
        group.recycle(ids[2], cqes[3])
        assert group.available() == 4


def test_buffer_that_is_with_the_kernel_cannot_be_given_again():
    with clean_ring() as ring:
        group = ring.register_buf_ring(2, 8)
        with pytest.raises(ValueError, match="buffer 1 is with the kernel already"):
            group.recycle(1)
        with pytest.raises(ValueError, match="outside"):
            group.add(2)
        with pytest.raises(ValueError, match="outside"):
            group.get(-1)
        with pytest.raises(ValueError, match="outside"):
            group.get(0, 9)
        ring.prep_nop()
        with pytest.raises(ValueError, match="no provided buffer"):
            group.get(finish(ring)[0])


def test_kernel_tells_how_many_buffers_it_took():
    with clean_ring() as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(4, 8)
        try:
            assert group.head() == 0
        except OSError as error:
            pytest.skip(f"no PBUF_STATUS here: {error}")
        ring.prep_recv(server, None).buffer_select(group)
        client.send(b"x")
        group.take(finish(ring)[0])
        assert group.head() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8), "entries must be a power of two"),
        ((3, 8), "entries must be a power of two"),
        ((65536, 8), "entries must be a power of two"),
        ((4, 0), "buffer_size must be from 1"),
        ((4, 8, 70000), "bgid must be from 0 to 65535"),
    ],
)
def test_bad_sizes_are_refused(arguments, message):
    with clean_ring() as ring, pytest.raises(ValueError, match=message):
        ring.register_buf_ring(*arguments)


def test_group_id_can_be_used_once_at_a_time():
    with clean_ring() as ring:
        ring.register_buf_ring(2, 8, 5)
        with pytest.raises(ValueError, match="id 5 already"):
            ring.register_buf_ring(2, 8, 5)
        ring.unregister_buf_ring(5)
        with pytest.raises(ValueError, match="no buffer ring with the id 5"):
            ring.unregister_buf_ring(5)
        ring.register_buf_ring(2, 8, 5).close()


def test_closed_group_refuses_work_and_starves_its_receivers():
    with clean_ring() as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(2, 8)
        ring.prep_recv_multishot(server, group, user_data="recv")
        ring.submit()
        group.close()
        group.close()
        for call in (lambda: group.add(0), group.advance, group.head, lambda: group.recycle(0)):
            with pytest.raises(ValueError, match="closed buffer ring"):
                call()
        client.send(b"x")
        assert results(finish(ring)) == {"recv": -errno.ENOBUFS}


def test_group_of_one_ring_is_unknown_to_another():
    with clean_ring() as ring, clean_ring() as other:
        group = ring.register_buf_ring(2, 8)
        other.register_buf_ring(2, 8)
        with pytest.raises(ValueError, match="no buffer ring"):
            other.prep_recv_multishot(0, group)


def test_closing_the_ring_closes_its_groups():
    ring = Ring(8)
    group = ring.register_buf_ring(2, 8)
    left, right = socket.socketpair()
    with left, right:
        ring.prep_recv_multishot(left, group)
        ring.submit()
        view = group.get(0)
        ring.close()
        assert group.closed
        assert bytes(view) == bytes(8)  # the memory lives as long as a view of it
        group.close()


def test_memory_of_a_group_lives_while_a_receive_may_use_it():
    with clean_ring() as ring, tcp_pair() as (_, server):
        group = ring.register_buf_ring(2, 8)
        alive = weakref.ref(group)
        ring.prep_recv_multishot(server, group, user_data="recv")
        ring.submit()
        group.close()
        del group
        gc.collect()
        assert alive() is not None
        ring.prep_cancel("recv", user_data="cancel")
        assert results(finish(ring, 2)) == {"cancel": 0, "recv": CANCELED}
        assert alive() is None


def test_many_receivers_share_one_group():
    with clean_ring(64) as ring, ring.register_buf_ring(8, 16) as group:
        pairs = [socket.socketpair() for _ in range(20)]
        for number, (left, _) in enumerate(pairs):
            ring.prep_recv(left, None, user_data=number).buffer_select(group)
        ring.submit()
        received = {}
        for number, (_, right) in enumerate(pairs):
            right.send(b"%d" % number)
            cqe = ring.copy_cqe(timeout=5)
            received[cqe.user_data] = group.take(cqe)
        assert received == {number: b"%d" % number for number in range(20)}
        for pair in pairs:
            for end in pair:
                end.close()


def test_group_survives_a_fork_in_the_parent():
    with clean_ring() as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(2, 8)
        ring.prep_recv_multishot(server, group, user_data="recv")
        ring.submit()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        client.send(b"x")
        assert group.take(ring.copy_cqe(timeout=5)) == b"x"
        ring.prep_cancel("recv")
        finish(ring, 2)


@each_setup
def test_incremental_buffer_serves_completions_until_it_is_full(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(2, 10, flags=BufferRingFlags.INC)
        ring.prep_recv_multishot(server, group)
        ring.submit()
        seen = []
        for data in (b"abcd", b"efg", b"hij", b"klmn"):
            client.send(data)
            cqe = ring.copy_cqe(timeout=5)
            assert bytes(group.get(cqe)) == data
            seen.append((cqe.buffer_more, cqe))
        assert [more for more, _ in seen] == [True, True, False, True]
        assert len({cqe.buffer_id for _, cqe in seen[:3]}) == 1
        assert b"".join(bytes(group.get(cqe)) for _, cqe in seen) == b"abcdefghijklmn"
        assert group.available() == 1
        group.recycle(*(cqe for _, cqe in seen))
        assert group.available() == 2
        ring.prep_cancel(flags=CancelFlags.ANY)
        finish(ring, 2)


@each_setup
def test_incremental_buffer_of_a_file_is_read_piece_by_piece(flags, tmp_path):
    (tmp_path / "f").write_bytes(bytes(range(100)))
    with clean_ring(flags=flags) as ring, open(tmp_path / "f", "rb") as file:
        group = ring.register_buf_ring(1, 64, flags=BufferRingFlags.INC)
        data = []
        for offset in (0, 30, 60):
            ring.prep_read(file, None, offset).buffer_select(group).len = 30
            cqe = finish(ring)[0]
            data.append((cqe.res, cqe.buffer_more, group.take(cqe)))
        assert data == [(30, True, bytes(range(30))), (30, True, bytes(range(30, 60))),
                        (4, False, bytes(range(60, 64)))]
        assert group.available() == 1


def prepare_bundle(ring, server, group):
    sqe = ring.prep_recv(server, None).buffer_select(group)
    sqe.ioprio |= RecvSendFlags.BUNDLE
    sqe.len = 64  # else the kernel takes what its last look at the socket suggests
    return finish(ring)[0]


@each_setup
def test_bundle_spans_buffers_in_the_order_they_were_given(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(4, 4, provide=False)
        assert group.available() == 0
        for bid in (2, 0, 3, 1):
            group.add(bid)
        group.advance()
        client.send(b"aaaabbbbcc")
        cqe = prepare_bundle(ring, server, group)
        assert (cqe.res, cqe.buffer_id) == (10, 2)
        assert [bytes(view) for view in group.views(cqe)] == [b"aaaa", b"bbbb", b"cc"]
        with pytest.raises(ValueError, match="spans 3 buffers"):
            group.get(cqe)
        assert group.available() == 1
        assert group.take(cqe) == b"aaaabbbbcc"
        assert group.available() == 4
        # Now in the order 1, 2, 0, 3: the places of the first round have been taken again.
        client.send(b"ddddeeee")
        cqe = prepare_bundle(ring, server, group)
        assert (cqe.buffer_id, group.take(cqe)) == (1, b"ddddeeee")


# In a kernel thread the kernel (6.18) takes the first buffer before there are data, and others may
# take those behind it meanwhile.
def set_before(flag):
    def prepare(ring, server):
        sqe = ring.get_sqe()
        sqe.flags |= flag
        return sqe.prep_recv(server, None, ioprio=RecvSendFlags.BUNDLE)

    return prepare


def set_by_hand(flag):
    def prepare(ring, server):
        sqe = ring.prep_recv(server, None)
        sqe.ioprio |= RecvSendFlags.BUNDLE
        sqe.flags |= flag
        return sqe

    return prepare


def prepare_last_of_a_chain(ring, server):
    ring.prep_nop().link()
    return ring.prep_recv(server, None, ioprio=RecvSendFlags.BUNDLE)


def prepare_behind_a_drain(ring, server):
    ring.prep_nop().drain()
    ring.submit()
    return ring.prep_recv(server, None, ioprio=RecvSendFlags.BUNDLE)


def prepare_behind_a_drain_of_a_batch(ring, server):
    with tempfile.TemporaryFile() as file, ring.batch_queue(1, bytearray(1)) as queue:
        assert queue.prep_read(array("i", [file.fileno()]), 0, 1, 0, flags=SqeFlags.IO_DRAIN) == 1
        assert queue.submit_and_complete(array("i", [0]), wait_nr=1, timeout=5) == 1
    return ring.prep_recv(server, None, ioprio=RecvSendFlags.BUNDLE)


@pytest.mark.parametrize(
    "prepare",
    [
        *(way(flag) for way in (set_before, set_by_hand)
          for flag in (SqeFlags.ASYNC, SqeFlags.IO_LINK, SqeFlags.IO_HARDLINK, SqeFlags.IO_DRAIN)),
        prepare_last_of_a_chain, prepare_behind_a_drain, prepare_behind_a_drain_of_a_batch,
    ],
)
def test_bundle_that_a_kernel_thread_might_begin_takes_one_buffer(prepare):
    with clean_ring() as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(4, 4)
        client.send(b"aaaabb")
        prepare(ring, server).buffer_select(group).len = 64
        while (cqe := finish(ring)[0]).opcode != Op.RECV:
            pass
        assert group.take(cqe) == b"aaaa"
        cqe = prepare_bundle(ring, server, group)
        assert group.take(cqe) == b"bb"


@pytest.mark.parametrize("flag", [SqeFlags.IO_DRAIN, SqeFlags.IO_LINK | SqeFlags.ASYNC])
def test_others_may_receive_beside_a_bundle_that_waits_in_a_kernel_thread(flag):
    """The fuzzer's find: the buffers of both were in one order, and the bundle's had a gap."""
    with clean_ring(flags=0) as ring, tcp_pair() as (client, server), tcp_pair() as (one, other):
        group = ring.register_buf_ring(4, 4)
        ring.prep_nop().flags |= flag
        ring.prep_recv(server, None, ioprio=RecvSendFlags.BUNDLE).buffer_select(group).len = 64
        ring.prep_recv(other, None).buffer_select(group)
        assert [cqe.opcode for cqe in finish(ring)] == [Op.NOP]
        time.sleep(0.01)  # until the threads wait
        one.send(b"1111")
        assert group.get(finish(ring)[0]) == b"1111"
        client.send(b"aaaabbbb")
        assert group.take(finish(ring)[0]) == b"aaaa"


def test_multishot_bundle_may_be_asynchronous():
    with clean_ring() as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(4, 4)
        sqe = ring.prep_recv_multishot(server, group, ioprio=RecvSendFlags.BUNDLE)
        sqe.flags |= SqeFlags.ASYNC
        ring.submit()
        other = ring.prep_recv(client, None, user_data="other").buffer_select(group)
        assert other.opcode == Op.RECV
        server.send(b"1111")
        assert [cqe.user_data for cqe in finish(ring)] == ["other"]
        client.send(b"aaaabbbb")
        assert group.take(ring.copy_cqe(5)) == b"aaaabbbb"
        cancel_all(ring)


@each_setup
def test_bundle_of_an_incremental_ring_ends_inside_a_buffer(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(2, 8, flags=BufferRingFlags.INC)
        client.send(b"abcdefghijk")
        first = prepare_bundle(ring, server, group)
        assert (first.res, first.buffer_more) == (11, True)
        assert [bytes(view) for view in group.views(first)] == [b"abcdefgh", b"ijk"]
        client.send(b"lmnop")
        second = prepare_bundle(ring, server, group)
        assert (second.res, second.buffer_more) == (5, False)
        assert group.take(first) + group.take(second) == b"abcdefghijklmnop"
        assert group.available() == 2


def test_ring_of_entries_may_lie_in_the_kernels_memory():
    with (
        clean_ring() as ring,
        tcp_pair() as (client, server),
        ring.register_buf_ring(2, 16, flags=BufferRingFlags.MMAP) as group,
    ):
        ring.prep_recv(server, None).buffer_select(group)
        client.send(b"hello")
        assert group.take(finish(ring)[0]) == b"hello"
        assert group.available() == 2


def test_unknown_flag_of_a_buffer_ring_is_refused():
    with clean_ring() as ring:
        with pytest.raises(ValueError, match="flags must be of BufferRingFlags, not 0x40"):
            ring.register_buf_ring(2, 16, flags=0x40)
        ring.register_buf_ring(2, 16).close()


def test_length_of_an_added_buffer_must_fit():
    with clean_ring() as ring, ring.register_buf_ring(2, 16, provide=False) as group:
        for length in (0, 17):
            with pytest.raises(ValueError, match=r"outside 1\.\.16"):
                group.add(0, length)
        group.add(0, 16)
        assert group.available() == 1


def test_peeked_completion_counts_its_incremental_buffer_once():
    with clean_ring() as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(1, 8, flags=BufferRingFlags.INC)
        ring.prep_recv(server, None).buffer_select(group)
        client.send(b"abc")
        ring.submit_and_wait(1)
        for _ in range(3):
            assert bytes(group.get(ring.peek_cqe())) == b"abc"
        assert bytes(group.get(ring.copy_cqe())) == b"abc"
        ring.prep_recv(server, None).buffer_select(group)
        client.send(b"defgh")
        assert group.take(finish(ring)[0]) == b"defgh"


def test_buffers_of_a_completion_that_is_skipped_go_back_to_the_kernel():
    with clean_ring() as ring, tcp_pair() as (client, server):
        group = ring.register_buf_ring(1, 8)
        ring.prep_recv(server, None).buffer_select(group).flags |= SqeFlags.CQE_SKIP_SUCCESS
        client.send(b"abc")
        ring.prep_timeout(0.05)
        assert finish(ring)[0].res == -errno.ETIME
        assert ring.copy_cqes() == []
        assert group.available() == 1
