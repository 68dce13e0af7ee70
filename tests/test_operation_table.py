"""docs/backends.md says how every operation is done on every engine; here each is done so.

The cells are read from the page.  Counters tell what went to the ring and to which threads.  And a
fault that was planned for an operation comes, whatever the engine.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import pty
import re
import select
import socket as std
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ferrule
import ferrule.socket
from ferrule import fs
from ferrule._core.fs_paths import copy_some, perform_row
from net_support import Run, fill, inject, settle, statistics

PAGE = Path(__file__).resolve().parent.parent / "docs" / "backends.md"
LARGE = 2 << 20
DATA = b"some data\n"
NAME = "/proc/self/comm"
FTRUNCATE = 55  # its opcode in the ring
WAYS = ("ring", "worker", "waiter", "ready", "crowd", "clock", "at once")

pytestmark = pytest.mark.skipif(
    tuple(map(int, os.uname().release.split(".")[:2])) < (6, 9),
    reason="the table says what a newer kernel does",
)

Call = Callable[[], object]
perform = functools.partial(functools.partial, perform_row)


class Place:
    """Where a case finds what it works on; taken apart at its end."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.in_flight: int | None = None  # before the call; None: it has not begun
        self.was_seen_waiting: bool | None = None  # None: nobody looked
        self.path = folder / "file"
        self.path.write_bytes(DATA)

    def later(self, fn: Callable[..., object], *args: Any) -> None:
        """Once the call waits, or after a second in which it does not."""

        def wait_first() -> None:
            until = time.monotonic() + 1
            while not self.waits() and time.monotonic() < until:
                ferrule.sleep(0.005)
            self.was_seen_waiting = self.waits()
            fn(*args)

        self.stack.callback(ferrule.spawn(wait_first).join)

    def waits(self) -> bool:
        if self.in_flight is None:
            return False
        return bool(statistics()["operations_in_flight"] > self.in_flight)

    # -- files --

    def file(self, flags: int = os.O_RDWR) -> Any:
        return self.stack.enter_context(fs.File.open(self.path, flags))

    def opened(self, path: Path, flags: int) -> Call:
        return lambda: self.stack.enter_context(fs.File.open(path, flags))

    def file_that_cannot_tell(self) -> Any:
        """Whether an attempt would wait.  Written to it is our name, which stays."""
        return self.stack.enter_context(fs.File.open(NAME, os.O_RDWR))

    def large_file(self) -> Any:
        self.path.write_bytes(bytes(LARGE))
        return self.file()

    def nameless(self) -> Any:
        file = fs.File.open(self.path)
        self.path.unlink()
        return file

    def written(self) -> Any:
        file = fs.File.open(self.path, os.O_RDWR)
        file.pwrite(DATA, 0)
        return file

    def locked(self) -> Any:
        """A file that somebody else holds a lock on, but not for long."""
        other = os.open(self.path, os.O_RDONLY)
        fcntl.flock(other, fcntl.LOCK_EX)
        self.later(os.close, other)
        return self.file()

    def refused(self, kind: str, call: Call) -> Call:
        """The call without the attempt that cannot wait."""

        def with_refusal() -> object:
            inject(kind, 1, error=errno.EAGAIN)
            return call()

        return with_refusal

    def fifo(self) -> Path:
        path = self.folder / "fifo"
        os.mkfifo(path)
        return path

    def fifo_ends(self) -> tuple[int, int]:
        path = self.fifo()
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.stack.callback(os.close, reader)
        writer = os.open(path, os.O_WRONLY)
        self.stack.callback(os.close, writer)
        return reader, writer

    def empty_fifo(self) -> Any:
        """Its reading end, soon to be written to."""
        _, writer = self.fifo_ends()
        self.later(os.write, writer, DATA)
        return self.stack.enter_context(fs.File.open(self.folder / "fifo", os.O_RDONLY))

    def writable_fifo(self) -> Any:
        self.fifo_ends()
        return self.stack.enter_context(fs.File.open(self.folder / "fifo", os.O_WRONLY))

    def reader_comes(self, path: Path) -> None:
        self.stack.callback(os.close, os.open(path, os.O_RDONLY | os.O_NONBLOCK))

    def writer_comes(self, path: Path) -> None:
        self.stack.callback(os.close, os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    def half_open(self, flags: int, other_comes: Callable[[Path], None]) -> Call:
        path = self.fifo()
        self.later(other_comes, path)
        return self.opened(path, flags)

    def pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        for end in ends:
            self.stack.callback(os.close, end)
        return ends

    def over(self, number: int, mode: str) -> Any:
        file = ferrule.open(number, mode, buffering=0, closefd=False)
        return self.stack.enter_context(file)

    def pipe_with_data(self) -> Any:
        reader, writer = self.pipe()
        os.write(writer, DATA)
        return self.over(reader, "rb")

    def empty_pipe(self) -> Any:
        reader, writer = self.pipe()
        self.later(os.write, writer, DATA)
        return self.over(reader, "rb")

    def pipe_with_room(self) -> Any:
        return self.over(self.pipe()[1], "wb")

    def full_pipe(self) -> Any:
        reader, writer = self.pipe()
        os.set_blocking(writer, False)
        try:
            while True:
                os.write(writer, bytes(4096))
        except BlockingIOError:
            os.set_blocking(writer, True)
        self.later(os.read, reader, LARGE)
        return self.over(writer, "wb")

    def terminal(self) -> tuple[int, Any]:
        """Its other side, and a file over ours."""
        theirs, ours = pty.openpty()
        tty.setraw(ours)
        self.stack.callback(os.close, ours)
        self.stack.callback(os.close, theirs)
        flags = os.O_RDWR | os.O_NOCTTY
        return theirs, self.stack.enter_context(fs.File.open(os.ttyname(ours), flags))

    def silent_terminal(self) -> Any:
        theirs, file = self.terminal()
        self.later(os.write, theirs, DATA)
        return file

    # -- sockets: the other ends are the standard library's, so that counters see only ours --

    def pair(self) -> tuple[Any, std.socket]:
        mine, other = std.socketpair()
        self.stack.enter_context(other)
        sock = ferrule.socket.socket(fileno=mine.detach())
        return self.stack.enter_context(sock), other

    def with_data(self) -> Any:
        sock, other = self.pair()
        other.sendall(DATA)
        return sock

    def idle(self) -> Any:
        """It soon has something to receive."""
        sock, other = self.pair()
        self.later(other.sendall, DATA)
        return sock

    def with_room(self) -> Any:
        return self.pair()[0]

    def full(self) -> Any:
        """It can soon send."""
        sock, other = self.pair()
        fill(sock)
        self.later(drain, other)
        return sock

    def after_large_reads(self, sock: Any, other: std.socket) -> Any:
        for _ in range(2):
            other.sendall(bytes(20_000))
            while sock.recv(1 << 16) != b"" and readable(sock):
                pass
        return sock

    def after_large_read_with_data(self) -> Any:
        sock, other = self.pair()
        self.after_large_reads(sock, other)
        other.sendall(DATA)
        return sock

    def after_large_read(self) -> Any:
        sock, other = self.pair()
        self.after_large_reads(sock, other)
        self.later(other.sendall, DATA)
        return sock

    def crowd_in_flight(self, sock: Any) -> Any:
        """The socket, while many others wait."""
        batch = self.stack.enter_context(ferrule.Batch())
        others = [self.pair()[0] for _ in range(130)]
        for other in others:
            batch.add(other.recv, 10)
        settle()
        return sock

    def listener(self) -> Any:
        return self.stack.enter_context(ferrule.listen_tcp("127.0.0.1", 0))

    def connect_to(self, listener: Any) -> Any:
        self.stack.enter_context(std.create_connection(listener.getsockname()))
        return listener

    def awaited(self, listener: Any) -> Any:
        """Somebody connects to it soon."""
        self.later(self.connect_to, listener)
        return listener

    def that_blocks(self, listener: Any) -> Any:
        os.set_blocking(listener.fileno(), True)
        return listener

    def unix_listener(self) -> std.socket:
        listener = self.stack.enter_context(std.socket(std.AF_UNIX))
        listener.bind(str(self.folder / "listener"))
        listener.listen(0)
        return listener

    def client(self, family: int) -> Any:
        return self.stack.enter_context(ferrule.socket.socket(family))

    def connect(self) -> Call:
        address = self.unix_listener().getsockname()
        sock = self.client(std.AF_UNIX)
        return lambda: sock.connect(address)

    def connect_to_full_unix(self) -> Call:
        """It soon has room."""
        listener = self.unix_listener()
        first = self.stack.enter_context(std.socket(std.AF_UNIX))
        first.connect(listener.getsockname())
        self.later(lambda: self.stack.enter_context(listener.accept()[0]))
        sock = self.client(std.AF_UNIX)
        return lambda: sock.connect(str(self.folder / "listener"))

    def connect_to_full_tcp(self) -> Call:
        """It has no room before the limit is over."""
        listener = self.stack.enter_context(std.create_server(("127.0.0.1", 0), backlog=0))
        self.connect_to(listener)
        sock = self.client(std.AF_INET)
        sock.settimeout(0.1)
        self.later(int)

        def connect() -> None:
            with pytest.raises(TimeoutError):
                sock.connect(listener.getsockname())

        return connect

    def send_file(self, size: int) -> Call:
        sock = self.with_room()
        sock.setsockopt(std.SOL_SOCKET, std.SO_SNDBUF, 1 << 20)
        self.path.write_bytes(bytes(size))
        file = self.stack.enter_context(self.path.open("rb"))
        return lambda: sock.sendfile(file)

    # -- others --

    def only(self, operation: Callable[..., object], *args: Any) -> Call:
        """The call as a batch's operation."""
        batch = self.stack.enter_context(ferrule.Batch())

        def add() -> object:
            batch.add(operation, *args)
            return batch.wait()[0].result()

        return add

    def sleep_until(self) -> Call:
        self.later(int)
        return lambda: ferrule.sleep_until(time.time() + 0.05, clock=ferrule.Clock.REALTIME)

    def copied(self) -> Call:
        target = self.stack.enter_context(fs.File.open(self.folder / "new", os.O_RDWR | os.O_CREAT))
        return functools.partial(copy_some, self.file(), target, len(DATA))


def readable(sock: Any) -> bool:
    return bool(select.select([sock.fileno()], [], [], 0)[0])


def drain(sock: std.socket) -> None:
    sock.setblocking(False)
    try:
        while sock.recv(LARGE):
            pass
    except BlockingIOError:
        pass


def _call(name: str, *args: Any) -> Callable[[Any], Call]:
    """What calls a method of an object that it is given."""
    return lambda owner: functools.partial(getattr(owner, name), *args)


class Case(NamedTuple):
    """One part of a cell: by what stands before its colon, if anything does."""

    operation: str
    condition: str
    now: Callable[[Place], Call] | None           # where nothing has to wait
    later: Callable[[Place], Call] | None = None  # where the first attempt would have to


def _accepts(place: Place, listener: Any) -> Call:
    return lambda: place.stack.enter_context(listener.accept()[0])


def _on_disk(kind: str, make_argument: Callable[[], Any]) -> Case:
    return Case(kind, "disk", lambda p: _call(kind, make_argument())(p.file()),
                lambda p: _call(kind, make_argument())(p.file_that_cannot_tell()))


def _name() -> bytes:
    return Path(NAME).read_bytes()


def _room() -> list[bytearray]:
    return [bytearray(9)]


RECEIVES: dict[str, Callable[[Any], Call]] = {
    "recv": _call("recv", 100), "recvmsg": _call("recvmsg", 100),
}
SENDS: dict[str, Callable[[Any], Call]] = {
    "send": _call("send", DATA), "sendmsg": _call("sendmsg", [DATA]),
}
PATHS: dict[str, Callable[[Place], Call]] = {
    "getdents": lambda p: lambda: list(fs.scandir(p.folder)),
    "faccessat": lambda p: perform("faccessat", path=bytes(p.path), mode=os.R_OK),
    "unlinkat": lambda p: lambda: fs.unlink(p.path),
    "mkdirat": lambda p: lambda: fs.mkdir(p.folder / "new"),
    "renameat": lambda p: lambda: fs.rename(p.path, p.folder / "new"),
    "linkat": lambda p: lambda: fs.link(p.path, p.folder / "new"),
    "symlinkat": lambda p: lambda: fs.symlink(p.path, p.folder / "new"),
    "readlinkat": lambda p: (
        p.path.with_name("link").symlink_to("file"),
        lambda: fs.readlink(p.folder / "link"))[1],
}
ON_FILES: dict[str, Callable[[Any], Call]] = {
    "fsync": _call("fsync"),
    "fallocate": _call("fallocate", 0, 10),
    "ftruncate": _call("truncate", 5),
    "fchmod": _call("chmod", 0o600),
    "fadvise": lambda file: perform("fadvise", fd=file.fileno(), flags=os.POSIX_FADV_NORMAL),
    "getxattr": lambda file: perform("getxattr", fd=file.fileno(), path2=b"user.a"),
    "setxattr": lambda file: perform("setxattr", fd=file.fileno(), path2=b"user.a"),
    "listxattr": lambda file: perform("listxattr", fd=file.fileno()),
    "removexattr": lambda file: perform("removexattr", fd=file.fileno(), path2=b"user.a"),
}
CASES = [
    Case("nop", "", lambda p: p.only(p.with_room().recv, 0)),
    _on_disk("read", lambda: 5),
    Case("read", "pipe", lambda p: _call("read", 100)(p.pipe_with_data()),
         lambda p: _call("read", 100)(p.empty_pipe())),
    Case("read", "socket", lambda p: _call("read", 100)(p.over(p.with_data().fileno(), "rb")),
         lambda p: _call("read", 100)(p.over(p.idle().fileno(), "rb"))),
    Case("read", "over 1 MiB", lambda p: _call("pread", LARGE, 0)(p.large_file())),
    Case("read", "FIFO", None, lambda p: _call("read", 100)(p.empty_fifo())),
    Case("read", "terminal", None, lambda p: _call("read", 100)(p.silent_terminal())),
    _on_disk("write", _name),
    Case("write", "pipe", lambda p: _call("write", DATA)(p.pipe_with_room()),
         lambda p: _call("write", DATA)(p.full_pipe())),
    Case("write", "socket", lambda p: _call("write", DATA)(p.over(p.with_room().fileno(), "wb")),
         lambda p: _call("write", DATA)(p.over(p.full().fileno(), "wb"))),
    Case("write", "over 1 MiB", lambda p: _call("pwrite", bytes(LARGE), 0)(p.file())),
    Case("write", "FIFO", lambda p: _call("write", DATA)(p.writable_fifo())),
    Case("write", "terminal", lambda p: _call("write", DATA)(p.terminal()[1])),
    _on_disk("readv", _room),
    Case("readv", "FIFO", None, lambda p: _call("readv", _room())(p.empty_fifo())),
    Case("readv", "terminal", None, lambda p: _call("readv", _room())(p.silent_terminal())),
    _on_disk("writev", lambda: [_name()]),
    Case("writev", "FIFO", lambda p: _call("writev", [DATA])(p.writable_fifo())),
    Case("writev", "terminal", lambda p: _call("writev", [DATA])(p.terminal()[1])),
    *(Case(kind, "", lambda p, c=call: c(p.with_data()), lambda p, c=call: c(p.idle()))
      for kind, call in RECEIVES.items()),
    Case("recv", "into a buffer", lambda p: _call("recv_into", bytearray(9))(p.with_data()),
         lambda p: _call("recv_into", bytearray(9))(p.idle())),
    Case("recv", "after a large one",
         lambda p: RECEIVES["recv"](p.after_large_read_with_data()),
         lambda p: RECEIVES["recv"](p.after_large_read())),
    *(Case(kind, "", lambda p, c=call: c(p.with_room()), lambda p, c=call: c(p.full()))
      for kind, call in SENDS.items()),
    Case("send", "over 128 in flight",
         lambda p: SENDS["send"](p.crowd_in_flight(p.with_room()))),
    Case("accept", "", lambda p: _accepts(p, p.connect_to(p.listener())),
         lambda p: _accepts(p, p.awaited(p.listener()))),
    Case("accept", "listener that blocks",
         lambda p: _accepts(p, p.that_blocks(p.connect_to(p.listener()))),
         lambda p: _accepts(p, p.that_blocks(p.awaited(p.listener())))),
    Case("connect", "", Place.connect, Place.connect_to_full_tcp),
    Case("connect", "Unix listener without room", None, Place.connect_to_full_unix),
    Case("poll", "", lambda p: functools.partial(ferrule.wait_readable, p.with_data()),
         lambda p: functools.partial(ferrule.wait_readable, p.idle())),
    Case("openat", "", lambda p: p.opened(p.path, os.O_RDONLY),
         lambda p: p.refused("openat", p.opened(p.path, os.O_RDONLY))),
    Case("openat", "to make one", lambda p: p.opened(p.folder / "new", os.O_RDWR | os.O_CREAT)),
    Case("openat", "FIFO", None, lambda p: p.half_open(os.O_WRONLY, p.reader_comes)),
    Case("openat", "FIFO", None, lambda p: p.half_open(os.O_RDONLY, p.writer_comes)),
    Case("close", "", lambda p: fs.File.open(p.path).close),
    Case("close", "written to", lambda p: p.written().close),
    Case("close", "large and nameless",
         lambda p: (p.path.write_bytes(bytes(LARGE)), p.nameless().close)[1]),
    Case("statx", "", lambda p: functools.partial(fs.stat, p.path),
         lambda p: p.refused("statx", functools.partial(fs.stat, p.path))),
    *(Case(kind, "", lambda p, c=call: c(p.file())) for kind, call in ON_FILES.items()),
    Case("ftruncate", "before Linux 6.9", lambda p: ON_FILES["ftruncate"](p.file())),
    Case("flock", "", lambda p: p.file().lock, lambda p: p.locked().lock),
    *(Case(kind, "", call) for kind, call in PATHS.items()),
    Case("sendfile", "", lambda p: p.send_file(100_000)),
    Case("sendfile", "short and cached", lambda p: p.send_file(1000)),
    Case("timeout", "", None, Place.sleep_until),
    Case("lseek", "", lambda p: _call("seek_to", 5)(p.file())),
    Case("lseek", "for data or a hole", lambda p: _call("moved", 0, os.SEEK_DATA)(p.file())),
    Case("copy_range", "", Place.copied),
]


# ---- what the page says ----


class Part(NamedTuple):
    first: str
    otherwise: str | None  # where the first would have to wait
    crowded: str | None    # where there is no thread left for that


def parts_of(cell: str) -> dict[str, Part]:
    """By the condition that stands before the colon; "": none."""
    found = {}
    for part in cell.split("; "):
        conditions, _, ways = part.rpartition(": ")
        first, _, otherwise = ways.partition(", else ")
        otherwise, _, crowded = (otherwise or first).partition(" or ")
        first = first.partition(" or ")[0]
        assert {first, otherwise, *(crowded or first).split(", then ")} <= set(WAYS), cell
        for condition in conditions.split(", "):
            found[condition] = Part(first, otherwise, crowded or None)
    return found


def table() -> dict[str, dict[str, dict[str, Part]]]:
    """By operation, engine and condition."""
    text = PAGE.read_text()
    lines = text[text.index("| operation |") :].split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    found = {}
    for name, *row in rows[2:]:
        cells = dict(zip(rows[0][1:], row, strict=True))
        for engine, cell in cells.items():
            if reference := re.fullmatch(r"as (\w+)", cell):
                cells[engine] = cells[reference[1]]
        found[name] = {engine: parts_of(cell) for engine, cell in cells.items()}
    return found


TABLE = table()


def part_for(case: Case, engine: str) -> Part:
    parts = TABLE[case.operation][engine]
    part = parts.get(case.condition) or parts.get("")
    assert part is not None, f"{case.operation} on {engine} says nothing of {case.condition!r}"
    return part


# ---- what is done ----


class Way(NamedTuple):
    taken: str
    was_seen_waiting: bool | None


def way_of(place: Place, call: Call, operation: str) -> Way:
    before = statistics()
    place.in_flight = before["operations_in_flight"]
    call()
    now = statistics()
    done = {name: now[name] - before[name] for name in ("to_workers", "to_waiters", "sqes", "cqes")}
    waits = place.was_seen_waiting
    if done["to_workers"]:
        assert not done["to_waiters"]
        taken = "worker"
    elif done["to_waiters"]:
        taken = "waiter"
    elif done["sqes"]:
        taken = "ring"
    elif not waits:
        assert not done["cqes"]
        taken = "at once"
    elif operation == "timeout":
        taken = "clock"
    else:
        taken = "crowd" if now["backend"] == "threads" else "ready"
    return Way(taken, waits)


def do(run: Run, folder: Path, case: Case, make: Callable[[Place], Call]) -> Way:
    def main() -> Way:
        with ExitStack() as stack:
            place = Place(folder, stack)
            return way_of(place, make(place), case.operation)

    way: Way = run(main)
    return way


def _ids(case: Case) -> str:
    return f"{case.operation} {case.condition}".strip()


@pytest.fixture
def kernel(case: Case, request: pytest.FixtureRequest) -> None:
    if case.condition == "before Linux 6.9":
        request.getfixturevalue("hidden_operations")(FTRUNCATE)


def writes_now(folder: Path) -> bool:
    """Whether the file system can attempt a write."""
    with open(folder / "attempt", "wb") as file:
        try:
            return os.pwritev(file.fileno(), [DATA], 0, os.RWF_NOWAIT) > 0
        except OSError:
            return False


def _can_try(case: Case, folder: Path) -> bool:
    return case.operation not in ("write", "writev") or case.condition != "disk" \
        or writes_now(folder)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("case", [case for case in CASES if case.now], ids=_ids)
@pytest.mark.one_thread("its counters are the loop's own")
def test_what_need_not_wait_is_done_as_the_table_says(
    run: Run, engine: str, tmp_path: Path, case: Case
) -> None:
    assert case.now
    part = part_for(case, engine)
    stated = part.first if _can_try(case, tmp_path) else part.otherwise
    assert do(run, tmp_path, case, case.now).taken == stated


@pytest.mark.parametrize("case", [case for case in CASES if case.later], ids=_ids)
@pytest.mark.one_thread("its counters are the loop's own")
def test_what_has_to_wait_does_it_as_the_table_says(
    run: Run, engine: str, tmp_path: Path, case: Case
) -> None:
    assert case.later
    way = do(run, tmp_path, case, case.later)
    assert way.was_seen_waiting is not False
    assert way.taken == part_for(case, engine).otherwise


@contextmanager
def no_thread_left() -> Iterator[None]:
    """All threads that may wait do so, which is one."""
    sock, other = std.socketpair()
    with other, ferrule.socket.socket(fileno=sock.detach()) as mine:
        task = ferrule.spawn(mine.recv, 1)
        settle()
        assert statistics()["to_waiters"] == 1
        yield
        other.send(b"!")
        task.join()


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.later and part_for(case, "threads").crowded], ids=_ids
)
@pytest.mark.one_thread("its counters are the loop's own")
def test_what_finds_no_thread_waits_as_the_table_says(
    run: Run, engine: str, tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowded = part_for(case, engine).crowded
    if crowded is None:
        pytest.skip("it needs no thread")
    monkeypatch.setenv("FERRULE_WAITING_THREADS", "1")

    def main() -> None:
        with no_thread_left(), ExitStack() as stack:
            place = Place(tmp_path, stack)
            assert case.later
            way = way_of(place, case.later(place), case.operation)
            assert way == Way(crowded.rpartition(", then ")[2], True)

    run(main)


def test_every_part_of_the_table_has_a_case() -> None:
    done = {(case.operation, case.condition) for case in CASES}
    stated = {(operation, condition) for operation, cells in TABLE.items()
              for parts in cells.values() for condition in parts}
    assert stated == done
    for operation, cells in TABLE.items():
        for engine, parts in cells.items():
            for condition, part in parts.items():
                cases = [case for case in CASES if case[:2] == (operation, condition)]
                if part.first != part.otherwise:
                    assert any(case.now for case in cases), f"{operation} at once on {engine}"
                    assert any(case.later for case in cases), f"{operation} later on {engine}"


# ---- faults ----


def failure_of(call: Call) -> int | None:
    """The errno with which it failed, as an exception or as a row's negative result."""
    try:
        result = call()
    except OSError as exc:
        return exc.errno
    return -result if isinstance(result, int) and result < 0 else None


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if (case.now and case.condition != "short and cached")
     or case.operation == "timeout"],
    ids=_ids,
)
def test_a_fault_that_is_planned_for_an_operation_comes(
    run: Run, tmp_path: Path, case: Case
) -> None:
    def main() -> None:
        with ExitStack() as stack:
            make = case.now or case.later
            assert make
            call = make(Place(tmp_path, stack))
            inject(case.operation, 1, error=errno.EIO)
            assert failure_of(call) == errno.EIO

    run(main)


