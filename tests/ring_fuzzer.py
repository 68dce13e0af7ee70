"""A process that drives rings with random sequences of everything, against a model (ring_model.py).

    python ring_fuzzer.py SEED SECONDS FILE [repeat]

runs episodes, each from its own seed (SEED, SEED + 1, ...; always SEED to repeat), until the time
is up or one fails.  The steps of the present one are in FILE, also after a crash.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import gc
import json
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import ring_model_operations as ops
from ferrule.ring import (
    BufferRingFlags,
    Op,
    Ring,
    SetupFlags,
    SqeFlags,
    leaked_operations,
    send_msg_ring,
)
from ring_model import LINKS, Batch, RingModel
from ring_model_things import (
    Channel,
    Direction,
    Disk,
    Fixed,
    Group,
    Listener,
    Memory,
    Packets,
    Token,
    is_open,
    new_packets,
    new_pair,
    new_pipe,
    new_tcp,
    read_now,
    write_now,
)
from ring_support import FLAG_SETS, unavailable

STEPS = 250
GC_IN_CALLS = sys.version_info < (3, 12)  # later the GC runs between bytecodes only


class Meddler(Token):
    """A user_data whose end uses the ring."""

    def __del__(self) -> None:
        self.op.model.world.meddle()


class Garbage:
    """Found by the GC in the middle of anything, and then uses the rings."""

    def __init__(self, world: Fuzzer) -> None:
        self.world, self.itself = world, self

    def __del__(self) -> None:
        self.world.meddle()


class Meddling:
    """A file whose conversion to a descriptor uses the rings."""

    def __init__(self, world: Fuzzer, file: Any) -> None:
        self.world, self.file = world, file

    def fileno(self) -> int:
        self.world.meddle(converting=True)
        return self.file.fileno()


class Depth:
    """Counts whether a call of a ring is in progress.  A class, for its exit allocates nothing."""

    def __init__(self) -> None:
        self.now = 0

    def __enter__(self) -> None:
        self.now += 1

    def __exit__(self, *exc: object) -> None:
        self.now -= 1


class Outside:
    """The model's own work between two parts of a call: nothing may meddle."""

    def __init__(self, depth: Depth) -> None:
        self.depth = depth
        self.saved: list[int] = []

    def __enter__(self) -> None:
        self.saved.append(self.depth.now)
        self.depth.now = 0

    def __exit__(self, *exc: object) -> None:
        self.depth.now = self.saved.pop()


BAD_CALLS: list[tuple[Callable[[Any], object], type[Exception]]] = [
    (lambda ring: ring.prep_read(-1, bytearray(1)), ValueError),
    (lambda ring: ring.prep_read("file", bytearray(1)), TypeError),
    (lambda ring: ring.prep_read(0, b"read-only"), TypeError),
    (lambda ring: ring.prep_read(0, bytearray(1), -2), ValueError),
    (lambda ring: ring.prep_write(0, 5), TypeError),
    (lambda ring: ring.prep_readv(0, [bytearray(1), b"read-only"]), TypeError),
    (lambda ring: ring.prep_writev(0, 5), TypeError),
    (lambda ring: ring.prep_recv_multishot(0, 4711), ValueError),
    (lambda ring: ring.prep_recvmsg(0, [bytearray(1)], -1), ValueError),
    (lambda ring: ring.prep_sendmsg(0, [b"x", None]), TypeError),
    (lambda ring: ring.prep_connect(0, ("not numeric", 80)), ValueError),
    (lambda ring: ring.prep_openat(None, "a\0b"), ValueError),
    (lambda ring: ring.prep_statx(None, 5), TypeError),
    (lambda ring: ring.prep_timeout(-1), ValueError),
    (lambda ring: ring.prep_timeout(float("nan")), ValueError),
    (lambda ring: ring.prep_timeout("soon"), TypeError),
    (lambda ring: ring.prep_cancel(), ValueError),
    (lambda ring: ring.prep_cancel64(-1), OverflowError),
    (lambda ring: ring.prep_msg_ring(ring, 0, 1 << 63), OverflowError),
    (lambda ring: ring.cq_advance(1_000_000), ValueError),
    (lambda ring: ring.copy_cqes(-1), ValueError),
    (lambda ring: ring.cqe_seen(None), TypeError),
    (lambda ring: ring.register_buf_ring(3, 8), ValueError),
    (lambda ring: ring.unregister_buf_ring(4711), ValueError),
    (lambda ring: ring.register_sync_cancel(), ValueError),
]


