"""ferrule.Batch: many operations in flight from one fiber.

An operation is the row that a fiber would wait for; its completion goes to a `Completion` instead
of making a task ready.  What stands above the row for a fiber (a second attempt after a short one,
the wait before an attempt that answered EAGAIN, the turn to send) happens here from one completion
to the next, inside the tick, so that an operation ends with what the call would have returned.

Who holds whom: an operation in flight holds its Completion, and that the Flight; nobody in there
holds the Batch.  So a batch that is dropped without being left is noticed, by whichever thread it
is, and what still completes finds its owner.
"""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.errno cimport EAGAIN, EBADF, EINTR
from libc.stdint cimport int64_t, uint32_t, uint64_t

from ferrule._core.files cimport (
    Handle, POLLIN, POLLOUT, S_IFREG, checked_offset, checked_size, posix_close,
)
from ferrule._core.operation cimport (
    OP_ACCEPT, OP_FALLOCATE, OP_FD_CLOSING, OP_FSYNC, OP_FTRUNCATE, OP_IN_FLIGHT, OP_IN_WORKER,
    OP_NOP, OP_POLL, OP_READ, OP_RECV, OP_SEND, OP_TO_RECEIVER, OP_WRITE, URING_FSYNC_DATASYNC, op,
    op_rows, timers_add, timers_remove,
)
from ferrule._core.scheduler cimport (
    CANCELLED, Descriptor, Receiver, Scheduler, Slot, Task, Waitable, current_scheduler,
    deadline_after, monotonic_ns, scheduler_or_none, seconds_to_ns, wake,
)
from ferrule._core.sockets cimport (
    MSG_DONTWAIT, MSG_WAITALL, SOCK_CLOEXEC, SocketCore, address_of,
)

import operator
import os
import types

from ferrule._core.fs_file import File
from ferrule._core.scheduler import Cancelled, sleep

cdef extern from "<errno.h>" nogil:
    int ECANCELED

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **bytes, Py_ssize_t size) except -1
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *s, Py_ssize_t n) except NULL

cdef enum:
    DESCRIBED_MAX = 3           # operations named in the description of a wait

cdef enum Shape:                # what the result is made of
    NOTHING
    COUNT
    BYTES
    CONNECTION

cdef enum Stop:                 # why an operation is to end early
    GO_ON
    BY_CANCEL
    BY_TIMEOUT

cdef enum End:
    PENDING
    FINISHED
    FAILED
    STOPPED


# ---- one operation ----

