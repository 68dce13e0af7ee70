"""ferrule.fs: the functions that take paths, beside os and shutil on the same inputs."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ferrule
from ferrule import fs

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with one of each kind."""
    top = tmp_path / "tree"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "file").write_bytes(b"content")
    (top / "sub" / "other").write_bytes(b"")
    (top / "to-file").symlink_to("file")
    (top / "to-sub").symlink_to("sub")
    (top / "broken").symlink_to("nowhere")
    os.mkfifo(top / "fifo")
    (top / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"x")
    return top


def outcome(fn: Callable[[], Any]) -> Any:
    try:
        return fn()
    except Exception as exc:
        names = getattr(exc, "filename", None), getattr(exc, "filename2", None)
        return type(exc), getattr(exc, "errno", None), names


def listing(top: Path) -> dict[str, Any]:
    """Everything below, with its type, mode and content."""
    found = {}
    for folder, dirs, files in os.walk(top):
        for name in dirs + files:
            path = Path(folder) / name
            facts = path.lstat()
            content = None
            if stat.S_ISREG(facts.st_mode):
                content = path.read_bytes()
            elif stat.S_ISLNK(facts.st_mode):
                content = os.readlink(path).encode()
            found[str(path.relative_to(top))] = facts.st_mode, facts.st_nlink, content
    return found


# ---- each function does what that of os does, with str, bytes, PathLike and errors ----

FORMS = [
    pytest.param(lambda path: path, id="str"),
    pytest.param(os.fsencode, id="bytes"),
    pytest.param(Path, id="path"),
]

SCENARIOS: dict[str, Callable[[Any, Any], Any]] = {
    "mkdir": lambda m, p: [m.mkdir(p("new")), m.mkdir(p("new2"), 0o700)],
    "mkdir that exists": lambda m, p: m.mkdir(p("sub")),
    "mkdir without parent": lambda m, p: m.mkdir(p("no/new")),
    "makedirs": lambda m, p: [m.makedirs(p("a/b/c")), m.makedirs(p("a/b/c"), exist_ok=True)],
    "makedirs with a mode": lambda m, p: m.makedirs(p("a/b"), 0o711),
    "makedirs that exists": lambda m, p: m.makedirs(p("sub/deep")),
    "makedirs over a file": lambda m, p: m.makedirs(p("file"), exist_ok=True),
    "makedirs below a file": lambda m, p: m.makedirs(p("file/sub")),
    "makedirs with a slash": lambda m, p: m.makedirs(p("a/b/")),
    "unlink": lambda m, p: [m.unlink(p("file")), m.unlink(p("broken")), m.unlink(p("fifo"))],
    "unlink a directory": lambda m, p: m.unlink(p("sub")),
    "unlink nothing": lambda m, p: m.unlink(p("none")),
    "rmdir": lambda m, p: m.rmdir(p("sub/deep")),
    "rmdir of what is not empty": lambda m, p: m.rmdir(p("sub")),
    "rmdir of a file": lambda m, p: m.rmdir(p("file")),
    "rename": lambda m, p: [m.rename(p("file"), p("moved")), m.rename(p("sub"), p("sub2"))],
    "rename over": lambda m, p: m.rename(p("file"), p("sub/other")),
    "rename over a directory": lambda m, p: m.rename(p("file"), p("sub")),
    "rename nothing": lambda m, p: m.rename(p("none"), p("new")),
    "replace": lambda m, p: m.replace(p("file"), p("sub/other")),
    "replace nothing": lambda m, p: m.replace(p("none"), p("new")),
    "link": lambda m, p: m.link(p("file"), p("hard")),
    "link over": lambda m, p: m.link(p("file"), p("sub/other")),
    "link a link": lambda m, p: m.link(p("to-file"), p("hard"), follow_symlinks=False),
    "symlink": lambda m, p: m.symlink(p("anything"), p("soft")),
    "symlink over": lambda m, p: m.symlink(p("anything"), p("file")),
    "readlink": lambda m, p: [m.readlink(p("to-file")), m.readlink(p("broken"))],
    "readlink of a file": lambda m, p: m.readlink(p("file")),
    "readlink of nothing": lambda m, p: m.readlink(p("none")),
    "stat": lambda m, p: [m.stat(p(n)) for n in ("file", "sub", "to-file", "to-sub", "fifo")],
    "stat of a broken link": lambda m, p: m.stat(p("broken")),
    "stat of nothing": lambda m, p: m.stat(p("none")),
    "stat below a file": lambda m, p: m.stat(p("file/x")),
    "stat, not following": lambda m, p: m.stat(p("to-sub"), follow_symlinks=False),
    "stat of an empty path": lambda m, p: m.stat(p("")) if p("") else m.stat(""),
    "lstat": lambda m, p: [m.lstat(p(n)) for n in ("file", "sub", "to-file", "broken", "to-sub/")],
    "access": lambda m, p: [
        m.access(p(n), mode)
        for n in ("file", "none", "broken", "sub", "to-sub")
        for mode in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)
    ],
    "access, not following": lambda m, p: m.access(p("broken"), os.F_OK, follow_symlinks=False),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_function_does_what_that_of_os_does(
    run: Run, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: Any
) -> None:
    os.utime(tree / "sub", (1, 1))
    copy = tmp_path / "copy"
    shutil.copytree(
        tree, copy, symlinks=True, ignore=lambda *_: {"fifo"}, copy_function=os.link
    )
    os.link(tree / "fifo", copy / "fifo")
    for folder in (copy, copy / "sub", copy / "sub" / "deep", copy / "to-file", copy / "to-sub"):
        os.utime(folder, (1, 1), follow_symlinks=False)
        os.utime(tree / folder.relative_to(copy), (1, 1), follow_symlinks=False)
    monkeypatch.chdir(copy)
    expected = outcome(lambda: SCENARIOS[name](os, form))
    monkeypatch.chdir(tree)
    got = run(lambda: outcome(lambda: SCENARIOS[name](fs, form)))
    assert comparable(got) == comparable(expected)
    assert listing(tree) == listing(copy)


