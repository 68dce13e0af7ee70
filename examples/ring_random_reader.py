"""Read random 4 KiB blocks of a file, 32 at a time: ring_random_reader.py [FILE [SECONDS]].

Past the page cache (O_DIRECT) where the file system can do that.  Without a file it makes one.
No Python object is made for a read: the ring takes arrays and fills arrays.
"""

import errno
import mmap
import os
import random
import sys
import tempfile
import time
from array import array

from ferrule.ring import Ring, SqeFlags

BLOCK = 4096
DEPTH = 32
SIZE = 16 << 20


def main(arguments):
    seconds = float(arguments[1]) if len(arguments) > 1 else 1.0
    if arguments:
        report(arguments[0], seconds)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "blocks")
        write_blocks(path)
        report(path, seconds)


def write_blocks(path):
    with open(path, "wb") as file:
        file.write(os.urandom(SIZE))
        file.flush()
        os.fsync(file.fileno())


def report(path, seconds):
    fd, how = open_direct(path)
    try:
        blocks = os.fstat(fd).st_size // BLOCK
        if blocks == 0:
            sys.exit(f"{path} is smaller than a block of {BLOCK} bytes")
        reads, taken = read_at_random(fd, blocks, seconds)
    finally:
        os.close(fd)
    print(f"{reads / taken:.0f} reads per second, {how}, {DEPTH} at a time")


def open_direct(path):
    """The file's descriptor, and how it is read."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT), "O_DIRECT"
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, os.O_RDONLY), "through the page cache"


def read_at_random(fd, blocks, seconds):
    """(reads, seconds) until the time is up and the last read has completed."""
    memory = mmap.mmap(-1, DEPTH * BLOCK)  # page-aligned, as O_DIRECT wants it
    # A read's tag is where in the memory its block goes: what comes back says which place is free.
    places = array("Q", range(0, DEPTH * BLOCK, BLOCK))
    results = array("i", [0]) * DEPTH
    offsets = range(0, blocks * BLOCK, BLOCK)
    reads, free = 0, DEPTH
    with Ring(DEPTH) as ring, ring.batch_queue(DEPTH, memory) as queue:
        ring.register_files([fd])
        begin = time.perf_counter()
        while (taken := time.perf_counter() - begin) < seconds or queue.in_flight:
            if taken < seconds:
                starts, chosen = places[:free], array("q", random.choices(offsets, k=free))
                queue.prep_read(0, starts, BLOCK, chosen, tags=starts, flags=SqeFlags.FIXED_FILE)
            free = queue.submit_and_complete(results, places, wait_nr=1)
            if results[:free].count(BLOCK) != free:
                raise OSError("a read failed or came short")
            reads += free
    return reads, taken


main(sys.argv[1:])
