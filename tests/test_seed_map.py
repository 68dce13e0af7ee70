"""The tables that map the seeds' interfaces name calls and tests that exist."""

import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ("docs/seed-map.md", "docs/seed-map-ring.md", "docs/seed-map-queue.md")


def rows() -> list[tuple[str, str, str]]:
    """(seed's name, here, test) of every row of the tables."""
    found = []
    for page in PAGES:
        for line in (ROOT / page).read_text().splitlines():
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            if line.startswith("| ") and len(cells) == 3 and cells[2].strip(" |") != "test":
                found.append((cells[0], cells[1], cells[2].rstrip("|").strip()))
    return found


def names_of_tests() -> set[str]:
    source = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    names = set(re.findall(r"^\s*def (test_\w+)", source, re.MULTILINE))
    for path in (ROOT / "tests" / "c").glob("*.c"):
        names.update(re.findall(r"^    RUN\((\w+)\);", path.read_text(), re.MULTILINE))
    return names


def resolve(dotted: str) -> object:
    module, names = "ferrule", dotted.split(".")[1:]
    found: object = importlib.import_module(module)
    for name in names:
        try:
            found = getattr(found, name)
        except AttributeError:
            module = f"{module}.{name}"
            found = importlib.import_module(module)
    return found


def test_the_tables_are_read() -> None:
    assert len(rows()) > 130


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_each_entry_names_a_call_that_exists_and_a_test_or_the_part_that_brings_it(
    row: tuple[str, str, str],
) -> None:
    seed, here, tests = row
    for dotted in re.findall(r"`(ferrule(?:\.\w+)+)`", here):
        resolve(dotted)
    named = re.findall(r"`(test_\w+|[a-z]+(?:_[a-z]+){3,})`", tests)
    missing = set(named) - KNOWN
    assert not missing, f"{seed}: no such test: {missing}"
    assert named or "part" in here or "kernel" in tests or "through" in tests, f"{seed}: no test"


KNOWN = names_of_tests()
