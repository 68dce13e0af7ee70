"""The contract of an engine, and the engine that refuses everything (a base and a test double).

An engine belongs to one scheduler and is polled by one thread. What each call does stands beside it
in backend.pxd; this is what all of them promise together.

Threads. open(), start(), cancel(), poll() and close() are called by the owner's thread alone, and
open() by the thread that will poll. wake() comes from any thread and from C signal handlers;
forget() from any thread with by_owner false. Both only between open() and close(): the scheduler
holds its `wake_guard` around them, and around making the engine unreachable before close().

Life of an operation. start() takes a slot that nothing else holds and makes it OP_IN_FLIGHT.
complete() gives it its result, makes it OP_COMPLETED and puts it at the end of `completed`; that
may happen inside start() and cancel(). The scheduler takes that list after poll(), and only then is
an operation OP_DONE and its slot free to be used again. Every operation that was started completes
exactly once: with what the kernel said, or -ECANCELED or -EINTR after a cancel(). A count or a
descriptor that the kernel gave wins over a cancel() that came at the same time.

Memory. The slot, and the buffers it has borrowed, are the engine's until OP_COMPLETED: it points at
nothing else, least of all at the C stack, which greenlet moves.

Order. Completions are listed in the order in which the engine learned of them. Nothing else is
promised, not even of operations on one descriptor that wait for the same thing.

Waiting. poll() with may_block waits until there is a completion, a wake-up, a signal, or `timeout`
has passed, whichever is first; it may return early for no reason. It lets go of the GIL only while
it waits. A wake() that comes before the wait ends it too: none is lost, several count as one.
Without may_block it takes what is there; `timeout` 0 says that somebody asks for it now, else an
engine may leave out a look that would cost a call.

Errors. A refusal of the system is an OSError with its errno, from open(): the engine has then given
back what it took. open() does one operation, or as much as shows that the rest is allowed. poll()
raises only if no operation in flight can be trusted any more.

Shutdown. close() cancels what is in flight, waits for it a bounded time, and returns how many
operations had to be leaked: their slots are never freed. It is idempotent, and right after a failed
open(). abandon() is for a forked child: drop the descriptors, touch nothing that the parent has.
"""
from libc.errno cimport ENOSYS
from libc.string cimport memset

from ferrule._core.operation cimport slots


cdef class Backend:
    def __cinit__(self):
        self.direct_sends = 0xffffffff

    def try_out(self):
        """Open and close an engine that was made for this; OSError: why it cannot be used."""
        cdef slots none
        memset(&none, 0, sizeof(none))
        self.table = &none
        try:
            self.open()
        finally:
            self.close()
            self.table = NULL

    cdef int open(self) except -1:
        return 0

    cdef void start(self, op *o) noexcept:
        self.in_flight += 1
        self.complete(o, -ENOSYS)

    cdef void cancel(self, op *o) noexcept:
        pass

    cdef void forget(self, int fd, bint by_owner) noexcept:
        pass

    cdef int poll(self, int64_t timeout, bint may_block) except -1:
        return 0

    cdef void wake(self) noexcept nogil:
        pass

    cdef int wake_fd(self) noexcept:
        return -1

    cdef int close(self) except -1:
        return 0

    cdef void abandon(self) noexcept:
        pass
