"""The contract of an engine, and the engine that refuses everything (a base and a test double)."""
from libc.errno cimport ENOSYS


cdef class Backend:
    def __cinit__(self):
        self.direct_sends = 0xffffffff

    cdef int open(self) except -1:
        return 0

    cdef void start(self, op *o) noexcept:
        self.in_flight += 1
        self.complete(o, -ENOSYS)

    cdef void cancel(self, op *o) noexcept:
        pass

    cdef void forget(self, int fd, bint by_owner) noexcept:
        pass

    cdef int poll(self, int64_t timeout, bint may_block) except -1:
        return 0

    cdef void wake(self) noexcept nogil:
        pass

    cdef int wake_fd(self) noexcept:
        return -1

    cdef int close(self) except -1:
        return 0

    cdef void abandon(self) noexcept:
        pass
