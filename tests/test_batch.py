"""ferrule.Batch: what every operation ends with, and that none is ever lost or left in flight."""

from __future__ import annotations

import concurrent.futures
import errno
import gc
import itertools
import os
import random
import socket as std
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import ferrule
import ferrule.socket
from ferrule import fs, ssl
from ferrule._core.batch import Completion
from ferrule._core.scheduler import current_thread_scheduler
from ferrule._core.sockets import SocketCore
from net_support import Run, drain, fill, inject, statistics, tcp_pair, unix_pair

SIZE = 1_000_000


@contextmanager
def file_of(tmp_path: Path, data: bytes) -> Iterator[fs.File]:
    path = tmp_path / "data"
    path.write_bytes(data)
    with fs.File.open(path, os.O_RDWR) as file:
        yield file


def only(batch: ferrule.Batch) -> Any:
    """The one completion that is outstanding."""
    assert len(batch) == 1
    [completion] = batch.wait()
    return completion


# ---- what the operations give ----

def test_reads_give_what_the_file_holds_each_with_its_index(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        data = random.Random(1).randbytes(SIZE)
        with file_of(tmp_path, data) as file, ferrule.Batch() as batch:
            offsets = list(range(0, SIZE, 7_777))
            assert [batch.add(file.pread, 7_777, at) for at in offsets] == list(range(len(offsets)))
            found = {completion.index: completion.result() for completion in batch}
            assert sorted(found) == list(range(len(offsets)))
            assert b"".join(found[index] for index in range(len(offsets))) == data
            assert len(batch) == 0

    run(main)


@pytest.mark.parametrize("size", [0, 1, 300_000, 5_000_000])
def test_a_transfer_of_any_size_is_whole(run: Run, tmp_path: Path, size: int) -> None:
    def main() -> None:
        data = random.Random(size).randbytes(size)
        buffer = bytearray(size + 5)
        with file_of(tmp_path, b"") as file, ferrule.Batch() as batch:
            batch.add(file.pwrite, data, 3)
            assert only(batch).result() == size
            batch.add(file.pread, size + 10, 3)
            assert only(batch).result() == data
            batch.add(file.readinto_at, buffer, 3)
            assert only(batch).result() == size
            assert buffer == data + bytes(5)

    run(main)


def test_the_calls_on_a_file(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        with file_of(tmp_path, b"abc") as file, ferrule.Batch() as batch:
            for operation, *args in [
                (file.fsync,), (file.fdatasync,), (file.truncate, 2), (file.fallocate, 0, 10_000),
            ]:
                batch.add(operation, *args)
                assert only(batch).result() is None
            assert file.stat().st_size == 10_000
            assert file.pread(4, 0) == b"ab\0\0"

    run(main)


def test_sockets_accept_receive_and_send(run: Run) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener, ferrule.Batch() as batch:
            batch.add(listener.accept)
            client = ferrule.connect_tcp(*listener.getsockname())
            server, address = only(batch).result()
            with client, server:
                assert address == client.getsockname() == server.getpeername()
                buffer = bytearray(10)
                receive = batch.add(client.recv, 100)
                into = batch.add(server.recv_into, buffer, 5)
                send = batch.add(server.send, b"to client")
                send_all = batch.add(client.sendall, b"to server")
                found = {done.index: done.result() for done in batch}
                assert found == {receive: b"to client", into: 5, send: 9, send_all: None}
                assert buffer == b"to se" + bytes(5)
                for operation in (client.recv, 0), (client.recv_into, bytearray()):
                    batch.add(*operation)
                    assert not only(batch).result()

    run(main)


def test_the_end_of_a_stream_is_received_as_nothing(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (one, other), ferrule.Batch() as batch:
            batch.add(one.recv, 10)
            other.shutdown(std.SHUT_WR)
            assert only(batch).result() == b""

    run(main)


def test_a_long_sendall_ends_when_all_was_taken(run: Run) -> None:
    def main() -> None:
        data = random.Random(5).randbytes(5_000_000)
        with tcp_pair() as (one, other), ferrule.Batch() as batch:
            batch.add(one.sendall, data)
            assert drain(other, len(data)) == data
            assert only(batch).result() is None

    run(main)


@pytest.mark.one_thread("they stand in the order of their spawning")
def test_what_is_sent_on_one_socket_keeps_its_order_with_fibers_and_batches(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (one, other), ferrule.Batch() as batch:
            filled = fill(one)
            sizes = [300_000, 1, 200_000, 7, 250_000]
            batch.add(one.sendall, b"0" * sizes[0])
            fiber = ferrule.spawn(one.sendall, b"1" * sizes[1])
            ferrule.yield_now()
            batch.add(one.sendall, b"2" * sizes[2])
            batch.add(one.sendall, b"3" * sizes[3])
            late = ferrule.spawn(one.sendall, b"4" * sizes[4])
            ferrule.yield_now()
            expected = b"".join(b"%d" % n * size for n, size in enumerate(sizes))
            assert drain(other, filled + sum(sizes))[filled:] == expected
            assert [done.index for done in batch] == [0, 1, 2]
            fiber.result()
            late.result()

    run(main)


def test_readiness_and_time(run: Run) -> None:
    def main() -> None:
        reader, writer = os.pipe()
        try:
            with ferrule.Batch() as batch:
                late = batch.add(ferrule.sleep, 0.05)
                soon = batch.add(ferrule.sleep, 0.03)
                writable = batch.add(ferrule.wait_writable, writer)
                readable = batch.add(ferrule.wait_readable, reader, timeout=10)
                never = batch.add(ferrule.wait_readable, reader, timeout=0.01)
                begin = time.monotonic()
                first = [done.index for done in batch.wait(2)]
                assert first[:2] == [writable, never]
                os.write(writer, b"x")
                rest = [*first[2:], *(done.index for done in batch.wait(5))]
                assert sorted(rest) == sorted([readable, soon, late])
                assert rest.index(soon) < rest.index(late)
                assert time.monotonic() - begin >= 0.045
        finally:
            os.close(reader)
            os.close(writer)

    run(main)


def test_completions_come_in_the_order_of_completing(run: Run) -> None:
    def main() -> None:
        pairs = [ferrule.socket.socketpair() for _ in range(20)]
        order = random.Random(3).sample(range(20), 20)
        with ferrule.Batch() as batch:
            for one, _ in pairs:
                batch.add(one.recv, 1)
            batch.completed()
            for index in order:
                pairs[index][1].sendall(b"x")
                assert only_index(batch) == index
        for one, other in pairs:
            one.close()
            other.close()

    def only_index(batch: ferrule.Batch) -> int:
        [completion] = batch.wait()
        return int(completion.index)

    run(main)


# ---- failures ----

def test_a_failure_is_the_completions_and_not_the_batches(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (one, other), ferrule.Batch() as batch:
            other.close()
            good = batch.add(ferrule.sleep, 0.01)
            batch.add(one.send, b"x")
            bad, fine = batch.wait(2)
            assert fine.index == good
            assert fine.exception() is None
            assert fine.result() is None
            assert isinstance(bad.exception(), BrokenPipeError)
            assert not bad.cancelled()
            for _ in range(2):
                with pytest.raises(BrokenPipeError):
                    bad.result()

    run(main)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOMEM, errno.EMFILE])
def test_an_injected_error_is_the_result(run: Run, error: int) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener, ferrule.Batch() as batch:
            inject("accept", error=error)
            batch.add(listener.accept)
            failure = only(batch).exception()
            assert isinstance(failure, OSError)
            assert failure.errno == error
            batch.add(listener.accept)  # and the next is as if nothing had been
            with ferrule.connect_tcp(*listener.getsockname()):
                only(batch).result()[0].close()

    run(main)


def test_an_interrupted_attempt_is_made_again(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        with file_of(tmp_path, b"data") as file, ferrule.Batch() as batch:
            inject("read", error=errno.EINTR)
            inject("read", 2, error=errno.EINTR)
            batch.add(file.pread, 4, 0)
            assert only(batch).result() == b"data"

    run(main)


def test_an_attempt_that_would_block_waits_for_readiness_and_is_made_again(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (one, other), ferrule.Batch() as batch:
            inject("recv", error=errno.EAGAIN)
            batch.add(one.recv, 10)
            assert batch.wait(1, 0.01) == []
            assert batch.completed() == []
            other.sendall(b"now")
            assert only(batch).result() == b"now"

    run(main)


def test_short_attempts_are_completed(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        with (
            file_of(tmp_path, b"0123456789") as file, unix_pair() as (one, other),
            ferrule.Batch() as batch,
        ):
            inject("read", shorten_to=3)
            batch.add(file.pread, 8, 1)
            assert only(batch).result() == b"12345678"
            inject("write", shorten_to=1)
            batch.add(file.pwrite, b"abcd", 2)
            assert only(batch).result() == 4
            assert file.pread(10, 0) == b"01abcd6789"
            inject("send", shorten_to=2)
            batch.add(one.sendall, b"all of it")
            assert only(batch).result() is None
            assert drain(other, 9) == b"all of it"
            inject("send", shorten_to=2)  # send takes what it can: one attempt
            batch.add(one.send, b"a part")
            assert only(batch).result() == 2

    run(main)


def test_a_read_that_fails_half_way_gives_what_it_has(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        with file_of(tmp_path, b"0123456789") as file, ferrule.Batch() as batch:
            inject("read", shorten_to=3)
            inject("read", 2, error=errno.EIO)
            batch.add(file.pread, 8, 1)
            assert only(batch).result() == b"123"

    run(main)


def test_a_sockets_timeout_ends_its_operation(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (one, other), ferrule.Batch() as batch:
            one.settimeout(0.02)
            batch.add(one.recv, 10)
            done = only(batch)
            assert isinstance(done.exception(), TimeoutError)
            assert not done.cancelled()
            one.settimeout(0)
            batch.add(one.recv, 10)
            assert isinstance(only(batch).exception(), BlockingIOError)
            with ferrule.listen_tcp("127.0.0.1", 0) as listener:
                listener.settimeout(0)
                batch.add(listener.accept)
                assert isinstance(only(batch).exception(), BlockingIOError)
            one.settimeout(10)
            batch.add(one.recv, 10)
            other.sendall(b"in time")
            assert only(batch).result() == b"in time"
            fill(one)
            one.settimeout(0.02)
            batch.add(one.sendall, b"x")
            batch.add(one.sendall, b"y")  # its time passes while it waits for its turn
            assert [type(done.exception()) for done in batch.wait(2)] == [TimeoutError] * 2

    run(main)


# ---- waiting ----

def test_wait_returns_once_n_have_completed_and_all_that_have(run: Run) -> None:
    def main() -> None:
        with ExitStack() as stack, ferrule.Batch() as batch:
            pairs = [stack.enter_context(unix_pair()) for _ in range(5)]
            for one, _ in pairs:
                batch.add(one.recv, 1)
            for _, other in pairs[:2]:
                other.sendall(b"x")
            assert sorted(done.index for done in batch.wait(2)) == [0, 1]
            for _, other in pairs[2:]:
                other.sendall(b"x")
            ferrule.sleep(0.02)
            assert sorted(done.index for done in batch.wait(2)) == [2, 3, 4]
            assert batch.wait() == []  # there is nothing to wait for
            batch.add(ferrule.sleep, 0)
            assert len(batch.wait(100)) == 1  # more than there are: all

    run(main)


def test_wait_gives_up_after_its_timeout_with_what_there_is(run: Run) -> None:
    def main() -> None:
        with ferrule.Batch() as batch:
            batch.add(ferrule.sleep, 0.01)
            batch.add(ferrule.sleep, 60)
            begin = time.monotonic()
            assert [done.index for done in batch.wait(2, 0.05)] == [0]
            assert batch.wait(1, 0) == []
            assert 0.05 <= time.monotonic() - begin < 30
            assert len(batch) == 1

    run(main)


def test_what_completes_with_the_timeout_is_not_lost(run: Run) -> None:
    def main() -> None:
        with ferrule.Batch() as batch:
            for _ in range(50):
                batch.add(ferrule.sleep, 0.002)
                found = batch.wait(1, 0.002)  # both are due in one tick
                found += batch.wait(1, 5) if not found else []
                assert len(found) == 1
                assert len(batch) == 0

    run(main)


def test_completed_starts_and_takes_without_waiting(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        with file_of(tmp_path, b"data") as file, ferrule.Batch() as batch:
            switches = statistics()["switches"]
            batch.add(file.pread, 4, 0)
            batch.add(ferrule.sleep, 60)
            with ferrule.no_switch():
                deadline = time.monotonic() + 10
                while not (found := batch.completed()):
                    assert time.monotonic() < deadline
            assert [done.result() for done in found] == [b"data"]
            assert batch.completed() == []
            assert statistics()["switches"] == switches

    run(main)


def test_other_fibers_run_while_a_batch_waits(run: Run) -> None:
    def main() -> None:
        seen = []
        with ferrule.Batch() as batch:
            batch.add(ferrule.sleep, 0.01)
            task = ferrule.spawn(seen.append, 1)
            batch.wait()
            assert seen == [1]
            task.result()

    run(main)


@pytest.mark.one_thread("fibers of one thread take turns")
def test_a_loop_over_a_batch_lets_other_fibers_run(run: Run) -> None:
    def main() -> None:
        ticks = 0

        def count() -> None:
            nonlocal ticks
            while True:
                ferrule.yield_now()
                ticks += 1

        task = ferrule.spawn(count)
        with ferrule.Batch() as batch:
            for _ in range(1000):
                inject("fsync", error=errno.EIO)  # completes at once, without a tick
                batch.add(os_file.fsync)
                only(batch)
        assert ticks > 5
        task.cancel()

    def with_file() -> None:
        nonlocal os_file
        with fs.File.open("/dev/null", os.O_WRONLY) as os_file:
            main()

    os_file: Any = None
    run(with_file)


def test_many_more_operations_than_the_rings_queues_hold(run: Run) -> None:
    def main() -> None:
        with ferrule.Batch(limit=50_000) as batch:
            pairs = [ferrule.socket.socketpair() for _ in range(100)]
            for _ in range(120):
                for one, _ in pairs:
                    batch.add(ferrule.wait_readable, one)
            assert batch.wait(1, 0.05) == []
            for _, other in pairs:
                other.sendall(b"x")
            assert len(batch.wait(12_000)) == 12_000
            for pair in pairs:
                for sock in pair:
                    sock.close()

    run(main)


# ---- cancelling ----

def test_cancel_ends_what_is_in_flight_and_leaves_results_alone(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        with file_of(tmp_path, b"data") as file, unix_pair() as (one, _), unix_pair() as (two, _):
            fill(one)
            with ferrule.Batch() as batch:
                batch.add(file.pread, 4, 0)
                waiting = [
                    batch.add(two.recv, 10),
                    batch.add(one.sendall, b"x" * SIZE),
                    batch.add(one.sendall, b"y"),
                    batch.add(ferrule.sleep, 60),
                    batch.add(ferrule.wait_writable, one),
                ]
                [first] = batch.wait()
                batch.cancel()
                batch.cancel()  # again: nothing more
                rest = batch.wait(len(waiting), 10)
                assert first.result() == b"data"
                assert sorted(done.index for done in rest) == waiting
                assert all(done.cancelled() for done in rest)
                with pytest.raises(concurrent.futures.CancelledError):
                    rest[-1].result()
                with pytest.raises(concurrent.futures.CancelledError):
                    rest[-1].exception()

    run(main)


def test_a_cancelled_receive_keeps_what_it_had_got(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (one, other), ferrule.Batch() as batch:
            other.sendall(b"half")
            batch.add(one.recv, 100, std.MSG_WAITALL)
            assert batch.wait(1, 0.02) == []
            batch.cancel()
            assert only(batch).result() == b"half"

    run(main)


def test_one_operation_is_cancelled_by_its_index(run: Run) -> None:
    def main() -> None:
        with ferrule.Batch() as batch:
            sleeps = [batch.add(ferrule.sleep, 0.2) for _ in range(3)]
            batch.cancel(sleeps[1])
            assert [(done.index, done.cancelled()) for done in batch.wait(3)] == [
                (1, True), (0, False), (2, False),
            ]
            batch.cancel(0)  # it has ended: nothing
            for index in (-1, 3):
                with pytest.raises(IndexError):
                    batch.cancel(index)

    run(main)


def test_a_cancelled_wait_leaves_the_operations_and_loses_nothing(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (one, other), ferrule.Batch() as batch:
            batch.add(one.recv, 10)
            batch.add(ferrule.sleep, 0)
            with ferrule.move_on_after(0.02) as scope:
                batch.wait(2)
            assert scope.cancelled_caught
            assert len(batch) == 2
            other.sendall(b"later")
            assert [done.result() for done in batch.wait(2)] == [None, b"later"]

    run(main)


@pytest.mark.one_thread("the fiber must not run until this one lets it")
def test_a_wait_that_had_enough_when_it_was_cancelled_returns_it(run: Run) -> None:
    def main() -> None:
        def receive(sock: Any) -> Any:
            with ferrule.Batch() as batch:
                batch.add(sock.recv, 10)
                found = batch.wait()
                assert ferrule.cancel_requested()
                return found[0].result()

        with unix_pair() as (one, other), ferrule.Batch() as mine:
            task = ferrule.spawn(receive, one)
            ferrule.sleep(0.01)
            other.sendall(b"x")
            while "ready" not in repr(task):
                mine.completed()  # looks at the ring, and lets nobody run
            task.cancel()
            assert task.result() == b"x"

    run(main)


def test_every_point_of_a_batch_in_a_cancelled_scope(run: Run) -> None:
    def main() -> None:
        with ferrule.Batch() as batch, ferrule.CancelScope() as scope:
            batch.add(ferrule.sleep, 60)
            scope.cancel()
            for point in (
                lambda: batch.add(ferrule.sleep, 0), batch.wait, lambda: next(batch),
                lambda: batch.wait(1, 0),
            ):
                with pytest.raises(ferrule.Cancelled):
                    point()
            assert batch.completed() == []
            batch.cancel()
            assert [done.cancelled() for done in batch.completed()] == [True]

    run(main)


def test_a_batch_is_left_only_when_nothing_is_in_flight_even_when_cancelled(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (one, _):
            with ferrule.CancelScope() as scope:
                with ferrule.Batch() as batch:
                    for _ in range(10):
                        batch.add(one.recv, 10)
                    assert batch.completed() == []
                    assert statistics()["operations_in_flight"] == 10
                    scope.cancel()
                assert statistics()["operations_in_flight"] == 0
                assert statistics()["slots_in_use"] == 0
                ferrule.checkpoint()
            assert scope.cancelled_caught

    run(main)


def test_a_batch_left_by_an_exception_cancels_and_lets_it_pass(run: Run) -> None:
    def main() -> None:
        buffer = bytearray(10)
        with unix_pair() as (one, _), pytest.raises(ZeroDivisionError), ferrule.Batch() as batch:
            batch.add(one.recv_into, buffer)
            batch.add(ferrule.sleep, 60)
            with pytest.raises(BufferError):
                buffer.append(1)  # it is lent
            1 / 0  # noqa: B018
        buffer.append(1)
        assert statistics()["slots_in_use"] == 0

    run(main)


def test_accepted_sockets_that_nobody_took_are_closed(run: Run) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            clients = []
            with ferrule.Batch() as batch:
                for _ in range(3):
                    batch.add(listener.accept)
                    clients.append(ferrule.connect_tcp(*listener.getsockname()))
                handed_out = batch.wait(2)[0]
            assert [client.recv(1) for client in clients[1:]] == [b"", b""]
            conn, _ = handed_out.result()
            assert handed_out.result()[0] is conn
            conn.close()
            for client in clients:
                client.close()

    run(main)


def test_an_accept_that_is_cancelled_loses_no_connection(run: Run) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            taken = 0
            for _ in range(50):
                with ferrule.Batch() as batch:
                    batch.add(listener.accept)
                    batch.completed()
                    with ferrule.connect_tcp(*listener.getsockname()) as client:
                        batch.cancel()
                        done = only(batch)
                        if done.cancelled():
                            conn, _ = listener.accept()
                        else:
                            conn, _ = done.result()
                            taken += 1
                        with conn:
                            assert conn.getpeername() == client.getsockname()

    run(main)


# ---- closing meanwhile ----

def test_closing_ends_the_operations_on_it_with_ebadf(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        one, other = ferrule.socket.socketpair()
        listener = ferrule.listen_tcp("127.0.0.1", 0)
        with other, ferrule.Batch() as batch:
            fill(one)
            batch.add(one.recv, 10)
            batch.add(one.sendall, b"x")
            batch.add(one.sendall, b"y")
            batch.add(listener.accept)
            batch.completed()
            one.close()
            listener.close()
            ended = batch.wait(4, 10)
            assert [done.exception().errno for done in ended] == [errno.EBADF] * 4
            for operation in (one.recv, 1), (listener.accept,):
                with pytest.raises(OSError, match="Bad file descriptor"):
                    batch.add(*operation)

    run(main)


def test_closing_waits_until_the_kernel_has_let_go(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        data = random.Random(7).randbytes(SIZE)
        with ferrule.Batch() as batch:
            for _ in range(20):
                with file_of(tmp_path, data) as file:
                    for at in range(0, SIZE, 100_000):
                        batch.add(file.pread, 100_000, at)
                        batch.add(file.pwrite, data[at:at + 100_000], at)
                assert statistics()["operations_in_flight"] == 0
                for done in batch.wait(20):
                    failure = done.exception()
                    assert failure is None or failure.errno == errno.EBADF  # type: ignore[attr-defined]

    run(main)


# ---- dropped, and the end of the runtime ----

def enter_and_fill(listener: Any, sock: Any) -> ferrule.Batch:
    batch = ferrule.Batch()
    batch.__enter__()
    batch.add(listener.accept)
    batch.add(sock.recv_into, bytearray(10))
    batch.add(ferrule.sleep, 60)
    batch.completed()
    return batch


def test_a_batch_that_is_dropped_cancels_what_is_in_flight(run: Run) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener, unix_pair() as (one, _):
            before = statistics()
            batch = enter_and_fill(listener, one)
            del batch
            until_equal(before)

    def until_equal(before: Any) -> None:
        names = ("slots_in_use", "operations_in_flight", "timers")
        deadline = time.monotonic() + 10
        while [statistics()[name] for name in names] != [before[name] for name in names]:
            assert time.monotonic() < deadline
            ferrule.yield_now()

    run(main)


def test_a_batch_dropped_in_another_thread_cancels_in_its_own(run: Run) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener, unix_pair() as (one, _):
            before = statistics()["slots_in_use"]
            holder = [enter_and_fill(listener, one)]
            thread = threading.Thread(target=holder.clear)
            thread.start()
            thread.join()
            deadline = time.monotonic() + 10
            while statistics()["slots_in_use"] != before or statistics()["timers"]:
                assert time.monotonic() < deadline
                ferrule.yield_now()

    run(main)


def test_a_connection_that_a_dropped_batch_accepts_is_closed(run: Run) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener, unix_pair() as (one, _):
            batch = enter_and_fill(listener, one)
            with ferrule.connect_tcp(*listener.getsockname()) as client:
                ferrule.sleep(0.01)  # the accept has completed
                del batch
                gc.collect()
                assert client.recv(1) == b""

    run(main)


@pytest.mark.parametrize("dropped", [True, False])
def test_the_end_of_the_runtime_frees_what_a_batch_had_in_flight(run: Run, dropped: bool) -> None:
    kept: list[Any] = []
    buffer = bytearray(10)

    def main() -> None:
        listener = ferrule.listen_tcp("127.0.0.1", 0)
        one, other = ferrule.socket.socketpair()
        batch = ferrule.Batch()
        batch.__enter__()
        batch.add(one.recv_into, buffer)
        batch.add(listener.accept)
        batch.completed()
        kept.extend([listener, one, other])
        if not dropped:
            kept.append(batch)

    run(main)
    buffer.append(1)  # nobody holds it any more
    for sock in kept[:3]:
        sock.close()
    kept.clear()


def test_main_returning_cancels_tasks_and_their_batches(run: Run) -> None:
    left = []

    def task(sock: Any) -> None:
        with ferrule.Batch() as batch:
            batch.add(sock.recv, 1)
            try:
                batch.wait()
            finally:
                left.append(len(batch))

    def main() -> None:
        pair = ferrule.socket.socketpair()
        ferrule.spawn(task, pair[0]).add_done_callback(lambda _: [s.close() for s in pair])
        ferrule.sleep(0.01)

    run(main)
    assert left == [1]


def test_a_failure_inside_no_switch_frees_everything_all_the_same(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (one, _):
            with (
                ferrule.no_switch(), pytest.raises(RuntimeError, match="no_switch"),
                ferrule.Batch() as batch,
            ):
                batch.add(one.recv, 1)
                batch.add(ferrule.sleep, 60)
            deadline = time.monotonic() + 10
            while statistics()["slots_in_use"] or statistics()["timers"]:
                assert time.monotonic() < deadline
                ferrule.yield_now()

    run(main)


# ---- several threads ----

def test_batches_and_fibers_of_several_threads_take_turns_to_send(run: Run) -> None:
    size = 100_000

    def send(sock: Any, letter: int) -> int:
        data = bytes([letter]) * size
        if letter % 2:
            sock.sendall(data)
        else:
            with ferrule.Batch() as batch:
                batch.add(sock.sendall, data)
                assert only(batch).result() is None
        return threading.get_ident()

    def main() -> set[int]:
        with unix_pair() as (one, other):
            tasks = [ferrule.spawn(send, one, letter) for letter in range(40)]
            data = drain(other, size * len(tasks))
            runs = [letter for letter, _ in itertools.groupby(data)]
            assert sorted(runs) == list(range(40))  # each in one piece
            return {task.result() for task in tasks}

    run(main, threads=3)


def test_a_turn_that_comes_from_another_thread_meets_a_cancelled_operation(run: Run) -> None:
    def send_and_cancel(sock: Any) -> None:
        with ferrule.Batch() as batch:
            batch.add(sock.sendall, b"x" * 1000)
            ferrule.sleep(random.random() / 1000)

    def main() -> None:
        with unix_pair() as (one, other), ferrule.TaskGroup() as group:
            for _ in range(300):
                group.spawn(send_and_cancel, one)
                group.spawn(one.sendall, b"y" * 1000)
            group.spawn(swallow, other, 300 * 1000)
        assert statistics()["slots_in_use"] == 0

    def swallow(sock: Any, letters: int) -> None:
        while letters:
            letters -= sock.recv(65536).count(b"y")

    run(main, threads=3)


# ---- misuse ----

@pytest.mark.parametrize(
    ("add", "error", "message"),
    [
        (lambda b, f, s: b.add(print, 1), TypeError, "cannot do print"),
        (lambda b, f, s: b.add(lambda: 1), TypeError, "spawn a task"),
        (lambda b, f, s: b.add(7), TypeError, "cannot do int"),
        (lambda b, f, s: b.add([]), TypeError, "cannot do list"),
        (lambda b, f, s: b.add(f.read, 1), TypeError, "cannot do File.read"),
        (lambda b, f, s: b.add(), TypeError, "argument"),
        (lambda b, f, s: b.add(f.pread, 1), TypeError, "argument"),
        (lambda b, f, s: b.add(fs.File.pread, None, 1, 0), TypeError, "None"),
        (lambda b, f, s: b.add(fs.File.pread, s, 1, 0), TypeError, "type"),
        (lambda b, f, s: b.add(f.pread, -1, 0), ValueError, "size"),
        (lambda b, f, s: b.add(f.pread, 1, -1), ValueError, "offset"),
        (lambda b, f, s: b.add(f.pread, 1 << 62, 0), MemoryError, "^$"),
        (lambda b, f, s: b.add(f.pread, 1 << 70, 0), OverflowError, "large|big"),
        (lambda b, f, s: b.add(f.readinto_at, b"fixed", 0), TypeError, "read-write"),
        (lambda b, f, s: b.add(f.pwrite, "text", 0), TypeError, "bytes-like"),
        (lambda b, f, s: b.add(s.recv, -1), ValueError, "negative"),
        (lambda b, f, s: b.add(s.recv_into, bytearray(1), 2), ValueError, "too small"),
        (lambda b, f, s: b.add(s.send, None), TypeError, "bytes-like"),
        (lambda b, f, s: b.add(ferrule.wait_readable, -1), ValueError, "negative"),
        (lambda b, f, s: b.add(ferrule.wait_readable, 0, -1), ValueError, "negative"),
        (lambda b, f, s: b.add(ferrule.sleep, -1), ValueError, "negative"),
        (lambda b, f, s: b.add(ferrule.sleep, None), TypeError, "number"),
        (lambda b, f, s: b.wait(0), ValueError, "at least 1"),
        (lambda b, f, s: b.wait("one"), TypeError, "integer"),
        (lambda b, f, s: b.wait(1, -1), ValueError, "negative"),
        (lambda b, f, s: b.cancel("one"), TypeError, "integer"),
        (lambda b, f, s: b.__enter__(), RuntimeError, "entered once"),
        (lambda b, f, s: ferrule.Batch(limit=0), ValueError, "limit"),
    ],
)
def test_wrong_use_is_said_at_once_and_leaves_nothing(
    run: Run, tmp_path: Path, add: Callable[..., Any], error: type[Exception], message: str
) -> None:
    def main() -> None:
        with file_of(tmp_path, b"data") as file, unix_pair() as (one, _), ferrule.Batch() as batch:
            with pytest.raises(error, match=message):
                add(batch, file, one)
            assert len(batch) == 0
            assert batch.add(file.pread, 4, 0) == 0  # it took no index
            assert only(batch).result() == b"data"

    run(main)


def test_an_overridden_method_is_not_bypassed(run: Run) -> None:
    class Counting(ferrule.socket.socket):
        def recv(self, bufsize: int, flags: int = 0) -> bytes:
            raise AssertionError("never called")

    class Plain(ferrule.socket.socket):
        pass

    def main() -> None:
        with (
            Counting(std.AF_INET, std.SOCK_DGRAM) as mine, Plain(std.AF_UNIX) as plain,
            ferrule.Batch() as batch,
        ):
            with pytest.raises(TypeError, match=r"cannot do .*Counting\.recv"):
                batch.add(mine.recv, 1)
            batch.add(plain.recv, 1)  # inherited: the same method
            assert isinstance(only(batch).exception(), OSError)

    run(main)


def test_a_wrapper_that_took_a_functions_name_is_not_mistaken_for_it(run: Run) -> None:
    import functools

    @functools.wraps(ferrule.wait_readable)
    def logged(fd: int, timeout: float | None = None) -> None:
        raise AssertionError("never called")

    def main() -> None:
        with ferrule.Batch() as batch, pytest.raises(TypeError, match="cannot do wait_readable"):
            batch.add(logged, 0)

    run(main)


def test_a_tls_socket_is_refused_whose_bytes_are_not_the_kernels() -> None:
    for name in ("recv", "recv_into", "send", "sendall"):
        assert getattr(ssl.SSLSocket, name) is not getattr(SocketCore, name)


def test_the_limit_counts_what_was_not_handed_out(run: Run) -> None:
    def main() -> None:
        with ferrule.Batch(limit=2) as batch:
            batch.add(ferrule.sleep, 0)
            batch.add(ferrule.sleep, 60)
            with pytest.raises(RuntimeError, match=r"2 operations .* limit"):
                batch.add(ferrule.sleep, 0)
            batch.wait()
            assert batch.add(ferrule.sleep, 0) == 2

    run(main)


def test_a_batch_belongs_to_its_task_and_block(run: Run) -> None:
    def main() -> None:
        batch = ferrule.Batch()
        assert len(batch) == 0
        uses = (lambda: batch.add(ferrule.sleep, 0), batch.wait, batch.completed, batch.cancel)
        for use in uses:
            with pytest.raises(RuntimeError, match="with statement"):
                use()
        with batch:
            for use in (*uses, lambda: next(batch), lambda: batch.__exit__(None, None, None)):
                task = ferrule.spawn(use)
                with pytest.raises(RuntimeError, match="belongs to the task"):
                    task.result()
            assert batch.add(ferrule.sleep, 0) == 0
        for use in uses:
            with pytest.raises(RuntimeError, match="with statement"):
                use()

    run(main)
    with pytest.raises(RuntimeError, match="needs a runtime"):
        ferrule.Batch().__enter__()


def test_a_completion_is_made_by_no_user() -> None:
    with pytest.raises(TypeError, match="come out of a Batch"):
        Completion()  # type: ignore[call-arg, unused-ignore]


@pytest.mark.one_thread("what was spawned has to have run by the next switch")
def test_a_deadlock_report_and_inspection_name_what_a_batch_waits_for(run: Run) -> None:
    def main() -> None:
        with unix_pair() as (one, _):
            def wait() -> None:
                with ferrule.Batch() as batch:
                    batch.add(one.recv, 1)
                    batch.add(ferrule.sleep, 60)
                    batch.wait(2)

            task = ferrule.spawn(wait, name="waiter")
            ferrule.yield_now()
            described = dict(current_thread_scheduler().waiting())["waiter"]
            fd = one.fileno()
            assert described == f"2 of 2 operations of a batch: recv on fd {fd}, a timer"
            task.cancel()
            task.join()

    run(main)


def test_random_programs_end_with_every_operation_accounted_for(run: Run, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)

    def one_program() -> None:
        pairs = [ferrule.socket.socketpair() for _ in range(3)]
        socks = [sock for pair in pairs for sock in pair]
        added, seen = set(), set()
        with (
            file_of(tmp_path, bytes(100_000)) as file, ferrule.move_on_after(5) as scope,
            ferrule.Batch() as batch,
        ):
            for _ in range(rng.randrange(60)):
                sock = rng.choice(socks)
                choice = rng.randrange(10)
                try:
                    if choice == 0:
                        added.add(batch.add(file.pread, rng.randrange(99_999), 5))
                    elif choice == 1:
                        added.add(batch.add(file.pwrite, b"x" * rng.randrange(50_000), 0))
                    elif choice == 2:
                        added.add(batch.add(sock.recv, rng.randrange(1, 1000)))
                    elif choice == 3:
                        added.add(batch.add(sock.sendall, bytes(rng.randrange(300_000))))
                    elif choice == 4:
                        added.add(batch.add(ferrule.sleep, rng.random() / 300))
                    elif choice == 5:
                        added.add(batch.add(ferrule.wait_readable, sock, rng.random() / 300))
                    elif choice == 6 and added:
                        batch.cancel(rng.choice(sorted(added)))
                    elif choice == 7 and rng.random() < 0.3:
                        sock.close()
                    elif choice == 8:
                        inject(rng.choice(["read", "write", "recv", "send", "poll"]),
                               rng.randrange(1, 3),
                               error=rng.choice([errno.EAGAIN, errno.EINTR, errno.ENOMEM]))
                    else:
                        seen |= take(batch.wait(rng.randrange(1, 4), rng.random() / 300))
                except (OSError, ValueError):
                    assert sock.fileno() < 0
            if rng.random() < 0.5:
                batch.cancel()
                seen |= take(batch.wait(1000))
                assert seen == added
        current_thread_scheduler().forget_faults()
        assert not scope.cancelled_caught
        for sock in socks:
            sock.close()
        figures = statistics()
        assert (figures["slots_in_use"], figures["operations_in_flight"]) == (0, 0)

    def take(completions: list[Any]) -> set[int]:
        for done in completions:
            if not done.cancelled():
                assert done.exception() is None or isinstance(done.exception(), OSError)
        return {done.index for done in completions}

    def main() -> None:
        for _ in range(100):
            one_program()

    run(main)
