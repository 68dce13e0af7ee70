"""ferrule.ioqueue: what is submitted is answered once, whoever waits for it and however it ends."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ferrule
from ferrule.ioqueue import IOQueue, QueueFull, Request

Run = Callable[..., Any]


@pytest.fixture(params=["ring", "sync"])
def queue(request: pytest.FixtureRequest) -> Iterator[IOQueue]:
    """A queue that puts whatever it can into its workers' rings, and one that has none."""
    if request.param == "sync":
        made = IOQueue(use_ring=False)
    else:
        made = IOQueue(in_ring=("open", "close", "stat", "read", "write", "nop", "fsync"))
    with made:
        yield made


def pop(queue: IOQueue) -> Request:
    request = queue.pop(timeout=10)
    assert request is not None
    return request


def answer(queue: IOQueue, request: Request) -> Any:
    """The result of the only request in flight."""
    assert pop(queue) is request
    return request.result()


# ---- a request's life ----


def test_pop_returns_the_very_request_that_was_submitted(queue: IOQueue) -> None:
    request = queue.stat("/", user_data="the root")
    assert not request.done
    assert pop(queue) is request
    assert request.done
    assert (request.operation, request.path, request.user_data) == ("stat", "/", "the root")


def test_a_request_says_nothing_before_it_is_popped(queue: IOQueue) -> None:
    request = queue.nop()
    with pytest.raises(RuntimeError, match="has not been popped"):
        request.result()
    with pytest.raises(RuntimeError, match="has not been popped"):
        _ = request.error


def test_each_request_is_answered_exactly_once(queue: IOQueue) -> None:
    requests = [queue.nop(user_data=number) for number in range(1000)]
    popped = queue.drain()
    assert sorted(request.user_data for request in popped) == list(range(1000))
    assert set(popped) == set(requests)
    assert queue.pop() is None


def test_an_error_is_the_one_that_os_would_raise(queue: IOQueue) -> None:
    request = queue.stat("/no/such/file")
    assert pop(queue) is request
    assert isinstance(request.error, FileNotFoundError)
    assert request.error.filename == "/no/such/file"
    assert request.value is None
    with pytest.raises(FileNotFoundError):
        request.result()


