"""`ferrule find` and GNU find on the same arguments."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ferrule.cli import find

GNU = shutil.which("find")


def is_gnu() -> bool:
    if GNU is None:
        return False
    told = subprocess.run([GNU, "--version"], capture_output=True, text=True)
    return "GNU findutils" in told.stdout


needs_gnu = pytest.mark.skipif(not is_gnu(), reason="GNU find is not installed")


@dataclass
class Result:
    status: int
    out: bytes
    err: bytes

    def names(self, separator: bytes = b"\n") -> list[bytes]:
        return sorted(self.out.split(separator))


class Finding:
    """Runs both in one directory."""

    def __init__(self, directory: Path, captured: Any) -> None:
        self.directory = directory
        self._captured = captured

    def ours(self, *words: str) -> Result:
        before = os.getcwd()
        self._captured.readouterr()
        os.chdir(self.directory)
        try:
            status = find.main(list(words))
        finally:
            os.chdir(before)
        out, err = self._captured.readouterr()
        return Result(status, out, err)

    def gnu(self, *words: str) -> Result:
        assert GNU is not None
        done = subprocess.run([GNU, *words], cwd=self.directory, capture_output=True,
                              env={**os.environ, "LC_ALL": "C.UTF-8"}, stdin=subprocess.DEVNULL)
        return Result(done.returncode, done.stdout, done.stderr)

    def same(self, *words: str, separator: bytes = b"\n") -> Result:
        """Ours, which says what GNU's says, in whatever order."""
        ours, gnu = self.ours(*words), self.gnu(*words)
        assert ours.names(separator) == gnu.names(separator), words
        assert (ours.status != 0) == (gnu.status != 0), (words, ours.err, gnu.err)
        return ours


def grow_tree(root: Path, chance: random.Random, count: int = 60) -> None:
    """Files, directories, links and fifos with all kinds of names, sizes, modes and times."""
    directories = [os.fsencode(root)]
    files: list[bytes] = []
    for number in range(count):
        where = chance.choice(directories)
        path = os.path.join(where, _name(chance, number))
        kind = chance.choices(("file", "directory", "link", "fifo", "hard"), (8, 4, 3, 1, 1))[0]
        _make(path, kind, chance, files, directories)
    for path in files + directories[1:]:
        os.chmod(path, chance.choice((0o644, 0o755, 0o600, 0o4755, 0o2711, 0o1777, 0o444, 0o700)))
        age = chance.choice((0, 30, 3599, 86_399, 86_400, 90_000, 200_000, 40_000_000))
        now = os.stat(root).st_mtime
        os.utime(path, (now - chance.choice((0, 100, 100_000)), now - age))
    for _ in os.walk(root):  # whoever reads a directory first changes when it was read
        pass


def _name(chance: random.Random, number: int) -> bytes:
    stems = (b"a", b"b.c", b"notes.txt", b"x y", b".hidden", b"\xc3\xa9t\xc3\xa9", b"n\nl", b"\xff",
             b"[b]", b"-name", b"*", b"A.PY", b"m.py", b"\\w", b"'q'", b'"')
    return chance.choice(stems) + (b"" if chance.random() < 0.3 else b"%d" % number)


def _make(path: bytes, kind: str, chance: random.Random, files: list[bytes],
          directories: list[bytes]) -> None:
    if os.path.lexists(path):
        return
    if kind == "file":
        with open(path, "wb") as file:
            file.truncate(chance.choice((0, 1, 511, 512, 513, 1024, 5000, 1 << 20)))
        files.append(path)
    elif kind == "directory":
        os.mkdir(path)
        directories.append(path)
    elif kind == "link":
        where = chance.choice([*files, *directories, b"/nowhere", b"."])
        os.symlink(where, path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif files:
        os.link(chance.choice(files), path)


Run = Callable[..., Result]
