from typing import final

from ferrule._core.backend_workers import WorkerBackend

LADDER: tuple[tuple[str, int], ...]

@final
class UringBackend(WorkerBackend):
    @property
    def setup(self) -> str | None: ...
