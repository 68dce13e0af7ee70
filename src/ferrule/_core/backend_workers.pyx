"""What engines share: threads for the operations that they cannot do themselves, and the pipe that
ends their waits.

Two pools, so that what waits for ever (a FIFO's open, a lock, a descriptor that nothing comes to)
cannot keep the threads from what ends by itself.  The threads run the table's plain attempts and
touch no Python object; a completion reaches its loop through the pool's stack and one byte in the
pipe for all that it finds there.  worker_pool.h has how one is taken back or interrupted.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport Py_INCREF
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc

from ferrule._core.backend cimport Backend
from ferrule._core.operation cimport (
    OP_IN_FLIGHT, OP_IN_THREAD, OP_IN_WORKER, OP_MAY_BLOCK, OP_ON_DISK, OP_POLL,
    OP_PROVIDED_BUFFER, OP_TIMEOUT, SLOTS_PER_CHUNK, op, op_rows, slots_at,
)

import os
import time

cdef extern from *:
    """
    #define op_set_cancelled(o) \
        __atomic_fetch_or(&(o)->how_cancelled, OP_CANCEL_SENT, __ATOMIC_ACQ_REL)
    """
    void op_set_cancelled(op *o) nogil

cdef extern from "waker.h" nogil:
    int waker_open(waker *w)
    void waker_wake(void *w)
    void waker_drain(waker *w)
    void waker_close(waker *w)

cdef extern from "worker_pool.h" nogil:
    void pool_init(pool *p, uint32_t eager, uint32_t max_threads,
                   void (*notify)(void *) noexcept nogil, void *arg)
    int pool_submit(pool *p, op *o)
    int pool_offer(pool *p, op *o, uint32_t most)
    op *pool_reap(pool *p)
    int64_t pool_limit_wait(pool *p, int64_t timeout)
    void pool_dismiss(pool *p)
    bint pool_interrupt(pool *p, op *o)
    void pool_stop(pool *p)

cdef enum:
    WORKERS_AT_ONCE = 2      # enough for all that a loop can start, if they are short
    WORKERS_MAX = 16
    WAITERS_MAX = 1024       # each FIFO or lock holds one
    INTERRUPT_AGAIN_NS = 2_000_000
    DRAIN_SECONDS = 5
    DRAIN_STEP_NS = 100_000_000


cdef class WorkerBackend(Backend):
    def __cinit__(self):
        self.waker.read_fd = self.waker.write_fd = -1

    cdef int open_workers(self) except -1:
        cdef int err = waker_open(&self.waker)
        if err < 0:
            raise OSError(-err, f"cannot make the wake-up pipe: {os.strerror(-err)}")
        pool_init(&self.workers, WORKERS_AT_ONCE, WORKERS_MAX, waker_wake, &self.waker)
        pool_init(&self.waiters, WAITERS_MAX, WAITERS_MAX, waker_wake, &self.waker)
        self.is_open = True
        return 0

    # ---- operations in threads ----

    cdef pool *_pool_of(self, op *o) noexcept:
        cdef bint waits = (o.traits & OP_MAY_BLOCK or o.kind == OP_POLL or o.kind == OP_TIMEOUT
                           or op_rows[o.kind].poll_events != 0
                           and not o.traits & (OP_IN_WORKER | OP_ON_DISK))
        return &self.waiters if waits else &self.workers

    cdef void start_in_thread(self, op *o) noexcept:
        cdef pool *p = self._pool_of(o)
        cdef int err = self._receive_in_thread(o)
        if err == 0:
            err = pool_submit(p, o)
        if err < 0:
            self._make_payload(o)
            self.complete(o, err)
            return
        self._note_thread(o, p)

    cdef void _note_thread(self, op *o, pool *p) noexcept:
        o.traits |= OP_IN_THREAD
        self.in_threads += 1
        if p == &self.waiters:
            self.to_waiters += 1
        else:
            self.to_workers += 1

    cdef bint offer_to_thread(self, op *o, uint32_t most) noexcept:
        if self._receive_in_thread(o) < 0 or pool_offer(&self.waiters, o, most) < 0:
            self._make_payload(o)
            return False
        self._note_thread(o, &self.waiters)
        return True

    # A buffer that the engine provides is, for a thread, one that the operation has from here on.

    cdef int _receive_in_thread(self, op *o) noexcept:
        if o.traits & OP_PROVIDED_BUFFER:
            o.result = -1
            o.addr = malloc(o.len)
            if o.addr == NULL:
                return -ENOMEM
        return 0

    cdef void _make_payload(self, op *o) noexcept:
        if not o.traits & OP_PROVIDED_BUFFER:
            return
        if o.result >= 0:
            try:
                data = PyBytes_FromStringAndSize(<char *>o.addr, o.result)
                Py_INCREF(data)
                o.payload = <void *>data
            except MemoryError:
                o.result = -ENOMEM
        free(o.addr)
        o.addr = NULL

    cdef void cancel_in_thread(self, op *o) noexcept:
        op_set_cancelled(o)
        if pool_interrupt(self._pool_of(o), o):
            # Operations that run in a thread have no payload, so it links the list.
            o.payload = <void *>self.interrupting
            self.interrupting = o

    cdef int reap_threads(self) noexcept:
        # Also without operations in threads: see pool_reap.
        cdef int n = self._reap_pool(&self.workers) + self._reap_pool(&self.waiters)
        cdef op *o
        o = self.interrupting
        while o != NULL:
            pool_interrupt(self._pool_of(o), o)
            o = <op *>o.payload
        return n

    cdef int _reap_pool(self, pool *p) noexcept:
        cdef op *o = pool_reap(p)
        cdef op *after
        cdef int n = 0
        while o != NULL:
            after = o.next
            n += 1
            self._forget_interrupt(o)
            o.traits &= ~OP_IN_THREAD
            self._make_payload(o)
            self.in_threads -= 1
            self.complete(o, o.result)
            o = after
        return n

    cdef void _forget_interrupt(self, op *o) noexcept:
        cdef op *at = self.interrupting
        if at == o:
            self.interrupting = <op *>o.payload
        else:
            while at != NULL and <op *>at.payload != o:
                at = <op *>at.payload
            if at == NULL:
                return
            at.payload = o.payload
        o.payload = NULL

    # ---- waiting and waking ----

    cdef int64_t limit_wait(self, int64_t timeout) noexcept:
        if self.interrupting != NULL and (timeout < 0 or timeout > INTERRUPT_AGAIN_NS):
            timeout = INTERRUPT_AGAIN_NS
        return pool_limit_wait(&self.workers, pool_limit_wait(&self.waiters, timeout))

    cdef void drain_waker(self) noexcept:
        self.woken = True
        self.wakes += 1
        waker_drain(&self.waker)

    cdef void wake(self) noexcept nogil:
        waker_wake(&self.waker)

    cdef int wake_fd(self) noexcept:
        return self.waker.write_fd

    # ---- the end ----

    cdef int drain(self) except -1:
        # Numbered in the scheduler's shutdown: nothing is freed while somebody may write to it.
        cdef uint32_t before, i
        cdef op *o
        cdef op *done
        cdef op *done_tail
        for i in range(self.table.chunk_count * SLOTS_PER_CHUNK):
            o = slots_at(self.table, i)
            if o.state == OP_IN_FLIGHT:
                self.cancel(o)
        until = time.monotonic() + DRAIN_SECONDS
        while self.in_flight and time.monotonic() < until:
            before = self.in_flight
            done, done_tail = self.completed, self.completed_tail
            self.completed = self.completed_tail = NULL  # so that there is something to wait for
            self.poll(DRAIN_STEP_NS, True)
            if done != NULL:
                done_tail.next = self.completed
                self.completed = done
                if self.completed_tail == NULL:
                    self.completed_tail = done_tail
            if self.in_flight < before:
                until = time.monotonic() + DRAIN_SECONDS
        return 0

    cdef int close_workers(self) except -1:
        if self.in_threads:
            Py_INCREF(self)  # a thread that comes back later still finds its pool and its pipe
            pool_dismiss(&self.workers)
            pool_dismiss(&self.waiters)
            return 0
        pool_stop(&self.workers)
        pool_stop(&self.waiters)
        waker_close(&self.waker)
        return 0

    cdef void abandon(self) noexcept:
        # The threads do not exist in the child.
        self.is_open = False
        waker_close(&self.waker)