def test_a_file_is_opened_and_closed(queue: IOQueue, tmp_path: Path) -> None:
    path = tmp_path / "file"
    fd = answer(queue, queue.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    os.write(fd, b"hello")
    assert os.get_inheritable(fd) is False
    assert answer(queue, queue.close_fd(fd)) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert path.read_bytes() == b"hello"
    assert path.stat().st_mode & 0o777 == 0o600


STAT_FIELDS = ("st_mode", "st_ino", "st_dev", "st_nlink", "st_uid", "st_gid", "st_size",
               "st_mtime_ns", "st_ctime_ns", "st_blocks", "st_blksize", "st_rdev")


@pytest.mark.parametrize("follow_symlinks", [True, False])
def test_stat_says_what_os_stat_says(
    queue: IOQueue, tmp_path: Path, follow_symlinks: bool
) -> None:
    link = tmp_path / "link"
    link.symlink_to("/etc/passwd")
    expected = os.stat(link, follow_symlinks=follow_symlinks)
    found = answer(queue, queue.stat(link, follow_symlinks=follow_symlinks))
    for name in STAT_FIELDS:
        assert getattr(found, name) == getattr(expected, name), name


def test_stat_takes_a_descriptor(queue: IOQueue, tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        file.write(b"12345")
        file.flush()
        assert answer(queue, queue.stat(file.fileno())).st_size == 5


def test_stat_asks_for_the_fields_of_its_mask(queue: IOQueue) -> None:
    STATX_SIZE, STATX_BTIME = 0x200, 0x800
    assert answer(queue, queue.stat("/", mask=STATX_SIZE)).stx_mask & STATX_SIZE
    assert answer(queue, queue.stat("/", mask=STATX_BTIME)).stx_mask & STATX_BTIME


def test_a_path_is_relative_to_dir_fd(queue: IOQueue, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        assert answer(queue, queue.stat("file", dir_fd=directory)).st_size == 3
    finally:
        os.close(directory)


@pytest.mark.parametrize(
    "path", ["plain", "h\u00f6flich", "\udcff", b"bytes \xff", Path("a path")], ids=repr
)
def test_a_path_may_be_whatever_os_takes(queue: IOQueue, tmp_path: Path, path: Any) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        os.close(os.open(path, os.O_CREAT, dir_fd=directory))
        assert answer(queue, queue.stat(path, dir_fd=directory)).st_size == 0
    finally:
        os.close(directory)


# ---- capacity ----


def test_a_full_queue_refuses_and_takes_again_after_a_pop() -> None:
    with IOQueue(depth=2) as queue:
        queue.nop()
        queue.nop()
        with pytest.raises(QueueFull, match="pop answers first") as info:
            queue.nop()
        assert info.value.errno == errno.EAGAIN
        assert isinstance(info.value, BlockingIOError)
        assert queue.capacity == 0
        pop(queue)
        assert queue.capacity == 1
        queue.nop()


def test_answered_requests_count_until_they_are_popped() -> None:
    with IOQueue(depth=2) as queue:
        queue.nop()
        queue.nop()
        queue.flush()
        wait_until(lambda: queue.ready == 2)
        assert (queue.in_flight, len(queue), queue.capacity) == (0, 2, 0)
        with pytest.raises(QueueFull):
            queue.nop()


def test_a_batch_of_eight_goes_by_itself_and_fewer_wait_for_a_flush(queue: IOQueue) -> None:
    for _ in range(8):
        queue.nop()
    wait_until(lambda: queue.ready == 8)
    for _ in range(7):
        queue.nop()
    time.sleep(0.02)
    assert (queue.ready, queue.in_flight) == (8, 7)
    queue.flush()
    wait_until(lambda: queue.ready == 15)


def test_a_poll_finds_what_is_ready(queue: IOQueue) -> None:
    for _ in range(50):
        request = queue.nop()
        queue.flush()
        wait_until(lambda: queue.ready == 1)
        assert queue.pop(block=False) is request
        assert queue.pop(block=False) is None


def test_workers_have_names() -> None:
    with IOQueue(threads=2):
        names = {
            Path(f"/proc/self/task/{task}/comm").read_text().strip()
            for task in os.listdir("/proc/self/task")
        }
    assert {"ferrule-io-0", "ferrule-io-1"} <= names


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# ---- pop ----


def test_pop_returns_none_at_once_when_nothing_is_in_flight(queue: IOQueue) -> None:
    assert queue.pop() is None
    assert queue.pop(block=False) is None
    assert queue.pop_many(5) == []
    assert queue.drain() == []


def test_pop_times_out_and_loses_nothing(fifo: Path) -> None:
    with IOQueue() as queue:
        request = queue.open(fifo)  # its open waits for a writer
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            queue.pop(timeout=0.02)
        assert 0.02 <= time.monotonic() - started < 5
        assert queue.pop(block=False) is None
        writer = os.open(fifo, os.O_RDWR)
        os.close(answer(queue, request))
        os.close(writer)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def test_what_was_submitted_is_handed_over_before_a_pop_waits(queue: IOQueue) -> None:
    for _ in range(3):  # less than a batch
        queue.nop()
    for _ in range(3):
        assert pop(queue).done


def test_flush_hands_over_what_is_less_than_a_batch(queue: IOQueue) -> None:
    queue.nop()
    queue.flush()
    wait_until(lambda: queue.ready == 1)


def test_pop_many_returns_up_to_so_many(queue: IOQueue) -> None:
    for _ in range(10):
        queue.nop()
    queue.flush()
    wait_until(lambda: queue.ready == 10)
    assert [len(queue.pop_many(4)) for _ in range(3)] == [4, 4, 2]


# ---- in fibers ----


def test_a_fiber_that_pops_parks_alone(run: Run, fifo: Path) -> None:
    def main() -> None:
        with IOQueue() as queue:
            request = queue.open(fifo)
            popper = ferrule.spawn(queue.pop)
            ferrule.sleep(0.01)
            assert not popper.done()
            writer = os.open(fifo, os.O_RDWR)
            assert popper.result() is request
            os.close(request.result())
            os.close(writer)

    run(main)


def test_a_cancelled_pop_loses_no_answer(run: Run, fifo: Path) -> None:
    def main() -> None:
        with IOQueue() as queue:
            request = queue.open(fifo)
            with ferrule.move_on_after(0.01) as scope:
                queue.pop()
            assert scope.cancelled_caught
            writer = os.open(fifo, os.O_RDWR)
            os.close(answer(queue, request))
            os.close(writer)

    run(main)


def test_close_parks_only_its_fiber_and_interrupts_what_waits(run: Run, fifo: Path) -> None:
    def main() -> None:
        ticks = []

        def tick() -> None:
            while True:
                ferrule.sleep(0.0001)
                ticks.append(1)

        with ferrule.TaskGroup() as group:
            ticker = group.spawn(tick)
            queue = IOQueue()
            request = queue.open(fifo)
            queue.flush()
            ferrule.sleep(0.005)
            queue.close()
            assert isinstance(request.error, InterruptedError)
            ticker.cancel()
        assert ticks

    run(main)


# ---- the end ----


def test_a_closed_queue_says_so(queue: IOQueue) -> None:
    queue.close()
    queue.close()
    assert queue.closed
    for call in (queue.nop, queue.pop, queue.drain, queue.flush, queue.cancel):
        with pytest.raises(ValueError, match="closed queue"):
            call()


def test_close_closes_what_was_opened_and_nobody_popped(queue: IOQueue) -> None:
    requests = [(queue.open, queue.opendir)[n % 2]("/") for n in range(20)]
    queue.flush()
    wait_until(lambda: queue.ready == 20)
    queue.close()  # the fixture looks for descriptors left behind
    assert all(isinstance(request.error, InterruptedError) for request in requests)


def test_cancel_answers_what_has_not_begun_and_whatever_comes(fifo: Path) -> None:
    with IOQueue(threads=1, use_ring=False) as queue:
        blocked = queue.open(fifo)
        rest = [queue.stat("/") for _ in range(20)]
        queue.flush()
        time.sleep(0.01)
        queue.cancel()
        with pytest.raises(InterruptedError):
            queue.nop()
        writer = os.open(fifo, os.O_RDWR)
        popped = queue.drain()
        os.close(writer)
        assert set(popped) == {blocked, *rest}
        assert all(isinstance(request.error, InterruptedError) for request in rest)
        # It came to its end after the cancel, so it was closed again.
        assert isinstance(blocked.error, InterruptedError)


@pytest.mark.parametrize("in_ring", [(), ("close",)], ids=["calls", "ring"])
def test_cancel_carries_out_closes_all_the_same(fifo: Path, in_ring: tuple[str, ...]) -> None:
    with IOQueue(threads=1, in_ring=in_ring) as queue:
        directory = answer(queue, queue.opendir("/"))
        number = directory.fileno()
        blocked = queue.open(fifo)
        queue.flush()
        time.sleep(0.01)
        fd = os.open("/", os.O_RDONLY)
        closes = [queue.close_fd(fd), queue.closedir(directory)]
        queue.cancel()
        writer = os.open(fifo, os.O_RDWR)
        assert set(queue.drain()) == {blocked, *closes}
        os.close(writer)
        for closing, closed in zip(closes, (fd, number), strict=True):
            assert closing.error is None
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(closed)


def test_cancel_returns_though_the_queue_is_full_and_nobody_takes(fifo: Path) -> None:
    with IOQueue(depth=7, threads=1, use_ring=False) as queue:  # and the stop is the eighth
        blocked = queue.open(fifo)
        rest = [queue.stat("/") for _ in range(6)]
        queue.flush()
        queue.cancel()
        queue.close()
        assert all(isinstance(request.error, InterruptedError) for request in (blocked, *rest))


def test_a_thread_that_pops_is_woken_by_close(fifo: Path) -> None:
    queue = IOQueue()
    queue.open(fifo)
    caught: list[BaseException | None] = []

    def body() -> None:
        try:
            queue.pop()
        except ValueError as exc:
            caught.append(exc)
        else:
            caught.append(None)

    thread = threading.Thread(target=body)
    thread.start()
    time.sleep(0.01)
    queue.close()
    thread.join(10)
    assert not thread.is_alive()
    assert len(caught) == 1
