"""``ferrule serve`` over real sockets, as a client sees it."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from email.utils import formatdate, parsedate_to_datetime

import pytest

pytest.importorskip("httptools", reason="needs the extra: pip install 'ferrule[cli]'")

from http_client import Server, receive_all, receive_answers, split_answers

BIG = random.Random(1).randbytes(3_000_001)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("site")
    (root / "hello.txt").write_text("hello world")
    (root / "empty").write_bytes(b"")
    (root / "big.bin").write_bytes(BIG)
    (root / "dir").mkdir()
    (root / "dir" / "index.html").write_text("<p>index")
    (root / "list").mkdir()
    (root / "list" / "<b>&.txt").write_text("x")
    (root / "a b é.txt").write_text("spaced")
    os.utime(root / "hello.txt", (1_600_000_000, 1_600_000_000))
    return root


@pytest.fixture(scope="module")
def server(site):
    with Server(site) as running:
        yield running
        status, errors = running.stop()
        assert (status, errors) == (0, "")


def test_a_file_comes_with_its_fields(server):
    answer = server.get("/hello.txt")
    assert answer.status == 200
    assert answer.body == b"hello world"
    fields = answer.fields
    assert fields["content-type"] == "text/plain; charset=utf-8"
    assert fields["content-length"] == "11"
    assert fields["last-modified"] == "Sun, 13 Sep 2020 12:26:40 GMT"
    assert fields["accept-ranges"] == "bytes"
    assert fields["x-content-type-options"] == "nosniff"
    assert fields["connection"] == "close"
    assert abs(parsedate_to_datetime(fields["date"]).timestamp() - time.time()) < 30
    assert fields["etag"].startswith('"')


def test_head_is_get_without_the_body(server):
    for path in ("/hello.txt", "/big.bin", "/empty", "/list/", "/missing", "/dir"):
        got, head = server.get(path), server.get(path, method="HEAD")
        assert head.body == b""
        got.fields.pop("date"), head.fields.pop("date")
        assert (head.status, head.fields) == (got.status, got.fields)


def test_a_large_file_arrives_whole(server):
    assert server.get("/big.bin").body == BIG


def test_an_empty_file_is_served(server):
    answer = server.get("/empty")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.fields["content-length"] == "0"


def test_escaped_names_are_found(server):
    assert server.get("/a%20b%20%C3%A9.txt").body == b"spaced"


def test_a_query_does_not_matter(server):
    assert server.get("/hello.txt?a=b&c").body == b"hello world"


def test_an_absolute_target_is_understood(server):
    assert server.get("http://anything.example/hello.txt").body == b"hello world"


def test_a_directory_gets_its_slash_its_index_or_a_listing(server):
    moved = server.get("/dir?q=1")
    assert (moved.status, moved.fields["location"]) == (301, "/dir/?q=1")
    assert server.get("/dir/").body == b"<p>index"
    listing = server.get("/list/")
    assert listing.fields["content-type"] == "text/html; charset=utf-8"
    assert b"&lt;b&gt;&amp;.txt" in listing.body
    assert b"<b>" not in listing.body
    assert b'href="./%3Cb%3E%26.txt"' in listing.body


def test_what_is_not_there_is_404(server):
    for path in ("/missing", "/hello.txt/", "/hello.txt/x", "/" + "a" * 300):
        assert server.get(path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PROPFIND", "TRACE"])
def test_other_methods_are_405_and_the_connection_stays(server, method):
    with server.connect() as sock:
        for _ in range(2):
            sock.sendall(f"{method} /hello.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
                         .encode())
            (answer,) = receive_answers(sock, 1)
            assert (answer.status, answer.fields["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("step", [0, 2_999_900])
@pytest.mark.parametrize(
    ("path", "size"), [("/hello.txt", 11), ("/big.bin", len(BIG))]
)
def test_ranges(server, site, path, size, step):
    content = (site / path[1:]).read_bytes()
    first = min(step, size - 3)
    for spec, expected in (
        (f"bytes={first}-{first + 1}", (first, first + 2)),
        (f"bytes={first}-", (first, size)),
        ("bytes=-2", (size - 2, size)),
        (f"bytes=0-{size * 2}", (0, size)),
        (f"bytes=-{size * 2}", (0, size)),
    ):
        answer = server.get(path, f"Range: {spec}")
        start, stop = expected
        assert answer.status == 206
        assert answer.body == content[start:stop]
        assert answer.fields["content-range"] == f"bytes {start}-{stop - 1}/{size}"
        assert server.get(path, f"Range: {spec}", method="HEAD").status == 200
    refused = server.get(path, f"Range: bytes={size}-")
    assert (refused.status, refused.fields["content-range"]) == (416, f"bytes */{size}")
    assert server.get(path, "Range: bytes=0-1,3-4").status == 200
    assert server.get(path, "Range: bytes=0-1", "Range: bytes=3-4").status == 200


def test_conditions(server):
    fields = server.get("/hello.txt").fields
    tag, date = fields["etag"], fields["last-modified"]
    for condition in (
        f"If-None-Match: {tag}", f"If-None-Match: W/{tag}", "If-None-Match: *",
        f'If-None-Match: "x", {tag}', f"If-Modified-Since: {date}",
        f"If-Modified-Since: {formatdate(time.time(), usegmt=True)}",
    ):
        answer = server.get("/hello.txt", condition)
        assert (answer.status, answer.body) == (304, b"")
        assert answer.fields["etag"] == tag
    for condition in ('If-None-Match: "x"', "If-Modified-Since: Sun, 13 Sep 2020 12:26:39 GMT"):
        assert server.get("/hello.txt", condition).status == 200
    assert server.get("/hello.txt", "Range: bytes=0-0", f"If-Range: {tag}").status == 206
    assert server.get("/hello.txt", "Range: bytes=0-0", f"If-Range: {date}").status == 206
    assert server.get("/hello.txt", "Range: bytes=0-0", 'If-Range: "x"').status == 200
    assert server.get("/hello.txt", 'If-Match: "x"').status == 412


def test_a_connection_serves_many_requests(server):
    with server.connect() as sock:
        for _ in range(50):
            sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: a\r\n\r\n")
            (answer,) = receive_answers(sock, 1)
            assert answer.body == b"hello world"
            assert "connection" not in answer.fields


def test_http_1_0_closes_unless_asked_to_keep_alive(server):
    assert split_answers(server.ask(b"GET /hello.txt HTTP/1.0\r\n\r\n"))[0].status == 200
    with server.connect() as sock:
        for _ in range(2):
            sock.sendall(b"GET /hello.txt HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            (answer,) = receive_answers(sock, 1)
            assert answer.fields["connection"] == "keep-alive"


PIPELINE = (
    b"GET /hello.txt HTTP/1.1\r\nHost: a\r\n\r\n"
    b"HEAD /hello.txt HTTP/1.1\r\nHost: a\r\n\r\n"
    b"GET /missing HTTP/1.1\r\nHost: a\r\n\r\n"
    b"GET /hello.txt HTTP/1.1\r\nHost: a\r\nRange: bytes=1-2\r\nConnection: close\r\n\r\n"
)


def check_pipeline(data):
    answers = split_answers(data, ["GET", "HEAD"])
    assert [a.status for a in answers] == [200, 200, 404, 206]
    assert [a.body for a in answers[:2]] == [b"hello world", b""]
    assert answers[3].body == b"el"


def test_pipelined_requests_are_answered_in_order_wherever_they_are_split(server):
    for at in range(1, len(PIPELINE)):
        with server.connect() as sock:
            sock.sendall(PIPELINE[:at])
            # Let the parts arrive apart: what the first makes possible comes back first.
            if PIPELINE[:at].count(b"\r\n\r\n"):
                sock.recv(1, socket.MSG_PEEK)
            sock.sendall(PIPELINE[at:])
            check_pipeline(receive_all(sock))


def test_pipelined_requests_arrive_one_byte_at_a_time(server):
    with server.connect() as sock:
        for i in range(len(PIPELINE)):
            sock.sendall(PIPELINE[i : i + 1])
        check_pipeline(receive_all(sock))


def test_a_deep_pipeline_with_large_answers_is_answered(server):
    count = 20
    request = b"GET /big.bin HTTP/1.1\r\nHost: a\r\n\r\n"
    with server.connect() as sock:
        last = request.replace(b"a\r\n", b"a\r\nConnection: close\r\n")
        sock.sendall(request * (count - 1) + last)
        answers = split_answers(receive_all(sock))
    assert len(answers) == count
    assert all(answer.body == BIG for answer in answers)


def test_a_client_that_waits_for_continue_gets_it(server):
    with server.connect() as sock:
        sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                     b"Content-Length: 4\r\n\r\n")
        (answer,) = receive_answers(sock, 1)
        assert answer.status == 100
        sock.sendall(b"body")
        (answer,) = receive_answers(sock, 1)
        assert answer.body == b"hello world"


def test_a_refused_upload_is_answered_before_it_is_sent(server):
    data = server.ask(b"PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                      b"Content-Length: 1000000\r\n\r\n")
    assert [a.status for a in split_answers(data)] == [405]


def test_a_changed_file_is_served_changed_at_once(server, site):
    path = site / "changing.txt"
    for i in range(50):
        path.write_text(f"version {i}")
        assert server.get("/changing.txt").body == f"version {i}".encode()
    replacement = site / "new.txt"
    replacement.write_text("replaced")
    os.replace(replacement, path)
    assert server.get("/changing.txt").body == b"replaced"
    path.unlink()
    assert server.get("/changing.txt").status == 404


def test_a_file_that_cannot_be_read_is_403(server, site):
    if os.geteuid() == 0:
        pytest.skip("root can read everything")
    path = site / "private"
    path.write_text("x")
    path.chmod(0)
    assert server.get("/private").status == 403


def test_many_clients_at_once_get_what_they_asked_for(server):
    failures = []

    def fetch(path, expected):
        for _ in range(10):
            answer = server.get(path)
            if answer.body != expected:
                failures.append(answer)

    jobs = [("/hello.txt", b"hello world"), ("/big.bin", BIG)] * 8
    threads = [threading.Thread(target=fetch, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# ---- starting and stopping ----


def test_the_url_is_the_first_line_and_names_the_port(site):
    with Server(site) as server:
        assert server.url == f"http://127.0.0.1:{server.address[1]}/"
        assert server.address[1] != 0


def test_ipv6_is_served_where_there_is_any(site):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as exc:
        pytest.skip(f"no IPv6 loopback here: {exc}")
    with Server(site, "--host", "::1") as server:
        assert server.url.startswith("http://[::1]:")
        assert server.get("/hello.txt").status == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_idle_server_with_status_0(site, number):
    with Server(site) as server, server.connect() as idle:
        idle.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: a\r\n\r\n")
        receive_answers(idle, 1)
        start = time.monotonic()
        assert server.stop(number) == (0, "")
        assert time.monotonic() - start < 5
        assert idle.recv(1) == b""


def test_a_request_in_progress_is_finished_after_the_signal(site):
    with Server(site) as server, server.connect() as busy:
        busy.sendall(b"GET /big.bin HTTP/1.1\r\nHost: a\r\n\r\n" * 5)
        busy.recv(1, socket.MSG_PEEK)
        with server.connect() as half:
            half.sendall(b"GET /hello.txt HTTP/1.1\r\nHo")
            time.sleep(0.3)  # so that the server has read it
            server.process.send_signal(signal.SIGTERM)
            refused_by(server)
            half.sendall(b"st: a\r\n\r\n")
            (answer,) = split_answers(receive_all(half))
            assert answer.body == b"hello world"
            assert answer.fields["connection"] == "close"
        answers = split_answers(receive_all(busy))
        assert answers
        assert all(answer.body == BIG for answer in answers)
        assert server.finish() == (0, "")


def refused_by(server):
    """Wait until new connections are refused."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            server.connect().close()
        except ConnectionRefusedError:
            return
        time.sleep(0.01)
    raise AssertionError("still accepting after the signal")


