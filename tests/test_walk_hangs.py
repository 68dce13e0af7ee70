"""Walks over a file system that does not answer: the rest comes, and every wait has an end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ferrule
from ferrule.ioqueue import IOQueue
from hanging_files import HangingFiles, mounted

PATHS = [
    f"{folder}/{inner}/{name}"
    for folder in ("first", "hangs", "last")
    for inner in ("one", "two")
    for name in ("a", "b")
]
STAGES = pytest.mark.parametrize("stage", ["open", "read"])
THREADS = pytest.mark.parametrize("threads", [2, 3])
SOON = 5.0  # seconds, of a wait that would have no end


@pytest.fixture
def files(tmp_path: Path) -> Iterator[HangingFiles]:
    try:
        with mounted(tmp_path / "mounted", *PATHS) as files:
            yield files
    except OSError as exc:
        pytest.skip(f"cannot here: no file system of our own can be mounted ({exc})")


def all_of(files: HangingFiles, below: str = "") -> set[str]:
    prefixes = {"/".join(path.split("/")[:depth]) for path in PATHS for depth in (1, 2, 3)}
    return {str(files.top / path) for path in prefixes if path.startswith(below)}


def take(walk: Any, wanted: set[str]) -> None:
    """Until all that is wanted has come."""
    wanted = set(wanted)
    deadline = time.monotonic() + SOON
    while wanted:
        wanted.discard(next(walk).path)
        assert time.monotonic() < deadline


def rest(walk: Any) -> list[str]:
    return [entry.path for entry in walk]


@STAGES
@THREADS
def test_a_directory_that_hangs_stops_nothing_else(
    files: HangingFiles, stage: str, threads: int
) -> None:
    files.hang(stage, "hangs")
    hanging = all_of(files, "hangs/")
    with ferrule.walk(files.top, threads=threads) as walk:
        take(walk, all_of(files) - hanging)
        assert files.hangs.wait(SOON)
        files.release()
        assert sorted(rest(walk)) == sorted(hanging)


@STAGES
def test_breadth_first_its_depth_is_given_and_then_all(files: HangingFiles, stage: str) -> None:
    files.hang(stage, "hangs")
    depths = {path: path.count("/") - str(files.top).count("/") for path in all_of(files)}
    wanted = {path for path, depth in depths.items() if depth <= 2} - all_of(files, "hangs/")
    with ferrule.walk(files.top, threads=2, order="breadth-first") as walk:
        take(walk, wanted)
        files.release()
        assert sorted(rest(walk)) == sorted(all_of(files) - wanted)


@THREADS
def test_an_entry_that_nobody_tells_about_does_not_stop_what_was_found_before(
    files: HangingFiles, threads: int
) -> None:
    files.hang("stat", "hangs")
    before = all_of(files, "first")
    with ferrule.walk(files.top, threads=threads, stat="size") as walk:
        take(walk, before)
        assert files.hangs.is_set()
        files.release()
        assert sorted(rest(walk)) == sorted(all_of(files) - before)


@STAGES
@pytest.mark.parametrize("order", ["any", "breadth-first", "depth-first", "post-order"])
def test_a_timeout_ends_each_wait_and_the_walk_goes_on(
    files: HangingFiles, stage: str, order: Any
) -> None:
    files.hang(stage, "hangs")
    found: list[str] = []
    with ferrule.walk(files.top, threads=1, order=order, timeout=0.1) as walk:
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            while True:
                found.append(next(walk).path)
        assert time.monotonic() - begun < SOON
        with pytest.raises(TimeoutError):
            next(walk)
        assert files.hangs.is_set()
        files.release()
        found += rest(walk)
    assert sorted(found) == sorted(all_of(files))


@STAGES
def test_a_time_limit_ends_the_wait_of_a_fiber_alone(
    run: Callable[..., Any], files: HangingFiles, stage: str
) -> None:
    files.hang(stage, "hangs")

    def main() -> tuple[bool, int]:
        ticks = 0
        walk = ferrule.walk(files.top)
        task = ferrule.spawn(lambda: list(walk))
        with ferrule.move_on_after(0.2) as scope:
            while True:
                ferrule.sleep(0.01)
                ticks += 1
        with ferrule.move_on_after(0.1) as limit:
            task.join()
        task.cancel()
        task.join()
        walk.close()
        return scope.cancelled_caught and limit.cancelled_caught, ticks

    ended, ticks = run(main)
    assert ended
    assert ticks > 5


@STAGES
def test_closing_does_not_wait_for_who_hangs(files: HangingFiles, stage: str) -> None:
    """And when the kernel lets go of it, its thread ends: the fixture looks."""
    files.hang(stage, "hangs")
    walk = ferrule.walk(files.top, threads=2)
    next(walk)
    assert files.hangs.wait(SOON)
    begun = time.monotonic()
    walk.close()
    assert time.monotonic() - begun < SOON
    files.release()


@STAGES
def test_find_shows_the_rest(files: HangingFiles, stage: str) -> None:
    files.hang(stage, "hangs")
    command = [sys.executable, "-m", "ferrule", "find", str(files.top), "-j", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as find:
        assert find.stdout is not None
        wanted = {str(files.top / f"{folder}/{name}")
                  for folder in ("first", "last") for name in ("one", "two")}  # fmt: skip
        shown: set[str] = set()
        while not wanted <= shown:
            shown.add(find.stdout.readline().decode().rstrip())
        files.release()
        shown |= set(find.stdout.read().decode().splitlines())
    assert shown == all_of(files) | {str(files.top)}


def test_a_queue_goes_on_beside_a_directory_that_hangs(files: HangingFiles) -> None:
    files.hang("open", "hangs")
    with IOQueue(threads=2) as queue:
        hanging = queue.opendir(files.top / "hangs")
        others = [queue.opendir(files.top / name) for name in ("first", "last")]
        done = [queue.pop(timeout=SOON) for _ in others]
        assert set(done) == set(others)
        with pytest.raises(TimeoutError):
            queue.pop(timeout=0.05)
        files.release()
        assert queue.pop(timeout=SOON) is hanging
        for request in (hanging, *others):
            with request.result() as directory:
                assert {entry.name for entry in directory.entries} == {"one", "two"}
    assert os.path.isdir(files.top)
