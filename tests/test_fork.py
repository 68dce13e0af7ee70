"""os.fork() in a running program: the child's runtime is dead and says so; a new one works."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

Script = Callable[..., subprocess.CompletedProcess[str]]

PREAMBLE = """
import ferrule, os, signal, sys, threading, time
def say(*words):
    print(*words, flush=True)
def in_child(fn):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            fn()
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@pytest.mark.parametrize(
    "call",
    ["ferrule.sleep(0)", "ferrule.spawn(int)", "ferrule.yield_now()", "ferrule.checkpoint()",
     "ferrule.blocking(int)", "ferrule.Event().wait()", "ferrule.current_task()"],
)
def test_a_call_in_the_child_says_that_the_runtime_did_not_survive(
    run_script: Script, call: str
) -> None:
    done = run_script(
        PREAMBLE
        + f"""
def child():
    try:
        {call}
    except RuntimeError as exc:
        say(exc)
def main():
    say(in_child(child))
    ferrule.sleep(0.01)
    ferrule.blocking(int)
    say("parent unharmed")
ferrule.run(main)
"""
    )
    lines = done.stdout.splitlines()
    assert "did not survive fork" in lines[0], done.stderr
    assert "ferrule.run" in lines[0]
    assert lines[1:] == ["0", "parent unharmed"]


def test_a_new_run_works_in_the_child(run_script: Script) -> None:
    done = run_script(
        PREAMBLE
        + """
queue = ferrule.Queue()
def child_main():
    task = ferrule.spawn(lambda: (ferrule.sleep(0.01), "child")[1])
    say(task.result(), ferrule.blocking(pow, 2, 3))
def child():
    ferrule.run(child_main)
    ferrule.run(child_main)
def main():
    sleeper = ferrule.spawn(ferrule.sleep, 0.05)
    waiter = ferrule.spawn(queue.get)
    ferrule.blocking(int)  # worker threads exist
    ferrule.sleep(0)
    say(in_child(child))
    queue.put("parent")
    say(waiter.result())
    sleeper.result()
ferrule.run(main)
"""
    )
    assert done.stdout.splitlines() == ["child 8", "child 8", "0", "parent"], done.stderr


def test_a_child_that_runs_on_out_of_its_fiber_leaves_run_with_an_error(run_script: Script) -> None:
    done = run_script(
        PREAMBLE
        + """
def main():
    return os.fork()
try:
    pid = ferrule.run(main)
except RuntimeError as exc:
    say("child:", exc)
    os._exit(0)
os.waitpid(pid, 0)
say("parent")
"""
    )
    child, parent = done.stdout.splitlines()
    assert "forked child" in child, done.stderr
    assert parent == "parent"


@pytest.mark.usefixtures("clean_children")
def test_the_child_holds_none_of_the_engines_descriptors(run_script: Script) -> None:
    done = run_script(
        PREAMBLE
        + """
def kinds():
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink("/proc/self/fd/" + fd))
        except OSError:
            pass
    return [kind for kind in found if "anon_inode" in kind or "pipe" in kind]
def child():
    say(kinds())
def main():
    assert len(kinds()) > len(before)
    in_child(child)
before = kinds()
ferrule.run(main)
say(before)
"""
    )
    child, before = done.stdout.splitlines()
    assert child == before, done.stderr


def test_a_fork_in_another_thread_drops_the_runtime_as_well(run_script: Script) -> None:
    done = run_script(
        PREAMBLE
        + """
def child():
    rings = [fd for fd in os.listdir("/proc/self/fd")
             if os.path.exists("/proc/self/fd/" + fd)
             and "io_uring" in os.readlink("/proc/self/fd/" + fd)]
    say(rings, ferrule.run(lambda: (ferrule.sleep(0.001), "ran")[1]))
def main():
    say(ferrule.blocking(in_child, child))
    say("parent")
ferrule.run(main)
"""
    )
    assert done.stdout.splitlines() == ["[] ran", "0", "parent"], done.stderr


def test_ctrl_c_works_in_the_childs_own_run(run_script: Script) -> None:
    done = run_script(
        PREAMBLE
        + """
def child_main():
    signal.signal(signal.SIGALRM, lambda *a: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        ferrule.sleep(100)
    finally:
        say("finally")
def child():
    try:
        ferrule.run(child_main)
    except KeyboardInterrupt:
        say("KeyboardInterrupt")
ferrule.run(in_child, child)
"""
    )
    assert done.stdout.splitlines() == ["finally", "KeyboardInterrupt"], done.stderr


def test_a_signal_in_the_child_does_not_write_to_a_reused_descriptor(run_script: Script) -> None:
    done = run_script(
        PREAMBLE
        + """
signal.signal(signal.SIGALRM, lambda *a: None)
def child():
    pipes = [os.pipe() for _ in range(10)]  # take the numbers that became free
    for _, write in pipes:
        os.set_blocking(write, False)
    for read, _ in pipes:
        os.set_blocking(read, False)
    os.kill(os.getpid(), signal.SIGALRM)
    time.sleep(0.01)
    for read, _ in pipes:
        try:
            say("unexpected", os.read(read, 100))
        except BlockingIOError:
            pass
    say(signal.set_wakeup_fd(-1))
def main():
    say(in_child(child))
ferrule.run(main)
"""
    )
    assert done.stdout.splitlines() == ["-1", "0"], done.stderr


def test_a_lock_whose_waiters_stayed_with_the_parent_works_in_the_child(run_script: Script) -> None:
    done = run_script(
        PREAMBLE
        + """
lock, event = ferrule.Lock(), ferrule.Event()
def child():
    lock.release()      # the waiters do not exist here
    def main():
        with lock:
            event.set()
            return event.wait()
    say(ferrule.run(main), lock.locked())
def main():
    lock.acquire()
    waiters = [ferrule.spawn(lock.acquire), ferrule.spawn(event.wait)]
    ferrule.sleep(0)
    say(in_child(child))
    lock.release()
    say(waiters[0].result())
    event.set()
ferrule.run(main)
"""
    )
    assert done.stdout.splitlines() == ["True False", "0", "True"], done.stderr


def test_subprocesses_do_not_disturb_the_run(run_script: Script) -> None:
    done = run_script(
        PREAMBLE
        + """
import subprocess
def main():
    say(ferrule.blocking(subprocess.check_output, ["echo", "hello"]))
    say(subprocess.check_output(["echo", "again"]))
    ferrule.sleep(0.001)
ferrule.run(main)
"""
    )
    assert done.stdout.splitlines() == ["b'hello\\n'", "b'again\\n'"], done.stderr
