# cython: boundscheck=False, wraparound=False, cdivision=True
# cython: auto_pickle=False, autotestdict=False, freethreading_compatible=True
"""The io_uring binding: Ring, SQE, CQE, BufferRing, Probe, Params.  See ferrule.ring.

Ownership, in one place.  An operation lives in a slot from prep to its last completion (the one
without F_MORE), and the slot owns everything the kernel may touch.  The kernel's user_data is the
slot's index and a generation, so a completion finds its own operation or none.  Slots lie in
chunks that never move.  What is in flight when a ring dies without close() is leaked on purpose:
freeing it would let the kernel write to memory that is somebody else's by then.
"""
cimport cython
from cpython.buffer cimport (Py_buffer, PyBUF_FULL_RO, PyBUF_SIMPLE, PyBUF_WRITABLE,
                             PyBuffer_FillInfo, PyBuffer_IsContiguous, PyBuffer_Release,
                             PyObject_CheckBuffer, PyObject_GetBuffer)
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_Check, PyLong_CheckExact
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from cpython.number cimport PyIndex_Check, PyNumber_Index
from cpython.object cimport PyObject, PyTypeObject, traverseproc, visitproc
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.errno cimport (EACCES, EAGAIN, EALREADY, EBADF, EBADFD, EBADR, EBUSY, EEXIST, EFAULT,
                         EINTR, EINVAL, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSYS, ENXIO, EOPNOTSUPP,
                         EOVERFLOW, EPERM, ETIME)
from libc.string cimport memchr, memcpy, memset, strchr

from ferrule._core.stat_result cimport new_stat_result, statx_buf

import errno
import os
import resource
import sys
from typing import NamedTuple

include "ring/ring_abi.pxi"

cdef enum:
    CHUNK_SHIFT = 6
    CHUNK = 1 << CHUNK_SHIFT
    NO_SLOT = 0xffffffff
    MAX_ENTRIES = 32768
    MAX_RW_COUNT = 0x7ffff000
    MAX_CONTROL = 1 << 20
    MAX_OPTION = 1 << 16
    BATCH = 128

# Kernel user_data: bit 63 marks a message from another ring, bit 62 what is the ring's own and no
# operation of a slot: with bit 61 a batch operation (see ring_batch.h), without it tags of
# registered things; else generation << 32 | slot.
cdef uint64_t MESSAGE_BIT = 1ULL << 63
cdef uint64_t TAG_BIT = 1ULL << 62
cdef uint64_t MESSAGE_MAX = MESSAGE_BIT - 1
cdef uint32_t GENERATIONS = 0x3fffffff
cdef uint64_t KEY_INTERNAL = 0x7fffffffffffffffULL   # our own cancels
cdef uint64_t KEY_NOWHERE = 0x7ffffffffffffffeULL    # matches no operation

cdef uint64_t leaked_total = 0


class SubmissionQueueFull(RuntimeError):
    """The submission queue has no free entry: submit() first."""
    __module__ = "ferrule.ring"


class NotSupported(OSError):
    """The running kernel, or this ring's set-up, lacks what was asked for."""
    __module__ = "ferrule.ring"


class RingStatistics(NamedTuple):
    """What Ring.statistics() tells.

    in_flight   operations prepared and not yet completed (queued ones included)
    completed   operations whose last completion was taken
    unmatched   completions that belonged to no operation of this ring (messages not included)
    leaked      operations abandoned with their memory, because they could not be drained
    slots       room for operations; grows as needed, never shrinks
    """
    in_flight: int
    completed: int
    unmatched: int
    leaked: int
    slots: int


def leaked_operations():
    """How many operations, of all rings so far, were leaked with their memory."""
    return leaked_total


cdef class Ring
cdef class SQE
cdef class BufferRing
cdef class WaitRegion
cdef class RegisteredBuffer
cdef class BufferPool
cdef class FileTable

include "ring/ring_kernel.pxi"
include "ring/ring_sockaddr.pxi"
include "ring/ring_completion.pxi"
include "ring/ring_operation.pxi"
include "ring/ring_prep_core.pxi"
include "ring/ring_prep_files.pxi"
include "ring/ring_prep_sockets.pxi"
include "ring/ring_prep_system.pxi"
include "ring/ring_sqe.pxi"
include "ring/ring_tables.pxi"
include "ring/ring_pools.pxi"
include "ring/ring_register.pxi"
include "ring/ring_buffers.pxi"
include "ring/ring_batch.pxi"
include "ring/ring_setup.pxi"
include "ring/ring_wait.pxi"


# Of a zero-copy send that its chain cancelled, Linux (6.18) notifies although the completion did
# not say `more`: nothing had begun, and the operation has ended.
cdef inline bint is_late_notice(uring_cqe *raw) noexcept:
    return raw.flags & URING_CQE_F_NOTIF and not raw.user_data & MESSAGE_BIT


@cython.final
cdef class SubmissionQueue:
    """The counters of a ring's submission queue.  They run on and wrap at 2**32."""
    cdef Ring owner

    @property
    def head(self):
        """How many SQEs the kernel has consumed."""
        self.owner.check()
        return fe_load_acquire(self.owner.r.sq_khead)

    @property
    def tail(self):
        """How many SQEs were shown to the kernel."""
        self.owner.check()
        return self.owner.r.sq_ktail[0]

    @property
    def sqe_head(self):
        """How many SQEs submit() has taken."""
        return self.owner.r.sqe_head

    @property
    def sqe_tail(self):
        """How many SQEs were handed out."""
        return self.owner.r.sqe_tail

    @property
    def entries(self):
        return self.owner.r.sq_entries

    @property
    def mask(self):
        return self.owner.r.sq_mask

    @property
    def flags(self):
        """SqFlags bits, written by the kernel."""
        self.owner.check()
        return ring_sq_flags(&self.owner.r)

    @property
    def dropped(self):
        """How many invalid SQEs the kernel ignored."""
        self.owner.check()
        return self.owner.r.sq_kdropped[0]


@cython.final
cdef class CompletionQueue:
    """The counters of a ring's completion queue.  They run on and wrap at 2**32."""
    cdef Ring owner

    @property
    def head(self):
        """How many CQEs were taken."""
        self.owner.check()
        return self.owner.r.cq_khead[0]

    @property
    def tail(self):
        """How many CQEs the kernel has posted."""
        self.owner.check()
        return fe_load_acquire(self.owner.r.cq_ktail)

    @property
    def entries(self):
        """How many there is room for: completions of 16 bytes, or, with CQE32, of 32.  With
        CQE_MIXED one of 32 takes two places, and in `head` and `tail` it counts as two."""
        return self.owner.r.cq_entries

    @property
    def mask(self):
        return self.owner.r.cq_mask

    @property
    def overflow(self):
        """How many CQEs were lost for good (only when the kernel had no memory)."""
        self.owner.check()
        return self.owner.r.cq_koverflow[0]


