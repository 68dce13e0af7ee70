"""What is registered with a ring beside files and buffers: credentials, restrictions, sizes."""

import array
import errno
import itertools
import os
import re
import socket
import time

import pytest

import seccomp
from ferrule._core.ring import REGISTRATIONS
from ferrule.ring import (
    NapiTracking,
    NotSupported,
    Op,
    RegisterOp,
    Ring,
    SetupFlags,
    SqeFlags,
    leaked_operations,
    query,
)
from ring_support import (
    DEFER,
    clean_ring,
    each_setup,
    finish,
    hand_over,
    in_child,
    parameter,
    results,
)

# ---- credentials ------------------------------------------------------------------------------

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def private_file(tmp_path):
    path = tmp_path / "private"
    path.write_text("x")
    path.chmod(0o600)
    for parent in path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o755)
    return path


@needs_root
@each_setup
def test_operation_has_the_credentials_that_it_names(flags, tmp_path):
    path = private_file(tmp_path)

    def work():
        with Ring(8, flags=flags) as ring:
            root = ring.register_personality()
            assert root > 0 or root == 0
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
            nobody = ring.register_personality()
            assert nobody != root
            ring.prep_openat(None, path, os.O_RDONLY, user_data="own")
            ring.prep_openat(None, path, os.O_RDONLY, user_data="root").personality = root
            ring.prep_openat(None, path, os.O_RDONLY, user_data="nobody").personality = nobody
            opened = results(finish(ring, 3))
            assert opened["root"] >= 0
            assert opened["nobody"] == -errno.EACCES
            # SQPOLL's thread has the credentials of whoever made the ring.
            assert (opened["own"] >= 0) == bool(flags & SetupFlags.SQPOLL)
            ring.unregister_personality(root)
            ring.prep_openat(None, path, os.O_RDONLY, user_data="gone").personality = root
            assert results(finish(ring)) == {"gone": -errno.EINVAL}

    in_child(work)


@needs_root
def test_operation_in_flight_keeps_credentials_that_are_forgotten(tmp_path):
    path = private_file(tmp_path)

    def work():
        with Ring(8) as ring:
            root = ring.register_personality()
            os.seteuid(NOBODY)
            ring.prep_timeout(0.02).hardlink()
            sqe = ring.prep_openat(None, path, os.O_RDONLY, user_data="open")
            sqe.personality = root
            ring.submit()
            ring.unregister_personality(root)
            assert results(finish(ring, 2))["open"] >= 0

    in_child(work)


def test_unknown_credentials_are_refused():
    with clean_ring() as ring:
        with pytest.raises(ValueError, match="no personality 4711"):
            ring.unregister_personality(4711)
        ring.prep_nop("x").personality = 4711
        assert results(finish(ring)) == {"x": -errno.EINVAL}
        ring.prep_nop("y")
        assert results(finish(ring)) == {"y": 0}


# ---- restrictions -----------------------------------------------------------------------------


def restricted(flags=DEFER, **restrictions):
    ring = Ring(8, flags=flags | SetupFlags.R_DISABLED | SetupFlags.SUBMIT_ALL)
    ring.register_restrictions(**restrictions)
    ring.enable_rings()
    return ring


@each_setup
def test_operations_that_are_not_allowed_complete_with_eacces(flags):
    with restricted(flags, sqe_ops=[Op.NOP, Op.TIMEOUT]) as ring:
        ring.prep_nop("nop")
        ring.prep_read(0, bytearray(1), user_data="read")
        ring.prep_timeout(0.001, user_data="timeout")
        assert results(finish(ring, 3)) == {
            "nop": 0, "read": -errno.EACCES, "timeout": -errno.ETIME
        }


@each_setup
def test_registrations_that_are_not_allowed_raise_permission_error(flags):
    with restricted(flags, register_ops=[RegisterOp.PROBE], sqe_ops=[Op.NOP]) as ring:
        assert ring.register_probe().opcode_supported(Op.NOP)
        with pytest.raises(PermissionError, match=r"REGISTER_FILES: .*restrictions of this ring"):
            ring.register_files([0])
        ring.prep_nop("x")
        assert results(finish(ring)) == {"x": 0}


