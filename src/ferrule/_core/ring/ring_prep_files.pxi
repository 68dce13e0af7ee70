# Operations on files and paths.

cdef enum:
    XATTR_SIZE_MAX = 65536
    # SQEs have 32 bits for most lengths.
    LENGTH_MAX = 0xffffffff

cdef int64_t OFFSET_MAX = 0x7fffffffffffffff


# Advice may drop what it is about, and the kernel rounds up to whole pages: a part of one is
# advised only where the rest belongs to the same mapping, and memory that must not change never.
cdef int export_pages(object buffer, Py_buffer *view) except -1:
    import mmap as mappings
    cdef Py_ssize_t page = mappings.PAGESIZE
    if isinstance(memoryview(buffer).obj, mappings.mmap):
        return export_buffer(buffer, view, False)
    export_buffer(buffer, view, True)
    if view.len % page:
        PyBuffer_Release(view)
        raise ValueError(f"buffer must be of whole pages ({page} bytes), or of an mmap")
    return 0


cdef inline int refuse_cloexec(uint64_t flags) except -1:
    if flags & O_CLOEXEC:
        raise ValueError("O_CLOEXEC means nothing for a direct descriptor: exec closes the ring")
    return 0


cdef class FileOperations(Operations):
    """Preparing operations on files and paths."""

    # ---- reading and writing --------------------------------------------------------------

    def prep_read(self, file, buffer, long long offset=-1, *, user_data=None):
        """Read into `buffer` from `offset`, -1 meaning the file's own position (Linux 5.6).

        res: bytes read, 0 at the end.  buffer may be None when buffer_select follows.
        os.RWF_* flags: set the SQE's op_flags.
        """
        return self.place().transfer(
            URING_OP_READ, file, buffer, True, file_offset(offset), 0).tag(user_data)

    def prep_write(self, file, buffer, long long offset=-1, *, user_data=None):
        """Write `buffer` at `offset`, -1 meaning the file's own position (Linux 5.6).

        res: bytes written, which may be fewer than given.  os.RWF_* flags: set the SQE's op_flags.
        """
        return self.place().transfer(
            URING_OP_WRITE, file, buffer, False, file_offset(offset), 0).tag(user_data)

    def prep_read_multishot(self, file, group, long long offset=-1, *, user_data=None):
        """Read again and again into the buffers of `group` (a BufferRing or its id; Linux 6.7).

        file  something that can be polled: a pipe, a terminal, a socket; others get -EBADFD
        res   bytes read into the completion's buffer_id, `more` while it goes on.  It ends
              without `more`: at the end (0), on an error, with -ENOBUFS when the group has run dry.
        """
        cdef SQE sqe = self.place()
        cdef BufferRing chosen = sqe.owner.group_of(group)
        sqe.transfer(URING_OP_READ_MULTISHOT, file, None, True, file_offset(offset), 0)
        sqe.raw.flags |= URING_SQE_BUFFER_SELECT
        sqe.join(chosen)
        return sqe.tag(user_data)

    def prep_readv(self, file, buffers, long long offset=-1, unsigned int flags=0, *,
                   user_data=None):
        """Read into several buffers (preadv2; `flags` are os.RWF_*).  res: bytes read."""
        return self.place().vector(
            URING_OP_READV, file, buffers, True, offset, flags).tag(user_data)

    def prep_readv2(self, file, buffers, long long offset, unsigned int flags, *, user_data=None):
        """prep_readv with `flags` (os.RWF_*) that must be given."""
        return self.place().vector(
            URING_OP_READV, file, buffers, True, offset, flags).tag(user_data)

    def prep_writev(self, file, buffers, long long offset=-1, unsigned int flags=0, *,
                    user_data=None):
        """Write several buffers (pwritev2; `flags` are os.RWF_*).  res: bytes written."""
        return self.place().vector(
            URING_OP_WRITEV, file, buffers, False, offset, flags).tag(user_data)

    def prep_writev2(self, file, buffers, long long offset, unsigned int flags, *, user_data=None):
        """prep_writev with `flags` (os.RWF_*) that must be given."""
        return self.place().vector(
            URING_OP_WRITEV, file, buffers, False, offset, flags).tag(user_data)

    def prep_splice(self, src, dst, count, offset_src=None, offset_dst=None, unsigned int flags=0,
                    *, user_data=None):
        """Move up to `count` bytes from `src` to `dst`, one of them a pipe (Linux 5.7).

        The arguments are os.splice's.  An offset of None or -1 is the file's own position, and
        the only one a pipe has.  With SpliceFlags.FD_IN_FIXED `src` is an index of the registered
        files; use_registered_fd() is about `dst`.  Both are held until the completion.

        res: bytes moved, 0 at the end.  While it waits it occupies a kernel thread.  A cancel
        interrupts that (its own res is -EALREADY), and raise_for_error raises InterruptedError:
        res is -EINTR, or -512, the kernel's ERESTARTSYS.
        """
        cdef SQE sqe = self.place()
        cdef int64_t wanted = whole(count, "count", 0, OFFSET_MAX)
        cdef int64_t from_offset = -1, to_offset = -1
        cdef int fd_in
        if offset_src is not None:
            from_offset = whole(offset_src, "offset_src", -1, OFFSET_MAX)
        if offset_dst is not None:
            to_offset = whole(offset_dst, "offset_dst", -1, OFFSET_MAX)
        fd_in = sqe.descriptor(src)
        sqe.plain(URING_OP_SPLICE, dst, <uint64_t>from_offset, clamped(wanted),
                  <uint64_t>to_offset, flags)
        sqe.raw.file_index = <uint32_t>fd_in  # splice_fd_in
        sqe.keep_extra(src)
        return sqe.tag(user_data)

    def prep_tee(self, src, dst, count, unsigned int flags=0, *, user_data=None):
        """Copy up to `count` bytes from one pipe to another and leave them in `src` (Linux 5.8).

        flags and all else as for prep_splice.  res: bytes copied.
        """
        cdef SQE sqe = self.place()
        cdef int64_t wanted = whole(count, "count", 0, OFFSET_MAX)
        cdef int fd_in = sqe.descriptor(src)
        sqe.plain(URING_OP_TEE, dst, 0, clamped(wanted), 0, flags)
        sqe.raw.file_index = <uint32_t>fd_in
        sqe.keep_extra(src)
        return sqe.tag(user_data)

    # ---- one open file --------------------------------------------------------------------

    def prep_fsync(self, file, unsigned int flags=0, offset=0, length=0, *, user_data=None):
        """Flush a file to its device; FsyncFlags.DATASYNC for fdatasync (Linux 5.1).  res: 0.

        `offset` and `length`, below 2**32, limit it to a range; without them it is the whole file.
        Writes queued before it are not waited for: link them to it, or use drain().
        """
        cdef SQE sqe = self.place()
        cdef int64_t first = whole(offset, "offset", 0, OFFSET_MAX)
        cdef int64_t size = whole(length, "length", 0, LENGTH_MAX)
        if first and not size:
            # The kernel would take the offset for the end as well.
            raise ValueError("offset needs a length with it")
        return sqe.plain(URING_OP_FSYNC, file, 0, <uint32_t>size, first, flags).tag(user_data)

    def prep_sync_file_range(self, file, offset, length, unsigned int flags, *, user_data=None):
        """sync_file_range(2): start or await the writing of dirty pages (Linux 5.2).  res: 0.

        length  bytes from `offset` on, below 2**32; 0 is all that follows
        flags   SyncFileRangeFlags; none of them does nothing

        It writes no metadata: after a crash the data may not be found.  prep_fsync is for that.
        (liburing has the length before the offset; the system call has not.)
        """
        cdef SQE sqe = self.place()
        cdef int64_t first = whole(offset, "offset", 0, OFFSET_MAX)
        cdef int64_t size = whole(length, "length", 0, LENGTH_MAX)
        return sqe.plain(URING_OP_SYNC_FILE_RANGE, file, 0, <uint32_t>size, first,
                         flags).tag(user_data)

    def prep_fallocate(self, file, unsigned int mode, offset, length, *, user_data=None):
        """fallocate(2): make room, or with `mode` (FallocateFlags) a hole, zeros, ... (Linux 5.6).

        res: 0, -EINVAL for a length of 0, -EOPNOTSUPP where the file system cannot.
        """
        cdef SQE sqe = self.place()
        cdef int64_t first = whole(offset, "offset", 0, OFFSET_MAX)
        cdef int64_t size = whole(length, "length", 0, OFFSET_MAX)
        return sqe.plain(URING_OP_FALLOCATE, file, size, mode, first, 0).tag(user_data)

    def prep_ftruncate(self, file, length, *, user_data=None):
        """Make a file `length` bytes long (Linux 6.9).  res: 0, -EINVAL if not open for writing."""
        cdef SQE sqe = self.place()
        cdef int64_t size = whole(length, "length", 0, OFFSET_MAX)
        return sqe.plain(URING_OP_FTRUNCATE, file, 0, 0, size, 0).tag(user_data)

    def prep_fadvise(self, file, offset, length, unsigned int advice, *, user_data=None):
        """Say how a file will be read: os.POSIX_FADV_* (Linux 5.6).  res: 0.

        length  bytes from `offset` on, below 2**32 (prep_fadvise64 takes more); 0 is all that
                follows
        """
        cdef SQE sqe = self.place()
        cdef int64_t first = whole(offset, "offset", 0, OFFSET_MAX)
        cdef int64_t size = whole(length, "length", 0, LENGTH_MAX)
        return sqe.plain(URING_OP_FADVISE, file, 0, <uint32_t>size, first, advice).tag(user_data)

    def prep_fadvise64(self, file, offset, length, unsigned int advice, *, user_data=None):
        """prep_fadvise for lengths up to 2**63 - 1 (Linux 6.11)."""
        cdef SQE sqe = self.place()
        cdef int64_t first = whole(offset, "offset", 0, OFFSET_MAX)
        cdef int64_t size = whole(length, "length", 0, OFFSET_MAX)
        need(URING_OP_BIND, "a 64-bit length for fadvise", "6.11")
        return sqe.plain(URING_OP_FADVISE, file, size, 0, first, advice).tag(user_data)

    def prep_madvise(self, buffer, unsigned int advice, *, user_data=None):
        """Say how memory will be used: mmap.MADV_* (Linux 5.6).  res: 0.

        buffer  an mmap or a memoryview of one, or writable memory of whole pages; it has to begin
                at a page (else -EINVAL), and be shorter than 4 GiB (prep_madvise64 takes more).
                It is held until the completion.
        """
        cdef SQE sqe = self.place()
        cdef Py_buffer view
        export_pages(buffer, &view)
        if view.len > LENGTH_MAX:
            PyBuffer_Release(&view)
            raise ValueError("buffer must be shorter than 4 GiB: use prep_madvise64")
        sqe.begin_with(URING_OP_MADVISE, &view, NULL, 0)
        sqe.fill(-1, view.buf, <uint32_t>view.len, 0)
        sqe.raw.op_flags = advice
        return sqe.tag(user_data)

    def prep_madvise64(self, buffer, unsigned int advice, *, user_data=None):
        """prep_madvise for memory of any size (Linux 6.11)."""
        cdef SQE sqe = self.place()
        cdef Py_buffer view
        need(URING_OP_BIND, "a 64-bit length for madvise", "6.11")
        export_pages(buffer, &view)
        sqe.begin_with(URING_OP_MADVISE, &view, NULL, 0)
        sqe.fill(-1, view.buf, 0, view.len)
        sqe.raw.op_flags = advice
        return sqe.tag(user_data)

    # ---- opening and closing ----------------------------------------------------------------
    # The _direct forms put the file into a slot of the ring's file table (register_files) instead
    # of the process's: `file_index`, or FILE_INDEX_ALLOC for one that the kernel picks.

    def prep_openat(self, dfd, path, int flags=0, unsigned int mode=0o666, *, user_data=None):
        """openat(2); dfd may be None or AT_FDCWD (Linux 5.6).  res: the descriptor.

        Unlike os.open, the descriptor is inherited by exec unless flags has O_CLOEXEC, and a FIFO
        is opened without waiting for its other end: for writing it may give -ENXIO.
        """
        return self.place().on_path(URING_OP_OPENAT, dfd, path_block(path, 0), 0, mode,
                                    <uint32_t>flags).tag(user_data)

    def prep_openat_direct(self, dfd, path, int flags=0, unsigned int mode=0o666,
                           file_index=FILE_INDEX_ALLOC, *, user_data=None):
        """Open a file into slot `file_index` of the file table, replacing what is there (5.15).

        file_index  FILE_INDEX_ALLOC lets the kernel pick a free slot (Linux 5.19)
        flags       without O_CLOEXEC, which a slot does not have
        res         0; with FILE_INDEX_ALLOC the slot, or -ENFILE when none is free.  For a slot:
                    -ENXIO without a file table, -EINVAL beyond its end
        """
        cdef SQE sqe = self.place()
        cdef uint32_t slot = table_slot(file_index, True)
        need(URING_OP_MKDIRAT, "opening into a direct descriptor", "5.15")
        refuse_cloexec(flags)
        sqe.on_path(URING_OP_OPENAT, dfd, path_block(path, 0), 0, mode, <uint32_t>flags)
        sqe.direct(slot)
        return sqe.tag(user_data)

    def prep_open(self, path, int flags=0, unsigned int mode=0o666, *, user_data=None):
        """prep_openat relative to the current directory (Linux 5.6).  res: the descriptor."""
        return self.prep_openat(None, path, flags, mode, user_data=user_data)

    def prep_open_direct(self, path, int flags=0, unsigned int mode=0o666,
                         file_index=FILE_INDEX_ALLOC, *, user_data=None):
        """prep_openat_direct relative to the current directory (Linux 5.15)."""
        return self.prep_openat_direct(None, path, flags, mode, file_index, user_data=user_data)

    def prep_openat2(self, dfd, path, flags=0, mode=None, resolve=0, *, user_data=None):
        """openat2(2): prep_openat that refuses flags it does not know (Linux 5.6).

        mode     of a file it makes; None: 0o666 if it may make one, else 0, as openat2 demands
        resolve  ResolveFlags: what a path may not lead through
        res      the descriptor.  -ELOOP, -EXDEV: what `resolve` forbids.  -EAGAIN: with CACHED, or
                 when a rename came between; try again
        """
        return self.place().open_how(dfd, path, flags, mode, resolve, False).tag(user_data)

    def prep_openat2_direct(self, dfd, path, flags=0, mode=None, resolve=0,
                            file_index=FILE_INDEX_ALLOC, *, user_data=None):
        """prep_openat2 into the file table, as prep_openat_direct (Linux 5.15).

        res: 0 or the slot.
        """
        cdef SQE sqe = self.place()
        cdef uint32_t slot = table_slot(file_index, True)
        need(URING_OP_MKDIRAT, "opening into a direct descriptor", "5.15")
        sqe.open_how(dfd, path, flags, mode, resolve, True)
        sqe.direct(slot)
        return sqe.tag(user_data)

    def prep_close(self, file, *, user_data=None):
        """close(2) (Linux 5.6).  res: 0.  An operation in flight on it goes on."""
        return self.place().plain(URING_OP_CLOSE, file, 0, 0, 0, 0).tag(user_data)

    def prep_close_direct(self, file_index, *, user_data=None):
        """Empty slot `file_index` of the file table (Linux 5.15).

        res: 0, -EBADF if it was empty, -ENXIO without a file table.  An operation in flight on its
        file goes on.
        """
        cdef SQE sqe = self.place()
        cdef uint32_t slot = table_slot(file_index, False)
        need(URING_OP_MKDIRAT, "closing a direct descriptor", "5.15")
        sqe.begin(URING_OP_CLOSE)
        sqe.direct(slot)
        return sqe.tag(user_data)

    def prep_files_update(self, files, offset, *, user_data=None):
        """Put `files` into the file table from slot `offset` on; -1 empties a slot (Linux 5.6).

        With FILE_INDEX_ALLOC the kernel picks the slots (Linux 5.19).  The files are held until the
        completion, and the table holds them after that.

        res: how many were put there, after an error in the middle too (the slot of the bad one is
        then empty); the completion's `slots` tells where.  -EBADF if the first was bad.
        """
        cdef SQE sqe = self.place()
        cdef int64_t first = whole(offset, "offset", 0, URING_FILE_INDEX_ALLOC)
        cdef tuple held = tuple(files)
        cdef list numbers = [registered_fd(file) for file in held]
        cdef bytes block
        cdef char *memory
        if not numbers:
            raise ValueError("files must have at least one")
        if first == URING_FILE_INDEX_ALLOC:
            need(URING_OP_SOCKET, "FILE_INDEX_ALLOC", "5.19")
        block = zeroed(sizeof(FilesBlock)) + descriptors(numbers)
        memory = PyBytes_AS_STRING(block)
        (<FilesBlock *>memory).first = <uint32_t>first
        sqe.begin(URING_OP_FILES_UPDATE)
        sqe.keep_block(block)
        sqe.fill(-1, memory + sizeof(FilesBlock), <uint32_t>len(numbers), first)
        sqe.keep_extra(held)
        sqe.op.direct = True
        sqe.op.file_slot = <uint32_t>first
        return sqe.tag(user_data)

    def prep_fixed_fd_install(self, file_index, unsigned int flags=0, *, user_data=None):
        """Make an ordinary descriptor of the file in slot `file_index`, which stays (Linux 6.8).

        flags  FixedFdFlags.NO_CLOEXEC: exec shall inherit it
        res    the descriptor; -EBADF if the slot is empty
        """
        cdef SQE sqe = self.place()
        cdef int64_t slot = whole(file_index, "file_index", 0, 0x7fffffff)
        sqe.begin(URING_OP_FIXED_FD_INSTALL)
        sqe.fill(<int>slot, NULL, 0, 0)
        sqe.raw.op_flags = flags
        sqe.raw.flags |= URING_SQE_FIXED_FILE
        return sqe.tag(user_data)

    def prep_pipe(self, int flags=0, *, user_data=None):
        """pipe2(2) (Linux 6.16).  res: 0; the completion's `pipe` is (read end, write end).

        flags  O_NONBLOCK, O_DIRECT, O_CLOEXEC: without it, unlike os.pipe's, exec inherits them
        """
        return self.place().pipe_ends(flags).tag(user_data)

    def prep_pipe_direct(self, int flags=0, file_index=FILE_INDEX_ALLOC, *, user_data=None):
        """A pipe in the file table (Linux 6.16).

        Its read end goes to slot `file_index`, its write end to the next; with FILE_INDEX_ALLOC
        the kernel picks both.

        flags  O_NONBLOCK, O_DIRECT
        res    0; the completion's `pipe` is the two slots.  -ENFILE: no two are free.  After an
               error slot `file_index` may be empty
        """
        cdef SQE sqe = self.place()
        cdef uint32_t slot = table_slot(file_index, True)
        refuse_cloexec(flags)
        sqe.pipe_ends(flags)
        sqe.direct(slot)
        return sqe.tag(user_data)

    # ---- paths ------------------------------------------------------------------------------
    # A dfd is the directory that a relative path starts from: a descriptor, an object with
    # fileno(), or None (AT_FDCWD) for the current one.

    def prep_statx(self, dfd, path, int flags=0, unsigned int mask=0xfff, *, user_data=None):
        """statx(2) (Linux 5.6).  The completion's `stat` is the result.

        flags  AtFlags; with EMPTY_PATH and the path "" it is about `dfd` itself
        """
        return self.place().on_path(URING_OP_STATX, dfd, path_block(path, sizeof(StatBlock)),
                                    sizeof(StatBlock), mask, <uint32_t>flags).tag(user_data)

    def prep_renameat(self, olddfd, oldpath, newdfd, newpath, unsigned int flags=0, *,
                      user_data=None):
        """renameat2(2); `flags` are RenameFlags (Linux 5.11).  res: 0."""
        cdef SQE sqe = self.place()
        cdef int fd = sqe.directory(newdfd)
        sqe.on_paths(URING_OP_RENAMEAT, olddfd, oldpath, newpath, <uint32_t>fd, flags)
        sqe.keep_extra(newdfd)
        return sqe.tag(user_data)

    def prep_rename(self, oldpath, newpath, *, user_data=None):
        """rename(2) (Linux 5.11).  res: 0."""
        return self.prep_renameat(None, oldpath, None, newpath, user_data=user_data)

    def prep_unlinkat(self, dfd, path, int flags=0, *, user_data=None):
        """Remove a file, with AtFlags.REMOVEDIR an empty directory (Linux 5.11).  res: 0."""
        return self.place().on_path(URING_OP_UNLINKAT, dfd, path_block(path, 0), 0, 0,
                                    <uint32_t>flags).tag(user_data)

    def prep_unlink(self, path, int flags=0, *, user_data=None):
        """prep_unlinkat relative to the current directory (Linux 5.11).  res: 0."""
        return self.prep_unlinkat(None, path, flags, user_data=user_data)

    def prep_mkdirat(self, dfd, path, unsigned int mode=0o777, *, user_data=None):
        """mkdirat(2) (Linux 5.15).  res: 0."""
        return self.place().on_path(URING_OP_MKDIRAT, dfd, path_block(path, 0), 0, mode,
                                    0).tag(user_data)

    def prep_mkdir(self, path, unsigned int mode=0o777, *, user_data=None):
        """mkdir(2) (Linux 5.15).  res: 0."""
        return self.prep_mkdirat(None, path, mode, user_data=user_data)

    def prep_symlinkat(self, target, newdfd, linkpath, *, user_data=None):
        """Make `linkpath`, relative to newdfd, a symbolic link to `target` (5.15).  res: 0."""
        return self.place().on_paths(URING_OP_SYMLINKAT, newdfd, target, linkpath, 0,
                                     0).tag(user_data)

    def prep_symlink(self, target, linkpath, *, user_data=None):
        """symlink(2) (Linux 5.15).  res: 0."""
        return self.prep_symlinkat(target, None, linkpath, user_data=user_data)

    def prep_linkat(self, olddfd, oldpath, newdfd, newpath, int flags=0, *, user_data=None):
        """linkat(2): a second name for a file (Linux 5.15).  res: 0.

        flags  AtFlags.SYMLINK_FOLLOW, EMPTY_PATH (oldpath "" is `olddfd` itself)

        The SQE's link() is something else: it links operations.
        """
        cdef SQE sqe = self.place()
        cdef int fd = sqe.directory(newdfd)
        sqe.on_paths(URING_OP_LINKAT, olddfd, oldpath, newpath, <uint32_t>fd, <uint32_t>flags)
        sqe.keep_extra(newdfd)
        return sqe.tag(user_data)

    def prep_link(self, oldpath, newpath, int flags=0, *, user_data=None):
        """prep_linkat relative to the current directory (Linux 5.15).  res: 0."""
        return self.prep_linkat(None, oldpath, None, newpath, flags, user_data=user_data)

    # ---- extended attributes ------------------------------------------------------------------
    # In the order of os.setxattr and os.getxattr: what it is about comes first.

    def prep_setxattr(self, path, name, value, unsigned int flags=0, *, user_data=None):
        """Set an extended attribute of a path, links followed, to `value`, a buffer (Linux 5.19).

        flags  os.XATTR_CREATE, os.XATTR_REPLACE
        res    0; -E2BIG for a value beyond 64 KiB, -EOPNOTSUPP where the file system has none
        """
        return self.place().set_xattr(URING_OP_SETXATTR, None, path, name, value,
                                      flags).tag(user_data)

    def prep_fsetxattr(self, file, name, value, unsigned int flags=0, *, user_data=None):
        """prep_setxattr for an open file (Linux 5.19)."""
        return self.place().set_xattr(URING_OP_FSETXATTR, file, b"", name, value,
                                      flags).tag(user_data)

    def prep_getxattr(self, path, name, size=XATTR_SIZE_MAX, *, user_data=None):
        """An extended attribute of a path, links followed: the completion's `xattr` (Linux 5.19).

        size  how many bytes there is room for, up to 64 KiB, which is the longest value there is;
              0 asks for its length alone
        res   the value's length; -ERANGE if it is longer than `size`, -ENODATA if there is none
        """
        return self.place().get_xattr(URING_OP_GETXATTR, None, path, name, size).tag(user_data)

    def prep_fgetxattr(self, file, name, size=XATTR_SIZE_MAX, *, user_data=None):
        """prep_getxattr for an open file (Linux 5.19)."""
        return self.place().get_xattr(URING_OP_FGETXATTR, file, b"", name, size).tag(user_data)

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
