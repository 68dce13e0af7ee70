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
    request.code = r.result
    release(request)
    if r.result >= 0:
        request.found = value_of(<What>request.what, r)
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


cdef object value_of(What what, io_request *r):
    if what == STAT:
        return new_stat_result(<const statx_buf *>r.op.out.statx)
    if what == OPEN:
        return r.result
    return None


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
