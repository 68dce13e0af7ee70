"""The short way to sockets: connecting, listening, serving, waiting for a descriptor."""

from __future__ import annotations

import _socket as _low
import collections
import errno
import os
import select
import socket as _std
from collections.abc import Callable
from typing import Any, Protocol

from ferrule._core.queues import Empty, Queue
from ferrule._core.scheduler import (
    CancelScope,
    ConcurrencyUnavailable,
    sleep,
)
from ferrule._core.sockets import in_fiber, report_unraisable, wait_ready
from ferrule._core.sync import Event
from ferrule.clocks import now
from ferrule.resolver import AddressInfo, getaddrinfo, is_numeric, worst_error
from ferrule.socket import Address, socket
from ferrule.tasks import TaskGroup, move_on_after, shield

BACKLOG = 1024
STAGGER_S = 0.25          # RFC 8305, section 5: Connection Attempt Delay
RESOLUTION_DELAY_S = 0.05  # RFC 8305, section 3

# accept(2): the connection was gone before it was taken, or a network error that belongs to it.
_LOST_CONNECTION = {
    getattr(errno, name)
    for name in (
        "ECONNABORTED", "EPROTO", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EHOSTUNREACH",
        "EOPNOTSUPP", "ENETUNREACH", "EPERM", "EINTR",
    )
    if hasattr(errno, name)
}
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_BACK_OFF_FIRST_S = 0.01
_BACK_OFF_MAX_S = 0.5


class HasFileno(Protocol):
    """What has a descriptor."""

    def fileno(self) -> int: ...


# ---- other libraries' descriptors ----

def wait_readable(fd: int | HasFileno, timeout: float | None = None) -> None:
    """Park until ``fd`` can be read without blocking, or has an error or its end to tell.

    For descriptors of other libraries; nothing is read.  ``timeout`` is in seconds; TimeoutError
    when it passes.  Whoever closes the descriptor ends the waits first.  A switch and cancellation
    point.
    """
    wait_ready(fd, select.POLLIN, timeout)


def wait_writable(fd: int | HasFileno, timeout: float | None = None) -> None:
    """Park until ``fd`` can be written without blocking, or has an error to tell.

    See `wait_readable`.
    """
    wait_ready(fd, select.POLLOUT, timeout)


# ---- connecting ----

def connect_tcp(
    host: str,
    port: int | str,
    timeout: float | None = None,
    *,
    local: tuple[str, int] | None = None,
    stagger: float = STAGGER_S,
) -> socket:
    """Connect to a host by name or address, over whichever of its addresses answers first.

    As RFC 8305 (happy eyeballs) has it: IPv6 and IPv4 are looked up at the same time and tried in
    turn, the next one ``stagger`` seconds after the last or when that fails; the losers are
    cancelled and closed.  ``timeout`` is in seconds, for everything; ``local`` is the address to
    connect from.  TCP_NODELAY is set.  Raises TimeoutError, socket.gaierror, or the OSError of the
    first attempt with the address in it (all of them, when they differ, as its __cause__).  A
    switch and cancellation point.
    """
    conn: socket | None = None
    with _limit(timeout) as scope:
        if is_numeric(host):
            conn = _connect_first(getaddrinfo(host, port, 0, _low.SOCK_STREAM), local)
        else:
            conn = _Race(host, port, local, stagger).run()
    if conn is None:
        if scope.cancelled_caught:
            raise TimeoutError(errno.ETIMEDOUT, "timed out", _written((host, port)))
        raise OSError(errno.EADDRNOTAVAIL, "no address to connect to", _written((host, port)))
    return conn


def _limit(timeout: float | None) -> CancelScope:
    return CancelScope() if timeout is None else move_on_after(timeout)


def _connect_first(infos: list[AddressInfo], local: Address) -> socket:
    errors: list[Exception] = []
    for info in infos:
        try:
            return _attempt(info, local)
        except OSError as exc:
            errors.append(exc)
    raise _failure(errors)


