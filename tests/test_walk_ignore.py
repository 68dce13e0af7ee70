"""walk(gitignore=True) shows what git would, and ignore= goes by given lines: git is asked."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import ferrule

ORDERS = ("any", "breadth-first", "depth-first", "post-order")
needs_git = pytest.mark.skipif(not shutil.which("git"), reason="there is no git to compare with")
SEED = int(os.environ.get("SEED", random.randrange(1 << 32)))

NAMES = (
    "a", "b", "ab", "foo", "foo.o", "a b", "x]", "[", "-", "!a", "#a", "é", "B", "a ", "a\\", "*",
    "?", "a-b", ".h",
)  # fmt: skip
PIECES = (
    "a", "b", "foo", ".o", "*", "**", "?", "/", "[ab]", "[!a]", "[^b-z]", "[]a]", "[a-]", "\\ ",
    "\\#", "\\!", " ", "!", "#", "[[:alpha:]]", "[[:punct:]x]", "[[:bad:]]", "[[:", "\\", "[", "]",
    "-", "é", "B", "**/", "/**", "/**/", "[a\\]]", "[z-a]", "*.", "ab", "\\*", "\r",
)  # fmt: skip


def git(folder: Path, *arguments: str, text: bytes = b"") -> bytes:
    """Run git without anybody's configuration; 1 of check-ignore says that nothing matched."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    environment.update(HOME="/nonexistent", XDG_CONFIG_HOME="/nonexistent")
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, input=text, capture_output=True, env=environment)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def everything_below(top: Path) -> list[bytes]:
    found = []
    for folder, folders, files in os.walk(os.fsencode(top)):
        if b".git" in folders:
            folders.remove(b".git")
        found += [os.path.join(folder, name) for name in folders + files]
    return found


def shown_by_git(repository: Path, top: Path) -> list[bytes]:
    """The paths below `top` that no rule ignores, nor a directory above them."""
    paths = everything_below(top)
    answer = git(repository, "check-ignore", "--no-index", "-z", "--stdin", text=b"\0".join(paths))
    ignored = set(answer.split(b"\0"))
    return sorted(set(paths) - ignored)


def shown_by_walk(top: Path, **options: Any) -> list[bytes]:
    return sorted(e.path for e in ferrule.walk(os.fsencode(top), gitignore=True, **options))


def make_repository(top: Path, files: dict[str, str]) -> Path:
    top.mkdir(parents=True)
    git(top, "init", "-q")
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(text.encode())
    return top


def random_line(rng: random.Random) -> str:
    """A line of rules.  In git before 2.53 "**" behind a literal counts as at the beginning."""
    while True:
        line = rng.choice(("", "", "!", "/")) + "".join(rng.choices(PIECES, k=rng.randint(1, 5)))
        if not re.search(r"[^/*!]\*\*", line):
            return line


def random_rules(rng: random.Random) -> str:
    lines = [random_line(rng) for _ in range(rng.randint(1, 4))]
    start = "\ufeff" if rng.random() < 0.05 else ""
    return start + rng.choice(("\n", "\r\n")).join(lines) + rng.choice(("\n", ""))


def fill(top: Path, rng: random.Random, depth: int = 3) -> list[Path]:
    """Make files and folders with random names; return the folders."""
    folders = [top]
    for name in rng.sample(NAMES, 7):
        if depth and rng.random() < 0.5:
            (top / name).mkdir()
            folders += fill(top / name, rng, depth - 1)
        else:
            (top / name).touch()
    return folders


@needs_git
@pytest.mark.parametrize("number", range(4))
def test_random_rules_in_random_trees_ignore_what_git_ignores(tmp_path: Path, number: int) -> None:
    rng = random.Random(SEED + number)
    print(f"SEED={SEED}")
    repository = make_repository(tmp_path / "repository", {})
    folders = fill(repository, rng)
    for _ in range(25):
        for folder in folders:
            (folder / ".gitignore").unlink(missing_ok=True)
        for folder in {repository, *rng.sample(folders, min(4, len(folders)))}:
            (folder / ".gitignore").write_bytes(random_rules(rng).encode())
        (repository / ".git/info/exclude").write_bytes(random_rules(rng).encode())
        options = {"order": rng.choice(ORDERS), "threads": rng.randint(1, 3)}
        assert shown_by_walk(repository, **options) == shown_by_git(repository, repository)


@needs_git
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("in_order", [False, True])
def test_every_order_goes_by_the_rules(tmp_path: Path, order: Any, in_order: bool) -> None:
    files = {
        ".gitignore": "*.o\nbuild/\n!keep.o\n/only\n", "x.o": "", "keep.o": "", "only": "",
        "sub/only": "", "sub/.gitignore": "keep.o\n!x.o\n", "sub/x.o": "", "sub/keep.o": "",
        "build/.gitignore": "!*\n", "build/file": "", "sub/deep/build": "", "sub/deep/x.o": "",
    }  # fmt: skip
    repository = make_repository(tmp_path / "repository", files)
    found = shown_by_walk(repository, order=order, sorted=in_order and order != "any")
    assert found == shown_by_git(repository, repository)
    names = {os.path.relpath(path, bytes(repository)) for path in found}
    assert b"sub/x.o" in names
    assert b"build" not in names
    assert b"keep.o" in names
    assert b"sub/keep.o" not in names


