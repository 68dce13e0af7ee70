"""docs/backends.md says of every operation, for every engine, how it is done."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

from engine_suite import BY_SOAK, ON_NO_ENGINE
from ferrule.engines import ENGINES

ROOT = Path(__file__).parent.parent
OPERATIONS = re.findall(
    r'\[OP_\w+\] = \{"(\w+)"', (ROOT / "src/ferrule/_core/operations/operation.c").read_text()
)


def table() -> tuple[list[str], dict[str, list[str]]]:
    text = (ROOT / "docs/backends.md").read_text()
    lines = text[text.index("| operation |") :].split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return rows[0][1:], {row[0]: row[1:] for row in rows[2:]}


def test_the_table_has_a_row_for_every_operation() -> None:
    assert len(OPERATIONS) > 30
    assert list(table()[1]) == OPERATIONS


def test_the_table_has_a_filled_cell_for_every_engine() -> None:
    engines, rows = table()
    assert sorted(engines) == sorted(ENGINES)
    for operation, cells in rows.items():
        assert len(cells) == len(engines), operation
        assert all(cells), operation


def test_what_is_left_out_on_other_engines_exists() -> None:
    modules = [path.stem for path in (ROOT / "tests").glob("test_*.py")]
    for pattern in (*ON_NO_ENGINE, *BY_SOAK):
        assert fnmatch.filter(modules, pattern), f"engine_suite.py names {pattern}, which is not"
