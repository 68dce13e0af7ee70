# From a request's answer to Python's values.

@cython.final
@cython.freelist(64)
cdef class Request:
    """What was submitted: `IOQueue.pop` returns this very object once it is answered."""
    cdef uint8_t what
    cdef readonly bint done
    cdef int64_t code
    cdef readonly object path, path2, user_data
    cdef object found, keep
    cdef Py_buffer view
    cdef bint has_view

    def __dealloc__(self):
        if self.has_view:
            PyBuffer_Release(&self.view)

    @property
    def operation(self):
        """The name of what was asked for, such as "stat"."""
        return NAMES[self.what]

    @property
    def error(self):
        """Once it is answered: the OSError that it failed with, or None."""
        self._check_done()
        if self.code >= 0:
            return None
        return error_of(self.code, self.path, self.path2)

    @property
    def value(self):
        """Once it is answered: what was asked for; None if it failed or there is nothing to say."""
        self._check_done()
        return self.found

    def result(self):
        """Return the value, or raise what it failed with."""
        error = self.error
        if error is not None:
            raise error
        return self.found

    cdef int _check_done(self) except -1:
        if not self.done:
            raise RuntimeError("this request has not been popped from its queue")
        return 0

    def __repr__(self):
        state = "in flight"
        if self.done:
            state = "done" if self.code >= 0 else _errno.errorcode.get(-self.code, str(-self.code))
        where = "" if self.path is None else f" {self.path!r}"
        return f"<Request {self.operation}{where}, {state}>"


cdef Request new_request(What what, path, user_data):
    cdef Request request = Request.__new__(Request)
    request.what = what
    request.path = path
    request.user_data = user_data
    return request


cdef object error_of(int64_t code, path, path2=None):
    cdef int error = <int>-code
    if path is None:
        return OSError(error, os.strerror(error))
    if path2 is None:
        return OSError(error, os.strerror(error), path)
    return OSError(error, os.strerror(error), path, None, path2)


cdef int finish(Request request, io_request *r) except -1:
    """The answer is the request's from here on."""
    if r.result >= 0:
        request.found = value_of(<What>request.what, r, request.path, request.keep)
    release(request)
    request.code = r.result
    request.done = True
    return 0


cdef int interrupt(Request request, io_request *r) except -1:
    """It was answered, and discarded."""
    release(request)
    request.code = -EINTR if r.result >= 0 else r.result
    request.done = True
    return 0


cdef int release(Request request) except -1:
    request.keep = None
    if request.has_view:
        request.has_view = False
        PyBuffer_Release(&request.view)
    return 0


cdef object value_of(What what, io_request *r, path, keep):
    if what == STAT:
        return new_stat_result(<const statx_buf *>r.op.out.statx)
    if what == READ_FILE:
        return PyBytes_FromStringAndSize(r.space, r.result)
    if what in (OPEN, WRITE_FILE, WRITE):
        return r.result
    if what == READ:  # nobody else has seen it
        return keep if r.result == PyBytes_GET_SIZE(keep) else (<bytes>keep)[:r.result]
    if what == OPENDIR:
        return open_directory(r, path)
    if what == READDIR:
        return entries_of(r.space, r.result, isinstance(path, bytes))
    if what == READLINK:
        return decoded(<char *>r.op.addr2, r.result, isinstance(path, bytes))
    if what == GETXATTR:
        return PyBytes_FromStringAndSize(<char *>r.op.iov.iov_base, r.result)
    if what == LISTXATTR:
        return names_of(<char *>r.op.iov.iov_base, r.result)
    return None


cdef object decoded(const char *text, Py_ssize_t size, bint as_bytes):
    if as_bytes:
        return PyBytes_FromStringAndSize(text, size)
    return PyUnicode_DecodeFSDefaultAndSize(text, size)


cdef list names_of(const char *text, Py_ssize_t size):
    """Each ends with a null byte."""
    cdef Py_ssize_t at = 0, length
    cdef list names = []
    while at < size:
        length = strlen(text + at)
        names.append(decoded(text + at, length, False))
        at += length + 1
    return names


# ---- directories ----

class Entry(typing.NamedTuple):
    """One entry of a directory, as the directory itself tells."""

    #: Its name; bytes if the directory was opened by a path of bytes.
    name: object
    inode: int
    #: The upper part of st_mode, as DT_*: 4 is a directory, 8 a file, 10 a link; 0 is unknown.
    type: int


