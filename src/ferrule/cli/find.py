"""``ferrule find``: find's expressions on Ferrule's walker.

  find_expression.py   the command line → a tree for ferrule._core.entry_filter
  find_times.py, find_modes.py, find_mounts.py, find_format.py   its arguments
  find_actions.py      -exec, -delete: what C cannot do
  find_report.py       the progress line, --stat
  find_errors.py       what is told, and how a wrong word is shown

Little is imported at the top here: most runs are over in a moment.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ferrule.cli.find_errors import NAME, FindError, explain, tell

if TYPE_CHECKING:
    from ferrule._core.finder import Finder
    from ferrule.cli.find_actions import Action, Outcome
    from ferrule.cli.find_expression import Command

SPARE_DESCRIPTORS = 16  # that commands and files may need beside the walk's
DESCRIPTORS = 1024      # the most that the walk keeps open


def add_parser(commands: Any) -> None:
    """Register the sub-command for ``ferrule --help``; `main` takes its arguments by itself."""
    commands.add_parser(
        "find", add_help=False, help="find files: find's tests and actions, on several processors"
    )


def main(words: list[str]) -> int:
    """Do what ``ferrule find`` with these arguments does.  Returns the exit status."""
    if words[:1] == ["--help"]:
        from ferrule.cli.find_help import HELP

        print(HELP, end="")
        return 0
    if words[:1] in (["--version"], ["-version"]):
        import ferrule

        print(f"{NAME} {ferrule.__version__}")
        return 0
    try:
        return _find(words)
    except FindError as exc:
        tell(explain(exc, words))
        return 1
    except RecursionError:
        tell("the expression is nested too deeply")
        return 1
    except KeyboardInterrupt:
        return 130


def _find(words: list[str]) -> int:
    from ferrule.cli.find_expression import Parser

    _open_standard_descriptors()
    to_terminal = os.isatty(1)
    command = Parser(words, to_terminal=to_terminal).parse()
    for warning in command.warnings:
        tell(f"warning: {warning}")
    fds = _open_files(command.files)
    try:
        return _walk(command, fds, to_terminal=to_terminal)
    finally:
        for fd in fds:
            if fd > 2:
                os.close(fd)


def _open_standard_descriptors() -> None:
    """What is opened later must not take the number of one that whoever started us has closed."""
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", flags)  # the lowest free number; for 1 writing fails


def _open_files(names: list[str]) -> tuple[int, ...]:
    fds = [1]
    for name in names[1:]:
        if name == "/dev/stderr":
            fds.append(2)
            continue
        try:
            fds.append(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666))
        except OSError as exc:
            from ferrule.cli.find_errors import quote

            raise FindError(f"{quote(name)}: {exc.strerror}") from exc
    return tuple(fds)


def _walk(command: Command, fds: tuple[int, ...], *, to_terminal: bool) -> int:
    from ferrule._core.entry_filter import EntryFilter
    from ferrule._core.finder import Finder
    from ferrule.cli.find_actions import Outcome
    from ferrule.cli.find_report import Report

    outcome = Outcome()
    actions: tuple[Action, ...] = tuple(make(outcome) for make in command.actions)
    report = Report(to_terminal=to_terminal)
    threads = 0 if actions or command.quits else _threads(command)
    _use_local_dates(command.tree)
    finder = Finder(
        command.roots, EntryFilter(command.tree), fds, actions=actions, links=command.links,
        contents_first=command.contents_first, sorted=command.is_sorted,
        one_file_system=command.one_file_system, max_depth=command.max_depth, threads=threads,
        max_fds=_descriptors(), at_once=to_terminal, on_error=_error_teller(command, outcome),
        before_write=report.clear if report.is_shown else None,
        on_turn=report.turn if report.is_shown else None,
    )
    report.finder = finder
    _run(finder, actions, outcome)
    report.clear(0)
    if command.shows_statistics:
        report.print_statistics(max(1, threads))
    return 1 if outcome.failed else 0


def _run(finder: Finder, actions: tuple[Action, ...], outcome: Outcome) -> None:
    try:
        finder.run()
    except OSError as exc:
        # A reader that has left, as head does, is no news.
        outcome.failed = True
        if not isinstance(exc, BrokenPipeError):
            tell(f"{exc.strerror}" if exc.filename is None else f"{exc}")
    finally:
        finder.close()
    for action in actions:
        action.finish()


def _error_teller(command: Command, outcome: Outcome) -> Any:
    import errno

    from ferrule.cli.find_errors import quote

    roots = set(command.roots)

    def on_error(path: bytes, number: int, stage: str) -> None:
        if number == errno.ENOENT and command.ignores_races and path not in roots:
            return
        if number == errno.ELOOP and stage == "open":
            outcome.tell(f"file system loop: {quote(path)} is a directory that it is in")
        else:
            outcome.tell_error(path, number)

    return on_error


def _threads(command: Command) -> int:
    if command.threads is not None:
        return command.threads
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cpus = os.cpu_count() or 1
    return min(cpus, 8)


def _descriptors() -> int:
    limit = os.sysconf("SC_OPEN_MAX")
    return DESCRIPTORS if limit < 0 else max(2, min(limit - SPARE_DESCRIPTORS, DESCRIPTORS))


def _use_local_dates(tree: Any) -> None:
    """Names of days and months as the environment wants them, if a format may show some."""
    if "('format'," in repr(tree):
        import locale

        try:
            locale.setlocale(locale.LC_TIME, "")
        except locale.Error:  # one that is not installed
            pass
