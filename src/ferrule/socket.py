"""The standard socket module's names, parking the fiber where that one blocks the thread.

A socket here owns one of the standard library's, which keeps doing what cannot wait: addresses,
options, ancillary data.  What can wait is in `SocketCore` and in the calls made through it.

Differences from the standard module: host names are looked up on other threads; several fibers'
`send` and `sendall` on one socket take turns, so messages do not mix; closing a socket ends what
other fibers do with it (EBADF) instead of leaving them waiting; `send_many`, `recv_many` and
`lookup` are added.  A socket's file from `makefile` is for one fiber per direction.
"""

from __future__ import annotations

import _socket as _low
import enum
import errno
import functools
import io
import os
import socket as _std
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from ferrule._core.sockets import SocketCore, in_fiber
from ferrule.resolver import *  # noqa: F403
from ferrule.resolver import getaddrinfo, is_numeric

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

Address: TypeAlias = Any
Ancillary: TypeAlias = list[tuple[int, int, bytes]]
Received: TypeAlias = tuple[bytes, Ancillary, int, Address]

Message: TypeAlias = "ReadableBuffer | tuple[Any, ...]"

_DONTWAIT = _low.MSG_DONTWAIT
_TCP_ULP = 31  # Linux: kernel TLS and its like; the socket module has no name for it