def comparable(result: Any) -> Any:
    """Without the inode and the change time, which differ between the two trees."""
    if isinstance(result, list):
        return [comparable(one) for one in result]
    if isinstance(result, os.stat_result):
        return result.st_mode, result.st_size, result.st_nlink, result.st_mtime_ns
    return result


def test_stat_of_a_number_and_of_an_open_file(run: Run, tree: Path) -> None:
    def main() -> None:
        with fs.File.open(tree / "file") as file:
            assert fs.stat(file.fileno()) == os.stat(tree / "file")
            assert fs.stat(file) == os.stat(tree / "file")
        with pytest.raises(OSError) as caught:
            fs.stat(99999)
        assert caught.value.errno == errno.EBADF

    run(main)


def test_stat_results_agree_in_every_field(run: Run, tree: Path) -> None:
    for path in (tree / "file", Path("/dev/null"), Path("/proc/self/status"), tree / "fifo"):
        mine, theirs = run(fs.stat, path), os.stat(path)
        for field in (name for name in dir(theirs) if name.startswith("st_")):
            if "time" not in field or str(path)[:5] not in ("/proc", "/dev/"):
                assert getattr(mine, field) == getattr(theirs, field), field


def test_following_links_when_making_a_hard_link(run: Run, tree: Path) -> None:
    run(fs.link, tree / "to-file", tree / "hard")
    assert (tree / "hard").samefile(tree / "file")
    assert not (tree / "hard").is_symlink()


@pytest.mark.parametrize("bad", [None, 1.5, "a\0b", []])
def test_a_path_that_is_none_is_refused(run: Run, bad: Any) -> None:
    def main() -> None:
        for call in (fs.mkdir, fs.unlink, fs.stat, fs.readlink, fs.read_bytes, fs.open_dir):
            with pytest.raises((TypeError, ValueError)):
                call(bad)

    run(main)


def test_outside_a_runtime_every_function_names_run(tree: Path) -> None:
    for call in (fs.stat, fs.lstat, fs.mkdir, fs.unlink, fs.rmdir, fs.readlink, fs.read_bytes,
                 fs.scandir, fs.open_dir, fs.rmtree, fs.makedirs):
        with pytest.raises(RuntimeError, match=r"ferrule\.run"):
            call(tree / "file")


# ---- dir_fd ----


