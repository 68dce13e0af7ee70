"""The io_uring engine.

Facts about the kernel that shape this file:
  * An SQE costs nothing until io_uring_enter, and enter costs the same for one SQE as for many.
  * With DEFER_TASKRUN completions appear only inside enter(GETEVENTS) by the thread that owns the
    ring; the TASKRUN bit in the SQ flags tells when there are any, so an idle look costs no call.
  * Nothing pushes back: submits go on succeeding while the CQ overflows, and the overflow list is
    moved into the CQ only by enter(GETEVENTS).
  * enter hides EINTR and ETIME whenever it submitted something.
  * A cancel is itself a request.  Its target still completes: with its result, or -ECANCELED, or
    -EINTR when a kernel worker had it.
  * Closing the ring does not wait for requests in flight.

What follows: one enter per poll for everything queued, made while holding the GIL (submitting does
not sleep); the GIL is let go only for a second enter that really waits.  Slots are found by index
and generation, so a completion that comes late finds nobody.  Closing cancels, drains, then frees,
and leaks what will not drain.

What it costs: the first rounds of a loop that falls idle pay two enters instead of one; after a few
that had to wait, submitting and waiting go into one call.
"""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport Py_INCREF
from libc.errno cimport (
    EAGAIN, EBADF, EBUSY, EINTR, EINVAL, ENOMEM, ENOSYS, EOPNOTSUPP,
)
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from ferrule._core.backend_workers cimport WorkerBackend, must_not_wait, waker
from ferrule._core.operation cimport (
    OP_CANCEL_SENT, OP_IN_FLIGHT, OP_IN_THREAD, OP_IN_WORKER, OP_MAY_BLOCK, OP_ON_DISK,
    OP_PROVIDED_BUFFER, OP_READ, OP_READV, OP_WRITE, OP_WRITEV, op, op_rows, slots_find,
    slots_user_data, uring_timespec,
)

import os

cdef extern from "<errno.h>" nogil:
    int ECANCELED, ETIME

cdef extern from "<poll.h>" nogil:
    int POLLIN

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MADV_DONTFORK
    void *MAP_FAILED

cdef extern from "<unistd.h>" nogil:
    int posix_close "close"(int fd)

cdef extern from *:
    """
    #define atomic_set_u16(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    /* A row's prepare, called through its const pointer. */
    #define op_prepare(o, sqe) op_rows[(o)->kind].prepare((o), (sqe))
    #define op_attempt_now(o) op_rows[(o)->kind].attempt_now(o)
    #define op_can_attempt(o) (op_rows[(o)->kind].attempt_now != NULL)
    """
    void atomic_set_u16(uint16_t *p, uint16_t v) nogil
    void op_prepare(op *o, uring_sqe *sqe) nogil
    int64_t op_attempt_now(op *o) nogil
    bint op_can_attempt(op *o) nogil

cdef extern from "uring_abi.h" nogil:
    struct uring_sqe:
        uint8_t opcode
        uint8_t flags
        uint16_t ioprio
        int32_t fd
        uint64_t off
        uint64_t addr
        uint32_t len
        uint32_t op_flags
        uint64_t user_data
        uint16_t buf_group
    struct uring_cqe:
        uint64_t user_data
        int32_t res
        uint32_t flags
    struct uring_params:
        uint32_t flags
        uint32_t cq_entries
        uint32_t features
    struct uring_buf:
        uint64_t addr
        uint32_t len
        uint16_t bid
        uint16_t resv
    struct uring_buf_reg:
        uint64_t ring_addr
        uint32_t ring_entries
        uint16_t bgid
    struct uring_probe_op:
        uint16_t flags
    struct uring_probe:
        uint8_t ops_len
        uring_probe_op ops[256]
    enum:
        URING_OP_NOP
        URING_OP_RECV
        URING_OP_ASYNC_CANCEL
        URING_OP_POLL_ADD
        URING_OP_TIMEOUT
    uint32_t URING_SETUP_CQSIZE, URING_SETUP_CLAMP, URING_SETUP_R_DISABLED
    uint32_t URING_SETUP_SUBMIT_ALL, URING_SETUP_COOP_TASKRUN, URING_SETUP_TASKRUN_FLAG
    uint32_t URING_SETUP_SINGLE_ISSUER, URING_SETUP_DEFER_TASKRUN, URING_SETUP_NO_SQARRAY
    uint32_t URING_FEAT_EXT_ARG, URING_FEAT_CQE_SKIP, URING_FEAT_NO_IOWAIT, URING_FEAT_NODROP
    uint32_t URING_ENTER_GETEVENTS, URING_ENTER_NO_IOWAIT
    uint32_t URING_SQ_CQ_OVERFLOW, URING_SQ_TASKRUN
    uint8_t URING_SQE_BUFFER_SELECT, URING_SQE_CQE_SKIP_SUCCESS
    uint32_t URING_CQE_F_BUFFER, URING_CQE_F_MORE
    int URING_CQE_BUFFER_SHIFT
    uint32_t URING_REGISTER_PROBE, URING_REGISTER_ENABLE_RINGS, URING_REGISTER_PBUF_RING
    uint32_t URING_REGISTER_IOWQ_MAX_WORKERS
    int URING_PROBE_SUPPORTED
    uint16_t URING_RECVSEND_POLL_FIRST

