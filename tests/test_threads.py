"""Several loop threads: what is shared, what stays, what crosses.  With the GIL as without."""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

import ferrule

Run = Callable[..., Any]
SECONDS = 10.0  # far beyond what anything here takes


def thread() -> int:
    return threading.get_ident()


def spin(seconds: float) -> None:
    """Keep this thread, in Python."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


class Elsewhere:
    """Calls run on another loop thread than the one that made this, until the block is left."""

    def __enter__(self) -> Elsewhere:
        self.jobs: ferrule.Queue[Callable[[], object] | None] = ferrule.Queue()
        self.answers: ferrule.Queue[Any] = ferrule.Queue()
        here, found = thread(), threading.Event()

        def work() -> None:
            if thread() == here or found.is_set():
                return
            found.set()
            while (job := self.jobs.get()) is not None:
                self.answers.put(job())

        self.workers = []
        until = time.monotonic() + SECONDS
        while not found.is_set():
            assert time.monotonic() < until, "no other thread ever took a task"
            self.workers.append(ferrule.spawn(work))
            spin(0.001)  # this thread is busy, so another one takes it
        return self

    def call(self, job: Callable[[], Any]) -> Any:
        self.jobs.put(job)
        return self.answers.get()

    def __exit__(self, *exc: object) -> None:
        self.jobs.put(None)
        with ferrule.shield():
            for worker in self.workers:
                worker.join()


# ---- which thread ----


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_tasks_run_on_several_threads(run: Run, threads: int) -> None:
    def work() -> int:
        spin(0.002)
        return thread()

    def main() -> set[int]:
        seen: set[int] = set()
        until = time.monotonic() + SECONDS
        while len(seen) < 2:
            assert time.monotonic() < until, "one thread ran them all"
            with ferrule.TaskGroup() as group:
                tasks = [group.spawn(work) for _ in range(60)]
            seen |= {task.result() for task in tasks}
        return seen

    assert len(run(main, threads=threads)) <= threads


@pytest.mark.one_thread("it is about the default")
def test_one_thread_is_all_there_is_by_default_with_the_gil(run: Run) -> None:
    def main() -> set[int]:
        return {task.result() for task in [ferrule.spawn(thread) for _ in range(100)]}

    if getattr(sys, "_is_gil_enabled", lambda: True)():
        assert run(main) == {thread()}
    assert run(main, threads=1) == {thread()}


def test_a_started_fiber_stays_on_its_thread(run: Run) -> None:
    def work(number: int) -> bool:
        before = thread()
        for _ in range(20):
            ferrule.sleep(0.0001 * (number % 3))
            if thread() != before:
                return False
        return True

    def main() -> bool:
        return all(task.result() for task in [ferrule.spawn(work, n) for n in range(50)])

    assert run(main, threads=3)


def test_threads_are_started_only_when_there_is_work_for_them() -> None:
    runtime = ferrule.Runtime(threads=4)
    runtime.run(lambda: None)
    assert len(runtime.statistics()["per_thread"]) == 1


@pytest.mark.one_thread("tasks are dealt to the threads, so none is stolen")
def test_statistics_are_sums_over_the_threads() -> None:
    def main() -> None:
        with Elsewhere() as other:
            other.call(lambda: ferrule.sleep(0.001))

    runtime = ferrule.Runtime(threads=2)
    runtime.run(main)
    statistics = runtime.statistics()
    assert statistics["threads"] == len(statistics["per_thread"]) == 2
    for name in ("spawned", "switches", "ticks", "steals"):
        assert statistics[name] == sum(each[name] for each in statistics["per_thread"]), name
    assert statistics["steals"] >= 1


@pytest.mark.one_thread("tasks are dealt to the threads, so no queue overflows")
def test_more_new_tasks_than_a_queue_holds_all_run_once() -> None:
    count = 5000
    ran: collections.Counter[int] = collections.Counter()

    def main() -> None:
        with ferrule.TaskGroup() as group:
            for number in range(count):
                group.spawn(ran.update, [number])

    runtime = ferrule.Runtime(threads=3)
    runtime.run(main)
    assert len(ran) == count
    assert set(ran.values()) == {1}
    assert runtime.statistics()["overflows"] > 0


def test_an_old_task_is_not_left_behind_by_newer_ones(run: Run) -> None:
    """The overflow is looked at also while a thread's own queue never falls empty."""
    def main() -> bool:
        old = [ferrule.spawn(thread) for _ in range(1000)]
        until = time.monotonic() + SECONDS

        def breed() -> None:
            if not all(task.done() for task in old) and time.monotonic() < until:
                ferrule.spawn(breed)
                ferrule.spawn(thread)

        breed()
        for task in old:
            task.join()
        return time.monotonic() < until

    assert run(main, threads=2)


