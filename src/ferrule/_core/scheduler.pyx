"""Fibers, tasks, cancel scopes and the loop of one thread.

A task is what the user spawned; a fiber is a reused greenlet that runs task after task.  A task
that parks switches its fiber straight to the next ready one; when there is none, the parking fiber
itself runs the loop's tick on its own stack, and if the completion is its own it goes on without
any switch.  The hub (the greenlet that called run) is needed only to start new greenlets, because
one started from inside a fiber would sit on top of that fiber's C stack, and at the end.

The order of a tick: inbox, timers, one enter for everything queued, completions, signals.  Tasks
made ready in a tick run before the next one (a batch), so I/O cannot starve nor be starved.

Cancellation is level-triggered and lives in scopes.  A task is its own root scope.  `effective`
is kept up to date downwards, so a cancellation point looks at one flag.

Threads.  A Crew is the loop threads of one runtime.  A task that has not started goes to whichever
thread takes it; from then on it, its scopes' timers and its operations belong to that thread.  What
several threads touch is the tree of scopes and who waits for the end of tasks: both under the
crew's guard, in which nothing runs Python code.  Whoever takes a waiter out of its list, under the
lock of that list, is the one who wakes it, and wakes it once: another thread's task through the
inbox of its scheduler.
"""
cimport cython
from cpython.buffer cimport PyBuffer_Release
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.errno cimport (
    EBADF, EINTR,
)
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from ferrule._core.backend cimport Backend
from ferrule._core.operation cimport (
    OP_CLOSE, OP_COMPLETED, OP_DONE, OP_FD_CLOSING, OP_IN_FLIGHT, OP_KINDS, OP_PREPARED, OP_TIMEOUT,
    OP_TO_RECEIVER, URING_TIMEOUT_ABS, URING_TIMEOUT_BOOTTIME, URING_TIMEOUT_REALTIME, op, op_rows,
    slots_free, slots_give, slots_take, timers_add, timers_free, timers_move, timers_nearest,
    timers_remove, timer,
)

import collections
import math
import operator
import os
import signal
import sys
import threading
import types
import typing
import weakref

cdef extern from *:
    """
    #include <time.h>
    static __thread PyObject *fe_thread_scheduler; /* borrowed: run() holds the reference */
    static inline int64_t fe_monotonic_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    static inline uint64_t fe_next_task_id(void) {
        static uint64_t last;
        return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
    }
    static inline uint64_t fe_next_descriptor(void) {
        static uint64_t last;
        return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
    }
    """
    PyObject *fe_thread_scheduler
    int64_t fe_monotonic_ns() nogil
    uint64_t fe_next_task_id() nogil
    uint64_t fe_next_descriptor() nogil

cdef extern from "<errno.h>":
    int ECANCELED, ETIME

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "Python.h":
    void PyErr_SetObject(object kind, object exc)
    void PyErr_WriteUnraisable(object source)
    ctypedef struct PyFrameObject:
        pass
    PyFrameObject *PyEval_GetFrame()
    int PyContext_Enter(object ctx) except -1
    int PyContext_Exit(object ctx) except -1
    object PyContext_CopyCurrent()
    object PyObject_Call(object fn, object args, PyObject *kwargs)

cdef extern from "steal_queue.h":
    void steal_queue_init(steal_queue *q) noexcept nogil
    int steal_queue_push(steal_queue *q, void *item) noexcept nogil
    void *steal_queue_pop(steal_queue *q) noexcept nogil
    uint32_t steal_queue_spill(steal_queue *q, void **out, uint32_t most) noexcept nogil
    void *steal_queue_steal(steal_queue *victim, steal_queue *mine) noexcept nogil
    uint32_t steal_queue_count(steal_queue *q) noexcept nogil
    void steal_queue_close(steal_queue *q) noexcept nogil

cdef extern from "idle_set.h":
    enum:
        IDLE_ALL_AWAKE
        IDLE_THREADS_MAX
    void idle_begin_search(idle_set *s) noexcept nogil
    bint idle_end_search(idle_set *s) noexcept nogil
    void idle_sleep(idle_set *s, int index) noexcept nogil
    void idle_search_again(idle_set *s, int index) noexcept nogil
    bint idle_awake(idle_set *s, int index) noexcept nogil
    int idle_claim(idle_set *s) noexcept nogil

cdef extern from "inbox.h":
    enum:
        INBOX_SENT
        INBOX_WAKE
        INBOX_REFUSED
    struct inbox_node:
        inbox_node *next
    void inbox_init(inbox *i) noexcept nogil
    int inbox_push(inbox *i, inbox_node *node) noexcept nogil
    inbox_node *inbox_take(inbox *i) noexcept nogil
    bint inbox_sleep(inbox *i) noexcept nogil
    inbox_node *inbox_close(inbox *i) noexcept nogil
    bint inbox_is_empty(inbox *i) noexcept nogil

cdef extern from "quiet.h":
    void quiet_begin(quiet *q) noexcept nogil
    void quiet_end(quiet *q) noexcept nogil
    uint64_t quiet_changes(const quiet *q) noexcept nogil


cdef extern from "group_count.h":
    void group_count_init(group_count *c) noexcept nogil
    bint group_count_add(group_count *c) noexcept nogil
    bint group_count_end(group_count *c) noexcept nogil
    bint group_count_wait(group_count *c, bint closes) noexcept nogil
    bint group_count_stop_waiting(group_count *c) noexcept nogil

cdef extern from "greenlet.h":
    ctypedef struct PyGreenlet:
        pass
    void PyGreenlet_Import()
    PyGreenlet *PyGreenlet_New(PyObject *run, PyGreenlet *parent)
    PyGreenlet *PyGreenlet_GetCurrent()
    PyObject *PyGreenlet_Switch(PyGreenlet *g, PyObject *args, PyObject *kwargs)

PyGreenlet_Import()

cdef enum:
    BUDGET_OPERATIONS = 64          # operations in a row that complete without a switch
    BUDGET_NS = 100_000
    IDLE_FIBERS_MAX = 16384
    FIBER_DEPTH_MAX = 64 * 1024     # a fiber that parked deeper keeps that memory: not reused
    ERROR_RETURN = -4096            # never a kernel result
    FAILED_POLLS_MAX = 10
    TICKS_PER_LOOK = 64             # outside, by a loop that never waits
    SPILL_MAX = 128                 # new tasks moved at once between a queue and the overflow


class Cancelled(BaseException):
    """Raised at a cancellation point inside a cancelled scope.

    Let it pass: the scope that was cancelled catches it.  It is a BaseException so that
    ``except Exception`` does not stop it.
    """


class WaitingTask(typing.NamedTuple):
    """A task in a `DeadlockError`: ``what`` it waits for, in words, and ``where`` in the code."""

    name: str
    id: int
    what: str
    where: str | None


class DeadlockError(RuntimeError):
    """Every fiber waits, and nothing in flight could wake one.

    ``waiting`` has a `WaitingTask` for each; ``cycle`` those that wait for each other, each for the
    next one and the last for the first, and is empty if no such circle is known.
    """

    waiting: tuple[WaitingTask, ...] = ()
    cycle: tuple[WaitingTask, ...] = ()


class EngineUnavailable(OSError):
    """The system refuses what the engine needs; errno says how."""


class ConcurrencyUnavailable(RuntimeError):
    """A task could not get a fiber of its own (max_fibers, or the runtime is ending)."""


# ---- time ----

cdef int64_t monotonic_ns() noexcept nogil:
    return fe_monotonic_ns()


cdef int64_t MAX_NS = 1 << 62


cdef int64_t seconds_to_ns(object seconds, str what) except -1:
    cdef double s
    try:
        s = seconds
    except TypeError:
        kind = type(seconds).__name__
        raise TypeError(f"{what} must be a number of seconds, not {kind}") from None
    if math.isnan(s):
        raise ValueError(f"{what} must be a number of seconds, not NaN")
    if s < 0:
        raise ValueError(f"{what} must not be negative")
    return MAX_NS if s > 4e9 else <int64_t>(s * 1e9)


cdef int64_t deadline_after(object timeout) except -1:
    """The monotonic deadline for a timeout in seconds; None is no deadline (0)."""
    if timeout is None:
        return 0
    return min(monotonic_ns() + seconds_to_ns(timeout, "timeout"), MAX_NS)


# ---- waiting ----

cdef class Timed:
    def __cinit__(self):
        self.node.place = 0
        self.node.owner = <void *>self

    def __dealloc__(self):
        if self.node.place and self.home is not None:
            timers_remove(&self.home.heap, &self.node)

    cdef int expire(self) except -1:
        return 0


cdef class Waitable:
    cdef int abort_wait(self, Task task) except -1:
        return task.scheduler.make_ready(task)

    cdef str describe_wait(self, Task task):
        return type(self).__name__

    cdef dict wait_facts(self, Task task):
        return {"kind": "other"}


cdef class Watch(Waitable):
    cdef int task_ended(self, Task task) except -1:
        return 0


cdef class Sleepers(Waitable):
    cdef str describe_wait(self, Task task):
        return "a timer"

    cdef dict wait_facts(self, Task task):
        return {"kind": "timer"}


cdef class Operations(Waitable):
    cdef int abort_wait(self, Task task) except -1:
        # It stays parked until the completion: the kernel may still write to the slot.
        task.scheduler.backend.cancel(task.operation)
        return 0

    cdef str describe_wait(self, Task task):
        if task.operation == NULL:
            return "an operation"
        if task.operation.kind == OP_TIMEOUT:
            return "a timer"
        name = op_rows[task.operation.kind].name.decode()
        return f"{name} on fd {task.operation.fd}" if task.operation.fd >= 0 else name

    cdef dict wait_facts(self, Task task):
        if task.operation == NULL:
            return {"kind": "operation"}
        if task.operation.kind == OP_TIMEOUT:
            return {"kind": "timer"}
        facts = {"kind": "operation", "operation": op_rows[task.operation.kind].name.decode()}
        if task.operation.fd >= 0:
            facts["fd"] = task.operation.fd
        return facts


cdef class Closing(Waitable):
    cdef int fd

    cdef str describe_wait(self, Task task):
        return f"the end of what is in flight on fd {self.fd}, which it closes"

    cdef dict wait_facts(self, Task task):
        return {"kind": "close", "fd": self.fd}


