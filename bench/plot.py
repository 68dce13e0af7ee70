"""Draws a benchmark as bars, an SVG by hand: one block for each case, one bar for each peer."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

WIDTH, LABEL, BAR = 760, 190, 470
LINE, GAP, TOP = 20, 34, 44
OURS, THEIRS, INK, FAINT = "#b5541c", "#8a9bb0", "#1f2328", "#6e7781"


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
    better = "more" if found["higher_is_better"] else "less"
    title = f"{found['title']}: {found['unit']}, {better} is better"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" '
            f'font-family="sans-serif" font-size="12" fill="{INK}">',
            f'<rect width="{WIDTH}" height="{y}" fill="white"/>',
            text(LABEL, 24, title, 'font-size="15"'),
            *parts,
            "</svg>\n",
        ]
    )
