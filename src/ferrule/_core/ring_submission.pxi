# One SQE, and every way of filling it.


cdef struct Operation:
    # All of this is owned by the operation until its last completion, whatever the caller does.
    PyObject *user_data
    PyObject *block      # bytes: what the kernel reads and writes beside the data buffers
    PyObject *file       # the object whose descriptor is used, so that it cannot be closed by GC
    PyObject *group      # the BufferRing the kernel picks a buffer from
    Py_buffer view
    Py_buffer *views     # several buffers (readv, sendmsg, ...), each exported
    uint32_t nviews
    uint32_t index, generation, next_free
    uint8_t opcode
    bint live            # between prep and the last completion
    bint exported        # view is in use
    bint hidden          # CQE_SKIP_SUCCESS: its success is consumed inside the ring
    bint direct          # the result is a slot of the file table, not a descriptor


cdef void drop(PyObject **reference) noexcept:
    cdef PyObject *held = reference[0]
    reference[0] = NULL
    Py_XDECREF(held)


cdef void release_views(Py_buffer *views, uint32_t count) noexcept:
    cdef uint32_t i
    if views != NULL:
        for i in range(count):
            PyBuffer_Release(&views[i])
        PyMem_Free(views)


# Take everything but user_data away from an operation, to be released later.
cdef Operation detach(Operation *op) noexcept:
    cdef Operation old = op[0]
    op.block = op.file = op.group = NULL
    op.views = NULL
    op.nviews = 0
    op.exported = False
    return old


# Give back everything but user_data.
cdef void release_memory(Operation *op) noexcept:
    if op.exported:
        op.exported = False
        PyBuffer_Release(&op.view)
    if op.views != NULL:
        release_views(op.views, op.nviews)
        op.views = NULL
        op.nviews = 0
    if op.block != NULL:
        drop(&op.block)
    if op.file != NULL:
        drop(&op.file)
    if op.group != NULL:
        drop(&op.group)


cdef int export_buffer(object source, Py_buffer *view, bint writable) except -1:
    if not PyObject_CheckBuffer(source):
        raise TypeError(f"a bytes-like object is required, not {type(source).__name__!r}")
    if not writable:
        PyObject_GetBuffer(source, view, PyBUF_SIMPLE)
        return 0
    try:
        PyObject_GetBuffer(source, view, PyBUF_WRITABLE)
    except BufferError:
        raise TypeError(f"a read-write bytes-like object is required, not "
                        f"{type(source).__name__!r}") from None
    return 0


# Export every buffer and write an iovec for each.  NULL for an empty list.
cdef Py_buffer *export_all(list buffers, iovec *iovecs, bint writable) except? NULL:
    cdef uint32_t i, done = 0, n = <uint32_t>len(buffers)
    cdef Py_buffer *views
    if n == 0:
        return NULL
    views = <Py_buffer *>PyMem_Calloc(n, sizeof(Py_buffer))
    if views == NULL:
        raise MemoryError
    try:
        for i in range(n):
            export_buffer(buffers[i], &views[i], writable)
            done += 1
            iovecs[i].iov_base = views[i].buf
            iovecs[i].iov_len = views[i].len
    except BaseException:
        release_views(views, done)
        raise
    return views


cdef uring_timespec timespec_of(object seconds, str name) except *:
    cdef uring_timespec ts
    cdef double value = seconds
    if value != value or value < 0:
        raise ValueError(f"{name} must be a non-negative number of seconds, not {seconds!r}")
    # Beyond 68 years it is for ever, and no sum in the kernel can overflow.
    value = min(value, 2147483647.0)
    ts.tv_sec = <int64_t>value
    ts.tv_nsec = <int64_t>((value - <double>ts.tv_sec) * 1e9)
    return ts


cdef bytes zeroed(size_t size):
    cdef bytes block = PyBytes_FromStringAndSize(NULL, size)
    memset(PyBytes_AS_STRING(block), 0, size)
    return block


cdef bytes path_block(object path, size_t before):
    cdef bytes name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    cdef bytes block = zeroed(before + len(name))  # bytes keep a NUL behind their end
    memcpy(PyBytes_AS_STRING(block) + before, <const char *>name, len(name))
    return block


