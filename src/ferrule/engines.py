"""The engines: which there are, which is best here, and why another cannot be used."""

from __future__ import annotations

import errno
import importlib
import os
from typing import Any

# Best first.  "auto" takes the first that works.
ENGINES = {
    "uring": ("backend_uring", "UringBackend"),
    "epoll": ("backend_epoll", "EpollBackend"),
    "kqueue": ("backend_kqueue", "KqueueBackend"),
    "threads": ("backend_threads", "ThreadsBackend"),
}
# Refusals that say nothing about the next run.
PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}

_chosen: str | None = None  # by "auto", for this process


class BackendUnavailable(RuntimeError):
    """The engine asked for does not exist here or is refused by the system; says why."""


def engine_class(name: str) -> Any:
    """The class of an engine; ImportError where this build has none of that name."""
    module, cls = ENGINES[name]
    return getattr(importlib.import_module(f"ferrule._core.{module}"), cls)


def try_out(name: str) -> str | None:
    """Open an engine, let it do one operation, close it; None, or in words why it cannot be used.

    Microseconds to some milliseconds.  Not a switch point.
    """
    return None if (error := _refusal(name)) is None else _explain(name, error)


def _refusal(name: str) -> OSError | ImportError | None:
    try:
        engine_class(name)().try_out()
    except (OSError, ImportError) as exc:
        return exc
    return None


def choose() -> str:
    """The best engine that works here; asked of the system once in a process.

    BackendUnavailable, with every engine's reason, if none does.
    """
    global _chosen
    if _chosen is not None:
        return _chosen
    refused: dict[str, OSError | ImportError] = {}
    for name in ENGINES:
        error = _refusal(name)
        if error is None:
            if not any(isinstance(exc, OSError) and exc.errno in PASSING
                       for exc in refused.values()):
                _chosen = name
            return name
        refused[name] = error
    reasons = "; ".join(_explain(name, exc) for name, exc in refused.items())
    raise BackendUnavailable(f"no engine works here: {reasons}")


def forget_choice() -> None:
    """Ask the system again next time: it has changed its mind."""
    global _chosen
    _chosen = None


# A child often gives up rights that its parent had.
os.register_at_fork(after_in_child=forget_choice)


def refuse(name: str, error: OSError | ImportError) -> BackendUnavailable:
    """The exception for an engine that was asked for: why not, and which others are there."""
    others = [other for other in ENGINES if other != name and _refusal(other) is None]
    return BackendUnavailable(
        f"{_explain(name, error)}.  Available here: {', '.join(others) or 'none'}; leave backend "
        "and FERRULE_BACKEND at 'auto' for the best of them.  `ferrule doctor` shows what was tried"
    )


def _explain(name: str, error: OSError | ImportError) -> str:
    if isinstance(error, ImportError):
        return f"the {name} backend is not in this build of Ferrule"
    what = "io_uring" if name == "uring" else f"the {name} backend"
    return f"{what} cannot be used: {error.strerror}: {_cause(name, error.errno)}"


def _cause(name: str, number: int | None) -> str:
    if number in (errno.EMFILE, errno.ENFILE):
        who = "the process" if number == errno.EMFILE else "the system"
        return f"{who} has no free file descriptor: raise RLIMIT_NOFILE (ulimit -n)"
    if number in (errno.EPERM, errno.EACCES) and name == "uring":
        return forbidden_by(read_setting("io_uring_disabled"), has_seccomp_filter())
    if number == errno.ENOSYS and name == "uring":
        return ("this kernel has none (Linux 5.10 or later is needed), or a seccomp filter "
                "hides it")
    if number == errno.ENOMEM and name == "uring":
        return ("there is no memory for the ring: before Linux 5.12 that is RLIMIT_MEMLOCK "
                "(ulimit -l)")
    if number in (errno.EPERM, errno.EACCES, errno.ENOSYS):
        return "a seccomp filter forbids it, or this kernel has none"
    return "the kernel gave no reason that is known here"


def forbidden_by(disabled: int | None, filtered: bool) -> str:
    """Who forbids io_uring, and what allows it."""
    if disabled:
        return (f"sysctl kernel.io_uring_disabled is {disabled}, which forbids it (0 allows it)")
    if filtered:
        return ("a seccomp filter is in force, as Docker, containerd and Kubernetes install: allow "
                "io_uring_setup, io_uring_enter and io_uring_register in its profile")
    return ("it is forbidden: by sysctl kernel.io_uring_disabled (0 allows it), or by a seccomp "
            "filter, as container runtimes install")


def read_setting(name: str) -> int | None:
    """A number of /proc/sys/kernel; None where there is none."""
    try:
        with open(f"/proc/sys/kernel/{name}") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def has_seccomp_filter() -> bool:
    """Whether system calls of this process are filtered."""
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            return any(line.split() == ["Seccomp:", "2"] for line in file)
    except OSError:
        return False
