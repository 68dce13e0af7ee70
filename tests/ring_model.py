"""A model of rings: what each operation may come to, what it moves, and what it holds until then.

It knows what was asked and what io_uring promises, and nothing of how the binding does it.  Byte n
of a stream is the same wherever it is read, a packet carries its number, a block of a file has one
writer at a time: so every result can be judged, in whatever order results come.

Whatever breaks a promise raises AssertionError.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import random
import select
import socket
import struct
import tempfile
import time
import traceback
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from ferrule.ring import (
    CQE,
    SQE,
    BufferRingFlags,
    CancelFlags,
    Op,
    RecvSendFlags,
    Ring,
    SetupFlags,
    SqeFlags,
    SubmissionQueueFull,
    TimeoutFlags,
    leaked_operations,
)

PATTERN = random.Random(0).randbytes(65521)
TRIPLE = PATTERN * 3
CANARY = 0xEE
BLOCK = 64
BLOCKS = 16
MESSAGES = 1 << 40  # numbers from here on are messages between rings, below are user_data
NEW, QUEUED, SUBMITTED, DONE = "new", "queued", "submitted", "done"


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


# ---- operations -------------------------------------------------------------------------------


class Operation:
    """One operation, from prep to its last completion."""

    channel: Channel | None = None
    method = "prep_nop"
    multishot = False
    errors: frozenset[int] = frozenset()
    wanted: int | None = None  # a smaller result breaks a link; None: not known
    late = False  # a kernel thread looks up what it works on
    may_hide = False  # its success may be skipped: the model knows what that means

    def __init__(self, model: RingModel) -> None:
        self.model = model
        self.number = model.world.next_number()
        self.state = NEW
        self.lent: list[Lent] = []
        self.content = b""
        self.group: Group | None = None
        self.fixed: Fixed | None = None
        self.watch: weakref.ref[Token] | None = None  # of its user_data
        self.value: object = None  # its user_data, if that is not a Token
        self.sqe: SQE | None = None
        self.key = self.opcode = 0
        self.index: int | None = None  # its file, if that is a registered one
        self.flags = SqeFlags(0)
        self.exposed = False  # something may cancel it
        self.before: Operation | None = None  # in its chain
        self.behind: list[Operation] = []
        self.in_broken_chain = False  # the kernel refuses one of the chain before it starts
        self.cancels: list[Cancel] = []  # that claim to have cancelled it
        self.result: int | None = None
        self.since = 0.0

    def arguments(self) -> tuple[Any, ...]:
        return ()

    def adjust(self, sqe: SQE) -> None:
        """Set what the prep_ method does not."""

    def acquire(self) -> None:
        """It is about to be prepared."""

    def release(self) -> None:
        """It has ended, or was not prepared after all."""

    def succeed(self, cqe: CQE) -> None:
        assert cqe.res == 0, f"unexpected result {cqe.res}"

    def succeed_hidden(self) -> None:
        """It succeeded; that was not delivered, as asked."""

    def fail(self) -> None:
        """It did nothing: it failed, or never began."""

    def vanish(self) -> None:
        """It ended, and nobody saw how."""

    def allowed(self) -> frozenset[int]:
        return self.errors

    def may_vanish(self) -> bool:
        """Whether its completion may be thrown away unseen: nothing is lost but the result."""
        token = None if self.watch is None else self.watch()
        partly = self.group is not None and self.group.incremental
        return token is not None and token.itself is None and not partly

    def may_cancel(self, op: Operation) -> bool:
        return False

    @property
    def hidden(self) -> bool:
        return bool(self.flags & SqeFlags.CQE_SKIP_SUCCESS)

    def begun(self) -> bool:
        """Whether the kernel has looked up what it works on: numbers may be reused now."""
        return (
            self.state is SUBMITTED
            and not (self.before or self.model.drains or self.late)
            and not self.flags & SqeFlags.ASYNC
            and not (self.model.sqpoll and self.model.ring.sq_ready())
        )

    def judge(self, cqe: CQE) -> None:
        if cqe.res >= 0:
            assert not self.hidden, "a success that was to be skipped was delivered"
            self.succeed(cqe)
        else:
            self.judge_error(-cqe.res)
            if self.group is not None and cqe.buffer_id is not None:
                self.group.arrived(cqe)  # an operation that failed can have used a buffer up
            self.fail()
        if cqe.more:
            assert self.multishot, "more completions were announced"
        elif self not in self.model.nameless:
            self.result = cqe.res

    def judge_error(self, error: int) -> None:
        if error == errno.ECANCELED:
            assert self.exposed or self.before or self.in_broken_chain, "nobody cancelled it"
        elif error == errno.EINTR:
            assert self.exposed, "nobody interrupted it"
        else:
            assert error in self.allowed(), f"unexpected error {errno.errorcode.get(error, error)}"

    def broke(self) -> bool | None:
        """Whether its result ended the chain; None: not known."""
        if self.result is None or (self.wanted is None and self.result >= 0):
            return None
        return self.result < (self.wanted or 0)

    def check_link(self) -> None:
        first = self.before
        if first is None or self.in_broken_chain or None in (self.result, first.result):
            return
        broke = first.broke()
        if broke and first.flags & SqeFlags.IO_LINK:
            assert self.result == -errno.ECANCELED, "it ran after a broken link"
        elif broke is False and self.result == -errno.ECANCELED:
            assert self.exposed, "it was cancelled behind an unbroken link"

    def __str__(self) -> str:
        return f"{type(self).__name__}#{self.number}"


class Nop(Operation):
    wanted = 0
    may_hide = True


class Blank(Nop):
    """An SQE that no prep_ method has filled yet."""

    method = "get_sqe"


class BadOpcode(Operation):
    """Refused before anything of its chain starts."""

    errors = frozenset({errno.EINVAL})

    def adjust(self, sqe: SQE) -> None:
        sqe.opcode = 200

    def succeed(self, cqe: CQE) -> None:
        raise AssertionError("there is no such operation")


class BadDescriptor(Operation):
    """Nothing is open under that number; the kernel says so when it gets there."""

    errors = frozenset({errno.EBADF})
    method = "prep_fsync"

    def arguments(self) -> tuple[Any, ...]:
        return (1_000_000,)

    def succeed(self, cqe: CQE) -> None:
        raise AssertionError("there is no such file")


class OnFile(Operation):
    """An operation on one of a channel's files, as a descriptor, an object or a registered one."""

    def __init__(self, model: RingModel, rnd: random.Random, channel: Channel, file: Any) -> None:
        super().__init__(model)
        self.channel = channel
        self.index = model.index_of(file) if rnd.random() < 0.5 else None
        self.file = model.world.disguised(file) if self.index is None else self.index

    def adjust(self, sqe: SQE) -> None:
        if self.index is not None:
            sqe.use_registered_fd()

    def pieces(self, rnd: random.Random, size: int, content: bytes | None) -> None:
        """The buffers: one, or for a vectored method several; registered ones for some."""
        cuts = {0, size}
        if self.vectored:
            cuts.update(rnd.randint(0, size) for _ in range(rnd.randint(0, 2)))
        spans = [*itertools.pairwise(sorted(cuts))] or [(0, 0)]
        contents = [None if content is None else content[slice(*span)] for span in spans]
        if self.fixable and 0 < size <= Fixed.SIZE:
            self.fixed = self.model.some_fixed(rnd)
        if self.fixed is None:
            self.lent = [
                Lent(rnd, end - start, part)
                for (start, end), part in zip(spans, contents, strict=True)
            ]
            return
        self.method += "_fixed"
        self.lent = [
            LentFixed(self.fixed, start, end - start, part)
            for (start, end), part in zip(spans, contents, strict=True)
        ]

    @property
    def fixable(self) -> bool:
        return self.method in (
            "prep_read", "prep_readv", "prep_write", "prep_writev", "prep_send_zc",
            "prep_sendmsg_zc",
        )

    @property
    def vectored(self) -> bool:
        words = self.method.split("_")
        return words[1] in ("readv", "writev", "recvmsg", "sendmsg")

    def acquire(self) -> None:
        if self.fixed is not None:
            self.fixed.user = self

    def release(self) -> None:
        for lent in self.lent:
            lent.check_untouched()
        if self.fixed is not None:
            self.fixed.user = None

    def buffers(self) -> Any:
        arguments = [lent.argument() for lent in self.lent]
        return arguments if self.vectored else arguments[0]

    def read_data(self, size: int) -> bytes | None:
        found = []
        for lent in self.lent:
            found.append(lent.taken(min(size, lent.size)))
            size -= min(size, lent.size)
        return None if None in found else b"".join(found)  # type: ignore[arg-type]

    def __str__(self) -> str:
        where = getattr(self, "direction", self.channel)
        index = "" if self.index is None else f"[{self.index}]"
        return f"{super().__str__()} {self.method[5:]} {where}{index}"


