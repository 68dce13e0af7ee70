"""What the ring tests share: the set-up flags they run over, and a ring that must end clean."""

import contextlib
import errno
import os
import signal
import socket
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator

import pytest

from ferrule.ring import CQE, CancelFlags, Ring, SetupFlags, leaked_operations

SQ_THREAD_IDLE = 10  # ms: short, so that its thread is met both awake and asleep
DEFER = SetupFlags.SINGLE_ISSUER | SetupFlags.DEFER_TASKRUN
FLAG_SETS = {
    "plain": SetupFlags(0),
    "coop": SetupFlags.COOP_TASKRUN,
    "defer": DEFER,
    "sqpoll": SetupFlags.SQPOLL,
}
# Rings whose entries have another size or place, and one that has no descriptor.
LAYOUTS = {
    "cqe32": SetupFlags.CQE32,
    "mixed": DEFER | SetupFlags.CQE_MIXED,
    "sqe128": DEFER | SetupFlags.SQE128,
    "no_mmap": SetupFlags.NO_MMAP,
    "no_fd": DEFER | SetupFlags.NO_MMAP | SetupFlags.REGISTERED_FD_ONLY,
}


def unavailable(flags: int) -> str | None:
    try:
        Ring(2, flags=flags).close()
    except OSError as error:
        return f"no ring with flags {flags:#x} here: {error.strerror}"
    return None


def parameter(name: str, flags: SetupFlags) -> object:
    reason = unavailable(flags)
    return pytest.param(flags, id=name, marks=[pytest.mark.skip(reason=reason)] if reason else [])


# The core behaviours are tested on each of these, as liburing's tests do.
each_setup = pytest.mark.parametrize(
    "flags", [parameter(name, flags) for name, flags in FLAG_SETS.items()]
)
each_layout = pytest.mark.parametrize(
    "flags", [parameter(name, flags) for name, flags in (FLAG_SETS | LAYOUTS).items()]
)


with_the_gil = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="without the GIL a ring belongs to one thread",
)


@contextlib.contextmanager
def clean_ring(entries: int = 8, **options: object) -> Iterator[Ring]:
    """A ring that must have nothing in flight at the end, and leak nothing."""
    before = leaked_operations()
    if options.get("flags") is not None and options["flags"] & SetupFlags.SQPOLL:
        options.setdefault("sq_thread_idle", SQ_THREAD_IDLE)
    with Ring(entries, **options) as ring:  # type: ignore[arg-type]
        yield ring
        if not ring.closed:
            assert ring.statistics().in_flight == 0
            assert ring.statistics().unmatched == 0
    assert leaked_operations() == before


def await_sqpoll(ring: Ring) -> None:
    """Wait until the submission thread has made room: later than the completions appear."""
    deadline = time.monotonic() + 5
    while ring.flags & SetupFlags.SQPOLL and ring.sq_ready():
        assert time.monotonic() < deadline, "the submission thread takes nothing"
        time.sleep(0.0002)


def hand_over(ring: Ring) -> int:
    """Submit, and let what can complete at once do so: with SQPOLL that happens in its thread."""
    submitted = ring.submit()
    await_sqpoll(ring)
    return submitted


def finish(ring: Ring, count: int = 1, timeout: float = 5.0) -> list[CQE]:
    """Submit what is queued and take `count` completions."""
    ring.submit_and_wait_timeout(count, timeout)
    taken = ring.copy_cqes(count)
    while len(taken) < count:
        more = ring.copy_cqes(count - len(taken), 1, timeout)
        assert more, f"{len(taken)} of {count} completions within {timeout} s"
        taken += more
    await_sqpoll(ring)
    return taken


def results(cqes: list[CQE]) -> dict[object, int]:
    """res by user_data, for completions whose order is not defined."""
    assert len({cqe.user_data for cqe in cqes}) == len(cqes)
    return {cqe.user_data: cqe.res for cqe in cqes}


def in_child(work: Callable[[], object]) -> None:
    """Run `work` in a forked child; its failure is ours."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(20)
            work()
            status = 0
        except BaseException as error:
            sys.stderr.write(f"child: {error!r}\n")
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@contextlib.contextmanager
def tcp_listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@contextlib.contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with tcp_listener() as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        with client, server:
            yield client, server


def receive(ring: Ring, sock: socket.socket, count: int) -> tuple[bytes, list[CQE]]:
    """What `count` bytes a socket gets while the ring sends them, and the ring's completions."""
    data, cqes, deadline = b"", [], time.monotonic() + 10
    while len(data) < count:
        assert time.monotonic() < deadline, f"{len(data)} of {count} bytes came"
        cqes += ring.copy_cqes()
        with contextlib.suppress(BlockingIOError):
            data += sock.recv(count - len(data), socket.MSG_DONTWAIT)
    return data, cqes


def cancel_all(ring: Ring) -> list[CQE]:
    """Cancel what is in flight; the completions of what was."""
    ring.prep_cancel(flags=CancelFlags.ANY | CancelFlags.ALL, user_data="cancel_all")
    cqes = finish(ring, ring.statistics().in_flight)
    return [cqe for cqe in cqes if cqe.user_data != "cancel_all"]


def until_last(ring: Ring) -> list[CQE]:
    """Submit, and take the completions of the one multishot in flight, to its last."""
    ring.submit()
    taken = [ring.copy_cqe(timeout=5)]
    while taken[-1].more:
        taken.append(ring.copy_cqe(timeout=5))
    return taken


@contextlib.contextmanager
def udp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two bound datagram sockets, not connected."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        yield one, other


def fill(sock: socket.socket) -> int:
    """Send until nothing more fits; how much did."""
    sent = 0
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.send(bytes(1 << 16))
    sock.setblocking(True)
    return sent


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """And no byte more; fewer at the end of the stream."""
    data = b""
    sock.settimeout(10)
    while len(data) < count and (part := sock.recv(count - len(data))):
        data += part
    return data


CANCELED = -errno.ECANCELED
