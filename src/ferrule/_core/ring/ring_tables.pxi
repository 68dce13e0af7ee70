# The kernel's tables of buffers and files that operations name by index.  FileTable and BufferPool,
# which hand out places in them, are in ring_pools.pxi.
#
# Registered buffers: the kernel pins the pages of a buffer once.  The ring's own list, in the order
# of the kernel's, holds a RegisteredBuffer for each place, and that holds the export.  An operation
# exports the memory once more for itself, so it does not matter to it when the place is emptied.

cdef enum:
    MAX_FILES = 1 << 20
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
    # The BufferPool that gets it back, or None: an object, for only then `view` is visited too.
    cdef object pool

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)

    # No longer in the table.
    cdef void retire(self) noexcept:
        cdef bint last
        with cython.critical_section(self):
            self.live = False
            last = self.exports == 0
        if last:
            self.let_go()

    cdef void let_go(self) noexcept:
        if self.held:
            self.held = False
            PyBuffer_Release(&self.view)
            if self.pool is not None:
                (<BufferPool>self.pool).take_back(self.index)

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
        with cython.critical_section(self):
            self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        cdef bint last
        with cython.critical_section(self):
            self.exports -= 1
            last = self.exports == 0 and not self.live
        if last:
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
    except (BufferError, ValueError):
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


# A pool's places are its own.
cdef int refuse_pooled(Ring ring, Py_ssize_t offset, Py_ssize_t count) except -1:
    for pool in ring.pools:
        if offset < pool.offset + pool.count and pool.offset < offset + count:
            raise ValueError(f"places {pool.offset} to {pool.offset + pool.count - 1} belong to a "
                             "BufferPool")
    return 0


cdef object failure(int err, str text):
    return OSError(err, f"{os.strerror(err)}: {text}")