cdef class Receiver(Timed):
    cdef void take_completion(self, op *o) noexcept:
        pass

    cdef bint take_turn(self) noexcept:
        return False


# ---- scopes ----

cdef class CancelScope(Timed):
    """A region whose cancellation points raise `Cancelled` once it is cancelled.

    ``deadline`` is an absolute time on `now()` (seconds, MONOTONIC); ``shield=True`` keeps
    cancellation from outside away until the scope is left.  A context manager, entered once, by
    one task.  Entering and leaving are not switch points.
    """

    def __init__(self, *, deadline=None, shield=False):
        self.deadline_ns = deadline_to_ns(deadline)
        self.shielded = shield

    def __enter__(self):
        cdef Scheduler s = current_scheduler()
        cdef Task me = s.running()
        if self.task is not None:
            raise RuntimeError("a cancel scope is entered once; make a new one")
        self.home = s
        if self.deadline_ns:
            self.start_timer()
        mutex_lock(&s.crew.guard)
        self.task = me
        self.parent = me.scope
        me.scope.inner = self
        me.scope = self
        mutex_unlock(&s.crew.guard)
        self.refresh()
        return self

    cdef int start_timer(self) except -1:
        # A deadline that has passed counts from the first cancellation point, not from the next
        # tick.
        if self.deadline_ns <= monotonic_ns():
            return self.cancel_now()
        if timers_add(&self.home.heap, &self.node, self.deadline_ns) < 0:
            raise MemoryError("no memory for a timer")
        return 0

    cdef int restart_timer(self) except -1:
        """The deadline was moved; on the thread that the scope was entered on."""
        timers_remove(&self.home.heap, &self.node)
        if self.deadline_ns and not self.left:
            return self.start_timer()
        return 0

    def __exit__(self, kind, exc, tb):
        self.check_innermost()
        self.leave()
        if exc is None or not self.effective:
            return False
        if self.parent.effective and not self.shielded:
            return False  # the outer scope's to catch
        return self._catch(exc)

    cdef int check_innermost(self) except -1:
        cdef Task me = self.task
        if (me is None or me.scope is not self or me.scheduler is not scheduler_or_none()
                or me.scheduler.current is not me):
            raise RuntimeError("cancel scopes must be left in the reverse order of entering, "
                               "by the task that entered")
        return 0

    cdef int leave(self) except -1:
        cdef Crew crew = self.home.crew
        timers_remove(&self.home.heap, &self.node)
        mutex_lock(&crew.guard)
        self.task.scope = self.parent
        self.parent.inner = None
        self.left = True
        mutex_unlock(&crew.guard)
        return 0

    def _catch(self, exc):
        if isinstance(exc, Cancelled):
            self.cancelled_caught = True
            return True
        if isinstance(exc, BaseExceptionGroup):
            mine, rest = exc.split(Cancelled)
            if mine is not None:
                self.cancelled_caught = True
                if rest is None:
                    return True
                raise rest.with_traceback(exc.__traceback__) from None
        return False

    def cancel(self):
        """Cancel everything inside the scope.  Idempotent; from any thread; not a switch point."""
        cdef Scheduler here = scheduler_or_none()
        if self.home is None or (here is not None and here.crew is self.home.crew):
            self.cancel_now()
        else:
            self.home.post(self.cancel)

    cdef int cancel_now(self) except -1:
        if not self.cancel_called:
            self.cancel_called = True
            self.refresh()
        return 0

    cdef int refresh(self) except -1:
        """Bring `effective` up to date here and below, and wake whom that cancels."""
        # With a list instead of recursion: scopes nest as deep as tasks start tasks, and this runs
        # on a fiber's stack.
        cdef list reached
        cdef Task task
        if self.effective == self._is_cancelled():
            return 0
        if self.home is None:
            self.effective = self._is_cancelled()
            return 0
        reached = []
        mutex_lock(&self.home.crew.guard)
        try:
            self._push_down(reached)
        finally:
            mutex_unlock(&self.home.crew.guard)
        for task in reached:
            deliver_cancel(task)
        return 0

    cdef int _push_down(self, list reached) except -1:
        cdef CancelScope scope
        cdef bint now
        cdef list todo = [self]
        while todo:
            scope = todo.pop()
            now = scope._is_cancelled()
            if now == scope.effective:
                continue
            scope.effective = now
            if scope.inner is not None:
                todo.append(scope.inner)
            if scope.members:
                todo.extend(scope.members)
            if now and scope.task is not None and scope.task.scope is scope:
                reached.append(scope.task)
        return 0

    cdef bint _is_cancelled(self) noexcept:
        return self.cancel_called or (
            not self.shielded and self.parent is not None and self.parent.effective)

    cdef bint add_member(self, Task task) except -1:
        self.members.add(task)
        return True

    cdef int member_done(self, Task task) except -1:
        mutex_lock(&task.scheduler.crew.guard)
        self.members.discard(task)
        mutex_unlock(&task.scheduler.crew.guard)
        return 0

    cdef int expire(self) except -1:
        return self.cancel_now()

    @property
    def shield(self):
        """Whether cancellation from outside is kept away."""
        return bool(self.shielded)

    @shield.setter
    def shield(self, value):
        self.shielded = bool(value)
        self.refresh()

    @property
    def deadline(self):
        """Seconds on `now()`, or None."""
        return self.deadline_ns / 1e9 if self.deadline_ns else None

    @deadline.setter
    def deadline(self, value):
        self.deadline_ns = deadline_to_ns(value)
        if self.task is None or self.left:
            return
        if self.home is scheduler_or_none():
            self.restart_timer()
        else:
            self.home.post(self)  # the heap is that thread's, which may be asleep


cdef int64_t deadline_to_ns(object deadline) except -1:
    """0 is none: also for an infinite one, which must not look like a timer that will fire."""
    if deadline is None or deadline == math.inf:
        return 0
    return max(1, seconds_to_ns(deadline, "deadline"))


cdef int deliver_cancel(Task task) except -1:
    """End the wait of a task whose scope is cancelled; its own thread does it."""
    if task.scheduler is not scheduler_or_none():
        return task.scheduler.post(Interruption.__new__(Interruption, task))
    if task.state == PARKED and task.interruptible and task.scope.effective:
        task.wake_reason = CANCELLED
        task.waiting_on.abort_wait(task)
    return 0


@cython.final
cdef class Interruption:
    """In an inbox: the scope of this task was cancelled by another thread."""
    cdef Task task

    def __cinit__(self, Task task):
        self.task = task


cdef class Emptied(Waitable):
    cdef int abort_wait(self, Task task) except -1:
        if group_count_stop_waiting(&(<GroupScope>task.joining).count):
            return task.scheduler.make_ready(task)
        return 0  # the last member has ended: the wake-up is on its way

    cdef str describe_wait(self, Task task):
        return "the tasks of its group"

    cdef dict wait_facts(self, Task task):
        return {"kind": "group", "holders": list(task.joining.members)}


cdef class Room(Waitable):
    """Where the owner of a group parks until another member may start: in the group's queue."""

    cdef int abort_wait(self, Task task) except -1:
        if (<GroupScope>task.joining)._leave_queue(task):
            return task.scheduler.make_ready(task)
        return 0  # it has been let in: its wake-up is on the way

    cdef str describe_wait(self, Task task):
        return "room in its group"

    cdef dict wait_facts(self, Task task):
        cdef CancelScope group = task.joining
        started = [member for member in group.members if (<Task>member).state != NEW]
        return {"kind": "group", "any_of": started}


cdef Room room = Room()


