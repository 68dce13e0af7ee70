# What an engine has to have; backend.pyx has what it promises.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from ferrule._core.operation cimport OP_COMPLETED, op, slots


cdef class Backend:
    cdef slots *table            # the scheduler's; user_data is looked up here
    cdef op *completed           # what poll() finished, oldest first; the scheduler takes the list
    cdef op *completed_tail
    cdef readonly str name
    cdef readonly uint32_t in_flight   # started, not yet completed
    cdef readonly bint provides_buffers  # OP_PROVIDED_BUFFER is honoured ...
    cdef uint32_t buffer_size    # ... with so many bytes
    cdef uint32_t direct_sends   # with more in flight than this, sends are better queued
    cdef readonly uint64_t enters, sqes, cqes, wakes
    cdef readonly uint64_t to_workers, to_waiters  # operations that went to threads

    # Called once, on the thread that will poll.  OSError: the system refuses.
    cdef int open(self) except -1
    # Begin an operation.  Its completion, also an immediate failure, goes to `completed`.
    cdef void start(self, op *o) noexcept
    # Ask for an early end.  The operation still completes, with its result or -ECANCELED/-EINTR.
    cdef void cancel(self, op *o) noexcept
    # The number, on which nothing is in flight, is about to be closed or given away.  `by_owner`:
    # called by the thread that polls; else by any, while the engine is open.
    cdef void forget(self, int fd, bint by_owner) noexcept
    # Submit what was started and collect completions.  Waits up to timeout ns (-1: no limit) for
    # the first one if may_block; a wake-up or a signal ends the wait early.
    cdef int poll(self, int64_t timeout, bint may_block) except -1
    # End the current or the next wait of poll().  Any thread, and C signal handlers; between open()
    # and close(), for which the caller sees to it that neither is under way.
    cdef void wake(self) noexcept nogil
    # The write end of what wake() writes to, for signal.set_wakeup_fd.
    cdef int wake_fd(self) noexcept
    # Give everything back; returns how many operations had to be leaked.
    cdef int close(self) except -1
    # In a forked child: drop the descriptors, touch nothing else.
    cdef void abandon(self) noexcept

    cdef inline void complete(self, op *o, int64_t result) noexcept:
        o.result = result
        o.state = OP_COMPLETED
        o.next = NULL
        if self.completed_tail != NULL:
            self.completed_tail.next = o
        else:
            self.completed = o
        self.completed_tail = o
        self.in_flight -= 1