@each_setup
def test_flags_of_operations_can_be_allowed_and_required(flags):
    link, drain, asynchronous = SqeFlags.IO_LINK, SqeFlags.IO_DRAIN, SqeFlags.ASYNC
    with restricted(
        flags, sqe_ops=[Op.NOP], sqe_flags_allowed=link, sqe_flags_required=asynchronous
    ) as ring:
        ring.prep_nop("bare")
        ring.prep_nop("async").flags = asynchronous
        ring.prep_nop("drain").flags = asynchronous | drain
        ring.prep_nop("link").flags = asynchronous | link
        ring.prep_nop("end").flags = asynchronous
        assert results(finish(ring, 5)) == {
            "bare": -errno.EACCES, "async": 0, "drain": -errno.EACCES, "link": 0, "end": 0
        }


@each_setup
def test_restricted_ring_can_be_closed_with_operations_in_flight(flags):
    before = leaked_operations()
    left, right = socket.socketpair()
    with left, right:
        ring = restricted(flags, sqe_ops=[Op.RECV])
        buffer = bytearray(4)
        ring.prep_recv(left, buffer)
        hand_over(ring)
        started = time.monotonic()
        ring.close()
        assert time.monotonic() - started < 2
        assert leaked_operations() == before
        buffer.append(1)


def test_restricted_ring_gives_the_index_of_its_descriptor_back():
    for _ in range(40):
        with restricted(register_ops=[RegisterOp.RING_FDS], sqe_ops=[Op.NOP]) as ring:
            ring.register_ring_fd()


def test_restrictions_are_registered_once_and_before_the_ring_is_enabled():
    with clean_ring() as ring:
        with pytest.raises(OSError, match=r"R_DISABLED, until enable_rings\(\)") as caught:
            ring.register_restrictions(sqe_ops=[Op.NOP])
        assert caught.value.errno == errno.EBADFD
    with Ring(8, flags=DEFER | SetupFlags.R_DISABLED) as ring:
        for wrong in (-1, 256):
            with pytest.raises(ValueError, match=f"from 0 to 255, not {wrong}"):
                ring.register_restrictions(sqe_ops=[wrong])
        with pytest.raises(OSError) as caught:
            ring.register_restrictions(sqe_ops=[200])
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(TypeError):
            ring.register_restrictions(register_ops=["PROBE"])
        ring.register_restrictions(sqe_ops=[Op.NOP])
        with pytest.raises(OSError) as caught:
            ring.register_restrictions(sqe_ops=[Op.NOP])
        assert caught.value.errno == errno.EBUSY
        ring.enable_rings()
        ring.prep_nop("x")
        assert results(finish(ring)) == {"x": 0}


def test_enabling_a_ring_twice_is_refused():
    with clean_ring() as ring:
        with pytest.raises(OSError, match=r"ENABLE_RINGS.*R_DISABLED") as caught:
            ring.enable_rings()
        assert caught.value.errno == errno.EBADFD


def test_names_of_registrations_are_the_kernels():
    for op, (name, _) in zip(RegisterOp, REGISTRATIONS, strict=True):
        assert name in (f"REGISTER_{op.name}", op.name)


# ---- eventfd ----------------------------------------------------------------------------------


