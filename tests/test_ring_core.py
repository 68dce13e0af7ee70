"""The queues: what the first binding of this kind (seed 003) tested, and set-up, counts, waits."""

import errno
import os
import signal
import threading
import time

import pytest

from ferrule.ring import (
    CQE,
    SQE,
    CqeFlags,
    Features,
    FsyncFlags,
    NotSupported,
    Op,
    Params,
    Ring,
    SetupFlags,
    SqeFlags,
    SqFlags,
    SubmissionQueueFull,
    get_probe,
)
from ring_support import (
    DEFER,
    clean_ring,
    each_layout,
    each_setup,
    finish,
    hand_over,
    results,
    with_the_gil,
)

# ---- seed 003's four tests ------------------------------------------------------------------


@each_layout
def test_nop_moves_every_counter_as_it_goes_through_the_queues(flags):
    ring = Ring(1, flags=flags)
    sqe = ring.prep_nop(0xAAAAAAAA)
    assert sqe.opcode == Op.NOP
    assert sqe.user_data == 0xAAAAAAAA
    for field in ("flags", "ioprio", "off", "addr", "len", "op_flags", "buf_index",
                  "personality", "file_index", "addr3"):
        assert getattr(sqe, field) == 0, field

    assert (ring.sq.sqe_head, ring.sq.sqe_tail, ring.sq.tail, ring.cq.head) == (0, 1, 0, 0)
    assert (ring.sq_ready(), ring.cq_ready()) == (1, 0)

    assert hand_over(ring) == 1
    assert (ring.sq.sqe_head, ring.sq.sqe_tail, ring.sq.tail, ring.cq.head) == (1, 1, 1, 0)
    assert ring.sq_ready() == 0

    cqe = ring.copy_cqe()
    assert (cqe.user_data, cqe.res, cqe.flags) == (0xAAAAAAAA, 0, 0)
    assert ring.cq.head == 1
    assert ring.cq_ready() == 0

    barrier = ring.prep_nop(0xBBBBBBBB).drain()
    assert barrier.flags == SqeFlags.IO_DRAIN
    assert hand_over(ring) == 1
    cqe = ring.copy_cqe()
    assert (cqe.user_data, cqe.res, cqe.flags) == (0xBBBBBBBB, 0, 0)
    assert (ring.sq.sqe_head, ring.sq.sqe_tail, ring.sq.tail, ring.cq.head) == (2, 2, 2, 2)

    ring.close()
    assert ring.fd == -1


@each_layout
def test_readv_uses_a_registered_file_and_a_full_queue_says_so(flags):
    with clean_ring(1, flags=flags) as ring, open("/dev/zero", "rb") as zero:
        ring.register_files([zero])
        buffer = bytearray(b"*" * 128)
        sqe = ring.prep_readv(0, [buffer], 0, user_data=0xCCCCCCCC).use_registered_fd()
        assert sqe.flags == SqeFlags.FIXED_FILE
        with pytest.raises(SubmissionQueueFull, match=r"full \(1 entries\): submit"):
            ring.prep_nop()
        with pytest.raises(SubmissionQueueFull):
            ring.get_sqe()
        assert ring.submit() == 1
        cqe = ring.copy_cqe()
        assert (cqe.user_data, cqe.res, cqe.flags) == (0xCCCCCCCC, 128, 0)
        assert buffer == bytes(128)
        ring.unregister_files()


@each_layout
def test_writev_linked_to_fsync_completes_in_order(flags, tmp_path):
    with clean_ring(2, flags=flags) as ring, open(tmp_path / "file", "wb") as file:
        data = b"*" * 128
        first = ring.prep_writev(file, [data], 0, user_data=0xDDDDDDDD).link()
        assert first.flags == SqeFlags.IO_LINK
        second = ring.prep_fsync(file, user_data=0xEEEEEEEE)
        assert second.fd == file.fileno()
        assert ring.sq_ready() == 2
        assert ring.submit_and_wait(2) == 2
        assert (ring.sq_ready(), ring.cq_ready()) == (0, 2)
        cqe = ring.copy_cqe()
        assert (cqe.user_data, cqe.res, cqe.flags) == (0xDDDDDDDD, 128, 0)
        assert ring.cq_ready() == 1
        cqe = ring.copy_cqe()
        assert (cqe.user_data, cqe.res, cqe.flags) == (0xEEEEEEEE, 0, 0)
        assert ring.cq_ready() == 0
        assert (tmp_path / "file").read_bytes() == data