cdef list entries_of(const char *block, Py_ssize_t size, bint as_bytes):
    cdef Py_ssize_t at = 0
    cdef linux_dirent64_head *entry
    cdef list found = []
    while at < size:
        entry = <linux_dirent64_head *>(block + at)
        at += entry.reclen
        if strcmp(entry.name, b".") and strcmp(entry.name, b".."):
            found.append(Entry(decoded(entry.name, strlen(entry.name), as_bytes), entry.ino,
                               entry.type))
    return found


@cython.final
cdef class OpenDirectory:
    """A directory that is open, and its first entries.  Close it with `IOQueue.closedir`."""
    cdef int fd
    cdef readonly object name
    cdef readonly list entries
    cdef readonly bint complete

    def fileno(self):
        """Return its descriptor; ValueError once it is closed."""
        if self.fd < 0:
            raise ValueError("this directory is closed")
        return self.fd

    def close(self):
        """Close it here and now.  Idempotent."""
        cdef int fd = self.fd
        self.fd = -1
        if fd >= 0:
            posix_close(fd)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __del__(self):
        if self.fd < 0:
            return
        try:
            warnings.warn(f"unclosed directory {self!r}", ResourceWarning, source=self)
        finally:
            self.close()

    def __repr__(self):
        return f"<OpenDirectory {self.name!r}{'' if self.fd >= 0 else ', closed'}>"


cdef OpenDirectory open_directory(io_request *r, path):
    cdef OpenDirectory directory = OpenDirectory.__new__(OpenDirectory)
    directory.fd = -1
    directory.name = path
    directory.entries = entries_of(r.space, r.done, isinstance(path, bytes))
    directory.complete = r.at_end
    directory.fd = <int>r.result  # the last step: until then it is the request's
    return directory


# ---- in a fiber or a thread ----

cdef Scheduler scheduler_here():
    """That of the fiber that runs here; None in a plain thread."""
    cdef Scheduler s = scheduler_or_none()
    return None if s is None or s.dead else s


cdef int check_cancelled() except -1:
    cdef Scheduler s = scheduler_here()
    if s is not None:
        s.about_to_wait()
    return 0


cdef int spend_budget() except -1:
    """In a fiber: let others run now and then.  In a thread: see signals."""
    cdef Scheduler s = scheduler_here()
    if s is not None:
        s.spend_budget()
    else:
        PyErr_CheckSignals()
    return 0


cdef bint wait_for_event(int fd, int64_t deadline) except -1:
    """Until the descriptor is readable, or for no reason; False once it is too late."""
    cdef Scheduler s = scheduler_here()
    if s is not None:
        return park_for_event(s, fd, deadline)
    cdef pollfd one
    cdef int n, timeout = -1
    cdef int64_t left
    if deadline:
        left = deadline - monotonic_ns()
        timeout = <int>min(max(left + 999_999, 0) // 1_000_000, 1 << 30)
    one.fd = fd
    one.events = POLLIN
    one.revents = 0
    with nogil:
        n = posix_poll(&one, 1, timeout)
    PyErr_CheckSignals()
    return not (n == 0 and deadline and monotonic_ns() >= deadline)


cdef bint park_for_event(Scheduler s, int fd, int64_t deadline) except -1:
    cdef Slot *slot = s.take_slot(OP_POLL, fd)
    slot.o.flags = POLLIN
    try:
        s.perform(slot, deadline, True)
    except TimeoutError:
        return False
    finally:
        s.give_slot(slot)
    return True


cdef int pause(int64_t nanoseconds) except -1:
    """Park only the fiber, and do not be cancelled."""
    cdef Scheduler s = scheduler_here()
    cdef Slot *slot
    if s is None or s.in_tick or s.current is None or s.current.no_switch:
        with nogil:
            usleep(<unsigned int>(nanoseconds // 1000))
        return 0
    slot = s.take_slot(OP_TIMEOUT, -1)
    slot.o.ts.tv_sec = 0
    slot.o.ts.tv_nsec = nanoseconds
    try:
        s.perform(slot, 0, False)
    finally:
        s.give_slot(slot)
    return 0
