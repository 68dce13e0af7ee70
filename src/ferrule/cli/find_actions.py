"""The actions of `ferrule find` that C cannot do: -delete, and -exec with its kin.

Each is called with the entry (`Visited`) and returns whether it was true; `finish` does what is
left to do at the end.  What goes wrong is told, and makes the exit status 1.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from ferrule.cli.find_errors import quote, tell, tell_error

if TYPE_CHECKING:
    from ferrule._core.finder import Visited

ARGUMENTS_LIMIT = 128 * 1024  # bytes of one command's arguments with +
_ARGUMENT_COST = 9  # bytes of an argument beside its own: the zero byte, the pointer


class Outcome:
    """Whether anything went wrong in the whole run."""

    def __init__(self) -> None:
        self.failed = False

    def tell(self, message: str) -> None:
        """Say it, and remember."""
        self.failed = True
        tell(message)

    def tell_error(self, path: bytes | str, number: int) -> None:
        """The same for what went wrong with a file."""
        self.failed = True
        tell_error(path, number)


class Action:
    """An action called for entries in their order."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def __call__(self, entry: Visited) -> bool:
        """Do it.  Returns whether it is true of the entry."""
        raise NotImplementedError

    def finish(self) -> None:
        """Do what was put off to the end."""


class Delete(Action):
    """-delete: relative to the directory's descriptor, so no link on the way can lead elsewhere."""

    def __call__(self, entry: Visited) -> bool:
        """Remove the entry; "." stays, as it cannot be removed."""
        path = entry.path
        if path.rstrip(b"/").rpartition(b"/")[2] in (b".", b""):
            return True
        try:
            directory, name = entry.at
            _remove(directory, name, is_directory=entry.is_directory)
        except OSError as exc:
            self.outcome.tell(f"cannot delete {quote(path)}: {exc.strerror}")
            return False
        return True


def _remove(directory: int | None, name: bytes, *, is_directory: bool) -> None:
    try:
        (os.rmdir if is_directory else os.unlink)(name, dir_fd=directory)
    except NotADirectoryError:  # a link to a directory, which the walk followed
        os.unlink(name, dir_fd=directory)


class Commands(Action):
    """What -exec, -execdir, -ok and -okdir have in common."""

    def __init__(
        self, outcome: Outcome, words: list[str], *, in_directory: bool, asks: bool = False
    ) -> None:
        super().__init__(outcome)
        self.words = [os.fsencode(word) for word in words]
        self.in_directory = in_directory
        self.asks = asks

    def run(self, words: list[bytes], directory: int | None) -> bool:
        """Run a command, in a directory if one is given, and wait.  Whether it succeeded."""
        try:
            status = _run_in(directory, words, without_input=self.asks)
        except OSError as exc:
            tell_error(words[0], exc.errno or errno.EINVAL)
            return False
        return status == 0


def _run_in(directory: int | None, words: list[bytes], *, without_input: bool) -> int:
    if directory is None:
        return _run(words, without_input=without_input)
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        os.fchdir(directory)
        try:
            return _run(words, without_input=without_input)
        finally:
            os.fchdir(here)
    finally:
        os.close(here)


def _run(words: list[bytes], *, without_input: bool) -> int:
    import signal

    no_input = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)] if without_input else []
    ignored = [signal.SIGPIPE, signal.SIGXFSZ]  # by Python; a command expects the defaults
    pid = os.posix_spawnp(
        words[0], words, os.environb, file_actions=no_input, setsigdef=ignored
    )
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _base(path: bytes) -> bytes:
    """How a command that runs in the entry's directory is told of it."""
    name = path.rstrip(b"/").rpartition(b"/")[2]
    return b"./" + name + b"/" * path.endswith(b"/") if name else b"/"


class _Place:
    """A descriptor of the directory that an entry is in."""

    def __init__(self, entry: Visited) -> None:
        directory, name = entry.at
        above = name.rstrip(b"/").rpartition(b"/")  # of a root `at` is a path
        where = above[0] + above[1] or b"."
        self.fd = os.open(where, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)

    def close(self) -> None:
        os.close(self.fd)


class ExecEach(Commands):
    """-exec … ; and its kin: the exit status of the command is the truth."""

    def __call__(self, entry: Visited) -> bool:
        """Run the command for the entry."""
        name = _base(entry.path) if self.in_directory else entry.path
        words = [word.replace(b"{}", name) for word in self.words]
        if self.asks and not self._ask(entry.path):
            return False
        if not self.in_directory:
            return self.run(words, None)
        try:
            place = _Place(entry)
        except OSError as exc:
            self.outcome.tell_error(entry.path, exc.errno or errno.EINVAL)
            return False
        try:
            return self.run(words, place.fd)
        finally:
            place.close()

    def _ask(self, path: bytes) -> bool:
        import sys

        command = " ".join(os.fsdecode(word) for word in self.words)
        shown = f"< {command.replace('{}', quote(path)[1:-1])} > ? "
        os.write(2, shown.encode("utf-8", "backslashreplace"))
        return sys.stdin.readline()[:1] in ("y", "Y")


class ExecMany(Commands):
    """-exec … {} + and -execdir … {} +: always true; the commands come when there is enough."""

    def __init__(self, outcome: Outcome, words: list[str], *, in_directory: bool) -> None:
        super().__init__(outcome, words[:-1], in_directory=in_directory)
        self._room = ARGUMENTS_LIMIT - sum(len(word) + _ARGUMENT_COST for word in self.words)
        self._names: list[bytes] = []
        self._bytes = 0
        self._place: _Place | None = None
        self._where = b""

    def __call__(self, entry: Visited) -> bool:
        """Remember the entry, and run what has come together if there is enough."""
        path = entry.path
        name = _base(path) if self.in_directory else path
        cost = len(name) + _ARGUMENT_COST
        where = path.rstrip(b"/").rpartition(b"/")[0] if self.in_directory else b""
        if self._names and (self._bytes + cost > self._room or where != self._where):
            self.finish()
        if self.in_directory and self._place is None:
            try:
                self._place = _Place(entry)
            except OSError as exc:
                self.outcome.tell_error(path, exc.errno or errno.EINVAL)
                return True
            self._where = where
        self._names.append(name)
        self._bytes += cost
        return True

    def finish(self) -> None:
        """Run the command for what has come together."""
        place, names = self._place, self._names
        self._place, self._names, self._bytes = None, [], 0
        try:
            if names and not self.run([*self.words, *names], place.fd if place else None):
                self.outcome.failed = True
        finally:
            if place:
                place.close()


def unsafe_path_part() -> str | None:
    """What in PATH makes -execdir dangerous: a part that is relative to the directory."""
    for part in os.environ.get("PATH", "").split(":"):
        if not part.startswith("/"):
            return part or "an empty part"
    return None
