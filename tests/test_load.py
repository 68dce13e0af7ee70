"""More in flight than the queues hold, all of it complete at once: nothing is lost."""

from __future__ import annotations

import gc
import os
import resource
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ferrule
import ferrule.socket as fs
from ferrule import Clock
from net_support import Run, drain, fill, settle, statistics, tcp_pair, unix_pair

SQ_ENTRIES, CQ_ENTRIES, BUFFERS = 1024, 8192, 1024  # of the engine
MANY = CQ_ENTRIES + SQ_ENTRIES + 284


@contextmanager
def pipes(count: int) -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe() for _ in range(count)]
    try:
        yield made
    finally:
        for reader, writer in made:
            os.close(reader)
            os.close(writer)


def hold_up(seconds: float) -> None:
    """Keep the loop from collecting completions meanwhile."""
    time.sleep(seconds)


def overflowed() -> int:
    """How many completions the kernel keeps because the queue is full."""
    for fd in os.listdir("/proc/self/fd"):
        try:
            if "io_uring" in os.readlink(f"/proc/self/fd/{fd}"):
                text = Path(f"/proc/self/fdinfo/{fd}").read_text()
                return text.partition("CqOverflowList:")[2].count("user_data=")
        except FileNotFoundError:  # the one that listdir used
            continue
    return 0


# ---- the queues ----


@pytest.mark.parametrize("then", ["wait", "cancel"])
def test_completions_that_overflow_the_queue_are_all_delivered(run: Run, then: str) -> None:
    def main() -> None:
        woken = [0] * MANY

        def wait(number: int, fd: int) -> None:
            ferrule.wait_readable(fd)
            woken[number] += 1

        with pipes(1) as made:
            os.write(made[0][1], b"x")  # ready: each submission completes at once
            with ferrule.TaskGroup() as group:
                tasks = [group.spawn(wait, number, made[0][0]) for number in range(MANY)]
                last = group.spawn(overflowed)  # comes before the tick that collects
                last.join()
                if then == "cancel":
                    for task in tasks:
                        task.cancel()
            if last.result() == 0:
                pytest.skip("cannot here: the kernel shows no overflow of the queue")
            assert [task.cancelled() for task in tasks] == [not count for count in woken]
            # What the kernel had completed wins over the cancellation.
            assert sum(woken) == MANY if then == "wait" else sum(woken) >= CQ_ENTRIES
        assert statistics()["operations_in_flight"] == 0

    run(main)


def test_sleeps_of_the_past_overflow_the_queue_and_all_end(run: Run) -> None:
    def main() -> None:
        past = ferrule.now(Clock.REALTIME) - 10
        ended = []

        def sleep() -> None:
            ferrule.sleep_until(past, Clock.REALTIME)
            ended.append(1)

        with ferrule.TaskGroup() as group:
            for _ in range(2 * MANY):
                group.spawn(sleep)
        assert len(ended) == 2 * MANY

    run(main)


def test_more_completions_at_once_than_the_queue_holds_are_all_delivered(run: Run) -> None:
    def main() -> None:
        woken = [0] * MANY

        def wait(number: int, fd: int) -> None:
            ferrule.wait_readable(fd)
            woken[number] += 1

        with pipes(8) as made, ferrule.TaskGroup() as group:
            for number in range(MANY):
                group.spawn(wait, number, made[number % len(made)][0])
            settle(3)
            assert statistics()["operations_in_flight"] >= MANY
            assert not any(woken)
            for _, writer in made:
                os.write(writer, b"x")
            hold_up(0.05)
            group.wait()
        assert woken == [1] * MANY
        assert statistics()["operations_in_flight"] == 0

    run(main)


def test_timers_of_the_kernel_that_end_together_all_end(run: Run) -> None:
    def main() -> None:
        when = ferrule.now(Clock.REALTIME) + 1.0
        late = []

        def sleep() -> None:
            ferrule.sleep_until(when, Clock.REALTIME)
            late.append(ferrule.now(Clock.REALTIME) - when)

        with ferrule.TaskGroup() as group:
            for _ in range(MANY):
                group.spawn(sleep)
            settle(3)
            hold_up(max(0.0, when - time.time()) + 0.05)
        assert len(late) == MANY
        assert min(late) >= 0

    run(main)


def test_more_cancellations_at_once_than_the_queue_holds_all_arrive(run: Run) -> None:
    def main() -> None:
        with pipes(8) as made:
            with ferrule.TaskGroup() as group:
                tasks = [
                    group.spawn(ferrule.wait_readable, made[n % len(made)][0]) for n in range(MANY)
                ]
                settle(3)
                assert statistics()["operations_in_flight"] >= MANY
                group.cancel()
            assert all(task.cancelled() for task in tasks)
        assert statistics()["operations_in_flight"] == 0

    run(main)


def test_cancellations_that_meet_completions_in_a_full_queue_lose_neither(run: Run) -> None:
    def main() -> None:
        with pipes(8) as made:
            with ferrule.TaskGroup() as group:
                tasks = [
                    group.spawn(ferrule.wait_readable, made[n % len(made)][0]) for n in range(MANY)
                ]
                settle(3)
                for _, writer in made:
                    os.write(writer, b"x")
                for task in tasks[::2]:
                    task.cancel()
                hold_up(0.02)
                group.wait()
            assert all(task.done() for task in tasks)
            assert not any(task.cancelled() for task in tasks[1::2])
        assert statistics()["operations_in_flight"] == 0

    run(main)


