"""The I/O queue when something goes wrong: cancels, refusals, many threads, forks and the end."""

from __future__ import annotations

import errno
import gc
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

import ferrule
from ferrule.ioqueue import IOQueue, QueueFull, Request

Run = Callable[..., Any]
RunScript = Callable[..., CompletedProcess[str]]

IN_RING = ("open", "close", "stat", "read", "write", "fsync", "nop")


def result(request: Request | None) -> Any:
    assert request is not None
    return request.result()


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


# ---- cancel ----


def close_all(popped: list[Request]) -> int:
    """Close what was opened; how many requests had a result."""
    for request in popped:
        if request.operation == "open" and request.error is None:
            os.close(request.value)
    return sum(request.error is None for request in popped)


@pytest.mark.parametrize("in_ring", [(), IN_RING], ids=["calls", "ring"])
def test_a_cancel_at_any_point_answers_everything_and_loses_no_descriptor(
    in_ring: tuple[str, ...],
) -> None:
    rng = random.Random(7)
    for _ in range(60):
        with IOQueue(threads=rng.randint(1, 3), in_ring=in_ring) as queue:
            requests = [
                rng.choice((queue.open, queue.opendir, queue.stat, queue.read_file))(path)
                for path in rng.choices(["/", "/etc/passwd", "/no/such"], k=rng.randint(1, 200))
            ]
            if rng.random() < 0.5:
                queue.flush()
            time.sleep(rng.choice([0, 0.0001, 0.001]))
            queue.cancel()
            popped = queue.drain(timeout=10)
            assert set(popped) == set(requests)
            for request in popped:
                if request.operation == "opendir" and request.error is None:
                    request.value.close()
            close_all(popped)


@pytest.mark.parametrize("in_ring", [(), IN_RING], ids=["calls", "ring"])
def test_a_close_at_any_point_loses_no_descriptor(in_ring: tuple[str, ...]) -> None:
    rng = random.Random(11)
    for _ in range(40):
        queue = IOQueue(threads=rng.randint(1, 3), in_ring=in_ring)
        requests = [queue.open("/") for _ in range(rng.randint(1, 200))]
        opened = close_all(queue.pop_many(5, block=False))
        time.sleep(rng.choice([0, 0.0001, 0.001]))
        queue.close()
        assert opened <= 5
        assert all(request.done for request in requests)


def test_cancel_may_be_called_again_and_from_any_thread() -> None:
    with IOQueue() as queue:
        queue.nop()
        threads = [threading.Thread(target=queue.cancel) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        queue.cancel()
        assert queue.cancelled
        assert len(queue.drain(timeout=10)) == 1


def test_requests_after_the_cancel_are_refused_and_many_too() -> None:
    with IOQueue() as queue:
        queue.cancel()
        with pytest.raises(InterruptedError):
            queue.stat("/")
        with pytest.raises(InterruptedError):
            queue.stat_many(["/"])


def test_a_fiber_that_is_cancelled_amid_many_goes_at_once(run: Run, fifo: Path) -> None:
    def main() -> None:
        with IOQueue(threads=1, use_ring=False) as queue:
            blocked = queue.open(fifo)
            queue.flush()
            with ferrule.move_on_after(0.02) as scope:
                queue.read_files(["/etc/passwd"] * 1000)
            assert scope.cancelled_caught
            writer = os.open(fifo, os.O_RDWR)
            assert queue.pop() is blocked
            os.close(result(blocked))
            os.close(writer)
            assert len(queue.read_files(["/etc/passwd"] * 600)) == 600

    run(main)


# ---- a request that hangs ----


def test_a_request_that_hangs_holds_up_none_behind_it(fifo: Path) -> None:
    with IOQueue(threads=2, use_ring=False) as queue:
        queue.open(fifo)
        rest = [queue.stat("/") for _ in range(500)]
        assert set(queue.pop_many(500, timeout=10)) <= set(rest)
        while queue.in_flight > 1:
            queue.pop(timeout=10)
        queue.cancel()


def test_a_ring_that_waits_takes_what_comes(fifo: Path) -> None:
    reader, writer = os.pipe()
    with IOQueue(threads=1) as queue:
        waiting = queue.read(reader, 1)
        for _ in range(20):
            request = queue.stat("/")
            assert queue.pop(timeout=10) is request
        os.write(writer, b"x")
        assert queue.pop(timeout=10) is waiting
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("use_ring", [True, False])
def test_close_interrupts_reads_that_nobody_answers(use_ring: bool) -> None:
    reader, writer = os.pipe()
    queue = IOQueue(threads=2, use_ring=use_ring)
    requests = [queue.read(reader, 1) for _ in range(2)]
    queue.flush()
    time.sleep(0.02)
    started = time.monotonic()
    queue.close()
    assert time.monotonic() - started < 5
    assert all(isinstance(request.error, InterruptedError) for request in requests)
    os.close(reader)
    os.close(writer)


# ---- faults ----


def test_without_a_ring_everything_is_done_by_calls(tmp_path: Path) -> None:
    with IOQueue(in_ring=IN_RING) as queue:
        queue.inject_fault("ring", 1, error=errno.EPERM)
        queue.write_files([(tmp_path / str(n), b"x") for n in range(300)])
        assert len(queue.stat_many(["/"] * 300)) == 300
        facts = queue.statistics()
        assert facts["rings"] <= queue.threads - 1
        assert facts["ring_error"].errno == errno.EPERM


def test_rings_are_used_when_they_are_asked_for() -> None:
    with IOQueue(in_ring=IN_RING) as queue:
        queue.stat_many(["/"] * 300)
        facts = queue.statistics()
        if facts["ring_error"]:
            pytest.skip(f"cannot here: {facts['ring_error']}")
        assert facts["ring_operations"] == 300
        assert 1 <= facts["rings"] <= queue.threads


def test_a_warm_queue_needs_no_ring_at_all(tmp_path: Path) -> None:
    with IOQueue() as queue:
        queue.stat_many(["/"] * 300)
        assert queue.statistics()["rings"] == 0


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.EBUSY, errno.EINTR])
@pytest.mark.parametrize("nth", [1, 2, 5])
def test_a_submission_that_fails_for_now_is_made_again(error: int, nth: int) -> None:
    with IOQueue(threads=1, in_ring=IN_RING) as queue:
        for more in range(5):
            queue.inject_fault("enter", nth + more, error=error)
        assert len(queue.stat_many(["/"] * 500)) == 500