@each_setup
def test_eventfd_can_be_switched_off_and_on(flags):
    eventfd = os.eventfd(0, os.EFD_NONBLOCK)
    with clean_ring(flags=flags) as ring:
        ring.register_eventfd(eventfd)
        assert ring.cq_eventfd_enabled()

        def signalled():
            ring.prep_nop()
            finish(ring)
            try:
                return os.eventfd_read(eventfd) > 0
            except BlockingIOError:
                return False

        assert signalled()
        ring.cq_eventfd_toggle(False)
        assert not ring.cq_eventfd_enabled()
        assert not signalled()
        ring.cq_eventfd_toggle(False)
        assert not signalled()
        ring.cq_eventfd_toggle(True)
        assert ring.cq_eventfd_enabled()
        assert signalled()
        with pytest.raises(OSError) as caught:
            ring.register_eventfd(eventfd)  # there is one
        assert caught.value.errno == errno.EBUSY
        ring.unregister_eventfd()
        assert not signalled()
        with pytest.raises(OSError) as caught:
            ring.unregister_eventfd()
        assert caught.value.errno == errno.ENXIO
    os.close(eventfd)


def test_eventfd_may_be_signalled_for_completions_of_kernel_threads_only():
    eventfd = os.eventfd(0, os.EFD_NONBLOCK)
    with clean_ring(flags=0) as ring:
        ring.register_eventfd(eventfd, only_async=True)
        ring.prep_nop()
        finish(ring)
        with pytest.raises(BlockingIOError):
            os.eventfd_read(eventfd)
        ring.prep_nop().flags = SqeFlags.ASYNC
        finish(ring)
        assert os.eventfd_read(eventfd) > 0
    os.close(eventfd)


def test_what_is_no_eventfd_is_refused():
    with clean_ring() as ring, open(os.devnull) as file:
        with pytest.raises(OSError) as caught:
            ring.register_eventfd(file)
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(ValueError, match="negative"):
            ring.register_eventfd(-1)


# ---- kernel threads ---------------------------------------------------------------------------


def workers() -> dict[str, str]:
    """The CPUs of each kernel thread that works for this process."""
    found = {}
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/status") as file:
                status = file.read()
        except FileNotFoundError:
            continue
        if status.startswith("Name:\tiou-wrk"):
            found[task] = re.search(r"Cpus_allowed_list:\t(\S+)", status)[1]
    return found


@pytest.mark.parametrize("flags", [parameter("defer", DEFER),
                                   parameter("sqpoll", SetupFlags.SQPOLL)])
@pytest.mark.parametrize("cpus", [[cpu] for cpu in sorted(os.sched_getaffinity(0))] + [None])
def test_kernel_threads_stay_on_their_cpus(flags, cpus, tmp_path):
    def work():
        with clean_ring(8, flags=flags) as ring, open(tmp_path / "f", "wb") as file:
            ring.register_iowq_aff(cpus or [0])
            if cpus is None:
                ring.unregister_iowq_aff()
            for _ in range(4):
                ring.prep_fsync(file)  # needs a thread
            finish(ring, 4)
            assert workers()
            for allowed in workers().values():
                assert allowed == every_cpu if cpus is None else allowed == str(cpus[0])

    with open("/proc/self/status") as file:
        every_cpu = re.search(r"Cpus_allowed_list:\t(\S+)", file.read())[1]
    in_child(work)


@pytest.mark.parametrize(("cpus", "what"), [([], "at least one CPU"), ([-1], "from 0 to"),
                                            ([0, 1 << 20], "from 0 to .*, not 1048576")])
def test_cpus_that_no_thread_can_run_on_are_refused(cpus, what):
    with clean_ring() as ring:
        with pytest.raises(ValueError, match=what):
            ring.register_iowq_aff(cpus)
        with pytest.raises(TypeError):
            ring.register_iowq_aff(["0"])
        ring.prep_nop()
        finish(ring)


def test_worker_limits_hold_for_all_rings_of_the_thread():
    def work():
        with clean_ring() as first, clean_ring() as second:
            first.register_iowq_max_workers(3, 5)
            assert second.register_iowq_max_workers() == (3, 5)

    in_child(work)


# ---- network cards ----------------------------------------------------------------------------


def napi_ring():
    ring = Ring(8, flags=DEFER)
    try:
        ring.register_napi(0)
        ring.unregister_napi()
    except OSError as error:
        ring.close()
        pytest.skip(f"no busy polling in this kernel: {error}")
    return ring


