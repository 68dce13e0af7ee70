"""Set-up: every flag, every refusal, and rings whose entries are of another size or place."""

import array
import errno
import mmap
import os
import re
import socket
import threading
import time

import pytest

import seccomp
from ferrule._core.ring import _explain_refusal
from ferrule.ring import (
    BufferRingFlags,
    CqeFlags,
    NopFlags,
    NotSupported,
    Op,
    Params,
    Ring,
    SetupFlags,
    SqeFlags,
    SqFlags,
    leaked_operations,
)
from ring_support import (
    CANCELED,
    DEFER,
    clean_ring,
    finish,
    hand_over,
    in_child,
    parameter,
    results,
    unavailable,
    with_the_gil,
)

WIDE = {
    "cqe32": SetupFlags.CQE32,
    "mixed": SetupFlags.CQE_MIXED,
    "mixed, defer": DEFER | SetupFlags.CQE_MIXED,
    "mixed, sqpoll": SetupFlags.SQPOLL | SetupFlags.CQE_MIXED,
}
each_wide = pytest.mark.parametrize("flags", [parameter(*item) for item in WIDE.items()])


def needs(flags: SetupFlags) -> pytest.MarkDecorator:
    reason = unavailable(flags)
    return pytest.mark.skipif(reason is not None, reason=reason or "")


needs_mixed = needs(SetupFlags.CQE_MIXED)
needs_no_mmap = needs(SetupFlags.NO_MMAP)
needs_sqpoll = needs(SetupFlags.SQPOLL)


# ---- completions of 32 bytes ------------------------------------------------------------------


def prep_big_nop(ring, number):
    """A no-op that completes with (number, 2 * number) in the second half."""
    sqe = ring.prep_nop(number, flags=NopFlags.CQE32)
    sqe.off, sqe.addr = number, 2 * number
    return sqe


def prep_any_nop(ring, number):
    return ring.prep_nop(number) if number % 3 else prep_big_nop(ring, number)


def expected(flags, number):
    if number % 3 == 0:
        return (number, 2 * number)
    return (0, 0) if flags & SetupFlags.CQE32 else None


@each_wide
def test_big_completion_shows_its_second_half(flags):
    with clean_ring(flags=flags) as ring:
        prep_big_nop(ring, 7)
        ring.prep_nop("small")
        ring.submit_and_wait(2)
        peeked = ring.peek_cqe()
        assert peeked.big_cqe == (7, 14)
        big, small = ring.copy_cqes()
        assert (big.user_data, big.res, big.big_cqe) == (7, 0, (7, 14))
        if flags & SetupFlags.CQE_MIXED:
            assert big.flags == CqeFlags.F_32
            assert small.big_cqe is None
        else:
            assert small.big_cqe == (0, 0)


def test_completion_of_a_plain_ring_has_no_second_half():
    with clean_ring() as ring:
        ring.prep_nop()
        assert finish(ring)[0].big_cqe is None


@each_wide
def test_completions_of_both_sizes_keep_their_order_around_every_wrap(flags):
    with clean_ring(4, flags=flags | SetupFlags.CQSIZE, cq_entries=8) as ring:
        for start in range(0, 600, 3):
            numbers = [start, start + 1, start + 2]
            for number in numbers:
                prep_any_nop(ring, number)
            taken = finish(ring, 3)
            assert [cqe.user_data for cqe in taken] == numbers
            assert [cqe.big_cqe for cqe in taken] == [expected(flags, n) for n in numbers]
        assert ring.statistics().slots == 64


