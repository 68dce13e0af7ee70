# The waiting half of a socket.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from ferrule._core.operation cimport sockaddr_storage
from ferrule._core.scheduler cimport Descriptor, Receiver, Scheduler, Slot


cdef extern from "system_names.h" nogil:
    int MSG_DONTWAIT, MSG_WAITALL, SOCK_CLOEXEC, SOCK_SEQPACKET, SOCK_STREAM


cdef class SocketCore(Descriptor):
    """The waiting half of `ferrule.socket.socket`."""
    cdef public object _sock     # the standard library's socket: it owns the descriptor
    cdef int64_t timeout_ns      # -1: none; 0: never wait
    cdef bint is_stream          # no message boundaries, which a short buffer would cut
    cdef public bint _tries_accept   # a listener that is O_NONBLOCK
    cdef uint32_t recv_traits    # of provided receives, beside OP_PROVIDED_BUFFER
    cdef bint large_reads        # the last read filled its buffer
    cdef bint sending            # one send in flight, or the order of bytes is lost
    cdef list send_queue         # of tasks, and of receivers that send without a fiber

    cdef int64_t _deadline(self) except -1
    cdef int _wait_ready(self, Scheduler s, int events, int64_t deadline,
                         object connecting_to=*) except -1
    cdef int64_t _try_recv(self, void *buf, uint64_t length, int flags) noexcept
    cdef int64_t _try_send(self, const void *buf, uint64_t length, int flags) noexcept
    cdef object _recv_scratch(self, Scheduler s, Py_ssize_t bufsize, int flags,
                              int64_t deadline=*)
    cdef object _recv_message(self, Scheduler s, Py_ssize_t bufsize, int flags)
    cdef object _recv_all(self, Scheduler s, Py_ssize_t bufsize, int flags)
    cdef int64_t _try_recv_slot(self, Scheduler s, Slot *slot, int flags) except? -4096
    cdef int64_t _perform_nonblocking(self, Scheduler s, Slot *slot, int events,
                                      int64_t deadline) except? -4096
    cdef int64_t _sendfile_some(self, Scheduler s, int fd, int64_t offset, int64_t count,
                                int64_t rest) except? -4096
    cdef int64_t _sendfile_in_worker(self, Scheduler s, int fd, int64_t offset, uint64_t length,
                                     int64_t deadline) except? -4096
    cdef int64_t _send_some(self, Scheduler s, Slot *slot, int64_t deadline) except? -4096
    # Turns to send: fibers wait for theirs, receivers queue themselves.
    cdef int _take_turn(self, Scheduler s, int64_t deadline) except -1
    cdef bint take_turn_or_queue(self, object sender) except -1
    cdef object _next_sender(self)
    cdef bint leave_queue(self, object sender) except -1
    cdef int _pass_turn(self, Scheduler s) except -1
    cdef int64_t _try_accept(self, Scheduler s, Slot *slot) except? -4096
    cdef object _connect_unix(self, Scheduler s, object address)
    cdef object _call(self, Scheduler s, object fn, tuple args)
    cdef object _repeat(self, Scheduler s, int kind, int events, int64_t deadline, bint waits,
                        object fn, tuple args)
    cdef int _send_message(self, Scheduler s, int64_t deadline, bint waits, list buffers,
                           tuple rest) except -1


# The peer's address as the standard library writes it; None: ask getpeername().
cdef object address_of(Slot *slot)
cdef object address_in(sockaddr_storage *storage, uint32_t length)
