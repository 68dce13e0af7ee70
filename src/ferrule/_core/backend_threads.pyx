"""The engine of plain threads: the floor, which needs nothing but POSIX.

An operation that would block is a plain blocking call on a pooled OS thread.  Fibers stay greenlets
on their Ferrule thread: the scheduler itself is the baton that keeps two fibers of one thread from
running at once, and no Python code ever runs on the pooled threads.

What is started is tried when the loop comes to poll(): by then a busy peer has often answered, and
an attempt that cannot block costs far less than the way to a thread and back.  What would block
gets a thread that waits in the call itself.  There are only so many of them; operations beyond that
which wait for readiness form the crowd, whose descriptors the loop watches together with poll(2).
"""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport Py_INCREF
from libc.errno cimport EAGAIN, EINTR, ENOMEM, errno
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, realloc

from ferrule._core.backend_workers cimport WorkerBackend, waker
from ferrule._core.operation cimport (
    OP_CANCEL_SENT, OP_IN_FLIGHT, OP_IN_THREAD, OP_IN_WORKER, OP_MAY_BLOCK, OP_ON_DISK, OP_POLL,
    OP_PROVIDED_BUFFER, OP_RECV, OP_RECVMSG, OP_SEND, OP_SENDMSG, op, op_rows,
)

import os

cdef extern from "<errno.h>" nogil:
    int ECANCELED, EOPNOTSUPP

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    short POLLIN

cdef extern from "<sys/resource.h>" nogil:
    ctypedef unsigned long rlim_t
    struct rlimit:
        rlim_t rlim_cur
    int RLIMIT_NOFILE
    int getrlimit(int resource, rlimit *limit)

cdef extern from "<sys/socket.h>" nogil:
    int MSG_WAITALL

cdef extern from "waker.h" nogil:
    bint waker_was_called(const waker *w)

cdef extern from *:
    """
    #include <poll.h>
    #include <time.h>
    /* poll(2) by nanoseconds; -1: without end. */
    static int poll_for(struct pollfd *fds, uint32_t count, int64_t timeout) {
    #ifdef __APPLE__
        int64_t ms = timeout < 0 ? -1 : (timeout + 999999) / 1000000;
        return poll(fds, count, ms > 0x7fffffff ? 0x7fffffff : (int)ms);
    #else
        struct timespec t = {.tv_sec = timeout / 1000000000, .tv_nsec = timeout % 1000000000};
        return ppoll(fds, count, timeout < 0 ? NULL : &t, NULL);
    #endif
    }
    """
    int poll_for(pollfd *fds, uint32_t count, int64_t timeout) nogil

cdef enum:
    BUFFER_SIZE = 4096
    MOST_THREADS = 256           # FERRULE_WAITING_THREADS
    MOST_THREADS_LIMIT = 768     # the rest of the pool is for locks, FIFOs and the like
    MOST_WATCHED = 1 << 20
    PART_NS = 10_000_000


cdef struct op_list:
    op *first
    op *last
    uint32_t count


cdef void append(op_list *ops, op *o) noexcept:
    o.next = NULL
    if ops.last != NULL:
        ops.last.next = o
    else:
        ops.first = o
    ops.last = o
    ops.count += 1


cdef void join(op_list *ops, op_list *more) noexcept:
    if more.first != NULL:
        ops.last.next = more.first
        ops.last = more.last
        ops.count += more.count


cdef op *take_all(op_list *ops) noexcept:
    cdef op *first = ops.first
    ops.first = ops.last = NULL
    ops.count = 0
    return first


