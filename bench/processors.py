"""How far apart the two processors of a benchmark are.

The host of a virtual machine moves its processors about: for some seconds they share a cache, for
the next a cache line takes six times as long from one to the other, and whatever hands data over is
up to twice as slow.  So samples that depend on it are taken while they are together, all peers'.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

TOGETHER_NS = 120  # there and back: 50 to 60 within one cache, 300 and more between two
SEARCH_S = 60  # at first; where they never are together that is all it costs
WAIT_S = 60
PAUSE_S = 0.3
TRIES = 4


class Processors:
    """Two processors of this machine."""

    def __init__(self, program: str, first: int, second: int) -> None:
        self.command = [program, str(first), str(second)]
        self.limit_ns: float | None = None

    def apart_ns(self) -> float:
        """Return how long a cache line takes there and back now."""
        return float(subprocess.run(self.command, capture_output=True, check=True).stdout)

    def wait_until_together(self) -> float:
        """Wait until they are as near to each other as they come, but not for ever.

        Return the most nanoseconds that count as together.
        """
        if self.limit_ns is None:
            nearest = self._search(TOGETHER_NS, SEARCH_S)
            self.limit_ns = max(TOGETHER_NS, 1.5 * nearest)
        else:
            self._search(self.limit_ns, WAIT_S)
        return self.limit_ns

    def _search(self, wanted_ns: float, seconds: float) -> float:
        until = time.monotonic() + seconds
        nearest = self.apart_ns()
        while nearest > wanted_ns and time.monotonic() < until:
            time.sleep(PAUSE_S)
            nearest = min(nearest, self.apart_ns())
        return nearest

    def sample_together(self, take: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Take a sample while they are together: again if they were not at its end.

        After some tries it counts all the same; its "apart_ns" tells.
        """
        for _ in range(TRIES):
            limit_ns = self.wait_until_together()
            sample = take()
            sample["apart_ns"] = self.apart_ns()
            if sample["apart_ns"] <= limit_ns:
                break
        return sample
