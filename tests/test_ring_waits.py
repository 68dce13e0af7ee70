"""Waiting: for less than asked, until a time, with signals let through; and entering without."""

import errno
import os
import signal
import threading
import time
from array import array

import pytest

import seccomp
from ferrule.ring import Features, NotSupported, Ring, SetupFlags, SqFlags, WaitRegion
from ring_support import (
    DEFER,
    clean_ring,
    each_setup,
    finish,
    hand_over,
    in_child,
    results,
    tcp_pair,
    unavailable,
)


def await_taskrun(ring: Ring) -> None:
    """Until the kernel says that it holds completions back."""
    deadline = time.monotonic() + 5
    while not ring.sq.flags & SqFlags.TASKRUN:
        assert time.monotonic() < deadline


def lacks(feature: Features) -> bool:
    with Ring(2) as ring:
        return not ring.features & feature


needs_min_timeout = pytest.mark.skipif(
    lacks(Features.MIN_TIMEOUT), reason="no MIN_TIMEOUT in this kernel (Linux 6.12)"
)
needs_no_iowait = pytest.mark.skipif(
    lacks(Features.NO_IOWAIT), reason="no NO_IOWAIT in this kernel (Linux 6.15)"
)
TOLD = DEFER | SetupFlags.TASKRUN_FLAG
needs_taskrun_flag = pytest.mark.skipif(
    unavailable(TOLD) is not None, reason=f"{unavailable(TOLD)}"
)
needs_sqpoll = pytest.mark.skipif(
    unavailable(SetupFlags.SQPOLL) is not None, reason=f"{unavailable(SetupFlags.SQPOLL)}"
)


def elapsed_of(call) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def drop_timeout(ring, target="slow"):
    ring.copy_cqes()
    ring.prep_timeout_remove(target, user_data="remove")
    assert results(finish(ring, 2)) == {"remove": 0, target: -errno.ECANCELED}


# ---- content with fewer -----------------------------------------------------------------------


@needs_min_timeout
@each_setup
def test_min_wait_ends_early_when_all_have_come(flags):
    with clean_ring(8, flags=flags) as ring:
        ring.prep_timeout(0.01, user_data="a")
        ring.prep_timeout(0.02, user_data="b")
        waited = elapsed_of(lambda: ring.submit_and_wait_min_timeout(2, 10, 5))
        assert 0.015 < waited < 2
        assert len(ring.copy_cqes()) == 2


@needs_min_timeout
@each_setup
def test_min_wait_collects_for_its_time_and_is_content_with_fewer(flags):
    with clean_ring(8, flags=flags) as ring:
        ring.prep_nop("a")
        ring.prep_timeout(0.02, user_data="b")
        ring.prep_timeout(10, user_data="slow")
        waited = elapsed_of(lambda: ring.submit_and_wait_min_timeout(3, 8, 0.06))
        assert 0.055 < waited < 2
        assert ring.cq_ready() == 2
        drop_timeout(ring)


@needs_min_timeout
@each_setup
@pytest.mark.parametrize("seconds", [8, None])
def test_min_wait_that_is_over_goes_on_for_one(flags, seconds):
    with clean_ring(8, flags=flags) as ring:
        ring.prep_timeout(0.06, user_data="late")
        ring.prep_timeout(10, user_data="slow")
        cpu = time.thread_time()
        waited = elapsed_of(lambda: ring.submit_and_wait_min_timeout(2, seconds, 0.01))
        assert 0.055 < waited < 2
        assert time.thread_time() - cpu < 0.03
        assert ring.cq_ready() == 1
        drop_timeout(ring)


@needs_min_timeout
@each_setup
def test_min_wait_ends_with_the_whole_wait(flags):
    with clean_ring(8, flags=flags) as ring:
        waited = elapsed_of(lambda: ring.submit_and_wait_min_timeout(2, 0.03, 10))
        assert 0.025 < waited < 2
        waited = elapsed_of(lambda: ring.submit_and_wait_min_timeout(2, 0.03, 0.01))
        assert 0.025 < waited < 2
        assert ring.copy_cqes() == []