@each_layout
def test_read_linked_behind_write_gets_what_was_written(flags, tmp_path):
    with clean_ring(2, flags=flags) as ring, open(tmp_path / "file", "w+b") as file:
        written, read = bytearray(b"a" * 20), bytearray(b"b" * 20)
        ring.prep_write(file, written, 10, user_data=123).link()
        ring.prep_read(file, read, 10, user_data=456)
        assert ring.submit() == 2
        first, second = ring.copy_cqe(), ring.copy_cqe()
        assert (first.user_data, first.res, first.flags) == (123, 20, 0)
        assert (second.user_data, second.res, second.flags) == (456, 20, 0)
        assert read == written


# ---- set-up ---------------------------------------------------------------------------------


def test_default_flags_are_the_best_this_kernel_has():
    with Ring(8) as ring:
        if SetupFlags(ring.flags) & SetupFlags.DEFER_TASKRUN:
            assert ring.flags & SetupFlags.SINGLE_ISSUER
            assert ring.flags & SetupFlags.TASKRUN_FLAG
        assert ring.flags & SetupFlags.CQSIZE
        assert ring.cq.entries == 32
        assert ring.features & Features.SINGLE_MMAP


def test_explicit_flags_are_used_as_they_are():
    with Ring(8, flags=0) as ring:
        assert ring.flags & ~SetupFlags.NO_SQARRAY == 0
        assert ring.cq.entries == 16
    with Ring(8, flags=0, cq_entries=64) as ring:
        assert ring.flags & SetupFlags.CQSIZE
        assert ring.cq.entries == 64


@pytest.mark.parametrize("entries", [0, -1, 3, 100, 65536, 65537])
def test_entries_must_be_a_power_of_two_up_to_32768(entries):
    with pytest.raises(ValueError, match="entries must be a power of two from 1 to 32768"):
        Ring(entries)
    with pytest.raises(ValueError, match="entries must be"):
        Ring.from_params(entries, Params())


def test_entries_must_be_an_int():
    with pytest.raises(TypeError, match="entries must be an int, not str"):
        Ring("8")


def test_every_size_from_1_to_32768_is_accepted():
    for power in range(16):
        with Ring(1 << power) as ring:
            assert ring.sq.entries == 1 << power
            assert ring.sq.mask == ring.sq.entries - 1


@pytest.mark.parametrize("field", ["sq_entries", "cq_entries", "features", "wq_fd"])
def test_params_field_of_the_kernel_must_be_zero(field):
    params = Params()
    setattr(params, field, 1)
    with pytest.raises(ValueError, match=f"{field} must be 0, not 1"):
        Ring.from_params(8, params)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_reserved_params_must_be_zero(index):
    params = Params()
    params.resv = tuple(int(i == index) for i in range(3))
    with pytest.raises(ValueError, match=rf"resv\[{index}\] must be 0"):
        Ring.from_params(8, params)


def test_params_come_back_with_the_kernels_answers():
    params = Params(SetupFlags.CQSIZE, cq_entries=128)
    with Ring.from_params(8, params) as ring:
        assert (params.sq_entries, params.cq_entries) == (8, 128)
        assert params.features == ring.features != 0


def test_set_up_without_free_descriptors_names_the_limit():
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = os.open("/dev/null", os.O_RDONLY)
    os.close(top)
    resource.setrlimit(resource.RLIMIT_NOFILE, (top, hard))
    try:
        with pytest.raises(OSError, match="ulimit -n") as caught:
            Ring(8)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE


def test_a_ring_is_set_up_once():
    with Ring(8) as ring, pytest.raises(RuntimeError, match="set up once"):
        ring.__init__(8)
    with pytest.raises(RuntimeError, match="set up once"):
        ring.__init__(8)


def test_sqpoll_takes_submissions_in_its_own_thread():
    try:
        ring = Ring(8, flags=SetupFlags.SQPOLL, sq_thread_idle=1)
    except OSError as error:
        pytest.skip(f"no SQPOLL here: {error}")
    with ring:
        for _ in range(50):
            ring.prep_nop("polled")
            ring.submit_and_wait_timeout(1, 5)
            assert ring.copy_cqe().user_data == "polled"
        while not ring.sq.flags & SqFlags.NEED_WAKEUP:  # its thread goes to sleep
            time.sleep(0.001)
        ring.prep_nop("woken")
        ring.submit()
        assert ring.copy_cqe(timeout=5).user_data == "woken"


def test_probe_tells_what_the_kernel_has():
    probe = get_probe()
    assert probe.opcode_supported(Op.NOP)
    assert probe.opcode_supported(Op.READ)
    assert not probe.opcode_supported(255)
    assert not probe.opcode_supported(-1)
    assert not probe.opcode_supported(100000)
    assert probe.last_op >= Op.READ


def test_operation_that_the_kernel_lacks_is_refused_by_name_and_version(hidden_operations):
    hidden_operations(Op.STATX)
    with clean_ring() as ring:
        with pytest.raises(NotSupported, match=r"IORING_OP_STATX needs Linux 5\.6"):
            ring.prep_statx(None, "/")
        assert ring.sq_ready() == 0
        ring.prep_nop()
        assert finish(ring)[0].res == 0


