"""The stubs describe the compiled modules as they are."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import ferrule._core

HERE = Path(__file__).parent
CORE = Path(ferrule._core.__file__).parent

needs_mypy = pytest.mark.skipif(
    importlib.util.find_spec("mypy") is None, reason="mypy is not installed"
)


@needs_mypy
def test_the_stubs_match_the_modules(tmp_path: Path) -> None:
    stubbed = [f"ferrule._core.{path.stem}" for path in CORE.glob("*.pyi")]
    assert "ferrule._core.scheduler" in stubbed
    stubtest = [sys.executable, "-m", "mypy.stubtest"]
    told = subprocess.run([*stubtest, "--help"], capture_output=True, text=True).stdout
    # Newer mypys want extension classes marked with a decorator that older ones do not know.
    known = [option for option in ("--ignore-disjoint-bases",) if option in told]
    done = subprocess.run(
        [*stubtest, *stubbed, *known, "--allowlist", str(HERE / "stubtest_allowlist.txt"),
         "--ignore-unused-allowlist", "--ignore-missing-stub"],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_mypy
def test_calls_are_checked_by_their_types(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import ferrule\n"
        "def work(n: int, word: str = '') -> float: return n / 2\n"
        "def main() -> float:\n"
        "    task = ferrule.spawn(work, 1, name='halver')\n"
        "    queue: ferrule.Queue[int] = ferrule.Queue(1)\n"
        "    queue.put(2)\n"
        "    with ferrule.TaskGroup() as group:\n"
        "        other = group.spawn(work, queue.get(), 'word')\n"
        "    with ferrule.move_on_after(1) as scope, ferrule.shield():\n"
        "        pass\n"
        "    reveal_type(ferrule.blocking(work, 3))\n"
        "    return task.result() + other.result()\n"
        "reveal_type(ferrule.run(main))\n"
        "ferrule.spawn(work, 'one')  # wrong\n"
        "queue: ferrule.Queue[int] = ferrule.Queue()\n"
        "queue.put('one')  # wrong\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(program)],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )
    lines = done.stdout.splitlines()
    assert [line.split(":")[1] for line in lines if ": error:" in line] == ["14", "16"], done.stdout
    assert sum('Revealed type is "float"' in line for line in lines) == 2, done.stdout
