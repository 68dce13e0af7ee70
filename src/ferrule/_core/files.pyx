"""Files: opening, reading, writing, and the calls that take a path.

No path look-up and no call that may sleep runs on a loop thread.  What that leaves, per operation,
best first (docs/files.md has the figures behind each choice):

  * an attempt that cannot sleep, made inline: openat2 with RESOLVE_CACHED, preadv2 and pwritev2
    with RWF_NOWAIT.  -EAGAIN says it would have to wait, -EOPNOTSUPP that this file cannot tell;
  * the ring.  It does without a thread for reads that miss the page cache, pipes and sockets, and
    hands the rest to its own kernel threads, which costs half of what a thread of ours costs;
  * a worker thread for what the ring has no operation for;
  * a thread of its own for what may take for ever: the open of a FIFO, a lock, a terminal.

An open with O_NONBLOCK never waits for the other end of a FIFO, so every first attempt has it, and
what was opened tells what to do: see open_fd.

Cancellation: every operation begins with a check.  One that completed returns its result even if
the fiber was cancelled meanwhile, so no descriptor is lost; the next operation raises.  close() and
unlock() never raise Cancelled.  Nothing here runs user code between getting a descriptor and
storing it.
"""
cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.errno cimport (
    EAGAIN, EBADF, EINTR, EINVAL, EMFILE, ENFILE, ENOSYS, ENXIO, EPERM, errno,
)
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from ferrule._core.operation cimport (
    OP_CLOSE, OP_COPY_RANGE, OP_DONE, OP_FACCESSAT, OP_FALLOCATE, OP_FCHMOD, OP_FLOCK, OP_FSYNC,
    OP_FTRUNCATE, OP_GETDENTS, OP_IN_WORKER, OP_KINDS, OP_LINKAT, OP_LSEEK, OP_MAY_BLOCK,
    OP_MKDIRAT, OP_OPENAT, OP_POLL, OP_READ, OP_READLINKAT, OP_READV, OP_RENAMEAT, OP_STATX,
    OP_SYMLINKAT, OP_UNLINKAT, OP_WRITE, OP_WRITEV, URING_FSYNC_DATASYNC, iovec, op, op_rows,
    op_try_open, op_try_read, op_try_readv, op_try_write, op_try_writev,
)
from ferrule._core.scheduler cimport (
    Descriptor, Scheduler, Slot, Task, Waitable, current_scheduler, raise_error, scheduler_or_none,
)
from ferrule._core.sync cimport GRANTED, WaitList, grant

import os

from ferrule._core.scheduler import Cancelled

cdef extern from "<errno.h>" nogil:
    int ECANCELED, EOPNOTSUPP

cdef extern from "<fcntl.h>" nogil:
    int AT_EACCESS, AT_EMPTY_PATH, AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW
    int O_ACCMODE, O_APPEND, O_ASYNC, O_CLOEXEC, O_CREAT, O_DIRECT, O_DIRECTORY, O_NOATIME
    int O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY
    int F_DUPFD_CLOEXEC, F_SETFL
    int fcntl(int fd, int command, ...)

cdef extern from "<poll.h>" nogil:
    int POLLIN, POLLOUT
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout)

cdef extern from "<sys/file.h>" nogil:
    int LOCK_SH, LOCK_EX, LOCK_NB, LOCK_UN
    int flock(int fd, int operation)

cdef extern from "<sys/stat.h>" nogil:
    uint32_t S_IFMT, S_IFREG, S_IFIFO, S_IFDIR, S_IFCHR

cdef extern from "<unistd.h>" nogil:
    int SEEK_SET, SEEK_CUR, SEEK_END
    int posix_close "close"(int fd)
    int64_t posix_lseek "lseek"(int fd, int64_t off, int whence)
    ssize_t posix_write "write"(int fd, const void *buf, size_t n)
    ssize_t posix_pwrite "pwrite"(int fd, const void *buf, size_t n, int64_t off)

cdef extern from "Python.h":
    int PyUnicode_FSConverter(object path, PyObject **result) except 0
    object PyUnicode_DecodeFSDefaultAndSize(const char *s, Py_ssize_t n)
    int _PyBytes_Resize(PyObject **bytes, Py_ssize_t size) except -1
    PyObject *fe_new_bytes "PyBytes_FromStringAndSize"(const char *s, Py_ssize_t n) except NULL
    int PySys_Audit(const char *event, const char *fmt, ...) except -1

cdef extern from *:
    """
    #include <fcntl.h>
    #include <sys/stat.h>
    #include <sys/sysmacros.h>
    static inline void fe_facts_of_statx(const void *out, struct file_facts *f) {
        const struct statx *s = out;
        *f = (struct file_facts){
            .dev = makedev(s->stx_dev_major, s->stx_dev_minor), .ino = s->stx_ino,
            .nlink = s->stx_nlink, .rdev = makedev(s->stx_rdev_major, s->stx_rdev_minor),
            .size = s->stx_size, .blocks = s->stx_blocks, .block_size = s->stx_blksize,
            .mode = s->stx_mode, .uid = s->stx_uid, .gid = s->stx_gid,
            .atime = s->stx_atime.tv_sec, .mtime = s->stx_mtime.tv_sec,
            .ctime = s->stx_ctime.tv_sec, .atime_ns = s->stx_atime.tv_nsec,
            .mtime_ns = s->stx_mtime.tv_nsec, .ctime_ns = s->stx_ctime.tv_nsec};
    }
    static inline int fe_facts_of_fstat(int fd, struct file_facts *f) {
        struct stat s;
        if (fstat(fd, &s) < 0) {
            *f = (struct file_facts){0};
            return -errno;
        }
        *f = (struct file_facts){
            .dev = s.st_dev, .ino = s.st_ino, .nlink = s.st_nlink, .rdev = s.st_rdev,
            .size = s.st_size, .blocks = s.st_blocks, .block_size = s.st_blksize,
            .mode = s.st_mode, .uid = s.st_uid, .gid = s.st_gid,
            .atime = s.st_atim.tv_sec, .mtime = s.st_mtim.tv_sec, .ctime = s.st_ctim.tv_sec,
            .atime_ns = s.st_atim.tv_nsec, .mtime_ns = s.st_mtim.tv_nsec,
            .ctime_ns = s.st_ctim.tv_nsec};
        return 0;
    }
    /* What the kernel knows already: a network file system is not asked, so this never sleeps. */
    static inline int fe_facts_of_fd(int fd, struct file_facts *f) {
        struct statx s;
        if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_BASIC_STATS,
                  &s) == 0) {
            fe_facts_of_statx(&s, f);
            return 0;
        }
        if (errno != ENOSYS && errno != EPERM) {
            int err = errno;
            *f = (struct file_facts){0};
            return -err;
        }
        return fe_facts_of_fstat(fd, f); /* a seccomp filter of old */
    }
    /* On a block device, so no other machine and no other process has to be asked. */
    static inline int fe_is_local(const struct file_facts *f) { return major(f->dev) != 0; }
    #define FE_STATX_MASK STATX_BASIC_STATS
    struct fe_dirent { /* as getdents64 writes them */
        uint64_t ino;
        int64_t off;
        unsigned short reclen;
        unsigned char type;
        char name[];
    };
    """
    int fe_facts_of_fd(int fd, file_facts *f) nogil
    bint fe_is_local(const file_facts *f) nogil
    void fe_facts_of_statx(const void *out, file_facts *f) nogil
    uint32_t FE_STATX_MASK
    struct fe_dirent:
        uint64_t ino
        uint16_t reclen
        unsigned char type
        char name[1]

