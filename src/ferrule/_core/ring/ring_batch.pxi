# The fast level: operations queued from arrays and completed into arrays, without a Python object
# for each.

cdef extern from "ring_batch.h" nogil:
    enum:
        BATCH_MAX_CAPACITY, BATCH_MAX_QUEUES
        BATCH_FDS, BATCH_STARTS, BATCH_LENGTHS, BATCH_OFFSETS, BATCH_FLAGS

    struct batch_slot:
        uint64_t key
        uint64_t tag
    struct batch:
        batch_slot *slots
        uint32_t capacity
        uint32_t in_flight
        uint32_t stored
    struct batch_table:
        batch **queues
        uint32_t in_flight
        uint32_t stored
        uint64_t completed
    union batch_value:
        int32_t i
        uint32_t u
        int64_t q
        uint8_t b
    struct batch_column:
        const char *at
        size_t step
        batch_value value
    struct batch_plan:
        uint8_t opcode
        uint16_t buf_index
        uint32_t op_flags
        batch_column fds
        batch_column starts
        batch_column lengths
        batch_column offsets
        batch_column flags
        batch_column tags
        char *memory
        uint64_t size
        uint32_t wrong_index
        int64_t wrong_value
        int64_t wrong_length
    struct batch_results:
        int32_t *results
        uint64_t *tags
        uint32_t room
        uint32_t taken

    int batch_allocate(batch *b, uint32_t number, uint32_t capacity, uint64_t generation)
    int batch_add(batch_table *t, batch *b, uint32_t number)
    void batch_remove(batch_table *t, batch *b, uint32_t number)
    void batch_free(batch *b)
    void batch_free_table(batch_table *t)
    batch *batch_find(const batch_table *t, uint64_t key)
    bint batch_in_flight(const batch_slot *slot)
    bint batch_settle(batch_table *t, uint64_t key, int32_t res)
    bint batch_forget(batch_table *t, uint64_t key)
    int64_t batch_prep(ring *r, batch_table *t, batch *b, batch_plan *p, uint64_t count)
    uint32_t batch_prep_nop(ring *r, batch_table *t, batch *b, uint64_t count,
                            const uint64_t *tags)
    uint32_t batch_ready(const ring *r, const batch_table *t, const batch *b)
    uint32_t batch_gather(ring *r, batch_table *t, batch *own, batch_results *out)
    void batch_unstore(batch_table *t, batch *b, batch_results *out)
    uint32_t batch_withdraw(ring *r, batch_table *t, batch *b, uint64_t key, uint64_t target)

# The type of an array's items: their size in bytes, and whether they have a sign.  Those of eight
# bytes may have one or not, so that a tag can be a place in the memory, too.
cdef enum:
    SIGNED = 16
    UINT8 = 1
    INT32 = 4 | SIGNED
    UINT32 = 4
    INT64 = 8 | SIGNED


# The arrays of one call, exported until it ends.
cdef struct Arrays:
    Py_buffer views[6]
    uint32_t held
    Py_ssize_t length           # of all of them; -1: not known yet


cdef struct BatchMemory:
    Py_buffer view              # in a struct, where Cython's tp_clear does not see it
    bint exported


cdef void release_arrays(Arrays *arrays) noexcept:
    while arrays.held:
        arrays.held -= 1
        PyBuffer_Release(&arrays.views[arrays.held])


cdef char NATIVE_ORDER = b"<" if sys.byteorder == "little" else b">"


cdef str kind_name(int kind):
    if kind == INT64:
        return "int64 or uint64"
    return f"{'int' if kind & SIGNED else 'uint'}{8 * (kind & 15)}"


cdef bint has_kind(Py_buffer *view, int kind) noexcept:
    cdef const char *format = view.format
    if view.itemsize != (kind & 15) or format == NULL:
        return kind == UINT8 and view.itemsize == 1
    if format[0] == b"@" or format[0] == b"=" or format[0] == NATIVE_ORDER:
        format += 1
    if format[0] == 0 or format[1] != 0:
        return False
    if kind == INT64:
        return strchr("lqnLQN", format[0]) != NULL
    return strchr("bhilqn" if kind & SIGNED else "BHILQN", format[0]) != NULL


