"""Task groups: waiting, failures, cancellation from both sides, and being closed.

With ``threads=1`` run those that depend on what runs before what.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
from ferrule import Cancelled, Event, TaskGroup

Run = Callable[..., Any]


class Boom(Exception):
    pass


def fail(text: str = "boom") -> None:
    raise Boom(text)


def forever() -> None:
    Event().wait()


def test_leaving_waits_for_all_members(run: Run) -> None:
    def main() -> None:
        ended = []
        with TaskGroup() as group:
            for seconds in (0.02, 0.01, 0):
                group.spawn(lambda s: (ferrule.sleep(s), ended.append(s)), seconds)
        assert ended == [0, 0.01, 0.02]

    run(main)


def test_an_empty_group_is_left_at_once(run: Run) -> None:
    def main() -> None:
        with TaskGroup():
            pass

    run(main)


def test_members_return_results_through_their_tasks(run: Run) -> None:
    def main() -> None:
        with TaskGroup() as group:
            tasks = [group.spawn(pow, n, 2, name=f"square of {n}") for n in range(3)]
        assert [task.result() for task in tasks] == [0, 1, 4]
        assert tasks[2].name == "square of 2"

    run(main)


def test_a_failure_cancels_the_others_and_comes_out_as_a_group(run: Run) -> None:
    def main() -> None:
        cleaned = []

        def sibling() -> None:
            try:
                forever()
            finally:
                cleaned.append(True)

        with pytest.raises(ExceptionGroup) as info, TaskGroup() as group:
            siblings = [group.spawn(sibling) for _ in range(3)]
            ferrule.sleep(0)
            group.spawn(fail)
        assert [str(exc) for exc in info.value.exceptions] == ["boom"]
        assert len(cleaned) == 3
        assert all(task.cancelled() for task in siblings)

    run(main)


def test_a_failure_cancels_the_body(run: Run) -> None:
    def main() -> None:
        with pytest.raises(ExceptionGroup), TaskGroup() as group:
            group.spawn(fail)
            ferrule.sleep(100)

    run(main)


def test_all_failures_come_out_together_the_bodys_last(run: Run) -> None:
    def main() -> None:
        with pytest.raises(ExceptionGroup) as info, TaskGroup() as group:
            group.spawn(fail, "first")
            group.spawn(fail, "second")
            raise Boom("body")
        *members, body = map(str, info.value.exceptions)
        assert (sorted(members), body) == (["first", "second"], "body")

    run(main)


def test_failures_can_be_taken_apart_by_type(run: Run) -> None:
    def main() -> None:
        caught = []
        try:
            with TaskGroup() as group:
                group.spawn(fail)
                group.spawn(lambda: {}["missing"])
        except* Boom as boom:
            caught += boom.exceptions
        except* KeyError as missing:
            caught += missing.exceptions
        assert [type(exc) for exc in caught] == [Boom, KeyError]

    run(main)


def test_a_failure_of_the_body_cancels_the_members(run: Run) -> None:
    def main() -> None:
        with pytest.raises(ExceptionGroup) as info, TaskGroup() as group:
            member = group.spawn(forever)
            fail("body")
        assert [str(exc) for exc in info.value.exceptions] == ["body"]
        assert member.cancelled()

    run(main)


def test_failures_of_members_are_not_reported_twice(run: Run, unraisable: list[Any]) -> None:
    def main() -> None:
        with pytest.raises(ExceptionGroup), TaskGroup() as group:
            group.spawn(fail)

    run(main)
    assert unraisable == []


def test_cancel_ends_members_and_body_without_an_error(run: Run) -> None:
    def main() -> None:
        with TaskGroup() as group:
            members = [group.spawn(forever) for _ in range(3)]
            group.cancel()
            ferrule.sleep(100)
            pytest.fail("not reached")
        assert all(member.cancelled() for member in members)
        ferrule.checkpoint()

    run(main)


def test_a_cancelled_member_is_no_failure(run: Run) -> None:
    def main() -> None:
        with TaskGroup() as group:
            member = group.spawn(forever)
            other = group.spawn(lambda: "fine")
            ferrule.sleep(0)
            member.cancel()
        assert member.cancelled()
        assert other.result() == "fine"

    run(main)


def test_cancellation_from_outside_reaches_the_members(run: Run) -> None:
    def main() -> None:
        with ferrule.move_on_after(0.01) as scope:
            with TaskGroup() as group:
                members = [group.spawn(forever) for _ in range(3)]
            pytest.fail("not reached")
        assert scope.cancelled_caught
        assert all(member.cancelled() for member in members)

    run(main)


def test_leaving_waits_for_members_that_clean_up_shielded(run: Run) -> None:
    def main() -> None:
        cleaned = []

        def member() -> None:
            try:
                forever()
            finally:
                with ferrule.shield():
                    ferrule.sleep(0.02)
                cleaned.append(True)

        with ferrule.move_on_after(0.01), TaskGroup() as group:
            group.spawn(member)
        assert cleaned == [True]

    run(main)


def test_a_group_opened_in_a_cancelled_scope_has_members_born_cancelled(run: Run) -> None:
    def main() -> None:
        started = []

        def member() -> None:
            started.append(ferrule.cancel_requested())
            forever()

        with ferrule.CancelScope() as scope:
            scope.cancel()
            with TaskGroup() as group:
                task = group.spawn(member)
        assert started == [True]
        assert task.cancelled()

    run(main)


def test_a_group_in_a_shield_is_left_alone(run: Run) -> None:
    def main() -> None:
        with ferrule.CancelScope() as scope:
            scope.cancel()
            with ferrule.shield(), TaskGroup() as group:
                task = group.spawn(lambda: (ferrule.sleep(0.01), "done")[1])
            assert task.result() == "done"

    run(main)


def test_failures_in_a_scope_that_is_cancelled_too_come_out(run: Run) -> None:
    def main() -> None:
        def member() -> None:
            try:
                forever()
            finally:
                fail("cleanup")

        in_time = ferrule.move_on_after(0.01)
        with pytest.raises(ExceptionGroup) as info, in_time, TaskGroup() as group:
            group.spawn(member)
        assert [str(exc) for exc in info.value.exceptions] == ["cleanup"]

    run(main)


def test_groups_nest_and_failures_keep_their_shape(run: Run) -> None:
    def main() -> None:
        def inner() -> None:
            with TaskGroup() as group:
                group.spawn(fail, "inner")

        with pytest.raises(ExceptionGroup) as info, TaskGroup() as group:
            group.spawn(inner)
            group.spawn(forever)
        (nested,) = info.value.exceptions
        assert isinstance(nested, ExceptionGroup)
        assert [str(exc) for exc in nested.exceptions] == ["inner"]

    run(main)


def test_members_may_spawn_more_members_while_the_group_is_being_left(run: Run) -> None:
    def main() -> None:
        ran = []

        def member(depth: int) -> None:
            ferrule.sleep(0.001)
            ran.append(depth)
            if depth:
                group.spawn(member, depth - 1)

        with TaskGroup() as group:
            group.spawn(member, 5)
        assert ran == [5, 4, 3, 2, 1, 0]

    run(main)


def test_a_task_spawned_into_a_cancelled_group_is_born_cancelled(run: Run) -> None:
    def main() -> None:
        with TaskGroup() as group:
            group.cancel()
            late = group.spawn(forever)
        assert late.cancelled()

    run(main)


def test_a_closed_group_takes_no_more_tasks(run: Run) -> None:
    def main() -> None:
        with TaskGroup() as group:
            pass
        for use in (lambda: group.spawn(int), group.wait, group.cancel):
            with pytest.raises(RuntimeError, match="not open"):
                use()

    run(main)


def test_a_group_is_used_in_a_with_statement(run: Run) -> None:
    def main() -> None:
        with pytest.raises(RuntimeError, match="with statement"):
            TaskGroup().spawn(int)
        with TaskGroup() as group, pytest.raises(RuntimeError, match="open already"):
            group.__enter__()

    run(main)


def test_a_group_can_be_opened_again_after_it_was_left(run: Run) -> None:
    def main() -> None:
        group = TaskGroup()
        for n in range(2):
            with group:
                task = group.spawn(lambda n=n: n)
            assert task.result() == n

    run(main)


def test_wait_waits_for_the_members_so_far_and_keeps_the_group_open(run: Run) -> None:
    def main() -> None:
        with TaskGroup() as group:
            first = group.spawn(ferrule.sleep, 0.01)
            group.wait()
            assert first.done()
            second = group.spawn(ferrule.sleep, 0.01)
            group.wait()
            assert second.done()

    run(main)


def test_wait_in_a_group_that_fails_raises_cancelled_after_all_have_ended(run: Run) -> None:
    def main() -> None:
        ended = []

        def slow_to_end() -> None:
            try:
                forever()
            finally:
                with ferrule.shield():
                    ferrule.sleep(0.01)
                ended.append(True)

        with pytest.raises(ExceptionGroup), TaskGroup() as group:
            group.spawn(slow_to_end)
            ferrule.sleep(0)
            group.spawn(fail)
            try:
                group.wait()
            except Cancelled:
                assert ended == [True]
                raise

    run(main)


def test_wait_obeys_a_scope_inside_the_group(run: Run) -> None:
    def main() -> None:
        with TaskGroup() as group:
            go = Event()
            member = group.spawn(go.wait)
            with ferrule.move_on_after(0.01) as scope:
                group.wait()
            assert scope.cancelled_caught
            assert not member.done()
            go.set()
            group.wait()
        assert member.result()

    run(main)


def test_a_cancellation_from_outside_ends_wait_after_the_members(run: Run) -> None:
    def main() -> None:
        with ferrule.move_on_after(0.01) as scope, TaskGroup() as group:
            member = group.spawn(forever)
            try:
                group.wait()
            except Cancelled:
                assert member.done()
                raise
        assert scope.cancelled_caught

    run(main)


def test_only_its_opener_waits_for_a_group(run: Run) -> None:
    def main() -> None:
        with pytest.raises(ExceptionGroup) as info, TaskGroup() as group:
            group.spawn(group.wait)
        assert "opened" in str(info.value.exceptions[0])

    run(main)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_that_ends_the_program_stays_bare(
    run: Run, kind: type[BaseException]
) -> None:
    members = []

    def main() -> None:
        with TaskGroup() as group:
            members.append(group.spawn(forever))
            ferrule.sleep(0)
            raise kind

    with pytest.raises(kind):
        run(main)
    assert members[0].cancelled()


def test_a_generator_with_an_open_group_can_be_closed(run: Run) -> None:
    def main() -> None:
        def generator() -> Any:
            with TaskGroup() as group:
                yield group.spawn(forever)

        values = generator()
        task = next(values)
        values.close()
        assert task.cancelled()

    run(main)


def test_a_member_may_be_cancelled_through_the_group_while_it_waits_for_another(run: Run) -> None:
    def main() -> None:
        with TaskGroup() as group:
            first = group.spawn(forever)
            second = group.spawn(first.result)
            ferrule.sleep(0)
            group.cancel()
        assert first.cancelled()
        assert second.cancelled()

    run(main)


def test_ten_thousand_members(run: Run) -> None:
    def main() -> None:
        with TaskGroup() as group:
            tasks = [group.spawn(lambda n=n: (ferrule.sleep(0), n)[1]) for n in range(10_000)]
        assert sum(task.result() for task in tasks) == 10_000 * 9_999 // 2

    run(main)


def test_a_group_needs_a_runtime() -> None:
    with pytest.raises(RuntimeError, match=r"ferrule\.run"), TaskGroup():
        pass


# ---- at most so many at a time ----


class Gauge:
    """How many run at a time."""

    def __init__(self) -> None:
        self.now = self.most = self.ended = 0

    def work(self, seconds: float = 0.001) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            ferrule.sleep(seconds)
        finally:
            self.now -= 1
            self.ended += 1


def test_no_more_members_run_at_a_time_than_the_limit_allows(run: Run) -> None:
    def main() -> None:
        gauge = Gauge()
        with TaskGroup(max_concurrency=3) as group:
            for _ in range(20):
                group.spawn(gauge.work)
                assert gauge.now <= 3
        assert (gauge.most, gauge.ended) == (3, 20)

    run(main)


def test_the_openers_spawn_parks_until_there_is_room(run: Run) -> None:
    def main() -> None:
        gate = Event()
        with TaskGroup(max_concurrency=1) as group:
            first = group.spawn(gate.wait)
            ferrule.spawn(lambda: (ferrule.sleep(0.01), gate.set()))
            second = group.spawn(int)
            assert first.done()
            assert not second.done()

    run(main)


def test_a_deadlock_tells_that_the_opener_waits_for_room(run: Run) -> None:
    def main() -> None:
        me = ferrule.current_task()
        with TaskGroup(max_concurrency=1) as group:
            group.spawn(me.join, name="member")
            group.spawn(int)

    with pytest.raises(ferrule.DeadlockError) as info:
        run(main)
    assert [task.name for task in info.value.cycle] == ["main", "member"]
    assert info.value.cycle[0].what == "room in its group"


def test_a_cancellation_ends_the_openers_wait_for_room(run: Run) -> None:
    def main() -> None:
        ran = []
        with TaskGroup(max_concurrency=1) as group:
            gate = Event()
            group.spawn(gate.wait)
            with ferrule.move_on_after(0.01) as scope:
                group.spawn(ran.append, "too late")
            assert scope.cancelled_caught
            gate.set()
            group.wait()
            for n in range(3):  # no place was lost
                group.spawn(ran.append, n)
        assert ran == [0, 1, 2]

    run(main)


def test_the_wait_for_room_is_none_inside_no_switch(run: Run) -> None:
    def main() -> None:
        with TaskGroup(max_concurrency=1) as group:
            with ferrule.no_switch():
                group.spawn(int)
            with pytest.raises(RuntimeError, match="no_switch"), ferrule.no_switch():
                group.spawn(int)

    run(main, threads=1)


def test_room_that_came_wins_over_a_cancellation_at_the_same_time(run: Run) -> None:
    def main() -> None:
        with TaskGroup(max_concurrency=1) as group:
            gate = Event()
            group.spawn(gate.wait)
            with ferrule.CancelScope() as scope:
                def end_and_cancel() -> None:
                    gate.set()
                    ferrule.yield_now()  # the member ends: its place is the opener's
                    scope.cancel()

                ferrule.spawn(end_and_cancel)
                second = group.spawn(lambda: "ran")
            assert second.result() == "ran"
            assert not scope.cancelled_caught

    run(main, threads=1)


def test_a_failing_member_ends_the_openers_wait_for_room(run: Run) -> None:
    def main() -> None:
        with pytest.raises(ExceptionGroup) as info, TaskGroup(max_concurrency=2) as group:
            group.spawn(forever)
            group.spawn(lambda: (ferrule.sleep(0.01), fail()))
            group.spawn(forever)
        assert [str(exc) for exc in info.value.exceptions] == ["boom"]

    run(main)


def test_what_a_member_spawns_waits_its_turn_and_never_blocks_it(run: Run) -> None:
    def main() -> None:
        gauge = Gauge()
        order: list[int] = []

        def child(n: int) -> None:
            order.append(n)
            gauge.work()

        def member() -> None:
            with ferrule.no_switch():
                children = [group.spawn(child, n) for n in range(10)]
            ferrule.sleep(0.005)
            assert not any(task.done() for task in children)

        with TaskGroup(max_concurrency=1) as group:
            group.spawn(member)
        assert order == list(range(10))
        assert gauge.most == 1

    run(main)


def test_opener_and_queued_members_take_turns(run: Run) -> None:
    def main() -> None:
        order: list[str] = []
        queued = Event()

        def member() -> None:
            group.spawn(order.append, "queued before")
            queued.set()
            ferrule.sleep(0.01)
            group.spawn(order.append, "queued after")

        with TaskGroup(max_concurrency=1) as group:
            group.spawn(member)
            queued.wait()
            group.spawn(order.append, "opener's")
        assert order == ["queued before", "opener's", "queued after"]

    run(main)


def test_queued_members_are_cancelled_with_the_group(run: Run) -> None:
    def main() -> None:
        queued: list[ferrule.Task[None]] = []
        started: list[bool] = []

        def late() -> None:
            started.append(ferrule.cancel_requested())
            forever()

        def member() -> None:
            queued.extend(group.spawn(late) for _ in range(3))
            forever()

        with TaskGroup(max_concurrency=1) as group:
            group.spawn(member)
            ferrule.sleep(0.001)
            assert started == []
            group.cancel()
        assert all(task.cancelled() for task in queued)
        assert started == [True] * 3

    run(main)


def test_a_queued_member_can_be_waited_for_and_cancelled(run: Run) -> None:
    def main() -> None:
        gate = Event()
        with TaskGroup(max_concurrency=1) as group:
            group.spawn(gate.wait)
            waiting, unwanted = ferrule.spawn(
                lambda: (group.spawn(lambda: "late"), group.spawn(forever))
            ).result()
            unwanted.cancel()
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.001)
            gate.set()
            assert waiting.result() == "late"
        assert unwanted.cancelled()

    run(main)


def test_waiting_for_a_group_waits_for_those_in_its_queue_too(run: Run) -> None:
    def main() -> None:
        gauge = Gauge()
        with TaskGroup(max_concurrency=2) as group:
            ferrule.spawn(lambda: [group.spawn(gauge.work) for _ in range(9)]).join()
            group.wait()
            assert gauge.ended == 9

    run(main)


def test_a_member_that_runs_inline_takes_a_place(run: Run) -> None:
    def main() -> None:
        gauge = Gauge()
        with TaskGroup(max_concurrency=2) as group:
            for _ in range(10):
                group.spawn_or_run(gauge.work)
        assert (gauge.most, gauge.ended) == (2, 10)

    run(main, max_fibers=2)


def test_a_spawn_that_fails_gives_its_place_back(run: Run) -> None:
    def main() -> None:
        with TaskGroup(max_concurrency=1) as group:
            for _ in range(3):
                with pytest.raises(TypeError, match="callable"):
                    group.spawn(3)  # type: ignore[arg-type]
            assert group.spawn(lambda: "room").result() == "room"

    run(main)


def test_a_limit_may_be_larger_than_any_number_of_tasks(run: Run) -> None:
    def main() -> None:
        with TaskGroup(max_concurrency=1 << 40) as group:
            task = group.spawn(int)
        assert task.result() == 0

    run(main)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_at_least_one(limit: int) -> None:
    with pytest.raises(ValueError, match=f"max_concurrency must be at least 1, not {limit}"):
        TaskGroup(max_concurrency=limit)


def test_a_limit_is_a_whole_number() -> None:
    with pytest.raises(TypeError):
        TaskGroup(max_concurrency=1.5)  # type: ignore[arg-type]


def test_a_group_with_a_limit_can_be_opened_again(run: Run) -> None:
    def main() -> None:
        gauge = Gauge()
        group = TaskGroup(max_concurrency=2)
        for _ in range(3):
            with group:
                for _ in range(5):
                    group.spawn(gauge.work)
        assert (gauge.most, gauge.ended) == (2, 15)

    run(main)


def test_many_tasks_through_a_group_with_a_limit_need_no_memory(run: Run) -> None:
    def main() -> None:
        with TaskGroup(max_concurrency=1000) as group:
            peaks = []
            for _ in range(3):
                tracemalloc.reset_peak()
                for _ in range(20_000):
                    group.spawn(int)
                peaks.append(tracemalloc.get_traced_memory()[1])
        assert peaks[2] < peaks[0] + 100_000

    tracemalloc.start()
    try:
        run(main)
    finally:
        tracemalloc.stop()


# ---- ends that are not as they should be ----


def test_a_group_that_its_task_never_left_is_cancelled_with_the_end_of_the_task(run: Run) -> None:
    def main() -> None:
        members: list[ferrule.Task[None]] = []

        def careless() -> None:
            group = TaskGroup().__enter__()
            members.extend(group.spawn(forever) for _ in range(2))

        ferrule.spawn(careless).join()
        for member in members:
            member.join(timeout=5)
            assert member.cancelled()

    run(main)


def test_a_group_cannot_be_left_before_a_scope_inside_it(run: Run) -> None:
    def main() -> None:
        group = TaskGroup().__enter__()
        member = group.spawn(int)
        inner = ferrule.CancelScope().__enter__()
        with pytest.raises(RuntimeError, match="reverse order"):
            group.__exit__(None, None, None)
        assert not member.done()  # it did not begin to wait either
        inner.__exit__(None, None, None)
        group.__exit__(None, None, None)
        assert member.done()

    run(main, threads=1)


def test_a_group_is_left_by_the_task_that_opened_it(run: Run) -> None:
    def main() -> None:
        with TaskGroup() as group:
            leave = ferrule.spawn(group.__exit__, None, None, None)
            with pytest.raises(RuntimeError, match="by the task that entered"):
                leave.result()
            assert group.spawn(lambda: "still open").result() == "still open"

    run(main)


def test_nothing_touches_a_group_that_was_left(run: Run) -> None:
    def main() -> None:
        for _ in range(100):
            group = TaskGroup()
            with group:
                scope = group._open_scope()
                tasks = [group.spawn(ferrule.sleep, 0) for _ in range(10)]
            assert sys.getrefcount(scope) == 2, "a member still refers to it"
            assert all(task.done() for task in tasks)

    run(main, threads=1)