cdef object memlock_error(bytes iovecs):
    cdef int64_t total = 0
    cdef iovec *pieces = <iovec *>PyBytes_AS_STRING(iovecs)
    cdef Py_ssize_t i
    for i in range(len(iovecs) // <Py_ssize_t>sizeof(iovec)):
        total += pieces[i].iov_len
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit == resource.RLIM_INFINITY:
        return failure(ENOMEM, f"{total} bytes were to be pinned")
    return failure(ENOMEM, f"{total} bytes were to be pinned, and RLIMIT_MEMLOCK allows this user "
                   f"{limit} for all rings together; raise it (`ulimit -l`), register less, or run "
                   "with CAP_IPC_LOCK")


cdef object buffers_error(int err, bytes iovecs=b"", Py_ssize_t done=0):
    cdef str note = f" (the first {done} were replaced)" if done else ""
    if err == ENOMEM:
        return memlock_error(iovecs)
    if err == EBUSY:
        text = ("this ring has registered buffers already: register_buffers_update() changes them, "
                "unregister_buffers() ends them")
    elif err == ENXIO:
        text = "no buffers are registered"
    elif err == EFAULT or err == EOPNOTSUPP:
        text = ("the kernel cannot pin a buffer: it must be private memory, or a shared mapping of "
                "tmpfs or hugetlbfs, that may be written to")
    else:
        return register_error(err, URING_REGISTER_BUFFERS)
    return failure(err, text + note)


# ---- tags --------------------------------------------------------------------------------------

# The kernel's numbers for `tags`, which the ring keeps until their completions have come; 0 where
# there is no tag.
cdef bytes number_tags(Ring ring, list tags, list present):
    cdef bytes block = zeroed(len(tags) * sizeof(uint64_t))
    cdef uint64_t *numbers = <uint64_t *>PyBytes_AS_STRING(block)
    cdef Py_ssize_t i
    if len(tags) != len(present):
        raise ValueError(f"{len(present)} places need as many tags, not {len(tags)}")
    for i in range(len(tags)):
        if tags[i] is not None and not present[i]:
            raise ValueError(f"tag {i} is for an empty place: give None")
    for i in range(len(tags)):
        if tags[i] is not None:
            numbers[i] = ring.next_tag
            ring.tags[ring.next_tag] = tags[i]
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


# Where in `block` its element `first` lies, for the kernel; 0 for no block.
cdef inline uint64_t address_of(bytes block, Py_ssize_t first, size_t size) noexcept:
    if block is None:
        return 0
    return <uint64_t><uintptr_t>(PyBytes_AS_STRING(block) + first * size)


cdef object files_error(int err, Py_ssize_t count, Py_ssize_t done=0):
    cdef str note = f" (the first {done} were replaced)" if done else ""
    if err == EBUSY:
        text = ("this ring has registered files already: register_files_update() changes them, "
                "unregister_files() ends them")
    elif err == ENXIO:
        text = "no files are registered"
    elif err == EBADF:
        text = "a file is not an open descriptor, or is itself an io_uring"
    elif err == EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        text = (f"{count} files are more than RLIMIT_NOFILE ({limit}) or the kernel ({MAX_FILES}) "
                "allows in a table; raise `ulimit -n`")
    else:
        return register_error(err, URING_REGISTER_FILES)
    return failure(err, text + note)


# ---- the calls -----------------------------------------------------------------------------------

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

    # Make the table of `iovecs`, which are those of `held`, or a pool's.
    cdef int new_buffers(self, bytes iovecs, list held, list tags, uint32_t flags) except -1:
        cdef Ring ring = <Ring>self
        cdef uring_rsrc_register new
        cdef bytes numbers = None
        cdef list table = [None] * len(held)
        cdef int result
        check_buffer_count(len(held))
        ring.check()
        if tags is None and flags == 0:
            result = self.change_table(URING_REGISTER_BUFFERS, PyBytes_AS_STRING(iovecs),
                                       <uint32_t>len(held))
        else:
            self.need_tags("registering buffers with tags")
            if tags is not None:
                numbers = number_tags(ring, tags, held)
            memset(&new, 0, sizeof(new))
            new.nr = <uint32_t>len(held)
            new.flags = flags
            new.data = address_of(iovecs, 0, 0)
            new.tags = address_of(numbers, 0, 0)
            result = self.change_table(URING_REGISTER_BUFFERS2, &new, sizeof(new))
        if result < 0:
            forget_tags(ring, numbers, 0)
            raise buffers_error(-result, b"" if iovecs is None else iovecs)
        swap_in(table, 0, held, len(held))
        ring.buffers = table
        return 0

    # Replace what is at `offset` and after it.  The kernel stops at the first that it refuses.
    cdef int put_buffers(self, Py_ssize_t offset, bytes iovecs, list held, list tags) except -1:
        cdef Ring ring = <Ring>self
        cdef uring_rsrc_update2 update
        cdef bytes numbers = None
        cdef Py_ssize_t done = 0, count = len(held)
        cdef int result = 0
        ring.check()
        self.need_tags("replacing registered buffers")
        if ring.buffers is None:
            raise buffers_error(ENXIO)
        if count == 0 or offset < 0 or offset + count > len(ring.buffers):
            raise ValueError(f"places {offset} to {offset + count - 1} are not all inside the "
                             f"{len(ring.buffers)} registered buffers")
        refuse_pooled(ring, offset, count)
        if tags is not None:
            numbers = number_tags(ring, tags, held)
        while done < count and result >= 0:
            memset(&update, 0, sizeof(update))
            update.offset = <uint32_t>(offset + done)
            update.nr = <uint32_t>(count - done)
            update.data = address_of(iovecs, done, sizeof(iovec))
            update.tags = address_of(numbers, done, sizeof(uint64_t))
            result = self.change_table(URING_REGISTER_BUFFERS_UPDATE, &update, sizeof(update))
            done += max(result, 0)
        swap_in(ring.buffers, offset, held, done)
        retire_all(held[:done])
        forget_tags(ring, numbers, done)
        if result < 0:
            raise buffers_error(-result, iovecs, done)
        return 0

    def register_buffers(self, buffers):
        """Pin buffers, so that operations on them (prep_read_fixed, ...) need not.

        buffers  bytes-like objects of 1 byte to 1 GiB each, at most 16384; None leaves a place
                 empty (Linux 5.13)
        returns  a RegisteredBuffer (or None) for each, to be given to the operations

        Each is exported until it is unregistered or replaced, or the ring closed, and no operation
        and no memoryview of its RegisteredBuffer is left.  From a read-only one (bytes) there can
        only be writes.  The memory counts against RLIMIT_MEMLOCK, but for users with CAP_IPC_LOCK.

        OSError: EBUSY, there is a table already; ENOMEM, beyond RLIMIT_MEMLOCK; EFAULT, memory that
        cannot be pinned for writing, such as a mapping of a file on disk.
        """
        cdef list held = hold_all(buffers)
        cdef list registered = list(held)
        self.new_buffers(iovecs_of(held), held, None, 0)
        return registered

    def register_buffers_tags(self, buffers, tags):
        """register_buffers, with a tag (any object, or None) for each place (Linux 5.13).

        When a tagged buffer has been unregistered or replaced, and the last operation on it has
        ended, a completion tells: `is_tag` is true, user_data the tag, res 0.
        """
        cdef list held = hold_all(buffers)
        cdef list registered = list(held)
        self.new_buffers(iovecs_of(held), held, list(tags), 0)
        return registered

    def register_buffers_sparse(self, Py_ssize_t count):
        """Make a table of `count` empty places (1 to 16384), to be filled by
        register_buffers_update (Linux 5.19)."""
        check_buffer_count(count)
        need(URING_OP_SOCKET, "register_buffers_sparse", "5.19")
        self.new_buffers(None, [None] * count, None, URING_RSRC_REGISTER_SPARSE)

    def register_buffers_update(self, Py_ssize_t offset, buffers):
        """Replace registered buffers from place `offset` on (None empties one; Linux 5.13).

        Returns a RegisteredBuffer (or None) for each.  Operations in flight go on with what they
        were given.  When one is refused, those before it have been replaced and the OSError says
        how many.
        """
        cdef list held = hold_all(buffers)
        cdef list registered = list(held)
        self.put_buffers(offset, iovecs_of(held), held, None)
        return registered

    def register_buffers_update_tag(self, Py_ssize_t offset, buffers, tags):
        """register_buffers_update, with a tag (any object, or None) for each place, as
        register_buffers_tags has them (Linux 5.13)."""
        cdef list held = hold_all(buffers)
        cdef list registered = list(held)
        self.put_buffers(offset, iovecs_of(held), held, list(tags))
        return registered

    def unregister_buffers(self):
        """Take the table down.  Operations in flight on its buffers go on; before Linux 6.13 this
        waits for them, with the GIL released.  Closes the ring's BufferPools."""
        cdef Ring ring = <Ring>self
        cdef int result = self.change_table(URING_UNREGISTER_BUFFERS, NULL, 0)
        if result < 0:
            raise buffers_error(-result)
        ring.drop_buffers()

    def register_clone_buffers(self, Ring source not None, *, Py_ssize_t dst_offset=0,
                               Py_ssize_t src_offset=0, count=None, unsigned int flags=0):
        """Register the buffers of another ring here too, without pinning them again (Linux 6.12).

        source      a ring of the same user and, with SINGLE_ISSUER, thread
        dst_offset, src_offset, count
                    a part of its table, to a place in this (Linux 6.13); default: all of it
        flags       CloneFlags: DST_REPLACE, this ring may have a table, in which places are
                    replaced (6.13); SRC_REGISTERED, `source` is named by its registered descriptor,
                    as it is anyway when it has no other
        returns     a RegisteredBuffer (or None) of this ring for each

        OSError: EBUSY, this ring has a table; ENXIO, the source has none.
        """
        cdef Ring ring = <Ring>self
        cdef uring_clone_buffers clone
        cdef list held, registered, table
        cdef Py_ssize_t number = -1 if count is None else count
        cdef int result
        ring.check()
        source.check()
        need(URING_OP_LISTEN, "register_clone_buffers", "6.12")
        if source.buffers is None:
            raise failure(ENXIO, "the source ring has no registered buffers")
        if number == -1:
            number = len(source.buffers) - src_offset
        if src_offset < 0 or number < 1 or src_offset + number > len(source.buffers):
            raise ValueError(f"src_offset and count go beyond the {len(source.buffers)} buffers of "
                             "the source ring")
        if dst_offset < 0 or dst_offset + number > MAX_BUFFERS:
            raise ValueError(f"dst_offset + count must be from 1 to {MAX_BUFFERS}")
        refuse_pooled(ring, dst_offset, number)
        held = hold_all(source.buffers[src_offset:src_offset + number])
        registered = list(held)
        table = [None] * max(dst_offset + number, 0 if ring.buffers is None else len(ring.buffers))
        memset(&clone, 0, sizeof(clone))
        clone.src_fd = <uint32_t>source.r.fd
        if source.r.fd < 0:
            flags |= URING_REGISTER_SRC_REGISTERED
        if flags & URING_REGISTER_SRC_REGISTERED:
            if not source.r.enter_flags & URING_ENTER_REGISTERED_RING:
                raise ValueError("the source ring has no registered descriptor: "
                                 "register_ring_fd() makes one")
            clone.src_fd = <uint32_t>source.r.enter_fd
        clone.flags = flags
        # Linux 6.12 knows only whole tables, and wants zeros there.
        if src_offset or dst_offset or number != len(source.buffers):
            clone.src_off = <uint32_t>src_offset
            clone.dst_off = <uint32_t>dst_offset
            clone.nr = <uint32_t>number
        result = self.change_table(URING_REGISTER_CLONE_BUFFERS, &clone, 1)
        if result < 0:
            raise buffers_error(-result)
        if ring.buffers is not None:
            swap_in(table, 0, ring.buffers, len(ring.buffers))
        swap_in(table, dst_offset, held, number)
        ring.buffers = table
        retire_all(held)
        return registered

    def register_buffer_pool(self, Py_ssize_t count, Py_ssize_t size, offset=None):
        """Register `count` buffers of `size` bytes each, of the ring's own memory: a BufferPool.

        offset  where, in a table that is there already (Linux 5.13); None makes the table
        """
        cdef Ring ring = <Ring>self
        cdef BufferPool pool
        check_buffer_count(count)
        if not 1 <= size <= MAX_BUFFER_SIZE:
            raise ValueError(f"size must be from 1 byte to 1 GiB, not {size}")
        pool = BufferPool.__new__(BufferPool)
        pool.allocate(<uint32_t>count, size, 0 if offset is None else offset)
        if offset is None:
            self.new_buffers(pool.iovecs(), [None] * count, None, 0)
        else:
            self.put_buffers(pool.offset, pool.iovecs(), [None] * count, None)
        pool.whole = offset is None
        pool.ring_object = <PyObject *>ring
        ring.pools.append(pool)
        return pool

    # ---- files ---------------------------------------------------------------------------

    cdef int new_files(self, list numbers, Py_ssize_t count, list tags) except -1:
        cdef uring_rsrc_register new
        cdef bytes block = None if numbers is None else descriptors(numbers)
        cdef bytes tag_numbers = None
        cdef int result
        (<Ring>self).check()
        if count == 0:
            raise ValueError("a table needs at least one place")
        if tags is None and block is not None:
            result = self.change_table(URING_REGISTER_FILES, PyBytes_AS_STRING(block),
                                       <uint32_t>count)
        else:
            self.need_tags("registering files with tags")
            memset(&new, 0, sizeof(new))
            new.nr = <uint32_t>count
            if block is None:
                new.flags = URING_RSRC_REGISTER_SPARSE
            else:
                tag_numbers = number_tags(<Ring>self, tags, [number >= 0 for number in numbers])
            new.data = address_of(block, 0, 0)
            new.tags = address_of(tag_numbers, 0, 0)
            result = self.change_table(URING_REGISTER_FILES2, &new, sizeof(new))
        if result < 0:
            forget_tags(<Ring>self, tag_numbers, 0)
            raise files_error(-result, count)
        return 0

    # Replace what is at `offset` and after it.  The kernel stops at the first that it refuses.
    cdef int put_files(self, Py_ssize_t offset, list numbers, list tags) except -1:
        cdef Ring ring = <Ring>self
        cdef uring_rsrc_update2 update
        cdef bytes block = descriptors(numbers)
        cdef bytes tag_numbers = None
        cdef Py_ssize_t done = 0, count = len(numbers)
        cdef int result = 0
        ring.check()
        if count == 0 or not 0 <= offset <= MAX_FILES - count:
            raise ValueError(f"no files, or an offset that no table has: {offset}")
        if tags is not None:
            self.need_tags("register_files_update_tag")
            tag_numbers = number_tags(ring, tags, [number >= 0 for number in numbers])
        while done < count and result >= 0:
            memset(&update, 0, sizeof(update))
            update.offset = <uint32_t>(offset + done)
            update.nr = <uint32_t>(count - done)
            update.data = address_of(block, done, sizeof(int))
            update.tags = address_of(tag_numbers, done, sizeof(uint64_t))
            if tags is None:
                # The same fields as far as this call reads.
                result = ring_register(&ring.r, URING_REGISTER_FILES_UPDATE, &update, update.nr)
            else:
                result = ring_register(
                    &ring.r, URING_REGISTER_FILES_UPDATE2, &update, sizeof(update))
            done += max(result, 0)
        if ring.table is not None:
            ring.table.note_update(<uint32_t>offset, <int *>PyBytes_AS_STRING(block), done)
            if result == -EBADF:
                ring.table.note_emptied(<uint32_t>(offset + done))
        forget_tags(ring, tag_numbers, done)
        if result < 0:
            raise files_error(-result, count, done)
        return <int>done

    def register_files(self, files):
        """Register descriptors (objects with fileno() too; -1 leaves a place empty).

        Operations then name them by index, after use_registered_fd(), without a look-up each.  The
        kernel keeps the files open, whatever becomes of the descriptors.

        OSError: EBUSY, there is a table already; EMFILE, more than RLIMIT_NOFILE; EBADF.
        """
        cdef list numbers = [registered_fd(file) for file in files]
        self.new_files(numbers, len(numbers), None)

    def register_files_tags(self, files, tags):
        """register_files, with a tag (any object, or None) for each place (Linux 5.13).

        When a tagged file has been unregistered or replaced, and the last operation on it has
        ended, a completion tells: `is_tag` is true, user_data the tag, res 0.
        """
        cdef list numbers = [registered_fd(file) for file in files]
        self.new_files(numbers, len(numbers), list(tags))

    def register_files_sparse(self, Py_ssize_t count):
        """Make a table of `count` empty places, up to RLIMIT_NOFILE and 1048576.

        See register_file_table for a table that knows which of its places are in use.
        """
        if not 1 <= count <= MAX_FILES:
            raise ValueError(f"count must be from 1 to {MAX_FILES}, not {count}")
        # Before Linux 5.19 by a list of nothings.
        self.new_files(None if kernel_has[URING_OP_SOCKET] else [-1] * count, count, None)

    def register_files_update(self, Py_ssize_t offset, files):
        """Replace registered files from place `offset` on; returns how many (Linux 5.5).

        files  descriptors, objects with fileno(), -1 to empty a place, or REGISTER_FILES_SKIP to
               leave one as it is (5.12)

        Operations in flight go on with the file they were given.  When one is refused, those before
        it have been replaced and the OSError says how many; with EBADF its own place is empty.
        """
        return self.put_files(offset, [registered_fd(file) for file in files], None)

    def register_files_update_tag(self, Py_ssize_t offset, files, tags):
        """register_files_update, with a tag (any object, or None) for each place, as
        register_files_tags has them (Linux 5.13)."""
        return self.put_files(offset, [registered_fd(file) for file in files], list(tags))

    def unregister_files(self):
        """Take the table down.  Operations in flight on its files go on; before Linux 6.13 this
        waits for them, with the GIL released."""
        cdef Ring ring = <Ring>self
        cdef int result = self.change_table(URING_UNREGISTER_FILES, NULL, 0)
        if result < 0:
            raise files_error(-result, 0)
        ring.drop_files()

    def register_file_alloc_range(self, unsigned int offset, unsigned int length):
        """Let FILE_INDEX_ALLOC pick only places from `offset` on, `length` of them (Linux 6.0).

        ValueError when they are not all inside the table.
        """
        cdef Ring ring = <Ring>self
        cdef uring_file_index_range places
        need(URING_OP_SEND_ZC, "register_file_alloc_range", "6.0")
        memset(&places, 0, sizeof(places))
        places.off = offset
        places.len = length
        ring.check()
        cdef int result = ring_register(&ring.r, URING_REGISTER_FILE_ALLOC_RANGE, &places, 0)
        if result == -EINVAL or result == -EOVERFLOW:
            raise ValueError(f"{length} places from {offset} on are not all inside a table")
        if result < 0:
            raise files_error(-result, length)
        if ring.table is not None:
            ring.table.leave_to_kernel(range(offset, offset + length))

    def register_file_table(self, Py_ssize_t size, Py_ssize_t kernel_slots=0):
        """Make a table of `size` empty slots that knows which are in use: a FileTable.

        kernel_slots  how many, at its end, are for operations with FILE_INDEX_ALLOC to pick from
                      (Linux 6.0; before that, all of them, and the others may collide with them)
        """
        cdef Ring ring = <Ring>self
        cdef FileTable table
        if not 0 <= kernel_slots <= size:
            raise ValueError(f"kernel_slots must be from 0 to {size}, not {kernel_slots}")
        if not 1 <= size <= MAX_FILES:
            raise ValueError(f"size must be from 1 to {MAX_FILES}, not {size}")
        table = FileTable.__new__(FileTable)
        table.allocate_slots(<uint32_t>size)
        self.register_files_sparse(size)
        try:
            if kernel_has[URING_OP_SEND_ZC]:
                self.register_file_alloc_range(<uint32_t>(size - kernel_slots),
                                               <uint32_t>kernel_slots)
        except BaseException:
            self.unregister_files()
            raise
        table.leave_to_kernel(range(size - kernel_slots, size))
        table.ring_object = <PyObject *>ring
        ring.table = table
        return table