def by_number(tree: Path) -> Iterator[tuple[Any, Callable[[], None]]]:
    fd = os.open(tree, os.O_RDONLY)
    yield fd, lambda: os.close(fd)
    directory = fs.open_dir(tree)
    yield directory, directory.close


def test_every_path_function_takes_a_dir_fd(run: Run, tree: Path) -> None:
    def main() -> None:
        for top, close in by_number(tree):
            assert fs.stat("file", dir_fd=top).st_size == 7
            assert stat.S_ISLNK(fs.lstat("to-file", dir_fd=top).st_mode)
            assert fs.access("file", os.R_OK, dir_fd=top)
            fs.mkdir("new", dir_fd=top)
            fs.makedirs("new/a/b", dir_fd=top)
            fs.rmdir("new/a/b", dir_fd=top)
            fs.write_bytes("new/w", b"bytes", dir_fd=top)
            assert fs.read_bytes("new/w", dir_fd=top) == b"bytes"
            fs.write_atomic("new/w", b"atomic", dir_fd=top)
            fs.rename("new/w", "new/r", src_dir_fd=top, dst_dir_fd=top)
            fs.replace("new/r", "new/w", src_dir_fd=top, dst_dir_fd=top)
            fs.link("new/w", "new/l", src_dir_fd=top, dst_dir_fd=top)
            fs.symlink("w", "new/s", dir_fd=top)
            assert fs.readlink("new/s", dir_fd=top) == "w"
            assert fs.copy_file("new/w", "new/c", src_dir_fd=top, dst_dir_fd=top) == 6
            with fs.scandir("new", dir_fd=top) as scan:
                entries = {entry.name: entry for entry in scan}
            assert sorted(entries) == ["a", "c", "l", "s", "w"]
            assert entries["c"].path == "new/c"
            assert entries["c"].stat().st_size == 6
            with fs.open_dir("new", dir_fd=top) as inner:
                assert inner.stat() == os.stat(tree / "new")
            with fs.File.open("new/c", dir_fd=top) as file:
                assert file.read() == b"atomic"
            fs.unlink("new/c", dir_fd=top)
            fs.rmtree("new", dir_fd=top)
            close()
        assert not (tree / "new").exists()

    run(main)


def test_an_absolute_path_ignores_the_dir_fd(run: Run, tree: Path) -> None:
    def main() -> None:
        with fs.open_dir("/") as root:
            assert fs.read_bytes(tree / "file", dir_fd=root) == b"content"

    run(main)


def test_bad_dir_fds(run: Run, tree: Path) -> None:
    def main() -> None:
        with pytest.raises(OSError) as caught:
            fs.stat("file", dir_fd=99999)
        assert caught.value.errno == errno.EBADF
        with pytest.raises(TypeError):
            fs.stat("file", dir_fd="x")  # type: ignore[arg-type]
        with fs.File.open(tree / "file") as file, pytest.raises(NotADirectoryError):
            fs.stat("x", dir_fd=file)
        directory = fs.open_dir(tree)
        directory.close()
        with pytest.raises(OSError) as caught:
            directory.stat("file")
        assert caught.value.errno == errno.EBADF

    run(main)


# ---- Directory ----


def test_a_directorys_methods_are_relative_to_it(run: Run, tree: Path, tmp_path: Path) -> None:
    def main() -> None:
        with fs.Directory.open("tree") as top:
            os.rename(tree, tmp_path / "moved")  # it is the same directory still
            assert top.stat("file").st_size == 7
            assert top.access("file", os.R_OK)
            with top.open_file("new", fs.Open.WRITE | fs.Open.CREATE) as file:
                file.write(b"data")
            assert top.read_bytes("new") == b"data"
            top.write_bytes("new", b"more data")
            top.write_atomic("new", b"most")
            top.mkdir("d")
            top.makedirs("e/f")
            top.rename("new", "d/new")
            top.replace("d/new", "d/newer")
            top.link("d/newer", "hard")
            top.symlink("hard", "soft")
            assert top.readlink("soft") == "hard"
            assert stat.S_ISLNK(top.lstat("soft").st_mode)
            with top.open_dir("d") as inner:
                inner.rename("newer", "back", to=top)
            top.unlink("soft")
            top.rmdir("d")
            top.rmtree("e")
            top.fsync()
            names = {entry.name for entry in top.scandir()}
            assert {"file", "back", "hard", "sub"} <= names
            assert not names & {"d", "e", "soft", "new"}

    run(main)
    assert (tmp_path / "moved" / "back").read_bytes() == b"most"


