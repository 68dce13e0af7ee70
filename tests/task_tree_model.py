"""Programs of tasks, groups and scopes, and a simple model that says how each ends.

A program is a tree of statements.  Time is logical: at tick 1, 2, 3 … the driver cancels what the
program has planned for it, lets those go on that wait for the tick, and waits until every task is
parked or has ended.  What several tasks do within a tick has no order, so the model is run in many
orders; a program whose outcome is the same in all of them is determined.  With several threads
there are more orders: then others may go on between any two statements of a task.

The model knows nothing of fibers: tasks are generators, scopes form a tree, and a cancellation
point raises inside a cancelled scope, as long as the task is in there.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

TICKS = 12


# ---- programs ----

@dataclass(frozen=True)
class Wait:
    """Until a tick; a cancellation point, also when that is over."""

    tick: int


@dataclass(frozen=True)
class Point:
    """A cancellation point that does not wait."""


@dataclass(frozen=True)
class Fail:
    number: int


@dataclass(frozen=True)
class Cancel:
    """Cancel a scope, group or task by its name, if it has begun."""

    name: str


@dataclass(frozen=True)
class Scope:
    name: str
    body: tuple[Any, ...]
    shield: bool = False
    fails: bool = False  # TimeoutError when it caught a cancellation: fail_after


@dataclass(frozen=True)
class Group:
    name: str
    members: tuple[tuple[str, tuple[Any, ...]], ...]  # the name and body of each
    body: tuple[Any, ...]
    limit: int | None = None


@dataclass(frozen=True)
class Spawn:
    """Spawn a task into a group around this statement: the task's own, or one further out."""

    group: str
    name: str
    body: tuple[Any, ...]


@dataclass(frozen=True)
class Await:
    """``wait()`` of a group that this task has opened around this statement."""

    group: str


@dataclass(frozen=True)
class Catch:
    """``except Exception``, or ``except Cancelled``, around a body."""

    body: tuple[Any, ...]
    cancellation: bool


@dataclass(frozen=True)
class Finally:
    body: tuple[Any, ...]
    cleanup: tuple[Any, ...]


@dataclass(frozen=True)
class Program:
    body: tuple[Any, ...]
    cancels: dict[int, tuple[str, ...]]  # by tick
    deadlines: dict[int, tuple[str, ...]]  # scopes whose deadline is then


