"""A model of rings: what is queued and in flight, and what may come of it.

It knows what was asked and what io_uring promises, and nothing of how the binding does it.
Whatever breaks a promise raises AssertionError.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import random
import time
import traceback
import weakref
from array import array
from collections.abc import Iterator
from typing import Any

from ferrule.ring import (
    CQE,
    CancelFlags,
    Op,
    Ring,
    SetupFlags,
    SqeFlags,
    SubmissionQueueFull,
    leaked_operations,
)
from ring_model_operations import (
    DONE,
    QUEUED,
    SUBMITTED,
    BadOpcode,
    CancelMany,
    LinkTimeout,
    Message,
    Operation,
    Receive,
    SendZeroCopy,
    Timeout,
)
from ring_model_things import (
    BLOCK,
    Disk,
    Fixed,
    Group,
    Memory,
    Token,
    is_open,
    locked,
    read_now,
)

LINKS = SqeFlags.IO_LINK | SqeFlags.IO_HARDLINK


class Item(Operation):
    """One of a batch: a no-op, or the read of a block."""

    wanted = 0

    def __init__(self, model: RingModel, batch: Batch, block: int | None) -> None:
        super().__init__(model)
        self.batch, self.block = batch, block
        self.place = batch.free.pop()
        self.opcode = Op.NOP if block is None else Op.READ
        if block is not None:
            self.wanted = BLOCK
            self.channel = batch.disk
            batch.disk.readers[block] += 1

    def come_to(self, res: int) -> None:
        if res < 0:
            assert self.exposed, f"an item of a batch came to {res}"
            assert -res in (errno.ECANCELED, errno.EINTR)
        else:
            assert res == (self.wanted or 0)
        if self.block is not None and res >= 0:
            start = self.place * BLOCK
            data = self.batch.memory[start : start + BLOCK]
            assert data == self.batch.disk.blocks[self.block], "a batch read other blocks"

    def release(self) -> None:
        self.batch.free.append(self.place)
        if self.block is not None:
            self.batch.disk.readers[self.block] -= 1


class Batch:
    """A BatchQueue, and what is in it, by tag."""

    CAPACITY = 8

    def __init__(self, model: RingModel, disk: Disk) -> None:
        self.memory = Memory(self.CAPACITY * BLOCK)
        self.made = model.ring.batch_queue(self.CAPACITY, self.memory)
        self.model, self.disk = model, disk
        self.free = list(range(self.CAPACITY))
        self.items: dict[int, Item] = {}

    def prepare(self, blocks: list[int | None]) -> None:
        """All no-ops (None), or all reads."""
        items = [Item(self.model, self, block) for block in blocks[: len(self.free)]]
        tags = array("Q", [item.number for item in items])
        if not items:
            return
        if blocks[0] is None:
            count = self.made.prep_nop(len(items), tags)
        else:
            starts = array("q", [item.place * BLOCK for item in items])
            offsets = array("q", [item.block * BLOCK for item in items])  # type: ignore[operator]
            file = self.disk.ends[0].fileno()
            count = self.made.prep_read(file, starts, BLOCK, offsets, tags=tags)
        for item in items[:count]:
            item.state = QUEUED
            self.items[item.number] = item
            self.model.queue.append(item)
            self.model.add(item)
        for item in items[count:]:
            item.release()

    def complete(self, count: int, wait: int) -> None:
        results, tags = array("i", bytes(4 * count)), array("Q", bytes(8 * count))
        try:
            with self.model.delivering():
                taken = self.made.complete(results, tags, wait_nr=min(wait, count), timeout=0.001)
        except OSError as error:  # the ring's own completions are in the way
            if error.errno != errno.EBUSY:
                raise
            return
        for number, res in zip(tags[:taken], results[:taken], strict=True):
            item = self.items.pop(number)
            assert item.state is SUBMITTED, "it was not submitted, or has completed before"
            item.come_to(res)
            self.model.forget(item)
            self.model.batched += 1

    def withdraw(self) -> None:
        """What was queued is a no-op now, which belongs to nobody."""
        for item in [item for item in self.items.values() if item in self.model.queue]:
            self.model.queue[self.model.queue.index(item)] = Operation(self.model)
            self.model.forget(self.items.pop(item.number))

    def close(self) -> None:
        if self.model.sqpoll:
            self.model.submit()  # as close() would
            if self.model.closed:
                return
        self.model.submits = self.model.sqpoll
        try:
            with self.model.delivering():
                self.made.close(0.02 if self.model.drains else 5.0)
        except OSError as error:  # other completions are in the way; a drain holds it back
            if error.errno not in (errno.EBUSY, errno.ETIME if self.model.drains else 0):
                raise
            self.withdraw()
            for item in self.items.values():
                item.exposed = True
            return
        finally:
            self.model.submits = False
        self.withdraw()
        for item in self.items.values():
            self.model.forget(item)
        self.items.clear()
        self.model.batches.remove(self)
        self.model.batched += 1  # or more, or none
        assert not locked(self.memory)


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
        self.batches: list[Batch] = []
        self.batched = 0  # items of batches that completed
        self.completed = self.unmatched = 0
        self.taking = 0  # calls that may deliver completions, one inside the other
        self.may_drain = self.may_send_zero_copy = False
        self.drains = False  # it may hold back what was submitted
        self.submits = False  # in the present call, whatever is queued
        self.held = False  # by a message that was leaked
        self.closed = self.leaks = False

    def __str__(self) -> str:
        return self.name

    # ---- preparing ----

    def index_of(self, file: Any) -> int | None:
        places = [n for n, found in enumerate(self.table) if found is file]
        return self.world.rnd.choice(places) if places else None

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
        self.add(op)

    def add(self, op: Operation) -> None:
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
        assert counters.completed >= self.completed
        assert counters.completed == self.completed or self.batches or self.batched
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

    def awaited(self) -> list[Operation]:
        """What is outstanding, without the zero-copy sends whose data other rings are to read."""
        sends = [op for op in self.outstanding if isinstance(op, SendZeroCopy)]
        held_up = {op for op in sends if not op.direction.may_read()}
        return [op for op in self.outstanding if op not in held_up]

    def quiesce(self, seconds: float = 5.0) -> None:
        """Whatever was submitted ends when it is cancelled."""
        until = time.monotonic() + seconds
        for op in self.outstanding:
            op.exposed = True
        while self.awaited() or self.messages_due():
            if self.sqpoll:  # whose kernel threads only such a one reaches
                every = CancelMany(self, None)
                self.prepare(every, Token(every))
            self.submit()
            self.make_way()
            self.cancel_now(flags=CancelFlags.ANY | CancelFlags.ALL)
            for batch in self.batches:
                batch.complete(batch.CAPACITY, 0)
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
        for batch in self.batches:
            assert not locked(batch.memory), "the memory of a batch is still exported"

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
        possible = [op for op in self.outstanding if op not in queued]
        assert len(certain) <= leaked <= len(possible), f"leaked {leaked}: {self.describe()}"
        for op in list(self.outstanding):
            if isinstance(op, Message) and op not in queued:
                op.to.held = True
            if op in late:
                self.world.haunt(op)
            elif op in queued:
                op.fail()
            else:
                op.vanish()
            self.end(op)
        return leaked
