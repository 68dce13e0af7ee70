"""The operations of the model of rings: how each is prepared, and what it may come to."""

from __future__ import annotations

import errno
import itertools
import os
import random
import select
import socket
import time
import weakref
from typing import TYPE_CHECKING, Any

from ferrule.ring import CQE, SQE, CancelFlags, Op, RecvSendFlags, SqeFlags, TimeoutFlags
from ring_model_things import (
    BLOCK,
    BLOCKS,
    Channel,
    Direction,
    Disk,
    Fixed,
    Group,
    Lent,
    LentFixed,
    Listener,
    Packets,
    Stream,
    Token,
    is_open,
)

if TYPE_CHECKING:
    from ring_model import RingModel

NEW, QUEUED, SUBMITTED, DONE = "new", "queued", "submitted", "done"
MESSAGES = 1 << 40  # numbers from here on are messages between rings, below are user_data


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


TAKEN = "an operation works on this place"


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


class Made(Operation):
    """Delivers new descriptors."""

    def may_vanish(self) -> bool:
        return False

    def vanish(self) -> None:
        self.model.world.strays += 2 * self.model.leaks


class NewSocket(Made):
    method = "prep_socket"
    wanted = 0

    def arguments(self) -> tuple[Any, ...]:
        return socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC

    def succeed(self, cqe: CQE) -> None:
        with socket.socket(fileno=cqe.res) as made:
            assert made.type == socket.SOCK_DGRAM


class NewPipe(Made):
    method = "prep_pipe"
    wanted = 0

    def arguments(self) -> tuple[Any, ...]:
        return (os.O_CLOEXEC,)

    def succeed(self, cqe: CQE) -> None:
        super().succeed(cqe)
        assert cqe.pipe is not None
        reader, writer = cqe.pipe
        os.write(writer, b"x")
        assert os.read(reader, 2) == b"x"
        os.close(reader)
        os.close(writer)


class Slot(Operation):
    """Fills or empties a place in the table of registered files."""

    late = True
    wanted = 0
    may_hide = True

    def __init__(self, model: RingModel, index: int) -> None:
        super().__init__(model)
        self.index = index
        self.before_it = model.table[index]
        self.after_it: Any = None

    def acquire(self) -> None:
        self.model.table[self.index] = TAKEN

    def succeed(self, cqe: CQE) -> None:
        super().succeed(cqe)
        self.succeed_hidden()

    def succeed_hidden(self) -> None:
        self.model.table[self.index] = self.after_it

    def fail(self) -> None:
        self.model.table[self.index] = self.before_it

    def __str__(self) -> str:
        return f"{super().__str__()}[{self.index}]"


class OpenSlot(Slot):
    """A file that is only in the table."""

    method = "prep_openat_direct"

    def __init__(self, model: RingModel, index: int, disk: Disk) -> None:
        super().__init__(model, index)
        self.channel = disk
        self.after_it = disk.ends[0]

    def arguments(self) -> tuple[Any, ...]:
        return None, self.channel.path, os.O_RDWR, 0, self.index


class CloseSlot(Slot):
    method = "prep_close_direct"

    def arguments(self) -> tuple[Any, ...]:
        return (self.index,)


class InstallSlot(Made):
    """A descriptor for a registered file."""

    method = "prep_fixed_fd_install"
    wanted = 0

    def __init__(self, model: RingModel, index: int) -> None:
        super().__init__(model)
        self.index = index
        self.file = model.table[index]

    def arguments(self) -> tuple[Any, ...]:
        return (self.index,)

    def succeed(self, cqe: CQE) -> None:
        try:
            if is_open(self.file):
                assert os.path.sameopenfile(cqe.res, self.file.fileno())
        finally:
            os.close(cqe.res)


class Shutdown(OnFile):
    """No more is written that way."""

    method = "prep_shutdown"
    late = True
    wanted = 0
    may_hide = True

    def __init__(self, model: RingModel, rnd: random.Random, way: Direction) -> None:
        super().__init__(model, rnd, way.channel, way.writer)
        self.direction = way

    def arguments(self) -> tuple[Any, ...]:
        return self.file, socket.SHUT_WR

    def acquire(self) -> None:
        self.direction.ended = True

    def allowed(self) -> frozenset[int]:
        return frozenset({errno.ENOTCONN} if self.direction.channel.closed else ())


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
