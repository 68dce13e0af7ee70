"""The reference part of docs/ring/*.md, from the docstrings.

    python tools/ring_pages.py [--write]

Each page begins with a text of its own; below the line REFERENCE stands what this tool makes of the
functions that PAGES gives to it.  Without --write it only compares, and exits 1 when a page is out
of date or a public name of ferrule.ring is on none.
"""

import enum
import inspect
import re
import sys
from pathlib import Path

from ferrule import ring
from ferrule._core import ring as core

ROOT = Path(__file__).parent.parent
PAGES_DIR = ROOT / "docs/ring"
REFERENCE = "<!-- Below: tools/ring_pages.py, from the docstrings. -->"

# By page: classes, whose public members it describes, single members, and functions.
PAGES = {
    "setup.md": [
        "Ring.__init__", "Ring.from_params", "Params", "SetupFlags", "Features", "Ring.fd",
        "Ring.fileno", "Ring.closed", "Ring.flags", "Ring.features", "Probe", "get_probe", "Op",
        "query", "Query",
        "Ring.statistics", "RingStatistics", "leaked_operations", "Ring.close", "NotSupported",
    ],
    "queues.md": [
        "Ring.get_sqe", "SQE", "SqeFlags", "SubmissionQueueFull", "Ring.submit",
        "Ring.submit_and_wait", "Ring.submit_and_wait_timeout", "Ring.submit_and_wait_min_timeout",
        "Ring.submit_and_wait_reg", "WaitRegion", "Ring.submit_and_get_events", "Ring.set_iowait",
        "Ring.sq_ready", "Ring.sq_space_left", "Ring.sqring_wait", "Ring.copy_cqes",
        "Ring.copy_cqe", "Ring.peek_cqe", "Ring.wait_cqe", "Ring.cqe_seen", "Ring.cq_advance",
        "Ring.cq_ready", "Ring.cq_has_overflow", "Ring.cq_overflow", "Ring.get_events", "CQE",
        "CqeFlags", "EnterFlags", "Ring.sq", "Ring.cq", "SubmissionQueue", "CompletionQueue",
        "SqFlags",
    ],
    "control.md": ["Operations", "NopFlags", "PollFlags", "TimeoutFlags", "CancelFlags",
                   "MsgRingFlags", "send_msg_ring"],
    "files.md": [
        "FileOperations", "AtFlags", "ResolveFlags", "RenameFlags", "FallocateFlags", "FsyncFlags",
        "SyncFileRangeFlags", "SpliceFlags", "FixedFdFlags", "StatResult",
    ],
    "sockets.md": [
        "SocketOperations", "RecvSendFlags", "AcceptFlags", "SocketOp", "Message",
        "ReceivedMessage", "TxTimestamp",
    ],
    "system.md": ["SystemOperations"],
    "buffers.md": ["BufferRing", "BufferRingFlags"],
    "tables.md": ["TableRegistrations", "FileTable", "RegisteredBuffer", "BufferPool",
                  "PooledBuffer", "BufferPoolEmpty", "CloneFlags"],
    "batch.md": ["Ring.batch_queue", "BatchQueue"],
    "notices.md": ["Registrations", "RegisterOp", "NapiSettings", "NapiTracking"],
}
# Bases that only help() shows: their members are members of Ring and SQE.
BASES = ("Operations", "FileOperations", "SocketOperations", "SystemOperations",
         "TableRegistrations", "Registrations")
# Constants, described where they are used.
CONSTANTS = {"AT_FDCWD", "FILE_INDEX_ALLOC", "REGISTER_FILES_SKIP"}


def find(name: str) -> object:
    owner, _, member = name.partition(".")
    found = getattr(core, owner) if owner in BASES else getattr(ring, owner)
    return inspect.getattr_static(found, member) if member else found


def members(name: str) -> list[str]:
    """The names of a class's own public members."""
    return [f"{name}.{member}" for member in vars(find(name)) if not member.startswith("_")]