cdef enum:
    CHUNK = 256 * 1024          # copying it takes some 16 µs: what an inline attempt may hold up
    BULK = 1024 * 1024          # a transfer that is larger is moved by worker threads, taking turns
    BULK_STEP = 4 * 1024 * 1024  # in steps, between which it can be cancelled
    GETDENTS_BYTES = 32 * 1024
    LINK_BYTES = 4096           # PATH_MAX: no link is longer
    IOV_MAX = 1024
    HERE = -1                   # offset: at the file's own position

# Beyond the flags of open(2): ferrule.fs.Open has them too.
cdef uint64_t OPEN_LOCK_SHARED = 1 << 40
cdef uint64_t OPEN_LOCK_EXCLUSIVE = 1 << 41
cdef uint64_t OPEN_LOCK_NOWAIT = 1 << 42

cdef bint openat2_refused = False  # by an old kernel or a seccomp filter; only ever set


# ---- paths ----

cdef bytes path_bytes(object path):
    """The file system's form of a str, bytes or PathLike; refuses null bytes."""
    cdef PyObject *result = NULL
    PyUnicode_FSConverter(path, &result)
    encoded = <object>result
    Py_XDECREF(result)
    return encoded


cdef class DirectoryNumber:
    """A dir_fd= argument; keeps the Handle that it may have come from open while it is used."""
    cdef int fd
    cdef Handle handle

    def __cinit__(self, object dir_fd):
        self.fd = AT_FDCWD
        if dir_fd is None:
            return
        if isinstance(dir_fd, Handle):
            self.handle = <Handle>dir_fd
            self.handle.check_open()
            self.fd = self.handle.fd
        else:
            self.fd = dir_fd


cdef int raise_path_error(int64_t result, object path, object path2=None) except -1:
    cdef int err = <int>-result
    path = os.fspath(path) if path is not None else None
    if path2 is not None:
        raise OSError(err, os.strerror(err), path, None, os.fspath(path2))
    raise_error(result, path)


cdef int64_t inject(Scheduler s, int kind, uint64_t *n) except? -4096:
    return s.inject(kind, n) if s.faults is not None else 0


cdef int keep_object(Slot *slot, object owner) except -1:
    """The slot owns it until the last completion, whatever becomes of the fiber."""
    Py_INCREF(owner)
    slot.keep = <PyObject *>owner
    return 0


# ---- opening ----
#
# First inline: openat2 with RESOLVE_CACHED and O_NONBLOCK.  Then, for a path that is not cached and
# for opens that create or truncate, by the ring, still with O_NONBLOCK, so that no kernel thread is
# ever held by a FIFO.  What then remains to be done in a thread of its own:
#   -ENXIO      a FIFO, opened for writing, has no reader;
#   -EAGAIN     somebody holds a lease on the file and is given time to let go;
#   a FIFO opened for reading: see wait_for_writer.

cdef int64_t open_fd(Scheduler s, bytes path, int flags, uint32_t mode, int dir_fd,
                     file_facts *facts, Handle directory) except? -4096:
    """An open descriptor with its facts, or -errno."""
    cdef int64_t fd = -EAGAIN
    s.checkpoint()
    flags |= O_CLOEXEC
    if not openat2_refused and not flags & (O_CREAT | O_TRUNC | O_TMPFILE):
        s.spend_budget()  # now, since nothing may switch between getting the fd and storing it
        s.checkpoint()
        fd = try_open(s, path, flags, dir_fd)
        if fd >= 0:
            return settle(s, <int>fd, path, flags, mode, dir_fd, facts, directory)
    if fd == -EAGAIN:
        fd = open_waiting(s, path, flags | O_NONBLOCK, mode, dir_fd, 0, directory)
        if fd >= 0:
            return settle(s, <int>fd, path, flags, mode, dir_fd, facts, directory)
    if (fd == -ENXIO or fd == -EAGAIN) and not flags & O_NONBLOCK:
        fd = open_waiting(s, path, flags, mode, dir_fd, OP_MAY_BLOCK, directory)
        if fd >= 0:
            fill_facts(<int>fd, facts)
    return fd


cdef int64_t try_open(Scheduler s, bytes path, int flags, int dir_fd) except? -4096:
    global openat2_refused
    cdef int64_t fd = inject(s, OP_OPENAT, NULL)
    if fd == 0:
        fd = op_try_open(dir_fd, PyBytes_AS_STRING(path), flags, 0)
    if fd == -ENOSYS:
        openat2_refused = True
    # EPERM also from a seccomp filter, EINVAL from a kernel that does not know the resolve flag.
    if fd in (-ENOSYS, -EPERM, -EINVAL, -EINTR, -EOPNOTSUPP):
        return -EAGAIN
    return fd


cdef int64_t open_waiting(Scheduler s, bytes path, int flags, uint32_t mode, int dir_fd,
                          int trait, Handle directory) except? -4096:
    cdef Slot *slot
    cdef int64_t fd = -EINTR
    while fd == -EINTR:
        slot = s.take_slot(OP_OPENAT, dir_fd)
        try:
            keep_object(slot, path)
            slot.o.addr = PyBytes_AS_STRING(path)
            slot.o.flags = flags
            slot.o.mode = mode
            slot.o.traits |= trait
            fd = perform_in(directory, s, slot)
        finally:
            s.give_slot(slot)
    return fd


cdef int64_t perform_in(Handle directory, Scheduler s, Slot *slot) except? -4096:
    if directory is None:
        return s.perform(slot, 0, True)
    return directory.perform(s, slot, 0, True)


cdef int64_t settle(Scheduler s, int fd, bytes path, int flags, uint32_t mode, int dir_fd,
                    file_facts *facts, Handle directory) except? -4096:
    """What an O_NONBLOCK open gave, made what a blocking open gives."""
    if fill_facts(fd, facts) < 0:
        return fd
    if flags & (O_NONBLOCK | O_PATH):
        return fd
    if facts.mode & S_IFMT == S_IFIFO and flags & O_ACCMODE == O_RDONLY:
        return wait_for_writer(s, fd, path, flags, dir_fd, facts, directory)
    fcntl(fd, F_SETFL, flags & (O_APPEND | O_ASYNC | O_DIRECT | O_NOATIME))
    return fd


cdef int64_t wait_for_writer(Scheduler s, int fd, bytes path, int flags, int dir_fd,
                             file_facts *facts, Handle directory) except? -4096:
    """The open of a FIFO's read end waits until somebody has opened it for writing.

    `fd` is the read end already, got without waiting.  Closing it would lose what a writer may have
    written since; keeping it, a second open could wait for a writer that has come and gone.  So it
    is kept and watched while a thread does the open that waits, and whichever comes first wins.
    """
    cdef int64_t r = -EINTR
    if not has_had_writer(fd):
        try:
            if directory is not None:  # it may be closed meanwhile
                dir_fd = fcntl(dir_fd, F_DUPFD_CLOEXEC, 0)
                if dir_fd < 0:
                    r = -errno
            while r == -EINTR:
                r = open_or_notice(s, fd, path, flags, dir_fd)
        except BaseException:
            posix_close(fd)
            raise
        finally:
            if directory is not None and dir_fd >= 0:
                posix_close(dir_fd)
        if r != 0:
            posix_close(fd)
            return r
    fcntl(fd, F_SETFL, flags & (O_APPEND | O_ASYNC | O_DIRECT | O_NOATIME))
    return fd


