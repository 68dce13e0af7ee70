"""Files and directories for fibers.

`File` and `Directory` are open ones; the functions are those of `os` and `shutil`, with their
names, results and errors.  Every call parks only its fiber, and is a switch and cancellation point
unless it says otherwise.  ``dir_fd=`` takes a descriptor's number or a `Directory`, and is what a
relative path is relative to; a number must stay open until the call returns, a Directory is kept
open for it.
"""

from __future__ import annotations

import enum
import errno
import os
import secrets
import stat as _stat
import sys
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, AnyStr, Generic, TypeVar

from ferrule._core.fs_file import File
from ferrule._core.fs_paths import (
    DirectoryHandle,
    access,
    copy_some,
    link,
    lstat,
    mkdir,
    readlink,
    rename,
    rmdir,
    stat,
    symlink,
    unlink,
)
from ferrule._core.scheduler import ConcurrencyUnavailable, Task, spawn
from ferrule.tasks import shield

if TYPE_CHECKING:
    from typing_extensions import Buffer

    StrPath = str | os.PathLike[str]
    AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
    DirFd = int | DirectoryHandle | None

T = TypeVar("T")
MakeEntry = Callable[[bytes, int, int], "DirEntry[AnyStr]"]

__all__ = [
    "DirEntry", "Directory", "File", "Open", "Scan", "access", "copy_file", "link", "lstat",
    "makedirs", "mkdir", "open_dir", "read_bytes", "readlink", "rename", "replace", "rmdir",
    "rmtree", "scandir", "self_executable", "stat", "symlink", "unlink", "write_atomic",
    "write_bytes",
]

replace = rename

_COPY_BYTES = 8 << 20  # how much one uninterruptible step of a copy moves
_BLOCK_BYTES = 256 << 10
_REMOVERS = 16


class Open(enum.IntFlag):
    """Flags of `File.open`, by name; those of `os` (O_RDONLY, …) will do as well."""

    READ = os.O_RDONLY
    WRITE = os.O_WRONLY
    READ_WRITE = os.O_RDWR
    APPEND = os.O_APPEND
    """Every write goes to the end."""
    CREATE = os.O_CREAT
    """Make the file if there is none."""
    EXCLUSIVE = os.O_CREAT | os.O_EXCL
    """Make the file; FileExistsError if there is one."""
    TRUNCATE = os.O_TRUNC
    """Begin with an empty file; with a lock, once it is held."""
    NO_FOLLOW = os.O_NOFOLLOW
    """OSError with ELOOP if the path is a symbolic link."""
    SYNC = os.O_SYNC
    """A write returns once it is on the disk."""
    LOCK_SHARED = 1 << 40
    """Lock the file (flock) before returning; others may share the lock."""
    LOCK_EXCLUSIVE = 1 << 41
    """Lock the file (flock) before returning; nobody else has a lock then."""
    LOCK_NOWAIT = 1 << 42
    """With a lock: BlockingIOError where it would have to wait."""


class DirEntry(Generic[AnyStr]):
    """One entry of a directory, as os.DirEntry.

    ``name`` is its name, ``path`` the scanned path joined with it.  What the directory itself told
    (the inode, mostly the type) costs nothing; the rest is asked once and remembered.
    """

    __slots__ = ("_dir_fd", "_inode", "_lstat", "_stat", "_type", "name", "path")

    def __init__(
        self, name: AnyStr, path: AnyStr, inode: int, kind: int, dir_fd: DirFd
    ) -> None:
        self.name: AnyStr = name
        self.path: AnyStr = path
        self._inode = inode
        self._type = kind
        self._dir_fd = dir_fd
        self._stat: os.stat_result | None = None
        self._lstat: os.stat_result | None = None

    def inode(self) -> int:
        """Return the inode number.  Never a switch point."""
        return self._inode

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether it is a directory, or a link to one.  Asks only if the type is unknown."""
        return self._is(_stat.S_IFDIR, follow_symlinks)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether it is a regular file, or a link to one."""
        return self._is(_stat.S_IFREG, follow_symlinks)

    def is_symlink(self) -> bool:
        """Return whether it is a symbolic link."""
        return self._is(_stat.S_IFLNK, False)

    def is_junction(self) -> bool:
        """Return False: there are none here."""
        return False

    def _is(self, kind: int, follow: bool) -> bool:
        # A directory entry's type is the upper part of st_mode; 0 is unknown.
        known = self._type << 12
        if known and not (follow and known == _stat.S_IFLNK):
            return known == kind
        try:
            return _stat.S_IFMT(self.stat(follow_symlinks=follow).st_mode) == kind
        except FileNotFoundError:
            return False

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return the `os.stat_result`, of the link's target unless told otherwise."""
        if not follow_symlinks or self._type << 12 not in (0, _stat.S_IFLNK):
            if self._lstat is None:
                self._lstat = stat(self.path, dir_fd=self._dir_fd, follow_symlinks=False)
            return self._lstat
        if self._stat is None:
            self._stat = stat(self.path, dir_fd=self._dir_fd)
        return self._stat

    def __fspath__(self) -> AnyStr:
        return self.path

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"