@pytest.mark.parametrize("threads", [0, 65, -1])
def test_a_number_of_threads_that_cannot_be_is_refused(threads: int) -> None:
    with pytest.raises(ValueError, match="threads must be 1 to 64"):
        ferrule.run(lambda: None, threads=threads)


# ---- starting and ending ----


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_a_runtime_that_has_just_begun_ends_without_a_hang(threads: int) -> None:
    for _ in range(200):
        assert ferrule.run(lambda: ferrule.spawn(lambda: 5).result(), threads=threads) == 5


@pytest.mark.parametrize("threads", [2, 4])
def test_main_that_leaves_tasks_behind_has_them_cancelled_on_every_thread(threads: int) -> None:
    ended = []

    def forever() -> None:
        try:
            ferrule.sleep(100)
        finally:
            ended.append(thread())

    def main() -> None:
        for _ in range(50):
            ferrule.spawn(forever)
        spin(0.01)
        ferrule.sleep(0.01)

    for _ in range(10):
        ended.clear()
        ferrule.run(main, threads=threads)
        assert len(ended) in range(51)  # those that never started never ended


def test_an_engine_that_cannot_be_opened_again_leaves_the_others_at_work(
    run: Run,
) -> None:
    def main() -> int:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
        try:
            with ferrule.TaskGroup() as group:
                tasks = [group.spawn(spin, 0.001) for _ in range(20)]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return len([task for task in tasks if task.done()])

    assert run(main, threads=4) == 20


def test_threads_that_cannot_be_started_are_done_without(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name.startswith("ferrule-loop"):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)

    def main() -> None:
        tasks = [ferrule.spawn(thread) for _ in range(20)]
        assert {task.result() for task in tasks} == {thread()}
        ferrule.Event().wait()

    with pytest.raises(ferrule.DeadlockError):  # which counts only threads that there are
        run(main, threads=3)


# ---- what crosses ----


def test_results_and_exceptions_cross(run: Run) -> None:
    def fail() -> None:
        raise KeyError("there")

    def main() -> None:
        with Elsewhere() as other:
            good, bad = other.call(lambda: (ferrule.spawn(int, "7"), ferrule.spawn(fail)))
            assert good.result() == 7
            with pytest.raises(KeyError, match="there"):
                bad.result()

    run(main, threads=2)


def test_a_task_is_awaited_from_several_threads_at_once(run: Run) -> None:
    def main() -> None:
        with Elsewhere() as other:
            task = ferrule.spawn(ferrule.sleep, 0.01)
            mine = [ferrule.spawn(task.join) for _ in range(10)]
            theirs = other.call(lambda: [ferrule.spawn(task.join) for _ in range(10)])
            for waiter in (*mine, *theirs):
                waiter.result(SECONDS)

    run(main, threads=3)


def test_a_cancel_reaches_a_sleeper_on_another_thread(run: Run) -> None:
    def main() -> None:
        with Elsewhere() as other:
            sleepers = [ferrule.spawn(other.call, lambda: None) for _ in range(3)]
            for sleeper in sleepers:
                sleeper.join()
            started = ferrule.Event()
            ended: list[int] = []

            def sleep() -> None:
                started.set()
                try:
                    ferrule.sleep(100)
                finally:
                    ended.append(thread())

            def there() -> Any:
                task = ferrule.spawn(sleep)
                started.wait()
                return task

            task = other.call(there)
            task.cancel()
            with pytest.raises(CancelledError):
                task.result(SECONDS)
            assert len(ended) == 1

    run(main, threads=2)


