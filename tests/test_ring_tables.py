"""Registered files and registered buffers: the tables, their tags, and the operations on them."""

import errno
import gc
import mmap
import os
import random
import re
import resource
import select
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import warnings
import weakref

import pytest

from ferrule.ring import (
    FILE_INDEX_ALLOC,
    REGISTER_FILES_SKIP,
    CloneFlags,
    NotSupported,
    Op,
    RegisteredBuffer,
    Ring,
    SetupFlags,
    leaked_operations,
)
from ring_support import (
    CANCELED,
    clean_ring,
    each_setup,
    finish,
    hand_over,
    results,
    unavailable,
    with_the_gil,
)

PATTERN = bytes(random.Random(7).randbytes(64 * 1024))
GIB = 1 << 30
ONLY_AN_INDEX = SetupFlags.REGISTERED_FD_ONLY | SetupFlags.NO_MMAP


@pytest.fixture
def file():
    """A file with 64 KiB of PATTERN."""
    with tempfile.TemporaryFile() as file:
        file.write(PATTERN)
        file.flush()
        yield file


@pytest.fixture
def pipe():
    """Both ends of an empty pipe: a read of it waits."""
    read, write = os.pipe()
    yield read, write
    for end in (read, write):
        try:
            os.close(end)
        except OSError:
            pass


class Tag:
    """Something that can be a tag, and be watched."""


def is_resizable(data):
    try:
        data.append(0)
    except BufferError:
        return False
    data.pop()
    return True


def on_tmpfs(path):
    found = subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True,
                           check=True)
    return found.stdout.strip() == "tmpfs"


def waiting_fixed_read(ring, read_end, buffer, **options):
    """A read that has the registered buffer until something is written to the pipe."""
    ring.prep_read_fixed(read_end, buffer, **options)
    hand_over(ring)


# ---- operations on registered buffers -----------------------------------------------------------


@each_setup
def test_fixed_read_fills_the_registered_buffer_given(flags, file):
    data = bytearray(4096)
    with clean_ring(flags=flags) as ring:
        (registered,) = ring.register_buffers([data])
        ring.prep_read_fixed(file, registered, 5)
        assert finish(ring)[0].res == 4096
        assert data == PATTERN[5:4101]
        assert registered[:4] == data[:4]


@each_setup
def test_fixed_write_takes_any_part_of_a_registered_buffer(flags, file):
    data = bytearray(b"0123456789" * 100)
    with clean_ring(flags=flags) as ring:
        (registered,) = ring.register_buffers([data])
        ring.prep_write_fixed(file, registered[10:15], 0).link()
        ring.prep_write_fixed(file, memoryview(data)[5:10], 5, 0)
        assert [cqe.res for cqe in finish(ring, 2)] == [5, 5]
    file.seek(0)
    assert file.read(11) == b"0123456789" + PATTERN[10:11]


@each_setup
def test_vectored_fixed_operations_use_pieces_of_one_registered_buffer(flags, file):
    data = bytearray(100)
    with clean_ring(flags=flags) as ring:
        (registered,) = ring.register_buffers([data])
        ring.prep_readv_fixed(file, [registered[50:60], registered[0:5]], 1)
        assert finish(ring)[0].res == 15
        assert data[50:60] == PATTERN[1:11]
        assert data[:5] == PATTERN[11:16]
        ring.prep_writev_fixed(file, [memoryview(data)[:5], memoryview(data)[50:60]], 0, 0, 0)
        assert finish(ring)[0].res == 15
    file.seek(0)
    assert file.read(15) == PATTERN[11:16] + PATTERN[1:11]


