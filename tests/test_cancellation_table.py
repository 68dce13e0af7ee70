"""The table in docs/cancellation.md, row by row, against what the calls do.

Each call is made inside a cancelled scope, which it must or must not notice, and inside
`no_switch()`, which tells whether it would switch: once where it would have to wait, once where
what it wants is there already.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import socket as std
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ferrule
import ferrule.executor
import ferrule.ioqueue
import ferrule.socket
from ferrule import fs, ioqueue, ssl
from net_support import Run, fill, make_certificate, settle, unix_pair

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cancellation.md"
PUBLIC = {"": ferrule, "fs.": fs, "socket.": ferrule.socket, "ssl.": ssl,
          "ioqueue.": ioqueue}
MODULES: dict[str, types.ModuleType] = {**PUBLIC, "executor.": ferrule.executor}

Call = Callable[[], Any]
Make = Callable[["World"], Call]


class World:
    """What the calls work on, made when it is asked for, and taken apart in the end."""

    def __init__(self, stack: ExitStack, folder: Path, certificate: tuple[str, str]) -> None:
        self.stack = stack
        self.folder = folder
        self.certificate = certificate
        self.path = folder / "file"
        self.path.write_bytes(b"some data\n")

    def pair(self) -> tuple[Any, Any]:
        pair: tuple[Any, Any] = self.stack.enter_context(unix_pair())
        return pair

    def io_queue(self) -> Any:
        return self.stack.enter_context(ioqueue.IOQueue())

    def silent_fifo(self) -> Path:
        """A file whose end does not come before everything is taken apart."""
        fifo = self.folder / "fifo"
        os.mkfifo(fifo)
        self.stack.callback(os.close, os.open(fifo, os.O_RDWR))
        return fifo

    def busy_io_queue(self) -> Any:
        queue = self.io_queue()
        queue.read_file(self.silent_fifo())
        return queue

    def idle(self) -> Any:
        """A socket that has nothing to receive."""
        return self.pair()[0]

    def fed(self) -> Any:
        one, other = self.pair()
        other.sendall(b"some data\n")
        return one

    def full(self) -> Any:
        """A socket that cannot send."""
        sock = self.idle()
        fill(sock)
        return sock

    def sender(self) -> Any:
        return self.pair()[0]

    def listener(self, *, connected: bool = False) -> Any:
        listener = self.stack.enter_context(ferrule.listen_tcp("127.0.0.1", 0))
        if connected:
            self.stack.enter_context(ferrule.connect_tcp(*listener.getsockname()))
        return listener

    def accepting(self, *, connected: bool = False) -> Call:
        return self.closing(self.listener(connected=connected).accept)

    def closing(self, call: Callable[..., Any], *args: Any) -> Call:
        """The call, what it returns is closed."""

        def closed() -> None:
            result = call(*args)
            for part in result if isinstance(result, tuple) else (result,):
                if hasattr(part, "close"):
                    part.close()

        return closed

    def datagrams(self) -> tuple[Any, Any]:
        one, other = ferrule.socket.socketpair(std.AF_UNIX, std.SOCK_DGRAM)
        self.stack.enter_context(one)
        self.stack.enter_context(other)
        return one, other

    def tls(self) -> tuple[Any, Any]:
        one, other = self.pair()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(*self.certificate)
        client = ssl.create_default_context(cafile=self.certificate[0])
        task = ferrule.spawn(lambda: server.wrap_socket(other, server_side=True))
        mine = client.wrap_socket(one, server_hostname="localhost")
        return self.stack.enter_context(mine), self.stack.enter_context(task.result())

    def tls_fed(self) -> Any:
        one, other = self.tls()
        other.sendall(b"some data\n")
        return one

    def tls_full(self) -> Any:
        one, _ = self.tls()
        one.settimeout(0.05)
        with pytest.raises(TimeoutError):
            while True:
                one.send(bytes(65536))
        one.settimeout(None)
        return one

    def handshake(self) -> Call:
        context = ssl.create_default_context(cafile=self.certificate[0])
        sock = context.wrap_socket(
            self.idle(), server_hostname="localhost", do_handshake_on_connect=False
        )
        return self.stack.enter_context(sock).do_handshake  # type: ignore[no-any-return]

    def file(self) -> Any:
        return self.stack.enter_context(fs.File.open(self.path, os.O_RDWR))

    def plain_file(self) -> Any:
        return self.stack.enter_context(self.path.open("rb"))

    def reader(self) -> Any:
        """The reading end of an empty pipe."""
        reader, writer = os.pipe()
        self.stack.callback(os.close, writer)
        return self.stack.enter_context(ferrule.open(reader, "rb", buffering=0))

    def directory(self) -> Any:
        return self.stack.enter_context(fs.open_dir(self.folder))

    def task(self) -> Any:
        task = ferrule.spawn(ferrule.sleep, 60)
        self.stack.callback(task.cancel)
        return task

    def ended(self) -> Any:
        task = ferrule.spawn(int)
        task.result()
        return task

    def executor(self, *, busy: bool = False) -> tuple[Any, Any]:
        """An executor and the future of a call that ends with the test, or has ended."""
        executor = ferrule.Executor()
        event = ferrule.Event()
        self.stack.callback(executor.shutdown)
        self.stack.callback(event.set)
        future = executor.submit(event.wait)
        if not busy:
            event.set()
            future.result()
        return executor, future

    def mapping(self, seconds: float) -> Any:
        """The results of two calls, the first taken, the second after so many seconds."""
        results = self.stack.enter_context(closing(ferrule.map(ferrule.sleep, [0, seconds])))
        next(results)
        settle()
        return results

    def future(self, *, busy: bool = False) -> Any:
        return self.executor(busy=busy)[1]

    def group(self, *, members: int, limit: int | None = None) -> Any:
        group = self.stack.enter_context(ferrule.TaskGroup(limit))
        for _ in range(members):
            group.spawn(ferrule.sleep, 60)
        if members:
            self.stack.callback(group.cancel)
        return group

    def leaving(self, *, members: int) -> Call:
        group = ferrule.TaskGroup()

        def enter_and_leave() -> None:
            with group:
                for _ in range(members):
                    group.spawn(ferrule.sleep, 0)

        return enter_and_leave

    def queue(self, *items: Any, size: int = 0) -> Any:
        queue: ferrule.Queue[Any] = ferrule.Queue(size)
        for item in items:
            queue.put(item)
        return queue

    def lock(self, *, held: bool) -> Any:
        lock = ferrule.Lock()
        if held:
            lock.acquire()
        else:
            self.stack.callback(lambda: lock.locked() and lock.release())
        return lock

    def elsewhere(self, call: Call) -> None:
        """Make a call in another task, which lives on."""

        def work() -> None:
            call()
            ferrule.sleep(60)

        task = ferrule.spawn(work)
        ferrule.yield_now()
        self.stack.callback(task.cancel)

    def written(self) -> Any:
        lock = ferrule.RWLock()
        self.elsewhere(lock.write_lock().acquire)
        return lock

    def condition(self) -> Any:
        """A condition whose lock this task holds."""
        condition = ferrule.Condition()
        condition.acquire()
        return condition

    def event(self, *, is_set: bool) -> Any:
        event = ferrule.Event()
        if is_set:
            event.set()
        return event

    def batch(self, *seconds: float) -> Any:
        batch = self.stack.enter_context(ferrule.Batch())
        for each in seconds:
            batch.add(ferrule.sleep, each)
        ferrule.sleep(0.001)
        return batch

    def entered(self, *seconds: float) -> Call:
        def enter_and_leave() -> None:
            with ferrule.Batch() as batch, ferrule.shield():
                for each in seconds:
                    batch.add(ferrule.sleep, each)

        return enter_and_leave


@dataclass
class Ways:
    """A call where it has to wait, and one where what it wants is there; None: there is no such."""

    waits: Make | None = None
    ready: Make | None = None


def bound(make: Callable[[World], Any], method: str, *args: Any) -> Make:
    return lambda w: functools.partial(getattr(make(w), method), *args)


def always(fn: Callable[..., Any], *args: Any) -> Make:
    return lambda w: functools.partial(fn, *args)


def on_socket(method: str, *args: Any, sending: bool = False, prefix: str = "socket.socket") -> Any:
    tls = prefix != "socket.socket"
    if sending:
        waits = World.tls_full if tls else World.full
        ready = (lambda w: w.tls()[0]) if tls else World.sender
    else:
        waits = (lambda w: w.tls()[0]) if tls else World.idle
        ready = World.tls_fed if tls else World.fed
    return {f"{prefix}.{method}": Ways(bound(waits, method, *args), bound(ready, method, *args))}


def lock_calls(name: str, new: Callable[[], Any]) -> dict[str, Ways]:
    def held_elsewhere(w: World) -> Any:
        lock = new()
        w.elsewhere(lock.acquire)
        return lock

    def held(w: World) -> Any:
        lock = new()
        lock.acquire()
        return lock

    return {
        f"{name}.acquire": Ways(bound(held_elsewhere, "acquire"), lambda w: new().acquire),
        f"{name}.release": Ways(None, bound(held, "release")),
    }


def path_calls() -> Iterator[tuple[str, Ways]]:
    """The functions of fs that take a path, and Directory's methods of the same names."""
    calls: dict[str, Callable[[Any, Path], Any]] = {
        "access": lambda at, f: at.access(f, os.R_OK),
        "link": lambda at, f: at.link(f, f.with_name("link")),
        "lstat": lambda at, f: at.lstat(f),
        "makedirs": lambda at, f: at.makedirs(f.with_name("a") / "b"),
        "mkdir": lambda at, f: at.mkdir(f.with_name("made")),
        "read_bytes": lambda at, f: at.read_bytes(f),
        "readlink": lambda at, f: at.readlink(f.with_name("symlink")),
        "rename": lambda at, f: at.rename(f, f.with_name("renamed")),
        "replace": lambda at, f: at.replace(f, f.with_name("replaced")),
        "rmdir": lambda at, f: at.rmdir(f.with_name("empty")),
        "rmtree": lambda at, f: at.rmtree(f.with_name("tree")),
        "stat": lambda at, f: at.stat(f),
        "symlink": lambda at, f: at.symlink(f, f.with_name("new link")),
        "unlink": lambda at, f: at.unlink(f),
        "write_atomic": lambda at, f: at.write_atomic(f, b"new"),
        "write_bytes": lambda at, f: at.write_bytes(f, b"new"),
    }

    def in_module(call: Callable[[Any, Path], Any]) -> Make:
        return lambda w: functools.partial(call, fs, w.path)

    def in_directory(call: Callable[[Any, Path], Any]) -> Make:
        return lambda w: functools.partial(call, w.directory(), w.path)

    for name, call in calls.items():
        yield f"fs.{name}", Ways(None, in_module(call))
        yield f"fs.Directory.{name}", Ways(None, in_directory(call))


