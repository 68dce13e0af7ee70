from collections.abc import Iterable
from typing import final

from ferrule._core.backend_workers import WorkerBackend

LADDER: tuple[tuple[str, int], ...]

def _hide_operations(opcodes: Iterable[int]) -> None: ...
def _show_operations(opcodes: Iterable[int]) -> None: ...

@final
class UringBackend(WorkerBackend):
    def __init__(self, *, messages: bool = True) -> None: ...
    @property
    def sends_messages(self) -> bool: ...
    @property
    def setup(self) -> str | None: ...
