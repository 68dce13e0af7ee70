"""`ferrule find` against GNU find on trees made to trip walkers, byte for byte."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from find_support import GNU, Finding, needs_gnu
from find_trees import TREES

pytestmark = needs_gnu

EVERYTHING = r"%p|%P|%f|%h|%H|%d|%y|%Y|%l|%s|%b|%m|%n|%i|%u|%g|%T@|%C@\0"
LINES = (
    (),
    ("-print0",),
    ("-depth", "-print0"),
    ("-printf", EVERYTHING),
    ("-mindepth", "1", "-maxdepth", "2", "-print0"),
    ("-type", "d", "-empty", "-print0"),
    ("-name", "*[!a-z]*", "-print0"),
    ("-path", "*/*b*", "-prune", "-o", "-print0"),
    ("-xtype", "l", "-o", "-lname", "*a*", "-print0"),
    ("-regex", r".*/[^/]*[0-9]", "-links", "-3", "-print0"),
    ("-size", "+0", "-o", "-newer", ".", "-print0"),
)


# Not the deep one, where GNU's -L gives up.
@pytest.mark.parametrize("line", LINES, ids=" ".join)
@pytest.mark.parametrize("follow", ["-P", "-H", "-L"])
@pytest.mark.parametrize("name", TREES)
def test_a_command_line_finds_what_gnu_find_finds(
    tops: Callable[[str], Path],
    capfdbinary: pytest.CaptureFixture[bytes],
    name: str,
    follow: str,
    line: tuple[str, ...],
) -> None:
    find = Finding(tops(name), capfdbinary)
    separator = b"\0" if line else b"\n"
    find.same(follow, ".", *line, separator=separator)


@pytest.mark.parametrize("options", [("-j1",), ("-j", "3"), ("--sorted",)], ids=" ".join)
@pytest.mark.parametrize("name", [*TREES, "deep"])
def test_neither_workers_nor_order_change_what_is_found(
    tops: Callable[[str], Path],
    capfdbinary: pytest.CaptureFixture[bytes],
    name: str,
    options: tuple[str, ...],
) -> None:
    find = Finding(tops(name), capfdbinary)
    ours, gnu = find.ours(*options, ".", "-print0"), find.gnu(".", "-print0")
    assert ours.names(b"\0") == gnu.names(b"\0")
    assert (ours.status, ours.err) == (0, b"")


def test_depth_gives_what_is_in_a_directory_before_it(
    tops: Callable[[str], Path], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    paths = Finding(tops("shapes"), capfdbinary).ours(".", "-depth", "-print0").out.split(b"\0")
    seen: set[bytes] = set()
    for path in paths[:-1]:
        assert path.rpartition(b"/")[0] not in seen
        seen.add(path)


FEW_DESCRIPTORS = """
import resource, sys
from ferrule.cli import find
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
sys.exit(find.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("options", [(), ("-j1",), ("-j4",)], ids=" ".join)
@pytest.mark.parametrize("line", [("-print0",), ("-depth", "-print0"), ("-printf", r"%p %s\0")])
@pytest.mark.parametrize("name", ["shapes", "wide", "deep"])
def test_sixteen_descriptors_are_enough(
    tops: Callable[[str], Path], name: str, line: tuple[str, ...], options: tuple[str, ...]
) -> None:
    command = [sys.executable, "-c", FEW_DESCRIPTORS, *options, ".", *line]
    ours = subprocess.run(command, cwd=tops(name), capture_output=True)
    assert (ours.returncode, ours.stderr) == (0, b"")
    assert GNU
    gnu = subprocess.run([GNU, ".", *line], cwd=tops(name), stdout=subprocess.PIPE, check=True)
    assert sorted(ours.stdout.split(b"\0")) == sorted(gnu.stdout.split(b"\0"))
