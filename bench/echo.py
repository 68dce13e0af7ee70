"""TCP echo: every server answers the same C client; server on one processor, client on another.

The Ferrule server is one program for all cases; only the 64 KiB case adds a second one that
receives into its own buffer.
"""

from __future__ import annotations

import json
from typing import Any

from .harness import (
    CLIENT_CPU,
    Benchmark,
    Case,
    Column,
    Peers,
    Sample,
    Settings,
    Target,
    Unavailable,
    child_command,
    compiled,
    is_engine_built,
    output_of,
    run_uvloop,
    server,
)

PEERS = Peers()
ON_EPOLL = "Ferrule on epoll"
ON_KQUEUE = "Ferrule on kqueue (libkqueue)"
ON_THREADS = "Ferrule on threads"
HOST = "127.0.0.1"
BACKLOG = 1024
CHUNK = 65536
TIMEOUT_S = 30


def announce(sock: Any) -> None:
    """Print the port a listening socket got; the runner waits for this line."""
    print(sock.getsockname()[1], flush=True)


def serve_echo(backend: Any) -> None:
    import socket

    import ferrule

    def echo(conn: Any) -> None:
        with conn:
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conn.settimeout(TIMEOUT_S)
            while data := conn.recv(CHUNK):
                conn.sendall(data)

    def main() -> None:
        listener = ferrule.listen_tcp(HOST, 0, backlog=BACKLOG)
        announce(listener)
        for conn in listener:
            ferrule.spawn(echo, conn)

    ferrule.run(main, backend=backend)


@PEERS.add("Ferrule")
def ferrule_server(options: dict[str, Any]) -> None:
    serve_echo("uring")


@PEERS.add(ON_EPOLL)
def ferrule_epoll_server(options: dict[str, Any]) -> None:
    serve_echo("epoll")


@PEERS.add(ON_KQUEUE)
def ferrule_kqueue_server(options: dict[str, Any]) -> None:
    serve_echo("kqueue")


@PEERS.add(ON_THREADS)
def ferrule_threads_server(options: dict[str, Any]) -> None:
    serve_echo("threads")


@PEERS.add("Ferrule recv_into")
def ferrule_recv_into_server(options: dict[str, Any]) -> None:
    import socket

    import ferrule

    def echo(conn: Any) -> None:
        buffer = memoryview(bytearray(CHUNK))
        with conn:
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conn.settimeout(TIMEOUT_S)
            while length := conn.recv_into(buffer):
                conn.sendall(buffer[:length])

    def main() -> None:
        listener = ferrule.listen_tcp(HOST, 0, backlog=BACKLOG)
        announce(listener)
        for conn in listener:
            ferrule.spawn(echo, conn)

    ferrule.run(main)


@PEERS.add("C epoll")
def c_epoll_server(options: dict[str, Any]) -> None:
    import os

    program = compiled("echo_server.c")
    os.execv(program, [str(program)])


def echo_protocol() -> Any:
    """Return asyncio's shortest echo, the form that uvloop is fastest at."""
    import asyncio

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    return Echo


