"""Tables on the terminal: with rich where it is installed, else plain text."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

from ferrule.cli.extras import is_available

Row = Sequence[str]
WIDTH = 100


def print_table(title: str, rows: Sequence[Row], *, out: TextIO | None = None) -> None:
    """Print ``rows`` of a name and one or more values under a title."""
    out = out or sys.stdout
    if is_available("rich"):
        _print_rich(title, rows, out)
    else:
        out.write(format_plain(title, rows))


def _print_rich(title: str, rows: Sequence[Row], out: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Into a pipe there is no width to ask for.
    console = Console(file=out, width=None if out.isatty() else WIDTH, highlight=False)
    table = Table(title=title, title_justify="left", show_header=False, box=box.SIMPLE_HEAD)
    table.add_column(no_wrap=True, style="bold")
    for _ in range(max((len(row) for row in rows), default=1) - 1):
        table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: brackets are not markup
    console.print(table)


def format_plain(title: str, rows: Sequence[Row]) -> str:
    """The same as text, wrapped at 100 columns."""
    name_width = max((len(row[0]) for row in rows), default=0)
    lines = [title, "-" * len(title)]
    for name, *values in rows:
        wrapped = textwrap.wrap("  ".join(values), WIDTH - name_width - 4) or [""]
        lines.append(f"  {name:<{name_width}}  {wrapped[0]}".rstrip())
        lines.extend(" " * (name_width + 4) + line for line in wrapped[1:])
    return "\n".join(lines) + "\n\n"