def first(iterable: Any) -> Call:
    return functools.partial(next, iter(iterable))


CALLS: dict[str, Ways] = {
    "sleep": Ways(always(ferrule.sleep, 60), always(ferrule.sleep, 0)),
    "sleep_until": Ways(
        lambda w: functools.partial(ferrule.sleep_until, ferrule.now() + 60),
        always(ferrule.sleep_until, 0),
    ),
    "yield_now": Ways(None, always(ferrule.yield_now)),
    "checkpoint": Ways(None, always(ferrule.checkpoint)),
    "cancel_requested": Ways(None, always(ferrule.cancel_requested)),
    "current_task": Ways(None, always(ferrule.current_task)),
    "current_runtime": Ways(None, always(ferrule.current_runtime)),
    "now": Ways(None, always(ferrule.now)),
    "spawn": Ways(None, always(ferrule.spawn, int)),
    "spawn_or_run": Ways(None, always(ferrule.spawn_or_run, int)),
    "blocking": Ways(always(ferrule.blocking, int)),
    "Task.cancel": Ways(bound(World.task, "cancel"), bound(World.ended, "cancel")),
    "CancelScope.cancel": Ways(None, lambda w: ferrule.CancelScope().cancel),
    "TaskGroup.cancel": Ways(
        bound(lambda w: w.group(members=1), "cancel"), bound(lambda w: w.group(members=0), "cancel")
    ),
    "TaskGroup.spawn": Ways(
        bound(lambda w: w.group(members=1, limit=1), "spawn", int),
        bound(lambda w: w.group(members=0), "spawn", int),
    ),
    "TaskGroup.spawn_or_run": Ways(None, bound(lambda w: w.group(members=0), "spawn_or_run", int)),
    "TaskGroup.wait": Ways(
        bound(lambda w: w.group(members=1), "wait"), bound(lambda w: w.group(members=0), "wait")
    ),
    "TaskGroup.__exit__": Ways(lambda w: w.leaving(members=1), lambda w: w.leaving(members=0)),
    **{
        f"Task.{name}": Ways(bound(World.task, name), bound(World.ended, name))
        for name in ("result", "exception", "join")
    },
    "select": Ways(
        lambda w: functools.partial(ferrule.select, [w.task()]),
        lambda w: functools.partial(ferrule.select, [w.ended()]),
    ),
    "wait": Ways(
        lambda w: functools.partial(ferrule.wait, [w.task()]),
        lambda w: functools.partial(ferrule.wait, [w.ended()]),
    ),
    "as_completed": Ways(
        lambda w: first(ferrule.as_completed([w.task()])),
        lambda w: first(ferrule.as_completed([w.ended()])),
    ),
    "local": Ways(None, always(ferrule.local)),
    "map": Ways(lambda w: first(w.mapping(60)), lambda w: first(w.mapping(0))),
    "map(...).close": Ways(lambda w: w.mapping(60).close, lambda w: w.mapping(0).close),
    "Runtime.spawn_threadsafe": Ways(
        None, lambda w: functools.partial(ferrule.current_runtime().spawn_threadsafe, int)
    ),
    "Executor.submit": Ways(None, bound(lambda w: w.executor()[0], "submit", int)),
    "Executor.shutdown": Ways(
        bound(lambda w: w.executor(busy=True)[0], "shutdown"),
        bound(lambda w: w.executor()[0], "shutdown"),
    ),
    "Executor.__exit__": Ways(
        bound(lambda w: w.executor(busy=True)[0], "__exit__", None, None, None),
        bound(lambda w: w.executor()[0], "__exit__", None, None, None),
    ),
    "executor.Future.result": Ways(
        bound(lambda w: w.future(busy=True), "result"), bound(World.future, "result")
    ),
    "executor.Future.exception": Ways(
        bound(lambda w: w.future(busy=True), "exception"), bound(World.future, "exception")
    ),
    # ---- synchronisation ----
    "Event.wait": Ways(
        bound(lambda w: w.event(is_set=False), "wait"),
        bound(lambda w: w.event(is_set=True), "wait"),
    ),
    "Event.set": Ways(None, bound(lambda w: w.event(is_set=False), "set")),
    "Event.clear": Ways(None, bound(lambda w: w.event(is_set=True), "clear")),
    "Lock.acquire": Ways(
        bound(lambda w: w.lock(held=True), "acquire"),
        bound(lambda w: w.lock(held=False), "acquire"),
    ),
    "Lock.release": Ways(None, bound(lambda w: w.lock(held=True), "release")),
    **lock_calls("RLock", ferrule.RLock),
    **lock_calls("Condition", ferrule.Condition),
    **lock_calls("Semaphore", ferrule.Semaphore),
    **lock_calls("BoundedSemaphore", ferrule.BoundedSemaphore),
    **lock_calls("RWLock.read_lock()", lambda: ferrule.RWLock().read_lock()),
    **lock_calls("RWLock.write_lock()", lambda: ferrule.RWLock().write_lock()),
    "RWLock.read_lock().acquire": Ways(
        lambda w: w.written().read_lock().acquire, lambda w: ferrule.RWLock().read_lock().acquire
    ),
    "Condition.wait": Ways(bound(World.condition, "wait")),
    "Condition.wait_for": Ways(
        bound(World.condition, "wait_for", lambda: False),
        bound(World.condition, "wait_for", lambda: True),
    ),
    "Condition.notify": Ways(None, bound(World.condition, "notify")),
    "Condition.notify_all": Ways(None, bound(World.condition, "notify_all")),
    "Barrier.wait": Ways(
        lambda w: ferrule.Barrier(2).wait, lambda w: ferrule.Barrier(1).wait
    ),
    "Barrier.reset": Ways(None, lambda w: ferrule.Barrier(2).reset),
    "Barrier.abort": Ways(None, lambda w: ferrule.Barrier(2).abort),
    "Queue.put": Ways(bound(lambda w: w.queue(1, size=1), "put", 2), bound(World.queue, "put", 2)),
    "Queue.get": Ways(bound(World.queue, "get"), bound(lambda w: w.queue(1), "get")),
    "Queue.join": Ways(bound(lambda w: w.queue(1), "join"), bound(World.queue, "join")),
    "Queue.put_nowait": Ways(None, bound(World.queue, "put_nowait", 1)),
    "Queue.get_nowait": Ways(None, bound(lambda w: w.queue(1), "get_nowait")),
    "Queue.task_done": Ways(None, bound(lambda w: w.queue(1), "task_done")),
    "Queue.shutdown": Ways(None, bound(World.queue, "shutdown")),
    # ---- batches ----
    "Batch.add": Ways(None, bound(World.batch, "add", ferrule.sleep, 0)),
    "Batch.wait": Ways(
        bound(lambda w: w.batch(60), "wait"), bound(lambda w: w.batch(0), "wait")
    ),
    "Batch.__next__": Ways(lambda w: first(w.batch(60)), lambda w: first(w.batch(0))),
    "Batch.completed": Ways(
        bound(lambda w: w.batch(60), "completed"), bound(lambda w: w.batch(0), "completed")
    ),
    "Batch.cancel": Ways(
        bound(lambda w: w.batch(60), "cancel"), bound(lambda w: w.batch(0), "cancel")
    ),
    "Batch.__exit__": Ways(None, lambda w: w.entered()),
    # ---- sockets ----
    "wait_readable": Ways(
        lambda w: functools.partial(ferrule.wait_readable, w.idle()),
        lambda w: functools.partial(ferrule.wait_readable, w.fed()),
    ),
    "wait_writable": Ways(
        lambda w: functools.partial(ferrule.wait_writable, w.full()),
        lambda w: functools.partial(ferrule.wait_writable, w.sender()),
    ),
    "connect_tcp": Ways(
        lambda w: w.closing(ferrule.connect_tcp, *w.listener().getsockname())
    ),
    "connect_unix": Ways(
        lambda w: w.closing(
            ferrule.connect_unix,
            w.stack.enter_context(ferrule.listen_unix(w.folder / "unix")).getsockname(),
        )
    ),
    "listen_tcp": Ways(
        lambda w: w.closing(ferrule.listen_tcp, "localhost", 0),
        lambda w: w.closing(ferrule.listen_tcp, "127.0.0.1", 0),
    ),
    "listen_unix": Ways(lambda w: w.closing(ferrule.listen_unix, w.folder / "unix")),
    "udp_socket": Ways(
        lambda w: w.closing(ferrule.udp_socket, ("localhost", 0)),
        lambda w: w.closing(ferrule.udp_socket, ("127.0.0.1", 0)),
    ),
    "serve": Ways(lambda w: functools.partial(ferrule.serve, print, w.listener())),
    "serve_tcp": Ways(always(ferrule.serve_tcp, print, "127.0.0.1", 0)),
    "Listener.__next__": Ways(
        lambda w: w.closing(w.listener().__next__),
        lambda w: w.closing(w.listener(connected=True).__next__),
    ),
    "socket.socket.accept": Ways(
        lambda w: w.accepting(), lambda w: w.accepting(connected=True)
    ),
    "socket.socket.connect": Ways(
        None,
        lambda w: functools.partial(
            w.stack.enter_context(ferrule.socket.socket()).connect, w.listener().getsockname()
        ),
    ),
    "socket.socket.connect_ex": Ways(
        None,
        lambda w: functools.partial(
            w.stack.enter_context(ferrule.socket.socket()).connect_ex, w.listener().getsockname()
        ),
    ),
    "socket.socket.bind": Ways(
        lambda w: functools.partial(
            w.stack.enter_context(ferrule.socket.socket()).bind, ("localhost", 0)
        ),
        lambda w: functools.partial(
            w.stack.enter_context(ferrule.socket.socket()).bind, ("127.0.0.1", 0)
        ),
    ),
    "socket.socket.close": Ways(None, bound(World.idle, "close")),
    **on_socket("recv", 100),
    **on_socket("recv_into", bytearray(100)),
    **on_socket("recvfrom", 100),
    **on_socket("recvfrom_into", bytearray(100)),
    **on_socket("recvmsg", 100),
    **on_socket("recvmsg_into", [bytearray(100)]),
    **on_socket("recv_many", 1, 100),
    **on_socket("send", b"data", sending=True),
    **on_socket("sendall", b"data", sending=True),
    **on_socket("sendmsg", [b"data"], sending=True),
    **on_socket("send_many", [b"data"], sending=True),
    "socket.socket.sendto": Ways(
        None,
        lambda w: functools.partial(
            w.stack.enter_context(ferrule.udp_socket()).sendto, b"data", ("127.0.0.1", 9)
        ),
    ),
    "socket.socket.sendfile": Ways(
        lambda w: functools.partial(w.full().sendfile, w.plain_file()),
        lambda w: functools.partial(w.sender().sendfile, w.plain_file()),
    ),
    "socket.create_connection": Ways(
        None, lambda w: w.closing(ferrule.socket.create_connection, w.listener().getsockname())
    ),
    **{
        f"socket.{name}": Ways(always(getattr(ferrule.socket, name), *args))
        for name, *args in (
            ("getaddrinfo", "localhost", 80), ("gethostbyname", "localhost"),
            ("gethostbyname_ex", "localhost"), ("gethostbyaddr", "127.0.0.1"),
            ("getnameinfo", ("127.0.0.1", 80), 0), ("getfqdn", "localhost"),
            ("getservbyname", "http"), ("getservbyport", 80), ("getprotobyname", "tcp"),
        )
    },
    "socket.lookup": Ways(lambda w: first(ferrule.socket.lookup("localhost", 80))),
    # ---- TLS ----
    "ssl.SSLSocket.do_handshake": Ways(World.handshake),
    **on_socket("recv", 100, prefix="ssl.SSLSocket"),
    **on_socket("recv_into", bytearray(100), prefix="ssl.SSLSocket"),
    **on_socket("read", 100, prefix="ssl.SSLSocket"),
    **on_socket("send", b"data", sending=True, prefix="ssl.SSLSocket"),
    **on_socket("sendall", b"data", sending=True, prefix="ssl.SSLSocket"),
    **on_socket("write", b"data", sending=True, prefix="ssl.SSLSocket"),
    "ssl.SSLSocket.unwrap": Ways(bound(lambda w: w.tls()[0], "unwrap")),
    # ---- files ----
    "open": Ways(None, lambda w: w.closing(ferrule.open, w.path)),
    "open(...).read": Ways(
        bound(World.reader, "read", 1),
        bound(lambda w: w.stack.enter_context(ferrule.open(w.path)), "read"),
    ),
    "fs.File.open": Ways(None, lambda w: w.closing(fs.File.open, w.path, os.O_RDONLY)),
    **{
        f"fs.File.{name}": Ways(None, bound(World.file, name, *args))
        for name, *args in (
            ("pread", 1, 0), ("pwrite", b"x", 0), ("preadv", [bytearray(1)], 0),
            ("pwritev", [b"x"], 0), ("readinto_at", bytearray(1), 0), ("read", 1),
            ("readinto", bytearray(1)), ("readv", [bytearray(1)]), ("write", b"x"),
            ("writev", [b"x"]), ("stat",), ("truncate", 1), ("fsync",), ("fdatasync",),
            ("fallocate", 0, 10), ("chmod", 0o600), ("lock",), ("try_lock",), ("unlock",),
            ("seek_to", 0), ("seek_by", 0), ("close",),
        )
    },
    **dict(path_calls()),
    "fs.open_dir": Ways(None, lambda w: w.closing(fs.open_dir, w.folder)),
    "fs.Directory.open": Ways(None, lambda w: w.closing(fs.Directory.open, w.folder)),
    "fs.Directory.open_dir": Ways(
        None, lambda w: w.closing(w.directory().open_dir, w.folder / "empty")
    ),
    "fs.Directory.open_file": Ways(
        None, lambda w: w.closing(w.directory().open_file, w.path, os.O_RDONLY)
    ),
    "fs.Directory.fsync": Ways(None, bound(World.directory, "fsync")),
    "fs.Directory.close": Ways(None, bound(World.directory, "close")),
    "fs.scandir": Ways(None, lambda w: w.closing(fs.scandir, w.folder)),
    "fs.Scan.__next__": Ways(
        None, lambda w: first(w.stack.enter_context(fs.scandir(w.folder)))
    ),
    "fs.copy_file": Ways(
        None, lambda w: functools.partial(fs.copy_file, w.path, w.folder / "copy")
    ),
    "walk": Ways(lambda w: first(ferrule.walk(w.folder))),
    "walk_batches": Ways(lambda w: first(ferrule.walk_batches(w.folder))),
    "ioqueue.IOQueue.stat_many": Ways(
        lambda w: functools.partial(w.io_queue().stat_many, [w.path] * 5000)
    ),
    "ioqueue.IOQueue.iter_files": Ways(
        lambda w: first(w.io_queue().iter_files([w.silent_fifo()]))
    ),
    "ioqueue.IOQueue.pop": Ways(
        bound(World.busy_io_queue, "pop"), bound(World.io_queue, "pop")
    ),
    "ioqueue.IOQueue.pop_many": Ways(
        bound(World.busy_io_queue, "pop_many", 9), bound(World.io_queue, "pop_many", 9)
    ),
}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def try_out(run: Run, folder: Path, certificate: tuple[str, str], make: Make,
            around: Callable[[Call], bool]) -> bool:
    def main() -> bool:
        with ExitStack() as stack:
            for name in ("empty", "tree"):
                (folder / name).mkdir(parents=True)
            (folder / "symlink").symlink_to("file")
            call = make(World(stack, folder, certificate))
            settle(2)
            return around(call)

    return bool(run(main))