def test_a_failure_on_one_thread_cancels_the_group_on_all(run: Run) -> None:
    def main() -> None:
        cancelled: list[int] = []

        def wait() -> None:
            try:
                spin(0.001)
                ferrule.sleep(100)
            except ferrule.Cancelled:
                cancelled.append(thread())
                raise

        def fail() -> None:
            ferrule.sleep(0.05)
            raise ValueError("one")

        until = time.monotonic() + SECONDS
        while len(set(cancelled)) < 2:
            assert time.monotonic() < until, "one thread ran them all"
            with pytest.raises(ExceptionGroup) as caught, ferrule.TaskGroup() as group:
                for _ in range(40):
                    group.spawn(wait)
                group.spawn(fail)
            assert [str(exc) for exc in caught.value.exceptions] == ["one"]

    run(main, threads=3)


def test_members_on_other_threads_spawn_into_their_group(run: Run) -> None:
    def main() -> int:
        ran: list[int] = []
        with ferrule.TaskGroup() as group:

            def grow(depth: int) -> None:
                ran.append(depth)
                spin(0.0002)
                if depth:
                    group.spawn(grow, depth - 1)
                    group.spawn(grow, depth - 1)

            group.spawn(grow, 6)
        return len(ran)

    assert run(main, threads=4) == 2**7 - 1


def test_a_group_with_a_limit_keeps_it_over_all_threads(run: Run) -> None:
    def main() -> None:
        now: list[int] = []
        most = 0

        def work(number: int) -> None:
            nonlocal most
            now.append(number)
            most = max(most, len(now))
            ferrule.sleep(0.0005)
            spin(0.0002)
            now.remove(number)

        with ferrule.TaskGroup(max_concurrency=5) as group:
            for number in range(200):
                group.spawn(work, number)
        assert most <= 5
        assert not now

    run(main, threads=3)


def test_a_deadline_cancels_members_on_other_threads(run: Run) -> None:
    def main() -> None:
        with ferrule.move_on_after(0.05) as scope, ferrule.TaskGroup() as group:
            for _ in range(30):
                group.spawn(lambda: (spin(0.0005), ferrule.sleep(100)))
        assert scope.cancelled_caught

    run(main, threads=3)


@pytest.mark.parametrize("earlier", [True, False])
def test_a_deadline_is_moved_from_another_thread(run: Run, earlier: bool) -> None:
    def main() -> None:
        scope = ferrule.CancelScope(deadline=ferrule.now() + (SECONDS if earlier else 0.05))
        began = time.monotonic()
        inside = ferrule.Event()

        def sleep() -> None:
            with scope:
                inside.set()
                ferrule.sleep(0.15 if not earlier else SECONDS)

        with Elsewhere() as other:
            task = other.call(lambda: ferrule.spawn(sleep))
            inside.wait()
            scope.deadline = ferrule.now() + 0.02 if earlier else None
            task.join()
        assert scope.cancelled_caught == earlier
        assert time.monotonic() - began < SECONDS / 2

    run(main, threads=2)


def test_a_task_spawned_into_a_group_as_it_is_left_is_awaited_or_refused(run: Run) -> None:
    def main() -> None:
        late: list[int] = []
        refused = awaited = 0

        def spawn_into(group: ferrule.TaskGroup, left: list[bool]) -> bool:
            def member() -> None:
                late.extend(left)

            try:
                for _ in range(3):
                    group.spawn(member)
            except RuntimeError:
                return False
            return True

        with Elsewhere() as other:
            for number in range(500):
                left: list[bool] = []
                with ferrule.TaskGroup() as group:
                    other.jobs.put(functools.partial(spawn_into, group, left))
                    (spin if number % 2 else time.sleep)(number % 50 * 1e-6)
                left.append(True)
                came = other.answers.get()
                awaited += came
                refused += not came
        assert not late
        print(f"{awaited} groups with strangers' members, {refused} that refused one")
        assert awaited

    run(main, threads=2)


