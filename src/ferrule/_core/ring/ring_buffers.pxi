# Provided buffers: memory that the kernel picks from when data has come (Linux 5.19).
#
# The kernel takes buffers in the order in which they were put into the ring.  A bundle completion
# names its first buffer only; the rest are found by that order, at delivery, for then no later
# buffer can have taken their places.  An incremental ring (6.12) hands out a buffer piece by piece;
# BUF_MORE says that more pieces of it follow.

cdef struct ProvidedBuffer:
    uint32_t length      # given to the kernel
    uint32_t used        # of it, by completions delivered so far
    uint16_t position    # in the ring, where the kernel finds it
    uint16_t after       # the next buffer of the same bundle
    bint held            # ours, not the kernel's


@cython.final
cdef class BufferRing:
    """Buffers of one size that a ring's operations take from; made by Ring.register_buf_ring.

    Every buffer belongs either to the kernel or to you.  A completion with a buffer_id hands that
    buffer to you (a bundle: those that follow it too); recycle() hands it back.  Of an incremental
    ring a buffer is yours with the completion that lacks `buffer_more`; those before show pieces of
    it, in order.  The memory outlives close() for as long as an operation or a memoryview may still
    use it.  When the kernel finds no buffer an operation ends with ENOBUFS: recycle some and
    prepare it again, which is how a slow reader holds back a fast writer.

    A view from get() shows the buffer itself: after recycle() the kernel may write there again.
    take() copies and recycles in one step.
    """
    cdef PyObject *ring_object      # borrowed; NULL once unregistered
    cdef uring_buf *entries_map
    cdef size_t entries_size
    cdef char *memory
    cdef size_t memory_size
    cdef ProvidedBuffer *buffers
    cdef bint kernel_memory         # the ring of entries is the kernel's (MMAP)
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
        PyMem_Free(self.buffers)

    cdef int allocate(self, uint32_t entries, uint32_t buffer_size, uint16_t bgid,
                      bint kernel_memory) except -1:
        cdef uint32_t i
        self.epoch = fork_epoch
        self.entries = entries
        self.buffer_size = buffer_size
        self.bgid = bgid
        self.entries_size = <size_t>entries * sizeof(uring_buf)
        self.memory_size = <size_t>entries * buffer_size
        self.kernel_memory = kernel_memory
        if not kernel_memory:
            self.entries_map = <uring_buf *>anonymous(self.entries_size)
        self.memory = <char *>anonymous(self.memory_size)
        self.buffers = <ProvidedBuffer *>PyMem_Calloc(entries, sizeof(ProvidedBuffer))
        if self.buffers == NULL:
            raise MemoryError
        for i in range(entries):
            self.buffers[i].held = True
        return 0

    cdef int map_entries(self, int fd) except -1:
        cdef void *memory = mmap(NULL, self.entries_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                                 <long>(URING_OFF_PBUF_RING | <uint64_t>self.bgid << 16))
        if memory == MAP_FAILED:
            raise OSError(errno.ENOMEM, "cannot map the kernel's buffer ring")
        madvise(memory, self.entries_size, MADV_DONTFORK)
        self.entries_map = <uring_buf *>memory
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

    # The buffers of a completion are ours now, but for one of which more is to come.  Returns where
    # in the first its data begins.
    cdef uint32_t consume(self, int32_t res, uint32_t flags) noexcept:
        cdef uint32_t bid = flags >> URING_CQE_BUFFER_SHIFT
        cdef uint32_t left = max(res, 0), start, part
        cdef ProvidedBuffer *buffer
        if bid >= self.entries:
            return 0
        start = self.buffers[bid].used
        while True:
            buffer = &self.buffers[bid]
            part = min(buffer.length - buffer.used, left)
            buffer.used += part
            left -= part
            if left == 0 and flags & URING_CQE_F_BUF_MORE:
                return start
            buffer.held = True
            if left == 0:
                return start
            bid = self.entries_map[<uint16_t>(buffer.position + 1) & (self.entries - 1)].bid
            if bid >= self.entries or self.buffers[bid].held:
                return start
            buffer.after = <uint16_t>bid

    # consume(), and where its data lies; NULL if not in one piece.
    cdef char *written(self, int32_t res, uint32_t flags) noexcept:
        cdef uint32_t bid = flags >> URING_CQE_BUFFER_SHIFT
        cdef uint32_t start = self.consume(res, flags)
        if bid >= self.entries or start + <uint32_t>res > self.buffers[bid].length:
            return NULL
        return self.memory + bid * <size_t>self.buffer_size + start

    # consume(), and back to the kernel: for a completion that nobody sees.
    cdef void discard(self, int32_t res, uint32_t flags) noexcept:
        cdef uint32_t bid = flags >> URING_CQE_BUFFER_SHIFT
        cdef uint32_t start = self.consume(res, flags)
        for bid, _, _ in self.pieces(bid, start, res):
            if self.buffers[bid].held and self.ring_object != NULL:
                self.put(bid, self.buffer_size)
        if self.ring_object != NULL:
            self.publish()

    # Where a completion's data lies: (buffer, start, length) in order.
    cdef list pieces(self, uint32_t bid, uint32_t start, int32_t res):
        cdef list found = []
        cdef uint32_t left = max(res, 0), part
        while True:
            part = min(self.buffers[bid].length - start, left)
            found.append((bid, start, part))
            left -= part
            if left == 0:
                return found
            if not self.buffers[bid].held:
                raise ValueError(f"buffer {bid} of this completion was recycled already")
            bid = self.buffers[bid].after
            start = 0

    cdef list pieces_of(self, CQE cqe):
        if cqe.buffer_id is None:
            raise ValueError("this completion used no provided buffer")
        self.check_id(cqe.buffer_id)
        return self.pieces(cqe.buffer_id, cqe.buffer_start, cqe.code)

    cdef int put(self, long bid, uint32_t length) except -1:
        cdef uring_buf *entry
        cdef ProvidedBuffer *buffer
        self.check_id(bid)
        buffer = &self.buffers[bid]
        if not buffer.held:
            # Twice in the ring, one buffer would be given to two operations at once.
            raise ValueError(f"buffer {bid} is with the kernel already")
        if not 0 < length <= self.buffer_size:
            raise ValueError(f"length {length} is outside 1..{self.buffer_size}")
        buffer.held = False
        buffer.used = 0
        buffer.length = length
        buffer.position = <uint16_t>(self.tail + self.unpublished) & (self.entries - 1)
        # bufs[0].resv is the tail: an entry's resv is never written.
        entry = &self.entries_map[buffer.position]
        entry.addr = <uint64_t><uintptr_t>(self.memory + bid * <size_t>self.buffer_size)
        entry.len = length
        entry.bid = <uint16_t>bid
        self.unpublished += 1
        return 0

    cdef void publish(self) noexcept:
        self.tail += self.unpublished
        self.unpublished = 0
        fe_publish_buffers(self.entries_map, self.tail)

    def add(self, long bid, length=None):
        """Put a buffer into the ring without telling the kernel yet; advance() does.

        `length` (of the buffer's first bytes; default: all) is for buffers that are sent.
        """
        cdef uint32_t size = self.buffer_size if length is None else length
        self.ring()
        self.put(bid, size)

    def advance(self):
        """Show the kernel every buffer added since; returns how many."""
        self.ring()
        cdef uint16_t count = self.unpublished
        self.publish()
        return count

    def recycle(self, *which):
        """Put buffers back and tell the kernel, all at once.

        Each is a buffer's id, or a CQE, which stands for the buffers that ended with it: none, when
        more of its only one is to come (buffer_more).
        """
        cdef list numbers = []
        for item in which:
            numbers += self.ended_by(item) if isinstance(item, CQE) else [item]
        self.ring()
        try:
            for bid in numbers:
                self.put(bid, self.buffer_size)
        finally:
            self.publish()

    cdef list ended_by(self, CQE cqe):
        cdef list numbers = [bid for bid, _, _ in self.pieces_of(cqe)]
        if cqe.buffer_more:
            numbers.pop()
        return numbers

    def get(self, which, length=None):
        """A memoryview of a buffer: of a CQE's data, or of buffer `which` (its first `length`
        bytes).  A bundle that spans several buffers has several: see views()."""
        cdef size_t start = 0
        if isinstance(which, CQE):
            pieces = self.pieces_of(which)
            if len(pieces) > 1:
                raise ValueError(f"this completion spans {len(pieces)} buffers: use views()")
            which, start, size = pieces[0]
        else:
            self.check_id(which)
            size = self.buffer_size
        if length is None:
            length = size
        if not 0 <= length <= size:
            raise ValueError(f"length {length} is outside 0..{size}")
        start += which * <size_t>self.buffer_size
        return memoryview(self)[start:start + length]

    def views(self, CQE cqe not None):
        """Memoryviews of a completion's data, one for each buffer it lies in."""
        whole = memoryview(self)
        return [whole[bid * self.buffer_size + start:][:size]
                for bid, start, size in self.pieces_of(cqe)]

    def take(self, CQE cqe not None):
        """The data of a completion as bytes; the buffers that ended with it are recycled."""
        cdef Py_ssize_t done = 0, start, size
        cdef list pieces = self.pieces_of(cqe)
        cdef bytes data = PyBytes_FromStringAndSize(NULL, max(cqe.code, 0))
        self.ring()
        for bid, start, size in pieces:
            memcpy(PyBytes_AS_STRING(data) + done,
                   self.memory + <size_t>bid * self.buffer_size + start, size)
            done += size
        self.recycle(*self.ended_by(cqe))
        return data

    def get_message(self, CQE cqe not None):
        """What a completion of prep_recvmsg_multishot brought, as socket.recvmsg returns it:
        ReceivedMessage(data, ancdata, msg_flags, address); the data is a memoryview of the
        buffer."""
        cdef uint32_t bid, start, size
        view = self.get(cqe)
        bid, start, size = self.pieces_of(cqe)[0]
        return unpack_message(
            cqe, view, self.memory + bid * <size_t>self.buffer_size + start, size)

    def take_message(self, CQE cqe not None):
        """get_message() with the data as bytes; a buffer that ended with it is recycled."""
        message = self.get_message(cqe)
        message = message._replace(data=bytes(message.data))
        self.recycle(cqe)
        return message

    def available(self):
        """How many buffers are with the kernel, those included of which a part is used."""
        cdef uint32_t i, count = 0
        for i in range(self.entries):
            count += not self.buffers[i].held
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