@needs_min_timeout
def test_min_wait_goes_on_after_a_signal():
    ran = []
    before = signal.signal(signal.SIGALRM, lambda *_: ran.append(True))
    try:
        with clean_ring(8) as ring:
            ring.prep_nop("a")
            ring.prep_timeout(10, user_data="slow")
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            waited = elapsed_of(lambda: ring.submit_and_wait_min_timeout(2, 10, 0.08))
            assert ran
            assert 0.075 < waited < 2
            drop_timeout(ring)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("seconds", "min_wait"), [(-1, 0), (1, -1), (1, float("nan"))])
def test_wait_limit_that_is_no_duration_is_refused(seconds, min_wait):
    with clean_ring() as ring:
        with pytest.raises(ValueError, match="non-negative"):
            ring.submit_and_wait_min_timeout(1, seconds, min_wait)
        ring.prep_nop()
        finish(ring)


# ---- until a time -----------------------------------------------------------------------------


@needs_min_timeout
@each_setup
@pytest.mark.parametrize("clock", [None, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME])
def test_wait_lasts_until_a_time_of_the_rings_clock(flags, clock):
    with clean_ring(8, flags=flags) as ring:
        if clock is not None:
            ring.register_clock(clock)
        now = time.clock_gettime(clock or time.CLOCK_MONOTONIC)
        waited = elapsed_of(lambda: ring.submit_and_wait_timeout(1, now + 0.05, absolute=True))
        assert 0.04 < waited < 2
        waited = elapsed_of(lambda: ring.submit_and_wait_timeout(1, now - 1, absolute=True))
        assert waited < 1
        ring.prep_nop("x")
        ring.submit_and_wait_timeout(1, now + 100, absolute=True)
        assert ring.copy_cqe().user_data == "x"
        waited = elapsed_of(lambda: ring.submit_and_wait_timeout(1, 0.03))
        assert 0.025 < waited < 2


@needs_min_timeout
def test_clock_that_a_ring_cannot_wait_on_is_refused():
    with clean_ring() as ring:
        for clock in (time.CLOCK_REALTIME, 99):
            with pytest.raises(ValueError, match=r"CLOCK_MONOTONIC or time\.CLOCK_BOOTTIME"):
                ring.register_clock(clock)
        assert elapsed_of(lambda: ring.submit_and_wait_timeout(1, 0.02)) > 0.015


@needs_min_timeout
def test_absolute_wait_goes_on_after_a_signal():
    ran = []
    before = signal.signal(signal.SIGALRM, lambda *_: ran.append(True))
    try:
        with clean_ring(8) as ring:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            until = time.monotonic() + 0.06
            ring.submit_and_wait_timeout(1, until, absolute=True)
            assert ran
            assert time.monotonic() >= until - 0.001
    finally:
        signal.signal(signal.SIGALRM, before)


# ---- signals ----------------------------------------------------------------------------------


@each_setup
def test_signal_blocked_outside_arrives_in_the_wait_that_unblocks_it(flags):
    ran = []
    before = signal.signal(signal.SIGUSR1, lambda *_: ran.append(time.monotonic()))
    old = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        with clean_ring(8, flags=flags) as ring:
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            ring.submit_and_wait_timeout(1, 0.01)
            assert not ran
            started = time.monotonic()
            ring.submit_and_wait_timeout(1, 0.5, sigmask=old)
            assert ran
            assert ran[0] - started < 0.4
            assert time.monotonic() - started > 0.45  # and it went on
            assert signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        signal.signal(signal.SIGUSR1, before)


