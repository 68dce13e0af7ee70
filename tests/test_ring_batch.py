"""The fast level: operations prepared from arrays and completed into arrays."""

import collections
import contextlib
import ctypes
import errno
import gc
import os
import random
import signal
import socket
import struct
import threading
import time
import weakref
from array import array

import pytest

from ferrule.ring import (
    BatchQueue,
    CancelFlags,
    MsgRingFlags,
    NotSupported,
    Op,
    Ring,
    SetupFlags,
    SqeFlags,
    leaked_operations,
)
from ring_support import (
    CANCELED,
    DEFER,
    clean_ring,
    each_layout,
    each_setup,
    finish,
    unavailable,
    with_the_gil,
)

BLOCK = 4096
BLOCKS = 8


def int32(*values):
    return array("i", values)


def uint32(*values):
    return array("I", values)


def int64(*values):
    return array("q", values)


def uint64(*values):
    return array("Q", values)


def taken(queue, room=64, **options):
    """What complete() gives, as (tag, result) pairs."""
    results, tags = array("i", [0]) * room, array("Q", [0]) * room
    n = queue.complete(results, tags, **options)
    return list(zip(tags[:n], results[:n], strict=True))


def completed(queue, count, room=64):
    """Submit, and wait for `count` completions, which must be all: result by tag."""
    results, tags = array("i", [0]) * room, array("Q", [0]) * room
    n = queue.submit_and_complete(results, tags, wait_nr=count, timeout=5)
    assert n == count
    assert queue.in_flight == 0
    return dict(zip(tags[:n], results[:n], strict=True))


@contextlib.contextmanager
def queue_on(flags, memory=None, *, entries=8, capacity=8, **options):
    """(ring, queue), both of which must end clean."""
    with (clean_ring(entries, flags=flags, **options) as ring,
          ring.batch_queue(capacity, memory) as queue):
        yield ring, queue
        if not queue.closed:
            assert queue.in_flight == 0


@pytest.fixture
def file(tmp_path):
    """Eight blocks, each full of its number."""
    path = tmp_path / "blocks"
    path.write_bytes(b"".join(bytes([number]) * BLOCK for number in range(BLOCKS)))
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


# ---- what the operations do -------------------------------------------------------------------


@each_layout
def test_nops_complete_with_their_tags(flags):
    with queue_on(flags) as (ring, queue):
        assert queue.prep_nop(3) == 3
        assert queue.prep_nop(2, uint64(70, 2**64 - 1)) == 2
        assert queue.in_flight == 5
        assert ring.submit() == 5
        assert taken(queue, wait_nr=5) == [(0, 0), (1, 0), (2, 0), (70, 0), (2**64 - 1, 0)]


@each_layout
def test_reads_go_where_the_arrays_say(flags, file):
    memory = bytearray(4 * BLOCK)
    with queue_on(flags, memory) as (_, queue):
        starts, offsets = int64(3 * BLOCK, 0, BLOCK), int64(BLOCK, 7 * BLOCK, 2 * BLOCK)
        assert queue.prep_read(file, starts, BLOCK, offsets) == 3
        assert completed(queue, 3) == {0: BLOCK, 1: BLOCK, 2: BLOCK}
        assert [memory[i * BLOCK] for i in range(4)] == [7, 2, 0, 1]
        assert memory[3 * BLOCK:] == b"\1" * BLOCK


@each_setup
def test_writes_come_from_where_the_arrays_say(flags, file):
    memory = bytearray(b"a" * 10 + b"b" * 20)
    with queue_on(flags, memory) as (_, queue):
        assert queue.prep_write(file, int64(10, 0), uint32(20, 10), int64(100, 0)) == 2
        assert completed(queue, 2) == {0: 20, 1: 10}
    assert os.pread(file, 12, 0) == b"a" * 10 + b"\0\0"
    assert os.pread(file, 22, 99) == b"\0" + b"b" * 20 + b"\0"


@each_setup
def test_slices_follow_one_another_from_a_start_that_is_one_number(flags, file):
    memory = bytearray(b"." * 100)
    with queue_on(flags, memory) as (_, queue):
        assert queue.prep_read(file, 5, uint32(3, 0, 2), int64(0, 0, 2 * BLOCK)) == 3
        assert completed(queue, 3) == {0: 3, 1: 0, 2: 2}
        assert queue.prep_read(file, 20, 2, int64(BLOCK, 3 * BLOCK)) == 2
        assert completed(queue, 2) == {0: 2, 1: 2}
    assert memory[:12] == b".....\0\0\0\2\2.."
    assert memory[19:25] == b".\1\1\3\3."


@each_setup
def test_one_number_serves_every_operation(flags, file):
    memory = bytearray(3 * BLOCK)
    with queue_on(flags, memory) as (_, queue):
        assert queue.prep_read(file, 0, BLOCK, BLOCK, tags=uint64(7, 8, 9)) == 3
        assert completed(queue, 3) == {7: BLOCK, 8: BLOCK, 9: BLOCK}
    assert memory == b"\1" * (3 * BLOCK)


@each_setup
def test_offset_minus_one_is_the_position_of_the_file(flags, file):
    memory = bytearray(2 * BLOCK)
    os.lseek(file, 2 * BLOCK, os.SEEK_SET)
    with queue_on(flags, memory) as (_, queue):
        for _ in range(2):
            assert queue.prep_read(file, int64(0), BLOCK, -1) == 1
            assert completed(queue, 1) == {0: BLOCK}
        assert memory[0] == 3
    assert os.lseek(file, 0, os.SEEK_CUR) == 4 * BLOCK


@each_setup
def test_reads_come_short_at_the_end_of_the_file(flags, file):
    memory = bytearray(3 * BLOCK)
    end = BLOCKS * BLOCK
    with queue_on(flags, memory) as (_, queue):
        assert queue.prep_read(file, 0, BLOCK, int64(end - BLOCK, end - 100, end + 5)) == 3
        assert completed(queue, 3) == {0: BLOCK, 1: 100, 2: 0}


@each_setup
def test_one_bad_descriptor_among_many_fails_alone(flags, file):
    memory = bytearray(3 * BLOCK)
    with queue_on(flags, memory) as (_, queue):
        assert queue.prep_read(int32(file, 12345, file), 0, BLOCK, 0) == 3
        assert completed(queue, 3) == {0: BLOCK, 1: -errno.EBADF, 2: BLOCK}


@each_setup
def test_sends_and_receives(flags, pair):
    left, right = pair
    memory = bytearray(b"onetwo......")
    with queue_on(flags, memory) as (_, queue):
        assert queue.prep_send(left.fileno(), 0, uint32(3, 3), flags=SqeFlags.IO_LINK) == 2
        assert completed(queue, 2) == {0: 3, 1: 3}
        assert right.recv(10, socket.MSG_PEEK) == b"onetwo"
        assert queue.prep_recv(int32(right.fileno()), 6, 6, msg_flags=socket.MSG_PEEK) == 1
        assert completed(queue, 1) == {0: 6}
        assert memory == b"onetwoonetwo"
        right.close()
        assert queue.prep_send(int32(left.fileno()), 0, 3) == 1
        assert completed(queue, 1) == {0: -errno.EPIPE}  # and no SIGPIPE


