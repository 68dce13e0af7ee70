"""What only Linux can compile lies in files that only Linux compiles."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parent.parent
CORE = ROOT / "src" / "ferrule" / "_core"
TOOLS = pathlib.Path(sys.executable).parent

OF_LINUX = re.compile(
    r"(?:#include |extern from \")<"
    r"(linux/\w+|sys/(syscall|sendfile|sysmacros|epoll|eventfd|prctl|vfs|inotify|signalfd))\.h>"
)
# Files that no other system compiles (meson.build leaves them out).
LINUX_ONLY = {"operation_linux.c", "operation_uring.c", "operation_uring.h", "io_ring.c",
              "poller_epoll.h", "backend_epoll.pyx", "backend_uring.pyx", "ring_fork.h"}
LINUX_MODULES = {"ring", "backend_uring", "backend_epoll"}


def source(name: str) -> str:
    [path] = CORE.rglob(name)
    return path.read_text()


def without_conditional_parts(text: str) -> str:
    return re.sub(r"#ifdef __linux__.*?#(else|endif)", "", text, flags=re.DOTALL)


def portable_files() -> list[str]:
    return sorted(
        path.name for path in CORE.rglob("*")
        if path.suffix in (".c", ".h", ".pyx", ".pxi", ".pxd")
        and path.name not in LINUX_ONLY and not path.name.startswith("ring")
    )


@pytest.mark.parametrize("name", portable_files())
def test_no_header_of_linux_is_included_outside_its_files(name: str) -> None:
    text = without_conditional_parts(source(name))
    assert not (found := OF_LINUX.search(text)), f"{name} includes {found[0]}"


def modules_built_for(system: str, folder: pathlib.Path) -> set[str]:
    """What meson.build would build there; this machine's compiler stands in for that system's."""
    cross = folder / "cross.ini"
    cross.write_text(
        f"[binaries]\nc = 'cc'\nar = 'ar'\n"
        f"[host_machine]\nsystem = '{system}'\ncpu_family = 'x86_64'\ncpu = 'x86_64'\n"
        "endian = 'little'\n"
    )
    environment = os.environ | {"PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"}
    for command in (
        ["setup", str(folder / "build"), "--cross-file", str(cross)],
        ["introspect", "--targets", str(folder / "build")],
    ):
        done = subprocess.run(
            [str(TOOLS / "meson"), *command], capture_output=True, text=True, cwd=ROOT, timeout=120,
            env=environment,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return {
        target["name"].split(".")[0]
        for target in json.loads(done.stdout)
        if target["type"] == "shared module"
    }


@pytest.mark.parametrize("system", ["darwin", "freebsd"])
def test_another_system_is_built_without_the_modules_of_linux(
    system: str, tmp_path: pathlib.Path
) -> None:
    if not (TOOLS / "meson").exists():
        pytest.skip("needs meson beside this Python")
    every = {path.stem for path in CORE.glob("*.pyx")}
    assert modules_built_for(system, tmp_path) == every - LINUX_MODULES


# Names that macOS or FreeBSD lacks, by module.
OF_LINUX_IN_PYTHON = {
    "os": ("sched_getaffinity", "sched_setaffinity", "eventfd", "eventfd_read", "eventfd_write",
           "memfd_create", "getxattr", "setxattr", "listxattr", "removexattr", "copy_file_range",
           "splice", "posix_fadvise", "posix_fallocate", "pipe2", "fdatasync", "preadv", "pwritev",
           "getrandom", "pidfd_open", "O_TMPFILE", "O_PATH", "O_NOATIME", "O_DIRECT", "O_RSYNC",
           "O_DSYNC", "RWF_NOWAIT", "SEEK_DATA", "SEEK_HOLE", "EFD_CLOEXEC", "posix_spawn"),
    "select": ("epoll", "EPOLLIN", "EPOLLET", "POLLRDHUP"),
    "_socket": ("SOCK_CLOEXEC", "SOCK_NONBLOCK", "SO_PEERCRED", "SO_REUSEPORT_LB", "MSG_NOSIGNAL",
                "MSG_CMSG_CLOEXEC", "IP_RECVTTL", "SO_INCOMING_CPU", "AF_NETLINK", "AF_PACKET",
                "AF_VSOCK", "TCP_DEFER_ACCEPT", "TCP_QUICKACK", "TCP_CORK"),
    "time": ("CLOCK_BOOTTIME",),
    "resource": ("RLIMIT_RTTIME", "prlimit"),
    "errno": ("EBADFD", "EREMOTEIO", "ETIME"),
}

ELSEWHERE = """
import importlib, os, socket, subprocess, sys, sysconfig, tempfile, time  # as they are here
sysconfig.get_config_vars()