def test_napi_settings_come_back():
    with napi_ring() as ring:
        before = ring.register_napi(0.00005, True)
        assert before.busy_poll_to == 0
        before = ring.register_napi(2e-6, False)
        assert before == (0.00005, True, NapiTracking.DYNAMIC)
        before = ring.unregister_napi()
        assert before == (2e-6, False, None)
        left, right = socket.socketpair()
        with left, right:  # waits go on as ever
            ring.prep_recv(left, bytearray(1))
            right.send(b"x")
            assert finish(ring)[0].res == 1


def test_napi_queues_are_named_one_by_one_with_static_tracking():
    with napi_ring() as ring:
        with pytest.raises(OSError) as caught:
            ring.register_napi_add_id(5000)  # tracking is not static
        assert caught.value.errno == errno.EINVAL
        ring.register_napi(0.00005, tracking=NapiTracking.STATIC)
        with pytest.raises(OSError) as caught:
            ring.register_napi_add_id(3)  # below the numbers that queues have
        assert caught.value.errno == errno.EINVAL
        ring.register_napi_add_id(5000)
        with pytest.raises(FileExistsError, match="5000 is polled already"):
            ring.register_napi_add_id(5000)
        ring.register_napi_del_id(5000)
        with pytest.raises(FileNotFoundError):
            ring.register_napi_del_id(5000)
        assert ring.register_napi(0.00005).tracking == NapiTracking.STATIC
        assert ring.unregister_napi().tracking is None


def test_wrong_napi_settings_are_refused(hidden_operations):
    with napi_ring() as ring:
        for wrong in (-1, float("nan")):
            with pytest.raises(ValueError, match="busy_poll_to must be"):
                ring.register_napi(wrong)
        with pytest.raises(OSError) as caught:
            ring.register_napi(0.001, tracking=7)
        assert caught.value.errno == errno.EINVAL
        hidden_operations(Op.LISTEN)
        with pytest.raises(NotSupported, match=r"6\.13"):
            ring.register_napi(0.001, tracking=NapiTracking.STATIC)


# ---- other sizes ------------------------------------------------------------------------------

RESIZABLE = {
    "array of indices": DEFER,
    "array of indices, cqe32": DEFER | SetupFlags.CQE32,
    "no array": DEFER | SetupFlags.NO_SQARRAY,
    "sqe128": DEFER | SetupFlags.SQE128,
    "cqe32": DEFER | SetupFlags.CQE32 | SetupFlags.NO_SQARRAY,
    "mixed": DEFER | SetupFlags.CQE_MIXED,
    "no_mmap": DEFER | SetupFlags.NO_MMAP,
    "no_mmap, sqe128, cqe32": (DEFER | SetupFlags.NO_MMAP | SetupFlags.SQE128
                               | SetupFlags.CQE32),
    "no_fd": DEFER | SetupFlags.NO_MMAP | SetupFlags.REGISTERED_FD_ONLY,
}


def resize(ring, *sizes):
    try:
        ring.resize_rings(*sizes)
    except NotSupported as error:
        pytest.skip(f"no resizing here: {error}")


@pytest.mark.parametrize("flags", [parameter(*item) for item in RESIZABLE.items()])
def test_ring_works_at_every_size_it_is_given(flags):
    numbers = itertools.count()
    with clean_ring(8, flags=flags) as ring:
        for entries, cq_entries in [(8, None), (2, 4), (64, None), (4, 512), (1024, 2048), (8, 8)]:
            resize(ring, entries, cq_entries)
            assert (ring.sq.entries, ring.sq.mask) == (entries, entries - 1)
            assert ring.cq.entries == (cq_entries or 2 * entries)
            for _ in range(5):
                wanted = [next(numbers) for _ in range(entries)]
                for number in wanted:
                    ring.prep_nop(number)
                assert [cqe.user_data for cqe in finish(ring, entries)] == wanted
                ring.prep_nop("one more")  # so that the queues do not wrap at the same place
                finish(ring)


