"""What the socket tests share: connected pairs, and a certificate made on the spot."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ferrule
import ferrule.socket
from sync_support import await_others

Run = Callable[..., Any]


@contextmanager
def tcp_pair(host: str = "127.0.0.1") -> Iterator[tuple[Any, Any]]:
    """Two ends of a TCP connection, in a fiber."""
    with ferrule.listen_tcp(host, 0) as listener:
        client = ferrule.connect_tcp(host, listener.getsockname()[1])
        server, _ = listener.accept()
    with client, server:
        yield client, server


@contextmanager
def unix_pair() -> Iterator[tuple[Any, Any]]:
    """Two ends of a Unix stream connection."""
    one, other = ferrule.socket.socketpair()
    with one, other:
        yield one, other


def fill(sock: Any) -> int:
    """Send until the kernel takes no more; how much it took."""
    timeout = sock.gettimeout()
    sock.settimeout(0)
    sent = 0
    try:
        while True:
            sent += sock.send(bytes(65536))
    except BlockingIOError:
        return sent
    finally:
        sock.settimeout(timeout)


def drain(sock: Any, count: int) -> bytes:
    """Receive exactly ``count`` bytes."""
    parts = []
    while count:
        data = sock.recv(min(count, 1 << 20))
        assert data, f"the stream ended {count} bytes early"
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


def settle(rounds: int = 5) -> None:
    """Let every other fiber come to its next wait, and the loop submit it."""
    for _ in range(rounds):
        ferrule.sleep(0.001)
    if ferrule.current_runtime().threads > 1:
        await_others()


def statistics() -> dict[str, Any]:
    return dict(ferrule.current_runtime().statistics())


def inject(kind: str, nth: int = 1, **fault: Any) -> None:
    """Plan a fault in the running loop."""
    ferrule.current_runtime()._scheduler.inject_fault(kind, nth, **fault)


def make_certificate(folder: Path, name: str = "localhost") -> tuple[str, str]:
    """(certificate, key) files for a name and 127.0.0.1, signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2",
            "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )
    return str(cert), str(key)
