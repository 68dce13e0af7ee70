"""Seeing inside: every fiber with its stack and what it waits for, the tree, the dump."""

from __future__ import annotations

import io
import os
import re
import signal
import socket as std_socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ferrule
from ferrule import inspect
from ferrule._core.sync import Waiter

# A picture is certain with one thread only; the tests about several take them themselves.
pytestmark = pytest.mark.one_thread("a picture of one moment")

Run = Callable[..., Any]
Script = Callable[..., subprocess.CompletedProcess[str]]


@contextmanager
def parked(fn: Callable[..., Any], *args: Any) -> Iterator[inspect.Fiber]:
    """A fiber that waits in ``fn(*args)``; cancelled at the end."""
    task = ferrule.spawn(fn, *args, name="waiter")
    ferrule.sleep(0.02)
    try:
        yield fiber_of(task)
    finally:
        task.cancel()
        task.join()


def fiber_of(task: ferrule.Task[Any]) -> inspect.Fiber:
    [found] = [fiber for fiber in inspect.fibers() if fiber.task is task]
    return found


def wait_in(fn: Callable[..., Any], *args: Any) -> inspect.Wait:
    with parked(fn, *args) as fiber:
        assert fiber.state == "waiting"
        assert fiber.wait is not None
        assert fiber.wait.text in str(fiber)
        return fiber.wait


# ---- every kind of wait ----

def test_a_recv_names_its_descriptor_and_peer(run: Run) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            address = listener.getsockname()
            with ferrule.connect_tcp(*address) as conn, listener.accept()[0]:
                wait = wait_in(conn.recv, 100)
                assert (wait.kind, wait.operation) == ("operation", "recv")
                assert (wait.fd, wait.address) == (conn.fileno(), address)
                assert wait.text == f"recv on fd {wait.fd} (127.0.0.1:{address[1]})"

    run(main)


def test_a_recv_by_ipv6_names_its_peer(run: Run) -> None:
    def main() -> None:
        try:
            listener = ferrule.listen_tcp("::1", 0)
        except OSError as exc:
            pytest.skip(f"cannot here: no IPv6: {exc}")
        with listener, ferrule.connect_tcp(*listener.getsockname()[:2]) as conn:
            wait = wait_in(conn.recv, 100)
            assert wait.text.endswith(f"([::1]:{listener.getsockname()[1]})")

    run(main)


def test_an_accept_names_the_address_it_listens_at(run: Run) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            wait = wait_in(listener.accept)
            address = listener.getsockname()
            assert (wait.operation, wait.fd) == ("accept", listener.fileno())
            assert wait.address == address
            assert wait.text == f"accept on fd {wait.fd} (127.0.0.1:{address[1]})"

    run(main)


