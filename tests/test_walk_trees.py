"""Walks against GNU find on trees made to trip them, in every order, by any number of threads."""

from __future__ import annotations

import errno
import functools
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ferrule
import find_trees
from find_trees import TREES, Seen, gnu_find

ORDERS = ("any", "breadth-first", "depth-first", "post-order")
CHECKS: dict[str, list[Callable[[list[bytes]], None]]] = {
    "any": [find_trees.check_parents_first],
    "breadth-first": [find_trees.check_parents_first, find_trees.check_by_level],
    "depth-first": [find_trees.check_parents_first, find_trees.check_subtrees_whole],
    "post-order": [find_trees.check_parents_last],
}
FOLLOW = {"never": "-P", "roots": "-H", "always": "-L"}
LETTERS = {  # as find writes types
    ferrule.EntryType.FILE: "f", ferrule.EntryType.DIRECTORY: "d", ferrule.EntryType.LINK: "l",
    ferrule.EntryType.FIFO: "p", ferrule.EntryType.SOCKET: "s", ferrule.EntryType.BLOCK_DEVICE: "b",
    ferrule.EntryType.CHARACTER_DEVICE: "c",
}  # fmt: skip
SEED = int(os.environ.get("SEED", random.randrange(1 << 32)))

pytestmark = pytest.mark.skipif(not shutil.which("find"), reason="there is no find to compare with")


@functools.cache
def seen_by_find(top: Path, follow: str = "-P") -> list[Seen]:
    """What find sees in a tree that does not change."""
    return gnu_find([bytes(top)], follow=follow)


def letter(entry: Any) -> str:
    return LETTERS[entry.type]


def seen_by_walk(top: Path | bytes, **options: Any) -> list[Seen]:
    """What a walk gives, the top too, in its order."""
    walk = ferrule.walk(os.fsencode(top), min_depth=0, **options)
    return [(entry.path, letter(entry), entry.depth) for entry in walk]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("symlinks", FOLLOW)
@pytest.mark.parametrize("name", TREES)
def test_a_walk_sees_what_find_sees(
    tops: Callable[[str], Path], name: str, symlinks: Any, order: Any, threads: int
) -> None:
    top = tops(name)
    found = seen_by_walk(top, order=order, symlinks=symlinks, threads=threads, errors="skip")
    assert sorted(found) == seen_by_find(top, FOLLOW[symlinks])
    for check in CHECKS[order]:
        check([path for path, _, _ in found])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", TREES)
def test_a_sorted_walk_gives_siblings_by_name(
    tops: Callable[[str], Path], name: str, order: Any, threads: int
) -> None:
    top = tops(name)
    found = seen_by_walk(top, order=order, sorted=True, threads=threads)
    assert sorted(found) == seen_by_find(top)
    for check in (find_trees.check_siblings_sorted, *CHECKS[order]):
        check([path for path, _, _ in found])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", TREES)
def test_batches_have_what_find_prints(
    tops: Callable[[str], Path], name: str, threads: int
) -> None:
    top = bytes(tops(name))
    expected = subprocess.run(
        ["find", top, "-printf", r"%p %i %s %T@ %m\0"], stdout=subprocess.PIPE, check=True
    ).stdout.split(b"\0")[:-1]
    lines = []
    options: Any = {"threads": threads, "stat": ("size", "mtime_ns", "mode"), "min_depth": 0}
    for batch in ferrule.walk_batches(top, **options):
        starts, block = batch.offsets, batch.paths
        for i in range(len(batch)):
            path = block[starts[i] : starts[i + 1] - 1]
            seconds, rest = divmod(batch.mtimes[i], 10**9)
            mode = batch.column("mode")[i] & 0o7777
            lines.append(
                b"%s %d %d %d.%09d0 %o"
                % (path, batch.inodes[i], batch.sizes[i], seconds, rest, mode)
            )
    assert sorted(lines) == sorted(expected)


LOOPS = {
    "a/b/up", "a/b/c/self", "a/b/c/top", "a/to-other/to-a", "other/to-a/to-other", "itself", "one",
}  # fmt: skip


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_a_loop_of_links_is_an_error_where_it_closes(
    tops: Callable[[str], Path], order: Any, threads: int
) -> None:
    top = tops("links")
    walk: Any = ferrule.walk(top, symlinks="always", order=order, threads=threads, errors="yield")
    errors = [entry for entry in walk if isinstance(entry, OSError)]
    assert {error.errno for error in errors} == {errno.ELOOP}
    said = subprocess.run(
        ["find", "-L", top], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
    ).stderr
    loops = {os.path.relpath(error.filename, top) for error in errors}
    assert loops >= LOOPS
    told = {
        line.split("'")[1]
        for line in said.splitlines()
        if "loop detected" in line or "Too many levels" in line
    }
    assert loops == {os.path.relpath(path, top) for path in told}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_a_chain_much_longer_than_paths_may_be(
    tops: Callable[[str], Path], order: Any, threads: int
) -> None:
    top = tops("deep")
    expected = seen_by_find(top)
    assert len(expected) == find_trees.DEEP + find_trees.DEEP // 100 + 1
    assert sorted(seen_by_walk(top, order=order, threads=threads)) == expected


