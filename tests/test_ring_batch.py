"""The fast level: operations prepared from arrays and completed into arrays."""

import errno
import os
from array import array

import pytest

from ring_support import clean_ring, each_setup, finish

BLOCK = 4096


def int32(*values):
    return array("i", values)


def int64(*values):
    return array("q", values)


def uint64(*values):
    return array("Q", values)


def taken(queue, count=64, **options):
    """What complete() gives, as (tag, result) pairs."""
    results, tags = array("i", [0]) * count, array("Q", [0]) * count
    n = queue.complete(results, tags, **options)
    return list(zip(tags[:n], results[:n], strict=True))


def completed(queue, count, room=64):
    """Submit, and wait for `count` completions: result by tag."""
    results, tags = array("i", [0]) * room, array("Q", [0]) * room
    n = queue.submit_and_complete(results, tags, wait_nr=count, timeout=5)
    assert n == count
    return dict(zip(tags[:n], results[:n], strict=True))


@pytest.fixture
def file(tmp_path):
    """Eight blocks, each full of its number."""
    path = tmp_path / "blocks"
    path.write_bytes(b"".join(bytes([number]) * BLOCK for number in range(8)))
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


@each_setup
def test_nops_complete_with_their_tags(flags):
    with clean_ring(flags=flags) as ring, ring.batch_queue(8) as queue:
        assert queue.prep_nop(3) == 3
        assert queue.prep_nop(2, uint64(70, 2**64 - 1)) == 2
        assert queue.in_flight == 5
        assert ring.submit() == 5
        assert taken(queue, wait_nr=5) == [(0, 0), (1, 0), (2, 0), (70, 0), (2**64 - 1, 0)]
        assert queue.in_flight == 0


@each_setup
def test_reads_go_where_the_arrays_say(flags, file):
    memory = bytearray(4 * BLOCK)
    with clean_ring(flags=flags) as ring, ring.batch_queue(8, memory) as queue:
        starts, offsets = int64(3 * BLOCK, 0, BLOCK), int64(BLOCK, 7 * BLOCK, 2 * BLOCK)
        assert queue.prep_read(file, starts, BLOCK, offsets) == 3
        assert completed(queue, 3) == {0: BLOCK, 1: BLOCK, 2: BLOCK}
    assert [memory[i * BLOCK] for i in range(4)] == [7, 2, 0, 1]


@each_setup
def test_one_bad_descriptor_among_many_fails_alone(flags, file):
    memory = bytearray(3 * BLOCK)
    with clean_ring(flags=flags) as ring, ring.batch_queue(8, memory) as queue:
        assert queue.prep_read(int32(file, 12345, file), 0, BLOCK, 0) == 3
        assert completed(queue, 3) == {0: BLOCK, 1: -errno.EBADF, 2: BLOCK}


@each_setup
def test_convenient_and_batch_completions_never_mix(flags):
    with clean_ring(flags=flags) as ring, ring.batch_queue(8) as queue:
        ring.prep_nop("a")
        queue.prep_nop(2)
        ring.prep_nop("b")
        ring.submit_and_wait(4)
        assert taken(queue) == [(0, 0), (1, 0)]
        assert [cqe.user_data for cqe in ring.copy_cqes()] == ["a", "b"]
        queue.prep_nop(2)
        ring.prep_nop("c")
        assert [cqe.user_data for cqe in finish(ring)] == ["c"]
        assert taken(queue) == [(0, 0), (1, 0)]
