"""What an operation holds, and until when: buffers, the ring's end, garbage, forks, threads."""

import contextlib
import errno
import gc
import mmap
import os
import pty
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import pytest

from ferrule.ring import Ring, SetupFlags, SqeFlags, leaked_operations
from memory_support import memory_in_use
from ring_support import (
    CANCELED,
    DEFER,
    clean_ring,
    each_setup,
    finish,
    in_child,
    results,
    tcp_pair,
    unavailable,
)


class Token:
    """Something a weak reference can watch."""


def pending_read(ring, buffer, **options):
    """A receive that waits until the returned peer sends."""
    left, right = socket.socketpair()
    ring.prep_recv(left, buffer, **options)
    ring.submit()
    return left, right


# ---- buffers ----------------------------------------------------------------------------------


@each_setup
def test_buffer_cannot_be_resized_while_in_flight(flags):
    with clean_ring(flags=flags) as ring:
        buffer = bytearray(8)
        left, right = pending_read(ring, buffer)
        with left, right:
            for resize in (lambda: buffer.append(1), buffer.clear, lambda: buffer.extend(b"x")):
                with pytest.raises(BufferError):
                    resize()
            right.send(b"data")
            assert finish(ring)[0].res == 4
            buffer.append(1)
            assert buffer == b"data\0\0\0\0\1"


def test_memoryview_and_mmap_cannot_be_released_while_in_flight():
    with clean_ring() as ring, mmap.mmap(-1, 4096) as area:
        view = memoryview(bytearray(8))
        one = pending_read(ring, view)
        two = pending_read(ring, area)
        with pytest.raises(BufferError):
            view.release()
        with pytest.raises(BufferError):
            area.close()
        for pair in (one, two):
            pair[1].send(b"x")
        finish(ring, 2)
        view.release()
        for pair in (one, two):
            pair[0].close()
            pair[1].close()


@each_setup
def test_dropped_buffer_lives_until_its_completion(flags):
    class Buffer(bytearray):
        pass

    with clean_ring(flags=flags) as ring:
        buffer = Buffer(8)
        alive = weakref.ref(buffer)
        left, right = pending_read(ring, buffer)
        with left, right:
            del buffer
            gc.collect()
            assert alive() is not None
            right.send(b"x")
            finish(ring)
            assert alive() is None


def test_every_kind_of_holding_is_given_back_at_the_completion(tmp_path):
    left, peer = socket.socketpair()
    with clean_ring(32) as ring, left, peer:
        file = open(tmp_path / "f", "w+b")  # noqa: SIM115 - its lifetime is what is tested
        data, token = bytearray(8), Token()
        held = [file, data, token]
        before = [sys.getrefcount(thing) for thing in held]
        ring.prep_write(file, data, 0, user_data=token)
        ring.prep_writev(file, [data, data], 0, user_data=token)
        ring.prep_readv(file, [data, data], 0, user_data=token)
        ring.prep_fsync(file, user_data=token)
        ring.prep_statx(None, tmp_path / "f", user_data=token)
        ring.prep_openat(None, "/nonexistent", user_data=token)
        ring.prep_sendmsg(peer, [data], user_data=token)
        ring.prep_timeout(0.001, user_data=token)
        assert sys.getrefcount(file) > before[0]
        assert sys.getrefcount(data) > before[1]
        ring.submit_and_wait(8)
        assert len(ring.copy_cqes()) == 8
        assert [sys.getrefcount(thing) for thing in held] == before
        data.append(1)
        file.close()


def test_user_data_given_again_replaces_the_earlier():
    with clean_ring() as ring:
        old, new = Token(), Token()
        alive = weakref.ref(old)
        sqe = ring.get_sqe(old)
        del old
        sqe.prep_nop(user_data=new)
        assert alive() is None
        assert finish(ring)[0].user_data is new


def test_file_object_is_kept_open_until_its_operation_has_ended():
    reader, writer = os.pipe()
    with clean_ring() as ring:
        file = open(reader, "rb", buffering=0)  # noqa: SIM115 - dropped on purpose
        buffer = bytearray(4)
        ring.prep_read(file, buffer)  # queued only: the kernel has not seen the descriptor yet
        del file
        gc.collect()
        os.write(writer, b"kept")
        with pytest.warns(ResourceWarning, match="unclosed file"):
            assert finish(ring)[0].res == 4
        assert buffer == b"kept"
        with pytest.raises(OSError):
            os.fstat(reader)  # now it is closed
        os.close(writer)