@each_wide
def test_big_completions_can_be_peeked_seen_counted_and_advanced_over(flags):
    with clean_ring(8, flags=flags) as ring:
        for start in range(0, 200, 5):
            for number in range(start, start + 5):
                prep_any_nop(ring, number)
            hand_over(ring)
            ring.get_events()
            for number in range(start, start + 2):
                cqe = ring.wait_cqe(timeout=5)
                assert (cqe.user_data, cqe.big_cqe) == (number, expected(flags, number))
                ring.cqe_seen(cqe)
                with pytest.raises(ValueError, match="no longer"):
                    ring.cqe_seen(cqe)
            assert ring.cq_ready() == 3
            with pytest.raises(ValueError, match="only 3 completions"):
                ring.cq_advance(4)
            ring.cq_advance(2)
            assert ring.copy_cqe().user_data == start + 4
            assert ring.cq_ready() == 0


@each_wide
def test_skipped_big_completions_are_not_seen_nor_counted(flags):
    with clean_ring(64, flags=flags) as ring:
        for number in range(60):
            sqe = prep_any_nop(ring, number)
            if number % 5:
                sqe.flags = SqeFlags.CQE_SKIP_SUCCESS
        hand_over(ring)
        ring.get_events()
        assert ring.cq_ready() == 12
        first = ring.peek_cqe()
        assert (first.user_data, first.big_cqe) == (0, (0, 0))
        ring.cqe_seen(first)
        ring.cq_advance(2)
        taken = ring.copy_cqes()
        assert [cqe.user_data for cqe in taken] == list(range(15, 60, 5))
        assert [cqe.big_cqe for cqe in taken] == [expected(flags, n) for n in range(15, 60, 5)]


@each_wide
def test_wait_counts_big_completions_as_one(flags):
    with clean_ring(16, flags=flags) as ring:
        for number in (3, 6, 9):
            prep_big_nop(ring, number)
        for number in range(3):
            prep_big_nop(ring, number).flags = SqeFlags.CQE_SKIP_SUCCESS
        ring.prep_timeout(0.05, user_data="slow")
        cpu = time.thread_time()
        ring.submit_and_wait(4)
        assert time.thread_time() - cpu < 0.04  # it slept
        assert [cqe.user_data for cqe in ring.copy_cqes()] == [3, 6, 9, "slow"]


@each_wide
def test_wait_for_more_than_fits_ends_when_the_queue_is_full(flags):
    with clean_ring(8, flags=flags | SetupFlags.CQSIZE, cq_entries=8) as ring:
        # What fills the queue cannot be skipped over: the first one is not taken yet.
        prep_big_nop(ring, 0)
        for number in range(1, 8):
            prep_big_nop(ring, number).flags = SqeFlags.CQE_SKIP_SUCCESS
        hand_over(ring)
        ring.prep_timeout(30, user_data="late")
        ring.submit_and_wait_timeout(2, 0.2)
        assert ring.cq_ready() >= 1
        assert ring.copy_cqe().user_data == 0
        ring.prep_cancel("late", user_data="cancel")
        assert results(finish(ring, 2)) == {"cancel": 0, "late": CANCELED}


@each_wide
def test_overflow_of_big_completions_loses_nothing(flags):
    with clean_ring(8, flags=flags | SetupFlags.CQSIZE, cq_entries=8) as ring:
        for number in range(60):
            if number % 8 == 0:
                hand_over(ring)
            prep_any_nop(ring, number)
        hand_over(ring)
        ring.get_events()
        assert ring.cq_has_overflow()
        taken = []
        while len(taken) < 60:
            batch = ring.copy_cqes(8, min(8, 60 - len(taken)), timeout=5)
            assert batch
            taken += batch
        assert [cqe.user_data for cqe in taken] == list(range(60))
        assert [cqe.big_cqe for cqe in taken] == [expected(flags, n) for n in range(60)]
        assert ring.cq_overflow() == 0