@cython.final
@cython.no_gc_clear             # freeing needs `home`
cdef class Completion(Receiver):
    """How one operation of a batch ended."""
    cdef readonly object index  # what `Batch.add` returned
    cdef Flight flight          # until it has ended
    cdef Completion following   # in the order of completion, until handed out
    cdef Descriptor descriptor
    cdef Slot *slot             # NULL: a sleep, or ended
    cdef char *start
    cdef uint64_t total, done   # of a transfer, in bytes
    cdef int64_t offset, deadline
    cdef uint32_t flags
    cdef int kind
    cdef int events             # readiness to wait for after EAGAIN; 0: EAGAIN is the result
    cdef Shape shape
    cdef Stop stop
    cdef End end
    cdef bint fills             # goes on after a short attempt
    cdef bint queued            # waits for its turn to send
    cdef bint has_turn
    cdef int64_t number         # the errno it failed with, or the descriptor it got
    cdef object value, error

    def __init__(self):
        raise TypeError("completions come out of a Batch")

    def __dealloc__(self):
        if self.slot != NULL and self.slot.o.state != OP_IN_FLIGHT:
            self.home.give_slot(self.slot)  # never begun
        if self.end == FINISHED and self.shape == CONNECTION and self.number >= 0:
            posix_close(<int>self.number)

    # -- beginning --

    cdef Slot *use(self, int kind, Descriptor descriptor, int fd) except NULL:
        self.slot = self.home.take_slot(kind, fd)
        self.kind = kind
        self.descriptor = descriptor
        return self.slot

    cdef int use_open(self, int kind, Descriptor descriptor) except -1:
        descriptor.check_open()
        self.use(kind, descriptor, descriptor.fd)
        return 0

    cdef int lend_bytes(self, uint64_t size) except -1:
        """The bytes object that this fills and becomes."""
        cdef PyObject *data = new_bytes(NULL, size)
        self.slot.keep = data  # the slot owns it now
        self.start = PyBytes_AS_STRING(<object>data)
        self.total = size
        self.shape = BYTES
        return 0

    cdef int lend_buffer(self, object buffer, int access) except -1:
        try:
            PyObject_GetBuffer(buffer, &self.slot.view, access)
        except BufferError:
            raise TypeError("the argument must be a read-write bytes-like object, not "
                            f"{type(buffer).__name__}") from None
        self.slot.has_view = True
        self.start = <char *>self.slot.view.buf
        self.total = self.slot.view.len
        self.shape = COUNT
        return 0

    cdef int use_socket(self, int kind, SocketCore sock, int flags, int events) except -1:
        self.use_open(kind, sock)
        self.flags = flags
        self.deadline = sock._deadline()
        if sock.timeout_ns and not flags & MSG_DONTWAIT:
            self.events = events
        elif kind != OP_ACCEPT:
            self.flags |= MSG_DONTWAIT  # the ring would wait, whatever O_NONBLOCK says
        return 0

    cdef int begin(self) except -1:
        cdef SocketCore sock
        if self.deadline and timers_add(&self.home.heap, &self.node, self.deadline) < 0:
            raise MemoryError("no memory for a timer")
        if self.slot == NULL:
            return 0  # a sleep: its timer is all
        self.aim()
        if self.kind == OP_SEND:
            sock = <SocketCore>self.descriptor
            if not sock.take_turn_or_queue(self if self.events else None):
                return self.wait_for_turn()
            self.has_turn = True
        self.attempt()
        return 0

    cdef int wait_for_turn(self) except -1:
        if self.events:
            self.queued = True
        else:
            self.settle(-EAGAIN)
        return 0

    cdef bint take_turn(self) noexcept:
        self.queued = False
        if self.stop:
            self.finish(STOPPED)
            return False
        if self.is_closed():
            self.fail(EBADF)
            return False
        self.has_turn = True
        self.attempt()
        return True

    # -- attempts --

    cdef void aim(self) noexcept:
        """Set the slot for an attempt at what is left."""
        cdef op *o = &self.slot.o
        o.kind = <unsigned char>self.kind
        o.flags = self.flags
        o.traits = OP_TO_RECEIVER
        if self.kind == OP_READ or self.kind == OP_WRITE:
            o.off = self.offset + self.done
            (<Handle>self.descriptor).fit_transfer(o, self.total - self.done)
        elif self.kind == OP_RECV or self.kind == OP_SEND:
            o.len = self.total - self.done
        elif self.kind == OP_ACCEPT:
            o.out_len = sizeof(o.out.addr)
            if not self.events:
                o.traits |= OP_IN_WORKER  # the ring would wait
            return
        if self.start != NULL:
            o.addr = self.start + self.done

    cdef void aim_at_readiness(self) noexcept:
        cdef op *o = &self.slot.o
        o.kind = OP_POLL
        o.flags = self.events
        o.traits = OP_TO_RECEIVER

    cdef void attempt(self) noexcept:
        cdef op *o = &self.slot.o
        cdef int64_t result = self.planned_fault()
        if result < 0:
            self.settle(result)
            return
        o.generation += 1
        o.how_cancelled = 0
        o.waiter = <void *>self
        if self.descriptor is not None and not self.descriptor.link(o, self):
            self.settle(-EBADF)
            return
        Py_INCREF(self)  # taken back by take_completion
        self.home.backend.start(o)

    cdef int64_t planned_fault(self) noexcept:
        cdef op *o = &self.slot.o
        cdef int64_t result = -EINTR
        if self.home.crew.faults is None:
            return 0
        while result == -EINTR:
            result = self.home.inject(o.kind, &o.len)
        return result

    cdef void take_completion(self, op *o) noexcept:
        if self.descriptor is not None:
            self.descriptor.unlink(o)
        self.settle(o.result)
        Py_DECREF(self)

    cdef void settle(self, int64_t result) noexcept:
        """What an attempt has led to: the end, or the next attempt."""
        cdef op *o = &self.slot.o
        if result == -ECANCELED or result == -EINTR:
            if o.how_cancelled & OP_FD_CLOSING:
                self.fail(EBADF)
            elif self.stop or self.home.closed:
                self.finish(STOPPED)
            else:
                self.attempt()
        elif o.kind != self.kind and result >= 0:  # it was the wait for readiness
            self.aim()
            self.go_on()
        elif result == -EAGAIN and self.events and o.kind == self.kind:
            self.aim_at_readiness()
            self.go_on()
        elif result > 0 and self.fills and self.done + result < self.total:
            self.done += result
            self.aim()
            self.go_on()
        elif result >= 0:
            self.succeed(result)
        elif self.kind == OP_READ and self.done:
            self.succeed(0)  # what was read before the error; the next read meets it
        else:
            self.fail(-result)

    cdef void go_on(self) noexcept:
        if self.stop or self.home.closed:
            self.finish(STOPPED)
        elif self.is_closed():
            self.fail(EBADF)
        else:
            self.attempt()

    cdef bint is_closed(self) noexcept:
        return self.descriptor is not None and (self.descriptor.closing or self.descriptor.fd < 0)

    # -- ending early --

    cdef void halt(self, Stop why) noexcept:
        """Ask for an early end.  What completes all the same has completed."""
        if self.stop or self.home.dead:
            return
        self.stop = why
        if self.queued:
            if (<SocketCore>self.descriptor).leave_queue(self):
                self.queued = False
                self.finish(STOPPED)
        elif self.slot == NULL:
            self.finish(STOPPED)
        elif not self.home.closed:
            self.home.backend.cancel(&self.slot.o)

    cdef int expire(self) except -1:
        if self.slot == NULL:
            self.finish(FINISHED)  # a sleep ends well
        else:
            self.halt(BY_TIMEOUT)
        return 0

    # -- the end --

    cdef void succeed(self, int64_t result) noexcept:
        try:
            self.take_result(result)
        except Exception as exc:
            self.error = exc
            if self.shape == CONNECTION:
                posix_close(<int>result)
            self.finish(FAILED)
            return
        self.finish(FINISHED)

    cdef int take_result(self, int64_t result) except -1:
        cdef PyObject *data
        cdef uint64_t count = self.done + result
        if self.shape == COUNT:
            self.value = count
        elif self.shape == CONNECTION:
            self.value = address_of(self.slot)
            self.number = result
        elif self.shape == BYTES:
            data = self.slot.keep
            self.slot.keep = NULL
            if count < self.total:
                _PyBytes_Resize(&data, count)  # drops it where it fails
            self.value = <object>data
            Py_XDECREF(data)
        return 0

    cdef void fail(self, int64_t number) noexcept:
        self.number = number
        self.finish(FAILED)

    cdef void finish(self, End how) noexcept:
        cdef Flight flight = self.flight
        cdef Slot *slot = self.slot
        self.end = how
        self.flight = None
        self.slot = NULL
        timers_remove(&self.home.heap, &self.node)
        if self.has_turn:
            self.has_turn = False
            (<SocketCore>self.descriptor)._pass_turn(self.home)
        if self.shape != CONNECTION:
            self.descriptor = None
        if slot != NULL:
            self.home.give_slot(slot)
        flight.land(self)

    # -- what the user asks --

    def cancelled(self):
        """Whether it ended by `Batch.cancel`, or by the end of the batch.  Not a switch point."""
        return self.end == STOPPED and self.stop != BY_TIMEOUT

    def exception(self):
        """What it failed with, or None.

        Of a cancelled operation: raises ``concurrent.futures.CancelledError``.  Not a switch point.
        """
        if self.end == FINISHED:
            return None
        if self.cancelled():
            # Imported here: it takes longer than the rest of this package.
            from concurrent.futures import CancelledError
            raise CancelledError(f"operation {self.index} was cancelled")
        if self.error is None:
            self.error = (TimeoutError("timed out") if self.end == STOPPED
                          else OSError(self.number, os.strerror(self.number)))
        return self.error

    def result(self):
        """What the call would have returned, or raise what it would have raised.

        Of a cancelled operation: ``concurrent.futures.CancelledError``.  The socket of an `accept`
        that is never asked for is closed with this object.  Not a switch point.
        """
        error = self.exception()
        if error is not None:
            try:
                raise error
            finally:
                error = self = None  # the traceback must not keep them
        if self.shape == CONNECTION and self.number >= 0:
            self.make_connection()
        return self.value

    cdef int make_connection(self) except -1:
        cdef int fd = <int>self.number
        cdef object listener = self.descriptor
        self.number = -1
        self.descriptor = None
        try:
            self.value = listener._accepted(fd, self.value)  # closes the number where it fails
        except BaseException as exc:
            self.error = exc
            self.end = FAILED
            raise
        return 0

    def __repr__(self):
        state = "cancelled" if self.cancelled() else (
            "finished" if self.end == FINISHED else "failed")
        return f"<Completion {self.index} {state}>"