@each_setup
def test_registered_files_are_named_by_their_index(flags, file):
    memory = bytearray(2 * BLOCK)
    with queue_on(flags, memory) as (ring, queue):
        ring.register_files([-1, file])
        assert queue.prep_read(
            int32(1, 0), 0, BLOCK, 5 * BLOCK, flags=SqeFlags.FIXED_FILE) == 2
        assert completed(queue, 2) == {0: BLOCK, 1: -errno.EBADF}
        ring.unregister_files()
    assert memory[0] == 5


@each_setup
def test_registered_memory_is_read_and_written(flags, file):
    memory = bytearray(4 * BLOCK)
    with clean_ring(flags=flags) as ring:
        [registered] = ring.register_buffers([memory])
        with ring.batch_queue(8, registered) as queue:
            assert queue.memory is registered
            assert queue.prep_read_fixed(file, 0, BLOCK, int64(BLOCK, 6 * BLOCK)) == 2
            assert completed(queue, 2) == {0: BLOCK, 1: BLOCK}
            assert (memory[0], memory[BLOCK]) == (1, 6)
            assert queue.prep_write_fixed(file, int64(BLOCK), BLOCK, 0, 0) == 1
            assert completed(queue, 1) == {0: BLOCK}
            assert os.pread(file, 1, 0) == b"\6"
        with ring.batch_queue(8, memoryview(memory)[BLOCK:]) as queue:
            assert queue.prep_read_fixed(file, int64(0), BLOCK, 3 * BLOCK, 0) == 1
            assert completed(queue, 1) == {0: BLOCK}
            assert memory[BLOCK] == 3
            with pytest.raises(TypeError, match="buf_index is needed"):
                queue.prep_read_fixed(file, int64(0), BLOCK, 0)
            with pytest.raises(ValueError, match="outside the 1 registered buffers"):
                queue.prep_read_fixed(file, int64(0), BLOCK, 0, 1)
        with (ring.batch_queue(8, bytearray(BLOCK)) as queue,
              pytest.raises(ValueError, match="does not lie inside registered buffer 0")):
            queue.prep_write_fixed(file, int64(0), BLOCK, 0, 0)
        ring.unregister_buffers()


@each_setup
def test_links_break_at_a_short_read_and_hard_links_do_not(flags, file):
    memory = bytearray(3 * BLOCK)
    offsets = int64(0, BLOCKS * BLOCK - 1, 0)
    with queue_on(flags, memory) as (_, queue):
        assert queue.prep_read(file, 0, BLOCK, offsets, flags=SqeFlags.IO_LINK) == 3
        assert completed(queue, 3) == {0: BLOCK, 1: 1, 2: CANCELED}
        assert queue.prep_read(file, 0, BLOCK, offsets, flags=SqeFlags.IO_HARDLINK) == 3
        assert completed(queue, 3) == {0: BLOCK, 1: 1, 2: BLOCK}


@each_setup
def test_flags_may_differ_from_one_operation_to_the_next(flags, file):
    memory = bytearray(4 * BLOCK)
    end = BLOCKS * BLOCK
    chained = array("B", [SqeFlags.IO_LINK, 0, SqeFlags.IO_LINK | SqeFlags.ASYNC, 0])
    with queue_on(flags, memory) as (_, queue):
        assert queue.prep_read(file, 0, BLOCK, int64(end, 0, 0, 0), flags=chained) == 4
        assert completed(queue, 4) == {0: 0, 1: CANCELED, 2: BLOCK, 3: BLOCK}


@each_setup
def test_the_last_of_a_linked_batch_is_linked_to_what_comes_next(flags, file):
    memory = bytearray(b"new")
    with queue_on(flags, memory) as (ring, queue):
        assert queue.prep_write(file, int64(0), 3, 0, flags=SqeFlags.IO_LINK) == 1
        ring.prep_fsync(file, user_data="fsync")
        queue.prep_write(int32(12345), 0, 3, 0, flags=SqeFlags.IO_LINK)
        ring.prep_fsync(file, user_data="canceled")
        ring.submit_and_wait(4)
        assert sorted(taken(queue)) == [(0, -errno.EBADF), (0, 3)]
        assert {cqe.user_data: cqe.res for cqe in ring.copy_cqes()} == {
            "fsync": 0, "canceled": CANCELED}


@each_setup
def test_drain_starts_when_all_before_it_have_completed(flags, file):
    memory = bytearray(b"new" + bytes(5))
    with queue_on(flags, memory) as (_, queue):
        queue.prep_write(file, int64(0), 3, 10, tags=uint64(1))
        queue.prep_read(file, int64(3), 5, 9, tags=uint64(2), flags=SqeFlags.IO_DRAIN)
        assert completed(queue, 2) == {1: 3, 2: 5}
        assert memory[3:] == b"\0new\0"


# ---- room -------------------------------------------------------------------------------------


@each_layout
def test_fewer_are_queued_when_the_submission_queue_is_full(flags):
    with queue_on(flags, entries=4, capacity=16) as (ring, queue):
        assert queue.prep_nop(10) == 4
        assert queue.prep_nop(10) == 0
        assert ring.sq_space_left() == 0
        assert completed(queue, 4) == {0: 0, 1: 0, 2: 0, 3: 0}


@each_layout
def test_fewer_are_queued_when_the_capacity_is_used_up(flags, file):
    memory = bytearray(BLOCK)
    with queue_on(flags, memory, capacity=3) as (ring, queue):
        assert queue.capacity == 3
        assert queue.prep_read(file, int64(*range(5)), 1, 0) == 3
        ring.submit_and_wait(3)
        assert queue.prep_nop(1) == 0, "completed, and not yet taken"
        ring.cq_ready()  # which puts them aside
        assert queue.prep_nop(1) == 0
        assert len(taken(queue, room=2)) == 2
        assert queue.prep_nop(5) == 2
        assert len(taken(queue)) == 1
        assert len(completed(queue, 2)) == 2


@each_layout
def test_completions_beyond_the_room_of_results_stay(flags):
    with queue_on(flags) as (ring, queue):
        queue.prep_nop(5)
        ring.submit_and_wait(5)
        assert taken(queue, room=2) == [(0, 0), (1, 0)]
        assert queue.in_flight == 3
        assert taken(queue, room=0) == []
        assert ring.cq_ready() == 0, "they are not the convenient level's"
        assert taken(queue, room=2) == [(2, 0), (3, 0)]
        assert taken(queue, room=2) == [(4, 0)]


@each_layout
def test_nothing_is_queued_for_empty_arrays(flags, file):
    with queue_on(flags, bytearray(1)) as (ring, queue):
        assert queue.prep_nop(0) == 0
        assert queue.prep_read(file, int64(), 1, 0) == 0
        assert ring.sq_ready() == 0
        assert queue.submit_and_complete(int32()) == 0


