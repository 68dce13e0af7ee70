# Queues between fibers and threads.
from libc.stdint cimport int64_t, uint64_t

from ferrule._core.scheduler cimport Task, mutex
from ferrule._core.sync cimport Grant, WaitList


cdef enum Put:
    NEW
    PROMISED    # a place is kept for it
    RETURNED    # was handed to somebody who could not take it: no new work, and needs no room


# Where an item belongs, found out beforehand because that may run Python code.
cdef struct Plan:
    Py_ssize_t place
    uint64_t version


cdef class QueueWaiters(WaitList):
    cdef str what


cdef class Queue:
    cdef object __weakref__
    cdef mutex own
    cdef object items
    cdef Py_ssize_t size, promised
    cdef uint64_t version       # counts what makes plans stale
    cdef WaitList getters, putters, joiners
    cdef readonly Py_ssize_t maxsize, unfinished_tasks
    cdef readonly bint is_shutdown
    cdef bint unbuffered
    cdef bint sorts             # makes plans
    cdef bint offer(self, object item, Put how, Task waiter) except -1
    cdef object take(self, Task waiter)
    cdef bint has_room(self) noexcept
    cdef Grant wait_for_room(self, Task me, int64_t deadline) except *
    cdef bint work_left(self, Task waiter) except -1
    # Of the kind of queue: `place_*`, of those that sort, before the guard is taken, the others
    # under it.
    cdef int place_for(self, object item, Plan *plan) except -1
    cdef int place_for_last(self, Plan *plan) except -1
    cdef bint store(self, object item, Plan *plan, Put how) except -1
    cdef object fetch(self, Plan *plan)
    cdef Task refill(self)


cdef class LifoQueue(Queue):
    pass


cdef class PriorityQueue(Queue):
    cdef object look(self, Py_ssize_t place, Plan *plan)
    cdef bint try_place_for(self, object item, Plan *plan) except -1
    cdef bint try_place_for_last(self, Plan *plan) except -1
    cdef int withdraw(self) except -1