# ---- what a batch has in flight ----

@cython.internal
@cython.final
@cython.no_gc_clear             # a chain of completions is taken apart link by link
cdef class Flight(Waitable):
    """The operations in flight, and those that have completed in their order."""
    cdef Scheduler home
    cdef dict pending           # by index
    cdef Completion first, last
    cdef Py_ssize_t landed      # how many have completed and were not handed out
    cdef Task waiting
    cdef Py_ssize_t wanted      # ... completions
    cdef bint dropped           # nobody will ask for results

    def __dealloc__(self):
        while self.first is not None:
            self.pop()

    cdef Py_ssize_t count(self):
        return len(self.pending) + self.landed

    cdef void land(self, Completion c) noexcept:
        self.pending.pop(c.index, None)
        if self.dropped:
            return
        if self.last is None:
            self.first = c
        else:
            self.last.following = c
        self.last = c
        self.landed += 1
        if self.waiting is not None and self.landed >= self.wanted:
            wake(self.waiting)
            self.waiting = None

    cdef Completion pop(self):
        cdef Completion c = self.first
        self.first = c.following
        c.following = None
        if self.first is None:
            self.last = None
        self.landed -= 1
        return c

    cdef int halt_all(self) except -1:
        cdef Completion c
        for c in list(self.pending.values()):
            c.halt(BY_CANCEL)
        return 0

    def __call__(self):
        """The batch was dropped: nobody will wait for the end, or ask for results."""
        self.dropped = True
        while self.first is not None:
            self.pop()
        self.halt_all()

    cdef str describe_wait(self, Task task):
        described = [describe(c) for c in list(self.pending.values())[:DESCRIBED_MAX]]
        more = "" if len(described) == len(self.pending) else ", ..."
        return (f"{self.wanted - self.landed} of {len(self.pending)} operations of a batch: "
                f"{', '.join(described)}{more}")

    cdef dict wait_facts(self, Task task):
        return {"kind": "batch"}


