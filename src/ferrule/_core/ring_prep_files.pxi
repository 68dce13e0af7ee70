# Operations on files and paths.


cdef class FileOperations(Operations):
    """Preparing operations on files and paths."""

    def prep_read(self, file, buffer, long long offset=-1, *, user_data=None):
        """Read into `buffer` from `offset`, -1 meaning the file's own position (Linux 5.6).

        res: bytes read, 0 at the end.  buffer may be None when buffer_select follows.
        """
        return self.place().transfer(
            URING_OP_READ, file, buffer, True, file_offset(offset), 0).tag(user_data)

    def prep_write(self, file, buffer, long long offset=-1, *, user_data=None):
        """Write `buffer` at `offset`, -1 meaning the file's own position (Linux 5.6).

        res: bytes written, which may be fewer than given.
        """
        return self.place().transfer(
            URING_OP_WRITE, file, buffer, False, file_offset(offset), 0).tag(user_data)

    def prep_readv(self, file, buffers, long long offset=-1, unsigned int flags=0, *,
                   user_data=None):
        """Read into several buffers (preadv2; `flags` are os.RWF_*).  res: bytes read."""
        return self.place().vector(
            URING_OP_READV, file, buffers, True, offset, flags).tag(user_data)

    def prep_writev(self, file, buffers, long long offset=-1, unsigned int flags=0, *,
                    user_data=None):
        """Write several buffers (pwritev2; `flags` are os.RWF_*).  res: bytes written."""
        return self.place().vector(
            URING_OP_WRITEV, file, buffers, False, offset, flags).tag(user_data)

    def prep_fsync(self, file, unsigned int flags=0, *, user_data=None):
        """Flush a file to its device; FsyncFlags.DATASYNC for fdatasync.  res: 0.

        Writes queued before it are not waited for: link them to it, or use drain().
        """
        cdef SQE sqe = self.place()
        cdef int fd = sqe.descriptor(file)
        sqe.begin(URING_OP_FSYNC)
        sqe.fill(fd, NULL, 0, 0)
        sqe.raw.op_flags = flags
        sqe.keep_file(file)
        return sqe.tag(user_data)

    def prep_openat(self, dfd, path, int flags=0, unsigned int mode=0o666, *, user_data=None):
        """openat(2); dfd may be None or AT_FDCWD (Linux 5.6).  res: the descriptor.

        Unlike os.open, the descriptor is inherited by exec unless flags has O_CLOEXEC.
        """
        cdef SQE sqe = self.place()
        cdef int fd = sqe.directory(dfd)
        cdef bytes block = path_block(path, 0)
        sqe.begin(URING_OP_OPENAT)
        sqe.keep_block(block)
        sqe.fill(fd, PyBytes_AS_STRING(block), mode, 0)
        sqe.raw.op_flags = <uint32_t>flags
        sqe.keep_file(dfd)
        return sqe.tag(user_data)

    def prep_close(self, file, *, user_data=None):
        """close(2) (Linux 5.6).  res: 0.  An operation in flight on it goes on."""
        cdef SQE sqe = self.place()
        cdef int fd = sqe.descriptor(file)
        sqe.begin(URING_OP_CLOSE)
        sqe.fill(fd, NULL, 0, 0)
        sqe.keep_file(file)
        return sqe.tag(user_data)

    def prep_statx(self, dfd, path, int flags=0, unsigned int mask=0xfff, *, user_data=None):
        """statx(2) (Linux 5.6).  The completion's `stat` is the result."""
        cdef SQE sqe = self.place()
        cdef int fd = sqe.directory(dfd)
        cdef bytes block = path_block(path, sizeof(StatBlock))
        cdef char *memory = PyBytes_AS_STRING(block)
        sqe.begin(URING_OP_STATX)
        sqe.keep_block(block)
        sqe.fill(fd, memory + sizeof(StatBlock), mask, <uint64_t><uintptr_t>memory)
        sqe.raw.op_flags = <uint32_t>flags
        sqe.keep_file(dfd)
        return sqe.tag(user_data)

    # ---- registered buffers --------------------------------------------------------------

    def prep_read_fixed(self, file, buffer, long long offset=-1, buf_index=None, *,
                        user_data=None):
        """prep_read into memory that was registered (Linux 5.1).  res: bytes read.

        buffer     inside registered buffer `buf_index`, or ValueError.  A RegisteredBuffer, or a
                   memoryview of one, needs no buf_index.
        """
        return self.place().transfer_fixed(
            URING_OP_READ_FIXED, file, buffer, True, offset, buf_index).tag(user_data)

    def prep_write_fixed(self, file, buffer, long long offset=-1, buf_index=None, *,
                         user_data=None):
        """prep_write from memory that was registered (Linux 5.1).  res: bytes written.

        buffer     inside registered buffer `buf_index`, or ValueError.  A RegisteredBuffer, or a
                   memoryview of one, needs no buf_index.
        """
        return self.place().transfer_fixed(
            URING_OP_WRITE_FIXED, file, buffer, False, offset, buf_index).tag(user_data)

    def prep_readv_fixed(self, file, buffers, long long offset=-1, unsigned int flags=0,
                         buf_index=None, *, user_data=None):
        """prep_readv into pieces of one registered buffer (Linux 6.15; `flags` are os.RWF_*).

        buffers    all inside registered buffer `buf_index`, or ValueError; none of them empty.  Of
                   RegisteredBuffers, or memoryviews of one, buf_index need not be given.
        """
        return self.place().vector_fixed(
            URING_OP_READV_FIXED, file, buffers, True, offset, flags, buf_index).tag(user_data)

    def prep_writev_fixed(self, file, buffers, long long offset=-1, unsigned int flags=0,
                          buf_index=None, *, user_data=None):
        """prep_writev from pieces of one registered buffer (Linux 6.15; `flags` are os.RWF_*).

        buffers    all inside registered buffer `buf_index`, or ValueError; none of them empty.  Of
                   RegisteredBuffers, or memoryviews of one, buf_index need not be given.
        """
        return self.place().vector_fixed(
            URING_OP_WRITEV_FIXED, file, buffers, False, offset, flags, buf_index).tag(user_data)
