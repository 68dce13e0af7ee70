"""``ferrule demo``: the main job on real input.

The interpreter's own library folder is served over loopback and fetched by a thousand client fibers
in the same process, on the same loop thread; every body is compared with the file on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import stat
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import ferrule
from ferrule import fs
from ferrule.cli.descriptors import allow_open_files
from ferrule.cli.extras import is_available, require
from ferrule.cli.tables import print_table

if TYPE_CHECKING:
    from ferrule.cli.http_server import HttpServer
    from ferrule.socket import socket

NOT_THE_LIBRARY = {"site-packages", "dist-packages"}  # installed packages live in its folder
SPARE_DESCRIPTORS = 256
CLIENT_TIMEOUT = 60.0
PROGRESS_SECONDS = 0.1
MAXRSS_PER_MIB = 1 << 20 if sys.platform == "darwin" else 1 << 10
FAILURES_SHOWN = 5


def add_parser(commands: Any) -> None:
    """Register the sub-command."""
    parser = commands.add_parser(
        "demo",
        help="serve the interpreter's library over loopback, fetch and compare every file",
        description="Serve the interpreter's own library folder (without installed packages) over "
        "loopback and fetch every file with many client fibers in the same process.  Each body is "
        "compared with the file on disk; exit status 1 if any differs.",
    )
    parser.add_argument("--files", type=_count, default=None, metavar="N",
                        help="only the first N files")
    parser.add_argument("--clients", type=_count, default=1000, help="client fibers (%(default)s)")
    parser.add_argument("--rounds", type=_count, default=3,
                        help="how often each file is fetched (%(default)s)")
    parser.add_argument("--save", metavar="FOLDER",
                        help="also write what was fetched below this folder, which is made")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("must be a whole number above 0")
    return count


def run(args: argparse.Namespace) -> int:
    """Run the demo; return 0 if every body was right, else 1."""
    require("httptools", "ferrule demo")
    folder = sysconfig.get_path("stdlib")
    results = ferrule.run(
        run_demo, folder, args.clients, args.files, args.rounds, not args.json, args.save
    )
    report = results.as_report()
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print_table("Ferrule served and fetched the interpreter's library", as_rows(report))
    for failure in results.failures[:FAILURES_SHOWN]:
        print(f"ferrule demo: {failure}", file=sys.stderr)
    return 1 if results.failures else 0


@dataclass(slots=True)
class Results:
    """What the clients found."""

    folder: str
    backend: str
    clients: int
    files: int
    requests: int = 0
    bytes: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    save_to: str | None = None
    unsaved: set[str] = field(default_factory=set)

    def as_report(self) -> dict[str, Any]:
        """The figures, as plain data.  Latencies in milliseconds, memory in MiB."""
        ordered = sorted(self.latencies)
        peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "backend": self.backend,
            "folder": self.folder,
            "files": self.files,
            "clients": self.clients,
            "requests": self.requests,
            "mismatches": len(self.failures),
            "seconds": round(self.seconds, 3),
            "requests_per_second": round(self.requests / self.seconds, 1),
            "megabytes": round(self.bytes / 1e6, 1),
            "megabytes_per_second": round(self.bytes / 1e6 / self.seconds, 1),
            "latency_p50_ms": round(percentile(ordered, 50) * 1e3, 2),
            "latency_p99_ms": round(percentile(ordered, 99) * 1e3, 2),
            "peak_memory_mib": round(peak_memory / MAXRSS_PER_MIB, 1),
        }


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The value that ``percent`` of the sorted values do not exceed; 0.0 of none."""
    if not ordered:
        return 0.0
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def as_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The table at the end."""
    wrong = report["mismatches"]
    return [
        ("backend", report["backend"]),
        ("folder", report["folder"]),
        ("files", f"{report['files']:,}"),
        ("client fibers", f"{report['clients']:,}"),
        ("requests", f"{report['requests']:,} in {report['seconds']:.2f} s"),
        ("compared with disk", "all equal" if not wrong else f"{wrong} DIFFERENT"),
        ("requests/s", f"{report['requests_per_second']:,.0f}"),
        ("MB/s", f"{report['megabytes_per_second']:,.0f} ({report['megabytes']:,.0f} MB)"),
        ("latency p50", f"{report['latency_p50_ms']:.1f} ms"),
        ("latency p99", f"{report['latency_p99_ms']:.1f} ms"),
        ("peak memory", f"{report['peak_memory_mib']:.0f} MiB, server and clients together"),
    ]


def run_demo(
    folder: str, clients: int, files_max: int | None, rounds: int, show_progress: bool,
    save_to: str | None = None,
) -> Results:  # fmt: skip
    """Serve ``folder`` and fetch its files ``rounds`` times.  Call it inside a runtime."""
    from ferrule.cli.http_server import HttpServer, ServerLimits
    from ferrule.cli.static_files import StaticFiles

    paths = ferrule.blocking(list_files, folder)[:files_max]
    if not paths:
        raise SystemExit(f"ferrule demo: {folder} has no readable files")
    files = StaticFiles(folder)
    try:
        clients = fit_clients(clients, files.limits.files)
        server = HttpServer(files, ServerLimits(connections=clients + 1))
        results = Results(folder, ferrule.current_runtime().backend, clients, len(paths))
        if save_to is not None:
            prepare_saving(results, save_to, paths)
        # Every file is fetched in every round, and every client fetches something.
        jobs = paths * max(rounds, -(-clients // len(paths)))
        with serving(server) as address:
            fetch_all(address, folder, jobs, results, show_progress)
    finally:
        files.close()
    return results


def prepare_saving(results: Results, folder: str, paths: list[str]) -> None:
    """Make every folder that will be written to."""
    try:
        for below in {os.path.dirname(path) for path in paths}:
            fs.makedirs(os.path.join(folder, below), exist_ok=True)
    except OSError as exc:
        raise SystemExit(f"ferrule demo: nothing can be saved there: {exc}") from exc
    results.save_to, results.unsaved = folder, set(paths)


def list_files(folder: str) -> list[str]:
    """The readable regular files below ``folder``, relative to it, sorted.  Blocks."""
    found = []
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in NOT_THE_LIBRARY]
        for name in names:
            path = os.path.join(top, name)
            if stat.S_ISREG(os.lstat(path).st_mode) and os.access(path, os.R_OK):
                found.append(os.path.relpath(path, folder))
    return sorted(found)


def fit_clients(clients: int, cached_files: int) -> int:
    """As many clients as the limit on open files allows: each needs two descriptors."""
    spare = SPARE_DESCRIPTORS + cached_files
    limit = allow_open_files(2 * clients + spare)
    fitting = max(1, (limit - spare) // 2)
    if fitting < clients:
        print(
            f"ferrule demo: {fitting} clients instead of {clients}: the hard limit on open files "
            f"is {limit} (ulimit -Hn)",
            file=sys.stderr,
        )
    return min(clients, fitting)


@contextmanager
def serving(server: HttpServer) -> Iterator[tuple[str, int]]:
    """Run the server in a fiber of its own; yields its address."""
    from ferrule.net import listen_tcp

    listener = listen_tcp("127.0.0.1", 0)
    host, port = listener.getsockname()[:2]
    stop = ferrule.Event()
    with ferrule.TaskGroup() as group:
        group.spawn(server.serve, listener, stop)
        try:
            yield host, port
        finally:
            stop.set()


def fetch_all(
    address: tuple[str, int], folder: str, jobs: list[str], results: Results, show_progress: bool
) -> None:
    """Share the jobs among the clients, start these together and wait for all."""
    start = time.monotonic()
    with ferrule.TaskGroup() as group:
        bar = group.spawn(show_bar, results, len(jobs)) if show_progress else None
        with ferrule.TaskGroup() as clients:
            for i in range(results.clients):
                clients.spawn(fetch_files, address, folder, jobs[i :: results.clients], results)
        results.seconds = time.monotonic() - start
        if bar is not None:
            bar.cancel()


def fetch_files(
    address: tuple[str, int], folder: str, paths: list[str], results: Results
) -> None:
    """One client: fetch the files over one connection, compare each with the disk."""
    from ferrule.net import connect_tcp

    try:
        with connect_tcp(*address, timeout=CLIENT_TIMEOUT) as sock:
            sock.settimeout(CLIENT_TIMEOUT)
            reader = AnswerReader(sock)
            for path in paths:
                start = time.monotonic()
                status, body = reader.fetch(address, path)
                results.latencies.append(time.monotonic() - start)
                results.requests += 1
                results.bytes += len(body)
                if status != 200 or body != fs.read_bytes(os.path.join(folder, path)):
                    results.failures.append(f"{path}: status {status}, {len(body)} bytes differ")
                if results.save_to is not None and path in results.unsaved:
                    results.unsaved.remove(path)
                    fs.write_bytes(os.path.join(results.save_to, path), body)
    except (OSError, ValueError) as exc:
        results.failures.append(f"a client failed: {exc!r}")


class AnswerReader:
    """As much of an HTTP client as the demo needs."""

    def __init__(self, sock: socket) -> None:
        self._sock = sock
        self._rest = b""

    def fetch(self, address: tuple[str, int], path: str) -> tuple[int, bytes]:
        """GET one path; return status and body.  Raises OSError, or ValueError for nonsense."""
        target = "/" + quote(os.fsencode(path))
        host, port = address
        self._sock.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode("ascii"))
        head = self._read_head()
        status = int(head[0].split(b" ", 2)[1])
        fields = dict(line.lower().split(b": ", 1) for line in head[1:])
        return status, self._read_body(int(fields[b"content-length"]))

    def _read_head(self) -> list[bytes]:
        data = self._rest
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._receive()
        self._rest = data[end + 4 :]
        return data[:end].split(b"\r\n")

    def _read_body(self, length: int) -> bytes:
        parts = [self._rest[:length]]
        self._rest = self._rest[length:]
        missing = length - len(parts[0])
        while missing:
            part = self._receive(missing)
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _receive(self, size: int = 65536) -> bytes:
        data = self._sock.recv(min(size, 262144))
        if not data:
            raise ConnectionResetError("the server closed the connection")
        return data


def show_bar(results: Results, total: int) -> None:
    """Draw a progress bar until cancelled; nothing without a terminal or without rich."""
    if not (sys.stdout.isatty() and is_available("rich")):
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("fetching and comparing"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f} requests/s"), TimeElapsedColumn(),
    )
    start = time.monotonic()
    # No auto_refresh: that is a thread, which would compete for the GIL with the loop.
    with Progress(*columns, auto_refresh=False, transient=True) as progress:
        bar = progress.add_task("", total=total, rate=0.0)
        while True:
            rate = results.requests / max(time.monotonic() - start, 1e-9)
            progress.update(bar, completed=results.requests, rate=rate)
            progress.refresh()
            ferrule.sleep(PROGRESS_SECONDS)
