from typing import final

from ferrule._core.backend import Backend

LADDER: tuple[tuple[str, int], ...]

@final
class UringBackend(Backend):
    @property
    def setup(self) -> str | None: ...
