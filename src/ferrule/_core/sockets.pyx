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
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.errno cimport EAGAIN, EBADF, EINTR
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ferrule._core.operation cimport (
    OP_ACCEPT, OP_CONNECT, OP_CONNECTING, OP_DRAINS, OP_MAY_BLOCK, OP_POLL, OP_PROVIDED_BUFFER,
    OP_RECV, OP_RECVMSG, OP_SEND, OP_SENDFILE, OP_SENDMSG, op_try_accept, op_try_read, op_try_recv,
    op_try_send, sockaddr_storage,
)
from ferrule._core.scheduler cimport (
    SCRATCH_SIZE, Descriptor, Receiver, Scheduler, Slot, Task, Waitable, current_scheduler,
    deadline_after, monotonic_ns, mutex_lock, mutex_unlock, raise_error, scheduler_or_none, wake,
)

import os

from ferrule._core.scheduler import Cancelled

cdef extern from "Python.h":
    void PyErr_SetObject(object kind, object exc)
    void PyErr_WriteUnraisable(object where)

cdef extern from "<errno.h>" nogil:
    int EALREADY, EINPROGRESS, EISCONN, ENOBUFS

cdef extern from "<poll.h>" nogil:
    int POLLIN, POLLOUT, POLLERR, POLLHUP

cdef extern from "<sys/socket.h>" nogil:
    int AF_INET, AF_INET6, AF_UNIX

cdef extern from *:
    """
    #include <errno.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <sys/socket.h>

    /* Whether a TCP socket ends reads where a record does, as one with kernel TLS: only Linux has
     * such a layer, in TCP_ULP. */
    static inline int reads_records(int fd) {
    #ifdef TCP_ULP
        char name[16];
        socklen_t size = sizeof name;
        if (getsockopt(fd, IPPROTO_TCP, TCP_ULP, name, &size) < 0) return errno != ENOPROTOOPT;
        return size != 0;
    #else
        (void)fd;
        return 0;
    #endif
    }
    """
    bint reads_records(int fd) nogil

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char *s, size_t n)

cdef extern from "<sys/un.h>" nogil:
    struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *src, char *dst, uint32_t size)
    unsigned short ntohs(unsigned short n)
    uint32_t ntohl(uint32_t n)

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_TCP
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
    SMALL_READ = 8 * 1024        # below it a socket leaves the scratch buffer again
    SENDFILE_MAX = 4 * 1024 * 1024   # so that a cancellation is seen in between
    COPIED_FILE = 64 * 1024      # copying this much costs less than the way to a worker thread

cdef class SendTurn(Waitable):
    cdef int abort_wait(self, Task task) except -1:
        if (<SocketCore>task.wait_item).leave_queue(task):
            task.scheduler.make_ready(task)
        return 0  # else it has the turn, and is being woken

    cdef str describe_wait(self, Task task):
        return "its turn to send"

    cdef dict wait_facts(self, Task task):
        return {"kind": "turn"}


cdef SendTurn send_turn = SendTurn()


@cython.final
cdef class TurnPassed:
    """In the inbox of a receiver's thread: its turn to send has come."""
    cdef SocketCore sock
    cdef Receiver receiver

    def __call__(self):
        if not self.receiver.take_turn():
            self.sock._pass_turn(self.receiver.home)


