"""Serving files over HTTP/1.1: one fiber per connection, written as if it blocked.

Who is cut off, and when, is in `ServerLimits`; docs/serve.md gives the reasons.
"""

from __future__ import annotations

import fcntl
import socket as std_socket
import struct
import sys
import termios
import time
import traceback
from dataclasses import dataclass, field
from email.utils import formatdate
from html import escape
from http import HTTPStatus

import ferrule
from ferrule.cli.conditions import select
from ferrule.cli.http_request import (
    Request,
    RequestError,
    RequestLimits,
    RequestReader,
    split_target,
)
from ferrule.cli.static_files import OpenFile, Page, Redirect, StaticFiles
from ferrule.fs import File
from ferrule.net import Listener
from ferrule.socket import socket

RECEIVE_BYTES = 64 * 1024
FLUSH_BYTES = 64 * 1024  # answers to pipelined requests are sent together up to here
STREAM_BYTES = 256 * 1024  # a cached read of this size holds the loop up for 16 µs
LINGER_SECONDS = 1.0
LINGER_BYTES = 1024 * 1024
EXPIRE_SECONDS = 5.0
ACCEPTORS = 8  # an accept takes a turn of the loop: one fiber alone would let a crowd wait long

@dataclass(slots=True)
class ServerLimits:
    """When a connection is cut off.  Times in seconds, sizes in bytes."""

    request: RequestLimits = field(default_factory=RequestLimits)
    connections: int = 10_000
    requests: int = 100_000  # on one connection
    header_timeout: float = 10.0  # from a request's first byte to its last
    keep_alive_timeout: float = 20.0  # between two requests
    write_timeout: float = 20.0  # without one byte taken
    write_rate: int = 1024  # bytes per second, on average, once write_timeout has passed
    grace: float = 10.0  # for requests in progress when the server stops


class SlowClient(Exception):
    """The client takes its answer too slowly."""


class HttpServer:
    """Serves ``files`` to the connections of one listener."""

    def __init__(self, files: StaticFiles, limits: ServerLimits | None = None) -> None:
        self.files = files
        self.limits = limits or ServerLimits()
        self.stopping = False
        self.served = 0
        self._connections: set[Connection] = set()
        self._accepting = 0  # fibers that wait for a connection
        self._changed = ferrule.Event()  # a connection ended
        self._prefixes: dict[tuple[int, int], bytes] = {}
        self._prefix_second = 0

    @property
    def crowded(self) -> bool:
        """Whether connections are scarce, so that none is kept for a possible next request."""
        return len(self._connections) >= self.limits.connections

    def serve(self, listener: Listener, stop: ferrule.Event) -> None:
        """Accept and answer until ``stop`` is set; then let requests in progress finish.

        Closes the listener.  A switch and cancellation point.
        """
        with ferrule.TaskGroup() as group:
            helpers = [group.spawn(self._accept, listener, group) for _ in range(ACCEPTORS)]
            helpers.append(group.spawn(self._expire_files))
            try:
                stop.wait()
            finally:
                for helper in helpers:
                    helper.cancel()
                listener.close()
            self._drain()
            group.cancel()

    def _drain(self) -> None:
        self.stopping = True
        for connection in tuple(self._connections):
            connection.end_if_idle()
        with ferrule.move_on_after(self.limits.grace):
            while self._connections:
                self._changed.clear()
                self._changed.wait()

    def _accept(self, listener: Listener, group: ferrule.TaskGroup) -> None:
        # The listener itself rides out lost connections and a lack of descriptors.
        while True:
            self._wait_for_room()
            self._accepting += 1
            try:
                sock = next(listener, None)
            finally:
                self._accepting -= 1
            if sock is None:
                return
            connection = Connection(self, sock)
            self._connections.add(connection)
            group.spawn(connection.run)

    def _wait_for_room(self) -> None:
        while len(self._connections) + self._accepting >= self.limits.connections:
            self._changed.clear()
            self._changed.wait()

    def _expire_files(self) -> None:
        while True:
            ferrule.sleep(EXPIRE_SECONDS)
            self.files.expire()

    def forget(self, connection: Connection) -> None:
        """Called by a connection at its end."""
        self._connections.discard(connection)
        self._changed.set()

    def prefix(self, status: HTTPStatus, version: str, keep_alive: bool) -> bytes:
        """Status line and the fields every answer begins with; made once a second."""
        now = int(time.time())
        if now != self._prefix_second:
            self._prefix_second = now
            self._prefixes.clear()
        # HTTP/1.1 keeps connections unless told otherwise, HTTP/1.0 the other way round.
        mode = (1 if version == "1.0" else 0) if keep_alive else 2
        found = self._prefixes.get((status, mode))
        if found is None:
            date = formatdate(now, usegmt=True)
            connection = ("", "Connection: keep-alive\r\n", "Connection: close\r\n")[mode]
            text = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\n"
                f"Server: ferrule\r\nDate: {date}\r\n{connection}"
            )
            found = self._prefixes[status, mode] = text.encode("ascii")
        return found


