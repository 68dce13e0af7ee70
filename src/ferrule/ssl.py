"""The standard ssl module's names over Ferrule's sockets.

Contexts are the standard library's, so every setting means what it means there.  OpenSSL reads and
writes memory (MemoryBIO); the fiber that needs bytes moves them, so no OpenSSL call ever waits and
none is interrupted half way.  That gives:

* One fiber may read while another writes, also on another thread.  Whoever needs input takes the
  reading turn; the others that need some wait for it and look again, because what arrived may be
  theirs.
* A cancellation or a timeout never damages the connection: encrypted bytes that could not be sent
  stay queued, and the next operation sends them first.
* What a reader has to send (an answer to a key update) never makes it wait for a peer that does not
  read: it is sent when the socket takes it.

Loading certificates reads files, which happens in a worker thread.
"""

from __future__ import annotations

import _socket as _low
import errno
import ssl as _std
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ferrule._core.scheduler import no_switch
from ferrule._core.sockets import in_fiber
from ferrule._core.sync import Lock
from ferrule.socket import Address, create_connection, socket

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

T = TypeVar("T")

_DONTWAIT = _low.MSG_DONTWAIT
_SEND_CHUNK = 128 * 1024  # encrypted at a time, so that a large message does not double in memory


def _off_loop(fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    if not in_fiber():
        return fn(*args, **kwargs)
    from ferrule.workers import blocking

    return blocking(lambda: fn(*args, **kwargs))


class SSLSocket(socket):
    """A TLS connection over a socket; made by `SSLContext.wrap_socket`.  See ssl.SSLSocket."""

    __slots__ = (
        "_arrivals",
        "_connected",
        "_context",
        "_engine",
        "_flushing",
        "_incoming",
        "_outgoing",
        "_plain",
        "_reading",
        "_session",
        "_sslobj",
        "_unsent",
        "_writing",
        "do_handshake_on_connect",
        "server_hostname",
        "server_side",
        "suppress_ragged_eofs",
    )

    _arrivals: int  # how often input was taken
    _connected: bool
    _context: Any
    # Held in OpenSSL, whose objects are not for two threads at once, and never over a switch.  A
    # callback may ask the socket something.
    _engine: threading.RLock
    _flushing: Lock  # the turn to send what OpenSSL wrote
    _incoming: _std.MemoryBIO
    _outgoing: _std.MemoryBIO
    _plain: bytes  # what came behind the end of TLS
    _reading: Lock  # the turn to receive
    _session: _std.SSLSession | None
    _sslobj: Any  # ssl.SSLObject, or None: not TLS (yet, or any more)
    _unsent: memoryview | None
    _writing: Lock  # the turn to encrypt, so that messages do not mix
    do_handshake_on_connect: bool
    server_hostname: str | None
    server_side: bool
    suppress_ragged_eofs: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError(
            f"{type(self).__name__} has no public constructor: use SSLContext.wrap_socket()"
        )

    @classmethod
    def _create(
        cls,
        sock: Any,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        context: Any = None,
        session: _std.SSLSession | None = None,
    ) -> SSLSocket:
        if sock.getsockopt(_std.SOL_SOCKET, _std.SO_TYPE) != _std.SOCK_STREAM:
            raise NotImplementedError("only stream sockets are supported")
        if server_side and server_hostname:
            raise ValueError("server_hostname can only be specified in client mode")
        if server_side and session is not None:
            raise ValueError("session can only be specified in client mode")
        if context.check_hostname and not server_hostname:
            raise ValueError("check_hostname requires server_hostname")
        self = cls.__new__(cls)
        timeout = sock.gettimeout()
        name = context._encode_hostname(server_hostname)
        socket.__init__(self, sock.family, sock.type, sock.proto, sock.detach())
        self.settimeout(timeout)
        self._context = context
        self._session = session
        self._sslobj = None
        self._unsent = None
        self._plain = b""
        self._arrivals = 0
        self._engine = threading.RLock()
        self._reading = Lock()
        self._flushing = Lock()
        self._writing = Lock()
        self.server_side = server_side
        self.server_hostname = name
        self.do_handshake_on_connect = do_handshake_on_connect
        self.suppress_ragged_eofs = suppress_ragged_eofs
        try:
            self._connected = self._is_connected()
            if self._connected:
                self._start()
                if do_handshake_on_connect:
                    if timeout == 0.0:
                        raise ValueError(
                            "do_handshake_on_connect should not be specified for non-blocking "
                            "sockets"
                        )
                    self.do_handshake()
        except BaseException:
            self.close()
            raise
        return self

    def _is_connected(self) -> bool:
        try:
            self.getpeername()
            return True
        except OSError as exc:
            if exc.errno != errno.ENOTCONN:
                raise
        # Bytes of a peer that is gone again must not pass for bytes of a TLS connection.
        try:
            stray = self._sock.recv(1, _DONTWAIT)
        except OSError as exc:
            if exc.errno not in (errno.ENOTCONN, errno.EINVAL, errno.EAGAIN):
                raise
            return False
        if stray:
            reason = "Closed before TLS handshake with data in recv buffer."
            error = SSLError(errno.ENOTCONN, reason)
            error.reason = reason
            error.library = None  # type: ignore[assignment]
            raise error
        return False

    def _start(self) -> None:
        self._incoming = _std.MemoryBIO()
        self._outgoing = _std.MemoryBIO()
        self._sslobj = self._context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=self.server_side,
            server_hostname=self.server_hostname,
            session=self._session,
        )
        # What the context's callbacks are given.
        self._sslobj._sslobj.owner = self

    # ---- moving bytes ----

    def _run(self, deadline: int, fn: Callable[..., T], *args: Any) -> T:
        """Call into OpenSSL until it has what it needs."""
        while True:
            try:
                with self._engine:
                    arrivals = self._arrivals
                    result = fn(*args)
            except _std.SSLWantReadError:
                self._fill(arrivals, deadline)
            except _std.SSLError:
                self._flush_now()  # the alert that tells the peer why
                raise
            else:
                self._flush_now()
                return result

    def _fill(self, arrivals: int, deadline: int) -> None:
        """Give OpenSSL more input, unless another fiber has since `arrivals` was read."""
        while self._flush_now():
            if self._take_now():
                return
            try:
                self._wait_both(deadline)
            except BlockingIOError:
                raise _want(_std.SSLWantReadError) from None
        self._take_lock(self._reading, deadline, _std.SSLWantReadError)
        try:
            if self._arrivals == arrivals:
                self._take(self._recv_layer(deadline))
        except BlockingIOError:
            raise _want(_std.SSLWantReadError) from None
        finally:
            self._reading.release()

    def _take(self, data: bytes) -> None:
        with self._engine:
            self._arrivals += 1
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    def _take_now(self) -> bool:
        """Take input that has arrived, if nobody else is about to."""
        if not self._reading.acquire(False):
            return False
        try:
            self._take(self._sock.recv(_SEND_CHUNK, _DONTWAIT))
            return True
        except BlockingIOError:
            return False
        finally:
            self._reading.release()

    def _flush_now(self) -> bool:
        """Send what can be sent without waiting; whether some is left that nobody is sending."""
        # Again after the release: another thread's output may have come while this had the turn.
        while (self._unsent or self._outgoing.pending) and self._flushing.acquire(False):
            try:
                while self._next_unsent():
                    assert self._unsent is not None
                    sent = self._send_now(self._unsent)
                    if sent == 0:
                        return True
                    self._unsent = self._unsent[sent:]
            except OSError:
                return False  # reading tells why, after what the peer had sent before
            finally:
                self._flushing.release()
        return False

    def _flush(self, deadline: int) -> None:
        """Send everything that OpenSSL wants sent, in its order."""
        while self._unsent or self._outgoing.pending:
            self._take_lock(self._flushing, deadline, _std.SSLWantWriteError)
            try:
                while self._next_unsent():
                    assert self._unsent is not None
                    sent = self._send_layer(self._unsent, deadline)
                    self._unsent = self._unsent[sent:]
            except BlockingIOError:
                raise _want(_std.SSLWantWriteError) from None
            finally:
                self._flushing.release()

    def _next_unsent(self) -> bool:
        if not self._unsent:
            with self._engine:
                data = self._outgoing.read()
            self._unsent = memoryview(data) if data else None
        return self._unsent is not None

    def _take_lock(self, lock: Lock, deadline: int, would_wait: type[_std.SSLError]) -> None:
        if lock.acquire(False):
            return
        if self.gettimeout() == 0:
            raise _want(would_wait)
        if deadline == 0:
            lock.acquire()
        elif not lock.acquire(timeout=max(0.0, deadline / 1e9 - time.monotonic())):
            raise TimeoutError("timed out")

    # ---- the handshake and its results ----

    def do_handshake(self, block: bool = False) -> None:
        """Do the TLS handshake.  See ssl.SSLSocket.do_handshake.

        The socket's timeout is for the whole.  A switch and cancellation point.
        """
        sslobj = self._check_connected()
        timeout = self.gettimeout()
        if timeout == 0.0 and block:
            self.settimeout(None)
        try:
            deadline = self._begin()
            self._run(deadline, self._handshake_step, sslobj)
            if self.gettimeout() != 0:
                self._flush(deadline)
        finally:
            if timeout == 0.0 and block:
                self.settimeout(timeout)

    @staticmethod
    def _handshake_step(sslobj: Any) -> None:
        # A switch in a callback could bring another fiber into the same OpenSSL object.
        with no_switch():
            sslobj.do_handshake()

    def _check_connected(self) -> Any:
        if not self._connected:
            self.getpeername()  # ENOTCONN, unless the connection came about meanwhile
        if self._sslobj is None:
            raise ValueError(f"No SSL wrapper around {self!r}")
        return self._sslobj

    @property
    def context(self) -> Any:
        """The SSLContext; may be replaced in an sni_callback."""
        return self._context

    @context.setter
    def context(self, context: Any) -> None:
        self._context = context
        if self._sslobj is not None:
            self._sslobj.context = context

    @property
    def session(self) -> _std.SSLSession | None:
        """The session, for `wrap_socket` of the next connection to the same server."""
        return None if self._sslobj is None else self._sslobj.session

    @session.setter
    def session(self, session: _std.SSLSession) -> None:
        self._session = session
        if self._sslobj is not None:
            self._sslobj.session = session

    @property
    def session_reused(self) -> bool | None:
        """Whether the handshake continued an earlier session."""
        return None if self._sslobj is None else self._sslobj.session_reused

    def getpeercert(self, binary_form: bool = False) -> Any:
        """See ssl.SSLSocket.getpeercert."""
        return self._check_connected().getpeercert(binary_form)

    def selected_alpn_protocol(self) -> str | None:
        """The protocol that ALPN chose, or None."""
        return None if self._sslobj is None else self._sslobj.selected_alpn_protocol()

    def selected_npn_protocol(self) -> None:
        """None: NPN is gone."""

    def cipher(self) -> tuple[str, str, int] | None:
        """(name, protocol, secret bits) of the cipher in use, or None."""
        return None if self._sslobj is None else self._sslobj.cipher()

    def shared_ciphers(self) -> list[tuple[str, str, int]] | None:
        """The ciphers that both sides know; only on a server."""
        return None if self._sslobj is None else self._sslobj.shared_ciphers()

    def compression(self) -> str | None:
        """The compression in use, or None."""
        return None if self._sslobj is None else self._sslobj.compression()

    def version(self) -> str | None:
        """The protocol version, such as "TLSv1.3", or None before the handshake."""
        return None if self._sslobj is None else self._sslobj.version()

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        """See ssl.SSLSocket.get_channel_binding."""
        if self._sslobj is not None:
            binding: bytes | None = self._sslobj.get_channel_binding(cb_type)
            return binding
        if cb_type not in _std.CHANNEL_BINDING_TYPES:
            raise ValueError(f"{cb_type} channel binding type not implemented")
        return None

    if hasattr(_std.SSLObject, "get_verified_chain"):  # Python 3.13

        def get_verified_chain(self) -> list[bytes]:
            """See ssl.SSLSocket.get_verified_chain."""
            chain: list[bytes] = self._check_connected().get_verified_chain()
            return chain

        def get_unverified_chain(self) -> list[bytes]:
            """See ssl.SSLSocket.get_unverified_chain."""
            chain: list[bytes] = self._check_connected().get_unverified_chain()
            return chain

    def verify_client_post_handshake(self) -> None:
        """See ssl.SSLSocket.verify_client_post_handshake."""
        if self._sslobj is None:
            raise ValueError(f"No SSL wrapper around {self!r}")
        with self._engine:
            self._sslobj.verify_client_post_handshake()

    # ---- reading ----

    def read(self, len: int = 1024, buffer: WriteableBuffer | None = None) -> Any:
        """Read up to ``len`` bytes, into ``buffer`` if given; see ssl.SSLSocket.read."""
        sslobj = self._sslobj
        if sslobj is None:
            raise ValueError("Read on closed or unwrapped SSL socket.")
        try:
            if buffer is None:
                return self._run(self._begin(), sslobj.read, len)
            return self._run(self._begin(), sslobj.read, len, buffer)
        except _std.SSLError as exc:
            if exc.args[0] != _std.SSL_ERROR_EOF or not self.suppress_ragged_eofs:
                raise
            return b"" if buffer is None else 0

    def recv(self, bufsize: int = 1024, flags: int = 0) -> bytes:
        """Receive decrypted bytes, b"" at the end; see ssl.SSLSocket.recv.

        A stream that ends without TLS's own end raises SSLEOFError, or gives b"" as well when
        ``suppress_ragged_eofs`` is set.  A switch and cancellation point.
        """
        if self._sslobj is not None:
            self._refuse_flags("recv", flags)
            data: bytes = self.read(bufsize)
            return data
        if self._plain:
            data, self._plain = self._plain[:bufsize], self._plain[bufsize:]
            return data
        return super().recv(bufsize, flags)

    def recv_into(
        self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0
    ) -> int:
        """Receive decrypted bytes into a buffer; the count.  See ssl.SSLSocket.recv_into."""
        size = nbytes or memoryview(buffer).nbytes or 1024
        if self._sslobj is not None:
            self._refuse_flags("recv_into", flags)
            return int(self.read(size, buffer))
        if self._plain:
            data = self.recv(size)
            memoryview(buffer).cast("B")[: len(data)] = data
            return len(data)
        return super().recv_into(buffer, nbytes or 0, flags)

    def pending(self) -> int:
        """How many decrypted bytes can be read without waiting."""
        with self._engine:
            return 0 if self._sslobj is None else self._sslobj.pending()

    # ---- writing ----

    def write(self, data: ReadableBuffer) -> int:
        """Encrypt and send; how many bytes of ``data`` were taken.  See ssl.SSLSocket.write.

        After a timeout or a cancellation some may be queued already; the next operation sends it.
        A switch and cancellation point.
        """
        deadline = self._begin()
        self._take_lock(self._writing, deadline, _std.SSLWantWriteError)
        try:
            return self._write_some(memoryview(data).cast("B"), deadline)
        finally:
            self._writing.release()

    def _write_some(self, data: memoryview, deadline: int) -> int:
        sslobj = self._sslobj
        if sslobj is None:
            raise ValueError("Write on closed or unwrapped SSL socket.")
        self._flush(deadline)
        taken: int = self._run(deadline, sslobj.write, data[:_SEND_CHUNK])
        try:
            self._flush(deadline)
        except _std.SSLWantWriteError:
            pass  # timeout 0: taken, and goes out with the next operation
        return taken

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        """As `write`; see ssl.SSLSocket.send."""
        if self._sslobj is None:
            return super().send(data, flags)
        self._refuse_flags("send", flags)
        return self.write(data)

    def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        """Encrypt and send everything; see ssl.SSLSocket.sendall.

        Messages of several fibers do not mix.  The timeout is for the whole.
        """
        if self._sslobj is None:
            super().sendall(data, flags)
            return
        self._refuse_flags("sendall", flags)
        deadline = self._begin()
        self._take_lock(self._writing, deadline, _std.SSLWantWriteError)
        try:
            with memoryview(data) as whole, whole.cast("B") as view:
                sent = 0
                while sent < len(view):
                    sent += self._write_some(view[sent:], deadline)
        finally:
            self._writing.release()

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Read a binary file and send it encrypted; see ssl.SSLSocket.sendfile."""
        if self._sslobj is None:
            return super().sendfile(file, offset, count)
        self._check_sendfile(file, count)
        return self._send_read(file, offset, count)

    def _refuse_flags(self, name: str, flags: int) -> None:
        if flags:
            raise ValueError(f"non-zero flags not allowed in calls to {name}() on {type(self)}")

    # ---- what TLS has no meaning for ----

    def _refuse_if_wrapped(self, name: str) -> None:
        if self._sslobj is not None:
            raise ValueError(f"{name} not allowed on instances of {type(self)}")

    def sendto(self, data: ReadableBuffer, *args: Any) -> int:
        """Only before TLS begins or after it has ended."""
        self._refuse_if_wrapped("sendto")
        return super().sendto(data, *args)

    def recvfrom(self, bufsize: int = 1024, flags: int = 0) -> tuple[bytes, Address]:
        """Only before TLS begins or after it has ended."""
        self._refuse_if_wrapped("recvfrom")
        return super().recvfrom(bufsize, flags)

    def recvfrom_into(
        self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0
    ) -> tuple[int, Address]:
        """Only before TLS begins or after it has ended."""
        self._refuse_if_wrapped("recvfrom_into")
        return super().recvfrom_into(buffer, nbytes or 0, flags)

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        """Not for TLS: these would go around the encryption."""
        raise NotImplementedError(f"not allowed on instances of {type(self)}")

    sendmsg = recvmsg = recvmsg_into = send_many = recv_many = dup = _refuse

    # ---- connecting and ending ----

    def connect(self, address: Address) -> None:
        """Connect and, with ``do_handshake_on_connect``, do the handshake."""
        self._connect_tls(address, super().connect)

    def connect_ex(self, address: Address) -> int:
        """As `connect`, with an errno for a connection that fails."""
        return int(self._connect_tls(address, super().connect_ex) or 0)

    def _connect_tls(self, address: Address, connect: Callable[[Address], int | None]) -> Any:
        if self.server_side:
            raise ValueError("can't connect in server-side mode")
        if self._connected or self._sslobj is not None:
            raise ValueError("attempt to connect already-connected SSLSocket!")
        try:
            self._start()
            err = connect(address)
            if not err:
                self._connected = True
                if self.do_handshake_on_connect:
                    self.do_handshake()
        except (OSError, ValueError):
            self._sslobj = None
            raise
        return err

    def accept(self) -> tuple[SSLSocket, Address]:
        """Accept a connection and wrap it as a server.  See ssl.SSLSocket.accept.

        The handshake is part of it: a server that must not wait for slow clients accepts on a
        plain listener and wraps each connection in its own fiber.
        """
        conn, address = super().accept()
        wrapped = self._context.wrap_socket(
            conn,
            do_handshake_on_connect=self.do_handshake_on_connect,
            suppress_ragged_eofs=self.suppress_ragged_eofs,
            server_side=True,
        )
        return wrapped, address

    def shutdown(self, how: int) -> None:
        """Shut the connection down below TLS; see ssl.SSLSocket.shutdown."""
        self._sslobj = None
        super().shutdown(how)

    def unwrap(self) -> SSLSocket:
        """End TLS on both sides, and return the socket for use without it.

        Waits for the peer's end; SSLEOFError (or another OSError) if the connection ends without.
        A switch and cancellation point.
        """
        sslobj = self._sslobj
        if sslobj is None:
            raise ValueError(f"No SSL wrapper around {self!r}")
        deadline = self._begin()
        self._flush(deadline)
        self._run(deadline, sslobj.unwrap)
        self._flush(deadline)
        self._plain = self._incoming.read()  # came together with the peer's end
        self._sslobj = None
        return self

    def _real_close(self) -> None:
        self._sslobj = None
        super()._real_close()


def _want(kind: type[_std.SSLError]) -> _std.SSLError:
    if kind is _std.SSLWantReadError:
        return kind(_std.SSL_ERROR_WANT_READ, "The operation did not complete (read)")
    return kind(_std.SSL_ERROR_WANT_WRITE, "The operation did not complete (write)")


class SSLContext(_std.SSLContext):
    """The standard library's context, whose `wrap_socket` gives sockets of this library."""

    sslsocket_class = SSLSocket  # type: ignore[assignment]

    @classmethod
    def adopt(cls, context: _std.SSLContext) -> SSLContext:
        """Make a context of the standard library one of these, with all its settings."""
        context.__class__ = cls
        assert isinstance(context, cls)
        return context

    def wrap_socket(  # type: ignore[override]
        self,
        sock: Any,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        session: _std.SSLSession | None = None,
    ) -> SSLSocket:
        """Take a socket over and return a TLS socket; see ssl.SSLContext.wrap_socket.

        ``sock``, of this library or the standard one, is detached.  If it is connected and
        ``do_handshake_on_connect`` is true the handshake happens here: a switch and cancellation
        point, after whose failure the connection is closed.
        """
        made: SSLSocket = self.sslsocket_class._create(
            sock,
            server_side,
            do_handshake_on_connect,
            suppress_ragged_eofs,
            server_hostname,
            self,
            session,
        )
        return made

    def load_cert_chain(self, *args: Any, **kwargs: Any) -> None:
        """See ssl.SSLContext.load_cert_chain.  Inside a runtime a switch point."""
        _off_loop(super().load_cert_chain, *args, **kwargs)

    def load_verify_locations(self, *args: Any, **kwargs: Any) -> None:
        """See ssl.SSLContext.load_verify_locations.  Inside a runtime a switch point."""
        _off_loop(super().load_verify_locations, *args, **kwargs)

    def load_default_certs(self, purpose: Any = _std.Purpose.SERVER_AUTH) -> None:
        """See ssl.SSLContext.load_default_certs.  Inside a runtime a switch point."""
        _off_loop(super().load_default_certs, purpose)


