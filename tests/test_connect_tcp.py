"""connect_tcp: happy eyeballs, time limits, errors, and losers that leave nothing behind."""

from __future__ import annotations

import errno
import socket as std
import time
from collections.abc import Callable
from typing import Any

import pytest

import ferrule
import ferrule.net
from net_support import Run, settle

needs_ipv6 = pytest.mark.skipif(not std.has_ipv6, reason="no IPv6 here")


class Scene:
    """A name with addresses of our choice, and attempts that take as long as we say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[int, tuple[float, list[str] | Exception]] = {}
        self.delays: dict[str, float] = {}
        self.failures: dict[str, int] = {}
        self.started: list[tuple[str, float]] = []
        self.closed: list[str] = []
        self.real_attempt = ferrule.net._attempt
        monkeypatch.setattr(ferrule.net, "getaddrinfo", self.look_up)
        monkeypatch.setattr(ferrule.net, "_attempt", self.attempt)
        self.begin = 0.0

    def look_up(self, host: str, port: int, family: int = 0, type: int = 0, *rest: int) -> Any:
        delay, answer = self.answers[family]
        ferrule.sleep(delay)
        if isinstance(answer, Exception):
            raise answer
        return [(family, type, 6, "", (address, port)) for address in answer]

    def attempt(self, info: Any, local: Any) -> Any:
        address = info[4][0]
        self.started.append((address, time.monotonic() - self.begin))
        try:
            ferrule.sleep(self.delays.get(address, 0))
        except ferrule.Cancelled:
            self.closed.append(address)
            raise
        if address in self.failures:
            err = self.failures[address]
            raise OSError(err, "made up", address)
        loopback = "::1" if ":" in address else "127.0.0.1"
        return self.real_attempt((*info[:4], (loopback, info[4][1])), local)

    def connect(self, port: int, **options: Any) -> Any:
        self.begin = time.monotonic()
        return ferrule.connect_tcp("example.org", port, **options)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def with_listener(run: Run, body: Callable[[int], None]) -> None:
    def main() -> None:
        # Made without the look-up that the scene replaces.
        with ferrule.socket.create_server(("127.0.0.1", 0)) as listener:
            body(listener.getsockname()[1])

    run(main)


def test_a_connection_has_nodelay_and_reaches_the_listener(run: Run) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            for host in ("127.0.0.1", "localhost"):
                with ferrule.connect_tcp(host, listener.getsockname()[1]) as client:
                    assert client.getsockopt(std.IPPROTO_TCP, std.TCP_NODELAY)
                    conn, address = listener.accept()
                    with conn:
                        assert address == client.getsockname()
                        assert conn.getsockopt(std.IPPROTO_TCP, std.TCP_NODELAY)

    run(main)


def test_a_refusal_names_the_address(run: Run) -> None:
    def main() -> None:
        with ferrule.socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            for host in ("127.0.0.1", "localhost"):
                with pytest.raises(ConnectionRefusedError) as caught:
                    ferrule.connect_tcp(host, port)
                assert f":{port}" in caught.value.filename

    run(main)


def test_an_unknown_name_raises_gaierror(run: Run) -> None:
    def main() -> None:
        with pytest.raises(std.gaierror):
            ferrule.connect_tcp("no-such-host.invalid", 80)

    run(main)


@pytest.mark.parametrize(
    ("host", "port", "error"),
    [("a..b", 80, UnicodeError), ("localhost", "no-such", std.gaierror), (5, 80, TypeError)],
)
def test_a_mistake_in_the_address_is_raised_as_it_is(
    run: Run, host: Any, port: Any, error: type[Exception]
) -> None:
    def main() -> None:
        with pytest.raises(error):
            ferrule.connect_tcp(host, port)

    run(main)


def test_the_next_address_is_tried_after_the_stagger(run: Run, scene: Scene) -> None:
    scene.answers = {std.AF_INET6: (0, []), std.AF_INET: (0, ["192.0.2.1", "192.0.2.2"])}
    scene.delays = {"192.0.2.1": 30}

    def body(port: int) -> None:
        with scene.connect(port, stagger=0.05) as conn:
            assert conn.getpeername()[1] == port
        assert [address for address, _ in scene.started] == ["192.0.2.1", "192.0.2.2"]
        assert 0.04 < scene.started[1][1] < 5
        assert scene.closed == ["192.0.2.1"]

    with_listener(run, body)


def test_the_default_stagger_is_a_quarter_of_a_second(run: Run, scene: Scene) -> None:
    scene.answers = {std.AF_INET6: (0, []), std.AF_INET: (0, ["192.0.2.1", "192.0.2.2"])}
    scene.delays = {"192.0.2.1": 30}

    def body(port: int) -> None:
        scene.connect(port).close()
        assert 0.24 < scene.started[1][1] < 5

    with_listener(run, body)


def test_after_a_failure_the_next_is_tried_at_once(run: Run, scene: Scene) -> None:
    scene.answers = {std.AF_INET6: (0, []), std.AF_INET: (0, ["192.0.2.1", "192.0.2.2"])}
    scene.failures = {"192.0.2.1": errno.ENETUNREACH}

    def body(port: int) -> None:
        scene.connect(port, stagger=30).close()
        assert scene.started[1][1] < 5

    with_listener(run, body)


def test_families_are_tried_in_turn_beginning_with_ipv6(run: Run, scene: Scene) -> None:
    scene.answers = {
        std.AF_INET6: (0, ["2001:db8::1", "2001:db8::2"]),
        std.AF_INET: (0, ["192.0.2.1", "192.0.2.2"]),
    }
    scene.failures = dict.fromkeys(
        ["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"], errno.ECONNREFUSED
    )

    def body(port: int) -> None:
        with pytest.raises(ConnectionRefusedError):
            scene.connect(port)
        order = [address for address, _ in scene.started]
        assert order == ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"]

    with_listener(run, body)


def test_a_slow_ipv6_answer_is_awaited_only_shortly(run: Run, scene: Scene) -> None:
    scene.answers = {std.AF_INET6: (30, ["2001:db8::1"]), std.AF_INET: (0, ["192.0.2.1"])}

    def body(port: int) -> None:
        scene.connect(port).close()
        assert [address for address, _ in scene.started] == ["192.0.2.1"]
        assert 0.04 < scene.started[0][1] < 5

    with_listener(run, body)


def test_an_ipv6_answer_within_the_resolution_delay_goes_first(run: Run, scene: Scene) -> None:
    scene.answers = {std.AF_INET6: (0.01, ["2001:db8::1"]), std.AF_INET: (0, ["192.0.2.1"])}
    scene.failures = {"2001:db8::1": errno.ENETUNREACH}

    def body(port: int) -> None:
        scene.connect(port).close()
        assert [address for address, _ in scene.started] == ["2001:db8::1", "192.0.2.1"]

    with_listener(run, body)


def test_different_errors_are_all_told(run: Run, scene: Scene) -> None:
    scene.answers = {std.AF_INET6: (0, ["2001:db8::1"]), std.AF_INET: (0, ["192.0.2.1"])}
    scene.failures = {"2001:db8::1": errno.ENETUNREACH, "192.0.2.1": errno.ECONNREFUSED}

    def body(port: int) -> None:
        with pytest.raises(OSError) as caught:
            scene.connect(port)
        assert caught.value.errno == errno.ENETUNREACH
        cause = caught.value.__cause__
        assert isinstance(cause, ExceptionGroup)
        assert isinstance(cause.exceptions[0], ConnectionRefusedError)

    with_listener(run, body)


def test_one_family_without_addresses_does_not_hide_the_others_error(
    run: Run, scene: Scene
) -> None:
    scene.answers = {
        std.AF_INET6: (0, std.gaierror(std.EAI_NONAME, "none")),
        std.AF_INET: (0, ["192.0.2.1"]),
    }
    scene.failures = {"192.0.2.1": errno.ECONNREFUSED}

    def body(port: int) -> None:
        with pytest.raises(ConnectionRefusedError):
            scene.connect(port)

    with_listener(run, body)


@pytest.mark.parametrize("where", ["look-up", "attempt"])
def test_the_timeout_is_for_everything(run: Run, scene: Scene, where: str) -> None:
    scene.answers = {
        std.AF_INET6: (30 if where == "look-up" else 0, []),
        std.AF_INET: (30 if where == "look-up" else 0, ["192.0.2.1"]),
    }
    scene.delays = {"192.0.2.1": 30}

    def body(port: int) -> None:
        with pytest.raises(TimeoutError) as caught:
            scene.connect(port, timeout=0.05)
        assert caught.value.errno == errno.ETIMEDOUT
        assert caught.value.filename == f"example.org:{port}"

    with_listener(run, body)


def test_the_timeout_holds_for_a_numeric_address(run: Run) -> None:
    def main() -> None:
        with ferrule.socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            conns = []
            with pytest.raises(TimeoutError):
                for _ in range(10):  # the backlog takes one or two
                    address = full.getsockname()
                    conn = ferrule.connect_tcp(*address, timeout=0.05)
                    conns.append(conn)
            for conn in conns:
                conn.close()

    run(main)


def test_a_cancelled_connect_leaves_nothing(run: Run, scene: Scene) -> None:
    scene.answers = {std.AF_INET6: (0, []), std.AF_INET: (0, ["192.0.2.1", "192.0.2.2"])}
    scene.delays = {"192.0.2.1": 30, "192.0.2.2": 30}

    def body(port: int) -> None:
        task = ferrule.spawn(scene.connect, port)
        settle()
        task.cancel()
        task.join(timeout=5)
        assert task.cancelled()

    with_listener(run, body)


def test_two_winners_at_once_leave_one_connection(run: Run, scene: Scene) -> None:
    scene.answers = {std.AF_INET6: (0, []), std.AF_INET: (0, ["192.0.2.1", "192.0.2.2"])}
    scene.delays = {"192.0.2.1": 0.06, "192.0.2.2": 0.03}

    def body(port: int) -> None:
        for stagger in (0.029, 0.03, 0.031):
            scene.connect(port, stagger=stagger).close()

    with_listener(run, body)


def test_the_local_address_is_bound(run: Run) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            port = listener.getsockname()[1]
            with ferrule.connect_tcp("127.0.0.1", port, local=("127.0.0.2", 0)) as conn:
                assert conn.getsockname()[0] == "127.0.0.2"

    run(main)


@needs_ipv6
def test_listening_without_a_host_serves_both_families(run: Run) -> None:
    def main() -> None:
        for host in (None, ""):
            with ferrule.listen_tcp(host, 0) as listener:
                port = listener.getsockname()[1]
                for address in ("127.0.0.1", "::1"):
                    with ferrule.connect_tcp(address, port):
                        next(listener).close()

    run(main)


def test_a_taken_port_names_the_address(run: Run) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0) as listener:
            port = listener.getsockname()[1]
            with pytest.raises(OSError) as caught:
                ferrule.listen_tcp("127.0.0.1", port)
            assert caught.value.errno == errno.EADDRINUSE
            assert caught.value.filename == f"127.0.0.1:{port}"

    run(main)


def test_reuse_port_shares_an_address(run: Run) -> None:
    def main() -> None:
        with ferrule.listen_tcp("127.0.0.1", 0, reuse_port=True) as one:
            port = one.getsockname()[1]
            with ferrule.listen_tcp("127.0.0.1", port, reuse_port=True) as other:
                assert other.getsockname() == one.getsockname()

    run(main)
