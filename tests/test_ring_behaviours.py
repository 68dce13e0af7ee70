"""Behaviours of io_uring that an event loop leans on, over every kind of ring.

The others of the kind stand in the files of their themes; docs/ring/behaviours.md lists them all.
"""

import contextlib
import errno
import mmap
import os
import random
import select
import socket
import threading
import time

import pytest

from ferrule.ring import (
    CancelFlags,
    CqeFlags,
    Ring,
    SetupFlags,
    SqFlags,
    TimeoutFlags,
    leaked_operations,
)
from ring_support import CANCELED, DEFER, clean_ring, each_setup, finish, results, tcp_pair

# ---- submitting and waiting -------------------------------------------------------------


@each_setup
def test_submit_and_wait_tells_what_was_submitted_and_waits_once(flags):
    with clean_ring(flags=flags) as ring:
        ring.prep_nop("first")
        ring.prep_nop("second")
        assert ring.submit_and_wait(2) == 2
        began = time.monotonic()
        assert ring.submit_and_wait(2) == 0  # both are there already
        assert time.monotonic() - began < 1
        assert [cqe.user_data for cqe in ring.copy_cqes()] == ["first", "second"]


@each_setup
def test_wait_for_more_than_one_returns_only_with_all(flags):
    with clean_ring(flags=flags) as ring:
        for index in range(3):
            ring.prep_timeout(0.02 * index + 0.01, user_data=index)
        began = time.monotonic()
        ring.submit_and_wait(3)
        assert time.monotonic() - began >= 0.049
        assert [cqe.user_data for cqe in ring.copy_cqes()] == [0, 1, 2]


@each_setup
def test_completion_queue_can_be_filled_to_the_brim(flags):
    with clean_ring(4, flags=flags, cq_entries=8) as ring:
        for filled in (4, 8):
            for _ in range(4):
                ring.prep_nop()
            ring.submit_and_wait_timeout(filled, 5)
        assert ring.cq_ready() == 8
        assert not ring.cq_has_overflow()
        assert len(ring.copy_cqes()) == 8
        assert ring.cq_ready() == 0


def test_deferred_completions_appear_only_when_the_ring_is_entered():
    with clean_ring(flags=DEFER) as ring, tcp_pair() as (client, server):
        ring.prep_poll_add(server, select.POLLIN)
        ring.submit()
        client.send(b"x")
        time.sleep(0.05)
        assert ring.cq_ready() == 0
        ring.get_events()
        assert ring.cq_ready() == 1
        assert ring.copy_cqe().res & select.POLLIN


def test_ring_with_the_flag_says_that_deferred_work_waits():
    with (
        clean_ring(flags=DEFER | SetupFlags.TASKRUN_FLAG) as ring,
        tcp_pair() as (client, server),
    ):
        ring.prep_poll_add(server, select.POLLIN)
        ring.submit()
        assert not ring.sq.flags & SqFlags.TASKRUN
        client.send(b"x")
        deadline = time.monotonic() + 5
        while not ring.sq.flags & SqFlags.TASKRUN:
            assert time.monotonic() < deadline
        assert ring.copy_cqes()[0].res & select.POLLIN
        assert not ring.sq.flags & SqFlags.TASKRUN


def test_descriptor_of_a_deferring_ring_polls_readable_before_it_is_entered():
    with clean_ring(flags=DEFER) as ring, tcp_pair() as (client, server):
        ring.prep_recv(server, bytearray(1))
        ring.submit()
        assert select.select([ring], [], [], 0) == ([], [], [])
        client.send(b"x")
        assert select.select([ring], [], [], 5)[0] == [ring]
        assert ring.copy_cqes()[0].res == 1


