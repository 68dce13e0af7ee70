"""Ferrule: virtual threads for Python on io_uring.

``ferrule.run(main)`` runs ``main`` in a fiber; ``ferrule.spawn(fn, *args)`` starts more.  Inside,
plain blocking-looking calls of this package park only their fiber.
"""

from typing import TYPE_CHECKING

from ferrule._core.queues import LifoQueue, PriorityQueue, Queue, QueueShutDown
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
    spawn_or_run,
    yield_now,
)
from ferrule._core.sync import (
    Barrier,
    BoundedSemaphore,
    BrokenBarrierError,
    Condition,
    Event,
    Lock,
    RLock,
    RWLock,
    Semaphore,
)
from ferrule.clocks import Clock, now, sleep_until
from ferrule.engines import BackendUnavailable
from ferrule.runtime import Runtime, current_runtime, run
from ferrule.tasks import TaskGroup, fail_after, move_on_after, shield

if TYPE_CHECKING:
    from ferrule import fs, inspect, ring, socket, ssl
    from ferrule._core.batch import Batch
    from ferrule._core.local import local
    from ferrule._core.raw_file import open
    from ferrule.executor import Executor
    from ferrule.mapping import map
    from ferrule.net import (
        Listener,
        connect_tcp,
        connect_unix,
        listen_tcp,
        listen_unix,
        serve,
        serve_tcp,
        udp_socket,
        wait_readable,
        wait_writable,
    )
    from ferrule.waits import (
        ALL_COMPLETED,
        FIRST_COMPLETED,
        FIRST_EXCEPTION,
        as_completed,
        select,
        wait,
    )
    from ferrule.walks import EntryType, walk, walk_batches
    from ferrule.workers import blocking

__version__ = "0.1.0"

__all__ = [
    "ALL_COMPLETED", "BackendUnavailable", "Barrier", "Batch", "BoundedSemaphore",
    "BrokenBarrierError", "CancelScope", "Cancelled", "Clock", "ConcurrencyUnavailable",
    "Condition", "DeadlockError", "EntryType", "Event", "Executor", "FIRST_COMPLETED",
    "FIRST_EXCEPTION", "LifoQueue", "Listener", "Lock", "PriorityQueue", "Queue", "QueueShutDown",
    "RLock", "RWLock", "Runtime", "Semaphore", "Task", "TaskGroup", "as_completed", "blocking",
    "cancel_requested", "checkpoint", "connect_tcp", "connect_unix", "current_runtime",
    "current_task", "fail_after", "fs", "inspect", "listen_tcp", "listen_unix", "local", "map",
    "move_on_after", "no_switch", "now", "open", "ring", "run", "select", "serve", "serve_tcp",
    "shield", "sleep", "sleep_until", "socket", "spawn", "spawn_or_run", "ssl", "udp_socket",
    "wait", "wait_readable", "wait_writable", "walk", "walk_batches", "yield_now",
]

# What costs time to import and not every program needs: modules, and the module of each name.
_MODULES = ("fs", "inspect", "ring", "socket", "ssl")
_HOMES = {
    "Batch": "ferrule._core.batch",
    "blocking": "ferrule.workers",
    "open": "ferrule._core.raw_file",
    **dict.fromkeys(
        ("Listener", "connect_tcp", "connect_unix", "listen_tcp", "listen_unix", "serve",
         "serve_tcp", "udp_socket", "wait_readable", "wait_writable"),
        "ferrule.net",
    ),
    **dict.fromkeys(
        ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION", "as_completed", "select", "wait"),
        "ferrule.waits",
    ),
    **dict.fromkeys(("EntryType", "walk", "walk_batches"), "ferrule.walks"),
    "Executor": "ferrule.executor",
    "local": "ferrule._core.local",
    "map": "ferrule.mapping",
}


def __getattr__(name: str) -> object:
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"ferrule.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'ferrule' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
