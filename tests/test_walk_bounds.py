"""Walks that may remember a few directories only: the same entries, in the same order, once."""

from __future__ import annotations

import errno
import functools
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import find_trees
from ferrule._core import finder
from ferrule._core.entry_filter import EntryFilter
from ferrule._core.walk import Engine, Walk
from ferrule.cli import find as find_command
from find_support import needs_gnu
from find_trees import TREES, gnu_find

BOUNDS = pytest.mark.parametrize("bound", [1, 7, 60])
THREADS = pytest.mark.parametrize("threads", [0, 1, 3])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Five levels of three directories, with a file beside each."""
    top = tmp_path / "top"
    levels = [top]
    for _ in range(5):
        levels = [above / name for above in levels for name in ("a", "b", "c")]
        for path in levels:
            path.mkdir(parents=True)
            path.with_suffix(".txt").touch()
    return top


def walk(top: Path | bytes, bound: int, on_error: Any = None, **options: Any) -> Any:
    options = {"order": "breadth-first", "max_kept": bound, **options}
    return Walk(Engine([os.fsencode(top)], is_text=False, **options), on_error)


def paths(*args: Any, **options: Any) -> list[bytes]:
    return [entry.path for entry in walk(*args, **options)]


UNBOUNDED = 1 << 30


@needs_gnu
@THREADS
@BOUNDS
@pytest.mark.parametrize("sorted_", [False, True])
@pytest.mark.parametrize("name", TREES)
def test_a_walk_that_remembers_little_sees_what_find_sees(
    tops: Callable[[str], Path], name: str, sorted_: bool, bound: int, threads: int
) -> None:
    top = tops(name)
    found = paths(top, bound, threads=threads, sorted=sorted_, min_depth=0)
    assert sorted(found) == [path for path, _, _ in gnu_find([bytes(top)])]
    find_trees.check_parents_first(found)
    find_trees.check_by_level(found)
    if sorted_:
        find_trees.check_siblings_sorted(found)
        assert found == paths(top, UNBOUNDED, threads=threads, sorted=True, min_depth=0)


@BOUNDS
@pytest.mark.parametrize("order", ["any", "depth-first", "post-order"])
def test_other_orders_need_to_remember_less(tree: Path, order: str, bound: int) -> None:
    found = paths(tree, bound, order=order, threads=2)
    assert sorted(found) == sorted(paths(tree, UNBOUNDED))
    (find_trees.check_parents_last if order == "post-order" else find_trees.check_parents_first)(
        found
    )


@THREADS
@BOUNDS
@pytest.mark.parametrize(
    "options",
    [
        {"max_depth": 3},
        {"min_depth": 4},
        {"hidden": False},
        {"one_file_system": True},
        {"symlinks": "always"},
        {"ignore": b"/a/b\nb.txt\n"},
        {"exclude": EntryFilter(("name", b"c"))},
        {"filter": EntryFilter(("name", b"*.txt"))},
        {"stat": ("size",)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_is_chosen_is_the_same(
    tree: Path, options: dict[str, Any], bound: int, threads: int
) -> None:
    (tree / "a" / ".hidden" / "below").mkdir(parents=True)
    (tree / "b" / "link").symlink_to("../a/b")
    expected = paths(tree, UNBOUNDED, **options)
    assert len(expected) > 10
    found = paths(tree, bound, threads=threads, **options)
    assert sorted(found) == sorted(expected)
    find_trees.check_by_level(found)


@BOUNDS
def test_files_of_rules_hold_at_each_depth(tree: Path, bound: int) -> None:
    (tree / ".gitignore").write_text("b/\n")
    (tree / "a" / ".gitignore").write_text("!b/\nc.txt\n")
    (tree / "a" / "b" / ".gitignore").write_text("b/\n")
    expected = paths(tree, UNBOUNDED, gitignore=True)
    assert paths(tree, bound, gitignore=True, sorted=True) == sorted(
        expected, key=lambda path: (path.count(b"/"), path.split(b"/"))
    )


@THREADS
@BOUNDS
def test_an_error_is_told_once(tree: Path, bound: int, threads: int) -> None:
    """Also one of a directory that is passed again and again on the way to others."""
    (tree / "a" / "loop").symlink_to("..")
    for stage in ("open", "read"):
        errors: list[Any] = []
        found = walk(tree, bound, errors.append, threads=threads, symlinks="always")
        found.engine._add_fault(stage, name=b"b", error=errno.EACCES)
        names = [entry.path for entry in found]
        assert not any(b"/b/" in path for path in names)
        failed = [path for path in names if path.endswith(b"/b")]
        loop = os.fsencode(tree / "a" / "loop")
        assert sorted(error.filename for error in errors) == sorted([*failed, loop])


@THREADS
@BOUNDS
@pytest.mark.parametrize("size", [1, 16, 1024])
def test_nothing_below_a_pruned_directory_is_given(
    tree: Path, size: int, bound: int, threads: int
) -> None:
    rng = random.Random(bound + threads)
    found: list[bytes] = []
    pruned: list[bytes] = []
    for entry in walk(tree, bound, threads=threads, batch_entries=size):
        assert not any(entry.path.startswith(above + b"/") for above in pruned)
        found.append(entry.path)
        if entry.is_dir() and rng.random() < 0.3:
            entry.prune()
            pruned.append(entry.path)
    assert pruned
    expected = [
        path
        for path in paths(tree, UNBOUNDED)
        if not any(path.startswith(above + b"/") for above in pruned)
    ]
    assert sorted(found) == sorted(expected)


@THREADS
@BOUNDS
def test_a_directory_may_be_pruned_late(tree: Path, bound: int, threads: int) -> None:
    """When its level has been given, and what is in it is being read, or is to be read again."""
    rng = random.Random(bound + threads)
    level: list[Any] = []
    pruned: list[bytes] = []
    for entry in walk(tree, bound, threads=threads, batch_entries=4):
        if level and entry.depth > level[0].depth:
            for each in level:
                if each.is_dir() and rng.random() < 0.4:
                    each.prune()
                    pruned.append(each.path)
            if any(entry.path.startswith(above + b"/") for above in pruned):
                pruned = [above for above in pruned if not entry.path.startswith(above + b"/")]
            level = []
        assert not any(entry.path.startswith(above + b"/") for above in pruned)
        level.append(entry)
    assert pruned


@BOUNDS
def test_a_directory_is_counted_once_however_often_it_is_read(tree: Path, bound: int) -> None:
    given = walk(tree, bound)
    entries = sum(1 for _ in given)
    progress = given.progress()
    assert progress.directories == 1 + sum(3**level for level in range(1, 6))
    assert (progress.entries, progress.queued) == (entries, 0)


EXPRESSIONS = [
    "-name b -prune -o -print",
    "-path */a/b -prune -o -type d -print0",
    "-type d -name c -prune , -print",
    "-depth -print",
    "-name b -exec true ; -prune -o -print",
    "-name a.txt -exec true ; -print",
]


@needs_gnu
@pytest.mark.parametrize("bound", [1, 20])
@pytest.mark.parametrize("line", EXPRESSIONS)
def test_find_prunes_at_each_depth(
    tree: Path, line: str, bound: int, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any
) -> None:
    monkeypatch.setattr(finder, "Finder", functools.partial(finder.Finder, max_kept=bound))
    assert find_command.main([str(tree), *line.split(" ")]) == 0
    found = capfdbinary.readouterr().out
    said = subprocess.run(["find", str(tree), *line.split(" ")], stdout=subprocess.PIPE, check=True)
    end = b"\0" if "print0" in line else b"\n"
    assert sorted(found.split(end)) == sorted(said.stdout.split(end))