cdef str describe(Completion c):
    if c.slot == NULL:
        return "a timer"
    return f"{op_rows[c.slot.o.kind].name.decode()} on fd {c.slot.o.fd}"


# ---- the batch ----

cdef class Batch:
    """Many operations in flight from one fiber: a context manager, entered once.

    ``limit`` bounds the operations that were added and not handed out yet; ``len(batch)`` is their
    number.  Iterating gives the `Completion` of each as it completes, until there is none left.
    Leaving the block cancels what is in flight and waits for that, even when cancelled; results
    that nobody took are dropped, and accepted sockets among them closed.

    A batch belongs to the task that entered it.
    """
    cdef object __weakref__
    cdef Flight flight
    cdef Task owner
    cdef Py_ssize_t limit, added
    cdef bint left

    def __init__(self, *, Py_ssize_t limit=4096):
        if limit < 1:
            raise ValueError("the limit must be at least 1")
        self.limit = limit

    def __enter__(self):
        cdef Scheduler s = current_scheduler()
        if self.owner is not None:
            raise RuntimeError("a batch is entered once; make a new one")
        self.owner = s.running()
        self.flight = Flight.__new__(Flight)
        self.flight.home = s
        self.flight.pending = {}
        return self

    def __exit__(self, *exc):
        self.check_owner()
        self.left = True
        try:
            self.flight.halt_all()
            while self.flight.pending:
                self.park(self.flight.count(), 0, False)
        finally:
            self.flight()  # nothing, unless it had to end without the wait

    def __del__(self):
        cdef Flight flight = self.flight
        if flight is None or self.left or not flight.pending:
            return
        if flight.home is scheduler_or_none() or flight.home.closed:
            flight()
        else:
            flight.home.post(flight)

    cdef Task check_owner(self):
        cdef Task me
        if self.owner is None or self.left:
            raise RuntimeError("the batch is not entered: use it in a with statement")
        me = current_scheduler().running()
        if me is not self.owner:
            raise RuntimeError("a batch belongs to the task that entered it")
        return me

    cdef int park(self, Py_ssize_t wanted, int64_t deadline, bint cancellable) except -1:
        cdef Task me = self.owner
        if me.no_switch:
            raise RuntimeError("this would switch fibers inside no_switch()")
        self.flight.wanted = wanted
        self.flight.waiting = me
        try:
            reason = self.flight.home.wait_on(me, self.flight, deadline, cancellable)
        finally:
            self.flight.waiting = None
        if reason == CANCELLED and self.flight.landed < wanted:
            raise Cancelled("the scope was cancelled")
        return 0

    cdef int await_some(self, Py_ssize_t wanted, int64_t deadline) except -1:
        wanted = min(wanted, self.flight.count())
        self.flight.home.about_to_wait()
        if self.flight.landed < wanted:
            self.park(wanted, deadline, True)
        else:
            self.flight.home.spend_budget()
        return 0

    cdef list take_landed(self):
        cdef list found = []
        while self.flight.first is not None:
            found.append(self.flight.first)
            self.flight.pop()
        return found

    def add(self, operation, /, *args, **kwargs):
        """Start what ``operation(*args)`` would do; its index, counted from 0.

        One of: `fs.File`'s pread, readinto_at, pwrite, fsync, fdatasync, truncate and fallocate; a
        socket's recv, recv_into, send, sendall and accept; `wait_readable`, `wait_writable` and
        `sleep`.  Operations have no order among each other, but for what is sent on one socket.
        Buffers stay exported until the operation has completed.

        Raises what is wrong with the arguments, TypeError for any other operation, RuntimeError
        when ``limit`` is reached.  A cancellation point, not a switch point: operations start
        together, at the next wait or switch, or with `completed`.
        """
        cdef Completion c
        cdef Flight flight
        self.check_owner()
        flight = self.flight
        flight.home.checkpoint()
        if flight.count() >= self.limit:
            raise RuntimeError(f"{self.limit} operations were added and not handed out, which is "
                               "the limit of this batch: wait() for some first")
        c = Completion.__new__(Completion)
        c.index = self.added
        c.home = flight.home
        c.flight = flight
        if type(operation) is types.MethodType:
            recipe_of(operation.__func__)(c, operation.__self__, *args, **kwargs)
        else:
            recipe_of(operation)(c, *args, **kwargs)
        flight.pending[c.index] = c
        try:
            c.begin()
        except BaseException:
            flight.pending.pop(c.index, None)
            raise
        self.added += 1
        return c.index

    def wait(self, n=1, timeout=None):
        """Wait until ``n`` operations have completed, or all; every `Completion` there then is.

        In the order of completion.  ``timeout`` is in seconds: when it passes, the list is shorter,
        or empty.  When cancelled, nothing is lost: what has completed comes with the next call.  A
        switch and cancellation point.
        """
        cdef Py_ssize_t wanted = n
        cdef int64_t deadline = deadline_after(timeout)
        self.check_owner()
        if wanted < 1:
            raise ValueError("the number of completions to wait for must be at least 1")
        self.await_some(wanted, deadline)
        return self.take_landed()

    def completed(self):
        """Every `Completion` that has not been handed out, without waiting.

        Also starts what was added.  Neither a switch nor a cancellation point.
        """
        self.check_owner()
        self.flight.home.collect()
        return self.take_landed()

    def cancel(self, index=None):
        """Ask for the end of the operation with this index, or of all in flight.

        They complete as cancelled; one that finishes all the same keeps its result.  IndexError for
        an index that `add` never returned.  Neither a switch nor a cancellation point.
        """
        cdef Completion c
        self.check_owner()
        if index is None:
            self.flight.halt_all()
            return
        if not 0 <= operator.index(index) < self.added:
            raise IndexError(f"no operation {index}: {self.added} were added")
        c = self.flight.pending.get(index)
        if c is not None:
            c.halt(BY_CANCEL)

    def __len__(self):
        return 0 if self.flight is None else self.flight.count()

    def __iter__(self):
        return self

    def __next__(self):
        self.check_owner()
        if self.flight.count() == 0:
            raise StopIteration
        self.await_some(1, 0)
        return self.flight.pop()


