"""Draws a benchmark, an SVG by hand: as bars, one block for each case and one bar for each peer;
or, where its cases are places on an axis, as lines, one for each peer.
"""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

WIDTH, LABEL, BAR = 760, 190, 470
LINE, GAP, TOP = 20, 34, 44
OURS, THEIRS, INK, FAINT = "#b5541c", "#8a9bb0", "#1f2328", "#6e7781"
LEFT, RIGHT, HEIGHT = 70, 530, 330  # of the lines' field; its names stand to the right of it
DASHES = ("", "6 3", "2 3", "9 3 2 3")


def text(x: float, y: float, words: str, extra: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {extra}>{escape(words)}</text>'


def bar(row: dict[str, Any], y: int, scale: float, shown: str) -> list[str]:
    """Draw one peer: its name, a bar up to its median, a whisker over its spread, its figure."""
    ours = row["peer"].lower().startswith("ferrule")
    weight = 'font-weight="bold"' if ours else ""
    parts = [text(LABEL - 8, y + 13, row["peer"], f'text-anchor="end" {weight}')]
    if row["median"] is None:
        return [*parts, text(LABEL, y + 13, "no figure", f'fill="{FAINT}"')]
    figures = [sample["value"] * scale for sample in row["samples"]]
    length, low, high = max(row["median"] * scale, 1), min(figures), max(figures)
    return [
        *parts,
        f'<rect x="{LABEL}" y="{y + 3}" width="{length:.1f}" height="{LINE - 6}" '
        f'fill="{OURS if ours else THEIRS}"/>',
        f'<path d="M{LABEL + low:.1f} {y + LINE / 2}H{LABEL + high:.1f}" stroke="{INK}"/>',
        text(LABEL + max(length, high) + 6, y + 13, shown, weight),
    ]


def draw(found: dict[str, Any], short: Any) -> str:
    """Return the SVG of a document; `short` writes a figure."""
    better = "more" if found["higher_is_better"] else "less"
    title = f"{found['title']}: {found['unit']}, {better} is better"
    parts, height = (lines if found.get("axis") else bars)(found, short)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" font-family="sans-serif" font-size="12" fill="{INK}">',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            text(LABEL, 24, title, 'font-size="15"'),
            *parts,
            "</svg>\n",
        ]
    )


def bars(found: dict[str, Any], short: Any) -> tuple[list[str], int]:
    """Return the drawing and its height."""
    parts, y = [], TOP
    for case in dict.fromkeys(row["case"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["case"] == case]
        largest = max((s["value"] for row in rows for s in row["samples"]), default=1)
        parts.append(text(LABEL, y + 12, case, 'font-weight="bold"'))
        y += LINE
        for row in rows:
            parts += bar(row, y, BAR / largest, short(row["median"]))
            y += LINE
        y += GAP - LINE
    return parts, y


def lines(found: dict[str, Any], short: Any) -> tuple[list[str], int]:
    """Return the drawing and its height: the axis below in powers, the one to the left from 0."""
    places = {case: math.log10(x) for case, x in found["places"].items()}
    first, last = min(places.values()), max(places.values())
    rows = [row for row in found["rows"] if row["median"] is not None]
    largest = max((row["median"] for row in rows), default=1)
    bottom = TOP + HEIGHT

    def across(case: str) -> float:
        return LEFT + (RIGHT - LEFT) * (places[case] - first) / ((last - first) or 1)

    def up(value: float) -> float:
        return bottom - HEIGHT * value / largest

    parts = [f'<path d="M{LEFT} {TOP}V{bottom}H{RIGHT}" fill="none" stroke="{INK}"/>']
    for case in places:
        where = short(found["places"][case])
        parts.append(text(across(case), bottom + 16, where, 'text-anchor="middle"'))
    parts += [
        text(LEFT - 6, up(value) + 4, short(value), 'text-anchor="end"')
        for value in (largest / 2, largest)
    ]
    parts.append(text(RIGHT, bottom + 34, found["axis"], f'text-anchor="end" fill="{FAINT}"'))
    peers = dict.fromkeys(row["peer"] for row in rows)
    ends = {p: up([row["median"] for row in rows if row["peer"] == p][-1]) for p in peers}
    label = float(TOP)
    drawn = {True: 0, False: 0}  # of ours and of theirs, told apart by their dashes
    for peer in sorted(peers, key=ends.__getitem__):
        ours = peer.lower().startswith("ferrule")
        colour, dashes = OURS if ours else THEIRS, DASHES[drawn[ours] % len(DASHES)]
        drawn[ours] += 1
        points = " ".join(
            f"{across(row['case']):.1f},{up(row['median']):.1f}"
            for row in rows
            if row["peer"] == peer
        )
        label = max(label + 16, ends[peer])
        parts += [
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dashes}"/>',
            f'<path d="M{RIGHT + 4} {ends[peer]:.1f}L{RIGHT + 14} {label:.1f}H{RIGHT + 26}" '
            f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>',
            text(RIGHT + 32, label + 4, peer, 'font-weight="bold"' if ours else ""),
        ]
    return parts, bottom + 46
