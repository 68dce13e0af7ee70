"""What the engines share that learn from the kernel only when an attempt is worth making.

An operation is attempted when it is started, unless it is known that it would have to wait, and
again at each event of its descriptor; in between it stands in that descriptor's queue.  Whatever
has no attempt that is sure not to block (path look-ups, files on a disk, a terminal) goes to the
threads.  readiness.h has what is remembered of descriptors, and why no event is lost.

A timeout of a clock that is set by others, or goes on while the machine sleeps, is looked at once a
second: no poller tells of such changes.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport Py_INCREF
from libc.errno cimport EAGAIN, EBADF, EINTR, ENOMEM, ENOSYS, EOPNOTSUPP, EPERM
from libc.stdint cimport int16_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from ferrule._core.backend_workers cimport WorkerBackend, must_not_wait
from ferrule._core.operation cimport (
    OP_CANCEL_SENT, OP_DRAINS, OP_IN_FLIGHT, OP_IN_THREAD, OP_IN_WORKER, OP_MAY_BLOCK, OP_ON_DISK,
    OP_POLL, OP_PROVIDED_BUFFER, OP_RECV, OP_TIMEOUT, op,
    op_try_recv, timer, timers, timers_free, timers_nearest, timers_remove,
)

import os

cdef extern from "<errno.h>" nogil:
    int ECANCELED, ETIME

cdef extern from "<poll.h>" nogil:
    int POLLIN, POLLOUT

cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT, MSG_PEEK, MSG_WAITALL, SOL_SOCKET, SO_TYPE, SOCK_STREAM
    int getsockopt(int fd, int level, int name, void *value, uint32_t *size)

cdef extern from *:
    """
    #define op_attempt_now(o) op_rows[(o)->kind].attempt_now(o)
    #define op_can_attempt(o) (op_rows[(o)->kind].attempt_now != NULL)
    """
    int64_t op_attempt_now(op *o) nogil
    bint op_can_attempt(op *o) nogil

cdef extern from "readiness.h" nogil:
    enum:
        QUEUE_READ
        QUEUE_WRITE
        QUEUE_EITHER
        QUEUES
        WATCHED_PER_CHUNK
        ARM_LASTS
        ARM_AGAIN
    watched *watch_find(const watch_list *l, int fd)
    watched *watch_add(watch_list *l, int fd)
    void watch_free(watch_list *l)
    int watch_events(const op *o)
    bint watch_is_ready(watched *w, const op *o)
    void watch_queue(watched *w, op *o)
    void watch_remove(watched *w, op *o)
    int watch_wanted(const watched *w)
    bint watch_is_worth(const watched *w, int place)
    void watch_learn(watched *w, const poller_event *e)
    int clock_of(const op *o)
    int64_t clock_now(int clock)
    timer *clock_node(op *o)
    int clock_add(timers *heap, op *o)

cdef enum:
    EVENTS = 256             # taken at once
    IDLE_ROUNDS = 4
    LOOK_NS = 20_000         # between two looks while fibers are ready
    CLOCK_LOOK_NS = 1_000_000_000
    BUFFER = 32 * 1024


cdef class ReadinessBackend(WorkerBackend):
    cdef int open(self) except -1:
        cdef poller_event event
        cdef int n
        self.open_workers()
        try:
            self.buffer = <char *>malloc(BUFFER)
            if self.buffer == NULL:
                raise MemoryError("no memory for the receive buffer")
            self.open_poller()
            n = self.wait_events(0, &event, 1)  # a filter may forbid this alone
            if n < 0:
                raise OSError(-n, f"cannot wait for events: {os.strerror(-n)}")
        except BaseException:
            self.close()
            raise
        self.provides_buffers = True
        self.buffer_size = BUFFER
        self.direct_sends = 0xffffffff  # an attempt is all that could be queued
        return 0

    # ---- the poller that there is none of here ----

    cdef int open_poller(self) except -1:
        raise OSError(ENOSYS, os.strerror(ENOSYS))

    cdef int arm(self, int fd, int events, int how) noexcept:
        return -ENOSYS

    cdef int wait_events(self, int64_t timeout, poller_event *events, int limit) noexcept:
        return -ENOSYS

    cdef void disarm(self, int fd) noexcept:
        pass

    cdef void close_poller(self) noexcept:
        pass

    # ---- attempts ----

    cdef int64_t _attempt(self, op *o, watched *w) noexcept:
        cdef int64_t result = -EINTR
        while result == -EINTR:
            result = self._attempt_once(o, w)
        if result == -EAGAIN and not is_picky(o):
            w.ready &= ~watch_events(o)
        return result

    cdef void _settle(self, op *o, int64_t result) noexcept:
        """End an operation with what its attempt gave."""
        if result == -EOPNOTSUPP:
            self.start_in_thread(o)  # where it may block
        else:
            self.complete(o, result)

    cdef int64_t _attempt_once(self, op *o, watched *w) noexcept:
        if o.kind == OP_RECV:
            if o.traits & OP_PROVIDED_BUFFER:
                return self._receive_provided(o, w)
            if o.flags & MSG_WAITALL and not o.flags & MSG_DONTWAIT:
                return self._receive_all(o, w)
        return op_attempt_now(o)

    cdef int64_t _receive_provided(self, op *o, watched *w) noexcept:
        cdef uint64_t length = min(o.len, <uint64_t>BUFFER)
        cdef int64_t result = op_try_recv(o.fd, self.buffer, length, o.flags)
        if result < 0:
            return result
        if result < <int64_t>length and o.traits & OP_DRAINS and not w.hung:
            w.ready &= ~POLLIN
        try:
            data = PyBytes_FromStringAndSize(self.buffer, result)
        except MemoryError:
            return -ENOMEM
        Py_INCREF(data)
        o.payload = <void *>data
        return result

    cdef int64_t _receive_all(self, op *o, watched *w) noexcept:
        # What has been received is counted in `result`, which is also what an early end leaves.
        cdef int64_t result
        cdef int flags = o.flags & ~MSG_WAITALL
        while True:
            result = op_try_recv(o.fd, <char *>o.addr + o.result, o.len - o.result, flags)
            if result <= 0:
                return result if result == -EAGAIN or o.result == 0 else o.result
            if not is_stream(o.fd):
                return result
            if flags & MSG_PEEK:
                return result if <uint64_t>result == o.len or w.hung else -EAGAIN
            o.result += result
            if <uint64_t>o.result == o.len:
                return o.result

    # ---- starting and cancelling ----

    cdef void start(self, op *o) noexcept:
        o.state = OP_IN_FLIGHT
        o.result = 0
        self.in_flight += 1
        if o.kind == OP_TIMEOUT:
            self._start_timer(o)
        elif (o.traits & (OP_MAY_BLOCK | OP_IN_WORKER | OP_ON_DISK)
                or not op_can_attempt(o)):
            self.start_in_thread(o)
        elif watch_events(o) == 0 and o.kind != OP_POLL:
            self.complete(o, op_attempt_now(o))
        else:
            self._begin(o)

    cdef void _begin(self, op *o) noexcept:
        cdef watched *w
        if o.fd < 0:
            self.complete(o, -EBADF)
            return
        w = watch_add(&self.watches, o.fd)
        if w == NULL:
            self.complete(o, -ENOMEM)
        else:
            self._attempt_or_wait(o, w)

    cdef void _attempt_or_wait(self, op *o, watched *w) noexcept:
        cdef bint waits = not must_not_wait(o)
        cdef int64_t result = -EAGAIN
        if watch_is_ready(w, o) or not waits:
            result = self._attempt(o, w)
        if result == -EAGAIN and waits:
            self._wait_for(o, w)
        else:
            self._settle(o, result)

    cdef void _wait_for(self, op *o, watched *w) noexcept:
        cdef int err = 0
        cdef int events = watch_events(o)
        if events & ~w.armed or o.descriptor == 0:
            err = self._arm(o.fd, w, events)
        if err == -EPERM:  # a file: its attempt said that it would have to wait for the disk
            o.traits |= OP_ON_DISK
            self.start_in_thread(o)
        elif err == -EOPNOTSUPP:
            self.start_in_thread(o)
        elif err < 0:
            self.complete(o, err)
        else:
            watch_queue(w, o)
            self.waiting += 1

    cdef int _arm(self, int fd, watched *w, int events) noexcept:
        # A number that is not Ferrule's is armed for those who wait, others for good.
        events |= watch_wanted(w)
        if w.descriptor:
            events |= w.armed
        cdef int err = self.arm(fd, events, (ARM_LASTS if w.descriptor else 0)
                                | (ARM_AGAIN if w.known else 0))
        if err == 0:
            w.armed = <int16_t>events
            w.known = True
        return err

    cdef void _start_timer(self, op *o) noexcept:
        cdef int err = clock_add(&self.clocks[clock_of(o)], o)
        if err < 0:
            self.complete(o, err)

    cdef void cancel(self, op *o) noexcept:
        if o.state != OP_IN_FLIGHT or o.how_cancelled & OP_CANCEL_SENT:
            return
        if o.traits & OP_IN_THREAD:
            self.cancel_in_thread(o)
            return
        if o.kind == OP_TIMEOUT:
            timers_remove(&self.clocks[clock_of(o)], clock_node(o))
        else:
            self._leave_queue(watch_find(&self.watches, o.fd), o)
        self.complete(o, o.result if o.result > 0 else -ECANCELED)

    # ---- the tick ----

    cdef int poll(self, int64_t timeout, bint may_block) except -1:
        self.woken = False
        if not may_block or self.completed != NULL:
            # Fibers are ready.  With `timeout` 0 somebody asks what there is now.
            if timeout != 0 and clock_now(0) - self.looked_at < LOOK_NS:
                return 0
            return self._collect(0)
        if self.idle_rounds < IDLE_ROUNDS:
            self._collect(0)
            if self.completed != NULL or self.woken:
                self.idle_rounds = 0
                return 0
            self.idle_rounds += 1
        # Nothing was there at once lately: wait in the first call.
        if self._collect(self._limit_by_clocks(self.limit_wait(timeout))) > 1:
            self.idle_rounds = 0
        return 0

    cdef int _collect(self, int64_t timeout) except -2:
        """Take what has happened; how many events there were."""
        cdef poller_event events[EVENTS]
        cdef int n = self.wait_events(timeout, events, EVENTS)
        cdef int i
        self.enters += 1
        if n < 0 and n != -EINTR:
            raise OSError(-n, f"waiting for events failed: {os.strerror(-n)}")
        for i in range(n):
            self._take(&events[i])
        if n > 0:
            self.cqes += n
        self.reap_threads()
        self._expire_clocks()
        self.looked_at = clock_now(0)
        return max(n, 0)

    cdef void _take(self, poller_event *event) noexcept:
        cdef watched *w
        if event.fd == self.waker.read_fd:
            self.drain_waker()
            return
        w = watch_find(&self.watches, event.fd)
        if w == NULL:
            return
        watch_learn(w, event)
        self._serve(w)
        if event.disarmed:
            self._arm_again(event.fd, w)

    cdef void _serve(self, watched *w) noexcept:
        """Attempt again what waits, as long as it is worth it."""
        cdef int place
        cdef int64_t result
        cdef op *o
        cdef op *after
        for place in range(QUEUES):
            o = w.queues[place].head
            while o != NULL and watch_is_worth(w, place):
                after = o.next
                result = self._attempt(o, w)
                if result != -EAGAIN:
                    self._leave_queue(w, o)
                    self._settle(o, result)
                o = after

    cdef void _arm_again(self, int fd, watched *w) noexcept:
        cdef int wanted = watch_wanted(w)
        cdef int err = 0
        if wanted & ~w.armed:
            err = self._arm(fd, w, wanted)
        if err < 0:
            self._end_all(w, err)

    cdef void _end_all(self, watched *w, int err) noexcept:
        cdef int place
        cdef op *o
        for place in range(QUEUES):
            while w.queues[place].head != NULL:
                o = w.queues[place].head
                self._leave_queue(w, o)
                self.complete(o, o.result if o.result > 0 else err)

    cdef void _leave_queue(self, watched *w, op *o) noexcept:
        watch_remove(w, o)
        self.waiting -= 1

    cdef int64_t _limit_by_clocks(self, int64_t timeout) noexcept:
        cdef int clock
        cdef int64_t rest
        for clock in range(CLOCKS):
            if self.clocks[clock].count:
                rest = timers_nearest(&self.clocks[clock]).when - clock_now(clock)
                rest = max(0, min(rest, <int64_t>CLOCK_LOOK_NS))
                timeout = rest if timeout < 0 else min(timeout, rest)
        return timeout

    cdef void _expire_clocks(self) noexcept:
        cdef int clock
        cdef int64_t now
        cdef timer *node
        for clock in range(CLOCKS):
            if self.clocks[clock].count:
                now = clock_now(clock)
                node = timers_nearest(&self.clocks[clock])
                while node != NULL and node.when <= now:
                    timers_remove(&self.clocks[clock], node)
                    self.complete(<op *>node.owner, -ETIME)
                    node = timers_nearest(&self.clocks[clock])

    # ---- descriptors that are given up ----

    cdef void forget(self, int fd, bint by_owner) noexcept:
        cdef watched *w
        if by_owner:
            w = watch_find(&self.watches, fd)
            if w == NULL or not w.known:
                return
            w.descriptor = 0
            w.armed = 0
            w.known = False
        self.disarm(fd)

    # ---- the end ----

    cdef int close(self) except -1:
        cdef int leaked
        if not self.is_open:
            return 0
        self.is_open = False
        self._end_waiting()
        if self.in_flight:
            self.drain()
        leaked = self.in_flight
        self.close_poller()
        self._free()
        self.close_workers()
        return leaked

    cdef void _end_waiting(self) noexcept:
        cdef uint32_t chunk, i
        cdef int clock
        cdef timer *node
        for chunk in range(self.watches.chunk_count):
            if self.watches.chunks[chunk] != NULL:
                for i in range(WATCHED_PER_CHUNK):
                    self._end_all(&self.watches.chunks[chunk][i], -ECANCELED)
        for clock in range(CLOCKS):
            node = timers_nearest(&self.clocks[clock])
            while node != NULL:
                self.cancel(<op *>node.owner)
                node = timers_nearest(&self.clocks[clock])

    cdef void _free(self) noexcept:
        cdef int clock
        watch_free(&self.watches)
        for clock in range(CLOCKS):
            timers_free(&self.clocks[clock])
        free(self.buffer)
        self.buffer = NULL

    cdef void abandon(self) noexcept:
        if self.is_open:
            self.close_poller()
            self._free()
            WorkerBackend.abandon(self)


cdef bint is_picky(op *o) noexcept:
    """Whether it waits on though there is something: nobody else may learn from it."""
    return o.kind == OP_RECV and o.flags & MSG_PEEK and o.flags & MSG_WAITALL


cdef bint is_stream(int fd) noexcept:
    cdef int kind = 0
    cdef uint32_t size = sizeof(kind)
    getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size)
    return kind == SOCK_STREAM
