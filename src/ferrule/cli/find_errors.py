"""What `ferrule find` says when it cannot do what it was told."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

NAME = "ferrule find"


class FindError(Exception):
    """The command line cannot be understood.

    ``at`` and ``count`` are the arguments to blame; ``wrong`` and ``known`` make a suggestion.
    """

    def __init__(
        self, message: str, at: int | None = None, count: int = 1, *, wrong: str = "",
        known: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.at = at
        self.count = count
        self.wrong = wrong
        self.known = known


def quote(path: bytes | str) -> str:
    """A path as messages show it: in the quotes that the terminal has, without controls."""
    text = os.fsdecode(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    encoding = (getattr(sys.stderr, "encoding", None) or "ascii").lower()
    return f"‘{text}’" if encoding.replace("-", "") == "utf8" else f"'{text}'"


def tell(message: str) -> None:
    """One line on standard error."""
    data = f"{NAME}: {message}\n".encode("utf-8", "backslashreplace")
    try:
        os.write(2, data)
    except OSError:  # nobody is there to be told
        pass


def tell_error(path: bytes | str, number: int) -> None:
    """What went wrong with a file."""
    tell(f"{quote(path)}: {os.strerror(number)}")


def explain(error: FindError, words: list[str]) -> str:
    """The message, a suggestion, and the command with what is wrong in it underlined."""
    import difflib

    lines = [str(error)]
    if error.wrong:
        near = difflib.get_close_matches(error.wrong, error.known, 1, 0.6)
        if near:
            lines[0] += f"; did you mean {near[0]}?"
    if error.at is not None:
        lines += _underline(words, error.at, error.count)
    return "\n".join(lines)


def _underline(words: list[str], at: int, count: int) -> list[str]:
    import shlex

    shown = [shlex.quote(word) if word not in ("(", ")", "!", ";") else f"\\{word}"
             for word in words]
    shown = ["".join(c if c.isprintable() else "?" for c in word) for word in shown]
    before = " ".join([NAME, *shown[:at]])
    marked = " ".join(shown[at : at + count])
    after = " ".join(shown[at + count :])
    start = len(before) + 1
    line = f"{before} {marked} {after}".rstrip()
    shift = max(0, start - 60)
    if shift:
        line = "…" + line[shift + 1 :]
    return ["    " + line[:110], "    " + " " * (start - shift) + "^" * max(1, len(marked))]
