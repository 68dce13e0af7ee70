"""Queues between fibers and threads: first in first out, last in first out, by priority.

An item goes straight to whoever has waited longest for one, through `Task.wait_item`, and the item
of whoever waits for room into the queue as soon as there is room.  What is decided in one step is
decided under the queue's mutex; it runs no Python code, which also the comparisons of a
PriorityQueue are: see there.
"""
from libc.stdint cimport int64_t

from ferrule._core.scheduler cimport Task, deadline_after, mutex_lock, mutex_unlock, wake
from ferrule._core.sync cimport (
    GRANTED, SHUT_DOWN, WaitList, about_to_wait, enter_point, wake_all,
)

import collections
import queue
import types

try:
    from queue import ShutDown as QueueShutDown
except ImportError:
    class QueueShutDown(Exception):
        """The queue was shut down (``queue.ShutDown`` where Python has it)."""


Empty = queue.Empty
Full = queue.Full

cdef object NOTHING = object()      # there is no item
cdef object STALE = object()        # the queue has changed since the plan was made


cdef class QueueWaiters(WaitList):
    cdef str describe_wait(self, Task task):
        return self.what

    cdef dict wait_facts(self, Task task):
        return {"kind": "queue"}


cdef int64_t deadline_of(timeout) except -1:
    if timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return deadline_after(timeout)


cdef Task parkable(Task me):
    """The running fiber if about_to_wait() would let it wait: it need not look at the queue twice.
    """
    return me if me is not None and not me.no_switch else None


cdef WaitList new_list(Queue owner, str what):
    cdef QueueWaiters waiters = QueueWaiters()
    waiters.guard = &owner.own
    waiters.what = what
    return waiters