def some_flags(rnd: random.Random, direction: Direction) -> int:
    # WAITALL would join packets.
    whole = socket.MSG_WAITALL if isinstance(direction, Stream) else 0
    return rnd.choice((0, 0, 0, socket.MSG_DONTWAIT, whole))


class Receive(OnFile):
    def __init__(self, model: RingModel, rnd: random.Random, direction: Any) -> None:
        super().__init__(model, rnd, direction.channel, direction.reader)
        self.direction = direction
        packets = isinstance(direction, Packets)
        self.group = model.some_group(rnd, not packets) if rnd.random() < 0.4 else None
        self.op_flags = self.ioprio = 0
        self.choose_method(rnd)
        if self.group:
            self.size = self.group.size * (self.group.entries if self.ioprio else 1)
        else:
            self.size = 512 if packets else rnd.choice((0, 1, 7, 64, 300, 300, 5000))
            if self.method in ("prep_read", "prep_readv"):
                self.wanted = self.size
            self.pieces(rnd, self.size, None)

    def choose_method(self, rnd: random.Random) -> None:
        is_socket = isinstance(self.direction.reader, socket.socket)
        if self.group and is_socket and not isinstance(self.direction, Packets):
            self.ioprio = rnd.choice((0, RecvSendFlags.BUNDLE))
        if self.group and rnd.random() < 0.6:
            self.method = "prep_recv_multishot" if is_socket else "prep_read_multishot"
            self.multishot = True
        elif self.group and self.ioprio:
            self.method = "prep_recv"
        elif self.group:
            self.method = rnd.choice(("prep_recv", "prep_read")) if is_socket else "prep_read"
        else:
            methods = ("prep_read", "prep_readv", "prep_recv", "prep_recvmsg")
            self.method = rnd.choice(methods if is_socket else methods[:2])
        if self.method in ("prep_recv", "prep_recvmsg") and not self.group:
            self.op_flags = some_flags(rnd, self.direction)

    def arguments(self) -> tuple[Any, ...]:
        if self.multishot:
            assert self.group
            return self.file, self.group.made
        buffers = None if self.group else self.buffers()
        if self.method == "prep_recvmsg":
            return self.file, buffers, 0, self.op_flags
        if self.method == "prep_recv":
            return self.file, buffers, self.op_flags
        return self.file, buffers

    def adjust(self, sqe: SQE) -> None:
        super().adjust(sqe)
        if self.group and not self.multishot:
            sqe.buffer_select(self.group.made)
        if self.ioprio:
            sqe.ioprio |= self.ioprio

    def allowed(self) -> frozenset[int]:
        allowed = {errno.ECONNRESET} if self.direction.channel.closed else set()
        if self.op_flags & socket.MSG_DONTWAIT:
            allowed.add(errno.EAGAIN)
        if self.group:
            allowed.add(errno.ENOBUFS)
            if self.ioprio and self.group.made.closed:
                allowed.add(errno.ENOENT)
        return frozenset(allowed)

    def acquire(self) -> None:
        super().acquire()
        if isinstance(self.direction, Stream):
            self.direction.reading = self

    def release(self) -> None:
        super().release()
        if isinstance(self.direction, Stream) and self.direction.reading is self:
            self.direction.reading = None

    def succeed(self, cqe: CQE) -> None:
        assert cqe.res <= self.size, "more was received than there was room for"
        if self.method == "prep_recvmsg":
            assert cqe.message is not None
            assert (cqe.message.nbytes, cqe.message.ancdata) == (cqe.res, [])
        if self.group is None:
            data = self.read_data(cqe.res)
        elif cqe.buffer_id is None:
            assert cqe.res == 0, "data came without a buffer"
            data = b""
        else:
            data = self.group.arrived(cqe)
        self.direction.received(cqe.res, data, self.size)

    def vanish(self) -> None:
        self.direction.channel.lost = True


