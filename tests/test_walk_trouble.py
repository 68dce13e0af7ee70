"""Walks in trouble: errors, links in circles, hangs, cancellation, few descriptors."""

from __future__ import annotations

import errno
import gc
import os
import platform
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ferrule
from ferrule._core.walk import Engine, Walk

THREADS = pytest.mark.parametrize("threads", [1, 2])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    for i in range(8):
        for j in range(4):
            deep = top / f"dir{i}" / f"sub{j}"
            deep.mkdir(parents=True)
            (deep / "file").touch()
    return top


def everything(top: Path) -> list[str]:
    return sorted(
        os.path.join(where, name) for where, dirs, files in os.walk(top) for name in dirs + files
    )


def fault(walk: Any, stage: Any, **options: Any) -> Any:
    walk.engine._add_fault(stage, **options)
    return walk


# ---- errors ----

@THREADS
@pytest.mark.parametrize("stage", ["open", "read"])
def test_what_cannot_be_read_is_raised_skipped_given_or_told(
    tree: Path, stage: str, threads: int
) -> None:
    def faulty(**options: Any) -> Any:
        walk = ferrule.walk(tree, threads=threads, **options)
        return fault(walk, stage, name=b"dir3", error=errno.EACCES)

    wanted = [path for path in everything(tree) if "dir3/" not in path]
    with pytest.raises(PermissionError) as caught:
        list(faulty())
    assert caught.value.filename == str(tree / "dir3")
    skipping = faulty(errors="skip")
    assert sorted(entry.path for entry in skipping) == wanted
    assert skipping.progress().errors == 1
    given = list(faulty(errors="yield"))
    problem, = [each for each in given if isinstance(each, OSError)]
    assert sorted(each.path for each in given if each is not problem) == wanted
    told: list[Any] = []
    assert sorted(entry.path for entry in faulty(errors=told.append)) == wanted
    for each in (caught.value, problem, told[0]):
        assert (each.errno, each.stage, each.depth) == (errno.EACCES, stage, 1)
    assert len(told) == 1


@THREADS
def test_a_walk_that_raised_has_ended(tree: Path, threads: int) -> None:
    walk = fault(ferrule.walk(tree, threads=threads), "open", name=b"top", error=errno.EIO)
    with pytest.raises(OSError, match="top"):
        next(walk)
    assert list(walk) == []


def test_a_batch_tells_its_errors(tree: Path) -> None:
    walk = ferrule.walk_batches(tree, errors="yield", stat="size")
    fault(walk, "stat", name=b"file", nth=3, error=errno.ENOENT)
    batches = list(walk)
    problem, = [each for batch in batches for each in batch.errors]
    assert (problem.errno, problem.stage, problem.depth) == (errno.ENOENT, "stat", 3)
    sizes = {path: size for b in batches for path, size in zip(b.path_list(), b.sizes, strict=True)}
    assert len(sizes) == len(everything(tree))
    assert [path for path, size in sizes.items() if size < 0] == [problem.filename]


def test_an_error_in_the_callback_comes_out(tree: Path) -> None:
    def refuse(error: OSError) -> None:
        raise LookupError(error.filename)

    walk = fault(ferrule.walk(tree, errors=refuse), "open", name=b"dir3", error=errno.EIO)
    with pytest.raises(LookupError, match="dir3"):
        list(walk)


@THREADS
def test_a_directory_that_vanishes_is_an_error_of_its_open(tmp_path: Path, threads: int) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    problems = []
    for entry in ferrule.walk(tmp_path, order="depth-first", errors=problems.append):
        os.rmdir(tmp_path / {"one": "two", "two": "one"}[entry.name])
        break
    list(ferrule.walk(tmp_path, errors=problems.append))
    assert all(isinstance(problem, FileNotFoundError) for problem in problems)


@THREADS
def test_types_that_the_directory_does_not_tell_are_asked_for(tree: Path, threads: int) -> None:
    (tree / "link").symlink_to("dir0")
    walk = ferrule.walk(tree, threads=threads)
    walk.engine._forget_types()
    found = {entry.path: entry.type for entry in walk}
    assert found == {path: os.lstat(path).st_mode >> 12 for path in everything(tree)}


# ---- links ----