cdef bint has_had_writer(int fd) noexcept:
    # Data, or the hang-up that is only shown to those who have seen a writer.
    cdef pollfd p
    p.fd = fd
    p.events = POLLIN
    p.revents = 0
    return poll(&p, 1, 0) > 0


@cython.internal
cdef class Either(Waitable):
    """Two operations that one fiber waits for."""
    cdef op *first
    cdef op *second
    cdef Scheduler scheduler

    cdef int abort_wait(self, Task task) except -1:
        self.scheduler.backend.cancel(self.first)
        self.scheduler.backend.cancel(self.second)
        return 0

    cdef str describe_wait(self, Task task):
        return "the other end of a FIFO"


cdef int64_t open_or_notice(Scheduler s, int watched, bytes path, int flags,
                            int dir_fd) except? -4096:
    """A second descriptor, 0 if the first one is good now, or -errno."""
    cdef Task me = s.about_to_wait()
    cdef Either either = Either.__new__(Either)
    cdef Slot *opening = s.take_slot(OP_OPENAT, dir_fd)
    cdef Slot *noticing = NULL
    try:
        noticing = s.take_slot(OP_POLL, watched)
        keep_object(opening, path)
        opening.o.addr = PyBytes_AS_STRING(path)
        opening.o.flags = flags
        opening.o.traits |= OP_MAY_BLOCK
        noticing.o.flags = POLLIN
        either.scheduler = s
        either.first = &opening.o
        either.second = &noticing.o
        start_for(s, me, &opening.o)
        start_for(s, me, &noticing.o)
        s.wait_on(me, either, 0, True)
        either.abort_wait(me)
        while opening.o.state != OP_DONE or noticing.o.state != OP_DONE:
            s.wait_on(me, either, 0, False)
        if opening.o.result >= 0:
            return opening.o.result
        if noticing.o.result > 0:
            return 0
        if opening.o.result == -ECANCELED or opening.o.result == -EINTR:
            s.checkpoint()
            return -EINTR
        return opening.o.result
    finally:
        s.give_slot(opening)
        if noticing != NULL:
            s.give_slot(noticing)


cdef int start_for(Scheduler s, Task me, op *o) except -1:
    o.generation += 1
    o.waiter = <void *>me
    s.backend.start(o)
    return 0


cdef int fill_facts(int fd, file_facts *facts) noexcept nogil:
    return fe_facts_of_fd(fd, facts)


# ---- large transfers ----

cdef class BulkTurns(WaitList):
    """Which fibers may move much data at once: about as many as there are processors.

    Each to its end before the next begins.  All at once they would share the disk as well, but
    fault in all their memory first, finish together, and crowd out the loop with their threads.
    """
    def __cinit__(self):
        self.free = max(2, min(8, len(os.sched_getaffinity(0))))

    cdef int take(self, Scheduler s) except -1:
        cdef Task me = s.about_to_wait()
        if self.free:
            self.free -= 1
        else:
            self.park(me, 0)
        return 0

    cdef int give(self) except -1:
        cdef Task task = self.pop()
        if task is None:
            self.free += 1
        else:
            grant(task, GRANTED)
        return 0

    cdef str describe_wait(self, Task task):
        return "its turn to move a large part of a file"


# ---- descriptors of files ----