cdef class SocketCore(Descriptor):
    """The waiting half of `ferrule.socket.socket`."""
    def __init__(self, sock, timeout=None):
        self._sock = sock
        self.fd = sock.fileno()
        self.is_stream = sock.type == SOCK_STREAM
        self._learn_reads()
        self._set_timeout(timeout)

    def _learn_reads(self):
        """See whether a read that comes short has taken all there was.

        So it is with TCP alone: others end one at the edge of a message or record.
        """
        cdef bint is_tcp = self.is_stream and self._sock.family in (AF_INET, AF_INET6) \
            and self._sock.proto in (0, IPPROTO_TCP)
        self.recv_traits = OP_DRAINS if is_tcp and not reads_records(self.fd) else 0

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

    cdef int _wait_ready(self, Scheduler s, int events, int64_t deadline,
                         object connecting_to=None) except -1:
        cdef Slot *slot
        cdef int64_t result
        if self.timeout_ns == 0:
            raise BlockingIOError(EAGAIN, os.strerror(EAGAIN))
        slot = s.take_slot(OP_POLL, self.fd)
        slot.o.flags = events
        if connecting_to is not None:  # for who looks what this waits for
            slot.o.traits |= OP_CONNECTING
            Py_INCREF(connecting_to)
            slot.keep = <PyObject *>connecting_to
        try:
            result = self.perform(s, slot, deadline)
        finally:
            s.give_slot(slot)
        if result < 0:
            raise_error(result)
        return 0

    cdef int64_t _try_recv(self, void *buf, uint64_t length, int flags) noexcept:
        cdef int64_t result = -EBADF
        if self.enter():
            result = op_try_recv(self.fd, buf, length, flags)
            self.leave()
        return result

    cdef int64_t _try_send(self, const void *buf, uint64_t length, int flags) noexcept:
        cdef int64_t result = -EBADF
        if self.enter():
            result = op_try_send(self.fd, buf, length, flags)
            self.leave()
        return result

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
        if flags & MSG_WAITALL and self.timeout_ns and not flags & MSG_DONTWAIT:
            return self._recv_all(s, bufsize, flags)
        if bufsize == 0:  # a provided buffer's length 0 would mean all of it
            return b""
        if not self.is_stream and bufsize > SCRATCH_SIZE:
            return self._recv_message(s, bufsize, flags)
        if (self.large_reads or flags or self.timeout_ns == 0 or not self.is_stream
                or not s.backend.provides_buffers):
            return self._recv_scratch(s, bufsize, flags)
        slot = s.take_slot(OP_RECV, self.fd)
        slot.o.traits = OP_PROVIDED_BUFFER | self.recv_traits
        slot.o.len = min(bufsize, s.backend.buffer_size)
        try:
            result = self.perform(s, slot, self._deadline())
            if slot.o.payload != NULL:
                data = <object><PyObject *>slot.o.payload
                if result == s.backend.buffer_size:
                    self.large_reads = True
                return data
        finally:
            s.give_slot(slot)
        if result == 0:
            return b""
        if result != -ENOBUFS and result != -EAGAIN:
            raise_error(result)
        return self._recv_scratch(s, bufsize, flags)

    cdef object _recv_scratch(self, Scheduler s, Py_ssize_t bufsize, int flags,
                              int64_t deadline=0):
        cdef int64_t result
        cdef uint64_t length = min(bufsize, SCRATCH_SIZE)
        while True:
            result = s.inject(OP_RECV, &length) if s.crew.faults is not None else 0
            if result == 0:
                result = self._try_recv(s.scratch_space(), length, flags)
            if result >= 0:
                break
            if result == -EAGAIN:
                if flags & MSG_DONTWAIT:
                    raise BlockingIOError(EAGAIN, os.strerror(EAGAIN))
                if deadline == 0:
                    deadline = self._deadline()
                self._wait_ready(s, POLLIN, deadline)
            elif result != -EINTR:
                raise_error(result)
            self.check_open()
            length = min(bufsize, SCRATCH_SIZE)
        self.large_reads = result >= SMALL_READ
        data = PyBytes_FromStringAndSize(s.scratch_space(), result)
        s.spend_budget()
        return data

    cdef object _recv_message(self, Scheduler s, Py_ssize_t bufsize, int flags):
        # In one piece, however long: what does not fit is lost.
        data = bytearray(bufsize)
        return bytes(memoryview(data)[:self.recv_into(data, bufsize, flags)])

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
            result = self._perform_nonblocking(s, slot, POLLIN, self._deadline())
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
            try:
                PyObject_GetBuffer(buffer, &slot.view, PyBUF_WRITABLE)
            except BufferError:
                raise TypeError("recv_into() needs a read-write bytes-like object, not "
                                f"{type(buffer).__name__}") from None
            slot.has_view = True
            if nbytes > slot.view.len:
                raise ValueError("buffer too small for requested bytes")
            slot.o.addr = slot.view.buf
            slot.o.len = nbytes if nbytes else slot.view.len
            slot.o.flags = flags
            if slot.o.len == 0:
                return 0
            result = -EAGAIN
            if not flags & MSG_WAITALL or self.timeout_ns == 0 or flags & MSG_DONTWAIT:
                result = self._try_recv_slot(s, slot, flags)
            if result == -EAGAIN:
                if self.timeout_ns == 0 or flags & MSG_DONTWAIT:
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
            result = s.inject(OP_RECV, &length) if s.crew.faults is not None else 0
            if result == 0:
                result = self._try_recv(slot.o.addr, length, flags)
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
        cdef int64_t deadline, result, rest
        s.about_to_wait()
        self.check_open()
        slot = s.take_slot(OP_SEND, self.fd)
        try:
            PyObject_GetBuffer(data, &slot.view, PyBUF_SIMPLE)
            slot.has_view = True
            slot.o.addr = slot.view.buf
            rest = slot.o.len = slot.view.len
            slot.o.flags = flags | MSG_WAITALL  # the engine goes on after a short send by itself
            if slot.o.len == 0 and self.is_stream:
                return
            deadline = self._deadline()
            self._take_turn(s, deadline)
            try:
                while True:
                    result = self._send_some(s, slot, deadline)
                    if result >= rest:
                        break
                    slot.o.addr = <char *>slot.o.addr + result
                    rest -= result
                    slot.o.len = rest  # which a fault may have shortened
            finally:
                self._pass_turn(s)
        finally:
            s.give_slot(slot)

    def _sendfile(self, int fd, int64_t offset, int64_t count, int64_t size, list sent):
        """Send ``count`` bytes (-1: to the end) of a regular file of about ``size`` bytes.

        ``sent[0]`` is how many were sent, also when it raises.  A short rest that is in the page
        cache is copied; the other reads may sleep, so they happen in a worker thread, and a socket
        that does not block keeps that thread from waiting for a slow peer.
        """
        cdef Scheduler s = current_scheduler()
        cdef int64_t result
        s.about_to_wait()
        self.check_open()
        self._take_turn(s, self._deadline())
        if self.timeout_ns < 0:
            self._sock.setblocking(False)
        try:
            while count:
                result = self._sendfile_some(s, fd, offset, count, size - offset)
                if result == 0:
                    break
                offset += result
                sent[0] += result
                if count > 0:
                    count -= result
        finally:
            if self.timeout_ns < 0 and self.fd >= 0:
                self._sock.setblocking(True)
            self._pass_turn(s)

    cdef int64_t _sendfile_some(self, Scheduler s, int fd, int64_t offset, int64_t count,
                                int64_t rest) except? -4096:
        cdef int64_t deadline = self._deadline()
        cdef int64_t result
        cdef uint64_t length = SENDFILE_MAX if count < 0 else min(count, SENDFILE_MAX)
        while True:
            self.check_open()
            result = -EAGAIN
            if s.crew.faults is None and (rest <= COPIED_FILE or <int64_t>length <= COPIED_FILE):
                result = op_try_read(fd, s.scratch_space(), min(length, COPIED_FILE), offset)
                if result == 0:
                    return 0
            if result > 0:
                result = self._try_send(s.scratch_space(), result, 0)
                if result > 0:
                    s.spend_budget()
            else:
                result = self._sendfile_in_worker(s, fd, offset, length, deadline)
            if result >= 0:
                return result
            if result != -EAGAIN and result != -EINTR:
                raise_error(result)
            self._wait_ready(s, POLLOUT, deadline)

    cdef int64_t _sendfile_in_worker(self, Scheduler s, int fd, int64_t offset, uint64_t length,
                                     int64_t deadline) except? -4096:
        cdef Slot *slot = s.take_slot(OP_SENDFILE, self.fd)
        slot.o.fd2 = fd
        slot.o.off = offset
        slot.o.len = length
        try:
            return self.perform(s, slot, deadline)
        finally:
            s.give_slot(slot)

    cdef int64_t _send_some(self, Scheduler s, Slot *slot, int64_t deadline) except? -4096:
        cdef int64_t result = -EAGAIN
        cdef uint64_t length = slot.o.len
        cdef bint waits = self.timeout_ns != 0 and not slot.o.flags & MSG_DONTWAIT
        if s.backend.in_flight <= s.backend.direct_sends or not waits:
            result = s.inject(OP_SEND, &length) if s.crew.faults is not None else 0
            if result == 0:
                result = self._try_send(slot.o.addr, length, slot.o.flags)
            if result >= 0:
                s.spend_budget()
                return result
        if result == -EAGAIN or result == -EINTR:
            if not waits:
                raise BlockingIOError(EAGAIN, os.strerror(EAGAIN))
            result = self._perform_nonblocking(s, slot, POLLOUT, deadline)
        if result < 0:
            raise_error(result)
        return result

    cdef int _take_turn(self, Scheduler s, int64_t deadline) except -1:
        cdef Task me
        if self.take_turn_or_queue(None):
            return 0
        if self.timeout_ns == 0:
            raise BlockingIOError(EAGAIN, os.strerror(EAGAIN))
        me = s.about_to_wait()
        me.wait_item = self
        me.wait_outcome = 0
        try:
            if not self.take_turn_or_queue(me):
                s.wait_on(me, send_turn, deadline, True)
                if not me.wait_outcome:  # not handed over: timed out or cancelled
                    s.about_to_wait()
                    raise TimeoutError("timed out")
        except BaseException:
            self.leave_queue(me)
            raise
        finally:
            me.wait_item = None
        try:
            self.check_open()
        except OSError:
            self._pass_turn(s)
            raise
        return 0

    cdef int _pass_turn(self, Scheduler s) except -1:
        cdef TurnPassed passed
        while True:
            following = self._next_sender()
            if following is None:
                return 0
            if isinstance(following, Task):
                return wake(<Task>following)
            if (<Receiver>following).home is not s:
                passed = TurnPassed.__new__(TurnPassed)
                passed.sock, passed.receiver = self, following
                return (<Receiver>following).home.post(passed)
            if (<Receiver>following).take_turn():
                return 0

    cdef bint take_turn_or_queue(self, object sender) except -1:
        """Whether it is this sender's turn now; if not it is queued, unless it is None."""
        mutex_lock(&self.guard)
        cdef bint taken = not self.sending
        try:
            if taken:
                self.sending = True
            elif sender is not None and self.send_queue is None:
                self.send_queue = [sender]
            elif sender is not None:
                self.send_queue.append(sender)
        finally:
            mutex_unlock(&self.guard)
        return taken

    cdef object _next_sender(self):
        """Whose turn it is now; `sending` stays as long as there is one."""
        cdef object following = None
        mutex_lock(&self.guard)
        try:
            if self.send_queue:
                following = self.send_queue.pop(0)
                if isinstance(following, Task):
                    (<Task>following).wait_outcome = 1
            else:
                self.sending = False
        finally:
            mutex_unlock(&self.guard)
        return following

    cdef bint leave_queue(self, object sender) except -1:
        """Give up waiting; False if the turn has been given and the news is on its way."""
        mutex_lock(&self.guard)
        cdef bint queued = self.send_queue is not None and sender in self.send_queue
        try:
            if queued:
                self.send_queue.remove(sender)
        finally:
            mutex_unlock(&self.guard)
        return queued

    # ---- for layers above a stream (ssl), whose calls are several of these ----

    def _begin(self):
        """When an operation that begins now has to end: monotonic ns, 0 for never."""
        return self._deadline()

    def _recv_layer(self, int64_t deadline):
        """What has arrived, waiting until ``deadline``; b"" at the end."""
        cdef Scheduler s = current_scheduler()
        s.about_to_wait()
        self.check_open()
        return self._recv_scratch(s, SCRATCH_SIZE, 0, deadline)

    def _send_layer(self, data, int64_t deadline):
        """Send some of ``data``, waiting until ``deadline``; the count."""
        cdef Scheduler s = current_scheduler()
        cdef Slot *slot
        s.about_to_wait()
        self.check_open()
        slot = s.take_slot(OP_SEND, self.fd)
        try:
            PyObject_GetBuffer(data, &slot.view, PyBUF_SIMPLE)
            slot.has_view = True
            slot.o.addr = slot.view.buf
            slot.o.len = slot.view.len
            return self._send_some(s, slot, deadline)
        finally:
            s.give_slot(slot)

    def _send_now(self, data):
        """Send what can be sent without waiting; the count, 0 if nothing."""
        cdef Scheduler s = current_scheduler()
        cdef const unsigned char[::1] view = data
        cdef int64_t result = 0
        cdef uint64_t length = view.shape[0]
        self.check_open()
        if length == 0:
            return 0
        if s.crew.faults is not None:
            result = s.inject(OP_SEND, &length)
        if result == 0:
            result = self._try_send(&view[0], length, 0)
        if result == -EAGAIN or result == -EINTR:
            return 0
        if result < 0:
            raise_error(result)
        return result

    def _wait_both(self, int64_t deadline):
        """Park until it can be read or written."""
        cdef Scheduler s = current_scheduler()
        s.about_to_wait()
        self.check_open()
        self._wait_ready(s, POLLIN | POLLOUT, deadline)

    # ---- connections ----

    def _accept(self):
        """(fd, address) of the next connection."""
        cdef Scheduler s = current_scheduler()
        cdef Slot *slot
        cdef int64_t result
        s.about_to_wait()
        self.check_open()
        if self.timeout_ns == 0 and not self._tries_accept:
            self._poll_now(POLLIN)
        slot = s.take_slot(OP_ACCEPT, self.fd)
        try:
            slot.o.addr = &slot.o.out.addr
            slot.o.out_len = sizeof(slot.o.out.addr)
            slot.o.addr2 = &slot.o.out_len
            slot.o.flags = SOCK_CLOEXEC
            result = self._try_accept(s, slot) if self._tries_accept else -EAGAIN
            if result == -EAGAIN:
                slot.o.out_len = sizeof(slot.o.out.addr)
                result = self._perform_nonblocking(s, slot, POLLIN, self._deadline())
            if result < 0:
                raise_error(result)
            return result, address_of(slot)
        finally:
            s.give_slot(slot)

    cdef int64_t _try_accept(self, Scheduler s, Slot *slot) except? -4096:
        # So that one fiber takes a burst of connections in one turn of the loop.
        cdef int64_t result
        cdef uint64_t unused = 0
        while True:
            result = s.inject(OP_ACCEPT, &unused) if s.crew.faults is not None else 0
            if result == 0:
                result = -EBADF
                if self.enter():
                    result = op_try_accept(&slot.o)
                    self.leave()
            if result == -EAGAIN and self.timeout_ns == 0:
                self._poll_now(POLLIN)  # unless somebody made it block: then take what is there
                return result
            if result >= 0:
                s.spend_budget()
            if result != -EINTR:
                return result

    def _poll_now(self, int events):
        import select
        poll = select.poll()
        poll.register(self.fd, events)
        if not poll.poll(0):
            raise BlockingIOError(EAGAIN, os.strerror(EAGAIN))

    def _connect(self, address):
        """Connect to a resolved address; an errno, 0 for success.

        Two steps: the attempt, and once the socket is writable a second one, which gives the
        outcome (SO_ERROR would as well, but would leave the socket "connecting").
        """
        cdef Scheduler s = current_scheduler()
        cdef int64_t result, deadline
        cdef uint64_t unused = 0
        cdef int err
        s.about_to_wait()
        self.check_open()
        if s.crew.faults is not None:
            result = s.inject(OP_CONNECT, &unused)
            if result < 0 and result != -EINTR:
                return -result
        if self.timeout_ns < 0:
            self._sock.setblocking(False)
        try:
            err = self._call(s, self._sock.connect_ex, (address,))
            if err == EINPROGRESS and self.timeout_ns:
                deadline = self._deadline()
                while err == EINPROGRESS or err == EALREADY:
                    self._wait_ready(s, POLLOUT, deadline, address)
                    self.check_open()
                    err = self._call(s, self._sock.connect_ex, (address,))
                if err == EISCONN:
                    err = 0
        finally:
            if self.timeout_ns < 0 and self.fd >= 0:
                self._sock.setblocking(True)
        if err == EAGAIN and self.timeout_ns < 0 and self._sock.family == AF_UNIX:
            return self._connect_unix(s, address)
        return err

    cdef object _connect_unix(self, Scheduler s, object address):
        # The listener's backlog is full, and no poll tells when it is not: only connect(2) waits.
        cdef Slot *slot
        cdef int64_t result
        path = os.fsencode(address) if isinstance(address, str) else bytes(address)
        slot = s.take_slot(OP_CONNECT, self.fd)
        try:
            slot.o.traits = OP_MAY_BLOCK
            slot.o.len = fill_unix(&slot.o.out.addr, path)
            slot.o.addr = &slot.o.out.addr
            result = self.perform(s, slot, self._deadline())
        finally:
            s.give_slot(slot)
        return -result if result < 0 else 0

    def _recv_call(self, bint waits, fn, *args):
        """``fn(*args)``, which must not block, as often as it answers EAGAIN; its result.

        ``waits`` false: only once.  For calls whose arguments and results the standard library
        knows best (recvfrom, recvmsg).
        """
        cdef Scheduler s = current_scheduler()
        s.about_to_wait()
        self.check_open()
        return self._repeat(s, OP_RECVMSG, POLLIN, self._deadline(), waits, fn, args)

    def _send_call(self, bint waits, fn, *args):
        """As `_recv_call`, in the order of sends."""
        cdef Scheduler s = current_scheduler()
        cdef int64_t deadline
        s.about_to_wait()
        self.check_open()
        deadline = self._deadline()
        self._take_turn(s, deadline)
        try:
            return self._repeat(s, OP_SENDMSG, POLLOUT, deadline, waits, fn, args)
        finally:
            self._pass_turn(s)

    cdef object _call(self, Scheduler s, object fn, tuple args):
        if not self.hold(s):
            raise_error(-EBADF)
        try:
            return fn(*args)
        finally:
            self.let_go(s)

    cdef object _repeat(self, Scheduler s, int kind, int events, int64_t deadline, bint waits,
                        object fn, tuple args):
        cdef int64_t result
        cdef uint64_t unused = 0
        while True:
            result = s.inject(kind, &unused) if s.crew.faults is not None else 0
            if result == -EINTR:
                continue
            try:
                if result < 0:
                    raise_error(result)
                value = self._call(s, fn, args)
                break
            except BlockingIOError:
                if self.timeout_ns == 0 or not waits:
                    raise
            self._wait_ready(s, events, deadline)
            self.check_open()
        s.spend_budget()
        return value

    def _send_messages(self, list messages, int flags, timeout):
        """(how many were sent, what stopped it or None); each is (buffers, ancdata, address).

        Waits at most ``timeout`` seconds, None: the socket's own limit, for all of them together.
        """
        cdef Scheduler s = current_scheduler()
        cdef int64_t deadline
        cdef Py_ssize_t sent = 0
        s.about_to_wait()
        self.check_open()
        deadline = self._deadline() if timeout is None else deadline_after(timeout)
        cdef bint waits = not flags & MSG_DONTWAIT
        flags |= MSG_DONTWAIT
        try:
            self._take_turn(s, deadline)
            try:
                for buffers, ancdata, address in messages:
                    self._send_message(s, deadline, waits, buffers, (ancdata, flags, *address))
                    sent += 1
            finally:
                self._pass_turn(s)
        except (Exception, Cancelled) as exc:
            if sent == 0:
                raise
            return sent, exc
        return sent, None

    cdef int _send_message(self, Scheduler s, int64_t deadline, bint waits, list buffers,
                           tuple rest) except -1:
        cdef Py_ssize_t taken, length
        send = self._sock.sendmsg
        if len(buffers) == 1 and len(rest) == 2 and not rest[0]:
            taken = self._repeat(s, OP_SENDMSG, POLLOUT, deadline, waits, self._sock.send,
                                 (buffers[0], rest[1]))
        else:
            taken = self._repeat(s, OP_SENDMSG, POLLOUT, deadline, waits, send, (buffers, *rest))
        if not self.is_stream:
            return 0
        while True:  # a stream may take a part; ancillary data went with the first byte
            while buffers:
                length = memoryview(buffers[0]).nbytes
                if length > taken:
                    break
                taken -= length
                buffers = buffers[1:]
            if not buffers:
                return 0
            buffers = [memoryview(buffers[0]).cast("B")[taken:], *buffers[1:]]
            taken = self._repeat(s, OP_SENDMSG, POLLOUT, deadline, waits, send,
                                 (buffers, (), *rest[1:]))

    def _recv_messages(self, Py_ssize_t n, Py_ssize_t bufsize, Py_ssize_t ancbufsize, int flags,
                       timeout):
        """(list of recvmsg's results, what stopped it or None): one, and what else is there."""
        cdef Scheduler s = current_scheduler()
        cdef int64_t deadline
        cdef list messages = []
        cdef bint ends = self._sock.type in (SOCK_STREAM, SOCK_SEQPACKET)
        s.about_to_wait()
        self.check_open()
        deadline = self._deadline() if timeout is None else deadline_after(timeout)
        args = (bufsize, ancbufsize, flags | MSG_DONTWAIT)
        try:
            while len(messages) < n:
                message = self._repeat(s, OP_RECVMSG, POLLIN, deadline,
                                       not messages and not flags & MSG_DONTWAIT,
                                       self._sock.recvmsg, args)
                if messages and ends and not message[0] and not message[1]:
                    break  # the end; the next call sees it again
                messages.append(message)
                if ends and not message[0] and not message[1]:
                    break
        except BlockingIOError:
            if not messages:
                raise
        except (Exception, Cancelled) as exc:
            if not messages:
                raise
            return messages, exc
        return messages, None