cdef class Queue:
    """First in, first out; ``queue.Queue``'s names and meaning, `shutdown` on every Python.

    ``maxsize`` ≤ 0 is no limit.  Whoever waits is served in the order of coming.  What does not
    wait (put_nowait, get_nowait, task_done, shutdown …) may be called from any thread and from
    signal handlers, and is neither a switch nor a cancellation point.
    """
    # While somebody waits for an item there is none.  While somebody waits for room there is none.

    def __cinit__(self, *args, **kwargs):
        self.items = collections.deque()
        self.getters = new_list(self, "an item of a Queue")
        self.putters = new_list(self, "room in a Queue")
        self.joiners = new_list(self, "the end of the work in a Queue")

    def __init__(self, Py_ssize_t maxsize=0):
        self.maxsize = maxsize

    __class_getitem__ = classmethod(types.GenericAlias)

    @classmethod
    def rendezvous(cls):
        """A queue without a buffer: `put` returns when a `get` has taken the item.

        put_nowait and get_nowait succeed only where somebody waits on the other side.
        """
        cdef Queue made = cls()
        made.unbuffered = True
        return made

    def put(self, item, bint block=True, timeout=None):
        """Add an item, waiting for room at most ``timeout`` seconds; then ``queue.Full``.

        QueueShutDown after `shutdown`.  With ``block`` a switch and cancellation point.
        """
        cdef Task me = None, waiter = None
        cdef Grant how
        cdef int64_t deadline = 0
        if block:
            if timeout is not None:
                deadline = deadline_of(timeout)
                block = timeout > 0
            me = enter_point()
            waiter = parkable(me) if block else None
        if self.offer(item, NEW, waiter):
            if me is not None:
                me.scheduler.spend_budget()
            return
        if not block:
            raise Full
        if waiter is None:
            waiter = about_to_wait()
            if self.offer(item, NEW, waiter):
                return
        try:
            how = self.wait_for_room(waiter, deadline)
        finally:
            waiter.wait_item = None
        if how == SHUT_DOWN:
            raise QueueShutDown
        if how != GRANTED:
            raise Full

    cdef bint offer(self, object item, Put how, Task waiter) except -1:
        """Add the item if that needs no waiting; else who waits enters the list."""
        cdef Task getter = None, putter = None
        cdef bint added = False, refused = False, again = True
        cdef Plan plan
        while again:
            again = False
            if self.sorts:
                self.place_for(item, &plan)
            mutex_lock(&self.own)
            try:
                refused = self.is_shutdown and how != RETURNED
                if not refused:
                    getter = self.getters.pop()
                    if getter is not None:
                        getter.wait_item = item
                        getter.wait_outcome = GRANTED
                        added = True
                    elif how != NEW or self.has_room():
                        added = self.store(item, &plan, how)
                        again = not added
                    elif waiter is not None:
                        waiter.wait_item = item
                        self.putters.append(waiter)
                    if added and how != RETURNED:
                        self.unfinished_tasks += 1
                    if added and how == PROMISED:
                        self.promised -= 1
                        putter = self.refill()  # the place is free again if a getter had the item
            finally:
                mutex_unlock(&self.own)
        if refused:
            raise QueueShutDown
        if getter is not None:
            wake(getter)
        if putter is not None:
            wake(putter)
        return added

    cdef bint has_room(self) noexcept:
        return not self.unbuffered and (
            self.maxsize <= 0 or self.size + self.promised < self.maxsize)

    cdef Grant wait_for_room(self, Task me, int64_t deadline) except *:
        return self.putters.park(me, deadline)

    def get(self, bint block=True, timeout=None):
        """Remove and return an item, after waiting ``timeout`` seconds at most: ``queue.Empty``.

        QueueShutDown after `shutdown`, once the queue is empty.  With ``block`` a switch and
        cancellation point.
        """
        cdef Task me = None, waiter = None
        cdef Grant how
        cdef int64_t deadline = 0
        if block:
            if timeout is not None:
                deadline = deadline_of(timeout)
                block = timeout > 0
            me = enter_point()
            waiter = parkable(me) if block else None
        item = self.take(waiter)
        if item is not NOTHING:
            if me is not None:
                me.scheduler.spend_budget()
            return item
        if not block:
            raise Empty
        if waiter is None:
            waiter = about_to_wait()
            item = self.take(waiter)
            if item is not NOTHING:
                return item
        try:
            how = self.getters.park(waiter, deadline)
        except BaseException:
            if waiter.wait_outcome == GRANTED:
                item = waiter.wait_item
                waiter.wait_item = None
                self.offer(item, RETURNED, None)
            raise
        item = waiter.wait_item
        waiter.wait_item = None
        if how == GRANTED:
            return item
        if how == SHUT_DOWN:
            raise QueueShutDown
        raise Empty

    cdef object take(self, Task waiter):
        """Remove an item; where there is none, NOTHING, and who waits enters the list."""
        cdef Task putter = None
        cdef bint refused = False
        cdef Plan plan
        item = STALE
        while item is STALE:
            if self.sorts:
                self.place_for_last(&plan)
            mutex_lock(&self.own)
            try:
                if self.size:
                    item = self.fetch(&plan)
                    if item is not STALE:
                        putter = self.refill()
                    continue
                item = NOTHING
                putter = self.putters.pop() if self.unbuffered else None
                if putter is not None:
                    item = putter.wait_item
                    putter.wait_outcome = GRANTED
                    self.unfinished_tasks += 1
                elif self.is_shutdown:
                    refused = True
                elif waiter is not None:
                    self.getters.append(waiter)
            finally:
                mutex_unlock(&self.own)
        if putter is not None:
            wake(putter)
        if refused:
            raise QueueShutDown
        return item

    # ---- first in, first out ----

    cdef int place_for(self, object item, Plan *plan) except -1:
        return 0

    cdef int place_for_last(self, Plan *plan) except -1:
        return 0

    cdef bint store(self, object item, Plan *plan, Put how) except -1:
        """Add the item; False if the plan does not hold any more."""
        if how == RETURNED:
            self.items.appendleft(item)
        else:
            self.items.append(item)
        self.size += 1
        return True

    cdef object fetch(self, Plan *plan):
        """Remove the item whose turn it is; STALE if the plan does not hold any more."""
        item = self.items.popleft()
        self.size -= 1
        return item

    cdef Task refill(self):
        """Give free room to whoever has waited longest for it, and return that one."""
        cdef Task putter = self.putters.pop() if self.has_room() else None
        if putter is not None:
            self.store(putter.wait_item, NULL, NEW)
            self.unfinished_tasks += 1
            putter.wait_outcome = GRANTED
        return putter

    # ---- what does not wait ----

    def put_nowait(self, item):
        """``put(item, block=False)``: ``queue.Full`` if there is no room.  From any thread."""
        if not self.offer(item, NEW, None):
            raise Full

    def get_nowait(self):
        """``get(block=False)``: ``queue.Empty`` if there is no item.  From any thread."""
        item = self.take(None)
        if item is NOTHING:
            raise Empty
        return item

    def qsize(self):
        """The number of items in the queue."""
        return self.size

    def empty(self):
        """Whether there is no item."""
        return self.size == 0

    def full(self):
        """Whether there are ``maxsize`` items."""
        return bool(self.unbuffered or 0 < self.maxsize <= self.size)

    def task_done(self):
        """Say that an item which `get` returned is dealt with.

        ValueError when said more often than there were items.  Not a switch point.
        """
        cdef Task waiters = None
        cdef bint too_often
        mutex_lock(&self.own)
        too_often = self.unfinished_tasks <= 0
        if not too_often:
            self.unfinished_tasks -= 1
            if self.unfinished_tasks == 0:
                waiters = self.joiners.take_all(GRANTED)
        mutex_unlock(&self.own)
        if too_often:
            raise ValueError("task_done() called too many times")
        wake_all(waiters)

    def join(self):
        """Park until `task_done` was called for every item.  A switch and cancellation point."""
        cdef Task me
        enter_point()
        if not self.work_left(None):
            return
        me = about_to_wait()
        if self.work_left(me):
            self.joiners.park(me, 0)

    cdef bint work_left(self, Task waiter) except -1:
        """Whether there is any; then who waits enters the list."""
        cdef bint left
        mutex_lock(&self.own)
        left = self.unfinished_tasks > 0
        if left and waiter is not None:
            self.joiners.append(waiter)
        mutex_unlock(&self.own)
        return left

    def shutdown(self, immediate=False):
        """Refuse further items; `get` raises QueueShutDown once the rest is gone.

        ``immediate`` drops the rest and counts it as done.  Whoever waits in `put` and, where no
        item is left, in `get` is woken with QueueShutDown.  Not a switch point; from any thread.
        """
        cdef Task putters, getters, waiters = None
        cdef bint drop = immediate
        # What is dropped is destroyed after unlocking: an item's __del__ may look at this queue.
        rest = type(self.items)()
        mutex_lock(&self.own)
        self.is_shutdown = True
        putters = self.putters.take_all(SHUT_DOWN)
        getters = self.getters.take_all(SHUT_DOWN)
        if drop:
            rest, self.items = self.items, rest
            self.unfinished_tasks = max(0, self.unfinished_tasks - self.size)
            self.size = 0
            self.version += 1
            if self.unfinished_tasks == 0:
                waiters = self.joiners.take_all(GRANTED)
        mutex_unlock(&self.own)
        wake_all(putters)
        wake_all(getters)
        wake_all(waiters)

    def __repr__(self):
        kind = type(self).__name__
        if self.unbuffered:
            return f"<ferrule.{kind} without a buffer>"
        return f"<ferrule.{kind} {self.size} items, maxsize {self.maxsize}>"


