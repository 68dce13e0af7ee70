"""The trees that are walked, and those who walk them from Python, each counting what it saw."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .harness import SCRATCH, Peers, Sample, Unavailable, compiled, output_of, refuse_tmpfs

USR = "/usr"
TREES = SCRATCH / "trees"
FILES, FOLDERS = 90, 10  # in each folder of a tree that is made
IN_EACH = 999  # folders in each of the outer ones of a tree of nothing else
AT_LEAST = 100_000  # entries, for a walk of /usr to prove anything

Walk = Callable[[str], int]
WALKS = Peers()
CPU = "CPU ms"


# --- trees ----------------------------------------------------------------------------------------


def make_tree(entries: int) -> Path:
    """Make a tree of so many files and folders, once; return its top."""
    refuse_tmpfs(SCRATCH)
    top, made = TREES / str(entries), TREES / f"{entries}.made"
    if made.exists():
        return top
    top.mkdir(parents=True, exist_ok=True)
    left, folders = entries, [top]
    while left:
        folder = folders.pop(0)
        subfolders = [folder / f"folder-{n}" for n in range(min(FOLDERS, left))]
        for subfolder in subfolders:
            subfolder.mkdir(exist_ok=True)
        left -= len(subfolders)
        folders += subfolders
        files = min(FILES, left)
        for n in range(files):
            os.close(os.open(folder / f"file-{n:02}.txt", os.O_CREAT | os.O_WRONLY, 0o644))
        left -= files
    made.touch()
    return top


def make_folders(folders: int) -> Path:
    """Make a tree of so many folders in two levels and nothing else, once; return its top.

    On ext4 each takes 4 KiB.
    """
    refuse_tmpfs(SCRATCH)
    top, made = TREES / f"{folders}-folders", TREES / f"{folders}-folders.made"
    if made.exists():
        return top
    top.mkdir(parents=True, exist_ok=True)
    for number in range(folders):
        outer, inner = divmod(number, IN_EACH + 1)
        name = f"folder-{outer}/folder-{inner}" if inner else f"folder-{outer}"
        os.makedirs(top / name, exist_ok=True)
    made.touch()
    return top


def empty_folder() -> Path:
    """Return a folder with nothing in it."""
    folder = TREES / "empty"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_usr() -> None:
    """Raise unless /usr is a tree that is worth measuring; bring it into the caches."""
    refuse_tmpfs(Path(USR))
    if (found := count_os_walk(USR)) < AT_LEAST:
        raise Unavailable(f"{USR} has {found} entries, and {AT_LEAST} is the least that counts")


# --- walks ----------------------------------------------------------------------------------------


def count_os_walk(top: str) -> int:
    """Walk as everybody does."""
    found = 0
    for _, folders, files in os.walk(top):
        found += len(folders) + len(files)
    return found


WALKS["os.walk"] = count_os_walk


def count_batches(top: str, workers: int, **options: Any) -> int:
    """Walk with `ferrule.walk_batches`."""
    import ferrule

    return sum(len(batch) for batch in ferrule.walk_batches(top, threads=workers, **options))


@WALKS.add("Ferrule walk_batches, 1 worker")
def batches_of_one(top: str) -> int:
    return count_batches(top, 1)


@WALKS.add("Ferrule walk_batches, 2 workers")
def batches_of_two(top: str) -> int:
    return count_batches(top, 2)


@WALKS.add("Ferrule walk_batches, breadth-first, 2 workers")
def breadth_first_batches(top: str) -> int:
    return count_batches(top, 2, order="breadth-first")


@WALKS.add("Ferrule walk, 2 workers")
def entries_of_two(top: str) -> int:
    import ferrule

    found = 0
    for _ in ferrule.walk(top, threads=2):
        found += 1
    return found


@WALKS.add("scandir-rs Walk")
def scandir_rs_walk(top: str) -> int:
    from scandir_rs import ReturnType, Walk

    # Without Ext it leaves symbolic links out.
    return sum(sum(map(len, kinds)) for _, *kinds in Walk(top, return_type=ReturnType.Ext))


@WALKS.add("Ferrule walk_batches, sizes, 2 workers")
def sizes_of_two(top: str) -> int:
    import ferrule

    found = 0
    for batch in ferrule.walk_batches(top, threads=2, stat=("size", "mtime_ns")):
        found += len(batch)
        if len(batch.sizes) != len(batch.mtimes):
            raise AssertionError("a column is short")
    return found


@WALKS.add("Ferrule walk_batches, sizes, 1 worker")
def sizes_of_one(top: str) -> int:
    return count_batches(top, 1, stat=("size", "mtime_ns"))


@WALKS.add("os.walk and os.lstat")
def os_walk_sizes(top: str) -> int:
    found = 0
    for root, folders, files in os.walk(top):
        for name in folders + files:
            status = os.lstat(os.path.join(root, name))
            status.st_size, status.st_mtime_ns  # noqa: B018
            found += 1
    return found


@WALKS.add("scandir-rs Scandir Ext")
def scandir_rs_sizes(top: str) -> int:
    from scandir_rs import ReturnType, Scandir

    return len(Scandir(top, return_type=ReturnType.Ext).collect()[0])


# --- measuring one --------------------------------------------------------------------------------


def time_walk(peer: str, top: str, seconds: float) -> Sample:
    """Walk again and again; return the medians, in milliseconds."""
    walk, expected = WALKS[peer], count_os_walk(top)
    walls: list[float] = []
    cpus: list[float] = []
    end = time.perf_counter() + seconds
    while len(walls) < 3 or time.perf_counter() < end:
        cpu, begin = time.process_time(), time.perf_counter()
        found = walk(top)
        walls.append(time.perf_counter() - begin)
        cpus.append(time.process_time() - cpu)
        if found != expected:
            raise AssertionError(f"saw {found} entries of {expected}")
    return sample_of(walls, cpus, expected)


def sample_of(walls: list[float], cpus: list[float], entries: int) -> Sample:
    return {
        "value": statistics.median(walls) * 1e3,
        "cpu_ms": statistics.median(cpus) * 1e3,
        "entries": entries,
    }


def time_c_recursion(top: str, passes: int) -> Sample:
    """Walk in C, in a process of its own, after one walk that warms."""
    command = [str(compiled("walk_tree.c")), top, str(passes + 1)]
    lines = [line.split() for line in output_of(command, None, timeout=60).splitlines()][1:]
    walls, cpus = ([float(line[n]) for line in lines] for n in (0, 1))
    return sample_of(walls, cpus, int(lines[-1][2]))