@each_wide
def test_batches_complete_beside_big_completions(flags):
    with clean_ring(32, flags=flags) as ring, ring.batch_queue(16) as batch:
        res, tags = array.array("i", [0] * 16), array.array("Q", [0] * 16)
        for start in range(0, 300, 10):
            for number in range(start, start + 5):
                prep_any_nop(ring, number)
            assert batch.prep_nop(5, array.array("Q", range(start, start + 5))) == 5
            for number in range(start + 5, start + 10):
                prep_any_nop(ring, number)
            assert batch.submit_and_complete(res, tags, wait_nr=5, timeout=5) == 5
            assert list(tags[:5]) == list(range(start, start + 5))
            taken = finish(ring, 10)
            assert [cqe.user_data for cqe in taken] == list(range(start, start + 10))
            assert [cqe.big_cqe for cqe in taken] == [expected(flags, n) for n in
                                                      range(start, start + 10)]


@each_wide
def test_close_drains_a_ring_of_big_completions_and_frees_what_nobody_took(flags, tmp_path):
    (tmp_path / "f").touch()
    fds, before = os.listdir("/proc/self/fd"), leaked_operations()
    ring = Ring(16, flags=flags)
    buffer = bytearray(4)
    left, right = socket.socketpair()
    ring.prep_recv(left, buffer)
    for number in range(5):
        prep_big_nop(ring, number)
    ring.prep_openat(None, tmp_path / "f", os.O_RDONLY)
    hand_over(ring)
    ring.close()
    assert leaked_operations() == before
    buffer.append(1)
    left.close()
    right.close()
    assert os.listdir("/proc/self/fd") == fds


# ---- submissions of 128 bytes -----------------------------------------------------------------


@pytest.mark.parametrize("flags", [parameter("sqe128", DEFER | SetupFlags.SQE128)])
def test_every_place_of_a_queue_of_big_submissions_is_used(flags, tmp_path):
    (tmp_path / "f").write_bytes(bytes(range(100)))
    with clean_ring(4, flags=flags) as ring, open(tmp_path / "f", "rb") as file:
        for start in range(0, 96, 3):
            buffers = [bytearray(1) for _ in range(3)]
            for number, buffer in enumerate(buffers, start):
                ring.prep_read(file, buffer, number, user_data=number)
            assert results(finish(ring, 3)) == {start + i: 1 for i in range(3)}
            assert [buffer[0] for buffer in buffers] == [start, start + 1, start + 2]


# ---- memory of our own ------------------------------------------------------------------------


@needs_no_mmap
@pytest.mark.parametrize("more", [0, SetupFlags.CQE32, SetupFlags.SQE128,
                                  SetupFlags.CQE32 | SetupFlags.SQE128, SetupFlags.CQE_MIXED,
                                  SetupFlags.NO_SQARRAY])
def test_ring_in_our_memory_works_at_every_size(more):
    flags = SetupFlags.NO_MMAP | more
    if unavailable(flags):
        pytest.skip(unavailable(flags))
    for power in range(1, 16):
        entries = 1 << power
        with Ring(entries, flags=flags) as ring:
            assert (ring.sq.entries, ring.cq.entries) == (entries, 2 * entries)
            for _ in range(3):
                for number in range(min(entries, 600)):
                    ring.prep_nop(number)
                taken = finish(ring, min(entries, 600))
                assert [cqe.user_data for cqe in taken] == list(range(min(entries, 600)))
    with Ring(64, flags=flags | SetupFlags.CLAMP, cq_entries=100000) as ring:
        assert ring.cq.entries == 65536


def mappings() -> list[str]:
    with open("/proc/self/maps") as file:
        return [line for line in file if re.match(r"\S+ rw-[ps] 00000000 00:00 0", line)]


@needs_no_mmap
def test_memory_of_a_closed_ring_is_given_back():
    def map_and_close():
        for _ in range(50):
            with Ring(1024, flags=SetupFlags.NO_MMAP) as ring:
                ring.prep_nop()
                finish(ring)

    map_and_close()
    before = len(mappings())
    map_and_close()
    assert len(mappings()) <= before + 1