@each_layout
def test_both_queues_wrap_around_many_times(flags):
    with queue_on(flags, entries=8, capacity=64, cq_entries=16) as (ring, queue):
        for turn in range(200):
            wanted = turn % 8 + 1
            tags = uint64(*range(turn, turn + wanted))
            if wanted < 8 and turn % 3 == 0:
                ring.prep_nop("between")
            while ring.sq_space_left() < wanted:  # a SQPOLL thread has not come round yet
                time.sleep(0)
            assert queue.prep_nop(wanted, tags) == wanted
            assert completed(queue, wanted) == dict.fromkeys(tags, 0)
            ring.copy_cqes()


@each_layout
def test_more_completions_than_the_queue_holds_are_all_taken(flags):
    with queue_on(flags, entries=8, capacity=100, cq_entries=8) as (ring, queue):
        queued = 0
        while queued < 100:
            queued += queue.prep_nop(100 - queued, uint64(*range(queued, 100)))
            ring.submit()
        assert queue.in_flight == 100
        results, tags = array("i", [1]) * 100, array("Q", [0]) * 100
        assert queue.complete(results, tags, wait_nr=100, timeout=5) == 100
        assert sorted(tags) == list(range(100))
        assert set(results) == {0}
        assert not ring.cq_has_overflow()


# ---- both levels on one ring -------------------------------------------------------------------


@each_layout
def test_batch_completions_are_taken_from_between_others_which_keep_their_order(flags):
    with queue_on(flags) as (ring, queue):
        for name in "abc":
            ring.prep_nop(name)
            queue.prep_nop(1, uint64(ord(name)))
        ring.submit_and_wait(6)
        assert taken(queue) == [(97, 0), (98, 0), (99, 0)]
        assert [cqe.user_data for cqe in ring.copy_cqes()] == ["a", "b", "c"]


@each_layout
def test_convenient_calls_put_batch_completions_aside(flags):
    with queue_on(flags) as (ring, queue):
        queue.prep_nop(2)
        ring.prep_nop("a")
        queue.prep_nop(1, uint64(2))
        ring.prep_nop("b")
        ring.submit_and_wait(5)
        assert ring.cq_ready() == 2
        assert ring.peek_cqe().user_data == "a"
        assert taken(queue, room=1) == [(0, 0)]
        ring.cqe_seen(ring.wait_cqe())
        assert [cqe.user_data for cqe in ring.copy_cqes(1)] == ["b"]
        assert ring.copy_cqes() == []
        assert taken(queue) == [(1, 0), (2, 0)]


@each_layout
def test_what_was_peeked_is_still_the_first_after_batch_completions_were_taken(flags):
    with queue_on(flags) as (ring, queue):
        ring.prep_nop("a")
        ring.prep_nop("b")
        ring.submit_and_wait(2)
        first = ring.peek_cqe()
        queue.prep_nop(3)
        assert len(completed(queue, 3)) == 3
        ring.cqe_seen(first)
        ring.cq_advance(1)
        with pytest.raises(ValueError, match="only 0 completions"):
            ring.cq_advance(1)


@each_layout
def test_hidden_batch_and_convenient_completions_in_one_queue(flags):
    with queue_on(flags, entries=32, capacity=32) as (ring, queue):
        for number in range(8):
            ring.prep_nop("hidden").flags = SqeFlags.CQE_SKIP_SUCCESS
            queue.prep_nop(1, uint64(number))
            ring.prep_nop(number)
        ring.submit_and_wait_timeout(16, 5)
        assert [cqe.user_data for cqe in ring.copy_cqes(3)] == [0, 1, 2]
        assert [tag for tag, _ in taken(queue, room=3)] == [0, 1, 2]
        assert ring.cq_ready() == 5
        assert [tag for tag, _ in taken(queue)] == [3, 4, 5, 6, 7]
        assert [cqe.user_data for cqe in ring.copy_cqes()] == [3, 4, 5, 6, 7]


@each_layout
def test_a_wait_counts_its_own_kind_only(flags):
    with queue_on(flags) as (ring, queue):
        queue.prep_nop(4)
        ring.submit_and_wait(4)
        assert ring.copy_cqes(8, 1, 0.01) == []
        with pytest.raises(TimeoutError):
            ring.wait_cqe(0.01)
        assert len(taken(queue)) == 4
        ring.prep_nop("a")
        ring.prep_timeout(10, user_data="never")
        ring.submit_and_wait(1)
        with ring.batch_queue(8) as other:
            assert taken(other, wait_nr=1, timeout=5) == [], "it has nothing to wait for"
        queue.prep_nop(1)
        assert taken(queue, wait_nr=1, timeout=0.01) == [], "it was not submitted"
        assert completed(queue, 1) == {0: 0}
        ring.prep_timeout_remove("never", user_data="removed")
        assert len(finish(ring, 3)) == 3


@each_layout
def test_submit_and_wait_counts_every_kind(flags):
    with queue_on(flags) as (ring, queue):
        queue.prep_nop(2)
        ring.prep_nop("a")
        assert ring.submit_and_wait(3) == 3
        assert ring.cq_ready() == 1  # two are with the queue now
        queue.prep_nop(2)
        assert ring.submit_and_wait_timeout(5, 5) == 2
        assert len(taken(queue)) == 4
        assert len(ring.copy_cqes()) == 1


