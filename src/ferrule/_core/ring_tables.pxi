# The kernel's tables of buffers and files that operations name by index.
#
# Registered buffers: the kernel pins the pages of a buffer once.  The ring's own list, in the order
# of the kernel's, holds a RegisteredBuffer for each place, and that holds the export.  An operation
# exports the memory once more for itself, so it does not matter to it when the place is emptied.

cdef enum:
    MAX_BUFFERS = 1 << 14
    MAX_BUFFER_SIZE = 1 << 30
    NO_RESULT = -0x10000


@cython.no_gc_clear      # it would drop the exporter without releasing the export
cdef class RegisteredBuffer:
    """One place in a ring's table of registered buffers; made by Ring.register_buffers and so on.

    It, a memoryview of it, or a slice (`buffer[100:200]`, which is such a memoryview) can be given
    to prep_read_fixed and its like, which then need no index.  It reads and writes like a
    memoryview of the buffer that was registered.

    Its buffer is exported (a bytearray cannot be resized) until the place is emptied, replaced, or
    the ring closed, and every operation and memoryview on it has ended.
    """
    cdef Py_buffer view
    cdef readonly uint32_t index
    cdef bint live           # in the ring's table
    cdef bint held           # view is an export
    cdef Py_ssize_t exports

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)

    # No longer in the table.
    cdef void retire(self) noexcept:
        self.live = False
        if self.exports == 0:
            self.let_go()

    cdef void let_go(self) noexcept:
        if self.held:
            self.held = False
            PyBuffer_Release(&self.view)

    cdef inline int check_range(self, const void *start, Py_ssize_t size) except -1:
        cdef Py_ssize_t offset = <const char *>start - <const char *>self.view.buf
        if offset < 0 or offset > self.view.len or size > self.view.len - offset:
            raise ValueError(f"the memory given does not lie inside registered buffer {self.index}")
        return 0

    @property
    def registered(self):
        """Whether it is still in its ring's table."""
        return self.live

    def __getbuffer__(self, Py_buffer *view, int flags):
        if not self.live:
            raise ValueError(f"buffer {self.index} is no longer registered")
        PyBuffer_FillInfo(view, self, self.view.buf, self.view.len, self.view.readonly, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1
        if self.exports == 0 and not self.live:
            self.let_go()

    def __len__(self):
        return self.view.len

    def __getitem__(self, where):
        return memoryview(self)[where]

    def __setitem__(self, where, value):
        memoryview(self)[where] = value

    def __repr__(self):
        return (f"<RegisteredBuffer {self.index}: {self.view.len} bytes"
                f"{'' if self.live else ', unregistered'}>")


# ---- using registered buffers ----------------------------------------------------------------

# What is registered at `index`, borrowed from the ring's table for as long as that does not change.
cdef RegisteredBuffer registered_at(Ring ring, Py_ssize_t index):
    if ring.buffers is None:
        raise ValueError("this ring has no registered buffers")
    if not 0 <= index < len(ring.buffers):
        raise ValueError(f"index {index} is outside the {len(ring.buffers)} registered buffers")
    found = ring.buffers[index]
    if found is None:
        raise ValueError(f"registered buffer {index} is empty")
    return found


# What a buffer that knows its own index is registered as.
cdef RegisteredBuffer registered_as(Ring ring, object buffer):
    cdef object base = buffer
    if PyMemoryView_Check(buffer):
        base = <object>fe_memoryview_base(buffer)
    if not isinstance(base, RegisteredBuffer):
        raise TypeError(
            f"buf_index is needed: a {type(buffer).__name__!r} is no RegisteredBuffer")
    cdef RegisteredBuffer registered = base
    if (not registered.live or ring.buffers is None
            or registered.index >= <uint32_t>len(ring.buffers)
            or ring.buffers[registered.index] is not registered):
        raise ValueError(f"registered buffer {registered.index} belongs to another ring")
    return registered


# Export `buffer` into *view, for an operation on registered buffer `index` (None: the buffer says
# it itself).  It must lie inside that; returns what is registered there.  The export is what keeps
# the memory: give it to begin_with().
cdef RegisteredBuffer export_fixed(Ring ring, object buffer, object index, Py_buffer *view,
                                   bint writable):
    cdef RegisteredBuffer registered
    cdef Py_ssize_t number = 0
    if index is not None:
        number = index
    export_buffer(buffer, view, writable)
    try:
        registered = registered_as(ring, buffer) if index is None else registered_at(ring, number)
        registered.check_range(view.buf, view.len)
    except BaseException:
        PyBuffer_Release(view)
        raise
    return registered


# The same for several buffers inside one registered buffer, as export_all().
cdef Py_buffer *export_all_fixed(Ring ring, list buffers, object index, iovec *iovecs,
                                 bint writable, uint16_t *buf_index) except NULL:
    cdef RegisteredBuffer registered
    cdef Py_ssize_t i, number = 0
    cdef Py_buffer *views
    if not buffers:
        raise ValueError("no buffers given")
    if index is not None:
        number = index
    views = export_all(buffers, iovecs, writable)
    try:
        registered = (registered_as(ring, buffers[0]) if index is None
                      else registered_at(ring, number))
        for i in range(len(buffers)):
            registered.check_range(views[i].buf, views[i].len)
    except BaseException:
        release_views(views, <uint32_t>len(buffers))
        raise
    buf_index[0] = <uint16_t>registered.index
    return views


# ---- registering -----------------------------------------------------------------------------

cdef RegisteredBuffer hold(object buffer, Py_ssize_t place):
    cdef RegisteredBuffer held = RegisteredBuffer.__new__(RegisteredBuffer)
    if not PyObject_CheckBuffer(buffer):
        raise TypeError(f"buffer {place} must be a bytes-like object or None, not "
                        f"{type(buffer).__name__!r}")
    try:
        PyObject_GetBuffer(buffer, &held.view, PyBUF_WRITABLE)
    except BufferError:
        PyObject_GetBuffer(buffer, &held.view, PyBUF_SIMPLE)
        held.view.readonly = True
    held.held = True
    if held.view.len == 0:
        raise ValueError(f"buffer {place} is empty; None leaves its place empty")
    if held.view.len > MAX_BUFFER_SIZE:
        raise ValueError(f"buffer {place} has {held.view.len} bytes; at most 1 GiB (2**30) can be "
                         "registered as one buffer")
    return held


cdef list hold_all(object buffers):
    return [None if buffer is None else hold(buffer, i) for i, buffer in enumerate(buffers)]


cdef int check_buffer_count(Py_ssize_t count) except -1:
    if not 1 <= count <= MAX_BUFFERS:
        raise ValueError(f"a ring can register from 1 to {MAX_BUFFERS} buffers, not {count}")
    return 0


cdef bytes iovecs_of(list held):
    cdef bytes block = zeroed(len(held) * sizeof(iovec))
    cdef iovec *iovecs = <iovec *>PyBytes_AS_STRING(block)
    cdef Py_ssize_t i
    for i in range(len(held)):
        if held[i] is not None:
            iovecs[i].iov_base = (<RegisteredBuffer>held[i]).view.buf
            iovecs[i].iov_len = (<RegisteredBuffer>held[i]).view.len
    return block


# The kernel has taken `count` of `held` from `offset` on; afterwards `held` has what was there.
cdef void swap_in(list table, Py_ssize_t offset, list held, Py_ssize_t count):
    cdef Py_ssize_t i
    cdef RegisteredBuffer registered
    for i in range(count):
        registered = held[i]
        held[i] = table[offset + i]
        table[offset + i] = registered
        if registered is not None:
            registered.index = <uint32_t>(offset + i)
            registered.live = True


# The end of an export may run any code: it comes last.
cdef void retire_all(list table):
    for registered in table:
        if registered is not None:
            (<RegisteredBuffer>registered).retire()


# ---- tags --------------------------------------------------------------------------------------

# The kernel's numbers for `tags`, which the ring keeps until their completions have come; 0 where
# there is no tag.
cdef bytes number_tags(Ring ring, object tags, list present):
    cdef list given = list(tags)
    cdef bytes block = zeroed(len(given) * sizeof(uint64_t))
    cdef uint64_t *numbers = <uint64_t *>PyBytes_AS_STRING(block)
    cdef Py_ssize_t i
    if len(given) != len(present):
        raise ValueError(f"{len(present)} places need as many tags, not {len(given)}")
    for i in range(len(given)):
        if given[i] is not None and not present[i]:
            raise ValueError(f"tag {i} is for an empty place: give None")
    for i in range(len(given)):
        if given[i] is not None:
            numbers[i] = ring.next_tag
            ring.tags[ring.next_tag] = given[i]
            ring.next_tag = TAG_BIT | (ring.next_tag + 1)
    return block


# The kernel did not take those from `first` on.
cdef int forget_tags(Ring ring, bytes block, Py_ssize_t first) except -1:
    cdef uint64_t *numbers
    cdef Py_ssize_t i
    if block is not None:
        numbers = <uint64_t *>PyBytes_AS_STRING(block)
        for i in range(first, len(block) // <Py_ssize_t>sizeof(uint64_t)):
            if numbers[i]:
                ring.tags.pop(numbers[i], None)
    return 0


cdef inline uint64_t address_of(bytes block) noexcept:
    return 0 if block is None else <uint64_t><uintptr_t>PyBytes_AS_STRING(block)


cdef object memlock_error(list held):
    cdef int64_t total = 0
    for registered in held:
        if registered is not None:
            total += (<RegisteredBuffer>registered).view.len
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit == resource.RLIM_INFINITY:
        return OSError(ENOMEM, f"not enough memory to pin {total} bytes")
    return OSError(ENOMEM, f"cannot pin {total} bytes: RLIMIT_MEMLOCK allows this user {limit} "
                   "bytes for all rings together; raise it (`ulimit -l`), register less, or run "
                   "with CAP_IPC_LOCK")


cdef object buffers_error(int err, list held):
    if err == ENOMEM:
        return memlock_error(held)
    if err == EBUSY:
        text = ("this ring has registered buffers already: register_buffers_update() changes them, "
                "unregister_buffers() ends them")
    elif err == ENXIO:
        text = "this ring has no registered buffers"
    elif err == EFAULT or err == EOPNOTSUPP:
        text = ("the kernel cannot pin one of the buffers: it must be private memory, or a shared "
                "mapping of tmpfs or hugetlbfs, that may be written to")
    else:
        return register_error(err, URING_REGISTER_BUFFERS)
    return OSError(err, text)


cdef class TableRegistrations(SystemOperations):
    """Registering files and buffers that operations name by index."""

    cdef int register(self, uint32_t opcode, void *arg, uint32_t count) except -1:
        cdef Ring ring = <Ring>self
        cdef int result
        ring.check()
        result = ring_register(&ring.r, opcode, arg, count)
        if result < 0:
            raise register_error(-result, opcode)
        return result

    # Returns the kernel's answer.  Pinning memory takes its time, and before Linux 6.13 taking a
    # table down waits for the operations on it: the GIL is released.
    cdef int change_table(self, uint32_t opcode, void *arg, uint32_t count) except? NO_RESULT:
        cdef Ring ring = <Ring>self
        cdef int result = -EINTR
        ring.check()
        if ring.changing:
            raise RuntimeError("another thread is changing this ring's tables")
        ring.changing = True
        try:
            while result == -EINTR:
                ring.waiters += 1
                with nogil:
                    result = ring_register(&ring.r, opcode, arg, count)
                ring.waiters -= 1
                if result == -EINTR:
                    PyErr_CheckSignals()
                    ring.check()
        finally:
            ring.changing = False
        return result

    cdef int need_tags(self, str what) except -1:
        if not (<Ring>self).r.features & URING_FEAT_RSRC_TAGS:
            raise lacking(what, "5.13")
        return 0

    # ---- buffers -------------------------------------------------------------------------

    cdef list new_buffers(self, list held, object tags):
        cdef Ring ring = <Ring>self
        cdef uring_rsrc_register new
        cdef bytes iovecs, numbers = None
        cdef list table = [None] * len(held)
        cdef list registered = list(held)
        cdef int result
        check_buffer_count(len(held))
        iovecs = iovecs_of(held)
        if tags is None:
            result = self.change_table(URING_REGISTER_BUFFERS, PyBytes_AS_STRING(iovecs),
                                       <uint32_t>len(held))
        else:
            self.need_tags("register_buffers_tags")
            numbers = number_tags(ring, tags, held)
            memset(&new, 0, sizeof(new))
            new.nr = <uint32_t>len(held)
            new.data = address_of(iovecs)
            new.tags = address_of(numbers)
            result = self.change_table(URING_REGISTER_BUFFERS2, &new, sizeof(new))
        if result < 0:
            forget_tags(ring, numbers, 0)
            raise buffers_error(-result, held)
        swap_in(table, 0, held, len(held))
        ring.buffers = table
        return registered

    def register_buffers(self, buffers):
        """Pin buffers, so that operations on them (prep_read_fixed, ...) need not.

        buffers  bytes-like objects of 1 byte to 1 GiB each, at most 16384; None leaves a place
                 empty (Linux 5.13)
        returns  a RegisteredBuffer (or None) for each, to be given to the operations

        Each is exported until it is unregistered, the ring is closed, and no operation uses it.
        Of a read-only one (bytes) only writes can be made.  The memory counts against
        RLIMIT_MEMLOCK of users without CAP_IPC_LOCK: OSError(ENOMEM) says so.
        """
        return self.new_buffers(hold_all(buffers), None)

    def register_buffers_tags(self, buffers, tags):
        """register_buffers, with a tag (any object, None for none) for each place (Linux 5.13).

        When a tagged buffer has been unregistered or replaced, and the last operation on it has
        ended, a completion comes: its user_data is the tag, `is_tag` true, res 0.
        """
        return self.new_buffers(hold_all(buffers), list(tags))

    def unregister_buffers(self):
        """Empty the table.  Operations in flight on its buffers go on (before Linux 6.13 this waits
        for them, with the GIL released)."""
        cdef Ring ring = <Ring>self
        cdef int result = self.change_table(URING_UNREGISTER_BUFFERS, NULL, 0)
        cdef list table = ring.buffers
        if result < 0:
            raise buffers_error(-result, [])
        ring.buffers = None
        if table is not None:
            retire_all(table)

    # ---- files ---------------------------------------------------------------------------

    def register_files(self, files):
        """Register descriptors (objects with fileno() too; -1 leaves a place empty).

        Operations then name them by index, after use_registered_fd(), without a look-up each.
        """
        cdef list numbers = [registered_fd(file) for file in files]
        cdef bytes block = descriptors(numbers)
        self.register(URING_REGISTER_FILES, PyBytes_AS_STRING(block), len(numbers))

    def unregister_files(self):
        """Forget the registered files.  Operations in flight on them go on."""
        self.register(URING_UNREGISTER_FILES, NULL, 0)

    def register_files_update(self, unsigned int offset, files):
        """Replace registered files from `offset` on (-1 empties a place); returns how many."""
        cdef uring_rsrc_update update
        cdef list numbers = [registered_fd(file) for file in files]
        cdef bytes block = descriptors(numbers)
        memset(&update, 0, sizeof(update))
        update.offset = offset
        update.data = <uint64_t><uintptr_t>PyBytes_AS_STRING(block)
        return self.register(URING_REGISTER_FILES_UPDATE, &update, len(numbers))
