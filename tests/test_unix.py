"""Unix stream sockets: paths, abstract names, full backlogs."""

from __future__ import annotations

import errno
import os
import socket as std
import stat
from pathlib import Path

import pytest

import ferrule
from net_support import Run, settle


def test_a_path_connects_both_ends(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "socket"

    def main() -> None:
        with ferrule.listen_unix(path, mode=0o600) as listener:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            with ferrule.connect_unix(path) as client:
                conn = next(listener)
                with conn:
                    client.sendall(b"hello")
                    assert conn.recv(10) == b"hello"
                    assert client.getpeername() == str(path)

    run(main)
    assert not path.exists()


def test_an_abstract_name_leaves_no_file(run: Run) -> None:
    name = f"\0ferrule-test-{os.getpid()}"

    def main() -> None:
        with ferrule.listen_unix(name) as listener, ferrule.connect_unix(name) as client:
            conn, _ = listener.accept()
            with conn:
                conn.sendall(b"x")
                assert client.recv(1) == b"x"

    run(main)


def test_the_address_of_a_bound_client_is_its_path(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        with (
            ferrule.listen_unix(tmp_path / "s") as listener,
            ferrule.socket.socket(std.AF_UNIX) as client,
        ):
            client.bind(str(tmp_path / "client"))
            client.connect(str(tmp_path / "s"))
            conn, address = listener.accept()
            conn.close()
            assert address == str(tmp_path / "client")

    run(main)


def test_a_stale_file_is_replaced_but_a_served_one_is_not(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with std.socket(std.AF_UNIX) as dead:
        dead.bind(str(path))

    def main() -> None:
        with ferrule.listen_unix(path):
            with pytest.raises(OSError, match="socket") as caught:
                ferrule.listen_unix(path)
            assert caught.value.errno == errno.EADDRINUSE
            assert caught.value.filename == str(path)
        assert not path.exists()

    run(main)


def test_closing_removes_only_its_own_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "socket"

    def main() -> None:
        listener = ferrule.listen_unix(path)
        path.unlink()
        path.write_text("somebody else's")
        listener.close()
        assert path.read_text() == "somebody else's"

    run(main)


def test_a_missing_path_is_named_in_the_error(run: Run, tmp_path: Path) -> None:
    def main() -> None:
        with pytest.raises(FileNotFoundError) as caught:
            ferrule.connect_unix(tmp_path / "nothing")
        assert caught.value.filename == str(tmp_path / "nothing")
        with pytest.raises(OSError, match="too long"):
            ferrule.connect_unix("x" * 200)

    run(main)


def test_connecting_waits_while_the_backlog_is_full(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "socket"

    def main() -> None:
        with ferrule.listen_unix(path, backlog=0) as listener:
            first = ferrule.connect_unix(path)
            second = ferrule.spawn(ferrule.connect_unix, path)
            settle()
            assert not second.done()
            with pytest.raises(TimeoutError) as caught:
                ferrule.connect_unix(path, timeout=0.02)
            assert caught.value.filename == str(path)
            listener.accept()[0].close()
            second.result().close()
            listener.accept()[0].close()
            first.close()

    run(main)


def test_a_cancelled_wait_for_the_backlog_ends(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "socket"

    def main() -> None:
        with ferrule.listen_unix(path, backlog=0), ferrule.connect_unix(path):
            waiting = ferrule.spawn(ferrule.connect_unix, path)
            settle()
            waiting.cancel()
            waiting.join(timeout=5)
            assert waiting.cancelled()

    run(main)
