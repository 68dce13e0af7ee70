"""Wrong arguments of every kind, for every prep_ and register_ method: a clear error, and the ring
goes on."""

import inspect
import os
import re
import socket

import pytest

from ferrule.ring import Ring
from ring_support import finish

PREPARE = sorted(name for name in dir(Ring) if name.startswith("prep_"))
REGISTER = sorted(name for name in dir(Ring) if re.match(r"(un)?register_", name))
# What a caller may get; anything else (SystemError, a crash) is a defect of ours.
CLEAR = (TypeError, ValueError, OverflowError, OSError, BufferError, LookupError)


class Hostile:
    """Fails whichever way it is converted."""

    def refuse(self, *_):
        raise LookupError("hostile")

    fileno = __index__ = __float__ = __iter__ = __len__ = __fspath__ = __getitem__ = refuse
    __eq__ = __bool__ = __buffer__ = refuse
    __hash__ = None


BAD = {
    "negative": -5, "minus-one": -1, "big": 2**31, "huge": 2**63, "beyond": 2**70, "float": 1.5,
    "text": "text", "nul": "a\0b", "read-only": b"bytes", "none": None, "object": object(),
    "empty": [], "list-of-none": [None], "tuple": (1, 2), "nested": [(1, 2, 3, 4)],
    "hostile": Hostile(), "type": int,
}


@pytest.fixture
def good(tmp_path):
    """A good value for each parameter, by its name."""
    left, right = socket.socketpair()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    path = os.fspath(tmp_path / "none")
    memory = [bytearray(64) for _ in range(4)]
    values = dict.fromkeys(
        ("file", "file_in", "file_out", "epoll", "sock"), left) | dict.fromkeys(
        ("dfd", "olddfd", "newdfd"), fd) | dict.fromkeys(
        ("path", "oldpath", "newpath", "target_path", "link_path", "linkpath"), path) | {
            "name": "user.x", "value": b"v", "address": ("127.0.0.1", 1)} | dict.fromkeys(
        ("buffer", "memory", "futex"), memory[0]) | {"buffers": memory[1:3]}
    yield values, memory
    os.close(fd)
    left.close()
    right.close()


def parameters(method):
    """The names of a method's own parameters, and whether each must be given."""
    found = inspect.signature(method).parameters.values()
    return {p.name: p.default is p.empty for p in found if p.name not in ("self", "user_data")}


def call(method, values, changed=None, bad=None):
    given = {name: values.get(name, 1) for name, needed in parameters(method).items() if needed}
    if changed:
        given[changed] = bad
    return method(**given)


def attempt(method, values, changed, bad):
    """What the method returns, or None where it says clearly what is wrong."""
    try:
        return call(method, values, changed, bad)
    except CLEAR as error:
        if not str(error):
            pytest.fail(f"{error!r} says nothing")
        return None


@pytest.mark.parametrize("name", PREPARE)
def test_bad_argument_of_a_prep_method_leaves_the_ring_as_it_was(name, good):
    values, memory = good
    with Ring(8) as ring:
        for changed in parameters(getattr(ring, name)):
            for bad in BAD.values():
                sqe = attempt(getattr(ring, name), values, changed, bad)
                assert ring.sq_ready() == (sqe is not None)
                if sqe is not None:
                    # Acceptable after all; but nobody wants it to happen.
                    flags = sqe.flags
                    sqe.flags = 0
                    assert flags in (0, 0x01, 0x20), "only a slot or buffer selection is preset"
                    sqe.prep_nop()
                    assert finish(ring)[0].res == 0
                assert ring.statistics().in_flight == 0
        ring.prep_nop("alive")
        assert finish(ring)[0].user_data == "alive"
    for buffer in memory:
        buffer.append(0)  # nothing is exported any more


@pytest.mark.parametrize("name", REGISTER)
def test_bad_argument_of_a_register_method_leaves_a_ring_that_works(name, good):
    values, memory = good
    with Ring(8) as ring:
        method = getattr(ring, name)
        for changed in parameters(method):
            for bad in BAD.values():
                attempt(method, values, changed, bad)
                ring.prep_nop("alive")
                assert finish(ring)[0].user_data == "alive"
    for buffer in memory:
        buffer.append(0)


@pytest.mark.parametrize("name", PREPARE + REGISTER)
def test_closed_ring_refuses_every_method_by_name(name, good):
    values, _ = good
    ring = Ring(8)
    ring.close()
    with pytest.raises(CLEAR):
        call(getattr(ring, name), values)


@pytest.mark.parametrize("name", PREPARE)
def test_submitted_sqe_refuses_every_method_by_name(name, good):
    values, memory = good
    with Ring(8) as ring:
        sqe = ring.prep_nop()
        finish(ring)
        with pytest.raises((RuntimeError, *CLEAR)):
            call(getattr(sqe, name), values)
    for buffer in memory:
        buffer.append(0)
