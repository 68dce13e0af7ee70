"""ferrule.walk and ferrule.walk_batches: what they give, in which order, and how they end."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ferrule
from ferrule import walks

ORDERS = ("any", "breadth-first", "depth-first", "post-order")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three levels, with files of known sizes, a link, and a name that is not UTF-8."""
    top = tmp_path / "top"
    for i in range(5):
        for j in range(3):
            deep = top / f"dir{i}" / f"sub{j}"
            deep.mkdir(parents=True)
            for k in range(4):
                (deep / f"file{k}.txt").write_bytes(b"x" * k)
    (top / ".hidden").mkdir()
    (top / ".hidden" / "inside").touch()
    (top / "link").symlink_to("dir0")
    os.mkdir(os.fsencode(top) + b"/bad\xff")
    return top


def paths_below(top: Path) -> list[str]:
    return sorted(
        os.path.join(where, name) for where, dirs, files in os.walk(top) for name in dirs + files
    )


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("order", ORDERS)
def test_a_walk_gives_each_entry_once(tree: Path, order: Any, threads: int) -> None:
    entries = ferrule.walk(tree, order=order, threads=threads)
    assert sorted(entry.path for entry in entries) == paths_below(tree)


@pytest.mark.parametrize("order", ORDERS)
def test_a_walk_in_a_fiber_gives_the_same(
    run: Callable[..., Any], tree: Path, order: Any
) -> None:
    found = run(lambda: sorted(entry.path for entry in ferrule.walk(tree, order=order)))
    assert found == paths_below(tree)


def test_bytes_in_bytes_out(tree: Path) -> None:
    found = sorted(entry.path for entry in ferrule.walk(os.fsencode(tree)))
    assert found == sorted(map(os.fsencode, paths_below(tree)))


def test_an_entry_knows_what_a_dir_entry_knows(tree: Path) -> None:
    for entry in ferrule.walk(tree):
        lstat = os.lstat(entry.path)
        assert entry.name == os.path.basename(entry.path)
        assert os.fspath(entry) == entry.path
        assert entry.inode() == lstat.st_ino
        assert entry.stat(follow_symlinks=False) == lstat
        assert entry.is_dir() == os.path.isdir(entry.path)
        assert entry.is_dir(follow_symlinks=False) == (entry.type == ferrule.EntryType.DIRECTORY)
        assert entry.is_file() == os.path.isfile(entry.path)
        assert entry.is_symlink() == os.path.islink(entry.path)
        assert entry.depth == entry.path.count("/") - str(tree).count("/")


@pytest.mark.parametrize("options", [{}, {"include": "*"}, {"types": "dfl"}, {"hidden": False}])
@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_is_asked_about_entries_whose_type_is_known(
    tree: Path, threads: int, options: dict[str, Any]
) -> None:
    walk = ferrule.walk_batches(tree, threads=threads, errors="yield", **options)
    for name in {os.path.basename(path) for path in paths_below(tree)}:
        walk.engine._add_fault("stat", name=os.fsencode(name), error=errno.EIO)
    assert [error for batch in walk for error in batch.errors] == []


