"""Filters are built from trees, and what is no tree is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ferrule._core.entry_filter import EntryFilter


def test_a_filter_remembers_its_tree() -> None:
    tree = ("and", ("type", "f"), ("not", ("name", b"*.py")), ("comma", True, ("hidden",)))
    assert EntryFilter(tree).tree is tree


def test_a_long_and_a_deep_expression_are_built() -> None:
    EntryFilter(("or", *[("name", b"%d" % n) for n in range(20_000)]))
    EntryFilter(nested(200))


def test_an_expression_too_deep_for_the_stack_is_refused() -> None:
    with pytest.raises(RecursionError):
        EntryFilter(nested(1_000_000))


def nested(depth: int) -> Any:
    tree: Any = True
    for _ in range(depth):
        tree = ("not", ("and", tree, ("hidden",)))
    return tree


@pytest.mark.parametrize(
    "tree",
    [
        None, (), "name", ("nme", b"a"), ("name", "text"), ("name", None), ("name", b"a\0b"),
        ("not",), ("not", True, True), ("comma",), ("type", "x"), ("depth", "!", 1),
        ("depth", "=", "1"), ("depth", "=", 1 << 64), ("action", 64), ("action", -1),
        ("print", 0, None), ("print", 256, 10), ("print", 0), ("print", 0, 256),
        ("and", 1), ("prune", 1, 2, 3),
    ],
)
def test_what_is_no_tree_is_refused(tree: Any) -> None:
    with pytest.raises(ValueError):
        EntryFilter(tree)