cdef class Handle(Descriptor):
    """An open file, directory, pipe or terminal."""

    def __cinit__(self, *args, **kwargs):
        self.owned = True

    def __dealloc__(self):
        if self.fd >= 0 and self.owned and not self.closing:
            posix_close(self.fd)

    cdef int fail(self, int64_t result) except -1:
        return raise_error(result)

    cdef int open_path(self, Scheduler s, object path, int flags, uint32_t mode,
                       object dir_fd) except -1:
        cdef file_facts facts
        cdef int64_t fd
        cdef DirectoryNumber directory = DirectoryNumber(dir_fd)
        encoded = path_bytes(path)
        self.name = path
        fd = open_fd(s, encoded, flags, mode, directory.fd, &facts, directory.handle)
        if fd < 0:
            raise_path_error(fd, path)
        self.fd = <int>fd
        self.flags = flags
        self.learn(&facts)
        self.size_at_open = facts.size
        self.pristine = True
        return 0

    cdef int adopt(self, int fd, int flags) except -1:
        """Take over a number that somebody else opened."""
        cdef file_facts facts
        cdef int err
        if fd < 0:
            raise ValueError("negative file descriptor")
        err = fill_facts(fd, &facts)
        if err < 0:
            raise_error(err)
        self.fd = fd
        self.flags = flags
        self.learn(&facts)
        return 0

    cdef int learn(self, file_facts *facts) noexcept:
        self.kind = facts.mode & S_IFMT
        self.is_local = fe_is_local(facts)
        self.block_size = facts.block_size
        self.read_now = self.write_now = True
        return 0

    # -- transfers --

    cdef bint _is_bulk(self, uint64_t n) noexcept:
        # Cached or not: copying it would hold up the loop, and a thread costs little beside it.
        return n > BULK and self.kind == S_IFREG

    cdef BulkTurns begin_bulk(self, Scheduler s, uint64_t n):
        """Wait for this transfer's turn, before its memory is allocated; None if it needs none."""
        if not self._is_bulk(n) or self.finishing or self._must_not_wait(s):
            return None
        self.check_open()
        if s.bulk_turns is None:
            s.bulk_turns = BulkTurns()
        (<BulkTurns>s.bulk_turns).take(s)
        return <BulkTurns>s.bulk_turns

    cdef bint _must_not_wait(self, Scheduler s):
        return self.finalizing or s is None

    cdef int64_t read_some(self, Scheduler s, object owner, char *buf, uint64_t n,
                           int64_t off) except? -4096:
        """What one read gives: a count, 0 at the end, or -errno."""
        cdef int64_t r
        cdef uint64_t length
        while True:
            self.check_open()
            s.checkpoint()
            self.pristine = False
            if self.read_now and not self._is_bulk(n):
                length = min(n, <uint64_t>CHUNK)
                r = inject(s, OP_READ, &length)
                if r == 0:
                    r = op_try_read(self.fd, buf, length, off)
                if r >= 0:
                    s.spend_budget()
                    return r
                if r == -EOPNOTSUPP:
                    self.read_now = False
                elif r != -EAGAIN and r != -EINTR:
                    return r
            r = self._wait_transfer(s, OP_READ, owner, buf, n, off)
            if r == -EAGAIN:
                self._wait_ready(s, POLLIN)
            elif r != -EINTR:
                return r

    cdef int64_t _wait_transfer(self, Scheduler s, int kind, object owner, const char *buf,
                                uint64_t n, int64_t off) except? -4096:
        cdef Slot *slot = s.take_slot(kind, self.fd)
        try:
            if PyBytes_CheckExact(owner):
                keep_object(slot, owner)
            else:
                PyObject_GetBuffer(owner, &slot.view,
                                   PyBUF_WRITABLE if kind == OP_READ else PyBUF_SIMPLE)
                slot.has_view = True
            slot.o.addr = <void *>buf
            slot.o.len = n
            slot.o.off = off
            if self._is_bulk(n):
                slot.o.len = min(n, <uint64_t>BULK_STEP)
                slot.o.traits |= OP_IN_WORKER
            elif kind == OP_READ:
                slot.o.len = min(n, <uint64_t>CHUNK)  # the ring copies on the loop thread
            if self.kind != S_IFREG and not (
                    self.read_now if kind == OP_READ else self.write_now):
                # A terminal: one that polls as ready may still block the ring's own attempt.
                slot.o.traits |= OP_MAY_BLOCK
            return self.perform(s, slot, 0, not (self.finishing and self.kind == S_IFREG))
        finally:
            s.give_slot(slot)

    cdef int _wait_ready(self, Scheduler s, int events) except -1:
        """For descriptors that are O_NONBLOCK and kernels whose ring then answers EAGAIN."""
        cdef int64_t r
        cdef Slot *slot = s.take_slot(OP_POLL, self.fd)
        try:
            slot.o.flags = events
            r = self.perform(s, slot, 0, True)
        finally:
            s.give_slot(slot)
        if r < 0 and r != -EINTR:
            self.fail(r)
        return 0

    cdef int64_t read_full(self, Scheduler s, object owner, char *buf, uint64_t n,
                           int64_t off) except? -4096:
        """From a regular file as much as there is; from others what one read gives."""
        cdef uint64_t done = 0
        cdef int64_t r
        try:
            while True:
                r = self.read_some(s, owner, buf + done, n - done, off if off < 0 else off + done)
                if r < 0 and done == 0:
                    return r
                if r > 0:
                    done += r
                if r <= 0 or done == n or self.kind != S_IFREG:
                    return done
        except Cancelled:
            if done == 0 or not self.partial_counts:
                raise
            return done

    cdef object read_bytes(self, Scheduler s, uint64_t n, int64_t off):
        cdef BulkTurns turns = self.begin_bulk(s, n)
        cdef PyObject *data = NULL
        cdef int64_t r
        try:
            data = fe_new_bytes(NULL, n)
            r = self.read_full(s, <object>data, PyBytes_AS_STRING(<object>data), n, off)
            if r < 0:
                self.fail(r)
            if <uint64_t>r < n:
                _PyBytes_Resize(&data, r)
            return <object>data
        finally:
            Py_XDECREF(data)
            if turns is not None:
                turns.give()

    cdef object read_into(self, object buffer, int64_t off):
        cdef Py_buffer view
        cdef BulkTurns turns = None
        cdef Scheduler s = current_scheduler()
        cdef int64_t n
        try:
            PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        except BufferError:
            raise TypeError("the argument must be a read-write bytes-like object, not "
                            f"{type(buffer).__name__}") from None
        try:
            turns = self.begin_bulk(s, view.len)
            n = self.read_full(s, buffer, <char *>view.buf, view.len, off)
        finally:
            PyBuffer_Release(&view)
            if turns is not None:
                turns.give()
        if n < 0:
            self.fail(n)
        return n

    cdef object read_rest(self, Scheduler s):
        """Everything up to the end, as bytes."""
        cdef PyObject *data = NULL
        cdef BulkTurns turns
        cdef file_facts facts
        cdef int64_t pos = 0, r
        cdef uint64_t room = 8192, done = 0
        if self.kind == S_IFREG:
            if self.pristine:
                facts.size = self.size_at_open
            else:
                fill_facts(self.fd, &facts)
                pos = max(posix_lseek(self.fd, 0, SEEK_CUR), 0)
            if facts.size > pos:
                room = facts.size - pos + 1  # one more shows the end without growing
        turns = self.begin_bulk(s, room)
        try:
            data = fe_new_bytes(NULL, room)
            while True:
                r = self.read_some(s, <object>data, PyBytes_AS_STRING(<object>data) + done,
                                   room - done, HERE)
                if r < 0:
                    self.fail(r)
                if r == 0:
                    break
                done += r
                if done == room:
                    room += max(<uint64_t>CHUNK, room >> 1)
                    _PyBytes_Resize(&data, room)
            if done < room:
                _PyBytes_Resize(&data, done)
            return <object>data
        finally:
            Py_XDECREF(data)
            if turns is not None:
                turns.give()

    cdef int64_t write_some(self, Scheduler s, object owner, const char *buf, uint64_t n,
                            int64_t off) except? -4096:
        """What one write takes: a count or -errno."""
        cdef int64_t r
        cdef uint64_t length
        if self._must_not_wait(s):
            return self._write_in_place(buf, n, off)
        while True:
            self.check_open()
            if not self.finishing:
                s.checkpoint()
            self.pristine = False
            if self.write_now and not self._is_bulk(n):
                length = min(n, <uint64_t>CHUNK)
                r = inject(s, OP_WRITE, &length)
                if r == 0:
                    r = op_try_write(self.fd, buf, length, off)
                if r >= 0:
                    s.spend_budget()
                    return r
                if r == -EOPNOTSUPP:
                    self.write_now = False
                elif r != -EAGAIN and r != -EINTR:
                    return r
            r = self._wait_transfer(s, OP_WRITE, owner, buf, n, off)
            if r == -EAGAIN:
                self._wait_ready(s, POLLOUT)
            elif r != -EINTR:
                return r

    cdef int64_t _write_in_place(self, const char *buf, uint64_t n, int64_t off) noexcept:
        # The collector or the end of the program flushes a forgotten file: no fiber to park.  A
        # pipe that is full would hold the thread for ever, so there nothing waits.
        cdef int64_t r
        if self.kind == S_IFREG:
            r = posix_write(self.fd, buf, n) if off < 0 else posix_pwrite(self.fd, buf, n, off)
            return -errno if r < 0 else r
        return op_try_write(self.fd, buf, n, off)

    cdef int64_t write_full(self, Scheduler s, object owner, const char *buf, uint64_t n,
                            int64_t off) except? -4096:
        cdef uint64_t done = 0
        cdef int64_t r
        while True:
            r = self.write_some(s, owner, buf + done, n - done, off if off < 0 else off + done)
            if r < 0:
                return r
            done += r
            if done == n:
                return done

    cdef int64_t move(self, int64_t off, int whence) except? -4096:
        cdef Scheduler s = scheduler_or_none()
        cdef int64_t r
        self.check_open()
        if whence > SEEK_END:  # SEEK_DATA and SEEK_HOLE read the file's block map
            return self.call(OP_LSEEK, whence, 0, off, 0)
        r = 0 if s is None else inject(s, OP_LSEEK, NULL)
        if r == 0:
            r = posix_lseek(self.fd, off, whence)
            if r < 0:
                return -errno
            if whence != SEEK_CUR or off != 0:
                self.pristine = False
        return r

    cdef int64_t call(self, int kind, uint32_t flags, uint32_t mode, int64_t off, uint64_t n,
                      bint cancellable=True) except? -4096:
        """An operation on the open file that has no inline form."""
        cdef Scheduler s = current_scheduler()
        cdef Slot *slot
        cdef int64_t r = -EINTR
        while r == -EINTR:
            self.check_open()
            slot = s.take_slot(kind, self.fd)
            try:
                slot.o.flags = flags
                slot.o.mode = mode
                slot.o.off = off
                slot.o.len = n
                if kind == OP_FLOCK:
                    slot.o.traits |= OP_MAY_BLOCK
                r = self.perform(s, slot, 0, cancellable)
            finally:
                s.give_slot(slot)
        return r

    # -- closing --

    cdef int shut(self) except -1:
        """Close the number, whatever happens.  Never a cancellation point."""
        cdef Scheduler s = scheduler_or_none()
        cdef int fd
        cdef int64_t r = 0
        cdef int trait = self._close_trait()
        if s is not None and s.dead:
            self.in_flight = NULL  # a forked child: those are the parent's
        fd = self.close_fd()
        if fd < 0 or not self.owned:
            return 0
        if trait >= 0 and self._may_switch(s):
            r = close_elsewhere(s, fd, trait)
        else:
            if s is not None:
                r = inject(s, OP_CLOSE, NULL)
            if posix_close(fd) < 0 and r == 0:
                r = -errno
        if r < 0 and r != -EINTR:
            self.fail(r)
        return 0

    cdef int _close_trait(self) noexcept:
        """How to close: -1 inline, else the traits of the operation.

        The close of what was only read is quick.  What was written a network file system flushes
        first, which the ring knows to leave to a kernel thread; and with the last descriptor of a
        large file that has no name any more its blocks are freed, on the spot.
        """
        cdef file_facts facts
        cdef bint written = self.flags & O_ACCMODE != O_RDONLY
        if self.kind != S_IFREG or not (written or self.size_at_open > CHUNK):
            return -1
        if fill_facts(self.fd, &facts) == 0 and facts.nlink == 0 and facts.size > CHUNK:
            return OP_IN_WORKER
        return 0 if written else -1

    cdef bint _may_switch(self, Scheduler s) noexcept:
        # Not from the collector, a signal handler, a callback of the loop or after the run; and
        # not while faults are planned: the descriptor must be closed even if the close "fails".
        return (s is not None and not self.finalizing and not s.dead and not s.closed
                and s.faults is None and s.current is not None and not s.in_tick
                and not s.current.no_switch)

    def close(self):
        """Close the file; operations in flight on it end with EBADF first.  Idempotent.

        A switch point if there were any; never a cancellation point.
        """
        self.shut()

    def fileno(self):
        """The descriptor's number; ValueError once closed."""
        if self.fd < 0:
            raise ValueError("I/O operation on closed file")
        return self.fd

    @property
    def closed(self):
        """Whether close() was called."""
        return self.fd < 0 or self.closing

    def __enter__(self):
        self.check_open()
        return self

    def __exit__(self, *exc):
        self.close()