cdef class LifoQueue(Queue):
    """Last in, first out: ``queue.LifoQueue``; else as Queue."""

    def __cinit__(self, *args, **kwargs):
        self.items = []

    cdef bint store(self, object item, Plan *plan, Put how) except -1:
        (<list>self.items).append(item)
        self.size += 1
        return True

    cdef object fetch(self, Plan *plan):
        item = (<list>self.items).pop()
        self.size -= 1
        return item


cdef class PriorityQueue(Queue):
    """The smallest item first: ``queue.PriorityQueue``; else as Queue.

    Items are compared with ``<``, in `put` and in `get`; when that raises, the queue is as before
    and who called gets the exception.  A comparison may do whatever it likes, even wait.
    """
    # A binary heap, in the order that heapq keeps.  Comparing runs Python code, so nothing is
    # locked meanwhile: where an item belongs is worked out first, looking at one item after the
    # other, and the queue is changed only if nobody changed it in between, else once more.  So
    # somebody always gets on, and a signal handler can use a queue that it found half way.
    #
    # Who waits for room is promised a place and puts the item itself: to compare it is not the
    # getter's business.

    def __cinit__(self, *args, **kwargs):
        self.items = []
        self.sorts = True

    cdef object look(self, Py_ssize_t place, Plan *plan):
        """The item at a place, or STALE."""
        item = STALE
        mutex_lock(&self.own)
        if plan.version == self.version:
            item = (<list>self.items)[place]
        mutex_unlock(&self.own)
        return item

    cdef int place_for(self, object item, Plan *plan) except -1:
        while not self.try_place_for(item, plan):
            pass
        return 0

    cdef bint try_place_for(self, object item, Plan *plan) except -1:
        """Go up from the end to where the parent is not larger; False if the queue changed."""
        cdef Py_ssize_t parent
        mutex_lock(&self.own)
        plan.version = self.version
        plan.place = self.size
        mutex_unlock(&self.own)
        while plan.place > 0:
            parent = (plan.place - 1) >> 1
            other = self.look(parent, plan)
            if other is STALE:
                return False
            if not item < other:
                break
            plan.place = parent
        return True

    cdef bint store(self, object item, Plan *plan, Put how) except -1:
        cdef list heap = self.items
        cdef Py_ssize_t place = self.size
        if plan.version != self.version:
            return False
        heap.append(item)
        while place > plan.place:
            heap[place] = heap[(place - 1) >> 1]
            place = (place - 1) >> 1
        heap[place] = item
        self.size += 1
        self.version += 1
        return True

    cdef int place_for_last(self, Plan *plan) except -1:
        while not self.try_place_for_last(plan):
            pass
        return 0

    cdef bint try_place_for_last(self, Plan *plan) except -1:
        """Where the last item belongs once the first is gone; False if the queue changed.

        Down along the smaller children, then up again, as it is likely to belong near the end.
        """
        cdef Py_ssize_t end, child = 1
        mutex_lock(&self.own)
        plan.version = self.version
        end = self.size - 1
        mutex_unlock(&self.own)
        plan.place = 0
        if end < 1:
            return True
        while child < end:
            if child + 1 < end:
                left, right = self.look(child, plan), self.look(child + 1, plan)
                if left is STALE or right is STALE:
                    return False
                if not left < right:
                    child += 1
            plan.place = child
            child = 2 * child + 1
        last = self.look(end, plan)
        while plan.place > 0:
            other = self.look(plan.place, plan)
            if last is STALE or other is STALE:
                return False
            if not last < other:
                break
            plan.place = (plan.place - 1) >> 1
        return True

    cdef object fetch(self, Plan *plan):
        cdef list heap = self.items
        cdef Py_ssize_t place = plan.place
        if plan.version != self.version:
            return STALE
        item = heap.pop()
        self.size -= 1
        self.version += 1
        if not heap:
            return item
        while True:  # the last item to its place, those above it up by one, the first out
            other = heap[place]
            heap[place] = item
            item = other
            if place == 0:
                return item
            place = (place - 1) >> 1

    cdef Task refill(self):
        cdef Task putter = self.putters.pop() if self.has_room() else None
        if putter is not None:
            self.promised += 1
            putter.wait_outcome = GRANTED
        return putter

    cdef Grant wait_for_room(self, Task me, int64_t deadline) except *:
        cdef Grant how
        try:
            how = self.putters.park(me, deadline)
            if how == GRANTED and not self.unbuffered:
                self.offer(me.wait_item, PROMISED, None)
        except BaseException:
            if me.wait_outcome == GRANTED and not self.unbuffered:
                self.withdraw()
            raise
        return how

    cdef int withdraw(self) except -1:
        """Nothing comes to a place that was promised."""
        cdef Task putter
        mutex_lock(&self.own)
        self.promised -= 1
        putter = self.refill()
        mutex_unlock(&self.own)
        if putter is not None:
            wake(putter)
        return 0