class Send(OnFile):
    def __init__(self, model: RingModel, rnd: random.Random, direction: Any) -> None:
        super().__init__(model, rnd, direction.channel, direction.writer)
        self.direction = direction
        sizes = (0, 1, 7, 64, 250, 250)
        if isinstance(direction, Stream):
            sizes += (5000, 100_000)
        self.content = direction.content(rnd.choice(sizes))
        self.choose_method(rnd)
        self.op_flags = 0
        if self.method.startswith("prep_send"):
            self.op_flags = some_flags(rnd, direction)
        else:
            self.wanted = len(self.content)
        self.may_hide = len(self.content) <= 256  # it is all sent or nothing
        self.pieces(rnd, len(self.content), self.content)

    def choose_method(self, rnd: random.Random) -> None:
        is_socket = isinstance(self.direction.writer, socket.socket)
        methods = ("prep_write", "prep_writev", "prep_send", "prep_sendmsg")
        self.method = rnd.choice(methods if is_socket else methods[:2])

    def arguments(self) -> tuple[Any, ...]:
        if self.method == "prep_sendmsg":
            return self.file, self.buffers(), (), self.op_flags
        if self.method == "prep_send":
            return self.file, self.buffers(), self.op_flags
        return self.file, self.buffers()

    def allowed(self) -> frozenset[int]:
        allowed = {errno.EPIPE, errno.ECONNRESET} if self.direction.channel.closed else set()
        if self.op_flags & socket.MSG_DONTWAIT:
            allowed.add(errno.EAGAIN)
        return frozenset(allowed)

    def acquire(self) -> None:
        super().acquire()
        if isinstance(self.direction, Stream):
            self.direction.writing = self

    def release(self) -> None:
        super().release()
        if isinstance(self.direction, Stream) and self.direction.writing is self:
            self.direction.writing = None

    def succeed(self, cqe: CQE) -> None:
        assert cqe.res <= len(self.content), "more was sent than was given"
        self.direction.sent(self.content, cqe.res)

    def succeed_hidden(self) -> None:
        self.direction.sent(self.content, len(self.content))

    def fail(self) -> None:
        self.direction.unsent(self.content)

    def vanish(self) -> None:
        self.direction.channel.lost = True


class SendZeroCopy(Send):
    """Its result is followed by a notification, until which the buffers are lent."""

    errors = frozenset({errno.ENOMEM, errno.ENOBUFS})

    def choose_method(self, rnd: random.Random) -> None:
        self.method = rnd.choice(("prep_send_zc", "prep_sendmsg_zc"))
        self.zc_flags = rnd.choice((0, RecvSendFlags.SEND_ZC_REPORT_USAGE))

    def arguments(self) -> tuple[Any, ...]:
        if self.vectored:
            return self.file, self.buffers(), (), self.op_flags, None, self.zc_flags
        return self.file, self.buffers(), self.op_flags, self.zc_flags

    def allowed(self) -> frozenset[int]:
        return super().allowed() | self.errors

    def may_vanish(self) -> bool:
        return False

    def judge(self, cqe: CQE) -> None:
        if cqe.notification:
            assert self.result is not None, "a notification before the result"
            assert not cqe.more
            assert cqe.copied is not None
            return
        self.multishot = True
        super().judge(cqe)
        self.result = cqe.res


class Blocks(OnFile):
    """Some blocks of a file that stand side by side."""

    channel: Disk

    def __init__(self, model: RingModel, rnd: random.Random, disk: Disk) -> None:
        super().__init__(model, rnd, disk, disk.ends[0])
        count = rnd.choice((1, 1, 1, 2, 4))
        first = rnd.randrange(BLOCKS - count + 1)
        self.range = range(first, first + count)
        self.wanted = BLOCK * count

    def arguments(self) -> tuple[Any, ...]:
        return self.file, self.buffers(), self.range[0] * BLOCK

    def __str__(self) -> str:
        return f"{super().__str__()} {self.range}"

    def succeed(self, cqe: CQE) -> None:
        assert cqe.res == self.wanted, "a file was read or written in part"