def _attempt(info: AddressInfo, local: Address) -> socket:
    family, kind, proto, _, address = info
    sock = socket(family, kind, proto)
    try:
        sock.setsockopt(_low.IPPROTO_TCP, _low.TCP_NODELAY, 1)
        if local is not None:
            sock.bind(local)
        sock.connect(address)
    except OSError as exc:
        sock.close()
        if exc.errno is None or isinstance(exc, _low.gaierror):
            raise
        raise OSError(exc.errno, exc.strerror, _written(address)) from None
    except BaseException:
        sock.close()
        raise
    return sock


def _failure(errors: list[Exception]) -> Exception:
    """One exception for several attempts: the first, with all as its cause if they differ."""
    first = errors[0]
    if len({(type(exc), getattr(exc, "errno", None)) for exc in errors}) > 1:
        first.__cause__ = ExceptionGroup("no address answered", errors[1:])
    return first


def _written(address: Address) -> str:
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(address)


class _Race:
    """Happy eyeballs: look-ups and attempts are fibers that report to one queue."""

    def __init__(self, host: str, port: int | str, local: Address, stagger: float) -> None:
        self.host, self.port, self.local, self.stagger = host, port, local, stagger
        self.reports: Queue[Any] = Queue()
        self.waiting: dict[int, collections.deque[AddressInfo]] = {
            _low.AF_INET6: collections.deque(),
            _low.AF_INET: collections.deque(),
        }
        self.lookups = 0
        self.attempts = 0
        self.errors: list[Exception] = []
        self.last_family = int(_low.AF_INET)  # so that IPv6 comes first
        self.not_before = 0.0

    def run(self) -> socket:
        winner: socket | None = None
        try:
            with TaskGroup() as group:
                self.group = group
                for family in self.waiting:
                    self.lookups += 1
                    group.spawn(self.look_up, family)
                winner = self.decide()
                group.cancel()
        except BaseException:
            if winner is not None:
                winner.close()
            raise
        finally:
            self.close_losers()
        if winner is not None:
            return winner
        raise _failure(self.errors) if self.tried else worst_error(self.errors)

    @property
    def tried(self) -> bool:
        return any(not isinstance(exc, _low.gaierror) for exc in self.errors)

    def decide(self) -> socket | None:
        while True:
            wait = self.time_to_next()
            if wait == 0:
                self.start_next()
                continue
            if wait is None and not self.lookups and not self.attempts:
                if self.tried:  # a family without addresses says nothing then
                    self.errors = [e for e in self.errors if not isinstance(e, _low.gaierror)]
                return None
            try:
                report = self.reports.get(timeout=wait)
            except Empty:
                continue
            if isinstance(report, socket):
                return report
            self.take(report)

    def time_to_next(self) -> float | None:
        """Seconds until an attempt may start; None: there is none to start."""
        if not any(self.waiting.values()):
            return None
        return max(0.0, self.not_before - now())

    def start_next(self) -> None:
        other = _low.AF_INET if self.last_family == _low.AF_INET6 else _low.AF_INET6
        family = other if self.waiting[other] else self.last_family
        self.last_family = family
        self.attempts += 1
        self.not_before = now() + self.stagger
        self.group.spawn(self.attempt, self.waiting[family].popleft())

    def take(self, report: tuple[int, list[AddressInfo]] | Exception) -> None:
        if isinstance(report, tuple):
            family, infos = report
            first = not self.attempts and not any(self.waiting.values())
            self.lookups -= 1
            self.waiting[family].extend(infos)
            if family == _low.AF_INET and infos and first and self.lookups:
                self.not_before = now() + RESOLUTION_DELAY_S  # IPv6 may be on its way
            elif first or (family == _low.AF_INET6 and not self.attempts):
                self.not_before = 0.0
        else:
            self.attempts -= 1
            self.errors.append(report)
            self.not_before = 0.0  # the next one at once

    def look_up(self, family: int) -> None:
        try:
            infos = getaddrinfo(self.host, self.port, family, _low.SOCK_STREAM)
        except Exception as exc:  # whatever it is, it belongs to the caller of connect_tcp
            self.errors.append(exc)
            infos = []
        self.reports.put_nowait((family, infos))

    def attempt(self, info: AddressInfo) -> None:
        try:
            conn = _attempt(info, self.local)
        except Exception as exc:
            self.reports.put_nowait(exc)
        else:
            self.reports.put_nowait(conn)

    def close_losers(self) -> None:
        while not self.reports.empty():
            report = self.reports.get_nowait()
            if isinstance(report, socket):
                report.close()