def test_open_dir_refuses_what_is_none(run: Run, tree: Path) -> None:
    def main() -> None:
        with pytest.raises(NotADirectoryError) as caught:
            fs.open_dir(tree / "file")
        assert caught.value.filename == str(tree / "file")
        with pytest.raises(FileNotFoundError):
            fs.open_dir(tree / "none")
        with pytest.raises(NotADirectoryError):
            fs.open_dir(tree / "to-sub", follow_symlinks=False)
        fs.open_dir(tree / "to-sub").close()

    run(main)


def test_a_directory_may_be_closed_while_others_use_it(run: Run, tree: Path) -> None:
    def main() -> None:
        for _ in range(20):
            top = fs.open_dir(tree)
            tasks = [ferrule.spawn(top.access, "file", os.R_OK) for _ in range(10)]
            tasks += [ferrule.spawn(top.rename, "none", "x") for _ in range(10)]
            ferrule.yield_now()
            top.close()
            for task in tasks:
                exc = task.exception()
                assert exc is None or isinstance(exc, OSError)

    run(main)


# ---- scandir ----


@pytest.mark.parametrize("form", FORMS)
def test_scandir_gives_the_entries_of_os(run: Run, tree: Path, form: Any) -> None:
    path = form(str(tree))

    def facts(entry: Any) -> Any:
        return (
            entry.name, entry.path, entry.inode(), entry.is_dir(), entry.is_file(),
            entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False),
            entry.is_symlink(), os.fspath(entry), entry.stat(follow_symlinks=False),
            outcome(entry.stat), repr(entry),
        )

    expected = sorted(facts(entry) for entry in os.scandir(path))
    with os.scandir(path) as scan:
        expected = sorted(facts(entry) for entry in scan)

    def main() -> Any:
        with fs.scandir(path) as scan:
            return sorted(facts(entry) for entry in scan)

    assert run(main) == expected


def test_scandir_of_a_number_has_names_for_paths(run: Run, tree: Path) -> None:
    fd = os.open(tree, os.O_RDONLY)

    def main() -> None:
        for _ in range(2):
            entries = {entry.name: entry for entry in fs.scandir(fd)}
            assert entries["file"].path == "file"
            assert entries["file"].stat().st_size == 7
            assert sorted(entries) == sorted(os.listdir(tree))

    run(main)
    os.close(fd)


def test_scandir_of_here_is_the_default(run: Run, tree: Path) -> None:
    assert [entry.path for entry in run(lambda: list(fs.scandir()))] == ["./tree"]