cdef int64_t close_elsewhere(Scheduler s, int fd, int trait) except? -4096:
    cdef Slot *slot
    cdef int64_t r
    try:
        slot = s.take_slot(OP_CLOSE, fd)
    except MemoryError:
        return -errno if posix_close(fd) < 0 else 0
    try:
        slot.o.traits |= trait
        r = s.perform(slot, 0, False)
    finally:
        s.give_slot(slot)
    return r


# ---- stat ----

cdef object stat_type = os.stat_result


cdef object stat_result(const file_facts *f):
    cdef int64_t billion = 1_000_000_000
    return stat_type((
        f.mode, f.ino, f.dev, f.nlink, f.uid, f.gid, f.size, f.atime, f.mtime, f.ctime,
        f.atime + f.atime_ns * 1e-9, f.mtime + f.mtime_ns * 1e-9, f.ctime + f.ctime_ns * 1e-9,
        f.atime * billion + f.atime_ns, f.mtime * billion + f.mtime_ns,
        f.ctime * billion + f.ctime_ns, f.block_size, f.blocks, f.rdev))


# ---- vectors ----

@cython.internal
@cython.no_gc
cdef class Vector:
    """Buffers as iovecs, exported until this is freed; moves on as bytes are done."""
    cdef Py_buffer *views
    cdef iovec *vectors
    cdef Py_ssize_t count, first
    cdef uint64_t left

    def __cinit__(self, object buffers, int flags):
        cdef Py_ssize_t i
        items = list(buffers)
        self.views = <Py_buffer *>PyMem_Malloc((len(items) + 1) * sizeof(Py_buffer))
        self.vectors = <iovec *>PyMem_Malloc((len(items) + 1) * sizeof(iovec))
        if self.views == NULL or self.vectors == NULL:
            raise MemoryError("no memory for the vector")
        for i in range(len(items)):
            PyObject_GetBuffer(items[i], &self.views[i], flags)
            self.count += 1
            self.vectors[i].iov_base = self.views[i].buf
            self.vectors[i].iov_len = self.views[i].len
            self.left += self.views[i].len

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            PyBuffer_Release(&self.views[i])
        PyMem_Free(self.views)
        PyMem_Free(self.vectors)

    cdef int advance(self, uint64_t n) except -1:
        cdef iovec *v
        self.left -= n
        while n and n >= self.vectors[self.first].iov_len:
            n -= self.vectors[self.first].iov_len
            self.first += 1
        if n:
            v = &self.vectors[self.first]
            v.iov_base = <char *>v.iov_base + n
            v.iov_len -= n
        return 0


# ---- fs.File ----