def signature(name: str, value: object) -> str:
    """As it is called: without self, and without the user_data that every prep_ method takes."""
    owner, _, member = name.partition(".")
    shown = member if owner in BASES else name
    try:
        text = str(inspect.signature(value))
    except (TypeError, ValueError):
        return shown
    text = re.sub(r"^\((?:self|cls)(?:, )?", "(", text)
    text = re.sub(r"(?:, )?\*, user_data=None\)", ")", text)
    text = re.sub(r" -> .*", "", text)
    return shown + re.sub(r"<[^<>]*>", "…", text)


NAMES = r"(\S+(?:, \S+)*)"


def prose(text: str) -> str:
    """A docstring in Markdown: aligned `name  meaning` lines become a list."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if re.match(rf"{NAMES}(  +\S|\n  +\S)", paragraph):
            for line in paragraph.split("\n"):
                item = re.match(rf"{NAMES}(?:  +(.*)|$)", line)
                lines.append(f"- `{item[1]}`: {item[2] or ''}".rstrip() if item
                             else "  " + line.strip())
        else:
            lines += paragraph.split("\n")
        lines.append("")
    return "\n".join(lines)


def flags_table(flags: type[enum.IntEnum]) -> str:
    """An enumeration's members, with what its source says beside each."""
    source = inspect.getsource(flags)
    rows = ["| | value | |", "|---|---|---|"]
    for name, member in flags.__members__.items():
        said = re.search(rf"^\s+{name} = [^#\n]*(?:# (.*))?$", source, re.MULTILINE)
        value = hex(member) if issubclass(flags, enum.IntFlag) else str(int(member))
        rows.append(f"| {name} | {value} | {(said and said[1]) or ''} |")
    return "\n".join(rows) + "\n"


def describe_class(name: str, value: type) -> str:
    parts = [] if name in BASES else [f"## {name}\n"]
    parts.append(prose(value.__doc__ or ""))
    if issubclass(value, tuple | Exception):
        return "\n".join(parts)
    told = [member for member in members(name) if getattr(find(member), "__doc__", None)]
    plain = [f"`{member.split('.')[1]}`" for member in members(name) if member not in told]
    if plain:
        parts.append(f"Also {', '.join(plain)}.\n")
    return "\n".join(parts + [describe(member) for member in told])


def describe(name: str) -> str:
    value = find(name)
    if isinstance(value, enum.EnumType):
        return f"### {name}\n\n{prose(value.__doc__ or '')}\n{flags_table(value)}"
    if inspect.isclass(value):
        return describe_class(name, value)
    if name == "Ring.__init__":
        return f"## Ring(entries, …)\n\n{prose(ring.Ring.__doc__ or '')}"
    value = value.__func__ if isinstance(value, classmethod) else value
    return f"### {signature(name, value)}\n\n{prose(value.__doc__ or '')}"


def reference(page: str) -> str:
    text = "\n".join(describe(name).rstrip() + "\n" for name in PAGES[page])
    return f"{REFERENCE}\n\n{text}"


def described() -> set[str]:
    found = set()
    for names in PAGES.values():
        for name in names:
            found.add(name)
            value = find(name)
            if inspect.isclass(value) and not isinstance(value, enum.EnumType):
                found.update(members(name))
    return found


def missing() -> list[str]:
    """Public names, and public members of Ring, that no page describes."""
    there = described()
    short = {name.split(".")[-1] for name in there}
    wanted = [name for name in ring.__all__ if name not in CONSTANTS | there | {"Ring"}]
    inherited = {member.split(".")[1] for base in BASES for member in members(base)}
    wanted += [f"Ring.{name}" for name in dir(ring.Ring)
               if not name.startswith("_") and f"Ring.{name}" not in there
               and not (name in inherited and name in short)]
    return wanted


def main() -> int:
    bad = [f"{name} is on no page" for name in missing()]
    for page in PAGES:
        path = PAGES_DIR / page
        text = path.read_text() if path.exists() else f"# {page.removesuffix('.md')}\n\n"
        wanted = text.split(REFERENCE)[0] + reference(page)
        if "--write" in sys.argv:
            path.write_text(wanted)
        elif wanted != text:
            bad.append(f"docs/ring/{page} is out of date: run this with --write")
    for line in bad:
        print(line, file=sys.stderr)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