def is_cancelled(call: Call) -> bool:
    with ferrule.CancelScope() as scope:
        scope.cancel()
        call()
    return scope.cancelled_caught


def lets_others_run(call: Call) -> bool:
    ran = 0

    def compete() -> None:
        nonlocal ran
        while True:
            ferrule.yield_now()
            ran += 1

    task = ferrule.spawn(compete)
    ferrule.yield_now()
    before = ran
    with ferrule.move_on_after(0.01):
        call()
    switched = ran != before
    task.cancel()
    task.join()
    return switched


# ---- the table ----

# How a cell begins: whether the call does it where it waits, and where it is ready.  None: either.
WORDS = {
    "yes": (True, True),
    "if it waits": (True, False),
    "no": (False, False),
    "if it cannot be done at once": (None, None),
}


@dataclass
class Row:
    switches: str
    cancels: str


def word_of(cell: str) -> str:
    matches = [word for word in WORDS if re.match(rf"{word}(?![\w ])| *{word} \(", cell)]
    assert len(matches) == 1, f"{cell!r} begins with none of {list(WORDS)}"
    return matches[0]


def rows() -> dict[str, Row]:
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        listed = re.match(r"(`[^`]+` ?)*", cells[0])[0] if line.startswith("| `") else ""
        names = re.findall(r"`([^`]+)`", listed)
        for name in names:
            assert name not in found, f"{name} is in the table twice"
            found[name] = Row(word_of(cells[1]), word_of(cells[2]))
    return found


