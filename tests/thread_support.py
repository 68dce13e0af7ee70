"""The threads of this process as the kernel knows them, for tests that none is left or too many."""

import os
from pathlib import Path


def os_threads() -> set[str]:
    """Also those that are not Python's: the engine's workers and the kernel's for our rings.

    Linux ends the list early when it comes to a thread that is just ending: it counts if all were
    still there after it.
    """
    while True:
        found = os.listdir("/proc/self/task")
        if os.listdir("/proc/self/task") == found and len(found) == _count():
            return set(found)


def _count() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Threads:"))
