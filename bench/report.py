"""From samples to a JSON document, and from documents to tables and the docs."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from . import plot
from .harness import ROOT, Benchmark, Row, Settings, verdict

DOCS = ROOT / "docs" / "BENCHMARKS.md"
PLOTS = ROOT / "docs" / "benchmarks"
RESULTS = ROOT / "bench" / "results"
PACKAGES = (
    "ferrule", "greenlet", "uvloop", "gevent", "trio", "anyio", "aiofiles", "aiohttp", "liburing",
    "scandir-rs",
)  # fmt: skip
BUSY_PERCENT = 10  # from here on, what others do decides more than what is measured
FIELDS_OF_PROC_STAT = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")

Document = dict[str, Any]


# --- where and under what conditions --------------------------------------------------------------


class Weather:
    """What else the machine did meanwhile: a noisy run must look noisy in its own report."""

    def __init__(self) -> None:
        self.begin = self.look()

    @staticmethod
    def look() -> dict[str, float]:
        with open("/proc/stat", encoding="ascii") as file:
            ticks = map(int, file.readline().split()[1:9])
        seconds = dict(zip(FIELDS_OF_PROC_STAT, ticks, strict=True))
        total = {name: count / os.sysconf("SC_CLK_TCK") for name, count in seconds.items()}
        ours = 0.0
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            ours += usage.ru_utime + usage.ru_stime
        return {"all": sum(total.values()), "ours": ours, **total}

    def report(self) -> dict[str, float]:
        """Return percentages of the machine's processor time since the beginning."""
        spent = {name: value - self.begin[name] for name, value in self.look().items()}
        whole = spent["all"] or 1.0
        busy = whole - spent["idle"] - spent["iowait"] - spent["steal"]
        return {
            "benchmark_percent": round(100 * spent["ours"] / whole, 1),
            "others_percent": round(max(0.0, 100 * (busy - spent["ours"]) / whole), 1),
            "stolen_percent": round(100 * spent["steal"] / whole, 1),
        }


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True,
                          check=True).stdout.strip()


