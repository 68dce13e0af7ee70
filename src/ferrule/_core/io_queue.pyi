from collections.abc import Collection, Iterable
from os import PathLike
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeAlias, final

from typing_extensions import Buffer

class _HasFileno(Protocol):
    def fileno(self) -> int: ...

_Path: TypeAlias = str | bytes | PathLike[str] | PathLike[bytes]
_Fd: TypeAlias = int | _HasFileno

class QueueFull(BlockingIOError): ...

class Entry(NamedTuple):
    name: Any
    inode: int
    type: int

@final
class OpenDirectory:
    name: Any
    entries: list[Entry]
    complete: bool
    def fileno(self) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> OpenDirectory: ...
    def __exit__(
        self, *exc: type[BaseException] | BaseException | TracebackType | None
    ) -> None: ...
    def __del__(self) -> None: ...

@final
class Client: ...

@final
class Bulk: ...

@final
class Results:
    def __iter__(self) -> Results: ...
    def __next__(self) -> tuple[Any, Any]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Results: ...
    def __exit__(
        self, *exc: type[BaseException] | BaseException | TracebackType | None
    ) -> None: ...
    def __del__(self) -> None: ...

@final
class Request:
    done: bool
    path: Any
    path2: Any
    user_data: Any
    @property
    def operation(self) -> str: ...
    @property
    def error(self) -> OSError | None: ...
    @property
    def value(self) -> Any: ...
    def result(self) -> Any: ...

class IOQueue:
    depth: int
    threads: int
    def __init__(
        self,
        depth: int = 1024,
        threads: int | None = None,
        use_ring: bool = True,
        *,
        in_ring: Collection[str] = ("open", "read", "fsync"),
        kernel_threads: int = 8,
    ) -> None: ...
    def __enter__(self) -> IOQueue: ...
    def __exit__(
        self,
        *exc: type[BaseException] | BaseException | TracebackType | None,
    ) -> None: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __del__(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    @property
    def cancelled(self) -> bool: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def ready(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    def statistics(self) -> dict[str, Any]: ...
    def inject_fault(self, kind: str, nth: int, *, error: int) -> None: ...
    def forget_faults(self) -> None: ...
    def nop(self, *, user_data: object = None) -> Request: ...
    def open(
        self,
        path: _Path,
        flags: int = ...,
        mode: int = 0o777,
        *,
        dir_fd: _Fd | None = None,
        user_data: object = None,
    ) -> Request: ...
    def opendir(
        self, path: _Path = ".", *, dir_fd: _Fd | None = None, user_data: object = None
    ) -> Request: ...
    def readdir(self, directory: OpenDirectory, *, user_data: object = None) -> Request: ...
    def close_fd(self, fd: _Fd, *, user_data: object = None) -> Request: ...
    def closedir(self, directory: OpenDirectory, *, user_data: object = None) -> Request: ...
    def stat(
        self,
        path: _Path | int,
        *,
        dir_fd: _Fd | None = None,
        follow_symlinks: bool = True,
        mask: int = ...,
        user_data: object = None,
    ) -> Request: ...
    def read_file(
        self,
        path: _Path,
        *,
        dir_fd: _Fd | None = None,
        max_bytes: int | None = None,
        user_data: object = None,
    ) -> Request: ...
    def write_file(
        self,
        path: _Path,
        data: Buffer,
        *,
        flags: int = ...,
        mode: int = 0o666,
        dir_fd: _Fd | None = None,
        user_data: object = None,
    ) -> Request: ...
    def read(
        self, fd: _Fd, length: int, offset: int | None = None, *, user_data: object = None
    ) -> Request: ...
    def write(
        self, fd: _Fd, data: Buffer, offset: int | None = None, *, user_data: object = None
    ) -> Request: ...
    def unlink(
        self, path: _Path, *, dir_fd: _Fd | None = None, user_data: object = None
    ) -> Request: ...
    def mkdir(
        self,
        path: _Path,
        mode: int = 0o777,
        *,
        dir_fd: _Fd | None = None,
        user_data: object = None,
    ) -> Request: ...
    def rmdir(
        self, path: _Path, *, dir_fd: _Fd | None = None, user_data: object = None
    ) -> Request: ...
    def rename(
        self,
        src: _Path,
        dst: _Path,
        *,
        src_dir_fd: _Fd | None = None,
        dst_dir_fd: _Fd | None = None,
        user_data: object = None,
    ) -> Request: ...
    def link(
        self,
        src: _Path,
        dst: _Path,
        *,
        src_dir_fd: _Fd | None = None,
        dst_dir_fd: _Fd | None = None,
        follow_symlinks: bool = True,
        user_data: object = None,
    ) -> Request: ...
    def symlink(
        self, src: _Path, dst: _Path, *, dir_fd: _Fd | None = None, user_data: object = None
    ) -> Request: ...
    def readlink(
        self, path: _Path, *, dir_fd: _Fd | None = None, user_data: object = None
    ) -> Request: ...
    def fsync(
        self, fd: _Fd, *, data_only: bool = False, user_data: object = None
    ) -> Request: ...
    def fadvise(
        self, fd: _Fd, offset: int, length: int, advice: int, *, user_data: object = None
    ) -> Request: ...
    def getxattr(
        self,
        path: _Path | int,
        attribute: str | bytes,
        *,
        follow_symlinks: bool = True,
        user_data: object = None,
    ) -> Request: ...
    def setxattr(
        self,
        path: _Path | int,
        attribute: str | bytes,
        value: Buffer,
        flags: int = 0,
        *,
        follow_symlinks: bool = True,
        user_data: object = None,
    ) -> Request: ...
    def listxattr(
        self,
        path: _Path | int = ".",
        *,
        follow_symlinks: bool = True,
        user_data: object = None,
    ) -> Request: ...
    def removexattr(
        self,
        path: _Path | int,
        attribute: str | bytes,
        *,
        follow_symlinks: bool = True,
        user_data: object = None,
    ) -> Request: ...
    def stat_many(
        self,
        paths: Iterable[_Path | int],
        *,
        dir_fd: _Fd | None = None,
        follow_symlinks: bool = True,
        mask: int = ...,
        return_errors: bool = False,
    ) -> list[Any]: ...
    def read_files(
        self,
        paths: Iterable[_Path],
        *,
        dir_fd: _Fd | None = None,
        max_bytes: int | None = None,
        return_errors: bool = False,
    ) -> list[Any]: ...
    def iter_files(
        self,
        paths: Iterable[_Path],
        *,
        dir_fd: _Fd | None = None,
        max_bytes: int | None = None,
        return_errors: bool = False,
    ) -> Results: ...
    def write_files(
        self,
        files: Iterable[tuple[_Path, Buffer]],
        *,
        flags: int = ...,
        mode: int = 0o666,
        dir_fd: _Fd | None = None,
        return_errors: bool = False,
    ) -> list[Any]: ...
    def unlink_many(
        self,
        paths: Iterable[_Path],
        *,
        dir_fd: _Fd | None = None,
        return_errors: bool = False,
    ) -> list[Any]: ...
    def flush(self) -> None: ...
    def pop(self, block: bool = True, timeout: float | None = None) -> Request | None: ...
    def pop_many(
        self, n: int, block: bool = True, timeout: float | None = None
    ) -> list[Request]: ...
    def drain(self, timeout: float | None = None) -> list[Request]: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...
