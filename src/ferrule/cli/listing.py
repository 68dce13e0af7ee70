"""The page that shows a directory without an index.html."""

from __future__ import annotations

import html
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

import ferrule
from ferrule.cli.file_tree import stat_beneath

ENTRIES_MAX = 10_000

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em; }}
td, th {{ padding: 0 2em 0 0; text-align: left; white-space: nowrap; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
a {{ text-decoration: none; }}
</style>
</head>
<body>
<h1>{title}</h1>
<table>
<tr><th>Name</th><th>Size</th><th>Modified (UTC)</th></tr>
{rows}
</table>
{note}</body>
</html>
"""
_ROW = '<tr><td><a href="{href}">{name}</a></td><td class="number">{size}</td><td>{time}</td></tr>'


@dataclass(slots=True)
class Entry:
    """One line of the page.  ``name`` is what the directory holds, as bytes."""

    name: bytes
    is_directory: bool
    size: int
    modified: float


def list_directory(root: int, names: list[bytes], directory: int) -> tuple[list[Entry], bool]:
    """What can be served from the open ``directory``, which lies at ``names`` below ``root``.

    Directories first, then by name.  The second value: whether there was more than ENTRIES_MAX.
    A switch and cancellation point.
    """
    found, truncated = ferrule.blocking(_scan, directory)
    entries = []
    for name, status in found:
        if stat.S_ISLNK(status.st_mode):
            try:
                status = stat_beneath(root, [*names, name])
            except OSError:
                continue  # broken, or it leads out
        is_directory = stat.S_ISDIR(status.st_mode)
        if is_directory or stat.S_ISREG(status.st_mode):
            entries.append(Entry(name, is_directory, status.st_size, status.st_mtime))
    entries.sort(key=lambda entry: (not entry.is_directory, entry.name.lower()))
    return entries, truncated


def _scan(directory: int) -> tuple[list[tuple[bytes, os.stat_result]], bool]:
    """Names and statuses, links not followed.  Blocks."""
    entries: list[tuple[bytes, os.stat_result]] = []
    with os.scandir(directory) as found:
        for item in found:
            if len(entries) == ENTRIES_MAX:
                return entries, True
            try:
                entries.append((os.fsencode(item.name), item.stat(follow_symlinks=False)))
            except OSError:
                continue  # gone meanwhile
    return entries, False


def render_listing(names: list[bytes], entries: Iterable[Entry], *, truncated: bool) -> bytes:
    """The page as UTF-8.  Names are escaped for HTML, their links for URLs."""
    rows = [_ROW.format(href="../", name="../", size="", time="")] if names else []
    rows.extend(_render_entry(entry) for entry in entries)
    title = html.escape("/" + "".join(f"{_display(name)}/" for name in names))
    note = f"<p>Only {ENTRIES_MAX} entries are shown.</p>\n" if truncated else ""
    page = _PAGE.format(title=title, rows="\n".join(rows), note=note)
    return page.encode("utf-8")


def _render_entry(entry: Entry) -> str:
    slash = "/" if entry.is_directory else ""
    try:
        modified = time.strftime("%Y-%m-%d %H:%M", time.gmtime(entry.modified))
    except (OverflowError, ValueError, OSError):
        modified = ""
    return _ROW.format(
        href="./" + quote(entry.name, safe="") + slash,
        name=html.escape(_display(entry.name)) + slash,
        size="" if entry.is_directory else f"{entry.size:,}",
        time=modified,
    )


def _display(name: bytes) -> str:
    return name.decode("utf-8", "replace")
