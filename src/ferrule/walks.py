"""Walking directory trees: `ferrule.walk` and `ferrule.walk_batches`.

Here the arguments become a compiled filter and the settings of an engine; the work is done by
`_core.walk`.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, AnyStr, overload

from ferrule._core.sockets import in_fiber
from ferrule._core.walk import (
    STAT_FIELDS,
    Batch,
    BatchWalk,
    Engine,
    Entry,
    EntryType,
    Progress,
    Walk,
)
from ferrule.runtime import usable_cpus
from ferrule.walk_filters import compiled, matching, modified, named, owned, sized, typed

if TYPE_CHECKING:
    from typing import Literal, TypedDict

    from typing_extensions import Unpack

    OnError = Literal["raise", "skip", "yield"] | Callable[[OSError], object]
    Patterns = str | bytes | Iterable[str | bytes]

    class WalkOptions(TypedDict, total=False):
        """What both walks take; see `walk`."""

        order: Literal["any", "breadth-first", "depth-first", "post-order"]
        sorted: bool
        min_depth: int
        max_depth: int | None
        include: Patterns | None
        exclude: Patterns | None
        gitignore: bool
        ignore: Patterns
        types: str
        regex: str | bytes | None
        min_size: int | None
        max_size: int | None
        modified_after: float | None
        modified_before: float | None
        owner: str | int | None
        group: str | int | None
        hidden: bool
        symlinks: Literal["never", "roots", "always"]
        one_file_system: bool
        stat: bool | str | Iterable[str]
        threads: int | None
        max_open_directories: int | None
        timeout: float | None

__all__ = ["Batch", "Entry", "EntryType", "Progress", "walk", "walk_batches"]

ORDERS = ("any", "breadth-first", "depth-first", "post-order")
SYMLINKS = ("never", "roots", "always")
MAX_THREADS = 8  # more were not faster, in measurements of several walkers
OPEN_DIRECTORIES = 256
NO_LIMIT = 0xFFFFFFFF
IGNORE_LIMIT = 1 << 20  # bytes; that of a file, too


@overload
def walk(
    top: AnyStr | os.PathLike[AnyStr] = ...,
    *,
    predicate: Callable[[Entry[AnyStr]], object] | None = None,
    errors: Literal["raise", "skip"] | Callable[[OSError], object] = "raise",
    **options: Unpack[WalkOptions],
) -> Walk[Entry[AnyStr]]: ...


@overload
def walk(
    top: AnyStr | os.PathLike[AnyStr] = ...,
    *,
    predicate: Callable[[Entry[AnyStr]], object] | None = None,
    errors: Literal["yield"],
    **options: Unpack[WalkOptions],
) -> Walk[Entry[AnyStr] | OSError]: ...


def walk(
    top: Any = ".",
    *,
    predicate: Callable[[Any], object] | None = None,
    errors: OnError = "raise",
    **options: Unpack[WalkOptions],
) -> Walk[Any]:
    """Iterate over the entries of a directory tree, as `Entry` objects; ``top`` itself is not one.

    The iterator is a context manager with `close` and `progress`.  Entries have os.DirEntry's
    names, their ``depth`` (1 for what is in ``top``) and ``type``; `Entry.prune` keeps the walk out
    of a directory.  Given bytes it gives bytes; str has undecodable bytes as surrogates.

    ``order``: "any" is the fastest, a directory before what is in it; "breadth-first" (all of one
    depth before the next), "depth-first", "post-order" (a directory after what is in it).
    ``sorted``: by the bytes of the names in each directory; depth first unless told otherwise.
    ``min_depth``, ``max_depth``: entries outside are not given; below max_depth nothing is read.
    ``include``: globs, of which a name has to match one, or the whole path for one with a slash
    ("*/test/*"); directories are entered all the same.
    ``exclude``: such globs; what matches is neither given nor entered.
    ``gitignore=True`` leaves out what git would: by the .gitignore files in the tree, and above it
    up to its repository's top, and that repository's info/exclude; and ``.git`` itself.  One of
    those files that cannot be read is an error, too.
    ``ignore``: lines as in a .gitignore (an open file, too), weaker than all files.
    ``types``: letters of find's -type that are given: "f" files, "d" directories, "l" links, "p",
    "s", "b", "c".
    ``regex``: a POSIX extended one that has to match the whole path.
    ``min_size``, ``max_size``: in bytes; ``modified_after``, ``modified_before``: seconds since
    1970; ``owner``, ``group``: a name or a number.
    ``hidden=False`` leaves out names that begin with a dot.
    ``symlinks``: those that are followed: "never", "roots" (``top`` itself), "always" (one that
    leads to a directory above it is an error with ELOOP).
    ``one_file_system``: mount points are given and not entered.
    ``predicate``: called with each entry that is left, which is given if the answer is true.
    ``stat``: fields to ask of each entry in the same pass, by name, for the columns of batches;
    True asks for all, and `Entry.stat` has them.
    ``errors``: "raise" ends the walk; "skip"; "yield" gives the OSErrors among the entries; a
    callable is called with each.  They have the ``filename``, the ``stage`` ("open", "read",
    "stat") and the ``depth``.
    ``threads``: how many read; by default one per usable processor, up to 8.  Strict orders are
    read by one.  With 1 the caller itself reads, unless it is a fiber.
    ``max_open_directories``: descriptors to use; more only make it faster.
    ``timeout``: seconds that a single entry may be waited for; then TimeoutError, after which the
    iteration may go on.

    Raises ValueError for bad arguments; nothing is read before the first entry is asked for.  Each
    step of the iteration is a switch and cancellation point in a fiber; elsewhere it blocks.
    """
    on_error, gives_errors = _error_policy(errors)
    return Walk(_engine(top, **options), on_error, gives_errors, predicate)


def walk_batches(
    top: AnyStr | os.PathLike[AnyStr] = ".",  # type: ignore[assignment]
    *,
    errors: OnError = "raise",
    **options: Unpack[WalkOptions],
) -> BatchWalk[AnyStr]:
    """Iterate over a directory tree by some hundreds of entries at a time, as columns.

    The fastest way.  Takes what `walk` takes; ``errors="yield"`` leaves the errors in
    `Batch.errors`.  A switch and cancellation point as `walk`.
    """
    on_error, gives_errors = _error_policy(errors)
    return BatchWalk(_engine(top, **options), on_error, gives_errors)


def _error_policy(errors: OnError) -> tuple[Callable[[OSError], object] | None, bool]:
    if callable(errors):
        return errors, False
    if errors == "skip":
        return (lambda error: None), False
    if errors not in ("raise", "yield"):
        raise ValueError(f'errors must be "raise", "skip", "yield" or a callable, not {errors!r}')
    return None, errors == "yield"


def _engine(top: Any, **options: Any) -> Engine:
    path = os.fspath(top)
    sys.audit("os.scandir", path)
    return Engine([os.fsencode(path)], is_text=isinstance(path, str), **_settings(**options))


def _settings(
    *,
    order: str = "any",
    sorted: bool = False,
    min_depth: int = 1,
    max_depth: int | None = None,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    gitignore: bool = False,
    ignore: Patterns = (),
    types: str = "",
    regex: str | bytes | None = None,
    min_size: int | None = None,
    max_size: int | None = None,
    modified_after: float | None = None,
    modified_before: float | None = None,
    owner: str | int | None = None,
    group: str | int | None = None,
    hidden: bool = True,
    symlinks: str = "roots",
    one_file_system: bool = False,
    stat: bool | str | Iterable[str] = (),
    threads: int | None = None,
    max_open_directories: int | None = None,
    timeout: float | None = None,
) -> dict[str, Any]:
    return {
        "order": _one_of("order", order, ORDERS),
        "sorted": sorted,
        "min_depth": _depth("min_depth", min_depth),
        "max_depth": NO_LIMIT if max_depth is None else _depth("max_depth", max_depth),
        "filter": compiled(
            *named(include), *typed(types), *matching(regex), *sized(min_size, max_size),
            *modified(modified_after, modified_before), *owned("uid", owner), *owned("gid", group),
        ),
        "exclude": compiled(*named(exclude)),
        "gitignore": gitignore,
        "ignore": _lines(ignore),
        "hidden": hidden,
        "symlinks": _one_of("symlinks", symlinks, SYMLINKS),
        "one_file_system": one_file_system,
        "stat": _fields(stat),
        "threads": _thread_count(threads, timeout),
        "max_fds": _open_directories(max_open_directories),
        "timeout": timeout,
    }


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def _depth(what: str, value: int) -> int:
    if not 0 <= value < NO_LIMIT:
        raise ValueError(f"{what} must be 0 or more, not {value}")
    return value


def _lines(patterns: Patterns) -> bytes:
    if isinstance(patterns, (str, bytes)):
        patterns = [patterns]
    lines = b"".join(os.fsencode(pattern).rstrip(b"\n") + b"\n" for pattern in patterns)
    if len(lines) > IGNORE_LIMIT:
        raise ValueError(f"ignore may have {IGNORE_LIMIT} bytes of lines, not {len(lines)}")
    return lines


def _fields(stat: bool | str | Iterable[str]) -> tuple[str, ...]:
    if isinstance(stat, bool):
        return STAT_FIELDS if stat else ()
    names = (stat,) if isinstance(stat, str) else tuple(stat)
    for name in names:
        if name not in STAT_FIELDS:
            raise ValueError(f"stat can ask for {', '.join(STAT_FIELDS)}; not for {name!r}")
    return names


def _thread_count(threads: int | None, timeout: float | None) -> int:
    """How many worker threads; 0 where the caller may read by itself."""
    if threads is None:
        threads = min(usable_cpus(), MAX_THREADS)
    if not 1 <= threads <= 256:
        raise ValueError(f"threads must be from 1 to 256, not {threads}")
    may_block = not in_fiber() and timeout is None
    return 0 if threads == 1 and may_block else threads


def _open_directories(wanted: int | None) -> int:
    if wanted is None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return OPEN_DIRECTORIES if soft < 0 else max(1, min(OPEN_DIRECTORIES, soft // 4))
    if wanted < 1:
        raise ValueError(f"max_open_directories must be 1 or more, not {wanted}")
    return min(wanted, 1 << 20)
