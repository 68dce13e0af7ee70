"""The socket operations that run per message.

Everything about addresses, options and ancillary data stays with the standard library's own socket
object, which a `SocketCore` owns; what is here is what can wait.

Rules, each measured (docs/BENCHMARKS.md):
  * recv waits with a buffer that the engine provides at completion, so an idle connection holds
    none.  A read that fills such a buffer switches the socket to recv(2) into a large scratch
    buffer until reads are small again: copying out of small buffers loses by half at 64 KiB.
  * recv_into tries recv(2) first: the caller's buffer is there anyway.
  * send tries send(2) while few operations are in flight; with many, queueing them makes one enter
    carry all.  What send(2) did not take always goes through the engine.
  * No hidden read-ahead: it would break detach, dup, MSG_PEEK and ssl.
"""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EINTR, EINVAL
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from ferrule._core.operation cimport (
    OP_ACCEPT, OP_CONNECT, OP_POLL, OP_PROVIDED_BUFFER, OP_RECV, OP_RECVMSG, OP_SEND, OP_SENDMSG,
    op_try_recv, op_try_send,
)
from ferrule._core.scheduler cimport (
    WOKEN, Descriptor, Scheduler, Slot, Task, Waitable, current_scheduler, deadline_after,
    monotonic_ns, raise_error,
)

import os

cdef extern from "<errno.h>" nogil:
    int EINPROGRESS, ENOBUFS

cdef extern from "<poll.h>" nogil:
    int POLLIN, POLLOUT, POLLERR, POLLHUP

cdef extern from "<sys/socket.h>" nogil:
    int MSG_WAITALL, SOCK_CLOEXEC, SOL_SOCKET, SO_ERROR, AF_INET, AF_INET6

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *src, char *dst, uint32_t size)
    unsigned short ntohs(unsigned short n)
    uint32_t ntohl(uint32_t n)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        pass
    struct sockaddr_in:
        unsigned short sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id

cdef enum:
    PROVIDED_SIZE = 4096         # what one provided buffer holds
    SCRATCH_SIZE = 256 * 1024
    SMALL_READ = 8 * 1024        # below it a socket leaves the scratch buffer again
    DIRECT_SENDS = 128             # with more in flight than this, sends are queued

# One per process: between filling it and copying out of it nothing can switch or run.
cdef char *scratch = <char *>malloc(SCRATCH_SIZE)
if scratch == NULL:
    raise MemoryError("no memory for the receive buffer")


cdef class SendTurn(Waitable):
    cdef int abort_wait(self, Task task) except -1:
        return task.scheduler.make_ready(task)

    cdef str describe_wait(self, Task task):
        return "its turn to send"


cdef SendTurn send_turn = SendTurn()