cdef inline uint32_t clamped(Py_ssize_t size) noexcept:
    # The kernel moves at most this much in one operation; a longer buffer gives a short transfer.
    return <uint32_t>min(size, MAX_RW_COUNT)


@cython.final
@cython.freelist(256)
cdef class SQE:
    """One submission: fill it with a prep_ method, edit its fields until submit() takes it.

    Afterwards its fields are gone and touching them raises RuntimeError, but the object still
    names the operation: prep_cancel, prep_poll_remove and prep_timeout_* accept it as their target.

    A prep_ method keeps hold of what the kernel may touch (buffers, paths, addresses, out
    parameters, the file object) until the operation's last completion.  Memory whose address you
    write into `addr`, `off` or `addr3` yourself is yours to keep.
    """
    cdef Ring owner
    cdef uring_sqe *raw          # NULL until a place in the queue was taken
    cdef Operation *op
    cdef readonly uint64_t key   # the kernel's user_data: slot and generation
    cdef uint64_t sequence       # how many SQEs were handed out before this one
    cdef bint filled             # by a prep_ method

    cdef inline int editable(self) except -1:
        self.owner.check()
        if self.sequence < self.owner.consumed():
            raise RuntimeError("this SQE was submitted: its fields belong to the kernel now")
        return 0

    # ---- filling ------------------------------------------------------------------------
    # Converting arguments may run anybody's code (fileno(), the GC), even code that submits or
    # closes this ring.  So a prep_ method converts and exports everything first; then it begins,
    # and from there on nothing runs but itself, and nothing can fail.

    cdef inline int begin(self) except -1:
        if self.raw == NULL:
            return self.owner.bind(self)
        self.editable()
        if self.filled:
            self.forget()
        return 0

    # Undo an earlier prep; user_data and the SQE flags stay.  The SQE is a no-op before the memory
    # it pointed to is let go, for that too may run anything.
    cdef int forget(self) except -1:
        cdef Operation old = detach(self.op)
        cdef uint8_t flags = self.raw.flags & ~URING_SQE_BUFFER_SELECT
        self.op.direct = self.filled = False
        self.op.opcode = URING_OP_NOP
        memset(self.raw, 0, sizeof(uring_sqe))
        self.raw.flags = flags
        self.raw.user_data = self.key
        release_memory(&old)
        return self.editable()

    # begin(), with buffers already exported for it: the operation's from here, or released.
    cdef int begin_with(self, Py_buffer *view, Py_buffer *views, uint32_t count) except -1:
        try:
            self.begin()
        except BaseException:
            if view != NULL:
                PyBuffer_Release(view)
            release_views(views, count)
            raise
        if view != NULL:
            self.op.view = view[0]
            self.op.exported = True
        self.op.views = views
        self.op.nviews = count
        return 0

    cdef inline SQE tag(self, object user_data):
        if user_data is not None:
            Py_INCREF(user_data)
            self.op.user_data = <PyObject *>user_data
        return self

    cdef inline void fill(self, uint8_t opcode, int fd, const void *addr, uint32_t size,
                          uint64_t off) noexcept:
        self.raw.opcode = self.op.opcode = opcode
        self.raw.fd = fd
        self.raw.addr = <uint64_t><uintptr_t>addr
        self.raw.len = size
        self.raw.off = off
        self.filled = True

    cdef inline int descriptor(self, object file) except -1:
        cdef int fd
        if PyLong_CheckExact(file):
            fd = file
            if fd < 0:
                raise ValueError(
                    f"file descriptor cannot be a negative integer ({fd})")
            return fd
        fd = PyObject_AsFileDescriptor(file)
        return fd

    cdef inline void keep_file(self, object file) noexcept:
        if not PyLong_CheckExact(file) and self.op.file == NULL:
            Py_INCREF(file)
            self.op.file = <PyObject *>file

    cdef inline int directory(self, object file) except? -2:
        if file is None or (PyLong_CheckExact(file) and file == AT_FDCWD):
            return AT_FDCWD
        return self.descriptor(file)

    cdef inline void keep_block(self, bytes block) noexcept:
        Py_INCREF(block)
        self.op.block = <PyObject *>block

    cdef SQE transfer(self, uint8_t opcode, object file, object buffer, bint writable,
                      uint64_t off, uint32_t op_flags):
        cdef int fd = self.descriptor(file)
        cdef Py_buffer view
        if buffer is None:
            # For buffer_select: the kernel chooses the memory.
            self.begin()
            self.fill(opcode, fd, NULL, 0, off)
        else:
            export_buffer(buffer, &view, writable)
            self.begin_with(&view, NULL, 0)
            self.fill(opcode, fd, view.buf, clamped(view.len), off)
        self.raw.op_flags = op_flags
        self.keep_file(file)
        return self

    cdef SQE vector(self, uint8_t opcode, object file, object buffers, bint writable,
                    long long offset, uint32_t op_flags):
        cdef int fd = self.descriptor(file)
        cdef uint64_t off = file_offset(offset)
        cdef list sources = list(buffers)
        cdef bytes block = zeroed(len(sources) * sizeof(iovec))
        cdef iovec *iovecs = <iovec *>PyBytes_AS_STRING(block)
        self.begin_with(NULL, export_all(sources, iovecs, writable), <uint32_t>len(sources))
        self.keep_block(block)
        self.fill(opcode, fd, iovecs, <uint32_t>len(sources), off)
        self.raw.op_flags = op_flags
        self.keep_file(file)
        return self

    cpdef SQE prep_nop(self):
        """Do nothing; complete with 0 (Linux 5.1)."""
        self.begin()
        self.fill(URING_OP_NOP, -1, NULL, 0, 0)
        return self

    cpdef SQE prep_read(self, file, buffer, long long offset=-1):
        """Read into `buffer` from `offset`, -1 meaning the file's own position (Linux 5.6).

        res: bytes read, 0 at the end.  buffer may be None when buffer_select follows.
        """
        return self.transfer(URING_OP_READ, file, buffer, True, file_offset(offset), 0)

    cpdef SQE prep_write(self, file, buffer, long long offset=-1):
        """Write `buffer` at `offset`, -1 meaning the file's own position (Linux 5.6).

        res: bytes written, which may be fewer than given.
        """
        return self.transfer(URING_OP_WRITE, file, buffer, False, file_offset(offset), 0)

    cpdef SQE prep_readv(self, file, buffers, long long offset=-1, unsigned int flags=0):
        """Read into several buffers (preadv2; `flags` are os.RWF_*).  res: bytes read."""
        return self.vector(URING_OP_READV, file, buffers, True, offset, flags)

    cpdef SQE prep_writev(self, file, buffers, long long offset=-1, unsigned int flags=0):
        """Write several buffers (pwritev2; `flags` are os.RWF_*).  res: bytes written."""
        return self.vector(URING_OP_WRITEV, file, buffers, False, offset, flags)

    cpdef SQE prep_fsync(self, file, unsigned int flags=0):
        """Flush a file to its device; FsyncFlags.DATASYNC for fdatasync.  res: 0.

        Writes queued before it are not waited for: link them to it, or use drain().
        """
        cdef int fd = self.descriptor(file)
        self.begin()
        self.fill(URING_OP_FSYNC, fd, NULL, 0, 0)
        self.raw.op_flags = flags
        self.keep_file(file)
        return self

    cpdef SQE prep_openat(self, dfd, path, int flags=0, unsigned int mode=0o666):
        """openat(2); dfd may be None or AT_FDCWD (Linux 5.6).  res: the descriptor.

        Unlike os.open, the descriptor is inherited by exec unless flags has O_CLOEXEC.
        """
        cdef int fd = self.directory(dfd)
        cdef bytes block = path_block(path, 0)
        self.begin()
        self.keep_block(block)
        self.fill(URING_OP_OPENAT, fd, PyBytes_AS_STRING(block), mode, 0)
        self.raw.op_flags = <uint32_t>flags
        self.keep_file(dfd)
        return self

    cpdef SQE prep_close(self, file):
        """close(2) (Linux 5.6).  res: 0.  An operation in flight on it goes on."""
        cdef int fd = self.descriptor(file)
        self.begin()
        self.fill(URING_OP_CLOSE, fd, NULL, 0, 0)
        self.keep_file(file)
        return self

    cpdef SQE prep_statx(self, dfd, path, int flags=0, unsigned int mask=0xfff):
        """statx(2) (Linux 5.6).  The completion's `stat` is the result."""
        cdef int fd = self.directory(dfd)
        cdef bytes block = path_block(path, sizeof(StatBlock))
        cdef char *memory = PyBytes_AS_STRING(block)
        self.begin()
        self.keep_block(block)
        self.fill(URING_OP_STATX, fd, memory + sizeof(StatBlock), mask,
                  <uint64_t><uintptr_t>memory)
        self.raw.op_flags = <uint32_t>flags
        self.keep_file(dfd)
        return self

    cpdef SQE prep_accept(self, file, int flags=0):
        """accept4(2); `flags` are SOCK_CLOEXEC and SOCK_NONBLOCK (Linux 5.5).

        res: the new descriptor; the completion's `address` is the peer's.
        """
        cdef int fd = self.descriptor(file)
        cdef bytes block = zeroed(sizeof(AcceptBlock))
        cdef AcceptBlock *memory = <AcceptBlock *>PyBytes_AS_STRING(block)
        self.begin()
        self.keep_block(block)
        memory.size = sizeof(sockaddr_storage)
        self.fill(URING_OP_ACCEPT, fd, &memory.address, 0, <uint64_t><uintptr_t>&memory.size)
        self.raw.op_flags = <uint32_t>flags
        self.keep_file(file)
        return self

    cpdef SQE prep_multishot_accept(self, file, int flags=0):
        """Accept again and again: a completion per connection, `more` while it goes on (5.19).

        Ask the socket for its peer's address: one shared buffer could not hold them all.
        """
        cdef int fd = self.descriptor(file)
        self.begin()
        self.fill(URING_OP_ACCEPT, fd, NULL, 0, 0)
        self.raw.op_flags = <uint32_t>flags
        self.raw.ioprio = URING_ACCEPT_MULTISHOT
        self.keep_file(file)
        return self

    cpdef SQE prep_connect(self, file, address):
        """connect(2) to a numeric address in the socket module's form (Linux 5.5).  res: 0."""
        cdef int fd = self.descriptor(file)
        cdef bytes block = zeroed(sizeof(sockaddr_storage))
        cdef socklen_t size = 0
        put_address(address, <sockaddr_storage *>PyBytes_AS_STRING(block), &size)
        self.begin()
        self.keep_block(block)
        self.fill(URING_OP_CONNECT, fd, PyBytes_AS_STRING(block), 0, size)
        self.keep_file(file)
        return self

    cpdef SQE prep_recv(self, file, buffer, int flags=0):
        """recv(2) into `buffer`; None when buffer_select follows (Linux 5.6).  res: bytes, 0 at
        the end of the stream."""
        return self.transfer(URING_OP_RECV, file, buffer, True, 0, <uint32_t>flags)

    cpdef SQE prep_recv_multishot(self, file, group, int flags=0):
        """Receive again and again into the buffers of `group` (a BufferRing or its id; 6.0).

        Each completion names its buffer (buffer_id).  It ends without `more`: at the end of the
        stream (res 0), on an error, and with ENOBUFS when the group has run dry.
        """
        cdef BufferRing chosen = self.owner.group_of(group)
        self.transfer(URING_OP_RECV, file, None, True, 0, <uint32_t>flags)
        self.raw.ioprio = URING_RECV_MULTISHOT
        self.raw.flags |= URING_SQE_BUFFER_SELECT
        self.join(chosen)
        return self

    cpdef SQE prep_send(self, file, buffer, int flags=0):
        """send(2) (Linux 5.6).  res: bytes sent; with MSG_WAITALL the kernel sends them all.

        A closed peer gives EPIPE and no SIGPIPE.
        """
        return self.transfer(
            URING_OP_SEND, file, buffer, False, 0, <uint32_t>(flags | MSG_NOSIGNAL))

    cpdef SQE prep_sendmsg(self, file, buffers, ancdata=(), int flags=0, address=None):
        """sendmsg(2) with socket.sendmsg's arguments (Linux 5.3).  res: bytes sent."""
        cdef int fd = self.descriptor(file)
        cdef list sources = list(buffers)
        cdef list control = [(int(level), int(kind), bytes(memoryview(data)))
                             for level, kind, data in ancdata]
        cdef size_t room = 0
        for item in control:
            room += CMSG_SPACE(len(<bytes>item[2]))
        cdef bytes block = message_block(len(sources), room)
        cdef MessageBlock *m = <MessageBlock *>PyBytes_AS_STRING(block)
        cdef socklen_t size = 0
        if address is not None:
            put_address(address, &m.name, &size)
        m.header.msg_namelen = size
        if size == 0:
            m.header.msg_name = NULL
        put_control(m, control)
        self.begin_with(NULL, export_all(sources, m.header.msg_iov, False),
                        <uint32_t>len(sources))
        self.keep_block(block)
        self.fill(URING_OP_SENDMSG, fd, m, 1, 0)
        self.raw.op_flags = <uint32_t>(flags | MSG_NOSIGNAL)
        self.keep_file(file)
        return self

    cpdef SQE prep_recvmsg(self, file, buffers, Py_ssize_t ancbufsize=0, int flags=0):
        """recvmsg(2) with socket.recvmsg_into's arguments (Linux 5.3).

        The completion's `message` has the ancillary data, the flags and the address.
        """
        cdef int fd = self.descriptor(file)
        cdef list sources = list(buffers)
        if not 0 <= ancbufsize <= MAX_CONTROL:
            raise ValueError("invalid ancillary data buffer length")
        cdef bytes block = message_block(len(sources), ancbufsize)
        cdef MessageBlock *m = <MessageBlock *>PyBytes_AS_STRING(block)
        self.begin_with(NULL, export_all(sources, m.header.msg_iov, True),
                        <uint32_t>len(sources))
        self.keep_block(block)
        self.fill(URING_OP_RECVMSG, fd, m, 1, 0)
        self.raw.op_flags = <uint32_t>flags
        self.keep_file(file)
        return self

    cpdef SQE prep_poll_add(self, file, unsigned int mask):
        """Wait until one of `mask` (select.POLLIN, ...) is so (Linux 5.1).  res: what is so."""
        cdef int fd = self.descriptor(file)
        self.begin()
        self.fill(URING_OP_POLL_ADD, fd, NULL, 0, 0)
        self.raw.op_flags = fe_poll_word(mask)
        self.keep_file(file)
        return self

    cpdef SQE prep_poll_multishot(self, file, unsigned int mask):
        """The same, with a completion at every change, `more` while it goes on (Linux 5.13)."""
        self.prep_poll_add(file, mask)
        self.raw.len = URING_POLL_ADD_MULTI
        return self

    cpdef SQE prep_poll_remove(self, target):
        """End a poll: `target` is its SQE or its user_data.  res: 0, or -ENOENT."""
        cdef uint64_t key = self.owner.key_of(target, self.op)
        self.begin()
        self.fill(URING_OP_POLL_REMOVE, -1, <void *><uintptr_t>key, 0, 0)
        return self

    cpdef SQE prep_poll_update(self, target, unsigned int mask, bint multishot=True):
        """Change what a poll waits for (Linux 5.13).  res: 0, -ENOENT or -EALREADY."""
        cdef uint64_t key = self.owner.key_of(target, self.op)
        self.begin()
        self.fill(URING_OP_POLL_REMOVE, -1, <void *><uintptr_t>key,
                  URING_POLL_UPDATE_EVENTS | (URING_POLL_ADD_MULTI if multishot else 0), 0)
        self.raw.op_flags = fe_poll_word(mask)
        return self

    cpdef SQE prep_cancel(self, target=None, unsigned int flags=0, opcode=None):
        """Cancel what matches (Linux 5.5; every flag 5.19, `opcode` 6.6).

        target  the SQE to cancel, or a user_data; not used with CancelFlags.ANY
        flags   ALL: every match, res being their number, 0 when there is none.  ANY: whatever.
        opcode  only operations of this kind (Op), alone or together with the target
        res     0, -ENOENT (no match), -EALREADY (runs and cannot be stopped; its result comes)

        The cancelled operation completes too, usually with -ECANCELED.
        """
        cdef uint64_t key = 0
        cdef uint32_t kind = 0
        if opcode is not None:
            kind = opcode
            flags |= URING_CANCEL_OP
        if target is not None:
            key = self.owner.key_of(target, self.op)
            if opcode is not None:
                flags |= URING_CANCEL_USERDATA
        elif not flags & (URING_CANCEL_ANY | URING_CANCEL_OP):
            # user_data None is ours to mean: no operation was named.
            raise ValueError("cancel what? give a target, an opcode, or CancelFlags.ANY")
        if flags & URING_CANCEL_FD:
            raise ValueError("cancelling by descriptor is prep_cancel_fd")
        self.begin()
        self.fill(URING_OP_ASYNC_CANCEL, -1, <void *><uintptr_t>key, kind, 0)
        self.raw.op_flags = flags
        return self

    cpdef SQE prep_cancel64(self, uint64_t key, unsigned int flags=0):
        """prep_cancel by the kernel's own 64-bit user_data (SQE.key)."""
        self.begin()
        self.fill(URING_OP_ASYNC_CANCEL, -1, <void *><uintptr_t>key, 0, 0)
        self.raw.op_flags = flags
        return self

    cpdef SQE prep_cancel_fd(self, file, unsigned int flags=0, opcode=None):
        """Cancel by open file (Linux 5.19): dup'ed descriptors match too.

        With CancelFlags.FD_FIXED `file` is an index of the registered files.
        """
        cdef int fd = self.descriptor(file)
        cdef uint32_t kind = 0
        if opcode is not None:
            kind = opcode
            flags |= URING_CANCEL_OP
        self.begin()
        self.fill(URING_OP_ASYNC_CANCEL, fd, NULL, kind, 0)
        self.raw.op_flags = flags | URING_CANCEL_FD
        self.keep_file(file)
        return self

    cdef SQE timer(self, uint8_t opcode, uint64_t key, object seconds, uint64_t count,
                   uint32_t flags):
        cdef bytes block = zeroed(sizeof(uring_timespec))
        cdef uring_timespec *ts = <uring_timespec *>PyBytes_AS_STRING(block)
        ts[0] = timespec_of(seconds, "seconds")
        self.begin()
        self.keep_block(block)
        if opcode == URING_OP_TIMEOUT_REMOVE:
            self.fill(opcode, -1, <void *><uintptr_t>key, 0, <uint64_t><uintptr_t>ts)
        else:
            self.fill(opcode, -1, ts, 1, count)
        self.raw.op_flags = flags
        return self

    cpdef SQE prep_timeout(self, seconds, unsigned int count=0, unsigned int flags=0):
        """Complete after `seconds` (res -ETIME) or `count` other completions (res 0; 5.4)."""
        return self.timer(URING_OP_TIMEOUT, 0, seconds, count, flags)

    cpdef SQE prep_timeout_remove(self, target, unsigned int flags=0):
        """Cancel a timeout, named by its SQE or user_data (Linux 5.5).  res: 0 or -ENOENT."""
        cdef uint64_t key = self.owner.key_of(target, self.op)
        self.begin()
        self.fill(URING_OP_TIMEOUT_REMOVE, -1, <void *><uintptr_t>key, 0, 0)
        self.raw.op_flags = flags
        return self

    cpdef SQE prep_timeout_update(self, target, seconds, unsigned int flags=0):
        """Give a timeout a new duration (Linux 5.11; TimeoutFlags.LINK_UPDATE for a linked one)."""
        cdef uint64_t key = self.owner.key_of(target, self.op)
        return self.timer(URING_OP_TIMEOUT_REMOVE, key, seconds, 0, flags | URING_TIMEOUT_UPDATE)

    cpdef SQE prep_link_timeout(self, seconds, unsigned int flags=0):
        """Limit the operation queued just before, which must have link() set (Linux 5.5).

        res: -ETIME when it struck (the operation: -ECANCELED), -ECANCELED when it did not.
        """
        return self.timer(URING_OP_LINK_TIMEOUT, 0, seconds, 0, flags)

    cpdef SQE prep_msg_ring(self, target, unsigned int res, uint64_t data, unsigned int flags=0):
        """Post a completion into another ring: its res, and `data` as its user_data (5.18).

        target  a Ring, or the descriptor of any ring.  A Ring of this package receives data below
                2**63; its descriptor alone is for rings made by others: name the Ring itself.
        """
        cdef int fd
        if isinstance(target, Ring):
            if data > MESSAGE_MAX:
                raise OverflowError("data for a Ring must be below 2**63")
            data |= MESSAGE_BIT
        fd = self.descriptor(target)
        self.begin()
        self.fill(URING_OP_MSG_RING, fd, <void *>URING_MSG_DATA, res, data)
        self.raw.op_flags = flags
        self.keep_file(target)
        return self

    # ---- what may stand beside the operation ----------------------------------------------

    cdef inline SQE flag(self, uint8_t bits):
        self.editable()
        self.raw.flags |= bits
        return self

    def link(self):
        """The next SQE starts when this one succeeded in full; else it gets -ECANCELED."""
        return self.flag(URING_SQE_IO_LINK)

    def hardlink(self):
        """The next SQE starts when this one has ended, however it did."""
        return self.flag(URING_SQE_IO_HARDLINK)

    def drain(self):
        """Start when all before it have completed, and hold back all after it.  Slow."""
        return self.flag(URING_SQE_IO_DRAIN)

    def use_registered_fd(self):
        """fd is an index of the registered files (IOSQE_FIXED_FILE)."""
        return self.flag(URING_SQE_FIXED_FILE)

    cpdef SQE buffer_select(self, group):
        """Let the kernel pick a buffer of `group` (a BufferRing or its id) when data comes."""
        self.editable()
        cdef BufferRing chosen = self.owner.group_of(group)
        self.raw.flags |= URING_SQE_BUFFER_SELECT
        self.join(chosen)
        return self

    # The operation keeps its group's memory alive.
    cdef void join(self, BufferRing group) noexcept:
        cdef PyObject *old = self.op.group
        Py_INCREF(group)
        self.op.group = <PyObject *>group
        self.raw.buf_index = group.bgid
        Py_XDECREF(old)

    # ---- fields --------------------------------------------------------------------------

    @property
    def submitted(self):
        """Whether the kernel has taken it."""
        return self.owner.unusable or self.sequence < self.owner.consumed()

    @property
    def user_data(self):
        """Any object; its completion gives it back."""
        self.editable()
        return None if self.op.user_data == NULL else <object>self.op.user_data

    @user_data.setter
    def user_data(self, value):
        self.editable()
        cdef PyObject *old = self.op.user_data
        Py_INCREF(value)
        self.op.user_data = <PyObject *>value
        Py_XDECREF(old)

    @property
    def opcode(self):
        self.editable()
        return self.raw.opcode

    @opcode.setter
    def opcode(self, uint8_t value):
        self.editable()
        self.raw.opcode = self.op.opcode = value

    @property
    def flags(self):
        """SqeFlags bits.  CQE_SKIP_SUCCESS is done inside the ring: a success is not delivered."""
        self.editable()
        return self.raw.flags | (URING_SQE_CQE_SKIP_SUCCESS if self.op.hidden else 0)

    @flags.setter
    def flags(self, uint8_t value):
        self.editable()
        if value & URING_SQE_BUFFER_SELECT and self.op.group == NULL:
            self.join(self.owner.group_of(self.raw.buf_index))
        self.owner.hide(self.op, (value & URING_SQE_CQE_SKIP_SUCCESS) != 0)
        self.raw.flags = value & ~URING_SQE_CQE_SKIP_SUCCESS

    @property
    def ioprio(self):
        self.editable()
        return self.raw.ioprio

    @ioprio.setter
    def ioprio(self, uint16_t value):
        self.editable()
        self.raw.ioprio = value

    @property
    def fd(self):
        self.editable()
        return self.raw.fd

    @fd.setter
    def fd(self, int value):
        self.editable()
        self.raw.fd = value

    @property
    def off(self):
        self.editable()
        return self.raw.off

    @off.setter
    def off(self, uint64_t value):
        self.editable()
        self.raw.off = value

    @property
    def addr(self):
        self.editable()
        return self.raw.addr

    @addr.setter
    def addr(self, uint64_t value):
        self.editable()
        self.raw.addr = value

    @property
    def len(self):
        self.editable()
        return self.raw.len

    @len.setter
    def len(self, uint32_t value):
        self.editable()
        # Growing it would let the kernel write beyond what we hold.
        if self.op.exported and value > self.op.view.len:
            raise ValueError(f"len {value} exceeds the buffer's {self.op.view.len} bytes")
        if self.op.views != NULL and value > self.op.nviews:
            raise ValueError(f"len {value} exceeds the {self.op.nviews} buffers given")
        self.raw.len = value

    @property
    def op_flags(self):
        """The operation's own flag word (rw_flags, msg_flags, fsync_flags, ...)."""
        self.editable()
        return self.raw.op_flags

    @op_flags.setter
    def op_flags(self, uint32_t value):
        self.editable()
        self.raw.op_flags = value

    @property
    def buf_index(self):
        self.editable()
        return self.raw.buf_index

    @buf_index.setter
    def buf_index(self, uint16_t value):
        self.editable()
        self.raw.buf_index = value

    @property
    def buf_group(self):
        self.editable()
        return self.raw.buf_index

    @buf_group.setter
    def buf_group(self, uint16_t value):
        self.editable()
        self.join(self.owner.group_of(value))

    @property
    def personality(self):
        self.editable()
        return self.raw.personality

    @personality.setter
    def personality(self, uint16_t value):
        self.editable()
        self.raw.personality = value

    @property
    def file_index(self):
        self.editable()
        return self.raw.file_index

    @file_index.setter
    def file_index(self, uint32_t value):
        self.editable()
        self.raw.file_index = value
        self.op.direct = value != 0

    @property
    def addr3(self):
        self.editable()
        return self.raw.addr3

    @addr3.setter
    def addr3(self, uint64_t value):
        self.editable()
        self.raw.addr3 = value

    def __repr__(self):
        if self.submitted:
            return f"<SQE {self.key:#x}, submitted>"
        return f"SQE(opcode={self.raw.opcode}, fd={self.raw.fd}, user_data={self.user_data!r})"


