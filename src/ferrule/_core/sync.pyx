"""Event, Lock, Queue, and the wake-up from another thread.

A wait list is linked through its tasks (`wait_before`, `wait_after`), so entering and leaving one
allocates nothing and cannot run foreign code half way.  Whoever ends a wait takes the task out of
its list and writes the outcome into the task: a lock or an item that was handed over so belongs to
the task, and a cancellation or a deadline that comes before the task runs finds it in no list and
has to wait for the next point.

What may be called anywhere (set, release, put_nowait …) never parks: the woken task is made ready
when it belongs to this thread's loop, else it is posted to its own.
"""
from libc.stdint cimport int64_t

from ferrule._core.scheduler cimport (
    CANCELLED, RUNNING, TIMED_OUT, Scheduler, Task, Waitable, WakeReason, current_scheduler,
    deadline_after, name_of, scheduler_or_none, wake,
)

import collections
import queue
import types

from ferrule._core.scheduler import Cancelled

try:
    from queue import ShutDown as QueueShutDown
except ImportError:
    class QueueShutDown(Exception):
        """The queue was shut down (``queue.ShutDown`` where Python has it)."""


Empty = queue.Empty
Full = queue.Full


cdef int grant(Task task, Grant how) except -1:
    """End the wait of a task that was taken out of its list."""
    task.wait_outcome = how
    return wake(task)


cdef Task enter_point():
    cdef Scheduler s = scheduler_or_none()
    if s is None or s.dead or s.current is None or s.current.state != RUNNING:
        return None
    if s.current.scope.effective:
        raise Cancelled("the scope was cancelled")
    return s.current


cdef class WaitList(Waitable):
    cdef int append(self, Task task) except -1:
        task.wait_outcome = STILL_WAITING
        task.wait_before = self.last
        if self.last is None:
            self.first = task
        else:
            self.last.wait_after = task
        self.last = task
        return 0

    cdef int remove(self, Task task) except -1:
        if task.wait_before is None:
            self.first = task.wait_after
        else:
            task.wait_before.wait_after = task.wait_after
        if task.wait_after is None:
            self.last = task.wait_before
        else:
            task.wait_after.wait_before = task.wait_before
        task.wait_before = task.wait_after = None
        return 0

    cdef Task pop(self):
        """The task that has waited longest, or None.  Those that fork() left behind are dropped."""
        cdef Task task
        while self.first is not None:
            task = self.first
            self.remove(task)
            if not task.scheduler.closed:
                return task
        return None

    cdef Grant park(self, Task me, int64_t deadline) except *:
        """Park at the end of the list; `me` comes from about_to_wait()."""
        cdef WakeReason reason
        self.append(me)
        try:
            reason = me.scheduler.wait_on(me, self, deadline, True)
        except BaseException:
            if me.wait_outcome == STILL_WAITING and self._holds(me):
                self.remove(me)
            raise
        # A grant counts even when a cancellation or the deadline came after it.
        if me.wait_outcome == STILL_WAITING and reason == CANCELLED:
            raise Cancelled("the scope was cancelled")
        return <Grant>me.wait_outcome

    cdef bint _holds(self, Task task) noexcept:
        return task.wait_before is not None or self.first is task

    cdef int abort_wait(self, Task task) except -1:
        if task.wait_outcome != STILL_WAITING:
            return 0  # granted by another thread: it is being posted
        self.remove(task)
        return task.scheduler.make_ready(task)

    cdef int grant_all(self, Grant how) except -1:
        cdef Task task = self.pop()
        while task is not None:
            grant(task, how)
            task = self.pop()
        return 0


