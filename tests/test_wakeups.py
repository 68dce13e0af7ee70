"""How a loop thread that sleeps is woken: by a message to its ring, else through a pipe."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
import seccomp
from ferrule._core.backend_uring import UringBackend
from ferrule._core.scheduler import Crew
from ferrule.ring import Ring
from ring_support import in_child
from test_threads import Elsewhere

Run = Callable[..., Any]
HOPS = 200
SECONDS = 10.0
SEND_MSG_RING = 31

class Engines:
    """Those of the runs in a test; they send messages, or only bytes through the pipe."""

    def __init__(self) -> None:
        self.messages = True
        self.made: list[UringBackend] = []

    def make(self) -> UringBackend:
        self.made.append(UringBackend(messages=self.messages))
        return self.made[-1]

    def total(self, counter: str) -> int:
        return sum(getattr(engine, counter) for engine in self.made)


@pytest.fixture
def engines(
    monkeypatch: pytest.MonkeyPatch, unavailable: dict[str, str | None]
) -> Engines:
    if unavailable["uring"]:
        pytest.skip(f"cannot here: {unavailable['uring']}")
    engines = Engines()
    monkeypatch.setattr("ferrule._core.backend_uring.UringBackend", engines.make)
    return engines


def hop() -> None:
    """To another loop thread and back, so often that either has slept in between."""
    with Elsewhere() as other:
        for number in range(HOPS):
            assert other.call(lambda number=number: number) == number


def test_threads_wake_each_other_by_messages_between_their_rings(engines: Engines) -> None:
    ferrule.run(hop, backend="uring", threads=2)
    if not engines.made[0].sends_messages:
        pytest.skip("SEND_MSG_RING needs Linux 6.13")
    assert engines.total("wakes") > HOPS
    assert engines.total("sqes") < HOPS / 2, "the pipe was armed again and again"


def test_threads_wake_each_other_through_a_pipe_where_there_are_no_messages(
    engines: Engines,
) -> None:
    engines.messages = False
    ferrule.run(hop, backend="uring", threads=2)
    assert not any(engine.sends_messages for engine in engines.made)
    assert engines.total("wakes") > HOPS
    assert engines.total("sqes") > HOPS, "nothing armed the pipe again"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM, errno.ENOSYS])
def test_a_kernel_that_refuses_messages_is_asked_once(number: int) -> None:
    def work() -> None:
        engines = Engines()
        seccomp.fail(seccomp.REGISTER, number, {1: SEND_MSG_RING})
        Crew(engines.make, 1, None).schedulers[0].run(lambda: None, ())
        assert not engines.made[0].sends_messages

    in_child(work)


@pytest.mark.parametrize("number", [errno.EOVERFLOW, errno.EBADFD, errno.ENOMEM])
def test_a_message_that_fails_is_followed_by_a_byte_in_the_pipe(number: int) -> None:
    def main() -> int:
        with Elsewhere() as other:
            # From here on for this thread alone; the other's messages still come through.
            seccomp.fail(seccomp.REGISTER, number, {1: SEND_MSG_RING})
            return len([other.call(lambda: None) for _ in range(HOPS)])

    def work() -> None:
        engines = Engines()
        assert Crew(engines.make, 2, None).schedulers[0].run(main, ()) == HOPS
        assert engines.made[1].sqes > HOPS / 2, "the other thread's pipe was never armed again"

    in_child(work)


@pytest.mark.parametrize("messages", [True, False])
def test_another_thread_and_a_signal_wake_a_loop_that_sleeps(
    engines: Engines, messages: bool
) -> None:
    engines.messages = messages

    def main() -> None:
        event = ferrule.Event()

        def disturb() -> None:
            time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGUSR1)  # its byte in the pipe must not end the other wake
            event.set()

        for _ in range(5):
            event.clear()
            thread = threading.Thread(target=disturb)
            thread.start()
            assert event.wait(SECONDS)
            ferrule.blocking(thread.join)

    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        ferrule.run(main, backend="uring")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(seen) == 5


@pytest.mark.parametrize("messages", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_late_message_to_a_runtime_that_has_ended_reaches_nobody(
    engines: Engines, messages: bool, threads: int
) -> None:
    engines.messages = messages
    stopping = threading.Event()
    running: list[ferrule.Runtime] = []

    def disturb() -> None:
        while not stopping.is_set():
            for runtime in running[-2:]:
                for scheduler in runtime._crew.schedulers:
                    scheduler.call_soon(int)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        for _ in range(60):
            runtime = ferrule.Runtime(backend="uring", threads=threads)
            running.append(runtime)
            runtime.run(lambda: ferrule.spawn(ferrule.sleep, 0).join())
            with Ring(8) as ring:  # whose number is that of one that is closed now
                pipe = os.pipe2(os.O_NONBLOCK)
                time.sleep(0.001)
                assert ring.cq_ready() == 0
                assert ring.peek_cqe() is None
                with pytest.raises(BlockingIOError):
                    os.read(pipe[0], 1)
                os.close(pipe[0])
                os.close(pipe[1])
    finally:
        stopping.set()
        disturber.join()


def test_no_wake_up_is_lost_while_threads_fall_asleep(engines: Engines) -> None:
    """Each answer needs one; a lost one would be a hang, or the deadline's."""
    def main() -> None:
        queues = [ferrule.Queue[int]() for _ in range(4)]

        def pass_on(number: int) -> None:
            while (item := queues[number].get(timeout=SECONDS)) >= 0:
                queues[(number + 1) % 4].put(item - 1)
            queues[(number + 1) % 4].put(-1)

        with ferrule.TaskGroup() as group:
            for number in range(4):
                group.spawn(pass_on, number)
                time.sleep(0.002)  # for another thread to take it
            queues[0].put(4 * HOPS)

    ferrule.run(main, backend="uring", threads=3)
