"""How far `ferrule find` has come: a line on the terminal, and the statistics at the end."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ferrule.cli.find_errors import tell

if TYPE_CHECKING:
    from ferrule._core.finder import Finder

FIRST_AFTER = 1.0  # seconds until the line appears
EVERY = 0.2        # seconds between two of its states


class Report:
    """The line is shown on standard error, if that is a terminal, once the walk takes long."""

    def __init__(self, *, to_terminal: bool) -> None:
        self.finder: Finder | None = None
        self.is_shown = os.isatty(2)
        self._shares_terminal = to_terminal
        self._begin = time.monotonic()
        self._next = self._begin + FIRST_AFTER
        self._is_there = False

    def turn(self) -> None:
        """Show it anew if it is time."""
        now = time.monotonic()
        if now < self._next or self.finder is None:
            return
        self._next = now + EVERY
        directories, entries, errors, queued = self.finder.progress()
        line = f"{entries:,} entries, {directories:,} directories read, {queued:,} to go"
        if errors:
            line += f", {errors:,} errors"
        self._write(f"\r\033[K{line}")
        self._is_there = True

    def clear(self, stream: int) -> None:
        """Take the line away, before something else is written to the terminal."""
        if self._is_there and (self._shares_terminal or stream == 0):
            self._write("\r\033[K")
            self._is_there = False

    def _write(self, text: str) -> None:
        try:
            os.write(2, text.encode())
        except OSError:
            self.is_shown = False

    def print_statistics(self, workers: int) -> None:
        """What was done, and how long it took."""
        if self.finder is None:
            return
        seconds = max(time.monotonic() - self._begin, 1e-9)
        used = os.times()
        directories, entries, errors, _ = self.finder.progress()
        tell(f"{entries:,} entries in {directories:,} directories, {errors:,} errors; "
             f"{seconds:.3f} s ({entries / seconds:,.0f} entries/s), "
             f"{used.user + used.system:.3f} s of processor time since the start, "
             f"{workers} worker{'s' * (workers != 1)}")
