"""Operations on files and paths: what each does, what it refuses, what it holds."""

import contextlib
import errno
import gc
import mmap
import os
import stat
import time
import weakref
from collections.abc import Callable

import pytest

from ferrule._core.ring import FileOperations
from ferrule.ring import (
    AT_FDCWD,
    FILE_INDEX_ALLOC,
    REGISTER_FILES_SKIP,
    AtFlags,
    FallocateFlags,
    Features,
    FixedFdFlags,
    FsyncFlags,
    NotSupported,
    Op,
    RenameFlags,
    ResolveFlags,
    Ring,
    SpliceFlags,
    SqeFlags,
    SyncFileRangeFlags,
)
from ring_support import (
    CANCELED,
    clean_ring,
    each_setup,
    finish,
    hand_over,
    results,
)

PAGE = mmap.PAGESIZE
BEYOND = 1 << 63  # no offset is as large
ALL_WRITES = (
    SyncFileRangeFlags.WAIT_BEFORE | SyncFileRangeFlags.WRITE | SyncFileRangeFlags.WAIT_AFTER
)


def res(ring):
    """Submit the one operation that is queued: its result."""
    return finish(ring)[0].res


@pytest.fixture
def file(tmp_path):
    with open(tmp_path / "file", "w+b", buffering=0) as file:
        file.write(b"0123456789")
        yield file


@pytest.fixture
def pipe():
    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0) as reader, open(write_end, "wb", buffering=0) as writer:
        yield reader, writer


