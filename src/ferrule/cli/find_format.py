"""What `ferrule find` writes of an entry: -printf's formats, -ls, JSON, colours, as pieces that the
filter's "format" takes."""

from __future__ import annotations

import os
from typing import Any

Piece = bytes | tuple[str, dict[str, Any]]

_DIRECTIVES = "aAbBcCdDfFgGhHiklmMnpPsStTuUyY"
_NAMES = "fhHlpP"  # what a terminal must not take as commands
_ESCAPES = {"a": b"\a", "b": b"\b", "f": b"\f", "n": b"\n", "r": b"\r", "t": b"\t", "v": b"\v",
            "\\": b"\\"}
_TIMES = {"a": "a", "c": "c", "t": "m", "A": "a", "C": "c", "T": "m", "B": "B"}
_FLAGS = {"-": "left", "0": "zero", "#": "sharp", "+": "plus", " ": "space"}
_WIDTH_LIMIT = 300

LS: tuple[Piece, ...] = (
    ("i", {"width": 9}), b" ", ("k", {"width": 6}), b" ", ("M", {}), b" ", ("n", {"width": 3}),
    b" ", ("u", {"width": 8, "left": True}), b" ", ("g", {"width": 8, "left": True}), b" ",
    ("v", {"width": 8}), b" ", ("w", {}), b" ", ("e", {}), b"\n",
)
JSON: tuple[Piece, ...] = (("j", {}),)


class Format:
    """A parsed format: its pieces, and what deserves a warning."""

    def __init__(self, text: str, slashed_roots: bytes, *, safe: bool) -> None:
        """Parse ``text``.  Raises ValueError.

        ``slashed_roots`` are those given with a slash at the end, each with a zero byte; ``safe``
        is for terminals.
        """
        self.pieces: list[Piece] = []
        self.warnings: list[str] = []
        self._text = text
        self._at = 0
        self._roots = slashed_roots
        self._safe = safe
        self._parse()

    def _parse(self) -> None:
        text = self._text
        while self._at < len(text):
            c = text[self._at]
            self._at += 1
            if c == "\\":
                if not self._escape():
                    return
            elif c == "%":
                self._directive()
            else:
                self._literal(os.fsencode(c))

    def _literal(self, data: bytes) -> None:
        last = self.pieces[-1] if self.pieces else None
        if isinstance(last, bytes):
            self.pieces[-1] = last + data
        else:
            self.pieces.append(data)

    def _escape(self) -> bool:
        """Whether the format goes on."""
        text, at = self._text, self._at
        if at == len(text):
            self.warnings.append("a \\ at the end of the format stands for itself")
            self._literal(b"\\")
            return True
        c = text[at]
        self._at += 1
        if c == "c":
            return False
        if c in "01234567":
            digits = c
            while len(digits) < 3 and self._at < len(text) and text[self._at] in "01234567":
                digits += text[self._at]
                self._at += 1
            self._literal(bytes([int(digits, 8) & 255]))
        elif c in _ESCAPES:
            self._literal(_ESCAPES[c])
        else:
            self.warnings.append(f"unknown escape \\{c} stands for itself")
            self._literal(b"\\" + os.fsencode(c))
        return True

    def _directive(self) -> None:
        text, start = self._text, self._at - 1
        if text[self._at : self._at + 1] == "%":
            self._at += 1
            self._literal(b"%")
            return
        fields = self._flags()
        if self._at == len(text):
            raise ValueError("% at the end of the format")
        letter = text[self._at]
        self._at += 1
        if letter == "Z":
            raise ValueError("there is no %Z here: SELinux is not asked; for its contexts: "
                             "-exec stat -c '%C %n' {} +")
        if letter not in _DIRECTIVES:
            self.warnings.append(f"unknown directive {text[start:self._at]} stands for itself")
            self._literal(os.fsencode(text[start : self._at]))
            return
        if letter in _TIMES:
            self._time(letter, fields)
        else:
            self._other(letter, fields)

    def _flags(self) -> dict[str, Any]:
        text = self._text
        fields: dict[str, Any] = {}
        while self._at < len(text) and text[self._at] in _FLAGS:
            fields[_FLAGS[text[self._at]]] = True
            self._at += 1
        width = self._digits()
        if width:
            fields["width"] = self._limited(width)
        if text[self._at : self._at + 1] == ".":
            self._at += 1
            fields["precision"] = self._limited(self._digits() or "0")
        return fields

    def _digits(self) -> str:
        start = self._at
        while self._at < len(self._text) and self._text[self._at] in "0123456789":
            self._at += 1
        return self._text[start : self._at]

    def _limited(self, digits: str) -> int:
        if int(digits) > _WIDTH_LIMIT:
            raise ValueError(f"a width or precision goes to {_WIDTH_LIMIT}")
        return int(digits)

    def _time(self, letter: str, fields: dict[str, Any]) -> None:
        fields["field"] = _TIMES[letter]
        if letter in "ABCT":
            if self._at == len(self._text):
                raise ValueError(f"%{letter} needs a letter behind it")
            fields["how"] = self._text[self._at]
            self._at += 1
        self.pieces.append(("T", fields))

    def _other(self, letter: str, fields: dict[str, Any]) -> None:
        if letter == "F":
            from ferrule.cli.find_mounts import type_table

            fields["text"] = type_table()
        if letter == "H":
            fields["text"] = self._roots
        fields["safe"] = self._safe and letter in _NAMES
        self.pieces.append((letter, fields))


def coloured(text: str | None) -> tuple[tuple[Piece, ...], list[tuple[bytes, bytes]]]:
    """The pieces that print a path in colours, and these, from the value of LS_COLORS."""
    return (("q", {"safe": True}), b"\n"), parse_colours(text)


_DEFAULT = "di=01;34:ln=01;36:pi=33:so=01;35:bd=01;33:cd=01;33:or=01;31:su=37;41:sg=30;43:" \
           "tw=30;42:ow=34;42:st=37;44:ex=01;32"


def parse_colours(text: str | None) -> list[tuple[bytes, bytes]]:
    """(key, code) pairs; what is no code is left out, so nothing else reaches the terminal."""
    found = []
    for item in (text or _DEFAULT).split(":"):
        key, equals, code = item.partition("=")
        if equals and key and all(c in "0123456789;" for c in code) and (
            key.startswith("*") or len(key) == 2
        ):
            found.append((os.fsencode(key), code.encode()))
    return found
