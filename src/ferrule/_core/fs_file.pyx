"""ferrule.fs.File: positional, streaming and vectored operations, and locks."""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, EBADF, EINTR, errno
from libc.stdint cimport int64_t, uint64_t

from ferrule._core.files cimport (
    BulkTurns, CHUNK, EOPNOTSUPP, HERE, Handle, O_TRUNC, POLLIN, POLLOUT, PySys_Audit, SEEK_CUR,
    SEEK_SET, S_IFBLK, S_IFREG, checked_offset, checked_size, inject, keep_object, raise_path_error,
    stat_of_open,
)
from ferrule._core.operation cimport (
    OP_FALLOCATE, OP_FCHMOD, OP_FLOCK, OP_FSYNC, OP_FTRUNCATE, OP_MAY_BLOCK, OP_ON_DISK,
    OP_READV, OP_WRITEV, URING_FSYNC_DATASYNC, iovec, op_try_readv, op_try_writev,
)
from ferrule._core.scheduler cimport Scheduler, Slot, current_scheduler, scheduler_or_none

cdef extern from "<sys/file.h>" nogil:
    int LOCK_SH, LOCK_EX, LOCK_NB, LOCK_UN
    int flock(int fd, int operation)

cdef enum:
    IOV_MAX = 1024

# Beyond the flags of open(2): ferrule.fs.Open has them too.
cdef uint64_t OPEN_LOCK_SHARED = 1 << 40
cdef uint64_t OPEN_LOCK_EXCLUSIVE = 1 << 41
cdef uint64_t OPEN_LOCK_NOWAIT = 1 << 42


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
            self.done(self.call(OP_FLOCK, LOCK_SH if shared else LOCK_EX, 0, 0, 0))

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
            r = self.flock_now(LOCK_UN)
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
            if r == 0:
                r = self.flock_now(how)
        s.spend_budget()
        if r != -EAGAIN:
            self.done(r)
        return r == 0

    cdef int64_t flock_now(self, int how) noexcept:
        cdef int64_t r = -EBADF
        if self.enter():
            r = -errno if flock(self.fd, how) < 0 else 0
            self.leave()
        return r

    cdef int64_t perform(self, Scheduler s, Slot *slot, int64_t deadline,
                         bint cancellable=True) except? -4096:
        cdef int64_t r
        if not self.link(&slot.o, s.running()):
            return -EBADF
        try:
            r = s.perform(slot, deadline, cancellable)
            if r == 0 and slot.o.kind == OP_FLOCK and self.closing:
                # Granted while close() waits for us, as it does until the unlink: another
                # descriptor of the same open file would keep it.
                flock(self.fd, LOCK_UN)
                r = -EBADF
            return r
        finally:
            self.unlink(&slot.o)

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
                turns.give(1)
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
                    r = self.try_transfer(v, reading, count, off)
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

    cdef int64_t try_transfer(self, Vector v, bint reading, int count, int64_t off) noexcept:
        cdef iovec *vectors = v.vectors + v.first
        cdef int64_t r = -EBADF
        if self.enter():
            r = (op_try_readv if reading else op_try_writev)(self.fd, vectors, count, off)
            self.leave()
        return r

    cdef int64_t wait_transfer(self, Scheduler s, Vector v, int kind, int count,
                               int64_t off) except? -4096:
        cdef Slot *slot = s.take_slot(kind, self.fd)
        try:
            keep_object(slot, v)
            slot.o.addr = v.vectors + v.first
            slot.o.len = count
            slot.o.off = off
            if self.kind == S_IFREG or self.kind == S_IFBLK:
                slot.o.traits |= OP_ON_DISK
            if self.kind != S_IFREG and not (
                    self.read_now if kind == OP_READV else self.write_now):
                slot.o.traits |= OP_MAY_BLOCK
            return self.perform(s, slot, 0, True)
        finally:
            s.give_slot(slot)
