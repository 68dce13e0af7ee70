"""What `make sanitize` runs beside the ring tests: the C programs, and the proof that it can fail.

The name keeps it from a plain pytest, where nothing is sanitized; here nothing of it is skipped for
that reason, so an unsanitized build cannot pass.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ferrule._core.ring

BUILT = Path(os.environ["SANITIZE_DIR"])
MODULES = sorted((BUILT / "site/ferrule/_core").glob("*.so"))
PYX = sorted((Path(__file__).parent.parent / "src/ferrule/_core").glob("*.pyx"))
SOURCES = sorted((Path(__file__).parent / "c").glob("test_*.c"))
EXPLORING = sorted((Path(__file__).parent / "c").glob("explore_*.c"))
TIMEOUT = 60
EXPLORING_TIMEOUT = 300
SKIPPED = 77  # check.h

# Poisons the fields of a Ring, so that only the module's own code can touch them.
TOUCH_POISONED_RING = """
import ctypes
from ferrule.ring import Ring
ring = Ring(1)
own = object.__basicsize__
ctypes.CDLL(None).__asan_poison_memory_region(
    ctypes.c_void_p(id(ring) + own), ctypes.c_size_t(Ring.__basicsize__ - own))
print("before", flush=True)
ring.fd
print("after", flush=True)
"""
MAKE_MISTAKE = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
print("before", flush=True)
getattr(library, sys.argv[2])()
print("after", flush=True)
"""


def run_python(source: str, *args: object) -> subprocess.CompletedProcess[str]:
    """In a child with the same sanitizers, whose reports go to its stderr: they are expected."""
    env = dict(os.environ)
    for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS"):
        env[name] = re.sub(r":log_path=[^:]*", "", env[name])
    command = [sys.executable, "-c", source, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=env)


def run_program(
    name: str, *args: str, timeout: float = TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """A C program, which brings the runtime of its own sanitizer."""
    env = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    env["ASAN_OPTIONS"] = "detect_leaks=1:detect_stack_use_after_return=1"
    env["UBSAN_OPTIONS"] = "print_stacktrace=1"
    env["TSAN_OPTIONS"] = "halt_on_error=1"
    command = [str(BUILT / "c" / name), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env)


# ---- the proof ---------------------------------------------------------------------------


def test_the_module_under_test_is_the_sanitized_one() -> None:
    assert Path(ferrule._core.ring.__file__) in MODULES
    mapped = Path("/proc/self/maps").read_text()
    assert "/libasan.so" in mapped
    assert "/libubsan.so" in mapped


def test_there_is_a_sanitized_module_for_each_source() -> None:
    assert [path.name.split(".")[0] for path in MODULES] == [path.stem for path in PYX]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name.split(".")[0])
def test_every_module_reports_both_kinds_of_mistakes_and_stops(module: Path) -> None:
    handlers = set(re.findall(rb"__(?:asan_report|ubsan_handle)_\w+", module.read_bytes()))
    assert any(name.startswith(b"__asan_report_load") for name in handlers)
    assert any(name.startswith(b"__asan_report_store") for name in handlers)
    undefined = {name for name in handlers if name.startswith(b"__ubsan")}
    assert undefined
    assert all(name.endswith(b"_abort") for name in undefined)  # none that reports and goes on


def test_a_bad_access_by_the_ring_module_is_caught() -> None:
    done = run_python(TOUCH_POISONED_RING)
    assert done.stdout == "before\n"
    assert done.returncode == -signal.SIGABRT
    assert "AddressSanitizer: use-after-poison" in done.stderr
    assert re.search(r"#0 .*/ring\.pyx\.c:", done.stderr)


CAUGHT_IN_PYTHON = {
    "heap_overflow": "AddressSanitizer: heap-buffer-overflow",
    "use_after_free": "AddressSanitizer: heap-use-after-free",
    "use_after_return": "AddressSanitizer: stack-use-after",
    "signed_overflow": "runtime error: signed integer overflow",
    "wide_shift": "runtime error: shift exponent",
    "float_overflow": "runtime error: 1e+300 is outside the range",
}


@pytest.mark.parametrize("mistake", CAUGHT_IN_PYTHON)
def test_a_mistake_in_a_library_that_python_loaded_is_caught(mistake: str) -> None:
    done = run_python(MAKE_MISTAKE, BUILT / "c/mistakes.so", mistake)
    assert done.stdout == "before\n"
    assert done.returncode == -signal.SIGABRT
    assert CAUGHT_IN_PYTHON[mistake] in done.stderr


CAUGHT_IN_C = {
    "address": {**CAUGHT_IN_PYTHON, "leak": "LeakSanitizer: detected memory leaks"},
    "thread": {"data_race": "ThreadSanitizer: data race"},
}


@pytest.mark.parametrize(
    ("sanitizer", "mistake"),
    [(sanitizer, mistake) for sanitizer, caught in CAUGHT_IN_C.items() for mistake in caught],
)
def test_a_mistake_in_a_c_program_is_caught(sanitizer: str, mistake: str) -> None:
    done = run_program(f"mistakes.{sanitizer}", mistake)
    assert done.returncode not in (0, SKIPPED)
    assert CAUGHT_IN_C[sanitizer][mistake] in done.stderr


@pytest.mark.parametrize("sanitizer", CAUGHT_IN_C)
def test_no_mistake_gives_no_report(sanitizer: str) -> None:
    done = run_program(f"mistakes.{sanitizer}", "no_mistake")
    assert (done.returncode, done.stderr) == (0, "")


# ---- above the ring ----------------------------------------------------------------------

LEAVE_NO_SCOPE = """
import ferrule
def body():
    ferrule.CancelScope().__enter__()
ferrule.run(lambda: ferrule.spawn(body).join())
print("ended")
"""


def test_a_scope_that_was_never_left_is_not_touched_after_it_was_freed() -> None:
    done = run_python(LEAVE_NO_SCOPE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")


# ---- the C programs ----------------------------------------------------------------------


def test_there_are_c_programs() -> None:
    assert SOURCES
    assert EXPLORING


@pytest.mark.parametrize("sanitizer", CAUGHT_IN_C)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_c_program(source: Path, sanitizer: str) -> None:
    done = run_program(f"{source.stem}.{sanitizer}")
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.splitlines()[-1])
    print(done.stdout)  # the behaviours, the last of them the one that failed; and the seed
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("source", EXPLORING, ids=lambda path: path.stem)
def test_every_order_of_the_steps_of_threads(source: Path) -> None:
    done = run_program(f"{source.stem}.explored", timeout=EXPLORING_TIMEOUT)
    print(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