def test_an_accept_on_a_path_names_it(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        path = str(tmp_path / "socket")
        with ferrule.listen_unix(path) as listener:
            wait = wait_in(listener.accept)
            assert wait.address == path
            assert wait.text == f"accept on fd {wait.fd} ({path!r})"

    run(main)


def test_a_connect_names_where_to(run: Run) -> None:
    def main() -> None:
        # A listener whose queue is full answers no SYN.
        with std_socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            address = listener.getsockname()
            fillers = [std_socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            with ferrule.socket.socket() as conn:
                wait = wait_in(conn.connect, address)
                assert (wait.operation, wait.address) == ("connect", address)
                assert wait.text == f"connect on fd {wait.fd} to 127.0.0.1:{address[1]}"
            for filler in fillers:
                filler.close()

    run(main)


def test_a_send_to_a_peer_that_does_not_read(run: Run) -> None:
    def main() -> None:
        left, right = ferrule.socket.socketpair()
        with left, right:
            wait = wait_in(left.sendall, bytes(8 << 20))
            assert (wait.operation, wait.fd) == ("send", left.fileno())
            assert wait.text == f"send on fd {left.fileno()}"

    run(main)


def test_a_send_behind_another_one(run: Run) -> None:
    def main() -> None:
        left, right = ferrule.socket.socketpair()
        with left, right, parked(left.sendall, bytes(8 << 20)):
            wait = wait_in(left.sendall, b"x")
            assert (wait.kind, wait.text) == ("turn", "its turn to send")

    run(main)


@pytest.mark.parametrize(
    ("wait_ready", "word"),
    [(ferrule.wait_readable, "readable"), (ferrule.wait_writable, "writable")],
)
def test_waiting_for_readiness(run: Run, wait_ready: Callable[..., Any], word: str) -> None:
    def main() -> None:
        reading, writing = os.pipe2(os.O_NONBLOCK)
        try:
            while word == "writable":
                try:
                    os.write(writing, bytes(65536))
                except BlockingIOError:
                    break
            fd = reading if word == "readable" else writing
            wait = wait_in(wait_ready, fd)
            assert (wait.operation, wait.fd) == ("poll", fd)
            assert wait.text == f"fd {fd} to be {word}"
        finally:
            os.close(reading)
            os.close(writing)

    run(main)


def test_a_read_of_a_pipe(run: Run) -> None:
    def main() -> None:
        reading, writing = os.pipe()
        with open(writing, "wb"), ferrule.open(reading, "rb", buffering=0) as file:
            wait = wait_in(file.read, 1)
            assert (wait.operation, wait.fd) == ("read", reading)
            assert re.fullmatch(rf"read on fd {reading} \(pipe:\[\d+\]\)", wait.text)

    run(main)


def test_a_lock_of_a_file_names_its_path(run: Run, tmp_path: Path) -> None:
    import fcntl

    def main() -> None:
        path = tmp_path / "locked"
        with open(path, "w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with ferrule.fs.File.open(path, os.O_RDWR) as file:
                wait = wait_in(file.lock)
                assert (wait.operation, wait.fd) == ("flock", file.fileno())
                assert wait.path == str(path)
                assert wait.text == f"flock on fd {wait.fd} ({path})"

    run(main)


@pytest.mark.parametrize("mode", ["rb", "wb"])
def test_an_open_of_a_fifo_without_a_peer(run: Run, tmp_path: Path, mode: str) -> None:
    def main() -> None:
        path = str(tmp_path / "fifo")
        os.mkfifo(path)
        wait = wait_in(ferrule.open, path, mode)
        assert (wait.kind, wait.operation, wait.path) == ("operation", "openat", path)

    run(main)


def test_a_batch_names_its_operations(run: Run) -> None:
    def main() -> None:
        def wait_for_batch(conn: Any) -> None:
            with ferrule.Batch() as batch:
                batch.add(conn.recv, 100)
                batch.add(ferrule.sleep, 60)
                batch.wait(2)

        left, right = ferrule.socket.socketpair()
        with left, right:
            wait = wait_in(wait_for_batch, left)
            assert wait.kind == "batch"
            assert wait.text.startswith("2 of 2 operations of a batch: ")
            assert f"recv on fd {left.fileno()}" in wait.text

    run(main)


def test_a_sleep_tells_how_long_it_lasts(run: Run) -> None:
    def main() -> None:
        wait = wait_in(ferrule.sleep, 60)
        assert (wait.kind, wait.text) == ("timer", "a timer")
        assert wait.seconds_left is not None
        assert 50 < wait.seconds_left < 60
        assert 0.005 < wait.seconds < 10

    run(main)


def test_a_sleep_on_another_clock(run: Run) -> None:
    def main() -> None:
        clock = ferrule.Clock.REALTIME
        wait = wait_in(ferrule.sleep_until, ferrule.now(clock) + 60, clock)
        assert (wait.kind, wait.text) == ("timer", "a timer")

    run(main)


def test_a_timeout_tells_how_much_is_left(run: Run) -> None:
    def main() -> None:
        wait = wait_in(ferrule.Event().wait, 60)
        assert wait.kind == "event"
        assert wait.seconds_left is not None
        assert 50 < wait.seconds_left < 60
        assert "s more at most" in str(wait)

    run(main)


def test_an_event(run: Run) -> None:
    def main() -> None:
        event = ferrule.Event()
        wait = wait_in(event.wait)
        assert (wait.kind, wait.text) == ("event", "an Event")
        assert wait.object is event

    run(main)


def test_a_lock_names_its_holder(run: Run) -> None:
    def main() -> None:
        lock = ferrule.Lock()
        with lock:
            wait = wait_in(lock.acquire)
            assert (wait.kind, wait.text) == ("lock", "a Lock held by main")
            assert wait.object is lock
            assert wait.holders == (ferrule.current_task(),)

    run(main)


def wait_for_condition(condition: ferrule.Condition) -> None:
    with condition:
        condition.wait()


@pytest.mark.parametrize(
    ("make", "wait", "kind", "text"),
    [
        (ferrule.RLock, lambda lock: lock.acquire(), "lock", "an RLock held by main"),
        (ferrule.Condition, wait_for_condition, "condition", "a Condition"),
        (ferrule.Semaphore, lambda semaphore: semaphore.acquire(), "semaphore", "a Semaphore"),
        (ferrule.BoundedSemaphore, lambda semaphore: semaphore.acquire(), "semaphore",
         "a BoundedSemaphore"),
        (lambda: ferrule.Barrier(2), lambda barrier: barrier.wait(), "barrier",
         "a Barrier where 1 of 2 are"),
    ],
)
def test_the_other_waits_for_synchronisation(
    run: Run, make: Callable[[], Any], wait: Callable[[Any], None], kind: str, text: str
) -> None:
    def main() -> None:
        thing = make()
        if kind in ("lock", "semaphore"):
            thing.acquire()
        found = wait_in(wait, thing)
        assert (found.kind, found.text) == (kind, text)
        assert found.object is thing
        assert found.holders == ((ferrule.current_task(),) if kind == "lock" else ())

    run(main)


def test_a_reader_waits_for_the_writer(run: Run) -> None:
    def main() -> None:
        lock = ferrule.RWLock()
        with lock.write_lock():
            wait = wait_in(lock.read_lock().acquire)
            assert (wait.kind, wait.holders) == ("lock", (ferrule.current_task(),))
            assert "main" in wait.text

    run(main)


def test_the_waits_of_a_queue(run: Run) -> None:
    def main() -> None:
        queue: ferrule.Queue[int] = ferrule.Queue(1)
        wait = wait_in(queue.get)
        assert (wait.kind, wait.text) == ("queue", "an item of a Queue")
        queue.put(1)
        wait = wait_in(queue.put, 2)
        assert (wait.kind, wait.text) == ("queue", "room in a Queue")
        wait = wait_in(queue.join)
        assert (wait.kind, wait.text) == ("queue", "the end of the work in a Queue")

    run(main)


def test_a_join_names_the_task(run: Run) -> None:
    def main() -> None:
        sleeper = ferrule.spawn(ferrule.sleep, 60, name="sleeper")
        wait = wait_in(sleeper.join)
        assert (wait.kind, wait.text) == ("task", "the end of sleeper")
        assert wait.object is sleeper
        assert wait.holders == (sleeper,)

    run(main)


def test_a_wait_for_several_tasks_names_them(run: Run) -> None:
    def main() -> None:
        tasks = [ferrule.spawn(ferrule.sleep, 60) for _ in range(2)]
        wait = wait_in(ferrule.wait, tasks)
        assert (wait.kind, wait.text) == ("task", "the end of 2 of 2 tasks")
        assert (list(wait.holders), wait.any_of) == (tasks, ())
        wait = wait_in(ferrule.select, tasks)
        assert (wait.kind, wait.text) == ("task", "the end of 1 of 2 tasks")
        assert (list(wait.any_of), wait.holders) == (tasks, ())

    run(main)


def test_the_end_of_a_group_names_its_members(run: Run) -> None:
    def main() -> None:
        def open_group() -> None:
            with ferrule.TaskGroup() as group:
                members.append(group.spawn(ferrule.sleep, 60))

        members: list[ferrule.Task[Any]] = []
        wait = wait_in(open_group)
        assert (wait.kind, wait.text) == ("group", "the tasks of its group")
        assert list(wait.holders) == members

    run(main)


def test_room_in_a_group_names_its_members(run: Run) -> None:
    def main() -> None:
        def open_group() -> None:
            with ferrule.TaskGroup(max_concurrency=1) as group:
                members.append(group.spawn(ferrule.sleep, 60))
                group.spawn(ferrule.sleep, 60)

        members: list[ferrule.Task[Any]] = []
        wait = wait_in(open_group)
        assert (wait.kind, wait.text) == ("group", "room in its group")
        assert (list(wait.any_of), wait.holders) == (members, ())

    run(main)


def test_a_blocking_call_names_the_function(run: Run) -> None:
    def main() -> None:
        done = threading.Event()
        task = ferrule.spawn(ferrule.blocking, done.wait, 60)
        ferrule.sleep(0.02)
        wait = fiber_of(task).wait
        done.set()
        task.join()
        assert wait is not None
        assert (wait.kind, wait.text) == ("thread", "a blocking call: Event.wait")

    run(main)


def test_another_thread(run: Run) -> None:
    def main() -> None:
        wait = wait_in(lambda: Waiter("the moon").wait())
        assert (wait.kind, wait.text) == ("thread", "the moon")

    run(main)


def test_a_look_up_names_the_host(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def slow(*args: Any, **options: Any) -> list[Any]:
        go_on.wait(60)
        return []

    monkeypatch.setattr(std_socket, "getaddrinfo", slow)
    monkeypatch.setattr("ferrule.resolver._socket.getaddrinfo", slow)

    def main() -> None:
        wait = wait_in(ferrule.socket.getaddrinfo, "host.example", 80)
        go_on.set()
        assert wait.kind == "thread"
        assert "host.example" in wait.text

    run(main)


def test_a_close_that_waits_for_what_is_in_flight(run: Run) -> None:
    def main() -> None:
        reading, writing = os.pipe()
        with open(writing, "wb", buffering=0):
            file = ferrule.open(reading, "rb", buffering=0)
            reader = ferrule.spawn(file.read, 1)
            ferrule.sleep(0.02)
            closer = ferrule.spawn(file.close)
            ferrule.yield_now()
            wait = fiber_of(closer).wait
            closer.join()
            with pytest.raises((OSError, ValueError)):
                reader.result()
        assert wait is not None
        assert (wait.kind, wait.fd) == ("close", reading)

    run(main)


# ---- fibers ----

def test_each_fiber_has_its_state_and_stack(run: Run) -> None:
    def main() -> None:
        def inner() -> None:
            ferrule.sleep(60)

        def outer() -> None:
            inner()

        waiting = ferrule.spawn(outer, name="waiting")
        ferrule.yield_now()
        new = ferrule.spawn(outer, name="new")
        found = {fiber.name: fiber for fiber in inspect.fibers()}
        assert [fiber.id for fiber in found.values()] == sorted(f.id for f in found.values())
        assert {name: fiber.state for name, fiber in found.items()} == {
            "main": "running", "waiting": "waiting", "new": "new",
        }
        assert [frame.name for frame in found["waiting"].stack] == ["outer", "inner"]
        assert [frame.name for frame in found["main"].stack][-1] == "main"
        assert list(found["new"].stack) == []
        assert found["waiting"].place == f"{__file__}:{inner.__code__.co_firstlineno + 1} in inner"
        assert found["main"].thread == threading.get_ident()
        for task in (waiting, new):
            task.cancel()

    run(main)


def test_a_stack_can_be_cut(run: Run) -> None:
    def main() -> None:
        def dive(depth: int) -> None:
            if depth:
                dive(depth - 1)
            else:
                ferrule.sleep(60)

        task = ferrule.spawn(dive, 50)
        ferrule.yield_now()
        picture = inspect.snapshot(stack_limit=3)
        [fiber] = [fiber for fiber in picture.fibers if fiber.task is task]
        assert len(fiber.stack) == 3
        assert fiber.stack[-1].lineno == dive.__code__.co_firstlineno + 4
        task.cancel()

    run(main)


def test_a_fiber_that_is_being_cancelled(run: Run) -> None:
    def main() -> None:
        cleaned = ferrule.Event()

        def cleanup() -> None:
            try:
                ferrule.sleep(60)
            finally:
                with ferrule.shield():
                    cleaned.wait()

        task = ferrule.spawn(cleanup)
        ferrule.yield_now()
        task.cancel()
        ferrule.yield_now()
        fiber = fiber_of(task)
        cleaned.set()
        assert fiber.cancelled
        assert ", cancelled" in str(fiber)
        [scope] = fiber.scopes
        assert (scope.kind, scope.shield, scope.cancelled) == ("scope", True, False)

    run(main)


def test_a_runtime_that_does_not_run_has_no_fibers(run: Run) -> None:
    runtime = ferrule.Runtime()
    assert inspect.fibers(runtime) == []
    runtime.run(lambda: None)
    assert inspect.fibers(runtime) == []
    with pytest.raises(RuntimeError):
        inspect.fibers()


def test_a_call_that_runs_in_its_callers_fiber(run: Run) -> None:
    def main() -> None:
        def look() -> None:
            found.update((fiber.name, fiber) for fiber in inspect.fibers())

        found: dict[str, inspect.Fiber] = {}
        with ferrule.TaskGroup() as group:
            group.spawn_or_run(look, name="called")
        assert found["main"].state == "running"
        assert found["called"].state == "inline"
        assert [frame.name for frame in found["main"].stack][-1] == "look"

    run(main, max_fibers=1)


def test_looking_keeps_no_task_alive(run: Run) -> None:
    import weakref

    def main() -> None:
        task = ferrule.spawn(ferrule.sleep, 0.01)
        inspect.fibers()
        inspect.snapshot().format(stacks=True)
        task.join()
        ref = weakref.ref(task)
        del task
        assert ref() is None

    run(main)


# ---- the tree ----

def family(parts: list[ferrule.Task[Any]]) -> None:
    """A group under a deadline, with a group in one of its members, and a task on its own."""
    lock = ferrule.Lock()

    def hold() -> None:
        with lock, ferrule.move_on_after(50), ferrule.TaskGroup() as inner:
            inner.spawn(ferrule.sleep, 60, name="grandchild")

    parts.append(ferrule.spawn(ferrule.sleep, 60, name="loner"))
    with ferrule.move_on_after(100), ferrule.TaskGroup() as group:
        parts.append(group.spawn(hold, name="holder"))
        parts.append(group.spawn(lock.acquire, name="asker"))
    for part in parts:
        part.cancel()


def shape(nodes: list[inspect.Node]) -> list[Any]:
    return [(node.content.name if isinstance(node.content, inspect.Fiber) else node.content.kind,
             *shape(node.children)) for node in nodes]


def test_the_tree_of_tasks_groups_and_scopes(run: Run) -> None:
    def main() -> None:
        parts: list[ferrule.Task[Any]] = []
        task = ferrule.spawn(family, parts, name="family")
        ferrule.sleep(0.02)
        picture = inspect.snapshot()
        top = picture.tree()
        assert shape(top) == [
            ("main",),
            ("family", ("scope", ("group",
                ("holder", ("scope", ("group", ("grandchild",)))),
                ("asker",)))),
            ("loner",),
        ]
        scope = top[1].children[0].content
        assert isinstance(scope, inspect.Scope)
        assert scope.deadline is not None
        assert 90 < scope.deadline < 100
        assert not scope.shield
        assert shape(inspect.tree()) == shape(top)
        for part in parts:
            part.cancel()
        task.cancel()

    run(main)


def test_the_tree_as_text(run: Run) -> None:
    def main() -> None:
        parts: list[ferrule.Task[Any]] = []
        task = ferrule.spawn(family, parts, name="family")
        ferrule.sleep(0.02)
        file = io.StringIO()
        inspect.print_tree(file=file)
        text = re.sub(r"\d+\.\d s", "N s", file.getvalue())
        text = re.sub(r"#\d+", "#N", text)
        text = re.sub(r"\(\S+:\d+ in (\w+)\)", r"(\1)", text)
        assert text == (
            "6 fibers on 1 loop thread\n"
            "main #N running  (main)\n"
            "family #N waits N s for the tasks of its group  (family)\n"
            "└─ scope, deadline in N s\n"
            "   └─ group\n"
            "      ├─ holder #N waits N s for the tasks of its group  (hold)\n"
            "      │  └─ scope, deadline in N s\n"
            "      │     └─ group\n"
            "      │        └─ grandchild #N waits N s for a timer, N s more at most\n"
            "      └─ asker #N waits N s for a Lock held by holder\n"
            "loner #N waits N s for a timer, N s more at most\n"
        )
        for part in parts:
            part.cancel()
        task.cancel()

    run(main)


def test_a_circle_is_found_where_no_deadlock_is_reported(run: Run) -> None:
    def main() -> None:
        first, second = ferrule.Lock(), ferrule.Lock()

        def take(a: ferrule.Lock, b: ferrule.Lock) -> None:
            with a:
                ferrule.yield_now()
                b.acquire()

        tasks = [ferrule.spawn(take, first, second, name="adam"),
                 ferrule.spawn(take, second, first, name="berta")]
        ferrule.sleep(0.01)
        picture = inspect.snapshot()
        assert [fiber.name for fiber in picture.circle()] == ["adam", "berta"]
        assert "in a circle: adam -> berta -> adam\n" in picture.format()
        for task in tasks:
            task.cancel()

    run(main)


def test_a_wait_for_any_of_several_is_no_circle(run: Run) -> None:
    def main() -> None:
        def wait_for_both() -> None:
            ferrule.select([second, sleeper])

        sleeper = ferrule.spawn(ferrule.sleep, 0.1)
        first = ferrule.spawn(wait_for_both)
        second = ferrule.spawn(first.join)
        ferrule.sleep(0.01)
        assert inspect.snapshot().circle() == []
        second.join()

    run(main)


def test_a_tree_of_any_depth(run: Run) -> None:
    depth = 3000

    def main() -> None:
        def descend(left: int) -> None:
            with ferrule.TaskGroup() as group:
                if left:
                    group.spawn(descend, left - 1)
                else:
                    lines.append(inspect.snapshot(stack_limit=1).format().count("\n"))

        lines: list[int] = []
        descend(depth)
        assert lines == [1 + 2 * (depth + 1)]

    run(main)


def test_the_counters_of_each_thread(run: Run) -> None:
    def main() -> None:
        ferrule.sleep(0.001)
        [counters] = inspect.statistics()
        assert counters["ident"] == threading.get_ident()
        assert counters.items() >= {"live_tasks": 1}.items()
        assert min(counters[name] for name in ("ticks", "enters", "spawned")) > 0
        assert {"switches", "sqes", "cqes"} <= counters.keys()
        assert ", ticks " in inspect.snapshot().format(stacks=True)

    run(main)


# ---- from outside ----

def in_thread(fn: Callable[[], Any]) -> Callable[[], Any]:
    """Start ``fn`` on an OS thread; what is returned waits for it, and for what it returned."""
    outcome: list[Any] = []
    thread = threading.Thread(target=lambda: outcome.append(fn()))
    thread.start()

    def result() -> Any:
        thread.join(10)
        return outcome[0]

    return result


def test_another_thread_looks_while_the_loop_waits(run: Run) -> None:
    def main() -> None:
        runtime = ferrule.current_runtime()
        sleeper = ferrule.spawn(ferrule.sleep, 60, name="sleeper")
        ferrule.yield_now()
        result = in_thread(lambda: inspect.snapshot(runtime))
        ferrule.sleep(0.3)
        picture = result()
        assert picture.notes == []
        assert [fiber.name for fiber in picture.fibers] == ["main", "sleeper"]
        assert picture.fibers[0].stack[-1].name == "main"
        assert picture.fibers[0].place.endswith(" in main")
        assert picture.fibers[1].wait.text == "a timer"
        sleeper.cancel()

    run(main)


def test_another_thread_looks_while_a_fiber_keeps_the_loop(run: Run) -> None:
    def main() -> None:
        def keep_busy() -> Any:
            result = in_thread(lambda: inspect.snapshot(runtime, timeout=0.1))
            time.sleep(0.5)
            return result

        runtime = ferrule.current_runtime()
        sleeper = ferrule.spawn(ferrule.sleep, 60, name="sleeper")
        picture = ferrule.spawn(keep_busy, name="hog").result()()
        [note] = picture.notes
        assert "did not answer" in note
        fibers = {fiber.name: fiber for fiber in picture.fibers}
        assert fibers["hog"].state == "running"
        assert [frame.name for frame in fibers["hog"].stack] == ["keep_busy"]
        assert fibers["sleeper"].wait.text == "a timer"
        assert f"note: {note}\n" in picture.format()
        sleeper.cancel()

    run(main)


def test_without_the_gil_names_and_the_running_stack_are_read_from_outside(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ferrule.snapshots._has_gil", lambda: False)

    def main() -> None:
        def keep_busy() -> Any:
            result = in_thread(lambda: inspect.snapshot(runtime, timeout=0.1))
            time.sleep(0.5)
            return result

        runtime = ferrule.current_runtime()
        picture = ferrule.spawn(keep_busy, name="hog").result()()
        [note] = picture.notes
        assert "alone can be read" in note
        fibers = {fiber.name: fiber for fiber in picture.fibers}
        assert {name: fiber.state for name, fiber in fibers.items()} == {
            "main": "waiting", "hog": "running",
        }
        assert [frame.name for frame in fibers["hog"].stack] == ["keep_busy"]
        assert fibers["main"].wait is None

    run(main)


def test_who_asks_a_loop_that_ends_gets_an_empty_picture(run: Run) -> None:
    def main() -> None:
        runtime = ferrule.current_runtime()
        results.append(in_thread(lambda: inspect.snapshot(runtime, timeout=10)))

    results: list[Any] = []
    run(main)
    picture = results[0]()
    assert picture.notes == []
    assert [fiber.name for fiber in picture.fibers] in ([], ["main"])


def test_looking_from_outside_all_the_time_disturbs_nothing(run: Run) -> None:
    def main() -> None:
        runtime = ferrule.current_runtime()
        stop = threading.Event()

        def look() -> int:
            count = 0
            while not stop.is_set():
                inspect.snapshot(runtime, timeout=0.001 * (count % 3)).format(stacks=True)
                count += 1
            return count

        result = in_thread(look)
        queue: ferrule.Queue[int] = ferrule.Queue(1)
        until = time.monotonic() + 1.0

        def produce() -> None:
            while time.monotonic() < until:
                for number in range(10):
                    queue.put(number)
                with ferrule.TaskGroup() as group, ferrule.move_on_after(0.001):
                    group.spawn(ferrule.sleep, 0.0005)
            queue.put(-1)

        ferrule.spawn(produce)
        while queue.get() >= 0:
            pass
        stop.set()
        assert result() > 10

    run(main)


# ---- several loop threads ----

def on_two_threads(check: Callable[[], None]) -> None:
    """Run ``check`` in a fiber while one of another loop thread waits for a lock of its own."""
    asked = threading.Event()

    def elsewhere() -> None:
        lock = ferrule.Lock()
        with lock:
            asker = ferrule.spawn(lock.acquire, name="asker")
            ferrule.sleep(0.01)
            asked.set()
            done.wait()
            asker.cancel()

    done = ferrule.Event()
    other = ferrule.spawn(elsewhere, name="other")
    assert asked.wait(10)  # this thread is blocked: another one has to take the task
    ferrule.sleep(0.02)
    try:
        check()
    finally:
        done.set()
        other.join()


def test_fibers_of_all_loop_threads_are_seen(run: Run) -> None:
    def check() -> None:
        picture = inspect.snapshot()
        assert picture.notes == []
        fibers = {fiber.name: fiber for fiber in picture.fibers}
        assert list(fibers) == ["main", "other", "asker"]
        assert fibers["main"].thread != fibers["other"].thread
        assert {counters["ident"] for counters in picture.threads} >= {
            fibers["main"].thread, fibers["other"].thread}
        assert [frame.name for frame in fibers["other"].stack] == ["elsewhere"]
        assert str(fibers["main"]).endswith(" in check)")

    run(on_two_threads, check, threads=2)


def test_two_threads_that_look_at_each_other_come_to_an_end(run: Run) -> None:
    def main() -> None:
        ready = threading.Barrier(2)

        def look() -> list[str]:
            ready.wait(10)
            return [fiber.name for fiber in inspect.fibers(timeout=0.1)]

        other = ferrule.spawn(look)
        assert "main" in look()
        assert "main" in other.result()

    run(main, threads=2)


# ---- from a signal handler, and the dump on a signal ----

def test_a_signal_handler_may_look(run: Run) -> None:
    def main() -> None:
        def handler(signum: int, frame: object) -> None:
            pictures.append(inspect.snapshot())

        pictures: list[inspect.Snapshot] = []
        before = signal.signal(signal.SIGUSR1, handler)
        try:
            timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
            timer.start()
            ferrule.sleep(0.2)  # in the kernel
            timer.join()
            signal.raise_signal(signal.SIGUSR1)  # in Python code
            waiting, running = pictures
            assert [fiber.state for fiber in waiting.fibers] == ["waiting"]
            assert [fiber.state for fiber in running.fibers] == ["running"]
            for picture in pictures:
                assert "main" in [frame.name for frame in picture.fibers[0].stack]
        finally:
            signal.signal(signal.SIGUSR1, before)

    run(main)


@pytest.mark.parametrize(
    "busy",
    [
        "ferrule.sleep(0.5)",                                       # the loop is in the kernel
        "until = time.monotonic() + 1\n    while time.monotonic() < until: pass",
        "time.sleep(1)",                                            # the loop is blocked
    ],
)
@pytest.mark.parametrize("thread", ["main", "other"])
def test_a_dump_on_a_signal(run_script: Script, busy: str, thread: str) -> None:
    start = "ferrule.run(main)" if thread == "main" else (
        "thread = threading.Thread(target=ferrule.run, args=(main,)); thread.start(); thread.join()"
    )
    done = run_script(f"""
import ferrule, ferrule.inspect, os, signal, threading, time

def work():
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    {busy}
    timer.join()

def main():
    lock = ferrule.Lock()
    with lock:
        asker = ferrule.spawn(lock.acquire, name="asker")
        ferrule.spawn(work, name="worker").join()
        asker.cancel()

before = signal.getsignal(signal.SIGUSR1)
with ferrule.inspect.dump_on_signal():
    {start}
assert signal.getsignal(signal.SIGUSR1) is before
print("unharmed")
""")
    assert done.stdout == "unharmed\n", done.stderr
    lines = done.stderr.splitlines()
    assert re.fullmatch(r"ferrule: SIGUSR1 in process \d+, 1 runtime", lines[0])
    assert lines[1] == "3 fibers on 1 loop thread"
    assert any("a Lock held by main" in line and "asker" in line for line in lines)
    assert any(" in work" in line for line in lines)
    assert "worker" in done.stderr


def test_a_dump_shows_every_loop_thread(run: Run) -> None:
    file = io.StringIO()

    def check() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        with ferrule.fail_after(10):
            while not file.getvalue():
                ferrule.sleep(0.01)

    with inspect.dump_on_signal(file=file):
        run(on_two_threads, check, threads=2)
    text = file.getvalue()
    assert "3 fibers on 2 loop threads\n" in text
    assert re.search(r"^main #\d+ (running|ready|waits) ", text, re.MULTILINE)
    assert re.search(r"^other #\d+ waits \d.\d s for an Event", text, re.MULTILINE)
    assert len(re.findall(r"^thread ident \d+, .*ticks \d+", text, re.MULTILINE)) == 2


def test_a_storm_of_dumps_harms_nothing(run_script: Script) -> None:
    done = run_script("""
import ferrule, ferrule.inspect, os, signal, threading, time

def main():
    stop = threading.Event()

    def storm():
        while not stop.is_set():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.001)

    thread = threading.Thread(target=storm)
    thread.start()
    there, back = ferrule.Queue(), ferrule.Queue()

    def echo():
        while (item := there.get()) is not None:
            back.put(item)

    ferrule.spawn(echo)
    until = time.monotonic() + 1.0
    count = 0
    while time.monotonic() < until:
        with ferrule.TaskGroup() as group:
            group.spawn(there.put, count)
        assert back.get() == count
        count += 1
        if count % 100 == 0:
            ferrule.sleep(0.0001)
    there.put(None)
    stop.set()
    thread.join()
    print("unharmed")

with open(os.devnull, "w") as nowhere, ferrule.inspect.dump_on_signal(file=nowhere):
    ferrule.run(main)
""")
    assert (done.stdout, done.stderr) == ("unharmed\n", "")


def test_a_dump_handler_leaves_the_deadlock_check_on(run: Run) -> None:
    with inspect.dump_on_signal(), pytest.raises(ferrule.DeadlockError):
        run(ferrule.Event().wait)


def test_a_dump_handler_that_was_replaced_is_left_alone(run: Run) -> None:
    def mine(signum: int, frame: object) -> None:
        pass

    before = signal.getsignal(signal.SIGUSR2)
    dump = inspect.dump_on_signal(signal.SIGUSR2)
    try:
        signal.signal(signal.SIGUSR2, mine)
        dump.close()
        dump.close()
        assert signal.getsignal(signal.SIGUSR2) is mine
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_dump_goes_to_the_file_that_was_named(run: Run) -> None:
    file = io.StringIO()

    def main() -> None:
        with inspect.dump_on_signal(file=file):
            signal.raise_signal(signal.SIGUSR1)

    run(main)
    assert file.getvalue().startswith("ferrule: SIGUSR1 in process ")
    assert "\nmain #" in file.getvalue()


def test_a_dump_that_cannot_be_written_raises_in_no_fiber(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[type[BaseException]] = []
    monkeypatch.setattr("sys.excepthook", lambda kind, exc, tb: failures.append(kind))
    file = io.StringIO()
    file.close()

    def main() -> None:
        with inspect.dump_on_signal(file=file):
            signal.raise_signal(signal.SIGUSR1)

    run(main)
    assert failures == [ValueError]


@pytest.mark.parametrize("value", ["1", "0", ""])
def test_the_environment_asks_for_the_dump(run_script: Script, value: str) -> None:
    done = run_script(
        """
import ferrule, signal

def main():
    if callable(signal.getsignal(signal.SIGUSR1)):
        signal.raise_signal(signal.SIGUSR1)

ferrule.run(main)
assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
""",
        env={**os.environ, "FERRULE_DUMP": value},
    )
    assert done.returncode == 0, done.stderr
    assert ("ferrule: SIGUSR1 in process" in done.stderr) == (value == "1")


def test_the_environment_does_not_replace_a_handler_of_the_program(run_script: Script) -> None:
    done = run_script(
        """
import ferrule, signal

signal.signal(signal.SIGUSR1, lambda *args: print("mine"))
ferrule.run(lambda: signal.raise_signal(signal.SIGUSR1))
""",
        env={**os.environ, "FERRULE_DUMP": "1"},
    )
    assert (done.stdout, done.stderr) == ("mine\n", "")


# ---- the documentation ----

DOCS = Path(__file__).parent.parent / "docs" / "inspect.md"


def masked(text: str) -> list[str]:
    """The lines with numbers and places taken out."""
    text = re.sub(r"\((?:[^\s()]+):\d+ in \w+\)", "(PLACE)", text)
    return re.sub(r"\d+(\.\d+)?", "N", text).splitlines()


def test_the_tree_in_the_documentation_is_a_real_one(run: Run) -> None:
    """The program behind it."""
    def listen(listener: Any) -> None:
        listener.accept()

    def talk(lock: ferrule.Lock, conn: Any) -> None:
        with lock:
            conn.recv(100)

    def write(lock: ferrule.Lock) -> None:
        lock.acquire()

    def serve(listener: Any, conn: Any) -> None:
        lock = ferrule.Lock()
        with ferrule.move_on_after(60), ferrule.TaskGroup() as group:
            group.spawn(listen, listener, name="listener")
            group.spawn(talk, lock, conn, name="client")
            group.spawn(write, lock, name="writer")
            group.spawn(ferrule.sleep, 10, name="timer")

    def log(queue: ferrule.Queue[str]) -> None:
        queue.get()

    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            conn = ferrule.connect_tcp(*listener.getsockname())
            with conn, listener.accept()[0]:
                server = ferrule.spawn(serve, listener, conn, name="server")
                logger = ferrule.spawn(log, ferrule.Queue(), name="logger")
                ferrule.sleep(0.05)
                real = inspect.snapshot().format()
                for task in (server, logger):
                    task.cancel()
                    task.join()
        [shown] = re.findall(r"-->\n```\n(.*?)```", DOCS.read_text(), re.DOTALL)
        assert masked(shown) == masked(real)

    run(main)


def test_the_report_in_the_documentation_is_a_real_one(run: Run) -> None:
    reports: list[inspect.Report] = []

    def talk() -> None:
        time.sleep(1)

    def main() -> None:
        with inspect.watchdog(limit=0.1, callback=reports.append):
            ferrule.spawn(talk, name="client").join()

    run(main)
    [report] = reports
    [shown] = re.findall(r"```\n(ferrule: fiber .*?)```", DOCS.read_text(), re.DOTALL)
    file = re.compile(r'File ".*?"')
    assert masked(file.sub("File", shown)) == masked(file.sub("File", report.text))
