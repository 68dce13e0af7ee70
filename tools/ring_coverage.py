"""Which operations and registrations of io_uring have a tested function, from the tests that ran.

    python tools/ring_coverage.py OUTCOMES [--write]

OUTCOMES is what `pytest --outcomes=OUTCOMES` wrote.  A function counts as tested when a test that
passed calls it by name, itself or through a helper of its module or of ring_support.  Exits 1 when
an opcode, a registration or a prep_ or register_ method has neither such a test nor a reason below,
or when docs/ring/coverage.md lists other functions than there are.
"""

import argparse
import ast
import inspect
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

from ferrule._core import ring as core
from ferrule.ring import Ring

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/ring/coverage.md"
METHOD = re.compile(r"(prep|register|unregister)_\w+")

# Their methods are not Ring's, though some have the same names.
OTHERS = ("ring_completion.pxi", "ring_batch.pxi")

# What has no test, and why.  Keys: IORING_OP_ or IORING_REGISTER_ names.
NOT_TESTED = {
    "IORING_REGISTER_ZCRX_IFQ":
        "not offered: it needs a network card whose driver fills memory of the process, and there "
        "is none here to try it on",
}
# Methods of other names, or of other classes than Ring.
ELSEWHERE = {
    "IORING_REGISTER_ENABLE_RINGS": ["enable_rings"],
    "IORING_REGISTER_PBUF_STATUS": ["BufferRing.head"],
    "IORING_REGISTER_SEND_MSG_RING": ["send_msg_ring"],
    "IORING_REGISTER_QUERY": ["query"],
    "IORING_REGISTER_RESIZE_RINGS": ["resize_rings"],
}


def sources() -> dict[str, str]:
    """The text of each method that prepares or registers, by name."""
    found = {}
    for path in sorted((ROOT / "src/ferrule/_core").rglob("ring*.p[xy]*")):
        if path.suffix == ".pyi" or path.name in OTHERS:
            continue
        parts = re.split(r"(?m)^    (?=(?:cp?def|def) )", path.read_text())
        for part in parts[1:]:
            name = re.match(r"(?:cp?def|def) [^(]*?(\w+)\(", part)
            if name:
                found.setdefault(name[1], part)
    return found


def numbers_of(name: str, texts: dict[str, str], prefix: str) -> set[str]:
    """The URING_OP_ or URING_REGISTER_ names that a method uses, itself or through others."""
    seen, wanted, found = set(), [name], set()
    while wanted:
        text = texts.get(wanted.pop(), "")
        found |= set(re.findall(rf"\bURING_((?:UN)?{prefix}_\w+)", text))
        for other in re.findall(r"\.(\w+)\(", text):
            if other not in seen and (other in texts) and other not in ("register", "begin"):
                seen.add(other)
                wanted.append(other)
    return found


def methods() -> list[str]:
    return sorted(name for name, _ in inspect.getmembers(Ring) if METHOD.fullmatch(name))


def table(names: tuple[tuple[str, str], ...], prefix: str) -> dict[str, tuple[str, list[str]]]:
    """By IORING_ name: since which Linux, and the methods that use it."""
    texts = sources()
    rows = {f"IORING_{name}": (since, []) for name, since in names}
    witnesses = re.compile(r"need\([^)]*\)")
    texts = {name: witnesses.sub("", text) for name, text in texts.items()}
    for method in methods():
        if (prefix == "OP") != method.startswith("prep_"):
            continue
        for used in numbers_of(method, texts, prefix):
            if f"IORING_{used}" in rows:
                rows[f"IORING_{used}"][1].append(method)
    for name, others in ELSEWHERE.items():
        if name in rows:
            rows[name][1].extend(others)
    return rows