@pytest.mark.parametrize("threads", [1, 2])
def test_stat_results_come_with_the_walk(
    tree: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = list(ferrule.walk(tree, stat=True, threads=threads))
    wanted = [os.lstat(entry.path) for entry in entries]
    monkeypatch.delattr(os, "lstat")  # none is asked for
    for entry, lstat in zip(entries, wanted, strict=True):
        stat = entry.stat(follow_symlinks=False)
        for field in (name for name in dir(lstat) if name.startswith("st_")):
            if "atime" not in field:  # of directories the walk itself may have changed it
                assert getattr(stat, field) == getattr(lstat, field), field


def test_a_predicate_sees_what_the_filters_left(tree: Path) -> None:
    asked: list[str] = []

    def is_small(entry: Any) -> bool:
        asked.append(entry.path)
        return bool(entry.stat().st_size < 2)

    found = [entry.path for entry in ferrule.walk(tree, types="f", predicate=is_small)]
    assert sorted(asked) == [path for path in paths_below(tree) if os.path.isfile(path)
                             and not os.path.islink(path)]
    assert sorted(found) == [path for path in sorted(asked) if os.path.getsize(path) < 2]


@pytest.mark.parametrize("threads", [1, 2])
def test_breadth_first_goes_down_level_by_level(tree: Path, threads: int) -> None:
    depths = [entry.depth for entry in ferrule.walk(tree, order="breadth-first", threads=threads)]
    assert depths == sorted(depths)
    assert depths[-1] == 3


@pytest.mark.parametrize("threads", [1, 2])
def test_depth_first_and_sorted_is_the_order_of_the_components(tree: Path, threads: int) -> None:
    found = [entry.path for entry in ferrule.walk(tree, sorted=True, threads=threads)]
    assert found == sorted(paths_below(tree), key=lambda path: os.fsencode(path).split(b"/"))


def test_post_order_gives_a_directory_after_what_is_in_it(tree: Path) -> None:
    found = [entry.path for entry in ferrule.walk(tree, order="post-order")]
    for at, path in enumerate(found):
        assert not any(later.startswith(path + "/") for later in found[at:])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("order", ["any", "breadth-first", "depth-first"])
def test_a_directory_comes_before_what_is_in_it(tree: Path, order: Any, threads: int) -> None:
    seen = {str(tree)}
    for entry in ferrule.walk(tree, order=order, threads=threads):
        assert os.path.dirname(entry.path) in seen
        seen.add(entry.path)


def test_depth_limits(tree: Path) -> None:
    assert {entry.depth for entry in ferrule.walk(tree, max_depth=2)} == {1, 2}
    assert {entry.depth for entry in ferrule.walk(tree, min_depth=3)} == {3}
    top, = ferrule.walk(tree, min_depth=0, max_depth=0)
    assert (top.path, top.name, top.depth) == (str(tree), "top", 0)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("order", ["any", "breadth-first", "depth-first"])
def test_nothing_below_a_pruned_directory_is_given(tree: Path, order: Any, threads: int) -> None:
    found = []
    for entry in ferrule.walk(tree, order=order, threads=threads):
        found.append(entry.path)
        if entry.name in ("dir1", "sub2"):
            entry.prune()
    wanted = [path for path in paths_below(tree) if "dir1/" not in path and "sub2/" not in path]
    assert sorted(found) == wanted


def test_what_is_excluded_is_neither_given_nor_entered(tree: Path) -> None:
    found = sorted(entry.path for entry in ferrule.walk(tree, exclude=["dir1", "sub*"]))
    assert found == [p for p in paths_below(tree) if "dir1" not in p and "sub" not in p]


def test_what_is_not_included_is_entered_all_the_same(tree: Path) -> None:
    found = sorted(entry.path for entry in ferrule.walk(tree, include="file[01].*"))
    assert found == [p for p in paths_below(tree) if p.endswith(("file0.txt", "file1.txt"))]
    assert len(found) == 30


def test_filters_ask_what_they_need_to_know(tree: Path) -> None:
    old = tree / "dir0" / "sub0" / "file3.txt"
    os.utime(old, (1e9, 1e9))

    def names(**options: Any) -> set[str]:
        return {entry.path for entry in ferrule.walk(tree, types="f", **options)}

    files = {path for path in paths_below(tree) if os.path.isfile(path)}
    for low, high in ((1, 2), (3, None), (None, 0)):
        assert names(min_size=low, max_size=high) == {
            path for path in files
            if (low or 0) <= os.path.getsize(path) <= (9 if high is None else high)
        }
    assert names(modified_before=1e9 + 1) == {str(old)}
    assert names(modified_after=1e9) == files - {str(old)}
    assert names(owner=os.getuid(), group=os.getgid()) == files
    assert names(owner=os.getuid() + 1) == set()
    assert names(regex=r".*/dir[12]/.*\.txt") == {p for p in files if "dir1/" in p or "dir2/" in p}
    assert names(include="*/dir0/*file?.txt") == {p for p in files if "dir0" in p}
    for bad in ({"owner": "no such user"}, {"group": "no such group"}, {"min_size": -1},
                {"modified_after": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            ferrule.walk(tree, **bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\("):
        ferrule.walk(tree, regex="(")


def test_hidden_entries_are_left_out_by_choice(tree: Path) -> None:
    found = sorted(entry.path for entry in ferrule.walk(tree, hidden=False))
    assert found == [path for path in paths_below(tree) if "/." not in path]


def test_a_batch_has_the_same_as_columns(tree: Path) -> None:
    for batch in ferrule.walk_batches(tree, stat=("size", "mtime_ns", "uid")):
        assert len(batch.offsets) == len(batch) + 1 > 1
        for i, path in enumerate(batch.path_list()):
            lstat = os.lstat(path)
            assert batch.paths[batch.offsets[i] : batch.offsets[i + 1] - 1] == os.fsencode(path)
            assert batch.names()[i] == os.path.basename(path)
            assert batch.types[i] == lstat.st_mode >> 12
            assert batch.inodes[i] == lstat.st_ino
            assert batch.sizes[i] == lstat.st_size
            assert batch.mtimes[i] == lstat.st_mtime_ns
            assert batch.column("uid")[i] == lstat.st_uid
            assert batch[i].path == path
        with pytest.raises(ValueError, match="gid"):
            batch.column("gid")


def test_the_columns_of_a_batch_outlive_the_walk(tree: Path) -> None:
    batches = list(ferrule.walk_batches(tree, threads=2))
    types = [batch.types for batch in batches]
    paths = [batch.path_list() for batch in batches]
    del batches
    assert sum(map(len, types)) == sum(map(len, paths)) == len(paths_below(tree))
    assert memoryview(types[0]).readonly


def test_columns_are_exported_as_arrays_of_their_types(tree: Path) -> None:
    for batch in ferrule.walk_batches(tree, stat=("size", "mode")):
        formats = {"offsets": "I", "types": "B", "inodes": "Q", "depths": "I", "sizes": "q"}
        for name, form in formats.items():
            column = getattr(batch, name)
            assert (column.format, column.ndim, column.c_contiguous) == (form, 1, True)
            assert column.cast("B").nbytes == column.itemsize * len(column)
        assert batch.column("mode").format == "I"


def test_batches_are_freed_with_the_cycle_they_are_in(tree: Path) -> None:
    cycle: list[Any] = list(ferrule.walk_batches(tree, threads=2))
    cycle += [cycle, cycle[0].types, cycle[0][0]]
    del cycle
    gc.collect()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_walk_ends_early(tree: Path, threads: int) -> None:
    with ferrule.walk(tree, threads=threads) as walk:
        next(walk)
    assert list(walk) == []
    next(ferrule.walk(tree, threads=threads))  # and is dropped
    assert list(ferrule.walk(tree, threads=threads))


def test_a_walk_that_was_not_begun_costs_nothing(tree: Path) -> None:
    ferrule.walk(tree, threads=2).close()
    ferrule.walk(tree, threads=2)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_says_what_failed_and_where(tree: Path, threads: int) -> None:
    missing = tree / "missing"
    with pytest.raises(FileNotFoundError) as caught:
        list(ferrule.walk(missing, threads=threads))
    assert caught.value.filename == str(missing)
    assert (caught.value.stage, caught.value.depth) == ("stat", 0)  # type: ignore[attr-defined]
    with pytest.raises(NotADirectoryError):
        list(ferrule.walk(tree / "dir0" / "sub0" / "file0.txt", threads=threads))


@pytest.mark.parametrize(("usable", "expected"), [(1, 1), (3, 3), (64, 8)])
def test_by_default_there_is_a_thread_for_each_usable_processor_up_to_eight(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, usable: int, expected: int
) -> None:
    monkeypatch.setattr(walks, "usable_cpus", lambda: usable)
    assert run(lambda: walks._thread_count(None, None)) == expected
    # Alone, and outside of fibers, the caller itself reads.
    assert walks._thread_count(None, None) == (0 if expected == 1 else expected)


def test_bad_arguments_are_refused_by_name(tree: Path) -> None:
    for bad in (
        {"order": "up"}, {"max_depth": -1}, {"threads": 0}, {"errors": "ignore"},
        {"stat": "colour"}, {"symlinks": "maybe"}, {"max_open_directories": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            ferrule.walk(tree, **bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="null byte"):
        ferrule.walk("a\0b")