@needs_no_mmap
def test_memory_of_a_refused_ring_is_given_back():
    before = len(mappings())
    for _ in range(50):
        with pytest.raises(OSError, match="TASKRUN_FLAG needs"):
            Ring(1024, flags=SetupFlags.NO_MMAP | SetupFlags.TASKRUN_FLAG)
    assert len(mappings()) <= before + 1


# ---- a ring without a descriptor --------------------------------------------------------------

NO_FD = SetupFlags.NO_MMAP | SetupFlags.REGISTERED_FD_ONLY
needs_no_fd = needs(NO_FD)


@needs_no_fd
def test_ring_without_a_descriptor_takes_none_and_says_why():
    fds = os.listdir("/proc/self/fd")
    with clean_ring(8, flags=NO_FD) as ring:
        assert os.listdir("/proc/self/fd") == fds
        assert ring.fd == -1
        assert not ring.closed
        with pytest.raises(NotSupported, match="has no descriptor"):
            ring.fileno()
        with pytest.raises(NotSupported, match="has no descriptor"):
            ring.unregister_ring_fd()
        with pytest.raises(NotSupported, match="has no descriptor"):
            ring.register_buf_ring(4, 64, flags=BufferRingFlags.MMAP)
        with clean_ring() as other, pytest.raises(NotSupported, match="has no descriptor"):
            other.prep_msg_ring(ring, 0, 0)
        assert ring.register_probe().opcode_supported(0)
        ring.prep_nop("x")
        assert finish(ring)[0].user_data == "x"
    assert ring.closed
    with pytest.raises(ValueError, match="closed ring"):
        ring.fileno()


@needs_no_fd
def test_closing_a_ring_without_a_descriptor_gives_its_index_back():
    for dropped in (False, True):
        for _ in range(40):
            ring = Ring(2, flags=NO_FD)
            if not dropped:
                ring.close()
                continue
            with pytest.warns(ResourceWarning, match="unclosed ring"):
                del ring


@needs_no_fd
def test_set_up_without_a_free_index_says_so():
    rings = []
    try:
        with pytest.raises(OSError, match="all 16 indices") as caught:
            while True:
                rings.append(Ring(2, flags=NO_FD))
        assert caught.value.errno == errno.EBUSY
    finally:
        for ring in rings:
            ring.close()
    assert len(rings) == 16


def in_a_thread(call) -> list[BaseException]:
    caught = []

    def run():
        try:
            call()
        except Exception as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return caught


@needs_no_fd
@with_the_gil
def test_ring_without_a_descriptor_belongs_to_its_thread():
    with clean_ring(8, flags=NO_FD) as ring:
        for call in (ring.prep_nop, ring.submit, ring.close, ring.register_probe):
            [error] = in_a_thread(call)
            assert isinstance(error, RuntimeError)
            assert "no descriptor" in str(error)


@needs_no_fd
def test_ring_without_a_descriptor_whose_thread_ended_can_be_closed():
    made = []
    assert not in_a_thread(lambda: made.append(Ring(2, flags=NO_FD)))
    made[0].close()
    assert made[0].closed


@needs_no_fd
def test_disabled_ring_without_a_descriptor_starts_when_enabled():
    with clean_ring(8, flags=NO_FD | DEFER | SetupFlags.R_DISABLED) as ring:
        ring.prep_nop("late")
        with pytest.raises(OSError, match="enable_rings"):
            ring.submit()
        ring.enable_rings()
        assert finish(ring)[0].user_data == "late"


def test_closed_ring_descriptor_leaves_a_ring_entered_by_its_index():
    with clean_ring() as ring:
        with pytest.raises(ValueError, match=r"call register_ring_fd\(\) first"):
            ring.close_ring_fd()
        fd = ring.fd
        ring.register_ring_fd()
        ring.close_ring_fd()
        with pytest.raises(OSError):
            os.fstat(fd)
        assert ring.fd == -1
        ring.prep_nop("x")
        assert finish(ring)[0].user_data == "x"
        assert ring.register_probe().opcode_supported(0)
        with pytest.raises(NotSupported, match="has no descriptor"):
            ring.close_ring_fd()
    for _ in range(40):  # its place is given back as well
        with Ring(2) as ring:
            ring.register_ring_fd()
            ring.close_ring_fd()