@each_setup
def test_wait_that_times_out_still_delivers_what_happened_meanwhile(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        ring.prep_recv(server, bytearray(1), user_data="recv")
        ring.submit()
        sender = threading.Timer(0.02, client.send, [b"x"])
        sender.start()
        ring.submit_and_wait_timeout(2, 0.2)
        assert ring.cq_ready() == 1
        assert ring.copy_cqe().user_data == "recv"
        sender.join()


# ---- timeouts -----------------------------------------------------------------------------


@each_setup
@pytest.mark.parametrize(
    ("clock", "flag"),
    [(time.CLOCK_MONOTONIC, 0), (time.CLOCK_BOOTTIME, TimeoutFlags.BOOTTIME),
     (time.CLOCK_REALTIME, TimeoutFlags.REALTIME)])
def test_timeout_at_a_time_of_each_clock(flags, clock, flag):
    with clean_ring(flags=flags) as ring:
        due = time.clock_gettime(clock) + 0.03
        ring.prep_timeout(due, flags=TimeoutFlags.ABS | flag)
        assert finish(ring)[0].res == -errno.ETIME
        assert -0.001 < time.clock_gettime(clock) - due < 1
        ring.prep_timeout(time.clock_gettime(clock) - 10, flags=TimeoutFlags.ABS | flag)
        assert finish(ring)[0].res == -errno.ETIME


@each_setup
def test_expired_timeout_breaks_a_link_unless_told_that_it_is_a_success(flags):
    with clean_ring(flags=flags) as ring:
        ring.prep_timeout(0.001, user_data="timeout").link()
        ring.prep_nop("next")
        assert results(finish(ring, 2)) == {"timeout": -errno.ETIME, "next": CANCELED}
        ring.prep_timeout(0.001, flags=TimeoutFlags.ETIME_SUCCESS, user_data="timeout").link()
        ring.prep_nop("next")
        assert results(finish(ring, 2)) == {"timeout": -errno.ETIME, "next": 0}


# ---- polls ----------------------------------------------------------------------------------


@each_setup
def test_multishot_poll_that_overflows_loses_no_event(flags):
    with contextlib.ExitStack() as stack:
        ring = stack.enter_context(clean_ring(2, flags=flags, cq_entries=2))
        pairs = [stack.enter_context(tcp_pair()) for _ in range(8)]
        for index, (_, server) in enumerate(pairs):
            ring.prep_poll_multishot(server, select.POLLIN, user_data=index)
            ring.submit()
            while ring.sq_ready():
                time.sleep(0.001)
        for client, _ in pairs:
            client.send(b"x")
        time.sleep(0.05)
        seen, ended = set(), set()
        while len(seen) < 8:
            cqe = ring.copy_cqe(timeout=5)
            assert cqe.res & select.POLLIN
            seen.add(cqe.user_data)
            if not cqe.more:
                ended.add(cqe.user_data)
        assert seen == set(range(8))
        assert ring.cq_overflow() == 0
        # Those that overflowed may have been ended by it: they say so.
        for index in seen - ended:
            ring.prep_cancel(index, user_data=f"cancel {index}")
            ring.submit()
            while index not in ended:
                cqe = ring.copy_cqe(timeout=5)
                if not cqe.more:
                    ended.add(cqe.user_data)
        while ring.statistics().in_flight:
            ring.copy_cqe(timeout=5)


@each_setup
def test_multishot_poll_misses_nothing_while_another_thread_writes(flags):
    with clean_ring(flags=flags) as ring:
        reader, writer = os.pipe2(os.O_NONBLOCK)
        ring.prep_poll_multishot(reader, select.POLLIN, user_data="poll")
        ring.submit()
        count = 500
        got = 0

        def write():
            for _ in range(count):
                os.write(writer, b"x")

        thread = threading.Thread(target=write)
        thread.start()
        while got < count:
            cqe = ring.copy_cqe(timeout=5)
            if not cqe.more:  # the queue was full: the kernel ends it there
                ring.prep_poll_multishot(reader, select.POLLIN, user_data="poll")
                ring.submit()
            with contextlib.suppress(BlockingIOError):
                got += len(os.read(reader, count))
        thread.join()
        ring.prep_cancel("poll", user_data="cancel")
        ring.submit()
        while ring.statistics().in_flight:
            ring.copy_cqe(timeout=5)
        os.close(reader)
        os.close(writer)


# ---- files ----------------------------------------------------------------------------------


@each_setup
@pytest.mark.parametrize("direct", [False, True], ids=["buffered", "direct"])
@pytest.mark.parametrize("vectored", [False, True], ids=["plain-call", "vectored"])
def test_file_read_back_is_the_file_written(flags, direct, vectored, tmp_path):
    block, count = 4096, 32
    source = mmap.mmap(-1, block * count)
    target = mmap.mmap(-1, block * count)
    source.write(random.Random(1).randbytes(block * count))
    order = random.Random(2).sample(range(count), count)
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT | (os.O_DIRECT if direct else 0))
    with clean_ring(flags=flags) as ring, memoryview(source) as out, memoryview(target) as into:
        for plain, several, memory in [
            (ring.prep_write, ring.prep_writev, out), (ring.prep_read, ring.prep_readv, into),
        ]:
            for start in range(0, count, 8):
                for index in order[start:start + 8]:
                    part = memory[index * block:(index + 1) * block]
                    if vectored:
                        several(fd, [part[:512], part[512:]], index * block)
                    else:
                        plain(fd, part, index * block)
                assert [cqe.res for cqe in finish(ring, 8)] == [block] * 8
        assert into == out
    os.close(fd)


