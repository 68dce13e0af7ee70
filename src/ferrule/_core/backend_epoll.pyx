"""The epoll engine: what is left to say when readiness is all that a kernel tells.

Facts about the kernel that shape this file (poller_epoll.h has the calls):
  * A registration belongs to an open file *and* the number it was made with.  Closing the number
    ends it only if that was the file's last one: with a dup, or a copy in a child process, events
    go on to come, under the old number, and it can no longer be taken back.
  * The same number can be registered again as soon as it means another file; one file can be
    registered under several numbers.
  * Edge-triggered, a registration reports what is there when it is made or modified, and then each
    arrival.  It stays, so waiting costs no call; one-shot costs one for each wait.
  * A write edge comes only after an attempt found no room.  For a stream of TCP, a read that comes
    short has found the end of what is there, unless an end (RDHUP), an error or urgent data stands
    behind it; for other streams it may have found the edge of a message with descriptors.
  * Regular files and directories are refused (EPERM): they are never "not ready".
  * The timeout of epoll_wait has milliseconds; epoll_pwait2 has nanoseconds, from Linux 5.11.

What follows: Ferrule's own descriptors are registered once, edge-triggered, for reading first and
for writing when somebody has to wait for room, and their readiness is remembered (readiness.h).
What is not Ferrule's may be closed and reused behind our back, so it is registered anew for each
wait, one-shot.  Before a number is given up its registration is taken back, so that a copy of the
file elsewhere does not go on waking this loop.

What it costs: one epoll_ctl per connection that ever waits, one to give it up.
"""
cimport cython
from libc.stdint cimport int64_t

from ferrule._core.backend_readiness cimport ReadinessBackend, poller_event

import os

cdef extern from "poller_epoll.h" nogil:
    struct poller:
        int fd
    int poller_open(poller *p, int wake_fd)
    int poller_arm(poller *p, int fd, int events, int how)
    int poller_wait(poller *p, int64_t timeout, poller_event *events, int max)
    void poller_disarm(poller *p, int fd)
    void poller_close(poller *p)


@cython.final
cdef class EpollBackend(ReadinessBackend):
    cdef poller poller

    def __cinit__(self):
        self.poller.fd = -1
        self.name = "epoll"

    cdef int open_poller(self) except -1:
        cdef int err = poller_open(&self.poller, self.waker.read_fd)
        if err < 0:
            raise OSError(-err, f"cannot make an epoll instance: {os.strerror(-err)}")
        return 0

    cdef int arm(self, int fd, int events, int how) noexcept:
        return poller_arm(&self.poller, fd, events, how)

    cdef int wait_events(self, int64_t timeout, poller_event *events, int limit) noexcept:
        cdef int n
        if timeout == 0:
            return poller_wait(&self.poller, 0, events, limit)
        with nogil:
            n = poller_wait(&self.poller, timeout, events, limit)
        return n

    cdef void disarm(self, int fd) noexcept:
        poller_disarm(&self.poller, fd)

    cdef void close_poller(self) noexcept:
        poller_close(&self.poller)