@each_setup
def test_out_parameters_survive_the_caller(flags, tmp_path):
    path = tmp_path / ("x" * 100)
    path.write_bytes(b"12345")
    with clean_ring(64, flags=flags) as ring:
        for _ in range(50):
            ring.prep_statx(None, str(path))
        gc.collect()
        ring.submit_and_wait(50)
        stats = [cqe.stat for cqe in ring.copy_cqes()]
        assert [found.st_size for found in stats] == [5] * 50


def test_multishot_operation_holds_until_its_last_completion():
    with clean_ring() as ring, socket.create_server(("127.0.0.1", 0)) as listener:
        token = Token()
        alive = weakref.ref(token)
        sqe = ring.prep_multishot_accept(listener, user_data=token)
        del token
        ring.submit()
        socket.create_connection(listener.getsockname()).close()
        os.close(ring.copy_cqe(timeout=5).res)
        assert alive() is not None
        ring.prep_cancel(sqe)
        finish(ring, 2)
        assert alive() is None


def test_skipped_success_gives_its_buffer_back():
    with clean_ring() as ring, open("/dev/zero", "rb") as zero:
        buffer = bytearray(4)
        ring.prep_read(zero, buffer, 0).flags = SqeFlags.CQE_SKIP_SUCCESS
        ring.prep_nop()
        finish(ring)
        buffer.append(1)


def test_discarded_sqe_object_does_not_end_its_operation():
    with clean_ring() as ring:
        sqe = ring.prep_nop("kept")
        del sqe
        gc.collect()
        assert finish(ring)[0].user_data == "kept"


def test_completion_outlives_the_ring(tmp_path):
    (tmp_path / "f").write_bytes(b"123")
    ring = Ring(8)
    ring.prep_statx(None, tmp_path / "f", user_data="s")
    [cqe] = finish(ring)
    ring.close()
    del ring
    assert (cqe.user_data, cqe.stat.st_size) == ("s", 3)


def test_slots_are_reused_with_another_key():
    with clean_ring() as ring:
        keys = set()
        for _ in range(100):
            keys.add(ring.prep_nop().key)
            finish(ring)
        assert len(keys) == 100
        assert ring.statistics().completed == 100


def test_late_cancel_never_reaches_the_next_user_of_a_slot():
    left, right = socket.socketpair()
    with clean_ring() as ring, left, right:
        old = ring.prep_nop()
        finish(ring)
        new = ring.prep_recv(left, bytearray(1), user_data="new")
        assert old.key & 0xFFFFFFFF == new.key & 0xFFFFFFFF
        ring.submit()
        ring.prep_cancel(old)
        assert finish(ring)[0].res == -errno.ENOENT
        right.send(b"x")
        assert results(finish(ring)) == {"new": 1}


@each_setup
def test_zero_copy_send_cancelled_by_its_chain_completes_once(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, _):
        buffer = bytearray(10)
        ring.prep_fsync(1_000_000, user_data="bad").link()
        ring.prep_send_zc(client, buffer, user_data="send")
        assert results(finish(ring, 2)) == {"bad": -errno.EBADF, "send": CANCELED}
        buffer.append(1)
        time.sleep(0.01)
        ring.get_events()
        assert ring.copy_cqes() == []
        assert ring.cq_ready() == 0
        ring.prep_nop("next")
        assert finish(ring)[0].user_data == "next"


def test_code_run_by_the_garbage_collector_may_use_the_ring():
    with clean_ring(64) as ring:

        class Meddler:
            def __init__(self):
                self.cycle = self

            def __del__(self):
                ring.prep_nop("from __del__")
                ring.submit()
                ring.copy_cqes()

        for _ in range(200):
            Meddler()
            for number in range(8):
                ring.prep_nop(number)
            ring.submit()
            ring.copy_cqes()
        gc.collect()
        ring.submit()
        ring.copy_cqes()


def test_user_data_freed_by_a_completion_may_use_the_ring():
    with clean_ring(64) as ring:
        freed = []

        class Reentrant:
            def __del__(self):
                freed.append(ring.cq_ready())
                ring.copy_cqes()
                ring.prep_nop()

        for _ in range(4):
            ring.prep_nop(Reentrant())
        ring.submit()
        ring.cq_advance(1)
        # The first one frees the others from within.
        assert freed == [3, 0, 0, 0]
        ring.submit()
        while ring.copy_cqes():
            ring.submit()