@each_setup
def test_many_pieces_and_odd_offsets_arrive_whole(flags, file):
    # As liburing's fixed-buf-iter and vec-regbuf: pieces that begin and end anywhere in pages.
    chance = random.Random(1)
    data = bytearray(len(PATTERN))
    with clean_ring(64, flags=flags) as ring:
        (registered,) = ring.register_buffers([data])
        for _ in range(30):
            edges = sorted(chance.sample(range(len(data)), 2 * chance.randint(1, 8)))
            pieces = [registered[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
            wanted = sum(map(len, pieces))
            offset = chance.randint(0, len(PATTERN) - wanted)
            if len(pieces) == 1:
                ring.prep_read_fixed(file, pieces[0], offset)
            else:
                ring.prep_readv_fixed(file, pieces, offset)
            assert finish(ring)[0].res == wanted
            assert b"".join(pieces) == PATTERN[offset:offset + wanted]
            # Released, for the pages behind them are the next round's.
            del pieces


@each_setup
def test_direct_io_reads_into_an_aligned_part_of_a_registered_mapping(flags, file):
    with clean_ring(flags=flags) as ring, mmap.mmap(-1, 1 << 16) as area:
        direct = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY | os.O_DIRECT)
        try:
            (registered,) = ring.register_buffers([area])
            ring.prep_read_fixed(direct, registered[8192:8192 + 4096], 4096)
            cqe = finish(ring)[0]
            if cqe.res == -errno.EINVAL:
                pytest.skip("the file system of the temporary directory has no O_DIRECT")
            assert cqe.res == 4096
            assert area[8192:12288] == PATTERN[4096:8192]
        finally:
            os.close(direct)
            ring.unregister_buffers()


@each_setup
def test_linked_fixed_read_and_write_copy_a_file(flags, file):
    data = bytearray(1000)
    with clean_ring(flags=flags) as ring, tempfile.TemporaryFile() as copy:
        (registered,) = ring.register_buffers([data])
        for offset in range(0, 5000, 1000):
            ring.prep_read_fixed(file, registered, offset).link()
            ring.prep_write_fixed(copy, registered, offset)
            assert [cqe.res for cqe in finish(ring, 2)] == [1000, 1000]
        copy.seek(0)
        assert copy.read() == PATTERN[:5000]


@each_setup
def test_short_fixed_read_breaks_a_link(flags, file):
    data = bytearray(1000)
    with clean_ring(flags=flags) as ring:
        (registered,) = ring.register_buffers([data])
        ring.prep_read_fixed(file, registered, len(PATTERN) - 10, user_data="read").link()
        ring.prep_write_fixed(file, registered, 0, user_data="write")
        assert results(finish(ring, 2)) == {"read": 10, "write": CANCELED}


def test_offset_minus_one_is_the_files_own_position(file):
    with clean_ring() as ring:
        (registered,) = ring.register_buffers([bytearray(100)])
        file.seek(7)
        ring.prep_read_fixed(file, registered)
        assert finish(ring)[0].res == 100
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 107
        assert registered[:] == PATTERN[7:107]


def test_registered_buffer_reads_and_writes_like_a_memoryview():
    with clean_ring() as ring:
        data = bytearray(b"0123456789")
        (registered,) = ring.register_buffers([data])
        assert isinstance(registered, RegisteredBuffer)
        assert len(registered) == 10
        assert registered[3] == ord("3")
        registered[0] = ord("x")
        registered[8:] = b"yz"
        assert bytes(registered) == data == b"x1234567yz"
        assert (registered.index, registered.registered) == (0, True)
        with pytest.raises(IndexError):
            registered[10]
        with pytest.raises(ValueError, match="different structures"):
            registered[0:3] = b"four"
        ring.unregister_buffers()
        assert not registered.registered
        with pytest.raises(ValueError, match="buffer 0 is no longer registered"):
            registered[0]


def test_memory_outside_the_registered_buffer_is_refused(file):
    data = bytearray(100)
    middle = memoryview(data)[20:50]
    with clean_ring() as ring:
        ring.register_buffers([middle, bytearray(5)])
        for start, end in ((19, 30), (0, 100), (40, 51), (50, 51), (90, 95)):
            for prepare in (ring.prep_read_fixed, ring.prep_write_fixed):
                with pytest.raises(ValueError, match="does not lie inside registered buffer 0"):
                    prepare(file, memoryview(data)[start:end], 0, 0)
            for prepare in (ring.prep_readv_fixed, ring.prep_writev_fixed):
                with pytest.raises(ValueError, match="does not lie inside registered buffer 0"):
                    prepare(file, [middle[:1], memoryview(data)[start:end]], 0, 0, 0)
        with pytest.raises(ValueError, match="does not lie inside registered buffer 1"):
            ring.prep_read_fixed(file, middle, 0, 1)
        assert ring.sq_ready() == 0
        # Its very ends belong to it, and so does nothing at all.
        for part in (middle[:1], middle[-1:], middle, middle[30:]):
            ring.prep_read_fixed(file, part, 0, 0)
            assert finish(ring)[0].res == len(part)
        assert data[:20] + data[50:] == bytes(70)


def test_wrong_buffers_and_indices_are_told_apart(file):
    data = bytearray(10)
    with clean_ring() as ring, clean_ring() as other:
        with pytest.raises(ValueError, match="this ring has no registered buffers"):
            ring.prep_read_fixed(file, data, 0, 0)
        mine, _ = ring.register_buffers([data, None])
        (theirs,) = other.register_buffers([data])
        with pytest.raises(ValueError, match="registered buffer 1 is empty"):
            ring.prep_read_fixed(file, data, 0, 1)
        for index in (2, -1, 16384, 1 << 40):
            with pytest.raises(ValueError, match="outside the 2 registered buffers"):
                ring.prep_read_fixed(file, data, 0, index)
        with pytest.raises(TypeError, match="'bytearray' is no RegisteredBuffer"):
            ring.prep_read_fixed(file, data, 0)
        with pytest.raises(TypeError, match="'memoryview' is no RegisteredBuffer"):
            ring.prep_readv_fixed(file, [memoryview(data)], 0)
        with pytest.raises(TypeError, match="integer"):
            ring.prep_read_fixed(file, data, 0, "0")
        with pytest.raises(ValueError, match="belongs to another ring"):
            ring.prep_read_fixed(file, theirs, 0)
        with pytest.raises(ValueError, match="belongs to another ring"):
            ring.prep_read_fixed(file, theirs[2:4], 0)
        with pytest.raises(ValueError, match="no buffers given"):
            ring.prep_readv_fixed(file, [], 0, 0, 0)
        with pytest.raises(ValueError, match="offset"):
            ring.prep_read_fixed(file, mine, -2)
        ring.prep_read_fixed(file, theirs, 0, mine.index)  # the same memory, by its index here
        assert finish(ring)[0].res == 10


def test_read_only_buffer_can_be_written_from_and_not_read_into(file):
    with clean_ring() as ring:
        text = b"constant" * 10
        (registered,) = ring.register_buffers([text])
        for prepare in (ring.prep_read_fixed, lambda f, b, *a: ring.prep_readv_fixed(f, [b], *a)):
            with pytest.raises(TypeError, match="read-write"):
                prepare(file, registered, 0)
        with pytest.raises(TypeError, match="read-write"):
            ring.prep_read_fixed(file, text, 0, 0)
        with pytest.raises(TypeError, match="read-only"):
            registered[0] = 1
        ring.prep_write_fixed(file, registered, 0)
        assert finish(ring)[0].res == 80
    file.seek(0)
    assert file.read(80) == text


def test_fixed_operations_need_a_kernel_that_has_them(file, hidden_operations):
    hidden_operations(Op.READV_FIXED, Op.WRITEV_FIXED)
    with clean_ring() as ring:
        data = bytearray(10)
        (registered,) = ring.register_buffers([data])
        for prepare in (ring.prep_readv_fixed, ring.prep_writev_fixed):
            with pytest.raises(NotSupported, match=r"V_FIXED needs Linux 6\.15"):
                prepare(file, [registered])
        ring.unregister_buffers()
        assert is_resizable(data)


def test_empty_piece_of_a_vector_is_the_kernels_to_refuse(file):
    with clean_ring() as ring:
        (registered,) = ring.register_buffers([bytearray(10)])
        ring.prep_readv_fixed(file, [registered[:4], registered[:0]], 0)
        assert finish(ring)[0].res == -errno.EFAULT


def test_sqe_can_be_prepared_again_for_another_registered_buffer(file):
    one, two = bytearray(4), bytearray(4)
    with clean_ring() as ring:
        first, second = ring.register_buffers([one, two])
        sqe = ring.get_sqe("x").prep_read_fixed(file, first, 0)
        assert sqe.prep_read_fixed(file, second, 4) is sqe
        assert (sqe.opcode, sqe.buf_index, sqe.len) == (Op.READ_FIXED, 1, 4)
        assert finish(ring)[0].res == 4
        assert (one, two) == (bytes(4), PATTERN[4:8])


# ---- making and changing the table of buffers ----------------------------------------------------


def test_table_of_buffers_is_made_once_and_taken_down_once():
    with clean_ring() as ring:
        for call in (ring.unregister_buffers, lambda: ring.register_buffers_update(0, [b"x"])):
            with pytest.raises(OSError, match="no buffers are registered") as caught:
                call()
            assert caught.value.errno == errno.ENXIO
        ring.register_buffers([bytearray(1)])
        with pytest.raises(OSError, match="has registered buffers already") as caught:
            ring.register_buffers([bytearray(1)])
        assert caught.value.errno == errno.EBUSY
        with pytest.raises(OSError, match="has registered buffers already"):
            ring.register_buffers_sparse(4)
        ring.unregister_buffers()
        ring.register_buffers_sparse(4)
        ring.unregister_buffers()


@each_setup
def test_buffers_may_overlap_and_be_the_same(flags, file):
    data = bytearray(100)
    with clean_ring(flags=flags) as ring:
        whole, half, again = ring.register_buffers([data, memoryview(data)[:50], data])
        ring.prep_read_fixed(file, whole[:10], 0)
        ring.prep_read_fixed(file, half[10:20], 10)
        ring.prep_read_fixed(file, again[20:30], 20)
        assert [cqe.res for cqe in finish(ring, 3)] == [10, 10, 10]
        assert data[:30] == PATTERN[:30]


def test_sizes_and_counts_beyond_the_kernels_are_refused():
    with clean_ring() as ring:
        for count in (0, 16385):
            with pytest.raises(ValueError, match=f"from 1 to 16384 buffers, not {count}"):
                ring.register_buffers([None] * count)
            with pytest.raises(ValueError, match=f"from 1 to 16384 buffers, not {count}"):
                ring.register_buffers_sparse(count)
        with pytest.raises(ValueError, match="buffer 1 is empty; None leaves its place empty"):
            ring.register_buffers([b"x", bytearray()])
        for wrong in ("text", 7, [b"x"]):
            with pytest.raises(TypeError, match="buffer 0 must be a bytes-like object or None"):
                ring.register_buffers([wrong])
        with pytest.raises(BufferError):
            ring.register_buffers([memoryview(bytearray(10))[::2]])
        huge = mmap.mmap(-1, GIB + 1)  # pages that are never touched cost nothing
        with pytest.raises(ValueError, match=r"buffer 0 has 1073741825 bytes; at most 1 GiB"):
            ring.register_buffers([huge])
        huge.close()
        ring.register_buffers([None] * 16384)


def test_failed_registration_holds_nothing():
    with clean_ring() as ring:
        data, kept = bytearray(10), bytearray(10)
        for wrong in ([data, 7], [data, b""]):
            with pytest.raises((TypeError, ValueError)):
                ring.register_buffers(wrong)
            assert is_resizable(data)
        ring.register_buffers([kept])
        with pytest.raises(OSError, match="already"):
            ring.register_buffers([data])
        with pytest.raises(OSError, match="already"):
            ring.register_buffers_tags([data], [Tag()])
        assert is_resizable(data)
        assert not is_resizable(kept)
        assert ring.cq_ready() == 0


def test_memory_that_cannot_be_pinned_is_refused(tmp_path):
    path = tmp_path / "mapped"
    path.write_bytes(bytes(8192))
    with clean_ring() as ring, open(path, "r+b") as file:
        with mmap.mmap(-1, 4096, prot=mmap.PROT_READ) as constant:
            with pytest.raises(OSError, match="cannot pin a buffer") as caught:
                ring.register_buffers([constant])
            assert caught.value.errno == errno.EFAULT
        with mmap.mmap(file.fileno(), 8192) as mapping:
            if on_tmpfs(path):
                ring.register_buffers([mapping])
                ring.unregister_buffers()
            else:
                with pytest.raises(OSError, match="cannot pin a buffer"):
                    ring.register_buffers([mapping])
        with mmap.mmap(file.fileno(), 8192, access=mmap.ACCESS_COPY) as private:
            ring.register_buffers([private])
            ring.unregister_buffers()


def test_locked_memory_beyond_its_limit_is_told_with_the_remedy(run_script):
    done = run_script(textwrap.dedent("""
        import errno, os, resource
        from ferrule.ring import Ring
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)
        with Ring(8) as ring:
            data = bytearray(1 << 20)
            for register in (ring.register_buffers, lambda b: ring.register_buffers_tags(b, [1])):
                try:
                    register([data])
                except OSError as error:
                    assert error.errno == errno.ENOMEM, error
                    print(error)
                else:
                    print("no limit")
                    ring.unregister_buffers()
            data.append(1)
            ring.register_buffers([bytearray(4096)])
        """))
    assert done.returncode == 0, done.stderr
    if "no limit" in done.stdout:
        pytest.skip("this user's locked memory is not limited")
    for line in done.stdout.splitlines():
        assert "1048576 bytes were to be pinned" in line
        assert "RLIMIT_MEMLOCK allows this user 65536" in line
        assert "ulimit -l" in line
        assert "CAP_IPC_LOCK" in line


@each_setup
def test_update_replaces_places_and_empties_them(flags, file):
    one, two, three = bytearray(8), bytearray(8), bytearray(8)
    with clean_ring(flags=flags) as ring:
        ring.register_buffers_sparse(3)
        with pytest.raises(ValueError, match="registered buffer 1 is empty"):
            ring.prep_read_fixed(file, one, 0, 1)
        first, none, second = ring.register_buffers_update(0, [one, None, two])
        assert (first.index, none, second.index) == (0, None, 2)
        (replaced,) = ring.register_buffers_update(2, [three])
        assert is_resizable(two)
        assert not second.registered
        with pytest.raises(ValueError, match="no longer registered"):
            ring.prep_read_fixed(file, second, 0)
        ring.prep_read_fixed(file, replaced, 0)
        ring.prep_read_fixed(file, first, 8)
        assert [cqe.res for cqe in finish(ring, 2)] == [8, 8]
        assert (one, three) == (PATTERN[8:16], PATTERN[:8])
        ring.register_buffers_update(0, [None])
        assert is_resizable(one)
        assert not is_resizable(three)


def test_update_outside_the_table_is_refused():
    with clean_ring() as ring:
        data = bytearray(1)
        ring.register_buffers_sparse(4)
        for offset, count in ((0, 5), (4, 1), (-1, 1), (1 << 40, 1), (3, 2), (0, 0)):
            with pytest.raises(ValueError, match="not all inside the 4 registered buffers"):
                ring.register_buffers_update(offset, [data] * count)
        assert is_resizable(data)


def test_update_that_fails_midway_says_how_far_it_came():
    with clean_ring() as ring, mmap.mmap(-1, 4096, prot=mmap.PROT_READ) as constant:
        old, new, last = bytearray(8), bytearray(8), bytearray(8)
        ring.register_buffers_tags([old, old, old], ["a", "b", "c"])
        with pytest.raises(OSError, match=r"cannot pin.*\(the first 1 were replaced\)"):
            ring.register_buffers_update_tag(0, [new, constant, last], ["x", "y", "z"])
        assert [cqe.user_data for cqe in ring.copy_cqes()] == ["a"]
        assert not is_resizable(new)
        assert not is_resizable(old)
        assert is_resizable(last)
        ring.unregister_buffers()
        assert sorted(cqe.user_data for cqe in ring.copy_cqes()) == ["b", "c", "x"]
        assert is_resizable(new)
        assert is_resizable(old)


# ---- what is held, and until when ---------------------------------------------------------------


def test_registered_buffer_cannot_be_resized_until_it_is_unregistered():
    with clean_ring() as ring:
        data = bytearray(100)
        (registered,) = ring.register_buffers([data])
        assert not is_resizable(data)
        ring.unregister_buffers()
        assert is_resizable(data)  # though `registered` still exists
        assert "unregistered" in repr(registered)


@each_setup
def test_operation_in_flight_keeps_the_memory_of_an_unregistered_buffer(flags, pipe):
    data = bytearray(100)
    with clean_ring(flags=flags) as ring:
        (registered,) = ring.register_buffers([data])
        waiting_fixed_read(ring, pipe[0], registered[10:20], user_data="read")
        ring.unregister_buffers()
        assert not is_resizable(data)
        os.write(pipe[1], b"late")
        assert results(finish(ring)) == {"read": 4}
        assert data[10:14] == b"late"
        assert is_resizable(data)


@each_setup
def test_operation_in_flight_goes_on_with_the_buffer_that_was_replaced(flags, pipe, file):
    old, new = bytearray(10), bytearray(10)
    with clean_ring(flags=flags) as ring:
        (registered,) = ring.register_buffers([old])
        waiting_fixed_read(ring, pipe[0], registered, user_data="old")
        (registered,) = ring.register_buffers_update(0, [new])
        assert not is_resizable(old)
        ring.prep_read_fixed(file, registered, 0, user_data="new")
        assert results(finish(ring)) == {"new": 10}
        os.write(pipe[1], b"to the old")
        assert results(finish(ring)) == {"old": 10}
        assert (old, new) == (b"to the old", PATTERN[:10])
        assert is_resizable(old)
        assert not is_resizable(new)


def test_operation_prepared_before_its_place_was_replaced_touches_neither(file):
    old, new = bytearray(10), bytearray(10)
    with clean_ring() as ring:
        (registered,) = ring.register_buffers([old])
        ring.prep_read_fixed(file, registered, 0)
        ring.register_buffers_update(0, [new])
        assert not is_resizable(old)
        assert finish(ring)[0].res == -errno.EFAULT
        assert (old, new) == (bytes(10), bytes(10))
        assert is_resizable(old)


def test_memoryview_of_a_registered_buffer_keeps_its_memory():
    with clean_ring() as ring:
        data = bytearray(10)
        (registered,) = ring.register_buffers([data])
        view = registered[2:4]
        ring.unregister_buffers()
        assert not is_resizable(data)
        view[0] = 7
        assert data[2] == 7
        view.release()
        del view
        assert is_resizable(data)


def test_closing_the_ring_lets_go_of_its_buffers(pipe):
    data, used = bytearray(10), bytearray(10)
    ring = Ring(8)
    _, registered = ring.register_buffers([data, used])
    waiting_fixed_read(ring, pipe[0], registered)
    ring.close()
    assert is_resizable(data)
    assert is_resizable(used)
    assert not registered.registered
    with pytest.raises(ValueError, match="no longer registered"):
        bytes(registered)


def test_dropped_ring_leaks_only_the_buffer_in_flight(pipe):
    before = leaked_operations()
    idle, used = bytearray(10), bytearray(10)
    ring = Ring(8)
    _, registered = ring.register_buffers([idle, used])
    waiting_fixed_read(ring, pipe[0], registered)
    del registered
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del ring
        gc.collect()
    assert leaked_operations() == before + 1
    assert is_resizable(idle)
    assert not is_resizable(used)


def test_cycle_through_a_registered_buffer_is_collected():
    class Buffer(bytearray):
        pass

    data = Buffer(10)
    ring = Ring(8)
    data.registered = ring.register_buffers([data])
    data.ring = ring
    alive = weakref.ref(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del data, ring
        gc.collect()
    assert alive() is None


def test_code_run_by_the_arguments_cannot_take_the_table_away(file):
    data = bytearray(10)

    class Ender:
        def fileno(self):
            ring.unregister_buffers()
            return file.fileno()

        def __index__(self):
            ring.unregister_buffers()
            return 0

    def closing():
        yield data
        ring.close()

    with clean_ring() as ring:
        (registered,) = ring.register_buffers([data])
        with pytest.raises(ValueError, match="no longer registered"):
            ring.prep_read_fixed(Ender(), registered, 0)
        ring.register_buffers([data])
        with pytest.raises(ValueError, match="this ring has no registered buffers"):
            ring.prep_write_fixed(file, data, 0, Ender())
        with pytest.raises(ValueError, match="closed ring"):
            ring.register_buffers(closing())
    assert is_resizable(data)


def test_fork_leaves_the_parents_registered_memory_to_the_parent(run_script):
    # The child writes first: without care the parent would then write to a copy of the page, and
    # the kernel to the original.
    done = run_script(textwrap.dedent("""
        import os, tempfile
        from ferrule.ring import Ring
        data = bytearray(b"before" + bytes(10000))
        with Ring(8) as ring, tempfile.TemporaryFile() as file:
            (registered,) = ring.register_buffers([data])
            pid = os.fork()
            if pid == 0:
                data[:6] = b"child!"
                try:
                    ring.prep_write_fixed(file, registered, 0)
                except RuntimeError:
                    os._exit(7 if bytes(registered[:6]) == b"child!" else 1)
                os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            data[:6] = b"parent"
            ring.prep_write_fixed(file, registered[:6], 0)
            ring.submit_and_wait(1)
            assert ring.copy_cqe().res == 6
            assert file.read() == b"parent"
            file.seek(0)
            ring.prep_read_fixed(file, registered[100:106], 0)
            ring.submit_and_wait(1)
            assert data[100:106] == b"parent"
        """))
    assert done.returncode == 0, done.stderr


# ---- clones -------------------------------------------------------------------------------------


@each_setup
def test_clone_shares_the_buffers_of_another_ring(flags, file):
    data = bytearray(100)
    with clean_ring(flags=flags) as source, clean_ring(flags=flags) as ring:
        source.register_buffers([data, None])
        registered, none = ring.register_clone_buffers(source)
        assert none is None
        source.unregister_buffers()
        assert not is_resizable(data)
        ring.prep_read_fixed(file, registered[:50], 0)
        assert finish(ring)[0].res == 50
        assert data[:50] == PATTERN[:50]
        ring.unregister_buffers()
        assert is_resizable(data)


def test_clone_outlives_its_source_ring(file):
    data = bytearray(10)
    with clean_ring() as ring:
        with clean_ring() as source:
            source.register_buffers([data])
            (registered,) = ring.register_clone_buffers(source)
        ring.prep_read_fixed(file, registered, 0)
        assert finish(ring)[0].res == 10
        assert data == PATTERN[:10]
    assert is_resizable(data)


@each_setup
def test_clone_of_a_part_goes_where_it_is_told(flags, file):
    a, b, c, old = (bytearray(8) for _ in range(4))
    with clean_ring(flags=flags) as source, clean_ring(flags=flags) as ring:
        source.register_buffers([a, b, c])
        clones = ring.register_clone_buffers(source, src_offset=1, dst_offset=4)
        assert [clone.index for clone in clones] == [4, 5]
        with pytest.raises(ValueError, match="registered buffer 0 is empty"):
            ring.prep_read_fixed(file, a, 0, 0)
        ring.register_buffers_update(3, [old])
        with pytest.raises(OSError, match="has registered buffers already"):
            ring.register_clone_buffers(source)
        (clone,) = ring.register_clone_buffers(
            source, count=1, dst_offset=3, flags=CloneFlags.DST_REPLACE)
        assert is_resizable(old)
        for number, (registered, data) in enumerate(
                zip([clone, *clones], [a, b, c], strict=True)):
            ring.prep_read_fixed(file, registered, number)
            assert finish(ring)[0].res == 8
            assert data == PATTERN[number:number + 8]
        # Beyond the end the table grows.
        (clone,) = ring.register_clone_buffers(
            source, src_offset=2, dst_offset=10, flags=CloneFlags.DST_REPLACE)
        ring.prep_read_fixed(file, clone, 100)
        ring.prep_read_fixed(file, a, 200, 3)
        assert [cqe.res for cqe in finish(ring, 2)] == [8, 8]
        assert c == PATTERN[100:108]


def test_ring_can_clone_its_own_buffers(file):
    data = bytearray(8)
    with clean_ring() as ring:
        first, second = ring.register_buffers([data, bytearray(8)])
        (clone,) = ring.register_clone_buffers(
            ring, count=1, dst_offset=1, flags=CloneFlags.DST_REPLACE)
        assert first.registered
        assert not second.registered
        ring.register_buffers_update(0, [None])
        ring.prep_read_fixed(file, clone, 3)
        assert finish(ring)[0].res == 8
        assert data == PATTERN[3:11]
        ring.unregister_buffers()
        assert is_resizable(data)


def test_clone_can_name_its_source_by_the_registered_descriptor():
    with clean_ring() as source, clean_ring() as ring:
        source.register_buffers([bytearray(8)])
        with pytest.raises(ValueError, match="no registered descriptor"):
            ring.register_clone_buffers(source, flags=CloneFlags.SRC_REGISTERED)
        source.register_ring_fd()
        assert len(ring.register_clone_buffers(source, flags=CloneFlags.SRC_REGISTERED)) == 1


@pytest.mark.skipif(bool(unavailable(ONLY_AN_INDEX)), reason="no REGISTERED_FD_ONLY here")
def test_source_of_a_clone_may_have_no_descriptor_at_all(file):
    data = bytearray(8)
    with clean_ring(flags=ONLY_AN_INDEX) as source, clean_ring() as ring:
        source.register_buffers([data])
        (registered,) = ring.register_clone_buffers(source)
        ring.prep_read_fixed(file, registered, 0)
        assert finish(ring)[0].res == 8
        assert data == PATTERN[:8]


def test_wrong_clones_are_refused():
    with clean_ring() as source, clean_ring() as ring:
        with pytest.raises(OSError, match="the source ring has no registered buffers") as caught:
            ring.register_clone_buffers(source)
        assert caught.value.errno == errno.ENXIO
        data = bytearray(8)
        source.register_buffers([data, data])
        for wrong in ({"src_offset": 2}, {"src_offset": -1}, {"count": 3}, {"count": 0},
                      {"src_offset": 1, "count": 2}):
            with pytest.raises(ValueError, match="beyond the 2 buffers of the source ring"):
                ring.register_clone_buffers(source, **wrong)
        for wrong in (-1, 16383, 1 << 40):
            with pytest.raises(ValueError, match="must be from 1 to 16384"):
                ring.register_clone_buffers(source, dst_offset=wrong)
        with pytest.raises(TypeError):
            ring.register_clone_buffers(source.fileno())
        with pytest.raises(OSError, match="Invalid argument"):
            ring.register_clone_buffers(source, flags=0x80)
        source.unregister_buffers()
        assert is_resizable(data)
    with clean_ring() as ring, pytest.raises(ValueError, match="closed ring"):
        ring.register_clone_buffers(source)


# ---- tags ---------------------------------------------------------------------------------------


def tags_of(cqes):
    assert all(cqe.is_tag and cqe.res == 0 and cqe.opcode == Op.NOP for cqe in cqes)
    return sorted((cqe.user_data for cqe in cqes), key=str)


@each_setup
def test_tag_of_a_buffer_comes_when_its_place_is_emptied(flags):
    with clean_ring(flags=flags) as ring:
        tag = object()
        ring.register_buffers_tags([bytearray(8)] * 3 + [None], [tag, "b", None, None])
        assert ring.copy_cqes() == []
        ring.register_buffers_update(1, [None])
        assert tags_of(finish(ring)) == ["b"]
        ring.unregister_buffers()
        assert [cqe.user_data for cqe in finish(ring)] == [tag]
        assert ring.copy_cqes() == []


@each_setup
def test_tag_of_a_buffer_does_not_come_before_the_last_operation_on_it(flags, pipe):
    data = bytearray(8)
    with clean_ring(flags=flags) as ring:
        (registered,) = ring.register_buffers_tags([data], ["free"])
        waiting_fixed_read(ring, pipe[0], registered[:4], user_data=1)
        waiting_fixed_read(ring, pipe[0], registered[4:], user_data=2)
        ring.unregister_buffers()
        assert ring.copy_cqes(8, 1, 0.05) == []
        os.write(pipe[1], b"1234")
        assert finish(ring)[0].res == 4
        assert ring.copy_cqes(8, 1, 0.05) == []
        os.write(pipe[1], b"5678")
        last, tag = finish(ring, 2)
        assert (last.res, last.is_tag) == (4, False)
        assert (tag.user_data, tag.is_tag) == ("free", True)
        assert sorted(data) == sorted(b"12345678")  # which read came first is not defined


@each_setup
def test_tag_given_at_an_update_follows_the_new_buffer(flags):
    with clean_ring(flags=flags) as ring:
        ring.register_buffers_sparse(2)
        ring.register_buffers_update_tag(0, [bytearray(8), bytearray(8)], ["one", "two"])
        ring.register_buffers_update_tag(0, [bytearray(8)], ["three"])
        assert tags_of(finish(ring)) == ["one"]
        ring.unregister_buffers()
        assert tags_of(finish(ring, 2)) == ["three", "two"]


@each_setup
def test_tag_of_a_file_comes_when_its_place_is_emptied(flags, file):
    with clean_ring(flags=flags) as ring:
        ring.register_files_tags([file, file, -1, file], ["a", None, None, "d"])
        ring.register_files_update(0, [-1])
        assert tags_of(finish(ring)) == ["a"]
        ring.register_files_update_tag(1, [file, file], ["b", "c"])
        assert ring.copy_cqes() == []
        ring.unregister_files()
        assert tags_of(finish(ring, 3)) == ["b", "c", "d"]


@each_setup
def test_tag_of_a_file_does_not_come_before_the_last_operation_on_it(flags, pipe):
    with clean_ring(flags=flags) as ring:
        ring.register_files_tags([pipe[0]], ["free"])
        data = bytearray(8)
        ring.prep_read(0, data, user_data="read").use_registered_fd()
        hand_over(ring)
        ring.register_files_update(0, [-1])
        assert ring.copy_cqes(8, 1, 0.05) == []
        os.write(pipe[1], b"x")
        read, tag = finish(ring, 2)
        assert (read.user_data, read.res) == ("read", 1)
        assert (tag.user_data, tag.is_tag) == ("free", True)


@each_setup
def test_opening_into_a_tagged_place_frees_what_was_there(flags, file, tmp_path):
    with clean_ring(flags=flags) as ring:
        ring.register_files_tags([file], ["replaced"])
        (tmp_path / "new").write_bytes(b"new")
        sqe = ring.prep_openat(None, tmp_path / "new", os.O_RDONLY, user_data="open")
        sqe.file_index = 1  # place 0
        assert {cqe.user_data: cqe.is_tag for cqe in finish(ring, 2)} == {
            "open": False, "replaced": True}


def test_tags_can_be_any_object_and_are_let_go_when_they_came():
    with clean_ring() as ring:
        tag = Tag()
        alive = weakref.ref(tag)
        ring.register_buffers_tags([bytearray(8)] * 4, [tag, 0, (), ring])
        del tag
        gc.collect()
        assert alive() is not None
        ring.unregister_buffers()
        came = [cqe.user_data for cqe in ring.copy_cqes()]
        assert alive() in came
        assert {type(tag) for tag in came} == {Tag, int, tuple, Ring}
        del came
        gc.collect()
        assert alive() is None


def test_tag_can_be_peeked_at_and_then_seen():
    with clean_ring() as ring:
        ring.register_buffers_tags([bytearray(8)], ["tag"])
        ring.unregister_buffers()
        for _ in range(2):
            cqe = ring.wait_cqe(1)
            assert (cqe.user_data, cqe.is_tag, cqe.more) == ("tag", True, False)
        ring.cqe_seen(cqe)
        assert ring.peek_cqe() is None


def test_tag_is_no_operation_to_be_cancelled():
    with clean_ring() as ring:
        ring.register_buffers_tags([bytearray(8)], ["tag"])
        ring.prep_cancel("tag", user_data="cancel")
        assert results(finish(ring)) == {"cancel": -errno.ENOENT}
        assert ring.statistics().in_flight == 0


def test_as_many_tags_as_places_and_none_for_an_empty_place(file):
    with clean_ring() as ring:
        data = bytearray(8)
        for register, things in ((ring.register_buffers_tags, [data, None]),
                                 (ring.register_files_tags, [file, -1])):
            with pytest.raises(ValueError, match="2 places need as many tags, not 1"):
                register(things, ["a"])
            with pytest.raises(ValueError, match="tag 1 is for an empty place"):
                register(things, ["a", "b"])
        ring.register_buffers_sparse(2)
        ring.register_files_sparse(2)
        for update, things in ((ring.register_buffers_update_tag, [data, None]),
                               (ring.register_files_update_tag, [file, REGISTER_FILES_SKIP])):
            with pytest.raises(ValueError, match="2 places need as many tags, not 3"):
                update(0, things, "abc")
            with pytest.raises(ValueError, match="tag 1 is for an empty place"):
                update(0, things, "ab")
        assert is_resizable(data)
        assert ring.copy_cqes() == []


def test_tags_of_a_closed_ring_are_let_go():
    tag = Tag()
    alive = weakref.ref(tag)
    with clean_ring() as ring:
        ring.register_buffers_tags([bytearray(8)], [tag])
        del tag
        assert alive() is not None
    gc.collect()
    assert alive() is None


def test_tags_survive_an_overflow_of_the_completion_queue():
    with clean_ring(2, cq_entries=4) as ring:
        ring.register_buffers_tags([bytearray(8)] * 40, range(40))
        ring.unregister_buffers()
        came = []
        while len(came) < 40:
            cqes = ring.copy_cqes(40, 1, 5)
            assert cqes
            came += [cqe.user_data for cqe in cqes]
        assert sorted(came) == list(range(40))


# ---- files --------------------------------------------------------------------------------------


def fixed_read(ring, place, size=8, offset=0):
    data = bytearray(size)
    ring.prep_read(place, data, offset).use_registered_fd()
    res = finish(ring)[0].res
    return bytes(data[:res]) if res >= 0 else res


@each_setup
def test_registered_file_is_read_by_its_index(flags, file):
    with clean_ring(flags=flags) as ring:
        ring.register_files([-1, file, file.fileno()])
        assert fixed_read(ring, 1) == PATTERN[:8]
        assert fixed_read(ring, 2, offset=3) == PATTERN[3:11]
        for place in (0, 3, 1 << 20):
            assert fixed_read(ring, place) == -errno.EBADF


@each_setup
def test_registered_file_outlives_its_descriptor(flags, tmp_path):
    (tmp_path / "f").write_bytes(PATTERN[:8])
    with clean_ring(flags=flags) as ring:
        with open(tmp_path / "f", "rb") as file:
            ring.register_files([file])
        assert fixed_read(ring, 0) == PATTERN[:8]


@each_setup
def test_update_of_files_replaces_skips_and_empties(flags, file, tmp_path):
    (tmp_path / "f").write_bytes(b"other")
    with clean_ring(flags=flags) as ring, open(tmp_path / "f", "rb") as other:
        ring.register_files_sparse(4)
        assert fixed_read(ring, 0) == -errno.EBADF
        assert ring.register_files_update(0, [file, file, other]) == 3
        assert ring.register_files_update(0, [other, REGISTER_FILES_SKIP, -1]) == 3
        assert [fixed_read(ring, place, 5) for place in range(4)] == [
            b"other", PATTERN[:5], -errno.EBADF, -errno.EBADF]


@each_setup
def test_operation_in_flight_goes_on_with_the_file_that_was_replaced(flags, pipe, file):
    with clean_ring(flags=flags) as ring:
        ring.register_files([pipe[0]])
        data = bytearray(8)
        ring.prep_read(0, data, user_data="pipe").use_registered_fd()
        hand_over(ring)
        ring.register_files_update(0, [file])
        os.close(pipe[0])
        assert fixed_read(ring, 0) == PATTERN[:8]
        os.write(pipe[1], b"piped")
        assert results(finish(ring)) == {"pipe": 5}
        assert data[:5] == b"piped"


@each_setup
def test_files_can_be_unregistered_with_operations_on_them_in_flight(flags, pipe):
    with clean_ring(flags=flags) as ring:
        ring.register_files([pipe[0]])
        data = bytearray(8)
        ring.prep_read(0, data, user_data="read").use_registered_fd()
        ring.prep_poll_add(0, select.POLLIN, user_data="poll").use_registered_fd()
        hand_over(ring)
        ring.unregister_files()
        ring.register_files([pipe[1]])
        ring.prep_write(0, b"data", user_data="write").use_registered_fd()
        came = results(finish(ring, 3))
        assert came["write"] == 4
        assert came["read"] == 4
        assert came["poll"] & select.POLLIN


def test_table_of_files_is_made_once_and_taken_down_once(file):
    with clean_ring() as ring:
        for call in (ring.unregister_files, lambda: ring.register_files_update(0, [file])):
            with pytest.raises(OSError, match="no files are registered") as caught:
                call()
            assert caught.value.errno == errno.ENXIO
        ring.register_files([file])
        for again in (lambda: ring.register_files([file]), lambda: ring.register_files_sparse(4),
                      lambda: ring.register_files_tags([file], [1]),
                      lambda: ring.register_file_table(4)):
            with pytest.raises(OSError, match="has registered files already") as caught:
                again()
            assert caught.value.errno == errno.EBUSY
        ring.unregister_files()
        ring.register_files_sparse(1)


def test_wrong_files_and_counts_are_refused(file):
    closed = os.dup(file.fileno())
    os.close(closed)
    with clean_ring() as ring:
        with pytest.raises(ValueError, match="at least one place"):
            ring.register_files([])
        for count in (0, -1, (1 << 20) + 1):
            with pytest.raises(ValueError, match="from 1 to 1048576"):
                ring.register_files_sparse(count)
        for wrong in ([file, closed], [ring]):
            with pytest.raises(OSError, match="not an open descriptor, or is itself") as caught:
                ring.register_files(wrong)
            assert caught.value.errno == errno.EBADF
        with pytest.raises(TypeError):
            ring.register_files(["name"])
        ring.register_files_sparse(2)
        for offset, count in ((-1, 1), (0, 0), (1 << 21, 1)):
            with pytest.raises(ValueError, match="no files, or an offset that no table has"):
                ring.register_files_update(offset, [file] * count)
        for offset, count in ((2, 1), (1, 2)):
            with pytest.raises(OSError, match="Invalid argument"):
                ring.register_files_update(offset, [file] * count)


def test_update_of_files_that_fails_midway_says_how_far_it_came(file):
    with clean_ring() as ring:
        ring.register_files_tags([-1, -1, -1, file, file], [None, None, None, "old", "kept"])
        with pytest.raises(OSError, match=r"\(the first 2 were replaced\)") as caught:
            ring.register_files_update_tag(1, [file, file, 1 << 20, file], "abcd")
        assert caught.value.errno == errno.EBADF
        # The kernel empties a place before it looks at what shall come there.
        assert tags_of(finish(ring)) == ["old"]
        assert [fixed_read(ring, place, 2) for place in range(5)] == [
            -errno.EBADF, PATTERN[:2], PATTERN[:2], -errno.EBADF, PATTERN[:2]]
        ring.unregister_files()
        assert tags_of(finish(ring, 3)) == ["a", "b", "kept"]


def test_more_files_than_the_process_may_open_are_told_with_the_remedy(run_script):
    done = run_script(textwrap.dedent("""
        import errno, resource
        from ferrule.ring import Ring
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        with Ring(8) as ring:
            for register in (lambda: ring.register_files([-1] * 101),
                             lambda: ring.register_files_sparse(101),
                             lambda: ring.register_file_table(101)):
                try:
                    register()
                except OSError as error:
                    assert error.errno == errno.EMFILE
                    print(error)
            ring.register_files_sparse(100)
        """))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("101 files are more than RLIMIT_NOFILE (100)") == 3
    assert "ulimit -n" in done.stdout


@each_setup
def test_kernel_picks_places_of_the_range_it_was_given(flags, tmp_path):
    (tmp_path / "f").write_bytes(b"x")

    def opened():
        sqe = ring.prep_openat(None, tmp_path / "f", os.O_RDONLY)
        sqe.file_index = FILE_INDEX_ALLOC
        return finish(ring)[0].res

    with clean_ring(flags=flags) as ring:
        ring.register_files_sparse(10)
        ring.register_file_alloc_range(4, 3)
        assert [opened() for _ in range(4)] == [4, 5, 6, -errno.ENFILE]
        ring.register_files_update(5, [-1])
        assert opened() == 5
        ring.register_file_alloc_range(9, 1)
        assert opened() == 9
        ring.register_file_alloc_range(0, 0)
        assert opened() == -errno.ENFILE


def test_range_outside_the_table_is_refused():
    with clean_ring() as ring:
        with pytest.raises(ValueError, match="not all inside a table"):
            ring.register_file_alloc_range(0, 1)
        ring.register_files_sparse(10)
        for offset, length in ((0, 11), (10, 1), (5, 6), (1, 0xFFFFFFFF), (0xFFFFFFFF, 1)):
            with pytest.raises(ValueError, match="not all inside a table"):
                ring.register_file_alloc_range(offset, length)
        with pytest.raises(OverflowError):
            ring.register_file_alloc_range(-1, 1)


@each_setup
def test_place_can_be_used_again_at_once(flags, tmp_path):
    # As liburing's fixed-reuse: open into a place, read, close it, in one chain, many times.
    for number in range(3):
        (tmp_path / str(number)).write_bytes(b"%d" % number * 8)
    with clean_ring(16, flags=flags) as ring:
        ring.register_files_sparse(1)
        for number in [0, 1, 2] * 5:
            data = bytearray(8)
            sqe = ring.prep_openat(None, tmp_path / str(number), os.O_RDONLY, user_data="open")
            sqe.file_index = 1
            sqe.link()
            ring.prep_read(0, data, 0, user_data="read").use_registered_fd().link()
            sqe = ring.prep_close(0, user_data="close")
            sqe.file_index = 1
            assert results(finish(ring, 3)) == {"open": 0, "read": 8, "close": 0}
            assert data == b"%d" % number * 8


@each_setup
def test_update_in_the_middle_of_traffic_never_mixes_files(flags, tmp_path):
    # As liburing's fixed-link and a0908ae: reads that were submitted before an update see the old
    # file, those after it the new one.
    names = [tmp_path / name for name in "ab"]
    for name in names:
        name.write_bytes(name.name.encode() * 8)
    with clean_ring(64, flags=flags) as ring:
        files = [open(name, "rb") for name in names]  # noqa: SIM115 - closed below
        ring.register_files([files[0]] * 4)
        for turn in range(20):
            data = [bytearray(8) for _ in range(8)]
            for i, buffer in enumerate(data):
                ring.prep_read(i % 4, buffer, 0).use_registered_fd()
            assert {cqe.res for cqe in finish(ring, 8)} == {8}
            assert {bytes(buffer) for buffer in data} == {b"ab"[turn % 2:turn % 2 + 1] * 8}
            ring.register_files_update(0, [files[(turn + 1) % 2]] * 4)
        for file in files:
            file.close()


def test_registered_socket_is_shut_only_when_its_last_holder_is_gone():
    with clean_ring() as ring:
        left, right = socket.socketpair()
        ring.register_files([left])
        left.close()
        ring.prep_send(0, b"through the table").use_registered_fd()
        assert finish(ring)[0].res == 17
        assert right.recv(100) == b"through the table"
        ring.unregister_files()
        right.settimeout(5)
        assert right.recv(1) == b""
        right.close()


def test_files_and_buffers_need_a_kernel_that_has_them(hidden_operations):
    hidden_operations(Op.SOCKET, Op.SEND_ZC, Op.LISTEN)
    with clean_ring() as ring, clean_ring() as source:
        source.register_buffers([b"x"])
        for call, since in ((lambda: ring.register_buffers_sparse(1), r"5\.19"),
                            (lambda: ring.register_file_alloc_range(0, 0), r"6\.0"),
                            (lambda: ring.register_clone_buffers(source), r"6\.12")):
            with pytest.raises(NotSupported, match=f"needs Linux {since}"):
                call()
        ring.register_files_sparse(2)  # by a list of nothings
        assert fixed_read(ring, 1) == -errno.EBADF


def test_registered_memory_of_a_process_that_ends_is_no_business_of_anybody(tmp_path):
    # Interpreter exit with everything registered and an operation in flight.
    script = textwrap.dedent("""
        import os
        from ferrule.ring import Ring
        ring = Ring(8)
        buffers = ring.register_buffers_tags([bytearray(100)], [object()])
        pool = None
        ring.register_files([0])
        read, write = os.pipe()
        ring.prep_read_fixed(read, buffers[0])
        ring.submit()
        """)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True,
                          text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_limit_of_locked_memory_does_not_matter_to_a_root_user():
    if os.geteuid() != 0:
        pytest.skip("only root has CAP_IPC_LOCK")
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, hard))
    try:
        with clean_ring() as ring:
            ring.register_buffers([bytearray(1 << 20)])
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))


