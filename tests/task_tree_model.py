"""Programs of tasks, groups and scopes, and a simple model that says how each ends.

A program is a tree of statements.  Time is logical: at tick 1, 2, 3 … the driver cancels what the
program has planned for it, lets those go on that wait for the tick, and waits until every task is
parked or has ended.  What several tasks do within a tick has no order, so the model is run in many
orders; a program whose outcome is the same in all of them is determined.

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
        body = self.body(0)
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

    def body(self, depth: int) -> tuple[Any, ...]:
        return tuple(self.statement(depth) for _ in range(self.random.randrange(1, 4)))

    def statement(self, depth: int) -> Any:
        self.budget -= 1
        simple = depth >= 5 or self.budget <= 0
        kind = self.random.choices(
            ["wait", "point", "fail", "cancel", "scope", "group", "catch", "finally"],
            [6, 2, 1, 1, *((0, 0, 0, 0) if simple else (5, 4, 2, 2))],
        )[0]
        if kind == "wait":
            return Wait(self.random.randrange(1, TICKS + 1))
        if kind == "point":
            return Point()
        if kind == "fail":
            return Fail(next(self.numbers))
        if kind == "cancel":
            return Cancel(self.random.choice(self.made)) if self.made else Point()
        if kind == "scope":
            return Scope(
                self.name("scope"), self.body(depth + 1),
                shield=self.random.random() < 0.3, fails=self.random.random() < 0.2,
            )
        if kind == "group":
            members = tuple(
                (self.name("task"), self.body(depth + 1)) for _ in range(self.random.randrange(4))
            )
            return Group(self.name("group"), members, self.body(depth + 1))
        if kind == "catch":
            return Catch(self.body(depth + 1), cancellation=self.random.random() < 0.5)
        return Finally(self.body(depth + 1), self.body(depth + 1))


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
    def __init__(self, parent: ModelScope) -> None:
        super().__init__(parent)
        self.members: set[ModelTask] = set()
        self.errors: list[BaseException] = []


class ModelTask:
    def __init__(self, name: str, group: ModelGroup | None, work: Any) -> None:
        self.name = name
        self.group = group
        self.scope = ModelScope(group)
        self.root = self.scope
        self.work: Generator[Any, None, None] = work(self)
        # A tick, a group whose members are to end, or nothing: it is ready.
        self.waits_for: Any = None


class Model:
    """Runs a program in one order; what `change` names works otherwise than it should."""

    def __init__(self, program: Program, order: random.Random, change: str = "") -> None:
        self.program = program
        self.order = order
        self.change = change
        self.tick = 0
        self.scopes: dict[str, ModelScope] = {}
        self.tasks: list[ModelTask] = []
        self.records: dict[str, Record] = {}
        self.told: set[ModelTask] = set()  # for the change that tells of a cancellation once

    def run(self) -> Any:
        self.start("top", None, self.program.body)
        self.settle()
        for self.tick in range(1, TICKS + 1):
            for plan in self.program.cancels, self.program.deadlines:
                for name in plan.get(self.tick, ()):
                    self.cancel(name)
            # Who is cancelled now hears that, also if it waits for this very tick.
            heard = {task for task in self.tasks if self.is_to_be_cancelled(task)}
            self.settle(heard)
        return outcome(self.records)

    def start(self, name: str, group: ModelGroup | None, body: tuple[Any, ...]) -> None:
        task = ModelTask(name, group, lambda task: self.work(task, body))
        self.scopes[name] = task.root
        self.records[name] = Record()
        self.tasks.append(task)
        if group is not None:
            group.members.add(task)

    def cancel(self, name: str) -> None:
        if name in self.scopes:
            self.scopes[name].cancel_called = True

    def is_to_be_cancelled(self, task: ModelTask) -> bool:
        return isinstance(task.waits_for, int) and self.raises(task)

    def raises(self, task: ModelTask) -> bool:
        if self.change == "told once" and task in self.told:
            return False
        return task.scope.is_cancelled()

    def settle(self, cancelled: set[ModelTask] | None = None) -> None:
        # What a task finds when it wakes is decided when it is waked: by the tick or by a
        # cancellation, whichever came first.
        ready: list[tuple[ModelTask, bool]] = []
        waked: set[ModelTask] = set()

        def wake_all(first: set[ModelTask]) -> None:
            for task in self.tasks:
                if task in waked:
                    continue
                due = isinstance(task.waits_for, int) and task.waits_for <= self.tick
                if task in first or (not due and self.is_to_be_cancelled(task)):
                    ready.append((task, True))
                elif task.waits_for is None or due or (
                    isinstance(task.waits_for, ModelGroup) and not task.waits_for.members
                ):
                    ready.append((task, False))
                else:
                    continue
                waked.add(task)

        wake_all(cancelled or set())
        while ready:
            task, is_cancelled = ready.pop(self.order.randrange(len(ready)))
            waked.discard(task)
            self.step(task, is_cancelled)
            wake_all(set())

    def step(self, task: ModelTask, is_cancelled: bool) -> None:
        record = self.records[task.name]
        try:
            if is_cancelled:
                self.told.add(task)
                task.waits_for = task.work.throw(Cancelled())
            else:
                task.waits_for = next(task.work)
            return
        except StopIteration:
            record.end = "returned"
        except Cancelled:
            record.end = "cancelled"
        except Exception as exc:
            record.end = described(exc)
            if task.group is not None:
                task.group.errors.append(exc)
                if self.change != "siblings go on":
                    task.group.cancel_called = True
        self.tasks.remove(task)
        if task.group is not None:
            task.group.members.discard(task)

    # -- statements --

    def work(self, task: ModelTask, body: tuple[Any, ...]) -> Generator[Any, None, None]:
        if self.change == "cancelled before the start never runs" and self.raises(task):
            raise Cancelled
        yield from self.each(task, body)

    def each(self, task: ModelTask, body: tuple[Any, ...]) -> Generator[Any, None, None]:
        for statement in body:
            yield from getattr(self, f"do_{type(statement).__name__.lower()}")(task, statement)
            self.records[task.name].done.append(mark(statement))

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
        group = ModelGroup(task.scope)
        self.scopes[statement.name] = task.scope = group
        error: BaseException | None = None
        try:
            for name, body in statement.members:
                self.start(name, group, body)
            yield from self.each(task, statement.body)
        except (Exception, Cancelled) as exc:
            error = exc
            group.cancel_called = True
        waits = bool(group.members)
        if waits and self.change != "leaving a group waits for nobody":
            yield group
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
    if isinstance(statement, (Scope, Group, Cancel)):
        return f"{type(statement).__name__} {statement.name}"
    return f"Wait {statement.tick}" if isinstance(statement, Wait) else type(statement).__name__


def outcomes(program: Program, orders: int, change: str = "") -> set[Any]:
    """What the model says in so many orders."""
    return {Model(program, random.Random(order), change).run() for order in range(orders)}


CHANGES = (
    "told once", "no shields", "siblings go on", "cancelled before the start never runs",
    "the inner scope catches what comes from outside", "leaving a group waits for nobody",
    "no point after a group",
)