def test_disabled_ring_says_so_and_starts_when_enabled():
    with clean_ring(8, flags=DEFER | SetupFlags.R_DISABLED) as ring:
        ring.prep_nop("late")
        with pytest.raises(OSError, match="enable_rings") as caught:
            ring.submit()
        assert caught.value.errno == errno.EBADFD
        ring.enable_rings()
        assert finish(ring)[0].user_data == "late"


def test_the_thread_that_enables_a_ring_owns_it():
    ring = Ring(8, flags=DEFER | SetupFlags.R_DISABLED)
    done = []

    def use():
        ring.enable_rings()
        ring.prep_nop("from the thread")
        done.extend(finish(ring))
        ring.close()

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert done[0].user_data == "from the thread"


def test_single_issuer_ring_refuses_other_threads():
    ring = Ring(8, flags=DEFER)
    failures = []

    def misuse():
        for call in (ring.prep_nop, ring.submit, ring.copy_cqes, ring.close, ring.register_probe):
            try:
                call()
            except RuntimeError as error:
                failures.append(str(error))

    thread = threading.Thread(target=misuse)
    thread.start()
    thread.join()
    assert len(failures) == 5
    assert all("belongs to the thread that made it" in text for text in failures)
    ring.prep_nop("still usable")
    assert finish(ring)[0].user_data == "still usable"
    ring.close()


@with_the_gil
def test_plain_ring_may_be_used_from_another_thread():
    with clean_ring(8, flags=0) as ring:
        thread = threading.Thread(target=lambda: (ring.prep_nop("other"), ring.submit()))
        thread.start()
        thread.join()
        assert ring.copy_cqe(timeout=5).user_data == "other"


def test_objects_of_the_ring_cannot_be_made_by_hand():
    for kind in (SQE, CQE):
        with pytest.raises(TypeError):
            kind()
        with pytest.raises(TypeError):
            kind.__new__(kind)


# ---- submission -----------------------------------------------------------------------------


@each_layout
def test_unprepared_sqe_is_a_nop(flags):
    with clean_ring(flags=flags) as ring:
        sqe = ring.get_sqe("blank")
        assert (sqe.opcode, sqe.fd, sqe.flags) == (0, 0, 0)
        assert finish(ring)[0].user_data == "blank"


@each_layout
def test_sqe_fields_can_be_read_and_edited_until_submit(flags):
    with clean_ring(flags=flags) as ring, open("/dev/zero", "rb") as zero:
        buffer = bytearray(b"*" * 16)
        sqe = ring.get_sqe().prep_read(zero, buffer, 0)
        sqe.user_data = object()
        sqe.user_data = wanted = object()
        sqe.len = 4
        assert (sqe.len, sqe.fd, sqe.off) == (4, zero.fileno(), 0)
        assert not sqe.submitted
        [cqe] = finish(ring)
        assert cqe.user_data is wanted
        assert cqe.res == 4
        assert buffer == bytes(4) + b"*" * 12
        assert sqe.submitted
        for name in ("opcode", "flags", "ioprio", "fd", "off", "addr", "len", "op_flags",
                     "user_data", "buf_index", "buf_group", "personality", "file_index", "addr3"):
            with pytest.raises(RuntimeError, match="was submitted"):
                getattr(sqe, name)
            with pytest.raises(RuntimeError, match="was submitted"):
                setattr(sqe, name, 0)
        with pytest.raises(RuntimeError, match="was submitted"):
            sqe.prep_nop()
        with pytest.raises(RuntimeError, match="was submitted"):
            sqe.link()


def test_every_plain_field_of_an_sqe_keeps_what_was_written():
    with Ring(8) as ring:
        sqe = ring.get_sqe()
        for name, bits in [("opcode", 8), ("ioprio", 16), ("fd", 31), ("off", 64), ("addr", 64),
                           ("len", 32), ("op_flags", 32), ("buf_index", 16), ("personality", 16),
                           ("file_index", 32), ("addr3", 64)]:
            setattr(sqe, name, (1 << bits) - 1)
            assert getattr(sqe, name) == (1 << bits) - 1, name
            with pytest.raises(OverflowError):
                setattr(sqe, name, 1 << 65)
            setattr(sqe, name, 0)


def test_len_cannot_grow_beyond_the_buffer_that_is_held():
    with Ring(8) as ring:
        sqe = ring.prep_read(0, bytearray(16))
        with pytest.raises(ValueError, match="exceeds the buffer's 16 bytes"):
            sqe.len = 17
        sqe = ring.prep_readv(0, [bytearray(16)] * 2)
        with pytest.raises(ValueError, match="exceeds the 2 buffers"):
            sqe.len = 3