class Fuzzer:
    """One episode: some rings, what they work on, and random steps."""

    def __init__(self, seed: int, log: Callable[[str], None]) -> None:
        self.master = random.Random(seed)
        self.rnd = random.Random(self.master.getrandbits(64))
        self.log = log
        self.done: Counter[str] = Counter()
        self.inside = Depth()
        self.outside = Outside(self.inside)
        self.being_prepared: list[ops.Operation] = []
        self.meddling = self.calm = False
        self.meddled = False  # in this step
        self.dying: list[tuple[Any, str]] = []
        self.unraisable: list[str] = []
        self.warned: list[str] = []
        self.haunting: list[ops.Operation] = []
        self.strays = self.leaked = self.numbers = self.rings_made = 0
        self.models: list[RingModel] = []
        self.channels: list[Channel] = []
        self.disks: list[Disk] = []
        self.listeners: list[Listener] = []

    def next_number(self) -> int:
        self.numbers += 1
        return self.numbers

    # ---- what there is ----

    def set_up(self) -> None:
        gc.set_threshold(*self.rnd.choice(((700, 10, 10), (50, 5, 5), (5, 3, 3))))
        for _ in range(self.rnd.choice((1, 1, 2, 3))):
            self.open_ring()
        self.tend()

    def open_ring(self) -> None:
        rnd = self.rnd
        entries = rnd.choice((1, 2, 4, 8, 32))
        options: dict[str, Any] = {}
        name = rnd.choice([*FLAG_SETS, "default"])
        if name != "default":
            options["flags"] = self.some_flags(FLAG_SETS[name])
            if options["flags"] & SetupFlags.CQE_MIXED:
                entries = max(entries, 2)
        if name == "sqpoll":
            options["sq_thread_idle"] = rnd.choice((1, 5))
        if rnd.random() < 0.5:
            options["cq_entries"] = entries * rnd.choice((1, 2, 8))
        self.rings_made += 1
        model = RingModel(self, f"ring{self.rings_made}", entries, options)
        if rnd.random() < 0.3 and not model.sqpoll:
            model.ring.register_ring_fd()
            model.bound = True
        # A cancel that a SQPOLL ring needs would wait behind a drain.  In Linux 6.18 a drain waits
        # for the notification of a zero-copy send that waits behind it; and a process whose SQPOLL
        # ring waits for one when it ends cannot end, for its sockets stay open.
        model.may_drain = not model.sqpoll and rnd.random() < 0.5
        model.may_send_zero_copy = not model.sqpoll and not model.may_drain
        self.models.append(model)
        self.log(f"  {model} = Ring({entries}, {options})  # {name}")

    def some_flags(self, base: SetupFlags) -> SetupFlags:
        more = [SetupFlags.SUBMIT_ALL, SetupFlags.SQE128, SetupFlags.CQE32, SetupFlags.CQE_MIXED,
                SetupFlags.NO_SQARRAY, SetupFlags.NO_MMAP, SetupFlags.TASKRUN_FLAG]
        flags = base
        for flag in self.rnd.sample(more, self.rnd.choice((0, 1, 1, 2))):
            if possible(flags | flag):
                flags |= flag
        return flags

    def tend(self) -> None:
        """Replace what was lost, as far as nothing needs its descriptors any more."""
        for pool in (self.channels, self.disks, self.listeners):
            for channel in [channel for channel in pool if channel.lost and self.idle(channel)]:
                pool.remove(channel)  # type: ignore[arg-type]
                if not any(op.channel is channel for op in self.haunting):
                    channel.close()
        while len(self.channels) < 9:
            kinds = (new_pipe, new_pair, new_packets, new_tcp)
            self.channels.append(kinds[len(self.channels) % 4]())
        while len(self.disks) < 2:
            self.disks.append(Disk())
        while not self.listeners:
            self.listeners.append(Listener())

    def haunt(self, op: ops.Operation) -> None:
        """It was leaked; the kernel may still look up what it works on."""
        self.haunting.append(op)
        if op.channel is not None:
            op.channel.lost = True

    def users(self, channel: Channel) -> list[ops.Operation]:
        return [op for model in self.models for op in model.outstanding if op.channel is channel]

    def idle(self, channel: Channel) -> bool:
        """Whether the kernel has looked up the descriptors of all operations on it."""
        return all(op.begun() for op in self.users(channel))

    def directions(self, kind: type = object) -> list[Any]:
        found = [way for channel in self.channels if not channel.lost for way in channel.directions]
        return [way for way in found if isinstance(way, kind)]

    def some(self, things: list[Any]) -> Any:
        return self.rnd.choice(things) if things else None

    def disguised(self, file: Any) -> Any:
        """A file as an argument: its descriptor, itself, or something that meddles."""
        return self.rnd.choice((file.fileno(), file.fileno(), file, file, Meddling(self, file)))

    # ---- what may happen in the middle of a call ----

    def meddle(self, converting: bool = False) -> None:
        if self.meddling or self.calm or not self.inside.now:
            return
        if threading.current_thread() is not threading.main_thread():
            return  # to which most rings do not belong
        if self.being_prepared and not converting and not GC_IN_CALLS:
            return
        self.meddling = self.meddled = True
        try:
            with self.outside:
                self.meddle_with(self.rnd.choice(self.models))
        except BaseException:
            self.unraisable.append(traceback.format_exc())
        finally:
            self.meddling = False

    def meddle_with(self, model: RingModel) -> None:
        act = self.rnd.choice(("nothing", "nop", "submit", "copy", "look", "collect", "close"))
        self.log(f"    meddle: {act} {model}")
        if model.closed:
            if model.ring is not None:
                with pytest.raises(ValueError, match="closed ring"):
                    model.ring.prep_nop()
        elif act == "nop" and not model.submits:
            self.put(model, ops.Nop(model))
        elif act == "submit":
            model.submit()
        elif act == "copy" and not (model.taking and model.order_matters()):
            model.copy(10)
        elif act == "look":
            model.ring.cq_ready()
            repr(model.ring)
        elif act == "collect":
            gc.collect()
        elif act == "close" and self.rnd.random() < 0.2 and self.may_end(model):
            model.close()

    # ---- preparing ----

    def user_data(self, op: ops.Operation, model: RingModel) -> Any:
        kind = self.rnd.choice(("token",) * 8 + ("meddler",) * 2 + ("cycle", "int", "str", "bytes"))
        if isinstance(op, ops.Nop) and self.rnd.random() < 0.1:
            return None
        if kind == "int":
            return op.number
        if kind == "str":
            return f"operation {op.number}"
        if kind == "bytes":
            return b"operation %d" % op.number
        token = Meddler(op) if kind == "meddler" else Token(op)
        if kind == "cycle":
            token.itself, token.ring = token, model.ring  # type: ignore[attr-defined]
        return token

    def put(self, model: RingModel, op: ops.Operation, flags: int = 0) -> bool:
        """Prepare `op`; False when it was refused."""
        rnd = self.rnd
        data = self.user_data(op, model)
        plain = isinstance(data, Token) and data.itself is None
        if op.may_hide and plain and rnd.random() < 0.15:
            flags |= SqeFlags.CQE_SKIP_SUCCESS
        if rnd.random() < 0.04:
            flags |= SqeFlags.ASYNC
        if rnd.random() < 0.03 and model.may_drain:
            flags |= SqeFlags.IO_DRAIN
        self.log(f"    {model} {op}, {type(data).__name__} {SqeFlags(flags)!r}")
        try:
            if not model.prepare(op, data):
                self.log("    full")
                return False
        except ValueError:
            if not model.closed and not (isinstance(op, ops.Message) and op.to.closed):
                raise
            return False
        if flags:
            model.decorate(op, SqeFlags(flags))
        self.done[type(op).__name__] += 1
        return True

    def some_operation(self, model: RingModel) -> ops.Operation | None:
        kinds = {
            self.new_nop: 4, self.new_receive: 14, self.new_send: 14, self.new_file: 8,
            self.new_small: 6, self.new_accept: 3, self.new_poll: 5, self.new_timeout: 5,
            self.new_cancel: 7, self.new_wide_cancel: 1, self.new_change: 3, self.new_message: 6,
            self.new_bad: 2, self.new_slot: 4, self.new_shutdown: 0.5,
        }
        return self.rnd.choices([*kinds], [*kinds.values()])[0](model)

    def new_nop(self, model: RingModel) -> ops.Operation:
        return ops.Nop(model)

    def new_bad(self, model: RingModel) -> ops.Operation:
        return self.rnd.choice((ops.BadOpcode, ops.BadDescriptor))(model)

    def new_receive(self, model: RingModel) -> ops.Operation | None:
        way = self.some([way for way in self.directions() if way.may_read()])
        return way and ops.Receive(model, self.rnd, way)

    def new_send(self, model: RingModel) -> ops.Operation | None:
        way = self.some([way for way in self.directions() if way.may_write()])
        if way and is_tcp(way) and model.may_send_zero_copy and self.rnd.random() < 0.7:
            return ops.SendZeroCopy(model, self.rnd, way)
        return way and ops.Send(model, self.rnd, way)

    def new_file(self, model: RingModel) -> ops.Operation | None:
        disk = self.some([disk for disk in self.disks if not disk.lost])
        op = disk and self.rnd.choice((ops.ReadFile, ops.WriteFile))(model, self.rnd, disk)
        return op if op and op.possible() else None

    def new_small(self, model: RingModel) -> ops.Operation | None:
        disk = self.some([disk for disk in self.disks if not disk.lost])
        kind = self.rnd.choice((ops.Close, ops.NewSocket, ops.NewPipe, *[ops.Statx, ops.Open] * 2))
        if kind in (ops.Close, ops.NewSocket, ops.NewPipe):
            return kind(model)
        if self.rnd.random() < 0.3:
            return disk and ops.Fsync(model, self.rnd, disk, disk.ends[0])
        return disk and kind(model, disk)

    def new_slot(self, model: RingModel) -> ops.Operation | None:
        index = self.some(list(range(len(model.table))))
        if index is None or model.table[index] is ops.TAKEN:
            return None
        if model.table[index] is None:
            disk = self.some([disk for disk in self.disks if not disk.lost])
            return disk and ops.OpenSlot(model, index, disk)
        if self.rnd.random() < 0.5:
            return ops.InstallSlot(model, index)
        # Those that use it must have begun.
        if any(op.index == index and not op.begun() for op in model.outstanding):
            return None
        return ops.CloseSlot(model, index)

    def new_shutdown(self, model: RingModel) -> ops.Operation | None:
        ways = [way for way in self.directions() if isinstance(way.writer, socket.socket)]
        way = self.some([way for way in ways if self.may_hang_up(way)])
        return way and ops.Shutdown(model, self.rnd, way)

    def new_accept(self, model: RingModel) -> ops.Operation | None:
        listener = self.some([listener for listener in self.listeners if not listener.lost])
        if listener and self.rnd.random() < 0.5:
            return ops.Connect(model, listener)
        return listener and ops.Accept(model, self.rnd, listener)

    def new_poll(self, model: RingModel) -> ops.Operation | None:
        way = self.some(self.directions())
        file = way and self.some([end for end in way.channel.ends if is_open(end)])
        return file and ops.Poll(model, self.rnd, way.channel, file)

    def new_timeout(self, model: RingModel) -> ops.Operation:
        return ops.Timeout(model, self.rnd)

    def new_cancel(self, model: RingModel) -> ops.Operation | None:
        target = self.some([op for op in (*model.outstanding, *model.ended) if op.key])
        return target and ops.Cancel(model, self.rnd, target)

    def new_wide_cancel(self, model: RingModel) -> ops.Operation | None:
        way = self.some(self.directions())
        if way and self.rnd.random() < 0.7:
            return ops.CancelFile(model, self.rnd, way.channel, way.reader)
        kinds = (None, Op.RECV, Op.READ, Op.TIMEOUT, Op.POLL_ADD)
        return ops.CancelMany(model, self.rnd.choice(kinds))

    def new_change(self, model: RingModel) -> ops.Operation | None:
        kinds = (ops.Poll, ops.Timeout)
        target = self.some([op for op in model.outstanding if isinstance(op, kinds)])
        return target and ops.Change(model, self.rnd, target)

    def new_message(self, model: RingModel) -> ops.Operation:
        to = self.rnd.choice([model for model in self.models if not model.closed])
        return ops.Message(model, self.rnd, to)

    # ---- steps ----

    def run(self, steps: int) -> None:
        self.log("set up")
        self.set_up()
        acts = {
            self.prepare: 40, self.prepare_chain: 6, self.prepare_blank: 4, self.prepare_again: 4,
            self.edit: 4, self.touch_submitted: 2, self.submit: 10, self.submit_and_wait: 8,
            self.copy: 14, self.copy_one: 6, self.advance: 2, self.feed: 12, self.eat: 3,
            self.connect: 3, self.hang_up: 1, self.close_channel: 2, self.look_at_buffers: 3,
            self.forget: 5, self.collect: 2, self.call_badly: 6, self.cancel_at_once: 1,
            self.register: 3, self.register_buffers: 3, self.make_group: 2, self.recycle: 6,
            self.fork: 0.3, self.reopen: 1.5, self.drop: 0.3, self.use_from_a_thread: 0.3,
            self.share: 0.6, self.interrupt: 0.6, self.look: 4, self.post: 1, self.resize: 1,
            self.batch: 5,
        }
        for number in range(steps):
            self.rnd = random.Random(self.master.getrandbits(64))
            [act] = self.rnd.choices([*acts], [*acts.values()])
            model = self.rnd.choice(self.models)
            self.log(f"{number} {act.__name__} {model}")
            self.meddled = False
            if self.rnd.random() < 0.1:
                Garbage(self)
            act(model)
            self.done[act.__name__] += 1
            self.check()
        self.finish()

    def check(self) -> None:
        """What must be so between any two steps."""
        assert not self.unraisable, "\n".join(self.unraisable)
        for model in self.models[:]:
            if model.closed:
                self.models.remove(model)
                self.open_ring()
            else:
                model.check()
        self.tend()
        self.check_user_data()
        assert not self.warned, self.warned

    def check_user_data(self) -> None:
        if any(watch() is not None for watch, _ in self.dying):
            gc.collect()
        for watch, name in self.dying:
            assert watch() is None, f"the user_data of {name} outlives it"
        self.dying.clear()

    def prepare(self, model: RingModel) -> None:
        for _ in range(self.rnd.choice((1, 1, 1, 3))):
            op = self.some_operation(model)
            if op is None or not self.put(model, op):
                return

    def prepare_chain(self, model: RingModel) -> None:
        link = self.rnd.choice((SqeFlags.IO_LINK, SqeFlags.IO_LINK, SqeFlags.IO_HARDLINK))
        for _ in range(self.rnd.randint(1, 4)):
            op = self.some_operation(model)
            if op is None or op.multishot or not self.put(model, op, link):
                break
            if self.rnd.random() < 0.2:
                self.put(model, ops.LinkTimeout(model, self.rnd), 0)
                return
        if model.queue and model.queue[-1].flags & LINKS:
            model.unlink(model.queue[-1])

    def prepare_blank(self, model: RingModel) -> None:
        if self.put(model, ops.Blank(model)):
            self.prepare_again(model)

    def prepare_again(self, model: RingModel) -> None:
        changeable = [
            op for op in model.queue
            if op.sqe and not op.flags and op.index is None and op.watch
        ]
        if changeable:
            self.put_again(model, self.rnd.choice(changeable))

    def put_again(self, model: RingModel, old: ops.Operation) -> None:
        op = self.some_operation(model)
        if op is None or op.multishot:
            return
        # The end of a Meddler could submit what is being prepared.
        quiet = old.watch is not None and not isinstance(old.watch(), Meddler)
        data = Token(op) if quiet and self.rnd.random() < 0.3 else None
        self.log(f"    {model} {op} instead of {old}{', other user_data' if data else ''}")
        try:
            model.prepare(op, data, old)
        except (RuntimeError, ValueError):
            # What a conversion ran submitted the SQE, or closed the ring.
            if old.state is ops.QUEUED:
                raise

    def edit(self, model: RingModel) -> None:
        op = self.some([op for op in model.queue if op.sqe is not None])
        if op is None:
            return
        self.log(f"    {op}")
        sqe = op.sqe
        assert not sqe.submitted or model.sqpoll
        packets = isinstance(getattr(op, "direction", None), Packets)
        if len(op.lent) == 1 and op.method in ("prep_read", "prep_recv") and not packets:
            with pytest.raises(ValueError, match="exceeds"):
                sqe.len = op.lent[0].size + 1
            model.shorten(op, self.rnd.randint(0, op.lent[0].size))
        elif op.watch is not None:
            model.retag(op, Token(op))
        repr(sqe)

    def touch_submitted(self, model: RingModel) -> None:
        op = self.some([op for op in model.outstanding if op.state is ops.SUBMITTED and op.sqe])
        if op is not None:
            assert op.sqe.submitted
            with pytest.raises(RuntimeError, match="was submitted"):
                op.sqe.len = 0
            with pytest.raises(RuntimeError, match="was submitted"):
                op.sqe.prep_read(0, bytearray(1))

    def tolerant(self, model: RingModel, call: Callable[[], object]) -> None:
        """What the call frees may close the ring."""
        try:
            call()
        except ValueError:
            if not model.closed:
                raise

    def submit(self, model: RingModel) -> None:
        self.tolerant(model, model.submit)

    def submit_and_wait(self, model: RingModel) -> None:
        count, seconds = self.rnd.randint(1, 4), self.rnd.choice((0, 0.0003, 0.002))
        self.tolerant(model, lambda: model.submit(count, seconds))

    def copy(self, model: RingModel) -> None:
        count, wait = self.rnd.choice((0, 1, 3, 100, 100)), self.rnd.choice((0, 0, 1, 3))
        self.tolerant(model, lambda: model.copy(count, wait, self.rnd.choice((0, 0.0003, 0.002))))

    def copy_one(self, model: RingModel) -> None:
        way = self.rnd.choice(("copy_cqe", "wait_cqe", "peek_cqe"))
        self.tolerant(model, lambda: model.copy_one(way, self.rnd.choice((0, 0.001))))

    def advance(self, model: RingModel) -> None:
        if all(op.may_vanish() for op in model.outstanding):
            self.tolerant(model, lambda: model.advance(self.rnd.randint(1, 3)))

    def feed(self, model: RingModel) -> None:
        """Write without the ring."""
        way = self.some([way for way in self.directions() if way.may_write()])
        if way is not None:
            content = way.content(self.rnd.choice((1, 7, 64, 250)))
            size = write_now(way.writer, content)
            self.log(f"    {way}: {size} of {len(content)}")
            if size:
                way.sent(content, size)
            else:
                way.unsent(content)

    def eat(self, model: RingModel) -> None:
        """Read without the ring."""
        way = self.some([way for way in self.directions() if way.may_read()])
        if way is not None:
            size = 512 if isinstance(way, Packets) else self.rnd.choice((1, 64, 5000))
            data = read_now(way.reader, size)
            self.log(f"    {way}: {len(data)}")
            if data:
                way.received(len(data), data, size)

    def connect(self, model: RingModel) -> None:
        listener = self.some([listener for listener in self.listeners if not listener.lost])
        if listener is not None:
            listener.connect()

    def hang_up(self, model: RingModel) -> None:
        way = self.some([way for way in self.directions() if self.may_hang_up(way)])
        if way is not None:
            self.log(f"    {way}")
            way.hang_up()

    def may_hang_up(self, way: Any) -> bool:
        """Whether nobody writes, and no descriptor of it is still to be looked up."""
        return way.may_write() and not any(
            (isinstance(op, ops.Send) and op.direction is way) or not op.begun()
            for op in self.users(way.channel)
        )

    def close_channel(self, model: RingModel) -> None:
        """Close descriptors, perhaps under operations that are in flight on them."""
        channel = self.some(self.channels)
        if self.idle(channel):
            if not channel.lost and not self.users(channel):
                channel.check_rest()
            self.log(f"    {channel}")
            channel.close()
            self.channels.remove(channel)

    def look_at_buffers(self, model: RingModel) -> None:
        for op in model.outstanding:
            if not op.hidden:
                for lent in op.lent:
                    lent.check_lent()

    def forget(self, model: RingModel) -> None:
        """Drop what only the operation should need from now on."""
        op = self.some([op for op in model.outstanding if not op.flags & LINKS])
        if op is not None:
            self.log(f"    {op}")
            op.sqe = None
            for lent in op.lent:
                lent.forget()

    def collect(self, model: RingModel) -> None:
        with self.inside:
            gc.collect(self.rnd.choice((0, 1, 2)))

    def call_badly(self, model: RingModel) -> None:
        queued, in_flight = len(model.queue), len(model.outstanding)
        call, error = self.rnd.choice(BAD_CALLS)
        with pytest.raises(error):
            call(model.ring)
        if not model.sqpoll:
            assert model.ring.sq_ready() == queued
        assert model.ring.statistics().in_flight >= in_flight - len(
            [op for op in model.outstanding if op.hidden]
        )

    def cancel_at_once(self, model: RingModel) -> None:
        op = self.some([op for op in model.outstanding if op.sqe])
        if op is not None:
            op.exposed = True
            self.log(f"    {op}")
            self.tolerant(model, lambda: model.cancel_now(op.sqe))

    def register(self, model: RingModel) -> None:
        # What has not begun would find another file, or none.
        if not all(op.begun() for op in model.outstanding if op.index is not None):
            return
        files = [end for way in self.directions() for end in (way.reader, way.writer)]
        files += [disk.ends[0] for disk in self.disks]
        files = [file for file in files if is_open(file)]
        self.log("    table")
        if not model.table:
            model.table = self.rnd.sample(files, min(6, len(files)))
            model.ring.register_files(model.table)
        elif self.rnd.random() < 0.3:
            model.ring.unregister_files()
            model.table = []
        else:
            place = self.rnd.randrange(len(model.table))
            file = self.rnd.choice([None, *files])
            model.ring.register_files_update(place, [-1 if file is None else file])
            model.table[place] = file

    def register_buffers(self, model: RingModel) -> None:
        if not all(op.begun() for op in model.outstanding if op.fixed is not None):
            return
        now = [fixed for fixed in model.fixed if fixed.made.registered]
        if not now:
            memories = [Memory(Fixed.SIZE) for _ in range(self.rnd.choice((1, 3)))]
            made = model.ring.register_buffers(memories)
            model.fixed += map(Fixed, memories, made)
        elif self.rnd.random() < 0.4:
            model.ring.unregister_buffers()
        else:
            old, memory = self.rnd.choice(now), Memory(Fixed.SIZE)
            [made] = model.ring.register_buffers_update(old.made.index, [memory])
            model.fixed.append(Fixed(memory, made))
            assert not old.made.registered

    def post(self, model: RingModel) -> None:
        """A message from no ring."""
        message = ops.Message(model, self.rnd, model)
        message.acquire()
        try:
            send_msg_ring(*message.arguments())
        except OSError:
            message.fail()
        else:
            message.result = 0

    def resize(self, model: RingModel) -> None:
        if not model.ring.flags & SetupFlags.DEFER_TASKRUN:
            return
        entries = self.rnd.choice((1, 2, 8, 32))
        try:
            model.ring.resize_rings(entries, entries * self.rnd.choice((1, 2, 8)))
        except ValueError:
            assert model.queue or model.ring.cq_ready()
        except OSError as error:
            self.log(f"    {error}")

    def batch(self, model: RingModel) -> None:
        disk = self.some([disk for disk in self.disks if not disk.lost])
        if not model.batches or (disk and len(model.batches) < 2 and self.rnd.random() < 0.1):
            if disk is not None:
                model.batches.append(Batch(model, disk))
            return
        batch, act = self.rnd.choice(model.batches), self.rnd.random()
        count = self.rnd.randint(1, batch.CAPACITY)
        if act < 0.5 and not (model.queue and model.queue[-1].flags & LINKS):
            free = [n for n, writers in enumerate(batch.disk.writers) if not writers]
            nops = batch.disk.lost or not free or self.rnd.random() < 0.5
            batch.prepare([None if nops else self.rnd.choice(free) for _ in range(count)])
        elif act < 0.95:
            self.tolerant(model, lambda: batch.complete(count, self.rnd.randint(0, 4)))
        else:
            self.tolerant(model, batch.close)

    def make_group(self, model: RingModel) -> None:
        groups = [group for group in model.groups if not group.made.closed]
        if groups and self.rnd.random() < 0.3:
            self.rnd.choice(groups).made.close()
        elif len(groups) < 3:
            bgid = 100 + len(model.groups)
            size, entries = self.rnd.choice((8, 64, 600)), self.rnd.choice((1, 2, 8, 32))
            flags = self.rnd.choice((0, 0, BufferRingFlags.INC))
            model.groups.append(Group(model.ring, entries, size, bgid, flags))

    def recycle(self, model: RingModel) -> None:
        group = model.some_group(self.rnd)
        if group is not None:
            group.recycle(self.rnd)
        if group is not None and group.order and not group.incremental:
            with pytest.raises(ValueError, match="with the kernel already"):
                group.made.add(group.order[-1])

    def look(self, model: RingModel) -> None:
        repr(model.ring)
        self.tolerant(model, model.look)

    # ---- ends ----

    def may_end(self, model: RingModel) -> bool:
        """Whether no message is on its way to this ring, whose number may be reused, and nothing is
        waited for that close() cannot end."""
        if self.meddling and any(isinstance(op, ops.SendZeroCopy) for op in model.outstanding):
            return False
        others = [op for other in self.models if other is not model for op in other.outstanding]
        return not any(
            isinstance(op, ops.Message) and op.to is model for op in (*others, *self.being_prepared)
        )

    def reopen(self, model: RingModel) -> None:
        if self.may_end(model):
            if self.rnd.random() < 0.3:
                self.calm = True
                model.quiesce()
                self.calm = False
            model.make_way(ending=True)
            model.close()

    def drop(self, model: RingModel) -> None:
        if model.held or not self.may_end(model):
            return
        if any(isinstance(op, ops.Message) and op.to is model for op in model.outstanding):
            return  # it could reach the next ring of this number
        self.leaked += model.drop()
        assert any("unclosed ring" in text for text in self.warned)
        self.warned.clear()

    def use_from_a_thread(self, model: RingModel) -> None:
        def use() -> None:
            try:
                if not model.bound:
                    self.tolerant(model, model.copy)
                    return
                with pytest.raises(RuntimeError, match="belongs to the thread"):
                    model.ring.submit()
            except BaseException:
                self.unraisable.append(traceback.format_exc())

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()

    def share(self, model: RingModel) -> None:
        """Two threads use a ring that may be shared."""
        if model.bound or model.order_matters():
            return
        found: list[Any] = []

        def take() -> None:
            for _ in range(4):
                found.extend(model.ring.copy_cqes(5, 1, 0.0005))

        self.calm = True
        thread = threading.Thread(target=take)
        thread.start()
        for _ in range(3):
            self.prepare(model)
            model.submit(1, 0.0003)
        thread.join()
        self.calm = False
        while found:
            model.take(found.pop(0))

    def interrupt(self, model: RingModel) -> None:
        """A signal handler that uses the ring while it is waited for."""
        before = signal.signal(signal.SIGALRM, lambda *_: self.meddle())
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        try:
            self.tolerant(model, lambda: model.copy(100, 100, 0.002))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def fork(self, model: RingModel) -> None:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(10)
                self.calm = True
                self.check_child()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the forked child failed"

    def check_child(self) -> None:
        for model in self.models:
            if model.closed:
                continue
            ring, fd = model.ring, model.ring.fd
            for call in (ring.submit, ring.copy_cqes, ring.prep_nop, ring.get_events):
                with pytest.raises(RuntimeError, match="parent process"):
                    call()
            for group in model.groups:
                if not group.made.closed:
                    with pytest.raises(RuntimeError, match="parent process"):
                        group.made.advance()
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
            ring.close()
            assert ring.closed
            for op in model.outstanding:
                for lent in op.lent:
                    lent.check_back()
            with Ring(model.entries, **model.options) as own:
                own.prep_nop("own")
                own.submit()
                assert own.copy_cqe(5).user_data == "own"

    def finish(self) -> None:
        self.calm = True
        for model in self.models[:]:
            self.rnd = random.Random(self.master.getrandbits(64))
            self.log(f"end {model}")
            if self.rnd.random() < 0.7:
                model.quiesce()
        for model in self.models:
            model.make_way(ending=True)
            model.close()
        for channel in [*self.channels, *self.disks, *self.listeners]:
            if not channel.lost:
                channel.check_rest()
            channel.close()
        if self.haunting:
            time.sleep(0.05)
        for op in self.haunting:
            op.vanish()
            op.release()
            if op.channel is not None and not op.channel.closed:
                op.channel.close()
        self.models.clear()
        self.check_user_data()