class Scan(Generic[AnyStr]):
    """The entries of a directory, in the directory's order; an iterator and a context manager."""

    def __init__(
        self,
        handle: DirectoryHandle,
        make_entry: MakeEntry[AnyStr],
        *,
        owned: bool,
    ) -> None:
        self._handle = handle
        self._make_entry: MakeEntry[AnyStr] = make_entry
        self._owned = owned
        self._block: Iterator[tuple[bytes, int, int]] = iter(())
        self._ended = False

    def __iter__(self) -> Scan[AnyStr]:
        return self

    def __next__(self) -> DirEntry[AnyStr]:
        while not self._ended:
            for found in self._block:
                return self._make_entry(*found)
            block = self._handle.read_entries()
            self._block = iter(block)
            if not block:
                self.close()
        raise StopIteration

    def close(self) -> None:
        """End the scan and give its descriptor back.  Idempotent."""
        self._ended = True
        if self._owned:
            self._handle.close()

    def __enter__(self) -> Scan[AnyStr]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


class Directory(DirectoryHandle):
    """An open directory; paths given to its methods are relative to it.

    Made by `Directory.open` or `open_dir`; a context manager.  Renaming or moving the directory
    does not change which one this is.
    """

    def scandir(self) -> Scan[str]:
        """Return its entries from the first one on; one scan at a time.  ``path`` is the name."""
        self.rewind()
        return Scan(self, lambda name, inode, kind: _entry(name, inode, kind, self), owned=False)

    def stat(self, path: AnyPath | None = None, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return the `os.stat_result` of a path, or of the directory itself."""
        if path is None:
            return super().stat()
        return stat(path, dir_fd=self, follow_symlinks=follow_symlinks)

    def lstat(self, path: AnyPath) -> os.stat_result:
        """As stat(), but of a symbolic link itself."""
        return stat(path, dir_fd=self, follow_symlinks=False)

    def access(self, path: AnyPath, mode: int) -> bool:
        """See os.access."""
        return access(path, mode, dir_fd=self)

    def open_file(self, path: AnyPath, flags: int = os.O_RDONLY, mode: int = 0o666) -> File:
        """See `File.open`."""
        return File.open(path, flags, mode, dir_fd=self)

    def open_dir(self, path: AnyPath, *, follow_symlinks: bool = True) -> Directory:
        """Open a directory below this one."""
        return Directory.open(path, dir_fd=self, follow_symlinks=follow_symlinks)

    def mkdir(self, path: AnyPath, mode: int = 0o777) -> None:
        """See os.mkdir."""
        mkdir(path, mode, dir_fd=self)

    def makedirs(self, path: AnyPath, mode: int = 0o777, exist_ok: bool = False) -> None:
        """See os.makedirs."""
        makedirs(path, mode, exist_ok, dir_fd=self)

    def unlink(self, path: AnyPath) -> None:
        """See os.unlink."""
        unlink(path, dir_fd=self)

    def rmdir(self, path: AnyPath) -> None:
        """See os.rmdir."""
        rmdir(path, dir_fd=self)

    def rmtree(self, path: AnyPath, ignore_errors: bool = False) -> None:
        """See `rmtree`."""
        rmtree(path, ignore_errors, dir_fd=self)

    def rename(self, src: AnyPath, dst: AnyPath, *, to: DirFd = None) -> None:
        """Rename ``src`` to ``dst``, replacing it; ``to``: the directory of ``dst``, if another."""
        rename(src, dst, src_dir_fd=self, dst_dir_fd=self if to is None else to)

    def replace(self, src: AnyPath, dst: AnyPath, *, to: DirFd = None) -> None:
        """As rename()."""
        self.rename(src, dst, to=to)

    def link(self, src: AnyPath, dst: AnyPath, *, to: DirFd = None) -> None:
        """Make a hard link ``dst`` to ``src``; ``to``: the directory of ``dst``, if another."""
        link(src, dst, src_dir_fd=self, dst_dir_fd=self if to is None else to)

    def symlink(self, src: AnyPath, dst: AnyPath) -> None:
        """Make a symbolic link ``dst`` that says ``src``."""
        symlink(src, dst, dir_fd=self)

    def readlink(self, path: StrPath) -> str:
        """See os.readlink."""
        return readlink(os.fspath(path), dir_fd=self)

    def read_bytes(self, path: AnyPath) -> bytes:
        """See `read_bytes`."""
        return read_bytes(path, dir_fd=self)

    def write_bytes(self, path: AnyPath, data: Buffer, *, mode: int = 0o666) -> int:
        """See `write_bytes`."""
        return write_bytes(path, data, mode=mode, dir_fd=self)

    def write_atomic(self, path: AnyPath, data: Buffer, *, sync_directory: bool = False) -> None:
        """See `write_atomic`."""
        write_atomic(path, data, sync_directory=sync_directory, dir_fd=self)


def _entry(name: bytes, inode: int, kind: int, dir_fd: DirFd) -> DirEntry[str]:
    text = os.fsdecode(name)
    return DirEntry(text, text, inode, kind, dir_fd)


def open_dir(
    path: AnyPath, *, dir_fd: DirFd = None, follow_symlinks: bool = True
) -> Directory:
    """Open a directory; NotADirectoryError for a link that is not to be followed."""
    return Directory.open(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)


def scandir(path: Any = ".", *, dir_fd: DirFd = None) -> Scan[Any]:
    """Return the entries of a directory: of a str, bytes or PathLike, or of a descriptor.

    An iterator of `DirEntry`, and a context manager; see os.scandir.
    """
    if isinstance(path, (int, DirectoryHandle)):
        number = path if isinstance(path, int) else path.fileno()
        handle = DirectoryHandle.of_number(number)
        try:
            handle.rewind()
        except BaseException:
            handle.close()
            raise
        return Scan(handle, lambda name, inode, kind: _entry(name, inode, kind, path), owned=True)
    top = os.fspath(path)
    handle = DirectoryHandle.open(top, dir_fd=dir_fd)
    decode = _decoder(top)

    def make_entry(name: bytes, inode: int, kind: int) -> DirEntry[Any]:
        own = decode(name)
        return DirEntry(own, os.path.join(top, own), inode, kind, dir_fd)

    return Scan(handle, make_entry, owned=True)


def _decoder(path: Any) -> Callable[[bytes], Any]:
    """How names are given back: as the path was."""
    return bytes if isinstance(path, bytes) else os.fsdecode


def makedirs(
    path: AnyPath, mode: int = 0o777, exist_ok: bool = False, *, dir_fd: DirFd = None
) -> None:
    """Make a directory and those above it that are missing; see os.makedirs."""
    top: Any = os.fspath(path)
    head, tail = os.path.split(top)
    if not tail:
        head, tail = os.path.split(head)
    if head and tail and not _exists(head, dir_fd):
        try:
            makedirs(head, exist_ok=True, dir_fd=dir_fd)
        except FileExistsError:
            pass  # somebody else was faster
        if tail in (os.curdir, os.fsencode(os.curdir)):
            return
    try:
        mkdir(top, mode, dir_fd=dir_fd)
    except OSError:
        # EEXIST is not the only answer for what exists: a read-only file system says EROFS.
        if not exist_ok or not _is_dir(top, dir_fd):
            raise


def _exists(path: AnyPath, dir_fd: DirFd) -> bool:
    try:
        stat(path, dir_fd=dir_fd)
    except OSError:
        return False
    return True


def _is_dir(path: AnyPath, dir_fd: DirFd) -> bool:
    try:
        return _stat.S_ISDIR(stat(path, dir_fd=dir_fd).st_mode)
    except OSError:
        return False


def read_bytes(path: AnyPath, *, dir_fd: DirFd = None) -> bytes:
    """Return all that is in a file."""
    with File.open(path, os.O_RDONLY, dir_fd=dir_fd) as file:
        return file.read()


def write_bytes(
    path: AnyPath, data: Buffer, *, mode: int = 0o666, dir_fd: DirFd = None
) -> int:
    """Make ``data`` all that is in a file; return its length.

    A reader may see a part of it, and a crash or a cancellation may leave a part: see
    `write_atomic`.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with File.open(path, flags, mode, dir_fd=dir_fd) as file:
        return file.write(data)


def write_atomic(
    path: AnyPath,
    data: Buffer,
    *,
    mode: int | None = None,
    sync: bool = True,
    sync_directory: bool = False,
    dir_fd: DirFd = None,
) -> None:
    """Put ``data`` in a file so that everybody, also after a crash, sees the old or the new.

    Written to a temporary file in the same directory, synced (unless ``sync=False``: then a crash
    may leave an empty file), and renamed.  A symbolic link at ``path`` is replaced.  ``mode``: the
    permission bits; by default those of the file that is replaced, else 0o666 less the umask.
    ``sync_directory`` also waits until the new name is on the disk.  Cancelled or failing, it
    leaves nothing behind.
    """
    target: Any = os.fspath(path)
    head, tail = os.path.split(target)
    empty = target[:0]
    if not tail:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    with Directory.open(head or os.curdir, dir_fd=dir_fd) as directory:
        if mode is None:
            mode = _mode_of(tail, directory)
        temporary = _temporary_name(tail, empty)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        file = directory.open_file(temporary, flags, 0o666 if mode is None else mode & 0o777)
        try:
            with file:
                file.write(data)
                if mode is not None:
                    file.chmod(mode)  # what the umask took
                if sync:
                    file.fsync()
            directory.rename(temporary, tail)
        except BaseException:
            with shield():
                _unlink_quietly(temporary, directory)
            raise
        if sync_directory:
            directory.fsync()


def _mode_of(name: AnyPath, directory: Directory) -> int | None:
    try:
        found = directory.lstat(name).st_mode
    except FileNotFoundError:
        return None
    return _stat.S_IMODE(found) if _stat.S_ISREG(found) else None


def _temporary_name(name: Any, empty: Any) -> Any:
    # Names are at most 255 bytes; of a long one the end goes.
    own = f".{secrets.token_hex(8)}.tmp"
    if isinstance(empty, bytes):
        return b"." + name[:200] + own.encode()
    return f".{os.fsdecode(os.fsencode(name)[:200])}{own}"


def _unlink_quietly(name: AnyPath, directory: Directory) -> None:
    try:
        directory.unlink(name)
    except OSError:
        pass


def copy_file(
    src: AnyPath,
    dst: AnyPath,
    *,
    src_dir_fd: DirFd = None,
    dst_dir_fd: DirFd = None,
) -> int:
    """Copy a file's data and permission bits, in the kernel where it can; return the length.

    ``dst`` is a path to a file, and is replaced if it exists; links are followed.  Cancelled or
    failing half-way it leaves the part that was copied.  SameFileError (of shutil) if both are one.
    """
    with File.open(src, os.O_RDONLY, dir_fd=src_dir_fd) as source:
        facts = source.stat()
        mode = _stat.S_IMODE(facts.st_mode)
        # Truncated only once it is known to be another file.
        flags = os.O_WRONLY | os.O_CREAT
        with File.open(dst, flags, mode, dir_fd=dst_dir_fd) as target:
            there = target.stat()
            if os.path.samestat(facts, there):
                from shutil import SameFileError

                raise SameFileError(f"{src!r} and {dst!r} are the same file")
            if _stat.S_ISREG(there.st_mode):
                target.truncate(0)
                if _stat.S_IMODE(there.st_mode) != mode:
                    target.chmod(mode)
            return _copy_data(source, target, facts.st_size)


def _copy_data(source: File, target: File, size: int) -> int:
    done = 0
    try:
        # Files of /proc say they are empty, and the kernel then copies nothing.
        while size and (n := copy_some(source, target, _COPY_BYTES)):
            done += n
        if done:
            return done
    except OSError as exc:
        if done or exc.errno not in _CANNOT_COPY:
            raise
    block = memoryview(bytearray(_BLOCK_BYTES))
    while n := source.readinto(block):
        done += target.write(block[:n])
    return done


_CANNOT_COPY = {
    errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF,
    errno.ETXTBSY,
}


def self_executable() -> str:
    """Return the path of the program that this process runs (the interpreter)."""
    try:
        return readlink("/proc/self/exe")
    except OSError:
        return sys.executable


# ---- removing trees ----


OnError = Callable[[Callable[..., Any], Any, BaseException], object]


def rmtree(
    path: AnyPath,
    ignore_errors: bool = False,
    *,
    onexc: OnError | None = None,
    dir_fd: DirFd = None,
) -> None:
    """Remove a directory with everything in it; see shutil.rmtree.

    Nothing outside it is ever removed, whatever is renamed or replaced by a link meanwhile: each
    directory is opened without following links, and what is in it removed relative to that.
    ``onexc(function, path, exc)`` is called for each failure, and may raise; without it, and
    without ``ignore_errors``, the first one is raised.
    """
    _Removal(os.fspath(path), ignore_errors, onexc).run(dir_fd)


class _Removal:
    """One rmtree: an explicit stack of open directories, so a deep tree needs no recursion."""

    def __init__(self, top: Any, ignore_errors: bool, onexc: OnError | None) -> None:
        self._top = top
        self._ignore = ignore_errors
        self._onexc = onexc

    def run(self, dir_fd: DirFd) -> None:
        top = self._open(self._top, dir_fd, self._top)
        if top is None:
            return
        # (open directory, its path, its subdirectories that are still to be removed)
        stack: list[tuple[Directory, Any, list[Any]]] = []
        try:
            stack.append((top, self._top, self._empty(top, self._top)))
            while stack:
                directory, path, below = stack[-1]
                if below:
                    name = below.pop()
                    inner = os.path.join(path, name)
                    child = self._open(name, directory, inner)
                    if child is not None:
                        stack.append((child, inner, []))
                        stack[-1] = (child, inner, self._empty(child, inner))
                    continue
                stack.pop()
                directory.close()
                if stack:
                    self._try(rmdir, os.path.basename(path), stack[-1][0], path)
                else:
                    self._try(rmdir, path, dir_fd, path)
        finally:
            for directory, _, _ in stack:
                directory.close()

    def _failed(self, function: Callable[..., Any], path: Any, exc: OSError) -> None:
        if exc.errno is not None:
            exc.filename = path  # from the top, not from the directory it is in
        if self._onexc is not None:
            self._onexc(function, path, exc)
        elif not self._ignore:
            raise exc

    def _try(self, function: Callable[..., Any], name: Any, dir_fd: DirFd, path: Any) -> None:
        try:
            function(name, dir_fd=dir_fd)
        except FileNotFoundError as exc:
            if path is self._top:
                self._failed(function, path, exc)
        except OSError as exc:
            self._failed(function, path, exc)

    def _open(self, name: Any, dir_fd: DirFd, path: Any) -> Directory | None:
        """Open a directory that is none by way of a link; unlink what turned out not to be one."""
        try:
            return Directory.open(name, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError as exc:
            if path is self._top:
                self._failed(os.open, path, exc)
        except OSError as exc:
            if path is not self._top and exc.errno in (errno.ENOTDIR, errno.ELOOP):
                self._try(unlink, name, dir_fd, path)
            elif path is self._top and self._is_link(name, dir_fd):
                link_error = OSError("Cannot call rmtree on a symbolic link")
                self._failed(os.path.islink, path, link_error)
            else:
                self._failed(os.open, path, exc)
        return None

    @staticmethod
    def _is_link(name: Any, dir_fd: DirFd) -> bool:
        try:
            return _stat.S_ISLNK(lstat(name, dir_fd=dir_fd).st_mode)
        except OSError:
            return False

    def _empty(self, directory: Directory, path: Any) -> list[Any]:
        """Unlink all but the subdirectories, whose names are returned."""
        decode = _decoder(path)
        below: list[Any] = []
        try:
            while block := directory.read_entries():
                files: list[Any] = []
                for name, _, kind in block:
                    # An unknown type is tried as a directory, which never follows a link.
                    is_dir = kind << 12 in (_stat.S_IFDIR, 0)
                    (below if is_dir else files).append(decode(name))
                _for_each(
                    files,
                    lambda name: self._try(unlink, name, directory, os.path.join(path, name)),
                )
        except OSError as exc:
            self._failed(os.scandir, path, exc)
        return below


def _for_each(items: Iterable[T], action: Callable[[T], object]) -> None:
    """Call ``action`` for each item, several at once; the first failure ends it and is raised."""
    items = list(items)
    left = iter(items)

    def work() -> None:
        for item in left:
            action(item)

    helpers = _spawn_some(work, min(_REMOVERS, len(items) // 4))
    try:
        work()
        for helper in helpers:
            helper.result()
    except BaseException:
        for _ in left:
            pass  # nobody begins another one
        with shield():
            for helper in helpers:
                helper.cancel()
                helper.join()
        raise


def _spawn_some(work: Callable[[], None], count: int) -> list[Task[None]]:
    tasks: list[Task[None]] = []
    try:
        while len(tasks) < count:
            tasks.append(spawn(work))
    except ConcurrencyUnavailable:
        pass  # then fewer hands
    return tasks