# The items of an array of one dimension, as many as in the arrays before it.
cdef char *export_array(Arrays *arrays, object source, str name, int kind,
                        bint writable) except? NULL:
    cdef Py_buffer *view = &arrays.views[arrays.held]
    if not PyObject_CheckBuffer(source):
        raise TypeError(f"{name} must be an array of {kind_name(kind)}, "
                        f"not {type(source).__name__!r}")
    PyObject_GetBuffer(source, view, PyBUF_FULL_RO)
    arrays.held += 1
    if not has_kind(view, kind):
        raise TypeError(f"{name} must be an array of {kind_name(kind)}, not of items with the "
                        f"format {(view.format or b'B').decode()!r} and {view.itemsize} bytes")
    if view.ndim != 1 or not PyBuffer_IsContiguous(view, b"C"):
        raise ValueError(f"{name} must have one dimension, and its items no gaps")
    if writable and view.readonly:
        raise TypeError(f"{name} must be writable, which this {type(source).__name__} is not")
    if view.len and <uintptr_t>view.buf % (kind & 15):
        raise ValueError(f"{name} must be aligned to its items of {kind & 15} bytes")
    if arrays.length < 0:
        arrays.length = view.len // (kind & 15)
    elif arrays.length != view.len // (kind & 15):
        raise ValueError(f"all arrays must have one length: {name} has "
                         f"{view.len // (kind & 15)} items, not {arrays.length}")
    return <char *>view.buf


# An argument that is an array, or one number for every operation.
cdef int fill_column(Arrays *arrays, batch_column *column, object source, str name,
                     int kind) except -1:
    cdef int64_t number, low, high
    cdef int overflow
    if not PyLong_Check(source):
        if PyObject_CheckBuffer(source) and getattr(source, "ndim", 1):
            column.at = export_array(arrays, source, name, kind, False)
            column.step = kind & 15
            return 0
        if not PyIndex_Check(source):
            raise TypeError(f"{name} must be an int or an array of {kind_name(kind)}, "
                            f"not {type(source).__name__!r}")
        source = PyNumber_Index(source)
    number = PyLong_AsLongLongAndOverflow(source, &overflow)
    high = <int64_t>(0x7fffffffffffffffULL >> (64 - 8 * (kind & 15)))
    low = -high - 1
    if not kind & SIGNED:
        low, high = 0, 2 * high + 1
    if overflow or number < low or number > high:
        raise ValueError(f"{name} must be from {low} to {high}, not {source}")
    column.at = <char *>&column.value
    column.step = 0
    if kind == INT32:
        column.value.i = <int32_t>number
    elif kind == UINT32:
        column.value.u = <uint32_t>number
    elif kind == INT64:
        column.value.q = number
    else:
        column.value.b = <uint8_t>number
    return 0


cdef object wrong_value(batch_plan *plan, int argument):
    if argument == BATCH_STARTS:
        return ValueError(f"starts[{plan.wrong_index}]: {plan.wrong_length} bytes from "
                          f"{plan.wrong_value} are outside the memory's {plan.size} bytes")
    name, is_array, allowed = {
        BATCH_FDS: ("fds", plan.fds.step, "must be 0 or more"),
        BATCH_LENGTHS: ("lengths", plan.lengths.step, f"must be at most {MAX_RW_COUNT}"),
        BATCH_OFFSETS: ("offsets", plan.offsets.step,
                        "must be 0 or more, or -1 for the file's position"),
        BATCH_FLAGS: ("flags", plan.flags.step,
                      "may have FIXED_FILE, IO_DRAIN, IO_LINK, IO_HARDLINK and ASYNC only"),
    }[argument]
    place = f"[{plan.wrong_index}]" if is_array else ""
    return ValueError(f"{name}{place} {allowed}, not {plan.wrong_value}")