def test_the_grace_period_ends(site):
    with Server(site, "--grace", "0.5") as server, server.connect() as stuck:
        stuck.sendall(b"GET /big.bin HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
        stuck.recv(1)
        start = time.monotonic()
        assert server.stop() == (0, "")
        assert 0.4 < time.monotonic() - start < 5


def test_a_second_signal_ends_it_at_once(site):
    with Server(site, "--grace", "60") as server, server.connect() as stuck:
        stuck.sendall(b"GET /big.bin HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
        stuck.recv(1)
        server.process.send_signal(signal.SIGTERM)
        refused_by(server)
        status, _ = server.stop()
        assert status == -signal.SIGTERM


def command(*args, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "ferrule", *args],
        capture_output=True, text=True, timeout=60, check=False, **kwargs,
    )


def test_a_missing_directory_is_a_clear_error(tmp_path):
    done = command("serve", str(tmp_path / "nothing"))
    assert done.returncode == 2
    assert "No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_a_clear_error(site):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = command("serve", str(site), "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_extra_is_a_clear_error(site, tmp_path):
    (tmp_path / "httptools.py").write_text("raise ImportError('blocked by the test')")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    for name in (("serve", str(site)), ("demo",)):
        done = command(*name, env=env)
        assert done.returncode == 2
        assert "pip install 'ferrule[cli]'" in done.stderr
        assert "Traceback" not in done.stderr


def test_no_sub_command_is_a_usage_error():
    done = command()
    assert done.returncode == 2
    assert "serve" in done.stderr
