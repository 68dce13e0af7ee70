"""The command line of `ferrule find`: from words to the tree that a filter is compiled from.

Every primary has a method here, and a row in _PRIMARIES that says how many arguments it takes.  The
tree is that of ferrule._core.entry_filter.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ferrule.cli.find_errors import FindError, quote
from ferrule.cli.find_times import Clock

Tree = Any
_OPERATORS = {
    "-a": "and", "-and": "and", "-o": "or", "-or": "or", ",": "comma", "!": "not", "-not": "not",
    "(": "(", ")": ")",
}
_SIGNS = {"+": ">", "-": "<"}
_SIZES = {"c": 1, "w": 2, "b": 512, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40,
          "P": 1 << 50}
_ELSEWHERE = {  # what other find commands have, and what to say here
    "-context": "SELinux is not asked; for its contexts: -exec stat -c '%C %n' {} +",
    "-D": "how an expression is carried out is not told; leave it out",
    "-help": "say ferrule find --help", "-version": "say ferrule find --version",
    "-E": "say -regextype posix-extended before -regex",
    "-X": "for xargs: -print0, and xargs -0", "-s": "say --sorted", "-S": "say --sorted",
    "-mnewer": "say -newer",
    "-nohidden": "say -hidden -prune -o …", "-exclude": "say ( … ) -prune -o …",
    "-limit": "say -print | head -n N",
}
_NUMBER_LIMIT = (1 << 63) - 1
_DEPTH_LIMIT = (1 << 32) - 1
_NEWLINE, _ZERO = 10, 0


class Command:
    """What the command line asks for."""

    def __init__(self) -> None:
        self.roots: list[bytes] = []
        self.links = "P"
        self.tree: Tree = True
        self.files = [""]  # the streams' names; the first is standard output
        self.actions: list[Callable[[Any], Any]] = []  # outcome -> Action
        self.max_depth = _DEPTH_LIMIT
        self.min_depth = 0
        self.contents_first = False
        self.one_file_system = False
        self.ignores_races = False
        self.is_sorted = False
        self.quits = False
        self.threads: int | None = None
        self.shows_statistics = False
        self.is_json = False
        self.colour: bool | None = None
        self.warnings: list[str] = []


class Parser:
    """One command line."""

    def __init__(self, words: list[str], *, to_terminal: bool = False) -> None:
        """``to_terminal``: standard output is one, so names must not upset it."""
        self.words = words
        self.command = Command()
        self._at = 0
        self._to_terminal = to_terminal
        self._clock = Clock()
        self._syntax = "emacs"
        self._acts = False
        self._prunes = False
        self._deletes: int | None = None
        self._depth_asked = False
        self._files_from: str | None = None
        self._warns = True

    def parse(self) -> Command:
        """The whole of it.  Raises FindError."""
        command = self.command
        self._options()
        self._roots()
        tree = True if self._at == len(self.words) else self._comma()
        if self._at < len(self.words):
            self._complain_of_rest()
        if self._deletes is not None and self._prunes and not self._depth_asked:
            raise FindError("-delete turns on -depth, with which -prune does nothing; say -depth "
                            "yourself if that is what you want", self._deletes)
        if not self._acts:
            tree = ("and", tree, self._print())
        if command.min_depth:
            tree = ("or", ("depth", "<", command.min_depth), tree)
        command.tree = tree
        if self._files_from is not None:
            self._read_roots(self._files_from)
        command.roots = command.roots or ([] if self._files_from is not None else [b"."])
        return command

    # ---- options and roots ----

    def _options(self) -> None:
        while self._at < len(self.words):
            word = self.words[self._at]
            if word in ("-H", "-L", "-P"):
                self.command.links = word[1]
            elif word == "--":
                self._at += 1
                return
            elif not self._long_option(word) and not word.startswith("-O"):
                return
            self._at += 1

    def _long_option(self, word: str) -> bool:
        """Options that may stand anywhere.  Whether it is one."""
        command = self.command
        if word == "-j" or (word.startswith("-j") and word[2:].isdigit()):
            command.threads = self._threads(word)
        elif word == "--json":
            command.is_json = True
        elif word == "--stat":
            command.shows_statistics = True
        elif word == "--sorted":
            command.is_sorted = True
        elif word in ("-color", "-nocolor"):
            command.colour = word == "-color"
        else:
            return False
        return True

    def _threads(self, word: str) -> int:
        text = word[2:]
        if not text:
            self._at += 1
            text = self.words[self._at] if self._at < len(self.words) else ""
        if not text.isdecimal() or not 0 < int(text) <= 256:
            raise FindError("-j needs a number of workers, from 1 to 256",
                            min(self._at, len(self.words) - 1))
        return int(text)

    def _roots(self) -> None:
        while self._at < len(self.words):
            word = self.words[self._at]
            if self._long_option(word):
                self._at += 1
                continue
            if _is_expression(word):
                return
            if not word:
                raise FindError("an empty path names nothing", self._at)
            self.command.roots.append(os.fsencode(word))
            self._at += 1

    def _read_roots(self, name: str) -> None:
        if self.command.roots:
            raise FindError("-files0-from and paths on the command line do not go together")
        try:
            if name == "-":
                data = os.fdopen(0, "rb", closefd=False).read()
            else:
                with open(os.fsencode(name), "rb") as file:
                    data = file.read()
        except OSError as exc:
            raise FindError(f"{quote(name)}: {exc.strerror}") from exc
        roots = data.split(b"\0")
        if roots and not roots[-1]:
            roots.pop()
        if b"" in roots:
            raise FindError(f"{quote(name)}: a path of no length")
        self.command.roots = roots

    def slashed_roots(self) -> bytes:
        """The roots that end with a slash, each with a zero byte."""
        return b"".join(root + b"\0" for root in self.command.roots if root.endswith(b"/"))

    # ---- operators, from the one that binds least ----

    def _peek(self) -> str | None:
        while self._at < len(self.words) and self._long_option(self.words[self._at]):
            self._at += 1
        return self.words[self._at] if self._at < len(self.words) else None

    def _operator(self) -> str | None:
        word = self._peek()
        return None if word is None else _OPERATORS.get(word)

    def _comma(self) -> Tree:
        trees = [self._or()]
        while self._operator() == "comma":
            self._at += 1
            trees.append(self._or())
        return trees[0] if len(trees) == 1 else ("comma", *trees)

    def _or(self) -> Tree:
        trees = [self._and()]
        while self._operator() == "or":
            self._at += 1
            trees.append(self._and())
        return trees[0] if len(trees) == 1 else ("or", *trees)

    def _and(self) -> Tree:
        trees = [self._not()]
        while self._peek() is not None and self._operator() not in ("or", "comma", ")"):
            if self._operator() == "and":
                self._at += 1
            trees.append(self._not())
        return trees[0] if len(trees) == 1 else ("and", *trees)

    def _not(self) -> Tree:
        negated = False
        while self._operator() == "not":
            self._at += 1
            negated = not negated
        tree = self._primary()
        return ("not", tree) if negated else tree

    def _primary(self) -> Tree:
        at, word = self._at, self._peek()
        if word is None:
            if not self.words or at == 0:
                return True
            raise FindError(f"something must follow {self.words[at - 1]}", at - 1)
        operator = _OPERATORS.get(word)
        if operator == "(":
            return self._parentheses()
        if operator == ")":
            raise FindError("empty parentheses, or one that was not opened", self._at)
        if operator is not None:
            raise FindError(f"{word} has nothing before it", self._at)
        return self._test(word)

    def _parentheses(self) -> Tree:
        opened = self._at
        self._at += 1
        if self._peek() == ")":
            raise FindError("empty parentheses", opened, self._at - opened + 1)
        tree = self._comma()
        if self._peek() != ")":
            raise FindError("a parenthesis that is not closed", opened)
        self._at += 1
        return tree

    def _complain_of_rest(self) -> None:
        word = self.words[self._at]
        if word == ")":
            raise FindError("a parenthesis that was not opened", self._at)
        raise FindError(f"paths must come before the expression: {quote(word)}", self._at)

    # ---- primaries ----

    def _test(self, word: str) -> Tree:
        at = self._at
        if word.startswith("-newer") and len(word) == 8 and word not in _PRIMARIES:
            return self._newer_xy(word)
        row = _PRIMARIES.get(word)
        if row is None:
            self._complain_of(word)
        method, count = row  # type: ignore[misc]
        arguments = self.words[at + 1 : at + 1 + count]
        if len(arguments) < count:
            what = "an argument" if count == 1 else f"{count} arguments"
            raise FindError(f"{word} needs {what}", at)
        self._at += 1 + count
        try:
            return method(self, word, *arguments)
        except ValueError as exc:
            raise FindError(f"{word}: {exc}", at + 1 if count else at, max(1, count)) from exc
        except OSError as exc:
            name = exc.filename if exc.filename is not None else arguments[0]
            raise FindError(f"{quote(name)}: {exc.strerror}", at, 1 + count) from exc

    def _complain_of(self, word: str) -> None:
        if not word.startswith("-"):
            raise FindError(f"paths must come before the expression: {quote(word)}", self._at)
        if word in _ELSEWHERE:
            raise FindError(f"there is no {word} here: {_ELSEWHERE[word]}", self._at)
        known = [*_PRIMARIES, "-newermt", *_OPERATORS, "--json", "--stat", "--sorted", "-color",
                 "-nocolor"]
        raise FindError(f"unknown test or action {quote(word)}", self._at, wrong=word, known=known)

    # Names and paths.

    def _name(self, word: str, pattern: str) -> Tree:
        if "/" in pattern and self._warns and word in ("-name", "-iname") and pattern != "/":
            self.command.warnings.append(
                f"{word} {quote(pattern)} matches nothing: names have no slashes "
                f"(did you mean -{'i' * (word[1] == 'i')}path?)"
            )
        return ("name", os.fsencode(pattern), word.startswith("-i"))

    def _path(self, word: str, pattern: str) -> Tree:
        return ("path", os.fsencode(pattern), word.startswith("-i"))

    def _target(self, word: str, pattern: str) -> Tree:
        return ("target", os.fsencode(pattern), word.startswith("-i"))

    def _regex(self, word: str, pattern: str) -> Tree:
        from ferrule._core.entry_filter import EntryFilter

        tree = ("regex", os.fsencode(pattern), self._syntax, word.startswith("-i"))
        EntryFilter(tree)  # so that what is wrong with it is said here
        return tree

    def _regextype(self, word: str, name: str) -> Tree:
        from ferrule._core.entry_filter import SYNTAXES

        if name not in SYNTAXES:
            raise ValueError(f"unknown type {quote(name)}; known are {', '.join(SYNTAXES)}")
        self._syntax = name
        return True

    # What an entry is.

    def _type(self, word: str, text: str) -> Tree:
        letters = text.split(",")
        for letter in letters:
            if len(letter) != 1 or letter not in "bcdpfls":
                raise ValueError(f"types are letters of bcdpfls with commas between, "
                                 f"not {quote(text)}")
        if len(set(letters)) < len(letters):
            raise ValueError(f"a type twice in {quote(text)}")
        if word == "-xtype":
            return ("target type", "".join(letters), self.command.links)
        return ("type", "".join(letters))

    def _size(self, word: str, text: str) -> Tree:
        unit = _SIZES.get(text[-1:])
        sign, number = _signed(text[:-1] if unit else text, what="a size, as +10k")
        return ("size", sign, number, unit or 512)

    def _number(self, word: str, text: str) -> Tree:
        sign, number = _signed(text)
        return ({"-inum": "inode"}.get(word, word[1:]), sign, number)

    def _perm(self, word: str, text: str) -> Tree:
        from ferrule.cli.find_modes import parse_mode

        sign = {"-": "<", "/": ">"}.get(text[:1], "=")
        files, directories = parse_mode(text if sign == "=" else text[1:])
        return ("mode", sign, files, directories)

    def _user(self, word: str, name: str) -> Tree:
        import pwd

        try:
            return ("uid", "=", pwd.getpwnam(name).pw_uid)
        except KeyError:
            return ("uid", "=", _identity(name, "user"))

    def _group(self, word: str, name: str) -> Tree:
        import grp

        try:
            return ("gid", "=", grp.getgrnam(name).gr_gid)
        except KeyError:
            return ("gid", "=", _identity(name, "group"))

    def _access(self, word: str) -> Tree:
        return ("access", {"-readable": os.R_OK, "-writable": os.W_OK}.get(word, os.X_OK))

    def _plain(self, word: str) -> Tree:
        return {"-nouser": ("no user",), "-nogroup": ("no group",), "-empty": ("empty",),
                "-true": True, "-false": False, "-hidden": ("hidden",)}[word]

    def _same_file(self, word: str, name: str) -> Tree:
        facts = self._stat(name)
        return ("same", _signed_64(facts.st_ino), _signed_64(facts.st_dev))

    def _fstype(self, word: str, kind: str) -> Tree:
        from ferrule.cli.find_mounts import devices_of

        return ("or", *[("device", "=", device) for device in devices_of(kind)])

    # Times.

    def _days(self, word: str, text: str) -> Tree:
        sign, days = _signed_float(text)
        return self._clock.days(word[1], sign, days)

    def _used(self, word: str, text: str) -> Tree:
        return self._clock.used(*_signed_float(text))

    def _minutes(self, word: str, text: str) -> Tree:
        sign, minutes = _signed_float(text)
        return self._clock.minutes(word[1], sign, minutes)

    def _newer(self, word: str, name: str) -> Tree:
        field = {"-newer": "m", "-anewer": "a", "-cnewer": "c"}[word]
        return ("time", field, ">", self._stat(name).st_mtime_ns)

    def _newer_xy(self, word: str) -> Tree:
        ours, theirs = word[6], word[7]
        if ours not in "aBcm" or theirs not in "aBcmt":
            raise FindError(f"{word}: -newerXY takes a, B, c or m for X, and t too for Y", self._at)
        if self._at + 1 == len(self.words):
            raise FindError(f"{word} needs an argument", self._at)
        at, argument = self._at, self.words[self._at + 1]
        self._at += 2
        try:
            return ("time", ours, ">", self._moment(theirs, argument))
        except (ValueError, OverflowError) as exc:
            raise FindError(
                f"{word}: no time that is understood: {quote(argument)}; write 2026-01-31, "
                "2026-01-31T12:00, 12:00, @seconds or \"2 days ago\"", at + 1) from exc
        except OSError as exc:
            raise FindError(f"{quote(argument)}: {exc.strerror}", at, 2) from exc

    def _moment(self, field: str, argument: str) -> int:
        from ferrule.cli.find_times import parse_moment

        if field == "t":
            return parse_moment(argument, self._clock.now)
        if field == "B":
            return self._birth(argument)
        facts = self._stat(argument)
        times = {"a": facts.st_atime_ns, "c": facts.st_ctime_ns, "m": facts.st_mtime_ns}
        return times[field]

    def _birth(self, name: str) -> int:
        from ferrule._core.stat_result import read_birth

        path = os.fsencode(name)
        try:
            return read_birth(path, self.command.links != "P")
        except FileNotFoundError:
            return read_birth(path, False)

    def _stat(self, name: str) -> os.stat_result:
        """As the walk would see a root."""
        path = os.fsencode(name)
        if self.command.links == "P":
            return os.lstat(path)
        try:
            return os.stat(path)
        except FileNotFoundError:
            return os.lstat(path)

    # Options among the tests: always true.

    def _option(self, word: str, argument: str = "") -> Tree:
        command = self.command
        if word in ("-depth", "-d"):
            command.contents_first = self._depth_asked = True
        elif word in ("-xdev", "-mount"):
            command.one_file_system = True
        elif word == "-follow":
            command.links = "L"
        elif word == "-daystart":
            self._clock.start_at_midnight()
        elif word in ("-ignore_readdir_race", "-noignore_readdir_race"):
            command.ignores_races = word == "-ignore_readdir_race"
        elif word in ("-warn", "-nowarn"):
            self._warns = word == "-warn"
        elif word == "-files0-from":
            self._files_from = argument
        elif word in ("-maxdepth", "-mindepth"):
            if not argument.isdecimal() or int(argument) > _DEPTH_LIMIT:
                raise ValueError(f"a depth is a whole number, not {quote(argument)}")
            setattr(command, f"{word[1:4]}_depth", int(argument))
        return True  # -noleaf is for other find commands

    # Actions.

    def _action(self) -> None:
        self._acts = True

    def _print(self) -> Tree:
        """What -print does, on a terminal and with --json too."""
        from ferrule.cli import find_format

        if self.command.is_json:
            return ("format", 0, find_format.JSON)
        if self._is_coloured():
            return ("format", 0, *find_format.coloured(os.environ.get("LS_COLORS")))
        if self._to_terminal:
            return ("format", 0, (("p", {"safe": True}), b"\n"))
        return ("print", 0, _NEWLINE)

    def _is_coloured(self) -> bool:
        if self.command.colour is not None:
            return self.command.colour
        return self._to_terminal and not os.environ.get("NO_COLOR") and (
            os.environ.get("TERM", "dumb") != "dumb"
        )

    def _print_action(self, word: str) -> Tree:
        self._action()
        return ("print", 0, _ZERO) if word == "-print0" else self._print()

    def _print_to_file(self, word: str, name: str) -> Tree:
        self._action()
        return ("print", self._stream(name), _ZERO if word == "-fprint0" else _NEWLINE)

    def _printf(self, word: str, text: str) -> Tree:
        return self._format(0, text, safe=self._to_terminal)

    def _printf_to_file(self, word: str, name: str, text: str) -> Tree:
        return self._format(self._stream(name), text, safe=False)

    def _format(self, stream: int, text: str, *, safe: bool) -> Tree:
        from ferrule.cli.find_format import Format

        self._action()
        parsed = Format(text, self.slashed_roots(), safe=safe)
        if self._warns:
            self.command.warnings += parsed.warnings
        return ("format", stream, tuple(parsed.pieces))

    def _list(self, word: str) -> Tree:
        from ferrule.cli.find_format import LS

        self._action()
        return ("format", 0, LS)

    def _list_to_file(self, word: str, name: str) -> Tree:
        from ferrule.cli.find_format import LS

        self._action()
        return ("format", self._stream(name), LS)

    def _stream(self, name: str) -> int:
        files = self.command.files
        if name == "/dev/stdout":
            return 0
        if name not in files:
            files.append(name)
        if len(files) > 255:
            raise ValueError("too many files to write to")
        return files.index(name)

    def _prune(self, word: str) -> Tree:
        self._prunes = True
        return ("prune",)

    def _quit(self, word: str) -> Tree:
        self.command.quits = True
        return ("quit",)

    def _delete(self, word: str) -> Tree:
        from ferrule.cli.find_actions import Delete

        self._deletes = self._at - 1
        self.command.contents_first = True
        return self._external(Delete)

    def _external(self, make: Callable[[Any], Any]) -> Tree:
        self._action()
        self.command.actions.append(make)
        return ("external", len(self.command.actions) - 1)

    def _exec(self, word: str) -> Tree:
        from ferrule.cli.find_actions import ExecEach, ExecMany, unsafe_path_part

        begin = self._at
        in_directory, asks = word.endswith("dir"), word.startswith("-ok")
        words, ends_with = self._command_words(word, begin, can_be_many=not asks)
        if in_directory and (part := unsafe_path_part()) is not None:
            raise FindError(f"{word} is not safe while PATH has a relative directory: {part}",
                            begin - 1)
        if ends_with == ";":
            return self._external(lambda outcome: ExecEach(
                outcome, words, in_directory=in_directory, asks=asks))
        if sum("{}" in each for each in words) > 1:
            raise FindError(f"{word} … + takes one {{}}, and that right before the +", begin - 1,
                            len(words) + 2)
        return self._external(lambda outcome: ExecMany(outcome, words, in_directory=in_directory))

    def _command_words(self, word: str, begin: int, *, can_be_many: bool) -> tuple[list[str], str]:
        for at in range(begin, len(self.words)):
            each = self.words[at]
            if each == ";" or (
                each == "+" and can_be_many and at > begin and self.words[at - 1] == "{}"
            ):
                if at == begin or (each == "+" and at == begin + 1):
                    raise FindError(f"{word} needs a command", begin - 1, at - begin + 2)
                self._at = at + 1
                return self.words[begin:at], each
        raise FindError(f"{word} needs a ; at its end (quoted: '\\;')" +
                        (", or {} +" if can_be_many else ""), begin - 1,
                        len(self.words) - begin + 1)


def _is_expression(word: str) -> bool:
    return (word.startswith("-") and len(word) > 1) or word in ("(", ")", ",", "!")


def _signed(text: str, what: str = "a whole number, with + or - before it for more or less") \
        -> tuple[str, int]:
    digits = text[1:] if text[:1] in _SIGNS else text
    if not digits.isdecimal() or not digits.isascii():
        raise ValueError(f"{quote(text)} is not {what}")
    return _SIGNS.get(text[:1], "="), min(int(digits), _NUMBER_LIMIT)


def _signed_float(text: str) -> tuple[str, float]:
    digits = text[1:] if text[:1] in _SIGNS else text
    if not digits.isascii() or not digits.replace(".", "", 1).isdigit():
        raise ValueError(f"{quote(text)} is not a number, with + or - before it for more or less")
    return _SIGNS.get(text[:1], "="), min(float(digits), 1e12)


def _signed_64(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _identity(name: str, what: str) -> int:
    if not name.isdecimal() or int(name) > _DEPTH_LIMIT:
        raise ValueError(f"{quote(name)} is not the name of a known {what}")
    return int(name)


_PRIMARIES: dict[str, tuple[Callable[..., Tree], int]] = {
    **dict.fromkeys(("-name", "-iname"), (Parser._name, 1)),
    **dict.fromkeys(("-path", "-ipath", "-wholename", "-iwholename"), (Parser._path, 1)),
    **dict.fromkeys(("-lname", "-ilname"), (Parser._target, 1)),
    **dict.fromkeys(("-regex", "-iregex"), (Parser._regex, 1)),
    "-regextype": (Parser._regextype, 1),
    **dict.fromkeys(("-type", "-xtype"), (Parser._type, 1)),
    "-size": (Parser._size, 1),
    **dict.fromkeys(("-links", "-inum", "-uid", "-gid"), (Parser._number, 1)),
    "-perm": (Parser._perm, 1),
    "-user": (Parser._user, 1),
    "-group": (Parser._group, 1),
    "-samefile": (Parser._same_file, 1),
    "-fstype": (Parser._fstype, 1),
    **dict.fromkeys(("-readable", "-writable", "-executable"), (Parser._access, 0)),
    **dict.fromkeys(("-nouser", "-nogroup", "-empty", "-true", "-false", "-hidden"),
                    (Parser._plain, 0)),
    **dict.fromkeys(("-atime", "-ctime", "-mtime"), (Parser._days, 1)),
    "-used": (Parser._used, 1),
    **dict.fromkeys(("-amin", "-cmin", "-mmin"), (Parser._minutes, 1)),
    **dict.fromkeys(("-newer", "-anewer", "-cnewer"), (Parser._newer, 1)),
    **dict.fromkeys(("-depth", "-d", "-xdev", "-mount", "-follow", "-daystart", "-noleaf", "-warn",
                     "-nowarn", "-ignore_readdir_race", "-noignore_readdir_race"),
                    (Parser._option, 0)),
    **dict.fromkeys(("-maxdepth", "-mindepth", "-files0-from"), (Parser._option, 1)),
    **dict.fromkeys(("-print", "-print0"), (Parser._print_action, 0)),
    **dict.fromkeys(("-fprint", "-fprint0"), (Parser._print_to_file, 1)),
    "-printf": (Parser._printf, 1),
    "-fprintf": (Parser._printf_to_file, 2),
    "-ls": (Parser._list, 0),
    "-fls": (Parser._list_to_file, 1),
    "-prune": (Parser._prune, 0),
    "-quit": (Parser._quit, 0),
    "-delete": (Parser._delete, 0),
    **dict.fromkeys(("-exec", "-execdir", "-ok", "-okdir"), (Parser._exec, 0)),
}