def test_operations_cancelled_before_they_were_submitted_end_too(run: Run) -> None:
    def main() -> None:
        with pipes(1) as made, ferrule.TaskGroup() as group:
            tasks = [group.spawn(ferrule.wait_readable, made[0][0]) for _ in range(3 * SQ_ENTRIES)]
            ferrule.yield_now()  # each has queued its wait, and no tick has followed
            for task in tasks:
                task.cancel()
        assert all(task.cancelled() for task in tasks)
        assert statistics()["slots_in_use"] == 0

    run(main)


# ---- provided buffers ----


def needed_descriptors(count: int) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + 100:
        pytest.skip(f"cannot here: needs {count + 100} descriptors, the limit is {soft}")


@pytest.mark.parametrize("early", [True, False], ids=["data there", "data later"])
@pytest.mark.parametrize("size", [2, 4096, 10_000])
def test_more_receives_at_once_than_there_are_buffers_lose_nothing(
    run: Run, size: int, early: bool
) -> None:
    count = BUFFERS + 500
    needed_descriptors(2 * count)

    def send(pairs: list[tuple[Any, Any]]) -> None:
        for number, (_, other) in enumerate(pairs):
            assert other._sock.send(number.to_bytes(2, "big") * (size // 2)) == size

    def main() -> None:
        for _ in range(2):  # the buffers come back
            pairs = [fs.socketpair() for _ in range(count)]
            if early:  # submitted together, they are complete before any buffer is given back
                send(pairs)
            readers = [ferrule.spawn(drain, one, size) for one, _ in pairs]
            if not early:
                settle(3)
                send(pairs)
                hold_up(0.02)
            for number, reader in enumerate(readers):
                assert reader.result(timeout=20) == number.to_bytes(2, "big") * (size // 2)
            for pair in pairs:
                for sock in pair:
                    sock.close()

    run(main)


def test_receives_cancelled_as_their_data_come_give_their_buffers_back(run: Run) -> None:
    def main() -> None:
        pairs = [unix_pair() for _ in range(100)]
        socks = [pair.__enter__() for pair in pairs]
        for _ in range(3 * BUFFERS // len(pairs)):
            readers = [ferrule.spawn(one.recv, 10) for one, _ in socks]
            settle(1)
            for _, other in socks:
                other._sock.send(b"data")
            for reader in readers:
                reader.cancel()
            for reader, (one, _) in zip(readers, socks, strict=True):
                reader.join(timeout=5)
                one.settimeout(5)
                assert (one.recv(10) if reader.cancelled() else reader.result()) == b"data"
        for pair in pairs:
            pair.__exit__(None, None, None)

    run(main)


# ---- buffers of the caller ----


class Buffer(bytearray):
    """One that can be watched."""


def waits_that_hold_a_buffer(one: Any) -> list[Any]:
    return [lambda buffer: one.recv_into(buffer), lambda buffer: one.sendall(buffer)]


@pytest.mark.parametrize("which", [0, 1], ids=["recv_into", "sendall"])
def test_a_buffer_in_flight_cannot_be_resized_until_the_wait_has_ended(
    run: Run, which: int
) -> None:
    def main() -> None:
        with tcp_pair() as (client, _server):
            fill(client)
            buffer = bytearray(3_000_000)
            task = ferrule.spawn(waits_that_hold_a_buffer(client)[which], buffer)
            settle()
            for resize in (buffer.clear, lambda: buffer.append(0), lambda: buffer.extend(b"xyz")):
                with pytest.raises(BufferError):
                    resize()
            task.cancel()
            task.join(timeout=5)
            buffer.clear()

    run(main)


@pytest.mark.parametrize("which", [0, 1], ids=["recv_into", "sendall"])
def test_a_buffer_that_everyone_forgot_lives_as_long_as_it_is_in_flight(
    run: Run, which: int
) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            filled = fill(client)
            calls = waits_that_hold_a_buffer(client)
            buffer = Buffer(b"z" * 3_000_000)
            gone = weakref.ref(buffer)
            call = calls[which]
            task = ferrule.spawn(lambda held: call(held.pop()), [buffer])
            del buffer
            settle()
            gc.collect()
            assert gone() is not None
            if which == 0:
                server.sendall(b"late")
            else:
                assert drain(server, filled + 3_000_000).count(b"z") == 3_000_000
            task.join(timeout=5)
            del task
            gc.collect()
            assert gone() is None

    run(main)


def test_the_buffer_of_a_cancelled_receive_is_not_written_to_afterwards(run: Run) -> None:
    def main() -> None:
        with tcp_pair() as (client, server):
            buffers = [bytearray(64) for _ in range(50)]
            for buffer in buffers:
                task = ferrule.spawn(server.recv_into, buffer)
                settle(1)
                task.cancel()
                task.join(timeout=5)
                assert task.cancelled()
            client.sendall(b"x" * 64)
            assert drain(server, 64) == b"x" * 64
            settle()
            assert not any(any(buffer) for buffer in buffers)

    run(main)