class Maker:
    """Makes a random program."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.names = {kind: itertools.count(1) for kind in ("scope", "group", "task")}
        self.made: list[str] = []
        self.numbers = itertools.count(1)
        self.budget = self.random.randrange(4, 30)

    def program(self) -> Program:
        body = self.body(0, {})
        planned: dict[str, dict[int, tuple[str, ...]]] = {"cancels": {}, "deadlines": {}}
        for name in self.made:
            if self.random.random() < 0.35:
                is_scope = name.startswith("scope")
                kind = "deadlines" if is_scope and self.random.random() < 0.5 else "cancels"
                tick = self.random.randrange(1, TICKS + 1)
                planned[kind][tick] = (*planned[kind].get(tick, ()), name)
        return Program(body, planned["cancels"], planned["deadlines"])

    def name(self, kind: str) -> str:
        name = f"{kind} {next(self.names[kind])}"
        self.made.append(name)
        return name

    # `groups` are those around, and whether it is this task that opens them.

    def body(self, depth: int, groups: dict[str, bool]) -> tuple[Any, ...]:
        return tuple(self.statement(depth, groups) for _ in range(self.random.randrange(1, 4)))

    def statement(self, depth: int, groups: dict[str, bool]) -> Any:
        self.budget -= 1
        simple = depth >= 5 or self.budget <= 0
        own = [name for name, is_own in groups.items() if is_own]
        kind = self.random.choices(
            ["wait", "point", "fail", "cancel", "await",
             "scope", "group", "catch", "finally", "spawn"],
            [6, 2, 1, 1, 2 * bool(own), *((0,) * 5 if simple else (5, 4, 2, 2, 2 * bool(groups)))],
        )[0]
        if kind == "wait":
            return Wait(self.random.randrange(1, TICKS + 1))
        if kind == "point":
            return Point()
        if kind == "fail":
            return Fail(next(self.numbers))
        if kind == "cancel":
            return Cancel(self.random.choice(self.made)) if self.made else Point()
        if kind == "await":
            return Await(self.random.choice(own))
        if kind == "scope":
            return Scope(
                self.name("scope"), self.body(depth + 1, groups),
                shield=self.random.random() < 0.3, fails=self.random.random() < 0.2,
            )
        if kind == "group":
            return self.group(depth, groups)
        if kind == "spawn":
            # It ends within that group, maybe after those further in.
            around = list(groups)[: self.random.randrange(len(groups)) + 1]
            body = self.body(depth + 1, dict.fromkeys(around, False))
            return Spawn(around[-1], self.name("task"), body)
        if kind == "catch":
            return Catch(self.body(depth + 1, groups), cancellation=self.random.random() < 0.5)
        return Finally(self.body(depth + 1, groups), self.body(depth + 1, groups))

    def group(self, depth: int, groups: dict[str, bool]) -> Group:
        name = self.name("group")
        inside = dict.fromkeys([*groups, name], False)
        members = tuple(
            (self.name("task"), self.body(depth + 1, inside))
            for _ in range(self.random.randrange(4))
        )
        limit = self.random.choice([None, None, 1, 2])
        return Group(name, members, self.body(depth + 1, {**groups, name: True}), limit)


# ---- outcomes ----

class Boom(Exception):
    """What a `Fail` raises."""


FAILURES = (Boom, TimeoutError, ExceptionGroup)


def described(exc: BaseException | None) -> Any:
    """An exception as a value that is the same for every order of what happens at once."""
    if isinstance(exc, BaseExceptionGroup):
        return ("group", *sorted(map(repr, map(described, exc.exceptions))))
    return None if exc is None else (type(exc).__name__.lstrip("_"), *map(str, exc.args[:1]))


@dataclass
class Record:
    """What a task has done, and how it ended."""

    done: list[str] = field(default_factory=list)
    end: Any = "unfinished"


def outcome(records: dict[str, Record]) -> Any:
    """All there is to compare."""
    return tuple(
        (name, tuple(record.done), record.end) for name, record in sorted(records.items())
    )


# ---- the model ----

class Cancelled(BaseException):
    """Of the model."""


class ModelScope:
    def __init__(self, parent: ModelScope | None, shield: bool = False) -> None:
        self.parent = parent
        self.shield = shield
        self.cancel_called = False

    def is_cancelled(self) -> bool:
        return self.cancel_called or self.from_outside()

    def from_outside(self) -> bool:
        return not self.shield and self.parent is not None and self.parent.is_cancelled()


class ModelGroup(ModelScope):
    def __init__(self, owner: ModelTask, limit: int | None) -> None:
        super().__init__(owner.scope)
        self.owner = owner
        self.members: set[ModelTask] = set()
        self.errors: list[BaseException] = []
        self.limit = limit
        self.started = 0
        self.queue: list[ModelTask] = []  # members that have not started, and the owner


@dataclass
class Emptied:
    """What an owner waits for: that its group has no member."""

    group: ModelGroup
    cancellable: bool


@dataclass
class Room:
    """What an owner waits for: that another member may start."""

    group: ModelGroup


class Turn:
    """What a member in a group's queue waits for."""


class ModelTask:
    def __init__(self, name: str, group: ModelGroup | None, work: Any) -> None:
        self.name = name
        self.group = group
        self.scope = ModelScope(group)
        self.root = self.scope
        self.work: Generator[Any, None, None] = work(self)
        # A tick, one of the classes above, or nothing: it is ready.
        self.waits_for: Any = None