@needs_git
def test_a_walk_from_inside_a_repository_goes_by_the_rules_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        ".gitignore": "*.o\n/a/b/here\na/b/deep/er\n", "a/.gitignore": "two\n!x.o\n",
        "a/b/x.o": "", "a/b/y.c": "", "a/b/here": "", "a/b/deep/er": "", "a/b/two": "",
    }  # fmt: skip
    repository = make_repository(tmp_path / "repository", files)
    (repository / ".git/info/exclude").write_text("y.c\n")
    expected = shown_by_git(repository, repository / "a" / "b")
    assert [os.path.basename(path) for path in expected] == [b"deep", b"x.o"]
    assert shown_by_walk(repository / "a" / "b") == expected
    monkeypatch.chdir(repository / "a")
    below = [os.path.relpath(path, os.fsencode(repository / "a")) for path in expected]
    assert sorted(e.path for e in ferrule.walk(b"b", gitignore=True)) == below
    monkeypatch.chdir(repository / "a" / "b")
    found = sorted(e.path for e in ferrule.walk(b".", gitignore=True))
    assert found == [b"./deep", b"./x.o"]


@needs_git
def test_a_repository_inside_starts_anew_and_git_itself_is_never_shown(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "outer", {".gitignore": "x\n", "x": "", "y": ""})
    make_repository(repository / "inner", {".gitignore": "y\n", "x": "", "y": ""})
    found = {os.path.relpath(path, bytes(repository)) for path in shown_by_walk(repository)}
    assert found == {b".gitignore", b"y", b"inner", b"inner/.gitignore", b"inner/x"}


@needs_git
def test_a_linked_work_tree_has_the_exclusions_of_its_repository(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "main", {"file": ""})
    author = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    git(repository, *author, "commit", "--allow-empty", "-qm", "first")
    (repository / ".git/info/exclude").write_text("excluded\n")
    git(repository, "worktree", "add", "-q", "--detach", str(tmp_path / "linked"))
    for name in ("excluded", "shown"):
        (tmp_path / "linked" / name).touch()
    found = [os.path.basename(path) for path in shown_by_walk(tmp_path / "linked")]
    assert found == [b"shown"]


def test_without_gitignore_everything_is_shown(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("*\n")
    names = sorted(e.name for e in ferrule.walk(tmp_path))
    assert names == [".git", ".gitignore"]
    assert list(ferrule.walk(tmp_path, gitignore=True)) == []


def test_rules_count_where_there_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text(".gitignore\nx\n")
    for name in ("x", "y"):
        (tmp_path / name).touch()
    assert [e.name for e in ferrule.walk(tmp_path, gitignore=True)] == ["y"]


@pytest.mark.parametrize("gitignore", [False, True])
def test_given_lines_are_weaker_than_files(tmp_path: Path, gitignore: bool) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("x.o", "sub/x.o", "sub/top", "top"):
        (tmp_path / name).touch()
    (tmp_path / "sub" / ".gitignore").write_text("!x.o\n.gitignore\n")
    found = ferrule.walk(tmp_path, ignore=["*.o", "/top\n", ".gitignore"], gitignore=gitignore)
    expected = ["sub", "sub/top", *(["sub/x.o"] if gitignore else [])]
    assert sorted(os.path.relpath(e.path, tmp_path) for e in found) == expected


def test_lines_may_be_those_of_an_open_file(tmp_path: Path) -> None:
    (tmp_path / "rules").write_bytes(b"x\r\n# comment\n")
    (tmp_path / "x").touch()
    with open(tmp_path / "rules", "rb") as lines:
        assert [e.name for e in ferrule.walk(tmp_path, ignore=lines)] == ["rules"]


@pytest.mark.parametrize("count", [10, 5000])
def test_a_huge_directory_is_looked_up_in_not_read_whole(tmp_path: Path, count: int) -> None:
    for number in range(count):
        (tmp_path / f"file-with-a-rather-long-name-{number}").touch()
    (tmp_path / ".gitignore").write_text("file*1\n.gitignore\n")
    found = [e.name for e in ferrule.walk(tmp_path, gitignore=True)]
    assert len(found) == count - count // 10
    assert not any(name.endswith("1") for name in found)


def test_rules_that_cannot_be_read_are_an_error_with_their_path(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".gitignore").write_bytes(b"x" * ((1 << 20) + 1))
    (tmp_path / "sub" / "file").touch()
    with pytest.raises(OSError, match="too large") as caught:
        list(ferrule.walk(tmp_path, gitignore=True))
    assert caught.value.filename == str(tmp_path / "sub" / ".gitignore")
    shown = [e.name for e in ferrule.walk(tmp_path, gitignore=True, errors="skip")]
    assert sorted(shown) == [".gitignore", "file", "sub"]


def test_too_many_lines_are_refused() -> None:
    with pytest.raises(ValueError, match="ignore may have 1048576 bytes"):
        ferrule.walk(".", ignore="x" * (1 << 20))
