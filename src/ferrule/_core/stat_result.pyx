"""What statx(2) answers.  There may be very many, so Python's numbers are made when asked for."""
cimport cython
from cpython.object cimport PyTypeObject
from libc.errno cimport EOPNOTSUPP, errno
from libc.string cimport memcpy

import os

cdef extern from "made_here.h":
    int forbid_making(PyTypeObject *type) except -1

cdef extern from "system_names.h" nogil:
    uint64_t makedev(unsigned int major, unsigned int minor)
    int statx(int dir_fd, const char *path, int flags, unsigned int mask, statx_buf *to)
    enum:
        AT_FDCWD
        AT_SYMLINK_NOFOLLOW
        STATX_BTIME


cdef inline double seconds(statx_timestamp t) noexcept:
    return <double>t.tv_sec + 1e-9 * <double>t.tv_nsec


cdef inline object nanoseconds(statx_timestamp t):
    return t.tv_sec * 1_000_000_000 + t.tv_nsec


@cython.final
@cython.freelist(64)
cdef class StatResult:
    """What statx(2) says of a file: os.stat_result's attributes, and those only statx has."""

    cdef statx_buf *raw(self) noexcept:
        return <statx_buf *>self.known

    @property
    def st_mode(self):
        return self.raw().stx_mode

    @property
    def st_ino(self):
        return self.raw().stx_ino

    @property
    def st_dev(self):
        return makedev(self.raw().stx_dev_major, self.raw().stx_dev_minor)

    @property
    def st_rdev(self):
        return makedev(self.raw().stx_rdev_major, self.raw().stx_rdev_minor)

    @property
    def st_nlink(self):
        return self.raw().stx_nlink

    @property
    def st_uid(self):
        return self.raw().stx_uid

    @property
    def st_gid(self):
        return self.raw().stx_gid

    @property
    def st_size(self):
        return self.raw().stx_size

    @property
    def st_blksize(self):
        return self.raw().stx_blksize

    @property
    def st_blocks(self):
        return self.raw().stx_blocks

    @property
    def st_atime(self):
        return seconds(self.raw().stx_atime)

    @property
    def st_atime_ns(self):
        return nanoseconds(self.raw().stx_atime)

    @property
    def st_mtime(self):
        return seconds(self.raw().stx_mtime)

    @property
    def st_mtime_ns(self):
        return nanoseconds(self.raw().stx_mtime)

    @property
    def st_ctime(self):
        return seconds(self.raw().stx_ctime)

    @property
    def st_ctime_ns(self):
        return nanoseconds(self.raw().stx_ctime)

    @property
    def st_birthtime(self):
        """When the file was made, or 0.0 where the file system does not say (see stx_mask)."""
        return seconds(self.raw().stx_btime)

    @property
    def st_birthtime_ns(self):
        return nanoseconds(self.raw().stx_btime)

    @property
    def stx_mask(self):
        """Which fields the kernel filled in (STATX_* bits)."""
        return self.raw().stx_mask

    @property
    def stx_attributes(self):
        return self.raw().stx_attributes

    @property
    def stx_attributes_mask(self):
        return self.raw().stx_attributes_mask

    def __repr__(self):
        return (f"StatResult(st_mode=0o{self.st_mode:o}, st_ino={self.st_ino}, "
                f"st_size={self.st_size}, st_mtime={self.st_mtime})")


def read_birth(bytes path not None, bint follow):
    """When a file was made, in nanoseconds since the epoch.

    Raises OSError, with EOPNOTSUPP where its file system does not tell.  Blocks the thread.
    """
    cdef statx_buf facts
    cdef int flags = 0 if follow else AT_SYMLINK_NOFOLLOW
    if statx(AT_FDCWD, path, flags, STATX_BTIME, &facts) < 0:
        raise OSError(errno, os.strerror(errno), os.fsdecode(path))
    if not facts.stx_mask & STATX_BTIME:
        why = "the file system does not tell when it was made"
        raise OSError(EOPNOTSUPP, why, os.fsdecode(path))
    return nanoseconds(facts.stx_btime)


cdef StatResult new_stat_result(const statx_buf *raw):
    cdef StatResult result = StatResult.__new__(StatResult)
    memcpy(result.known, raw, sizeof(result.known))
    return result


forbid_making(<PyTypeObject *>StatResult)
