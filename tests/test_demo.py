"""``ferrule demo`` fetches, compares and tells the truth about both."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("httptools", reason="needs the extra: pip install 'ferrule[cli]'")

import ferrule
from ferrule.cli import demo
from in_fiber import in_fiber


def command(*args, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "ferrule", "demo", *args],
        capture_output=True, text=True, timeout=120, check=False, **kwargs,
    )


def test_a_small_demo_reports_every_figure():
    done = command("--files", "40", "--clients", "25", "--rounds", "2", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["files"] == 40
    assert report["clients"] == 25
    assert report["requests"] == 80
    assert report["mismatches"] == 0
    assert report["backend"] in ("uring", "epoll", "kqueue", "threads")
    for name in (
        "requests_per_second", "megabytes_per_second", "latency_p50_ms", "latency_p99_ms",
        "peak_memory_mib", "seconds",
    ):
        assert report[name] > 0
    assert report["latency_p50_ms"] <= report["latency_p99_ms"] <= report["seconds"] * 1e3


def test_the_table_has_no_bar_and_no_escapes_in_a_pipe():
    done = command("--files", "5", "--clients", "3")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    for word in ("backend", "files", "requests/s", "MB/s", "p50", "p99", "peak memory", "equal"):
        assert word in done.stdout


def test_every_client_fetches_something():
    done = command("--files", "3", "--clients", "10", "--rounds", "1", "--json")
    assert json.loads(done.stdout)["requests"] >= 10


def test_too_many_clients_for_the_hard_limit_are_reduced_and_said_so():
    def lower():
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))

    done = command("--files", "20", "--clients", "1000", "--json", preexec_fn=lower)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["clients"] < 500
    assert f"{report['clients']} clients instead of 1000" in done.stderr
    assert "1000 (ulimit -Hn)" in done.stderr


def test_a_low_soft_limit_is_raised():
    def lower():
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < 1000:
            os._exit(77)
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))

    done = command("--files", "20", "--clients", "60", "--json", preexec_fn=lower)
    if done.returncode == 77:
        pytest.skip("the hard limit on open files is below 1000 here")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["clients"] == 60


# What depends on the hour and the engine, not on what was served.
MEASURED = {
    "backend", "seconds", "requests_per_second", "megabytes_per_second", "latency_p50_ms",
    "latency_p99_ms", "peak_memory_mib",
}


def saved_files(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*") if path.is_file()
    }


def demo_on(backend, folder):
    done = command(
        "--files", "1000", "--clients", "100", "--rounds", "2", "--json", "--save", str(folder),
        env=os.environ | {"FERRULE_BACKEND": backend},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["backend"] == backend
    assert report["mismatches"] == 0
    return report, saved_files(folder)


def skip_without(backend):
    try:
        ferrule.run(int, backend=backend)
    except ferrule.BackendUnavailable as exc:
        pytest.skip(f"cannot here: {exc}")


@pytest.fixture(scope="module")
def on_uring(tmp_path_factory):
    skip_without("uring")
    return demo_on("uring", tmp_path_factory.mktemp("uring"))


@pytest.mark.parametrize("backend", ["epoll", "kqueue", "threads"])
def test_every_engine_gives_the_same_files_and_totals(backend, on_uring, tmp_path):
    skip_without(backend)
    report, files = demo_on(backend, tmp_path)
    expected, expected_files = on_uring
    assert len(files) == report["files"] > 100
    assert files == expected_files
    assert {k: v for k, v in report.items() if k not in MEASURED} == {
        k: v for k, v in expected.items() if k not in MEASURED
    }


def test_a_backend_that_is_not_there_is_a_clear_error():
    done = command("--files", "1", env=os.environ | {"FERRULE_BACKEND": "nonsense"})
    assert done.returncode != 0
    assert "nonsense" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def folder(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.txt").write_bytes(os.urandom(1000 * i))
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "other.py").write_text("")
    (tmp_path / "name with ü.txt").write_text("x")
    os.symlink("0.txt", tmp_path / "link")
    return str(tmp_path)


@in_fiber
def test_all_regular_files_but_installed_packages_are_fetched(folder):
    results = demo.run_demo(folder, 4, None, 1, show_progress=False)
    assert results.failures == []
    assert results.files == 11
    assert results.bytes == sum(1000 * i for i in range(10)) + 1


@in_fiber
def test_what_was_fetched_is_saved_where_told(folder, tmp_path, tmp_path_factory):
    to = tmp_path_factory.mktemp("saved") / "here"
    results = demo.run_demo(folder, 4, None, 3, show_progress=False, save_to=str(to))
    assert results.failures == []
    names = [*(f"{i}.txt" for i in range(10)), "name with ü.txt"]
    assert saved_files(to) == {Path(name): (tmp_path / name).read_bytes() for name in names}


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    done = command("--files", "1", "--save", str(tmp_path / "file"))
    assert done.returncode == 1
    assert "nothing can be saved there" in done.stderr
    assert "Traceback" not in done.stderr


@in_fiber
def test_a_body_that_differs_from_the_disk_is_a_failure(folder, monkeypatch):
    real = demo.fs.read_bytes
    monkeypatch.setattr(
        demo.fs, "read_bytes", lambda path: b"?" if path.endswith("3.txt") else real(path)
    )
    results = demo.run_demo(folder, 4, None, 1, show_progress=False)
    assert len(results.failures) == 1
    assert "3.txt" in results.failures[0]
    assert results.as_report()["mismatches"] == 1


def test_a_mismatch_makes_the_exit_status_1(folder, monkeypatch, capsys):
    from ferrule.cli import main

    monkeypatch.setattr(demo.sysconfig, "get_path", lambda name: folder)
    assert main(["demo", "--clients", "3"]) == 0
    monkeypatch.setattr(demo.fs, "read_bytes", lambda path: b"?")
    assert main(["demo", "--clients", "3"]) == 1
    assert "DIFFERENT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([], 50, 0.0), ([7.0], 99, 7.0), ([1.0, 2.0], 50, 1.0), (list(range(1, 101)), 99, 99)],
)
def test_percentiles_are_values_that_occurred(values, percent, expected):
    assert demo.percentile(values, percent) == expected
