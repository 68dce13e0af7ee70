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
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.errno cimport EAGAIN, EBADF, EINTR, EINVAL, ENOSYS, ENXIO, EPERM, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t

from ferrule._core.operation cimport (
    OP_CLOSE, OP_DONE, OP_FLOCK, OP_IN_WORKER, OP_LSEEK, OP_MAY_BLOCK, OP_ON_DISK, OP_OPENAT,
    OP_POLL, OP_READ, OP_STATX, OP_WRITE, op, op_try_open, op_try_read, op_try_write,
)
from ferrule._core.scheduler cimport (
    Descriptor, Scheduler, Slot, Task, Waitable, current_scheduler, raise_error,
    scheduler_or_none,
)
from ferrule._core.sync cimport Semaphore

import os

from ferrule._core.scheduler import Cancelled

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout)

cdef extern from "<unistd.h>" nogil:
    int64_t posix_lseek "lseek"(int fd, int64_t off, int whence)
    ssize_t posix_write "write"(int fd, const void *buf, size_t n)
    ssize_t posix_pwrite "pwrite"(int fd, const void *buf, size_t n, int64_t off)

cdef extern from "Python.h":
    int PyUnicode_FSConverter(object path, PyObject **result) except 0
    int _PyBytes_Resize(PyObject **bytes, Py_ssize_t size) except -1
    PyObject *fe_new_bytes "PyBytes_FromStringAndSize"(const char *s, Py_ssize_t n) except NULL

cdef enum:
    BULK = 1024 * 1024          # a transfer that is larger is moved by worker threads, taking turns
    BULK_STEP = 4 * 1024 * 1024  # in steps, between which it can be cancelled

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
    return s.inject(kind, n) if s.crew.faults is not None else 0


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
        fd = try_open(s, path, flags, dir_fd, directory)
        if fd >= 0:
            return settle(s, <int>fd, path, flags, mode, dir_fd, facts, directory)
    if fd == -EAGAIN:
        fd = open_waiting(s, path, flags | O_NONBLOCK, mode, dir_fd, 0, directory)
        if fd >= 0:
            return settle(s, <int>fd, path, flags, mode, dir_fd, facts, directory)
    if (fd == -ENXIO or fd == -EAGAIN) and not flags & O_NONBLOCK:
        fd = open_waiting(s, path, flags, mode, dir_fd, OP_MAY_BLOCK, directory)
        if fd >= 0:
            facts_of_fd(<int>fd, facts)
    return fd


cdef bint openat2_is_refused() noexcept:
    return openat2_refused


cdef int note_refusal(int64_t result) noexcept:
    global openat2_refused
    openat2_refused |= result == -ENOSYS
    return 0


cdef int64_t try_open(Scheduler s, bytes path, int flags, int dir_fd,
                      Handle directory) except? -4096:
    cdef int64_t fd = inject(s, OP_OPENAT, NULL)
    if fd == 0:
        fd = open_cached(dir_fd, directory, path, flags)
    note_refusal(fd)
    # EPERM also from a seccomp filter, EINVAL from a kernel that does not know the resolve flag.
    if fd in (-ENOSYS, -EPERM, -EINVAL, -EINTR, -EOPNOTSUPP):
        return -EAGAIN
    return fd


cdef int64_t open_cached(int dir_fd, Handle directory, bytes path, int flags) noexcept:
    cdef const char *name = PyBytes_AS_STRING(path)
    cdef int64_t fd = -EBADF
    if directory is None:
        return op_try_open(dir_fd, name, flags, 0)
    if directory.enter():
        fd = op_try_open(dir_fd, name, flags, 0)
        directory.leave()
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
    if facts_of_fd(fd, facts) < 0:
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
                dir_fd = directory.copy_number()
                if dir_fd < 0:
                    r = dir_fd
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

    cdef dict wait_facts(self, Task task):
        return {"kind": "operation", "operation": "openat",
                "path": os.fsdecode(<const char *>self.first.addr)}


cdef int64_t open_or_notice(Scheduler s, int watched, bytes path, int flags,
                            int dir_fd) except? -4096:
    """A second descriptor, 0 if the first one is good now, or -errno."""
    cdef Task me = s.about_to_wait()
    cdef Either either = Either.__new__(Either)
    cdef int64_t fault = inject(s, OP_OPENAT, NULL)
    if fault < 0:
        return fault
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


# ---- large transfers ----

