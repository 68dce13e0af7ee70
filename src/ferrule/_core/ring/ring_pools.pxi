# Who has which place in the tables: BufferPool hands out registered buffers, FileTable slots.


class BufferPoolEmpty(RuntimeError):
    """Every buffer of the pool is in use: wait for a completion, release one, and try again."""
    __module__ = "ferrule.ring"


# Memory of our own.  A forked child gets zeros in its place: it could not write to the pages that
# the kernel works on, and what it reads there would be half-done.
@cython.final
cdef class _Pages:
    cdef char *memory
    cdef size_t size

    cdef int allocate(self, size_t size) except -1:
        cdef void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                                 -1, 0)
        if memory == MAP_FAILED:
            raise MemoryError(f"cannot map {size} bytes for buffers")
        madvise(memory, size, MADV_WIPEONFORK)
        self.memory = <char *>memory
        self.size = size
        return 0

    def __dealloc__(self):
        if self.memory != NULL:
            munmap(self.memory, self.size)


@cython.final
@cython.no_gc_clear
cdef class PooledBuffer(RegisteredBuffer):
    """A buffer of a BufferPool, acquired: a RegisteredBuffer to give back with release(), or by
    using it as a context manager."""

    def release(self):
        """Give it back.  The pool hands it out again when every operation and memoryview on it has
        ended.  ValueError when it was given back already, or the pool closed."""
        if not self.live:
            raise ValueError(f"buffer {self.index} was given back already, or its pool closed")
        cdef Ring ring = (<BufferPool>self.pool).ring()
        ring.buffers[self.index] = None
        self.retire()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.live and not (<BufferPool>self.pool).inherited():
            self.release()


@cython.final
@cython.no_gc            # nothing that it holds can lead back to it
cdef class BufferPool:
    """Registered buffers of one size, to be acquired and given back; made by
    Ring.register_buffer_pool.

    The memory is the pool's own, each buffer on pages of its own (as O_DIRECT wants it), pinned
    once.  It outlives close() for as long as an operation or a memoryview may use it.  In a forked
    child it is zeros.

    A buffer is handed out again only when it has been given back and every operation and memoryview
    on it has ended.  When there is none acquire() raises BufferPoolEmpty: that is the time to take
    completions.
    """
    cdef PyObject *ring_object       # borrowed; NULL once closed
    cdef _Pages pages
    cdef uint32_t *free_places
    cdef uint32_t free_count
    cdef size_t stride
    cdef bint whole                  # it made the ring's table
    cdef readonly uint32_t count
    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t offset

    def __dealloc__(self):
        PyMem_Free(self.free_places)

    cdef int allocate(self, uint32_t count, Py_ssize_t size, Py_ssize_t offset) except -1:
        cdef size_t page = resource.getpagesize()
        cdef uint32_t i
        self.count = count
        self.size = size
        self.offset = offset
        self.stride = (<size_t>size + page - 1) // page * page
        self.pages = _Pages.__new__(_Pages)
        self.pages.allocate(count * self.stride)
        self.free_places = <uint32_t *>PyMem_Calloc(count, sizeof(uint32_t))
        if self.free_places == NULL:
            raise MemoryError
        # The first is handed out first.
        for i in range(count):
            self.free_places[i] = count - 1 - i
        self.free_count = count
        return 0

    cdef bytes iovecs(self):
        cdef bytes block = zeroed(self.count * sizeof(iovec))
        cdef iovec *pieces = <iovec *>PyBytes_AS_STRING(block)
        cdef uint32_t i
        for i in range(self.count):
            pieces[i].iov_base = self.pages.memory + i * self.stride
            pieces[i].iov_len = self.size
        return block

    cdef Ring ring(self):
        if self.ring_object == NULL:
            raise ValueError("operation on a closed buffer pool")
        cdef Ring owner = <Ring>self.ring_object
        owner.check()
        return owner

    # In a forked child there is nothing to give back.
    cdef bint inherited(self) noexcept:
        return self.ring_object != NULL and (<Ring>self.ring_object).epoch != fork_epoch

    cdef void take_back(self, uint32_t index) noexcept:
        with cython.critical_section(self):
            self.free_places[self.free_count] = index - <uint32_t>self.offset
            self.free_count += 1

    def acquire(self):
        """A free buffer, a PooledBuffer; its content is what it was.  BufferPoolEmpty if there is
        none."""
        cdef PooledBuffer buffer = PooledBuffer.__new__(PooledBuffer)
        cdef Ring ring = self.ring()
        cdef uint32_t place
        with cython.critical_section(self):
            if self.free_count == 0:
                raise BufferPoolEmpty(f"all {self.count} buffers are in use")
            self.free_count -= 1
            place = self.free_places[self.free_count]
        PyBuffer_FillInfo(&buffer.view, self.pages, self.pages.memory + place * self.stride,
                          self.size, False, PyBUF_SIMPLE)
        buffer.index = <uint32_t>self.offset + place
        buffer.pool = self
        buffer.held = buffer.live = True
        ring.buffers[buffer.index] = buffer
        return buffer

    def available(self):
        """How many buffers can be acquired now."""
        return self.free_count

    @property
    def closed(self):
        return self.ring_object == NULL

    def close(self):
        """Unregister the buffers: the table, if the pool made it, or its places.  Operations in
        flight go on.  Closing twice is fine."""
        cdef Ring ring
        if self.ring_object == NULL or self.inherited():
            return
        ring = self.ring()
        if self.whole:
            ring.unregister_buffers()
            return
        ring.pools.remove(self)
        try:
            ring.put_buffers(self.offset, zeroed(self.count * sizeof(iovec)), [None] * self.count,
                             None)
        except BaseException:
            ring.pools.append(self)
            raise
        self.ring_object = NULL

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __len__(self):
        return self.count

    def __repr__(self):
        return (f"<BufferPool: {self.free_count} of {self.count} x {self.size} bytes free"
                f"{', closed' if self.ring_object == NULL else ''}>")


