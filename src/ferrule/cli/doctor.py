"""``ferrule doctor``: what this machine offers, which engine is chosen and why, what to change."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from typing import Any

import ferrule
from ferrule.cli import facts
from ferrule.cli.tables import Row, print_table
from ferrule.engines import ENGINES, try_out

FILES_ENOUGH = 4096
MAPS_ENOUGH = 65530
MEMLOCK_ENOUGH = 64 * 1024

Report = dict[str, Any]


def add_parser(commands: Any) -> None:
    """Register the sub-command."""
    parser = commands.add_parser(
        "doctor",
        help="show what this machine offers and which engine is chosen",
        description="Report kernel, Python, the chosen backend and the reason, what io_uring can "
        "do here, limits, and remedies.  Exit status 0 if ferrule.run() works here, else 1.",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report; return 0 if an engine works here, else 1."""
    report = make_report()
    if args.json:
        json.dump(report, sys.stdout, indent=2)
        print()
    else:
        print_report(report)
    return 0 if report["backend"]["works"] else 1


def make_report() -> Report:
    """Everything that was found, as plain data."""
    report: Report = {
        "ferrule": ferrule.__version__,
        "system": facts.read_system(),
        "python": facts.read_python(),
        "io_uring": probe_io_uring(),
        "backend": try_backend(),
        "limits": facts.read_limits(),
    }
    report["backend"]["why"] = _explain_choice(report)
    report["problems"] = find_problems(report)
    return report


def try_backend() -> Report:
    """Start the engine that ferrule.run() would choose here, then every one there is."""
    asked = os.environ.get("FERRULE_BACKEND") or "auto"
    found: Report = {"requested": asked, "works": False, "name": None, "error": None}
    found.update(_start_engine("auto"))
    refusals = {name: try_out(name) for name in ENGINES}
    found["engines"] = {
        name: {"works": why is None} if why is None else {"works": False, "error": why}
        for name, why in refusals.items()
    }
    return found


def _start_engine(name: Any) -> Report:
    try:
        used = ferrule.run(lambda: ferrule.current_runtime().backend, backend=name)
    except (ferrule.BackendUnavailable, ValueError, OSError) as exc:
        return {"works": False, "error": str(exc)}
    return {"works": True, "name": used}


def probe_io_uring() -> Report:
    """Ask the kernel, step by step, what it can do; a refusal is an answer as well."""
    found: Report = {"works": False, "error": None, "errno": None, "rung": None, "rungs": []}
    try:
        from ferrule import ring
    except ImportError as exc:  # of another system than Linux
        return found | {"error": str(exc)}
    for name, flags in _ladder():
        rung: Report = {"name": name, "flags": _flag_names(ring.SetupFlags(flags)), "works": False}
        found["rungs"].append(rung)
        try:
            with ring.Ring(8, flags=int(flags), cq_entries=16) as opened:
                _do_nothing(opened, flags)
                rung["works"] = True
                if not found["works"]:
                    found.update(works=True, rung=name, **_ask_kernel(opened))
        except OSError as exc:
            rung["error"] = errno.errorcode.get(exc.errno or 0, str(exc.errno))
            if found["error"] is None:
                found.update(error=str(exc), errno=rung["error"])
    if found["works"]:
        found.update(error=None, errno=None)
    return found


def _do_nothing(opened: Any, flags: int) -> None:
    """One operation there and back: a filter may allow the set-up and refuse the rest."""
    from ferrule import ring

    if flags & ring.SetupFlags.R_DISABLED:
        opened.enable_rings()
    opened.prep_nop()
    opened.submit_and_wait(1)
    opened.copy_cqe().raise_for_error()


def _ladder() -> tuple[tuple[str, int], ...]:
    from ferrule._core.backend_uring import LADDER

    return tuple(LADDER)


def _flag_names(flags: Any) -> list[str]:
    return [flag.name for flag in type(flags) if flag in flags]


