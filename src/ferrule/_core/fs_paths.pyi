import os
from typing import AnyStr, Self, overload

from typing_extensions import Buffer

from ferrule._core.files import Handle

_Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
_DirFd = int | Handle | None

class DirectoryHandle(Handle):
    @classmethod
    def open(
        cls, path: _Path, *, dir_fd: _DirFd = None, follow_symlinks: bool = True
    ) -> Self: ...
    @classmethod
    def of_number(cls, fd: int) -> Self: ...
    def read_entries(self) -> list[tuple[bytes, int, int]]: ...
    def rewind(self) -> None: ...
    def stat(self) -> os.stat_result: ...
    def fsync(self) -> None: ...

def stat(
    path: int | Handle | _Path, *, dir_fd: _DirFd = None, follow_symlinks: bool = True
) -> os.stat_result: ...
def lstat(path: _Path, *, dir_fd: _DirFd = None) -> os.stat_result: ...
def access(
    path: _Path,
    mode: int,
    *,
    dir_fd: _DirFd = None,
    effective_ids: bool = False,
    follow_symlinks: bool = True,
) -> bool: ...
def mkdir(path: _Path, mode: int = 0o777, *, dir_fd: _DirFd = None) -> None: ...
def unlink(path: _Path, *, dir_fd: _DirFd = None) -> None: ...
def rmdir(path: _Path, *, dir_fd: _DirFd = None) -> None: ...
def rename(
    src: _Path, dst: _Path, *, src_dir_fd: _DirFd = None, dst_dir_fd: _DirFd = None
) -> None: ...
def link(
    src: _Path,
    dst: _Path,
    *,
    src_dir_fd: _DirFd = None,
    dst_dir_fd: _DirFd = None,
    follow_symlinks: bool = True,
) -> None: ...
def symlink(
    src: _Path, dst: _Path, target_is_directory: bool = False, *, dir_fd: _DirFd = None
) -> None: ...
@overload
def readlink(path: AnyStr, *, dir_fd: _DirFd = None) -> AnyStr: ...
@overload
def readlink(path: os.PathLike[AnyStr], *, dir_fd: _DirFd = None) -> AnyStr: ...
def copy_some(source: Handle, target: Handle, size: int) -> int: ...
def perform_row(
    kind: str,
    *,
    fd: int = ...,
    path: bytes | None = None,
    path2: bytes | None = None,
    buffer: Buffer | None = None,
    flags: int = 0,
    mode: int = 0,
    offset: int = 0,
    size: int | None = None,
    in_worker: bool = False,
) -> int: ...