def test_a_shield_on_one_thread_holds_against_a_cancel_from_another(run: Run) -> None:
    def main() -> None:
        done: list[int] = []

        def careful() -> None:
            spin(0.001)
            with ferrule.shield():
                ferrule.sleep(0.05)
                done.append(thread())

        with ferrule.TaskGroup() as group:
            for _ in range(20):
                group.spawn(careful)
            ferrule.sleep(0.03)
            group.cancel()
        assert done

    run(main, threads=3)


def test_done_callbacks_run_once_wherever_they_are_added(run: Run) -> None:
    def main() -> None:
        called: list[Any] = []
        with Elsewhere() as other:
            task = ferrule.spawn(ferrule.sleep, 0.01)
            task.add_done_callback(called.append)
            other.call(lambda: task.add_done_callback(called.append))
            task.join()
            other.call(lambda: task.add_done_callback(called.append))
            until = time.monotonic() + SECONDS
            while len(called) < 3 and time.monotonic() < until:
                ferrule.sleep(0.001)
        assert called == [task] * 3

    run(main, threads=2)


def test_a_deadlock_over_two_threads_is_seen(run: Run) -> None:
    def main() -> None:
        with Elsewhere() as other:
            other.call(lambda: ferrule.spawn(ferrule.Event().wait) and None)
            ferrule.Event().wait()

    with pytest.raises(ferrule.DeadlockError, match="an Event"):
        run(main, threads=2)


def test_a_deadlock_over_several_threads_breaks_off_no_wait_that_a_cancel_can_end(
    run: Run,
) -> None:
    ended: list[type[BaseException]] = []

    def wait() -> None:
        spin(0.001)
        try:
            ferrule.Event().wait()
        except BaseException as exc:
            ended.append(type(exc))
            raise

    def main() -> None:
        tasks = [ferrule.spawn(wait) for _ in range(5)]
        try:
            wait()
        finally:
            with ferrule.shield():
                ferrule.wait(tasks)

    for _ in range(30):
        with pytest.raises(ferrule.DeadlockError):
            run(main, threads=3)
        assert ended == [ferrule.Cancelled] * 6
        ended.clear()


def test_a_sleeper_on_another_thread_is_no_deadlock(run: Run) -> None:
    def main() -> str:
        event = ferrule.Event()
        with Elsewhere() as other:
            other.call(
                lambda: ferrule.spawn(lambda: (ferrule.sleep(0.05), event.set())) and None
            )
            event.wait()
        return "waked"

    assert run(main, threads=2) == "waked"


def test_ctrl_c_ends_fibers_on_every_thread(run: Run) -> None:
    seen: set[int] = set()
    ended: list[int] = []

    def forever() -> None:
        spin(0.001)
        seen.add(thread())
        try:
            ferrule.sleep(100)
        finally:
            ended.append(thread())

    def main() -> None:
        for _ in range(30):
            ferrule.spawn(forever)
        while len(seen) < 2:
            ferrule.spawn(forever)
            spin(0.001)
            ferrule.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        ferrule.sleep(100)

    with pytest.raises(KeyboardInterrupt):
        run(main, threads=3)
    assert len(set(ended)) >= 2


# ---- descriptors ----


