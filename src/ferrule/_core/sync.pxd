# Waiting for other fibers and threads: wait lists in user space, so that a hop between the fibers
# of a thread makes no system call.
cimport cython
from libc.stdint cimport int64_t

from ferrule._core.scheduler cimport Scheduler, Task, Waitable, mutex


cdef enum Grant:
    STILL_WAITING       # nobody granted: it is in the list, or gave up
    GRANTED             # what it waited for was handed over
    SHUT_DOWN           # it will never come
    NOTIFIED            # by a Condition; now it is in the list of the Condition's lock
    LEFT_BEHIND         # by fork(): a thread that is not in this process


cdef class WaitList(Waitable):
    """Tasks parked in the order of their coming, linked through the tasks themselves.

    `guard` is held for whatever touches the list and for what decides whether somebody has to wait.
    To wait: append() under the guard, unlock, park().  To end a wait: pop() and write the outcome
    under the guard, unlock, wake().
    """
    # Here and not below: for a class without object attributes of its own Cython (3.3) makes no
    # tp_dealloc, and so nothing that clears weak references.
    cdef object __weakref__
    cdef Task first, last
    cdef mutex own
    cdef mutex *guard           # &own, or that of the object which this list is a part of
    cdef int append(self, Task task) except -1
    cdef int remove(self, Task task) except -1
    cdef Task peek(self)
    cdef Task pop(self)
    cdef Task take_all(self, Grant how)
    cdef Task take_some(self, Grant how, Py_ssize_t *n)
    cdef Task left_by(self, Task task)
    cdef bint leave(self, Task task) except -1
    cdef Grant park(self, Task me, int64_t deadline, bint interruptible=*) except *
    cdef Grant _block(self, Task me, int64_t deadline, bint interruptible) except *


cdef class Event(WaitList):
    cdef bint flag
    cdef bint look(self, Task waiter) except -1


cdef class OwnedLock(WaitList):
    cdef bint held, reentrant
    cdef Task holder                    # None: an OS thread
    cdef unsigned long holder_thread
    cdef Py_ssize_t depth               # how often the holder took it
    cdef bint is_held_by(self, Task me) noexcept
    cdef int hold(self, Task me) except -1
    cdef bint take(self, Task me, bint enter) except -1
    cdef bint wait_for_turn(self, int64_t deadline) except -1
    cdef Task hand_over(self)
    cdef int give(self) except -1
    cdef int take_back(self, Task me) except -1
    cdef str held_by(self)


cdef class Condition(WaitList):
    cdef OwnedLock lock
    cdef int use(self, OwnedLock lock) except -1
    cdef bint wait_as(self, Task me, int64_t deadline) except -1
    cdef int end_wait(self, Task me, Py_ssize_t depth, bint pass_on) except -1
    cdef int notify_waiters(self, Py_ssize_t n) except -1
    cdef int check_held(self, str what) except -1


cdef class Semaphore(WaitList):
    cdef Py_ssize_t value, limit
    cdef bint take(self, Task waiter) except -1
    cdef bint wait_for_permit(self, int64_t deadline) except -1
    cdef int give(self, Py_ssize_t n) except -1


cdef class Barrier(WaitList):
    cdef readonly Py_ssize_t parties
    cdef Py_ssize_t arrived
    cdef bint is_broken
    cdef object action, timeout
    cdef bint arrive(self, Task waiter, bint may_wait, Py_ssize_t *place) except -1
    cdef int let_pass(self, Task others) except -1
    cdef Task break_it(self)


cdef class RWLock(WaitList):
    cdef dict readers           # who reads, and how often; a Task or the number of an OS thread
    cdef object writer          # who writes
    cdef bint take(self, Task me, bint to_write, bint enter) except -1
    cdef int note(self, object who, bint writes) except -1
    cdef int forget(self, object who, bint written) except -1
    cdef bint wait_for_turn(self, bint to_write, int64_t deadline) except -1
    cdef Task admit(self)
    cdef int give(self, object who, bint written) except -1
    cdef tuple holders(self)
    cdef str state(self)


@cython.final
cdef class RWLockSide:
    cdef RWLock rwlock
    cdef bint writes


cdef class Waiter(Waitable):
    cdef Scheduler home
    cdef mutex guard
    cdef Task task              # parked here
    cdef str what
    cdef object value
    cdef readonly bint woken
    cdef bint enter(self, Task me) except -1
    cdef bint leave(self) except -1


# The running fiber, or None where there is none.
cdef Task running_task()
# The same; raises Cancelled in a cancelled scope.
cdef Task enter_point()
# What enters a wait list: the running fiber, after the checks that every wait begins with, or a
# stand-in for this OS thread.
cdef Task about_to_wait()
# Wake those that take_all() linked.
cdef int wake_all(Task first) except -1