class Meddling:
    """A file whose conversion to a descriptor runs `action`."""

    def __init__(self, fd, action):
        self.fd, self.action = fd, action

    def fileno(self):
        self.action()
        return self.fd


def test_argument_whose_conversion_submits_disturbs_nothing():
    with clean_ring() as ring, open("/dev/zero", "rb") as zero:
        buffer = bytearray(b"*" * 4)
        ring.prep_nop("before")
        ring.prep_read(Meddling(zero.fileno(), ring.submit), buffer, 0, user_data="read")
        assert results(finish(ring, 2)) == {"before": 0, "read": 4}
        assert buffer == bytes(4)


def test_argument_whose_conversion_closes_the_ring_raises():
    ring = Ring(8)
    buffer = bytearray(4)
    with pytest.raises(ValueError, match="closed ring"):
        ring.prep_read(Meddling(0, ring.close), buffer)
    with pytest.raises(ValueError, match="closed ring"):
        ring.prep_readv(0, [buffer, buffer])
    buffer.append(1)  # nothing is exported any more


def test_sync_cancel_whose_conversion_closes_the_ring_raises():
    ring = Ring(8)
    with pytest.raises(ValueError, match="closed ring"):
        ring.register_sync_cancel(file=Meddling(0, ring.close))


def test_conversion_that_submits_an_sqe_being_prepared_again_raises():
    with clean_ring() as ring:
        buffer = bytearray(4)
        sqe = ring.get_sqe("x").prep_nop()
        with pytest.raises(RuntimeError, match="was submitted"):
            sqe.prep_read(Meddling(0, ring.submit), buffer)
        buffer.append(1)
        assert finish(ring)[0].res == 0


class Closing:
    """Closes a ring when it is freed."""

    def __init__(self, ring):
        self.ring = ring

    def __del__(self):
        self.ring.close()


@pytest.mark.parametrize(
    "take",
    [
        lambda ring: ring.copy_cqes(),
        lambda ring: ring.cq_advance(4),
        lambda ring: ring.cqe_seen(ring.peek_cqe()),
        lambda ring: ring.copy_cqe(),
        lambda ring: ring.close(),
    ],
)
def test_ring_closed_by_the_end_of_its_own_operation_is_left_alone(take):
    ring = Ring(8)
    ring.prep_nop("first")
    ring.prep_nop(Closing(ring))
    ring.prep_nop(Closing(ring))
    ring.prep_nop("last")
    ring.submit()
    take(ring)
    while not ring.closed:
        ring.copy_cqes()


def test_ring_closed_by_a_skipped_completion_is_left_alone():
    ring = Ring(8)
    ring.prep_nop(Closing(ring)).flags = SqeFlags.CQE_SKIP_SUCCESS
    ring.prep_nop()
    ring.submit()
    assert ring.cq_ready() == 0
    assert ring.closed


@pytest.mark.parametrize("take", [Ring.cq_ready, Ring.copy_cqes, Ring.peek_cqe])
def test_ring_closed_by_a_skipped_completion_ends_those_behind_it(take):
    ring = Ring(8)
    buffers = [bytearray(4) for _ in range(4)]
    with open("/dev/zero", "rb") as zero:
        for buffer in buffers:
            sqe = ring.prep_read(zero, buffer, 0, user_data=Closing(ring))
            if buffer is not buffers[-1]:
                sqe.flags = SqeFlags.CQE_SKIP_SUCCESS
        ring.submit()
        started = time.monotonic()
        take(ring)
    assert ring.closed
    assert time.monotonic() - started < 2
    assert ring.statistics().leaked == 0
    for buffer in buffers:
        buffer.append(1)


def test_ring_closed_by_a_skipped_completion_ends_the_wait():
    ring = Ring(8)
    ring.prep_nop(Closing(ring)).flags = SqeFlags.CQE_SKIP_SUCCESS
    with pytest.raises(ValueError, match="closed ring"):
        ring.submit_and_wait_timeout(1, 5)


def test_ring_closed_by_a_signal_handler_ends_the_wait():
    ring = Ring(8)
    before = signal.signal(signal.SIGALRM, lambda *_: ring.close())
    try:
        ring.prep_timeout(30)
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        with pytest.raises(ValueError, match="closed ring"):
            ring.submit_and_wait(1)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_ring_cannot_be_used_by_what_its_close_frees():
    ring = Ring(8)
    caught = []

    class Late:
        def __del__(self):
            try:
                ring.prep_nop()
                ring.submit()
            except ValueError as error:
                caught.append(str(error))

    ring.prep_nop(Late())
    ring.prep_timeout(30, user_data=Late())
    ring.submit()
    ring.prep_nop(Late())
    ring.close()
    assert caught == ["operation on a closed ring"] * 3