class Calls(ast.NodeVisitor):
    """Names of attributes called, functions called, and method names given as strings."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.names.add(node.attr)
        if isinstance(node.value, ast.Name) and node.value.id == "group":
            self.names.add(f"BufferRing.{node.attr}")
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self.names.add(node.id)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and METHOD.fullmatch(node.value):
            self.names.add(node.value)


def called_by(path: Path, shared: dict[str, set[str]]) -> dict[str, set[str]]:
    """By function of a module: every name it uses, also through the module's other functions."""
    direct = dict(shared)
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign):
            calls = Calls()
            calls.visit(node)
            names = ([target.id for target in node.targets if isinstance(target, ast.Name)]
                     if isinstance(node, ast.Assign) else [node.name])
            direct.update((name, calls.names) for name in names)
    full = {}
    for name in direct:
        seen, wanted = set(), [name]
        while wanted:
            for other in direct.get(wanted.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    wanted.append(other)
        full[name] = seen
    return full


def tested(outcomes: dict[str, str]) -> dict[str, dict[str, set[str]]]:
    """By method: the tests that call it and passed, with the ring flags they passed on."""
    support = called_by(ROOT / "tests/ring_support.py", {})
    modules: dict[str, dict[str, set[str]]] = {}
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for nodeid, outcome in outcomes.items():
        file, _, rest = nodeid.partition("::")
        test, _, parameters = rest.partition("[")
        if outcome != "passed" or not Path(file).name.startswith("test_ring"):
            continue
        if file not in modules:
            modules[file] = called_by(ROOT / file, support)
        flags = set(parameters.rstrip("]").split("-")) & {"plain", "coop", "defer", "sqpoll"}
        for name in modules[file].get(test, ()):
            found[name][test] |= flags
    return found


def describe(tests: dict[str, set[str]]) -> str:
    """One test by name, how many others, and over which flags."""
    flags = [flag for flag in ("plain", "coop", "defer", "sqpoll")
             if any(flag in names for names in tests.values())]
    best = max(tests, key=lambda test: (len(tests[test]), -len(test)))
    others = f" and {len(tests) - 1} more" if len(tests) > 1 else ""
    return f"`{best}`{others}" + (f" ({', '.join(flags)})" if flags else "")


def render(title: str, rows: dict[str, tuple[str, list[str]]],
           found: dict[str, dict[str, set[str]]]) -> tuple[list[str], list[str]]:
    lines = [f"## {title}", "", f"{len(rows)} of Linux 6.18.", "",
             "| | since | functions | tested by |", "|---|---|---|---|"]
    missing = []
    for name, (since, names) in rows.items():
        tests: dict[str, set[str]] = {}
        for method in names:
            tests.update(found.get(method, {}))
            if method not in found:
                missing.append(f"{name}: no test that passed calls {method}")
        how = describe(tests) if tests else NOT_TESTED.get(name, "")
        if not how:
            missing.append(f"{name}: no tested function, and no reason why")
        functions = " ".join(f"`{method}`" for method in names) or "none"
        lines.append(f"| {name} | {since} | {functions} | {how} |")
    return lines, missing


def without_tests(page: str) -> list[str]:
    """The columns that do not depend on what this machine could run."""
    return [line.rsplit("|", 2)[0] for line in page.splitlines()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("outcomes", type=Path)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    found = tested(json.loads(options.outcomes.read_text()))
    operations, wanting = render(
        "Operations", table(tuple((f"OP_{n}", s) for n, s in core.OPERATIONS), "OP"), found)
    registrations, more = render(
        "Registrations",
        table(tuple((n, s) for n, s in core.REGISTRATIONS), "REGISTER"), found)
    wanting += more
    wanting += [f"{method} uses no number of the ABI that the tables name" for method in methods()
                if not any(f"`{method}`" in line for line in operations + registrations)]
    text = "\n".join(["# What is tested", "",
                      "Written by `tools/ring_coverage.py --write` from the tests that ran.", "",
                      *operations, "", *registrations, ""])
    if options.write:
        PAGE.write_text(text)
    elif not PAGE.exists() or without_tests(PAGE.read_text()) != without_tests(text):
        wanting.append(f"{PAGE.relative_to(ROOT)} is not of these tests: run this with --write")
    for line in wanting:
        print(line, file=sys.stderr)
    return bool(wanting)


if __name__ == "__main__":
    sys.exit(main())
