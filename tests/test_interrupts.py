"""Ctrl-C and other signals, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ferrule

Script = Callable[..., subprocess.CompletedProcess[str]]

PREAMBLE = """
import ferrule, os, signal, sys, threading, time
def say(*words):
    print(*words, flush=True)
def interrupt_in(seconds):
    signal.signal(signal.SIGALRM, lambda *a: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, seconds)
"""


def test_ctrl_c_runs_every_finally_and_comes_out_of_run(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(
        PREAMBLE
        + """
def fiber(n):
    try:
        ferrule.sleep(100)
    finally:
        with ferrule.shield():
            ferrule.sleep(0.01)
        say("finally", n)
def main():
    try:
        with ferrule.TaskGroup() as group:
            for n in range(3):
                group.spawn(fiber, n)
            ferrule.spawn(fiber, "loose")
            ferrule.sleep(0)
            say("ready")
    finally:
        say("finally main")
try:
    ferrule.run(main)
except KeyboardInterrupt:
    say("KeyboardInterrupt")
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert signal.set_wakeup_fd(-1) == -1
until = time.monotonic() + 5  # libkqueue closes late
while len(os.listdir("/proc/self/fd")) > 4:
    assert time.monotonic() < until
"""
    )
    child = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=30)
    assert child.returncode == 0
    assert sorted(out.splitlines()) == [
        "KeyboardInterrupt", "finally 0", "finally 1", "finally 2", "finally loose", "finally main",
    ]


@pytest.mark.parametrize(
    "body",
    [
        "ferrule.Event().wait()",
        "ferrule.sleep(100)",
        "while True: ferrule.yield_now()",
        "while True: ferrule.checkpoint()",
        "while not ferrule.cancel_requested(): pass",
        "ferrule.Queue().get(timeout=100)",
        "ferrule.spawn(ferrule.sleep, 100).result()",
    ],
)
def test_ctrl_c_ends_whatever_main_does(run_script: Script, body: str) -> None:
    done = run_script(
        PREAMBLE
        + f"""
def main():
    interrupt_in(0.05)
    {body}
try:
    ferrule.run(main)
except KeyboardInterrupt:
    say("KeyboardInterrupt")
"""
    )
    assert done.stdout == "KeyboardInterrupt\n", done.stderr


def test_a_second_ctrl_c_reaches_a_fiber_that_never_checks(run_script: Script) -> None:
    done = run_script(
        PREAMBLE
        + """
def main():
    signal.signal(signal.SIGALRM, lambda *a: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    while True:
        pass
try:
    ferrule.run(main)
except KeyboardInterrupt:
    signal.setitimer(signal.ITIMER_REAL, 0)
    say("KeyboardInterrupt")
"""
    )
    assert done.stdout == "KeyboardInterrupt\n", done.stderr


def test_main_cannot_swallow_ctrl_c(run_script: Script) -> None:
    done = run_script(
        PREAMBLE
        + """
def main():
    interrupt_in(0.02)
    try:
        ferrule.sleep(100)
    except ferrule.Cancelled:
        return "swallowed"
try:
    say(ferrule.run(main))
except KeyboardInterrupt:
    say("KeyboardInterrupt")
"""
    )
    assert done.stdout == "KeyboardInterrupt\n", done.stderr


def test_what_main_raises_while_it_ends_is_the_context(run_script: Script) -> None:
    done = run_script(
        PREAMBLE
        + """
def main():
    interrupt_in(0.02)
    try:
        ferrule.sleep(100)
    finally:
        raise ValueError("cleaning up")
try:
    ferrule.run(main)
except KeyboardInterrupt as exc:
    say(repr(exc.__context__))
"""
    )
    assert done.stdout == "ValueError('cleaning up')\n", done.stderr


def test_a_handler_of_the_program_stays_in_place(run_script: Script) -> None:
    done = run_script(
        PREAMBLE
        + """
event = ferrule.Event()
def handler(*args):
    event.set()
signal.signal(signal.SIGINT, handler)
def main():
    interrupt_in(0.02)
    return event.wait()
say(ferrule.run(main))
say(signal.getsignal(signal.SIGINT) is handler)
"""
    )
    assert done.stdout == "True\nTrue\n", done.stderr


def test_a_handler_installed_during_the_run_stays_in_place(run_script: Script) -> None:
    done = run_script(
        PREAMBLE
        + """
def handler(*args):
    pass
ferrule.run(signal.signal, signal.SIGINT, handler)
say(signal.getsignal(signal.SIGINT) is handler)
"""
    )
    assert done.stdout == "True\n", done.stderr


def test_ctrl_c_while_a_blocking_call_runs_waits_for_it(run_script: Script) -> None:
    done = run_script(
        PREAMBLE
        + """
def main():
    interrupt_in(0.02)
    say(ferrule.blocking(lambda: time.sleep(0.1) or "done"))
    ferrule.checkpoint()
    say("not reached")
try:
    ferrule.run(main)
except KeyboardInterrupt:
    say("KeyboardInterrupt")
"""
    )
    assert done.stdout == "done\nKeyboardInterrupt\n", done.stderr


def test_ctrl_c_in_a_run_of_another_thread_is_the_main_threads(run_script: Script) -> None:
    done = run_script(
        PREAMBLE
        + """
stop = ferrule.Event()
thread = threading.Thread(target=ferrule.run, args=(stop.wait,))
thread.start()
interrupt_in(0.02)
try:
    time.sleep(10)
except KeyboardInterrupt:
    say("KeyboardInterrupt")
stop.set()
thread.join()
"""
    )
    assert done.stdout == "KeyboardInterrupt\n", done.stderr


def test_an_error_of_a_signal_handler_while_all_wait_ends_the_run(run_script: Script) -> None:
    done = run_script(
        PREAMBLE
        + """
def handler(*args):
    raise OSError("from the handler")
signal.signal(signal.SIGALRM, handler)
def main():
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        ferrule.sleep(100)
    finally:
        with ferrule.shield():
            signal.setitimer(signal.ITIMER_REAL, 0.02)  # and once more, while it ends
            ferrule.sleep(0.05)
        say("finally")
try:
    ferrule.run(main)
except OSError as exc:
    say(exc)
"""
    )
    assert done.stdout == "finally\nfrom the handler\n", done.stderr


def test_a_stray_signal_does_not_wake_a_sleeper_early(run_script: Script) -> None:
    done = run_script(
        PREAMBLE
        + """
signal.signal(signal.SIGALRM, lambda *a: None)
def main():
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    begin = time.monotonic()
    ferrule.sleep(0.2)
    signal.setitimer(signal.ITIMER_REAL, 0)
    say(time.monotonic() - begin >= 0.2)
ferrule.run(main)
"""
    )
    assert done.stdout == "True\n", done.stderr


def test_an_interrupt_before_the_loop_is_open_is_not_lost() -> None:
    runtime = ferrule.Runtime()
    runtime._crew.interrupt()
    with pytest.raises(KeyboardInterrupt):
        runtime.run(ferrule.sleep, 100)


def test_a_wake_up_before_the_loop_is_open_does_not_mute_later_ones() -> None:
    runtime = ferrule.Runtime()
    event = ferrule.Event()
    # What a Ctrl-C does between the installation of its handler and the opening of the ring.
    runtime._crew.interrupt()

    def main() -> Any:
        with ferrule.shield():
            threading.Timer(0.02, event.set).start()
            return event.wait(10)

    with pytest.raises(KeyboardInterrupt):
        runtime.run(main)
    assert event.is_set()