@cython.final
cdef class ThreadsBackend(WorkerBackend):
    cdef op_list fresh           # started, not yet tried
    cdef op_list crowd           # no thread was free for them
    cdef uint32_t most_threads   # that wait for readiness
    cdef pollfd *watched         # the pipe, then the crowd's
    cdef uint32_t watched_room, watched_most
    cdef bint crowd_cancelled    # some of it
    cdef char buffer[BUFFER_SIZE]

    def __cinit__(self):
        self.name = "threads"
        self.provides_buffers = True
        self.buffer_size = BUFFER_SIZE

    def __dealloc__(self):
        free(self.watched)

    cdef int open(self) except -1:
        cdef rlimit limit
        self.most_threads = most_threads_asked()
        self.watched_most = MOST_WATCHED  # poll(2) refuses more than there may be descriptors
        if getrlimit(RLIMIT_NOFILE, &limit) == 0 and limit.rlim_cur < MOST_WATCHED:
            self.watched_most = max(2, <uint32_t>limit.rlim_cur)
        self._make_room()
        if self.watched_room == 0:
            raise MemoryError("no memory for the list of what is watched")
        return self.open_workers()

    # ---- starting and cancelling ----

    cdef void start(self, op *o) noexcept:
        o.state = OP_IN_FLIGHT
        self.in_flight += 1
        if o.traits & (OP_MAY_BLOCK | OP_IN_WORKER) or op_rows[o.kind].attempt_now == NULL:
            self.start_in_thread(o)
        else:
            append(&self.fresh, o)

    cdef void cancel(self, op *o) noexcept:
        if o.state != OP_IN_FLIGHT or o.how_cancelled & OP_CANCEL_SENT:
            return
        if o.traits & OP_IN_THREAD:
            self.cancel_in_thread(o)
        else:
            o.how_cancelled |= OP_CANCEL_SENT  # poll() looks at it before it waits

    # ---- the tick ----

    cdef int poll(self, int64_t timeout, bint may_block) except -1:
        cdef bint waits
        self.woken = False
        if waker_was_called(&self.waker):
            self.drain_waker()
        self._try_fresh()
        self.reap_threads()
        waits = may_block and self.completed == NULL and not self.woken
        if waits or self.crowd.count:
            self._watch(self.limit_wait(timeout) if waits else 0)
            self.reap_threads()
        return 0

    cdef void _try_fresh(self) noexcept:
        cdef op *o = take_all(&self.fresh)
        cdef op *after
        while o != NULL:
            after = o.next
            if not self._try(o):
                self._let_wait(o)
            o = after

    cdef bint _try(self, op *o) noexcept:
        """Whether that completed it."""
        cdef int64_t result = -ECANCELED
        if not o.how_cancelled & OP_CANCEL_SENT:
            result = self._receive(o) if o.traits & OP_PROVIDED_BUFFER \
                else op_rows[o.kind].attempt_now(o)
        if result == -EAGAIN or result == -EOPNOTSUPP:
            return False
        self.complete(o, result)
        return True

    cdef int64_t _receive(self, op *o) noexcept:
        cdef int64_t result
        o.addr = self.buffer
        result = op_rows[o.kind].attempt_now(o)
        o.addr = NULL
        if result >= 0:
            try:
                data = PyBytes_FromStringAndSize(self.buffer, result)
                Py_INCREF(data)
                o.payload = <void *>data
            except MemoryError:
                return -ENOMEM
        return result

    cdef void _let_wait(self, op *o) noexcept:
        if events_of(o) == 0 or o.traits & OP_ON_DISK:
            self.start_in_thread(o)
        elif not self.offer_to_thread(o, self.most_threads):
            append(&self.crowd, o)

    # ---- the crowd ----

    cdef int _watch(self, int64_t timeout) except -1:
        """Wait up to timeout ns (-1: no limit) for a wake-up or for one of the crowd."""
        cdef int n, err
        cdef uint32_t count = self._list_watched()
        if self.crowd.count >= count:  # it is watched part by part
            timeout = PART_NS if timeout < 0 else min(timeout, <int64_t>PART_NS)
        if self.crowd_cancelled:
            timeout = 0
        self.enters += 1
        with nogil:
            n = poll_for(self.watched, count, timeout)
            err = errno
        if n < 0 and err != EINTR:
            raise OSError(err, f"poll failed: {os.strerror(err)}")
        if self.watched[0].revents:
            self.drain_waker()
        if self.crowd.count:
            self._look_through_crowd(count)
        return 0

    cdef uint32_t _list_watched(self) noexcept:
        cdef op *o = self.crowd.first
        cdef uint32_t n = 1
        self._make_room()
        self.watched[0].fd = self.waker.read_fd
        self.watched[0].events = POLLIN
        self.crowd_cancelled = False
        while o != NULL and n < self.watched_room:
            self.watched[n].fd = o.fd
            self.watched[n].events = events_of(o)
            self.watched[n].revents = 0
            self.crowd_cancelled |= o.how_cancelled & OP_CANCEL_SENT != 0
            n += 1
            o = o.next
        self.watched[0].revents = 0
        return n

    cdef void _make_room(self) noexcept:
        cdef uint32_t wanted = min(self.crowd.count + 1, self.watched_most)
        if wanted > self.watched_room:
            wanted = min(2 * wanted, self.watched_most)
            grown = <pollfd *>realloc(self.watched, wanted * sizeof(pollfd))
            if grown != NULL:
                self.watched = grown
                self.watched_room = wanted

    cdef void _look_through_crowd(self, uint32_t count) noexcept:
        """Try those that are ready; who was looked at goes to the end."""
        cdef op_list rest = self.crowd
        cdef op *o = take_all(&self.crowd)
        cdef op *after
        cdef uint32_t i
        for i in range(1, count):
            after = o.next
            if self.watched[i].revents == 0 and not o.how_cancelled & OP_CANCEL_SENT:
                append(&self.crowd, o)
            elif not self._try(o):
                self._try_again(o)
            o = after
        if o != NULL:
            rest.first = o
            rest.count -= count - 1
            join(&rest, &self.crowd)
            self.crowd = rest

    cdef void _try_again(self, op *o) noexcept:
        """It is ready, and yet an attempt that cannot block does not do it."""
        if o.kind in (OP_RECV, OP_SEND, OP_RECVMSG, OP_SENDMSG, OP_POLL) \
                and not o.flags & MSG_WAITALL:
            append(&self.crowd, o)  # another fiber was quicker
        else:
            o.traits |= OP_IN_WORKER  # a file, or what only a blocking call does
            self.start_in_thread(o)

    # ---- the end ----

    cdef int close(self) except -1:
        if not self.is_open:
            return 0
        self.is_open = False
        self.drain()
        self.close_workers()
        return self.in_flight


cdef inline short events_of(op *o) noexcept:
    return <short>o.flags if o.kind == OP_POLL else op_rows[o.kind].poll_events


cdef uint32_t most_threads_asked() except 0:
    text = os.environ.get("FERRULE_WAITING_THREADS") or str(MOST_THREADS)
    if not text.isdigit() or not 1 <= int(text) <= MOST_THREADS_LIMIT:
        raise ValueError("FERRULE_WAITING_THREADS must be a whole number from 1 to "
                         f"{MOST_THREADS_LIMIT}, not {text!r}")
    return int(text)