def _ask_kernel(opened: Any) -> Report:
    from ferrule import ring

    features = ring.Features(opened.features)
    found: Report = {"features": {each.name: each in features for each in ring.Features}}
    try:
        probe = opened.register_probe()
    except OSError:  # before Linux 5.6, or a filter: nothing is known to work
        return found | {"operations": {op.name: False for op in ring.Op}, "highest_opcode": None}
    operations = {op.name: probe.opcode_supported(op) for op in ring.Op}
    return found | {"operations": operations, "highest_opcode": probe.last_op}


def _explain_choice(report: Report) -> str:
    backend = report["backend"]
    asked = backend["requested"]
    if not backend["works"]:
        return str(backend["error"])
    if asked != "auto":
        return "FERRULE_BACKEND asks for it, and it works"
    if backend["name"] == "uring":
        return f"io_uring works here, at set-up rung {report['io_uring']['rung']!r}"
    return f"io_uring cannot be used: {report['io_uring']['error']}"


# ---- problems and remedies ----


def find_problems(report: Report) -> list[dict[str, str]]:
    """What is wrong or could be better, each with what to do about it."""
    found = [
        *_backend_problems(report),
        *(_io_uring_problems(report) if sys.platform == "linux" else []),
        *_limit_problems(report["limits"]),
        *_python_problems(report["python"]),
    ]
    return [{"problem": problem, "remedy": remedy} for problem, remedy in found]


def _backend_problems(report: Report) -> list[tuple[str, str]]:
    backend = report["backend"]
    if backend["works"]:
        return []
    if backend["requested"] != "auto":
        return [
            (
                f"FERRULE_BACKEND={backend['requested']} cannot be used: {backend['error']}",
                "unset FERRULE_BACKEND, or set it to auto",
            )
        ]
    return [("no engine works here: ferrule.run() raises BackendUnavailable", "see below")]


def _io_uring_problems(report: Report) -> list[tuple[str, str]]:
    probed = report["io_uring"]
    if not probed["works"]:
        return [_explain_refusal(probed, report["limits"])]
    best = probed["rungs"][0]["name"]
    if probed["rung"] != best:
        return [
            (
                f"io_uring's best set-up ({best}) is refused; {probed['rung']!r} is used",
                "Linux 6.6 or later brings it; everything works without, more slowly",
            )
        ]
    return []


def _explain_refusal(probed: Report, limits: Report) -> tuple[str, str]:
    what = f"io_uring is refused ({probed['errno']})"
    if probed["errno"] == "ENOSYS":
        return (f"{what}: this kernel has none, or a filter hides it", "use Linux 5.10 or later")
    if probed["errno"] == "ENOMEM":
        return (f"{what}: no memory for the ring", "raise the locked-memory limit: ulimit -l")
    if probed["errno"] in ("EMFILE", "ENFILE"):
        return (f"{what}: no free descriptor", "raise the limit on open files: ulimit -n")
    disabled = limits["io_uring_disabled"]
    if disabled == 2:
        return (
            f"{what}: sysctl kernel.io_uring_disabled is 2, for everybody",
            "as root: sysctl kernel.io_uring_disabled=0",
        )
    if disabled == 1:
        return (
            f"{what}: sysctl kernel.io_uring_disabled is 1, for all but the privileged",
            "as root: sysctl kernel.io_uring_disabled=0, or join the group whose id is in "
            "kernel.io_uring_group",
        )
    if limits["seccomp"] == "filter":
        return (
            f"{what}: a seccomp filter is in force, as container runtimes install",
            "allow io_uring_setup, io_uring_enter and io_uring_register in its profile (Docker and "
            "Podman: --security-opt seccomp=PROFILE.json; Kubernetes: securityContext."
            "seccompProfile of type Localhost; containerd has the same default)",
        )
    return (f"{what}: {probed['error']}", "ask the system's security policy (SELinux, AppArmor)")


def _limit_problems(limits: Report) -> list[tuple[str, str]]:
    found = []
    files = limits["nofile"]
    if files["soft"] is not None and files["soft"] < FILES_ENOUGH:
        found.append(
            (
                f"only {files['soft']} files and sockets may be open at once",
                f"ulimit -n {files['hard'] or 65536}, or LimitNOFILE= in a systemd unit",
            )
        )
    locked = limits["memlock"]["soft"]
    if sys.platform == "linux" and locked is not None and locked < MEMLOCK_ENOUGH:
        found.append(
            (f"only {locked} bytes of memory may be locked", "ulimit -l 8192 (before Linux 5.12)")
        )
    maps = limits["max_map_count"]
    if maps is not None and maps < MAPS_ENOUGH:
        found.append(
            (
                f"vm.max_map_count is {maps}: many deep fibers need more mappings",
                "as root: sysctl vm.max_map_count=262144",
            )
        )
    return found


