"""Facts about this machine that decide what Ferrule can do here: all read, none guessed."""

from __future__ import annotations

import os
import platform
import resource
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

SECCOMP_MODES = {"0": "off", "1": "strict", "2": "filter"}


def read_system() -> dict[str, Any]:
    """Kernel and CPUs."""
    return {
        "kernel": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "cpus_usable": usable_cpus(),
        "cgroup_cpu_quota": cgroup_cpu_quota(),
    }


def usable_cpus() -> int | None:
    """How many CPUs the process may run on; None where the system does not say."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count()


def read_python() -> dict[str, Any]:
    """The interpreter and what Ferrule needs in it."""
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "free_threaded_build": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "gil_enabled": _gil_enabled(),
        "packages": {
            name: _version(name) for name in ("greenlet", "rich", "httptools")
        },
    }


def _gil_enabled() -> bool:
    asked = getattr(sys, "_is_gil_enabled", None)
    return True if asked is None else bool(asked())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def read_limits() -> dict[str, Any]:
    """Limits of the process and the system.  None: unlimited, or not there."""
    return {
        "nofile": _limit(resource.RLIMIT_NOFILE),
        "memlock": _limit(resource.RLIMIT_MEMLOCK),
        "nproc": _limit(resource.RLIMIT_NPROC),
        "max_map_count": read_number("/proc/sys/vm/max_map_count"),
        "somaxconn": read_number("/proc/sys/net/core/somaxconn"),
        "io_uring_disabled": read_number("/proc/sys/kernel/io_uring_disabled"),
        "io_uring_group": read_number("/proc/sys/kernel/io_uring_group"),
        "seccomp": seccomp_mode(),
    }


def _limit(which: int) -> dict[str, int | None]:
    soft, hard = resource.getrlimit(which)
    return {
        "soft": None if soft == resource.RLIM_INFINITY else soft,
        "hard": None if hard == resource.RLIM_INFINITY else hard,
    }


def read_number(path: str) -> int | None:
    """The whole number a file of /proc or /sys holds; None if there is none."""
    try:
        return int(Path(path).read_text("ascii"))
    except (OSError, ValueError):
        return None


def seccomp_mode() -> str | None:
    """Whether system calls of this process are filtered: off, strict or filter."""
    try:
        text = Path("/proc/self/status").read_text("utf-8", "replace")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("Seccomp:"):
            value = line.partition(":")[2].strip()
            return SECCOMP_MODES.get(value, value)
    return None


def cgroup_cpu_quota(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> float | None:
    """CPUs' worth of time that the process's control groups allow; None without a quota."""
    quotas = [
        quota
        for folder in _cgroup_folders(Path(root), Path(own))
        if (quota := _quota_of(folder)) is not None
    ]
    return min(quotas, default=None)


def _cgroup_folders(root: Path, own: Path) -> list[Path]:
    """The folders of the process's group and of all above it: the tightest quota counts."""
    try:
        lines = own.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        folder = base / path.lstrip("/")
        # Inside a container the path may be the host's: then only the base is there.
        folders += [at for at in (folder, *folder.parents) if at.is_relative_to(base)]
    return folders


def _quota_of(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text("ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    quota_us = read_number(str(folder / "cpu.cfs_quota_us"))
    period_us = read_number(str(folder / "cpu.cfs_period_us"))
    return quota_us / period_us if quota_us and period_us and quota_us > 0 else None
