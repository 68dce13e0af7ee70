"""Which engine `auto` takes, and what is said about those that cannot be used."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ferrule
from ferrule import engines

Script = Callable[..., subprocess.CompletedProcess[str]]

# argv-less: {call} fails with {number}; then what a program sees of it.
REFUSED = """
import os, sys, time
sys.path.insert(0, {tests!r})
import seccomp
try:
    seccomp.fail({call}, {number})
except OSError as exc:
    print("no seccomp filter:", exc)
    sys.exit(77)
import ferrule
before = os.listdir("/proc/self/fd")
for _ in range(2):
    print("auto", ferrule.run(lambda: ferrule.current_runtime().backend))
try:
    ferrule.run(print, "not reached", backend="uring")
except ferrule.BackendUnavailable as exc:
    print(exc)
    print("cause", exc.__cause__.errno)
until = time.monotonic() + 5  # libkqueue closes late
while len(os.listdir("/proc/self/fd")) > len(before) and time.monotonic() < until:
    time.sleep(0.01)
print("leaked", len(os.listdir("/proc/self/fd")) - len(before))
"""
SETUP, ENTER = 425, 426


def refused(run_script: Script, call: int, number: int) -> list[str]:
    tests = str(Path(__file__).parent)
    done = run_script(REFUSED.format(tests=tests, call=call, number=number))
    if done.returncode == 77:
        pytest.skip(f"cannot here: {done.stdout}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("call", "number", "words"),
    [
        (SETUP, errno.EPERM, ["seccomp", "Kubernetes", "io_uring_enter"]),
        (SETUP, errno.ENOSYS, ["Linux 5.10"]),
        (SETUP, errno.ENOMEM, ["RLIMIT_MEMLOCK"]),
        (ENTER, errno.EPERM, ["io_uring_enter", "seccomp"]),
        (ENTER, errno.ENOSYS, ["io_uring_enter"]),
    ],
)
def test_a_refused_io_uring_ends_on_epoll_without_a_word(
    run_script: Script, call: int, number: int, words: list[str]
) -> None:
    lines = refused(run_script, call, number)
    assert lines[:2] == ["auto epoll", "auto epoll"]
    assert lines[3:] == [f"cause {number}", "leaked 0"]
    for word in [*words, "Available here: epoll", "threads", "ferrule doctor"]:
        assert word in lines[2]


@pytest.fixture(autouse=True)
def fresh_choice() -> Iterator[None]:
    engines.forget_choice()
    yield
    engines.forget_choice()


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> dict[str, OSError | ImportError]:
    """What the system answers to engines: those in this dict fail, the others work."""
    answers: dict[str, OSError | ImportError] = {}
    monkeypatch.setattr(engines, "_refusal", answers.get)
    return answers


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_the_first_engine_that_works_is_taken(system: dict[str, Any]) -> None:
    assert engines.choose() == "uring"
    engines.forget_choice()
    system["uring"] = error(errno.EPERM)
    assert engines.choose() == "epoll"
    engines.forget_choice()
    system["epoll"] = error(errno.ENOSYS)
    system["kqueue"] = ImportError("none")
    assert engines.choose() == "threads"


def test_the_choice_is_made_once_in_a_process(system: dict[str, Any]) -> None:
    system["uring"] = error(errno.EPERM)
    assert engines.choose() == "epoll"
    del system["uring"]
    assert engines.choose() == "epoll"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_want_that_may_pass_is_not_remembered(system: dict[str, Any], number: int) -> None:
    system["uring"] = error(number)
    assert engines.choose() == "epoll"
    del system["uring"]
    assert engines.choose() == "uring"


def test_where_no_engine_works_each_says_why(system: dict[str, Any]) -> None:
    system.update(uring=error(errno.EPERM), epoll=error(errno.EMFILE),
                  kqueue=ImportError("none"), threads=error(errno.EMFILE))
    with pytest.raises(ferrule.BackendUnavailable) as caught:
        ferrule.run(int)
    for word in ("io_uring", "epoll", "kqueue backend is not in this build", "threads", "ulimit"):
        assert word in str(caught.value)


def test_a_child_process_chooses_for_itself(system: dict[str, Any]) -> None:
    assert engines.choose() == "uring"
    system["uring"] = error(errno.EPERM)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if engines.choose() == "epoll" else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert engines.choose() == "uring"


@pytest.mark.parametrize(
    ("disabled", "filtered", "words"),
    [
        (2, True, "kernel.io_uring_disabled is 2"),
        (1, False, "kernel.io_uring_disabled is 1"),
        (0, True, "a seccomp filter is in force"),
        (None, False, "by sysctl kernel.io_uring_disabled (0 allows it), or by a seccomp"),
    ],
)
def test_who_forbids_io_uring_is_named(disabled: int | None, filtered: bool, words: str) -> None:
    assert words in engines.forbidden_by(disabled, filtered)


def test_every_engine_of_this_build_can_be_tried_out() -> None:
    before = len(os.listdir("/proc/self/fd"))
    assert engines.try_out("threads") is None
    assert engines.try_out("epoll") is None
    assert engines.try_out("uring") in (None, engines.try_out("uring"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_a_free_descriptor_the_limit_is_named(run_script: Script) -> None:
    done = run_script(
        "import resource, ferrule\n"
        "ferrule.run(int)\n"
        "held = [open('/dev/null')]\n"
        "limit = held[-1].fileno() + 1\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))\n"
        "try:\n"
        "    ferrule.run(int)\n"
        "except ferrule.BackendUnavailable as exc:\n"
        "    print(exc)\n"
    )
    assert "RLIMIT_NOFILE" in done.stdout, done.stderr
