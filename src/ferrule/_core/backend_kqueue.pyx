"""The kqueue engine, for macOS and the BSDs; on Linux it runs on libkqueue, to be tested.

Facts that shape this file (poller_kqueue.h has the calls):
  * A registration is known by queue, descriptor and filter; registering again what is registered
    changes nothing.  Closing a descriptor's last number takes its registrations away, but not under
    libkqueue, which is told before.
  * EV_ONESHOT takes the registration away with its report, so what is waited for is what is
    registered, and a number that was closed and reused has nothing of its predecessor.
  * A user event that is added and triggered in one change does not end a wait under libkqueue: it
    is added when the thread starts, with EV_CLEAR, and from then on triggered.
  * kevent(2) may not be called by a signal handler: what set_wakeup_fd writes to is a pipe.
  * A forked child does not have its parent's kqueues.
  * EVFILT_READ says nothing of a file that is read to its end, and no filter tells of urgent data,
    nor of an error alone: such waits are poll(2) in a thread.

What it costs: one call for each wait.  EVFILT_TIMER is not used: the loop has one nearest deadline,
and kevent(2) takes it as its timeout.
"""
cimport cython
from libc.stdint cimport int64_t

from ferrule._core.backend_readiness cimport ReadinessBackend, poller_event
from ferrule._core.backend_workers cimport waker

import os

cdef extern from "poller_kqueue.h" nogil:
    """
    #ifdef LIBKQUEUE
    #define POLLER_SURVIVES_FORK 1
    #else
    #define POLLER_SURVIVES_FORK 0
    #endif
    """
    bint POLLER_SURVIVES_FORK
    struct poller:
        int fd
        bint woken
    int poller_open(poller *p, int wake_fd)
    int poller_arm(poller *p, int fd, int events, int how)
    int poller_wait(poller *p, int64_t timeout, poller_event *events, int max)
    void poller_wake(poller *p)
    void poller_disarm(poller *p, int fd)
    void poller_close(poller *p)

cdef extern from "waker.h" nogil:
    bint waker_call(waker *w)
    void waker_clear(waker *w)


@cython.final
cdef class KqueueBackend(ReadinessBackend):
    cdef poller poller

    def __cinit__(self):
        self.poller.fd = -1
        self.name = "kqueue"

    cdef int open_poller(self) except -1:
        cdef int err = poller_open(&self.poller, self.waker.read_fd)
        if err < 0:
            raise OSError(-err, f"cannot make a kqueue: {os.strerror(-err)}")
        return 0

    cdef int arm(self, int fd, int events, int how) noexcept:
        return poller_arm(&self.poller, fd, events, how)

    cdef int wait_events(self, int64_t timeout, poller_event *events, int limit) noexcept:
        cdef int n
        if timeout == 0:
            n = poller_wait(&self.poller, 0, events, limit)
        else:
            with nogil:
                n = poller_wait(&self.poller, timeout, events, limit)
        if n >= 0 and self.poller.woken:
            waker_clear(&self.waker)
            self.woken = True
        return n

    cdef void disarm(self, int fd) noexcept:
        poller_disarm(&self.poller, fd)

    cdef void wake(self) noexcept nogil:
        if waker_call(&self.waker):
            poller_wake(&self.poller)

    cdef void close_poller(self) noexcept:
        poller_close(&self.poller)

    cdef void abandon(self) noexcept:
        if not POLLER_SURVIVES_FORK:
            self.poller.fd = -1
        ReadinessBackend.abandon(self)
