# What statx(2) answers, as a Python object.
cimport cython
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t


cdef extern from "system_names.h" nogil:
    struct statx_timestamp:
        int64_t tv_sec
        uint32_t tv_nsec
    # Named by its tag because statx is also the function.
    struct statx_buf "statx":
        uint32_t stx_mask
        uint32_t stx_blksize
        uint64_t stx_attributes
        uint32_t stx_nlink
        uint32_t stx_uid
        uint32_t stx_gid
        uint16_t stx_mode
        uint64_t stx_ino
        uint64_t stx_size
        uint64_t stx_blocks
        uint64_t stx_attributes_mask
        statx_timestamp stx_atime
        statx_timestamp stx_btime
        statx_timestamp stx_ctime
        statx_timestamp stx_mtime
        uint32_t stx_rdev_major
        uint32_t stx_rdev_minor
        uint32_t stx_dev_major
        uint32_t stx_dev_minor


cdef enum:
    KNOWN_WORDS = 18            # of the struct: up to stx_dev_minor


@cython.final
cdef class StatResult:
    cdef uint64_t known[KNOWN_WORDS]
    cdef statx_buf *raw(self) noexcept


cdef StatResult new_stat_result(const statx_buf *raw)