@cython.final
cdef class BatchQueue:
    """Operations in batches, from arrays and into arrays; made by Ring.batch_queue.

    One call prepares many operations, one call takes many completions, and no Python object is
    made for any of them.  Arrays are anything with the buffer protocol (array.array, memoryview,
    numpy): one dimension, no gaps, and items of the type that is asked for.  They are read or
    filled during the call and not kept.

    All data go through one `memory`, given at the start: operations name slices of it.  Nothing
    keeps two operations from using the same bytes at once: which slices are in use is yours to
    know.  Descriptors are plain numbers here, yours to keep open until the completions came.

    ring.submit() and ring.submit_and_wait() hand these operations over with all others, and the
    latter counts their completions too.  complete() takes the completions of this queue and leaves
    all others where they are; copy_cqes(), peek_cqe() and their like never see one of a batch.
    """
    cdef PyObject *ring_object       # borrowed; NULL once closed
    cdef batch b
    cdef BatchMemory held
    cdef uint32_t number
    cdef readonly object memory
    cdef object __weakref__

    def __dealloc__(self):
        batch_free(&self.b)

    # Export the memory, then take a place in the ring: from there on nothing may fail.
    cdef int open(self, Ring ring, uint32_t capacity, object memory) except -1:
        cdef int result
        if memory is not None:
            export_buffer(memory, &self.held.view, True)
            self.held.exported = True
        try:
            ring.check()
            self.take_number(ring)
            result = batch_allocate(&self.b, self.number, capacity,
                                    ring.first_generation + ring.handed_out)
            if result == 0:
                result = batch_add(&ring.batches, &self.b, self.number)
            if result < 0:
                ring.queues[self.number] = None
                raise MemoryError
        except BaseException:
            self.release_memory()
            raise
        self.memory = memory
        self.ring_object = <PyObject *>ring
        return 0

    cdef int take_number(self, Ring ring) except -1:
        if None in ring.queues:
            self.number = ring.queues.index(None)
            ring.queues[self.number] = self
            return 0
        if len(ring.queues) == BATCH_MAX_QUEUES:
            raise ValueError(f"a ring has {BATCH_MAX_QUEUES} batch queues at most: close some")
        self.number = <uint32_t>len(ring.queues)
        ring.queues.append(self)
        return 0

    cdef void release_memory(self) noexcept:
        if self.held.exported:
            self.held.exported = False
            PyBuffer_Release(&self.held.view)

    cdef Ring ring(self):
        if self.ring_object == NULL:
            raise ValueError("operation on a closed batch queue")
        cdef Ring owner = <Ring>self.ring_object
        owner.check()
        return owner

    @property
    def capacity(self):
        """How many operations may be prepared and not yet taken by complete()."""
        return self.b.capacity

    @property
    def in_flight(self):
        """How many operations are prepared and not yet taken by complete()."""
        return self.b.in_flight + self.b.stored

    @property
    def closed(self):
        """Whether it, or its ring, was closed."""
        return self.ring_object == NULL

    cdef int need_memory(self) except -1:
        if not self.held.exported:
            raise ValueError("this queue has no memory: give some to batch_queue()")
        return 0

    # ---- preparing -----------------------------------------------------------------------

    def prep_nop(self, count, tags=None):
        """Queue `count` no-ops.  Returns how many there was room for (see prep_read)."""
        cdef Arrays arrays
        cdef Ring ring
        cdef char *tag = NULL
        arrays.held = 0
        arrays.length = count
        if arrays.length < 0:
            raise ValueError(f"count must not be negative, not {count}")
        try:
            if tags is not None:
                tag = export_array(&arrays, tags, "tags", INT64, False)
            ring = self.ring()
            queued = batch_prep_nop(&ring.r, &ring.batches, &self.b, arrays.length,
                                    <const uint64_t *>tag)
            ring.handed_out += queued
            return queued
        finally:
            release_arrays(&arrays)

    cdef object prep(self, batch_plan *plan, object fds, object starts, object lengths,
                     object offsets, object tags, object flags):
        cdef Arrays arrays
        cdef Ring ring
        cdef int64_t queued
        arrays.held = 0
        arrays.length = -1
        try:
            fill_column(&arrays, &plan.fds, fds, "fds", INT32)
            fill_column(&arrays, &plan.starts, starts, "starts", INT64)
            fill_column(&arrays, &plan.lengths, lengths, "lengths", UINT32)
            fill_column(&arrays, &plan.offsets, offsets, "offsets", INT64)
            fill_column(&arrays, &plan.flags, flags, "flags", UINT8)
            if tags is not None:
                plan.tags.at = export_array(&arrays, tags, "tags", INT64, False)
                plan.tags.step = sizeof(uint64_t)
            if arrays.length < 0:
                raise ValueError("how many? at least one argument must be an array")
            ring = self.ring()
            if not kernel_has[plan.opcode]:
                refuse_opcode(plan.opcode)
            self.need_memory()
            plan.memory = <char *>self.held.view.buf
            plan.size = self.held.view.len
            queued = batch_prep(&ring.r, &ring.batches, &self.b, plan, arrays.length)
            if queued < 0:
                raise wrong_value(plan, <int>-queued)
            ring.handed_out += queued
            return queued
        finally:
            release_arrays(&arrays)

    def prep_read(self, fds, starts, lengths, offsets, *, tags=None, flags=0):
        """Queue a read of a file for each item of the arrays.  Returns how many were queued.

        fds      descriptors: an int for all, or an array of int32
        starts   where in the memory the data go: an array of int64, or an int: where those of the
                 first go, and of each other one behind those of the one before it
        lengths  bytes to read: an int, or an array of uint32 (at most 2147479552)
        offsets  where in the file: an int, the same for all, or an array of int64; -1 is the
                 file's own position
        tags     numbers that complete() gives back: an array of uint64; default 0, 1, 2, ...
                 (wherever an array has items of 64 bits, int64 and uint64 are both fine)
        flags    SqeFlags of each operation: an int, or an array of uint8.  Allowed are FIXED_FILE
                 (then fds are indices of the registered files, which is a tenth faster for cached
                 4 KiB reads), ASYNC, IO_DRAIN, IO_LINK and IO_HARDLINK; a linked last one is linked
                 to what is queued next, whatever that is

        At least one must be an array, and all arrays of one length.  Fewer are queued when the
        submission queue or the capacity is full: the first ones, and items behind those are not
        looked at.  A wrong value among them is a ValueError that names it, and nothing is queued.

        Results: bytes read, 0 at the end of the file, below 0 -errno (Linux 5.6).
        """
        cdef batch_plan plan
        memset(&plan, 0, sizeof(plan))
        plan.opcode = URING_OP_READ
        return self.prep(&plan, fds, starts, lengths, offsets, tags, flags)

    def prep_write(self, fds, starts, lengths, offsets, *, tags=None, flags=0):
        """Queue a write for each item of the arrays (see prep_read).  Results: bytes written,
        which may be fewer than given, or -errno (Linux 5.6)."""
        cdef batch_plan plan
        memset(&plan, 0, sizeof(plan))
        plan.opcode = URING_OP_WRITE
        return self.prep(&plan, fds, starts, lengths, offsets, tags, flags)

    def prep_read_fixed(self, fds, starts, lengths, offsets, buf_index=None, *, tags=None, flags=0):
        """prep_read into memory that is registered (Linux 5.1), which is a tenth faster, too.

        buf_index is the place in the ring's table of registered buffers, within which all of the
        queue's memory must lie.  A queue whose memory is a RegisteredBuffer needs none.
        """
        cdef batch_plan plan
        memset(&plan, 0, sizeof(plan))
        plan.opcode = URING_OP_READ_FIXED
        plan.buf_index = self.registered(buf_index)
        return self.prep(&plan, fds, starts, lengths, offsets, tags, flags)

    def prep_write_fixed(self, fds, starts, lengths, offsets, buf_index=None, *, tags=None,
                         flags=0):
        """prep_write from memory that is registered (Linux 5.1; see prep_read_fixed)."""
        cdef batch_plan plan
        memset(&plan, 0, sizeof(plan))
        plan.opcode = URING_OP_WRITE_FIXED
        plan.buf_index = self.registered(buf_index)
        return self.prep(&plan, fds, starts, lengths, offsets, tags, flags)

    cdef int registered(self, object buf_index) except -1:
        cdef Ring ring = self.ring()
        cdef Py_ssize_t number = 0 if buf_index is None else buf_index
        cdef RegisteredBuffer found
        self.need_memory()
        found = registered_as(ring, self.memory) if buf_index is None else registered_at(
            ring, number)
        found.check_range(self.held.view.buf, self.held.view.len)
        return found.index

    def prep_recv(self, fds, starts, lengths, *, msg_flags=0, tags=None, flags=0):
        """Queue a receive from a socket for each item of the arrays (see prep_read).

        msg_flags are socket.MSG_* for all.  Results: bytes received, 0 at the end (Linux 5.6).
        """
        cdef batch_plan plan
        memset(&plan, 0, sizeof(plan))
        plan.opcode = URING_OP_RECV
        plan.op_flags = msg_flags
        return self.prep(&plan, fds, starts, lengths, 0, tags, flags)

    def prep_send(self, fds, starts, lengths, *, msg_flags=0, tags=None, flags=0):
        """Queue a send to a socket for each item of the arrays (see prep_read).

        msg_flags are socket.MSG_* for all; MSG_NOSIGNAL is implied.  Results: bytes sent, which
        may be fewer than given without MSG_WAITALL (Linux 5.6).
        """
        cdef batch_plan plan
        memset(&plan, 0, sizeof(plan))
        plan.opcode = URING_OP_SEND
        plan.op_flags = <uint32_t>msg_flags | MSG_NOSIGNAL
        return self.prep(&plan, fds, starts, lengths, 0, tags, flags)

    def cancel(self, tags=None):
        """Queue a cancel for each operation in flight, or for those with one of `tags` (an array
        of uint64).  Returns how many; fewer than there are when the submission queue is full.

        Their answers are not shown.  A cancelled operation completes like any other, usually with
        -ECANCELED; one that cannot be stopped with its own result (Linux 5.5).
        """
        cdef Arrays arrays
        cdef Ring ring
        cdef const uint64_t *wanted = NULL
        arrays.held = 0
        arrays.length = -1
        try:
            if tags is not None:
                wanted = <const uint64_t *>export_array(&arrays, tags, "tags", INT64, False)
            ring = self.ring()
            return self.queue_cancels(ring, wanted, arrays.length)
        finally:
            release_arrays(&arrays)

    cdef uint32_t queue_cancels(self, Ring ring, const uint64_t *tags, Py_ssize_t count) noexcept:
        cdef uint32_t i, queued = 0
        for i in range(self.b.capacity):
            if batch_in_flight(&self.b.slots[i]) and (
                    tags == NULL or is_among(self.b.slots[i].tag, tags, count)):
                if not ring.queue_cancel(self.b.slots[i].key, 0):
                    break
                queued += 1
        return queued

    # ---- completing ----------------------------------------------------------------------

    def complete(self, results, tags=None, *, wait_nr=0, timeout=None):
        """Take this queue's completions.  Returns how many: that many items were filled.

        results  a writable array of int32: what the operations came to, below 0 -errno
        tags     a writable array of uint64, as long: the tags of those operations
        wait_nr  wait until so many are there, or all that are in flight
        timeout  seconds to wait at most; then those that came in time are taken

        Completions come in any order.  Does not submit: what is only queued is waited for in
        vain.  While it waits the GIL is released, and signal handlers run; what one raises is
        raised, and no completion is lost.

        Raises OSError (EBUSY) when it waits and completions of others fill the completion queue:
        take those first, with copy_cqes().
        """
        return self.take(results, tags, wait_nr, timeout, False)

    def submit_and_complete(self, results, tags=None, *, wait_nr=0, timeout=None):
        """submit() and complete(), with one system call where nothing has to be waited for."""
        return self.take(results, tags, wait_nr, timeout, True)

    cdef object take(self, object results, object tags, object wait_nr, object timeout,
                     bint submit):
        cdef Arrays arrays
        cdef batch_results out
        cdef Ring ring
        cdef Py_ssize_t wanted = wait_nr
        cdef WaitLimits limits
        cdef bint entered = False
        arrays.held = 0
        arrays.length = -1
        memset(&out, 0, sizeof(out))
        try:
            out.results = <int32_t *>export_array(&arrays, results, "results", INT32, True)
            if tags is not None:
                out.tags = <uint64_t *>export_array(&arrays, tags, "tags", INT64, True)
            if not 0 <= wanted <= arrays.length:
                raise ValueError(f"wait_nr must be from 0 to {arrays.length}, the items of "
                                 f"results, not {wanted}")
            limits = until(NEVER if timeout is None else self.ring().deadline(timeout))
            out.room = <uint32_t>min(arrays.length, BATCH_MAX_CAPACITY)
            ring = self.ring()
            if submit and ring.enter(<uint32_t>wanted, &limits, self):
                entered = True
            elif wanted and not submit:
                ring.wait(0, <uint32_t>wanted, 0, &limits, self)
            self.gather(self.ring(), &out, entered)
            return out.taken
        finally:
            release_arrays(&arrays)

    cdef int gather(self, Ring ring, batch_results *out, bint entered) except -1:
        batch_unstore(&ring.batches, &self.b, out)
        self.gather_posted(ring, out)
        if out.taken == 0 and out.room and not entered and ring.must_enter():
            ring.fetch()
            self.gather_posted(ring, out)
        return 0

    cdef int gather_posted(self, Ring ring, batch_results *out) except -1:
        if ring.r.wide:
            ring.ready()  # stores them
            self.ring()   # that may have run any code
            batch_unstore(&ring.batches, &self.b, out)
        else:
            batch_gather(&ring.r, &ring.batches, &self.b, out)
        return 0

    # How many completions the kernel must have posted when a wait for `wait_nr` of ours is over;
    # 0 when it is.
    cdef uint32_t needed(self, Ring ring, uint32_t wait_nr) except? NO_SLOT:
        cdef uint32_t others
        wait_nr = min(wait_nr, self.b.in_flight + self.b.stored)
        if not ring.r.wide and (
                self.b.stored + batch_ready(&ring.r, &ring.batches, &self.b) >= wait_nr):
            return 0
        others = ring.ready()
        self.ring()  # that may have run any code
        wait_nr = min(wait_nr, self.b.in_flight + self.b.stored)
        if self.b.stored >= wait_nr:
            return 0
        check_room(ring, others)
        return others + wait_nr - self.b.stored

    # ---- the end -------------------------------------------------------------------------

    def close(self, timeout=5.0):
        """End the queue and let go of its memory.

        What was not submitted never begins; what is linked behind it gets -ECANCELED.  What is in
        flight is cancelled and waited for; when it has not ended after `timeout` seconds:
        TimeoutError, and the queue stays open.  With SQPOLL, and before Linux 6.0, that submits
        what else is queued on the ring.  Completions not taken are dropped.  Ring.close() ends its
        queues itself.

        Raises OSError (EBUSY) when completions of others fill the completion queue: take those
        first, with copy_cqes().
        """
        cdef Ring ring
        cdef uint32_t others
        cdef uring_timespec ts = timespec_of(timeout, "timeout")
        cdef int64_t left, end = fe_monotonic_ns() + ts.tv_sec * 1_000_000_000 + ts.tv_nsec
        if self.ring_object == NULL:
            return
        ring = <Ring>self.ring_object
        if ring.epoch != fork_epoch:
            return  # the parent's, whose memory it uses
        ring.check()
        ring.hidden += batch_withdraw(&ring.r, &ring.batches, &self.b, KEY_INTERNAL, KEY_NOWHERE)
        while True:
            others = ring.ready()
            self.ring()  # that may have run any code
            if self.b.in_flight == 0:
                break
            check_room(ring, others)
            left = end - fe_monotonic_ns()
            if left <= 0:
                raise TimeoutError(errno.ETIME, f"{self.b.in_flight} operations did not end "
                                   f"within {timeout} s")
            ring.await_events(self.cancel_all(ring), others + 1, left)
        ring.queues[self.number] = None
        self.detach(ring, False)

    # Cancel what is in flight; returns how many SQEs have to be submitted for that.
    cdef uint32_t cancel_all(self, Ring ring) noexcept:
        cdef uint32_t i
        cdef bint reached = True
        for i in range(self.b.capacity):
            if batch_in_flight(&self.b.slots[i]):
                reached = ring.cancel_outside(self.b.slots[i].key, 0) and reached
        if reached:
            return 0
        self.queue_cancels(ring, NULL, 0)
        return ring_flush(&ring.r)

    # The ring has nothing of this queue any more.  Memory that the kernel may still use is leaked:
    # its export never ends.
    cdef void detach(self, Ring ring, bint leak) noexcept:
        if leak and self.b.in_flight:
            self.held.exported = False
        batch_remove(&ring.batches, &self.b, self.number)
        self.ring_object = NULL
        self.release_memory()
        self.memory = None

    def __enter__(self):
        self.ring()
        return self

    def __exit__(self, *exc):
        self.close()

    def __repr__(self):
        if self.ring_object == NULL:
            return "<BatchQueue, closed>"
        return f"<BatchQueue capacity={self.b.capacity} in_flight={self.in_flight}>"


# Completions of a batch cannot come while others fill the completion queue.
cdef int check_room(Ring ring, uint32_t others) except -1:
    if others + ring.fillers >= ring.wait_limit():
        raise OSError(EBUSY, "the completion queue is full of completions that are not this "
                      "queue's: take some with copy_cqes")
    return 0


cdef bint is_among(uint64_t tag, const uint64_t *tags, Py_ssize_t count) noexcept:
    cdef Py_ssize_t i
    for i in range(count):
        if tags[i] == tag:
            return True
    return False


# Cython does not know of the exporter.
cdef traverseproc batch_base_traverse = (<PyTypeObject *>BatchQueue).tp_traverse


cdef int batch_traverse(PyObject *o, visitproc visit, void *arg) noexcept:
    cdef BatchMemory *held = &(<BatchQueue>o).held
    cdef int result
    if held.exported and fe_exporter(&held.view) != NULL:
        result = visit(fe_exporter(&held.view), arg)
        if result:
            return result
    return batch_base_traverse(o, visit, arg)


(<PyTypeObject *>BatchQueue).tp_traverse = <traverseproc>batch_traverse