cdef class File(Handle):
    """An open file with positional, streaming and vectored operations; a context manager.

    Made by `File.open`.  Positional operations may run at the same time from several fibers.
    Reading a regular file comes back short only at its end; writing never.  Everything here parks
    only the fiber and is a switch and cancellation point, unless it says otherwise.  A loop that is
    cancelled half-way raises Cancelled though a part was done.
    """

    @classmethod
    def open(cls, path, flags=0, int mode=0o666, *, dir_fd=None):
        """Open ``path`` with the flags of `os.open` or `ferrule.fs.Open`; O_CLOEXEC is added.

        ``mode`` are the permission bits of a file that is made; ``dir_fd`` is what a relative path
        is relative to.  With a lock among the flags the file is locked before this returns, and
        only then truncated; LOCK_NOWAIT raises BlockingIOError where it would have to wait.  A
        switch and cancellation point.
        """
        cdef File self = cls.__new__(cls)
        cdef uint64_t all_flags = flags
        cdef int plain = all_flags & 0xffffffff
        cdef bint locks = all_flags & (OPEN_LOCK_SHARED | OPEN_LOCK_EXCLUSIVE) != 0
        PySys_Audit("open", "OOi", <PyObject *>path, <PyObject *>None, plain)
        # Truncating before the lock is ours would empty a file that somebody else works on.
        self.open_path(current_scheduler(), path, plain & ~O_TRUNC if locks else plain, mode,
                       dir_fd)
        if locks:
            try:
                self.lock_at_open(all_flags)
            except BaseException:
                self.close()
                raise
        return self

    cdef int lock_at_open(self, uint64_t flags) except -1:
        cdef bint shared = flags & OPEN_LOCK_EXCLUSIVE == 0
        if not flags & OPEN_LOCK_NOWAIT:
            self.lock(shared=shared)
        elif not self.try_lock(shared=shared):
            raise_path_error(-EAGAIN, self.name)
        if flags & O_TRUNC:
            self.truncate(0)
        return 0

    # -- at an offset --

    def pread(self, size, offset, /):
        """At most ``size`` bytes from ``offset``."""
        return self.read_bytes(current_scheduler(), checked_size(size), checked_offset(offset))

    def readinto_at(self, buffer, offset, /):
        """Fill a writable buffer from ``offset``; how many bytes."""
        return self.read_into(buffer, checked_offset(offset))

    def pwrite(self, data, offset, /):
        """Write all of ``data`` at ``offset``; its length."""
        return self.write_from(data, checked_offset(offset))

    def preadv(self, buffers, offset, /):
        """Fill the buffers in their order from ``offset``; how many bytes."""
        return self.transfer(buffers, OP_READV, checked_offset(offset))

    def pwritev(self, buffers, offset, /):
        """Write all the buffers in their order at ``offset``; how many bytes."""
        return self.transfer(buffers, OP_WRITEV, checked_offset(offset))

    # -- at the position --

    def read(self, size=-1, /):
        """At most ``size`` bytes from the position on, or all there is."""
        cdef int64_t n = -1 if size is None else size
        if n < 0:
            return self.read_rest(current_scheduler())
        return self.read_bytes(current_scheduler(), n, HERE)

    def readinto(self, buffer, /):
        """Fill a writable buffer from the position on; how many bytes."""
        return self.read_into(buffer, HERE)

    def readv(self, buffers, /):
        """Fill the buffers in their order from the position on; how many bytes."""
        return self.transfer(buffers, OP_READV, HERE)

    def write(self, data, /):
        """Write all of ``data`` at the position; its length."""
        return self.write_from(data, HERE)

    def writev(self, buffers, /):
        """Write all the buffers in their order at the position; how many bytes."""
        return self.transfer(buffers, OP_WRITEV, HERE)

    def seek_to(self, offset, /):
        """Move the position to ``offset`` from the start; the new one.  Not a switch point."""
        return self.moved(checked_offset(offset), SEEK_SET)

    def seek_by(self, distance, /):
        """Move the position by ``distance`` bytes; the new one.  Not a switch point."""
        return self.moved(distance, SEEK_CUR)

    def moved(self, int64_t offset, int whence):
        cdef int64_t r = self.move(offset, whence)
        if r < 0:
            self.fail(r)
        return r

    # -- the file itself --

    def stat(self):
        """The file's `os.stat_result`.  A cancellation point, not a switch point."""
        return stat_of_open(self)

    def truncate(self, size, /):
        """Set the size to ``size`` bytes."""
        self.done(self.call(OP_FTRUNCATE, 0, 0, 0, checked_size(size)))

    def fsync(self):
        """Wait until data and metadata are on the disk."""
        self.done(self.call(OP_FSYNC, 0, 0, 0, 0))

    def fdatasync(self):
        """Wait until the data, and what is needed to find it, are on the disk."""
        self.done(self.call(OP_FSYNC, URING_FSYNC_DATASYNC, 0, 0, 0))

    def fallocate(self, offset, size, /, *, int mode=0):
        """Reserve disk space for a range; ``mode`` as in fallocate(2)."""
        self.done(self.call(OP_FALLOCATE, 0, mode, checked_offset(offset), checked_size(size)))

    def chmod(self, int mode, /):
        """Set the permission bits."""
        self.done(self.call(OP_FCHMOD, 0, mode, 0, 0))

    # -- locks: those of flock(2); they belong to the open file and go with its last descriptor --

    def lock(self, *, bint shared=False):
        """Lock the whole file, exclusively or shared; wait while others hold it.

        Parks only the fiber.  When cancelled, the lock is not held.
        """
        if not self.lock_now(shared):
            self.lock_waiting(LOCK_SH if shared else LOCK_EX)

    def try_lock(self, *, bint shared=False):
        """As lock(), but returns False at once where it would wait."""
        return self.lock_now(shared)

    def unlock(self):
        """Give up the lock, if there is one.  Never a cancellation point.

        A switch point only on a network file system.
        """
        cdef Scheduler s = scheduler_or_none()
        cdef int64_t r
        self.check_open()
        if self.is_local or not self._may_switch(s):
            r = -errno if flock(self.fd, LOCK_UN) < 0 else 0
        else:
            r = self.call(OP_FLOCK, LOCK_UN, 0, 0, 0, False)
        self.done(r)

    def lock_now(self, bint shared):
        # On a network file system even an attempt that does not wait asks the server.
        cdef Scheduler s = current_scheduler()
        cdef int how = (LOCK_SH if shared else LOCK_EX) | LOCK_NB
        cdef int64_t r = -EINTR
        self.check_open()
        s.checkpoint()
        if not self.is_local:
            r = self.call(OP_FLOCK, how, 0, 0, 0)
        while r == -EINTR:
            r = inject(s, OP_FLOCK, NULL)
            if r == 0 and flock(self.fd, how) < 0:
                r = -errno
        s.spend_budget()
        if r != -EAGAIN:
            self.done(r)
        return r == 0

    def lock_waiting(self, int how):
        cdef int64_t r = self.call(OP_FLOCK, how, 0, 0, 0)
        if r == 0 and self.closing:
            # Granted while close() waited for us: another descriptor of the same open file would
            # keep it.
            flock(self.fd, LOCK_UN)
            r = -EBADF
        self.done(r)

    # -- the ways down --

    cdef int done(self, int64_t r) except -1:
        if r < 0:
            self.fail(r)
        return 0

    cdef object write_from(self, object data, int64_t offset):
        cdef Py_buffer view
        cdef BulkTurns turns = None
        cdef Scheduler s = current_scheduler()
        cdef int64_t n
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            turns = self.begin_bulk(s, view.len)
            n = self.write_full(s, data, <char *>view.buf, view.len, offset)
        finally:
            PyBuffer_Release(&view)
            if turns is not None:
                turns.give()
        self.done(n)
        return n

    cdef object transfer(self, object buffers, int kind, int64_t offset):
        cdef bint reading = kind == OP_READV
        cdef Vector vector = Vector(buffers, PyBUF_WRITABLE if reading else PyBUF_SIMPLE)
        cdef uint64_t total = vector.left
        cdef int64_t r = 0
        cdef Scheduler s = current_scheduler()
        self.check_open()
        s.checkpoint()
        self.pristine = False
        while vector.left:
            r = self.transfer_some(s, vector, kind, offset)
            if r < 0 and vector.left == total:
                self.fail(r)
            if r <= 0:
                break
            vector.advance(r)
            if offset >= 0:
                offset += r
            if reading and self.kind != S_IFREG:
                break
        return total - vector.left

    cdef int64_t transfer_some(self, Scheduler s, Vector v, int kind, int64_t off) except? -4096:
        cdef int64_t r
        cdef int count = min(v.count - v.first, IOV_MAX)
        cdef bint reading = kind == OP_READV
        while True:
            self.check_open()
            s.checkpoint()
            if v.left <= CHUNK and (self.read_now if reading else self.write_now):
                r = inject(s, kind, NULL)
                if r == 0:
                    r = (op_try_readv if reading else op_try_writev)(
                        self.fd, v.vectors + v.first, count, off)
                if r >= 0:
                    s.spend_budget()
                    return r
                if r == -EOPNOTSUPP and reading:
                    self.read_now = False
                elif r == -EOPNOTSUPP:
                    self.write_now = False
                elif r != -EAGAIN and r != -EINTR:
                    return r
            r = self.wait_transfer(s, v, kind, count, off)
            if r == -EAGAIN:
                self._wait_ready(s, POLLIN if reading else POLLOUT)
            elif r != -EINTR:
                return r

    cdef int64_t wait_transfer(self, Scheduler s, Vector v, int kind, int count,
                               int64_t off) except? -4096:
        cdef Slot *slot = s.take_slot(kind, self.fd)
        try:
            keep_object(slot, v)
            slot.o.addr = v.vectors + v.first
            slot.o.len = count
            slot.o.off = off
            if self.kind != S_IFREG and not (
                    self.read_now if kind == OP_READV else self.write_now):
                slot.o.traits |= OP_MAY_BLOCK
            return self.perform(s, slot, 0, True)
        finally:
            s.give_slot(slot)


cdef object stat_of_open(Handle handle):
    cdef file_facts facts
    cdef DirectoryNumber number
    cdef Scheduler s = current_scheduler()
    cdef int64_t r
    handle.check_open()
    s.checkpoint()
    r = inject(s, OP_STATX, NULL)
    if r == 0:
        r = fill_facts(handle.fd, &facts)
    if r == 0 and not handle.is_local:
        number = DirectoryNumber(handle)
        r = stat_waiting(s, b"", number, AT_EMPTY_PATH, &facts)
    if r != 0:
        handle.fail(r)
    return stat_result(&facts)


