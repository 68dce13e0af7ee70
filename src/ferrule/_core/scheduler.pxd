# Fibers, tasks, cancel scopes and the loop of one thread.  They know each other, so they share a
# module.
cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from ferrule._core.backend cimport Backend
from ferrule._core.operation cimport op, slots, timer, timers

cdef extern from "steal_queue.h":
    struct steal_queue:
        pass

cdef extern from "inbox.h":
    struct inbox:
        pass

cdef extern from "idle_set.h":
    struct idle_set:
        pass

cdef extern from "quiet.h":
    struct quiet:
        pass


cdef extern from "group_count.h":
    struct group_count:
        pass


cdef extern from "mutex.h":
    ctypedef struct mutex:
        pass
    void mutex_lock(mutex *m) noexcept nogil
    void mutex_unlock(mutex *m) noexcept nogil


cdef extern from "attempts.h":
    void attempt_begin(uint32_t *n) noexcept nogil
    void attempt_end(uint32_t *n) noexcept nogil
    bint attempt_ended(const bint *flag) noexcept nogil
    bint attempts_go_on(uint32_t *n) noexcept nogil


cdef enum TaskState:
    NEW         # never ran; may still go to any fiber
    READY       # in the ready queue
    RUNNING
    PARKED      # waiting on `waiting_on`
    DONE

cdef enum:
    SCRATCH_SIZE = 256 * 1024

cdef enum Outcome:
    UNDECIDED
    RETURNED
    RAISED
    WAS_CANCELLED

cdef enum WakeReason:
    WOKEN       # what it waited for has come
    TIMED_OUT
    CANCELLED
    BROKEN_OFF  # by the deadlock check: nothing could have ended it


# A slot and what its owner lends the kernel until the completion.
cdef struct Slot:
    op o
    Py_buffer view
    bint has_view
    PyObject *keep


cdef class Timed:
    """What has one place in the timer heap."""
    cdef timer node
    cdef Scheduler home
    cdef int expire(self) except -1


cdef class Waitable:
    """What a task can park on."""
    # End the wait before what it is for has come: take the task out of the wait list and make it
    # ready, or see to it that it soon is.
    cdef int abort_wait(self, Task task) except -1
    # What it waits for: in words, and as a dict with a "kind" and some of "object", "operation",
    # "fd", "holders" (the tasks that have to go on for the wait to end) and "any_of" (one of which
    # has to).  Called by the task's own thread; where another may change what they read, they take
    # the object's mutex.
    cdef str describe_wait(self, Task task)
    cdef dict wait_facts(self, Task task)


cdef class Watch(Waitable):
    """What is told of the end of tasks."""
    cdef int task_ended(self, Task task) except -1


cdef class Receiver(Timed):
    """What waits without a fiber: events reach it inside the tick."""
    # Of an operation with OP_TO_RECEIVER, whose `waiter` it is.
    cdef void take_completion(self, op *o) noexcept
    # Its turn to use something has come; whether it took it.
    cdef bint take_turn(self) noexcept


cdef class CancelScope(Timed):
    cdef CancelScope parent
    cdef CancelScope inner       # the next scope of the same task
    cdef set members             # the tasks of a group: their root scopes
    cdef Task task               # who entered it
    cdef readonly bint cancel_called
    cdef readonly bint cancelled_caught
    cdef bint shielded
    cdef bint left               # entered, and left again
    cdef bint effective          # cancelled: by itself, or from outside through no shield
    cdef int64_t deadline_ns     # 0: none
    cdef int cancel_now(self) except -1
    cdef int refresh(self) except -1
    cdef int start_timer(self) except -1
    cdef int restart_timer(self) except -1
    cdef int check_innermost(self) except -1
    cdef int _push_down(self, list reached) except -1
    cdef int leave(self) except -1
    cdef bint _is_cancelled(self) noexcept
    # With the crew's guard held; False where nobody may become a member any more.
    cdef bint add_member(self, Task task) except -1
    cdef int member_done(self, Task task) except -1


