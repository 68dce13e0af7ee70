"""What threading has for threads, for fibers and threads alike; and the wake-up from a thread.

A wait list is linked through its tasks (`wait_before`, `wait_after`), so entering and leaving one
allocates nothing and cannot run foreign code half way.  Whoever ends a wait takes the task out of
its list and writes the outcome into the task, both under the list's guard: a lock or an item that
was handed over so belongs to the task, and a cancellation or a deadline that comes before the task
runs finds it in no list and has to wait for the next point.

An OS thread that has no loop waits as well: a stand-in task enters the list in its place, and the
thread blocks on the stand-in's lock.  It leaves either by taking the stand-in out of the list or,
when a grant came first, by being woken: so a grant is never lost between the two.

What may be called anywhere (set, release, notify …) never parks: the woken task is made ready when
it belongs to this thread's loop, else it is posted to its own.
"""
from libc.stdint cimport int64_t

from ferrule._core.scheduler cimport (
    CANCELLED, RUNNING, TIMED_OUT, Scheduler, Task, Waitable, WakeReason, current_scheduler,
    deadline_after, monotonic_ns, mutex_lock, mutex_unlock, name_of, new_stand_in,
    scheduler_or_none, wake,
)

import os
import threading

from ferrule._core.scheduler import Cancelled

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident()
    Py_ssize_t PY_SSIZE_T_MAX


BrokenBarrierError = threading.BrokenBarrierError


# ---- who waits ----

cdef Task running_task():
    cdef Scheduler s = scheduler_or_none()
    if s is None or s.current is None or s.current.state != RUNNING:
        return None
    return s.current


cdef Task enter_point():
    cdef Task me = running_task()
    if me is None or me.scheduler.dead:
        return None
    if me.scope.effective:
        raise Cancelled("the scope was cancelled")
    return me


cdef Task about_to_wait():
    if scheduler_or_none() is None:
        return new_stand_in()
    return current_scheduler().about_to_wait()


cdef Task parkable(Task me):
    """The running fiber if about_to_wait() would let it wait, so that it need not look twice."""
    return me if me is not None and not me.no_switch else None


cdef object identity_of(Task task):
    """Whom a lock belongs to: a fiber's task, or the number of the OS thread."""
    if task is None:
        return PyThread_get_thread_ident()
    return task if task.scheduler is not None else task.id


cdef str holder_name(who):
    if isinstance(who, Task):
        return name_of(who)
    for thread in threading.enumerate():
        if thread.ident == who:
            return f"thread {thread.name!r}"
    return "a thread that has ended"


cdef int64_t lock_deadline(bint blocking, object timeout) except -2:
    if not blocking:
        if timeout != -1:
            raise ValueError("can't specify a timeout for a non-blocking call")
        return -1
    if timeout == -1:
        return 0
    if timeout < 0:
        raise ValueError("timeout value must be a non-negative number")
    return deadline_after(timeout)


# ---- wait lists ----

# The OS threads that wait now: stand-in → number of the thread.  A forked child has only one of
# them, and must not hand anything to the others.
cdef dict waiting_threads = {}


def _after_fork_in_child():
    cdef Task task
    here = PyThread_get_thread_ident()
    for task, thread in list(waiting_threads.items()):
        if thread != here:
            task.wait_outcome = LEFT_BEHIND
            del waiting_threads[task]


os.register_at_fork(after_in_child=_after_fork_in_child)


cdef int wake_all(Task first) except -1:
    cdef Task after
    while first is not None:
        after = first.wait_after  # once woken it may enter another list
        first.wait_after = None
        wake(first)
        first = after
    return 0