def test_preparing_an_sqe_again_forgets_the_first_buffer(tmp_path):
    with clean_ring() as ring, open(tmp_path / "f", "w+b") as file:
        first, second = bytearray(8), b"second"
        sqe = ring.get_sqe("x").link()
        sqe.prep_read(file, first, 0)
        sqe.prep_write(file, second, 0)
        first.append(1)  # no longer exported
        assert sqe.flags == SqeFlags.IO_LINK
        [cqe] = finish(ring)
        assert (cqe.user_data, cqe.res) == ("x", 6)


@pytest.mark.parametrize(
    ("prepare", "error"),
    [
        (lambda ring: ring.prep_read(0, b"read-only"), TypeError),
        (lambda ring: ring.prep_readv(0, [bytearray(1), b"read-only"]), TypeError),
        (lambda ring: ring.prep_recv(0, memoryview(b"read-only")), TypeError),
        (lambda ring: ring.prep_read(0, "text"), TypeError),
        (lambda ring: ring.prep_write(0, memoryview(b"abcd")[::2]), BufferError),
        (lambda ring: ring.prep_read(-1, bytearray(1)), ValueError),
        (lambda ring: ring.prep_read("file", bytearray(1)), TypeError),
        (lambda ring: ring.prep_read(1 << 40, bytearray(1)), OverflowError),
        (lambda ring: ring.prep_read(0, bytearray(1), -2), ValueError),
        (lambda ring: ring.prep_read(0, bytearray(1), 1 << 63), OverflowError),
        (lambda ring: ring.prep_openat(None, "a\0b"), ValueError),
        (lambda ring: ring.prep_openat(None, 3.5), TypeError),
        (lambda ring: ring.prep_connect(0, ("localhost", 80)), ValueError),
        (lambda ring: ring.prep_connect(0, ("127.0.0.1", 65536)), OverflowError),
        (lambda ring: ring.prep_connect(0, 5), TypeError),
        (lambda ring: ring.prep_connect(0, "/" + "x" * 108), OSError),
        (lambda ring: ring.prep_timeout(-1), ValueError),
        (lambda ring: ring.prep_timeout(float("nan")), ValueError),
        (lambda ring: ring.prep_timeout("soon"), TypeError),
        (lambda ring: ring.prep_recv_multishot(0, 7), ValueError),
        (lambda ring: ring.prep_cancel(), ValueError),
        (lambda ring: ring.prep_msg_ring(ring, 0, 1 << 63), OverflowError),
        (lambda ring: ring.prep_recvmsg(0, [bytearray(1)], -1), ValueError),
    ],
)
def test_bad_argument_raises_and_leaves_nothing_queued(prepare, error):
    with clean_ring(2) as ring:
        ring.prep_nop("before")
        with pytest.raises(error):
            prepare(ring)
        assert ring.sq_ready() == 1
        ring.prep_nop("after")
        assert [cqe.user_data for cqe in finish(ring, 2)] == ["before", "after"]


def test_closed_ring_raises_for_everything():
    ring = Ring(8)
    sqe = ring.prep_nop()
    ring.close()
    ring.close()
    for call in (ring.get_sqe, ring.prep_nop, ring.submit, ring.copy_cqes, ring.copy_cqe,
                 ring.sq_ready, ring.cq_ready, ring.peek_cqe, ring.register_probe, ring.fileno,
                 lambda: sqe.fd, lambda: ring.submit_and_wait(1), lambda: ring.sq.head):
        with pytest.raises(ValueError, match="closed ring"):
            call()
    assert "closed" in repr(ring)


@each_layout
def test_space_left_and_ready_add_up(flags):
    with clean_ring(4, flags=flags) as ring:
        for queued in range(4):
            assert (ring.sq_ready(), ring.sq_space_left()) == (queued, 4 - queued)
            ring.prep_nop(queued)
        assert ring.sq_space_left() == 0
        assert hand_over(ring) == 4
        assert ring.sq_space_left() == 4
        assert [cqe.user_data for cqe in ring.copy_cqes()] == [0, 1, 2, 3]


@each_layout
def test_queues_wrap_many_times(flags):
    with clean_ring(4, flags=flags) as ring:
        for start in range(0, 3000, 3):
            for number in range(start, start + 3):
                ring.prep_nop(number)
            assert [cqe.user_data for cqe in finish(ring, 3)] == [start, start + 1, start + 2]
        assert ring.statistics().slots == 64  # slots are reused


def test_submit_with_nothing_queued_takes_nothing():
    with clean_ring() as ring:
        assert ring.submit() == 0
        assert ring.submit_and_wait(0) == 0