@each_layout
def test_queues_on_one_ring_get_their_own(flags, file):
    memories = [bytearray(2 * BLOCK) for _ in range(5)]
    with contextlib.ExitStack() as stack:
        ring = stack.enter_context(clean_ring(32, flags=flags))
        queues = [stack.enter_context(ring.batch_queue(4, memory)) for memory in memories]
        for offset in (0, BLOCK):
            for number, queue in enumerate(queues):
                tags = uint64(10 * number + offset // BLOCK)
                assert queue.prep_read(file, int64(offset), BLOCK, BLOCK * number, tags=tags) == 1
        ring.submit_and_wait(10)
        for number in (3, 0, 1, 4, 2):
            assert sorted(taken(queues[number])) == [
                (10 * number, BLOCK), (10 * number + 1, BLOCK)]
    assert memories == [bytes([number]) * 2 * BLOCK for number in range(5)]


@each_layout
def test_a_wait_says_when_completions_of_others_fill_the_queue(flags):
    with queue_on(flags, entries=4, capacity=4, cq_entries=4) as (ring, queue):
        for number in range(4):
            ring.prep_nop(number)
        ring.submit_and_wait(4)
        queue.prep_nop(2)
        ring.submit()
        with pytest.raises(OSError, match="take some with copy_cqes") as caught:
            queue.complete(int32(0, 0), wait_nr=1)
        assert caught.value.errno == errno.EBUSY
        with pytest.raises(OSError, match="take some with copy_cqes"):
            queue.close()
        assert len(ring.copy_cqes()) == 4
        assert len(taken(queue, wait_nr=2)) == 2


# ---- waiting -----------------------------------------------------------------------------------


@each_setup
def test_complete_waits_for_as_many_as_it_is_told(flags, pair):
    left, right = pair
    memory = bytearray(4)
    with queue_on(flags, memory) as (ring, queue):
        assert queue.prep_recv(left.fileno(), 0, 1, tags=uint64(1, 2, 3)) == 3
        ring.submit()
        begun = time.monotonic()
        assert taken(queue, wait_nr=1, timeout=0.05) == []
        assert time.monotonic() - begun >= 0.05
        right.send(b"x")
        assert len(taken(queue, wait_nr=1)) == 1
        right.send(b"y")
        assert len(taken(queue, wait_nr=2, timeout=0.05)) == 1, "those that came in time"
        right.send(b"z")
        assert len(taken(queue, wait_nr=60)) == 1, "all that are in flight"


@each_setup
def test_complete_without_a_wait_takes_what_is_there(flags, pair):
    left, right = pair
    memory = bytearray(4)
    with queue_on(flags, memory) as (ring, queue):
        assert queue.prep_recv(int32(left.fileno()), 0, 1) == 1
        ring.submit()
        assert taken(queue) == []
        right.send(b"x")
        deadline = time.monotonic() + 5
        while not (found := taken(queue)):
            assert time.monotonic() < deadline
        assert found == [(0, 1)]


@each_setup
def test_submit_and_complete_submits_without_waiting(flags):
    with queue_on(flags) as (ring, queue):
        queue.prep_nop(3)
        ring.prep_nop("a")
        results = int32(9, 9, 9)
        assert queue.submit_and_complete(results) in range(4)  # a SQPOLL thread needs a moment
        assert ring.sq_ready() == 0 or flags & SetupFlags.SQPOLL
        queue.complete(int32(9, 9, 9), wait_nr=3)
        assert len(finish(ring)) == 1


@each_setup
def test_a_signal_handler_runs_during_a_wait_and_what_it_raises_loses_nothing(flags, pair):
    left, right = pair
    memory = bytearray(4)

    def interrupt(*_):
        raise InterruptedError("from the handler")

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        with queue_on(flags, memory) as (ring, queue):
            assert queue.prep_recv(left.fileno(), 0, 1, tags=uint64(1, 2)) == 2
            right.send(b"x")
            ring.submit_and_wait(1)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(InterruptedError, match="from the handler"):
                queue.complete(int32(0, 0), wait_nr=2, timeout=5)
            right.send(b"y")
            assert len(taken(queue, wait_nr=2, timeout=5)) == 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


@each_setup
@pytest.mark.parametrize("what", ["ring", "queue"])
def test_a_signal_handler_may_close_what_is_waited_for(flags, what, pair):
    left, _ = pair
    with clean_ring(flags=flags) as ring:
        queue = ring.batch_queue(8, bytearray(1))
        closed = {"ring": ring, "queue": queue}[what]
        old = signal.signal(signal.SIGALRM, lambda *_: closed.close())
        try:
            queue.prep_recv(int32(left.fileno()), 0, 1)
            ring.submit()
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(ValueError, match="closed"):
                queue.complete(int32(0), wait_nr=1, timeout=5)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)


@with_the_gil
def test_other_threads_run_during_a_wait_and_may_prepare(pair):
    left, right = pair
    with queue_on(SetupFlags.COOP_TASKRUN, bytearray(4)) as (ring, queue):
        queue.prep_recv(int32(left.fileno()), 0, 1)
        ring.submit()

        def work():
            time.sleep(0.05)
            with pytest.raises(RuntimeError, match="another thread waits"):
                ring.close()
            queue.prep_nop(1, uint64(5))
            ring.submit()
            right.send(b"x")

        thread = threading.Thread(target=work)
        thread.start()
        assert taken(queue, wait_nr=1, timeout=5) != []
        thread.join()
        taken(queue, wait_nr=1)


def test_a_single_issuer_ring_refuses_other_threads():
    if reason := unavailable(DEFER):
        pytest.skip(reason)
    refused = []

    def call(method, *args):
        try:
            method(*args)
        except RuntimeError as error:
            refused.append(str(error))

    with queue_on(DEFER, bytearray(8)) as (ring, queue):
        calls = [(queue.prep_nop, 1), (queue.complete, int32(0)), (queue.close,),
                 (queue.submit_and_complete, int32(0)), (queue.cancel,), (ring.batch_queue, 1),
                 (queue.prep_read, 0, int64(0), 1, 0)]
        for method, *args in calls:
            thread = threading.Thread(target=call, args=(method, *args))
            thread.start()
            thread.join()
        assert len(refused) == len(calls)
        assert all("belongs to the thread that made it" in text for text in refused)
        assert ring.sq_ready() == 0


# ---- wrong arguments ---------------------------------------------------------------------------

MEMORY = 100
RIGHT = {"fds": int32(0, 0), "starts": int64(0, 0), "lengths": uint32(1, 1), "offsets": int64(0, 0)}
WRONG = [
    ({"fds": int32(0, -1)}, ValueError, r"fds\[1\] must be 0 or more, not -1"),
    ({"fds": -7}, ValueError, r"fds must be 0 or more, not -7"),
    ({"fds": 2**31}, ValueError, r"fds must be from -2147483648 to 2147483647, not 2147483648"),
    ({"fds": 2**80}, ValueError, r"fds must be from"),
    ({"fds": int64(0, 0)}, TypeError, r"fds must be an array of int32, not .* 'q' and 8 bytes"),
    ({"fds": uint32(0, 0)}, TypeError, r"fds must be an array of int32, not .* 'I'"),
    ({"fds": array("f", [0, 0])}, TypeError, r"fds must be an array of int32, not .* 'f'"),
    ({"fds": b"ab"}, TypeError, r"fds must be an array of int32, not .* 'B' and 1 bytes"),
    ({"fds": [0, 0]}, TypeError, r"fds must be an int or an array of int32, not 'list'"),
    ({"fds": None}, TypeError, r"fds must be an int or an array of int32, not 'NoneType'"),
    ({"fds": 0.0}, TypeError, r"fds must be an int or an array of int32, not 'float'"),
    ({"fds": int32(0)}, ValueError, r"one length: starts has 2 items, not 1"),
    ({"fds": memoryview(int32(0, 0, 0, 0))[::2]}, ValueError, r"fds .* no gaps"),
    ({"fds": memoryview(bytes(8)).cast("i", (1, 2))}, ValueError, r"fds must have one dimension"),
    ({"fds": memoryview(bytes(12))[1:9].cast("i")}, ValueError, r"fds must be aligned"),
    ({"starts": int64(0, -1)}, ValueError, r"starts\[1\]: 1 bytes from -1 are outside .* 100"),
    ({"starts": int64(100, 0)}, ValueError, r"starts\[0\]: 1 bytes from 100 are outside"),
    ({"starts": int64(0, 2**63 - 1)}, ValueError, r"starts\[1\]"),
    ({"starts": 99}, ValueError, r"starts\[1\]: 1 bytes from 100 are outside"),
    ({"starts": -1}, ValueError, r"starts\[0\]: 1 bytes from -1 are outside"),
    ({"starts": int32(0, 0)}, TypeError, r"starts must be an array of int64"),
    ({"starts": array("d", [0, 0])}, TypeError, r"starts .* 'd' and 8 bytes"),
    ({"lengths": uint32(1, 101)}, ValueError, r"starts\[1\]: 101 bytes from 0 are outside"),
    ({"lengths": uint32(2**31, 1)}, ValueError, r"lengths\[0\] must be at most 2147479552"),
    ({"lengths": 2**31}, ValueError, r"lengths must be at most 2147479552, not 2147483648"),
    ({"lengths": -1}, ValueError, r"lengths must be from 0 to 4294967295, not -1"),
    ({"lengths": int32(1, 1)}, TypeError, r"lengths must be an array of uint32"),
    ({"offsets": int64(0, -2)}, ValueError, r"offsets\[1\] must be 0 or more, or -1 .* not -2"),
    ({"offsets": -2}, ValueError, r"offsets must be 0 or more, or -1"),
    ({"offsets": 2**63}, ValueError, r"offsets must be from"),
    ({"offsets": "0"}, TypeError, r"offsets must be an int or an array of int64 .*, not 'str'"),
    ({"starts": uint64(0, 2**63)}, ValueError, r"starts\[1\]"),
    ({"offsets": uint64(0, 2**63)}, ValueError, r"offsets\[1\] must be 0 or more"),
    ({"tags": uint32(0, 0)}, TypeError, r"tags must be an array of int64 or uint64"),
    ({"tags": uint64(0)}, ValueError, r"one length: tags has 1 items, not 2"),
    ({"tags": 5}, TypeError, r"tags must be an array of int64 or uint64, not 'int'"),
    ({"flags": SqeFlags.CQE_SKIP_SUCCESS}, ValueError, r"flags may have FIXED_FILE, .* not 64"),
    ({"flags": SqeFlags.BUFFER_SELECT}, ValueError, r"flags may have FIXED_FILE, .* not 32"),
    ({"flags": array("B", [0, 128])}, ValueError, r"flags\[1\] may have FIXED_FILE, .* not 128"),
    ({"flags": 256}, ValueError, r"flags must be from 0 to 255, not 256"),
    ({"fds": 0, "starts": 0, "lengths": 1, "offsets": 0}, ValueError, r"how many\?"),
]