@cython.final
cdef class Ring(Registrations):
    """An io_uring: queue operations, submit them together, take their completions.

    entries         size of the submission queue, a power of two from 1 to 32768
    flags           SetupFlags, used as they are; None tries the best set this kernel has:
                    DEFER_TASKRUN with SINGLE_ISSUER, then COOP_TASKRUN, each with
                    TASKRUN_FLAG, then none
    cq_entries      size of the completion queue, rounded up to a power of two of at most 65536;
                    default with flags=None: 4 x entries, else 2 x entries
    sq_thread_cpu   the CPU of the SQPOLL thread
    sq_thread_idle  milliseconds after which the SQPOLL thread sleeps (default: 1 second)
    wq_fd           the ring whose SQPOLL thread to share (a Ring or a descriptor)

    When the kernel refuses, OSError says the likely cause and what helps; NotSupported (one of
    them) names a flag that this kernel lacks, and the Linux that has it.

    A ring is a context manager.  It belongs to the thread that made it; on a Python with the GIL
    flags without SINGLE_ISSUER (which the default has) let threads share it.  Its calls never
    switch fibers and are no cancellation points: the ring knows nothing of Ferrule's runtime.
    """
    cdef ring r
    cdef open_ring fork_node
    cdef uint32_t epoch
    cdef ring_thread *thread         # which it belongs to
    cdef bint opened
    cdef bint unusable               # not open yet, being closed, or closed
    cdef bint bound                  # only `thread` may use it
    cdef bint disabled               # R_DISABLED, until enable_rings()
    cdef bint cancel_each            # close() must name every operation (before Linux 5.19)
    cdef int waiters                 # threads inside a blocking enter
    cdef uint32_t cancels            # queued by this round of close()
    cdef uint32_t fillers            # of a wide ring: its last sift() left in the queue
    cdef uint64_t handed_out         # SQEs, ever
    cdef uint64_t taken_out          # completions removed for the caller, ever
    cdef uint64_t completed, unmatched, leaked
    cdef Operation **chunks
    cdef bint front_counted          # the buffers of the completion that peek_cqe showed
    cdef uint32_t front_start
    cdef uint32_t chunk_count, free_slot, in_use, hidden, first_generation
    cdef WaitRegion wait_region      # or None
    cdef dict groups                 # bgid -> BufferRing
    cdef dict provided               # bgid -> memory given by prep_provide_buffers, for ever
    cdef list buffers                # as registered: RegisteredBuffer or None each
    cdef list pools                  # BufferPools with places in it
    cdef FileTable table             # of register_file_table
    cdef dict tags                   # the kernel's number -> the object
    cdef uint64_t next_tag
    cdef bint changing               # a table, without the GIL
    cdef bint bundling               # a bundle may be among the SQEs handed out
    cdef list queues                 # BatchQueue by number; None: not in use
    cdef batch_table batches
    cdef object __weakref__

    def __cinit__(self):
        self.r.fd = -1
        self.queues = []
        self.unusable = True
        self.free_slot = NO_SLOT
        self.epoch = fork_epoch
        self.groups = {}
        self.provided = {}
        self.tags = {}
        self.pools = []

    def __dealloc__(self):
        ring_thread_drop(self.thread)

    def __init__(self, entries, *, flags=None, cq_entries=None, sq_thread_cpu=None,
                 sq_thread_idle=None, wq_fd=None):
        if self.opened:
            raise RuntimeError("a ring is set up once")
        check_entries(entries)
        given = Params(sq_thread_cpu=sq_thread_cpu or 0, sq_thread_idle=sq_thread_idle or 0,
                       wq_fd=wq_fd or 0, cq_entries=cq_entries or 0)
        implied = ((URING_SETUP_CQSIZE if cq_entries is not None else 0)
                   | (SETUP_SQ_AFF if sq_thread_cpu is not None else 0)
                   | (URING_SETUP_ATTACH_WQ if wq_fd is not None else 0))
        if flags is not None:
            given.flags = flags | implied
            self.open(entries, given)
            return
        if cq_entries is None:
            given.cq_entries = 4 * entries
        self.climb(entries, given, implied | URING_SETUP_CQSIZE | URING_SETUP_CLAMP)

    @classmethod
    def from_params(cls, entries, params):
        """A ring set up from a Params, which the kernel's answers are written back to.

        Of its fields you may set flags, sq_thread_cpu and sq_thread_idle; cq_entries with CQSIZE,
        wq_fd with ATTACH_WQ.  The others are the kernel's and must be 0: ValueError names the one
        that is not.
        """
        cdef Ring self = cls.__new__(cls)
        check_entries(entries)
        self.open(entries, params)
        return self

    # The ladder: what this kernel refuses with EINVAL it does not have.
    cdef int climb(self, entries, params, uint32_t common) except -1:
        cdef uint32_t rung
        for rung in SETUP_LADDER:
            params.flags = rung | common
            # Below the last rung, which has no flags, there is nothing to try.
            if self.attempt(entries, params, EINVAL if rung else 0) == 0:
                break
        return 0

    cdef int open(self, entries, params) except -1:
        return self.attempt(entries, params, 0)

    # Set up; -1 for the error that the caller allows.
    cdef int attempt(self, entries, params, int allowed) except -2:
        cdef uring_params p
        cdef int result
        fill_params(&p, params)
        self.adopt()
        result = ring_open(&self.r, entries, &p)
        if result < 0:
            if -result == allowed:
                return -1
            raise setup_error(-result, entries, &p)
        fork_add(&self.fork_node, self.r.fd)
        params.sq_entries = p.sq_entries
        params.cq_entries = p.cq_entries
        params.features = p.features
        if not sane(&self.r, &p):
            self.release()
            raise RuntimeError("the kernel set up a ring whose queues contradict its parameters")
        if not kernel_was_asked:
            ask_kernel(&self.r)
        self.opened = True
        self.unusable = False
        self.epoch = fork_epoch
        # With R_DISABLED the issuer is whoever enables it.
        self.disabled = (p.flags & URING_SETUP_R_DISABLED) != 0
        self.bind_thread()
        # Keys of one ring should mean nothing to another.
        self.first_generation = <uint32_t>(fe_monotonic_ns() >> 7) & GENERATIONS
        self.next_tag = TAG_BIT | <uint64_t>(self.first_generation >> 1) << 32
        return 0

    # ---- state ---------------------------------------------------------------------------

    cdef inline int check(self) except -1:
        if self.unusable or self.epoch != fork_epoch:
            self.refuse_dead()
        if self.bound and ring_this_thread != self.thread:
            self.refuse_thread()
        return 0

    cdef int refuse_dead(self) except -1:
        if self.epoch != fork_epoch:
            raise RuntimeError("this ring belongs to the parent process; make another after a fork")
        raise ValueError("operation on a closed ring")

    # An index means nothing to other threads, or some other ring.
    cdef inline bint by_index(self) noexcept:
        return (self.r.enter_flags & URING_ENTER_REGISTERED_RING) != 0

    # It belongs to the calling thread from now on.
    cdef int adopt(self) except -1:
        cdef ring_thread *thread = ring_thread_take()
        if thread == NULL:
            raise MemoryError
        ring_thread_drop(self.thread)
        self.thread = thread
        return 0

    cdef void bind_thread(self) noexcept:
        self.bound = FE_FREE_THREADED or self.by_index() or (
            self.r.setup_flags & URING_SETUP_SINGLE_ISSUER and not self.disabled)

    cdef int refuse_thread(self) except -1:
        if self.r.setup_flags & URING_SETUP_SINGLE_ISSUER and not self.disabled:
            raise RuntimeError(
                "this ring belongs to the thread that made it (SINGLE_ISSUER); use it there, or, "
                "on a Python with the GIL, make it with flags that leave SINGLE_ISSUER out")
        if self.r.setup_flags & URING_SETUP_REGISTERED_FD_ONLY or self.r.fd < 0:
            raise RuntimeError("this ring belongs to the thread that made it: it has no "
                               "descriptor, only an index of that thread's")
        if self.by_index():
            raise RuntimeError("this ring belongs to the thread that called register_ring_fd(); "
                               "use it there, or call unregister_ring_fd() there first")
        raise RuntimeError("this ring belongs to the thread that made it (no GIL); use it there")

    @property
    def fd(self):
        """The ring's descriptor; -1 once closed, and for a ring that has only an index."""
        return self.r.fd

    def fileno(self):
        """The ring's descriptor; it polls readable when completions wait.  From any thread.

        Raises NotSupported for a ring without one: made with REGISTERED_FD_ONLY, or after
        close_ring_fd().
        """
        # Other threads may poll it, and send it messages.
        if self.unusable or self.epoch != fork_epoch:
            self.refuse_dead()
        if self.r.fd < 0:
            raise NotSupported(EOPNOTSUPP, "this ring has no descriptor (REGISTERED_FD_ONLY, "
                               "close_ring_fd), only an index of its thread's: it cannot be "
                               "polled, nor be named to another ring")
        return self.r.fd

    @property
    def closed(self):
        return not ring_is_open(&self.r)

    @property
    def flags(self):
        """The SetupFlags in force."""
        return self.r.setup_flags

    @property
    def features(self):
        """What the kernel offers (Features)."""
        return self.r.features

    @property
    def sq(self):
        """The submission queue's counters."""
        cdef SubmissionQueue queue = SubmissionQueue.__new__(SubmissionQueue)
        queue.owner = self
        return queue

    @property
    def cq(self):
        """The completion queue's counters."""
        cdef CompletionQueue queue = CompletionQueue.__new__(CompletionQueue)
        queue.owner = self
        return queue

    def statistics(self):
        """Counters of this ring: RingStatistics."""
        return RingStatistics(
            self.in_use + self.batches.in_flight + self.batches.stored,
            self.completed + self.batches.completed, self.unmatched, self.leaked,
            self.chunk_count * CHUNK)

    # ---- slots ---------------------------------------------------------------------------

    cdef inline Operation *slot(self, uint32_t index) noexcept:
        return &self.chunks[index >> CHUNK_SHIFT][index & (CHUNK - 1)]

    cdef inline uint64_t key(self, Operation *op) noexcept:
        return <uint64_t>op.generation << 32 | op.index

    # The live operation that a completion belongs to, or NULL.
    cdef inline Operation *find(self, uint64_t key) noexcept:
        cdef uint32_t index = <uint32_t>key
        cdef Operation *op
        if index >> CHUNK_SHIFT >= self.chunk_count:
            return NULL
        op = self.slot(index)
        if op.live and op.generation == key >> 32:
            return op
        return NULL

    cdef int grow(self) except -1:
        cdef Operation *chunk
        cdef uint32_t i, first = self.chunk_count * CHUNK
        cdef Operation **chunks = <Operation **>PyMem_Realloc(
            self.chunks, (self.chunk_count + 1) * sizeof(Operation *))
        if chunks == NULL:
            raise MemoryError
        self.chunks = chunks
        chunk = <Operation *>PyMem_Calloc(CHUNK, sizeof(Operation))
        if chunk == NULL:
            raise MemoryError
        for i in range(CHUNK):
            chunk[i].index = first + i
            chunk[i].generation = self.first_generation
            chunk[i].next_free = first + i + 1 if i + 1 < CHUNK else self.free_slot
        self.chunks[self.chunk_count] = chunk
        self.chunk_count += 1
        self.free_slot = first
        return 0

    cdef inline Operation *occupy(self) noexcept:
        cdef Operation *op = self.slot(self.free_slot)
        self.free_slot = op.next_free
        op.live = True
        self.in_use += 1
        return op

    # End an operation.  Dropping references may run any code, so it comes last, when the slot is
    # free and not looked at any more.
    cdef void vacate(self, Operation *op) noexcept:
        cdef PyObject *user_data = op.user_data
        cdef Operation old
        cdef bint holds = (op.exported or op.block != NULL or op.file != NULL or op.extra != NULL
                           or op.group != NULL or op.views != NULL)
        if holds:
            old = detach(op)
        self.hidden -= op.hidden
        op.user_data = NULL
        op.live = op.hidden = op.direct = op.succeeded = False
        op.opcode = URING_OP_NOP
        op.generation = (op.generation + 1) & GENERATIONS
        op.next_free = self.free_slot
        self.free_slot = op.index
        self.in_use -= 1
        if holds:
            release_memory(&old)
        Py_XDECREF(user_data)

    cdef inline void hide(self, Operation *op, bint hidden) noexcept:
        self.hidden += hidden
        self.hidden -= op.hidden
        op.hidden = hidden

    # The registered group that a BufferRing or an id names.
    cdef BufferRing group_of(self, object group):
        self.check()
        bgid = group.bgid if isinstance(group, BufferRing) else group
        found = self.groups.get(bgid)
        if found is None or isinstance(group, BufferRing) and found is not group:
            raise ValueError(f"this ring has no buffer ring with the id {bgid}")
        return found

    # The key of the operation that `target` names; one that matches nothing if there is none.
    cdef uint64_t key_of(self, object target, Operation *asking) except? 0:
        cdef uint32_t i, matches = 0
        cdef Operation *op
        cdef uint64_t key = KEY_NOWHERE
        if isinstance(target, SQE):
            if (<SQE>target).owner is not self:
                raise ValueError("that operation belongs to another ring")
            return (<SQE>target).number
        for i in range(self.chunk_count * CHUNK):
            op = self.slot(i)
            if op.live and op != asking and op.user_data != NULL and same(
                    <object>op.user_data, target):
                key = self.key(op)
                matches += 1
        if matches > 1:
            raise ValueError(f"{matches} operations in flight have the user_data {target!r}; "
                             "name the one you mean by its SQE")
        return key

    # ---- submission ------------------------------------------------------------------------

    # How many SQEs, of all handed out, the kernel has taken: those can no longer be edited.
    cdef inline uint64_t consumed(self) noexcept:
        if self.r.setup_flags & URING_SETUP_SQPOLL:
            return self.handed_out - <uint32_t>(self.r.sqe_tail - self.r.sqe_head)
        return self.handed_out - ring_sq_ready(&self.r)

    # An SQE object without a place in the queue: its prep_ method takes one.
    cdef SQE place(self):
        cdef SQE sqe = SQE.__new__(SQE)
        sqe.owner = self
        return sqe

    cdef inline int bind(self, SQE sqe) except -1:
        self.check()
        if self.free_slot == NO_SLOT:
            self.grow()
        sqe.raw = ring_get_sqe(&self.r)
        if sqe.raw == NULL:
            raise SubmissionQueueFull(
                f"the submission queue is full ({self.r.sq_entries} entries): submit() first")
        sqe.op = self.occupy()
        sqe.number = sqe.raw.user_data = self.key(sqe.op)
        sqe.sequence = self.handed_out
        self.handed_out += 1
        return 0

    def get_sqe(self, user_data=None):
        """The next free SQE, zeroed: a no-op until one of its prep_ methods is called.

        Raises SubmissionQueueFull when submit() has to be called first.
        """
        cdef SQE sqe = self.place()
        self.bind(sqe)
        return sqe.tag(user_data)

    def submit(self):
        """Hand every queued SQE to the kernel.  Returns how many it took.

        Fewer than were queued means that it stopped at a bad one (set-up without SUBMIT_ALL):
        that one completes with its error, the rest stay queued.
        """
        return self.enter(0, &ENDLESS)

    def submit_and_wait(self, unsigned int wait_nr):
        """Submit, and wait until `wait_nr` completions can be taken, those of batch queues too.
        Returns how many SQEs the kernel took; when that is fewer than were queued there was no
        wait.

        The GIL is released while waiting, and signal handlers run.
        """
        return self.enter(wait_nr, &ENDLESS)

    def submit_and_wait_timeout(self, unsigned int wait_nr, seconds, sigmask=None, *,
                                bint absolute=False):
        """The same, for at most `seconds` (None: without limit).

        sigmask   signal numbers: while it waits, these are blocked and no others, as in
                  epoll_pwait.  The handler of one that arrives runs, and the wait goes on
        absolute  `seconds` is a time on the ring's clock: time.monotonic(), unless
                  register_clock() chose another (Linux 6.12)

        Returns how many SQEs the kernel took; cq_ready() tells whether the wait was over in time.
        Raises NotSupported before Linux 5.11.
        """
        cdef WaitLimits limits = self.limits_of(None if absolute else seconds, sigmask)
        cdef uring_timespec ts
        if absolute and seconds is not None:
            if not self.r.features & URING_FEAT_MIN_TIMEOUT:
                raise lacking("waiting for an absolute time", "6.12")
            ts = timespec_of(seconds, "the time")
            limits.deadline = ts.tv_sec * 1_000_000_000 + ts.tv_nsec
            limits.absolute = True
        return self.enter(wait_nr, &limits)

    def submit_and_wait_min_timeout(self, unsigned int wait_nr, seconds, min_wait, sigmask=None):
        """The same, but content with fewer (Linux 6.12): for `min_wait` seconds it waits for
        `wait_nr` completions, from then on for one, for at most `seconds` in all (None: without
        limit).

        It collects batches where completions come often, and delays none by more than `min_wait`.
        """
        cdef WaitLimits limits = self.limits_of(seconds, sigmask)
        cdef uring_timespec ts = timespec_of(min_wait, "min_wait")
        if not self.r.features & URING_FEAT_MIN_TIMEOUT:
            raise lacking("submit_and_wait_min_timeout", "6.12")
        # The kernel counts microseconds, up to 2**32.
        limits.min_wait = min(ts.tv_sec, 4294) * 1_000_000_000 + ts.tv_nsec
        return self.enter(wait_nr, &limits)

    def submit_and_wait_reg(self, unsigned int wait_nr, unsigned int index):
        """The same, with the limits that register_wait_reg()'s region has at `index`
        (Linux 6.13)."""
        cdef WaitLimits limits
        if self.wait_region is None:
            self.check()
            raise ValueError("this ring has no registered waits: call register_wait_reg() before "
                             "it is enabled")
        limits = self.wait_region.limits_at(index)
        return self.enter(wait_nr, &limits)

    def submit_and_get_events(self):
        """submit() and get_events() in one system call."""
        return self.enter(0, &ENDLESS, None, True)

    def sqring_wait(self):
        """With SQPOLL: wait until there is room in the submission queue.  Returns how much; 0 when
        what fills it was not submitted yet (Linux 5.10).  Other rings do not wait.

        The GIL is released while waiting, and signal handlers run.
        """
        cdef int result
        self.check()
        while ring_sq_ready(&self.r) == self.r.sq_entries and (
                self.r.setup_flags & URING_SETUP_SQPOLL) and self.r.sqe_head == self.r.sqe_tail:
            result = self.block(0, 0, URING_ENTER_SQ_WAIT | URING_ENTER_SQ_WAKEUP, NULL)
            if result < 0 and result != -EINTR:
                raise enter_error(result)
            PyErr_CheckSignals()
            self.check()
        return self.r.sq_entries - ring_sq_ready(&self.r)

    def set_iowait(self, bint enable):
        """Whether time slept in a wait counts as waiting for I/O (the default), which lets the
        CPU run faster and shows in its statistics.  Switching it off needs Linux 6.15."""
        self.check()
        if not self.r.features & URING_FEAT_NO_IOWAIT:
            if not enable:
                raise lacking("set_iowait", "6.15")
        elif enable:
            self.r.enter_flags &= ~<uint32_t>URING_ENTER_NO_IOWAIT
        else:
            self.r.enter_flags |= URING_ENTER_NO_IOWAIT

    cdef WaitLimits limits_of(self, object seconds, object sigmask) except *:
        cdef WaitLimits limits = until(self.deadline(seconds))
        if sigmask is not None:
            limits.sigmask = signal_mask(sigmask)
            limits.masked = True
        return limits

    cdef int64_t deadline(self, object seconds) except? -2:
        cdef uring_timespec ts
        if seconds is None:
            return NEVER
        if not self.r.features & URING_FEAT_EXT_ARG:
            raise NotSupported(EOPNOTSUPP, "waiting with a timeout needs Linux 5.11 (EXT_ARG); "
                               "queue a prep_timeout instead")
        ts = timespec_of(seconds, "the timeout")
        return fe_monotonic_ns() + ts.tv_sec * 1_000_000_000 + ts.tv_nsec

    cdef object enter(self, uint32_t wait_nr, const WaitLimits *limits, object waiter=None,
                      bint fetch=False):
        cdef uint32_t pending, handed_over, flags = 0
        cdef int taken
        self.check()
        handed_over = self.r.sqe_tail - self.r.sqe_head
        pending = self.flush()
        if self.r.setup_flags & URING_SETUP_SQPOLL:
            pending = handed_over  # whether or not its thread has taken them yet
            fe_full_fence()
            if ring_sq_flags(&self.r) & URING_SQ_NEED_WAKEUP:
                flags = URING_ENTER_SQ_WAKEUP
            elif wait_nr == 0 and not fetch:
                return pending
        if wait_nr or waiter is not None:
            return self.wait(pending, wait_nr, flags, limits, waiter)
        if pending == 0 and flags == 0 and not fetch:
            return 0
        if fetch or self.r.setup_flags & URING_SETUP_IOPOLL:
            flags |= URING_ENTER_GETEVENTS
        taken = ring_enter(&self.r, pending, 0, flags, NULL)
        if taken < 0:
            raise enter_error(taken)
        return taken

    cdef inline uint32_t flush(self) noexcept:
        if self.bundling:
            self.split_bundles()
        return ring_flush(&self.r)

    # A single receive of a bundle that a kernel thread begins keeps its first buffer while it
    # waits, and goes on in those that are next by then: which, nobody can tell (Linux 6.18).  It
    # gets one buffer instead.  The rest of a chain may run in the thread that its beginning needed,
    # and so does all that stands behind a DRAIN, until some moment after that one's completion.
    cdef void split_bundles(self) noexcept:
        cdef uint8_t linked = URING_SQE_IO_LINK | URING_SQE_IO_HARDLINK
        cdef uint32_t at = self.r.sqe_head
        cdef uint8_t before = ring_sqe_at(&self.r, at - 1).flags & linked
        cdef uring_sqe *sqe
        while at != self.r.sqe_tail:
            sqe = ring_sqe_at(&self.r, at)
            if sqe.opcode == URING_OP_RECV and not sqe.ioprio & URING_RECV_MULTISHOT and (
                    before | self.r.flags_used & URING_SQE_IO_DRAIN
                    | sqe.flags & (linked | URING_SQE_ASYNC)):
                sqe.ioprio &= ~URING_RECVSEND_BUNDLE
            before = sqe.flags & linked
            at += 1
        self.bundling = False

    # Submit `pending` and wait for `wait_nr` completions.  Submitting keeps the GIL, for much is
    # done at once; only a wait that finds too few lets go of it.  The kernel reports a signal or a
    # timeout only when it submitted nothing, so both are looked at after every return.
    cdef object wait(self, uint32_t pending, uint32_t wait_nr, uint32_t flags,
                     const WaitLimits *limits, object waiter):
        cdef uint32_t needed, submitted = 0
        cdef WaitArgument argument
        cdef int64_t start
        cdef int taken
        start = fe_monotonic_ns() if limits.min_wait else 0
        if self.r.setup_flags & URING_SETUP_SQPOLL and not flags:
            submitted = pending  # its thread is awake and takes them
        elif pending or flags:
            if self.must_enter():
                flags |= URING_ENTER_GETEVENTS
            taken = ring_enter(&self.r, pending, 0, flags, NULL)
            if taken < 0:
                raise enter_error(taken)
            submitted = taken
            if submitted < pending:
                return submitted
        argument.first = True
        while True:
            argument.patience = limits.min_wait
            if limits.min_wait:
                argument.patience -= fe_monotonic_ns() - start
                if argument.patience <= 0:
                    argument.patience = 0
                    wait_nr = 1
            needed = self.needed(wait_nr, waiter)
            self.check()  # a skipped completion's user_data may have closed it
            if needed == 0 or self.r.wide and self.full():
                break
            if not flags & URING_ENTER_GETEVENTS and self.holds_back():
                flags |= URING_ENTER_GETEVENTS
                self.fetch()
                continue
            prepare_wait(&argument, limits)
            taken = self.block(0, needed + self.fillers, URING_ENTER_GETEVENTS, &argument)
            if taken < 0 and taken != -EINTR and taken != -ETIME:
                raise enter_error(taken)
            PyErr_CheckSignals()
            self.check()  # a signal handler may have closed it
            if is_over(&argument, limits, taken):
                break
        return submitted

    # How many completions must be in the queue when a wait for `wait_nr` ends; 0: it has.  Of which
    # kind depends on who waits: the ring for those that copy_cqes takes, a BatchQueue for its own,
    # and None for all of them.
    cdef uint32_t needed(self, uint32_t wait_nr, object waiter) except? NO_SLOT:
        cdef uint32_t found
        if isinstance(waiter, BatchQueue):
            return (<BatchQueue>waiter).needed(self, wait_nr)
        wait_nr = min(wait_nr, self.r.cq_entries)
        if waiter is self:
            return 0 if self.ready() >= wait_nr else wait_nr
        if self.hidden or self.r.wide:
            found = self.sift()
        else:
            found = ring_cq_ready(&self.r)
        if found + self.batches.stored >= wait_nr:
            return 0
        return wait_nr - self.batches.stored

    # The most entries that a wait may ask for.  In a mixed ring a big completion may not fit into
    # the last one; the kernel would then try for ever to put it there.
    cdef inline uint32_t wait_limit(self) noexcept:
        return self.r.cq_entries - (self.r.wide and not self.r.cqe_shift)

    # Whether the last sift() left so much in the queue that no wait can get more into it.
    cdef inline bint full(self) noexcept:
        return ring_cq_ready(&self.r) >= self.wait_limit()

    cdef int block(self, uint32_t pending, uint32_t wait_nr, uint32_t flags,
                   const WaitArgument *argument):
        cdef int taken
        wait_nr = min(wait_nr, self.wait_limit())
        self.waiters += 1
        with nogil:
            if argument == NULL:
                taken = ring_enter(&self.r, pending, wait_nr, flags, NULL)
            else:
                taken = ring_enter_arg(&self.r, pending, wait_nr, flags | argument.flags,
                                       argument.at, argument.size)
        self.waiters -= 1
        return taken

    def sq_ready(self):
        """How many SQEs are queued and not yet taken by the kernel."""
        self.check()
        return ring_sq_ready(&self.r)

    def sq_space_left(self):
        """How many more SQEs fit."""
        self.check()
        return self.r.sq_entries - ring_sq_ready(&self.r)

    # ---- completion ------------------------------------------------------------------------

    # A success that the caller asked not to see (CQE_SKIP_SUCCESS), an answer to our own cancel, or
    # the completion of a batch operation.
    cdef inline bint concealed(self, uring_cqe *raw) noexcept:
        cdef Operation *op
        if self.hidden == 0 and self.batches.in_flight == 0:
            return raw.user_data == KEY_INTERNAL
        op = self.find(raw.user_data)
        if op == NULL:
            return (raw.user_data == KEY_INTERNAL or is_late_notice(raw)
                    or batch_find(&self.batches, raw.user_data) != NULL)
        if raw.flags & URING_CQE_F_NOTIF:
            # Its res is no errno.  After an error, which said `more`, it is shown.
            return op.succeeded
        return op.hidden and (raw.res >= 0 or op.opcode == URING_OP_LINK_TIMEOUT)

    # How many completions wait for the caller: the first ones in the queue, and maybe all.
    cdef inline uint32_t ready(self) noexcept:
        if self.hidden or self.r.wide or self.unusable:
            return self.sift()
        return self.unbatched()

    # The same before any are concealed.  Those of batch operations go to their queues.
    cdef inline uint32_t unbatched(self) noexcept:
        if self.batches.in_flight == 0:
            return ring_cq_ready(&self.r)
        return batch_gather(&self.r, &self.batches, NULL, NULL)

    # Take the concealed completions out of the queue, so that they neither fill it nor count in a
    # wait.  The entries between head and tail are ours to rearrange: they move to the front.
    cdef uint32_t sift(self) noexcept:
        cdef uring_cqe held
        cdef uring_cqe *cqes
        cdef uint32_t i, n, head, keep, mask
        if self.r.wide:
            return self.sift_wide()
        while not self.unusable:
            n = self.unbatched()
            cqes, mask, head = self.r.cqes, self.r.cq_mask, self.r.cq_khead[0]
            keep = i = head + n
            while i != head:
                i -= 1
                if not self.concealed(&cqes[i & mask]):
                    keep -= 1
                    held = cqes[i & mask]
                    cqes[i & mask] = cqes[keep & mask]
                    cqes[keep & mask] = held
            if keep == head:
                return n
            # Ending one may run any code, which may take completions itself, or close or resize
            # the ring.
            for _ in range(keep - head):
                if self.unusable or ring_cq_ready(&self.r) == 0 or not self.concealed(
                        &self.r.cqes[self.r.cq_khead[0] & self.r.cq_mask]):
                    break
                ring_take_cqe(&self.r, &held, NULL)
                self.lose(&held)
        return 0

    # The same in a wide ring, where entries may be of two sizes: they become fillers, which go
    # when nothing is in front of them any more.  A waiting thread counts entries, fillers too.
    cdef uint32_t sift_wide(self) noexcept:
        cdef uring_cqe taken
        cdef uring_cqe *cqe
        cdef uint32_t count, head, tail
        while not self.unusable:
            count = 0
            head = self.r.cq_khead[0]
            tail = fe_load_acquire(self.r.cq_ktail)
            cqe = ring_next_cqe(&self.r, &head, tail)
            while cqe != NULL and not self.concealed(cqe):
                count += 1
                cqe = ring_next_cqe(&self.r, &head, tail)
            if cqe == NULL:
                ring_drop_fillers(&self.r)
                self.fillers = tail - self.r.cq_khead[0] - count
                return count
            taken = cqe[0]
            cqe.flags |= URING_CQE_F_SKIP
            self.lose(&taken)
        return 0

    # Whether the kernel says that it holds completions back until it is entered.
    cdef inline bint holds_back(self) noexcept:
        return (ring_sq_flags(&self.r) & (URING_SQ_CQ_OVERFLOW | URING_SQ_TASKRUN)) != 0

    # Whether it may do so: without TASKRUN_FLAG it does not say.
    cdef inline bint must_enter(self) noexcept:
        if self.unusable:
            return False  # what ready() ended has closed it
        if self.holds_back() or self.r.setup_flags & URING_SETUP_IOPOLL:
            return True
        return self.r.setup_flags & (URING_SETUP_DEFER_TASKRUN | URING_SETUP_TASKRUN_FLAG) == (
            URING_SETUP_DEFER_TASKRUN)

    cdef int fetch(self) except -1:
        cdef int result = ring_enter(&self.r, 0, 0, URING_ENTER_GETEVENTS, NULL)
        if result < 0 and result != -EINTR:
            raise enter_error(result)
        return 0

    # Fill a CQE for the caller; the operation is not ended by it.
    cdef inline void describe(self, CQE cqe, uring_cqe *raw, Operation *op) noexcept:
        cqe.code = raw.res
        cqe.result = raw.res
        cqe.flags = raw.flags
        if op == NULL:
            if raw.user_data >> 62 == 1 and raw.user_data in self.tags:
                cqe.given = self.tags[raw.user_data]
                cqe.is_tag = True
                return
            cqe.given = raw.user_data & MESSAGE_MAX
            return
        cqe.opcode = op.opcode
        if op.user_data != NULL:
            cqe.given = <object>op.user_data
        # Those of a multishot that are not its last share its block only to be unpacked by it.
        if op.block != NULL and (not raw.flags & URING_CQE_F_MORE
                                 or raw.flags & URING_CQE_F_BUFFER
                                 or op.opcode == URING_OP_URING_CMD):
            cqe.block = <bytes>op.block
        if raw.flags & URING_CQE_F_BUFFER and op.group != NULL:
            cqe.buffer_start = self.count_buffers(raw, op)

    # Each completion's buffers are counted once: when it is first shown, or taken.
    cdef uint32_t count_buffers(self, uring_cqe *raw, Operation *op) noexcept:
        if not self.front_counted:
            self.front_start = (<BufferRing>op.group).consume(raw.res, raw.flags)
        return self.front_start

    # A completion that nobody sees: its buffers go back to the kernel, but not those that were
    # sent, which it would send again.
    cdef void lose(self, uring_cqe *raw) noexcept:
        cdef Operation *op = self.find(raw.user_data)
        if op != NULL and raw.flags & URING_CQE_F_BUFFER and op.group != NULL:
            if op.opcode == URING_OP_SEND:
                (<BufferRing>op.group).consume(raw.res, raw.flags)
            else:
                (<BufferRing>op.group).discard(raw.res, raw.flags)
        self.settle(raw, op)

    # The bookkeeping of a completion that was taken out of the queue.
    cdef inline void settle(self, uring_cqe *raw, Operation *op) noexcept:
        if op == NULL:
            self.settle_stray(raw)
            return
        if op.direct and raw.res >= 0:
            self.note_direct(raw, op)
        if raw.flags & URING_CQE_F_MORE:
            op.succeeded = op.hidden and raw.res >= 0
        else:
            if raw.res == -ECANCELED and op.opcode in (URING_OP_SEND_ZC, URING_OP_SENDMSG_ZC):
                self.hidden += 1  # see is_late_notice
            self.completed += 1
            self.vacate(op)

    # A file came into, or went out of, this ring's table, or that of the ring it was sent to.
    cdef void note_direct(self, uring_cqe *raw, Operation *op) noexcept:
        cdef Ring target = self
        if op.opcode == URING_OP_MSG_RING:
            if op.file == NULL or not isinstance(<object>op.file, Ring):
                return
            target = <Ring>op.file
        if target.table is not None:
            target.table.note(op, raw.res)

    cdef void settle_stray(self, uring_cqe *raw) noexcept:
        if raw.user_data == KEY_INTERNAL or is_late_notice(raw):
            self.hidden -= self.hidden > 0
        elif not raw.user_data & MESSAGE_BIT and not batch_settle(
                &self.batches, raw.user_data, raw.res):
            if raw.user_data in self.tags:
                del self.tags[raw.user_data]
            else:
                self.unmatched += 1

    # Making a CQE may run the GC, and ending an operation may run its user_data's __del__: code
    # that may use this ring, or close it.  Nothing found before is trusted after.
    cdef int deliver(self, uring_cqe *raw, uint64_t *big, list out) except -1:
        cdef Operation *op
        cdef CQE cqe
        if self.concealed(raw):
            self.lose(raw)
            return 0
        cqe = CQE.__new__(CQE)
        # From here to settle() nothing runs that could end the operation.
        op = self.find(raw.user_data)
        self.describe(cqe, raw, op)
        if self.r.wide and ring_cqe_is_big(&self.r, raw):
            cqe.enlarge(big)
        self.front_counted = False
        out.append(cqe)
        self.settle(raw, op)
        return 0

    # One at a time: whatever that code does, it finds a queue in order, with nothing in between.
    cdef int drain(self, list out, uint32_t limit) except -1:
        cdef uring_cqe raw
        cdef uint64_t big[1][2]
        limit = min(limit, self.ready())
        try:
            while limit and not self.unusable and ring_take_cqe(&self.r, &raw, big):
                self.taken_out += 1
                limit -= 1
                self.deliver(&raw, big[0], out)
        except BaseException:
            self.lose(&raw)  # no memory for a CQE: its operation has ended all the same
            raise
        return 0

    def copy_cqes(self, Py_ssize_t max_count=MAX_RW_COUNT, unsigned int wait_nr=0, timeout=None):
        """Take up to `max_count` completions, as a list.

        Where none are ready, waits for `wait_nr` of them (0: does not wait), for at most `timeout`
        seconds; the list is empty when the time is up.  Does not submit.
        """
        cdef list out = []
        cdef uint32_t limit
        cdef WaitLimits limits
        if max_count < 0:
            raise ValueError("max_count must not be negative")
        self.check()
        limit = <uint32_t>min(max_count, MAX_RW_COUNT)
        if wait_nr == 0 and self.ready() == 0 and self.must_enter():
            self.fetch()
        self.drain(out, limit)
        if not out and wait_nr and limit:
            limits = until(self.deadline(timeout))
            self.check()  # the conversion of `timeout` may have closed it
            self.wait(0, wait_nr, 0, &limits, self)
            self.drain(out, limit)
        return out

    def copy_cqe(self, timeout=None):
        """Take one completion, waiting for it; TimeoutError after `timeout` seconds."""
        cdef list out = []
        self.check()
        self.drain(out, 1)
        # Concealed completions and another thread may leave the queue empty again.
        while not out:
            self.await_one(timeout)
            self.drain(out, 1)
        return out[0]

    cdef int await_one(self, object timeout) except -1:
        cdef WaitLimits limits = until(self.deadline(timeout))
        self.check()  # the conversion of `timeout` may have closed it
        self.wait(0, 1, 0, &limits, self)
        if timeout is not None and self.ready() == 0:
            raise TimeoutError(errno.ETIME, f"no completion within {timeout} s")
        return 0

    cdef CQE front(self):
        cdef uring_cqe *raw
        cdef CQE cqe = CQE.__new__(CQE)
        cdef uint32_t head
        if self.ready():
            head = self.r.cq_khead[0]
            raw = ring_next_cqe(&self.r, &head, head + 1)
            self.describe(cqe, raw, self.find(raw.user_data))
            if ring_cqe_is_big(&self.r, raw):
                cqe.enlarge(<uint64_t *>(raw + 1))
            cqe.peeked = self.front_counted = True
            cqe.position = self.taken_out
            return cqe
        return None

    cdef void advance(self, uint32_t count) noexcept:
        cdef uring_cqe raw
        cdef Operation *op
        for _ in range(count):
            if self.unusable or ring_take_cqe(&self.r, &raw, NULL) == 0:
                return
            self.taken_out += 1
            op = self.find(raw.user_data)
            if raw.flags & URING_CQE_F_BUFFER and op != NULL and op.group != NULL:
                self.count_buffers(&raw, op)
            self.front_counted = False
            self.settle(&raw, op)

    def peek_cqe(self):
        """The first completion, left in the queue, or None.  cqe_seen() removes it."""
        self.check()
        if self.ready() == 0 and self.must_enter():
            self.fetch()
        return self.front()

    def wait_cqe(self, timeout=None):
        """The first completion, waited for and left in the queue.  cqe_seen() removes it.

        Raises TimeoutError after `timeout` seconds.
        """
        self.check()
        cdef CQE cqe = self.front()
        while cqe is None:
            self.await_one(timeout)
            cqe = self.front()
        return cqe

    def cqe_seen(self, CQE cqe not None):
        """Remove the completion that peek_cqe or wait_cqe showed.

        Raises ValueError for any other than the first in the queue, such as one that was seen
        already: removing some other completion in its place would lose that.
        """
        self.check()
        if not cqe.peeked or cqe.position != self.taken_out or ring_cq_ready(&self.r) == 0:
            raise ValueError("this completion is not (or no longer) the first in the queue")
        self.advance(1)

    def cq_advance(self, unsigned int count):
        """Remove the first `count` completions."""
        self.check()
        cdef uint32_t ready = self.ready()
        if count > ready:
            raise ValueError(f"only {ready} completions are ready, not {count}")
        self.advance(count)

    def cq_ready(self):
        """How many completions can be taken, not counting those of batch queues.  With
        DEFER_TASKRUN the kernel posts most of them only while it is entered: by get_events() or a
        waiting call."""
        self.check()
        return self.ready()

    def cq_has_overflow(self):
        """Whether completions wait in the kernel because the queue is full; take some."""
        self.check()
        return (ring_sq_flags(&self.r) & URING_SQ_CQ_OVERFLOW) != 0

    def cq_overflow(self):
        """How many completions were lost for good (only when the kernel had no memory)."""
        self.check()
        return self.r.cq_koverflow[0]

    def get_events(self):
        """Let the kernel post what it holds back; does not wait."""
        self.check()
        self.fetch()

    # ---- the fast level --------------------------------------------------------------------

    def batch_queue(self, capacity, memory=None):
        """A BatchQueue: operations prepared from arrays and completed into arrays.

        capacity  how many operations may be prepared and not yet completed, from 1 to 1048576
        memory    a writable bytes-like object, which all its reads and writes use.  Held until the
                  queue or the ring is closed: a bytearray cannot be resized meanwhile

        A ring may have 16383 of them at once.
        """
        cdef BatchQueue queue = BatchQueue.__new__(BatchQueue)
        if not 1 <= capacity <= BATCH_MAX_CAPACITY:
            raise ValueError(f"capacity must be from 1 to {BATCH_MAX_CAPACITY}, not {capacity}")
        queue.open(self, capacity, memory)
        return queue

    # ---- the end -------------------------------------------------------------------------
    # 1. forget what the kernel has not seen   2. cancel everything   3. drain, up to a deadline
    # 4. count what is left, and leak it        5. unmap, close
    def close(self, timeout=5.0):
        """Cancel what is in flight, wait for it up to `timeout` seconds, free the ring.

        Completions not taken are dropped; descriptors they carry are closed.  What cannot be
        drained in time keeps its memory for ever (statistics().leaked).  Closing twice is fine.
        """
        cdef int64_t end
        if self.unusable:
            return
        if self.epoch != fork_epoch:
            self.release()
            return
        if self.waiters:
            raise RuntimeError("another thread waits in this ring")
        if self.bound and ring_this_thread != self.thread:
            # A dead thread's operations were ended by the kernel; a live one must close its own.
            if not ring_thread_has_ended(self.thread) and (
                    self.thread.ident in sys._current_frames()):
                self.refuse_thread()
            self.release()
            return
        cdef uring_timespec ts = timespec_of(timeout, "timeout")
        end = fe_monotonic_ns() + ts.tv_sec * 1_000_000_000 + ts.tv_nsec
        if self.unusable:
            return  # the conversion of `timeout` closed it
        # What ends now may run any code; none of it may use the ring.
        self.unusable = True
        self.forget_queued()
        self.reap()
        while (self.in_use or self.batches.in_flight) and self.push_out(end):
            pass
        self.release()

    # SQEs that the kernel has not seen, or not consumed: their operations never began.
    cdef void forget_queued(self) noexcept:
        cdef Operation *op
        cdef uint64_t key
        cdef uint32_t first = self.r.sqe_head
        if not self.r.setup_flags & URING_SETUP_SQPOLL:
            first = fe_load_acquire(self.r.sq_khead)
            fe_store_release(self.r.sq_ktail, first)
        while self.r.sqe_tail != first:
            self.r.sqe_tail -= 1
            self.handed_out -= 1
            key = ring_sqe_at(&self.r, self.r.sqe_tail).user_data
            op = self.find(key)
            if op != NULL:
                self.vacate(op)
            else:
                batch_forget(&self.batches, key)
        self.r.sqe_head = first

    # One round: cancel, wait a little, reap.  False when it is time to give up.
    cdef bint push_out(self, int64_t end):
        cdef int64_t left = end - fe_monotonic_ns()
        if left <= 0:
            return False
        self.cancel_all()
        self.await_events(ring_flush(&self.r), 1 + self.cancels, left)
        self.reap()
        return True

    # Submit `pending`, and wait until the queue holds `wait_nr` completions, but not long.
    cdef void await_events(self, uint32_t pending, uint32_t wait_nr, int64_t nanoseconds):
        cdef WaitArgument argument
        cdef WaitLimits limits
        cdef uint32_t flags = URING_ENTER_GETEVENTS
        if self.r.setup_flags & URING_SETUP_SQPOLL:
            flags |= URING_ENTER_SQ_WAKEUP
        nanoseconds = min(nanoseconds, 100_000_000)
        if self.r.features & URING_FEAT_EXT_ARG:
            limits = until(fe_monotonic_ns() + nanoseconds)
            argument.first, argument.patience = True, 0
            prepare_wait(&argument, &limits)
            self.block(pending, wait_nr, flags, &argument)
        else:
            self.block(pending, 0, flags, NULL)
            self.poll_fd(nanoseconds)

    cdef void poll_fd(self, int64_t nanoseconds):
        cdef pollfd wanted
        wanted.fd = self.r.fd
        wanted.events = POLLIN
        with nogil:
            poll(&wanted, 1, <int>(nanoseconds // 1_000_000))

    # Cancel all in flight: from outside the queue, where no drain holds the cancel back.  Where
    # that does not reach all, also by SQEs, one if the kernel has ANY (5.19), as far as they fit: a
    # SQPOLL thread may not have made room yet.
    cdef void cancel_all(self) noexcept:
        cdef uint32_t i
        cdef Operation *op
        self.cancels = 0
        if self.cancel_outside(0, URING_CANCEL_ANY | URING_CANCEL_ALL):
            return
        if not self.cancel_each:
            self.queue_cancel(0, URING_CANCEL_ANY | URING_CANCEL_ALL)
            return
        for i in range(self.chunk_count * CHUNK):
            op = self.slot(i)
            if op.live and not self.queue_cancel(self.key(op), 0):
                return
        for queue in self.queues:
            if queue is not None:
                (<BatchQueue>queue).queue_cancels(self, NULL, 0)

    # False when that may have missed something: the kernel does not do it, or what was meant runs
    # in a kernel thread of the SQPOLL thread.  It does not wait: what a kernel thread runs is
    # signalled, and looked at again in the next round.
    cdef bint cancel_outside(self, uint64_t key, uint32_t flags) noexcept:
        cdef uring_sync_cancel_reg reg
        cdef int result
        memset(&reg, 0, sizeof(reg))
        reg.fd = -1
        reg.addr = key
        reg.flags = flags
        result = ring_register(&self.r, URING_REGISTER_SYNC_CANCEL, &reg, 1)
        if self.r.setup_flags & URING_SETUP_SQPOLL:
            return False
        return result >= 0 or result in (-ENOENT, -EALREADY, -ETIME, -EINTR)

    cdef bint queue_cancel(self, uint64_t key, uint32_t flags) noexcept:
        cdef uring_sqe *raw = ring_get_sqe(&self.r)
        if raw == NULL:
            return False
        self.handed_out += 1
        raw.opcode = URING_OP_ASYNC_CANCEL
        raw.fd = -1
        raw.addr = key
        raw.op_flags = flags
        raw.user_data = KEY_INTERNAL
        self.hidden += 1
        self.cancels += 1
        return True

    # Take completions that nobody will see.
    cdef void reap(self) noexcept:
        cdef uring_cqe batch[BATCH]
        cdef Operation *op
        cdef uint32_t i, n = 1
        while n:
            n = ring_copy_cqes(&self.r, batch, BATCH)
            for i in range(n):
                op = self.find(batch[i].user_data)
                if batch[i].user_data == KEY_INTERNAL and batch[i].res == -EINVAL:
                    self.cancel_each = True
                if op != NULL and batch[i].res >= 0 and not op.direct:
                    close_result(op, &batch[i])
                self.settle(&batch[i], op)

    # Free everything; leak what the kernel may still write to.
    cdef void release(self) noexcept:
        global leaked_total
        cdef uint32_t i
        cdef Operation *op
        cdef bint inherited = self.epoch != fork_epoch
        if not ring_is_open(&self.r):
            return
        self.unusable = True
        if inherited:
            # Neither the mappings nor the descriptor are ours, and nothing writes to this copy.
            self.r.fd = -1
            self.r.ring_map = self.r.sqes_map = NULL
        else:
            self.forget_queued()
            self.reap()
            fork_remove(&self.fork_node)
            if ring_this_thread == self.thread:
                # It would keep the ring open until the thread ends, and its place taken.
                ring_unregister_own_fd(&self.r)
            ring_close(&self.r)
        for i in range(self.chunk_count * CHUNK):
            op = self.slot(i)
            if not op.live:
                continue
            if inherited:
                self.vacate(op)
            else:
                op.live = False
                self.in_use -= 1
                self.leaked += 1
                # Not its file: behind a link the kernel looks the descriptor up only when it gets
                # there, and the number must not be another file's by then.
                drop(&op.user_data)
        if not inherited:
            self.leaked += self.batches.in_flight
        leaked_total += self.leaked
        if self.leaked == 0:
            for i in range(self.chunk_count):
                PyMem_Free(self.chunks[i])
            PyMem_Free(self.chunks)
        self.chunks = NULL
        self.chunk_count = 0
        self.free_slot = NO_SLOT
        for group in self.groups.values():
            (<BufferRing>group).ring_object = NULL
        self.groups.clear()
        self.provided.clear()
        for queue in self.queues:
            if queue is not None:
                (<BatchQueue>queue).detach(self, not inherited)
        self.queues.clear()
        batch_free_table(&self.batches)
        self.drop_files()
        self.drop_buffers()
        self.tags.clear()

    cdef void drop_files(self) noexcept:
        if self.table is not None:
            self.table.ring_object = NULL
            self.table = None

    cdef void drop_buffers(self) noexcept:
        cdef list buffers = self.buffers
        self.buffers = None
        for pool in self.pools:
            (<BufferPool>pool).ring_object = NULL
        self.pools.clear()
        if buffers is not None:
            retire_all(buffers)

    def __enter__(self):
        self.check()
        return self

    def __exit__(self, *exc):
        self.close()

    def __del__(self):
        cdef uint32_t in_flight = self.in_use + self.batches.in_flight
        if not ring_is_open(&self.r):
            return
        if self.epoch != fork_epoch:
            self.release()
            return
        # Never waits: whoever dropped the last reference did not ask to be blocked.
        fd = self.r.fd
        self.release()
        PyErr_ResourceWarning(self, 1, "unclosed ring (descriptor %d, %u operations queued or in "
                              "flight): call close() or use it as a context manager",
                              <int>fd, <unsigned int>in_flight)

    def __repr__(self):
        if not ring_is_open(&self.r):
            return "<Ring, closed>"
        return (f"<Ring fd={self.r.fd} entries={self.r.sq_entries} flags={self.r.setup_flags:#x} "
                f"in_flight={self.statistics().in_flight}>")


# Close the descriptors of a success that nobody will see.
cdef void close_result(Operation *op, uring_cqe *raw) noexcept:
    cdef int *ends
    if op.opcode in (URING_OP_ACCEPT, URING_OP_OPENAT, URING_OP_OPENAT2, URING_OP_SOCKET,
                     URING_OP_FIXED_FD_INSTALL):
        c_close(raw.res)
    elif op.opcode == URING_OP_RECVMSG and op.block != NULL:
        close_received(op, raw)
    elif op.opcode == URING_OP_PIPE and op.block != NULL:
        ends = <int *>PyBytes_AS_STRING(<bytes>op.block)
        if ends[0] >= 0:  # -1 where the caller sent the kernel elsewhere
            c_close(ends[0])
            c_close(ends[1])


# Cython does not know of the references in the slots; the GC must, or a ring whose user_data leads
# back to it would never be found.
cdef traverseproc ring_base_traverse = (<PyTypeObject *>Ring).tp_traverse


cdef int visit_operation(Operation *op, visitproc visit, void *arg) noexcept:
    cdef uint32_t i
    cdef int result = 0
    if op.user_data != NULL:
        result = visit(op.user_data, arg)
    if result == 0 and op.file != NULL:
        result = visit(op.file, arg)
    if result == 0 and op.extra != NULL:
        result = visit(op.extra, arg)
    if result == 0 and op.exported and fe_exporter(&op.view) != NULL:
        result = visit(fe_exporter(&op.view), arg)
    for i in range(op.nviews):
        if result == 0 and fe_exporter(&op.views[i]) != NULL:
            result = visit(fe_exporter(&op.views[i]), arg)
    return result


cdef int ring_traverse(PyObject *o, visitproc visit, void *arg) noexcept:
    cdef uint32_t i
    cdef int result
    cdef Operation *op
    for i in range((<Ring>o).chunk_count * CHUNK):
        op = &(<Ring>o).chunks[i >> CHUNK_SHIFT][i & (CHUNK - 1)]
        if op.live:
            result = visit_operation(op, visit, arg)
            if result:
                return result
    return ring_base_traverse(o, visit, arg)


(<PyTypeObject *>Ring).tp_traverse = <traverseproc>ring_traverse

add_cqe_members()

for made_here in (Operations, FileOperations, SocketOperations, SystemOperations,
                  TableRegistrations, Registrations, SQE, CQE, Probe, BufferRing,
                  RegisteredBuffer, PooledBuffer, BufferPool, FileTable, _Pages, BatchQueue,
                  WaitRegion, SubmissionQueue, CompletionQueue):
    forbid_making(<PyTypeObject *>made_here)
del made_here

if fork_watch() != 0 or ring_thread_watch() != 0:
    raise OSError("cannot watch for the ends of threads and for forks")
