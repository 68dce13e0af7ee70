"""The arguments of a walk that choose entries, as trees for `EntryFilter`.

Each function gives the tests that an entry has to pass, none if there was no such argument.
"""

from __future__ import annotations

import grp
import math
import os
import pwd
from collections.abc import Iterable
from typing import Any

from ferrule._core.entry_filter import EntryFilter

Patterns = str | bytes | Iterable[str | bytes]
Test = tuple[Any, ...]

LONGEST = 2**63 - 1


def compiled(*tests: Test) -> EntryFilter | None:
    """Return a filter that wants all of them; None, which wants everything, for none."""
    return EntryFilter(("and", *tests)) if tests else None


def named(patterns: Patterns | None) -> list[Test]:
    """One of the globs; one with a slash is for the whole path."""
    if patterns is None:
        return []
    if isinstance(patterns, (str, bytes)):
        patterns = [patterns]
    globs = [os.fsencode(pattern) for pattern in patterns]
    return [("or", *(("path" if b"/" in glob else "name", glob) for glob in globs))]


def typed(letters: str) -> list[Test]:
    """One of find's types."""
    return [("type", letters)] if letters else []


def matching(regex: str | bytes | None) -> list[Test]:
    """A regular expression for the whole path."""
    return [] if regex is None else [("regex", os.fsencode(regex), "posix-extended")]


def sized(smallest: int | None, largest: int | None) -> list[Test]:
    """Sizes in bytes; both limits belong to what is wanted."""
    tests = []
    if smallest is not None:
        tests.append(("not", ("size", "<", _size("min_size", smallest))))
    if largest is not None:
        tests.append(("not", ("size", ">", _size("max_size", largest))))
    return tests


def _size(what: str, size: int) -> int:
    if not 0 <= size <= LONGEST:
        raise ValueError(f"{what} must be a number of bytes, not {size}")
    return size


def modified(after: float | None, before: float | None) -> list[Test]:
    """Times of modification in seconds since 1970."""
    tests = []
    if after is not None:
        tests.append(("time", "m", ">", _nanoseconds("modified_after", after)))
    if before is not None:
        tests.append(("time", "m", "<", _nanoseconds("modified_before", before)))
    return tests


def _nanoseconds(what: str, seconds: float) -> int:
    if math.isnan(seconds):
        raise ValueError(f"{what} must be a time, not {seconds}")
    return int(max(-LONGEST, min(seconds * 1e9, LONGEST)))


def owned(what: str, who: str | int | None) -> list[Test]:
    """A user ("uid") or a group ("gid"), by name or number."""
    if who is None:
        return []
    if isinstance(who, str):
        who = _number(what, who)
    if not 0 <= who < 2**32:
        raise ValueError(f"{'owner' if what == 'uid' else 'group'} cannot be {who}")
    return [(what, "=", who)]


def _number(what: str, name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid if what == "uid" else grp.getgrnam(name).gr_gid
    except KeyError:
        kind = "owner: there is no user" if what == "uid" else "group: there is no group"
        raise ValueError(f"{kind} {name!r}") from None