def test_scandir_of_many_entries_in_several_blocks(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    names = {f"a-rather-long-name-for-a-file-{n:05}" for n in range(3000)}
    for name in names:
        (folder / name).touch()
    assert {entry.name for entry in run(lambda: list(fs.scandir(folder)))} == names


def test_scandir_of_an_empty_and_of_no_directory(run: Run, tree: Path) -> None:
    def main() -> None:
        assert list(fs.scandir(tree / "sub" / "deep")) == []
        with pytest.raises(NotADirectoryError):
            fs.scandir(tree / "file")
        with pytest.raises(FileNotFoundError):
            fs.scandir(tree / "none")

    run(main)


def test_a_scan_that_is_closed_early_is_over(run: Run, tree: Path) -> None:
    def main() -> None:
        scan = fs.scandir(tree)
        next(scan)
        scan.close()
        scan.close()
        assert list(scan) == []

    run(main)


def test_an_entry_that_is_gone_is_neither_file_nor_directory(run: Run, tree: Path) -> None:
    def main() -> None:
        entries = {entry.name: entry for entry in fs.scandir(tree)}
        (tree / "to-file").unlink()
        assert not entries["to-file"].is_file()
        assert not entries["to-file"].is_dir()
        with pytest.raises(FileNotFoundError):
            entries["to-file"].stat()

    run(main)


# ---- whole files ----


@pytest.mark.parametrize("size", [0, 1, 5000, 3_000_000])
def test_bytes_written_are_bytes_read(run: Run, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)

    def main() -> None:
        assert fs.write_bytes("file", data) == size
        assert fs.read_bytes("file") == data
        fs.write_bytes("file", b"short")
        assert fs.read_bytes("file") == b"short"

    run(main)


def test_write_atomic_replaces_and_leaves_nothing_else(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        fs.write_atomic("file", b"one")
        assert os.listdir() == ["file"]
        os.chmod("file", 0o640)
        fs.write_atomic("file", b"two", sync_directory=True)
        assert Path("file").read_bytes() == b"two"
        assert os.stat("file").st_mode & 0o777 == 0o640
        fs.write_atomic(b"file", b"three", mode=0o604, sync=False)
        assert os.stat("file").st_mode & 0o777 == 0o604
        assert os.listdir() == ["file"]

    run(main)


def test_write_atomic_respects_the_umask_for_a_new_file(run: Run, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        run(fs.write_atomic, "file", b"x")
    finally:
        os.umask(before)
    assert os.stat("file").st_mode & 0o777 == 0o600


def test_write_atomic_with_a_long_name_and_a_link(run: Run, tmp_path: Path) -> None:
    name = "ü" * 127
    os.symlink("elsewhere", "link")

    def main() -> None:
        fs.write_atomic(name, b"long")
        fs.write_atomic("link", b"not through it")

    run(main)
    assert sorted(os.listdir()) == sorted([name, "link"])
    assert not os.path.islink("link")


def test_write_atomic_that_fails_leaves_the_old_and_nothing_else(
    run: Run, tmp_path: Path
) -> None:
    Path("dir").mkdir()
    Path("dir/in").touch()
    Path("file").write_bytes(b"old")

    def main() -> None:
        for bad, target in ((b"x", "dir"), ("text", "file")):
            with pytest.raises((OSError, TypeError)):
                fs.write_atomic(target, bad)  # type: ignore[arg-type]
        with pytest.raises(IsADirectoryError):
            fs.write_atomic("dir/", b"x")
        with pytest.raises(FileNotFoundError):
            fs.write_atomic("none/file", b"x")

    run(main)
    assert sorted(os.listdir()) == ["dir", "file"]
    assert Path("file").read_bytes() == b"old"


def test_write_atomic_cancelled_at_any_point_leaves_the_old_or_the_new(
    run: Run, tmp_path: Path
) -> None:
    Path("file").write_bytes(b"old")

    def main() -> None:
        for rounds in range(60):
            task = ferrule.spawn(fs.write_atomic, "file", b"new")
            for _ in range(rounds):
                ferrule.yield_now()
            task.cancel()
            task.join()
            assert os.listdir() == ["file"]
            assert Path("file").read_bytes() in (b"old", b"new")
            Path("file").write_bytes(b"old")

    run(main)


@pytest.mark.parametrize("size", [0, 1, 100_000, 20_000_000])
def test_copy_file_copies_data_and_mode(run: Run, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    Path("source").write_bytes(data)
    os.chmod("source", 0o751)
    Path("old").write_bytes(b"x" * (size + 10))

    def main() -> None:
        for target in ("new", "old"):
            assert fs.copy_file("source", target) == size
            assert Path(target).read_bytes() == data
            assert os.stat(target).st_mode & 0o777 == 0o751

    run(main)


def test_copy_file_of_odd_sources(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        assert fs.copy_file("/proc/version", "version") > 0
        assert Path("version").read_bytes() == Path("/proc/version").read_bytes()
        if os.path.isdir("/dev/shm"):
            other = f"/dev/shm/ferrule-test-{os.getpid()}"
            try:
                fs.copy_file("version", other)  # to another file system
                assert Path(other).read_bytes() == Path("version").read_bytes()
            finally:
                os.unlink(other)

    run(main)


def test_copy_file_refuses_to_copy_a_file_onto_itself(run: Run, tmp_path: Path) -> None:
    Path("file").write_bytes(b"kept")
    os.link("file", "same")

    def main() -> None:
        with pytest.raises(shutil.SameFileError):
            fs.copy_file("file", "same")
        with pytest.raises(FileNotFoundError):
            fs.copy_file("none", "x")

    run(main)
    assert Path("file").read_bytes() == b"kept"


def test_self_executable_is_what_runs_this(run: Run) -> None:
    assert os.path.samefile(run(fs.self_executable), sys.executable)


# ---- rmtree ----


def test_rmtree_removes_everything_and_follows_no_link(
    run: Run, tree: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (tree / "out").symlink_to(outside)
    (tree / "sub" / "out").symlink_to(outside)
    for n in range(200):
        (tree / f"many-{n}").touch()
    run(fs.rmtree, tree)
    assert os.listdir(tmp_path) == ["outside"]
    assert os.listdir(outside) == ["kept"]


def test_rmtree_of_a_deep_tree(run: Run, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for n in range(600):  # deeper than a path can be long, than recursion should go
        os.mkdir("level-with-a-name", dir_fd=fd)
        inner = os.open("level-with-a-name", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
        if n % 50 == 0:
            os.close(os.open("file", os.O_CREAT, dir_fd=fd))
    os.close(fd)
    run(fs.rmtree, "level-with-a-name")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("form", FORMS)
def test_rmtree_refuses_links_files_and_nothing(run: Run, tree: Path, form: Any) -> None:
    def main() -> None:
        with pytest.raises(OSError, match="symbolic link"):
            fs.rmtree(form(str(tree / "to-sub")))
        with pytest.raises(NotADirectoryError) as caught:
            fs.rmtree(form(str(tree / "file")))
        assert os.fsdecode(caught.value.filename) == str(tree / "file")
        with pytest.raises(FileNotFoundError):
            fs.rmtree(form(str(tree / "none")))
        fs.rmtree(form(str(tree / "none")), ignore_errors=True)
        fs.rmtree(form(str(tree / "file")), ignore_errors=True)

    run(main)
    assert (tree / "file").exists()
    assert (tree / "sub" / "other").exists()


def test_rmtree_tells_onexc_and_goes_on(run: Run, tree: Path) -> None:
    told: list[Any] = []

    def onexc(function: Any, path: Any, exc: BaseException) -> None:
        told.append((function, path, type(exc)))

    def main() -> None:
        scheduler = ferrule.current_runtime()._scheduler
        scheduler.inject_fault("unlinkat", 2, error=errno.EACCES)
        fs.rmtree(tree, onexc=onexc)

    run(main)
    assert (fs.rmdir, str(tree), OSError) in told
    assert [kind for *_, kind in told].count(PermissionError) == 1
    assert tree.exists()


def test_rmtree_without_onexc_raises_the_first_failure(run: Run, tree: Path) -> None:
    def main() -> None:
        scheduler = ferrule.current_runtime()._scheduler
        scheduler.inject_fault("unlinkat", 1, error=errno.EACCES)
        with pytest.raises(PermissionError) as caught:
            fs.rmtree(tree)
        assert caught.value.filename.startswith(str(tree))
        fs.rmtree(tree)

    run(main)
    assert not tree.exists()


def test_a_directory_swapped_for_a_link_during_rmtree_leads_nowhere(
    run: Run, tmp_path: Path
) -> None:
    """The attack that rmtree is known for: what was a directory becomes a link out of the tree."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for n in range(50):
        (outside / f"{n}").touch()

    def main() -> None:
        for rounds in range(40):
            top = tmp_path / "top"
            (top / "victim").mkdir(parents=True)
            for n in range(20):
                (top / "victim" / f"{n}").touch()
            task = ferrule.spawn(fs.rmtree, top, True)
            for _ in range(rounds):
                ferrule.yield_now()
            try:
                os.rename(top / "victim", tmp_path / "taken")
                os.symlink(outside, top / "victim")
            except OSError:
                pass  # too late
            task.join()
            assert len(os.listdir(outside)) == 50
            for left in (top, tmp_path / "taken"):
                shutil.rmtree(left, ignore_errors=True)

    run(main)


def test_rmtree_cancelled_leaves_no_descriptor(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        for rounds in range(30):
            top = tmp_path / "top"
            (top / "a" / "b" / "c").mkdir(parents=True)
            for n in range(30):
                (top / "a" / f"{n}").touch()
            task = ferrule.spawn(fs.rmtree, top)
            for _ in range(rounds):
                ferrule.yield_now()
            task.cancel()
            task.join()
            shutil.rmtree(top, ignore_errors=True)

    run(main)