@pytest.mark.parametrize(("wrong", "error", "text"), WRONG)
def test_wrong_arrays_are_refused_and_nothing_is_queued(wrong, error, text):
    with queue_on(0, bytearray(MEMORY)) as (ring, queue):
        for prep in (queue.prep_read, queue.prep_write):
            with pytest.raises(error, match=text):
                prep(**{**RIGHT, **wrong})
        assert (ring.sq_ready(), queue.in_flight, ring.statistics().in_flight) == (0, 0, 0)
        assert queue.prep_nop(8) == 8
        assert len(completed(queue, 8)) == 8


def test_values_behind_those_that_fit_are_looked_at_when_their_turn_comes():
    fds = int32(-1, *[12345] * 8, -1)
    with queue_on(0, bytearray(1), entries=8) as (_, queue):
        assert queue.prep_read(memoryview(fds)[1:], int64(*[0] * 9), 1, 0) == 8
        assert set(completed(queue, 8).values()) == {-errno.EBADF}
        with pytest.raises(ValueError, match=r"fds\[0\] must be 0 or more"):
            queue.prep_read(memoryview(fds)[9:], int64(0), 1, 0)


@pytest.mark.parametrize(("arguments", "error", "text"), [
    ((b"1234",), TypeError, "results must be an array of int32, not of items with .* 'B'"),
    ((memoryview(bytes(4)).cast("i"),), TypeError, "results must be writable"),
    ((int64(0),), TypeError, "results must be an array of int32"),
    ((3,), TypeError, "results must be an array of int32, not 'int'"),
    ((None,), TypeError, "results must be an array of int32, not 'NoneType'"),
    ((int32(0), uint64(0, 0)), ValueError, "one length: tags has 2 items, not 1"),
    ((int32(0), array("d", [0])), TypeError, "tags must be an array of int64 or uint64"),
    ((int32(0), memoryview(bytes(8)).cast("Q")), TypeError, "tags must be writable"),
    ((memoryview(int32(0, 0, 0))[::2],), ValueError, "results .* no gaps"),
])
def test_wrong_places_for_results_are_refused_and_nothing_is_lost(arguments, error, text):
    with queue_on(0) as (ring, queue):
        queue.prep_nop(1)
        for complete in (queue.complete, queue.submit_and_complete):
            with pytest.raises(error, match=text):
                complete(*arguments, wait_nr=1)
        assert ring.sq_ready() == 1, "not even submitted"
        assert completed(queue, 1) == {0: 0}


@pytest.mark.parametrize(("options", "error", "text"), [
    ({"wait_nr": 3}, ValueError, "wait_nr must be from 0 to 2, the items of results, not 3"),
    ({"wait_nr": -1}, ValueError, "wait_nr must be from 0 to 2"),
    ({"wait_nr": 1.5}, TypeError, "integer"),
    ({"wait_nr": 1, "timeout": -1}, ValueError, "timeout must be a non-negative number"),
    ({"wait_nr": 1, "timeout": float("nan")}, ValueError, "timeout must be a non-negative"),
    ({"timeout": "1"}, TypeError, "real number"),
])
def test_wrong_waits_are_refused(options, error, text):
    with queue_on(0) as (_, queue), pytest.raises(error, match=text):
        queue.complete(int32(0, 0), **options)


def test_wrong_counts_and_capacities_are_refused(file):
    with queue_on(0) as (ring, queue):
        with pytest.raises(ValueError, match="count must not be negative"):
            queue.prep_nop(-1)
        with pytest.raises(TypeError):
            queue.prep_nop("1")
        with pytest.raises(ValueError, match="one length: tags has 1 items, not 2"):
            queue.prep_nop(2, uint64(0))
        for capacity in (0, -1, 2**20 + 1, 2**70):
            with pytest.raises(ValueError, match="capacity must be from 1 to 1048576"):
                ring.batch_queue(capacity)
        with pytest.raises(TypeError, match="read-write bytes-like object"):
            ring.batch_queue(1, b"read-only")
        with pytest.raises(TypeError, match="bytes-like object is required"):
            ring.batch_queue(1, 5)
        with pytest.raises(ValueError, match="this queue has no memory"):
            queue.prep_read(file, int64(0), 0, 0)
        with pytest.raises(ValueError, match="this queue has no memory"):
            queue.prep_read_fixed(file, int64(0), 0, 0)
        with pytest.raises(TypeError):
            BatchQueue()
        assert ring.sq_ready() == 0


def test_arrays_of_other_kinds_with_the_right_items_are_taken(file):
    results, tags = (ctypes.c_int32 * 2)(), memoryview(bytearray(16)).cast("Q")
    with queue_on(0, memoryview(bytearray(2 * BLOCK)).cast("I")) as (_, queue):
        offsets = (ctypes.c_longlong * 2)(BLOCK, 2 * BLOCK)
        numbers = (ctypes.c_uint64 * 2)(5, 6)
        assert queue.prep_read(file, array("l", [0, BLOCK]), BLOCK, offsets, tags=numbers) == 2
        assert queue.submit_and_complete(results, tags, wait_nr=2) == 2
        assert (list(results), list(tags)) == ([BLOCK, BLOCK], [5, 6])
        assert queue.prep_read(file, numbers, 1, numbers, tags=int64(-1, -2)) == 2
        back = int64(0, 0)
        assert queue.submit_and_complete(results, back, wait_nr=2) == 2
        assert list(back) == [-1, -2]