@pytest.mark.parametrize("flags", [parameter(*item) for item in RESIZABLE.items()])
def test_operations_in_flight_survive_another_size(flags):
    left, right = socket.socketpair()
    with clean_ring(8, flags=flags) as ring, left, right, ring.batch_queue(4) as batch:
        buffer = bytearray(4)
        sqe = ring.prep_recv(left, buffer, user_data="recv")
        batch.prep_nop(2)
        ring.submit()
        assert batch.complete(array.array("i", [0] * 4), wait_nr=2) == 2
        for entries in (32, 2, 16):
            resize(ring, entries)
            assert sqe.submitted
            with pytest.raises(BufferError):
                buffer.append(1)
        right.send(b"data")
        assert results(finish(ring)) == {"recv": 4}
        assert buffer == b"data"


def test_completions_that_wait_survive_another_size():
    with clean_ring(8, flags=DEFER) as ring:
        for start in range(0, 100, 5):
            for number in range(start, start + 5):
                ring.prep_nop(number)
            ring.submit_and_wait(5)
            shown = ring.peek_cqe()
            resize(ring, 8 if start % 2 else 64)
            assert ring.cq_ready() == 5
            assert ring.peek_cqe().user_data == shown.user_data == start
            ring.cqe_seen(shown)
            assert [cqe.user_data for cqe in ring.copy_cqes()] == [
                start + 1, start + 2, start + 3, start + 4
            ]


def test_completions_that_do_not_fit_refuse_another_size():
    with clean_ring(16, flags=DEFER) as ring:
        for number in range(10):
            ring.prep_nop(number)
        ring.submit_and_wait(10)
        with pytest.raises(OSError, match="10 completions wait, more than 4 entries") as caught:
            ring.resize_rings(2, 4)
        assert caught.value.errno == errno.EOVERFLOW
        assert (ring.sq.entries, ring.cq.entries) == (16, 32)
        assert [cqe.user_data for cqe in ring.copy_cqes()] == list(range(10))
        resize(ring, 2, 4)
        ring.prep_nop("x")
        assert results(finish(ring)) == {"x": 0}


@pytest.mark.parametrize("wide", [parameter("cqe32", SetupFlags.CQE32),
                                  parameter("mixed", SetupFlags.CQE_MIXED)])
def test_large_completions_that_wait_refuse_another_size(wide):
    with clean_ring(16, flags=DEFER | wide) as ring:
        ring.prep_nop("x")
        ring.submit_and_wait(1)
        with pytest.raises(ValueError, match="take them first"):
            ring.resize_rings(8)
        assert len(ring.copy_cqes()) == 1
        resize(ring, 8)


@pytest.mark.parametrize("wide", [parameter("defer", SetupFlags(0)),
                                  parameter("cqe32", SetupFlags.CQE32),
                                  parameter("mixed", SetupFlags.CQE_MIXED)])
def test_completions_that_are_not_shown_do_not_refuse_another_size(wide):
    with clean_ring(8, flags=DEFER | wide) as ring, ring.batch_queue(2) as batch:
        for _ in range(6):
            ring.prep_nop().flags |= SqeFlags.CQE_SKIP_SUCCESS
        batch.prep_nop(2)
        ring.submit()
        resize(ring, 2, 4)
        assert ring.statistics().in_flight == 2
        assert batch.complete(array.array("i", [1] * 2)) == 2


def test_end_of_what_is_not_shown_may_close_the_ring_that_gets_another_size():
    class Closing:
        def __del__(self):
            ring.close()

    with clean_ring(8, flags=DEFER) as ring:
        ring.prep_nop(Closing()).flags |= SqeFlags.CQE_SKIP_SUCCESS
        ring.submit()
        with pytest.raises(ValueError, match="closed ring"):
            ring.resize_rings(16)