cdef class WaitList(Waitable):
    def __cinit__(self, *args, **kwargs):
        self.guard = &self.own

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

    cdef Task peek(self):
        """The task that has waited longest, or None.  Those that fork() left behind are dropped."""
        cdef Task task
        while self.first is not None:
            task = self.first
            if task.scheduler is None:
                if task.wait_outcome != LEFT_BEHIND:
                    return task
            elif not task.scheduler.closed:
                return task
            self.remove(task)
        return None

    cdef Task pop(self):
        cdef Task task = self.peek()
        if task is not None:
            self.remove(task)
        return task

    cdef Task take_all(self, Grant how):
        """Empty the list; what is returned is for wake_all(), after unlocking."""
        cdef Py_ssize_t everybody = PY_SSIZE_T_MAX
        return self.take_some(how, &everybody)

    cdef Task take_some(self, Grant how, Py_ssize_t *n):
        """The first `n`, for wake_all(); counts `n` down."""
        cdef Task first = None, last = None, task
        while n[0] > 0:
            task = self.pop()
            if task is None:
                break
            task.wait_outcome = how
            if last is None:
                first = task
            else:
                last.wait_after = task
            last = task
            n[0] -= 1
        return first

    cdef Task left_by(self, Task task):
        """Under the guard, after a task gave up: who may go on because of that, for wake_all()."""
        return None

    cdef bint leave(self, Task task) except -1:
        """Give up waiting; False if somebody has ended the wait and the task is being woken."""
        cdef Task others = None
        cdef bint waits
        mutex_lock(self.guard)
        waits = task.wait_outcome == STILL_WAITING
        if waits and (task.wait_before is not None or self.first is task):
            self.remove(task)
            others = self.left_by(task)
        mutex_unlock(self.guard)
        wake_all(others)
        return waits

    cdef int abort_wait(self, Task task) except -1:
        if self.leave(task):
            task.scheduler.make_ready(task)
        return 0

    cdef Grant park(self, Task me, int64_t deadline, bint interruptible=True) except *:
        """Wait, once `me` (from about_to_wait) is in the list and the guard is unlocked.

        When this raises, what was granted all the same (`wait_outcome`) is for the caller to pass
        on.
        """
        cdef WakeReason reason
        if me.scheduler is None:
            return self._block(me, deadline, interruptible)
        # Cancelled since the last look, by what ran before it entered the list.
        if interruptible and me.scope.effective and self.leave(me):
            raise Cancelled("the scope was cancelled")
        try:
            reason = me.scheduler.wait_on(me, self, deadline, interruptible)
        except BaseException:
            self.leave(me)
            raise
        # A grant counts even when a cancellation or the deadline came after it.
        if me.wait_outcome == STILL_WAITING and reason == CANCELLED:
            raise Cancelled("the scope was cancelled")
        return <Grant>me.wait_outcome

    cdef Grant _block(self, Task me, int64_t deadline, bint interruptible) except *:
        """The same for an OS thread, which really blocks."""
        cdef bint woken = False
        failure = None
        waiting_threads[me] = me.id
        while not woken:
            try:
                woken = me.thread_lock.acquire(True, seconds_until(deadline))
            except BaseException as exc:  # a signal handler's, on the main thread
                if failure is None:
                    failure = exc
            if not woken and interruptible and self.leave(me):
                break
            deadline = 0  # the wake-up is on its way, or this must not give up
        waiting_threads.pop(me, None)
        if failure is not None:
            raise failure
        return <Grant>me.wait_outcome


cdef object seconds_until(int64_t deadline):
    return max(0, deadline - monotonic_ns()) / 1e9 if deadline else -1


# ---- Event ----

cdef class Event(WaitList):
    """A flag to wait for; ``threading.Event``'s names and meaning.

    `set` and `clear` may be called from any thread and from signal handlers.
    """

    def is_set(self):
        """Whether the flag is set."""
        mutex_lock(self.guard)
        cdef bint flag = self.flag
        mutex_unlock(self.guard)
        return flag

    def set(self):
        """Set the flag and wake everybody who waits.  Not a switch point; from any thread."""
        mutex_lock(self.guard)
        self.flag = True
        cdef Task waiters = self.take_all(GRANTED)
        mutex_unlock(self.guard)
        wake_all(waiters)

    def clear(self):
        """Reset the flag.  Not a switch point; from any thread."""
        mutex_lock(self.guard)
        self.flag = False
        mutex_unlock(self.guard)

    def wait(self, timeout=None):
        """Park until the flag is set; False if ``timeout`` seconds passed first.

        Whoever was woken by `set` gets True even if the flag was cleared since.  A switch and
        cancellation point.
        """
        cdef Task me = enter_point()
        cdef Task waiter = parkable(me)
        cdef int64_t deadline = 0
        cdef bint may_wait = True
        if timeout is not None:
            deadline = deadline_after(max(timeout, 0))
            may_wait = timeout > 0
        if self.look(waiter if may_wait else None):
            if me is not None:
                me.scheduler.spend_budget()
            return True
        if not may_wait:
            return False
        if waiter is None:
            waiter = about_to_wait()
            if self.look(waiter):
                return True
        return self.park(waiter, deadline) == GRANTED

    cdef bint look(self, Task waiter) except -1:
        """Whether the flag is set; if it is not, who waits enters the list."""
        mutex_lock(self.guard)
        cdef bint flag = self.flag
        if not flag and waiter is not None:
            self.append(waiter)
        mutex_unlock(self.guard)
        return flag

    cdef str describe_wait(self, Task task):
        return "an Event"

    cdef dict wait_facts(self, Task task):
        return {"kind": "event", "object": self}

    def __repr__(self):
        return f"<ferrule.Event {'set' if self.flag else 'unset'}>"