for module, names in HIDDEN.items():
    module = importlib.import_module(module)
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
for name in ("ring", "backend_uring", "backend_epoll"):
    sys.modules["ferrule._core." + name] = None
sys.platform = SYSTEM

import ferrule, ferrule.fs, ferrule.inspect, ferrule.ioqueue, ferrule.net, ferrule.socket
import ferrule.ssl, ferrule.cli
try:
    import ferrule.ring
except ImportError as exc:
    assert "only Linux has" in str(exc)
else:
    raise AssertionError("ferrule.ring")

def echo(conn):
    with conn:
        while data := conn.recv(100):
            conn.sendall(data)

def main(folder):
    with ferrule.listen_tcp("127.0.0.1", 0) as listener:
        task = ferrule.spawn(lambda: echo(listener.accept()[0]))
        with ferrule.connect_tcp(*listener.getsockname()) as conn:
            conn.sendall(b"hello")
            assert conn.recv(100) == b"hello"
        task.result(5)
    path = os.path.join(folder, "file")
    ferrule.fs.write_bytes(path, b"data")
    ferrule.fs.write_atomic(path, b"more data")
    ferrule.fs.copy_file(path, path + " again")
    with ferrule.open(path) as file:
        assert file.read() == "more data"
    assert ferrule.fs.stat(path).st_size == 9
    names = ["file", "file again"]
    assert sorted(entry.name for entry in ferrule.fs.scandir(folder)) == names
    assert sorted(entry.name for entry in ferrule.walk(folder)) == names
    ferrule.sleep_until(time.time() + 0.001, clock=ferrule.Clock.REALTIME)
    return ferrule.current_runtime().backend

for backend in ("threads", "kqueue", "auto"):
    with tempfile.TemporaryDirectory() as folder:
        try:
            print(ferrule.run(main, folder, backend=backend))
        except ferrule.BackendUnavailable as exc:
            print(exc)
with tempfile.TemporaryDirectory() as folder:
    with open(os.path.join(folder, "one.py"), "w") as file:
        file.write("pass")
    with ferrule.ioqueue.IOQueue() as queue:
        queue.stat(file.name)
        queue.opendir(folder)
        stat, directory = sorted((r.value for r in queue.drain()), key=str, reverse=True)
        assert stat.st_size == 4
        assert "one.py" in [entry.name for entry in directory.entries]
        directory.close()
    from ferrule.cli import main as command
    assert command(["find", folder, "-name", "*.py"]) == 0
    assert command(["doctor"]) == 0
"""


@pytest.mark.parametrize("system", ["darwin", "freebsd14"])
def test_what_is_written_in_python_needs_no_name_that_only_linux_has(
    system: str, run_script: Callable[..., Any]
) -> None:
    done = run_script(f"HIDDEN = {OF_LINUX_IN_PYTHON}\nSYSTEM = {system!r}\n{ELSEWHERE}")
    assert done.returncode == 0, done.stderr
    engines = done.stdout.split("\n")[:3]
    assert engines[0] == "threads"
    assert engines[1] == "kqueue" or "not in this build" in engines[1]
    assert engines[2] in ("kqueue", "threads")
    assert "one.py" in done.stdout


def test_both_kinds_of_system_make_the_same_attempts_in_their_own_way() -> None:
    declared = set(
        re.findall(r"int64_t (system_\w+)\(", source("operation_system.h"))
    )
    assert declared
    for names in (["operation_linux.c"], ["operation_bsd.c", "entries_bsd.c"]):
        text = "".join(source(name) for name in names)
        assert set(re.findall(r"^int64_t (system_\w+)\(", text, re.MULTILINE)) == declared, names


def test_the_ring_says_which_system_it_needs(run_script: Callable[..., Any]) -> None:
    done = run_script(
        "import sys\n"
        "import ferrule\n"
        "sys.modules['ferrule._core.ring'] = None  # as where it is not built\n"
        "try:\n"
        "    import ferrule.ring\n"
        "except ImportError as exc:\n"
        "    print(exc)\n"
    )
    assert "io_uring, which only Linux has" in done.stdout, done.stderr