def connect_unix(path: str | bytes | os.PathLike[str], timeout: float | None = None) -> socket:
    """Connect to a Unix stream socket; a name that begins with a zero byte is an abstract one.

    ``timeout`` is in seconds; TimeoutError when it passes.  Waits while the listener's backlog is
    full.  OSError names the path.  A switch and cancellation point.
    """
    address = os.fspath(path)
    sock = socket(_low.AF_UNIX, _low.SOCK_STREAM)
    try:
        with _limit(timeout) as scope:
            sock.connect(address)
        if scope.cancelled_caught:
            raise TimeoutError(errno.ETIMEDOUT, "timed out", address)
    except BaseException as exc:
        sock.close()
        if isinstance(exc, OSError) and exc.errno is not None and exc.filename is None:
            raise OSError(exc.errno, exc.strerror, address) from None
        raise
    return sock


# ---- listening ----

class Listener(socket):
    """A listening socket.  Iterating gives accepted sockets until it is closed.

    The iteration skips connections that were gone before they were taken, and when there is no
    descriptor or memory for one more it waits a little and goes on, instead of failing.
    """

    __slots__ = ("_path",)

    def __init__(
        self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None
    ) -> None:
        super().__init__(family, type, proto, fileno)
        self._path: tuple[str | bytes, int, int] | None = None

    def __iter__(self) -> Listener:
        return self

    def __next__(self) -> socket:
        delay = _BACK_OFF_FIRST_S
        while True:
            try:
                return self.accept()[0]
            except OSError as exc:
                if self._closed:
                    raise StopIteration from None
                if exc.errno in _NO_ROOM:
                    sleep(delay)
                    delay = min(2 * delay, _BACK_OFF_MAX_S)
                elif exc.errno not in _LOST_CONNECTION:
                    raise

    def _real_close(self) -> None:
        path, self._path = self._path, None
        if path is not None:
            _off_loop(_unlink_if_same, *path)
        super()._real_close()


def _off_loop(fn: Callable[..., Any], *args: Any) -> Any:
    """Calls on paths may sleep: in a worker thread, where there is a loop to keep free."""
    if not in_fiber():
        return fn(*args)
    from ferrule.workers import blocking

    with shield():
        return blocking(fn, *args)


def listen_tcp(
    host: str | None,
    port: int | str,
    *,
    backlog: int = BACKLOG,
    reuse_port: bool = False,
) -> Listener:
    """Listen for TCP connections; iterate over the result for accepted sockets.

    ``host`` None or "" is every interface, IPv4 and IPv6 where the system can; port 0 picks a free
    one (``getsockname()[1]``); of a name's addresses the first that can be taken is used.
    SO_REUSEADDR is set; accepted sockets have TCP_NODELAY.  ``reuse_port`` lets several processes
    listen.  Raises OSError with the address in it, or
    socket.gaierror.  A switch point if the host is a name.
    """
    errors: list[Exception] = []
    for family, kind, proto, _, address in _local_addresses(host, port, _low.SOCK_STREAM):
        sock = Listener(family, kind, proto)
        try:
            sock.setsockopt(_low.SOL_SOCKET, _low.SO_REUSEADDR, 1)
            sock.setsockopt(_low.IPPROTO_TCP, _low.TCP_NODELAY, 1)  # accepted sockets inherit it
            if reuse_port:
                sock.setsockopt(_low.SOL_SOCKET, _low.SO_REUSEPORT, 1)
            if family == _low.AF_INET6:
                sock.setsockopt(_low.IPPROTO_IPV6, _low.IPV6_V6ONLY, 0 if not host else 1)
            sock.bind(address)
            sock.listen(backlog)
            return sock
        except OSError as exc:
            sock.close()
            errors.append(OSError(exc.errno, exc.strerror, _written(address)))
        except BaseException:
            sock.close()
            raise
    raise _failure(errors)