def test_an_argument_that_closes_the_queue_is_refused_safely(file):
    class Closing:
        def __init__(self, closed):
            self.closed = closed

        def __index__(self):
            self.closed.close()
            return 0

        def __float__(self):
            return float(self.__index__())

    with clean_ring() as ring:
        queue = ring.batch_queue(8, bytearray(8))
        with pytest.raises(ValueError, match="operation on a closed batch queue"):
            queue.prep_read(Closing(queue), int64(0), 1, 0)
        queue = ring.batch_queue(8, bytearray(8))
        with pytest.raises(ValueError, match="operation on a closed batch queue"):
            queue.complete(int32(0), timeout=Closing(queue), wait_nr=1)
        queue = ring.batch_queue(8, bytearray(8))
        with pytest.raises(ValueError, match="operation on a closed batch queue"):
            queue.prep_read(file, Closing(ring), uint32(1), 0)
        assert ring.closed


def test_what_the_kernel_lacks_is_refused(hidden_operations):
    with queue_on(0, bytearray(8)) as (ring, queue):
        hidden_operations(Op.READ, Op.SEND)
        with pytest.raises(NotSupported, match=r"IORING_OP_READ needs Linux 5\.6"):
            queue.prep_read(0, int64(0), 1, 0)
        with pytest.raises(NotSupported, match="IORING_OP_SEND"):
            queue.prep_send(0, int64(0), 1)
        assert ring.sq_ready() == 0


# ---- cancelling --------------------------------------------------------------------------------


@each_setup
def test_cancel_ends_what_has_the_tags(flags, pair):
    left, right = pair
    with queue_on(flags, bytearray(4)) as (ring, queue):
        queue.prep_recv(left.fileno(), 0, 1, tags=uint64(1, 2, 3, 2))
        ring.submit()
        assert queue.cancel(uint64(2, 9)) == 2
        ring.submit()
        assert taken(queue, wait_nr=2, timeout=5) == [(2, CANCELED), (2, CANCELED)]
        assert ring.cq_ready() == 0, "the answers are not shown"
        right.send(b"xy")
        assert sorted(taken(queue, wait_nr=2, timeout=5)) == [(1, 1), (3, 1)]
        assert queue.cancel() == 0


@each_setup
def test_cancel_without_tags_ends_all_of_this_queue_and_no_other(flags, pair):
    left, right = pair
    with queue_on(flags, bytearray(4)) as (ring, queue), ring.batch_queue(2, bytearray(2)) as other:
        queue.prep_recv(left.fileno(), 0, 1, tags=uint64(1, 2))
        other.prep_recv(left.fileno(), 0, 1, tags=uint64(3))
        assert queue.cancel() == 2  # also what is queued in the same breath
        assert sorted(completed(queue, 2).values()) == [CANCELED, CANCELED]
        assert taken(other) == []
        right.send(b"x")
        assert taken(other, wait_nr=1) == [(3, 1)]


@each_setup
def test_cancels_are_as_many_as_the_submission_queue_has_room_for(flags, pair):
    left, _ = pair
    with queue_on(flags, bytearray(1), entries=4) as (_, queue):
        assert queue.prep_recv(left.fileno(), int64(0, 0, 0), 1) == 3
        assert queue.cancel() == 1
        assert queue.submit_and_complete(int32(0, 0, 0), wait_nr=1, timeout=5) == 1
        assert queue.cancel() == 2
        assert set(completed(queue, 2).values()) == {CANCELED}


@each_setup
def test_cancels_of_the_convenient_level_reach_batch_operations(flags, pair):
    left, right = pair
    with queue_on(flags, bytearray(4)) as (ring, queue):
        queue.prep_recv(left.fileno(), 0, 1, tags=uint64(1, 2))
        queue.prep_recv(right.fileno(), 2, 1, tags=uint64(3))
        ring.submit()
        ring.prep_cancel_fd(left, CancelFlags.ALL, user_data="by descriptor")
        assert [cqe.res for cqe in finish(ring)] == [2]
        assert sorted(taken(queue, wait_nr=2)) == [(1, CANCELED), (2, CANCELED)]
        ring.prep_cancel(flags=CancelFlags.ANY | CancelFlags.ALL)
        assert [cqe.res for cqe in finish(ring)] == [1]
        assert taken(queue, wait_nr=1) == [(3, CANCELED)]


# ---- the end -----------------------------------------------------------------------------------


@each_layout
def test_memory_cannot_be_resized_while_the_queue_is_open(flags):
    memory = bytearray(8)
    with clean_ring(flags=flags) as ring:
        with ring.batch_queue(1, memory) as queue:
            assert queue.memory is memory
            with pytest.raises(BufferError):
                memory.append(0)
        assert queue.closed
        assert queue.memory is None
        memory.append(0)
        ring.batch_queue(1, memory)  # not closed, but its ring is
        with pytest.raises(BufferError):
            memory.append(0)
    memory.append(0)


@each_layout
def test_closed_queues_and_queues_of_closed_rings_refuse(flags):
    with clean_ring(flags=flags) as ring:
        closed, orphan = ring.batch_queue(8, bytearray(8)), ring.batch_queue(8, bytearray(8))
        orphan.prep_nop(1)
        closed.close()
        closed.close()
        orphan.submit_and_complete(int32(0), wait_nr=1)
    assert orphan.closed
    assert "closed" in repr(orphan)
    for queue in (closed, orphan):
        for call in (lambda q: q.prep_nop(1), lambda q: q.prep_read(0, int64(0), 1, 0),
                     lambda q: q.complete(int32(0)), lambda q: q.submit_and_complete(int32(0)),
                     lambda q: q.cancel(), lambda q: q.__enter__()):
            with pytest.raises(ValueError, match="operation on a closed batch queue"):
                call(queue)
        assert (queue.in_flight, queue.capacity) == (0, 0)
        queue.close()


@each_layout
def test_close_cancels_and_waits_and_leaves_the_rest_of_the_ring_alone(flags, pair):
    left, right = pair
    memory = bytearray(4)
    with clean_ring(flags=flags) as ring:
        queue = ring.batch_queue(8, memory)
        other = ring.batch_queue(8, bytearray(1))
        queue.prep_recv(left.fileno(), 0, 1, tags=uint64(1, 2))
        other.prep_recv(int32(left.fileno()), 0, 1)
        queue.prep_nop(1)
        ring.submit()
        ring.prep_nop("queued")
        queue.close()
        memory.append(0)
        assert [cqe.user_data for cqe in finish(ring)] == ["queued"]
        right.send(b"x")
        assert taken(other, wait_nr=1) == [(0, 1)]
        assert ring.statistics().unmatched == 0


