"""Ferrule: virtual threads for Python on io_uring.

``ferrule.run(main)`` runs ``main`` in a fiber; ``ferrule.spawn(fn, *args)`` starts more.  Inside,
plain blocking-looking calls of this package park only their fiber.
"""

from typing import TYPE_CHECKING

from ferrule._core.raw_file import open
from ferrule._core.scheduler import (
    Cancelled,
    CancelScope,
    ConcurrencyUnavailable,
    DeadlockError,
    Task,
    cancel_requested,
    checkpoint,
    current_task,
    no_switch,
    sleep,
    spawn,
    yield_now,
)
from ferrule._core.sync import Event, Lock, Queue, QueueShutDown
from ferrule.clocks import Clock, now, sleep_until
from ferrule.runtime import BackendUnavailable, Runtime, current_runtime, run
from ferrule.tasks import TaskGroup, fail_after, move_on_after, shield
from ferrule.workers import blocking

if TYPE_CHECKING:
    from ferrule import fs as fs

__version__ = "0.1.0"


_NET = (
    "Listener", "connect_tcp", "connect_unix", "listen_tcp", "listen_unix", "serve", "serve_tcp",
    "udp_socket", "wait_readable", "wait_writable",
)


def __getattr__(name: str) -> object:
    # Modules that cost time to import, and that not every program needs.
    import importlib

    if name in ("fs", "socket", "ssl"):
        return importlib.import_module(f"ferrule.{name}")
    if name in _NET:
        value = getattr(importlib.import_module("ferrule.net"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'ferrule' has no attribute {name!r}")
