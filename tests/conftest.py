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
from engine_suite import BY_SOAK, reason_for, why_on_no_engine
from ferrule._core import backend_uring
from ferrule._core import ring as ring_core
from sync_support import STANDARD, World
from thread_support import os_threads

# `make test-backends` names others than uring; "epoll-2" is epoll with two loop threads.
CHOSEN = os.environ.get("FERRULE_TEST_BACKENDS")
ENGINES = tuple((CHOSEN or "uring").split(","))
SETTLE_SECONDS = 3.0
# Of live objects: all zero when a run has ended.
COUNTERS = (
    "live_tasks", "idle_fibers", "slots_in_use", "operations_in_flight", "timers", "leaked"
)


def why_not(backend: str) -> str | None:
    """The engine's own answer when it cannot be used here."""
    try:
        ferrule.run(lambda: None, backend=backend)
    except ferrule.BackendUnavailable as exc:
        return str(exc)
    return None


@pytest.fixture(scope="session")
def unavailable() -> dict[str, str | None]:
    return {backend: why_not(backend) for backend in {name.split("-")[0] for name in ENGINES}}


@pytest.fixture(scope="module", autouse=True)
def engine(request: pytest.FixtureRequest, unavailable: dict[str, str | None]) -> Iterator[str]:
    """The engine of all that the test runs, also of the processes that it starts; "" for any."""
    name = getattr(request, "param", "")
    backend, _, threads = name.partition("-")
    if unavailable.get(backend):
        pytest.skip(f"cannot here: {unavailable[backend]}")
    with pytest.MonkeyPatch.context() as patch:
        if backend:
            patch.setenv("FERRULE_BACKEND", backend)
        if threads:
            patch.setenv("FERRULE_THREADS", threads)
        yield name


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if why_on_no_engine(metafunc.module.__name__) is None:
        metafunc.parametrize("engine", ENGINES, indirect=True, scope="module")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not CHOSEN or str(collection_path) in {str(Path(arg).resolve()) for arg in config.args}:
        return None
    module = collection_path.stem
    later = os.environ.get("FERRULE_SOAK") != "long" and reason_for(module, BY_SOAK)
    return True if later or why_on_no_engine(module) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("one_thread")
        if marker and engine_of(item).endswith("-2"):
            item.add_marker(pytest.mark.skip(reason=f"on one loop thread: {marker.args[0]}"))


def engine_of(item: pytest.Item) -> str:
    return str(item.callspec.params.get("engine", "")) if hasattr(item, "callspec") else ""


@pytest.fixture
def run(engine: str) -> Callable[..., Any]:
    """`ferrule.run`, on one of the engines."""
    backend, _, threads = engine.partition("-")
    chosen = {"backend": backend, "threads": int(threads) if threads else None}

    def run(main: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return ferrule.run(main, *args, **{**chosen, **options})

    return run


@pytest.fixture
def most_looks(engine: str) -> Callable[[float], float]:
    """Of how many calls the engine may look for news in so many seconds, while fibers run."""
    return lambda seconds: 2 + (seconds / 20e-6 if engine.startswith(("epoll", "kqueue")) else 0)


@pytest.fixture
def kept_socket_errors(engine: str) -> None:
    """For tests of an error that comes to a socket while a fiber waits for it."""
    if engine.startswith("kqueue") and sys.platform == "linux":
        pytest.skip("libkqueue takes a socket's error (SO_ERROR) when it reports the end")


@pytest.fixture
def clean_children(engine: str) -> None:
    """For tests of what a forked child has."""
    if engine.startswith("kqueue") and sys.platform == "linux":
        pytest.skip("libkqueue's own descriptors stay open in a forked child")


@pytest.fixture(params=["fibers"] if CHOSEN else ["standard", "os_threads", "fibers"])
def world(request: pytest.FixtureRequest, run: Callable[..., Any]) -> World:
    """The standard library's classes in threads, Ferrule's in threads, and Ferrule's in fibers."""
    if request.param == "fibers":
        return World(ferrule, run)
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
        crew = new_crew(*args)
        crew.deals = engine_of(request.node).endswith("-2")
        crews.append(crew)  # several threads come here at a time
        return crew

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

    def run_script(
        source: str, *args: str, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "script.py"
        path.write_text(source)
        command = [sys.executable, str(path), *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)

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
