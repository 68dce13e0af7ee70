"""Name look-ups: on their own threads, streaming, and never in the way of a cancellation."""

from __future__ import annotations

import socket as std
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import ferrule
import ferrule.socket as fs
from net_support import Run, settle


class FakeResolver:
    """Answers per family, each when it is let go; what was asked and on which thread."""

    def __init__(self) -> None:
        self.gates = {std.AF_INET: threading.Event(), std.AF_INET6: threading.Event()}
        self.answers: dict[int, Any] = {
            std.AF_INET: ["192.0.2.1", "192.0.2.2"],
            std.AF_INET6: ["2001:db8::1"],
        }
        self.threads: list[threading.Thread] = []

    def __call__(
        self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        self.threads.append(threading.current_thread())
        assert self.gates[family].wait(10)
        answer = self.answers[family]
        if isinstance(answer, Exception):
            raise answer
        return [(std.AddressFamily(family), std.SOCK_STREAM, 6, "", (a, port)) for a in answer]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeResolver]:
    fake = FakeResolver()
    monkeypatch.setattr(std, "getaddrinfo", fake)
    yield fake
    for gate in fake.gates.values():
        gate.set()


def test_each_familys_addresses_come_as_soon_as_they_are_known(
    run: Run, resolver: FakeResolver
) -> None:
    def main() -> None:
        found = fs.lookup("example.org", 80)
        resolver.gates[std.AF_INET].set()
        assert [next(found)[4][0], next(found)[4][0]] == ["192.0.2.1", "192.0.2.2"]
        resolver.gates[std.AF_INET6].set()
        assert [info[4][0] for info in found] == ["2001:db8::1"]
        assert threading.main_thread() not in resolver.threads

    run(main)


def test_one_family_without_an_answer_is_no_error(run: Run, resolver: FakeResolver) -> None:
    resolver.answers[std.AF_INET6] = std.gaierror(std.EAI_NONAME, "none")

    def main() -> None:
        for gate in resolver.gates.values():
            gate.set()
        assert len(list(fs.lookup("example.org", 80))) == 2

    run(main)


def test_when_no_family_has_an_answer_the_telling_error_is_raised(
    run: Run, resolver: FakeResolver
) -> None:
    resolver.answers[std.AF_INET6] = std.gaierror(std.EAI_NONAME, "none")
    resolver.answers[std.AF_INET] = std.gaierror(std.EAI_AGAIN, "temporary")

    def main() -> None:
        for gate in resolver.gates.values():
            gate.set()
        with pytest.raises(std.gaierror) as caught:
            list(fs.lookup("example.org", 80))
        assert caught.value.errno == std.EAI_AGAIN

    run(main)


def test_a_cancelled_fiber_does_not_wait_for_the_answer(run: Run, resolver: FakeResolver) -> None:
    def main() -> None:
        start = time.monotonic()
        with ferrule.move_on_after(0.02) as scope:
            fs.getaddrinfo("example.org", 80, std.AF_INET)
        assert scope.cancelled_caught
        with ferrule.move_on_after(0.02) as scope:
            list(fs.lookup("example.org", 80))
        assert scope.cancelled_caught
        assert time.monotonic() - start < 5
        for gate in resolver.gates.values():
            gate.set()

    run(main)


def test_slow_look_ups_do_not_hold_up_blocking_calls_or_each_other(
    run: Run, resolver: FakeResolver
) -> None:
    def main() -> None:
        slow = [ferrule.spawn(fs.getaddrinfo, "a.example", 1, std.AF_INET6) for _ in range(8)]
        settle()
        assert ferrule.blocking(lambda: 7) == 7
        resolver.gates[std.AF_INET].set()
        assert fs.getaddrinfo("b.example", 1, std.AF_INET)
        assert not any(task.done() for task in slow)
        resolver.gates[std.AF_INET6].set()
        for task in slow:
            task.result()

    run(main)


def test_numeric_addresses_need_no_runtime_and_no_thread() -> None:
    assert fs.getaddrinfo("127.0.0.1", 80, type=std.SOCK_STREAM)[0][4] == ("127.0.0.1", 80)
    assert fs.getaddrinfo("::1", "443", type=std.SOCK_STREAM)[0][4][:2] == ("::1", 443)
    assert [info[4][1] for info in fs.lookup("127.0.0.1", 5)] == [5]


def test_a_name_outside_a_runtime_names_the_remedy() -> None:
    with pytest.raises(RuntimeError, match=r"ferrule\.run"):
        fs.getaddrinfo("localhost", 80)


def test_names_are_found_as_the_standard_module_finds_them(run: Run) -> None:
    def main() -> None:
        assert fs.gethostbyname("localhost") == std.gethostbyname("localhost")
        assert fs.gethostbyname_ex("localhost") == std.gethostbyname_ex("localhost")
        assert fs.getaddrinfo("localhost", 80) == std.getaddrinfo("localhost", 80)
        assert fs.getnameinfo(("127.0.0.1", 80), 0) == std.getnameinfo(("127.0.0.1", 80), 0)
        with pytest.raises(std.gaierror):
            fs.getaddrinfo("no-such-host.invalid", 80)

    run(main)