# ---- Lock, RLock ----

cdef class OwnedLock(WaitList):
    """What Lock and RLock share: a holder, and hand-over in the order of asking."""

    def acquire(self, bint blocking=True, timeout=-1):
        """Take the lock; False if it could not be had at once, or within ``timeout`` seconds.

        With ``blocking`` a switch and cancellation point.
        """
        cdef int64_t deadline = lock_deadline(blocking, timeout)
        if blocking and timeout != 0:
            return self.wait_for_turn(deadline)
        return self.take(enter_point() if blocking else running_task(), False)

    cdef bint is_held_by(self, Task me) noexcept:
        if not self.held:
            return False
        if me is not None and me.scheduler is not None:
            return self.holder is me
        return self.holder is None and self.holder_thread == (
            PyThread_get_thread_ident() if me is None else me.id)

    cdef int hold(self, Task me) except -1:
        self.held = True
        self.depth = 1
        if me is not None and me.scheduler is not None:
            self.holder = me
        else:
            self.holder = None
            self.holder_thread = PyThread_get_thread_ident() if me is None else me.id
        return 0

    cdef bint take(self, Task me, bint enter) except -1:
        """Take the lock if that needs no waiting; else, with `enter`, enter the list."""
        cdef bint taken
        mutex_lock(self.guard)
        taken = not self.held
        if taken:
            self.hold(me)
        elif self.reentrant and self.is_held_by(me):
            self.depth += 1
            taken = True
        elif enter:
            self.append(me)
        mutex_unlock(self.guard)
        return taken

    cdef bint wait_for_turn(self, int64_t deadline) except -1:
        cdef Task me = enter_point()
        if me is not None:
            me.scheduler.spend_budget()
        if self.take(me, parkable(me) is not None):
            return True
        if parkable(me) is None:
            me = about_to_wait()
            if self.take(me, True):
                return True
        try:
            return self.park(me, deadline) == GRANTED
        except BaseException:
            if me.wait_outcome == GRANTED:
                self.give()
            raise

    cdef Task hand_over(self):
        """Under the guard: let go; returns whom to wake.  The caller keeps the holder alive."""
        cdef Task after = self.pop()
        if after is None:
            self.held = False
            self.holder = None
        else:
            self.hold(after)
            after.wait_outcome = GRANTED
        return after

    cdef int give(self) except -1:
        cdef Task _before, after
        mutex_lock(self.guard)
        _before = self.holder  # dropped only after unlocking
        after = self.hand_over()
        mutex_unlock(self.guard)
        if after is not None:
            wake(after)
        return 0

    cdef int take_back(self, Task me) except -1:
        """Take the lock without giving up: for a Condition's waiter."""
        if not self.take(me, True):
            self.park(me, 0, False)
        return 0

    def locked(self):
        """Whether somebody holds the lock."""
        return bool(self.held)

    def __enter__(self):
        return self.wait_for_turn(0)

    def __exit__(self, kind, exc, tb):
        self.release()

    cdef dict wait_facts(self, Task task):
        cdef Task holder
        mutex_lock(self.guard)
        holder = self.holder
        mutex_unlock(self.guard)
        return {"kind": "lock", "object": self, "holders": [holder]}

    cdef str held_by(self):
        cdef Task holder
        cdef unsigned long thread
        mutex_lock(self.guard)
        holder = self.holder
        thread = self.holder_thread
        mutex_unlock(self.guard)
        return holder_name(thread if holder is None else holder)


