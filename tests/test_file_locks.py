"""flock through fs.File: who waits, who is let in, and what a cancellation leaves."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ferrule
from ferrule.fs import File, Open

Run = Callable[..., Any]


@pytest.fixture(params=["disk", "tmpfs"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """On tmpfs, as on a network file system, nothing about a lock is done on the loop thread."""
    path = tmp_path / "file"
    if request.param == "tmpfs":
        if not os.path.isdir("/dev/shm"):
            pytest.skip("no tmpfs at /dev/shm")
        path = Path(f"/dev/shm/ferrule-test-{os.getpid()}")
    path.write_bytes(b"content")
    yield path
    path.unlink()


def opened(path: Path, flags: int = os.O_RDWR) -> File:
    return File.open(path, flags)


def is_locked(path: Path) -> bool:
    """Whether anybody holds a lock."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def test_an_exclusive_lock_keeps_the_others_out(run: Run, path: Path) -> None:
    def main() -> None:
        with opened(path) as one, opened(path) as two:
            one.lock()
            assert not two.try_lock()
            assert not two.try_lock(shared=True)
            one.unlock()
            assert two.try_lock()
            assert not one.try_lock()

    run(main)
    assert not is_locked(path)


def test_shared_locks_share(run: Run, path: Path) -> None:
    def main() -> None:
        with opened(path) as one, opened(path) as two, opened(path) as three:
            one.lock(shared=True)
            two.lock(shared=True)
            assert not three.try_lock()
            assert three.try_lock(shared=True)

    run(main)


def test_a_lock_can_change_its_kind(run: Run, path: Path) -> None:
    def main() -> None:
        with opened(path) as one, opened(path) as two:
            one.lock(shared=True)
            one.lock()
            assert not two.try_lock(shared=True)
            one.lock(shared=True)
            assert two.try_lock(shared=True)

    run(main)


def test_a_waiting_fiber_parks_and_the_others_go_on(run: Run, path: Path) -> None:
    order: list[str] = []

    def main() -> None:
        with opened(path) as one, opened(path) as two:
            one.lock()

            def wait() -> None:
                two.lock()
                order.append("granted")

            waiting = ferrule.spawn(wait)
            for _ in range(3):
                ferrule.sleep(0.002)
                order.append("tick")
            one.unlock()
            waiting.result()

    run(main)
    assert order == ["tick", "tick", "tick", "granted"]