cdef class Event(WaitList):
    """A flag to wait for; ``threading.Event``'s names and meaning.

    `set` and `clear` may be called from any thread and from signal handlers.
    """

    def is_set(self):
        """Whether the flag is set."""
        return bool(self.flag)

    def set(self):
        """Set the flag and wake everybody who waits.  Not a switch point; from any thread."""
        self.flag = True
        self.grant_all(GRANTED)

    def clear(self):
        """Reset the flag.  Not a switch point; from any thread."""
        self.flag = False

    def wait(self, timeout=None):
        """Park until the flag is set; False if ``timeout`` seconds passed first.

        Whoever was woken by `set` gets True even if the flag was cleared since.  A switch and
        cancellation point.
        """
        cdef Task me = enter_point()
        cdef int64_t deadline
        if self.flag:
            if me is not None:
                me.scheduler.spend_budget()
            return True
        if timeout is not None and timeout <= 0:
            return False
        deadline = deadline_after(timeout)
        return self.park(current_scheduler().about_to_wait(), deadline) == GRANTED

    cdef str describe_wait(self, Task task):
        return "an Event"

    cdef dict wait_facts(self, Task task):
        return {"kind": "event", "object": self}

    def __repr__(self):
        return f"<ferrule.Event {'set' if self.flag else 'unset'}>"


cdef class Lock(WaitList):
    """Mutual exclusion between fibers; ``threading.Lock``'s names and meaning.

    Handed over in the order of asking.  `release` may be called from any thread.
    """

    def acquire(self, bint blocking=True, timeout=-1):
        """Take the lock; False if it could not be had at once, or within ``timeout`` seconds.

        With ``blocking`` a switch and cancellation point.
        """
        if not blocking:
            if timeout != -1:
                raise ValueError("can't specify a timeout for a non-blocking call")
            return self.take(holder_now())
        if timeout == -1:
            return self.wait_for_turn(0)
        if timeout < 0:
            raise ValueError("timeout value must be a non-negative number")
        return self.wait_for_turn(deadline_after(timeout))

    cdef bint take(self, Task me) except -1:
        if self.held:
            return False
        self.held = True
        self.holder = me
        return True

    cdef bint wait_for_turn(self, int64_t deadline) except -1:
        cdef Task me = enter_point()
        if me is not None:
            me.scheduler.spend_budget()
        if self.take(me):
            return True
        me = current_scheduler().about_to_wait()
        return self.park(me, deadline) == GRANTED

    def release(self):
        """Give the lock to the fiber that has waited longest, or set it free.

        RuntimeError if it is not locked.  Not a switch point; from any thread.
        """
        cdef Task after
        if not self.held:
            raise RuntimeError("release unlocked lock")
        after = self.pop()
        self.holder = after
        if after is None:
            self.held = False
        else:
            grant(after, GRANTED)

    def locked(self):
        """Whether somebody holds the lock."""
        return bool(self.held)

    def __enter__(self):
        return self.wait_for_turn(0)

    def __exit__(self, kind, exc, tb):
        self.release()

    cdef str describe_wait(self, Task task):
        return f"a Lock held by {name_of(self.holder)}"

    cdef dict wait_facts(self, Task task):
        return {"kind": "lock", "object": self, "holders": [self.holder]}

    def __repr__(self):
        return f"<ferrule.Lock {'locked' if self.held else 'unlocked'}>"


cdef Task holder_now():
    cdef Scheduler s = scheduler_or_none()
    return s.current if s is not None else None


cdef class ItemWaiters(WaitList):
    cdef str describe_wait(self, Task task):
        return "an item of a Queue"

    cdef dict wait_facts(self, Task task):
        return {"kind": "queue"}


cdef class RoomWaiters(WaitList):
    cdef str describe_wait(self, Task task):
        return "room in a Queue"

    cdef dict wait_facts(self, Task task):
        return {"kind": "queue"}


cdef class JoinWaiters(WaitList):
    cdef str describe_wait(self, Task task):
        return "the end of the work in a Queue"

    cdef dict wait_facts(self, Task task):
        return {"kind": "queue"}