cdef int64_t checked_offset(object offset) except -1:
    if offset < 0:
        raise ValueError("the offset must not be negative")
    return offset


cdef int64_t checked_size(object size) except -1:
    if size < 0:
        raise ValueError("the size must not be negative")
    return size


# ---- calls that take paths ----
#
# Never inline: a look-up may read the disk.  Only a stat needs no more than an O_PATH descriptor,
# and that can be had without sleeping when the path is cached.

cdef object number_or_none(object path):
    """A descriptor's number, where a path may be one."""
    if isinstance(path, int):
        return path
    if isinstance(path, Handle):
        return path.fileno()
    return None


cdef int64_t call_path(Scheduler s, int kind, bytes path, DirectoryNumber directory, uint32_t flags,
                       uint32_t mode) except? -4096:
    cdef Slot *slot
    cdef int64_t r = -EINTR
    while r == -EINTR:
        slot = s.take_slot(kind, directory.fd)
        try:
            keep_object(slot, path)
            slot.o.addr = PyBytes_AS_STRING(path)
            slot.o.flags = flags
            slot.o.mode = mode
            r = perform_in(directory.handle, s, slot)
        finally:
            s.give_slot(slot)
    return r


cdef int64_t call_paths(Scheduler s, int kind, bytes path, DirectoryNumber directory, bytes path2,
                        DirectoryNumber directory2, uint32_t flags) except? -4096:
    cdef Slot *slot
    cdef int64_t r = -EINTR
    cdef int fd2 = directory2.fd
    if directory2.handle is not None and directory2.handle is not directory.handle:
        # Only the first one's close() knows of the operation: the second needs a number of its own.
        fd2 = fcntl(fd2, F_DUPFD_CLOEXEC, 0)
        if fd2 < 0:
            return -errno
    try:
        while r == -EINTR:
            slot = s.take_slot(kind, directory.fd)
            try:
                keep_object(slot, (path, path2))
                slot.o.addr = PyBytes_AS_STRING(path)
                slot.o.fd2 = fd2
                slot.o.addr2 = PyBytes_AS_STRING(path2)
                slot.o.flags = flags
                r = perform_in(directory.handle, s, slot)
            finally:
                s.give_slot(slot)
    finally:
        if fd2 != directory2.fd:
            posix_close(fd2)
    return r


cdef int do_path(int kind, object path, object dir_fd, uint32_t flags, uint32_t mode) except -1:
    cdef DirectoryNumber directory = DirectoryNumber(dir_fd)
    cdef int64_t r = call_path(current_scheduler(), kind, path_bytes(path), directory, flags, mode)
    if r < 0:
        raise_path_error(r, path)
    return 0


cdef int do_paths(int kind, object src, object src_dir_fd, object dst, object dst_dir_fd,
                  uint32_t flags) except -1:
    cdef DirectoryNumber a = DirectoryNumber(src_dir_fd), b = DirectoryNumber(dst_dir_fd)
    cdef int64_t r = call_paths(current_scheduler(), kind, path_bytes(src), a, path_bytes(dst), b,
                                flags)
    if r < 0:
        raise_path_error(r, src, dst)
    return 0


cdef int64_t try_stat(Scheduler s, bytes path, int dir_fd, bint follow,
                      file_facts *facts) except? -4096:
    global openat2_refused
    cdef int64_t fd = inject(s, OP_STATX, NULL)
    cdef int64_t r
    if fd == 0:
        fd = op_try_open(dir_fd, PyBytes_AS_STRING(path), O_PATH | (0 if follow else O_NOFOLLOW), 0)
    if fd == -ENOSYS:
        openat2_refused = True
    if fd < 0:
        return fd
    r = fill_facts(<int>fd, facts)
    posix_close(<int>fd)
    return r if r < 0 or fe_is_local(facts) else -EAGAIN


cdef int64_t stat_waiting(Scheduler s, bytes path, DirectoryNumber directory, int flags,
                          file_facts *facts) except? -4096:
    cdef Slot *slot
    cdef int64_t r = -EINTR
    while r == -EINTR:
        slot = s.take_slot(OP_STATX, directory.fd)
        try:
            keep_object(slot, path)
            slot.o.addr = PyBytes_AS_STRING(path)
            slot.o.addr2 = &slot.o.out
            slot.o.flags = flags
            slot.o.mode = FE_STATX_MASK
            r = perform_in(directory.handle, s, slot)
            if r == 0:
                fe_facts_of_statx(&slot.o.out, facts)
        finally:
            s.give_slot(slot)
    return r


def stat(path, *, dir_fd=None, bint follow_symlinks=True):
    """The `os.stat_result` of a path or a descriptor, as os.stat."""
    cdef Scheduler s = current_scheduler()
    cdef file_facts facts
    cdef DirectoryNumber directory
    cdef int64_t r = -EAGAIN
    number = number_or_none(path)
    if number is not None:
        return stat_of_number(s, number)
    directory = DirectoryNumber(dir_fd)
    encoded = path_bytes(path)
    s.checkpoint()
    if not openat2_refused:
        r = try_stat(s, encoded, directory.fd, follow_symlinks, &facts)
        s.spend_budget()
    if r in (-EAGAIN, -ENOSYS, -EPERM, -EINVAL, -EMFILE, -ENFILE, -EINTR, -EOPNOTSUPP):
        r = stat_waiting(s, encoded, directory, 0 if follow_symlinks else AT_SYMLINK_NOFOLLOW,
                         &facts)
    if r < 0:
        raise_path_error(r, path)
    return stat_result(&facts)


cdef object stat_of_number(Scheduler s, int fd):
    cdef file_facts facts
    cdef DirectoryNumber number
    s.checkpoint()
    cdef int64_t r = inject(s, OP_STATX, NULL)
    if r == 0:
        r = fill_facts(fd, &facts)
    if r == 0 and not fe_is_local(&facts):
        number = DirectoryNumber(fd)
        r = stat_waiting(s, b"", number, AT_EMPTY_PATH, &facts)
    if r != 0:
        raise_error(r)
    return stat_result(&facts)


def lstat(path, *, dir_fd=None):
    """As stat(), but of a symbolic link itself."""
    return stat(path, dir_fd=dir_fd, follow_symlinks=False)


def access(path, int mode, *, dir_fd=None, bint effective_ids=False, bint follow_symlinks=True):
    """Whether the process may use the path so (os.F_OK, R_OK, W_OK, X_OK); as os.access."""
    cdef DirectoryNumber directory = DirectoryNumber(dir_fd)
    cdef uint32_t flags = 0
    if effective_ids:
        flags |= AT_EACCESS
    if not follow_symlinks:
        flags |= AT_SYMLINK_NOFOLLOW
    return call_path(current_scheduler(), OP_FACCESSAT, path_bytes(path), directory, flags,
                     mode) == 0


def mkdir(path, int mode=0o777, *, dir_fd=None):
    """Make a directory, as os.mkdir."""
    PySys_Audit("os.mkdir", "Oi", <PyObject *>path, mode)
    do_path(OP_MKDIRAT, path, dir_fd, 0, mode)


def unlink(path, *, dir_fd=None):
    """Remove a file, as os.unlink."""
    PySys_Audit("os.remove", "O", <PyObject *>path)
    do_path(OP_UNLINKAT, path, dir_fd, 0, 0)