class socket(SocketCore):
    """One end of a connection; see socket.socket.

    Methods that wait are switch and cancellation points and need a runtime; the others work
    anywhere.  Several fibers may use one socket.
    """

    __slots__ = ("__weakref__", "_closed", "_io_refs", "_lingers")

    def __init__(
        self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None
    ) -> None:
        if fileno is None:
            family = _low.AF_INET if family == -1 else family
            type = _low.SOCK_STREAM if type == -1 else type
            proto = 0 if proto == -1 else proto
        inner = _low.socket(family, type, proto, fileno)
        timeout = inner.gettimeout()  # the default timeout
        if timeout is not None:
            inner.setblocking(False)
        super().__init__(inner, timeout)
        self._io_refs = 0
        self._closed = False
        self._lingers = False

    # ---- what it is ----

    @property
    def family(self) -> int:
        """The address family."""
        return _as_enum(self._sock.family, _std.AddressFamily)

    @property
    def type(self) -> int:
        """The socket type."""
        return _as_enum(self._sock.type, _std.SocketKind)

    @property
    def proto(self) -> int:
        """The protocol."""
        return int(self._sock.proto)

    @property
    def timeout(self) -> float | None:
        """As `gettimeout`."""
        return self.gettimeout()

    def __repr__(self) -> str:
        closed = self.fileno() < 0
        text = (
            f"<{self.__class__.__module__}.{self.__class__.__qualname__}"
            f"{' [closed]' if closed else ''} fd={self.fileno()}, family={self.family}, "
            f"type={self.type}, proto={self.proto}"
        )
        if not closed:
            for label, name in ("laddr", self.getsockname), ("raddr", self.getpeername):
                try:
                    address = name()
                except OSError:
                    continue
                if address:
                    text += f", {label}={address}"
        return text + ">"

    def __getstate__(self) -> Any:
        raise TypeError(f"cannot pickle {self.__class__.__name__!r} object")

    def __reduce__(self) -> Any:
        raise TypeError(f"cannot pickle {self.__class__.__name__!r} object")

    # ---- timeouts ----

    def settimeout(self, timeout: float | None) -> None:
        """Limit each operation to ``timeout`` seconds; None: no limit; 0: never wait.

        For operations that begin from now on.
        """
        self._set_timeout(timeout)
        # A listener stays O_NONBLOCK, also for its duplicates: accept tries before it waits.
        self._sock.setblocking(
            timeout is None and not self._sock.getsockopt(_low.SOL_SOCKET, _low.SO_ACCEPTCONN)
        )

    def setblocking(self, flag: bool) -> None:
        """``settimeout(None)`` if true, else ``settimeout(0)``."""
        self.settimeout(None if flag else 0.0)

    def getblocking(self) -> bool:
        """Whether operations may wait."""
        return self.gettimeout() != 0.0

    # ---- addresses and connections ----

    def _resolved(self, address: Address) -> Address:
        # Where the standard socket would look a name up on this thread.
        family = self._sock.family
        if family not in (_low.AF_INET, _low.AF_INET6) or not isinstance(address, tuple):
            return address
        if not address or address[0] in ("", b"", "<broadcast>") or is_numeric(address[0], family):
            return address
        found = getaddrinfo(address[0], None, family)
        return (found[0][4][0], *address[1:])

    def bind(self, address: Address) -> None:
        """See socket.bind.  A host name is looked up first, which is a switch point."""
        address = self._resolved(address)
        if self._sock.family == _low.AF_UNIX and _is_path(address) and in_fiber():
            from ferrule.workers import blocking

            blocking(self._sock.bind, address)  # makes a file
        else:
            self._sock.bind(address)

    def listen(self, backlog: int = 128) -> None:
        """See socket.listen.  Not a switch point."""
        self._sock.listen(backlog)
        self._sock.setblocking(False)  # accept tries before it waits
        self._tries_accept = True

    def accept(self) -> tuple[socket, Address]:
        """(socket, address) of the next connection; see socket.accept."""
        return self._accepted(*self._accept())

    def _accepted(self, fd: int, address: Address) -> tuple[socket, Address]:
        try:
            conn = socket(self._sock.family, self._sock.type, self._sock.proto, fileno=fd)
        except BaseException:
            _low.close(fd)
            raise
        return conn, conn._sock.getpeername() if address is None else address

    def connect(self, address: Address) -> None:
        """See socket.connect.  After a timeout or a cancellation only closing makes sense."""
        err = self._connect(self._resolved(address))
        if err:
            raise OSError(err, os.strerror(err))

    def connect_ex(self, address: Address) -> int:
        """See socket.connect_ex: an errno instead of an exception, 0 for success."""
        address = self._resolved(address)
        try:
            return int(self._connect(address))
        except TimeoutError:
            return errno.EAGAIN
        except OSError as exc:
            if exc.errno is None:
                raise
            return exc.errno

    def shutdown(self, how: int) -> None:
        """See socket.shutdown.  Not a switch point."""
        self._sock.shutdown(how)

    def getsockname(self) -> Address:
        """See socket.getsockname."""
        return self._sock.getsockname()

    def getpeername(self) -> Address:
        """See socket.getpeername."""
        return self._sock.getpeername()

    def getsockopt(self, *args: Any) -> Any:
        """See socket.getsockopt."""
        return self._sock.getsockopt(*args)

    def setsockopt(self, *args: Any) -> None:
        """See socket.setsockopt."""
        self._sock.setsockopt(*args)
        if args[:2] == (_low.SOL_SOCKET, _low.SO_LINGER):
            self._lingers = True
        elif args[:2] == (_low.IPPROTO_TCP, _TCP_ULP):
            self._learn_reads()

    def get_inheritable(self) -> bool:
        """Whether the descriptor is inherited by a new program."""
        return os.get_inheritable(self.fileno())

    def set_inheritable(self, inheritable: bool) -> None:
        """Have the descriptor inherited by a new program, or not."""
        os.set_inheritable(self.fileno(), inheritable)

    # ---- datagrams and messages ----

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Address]:
        """See socket.recvfrom."""
        result: tuple[bytes, Address] = self._recv_call(
            not flags & _DONTWAIT, self._sock.recvfrom, bufsize, flags | _DONTWAIT
        )
        return result

    def recvfrom_into(
        self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0
    ) -> tuple[int, Address]:
        """See socket.recvfrom_into."""
        result: tuple[int, Address] = self._recv_call(
            not flags & _DONTWAIT, self._sock.recvfrom_into, buffer, nbytes, flags | _DONTWAIT
        )
        return result

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0) -> Received:
        """See socket.recvmsg."""
        result: Received = self._recv_call(
            not flags & _DONTWAIT, self._sock.recvmsg, bufsize, ancbufsize, flags | _DONTWAIT
        )
        return result

    def recvmsg_into(
        self, buffers: Iterable[WriteableBuffer], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, Ancillary, int, Address]:
        """See socket.recvmsg_into."""
        result: tuple[int, Ancillary, int, Address] = self._recv_call(
            not flags & _DONTWAIT,
            self._sock.recvmsg_into,
            list(buffers),
            ancbufsize,
            flags | _DONTWAIT,
        )
        return result

    def sendto(self, data: ReadableBuffer, *args: Any) -> int:
        """``sendto(data[, flags], address)``; see socket.sendto."""
        if not 1 <= len(args) <= 2:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({1 + len(args)} given)")
        flags = args[0] if len(args) == 2 else 0
        address = self._resolved(args[-1])
        waits = not flags & _DONTWAIT
        return int(
            self._send_call(waits, self._sock.sendto, data, flags | _DONTWAIT, address)
        )

    def sendmsg(
        self,
        buffers: Iterable[ReadableBuffer],
        ancdata: Iterable[tuple[int, int, ReadableBuffer]] = (),
        flags: int = 0,
        address: Address = None,
    ) -> int:
        """See socket.sendmsg."""
        return int(
            self._send_call(
                not flags & _DONTWAIT,
                self._sock.sendmsg,
                list(buffers),
                list(ancdata),
                flags | _DONTWAIT,
                *(() if address is None else (self._resolved(address),)),
            )
        )

    if hasattr(_low.socket, "sendmsg_afalg"):

        def sendmsg_afalg(
            self, msg: Iterable[ReadableBuffer] = (), *, flags: int = 0, **settings: Any
        ) -> int:
            """See socket.sendmsg_afalg."""
            send = functools.partial(
                self._sock.sendmsg_afalg, list(msg), flags=flags | _DONTWAIT, **settings
            )
            return int(self._send_call(not flags & _DONTWAIT, send))

    def send_many(
        self, messages: Iterable[Message], flags: int = 0, timeout: float | None = None
    ) -> SentCount:
        """Send several messages in one call; how many were sent.

        A message is a bytes-like object, or ``(buffers[, ancdata[, address]])`` as for `sendmsg`,
        where ``buffers`` is one bytes-like object or several.  ``timeout`` is in seconds and for
        all of them; None: the socket's own.  When one fails (or the timeout passes, or the fiber is
        cancelled) those before it count: the result is their number, and its ``error`` is the
        exception, otherwise None; only if the very first fails is it raised.  On a stream a
        message counts when all of it was taken.  A switch and cancellation point.
        """
        prepared = [self._prepared(message) for message in messages]
        return SentCount(*self._send_messages(prepared, flags, timeout))

    def _prepared(self, message: Message) -> tuple[list[Any], list[Any], tuple[Any, ...]]:
        if not isinstance(message, tuple):
            return [memoryview(message)], [], ()
        if not 1 <= len(message) <= 3:
            raise TypeError("a message is bytes or (buffers[, ancdata[, address]])")
        parts: tuple[Any, ...] = message
        try:
            buffers = [memoryview(parts[0])]
        except TypeError:
            buffers = [memoryview(one) for one in parts[0]]
        ancdata = list(parts[1] or ()) if len(parts) > 1 else []
        has_address = len(parts) > 2 and parts[2] is not None
        return buffers, ancdata, (self._resolved(parts[2]),) if has_address else ()

    def recv_many(
        self,
        n: int,
        bufsize: int,
        ancbufsize: int = 0,
        flags: int = 0,
        timeout: float | None = None,
    ) -> ReceivedMessages:
        """Wait for a message, and take up to ``n`` of those that are there then.

        Returns a list of `recvmsg`'s results ``(data, ancdata, msg_flags, address)``, each of at
        most ``bufsize`` bytes.  ``timeout`` is in seconds, for the first; None: the socket's own;
        TimeoutError if none came.  When a later one fails, those before it are returned and the
        list's ``error`` is the exception, otherwise None.  At the end of a stream: one message
        with no data.  A switch and cancellation point.
        """
        if n < 1:
            raise ValueError("n must be at least 1")
        return ReceivedMessages(*self._recv_messages(n, bufsize, ancbufsize, flags, timeout))

    # ---- files ----

    def makefile(
        self,
        mode: str = "r",
        buffering: int | None = None,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """A file object over the socket; see socket.makefile.

        The descriptor is closed once the socket and all of its files are.
        """
        if not set(mode) <= {"r", "w", "b"}:
            raise ValueError(f"invalid mode {mode!r} (only r, w, b allowed)")
        writing = "w" in mode
        reading = "r" in mode or not writing
        raw = SocketIO(self, "r" * reading + "w" * writing)  # type: ignore[arg-type]
        self._io_refs += 1
        size = io.DEFAULT_BUFFER_SIZE if buffering is None or buffering < 0 else buffering
        if size == 0:
            if "b" not in mode:
                raw.close()
                raise ValueError("unbuffered streams must be binary")
            return raw
        if reading and writing:
            buffered: Any = io.BufferedRWPair(raw, raw, size)
        elif reading:
            buffered = io.BufferedReader(raw, size)
        else:
            buffered = io.BufferedWriter(raw, size)
        if "b" in mode:
            return buffered
        text = io.TextIOWrapper(buffered, io.text_encoding(encoding), errors, newline)
        text.mode = mode  # type: ignore[misc]
        return text

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send a binary file until its end or ``count`` bytes; how many were sent.

        See socket.sendfile.  A regular file is sent by the kernel without passing through Python,
        and reading it never holds up the loop; of others, a file of this library or one in memory
        is read in the fiber, and any other in a worker thread.  The file's position is updated.
        """
        self._check_sendfile(file, count)
        size = _regular_size(file)
        if size is None:
            return self._send_read(file, offset, count)
        if size == 0:
            return 0
        sent = [0]
        try:
            self._sendfile(file.fileno(), offset, -1 if count is None else count, size, sent)
        except OSError as exc:
            # This kind of file cannot be mapped: read it.
            if sent[0] or exc.errno not in _NO_SENDFILE:
                raise
            return self._send_read(file, offset, count)
        finally:
            if sent[0]:
                _seek(file, offset + sent[0])
        return sent[0]

    def _check_sendfile(self, file: Any, count: int | None) -> None:
        if "b" not in getattr(file, "mode", "b"):
            raise ValueError("file should be opened in binary mode")
        if not self._sock.type & _low.SOCK_STREAM:
            raise ValueError("only SOCK_STREAM type sockets are supported")
        if count is not None:
            if not isinstance(count, int):
                raise TypeError(f"count must be a positive integer (got {count!r})")
            if count <= 0:
                raise ValueError(f"count must be a positive integer (got {count!r})")
        if self.gettimeout() == 0:
            raise ValueError("non-blocking sockets are not supported")

    def _send_read(self, file: Any, offset: int, count: int | None) -> int:
        from ferrule.workers import blocking

        waits = isinstance(getattr(file, "raw", file), io.FileIO)
        sent = 0
        if offset:
            file.seek(offset)
        try:
            while count is None or sent < count:
                size = _COPY_CHUNK if count is None else min(_COPY_CHUNK, count - sent)
                data = blocking(file.read, size) if waits else file.read(size)
                if not data:
                    break
                view = memoryview(data)
                while view:
                    done = self.send(view)
                    sent += done
                    view = view[done:]
        finally:
            if sent:
                _seek(file, offset + sent)
        return sent

    def _decref_socketios(self) -> None:
        if self._io_refs > 0:
            self._io_refs -= 1
        if self._closed:
            self.close()

    # ---- the end ----

    def dup(self) -> socket:
        """A new socket for the same connection; see socket.dup."""
        fd = _low.dup(self.fileno())
        other = self.__class__(self._sock.family, self._sock.type, self._sock.proto, fileno=fd)
        other.settimeout(self.gettimeout())
        return other

    def detach(self) -> int:
        """Give the descriptor up without closing it, and return it; see socket.detach.

        Other fibers' operations on it end with EBADF first, which may switch.
        """
        self._closed = True
        if self._release() < 0:
            return -1
        if self._tries_accept:  # its next owner expects what the timeout says
            self._sock.setblocking(self.gettimeout() is None)
        return int(self._sock.detach())

    def close(self) -> None:
        """Close it, once no file made by `makefile` is open.  Idempotent.

        Operations of other fibers on it end with EBADF; only waiting for them can switch.  Never a
        cancellation point.
        """
        self._closed = True
        if self._io_refs <= 0:
            self._real_close()

    def _real_close(self) -> None:
        if self._release() < 0:
            return
        if self._lingers and in_fiber():
            from ferrule.tasks import shield
            from ferrule.workers import blocking

            with shield():
                blocking(self._sock.close)  # close(2) waits for what is unsent
        else:
            self._sock.close()

    def __enter__(self) -> socket:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._closed:
            self.close()


class SentCount(int):
    """How many messages `send_many` sent, and in ``error`` what stopped it, or None."""

    error: BaseException | None

    def __new__(cls, count: int, error: BaseException | None) -> SentCount:
        self = super().__new__(cls, count)
        self.error = error
        return self


class ReceivedMessages(list[Received]):
    """What `recv_many` received, and in ``error`` what stopped it, or None."""

    def __init__(self, messages: list[Received], error: BaseException | None) -> None:
        super().__init__(messages)
        self.error = error


def send_many(
    sock: socket, messages: Iterable[Message], flags: int = 0, timeout: float | None = None
) -> SentCount:
    """``sock.send_many(...)``: several messages in one call; how many were sent."""
    return sock.send_many(messages, flags, timeout)


def recv_many(
    sock: socket,
    n: int,
    bufsize: int,
    ancbufsize: int = 0,
    flags: int = 0,
    timeout: float | None = None,
) -> ReceivedMessages:
    """``sock.recv_many(...)``: up to ``n`` messages in one call."""
    return sock.recv_many(n, bufsize, ancbufsize, flags, timeout)


SocketType = socket
SocketIO = _std.SocketIO

_COPY_CHUNK = 64 * 1024
_NO_SENDFILE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


def _as_enum(value: int, kind: type[enum.IntEnum]) -> int:
    try:
        return kind(value)
    except ValueError:
        return value


def _is_path(address: Address) -> bool:
    return bool(address) and address[0] not in ("\0", 0)


def _regular_size(file: Any) -> int | None:
    """The size of what has a descriptor of a regular file, or None."""
    import stat

    try:
        status = os.fstat(file.fileno())
    except (AttributeError, OSError):  # UnsupportedOperation is an OSError
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _seek(file: Any, position: int) -> None:
    if hasattr(file, "seek") and getattr(file, "seekable", lambda: True)():
        file.seek(position)


def fromfd(fd: int, family: int, type: int, proto: int = 0) -> socket:
    """A socket for a duplicate of ``fd``; see socket.fromfd."""
    return socket(family, type, proto, fileno=_low.dup(fd))


def socketpair(
    family: int | None = None, type: int = _low.SOCK_STREAM, proto: int = 0
) -> tuple[socket, socket]:
    """Two sockets connected to each other; see socket.socketpair."""
    made = _low.socketpair(_low.AF_UNIX if family is None else family, type, proto)
    one, other = (socket(s.family, s.type, s.proto, fileno=s.detach()) for s in made)
    return one, other


def create_connection(
    address: tuple[str | None, int],
    timeout: Any = _std._GLOBAL_DEFAULT_TIMEOUT,  # type: ignore[attr-defined]
    source_address: tuple[str, int] | None = None,
    *,
    all_errors: bool = False,
) -> socket:
    """Connect to the first address that answers, one after the other.

    See socket.create_connection; `ferrule.connect_tcp` tries them side by side.
    """
    host, port = address
    errors: list[OSError] = []
    for family, kind, proto, _, target in getaddrinfo(host, port, 0, _low.SOCK_STREAM):
        sock = None
        try:
            sock = socket(family, kind, proto)
            if timeout is not _std._GLOBAL_DEFAULT_TIMEOUT:  # type: ignore[attr-defined]
                sock.settimeout(timeout)
            if source_address:
                sock.bind(source_address)
            sock.connect(target)
            return sock
        except OSError as exc:
            errors.append(exc)
            if sock is not None:
                sock.close()
        except BaseException:
            if sock is not None:
                sock.close()
            raise
    try:
        if not errors:
            raise OSError("getaddrinfo returns an empty list")
        if all_errors:
            raise ExceptionGroup("create_connection failed", errors)
        raise errors[-1]
    finally:
        errors.clear()  # their tracebacks refer to this frame


def create_server(
    address: Address,
    *,
    family: int = _low.AF_INET,
    backlog: int | None = None,
    reuse_port: bool = False,
    dualstack_ipv6: bool = False,
) -> socket:
    """A listening TCP socket; see socket.create_server."""
    if reuse_port and not hasattr(_low, "SO_REUSEPORT"):
        raise ValueError("SO_REUSEPORT not supported on this platform")
    if dualstack_ipv6:
        if not _std.has_dualstack_ipv6():
            raise ValueError("dualstack_ipv6 not supported on this platform")
        if family != _low.AF_INET6:
            raise ValueError("dualstack_ipv6 requires AF_INET6 family")
    sock = socket(family, _low.SOCK_STREAM)
    try:
        sock.setsockopt(_low.SOL_SOCKET, _low.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(_low.SOL_SOCKET, _low.SO_REUSEPORT, 1)
        if family == _low.AF_INET6:
            sock.setsockopt(_low.IPPROTO_IPV6, _low.IPV6_V6ONLY, 0 if dualstack_ipv6 else 1)
        try:
            sock.bind(address)
        except OSError as exc:
            if exc.errno is None:
                raise
            why = f"{exc.strerror} (while attempting to bind on address {address!r})"
            raise OSError(exc.errno, why) from None
        sock.listen(*(() if backlog is None else (backlog,)))
        return sock
    except BaseException:
        sock.close()
        raise


if TYPE_CHECKING:
    from socket import *  # type: ignore[assignment]  # noqa: F403
    from socket import recv_fds as recv_fds
    from socket import send_fds as send_fds
else:
    # Everything else neither waits nor makes a socket.  At the end, so that ours stay.
    for _name in dir(_std):
        if not _name.startswith("_") and not isinstance(getattr(_std, _name), type(_std)):
            globals().setdefault(_name, getattr(_std, _name))
    del _name
    __all__ = [*_std.__all__, "lookup", "recv_many", "send_many"]  # noqa: F405
