"""Name look-ups: on threads of their own, because no system has one that does not block.

A fiber that is cancelled or timed out stops waiting at once; its look-up, which nothing can
interrupt, runs to its end on the thread and its answer is dropped.
"""

from __future__ import annotations

import collections
import socket as _socket
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ferrule._core.sync import Waiter
from ferrule.workers import worker_threads

__all__ = [
    "getaddrinfo",
    "getfqdn",
    "gethostbyaddr",
    "gethostbyname",
    "gethostbyname_ex",
    "getnameinfo",
    "getprotobyname",
    "getservbyname",
    "getservbyport",
    "lookup",
]

T = TypeVar("T")
Host = bytes | str | None
Port = bytes | str | int | None
AddressInfo = tuple[_socket.AddressFamily, _socket.SocketKind, int, str, tuple[Any, ...]]

LOOKUP_THREADS = 32

# "This family has none": of no interest when the other family has some.
_NOTHING_HERE = {
    getattr(_socket, name)
    for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY", "EAI_FAMILY")
    if hasattr(_socket, name)
}


def look_up(fn: Callable[..., T], /, *args: Any) -> T:
    """Run ``fn(*args)`` on a look-up thread and park until it returns.  A cancellation point."""
    waiter = Waiter(f"a name look-up: {args[:1]!r}")

    def job() -> None:
        try:
            outcome = True, fn(*args)
        except BaseException as exc:
            waiter.wake((False, exc))
        else:
            waiter.wake(outcome)

    worker_threads("look-ups", LOOKUP_THREADS).submit(job)
    returned, value = waiter.wait()
    if returned:
        result: T = value
        return result
    try:
        raise value
    finally:
        del value  # its traceback refers to this frame


def is_numeric(host: object, family: int = _socket.AF_UNSPEC) -> bool:
    """Whether the standard library takes this host as it stands, without asking anybody."""
    if not isinstance(host, (str, bytes, bytearray)):
        return True  # a mistake: its complaint
    text = host if isinstance(host, str) else host.decode("ascii", "replace")
    families = (_socket.AF_INET, _socket.AF_INET6) if family == _socket.AF_UNSPEC else (family,)
    for one in families:
        try:
            _socket.inet_pton(one, text.partition("%")[0])
            return True
        except (OSError, ValueError):
            pass
    return False


def _needs_no_lookup(host: Host, port: Port) -> bool:
    if not (host is None or is_numeric(host)):
        return False
    return port is None or isinstance(port, int) or port.isdigit()


def getaddrinfo(
    host: Host, port: Port, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
) -> list[AddressInfo]:
    """See socket.getaddrinfo.  A switch and cancellation point, unless the address is numeric."""
    args = (host, port, family, type, proto, flags)
    found: list[Any] = (
        _socket.getaddrinfo(*args)
        if _needs_no_lookup(host, port)
        else look_up(_socket.getaddrinfo, *args)
    )
    return found


def getnameinfo(sockaddr: tuple[Any, ...], flags: int) -> tuple[str, str]:
    """See socket.getnameinfo.  A switch and cancellation point."""
    numeric = _socket.NI_NUMERICHOST | _socket.NI_NUMERICSERV
    if flags & numeric == numeric:
        return _socket.getnameinfo(sockaddr, flags)
    return look_up(_socket.getnameinfo, sockaddr, flags)


def gethostbyname(hostname: str) -> str:
    """See socket.gethostbyname.  A switch and cancellation point, unless the name is numeric."""
    if is_numeric(hostname, _socket.AF_INET):
        return _socket.gethostbyname(hostname)
    return look_up(_socket.gethostbyname, hostname)


def gethostbyname_ex(hostname: str) -> tuple[str, list[str], list[str]]:
    """See socket.gethostbyname_ex.  A switch and cancellation point."""
    return look_up(_socket.gethostbyname_ex, hostname)


def gethostbyaddr(ip_address: str) -> tuple[str, list[str], list[str]]:
    """See socket.gethostbyaddr.  A switch and cancellation point."""
    return look_up(_socket.gethostbyaddr, ip_address)


def getfqdn(name: str = "") -> str:
    """See socket.getfqdn.  A switch and cancellation point."""
    return look_up(_socket.getfqdn, name)


def getservbyname(servicename: str, *protocolname: str) -> int:
    """See socket.getservbyname.  A switch and cancellation point."""
    return look_up(_socket.getservbyname, servicename, *protocolname)


def getservbyport(port: int, *protocolname: str) -> str:
    """See socket.getservbyport.  A switch and cancellation point."""
    return look_up(_socket.getservbyport, port, *protocolname)


def getprotobyname(protocolname: str) -> int:
    """See socket.getprotobyname.  A switch and cancellation point."""
    return look_up(_socket.getprotobyname, protocolname)


class _Answers:
    """What several look-ups say, in the order in which they say it."""

    def __init__(self) -> None:
        self._arrived: collections.deque[list[AddressInfo] | Exception] = collections.deque()
        self._waiter: Waiter | None = None

    def ask(self, args: tuple[Any, ...]) -> None:
        def job() -> None:
            try:
                self._arrived.append(_socket.getaddrinfo(*args))  # type: ignore[arg-type]
            except Exception as exc:
                self._arrived.append(exc)
            waiter = self._waiter
            if waiter is not None:
                waiter.wake()

        worker_threads("look-ups", LOOKUP_THREADS).submit(job)

    def next(self, what: str) -> list[AddressInfo] | Exception:
        self._waiter = Waiter(what)
        if not self._arrived:  # looked at after the waiter is there: none is missed
            self._waiter.wait()
        return self._arrived.popleft()


def lookup(
    host: Host,
    port: Port,
    family: int = 0,
    type: int = _socket.SOCK_STREAM,
    proto: int = 0,
    flags: int = 0,
) -> Iterator[AddressInfo]:
    """Yield addresses as getaddrinfo's 5-tuples, each family's as soon as its answer arrives.

    IPv6 and IPv4 are asked at the same time, so a slow answer for one does not hold up the other.
    Raises socket.gaierror when no family has an address.  Every step of the iteration may be a
    switch and cancellation point.
    """
    if family or _needs_no_lookup(host, port):
        yield from getaddrinfo(host, port, family, type, proto, flags)
        return
    answers = _Answers()
    families = (_socket.AF_INET6, _socket.AF_INET) if _socket.has_ipv6 else (_socket.AF_INET,)
    for one in families:
        answers.ask((host, port, one, type, proto, flags))
    errors: list[Exception] = []
    found = False
    for _ in families:
        answer = answers.next(f"the addresses of {host!r}")
        if isinstance(answer, Exception):
            errors.append(answer)
            continue
        for info in answer:
            found = True
            yield info
    if not found:
        raise worst_error(errors)


def worst_error(errors: list[Exception]) -> Exception:
    """The error that says most: one that is more than "no such address in this family"."""
    for exc in errors:
        if not (isinstance(exc, _socket.gaierror) and exc.errno in _NOTHING_HERE):
            return exc
    return errors[0]