def echo_buffered_protocol() -> Any:
    """Return the echo that receives into its own buffer."""
    import asyncio

    class Echo(asyncio.BufferedProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.buffer = memoryview(bytearray(CHUNK))

        def get_buffer(self, sizehint: int) -> memoryview:
            return self.buffer

        def buffer_updated(self, length: int) -> None:
            # The transport may keep what it cannot send at once, so it gets a copy.
            self.transport.write(bytes(self.buffer[:length]))

    return Echo


async def serve_protocol(factory: Any) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    listener = await loop.create_server(factory, HOST, 0, backlog=BACKLOG)
    announce(listener.sockets[0])
    await listener.serve_forever()


async def serve_streams() -> None:
    import asyncio

    async def echo(reader: Any, writer: Any) -> None:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.close()

    listener = await asyncio.start_server(echo, HOST, 0, backlog=BACKLOG)
    announce(listener.sockets[0])
    await listener.serve_forever()


@PEERS.add("uvloop Protocol")
def uvloop_protocol_server(options: dict[str, Any]) -> None:
    run_uvloop(serve_protocol(echo_protocol()))


@PEERS.add("uvloop BufferedProtocol")
def uvloop_buffered_server(options: dict[str, Any]) -> None:
    run_uvloop(serve_protocol(echo_buffered_protocol()))


@PEERS.add("uvloop streams")
def uvloop_streams_server(options: dict[str, Any]) -> None:
    run_uvloop(serve_streams())


@PEERS.add("asyncio Protocol")
def asyncio_protocol_server(options: dict[str, Any]) -> None:
    import asyncio

    asyncio.run(serve_protocol(echo_protocol()))


@PEERS.add("gevent")
def gevent_server(options: dict[str, Any]) -> None:
    import socket

    from gevent.server import StreamServer

    def echo(conn: Any, address: Any) -> None:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn.settimeout(TIMEOUT_S)
        while data := conn.recv(CHUNK):
            conn.sendall(data)

    listener = StreamServer((HOST, 0), echo, backlog=BACKLOG)
    listener.start()
    announce(listener.socket)
    listener.serve_forever()


@PEERS.add("trio")
def trio_server(options: dict[str, Any]) -> None:
    import trio

    async def echo(stream: Any) -> None:
        while data := await stream.receive_some(CHUNK):
            await stream.send_all(data)

    async def main() -> None:
        listeners = await trio.open_tcp_listeners(0, host=HOST, backlog=BACKLOG)
        announce(listeners[0].socket)
        await trio.serve_listeners(echo, listeners)

    trio.run(main)


@PEERS.add("threads")
def threads_server(options: dict[str, Any]) -> None:
    import socket
    import threading

    def echo(conn: socket.socket) -> None:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn.settimeout(TIMEOUT_S)
        while data := conn.recv(CHUNK):
            conn.sendall(data)

    listener = socket.create_server((HOST, 0), backlog=BACKLOG)
    announce(listener)
    while True:
        conn, _ = listener.accept()
        threading.Thread(target=echo, args=(conn,), daemon=True).start()


@PEERS.add("ThreadingTCPServer")
def threading_tcp_server(options: dict[str, Any]) -> None:
    import socket
    import socketserver

    class Echo(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Without a timeout, which would cost it a poll(2) before each call.
            while data := self.request.recv(CHUNK):
                self.request.sendall(data)

    class Server(socketserver.ThreadingTCPServer):
        request_queue_size = BACKLOG
        daemon_threads = True

    with Server((HOST, 0), Echo) as listener:
        announce(listener.socket)
        listener.serve_forever()


def measure(benchmark: Benchmark, case: Case, peer: str, settings: Settings) -> Sample:
    """Start a server, load it from the other processor."""
    if peer == ON_KQUEUE and not is_engine_built("kqueue"):
        raise Unavailable("the kqueue engine is not built here")
    client = str(compiled("echo_client.c"))
    load = [case.options["connections"], case.options["bytes"], settings.seconds]
    with server(child_command(benchmark, peer, {})) as (pid, port):
        command = [client, port, *map(str, load), str(pid)]
        return json.loads(output_of(command, [CLIENT_CPU], timeout=60))


FOR_ENGINES = (ON_KQUEUE, ON_THREADS, "ThreadingTCPServer")
ENGINES = [n for n in PEERS if n not in ("Ferrule recv_into", "uvloop BufferedProtocol")]
SMALL = [name for name in ENGINES if name not in FOR_ENGINES]
LARGE = ["Ferrule recv_into",
         *(n for n in PEERS if n not in ("Ferrule recv_into", *FOR_ENGINES))]  # fmt: skip

BENCHMARK = Benchmark(
    name="echo",
    title="TCP echo",
    measures="Each connection sends a message, waits for all of it, sends the next. "
    "CPU is the server's, user and system; where it is far from 100 % busy, the wire and the "
    "scheduler set the pace.",
    unit="requests/s",
    higher_is_better=True,
    cases=[
        Case("64 B, 1 connection", {"connections": 1, "bytes": 64}, SMALL),
        Case("64 B, 64 connections", {"connections": 64, "bytes": 64}, ENGINES),
        Case("64 B, 512 connections", {"connections": 512, "bytes": 64}, SMALL),
        Case("64 KiB, 16 connections", {"connections": 16, "bytes": 65536}, LARGE),
    ],
    peers=PEERS,
    measure=measure,
    together=True,
    targets=[
        Target("64 B, 64 connections", "C epoll", at_least=0.75),
        Target("64 B, 64 connections", "uvloop Protocol", at_least=1.2),
        Target("64 B, 64 connections", "gevent", at_least=3),
        Target("64 B, 64 connections", "Ferrule", at_least=0.8, subject=ON_EPOLL),
        Target("64 B, 64 connections", "uvloop Protocol", at_least=1.0, subject=ON_EPOLL),
        Target("64 B, 64 connections", "gevent", at_least=2.5, subject=ON_EPOLL),
        Target("64 B, 64 connections", "ThreadingTCPServer", at_least=0.7, subject=ON_THREADS),
        Target("64 B, 1 connection", "C epoll", at_least=0.9),
        Target("64 B, 1 connection", "uvloop Protocol", at_least=0.95),
        Target("64 B, 512 connections", "C epoll", at_least=0.6),
        Target("64 B, 512 connections", "uvloop Protocol", at_least=1.1),
        Target(
            "64 KiB, 16 connections", "uvloop Protocol", at_least=1.0, subject="Ferrule recv_into"
        ),
    ],
    columns=[
        Column("cpu_us", "CPU µs/request"),
        Column("p50_us", "p50 µs"),
        Column("p99_us", "p99 µs"),
        Column("server_busy", "server busy %", 100),
    ],
)
