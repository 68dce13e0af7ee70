"""Directory trees that walkers stumble over, and what GNU find says is in them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

NAMES = (
    b"plain", b"two words", b" ", b"line\nbreak", b"\n", b"tab\there", b"-print", b"--", b"-",
    b"!", b"(", b"\xff\xfe", b"caf\xc3\xa9", b"caf\xe9", b"\xed\xa0\x80", b"*", b"[a]", b"a\\b",
    b"'", b'"', b"...", b".hidden", b".g", b".git-not", b"x" * 255, b"\x01\x7f\x1b[31m", b"%s%n",
    b"{}", b"~", b"$HOME", b"\xe2\x80\xae", b"a=b", b"Z", b"a", b"B",
)  # fmt: skip
DEEP = 5_000
WIDE = 100_000 if os.environ.get("FERRULE_SOAK") == "long" else 3_000
UNPRIVILEGED = 65534

Tree = Callable[[Path], None]
TREES: dict[str, Tree] = {}


def tree(make: Tree) -> Tree:
    TREES[make.__name__] = make
    return make


def touch(path: str | bytes, mode: int = 0o644, dir_fd: int | None = None) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, mode, dir_fd=dir_fd))


@tree
def names(top: Path) -> None:
    """Every awkward name, of files and of directories, in two levels."""
    for number, name in enumerate(NAMES):
        path = os.fsencode(top) + b"/" + name
        if number % 2:
            touch(path)
            continue
        os.mkdir(path)
        for below in NAMES[number % 7 :: 3]:
            touch(path + b"/" + below)


@tree
def links(top: Path) -> None:
    """Loops of all lengths, links that lead nowhere, links to files, directories and links."""
    for folder in ("a/b/c", "other/x", "chain"):
        (top / folder).mkdir(parents=True)
    (top / "a" / "file").touch()
    (top / "other" / "x" / "leaf").touch()
    made = {
        "a/b/up": "..", "a/b/c/self": ".", "a/b/c/top": "../../..", "itself": "itself",
        "one": "two", "two": "one", "nowhere": "missing/file", "to-file": "a/file",
        "to-folder": "other", "a/to-other": "../other", "other/to-a": "../a",
        "chain/1": "2", "chain/2": "3", "chain/3": "../other/x", "slash": "other/",
        "through-file": "a/file/x", "absolute": str(top / "other" / "x"),
    }  # fmt: skip
    for name, target in made.items():
        (top / name).symlink_to(target)


@tree
def kinds(top: Path) -> None:
    """Every kind of file that anybody may make."""
    for number in range(3):
        (top / f"folder-{number}").mkdir()
    os.mkfifo(top / "folder-0" / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        where = os.open(top / "folder-1", os.O_PATH | os.O_DIRECTORY)
        listener.bind(f"/proc/self/fd/{where}/socket")  # the address is shorter than the path
        os.close(where)
    touch(str(top / "one"))
    os.link(top / "one", top / "folder-0" / "same")
    touch(str(top / "runs"), 0o4755)
    with open(top / "holes", "wb") as file:
        file.truncate(1 << 33)
    (top / "folder-2" / "link").symlink_to("../one")


@tree
def shapes(top: Path) -> None:
    """Empty directories, a long chain beside wide ones, a directory with one of each."""
    for first in range(4):
        for second in range(first * 3):
            folder = top / f"{first}" / f"{second}"
            folder.mkdir(parents=True)
            for third in range(second):
                touch(str(folder / f"{third}"))
    (top / "empty" / "empty" / "empty").mkdir(parents=True)
    (top / "chain" / "/".join("abcdefghijklmnop")).mkdir(parents=True)


@tree
def wide(top: Path) -> None:
    """One directory with very many entries, in which some directories hide."""
    for number in range(WIDE):
        if number % 1000:
            touch(str(top / f"file-{number}"))
        else:
            (top / f"folder-{number}" / "below").mkdir(parents=True)


@tree
def empty(top: Path) -> None:
    """Nothing."""


def make_deep(top: Path, depth: int = DEEP, name: str = "d" * 10) -> None:
    """A chain of directories, a file in each hundredth, much longer than PATH_MAX."""
    at = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for level in range(depth):
        os.mkdir(name, dir_fd=at)
        if level % 100 == 0:
            touch("file", dir_fd=at)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def remove_deep(top: Path, name: str = "d" * 10) -> None:
    """Remove a chain link by link: rm takes seconds for the paths of a long one."""
    link, rest = top / name, top / "rest"
    while link.exists():
        (link / "file").unlink(missing_ok=True)
        if (link / name).exists():
            (link / name).rename(rest)
        link.rmdir()
        if rest.exists():
            rest.rename(link)


def make_unreadable(top: Path) -> None:
    """What a user without privileges may list but not enter, enter but not list, or neither."""
    for mode in (0o000, 0o444, 0o111, 0o555):
        folder = top / f"mode-{mode:03o}" / "below"
        folder.mkdir(parents=True)
        touch(str(folder / "file"))
        touch(str(folder.parent / "file"))
    (top / "link").symlink_to("mode-000/below")
    for mode in (0o000, 0o444, 0o111, 0o555):
        (top / f"mode-{mode:03o}").chmod(mode)


def remove(top: Path) -> None:
    """Remove a tree, however deep: rm does not call itself for what is below."""
    if shutil.which("rm"):
        subprocess.run(["chmod", "-R", "u+rwx", "--", str(top)], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", "--", str(top)], check=True)


# ---- what GNU find says --------------------------------------------------------------------------

Seen = tuple[bytes, str, int]  # path, type as find writes it, depth


def gnu_find(
    tops: Iterable[bytes], *options: str, follow: str = "-P", **popen: object
) -> list[Seen]:
    """Every entry that find gives, sorted; what it says on stderr is ignored."""
    command: list[str | bytes] = ["find", follow, *tops, *options, "-printf", r"%p\0%y\0%d\0"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **popen)  # type: ignore[call-overload]
    fields = done.stdout.split(b"\0")[:-1]
    return sorted(
        (path, kind.decode(), int(depth))
        for path, kind, depth in zip(fields[::3], fields[1::3], fields[2::3], strict=True)
    )


# ---- orders --------------------------------------------------------------------------------------


def parent_of(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def check_parents_first(paths: list[bytes]) -> None:
    """Every directory before what is in it, and nothing twice."""
    seen: set[bytes] = set()
    known = set(paths)
    for path in paths:
        assert path not in seen, f"{path!r} came twice"
        above = parent_of(path)
        assert above not in known or above in seen, f"{path!r} came before its directory"
        seen.add(path)


def check_parents_last(paths: list[bytes]) -> None:
    """Every directory after all that is in it."""
    check_parents_first(paths[::-1])


def check_by_level(paths: list[bytes]) -> None:
    """All of one depth before any that is deeper."""
    depths = [path.count(b"/") for path in paths]
    assert depths == sorted(depths)


def check_subtrees_whole(paths: list[bytes]) -> None:
    """What is below a directory follows it without anything else between."""
    open_above: list[bytes] = []
    closed: set[bytes] = set()
    for path in paths:
        while open_above and not path.startswith(open_above[-1] + b"/"):
            closed.add(open_above.pop())
        assert not any(
            path.startswith(above + b"/") for above in closed if above == parent_of(path)
        )
        open_above.append(path)


def check_siblings_sorted(paths: list[bytes]) -> None:
    """The entries of each directory in the order of their names' bytes."""
    by_folder: dict[bytes, list[bytes]] = {}
    for path in paths:
        by_folder.setdefault(parent_of(path), []).append(path)
    for found in by_folder.values():
        assert found == sorted(found)
