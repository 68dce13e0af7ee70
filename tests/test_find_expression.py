"""The command line of `ferrule find`: what is understood, and what is said of the rest."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import Any

import pytest

from ferrule.cli import find_expression, find_format, find_modes, find_times
from ferrule.cli.find_errors import FindError, explain
from ferrule.cli.find_expression import Parser
from find_support import Finding

PRINT = ("print", 0, 10)
MANUAL = Path(__file__).parent.parent / "docs" / "find.md"


def tree_of(*words: str) -> Any:
    return Parser([*words]).parse().tree


def refusal(*words: str) -> str:
    with pytest.raises(FindError) as caught:
        Parser([*words]).parse()
    return explain(caught.value, list(words))


def test_without_words_everything_here_is_printed() -> None:
    command = Parser([]).parse()
    assert command.roots == [b"."]
    assert command.tree == ("and", True, PRINT)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-true", True),
        ("-true -false", ("and", True, False)),
        ("-true -a -false", ("and", True, False)),
        ("-true -o -false", ("or", True, False)),
        ("-true -o -false -true", ("or", True, ("and", False, True))),
        ("-true -false -o -true", ("or", ("and", True, False), True)),
        ("-true , -false -o -true", ("comma", True, ("or", False, True))),
        ("! -true -false", ("and", ("not", True), False)),
        ("! ! -true", True),
        ("-not ! -not -true", ("not", True)),
        ("( -true -o -false ) -true", ("and", ("or", True, False), True)),
        ("! ( -true , -false )", ("not", ("comma", True, False))),
    ],
)
def test_operators_bind_as_in_find(line: str, expected: Any) -> None:
    assert tree_of("(", *line.split(), ")") == ("and", expected, PRINT)


def test_an_action_replaces_the_default_one() -> None:
    assert tree_of("-name", "a", "-print0") == ("and", ("name", b"a", False), ("print", 0, 0))
    assert tree_of("-name", "a", "-prune")[-1] == PRINT
    assert tree_of("-quit") == ("and", ("quit",), PRINT)


def test_options_stand_before_paths_and_some_anywhere() -> None:
    words = ["-L", "-j3", "a", "b", "-name", "x", "--json", "-o", "--stat", "-true"]
    command = Parser(words).parse()
    assert command.links == "L"
    assert command.threads == 3
    assert command.roots == [b"a", b"b"]
    assert command.is_json
    assert command.shows_statistics
    assert command.tree[1] == ("or", ("name", b"x", False), True)
    assert Parser(["-H", "-P", "-O3", "--", "a"]).parse().links == "P"
    assert Parser(["-j", "2", "a"]).parse().threads == 2


def test_depths_and_file_systems() -> None:
    command = Parser(["a", "-maxdepth", "3", "-mindepth", "1", "-depth", "-xdev"]).parse()
    assert (command.max_depth, command.contents_first, command.one_file_system) == (3, True, True)
    assert command.tree[:2] == ("or", ("depth", "<", 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", ("size", "=", 1, 512)), ("+1k", ("size", ">", 1, 1024)),
        ("-3M", ("size", "<", 3, 1 << 20)), ("7c", ("size", "=", 7, 1)),
        ("2w", ("size", "=", 2, 2)), ("2b", ("size", "=", 2, 512)),
        ("1G", ("size", "=", 1, 1 << 30)),
    ],
)
def test_sizes_have_units(text: str, expected: Any) -> None:
    assert tree_of("-size", text)[1] == expected


@pytest.mark.parametrize(
    ("words", "message", "underlined"),
    [
        ("a -nmae x", "unknown test or action ‘-nmae’; did you mean -name?", "-nmae"),
        ("a -exce x ;", "unknown test or action ‘-exce’; did you mean -exec?", "-exce"),
        ("a -newermm", "-newermm needs an argument", "-newermm"),
        ("a --jsn", "did you mean --json?", "--jsn"),
        ("a -context x", "there is no -context here: SELinux is not asked", "-context"),
        ("-D tree a", "there is no -D here: how an expression is carried out is not told", "-D"),
        ("a -help", "say ferrule find --help", "-help"),
        ("a -E -regex x", "say -regextype posix-extended", "-E"),
        ("a -limit 3", "say -print | head -n N", "-limit"),
        ("a -printf %Z", "there is no %Z here: SELinux is not asked", "%Z"),
        ("a -newertm b", "-newerXY takes a, B, c or m for X", "-newertm"),
        ("a -xyzzyx", "unknown test or action ‘-xyzzyx’", "-xyzzyx"),
        ("a -name", "-name needs an argument", "-name"),
        ("a -fprintf x", "-fprintf needs 2 arguments", "-fprintf"),
        ("a -name x b", "paths must come before the expression: ‘b’", "b"),
        ("a ( -name x", "a parenthesis that is not closed", r"\("),
        ("a -name x )", "a parenthesis that was not opened", r"\)"),
        ("a ( )", "empty parentheses", r"\( \)"),
        ("a -o -name x", "-o has nothing before it", "-o"),
        ("a -name x -o", "something must follow -o", "-o"),
        ("a -name x -a", "something must follow -a", "-a"),
        ("a !", "something must follow !", r"\!"),
        ("a -name x , ", "something must follow ,", ","),
        ("a -type x", "-type: types are letters of bcdpfls", "x"),
        ("a -type f,f", "a type twice", "f,f"),
        ("a -type fd", "with commas between", "fd"),
        ("a -size 1x", "‘1x’ is not a size", "1x"),
        ("a -size +", "‘+’ is not a size", "+"),
        ("a -size k", "‘’ is not a size", "k"),
        ("a -mtime x", "‘x’ is not a number", "x"),
        ("a -mtime +-1", "‘+-1’ is not a number", "+-1"),
        ("a -links 1.5", "‘1.5’ is not a whole number", "1.5"),
        ("a -maxdepth -1", "a depth is a whole number, not ‘-1’", "-1"),
        ("a -maxdepth x", "a depth is a whole number, not ‘x’", "x"),
        ("a -perm 888", "no permission", "888"),
        ("a -perm 17777", "permissions go to 7777", "17777"),
        ("a -perm u+q", "no permission: 'q'", "u+q"),
        ("a -perm -", "no permissions: ''", "-"),
        ("a -user nobodyofthisname", "not the name of a known user", "nobodyofthisname"),
        ("a -group nogroupofthisname", "not the name of a known group", "nogroupofthisname"),
        ("a -newer /nothing/here", "‘/nothing/here’: No such file or directory",
         "-newer /nothing/here"),
        ("a -newermt tomorrowish", "no time that is understood: ‘tomorrowish’", "tomorrowish"),
        ("a -newerxy z", "-newerXY takes a, B, c or m for X", "-newerxy"),
        ("a -regex \\(", "-regex: Unmatched ( or \\(", "'\\('"),
        ("a -regextype perl", "-regextype: unknown type ‘perl’; known are findutils-default",
         "perl"),
        ("a -exec true", "-exec needs a ; at its end", "-exec true"),
        ("a -exec ;", "-exec needs a command", r"-exec \;"),
        ("a -exec {} +", "-exec needs a command", "-exec {} +".replace("{}", "'{}'")),
        ("a -exec x {} {} +", "takes one {}", "-exec x '{}' '{}' +"),
        ("a -ok x {} +", "-ok needs a ; at its end", "-ok x '{}' +"),
        ("a -printf %", "-printf: % at the end of the format", "%"),
        ("a -printf %A", "-printf: %A needs a letter behind it", "%A"),
        ("a -printf %9999p", "goes to 300", "%9999p"),
        ("-j a", "-j needs a number of workers", "a"),
        ("-j0 a", "-j needs a number of workers", "-j0"),
        ("-j", "-j needs a number of workers", "-j"),
        ("a -prune -delete", "-prune does nothing", "-delete"),
    ],
)
def test_what_is_wrong_is_said_and_underlined(words: str, message: str, underlined: str) -> None:
    told = refusal(*words.split())
    first, command, marks = told.split("\n")
    assert message in first
    begin = marks.index("^")
    assert command[begin : begin + marks.count("^")] == underlined
    assert len(marks) == begin + marks.count("^")


def test_the_manual_names_every_test_and_action() -> None:
    manual = MANUAL.read_text()
    assert [word for word in find_expression._PRIMARIES if f"`{word}" not in manual] == []


def test_the_examples_of_the_manual_are_understood() -> None:
    manual = MANUAL.read_text().split("\n")
    lines = [line for line in manual if line.startswith("    ferrule find ")]
    examples = [shlex.split(line, comments=True) for line in lines if " [path" not in line]
    assert len(examples) > 8
    for words in examples:
        end = words.index("|") if "|" in words else None
        assert Parser(words[2:end]).parse().warnings == []


def test_a_long_command_is_shown_around_what_is_wrong() -> None:
    told = refusal("a", *["-name", "x"] * 50, "-nmae", "x")
    command, marks = told.split("\n")[1:]
    assert len(command) < 120
    assert command[marks.index("^") :].startswith("-nmae")


def test_an_empty_path_is_refused() -> None:
    assert "an empty path names nothing" in refusal("")


def test_a_command_line_that_is_wrong_ends_with_status_1(tmp_path: Any, capfdbinary: Any) -> None:
    result = Finding(tmp_path, capfdbinary).ours("-bad")
    assert (result.status, result.out) == (1, b"")
    assert result.err.startswith("ferrule find: unknown test or action ‘-bad’".encode())


def test_parentheses_too_deep_for_the_stack_are_refused(tmp_path: Any, capfdbinary: Any) -> None:
    words = ["(", "!"] * 20_000 + ["-true"] + [")"] * 20_000
    result = Finding(tmp_path, capfdbinary).ours(*words)
    assert result.status == 1
    assert result.err == b"ferrule find: the expression is nested too deeply\n"


def test_a_name_with_a_slash_deserves_a_warning() -> None:
    assert "did you mean -path?" in Parser(["-name", "a/b"]).parse().warnings[0]
    assert "did you mean -ipath?" in Parser(["-iname", "a/b"]).parse().warnings[0]
    assert Parser(["-nowarn", "-name", "a/b"]).parse().warnings == []
    assert Parser(["-name", "/"]).parse().warnings == []


@pytest.mark.parametrize("text", ["%q", "\\q", "a\\"])
def test_what_a_format_does_not_know_is_warned_of(text: str) -> None:
    assert "stands for itself" in Parser(["-printf", text]).parse().warnings[0]


def test_formats_become_pieces() -> None:
    parsed = find_format.Format("a%%\\n%-10.3f%Tk\\c%p", b"", safe=False)
    assert parsed.pieces == [
        b"a%\n", ("f", {"left": True, "width": 10, "precision": 3, "safe": False}),
        ("T", {"field": "m", "how": "k"}),
    ]
    assert not parsed.warnings


@pytest.mark.parametrize(
    ("text", "files", "directories"),
    [
        ("644", 0o644, 0o644), ("u+x", 0o100, 0o100), ("a=r", 0o444, 0o444), ("+X", 0, 0o111),
        ("u+x,a+X", 0o111, 0o111), ("u=rw,g=u,o=", 0o660, 0o660), ("+t", 0o1000, 0o1000),
        ("ug+s", 0o6000, 0o6000), ("a=rwx,o-w+t", 0o1775, 0o1775), ("=", 0, 0),
    ],
)
def test_modes(text: str, files: int, directories: int) -> None:
    assert find_modes.parse_mode(text) == (files, directories)


@pytest.mark.parametrize("text", ["", "u", "u+z", "9", "u+x,", "x+u", ",", "rw"])
def test_modes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        find_modes.parse_mode(text)


def test_moments() -> None:
    now = time.time_ns()
    parse = find_times.parse_moment
    assert parse("now", now) == now
    assert parse("@1.5", now) == 1_500_000_000
    assert parse("@-1", now) == -1_000_000_000
    assert parse("2 days ago", now) == now - 2 * 86_400_000_000_000
    assert parse("yesterday", now) == now - 86_400_000_000_000
    assert parse("tomorrow", now) == now + 86_400_000_000_000
    assert parse("-2 days", now) == now - 2 * 86_400_000_000_000
    assert parse("+1 hour", now) == now + 3600 * 1_000_000_000
    assert parse("-1 hours ago", now) == now + 3600 * 1_000_000_000
    midnight = parse(time.strftime("%Y-%m-%d", time.localtime(now // 1_000_000_000)), now)
    assert parse("00:00", now) == midnight
    assert parse("00:00:07.25", now) == midnight + 7_250_000_000
    assert parse("1970-01-01T00:00:00.1234567899Z", now) == 123_456_789
    assert parse("1970-01-02T00:00:00Z", now) == 86_400_000_000_000
    assert parse("1970-01-01 01:00:00.5+01:00", now) == 500_000_000
    local = time.mktime((2026, 1, 31, 0, 0, 0, 0, 0, -1))
    assert parse("2026-01-31", now) == int(local) * 1_000_000_000
    for text in ("", "@", "@x", "x days ago", "3 moons ago", "31.1.2026", "3 days from",
                 "25:00"):
        with pytest.raises(ValueError):
            parse(text, now)


def test_days_are_counted_from_now_or_from_midnight() -> None:
    clock = find_times.Clock(10 * find_times.DAY + 5 * find_times.SECOND)
    day, second = find_times.DAY, find_times.SECOND
    assert clock.days("m", "=", 1) == ("time", "m", "=", 8 * day + 5 * second, day)
    assert clock.days("m", ">", 1) == ("time", "m", "<", 8 * day + 5 * second)
    assert clock.days("a", "<", 1) == ("time", "a", ">", 9 * day + 4 * second)
    assert clock.minutes("c", "<", 2) == ("time", "c", ">", 10 * day - 115 * second)
    clock.start_at_midnight()
    local = time.localtime(clock.now // second)
    midnight = clock.now // second - local.tm_hour * 3600 - local.tm_min * 60 - local.tm_sec
    assert clock.days("m", "=", 0) == ("time", "m", "=", midnight * second, day)


def test_colours_that_are_no_codes_never_reach_the_terminal() -> None:
    parsed = find_format.parse_colours("di=1;34:*.x=0:ln=\033]0;x\a:x=1:fi=:no equals")
    assert parsed == [(b"di", b"1;34"), (b"*.x", b"0"), (b"fi", b"")]
    assert find_format.parse_colours(None) != []


def test_a_file_to_write_to_that_cannot_be_opened_is_told(tmp_path: Any, capfdbinary: Any) -> None:
    result = Finding(tmp_path, capfdbinary).ours("-fprint", "no/where")
    assert result.status == 1
    assert "‘no/where’: No such file or directory".encode() in result.err


def test_a_file_is_opened_once_however_often_it_is_named() -> None:
    words = ["-fprint", "x", "-fprint0", "y", "-fprint", "x", "-fprint", "/dev/stdout"]
    command = Parser(words).parse()
    assert command.files == ["", "x", "y"]
    assert not os.path.exists("x")
