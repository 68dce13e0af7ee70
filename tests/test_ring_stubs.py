"""The stubs say what the compiled module has."""

import subprocess
import sys

import pytest


def test_stubs_match_the_module():
    pytest.importorskip("mypy", reason="mypy compares the stubs; it is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "ferrule._core.ring", "ferrule.ring"],
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
