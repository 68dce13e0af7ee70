"""``ferrule doctor`` tells the truth, also where io_uring is refused."""

import json
import os
import platform
import resource
import subprocess
import sys

import pytest

from ferrule.cli import facts
from ferrule.cli.doctor import find_problems, make_report
from ferrule.cli.tables import format_plain

# Answers system call number argv[1] with errno argv[2], then runs the rest of the command line.
FILTERED = """
import ctypes, os, struct, sys
number, error, *command = sys.argv[1:]
def instruction(code, yes, no, k):
    return struct.pack("HBBI", code, yes, no, k)
program = b"".join((
    instruction(0x20, 0, 0, 0),                        # load the number
    instruction(0x15, 0, 1, int(number)),              # equal?
    instruction(0x06, 0, 0, 0x00050000 | int(error)),  # answer with errno
    instruction(0x06, 0, 0, 0x7fff0000),               # allow
))
buffer = ctypes.create_string_buffer(program)
header = struct.pack("HP", 4, ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, header, 0, 0):
    sys.exit(f"no filter: {os.strerror(ctypes.get_errno())}")
os.execv(command[0], command)
"""
SETUP, ENTER = 425, 426  # the same on every architecture but Alpha
EPERM, ENOSYS = 1, 38
DOCTOR = (sys.executable, "-m", "ferrule", "doctor")


def doctor(*options, env=None, command=DOCTOR, **kwargs):
    clean = {k: v for k, v in os.environ.items() if k != "FERRULE_BACKEND"}
    return subprocess.run(
        [*command, *options], env=clean | (env or {}), capture_output=True, text=True,
        timeout=60, check=False, **kwargs,
    )


def report_of(done):
    assert done.stderr == ""
    return json.loads(done.stdout)


def filtered(number, error):
    command = (sys.executable, "-c", FILTERED, str(number), str(error), *DOCTOR)
    done = doctor("--json", command=command)
    if done.stderr.startswith("no filter"):
        pytest.skip(f"cannot install a seccomp filter here: {done.stderr}")
    return done


def needs_uring():
    engine = make_report()["backend"]["engines"]["uring"]
    if not engine["works"]:
        pytest.skip(f"needs io_uring: {engine['error']}")


def test_the_report_says_what_ferrule_run_would_do():
    done = doctor("--json")
    report = report_of(done)
    works = report["backend"]["works"]
    assert done.returncode == (0 if works else 1)
    run = subprocess.run(
        [sys.executable, "-c", "import ferrule; ferrule.run(lambda: None)"],
        env={k: v for k, v in os.environ.items() if k != "FERRULE_BACKEND"},
        capture_output=True, check=False,
    )
    assert (run.returncode == 0) is works
    assert report["system"]["kernel"] == f"Linux {platform.release()}"
    assert report["python"]["version"] == platform.python_version()
    assert report["limits"]["nofile"]["soft"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_what_was_probed_is_reported_one_by_one():
    needs_uring()
    probed = report_of(doctor("--json"))["io_uring"]
    assert probed["works"]
    assert probed["rung"] in [rung["name"] for rung in probed["rungs"] if rung["works"]]
    assert probed["operations"]["NOP"] is True
    assert probed["features"]["NODROP"] is True
    assert len(probed["operations"]) > 40


@pytest.mark.parametrize(
    ("number", "error", "name"),
    [(SETUP, EPERM, "EPERM"), (SETUP, ENOSYS, "ENOSYS"), (ENTER, EPERM, "EPERM")],
)
def test_a_refused_io_uring_is_reported_with_a_remedy(number, error, name):
    needs_uring()
    done = filtered(number, error)
    report = report_of(done)
    assert not report["io_uring"]["works"]
    assert report["io_uring"]["errno"] == name
    assert not report["backend"]["engines"]["uring"]["works"]
    others = any(engine["works"] for engine in report["backend"]["engines"].values())
    assert report["backend"]["works"] in (False, others)
    assert done.returncode == (0 if report["backend"]["works"] else 1)
    assert report["limits"]["seccomp"] == "filter"
    (problem,) = [p for p in report["problems"] if p["problem"].startswith("io_uring is refused")]
    assert name in problem["problem"]
    assert problem["remedy"]
    if name == "EPERM":
        assert "seccomp" in problem["problem"]
        assert "io_uring_setup" in problem["remedy"]


@pytest.mark.parametrize("name", ["kqueue", "epoll", "threads", "nonsense"])
def test_another_backend_asked_for_by_the_environment_is_reported(name):
    report = report_of(done := doctor("--json", env={"FERRULE_BACKEND": name}))
    backend = report["backend"]
    assert backend["requested"] == name
    assert done.returncode == (0 if backend["works"] else 1)
    if backend["works"]:
        assert backend["name"] == name
    else:
        assert name in report["problems"][0]["problem"]
        assert "FERRULE_BACKEND" in report["problems"][0]["remedy"]


def test_a_low_limit_on_open_files_is_a_problem_with_a_remedy():
    def lower():
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))

    report = report_of(doctor("--json", preexec_fn=lower))
    assert report["limits"]["nofile"]["soft"] == 256
    assert any("256" in p["problem"] and "ulimit -n" in p["remedy"] for p in report["problems"])


def test_the_text_report_needs_no_rich(tmp_path):
    (tmp_path / "rich.py").write_text("raise ImportError('blocked by the test')")
    for env in ({"PYTHONPATH": str(tmp_path)}, {}):
        done = doctor(env=env)
        assert done.stderr == ""
        for word in ("Backend", "chosen", "kernel", "open files", "seccomp", "Problems"):
            assert word in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize(("setting", "who"), [(1, "privileged"), (2, "everybody")])
def test_the_sysctl_is_named_where_it_is_the_cause(setting, who):
    report = make_report()
    report["io_uring"] = {"works": False, "errno": "EPERM", "error": "x"}
    report["limits"]["io_uring_disabled"] = setting
    problems = find_problems(report)
    assert any(
        who in p["problem"] and "sysctl kernel.io_uring_disabled=0" in p["remedy"]
        for p in problems
    )


def test_the_tightest_cpu_quota_of_all_groups_counts(tmp_path):
    (tmp_path / "own").write_text("0::/a/b\n")
    (tmp_path / "fs" / "a" / "b").mkdir(parents=True)
    (tmp_path / "fs" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "fs" / "a" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "fs" / "a" / "b" / "cpu.max").write_text("400000 100000\n")
    fs, own = str(tmp_path / "fs"), str(tmp_path / "own")
    assert facts.cgroup_cpu_quota(fs, own) == 1.5
    (tmp_path / "own").write_text("0::/\n")
    assert facts.cgroup_cpu_quota(fs, own) is None
    assert facts.cgroup_cpu_quota(fs, str(tmp_path / "none")) is None


def test_an_old_cgroup_quota_is_read(tmp_path):
    (tmp_path / "own").write_text("4:memory:/x\n3:cpu,cpuacct:/a\n")
    folder = tmp_path / "fs" / "cpu,cpuacct" / "a"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("50000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert facts.cgroup_cpu_quota(str(tmp_path / "fs"), str(tmp_path / "own")) == 0.5
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert facts.cgroup_cpu_quota(str(tmp_path / "fs"), str(tmp_path / "own")) is None


def test_plain_tables_are_wrapped():
    text = format_plain("Title", [("name", "word " * 60), ("other", "")])
    assert text.startswith("Title\n-----\n  name   word")
    assert max(map(len, text.splitlines())) <= 100