class ReadFile(Blocks):
    def __init__(self, model: RingModel, rnd: random.Random, disk: Disk) -> None:
        super().__init__(model, rnd, disk)
        self.method = rnd.choice(("prep_read", "prep_readv"))
        self.pieces(rnd, BLOCK * len(self.range), None)

    def possible(self) -> bool:
        return not any(self.channel.writers[n] for n in self.range)

    def acquire(self) -> None:
        super().acquire()
        for n in self.range:
            self.channel.readers[n] += 1

    def release(self) -> None:
        super().release()
        for n in self.range:
            self.channel.readers[n] -= 1

    def succeed(self, cqe: CQE) -> None:
        super().succeed(cqe)
        expected = b"".join(self.channel.blocks[n] for n in self.range)[: cqe.res]
        assert self.read_data(cqe.res) in (expected, None), "other blocks were read"


class WriteFile(Blocks):
    may_hide = True

    def __init__(self, model: RingModel, rnd: random.Random, disk: Disk) -> None:
        super().__init__(model, rnd, disk)
        self.method = rnd.choice(("prep_write", "prep_writev"))
        self.content = rnd.randbytes(BLOCK * len(self.range))
        self.pieces(rnd, len(self.content), self.content)

    def possible(self) -> bool:
        disk = self.channel
        return not any(disk.writers[n] or disk.readers[n] for n in self.range)

    def acquire(self) -> None:
        super().acquire()
        for n in self.range:
            self.channel.writers[n] += 1

    def release(self) -> None:
        super().release()
        for n in self.range:
            self.channel.writers[n] -= 1

    def succeed(self, cqe: CQE) -> None:
        super().succeed(cqe)
        self.succeed_hidden()

    def succeed_hidden(self) -> None:
        for place, n in enumerate(self.range):
            self.channel.blocks[n] = self.content[place * BLOCK : (place + 1) * BLOCK]

    def vanish(self) -> None:
        self.channel.lost = True


class Fsync(OnFile):
    method = "prep_fsync"
    late = True
    wanted = 0
    may_hide = True

    def arguments(self) -> tuple[Any, ...]:
        return (self.file,)


class Statx(Operation):
    channel: Disk
    method = "prep_statx"
    late = True
    wanted = 0

    def __init__(self, model: RingModel, disk: Disk) -> None:
        super().__init__(model)
        self.channel = disk

    def arguments(self) -> tuple[Any, ...]:
        return None, self.channel.path

    def succeed(self, cqe: CQE) -> None:
        super().succeed(cqe)
        assert cqe.stat is not None
        assert cqe.stat.st_size == BLOCK * BLOCKS


class Open(Statx):
    method = "prep_openat"

    def succeed(self, cqe: CQE) -> None:
        with open(cqe.res, "rb", 0) as file:
            assert os.path.sameopenfile(file.fileno(), self.channel.ends[0].fileno())

    def may_vanish(self) -> bool:
        return False

    def vanish(self) -> None:
        self.model.world.strays += self.model.leaks


class Close(Operation):
    """Of a descriptor that nothing else uses."""

    method = "prep_close"
    wanted = 0
    may_hide = True

    def __init__(self, model: RingModel) -> None:
        super().__init__(model)
        self.name = f"fuzz-close-{self.number}"
        self.fd = os.memfd_create(self.name)

    def arguments(self) -> tuple[Any, ...]:
        return (self.fd,)

    def is_open(self) -> bool:
        try:
            return os.readlink(f"/proc/self/fd/{self.fd}") == f"/memfd:{self.name} (deleted)"
        except FileNotFoundError:
            return False

    def succeed(self, cqe: CQE) -> None:
        super().succeed(cqe)
        assert not self.is_open()

    def fail(self) -> None:
        assert self.is_open()
        os.close(self.fd)

    def vanish(self) -> None:
        if self.is_open():
            os.close(self.fd)


class Accept(OnFile):
    channel: Listener

    def __init__(self, model: RingModel, rnd: random.Random, listener: Listener) -> None:
        super().__init__(model, rnd, listener, listener.ends[0])
        self.multishot = rnd.random() < 0.3
        self.method = "prep_multishot_accept" if self.multishot else "prep_accept"

    def arguments(self) -> tuple[Any, ...]:
        return self.file, socket.SOCK_CLOEXEC

    def succeed(self, cqe: CQE) -> None:
        with socket.socket(fileno=cqe.res) as made:
            assert made.getsockname() == self.channel.address
        assert cqe.address == (None if self.multishot else "")
        self.channel.connections -= 1
        assert self.channel.connections >= 0, "more connections than were made"

    def may_vanish(self) -> bool:
        return False

    def vanish(self) -> None:
        self.channel.lost = True
        self.model.world.strays += self.model.leaks


class Connect(Operation):
    channel: Listener
    method = "prep_connect"
    errors = frozenset({errno.EAGAIN, errno.ECONNREFUSED})
    wanted = 0
    may_hide = True

    def __init__(self, model: RingModel, listener: Listener) -> None:
        super().__init__(model)
        self.channel = listener
        self.client = socket.socket(socket.AF_UNIX)

    def arguments(self) -> tuple[Any, ...]:
        return self.client, self.channel.address

    def acquire(self) -> None:
        self.channel.connections += 1

    def release(self) -> None:
        self.client.close()

    def fail(self) -> None:
        self.channel.connections -= 1

    def vanish(self) -> None:
        self.channel.lost = True


