"""The standard socket module's names, parking the fiber where that one blocks the thread."""

from __future__ import annotations

import socket as _socket
from typing import Any

from ferrule._core.sockets import SocketCore


class socket(SocketCore):
    """See socket.socket."""

    def __init__(
        self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None
    ) -> None:
        inner = _socket.socket(family, type, proto, fileno)
        inner.setblocking(True)
        super().__init__(inner, _socket.getdefaulttimeout())

    def settimeout(self, timeout: float | None) -> None:
        self._set_timeout(timeout)

    def accept(self) -> tuple[socket, Any]:
        fd, address = self._accept()
        inner = self._sock
        conn = socket(inner.family, inner.type, inner.proto, fileno=fd)
        return conn, conn._sock.getpeername() if address is None else address

    def close(self) -> None:
        if self._release() >= 0:
            self._sock.close()

    def __enter__(self) -> socket:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