class Connection:
    """One client."""

    def __init__(self, server: HttpServer, sock: socket) -> None:
        self._server = server
        self._sock = sock
        self._limits = server.limits
        self._reader = RequestReader(server.limits.request)
        self._out: list[bytes] = []
        self._out_size = 0
        self._served = 0
        self._timeout = -1.0
        self._deadline = 0.0
        self._waiting = False  # for the first byte of a request

    def run(self) -> None:
        """Answer requests until the client or a limit ends it."""
        try:
            while self._receive():
                if not self._answer():
                    self._linger()
                    break
        except SlowClient:
            self._reset()
        except OSError:
            pass  # the client reset the connection or went away: nobody to tell
        except Exception:
            traceback.print_exc(file=sys.stderr)
        finally:
            self._sock.close()
            self._server.forget(self)

    def _reset(self) -> None:
        """Let closing drop what is still unsent: the kernel would go on feeding a slow client."""
        linger_zero = struct.pack("ii", 1, 0)
        self._sock.setsockopt(std_socket.SOL_SOCKET, std_socket.SO_LINGER, linger_zero)

    def end_if_idle(self) -> None:
        """The server stops: end a connection that has no request in progress."""
        if self._waiting:
            # Not a cancellation: a request that is in the kernel's buffer already is still read.
            try:
                self._sock.shutdown(std_socket.SHUT_RD)
            except OSError:
                pass

    # ---- reading ----

    def _receive(self) -> bool:
        """Feed the reader with what arrives next.  False: the client is done, or too late."""
        if self._reader.idle:
            return self._receive_first()
        remaining = self._deadline - time.monotonic()
        try:
            if remaining <= 0:
                raise TimeoutError
            data = self._recv(remaining)
        except TimeoutError:
            late = RequestError(HTTPStatus.REQUEST_TIMEOUT, "the request took too long to arrive")
            self._write(self._error_page(late, b"", "1.1", keep_alive=False))
            self._flush()
            self._linger()
            return False
        if data:
            self._reader.feed(data)
        return bool(data)

    def _receive_first(self) -> bool:
        if self._server.stopping:
            return False
        limits = self._limits
        self._waiting = True
        try:
            data = self._recv(limits.keep_alive_timeout if self._served else limits.header_timeout)
        except TimeoutError:
            return False
        finally:
            self._waiting = False
        self._deadline = time.monotonic() + limits.header_timeout
        if data:
            self._reader.feed(data)
        return bool(data)

    def _recv(self, timeout: float) -> bytes:
        self._set_timeout(timeout)
        return self._sock.recv(RECEIVE_BYTES)

    def _set_timeout(self, timeout: float) -> None:
        if timeout != self._timeout:
            self._timeout = timeout
            self._sock.settimeout(timeout)

    def _linger(self) -> None:
        """Close so that the answer arrives: closing with unread input would send a reset."""
        self._sock.shutdown(std_socket.SHUT_WR)
        end = time.monotonic() + LINGER_SECONDS
        dropped = 0
        while dropped < LINGER_BYTES and (remaining := end - time.monotonic()) > 0:
            data = self._recv(remaining)
            if not data:
                return
            dropped += len(data)

    # ---- answering ----

    def _answer(self) -> bool:
        """Answer what has arrived completely.  False: the connection ends here."""
        while True:
            try:
                request = self._reader.take()
            except RequestError as exc:
                self._write(self._error_page(exc, b"", "1.1", keep_alive=False))
                self._flush()
                return False
            if request is None:
                break
            if not self._answer_one(request):
                self._flush()
                return False
        going_on = self._answer_expectation()
        self._flush()
        return going_on

    def _answer_one(self, request: Request) -> bool:
        self._served += 1
        self._server.served += 1
        self._deadline = time.monotonic() + self._limits.header_timeout
        keep_alive = (
            request.keep_alive
            and self._served < self._limits.requests
            and not self._server.stopping
            and not self._server.crowded
        )
        try:
            self._respond(request, keep_alive)
        except RequestError as exc:
            self._write(self._error_page(exc, request.method, request.version, keep_alive))
        return keep_alive

    def _answer_expectation(self) -> bool:
        waiting = self._reader.awaits_continue
        if waiting is None:
            return True
        if waiting.method in (b"GET", b"HEAD"):
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return True
        # The final answer now spares the client the body; what it would send is unknown: close.
        self._write(self._error_page(_NOT_ALLOWED, waiting.method, waiting.version, False))
        return False

    def _respond(self, request: Request, keep_alive: bool) -> None:
        if request.method not in (b"GET", b"HEAD"):
            raise _NOT_ALLOWED
        path, query = split_target(request.target)
        files = self._server.files
        file = files.fresh(path)
        if file is not None:
            self._send_file(file, request, keep_alive)
            return
        resource = files.load(path)
        if isinstance(resource, OpenFile):
            resource.acquire()
            try:
                files.keep(path, resource)
                self._send_file(resource, request, keep_alive)
            finally:
                resource.release()
        else:
            self._write(self._page(resource, query, request, keep_alive))

    def _page(
        self, resource: Redirect | Page, query: bytes, request: Request, keep_alive: bool
    ) -> bytes:
        if isinstance(resource, Page):
            status, fields, body = HTTPStatus.OK, resource.fields, resource.body
        else:
            status, body = HTTPStatus.MOVED_PERMANENTLY, b""
            fields = b"Location: %s%s\r\nX-Content-Type-Options: nosniff\r\n" % (
                resource.location, query,
            )
        prefix = self._server.prefix(status, request.version, keep_alive)
        head = b"%s%sContent-Length: %d\r\n\r\n" % (prefix, fields, len(body))
        return head if request.method == b"HEAD" else head + body

    def _error_page(
        self, error: RequestError, method: bytes, version: str, keep_alive: bool
    ) -> bytes:
        status = error.status
        body = b"" if status is HTTPStatus.NOT_FOUND and not error.detail else (
            f"<!DOCTYPE html>\n<title>{status.value} {status.phrase}</title>\n"
            f"<h1>{status.value} {status.phrase}</h1>\n<p>{escape(error.detail)}</p>\n"
        ).encode()
        extra = _EXTRA_FIELDS.get(status, b"")
        return (
            b"%s%sContent-Type: text/html; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"
            b"Content-Length: %d\r\n\r\n%s"
        ) % (
            self._server.prefix(status, version, keep_alive),
            extra,
            len(body),
            b"" if method == b"HEAD" else body,
        )

    def _send_file(self, file: OpenFile, request: Request, keep_alive: bool) -> None:
        prefix = self._server.prefix
        if not request.fields and request.method == b"GET" and file.body is not None:
            self._write(prefix(HTTPStatus.OK, request.version, keep_alive) + file.whole)
            return
        if b"range" in request.repeated:
            request.fields.pop(b"range")
        chosen = select(
            request.method, request.fields,
            size=file.size, etag=file.etag, modified=file.modified,
        )
        start = prefix(chosen.status, request.version, keep_alive)
        if chosen.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            extra = b""
            if chosen.status is HTTPStatus.PARTIAL_CONTENT:
                extra = b"Content-Range: bytes %d-%d/%d\r\n" % (
                    chosen.start, chosen.stop - 1, file.size,
                )
            length = chosen.stop - chosen.start
            self._write(
                b"%s%s%sContent-Length: %d\r\n\r\n" % (start, file.fields, extra, length)
            )
            if request.method == b"GET":
                self._send_body(file, chosen.start, chosen.stop)
        elif chosen.status is HTTPStatus.NOT_MODIFIED:
            self._write(start + file.fields + b"\r\n")
        elif chosen.status is HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            extra = b"Content-Range: bytes */%d\r\n" % file.size
            self._write(start + file.fields + extra + b"Content-Length: 0\r\n\r\n")
        else:
            self._write(start + b"X-Content-Type-Options: nosniff\r\nContent-Length: 0\r\n\r\n")

    # ---- writing ----

    def _write(self, data: bytes) -> None:
        self._out.append(data)
        self._out_size += len(data)
        if self._out_size >= FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._out:
            return
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        self._out_size = 0
        self._set_timeout(self._limits.write_timeout)
        try:
            sent = self._sock.send(data)
        except TimeoutError:
            sent = 0
        if sent < len(data):
            rest = memoryview(data)[sent:]
            self._send_all(rest, Progress(self._sock.fileno(), self._limits))

    def _send_body(self, file: OpenFile, start: int, stop: int) -> None:
        if file.body is not None:
            self._write(file.body[start:stop])
            return
        self._flush()
        file.acquire()
        try:
            self._stream(file.file, start, stop)
        finally:
            file.release()

    def _stream(self, file: File, at: int, stop: int) -> None:
        """Send part of a file.  If it shrank meanwhile the connection ends: the rest is missing."""
        progress = Progress(self._sock.fileno(), self._limits)
        buffer = memoryview(bytearray(min(STREAM_BYTES, stop - at)))
        self._set_timeout(self._limits.write_timeout)
        while at < stop:
            count = file.readinto_at(buffer[: stop - at], at)
            if not count:
                raise ConnectionAbortedError("the file became shorter while it was sent")
            at += count
            self._send_all(buffer[:count], progress)

    def _send_all(self, data: memoryview, progress: Progress) -> None:
        while data:
            try:
                sent = self._sock.send(data)
            except TimeoutError:
                progress.check_stalled()
            else:
                progress.add(sent)
                data = data[sent:]