def _local_addresses(host: str | None, port: int | str, kind: int) -> list[AddressInfo]:
    infos = getaddrinfo(host or None, port, 0, kind, 0, _low.AI_PASSIVE)
    if not host and _std.has_dualstack_ipv6():  # one socket for both
        infos.sort(key=lambda info: info[0] != _low.AF_INET6)
    return infos


def listen_unix(
    path: str | bytes | os.PathLike[str], *, backlog: int = BACKLOG, mode: int | None = None
) -> Listener:
    """Listen on a Unix stream socket; iterate over the result for accepted sockets.

    A name that begins with a zero byte is an abstract one.  A socket file that nobody listens on
    any more is replaced, and ours is removed when the listener is closed.  ``mode`` sets its
    permission bits.  OSError names the path.  A switch point.
    """
    address = os.fspath(path)
    is_path = address[:1] not in ("\0", b"\0", "", b"")
    sock = Listener(_low.AF_UNIX, _low.SOCK_STREAM)
    try:
        if is_path:
            sock._path = (address, *_off_loop(_bind_unix, sock._sock, address, mode))
        else:
            sock.bind(address)
        sock.listen(backlog)
    except BaseException as exc:
        sock.close()
        if isinstance(exc, OSError) and exc.errno is not None and exc.filename is None:
            raise OSError(exc.errno, exc.strerror, address) from None
        raise
    return sock


