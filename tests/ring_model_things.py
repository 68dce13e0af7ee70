"""What the operations of the model of rings are given, and what they work on.

Byte n of a stream is the same wherever it is read, a packet carries its number, a block of a file
has one writer at a time: so what arrives can be judged in whatever order it comes.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import struct
import tempfile
import time
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ferrule.ring import CQE, BufferRingFlags, Ring

if TYPE_CHECKING:
    from ring_model_operations import Operation

PATTERN = random.Random(0).randbytes(65521)
TRIPLE = PATTERN * 3
CANARY = 0xEE
BLOCK = 64
BLOCKS = 16


def stream_bytes(start: int, size: int) -> bytes:
    start %= len(PATTERN)
    return TRIPLE[start : start + size]


# ---- what operations are given ----------------------------------------------------------------


class Token:
    """A user_data that leads to its operation, which knows it only weakly."""

    itself: Token | None = None  # in a cycle only the GC finds it

    def __init__(self, op: Operation) -> None:
        self.op = op


class Memory(bytearray):
    """A buffer that can be watched."""


def locked(memory: Memory) -> bool:
    try:
        memory.append(0)
    except BufferError:
        return True
    del memory[-1:]
    return False


class Lent:
    """A window of a buffer, lent to an operation; what is written beside it shows."""

    def __init__(self, rnd: random.Random, size: int, content: bytes | None = None) -> None:
        self.start = rnd.choice((0, 0, 0, 5))
        self.size, self.content = size, content
        data = bytes([CANARY]) * size if content is None else content
        edge = bytes([CANARY]) * self.start
        self.memory: Memory | None = Memory(edge + data + edge)
        self.watch = weakref.ref(self.memory)

    def argument(self) -> Any:
        assert self.memory is not None
        if not self.start:
            return self.memory
        return memoryview(self.memory)[self.start : self.start + self.size]

    def forget(self) -> None:
        """From here on only the operation keeps the buffer alive."""
        self.memory = None

    def check_lent(self) -> None:
        memory = self.watch()
        assert memory is not None, "a buffer in flight was freed"
        assert locked(memory), "a buffer in flight can be resized"

    def check_back(self) -> None:
        memory = self.watch()
        if self.memory is None:
            assert memory is None, "a buffer outlives its operation"
        else:
            assert not locked(self.memory), "a buffer is still exported after its operation"

    def taken(self, size: int) -> bytes | None:
        """The first `size` bytes, which the kernel wrote; the rest must be as it was."""
        if self.memory is None:
            return None
        end = self.start + size
        left = self.memory[: self.start] + self.memory[end:]
        assert left.count(CANARY) == len(left), "bytes were written outside the result"
        return bytes(self.memory[self.start : end])

    def check_untouched(self) -> None:
        if self.memory is not None and self.content is not None:
            kept = self.memory[self.start : self.start + self.size]
            assert kept == self.content, "a buffer that was only written from has changed"


class Fixed:
    """A registered buffer, which one operation at a time uses."""

    SIZE = 6000

    def __init__(self, memory: Memory, made: Any) -> None:
        self.memory, self.made = memory, made
        self.user: Operation | None = None

    def check(self) -> None:
        if self.made.registered or self.user is not None:
            assert locked(self.memory), "a registered buffer can be resized"
        else:
            assert not locked(self.memory), "a buffer is still exported, but not registered"


class LentFixed(Lent):
    """A window of a registered buffer."""

    def __init__(self, fixed: Fixed, start: int, size: int, content: bytes | None) -> None:
        self.fixed, self.start, self.size, self.content = fixed, start, size, content
        self.memory = fixed.memory
        self.watch = weakref.ref(fixed.memory)
        self.memory[start : start + size] = content or bytes([CANARY]) * size

    def argument(self) -> Any:
        return self.fixed.made[self.start : self.start + self.size]

    def forget(self) -> None:
        pass

    def check_back(self) -> None:
        pass

    def taken(self, size: int) -> bytes:
        end = self.start + size
        left = self.fixed.memory[end : self.start + self.size]
        assert left.count(CANARY) == len(left), "bytes were written outside the result"
        return bytes(self.fixed.memory[self.start : end])


# ---- what operations work on ------------------------------------------------------------------


class Direction:
    """One way through a pipe or a pair of sockets."""

    def __init__(self, channel: Channel, reader: Any, writer: Any) -> None:
        self.channel, self.reader, self.writer = channel, reader, writer
        self.ended = False  # the writing side was shut down

    def __str__(self) -> str:
        place = self.channel.directions.index(self)
        return f"{type(self).__name__}{self.channel.number}.{place}"

    def hang_up(self) -> None:
        self.ended = True
        if isinstance(self.writer, socket.socket):
            self.writer.shutdown(socket.SHUT_WR)
        else:
            self.writer.close()


class Stream(Direction):
    """Bytes in order: one operation at a time reads, and one writes."""

    def __init__(self, channel: Channel, reader: Any, writer: Any) -> None:
        super().__init__(channel, reader, writer)
        self.written = self.read = 0
        self.reading: Operation | None = None
        self.writing: Operation | None = None

    def may_read(self) -> bool:
        return self.reading is None

    def may_write(self) -> bool:
        return self.writing is None and not self.ended

    def content(self, size: int) -> bytes:
        return stream_bytes(self.written, size)

    def sent(self, content: bytes, size: int) -> None:
        self.written += size

    def unsent(self, content: bytes) -> None:
        pass

    def received(self, size: int, data: bytes | None, room: int) -> None:
        if self.channel.lost:
            return
        on_the_way = len(self.writing.content) if self.writing is not None else 0
        assert size <= self.written + on_the_way - self.read, "more was read than was written"
        assert data is None or data == stream_bytes(self.read, size), "other bytes were read"
        assert size or not room or self.ended, "an end was read, but the other side is open"
        self.read += size

    def check_rest(self) -> None:
        """Nothing was lost: what is left is what was not read."""
        until = time.monotonic() + 2
        while True:
            data = read_now(self.reader, 1 << 16)
            expected = stream_bytes(self.read, len(data))
            assert data == expected, f"other bytes are left in {self}"
            self.read += len(data)
            if self.read == self.written or time.monotonic() > until:
                break  # TCP may take a moment
        assert self.read == self.written, f"bytes of {self} were lost"


class Packets(Direction):
    """Numbered packets: any number of operations at once, in any order."""

    last = 0

    def __init__(self, channel: Channel, reader: Any, writer: Any) -> None:
        super().__init__(channel, reader, writer)
        self.travelling: dict[int, bytes] = {}  # maybe sent, and not seen yet
        self.certain: set[int] = set()  # of them: sent
        self.unseen = 0  # received into buffers that were dropped before

    def may_read(self) -> bool:
        return True

    def may_write(self) -> bool:
        return not self.ended

    def content(self, size: int) -> bytes:
        Packets.last += 1
        content = struct.pack("I", self.last) + stream_bytes(self.last * 7, size)
        self.travelling[self.last] = content
        return content

    def sent(self, content: bytes, size: int) -> None:
        assert size == len(content), "a packet was sent in part"
        (number,) = struct.unpack_from("I", content)
        if number in self.travelling:
            self.certain.add(number)

    def unsent(self, content: bytes) -> None:
        (number,) = struct.unpack_from("I", content)
        found = self.travelling.pop(number, None)
        assert found or self.channel.lost, "a packet that was not sent was received"

    def received(self, size: int, data: bytes | None, room: int) -> None:
        if self.channel.lost:
            return
        if data is None:
            self.unseen += size > 0
            return
        if not data:
            assert self.ended, "an empty packet"
            return
        (number,) = struct.unpack_from("I", data)
        content = self.travelling.pop(number, None)
        assert content is not None, f"packet {number} was never sent, or came twice"
        assert data == content[:room], "a packet has changed"
        self.certain.discard(number)

    def check_rest(self) -> None:
        while data := read_now(self.reader, 512):
            self.received(len(data), data, 512)
        assert len(self.certain) <= self.unseen, f"packets were lost: {self.certain}"


def is_open(file: Any) -> bool:
    return file.fileno() >= 0 if isinstance(file, socket.socket) else not file.closed


def ready(file: Any, event: int) -> bool:
    poll = select.poll()
    poll.register(file, event)
    return bool(poll.poll(0))


def read_now(file: Any, size: int) -> bytes:
    """One read that does not wait."""
    if isinstance(file, socket.socket):
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            return file.recv(size, socket.MSG_DONTWAIT)
    elif ready(file, select.POLLIN):
        return os.read(file.fileno(), size)
    return b""


def write_now(file: Any, data: bytes) -> int:
    """One write that does not wait; up to 256 bytes."""
    if isinstance(file, socket.socket):
        with contextlib.suppress(BlockingIOError):
            return file.send(data, socket.MSG_DONTWAIT)
    elif ready(file, select.POLLOUT):
        return os.write(file.fileno(), data)
    return 0


class Channel:
    """Open files that belong together."""

    made = 0

    def __init__(self, ends: Iterable[Any], kind: type[Direction] | None = None) -> None:
        Channel.made += 1
        self.number = Channel.made
        self.ends = list(ends)
        self.closed = False
        self.lost = False  # an operation on it ended unseen: nothing is known any more
        self.directions: list[Any] = []
        if kind is not None:
            first, second = self.ends
            self.directions.append(kind(self, first, second))
            if isinstance(first, socket.socket):
                self.directions.append(kind(self, second, first))

    def close(self) -> None:
        self.closed = True
        for direction in self.directions:
            direction.ended = True
        for end in self.ends:
            if isinstance(end, socket.socket) and end.family == socket.AF_INET and is_open(end):
                # No trace of it may stay: there are many.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()

    def check_rest(self) -> None:
        for direction in self.directions:
            direction.check_rest()

    def __str__(self) -> str:
        return f"{type(self).__name__}{self.number}"


def new_pipe() -> Channel:
    reader, writer = os.pipe()
    return Channel((open(reader, "rb", 0), open(writer, "wb", 0)), Stream)


def new_pair() -> Channel:
    return Channel(socket.socketpair(), Stream)


def new_tcp() -> Channel:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return Channel((client, listener.accept()[0]), Stream)


def new_packets() -> Channel:
    return Channel(socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET), Packets)


class Disk(Channel):
    """A file of blocks, each with what it contains, and who reads and writes it now."""

    def __init__(self) -> None:
        fd, self.path = tempfile.mkstemp()
        super().__init__([open(fd, "r+b", 0)])  # noqa: SIM115 - close() closes it
        self.blocks = [stream_bytes(n, BLOCK) for n in range(BLOCKS)]
        self.readers = [0] * BLOCKS
        self.writers = [0] * BLOCKS
        os.pwrite(fd, b"".join(self.blocks), 0)

    def close(self) -> None:
        super().close()
        os.unlink(self.path)

    def check_rest(self) -> None:
        found = os.pread(self.ends[0].fileno(), BLOCK * BLOCKS + 1, 0)
        wrong = [n for n in range(BLOCKS) if found[n * BLOCK :][:BLOCK] != self.blocks[n]]
        assert not wrong, f"blocks {wrong} of {self} are not what was written"


class Listener(Channel):
    count = 0

    def __init__(self) -> None:
        Listener.count += 1
        self.address = b"\0ferrule-fuzz-%d-%d" % (os.getpid(), Listener.count)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.address)
        listener.listen(64)
        super().__init__([listener])
        self.connections = 0  # made or being made, and not accepted

    def connect(self) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):  # the backlog is full
                client.connect(self.address)
                self.connections += 1

    def check_rest(self) -> None:
        pass


class Group:
    """A BufferRing, which of its buffers are ours, and in which order the kernel has the others."""

    def __init__(self, ring: Ring, entries: int, size: int, bgid: int, flags: int) -> None:
        self.made = ring.register_buf_ring(entries, size, bgid, flags)
        self.entries, self.size = entries, size
        self.incremental = bool(flags & BufferRingFlags.INC)
        self.ours: set[int] = set()
        self.order = list(range(entries))
        self.added = entries  # ever

    def arrived(self, cqe: CQE) -> bytes:
        """The data of a completion; the buffers that ended with it are ours."""
        bid = cqe.buffer_id
        assert bid in self.order, f"buffer {bid} came twice"
        views = self.made.views(cqe) if cqe.res > 0 else []
        assert self.incremental or not cqe.buffer_more
        first = self.order.index(bid)
        ended = self.order[first : first + max(len(views), 1) - cqe.buffer_more]
        assert not self.ours.intersection(ended)
        self.ours.update(ended)
        self.order = [bid for bid in self.order if bid not in ended]
        return b"".join(bytes(view) for view in views)

    def recycle(self, rnd: random.Random) -> None:
        back = rnd.sample(sorted(self.ours), rnd.randint(0, len(self.ours)))
        if rnd.random() < 0.5:
            self.made.recycle(*back)
        else:
            for bid in back:
                self.made.add(bid)
            assert self.made.advance() == len(back)
        self.ours.difference_update(back)
        self.returned(back)

    def returned(self, bids: list[int]) -> None:
        self.added += len(bids)
        self.order += bids

    def find_unseen(self) -> None:
        """Give those back that came with completions nobody looked at."""
        found = []
        for bid in self.order:
            with contextlib.suppress(ValueError):
                self.made.add(bid)
                found.append(bid)
        self.made.advance()
        self.order = [bid for bid in self.order if bid not in found]
        self.returned(found)

    def check(self) -> None:
        if not self.made.closed:
            assert self.made.available() == self.entries - len(self.ours), "a buffer got lost"

    def check_settled(self) -> None:
        """Nothing is on its way: the kernel has every buffer that is not ours."""
        if not self.made.closed:
            kept = (self.added - self.made.head()) & 0xFFFF
            assert kept == len(self.order), f"the kernel has {kept} buffers, not {self.order}"
