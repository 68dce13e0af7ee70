"""RWLock: many readers or one writer, in the order of asking; nobody is starved."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
from ferrule import RWLock
from sync_support import OSThread, alarm, settle

Run = Callable[..., Any]
Sleep = Callable[[float], None]


def body(lock: RWLock, log: list[str], name: str, seconds: float = 0.001) -> None:
    with lock.write_lock() if name.startswith("w") else lock.read_lock():
        log.append(f"+{name}")
        ferrule.sleep(seconds)
        log.append(f"-{name}")


@pytest.mark.one_thread("they stand in the order of their spawning")
def test_readers_share_and_a_writer_is_alone(run: Run) -> None:
    def main() -> None:
        lock, log = RWLock(), list[str]()
        with ferrule.TaskGroup() as group:
            for name in ("r1", "r2", "w1", "w2", "r3", "r4"):
                group.spawn(body, lock, log, name)
        assert set(log[:2]) == {"+r1", "+r2"}
        assert log[4:8] == ["+w1", "-w1", "+w2", "-w2"]
        assert set(log[8:10]) == {"+r3", "+r4"}

    run(main)


def test_readers_cannot_starve_a_writer(run: Run) -> None:
    def main() -> None:
        lock, log = RWLock(), list[str]()

        def read_for_ever() -> None:
            while True:
                body(lock, log, "r")

        readers = [ferrule.spawn(read_for_ever) for _ in range(3)]
        ferrule.sleep(0.002)
        ferrule.spawn(body, lock, log, "w").result()
        for reader in readers:
            reader.cancel()

    run(main)


def test_writers_cannot_starve_a_reader(run: Run) -> None:
    def main() -> None:
        lock, log = RWLock(), list[str]()

        def write_for_ever() -> None:
            while True:
                body(lock, log, "w")

        writers = [ferrule.spawn(write_for_ever) for _ in range(3)]
        ferrule.sleep(0.002)
        ferrule.spawn(body, lock, log, "r").result()
        for writer in writers:
            writer.cancel()

    run(main)


def test_acquire_with_and_without_waiting(run: Run) -> None:
    def main() -> None:
        lock = RWLock()
        read, write = lock.read_lock(), lock.write_lock()
        assert read.acquire()
        assert (read.locked(), write.locked()) == (True, False)

        def attempts() -> list[bool]:
            return [
                write.acquire(False),
                write.acquire(timeout=0.005),
                write.acquire(timeout=0),
                read.acquire(False),
            ]

        assert ferrule.spawn(attempts).result() == [False, False, False, True]
        assert ferrule.blocking(attempts) == [False, False, False, True]
        for bad in ({"timeout": -2}, {"blocking": False, "timeout": 1}):
            with pytest.raises(ValueError):
                read.acquire(**bad)

    run(main)


def test_a_writer_that_gave_up_lets_the_readers_behind_it_go(run: Run) -> None:
    def main() -> None:
        for give_up in ("cancel", "timeout"):
            lock, log = RWLock(), list[str]()
            with lock.read_lock():
                timeout = 0.005 if give_up == "timeout" else -1
                writer = ferrule.spawn(lock.write_lock().acquire, True, timeout)
                settle()
                reader = ferrule.spawn(body, lock, log, "r")
                settle()
                assert log == []
                if give_up == "cancel":
                    writer.cancel()
                reader.result(1)
                assert log == ["+r", "-r"]

    run(main)


def test_who_reads_may_read_again_past_a_waiting_writer(run: Run) -> None:
    def main() -> None:
        lock, log = RWLock(), list[str]()
        with lock.read_lock():
            writer = ferrule.spawn(body, lock, log, "w")
            settle()
            with lock.read_lock():
                pass
            assert log == []
        writer.result()

    run(main)


def test_waiting_for_oneself_is_an_error(run: Run) -> None:
    def main() -> None:
        lock = RWLock()
        read, write = lock.read_lock(), lock.write_lock()
        for held, wanted in ((read, write), (write, read), (write, write)):
            with held:
                with pytest.raises(RuntimeError, match="main would wait for itself"):
                    wanted.acquire()
                assert not wanted.acquire(False)
        assert write.acquire(False)

    run(main)


def test_only_a_holder_may_release(run: Run) -> None:
    def main() -> None:
        lock = RWLock()
        read, write = lock.read_lock(), lock.write_lock()
        with read, pytest.raises(RuntimeError, match="un-acquired"):
            ferrule.spawn(read.release).result()
        with write:
            with pytest.raises(RuntimeError, match="un-acquired"):
                ferrule.blocking(write.release)
            with pytest.raises(RuntimeError, match="un-acquired"):
                read.release()
        for side in (read, write):
            with pytest.raises(RuntimeError, match="un-acquired"):
                side.release()

    run(main)


def test_a_grant_wins_over_a_cancellation_and_is_not_lost(run: Run) -> None:
    def main() -> None:
        for first in "wr":
            lock, log = RWLock(), list[str]()
            lock.write_lock().acquire()
            task = ferrule.spawn(body, lock, log, first)
            settle()
            lock.write_lock().release()
            task.cancel()
            task.join()
            assert log == [f"+{first}"]
            assert lock.write_lock().acquire(False)

    run(main)


@pytest.mark.parametrize("side", ["read_lock", "write_lock"])
def test_an_exception_of_a_signal_handler_gives_the_grant_back(side: str) -> None:
    lock = RWLock()

    def hold() -> None:
        lock.write_lock().acquire()
        while not handled:
            time.sleep(0.001)
        lock.write_lock().release()

    def handler() -> None:
        handled.append(1)
        holder.result()
        raise KeyboardInterrupt

    handled: list[int] = []
    holder = OSThread(hold)
    time.sleep(0.02)
    with alarm(0.02, handler), pytest.raises(KeyboardInterrupt):
        getattr(lock, side)().acquire()
    assert "unlocked" in repr(lock)


def test_threads_and_fibers_share_it_under_random_cancels(run: Run) -> None:
    seed = random.randrange(1 << 30)
    lock, readers, writers = RWLock(), 0, 0
    wrong: list[tuple[int, int]] = []

    def use(sleep: Sleep, dice: random.Random) -> None:
        nonlocal readers, writers
        for _ in range(30):
            writes = dice.random() < 0.3
            side = lock.write_lock() if writes else lock.read_lock()
            if not side.acquire(timeout=dice.choice([-1, 0.001, 0.0001, 0])):
                continue
            try:
                readers, writers = readers + (not writes), writers + writes
                if writers > 1 or (writers and readers):
                    wrong.append((readers, writers))
                sleep(dice.choice([0, 0, 0.0005]))
            finally:
                readers, writers = readers - (not writes), writers - writes
                side.release()

    def main() -> None:
        threads = [OSThread(use, time.sleep, random.Random(seed + n)) for n in range(3)]
        fibers = [ferrule.spawn(use, ferrule.sleep, random.Random(seed + 9 + n)) for n in range(6)]
        for n in range(4):
            ferrule.sleep(0.002)
            fibers[n].cancel()
        for fiber in fibers:
            fiber.join()
        for thread in threads:
            ferrule.blocking(thread.result)

    run(main)
    assert (readers, writers, wrong) == (0, 0, []), f"seed {seed}"
    assert lock.write_lock().acquire(False)


def test_what_can_be_seen(run: Run) -> None:
    lock = RWLock()

    def main() -> None:
        lock.read_lock().acquire()
        ferrule.spawn(lock.write_lock().acquire, name="writer")
        settle()
        assert "read by main" in repr(lock)
        lock.read_lock().release()
        assert "written by writer" in repr(lock.read_lock())
        lock.read_lock().acquire()

    with pytest.raises(ferrule.DeadlockError, match="an RWLock written by writer"):
        run(main)