def create_default_context(
    purpose: Any = _std.Purpose.SERVER_AUTH,
    *,
    cafile: Any = None,
    capath: Any = None,
    cadata: Any = None,
) -> SSLContext:
    """See ssl.create_default_context.  Inside a runtime a switch point."""
    return SSLContext.adopt(
        _off_loop(
            _std.create_default_context, purpose, cafile=cafile, capath=capath, cadata=cadata
        )
    )


def _create_unverified_context(*args: Any, **kwargs: Any) -> SSLContext:
    return SSLContext.adopt(_off_loop(_std._create_unverified_context, *args, **kwargs))


def get_server_certificate(
    addr: tuple[str, int],
    ssl_version: int = _std.PROTOCOL_TLS_CLIENT,
    ca_certs: str | None = None,
    timeout: float | None = None,
) -> str:
    """The certificate of a server as PEM text; see ssl.get_server_certificate."""
    context = SSLContext(ssl_version)
    context.check_hostname = False
    context.verify_mode = _std.CERT_NONE if ca_certs is None else _std.CERT_REQUIRED
    if ca_certs is not None:
        context.load_verify_locations(ca_certs)
    with (
        create_connection(addr, *(() if timeout is None else (timeout,))) as sock,
        context.wrap_socket(sock, server_hostname=addr[0]) as wrapped,
    ):
        assert isinstance(wrapped, SSLSocket)
        return _std.DER_cert_to_PEM_cert(wrapped.getpeercert(True))


SSLError = _std.SSLError

if TYPE_CHECKING:
    from ssl import *  # type: ignore[assignment]  # noqa: F403
else:
    # At the end, so that ours stay.
    for _name in dir(_std):
        if not _name.startswith("_") and not isinstance(getattr(_std, _name), type(_std)):
            globals().setdefault(_name, getattr(_std, _name))
    del _name