# ---- other processes -----------------------------------------------------------------------------

# As a user to whom the modes of files matter, which they do not to root.
AS_NOBODY = """
import os, sys
import ferrule, ferrule.walks  # before its files are another user's
if os.geteuid() == 0:
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
top, order, threads, symlinks = sys.argv[1:]
for e in ferrule.walk(top.encode(), order=order, threads=int(threads), symlinks=symlinks,
                      min_depth=0, errors="yield"):
    if isinstance(e, OSError):
        print("error", e.errno, e.stage, e.filename.decode())
    else:
        print("entry", e.path.decode())
"""


@pytest.fixture
def public(tmp_path: Path) -> Iterator[Path]:
    """A folder that any user can get at, as pytest's are not."""
    folder = Path("/tmp") / f"ferrule-walk-{os.getpid()}"
    folder.mkdir(mode=0o755)
    yield folder
    find_trees.remove(folder)


@pytest.mark.parametrize("symlinks", ["never", "always"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_directories_that_cannot_be_read_are_errors_and_their_neighbours_are_seen(
    public: Path, order: str, threads: int, symlinks: str
) -> None:
    find_trees.make_unreadable(public)
    command = [sys.executable, "-c", AS_NOBODY, str(public), order, str(threads), symlinks]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    entries = sorted(line.split()[1].encode() for line in lines if line.startswith("entry"))
    root = os.geteuid() == 0
    as_other: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []} if root else {}
    found = gnu_find([bytes(public)], follow=FOLLOW[symlinks], **as_other)
    errors = {line.split()[3]: int(line.split()[1]) for line in lines if line.startswith("error")}
    assert set(errors.values()) == {errno.EACCES}
    refused = {
        "mode-000",
        "mode-111",
        "mode-444/below",
        *(["link"] if symlinks == "always" else []),
    }
    assert {os.path.relpath(path, public) for path in errors} == refused
    # Of what cannot be asked about, find says only that; a walk gives what the directory told, too.
    unasked = {os.fsencode(public / name) for name in refused if name == "mode-444/below"}
    assert entries == sorted({path for path, _, _ in found} | unasked)


# In a process of its own, because a limit as low as this would break pytest's.
FEW_DESCRIPTORS = """
import os, resource, sys
import ferrule
top, order, threads, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), int(limit)))
for e in ferrule.walk(top.encode(), order=order, threads=int(threads), min_depth=0):
    sys.stdout.buffer.write(e.path + b"\\0")
del e  # it keeps its batch, and that the walk
assert len(os.listdir("/proc/self/fd")) <= 4
"""


@pytest.mark.parametrize("limit", [8, 16])
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["shapes", "wide", "deep"])
def test_a_limit_of_few_descriptors_is_enough(
    tops: Callable[[str], Path], name: str, order: str, threads: int, limit: int
) -> None:
    top = tops(name)
    command = [sys.executable, "-c", FEW_DESCRIPTORS, str(top), order, str(threads), str(limit)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    expected = [path for path, _, _ in seen_by_find(top)]
    assert sorted(done.stdout.split(b"\0")[:-1]) == expected


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("order", ORDERS)
def test_the_last_free_descriptors_are_enough(
    tops: Callable[[str], Path], order: Any, threads: int
) -> None:
    """The budget counted on more: EMFILE comes in the middle of the walk, and is survived."""
    top = tops("shapes")
    expected = seen_by_find(top)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    taken: list[int] = []
    walk: Any = ferrule.walk(bytes(top), order=order, threads=threads, min_depth=0)
    try:
        first = next(walk)
        while True:
            try:
                taken.append(os.open("/", os.O_PATH))
            except OSError:
                break
        for fd in taken[-2:]:
            os.close(fd)
        del taken[-2:]
        found = [(entry.path, letter(entry), entry.depth) for entry in (first, *walk)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)
    assert sorted(found) == expected


# ---- trees that change, walks that end -----------------------------------------------------------


class Churn:
    """A thread that makes and removes files and folders beside others that it leaves alone."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.ended = False
        self.thread = threading.Thread(target=self.work)

    def work(self) -> None:
        number = 0
        while not self.ended:
            number += 1
            folder = self.top / f"{number % 7}" / f"passing-{number % 13}"
            try:
                (folder / "below").mkdir(parents=True)
                (folder / "file").touch()
                (folder / "file").rename(folder / "below" / "moved")
            except OSError:
                pass
            shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *exc: object) -> None:
        self.ended = True
        self.thread.join()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_what_stays_is_seen_once_while_other_things_come_and_go(
    tmp_path: Path, order: Any, threads: int
) -> None:
    stays = set()
    for first in range(7):
        for second in range(10):
            path = tmp_path / f"{first}" / f"stays-{second}"
            path.mkdir(parents=True)
            (path / "file").touch()
            stays |= {path.parent, path, path / "file"}
    expected = sorted(os.fsencode(path) for path in stays)
    with Churn(tmp_path):
        for _ in range(10):
            found, errors = [], []
            walk: Any = ferrule.walk(
                bytes(tmp_path), order=order, threads=threads, errors="yield", stat="size"
            )
            for entry in walk:
                (errors if isinstance(entry, OSError) else found).append(entry)
            assert all(error.errno == errno.ENOENT for error in errors)
            assert all(b"passing" in error.filename for error in errors)
            assert sorted(e.path for e in found if b"passing" not in e.path) == expected


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("order", ["any", "breadth-first", "depth-first"])
def test_what_was_removed_under_the_walk_is_an_error_and_the_rest_is_seen(
    tmp_path: Path, order: Any, threads: int
) -> None:
    for number in range(50):
        (tmp_path / f"{number:02}" / "below").mkdir(parents=True)
        (tmp_path / f"{number:02}" / "below" / "file").touch()
    kept, errors = set(), []
    walk: Any = ferrule.walk(tmp_path, order=order, threads=threads, errors="yield")
    for entry in walk:
        if isinstance(entry, OSError):
            errors.append(entry)
        elif entry.depth == 1 and int(entry.name) % 2:
            shutil.rmtree(entry.path)
        elif entry.name == "file":
            kept.add(Path(entry.path).parent.parent.name)
    assert {f"{number:02}" for number in range(0, 50, 2)} <= kept
    assert all(error.errno == errno.ENOENT for error in errors)


def memory() -> int:
    """Bytes resident."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_stays_while_a_wide_tree_streams_to_a_slow_consumer(
    tops: Callable[[str], Path], threads: int
) -> None:
    top = tops("wide")
    before = memory()
    walk: Any = ferrule.walk_batches(top, threads=threads)
    count = 0
    for batch in walk:
        count += len(batch)
        if count < 3000:
            time.sleep(0.02)
    assert count == len(seen_by_find(top)) - 1
    assert memory() - before < 32 << 20


