"""``ferrule serve DIR``: a static file server."""

from __future__ import annotations

import argparse
import os
import signal
import socket as std_socket
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

import ferrule
from ferrule.cli.descriptors import allow_open_files
from ferrule.cli.extras import require

if TYPE_CHECKING:
    from ferrule.cli.http_server import ServerLimits
    from ferrule.cli.static_files import StaticFiles
    from ferrule.net import Listener

SPARE_DESCRIPTORS = 64  # the interpreter's, the engine's, and a few look-ups at a time


def add_parser(commands: Any) -> None:
    """Register the sub-command."""
    parser = commands.add_parser(
        "serve",
        help="serve a directory over HTTP",
        description="Serve the files of a directory over HTTP/1.1.  The first line of output is "
        "the URL.  SIGINT or SIGTERM ends it: requests in progress are finished, a second signal "
        "cuts them off.",
    )
    parser.add_argument("directory", metavar="DIR", help="what to serve; nothing outside it is")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=_port, default=8000, help="port to listen on; 0 picks a free one (8000)"
    )
    limits = parser.add_argument_group("limits", "Times in seconds; see docs/serve.md.")
    for name, default, help_text in _LIMITS:
        kind = _seconds if isinstance(default, float) else _count
        limits.add_argument(
            f"--{name}", type=kind, default=default, help=f"{help_text} (%(default)s)"
        )
    parser.set_defaults(run=run)


_LIMITS: tuple[tuple[str, float | int, str], ...] = (
    ("header-timeout", 10.0, "for a request to arrive completely"),
    ("keep-alive-timeout", 20.0, "between two requests of a connection"),
    ("write-timeout", 20.0, "for a client to take a byte of the answer"),
    ("grace", 10.0, "for requests in progress when the server is stopped"),
    ("max-connections", 10_000, "connections at once"),
    ("max-requests", 100_000, "requests on one connection"),
)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return port


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError("must be a number of seconds above 0")
    return seconds


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("must be a whole number above 0")
    return count


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes.  Returns the exit status."""
    require("httptools", "ferrule serve")
    from ferrule.cli.static_files import StaticFiles

    try:
        files = StaticFiles(args.directory)
    except OSError as exc:
        print(f"ferrule serve: {args.directory}: {exc.strerror}", file=sys.stderr)
        return 2
    try:
        return ferrule.run(_serve, files, args)
    finally:
        files.close()


def _serve(files: StaticFiles, args: argparse.Namespace) -> int:
    from ferrule.cli.http_server import HttpServer
    from ferrule.net import listen_tcp

    try:
        listener = listen_tcp(args.host, args.port)
    except OSError as exc:
        where = f"{args.host} port {args.port}"
        print(f"ferrule serve: cannot listen on {where}: {exc.strerror or exc}", file=sys.stderr)
        return 1
    server = HttpServer(files, _limits(args, files.limits.files))
    stop = StopSignals()
    with stop:
        print(url_of(listener), flush=True)
        server.serve(listener, stop.event)
    return stop.status


def _limits(args: argparse.Namespace, cached_files: int) -> ServerLimits:
    from ferrule.cli.http_server import ServerLimits

    spare = SPARE_DESCRIPTORS + cached_files
    room = allow_open_files(args.max_connections + spare) - spare
    if room < args.max_connections:
        print(
            f"ferrule serve: at most {max(room, 1)} connections at once: the hard limit on open "
            "files (ulimit -Hn) allows no more",
            file=sys.stderr,
        )
    return ServerLimits(
        connections=max(1, min(room, args.max_connections)),
        requests=args.max_requests,
        header_timeout=args.header_timeout,
        keep_alive_timeout=args.keep_alive_timeout,
        write_timeout=args.write_timeout,
        grace=args.grace,
    )


def url_of(listener: Listener) -> str:
    """The URL under which this machine reaches the listener."""
    host, port = listener.getsockname()[:2]
    if host == "0.0.0.0":
        host = "127.0.0.1"
    elif host == "::":
        host = "::1"
    if listener.family == std_socket.AF_INET6:
        host = f"[{host}]"
    return f"http://{host}:{port}/"


class StopSignals:
    """While entered: the first SIGINT or SIGTERM sets ``event``, a second one ends the process."""

    def __init__(self) -> None:
        self.event = ferrule.Event()
        self.status = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._stop)
        return self

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.event.is_set():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.event.set()

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