cdef class GroupScope(CancelScope):
    """A scope whose members' failures cancel it."""
    cdef readonly list errors
    cdef group_count count       # of the members, and whether the owner waits for their end
    cdef uint32_t limit          # of members that have started and not ended; 0: none
    cdef mutex room_guard        # of the next two lines
    cdef uint32_t started        # of these members; counted only where there is a limit
    cdef Task queue_head, queue_tail     # new members, and the owner, that wait for room
    cdef Scheduler _scheduler_here(self)
    cdef Task _spawn_limited(self, Scheduler s, object fn, tuple args, object name)
    cdef int _wait_for_room(self, Scheduler s, Task me) except -1
    cdef int _give_room(self) except -1
    cdef bint _enter(self, Task task) noexcept
    cdef bint _leave_queue(self, Task task) noexcept


@cython.final
cdef class Task(CancelScope):
    cdef Scheduler scheduler
    cdef object fn, context, given_name
    cdef tuple args
    cdef object value            # the result or the exception
    cdef TaskState state
    cdef Outcome outcome
    cdef WakeReason wake_reason
    cdef bint observed           # somebody asked how it ended
    cdef bint interruptible      # by cancellation, while parked
    cdef int no_switch
    cdef Fiber fiber
    cdef Task next_ready
    cdef CancelScope scope       # the innermost
    cdef Waitable waiting_on
    cdef op *operation           # what it waits for, when that is an operation
    cdef int64_t deadline        # of the present wait; 0: none
    cdef int64_t parked_at       # by the loop's coarse clock
    # For wait lists (sync): neighbours, what is handed over, how the wait ended.
    cdef Task wait_before, wait_after
    cdef object wait_item
    cdef int wait_outcome
    cdef Task first_waiter       # of those that wait for the end
    cdef list more_waiters, callbacks
    cdef dict watches            # its keys are to be told of the end
    cdef CancelScope joining     # the task whose end, or the group for whose end or room it waits
    cdef object presence         # what `local` knows the task by; gone with its end
    cdef object thread_lock      # of an OS thread's stand-in: held while the thread waits
    cdef readonly uint64_t id
    cdef object __weakref__
    cdef int finish(self) except -1
    cdef int _wait(self, object timeout) except -1
    cdef bint _add_waiter(self, Task waiter) except -1
    cdef bint _remove_waiter(self, Task waiter) except -1
    cdef int check_waiter(self, Task me) except -1
    cdef bint watch(self, Task me, Watch watch) except -1
    cdef int unwatch(self, Watch watch) except -1
    cdef int _call_back(self, object fn) except -1
    cdef int decide_base_exception(self, exc) except -1
    cdef int _report(self) except -1


@cython.final
cdef class Fiber:
    cdef object greenlet
    cdef Scheduler scheduler
    cdef Task task
    cdef char *base
    cdef size_t depth            # of the C stack at its deepest park
    cdef int _run(self, Task task) except -1


@cython.final
cdef class Crew:
    """The loop threads of one runtime, and what they share."""
    # Of the tree of scopes, who waits for the end of tasks, and everything here but `overflow`.
    cdef mutex guard
    cdef readonly uint32_t size          # how many threads there may be
    cdef readonly list schedulers        # of those that there are; the first is run()'s
    cdef list threads                    # the OS threads of all but the first
    cdef public object runtime
    cdef object new_backend
    cdef readonly CancelScope root
    cdef Task main
    cdef uint32_t max_fibers
    cdef readonly uint32_t live_tasks
    cdef int external_waits
    cdef readonly bint interrupted       # by Ctrl-C
    cdef bint stopping                   # no task is left: the threads end
    cdef object failure                  # what run() raises
    cdef object deadlock                 # the DeadlockError, once there was one
    cdef object overflow                 # new tasks that their thread's queue had no room for
    cdef idle_set idle
    cdef bint starting                   # a thread is being started
    cdef bint no_more                    # of them can be had: the others go on alone
    cdef public bint deals               # for tests: gives new tasks to the threads in turn
    cdef uint32_t dealt
    cdef dict faults                     # for tests: by operation, on whichever thread it comes
    cdef int enter_task(self, Task task) except -1
    cdef int enter_group(self, Task task, GroupScope group) except -1
    cdef int stop_if_done(self) except -1
    cdef int root_fails(self, exc) except -1
    cdef int task_waits(self) except -1
    cdef int deal(self, Task task) except -1
    cdef int _add_thread(self) except -1
    cdef int join_threads(self) except -1
    cdef bint has_work(self) except -1
    cdef bint is_quiet(self) except -1
    cdef bint begin_report(self, Scheduler s) except -1
    cdef bint _is_quiet(self) except -1