def _bind_unix(sock: Any, path: str | bytes, mode: int | None) -> tuple[int, int]:
    try:
        sock.bind(path)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE or not _is_stale(path):
            raise
        os.unlink(path)
        sock.bind(path)
    if mode is not None:
        os.chmod(path, mode)
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _is_stale(path: str | bytes) -> bool:
    with _std.socket(_low.AF_UNIX, _low.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return bool(probe.connect_ex(path) == errno.ECONNREFUSED)


def _unlink_if_same(path: str | bytes, device: int, inode: int) -> None:
    try:
        status = os.stat(path)
        if (status.st_dev, status.st_ino) == (device, inode):
            os.unlink(path)
    except OSError:
        pass  # somebody else took it away


def udp_socket(
    local: tuple[Any, ...] | None = None,
    remote: tuple[Any, ...] | None = None,
    *,
    family: int | None = None,
    reuse_port: bool = False,
) -> socket:
    """A UDP socket, bound to ``local`` and connected to ``remote`` where they are given.

    Addresses are ``(host, port)``; an empty local host is every interface.  The family is that of
    the addresses, IPv4 without any.  Raises OSError with the address in it, or socket.gaierror.  A
    switch point if a host is a name.
    """
    wanted = family or 0
    target = getaddrinfo(remote[0], remote[1], wanted, _low.SOCK_DGRAM)[0] if remote else None
    wanted = wanted or (target[0] if target else 0)
    source = None
    if local is not None:
        host = local[0] or None
        flags = _low.AI_PASSIVE
        if host is None and not wanted:
            wanted = _low.AF_INET
        source = getaddrinfo(host, local[1], wanted, _low.SOCK_DGRAM, 0, flags)[0]
    sock = socket(wanted or (source[0] if source else _low.AF_INET), _low.SOCK_DGRAM)
    address: Address = None
    try:
        if reuse_port:
            sock.setsockopt(_low.SOL_SOCKET, _low.SO_REUSEPORT, 1)
        if source is not None:
            address = source[4]
            sock.bind(address)
        if target is not None:
            address = target[4]
            sock.connect(address)
    except BaseException as exc:
        sock.close()
        if isinstance(exc, OSError) and exc.errno is not None:
            raise OSError(exc.errno, exc.strerror, _written(address)) from None
        raise
    return sock


# ---- serving ----

Handler = Callable[[socket], object]


def serve_tcp(
    handler: Handler,
    host: str | None,
    port: int | str,
    *,
    backlog: int = BACKLOG,
    reuse_port: bool = False,
    max_connections: int | None = None,
    grace: float | None = None,
    on_listening: Callable[[Listener], object] | None = None,
    on_error: Callable[[socket, Exception], object] | None = None,
) -> None:
    """Listen as `listen_tcp` does and serve every connection in a fiber of its own, until stopped.

    ``on_listening(listener)`` is called once the address is taken: the place to learn the port, and
    to keep the listener, whose `close` stops the server gracefully.  The rest as `serve`.
    """
    with listen_tcp(host, port, backlog=backlog, reuse_port=reuse_port) as listener:
        assert isinstance(listener, Listener)
        if on_listening is not None:
            on_listening(listener)
        serve(
            handler, listener, max_connections=max_connections, grace=grace, on_error=on_error
        )


def serve(
    handler: Handler,
    listener: Listener,
    *,
    max_connections: int | None = None,
    grace: float | None = None,
    on_error: Callable[[socket, Exception], object] | None = None,
) -> None:
    """Run ``handler(conn)`` in a fiber for every connection that a listener accepts.

    Returns after the listener was closed (by any fiber): running handlers then have ``grace``
    seconds to end (None: as long as they take), and are cancelled after that.  When this fiber is
    cancelled they are cancelled at once.  A connection is closed when its handler ends.

    With ``max_connections`` handlers running, no more are accepted: they wait in the backlog.  An
    exception in a handler goes to ``on_error(conn, exc)``, by default to sys.unraisablehook, and
    ends nothing but that connection.  A switch and cancellation point.
    """
    if max_connections is not None and max_connections < 1:
        raise ValueError("max_connections must be at least 1")
    _Server(handler, listener, max_connections, on_error).run(grace)


class _Server:
    def __init__(
        self,
        handler: Handler,
        listener: Listener,
        limit: int | None,
        on_error: Callable[[socket, Exception], object] | None,
    ) -> None:
        self.handler = handler
        self.listener = listener
        self.limit = limit
        self.on_error = on_error
        self.active: set[socket] = set()  # changed by every loop thread, each time in one step
        self.changed = Event()  # a handler ended

    def run(self, grace: float | None) -> None:
        with TaskGroup() as group:
            while (conn := self.next_connection()) is not None:
                self.start(group, conn)
            if grace is not None:
                self.wait_below(1, now() + grace)
                group.cancel()

    def next_connection(self) -> socket | None:
        if self.limit is not None:
            self.wait_below(self.limit, None)
        return next(self.listener, None)

    def wait_below(self, limit: int, until: float | None) -> bool:
        while True:
            self.changed.clear()  # before the look: a handler may end now, on another thread
            if len(self.active) < limit:
                return True
            left = None if until is None else until - now()
            if left is not None and left <= 0:
                return False
            self.changed.wait(left)

    def start(self, group: TaskGroup, conn: socket) -> None:
        self.active.add(conn)
        try:
            while True:
                try:
                    group.spawn(self.handle, conn)
                    return
                except ConcurrencyUnavailable:  # max_fibers: as with descriptors, wait
                    self.changed.clear()
                    self.changed.wait(_BACK_OFF_MAX_S)
        except BaseException:
            self.active.discard(conn)
            conn.close()
            raise

    def handle(self, conn: socket) -> None:
        try:
            self.handler(conn)
        except Exception as exc:
            self.report(conn, exc)
        finally:
            self.active.discard(conn)
            self.changed.set()
            conn.close()

    def report(self, conn: socket, exc: Exception) -> None:
        if self.on_error is not None:
            self.on_error(conn, exc)
        else:
            report_unraisable(exc, self.handler)