@each_layout
def test_bad_sqe_stops_the_batch_without_submit_all(flags):
    with clean_ring(4, flags=flags) as ring:
        ring.prep_nop("good")
        ring.get_sqe("bad").opcode = 255
        ring.prep_nop("behind")
        ring.prep_nop("last")
        if flags & SetupFlags.SQPOLL:  # its thread stops at the bad one too, and then goes on
            assert ring.submit_and_wait(4) == 4
            assert results(ring.copy_cqes()) == {
                "good": 0, "bad": -errno.EINVAL, "behind": 0, "last": 0
            }
            return
        assert ring.submit_and_wait(4) == 2  # and there was no wait
        assert ring.sq_ready() == 2
        assert results(ring.copy_cqes()) == {"good": 0, "bad": -errno.EINVAL}
        assert ring.submit() == 2
        assert results(finish(ring, 2)) == {"behind": 0, "last": 0}


@each_layout
def test_bad_sqe_is_passed_over_with_submit_all(flags):
    with clean_ring(4, flags=flags | SetupFlags.SUBMIT_ALL) as ring:
        ring.prep_nop("good")
        ring.get_sqe("bad").opcode = 255
        ring.prep_nop("behind")
        assert ring.submit_and_wait(3) == 3
        assert results(ring.copy_cqes()) == {"good": 0, "bad": -errno.EINVAL, "behind": 0}


def test_sqes_that_a_failed_batch_left_queued_can_still_be_edited():
    with clean_ring(4, flags=0) as ring:
        ring.get_sqe("bad").opcode = 255
        behind = ring.prep_nop("behind")
        assert ring.submit() == 1
        behind.user_data = "edited"
        assert results(finish(ring, 2)) == {"bad": -errno.EINVAL, "edited": 0}


# ---- links, drain, skip ---------------------------------------------------------------------


@each_layout
def test_failed_link_cancels_what_follows(flags):
    with clean_ring(flags=flags) as ring:
        ring.prep_read(9999, bytearray(1), 0, user_data="fails").link()
        ring.prep_nop("second").link()
        ring.prep_nop("third")
        ring.prep_nop("outside")
        assert results(finish(ring, 4)) == {
            "fails": -errno.EBADF,
            "second": -errno.ECANCELED,
            "third": -errno.ECANCELED,
            "outside": 0,
        }


@each_layout
def test_short_read_breaks_a_link(flags, tmp_path):
    (tmp_path / "short").write_bytes(b"1234")
    with clean_ring(flags=flags) as ring, open(tmp_path / "short", "rb") as file:
        ring.prep_read(file, bytearray(8), 0, user_data="short").link()
        ring.prep_nop("behind")
        assert results(finish(ring, 2)) == {"short": 4, "behind": -errno.ECANCELED}


@each_layout
def test_hardlink_survives_a_failed_operation(flags, tmp_path):
    (tmp_path / "short").write_bytes(b"1234")
    with clean_ring(flags=flags) as ring, open(tmp_path / "short", "rb") as file:
        sqe = ring.prep_read(file, bytearray(8), 0, user_data="short").hardlink()
        assert sqe.flags == SqeFlags.IO_HARDLINK
        ring.prep_nop("behind")
        assert results(finish(ring, 2)) == {"short": 4, "behind": 0}


@each_layout
def test_drain_waits_for_everything_before_it(flags):
    with clean_ring(flags=flags) as ring:
        ring.prep_timeout(0.03, user_data="slow")
        ring.prep_nop("drained").drain()
        ring.prep_nop("behind")
        assert [cqe.user_data for cqe in finish(ring, 3)] == ["slow", "drained", "behind"]


@each_layout
def test_skipped_success_is_not_delivered_but_its_failure_is(flags):
    with clean_ring(flags=flags) as ring:
        sqe = ring.prep_nop("unseen")
        sqe.flags |= SqeFlags.CQE_SKIP_SUCCESS
        assert sqe.flags == SqeFlags.CQE_SKIP_SUCCESS
        ring.prep_nop("seen")
        sqe = ring.prep_read(9999, bytearray(1), 0, user_data="failed")
        sqe.flags = SqeFlags.CQE_SKIP_SUCCESS
        assert results(finish(ring, 2)) == {"seen": 0, "failed": -errno.EBADF}
        assert ring.cq_ready() == 0


@each_layout
def test_wait_does_not_count_skipped_completions(flags):
    with clean_ring(flags=flags) as ring:
        for _ in range(3):
            ring.prep_nop("unseen").flags = SqeFlags.CQE_SKIP_SUCCESS
        ring.prep_timeout(0.03, user_data="seen")
        assert ring.submit_and_wait(1) == 4
        assert ring.cq_ready() == 1
        assert ring.peek_cqe().user_data == "seen"
        assert [cqe.user_data for cqe in ring.copy_cqes()] == ["seen"]