# ---- polled completions -----------------------------------------------------------------------


IOPOLL = {
    "iopoll": SetupFlags.IOPOLL,
    "hybrid": SetupFlags.IOPOLL | SetupFlags.HYBRID_IOPOLL,
    "defer": SetupFlags.IOPOLL | DEFER,
    "sqpoll": SetupFlags.IOPOLL | SetupFlags.SQPOLL,
}
each_iopoll = pytest.mark.parametrize("flags", [parameter(*item) for item in IOPOLL.items()])


@each_iopoll
def test_polled_read_gives_the_data_or_says_that_the_disk_cannot_poll(flags, tmp_path):
    data = os.urandom(4096)
    (tmp_path / "f").write_bytes(data)
    try:
        fd = os.open(tmp_path / "f", os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        pytest.skip(f"no O_DIRECT on this file system: {error}")
    with clean_ring(8, flags=flags) as ring, mmap.mmap(-1, 4096) as page:
        ring.prep_read(fd, page, 0)
        [cqe] = finish(ring)
        assert cqe.res in (4096, -errno.EOPNOTSUPP)
        if cqe.res > 0:
            assert page[:] == data
    os.close(fd)


@each_iopoll
def test_polled_ring_refuses_what_cannot_be_polled_and_stays_usable(flags):
    with clean_ring(8, flags=flags) as ring:
        ring.prep_poll_add(0, 1, user_data="poll")
        assert results(finish(ring)) == {"poll": -errno.EINVAL}
        ring.prep_nop("nop")
        assert results(finish(ring)) == {"nop": 0}
        started = time.monotonic()
        assert ring.copy_cqes(1, 1, timeout=0.02) == []
        assert 0.015 < time.monotonic() - started < 2


# ---- the submission thread --------------------------------------------------------------------


def sqpoll_threads() -> dict[str, str]:
    """The status of each submission thread of this process."""
    found = {}
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/status") as file:
                status = file.read()
        except FileNotFoundError:
            continue
        if status.startswith("Name:\tiou-sqp"):
            found[task] = status
    return found


@needs_sqpoll
def test_submission_thread_stays_on_its_cpu():
    for cpu in os.sched_getaffinity(0):
        with clean_ring(8, flags=SetupFlags.SQPOLL, sq_thread_cpu=cpu) as ring:
            assert ring.flags & SetupFlags.SQ_AFF
            ring.prep_nop()
            finish(ring)
            [status] = sqpoll_threads().values()
            assert f"Cpus_allowed_list:\t{cpu}\n" in status
        while sqpoll_threads():
            time.sleep(0.001)


@needs_sqpoll
def test_submission_thread_falls_asleep_after_its_idle_time_and_is_woken():
    with clean_ring(8, flags=SetupFlags.SQPOLL, sq_thread_idle=1) as ring:
        for number in range(3):
            deadline = time.monotonic() + 5
            while not ring.sq.flags & SqFlags.NEED_WAKEUP:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            ring.prep_nop(number)
            ring.submit()
            assert ring.copy_cqe(timeout=5).user_data == number


@needs_sqpoll
def test_attached_ring_shares_the_submission_thread_and_outlives_the_first():
    first = Ring(8, flags=SetupFlags.SQPOLL, sq_thread_idle=1)
    with clean_ring(8, flags=SetupFlags.SQPOLL, wq_fd=first) as second:
        assert second.flags & SetupFlags.ATTACH_WQ
        for ring in (first, second):
            ring.prep_nop("shared")
            assert finish(ring)[0].user_data == "shared"
        assert len(sqpoll_threads()) == 1
        first.close()
        second.prep_nop("alone")
        assert finish(second)[0].user_data == "alone"


def test_ring_attached_without_a_submission_thread_is_just_a_ring():
    with clean_ring(flags=0) as first, clean_ring(8, flags=0, wq_fd=first.fd) as second:
        second.prep_nop("x")
        assert finish(second)[0].user_data == "x"


@needs_sqpoll
def test_disabled_ring_with_a_submission_thread_starts_when_enabled():
    with clean_ring(8, flags=SetupFlags.SQPOLL | SetupFlags.R_DISABLED) as ring:
        ring.prep_nop("late")
        ring.enable_rings()
        ring.submit()
        assert ring.copy_cqe(timeout=5).user_data == "late"


def test_ring_says_that_completions_wait_for_an_enter():
    flags = DEFER | SetupFlags.TASKRUN_FLAG
    if unavailable(flags):
        pytest.skip(unavailable(flags))
    left, right = socket.socketpair()
    with clean_ring(8, flags=flags) as ring, left, right:
        ring.prep_recv(left, bytearray(1), user_data="r")
        ring.submit()
        assert not ring.sq.flags & SqFlags.TASKRUN
        right.send(b"x")
        assert ring.sq.flags & SqFlags.TASKRUN
        assert ring.cq.tail == 0
        assert ring.peek_cqe().user_data == "r"
        assert not ring.sq.flags & SqFlags.TASKRUN
        ring.cq_advance(1)


# ---- refusals ---------------------------------------------------------------------------------

CONTRADICTIONS = [
    (SetupFlags.DEFER_TASKRUN, "DEFER_TASKRUN needs SINGLE_ISSUER"),
    (SetupFlags.TASKRUN_FLAG, "TASKRUN_FLAG needs COOP_TASKRUN or DEFER_TASKRUN"),
    (SetupFlags.SQPOLL | SetupFlags.COOP_TASKRUN, "SQPOLL excludes COOP_TASKRUN"),
    (SetupFlags.SQPOLL | SetupFlags.COOP_TASKRUN | SetupFlags.TASKRUN_FLAG,
     "SQPOLL excludes COOP_TASKRUN and TASKRUN_FLAG"),
    (SetupFlags.SQPOLL | DEFER, "SQPOLL excludes DEFER_TASKRUN"),
    (SetupFlags.SQ_AFF, "SQ_AFF needs SQPOLL"),
    (SetupFlags.REGISTERED_FD_ONLY, "REGISTERED_FD_ONLY needs NO_MMAP"),
    (SetupFlags.HYBRID_IOPOLL, "HYBRID_IOPOLL needs IOPOLL"),
    (SetupFlags.CQE32 | SetupFlags.CQE_MIXED, "CQE32 excludes CQE_MIXED"),
    (SetupFlags.TASKRUN_FLAG | SetupFlags.HYBRID_IOPOLL,
     "TASKRUN_FLAG needs COOP_TASKRUN or DEFER_TASKRUN; HYBRID_IOPOLL needs IOPOLL"),
]


@pytest.mark.parametrize(("flags", "cause"), CONTRADICTIONS)
def test_flags_that_contradict_each_other_are_named(flags, cause):
    with pytest.raises(OSError, match=f"set-up failed: Invalid argument: {cause}$") as caught:
        Ring(8, flags=flags)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"flags": 0, "cq_entries": 0}, r"cq_entries must be at least entries \(8\), not 0"),
        ({"flags": 0, "cq_entries": 4}, r"cq_entries must be at least entries \(8\), not 4"),
        ({"flags": 0, "cq_entries": 65537}, "cq_entries must be at most 65536, not 65537"),
        ({"flags": SetupFlags.SQPOLL, "sq_thread_cpu": 100000},
         "sq_thread_cpu must be a CPU that is online.*100000 is not"),
    ],
)
def test_number_that_no_kernel_accepts_is_named(options, cause):
    with pytest.raises(OSError, match=cause) as caught:
        Ring(8, **options)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("field", ["flags", "cq_entries", "sq_thread_cpu", "sq_thread_idle"])