cdef class Lock(OwnedLock):
    """Mutual exclusion between fibers and threads; ``threading.Lock``'s names and meaning.

    Handed over in the order of asking.  As there, whoever likes may release it.
    """

    def release(self):
        """Give the lock to whoever has waited longest, or set it free.

        RuntimeError if it is not locked.  Not a switch point; from any thread.
        """
        cdef Task _before = None, after = None
        cdef bint held
        mutex_lock(self.guard)
        held = self.held
        if held:
            _before = self.holder  # dropped only after unlocking
            after = self.hand_over()
        mutex_unlock(self.guard)
        if not held:
            raise RuntimeError("release unlocked lock")
        if after is not None:
            wake(after)

    cdef str describe_wait(self, Task task):
        return f"a Lock held by {self.held_by()}"

    def __repr__(self):
        state = "locked" if self.held else "unlocked"
        return f"<ferrule.Lock {state} at {<size_t><void *>self:#x}>"


cdef class RLock(OwnedLock):
    """A lock that its holder may take again; ``threading.RLock``'s names and meaning.

    The holder is a fiber, or an OS thread outside of fibers.  Handed over in the order of asking.
    """

    def __cinit__(self, *args, **kwargs):
        self.reentrant = True

    def release(self):
        """Undo one `acquire`; the last one gives the lock to whoever has waited longest.

        RuntimeError for anyone but the holder.  Not a switch point.
        """
        cdef Task after = None
        cdef bint mine
        mutex_lock(self.guard)
        mine = self.is_held_by(running_task())
        if mine:
            self.depth -= 1
            if self.depth == 0:
                after = self.hand_over()
        mutex_unlock(self.guard)
        if not mine:
            raise RuntimeError("cannot release un-acquired lock")
        if after is not None:
            wake(after)

    cdef str describe_wait(self, Task task):
        return f"an RLock held by {self.held_by()}"

    def __repr__(self):
        if not self.held:
            return f"<ferrule.RLock unlocked at {<size_t><void *>self:#x}>"
        return (f"<ferrule.RLock locked by {self.held_by()}, count {self.depth} "
                f"at {<size_t><void *>self:#x}>")


# ---- Condition ----

