"""What every fiber of a runtime does and waits for, at one moment; see `ferrule.inspect`."""

from __future__ import annotations

import gc
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TextIO

from ferrule._core import snapshot as _core
from ferrule._core.scheduler import Scheduler, Task
from ferrule.runtime import Runtime, current_runtime

_OWN_MODULES = {"ferrule.snapshots", "ferrule.watchdog"}
_PATIENCE = 0.05  # seconds between looks whether the thread asked can still answer


@dataclass(frozen=True, slots=True)
class Wait:
    """What a fiber waits for.

    ``kind`` is "operation" (of the kernel or a worker thread), "batch" (of them), "timer", "task",
    "group", "thread" (a `blocking` call, a name look-up), "turn", "close", or a synchronisation
    object's ("lock", "event", "queue" …).  ``text`` says it in words.  The rest is None or empty
    where it has no meaning or is not known.
    """

    kind: str
    text: str
    since: float
    """On `ferrule.now()`, but by the loop's coarse clock."""
    seconds: float
    """For how long already."""
    seconds_left: float | None = None
    """Until its timeout or the end of its sleep."""
    object: Any = None
    """The Lock, Event, Task …"""
    holders: tuple[Task[Any], ...] = ()
    """The tasks that have to go on for the wait to end."""
    any_of: tuple[Task[Any], ...] = ()
    """Tasks one of which has to."""
    operation: str | None = None
    fd: int | None = None
    path: str | None = None
    address: Any = None
    """The peer's, or an accepting socket's own."""

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", {self.seconds_left:.1f} s more at most"
        return f"waits {self.seconds:.1f} s for {self.text}{left}"


@dataclass(frozen=True, slots=True)
class Scope:
    """A cancel scope or the scope of a group, entered and not left."""

    kind: str
    """ "scope" or "group"."""
    deadline: float | None
    """Seconds until it, negative once it has passed; None: none."""
    shield: bool
    cancel_called: bool
    cancelled: bool
    """By itself or from outside."""

    def __str__(self) -> str:
        words = [self.kind]
        if self.deadline is not None:
            words.append(f"deadline in {self.deadline:.1f} s")
        if self.shield:
            words.append("shielded")
        if self.cancelled:
            words.append("cancelled" if self.cancel_called else "cancelled from outside")
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Fiber:
    """A task that has not ended."""

    task: Task[Any]
    name: str
    id: int
    state: str
    """ "new", "ready", "running", "waiting", or "inline": it runs in the fiber that called it."""
    wait: Wait | None
    cancelled: bool
    stack: traceback.StackSummary
    """Outermost frame first; empty before the start, and where compiled code alone runs."""
    scopes: tuple[Scope, ...]
    """Outermost first."""
    thread: int
    """Of its loop thread, as `threading.get_ident` has it."""
    _parent: int = field(repr=False)
    _scope_ids: tuple[int, ...] = field(repr=False)

    def __str__(self) -> str:
        what = self.state if self.wait is None else str(self.wait)
        cancelled = ", cancelled" if self.cancelled else ""
        place = f"  ({self.place})" if self.place else ""
        return f"{self.name} #{self.id} {what}{cancelled}{place}"

    @property
    def place(self) -> str | None:
        """The innermost line outside Ferrule, as "file:line in function"."""
        for frame in reversed(self.stack):
            if not _is_own_file(frame.filename):
                return f"{frame.filename}:{frame.lineno} in {frame.name}"
        return None