ROWS = rows()


def ways_of(name: str) -> list[tuple[Make, int]]:
    ways = CALLS[name]
    return [(way, at) for at, way in enumerate((ways.waits, ways.ready)) if way is not None]


def test_the_table_and_the_calls_made_here_are_the_same() -> None:
    assert sorted(ROWS) == sorted(CALLS)


@pytest.mark.parametrize("name", ROWS)
def test_a_call_is_a_cancellation_point_where_the_table_says_so(
    run: Run, tmp_path: Path, certificate: tuple[str, str], name: str
) -> None:
    for make, at in ways_of(name):
        expected = WORDS[ROWS[name].cancels][at]
        assert expected is not None, "this can be said for certain"
        folder = tmp_path / str(at)
        assert try_out(run, folder, certificate, make, is_cancelled) == expected


@pytest.mark.one_thread("a switch shows in what else its thread runs")
@pytest.mark.parametrize("name", [name for name in ROWS if None not in WORDS[ROWS[name].switches]])
def test_a_call_switches_where_the_table_says_so(
    run: Run, tmp_path: Path, certificate: tuple[str, str], name: str
) -> None:
    for make, at in ways_of(name):
        folder = tmp_path / str(at)
        found = try_out(run, folder, certificate, make, lets_others_run)
        assert found == WORDS[ROWS[name].switches][at]