cdef inline uint64_t file_offset(long long offset) except? 0xffffffffffffffff:
    if offset < -1:
        raise ValueError(f"offset must be at least 0, or -1 for the file's position, not {offset}")
    return <uint64_t>offset


# msghdr, name, iovecs and control data in one piece.
cdef bytes message_block(size_t buffers, size_t control):
    cdef size_t iovecs = sizeof(MessageBlock)
    # CMSG headers must be aligned as size_t; iovecs are a multiple of that.
    cdef size_t after = iovecs + buffers * sizeof(iovec)
    cdef bytes block = zeroed(after + control)
    cdef char *memory = PyBytes_AS_STRING(block)
    cdef MessageBlock *m = <MessageBlock *>memory
    m.header.msg_name = &m.name
    m.header.msg_namelen = sizeof(sockaddr_storage)
    m.header.msg_iov = <iovec *>(memory + iovecs)
    m.header.msg_iovlen = buffers
    m.header.msg_control = memory + after if control else NULL
    m.header.msg_controllen = control
    return block


cdef void put_control(MessageBlock *m, list control) noexcept:
    cdef cmsghdr *c = CMSG_FIRSTHDR(&m.header)
    cdef bytes data
    for level, kind, data in control:
        c.cmsg_level = level
        c.cmsg_type = kind
        c.cmsg_len = CMSG_LEN(len(data))
        memcpy(CMSG_DATA(c), <const char *>data, len(data))
        c = CMSG_NXTHDR(&m.header, c)
