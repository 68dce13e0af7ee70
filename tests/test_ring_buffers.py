"""Provided buffers: rings of them, receives that pick from them, and running dry."""

import errno
import gc
import os
import socket
import weakref

import pytest

from ferrule.ring import CqeFlags, Ring, SqeFlags
from ring_support import CANCELED, clean_ring, each_setup, finish, results, tcp_pair


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