@pytest.mark.parametrize("nth", [1, 2, 3, 10])
def test_a_ring_that_breaks_loses_no_request(nth: int) -> None:
    with IOQueue(threads=1, in_ring=IN_RING) as queue:
        queue.inject_fault("enter", nth, error=errno.EBADR)
        found = queue.stat_many(["/"] * 500, return_errors=True)
        assert len(found) == 500
        for one in found:
            assert not isinstance(one, OSError) or one.errno == errno.EBADR
        assert len(queue.stat_many(["/"] * 500)) == 500  # by calls


def test_no_memory_for_a_request_is_a_memory_error_and_takes_no_room() -> None:
    with IOQueue() as queue:
        queue.inject_fault("memory", 1, error=errno.ENOMEM)
        with pytest.raises(MemoryError):
            queue.nop()
        assert len(queue) == 0
        queue.nop()
        assert queue.pop(timeout=10) is not None


STEPS = [("openat", errno.EMFILE), ("read", errno.EIO), ("close", errno.EIO)]


@pytest.mark.parametrize(("step", "error"), STEPS)
@pytest.mark.parametrize("in_ring", [(), IN_RING], ids=["calls", "ring"])
def test_a_step_that_fails_is_the_error_of_the_whole_and_loses_no_descriptor(
    step: str, error: int, in_ring: tuple[str, ...]
) -> None:
    with IOQueue(threads=1, in_ring=in_ring) as queue:
        queue.inject_fault(step, 1, error=error)
        request = queue.read_file("/etc/passwd")
        assert queue.pop(timeout=10) is request
        assert request.error is not None
        assert request.error.errno == error
        request = queue.read_file("/etc/passwd")
        assert queue.pop(timeout=10) is request
        assert request.error is None


def test_entries_that_cannot_be_read_leave_the_directory_open() -> None:
    with IOQueue(threads=1) as queue:
        queue.inject_fault("getdents", 1, error=errno.EIO)
        queue.opendir("/")
        with result(queue.pop(timeout=10)) as directory:
            assert directory.entries == []
            assert not directory.complete
            queue.readdir(directory)
            assert result(queue.pop(timeout=10))