cdef class Condition(WaitList):
    """Wait until another one says that something has changed; ``threading.Condition``'s names.

    ``lock`` is a Lock or an RLock of this package; a new RLock if none is given.  Whoever is
    notified goes straight over to those who wait for the lock, so it is woken once, holding it.
    """
    # The guard is the lock's: a waiter goes from one list to the other in one step.

    def __cinit__(self, *args, **kwargs):
        self.use(RLock())

    def __init__(self, lock=None):
        if lock is None:
            return
        if not isinstance(lock, OwnedLock):
            raise TypeError("lock must be a ferrule.Lock or ferrule.RLock, "
                            f"not {type(lock).__module__}.{type(lock).__qualname__}")
        if self.first is not None:
            raise RuntimeError("this Condition is in use")
        self.use(lock)

    cdef int use(self, OwnedLock lock) except -1:
        self.lock = lock
        self.guard = lock.guard
        return 0

    def acquire(self, bint blocking=True, timeout=-1):
        """Acquire the lock, with its arguments."""
        return self.lock.acquire(blocking, timeout)

    def release(self):
        """Release the lock."""
        self.lock.release()

    def __enter__(self):
        return self.lock.wait_for_turn(0)

    def __exit__(self, kind, exc, tb):
        self.lock.release()

    def wait(self, timeout=None):
        """Release the lock, park until notified, and take the lock again.

        False if ``timeout`` seconds passed without a notification.  The lock is taken again in any
        case, also before Cancelled is raised; a notification that came wins over both.
        RuntimeError for anyone but the lock's holder.  A switch and cancellation point.
        """
        cdef int64_t deadline = deadline_after(None if timeout is None else max(timeout, 0))
        self.check_held("wait")
        return self.wait_as(about_to_wait(), deadline)

    def wait_for(self, predicate, timeout=None):
        """Wait until ``predicate()`` is true, and return its value; the last one if time is up.

        It is called with the lock held.  ``timeout`` is in seconds, for all waits together.  A
        switch and cancellation point if it has to wait.
        """
        cdef int64_t deadline = deadline_after(None if timeout is None else max(timeout, 0))
        result = predicate()
        while not result:
            self.check_held("wait")
            if deadline and deadline <= monotonic_ns():
                break
            self.wait_as(about_to_wait(), deadline)
            result = predicate()
        return result

    cdef bint wait_as(self, Task me, int64_t deadline) except -1:
        cdef OwnedLock lock = self.lock
        cdef Py_ssize_t depth
        cdef Task after
        cdef Grant how
        mutex_lock(self.guard)
        depth = lock.depth
        self.append(me)
        after = lock.hand_over()
        mutex_unlock(self.guard)
        if after is not None:
            wake(after)
        try:
            how = self.park(me, deadline)
        except BaseException:
            self.end_wait(me, depth, True)
            raise
        self.end_wait(me, depth, False)
        return how == GRANTED

    cdef int end_wait(self, Task me, Py_ssize_t depth, bint pass_on) except -1:
        """Hold the lock again; `pass_on` a notification to the next, if there was one."""
        cdef bint notified = me.wait_outcome != STILL_WAITING
        if me.wait_outcome == NOTIFIED:
            # Broken off between the notification and its turn to have the lock.
            mutex_lock(self.guard)
            self.lock.remove(me)
            mutex_unlock(self.guard)
        if me.wait_outcome != GRANTED:
            self.lock.take_back(me)
        self.lock.depth = depth
        if notified and pass_on:
            self.notify_waiters(1)
        return 0

    def notify(self, Py_ssize_t n=1):
        """Wake the ``n`` that have waited longest, as soon as they can have the lock.

        RuntimeError for anyone but the lock's holder.  Not a switch point.
        """
        self.check_held("notify")
        self.notify_waiters(n)

    def notify_all(self):
        """Wake everybody who waits, one after the other as they can have the lock."""
        self.check_held("notify")
        self.notify_waiters(PY_SSIZE_T_MAX)

    cdef int notify_waiters(self, Py_ssize_t n) except -1:
        cdef Task task
        mutex_lock(self.guard)
        while n > 0:
            task = self.pop()
            if task is None:
                break
            self.lock.append(task)
            task.wait_outcome = NOTIFIED
            n -= 1
        mutex_unlock(self.guard)
        return 0

    cdef int check_held(self, str what) except -1:
        cdef bint held
        mutex_lock(self.guard)
        held = self.lock.is_held_by(running_task())
        mutex_unlock(self.guard)
        if not held:
            raise RuntimeError(f"cannot {what} on un-acquired lock")
        return 0

    cdef str describe_wait(self, Task task):
        if task.wait_outcome == STILL_WAITING:
            return "a Condition"
        return self.lock.describe_wait(task)

    cdef dict wait_facts(self, Task task):
        if task.wait_outcome == STILL_WAITING:
            return {"kind": "condition", "object": self}
        return self.lock.wait_facts(task)

    def __repr__(self):
        return f"<ferrule.Condition of {self.lock!r}>"


# ---- Semaphores ----

cdef class Semaphore(WaitList):
    """A number of permits; ``threading.Semaphore``'s names and meaning.

    Handed over in the order of asking.  `release` may be called from any thread and from signal
    handlers.
    """
    # While somebody waits there is no permit.

    def __cinit__(self, *args, **kwargs):
        self.limit = PY_SSIZE_T_MAX

    def __init__(self, Py_ssize_t value=1):
        if value < 0:
            raise ValueError("semaphore initial value must be >= 0")
        self.value = value

    def acquire(self, bint blocking=True, timeout=None):
        """Take a permit; False if none could be had at once, or within ``timeout`` seconds.

        With ``blocking`` a switch and cancellation point.
        """
        if not blocking:
            if timeout is not None:
                raise ValueError("can't specify timeout for non-blocking acquire")
            return self.take(None)
        if timeout is not None and timeout <= 0:
            enter_point()
            return self.take(None)
        return self.wait_for_permit(deadline_after(timeout))

    cdef bint take(self, Task waiter) except -1:
        """Take a permit if that needs no waiting; else who waits enters the list."""
        cdef bint taken
        mutex_lock(self.guard)
        taken = self.value > 0
        if taken:
            self.value -= 1
        elif waiter is not None:
            self.append(waiter)
        mutex_unlock(self.guard)
        return taken

    cdef bint wait_for_permit(self, int64_t deadline) except -1:
        cdef Task me = enter_point()
        if me is not None:
            me.scheduler.spend_budget()
        if self.take(None):
            return True
        me = about_to_wait()
        if self.take(me):
            return True
        try:
            return self.park(me, deadline) == GRANTED
        except BaseException:
            if me.wait_outcome == GRANTED:
                self.give(1)
            raise

    def release(self, Py_ssize_t n=1):
        """Give ``n`` permits to those who have waited longest, or keep them for later.

        Not a switch point; from any thread.
        """
        if n < 1:
            raise ValueError("n must be one or more")
        self.give(n)

    cdef int give(self, Py_ssize_t n) except -1:
        cdef Task waiters = None
        cdef bint too_many
        mutex_lock(self.guard)
        too_many = n > self.limit - self.value
        if not too_many:
            waiters = self.take_some(GRANTED, &n)
            self.value += n
        mutex_unlock(self.guard)
        if too_many:
            raise ValueError("Semaphore released too many times")
        return wake_all(waiters)

    def __enter__(self):
        return self.wait_for_permit(0)

    def __exit__(self, kind, exc, tb):
        self.give(1)

    cdef str describe_wait(self, Task task):
        return f"a {type(self).__name__}"

    cdef dict wait_facts(self, Task task):
        return {"kind": "semaphore", "object": self}

    def __repr__(self):
        return f"<ferrule.{type(self).__name__} value {self.value} at {<size_t><void *>self:#x}>"


