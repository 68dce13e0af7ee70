"""cat with registered buffers: ring_cat.py [FILE ...].

Without a file it reads its standard input.  There are two buffers, pinned once: while the kernel
writes the one, it fills the other.
"""

import contextlib
import sys

from ferrule.ring import Ring

BLOCK = 64 * 1024


def main(paths):
    with Ring(2) as ring:
        buffers = ring.register_buffers([bytearray(BLOCK), bytearray(BLOCK)])
        if not paths:
            cat(ring, sys.stdin.fileno(), buffers)
        for path in paths:
            with open(path, "rb", buffering=0) as file:
                cat(ring, file, buffers)


def cat(ring, file, buffers):
    """Write all that `file` has to the standard output."""
    full, empty = buffers
    ring.prep_read_fixed(file, full)
    ring.submit_and_wait(1)
    count = ring.copy_cqe().raise_for_error()
    while count:
        ring.prep_write_fixed(sys.stdout.fileno(), full[:count], user_data="write")
        ring.prep_read_fixed(file, empty, user_data="read")
        ring.submit_and_wait(2)
        done = {cqe.user_data: cqe for cqe in ring.copy_cqes()}
        write(ring, full[done["write"].raise_for_error():count])
        full, empty = empty, full
        count = done["read"].raise_for_error()


def write(ring, rest):
    """Write what a short write has left."""
    while len(rest):
        ring.prep_write_fixed(sys.stdout.fileno(), rest)
        ring.submit_and_wait(1)
        rest = rest[ring.copy_cqe().raise_for_error():]


with contextlib.suppress(BrokenPipeError):  # as in `ring_cat.py FILE | head`
    main(sys.argv[1:])