class Poll(OnFile):
    ALWAYS = select.POLLERR | select.POLLHUP | select.POLLRDHUP

    def __init__(self, model: RingModel, rnd: random.Random, channel: Channel, file: Any) -> None:
        super().__init__(model, rnd, channel, file)
        self.multishot = rnd.random() < 0.4
        self.method = "prep_poll_multishot" if self.multishot else "prep_poll_add"
        self.mask = rnd.choice((select.POLLIN, select.POLLOUT, select.POLLIN | select.POLLOUT))

    def arguments(self) -> tuple[Any, ...]:
        return self.file, self.mask

    def succeed(self, cqe: CQE) -> None:
        assert cqe.res, "a poll that saw nothing"
        assert self.exposed or not cqe.res & ~(self.mask | self.ALWAYS), "nobody asked for that"


class Timeout(Operation):
    method = "prep_timeout"

    def __init__(self, model: RingModel, rnd: random.Random) -> None:
        super().__init__(model)
        self.seconds = rnd.choice((0.0, 0.0003, 0.002, 0.01, 30.0, 30.0))
        self.count = rnd.choice((0, 0, 0, 1, 3))
        self.op_flags = rnd.choice((0, 0, 0, TimeoutFlags.ETIME_SUCCESS))

    def arguments(self) -> tuple[Any, ...]:
        return self.seconds, self.count, self.op_flags

    def allowed(self) -> frozenset[int]:
        if not self.exposed:  # to a change, too
            assert time.monotonic() - self.since >= self.seconds, "a timeout ended too early"
        return frozenset({errno.ETIME})

    def succeed(self, cqe: CQE) -> None:
        super().succeed(cqe)
        assert self.count, "a timeout without a count succeeded"

    def lasting(self) -> bool:
        """Whether it must still be pending, while nothing cancels it."""
        return (
            self.state is SUBMITTED
            and self.seconds == 30.0
            and not (self.count or self.exposed or self.before or self.in_broken_chain)
        )

    def broke(self) -> bool | None:
        if self.result == -errno.ETIME and self.op_flags & TimeoutFlags.ETIME_SUCCESS:
            return False
        return super().broke()

    def __str__(self) -> str:
        return f"{super().__str__()} {self.seconds} s, {self.count}"


class LinkTimeout(Operation):
    method = "prep_link_timeout"
    # EINVAL: something submitted what it was to be linked to before it.
    errors = frozenset({errno.ETIME, errno.ENOENT, errno.EALREADY, errno.EINVAL})

    def __init__(self, model: RingModel, rnd: random.Random) -> None:
        super().__init__(model)
        self.seconds = rnd.choice((0.0, 0.0003, 0.01, 30.0))

    def arguments(self) -> tuple[Any, ...]:
        return (self.seconds,)

    def judge_error(self, error: int) -> None:
        assert error in {errno.ECANCELED, *self.errors}

    def check_link(self) -> None:
        pass


class Cancel(Operation):
    """Cancels one operation, of whatever state, named in one of three ways."""

    errors = frozenset({errno.ENOENT, errno.EALREADY})
    wanted = 0
    may_hide = True

    def __init__(self, model: RingModel, rnd: random.Random, target: Operation) -> None:
        super().__init__(model)
        self.target = target
        self.op_flags = rnd.choice((0, 0, CancelFlags.ALL))
        names: list[Any] = [target.key]
        if target.sqe is not None:
            names.append(target.sqe)
        if target.state is not DONE:
            data = target.value if target.watch is None else target.watch()
            names += [data] if data is not None else []
        name = rnd.choice(names)
        self.method = "prep_cancel64" if name is target.key else "prep_cancel"
        self.name = name

    def arguments(self) -> tuple[Any, ...]:
        name, self.name = self.name, None
        return name, self.op_flags

    def may_cancel(self, op: Operation) -> bool:
        return op.key == self.target.key  # of a prep on the same SQE, too

    def succeed(self, cqe: CQE) -> None:
        assert cqe.res <= bool(self.op_flags)
        if cqe.res or not self.op_flags:
            self.target.cancels.append(self)
            if self.target.state is DONE:
                self.check(self.target)

    def check(self, target: Operation) -> None:
        """It said that it cancelled `target`, which has ended."""
        if isinstance(target, Receive | Send) and target.op_flags and (target.result or 0) > 0:
            return  # what was done in part is told
        expected = (None, -errno.ECANCELED, -errno.EINTR)
        assert target.result in expected, f"it came to {target.result}"

    def __str__(self) -> str:
        return f"{super().__str__()} of {self.target}"


class CancelFile(OnFile):
    """Cancels everything on one file."""

    method = "prep_cancel_fd"

    def arguments(self) -> tuple[Any, ...]:
        fixed = 0 if self.index is None else CancelFlags.FD_FIXED
        return self.file, CancelFlags.ALL | fixed

    def adjust(self, sqe: SQE) -> None:
        pass

    def may_cancel(self, op: Operation) -> bool:
        return op.channel is self.channel

    def succeed(self, cqe: CQE) -> None:
        pass


class CancelMany(Operation):
    """Cancels whatever there is, or all of a kind."""

    method = "prep_cancel"

    def __init__(self, model: RingModel, kind: Op | None) -> None:
        super().__init__(model)
        self.kind = kind

    def arguments(self) -> tuple[Any, ...]:
        flags = CancelFlags.ALL | (CancelFlags.ANY if self.kind is None else 0)
        return None, flags, self.kind

    def may_cancel(self, op: Operation) -> bool:
        return self.kind in (None, op.opcode)

    def succeed(self, cqe: CQE) -> None:
        pass

    def __str__(self) -> str:
        return f"{super().__str__()} {'' if self.kind is None else self.kind.name}"