@dataclass(frozen=True, slots=True)
class Node:
    """A fiber or a scope, and what is inside it: scopes, and the tasks of a group."""

    content: Fiber | Scope
    children: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A runtime at one moment."""

    fibers: list[Fiber]
    """Oldest first."""
    threads: list[dict[str, Any]]
    """The counters of each loop thread."""
    notes: list[str]
    """What is wrong with this picture: which thread did not answer, and what is missing for it."""

    def tree(self) -> list[Node]:
        """The tasks that belong to no group, with all that is inside them."""
        top: list[Node] = []
        nodes: dict[int, list[Node]] = {}  # what is directly inside a scope, by its id()
        for fiber in self.fibers:
            children = nodes[id(fiber.task)] = []
            for scope, ident in zip(fiber.scopes, fiber._scope_ids, strict=True):
                inner = nodes.setdefault(ident, [])
                children.append(Node(scope, inner))
                children = inner
        for fiber in self.fibers:
            nodes.get(fiber._parent, top).append(Node(fiber, nodes[id(fiber.task)]))
        return top

    def circle(self) -> list[Fiber]:
        """Fibers each of which waits for the next one and the last for the first, if there are."""
        by_task = {fiber.task: fiber for fiber in self.fibers}
        holders = {fiber.task: fiber.wait.holders for fiber in self.fibers if fiber.wait}
        return [by_task[task] for task in _core.circle(holders)]

    def format(self, *, stacks: bool = False) -> str:
        """The tree as text; with ``stacks`` the counters of each thread and every stack too."""
        return "".join(line + "\n" for line in self._lines(stacks))

    def _lines(self, stacks: bool) -> Iterator[str]:
        yield f"{count_of(self.fibers, 'fiber')} on {count_of(self.threads, 'loop thread')}"
        for note in self.notes:
            yield f"note: {note}"
        yield from _tree_lines(self.tree())
        if circle := self.circle():
            yield "in a circle: " + " -> ".join(fiber.name for fiber in [*circle, circle[0]])
        if not stacks:
            return
        for counters in self.threads:
            yield "thread " + ", ".join(f"{name} {value}" for name, value in counters.items())
        for fiber in self.fibers:
            yield ""
            yield str(fiber)
            yield from "".join(fiber.stack.format()).splitlines()


def count_of(things: list[Any], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"


def _tree_lines(top: list[Node]) -> Iterator[str]:
    # With a list instead of recursion: tasks may start tasks in any depth.
    todo = [(node, "", "") for node in reversed(top)]
    while todo:
        node, first, rest = todo.pop()
        yield f"{first}{node.content}"
        count = len(node.children)
        for place in range(count - 1, -1, -1):
            last = place == count - 1
            todo.append((node.children[place], rest + ("└─ " if last else "├─ "),
                         rest + ("   " if last else "│  ")))


def snapshot(
    runtime: Runtime | None = None, *, timeout: float = 1.0, stack_limit: int | None = None
) -> Snapshot:
    """Look at all fibers of a runtime, by default the one of the caller's fiber.

    Each loop thread is looked at by itself, between two fibers; a caller on another thread (which
    has to name the runtime) waits for that ``timeout`` seconds.  A thread that does not answer,
    because a fiber computes or blocks it, is read from outside: its fibers may change meanwhile,
    and on a free-threaded Python only their names and states can be had; ``notes`` say so.
    ``stack_limit``: at most so many frames of each stack, innermost ones.

    A runtime that does not run has no fibers.  RuntimeError outside a fiber without ``runtime``.
    Never switches: inside a runtime of several threads the caller's thread waits for the others.
    Signal handlers may call it.
    """
    return take_snapshot(runtime or current_runtime(), timeout, stack_limit, lambda: False)


def take_snapshot(
    runtime: Runtime, timeout: float, stack_limit: int | None, given_up: Callable[[], bool]
) -> Snapshot:
    """As `snapshot`; waits no longer once ``given_up()``."""
    schedulers = [one for one in schedulers_of(runtime) if _core.is_running(one)]
    answers = [_Answer(scheduler, stack_limit, given_up) for scheduler in schedulers]
    deadline = time.monotonic() + timeout
    found: dict[int, Fiber] = {}  # by id: a new task may change its thread meanwhile
    notes = []
    for answer in answers:
        some, note = answer.get(deadline)
        found.update((fiber.id, fiber) for fiber in some)
        if note:
            notes.append(note)
    fibers = [found[ident] for ident in sorted(found)]
    return Snapshot(fibers, [_counters(one) for one in schedulers], notes)


def fibers(runtime: Runtime | None = None, *, timeout: float = 1.0) -> list[Fiber]:
    """Every task that has not ended, oldest first; see `snapshot`."""
    return snapshot(runtime, timeout=timeout).fibers


def tree(runtime: Runtime | None = None, *, timeout: float = 1.0) -> list[Node]:
    """The tree of tasks, groups and scopes: the tasks that belong to no group; see `snapshot`."""
    return snapshot(runtime, timeout=timeout).tree()


def print_tree(
    runtime: Runtime | None = None, *, file: TextIO | None = None, stacks: bool = False
) -> None:
    """Print that tree, by default to sys.stderr; with ``stacks`` also counters and all stacks."""
    print(snapshot(runtime).format(stacks=stacks), end="", file=file or sys.stderr)


def statistics(runtime: Runtime | None = None) -> list[dict[str, Any]]:
    """The counters of each loop thread.  Neither a switch nor a cancellation point."""
    return [_counters(one) for one in schedulers_of(runtime or current_runtime())]


def schedulers_of(runtime: Runtime) -> list[Scheduler]:
    """Those of its loop threads."""
    return list(runtime._crew.schedulers)


def _counters(scheduler: Scheduler) -> dict[str, Any]:
    return {"ident": _core.thread_ident(scheduler), **scheduler.statistics()}


# ---- asking a loop thread ----

class _Answer:
    """The fibers of one loop thread, asked for at once and waited for in `get`."""

    def __init__(
        self, scheduler: Scheduler, stack_limit: int | None, given_up: Callable[[], bool]
    ) -> None:
        self._scheduler = scheduler
        self._stack_limit = stack_limit
        self._given_up = given_up
        self._found: list[Fiber] | None = None
        self._failure: BaseException | None = None
        self._wanted = True
        self._done = threading.Event()
        if _core.is_own_thread(scheduler):
            self._look()
        else:
            _core.call_in_loop(scheduler, self._look)

    def _look(self) -> None:
        if self._wanted:
            try:
                self._found = _look(self._scheduler, self._stack_limit)
            except BaseException as exc:
                self._failure = exc
        self._done.set()

    def get(self, deadline: float) -> tuple[list[Fiber], str | None]:
        left = deadline - time.monotonic()
        while not self._done.wait(min(_PATIENCE, max(0.0, left))):
            left = deadline - time.monotonic()
            if left <= 0 or self._given_up() or not _core.is_running(self._scheduler):
                break
        self._wanted = False
        if self._failure is not None:
            raise self._failure
        if self._found is not None:
            return self._found, None
        if not _core.is_running(self._scheduler):
            return [], None
        return _look_from_outside(self._scheduler, self._stack_limit)


def _look(scheduler: Scheduler, stack_limit: int | None) -> list[Fiber]:
    ident = _core.thread_ident(scheduler)
    return [_fiber_of(task, ident, stack_limit) for task in _core.tasks_of(scheduler)]


def _look_from_outside(
    scheduler: Scheduler, stack_limit: int | None
) -> tuple[list[Fiber], str | None]:
    who = f"loop thread {_core.thread_ident(scheduler)} did not answer"
    if _has_gil():
        return _look(scheduler, stack_limit), (
            f"{who}: a fiber keeps it.  Read from outside, piece by piece")
    found = [_name_and_state(task, scheduler, stack_limit) for task in _tasks_anywhere(scheduler)]
    return found, (
        f"{who}: a fiber keeps it.  Names and states alone can be read from outside, and the stack "
        "of the fiber that runs")


def _tasks_anywhere(scheduler: Scheduler) -> list[Task[Any]]:
    # The thread may change now whatever leads to its tasks; this search stops it, and all others.
    tasks = [one for one in gc.get_objects() if type(one) is Task]
    return [task for task in tasks if _core.belongs_to(task, scheduler)]


def running_fiber(scheduler: Scheduler) -> tuple[Fiber | None, traceback.StackSummary]:
    """The fiber that keeps the thread now, and the thread's stack; from any thread.

    No fiber while the thread is busy with something else.
    """
    tasks = _core.tasks_of(scheduler) if _has_gil() else _tasks_anywhere(scheduler)
    for task in tasks:
        if _core.state_of(task) == "running" and _core.is_current(task):
            fiber = _name_and_state(task, scheduler, None)
            return fiber, fiber.stack
    return None, _stack_of(sys._current_frames().get(_core.thread_ident(scheduler)), None)


def _has_gil() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def _fiber_of(task: Task[Any], ident: int, stack_limit: int | None) -> Fiber:
    scopes = _core.scopes_of(task)
    facts = _core.wait_of(task)
    return Fiber(
        task=task,
        name=task.name,
        id=task.id,
        state=_core.state_of(task),
        wait=None if facts is None else _wait_from(facts),
        cancelled=_core.is_cancelled(task),
        stack=_stack_of(_frame_of(task), stack_limit),
        scopes=tuple(_scope_from(is_group, facts) for _, is_group, facts in scopes),
        thread=ident,
        _parent=id(_core.parent_of(task)),
        _scope_ids=tuple(id(scope) for scope, _, _ in scopes),
    )


def _name_and_state(task: Task[Any], scheduler: Scheduler, stack_limit: int | None) -> Fiber:
    ident = _core.thread_ident(scheduler)
    state = _core.state_of(task)
    frame = sys._current_frames().get(ident) if state == "running" else None
    return Fiber(task, task.name, task.id, state, None, False, _stack_of(frame, stack_limit), (),
                 ident, 0, ())


def _wait_from(facts: dict[str, Any]) -> Wait:
    for name in ("holders", "any_of"):
        facts[name] = tuple(task for task in facts.get(name, ()) if task is not None)
    return Wait(**facts)


def _scope_from(is_group: bool, facts: dict[str, Any]) -> Scope:
    deadline = facts.pop("seconds_left")
    return Scope(kind="group" if is_group else "scope", deadline=deadline, **facts)


def _frame_of(task: Task[Any]) -> FrameType | None:
    frame = _core.innermost_frame(task)
    while frame is not None and frame.f_globals.get("__name__") in _OWN_MODULES:
        frame = frame.f_back
    return frame


def _stack_of(frame: FrameType | None, limit: int | None) -> traceback.StackSummary:
    if frame is None or limit == 0:
        return traceback.StackSummary()
    # Lines are looked up when they are printed, not on the loop's time.
    frames = _first(traceback.walk_stack(frame), limit)
    stack = traceback.StackSummary.extract(frames, lookup_lines=False)
    stack.reverse()
    return stack


def _first(frames: Iterator[Any], limit: int | None) -> Iterator[Any]:
    for count, frame in enumerate(frames):
        if limit is not None and count >= limit:
            return
        yield frame


def _is_own_file(filename: str) -> bool:
    return filename.startswith(_OWN_FOLDER)


_OWN_FOLDER = __file__.rpartition("/")[0] + "/"