cdef class Queue:
    """First in, first out; ``queue.Queue``'s names and meaning, `shutdown` on every Python.

    ``maxsize`` ≤ 0 is no limit.  An item goes straight to the fiber that has waited longest.  What
    does not wait (put_nowait, get_nowait, task_done, shutdown …) may be called from any thread and
    from signal handlers, and is neither a switch nor a cancellation point.
    """
    # While somebody waits for an item there is none, and nobody waits for room.

    def __cinit__(self, *args, **kwargs):
        self.items = collections.deque()
        self.getters = ItemWaiters()
        self.putters = RoomWaiters()
        self.joiners = JoinWaiters()

    def __init__(self, Py_ssize_t maxsize=0):
        self.maxsize = maxsize

    __class_getitem__ = classmethod(types.GenericAlias)

    def put(self, item, bint block=True, timeout=None):
        """Add an item, waiting for room at most ``timeout`` seconds; then ``queue.Full``.

        QueueShutDown after `shutdown`.  With ``block`` a switch and cancellation point.
        """
        cdef Task me = None
        cdef Grant how
        cdef int64_t deadline
        if block:
            if timeout is not None and timeout < 0:
                raise ValueError("'timeout' must be a non-negative number")
            me = enter_point()
        if self.offer(item):
            if me is not None:
                me.scheduler.spend_budget()
            return
        if not block or (timeout is not None and timeout == 0):
            raise Full
        deadline = deadline_after(timeout)
        me = current_scheduler().about_to_wait()
        me.wait_item = item
        try:
            how = self.putters.park(me, deadline)
        finally:
            me.wait_item = None
        if how == SHUT_DOWN:
            raise QueueShutDown
        if how != GRANTED:
            raise Full

    cdef bint offer(self, object item) except -1:
        """Add the item if that needs no waiting."""
        cdef Task getter
        if self.is_shutdown:
            raise QueueShutDown
        getter = self.getters.pop()
        if getter is not None:
            getter.wait_item = item
            grant(getter, GRANTED)
        elif self.maxsize <= 0 or len(self.items) < self.maxsize:
            self.items.append(item)
        else:
            return False
        self.unfinished_tasks += 1
        return True

    def get(self, bint block=True, timeout=None):
        """Remove and return an item, after waiting ``timeout`` seconds at most: ``queue.Empty``.

        QueueShutDown after `shutdown`, once the queue is empty.  With ``block`` a switch and
        cancellation point.
        """
        cdef Task me = None
        cdef Grant how
        cdef int64_t deadline
        if block:
            if timeout is not None and timeout < 0:
                raise ValueError("'timeout' must be a non-negative number")
            me = enter_point()
        if self.items:
            item = self.take()
            if me is not None:
                me.scheduler.spend_budget()
            return item
        if self.is_shutdown:
            raise QueueShutDown
        if not block or (timeout is not None and timeout == 0):
            raise Empty
        deadline = deadline_after(timeout)
        me = current_scheduler().about_to_wait()
        how = self.getters.park(me, deadline)
        item = me.wait_item
        me.wait_item = None
        if how == GRANTED:
            return item
        if how == SHUT_DOWN:
            raise QueueShutDown
        raise Empty

    cdef object take(self):
        item = self.items.popleft()
        cdef Task putter = self.putters.pop()
        if putter is not None:
            self.items.append(putter.wait_item)
            self.unfinished_tasks += 1
            grant(putter, GRANTED)
        return item

    def put_nowait(self, item):
        """``put(item, block=False)``: ``queue.Full`` if there is no room.  From any thread."""
        if not self.offer(item):
            raise Full

    def get_nowait(self):
        """``get(block=False)``: ``queue.Empty`` if there is no item.  From any thread."""
        if self.items:
            return self.take()
        if self.is_shutdown:
            raise QueueShutDown
        raise Empty

    def qsize(self):
        """The number of items in the queue."""
        return len(self.items)

    def empty(self):
        """Whether there is no item."""
        return not self.items

    def full(self):
        """Whether there are ``maxsize`` items."""
        return 0 < self.maxsize <= len(self.items)

    def task_done(self):
        """Say that an item which `get` returned is dealt with.

        ValueError when said more often than there were items.  Not a switch point.
        """
        if self.unfinished_tasks <= 0:
            raise ValueError("task_done() called too many times")
        self.finish_one()

    cdef int finish_one(self) except -1:
        self.unfinished_tasks -= 1
        if self.unfinished_tasks == 0:
            self.joiners.grant_all(GRANTED)
        return 0

    def join(self):
        """Park until `task_done` was called for every item.  A switch and cancellation point."""
        cdef Task me = enter_point()
        while self.unfinished_tasks:
            me = current_scheduler().about_to_wait()
            self.joiners.park(me, 0)

    def shutdown(self, immediate=False):
        """Refuse further items; `get` raises QueueShutDown once the rest is gone.

        ``immediate`` drops the rest and counts it as done.  Fibers waiting in `put` and, where no
        item is left, in `get` are woken with QueueShutDown.  Not a switch point; from any thread.
        """
        self.is_shutdown = True
        self.putters.grant_all(SHUT_DOWN)
        if immediate:
            # Emptied before anything is destroyed: an item's __del__ may look at this queue.
            dropped = self.items
            self.items = collections.deque()
            self.unfinished_tasks = max(0, self.unfinished_tasks - len(dropped))
            if self.unfinished_tasks == 0:
                self.joiners.grant_all(GRANTED)
        self.getters.grant_all(SHUT_DOWN)

    def __repr__(self):
        return f"<ferrule.Queue {len(self.items)} items, maxsize {self.maxsize}>"


