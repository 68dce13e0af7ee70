import enum
import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Literal, NamedTuple, Self, TypeVar, final

from ferrule._core.entry_filter import EntryFilter

_AnyPath = TypeVar("_AnyPath", str, bytes)
_Given = TypeVar("_Given")

STAT_FIELDS: tuple[str, ...]

class EntryType(enum.IntEnum):
    UNKNOWN = 0
    FIFO = 1
    CHARACTER_DEVICE = 2
    DIRECTORY = 4
    BLOCK_DEVICE = 6
    FILE = 8
    LINK = 10
    SOCKET = 12

class Progress(NamedTuple):
    directories: int
    entries: int
    errors: int
    queued: int

class Engine:
    def __new__(
        cls,
        roots: list[bytes],
        *,
        is_text: bool = True,
        order: str = "any",
        sorted: bool = False,
        symlinks: str = "roots",
        hidden: bool = True,
        one_file_system: bool = False,
        min_depth: int = 1,
        max_depth: int = 0xFFFFFFFF,
        stat: tuple[str, ...] = (),
        filter: EntryFilter | None = None,
        exclude: EntryFilter | None = None,
        gitignore: bool = False,
        ignore: bytes = b"",
        threads: int = 0,
        max_fds: int = 64,
        max_kept: int = 0,
        batch_entries: int = 1024,
        batch_bytes: int = 65536,
        separator: bytes = b"\0",
        text_streams: int = 0,
        timeout: float | None = None,
    ) -> Self: ...
    def close(self) -> None: ...
    def progress(self) -> tuple[int, int, int, int]: ...
    def _forget_types(self) -> None: ...
    def _add_fault(
        self,
        stage: Literal["open", "read", "stat"],
        *,
        name: bytes | None = None,
        nth: int = 0,
        error: int = 0,
        delay: float = 0.0,
    ) -> None: ...

class Batch(Generic[_AnyPath]):
    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> Entry[_AnyPath]: ...
    def __iter__(self) -> Iterator[Entry[_AnyPath]]: ...
    @property
    def paths(self) -> bytes: ...
    @property
    def offsets(self) -> memoryview: ...
    @property
    def name_offsets(self) -> memoryview: ...
    @property
    def types(self) -> memoryview: ...
    @property
    def depths(self) -> memoryview: ...
    @property
    def inodes(self) -> memoryview: ...
    @property
    def sizes(self) -> memoryview: ...
    @property
    def mtimes(self) -> memoryview: ...
    def column(self, name: str) -> memoryview: ...
    def names(self) -> list[_AnyPath]: ...
    def path_list(self) -> list[_AnyPath]: ...
    @property
    def errors(self) -> list[OSError]: ...
    def prune(self, i: int) -> None: ...
    def is_pruned(self, i: int) -> bool: ...
    def text_of(self, stream: int) -> bytes: ...

@final
class Entry(Generic[_AnyPath]):
    @property
    def path(self) -> _AnyPath: ...
    @property
    def name(self) -> _AnyPath: ...
    @property
    def depth(self) -> int: ...
    @property
    def type(self) -> EntryType: ...
    def inode(self) -> int: ...
    def is_dir(self, *, follow_symlinks: bool = True) -> bool: ...
    def is_file(self, *, follow_symlinks: bool = True) -> bool: ...
    def is_symlink(self) -> bool: ...
    def is_junction(self) -> bool: ...
    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result: ...
    def prune(self) -> None: ...
    def __fspath__(self) -> _AnyPath: ...

class Iteration:
    @property
    def engine(self) -> Engine: ...
    def __init__(
        self,
        engine: Engine,
        on_error: Callable[[OSError], object] | None = None,
        gives_errors: bool = False,
    ) -> None: ...
    def __iter__(self) -> Self: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None: ...
    def close(self) -> None: ...
    def progress(self) -> Progress: ...

@final
class Walk(Iteration, Generic[_Given]):
    def __init__(
        self,
        engine: Engine,
        on_error: Callable[[OSError], object] | None = None,
        gives_errors: bool = False,
        predicate: Callable[[_Given], object] | None = None,
    ) -> None: ...
    def __next__(self) -> _Given: ...

@final
class BatchWalk(Iteration, Generic[_AnyPath]):
    def __next__(self) -> Batch[_AnyPath]: ...