# A slot of a FileTable.
cdef enum:
    SLOT_FREE = 0
    SLOT_RESERVED = 1      # allocate()
    SLOT_FILLED = 2


@cython.final
@cython.no_gc            # nothing that it holds can lead back to it
cdef class FileTable:
    """A ring's table of files, and who uses which of its slots; made by Ring.register_file_table.

    A slot is used like a descriptor: give its number to an operation, and call use_registered_fd()
    on that.  Ways into the table:

    install(file)   registers an open file in a free slot
    allocate()      reserves a slot for a prep_..._direct, until close() or free()
    FILE_INDEX_ALLOC
                    lets the kernel pick one of those in `kernel_slots`; it is the completion's res

    The table follows the completions of its ring's operations (opens, accepts, closes, ...), so
    they must be taken for it to be up to date.  Iteration, `in` and len() are about slots in use.
    """
    cdef PyObject *ring_object       # borrowed; NULL once unregistered
    cdef uint8_t *slots
    cdef uint32_t used
    cdef uint32_t hint               # no free slot is before it
    cdef object picked               # a range: the kernel's, for FILE_INDEX_ALLOC
    cdef readonly uint32_t size

    def __dealloc__(self):
        PyMem_Free(self.slots)

    cdef int allocate_slots(self, uint32_t size) except -1:
        self.size = size
        self.slots = <uint8_t *>PyMem_Calloc(size, 1)
        if self.slots == NULL:
            raise MemoryError
        return 0

    cdef Ring ring(self):
        if self.ring_object == NULL:
            raise ValueError("operation on an unregistered file table")
        cdef Ring owner = <Ring>self.ring_object
        owner.check()
        return owner

    cdef void become(self, uint32_t slot, uint8_t state) noexcept:
        if slot < self.size:
            self.used += (state != SLOT_FREE) - <int>(self.slots[slot] != SLOT_FREE)
            self.slots[slot] = state
            if state == SLOT_FREE and slot < self.hint:
                self.hint = slot

    # What a successful operation did to the table.
    cdef void note(self, Operation *op, int32_t res) noexcept:
        if op.opcode == URING_OP_CLOSE:
            self.become(op.file_slot, SLOT_FREE)
        elif op.opcode in (URING_OP_PIPE, URING_OP_FILES_UPDATE):
            if op.block != NULL:  # else it was filled by hand
                self.note_several(op, PyBytes_AS_STRING(<bytes>op.block), res)
        elif op.file_slot == URING_FILE_INDEX_ALLOC:
            self.become(<uint32_t>res, SLOT_FILLED)
        else:
            self.become(op.file_slot, SLOT_FILLED)

    # An update that stopped at a bad descriptor has emptied that one's slot; which still counts as
    # filled, for it is better not to use a slot than to use it twice.
    cdef void note_several(self, Operation *op, const char *block, int32_t res) noexcept:
        cdef int32_t i, count = 2
        cdef const int *slots = <const int *>block
        if op.opcode == URING_OP_FILES_UPDATE:
            slots = <const int *>(block + sizeof(FilesBlock))
            count = res
            if op.file_slot != URING_FILE_INDEX_ALLOC:
                self.note_update(op.file_slot, slots, count)
                return
        for i in range(count):
            self.become(<uint32_t>slots[i], SLOT_FILLED)

    cdef void note_update(self, uint32_t offset, const int *files, Py_ssize_t count) noexcept:
        cdef Py_ssize_t i
        for i in range(count):
            if files[i] != URING_REGISTER_FILES_SKIP:
                self.become(<uint32_t>(offset + i),
                            SLOT_FREE if files[i] == -1 else SLOT_FILLED)

    cdef void leave_to_kernel(self, object slots) noexcept:
        self.picked = slots
        self.hint = 0

    # The kernel empties a place before it looks at what shall come there.
    cdef void note_emptied(self, uint32_t slot) noexcept:
        if slot < self.size and self.slots[slot] == SLOT_FILLED:
            self.become(slot, SLOT_FREE)

    cdef int check_slot(self, Py_ssize_t slot) except -1:
        if not 0 <= slot < self.size:
            raise ValueError(f"slot {slot} is outside the {self.size} of the table")
        return 0

    # The first free slot that is not the kernel's.
    cdef Py_ssize_t find_free(self) noexcept:
        cdef void *found
        cdef Py_ssize_t slot, first = self.picked.start, end = self.picked.stop
        slot = self.hint
        while True:
            if first <= slot < end:
                slot = end
            found = memchr(self.slots + slot, SLOT_FREE, self.size - slot)
            if found == NULL:
                return -1
            slot = <uint8_t *>found - self.slots
            if not first <= slot < end:
                return slot

    @property
    def kernel_slots(self):
        """The range of slots that FILE_INDEX_ALLOC picks from; allocate() and install() leave them
        alone."""
        return self.picked

    def allocate(self):
        """Reserve the lowest free slot, for a prep_..._direct.  OSError(ENFILE) if there is none.

        It stays reserved if that fails: free() it then.
        """
        self.ring()
        cdef Py_ssize_t slot = self.find_free()
        if slot < 0:
            raise OSError(ENFILE, f"the file table is full ({self.used} of {self.size} slots)")
        self.become(<uint32_t>slot, SLOT_RESERVED)
        # Slots of the kernel's may be free before it.
        self.hint = <uint32_t>slot
        return slot

    def free(self, Py_ssize_t slot):
        """Give back a slot that allocate() reserved and no operation has filled, or will.

        ValueError if it is free already, or holds a file: close() it.
        """
        self.ring()
        self.check_slot(slot)
        if self.slots[slot] == SLOT_FREE:
            raise ValueError(f"slot {slot} is free already")
        if self.slots[slot] == SLOT_FILLED:
            raise ValueError(f"slot {slot} holds a file: close() it")
        self.become(<uint32_t>slot, SLOT_FREE)

    def install(self, file):
        """Register an open file (a descriptor, or an object with fileno()) in a free slot, which is
        returned.  The descriptor may be closed then."""
        cdef int fd = PyObject_AsFileDescriptor(file)
        cdef Py_ssize_t slot = self.allocate()
        try:
            self.ring().put_files(slot, [fd], None)
        except BaseException:
            self.become(<uint32_t>slot, SLOT_FREE)
            raise
        return slot

    def adopt(self, Py_ssize_t slot):
        """Note that a slot holds a file which the table cannot know of: one that another process
        sent (prep_msg_ring_fd)."""
        self.ring()
        self.check_slot(slot)
        self.become(<uint32_t>slot, SLOT_FILLED)

    def close(self, Py_ssize_t slot):
        """Close what a slot holds, and free it.  Operations in flight on it go on.

        ValueError if it is free.
        """
        cdef Ring ring = self.ring()
        self.check_slot(slot)
        if self.slots[slot] == SLOT_FREE:
            raise ValueError(f"slot {slot} is free")
        ring.put_files(slot, [-1], None)

    def unregister(self):
        """Take the table down: every file in it is closed.  Doing it twice is fine."""
        if self.ring_object != NULL and (<Ring>self.ring_object).epoch == fork_epoch:
            self.ring().unregister_files()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.unregister()

    def __len__(self):
        return self.used

    def __contains__(self, slot):
        return isinstance(slot, int) and 0 <= slot < self.size and (
            self.slots[<Py_ssize_t>slot] != SLOT_FREE)

    def __iter__(self):
        return iter([slot for slot in range(self.size) if self.slots[slot] != SLOT_FREE])

    def __repr__(self):
        return (f"<FileTable: {self.used} of {self.size} slots in use"
                f"{', unregistered' if self.ring_object == NULL else ''}>")
