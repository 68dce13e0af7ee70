# What engines share: threads for the operations that they cannot do themselves, and the pipe that
# ends their waits.
from libc.stdint cimport int64_t, uint32_t

from ferrule._core.backend cimport Backend
from ferrule._core.operation cimport OP_RECV, OP_RECVMSG, OP_SEND, OP_SENDMSG, op


cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT


cdef extern from "waker.h" nogil:
    struct waker:
        int read_fd
        int write_fd

cdef extern from "worker_pool.h" nogil:
    struct pool:
        pass


cdef inline bint must_not_wait(op *o) noexcept:
    return (o.kind in (OP_RECV, OP_SEND, OP_RECVMSG, OP_SENDMSG)
            and o.flags & MSG_DONTWAIT != 0)


cdef class WorkerBackend(Backend):
    cdef pool workers            # for what ends by itself
    cdef pool waiters            # for what may wait for ever
    cdef uint32_t in_threads     # operations that they have
    cdef op *interrupting        # running in a thread, cancelled, to be signalled again
    cdef waker waker
    cdef bint is_open
    cdef bint woken              # this poll consumed a wake-up: it must not wait any more

    # The first step of open(); OSError.  Whoever fails after it calls close_workers().
    cdef int open_workers(self) except -1
    # For an operation that is in flight.  Its completion comes out of reap_threads().
    cdef void start_in_thread(self, op *o) noexcept
    # As start_in_thread for what may wait for ever, but False, and nothing done, unless one of at
    # most `most` threads takes it at once.
    cdef bint offer_to_thread(self, op *o, uint32_t most) noexcept
    # For an operation with OP_IN_THREAD.
    cdef void cancel_in_thread(self, op *o) noexcept
    # To be called by poll(), which is waked when there is something.
    cdef int reap_threads(self) noexcept
    # How long poll() may wait, given that it may wait for `timeout`.
    cdef int64_t limit_wait(self, int64_t timeout) noexcept
    cdef void drain_waker(self) noexcept
    # Cancel what is in flight and poll() until it has ended; gives up after 5 s in vain.
    cdef int drain(self) except -1
    # The last step of close().
    cdef int close_workers(self) except -1
    cdef pool *_pool_of(self, op *o) noexcept
    cdef int _receive_in_thread(self, op *o) noexcept
    cdef void _note_thread(self, op *o, pool *p) noexcept
    cdef void _make_payload(self, op *o) noexcept
    cdef int _reap_pool(self, pool *p) noexcept
    cdef void _forget_interrupt(self, op *o) noexcept
