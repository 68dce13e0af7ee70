"""What a ring may do, and where its kernel threads and network cards do it."""

import errno
import os

import pytest

from ferrule.ring import NapiTracking, Op, Ring, SetupFlags, SqeFlags
from ring_support import clean_ring, each_setup, finish

READ_LATER = """
import os
from ferrule.ring import Ring
with Ring(4) as ring:
    root = ring.register_personality()
    os.setresuid(65534, 65534, 65534)
    results = []
    for personality in (0, root):
        sqe = ring.prep_openat(None, {path!r}, os.O_RDONLY | os.O_CLOEXEC)
        sqe.personality = personality
        ring.submit_and_wait(1)
        results.append(ring.copy_cqe().res)
    ring.unregister_personality(root)
    print(results[0], results[1] >= 0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="privileges can only be dropped by root")
def test_kept_credentials_open_what_the_process_no_longer_may(tmp_path, run_script):
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(folder.stat().st_mode | 0o711)
    done = run_script(READ_LATER.format(path=str(secret)))
    assert (done.stdout.split(), done.stderr) == ([str(-errno.EACCES), "True"], "")


@each_setup
def test_unknown_credentials_are_refused(flags):
    with clean_ring(flags=flags) as ring:
        number = ring.register_personality()
        assert number > 0
        ring.unregister_personality(number)
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            ring.unregister_personality(number)
        ring.prep_nop().personality = number
        assert finish(ring)[0].res == -errno.EINVAL


@each_setup
def test_restricted_ring_does_only_what_it_may(flags):
    with clean_ring(flags=flags | SetupFlags.R_DISABLED) as ring:
        ring.register_restrictions(
            operations=[Op.NOP, Op.TIMEOUT], registrations=[12, 9],
            flags_allowed=SqeFlags.IO_LINK)
        ring.enable_rings()
        ring.prep_nop().link()
        ring.prep_timeout(0.001)
        assert [cqe.res for cqe in finish(ring, 2)] == [0, -errno.ETIME]
        ring.prep_read(0, bytearray(1))
        assert finish(ring)[0].res == -errno.EACCES
        ring.prep_nop().flags = SqeFlags.ASYNC
        assert finish(ring)[0].res == -errno.EACCES
        with pytest.raises(PermissionError):
            ring.register_files([0])
        assert ring.register_personality() > 0


def test_required_flags_are_asked_of_every_submission():
    with clean_ring(flags=SetupFlags.R_DISABLED) as ring:
        ring.register_restrictions(operations=[Op.NOP], flags_required=SqeFlags.ASYNC)
        ring.enable_rings()
        ring.prep_nop()
        assert finish(ring)[0].res == -errno.EACCES
        ring.prep_nop().flags = SqeFlags.ASYNC
        assert finish(ring)[0].res == 0


def test_restrictions_come_before_the_ring_is_enabled_and_once():
    with clean_ring() as ring, pytest.raises(OSError, match=os.strerror(errno.EBADFD)):
        ring.register_restrictions(operations=[Op.NOP])
    with Ring(4, flags=SetupFlags.R_DISABLED) as ring:
        with pytest.raises(ValueError, match="from 0 to 255, not 256"):
            ring.register_restrictions(operations=[256])
        ring.register_restrictions(operations=[Op.NOP], registrations=[12])
        with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
            ring.register_restrictions(operations=[Op.READ])


@each_setup
def test_kernel_threads_stay_on_the_cpus_they_are_given(flags):
    with clean_ring(flags=flags) as ring:
        cpu = min(os.sched_getaffinity(0))
        ring.register_iowq_aff([cpu])
        ring.prep_nop().flags = SqeFlags.ASYNC
        assert finish(ring)[0].res == 0
        workers = [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")
                   if name_of(task).startswith("iou-wrk")]
        assert workers == [{cpu}] * len(workers)
        assert workers
        ring.unregister_iowq_aff()


def name_of(task):
    try:
        with open(f"/proc/self/task/{task}/comm") as file:
            return file.read()
    except OSError:  # it ended meanwhile
        return ""


def test_cpus_that_cannot_be_are_refused():
    with clean_ring() as ring:
        for cpus in ([], [-1], [8192]):
            with pytest.raises(ValueError, match="cpus must be numbers from 0 to 8191"):
                ring.register_iowq_aff(cpus)


def test_busy_polling_is_set_and_tells_what_was_before():
    with clean_ring() as ring:
        assert ring.register_napi(0.00005, True) == (0, False)
        assert ring.register_napi(0.0001) == (pytest.approx(0.00005), True)
        assert ring.unregister_napi() == (pytest.approx(0.0001), False)
        with pytest.raises(ValueError, match="timeout must be a non-negative number"):
            ring.register_napi(-1)


def test_busy_polled_queues_are_listed_by_hand_with_static_tracking():
    with clean_ring() as ring:
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            ring.register_napi_id(1 << 20)
        ring.register_napi(0.00005, tracking=NapiTracking.STATIC)
        ring.register_napi_id(1 << 20)
        with pytest.raises(OSError, match=os.strerror(errno.EEXIST)):
            ring.register_napi_id(1 << 20)
        ring.register_napi_id(1 << 20, add=False)
        ring.unregister_napi()