class Model:
    """Runs a program in one order; what `change` names works otherwise than it should."""

    def __init__(
        self, program: Program, order: random.Random, change: str = "", *, threads: bool = False
    ) -> None:
        self.program = program
        self.order = order
        self.change = change
        self.threads = threads
        self.tick = 0
        self.scopes: dict[str, ModelScope] = {}
        self.tasks: list[ModelTask] = []
        self.ready: list[tuple[ModelTask, bool]] = []  # whether it was waked by a cancellation
        self.records: dict[str, Record] = {}
        self.told: set[ModelTask] = set()  # for the change that tells of a cancellation once

    def run(self) -> Any:
        self.records["top"] = Record()
        self.scopes["top"] = self.start("top", None, self.program.body).root
        self.settle()
        for tick in range(1, TICKS + 1):
            for plan in self.program.cancels, self.program.deadlines:
                for name in plan.get(tick, ()):
                    self.cancel(name)
                    self.go_on_meanwhile()
            # Who is cancelled now hears that, also if it waits for this very tick.
            self.notice()
            if self.threads:
                self.settle()  # the driver waits here too, until every thread has heard
            self.tick = tick
            self.settle()
        return outcome(self.records)

    def go_on_meanwhile(self) -> None:
        """With several threads the tasks go on between two steps of the driver."""
        while self.threads and self.order.random() < 0.9 and self.notice():
            self.step(*self.ready.pop(self.order.randrange(len(self.ready))))

    def start(self, name: str, group: ModelGroup | None, body: tuple[Any, ...]) -> ModelTask:
        task = ModelTask(name, group, lambda task: self.work(task, body))
        self.tasks.append(task)
        if group is not None:
            group.members.add(task)
        return task

    def cancel(self, name: str) -> None:
        if name in self.scopes:
            self.scopes[name].cancel_called = True

    def is_to_be_cancelled(self, task: ModelTask) -> bool:
        wait = task.waits_for
        if isinstance(wait, Room) and self.change == "the wait for room is no point":
            return False
        interruptible = isinstance(wait, (int, Room)) or (
            isinstance(wait, Emptied) and wait.cancellable
        )
        return interruptible and self.raises(task)

    def raises(self, task: ModelTask) -> bool:
        if self.change == "told once" and task in self.told:
            return False
        return task.scope.is_cancelled()

    def is_over(self, wait: Any) -> bool:
        if isinstance(wait, int):
            return wait <= self.tick
        return wait is None or (isinstance(wait, Emptied) and not wait.group.members)

    def notice(self, *, late: bool = False) -> bool:
        """What a task finds when it wakes is decided now: by what it waits for or by a
        cancellation, whichever came first.  Whether any task is ready.
        """
        waked = {task for task, _ in self.ready}
        for task in self.tasks:
            if task in waked:
                continue
            if self.is_over(task.waits_for):
                self.ready.append((task, False))
            elif self.is_to_be_cancelled(task) and not (self.is_on_its_way(task) and not late):
                if isinstance(task.waits_for, Room):
                    task.waits_for.group.queue.remove(task)
                self.ready.append((task, True))
        return bool(self.ready)

    def is_on_its_way(self, task: ModelTask) -> bool:
        """Whether a cancellation has not reached the task's thread; room may come before it."""
        return self.threads and isinstance(task.waits_for, Room) and self.order.random() < 0.5

    def settle(self) -> None:
        while self.notice() or self.notice(late=True):
            self.step(*self.ready.pop(self.order.randrange(len(self.ready))))

    def step(self, task: ModelTask, is_cancelled: bool) -> None:
        try:
            if is_cancelled:
                self.told.add(task)
                task.waits_for = task.work.throw(Cancelled())
            else:
                task.waits_for = next(task.work)
            return
        except StopIteration:
            self.end(task, "returned")
        except Cancelled:
            self.end(task, "cancelled")
        except Exception as exc:
            self.end(task, described(exc), exc)

    def end(self, task: ModelTask, how: Any, failure: Exception | None = None) -> None:
        self.records[task.name].end = how
        self.tasks.remove(task)
        group = task.group
        if group is None:
            return
        if failure is not None:
            group.errors.append(failure)
            if self.change != "siblings go on":
                group.cancel_called = True
        self.notice()  # of the cancellation, before there is room
        self.give_room(group)
        group.members.discard(task)

    def give_room(self, group: ModelGroup) -> None:
        if not group.queue:
            group.started -= 1
        else:
            last = self.change == "the last in the queue starts first"
            group.queue.pop(-1 if last else 0).waits_for = None

    # -- statements --

    def work(self, task: ModelTask, body: tuple[Any, ...]) -> Generator[Any, None, None]:
        if self.change == "cancelled before the start never runs" and self.raises(task):
            raise Cancelled
        yield from self.each(task, body)

    def each(self, task: ModelTask, body: tuple[Any, ...]) -> Generator[Any, None, None]:
        for statement in body:
            yield from self.let_others_run()
            yield from getattr(self, f"do_{type(statement).__name__.lower()}")(task, statement)
            self.records[task.name].done.append(mark(statement))

    def let_others_run(self) -> Generator[Any, None, None]:
        """With several threads others run at any time, not only when this task waits."""
        if self.threads and self.order.random() < 0.5:
            yield None

    def do_point(self, task: ModelTask, _: Any = None) -> Generator[Any, None, None]:
        if self.raises(task):
            self.told.add(task)
            raise Cancelled
        yield from ()

    def do_wait(self, task: ModelTask, statement: Wait) -> Generator[Any, None, None]:
        yield from self.do_point(task)
        if statement.tick > self.tick:
            yield statement.tick
        elif self.order.random() < 0.2:
            yield None  # a call that need not wait lets others run now and then

    def do_cancel(self, task: ModelTask, statement: Cancel) -> Generator[Any, None, None]:
        self.cancel(statement.name)
        yield from ()

    def do_fail(self, task: ModelTask, statement: Fail) -> Generator[Any, None, None]:
        raise Boom(statement.number)
        yield

    def do_scope(self, task: ModelTask, statement: Scope) -> Generator[Any, None, None]:
        scope = ModelScope(task.scope, statement.shield and self.change != "no shields")
        self.scopes[statement.name] = task.scope = scope
        caught = False
        try:
            yield from self.each(task, statement.body)
        except Cancelled:
            yield from self.let_others_run()
            caught = self.catches(scope)
            if not caught:
                raise
        finally:
            task.scope = scope.parent or task.scope
        if caught and statement.fails:
            raise TimeoutError

    def catches(self, scope: ModelScope) -> bool:
        if self.change == "the inner scope catches what comes from outside":
            return scope.is_cancelled()
        return scope.is_cancelled() and not scope.from_outside()

    def do_group(self, task: ModelTask, statement: Group) -> Generator[Any, None, None]:
        group = ModelGroup(task, statement.limit if self.change != "no limit" else None)
        self.scopes[statement.name] = task.scope = group
        error: BaseException | None = None
        try:
            for name, body in statement.members:
                yield from self.spawn(task, group, name, body)
            yield from self.each(task, statement.body)
        except (Exception, Cancelled) as exc:
            error = exc
            group.cancel_called = True
        yield from self.let_others_run()
        waits = bool(group.members)
        if waits and self.change != "leaving a group waits for nobody":
            yield Emptied(group, cancellable=False)
            yield from self.let_others_run()
        task.scope = group.parent or task.scope
        failures = [*group.errors]
        if isinstance(error, Exception):
            failures.append(error)
        if failures:
            raise ExceptionGroup("", failures)  # type: ignore[type-var]
        if isinstance(error, Cancelled) and not self.catches(group):
            raise error
        if waits and error is None and self.change != "no point after a group":
            yield from self.do_point(task)

    def do_spawn(self, task: ModelTask, statement: Spawn) -> Generator[Any, None, None]:
        group = self.scopes[statement.group]
        assert isinstance(group, ModelGroup)
        yield from self.spawn(task, group, statement.name, statement.body)

    def spawn(
        self, task: ModelTask, group: ModelGroup, name: str, body: tuple[Any, ...]
    ) -> Generator[Any, None, None]:
        self.records[name] = Record()
        if task is group.owner:
            yield from self.find_room(task, group)
        member = self.start(name, group, body)
        if task is not group.owner:
            if group.limit is None or group.started < group.limit:
                group.started += 1
            else:
                group.queue.append(member)
                member.waits_for = Turn()
        yield from self.let_others_run()
        self.scopes[name] = member.root

    def find_room(self, task: ModelTask, group: ModelGroup) -> Generator[Any, None, None]:
        if group.limit is None or group.started < group.limit:
            group.started += 1
            return
        if self.change != "the wait for room is no point":
            yield from self.do_point(task)
        group.queue.append(task)
        yield Room(group)

    def do_await(self, task: ModelTask, statement: Await) -> Generator[Any, None, None]:
        group = self.scopes[statement.group]
        assert isinstance(group, ModelGroup)
        is_point = self.change != "wait() is no point"
        while group.members and self.change != "wait() waits for nobody":
            if is_point and self.raises(task) and not group.is_cancelled():
                raise Cancelled
            try:
                yield Emptied(group, is_point and not group.is_cancelled())
            except Cancelled:
                continue  # and look again
        if is_point:
            yield from self.do_point(task)

    def do_catch(self, task: ModelTask, statement: Catch) -> Generator[Any, None, None]:
        try:
            yield from self.each(task, statement.body)
        except Cancelled:
            if not statement.cancellation:
                raise
            self.records[task.name].done.append("swallowed")
        except FAILURES as exc:
            if statement.cancellation:
                raise
            self.records[task.name].done.append(f"caught {described(exc)}")

    def do_finally(self, task: ModelTask, statement: Finally) -> Generator[Any, None, None]:
        try:
            yield from self.each(task, statement.body)
        finally:
            yield from self.each(task, statement.cleanup)


def mark(statement: Any) -> str:
    """What is recorded of a statement that was done to its end."""
    if isinstance(statement, (Scope, Group, Cancel, Spawn)):
        return f"{type(statement).__name__} {statement.name}"
    return f"Wait {statement.tick}" if isinstance(statement, Wait) else type(statement).__name__


def outcomes(
    program: Program, orders: int, change: str = "", *, threads: bool = False
) -> set[Any]:
    """What the model says in so many orders."""
    return {
        Model(program, random.Random(order), change, threads=threads).run()
        for order in range(orders)
    }


CHANGES = (
    "told once", "no shields", "siblings go on", "cancelled before the start never runs",
    "the inner scope catches what comes from outside", "leaving a group waits for nobody",
    "no point after a group", "no limit", "the last in the queue starts first",
    "the wait for room is no point", "wait() waits for nobody", "wait() is no point",
)
