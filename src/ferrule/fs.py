"""Files and directories for fibers: every call parks only its fiber."""

from __future__ import annotations

from ferrule._core.files import File

__all__ = ["File"]