@each_setup
def test_last_close_of_a_file_is_done_while_the_ring_waits(flags):
    # The kernel puts off the end of a pipe's last descriptor; a linked wait must still see it.
    with clean_ring(flags=flags) as ring:
        reader, writer = os.pipe()
        buffer = bytearray(1)
        ring.prep_read(reader, buffer, user_data="read")
        ring.prep_close(writer, user_data="close")
        assert results(finish(ring, 2)) == {"read": 0, "close": 0}
        os.close(reader)


# ---- provided buffers -----------------------------------------------------------------------


@each_setup
def test_buffers_go_round_for_many_connections_without_loss(flags):
    randomly = random.Random(7)
    with contextlib.ExitStack() as stack:
        ring = stack.enter_context(clean_ring(64, flags=flags))
        pairs = [stack.enter_context(tcp_pair()) for _ in range(8)]
        group = ring.register_buf_ring(16, 32)
        sent = [b""] * 8
        received = [b""] * 8
        for index, (_, server) in enumerate(pairs):
            ring.prep_recv_multishot(server, group, user_data=index)
        ring.submit()
        held = []
        for _ in range(400):
            index = randomly.randrange(8)
            data = randomly.randbytes(randomly.randrange(1, 100))
            pairs[index][0].send(data)
            sent[index] += data
            held += ring.copy_cqes(8, 0)
            while held and randomly.random() < 0.9:
                take(ring, group, held.pop(0), received, pairs)
        while received != sent:
            held += ring.copy_cqes(64, 1, 5)
            while held:
                take(ring, group, held.pop(0), received, pairs)
        ring.prep_cancel(flags=CancelFlags.ANY | CancelFlags.ALL)
        ring.submit()
        while ring.statistics().in_flight:
            ring.copy_cqe(timeout=5)


def take(ring, group, cqe, received, pairs):
    if cqe.res > 0:
        received[cqe.user_data] += group.take(cqe)
    else:
        assert cqe.res == -errno.ENOBUFS
    if not cqe.more:
        ring.prep_recv_multishot(pairs[cqe.user_data][1], group, user_data=cqe.user_data)
        ring.submit()


# ---- the end of things ----------------------------------------------------------------------


@each_setup
def test_operations_of_a_thread_that_ended_are_over(flags):
    before = leaked_operations()
    left, right = socket.socketpair()
    rings = []

    def begin():
        ring = Ring(8, flags=flags)
        ring.prep_recv(left, bytearray(8))
        ring.submit()
        rings.append(ring)

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    ring = rings.pop()
    assert ring.statistics().in_flight == 1
    ring.close()
    if not flags & SetupFlags.DEFER_TASKRUN:  # whose last completion needs the thread that is gone
        assert leaked_operations() == before
    right.send(b"for somebody else")
    assert left.recv(100) == b"for somebody else"
    left.close()
    right.close()


def test_descriptor_of_a_ring_can_be_neither_registered_nor_passed_on():
    # The kernel could not collect cycles of rings and sockets that carry each other.
    left, right = socket.socketpair()
    with clean_ring() as ring, clean_ring() as other, left, right:
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            ring.register_files([other])
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            socket.send_fds(left, [b"x"], [ring.fileno()])
        other.prep_poll_add(ring, select.POLLIN)  # what may still be done with it
        other.submit()
        ring.prep_nop()
        ring.submit_and_wait(1)
        assert other.copy_cqe(timeout=5).res & select.POLLIN
        assert ring.copy_cqe().res == 0


def test_flags_of_a_completion_have_names():
    with clean_ring() as ring, tcp_pair() as (client, server):
        ring.prep_recv(server, bytearray(1))
        client.send(b"xy")
        cqe = finish(ring)[0]
        assert cqe.sock_nonempty
        assert CqeFlags(cqe.flags) == CqeFlags.SOCK_NONEMPTY
