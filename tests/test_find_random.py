"""Random expressions on random trees: `ferrule find` finds what GNU find finds."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from find_support import Finding, grow_tree, needs_gnu

pytestmark = needs_gnu
EXPRESSIONS = int(os.environ.get("FERRULE_FIND_EXPRESSIONS", "60"))

NAMES = ("*", "a*", "*.txt", "?", "[!a]*", ".*", "*[0-9]", "b.c*", "\\**", "*.PY", "é*", "[[]b]*",
         "-name*", "notes.txt", "*\n*", "**", "x y*")
PATHS = ("*", "top/*", "*a*", "*/a*/*", "top", "*.txt", "?op*")
REGEXES = (".*", ".*txt", "top/[^/]*", ".*\\(a\\|b\\).*", "top", ".*[0-9]+", ".*/.?", "\\(top\\).*")
MODES = ("644", "-111", "/222", "-u+s", "/g=x,o+t", "u=rwx,go=rx", "-4000", "/7000", "0", "-g=u")
SIZES = ("0", "-1", "+0", "1", "2", "+1k", "-2k", "511c", "-513c", "+512c", "1M", "-1M", "5b")
AGES = ("0", "1", "-1", "+1", "+0", "-2", "2", "+100", "-0.5", "0.9")
MINUTES = ("0", "-1", "1", "+1", "-60", "60", "61", "+1439", "-1440", "1500")
DATES = ("2026-01-31", "@1000000000", "2030-01-01T10:00:00Z", "2 days ago", "-20 hours")
FORMATS = ("%p\\n", "%f %P %H %d\\n", "%m %M %s %n\\n", "%y%Y %l\\n", "%5d|%-7.3f|\\n",
           "%T@ %Ts %AZ %C+\\n", "%k %b %i %U %G\\n", "\\101%%\\n")


def random_test(chance: random.Random) -> list[str]:
    case = chance.choice(("", "i"))
    return chance.choice([
        [f"-{case}name", chance.choice(NAMES)],
        [f"-{case}path", chance.choice(PATHS)],
        [f"-{case}regex", chance.choice(REGEXES)],
        [f"-{case}lname", chance.choice(NAMES)],
        ["-type", chance.choice("fdlp") + chance.choice(("", ",s", ",b"))],
        ["-xtype", chance.choice("fdlp")],
        ["-perm", chance.choice(MODES)],
        ["-size", chance.choice(SIZES)],
        [chance.choice(("-mtime", "-atime")), chance.choice(AGES)],
        [chance.choice(("-mmin", "-amin")), chance.choice(MINUTES)],
        ["-links", chance.choice(("1", "+1", "-3", "2"))],
        ["-uid", chance.choice(("0", "+0", "-1"))],
        [chance.choice(("-newer", "-anewer", "-cnewer")), "old"],
        [f"-newer{chance.choice('acm')}{chance.choice('acm')}", "top"],
        [f"-newer{chance.choice('acm')}t", chance.choice(DATES)],
        ["-samefile", "top"],
        ["-type", "f", "-used", chance.choice(AGES)],  # reading a directory sets its time of access
        ["-empty"], ["-true"], ["-false"], ["-readable"], ["-writable"], ["-executable"],
        ["-nouser"], ["-prune"],
    ])


def random_action(chance: random.Random) -> list[str]:
    return chance.choice([["-print"], ["-printf", chance.choice(FORMATS)], ["-prune"],
                          ["-exec", "true", "{}", ";"], ["-exec", "test", "-d", "{}", ";"]])


def random_expression(chance: random.Random, depth: int) -> list[str]:
    if depth == 0 or chance.random() < 0.25:
        return random_test(chance) if chance.random() < 0.8 else random_action(chance)
    left, right = random_expression(chance, depth - 1), random_expression(chance, depth - 1)
    shape = chance.choice(("and", "and", "or", "or", "not", "comma", "beside"))
    if shape == "not":
        return [chance.choice(("!", "-not")), "(", *left, ")"]
    if shape == "beside":
        return [*left, *right]
    if shape == "comma":  # GNU find puts cheap tests before others, even here: not before actions
        return ["(", *left, "-printf", ":\\n", ",", *right, "-printf", ";\\n", ")"]
    word = {"and": chance.choice(("-a", "-and")), "or": chance.choice(("-o", "-or"))}[shape]
    return ["(", *left, word, *right, ")"]


def random_options(chance: random.Random) -> tuple[list[str], list[str]]:
    before = chance.choice(([], [], ["-P"], ["-H"], ["-L"]))
    among: list[str] = []
    if chance.random() < 0.3:
        among += ["-maxdepth", chance.choice("0123")]
    if chance.random() < 0.3:
        among += ["-mindepth", chance.choice("012")]
    if chance.random() < 0.2:
        among.append("-depth")
    if chance.random() < 0.2:
        among.append("-daystart")
    if chance.random() < 0.2:
        among += ["-regextype", chance.choice(("posix-basic", "posix-extended", "emacs", "sed"))]
    return before, among


@pytest.mark.parametrize("run", range(3))
def test_random_expressions_find_the_same(tmp_path: Path, capfdbinary: Any, run: int) -> None:
    seed = int(os.environ.get("SEED", random.randrange(1 << 32)))
    chance = random.Random(seed)
    (tmp_path / "top").mkdir()
    (tmp_path / "old").touch()
    grow_tree(tmp_path / "top", chance)
    os.utime(tmp_path / "old", (chance.choice((0, 1e9, 2e9)),) * 2)
    find = Finding(tmp_path, capfdbinary)
    for _ in range(EXPRESSIONS):
        before, among = random_options(chance)
        roots = chance.choice((["top"], ["top"], ["top/"], ["./top"], ["top", "old"]))
        words = [*before, *roots, *among, *random_expression(chance, chance.randrange(4))]
        if chance.random() < 0.5:
            words = [*words, "-printf", "<%p>\\n"]
        ours, gnu = find.ours(*words), find.gnu(*words)
        told = f"SEED={seed}: find {words}\n{ours.err!r}\n{gnu.err!r}"
        assert ours.names() == gnu.names(), told
        assert ours.status == gnu.status, told
