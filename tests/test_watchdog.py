"""The watchdog: fibers that keep their thread or wait too long are named, once, with the stack."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
from ferrule import inspect
from ferrule.inspect import Report, watchdog

Run = Callable[..., Any]
Script = Callable[..., subprocess.CompletedProcess[str]]

LIMIT = 0.1


def compute(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


# ---- fibers that keep their thread ----

@pytest.mark.parametrize("keep", [compute, time.sleep])
def test_a_fiber_that_keeps_its_thread_is_named_with_its_stack(
    run: Run, keep: Callable[[float], None]
) -> None:
    file = io.StringIO()

    def work() -> None:
        keep(5 * LIMIT)

    def main() -> None:
        with watchdog(limit=LIMIT, file=file):
            ferrule.spawn(work, name="hog").join()

    run(main)
    first, *stack = file.getvalue().splitlines()
    match = re.fullmatch(
        r"ferrule: fiber hog #\d+ has kept its thread for (\d\.\d\d) s \(limit: 0.1 s\)", first)
    assert match, first
    assert LIMIT <= float(match[1]) < 5 * LIMIT
    assert re.search(rf'File "{re.escape(__file__)}", line \d+, in work', stack[0])


def test_each_time_is_reported_once(run: Run) -> None:
    reports: list[Report] = []

    def main() -> None:
        with watchdog(limit=LIMIT, callback=reports.append):
            compute(6 * LIMIT)
            ferrule.yield_now()
            compute(6 * LIMIT)
            ferrule.yield_now()

    run(main)
    assert [report.kind for report in reports] == ["hog", "hog"]
    assert [report.fiber.name for report in reports if report.fiber] == ["main", "main"]


def test_a_hog_on_another_loop_thread_is_named(run: Run) -> None:
    reports: list[Report] = []

    def main() -> None:
        started = threading.Event()

        def work() -> None:
            started.set()
            time.sleep(6 * LIMIT)

        with watchdog(limit=LIMIT, callback=reports.append):
            hog = ferrule.spawn(work, name="hog")
            started.wait(10)
            hog.join()

    run(main, threads=2)
    assert {report.fiber.name for report in reports if report.fiber} >= {"hog"}
    [report] = [report for report in reports if report.fiber and report.fiber.name == "hog"]
    assert "in work" in report.text


def test_one_task_after_another_is_no_hog(run: Run) -> None:
    reports: list[Report] = []

    def main() -> None:
        with watchdog(limit=LIMIT, callback=reports.append), ferrule.TaskGroup() as group:
            for _ in range(100):  # in one fiber, without a switch
                group.spawn(compute, LIMIT / 20)

    run(main)
    assert reports == []


def test_a_loop_that_waits_is_no_hog(run: Run) -> None:
    reports: list[Report] = []

    def main() -> None:
        with watchdog(limit=LIMIT, callback=reports.append):
            ferrule.sleep(4 * LIMIT)
            ferrule.blocking(time.sleep, 4 * LIMIT)

    run(main)
    assert reports == []


def test_a_loop_of_yields_is_no_hog(run: Run) -> None:
    reports: list[Report] = []

    def main() -> None:
        with watchdog(limit=LIMIT, callback=reports.append):
            until = time.monotonic() + 4 * LIMIT
            while time.monotonic() < until:
                ferrule.yield_now()

    run(main)
    assert reports == []


def test_a_callback_that_keeps_the_loop_is_reported(run: Run) -> None:
    reports: list[Report] = []

    def main() -> None:
        def callback(task: object) -> None:
            time.sleep(4 * LIMIT)

        with watchdog(limit=LIMIT, callback=reports.append):
            runtime = ferrule.current_runtime()
            ferrule._core.snapshot.call_in_loop(  # type: ignore[attr-defined]
                runtime._scheduler, lambda: callback(None))
            ferrule.sleep(0.001)

    run(main)
    [report] = reports
    assert report.fiber is None
    assert "a callback of the loop has kept its thread" in report.text
    assert "in callback" in report.text


def test_the_watchdog_of_a_runtime_that_starts_later(run: Run) -> None:
    reports: list[Report] = []
    runtime = ferrule.Runtime()
    with watchdog(limit=LIMIT, callback=reports.append, runtime=runtime):
        time.sleep(3 * LIMIT)
        runtime.run(compute, 4 * LIMIT)
        time.sleep(3 * LIMIT)
    assert [report.kind for report in reports] == ["hog"]


def test_a_hog_is_named_without_the_gil_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ferrule.snapshots._has_gil", lambda: False)
    reports: list[Report] = []

    def main() -> None:
        with watchdog(limit=LIMIT, callback=reports.append):
            ferrule.spawn(time.sleep, 6 * LIMIT, name="hog").join()

    run(main)
    assert [report.fiber.name for report in reports if report.fiber] == ["hog"]


# ---- fibers that wait too long ----

def test_a_fiber_that_waits_too_long_is_named_with_the_holder(run: Run) -> None:
    reports: list[Report] = []

    def main() -> None:
        lock = ferrule.Lock()
        with watchdog(limit=LIMIT, stuck=2 * LIMIT, callback=reports.append):
            with lock:
                asker = ferrule.spawn(lock.acquire, name="asker")
                ferrule.sleep(6 * LIMIT)
            asker.join()

    run(main)
    [report] = reports
    assert (report.kind, report.fiber and report.fiber.name) == ("stuck", "asker")
    assert 2 * LIMIT <= report.seconds < 6 * LIMIT
    assert re.match(
        r"ferrule: fiber asker #\d+ has waited \d.\d s for a Lock held by main\n", report.text)


@pytest.mark.parametrize(
    "wait",
    [
        lambda: ferrule.sleep(5 * LIMIT),
        lambda: ferrule.Event().wait(5 * LIMIT),
        lambda: ferrule.spawn(ferrule.sleep, 5 * LIMIT).join(),
        lambda: read_a_silent_pipe(5 * LIMIT),
    ],
)
def test_what_ends_by_itself_is_not_stuck(run: Run, wait: Callable[[], object]) -> None:
    reports: list[Report] = []

    def main() -> None:
        with watchdog(limit=LIMIT, stuck=LIMIT, callback=reports.append):
            wait()

    run(main)
    assert reports == []


def read_a_silent_pipe(seconds: float) -> None:
    reading, writing = os.pipe()
    with (
        open(writing, "wb"),
        ferrule.open(reading, "rb", buffering=0) as file,
        ferrule.move_on_after(seconds),
    ):
        file.read(1)


def test_waits_that_follow_each_other_are_not_one_long_wait(run: Run) -> None:
    reports: list[Report] = []

    def main() -> None:
        there: ferrule.Queue[int] = ferrule.Queue()

        def consume() -> None:
            while there.get():
                pass

        consumer = ferrule.spawn(consume)
        with watchdog(limit=LIMIT, stuck=2 * LIMIT, callback=reports.append):
            for _ in range(20):
                there.put(1)
                ferrule.sleep(LIMIT / 2)
        there.put(0)
        consumer.join()

    run(main)
    assert reports == []


def test_a_circle_of_joins_is_reported_where_the_deadlock_check_is_off(run: Run) -> None:
    reports: list[Report] = []

    def main() -> None:
        def join(place: int) -> None:
            tasks[1 - place].join()

        tasks = [ferrule.spawn(join, place, name=name) for place, name in enumerate("ab")]
        alive = threading.Event()
        thread = threading.Thread(target=alive.wait)  # who knows: it might wake somebody
        thread.start()
        with watchdog(limit=LIMIT, stuck=LIMIT, callback=reports.append):
            ferrule.sleep(5 * LIMIT)
        for task in tasks:
            task.cancel()
        alive.set()
        thread.join()

    run(main)
    assert sorted(report.fiber.name for report in reports if report.fiber) == ["a", "b"]
    assert all("in a circle: a -> b -> a\n" in report.text for report in reports)


# ---- its own life ----

def test_the_watchdog_hides_no_deadlock(run: Run) -> None:
    def main() -> None:
        with watchdog(limit=LIMIT, stuck=1):
            ferrule.Event().wait()

    with pytest.raises(ferrule.DeadlockError):
        run(main)


def test_a_callback_that_fails_does_not_end_the_watch(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: failures.append(args.exc_value))
    calls = 0

    def callback(report: Report) -> None:
        nonlocal calls
        calls += 1
        raise ValueError("from a callback")

    def main() -> None:
        with watchdog(limit=LIMIT, callback=callback):
            compute(4 * LIMIT)
            ferrule.yield_now()
            compute(4 * LIMIT)

    run(main)
    assert calls == 2
    assert [str(failure) for failure in failures] == ["from a callback"] * 2


def test_a_watchdog_that_is_asking_can_be_stopped_from_the_loop(run: Run) -> None:
    def main() -> None:
        for _ in range(5):
            with watchdog(limit=0.001, stuck=0.001):
                time.sleep(0.01)  # it asks this loop, which will not answer
                started = time.monotonic()
            assert time.monotonic() - started < 1.9

    run(main)


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_limit_must_be_positive(limit: float) -> None:
    with pytest.raises(ValueError, match="limit must be a positive number"):
        watchdog(limit=limit)
    with pytest.raises(ValueError, match="stuck must be a positive number"):
        watchdog(stuck=limit)


def test_a_watchdog_needs_a_runtime_and_is_entered_once(run: Run) -> None:
    with pytest.raises(RuntimeError, match=r"ferrule\.run"):
        watchdog().__enter__()

    def main() -> None:
        dog = watchdog()
        with dog, pytest.raises(RuntimeError, match="make a new one"):
            dog.__enter__()

    run(main)


def test_the_environment_starts_a_watchdog(run_script: Script) -> None:
    script = """
