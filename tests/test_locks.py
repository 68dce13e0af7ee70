"""Lock and RLock: threading's meaning, hand-over in order, in fibers and threads."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import ferrule
from ferrule import Lock, RLock
from sync_support import OSThread, World, alarm, cancel_here_and_there, settle, spawn_in_order

Run = Callable[..., Any]
Kind = type[Lock] | type[RLock]
both = pytest.mark.parametrize("kind", [Lock, RLock])


# ---- as threading has them ----


@pytest.mark.parametrize("name", ["Lock", "RLock"])
def test_a_lock_as_threading_has_it(world: World, name: str) -> None:
    def main() -> None:
        lock = getattr(world, name)()

        def attempts() -> list[bool]:
            return [
                lock.acquire(False),
                lock.acquire(blocking=False),
                lock.acquire(timeout=0.005),
                lock.acquire(True, 0),
            ]

        assert lock.acquire() is True
        assert world.spawn(attempts).result() == [False] * 4
        waiter = world.spawn(acquire_and_release, lock)
        world.settle()
        assert not waiter.done()
        lock.release()
        assert waiter.result() is True
        with lock as entered:
            assert entered is True
        with pytest.raises(RuntimeError):
            lock.release()

    world.run(main)


def acquire_and_release(lock: Any) -> bool:
    taken: bool = lock.acquire(timeout=10)
    lock.release()
    return taken


@pytest.mark.parametrize("name", ["Lock", "RLock"])
def test_the_arguments_that_threading_refuses(world: World, name: str) -> None:
    lock = getattr(world, name)()
    with pytest.raises(ValueError, match="can't specify a timeout"):
        lock.acquire(blocking=False, timeout=1)
    with pytest.raises(ValueError):
        lock.acquire(timeout=-2)
    with pytest.raises(TypeError):
        lock.acquire(timeout="soon")
    assert lock.acquire(False)
    lock.release()


def test_a_lock_may_be_released_by_anybody(world: World) -> None:
    def main() -> None:
        lock = world.Lock()
        lock.acquire()
        world.spawn(lock.release).result()
        assert not lock.locked()

    world.run(main)


def test_an_rlock_is_taken_again_by_its_holder_alone(world: World) -> None:
    def main() -> None:
        lock = world.RLock()
        for _ in range(3):
            assert lock.acquire()
        with pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
            world.spawn(lock.release).result()
        for _ in range(3):
            assert not world.spawn(lock.acquire, False).result()
            lock.release()
        assert world.spawn(acquire_and_release, lock).result()
        with pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
            lock.release()

    world.run(main)


def test_exclusion(world: World) -> None:
    def main() -> None:
        lock, inside, most = world.RLock(), 0, 0

        def body() -> None:
            nonlocal inside, most
            for _ in range(20):
                with lock:
                    inside += 1
                    most = max(most, inside)
                    world.sleep(0)
                    inside -= 1

        for task in [world.spawn(body) for _ in range(4)]:
            task.result()
        assert most == 1

    world.run(main)


# ---- hand-over ----


def test_a_lock_excludes_and_is_handed_over_in_order(run: Run) -> None:
    def main() -> None:
        lock, inside, order = Lock(), [], []

        def body(n: int) -> None:
            with lock:
                inside.append(n)
                assert len(inside) == 1
                ferrule.sleep(0.001)
                inside.remove(n)
                order.append(n)

        with lock:
            tasks = spawn_in_order(partial(body, n) for n in range(5))
        for task in tasks:
            task.result()
        assert order == [0, 1, 2, 3, 4]
        assert not lock.locked()

    run(main)


def test_a_released_lock_belongs_to_the_waiter_before_it_has_run(run: Run) -> None:
    def main() -> None:
        lock = Lock()
        lock.acquire()
        waiter = ferrule.spawn(lock.acquire)
        settle()
        lock.release()
        assert lock.locked()
        assert not lock.acquire(blocking=False)  # nobody overtakes
        assert waiter.result() is True
        lock.release()
        assert not lock.locked()

    run(main)


def test_releasing_an_unlocked_lock_is_an_error(run: Run) -> None:
    lock = Lock()
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        lock.release()

    def main() -> None:
        with lock:
            pass
        with pytest.raises(RuntimeError):
            lock.release()

    run(main)


def test_a_lock_handed_to_a_task_that_is_then_cancelled_is_not_lost(run: Run) -> None:
    def main() -> None:
        lock, got = Lock(), []

        def body() -> None:
            with lock:
                got.append("lock")
                ferrule.checkpoint()

        lock.acquire()
        task = ferrule.spawn(body)
        settle()
        lock.release()
        task.cancel()
        task.join()
        assert got == ["lock"]
        assert task.cancelled()
        assert lock.acquire(blocking=False)

    run(main)


def test_a_cancelled_waiter_leaves_the_queue_for_the_lock(run: Run) -> None:
    def main() -> None:
        lock = Lock()
        lock.acquire()
        waiters = spawn_in_order([lock.acquire] * 3)
        cancel_here_and_there(*waiters[:2])
        lock.release()
        assert waiters[2].result()
        ferrule.wait(waiters)
        assert waiters[0].cancelled()
        assert waiters[1].cancelled()

    run(main)


@both
def test_a_wait_that_timed_out_takes_no_turn(run: Run, kind: Kind) -> None:
    def main() -> None:
        lock = kind()
        lock.acquire()
        early = ferrule.spawn(lock.acquire, True, 0.005)
        late = ferrule.spawn(acquire_and_release, lock)
        assert early.result() is False
        lock.release()
        assert late.result() is True
        assert not lock.locked()

    run(main)


@both
def test_a_grant_wins_over_a_deadline_at_the_same_time(run: Run, kind: Kind) -> None:
    def main() -> None:
        lock = kind()
        lock.acquire()
        task = ferrule.spawn(lock.acquire, True, 0.005)
        settle()
        lock.release()
        time.sleep(0.01)  # the deadline passes before the task can run
        assert task.result() is True

    run(main)


@both
def test_an_acquire_in_a_cancelled_scope_takes_nothing(run: Run, kind: Kind) -> None:
    def main() -> None:
        lock = kind()
        for timeout in (-1, 0, 1):
            with ferrule.CancelScope() as scope:
                scope.cancel()
                lock.acquire(timeout=timeout)
            assert scope.cancelled_caught
            assert not lock.locked()
        with ferrule.CancelScope() as scope:
            scope.cancel()
            assert lock.acquire(blocking=False)
            lock.release()

    run(main)


def test_an_acquire_that_is_cancelled_while_its_budget_is_spent_does_not_wait(run: Run) -> None:
    def main() -> None:
        lock, free = Lock(), Lock()
        lock.acquire()

        def body() -> None:
            while True:
                with free:  # every 64th lets the others run
                    pass
                if scope.cancel_called:
                    lock.acquire()

        with ferrule.CancelScope() as scope:
            ferrule.spawn(scope.cancel)
            body()
        assert scope.cancelled_caught
        assert lock.locked()

    run(main)


# ---- threads and fibers ----


@both
def test_threads_and_fibers_take_turns_in_the_order_of_asking(run: Run, kind: Kind) -> None:
    def main() -> None:
        lock, order = kind(), []

        def body(n: int) -> None:
            with lock:
                order.append(n)

        lock.acquire()
        tasks: list[Any] = []
        for n in range(6):
            tasks.append(OSThread(body, n) if n % 2 else ferrule.spawn(body, n))
            ferrule.sleep(0.02)
        lock.release()
        for task in tasks:
            ferrule.blocking(task.result) if isinstance(task, OSThread) else task.result()
        assert order == list(range(6))
        assert not lock.locked()

    run(main)


@both
def test_a_thread_that_gives_up_leaves_the_turn_to_the_next(run: Run, kind: Kind) -> None:
    def main() -> None:
        lock = kind()
        lock.acquire()
        early = OSThread(lambda: lock.acquire(timeout=0.02))
        ferrule.sleep(0.01)
        late = ferrule.spawn(acquire_and_release, lock)
        assert ferrule.blocking(early.result) is False
        lock.release()
        assert late.result()

    run(main)


@both
def test_fibers_of_two_loops_share_a_lock(run: Run, kind: Kind) -> None:
    lock, inside, most = kind(), 0, 0

    def body() -> None:
        nonlocal inside, most
        for _ in range(50):
            with lock:
                inside += 1
                most = max(most, inside)
                ferrule.sleep(0)
                inside -= 1

    def main() -> None:
        with ferrule.TaskGroup() as group:
            for _ in range(3):
                group.spawn(body)

    threads = [OSThread(run, main) for _ in range(2)]
    for thread in threads:
        thread.result()
    assert most == 1
    assert not lock.locked()


@both
def test_an_exception_of_a_signal_handler_ends_a_threads_wait(kind: Kind) -> None:
    lock = kind()
    holder = OSThread(hold, lock, 0.1)
    time.sleep(0.02)

    def handler() -> None:
        raise KeyboardInterrupt

    with alarm(0.02, handler), pytest.raises(KeyboardInterrupt):
        lock.acquire()
    holder.result()
    assert lock.acquire(False)  # nobody hands it to a thread that has gone


def hold(lock: Any, seconds: float) -> None:
    with lock:
        time.sleep(seconds)


def test_a_grant_that_came_with_an_exception_is_passed_on() -> None:
    lock = Lock()
    lock.acquire()
    others: list[OSThread] = []

    def handler() -> None:
        others.append(OSThread(acquire_and_release, lock))
        time.sleep(0.02)
        lock.release()  # to the main thread, which waited first
        raise KeyboardInterrupt

    with alarm(0.02, handler), pytest.raises(KeyboardInterrupt):
        lock.acquire()
    assert others[0].result()
    assert not lock.locked()


def test_a_signal_handler_that_raises_nothing_does_not_end_a_wait() -> None:
    lock = Lock()
    lock.acquire()
    calls: list[int] = []

    def handler() -> None:
        calls.append(1)
        threading.Timer(0.02, lock.release).start()

    with alarm(0.02, handler):
        assert lock.acquire()
    assert calls == [1]


def test_an_rlock_belongs_to_the_fiber_and_not_to_its_thread(run: Run) -> None:
    def main() -> None:
        lock = RLock()
        with lock:
            assert not ferrule.spawn(lock.acquire, False).result()
            assert not ferrule.blocking(lock.acquire, False)
            with pytest.raises(RuntimeError, match="un-acquired"):
                ferrule.blocking(lock.release)
            assert lock.acquire(False)
            lock.release()

    run(main)


def test_a_forked_child_does_not_hand_the_lock_to_a_thread_it_has_not(
    run_script: Callable[..., Any]
) -> None:
    done = run_script(
        "import os, threading, time, warnings, ferrule\n"
        "warnings.simplefilter('ignore')\n"
        "lock = ferrule.Lock()\n"
        "lock.acquire()\n"
        "thread = threading.Thread(target=lock.acquire)\n"
        "thread.start()\n"
        "time.sleep(0.1)\n"
        "child = os.fork()\n"
        "lock.release()\n"
        "if child == 0:\n"
        "    os._exit(10 + lock.locked())\n"
        "thread.join()\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), lock.locked())\n"
    )
    assert done.stdout == "10 True\n", done.stderr


# ---- what can be seen ----


def test_a_deadlock_names_the_holder(run: Run) -> None:
    def main() -> None:
        first, second = RLock(), Lock()

        def body() -> None:
            with second, first:
                pass

        with first:
            ferrule.spawn(body, name="berta")
            settle()
            second.acquire()

    with pytest.raises(ferrule.DeadlockError) as info:
        run(main)
    assert "main waits for a Lock held by berta" in str(info.value)
    assert "berta waits for an RLock held by main" in str(info.value)


def test_the_name_of_a_thread_that_holds_a_lock(run: Run) -> None:
    lock = Lock()
    lock.acquire()

    def main() -> None:
        ferrule.spawn(lock.acquire, name="waiter")
        settle()
        names = dict(ferrule.current_runtime()._scheduler.waiting())
        assert names["waiter"] == f"a Lock held by thread {threading.current_thread().name!r}"
        lock.release()

    run(main)


@both
def test_a_holder_that_has_ended_is_not_kept_after_the_release(run: Run, kind: Kind) -> None:
    class Thing:
        pass

    def main() -> None:
        lock, thing = Lock(), Thing()
        ref = weakref.ref(thing)
        ferrule.spawn(lambda thing: lock.acquire(), thing).result()
        del thing
        lock.release()
        settle()
        gc.collect()
        assert ref() is None

    run(main)


@both
def test_locks_have_reprs(kind: Kind) -> None:
    lock = kind()
    assert "unlocked" in repr(lock)
    with lock:
        assert " locked" in repr(lock)
        assert lock.locked()
    assert not lock.locked()
