"""The walks' benchmarks walk whole trees, count right, take only the versions named, and draw."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import plot, report, walk_find, walk_sizes, walk_trees
from bench.__main__ import GROUPS, NAMES
from bench.harness import Row, Settings, Unavailable

SHORT = 0.01  # seconds


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(walk_trees, "TREES", tmp_path / "trees")
    monkeypatch.setattr(walk_trees, "refuse_tmpfs", lambda path: None)
    return tmp_path


def test_walk_is_short_for_every_walk_benchmark() -> None:
    assert GROUPS["walk"] == ("walk_entries", "walk_find", "walk_memory", "walk_sizes")
    assert set(GROUPS["walk"]) <= set(NAMES)


@pytest.mark.parametrize("entries", [1, 10, 99, 100, 101, 1234])
def test_a_tree_has_as_many_entries_as_it_should(scratch: Path, entries: int) -> None:
    top = walk_trees.make_tree(entries)
    assert len(list(top.rglob("*"))) == entries
    (top / "another").touch()
    assert walk_trees.make_tree(entries) == top  # made once
    assert (top / "another").exists()


@pytest.mark.parametrize("folders", [1, 1000, 1001, 2345])
def test_a_tree_of_folders_has_as_many_as_it_should(scratch: Path, folders: int) -> None:
    top = walk_trees.make_folders(folders)
    found = list(top.rglob("*"))
    assert len(found) == folders
    assert all(path.is_dir() for path in found)


@pytest.mark.parametrize("peer", [name for name in walk_trees.WALKS if "scandir" not in name])
def test_every_walk_counts_every_entry(scratch: Path, peer: str) -> None:
    top = walk_trees.make_tree(1234)
    sample = walk_trees.time_walk(peer, str(top), SHORT)
    assert sample["entries"] == 1234
    assert sample["value"] > 0


def test_a_walk_that_misses_an_entry_is_an_error(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = walk_trees.make_tree(10)
    monkeypatch.setitem(walk_trees.WALKS, "os.walk", lambda top: 9)
    with pytest.raises(AssertionError, match="saw 9 entries of 10"):
        walk_trees.time_walk("os.walk", str(top), SHORT)


@pytest.mark.parametrize(
    ("version", "is_taken"), [("4.0.6", True), ("4.1", True), ("2.6.1", False)]
)
def test_an_old_program_is_no_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, is_taken: bool
) -> None:
    program = tmp_path / "bfs"
    program.write_text(f"#!/bin/sh\necho bfs {version}\n")
    program.chmod(0o755)
    monkeypatch.setattr(walk_find, "BROUGHT", tmp_path)
    if is_taken:
        assert walk_find.program("bfs") == str(program)
        return
    with pytest.raises(Unavailable, match=r"4\.0\.6 is the oldest"):
        walk_find.program("bfs")


def test_a_program_that_fails_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="ended with 1"):
        walk_find.run_once(["/bin/false"])


def test_cases_on_an_axis_are_drawn_as_lines() -> None:
    rows = [
        Row(case.name, peer, samples=[{"value": size * (n + 1)}])
        for n, peer in enumerate(("Ferrule <x>", "os.walk"))
        for size, case in zip(walk_sizes.SIZES, walk_sizes.BENCHMARK.cases, strict=True)
    ]
    weather = {"benchmark_percent": 0.0, "others_percent": 0.0, "stolen_percent": 0.0}
    found = report.document(walk_sizes.BENCHMARK, rows, Settings(1, quick=True), weather)
    drawing = ElementTree.fromstring(plot.draw(found, report.short))
    space = "{http://www.w3.org/2000/svg}"
    lines = drawing.findall(f"{space}polyline")
    assert len(lines) == 2
    points = [tuple(map(float, point.split(","))) for point in lines[0].get("points", "").split()]
    assert len(points) == len(walk_sizes.SIZES)
    assert [x for x, _ in points] == sorted({x for x, _ in points})
    assert "Ferrule <x>" in [text.text for text in drawing.findall(f"{space}text")]
