from collections.abc import Callable
from typing import final

from ferrule._core.entry_filter import EntryFilter

@final
class Visited:
    @property
    def path(self) -> bytes: ...
    @property
    def depth(self) -> int: ...
    @property
    def is_directory(self) -> bool: ...
    @property
    def at(self) -> tuple[int | None, bytes]: ...

@final
class Finder:
    def __init__(
        self,
        roots: list[bytes],
        filter: EntryFilter,
        fds: tuple[int, ...],
        *,
        actions: tuple[Callable[[Visited], object], ...] = ...,
        links: str = "P",
        contents_first: bool = False,
        sorted: bool = False,
        one_file_system: bool = False,
        max_depth: int = ...,
        threads: int = 0,
        max_fds: int = 64,
        max_kept: int = 0,
        at_once: bool = False,
        on_error: Callable[[bytes, int, str], object],
        before_write: Callable[[int], object] | None = None,
        on_turn: Callable[[], object] | None = None,
    ) -> None: ...
    def run(self) -> None: ...
    def close(self) -> None: ...
    def progress(self) -> tuple[int, int, int, int]: ...