def test_connections_are_served_by_whichever_thread_is_free(run: Run) -> None:
    def main() -> None:
        threads = set()

        def serve(conn: Any) -> None:
            with conn:
                threads.add(thread())
                while data := conn.recv(1000):
                    spin(0.0005)
                    conn.sendall(data)

        def client(address: Any) -> bytes:
            with ferrule.connect_tcp(*address[:2]) as conn:
                for _ in range(5):
                    conn.sendall(b"x" * 500)
                    assert len(conn.recv(1000)) > 0
                return b"ok"

        with ferrule.listen_tcp("127.0.0.1", 0) as listener:

            def accept() -> None:
                with contextlib.suppress(OSError):
                    for conn in listener:
                        ferrule.spawn(serve, conn)

            acceptor = ferrule.spawn(accept)
            until = time.monotonic() + SECONDS
            while len(threads) < 2:
                assert time.monotonic() < until, "one thread served everybody"
                clients = [ferrule.spawn(client, listener.getsockname()) for _ in range(30)]
                for task in clients:
                    assert task.result(SECONDS) == b"ok"
            acceptor.cancel()
        acceptor.join()

    run(main, threads=3)


def test_a_server_with_a_limit_goes_on_whichever_thread_its_handlers_end_on(run: Run) -> None:
    def main() -> None:
        now: set[Any] = set()
        most = 0

        def handle(conn: Any) -> None:
            nonlocal most
            now.add(conn)
            most = max(most, len(now))
            spin(0.0002)
            conn.sendall(conn.recv(10))
            now.discard(conn)

        def client(address: Any) -> None:
            for _ in range(10):
                with ferrule.connect_tcp(*address[:2], timeout=SECONDS) as conn:
                    conn.settimeout(SECONDS)
                    conn.sendall(b"x")
                    assert conn.recv(10) == b"x"

        listening: ferrule.Queue[Any] = ferrule.Queue()
        with ferrule.TaskGroup() as group:
            group.spawn(
                lambda: ferrule.serve_tcp(
                    handle, "127.0.0.1", 0, max_connections=2, on_listening=listening.put
                )
            )
            with listening.get() as listener, ferrule.TaskGroup() as clients:
                for _ in range(20):
                    clients.spawn(client, listener.getsockname())
        assert most <= 2
        assert not now

    run(main, threads=3)


def test_closing_a_socket_ends_a_recv_on_another_thread(run: Run) -> None:
    def main() -> None:
        with Elsewhere() as other:
            for _ in range(20):
                left, right = ferrule.socket.socketpair()

                def receive(left: Any = left) -> Any:
                    return ferrule.spawn(left.recv, 10)

                receiver = other.call(receive)
                ferrule.sleep(0.001)
                left.close()
                with pytest.raises(OSError, match="Bad file descriptor"):
                    receiver.result(SECONDS)
                right.close()

    run(main, threads=2)


def test_senders_on_several_threads_take_turns(run: Run) -> None:
    def main() -> None:
        left, right = ferrule.socket.socketpair()
        count, size = 20, 100_000

        def send(number: int) -> None:
            spin(0.001)
            left.sendall(bytes([number]) * size)

        with left, right, ferrule.TaskGroup() as group:
            for number in range(count):
                group.spawn(send, number)
            got = b""
            while len(got) < count * size:
                got += right.recv(1 << 20)
        runs = [size for _, size in runs_of(got)]
        assert sorted(runs) == [size] * count

    run(main, threads=3)


def runs_of(data: bytes) -> Iterator[tuple[int, int]]:
    """(byte, how often) of each run of equal bytes."""
    for byte, same in itertools.groupby(data):
        yield byte, sum(1 for _ in same)


def test_blocking_calls_wake_fibers_of_every_thread(run: Run) -> None:
    def main() -> None:
        def work(number: int) -> int:
            spin(0.0005)
            return ferrule.blocking(lambda: number)

        tasks = [ferrule.spawn(work, number) for number in range(40)]
        assert [task.result(SECONDS) for task in tasks] == list(range(40))

    run(main, threads=3)


def test_files_are_read_on_every_thread(run: Run, tmp_path: Any) -> None:
    paths = [tmp_path / str(number) for number in range(40)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 10_000)

    def main() -> None:
        def read(path: Any) -> bytes:
            spin(0.0005)
            with ferrule.open(path, "rb") as file:
                return file.read()

        tasks = [ferrule.spawn(read, path) for path in paths]
        for number, task in enumerate(tasks):
            assert task.result(SECONDS) == bytes([number]) * 10_000

    run(main, threads=3)


