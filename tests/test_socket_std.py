"""The same scenarios on the standard module with threads and on Ferrule with fibers: same results.

A scenario takes a World (a socket module, and a way to do something at the same time) and returns
what it saw, in terms that do not depend on ports, descriptors or the module.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import socket as std
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
import ferrule.socket
from net_support import Run


class World:
    def __init__(self, module: Any, start: Callable[..., Any], sleep: Callable[[float], None]):
        self.socket = module
        self.start = start
        self.sleep = sleep

    def pair(self) -> tuple[Any, Any]:
        with self.socket.create_server(("127.0.0.1", 0)) as server:
            client = self.socket.create_connection(server.getsockname())
            conn, _ = server.accept()
        return client, conn


def outcome(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result, or the exception's type, errno and message."""
    try:
        return fn(*args, **kwargs)
    except Exception as exc:
        return type(exc).__name__, getattr(exc, "errno", None), str(exc)


def in_threads(scenario: Callable[[World], Any]) -> Any:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return scenario(World(std, pool.submit, time.sleep))


def in_fibers(run: Run, scenario: Callable[[World], Any]) -> Any:
    return run(lambda: scenario(World(ferrule.socket, ferrule.spawn, ferrule.sleep)))


SCENARIOS: list[Callable[[World], Any]] = []


def scenario(fn: Callable[[World], Any]) -> Callable[[World], Any]:
    SCENARIOS.append(fn)
    return fn


@scenario
def echo(world: World) -> Any:
    client, server = world.pair()
    with client, server:
        client.sendall(b"hello")
        first = server.recv(100)
        sent = server.send(first.upper())
        return first, sent, client.recv(3), client.recv(100)


@scenario
def end_of_stream(world: World) -> Any:
    client, server = world.pair()
    with server:
        client.sendall(b"last")
        client.close()
        return [server.recv(2), server.recv(2), server.recv(2), server.recv(2)]


@scenario
def half_close(world: World) -> Any:
    client, server = world.pair()
    with client, server:
        client.shutdown(std.SHUT_WR)
        seen = [server.recv(10), server.send(b"answer"), client.recv(10)]
        return [*seen, outcome(client.send, b"too late")]