def descriptors() -> set[tuple[int, str]]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listdir used
            found.add((int(fd), os.readlink(f"/proc/self/fd/{fd}")))
    return found


def is_tcp(way: Direction) -> bool:
    return isinstance(way.writer, socket.socket) and way.writer.family == socket.AF_INET


@functools.cache
def possible(flags: SetupFlags) -> bool:
    return unavailable(flags) is None


# ---- a process that fuzzes --------------------------------------------------------------------


def run_episode(seed: int, log: Callable[[str], None]) -> Counter[str]:
    """One episode, which must leave nothing behind."""
    fds, leaked = descriptors(), leaked_operations()
    fuzzer = Fuzzer(seed, log)
    sys.unraisablehook = lambda report: fuzzer.unraisable.append(repr(report.exc_value))
    warnings.showwarning = lambda message, *_, **__: fuzzer.warned.append(str(message))
    fuzzer.run(STEPS)
    gc.collect()
    assert leaked_operations() == leaked + fuzzer.leaked
    left = descriptors() - fds
    assert len(left) <= fuzzer.strays, f"left open: {left}"
    return fuzzer.done


def main(first: int, seconds: float, path: str, repeat: bool) -> None:
    """Run episodes; what happens in the present one is in the file `path`, should this crash."""
    until = time.monotonic() + seconds
    # Once, and it has to be waiting before anything forks: while its thread starts, it may hold a
    # lock of AddressSanitizer, which then nobody gives back in the child.
    faulthandler.dump_traceback_later(seconds + 60, exit=True)
    time.sleep(0.1)
    warnings.simplefilter("always")
    # Since Python 3.12; the only other thread is the one above.
    warnings.filterwarnings("ignore", message="This process .* is multi-threaded, use of fork")
    gc.collect()
    gc.freeze()
    done: Counter[str] = Counter()
    seed = first
    with open(path, "w", 1) as file:
        while time.monotonic() < until:
            file.seek(0)
            file.truncate()
            print("seed", seed, file=file)
            try:
                done += run_episode(seed, lambda line: print(line, file=file))
            except BaseException:
                traceback.print_exc()
                sys.exit(1)
            done["episodes"] += 1
            seed += not repeat
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps(done))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], bool(sys.argv[4]))