cdef extern from "waker.h" nogil:
    bint waker_call(waker *w)
    void waker_write(waker *w)
    void waker_clear(waker *w)

cdef extern from "ring.h" nogil:
    struct ring:
        int fd
        uint32_t setup_flags
        uint32_t features
    int ring_open(ring *r, uint32_t entries, uring_params *p)
    void ring_close(ring *r)
    uring_sqe *ring_get_sqe(ring *r)
    uint32_t ring_flush(ring *r)
    uint32_t ring_cq_ready(const ring *r)
    uint32_t ring_sq_flags(const ring *r)
    int ring_enter(ring *r, uint32_t to_submit, uint32_t wait_nr, uint32_t flags,
                   const uring_timespec *ts)
    int ring_register(ring *r, uint32_t opcode, void *arg, uint32_t nr_args)
    int ring_register_own_fd(ring *r)
    int ring_unregister_own_fd(ring *r)
    int ring_send(int fd, uint32_t res, uint64_t user_data)
    uint32_t ring_copy_cqes(ring *r, uring_cqe *out, uint32_t max)

cdef enum:
    SQ_ENTRIES = 1024
    CQ_ENTRIES = 8192
    CQE_BATCH = 256
    BUFFER_COUNT = 1024      # a power of two; as many receives can finish in one enter
    BUFFER_SIZE = 4096
    BUFFER_GROUP = 0
    IOWQ_BOUNDED = 16        # kernel threads for buffered writes, fsync and the like
    IOWQ_UNBOUNDED = 64
    IDLE_ROUNDS = 4
    DIRECT_SENDS = 128       # see docs/BENCHMARKS.md

# user_data that is nobody's slot: indices stay below SLOTS_MAX.
cdef uint64_t NOBODY = 0xffffffff
cdef uint64_t WAKE = 0xfffffffe      # the pipe can be read
cdef uint64_t MESSAGE = 0xfffffffd   # from another thread, by itself a wake-up

# Best first.  Decided by trying, never by kernel version: distributions backport.
LADDER = (
    ("DEFER_TASKRUN", URING_SETUP_R_DISABLED | URING_SETUP_SINGLE_ISSUER
     | URING_SETUP_DEFER_TASKRUN | URING_SETUP_TASKRUN_FLAG | URING_SETUP_SUBMIT_ALL
     | URING_SETUP_CQSIZE | URING_SETUP_CLAMP | URING_SETUP_NO_SQARRAY),
    ("DEFER_TASKRUN, with an SQ array", URING_SETUP_R_DISABLED | URING_SETUP_SINGLE_ISSUER
     | URING_SETUP_DEFER_TASKRUN | URING_SETUP_TASKRUN_FLAG | URING_SETUP_SUBMIT_ALL
     | URING_SETUP_CQSIZE | URING_SETUP_CLAMP),
    ("COOP_TASKRUN", URING_SETUP_COOP_TASKRUN | URING_SETUP_TASKRUN_FLAG | URING_SETUP_SUBMIT_ALL
     | URING_SETUP_CQSIZE | URING_SETUP_CLAMP),
    ("plain", URING_SETUP_CQSIZE | URING_SETUP_CLAMP),
)


# For tests: operations that are to seem missing from this kernel.
cdef uint8_t hidden[256]


