"""`ferrule find` does what GNU find does: each test and action on a small tree."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ferrule.cli import find as find_command
from ferrule.cli import find_times
from find_support import GNU, Finding, grow_tree, needs_gnu

pytestmark = needs_gnu
FIND = ("-m", "ferrule", "find")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import random

    root = tmp_path_factory.mktemp("tree")
    (root / "a/b/c").mkdir(parents=True)
    (root / "a/empty").mkdir()
    (root / "a/notes.txt").write_text("hello")
    (root / "a/b/A.PY").write_bytes(b"x" * 5000)
    (root / "a/b/none").touch()
    (root / "a/link").symlink_to("notes.txt")
    (root / "a/dangling").symlink_to("nowhere")
    (root / "a/up").symlink_to("b")
    os.mkfifo(root / "a/fifo")
    os.link(root / "a/notes.txt", root / "a/hard")
    (root / "a/new\nline").touch()
    (root / "a/.hidden").touch()
    (root / "a/run.sh").write_text("#!/bin/sh\n")
    os.chmod(root / "a/run.sh", 0o4755)
    os.chmod(root / "a/b/none", 0o000)
    os.chmod(root / "a/empty", 0o1777)
    os.chown(root / "a/hard", 54321, 54322) if os.geteuid() == 0 else None
    os.utime(root / "a/b/none", (time.time() - 10 * 86400, time.time() - 400 * 86400))
    os.utime(root / "a/.hidden", (time.time(), time.time() + 86400 * 400))
    grow_tree(root / "a/b/c", random.Random(3), 40)
    return root


@pytest.fixture
def find(tree: Path, capfdbinary: Any) -> Finding:
    return Finding(tree, capfdbinary)


CASES = """
a
a -name *.txt
a -name *
a -name .*
a -name a
a/ -name a
a// -name a
. -name .
/ -maxdepth 0 -name /
a -iname *.py
a -iname [N]ot*
a -name [!a]*
a -path a/b/*
a -ipath A/B/*
a -wholename */none
a -iwholename */NONE
a -path *b*c*
a -lname n*
a -ilname NO*
a -regex .*\\.txt
a -regex .*txt
a -regex txt
a -iregex .*/a\\.py
a -regextype posix-extended -regex .*(txt|sh)
a -regextype posix-basic -regex .*\\(txt\\|sh\\)
a -regextype egrep -regex .*/[a-n]+
a -regex .*\\(txt\\|sh\\)
a -regex .*/n.*e
a -type f
a -type d
a -type l
a -type p
a -type f,l
a -type f,d,l,p,s
a -xtype l
a -xtype f
a -xtype d,p
-L a -maxdepth 2 -xtype l
-L a -maxdepth 2 -type l
-H a/link -type f
-H a/up -name *
-P a/up
-H a/up -xtype l
-L a/link -type f
a -empty
a -size 0
a -size 1
a -size -1
a -size +1
a -size 1k
a -size -2k
a -size +4k
a -size 5c
a -size -6c
a -size +4999c
a -size 1M
a -size -1M
a -size 3w
a -size 10b
a -size -1G
a -links 2
a -links +1
a -links -2
a -uid 0
a -uid +100
a -uid -1
a -gid 0
a -gid +54000
a -user root
a -user 54321
a -group root
a -nouser
a -nogroup
a -perm 755
a -perm -755
a -perm /111
a -perm -u+x
a -perm /u+x,g+w
a -perm u=rw,go=r
a -perm -4000
a -perm /6000
a -perm -u+s
a -perm /u=s
a -perm -o+t
a -perm -1000
a -perm 000
a -perm -000
a -perm /000
a -perm a+X
a -perm -a+X
a -perm -g=u
a -perm u=rwx,g=rx,o=u-w
a -perm =
a -perm 0644
a -mtime 0
a -mtime +10
a -mtime -10
a -mtime 400
a -mtime -0
a -mtime +0
a -mtime 0.5
a -mtime -1
a -type f -used 0
a -type f -used 1
a -type f -used +0
a -type f -used -1
a -type f -used +2
a -type f -used -30
a -type f -used 2.5
a -type f -used +0.5
a -atime +5
a -atime -5
a -ctime 0
a -mmin -10
a -mmin +10
a -mmin +1
a -mmin 1
a -amin -5
a -cmin -5
a -cmin 1
a -daystart -mtime 0
a -daystart -mtime -1
a -daystart -mtime +1
a -daystart -mmin -3000
a -mtime 0 -daystart -o -mtime 1
a -newer a/notes.txt
a -newer a/b/none
a -anewer a/notes.txt
a -cnewer a/notes.txt
a -newermm a/notes.txt
a -neweram a/b/none
a -newerca a/b/none
a -newermt 2025-06-01
a -newermt @1000000000
a -newermt 1970-01-01T00:00:00.000000001
a -newermt 2030-01-01T10:00:00
a -samefile a/notes.txt
a -samefile a/link
-L a -maxdepth 1 -samefile a/link
a -readable
a -writable
a -executable
a -true
a -false
a -maxdepth 0
a -maxdepth 1
a -mindepth 1
a -mindepth 2 -maxdepth 2
a -mindepth 3 -name *
a -depth
a -d -name b
a -depth -mindepth 1
a -xdev
a -mount -name b
a -follow -maxdepth 1 -type f
a -noleaf -name b
a -name b -prune
a -name b -prune -o -print
a -name b -prune -o -type f -print
a -depth -name b -prune -o -print
a ( -name b -o -name empty ) -prune -o -print
a -type f -o -type d
a -type f -a -name n*
a -type f -and -name n*
a -not -type f
a ! -type f
a ! ! -type f
a -not ( -type f -o -type d )
a -type f , -type d
a -type f -print , -type d -print
a -name b , -name *.txt
a -type d -name b -print -o -name *.txt -print
a -type f -print -print
a -false -o -name b -print
a ( ( -name b ) )
a -name b -or -name empty
a a/b -maxdepth 1
a/b a/b
a -print
a -printf %p\\n
a -printf %f|%h|%P|%H|%d\\n
a/ a//b/ . -maxdepth 1 -printf %f|%h|%P|%H|%d\\n
a -printf %m|%#m|%5m|%05m|%-6m|%M\\n
a -printf %s|%b|%k|%n|%U|%G|%i|%D\\n
a -printf %u|%g|%10u|%-10g|%.2u\\n
a -printf %y|%Y|%l\\n
-L a -maxdepth 1 -printf %p|%y|%Y|%l\\n
a -printf %t|%T@|%T+|%TY-%Tm-%Td|%TT|%TS|%TX|%Tc|%TH%TM|%Tj|%Ta|%Tb\\n
a -name none -printf %a|%A@|%A+|%Ap|%AI|%Al|%Ak|%AU|%AZ|%Az|%AF|%AD|%Ar|%AR|%As\\n
a -printf %C@|%c\\n
a -printf %10p|%-10f|%.3p|%5d|%-3d|%03d|%+d\\n
a -printf %S\\n
a -printf %%|\\101\\x\\0\\\\\\t\\n
a -printf 100%%\\n
a -printf abc\\cdef
a -printf %F\\n
a -fstype ext4
a -fstype nothing
a -name *.txt -exec echo {} ;
a -name *.txt -exec echo x{}y {} ;
a -name *.txt -exec false ; -print
a -name *.txt -exec true ; -print
a -type f -exec false ; -o -print
a -name notes.txt -exec cat {} ;
a -name *.txt -exec nocommandofthisname {} ;
a -name notes.txt -execdir echo {} ;
a -execdir pwd ;
a -name notes.txt -execdir false ; -o -name b -print
a/ -maxdepth 0 -execdir echo {} ;
a/b/ -maxdepth 0 -execdir echo {} ;
a -name *.txt -quit
a -quit
a -name nothing -quit
a/nothing
a/nothing a/b
a -newer a/nothing
"""


@pytest.mark.parametrize("line", [line for line in CASES.splitlines() if line])
def test_a_command_line_finds_what_gnu_find_finds(find: Finding, line: str) -> None:
    find.same(*[word.replace("\\\\", "\\") for word in line.split(" ")])


def test_paths_with_newlines_are_told_apart_by_print0(find: Finding) -> None:
    found = find.same("a", "-print0", separator=b"\0")
    assert b"a/new\nline" in found.names(b"\0")


def test_ls_lists_what_gnu_find_lists(find: Finding) -> None:
    for words in (["-ls"], ["-type", "f", "-ls", "-o", "-print"]):
        ours, gnu = find.ours("a", *words).names(), find.gnu("a", *words).names()
        # GNU's columns become wider with what was in them.
        assert [line.split() for line in ours] == [line.split() for line in gnu]
    listed = find.ours("a/b", "-maxdepth", "0", "-ls").out
    assert listed == find.gnu("a/b", "-maxdepth", "0", "-ls").out


# No birth times here: few builds of GNU find know them.
@pytest.mark.parametrize("ours", "acm")
@pytest.mark.parametrize("theirs", "acm")
def test_each_time_is_compared_with_each(find: Finding, ours: str, theirs: str) -> None:
    time.sleep(0.02)  # by the kernel's clock after the tree was made
    find.ours("-L", "a")  # whoever is first sets when directories and links were read
    for name in ("a/b/none", "a/.hidden", "a/link", "a/nothing"):
        find.same("a", f"-newer{ours}{theirs}", name)
        find.same("-L", "a", f"-newer{ours}{theirs}", name)


@pytest.mark.parametrize("letter", "@+aAbBcCdDeFgGhHIjklmMnprRsStTuUVwWxXyYzZ")
def test_each_part_of_each_time_is_written_as_by_gnu_find(find: Finding, letter: str) -> None:
    written = "|".join(f"%{time}{letter}|%-30{time}{letter}|%.3{time}{letter}" for time in "ACT")
    find.same("a", "-type", "f", "-printf", f"%p|{written}\\n")


DATES = ("2026-01-31", "2026-01-31 12:30", "2026-01-31T12:00:00+01:00", "20260131", "12:00",
         "@1700000000.5", "3 days ago", "-3 days", "1 hour", "+2 weeks", "2 fortnights ago",
         "90 min ago", "-1 day ago", "now", "today", "yesterday", "tomorrow")


@pytest.mark.parametrize("date", DATES)
def test_a_date_is_what_gnu_find_takes_it_for(tmp_path: Path, capfdbinary: Any, date: str) -> None:
    now = time.time_ns()
    moment = find_times.parse_moment(date, now)
    for name, after in (("before", -90), ("after", 90)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, ns=(moment, moment + after * 10**9))
    found = Finding(tmp_path, capfdbinary).same(".", "-type", "f", "-newermt", date)
    assert found.out.split() == [b"./after"]


def test_the_birth_time_is_compared(find: Finding) -> None:
    assert len(find.ours("a/b", "-maxdepth", "0", "-newerBt", "2020-01-01").out) > 0
    assert len(find.ours("a/b", "-maxdepth", "0", "-newerBt", "2090-01-01").out) == 0


def test_the_birth_time_is_compared_with_each_time_of_a_file(find: Finding) -> None:
    long_ago, years_ahead = "a/b/none", "a/.hidden"  # their times of access and of change
    words = ("a/b", "-maxdepth", "0")
    assert find.ours(*words, "-newerBa", long_ago).out == b"a/b\n"
    assert find.ours(*words, "-newerBm", long_ago).out == b"a/b\n"
    assert find.ours(*words, "-newerBm", years_ahead).out == b""
    assert find.ours(*words, "-newerBc", long_ago).out == b""  # which was set when all was there
    assert find.ours(*words, "-newerBB", "a/b").out == b""


def test_the_parts_of_the_birth_time_are_written(find: Finding) -> None:
    words = ("a/b", "-maxdepth", "0", "-printf")
    (told,) = find.ours(*words, "%B@").out.split()
    born = time.localtime(int(told.split(b".")[0]))
    for letter in "dFHjmpTuYZ":
        written = find.ours(*words, f"%B{letter}").out.decode()
        assert written.startswith(time.strftime(f"%{letter}", born))


def test_a_time_is_compared_with_the_birth_of_a_file(tmp_path: Path, capfd: Any) -> None:
    born = time.time_ns()
    for name, after in (("named", 0), ("before", -10), ("after", 10)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, ns=(born, born + after * 10**9))
    (tmp_path / "link").symlink_to("named")
    os.utime(tmp_path / "named", ns=(0, 0))  # only its birth counts
    for options, named in (([], "named"), (["-L"], "link")):
        words = [*options, str(tmp_path), "-type", "f", "-newermB", str(tmp_path / named)]
        assert find_command.main(words) == 0
        assert [os.path.basename(line) for line in capfd.readouterr().out.split()] == ["after"]


def test_a_file_system_that_tells_no_birth_says_so(capfd: Any) -> None:
    assert find_command.main([".", "-newermB", "/proc/self"]) == 1
    assert "/proc/self" in capfd.readouterr().err


def test_the_exit_status_and_messages_are_those_of_find(find: Finding) -> None:
    ours = find.same("nothing", "a", "-maxdepth", "0")
    gnu = find.gnu("nothing", "a", "-maxdepth", "0")
    assert ours.status == gnu.status == 1
    assert ours.err.decode() == "ferrule " + gnu.err.decode().replace(str(GNU), "find")


@pytest.mark.parametrize(
    "line", ["-L top", "-L top -type l", "top -xtype l", "top -xtype f", "-L top -maxdepth 1 -ls",
             "top -printf %p|%Y\\n", "-H top/itself", "top -type l"],
)
def test_a_link_to_itself_is_an_error_for_who_follows_it(
    tmp_path: Path, capfdbinary: Any, line: str
) -> None:
    (tmp_path / "top/d").mkdir(parents=True)
    (tmp_path / "top/itself").symlink_to("itself")
    (tmp_path / "top/dangling").symlink_to("nowhere")
    find = Finding(tmp_path, capfdbinary)
    ours, gnu = find.ours(*line.split()), find.gnu(*line.split())
    assert [each.split() for each in ours.names()] == [each.split() for each in gnu.names()]
    assert ours.status == gnu.status
    assert ours.err.decode() == "ferrule " + gnu.err.decode().replace(str(GNU), "find") or (
        not gnu.err and not ours.err)


def test_a_loop_that_closes_at_a_directory_is_an_error(tmp_path: Path, capfdbinary: Any) -> None:
    (tmp_path / "top/d/x/y").mkdir(parents=True)
    (tmp_path / "top/enter").symlink_to("d/x")
    (tmp_path / "top/d/x/up").symlink_to("..")
    result = Finding(tmp_path, capfdbinary).same("-L", "top")
    assert result.status == 1
    assert b"top/enter/up/x\n" not in result.out
    assert "file system loop: ‘top/enter/up/x’".encode() in result.err


NOT_READABLE = ("No module named", "can't open", "cannot open shared object file")


def test_an_unreadable_directory_is_told_and_shown(tmp_path: Path) -> None:
    if os.geteuid() == 0 and not Path("/usr/bin/setpriv").exists():
        pytest.skip("root may read everything, and setpriv is not there")
    locked = tmp_path / "locked"
    (locked / "inside").mkdir(parents=True)
    locked.chmod(0)
    for path in (tmp_path, *tmp_path.parents):
        if str(path).startswith("/tmp/") and os.geteuid() == 0:
            path.chmod(0o755)
    locked.chmod(0)
    unprivileged = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    prefix = unprivileged if os.geteuid() == 0 else []
    try:
        for command in (["find"], [sys.executable, "-m", "ferrule", "find"]):
            done = subprocess.run([*prefix, *command, str(tmp_path)], capture_output=True,
                                  text=True, cwd="/")
            if any(words in done.stderr for words in NOT_READABLE):
                pytest.skip("Python or the package cannot be read by others")
            assert done.returncode == 1
            assert done.stdout.splitlines() == [str(tmp_path), str(locked)]
            assert done.stderr.endswith(f"find: ‘{locked}’: Permission denied\n")
    finally:
        locked.chmod(0o755)


def test_many_names_are_given_to_few_commands(find: Finding, tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:0200}").touch()
    log = tmp_path.parent / "log"
    script = f'echo "$#" >> {log}; printf "%s\\n" "$@"'
    result = Finding(tmp_path, find._captured).same(
        ".", "-type", "f", "-exec", "sh", "-c", script, "sh", "{}", "+")
    assert len(result.names()) == 301
    assert sum(map(int, log.read_text().split())) == 600  # ours, and GNU's


def test_names_that_fill_more_than_one_command_are_all_given(tmp_path: Path,
                                                              capfdbinary: Any) -> None:
    for number in range(1000):
        (tmp_path / f"{number:0200}").touch()
    done = Finding(tmp_path, capfdbinary).ours(".", "-type", "f", "-exec", "sh", "-c", "echo $#",
                                               "sh", "{}", "+")
    counts = [int(line) for line in done.out.split()]
    assert sum(counts) == 1000
    assert len(counts) == 2


def test_a_command_with_plus_that_fails_makes_the_status_1(find: Finding) -> None:
    assert find.same("a", "-exec", "false", "{}", "+").status == 1
    assert find.same("a", "-exec", "true", "{}", "+").status == 0
    assert find.same("a", "-exec", "false", ";").status == 0


def test_execdir_with_plus_runs_in_each_directory(find: Finding) -> None:
    script = 'for name; do printf "%s: %s\\n" "${PWD##*/}" "$name"; done'
    words = ["a", "-type", "d", "-execdir", "sh", "-c", script, "sh", "{}", "+"]
    assert len(find.same(*words).names()) > 5


def test_execdir_is_refused_with_a_relative_directory_in_path(
    find: Finding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"] + ":bin")
    result = find.ours("a", "-execdir", "true", ";")
    assert result.status == 1
    assert b"PATH has a relative directory: bin" in result.err


def test_what_was_printed_comes_before_what_a_command_prints(find: Finding) -> None:
    done = find.ours("a/notes.txt", "-print", "-exec", "echo", "command", ";", "-print")
    assert done.out == b"a/notes.txt\ncommand\na/notes.txt\n"


@pytest.mark.parametrize(("answer", "expected"), [("y\n", b"ran\n"), ("n\n", b""), ("", b"")])
def test_ok_asks_before_it_runs(tree: Path, answer: str, expected: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ferrule", "find", "a/notes.txt", "-ok", "echo", "ran", ";"],
        cwd=tree, input=answer.encode(), capture_output=True, timeout=60)
    assert done.stdout == expected
    assert done.stderr == b"< echo ran > ? "


def test_delete_removes_a_tree_from_its_leaves(tmp_path: Path, capfdbinary: Any) -> None:
    (tmp_path / "x/y/z").mkdir(parents=True)
    (tmp_path / "x/y/f").touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").touch()
    (tmp_path / "x/out").symlink_to(tmp_path / "outside")
    find = Finding(tmp_path, capfdbinary)
    result = find.ours("x", "-print", "-delete")
    assert result.status == 0
    assert result.out.split()[-1] == b"x"
    assert not (tmp_path / "x").exists()
    assert (tmp_path / "outside/kept").exists()


def test_delete_that_fails_is_told_and_the_rest_goes_on(tmp_path: Path, capfdbinary: Any) -> None:
    (tmp_path / "x/full").mkdir(parents=True)
    (tmp_path / "x/full/kept").touch()
    (tmp_path / "x/other").touch()
    result = Finding(tmp_path, capfdbinary).ours("x", "!", "-name", "kept", "-delete")
    assert result.status == 1
    assert "cannot delete ‘x/full’: Directory not empty".encode() in result.err
    assert sorted(os.listdir(tmp_path / "x")) == ["full"]


def test_delete_leaves_the_directory_that_it_is_called_in(tmp_path: Path, capfdbinary: Any) -> None:
    (tmp_path / "f").touch()
    assert Finding(tmp_path, capfdbinary).ours(".", "-delete").status == 0
    assert list(tmp_path.iterdir()) == []


def test_delete_in_a_deep_tree_needs_few_descriptors(tmp_path: Path) -> None:
    script = (
        "import os, resource, sys\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "os.mkdir('x')\n"
        "fd = os.open('x', os.O_RDONLY)\n"
        "for _ in range(300):\n"
        "    os.mkdir('d' * 50, dir_fd=fd); os.mkdir('e', dir_fd=fd)\n"
        "    inner = os.open('d' * 50, os.O_RDONLY, dir_fd=fd); os.close(fd); fd = inner\n"
        "os.close(fd)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))\n"
        "from ferrule.cli import find\n"
        "sys.exit(find.main(['x', '-delete']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_files_are_written_to(find: Finding, tmp_path: Path) -> None:
    for which, run in (("ours", find.ours), ("gnu", find.gnu)):
        to = [str(tmp_path / f"{which}{i}") for i in range(4)]
        run("a", "-fprint", to[0], "-fprint0", to[1], "-fprintf", to[2], "%p %m\\n", "-name", "b*",
            "-fls", to[3])
    for i in range(4):
        ours, gnu = ((tmp_path / f"{which}{i}").read_bytes() for which in ("ours", "gnu"))
        separator = b"\0" if i == 1 else b"\n"
        assert sorted(ours.split(separator)) == sorted(gnu.split(separator))
        assert ours


def test_roots_come_from_a_file(find: Finding, tmp_path: Path) -> None:
    (tmp_path / "roots").write_bytes(b"a/b\0a/empty\0a/new\nline\0")
    find.same("-files0-from", str(tmp_path / "roots"), "-maxdepth", "0")


def test_outer_directories_come_first(find: Finding) -> None:
    depths = [line.count(b"/") for line in find.ours("a", "-printf", "%p\\0").out.split(b"\0")[:-1]]
    assert depths == sorted(depths)


def test_sorted_is_by_name(find: Finding) -> None:
    names = find.ours("--sorted", "a", "-maxdepth", "1", "-mindepth", "1", "-print0").out
    assert names.split(b"\0") == [*sorted(names.split(b"\0")[:-1]), b""]


def test_json_has_a_line_for_each_entry(find: Finding, tree: Path) -> None:
    lines = [json.loads(line) for line in find.ours("a", "--json").out.splitlines()]
    paths = find.gnu("a", "-print0").names(b"\0")[1:]
    assert sorted(os.fsencode(line["path"]) for line in lines) == paths
    for line in lines:
        facts = os.lstat(tree / line["path"])
        assert (line["size"], line["mtime_ns"], line["inode"]) == (
            facts.st_size, facts.st_mtime_ns, facts.st_ino)
        assert line["mode"] == facts.st_mode & 0o7777
    [link] = [line for line in lines if line["path"] == "a/link"]
    assert (link["type"], link["target"], link["depth"]) == ("link", "notes.txt", 1)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_workers_finds_the_same(find: Finding, workers: int) -> None:
    assert find.ours(f"-j{workers}", "a").names() == find.gnu("a").names()


def test_statistics_are_told_at_the_end(find: Finding) -> None:
    result = find.ours("a/b", "-maxdepth", "0", "--stat")
    assert b"entries in " in result.err
    assert result.out == b"a/b\n"


def test_colours_are_those_of_the_environment(
    find: Finding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LS_COLORS", "di=1:*.txt=2;3:ln=4:ex=5:or=6:bad=x\033")
    lines = find.ours("a", "-color", "-maxdepth", "1").out.splitlines()
    assert b"\033[1ma\033[0m" in lines
    assert b"\033[1ma/\033[0m\033[2;3mnotes.txt\033[0m" in lines
    assert b"\033[1ma/\033[0m\033[4mlink\033[0m" in lines
    assert b"\033[1ma/\033[0m\033[5mrun.sh\033[0m" in lines
    assert b"\033[1ma/\033[0m\033[6mdangling\033[0m" in lines
    assert b"\033[1ma/\033[0m.hidden" in lines


def test_a_terminal_is_not_upset_by_names(tree: Path) -> None:
    seen = run_in_terminal(tree, "a", "-name", "new*")
    assert b"new?line" in seen
    assert b"\033[" not in run_in_terminal(tree, "a", "-nocolor", "-name", "b")


def test_a_closed_output_is_an_error_and_no_file_takes_its_place(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m ferrule find . -print -fprint file >&-", shell=True, cwd=tmp_path,
        capture_output=True, text=True, timeout=60)
    assert done.stderr == "ferrule find: Bad file descriptor\n"
    assert done.returncode == 1
    assert (tmp_path / "file").read_bytes().count(b".\n") <= 1


def test_a_walk_that_takes_long_tells_how_far_it_is(tree: Path) -> None:
    script = ("import sys; from ferrule.cli import find, find_report\n"
              "find_report.FIRST_AFTER = find_report.EVERY = 0.0\n"
              "sys.exit(find.main(sys.argv[1:]))")
    seen = run_in_terminal(tree, "a", "-name", "run.sh", program=["-c", script], errors_too=True)
    assert b" directories read, " in seen
    assert b"\r\033[K" in seen
    assert seen.endswith((b"run.sh\033[0m\r\n", b"\033[K"))


def run_in_terminal(directory: Path, *words: str, program: Sequence[str] = FIND,
                    errors_too: bool = False) -> bytes:
    import pty

    ours, theirs = pty.openpty()
    child = subprocess.Popen([sys.executable, *program, *words], cwd=directory, stdout=theirs,
                             stderr=theirs if errors_too else None,
                             env={**os.environ, "TERM": "xterm", "NO_COLOR": ""})
    os.close(theirs)
    seen = b""
    try:
        while data := os.read(ours, 65536):
            seen += data
    except OSError:  # how a terminal ends
        pass
    os.close(ours)
    assert child.wait(timeout=60) == 0
    return seen


def test_a_reader_that_leaves_ends_the_walk_in_silence() -> None:
    done = subprocess.run(
        f"{sys.executable} -m ferrule find /usr | head -n 1", shell=True, capture_output=True,
        timeout=60)
    assert (done.stdout, done.stderr) == (b"/usr\n", b"")


def test_an_interrupted_walk_ends_with_status_130() -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "ferrule", "find", "/proc", "-name", "begun", "-o", "-exec", "sleep",
         "60", ";"], stderr=subprocess.PIPE, start_new_session=True)
    try:
        time.sleep(1.5)
        os.killpg(child.pid, signal.SIGINT)
        _, told = child.communicate(timeout=60)
    finally:
        child.kill()
    assert (child.returncode, told) == (130, b"")


def test_both_entries_of_the_package_work(tree: Path) -> None:
    script = str(Path(sys.executable).parent / "ferrule")
    for command in ([sys.executable, "-m", "ferrule"], [script]):
        done = subprocess.run([*command, "find", "a/b", "-maxdepth", "0"], cwd=tree,
                              capture_output=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"a/b\n", b"")