cdef class SocketCore(Descriptor):
    """The waiting half of `ferrule.socket.socket`."""
    cdef public object _sock     # the standard library's socket: it owns the descriptor
    cdef int64_t timeout_ns      # -1: none; 0: never wait
    cdef bint large_reads        # the last read filled its buffer
    cdef bint sending            # one send in flight, or the order of bytes is lost
    cdef list send_queue

    def __init__(self, sock, timeout=None):
        self._sock = sock
        self.fd = sock.fileno()
        self._set_timeout(timeout)

    def _set_timeout(self, timeout):
        if timeout is None:
            self.timeout_ns = -1
        elif not timeout >= 0:
            raise ValueError("Timeout value out of range")
        else:
            self.timeout_ns = min(<int64_t>(float(timeout) * 1e9), <int64_t>1 << 61) \
                if timeout < 2e9 else -1
            if self.timeout_ns == 0 and timeout > 0:
                self.timeout_ns = 1

    def gettimeout(self):
        """The timeout of each operation in seconds; None waits without end, 0 never waits."""
        return None if self.timeout_ns < 0 else self.timeout_ns / 1e9

    def fileno(self):
        """The descriptor, or -1 once closed."""
        return self.fd

    def _release(self):
        """End what is in flight (EBADF) and give the descriptor up without closing it."""
        return self.close_fd()

    cdef int64_t _deadline(self) except -1:
        return monotonic_ns() + self.timeout_ns if self.timeout_ns > 0 else 0

    cdef int _wait_ready(self, Scheduler s, int events, int64_t deadline) except -1:
        cdef Slot *slot
        cdef int64_t result
        if self.timeout_ns == 0:
            raise BlockingIOError(EAGAIN, os.strerror(EAGAIN))
        slot = s.take_slot(OP_POLL, self.fd)
        slot.o.flags = events
        try:
            result = self.perform(s, slot, deadline)
        finally:
            s.give_slot(slot)
        if result < 0:
            raise_error(result)
        return 0

    # ---- receiving ----

    def recv(self, Py_ssize_t bufsize, int flags=0):
        """Receive up to ``bufsize`` bytes; b"" at the end of the stream.  See socket.recv.

        A switch and cancellation point.
        """
        cdef Scheduler s = current_scheduler()
        cdef Slot *slot
        cdef int64_t result
        s.about_to_wait()
        self.check_open()
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        if flags & MSG_WAITALL and self.timeout_ns:
            return self._recv_all(s, bufsize, flags)
        if self.large_reads or flags or self.timeout_ns == 0 or not s.backend.provides_buffers:
            return self._recv_scratch(s, bufsize, flags)
        slot = s.take_slot(OP_RECV, self.fd)
        slot.o.traits = OP_PROVIDED_BUFFER
        slot.o.len = min(bufsize, PROVIDED_SIZE)
        try:
            result = self.perform(s, slot, self._deadline())
            if slot.o.payload != NULL:
                data = <object><PyObject *>slot.o.payload
                if result == PROVIDED_SIZE:
                    self.large_reads = True
                return data
        finally:
            s.give_slot(slot)
        if result == 0:
            return b""
        if result != -ENOBUFS and result != -EAGAIN:
            raise_error(result)
        return self._recv_scratch(s, bufsize, flags)

    cdef object _recv_scratch(self, Scheduler s, Py_ssize_t bufsize, int flags):
        cdef int64_t result
        cdef int64_t deadline = 0
        cdef uint64_t length = min(bufsize, SCRATCH_SIZE)
        while True:
            result = s.inject(OP_RECV, &length) if s.faults is not None else 0
            if result == 0:
                result = op_try_recv(self.fd, scratch, length, flags)
            if result >= 0:
                break
            if result == -EAGAIN:
                if deadline == 0:
                    deadline = self._deadline()
                self._wait_ready(s, POLLIN, deadline)
            elif result != -EINTR:
                raise_error(result)
            self.check_open()
            length = min(bufsize, SCRATCH_SIZE)
        self.large_reads = result >= SMALL_READ
        data = PyBytes_FromStringAndSize(scratch, result)
        s.spend_budget()
        return data

    cdef object _recv_all(self, Scheduler s, Py_ssize_t bufsize, int flags):
        data = PyBytes_FromStringAndSize(NULL, bufsize)
        cdef Slot *slot = s.take_slot(OP_RECV, self.fd)
        cdef int64_t result
        slot.o.addr = PyBytes_AS_STRING(data)
        slot.o.len = bufsize
        slot.o.flags = flags
        slot.keep = <PyObject *>data
        Py_INCREF(data)
        try:
            result = self.perform(s, slot, self._deadline())
        finally:
            s.give_slot(slot)
        if result < 0:
            raise_error(result)
        return data[:result] if result < bufsize else data

    def recv_into(self, buffer, Py_ssize_t nbytes=0, int flags=0):
        """Receive into a writable buffer; the count, 0 at the end.  See socket.recv_into.

        The buffer cannot be resized until this returns.  A switch and cancellation point.
        """
        cdef Scheduler s = current_scheduler()
        cdef Slot *slot
        cdef int64_t result
        s.about_to_wait()
        self.check_open()
        if nbytes < 0:
            raise ValueError("negative buffersize in recv_into")
        slot = s.take_slot(OP_RECV, self.fd)
        try:
            PyObject_GetBuffer(buffer, &slot.view, PyBUF_WRITABLE)
            slot.has_view = True
            if nbytes > slot.view.len:
                raise ValueError("buffer too small for requested bytes")
            slot.o.addr = slot.view.buf
            slot.o.len = nbytes if nbytes else slot.view.len
            slot.o.flags = flags
            result = -EAGAIN
            if not flags & MSG_WAITALL or self.timeout_ns == 0:
                result = self._try_recv_slot(s, slot, flags)
            if result == -EAGAIN:
                if self.timeout_ns == 0:
                    raise BlockingIOError(EAGAIN, os.strerror(EAGAIN))
                result = self._perform_nonblocking(s, slot, POLLIN, self._deadline())
            else:
                s.spend_budget()
        finally:
            s.give_slot(slot)
        if result < 0:
            raise_error(result)
        return result

    cdef int64_t _try_recv_slot(self, Scheduler s, Slot *slot, int flags) except? -4096:
        cdef int64_t result
        cdef uint64_t length = slot.o.len
        while True:
            result = s.inject(OP_RECV, &length) if s.faults is not None else 0
            if result == 0:
                result = op_try_recv(self.fd, slot.o.addr, length, flags)
            if result != -EINTR:
                return result

    cdef int64_t _perform_nonblocking(self, Scheduler s, Slot *slot, int events,
                                      int64_t deadline) except? -4096:
        # A descriptor that somebody made O_NONBLOCK answers EAGAIN on old kernels.
        cdef int64_t result
        while True:
            result = self.perform(s, slot, deadline)
            if result != -EAGAIN:
                return result
            self._wait_ready(s, events, deadline)
            self.check_open()

    # ---- sending ----

    def send(self, data, int flags=0):
        """Send what the kernel takes at once, at least one byte; the count.  See socket.send.

        A switch and cancellation point.
        """
        cdef Scheduler s = current_scheduler()
        cdef Slot *slot
        cdef int64_t result
        s.about_to_wait()
        self.check_open()
        slot = s.take_slot(OP_SEND, self.fd)
        try:
            PyObject_GetBuffer(data, &slot.view, PyBUF_SIMPLE)
            slot.has_view = True
            slot.o.addr = slot.view.buf
            slot.o.len = slot.view.len
            slot.o.flags = flags
            self._take_turn(s, self._deadline())
            try:
                result = self._send_some(s, slot, self._deadline())
            finally:
                self._pass_turn(s)
        finally:
            s.give_slot(slot)
        return result

    def sendall(self, data, int flags=0):
        """Send all of a buffer.  See socket.sendall; the timeout is for the whole.

        When it raises, how much was sent is not known.  Messages of several fibers do not mix.
        A switch and cancellation point.
        """
        cdef Scheduler s = current_scheduler()
        cdef Slot *slot
        cdef int64_t deadline, result
        s.about_to_wait()
        self.check_open()
        slot = s.take_slot(OP_SEND, self.fd)
        try:
            PyObject_GetBuffer(data, &slot.view, PyBUF_SIMPLE)
            slot.has_view = True
            slot.o.addr = slot.view.buf
            slot.o.len = slot.view.len
            slot.o.flags = flags | MSG_WAITALL  # the engine goes on after a short send by itself
            if slot.o.len == 0:
                return
            deadline = self._deadline()
            self._take_turn(s, deadline)
            try:
                while True:
                    result = self._send_some(s, slot, deadline)
                    if result >= <int64_t>slot.o.len:
                        break
                    slot.o.addr = <char *>slot.o.addr + result
                    slot.o.len -= result
            finally:
                self._pass_turn(s)
        finally:
            s.give_slot(slot)

    cdef int64_t _send_some(self, Scheduler s, Slot *slot, int64_t deadline) except? -4096:
        cdef int64_t result = -EAGAIN
        cdef uint64_t length = slot.o.len
        if s.backend.in_flight <= DIRECT_SENDS or self.timeout_ns == 0:
            result = s.inject(OP_SEND, &length) if s.faults is not None else 0
            if result == 0:
                result = op_try_send(self.fd, slot.o.addr, length, slot.o.flags)
            if result >= 0:
                s.spend_budget()
                return result
        if result == -EAGAIN or result == -EINTR:
            if self.timeout_ns == 0:
                raise BlockingIOError(EAGAIN, os.strerror(EAGAIN))
            result = self._perform_nonblocking(s, slot, POLLOUT, deadline)
        if result < 0:
            raise_error(result)
        return result

    cdef int _take_turn(self, Scheduler s, int64_t deadline) except -1:
        cdef Task me
        if not self.sending:
            self.sending = True
            return 0
        if self.timeout_ns == 0:
            raise BlockingIOError(EAGAIN, os.strerror(EAGAIN))
        me = s.about_to_wait()
        if self.send_queue is None:
            self.send_queue = []
        self.send_queue.append(me)
        s.wait_on(me, send_turn, deadline, True)
        if me in self.send_queue:  # not handed over: timed out or cancelled
            self.send_queue.remove(me)
            s.about_to_wait()
            raise TimeoutError("timed out")
        try:
            self.check_open()
        except OSError:
            self._pass_turn(s)
            raise
        return 0

    cdef int _pass_turn(self, Scheduler s) except -1:
        if self.send_queue:
            s.make_ready(self.send_queue.pop(0))  # `sending` stays: the turn is handed over
        else:
            self.sending = False
        return 0

    # ---- connections ----

    def _accept(self):
        """(fd, address) of the next connection."""
        cdef Scheduler s = current_scheduler()
        cdef Slot *slot
        cdef int64_t result
        s.about_to_wait()
        self.check_open()
        if self.timeout_ns == 0:
            self._poll_now(POLLIN)
        slot = s.take_slot(OP_ACCEPT, self.fd)
        try:
            slot.o.addr = &slot.o.out.addr
            slot.o.out_len = sizeof(slot.o.out.addr)
            slot.o.addr2 = &slot.o.out_len
            slot.o.flags = SOCK_CLOEXEC
            result = self._perform_nonblocking(s, slot, POLLIN, self._deadline())
            if result < 0:
                raise_error(result)
            return result, address_of(slot)
        finally:
            s.give_slot(slot)

    def _poll_now(self, int events):
        import select
        poll = select.poll()
        poll.register(self.fd, events)
        if not poll.poll(0):
            raise BlockingIOError(EAGAIN, os.strerror(EAGAIN))

    def _connect(self, address):
        """Connect to a resolved address; an errno, 0 for success.

        Two steps: the attempt, and SO_ERROR once the socket is writable.
        """
        cdef Scheduler s = current_scheduler()
        cdef int64_t result
        cdef uint64_t unused = 0
        cdef int err
        s.about_to_wait()
        self.check_open()
        if s.faults is not None:
            result = s.inject(OP_CONNECT, &unused)
            if result < 0:
                return -result
        self._sock.setblocking(False)
        try:
            err = self._sock.connect_ex(address)
        finally:
            self._sock.setblocking(True)
        if err != EINPROGRESS or self.timeout_ns == 0:
            return err
        self._wait_ready(s, POLLOUT, self._deadline())
        return self._sock.getsockopt(SOL_SOCKET, SO_ERROR)

    def _retry(self, bint reading, fn):
        """Call ``fn()``, which must not block, until it does not answer EAGAIN; its result.

        For calls whose arguments and results the standard library knows best (recvfrom, sendmsg).
        """
        cdef Scheduler s = current_scheduler()
        cdef int64_t deadline, result
        cdef uint64_t unused = 0
        cdef int kind = OP_RECVMSG if reading else OP_SENDMSG
        s.about_to_wait()
        self.check_open()
        deadline = self._deadline()
        while True:
            if s.faults is not None:
                result = s.inject(kind, &unused)
                if result < 0:
                    raise_error(result)
            try:
                value = fn()
                break
            except BlockingIOError:
                if self.timeout_ns == 0:
                    raise
            self._wait_ready(s, POLLIN if reading else POLLOUT, deadline)
            self.check_open()
        s.spend_budget()
        return value