# ---- operations ----
#
# Each checks the arguments of the call that it is named after, and says what to attempt.

def _pread(Completion c, Handle file not None, size, offset, /):
    c.offset = checked_offset(offset)
    checked_size(size)
    c.use_open(OP_READ, file)
    c.lend_bytes(size)
    transfer(c, file, POLLIN)


def _readinto_at(Completion c, Handle file not None, buffer, offset, /):
    c.offset = checked_offset(offset)
    c.use_open(OP_READ, file)
    c.lend_buffer(buffer, PyBUF_WRITABLE)
    transfer(c, file, POLLIN)


def _pwrite(Completion c, Handle file not None, data, offset, /):
    c.offset = checked_offset(offset)
    c.use_open(OP_WRITE, file)
    c.lend_buffer(data, PyBUF_SIMPLE)
    transfer(c, file, POLLOUT)


cdef int transfer(Completion c, Handle file, int events) except -1:
    c.events = events
    c.fills = c.kind == OP_WRITE or file.kind == S_IFREG
    file.pristine = False
    return 0


def _fsync(Completion c, Handle file not None, /):
    c.use_open(OP_FSYNC, file)


def _fdatasync(Completion c, Handle file not None, /):
    c.use_open(OP_FSYNC, file)
    c.flags = URING_FSYNC_DATASYNC


