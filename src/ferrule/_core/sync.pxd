# Waiting for other fibers: wait lists in user space, so that a hop makes no system call.
from libc.stdint cimport int64_t

from ferrule._core.scheduler cimport Scheduler, Task, Waitable


cdef enum Grant:
    STILL_WAITING       # nobody granted: timed out
    GRANTED             # what it waited for was handed over
    SHUT_DOWN           # it will never come


cdef class WaitList(Waitable):
    """Tasks parked in the order of their coming, linked through the tasks themselves."""
    cdef Task first, last
    cdef int append(self, Task task) except -1
    cdef int remove(self, Task task) except -1
    cdef Task pop(self)
    cdef Grant park(self, Task me, int64_t deadline) except *
    cdef int grant_all(self, Grant how) except -1
    cdef bint _holds(self, Task task) noexcept


cdef class Event(WaitList):
    cdef object __weakref__
    cdef bint flag


cdef class Lock(WaitList):
    cdef object __weakref__
    cdef bint held
    cdef Task holder            # None: taken outside a fiber
    cdef bint take(self, Task me) except -1
    cdef bint wait_for_turn(self, int64_t deadline) except -1


cdef class Queue:
    cdef object __weakref__
    cdef object items
    cdef WaitList getters, putters, joiners
    cdef readonly Py_ssize_t maxsize, unfinished_tasks
    cdef readonly bint is_shutdown
    cdef bint offer(self, object item) except -1
    cdef object take(self)
    cdef int finish_one(self) except -1


cdef class Waiter(Waitable):
    cdef Scheduler home
    cdef Task task              # parked here
    cdef str what
    cdef object value
    cdef readonly bint woken


# The running fiber, or None outside one; raises Cancelled in a cancelled scope.
cdef Task enter_point()
cdef int grant(Task task, Grant how) except -1