# ---- the end of a ring ------------------------------------------------------------------------


@each_setup
def test_close_cancels_and_drains_what_is_in_flight(flags):
    before = leaked_operations()
    ring = Ring(8, flags=flags)
    buffers = [bytearray(8) for _ in range(3)]
    pairs = [pending_read(ring, buffer) for buffer in buffers]
    ring.prep_timeout(30)
    ring.submit()
    ring.prep_nop("queued, never submitted")
    assert ring.statistics().in_flight == 5
    started = time.monotonic()
    ring.close()
    assert time.monotonic() - started < 2
    assert ring.statistics().in_flight == ring.statistics().leaked == 0
    assert leaked_operations() == before
    for buffer in buffers:
        buffer.append(1)
    for left, right in pairs:
        left.close()
        right.close()


def test_close_drains_a_ring_whose_submission_thread_is_behind_or_asleep():
    if unavailable(SetupFlags.SQPOLL):
        pytest.skip(unavailable(SetupFlags.SQPOLL))
    for pause in (0, 0.02):
        for _ in range(20):
            ring = Ring(2, flags=SetupFlags.SQPOLL, sq_thread_idle=1)
            left, right = socket.socketpair()
            buffer = bytearray(4)
            for _ in range(2):
                ring.prep_recv(left, buffer)
            ring.submit()
            time.sleep(pause)
            ring.close()
            assert ring.statistics().leaked == 0
            buffer.append(1)
            left.close()
            right.close()


@each_setup
def test_close_drains_what_waits_behind_a_drain(flags):
    # A cancel that went through the queue would wait there too.
    ring = Ring(8, flags=flags)
    buffers = [bytearray(4), bytearray(4)]
    left, right = pending_read(ring, buffers[0])
    ring.prep_nop().drain()
    ring.prep_recv(left, buffers[1])
    ring.submit()
    started = time.monotonic()
    ring.close()
    assert time.monotonic() - started < 2
    assert ring.statistics().leaked == 0
    for buffer in buffers:
        buffer.append(1)
    left.close()
    right.close()


@each_setup
def test_close_interrupts_a_write_that_blocks_a_kernel_thread(flags, tmp_path):
    # Behind an fsync, which needs a kernel thread, the write runs there too, and blocks.
    left, right = socket.socketpair()
    fill(left)
    with left, right, open(tmp_path / "f", "wb") as file:
        file.write(b"x")
        file.flush()
        ring = Ring(8, flags=flags)
        buffer = bytearray(4)
        ring.prep_fsync(file).link()
        ring.prep_write(left, buffer)
        ring.submit()
        time.sleep(0.02)
        started = time.monotonic()
        ring.close()
        assert time.monotonic() - started < 2
        assert ring.statistics().leaked == 0
        buffer.append(1)


def fill(sock: socket.socket) -> None:
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(65536))
    sock.setblocking(True)


def test_close_drains_more_operations_than_the_queues_hold():
    ring = Ring(2, flags=0, cq_entries=2)
    buffer = bytearray(4)
    pairs = [pending_read(ring, buffer) for _ in range(50)]
    ring.close()
    assert ring.statistics().leaked == 0
    buffer.append(1)
    for left, right in pairs:
        left.close()
        right.close()


def test_close_forgets_sqes_that_were_queued_and_not_submitted():
    left, right = socket.socketpair()
    with left, right:
        ring = Ring(8)
        buffer, token = bytearray(4), Token()
        alive = weakref.ref(token)
        ring.prep_recv(left, buffer, user_data=token)
        ring.prep_send(right, b"must not be sent")
        del token
        ring.close()
        assert alive() is None
        buffer.append(1)
        left.setblocking(False)
        with pytest.raises(BlockingIOError):
            left.recv(1)


def test_close_closes_descriptors_that_nobody_took(tmp_path):
    (tmp_path / "f").touch()
    before = os.listdir("/proc/self/fd")
    ring = Ring(8)
    ring.prep_openat(None, tmp_path / "f", os.O_RDONLY)
    ring.submit_and_wait(1)
    ring.close()
    assert os.listdir("/proc/self/fd") == before