@each_layout
def test_skipped_completions_that_fill_the_queue_do_not_stop_a_wait(flags):
    with clean_ring(8, flags=flags | SetupFlags.CQSIZE, cq_entries=8) as ring:
        for _ in range(8):
            ring.prep_nop("unseen").flags = SqeFlags.CQE_SKIP_SUCCESS
        hand_over(ring)
        ring.prep_timeout(0.03, user_data="seen")
        cpu = time.thread_time()
        ring.submit_and_wait(1)
        assert time.thread_time() - cpu < 0.02  # it slept
        assert [cqe.user_data for cqe in ring.copy_cqes()] == ["seen"]


@each_layout
def test_skipped_completions_among_others_keep_their_order(flags):
    with clean_ring(64, flags=flags) as ring:
        for number in range(60):
            sqe = ring.prep_nop(number)
            if number % 3:
                sqe.flags = SqeFlags.CQE_SKIP_SUCCESS
        hand_over(ring)
        first = ring.peek_cqe()
        assert ring.cq_ready() == 20
        ring.cqe_seen(first)
        ring.cq_advance(2)
        assert [cqe.user_data for cqe in ring.copy_cqes()] == list(range(9, 60, 3))


@each_layout
def test_link_timeout_that_is_skipped_is_never_delivered(flags):
    with clean_ring(flags=flags) as ring:
        ring.prep_nop("limited").link()
        ring.prep_link_timeout(10).flags = SqeFlags.CQE_SKIP_SUCCESS
        assert [cqe.user_data for cqe in finish(ring)] == ["limited"]
        assert ring.copy_cqes(8, 1, timeout=0.05) == []


# ---- completion -----------------------------------------------------------------------------


@each_layout
def test_copy_cqes_takes_at_most_as_many_as_asked(flags):
    with clean_ring(flags=flags) as ring:
        for number in range(5):
            ring.prep_nop(number)
        ring.submit_and_wait(5)
        assert ring.copy_cqes(0) == []
        assert [cqe.user_data for cqe in ring.copy_cqes(2)] == [0, 1]
        assert ring.cq_ready() == 3
        assert [cqe.user_data for cqe in ring.copy_cqes()] == [2, 3, 4]
        assert ring.copy_cqes() == []
        with pytest.raises(ValueError, match="negative"):
            ring.copy_cqes(-1)


@each_layout
def test_copy_cqes_gives_what_is_ready_without_waiting_for_more(flags):
    with clean_ring(flags=flags) as ring:
        ring.prep_nop("ready")
        hand_over(ring)
        started = time.monotonic()
        assert len(ring.copy_cqes(8, 8)) == 1
        assert time.monotonic() - started < 1


def test_more_completions_than_one_inner_batch_are_delivered_in_order():
    with clean_ring(512) as ring:
        for number in range(500):
            ring.prep_nop(number)
        ring.submit_and_wait(500)
        assert [cqe.user_data for cqe in ring.copy_cqes()] == list(range(500))


@each_layout
def test_peeked_completion_stays_until_it_is_seen(flags):
    with clean_ring(flags=flags) as ring:
        assert ring.peek_cqe() is None
        ring.prep_nop("one")
        ring.prep_nop("two")
        ring.submit()
        first = ring.wait_cqe()
        assert first.user_data == ring.peek_cqe().user_data == "one"
        assert ring.cq_ready() == 2
        ring.cqe_seen(first)
        assert ring.cq_ready() == 1
        with pytest.raises(ValueError, match="no longer"):
            ring.cqe_seen(first)  # must not remove "two" in its place
        second = ring.peek_cqe()
        assert second.user_data == "two"
        ring.cq_advance(1)
        with pytest.raises(ValueError, match="no longer"):
            ring.cqe_seen(second)
        assert ring.peek_cqe() is None


def test_copied_completion_cannot_be_seen_again():
    with clean_ring() as ring:
        ring.prep_nop()
        ring.prep_nop()
        ring.submit()
        with pytest.raises(ValueError, match="first in the queue"):
            ring.cqe_seen(ring.copy_cqe())
        assert len(ring.copy_cqes()) == 1


def test_advancing_beyond_what_is_ready_is_refused():
    with clean_ring() as ring:
        ring.prep_nop()
        ring.submit()
        with pytest.raises(ValueError, match="only 1 completions are ready, not 2"):
            ring.cq_advance(2)
        ring.cq_advance(1)


@each_layout
def test_full_completion_queue_loses_nothing(flags):
    with clean_ring(8, flags=flags | SetupFlags.CQSIZE, cq_entries=8) as ring:
        for number in range(40):
            if number % 8 == 0:
                hand_over(ring)
            ring.prep_nop(number)
        hand_over(ring)
        ring.get_events()
        assert ring.cq_has_overflow()
        assert ring.sq.flags & SqFlags.CQ_OVERFLOW
        taken = []
        while len(taken) < 40:
            batch = ring.copy_cqes()
            assert batch
            taken += batch
        assert [cqe.user_data for cqe in taken] == list(range(40))
        ring.get_events()
        assert not ring.cq_has_overflow()
        assert ring.cq_overflow() == ring.cq.overflow == 0


