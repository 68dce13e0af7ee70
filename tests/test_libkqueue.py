"""What libkqueue does otherwise than a kernel's kqueue: what is skipped for it, or got round.

On the day that one of these is no longer so, what hangs on it can go.
"""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UNPACKED = ROOT / "build" / "libkqueue" / "usr"
DIFFERENCES = {
    "eventfd_is_not_reported": "poller_kqueue.h: poller_has_filter",
    "registration_outlives_descriptor": "poller_kqueue.h: poller_replace",
    "has_one_filter_per_descriptor": "poller_kqueue.h: the copies",
    "user_event_needs_two_changes": "poller_kqueue.h: poller_open",
    "error_is_taken": "conftest.py: kept_socket_errors",
    "child_keeps_descriptors": "conftest.py: clean_children",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    if not UNPACKED.exists():
        pytest.skip("libkqueue is not here: see the Makefile")
    program = tmp_path_factory.mktemp("libkqueue") / "differences"
    library = UNPACKED / "lib" / f"{platform.machine()}-linux-gnu" / "libkqueue.a"
    subprocess.run(
        ["cc", "-Wall", "-Wextra", "-Werror", f"-isystem{UNPACKED / 'include' / 'kqueue'}",
         "-o", program, ROOT / "tests" / "libkqueue" / "differences.c", library, "-pthread"],
        check=True,
    )
    lines = subprocess.run([program], capture_output=True, text=True, check=True, timeout=60)
    return dict(line.split() for line in lines.stdout.splitlines())


@pytest.mark.parametrize("name", DIFFERENCES)
def test_libkqueue_still_differs(found: dict[str, str], name: str) -> None:
    assert found[name] == "yes", f"now needless: {DIFFERENCES[name]}"


def test_every_difference_is_listed(found: dict[str, str]) -> None:
    assert set(found) == set(DIFFERENCES)