# ---- what is missing ----

def resolved(name: str) -> Any:
    """The function of a name in the table; of a method of what a call returns, that call."""
    name = name.partition("(")[0]
    first_part, _, rest = name.partition(".")
    module = MODULES.get(f"{first_part}.") if rest else None
    found: Any = module if module is not None else getattr(ferrule, first_part)
    for part in rest.split(".") if rest else []:
        found = inspect.getattr_static(found, part)
    return found


def public_callables() -> Iterator[tuple[str, Any]]:
    for prefix, module in PUBLIC.items():
        for name in getattr(module, "__all__", None) or dir(module):
            value = getattr(module, name)
            if isinstance(value, type):
                yield from methods(prefix + name, value)
            elif callable(value) and is_ours(value):
                yield prefix + name, value


def methods(prefix: str, kind: type) -> Iterator[tuple[str, Any]]:
    for base in kind.__mro__:
        if not base.__module__.startswith("ferrule"):
            continue
        for name, value in vars(base).items():
            if callable(value) and (not name.startswith("_") or name in ("__exit__", "__next__")):
                yield f"{prefix}.{name}", value


def is_ours(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).startswith("ferrule")


def test_no_call_that_says_it_is_a_cancellation_point_is_missing() -> None:
    listed = [resolved(name) for name in ROWS]
    said = {
        name: value for name, value in public_callables()
        if "ancellation point" in (value.__doc__ or "")
    }
    assert len(said) > 50  # the search finds what it should
    missing = [name for name, value in said.items() if not any(value is one for one in listed)]
    assert missing == []