@scenario
def reset(world: World) -> Any:
    client, server = world.pair()
    with server:
        client.setsockopt(std.SOL_SOCKET, std.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        return outcome(server.recv, 10), outcome(server.recv, 10)


@scenario
def timeouts(world: World) -> Any:
    client, server = world.pair()
    with client, server:
        server.settimeout(0.01)
        return [
            outcome(server.recv, 10),
            outcome(server.recv_into, bytearray(10)),
            outcome(server.recvfrom, 10),
            outcome(server.recvmsg, 10),
            outcome(server.sendall, bytes(50_000_000)),
        ]


@scenario
def never_waiting(world: World) -> Any:
    client, server = world.pair()
    with client, server, world.socket.create_server(("127.0.0.1", 0)) as listener:
        for sock in (client, server, listener):
            sock.setblocking(False)
        with world.socket.socket() as fresh:
            fresh.setblocking(False)
            return [
                outcome(server.recv, 10),
                outcome(server.recv_into, bytearray(10)),
                outcome(server.recvfrom_into, bytearray(10)),
                outcome(listener.accept),
                fresh.connect_ex(listener.getsockname()),
                server.gettimeout(),
                server.getblocking(),
            ]


@scenario
def bad_arguments(world: World) -> Any:
    client, server = world.pair()
    with client, server:
        return [
            outcome(fn, *args)[0]
            for fn, args in [
                (server.recv, (-1,)),
                (server.recv, ("x",)),
                (server.recv_into, (b"read-only",)),
                (server.recv_into, (bytearray(2), 3)),
                (server.recv_into, (bytearray(2), -1)),
                (client.send, ("text",)),
                (client.sendall, (None,)),
                (client.sendto, (b"x",)),
                (client.sendto, (b"x", 1, 2, 3)),
                (client.settimeout, (-1,)),
                (client.settimeout, ("x",)),
                (client.bind, ("not a tuple",)),
                (client.connect, (("127.0.0.1", 70000),)),
                (client.shutdown, (42,)),
                (client.getsockopt, (-1, -1)),
                (client.makefile, ("a",)),
                (world.socket.socket, (-5,)),
                (world.socket.create_connection, (("127.0.0.1", 1),)),
            ]
        ]


@scenario
def closed(world: World) -> Any:
    sock = world.socket.socket()
    sock.close()
    return [
        sock.fileno(),
        *(
            outcome(fn, *args)
            for fn, args in [
                (sock.recv, (1,)),
                (sock.send, (b"x",)),
                (sock.sendall, (b"x",)),
                (sock.accept, ()),
                (sock.connect, (("127.0.0.1", 1),)),
                (sock.connect_ex, (("127.0.0.1", 1),)),
                (sock.getsockname, ()),
                (sock.listen, ()),
                (sock.close, ()),
            ]
        ),
    ]


@scenario
def unconnected(world: World) -> Any:
    with world.socket.socket() as sock:
        return [
            outcome(fn, *args)
            for fn, args in [
                (sock.recv, (1,)),
                (sock.recv, (0,)),
                (sock.send, (b"x",)),
                (sock.getpeername, ()),
                (sock.shutdown, (std.SHUT_RDWR,)),
                (sock.accept, ()),
            ]
        ]


@scenario
def refused(world: World) -> Any:
    with world.socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
        with world.socket.socket() as one, world.socket.socket() as other:
            return outcome(one.connect, address), other.connect_ex(address)


@scenario
def connecting_twice(world: World) -> Any:
    client, server = world.pair()
    with client, server:
        address = server.getsockname()
        return outcome(client.connect, address), client.connect_ex(address)


@scenario
def datagrams(world: World) -> Any:
    with (
        world.socket.socket(type=std.SOCK_DGRAM) as one,
        world.socket.socket(type=std.SOCK_DGRAM) as other,
    ):
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        other.settimeout(1)
        seen: list[Any] = [one.sendto(b"whole message", other.getsockname())]
        data, address = other.recvfrom(5)
        seen += [data, address == one.getsockname()]
        one.sendto(b"", other.getsockname())
        seen.append(other.recv(10))
        one.connect(other.getsockname())
        seen += [one.send(bytes(20_000)), len(other.recv(65536)), one.sendall(b"all")]
        buffer = bytearray(10)
        count, _ = other.recvfrom_into(buffer)
        seen += [count, bytes(buffer)]
        one.sendall(b"")
        seen.append(other.recv(10))
        other.settimeout(0.01)
        return [*seen, outcome(other.recv, 1), outcome(one.send, bytes(100_000))]


@scenario
def ancillary(world: World) -> Any:
    one, other = world.socket.socketpair()
    read_fd, write_fd = os.pipe()
    with one, other:
        world.socket.send_fds(one, [b"with a descriptor"], [write_fd])
        os.close(write_fd)
        data, fds, flags, address = world.socket.recv_fds(other, 100, 1)
        os.write(fds[0], b"through")
        os.close(fds[0])
        got = os.read(read_fd, 100)
        os.close(read_fd)
        one.sendmsg([b"a", bytearray(b"b"), memoryview(b"c")])
        buffers = [bytearray(2), bytearray(5)]
        count, anc, msg_flags, _ = other.recvmsg_into(buffers)
        return data, flags, address, got, count, anc, msg_flags, buffers


@scenario
def line_files(world: World) -> Any:
    client, server = world.pair()
    with client, server:
        with client.makefile("w", encoding="utf-8", newline="\r\n") as out:
            out.write("one\ntwo\nthree")
        client.close()
        with server.makefile("r", encoding="utf-8") as lines:
            mode = lines.mode
            return mode, list(lines), lines.read()


@scenario
def unbuffered_file(world: World) -> Any:
    client, server = world.pair()
    with client, server:
        server.settimeout(0.01)
        raw = server.makefile("rb", buffering=0)
        seen = [raw.readable(), raw.writable(), raw.seekable(), raw.mode, outcome(raw.read, 1)]
        seen.append(outcome(raw.read, 1))
        raw.close()
        return [*seen, raw.closed, outcome(raw.read, 1)[0], raw.name]


@scenario
def closing_under_a_file(world: World) -> Any:
    client, server = world.pair()
    file = server.makefile("rb")
    server.close()
    client.sendall(b"x")
    client.close()
    seen = [file.read(), server.fileno() >= 0]
    file.close()
    return [*seen, server.fileno()]


@scenario
def peek_and_waitall(world: World) -> Any:
    client, server = world.pair()
    with client, server:
        client.sendall(b"abcdef")
        seen = [server.recv(3, std.MSG_PEEK), server.recv(6, std.MSG_WAITALL)]
        client.sendall(b"xy")
        client.close()
        return [*seen, server.recv(6, std.MSG_WAITALL)]


@scenario
def out_of_band(world: World) -> Any:
    client, server = world.pair()
    with client, server:
        client.send(b"ab")
        client.send(b"!", std.MSG_OOB)
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                return server.recv(1, std.MSG_OOB), server.recv(10)
            world.sleep(0.001)
        return "never came"


@scenario
def sendfile(world: World) -> Any:
    client, server = world.pair()
    with client, server, open(__file__, "rb") as file:
        task = world.start(client.sendfile, file, 10, 1000)
        got = b""
        while len(got) < 1000:
            got += server.recv(1000)
        with open(__file__, "rb") as again:
            again.seek(10)
            return task.result(), file.tell(), got == again.read(1000)


@scenario
def accepted_sockets(world: World) -> Any:
    with world.socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        with world.socket.create_connection(server.getsockname(), timeout=2) as client:
            conn, address = server.accept()
            with conn:
                return (
                    conn.gettimeout(),
                    client.gettimeout(),
                    address == client.getsockname(),
                    (conn.family, conn.type, conn.proto),
                    conn.get_inheritable(),
                    os.get_blocking(conn.fileno()),
                    os.get_blocking(client.fileno()),
                )


@scenario
def unix_names(world: World) -> Any:
    name = f"\0ferrule-{os.getpid()}-{threading.get_ident()}".encode()
    with world.socket.socket(std.AF_UNIX) as server, world.socket.socket(std.AF_UNIX) as client:
        server.bind(name)
        server.listen()
        client.connect(name)
        conn, address = server.accept()
        with conn:
            return address, conn.getpeername(), client.getpeername() == name


@scenario
def seqpacket(world: World) -> Any:
    one, other = world.socket.socketpair(std.AF_UNIX, std.SOCK_SEQPACKET)
    with other:
        with one:
            one.sendall(b"first message")
            one.send(b"second")
        return other.recv(5), other.recv(100), other.recv(100)


@scenario
def a_waiting_reader_gets_what_comes_later(world: World) -> Any:
    client, server = world.pair()
    with client, server:
        task = world.start(server.recv, 100)
        world.sleep(0.01)
        client.sendall(b"later")
        return task.result()


@scenario
def look_ups(world: World) -> Any:
    return [
        world.socket.getaddrinfo("127.0.0.1", 80, type=std.SOCK_STREAM),
        world.socket.getaddrinfo(None, "80", type=std.SOCK_STREAM, flags=std.AI_PASSIVE),
        world.socket.getaddrinfo("localhost", 1, std.AF_INET, std.SOCK_DGRAM),
        world.socket.getnameinfo(("127.0.0.1", 80), std.NI_NUMERICHOST | std.NI_NUMERICSERV),
        world.socket.gethostbyname("127.0.0.1"),
        world.socket.gethostbyname("localhost"),
        outcome(world.socket.getaddrinfo, "no-such.invalid", 1)[0],
        outcome(world.socket.getaddrinfo, "127.0.0.1", 1, -7)[:2],
        outcome(world.socket.gethostbyname, "no-such.invalid")[0],
        outcome(world.socket.getservbyname, "no-such-service"),
        world.socket.getfqdn("127.0.0.1") == std.getfqdn("127.0.0.1"),
    ]


@scenario
def module_functions(world: World) -> Any:
    s = world.socket
    return [
        s.inet_aton("1.2.3.4"), s.inet_ntop(s.AF_INET6, b"\0" * 15 + b"\1"), s.htons(1),
        s.has_ipv6, s.has_dualstack_ipv6(), s.if_nameindex(), s.CMSG_LEN(4), s.gethostname(),
        s.getdefaulttimeout(),
    ]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda fn: fn.__name__)
def test_fibers_see_what_threads_see(run: Run, scenario: Callable[[World], Any]) -> None:
    assert in_fibers(run, scenario) == in_threads(scenario)