class Change(Cancel):
    """Ends or changes a poll or a timeout."""

    def __init__(self, model: RingModel, rnd: random.Random, target: Poll | Timeout) -> None:
        super().__init__(model, rnd, target)
        self.op_flags = 0
        kind = "poll" if isinstance(target, Poll) else "timeout"
        self.method = f"prep_{kind}_{rnd.choice(('remove', 'update'))}"
        if self.name is target.key:
            self.name = target.sqe if target.sqe is not None else "nobody"
        self.seconds = rnd.choice((0.0, 0.001, 30.0))

    def arguments(self) -> tuple[Any, ...]:
        name, self.name = self.name, None
        if self.method == "prep_poll_update":
            return name, select.POLLIN | select.POLLOUT, self.target.multishot
        if self.method == "prep_timeout_update":
            return name, self.seconds
        return (name,)

    def succeed(self, cqe: CQE) -> None:
        assert cqe.res == 0


class Message(Operation):
    """Posts a completion into a ring."""

    method = "prep_msg_ring"
    errors = frozenset({errno.EOVERFLOW})
    wanted = 0
    may_hide = True
    may_be_lost = False  # in what the receiver threw away unseen

    def __init__(self, model: RingModel, rnd: random.Random, to: RingModel) -> None:
        super().__init__(model)
        self.to = to
        self.data = MESSAGES + self.number
        self.res = rnd.randrange(1 << 31)
        self.target: Any = to.ring
        # What seems to be the completion of an operation that has ended must be nobody's.
        old_keys = [op.key for op in to.ended if op.key not in to.expected]
        self.stale = bool(old_keys) and rnd.random() < 0.4
        if self.stale:
            self.data, self.target = rnd.choice(old_keys), to.ring.fd

    def arguments(self) -> tuple[Any, ...]:
        target, self.target = self.target, None
        return target, self.res, self.data

    def acquire(self) -> None:
        self.to.expected[self.data] = self

    def fail(self) -> None:
        found = self.to.expected.pop(self.data, None)
        assert found or self.may_be_lost, "a message that was not sent has arrived"

    def arrived(self, cqe: CQE) -> None:
        assert cqe.res == self.res, "a message has changed"
        assert cqe.opcode == Op.NOP
        self.to.unmatched += self.stale

    def __str__(self) -> str:
        return f"{super().__str__()} to {self.to}{', as an operation that ended' * self.stale}"


# ---- rings ------------------------------------------------------------------------------------

LINKS = SqeFlags.IO_LINK | SqeFlags.IO_HARDLINK


def mark_chains(batch: list[Operation]) -> None:
    """What is linked to what, when these are submitted together."""
    chain: list[Operation] = []
    for place, op in enumerate(batch):
        chain.append(op)
        if op.flags & LINKS and place + 1 < len(batch):
            continue
        chain[0].late |= bool(op.flags & LINKS)  # without an end it goes to a kernel thread
        broken = isinstance(chain[0], LinkTimeout) or any(isinstance(op, BadOpcode) for op in chain)
        for first, second in itertools.pairwise(chain):
            second.before = first
            first.behind.append(second)
            first.exposed |= isinstance(second, LinkTimeout)
        for op in chain:
            op.in_broken_chain |= broken
        chain = []