def test_links_are_followed_never_at_the_top_or_always(tree: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tree)
    (tree / "inner").symlink_to("dir0")
    (tree / "broken").symlink_to("nowhere")

    def names(**options: Any) -> set[str]:
        return {os.path.relpath(entry.path, link) for entry in ferrule.walk(link, **options)}

    with pytest.raises(NotADirectoryError):
        names(symlinks="never")
    plain = names()
    assert {"inner", "broken", "dir0/sub1/file"} <= plain
    assert names(symlinks="always") == plain | {
        path.replace("dir0", "inner") for path in plain if path.startswith("dir0/")
    }
    types = {entry.name: entry.type for entry in ferrule.walk(link, symlinks="always", max_depth=1)}
    assert types["inner"] == ferrule.EntryType.DIRECTORY
    assert types["broken"] == ferrule.EntryType.LINK


def test_a_link_that_leads_to_itself_is_an_error_where_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    (tmp_path / "file").touch()
    problem, entry = sorted(
        ferrule.walk(tmp_path, symlinks="always", errors="yield"), key=lambda each: str(type(each))
    )
    assert (problem.errno, problem.stage) == (errno.ELOOP, "stat")
    assert entry.name == "file"


@THREADS
@pytest.mark.parametrize("order", ["any", "breadth-first", "depth-first", "post-order"])
def test_links_in_a_circle_are_errors(tree: Path, order: Any, threads: int) -> None:
    (tree / "dir0" / "sub0" / "up").symlink_to("../..")
    (tree / "dir1" / "self").symlink_to(".")
    problems: list[OSError] = []
    options: Any = {"order": order, "threads": threads, "errors": problems.append}
    found = [entry.path for entry in ferrule.walk(tree, symlinks="always", **options)]
    assert sorted(found) == [p for p in everything(tree) if not p.endswith(("/up", "/self"))]
    assert {problem.errno for problem in problems} == {errno.ELOOP}
    assert {problem.filename for problem in problems} == {
        str(tree / "dir0" / "sub0" / "up"), str(tree / "dir1" / "self")
    }


def test_one_file_system_gives_mount_points_and_does_not_enter() -> None:
    if os.stat("/dev").st_dev == os.stat("/dev/pts").st_dev:
        pytest.skip("cannot here: /dev/pts is no file system of its own")
    found = {entry.path for entry in ferrule.walk("/dev", one_file_system=True, errors="skip")}
    assert "/dev/pts" in found
    assert not any(path.startswith("/dev/pts/") for path in found)


# ---- hanging ----

def test_a_directory_that_hangs_does_not_stop_the_rest(tree: Path) -> None:
    walk = fault(ferrule.walk(tree, threads=2), "open", name=b"dir5", delay=1.5)
    begun = time.monotonic()
    rest = {path for path in everything(tree) if "dir5/" not in path}
    with walk:
        for entry in walk:
            rest.discard(entry.path)
            if not rest:
                break
        assert not rest
        assert time.monotonic() - begun < 1.2


def test_what_a_lone_worker_that_hangs_has_found_is_given(tree: Path) -> None:
    walk = fault(ferrule.walk(tree, threads=1, timeout=1), "open", nth=2, delay=2.5)
    begun = time.monotonic()
    with walk:
        found = sorted(next(walk).name for _ in range(8))
        assert time.monotonic() - begun < 1
        with pytest.raises(TimeoutError):
            next(walk)
    assert found == [f"dir{i}" for i in range(8)]


def test_a_timeout_ends_the_wait_and_the_walk_may_go_on(tree: Path) -> None:
    walk = fault(ferrule.walk(tree, threads=1, timeout=0.1), "read", name=b"top", delay=2)
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        next(walk)
    assert 0.05 < time.monotonic() - begun < 1.9
    found = []
    while True:
        try:
            found.append(next(walk).path)
        except TimeoutError:
            continue
        except StopIteration:
            break
    assert sorted(found) == everything(tree)


def test_in_a_fiber_a_time_limit_ends_the_wait(run: Callable[..., Any], tree: Path) -> None:
    def main() -> tuple[bool, float]:
        begun = time.monotonic()
        with (
            ferrule.move_on_after(0.1) as scope,
            fault(ferrule.walk(tree), "open", name=b"top", delay=2) as walk,
        ):
            next(walk)
        return scope.cancelled_caught, time.monotonic() - begun

    caught, took = run(main)
    assert caught
    assert took < 1.9


