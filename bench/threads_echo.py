"""TCP echo on a Python without the GIL, on one loop thread and on two.

Server and client share both processors, so two loop threads and the client compete for them.
"""

from __future__ import annotations

import json
from typing import Any

from .echo import BACKLOG, CHUNK, HOST, TIMEOUT_S, announce
from .harness import (
    CPUS,
    Benchmark,
    Case,
    Column,
    Peers,
    Sample,
    Settings,
    child_command,
    compiled,
    output_of,
    server,
)
from .threads import ONE, TWO, on_free_threaded

PEERS = Peers()
WITH_GIL = "Ferrule, 1 thread, with the GIL"
CONNECTIONS, BYTES = 64, 64


def serve(threads: int) -> None:
    import socket

    import ferrule

    def echo(conn: Any) -> None:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn.settimeout(TIMEOUT_S)
        while data := conn.recv(CHUNK):
            conn.sendall(data)

    def main() -> None:
        ferrule.serve_tcp(echo, HOST, 0, backlog=BACKLOG, on_listening=announce)

    ferrule.run(main, threads=threads)


@PEERS.add(TWO)
def two_threads(options: dict[str, Any]) -> None:
    serve(2)


@PEERS.add(ONE)
def one_thread(options: dict[str, Any]) -> None:
    serve(1)


@PEERS.add(WITH_GIL)
def one_thread_with_gil(options: dict[str, Any]) -> None:
    serve(1)


def measure(benchmark: Benchmark, case: Case, peer: str, settings: Settings) -> Sample:
    command = child_command(benchmark, peer, {})
    if peer != WITH_GIL:
        command = on_free_threaded(command)
    client = str(compiled("echo_client.c"))
    load = [CONNECTIONS, BYTES, settings.seconds]
    with server(command, CPUS) as (pid, port):
        return json.loads(output_of([client, port, *map(str, load), str(pid)], CPUS, timeout=60))


BENCHMARK = Benchmark(
    name="threads_echo",
    title="TCP echo on several loop threads",
    measures="On CPython 3.13t, `ferrule.serve_tcp`, server and client on the same two processors; "
    "for comparison one thread with the GIL. The client polls, so it keeps one processor busy. "
    "CPU is the server's, user and system, all its threads.",
    unit="requests/s",
    higher_is_better=True,
    cases=[Case(f"{BYTES} B, {CONNECTIONS} connections")],
    peers=PEERS,
    measure=measure,
    together=True,
    columns=[
        Column("cpu_us", "CPU µs/request"),
        Column("p50_us", "p50 µs"),
        Column("p99_us", "p99 µs"),
        Column("server_busy", "server busy %", 100),
    ],
)
