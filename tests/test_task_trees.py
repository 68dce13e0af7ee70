"""Random programs of nested groups, scopes, failures and cancellations end as the model says.

FERRULE_SOAK=long runs for a minute; FERRULE_TREES_SEED=… runs the program of that seed instead.
"""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

import ferrule
import task_tree_model as model
from net_support import Run, statistics
from task_tree_model import Boom, Maker, Program, Record, described, mark, outcome, outcomes

LONG = os.environ.get("FERRULE_SOAK") == "long"
SECONDS = 60 if LONG else 4
SEED = os.environ.get("FERRULE_TREES_SEED")
ORDERS = 6
MANY_ORDERS = 2000


class Real:
    """Runs a program in the runtime; the statements are what `model.Model` has, with real ones."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.events = [ferrule.Event() for _ in range(model.TICKS + 1)]
        self.scopes: dict[str, Any] = {}
        self.records: dict[str, Record] = {}

    def run(self) -> Any:
        self.records["top"] = Record()
        top = self.scopes["top"] = ferrule.spawn(self.task, "top", self.program.body)
        settle()
        for tick in range(1, model.TICKS + 1):
            for name in self.program.cancels.get(tick, ()):
                self.cancel(name)
            for name in self.program.deadlines.get(tick, ()):
                if name in self.scopes:
                    self.scopes[name].deadline = ferrule.now()
            self.events[tick].set()
            settle()
        top.join(10)
        return outcome(self.records)

    def task(self, name: str, body: tuple[Any, ...]) -> None:
        record = self.records[name]
        try:
            self.each(name, body)
        except ferrule.Cancelled:
            record.end = "cancelled"
            raise
        except Exception as exc:
            record.end = described(exc)
            if name != "top":
                raise
        else:
            record.end = "returned"

    def each(self, task: str, body: tuple[Any, ...]) -> None:
        for statement in body:
            getattr(self, f"do_{type(statement).__name__.lower()}")(task, statement)
            self.records[task].done.append(mark(statement))

    def do_wait(self, task: str, statement: model.Wait) -> None:
        self.events[statement.tick].wait()

    def do_point(self, task: str, statement: model.Point) -> None:
        ferrule.checkpoint()

    def do_fail(self, task: str, statement: model.Fail) -> None:
        raise Boom(statement.number)

    def do_cancel(self, task: str, statement: model.Cancel) -> None:
        self.cancel(statement.name)

    def cancel(self, name: str) -> None:
        if name in self.scopes:
            self.scopes[name].cancel()

    def do_scope(self, task: str, statement: model.Scope) -> None:
        scope = ferrule.CancelScope(shield=statement.shield)
        self.scopes[statement.name] = scope
        with scope:
            self.each(task, statement.body)
        if scope.cancelled_caught and statement.fails:
            raise TimeoutError

    def do_group(self, task: str, statement: model.Group) -> None:
        try:
            with ferrule.TaskGroup() as group:
                self.scopes[statement.name] = group
                for name, body in statement.members:
                    self.records[name] = Record()
                    self.scopes[name] = group.spawn(self.task, name, body)
                self.each(task, statement.body)
        finally:
            del self.scopes[statement.name]  # cancelling what is not open is an error

    def do_catch(self, task: str, statement: model.Catch) -> None:
        try:
            self.each(task, statement.body)
        except ferrule.Cancelled:
            if not statement.cancellation:
                raise
            self.records[task].done.append("swallowed")
        except model.FAILURES as exc:
            if statement.cancellation:
                raise
            self.records[task].done.append(f"caught {described(exc)}")

    def do_finally(self, task: str, statement: model.Finally) -> None:
        try:
            self.each(task, statement.body)
        finally:
            self.each(task, statement.cleanup)


def settle() -> None:
    """Until every other fiber is parked or has ended: then a yield switches to nobody."""
    switches = -1
    while switches != (switches := statistics()["switches"]):
        ferrule.yield_now()


def is_as_the_model_says(program: Program, real: Any) -> bool:
    # What happens within a tick has no order; a few orders may not be all that there are.
    return real in outcomes(program, ORDERS) or real in outcomes(program, MANY_ORDERS)


def seeds() -> Any:
    if SEED is not None:
        yield int(SEED)
        return
    seed = time.time_ns() % 1_000_000_007
    print(f"from seed {seed} on")
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        yield seed
        seed += 1


def test_task_trees_end_as_the_model_says_soak(run: Run) -> None:
    determined = total = 0

    def main() -> None:
        nonlocal determined, total
        for seed in seeds():
            program = Maker(seed).program()
            real = Real(program).run()
            total += 1
            determined += len(outcomes(program, ORDERS)) == 1
            assert is_as_the_model_says(program, real), (
                f"repeat with FERRULE_TREES_SEED={seed}\n{program}\nreal: {real}\n"
                f"model: {outcomes(program, ORDERS)}"
            )

    run(main)
    print(f"{total} programs, {determined} of them determined")
    assert SEED or determined >= 0.6 * total, "the model says too little"


@pytest.mark.parametrize("change", model.CHANGES)
def test_the_model_notices_a_scheduler_that_works_otherwise(run: Run, change: str) -> None:
    def main() -> int:
        for seed in range(3000):
            program = Maker(seed).program()
            real = Real(program).run()
            if outcomes(program, MANY_ORDERS // 10) != {real}:
                continue  # not determined
            if real not in outcomes(program, ORDERS, change):
                return seed
        raise AssertionError("nobody noticed")

    print("noticed with seed", run(main))
