"""Waiting for the first, the next or all of several tasks and futures."""
from libc.stdint cimport int64_t

cimport cython

from ferrule._core.scheduler cimport (
    CANCELLED, RAISED, Scheduler, Task, Watch, WakeReason, current_scheduler, deadline_after, mutex,
    mutex_lock, mutex_unlock, wake,
)

from ferrule._core.scheduler import Cancelled


def deadline_ns(timeout):
    """The monotonic time in ns ``timeout`` seconds from now; 0 for None."""
    return deadline_after(timeout)


@cython.final
cdef class Completions(Watch):
    """The ends of tasks and futures, in the order of their coming, for one fiber at a time.

    They may end on any thread.  Whoever takes the fiber out of `waiting` wakes it, so it is woken
    once.  `close` leaves nothing behind in what has not ended.
    """
    cdef mutex guard             # of the next five
    cdef list ended              # and not yet handed out
    cdef bint failed             # one of these
    cdef Task waiting            # parked, until there are `wanted`, or a failure
    cdef Py_ssize_t wanted
    cdef bint until_failure
    cdef dict watched            # what has not been handed out: its keys

    def __cinit__(self):
        self.ended = []
        self.watched = {}

    def add(self, thing):
        """Watch a task or a future; one that has ended counts from now.  Not a switch point.

        RuntimeError for the running task and for those of another runtime.
        """
        cdef Task me = current_scheduler().running()
        if thing in self.watched:
            return
        if isinstance(thing, Task):
            if not (<Task>thing).watch(me, self):
                self.task_ended(<Task>thing)
        else:
            if getattr(thing, "task", None) is me:
                raise RuntimeError("a task cannot wait for its own end")
            thing.add_done_callback(self.future_ended)
        self.watched[thing] = None

    cdef int task_ended(self, Task task) except -1:
        return self._count(task, task.outcome == RAISED)

    def future_ended(self, future):
        """What futures call."""
        self._count(future, not future.cancelled() and future.exception() is not None)

    cdef int _count(self, object thing, bint failed) except -1:
        cdef Task task = None
        mutex_lock(&self.guard)
        self.ended.append(thing)
        self.failed |= failed
        if self._is_enough():
            task = self.waiting
            self.waiting = None
        mutex_unlock(&self.guard)
        return 0 if task is None else wake(task)

    cdef bint _is_enough(self) noexcept:
        return len(self.ended) >= self.wanted or (self.failed and self.until_failure)

    def wait(self, Py_ssize_t wanted, int64_t deadline=0, bint until_failure=False):
        """Park until so many have ended, or one has failed; return those that are new.

        At ``deadline`` (ns, 0 is none) returns those there are.  A switch and cancellation point.
        """
        cdef Scheduler s = current_scheduler()
        cdef Task me = s.running()
        if me.scope.effective:
            raise Cancelled("the scope was cancelled")
        if self.waiting is not None:
            raise RuntimeError("another fiber is waiting here")
        self.until_failure = until_failure
        self.wanted = wanted
        if self._is_enough():
            s.spend_budget()
            return self.take()
        s.about_to_wait()
        reason = self._park(s, me, deadline)
        if reason == CANCELLED and not self._is_enough():
            raise Cancelled("the scope was cancelled")
        return self.take()

    cdef WakeReason _park(self, Scheduler s, Task me, int64_t deadline) except *:
        mutex_lock(&self.guard)
        cdef bint waits = not self._is_enough()
        if waits:
            self.waiting = me
        mutex_unlock(&self.guard)
        if not waits:
            return <WakeReason>0
        try:
            return s.wait_on(me, self, deadline, True)
        finally:
            self._stop_waiting()

    cdef bint _stop_waiting(self) noexcept:
        """False if the wake-up is on the way."""
        mutex_lock(&self.guard)
        cdef bint waits = self.waiting is not None
        self.waiting = None
        mutex_unlock(&self.guard)
        return waits

    def take(self):
        """Those that have ended since the last time, in order.  Not a switch point."""
        cdef list fresh = []
        mutex_lock(&self.guard)
        cdef list ended = self.ended
        self.ended = fresh
        self.failed = False
        mutex_unlock(&self.guard)
        for thing in ended:
            self.watched.pop(thing, None)
        return ended

    def close(self):
        """Watch nothing any more.  Not a switch point."""
        watched = self.watched
        self.watched = {}
        for thing in watched:
            if isinstance(thing, Task):
                (<Task>thing).unwatch(self)
            else:
                with thing._condition:  # concurrent.futures has no public way
                    if self.future_ended in thing._done_callbacks:
                        thing._done_callbacks.remove(self.future_ended)

    cdef int abort_wait(self, Task task) except -1:
        return task.scheduler.make_ready(task) if self._stop_waiting() else 0

    cdef str describe_wait(self, Task task):
        return f"the end of {self.wanted} of {len(self.watched)} tasks"

    cdef dict wait_facts(self, Task task):
        tasks = [one for one in self.watched if isinstance(one, Task)]
        cdef bint every = self.wanted >= len(self.watched) and not self.until_failure
        return {"kind": "task", "holders" if every else "any_of": tasks}