# ---- everything at once -------------------------------------------------------------------------


class Juggler:
    """Does what it likes with a ring's table of buffers, and knows what must come of it."""

    def __init__(self, ring, other, seed):
        self.ring, self.other = ring, other
        self.chance = random.Random(seed)
        self.buffers = [bytearray(64) for _ in range(6)]
        self.registered = []
        self.given_tags = 0
        self.tags = []
        self.pipes = []          # (read end, write end, buffer) of each read in flight
        self.views = []

    def new_tags(self, count):
        first = self.given_tags
        self.given_tags += count
        return [("tag", number) for number in range(first, first + count)]

    def step(self):
        self.chance.choice([self.register, self.update, self.update, self.unregister, self.clone,
                            self.read, self.read, self.read, self.feed, self.feed, self.cancel,
                            self.view, self.forget])()
        self.take(self.ring.copy_cqes())

    def take(self, cqes):
        for cqe in cqes:
            if cqe.is_tag:
                self.tags.append(cqe.user_data)
            elif isinstance(cqe.user_data, tuple):
                assert cqe.res in (3, CANCELED)
                self.end(cqe.user_data)

    def end(self, pipe):
        self.pipes.remove(pipe)
        os.close(pipe[0])
        os.close(pipe[1])

    def register(self):
        if not self.registered:
            chosen = self.chance.sample(self.buffers, 4)
            self.registered = self.ring.register_buffers_tags(chosen, self.new_tags(4))

    def update(self):
        if self.registered:
            place = self.chance.randrange(4)
            self.registered[place:place + 1] = self.ring.register_buffers_update_tag(
                place, [self.chance.choice(self.buffers)], self.new_tags(1))

    def unregister(self):
        if self.registered:
            self.ring.unregister_buffers()
            self.registered = []

    def clone(self):
        if self.registered:
            self.other.register_clone_buffers(self.ring, flags=CloneFlags.DST_REPLACE)
            if self.chance.random() < 0.5:
                self.other.unregister_buffers()

    def read(self):
        if self.registered and len(self.pipes) < 12:
            ends = os.pipe()
            start = self.chance.randrange(60)
            sqe = self.ring.prep_read_fixed(
                ends[0], self.chance.choice(self.registered)[start:start + 3], user_data=ends)
            self.pipes.append(ends)
            hand_over(self.ring)
            assert sqe.submitted

    def feed(self):
        if self.pipes:
            os.write(self.chance.choice(self.pipes)[1], b"abc")
            self.ring.get_events()

    def cancel(self):
        if self.pipes:
            self.ring.prep_cancel(self.chance.choice(self.pipes), user_data="cancel")
            hand_over(self.ring)

    def view(self):
        if self.registered:
            self.views.append(self.chance.choice(self.registered)[1:2])

    def forget(self):
        self.views = self.views[:1]
        if self.chance.random() < 0.2:
            gc.collect()

    def finish(self):
        self.unregister()
        if self.other is not None:
            self.other.close()
        self.views.clear()
        for pipe in self.pipes:
            os.write(pipe[1], b"abc")
        while self.pipes or len(self.tags) < self.given_tags:
            cqes = self.ring.copy_cqes(100, 1, 5)
            assert cqes, f"{len(self.pipes)} reads and {self.given_tags - len(self.tags)} tags miss"
            self.take(cqes)
        assert sorted(self.tags) == [("tag", number) for number in range(self.given_tags)]
        assert all(is_resizable(buffer) for buffer in self.buffers)


@each_setup
def test_in_whatever_order_every_tag_comes_once_and_every_buffer_is_let_go(flags):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    with clean_ring(64, flags=flags) as ring, Ring(1, flags=flags) as other:
        juggler = Juggler(ring, other, seed)
        for _ in range(400):
            juggler.step()
        juggler.finish()


@with_the_gil
def test_threads_that_change_one_table_are_kept_apart():
    # The GIL is released while memory is pinned; a second change meanwhile is refused.
    buffers = [bytearray(1 << 20) for _ in range(4)]
    deadline = time.monotonic() + 0.5
    wrong = []

    def change(seed):
        chance = random.Random(seed)
        calls = [lambda: ring.register_buffers_tags(buffers, range(4)),
                 lambda: ring.register_buffers_update(1, [buffers[0]]),
                 ring.unregister_buffers, ring.copy_cqes]
        while time.monotonic() < deadline and not wrong:
            try:
                chance.choice(calls)()
            except (RuntimeError, OSError) as error:
                if not re.search("another thread is changing|are registered|already", str(error)):
                    wrong.append(error)

    with clean_ring(flags=0) as ring:
        threads = [threading.Thread(target=change, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
    assert all(map(is_resizable, buffers))