def _python_problems(python: Report) -> list[tuple[str, str]]:
    if python["free_threaded_build"] and python["gil_enabled"]:
        return [
            (
                "this free-threaded Python runs with the GIL: PYTHON_GIL asks for it, or an "
                "extension module that was imported does not work without",
                "PYTHON_GIL=0, or import without that module",
            )
        ]
    return []


# ---- as text ----


def print_report(report: Report) -> None:
    """Print the report as tables."""
    print_table("Backend", _backend_rows(report))
    print_table("System", _system_rows(report))
    print_table("io_uring", _io_uring_rows(report["io_uring"]))
    print_table("Limits", _limit_rows(report["limits"]))
    problems = [(str(i), f"{p['problem']}.  Remedy: {p['remedy']}.")
                for i, p in enumerate(report["problems"], 1)]
    print_table("Problems", problems or [("none", "")])


def _backend_rows(report: Report) -> list[Row]:
    backend = report["backend"]
    return [
        ("chosen", backend["name"] or "none: ferrule.run() cannot work here"),
        ("why", backend["why"]),
        ("asked for", f"{backend['requested']} (FERRULE_BACKEND; auto if unset)"),
        ("set-up rung", report["io_uring"]["rung"] or "none"),
        *(
            (name, "works" if engine["works"] else engine["error"])
            for name, engine in backend["engines"].items()
        ),
    ]


def _system_rows(report: Report) -> list[Row]:
    system, python = report["system"], report["python"]
    quota = system["cgroup_cpu_quota"]
    packages = ", ".join(f"{k} {v or 'not installed'}" for k, v in python["packages"].items())
    return [
        ("ferrule", report["ferrule"]),
        ("kernel", f"{system['kernel']} {system['machine']}"),
        ("python", f"{python['implementation']} {python['version']}, {_gil_text(python)}"),
        ("packages", packages),
        ("CPUs", f"{system['cpus_usable']} usable of {system['cpus']}, cgroup quota "
                 f"{'none' if quota is None else f'{quota:g} CPUs'}"),
    ]


def _gil_text(python: Report) -> str:
    if not python["free_threaded_build"]:
        return "with the GIL"
    return "free-threaded" + (", but the GIL is enabled" if python["gil_enabled"] else "")


def _io_uring_rows(probed: Report) -> list[Row]:
    rows: list[Row] = [
        (f"rung {i}", f"{rung['name']}: {'works' if rung['works'] else rung['error']}")
        for i, rung in enumerate(probed["rungs"], 1)
    ]
    if not probed["works"]:
        return [("works", f"no: {probed['error']}"), *rows]
    for title in ("features", "operations"):
        for word, wanted in (("yes", True), ("no", False)):
            names = [name for name, has in probed[title].items() if has is wanted]
            rows.append((f"{title}: {word}", " ".join(names) or "none"))
    return [("works", "yes"), *rows]


def _limit_rows(limits: Report) -> list[Row]:
    def text(value: int | None) -> str:
        return "unlimited" if value is None else f"{value}"

    def setting(value: int | str | None) -> str:
        return "not on this kernel" if value is None else f"{value}"

    def pair(name: str) -> str:
        return f"{text(limits[name]['soft'])} (hard limit {text(limits[name]['hard'])})"

    return [
        ("open files", pair("nofile")),
        ("locked memory", pair("memlock") + " bytes"),
        ("processes", pair("nproc")),
        ("vm.max_map_count", setting(limits["max_map_count"])),
        ("net.core.somaxconn", setting(limits["somaxconn"])),
        ("kernel.io_uring_disabled", setting(limits["io_uring_disabled"])),
        ("kernel.io_uring_group", setting(limits["io_uring_group"])),
        ("seccomp", setting(limits["seccomp"])),
    ]
