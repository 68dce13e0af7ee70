import io
import os
from collections.abc import Callable, Iterable
from typing import IO, Any, BinaryIO, Literal, Self, overload

from _typeshed import (
    OpenBinaryMode,
    OpenBinaryModeReading,
    OpenBinaryModeUpdating,
    OpenBinaryModeWriting,
    OpenTextMode,
)
from typing_extensions import Buffer

from ferrule._core.files import Handle

_File = int | str | bytes | os.PathLike[str] | os.PathLike[bytes]
_Opener = Callable[[str, int], int]

class RawFile(Handle):
    @property
    def mode(self) -> str: ...
    @property
    def closefd(self) -> bool: ...
    def readable(self) -> bool: ...
    def readinto(self, buffer: Buffer, /) -> int: ...
    def read(self, size: int | None = -1, /) -> bytes: ...
    def readall(self) -> bytes: ...
    def writable(self) -> bool: ...
    def write(self, data: Buffer, /) -> int: ...
    def flush(self) -> None: ...
    def truncate(self, size: int | None = None, /) -> int: ...
    def seekable(self) -> bool: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...
    def isatty(self) -> bool: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> bytes: ...
    def readline(self, size: int | None = -1, /) -> bytes: ...
    def readlines(self, hint: int | None = -1, /) -> list[bytes]: ...
    def writelines(self, lines: Iterable[Buffer], /) -> None: ...

@overload
def open(
    file: _File,
    mode: OpenTextMode = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: _Opener | None = None,
) -> io.TextIOWrapper: ...
@overload
def open(  # type: ignore[overload-overlap]  # RawFile is not formally a BinaryIO
    file: _File,
    mode: OpenBinaryMode,
    buffering: Literal[0],
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: _Opener | None = None,
) -> RawFile: ...
@overload
def open(
    file: _File,
    mode: OpenBinaryModeUpdating,
    buffering: Literal[-1, 1] = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: _Opener | None = None,
) -> io.BufferedRandom: ...
@overload
def open(
    file: _File,
    mode: OpenBinaryModeWriting,
    buffering: Literal[-1, 1] = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: _Opener | None = None,
) -> io.BufferedWriter: ...
@overload
def open(
    file: _File,
    mode: OpenBinaryModeReading,
    buffering: Literal[-1, 1] = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: _Opener | None = None,
) -> io.BufferedReader: ...
@overload
def open(
    file: _File,
    mode: OpenBinaryMode,
    buffering: int = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: _Opener | None = None,
) -> BinaryIO: ...
@overload
def open(
    file: _File,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: _Opener | None = None,
) -> IO[Any]: ...
