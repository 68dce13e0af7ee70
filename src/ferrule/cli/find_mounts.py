"""Which file systems are mounted, for -fstype and %F."""

from __future__ import annotations

import os


def mounted() -> list[tuple[int, str]]:
    """(device number, type) of each; none where the kernel does not say."""
    found = []
    try:
        with open("/proc/self/mountinfo", "rb") as lines:
            for line in lines:
                fields, _, rest = line.partition(b" - ")
                major, _, minor = fields.split()[2].partition(b":")
                found.append((os.makedev(int(major), int(minor)), os.fsdecode(rest.split()[0])))
    except OSError:
        pass
    return found


def devices_of(kind: str) -> list[int]:
    """The device numbers of the file systems of a type."""
    return sorted({device for device, name in mounted() if name == kind})


def type_table() -> bytes:
    """Device numbers and types, each with a zero byte at its end."""
    return b"".join(b"%d\0%s\0" % (device, os.fsencode(name)) for device, name in mounted())
