"""The files that the ring reads: each 4 KiB block begins with its own offset, so it is known."""

from __future__ import annotations

import os
import random
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BLOCK = 4096
STAMP = 8  # bytes
CHUNK = 1 << 20


def write_file(path: Path, size: int) -> None:
    """Write a file of random bytes, once; on the disk, not only in memory."""
    if path.exists() and path.stat().st_size == size:
        return
    draft = path.with_suffix(".draft")
    with open(draft, "wb") as file:
        for begin in range(0, size, CHUNK):
            chunk = bytearray(os.urandom(CHUNK))
            for place in range(0, CHUNK, BLOCK):
                chunk[place : place + STAMP] = (begin + place).to_bytes(STAMP, "little")
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def shuffled_offsets(size: int) -> array[int]:
    """Return the offset of every block, in random order, another each time."""
    offsets = list(range(0, size, BLOCK))
    random.shuffle(offsets)
    return array("q", offsets)


def check_blocks(memory: Any, offsets: Iterable[int]) -> None:
    """Raise unless the blocks in `memory` are those of `offsets`."""
    for slot, offset in enumerate(offsets):
        found = int.from_bytes(memory[slot * BLOCK : slot * BLOCK + STAMP], "little")
        if found != offset:
            raise AssertionError(f"slot {slot} has the block of {found}, not of {offset}")