cdef object address_of(Slot *slot):
    return address_in(&slot.o.out.addr, slot.o.out_len)


cdef object address_in(sockaddr_storage *storage, uint32_t length):
    cdef char text[64]
    cdef sockaddr_in *v4
    cdef sockaddr_in6 *v6
    cdef int family = storage.ss_family
    if family == AF_INET:
        v4 = <sockaddr_in *>storage
        inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text))
        return text.decode("ascii"), ntohs(v4.sin_port)
    if family == AF_INET6:
        v6 = <sockaddr_in6 *>storage
        inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text))
        return (text.decode("ascii"), ntohs(v6.sin6_port), ntohl(v6.sin6_flowinfo),
                v6.sin6_scope_id)
    if family == AF_UNIX:
        return unix_path(<sockaddr_un *>storage, length)
    return None


cdef object unix_path(sockaddr_un *address, uint32_t length):
    cdef char *path = address.sun_path
    cdef Py_ssize_t size = <Py_ssize_t>length - (path - <char *>address)
    if size <= 0:
        return ""
    if path[0] == 0:
        return path[:size]  # an abstract name: any bytes
    return os.fsdecode(path[:strnlen(path, size)])


cdef uint64_t fill_unix(sockaddr_storage *out, bytes path) except 0:
    cdef sockaddr_un *address = <sockaddr_un *>out
    if len(path) >= sizeof(address.sun_path):
        raise OSError("AF_UNIX path too long")
    memset(address, 0, sizeof(sockaddr_un))
    address.sun_family = AF_UNIX
    memcpy(address.sun_path, PyBytes_AS_STRING(path), len(path))
    # An abstract name ends where the address ends, a path with a zero byte.
    return address.sun_path - <char *>address + len(path) + (path[:1] != b"\0")


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


def report_unraisable(exc, where):
    """Give an exception that nobody will see, and where it came from, to sys.unraisablehook."""
    PyErr_SetObject(type(exc), exc)
    PyErr_WriteUnraisable(where)


def in_fiber():
    """Whether the caller can park: otherwise calls that merely might sleep are made in place."""
    cdef Scheduler s = scheduler_or_none()
    return s is not None and not s.dead and not s.in_tick and s.current is not None