cdef class GroupScope(CancelScope):
    """What `TaskGroup` is made of: members are its tasks, and a failure cancels it.

    With a ``limit`` at most so many members run at a time; others wait their turn in a queue that
    is linked through the tasks.  Each of them is a member already: cancelled with the group, and
    awaited.
    """

    def __init__(self, limit=None):
        self.members = set()
        group_count_init(&self.count)
        self.errors = []
        self.limit = 0 if limit is None else min(limit, 0xffffffff)

    cdef bint add_member(self, Task task) except -1:
        self.members.add(task)
        if group_count_add(&self.count):
            return True
        self.members.discard(task)
        return False

    cdef int member_done(self, Task task) except -1:
        cdef Task owner = self.task
        if task.outcome == RAISED:
            task.observed = True
            self.errors.append(task.value)
            self.cancel_now()
        if self.limit:
            self._give_room()
        mutex_lock(&task.scheduler.crew.guard)
        self.members.discard(task)
        mutex_unlock(&task.scheduler.crew.guard)
        if group_count_end(&self.count):  # the group may be gone now
            wake(owner)
        return 0

    def spawn(self, fn, tuple args, name=None):
        """Add a task; it is born cancelled if the group is."""
        cdef Scheduler s = self._scheduler_here()
        if self.limit:
            return self._spawn_limited(s, fn, args, name)
        return s.add_task(fn, args, name, self)

    def spawn_or_run(self, fn, tuple args, name=None):
        """As `spawn`, but where there can be no further task run ``fn`` here, as a member."""
        try:
            return self.spawn(fn, args, name)
        except ConcurrencyUnavailable:
            pass  # and not here, where its exceptions would get this one as their context
        return run_inline(current_scheduler(), fn, args, name, self)

    cdef Scheduler _scheduler_here(self):
        cdef Scheduler s = current_scheduler()
        if self.task is None:
            raise RuntimeError("the group is not entered: use it in a with statement")
        if self.left:
            raise RuntimeError("the group has been left")
        if self.home.crew is not s.crew:
            raise RuntimeError("the group belongs to another runtime")
        return s

    cdef Task _spawn_limited(self, Scheduler s, object fn, tuple args, object name):
        cdef Task task
        if s.current is self.task and self.task.state == RUNNING:
            self._wait_for_room(s, self.task)
            try:
                return s.add_task(fn, args, name, self)
            except BaseException:
                self._give_room()
                raise
        task = s.new_task(fn, args, name, self)
        if self._enter(task):
            s.start_task(task)
        return task

    cdef int _wait_for_room(self, Scheduler s, Task me) except -1:
        """Take one of the places, parking until there is one."""
        if self.started >= self.limit:
            s.about_to_wait()
        if self._enter(me):
            return 0
        me.joining = self
        me.wait_outcome = 0
        try:
            reason = s.wait_on(me, room, 0, True)
        except BaseException:
            if not self._leave_queue(me):
                self._give_room()
            raise
        finally:
            me.joining = None
        if not me.wait_outcome and reason == CANCELLED:
            raise Cancelled("the scope was cancelled")
        return 0

    cdef bint _enter(self, Task task) noexcept:
        """Take one of the places, or get in line for one: False."""
        mutex_lock(&self.room_guard)
        cdef bint is_room = self.started < self.limit
        if is_room:
            self.started += 1
        elif self.queue_tail is None:
            self.queue_head = self.queue_tail = task
        else:
            self.queue_tail.next_ready = task
            self.queue_tail = task
        mutex_unlock(&self.room_guard)
        return is_room

    cdef int _give_room(self) except -1:
        """A member has ended: its place goes to the first in the queue."""
        cdef Task task = None
        mutex_lock(&self.room_guard)
        if self.queue_head is None or self.started > self.limit:  # one more ran inline
            self.started -= 1
        else:
            task = self.queue_head
            self.queue_head = task.next_ready
            task.next_ready = None
            if self.queue_head is None:
                self.queue_tail = None
        mutex_unlock(&self.room_guard)
        if task is None:
            return 0
        if task.state == NEW:
            return scheduler_or_none().start_task(task)
        task.wait_outcome = 1
        return wake(task)

    cdef bint _leave_queue(self, Task task) noexcept:
        """Give up waiting; False if a place was given already."""
        cdef Task before = None
        mutex_lock(&self.room_guard)
        cdef Task at = self.queue_head
        while at is not None and at is not task:
            before = at
            at = at.next_ready
        if at is not None:
            if before is None:
                self.queue_head = task.next_ready
            else:
                before.next_ready = task.next_ready
            if self.queue_tail is task:
                self.queue_tail = before
            task.next_ready = None
        mutex_unlock(&self.room_guard)
        return at is not None

    cdef int leave(self) except -1:
        if self.members:
            self.cancel_now()  # its task ended inside: nobody is left to wait for them
        return CancelScope.leave(self)

    def about_to_leave(self):
        """RuntimeError where the group cannot be left now, before any waiting."""
        self.check_innermost()

    def wait_members(self, *, bint cancellable):
        """Park until no member is left; whether there was anything to wait for.

        With ``cancellable`` a cancellation point, for scopes inside the group; a cancellation of
        the group itself reaches the members, and their end is what is waited for.
        """
        cdef Scheduler s = current_scheduler()
        cdef Task me = s.running()
        if me is not self.task:
            raise RuntimeError("only the task that opened a group can wait for it")
        if me.no_switch:
            raise RuntimeError("this would switch fibers inside no_switch()")
        cdef bint waited = False
        while True:
            if cancellable and self.members and me.scope.effective and not self.effective:
                raise Cancelled("the scope was cancelled")
            # Leaving closes the group, so that nobody comes in after the last look.
            if not group_count_wait(&self.count, not cancellable):
                return waited
            waited = True
            me.joining = self
            try:
                s.wait_on(me, emptied, 0, cancellable and not self.effective)
            finally:
                me.joining = None
                group_count_stop_waiting(&self.count)  # already so, unless it was broken off


cdef Emptied emptied = Emptied()


# ---- tasks ----

cdef class Task(CancelScope):
    """A function running in a fiber: made by `spawn`, never directly."""

    def __init__(self):
        raise TypeError("tasks are made by ferrule.spawn() and TaskGroup.spawn()")

    __class_getitem__ = classmethod(types.GenericAlias)

    def __enter__(self):
        raise TypeError("a task is no context manager: use TaskGroup")

    @property
    def shield(self):
        """Tasks have none: shield the block inside that must not be cancelled."""
        raise AttributeError("a task cannot be shielded: use ferrule.shield() inside it")

    @property
    def deadline(self):
        """Tasks have none: use `move_on_after` inside."""
        raise AttributeError("a task has no deadline: use ferrule.move_on_after() inside it")

    @property
    def name(self):
        return self.given_name if self.given_name is not None else f"task-{self.id}"

    @name.setter
    def name(self, value):
        self.given_name = str(value)

    def done(self):
        """Whether the task has ended, however it did."""
        return self.state == DONE

    def cancelled(self):
        """Whether the task ended by cancellation."""
        return self.outcome == WAS_CANCELLED

    def join(self, timeout=None):
        """Wait until the task has ended, however it did.

        ``timeout`` is in seconds; TimeoutError when it passes.  A switch and cancellation point;
        cancelling the waiter leaves this task alone.
        """
        self._wait(timeout)

    def result(self, timeout=None):
        """Wait for the end and return what the function returned, or raise what it raised.

        Of a cancelled task: ``concurrent.futures.CancelledError``.  ``timeout`` is in seconds;
        TimeoutError when it passes.  A switch and cancellation point; cancelling the waiter leaves
        this task alone.
        """
        if self.state != DONE:
            self._wait(timeout)
        self.observed = True
        if self.outcome == RETURNED:
            return self.value
        if self.outcome == WAS_CANCELLED:
            raise was_cancelled(self)
        try:
            raise self.value
        finally:
            self = None  # the traceback must not keep the task

    def exception(self, timeout=None):
        """Wait for the end and return the exception it raised, or None.

        Of a cancelled task: raises ``concurrent.futures.CancelledError``.  A switch and
        cancellation point.
        """
        if self.state != DONE:
            self._wait(timeout)
        self.observed = True
        if self.outcome == WAS_CANCELLED:
            raise was_cancelled(self)
        return self.value if self.outcome == RAISED else None

    cdef int _wait(self, object timeout) except -1:
        cdef Scheduler s
        cdef Task me
        if self.state == DONE:
            return 0
        s = current_scheduler()
        me = s.running()
        self.check_waiter(me)
        cdef int64_t deadline = deadline_after(timeout)
        s.about_to_wait()
        if not self._add_waiter(me):
            return 0
        me.joining = self
        reason = s.wait_on(me, joiners, deadline, True)
        me.joining = None
        if reason == TIMED_OUT:
            raise TimeoutError(f"{self.name} did not end in time")
        if reason == CANCELLED:
            raise Cancelled("the scope was cancelled")
        return 0

    cdef bint _add_waiter(self, Task waiter) except -1:
        """False if the task has ended meanwhile."""
        mutex_lock(&self.scheduler.crew.guard)
        try:
            if self.state == DONE:
                return False
            if self.first_waiter is None:
                self.first_waiter = waiter
            elif self.more_waiters is None:
                self.more_waiters = [waiter]
            else:
                self.more_waiters.append(waiter)
        finally:
            mutex_unlock(&self.scheduler.crew.guard)
        return True

    cdef bint _remove_waiter(self, Task waiter) except -1:
        """False if its wake-up is on the way already."""
        mutex_lock(&self.scheduler.crew.guard)
        cdef bint found = self.first_waiter is waiter
        if found:
            self.first_waiter = self.more_waiters.pop(0) if self.more_waiters else None
        elif self.more_waiters is not None and waiter in self.more_waiters:
            self.more_waiters.remove(waiter)
            found = True
        mutex_unlock(&self.scheduler.crew.guard)
        return found

    cdef int check_waiter(self, Task me) except -1:
        if me is self:
            raise RuntimeError("a task cannot wait for its own end")
        if me.scheduler.crew is not self.scheduler.crew:
            raise RuntimeError(f"{self.name} belongs to another runtime")
        return 0

    cdef bint watch(self, Task me, Watch watch) except -1:
        """Tell `watch`, for `me`, of the end; False if the task has ended."""
        cdef dict fresh = {}
        if self.state == DONE:
            return False
        self.check_waiter(me)
        mutex_lock(&self.scheduler.crew.guard)
        cdef bint lives = self.state != DONE
        try:
            if lives:
                if self.watches is None:
                    self.watches = fresh
                self.watches[watch] = None
        finally:
            mutex_unlock(&self.scheduler.crew.guard)
        return lives

    cdef int unwatch(self, Watch watch) except -1:
        mutex_lock(&self.scheduler.crew.guard)
        try:
            if self.watches is not None:
                self.watches.pop(watch, None)
        finally:
            mutex_unlock(&self.scheduler.crew.guard)
        return 0

    def add_done_callback(self, fn):
        """Call ``fn(task)`` when the task ends (at once if it has).  It must not block.

        It is called by the thread that the task ran on.
        """
        mutex_lock(&self.scheduler.crew.guard)
        cdef bint lives = self.state != DONE
        try:
            if lives and self.callbacks is None:
                self.callbacks = [fn]
            elif lives:
                self.callbacks.append(fn)
        finally:
            mutex_unlock(&self.scheduler.crew.guard)
        if not lives:
            self._call_back(fn)

    cdef int _call_back(self, object fn) except -1:
        cdef Scheduler here = scheduler_or_none()
        cdef Task me = here.current if here is not None else None
        if me is not None:
            me.no_switch += 1
        try:
            fn(self)
        except BaseException as exc:
            report_unraisable(exc, self)
        finally:
            if me is not None:
                me.no_switch -= 1
        return 0

    cdef int expire(self) except -1:
        # Nodes are re-armed lazily: this one may be of a wait that has ended.
        if self.deadline == 0 or self.state != PARKED:
            return 0
        if self.deadline > self.node.when:
            return timers_add(&self.home.heap, &self.node, self.deadline)
        self.deadline = 0
        self.wake_reason = TIMED_OUT
        return self.waiting_on.abort_wait(self)

    cdef int finish(self) except -1:
        cdef Scheduler s = self.scheduler
        cdef Crew crew = s.crew
        cdef Task waiter, first
        cdef list more, callbacks
        cdef dict watches
        cdef CancelScope scope, parent = self.parent
        while self.scope is not self:
            scope = self.scope  # entered and never left: leave() may drop all other references
            scope.leave()
        timers_remove(&s.heap, &self.node)
        self.fn = self.context = None
        self.args = None
        s.tasks_ended += 1
        mutex_lock(&crew.guard)
        self.state = DONE  # the result stands, and all who wait for it are here
        crew.live_tasks -= 1
        first, more, callbacks = self.first_waiter, self.more_waiters, self.callbacks
        self.first_waiter = self.more_waiters = self.callbacks = None
        watches = self.watches
        self.watches = None
        mutex_unlock(&crew.guard)
        self.presence = None
        parent.member_done(self)
        mutex_lock(&crew.guard)
        self.parent = self.scope = None
        self.task = None  # it was its own scope's task: a cycle
        mutex_unlock(&crew.guard)
        if first is not None:
            wake(first)
        if more is not None:
            for waiter in more:
                wake(waiter)
        if watches is not None:
            for watch in watches:
                (<Watch>watch).task_ended(self)
        if callbacks is not None:
            for fn in callbacks:
                self._call_back(fn)
        if self.outcome == RAISED and not self.observed:
            s.note_failure(self)
        if self is crew.main:
            crew.root.cancel_now()
        crew.stop_if_done()
        return 0

    def __repr__(self):
        state = ("new", "ready", "running", "waiting", "done")[<int>self.state]
        return f"<Task {self.name!r} {state}>"

    def __del__(self):
        if self.outcome == RAISED and not self.observed:
            self.observed = True
            self._report()

    cdef int decide_base_exception(self, exc) except -1:
        if not isinstance(exc, BaseExceptionGroup):
            self.observed = True  # KeyboardInterrupt, SystemExit: run() raises it
            return self.scheduler.crew.root_fails(exc)
        if self.effective:
            cancellations, rest = exc.split(Cancelled)
            if cancellations is not None:
                self.value = cancellations if rest is None else rest
                self.outcome = WAS_CANCELLED if rest is None else RAISED
        return 0

    cdef int _report(self) except -1:
        return report_unraisable(self.value, self)