@each_setup
def test_signal_blocked_in_a_wait_arrives_after_it(flags):
    ran = []
    before = signal.signal(signal.SIGALRM, lambda *_: ran.append(True))
    try:
        with clean_ring(8, flags=flags) as ring:
            ring.prep_timeout(0.06, user_data="t")
            ring.submit()
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            switches = interruptions()
            ring.submit_and_wait_timeout(1, None, sigmask=[signal.SIGALRM])
            assert interruptions() - switches <= 3
            assert ring.copy_cqe().user_data == "t"
            assert ran
    finally:
        signal.signal(signal.SIGALRM, before)


def interruptions() -> int:
    with open("/proc/thread-self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("voluntary"))


@pytest.mark.parametrize("number", [0, -1, 65])
def test_number_that_is_no_signal_is_refused(number):
    with clean_ring() as ring:
        with pytest.raises(ValueError, match="signal number must be from 1 to 64"):
            ring.submit_and_wait_timeout(1, 1, sigmask=[number])
        with pytest.raises(TypeError):
            ring.submit_and_wait_timeout(1, 1, sigmask=["SIGINT"])
        ring.prep_nop()
        finish(ring)


# ---- registered waits -------------------------------------------------------------------------


def waiting_ring(flags=DEFER, count=4):
    ring = Ring(8, flags=flags | SetupFlags.R_DISABLED)
    try:
        waits = ring.register_wait_reg(count)
    except OSError as error:
        ring.close()
        pytest.skip(f"no registered waits here: {error}")
    ring.enable_rings()
    return ring, waits


@each_setup
def test_registered_wait_has_the_limits_of_its_place(flags):
    ring, waits = waiting_ring(flags)
    with ring:
        assert len(waits) == waits.count == 4
        waits.set(1, 0.03)
        waits.set(3, 5, min_wait=0.03)
        waits.set(2, 0.03, min_wait=5)
        assert 0.025 < elapsed_of(lambda: ring.submit_and_wait_reg(1, 1)) < 2
        ring.prep_nop("x")
        assert ring.submit_and_wait_reg(1, 0) == 1  # has no limit
        assert ring.copy_cqe().user_data == "x"
        ring.prep_nop("y")
        assert 0.025 < elapsed_of(lambda: ring.submit_and_wait_reg(2, 3)) < 2
        assert ring.copy_cqe().user_data == "y"
        assert 0.025 < elapsed_of(lambda: ring.submit_and_wait_reg(2, 2)) < 2
        waits.set(1)
        ring.prep_timeout(0.03)
        ring.submit_and_wait_reg(1, 1)
        assert len(ring.copy_cqes()) == 1


def test_registered_wait_goes_on_after_a_signal_for_what_is_left():
    ring, waits = waiting_ring()
    ran = []
    before = signal.signal(signal.SIGALRM, lambda *_: ran.append(True))
    old = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    try:
        with ring:
            waits.set(0, 0.6, sigmask=old)
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            waited = elapsed_of(lambda: ring.submit_and_wait_reg(1, 0))
            assert ran
            assert 0.55 < waited < 0.85
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        signal.signal(signal.SIGALRM, before)


def test_waits_are_registered_once_before_the_ring_is_enabled():
    ring, waits = waiting_ring()
    with ring:
        with pytest.raises(ValueError, match="R_DISABLED, before enable_rings"):
            ring.register_wait_reg(4)
        for index in (-1, 4):
            with pytest.raises(ValueError, match=rf"index {index} is outside 0\.\.3"):
                waits.set(index, 1)
        with pytest.raises(ValueError, match="index 4 is outside"):
            ring.submit_and_wait_reg(1, 4)
        with pytest.raises(ValueError, match="non-negative"):
            waits.set(0, -1)
        ring.prep_nop()
        finish(ring)
    with clean_ring() as ring:
        with pytest.raises(ValueError, match="R_DISABLED"):
            ring.register_wait_reg()
        with pytest.raises(ValueError, match="no registered waits"):
            ring.submit_and_wait_reg(1, 0)
    with Ring(8, flags=DEFER | SetupFlags.R_DISABLED) as ring:
        for count in (0, 65537):
            with pytest.raises(ValueError, match="count must be from 1 to 65536"):
                ring.register_wait_reg(count)
    with pytest.raises(TypeError):
        WaitRegion()


def test_registered_waits_are_the_parents_after_a_fork():
    ring, waits = waiting_ring()

    def work():
        with pytest.raises(RuntimeError, match="parent process"):
            waits.set(0, 1)

    in_child(work)
    ring.close()


# ---- entering without a wait ------------------------------------------------------------------


@each_setup
def test_submit_and_get_events_posts_what_is_held_back(flags):
    left, right = os.pipe()
    with clean_ring(8, flags=flags) as ring:
        ring.prep_read(left, bytearray(1), user_data="r")
        hand_over(ring)
        os.write(right, b"x")
        ring.prep_nop("n")
        assert ring.submit_and_get_events() == 1
        deadline = time.monotonic() + 5
        while ring.cq_ready() < 2 and time.monotonic() < deadline:
            assert ring.submit_and_get_events() == 0
        assert results(ring.copy_cqes()) == {"r": 1, "n": 0}
    os.close(left)
    os.close(right)


@needs_taskrun_flag
def test_what_is_done_at_once_is_neither_asked_for_nor_waited_for():
    def work():
        with clean_ring(flags=TOLD) as ring, ring.batch_queue(2) as batch:
            seccomp.fail(seccomp.ENTER, errno.ENXIO, {3: 1})  # GETEVENTS
            ring.prep_nop("x")
            assert ring.submit_and_wait(1) == 1
            assert [cqe.user_data for cqe in ring.copy_cqes(1, 1)] == ["x"]
            assert ring.copy_cqes() == []
            assert ring.peek_cqe() is None
            batch.prep_nop(2)
            assert batch.submit_and_complete(array("i", [1, 1]), wait_nr=2) == 2

    in_child(work)


@needs_taskrun_flag
@pytest.mark.parametrize("queued", [False, True])
def test_wait_for_what_the_kernel_holds_back_keeps_the_gil(queued):
    def work():
        with clean_ring(flags=TOLD) as ring, tcp_pair() as (client, server):
            ring.prep_recv(server, bytearray(1), user_data="recv")
            ring.submit()
            client.send(b"x")
            await_taskrun(ring)
            seccomp.fail(seccomp.ENTER, errno.ENXIO, {2: 1})  # a wait for one: without the GIL
            if queued:
                ring.prep_timeout(30, user_data="later")
                assert ring.submit_and_wait(1) == 1
            assert [cqe.user_data for cqe in ring.copy_cqes(1, 1)] == ["recv"]
            if queued:
                ring.prep_timeout_remove("later")
                ring.submit_and_wait(2)
                assert len(ring.copy_cqes()) == 2

    in_child(work)


# A link starts the next one in the kernel's own time, though it be at once.
@needs_taskrun_flag
def test_wait_for_a_chain_that_is_done_at_once_keeps_the_gil():
    def work():
        with clean_ring(flags=TOLD) as ring:
            seccomp.fail(seccomp.ENTER, errno.ENXIO, {2: 2})
            ring.prep_nop("first").link()
            ring.prep_nop("second")
            assert ring.submit_and_wait(2) == 2
            assert [cqe.user_data for cqe in ring.copy_cqes()] == ["first", "second"]

    in_child(work)


@needs_sqpoll
def test_room_in_the_submission_queue_can_be_waited_for():
    with clean_ring(2, flags=SetupFlags.SQPOLL, cq_entries=4096) as ring:
        for number in range(0, 2000, 2):
            while ring.sq_space_left() < 2:
                assert ring.sqring_wait() > 0
            ring.prep_nop(number)
            ring.prep_nop(number + 1)
            ring.submit()
        assert [cqe.user_data for cqe in finish(ring, 2000)] == list(range(2000))
        ring.prep_nop()
        ring.prep_nop()
        assert ring.sqring_wait() == 0  # not submitted: nobody takes them
        finish(ring, 2)


def test_room_of_a_ring_without_a_submission_thread_is_not_waited_for():
    with clean_ring(2) as ring:
        assert ring.sqring_wait() == 2
        ring.prep_nop()
        ring.prep_nop()
        assert ring.sqring_wait() == 0
        finish(ring, 2)


@needs_no_iowait
@each_setup
def test_waits_may_be_kept_out_of_the_io_statistics(flags):
    left, right = os.pipe()
    with clean_ring(8, flags=flags) as ring:
        ring.prep_read(left, bytearray(1), user_data="r")
        for enable in (False, True, True, False):
            ring.set_iowait(enable)
            assert 0.015 < elapsed_of(lambda: ring.submit_and_wait_timeout(1, 0.02)) < 2
        ring.register_ring_fd()  # both change how the kernel is entered
        ring.unregister_ring_fd()
        os.write(right, b"x")
        assert results(finish(ring)) == {"r": 1}
    os.close(left)
    os.close(right)


@needs_no_iowait
def test_wait_enters_the_kernel_with_the_flag_that_was_set():
    no_iowait, getevents, ext_arg = 1 << 7, 1 << 0, 1 << 3

    def work():
        with clean_ring(8) as ring:
            seccomp.fail(seccomp.ENTER, errno.EDOM, {2: 3, 3: getevents | ext_arg | no_iowait})
            assert ring.submit_and_wait_timeout(3, 0.01) == 0
            ring.set_iowait(False)
            with pytest.raises(OSError) as caught:
                ring.submit_and_wait_timeout(3, 0.01)
            assert caught.value.errno == errno.EDOM
            ring.set_iowait(True)
            assert ring.submit_and_wait_timeout(3, 0.01) == 0

    in_child(work)


def test_waits_that_a_kernel_lacks_are_named_with_their_version():
    from ferrule._core.ring import _hide_features

    with clean_ring() as ring:
        _hide_features(ring, Features.MIN_TIMEOUT | Features.NO_IOWAIT)
        with pytest.raises(NotSupported, match=r"absolute time needs Linux 6\.12"):
            ring.submit_and_wait_timeout(1, 1, absolute=True)
        with pytest.raises(NotSupported, match=r"min_timeout needs Linux 6\.12"):
            ring.submit_and_wait_min_timeout(1, 1, 1)
        with pytest.raises(NotSupported, match=r"set_iowait needs Linux 6\.15"):
            ring.set_iowait(False)
        ring.set_iowait(True)
        _hide_features(ring, Features.EXT_ARG)
        with pytest.raises(NotSupported, match=r"timeout needs Linux 5\.11"):
            ring.submit_and_wait_timeout(1, 1)
        ring.prep_nop()
        ring.submit_and_wait_timeout(1, None)
        ring.copy_cqe()
        # A signal mask alone needs none of it.
        ring.prep_timeout(0.02)
        ring.submit_and_wait_timeout(1, None, sigmask=[signal.SIGUSR2])
        ring.copy_cqe()


def test_every_wait_refuses_a_closed_ring_and_another_thread():
    caught = []

    def misuse():
        for call in calls:
            try:
                call()
            except RuntimeError as error:
                caught.append(error)

    ring = Ring(8, flags=DEFER)
    calls = [
        lambda: ring.submit_and_wait_timeout(1, 1),
        lambda: ring.submit_and_wait_min_timeout(1, 1, 1),
        lambda: ring.submit_and_wait_reg(1, 0),
        ring.submit_and_get_events,
        ring.sqring_wait,
        lambda: ring.set_iowait(False),
    ]
    thread = threading.Thread(target=misuse)
    thread.start()
    thread.join()
    assert len(caught) == len(calls)
    ring.close()
    for call in calls:
        with pytest.raises(ValueError, match="closed ring"):
            call()
