"""Copy a file with linked reads and writes: ring_copy.py [SOURCE TARGET].

Each block is a pair: a read, and the write of what it brings, which the kernel starts by itself
when the read came in full.  Eight pairs are in flight; Python only hands out the blocks.  Without
arguments it makes a file to copy, and compares the copy with it.
"""

import filecmp
import os
import sys
import tempfile
from collections import deque

from ferrule.ring import Ring

BLOCK = 256 * 1024
PAIRS = 8
SIZE = 10_000_000


def main(arguments):
    if arguments:
        source, target = arguments
        print(copy(source, target), "bytes")
        return
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, "source"), os.path.join(folder, "target")
        with open(source, "wb") as file:
            file.write(os.urandom(SIZE))
        print(copy(source, target), "bytes")
        print("identical" if filecmp.cmp(source, target, shallow=False) else "different")


def copy(source, target):
    """Copy a file's bytes; returns how many."""
    if os.path.exists(target) and os.path.samefile(source, target):
        sys.exit(f"{source} and {target} are the same file")
    with (
        Ring(2 * PAIRS) as ring,
        open(source, "rb", buffering=0) as reader,
        open(target, "wb", buffering=0) as writer,
    ):
        size = os.fstat(reader.fileno()).st_size
        blocks = deque((start, min(BLOCK, size - start)) for start in range(0, size, BLOCK))
        buffers = [bytearray(BLOCK) for _ in range(PAIRS)]
        while blocks or len(buffers) < PAIRS:
            while blocks and buffers:
                Pair(ring, reader, writer, buffers.pop(), *blocks.popleft())
            ring.submit_and_wait(1)
            for cqe in ring.copy_cqes():
                pair, operation = cqe.user_data
                pair.completed[operation] = cqe
                if len(pair.completed) == 2:
                    buffers.append(pair.buffer)
                    blocks.extend(pair.left_over())
    return size


class Pair:
    """The read and the write of one block."""

    def __init__(self, ring, reader, writer, buffer, offset, length):
        self.buffer, self.offset, self.length = buffer, offset, length
        self.completed = {}
        part = memoryview(buffer)[:length]
        ring.prep_read(reader, part, offset, user_data=(self, "read")).link()
        ring.prep_write(writer, part, offset, user_data=(self, "write"))

    def left_over(self):
        """Blocks still to copy: a short read broke the link, or the write itself was short."""
        done = self.completed["read"].raise_for_error()
        if done == 0:
            raise EOFError(f"the source ends at {self.offset}: it was cut while it was copied")
        if done < self.length:
            yield self.offset, done
        else:
            done = self.completed["write"].raise_for_error()
        if done < self.length:
            yield self.offset + done, self.length - done


main(sys.argv[1:])
