"""Fixtures: running on every engine there is, and what must be left behind by no test."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ferrule
import ferrule.runtime
import find_trees
from ferrule._core import backend_uring
from ferrule._core import ring as ring_core
from sync_support import STANDARD, World

# Those whose ids the tests have; `make test-backends` names others than uring.
BACKENDS = tuple(os.environ.get("FERRULE_TEST_BACKENDS", "uring").split(","))
SETTLE_SECONDS = 3.0
# Of live objects: all zero when a run has ended.
COUNTERS = (
    "live_tasks", "idle_fibers", "slots_in_use", "operations_in_flight", "timers", "leaked"
)


def why_not(backend: Any) -> str | None:
    """The engine's own answer when it cannot be used here."""
    try:
        ferrule.run(lambda: None, backend=backend)
    except ferrule.BackendUnavailable as exc:
        return str(exc)
    return None


@pytest.fixture(scope="session")
def unavailable() -> dict[str, str | None]:
    return {backend: why_not(backend) for backend in {*BACKENDS, "uring"}}


def runner(backend: str, unavailable: dict[str, str | None]) -> Callable[..., Any]:
    if unavailable[backend]:
        pytest.skip(f"cannot here: {unavailable[backend]}")

    def run(main: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return ferrule.run(main, *args, backend=backend, **options)

    return run


@pytest.fixture(params=BACKENDS)
def run(request: pytest.FixtureRequest, unavailable: dict[str, str | None]) -> Callable[..., Any]:
    """`ferrule.run` on one of the engines."""
    return runner(request.param, unavailable)


@pytest.fixture
def kept_socket_errors(request: pytest.FixtureRequest) -> None:
    """For tests of an error that comes to a socket while a fiber waits for it."""
    if request.node.callspec.params.get("run") == "kqueue" and sys.platform == "linux":
        pytest.skip("libkqueue takes a socket's error (SO_ERROR) when it reports the end")


@pytest.fixture(params=["standard", "os_threads", *BACKENDS])
def world(request: pytest.FixtureRequest, unavailable: dict[str, str | None]) -> World:
    """The standard library's classes in threads, Ferrule's in threads, and Ferrule's in fibers."""
    if request.param in BACKENDS:
        return World(ferrule, runner(request.param, unavailable))
    return World(STANDARD if request.param == "standard" else ferrule, None)


@pytest.fixture(scope="session")
def tops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """A function that gives the top of a tree by its name, made when it is first asked for."""
    made: dict[str, Path] = {}

    def top_of(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            (find_trees.make_deep if name == "deep" else find_trees.TREES[name])(made[name])
        return made[name]

    yield top_of
    if "deep" in made:
        find_trees.remove_deep(made["deep"])
    for top in made.values():
        find_trees.remove(top)


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was reported through sys.unraisablehook: (object, exception) pairs."""
    seen: list[Any] = []
    monkeypatch.setattr(
        sys, "unraisablehook", lambda report: seen.append((report.object, report.exc_value))
    )
    return seen


def open_fds() -> dict[int, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # the one that listdir used
            continue
    return found


def os_threads() -> set[str]:
    """Also those that are not Python's: the engine's workers and the kernel's for our rings."""
    return set(os.listdir("/proc/self/task"))


def leaks(fds: dict[int, str], threads: set[str], crews: list[Any]) -> list[str]:
    found = []
    for scheduler in [scheduler for crew in crews for scheduler in crew.schedulers]:
        statistics = scheduler.statistics()
        found += [f"{statistics[name]} {name}" for name in COUNTERS if statistics[name]]
    found += [f"fd {fd}: {what}" for fd, what in open_fds().items() if fds.get(fd) != what]
    started = os_threads() - threads
    if started:
        names = ", ".join(thread.name for thread in threading.enumerate())
        found.append(f"{len(started)} threads more; Python's are {names}")
    return found


@pytest.fixture(autouse=True)
def leaves_nothing_behind(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """No live object, descriptor or thread may be left by a test (marker: may_leak, with why)."""
    crews: list[Any] = []
    new_crew = ferrule.runtime._new_crew

    def new_and_remembered(*args: Any) -> Any:
        crews.append(new_crew(*args))
        return crews[-1]

    monkeypatch.setattr(ferrule.runtime, "_new_crew", new_and_remembered)
    fds, threads = open_fds(), os_threads()
    yield
    if request.node.get_closest_marker("may_leak"):
        return
    deadline = time.monotonic() + SETTLE_SECONDS
    while found := leaks(fds, threads, crews):
        if time.monotonic() > deadline:
            pytest.fail("left behind: " + "; ".join(found))
        gc.collect()
        time.sleep(0.01)


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python source in a process of its own: for signals, forks and refusals."""

    def run_script(source: str, **options: Any) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "script.py"
        path.write_text(source)
        return subprocess.run(
            [sys.executable, str(path)], capture_output=True, text=True, timeout=60, **options
        )

    return run_script


@pytest.fixture
def hidden_operations() -> Iterator[Callable[..., None]]:
    """Let io_uring operations seem missing from this kernel, until the test ends."""
    hidden: list[int] = []

    def hide(*opcodes: int) -> None:
        hidden.extend(ring_core._hide_operations(opcodes))
        backend_uring._hide_operations(opcodes)

    yield hide
    ring_core._show_operations(hidden)
    backend_uring._show_operations(range(256))


def pytest_collection_finish() -> None:
    """Spare each test's search for cycles the objects of pytest and of all the tests."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path, help="write each test's outcome to this JSON file")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--outcomes"):
        config.pluginmanager.register(Outcomes(config.getoption("--outcomes")))


class Outcomes:
    """What became of each test, for tools/ring_coverage.py."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.found[report.nodeid] = report.outcome

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.found, indent=0))
