"""What a path of the served directory gives: a file, a redirect, a listing or an error.

`StaticFiles.load` looks it up on disk; `StaticFiles.fresh` answers from memory.

The cache, in sentences.  An entry holds the open file, the header fields made for it and, up to
`CacheLimits.body` bytes, its content.  On every use the open file's status is asked again (fstat:
no path, no disk): any change of content, size, owner or links shows there, a replacement by rename
too.  What does not show there, a directory above it that was exchanged, is noticed when the entry
is `CacheLimits.age` seconds old and looked up anew.  A file whose status changed a moment ago is
not kept, since the kernel's clock may be too coarse to show the next change.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import OrderedDict
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import quote

from ferrule.cli.file_tree import open_beneath, open_root
from ferrule.cli.http_request import RequestError, decode_path
from ferrule.cli.listing import list_directory, render_listing
from ferrule.cli.media_types import media_type
from ferrule.fs import File

INDEX_NAMES = (b"index.html", b"index.htm")
SETTLED_NS = 20_000_000  # two ticks of the coarsest clock kernels stamp files with
SAMPLE_BYTES = 64 * 1024  # of a large file, to see whether it is UTF-8

_COMMON = b"X-Content-Type-Options: nosniff\r\n"
_STATUS_OF_ERRNO = {
    errno.ENOENT: HTTPStatus.NOT_FOUND,
    errno.ENOTDIR: HTTPStatus.NOT_FOUND,
    errno.ENAMETOOLONG: HTTPStatus.NOT_FOUND,
    errno.ELOOP: HTTPStatus.NOT_FOUND,
    errno.EINVAL: HTTPStatus.NOT_FOUND,
    errno.ESTALE: HTTPStatus.NOT_FOUND,
    errno.EACCES: HTTPStatus.FORBIDDEN,
    errno.EPERM: HTTPStatus.FORBIDDEN,
    errno.EXDEV: HTTPStatus.FORBIDDEN,
    errno.EMFILE: HTTPStatus.SERVICE_UNAVAILABLE,
    errno.ENFILE: HTTPStatus.SERVICE_UNAVAILABLE,
    errno.ENOMEM: HTTPStatus.SERVICE_UNAVAILABLE,
}


@dataclass(slots=True)
class CacheLimits:
    """How much is kept: ``files`` open files, ``body`` bytes of each, ``total`` bytes of all."""

    files: int = 512
    body: int = 64 * 1024
    total: int = 32 * 1024 * 1024
    age: float = 1.0


@dataclass(slots=True, frozen=True)
class Redirect:
    """A directory asked for without its slash."""

    location: bytes


@dataclass(slots=True, frozen=True)
class Page:
    """A generated page."""

    fields: bytes
    body: bytes


class OpenFile:
    """A regular file, open, with the header fields it is served with.

    ``acquire`` and ``release`` count who reads from the file; ``retire`` closes it as soon as
    nobody does.
    """

    __slots__ = (
        "_retired", "_stamp", "_users", "body", "etag", "fields", "file", "loaded", "modified",
        "settled", "size", "whole",
    )

    def __init__(self, file: File, status: os.stat_result, name: str, body_max: int) -> None:
        """Take over ``file``; read it if it is small.  A switch and cancellation point."""
        self.file = file
        self.loaded = time.monotonic()
        self._users = 0
        self._retired = False
        self._stamp = _stamp(status)
        self.size = status.st_size
        self.body, sample = self._read(body_max)
        now = time.time_ns()
        self.settled = now - status.st_ctime_ns > SETTLED_NS and self.is_unchanged()
        # A date in the future would make every later change invisible to If-Modified-Since.
        self.modified = min(int(status.st_mtime), now // 1_000_000_000)
        self.etag = b'"%x-%x-%x"' % (status.st_mtime_ns, self.size, status.st_ino)
        kind = media_type(name, sample, complete=self.body is not None)
        date = formatdate(self.modified, usegmt=True)
        self.fields = (
            b"Content-Type: %s\r\nLast-Modified: %s\r\nETag: %s\r\nAccept-Ranges: bytes\r\n"
            % (kind.encode(), date.encode(), self.etag)
        ) + _COMMON
        # All of the usual answer but its status line and date: one join, one send.
        self.whole = b"%sContent-Length: %d\r\n\r\n%s" % (self.fields, self.size, self.body or b"")

    def _read(self, body_max: int) -> tuple[bytes | None, bytes]:
        """The content if it is small, and enough of it to tell its encoding."""
        if self.size > body_max:
            return None, self.file.pread(SAMPLE_BYTES, 0)
        body = self.file.pread(body_max + 1, 0)
        if len(body) > body_max:
            return None, body  # it grew meanwhile; what it had is streamed
        self.size = len(body)  # what was read is what is announced
        return body, body

    def is_unchanged(self) -> bool:
        """Whether the open file is still as it was read.  One system call that does not sleep."""
        return _stamp(os.fstat(self.file.fileno())) == self._stamp

    def acquire(self) -> None:
        """Keep the file open until `release`."""
        self._users += 1

    def release(self) -> None:
        """Undo one `acquire`."""
        self._users -= 1
        self._close_unused()

    def retire(self) -> None:
        """Close the file as soon as nobody reads from it."""
        self._retired = True
        self._close_unused()

    def _close_unused(self) -> None:
        if self._retired and not self._users:
            self.file.close()


def _stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    # ctime covers links, owner and mode: a file replaced by rename lost a link.
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_nlink


Resource = OpenFile | Redirect | Page


class StaticFiles:
    """The files of one directory, for the fibers of one thread."""

    def __init__(self, path: str | os.PathLike[str], limits: CacheLimits | None = None) -> None:
        self.limits = limits or CacheLimits()
        self._root = open_root(path)
        self._cache: OrderedDict[bytes, OpenFile] = OrderedDict()
        self._bytes = 0

    def fresh(self, path: bytes) -> OpenFile | None:
        """The cached file at this (still encoded) path, if it is as it was.  Does not block."""
        entry = self._cache.get(path)
        if entry is None:
            return None
        if time.monotonic() - entry.loaded > self.limits.age or not entry.is_unchanged():
            self._drop(path)
            return None
        self._cache.move_to_end(path)
        return entry

    def load(self, path: bytes) -> Resource:
        """Look the path up on disk.  Raises RequestError.  A switch and cancellation point."""
        names, is_directory = decode_path(path)
        try:
            return self._load(names, is_directory)
        except OSError as exc:
            status = _STATUS_OF_ERRNO.get(exc.errno or 0, HTTPStatus.INTERNAL_SERVER_ERROR)
            raise RequestError(status, "this cannot be served") from exc

    def keep(self, path: bytes, entry: OpenFile) -> None:
        """Put a loaded file into the cache, or retire it where that would not be safe."""
        if not entry.settled:
            entry.retire()
            return
        if path in self._cache:
            self._drop(path)
        self._cache[path] = entry
        self._bytes += len(entry.whole)
        while len(self._cache) > self.limits.files or self._bytes > self.limits.total:
            self._drop(next(iter(self._cache)))

    def shrink(self, files: int) -> None:
        """Keep at most so many files: the descriptors are needed elsewhere."""
        while len(self._cache) > files:
            self._drop(next(iter(self._cache)))

    def expire(self) -> None:
        """Close what was not looked up anew for a while, so that nothing is held open for long."""
        oldest = time.monotonic() - self.limits.age
        for path in [path for path, entry in self._cache.items() if entry.loaded < oldest]:
            self._drop(path)

    def close(self) -> None:
        """Close everything.  Needs no fiber."""
        self.shrink(0)
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def _drop(self, path: bytes) -> None:
        entry = self._cache.pop(path)
        self._bytes -= len(entry.whole)
        entry.retire()

    def _load(self, names: list[bytes], is_directory: bool) -> Resource:
        found, status = open_beneath(self._root, names)
        if stat.S_ISREG(status.st_mode) and not is_directory:
            return self._open_file(found, status, names[-1])
        with found:
            if stat.S_ISREG(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not is_directory:
                return Redirect(_encode(names) + b"/")
            return self._load_index(names) or self._list(names, found)

    def _load_index(self, names: list[bytes]) -> OpenFile | None:
        for index in INDEX_NAMES:
            try:
                file, status = open_beneath(self._root, [*names, index])
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                return self._open_file(file, status, index)
            file.close()
        return None

    def _open_file(self, file: File, status: os.stat_result, name: bytes) -> OpenFile:
        try:
            return OpenFile(file, status, name.decode("utf-8", "replace"), self.limits.body)
        except BaseException:
            file.close()
            raise

    def _list(self, names: list[bytes], directory: File) -> Page:
        entries, truncated = list_directory(self._root, names, directory.fileno())
        fields = (
            b"Content-Type: text/html; charset=utf-8\r\n"
            b"Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n"
            b"Cache-Control: no-cache\r\n" + _COMMON
        )
        return Page(fields, render_listing(names, entries, truncated=truncated))


def _encode(names: list[bytes]) -> bytes:
    # Built from the names, so "//host" in a request cannot become a redirect to that host.
    return b"".join(b"/" + quote(name, safe="").encode() for name in names)