def commit() -> str:
    """The commit measured; dirty if anything but what a run itself writes differs from it."""
    try:
        changed = git("status", "--porcelain", "--", ".", ":!bench/results", ":!docs")
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def machine() -> dict[str, Any]:
    return {
        "processor": processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": versions(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


# --- documents ------------------------------------------------------------------------------------


def document(
    benchmark: Benchmark, rows: Sequence[Row], settings: Settings, weather: dict[str, float]
) -> Document:
    """Put everything there is to know about one run of one benchmark into plain data."""
    return {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "measures": benchmark.measures,
        "unit": benchmark.unit,
        "higher_is_better": benchmark.higher_is_better,
        "columns": [vars(column) for column in benchmark.columns],
        "axis": benchmark.axis,
        "places": {case.name: case.options.get("x") for case in benchmark.cases},
        "rounds": settings.rounds,
        "quick": settings.quick,
        "machine": machine(),
        "weather": weather,
        "rows": [
            {
                "case": row.case,
                "peer": row.peer,
                "median": row.median(),
                "columns": {c.key: row.median(c.key) for c in benchmark.columns},
                "note": row.note(),
                "samples": row.samples,
            }
            for row in rows
        ],
        "targets": [verdict(benchmark, target, rows) for target in benchmark.targets],
    }


def save(found: Document, folder: Path) -> None:
    """Write a document, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{found['benchmark']}.json"
    draft = final.with_suffix(".tmp")
    draft.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draft.replace(final)


def load(folder: Path) -> list[Document]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


# --- tables ---------------------------------------------------------------------------------------


def short(value: float | None) -> str:
    """Write a number with three digits that count."""
    if value is None:
        return ""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g} M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g} k"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Make a Markdown table: words to the left, figures to the right."""
    ruler = [
        "---" if n == 0 or h in ("", "note", "required") else "---:" for n, h in enumerate(header)
    ]
    rows = [header, ruler, *([cell.replace("|", "¦") for cell in line] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def is_ours(row: dict[str, Any]) -> bool:
    return row["peer"].lower().startswith("ferrule")


def ratio(found: Document, ours: float | None, theirs: float | None) -> str:
    """Say how many times better ours is."""
    if not ours or not theirs:
        return ""
    times = ours / theirs if found["higher_is_better"] else theirs / ours
    return f"{times:.2f} ×" if times < 100 else f"{times:.0f} ×"


def spread(row: dict[str, Any]) -> str:
    figures = [sample["value"] for sample in row["samples"]]
    return f"{short(min(figures))} – {short(max(figures))}" if figures else ""


def case_table(found: Document, case: str) -> str:
    """Show one case: a line per peer, and how many times better the first Ferrule row is."""
    rows = [row for row in found["rows"] if row["case"] == case]
    subject = next((row for row in rows if is_ours(row)), None)
    ours = subject["median"] if subject else None
    name = subject["peer"] if subject else "Ferrule"
    columns = found["columns"]
    header = [
        case, found["unit"], "spread", f"{name} is",
        *[column["header"] for column in columns], "note",
    ]  # fmt: skip
    lines = []
    for row in rows:
        versus = "" if row is subject else ratio(found, ours, row["median"])
        figures = [
            short(None if (v := row["columns"][c["key"]]) is None else v * c["scale"])
            for c in columns
        ]
        bold = "**" if is_ours(row) else ""
        lines.append(
            [f"{bold}{row['peer']}{bold}", short(row["median"]), spread(row), versus, *figures,
             row["note"]]
        )  # fmt: skip
    return table(header, lines)


def doubt(found: Document) -> str:
    """Say why a run's figures prove nothing, if so."""
    if found["quick"]:
        return "quick run"
    weather = found["weather"]
    busy = weather["others_percent"] + weather["stolen_percent"] > BUSY_PERCENT
    return "busy machine" if busy else ""


def conditions(found: Document) -> str:
    """Say in one line where and under what load the figures were taken."""
    where, weather = found["machine"], found["weather"]
    doubts = doubt(found)
    warning = f"**{doubts.capitalize()}: these figures prove nothing.** " if doubts else ""
    return (
        f"{warning}{found['rounds']} rounds, {where['date']}, commit {where['commit']}, "
        f"{where['python']}, Linux {where['kernel']}, {where['cpus']} × {where['processor']}; "
        f"other programs used {weather['others_percent']:g} % of the machine, "
        f"its host {weather['stolen_percent']:g} %.{distance(found)}"
    )


def distance(found: Document) -> str:
    """Say how far apart the two processors were, where it was looked at."""
    samples = [sample for row in found["rows"] for sample in row["samples"]]
    apart = sorted(sample["apart_ns"] for sample in samples if "apart_ns" in sample)
    if not apart:
        return ""
    return (f" A cache line took {apart[0]:.0f} to {apart[-1]:.0f} ns (median "
            f"{apart[len(apart) // 2]:.0f}) from one processor to the other and back.")  # fmt: skip


def section(found: Document) -> str:
    """Show one benchmark: what it measures, its tables, its conditions."""
    cases = dict.fromkeys(row["case"] for row in found["rows"])
    tables = "\n\n".join(case_table(found, case) for case in cases)
    return f"{found['measures']}\n\n{tables}\n\n{conditions(found)}"


def targets_table(documents: Sequence[Document]) -> str:
    """Show every target: required, reached, passed."""
    words = {True: "pass", False: "**FAIL**", None: "not measured"}
    lines = [
        [
            f"{found['title']}: {target['measure']}",
            target["required"],
            "" if target["reached"] is None else reached(target),
            words[target["pass"]] + (f" ({doubt(found)})" if doubt(found) else ""),
        ]
        for found in documents
        for target in found["targets"]
    ]
    return table(["measure", "required", "reached", ""], lines)


def reached(target: dict[str, Any]) -> str:
    """Write a ratio with two decimals, so that 0.996 is not shown as the 1.0 it misses."""
    value = target["reached"]
    return f"{value:.2f}" if value < 1000 else short(value)


def packages(documents: Sequence[Document]) -> str:
    found: dict[str, str] = {}
    for one in documents:
        found |= one["machine"]["packages"]
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))


# --- the docs -------------------------------------------------------------------------------------


def put_between_markers(text: str, name: str, content: str) -> str:
    """Replace what stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`."""
    opening, closing = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    before, found, rest = text.partition(opening)
    _, closed, after = rest.partition(closing)
    if not found or not closed:
        raise ValueError(f"{DOCS.name} has no place for {name}: {opening} … {closing}")
    return f"{before}{opening}\n{content}\n{closing}{after}"


def refresh_docs(documents: Sequence[Document]) -> None:
    """Bring the tables of docs/BENCHMARKS.md up to the results."""
    text = DOCS.read_text(encoding="utf-8")
    text = put_between_markers(text, "targets", targets_table(documents))
    text = put_between_markers(text, "packages", packages(documents))
    PLOTS.mkdir(exist_ok=True)
    for found in documents:
        name = found["benchmark"]
        (PLOTS / f"{name}.svg").write_text(plot.draw(found, short), encoding="utf-8")
        picture = f"![{found['title']}]({PLOTS.name}/{name}.svg)"
        text = put_between_markers(text, name, f"{section(found)}\n\n{picture}")
    DOCS.write_text(text, encoding="utf-8")