cdef object address_of(Slot *slot):
    """The peer's address as the standard library writes it; None: ask getpeername()."""
    cdef char text[64]
    cdef sockaddr_in *v4
    cdef sockaddr_in6 *v6
    cdef int family = slot.o.out.addr.ss_family
    if family == AF_INET:
        v4 = <sockaddr_in *>&slot.o.out.addr
        inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text))
        return text.decode("ascii"), ntohs(v4.sin_port)
    if family == AF_INET6:
        v6 = <sockaddr_in6 *>&slot.o.out.addr
        if v6.sin6_scope_id:
            return None  # needs the interface's name
        inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text))
        return text.decode("ascii"), ntohs(v6.sin6_port), ntohl(v6.sin6_flowinfo), 0
    return None


def wait_ready(fd, int events, timeout=None):
    """Park until poll(2) ``events`` on ``fd``; the events that are there.  TimeoutError."""
    cdef Scheduler s = current_scheduler()
    cdef Slot *slot
    cdef int64_t result
    cdef int number = fd if isinstance(fd, int) else fd.fileno()
    s.about_to_wait()
    if number < 0:
        raise ValueError(f"file descriptor cannot be a negative integer ({number})")
    slot = s.take_slot(OP_POLL, number)
    slot.o.flags = events
    try:
        result = s.perform(slot, deadline_after(timeout), True)
    finally:
        s.give_slot(slot)
    if result < 0:
        raise_error(result)
    return result