cdef class BoundedSemaphore(Semaphore):
    """A semaphore that refuses more releases than there were acquires, with ValueError."""

    def __init__(self, Py_ssize_t value=1):
        Semaphore.__init__(self, value)
        self.limit = value


# ---- Barrier ----

cdef class Barrier(WaitList):
    """Wait until so many have come; ``threading.Barrier``'s names and meaning.

    One that gives up, by its timeout or by cancellation, breaks the barrier for all: nobody could
    tell how many are still to come.
    """

    def __init__(self, Py_ssize_t parties, action=None, timeout=None):
        if parties < 1:
            raise ValueError("parties must be >= 1")
        if action is not None and not callable(action):
            raise TypeError(f"action must be callable, not {type(action).__name__}")
        self.parties = parties
        self.action = action
        self.timeout = timeout

    def wait(self, timeout=None):
        """Park until all parties are here; returns a number from 0 to ``parties - 1`` for each.

        The last one to come calls ``action`` before the others go on; if that raises, the barrier
        is broken.  threading.BrokenBarrierError when it is or becomes broken or is reset, or when
        ``timeout`` seconds passed (the constructor's, if it is None).  A switch and cancellation
        point.
        """
        cdef Task me = enter_point()
        cdef Py_ssize_t place = 0
        cdef int64_t deadline
        if timeout is None:
            timeout = self.timeout
        deadline = deadline_after(None if timeout is None else max(timeout, 0))
        if self.arrive(None, timeout is None or timeout > 0, &place):
            if me is not None:
                me.scheduler.spend_budget()
            return place
        me = about_to_wait()
        if not self.arrive(me, True, &place) and self.park(me, deadline) != GRANTED:
            raise BrokenBarrierError
        return place

    cdef bint arrive(self, Task waiter, bint may_wait, Py_ssize_t *place) except -1:
        """Come as number `place`; whether that made all.  If not, who waits enters the list."""
        cdef Task others = None
        cdef bint complete = False, broken
        mutex_lock(self.guard)
        broken = self.is_broken
        if not broken:
            place[0] = self.arrived
            complete = self.arrived + 1 >= self.parties
            if complete:
                self.arrived = 0
                others = self.take_all(GRANTED)
            elif waiter is not None:
                self.arrived += 1
                self.append(waiter)
            elif not may_wait:
                broken = True
                others = self.break_it()
        mutex_unlock(self.guard)
        if complete:
            self.let_pass(others)
        if broken:
            wake_all(others)
            raise BrokenBarrierError
        return complete

    cdef int let_pass(self, Task others) except -1:
        # They have their grants, so none of them can give up meanwhile; but none is awake.
        cdef Task task, late
        if self.action is not None:
            try:
                self.action()
            except BaseException:
                mutex_lock(self.guard)
                late = self.break_it()
                task = others
                while task is not None:
                    task.wait_outcome = SHUT_DOWN
                    task = task.wait_after
                mutex_unlock(self.guard)
                wake_all(others)
                wake_all(late)
                raise
        return wake_all(others)

    cdef Task break_it(self):
        self.is_broken = True
        self.arrived = 0
        return self.take_all(SHUT_DOWN)

    cdef Task left_by(self, Task task):
        return self.break_it()

    def reset(self):
        """Make the barrier new and empty; those who wait get BrokenBarrierError.

        Not a switch point; from any thread.
        """
        mutex_lock(self.guard)
        cdef Task waiters = self.break_it()
        self.is_broken = False
        mutex_unlock(self.guard)
        wake_all(waiters)

    def abort(self):
        """Break the barrier, until it is reset: present and future waits get BrokenBarrierError.

        Not a switch point; from any thread.
        """
        mutex_lock(self.guard)
        cdef Task waiters = self.break_it()
        mutex_unlock(self.guard)
        wake_all(waiters)

    @property
    def n_waiting(self):
        """How many wait now."""
        return self.arrived

    @property
    def broken(self):
        """Whether the barrier is broken."""
        return bool(self.is_broken)

    cdef str describe_wait(self, Task task):
        return f"a Barrier where {self.arrived} of {self.parties} are"

    cdef dict wait_facts(self, Task task):
        return {"kind": "barrier", "object": self}

    def __repr__(self):
        state = "broken" if self.is_broken else f"{self.arrived} of {self.parties} waiting"
        return f"<ferrule.Barrier {state} at {<size_t><void *>self:#x}>"