def test_a_queue_without_descriptors_is_refused_and_leaves_nothing(
    run_script: RunScript,
) -> None:
    done = run_script(
        "import os, resource\n"
        "from ferrule.ioqueue import IOQueue\n"
        "lowest = os.dup(0); os.close(lowest)\n"
        "for room in range(2):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + room, 1000))\n"
        "    try: IOQueue()\n"
        "    except OSError as exc: print(exc.errno)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 2, 1000))\n"
        "with IOQueue() as queue: print(queue.stat('/').operation)\n"
        "while len(os.listdir('/proc/self/task')) > 1: pass\n"  # until they have ended
    )
    assert done.stdout.split() == ["24", "24", "stat"], done.stderr


def test_a_queue_whose_threads_cannot_all_start_leaves_none(run_script: RunScript) -> None:
    done = run_script(
        "import os, resource\n"
        "from ferrule.ioqueue import IOQueue\n"
        "IOQueue().close()\n"
        "fds = os.listdir('/proc/self/fd')\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "limit = resource.getrlimit(resource.RLIMIT_AS)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), limit[1]))\n"
        "try: IOQueue(threads=1024)\n"
        "except OSError as exc: print(exc.errno)\n"
        "resource.setrlimit(resource.RLIMIT_AS, limit)\n"
        "while len(os.listdir('/proc/self/task')) > 1: pass\n"  # until they have ended
        "print(os.listdir('/proc/self/fd') == fds)\n"
        "with IOQueue(threads=100) as queue: print(len(queue.stat_many(['/'] * 300)))\n"
    )
    assert done.stdout.split() == [str(errno.EAGAIN), "True", "300"], done.stderr


def test_no_memory_for_the_paths_of_a_request_takes_no_room(run_script: RunScript) -> None:
    done = run_script(
        "import resource\n"
        "from ferrule.ioqueue import IOQueue\n"
        "path = 'x' * (256 << 20)\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "with IOQueue() as queue:\n"
        "    queue.stat('/')\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), -1))\n"
        "    try: queue.stat(path)\n"
        "    except MemoryError as exc: print(exc)\n"
        "    print(len(queue), len(queue.drain()), len(queue))\n"
    )
    lines = done.stdout.splitlines()
    assert lines == ["no memory for the paths of a request", "1 1 0"], done.stderr


# ---- threads ----