def test_raise_for_error_gives_the_result_or_the_oserror():
    with clean_ring() as ring:
        ring.prep_nop()
        ring.prep_read(9999, bytearray(1), 0)
        good, bad = finish(ring, 2)
        assert good.ok
        assert good.raise_for_error() == 0
        assert not bad.ok
        with pytest.raises(OSError) as caught:
            bad.raise_for_error()
        assert caught.value.errno == errno.EBADF


def test_user_data_comes_back_as_the_same_object():
    with clean_ring(16) as ring:
        things = [None, 0, -1, 1 << 100, "text", [], {}, object(), ring, CqeFlags.MORE]
        for thing in things:
            ring.prep_nop(thing)
        assert all(
            cqe.user_data is thing
            for cqe, thing in zip(finish(ring, len(things)), things, strict=True)
        )


# ---- waiting --------------------------------------------------------------------------------


@each_layout
def test_wait_with_a_timeout_returns_when_the_time_is_up(flags):
    with clean_ring(flags=flags) as ring:
        started = time.monotonic()
        assert ring.submit_and_wait_timeout(1, 0.05) == 0
        assert 0.045 < time.monotonic() - started < 2
        assert ring.cq_ready() == 0


@each_layout
def test_wait_with_a_timeout_submits_and_counts(flags):
    with clean_ring(flags=flags) as ring:
        ring.prep_nop("quick")
        ring.prep_timeout(1.5, user_data="slow")
        started = time.monotonic()
        assert ring.submit_and_wait_timeout(2, 0.05) == 2
        assert 0.045 < time.monotonic() - started < 1.4
        assert ring.cq_ready() == 1
        assert results(finish(ring, 2)) == {"quick": 0, "slow": -errno.ETIME}


@each_layout
def test_wait_without_limit_takes_none(flags):
    with clean_ring(flags=flags) as ring:
        ring.prep_timeout(0.02, user_data="t")
        assert ring.submit_and_wait_timeout(1, None) == 1
        assert ring.copy_cqe().res == -errno.ETIME


@each_layout
def test_expired_waits_for_one_completion_raise_timeout_error(flags):
    with clean_ring(flags=flags) as ring:
        with pytest.raises(TimeoutError):
            ring.copy_cqe(timeout=0.01)
        with pytest.raises(TimeoutError):
            ring.wait_cqe(timeout=0.01)
        assert ring.copy_cqes(1, 1, timeout=0.01) == []
        with pytest.raises(ValueError, match="non-negative"):
            ring.copy_cqes(1, 1, timeout=-1)
        with pytest.raises(ValueError, match="non-negative"):
            ring.submit_and_wait_timeout(1, -0.5)


@each_layout
def test_wait_of_zero_seconds_polls(flags):
    with clean_ring(flags=flags) as ring:
        ring.prep_nop("now")
        assert ring.submit_and_wait_timeout(1, 0) == 1
        hand_over(ring)
        assert ring.copy_cqes(1, 1, timeout=0)[0].user_data == "now"
        assert ring.copy_cqes(1, 1, timeout=0) == []


@each_layout
def test_signal_handler_runs_during_a_wait_and_the_wait_goes_on(flags):
    ran = []
    before = signal.signal(signal.SIGALRM, lambda *_: ran.append(True))
    try:
        with clean_ring(flags=flags) as ring:
            ring.prep_timeout(0.15, user_data="t")
            signal.setitimer(signal.ITIMER_REAL, 0.03)
            assert ring.submit_and_wait(1) == 1
            assert ran
            assert ring.copy_cqe().res == -errno.ETIME
    finally:
        signal.signal(signal.SIGALRM, before)


@each_layout
def test_exception_of_a_signal_handler_ends_the_wait(flags):
    def strike(*_):
        raise InterruptedError("struck")

    before = signal.signal(signal.SIGALRM, strike)
    try:
        with Ring(8, flags=flags) as ring:
            ring.prep_timeout(30)
            signal.setitimer(signal.ITIMER_REAL, 0.03)
            with pytest.raises(InterruptedError, match="struck"):
                ring.submit_and_wait(1)
            assert ring.statistics().in_flight == 1
    finally:
        signal.signal(signal.SIGALRM, before)


@each_layout
def test_other_threads_run_during_a_wait(flags):
    reader, writer = os.pipe()
    with clean_ring(flags=flags) as ring:
        ring.prep_read(reader, bytearray(1), user_data="r")
        thread = threading.Thread(target=lambda: os.write(writer, b"x"))
        thread.start()
        assert [cqe.res for cqe in finish(ring)] == [1]
        thread.join()
    os.close(reader)
    os.close(writer)