class Progress:
    """Whether a client takes its answer fast enough.

    What counts is what its side has acknowledged.  The kernel takes megabytes at once into the send
    buffer and then no more until a third of them is gone, so what send() reports says little.
    """

    def __init__(self, fd: int, limits: ServerLimits) -> None:
        self._fd = fd
        self._limits = limits
        self._start = self._next_look = time.monotonic()
        self._sent = 0
        self._taken = -self._queued()

    def add(self, count: int) -> None:
        """Count bytes sent.  Raises SlowClient when too few are taken."""
        self._sent += count
        if time.monotonic() > self._next_look:
            self._look()

    def check_stalled(self) -> None:
        """A send timed out.  Raises SlowClient unless something was taken meanwhile."""
        before = self._taken
        self._look()
        if self._taken == before:
            raise SlowClient

    def _look(self) -> None:
        now = time.monotonic()
        self._next_look = now + 1.0
        self._taken = self._sent - self._queued()
        seconds = now - self._start
        if seconds > self._limits.write_timeout and self._taken < seconds * self._limits.write_rate:
            raise SlowClient

    def _queued(self) -> int:
        """Bytes that the client has not acknowledged."""
        count: int
        (count,) = struct.unpack("i", fcntl.ioctl(self._fd, termios.TIOCOUTQ, b"\0\0\0\0"))
        return count


_NOT_ALLOWED = RequestError(HTTPStatus.METHOD_NOT_ALLOWED, "files here can only be read")
_EXTRA_FIELDS = {
    HTTPStatus.METHOD_NOT_ALLOWED: b"Allow: GET, HEAD\r\n",
    HTTPStatus.SERVICE_UNAVAILABLE: b"Retry-After: 1\r\n",
}