# ---- RWLock ----

cdef class RWLock(WaitList):
    """Many may read, or one may write: ``with rw.read_lock():`` and ``with rw.write_lock():``.

    In the order of asking: readers that come after a waiting writer wait for it, so neither is
    starved.  Whoever reads may read again at once.  Who holds it is a fiber, or an OS thread
    outside of fibers; waiting for oneself (a reader that would write, a writer that would read or
    write again) is a RuntimeError.
    """
    # In the list, `wait_item` is what the task wants to do: WRITE, or None to read.
    # Whenever readers hold it and somebody waits, the first of them is a writer.

    def __cinit__(self, *args, **kwargs):
        self.readers = {}

    def read_lock(self):
        """The side of the readers: with Lock's methods, and a context manager.

        ``acquire(blocking=True, timeout=-1)`` and ``with`` are switch and cancellation points.
        ``release`` by anyone but a holder is a RuntimeError.
        """
        return RWLockSide(self, False)

    def write_lock(self):
        """The side of the writers: with Lock's methods, and a context manager."""
        return RWLockSide(self, True)

    cdef bint take(self, Task me, bint to_write, bint enter) except -1:
        """Take it if that needs no waiting; else, with `enter`, enter the list."""
        cdef bint taken, own = False
        who = identity_of(me)
        mutex_lock(self.guard)
        try:
            if self.writer is not None:
                taken = False
                own = who == self.writer
            elif to_write:
                taken = not self.readers
                own = who in self.readers
            else:
                taken = who in self.readers or self.peek() is None
            if taken:
                self.note(who, to_write)
            elif enter and not own:
                me.wait_item = WRITE if to_write else None
                self.append(me)
        finally:
            mutex_unlock(self.guard)
        if own and enter:
            raise RuntimeError(f"{holder_name(who)} would wait for itself: it holds this RWLock")
        return taken

    cdef int note(self, object who, bint writes) except -1:
        if writes:
            self.writer = who
        else:
            self.readers[who] = self.readers.get(who, 0) + 1
        return 0

    cdef bint wait_for_turn(self, bint to_write, int64_t deadline) except -1:
        cdef Task me = enter_point()
        if me is not None:
            me.scheduler.spend_budget()
        if self.take(me, to_write, False):
            return True
        me = about_to_wait()
        if self.take(me, to_write, True):
            return True
        try:
            return self.park(me, deadline) == GRANTED
        except BaseException:
            if me.wait_outcome == GRANTED:
                self.give(identity_of(me), to_write)
            raise
        finally:
            me.wait_item = None

    cdef Task admit(self):
        """Whose turn it is now: a writer alone, or the readers up to the next writer."""
        cdef Task first = None, last = None
        cdef Task task = self.peek()
        while task is not None and self.writer is None and not (task.wait_item and self.readers):
            self.remove(task)
            self.note(identity_of(task), task.wait_item is not None)
            task.wait_outcome = GRANTED
            if last is None:
                first = task
            else:
                last.wait_after = task
            last = task
            task = self.peek()
        return first

    cdef Task left_by(self, Task task):
        return self.admit()  # it may have been a writer before whom readers waited

    cdef int give(self, object who, bint written) except -1:
        cdef Task others = None
        cdef bint mine
        mutex_lock(self.guard)
        try:
            mine = who == self.writer if written else who in self.readers
            if mine:
                self.forget(who, written)
                others = self.admit()
        finally:
            mutex_unlock(self.guard)
        if not mine:
            raise RuntimeError("cannot release un-acquired lock")
        return wake_all(others)

    cdef int forget(self, object who, bint written) except -1:
        if written:
            self.writer = None
            return 0
        times = self.readers[who]
        if times > 1:
            self.readers[who] = times - 1
        else:
            del self.readers[who]
        return 0

    cdef tuple holders(self):
        """Whether somebody writes, and who holds it."""
        mutex_lock(self.guard)
        writer = self.writer
        mutex_unlock(self.guard)
        return (False, list(self.readers)) if writer is None else (True, [writer])

    cdef str state(self):
        written, holders = self.holders()
        if not holders:
            return "unlocked"
        names = ", ".join([holder_name(holder) for holder in holders])
        return f"{'written' if written else 'read'} by {names}"

    cdef str describe_wait(self, Task task):
        return f"an RWLock {self.state()}"

    cdef dict wait_facts(self, Task task):
        holders = [holder for holder in self.holders()[1] if isinstance(holder, Task)]
        return {"kind": "lock", "object": self, "holders": holders}

    def __repr__(self):
        return f"<ferrule.RWLock {self.state()} at {<size_t><void *>self:#x}>"