def test_a_fault_comes_to_the_open_that_waits_for_a_fifos_other_end(
    run: Run, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")

    def main() -> None:
        inject("openat", 2, error=errno.EIO)  # the first attempt does not wait
        with pytest.raises(OSError) as caught:
            fs.File.open(tmp_path / "fifo", os.O_RDONLY)
        assert caught.value.errno == errno.EIO

    run(main)


def test_a_fault_that_is_planned_for_access_makes_it_say_no(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        assert fs.access(tmp_path, os.R_OK)
        inject("faccessat", 1, error=errno.EIO)
        assert not fs.access(tmp_path, os.R_OK)
        assert fs.access(tmp_path, os.R_OK)

    run(main)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.operation in ("recv", "send", "copy_range")
     or (case.operation in ("read", "write") and case.condition in ("pipe", "socket"))],
    ids=_ids,
)
def test_an_operation_comes_as_short_as_is_planned(run: Run, tmp_path: Path, case: Case) -> None:
    def main() -> None:
        with ExitStack() as stack:
            assert case.now
            call = case.now(Place(tmp_path, stack))
            inject(case.operation, 1, shorten_to=3)
            inject(case.operation, 2, error=errno.EIO)  # of a write, which goes on
            result = call()
            assert result == 3 or (isinstance(result, bytes) and len(result) == 3)

    run(main)