def test_leaving_the_context_by_an_exception_closes_too():
    pairs = []

    def fail():
        with Ring(8) as ring:
            pairs.extend([ring, *pending_read(ring, bytearray(1))])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    ring, left, right = pairs
    assert ring.closed
    left.close()
    right.close()


def test_what_cannot_be_drained_in_time_is_leaked_and_counted():
    before = leaked_operations()
    ring = Ring(8)
    buffer = bytearray(4)
    left, right = pending_read(ring, buffer)
    ring.close(timeout=0)
    assert ring.closed
    assert ring.statistics().leaked == 1
    assert leaked_operations() == before + 1
    with pytest.raises(BufferError):
        buffer.append(1)  # for ever: the kernel might still have written to it
    left.close()
    right.close()


def test_close_interrupts_a_blocking_read_of_a_terminal():
    # Terminals are not polled but read by a kernel thread, which must be signalled.
    master, slave = pty.openpty()
    ring = Ring(8)
    ring.prep_read(slave, bytearray(8))
    ring.submit()
    ring.close()
    assert ring.statistics().leaked == 0
    os.close(master)
    os.close(slave)


def test_dropped_ring_warns_and_does_not_wait():
    buffer = bytearray(4)
    ring = Ring(8)
    left, right = pending_read(ring, buffer)
    before = leaked_operations()
    started = time.monotonic()
    with pytest.warns(ResourceWarning, match=r"unclosed ring .*1 operations"):
        del ring
    assert time.monotonic() - started < 1
    assert leaked_operations() == before + 1
    with pytest.raises(BufferError):
        buffer.append(1)
    left.close()
    right.close()


def test_file_of_a_leaked_operation_stays_open():
    reader, writer = os.pipe()
    ring = Ring(8)
    ring.prep_read(open(reader, "rb", buffering=0), bytearray(4))  # noqa: SIM115 - dropped
    ring.submit()
    with pytest.warns(ResourceWarning, match="unclosed ring"):
        del ring
    os.fstat(reader)  # else the kernel, late, could find another file under its number
    os.close(reader)
    os.close(writer)


def test_dropped_ring_with_nothing_in_flight_leaks_nothing():
    before = leaked_operations(), len(os.listdir("/proc/self/fd"))
    ring = Ring(8)
    ring.prep_nop()
    ring.submit()
    with pytest.warns(ResourceWarning, match="unclosed ring"):
        del ring
    assert (leaked_operations(), len(os.listdir("/proc/self/fd"))) == before


def test_ring_in_a_cycle_through_user_data_is_collected():
    ring = Ring(8)
    token = Token()
    token.ring = ring
    alive = weakref.ref(token)
    left, right = pending_read(ring, bytearray(1), user_data=token)
    del ring, token
    with pytest.warns(ResourceWarning, match="unclosed ring"):
        gc.collect()
    assert alive() is None
    left.close()
    right.close()


@pytest.mark.parametrize("way", ["user_data", "file", "buffer", "buffers"])
def test_ring_in_any_cycle_through_an_operation_is_collected(way):
    class Linked(bytearray):
        def fileno(self):
            return left.fileno()

    left, right = socket.socketpair()
    ring = Ring(8)
    fd, before = ring.fd, leaked_operations()
    thing = Linked(4)
    thing.ring = ring
    if way == "user_data":
        ring.prep_recv(left, bytearray(1), user_data=thing)
    elif way == "file":
        ring.prep_recv(thing, bytearray(1))
    elif way == "buffer":
        ring.prep_recv(left, thing)
    else:
        ring.prep_recvmsg(left, [bytearray(1), thing])
    ring.submit()
    del ring, thing
    with pytest.warns(ResourceWarning, match="unclosed ring"):
        gc.collect()
    assert leaked_operations() == before + 1
    with pytest.raises(OSError):
        os.fstat(fd)
    left.close()
    right.close()


def test_sqe_and_completion_in_a_cycle_are_collected():
    with clean_ring() as ring:
        token = Token()
        alive = weakref.ref(token)
        token.sqe = ring.prep_nop(token)
        [token.cqe] = finish(ring)
        del token
        gc.collect()
        assert alive() is None


