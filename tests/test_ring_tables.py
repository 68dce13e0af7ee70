"""Registered files and registered buffers, and the operations on them."""

import tempfile
from collections.abc import Iterator
from typing import IO

import pytest

from ferrule.ring import SetupFlags
from ring_support import clean_ring, each_setup, finish

PATTERN = bytes(range(256)) * 64


@pytest.fixture
def file() -> Iterator[IO[bytes]]:
    """A file with 16 KiB of PATTERN."""
    with tempfile.TemporaryFile() as file:
        file.write(PATTERN)
        file.flush()
        yield file


# ---- operations on registered buffers ------------------------------------------------------


@each_setup
def test_a_fixed_read_fills_the_registered_buffer_given(flags: SetupFlags, file: IO[bytes]) -> None:
    data = bytearray(4096)
    with clean_ring(flags=flags) as ring:
        (registered,) = ring.register_buffers([data])
        ring.prep_read_fixed(file, registered, 5)
        assert finish(ring)[0].res == 4096
        assert data == PATTERN[5:4101]


@each_setup
def test_a_fixed_write_takes_any_part_of_a_registered_buffer(
    flags: SetupFlags, file: IO[bytes]
) -> None:
    data = bytearray(b"0123456789" * 100)
    with clean_ring(flags=flags) as ring:
        (registered,) = ring.register_buffers([data])
        ring.prep_write_fixed(file, registered[10:15], 0)
        ring.prep_write_fixed(file, memoryview(data)[5:10], 5, 0)
        assert [cqe.res for cqe in finish(ring, 2)] == [5, 5]
    file.seek(0)
    assert file.read(11) == b"0123456789" + PATTERN[10:11]


@each_setup
def test_vectored_fixed_operations_use_pieces_of_one_registered_buffer(
    flags: SetupFlags, file: IO[bytes]
) -> None:
    data = bytearray(100)
    with clean_ring(flags=flags) as ring:
        (registered,) = ring.register_buffers([data])
        ring.prep_readv_fixed(file, [registered[50:60], registered[0:5]], 1)
        assert finish(ring)[0].res == 15
        assert data[50:60] == PATTERN[1:11]
        assert data[:5] == PATTERN[11:16]
        ring.prep_writev_fixed(file, [memoryview(data)[:5], memoryview(data)[50:60]], 0, 0, 0)
        assert finish(ring)[0].res == 15
    file.seek(0)
    assert file.read(15) == PATTERN[11:16] + PATTERN[1:11]
