"""Cancel scopes: nesting, shields, deadlines, redelivery, and what must survive them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ferrule
from ferrule import Cancelled, CancelScope, Clock, Event
from sync_support import settle

Run = Callable[..., Any]


def forever() -> None:
    Event().wait()


def test_a_cancelled_scope_is_left_behind_it(run: Run) -> None:
    def main() -> None:
        with CancelScope() as scope:
            scope.cancel()
            ferrule.checkpoint()
            pytest.fail("not reached")
        assert scope.cancel_called
        assert scope.cancelled_caught
        ferrule.checkpoint()

    run(main)


def test_a_cancelled_scope_without_a_cancellation_point_catches_nothing(run: Run) -> None:
    def main() -> None:
        with CancelScope() as scope:
            scope.cancel()
        assert scope.cancel_called
        assert not scope.cancelled_caught

    run(main)


def test_a_scope_cancelled_before_it_is_entered_cancels_its_first_point(run: Run) -> None:
    def main() -> None:
        scope = CancelScope()
        scope.cancel()
        with scope:
            ferrule.sleep(100)
        assert scope.cancelled_caught

    run(main)


def test_a_scope_is_cancelled_by_another_task_while_its_task_waits(run: Run) -> None:
    def main() -> None:
        scope = CancelScope()

        def body() -> str:
            with scope:
                forever()
            return "after"

        task = ferrule.spawn(body)
        ferrule.sleep(0)
        scope.cancel()
        assert task.result() == "after"
        assert scope.cancelled_caught

    run(main)


def test_a_scope_is_cancelled_from_another_thread(run: Run) -> None:
    def main() -> None:
        with CancelScope() as scope:
            threading.Timer(0.02, scope.cancel).start()
            ferrule.sleep(100)
        assert scope.cancelled_caught

    run(main)


def test_the_outer_scope_catches_its_own_cancellation_through_the_inner(run: Run) -> None:
    def main() -> None:
        reached = []
        with CancelScope() as outer:
            with CancelScope() as inner:
                outer.cancel()
                ferrule.checkpoint()
            reached.append("between")
        assert reached == []
        assert outer.cancelled_caught
        assert not inner.cancelled_caught
        assert not inner.cancel_called

    run(main)


def test_the_inner_scope_catches_its_own_cancellation(run: Run) -> None:
    def main() -> None:
        with CancelScope() as outer:
            with CancelScope() as inner:
                inner.cancel()
                ferrule.checkpoint()
            assert inner.cancelled_caught
            ferrule.checkpoint()
        assert not outer.cancelled_caught

    run(main)


def test_when_both_are_cancelled_the_outer_one_catches(run: Run) -> None:
    def main() -> None:
        with CancelScope() as outer:
            with CancelScope() as inner:
                inner.cancel()
                outer.cancel()
                ferrule.checkpoint()
            pytest.fail("not reached")
        assert outer.cancelled_caught
        assert not inner.cancelled_caught

    run(main)


def test_cancellation_is_delivered_again_at_every_point(run: Run) -> None:
    def main() -> None:
        caught = 0
        with CancelScope() as scope:
            scope.cancel()
            for point in (
                ferrule.checkpoint,
                ferrule.yield_now,
                lambda: ferrule.sleep(0),
                lambda: ferrule.sleep(100),
                forever,
            ):
                try:
                    point()
                except Cancelled:
                    caught += 1
        assert caught == 5

    run(main)


def test_a_finally_that_blocks_in_a_cancelled_scope_is_cancelled_again(run: Run) -> None:
    def main() -> None:
        steps = []
        with CancelScope() as scope:
            scope.cancel()
            try:
                ferrule.sleep(100)
            finally:
                steps.append("finally")
                ferrule.sleep(100)
                steps.append("not reached")
        assert steps == ["finally"]

    run(main)


def test_cancelled_is_no_exception_so_that_handlers_let_it_pass(run: Run) -> None:
    def main() -> None:
        with CancelScope() as scope:
            scope.cancel()
            try:
                ferrule.checkpoint()
            except Exception:
                pytest.fail("caught by except Exception")
        assert scope.cancelled_caught

    run(main)


def test_a_shield_keeps_outside_cancellation_away_until_it_is_left(run: Run) -> None:
    def main() -> None:
        steps = []
        with CancelScope() as scope:
            scope.cancel()
            with ferrule.shield():
                assert not ferrule.cancel_requested()
                ferrule.sleep(0.01)
                steps.append("shielded")
            assert ferrule.cancel_requested()
            ferrule.checkpoint()
            steps.append("not reached")
        assert steps == ["shielded"]

    run(main)


def test_a_shielded_scope_can_be_cancelled_itself(run: Run) -> None:
    def main() -> None:
        with CancelScope() as outer:
            outer.cancel()
            with CancelScope(shield=True) as inner:
                inner.cancel()
                ferrule.checkpoint()
            assert inner.cancelled_caught
            with pytest.raises(Cancelled):
                ferrule.checkpoint()

    run(main)


def test_a_shield_inside_a_shielded_scope_that_is_cancelled(run: Run) -> None:
    def main() -> None:
        with ferrule.shield() as outer:
            with ferrule.shield() as inner:
                outer.cancel()
                ferrule.checkpoint()
                inner.shield = False
                ferrule.checkpoint()
            pytest.fail("not reached")
        assert outer.cancelled_caught

    run(main)


def test_taking_a_shield_away_wakes_the_waiting_task(run: Run) -> None:
    def main() -> None:
        shield = ferrule.shield()

        def body() -> None:
            with shield:
                forever()

        task = ferrule.spawn(body)
        ferrule.sleep(0)
        task.cancel()
        ferrule.sleep(0.01)
        assert not task.done()
        shield.shield = False
        task.join()
        assert task.cancelled()

    run(main)


@pytest.mark.one_thread("what was spawned has to have run by the next switch")
def test_a_shield_put_up_between_delivery_and_resumption_loses_no_cancellation(run: Run) -> None:
    def main() -> None:
        scope = CancelScope()
        seen = []

        def body() -> None:
            with scope, CancelScope() as inner:
                shields.append(inner)
                try:
                    forever()
                except Cancelled:
                    seen.append("cancelled")
                    raise

        shields: list[CancelScope] = []
        task = ferrule.spawn(body)
        ferrule.sleep(0)
        scope.cancel()
        shields[0].shield = True  # the task is on its way, but has not run yet
        task.result()
        assert seen == ["cancelled"]
        assert scope.cancelled_caught

    run(main)


def test_move_on_after_cancels_the_block_in_time(run: Run) -> None:
    def main() -> None:
        begin = time.monotonic()
        with ferrule.move_on_after(0.02) as scope:
            forever()
        assert scope.cancelled_caught
        assert 0.02 <= time.monotonic() - begin < 1

    run(main)


def test_move_on_after_leaves_a_fast_block_alone(run: Run) -> None:
    def main() -> None:
        with ferrule.move_on_after(100) as scope:
            ferrule.sleep(0)
        assert not scope.cancel_called
        assert ferrule.current_runtime().statistics()["timers"] == 0

    run(main)


def test_fail_after_raises_timeout_error(run: Run) -> None:
    def main() -> None:
        with pytest.raises(TimeoutError), ferrule.fail_after(0.01):
            forever()
        with ferrule.fail_after(100):
            ferrule.sleep(0)

    run(main)


def test_a_deadline_that_has_passed_cancels_the_first_point(run: Run) -> None:
    def main() -> None:
        event = Event()
        event.set()
        with ferrule.move_on_after(0) as scope:
            event.wait()  # would not wait
        assert scope.cancelled_caught

    run(main)


def test_a_deadline_ends_a_fiber_that_only_computes_and_checks(run: Run) -> None:
    def main() -> None:
        with ferrule.move_on_after(0.02) as scope:
            while True:
                ferrule.checkpoint()
        assert scope.cancelled_caught
        with ferrule.move_on_after(0.02):
            while not ferrule.cancel_requested():
                pass

    run(main)


def test_the_earlier_of_two_deadlines_counts(run: Run) -> None:
    def main() -> None:
        with ferrule.move_on_after(0.01) as outer, ferrule.move_on_after(100) as inner:
            forever()
        assert outer.cancelled_caught
        assert not inner.cancel_called
        with ferrule.move_on_after(100) as outer:
            with ferrule.move_on_after(0.01) as inner:
                forever()
            assert inner.cancelled_caught
        assert not outer.cancel_called

    run(main)


def test_a_deadline_can_be_moved_later_and_earlier_and_away(run: Run) -> None:
    def main() -> None:
        with ferrule.move_on_after(0.01) as scope:
            scope.deadline = ferrule.now() + 100
            ferrule.sleep(0.03)
            scope.deadline = None
            assert scope.deadline is None
            assert ferrule.current_runtime().statistics()["timers"] == 0
            scope.deadline = ferrule.now() + 0.01
            forever()
        assert scope.cancelled_caught

    run(main)


def test_a_deadline_can_be_moved_by_another_task(run: Run) -> None:
    def main() -> None:
        scope = CancelScope()

        def body() -> None:
            with scope:
                forever()

        task = ferrule.spawn(body)
        ferrule.sleep(0)
        scope.deadline = ferrule.now() - 1
        task.result()
        assert scope.cancelled_caught

    run(main)


def test_moving_the_deadline_of_a_scope_that_was_left_sets_no_timer(run: Run) -> None:
    def main() -> None:
        with CancelScope() as scope:
            pass
        scope.deadline = ferrule.now() + 100
        assert ferrule.current_runtime().statistics()["timers"] == 0

    run(main)


def test_an_infinite_deadline_is_none(run: Run) -> None:
    def main() -> None:
        with CancelScope(deadline=math.inf) as scope, ferrule.move_on_after(math.inf):
            assert scope.deadline is None
            assert ferrule.current_runtime().statistics()["timers"] == 0

    run(main)


@pytest.mark.parametrize("seconds", [-1, math.nan])
def test_senseless_times_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError):
        ferrule.move_on_after(seconds)
    with pytest.raises(ValueError):
        ferrule.fail_after(seconds)
    with pytest.raises(ValueError):
        CancelScope(deadline=seconds)


def test_a_scope_is_entered_once(run: Run) -> None:
    def main() -> None:
        with CancelScope() as scope:
            pass
        with pytest.raises(RuntimeError, match="once"), scope:
            pass

    run(main)


def test_scopes_left_in_the_wrong_order_are_refused(run: Run) -> None:
    def main() -> None:
        outer, inner = CancelScope(), CancelScope()
        outer.__enter__()
        inner.__enter__()
        with pytest.raises(RuntimeError, match="reverse order"):
            outer.__exit__(None, None, None)
        inner.__exit__(None, None, None)
        outer.__exit__(None, None, None)
        with pytest.raises(RuntimeError):
            outer.__exit__(None, None, None)

    run(main)


def test_a_scope_cannot_be_left_by_another_task(run: Run) -> None:
    def main() -> None:
        def generator() -> Iterator[None]:
            with CancelScope():
                yield

        held = generator()
        next(held)
        thief = ferrule.spawn(next, held)
        with pytest.raises(RuntimeError, match="by the task that entered"):
            thief.result()

    run(main)


def test_a_scope_a_task_never_left_ends_with_the_task(run: Run) -> None:
    def main() -> None:
        def careless() -> None:
            ferrule.move_on_after(0.02).__enter__()
            ferrule.move_on_after(100).__enter__()

        ferrule.spawn(careless).result()
        assert ferrule.current_runtime().statistics()["timers"] == 0
        ferrule.sleep(0.03)

    run(main)


def test_a_scope_needs_a_runtime() -> None:
    with pytest.raises(RuntimeError, match=r"ferrule\.run"), CancelScope():
        pass


def test_cancelling_a_task_that_has_not_started_still_runs_it_to_its_first_point(run: Run) -> None:
    def main() -> None:
        steps = []

        def body() -> None:
            steps.append("started")
            ferrule.checkpoint()
            steps.append("not reached")

        task = ferrule.spawn(body)
        task.cancel()
        task.join()
        assert steps == ["started"]
        assert task.cancelled()

    run(main)


def test_cancelling_a_finished_task_keeps_its_result(run: Run) -> None:
    def main() -> None:
        task = ferrule.spawn(lambda: 5)
        task.join()
        task.cancel()
        assert task.result() == 5
        assert not task.cancelled()

    run(main)


def test_a_task_may_ignore_a_cancellation_and_return(run: Run) -> None:
    def main() -> None:
        def stubborn() -> str:
            try:
                forever()
            except Cancelled:
                return "anyway"
            return "never"

        task = ferrule.spawn(stubborn)
        ferrule.sleep(0)
        task.cancel()
        assert task.result() == "anyway"

    run(main)


def test_an_exception_raised_while_cancelled_comes_out(run: Run) -> None:
    def main() -> None:
        with pytest.raises(ZeroDivisionError) as info, CancelScope() as scope:
            scope.cancel()
            try:
                ferrule.checkpoint()
            finally:
                1 / 0  # noqa: B018
        assert isinstance(info.value.__context__, Cancelled)
        assert not scope.cancelled_caught

    run(main)


def test_a_scope_takes_its_cancellations_out_of_an_exception_group(run: Run) -> None:
    def main() -> None:
        with pytest.raises(ExceptionGroup) as info, CancelScope() as scope:
            scope.cancel()
            try:
                ferrule.checkpoint()
            except Cancelled as exc:
                raise BaseExceptionGroup("", [exc, ValueError("kept")]) from None
        assert [str(exc) for exc in info.value.exceptions] == ["kept"]
        assert scope.cancelled_caught

        with CancelScope() as scope:
            scope.cancel()
            try:
                ferrule.checkpoint()
            except Cancelled as exc:
                raise BaseExceptionGroup("", [exc]) from None
        assert scope.cancelled_caught

    run(main)


def test_a_task_that_ends_with_a_group_of_cancellations_counts_as_cancelled(run: Run) -> None:
    def main() -> None:
        def body() -> None:
            try:
                forever()
            except Cancelled as exc:
                raise BaseExceptionGroup("", [exc]) from None

        task = ferrule.spawn(body)
        ferrule.sleep(0)
        task.cancel()
        task.join()
        assert task.cancelled()

    run(main)


def test_a_completion_wins_over_a_cancellation_at_the_same_moment(run: Run) -> None:
    def main() -> None:
        queue: ferrule.Queue[str] = ferrule.Queue()
        got = []

        def body() -> None:
            got.append(queue.get())
            forever()  # another thread may come here before the cancellation
            got.append("not reached")

        task = ferrule.spawn(body)
        settle()
        queue.put_nowait("item")
        task.cancel()
        task.join()
        assert got == ["item"]
        assert task.cancelled()

    run(main)


def test_a_cancellation_that_came_first_leaves_the_item_to_the_next(run: Run) -> None:
    def main() -> None:
        queue: ferrule.Queue[str] = ferrule.Queue()
        task = ferrule.spawn(queue.get)
        ferrule.sleep(0)
        task.cancel()
        queue.put_nowait("item")
        task.join()
        assert task.cancelled()
        assert queue.get_nowait() == "item"

    run(main)


@pytest.mark.one_thread("what was spawned has to have run by the next switch")
def test_a_cancellation_wins_over_a_deadline_of_the_wait_at_the_same_moment(run: Run) -> None:
    def main() -> None:
        def body() -> None:
            Event().wait(timeout=0.01)
            ferrule.checkpoint()
            pytest.fail("not reached")

        task = ferrule.spawn(body)
        ferrule.sleep(0)
        time.sleep(0.02)  # both are due in the same tick
        task.cancel()
        task.join()
        assert task.cancelled()

    run(main)


def test_many_nested_scopes_are_cancelled_from_the_outermost(run: Run) -> None:
    def main() -> None:
        scopes = [CancelScope() for _ in range(5000)]
        for scope in scopes:
            scope.__enter__()
        scopes[0].cancel()
        assert ferrule.cancel_requested()
        with pytest.raises(Cancelled) as info:
            ferrule.checkpoint()
        left = (info.type, info.value, info.tb)
        for scope in reversed(scopes[1:]):
            assert not scope.__exit__(*left)
        assert scopes[0].__exit__(*left)
        ferrule.checkpoint()

    run(main)


def test_calls_that_never_wait_are_no_cancellation_points(run: Run) -> None:
    def main() -> None:
        with CancelScope() as scope:
            scope.cancel()
            event, lock = Event(), ferrule.Lock()
            queue: ferrule.Queue[int] = ferrule.Queue()
            event.set()
            event.clear()
            assert lock.acquire(blocking=False)
            lock.release()
            queue.put_nowait(1)
            assert queue.get_nowait() == 1
            queue.task_done()
            queue.shutdown()
            ferrule.spawn(int)
            ferrule.now()
        assert not scope.cancelled_caught

    run(main)


@pytest.mark.parametrize(
    "wait",
    [
        lambda: ferrule.sleep(100),
        lambda: ferrule.sleep_until(ferrule.now() + 100),
        lambda: ferrule.sleep_until(ferrule.now(Clock.REALTIME) + 100, Clock.REALTIME),
        lambda: ferrule.sleep_until(ferrule.now(Clock.BOOTTIME) + 100, Clock.BOOTTIME),
        lambda: Event().wait(),
        lambda: Event().wait(100),
        lambda: ferrule.Queue().get(),
        lambda: ferrule.Queue().get(timeout=100),
        lambda: full_queue().put(2),
        lambda: full_queue().join(),
        lambda: held_lock().acquire(),
        lambda: held_lock().acquire(timeout=100),
        lambda: ferrule.spawn(forever).result(),
        lambda: wait_for_group(),
    ],
)
def test_every_kind_of_wait_ends_when_it_is_cancelled(run: Run, wait: Callable[[], Any]) -> None:
    def main() -> None:
        for shielded_first in (False, True):

            def body(shielded_first: bool = shielded_first) -> None:
                if shielded_first:
                    with ferrule.shield():
                        ferrule.sleep(0.001)
                wait()

            task = ferrule.spawn(body)
            ferrule.sleep(0)
            if not shielded_first:
                ferrule.sleep(0.001)
            task.cancel()
            task.join(timeout=5)
            assert task.cancelled()

    run(main)


def full_queue() -> ferrule.Queue[int]:
    queue: ferrule.Queue[int] = ferrule.Queue(1)
    queue.put_nowait(1)
    return queue


def held_lock() -> ferrule.Lock:
    lock = ferrule.Lock()
    lock.acquire()
    return lock


def wait_for_group() -> None:
    with ferrule.TaskGroup() as group:
        group.spawn(forever)
        group.wait()