def test_wrong_sizes_are_refused_and_change_nothing():
    with clean_ring(8, flags=DEFER) as ring:
        for entries in (0, 3, 65536):
            with pytest.raises(ValueError, match="entries must be a power of two"):
                ring.resize_rings(entries)
        for cq_entries, what in [(0, "at least entries"), (4, "at least entries"),
                                 (65537, "at most 65536")]:
            with pytest.raises(OSError, match=f"cq_entries must be {what}"):
                ring.resize_rings(8, cq_entries)
        with pytest.raises(ValueError, match="cq_entries must be from 0"):
            ring.resize_rings(8, -1)
        sqe = ring.prep_nop("x")
        with pytest.raises(ValueError, match="submission queue must be empty"):
            ring.resize_rings(64)
        sqe.user_data = "edited"
        assert (ring.sq.entries, ring.cq.entries) == (8, 16)
        assert results(finish(ring)) == {"edited": 0}


@pytest.mark.parametrize("flags", [0, SetupFlags.COOP_TASKRUN, SetupFlags.SQPOLL])
def test_ring_without_defer_taskrun_cannot_be_resized(flags):
    with clean_ring(8, flags=flags) as ring, pytest.raises(ValueError, match="DEFER_TASKRUN"):
        ring.resize_rings(16)


def test_ring_that_closed_its_descriptor_cannot_be_resized():
    with clean_ring(8, flags=DEFER) as ring:
        ring.register_ring_fd()
        resize(ring, 16)
        ring.close_ring_fd()
        with pytest.raises(NotSupported, match="no descriptor"):
            ring.resize_rings(8)


def test_skipped_completions_and_overflow_survive_another_size():
    with clean_ring(8, flags=DEFER, cq_entries=8) as ring:
        for number in range(16):
            if number % 8 == 0:
                ring.submit()
            sqe = ring.prep_nop(number)
            if number % 2:
                sqe.flags = SqeFlags.CQE_SKIP_SUCCESS
        ring.submit()
        ring.get_events()
        resize(ring, 8, 32)
        taken = []
        while len(taken) < 8:
            batch = ring.copy_cqes(32, 1, timeout=5)
            assert batch
            taken += batch
        assert [cqe.user_data for cqe in taken] == list(range(0, 16, 2))


def test_queues_that_cannot_be_mapped_again_end_the_ring():
    mmap_call = {"x86_64": 9, "aarch64": 222}.get(os.uname().machine)
    if mmap_call is None:
        pytest.skip("the number of mmap(2) on this machine is not known here")

    def work():
        ring = Ring(8, flags=DEFER)
        before = leaked_operations()
        left, _right = socket.socketpair()
        ring.prep_recv(left, bytearray(4))
        ring.submit()
        seccomp.fail(mmap_call, errno.ENOMEM, {4: ring.fd})
        with pytest.raises(MemoryError, match="the ring is closed"):
            ring.resize_rings(16)
        assert ring.closed
        assert leaked_operations() == before + 1

    in_child(work)


# ---- asking -----------------------------------------------------------------------------------


@each_setup
def test_query_through_a_ring_says_what_the_one_without_says(flags):
    with clean_ring(flags=flags) as ring:
        try:
            answer = ring.register_query()
        except NotSupported as error:
            pytest.skip(str(error))
        assert answer == query()
        assert answer.request_opcodes == ring.register_probe().last_op + 1


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF])
def test_query_that_an_old_kernel_refuses_is_not_supported(number):
    def work():
        seccomp.fail(seccomp.REGISTER, number, {1: RegisterOp.QUERY})
        with pytest.raises(NotSupported, match=r"needs Linux 6\.18"):
            query()

    in_child(work)


def test_query_that_a_filter_refuses_raises_as_it_is():
    def work():
        seccomp.fail(seccomp.REGISTER, errno.EPERM, {1: RegisterOp.QUERY})
        with pytest.raises(PermissionError):
            query()

    in_child(work)