@each_layout
def test_close_takes_back_what_was_not_submitted(flags, file):
    memory = bytearray(b"new")
    with clean_ring(flags=flags) as ring:
        queue = ring.batch_queue(8, memory)
        ring.prep_nop("before")
        queue.prep_write(int32(file), 0, 3, 0, flags=SqeFlags.IO_LINK)
        ring.prep_fsync(file, user_data="linked")
        ring.prep_nop("after")
        queue.close()
        memory.append(0)
        assert {cqe.user_data: cqe.res for cqe in finish(ring, 3)} == {
            "before": 0, "linked": CANCELED, "after": 0}
        assert ring.statistics().in_flight == 0
    assert os.pread(file, 3, 0) == b"\0\0\0"


@each_layout
def test_close_drops_completions_that_nobody_took(flags):
    with clean_ring(flags=flags) as ring:
        queue = ring.batch_queue(8)
        queue.prep_nop(5)
        ring.submit_and_wait(5)
        queue.close()
        assert ring.cq_ready() == 0
        assert ring.statistics()[:2] == (0, 5)


def test_close_gives_up_in_time_and_can_be_repeated(pair):
    left, _right = pair
    with clean_ring() as ring:
        queue = ring.batch_queue(4, bytearray(1))
        queue.prep_recv(int32(left.fileno()), 0, 1)
        ring.submit()
        with pytest.raises(TimeoutError, match="1 operations did not end within 0 s"):
            queue.close(0)
        assert not queue.closed
        with pytest.raises(ValueError, match="timeout must be a non-negative"):
            queue.close(-1)
        queue.close()
        assert queue.closed


@each_layout
def test_close_of_more_than_the_queues_hold(flags, pair):
    left, _ = pair
    with clean_ring(4, flags=flags, cq_entries=4) as ring:
        queue = ring.batch_queue(50, bytearray(1))
        queued = 0
        while queued < 50:
            queued += queue.prep_recv(left.fileno(), int64(*[0] * (50 - queued)), 1)
            ring.submit()
        queue.close()
        assert ring.statistics().in_flight == 0
        assert ring.cq_ready() == 0


def forbid_sync_cancel(ring):
    """Let a ring refuse it, as kernels before 6.0 do, by way of IORING_REGISTER_RESTRICTIONS."""
    register_op, sqe_op, enable_rings, register_restrictions = 0, 1, 12, 11
    allowed = [(register_op, enable_rings), (sqe_op, Op.RECV), (sqe_op, Op.ASYNC_CANCEL)]
    block = b"".join(struct.pack("HBx12x", *what) for what in allowed)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(427, ring.fd, register_restrictions, block, len(allowed)) < 0:
        pytest.skip(f"no restrictions here: {os.strerror(ctypes.get_errno())}")
    ring.enable_rings()


@pytest.mark.parametrize("what", ["ring", "queue"])
def test_close_cancels_by_queue_entries_where_the_kernel_knows_no_other_way(what, pair):
    left, _ = pair
    memory = bytearray(1)
    with clean_ring(4, flags=SetupFlags.R_DISABLED) as ring:
        forbid_sync_cancel(ring)
        queue = ring.batch_queue(10, memory)
        for _ in range(3):
            assert queue.prep_recv(left.fileno(), int64(0, 0, 0), 1) == 3
            ring.submit()
        {"ring": ring, "queue": queue}[what].close()
        assert queue.closed
        memory.append(0)
        if what == "queue":
            assert ring.cq_ready() == 0, "the answers to its cancels are not shown"


@each_layout
def test_ring_close_ends_its_queues(flags, pair):
    left, _ = pair
    memory = bytearray(4)
    before = leaked_operations()
    ring = Ring(8, flags=flags)
    queue = ring.batch_queue(8, memory)
    queue.prep_recv(left.fileno(), 0, 1, tags=uint64(1, 2))
    ring.submit()
    queue.prep_nop(1)
    assert ring.statistics().in_flight == 3
    ring.close()
    assert queue.closed
    assert ring.statistics().in_flight == 0
    assert leaked_operations() == before
    memory.append(0)


@pytest.mark.parametrize("flags", [0, DEFER])
def test_a_dropped_ring_leaks_the_memory_of_batches_in_flight(flags, pair):
    left, _right = pair

    class Memory(bytearray):
        """Something a weak reference can watch."""

    memory, idle = Memory(4), Memory(4)
    watched, watched_idle = weakref.ref(memory), weakref.ref(idle)
    before = leaked_operations()
    ring = Ring(8, flags=flags)
    queue, other = ring.batch_queue(8, memory), ring.batch_queue(8, idle)
    queue.prep_recv(left.fileno(), 0, 1, tags=uint64(1, 2))
    other.prep_nop(1)
    ring.submit()
    other.prep_nop(1)  # which the kernel never sees
    with pytest.warns(ResourceWarning, match="4 operations queued or in flight"):
        del ring
    assert leaked_operations() == before + 2
    assert queue.closed
    assert other.closed
    del memory, idle, queue, other
    gc.collect()
    assert watched() is not None, "the kernel may still write there"
    assert watched_idle() is None
    with pytest.raises(BufferError):
        watched().append(0)


def test_a_ring_reachable_only_from_its_batch_memory_is_collected():
    class Memory(bytearray):
        """With a place for the ring."""

    memory = Memory(8)
    memory.ring = Ring(8)
    memory.queue = memory.ring.batch_queue(8, memory)
    watched = weakref.ref(memory.queue)
    with pytest.warns(ResourceWarning, match="unclosed ring"):
        del memory
        gc.collect()
    assert watched() is None


def test_a_dropped_queue_lives_on_until_its_ring_is_closed(pair):
    left, right = pair
    memory = bytearray(1)
    with clean_ring() as ring:
        queue = ring.batch_queue(8, memory)
        queue.prep_recv(int32(left.fileno()), 0, 1)
        ring.submit()
        watched = weakref.ref(queue)
        del queue
        gc.collect()
        right.send(b"x")
        ring.submit_and_wait(1)
        assert memory == b"x"
        taken(watched())
    assert watched() is None


def test_numbers_of_closed_queues_are_used_again_and_there_are_so_many():
    with clean_ring() as ring:
        for _ in range(20_000):
            ring.batch_queue(1).close()
        queues = [ring.batch_queue(1) for _ in range(16383)]
        with pytest.raises(ValueError, match="16383 batch queues at most"):
            ring.batch_queue(1)
        queues[5000].close()
        again = ring.batch_queue(1)
        for queue in (again, queues[0], queues[-1]):
            queue.prep_nop(1)
            assert completed(queue, 1) == {0: 0}