@pytest.fixture
def pages():
    with mmap.mmap(-1, 2 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
        yield pages


@pytest.fixture
def attributes(file):
    """A file that can have extended attributes."""
    try:
        os.setxattr(file.name, "user.ferrule", b"there")
    except OSError as error:
        pytest.skip(f"the file system of {file.name} has no user attributes: {error.strerror}")
    return file


class Held:
    """A file whose life can be watched."""

    def __init__(self, file):
        self.file = file

    def fileno(self):
        return self.file.fileno()


@contextlib.contextmanager
def with_slots(count, **options):
    """A ring with `count` empty slots in its file table."""
    with clean_ring(**options) as ring:
        ring.register_files([-1] * count)
        yield ring


# ---- what holds for every one of them ------------------------------------------------------------

# name: (Op, how to prepare it) on `to`, a Ring or an SQE, with paths in `folder`
PREPARATIONS: dict[str, tuple[Op, Callable]] = {
    "read": (Op.READ, lambda to, file, folder: to.prep_read(file, bytearray(1), 0)),
    "write": (Op.WRITE, lambda to, file, folder: to.prep_write(file, b"x", 0)),
    "readv": (Op.READV, lambda to, file, folder: to.prep_readv(file, [bytearray(1)], 0)),
    "writev": (Op.WRITEV, lambda to, file, folder: to.prep_writev(file, [b"x"], 0)),
    "readv2": (Op.READV, lambda to, file, folder: to.prep_readv2(file, [bytearray(1)], 0, 0)),
    "writev2": (Op.WRITEV, lambda to, file, folder: to.prep_writev2(file, [b"x"], 0, 0)),
    "splice": (Op.SPLICE, lambda to, file, folder: to.prep_splice(file, file, 1)),
    "tee": (Op.TEE, lambda to, file, folder: to.prep_tee(file, file, 1)),
    "fsync": (Op.FSYNC, lambda to, file, folder: to.prep_fsync(file)),
    "sync_file_range": (
        Op.SYNC_FILE_RANGE, lambda to, file, folder: to.prep_sync_file_range(file, 0, 0, 0)),
    "fallocate": (Op.FALLOCATE, lambda to, file, folder: to.prep_fallocate(file, 0, 0, 100)),
    "ftruncate": (Op.FTRUNCATE, lambda to, file, folder: to.prep_ftruncate(file, 0)),
    "fadvise": (Op.FADVISE, lambda to, file, folder: to.prep_fadvise(file, 0, 0, 0)),
    "fadvise64": (Op.FADVISE, lambda to, file, folder: to.prep_fadvise64(file, 0, 0, 0)),
    "madvise": (Op.MADVISE, lambda to, file, folder: to.prep_madvise(bytearray(PAGE), 0)),
    "madvise64": (Op.MADVISE, lambda to, file, folder: to.prep_madvise64(bytearray(PAGE), 0)),
    "open": (Op.OPENAT, lambda to, file, folder: to.prep_open(folder / "made", os.O_CREAT)),
    "openat": (
        Op.OPENAT, lambda to, file, folder: to.prep_openat(None, folder / "made", os.O_CREAT)),
    "openat2": (
        Op.OPENAT2, lambda to, file, folder: to.prep_openat2(None, folder / "made", os.O_CREAT)),
    "open_direct": (
        Op.OPENAT, lambda to, file, folder: to.prep_open_direct(folder / "made", os.O_CREAT)),
    "openat_direct": (
        Op.OPENAT,
        lambda to, file, folder: to.prep_openat_direct(None, folder / "made", os.O_CREAT)),
    "openat2_direct": (
        Op.OPENAT2,
        lambda to, file, folder: to.prep_openat2_direct(None, folder / "made", os.O_CREAT)),
    "close": (Op.CLOSE, lambda to, file, folder: to.prep_close(file)),
    "close_direct": (Op.CLOSE, lambda to, file, folder: to.prep_close_direct(0)),
    "files_update": (Op.FILES_UPDATE, lambda to, file, folder: to.prep_files_update([file], 0)),
    "fixed_fd_install": (
        Op.FIXED_FD_INSTALL, lambda to, file, folder: to.prep_fixed_fd_install(0)),
    "pipe": (Op.PIPE, lambda to, file, folder: to.prep_pipe()),
    "pipe_direct": (Op.PIPE, lambda to, file, folder: to.prep_pipe_direct()),
    "statx": (Op.STATX, lambda to, file, folder: to.prep_statx(None, file.name)),
    "rename": (Op.RENAMEAT, lambda to, file, folder: to.prep_rename(file.name, folder / "made")),
    "renameat": (
        Op.RENAMEAT,
        lambda to, file, folder: to.prep_renameat(None, file.name, None, folder / "made")),
    "unlink": (Op.UNLINKAT, lambda to, file, folder: to.prep_unlink(file.name)),
    "unlinkat": (Op.UNLINKAT, lambda to, file, folder: to.prep_unlinkat(None, file.name)),
    "mkdir": (Op.MKDIRAT, lambda to, file, folder: to.prep_mkdir(folder / "made")),
    "mkdirat": (Op.MKDIRAT, lambda to, file, folder: to.prep_mkdirat(None, folder / "made")),
    "symlink": (Op.SYMLINKAT, lambda to, file, folder: to.prep_symlink("x", folder / "made")),
    "symlinkat": (
        Op.SYMLINKAT, lambda to, file, folder: to.prep_symlinkat("x", None, folder / "made")),
    "link": (Op.LINKAT, lambda to, file, folder: to.prep_link(file.name, folder / "made")),
    "linkat": (
        Op.LINKAT,
        lambda to, file, folder: to.prep_linkat(None, file.name, None, folder / "made")),
    "setxattr": (
        Op.SETXATTR, lambda to, file, folder: to.prep_setxattr(file.name, "user.made", b"x")),
    "fsetxattr": (
        Op.FSETXATTR, lambda to, file, folder: to.prep_fsetxattr(file, "user.made", b"x")),
    "getxattr": (Op.GETXATTR, lambda to, file, folder: to.prep_getxattr(file.name, "user.made")),
    "fgetxattr": (Op.FGETXATTR, lambda to, file, folder: to.prep_fgetxattr(file, "user.made")),
}
# It takes a group of buffers, and the tables' own take registered ones: they have their own tests.
ELSEWHERE = {"read_multishot"} | {
    name.removeprefix("prep_") for name in dir(FileOperations) if name.endswith("_fixed")
}
every_operation = pytest.mark.parametrize("name", PREPARATIONS)


def test_every_operation_on_files_is_in_the_table():
    own = {name for name in vars(FileOperations) if name.startswith("prep_")}
    assert {f"prep_{name}" for name in (*PREPARATIONS, *ELSEWHERE)} == own


@every_operation
def test_closed_ring_refuses_it(name, file, tmp_path):
    _, prepare = PREPARATIONS[name]
    with Ring(1) as ring:
        pass
    with pytest.raises(ValueError, match="closed ring"):
        prepare(ring, file, tmp_path)


@every_operation
def test_kernel_without_it_is_named_with_the_version_that_has_it(
    name, file, tmp_path, hidden_operations
):
    _, prepare = PREPARATIONS[name]
    with clean_ring() as ring:
        hidden_operations(*Op)
        with pytest.raises(NotSupported, match=r"needs Linux \d\.\d+"):
            prepare(ring, file, tmp_path)
        assert ring.sq_ready() == 0


@every_operation
def test_ring_and_sqe_prepare_it_alike(name, file, tmp_path):
    opcode, prepare = PREPARATIONS[name]
    with Ring(2) as ring:
        first = prepare(ring, file, tmp_path)
        second = ring.get_sqe("mine")
        assert prepare(second, file, tmp_path) is second
        assert first.opcode == second.opcode == opcode
        assert second.user_data == "mine"
        for field in ("fd", "len", "op_flags", "flags", "file_index"):
            assert getattr(first, field) == getattr(second, field), field


@every_operation
def test_full_queue_refuses_it(name, file, tmp_path):
    _, prepare = PREPARATIONS[name]
    with clean_ring(1) as ring:
        ring.prep_nop()
        with pytest.raises(RuntimeError, match="queue is full"):
            prepare(ring, file, tmp_path)
        finish(ring)


@each_setup
@every_operation
def test_cancelled_behind_a_failed_link_it_does_nothing(name, flags, file, tmp_path):
    _, prepare = PREPARATIONS[name]
    descriptor = file.fileno()
    with with_slots(2, flags=flags) as ring:
        ring.prep_close_direct(0, user_data="fails").link()
        prepare(ring, file, tmp_path).user_data = "cancelled"
        assert results(finish(ring, 2)) == {"fails": -errno.EBADF, "cancelled": CANCELED}
        ring.prep_fixed_fd_install(1)
        assert res(ring) == -errno.EBADF  # nothing was put there
    assert os.listdir(tmp_path) == ["file"]
    assert os.pread(descriptor, 20, 0) == b"0123456789"


@every_operation
def test_its_file_is_held_until_it_has_ended(name, file, tmp_path):
    _, prepare = PREPARATIONS[name]
    held = Held(file)
    held.name = file.name
    alive = weakref.ref(held)
    with Ring(2) as ring:
        sqe = prepare(ring, held, tmp_path)
        del held
        gc.collect()
        by_descriptor = name in {
            "read", "write", "readv", "writev", "readv2", "writev2", "splice", "tee", "fsync",
            "sync_file_range", "fallocate", "ftruncate", "fadvise", "fadvise64", "close",
            "files_update", "fsetxattr", "fgetxattr",
        }
        assert (alive() is not None) == by_descriptor
        sqe.prep_nop()
        assert alive() is None


@pytest.mark.parametrize(
    ("prepare", "error", "words"),
    [
        (lambda ring, file: ring.prep_read(file, bytearray(1), BEYOND), OverflowError, "large"),
        (lambda ring, file: ring.prep_read(file, bytearray(1), -2), ValueError, "offset"),
        (lambda ring, file: ring.prep_readv2(file, [bytearray(1)], -2, 0), ValueError, "offset"),
        (lambda ring, file: ring.prep_writev2(file, [b"x"], BEYOND, 0), OverflowError, "large"),
        (lambda ring, file: ring.prep_writev2(file, [b"x"], 0, -1), OverflowError, "negative"),
        (lambda ring, file: ring.prep_readv2(file, [b"x"], 0, 0), TypeError, "read-write"),
        (lambda ring, file: ring.prep_fsync(-1), ValueError, "descriptor"),
        (lambda ring, file: ring.prep_fsync(file, 0, -1, 1), ValueError, "offset"),
        (lambda ring, file: ring.prep_fsync(file, 0, BEYOND, 1), ValueError, "offset"),
        (lambda ring, file: ring.prep_fsync(file, 0, 0, -1), ValueError, "length"),
        (lambda ring, file: ring.prep_fsync(file, 0, 0, 1 << 32), ValueError, "length"),
        (lambda ring, file: ring.prep_fsync(file, 0, 4096), ValueError, "needs a length"),
        (lambda ring, file: ring.prep_fsync(file, 0, 1.5, 1), TypeError, "offset must be an int"),
        (lambda ring, file: ring.prep_sync_file_range(file, -1, 0, 0), ValueError, "offset"),
        (lambda ring, file: ring.prep_sync_file_range(file, BEYOND, 0, 0), ValueError, "offset"),
        (lambda ring, file: ring.prep_sync_file_range(file, 0, -1, 0), ValueError, "length"),
        (lambda ring, file: ring.prep_sync_file_range(file, 0, 1 << 32, 0), ValueError, "length"),
        (lambda ring, file: ring.prep_sync_file_range(file, 0, "1", 0), TypeError, "length"),
        (lambda ring, file: ring.prep_sync_file_range(None, 0, 0, 0), TypeError, "fileno"),
        (lambda ring, file: ring.prep_fallocate(file, 0, -1, 1), ValueError, "offset"),
        (lambda ring, file: ring.prep_fallocate(file, 0, BEYOND, 1), ValueError, "offset"),
        (lambda ring, file: ring.prep_fallocate(file, 0, 0, -1), ValueError, "length"),
        (lambda ring, file: ring.prep_fallocate(file, 0, 0, BEYOND), ValueError, "length"),
        (lambda ring, file: ring.prep_fallocate(file, 0, None, 1), TypeError, "offset"),
        (lambda ring, file: ring.prep_fallocate(file, -1, 0, 1), OverflowError, "large|negative"),
        (lambda ring, file: ring.prep_ftruncate(file, -1), ValueError, "length"),
        (lambda ring, file: ring.prep_ftruncate(file, BEYOND), ValueError, "length"),
        (lambda ring, file: ring.prep_ftruncate(file, 1.0), TypeError, "length"),
        (lambda ring, file: ring.prep_fadvise(file, -1, 0, 0), ValueError, "offset"),
        (lambda ring, file: ring.prep_fadvise(file, 0, 1 << 32, 0), ValueError, "length"),
        (lambda ring, file: ring.prep_fadvise64(file, 0, BEYOND, 0), ValueError, "length"),
        (lambda ring, file: ring.prep_fadvise64(file, 0, -1, 0), ValueError, "length"),
        (lambda ring, file: ring.prep_fadvise64(file, BEYOND, 0, 0), ValueError, "offset"),
        (lambda ring, file: ring.prep_madvise(7, 0), TypeError, "bytes-like"),
        (lambda ring, file: ring.prep_madvise(bytes(PAGE), 0), TypeError, "read-write"),
        (lambda ring, file: ring.prep_madvise(bytearray(PAGE + 1), 0), ValueError, "whole pages"),
        (lambda ring, file: ring.prep_madvise64(bytearray(1), 0), ValueError, "whole pages"),
        (lambda ring, file: ring.prep_madvise64(bytes(PAGE), 0), TypeError, "read-write"),
        (lambda ring, file: ring.prep_splice(file, file, -1), ValueError, "count"),
        (lambda ring, file: ring.prep_splice(file, file, 1, -2), ValueError, "offset_src"),
        (lambda ring, file: ring.prep_splice(file, file, 1, 0, BEYOND), ValueError, "offset_dst"),
        (lambda ring, file: ring.prep_splice(file, file, "1"), TypeError, "count"),
        (lambda ring, file: ring.prep_splice(-1, file, 1), ValueError, "descriptor"),
        (lambda ring, file: ring.prep_splice(file, None, 1), TypeError, "fileno"),
        (lambda ring, file: ring.prep_tee(file, file, -1), ValueError, "count"),
        (lambda ring, file: ring.prep_tee(file, -1, 1), ValueError, "descriptor"),
        (lambda ring, file: ring.prep_open(7), TypeError, "PathLike"),
        (lambda ring, file: ring.prep_open("a\0b"), ValueError, "null byte"),
        (lambda ring, file: ring.prep_openat("dir", "x"), TypeError, "fileno"),
        (lambda ring, file: ring.prep_openat(-2, "x"), ValueError, "descriptor"),
        (lambda ring, file: ring.prep_openat2(None, "x", -1), ValueError, "flags"),
        (lambda ring, file: ring.prep_openat2(None, "x", 0, -1), ValueError, "mode"),
        (lambda ring, file: ring.prep_openat2(None, "x", 0, "r"), TypeError, "mode"),
        (lambda ring, file: ring.prep_openat2(None, "x", 0, 0, -1), ValueError, "resolve"),
        (lambda ring, file: ring.prep_openat2(None, "a\0b"), ValueError, "null byte"),
        (lambda ring, file: ring.prep_open_direct("x", 0, 0, -1), ValueError, "file_index"),
        (lambda ring, file: ring.prep_open_direct("x", 0, 0, 1 << 32), ValueError, "file_index"),
        (lambda ring, file: ring.prep_open_direct("x", 0, 0, FILE_INDEX_ALLOC - 1), ValueError,
         "no slot"),
        (lambda ring, file: ring.prep_open_direct("x", 0, 0, None), TypeError, "file_index"),
        (lambda ring, file: ring.prep_open_direct("x", os.O_CLOEXEC), ValueError, "O_CLOEXEC"),
        (lambda ring, file: ring.prep_openat_direct(None, "x", os.O_CLOEXEC, 0, 0), ValueError,
         "O_CLOEXEC"),
        (lambda ring, file: ring.prep_openat2_direct(None, "x", os.O_CLOEXEC), ValueError,
         "O_CLOEXEC"),
        (lambda ring, file: ring.prep_openat2_direct(None, "x", file_index=-1), ValueError,
         "file_index"),
        (lambda ring, file: ring.prep_close_direct(-1), ValueError, "file_index"),
        (lambda ring, file: ring.prep_close_direct(FILE_INDEX_ALLOC), ValueError, "no slot"),
        (lambda ring, file: ring.prep_close_direct(file), TypeError, "file_index"),
        (lambda ring, file: ring.prep_close(-1), ValueError, "descriptor"),
        (lambda ring, file: ring.prep_files_update([], 0), ValueError, "at least one"),
        (lambda ring, file: ring.prep_files_update(file.fileno(), 0), TypeError, "iterable"),
        (lambda ring, file: ring.prep_files_update(["x"], 0), TypeError, "fileno"),
        (lambda ring, file: ring.prep_files_update([file], -1), ValueError, "offset"),
        (lambda ring, file: ring.prep_files_update([file], 1 << 32), ValueError, "offset"),
        (lambda ring, file: ring.prep_fixed_fd_install(-1), ValueError, "file_index"),
        (lambda ring, file: ring.prep_fixed_fd_install(1 << 31), ValueError, "file_index"),
        (lambda ring, file: ring.prep_fixed_fd_install("0"), TypeError, "file_index"),
        (lambda ring, file: ring.prep_pipe("r"), TypeError, "int"),
        (lambda ring, file: ring.prep_pipe_direct(os.O_CLOEXEC), ValueError, "O_CLOEXEC"),
        (lambda ring, file: ring.prep_pipe_direct(0, -1), ValueError, "file_index"),
        (lambda ring, file: ring.prep_statx(None, 7), TypeError, "PathLike"),
        (lambda ring, file: ring.prep_rename("a", 7), TypeError, "PathLike"),
        (lambda ring, file: ring.prep_rename("a\0", "b"), ValueError, "null byte"),
        (lambda ring, file: ring.prep_rename("a", b"b\0"), ValueError, "null byte"),
        (lambda ring, file: ring.prep_renameat(-5, "a", None, "b"), ValueError, "descriptor"),
        (lambda ring, file: ring.prep_renameat(None, "a", -5, "b"), ValueError, "descriptor"),
        (lambda ring, file: ring.prep_renameat(None, "a", "b", "c"), TypeError, "fileno"),
        (lambda ring, file: ring.prep_unlink(None), TypeError, "PathLike"),
        (lambda ring, file: ring.prep_unlinkat(None, "a\0"), ValueError, "null byte"),
        (lambda ring, file: ring.prep_mkdir(["a"]), TypeError, "PathLike"),
        (lambda ring, file: ring.prep_mkdirat(None, "a", -1), OverflowError, "large|negative"),
        (lambda ring, file: ring.prep_symlink(None, "a"), TypeError, "PathLike"),
        (lambda ring, file: ring.prep_symlinkat("a", "b", "c"), TypeError, "fileno"),
        (lambda ring, file: ring.prep_link("a", None), TypeError, "PathLike"),
        (lambda ring, file: ring.prep_linkat(None, "a", -3, "b"), ValueError, "descriptor"),
        (lambda ring, file: ring.prep_setxattr(7, "user.a", b""), TypeError, "PathLike"),
        (lambda ring, file: ring.prep_setxattr("a", 7, b""), TypeError, "PathLike"),
        (lambda ring, file: ring.prep_setxattr("a", "user.a", "text"), TypeError, "bytes-like"),
        (lambda ring, file: ring.prep_fsetxattr(-1, "user.a", b""), ValueError, "descriptor"),
        (lambda ring, file: ring.prep_fsetxattr(file, "user\0", b""), ValueError, "null byte"),
        (lambda ring, file: ring.prep_fsetxattr(None, "user.a", b""), TypeError, "fileno"),
        (lambda ring, file: ring.prep_getxattr("a", "user.a", -1), ValueError, "size"),
        (lambda ring, file: ring.prep_getxattr("a", "user.a", 65537), ValueError, "size"),
        (lambda ring, file: ring.prep_fgetxattr(file, "user.a", "9"), TypeError, "size"),
        (lambda ring, file: ring.prep_fgetxattr(None, "user.a"), TypeError, "fileno"),
        (lambda ring, file: ring.prep_read_multishot(file, 5), ValueError, "no buffer ring"),
    ],
)
def test_bad_argument_is_named_and_leaves_nothing_queued(prepare, error, words, file):
    with clean_ring() as ring:
        with pytest.raises(error, match=words):
            prepare(ring, file)
        assert ring.sq_ready() == 0
        ring.prep_nop()
        assert res(ring) == 0


# ---- reading and writing -------------------------------------------------------------------------


@each_setup
def test_flags_of_one_read_or_write_reach_the_kernel(flags, file):
    with clean_ring(flags=flags) as ring:
        ring.prep_writev2(file, [b"ab", b"c"], 0, os.RWF_APPEND)
        assert res(ring) == 3
        parts = [bytearray(2), bytearray(11)]
        ring.prep_readv2(file, parts, 0, 0)
        assert res(ring) == 13
        assert parts == [b"01", b"23456789abc"]
        ring.prep_write(file, b"def", 0).op_flags = os.RWF_APPEND
        assert res(ring) == 3
        assert os.pread(file.fileno(), 20, 0) == b"0123456789abcdef"
        buffer = bytearray(3)
        ring.prep_read(file, buffer, 13).op_flags = os.RWF_HIPRI
        assert res(ring) in (3, -errno.EOPNOTSUPP, -errno.EINVAL)
        ring.prep_readv2(file, [bytearray(1)], 0, 1 << 30)
        assert res(ring) == -errno.EOPNOTSUPP


@each_setup
def test_read_that_must_not_wait_says_so(flags, pipe):
    reader, _ = pipe
    with clean_ring(flags=flags) as ring:
        ring.prep_readv2(reader, [bytearray(1)], -1, os.RWF_NOWAIT)
        assert res(ring) == -errno.EAGAIN


@each_setup
def test_multishot_read_takes_a_buffer_each_time_until_the_end(flags, pipe):
    reader, writer = pipe
    with clean_ring(flags=flags) as ring, ring.register_buf_ring(4, 8) as group:
        ring.prep_read_multishot(reader, group, user_data="read")
        hand_over(ring)
        for data in (b"one", b"two", b"three", b"four", b"five"):
            writer.write(data)
            cqe = ring.copy_cqe(timeout=5)
            assert (cqe.user_data, cqe.more) == ("read", True)
            assert group.take(cqe) == data
        writer.close()
        cqe = ring.copy_cqe(timeout=5)
        assert (cqe.res, cqe.more) == (0, False)


@each_setup
def test_multishot_read_ends_when_its_buffers_are_used_up(flags, pipe):
    reader, writer = pipe
    with clean_ring(flags=flags) as ring, ring.register_buf_ring(2, 4, 7) as group:
        ring.prep_read_multishot(reader, 7)
        hand_over(ring)
        writer.write(b"123456789")
        taken = finish(ring, 3)
        assert [cqe.res for cqe in taken] == [4, 4, -errno.ENOBUFS]
        assert [cqe.more for cqe in taken] == [True, True, False]
        assert b"".join(bytes(group.get(cqe)) for cqe in taken[:2]) == b"12345678"


@each_setup
def test_multishot_read_goes_on_until_it_is_cancelled(flags, pipe):
    reader, writer = pipe
    with clean_ring(flags=flags) as ring, ring.register_buf_ring(2, 4) as group:
        sqe = ring.prep_read_multishot(reader, group, user_data="read")
        hand_over(ring)
        writer.write(b"x")
        assert ring.copy_cqe(timeout=5).more
        ring.prep_cancel(sqe, user_data="cancel")
        assert results(finish(ring, 2)) == {"read": CANCELED, "cancel": 0}


def test_multishot_read_needs_something_to_poll(file):
    with clean_ring() as ring, ring.register_buf_ring(2, 4) as group:
        ring.prep_read_multishot(file, group)
        assert res(ring) == -errno.EBADFD


def test_multishot_read_is_refused_where_the_kernel_lacks_it(pipe, hidden_operations):
    reader, _ = pipe
    with clean_ring() as ring, ring.register_buf_ring(2, 4) as group:
        hidden_operations(Op.READ_MULTISHOT)
        with pytest.raises(NotSupported, match=r"READ_MULTISHOT needs Linux 6\.7"):
            ring.prep_read_multishot(reader, group)
        assert ring.sq_ready() == 0


def test_multishot_read_of_a_closed_ring_or_group_is_refused(pipe):
    reader, _ = pipe
    with clean_ring() as ring:
        group = ring.register_buf_ring(2, 4)
        group.close()
        with pytest.raises(ValueError, match="no buffer ring"):
            ring.prep_read_multishot(reader, group)
    with pytest.raises(ValueError, match="closed ring"):
        ring.prep_read_multishot(reader, 0)


@each_setup
def test_splice_moves_bytes_through_a_pipe_at_given_offsets(flags, file, pipe, tmp_path):
    reader, writer = pipe
    with clean_ring(flags=flags) as ring, open(tmp_path / "copy", "w+b") as copy:
        ring.prep_splice(file, writer, 100, 2, flags=SpliceFlags.MOVE)
        assert res(ring) == 8
        ring.prep_splice(reader, copy, 5, offset_dst=3)
        assert res(ring) == 5
        assert copy.read() == b"\0\0\x0023456"
        assert reader.read(100) == b"789"


@each_setup
def test_splice_without_an_offset_uses_and_moves_the_position(flags, file, pipe):
    reader, writer = pipe
    file.seek(4)
    with clean_ring(flags=flags) as ring:
        for offset in (None, -1):
            ring.prep_splice(file, writer, 2, offset)
            assert res(ring) == 2
        assert file.tell() == 8
        assert reader.read(100) == b"4567"
        file.seek(0, os.SEEK_END)
        ring.prep_splice(file, writer, 2)
        assert res(ring) == 0


@each_setup
def test_splice_takes_registered_files_on_either_side(flags, file, pipe):
    reader, writer = pipe
    with clean_ring(flags=flags) as ring:
        ring.register_files([file, writer])
        ring.prep_splice(0, 1, 3, 0, flags=SpliceFlags.FD_IN_FIXED).use_registered_fd()
        assert res(ring) == 3
        ring.prep_splice(0, writer, 3, 3, flags=SpliceFlags.FD_IN_FIXED)
        assert res(ring) == 3
        assert reader.read(100) == b"012345"


def test_splice_of_more_than_one_operation_can_move_is_short(file, pipe):
    _, writer = pipe
    with clean_ring() as ring:
        ring.prep_splice(file, writer, 1 << 40, 0)
        assert res(ring) == 10


def test_splice_without_a_pipe_or_with_an_offset_in_one_fails(file, pipe):
    _, writer = pipe
    with clean_ring() as ring:
        ring.prep_splice(file, file, 1)
        assert res(ring) == -errno.EINVAL
        ring.prep_splice(file, writer, 1, 0, 0)
        assert res(ring) == -errno.ESPIPE


@each_setup
def test_tee_copies_and_leaves_the_bytes(flags, pipe):
    reader, writer = pipe
    other_read, other_write = os.pipe()
    try:
        with clean_ring(flags=flags) as ring:
            writer.write(b"hello")
            ring.prep_tee(reader, other_write, 100)
            assert res(ring) == 5
            ring.register_files([reader])
            ring.prep_tee(0, other_write, 2, SpliceFlags.FD_IN_FIXED)
            assert res(ring) == 2
            assert os.read(other_read, 100) == b"hellohe"
            assert reader.read(100) == b"hello"
    finally:
        os.close(other_read)
        os.close(other_write)


@each_setup
@pytest.mark.parametrize("operation", ["splice", "tee"])
def test_cancel_interrupts_a_splice_that_waits(operation, flags, file, pipe):
    reader, _ = pipe
    other_read, other_write = os.pipe()
    try:
        with clean_ring(flags=flags) as ring:
            if operation == "splice":
                sqe = ring.prep_splice(reader, file, 1, user_data="waits")
            else:
                sqe = ring.prep_tee(reader, other_write, 1, user_data="waits")
            hand_over(ring)
            time.sleep(0.05)  # into the kernel thread; without that it would be -ECANCELED
            ring.prep_cancel(sqe, user_data="cancel")
            cqes = {cqe.user_data: cqe for cqe in finish(ring, 2)}
            assert cqes["cancel"].res in (0, -errno.EALREADY, -errno.ENOENT)
            with pytest.raises((InterruptedError, OSError)) as caught:
                cqes["waits"].raise_for_error()
            assert caught.value.errno in (errno.EINTR, errno.ECANCELED)
    finally:
        os.close(other_read)
        os.close(other_write)


@each_setup
def test_close_interrupts_a_splice_that_waits(flags, file, pipe):
    reader, _ = pipe
    with clean_ring(flags=flags) as ring:
        ring.prep_splice(reader, file, 1)
        hand_over(ring)
        started = time.monotonic()
        ring.close()
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("number", [512, 513, 514, 516])
def test_result_that_means_restart_is_an_interruption(number):
    with clean_ring() as ring:
        try:
            ring.prep_nop(flags=1, result=-number)  # INJECT_RESULT
        except NotSupported as lacking:
            pytest.skip(str(lacking))
        [cqe] = finish(ring)
        assert cqe.res == -number
        with pytest.raises(InterruptedError):
            cqe.raise_for_error()


@pytest.mark.parametrize("operation", ["splice", "tee"])
def test_both_files_of_a_splice_are_held(operation, pipe):
    source, target = map(Held, pipe)
    alive = weakref.ref(source), weakref.ref(target)
    with Ring(1) as ring:
        if operation == "splice":
            ring.prep_splice(source, target, 1)
        else:
            ring.prep_tee(source, target, 1)
        del source, target
        gc.collect()
        assert all(held() for held in alive)
    assert not any(held() for held in alive)


# ---- one open file -------------------------------------------------------------------------------


@each_setup
def test_fsync_flushes_a_file_or_a_range_of_it(flags, file):
    with clean_ring(flags=flags) as ring:
        ring.prep_fsync(file)
        assert res(ring) == 0
        ring.prep_fsync(file, FsyncFlags.DATASYNC, 4, 4)
        assert res(ring) == 0
        sqe = ring.prep_fsync(file, 0, 5, (1 << 32) - 1)
        assert (sqe.off, sqe.len) == (5, (1 << 32) - 1)
        assert res(ring) == 0
        ring.prep_fsync(file, 2)
        assert res(ring) == -errno.EINVAL


@each_setup
def test_sync_file_range_writes_pages_of_a_file_and_of_no_pipe(flags, file, pipe):
    reader, _ = pipe
    with clean_ring(flags=flags) as ring:
        for offset, length in ((0, 0), (4, 4), (BEYOND - 2, 1)):
            ring.prep_sync_file_range(file, offset, length, ALL_WRITES)
            assert res(ring) == 0
        ring.prep_sync_file_range(file, 0, 0, 1 << 3)
        assert res(ring) == -errno.EINVAL
        ring.prep_sync_file_range(reader, 0, 0, ALL_WRITES)
        assert res(ring) == -errno.ESPIPE


def fallocate(ring, file, mode, offset, length):
    ring.prep_fallocate(file, mode, offset, length)
    result = res(ring)
    if result == -errno.EOPNOTSUPP:
        pytest.skip(f"the file system of {file.name} does not do {mode!r}")
    return result


@each_setup
def test_fallocate_makes_room_and_holes(flags, file):
    with clean_ring(flags=flags) as ring:
        assert fallocate(ring, file, 0, 5, 20) == 0
        assert os.fstat(file.fileno()).st_size == 25
        assert fallocate(ring, file, FallocateFlags.KEEP_SIZE, 0, 1 << 20) == 0
        assert os.fstat(file.fileno()).st_size == 25
        hole = FallocateFlags.PUNCH_HOLE | FallocateFlags.KEEP_SIZE
        assert fallocate(ring, file, hole, 2, 3) == 0
        assert os.pread(file.fileno(), 10, 0) == b"01\0\0\x0056789"
        assert fallocate(ring, file, FallocateFlags.ZERO_RANGE, 8, 1) == 0
        assert os.pread(file.fileno(), 10, 0) == b"01\0\0\x00567\x009"


def test_fallocate_of_nothing_or_beyond_the_largest_file_fails(file, pipe):
    _, writer = pipe
    with clean_ring() as ring:
        assert fallocate(ring, file, 0, 0, 0) == -errno.EINVAL
        assert fallocate(ring, file, 0, BEYOND - 1, 1) == -errno.EFBIG
        assert fallocate(ring, writer, 0, 0, 1) == -errno.ESPIPE


@each_setup
def test_ftruncate_cuts_and_lengthens(flags, file, tmp_path):
    with clean_ring(flags=flags) as ring:
        for length in (3, 0, 5000):
            ring.prep_ftruncate(file, length)
            assert res(ring) == 0
            assert os.fstat(file.fileno()).st_size == length
        ring.prep_ftruncate(file, BEYOND - 1)
        assert res(ring) == -errno.EFBIG
        with open(file.name, "rb") as read_only:
            ring.prep_ftruncate(read_only, 0)
            assert res(ring) == -errno.EINVAL


@each_setup
def test_fadvise_takes_advice_on_ranges_of_every_length(flags, file):
    with clean_ring(flags=flags) as ring:
        for advice in (os.POSIX_FADV_NORMAL, os.POSIX_FADV_RANDOM, os.POSIX_FADV_SEQUENTIAL,
                       os.POSIX_FADV_WILLNEED, os.POSIX_FADV_DONTNEED, os.POSIX_FADV_NOREUSE):
            ring.prep_fadvise(file, 0, (1 << 32) - 1, advice)
            assert res(ring) == 0
            ring.prep_fadvise64(file, 5, BEYOND - 1, advice)
            assert res(ring) == 0
        ring.prep_fadvise(file, 0, 0, 99)
        assert res(ring) == -errno.EINVAL


def test_fadvise_puts_its_length_where_its_width_belongs(file):
    with Ring(2) as ring:
        short = ring.prep_fadvise(file, 7, 8, os.POSIX_FADV_NORMAL)
        assert (short.off, short.len, short.addr) == (7, 8, 0)
        long = ring.prep_fadvise64(file, 7, 1 << 40, os.POSIX_FADV_NORMAL)
        assert (long.off, long.len, long.addr) == (7, 0, 1 << 40)


@each_setup
@pytest.mark.parametrize("wide", [False, True])
def test_madvise_drops_the_pages_of_a_private_mapping(wide, flags, pages):
    with clean_ring(flags=flags) as ring:
        prepare = ring.prep_madvise64 if wide else ring.prep_madvise
        pages[:] = b"x" * len(pages)
        with memoryview(pages) as view, view[PAGE:] as second:
            prepare(second, mmap.MADV_DONTNEED)
            assert res(ring) == 0
        assert (pages[PAGE - 1], pages[PAGE]) == (ord("x"), 0)
        prepare(pages, mmap.MADV_DONTNEED)
        assert res(ring) == 0
        assert pages[0] == 0
        prepare(pages, 9999)
        assert res(ring) == -errno.EINVAL


def test_madvise_takes_a_read_only_mapping_and_its_last_part(file):
    os.truncate(file.name, PAGE + 10)
    with clean_ring() as ring, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        ring.prep_madvise(mapped, mmap.MADV_WILLNEED)
        assert res(ring) == 0
        with memoryview(mapped) as view, view[PAGE:] as last, view[1:] as crooked:
            ring.prep_madvise64(last, mmap.MADV_WILLNEED)
            assert res(ring) == 0
            ring.prep_madvise(crooked, mmap.MADV_WILLNEED)
            assert res(ring) == -errno.EINVAL


def test_madvise_keeps_its_memory_mapped(pages):
    with clean_ring() as ring:
        ring.prep_madvise(pages, mmap.MADV_NORMAL)
        with pytest.raises(BufferError):
            pages.close()
        assert res(ring) == 0
        ring.prep_madvise64(pages, mmap.MADV_NORMAL)
        with pytest.raises(BufferError):
            pages.close()
        assert res(ring) == 0


@pytest.mark.parametrize("name", ["fadvise64", "madvise64"])
def test_wide_advice_needs_a_kernel_that_looks_at_it(name, file, hidden_operations):
    _, prepare = PREPARATIONS[name]
    with clean_ring() as ring:
        hidden_operations(Op.BIND)
        with pytest.raises(NotSupported, match=r"64-bit length .* needs Linux 6\.11"):
            prepare(ring, file, None)


# ---- opening and closing -------------------------------------------------------------------------


@each_setup
def test_open_is_openat_in_the_current_folder(flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with clean_ring(flags=flags) as ring:
        ring.prep_open("here", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.close(finish(ring)[0].raise_for_error())
        assert stat.S_IMODE((tmp_path / "here").stat().st_mode) == 0o600
        ring.prep_open("here", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with pytest.raises(FileExistsError) as caught:
            finish(ring)[0].raise_for_error()
        assert caught.value.filename == "here"


@each_setup
def test_openat2_makes_files_with_a_mode_only_when_it_may_make_one(flags, file, tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    old = os.umask(0)
    try:
        with clean_ring(flags=flags) as ring:
            ring.prep_openat2(None, file.name)
            os.close(finish(ring)[0].raise_for_error())
            for name, mode, wanted in (("a", None, 0o666), ("b", 0o640, 0o640)):
                ring.prep_openat2(folder, name, os.O_CREAT | os.O_RDWR, mode)
                fd = finish(ring)[0].raise_for_error()
                assert stat.S_IMODE(os.fstat(fd).st_mode) == wanted
                os.close(fd)
            ring.prep_openat2(None, file.name, os.O_RDONLY, 0o600)
            assert res(ring) == -errno.EINVAL
            ring.prep_openat2(None, tmp_path, os.O_TMPFILE | os.O_RDWR)
            opened = res(ring)
            if opened != -errno.EOPNOTSUPP:
                os.close(opened)
    finally:
        os.umask(old)
        os.close(folder)


@each_setup
def test_openat2_keeps_to_what_its_path_may_lead_through(flags, file, tmp_path):
    (tmp_path / "link").symlink_to("file")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with clean_ring(flags=flags) as ring:
            for path, resolve, wanted in (
                ("../x", ResolveFlags.BENEATH, errno.EXDEV),
                (file.name, ResolveFlags.BENEATH, errno.EXDEV),
                ("link", ResolveFlags.NO_SYMLINKS, errno.ELOOP),
                ("/nowhere", ResolveFlags.IN_ROOT, errno.ENOENT),
                ("file", 1 << 40, errno.EINVAL),
            ):
                ring.prep_openat2(folder, path, os.O_RDONLY, None, resolve)
                with pytest.raises(OSError) as caught:
                    finish(ring)[0].raise_for_error()
                assert (caught.value.errno, caught.value.filename) == (wanted, path)
            ring.prep_openat2(folder, "/link", os.O_RDONLY, None, ResolveFlags.IN_ROOT)
            os.close(finish(ring)[0].raise_for_error())
            ring.prep_openat2(folder, "file", 1 << 40)
            assert res(ring) == -errno.EINVAL
    finally:
        os.close(folder)


def test_fifo_is_opened_without_waiting_for_its_other_end(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with clean_ring() as ring:
        ring.prep_open(path, os.O_RDONLY)
        os.close(finish(ring)[0].raise_for_error())
        ring.prep_open(path, os.O_WRONLY)
        assert res(ring) == -errno.ENXIO


@each_setup
def test_cancel_interrupts_an_open_that_waits_in_a_kernel_thread(flags, tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with clean_ring(flags=flags) as ring:
        sqe = ring.prep_open(path, os.O_WRONLY, user_data="open")
        sqe.flags |= SqeFlags.ASYNC
        hand_over(ring)
        time.sleep(0.05)
        ring.prep_cancel(sqe, user_data="cancel")
        cqes = {cqe.user_data: cqe for cqe in finish(ring, 2)}
        with pytest.raises(OSError) as caught:
            cqes["open"].raise_for_error()
        assert caught.value.errno in (errno.EINTR, errno.ECANCELED)
        assert caught.value.filename == str(path)


def count_descriptors():
    return len(os.listdir("/proc/self/fd"))


def read_slot(ring, slot, count=100):
    """What a slot's file has at its beginning."""
    buffer = bytearray(count)
    ring.prep_read(slot, buffer, 0).use_registered_fd()
    return bytes(buffer[:finish(ring)[0].raise_for_error()])


@each_setup
@pytest.mark.parametrize("form", ["open", "openat", "openat2"])
def test_direct_open_fills_a_slot_that_reads_and_close_empties_it(form, flags, file, tmp_path):
    descriptors = count_descriptors()
    with with_slots(3, flags=flags) as ring:
        for slot in (2, FILE_INDEX_ALLOC):
            if form == "open":
                ring.prep_open_direct(file.name, os.O_RDONLY, 0, slot)
            elif form == "openat":
                ring.prep_openat_direct(AT_FDCWD, file.name, os.O_RDONLY, 0, slot)
            else:
                ring.prep_openat2_direct(None, file.name, os.O_RDONLY, file_index=slot)
            assert res(ring) == 0  # which is also the slot that was free first
        for slot in (0, 2):
            assert read_slot(ring, slot) == b"0123456789"
            ring.prep_close_direct(slot)
            assert res(ring) == 0
            ring.prep_read(slot, bytearray(1), 0).use_registered_fd()
            assert res(ring) == -errno.EBADF
            ring.prep_close_direct(slot)
            assert res(ring) == -errno.EBADF
        assert count_descriptors() == descriptors + 1  # the ring


@each_setup
def test_direct_open_replaces_what_is_in_its_slot(flags, file, tmp_path):
    (tmp_path / "other").write_bytes(b"other")
    with with_slots(1, flags=flags) as ring:
        for path, content in ((file.name, b"0123456789"), (tmp_path / "other", b"other")):
            ring.prep_open_direct(path, os.O_RDONLY, 0, 0)
            assert res(ring) == 0
            assert read_slot(ring, 0) == content


@each_setup
def test_kernel_picks_free_slots_until_none_is_left(flags, file):
    with with_slots(3, flags=flags) as ring:
        ring.prep_open_direct(file.name, os.O_RDONLY, 0, 1)
        assert res(ring) == 0
        picked = []
        for _ in range(2):
            ring.prep_open_direct(file.name)
            picked.append(res(ring))
        assert sorted(picked) == [0, 2]
        ring.prep_openat2_direct(None, file.name)
        assert res(ring) == -errno.ENFILE
        ring.prep_pipe_direct()
        assert res(ring) == -errno.ENFILE


def test_slot_outside_of_the_table_or_without_one_is_an_error(file):
    with clean_ring() as ring:
        ring.prep_open_direct(file.name, os.O_RDONLY, 0, 0)
        assert res(ring) == -errno.ENXIO
        ring.prep_open_direct(file.name)
        assert res(ring) == -errno.ENFILE
        ring.prep_close_direct(0)
        assert res(ring) == -errno.ENXIO
        ring.register_files([-1])
        ring.prep_open_direct(file.name, os.O_RDONLY, 0, 1)
        assert res(ring) == -errno.EINVAL
        ring.prep_close_direct(1)
        assert res(ring) == -errno.EINVAL
        ring.prep_fixed_fd_install(1)
        assert res(ring) == -errno.EBADF


def test_slots_are_counted_from_one_for_the_kernel(file):
    with Ring(8) as ring:
        for sqe in (ring.prep_open_direct("x", 0, 0, 4), ring.prep_close_direct(4),
                    ring.prep_openat2_direct(None, "x", file_index=4),
                    ring.prep_pipe_direct(0, 4)):
            assert sqe.file_index == 5
        assert ring.prep_open_direct("x").file_index == FILE_INDEX_ALLOC
        assert ring.prep_open_direct("x", 0, 0, FILE_INDEX_ALLOC - 2).file_index == (
            FILE_INDEX_ALLOC - 1)


@pytest.mark.parametrize(
    ("hidden", "since", "prepare"),
    [
        (Op.MKDIRAT, "5.15", lambda ring: ring.prep_open_direct("x", 0, 0, 0)),
        (Op.MKDIRAT, "5.15", lambda ring: ring.prep_openat_direct(None, "x", 0, 0, 0)),
        (Op.MKDIRAT, "5.15", lambda ring: ring.prep_openat2_direct(None, "x", file_index=0)),
        (Op.MKDIRAT, "5.15", lambda ring: ring.prep_close_direct(0)),
        (Op.SOCKET, "5.19", lambda ring: ring.prep_open_direct("x")),
        (Op.SOCKET, "5.19", lambda ring: ring.prep_openat2_direct(None, "x")),
        (Op.SOCKET, "5.19", lambda ring: ring.prep_files_update([0], FILE_INDEX_ALLOC)),
    ],
)
def test_direct_variant_newer_than_its_operation_is_refused(
    hidden, since, prepare, hidden_operations
):
    with clean_ring() as ring:
        hidden_operations(hidden)
        with pytest.raises(NotSupported, match=f"needs Linux {since}"):
            prepare(ring)
        assert ring.sq_ready() == 0


@each_setup
def test_open_read_and_close_of_a_slot_go_in_one_submission(flags, file):
    with with_slots(2, flags=flags) as ring:
        if not ring.features & Features.LINKED_FILE:
            pytest.skip("this kernel looks a linked operation's file up too early (LINKED_FILE)")
        buffer = bytearray(20)
        ring.prep_open_direct(file.name, os.O_RDONLY, 0, 1, user_data="open").link()
        # As long as the file is: a short read would break the chain.
        ring.prep_read(1, memoryview(buffer)[:10], 0, user_data="read").use_registered_fd().link()
        ring.prep_close_direct(1, user_data="close")
        assert results(finish(ring, 3)) == {"open": 0, "read": 10, "close": 0}
        assert buffer[:10] == b"0123456789"
        ring.prep_fixed_fd_install(1)
        assert res(ring) == -errno.EBADF


@each_setup
def test_failed_direct_open_cancels_the_chain_behind_it(flags, tmp_path):
    with with_slots(1, flags=flags) as ring:
        ring.prep_open_direct(tmp_path / "missing", 0, 0, 0, user_data="open").link()
        ring.prep_read(0, bytearray(1), 0, user_data="read").use_registered_fd().link()
        ring.prep_close_direct(0, user_data="close")
        assert results(finish(ring, 3)) == {
            "open": -errno.ENOENT, "read": CANCELED, "close": CANCELED,
        }


@each_setup
def test_files_update_fills_and_empties_slots(flags, file, pipe):
    reader, _ = pipe
    with with_slots(4, flags=flags) as ring:
        ring.prep_files_update([file, reader.fileno()], 1)
        [cqe] = finish(ring)
        assert (cqe.res, cqe.slots) == (2, [1, 2])
        assert read_slot(ring, 1) == b"0123456789"
        ring.prep_files_update([-1, file], 1)
        assert res(ring) == 2
        assert read_slot(ring, 2) == b"0123456789"
        ring.prep_close_direct(1)
        assert res(ring) == -errno.EBADF


@each_setup
def test_files_update_lets_the_kernel_pick_slots(flags, file):
    with with_slots(3, flags=flags) as ring:
        ring.prep_files_update([file], 1)
        assert res(ring) == 1
        ring.prep_files_update([file] * 3, FILE_INDEX_ALLOC)
        [cqe] = finish(ring)
        assert (cqe.res, sorted(cqe.slots)) == (2, [0, 2])  # as many as were free
        assert read_slot(ring, cqe.slots[0]) == b"0123456789"
        ring.prep_files_update([file], FILE_INDEX_ALLOC)
        [cqe] = finish(ring)
        assert (cqe.res, cqe.slots) == (-errno.ENFILE, None)


def test_files_update_stops_at_a_bad_descriptor_and_leaves_its_slot_empty(file):
    with clean_ring() as ring:
        ring.register_files([file] * 3)
        ring.prep_files_update([file, 1 << 20, file], 0)
        [cqe] = finish(ring)
        assert (cqe.res, cqe.slots) == (1, [0])
        assert read_slot(ring, 0) == read_slot(ring, 2) == b"0123456789"
        ring.prep_close_direct(1)
        assert res(ring) == -errno.EBADF
        ring.prep_files_update([1 << 20], 0)
        assert res(ring) == -errno.EBADF
        ring.prep_files_update([file] * 2, 2)
        assert res(ring) == -errno.EINVAL
        ring.prep_files_update([ring], 0)  # a ring in its own table would never end
        assert res(ring) == -errno.EBADF


@each_setup
def test_file_table_follows_operations_on_its_slots(flags, file):
    with clean_ring(flags=flags) as ring:
        table = ring.register_file_table(8, 6)
        ring.prep_files_update([file, REGISTER_FILES_SKIP, file], 0)
        assert res(ring) == 3
        assert list(table) == [0, 2]
        ring.prep_files_update([-1, file], 0)
        assert res(ring) == 2
        assert list(table) == [1, 2]
        for prepare in (lambda: ring.prep_files_update([file], FILE_INDEX_ALLOC),
                        lambda: ring.prep_open_direct(file.name),
                        lambda: ring.prep_pipe_direct()):
            before = set(table)
            prepare()
            [cqe] = finish(ring)
            assert set(table) - before == set(cqe.slots or cqe.pipe or [cqe.raise_for_error()])
        ring.prep_close_direct(2)
        assert res(ring) == 0
        assert 2 not in table
        assert len(table) == 5


def test_file_table_is_not_led_astray_by_a_pipe_filled_by_hand():
    ends = bytearray(8)
    with clean_ring() as ring, Ring(1) as other:
        ring.register_file_table(4, 4)
        sqe = ring.get_sqe()
        sqe.opcode = Op.PIPE
        sqe.addr = other.prep_read(0, ends, 0).addr  # where they lie
        sqe.file_index = FILE_INDEX_ALLOC
        assert res(ring) == 0
        assert sorted(ends) == [0] * 7 + [1]


@each_setup
def test_installed_descriptor_is_an_ordinary_one(flags, file):
    with clean_ring(flags=flags) as ring:
        ring.register_files([file])
        for install_flags, inheritable in ((0, False), (FixedFdFlags.NO_CLOEXEC, True)):
            ring.prep_fixed_fd_install(0, install_flags)
            fd = finish(ring)[0].raise_for_error()
            assert os.path.sameopenfile(fd, file.fileno())
            assert os.get_inheritable(fd) is inheritable
            os.close(fd)
        ring.prep_fixed_fd_install(0, 2)
        assert res(ring) == -errno.EINVAL
        assert read_slot(ring, 0) == b"0123456789"


def test_sqe_prepared_again_after_an_install_takes_descriptors(file):
    with with_slots(1) as ring:
        sqe = ring.prep_fixed_fd_install(0)
        assert sqe.flags == SqeFlags.FIXED_FILE
        sqe.prep_fsync(file)
        assert sqe.flags == 0
        assert res(ring) == 0


@each_setup
def test_pipe_gives_both_of_its_ends(flags):
    with clean_ring(flags=flags) as ring:
        for pipe_flags in (os.O_CLOEXEC, os.O_NONBLOCK):
            ring.prep_pipe(pipe_flags)
            [cqe] = finish(ring)
            assert cqe.raise_for_error() == 0
            read_end, write_end = cqe.pipe
            os.write(write_end, b"x")
            assert os.read(read_end, 5) == b"x"
            for fd in cqe.pipe:
                assert os.get_inheritable(fd) == (pipe_flags != os.O_CLOEXEC)
                assert os.get_blocking(fd) == (pipe_flags != os.O_NONBLOCK)
                os.close(fd)
        ring.prep_pipe(os.O_APPEND)
        [cqe] = finish(ring)
        assert (cqe.res, cqe.pipe) == (-errno.EINVAL, None)


@each_setup
def test_direct_pipe_lies_in_two_slots(flags):
    with with_slots(4, flags=flags) as ring:
        for slot in (1, FILE_INDEX_ALLOC):
            ring.prep_pipe_direct(0, slot)
            [cqe] = finish(ring)
            assert cqe.raise_for_error() == 0
            read_end, write_end = cqe.pipe
            assert {read_end, write_end} == ({1, 2} if slot == 1 else {0, 3})
            ring.prep_write(write_end, b"x").use_registered_fd()
            assert res(ring) == 1
            buffer = bytearray(5)
            ring.prep_read(read_end, buffer).use_registered_fd()
            assert res(ring) == 1
            assert buffer[:1] == b"x"
        ring.prep_pipe_direct(0, 3)  # there is no slot 4
        assert res(ring) == -errno.EINVAL


def test_direct_pipe_needs_a_table():
    with clean_ring() as ring:
        ring.prep_pipe_direct(0, 0)
        assert res(ring) == -errno.ENXIO


# ---- paths ---------------------------------------------------------------------------------------


@each_setup
def test_statx_of_an_open_file_takes_the_empty_path(flags, file):
    with clean_ring(flags=flags) as ring:
        for path in ("", b""):
            ring.prep_statx(file, path, AtFlags.EMPTY_PATH)
            assert finish(ring)[0].stat.st_ino == os.fstat(file.fileno()).st_ino
        ring.prep_statx(file, "")
        with pytest.raises(FileNotFoundError):
            finish(ring)[0].raise_for_error()


@each_setup
def test_rename_moves_and_replaces(flags, file, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"replaced")
    with clean_ring(flags=flags) as ring:
        ring.prep_rename(file.name, target)
        assert res(ring) == 0
        assert os.listdir(tmp_path) == ["target"]
        assert target.read_bytes() == b"0123456789"


@each_setup
def test_renameat_is_relative_to_two_folders_and_heeds_its_flags(flags, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    one, two = (os.open(tmp_path / name, os.O_RDONLY) for name in ("one", "two"))
    try:
        with clean_ring(flags=flags) as ring:
            ring.prep_renameat(one, "file", two, "file", RenameFlags.NOREPLACE)
            assert res(ring) == -errno.EEXIST
            ring.prep_renameat(one, "file", two, "file", RenameFlags.EXCHANGE)
            assert res(ring) == 0
            assert (tmp_path / "one/file").read_text() == "two"
            ring.prep_renameat(one, b"file", two, b"moved", RenameFlags.NOREPLACE)
            assert res(ring) == 0
            assert (tmp_path / "two/moved").read_text() == "two"
    finally:
        os.close(one)
        os.close(two)


@each_setup
def test_unlink_removes_files_and_with_a_flag_folders(flags, file, tmp_path):
    (tmp_path / "folder").mkdir()
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with clean_ring(flags=flags) as ring:
            ring.prep_unlink(file.name)
            assert res(ring) == 0
            ring.prep_unlinkat(folder, "folder")
            assert res(ring) == -errno.EISDIR
            ring.prep_unlinkat(folder, "folder", AtFlags.REMOVEDIR)
            assert res(ring) == 0
            ring.prep_unlink(tmp_path / "folder", AtFlags.REMOVEDIR)
            assert res(ring) == -errno.ENOENT
            assert os.listdir(tmp_path) == []
            ring.prep_unlinkat(folder, "x", AtFlags.EMPTY_PATH)
            assert res(ring) == -errno.EINVAL
    finally:
        os.close(folder)


@each_setup
def test_mkdir_makes_folders_with_their_mode(flags, tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with clean_ring(flags=flags) as ring:
            ring.prep_mkdir(tmp_path / "one", 0o700)
            assert res(ring) == 0
            ring.prep_mkdirat(folder, "two", 0o750)
            assert res(ring) == 0
            for name, mode in (("one", 0o700), ("two", 0o750)):
                assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
    finally:
        os.close(folder)


@each_setup
def test_symlink_points_where_it_was_told(flags, tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with clean_ring(flags=flags) as ring:
            ring.prep_symlink("no where", tmp_path / "one")
            assert res(ring) == 0
            ring.prep_symlinkat(b"../x", folder, "two")
            assert res(ring) == 0
            assert os.readlink(tmp_path / "one") == "no where"
            assert os.readlink(tmp_path / "two") == "../x"
    finally:
        os.close(folder)


@each_setup
def test_link_gives_a_file_a_second_name(flags, file, tmp_path):
    (tmp_path / "soft").symlink_to("file")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with clean_ring(flags=flags) as ring:
            ring.prep_link(file.name, tmp_path / "one")
            assert res(ring) == 0
            ring.prep_linkat(folder, "file", folder, "two")
            assert res(ring) == 0
            ring.prep_link(tmp_path / "soft", tmp_path / "three", AtFlags.SYMLINK_FOLLOW)
            assert res(ring) == 0
            ring.prep_linkat(folder, "soft", None, tmp_path / "soft link")
            assert res(ring) == 0
            assert os.fstat(file.fileno()).st_nlink == 4
            assert (tmp_path / "soft link").is_symlink()
    finally:
        os.close(folder)


def test_linking_operations_and_linking_files_are_two_things(file, tmp_path):
    with clean_ring() as ring:
        ring.prep_link(file.name, tmp_path / "first", user_data="first").link()
        ring.prep_link(tmp_path / "first", tmp_path / "second", user_data="second")
        assert results(finish(ring, 2)) == {"first": 0, "second": 0}


@each_setup
def test_chain_of_path_operations_happens_in_order(flags, tmp_path):
    with clean_ring(flags=flags) as ring:
        ring.prep_mkdir(tmp_path / "a").link()
        ring.prep_symlink("x", tmp_path / "a/link").link()
        ring.prep_rename(tmp_path / "a", tmp_path / "b").link()
        ring.prep_unlink(tmp_path / "b/link").link()
        ring.prep_unlink(tmp_path / "b", AtFlags.REMOVEDIR)
        assert [cqe.res for cqe in finish(ring, 5)] == [0] * 5
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("prepare", "error", "names"),
    [
        (lambda ring, no, yes: ring.prep_open(no), FileNotFoundError, ["no"]),
        (lambda ring, no, yes: ring.prep_openat(None, no), FileNotFoundError, ["no"]),
        (lambda ring, no, yes: ring.prep_openat2(None, no), FileNotFoundError, ["no"]),
        (lambda ring, no, yes: ring.prep_open_direct(no), FileNotFoundError, ["no"]),
        (lambda ring, no, yes: ring.prep_openat_direct(None, no), FileNotFoundError, ["no"]),
        (lambda ring, no, yes: ring.prep_openat2_direct(None, no), FileNotFoundError, ["no"]),
        (lambda ring, no, yes: ring.prep_openat2(None, yes, os.O_CREAT | os.O_EXCL),
         FileExistsError, ["yes"]),
        (lambda ring, no, yes: ring.prep_statx(None, no), FileNotFoundError, ["no"]),
        (lambda ring, no, yes: ring.prep_unlink(no), FileNotFoundError, ["no"]),
        (lambda ring, no, yes: ring.prep_unlinkat(None, no), FileNotFoundError, ["no"]),
        (lambda ring, no, yes: ring.prep_unlink(yes, AtFlags.REMOVEDIR), NotADirectoryError,
         ["yes"]),
        (lambda ring, no, yes: ring.prep_mkdir(yes), FileExistsError, ["yes"]),
        (lambda ring, no, yes: ring.prep_mkdirat(None, no / "x"), FileNotFoundError, ["no/x"]),
        (lambda ring, no, yes: ring.prep_rename(no, yes), FileNotFoundError, ["no", "yes"]),
        (lambda ring, no, yes: ring.prep_renameat(None, yes, None, no / "x"), FileNotFoundError,
         ["yes", "no/x"]),
        (lambda ring, no, yes: ring.prep_symlink(no, yes), FileExistsError, ["no", "yes"]),
        (lambda ring, no, yes: ring.prep_symlinkat(no, None, yes), FileExistsError, ["no", "yes"]),
        (lambda ring, no, yes: ring.prep_link(yes, yes), FileExistsError, ["yes", "yes"]),
        (lambda ring, no, yes: ring.prep_linkat(None, no, None, yes), FileNotFoundError,
         ["no", "yes"]),
        (lambda ring, no, yes: ring.prep_setxattr(no, "user.x", b""), FileNotFoundError, ["no"]),
        (lambda ring, no, yes: ring.prep_getxattr(no, "user.x"), FileNotFoundError, ["no"]),
        (lambda ring, no, yes: ring.prep_getxattr(no, "user.x", 0), FileNotFoundError, ["no"]),
    ],
)
def test_error_names_the_paths(prepare, error, names, tmp_path):
    yes, no = tmp_path / "yes", tmp_path / "no"
    yes.write_bytes(b"")
    with with_slots(1) as ring:
        prepare(ring, no, yes)
        with pytest.raises(error) as caught:
            finish(ring)[0].raise_for_error()
        found = [caught.value.filename, caught.value.filename2]
        assert [name for name in found if name is not None] == [
            str(tmp_path / name) for name in names]


def test_cancelled_operation_names_its_paths_too(tmp_path):
    with with_slots(1) as ring:
        ring.prep_close_direct(0, user_data="fails").link()
        ring.prep_rename("a", b"\xff")
        with pytest.raises(OSError) as caught:
            finish(ring, 2)[1].raise_for_error()
        assert caught.value.errno == errno.ECANCELED
        assert (caught.value.filename, caught.value.filename2) == ("a", os.fsdecode(b"\xff"))


def test_both_folders_of_two_paths_are_held(tmp_path):
    class Folder:
        def fileno(self):
            return fd

    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        for operation in ("prep_renameat", "prep_linkat"):
            one, two = Folder(), Folder()
            alive = weakref.ref(one), weakref.ref(two)
            with Ring(1) as ring:
                getattr(ring, operation)(one, "a", two, "b")
                del one, two
                gc.collect()
                assert all(held() for held in alive)
            assert not any(held() for held in alive)
    finally:
        os.close(fd)


def test_files_of_an_update_are_held_all(file):
    files = [Held(file), Held(file)]
    alive = [weakref.ref(held) for held in files]
    with Ring(1) as ring:
        ring.prep_files_update(iter(files), 0)
        files.clear()
        gc.collect()
        assert all(held() for held in alive)
    assert not any(held() for held in alive)


# ---- extended attributes -------------------------------------------------------------------------


@each_setup
def test_attributes_are_set_and_read_by_path_and_by_file(flags, attributes):
    with clean_ring(flags=flags) as ring:
        ring.prep_setxattr(attributes.name, "user.a", b"by path")
        assert res(ring) == 0
        ring.prep_fsetxattr(attributes, b"user.b", bytearray(b"by file"))
        assert res(ring) == 0
        for name, value in (("user.a", b"by path"), ("user.b", b"by file")):
            assert os.getxattr(attributes.name, name) == value
            ring.prep_getxattr(attributes.name, name)
            [cqe] = finish(ring)
            assert (cqe.raise_for_error(), cqe.xattr) == (len(value), value)
            ring.prep_fgetxattr(attributes, name, len(value))
            assert finish(ring)[0].xattr == value


@each_setup
def test_size_zero_asks_for_the_length_alone(flags, attributes):
    with clean_ring(flags=flags) as ring:
        for prepare, what in ((ring.prep_getxattr, attributes.name),
                              (ring.prep_fgetxattr, attributes)):
            prepare(what, "user.ferrule", 0)
            [cqe] = finish(ring)
            assert (cqe.res, cqe.xattr) == (5, None)
            prepare(what, "user.ferrule", 4)
            [cqe] = finish(ring)
            assert (cqe.res, cqe.xattr) == (-errno.ERANGE, None)


@each_setup
def test_empty_value_is_not_a_missing_one(flags, attributes):
    with clean_ring(flags=flags) as ring:
        ring.prep_fsetxattr(attributes, "user.empty", b"")
        assert res(ring) == 0
        ring.prep_getxattr(attributes.name, "user.empty")
        assert finish(ring)[0].xattr == b""
        ring.prep_getxattr(attributes.name, "user.missing")
        assert res(ring) == -errno.ENODATA


def test_attribute_flags_names_and_sizes_are_checked_by_the_kernel(attributes):
    with clean_ring() as ring:
        ring.prep_setxattr(attributes.name, "user.ferrule", b"", os.XATTR_CREATE)
        with pytest.raises(FileExistsError):
            finish(ring)[0].raise_for_error()
        ring.prep_fsetxattr(attributes, "user.missing", b"", os.XATTR_REPLACE)
        assert res(ring) == -errno.ENODATA
        ring.prep_fsetxattr(attributes, "user.large", bytes(65537))
        assert res(ring) == -errno.E2BIG
        ring.prep_fsetxattr(attributes, "", b"")
        assert res(ring) == -errno.ERANGE


def test_attribute_with_an_odd_value_comes_back_whole(attributes):
    value = bytes(range(256)) * 8
    with clean_ring() as ring:
        ring.prep_fsetxattr(attributes, "user.odd", memoryview(value))
        assert res(ring) == 0
        ring.prep_fgetxattr(attributes, "user.odd")
        assert finish(ring)[0].xattr == value


def test_value_to_set_is_held(file):
    value = bytearray(b"value")
    with Ring(1) as ring:
        ring.prep_fsetxattr(file, "user.a", value)
        with pytest.raises(BufferError):
            value.append(1)
    value.append(1)


def test_link_is_followed_to_its_file(attributes, tmp_path):
    (tmp_path / "link").symlink_to(attributes.name)
    with clean_ring() as ring:
        ring.prep_getxattr(tmp_path / "link", "user.ferrule")
        assert finish(ring)[0].xattr == b"there"


# ---- what a completion hands over, and what nobody took ------------------------------------------


def test_completion_of_another_kind_has_none_of_these(file):
    with clean_ring() as ring:
        ring.prep_fsync(file)
        [cqe] = finish(ring)
        assert cqe.xattr is cqe.pipe is cqe.slots is None


def test_values_outlive_the_ring(attributes):
    with with_slots(2) as ring:
        ring.prep_fgetxattr(attributes, "user.ferrule", user_data="xattr")
        ring.prep_pipe_direct(user_data="pipe")
        ring.prep_files_update([-1, attributes], 0, user_data="slots")
        cqes = {cqe.user_data: cqe for cqe in finish(ring, 3)}
    gc.collect()
    assert cqes["xattr"].xattr == b"there"
    assert sorted(cqes["pipe"].pipe) == [0, 1]
    assert cqes["slots"].slots == [0, 1]


@pytest.mark.parametrize(
    "prepare",
    [
        lambda ring, file: ring.prep_open(file.name),
        lambda ring, file: ring.prep_openat2(None, file.name),
        lambda ring, file: ring.prep_pipe(),
        lambda ring, file: ring.prep_fixed_fd_install(0),
    ],
)
@each_setup
def test_close_closes_new_descriptors_that_nobody_took(flags, prepare, file):
    with clean_ring(flags=flags) as ring:
        ring.register_files([file])
        before = count_descriptors()
        prepare(ring, file)
        ring.submit()
        deadline = time.monotonic() + 5
        while count_descriptors() == before:
            assert time.monotonic() < deadline, "it made no descriptor"
            time.sleep(0.001)
        ring.close()
        assert count_descriptors() == before - 1  # the ring's own


@each_setup
def test_close_takes_no_slot_for_a_descriptor(flags, file, tmp_path):
    # Slots and descriptors are counted alike: closing the number would close somebody's file.
    first, second = sorted(os.open(file.name, os.O_RDONLY) for _ in range(2))
    try:
        with with_slots(second + 3, flags=flags) as ring:
            ring.prep_open_direct(file.name, os.O_RDONLY, 0, first)
            ring.prep_openat2_direct(None, file.name, file_index=second)
            ring.prep_open_direct(file.name)
            ring.prep_pipe_direct(0, second + 1)
            ring.submit_and_wait(4)
            ring.close()
        os.fstat(first)
        os.fstat(second)
        os.fstat(0)
    finally:
        os.close(first)
        os.close(second)


def test_close_leaves_alone_what_a_pipe_sent_elsewhere_did_not_make():
    elsewhere = bytearray(8)
    with Ring(1) as ring:
        sqe = ring.prep_pipe()
        address = sqe.addr
        view = memoryview(elsewhere)
        with Ring(1) as other:
            sqe.addr = other.prep_read(0, view, 0).addr  # where the memory lies
            assert sqe.addr != address
            ring.submit_and_wait(1)
    for index in (0, 4):
        os.close(int.from_bytes(elsewhere[index:index + 4], "little"))
    os.fstat(0)


def test_length_and_opcode_cannot_leave_what_was_prepared(file):
    with Ring(8) as ring:
        for sqe in (ring.prep_fgetxattr(file, "user.a", 10), ring.prep_getxattr("x", "user.a", 10),
                    ring.prep_files_update([file], 0), ring.prep_openat2(None, "x")):
            length = sqe.len
            with pytest.raises(ValueError, match="exceeds"):
                sqe.len = length + 1
            sqe.len = length - 1
            with pytest.raises(ValueError, match="prepared"):
                sqe.opcode = Op.STATX
        sqe = ring.get_sqe()
        sqe.opcode = Op.FSYNC
        assert sqe.opcode == Op.FSYNC


def test_argument_whose_conversion_closes_the_ring_leaves_nothing(tmp_path):
    class Closing:
        def __init__(self, ring, value):
            self.ring, self.value = ring, value

        def __index__(self):
            self.ring.close()
            return self.value

        def fileno(self):
            return self.__index__()

        def __fspath__(self):
            self.ring.close()
            return "x"

    for prepare in (
        lambda ring, arg: ring.prep_ftruncate(0, arg),
        lambda ring, arg: ring.prep_open_direct("x", 0, 0, arg),
        lambda ring, arg: ring.prep_renameat(None, "a", arg, "b"),
        lambda ring, arg: ring.prep_rename("a", arg),
        lambda ring, arg: ring.prep_getxattr(arg, "user.x"),
        lambda ring, arg: ring.prep_files_update([arg], 0),
        lambda ring, arg: ring.prep_splice(0, arg, 1),
    ):
        with clean_ring() as ring, pytest.raises(ValueError, match="closed ring"):
            prepare(ring, Closing(ring, 0))