class RingModel:
    """One ring, what is queued and in flight in it, and what its counters must say."""

    def __init__(self, world: Any, name: str, entries: int, options: dict[str, Any]) -> None:
        self.world, self.name = world, name
        self.entries, self.options = entries, options
        self.ring: Any = Ring(entries, **options)
        self.sqpoll = bool(self.ring.flags & SetupFlags.SQPOLL)
        self.bound = bool(self.ring.flags & SetupFlags.SINGLE_ISSUER)  # to this thread
        self.queue: list[Operation] = []
        self.outstanding: dict[Operation, None] = {}
        self.nameless: list[Operation] = []  # with None as user_data
        self.values: dict[object, Operation] = {}
        self.expected: dict[int, Message] = {}
        self.ended: list[Operation] = []  # the last few
        self.table: list[Any] = []
        self.groups: list[Group] = []
        self.fixed: list[Fixed] = []  # registered, or still used
        self.completed = self.unmatched = 0
        self.taking = 0  # calls that may deliver completions, one inside the other
        self.may_drain = self.may_send_zero_copy = False
        self.drains = False  # it may hold back what was submitted
        self.closed = self.leaks = False

    def __str__(self) -> str:
        return self.name

    # ---- preparing ----

    def index_of(self, file: Any) -> int | None:
        return self.table.index(file) if file in self.table else None

    def some_group(self, rnd: random.Random, incremental: bool = True) -> Group | None:
        groups = [group for group in self.groups if not group.made.closed]
        groups = [group for group in groups if incremental or not group.incremental]
        return rnd.choice(groups) if groups else None

    def some_fixed(self, rnd: random.Random) -> Fixed | None:
        free = [fixed for fixed in self.fixed if fixed.user is None and fixed.made.registered]
        return rnd.choice(free) if free and rnd.random() < 0.5 else None

    def prepare(self, op: Operation, user_data: object, old: Operation | None = None) -> bool:
        """Prepare `op` on the next SQE, or on that of `old`.  False: the queue was full.

        Whatever is raised, nothing was prepared.
        """
        op.acquire()
        self.world.being_prepared.append(op)
        try:
            with self.world.inside:
                target = self.ring if old is None else old.sqe
                made = getattr(target, op.method)(*op.arguments(), user_data=user_data)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)
            op.fail()
            op.release()
            for lent in op.lent:
                lent.check_back()
            if isinstance(error, SubmissionQueueFull) and old is None:
                full = self.ring.sq_space_left() == 0
                assert full or self.sqpoll or self.world.meddled, "refused for no reason"
                return False
            raise
        finally:
            self.world.being_prepared.pop()
        op.adjust(made)
        op.sqe, op.key, op.opcode = made, made.key, made.opcode
        op.state = QUEUED
        if old is None:
            self.queue.append(op)
        else:
            self.replace(old, op, user_data)
        self.know(op, user_data)
        return True

    def replace(self, old: Operation, new: Operation, user_data: object) -> None:
        self.queue[self.queue.index(old)] = new
        if user_data is None:  # it keeps the old one's
            new.value, new.watch = old.value, old.watch
            if new.watch is not None:
                token = new.watch()
                assert token is not None
                token.op = new
        elif old.watch is not None:
            self.world.dying.append((old.watch, str(old)))
        old.fail()
        self.forget(old)

    def know(self, op: Operation, user_data: object) -> None:
        if isinstance(user_data, Token):
            op.watch = weakref.ref(user_data)
        elif user_data is not None:
            op.value = user_data
        if op.value is not None:
            self.values[op.value] = op
        elif op.watch is None:
            self.nameless.append(op)  # so it cannot be told from the others
            op.exposed = op.in_broken_chain = True
        for other in self.outstanding:
            op.exposed |= other.may_cancel(op)
            other.exposed |= op.may_cancel(other)
        self.outstanding[op] = None

    def decorate(self, op: Operation, flags: SqeFlags) -> None:
        """Set further flags of a queued operation."""
        assert op.sqe is not None
        op.flags |= flags
        op.sqe.flags |= flags

    def unlink(self, op: Operation) -> None:
        assert op.sqe is not None
        op.flags &= ~LINKS
        op.sqe.flags &= ~LINKS

    def shorten(self, op: Operation, size: int) -> None:
        """Of a read into one buffer."""
        assert op.sqe is not None
        op.sqe.len = op.size = size  # type: ignore[attr-defined]
        if op.wanted is not None:
            op.wanted = size

    def retag(self, op: Operation, token: Token) -> None:
        assert op.sqe is not None
        assert op.watch is not None
        self.world.dying.append((op.watch, f"{op}, before"))
        op.watch = weakref.ref(token)
        op.sqe.user_data = token

    # ---- submitting ----

    def submit(self, wait: int | None = None, seconds: float = 0.0) -> None:
        batch, self.queue = self.queue, []
        if self.sqpoll and batch and batch[-1].flags & LINKS:
            self.unlink(batch[-1])  # its thread may see the next batch together with it
        mark_chains(batch)
        self.drains |= any(op.flags & SqeFlags.IO_DRAIN for op in batch)
        now = time.monotonic()
        for op in batch:
            op.state, op.since = SUBMITTED, now
        taken = len(batch)
        with self.delivering():
            if wait is None:
                taken = self.ring.submit()
            else:
                taken = self.ring.submit_and_wait_timeout(wait, seconds)
        if self.closed or self.sqpoll:
            return
        assert taken <= len(batch) or self.world.meddled, "more was submitted than was queued"
        left = batch[taken:]
        for op in left:
            assert op.state is SUBMITTED, "it completed, but was not submitted"
            op.state, op.before = QUEUED, None
        self.queue = left + self.queue

    # ---- taking completions ----

    @contextlib.contextmanager
    def delivering(self) -> Iterator[None]:
        """Around calls that may end operations.

        What such an end runs may close the ring; then what was delivered is looked at first.
        """
        self.taking += 1
        try:
            with self.world.inside:
                yield
        finally:
            self.taking -= 1
            if self.closed and not self.taking:
                self.end_all()

    def order_matters(self) -> bool:
        return any(isinstance(op, Receive) and op.multishot for op in self.outstanding)

    def copy(self, count: int = 100, wait: int = 0, seconds: float = 0.0) -> int:
        with self.delivering():
            cqes = self.ring.copy_cqes(count, wait, seconds)
            assert len(cqes) <= count
            with self.world.outside:
                for cqe in cqes:
                    self.take(cqe)
            taken = len(cqes)
            cqe = cqes = None  # with the last references to user_data, whose end may run anything
        return taken

    def copy_one(self, way: str, seconds: float) -> bool:
        """Take one completion; False when there was none."""
        with self.delivering():
            try:
                cqe = getattr(self.ring, way)(*() if way == "peek_cqe" else (seconds,))
            except TimeoutError:
                return False
            if cqe is None:
                return False
            if way != "copy_cqe":
                self.ring.cqe_seen(cqe)
            with self.world.outside:
                self.take(cqe)
            cqe = None
        return True

    def look(self) -> None:
        with self.delivering():
            self.ring.cq_ready()
            self.ring.get_events()
            self.ring.cq_has_overflow()
            assert self.ring.cq_overflow() == self.ring.sq.dropped == 0

    def advance(self, count: int) -> None:
        """Take completions away unseen."""
        with self.delivering():
            try:
                self.ring.cq_advance(min(count, self.ring.cq_ready()))
            except ValueError:
                if not self.world.meddled:
                    raise
        for message in self.expected.values():
            message.may_be_lost = True
        if not self.closed:
            self.unmatched = self.ring.statistics().unmatched
            for group in self.groups:
                if not group.incremental and not group.made.closed:
                    group.find_unseen()
        for op in self.outstanding:
            if op.group is not None:
                op.vanish()
        for op in [op for op in self.outstanding if op.watch is not None and op.watch() is None]:
            self.completed += 1
            op.vanish()
            self.end(op)

    def operation_of(self, user_data: Any) -> Operation:
        if isinstance(user_data, Token):
            op = user_data.op
            watched = op.watch() if op.watch is not None else None
            assert watched is user_data, f"{op}: another object came back as user_data"
            return op
        if user_data is None:
            return next(op for op in self.nameless if op.state is SUBMITTED)
        assert user_data in self.values, f"nobody knows {user_data!r}"
        op = self.values[user_data]
        assert op.value is user_data, "an equal, but other object came back as user_data"
        return op

    def take(self, cqe: CQE) -> None:
        if type(cqe.user_data) is int and cqe.user_data in self.expected:
            self.expected.pop(cqe.user_data).arrived(cqe)
            return
        op = self.operation_of(cqe.user_data)
        try:
            assert op.model is self, "it is another ring's"
            assert op.state is SUBMITTED, "it was not submitted, or has completed before"
            self.world.log(f"      {op}: {cqe.res} {cqe.flags:#x}")
            op.judge(cqe)
            if not cqe.more:
                self.finish(op)
        except AssertionError as error:
            error.add_note(f"{op} in {self}: res {cqe.res}, flags {cqe.flags:#x}")
            raise

    def finish(self, op: Operation) -> None:
        """Its last completion came, or was hidden as asked."""
        self.completed += 1
        sqe = op.sqe
        self.end(op)
        op.sqe = sqe  # for those that cancel it too late
        for old in self.ended[:-7]:
            old.sqe = None
        self.ended = [*self.ended[-7:], op]
        for cancel in op.cancels:
            cancel.check(op)
        op.check_link()
        for other in op.behind:
            other.check_link()

    def end(self, op: Operation) -> None:
        if op.watch is not None:
            self.world.dying.append((op.watch, str(op)))
        self.forget(op)

    def forget(self, op: Operation) -> None:
        op.state = DONE
        op.sqe = None
        self.outstanding.pop(op)
        self.values.pop(op.value, None)
        if op in self.nameless:
            self.nameless.remove(op)
        if op not in self.world.haunting:
            op.release()
        if not self.leaks:
            for lent in op.lent:
                lent.check_back()

    # ---- what must be so whenever no call is in progress ----

    def check(self) -> None:
        for op in [op for op in self.outstanding if op.hidden and op.state is SUBMITTED]:
            assert op.watch is not None
            if op.watch() is None:
                op.succeed_hidden()
                self.finish(op)
        counters = self.ring.statistics()
        assert counters.in_flight == len(self.outstanding), f"{counters}, {self.describe()}"
        assert counters.completed == self.completed
        assert counters.unmatched == self.unmatched
        assert counters.leaked == 0
        if not self.sqpoll:
            assert self.ring.sq_ready() == len(self.queue)
        for group in self.groups:
            group.check()
        for fixed in self.fixed:
            fixed.check()
        self.fixed = [fixed for fixed in self.fixed if fixed.made.registered or fixed.user]

    def describe(self) -> str:
        return ", ".join(f"{op} {op.state}" for op in self.outstanding)

    # ---- the end ----

    def make_way(self, ending: bool = False) -> None:
        """Read what zero-copy sends have sent: until then they are not notified."""
        for op in [op for op in self.outstanding if isinstance(op, SendZeroCopy)]:
            way = op.direction
            way.channel.lost |= ending
            if is_open(way.reader) and (ending or way.may_read()):
                while data := read_now(way.reader, 1 << 16):
                    way.received(len(data), data, len(data))

    def quiesce(self, seconds: float = 5.0) -> None:
        """Whatever was submitted ends when it is cancelled."""
        until = time.monotonic() + seconds
        for op in self.outstanding:
            op.exposed = True
        while self.outstanding or self.messages_due():
            if self.sqpoll:  # whose kernel threads only such a one reaches
                every = CancelMany(self, None)
                self.prepare(every, Token(every))
            self.submit()
            self.make_way()
            self.cancel_now(flags=CancelFlags.ANY | CancelFlags.ALL)
            self.copy(100, 1, 0.02)
            self.check()
            assert time.monotonic() < until, (
                f"never came: {self.describe()}, {[str(due) for due in self.messages_due()]}"
            )
        for group in self.groups:
            group.check_settled()

    def messages_due(self) -> list[Message]:
        messages = self.expected.values()
        return [sent for sent in messages if sent.result == 0 and not sent.may_be_lost]

    def cancel_now(self, *target: Any, **options: Any) -> None:
        try:
            with self.delivering():
                self.ring.register_sync_cancel(*target, timeout=0.01, **options)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ETIME):
                raise
        except ValueError:
            if not self.closed:
                raise

    def close(self) -> None:
        self.closed = True
        with self.delivering():
            self.ring.close()
        assert self.ring.closed

    def end_all(self) -> None:
        """The ring has been closed: everything has ended and was given back."""
        counters = self.ring.statistics()
        assert counters.in_flight == counters.leaked == 0, f"{counters}, {self.describe()}"
        queued = set(self.queue)
        for op in list(self.outstanding):
            if op in queued:
                op.fail()
            else:
                op.vanish()
            self.end(op)
        self.queue = []
        for fixed in self.fixed:
            fixed.check()

    def drop(self) -> int:
        """Drop the last reference to an open ring; returns how many operations it leaked."""
        queued, before = set(self.queue), leaked_operations()
        certain = [op for op in self.outstanding if isinstance(op, Timeout) and op.lasting()]
        # The kernel may still look up what these name: nothing else may get their numbers.
        late = {op for op in self.outstanding if op not in queued and not op.begun()}
        self.closed = self.leaks = True
        for op in (*self.outstanding, *self.ended):
            op.sqe = None
        with self.world.inside:
            self.ring = None
        gc.collect()
        leaked = leaked_operations() - before
        assert len(certain) <= leaked <= len(self.outstanding) - len(queued), self.describe()
        for op in list(self.outstanding):
            if op in late:
                self.world.haunt(op)
            elif op in queued:
                op.fail()
            else:
                op.vanish()
            self.end(op)
        return leaked