def test_thread_with_the_number_of_one_that_ended_is_not_that_one():
    # Where a ring was registered, its index names another ring in another thread.
    numbers: dict[int, Ring] = {}
    found = []

    def work() -> None:
        old = numbers.get(threading.get_ident())
        ring = Ring(4)
        ring.register_ring_fd()
        if old is None:
            old = numbers[threading.get_ident()] = ring
            old.prep_nop()
            return
        with pytest.raises(RuntimeError, match="belongs to the thread"):
            old.submit()
        old.close()
        ring.prep_nop("mine")
        ring.submit_and_wait(1)
        found.append(ring.copy_cqe().user_data)
        ring.close()

    until = time.monotonic() + 10
    while not found and time.monotonic() < until:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        time.sleep(0.01)  # the thread itself ends a little later
    for ring in numbers.values():
        ring.close()
    assert found == ["mine"]


def test_ring_of_a_thread_that_ended_can_be_closed_elsewhere():
    made = []

    def work():
        ring = Ring(8, flags=DEFER)
        left, right = pending_read(ring, bytearray(1))
        made.extend([ring, left, right])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    ring, left, right = made
    # The kernel cancels a thread's requests when it ends, shortly after join().
    ring.close()
    assert ring.closed
    left.close()
    right.close()


def test_open_ring_at_interpreter_exit_does_no_harm():
    program = """
        import socket, sys
        from ferrule.ring import Ring
        left, right = socket.socketpair()
        ring = Ring(8)
        ring.prep_recv(left, bytearray(8), user_data=ring)
        ring.submit()
        print("ready")
    """
    done = run_python(program)
    assert (done.returncode, done.stdout.strip()) == (0, "ready")


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", textwrap.dedent(program)],
        capture_output=True, text=True, timeout=60, check=False,
    )


# ---- fork -------------------------------------------------------------------------------------


@each_setup
def test_ring_is_dead_in_a_forked_child_and_lives_on_in_the_parent(flags):
    with clean_ring(flags=flags) as ring:
        buffer = bytearray(4)
        left, right = pending_read(ring, buffer, user_data="recv")
        fd = ring.fd

        def child():
            for call in (ring.prep_nop, ring.submit, ring.copy_cqes, ring.sq_ready,
                         ring.register_probe, lambda: ring.sq.head):
                with pytest.raises(RuntimeError, match="parent process"):
                    call()
            with pytest.raises(OSError):
                os.fstat(fd)  # the child does not keep the parent's ring alive
            ring.close()
            buffer.append(1)  # nothing writes to the child's copy
            with Ring(8, flags=flags) as own:
                own.prep_nop("own")
                assert finish(own)[0].user_data == "own"

        in_child(child)
        right.send(b"x")
        assert results(finish(ring)) == {"recv": 1}
        left.close()
        right.close()


def test_child_that_drops_the_rings_of_its_parent_is_silent():
    program = """
        import gc, os, socket, sys
        from ferrule.ring import Ring
        ring = Ring(8)
        group = ring.register_buf_ring(4, 64)
        view = group.get(0)
        left, right = socket.socketpair()
        ring.prep_recv_multishot(left, group)
        ring.submit()
        pid = os.fork()
        if pid == 0:
            del ring, group, view
            gc.collect()
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        ring.close()
    """
    done = run_python(program)
    assert (done.stdout.strip(), done.stderr) == ("0", "")


def test_subprocess_does_not_disturb_a_ring():
    with clean_ring() as ring:
        left, right = pending_read(ring, bytearray(1), user_data="recv")
        subprocess.run(["true"], check=True)
        subprocess.run(["true"], check=True, preexec_fn=lambda: None)  # this one really forks
        right.send(b"x")
        assert results(finish(ring)) == {"recv": 1}
        left.close()
        right.close()


# ---- memory -----------------------------------------------------------------------------------


def churn(ring, left, right) -> None:
    buffer = bytearray(64)
    for _ in range(200):
        ring.prep_recv(left, buffer, user_data=object())
        ring.prep_sendmsg(right, [b"x" * 10], user_data=object())
        ring.prep_statx(None, "/proc/self", user_data=object())
        ring.prep_timeout(0, user_data=object())
        ring.submit_and_wait(4)
        while ring.statistics().in_flight:
            ring.copy_cqes(16, 1)
        with pytest.raises(TypeError):
            ring.prep_recv(left, b"read-only")


def test_memory_stays_flat_over_many_operations_and_rings():
    left, right = socket.socketpair()
    with left, right:
        for round_number in range(12):
            if round_number == 4:
                settled = memory_in_use()
            with Ring(16) as ring:
                churn(ring, left, right)
        assert memory_in_use() - settled < 1 << 20