cdef Task run_inline(Scheduler s, object fn, tuple args, object name, GroupScope group):
    """Run ``fn(*args)`` here, in the caller's task; returns a task that has ended.

    A cancellation of the caller and what ends the program are the caller's, and pass through.
    """
    cdef Task me = s.running()
    cdef Task task = bare_task(s, name)
    cdef object context = PyContext_CopyCurrent()
    if group is not None:
        s.crew.enter_group(task, group)
        if group.limit:
            mutex_lock(&group.room_guard)
            group.started += 1
            mutex_unlock(&group.room_guard)
    task.state = RUNNING
    task.outcome = WAS_CANCELLED
    PyContext_Enter(context)
    try:
        task.value = PyObject_Call(fn, args, NULL)
        task.outcome = RETURNED
    except Exception as exc:
        task.value = exc
        task.outcome = RAISED
    except Cancelled:
        if me.scope.effective:
            raise
    finally:
        PyContext_Exit(context)
        task.state = DONE
        if group is not None:
            group.member_done(task)
    if task.outcome == RAISED and not task.observed:
        s.note_failure(task)
    return task


cdef Task bare_task(Scheduler s, object name):
    cdef Task task = Task.__new__(Task)
    task.id = fe_next_task_id()
    task.scheduler = task.home = s
    task.given_name = name
    return task


cdef object was_cancelled(Task task):
    # Imported here: it takes longer than the rest of this package.
    from concurrent.futures import CancelledError
    return CancelledError(f"{task.name} was cancelled")


cdef class Joiners(Waitable):
    """Where tasks park that wait for another's end: on `task.joining`."""

    cdef int abort_wait(self, Task task) except -1:
        if (<Task>task.joining)._remove_waiter(task):
            return task.scheduler.make_ready(task)
        task.wake_reason = WOKEN  # the end came first, and its wake-up is on the way
        return 0

    cdef str describe_wait(self, Task task):
        return f"the end of {name_of(<Task>task.joining)}"

    cdef dict wait_facts(self, Task task):
        return {"kind": "task", "object": task.joining, "holders": [task.joining]}


cdef Joiners joiners = Joiners()


# ---- fibers ----

cdef class Fiber:
    """A greenlet that runs one task after another."""

    def __call__(self):
        cdef char here
        cdef Scheduler s = self.scheduler
        cdef Task after
        self.base = &here
        while self.task is not None:
            self._run(self.task)
            self.task = None
            if s.dead:
                return
            after = s.next_task()
            if after is None:
                break
            if after.state == NEW:
                self.task = after  # no switch at all
                s.current = after
                continue
            if self.depth > FIBER_DEPTH_MAX or len(s.idle_fibers) >= IDLE_FIBERS_MAX:
                s.handoff = after
                break
            s.idle_fibers.append(self)
            greenlet = s.greenlet_for(after)
            after = None
            s._switch(greenlet)
        # Ends: control goes to the parent, the hub.
        s.current = None
        self.greenlet = None

    cdef int _run(self, Task task) except -1:
        task.state = RUNNING
        task.fiber = self
        context = task.context
        PyContext_Enter(context)
        try:
            task.value = PyObject_Call(task.fn, task.args, NULL)
            task.outcome = RETURNED
        except Cancelled as exc:
            task.value = exc
            task.outcome = WAS_CANCELLED
        except BaseException as exc:
            task.value = exc
            task.outcome = RAISED
            if not isinstance(exc, Exception):
                task.decide_base_exception(exc)
        PyContext_Exit(context)
        task.fiber = None
        if not self.scheduler.dead:
            task.finish()
        return 0


cdef int wake(Task task) except -1:
    if task.scheduler is None:
        task.thread_lock.release()
        return 0
    if task.scheduler is scheduler_or_none():
        return task.scheduler.make_ready(task)
    return task.scheduler.post(task)


cdef Task new_stand_in():
    cdef Task task = Task.__new__(Task)
    task.thread_lock = threading.Lock()
    task.thread_lock.acquire()
    task.id = threading.get_ident()
    task.given_name = f"thread {threading.current_thread().name!r}"
    return task


cdef Scheduler scheduler_or_none():
    return <Scheduler>fe_thread_scheduler if fe_thread_scheduler != NULL else None


cdef Scheduler current_scheduler():
    """This thread's scheduler; RuntimeError where there is none."""
    if fe_thread_scheduler == NULL:
        raise RuntimeError(
            "this call blocks, and blocks only its fiber: it needs a runtime.  "
            "Start one with ferrule.run(main)")
    cdef Scheduler s = <Scheduler>fe_thread_scheduler
    if s.dead:
        raise RuntimeError("the runtime did not survive fork(): start a new one with ferrule.run()")
    return s


# ---- the loop ----

