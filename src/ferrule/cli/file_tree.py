"""Opening files beneath one directory, and nothing else.

Facts: a path that was checked can be changed before it is opened; an escape can hide ".."; a
symbolic link leads anywhere; opening a FIFO waits for a writer and opening a device can have
effects.  What follows: no path is ever given to the kernel.  Each name is opened by itself, below
a directory that is already open, without following links (O_NOFOLLOW) and without opening what it
names (O_PATH); what was got is looked at through its descriptor.  Links are followed here, one name
at a time: ".." returns to the directory that was come from and never above the root, an absolute
target is refused.  What turned out to be a regular file is then opened for reading, again by its
name alone, below the same directory, and must be the very file that was looked at, which is held
until then: O_NONBLOCK and the comparison see to it that nothing put in its place meanwhile can be
waited for or served.

What it costs: two calls per name, paid when a file is not in the cache; they are made on the loop
as long as the kernel has the names cached.  openat2 with RESOLVE_BENEATH would do part of it in one
call; Ferrule's files do not offer it, and older container runtimes refuse it.

Every function here is a switch and cancellation point.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from functools import partial

import ferrule
from ferrule.fs import File

_LOOK = os.O_PATH | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK
_LINKS_MAX = 40  # the kernel's own limit
_DEPTH_MAX = 200  # each directory on the way is a descriptor while the walk lasts
_TRIES = 4  # for a file that is exchanged again and again


class LeadsOutside(PermissionError):
    """A link that leads out of the directory."""

    def __init__(self) -> None:
        super().__init__(errno.EXDEV, "the link leads out of the directory that is served")


class NotServed(PermissionError):
    """Something that is neither a regular file nor a directory."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "neither a regular file nor a directory")


class _Exchanged(OSError):
    """Another file has taken the name since it was looked at."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, "the file was exchanged while it was opened")


def open_root(path: str | os.PathLike[str]) -> int:
    """Open the directory to serve.  Returns a descriptor; renaming the directory later is safe.

    Blocks; needs no fiber.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open_beneath(root: int, names: Sequence[bytes]) -> tuple[File, os.stat_result]:
    """Open the file or directory at ``names`` below ``root`` for reading; also its status.

    Raises LeadsOutside, NotServed or another OSError.
    """
    for _ in range(_TRIES):
        try:
            with _Walk(root) as walk:
                return walk.open(names)
        except _Exchanged:
            continue
    raise _Exchanged


def stat_beneath(root: int, names: Sequence[bytes]) -> os.stat_result:
    """The status of what `open_beneath` would open; nothing is opened for reading."""
    with _Walk(root) as walk:
        walk.to(names)
        return walk.status


class _Walk:
    """A walk down from the root: the directories entered so far, and the file found, if it is one.

    ``name`` is what was found, below the last directory: a directory is entered, its name is ".".
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._trail: list[File] = []
        self._found: File | None = None
        self.name = b"."
        self.status = os.fstat(root)

    def __enter__(self) -> _Walk:
        return self

    def __exit__(self, *exc: object) -> None:
        for each in (*self._trail, self._found):
            if each is not None:
                each.close()

    def open(self, names: Sequence[bytes]) -> tuple[File, os.stat_result]:
        self.to(names)
        file = File.open(self.name, _READ, dir_fd=self._here())
        status = file.stat()
        # What was looked at is still held open, so its inode number cannot have a new owner.
        if not os.path.samestat(self.status, status):
            file.close()
            raise _Exchanged
        return file, status

    def to(self, names: Sequence[bytes]) -> None:
        todo = list(reversed(names))
        links = 0
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                self._leave()
                continue
            self._found = found = File.open(name, _LOOK, dir_fd=self._here())
            self.status = found.stat()
            if stat.S_ISDIR(self.status.st_mode):
                self._enter(found)
            elif stat.S_ISLNK(self.status.st_mode):
                links += 1
                todo.extend(reversed(_read_link(found, links)))
                self._found = None
                found.close()
            elif not stat.S_ISREG(self.status.st_mode):
                raise NotServed
            elif todo:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            else:
                self.name = name
                return
        self.status = os.fstat(self._here())

    def _here(self) -> int:
        return self._trail[-1].fileno() if self._trail else self._root

    def _enter(self, directory: File) -> None:
        if len(self._trail) == _DEPTH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        self._trail.append(directory)
        self._found = None

    def _leave(self) -> None:
        if not self._trail:
            raise LeadsOutside
        self._trail.pop().close()


def _read_link(link: File, links: int) -> list[bytes]:
    if links > _LINKS_MAX:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    # Through the descriptor: the link that was looked at, whatever has its name now.
    target = ferrule.blocking(partial(os.readlink, b"", dir_fd=link.fileno()))
    if target.startswith(b"/"):
        raise LeadsOutside
    return target.split(b"/")
