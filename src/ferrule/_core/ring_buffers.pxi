# Provided buffers: memory that the kernel picks from when data has come (Linux 5.19).


@cython.final
cdef class BufferRing:
    """Buffers of one size that a ring's receives and reads take from; made by
    Ring.register_buf_ring.

    Every buffer belongs either to the kernel or to you.  A completion with a buffer_id hands that
    buffer to you; recycle() hands it back.  The memory outlives close() for as long as an operation
    or a memoryview may still use it.

    A view from get() shows the buffer itself: after recycle() the kernel may write there again.
    take() copies and recycles in one step.
    """
    cdef PyObject *ring_object      # borrowed; NULL once unregistered
    cdef uring_buf *entries_map
    cdef size_t entries_size
    cdef char *memory
    cdef size_t memory_size
    cdef uint8_t *held              # per buffer: 1 when it is ours
    cdef readonly uint32_t entries
    cdef readonly uint32_t buffer_size
    cdef readonly uint16_t bgid
    cdef uint16_t tail, unpublished
    cdef uint32_t epoch
    cdef object __weakref__

    def __dealloc__(self):
        # In a forked child the mappings do not exist, and something else may lie there.
        if self.epoch == fork_epoch:
            if self.entries_map != NULL:
                munmap(self.entries_map, self.entries_size)
            if self.memory != NULL:
                munmap(self.memory, self.memory_size)
        PyMem_Free(self.held)

    cdef int allocate(self, uint32_t entries, uint32_t buffer_size, uint16_t bgid) except -1:
        self.epoch = fork_epoch
        self.entries = entries
        self.buffer_size = buffer_size
        self.bgid = bgid
        self.entries_size = <size_t>entries * sizeof(uring_buf)
        self.memory_size = <size_t>entries * buffer_size
        self.entries_map = <uring_buf *>anonymous(self.entries_size)
        self.memory = <char *>anonymous(self.memory_size)
        self.held = <uint8_t *>PyMem_Calloc(entries, 1)
        if self.held == NULL:
            raise MemoryError
        memset(self.held, 1, entries)
        return 0

    cdef Ring ring(self):
        if self.ring_object == NULL:
            raise ValueError("operation on a closed buffer ring")
        cdef Ring owner = <Ring>self.ring_object
        owner.check()
        return owner

    cdef inline int check_id(self, long bid) except -1:
        if not 0 <= bid < self.entries:
            raise ValueError(f"buffer id {bid} is outside 0..{self.entries - 1}")
        return 0

    cdef inline void taken(self, uint32_t bid) noexcept:
        if bid < self.entries:
            self.held[bid] = 1

    cdef int put(self, long bid) except -1:
        cdef uring_buf *entry
        self.check_id(bid)
        if not self.held[bid]:
            # Twice in the ring, one buffer would be given to two operations at once.
            raise ValueError(f"buffer {bid} is with the kernel already")
        self.held[bid] = 0
        # bufs[0].resv is the tail: an entry's resv is never written.
        entry = &self.entries_map[<uint16_t>(self.tail + self.unpublished) & (self.entries - 1)]
        entry.addr = <uint64_t><uintptr_t>(self.memory + bid * <size_t>self.buffer_size)
        entry.len = self.buffer_size
        entry.bid = <uint16_t>bid
        self.unpublished += 1
        return 0

    cdef void publish(self) noexcept:
        self.tail += self.unpublished
        self.unpublished = 0
        fe_publish_buffers(self.entries_map, self.tail)

    def add(self, long bid):
        """Put a buffer back without telling the kernel yet; advance() does."""
        self.ring()
        self.put(bid)

    def advance(self):
        """Show the kernel every buffer added since; returns how many."""
        self.ring()
        cdef uint16_t count = self.unpublished
        self.publish()
        return count

    def recycle(self, *bids):
        """add() each and advance() once.  A CQE may stand for its buffer's id."""
        cdef list numbers = [self.id_of(bid) for bid in bids]
        self.ring()
        try:
            for bid in numbers:
                self.put(bid)
        finally:
            self.publish()

    cdef long id_of(self, object which) except -1:
        if isinstance(which, CQE):
            which = which.buffer_id
            if which is None:
                raise ValueError("this completion used no provided buffer")
        cdef long bid = which
        self.check_id(bid)
        return bid

    def get(self, which, length=None):
        """A memoryview of a buffer: of a CQE's data, or of buffer `which` (its first `length`
        bytes)."""
        cdef long bid = self.id_of(which)
        if length is None:
            length = which.res if isinstance(which, CQE) else self.buffer_size
        if not 0 <= length <= self.buffer_size:
            raise ValueError(f"length {length} is outside 0..{self.buffer_size}")
        start = bid * <size_t>self.buffer_size
        return memoryview(self)[start:start + length]

    def take(self, CQE cqe not None):
        """The data of a completion as bytes, its buffer recycled."""
        cdef long bid = self.id_of(cqe)
        cdef bytes data = PyBytes_FromStringAndSize(
            self.memory + bid * <size_t>self.buffer_size, max(cqe.res, 0))
        self.ring()
        self.put(bid)
        self.publish()
        return data

    def available(self):
        """How many buffers are with the kernel and not yet used."""
        cdef uint32_t i, count = 0
        for i in range(self.entries):
            count += not self.held[i]
        return count

    def head(self):
        """How many buffers the kernel has taken so far, modulo 65536 (Linux 6.8)."""
        cdef uring_buf_status status
        memset(&status, 0, sizeof(status))
        status.buf_group = self.bgid
        self.ring().register(URING_REGISTER_PBUF_STATUS, &status, 1)
        return status.head

    @property
    def closed(self):
        return self.ring_object == NULL

    def close(self):
        """Unregister.  Receives that already hold a buffer finish; later ones get ENOBUFS."""
        if self.ring_object != NULL:
            self.ring().unregister_buf_ring(self.bgid)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __len__(self):
        return self.entries

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.epoch != fork_epoch:
            raise BufferError("this memory belongs to the parent process")
        PyBuffer_FillInfo(view, self, self.memory, self.memory_size, False, flags)

    def __repr__(self):
        return (f"<BufferRing {self.bgid}: {self.entries} x {self.buffer_size} bytes"
                f"{', closed' if self.closed else ''}>")


cdef void *anonymous(size_t size) except NULL:
    cdef void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if memory == MAP_FAILED:
        raise MemoryError(f"cannot map {size} bytes for provided buffers")
    # After a fork the kernel must go on writing to the parent's pages, not to a copy's original.
    madvise(memory, size, MADV_DONTFORK)
    return memory
