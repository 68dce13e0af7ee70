# What the engines share that learn from the kernel only when an attempt is worth making: epoll and
# kqueue.  Everything is here but the poller.
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t

from ferrule._core.backend_workers cimport WorkerBackend
from ferrule._core.operation cimport op, timers


cdef extern from "readiness.h" nogil:
    struct op_queue:
        op *head

    struct watched:
        op_queue queues[3]
        uint64_t descriptor
        int16_t armed
        int16_t ready
        uint8_t known
        uint8_t hung

    struct watch_list:
        watched **chunks
        uint32_t chunk_count

    struct poller_event:
        int32_t fd
        int16_t events
        int16_t disarmed

    enum:
        CLOCKS


cdef class ReadinessBackend(WorkerBackend):
    cdef watch_list watches
    cdef timers clocks[CLOCKS]   # timeouts, by the clock that they follow
    cdef char *buffer            # what "provided" receives read into
    cdef uint32_t waiting        # operations that wait for readiness
    cdef uint32_t idle_rounds    # polls in a row that had to wait
    cdef int64_t looked_at       # when events were last asked for

    # -- the poller: what an engine below this has to have; called by the owner's thread --

    # Make it, and let it watch self.waker.read_fd, which is reported as any other number.
    cdef int open_poller(self) except -1
    # Have `events` (of poll(2): all that is wanted now) of a number reported, *also those that are
    # there already*: at least once, with ARM_LASTS until the number is given up if the poller can.
    # 0 or -errno; -EPERM: a kind of file that is always ready.
    cdef int arm(self, int fd, int events, int how) noexcept
    # Collect what there is; wait for `timeout` ns (-1: without end) for the first.  Lets go of the
    # GIL only to wait.  How many, or -errno.  What is no longer armed is said in `disarmed`.
    cdef int wait_events(self, int64_t timeout, poller_event *events, int limit) noexcept
    # No more events of this number, which is given up.  Any thread.
    cdef void disarm(self, int fd) noexcept
    # Also in a forked child.
    cdef void close_poller(self) noexcept

    cdef int64_t _attempt(self, op *o, watched *w) noexcept
    cdef int64_t _attempt_once(self, op *o, watched *w) noexcept
    cdef int64_t _receive_provided(self, op *o, watched *w) noexcept
    cdef int64_t _receive_all(self, op *o, watched *w) noexcept
    cdef void _settle(self, op *o, int64_t result) noexcept
    cdef void _begin(self, op *o) noexcept
    cdef void _attempt_or_wait(self, op *o, watched *w) noexcept
    cdef void _wait_for(self, op *o, watched *w) noexcept
    cdef int _arm(self, int fd, watched *w, int events) noexcept
    cdef void _start_timer(self, op *o) noexcept
    cdef int _collect(self, int64_t timeout) except -2
    cdef void _take(self, poller_event *event) noexcept
    cdef void _serve(self, watched *w) noexcept
    cdef void _arm_again(self, int fd, watched *w) noexcept
    cdef void _end_all(self, watched *w, int err) noexcept
    cdef void _leave_queue(self, watched *w, op *o) noexcept
    cdef int64_t _limit_by_clocks(self, int64_t timeout) noexcept
    cdef void _expire_clocks(self) noexcept
    cdef void _end_waiting(self) noexcept
    cdef void _free(self) noexcept
