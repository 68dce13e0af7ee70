from typing import final

from ferrule._core.backend_workers import WorkerBackend

@final
class ThreadsBackend(WorkerBackend): ...