@cython.final
cdef class Scheduler:
    """One thread's loop; everything that thread owns is here."""
    cdef readonly Crew crew
    cdef readonly int index      # in the crew; 0 is the thread that called run()
    cdef Backend backend
    cdef public object on_open, on_close
    cdef slots table
    cdef timers heap
    cdef object hub
    cdef Task ready_head, ready_tail, current, handoff
    cdef uint32_t ready_count, batch_left
    cdef list idle_fibers
    cdef Waitable sleepers, operations
    cdef uint32_t inline_count
    cdef int64_t slice_start
    cdef inbox inbox             # Letters of other threads and signal handlers
    cdef list failed_tasks       # weakly: nobody has asked for their exceptions yet
    cdef Py_ssize_t failed_tasks_limit
    cdef int failed_polls        # in a row
    cdef readonly bint dead      # in a forked child
    cdef bint claimed            # by the thread that runs it, or ran it
    cdef bint closed             # nothing can be posted any more
    cdef bint reachable          # the engine is open, so it can be waked
    cdef bint in_tick, is_main_thread
    cdef mutex wake_guard        # of reachable, and of the engine's life while somebody wakes it
    cdef steal_queue new_tasks   # that others may take; used with several threads only
    cdef uint32_t new_left       # of them, in this round
    cdef bint relies_on_outside  # waiting, and only work outside could end that
    cdef quiet quiet             # about to wait, or waiting, with nothing that could end it
    # For `inspect` and its watchdog, which look from outside.
    cdef int64_t clock           # when the loop last looked at the time
    cdef bint idle               # waiting in the kernel
    cdef uint64_t tasks_ended
    cdef unsigned long thread_id
    cdef readonly uint64_t switches, ticks, spawned, steals, overflows
    cdef readonly uint32_t leaked
    cdef char *scratch           # SCRATCH_SIZE bytes, once somebody needed them
    cdef object bulk_turns       # of files.pyx: who may move much data

    cdef int make_ready(self, Task task) except -1
    cdef Task next_task(self)
    cdef object greenlet_for(self, Task task)
    cdef int park(self, Task me) except -1
    cdef int tick(self, bint may_block) except -1
    cdef WakeReason wait_on(self, Task me, Waitable what, int64_t deadline,
                            bint interruptible) except *
    cdef Task add_task(self, object fn, tuple args, object name, CancelScope scope)
    cdef Task new_task(self, object fn, tuple args, object name, CancelScope scope)
    cdef int start_task(self, Task task) except -1
    cdef Task running(self)
    cdef Task about_to_wait(self)
    cdef int yield_now(self) except -1
    cdef int checkpoint(self) except -1
    cdef int spend_budget(self) except -1
    cdef int post(self, object item) except -1
    cdef int set_deadline(self, Task me, int64_t deadline) except -1

    cdef Slot *take_slot(self, int kind, int fd) except NULL
    cdef int give_slot(self, Slot *slot) except -1
    # Submit what was started and take what has completed, without waiting.
    cdef int collect(self) except -1
    cdef int64_t perform(self, Slot *slot, int64_t deadline, bint cancellable) except? -4096
    # For a call that fills it and copies out of it without a switch between.
    cdef char *scratch_space(self) except NULL
    # The seam: 0, or the -errno that the next attempt of this kind is to fail with; may shorten.
    cdef int64_t inject(self, int kind, uint64_t *length) except? -4096

    cdef int note_failure(self, Task task) except -1
    cdef int report_failures(self) except -1
    cdef int look_around(self) except -1

    cdef int _run_hub(self) except -1
    cdef int _shut_down(self) except -1
    cdef int _open(self) except -1
    cdef int _leave(self) except -1
    cdef int give_up(self) except -1
    cdef int _close_inbox(self) except -1
    cdef int rouse(self) except -1
    cdef int forget(self, int fd, bint by_owner) except -1
    cdef int _offer(self, Task task) except -1
    cdef int _begin_round(self) except -1
    cdef Task _take_new(self)
    cdef Task _adopt(self, void *item)
    cdef bint _may_sleep(self) except -1
    cdef int _be_awake(self) except -1
    cdef int _end_search(self) except -1
    cdef bint _find_work(self) except -1
    cdef bint _take_overflow(self) except -1
    cdef int _switch(self, object greenlet) except -1
    cdef int _take_completed(self) except -1
    cdef int64_t _expire_timers(self) except? -4096
    cdef int64_t _drop_stale_timers(self) except? -4096
    cdef int _empty_inbox(self) except -1
    cdef int _read(self, object item) except -1
    cdef bint _relies_on_outside(self) noexcept
    cdef bint _is_deadlocked(self) except -1
    cdef int _report_deadlock(self) except -1
    cdef bint _lift_shields(self) except -1
    cdef int _poll(self, int64_t timeout, bint may_block) except -1
    cdef int _look_outside(self) except -1
    cdef int _run_signal_handlers(self) except -1
    cdef int _release_slot(self, Slot *slot) except -1