cdef class BulkTurns(Semaphore):
    """Which fibers may move much data at once: about as many as there are processors.

    Each to its end before the next begins.  All at once they would share the disk as well, but
    fault in all their memory first, finish together, and crowd out the loop with their threads.
    """
    def __cinit__(self):
        try:
            count = len(os.sched_getaffinity(0))
        except AttributeError:  # not on every system
            count = os.cpu_count() or 1
        self.value = max(2, min(8, count))

    cdef str describe_wait(self, Task task):
        return "its turn to move a large part of a file"

    cdef dict wait_facts(self, Task task):
        return {"kind": "turn"}


# ---- arguments ----

cdef int64_t checked_offset(object offset) except -1:
    if offset < 0:
        raise ValueError("the offset must not be negative")
    return offset


cdef int64_t checked_size(object size) except -1:
    if size < 0:
        raise ValueError("the size must not be negative")
    return size


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
        err = facts_of_fd(fd, &facts)
        if err < 0:
            raise_error(err)
        self.fd = fd
        self.flags = flags
        self.learn(&facts)
        return 0

    cdef int learn(self, file_facts *facts) noexcept:
        self.kind = facts.mode & S_IFMT
        self.is_local = facts_are_local(facts)
        self.block_size = facts.block_size
        # Past the page cache RWF_NOWAIT waits for the device all the same.
        self.read_now = self.write_now = self.kind != S_IFREG or not self.flags & O_DIRECT
        return 0

    cdef int copy_number(self) noexcept:
        """Another descriptor of the same file, or -errno."""
        cdef int copy = -EBADF
        if self.enter():
            copy = fcntl(self.fd, F_DUPFD_CLOEXEC, 0)
            copy = -errno if copy < 0 else copy
            self.leave()
        return copy

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
        (<BulkTurns>s.bulk_turns).wait_for_permit(0)
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
                    r = -EBADF
                    if self.enter():
                        r = op_try_read(self.fd, buf, length, off)
                        self.leave()
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
            slot.o.off = off
            self.fit_transfer(&slot.o, n)
            return self.perform(s, slot, 0, not (self.finishing and self.kind == S_IFREG))
        finally:
            s.give_slot(slot)

    cdef void fit_transfer(self, op *o, uint64_t n) noexcept:
        o.len = n
        if self.kind == S_IFREG or self.kind == S_IFBLK:
            o.traits |= OP_ON_DISK
        if self._is_bulk(n):
            o.len = min(n, <uint64_t>BULK_STEP)
            o.traits |= OP_IN_WORKER
        elif o.kind == OP_READ:
            o.len = min(n, <uint64_t>CHUNK)  # the ring copies on the loop thread
        if self.kind != S_IFREG and not (self.read_now if o.kind == OP_READ else self.write_now):
            # A terminal: one that polls as ready may still block the ring's own attempt.
            o.traits |= OP_MAY_BLOCK

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
                turns.give(1)

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
                turns.give(1)
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
                facts_of_fd(self.fd, &facts)
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
                turns.give(1)

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
                    r = -EBADF
                    if self.enter():
                        r = op_try_write(self.fd, buf, length, off)
                        self.leave()
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
            r = -EBADF
            if self.enter():
                r = posix_lseek(self.fd, off, whence)
                r = -errno if r < 0 else r
                self.leave()
            if r < 0:
                return r
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
        if facts_of_fd(self.fd, &facts) == 0 and facts.nlink == 0 and facts.size > CHUNK:
            return OP_IN_WORKER
        return 0 if written else -1

    cdef bint _may_switch(self, Scheduler s) noexcept:
        # Not from the collector, a signal handler, a callback of the loop or after the run; and
        # not while faults are planned: the descriptor must be closed even if the close "fails".
        return (s is not None and not self.finalizing and not s.dead and not s.closed
                and s.crew.faults is None and s.current is not None and not s.in_tick
                and not s.current.no_switch)

    def close(self):
        """Close the file; operations in flight on it end with EBADF first.  Idempotent.

        A switch point if there were any, or if the file was written to; never a cancellation
        point.  Outside a runtime it closes too.
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
            slot.o.mode = STATX_BASIC_STATS
            r = perform_in(directory.handle, s, slot)
            if r == 0:
                facts_of_statx(&slot.o.out, facts)
        finally:
            s.give_slot(slot)
    return r


cdef object stat_of_open(Handle handle):
    cdef file_facts facts
    cdef DirectoryNumber number
    cdef Scheduler s = current_scheduler()
    cdef int64_t r
    handle.check_open()
    s.checkpoint()
    r = inject(s, OP_STATX, NULL)
    if r == 0:
        r = -EBADF
        if handle.enter():
            r = facts_of_fd(handle.fd, &facts)
            handle.leave()
    if r == 0 and not handle.is_local:
        number = DirectoryNumber(handle)
        r = stat_waiting(s, b"", number, AT_EMPTY_PATH, &facts)
    if r != 0:
        handle.fail(r)
    return stat_result(&facts)