cdef object WRITE = True


cdef class RWLockSide:
    """How one takes an RWLock, to read or to write."""

    def __cinit__(self, RWLock rwlock not None, bint writes):
        self.rwlock = rwlock
        self.writes = writes

    def acquire(self, bint blocking=True, timeout=-1):
        """Take the lock; False if it could not be had at once, or within ``timeout`` seconds.

        With ``blocking`` a switch and cancellation point.
        """
        cdef int64_t deadline = lock_deadline(blocking, timeout)
        if blocking and timeout != 0:
            return self.rwlock.wait_for_turn(self.writes, deadline)
        return self.rwlock.take(enter_point() if blocking else running_task(), self.writes, False)

    def release(self):
        """Undo one `acquire`.  RuntimeError for anyone but a holder.  Not a switch point."""
        self.rwlock.give(identity_of(running_task()), self.writes)

    def locked(self):
        """Whether somebody holds the lock this way."""
        return self.rwlock.writer is not None if self.writes else bool(self.rwlock.readers)

    def __enter__(self):
        return self.rwlock.wait_for_turn(self.writes, 0)

    def __exit__(self, kind, exc, tb):
        self.release()

    def __repr__(self):
        return f"<ferrule.RWLock.{'write' if self.writes else 'read'}_lock of {self.rwlock!r}>"


# ---- Waiter ----

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
        cdef bint gave_up
        if s is not self.home or self.task is not None:
            raise RuntimeError("only a fiber of the runtime that made a Waiter waits for it, "
                               "and only one")
        if not self.woken:
            if cancellable:
                s.about_to_wait()
            elif me.no_switch:
                raise RuntimeError("this would switch fibers inside no_switch()")
            if self.enter(me):
                try:
                    reason = s.wait_on(me, self, deadline, cancellable)
                finally:
                    gave_up = self.leave()
                if gave_up:
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
        cdef Task task = None
        cdef bint first
        mutex_lock(&self.guard)
        first = not self.woken
        if first:
            self.value = value
            self.woken = True
            task = self.task
        mutex_unlock(&self.guard)
        if task is not None:
            wake(task)
        return first

    cdef bint enter(self, Task me) except -1:
        """Whether there is something to wait for."""
        cdef bint waits
        mutex_lock(&self.guard)
        waits = not self.woken
        if waits:
            self.task = me
        mutex_unlock(&self.guard)
        return waits

    cdef bint leave(self) except -1:
        """From now on nobody wakes the task; False if somebody has or is about to."""
        cdef bint waits
        mutex_lock(&self.guard)
        waits = not self.woken
        self.task = None
        mutex_unlock(&self.guard)
        return waits

    cdef int abort_wait(self, Task task) except -1:
        if self.leave():
            self.home.make_ready(task)
        return 0

    cdef str describe_wait(self, Task task):
        return self.what

    cdef dict wait_facts(self, Task task):
        return {"kind": "thread"}