# ---- in fibers ----

def test_waiting_parks_only_the_fiber(run: Callable[..., Any], tree: Path) -> None:
    def main() -> int:
        ticks = 0
        walk = fault(ferrule.walk(tree), "open", name=b"top", delay=0.3)
        task = ferrule.spawn(lambda: len(list(walk)))
        while not task.done():
            ferrule.sleep(0.01)
            ticks += 1
        assert task.result() == len(everything(tree))
        return ticks

    assert run(main) > 10


def test_a_cancelled_fiber_leaves_its_walk(run: Callable[..., Any], tree: Path) -> None:
    def main() -> None:
        walk = fault(ferrule.walk(tree), "open", name=b"top", delay=0.3)
        task = ferrule.spawn(list, walk)
        ferrule.sleep(0.05)
        task.cancel()
        task.join()
        assert task.cancelled()
        walk.close()

    run(main)


def test_a_cancelled_scope_is_seen_by_every_wait(run: Callable[..., Any], tree: Path) -> None:
    def main() -> bool:
        with ferrule.CancelScope() as scope:
            scope.cancel()
            list(ferrule.walk(tree))
        return scope.cancelled_caught

    assert run(main)


def test_many_walks_at_a_time(run: Callable[..., Any], tree: Path) -> None:
    wanted = len(everything(tree))

    def main() -> list[int]:
        tasks = [ferrule.spawn(lambda: len(list(ferrule.walk(tree)))) for _ in range(20)]
        return [task.result() for task in tasks]

    assert run(main) == [wanted] * 20


def test_entries_ask_for_more_from_a_fiber(run: Callable[..., Any], tree: Path) -> None:
    def main() -> list[int]:
        return [entry.stat().st_ino for entry in ferrule.walk(tree, sorted=True)]

    assert run(main) == [os.stat(entry.path).st_ino for entry in ferrule.walk(tree, sorted=True)]


# ---- ends ----

@THREADS
def test_a_walk_that_is_dropped_leaves_nothing(tree: Path, threads: int) -> None:
    walk = ferrule.walk(tree, threads=threads)
    entry = next(walk)
    del walk
    gc.collect()
    assert entry.path in everything(tree)  # entries outlive it


@THREADS
def test_a_walk_is_closed_from_another_thread(tree: Path, threads: int) -> None:
    walk = fault(ferrule.walk(tree, threads=threads), "read", delay=0.005)
    closer = threading.Timer(0.05, walk.close)
    closer.start()
    assert len(list(walk)) < len(everything(tree))
    closer.join()


def test_two_threads_cannot_take_from_one_walk_at_a_time(tree: Path) -> None:
    walk = fault(ferrule.walk(tree, threads=2), "open", name=b"top", delay=0.3)
    other = threading.Thread(target=next, args=(walk,))
    other.start()
    time.sleep(0.1)
    with pytest.raises(ValueError, match="iterated by another"):
        next(walk)
    other.join()
    walk.close()


@THREADS
def test_ctrl_c_ends_the_wait(run_script: Callable[..., Any], tree: Path, threads: int) -> None:
    done = run_script(f"""
        import ferrule, os, signal, threading, time
        walk = ferrule.walk({str(tree)!r}, threads={threads}, include="nothing")
        walk.engine._add_fault("read", delay=0.1)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        begun = time.monotonic()
        try:
            list(walk)
        except KeyboardInterrupt:
            walk.close()
            print("interrupted", time.monotonic() - begun < 2)
    """.replace("\n        ", "\n"))
    assert done.stdout.split() == ["interrupted", "True"], done.stderr


@THREADS
def test_a_forked_child_is_told(run_script: Callable[..., Any], tree: Path, threads: int) -> None:
    done = run_script(f"""
        import ferrule, os
        walk = ferrule.walk_batches({str(tree)!r}, threads={threads})
        batch = next(walk)
        child = os.fork()
        if not child:
            try:
                next(walk)
            except RuntimeError as error:
                print(error, batch.names()[:1] != [], flush=True)
            del walk, batch
            os._exit(0)
        os.waitpid(child, 0)
        print(sum(map(len, walk)) + len(batch))
    """.replace("\n        ", "\n"))
    assert done.stdout.splitlines() == [
        "the walk did not survive fork(): start a new one True", str(len(everything(tree)))
    ], done.stderr