@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_number_that_is_no_32_bit_word_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} must be from 0 to 4294967295, not {value}"):
        Ring(8, **{"flags": 0, field: value})


def test_attaching_to_what_is_no_ring_is_refused_by_name():
    with pytest.raises(OSError, match="wq_fd must be the open descriptor of a ring"):
        Ring(8, flags=0, wq_fd=9999)
    with open("/dev/null") as file, pytest.raises(OSError, match="wq_fd must be a ring"):
        Ring(8, flags=0, wq_fd=file)
    with pytest.raises(ValueError, match="negative"):
        Ring(8, flags=0, wq_fd=-1)


@needs_sqpoll
def test_attaching_to_a_ring_without_a_submission_thread_is_refused():
    with clean_ring(flags=0) as plain, pytest.raises(OSError, match=r"wq_fd must be .* SQPOLL"):
        Ring(8, flags=SetupFlags.SQPOLL, wq_fd=plain)


@needs_mixed
def test_mixed_queue_of_one_entry_is_refused():
    with pytest.raises(OSError, match="a mixed queue needs 2 entries") as caught:
        Ring(1, flags=SetupFlags.CQE_MIXED, cq_entries=1)
    assert caught.value.errno == errno.EOVERFLOW


def test_set_up_flag_that_this_kernel_lacks_is_named_with_its_version():
    if not unavailable(SetupFlags.SQE_MIXED):
        pytest.skip("this kernel has SQE_MIXED")
    with pytest.raises(OSError, match=r"SQE_MIXED.*6\.19"):
        Ring(8, flags=SetupFlags.SQE_MIXED)


