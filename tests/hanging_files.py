"""A file system of our own (FUSE), whose answers can be held back: like those of a dead server."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

LOOKUP, FORGET, GETATTR, INIT, OPENDIR, READDIR, RELEASEDIR = 1, 2, 3, 26, 27, 28, 29
INTERRUPT, DESTROY, BATCH_FORGET = 36, 38, 42
STAGES = {"open": OPENDIR, "read": READDIR, "stat": LOOKUP}
HEADER = struct.Struct("<IIQQIIII")
ATTRIBUTES = struct.Struct("<6Q10I")
ROOT = 1
FOREVER = 3600  # seconds, for which the kernel may remember
MNT_DETACH = 2

libc = ctypes.CDLL(None, use_errno=True)


class HangingFiles:
    """Directories ("a/b/") and files by their paths; it answers in a thread of its own."""

    def __init__(self, top: Path, *paths: str) -> None:
        self.top = top
        self.nodes = [("", stat.S_IFDIR)]  # name and kind, by number less 1
        self.children: dict[int, list[int]] = {ROOT: []}
        self.held: list[bytes] = []
        self.hanging: tuple[int, int] | None = None  # opcode and node
        self.hangs = threading.Event()  # somebody does
        for path in paths:
            self.add(path)
        self.device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self.device},rootmode=40755,user_id=0,group_id=0".encode()
        if libc.mount(b"hanging", bytes(top), b"fuse", 0, options) != 0:
            os.close(self.device)
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self.end = os.eventfd(0, os.EFD_CLOEXEC)
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def add(self, path: str) -> None:
        at = ROOT
        names = path.rstrip("/").split("/")
        for name in names:
            found = [n for n in self.children[at] if self.nodes[n - 1][0] == name]
            if not found:
                is_directory = name != names[-1] or path.endswith("/")
                self.nodes.append((name, stat.S_IFDIR if is_directory else stat.S_IFREG))
                found = [len(self.nodes)]
                self.children[at] += found
                self.children[found[0]] = []
            at = found[0]

    def hang(self, stage: str, name: str) -> None:
        """From now on nobody who opens, reads or asks about that one gets an answer."""
        node = next(n for n, (found, _) in enumerate(self.nodes, 1) if found == name)
        self.hanging = STAGES[stage], node

    def release(self) -> None:
        self.hanging = None
        held, self.held = self.held, []
        for request in held:
            self.answer(request)

    def close(self) -> None:
        """Whoever still waits gets ENOTCONN."""
        libc.umount2(bytes(self.top), MNT_DETACH)
        os.eventfd_write(self.end, 1)
        self.thread.join()
        os.close(self.device)
        os.close(self.end)

    # ---- answers ----

    def serve(self) -> None:
        poll = select.poll()
        poll.register(self.device, select.POLLIN)
        poll.register(self.end, select.POLLIN)
        while self.end not in dict(poll.poll()):
            try:
                request = os.read(self.device, 1 << 18)
            except OSError:  # unmounted, or what there was to read was interrupted
                continue
            if self.is_held(request):
                self.held.append(request)
                self.hangs.set()
            else:
                self.answer(request)

    def is_held(self, request: bytes) -> bool:
        _, opcode, _, node, *_ = HEADER.unpack_from(request)
        if opcode == LOOKUP:
            node = self.look_up(node, request[HEADER.size : -1].decode())
        return self.hanging == (opcode, node)

    def answer(self, request: bytes) -> None:
        _, opcode, unique, node, *_ = HEADER.unpack_from(request)
        body = request[HEADER.size :]
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            return
        error, data = 0, b""
        if opcode == INIT:
            data = struct.pack("<4I2H2I2H8I", 7, 31, 0, 0, 8, 6, 4096, 1, 0, 0, *[0] * 8)
        elif opcode == LOOKUP:
            found = self.look_up(node, body[:-1].decode())
            data = struct.pack("<4Q2I", found, 0, FOREVER, FOREVER, 0, 0) + self.attributes(found)
            error = 0 if found else errno.ENOENT
        elif opcode == GETATTR:
            data = struct.pack("<QII", FOREVER, 0, 0) + self.attributes(node)
        elif opcode == OPENDIR:
            data = struct.pack("<QII", 0, 0, 0)
        elif opcode == READDIR:
            data = self.entries(node, struct.unpack_from("<Q", body, 8)[0])
        elif opcode not in (RELEASEDIR, DESTROY):
            error = errno.ENOSYS
        data = b"" if error else data
        with contextlib.suppress(OSError):  # it was interrupted, or all is over
            os.write(self.device, struct.pack("<IiQ", 16 + len(data), -error, unique) + data)

    def look_up(self, node: int, name: str) -> int:
        return next((n for n in self.children[node] if self.nodes[n - 1][0] == name), 0)

    def attributes(self, node: int) -> bytes:
        kind = self.nodes[node - 1][1] if node else 0
        return ATTRIBUTES.pack(node, 5, 1, 0, 0, 0, 0, 0, 0, kind | 0o755, 1, 0, 0, 0, 4096, 0)

    def entries(self, node: int, offset: int) -> bytes:
        if offset:
            return b""
        found = b""
        for number, child in enumerate(self.children[node], 1):
            name, kind = self.nodes[child - 1]
            entry = struct.pack("<QQII", child, number, len(name), kind >> 12) + name.encode()
            found += entry + bytes(-len(entry) % 8)
        return found


@contextlib.contextmanager
def mounted(top: Path, *paths: str) -> Iterator[HangingFiles]:
    top.mkdir()
    files = HangingFiles(top, *paths)
    try:
        yield files
    finally:
        files.close()