def _truncate(Completion c, Handle file not None, size, /):
    checked_size(size)
    c.use_open(OP_FTRUNCATE, file)
    c.slot.o.len = size


def _fallocate(Completion c, Handle file not None, offset, size, /, *, int mode=0):
    checked_offset(offset)
    checked_size(size)
    c.use_open(OP_FALLOCATE, file)
    c.slot.o.off = offset
    c.slot.o.len = size
    c.slot.o.mode = mode


def _recv(Completion c, SocketCore sock not None, Py_ssize_t bufsize, int flags=0):
    if bufsize < 0:
        raise ValueError("negative buffersize in recv")
    c.use_socket(OP_RECV if bufsize else OP_NOP, sock, flags, POLLIN)
    c.lend_bytes(bufsize)


def _recv_into(Completion c, SocketCore sock not None, buffer, Py_ssize_t nbytes=0, int flags=0):
    if nbytes < 0:
        raise ValueError("negative buffersize in recv_into")
    c.use_socket(OP_RECV, sock, flags, POLLIN)
    c.lend_buffer(buffer, PyBUF_WRITABLE)
    if <uint64_t>nbytes > c.total:
        raise ValueError("buffer too small for requested bytes")
    if nbytes:
        c.total = nbytes
    if c.total == 0:
        c.kind = OP_NOP