def test_a_lock_of_another_process_is_waited_for(run: Run, path: Path) -> None:
    read_fd, write_fd = os.pipe()
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        fd = os.open(path, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(write_fd, b"x")
        os.read(go_read, 1)
        os._exit(0)  # which gives the lock up
    os.read(read_fd, 1)

    def main() -> None:
        with opened(path) as file:
            assert not file.try_lock()
            waiting = ferrule.spawn(file.lock)
            ferrule.sleep(0.01)
            assert not waiting.done()
            os.write(go_write, b"x")
            with ferrule.fail_after(10):
                waiting.result()

    run(main)
    os.waitpid(pid, 0)
    for fd in (read_fd, write_fd, go_read, go_write):
        os.close(fd)


def test_many_waiters_are_all_let_in_one_at_a_time(run: Run, path: Path) -> None:
    inside = 0
    most = 0
    done = 0

    def work() -> None:
        nonlocal inside, most, done
        with opened(path) as file:
            file.lock()
            inside += 1
            most = max(most, inside)
            ferrule.yield_now()
            inside -= 1
            done += 1
            file.unlock()

    def main() -> None:
        tasks = [ferrule.spawn(work) for _ in range(60)]
        with ferrule.fail_after(20):
            for task in tasks:
                task.result()

    run(main)
    assert (most, done) == (1, 60)


# ---- cancelling ----


def test_a_cancelled_waiter_does_not_hold_the_lock(run: Run, path: Path) -> None:
    def main() -> None:
        with opened(path) as one, opened(path) as two:
            one.lock()
            waiting = ferrule.spawn(two.lock)
            ferrule.sleep(0.002)
            waiting.cancel()
            waiting.join()
            assert waiting.cancelled()
            one.unlock()
            assert not is_locked(path)

    run(main)


def test_a_wait_with_a_time_limit_ends(run: Run, path: Path) -> None:
    def main() -> None:
        with opened(path) as one, opened(path) as two:
            one.lock()
            with ferrule.move_on_after(0.01) as scope:
                two.lock()
            assert scope.cancelled_caught
            with pytest.raises(TimeoutError), ferrule.fail_after(0.01):
                two.lock(shared=True)

    run(main)


def test_hundreds_of_waiters_are_cancelled_at_any_moment(run: Run, path: Path) -> None:
    """The signal that interrupts a waiting thread may come before it waits, or after."""
    chance = random.Random(7)

    def main() -> None:
        holder = opened(path)
        for _ in range(5):
            holder.lock()
            files = [opened(path) for _ in range(60)]
            tasks = [ferrule.spawn(file.lock) for file in files]
            for task in chance.sample(tasks, len(tasks)):
                for _ in range(chance.randrange(3)):
                    ferrule.yield_now()
                task.cancel()
            with ferrule.fail_after(20):
                for task in tasks:
                    task.join()
            assert all(task.cancelled() for task in tasks)
            holder.unlock()
            assert not is_locked(path)
            for file in files:
                file.close()
        holder.close()

    run(main)


def test_a_cancel_that_races_with_the_grant_leaves_either_the_lock_or_none(
    run: Run, path: Path
) -> None:
    outcomes = set()

    def main() -> None:
        for rounds in range(200):
            with opened(path) as one, opened(path) as two:
                one.lock()
                held = []

                def take(two: File = two, held: list[bool] = held) -> None:
                    two.lock()
                    held.append(True)

                waiting = ferrule.spawn(take)
                for _ in range(1 + rounds % 7):
                    ferrule.yield_now()
                if rounds % 2:
                    ferrule.sleep(0.0005)
                one.unlock()
                waiting.cancel()
                waiting.join()
                outcomes.add(bool(held))
                assert is_locked(path) == bool(held)

    run(main)
    assert True in outcomes or False in outcomes


# ---- closing ----


def test_closing_ends_a_wait_with_EBADF_and_leaves_no_lock(run: Run, path: Path) -> None:
    def main() -> None:
        with opened(path) as one:
            one.lock()
            two = opened(path)
            other_descriptor = os.dup(two.fileno())  # of the same open file: it would keep a lock
            waiting = ferrule.spawn(two.lock)
            ferrule.sleep(0.002)
            two.close()
            with pytest.raises(OSError) as caught:
                waiting.result()
            assert caught.value.errno == errno.EBADF
            one.unlock()
            assert not is_locked(path)
            os.close(other_descriptor)

    run(main)


@pytest.mark.one_thread("nobody is to be told of the lock before the close")
def test_a_lock_that_is_granted_as_the_file_is_closed_is_given_up(run: Run, path: Path) -> None:
    holder = os.open(path, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)

    def main() -> None:
        file = opened(path)
        other_descriptor = os.dup(file.fileno())  # of the same open file: it would keep the lock
        waiting = ferrule.spawn(file.lock)
        ferrule.sleep(0.02)
        os.close(holder)
        time.sleep(0.05)  # it is granted, and the loop has not seen it
        file.close()
        with pytest.raises(OSError) as caught:
            waiting.result()
        assert caught.value.errno == errno.EBADF
        assert not is_locked(path)
        os.close(other_descriptor)

    run(main)


def test_closing_gives_the_lock_up(run: Run, path: Path) -> None:
    def main() -> None:
        file = opened(path)
        file.lock()
        assert is_locked(path)
        file.close()
        assert not is_locked(path)

    run(main)


def test_unlocking_in_a_cancelled_scope_works(run: Run, path: Path) -> None:
    def main() -> None:
        with opened(path) as file:
            file.lock()
            with ferrule.CancelScope() as scope:
                scope.cancel()
                file.unlock()
                assert not is_locked(path)

    run(main)


# ---- locks as open flags ----


def test_opening_with_a_lock(run: Run, path: Path) -> None:
    def main() -> None:
        with File.open(path, Open.READ_WRITE | Open.LOCK_EXCLUSIVE) as one:
            assert is_locked(path)
            with pytest.raises(BlockingIOError) as caught:
                File.open(path, Open.READ | Open.LOCK_SHARED | Open.LOCK_NOWAIT)
            assert caught.value.filename == str(path)
            waiting = ferrule.spawn(File.open, path, Open.READ | Open.LOCK_SHARED)
            ferrule.sleep(0.005)
            assert not waiting.done()
            one.unlock()
            with waiting.result() as two, opened(path) as three:
                assert three.try_lock(shared=True)
                two.unlock()

    run(main)


def test_a_file_is_truncated_only_once_it_is_locked(run: Run, path: Path) -> None:
    def main() -> None:
        with opened(path) as one:
            one.lock()
            flags = Open.WRITE | Open.CREATE | Open.TRUNCATE | Open.LOCK_EXCLUSIVE
            with pytest.raises(BlockingIOError):
                File.open(path, flags | Open.LOCK_NOWAIT)
            waiting = ferrule.spawn(File.open, path, flags)
            ferrule.sleep(0.005)
            assert path.read_bytes() == b"content"
            one.unlock()
            with waiting.result():
                assert path.read_bytes() == b""

    run(main)


def test_an_open_that_is_cancelled_while_it_waits_for_the_lock_leaves_nothing(
    run: Run, path: Path
) -> None:
    def main() -> None:
        with opened(path) as one:
            one.lock()
            with ferrule.move_on_after(0.005) as scope:
                File.open(path, Open.READ | Open.LOCK_EXCLUSIVE)
            assert scope.cancelled_caught

    run(main)
    assert not is_locked(path)