@pytest.mark.parametrize("number", range(3))
def test_a_walk_may_be_cancelled_at_any_point(
    run: Callable[..., Any], tops: Callable[[str], Path], number: int
) -> None:
    """Nothing is left behind, says the fixture; and a walk after it is whole."""
    rng = random.Random(SEED + number)
    print(f"SEED={SEED}")
    top = bytes(tops("names"))
    expected = len(gnu_find([top])) - 1

    def walk_for(seconds: float, order: Any, threads: int) -> bool:
        with ferrule.move_on_after(seconds) as scope:
            for _ in ferrule.walk(top, order=order, threads=threads):
                ferrule.checkpoint()
        return scope.cancelled_caught

    def main() -> None:
        cancelled = 0
        for _ in range(60):
            cancelled += walk_for(rng.random() ** 4 / 50, rng.choice(ORDERS), rng.randint(1, 4))
        assert cancelled
        assert sum(1 for _ in ferrule.walk(top)) == expected

    run(main)


@pytest.mark.parametrize("number", range(3))
def test_a_walk_may_be_left_at_any_entry(tops: Callable[[str], Path], number: int) -> None:
    rng = random.Random(SEED + number)
    print(f"SEED={SEED}")
    top = bytes(tops("names"))
    for _ in range(60):
        walk: Any = ferrule.walk(
            top, order=rng.choice(ORDERS), threads=rng.randint(1, 4), sorted=rng.random() < 0.3
        )
        for _, _ in zip(range(rng.randint(0, 250)), walk, strict=False):
            pass
        if rng.random() < 0.5:
            walk.close()
        del walk