cdef class Waiter(Waitable):
    """One wake-up, from any thread, for one fiber: what waiting for an OS thread is made of.

    Made by the fiber that will `wait`, before the work is handed to the thread; ``what`` is what
    it waits for, in words.  Making it is a cancellation point: Cancelled is raised before anything
    is started.
    """

    def __init__(self, str what="another thread"):
        self.home = current_scheduler()
        self.home.about_to_wait()
        self.what = what

    def wait(self, timeout=None, *, bint cancellable=True):
        """Park until `wake`; return its value.

        ``timeout`` is in seconds; TimeoutError when it passes.  A switch point, and with
        ``cancellable`` a cancellation point; a wake-up that came wins over both.
        """
        cdef Scheduler s = current_scheduler()
        cdef Task me = s.running()
        cdef WakeReason reason
        cdef int64_t deadline = deadline_after(timeout)
        if s is not self.home or self.task is not None:
            raise RuntimeError("only a fiber of the runtime that made a Waiter waits for it, "
                               "and only one")
        if not self.woken:
            if cancellable:
                s.about_to_wait()
            elif me.no_switch:
                raise RuntimeError("this would switch fibers inside no_switch()")
            self.task = me
            try:
                reason = s.wait_on(me, self, deadline, cancellable)
            finally:
                self.task = None
            if not self.woken:
                if reason == TIMED_OUT:
                    raise TimeoutError(f"{self.what}: timed out")
                raise Cancelled("the scope was cancelled")
        value = self.value
        self.value = None
        return value

    def wake(self, value=None):
        """End the wait, now or to come, with ``value``; False if that was done before.

        From any thread and from signal handlers.  Not a switch point.
        """
        if self.woken:
            return False
        self.value = value
        self.woken = True
        if self.task is not None:
            wake(self.task)
        return True

    cdef int abort_wait(self, Task task) except -1:
        if self.woken:
            return 0  # by another thread: the task is being posted
        self.task = None  # from now on nobody posts it
        return self.home.make_ready(task)

    cdef str describe_wait(self, Task task):
        return self.what

    cdef dict wait_facts(self, Task task):
        return {"kind": "thread"}