def test_set_up_flag_that_does_not_exist_is_refused():
    with pytest.raises(OSError, match="0x40000000"):
        Ring(8, flags=1 << 30)


def test_submissions_from_the_first_place_only_are_not_supported():
    with pytest.raises(NotSupported, match=r"SQ_REWIND \(Linux 7\.0\)"):
        Ring.from_params(8, Params(SetupFlags.SQ_REWIND | SetupFlags.NO_SQARRAY))


# ---- refusals that only a filter can make -----------------------------------------------------


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.EPERM, r"Operation not permitted: a seccomp filter, as containers have it.*allow "
                      r"io_uring_setup, io_uring_enter and io_uring_register"),
        (errno.ENOSYS, r"no io_uring \(Linux 5\.4 .* or a seccomp filter hides it"),
        (errno.ENOMEM, r"not enough memory.*`ulimit -l`, or use fewer entries"),
        (errno.EMFILE, "no free descriptor; close some, or raise `ulimit -n`"),
        (errno.ENFILE, "no free descriptor"),
        (errno.EFAULT, "io_uring set-up failed: Bad address$"),
        (errno.EINVAL, r"this kernel .* may be too old: CQSIZE 5\.5, CLAMP 5\.6; flags=None finds"),
    ],
)
def test_refused_set_up_names_cause_and_remedy(number, cause):
    def work():
        seccomp.fail(seccomp.SETUP, number)
        with pytest.raises(OSError, match=cause) as caught:
            Ring(8)
        assert caught.value.errno == number

    in_child(work)


def test_refused_submission_thread_names_the_privilege_it_once_needed():
    def work():
        seccomp.fail(seccomp.SETUP, errno.EPERM)
        with pytest.raises(PermissionError, match=r"before Linux 5\.11 SQPOLL needs CAP_SYS_ADMIN"):
            Ring(8, flags=SetupFlags.SQPOLL)

    in_child(work)