def test_eight_threads_submit_and_pop_at_once() -> None:
    with IOQueue(depth=64) as queue:
        popped: list[int] = []
        errors: list[BaseException] = []
        per_thread = 2000

        def body(number: int) -> None:
            mine: list[int] = []
            left = per_thread
            try:
                while left or queue.in_flight or queue.ready:
                    if left:
                        try:
                            queue.nop(user_data=number * per_thread + left)
                            left -= 1
                            continue
                        except QueueFull:
                            pass
                    mine += [request.user_data for request in queue.pop_many(8, timeout=30)]
            except BaseException as exc:
                errors.append(exc)
            popped.extend(mine)

        threads = [threading.Thread(target=body, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        popped += [request.user_data for request in queue.drain(timeout=10)]
        assert errors == []
        assert len(popped) == len(set(popped)) == 8 * per_thread


def test_threads_that_submit_during_the_cancel_are_answered_or_refused() -> None:
    for _ in range(20):
        with IOQueue(depth=10_000) as queue:
            accepted: list[Request] = []

            def body(queue: IOQueue = queue, accepted: list[Request] = accepted) -> None:
                try:
                    while True:
                        accepted.append(queue.nop())
                except (InterruptedError, QueueFull):
                    pass

            threads = [threading.Thread(target=body) for _ in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(0.001)
            queue.cancel()
            for thread in threads:
                thread.join()
            assert set(queue.drain(timeout=10)) == set(accepted)


def test_threads_that_submit_during_the_close_are_answered_or_refused() -> None:
    for number in range(20):
        queue = IOQueue(depth=10_000)
        accepted: list[Request] = []
        refused: list[BaseException] = []

        def body(
            queue: IOQueue = queue,
            accepted: list[Request] = accepted,
            refused: list[BaseException] = refused,
        ) -> None:
            try:
                while True:
                    accepted.append(queue.nop())
                    queue.read_files(["/etc/passwd"] * 3)
            except (ValueError, InterruptedError, QueueFull) as exc:
                refused.append(exc)

        threads = [threading.Thread(target=body) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.001 * (number % 3))
        queue.close()
        for thread in threads:
            thread.join(10)
        assert len(refused) == 4
        assert all(request.done for request in accepted)


def test_one_thread_submits_while_another_waits() -> None:
    reader, writer = os.pipe()
    with IOQueue() as queue:
        queue.read(reader, 1)  # so that there is something to wait for
        found: list[Request | None] = []
        thread = threading.Thread(target=lambda: found.append(queue.pop(timeout=10)))
        thread.start()
        time.sleep(0.02)
        request = queue.nop()  # not flushed: it goes at once, since somebody waits
        thread.join(10)
        assert found == [request]
    os.close(reader)
    os.close(writer)


def test_many_calls_at_once_from_fibers_and_threads(run: Run) -> None:
    def main() -> None:
        with IOQueue() as queue:
            with ferrule.TaskGroup() as group:
                tasks = [group.spawn(queue.stat_many, ["/"] * 700) for _ in range(10)]
                call = group.spawn(ferrule.blocking, queue.stat_many, ["/"] * 700)
            assert [len(task.result()) for task in [*tasks, call]] == [700] * 11

    run(main)


def test_many_calls_at_once_wait_for_room_in_their_fibers_alone(run: Run, fifo: Path) -> None:
    def main() -> None:
        with IOQueue(threads=1, use_ring=False) as queue:
            blocked = queue.open(fifo)  # holds the only worker
            queue.flush()
            ferrule.sleep(0.01)
            tasks = [ferrule.spawn(queue.stat_many, ["/"] * 300) for _ in range(12)]
            ferrule.sleep(0.01)  # so the loop goes on
            assert not any(task.done() for task in tasks)
            writer = os.open(fifo, os.O_RDWR)
            assert [len(task.result()) for task in tasks] == [300] * 12
            assert queue.pop() is blocked
            os.close(result(blocked))
            os.close(writer)

    run(main)


def test_two_fibers_in_one_iterator_are_told_so(run: Run, tmp_path: Path, fifo: Path) -> None:
    def main() -> None:
        with IOQueue(threads=1, use_ring=False) as queue:
            blocked = queue.open(fifo)
            queue.flush()
            found = queue.iter_files(["/etc/passwd"] * 3)
            first = ferrule.spawn(next, found)
            ferrule.sleep(0.01)
            with pytest.raises(ValueError, match="another fiber"):
                next(found)
            writer = os.open(fifo, os.O_RDWR)
            assert first.result()[0] == "/etc/passwd"
            assert len(list(found)) == 2
            os.close(result(queue.pop()))
            os.close(writer)
            assert blocked.done

    run(main)


def test_threads_that_close_at_once_close_once() -> None:
    for _ in range(20):
        queue = IOQueue()
        queue.nop()
        threads = [threading.Thread(target=queue.close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert queue.closed


# ---- forks and ends ----


def test_in_a_forked_child_the_queue_is_dead_and_a_new_one_works(run_script: RunScript) -> None:
    done = run_script(
        "import os\n"
        "from ferrule.ioqueue import IOQueue\n"
        "queue = IOQueue(in_ring=['stat'])\n"
        "queue.stat_many(['/'] * 100)\n"
        "queue.stat('/')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try: queue.pop()\n"
        "    except RuntimeError as exc: print(exc)\n"
        "    queue.close()\n"
        "    del queue\n"
        "    with IOQueue() as new: print(len(new.stat_many(['/'] * 10)))\n"
        "    raise SystemExit(3)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3\n"
        "print(queue.pop().result().st_ino > 0)\n"
        "queue.close()\n"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "the queue belongs to the process that forked; make a new one here"
    assert lines[1:] == ["10", "True"]


def test_an_open_queue_at_the_interpreters_exit_is_closed(
    run_script: RunScript, fifo: Path
) -> None:
    done = run_script(
        "from ferrule.ioqueue import IOQueue\n"
        "queue = IOQueue()\n"
        f"for _ in range(4): queue.open({str(fifo)!r})\n"
        "queue.flush()\n"
        "print('bye')\n"
    )
    assert (done.returncode, done.stdout) == (0, "bye\n"), done.stderr


def test_a_forgotten_queue_is_closed_with_a_warning() -> None:
    queue = IOQueue()
    queue.open("/")
    with pytest.warns(ResourceWarning, match="unclosed I/O queue"):
        del queue


def test_a_queue_in_a_cycle_through_user_data_is_collected() -> None:
    queue = IOQueue()
    queue.nop(user_data=[queue])
    with pytest.warns(ResourceWarning, match="unclosed I/O queue"):
        del queue
        gc.collect()


def test_a_closed_queue_lets_go_of_what_it_was_lent() -> None:
    queue = IOQueue(threads=1)
    data = bytearray(b"data")
    queue.write_file("/dev/null", data)
    queue.close()
    data.append(0)
