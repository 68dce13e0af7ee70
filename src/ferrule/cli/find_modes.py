"""Permissions on the command line of `ferrule find`: octal, or as chmod takes them."""

from __future__ import annotations

_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007, "a": 0o7777}
_WHAT = {"r": 0o444, "w": 0o222, "x": 0o111, "s": 0o6000, "t": 0o1000}
_COPY = {"u": 6, "g": 3, "o": 0}


def parse_mode(text: str) -> tuple[int, int]:
    """The bits for files, and those for directories, where X means x.  Raises ValueError."""
    if text and all(c in "01234567" for c in text):
        mode = int(text, 8)
        if mode > 0o7777:
            raise ValueError("permissions go to 7777")
        return mode, mode
    return _adjust(text, is_directory=False), _adjust(text, is_directory=True)


def _adjust(text: str, *, is_directory: bool) -> int:
    mode = 0
    for clause in text.split(","):
        who = len(clause) - len(clause.lstrip("ugoa"))
        affected = 0
        for letter in clause[:who] or "a":
            affected |= _WHO[letter]
        if clause[who : who + 1] not in ("+", "-", "="):
            raise ValueError("no permissions: " + repr(text))
        mode = _apply(mode, affected, clause[who:], is_directory=is_directory)
    return mode


def _apply(mode: int, affected: int, actions: str, *, is_directory: bool) -> int:
    at = 0
    while at < len(actions):
        operator = actions[at]
        end = at + 1
        while end < len(actions) and actions[end] not in "+-=":
            end += 1
        value = affected & _value(actions[at + 1 : end], mode, is_directory=is_directory)
        if operator == "+":
            mode |= value
        elif operator == "-":
            mode &= ~value
        else:
            mode = mode & ~affected | value
        at = end
    return mode


def _value(letters: str, mode: int, *, is_directory: bool) -> int:
    if letters in _COPY and letters:
        bits = mode >> _COPY[letters] & 7
        return bits << 6 | bits << 3 | bits
    value = 0
    for letter in letters:
        if letter == "X":
            value |= 0o111 if is_directory or mode & 0o111 else 0
        elif letter in _WHAT:
            value |= _WHAT[letter]
        else:
            raise ValueError(f"no permission: {letter!r}")
    return value
