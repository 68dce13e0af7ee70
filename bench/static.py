"""Static files over HTTP: one file of 1 KiB, loaded by wrk from the other processor."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import sys
from typing import Any

from .harness import (
    CLIENT_CPU,
    SCRATCH,
    Benchmark,
    Case,
    Column,
    Peers,
    Sample,
    Settings,
    Target,
    Unavailable,
    child_command,
    output_of,
    process_cpu_seconds,
    refuse_tmpfs,
    server,
)

PEERS = Peers()
FOLDER = SCRATCH / "www"
FILE = FOLDER / "small.txt"
SIZE = 1024
CASE = "wrk -t1 -c64, 1 KiB"
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def prepare() -> None:
    """Write the file, once."""
    refuse_tmpfs(SCRATCH)
    FOLDER.mkdir(exist_ok=True)
    if not FILE.exists():
        FILE.write_bytes(os.urandom(SIZE // 2).hex().encode("ascii"))


@PEERS.add("Ferrule")
def ferrule_serve(options: dict[str, Any]) -> None:
    os.execv(
        sys.executable,
        [sys.executable, "-m", "ferrule", "serve", str(FOLDER), "--port", "0"],
    )


@PEERS.add("aiohttp static on uvloop")
def aiohttp_static(options: dict[str, Any]) -> None:
    import asyncio

    from aiohttp import web

    from .harness import run_uvloop

    async def main() -> None:
        app = web.Application()
        app.router.add_static("/", FOLDER)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}/", flush=True)
        await asyncio.Event().wait()

    run_uvloop(main())


@PEERS.add("python -m http.server")
def standard_server(options: dict[str, Any]) -> None:
    where = ["--bind", "127.0.0.1", "--directory", str(FOLDER), "0"]
    os.execv(sys.executable, [sys.executable, "-u", "-m", "http.server", *where])


def port_in(line: str) -> int:
    """Find the port in a server's first line, whatever words it is wrapped in."""
    found = re.search(r":(\d+)", line) or re.search(r"port (\d+)", line)
    if not found:
        raise RuntimeError(f"no port in the server's first line: {line!r}")
    return int(found[1])


def check_answer(port: int) -> None:
    """Fetch the file once: a server that sends something else has no figure."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/" + FILE.name)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if response.status != 200 or body != FILE.read_bytes():
        raise RuntimeError(f"status {response.status}, {len(body)} bytes: not the file")


def latency_ms(report: str, percent: int) -> float | None:
    """Find a percentile in wrk's --latency table."""
    found = re.search(rf"^\s*{percent}%\s+([\d.]+)(us|ms|s)$", report, re.M)
    return float(found[1]) * MILLISECONDS[found[2]] if found else None


def measure(benchmark: Benchmark, case: Case, peer: str, settings: Settings) -> Sample:
    """Start a server, check its answer, load it."""
    wrk = shutil.which("wrk")
    if not wrk:
        raise Unavailable("wrk is not installed (Debian: apt-get install wrk)")
    seconds = 1 if settings.quick else 3  # wrk takes whole seconds
    with server(child_command(benchmark, peer, {})) as (pid, line):
        port = port_in(line)
        check_answer(port)
        url = f"http://127.0.0.1:{port}/{FILE.name}"
        cpu = process_cpu_seconds(pid)
        command = [wrk, "-t1", "-c64", f"-d{seconds}s", "--latency", url]
        report = output_of(command, [CLIENT_CPU], timeout=60)
        cpu = process_cpu_seconds(pid) - cpu
    return parse(report, cpu)


def parse(report: str, cpu: float) -> Sample:
    """Make a sample of wrk's report; responses that are not the file spoil it."""
    rate = re.search(r"Requests/sec:\s+([\d.]+)", report)
    count = re.search(r"(\d+) requests in", report)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", report)
    errors = re.search(r"Socket errors: (.*)", report)
    if not rate or not count or not int(count[1]):
        raise RuntimeError("wrk got no answers")
    if bad:
        raise RuntimeError(f"{bad[1]} responses were errors")
    return {
        "value": float(rate[1]),
        "cpu_us": cpu / int(count[1]) * 1e6,
        "p50_ms": latency_ms(report, 50),
        "p99_ms": latency_ms(report, 99),
        "socket_errors": sum(map(int, re.findall(r"\d+", errors[1]))) if errors else 0,
    }


BENCHMARK = Benchmark(
    name="static",
    title="Static files",
    measures="`ferrule serve`, aiohttp's static handler on uvloop without its access log, "
    "and `python -m http.server` (HTTP/1.0: a connection per request, a log line per request).",
    unit="requests/s",
    higher_is_better=True,
    cases=[Case(CASE)],
    peers=PEERS,
    measure=measure,
    together=True,
    prepare=prepare,
    targets=[
        Target(CASE, "aiohttp static on uvloop", at_least=2),
        Target(CASE, "python -m http.server", at_least=5),
    ],
    columns=[
        Column("cpu_us", "CPU µs/request"),
        Column("p50_ms", "p50 ms"),
        Column("p99_ms", "p99 ms"),
        Column("socket_errors", "socket errors"),
    ],
)