# ---- limits ----

@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Room for two more than there are, and one for the test."""
    was = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(16, highest + 4), was[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, was)


@THREADS
@pytest.mark.parametrize("order", ["any", "breadth-first", "depth-first", "post-order"])
def test_a_few_descriptors_are_enough(
    tree: Path, few_descriptors: None, order: Any, threads: int
) -> None:
    walk = ferrule.walk(tree, order=order, threads=threads, max_open_directories=1000)
    found = sorted(entry.path for entry in walk)
    assert len(found) == 8 + 8 * 4 * 2


SIZE_OF_TABLE = """
import pathlib, sys, threading
import ferrule

def size():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("FDSize:")[2].split()[0])

if sys.argv[1:]:
    threading.Thread(target=lambda: None).start()
first = size()
with ferrule.walk(".", threads=2, max_open_directories=3000) as walk:
    next(walk)
    print(first < 3000, size() >= 3000)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc tells about threads")
@pytest.mark.parametrize(("others", "grows"), [([], True), (["threads"], False)])
def test_the_table_of_descriptors_grows_before_there_are_threads(
    run_script: Any, others: list[str], grows: bool
) -> None:
    assert run_script(SIZE_OF_TABLE, *others).stdout.split() == ["True", str(grows)]


def test_a_walk_without_a_descriptor_to_begin_with_says_so(
    tree: Path, few_descriptors: None
) -> None:
    held = []
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                held.append(os.open(tree, os.O_RDONLY))
        with pytest.raises(OSError, match="Too many open files"):
            list(ferrule.walk(tree, threads=1))
        with pytest.raises(OSError, match="Too many open files"):
            ferrule.walk(tree, threads=2)
    finally:
        for fd in held:
            os.close(fd)


@pytest.mark.parametrize("order", ["any", "depth-first", "post-order"])
def test_paths_may_be_longer_than_the_kernel_takes(tmp_path: Path, order: Any) -> None:
    name, levels = "d" * 200, 60
    fds = [os.open(tmp_path, os.O_RDONLY)]
    for _ in range(levels):
        os.mkdir(name, dir_fd=fds[-1])
        fds.append(os.open(name, os.O_RDONLY, dir_fd=fds[-1]))
    try:
        for budget in (1, 5, 100):
            walk = ferrule.walk(tmp_path, order=order, max_open_directories=budget)
            paths = [entry.path for entry in walk]
            assert max(map(len, paths)) == len(str(tmp_path)) + levels * 201
            assert len(paths) == levels
    finally:
        for fd in reversed(fds[:-1]):
            os.rmdir(name, dir_fd=fd)
        for fd in fds:
            os.close(fd)


def test_a_relative_top_stays_where_it_was(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.parent)
    walk = ferrule.walk("top", order="depth-first", threads=1, max_open_directories=1)
    found = [next(walk).path]
    monkeypatch.chdir("/")
    found += [entry.path for entry in walk]
    assert sorted(os.path.join(tree.parent, path) for path in found) == everything(tree)


def small_batches(top: Path, **options: Any) -> Any:
    return Walk(Engine([os.fsencode(top)], batch_entries=16, **options))


@pytest.mark.parametrize("order", ["any", "breadth-first", "depth-first"])
def test_a_huge_directory_is_streamed(tmp_path: Path, order: str) -> None:
    for i in range(2000):
        (tmp_path / f"{i}").touch()
    walk = small_batches(tmp_path, order=order)
    next(walk)
    assert walk.progress().entries < 100
    assert sum(1 for _ in walk) == 1999


def test_a_consumer_that_does_not_take_holds_the_workers_up(tmp_path: Path) -> None:
    for i in range(2000):
        (tmp_path / f"{i}").touch()
    walk = small_batches(tmp_path, threads=2)
    next(walk)
    time.sleep(0.2)
    assert walk.progress().entries < 500
    assert sum(1 for _ in walk) == 1999