@pytest.mark.parametrize(
    ("setting", "cause"),
    [
        ("1\n", r"io_uring_disabled is 1, .*`sysctl .*=0`, or membership in .*io_uring_group"),
        ("2\n", "io_uring_disabled is 2, for everybody; `sysctl kernel.io_uring_disabled=0`"),
        ("0\n", "a seccomp filter"),
        (None, "a seccomp filter"),  # the setting came with 6.6
    ],
)
def test_refusal_by_the_system_setting_is_told_from_others(setting, cause, tmp_path):
    if setting is not None:
        (tmp_path / "io_uring_disabled").write_text(setting)
    assert re.search(cause, _explain_refusal(tmp_path / "io_uring_disabled"))


def test_ladder_goes_down_only_for_flags_that_the_kernel_does_not_know():
    def work():
        seccomp.fail(seccomp.SETUP, errno.ENOMEM)
        with pytest.raises(OSError, match="not enough memory"):
            Ring(8)

    in_child(work)


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.EAGAIN, "no memory for a request now: take completions, then submit again"),
        (errno.EBUSY, "completions overflowed: take some"),
        (errno.EBADR, "a completion was lost for lack of memory: close this ring"),
        (errno.EINTR, "io_uring_enter: Interrupted system call"),
        (errno.ENXIO, "io_uring_enter: No such device"),
        (errno.EOWNERDEAD, r"SQPOLL\) has ended: make another ring"),
    ],
)
def test_failed_submit_says_what_to_do_and_leaves_everything_queued(number, cause):
    def work():
        with clean_ring(8) as ring:
            seccomp.fail(seccomp.ENTER, number, {1: 3})  # to_submit
            for name in ("one", "two", "three"):
                ring.prep_nop(name)
            for call in (ring.submit, lambda: ring.submit_and_wait(1)):
                with pytest.raises(OSError, match=cause) as caught:
                    call()
                assert caught.value.errno == number
                assert ring.sq_ready() == 3
            ring.prep_nop("four")
            assert results(finish(ring, 4)) == dict.fromkeys(("one", "two", "three", "four"), 0)

    in_child(work)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EBUSY, errno.EBADR])
def test_failed_wait_raises_and_the_ring_goes_on(number):
    def work():
        with clean_ring(8) as ring:
            seccomp.fail(seccomp.ENTER, number, {2: 3})  # min_complete
            ring.prep_nop("nop")
            ring.prep_timeout(0.02, user_data="timeout")
            with pytest.raises(OSError) as caught:
                ring.submit_and_wait(3)
            assert caught.value.errno == number
            assert ring.sq_ready() == 0  # they were submitted
            assert results(finish(ring, 2)) == {"nop": 0, "timeout": -errno.ETIME}

    in_child(work)


def test_interrupted_wait_goes_on_until_its_time_is_up():
    def work():
        with clean_ring(8) as ring:
            seccomp.fail(seccomp.ENTER, errno.EINTR, {2: 3})
            started = time.monotonic()
            assert ring.copy_cqes(3, 3, timeout=0.05) == []
            assert 0.045 < time.monotonic() - started < 2

    in_child(work)


def test_registration_that_an_old_kernel_lacks_is_named(hidden_operations):
    hidden_operations(Op.READ_MULTISHOT)  # 6.7
    eventfd, pbuf_status, query = 4, 26, 35

    def work():
        with clean_ring() as ring:
            group = ring.register_buf_ring(2, 16)
            for opcode in (eventfd, pbuf_status, query):
                seccomp.fail(seccomp.REGISTER, errno.EINVAL, {1: opcode})
            with pytest.raises(OSError, match=r"^\[Errno 22\] REGISTER_EVENTFD: Invalid argument$"):
                ring.register_eventfd(0)
            with pytest.raises(NotSupported, match=r"IORING_REGISTER_PBUF_STATUS needs Linux 6\.8"):
                group.head()
            ring.prep_nop()
            finish(ring)

    in_child(work)
