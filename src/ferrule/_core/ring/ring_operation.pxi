# One SQE, and every way of filling it.


cdef struct Operation:
    # All of this is owned by the operation until its last completion, whatever the caller does.
    PyObject *user_data
    PyObject *block      # bytes: what the kernel reads and writes beside the data buffers
    PyObject *file       # the object whose descriptor is used, so that it cannot be closed by GC
    PyObject *extra      # a second file, a registered buffer: whatever else must live as long
    PyObject *group      # the BufferRing the kernel picks a buffer from
    Py_buffer view
    Py_buffer *views     # several buffers (readv, sendmsg, ...), each exported
    uint32_t nviews
    uint32_t index, generation, next_free
    uint32_t file_slot   # of the file table, when direct
    uint8_t opcode
    bint live            # between prep and the last completion
    bint exported        # view is in use
    bint hidden          # CQE_SKIP_SUCCESS: its success is consumed inside the ring
    bint succeeded       # hidden, and a success of it was consumed: so is its notification
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
    op.block = op.file = op.extra = op.group = NULL
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
    if op.extra != NULL:
        drop(&op.extra)
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


cdef bytes path_bytes(object path):
    cdef bytes name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    return name


cdef bytes path_block(object path, size_t before):
    cdef bytes name = path_bytes(path)
    cdef bytes block = zeroed(before + len(name))  # bytes keep a NUL behind their end
    memcpy(PyBytes_AS_STRING(block) + before, <const char *>name, len(name))
    return block


# Two strings with a NUL behind each, between `before` and `after` bytes of something else.
cdef bytes strings_block(size_t before, bytes first, bytes second, size_t after):
    cdef bytes block = zeroed(before + len(first) + 1 + len(second) + 1 + after)
    cdef char *memory = PyBytes_AS_STRING(block) + before
    memcpy(memory, <const char *>first, len(first))
    memcpy(memory + len(first) + 1, <const char *>second, len(second))
    return block


# An int from `least` to `most`; what is wrong is said by its name.  Runs the argument's code.
cdef int64_t whole(object value, str name, int64_t least, int64_t most) except? -1:
    if not PyIndex_Check(value):
        raise TypeError(f"{name} must be an int, not {type(value).__name__!r}")
    number = PyNumber_Index(value)
    if not least <= number <= most:
        raise ValueError(f"{name} must be from {least} to {most}, not {number}")
    return number


# As Python has it: Cython takes the enum for a signed one.
cdef object FILE_INDEX_ALLOC = 0xffffffff


# A slot of the file table.  `choose`: or FILE_INDEX_ALLOC, with which the kernel picks one.
cdef uint32_t table_slot(object file_index, bint choose) except? 0:
    cdef int64_t slot = whole(file_index, "file_index", 0, URING_FILE_INDEX_ALLOC)
    if slot == URING_FILE_INDEX_ALLOC and choose:
        need(URING_OP_SOCKET, "FILE_INDEX_ALLOC", "5.19")
    elif slot > URING_FILE_INDEX_ALLOC - 2:
        # SQEs count slots from 1: this one would look like ALLOC, or like none.
        raise ValueError(f"file_index {slot} is no slot of the file table")
    return <uint32_t>slot


cdef inline uint32_t clamped(Py_ssize_t size) noexcept:
    # The kernel moves at most this much in one operation; a longer buffer gives a short transfer.
    return <uint32_t>min(size, MAX_RW_COUNT)


cdef inline uint64_t file_offset(long long offset) except? 0xffffffffffffffff:
    if offset < -1:
        raise ValueError(f"offset must be at least 0, or -1 for the file's position, not {offset}")
    return <uint64_t>offset


cdef int check_control(Py_ssize_t ancbufsize) except -1:
    if not 0 <= ancbufsize <= MAX_CONTROL:
        raise ValueError("invalid ancillary data buffer length")
    return 0


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