@with_the_gil
def test_ring_cannot_be_closed_while_another_thread_waits_in_it():
    reader, writer = os.pipe()
    ring = Ring(8, flags=0)
    ring.prep_read(reader, bytearray(1))
    entered = threading.Event()

    def wait():
        entered.set()
        ring.submit_and_wait(1)

    thread = threading.Thread(target=wait)
    thread.start()
    entered.wait()
    time.sleep(0.05)  # there is no event for "it is inside the system call"
    with pytest.raises(RuntimeError, match="another thread waits"):
        ring.close()
    os.write(writer, b"x")
    thread.join()
    ring.close()
    os.close(reader)
    os.close(writer)


def test_ring_descriptor_polls_readable_when_a_completion_waits():
    import select

    with clean_ring(flags=0) as ring:
        assert select.select([ring], [], [], 0)[0] == []
        ring.prep_nop()
        ring.submit()
        assert select.select([ring], [], [], 1)[0] == [ring]
        ring.copy_cqe()


# ---- registered things ------------------------------------------------------------------------


@each_setup
def test_registered_ring_descriptor_enters_as_the_plain_one_does(flags):
    with clean_ring(flags=flags) as ring:
        ring.register_ring_fd()
        for _ in range(3):
            ring.prep_nop()
            assert len(finish(ring)) == 1
        ring.unregister_ring_fd()
        ring.unregister_ring_fd()  # nothing to undo
        ring.prep_nop()
        assert len(finish(ring)) == 1


def test_place_of_a_registered_ring_descriptor_is_given_back():
    # The kernel has 16 for each thread.
    for dropped in (False, True):
        for _ in range(40):
            ring = Ring(1)
            ring.register_ring_fd()
            ring.register_ring_fd()
            if not dropped:
                ring.close()
                continue
            with pytest.warns(ResourceWarning, match="unclosed ring"):
                del ring


def in_a_thread(call):
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


@with_the_gil
def test_registered_ring_descriptor_is_of_no_use_to_another_thread():
    refused = []

    def submit():
        try:
            ring.submit()
        except RuntimeError as error:
            refused.append(str(error))

    with clean_ring(flags=0) as ring:
        ring.prep_nop()
        ring.register_ring_fd()
        in_a_thread(submit)
        assert "register_ring_fd" in refused.pop()
        ring.unregister_ring_fd()
        in_a_thread(submit)
        assert not refused
        assert len(finish(ring)) == 1


def test_registered_files_can_be_replaced_and_emptied(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    with (
        clean_ring() as ring,
        open(tmp_path / "a", "rb") as a,
        open(tmp_path / "b", "rb") as b,
    ):
        ring.register_files([a, -1])
        buffer = bytearray(1)

        def read(index):
            ring.prep_read(index, buffer, 0).use_registered_fd()
            return finish(ring)[0].res

        assert (read(0), buffer) == (1, b"a")
        assert read(1) == -errno.EBADF
        assert ring.register_files_update(0, [b, a]) == 2
        assert (read(0), buffer) == (1, b"b")
        assert (read(1), buffer) == (1, b"a")
        assert ring.register_files_update(1, [-1]) == 1
        assert read(1) == -errno.EBADF
        with pytest.raises(OSError):
            ring.register_files_update(2, [a])
        with pytest.raises(OSError):
            ring.register_files([a])  # there is a table already
        ring.unregister_files()
        with pytest.raises(OSError):
            ring.unregister_files()


def test_worker_limits_are_set_and_returned():
    with clean_ring() as ring:
        before = ring.register_iowq_max_workers(3, 5)
        assert ring.register_iowq_max_workers() == (3, 5)
        ring.register_iowq_max_workers(*before)


@each_setup
def test_eventfd_is_signalled_at_completions(flags):
    with clean_ring(flags=flags) as ring:
        eventfd = os.eventfd(0, os.EFD_NONBLOCK)
        ring.register_eventfd(eventfd)
        ring.prep_nop()
        ring.submit_and_wait(1)
        assert os.eventfd_read(eventfd) >= 1
        ring.copy_cqe()
        ring.unregister_eventfd()
        ring.prep_nop()
        ring.submit_and_wait(1)
        with pytest.raises(BlockingIOError):
            os.eventfd_read(eventfd)
        ring.copy_cqe()
        os.close(eventfd)


def test_fsync_accepts_datasync(tmp_path):
    with clean_ring() as ring, open(tmp_path / "f", "wb") as file:
        sqe = ring.prep_fsync(file, FsyncFlags.DATASYNC)
        assert sqe.op_flags == FsyncFlags.DATASYNC
        assert finish(ring)[0].res == 0