@pytest.mark.parametrize("flags", [0, DEFER])
def test_a_forked_child_cannot_use_a_queue_and_the_parent_goes_on(flags, pair):
    left, right = pair
    memory = bytearray(1)
    with queue_on(flags, memory) as (ring, queue):
        queue.prep_recv(int32(left.fileno()), 0, 1)
        ring.submit()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for call in (lambda: queue.prep_nop(1), lambda: queue.complete(int32(0)),
                             queue.cancel):
                    with pytest.raises(RuntimeError, match="parent process"):
                        call()
                queue.close()
                ring.close()
                memory.append(0)
                with queue_on(flags) as (_, own):
                    own.prep_nop(1)
                    assert completed(own, 1) == {0: 0}
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        right.send(b"x")
        assert taken(queue, wait_nr=1, timeout=5) == [(0, 1)]
        assert memory == b"x"


# ---- completions that are nobody's --------------------------------------------------------------


def test_forged_completions_reach_no_operation(pair):
    left, right = pair
    with Ring(8) as ring, Ring(8) as other, ring.batch_queue(8, bytearray(1)) as queue:
        queue.prep_recv(int32(left.fileno()), 0, 1)
        ring.submit()
        forged = [3 << 61, (3 << 61) + 1, (1 << 63) - 1 - (1 << 20), (3 << 61) + (5 << 20)]
        for number in forged:
            other.prep_msg_ring(ring.fd, 0, number, MsgRingFlags(0))
            assert finish(other)[0].res == 0
        ring.get_events()
        assert taken(queue, timeout=0.01, wait_nr=1) == []
        assert [cqe.user_data for cqe in ring.copy_cqes()] == forged
        assert ring.statistics().unmatched == len(forged)
        right.send(b"x")
        assert taken(queue, wait_nr=1) == [(0, 1)]


# ---- set-ups of other kinds ---------------------------------------------------------------------


def test_a_disabled_ring_takes_batches_and_runs_them_when_it_is_enabled(file):
    memory = bytearray(3 * BLOCK)
    with queue_on(SetupFlags.R_DISABLED, memory) as (ring, queue):
        assert queue.prep_read(file, 0, BLOCK, int64(0, BLOCK, 2 * BLOCK)) == 3
        with pytest.raises(OSError, match="enable_rings"):
            queue.submit_and_complete(int32(0, 0, 0), wait_nr=3)
        ring.enable_rings()
        assert completed(queue, 3) == {0: BLOCK, 1: BLOCK, 2: BLOCK}


@each_layout
def test_what_a_closed_queue_takes_back_is_submitted_and_not_shown(flags):
    with queue_on(flags) as (ring, queue):
        queue.prep_nop(3)
        queue.close()
        ring.submit()
        assert ring.copy_cqes(8, 1, 0.01) == []
        assert ring.cq_ready() == 0


# ---- a random mix against a model ---------------------------------------------------------------


class Model:
    """Two batch queues and the convenient level on one ring, and what is to come of it all."""

    def __init__(self, ring, chance, file):
        self.ring, self.chance, self.file = ring, chance, file
        self.memories = [bytearray(64), bytearray(64)]
        self.queues = [ring.batch_queue(chance.choice([3, 40]), memory)
                       for memory in self.memories]
        self.due = [collections.Counter(), collections.Counter()]
        self.names = collections.Counter()
        self.hidden = self.number = 0

    def prepare_batch(self):
        which = self.chance.randrange(2)
        count = self.chance.randrange(1, 10)
        tags = uint64(*range(self.number, self.number + count))
        if self.chance.random() < 0.5:
            queued = self.queues[which].prep_nop(count, tags)
            results = [0] * queued
        else:
            lengths = uint32(*(self.chance.randrange(9) for _ in tags))
            fds = int32(*(self.chance.choice([self.file, 12345]) for _ in tags))
            starts = int64(*(self.chance.randrange(56) for _ in tags))
            queued = self.queues[which].prep_read(fds, starts, lengths, 0, tags=tags)
            results = [length if fd == self.file else -errno.EBADF
                       for fd, length in zip(fds, lengths, strict=True)][:queued]
        for tag, result in zip(tags, results, strict=False):
            self.due[which][tag, result] += 1
        self.number += queued

    def prepare_convenient(self):
        if self.ring.sq_space_left():
            self.ring.prep_nop(self.number)
            self.names[self.number] += 1
            self.number += 1

    def prepare_hidden(self):
        if self.ring.sq_space_left():
            self.ring.prep_nop("hidden").flags = SqeFlags.CQE_SKIP_SUCCESS

    def submit(self):
        self.ring.submit()

    def take_batch(self):
        which = self.chance.randrange(2)
        room = self.chance.choice([1, 5, 100])
        wait_nr = self.chance.choice([0, 0, room])
        results, tags = array("i", [0]) * room, array("Q", [0]) * room
        n = self.with_room(lambda: self.queues[which].submit_and_complete(
            results, tags, wait_nr=wait_nr))
        self.check_taken(which, zip(tags[:n], results[:n], strict=True))
        assert n >= min(wait_nr, sum(self.due[which].values()) + n)

    def with_room(self, call):
        """call(), which may refuse to wait while the convenient level's fill the queue."""
        while True:
            try:
                return call()
            except OSError as error:
                if error.errno != errno.EBUSY or not self.ring.cq_ready():
                    raise
                self.take_convenient()

    def check_taken(self, which, pairs):
        for pair in pairs:
            self.due[which][pair] -= 1
            assert self.due[which][pair] == 0, pair
        self.due[which] = +self.due[which]

    def take_convenient(self):
        for cqe in self.ring.copy_cqes(self.chance.choice([1, 3, 100])):
            self.names[cqe.user_data] -= 1
            assert self.names[cqe.user_data] == 0
        self.names = +self.names

    def peek(self):
        first = self.ring.peek_cqe()
        if first is not None:
            self.take_batch_now(self.chance.randrange(2))
            self.ring.cqe_seen(first)
            self.names[first.user_data] -= 1
        self.names = +self.names

    def take_batch_now(self, which):
        self.check_taken(which, taken(self.queues[which], self.chance.choice([1, 100])))

    def replace_queue(self):
        which = self.chance.randrange(2)
        self.with_room(self.queues[which].close)
        self.memories[which].append(0)
        self.queues[which] = self.ring.batch_queue(
            self.chance.choice([3, 40]), self.memories[which])
        self.due[which].clear()

    def check(self):
        for queue, due in zip(self.queues, self.due, strict=True):
            assert queue.in_flight == sum(due.values())

    def finish(self):
        deadline = time.monotonic() + 10
        while any(self.due) or self.names or self.ring.statistics().in_flight:
            self.take_convenient()
            self.take_batch()
            assert time.monotonic() < deadline, (self.due, self.names)


@each_layout
@pytest.mark.parametrize("seed", range(8))
def test_a_random_mix_of_both_levels_completes_as_the_model_says(flags, seed, file):
    chance = random.Random(seed)
    with clean_ring(chance.choice([4, 16]), flags=flags, cq_entries=16) as ring:
        model = Model(ring, chance, file)
        steps = [model.prepare_batch, model.prepare_batch, model.prepare_convenient,
                 model.prepare_hidden, model.submit, model.take_batch, model.take_batch,
                 model.take_convenient, model.peek]
        for number in range(400):
            model.replace_queue() if number % 50 == 49 else chance.choice(steps)()
            model.check()
        model.finish()
