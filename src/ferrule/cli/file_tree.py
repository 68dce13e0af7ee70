"""Opening files beneath one directory, and nothing else.

Facts: a path that was checked can be changed before it is opened; an escape can hide ".."; a
symbolic link leads anywhere; opening a FIFO waits for a writer and opening a device can have
effects.  What follows: no path is ever given to the kernel.  Each name is opened by itself, below
a directory that is already open, without following links (O_NOFOLLOW) and without opening what it
names (O_PATH); what was got is looked at through its descriptor.  Links are followed here, one name
at a time: ".." returns to the directory that was come from and never above the root, an absolute
target is refused.  Only what is known to be a regular file or a directory is opened for reading,
through the descriptor already held, so nothing can be put in its place.

What it costs: some microseconds per name, paid when a file is not in the cache.  openat2 with
RESOLVE_BENEATH would do part of it in one call; it is missing from the standard library and from
the system call filters of older container runtimes.

Every function here blocks: call them through `ferrule.blocking`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_LINKS_MAX = 40  # the kernel's own limit
_DEPTH_MAX = 200  # each directory on the way is a descriptor while the walk lasts


class LeadsOutside(PermissionError):
    """A link that leads out of the directory."""

    def __init__(self) -> None:
        super().__init__(errno.EXDEV, "the link leads out of the directory that is served")


class NotServed(PermissionError):
    """Something that is neither a regular file nor a directory."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "neither a regular file nor a directory")


def open_root(path: str | os.PathLike[str]) -> int:
    """Open the directory to serve.  Returns a descriptor; renaming the directory later is safe."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open_beneath(root: int, names: Sequence[bytes]) -> tuple[int, os.stat_result]:
    """Open the file or directory at ``names`` below ``root`` for reading.

    Returns its descriptor and status.  Raises LeadsOutside, NotServed or another OSError.
    """
    found, status = find_beneath(root, names)
    try:
        return _open_found(found), status
    finally:
        os.close(found)


def find_beneath(root: int, names: Sequence[bytes]) -> tuple[int, os.stat_result]:
    """Like `open_beneath`, but the descriptor (O_PATH) cannot be read from."""
    walk = _Walk(root)
    try:
        return walk.to(names)
    finally:
        walk.close()


class _Walk:
    """The directories entered so far, the root first."""

    def __init__(self, root: int) -> None:
        self._trail = [root]

    def to(self, names: Sequence[bytes]) -> tuple[int, os.stat_result]:
        todo = list(reversed(names))
        links = 0
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                self._leave()
                continue
            fd = os.open(name, _LOOK, dir_fd=self._trail[-1])
            try:
                status = os.fstat(fd)
                if stat.S_ISLNK(status.st_mode):
                    links += 1
                    todo.extend(reversed(self._read_link(fd, links)))
                elif stat.S_ISDIR(status.st_mode):
                    self._enter(fd)
                    fd = -1
                elif not stat.S_ISREG(status.st_mode):
                    raise NotServed
                elif todo:
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                else:
                    found, fd = fd, -1
                    return found, status
            finally:
                if fd >= 0:
                    os.close(fd)
        found = os.open(".", os.O_PATH | os.O_CLOEXEC, dir_fd=self._trail[-1])
        return found, os.fstat(found)

    def _enter(self, fd: int) -> None:
        if len(self._trail) > _DEPTH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        self._trail.append(fd)

    def _leave(self) -> None:
        if len(self._trail) == 1:
            raise LeadsOutside
        os.close(self._trail.pop())

    def _read_link(self, fd: int, links: int) -> list[bytes]:
        if links > _LINKS_MAX:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = os.readlink(b"", dir_fd=fd)
        if target.startswith(b"/"):
            raise LeadsOutside
        return target.split(b"/")

    def close(self) -> None:
        for fd in self._trail[1:]:
            os.close(fd)


def _open_found(fd: int) -> int:
    """A readable descriptor for the very inode that ``fd`` (O_PATH) holds."""
    try:
        return os.open(f"/proc/self/fd/{fd}", _READ)
    except FileNotFoundError:
        # Deleted since, or no /proc here.
        if os.path.exists("/proc/self/fd"):
            raise
        raise OSError(errno.ENOSYS, "files cannot be opened safely without /proc") from None