def _hide_operations(opcodes):
    """For tests: let these opcodes seem missing, to engines that are opened from now on."""
    for opcode in opcodes:
        hidden[<uint8_t>opcode] = 1


def _show_operations(opcodes):
    """For tests: undo _hide_operations."""
    for opcode in opcodes:
        hidden[<uint8_t>opcode] = 0


@cython.final
cdef class UringBackend(WorkerBackend):
    cdef ring r
    cdef op *backlog             # started while the SQ was full
    cdef op *backlog_tail
    cdef bint wake_armed
    cdef readonly bint sends_messages    # to end a wait, and not bytes through the pipe
    cdef uint32_t idle_rounds    # polls in a row that had to wait
    cdef uring_timespec ts
    cdef uint8_t supported[256]
    cdef uring_buf *buffer_ring
    cdef char *buffers
    cdef uint16_t buffer_tail
    cdef readonly str setup      # the rung of the ladder that held

    def __cinit__(self, *, messages=True):
        self.sends_messages = messages
        self.r.fd = -1
        self.name = "uring"
        self.buffer_size = BUFFER_SIZE
        self.direct_sends = DIRECT_SENDS

    cdef int open(self) except -1:
        self._set_up()
        try:
            self._probe()
            self._do_nothing()
            self.open_workers()
        except OSError:
            ring_unregister_own_fd(&self.r)  # else the index keeps the ring
            ring_close(&self.r)
            raise
        self._register_buffers()
        self._arm_wake()
        return 0

    cdef int _set_up(self) except -1:
        cdef uring_params p
        cdef int err = 0
        cdef uint32_t limits[2]
        for name, flags in LADDER:
            memset(&p, 0, sizeof(p))
            p.flags = flags
            p.cq_entries = CQ_ENTRIES
            err = ring_open(&self.r, SQ_ENTRIES, &p)
            if err == 0:
                self.setup = name
                break
            if err != -EINVAL:
                break
        if err < 0:
            raise OSError(-err, f"io_uring is not available: {os.strerror(-err)}")
        if self.r.setup_flags & URING_SETUP_R_DISABLED:
            ring_register(&self.r, URING_REGISTER_ENABLE_RINGS, NULL, 0)
        ring_register_own_fd(&self.r)  # Linux 5.18; without it enter looks the fd up
        limits[0] = IOWQ_BOUNDED
        limits[1] = IOWQ_UNBOUNDED
        ring_register(&self.r, URING_REGISTER_IOWQ_MAX_WORKERS, limits, 2)
        return 0

    cdef int _probe(self) except -1:
        cdef uring_probe probe
        cdef int i
        # A message to no ring: only a kernel that has the call looks for it.
        self.sends_messages = self.sends_messages and ring_send(-1, 0, MESSAGE) == -EBADF
        memset(&probe, 0, sizeof(probe))
        if ring_register(&self.r, URING_REGISTER_PROBE, &probe, 256) == 0:  # Linux 5.6
            for i in range(probe.ops_len):
                self.supported[i] = (probe.ops[i].flags & URING_PROBE_SUPPORTED != 0
                                     and not hidden[i])
        for i in (URING_OP_NOP, URING_OP_POLL_ADD, URING_OP_ASYNC_CANCEL):
            if not self.supported[i]:
                raise OSError(ENOSYS, "io_uring is too old here: it has no cancel or poll")
        return 0

    cdef int _do_nothing(self) except -1:
        """One operation there and back: a filter may allow the set-up and refuse the rest."""
        cdef uring_cqe cqe
        cdef int r
        ring_get_sqe(&self.r).opcode = URING_OP_NOP
        r = ring_enter(&self.r, ring_flush(&self.r), 1, URING_ENTER_GETEVENTS, NULL)
        if r < 0:
            raise OSError(-r, f"io_uring_enter failed: {os.strerror(-r)}")
        ring_copy_cqes(&self.r, &cqe, 1)
        return 0

    cdef int _register_buffers(self) except -1:
        # Linux 5.19; without it receives use buffers of their own.
        cdef uring_buf_reg reg
        cdef size_t ring_size = BUFFER_COUNT * sizeof(uring_buf)
        cdef size_t size = ring_size + BUFFER_COUNT * BUFFER_SIZE
        cdef void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                                 -1, 0)
        cdef int i
        if memory == MAP_FAILED:
            raise MemoryError("no memory for the receive buffers")
        madvise(memory, size, MADV_DONTFORK)
        memset(&reg, 0, sizeof(reg))
        reg.ring_addr = <uint64_t>memory
        reg.ring_entries = BUFFER_COUNT
        reg.bgid = BUFFER_GROUP
        if ring_register(&self.r, URING_REGISTER_PBUF_RING, &reg, 1) < 0:
            munmap(memory, size)
            return 0
        self.buffer_ring = <uring_buf *>memory
        self.buffers = <char *>memory + ring_size
        for i in range(BUFFER_COUNT):
            self._recycle(i)
        atomic_set_u16(&self.buffer_ring[0].resv, self.buffer_tail)
        # A receive that the ring does not have would not use them.
        self.provides_buffers = self.supported[URING_OP_RECV]
        return 0

    cdef inline void _recycle(self, uint32_t bid) noexcept:
        cdef uring_buf *buf = &self.buffer_ring[self.buffer_tail & (BUFFER_COUNT - 1)]
        buf.addr = <uint64_t>(self.buffers + <size_t>bid * BUFFER_SIZE)
        buf.len = BUFFER_SIZE
        buf.bid = <uint16_t>bid
        self.buffer_tail += 1

    # ---- starting and cancelling ----

    cdef void start(self, op *o) noexcept:
        o.state = OP_IN_FLIGHT
        self.in_flight += 1
        if self._needs_thread(o):
            self.start_in_thread(o)
        elif must_not_wait(o) and self._goes_by_readiness(o):
            self.complete(o, op_attempt_now(o))
        else:
            self._queue_or_keep(o)

    cdef void _queue_or_keep(self, op *o) noexcept:
        if self.backlog != NULL or not self._queue(o):
            o.next = NULL
            if self.backlog_tail != NULL:
                self.backlog_tail.next = o
            else:
                self.backlog = o
            self.backlog_tail = o

    cdef void _attempt_ready(self, op *o) noexcept:
        """What goes by readiness is ready."""
        cdef int64_t result = -EINTR
        while result == -EINTR:
            result = op_attempt_now(o)
        if result == -EOPNOTSUPP or (result == -EAGAIN and o.kind in
                                     (OP_READ, OP_WRITE, OP_READV, OP_WRITEV)):
            self.start_in_thread(o)  # only there it can be waited for, as on a disk
        elif result == -EAGAIN and not o.how_cancelled & OP_CANCEL_SENT:
            self._queue_or_keep(o)  # another one was quicker
        else:
            self.complete(o, -ECANCELED if result == -EAGAIN else result)

    cdef inline bint _goes_by_readiness(self, op *o) noexcept:
        """Whether the ring only tells when to attempt it: this kernel's has no such operation."""
        cdef int code = op_rows[o.kind].uring_op
        return (code >= 0 and not self.supported[code] and op_rows[o.kind].poll_events != 0
                and not o.traits & OP_ON_DISK and op_can_attempt(o))

    cdef inline bint _needs_thread(self, op *o) noexcept:
        cdef int code = op_rows[o.kind].uring_op
        return (code < 0 or o.traits & (OP_MAY_BLOCK | OP_IN_WORKER)
                or not self.supported[code] and not self._goes_by_readiness(o))

    cdef inline bint _queue(self, op *o) noexcept:
        cdef uring_sqe *sqe = self._get_sqe()
        if sqe == NULL:
            return False
        if not self.supported[op_rows[o.kind].uring_op]:
            sqe.opcode = URING_OP_POLL_ADD
            sqe.fd = o.fd
            sqe.op_flags = op_rows[o.kind].poll_events
            sqe.user_data = slots_user_data(o)
            return True
        op_prepare(o, sqe)
        sqe.opcode = <uint8_t>op_rows[o.kind].uring_op
        sqe.user_data = slots_user_data(o)
        if o.traits & OP_PROVIDED_BUFFER and self.buffers != NULL:
            sqe.flags |= URING_SQE_BUFFER_SELECT
            sqe.buf_group = BUFFER_GROUP
            if self.idle_rounds >= IDLE_ROUNDS:
                sqe.ioprio = URING_RECVSEND_POLL_FIRST  # nothing is there yet: do not look
        return True

    cdef inline uring_sqe *_get_sqe(self) noexcept:
        cdef uring_sqe *sqe = ring_get_sqe(&self.r)
        if sqe == NULL:
            self._submit()
            sqe = ring_get_sqe(&self.r)
        return sqe

    cdef void _submit(self) noexcept:
        cdef uint32_t n = ring_flush(&self.r)
        cdef int done
        if n:
            done = ring_enter(&self.r, n, 0, 0, NULL)
            self.enters += 1
            if done > 0:
                self.sqes += done

    cdef void cancel(self, op *o) noexcept:
        if o.state != OP_IN_FLIGHT or o.how_cancelled & OP_CANCEL_SENT:
            return
        cdef op *before = NULL
        cdef op *at = self.backlog
        while at != NULL and at != o:
            before = at
            at = at.next
        if at != NULL:
            self._leave_backlog(o, before)
            self.complete(o, -ECANCELED)
            return
        if o.traits & OP_IN_THREAD:
            self.cancel_in_thread(o)
            return
        if self._queue_cancel(o):
            o.how_cancelled |= OP_CANCEL_SENT

    cdef void _leave_backlog(self, op *o, op *before) noexcept:
        if before != NULL:
            before.next = o.next
        else:
            self.backlog = o.next
        if self.backlog_tail == o:
            self.backlog_tail = before

    cdef bint _queue_cancel(self, op *o) noexcept:
        cdef uring_sqe *sqe = self._get_sqe()
        cdef int tries = 0
        while sqe == NULL and tries < 1000:
            # The kernel takes no more until completions are collected.
            tries += 1
            ring_enter(&self.r, 0, 0, URING_ENTER_GETEVENTS, NULL)
            self._reap()
            sqe = self._get_sqe()
        if sqe == NULL or o.state != OP_IN_FLIGHT:
            return False
        sqe.opcode = URING_OP_ASYNC_CANCEL
        sqe.fd = -1
        sqe.addr = slots_user_data(o)
        sqe.user_data = NOBODY
        if self.r.features & URING_FEAT_CQE_SKIP:
            sqe.flags = URING_SQE_CQE_SKIP_SUCCESS
        return True

    # ---- the tick ----

    cdef int poll(self, int64_t timeout, bint may_block) except -1:
        cdef uint32_t n
        cdef int r = 0
        self.woken = False
        if self.backlog != NULL:
            self._flush_backlog()
        n = ring_flush(&self.r)
        if may_block and self.idle_rounds >= IDLE_ROUNDS:
            # Nothing completed at once lately: submit and wait in one call.
            self._wait(timeout)
            if self._reap() > 1:
                self.idle_rounds = 0
            return 0
        if n or ring_sq_flags(&self.r) & (URING_SQ_TASKRUN | URING_SQ_CQ_OVERFLOW):
            r = ring_enter(&self.r, n, 0, URING_ENTER_GETEVENTS, NULL)
            self._account(r)
        self._reap()
        if may_block and self.completed == NULL and r != -EINTR and not self.woken:
            self.idle_rounds += 1
            self._wait(timeout)
            self._reap()
        elif may_block:
            self.idle_rounds = 0
        return 0

    cdef int _account(self, int r) except -1:
        self.enters += 1
        if r >= 0:
            self.sqes += r
        elif r not in (-EINTR, -ETIME, -EAGAIN, -EBUSY):
            # EBADR: the kernel had to drop a completion.  Nothing in flight can be trusted now.
            raise OSError(-r, f"io_uring_enter failed: {os.strerror(-r)}")
        return 0

    cdef int _wait(self, int64_t timeout) except -1:
        cdef uint32_t n
        cdef int r
        cdef uint32_t flags = URING_ENTER_GETEVENTS
        cdef uring_timespec *ts = NULL
        cdef uring_sqe *sqe
        timeout = self.limit_wait(timeout)
        if timeout >= 0:
            self.ts.tv_sec = timeout // 1_000_000_000
            self.ts.tv_nsec = timeout % 1_000_000_000
            ts = &self.ts
            if not self.r.features & URING_FEAT_EXT_ARG:
                # Linux 5.10: a timeout request that any one completion ends as well.
                sqe = self._get_sqe()
                if sqe == NULL:
                    return 0
                sqe.opcode = URING_OP_TIMEOUT
                sqe.fd = -1
                sqe.addr = <uint64_t>&self.ts
                sqe.len = 1
                sqe.off = 1
                sqe.user_data = NOBODY
                ts = NULL
        if self.r.features & URING_FEAT_NO_IOWAIT:
            flags |= URING_ENTER_NO_IOWAIT
        n = ring_flush(&self.r)
        with nogil:
            r = ring_enter(&self.r, n, 1, flags, ts)
        return self._account(r)

    cdef void _flush_backlog(self) noexcept:
        cdef op *o
        while self.backlog != NULL:
            o = self.backlog
            if not self._queue(o):
                return
            self.backlog = o.next
            if self.backlog == NULL:
                self.backlog_tail = NULL

    cdef int _reap(self) except -1:
        """Collect what has completed; how many completions there were."""
        cdef uring_cqe cqes[CQE_BATCH]
        cdef uint32_t n, i
        cdef int total = 0
        cdef uint16_t tail = self.buffer_tail
        while True:
            n = ring_copy_cqes(&self.r, cqes, CQE_BATCH)
            for i in range(n):
                self._take(&cqes[i])
            total += n
            if n < CQE_BATCH:
                break
        self.cqes += total
        if tail != self.buffer_tail:
            atomic_set_u16(&self.buffer_ring[0].resv, self.buffer_tail)
        self.reap_threads()
        if not self.wake_armed and self.is_open:
            self._arm_wake()
        return total

    cdef void _take(self, uring_cqe *cqe) noexcept:
        cdef op *o
        if cqe.user_data == WAKE:
            self.wake_armed = False
            self.drain_waker()
            return
        if cqe.user_data == MESSAGE:
            self.woken = True
            self.wakes += 1
            waker_clear(&self.waker)
            return
        o = slots_find(self.table, cqe.user_data)
        if cqe.flags & URING_CQE_F_BUFFER:
            self._take_buffer(o, cqe)
        if o == NULL:
            return
        o.result_flags = cqe.flags
        if cqe.res >= 0 and self._goes_by_readiness(o):
            self._attempt_ready(o)
        else:
            self.complete(o, cqe.res)

    cdef void _take_buffer(self, op *o, uring_cqe *cqe) noexcept:
        # Turned into bytes here and given back at once: few buffers serve many sockets.
        cdef uint32_t bid = cqe.flags >> URING_CQE_BUFFER_SHIFT
        if o != NULL and cqe.res >= 0:
            try:
                data = PyBytes_FromStringAndSize(self.buffers + <size_t>bid * BUFFER_SIZE, cqe.res)
                Py_INCREF(data)
                o.payload = <void *>data
            except MemoryError:
                cqe.res = -ENOMEM
        self._recycle(bid)

    # ---- waking ----

    cdef void _arm_wake(self) noexcept:
        # A poll, not a read: on old kernels a read of an O_NONBLOCK pipe answers EAGAIN.
        cdef uring_sqe *sqe = self._get_sqe()
        if sqe == NULL:
            return
        sqe.opcode = URING_OP_POLL_ADD
        sqe.fd = self.waker.read_fd
        sqe.op_flags = POLLIN
        sqe.user_data = WAKE
        self.wake_armed = True

    cdef void wake(self) noexcept nogil:
        # A thread of the pools writes to the pipe: it may outlive the ring, whose number goes to
        # another file.
        if waker_call(&self.waker):
            if not self.sends_messages or ring_send(self.r.fd, 0, MESSAGE) < 0:
                waker_write(&self.waker)

    # ---- the end ----

    cdef int close(self) except -1:
        cdef int leaked
        if not self.is_open:
            return 0
        self.is_open = False
        if self.in_flight:
            try:
                self.drain()
            except OSError:
                pass  # a ring that does nothing any more keeps what it had
        leaked = self.in_flight
        ring_unregister_own_fd(&self.r)
        ring_close(&self.r)
        self.close_workers()
        if self.buffer_ring != NULL and not leaked:
            munmap(self.buffer_ring, BUFFER_COUNT * (sizeof(uring_buf) + BUFFER_SIZE))
        return leaked

    cdef void abandon(self) noexcept:
        # The mappings are not inherited (MADV_DONTFORK).
        if self.is_open:
            posix_close(self.r.fd)
            WorkerBackend.abandon(self)
        self.r.fd = -1