cdef class Descriptor:
    """A file descriptor and the operations in flight on it."""
    cdef int fd
    cdef mutex guard             # of what follows, and of what subclasses say
    cdef op *in_flight
    cdef uint64_t identity       # by which engines know this file, not another of the same number
    cdef uint64_t used_by        # the threads of the crew that had operations on it, as bits
    cdef uint32_t attempts       # that go on just now, beside the operations
    cdef uint64_t held_by        # the threads of the crew that are in a call with it, as bits
    cdef bint closing
    cdef Task closer             # who takes it out wakes it
    cdef int check_open(self) except -1
    # Around an operation's flight, so that close_fd knows it.  False once closing.
    cdef bint link(self, op *o, Timed waiter) noexcept
    cdef int unlink(self, op *o) except -1

    # Around an attempt at the number that is no operation: no other thread closes it meanwhile.
    # False once closing.  In between no Python code runs.
    cdef inline bint enter(self) noexcept:
        attempt_begin(&self.attempts)
        if not attempt_ended(&self.closing) and self.fd >= 0:
            return True
        attempt_end(&self.attempts)
        return False

    cdef inline void leave(self) noexcept:
        attempt_end(&self.attempts)

    # The same around a call that is not ours, lets go of the GIL, and does not wait.
    cdef bint hold(self, Scheduler s) noexcept
    cdef void let_go(self, Scheduler s) noexcept
    cdef int _await_holders(self) except -1
    cdef int64_t perform(self, Scheduler s, Slot *slot, int64_t deadline,
                         bint cancellable=*) except? -4096
    cdef int close_fd(self) except? -1
    cdef int _end_all(self, Scheduler s, int fd) except -1
    cdef int _forget(self, int fd) except -1
    cdef bint _awaits_end(self, Task me) noexcept


# End the wait of a task that was taken out of its wait list.  From any thread.
cdef int wake(Task task) except -1
# What an OS thread enters into wait lists in place of a task; its thread waits on `thread_lock`.
cdef Task new_stand_in()
# The task as it stands in messages, also one that has ended or None.
cdef str name_of(Task task)
# The innermost frame of a task that has started and not ended; None where compiled code alone runs.
cdef object frame_of(Task task)
# The frame nearest to it that is not Ferrule's own, as "file:line in function".
cdef str place_of(object frame)
# Tasks each of which waits for the next one, and the last for the first, beginning with the oldest;
# empty if there are none.  `awaited` has what each waits for.
cdef list find_cycle(dict awaited)
cdef Scheduler current_scheduler()
cdef Scheduler scheduler_or_none()
cdef int64_t monotonic_ns() noexcept nogil
cdef int64_t seconds_to_ns(object seconds, str what) except -1
cdef int64_t deadline_after(object timeout) except -1
cdef int raise_error(int64_t result, object path=*) except -1
