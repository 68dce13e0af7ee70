# One SQE: filling it, and its fields.


@cython.final
cdef class SQE(SystemOperations):
    """One submission: fill it with a prep_ method, edit its fields until submit() takes it.

    Afterwards its fields are gone and touching them raises RuntimeError, but the object still
    names the operation: prep_cancel, prep_poll_remove and prep_timeout_* accept it as their target.

    A prep_ method keeps hold of what the kernel may touch (buffers, paths, addresses, out
    parameters, the file object) until the operation's last completion.  Memory whose address you
    write into `addr`, `off` or `addr3` yourself is yours to keep.
    """
    cdef SQE place(self):
        return self

    cdef inline int editable(self) except -1:
        self.owner.check()
        if self.sequence < self.owner.consumed():
            raise RuntimeError("this SQE was submitted: its fields belong to the kernel now")
        return 0

    # ---- filling ------------------------------------------------------------------------
    # Converting arguments may run anybody's code (fileno(), the GC), even code that submits or
    # closes this ring.  So a prep_ method converts and exports everything first; then it begins,
    # and from there on nothing runs but itself, and nothing can fail.

    cdef inline int begin(self, uint8_t opcode) except -1:
        if not kernel_has[opcode]:
            refuse_opcode(opcode)
        if self.raw == NULL:
            self.owner.bind(self)
        else:
            self.editable()
            if self.filled:
                self.forget()
        self.raw.opcode = self.op.opcode = opcode
        self.filled = True
        return 0

    # Undo an earlier prep; user_data and the SQE flags stay.  The SQE is a no-op before the memory
    # it pointed to is let go, for that too may run anything.
    cdef int forget(self) except -1:
        cdef Operation old = detach(self.op)
        cdef uint8_t flags = self.raw.flags & ~URING_SQE_BUFFER_SELECT
        if self.raw.opcode == URING_OP_FIXED_FD_INSTALL:
            flags &= ~URING_SQE_FIXED_FILE  # it was set by that prep, not by the caller
        self.op.direct = self.filled = False
        self.op.opcode = URING_OP_NOP
        ring_clear_sqe(&self.owner.r, self.raw)
        self.raw.flags = flags
        self.raw.user_data = self.number
        release_memory(&old)
        return self.editable()

    # begin(), with buffers already exported for it: the operation's from here, or released.
    cdef int begin_with(self, uint8_t opcode, Py_buffer *view, Py_buffer *views,
                        uint32_t count) except -1:
        try:
            self.begin(opcode)
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
        cdef PyObject *old
        if user_data is not None:
            old = self.op.user_data
            Py_INCREF(user_data)
            self.op.user_data = <PyObject *>user_data
            Py_XDECREF(old)
        return self

    cdef inline void fill(self, int fd, const void *addr, uint32_t size, uint64_t off) noexcept:
        self.raw.fd = fd
        self.raw.addr = <uint64_t><uintptr_t>addr
        self.raw.len = size
        self.raw.off = off

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

    cdef inline void keep_extra(self, object extra) noexcept:
        Py_INCREF(extra)
        self.op.extra = <PyObject *>extra

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
            self.begin(opcode)
            self.fill(fd, NULL, 0, off)
        else:
            export_buffer(buffer, &view, writable)
            self.begin_with(opcode, &view, NULL, 0)
            self.fill(fd, view.buf, clamped(view.len), off)
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
        self.begin_with(opcode, NULL, export_all(sources, iovecs, writable), <uint32_t>len(sources))
        self.keep_block(block)
        self.fill(fd, iovecs, <uint32_t>len(sources), off)
        self.raw.op_flags = op_flags
        self.keep_file(file)
        return self

    cdef SQE transfer_fixed(self, uint8_t opcode, object file, object buffer, bint writable,
                            long long offset, object buf_index):
        cdef int fd = self.descriptor(file)
        cdef uint64_t off = file_offset(offset)
        cdef Py_buffer view
        cdef RegisteredBuffer registered = export_fixed(
            self.owner, buffer, buf_index, &view, writable)
        self.begin_with(opcode, &view, NULL, 0)
        self.fill(fd, view.buf, clamped(view.len), off)
        self.raw.buf_index = <uint16_t>registered.index
        self.keep_file(file)
        return self

    cdef SQE vector_fixed(self, uint8_t opcode, object file, object buffers, bint writable,
                          long long offset, uint32_t op_flags, object buf_index):
        cdef int fd = self.descriptor(file)
        cdef uint64_t off = file_offset(offset)
        cdef list sources = list(buffers)
        cdef bytes block = zeroed(len(sources) * sizeof(iovec))
        cdef iovec *iovecs = <iovec *>PyBytes_AS_STRING(block)
        cdef uint16_t index = 0
        cdef Py_buffer *views = export_all_fixed(
            self.owner, sources, buf_index, iovecs, writable, &index)
        self.begin_with(opcode, NULL, views, <uint32_t>len(sources))
        self.keep_block(block)
        self.fill(fd, iovecs, <uint32_t>len(sources), off)
        self.raw.op_flags = op_flags
        self.raw.buf_index = index
        self.keep_file(file)
        return self

    # The result goes to the ring's table of files: into place `slot`, or where the kernel finds
    # room (FILE_INDEX_ALLOC).
    cdef inline void direct(self, uint32_t slot) noexcept:
        self.raw.file_index = slot if slot == URING_FILE_INDEX_ALLOC else slot + 1
        self.op.direct = True
        self.op.file_slot = slot

    # An operation on one file that needs no memory.
    cdef SQE plain(self, uint8_t opcode, object file, uint64_t addr, uint32_t size, uint64_t off,
                   uint32_t op_flags):
        cdef int fd = self.descriptor(file)
        self.begin(opcode)
        self.fill(fd, NULL, size, off)
        self.raw.addr = addr  # a number of 64 bits, wherever pointers have 32
        self.raw.op_flags = op_flags
        self.keep_file(file)
        return self

    # An operation on the path that stands `before` bytes into its block.  Before it is a struct
    # that `off` points at, if any.
    cdef SQE on_path(self, uint8_t opcode, object dfd, bytes block, size_t before, uint32_t size,
                     uint32_t op_flags):
        cdef int fd = self.directory(dfd)
        cdef char *memory = PyBytes_AS_STRING(block)
        self.begin(opcode)
        self.keep_block(block)
        self.fill(fd, memory + before, size, <uint64_t><uintptr_t>memory if before else 0)
        self.raw.op_flags = op_flags
        self.keep_file(dfd)
        return self

    # An operation on two paths: rename, link, symlink.
    cdef SQE on_paths(self, uint8_t opcode, object dfd, object first, object second, uint32_t size,
                      uint32_t op_flags):
        cdef int fd = self.directory(dfd)
        cdef bytes one = path_bytes(first), two = path_bytes(second)
        cdef bytes block = strings_block(0, one, two, 0)
        cdef char *memory = PyBytes_AS_STRING(block)
        self.begin(opcode)
        self.keep_block(block)
        self.fill(fd, memory, size, <uint64_t><uintptr_t>(memory + len(one) + 1))
        self.raw.op_flags = op_flags
        self.keep_file(dfd)
        return self

    cdef SQE open_how(self, object dfd, object path, object flags, object mode, object resolve,
                      bint direct):
        cdef bytes block = path_block(path, sizeof(OpenBlock))
        cdef OpenBlock *how = <OpenBlock *>PyBytes_AS_STRING(block)
        how.flags = whole(flags, "flags", 0, OFFSET_MAX)
        if direct:
            refuse_cloexec(how.flags)
        how.resolve = whole(resolve, "resolve", 0, OFFSET_MAX)
        if mode is not None:
            how.mode = whole(mode, "mode", 0, 0o7777)
        elif how.flags & O_CREAT or how.flags & O_TMPFILE == O_TMPFILE:
            how.mode = 0o666
        return self.on_path(URING_OP_OPENAT2, dfd, block, sizeof(OpenBlock), sizeof(OpenBlock), 0)

    cdef SQE pipe_ends(self, int flags):
        cdef bytes block = zeroed(2 * sizeof(int))
        cdef int *ends = <int *>PyBytes_AS_STRING(block)
        ends[0] = ends[1] = -1
        self.begin(URING_OP_PIPE)
        self.keep_block(block)
        self.fill(0, ends, 0, 0)  # the kernel insists on fd 0
        self.raw.op_flags = <uint32_t>flags
        return self

    cdef SQE set_xattr(self, uint8_t opcode, object file, object path, object name, object value,
                       uint32_t flags):
        cdef int fd = 0 if opcode == URING_OP_SETXATTR else self.descriptor(file)
        cdef bytes where = path_bytes(path), called = path_bytes(name)
        cdef bytes block = strings_block(0, where, called, 0)
        cdef char *memory = PyBytes_AS_STRING(block)
        cdef Py_buffer view
        export_buffer(value, &view, False)
        self.begin_with(opcode, &view, NULL, 0)
        self.keep_block(block)
        self.fill(fd, memory + len(where) + 1, clamped(view.len), <uint64_t><uintptr_t>view.buf)
        self.aim_xattr(file, memory, flags)
        return self

    cdef SQE get_xattr(self, uint8_t opcode, object file, object path, object name, object size):
        cdef int fd = 0 if opcode == URING_OP_GETXATTR else self.descriptor(file)
        cdef int64_t room = whole(size, "size", 0, XATTR_SIZE_MAX)
        cdef bytes where = path_bytes(path), called = path_bytes(name)
        cdef bytes block = strings_block(sizeof(XattrBlock), where, called, room)
        cdef char *memory = PyBytes_AS_STRING(block)
        cdef XattrBlock *header = <XattrBlock *>memory
        header.size = room
        header.value = sizeof(XattrBlock) + len(where) + 1 + len(called) + 1
        self.begin(opcode)
        self.keep_block(block)
        self.fill(fd, memory + sizeof(XattrBlock) + len(where) + 1, <uint32_t>room,
                  <uint64_t><uintptr_t>(memory + header.value))
        self.aim_xattr(file, memory + sizeof(XattrBlock), 0)
        return self

    cdef inline void aim_xattr(self, object file, char *path, uint32_t flags) noexcept:
        self.raw.op_flags = flags
        if file is None:
            self.raw.addr3 = <uint64_t><uintptr_t>path
        else:
            self.keep_file(file)

    cdef SQE poll(self, object file, uint32_t mask, uint32_t flags):
        cdef int fd = self.descriptor(file)
        self.begin(URING_OP_POLL_ADD)
        self.fill(fd, NULL, flags, 0)
        self.raw.op_flags = fe_poll_word(mask)
        self.keep_file(file)
        return self

    cdef SQE message(self, object target, uint64_t command, uint32_t res, uint64_t data,
                     uint32_t flags):
        cdef int fd
        if isinstance(target, Ring):
            if data > MESSAGE_MAX:
                raise OverflowError("data for a Ring must be below 2**63")
            data |= MESSAGE_BIT
        fd = self.descriptor(target)
        self.begin(URING_OP_MSG_RING)
        self.fill(fd, <void *><uintptr_t>command, res, data)
        self.raw.op_flags = flags
        self.keep_file(target)
        return self

    cdef SQE timer(self, uint8_t opcode, uint64_t key, object seconds, uint64_t count,
                   uint32_t flags):
        cdef bytes block = zeroed(sizeof(uring_timespec))
        cdef uring_timespec *ts = <uring_timespec *>PyBytes_AS_STRING(block)
        ts[0] = timespec_of(seconds, "seconds")
        self.begin(opcode)
        self.keep_block(block)
        if opcode == URING_OP_TIMEOUT_REMOVE:
            self.fill(-1, <void *><uintptr_t>key, 0, <uint64_t><uintptr_t>ts)
        else:
            self.fill(-1, ts, 1, count)
        self.raw.op_flags = flags
        return self

    # ---- what may stand beside the operation ----------------------------------------------

    cdef inline void set_ioprio(self, uint16_t value) noexcept:
        self.raw.ioprio = value
        self.owner.bundling |= (value & URING_RECVSEND_BUNDLE) != 0

    cdef inline SQE flag(self, uint8_t bits):
        self.editable()
        self.owner.r.flags_used |= bits
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
        """Let the kernel pick a buffer of `group` when data comes: a BufferRing or its id, or the
        id of buffers given by prep_provide_buffers."""
        self.editable()
        provided = self.owner.provided.get(group) if isinstance(group, int) else None
        cdef BufferRing chosen = None if provided else self.owner.group_of(group)
        self.raw.flags |= URING_SQE_BUFFER_SELECT
        if provided:
            self.raw.buf_index = group
            self.keep_extra(provided)
        else:
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
    def key(self):
        """The user_data that the kernel sees: the slot's index and generation."""
        return self.number

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
        # What a completion makes of an operation's memory goes by its opcode.
        if self.op.block != NULL and value != self.raw.opcode:
            raise ValueError("this SQE is prepared; to make it another operation, call that "
                             "one's prep_ method")
        self.raw.opcode = self.op.opcode = value

    @property
    def flags(self):
        """SqeFlags bits.  CQE_SKIP_SUCCESS is done inside the ring: a success is not delivered."""
        self.editable()
        return self.raw.flags | (URING_SQE_CQE_SKIP_SUCCESS if self.op.hidden else 0)

    @flags.setter
    def flags(self, uint8_t value):
        self.editable()
        self.owner.r.flags_used |= value
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
        self.set_ioprio(value)

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
        if value > self.raw.len and self.op.block != NULL and self.op.opcode in (
                URING_OP_FILES_UPDATE, URING_OP_OPENAT2, URING_OP_FGETXATTR, URING_OP_GETXATTR):
            raise ValueError(f"len {value} exceeds the {self.raw.len} that there is memory for")
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
        self.op.file_slot = value if value == URING_FILE_INDEX_ALLOC else value - 1

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
            return f"<SQE {self.number:#x}, submitted>"
        return f"SQE(opcode={self.raw.opcode}, fd={self.raw.fd}, user_data={self.user_data!r})"
