"""What only Linux can compile lies in files that only Linux compiles."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from typing import Any

import pytest

CORE = pathlib.Path(__file__).parent.parent / "src" / "ferrule" / "_core"

# Of engines, slots and threads: what a build for macOS or a BSD begins with.
BENEATH = ["atomics.h", "file_facts.h", "idle_set.h", "inbox.h", "mutex.h", "operation.c",
           "operation.h", "operation_bsd.c", "operation_system.h", "poller_kqueue.h", "readiness.h",
           "slots.h", "steal_queue.h", "timers.h", "uring_abi.h", "waker.h", "worker_pool.h"]
OF_LINUX = re.compile(
    r"(?:#include |extern from \")<"
    r"(linux/\w+|sys/(syscall|sendfile|sysmacros|epoll|eventfd|prctl|vfs|inotify))\.h>"
)


def without_conditional_parts(text: str) -> str:
    return re.sub(r"#ifdef __linux__.*?#(else|endif)", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("name", BENEATH)
def test_no_header_of_linux_is_included_outside_its_files(name: str) -> None:
    text = without_conditional_parts((CORE / name).read_text())
    assert not (found := OF_LINUX.search(text)), f"{name} includes {found[0]}"


def test_engines_that_every_system_has_include_none_either() -> None:
    for name in ("backend", "backend_workers", "backend_threads", "backend_readiness",
                 "backend_kqueue"):
        text = (CORE / f"{name}.pyx").read_text()
        assert not (found := OF_LINUX.search(text)), f"{name}.pyx includes {found[0]}"


def test_both_kinds_of_system_make_the_same_attempts_in_their_own_way() -> None:
    declared = set(
        re.findall(r"int64_t (system_\w+)\(", (CORE / "operation_system.h").read_text())
    )
    assert declared
    for name in ("operation_linux.c", "operation_bsd.c"):
        defined = re.findall(r"^int64_t (system_\w+)\(", (CORE / name).read_text(), re.MULTILINE)
        assert set(defined) == declared, name


def test_the_ring_says_which_system_it_needs(run_script: Callable[..., Any]) -> None:
    done = run_script(
        "import sys\n"
        "import ferrule\n"
        "sys.modules['ferrule._core.ring'] = None  # as where it is not built\n"
        "try:\n"
        "    import ferrule.ring\n"
        "except ImportError as exc:\n"
        "    print(exc)\n"
    )
    assert "io_uring, which only Linux has" in done.stdout, done.stderr