# ---- closing beside an attempt ----

ATTEMPTS = {  # what each calls, by its number on this machine
    "send": {"x86_64": 44, "aarch64": 206},
    "recv_into": {"x86_64": 45, "aarch64": 207},
    "accept": {"x86_64": 288, "aarch64": 242},
    "read": {"x86_64": 327, "aarch64": 286},
    "write": {"x86_64": 328, "aarch64": 287},
    "seek": {"x86_64": 8, "aarch64": 62},
    "lock": {"x86_64": 73, "aarch64": 32},
    "stat in a directory": {"x86_64": 437, "aarch64": 437},
    "recvmsg": {"x86_64": 47, "aarch64": 212},
    "sendmsg": {"x86_64": 46, "aarch64": 211},
    "connect": {"x86_64": 42, "aarch64": 203},
}
LETTING_GO = ("recvmsg", "sendmsg", "connect")  # of the GIL


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_close_waits_for_an_attempt_of_another_thread(
    run_script: Any, tmp_path: Any, attempt: str
) -> None:
    """Else the number could be another file's by the time that the kernel looks at it."""
    if attempt not in LETTING_GO and getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("nothing runs beside an attempt that holds the GIL")
    script = """
import gc, os, socket, sys, threading
sys.path.insert(0, sys.argv[1])
import ferrule, ferrule.socket, seccomp
from ferrule import fs

attempt, call, folder = sys.argv[2], int(sys.argv[3]), sys.argv[4]
path = os.path.join(folder, "file")
ends = []

def main():
    if attempt == "accept":
        holder = ferrule.listen_tcp("127.0.0.1", 0)
        others.append(socket.create_connection(holder.getsockname()))
        return holder, lambda: others.append(holder.accept())
    if attempt == "connect":
        others.append(socket.create_server(("127.0.0.1", 0)))
        holder = ferrule.socket.socket()
        return holder, lambda: holder.connect(others[0].getsockname())
    if attempt in ("send", "recv_into", "recvmsg", "sendmsg"):
        mine, other = socket.socketpair()
        others.append(other)
        other.send(b"x")
        holder = ferrule.socket.socket(fileno=mine.detach())
        argument = {"recvmsg": 1, "sendmsg": [b"x"]}.get(attempt, bytearray(1))
        return holder, lambda: getattr(holder, attempt)(argument)
    if attempt == "stat in a directory":
        holder = fs.open_dir(folder)
        return holder, lambda: fs.stat("file", dir_fd=holder)
    holder = fs.File.open(path, os.O_RDWR)
    return holder, {"read": lambda: holder.pread(1, 0), "write": lambda: holder.pwrite(b"x", 0),
                    "seek": lambda: holder.seek_to(1), "lock": holder.lock}[attempt]

def supervise():
    ready.wait()
    number = seccomp.await_call(listener[0])
    closer.start()
    closer.join(0.2)
    ends.append("attempt")
    seccomp.let_go(listener[0], number)
    while True:
        seccomp.let_go(listener[0], seccomp.await_call(listener[0]))

def close():
    holders[0].close()
    ends.append("close")

def in_fiber():
    holder, do = main()
    holders.append(holder)
    gc.disable()
    listener.append(seccomp.hold_up(call))
    ready.set()
    try:
        do()
    except OSError:
        pass
    closer.join()
    print(*ends, flush=True)
    os._exit(0)

others, holders, listener, ready = [], [], [], threading.Event()
open(path, "w").write("some data")
closer = threading.Thread(target=close, daemon=True)
threading.Thread(target=supervise, daemon=True).start()
ferrule.run(in_fiber, threads=1)
"""
    number = ATTEMPTS[attempt].get(platform.machine())
    if number is None:
        pytest.skip("no system call numbers of this machine")
    tests = os.path.dirname(__file__)
    done = run_script(script, tests, attempt, str(number), str(tmp_path))
    assert done.stdout.split() == ["attempt", "close"], done.stderr