import ferrule, time, threading
ferrule.run(time.sleep, 0.5)
assert threading.active_count() == 1
"""
    done = run_script(script, env={**os.environ, "FERRULE_WATCHDOG": "0.1"})
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("ferrule: fiber main #1 has kept its thread for 0.")
    done = run_script(script, env={**os.environ, "FERRULE_WATCHDOG": ""})
    assert (done.returncode, done.stderr) == (0, "")
    done = run_script(script, env={**os.environ, "FERRULE_WATCHDOG": "soon"})
    assert "ValueError: FERRULE_WATCHDOG must be a positive number of seconds, not 'soon'" in (
        done.stderr)


def test_a_forked_child_has_no_watchdog(run_script: Script) -> None:
    done = run_script("""
import ferrule, ferrule.inspect, os, sys, warnings
warnings.simplefilter("ignore")

def main():
    with ferrule.inspect.watchdog(limit=0.05, stuck=0.05):
        ferrule.sleep(0.1)
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

ferrule.run(main)
child = os.fork()
if child == 0:
    ferrule.run(main)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
""")
    assert done.returncode == 0, done.stderr


def test_reports_go_to_stderr_by_default(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)

    def main() -> None:
        with inspect.watchdog(limit=LIMIT):
            time.sleep(4 * LIMIT)

    run(main)
    assert "fiber main #" in stream.getvalue()
