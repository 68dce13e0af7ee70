"""A busy echo server among clients that leave in every way: memory and counters stay flat.

3 seconds by default; FERRULE_SOAK=long makes it 30.  FERRULE_SOAK_SEED repeats a run.
"""

from __future__ import annotations

import errno
import gc
import os
import random
import socket as std
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest

import ferrule
from memory_support import memory_in_use
from net_support import Run, drain, statistics

CONNECTIONS = 200
LONG = os.environ.get("FERRULE_SOAK") == "long"
SECONDS = 30.0 if LONG else 3.0
WARM_UP = SECONDS / 3  # pools, arenas and free lists have their size after it
SEED = int(os.environ.get("FERRULE_SOAK_SEED", "20240229"))
GROWTH_MAX = 4 << 20  # 600 bytes per connection in the short run, 50 in the long one

ENDS = (
    "exchange", "half_close", "reset", "time_out", "say_nothing", "drip", "leave_it_unread",
    "close_under_a_reader", "cancelled", "server reset", "server timeout",
)


def resident() -> int:
    gc.collect()
    return memory_in_use()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Soak:
    """Clients that come, do something and leave, until the time is over."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ends: Counter[str] = Counter()
        self.payload = self.random.randbytes(300_000)
        self.until = 0.0

    # ---- the server ----

    def echo(self, conn: Any) -> None:
        conn.settimeout(1)
        try:
            while data := conn.recv(65536):
                conn.sendall(data)
        except TimeoutError:
            self.ends["server timeout"] += 1
        except ConnectionError:
            self.ends["server reset"] += 1

    # ---- what a client does ----

    def exchange(self, conn: Any) -> None:
        for _ in range(self.random.randint(1, 20)):
            start = self.random.randrange(200_000)
            data = self.payload[start : start + self.random.choice((1, 64, 4096, 20_000))]
            conn.sendall(data)
            assert drain(conn, len(data)) == data

    def half_close(self, conn: Any) -> None:
        conn.sendall(self.payload[:5000])
        conn.shutdown(std.SHUT_WR)
        assert drain(conn, 5000) == self.payload[:5000]
        assert conn.recv(1) == b""

    def reset(self, conn: Any) -> None:
        conn.sendall(self.payload[: self.random.choice((0, 10, 200_000))])
        conn.setsockopt(std.SOL_SOCKET, std.SO_LINGER, struct.pack("ii", 1, 0))

    def time_out(self, conn: Any) -> None:
        conn.settimeout(self.random.uniform(0.0001, 0.02))
        with pytest.raises(TimeoutError):
            drain(conn, 1)

    def say_nothing(self, conn: Any) -> None:
        assert conn.recv(1) == b""  # the server's timeout

    def drip(self, conn: Any) -> None:
        for value in self.payload[:10]:
            conn.sendall(bytes([value]))
            ferrule.yield_now()
        assert drain(conn, 10) == self.payload[:10]

    def leave_it_unread(self, conn: Any) -> None:
        limit = ferrule.move_on_after(self.random.uniform(0, 0.05))
        with limit, suppress(ConnectionError):  # the server may give up first
            while True:
                conn.sendall(self.payload)

    def close_under_a_reader(self, conn: Any) -> None:
        def read() -> None:
            with pytest.raises(OSError) as caught:
                conn.recv(10)
            assert caught.value.errno == errno.EBADF

        reader = ferrule.spawn(read)
        try:
            ferrule.sleep(self.random.uniform(0, 0.002))
        finally:
            conn.close()
        reader.result()

    # ---- who does it ----

    def client(self, port: int) -> None:
        acts: list[Callable[[Any], None]] = [
            self.exchange, self.exchange, self.exchange, self.half_close, self.reset,
            self.time_out, self.say_nothing, self.drip, self.leave_it_unread,
            self.close_under_a_reader,
        ]
        while ferrule.now() < self.until:
            act = self.random.choice(acts)
            with ferrule.connect_tcp("127.0.0.1", port) as conn:
                act(conn)
            self.ends[act.__name__] += 1

    def keep_clients(self, port: int, seconds: float) -> None:
        """Cancel clients at random moments and send others in."""
        self.until = ferrule.now() + seconds
        with ferrule.TaskGroup() as group:
            clients = [group.spawn(self.client, port) for _ in range(CONNECTIONS)]
            while ferrule.now() < self.until:
                ferrule.sleep(self.random.uniform(0, 0.004))
                place = self.random.randrange(CONNECTIONS)
                clients[place].cancel()
                self.ends["cancelled"] += 1
                clients[place] = group.spawn(self.client, port)


def check_flat(idle: int) -> None:
    """Nothing lives but the main task and the server, which waits for a connection."""
    flat = {"live_tasks": 2, "slots_in_use": 1, "operations_in_flight": 1, "timers": 0}
    until = ferrule.now() + 5
    while found_now(flat) != flat and ferrule.now() < until:
        ferrule.sleep(0.01)  # the server's last connections have yet to find their end
    assert found_now(flat) == flat
    assert descriptors() == idle


def found_now(names: Iterable[str]) -> dict[str, int]:
    found = statistics()
    return {name: found[name] for name in names}


def test_soak_of_an_echo_server_leaves_memory_and_counters_flat(run: Run) -> None:
    soak = Soak(SEED)
    grown = 0

    def main() -> None:
        nonlocal grown
        ports: ferrule.Queue[Any] = ferrule.Queue()
        server = ferrule.spawn(
            lambda: ferrule.serve_tcp(soak.echo, "127.0.0.1", 0, on_listening=ports.put)
        )
        listener = ports.get()
        port = listener.getsockname()[1]
        ferrule.sleep(0.01)
        idle = descriptors()
        soak.keep_clients(port, WARM_UP)
        check_flat(idle)
        memory = resident()
        soak.keep_clients(port, SECONDS - WARM_UP)
        check_flat(idle)
        grown = resident() - memory
        listener.close()
        server.result(timeout=10)

    try:
        run(main)
        assert grown < GROWTH_MAX, f"{grown >> 10} KiB more"
        never = [end for end in ENDS if not soak.ends[end]]
        assert not never, f"never happened: {never}"
    except BaseException as exc:
        exc.add_note(f"repeat with FERRULE_SOAK_SEED={SEED}")
        raise
    print(f"{grown >> 10} KiB more after the warm-up; {dict(soak.ends)}")
