"""Starting and ending: options, engines, refusals, and what a run gives back."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
from ferrule import Runtime

Run = Callable[..., Any]
Script = Callable[..., subprocess.CompletedProcess[str]]


def test_runs_follow_each_other(run: Run) -> None:
    assert [run(lambda n=n: n) for n in range(5)] == list(range(5))


def test_a_runtime_can_be_used_as_a_context_manager(engine: str) -> None:
    with Runtime() as runtime:
        assert runtime.run(pow, 2, 3) == 8
        assert runtime.backend == engine.partition("-")[0]
        assert runtime.statistics()["live_tasks"] == 0


def test_a_runtime_runs_once(run: Run) -> None:
    runtime = Runtime()
    runtime.run(int)
    with pytest.raises(RuntimeError, match="make a new one"):
        runtime.run(int)


def test_a_runtime_that_never_ran_leaves_nothing() -> None:
    with Runtime() as runtime:
        assert runtime.statistics()["live_tasks"] == 0


def test_current_runtime_is_the_one_that_runs(run: Run) -> None:
    runtime = Runtime()
    assert runtime.run(ferrule.current_runtime) is runtime


def test_run_inside_run_is_refused(run: Run) -> None:
    def main() -> str:
        with pytest.raises(RuntimeError, match="already running in this thread"):
            ferrule.run(int)
        ferrule.sleep(0.001)
        return "unharmed"

    assert run(main) == "unharmed"


def test_a_runtime_cannot_run_in_two_threads_at_once(run: Run) -> None:
    runtime = Runtime()

    def main() -> None:
        def second() -> None:
            with pytest.raises(RuntimeError, match="another thread"):
                runtime.run(int)

        ferrule.blocking(second)

    runtime.run(main)


def test_every_thread_may_have_its_own_run(run: Run) -> None:
    def main() -> None:
        def elsewhere(n: int) -> int:
            return ferrule.run(lambda: (ferrule.sleep(0.001), n)[1])

        with ferrule.TaskGroup() as group:
            tasks = [group.spawn(ferrule.blocking, elsewhere, n) for n in range(4)]
        assert [task.result() for task in tasks] == [0, 1, 2, 3]

    run(main)


@pytest.mark.one_thread("they are those of one thread")
def test_statistics_count_what_happened(run: Run) -> None:
    def main() -> dict[str, Any]:
        tasks = [ferrule.spawn(ferrule.sleep, 0) for _ in range(5)]
        for task in tasks:
            task.join()
        now = ferrule.current_runtime().statistics()
        assert now["live_tasks"] == 1
        return now

    statistics = run(main)
    assert statistics["spawned"] == 6
    assert statistics["switches"] > 5
    assert statistics["threads"] == 1


@pytest.mark.parametrize("main", [3, None, "main"])
def test_main_must_be_callable(run: Run, main: Any) -> None:
    with pytest.raises(TypeError, match="callable"):
        run(main)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "fast"}, "'fast'"),
        ({"threads": 0}, "threads"),
        ({"max_fibers": 0}, "max_fibers"),
    ],
)
def test_senseless_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ferrule.run(int, **options)


def test_an_engine_that_is_not_there_says_which_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ferrule.runtime.ENGINES, "kqueue", ("backend_of_nowhere", "Nothing"))
    with pytest.raises(ferrule.BackendUnavailable, match=r"kqueue.*not in this build.*threads"):
        ferrule.run(int, backend="kqueue")


def test_the_environment_chooses_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERRULE_BACKEND", "epoll")
    assert ferrule.run(lambda: ferrule.current_runtime().backend) == "epoll"
    monkeypatch.setenv("FERRULE_BACKEND", "nonsense")
    with pytest.raises(ValueError, match="nonsense"):
        ferrule.run(int)


def test_an_argument_wins_over_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERRULE_BACKEND", "nonsense")
    assert run(lambda: 1) == 1


def test_the_environment_chooses_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERRULE_THREADS", "many")
    with pytest.raises(ValueError, match="FERRULE_THREADS"):
        ferrule.run(int)
    monkeypatch.setenv("FERRULE_THREADS", "1")
    assert ferrule.run(lambda: ferrule.current_runtime().threads) == 1


# A filter that answers EPERM to io_uring_setup, as container runtimes install.
REFUSE = """
import ctypes, struct, sys
EPERM, LOAD, JEQ, RET = {errno}, 0x20, 0x15, 0x06
program = b"".join(struct.pack("HBBI", *line) for line in [
    (LOAD, 0, 0, 0),                # the system call's number
    (JEQ, 0, 1, 425),               # io_uring_setup, the same everywhere
    (RET, 0, 0, 0x00050000 | EPERM),
    (RET, 0, 0, 0x7fff0000),
])
code = ctypes.create_string_buffer(program)
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER,
        ctypes.byref(Program(4, ctypes.addressof(code))), 0, 0):
    print("no seccomp:", ctypes.get_errno())
    sys.exit(77)
import os, time, ferrule
before = os.listdir("/proc/self/fd")
try:
    ferrule.run(print, "not reached", backend="uring")
except ferrule.BackendUnavailable as exc:
    print(exc)
    print("cause", exc.__cause__.errno)
def leaked():
    return len(os.listdir("/proc/self/fd")) - len(before)
until = time.monotonic() + 3
while leaked() and time.monotonic() < until:  # libkqueue closes from a thread of its own
    time.sleep(0.01)
print("leaked", leaked())
"""


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EPERM, ["seccomp", "ferrule doctor"]),
        (errno.ENOSYS, ["kernel"]),
        (errno.ENOMEM, ["RLIMIT_MEMLOCK"]),
        (errno.EMFILE, ["RLIMIT_NOFILE"]),
    ],
)
def test_a_refused_io_uring_is_explained(run_script: Script, number: int, words: list[str]) -> None:
    done = run_script(REFUSE.replace("{errno}", str(number)))
    if done.returncode == 77:
        pytest.skip(f"cannot here: {done.stdout}")
    assert done.returncode == 0, done.stderr
    assert "not reached" not in done.stdout
    for word in words:
        assert word in done.stdout
    assert f"cause {number}" in done.stdout
    assert "leaked 0" in done.stdout


def test_import_stays_cheap_and_starts_nothing(run_script: Script) -> None:
    done = run_script(
        "import sys, threading, os\n"
        "before = set(sys.modules)\n"
        "import ferrule\n"
        "new = set(sys.modules) - before\n"
        "heavy = {'asyncio', 'logging', 'ssl', 'socket', 'rich', 'concurrent.futures', 'inspect'}\n"
        "print('heavy', sorted(heavy & new))\n"
        "print('threads', threading.active_count())\n"
    )
    assert done.stdout.splitlines() == ["heavy []", "threads 1"], done.stderr


def test_every_exported_name_exists() -> None:
    for name in ferrule.__all__:
        assert getattr(ferrule, name) is not None
    assert set(ferrule.__all__) <= set(dir(ferrule))
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = ferrule.no_such_thing


def test_foreign_cancellations_that_come_too_late_are_harmless(run: Run) -> None:
    def main() -> ferrule.CancelScope:
        with ferrule.CancelScope() as scope:
            return scope

    scope = run(main)
    thread = threading.Thread(target=scope.cancel)
    thread.start()
    thread.join()
    scope.cancel()


def test_the_python_that_runs_is_supported() -> None:
    assert sys.version_info >= (3, 11)
