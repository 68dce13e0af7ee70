from typing import final

from ferrule._core.backend_readiness import ReadinessBackend

@final
class KqueueBackend(ReadinessBackend): ...