cdef class Scheduler:
    def __cinit__(self, Crew crew not None, Backend backend not None):
        memset(&self.table, 0, sizeof(self.table))
        self.table.stride = sizeof(Slot)
        self.crew = crew
        self.index = len(crew.schedulers)
        self.backend = backend
        self.backend.table = &self.table
        self.idle_fibers = []
        inbox_init(&self.inbox)
        self.failed_tasks = []
        self.failed_tasks_limit = 64
        self.sleepers = Sleepers()
        self.operations = Operations()
        steal_queue_init(&self.new_tasks)

    def __dealloc__(self):
        timers_free(&self.heap)
        free(self.scratch)
        if not self.leaked:
            slots_free(&self.table)

    # ---- running ----

    def claim(self):
        """See to it that this thread, and no other, comes to run(); RuntimeError."""
        cdef Scheduler other = scheduler_or_none()
        if other is not None and not other.dead:
            raise RuntimeError("ferrule.run() is already running in this thread: spawn a task")
        mutex_lock(&self.wake_guard)
        cdef bint was_claimed = self.claimed
        self.claimed = True
        mutex_unlock(&self.wake_guard)
        if was_claimed and not self.closed:
            raise RuntimeError("this runtime is running in another thread")
        if was_claimed:
            raise RuntimeError("this runtime has ended: make a new one")

    def run(self, fn, tuple args):
        """Run ``fn(*args)`` as the main task and every task it spawns; return its result.

        After `claim`.
        """
        cdef Crew crew = self.crew
        try:
            self._open()
        except BaseException:
            self._close_inbox()
            raise
        try:
            if self.on_open is not None:
                self.on_open()
            crew.main = self.new_task(fn, args, "main", crew.root)
            crew.main.observed = True
            self.make_ready(crew.main)  # not offered: it stays with this thread
            self._run_hub()
            if self.dead:
                raise RuntimeError("this is a forked child: the runtime stayed with the parent")
        finally:
            self._leave()
        return crew.outcome()

    def run_beside(self):
        """Take part in the crew's work on this thread, until it ends."""
        try:
            self._open()
        except (OSError, MemoryError):
            self.give_up()
            return
        try:
            self._run_hub()
        finally:
            self._leave()

    cdef int give_up(self) except -1:
        """The system has no room for this thread: the crew goes on with those it has."""
        self.crew.no_more = True
        quiet_begin(&self.quiet)
        return self._close_inbox()

    cdef int _open(self) except -1:
        global fe_thread_scheduler
        try:
            self.backend.open()
        except BaseException as exc:
            self.backend.close()
            if isinstance(exc, OSError):
                raise EngineUnavailable(exc.errno, exc.strerror) from exc
            raise
        self.thread_id = threading.get_ident()
        self.is_main_thread = threading.current_thread() is threading.main_thread()
        cdef PyGreenlet *hub = PyGreenlet_GetCurrent()
        self.hub = <object><PyObject *>hub
        Py_DECREF(self.hub)
        fe_thread_scheduler = <PyObject *>self
        open_schedulers.append(self)
        mutex_lock(&self.wake_guard)
        self.reachable = True
        mutex_unlock(&self.wake_guard)
        return 0

    cdef int _leave(self) except -1:
        global fe_thread_scheduler
        fe_thread_scheduler = NULL
        if not self.dead:
            self._shut_down()
            open_schedulers.remove(self)
        return 0

    cdef int _run_hub(self) except -1:
        cdef Task task
        while not self.dead:
            task = self.handoff
            self.handoff = None
            if task is None:
                task = self.next_task()
            if task is None:
                break
            greenlet = self.greenlet_for(task)
            task = None
            self._switch(greenlet)
            self.current = None
        return 0

    # Shutdown, in order; each thread does 4 to 6 for itself:
    #  1. The end of the main task cancels the root scope; whatever a foreign thread posts from here
    #     on is still run, because step 2 keeps ticking.
    #  2. Fibers run until no task is left, so every finally has run.
    #  3. Whoever ended the last one sets `stopping` and wakes every thread.  From here on nothing
    #     is spawned, stolen or started; a thread that only now comes to its loop leaves it at once.
    #  4. Idle fibers are told to return.  None of them holds a task.
    #  5. The queue of new tasks is closed, then the inbox: nothing can land after the last look.
    #     From then on, under the lock of those who wake, the engine is out of their reach.
    #  6. The engine cancels and drains what is still in flight (abandoned slots), then closes; what
    #     will not drain is leaked on purpose, and counted.
    #  7. run()'s thread joins the others.
    #  8. Failures nobody asked about are reported; nobody can wait for those tasks any more.
    #  9. Only then are slots and timers freed (__dealloc__).
    cdef int _shut_down(self) except -1:
        cdef Fiber fiber
        while self.idle_fibers:
            fiber = self.idle_fibers.pop()
            self._switch(fiber.greenlet)
        steal_queue_close(&self.new_tasks)
        self._close_inbox()
        mutex_lock(&self.wake_guard)
        self.reachable = False
        mutex_unlock(&self.wake_guard)
        if self.on_close is not None:
            self.on_close()
        self.leaked = self.backend.close()
        self._take_completed()
        self.hub = None
        if self.index == 0:
            self.crew.join_threads()
        return self.report_failures()

    cdef int _close_inbox(self) except -1:
        cdef inbox_node *node
        cdef inbox_node *after
        self.closed = True
        node = inbox_close(&self.inbox)
        while node != NULL:
            after = node.next
            take_letter(<Letter *>node)
            node = after
        return 0

    cdef int note_failure(self, Task task) except -1:
        # Weakly: a failed task that nobody holds any more reports at once, in its __del__.
        if len(self.failed_tasks) >= self.failed_tasks_limit:
            self.failed_tasks = [ref for ref in self.failed_tasks if is_unobserved(ref())]
            self.failed_tasks_limit = 2 * len(self.failed_tasks) + 64
        self.failed_tasks.append(weakref.ref(task))
        return 0

    cdef int report_failures(self) except -1:
        cdef Task task
        for ref in self.failed_tasks:
            task = ref()
            if is_unobserved(task):
                task.observed = True
                task._report()
        self.failed_tasks = []
        return 0

    def call_soon(self, fn):
        """Have ``fn()``, which must not block, called in the next tick.  From any thread."""
        self.post(fn)

    # ---- switching ----

    cdef Task running(self):
        if self.current is None or self.current.state != RUNNING:
            raise RuntimeError("this call blocks, and there is no fiber to park here "
                               "(a signal handler or a callback of the loop)")
        return self.current

    cdef Task about_to_wait(self):
        """The running task, after the checks that every cancellable wait begins with."""
        cdef Task me = self.running()
        if me.no_switch:
            raise RuntimeError("this would switch fibers inside no_switch()")
        if me.scope.effective:
            raise Cancelled("the scope was cancelled")
        return me

    cdef int make_ready(self, Task task) except -1:
        if task.state != PARKED and task.state != NEW:
            return 0  # already on its way
        if task.state != NEW:
            task.state = READY
        if self.ready_tail is None:
            self.ready_head = task
        else:
            self.ready_tail.next_ready = task
        self.ready_tail = task
        self.ready_count += 1
        return 0

    cdef Task next_task(self):
        cdef Task task
        while self.batch_left == 0 or self.ready_head is None:
            if self.new_left:
                task = self._take_new()
                if task is not None:
                    return task
            if self.crew.stopping and self.ready_head is None:
                return None
            try:
                self.tick(self.ready_head is None and not steal_queue_count(&self.new_tasks))
            except BaseException as exc:
                self.in_tick = False
                self._tick_failed(exc)
            self.batch_left = self.ready_count
            if self.crew.size > 1:
                self._begin_round()
        task = self.ready_head
        self.ready_head = task.next_ready
        task.next_ready = None
        if self.ready_head is None:
            self.ready_tail = None
        self.ready_count -= 1
        self.batch_left -= 1
        return task

    def _tick_failed(self, exc):
        if self.failed_polls >= FAILED_POLLS_MAX and self.ready_head is None:
            # The engine is broken, and cancelling everything did not help: there is no way on.
            sys.excepthook(type(exc), exc, exc.__traceback__)
            os.abort()
        self.crew.root_fails(exc)

    cdef object greenlet_for(self, Task task):
        """Make the task current; returns where to switch to.

        The caller drops its reference before it switches: it may be away for long, and a task that
        has ended meanwhile must not be kept alive, with its result, by whoever ran before it.
        """
        cdef Fiber fiber = task.fiber
        if fiber is None:
            if self.idle_fibers:
                fiber = <Fiber>self.idle_fibers.pop()
                fiber.task = task
            elif self.current is None:
                fiber = Fiber.__new__(Fiber)
                fiber.scheduler = self
                fiber.task = task
                new = PyGreenlet_New(<PyObject *>fiber, <PyGreenlet *><PyObject *>self.hub)
                if new == NULL:
                    raise MemoryError("no memory for a fiber")
                fiber.greenlet = <object><PyObject *>new
                Py_DECREF(fiber.greenlet)
            else:
                self.handoff = task
                return self.hub
        self.current = task
        return fiber.greenlet

    cdef int _switch(self, object greenlet) except -1:
        cdef PyObject *sent
        self.switches += 1
        self.inline_count = 0
        sent = PyGreenlet_Switch(<PyGreenlet *><PyObject *>greenlet, NULL, NULL)
        Py_XDECREF(sent)
        return 0 if sent != NULL else -1

    cdef int park(self, Task me) except -1:
        """Leave the CPU until made ready.  The caller has put itself on a wait list."""
        cdef char here
        cdef Task task
        cdef size_t depth
        me.parked_at = self.clock
        me.state = PARKED
        task = self.next_task()
        if task is not me:
            depth = me.fiber.base - &here
            if depth > me.fiber.depth:
                me.fiber.depth = depth
            if task is None:
                me.state = RUNNING
                raise RuntimeError("the runtime stopped under a waiting fiber")
            greenlet = self.greenlet_for(task)
            task = None
            self._switch(greenlet)
            self.current = me
        me.state = RUNNING
        return 0

    cdef WakeReason wait_on(self, Task me, Waitable what, int64_t deadline,
                            bint interruptible) except *:
        """Park on `what`; the caller checked (about_to_wait), then entered its wait list."""
        me.waiting_on = what
        me.interruptible = interruptible
        me.wake_reason = WOKEN
        if deadline:
            self.set_deadline(me, deadline)
        self.park(me)
        me.deadline = 0
        me.waiting_on = None
        if me.wake_reason == BROKEN_OFF:
            raise RuntimeError("broken off: nothing could end this wait (see the DeadlockError)")
        return me.wake_reason

    cdef int set_deadline(self, Task me, int64_t deadline) except -1:
        # A node that is in the heap with an earlier time stays: when it fires it finds the new
        # deadline and goes back.  So a timeout per operation costs no heap work.
        me.deadline = deadline
        if me.node.place == 0:
            if timers_add(&self.heap, &me.node, deadline) < 0:
                raise MemoryError("no memory for a timer")
        elif me.node.when > deadline:
            timers_move(&self.heap, &me.node, deadline)
        return 0

    cdef int yield_now(self) except -1:
        cdef Task me = self.running()
        if me.no_switch:
            raise RuntimeError("this would switch fibers inside no_switch()")
        me.interruptible = False
        me.waiting_on = None
        me.state = PARKED
        self.make_ready(me)
        cdef Task task = self.next_task()
        if task is not me:
            greenlet = self.greenlet_for(task)
            task = None
            self._switch(greenlet)
            self.current = me
        else:
            self.inline_count = 0
        me.state = RUNNING
        return 0

    cdef int checkpoint(self) except -1:
        cdef Task me = self.running()
        self.look_around()
        if me.scope.effective:
            raise Cancelled("the scope was cancelled")
        return 0

    cdef int look_around(self) except -1:
        """For fibers that compute: see deadlines and cancellations since the last tick."""
        self._empty_inbox()
        if self.heap.count:
            self._expire_timers()
        return 0

    cdef int spend_budget(self) except -1:
        """After an operation that completed without a switch: let others run now and then."""
        cdef int64_t now = monotonic_ns()
        if self.inline_count == 0:
            self.slice_start = now
        self.inline_count += 1
        if self.inline_count >= BUDGET_OPERATIONS or now - self.slice_start > BUDGET_NS:
            if not self.current.no_switch:
                self.yield_now()
        return 0

    # ---- the tick ----

    cdef int tick(self, bint may_block) except -1:
        cdef int64_t timeout = -1
        cdef bint asleep = False  # announced so
        self.ticks += 1
        self.in_tick = True
        if self.ticks % TICKS_PER_LOOK == 1:
            self._look_outside()
        self._empty_inbox()
        if self.heap.count:
            timeout = self._expire_timers()
        if (self.ready_head is not None or self.crew.stopping
                or self.backend.completed != NULL):
            may_block = False
        elif may_block and self.crew.size > 1:
            may_block = asleep = self._may_sleep()
        try:
            if may_block and not self.backend.in_flight and not self._relies_on_outside():
                if self._is_deadlocked():
                    self._report_deadlock()
                    may_block = False
                elif self.ready_head is not None:
                    may_block = False  # looking ran Python code, which may have waked somebody
            may_block = may_block and inbox_sleep(&self.inbox)
            self._poll(timeout, may_block)
        finally:
            quiet_end(&self.quiet)
            if asleep:
                self._be_awake()
        self.relies_on_outside = False
        self._take_completed()
        if may_block:
            if self.is_main_thread:
                self._run_signal_handlers()
            if self.heap.count:
                self._expire_timers()
            self._empty_inbox()
        self.in_tick = False
        return 0

    cdef int _poll(self, int64_t timeout, bint may_block) except -1:
        self.idle = may_block
        try:
            self.backend.poll(timeout, may_block)
        except BaseException:
            self.failed_polls += 1
            raise
        finally:
            self.idle = False
        if may_block:
            self.clock = monotonic_ns()
        self.failed_polls = 0
        return 0

    cdef int _look_outside(self) except -1:
        """What a loop that never waits would not notice: the time, and signals.

        The interpreter notices a signal that a thread without Python took (a worker interrupted by
        one that the program handles, or one that is just starting) only when the GIL is next taken.
        """
        self.clock = monotonic_ns()
        if self.is_main_thread:
            self._run_signal_handlers()
        return 0

    cdef int _run_signal_handlers(self) except -1:
        try:
            PyErr_CheckSignals()
        except BaseException as exc:
            self.crew.root_fails(exc)  # no fiber is to blame: it ends the run
        return 0

    cdef int _take_completed(self) except -1:
        cdef op *o = self.backend.completed
        cdef op *after
        self.backend.completed = self.backend.completed_tail = NULL
        while o != NULL:
            after = o.next
            o.state = OP_DONE
            if o.waiter == NULL:
                self._release_slot(<Slot *>o)  # its fiber is gone
            elif o.traits & OP_TO_RECEIVER:
                (<Receiver>o.waiter).take_completion(o)
            else:
                self.make_ready(<Task>o.waiter)
            o = after
        return 0

    cdef int collect(self) except -1:
        self._poll(0, False)
        return self._take_completed()

    cdef int64_t _expire_timers(self) except? -4096:
        """Run what is due; returns ns to the next live deadline, or -1."""
        cdef int64_t now = monotonic_ns()
        cdef timer *node
        cdef Timed owner
        self.clock = now
        while True:
            node = timers_nearest(&self.heap)
            if node == NULL:
                return -1
            owner = <Timed>node.owner
            if node.when > now:
                return node.when - now
            timers_remove(&self.heap, node)
            owner.expire()

    cdef int64_t _drop_stale_timers(self) except? -4096:
        """The next deadline that somebody still waits for, or -1; nodes of waits that ended early
        stay in the heap until they are in the way.
        """
        cdef timer *node
        cdef Task task
        while True:
            node = timers_nearest(&self.heap)
            if node == NULL:
                return -1
            if not isinstance(<Timed>node.owner, Task):
                return node.when
            task = <Task>node.owner
            if task.deadline == 0:
                timers_remove(&self.heap, node)
            elif task.deadline > node.when:
                timers_move(&self.heap, node, task.deadline)
            else:
                return node.when

    cdef int _empty_inbox(self) except -1:
        """Deal with what was posted; what comes meanwhile is dealt with next time."""
        cdef inbox_node *node = inbox_take(&self.inbox)
        cdef inbox_node *after
        failure = None
        while node != NULL:
            after = node.next
            try:
                self._read(take_letter(<Letter *>node))
            except BaseException as exc:  # no memory: the others are to be read all the same
                failure = exc
            node = after
        if failure is not None:
            raise failure
        return 0

    cdef int _read(self, object item) except -1:
        if isinstance(item, Task):
            return self.make_ready(<Task>item)
        if isinstance(item, CancelScope):
            return (<CancelScope>item).restart_timer()
        if isinstance(item, Interruption):
            return deliver_cancel((<Interruption>item).task)
        try:
            item()
        except BaseException as exc:
            report_unraisable(exc, item)
        return 0

    cdef int post(self, object item) except -1:
        """From any thread, for the next tick: a task to make ready, something to call, or a scope
        whose deadline was moved.
        """
        cdef Letter *letter = <Letter *>malloc(sizeof(Letter))
        cdef int sent
        if letter == NULL:
            raise MemoryError("no memory for a message to another thread")
        Py_INCREF(item)
        letter.item = <PyObject *>item
        sent = inbox_push(&self.inbox, &letter.node)
        if sent == INBOX_REFUSED:
            take_letter(letter)
        elif sent == INBOX_WAKE:
            self.rouse()
        return 0

    cdef int rouse(self) except -1:
        """End this thread's wait, now or to come.  From any thread."""
        if self.dead:
            return 0  # a forked child, where another thread may have held the guard
        mutex_lock(&self.wake_guard)
        if self.reachable:
            self.backend.wake()
        mutex_unlock(&self.wake_guard)
        return 0

    cdef int forget(self, int fd, bint by_owner) except -1:
        """As Backend.forget, from any thread of the crew."""
        mutex_lock(&self.wake_guard)
        if self.reachable:
            self.backend.forget(fd, by_owner)
        mutex_unlock(&self.wake_guard)
        return 0

    # ---- deadlock ----

    cdef bint _relies_on_outside(self) noexcept:
        """Whether work outside may end this wait; who ends the last of it ends the wait too."""
        mutex_lock(&self.crew.guard)
        self.relies_on_outside = self.crew.external_waits != 0
        mutex_unlock(&self.crew.guard)
        return self.relies_on_outside

    cdef bint _is_deadlocked(self) except -1:
        if self._drop_stale_timers() >= 0:
            return False
        cdef Scheduler first = self.crew.schedulers[0]
        quiet_begin(&self.quiet)
        if not self.crew.is_quiet():
            return False
        if first.is_main_thread and has_signal_handlers():
            return False
        for thread in threading.enumerate():
            if thread.ident != first.thread_id and not getattr(thread, "_ferrule_worker", False):
                return False  # it may wake a fiber
        # A thread may have posted something and ended while we looked.
        return self.crew.begin_report(self)

    cdef int _report_deadlock(self) except -1:
        """Cancel everything; if all are quiet again, what is shielded; then break off the rest."""
        cdef Scheduler s
        cdef Crew crew = self.crew
        if crew.deadlock is None:
            crew.deadlock = deadlock_error(self.tasks())
            return crew.root_fails(crew.deadlock)
        if not self._lift_shields():
            for s in crew.schedulers:
                s.post(s.break_off_waits)
        return 0

    def break_off_waits(self):
        """End with an error the waits of this thread that no cancel can end."""
        cdef Task task
        for task in self.tasks():
            if task.scheduler is self and task.state == PARKED:
                task.wake_reason = BROKEN_OFF
                self.make_ready(task)

    cdef bint _lift_shields(self) except -1:
        """Whether there was one."""
        cdef CancelScope scope
        cdef bint found = False
        for scope in all_scopes(self.crew):
            if scope.shielded:
                found = True
                scope.shielded = False
                scope.refresh()
        return found

    def waiting(self):
        """(name, what it waits for) of every parked task."""
        return [(task.name, describe(task)) for task in self.tasks() if describe(task)]

    def tasks(self):
        """Every task of the runtime that has not ended, in the order of their making."""
        found = [scope for scope in all_scopes(self.crew) if isinstance(scope, Task)]
        return sorted(found, key=operator.attrgetter("id"))

    # ---- tasks ----

    cdef Task add_task(self, object fn, tuple args, object name, CancelScope scope):
        cdef Task task = self.new_task(fn, args, name, scope)
        self.start_task(task)
        return task

    cdef Task new_task(self, object fn, tuple args, object name, CancelScope scope):
        cdef Task task
        if not callable(fn):
            raise TypeError(f"the first argument must be callable, not {type(fn).__name__}")
        task = bare_task(self, name)
        task.fn = fn
        task.args = args
        task.context = PyContext_CopyCurrent()
        task.parent = scope
        task.task = task.scope = task
        self.crew.enter_task(task)
        self.spawned += 1
        return task

    cdef int start_task(self, Task task) except -1:
        """Queue a new task; this thread's, whoever made it."""
        if self.crew.size == 1:
            return self.make_ready(task)
        if self.crew.deals:
            return self.crew.deal(task)
        return self._offer(task)

    # ---- new tasks, with several threads ----

    cdef int _offer(self, Task task) except -1:
        """Queue a new task where other threads may take it."""
        cdef void *spilled[SPILL_MAX]
        cdef uint32_t n, i
        Py_INCREF(task)
        if steal_queue_push(&self.new_tasks, <void *>task) < 0:
            n = steal_queue_spill(&self.new_tasks, spilled, SPILL_MAX)
            self.overflows += n + 1
            for i in range(n):
                self.crew.overflow.append(<Task>spilled[i])
                Py_DECREF(<Task>spilled[i])
            self.crew.overflow.append(task)
            Py_DECREF(task)
        return self.crew.task_waits()

    cdef int _begin_round(self) except -1:
        """After what is ready the new tasks of this moment run, then comes the next tick."""
        if self.crew.overflow:
            self._take_overflow()
        self.new_left = steal_queue_count(&self.new_tasks)
        return 0

    cdef Task _take_new(self):
        cdef void *item = steal_queue_pop(&self.new_tasks)
        if item == NULL:
            self.new_left = 0
            return None
        self.new_left -= 1
        return self._adopt(item)

    cdef Task _adopt(self, void *item):
        cdef Task task = <Task>item
        Py_DECREF(task)  # the queue's reference
        task.scheduler = task.home = self
        return task

    cdef bint _may_sleep(self) except -1:
        """Look for work elsewhere; True, and announced as asleep, if there is none."""
        cdef Crew crew = self.crew
        idle_begin_search(&crew.idle)
        while not self._find_work():
            idle_sleep(&crew.idle, self.index)
            if not crew.has_work():
                return True
            idle_search_again(&crew.idle, self.index)
        self._end_search()
        return False

    cdef int _be_awake(self) except -1:
        """No longer asleep; one that was claimed is a searcher."""
        if idle_awake(&self.crew.idle, self.index):
            self._find_work()
            self._end_search()
        return 0

    cdef int _end_search(self) except -1:
        if idle_end_search(&self.crew.idle) and self.crew.has_work():
            self.crew.task_waits()
        return 0

    cdef bint _find_work(self) except -1:
        """Fill the queue of new tasks from the overflow, else from another thread's queue."""
        cdef Crew crew = self.crew
        cdef Scheduler other
        cdef void *item = NULL
        cdef Py_ssize_t i, count = len(crew.schedulers)
        if steal_queue_count(&self.new_tasks) or self._take_overflow():
            return True
        for i in range(1, count):
            other = crew.schedulers[(self.index + i) % count]
            item = steal_queue_steal(&other.new_tasks, &self.new_tasks)
            if item != NULL:
                self.steals += 1
                self.make_ready(self._adopt(item))
                return True
        return False

    cdef bint _take_overflow(self) except -1:
        cdef Crew crew = self.crew
        cdef Task task
        cdef Py_ssize_t _i
        for _i in range(max(1, min(len(crew.overflow) // crew.size, SPILL_MAX))):
            try:
                task = crew.overflow.popleft()
            except IndexError:
                return _i > 0
            Py_INCREF(task)
            if steal_queue_push(&self.new_tasks, <void *>task) < 0:
                Py_DECREF(task)
                crew.overflow.appendleft(task)
                return True
        return True

    # ---- operations ----

    cdef char *scratch_space(self) except NULL:
        if self.scratch == NULL:
            self.scratch = <char *>malloc(SCRATCH_SIZE)
            if self.scratch == NULL:
                raise MemoryError("no memory for the receive buffer")
        return self.scratch

    cdef Slot *take_slot(self, int kind, int fd) except NULL:
        cdef Slot *slot = <Slot *>slots_take(&self.table, kind, fd)
        if slot == NULL:
            raise MemoryError("too many operations in flight, or no memory for one more")
        slot.has_view = False
        slot.keep = NULL
        return slot

    cdef int give_slot(self, Slot *slot) except -1:
        """Free a slot; one that is still in flight is freed by its completion."""
        if slot.o.state == OP_IN_FLIGHT or slot.o.state == OP_COMPLETED:
            slot.o.waiter = NULL
            self.backend.cancel(&slot.o)
            return 0
        return self._release_slot(slot)

    cdef int _release_slot(self, Slot *slot) except -1:
        cdef PyObject *keep = slot.keep
        cdef PyObject *payload = <PyObject *>slot.o.payload
        slot.keep = NULL
        slot.o.payload = NULL
        if slot.has_view:
            slot.has_view = False
            PyBuffer_Release(&slot.view)
        slots_give(&self.table, &slot.o)
        Py_XDECREF(keep)
        Py_XDECREF(payload)
        return 0

    cdef int64_t perform(self, Slot *slot, int64_t deadline, bint cancellable) except? -4096:
        """Start the operation and park until it is complete; its result, or -errno.

        Raises Cancelled or TimeoutError, but only when the operation did not finish: what finished
        is returned, and the cancellation comes at the next point.
        """
        cdef Task me = self.running()
        cdef op *o = &slot.o
        cdef int64_t result
        if me.no_switch:
            raise RuntimeError("this would switch fibers inside no_switch()")
        while True:
            if cancellable and me.scope.effective:
                raise Cancelled("the scope was cancelled")
            if self.crew.faults is not None:
                result = self.inject(o.kind, &o.len)
                if result == -EINTR and o.kind != OP_CLOSE:
                    continue
                if result < 0:
                    return result
            o.generation += 1
            o.how_cancelled = 0
            o.waiter = <void *>me
            me.operation = o
            self.backend.start(o)
            reason = self.wait_on(me, self.operations, deadline, cancellable)
            while o.state != OP_DONE:
                reason = self.wait_on(me, self.operations, 0, False)
            me.operation = NULL
            result = o.result
            if result != -ECANCELED and (result != -EINTR or o.kind == OP_CLOSE):
                return result  # an interrupted close has closed
            if o.how_cancelled & OP_FD_CLOSING:
                return -EBADF
            if cancellable and me.scope.effective:
                raise Cancelled("the scope was cancelled")
            if reason == TIMED_OUT:
                raise TimeoutError("timed out")
            o.state = OP_PREPARED

    # ---- fault injection, for tests ----

    def inject_fault(self, str kind, int nth, *, int error=0, shorten_to=None):
        """Make the ``nth`` coming attempt (1: the next) of an operation fail or come short.

        ``error`` is an errno; ``shorten_to`` a length in bytes that the attempt is cut to.
        """
        cdef int k
        for k in range(OP_KINDS):
            if op_rows[k].name.decode() == kind:
                break
        else:
            raise ValueError(f"no such operation: {kind!r}")
        if nth < 1 or (error == 0) == (shorten_to is None):
            raise ValueError("nth counts from 1; give either error= or shorten_to=")
        if shorten_to is not None and not op_rows[k].can_be_short:
            raise ValueError(f"{kind} cannot come short")
        if self.crew.faults is None:
            self.crew.faults = {}
        self.crew.faults.setdefault(k, []).append([nth, error, shorten_to])

    def forget_faults(self):
        """Take back what was planned and has not happened."""
        self.crew.faults = None

    cdef int64_t inject(self, int kind, uint64_t *length) except? -4096:
        cdef int64_t result = 0
        planned = self.crew.faults.get(kind)
        if not planned:
            return 0
        for fault in list(planned):
            fault[0] -= 1
            if fault[0] == 0:
                planned.remove(fault)
                if fault[1]:
                    result = -fault[1]
                elif fault[2] < length[0]:
                    length[0] = fault[2]
        return result

    # ---- looking in ----

    @property
    def runtime(self):
        return self.crew.runtime

    def statistics(self):
        """Counters as a dict: what lives now, and what happened since the start."""
        return {
            "live_tasks": self.crew.live_tasks, "idle_fibers": len(self.idle_fibers),
            "slots_in_use": self.table.in_use, "operations_in_flight": self.backend.in_flight,
            "timers": self.heap.count, "spawned": self.spawned, "switches": self.switches,
            "ticks": self.ticks, "enters": self.backend.enters, "sqes": self.backend.sqes,
            "cqes": self.backend.cqes, "wakes": self.backend.wakes,
            "to_workers": self.backend.to_workers, "to_waiters": self.backend.to_waiters,
            "steals": self.steals, "overflows": self.overflows, "leaked": self.leaked,
        }

    @property
    def backend_name(self):
        return self.backend.name

    def wake_fd(self):
        """For signal.set_wakeup_fd."""
        return self.backend.wake_fd()

    def abandon(self):
        """In a forked child."""
        self.dead = self.closed = True
        if self.on_close is not None:
            self.on_close()
        self.backend.abandon()


def has_signal_handlers():
    """Whether the program handles a signal in Python: a handler may wake a fiber."""
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler:
            if not getattr(handler, "ferrule_own", False):
                return True
    return False


# ---- who waits for whom ----

cdef object describe(Task task):
    if task.state != PARKED or task.waiting_on is None:
        return None
    return task.waiting_on.describe_wait(task)


cdef str name_of(Task task):
    if task is None:
        return "nobody known"
    return f"{task.name}, which has ended" if task.state == DONE else task.name


cdef object frame_of(Task task):
    cdef PyGreenlet *current
    cdef PyFrameObject *innermost
    if task.fiber is None or task.fiber.greenlet is None:
        return None
    current = PyGreenlet_GetCurrent()
    running = <object><PyObject *>current
    Py_DECREF(running)
    if running is not task.fiber.greenlet:
        frame = task.fiber.greenlet.gr_frame
        if frame is None and task.scheduler.current is task:
            frame = sys._current_frames().get(task.scheduler.thread_id)
        return frame
    innermost = PyEval_GetFrame()
    return <object><PyObject *>innermost if innermost != NULL else None


cdef str place_of(object frame):
    cdef object outside = frame
    while outside is not None and outside.f_globals.get("__name__", "").startswith("ferrule."):
        outside = outside.f_back
    if outside is not None:
        frame = outside
    if frame is None:
        return None
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


cdef list find_cycle(dict awaited):
    cdef Task task
    cdef dict places = {}  # of the tasks on the way from the first to this one
    cdef list way = [], choices
    cdef set seen = set()
    for task in awaited:
        choices = [iter((task,))]
        while choices:
            task = next(choices[-1], None)
            if task is None:
                choices.pop()
                if way:
                    del places[way.pop()]
            elif task in places:
                return oldest_first(way[places[task]:])
            elif task not in seen:
                seen.add(task)
                places[task] = len(way)
                way.append(task)
                choices.append(iter(awaited.get(task, ())))
    return []


cdef list oldest_first(list cycle):
    # So that the same circle always reads the same.
    cdef Py_ssize_t first = min(range(len(cycle)), key=lambda place: cycle[place].id)
    return cycle[first:] + cycle[:first]


cdef object awaited_by(Task task):
    if task.state != PARKED or task.waiting_on is None:
        return ()
    # Where all are stuck a wait for any of several has no better way out than one for all.
    facts = task.waiting_on.wait_facts(task)
    return [other for other in [*facts.get("holders", ()), *facts.get("any_of", ())]
            if other is not None]


def deadlock_error(list tasks):
    """The `DeadlockError` of these tasks: all there are, and they wait."""
    cdef list cycle = find_cycle({task: awaited_by(task) for task in tasks})
    cycle = [waiting_task(task) for task in cycle]
    waiting = [waiting_task(task) for task in tasks if describe(task)]
    lines = ["every fiber waits and nothing can wake one:"]
    for one in waiting:
        place = f"  ({one.where})" if one.where else ""
        lines.append(f"  {one.name} waits for {one.what}{place}")
    if cycle:
        names = [one.name for one in cycle]
        lines.append("in a circle: " + " -> ".join([*names, names[0]]))
    error = DeadlockError("\n".join(lines))
    error.waiting = tuple(waiting)
    error.cycle = tuple(cycle)
    return error


cdef object waiting_task(Task task):
    return WaitingTask(task.name, task.id, describe(task), place_of(frame_of(task)))


cdef int report_unraisable(exc, source) except -1:
    """Hand an exception that nobody will see to sys.unraisablehook, with its traceback."""
    PyErr_SetObject(type(exc), exc)
    PyErr_WriteUnraisable(source)
    return 0


cdef list all_scopes(Crew crew):
    """Every scope, outer ones first, tasks among them."""
    cdef CancelScope scope
    cdef list found = [crew.root]
    mutex_lock(&crew.guard)
    try:
        for scope in found:  # grows meanwhile
            if scope.inner is not None:
                found.append(scope.inner)
            if scope.members:
                found.extend(scope.members)
    finally:
        mutex_unlock(&crew.guard)
    return found


include "scheduler_crew.pxi"


cdef bint is_unobserved(Task task):
    return task is not None and task.outcome == RAISED and not task.observed


# Every scheduler that is open, so that a forked child can drop all of them: it has neither the
# threads nor the ring memory of its parent.
cdef list open_schedulers = []


def open_runtimes():
    """The runtimes of this process that run now."""
    cdef Scheduler s
    return list({id(s.crew): s.runtime for s in open_schedulers}.values())


def _after_fork_in_child():
    cdef Scheduler s
    for s in open_schedulers:
        s.abandon()
    open_schedulers.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


# ---- descriptors ----

cdef class Descriptor:
    # The operations in the list may be of fibers on any of the threads.  One that comes after
    # `closing` is refused; those that came before are ended, each by its own thread.

    def __cinit__(self):
        self.fd = -1
        self.identity = fe_next_descriptor()

    cdef int check_open(self) except -1:
        if self.fd < 0 or self.closing:
            raise OSError(EBADF, os.strerror(EBADF))
        return 0

    cdef int64_t perform(self, Scheduler s, Slot *slot, int64_t deadline,
                         bint cancellable=True) except? -4096:
        """As Scheduler.perform, known to close_fd while it is in flight."""
        if not self.link(&slot.o, s.running()):
            return -EBADF
        try:
            return s.perform(slot, deadline, cancellable)
        finally:
            self.unlink(&slot.o)

    cdef bint link(self, op *o, Timed waiter) noexcept:
        mutex_lock(&self.guard)
        cdef bint is_open = self.fd >= 0 and not self.closing
        if is_open:
            o.descriptor = self.identity
            self.used_by |= <uint64_t>1 << waiter.home.index
            o.waiter = <void *>waiter
            o.fd_prev = NULL
            o.fd_next = self.in_flight
            if o.fd_next != NULL:
                o.fd_next.fd_prev = o
            self.in_flight = o
        mutex_unlock(&self.guard)
        return is_open

    cdef int unlink(self, op *o) except -1:
        cdef Task closer = None
        mutex_lock(&self.guard)
        if o.fd_next != NULL:
            o.fd_next.fd_prev = o.fd_prev
        if o.fd_prev != NULL:
            o.fd_prev.fd_next = o.fd_next
        else:
            self.in_flight = o.fd_next
        if self.in_flight == NULL and self.closer is not None:
            closer = self.closer
            self.closer = None
        mutex_unlock(&self.guard)
        return 0 if closer is None else wake(closer)

    cdef int close_fd(self) except? -1:
        """Mark, cancel, wait for the completions: only then may the number be reused.

        Operations in flight end with EBADF.  Returns the fd to close, or -1 if it was closed.
        Never a cancellation point; a switch point only if there was something in flight.
        """
        cdef int fd = self.fd
        mutex_lock(&self.guard)
        cdef bint closes = fd >= 0 and not self.closing
        self.closing = self.closing or closes
        cdef bint waits = self.in_flight != NULL
        mutex_unlock(&self.guard)
        if not closes:
            return -1
        if waits:
            self._end_all(current_scheduler(), fd)
        while attempts_go_on(&self.attempts):
            with nogil:
                sched_yield()
        if self.held_by:
            self._await_holders()
        if self.used_by:
            self._forget(fd)
        self.fd = -1
        return fd

    cdef bint hold(self, Scheduler s) noexcept:
        mutex_lock(&self.guard)
        cdef bint is_open = self.fd >= 0 and not self.closing
        if is_open:
            self.held_by |= <uint64_t>1 << s.index
        mutex_unlock(&self.guard)
        return is_open

    cdef void let_go(self, Scheduler s) noexcept:
        mutex_lock(&self.guard)
        self.held_by &= ~(<uint64_t>1 << s.index)
        mutex_unlock(&self.guard)

    cdef int _await_holders(self) except -1:
        # Microseconds.  Not for this thread: there the call itself has led to the close.
        cdef Scheduler here = scheduler_or_none()
        cdef uint64_t mine = 0 if here is None else <uint64_t>1 << here.index
        cdef bint held = True
        while held:
            with nogil:
                sched_yield()
            mutex_lock(&self.guard)
            held = self.held_by & ~mine != 0
            mutex_unlock(&self.guard)
        return 0

    cdef int _forget(self, int fd) except -1:
        """Let the engines know that the number will be another file's."""
        cdef Scheduler here = scheduler_or_none()
        cdef Scheduler s
        self.identity = fe_next_descriptor()
        if here is not None and not here.dead:
            for s in here.crew.schedulers:
                if self.used_by >> s.index & 1:
                    s.forget(fd, s is here)
        self.used_by = 0
        return 0

    cdef int _end_all(self, Scheduler s, int fd) except -1:
        cdef Scheduler other
        cdef Task me = s.running()
        cdef Closing closing = Closing.__new__(Closing)
        closing.fd = fd
        self.cancel_here()
        for other in s.crew.schedulers:
            if other is not s:
                other.post(self.cancel_here)
        while self._awaits_end(me):
            s.wait_on(me, closing, 0, False)
        return 0

    cdef bint _awaits_end(self, Task me) noexcept:
        mutex_lock(&self.guard)
        cdef bint waits = self.in_flight != NULL
        if waits:
            self.closer = me
        mutex_unlock(&self.guard)
        return waits

    def cancel_here(self):
        """End what is in flight on this thread, since the descriptor is being closed."""
        cdef Scheduler here = scheduler_or_none()
        mutex_lock(&self.guard)
        cdef op *o = self.in_flight
        while o != NULL:
            if (<Timed>o.waiter).home is here:
                here.backend.cancel(o)
                o.how_cancelled |= OP_FD_CLOSING
            o = o.fd_next
        mutex_unlock(&self.guard)


cdef int raise_error(int64_t result, object path=None) except -1:
    """Raise the OSError of a -errno."""
    cdef int err = <int>-result
    if path is None:
        raise OSError(err, os.strerror(err))
    raise OSError(err, os.strerror(err), path)


# ---- what is posted ----

cdef struct Letter:
    inbox_node node
    PyObject *item


cdef object take_letter(Letter *letter):
    """What is in a letter, which is freed."""
    item = <object>letter.item
    Py_DECREF(item)
    free(letter)
    return item


# ---- what Python calls ----

def spawn(fn, /, *args, name=None):
    """Run ``fn(*args)`` in a fiber of its own and return its `Task`.

    The task starts at the next switch, with a copy of the caller's context variables.  Raises
    ConcurrencyUnavailable at ``max_fibers`` and RuntimeError outside `run`.  Not a switch point.
    """
    cdef Scheduler s = current_scheduler()
    return s.add_task(fn, args, name, s.crew.root)


def spawn_or_run(fn, /, *args, name=None):
    """As `spawn`; once there are ``max_fibers`` tasks, run ``fn(*args)`` here and now.

    Then it is a part of the caller's task: `current_task` and `local` are the caller's, a
    cancellation of the caller reaches it and passes through this call.  It has a copy of the
    context variables, as a spawned one.  What it returns or raises is found in the task returned,
    which has ended.  Use `spawn` where the caller and ``fn`` wait for each other.  A switch point
    only if ``fn`` runs here and switches.
    """
    cdef Scheduler s = current_scheduler()
    try:
        return s.add_task(fn, args, name, s.crew.root)
    except ConcurrencyUnavailable:
        pass  # and not here, where its exceptions would get this one as their context
    return run_inline(s, fn, args, name, None)


def current_task():
    """The running task; RuntimeError outside one."""
    return current_scheduler().running()


def current_thread_scheduler():
    """This thread's scheduler; RuntimeError where there is none."""
    return current_scheduler()


def sleep(seconds):
    """Park this fiber for at least ``seconds`` (a number ≥ 0).

    ``sleep(0)`` lets the others run once.  A switch and cancellation point.
    """
    cdef Scheduler s = current_scheduler()
    cdef int64_t ns = seconds_to_ns(seconds, "seconds")
    cdef Task me = s.about_to_wait()
    if ns == 0:
        s.yield_now()
    else:
        sleep_to(s, me, min(monotonic_ns() + ns, MAX_NS))


cdef int sleep_to(Scheduler s, Task me, int64_t deadline) except -1:
    if s.wait_on(me, s.sleepers, deadline, True) == CANCELLED:
        raise Cancelled("the scope was cancelled")
    return 0


def sleep_until_ns(int64_t when, int clock):
    """Sleep to an absolute time: clock 0 MONOTONIC, 1 REALTIME, 2 BOOTTIME (see clocks.py)."""
    cdef Scheduler s = current_scheduler()
    cdef Task me = s.about_to_wait()
    cdef Slot *slot
    cdef int64_t result
    if clock == 0:
        if when <= monotonic_ns():
            s.yield_now()
        else:
            sleep_to(s, me, when)
        return
    # The kernel follows these clocks when they are set or the machine sleeps; our heap does not.
    slot = s.take_slot(OP_TIMEOUT, -1)
    try:
        slot.o.ts.tv_sec = when // 1_000_000_000
        slot.o.ts.tv_nsec = when % 1_000_000_000
        slot.o.flags = URING_TIMEOUT_ABS | (
            URING_TIMEOUT_REALTIME if clock == 1 else URING_TIMEOUT_BOOTTIME)
        result = s.perform(slot, 0, True)
    finally:
        s.give_slot(slot)
    if result != -ETIME:  # how a timeout ends well
        raise_error(result)


def yield_now():
    """Let every other ready fiber run once.  A switch and cancellation point."""
    cdef Scheduler s = current_scheduler()
    s.checkpoint()
    s.yield_now()


def checkpoint():
    """Raise `Cancelled` if the current scope is cancelled.  A cancellation point, no switch."""
    current_scheduler().checkpoint()


def cancel_requested():
    """Whether the next cancellation point would raise.  Neither a switch nor such a point."""
    cdef Scheduler s = current_scheduler()
    cdef Task me = s.running()
    s.look_around()
    return bool(me.scope.effective)


cdef class no_switch:
    """``with no_switch():`` anything inside that would switch fibers raises RuntimeError."""
    cdef Task task

    def __enter__(self):
        if self.task is not None:
            raise RuntimeError("this no_switch() is already entered; make a new one")
        self.task = current_scheduler().running()
        self.task.no_switch += 1

    def __exit__(self, kind, exc, tb):
        if self.task is None:
            raise RuntimeError("this no_switch() is not entered")
        self.task.no_switch -= 1
        self.task = None