def rmdir(path, *, dir_fd=None):
    """Remove an empty directory, as os.rmdir."""
    PySys_Audit("os.rmdir", "O", <PyObject *>path)
    do_path(OP_UNLINKAT, path, dir_fd, AT_REMOVEDIR, 0)


def rename(src, dst, *, src_dir_fd=None, dst_dir_fd=None):
    """Rename, replacing what is at ``dst``, as os.rename."""
    PySys_Audit("os.rename", "OO", <PyObject *>src, <PyObject *>dst)
    do_paths(OP_RENAMEAT, src, src_dir_fd, dst, dst_dir_fd, 0)


def link(src, dst, *, src_dir_fd=None, dst_dir_fd=None, bint follow_symlinks=True):
    """Make a hard link ``dst`` to ``src``, as os.link."""
    PySys_Audit("os.link", "OO", <PyObject *>src, <PyObject *>dst)
    do_paths(OP_LINKAT, src, src_dir_fd, dst, dst_dir_fd,
             AT_SYMLINK_FOLLOW if follow_symlinks else 0)


def symlink(src, dst, target_is_directory=False, *, dir_fd=None):
    """Make a symbolic link ``dst`` that says ``src``, as os.symlink."""
    cdef DirectoryNumber directory = DirectoryNumber(dir_fd)
    cdef DirectoryNumber nowhere = DirectoryNumber(None)
    PySys_Audit("os.symlink", "OO", <PyObject *>src, <PyObject *>dst)
    cdef int64_t r = call_paths(current_scheduler(), OP_SYMLINKAT, path_bytes(src), directory,
                                path_bytes(dst), nowhere, 0)
    if r < 0:
        raise_path_error(r, src, dst)


def readlink(path, *, dir_fd=None):
    """What a symbolic link says: str, or bytes for a path of bytes; as os.readlink."""
    cdef Scheduler s = current_scheduler()
    cdef DirectoryNumber directory = DirectoryNumber(dir_fd)
    cdef Slot *slot
    cdef int64_t r = -EINTR
    encoded = path_bytes(path)
    said = PyBytes_FromStringAndSize(NULL, LINK_BYTES)
    while r == -EINTR:
        slot = s.take_slot(OP_READLINKAT, directory.fd)
        try:
            keep_object(slot, (encoded, said))
            slot.o.addr = PyBytes_AS_STRING(encoded)
            slot.o.addr2 = PyBytes_AS_STRING(said)
            slot.o.len = LINK_BYTES
            r = perform_in(directory.handle, s, slot)
        finally:
            s.give_slot(slot)
    if r < 0:
        raise_path_error(r, path)
    said = said[:r]
    return said if isinstance(os.fspath(path), bytes) else os.fsdecode(said)


# ---- directories ----

cdef class DirectoryHandle(Handle):
    """An open directory; what `ferrule.fs.Directory` adds names to."""

    @classmethod
    def open(cls, path, *, dir_fd=None, bint follow_symlinks=True):
        """Open the directory ``path``; NotADirectoryError for a link that is not to be followed.

        A switch and cancellation point.
        """
        cdef DirectoryHandle self = cls.__new__(cls)
        cdef int flags = O_RDONLY | O_DIRECTORY | (0 if follow_symlinks else O_NOFOLLOW)
        self.open_path(current_scheduler(), path, flags, 0, dir_fd)
        return self

    @classmethod
    def of_number(cls, int fd):
        """An open directory of its own for the one behind a descriptor."""
        cdef DirectoryHandle self = cls.__new__(cls)
        cdef int mine = fcntl(fd, F_DUPFD_CLOEXEC, 0)
        if mine < 0:
            raise_error(-errno)
        self.adopt(mine, O_RDONLY)
        self.name = fd
        return self

    cdef int fail(self, int64_t result) except -1:
        return raise_path_error(result, self.name if not isinstance(self.name, int) else None)

    def read_entries(self):
        """The next [(name as bytes, inode, type of DT_*)] of the directory, [] at the end."""
        cdef Scheduler s = current_scheduler()
        cdef Slot *slot
        cdef int64_t r = -EINTR, at = 0
        cdef fe_dirent *entry
        cdef char *base
        cdef list found = []
        block = PyBytes_FromStringAndSize(NULL, GETDENTS_BYTES)
        base = PyBytes_AS_STRING(block)
        while not found:
            r = -EINTR
            while r == -EINTR:
                self.check_open()
                slot = s.take_slot(OP_GETDENTS, self.fd)
                try:
                    keep_object(slot, block)
                    slot.o.addr = base
                    slot.o.len = GETDENTS_BYTES
                    r = self.perform(s, slot, 0, True)
                finally:
                    s.give_slot(slot)
            if r < 0:
                self.fail(r)
            if r == 0:
                break
            at = 0
            while at < r:
                entry = <fe_dirent *>(base + at)
                at += entry.reclen
                name = <bytes>entry.name
                if name != b"." and name != b"..":
                    found.append((name, entry.ino, entry.type))
        return found

    def rewind(self):
        """Begin again with the first entry.  Not a switch point."""
        self.move(0, SEEK_SET)

    def stat(self):
        """The directory's own `os.stat_result`."""
        return stat_of_open(self)

    def fsync(self):
        """Wait until the names in the directory are on the disk."""
        cdef int64_t r = self.call(OP_FSYNC, 0, 0, 0, 0)
        if r < 0:
            self.fail(r)


def copy_some(Handle source, Handle target, uint64_t size):
    """Copy up to ``size`` bytes between the positions of two files, in the kernel; how many.

    0 at the end of the source.  OSError with EXDEV, EINVAL and others where the kernel cannot.
    """
    cdef Scheduler s = current_scheduler()
    cdef Slot *slot
    cdef int64_t r = -EINTR
    while r == -EINTR:
        source.check_open()
        target.check_open()
        slot = s.take_slot(OP_COPY_RANGE, target.fd)
        try:
            keep_object(slot, source)
            slot.o.fd2 = source.fd
            slot.o.len = size
            r = target.perform(s, slot, 0, True)
        finally:
            s.give_slot(slot)
    if r < 0:
        raise_error(r)
    return r


# ---- for bench/files_choices.py ----

def perform_row(str kind, *, int fd=AT_FDCWD, path=None, path2=None, buffer=None, int flags=0,
                int mode=0, int64_t offset=0, size=None, bint in_worker=False):
    """One attempt of one row by the way named, never inline: its result, or -errno."""
    cdef Scheduler s = current_scheduler()
    cdef Slot *slot = s.take_slot(kind_of(kind), fd)
    try:
        if path is not None:
            keep_object(slot, (path, path2))
            slot.o.addr = PyBytes_AS_STRING(path)
        if path2 is not None:
            slot.o.fd2 = AT_FDCWD
            slot.o.addr2 = PyBytes_AS_STRING(path2)
        if buffer is not None:
            PyObject_GetBuffer(buffer, &slot.view, PyBUF_SIMPLE)
            slot.has_view = True
            slot.o.addr = slot.view.buf
            slot.o.len = slot.view.len
        if kind == "statx":
            slot.o.addr2 = &slot.o.out
        if size is not None:
            slot.o.len = size
        slot.o.flags = flags
        slot.o.mode = mode
        slot.o.off = offset
        if in_worker:
            slot.o.traits |= OP_IN_WORKER
        return s.perform(slot, 0, True)
    finally:
        s.give_slot(slot)


cdef int kind_of(str name) except -1:
    cdef int kind
    for kind in range(OP_KINDS):
        if op_rows[kind].name.decode() == name:
            return kind
    raise ValueError(f"no such operation: {name!r}")