def _send(Completion c, SocketCore sock not None, data, int flags=0):
    c.use_socket(OP_SEND, sock, flags, POLLOUT)
    c.lend_buffer(data, PyBUF_SIMPLE)


def _sendall(Completion c, SocketCore sock not None, data, int flags=0):
    c.use_socket(OP_SEND, sock, flags | MSG_WAITALL, POLLOUT)
    c.lend_buffer(data, PyBUF_SIMPLE)
    c.fills = True
    c.shape = NOTHING
    if c.total == 0 and sock.is_stream:
        c.kind = OP_NOP


def _accept(Completion c, SocketCore sock not None):
    c.use_socket(OP_ACCEPT, sock, SOCK_CLOEXEC, POLLIN)
    c.slot.o.addr = &c.slot.o.out.addr
    c.slot.o.addr2 = &c.slot.o.out_len
    c.shape = CONNECTION


def _wait_readable(Completion c, fd, timeout=None):
    wait_ready(c, fd, POLLIN, timeout)


def _wait_writable(Completion c, fd, timeout=None):
    wait_ready(c, fd, POLLOUT, timeout)


cdef int wait_ready(Completion c, object fd, int events, object timeout) except -1:
    cdef int number = fd if isinstance(fd, int) else fd.fileno()
    if number < 0:
        raise ValueError(f"file descriptor cannot be a negative integer ({number})")
    c.deadline = deadline_after(timeout)
    c.use(OP_POLL, None, number)
    c.flags = events
    return 0


def _sleep(Completion c, seconds):
    c.deadline = monotonic_ns() + seconds_to_ns(seconds, "seconds")


cdef dict RECIPES = {
    File.pread: _pread,
    File.readinto_at: _readinto_at,
    File.pwrite: _pwrite,
    File.fsync: _fsync,
    File.fdatasync: _fdatasync,
    File.truncate: _truncate,
    File.fallocate: _fallocate,
    SocketCore.recv: _recv,
    SocketCore.recv_into: _recv_into,
    SocketCore.send: _send,
    SocketCore.sendall: _sendall,
    sleep: _sleep,
}
# Of the layer above, by name: they are added to the table when they are first met.
cdef dict NAMED_RECIPES = {
    "ferrule.socket.socket.accept": _accept,
    "ferrule.net.wait_readable": _wait_readable,
    "ferrule.net.wait_writable": _wait_writable,
}


cdef object recipe_of(object function):
    recipe = RECIPES.get(function) if callable(function) else None
    if recipe is None:
        name = getattr(function, "__qualname__", None) or type(function).__name__
        recipe = NAMED_RECIPES.get(f"{getattr(function, '__module__', '')}.{name}")
        # What wraps a function takes its name too, but does more than it.
        if recipe is None or hasattr(function, "__wrapped__"):
            raise TypeError(f"a batch cannot do {name}, only the operations that help(Batch.add) "
                            "lists: spawn a task for others")
        RECIPES[function] = recipe
    return recipe
