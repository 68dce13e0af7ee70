"""What tasks do and wait for, read out of the scheduler: what `ferrule.inspect` is made of.

Everything is read by the loop's own thread, in a callable of the loop or in a fiber, so nothing
changes meanwhile.  With the GIL any thread may read, piece by piece: compiled code does not give it
up in the middle of a piece, and the slots of operations stay mapped as long as their scheduler.
"""
from libc.string cimport memset

from ferrule._core.operation cimport (
    OP_ACCEPT, OP_CONNECTING, OP_FACCESSAT, OP_IN_FLIGHT, OP_LINKAT, OP_MKDIRAT, OP_OPENAT, OP_POLL,
    OP_READLINKAT, OP_RECV, OP_RECVMSG, OP_RENAMEAT, OP_SEND, OP_SENDMSG, OP_STATX, OP_SYMLINKAT,
    OP_UNLINKAT, op, sockaddr,
    sockaddr_storage, socklen_t,
)
from ferrule._core.scheduler cimport (
    DONE, PARKED, RUNNING, CancelScope, GroupScope, Scheduler, Slot, Task, Waitable, find_cycle,
    frame_of, monotonic_ns, scheduler_or_none,
)
from ferrule._core.sockets cimport address_in

import os

cdef extern from "<poll.h>" nogil:
    int POLLIN

cdef extern from "<sys/socket.h>" nogil:
    int getpeername(int fd, sockaddr *address, socklen_t *length)
    int getsockname(int fd, sockaddr *address, socklen_t *length)

STATES = ("new", "ready", "running", "waiting", "done")


def is_running(Scheduler s not None):
    """Whether its thread is in `run`."""
    return s.hub is not None and not s.closed and not s.dead


def is_own_thread(Scheduler s not None):
    """Whether the caller runs on the scheduler's thread: in a fiber, a callable of the loop …"""
    return s is scheduler_or_none()


def thread_ident(Scheduler s not None):
    """The `threading.get_ident` of its thread."""
    return s.thread_id


def progress(Scheduler s not None):
    """Numbers that change whenever another fiber or task gets the thread; from any thread.

    None while the thread waits in the kernel, or does not run.
    """
    if s.idle or not is_running(s):
        return None
    return s.switches, s.ticks, s.tasks_ended


def call_in_loop(Scheduler s not None, fn):
    """Have the loop call ``fn()``, which must not block, in its next tick; from any thread."""
    s.post(fn)


def tasks_of(Scheduler s not None):
    """The tasks of this thread that have not ended, oldest first; and new ones that it holds."""
    return [task for task in s.tasks() if (<Task>task).scheduler is s]


def belongs_to(Task task not None, Scheduler s):
    """Whether the task has not ended and is that thread's; from any thread."""
    return task.scheduler is s and task.state != DONE


def is_current(Task task not None):
    """Whether its fiber has the thread, also when it is the one that ticks while it waits."""
    return task.scheduler is not None and task.scheduler.current is task


def state_of(Task task not None):
    """One of `STATES`, or "inline": called by the fiber of another task.  From any thread."""
    if task.state == RUNNING and task.fiber is None:
        return "inline"
    return STATES[<int>task.state]


def innermost_frame(Task task not None):
    """Where it stands; None if it has not started, or runs compiled code alone."""
    return frame_of(task)


def wait_of(Task task not None):
    """What the task waits for as a dict, or None.

    "kind" and "text"; "since" when by the loop's clock and "seconds" for how long that is;
    "seconds_left" until its timeout; and what is known of "object", "holders", "any_of",
    "operation", "fd", "path" and "address".
    """
    cdef dict facts
    cdef Waitable waitable = task.waiting_on
    if task.state != PARKED or waitable is None:
        return None
    facts = waitable.wait_facts(task)
    facts["text"] = waitable.describe_wait(task)
    now = monotonic_ns()
    facts["since"] = task.parked_at / 1e9
    facts["seconds"] = max(0, now - task.parked_at) / 1e9
    if task.deadline:
        facts["seconds_left"] = max(0, task.deadline - now) / 1e9
    if task.operation != NULL and facts["kind"] == "operation":
        add_target(facts, task.operation)
    return facts


def scopes_of(Task task not None):
    """The open scopes of the task, outer ones first, each as (scope, is a group, facts)."""
    cdef CancelScope scope = task.inner
    cdef list found = []
    while scope is not None:
        found.append((scope, isinstance(scope, GroupScope), {
            "seconds_left": (
                (scope.deadline_ns - monotonic_ns()) / 1e9 if scope.deadline_ns else None),
            "shield": bool(scope.shielded), "cancel_called": bool(scope.cancel_called),
            "cancelled": bool(scope.effective),
        }))
        scope = scope.inner
    return found


def parent_of(Task task not None):
    """The scope that it is a member of; None once it has ended."""
    return task.parent


def is_cancelled(Task task not None):
    """Whether the task is being cancelled, by itself or from outside."""
    return bool(task.effective)


def circle(dict awaited not None):
    """Of tasks and what each of them waits for: those that do so in a circle, in order, or []."""
    return find_cycle(awaited)


# ---- operations ----

cdef int add_target(dict facts, op *o) except -1:
    """Say what the operation works on: a path, or the address of a socket."""
    cdef int kind = o.kind
    cdef int fd = o.fd
    if o.state != OP_IN_FLIGHT:
        return 0
    if kind == OP_SYMLINKAT:
        return add_path(facts, <const char *>o.addr2)
    if kind in (OP_OPENAT, OP_STATX, OP_READLINKAT, OP_FACCESSAT, OP_UNLINKAT, OP_MKDIRAT,
                OP_RENAMEAT, OP_LINKAT):
        if o.addr != NULL and (<const char *>o.addr)[0]:
            return add_path(facts, <const char *>o.addr)
    if kind == OP_POLL and o.traits & OP_CONNECTING:
        address = <object>(<Slot *>o).keep
        facts.update(operation="connect", address=address)
        facts["text"] = f"connect on fd {fd} to {address_text(address)}"
        return 0
    if kind == OP_POLL:
        way = "readable" if o.flags & POLLIN else "writable"
        facts["text"] = f"fd {fd} to be {way}"
    if kind in (OP_RECV, OP_RECVMSG, OP_SEND, OP_SENDMSG, OP_POLL, OP_ACCEPT):
        address = endpoint(fd, kind == OP_ACCEPT)
        if address:
            facts["address"] = address
            facts["text"] = f"{facts['text']} ({address_text(address)})"
        return 0
    return add_file(facts, fd)


cdef int add_path(dict facts, const char *path) except -1:
    facts["path"] = os.fsdecode(<bytes>path)
    facts["text"] = f"{facts['operation']} of {facts['path']!r}"
    return 0


cdef int add_file(dict facts, int fd) except -1:
    try:
        name = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return 0  # closed, or a system that has no such directory
    facts["text"] = f"{facts['text']} ({name})"
    if name.startswith("/"):
        facts["path"] = name
    return 0


cdef object endpoint(int fd, bint own):
    """The peer's address, or the socket's own; None where there is none."""
    cdef sockaddr_storage storage
    cdef socklen_t length = sizeof(storage)
    cdef int failed
    memset(&storage, 0, sizeof(storage))
    if own:
        failed = getsockname(fd, <sockaddr *>&storage, &length)
    else:
        failed = getpeername(fd, <sockaddr *>&storage, &length)
    return None if failed else address_in(&storage, length)


def address_text(address):
    """An address in one word."""
    if isinstance(address, tuple) and len(address) >= 2:
        host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
        return f"{host}:{address[1]}"
    return repr(address)
