"""What must never be served, and clients that must be cut off."""

import os
import random
import resource
import socket
import threading
import time

import pytest

pytest.importorskip("httptools", reason="needs the extra: pip install 'ferrule[cli]'")

from http_client import Server, receive_all, receive_answers, split_answers

SECRET = b"the secret outside"
GET = b"GET /ok.txt HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    top = tmp_path_factory.mktemp("top")
    (top / "secret.txt").write_bytes(SECRET)
    (top / "site-secret").mkdir()  # a name that the served one is a prefix of
    (top / "site-secret" / "secret.txt").write_bytes(SECRET)
    root = top / "site"
    (root / "sub").mkdir(parents=True)
    (root / "ok.txt").write_text("ok")
    (root / "big.bin").write_bytes(bytes(20_000_000))
    os.mkfifo(root / "fifo")
    os.mkfifo(root / "sub" / "index.html")
    for name, target in {
        "up": "..",
        "file-up": "../secret.txt",
        "absolute": str(top / "secret.txt"),
        "absolute-dir": str(top),
        "passwd": "/etc/passwd",
        "root": "/",
        "loop": "loop",
        "proc": "/proc/self/root",
        "sub/deep": "../../secret.txt",
        "sub/round": "../sub/../../secret.txt",
        "inside": "ok.txt",
    }.items():
        os.symlink(target, root / name)
    return root


@pytest.fixture(scope="module")
def server(site):
    limits = ("--header-timeout", "1", "--keep-alive-timeout", "1.5", "--write-timeout", "1")
    with Server(site, *limits) as running:
        yield running
        status, errors = running.stop()
        assert (status, errors) == (0, "")


TRAVERSALS = [
    "/../secret.txt",
    "/sub/../../secret.txt",
    "/sub/../../site-secret/secret.txt",
    "/..",
    "/../",
    "/../site-secret/secret.txt",
    "/%2e%2e/secret.txt",
    "/%2E%2E/secret.txt",
    "/.%2e/secret.txt",
    "/%2e./secret.txt",
    "/sub/%2e%2e/%2e%2e/secret.txt",
    "/..%2fsecret.txt",
    "/..%2Fsecret.txt",
    "/%2e%2e%2fsecret.txt",
    "/sub%2f..%2f..%2fsecret.txt",
    "/%252e%252e/secret.txt",
    "/%252e%252e%252fsecret.txt",
    "/..%252fsecret.txt",
    "/..\\secret.txt",
    "/..%5csecret.txt",
    "/%2e%2e%5csecret.txt",
    "/..%c0%afsecret.txt",
    "/%c0%ae%c0%ae/secret.txt",
    "/%e0%80%ae%e0%80%ae/secret.txt",
    "/%uff0e%uff0e/secret.txt",
    "/%u002e%u002e/secret.txt",
    "/..;/secret.txt",
    "/.../secret.txt",
    "/....//secret.txt",
    "/..//secret.txt",
    "//../secret.txt",
    "/./../secret.txt",
    "/.%00./secret.txt",
    "/ok.txt%00/../../secret.txt",
    "/ok.txt%00",
    "/%00/etc/passwd",
    "//etc/passwd",
    "/%2fetc/passwd",
    "/%2Fetc%2Fpasswd",
    "///etc/passwd",
    "http://a/../secret.txt",
    "http://a/%2e%2e/secret.txt",
    "http://a/..%2fsecret.txt",
    "http://a//etc/passwd",
    "file:///etc/passwd",
    "/file:///etc/passwd",
    "/~root/.bashrc",
    "/up/secret.txt",
    "/up/",
    "/file-up",
    "/absolute",
    "/absolute-dir/secret.txt",
    "/absolute-dir/",
    "/passwd",
    "/root/etc/passwd",
    "/root/",
    "/proc/etc/passwd",
    "/loop",
    "/sub/deep",
    "/sub/round",
    "/sub/deep/../../ok.txt",
    "/up/site/ok.txt",
]


@pytest.mark.parametrize("target", TRAVERSALS)
def test_nothing_outside_is_served(server, target):
    for method in ("GET", "HEAD"):
        answer = server.get(target, method=method)
        assert answer.status in (400, 403, 404)
        assert SECRET not in answer.body
        assert b"root:" not in answer.body


def test_a_listing_does_not_show_links_that_lead_out(server):
    listing = server.get("/").body
    assert b"./inside" in listing
    for name in (b"up", b"file-up", b"absolute", b"passwd", b"root", b"fifo", b"loop", b"proc"):
        name = b"./" + name
        assert name + b'"' not in listing
        assert name + b'/"' not in listing


@pytest.mark.parametrize("target", ["/fifo", "/sub/"])
def test_a_fifo_is_refused_at_once(server, target):
    start = time.monotonic()
    assert server.get(target).status == 403
    assert time.monotonic() - start < 5


def test_a_link_changed_under_load_never_gives_what_is_outside(site, server):
    """A link alternates between a file inside and one outside while it is asked for."""
    inside = site / "race-inside.txt"
    inside.write_text("inside")
    link, spare = site / "race", site / "race-new"
    os.symlink("race-inside.txt", link)
    stop = threading.Event()

    def exchange():
        while not stop.is_set():
            for target in ("../secret.txt", "race-inside.txt"):
                os.symlink(target, spare)
                os.replace(spare, link)

    thread = threading.Thread(target=exchange)
    thread.start()
    statuses = set()
    try:
        with server.connect() as sock:
            rounds, deadline = 0, time.monotonic() + 20
            # On a busy machine the two may not meet for a while.
            while rounds < 1500 or (len(statuses) < 2 and time.monotonic() < deadline):
                rounds += 1
                sock.sendall(b"GET /race HTTP/1.1\r\nHost: a\r\n\r\n")
                (answer,) = receive_answers(sock, 1)
                statuses.add(answer.status)
                assert SECRET not in answer.body
                assert answer.status == 403 or answer.body == b"inside"
    finally:
        stop.set()
        thread.join()
        link.unlink()
    assert statuses == {200, 403}, "the race never happened: the test shows nothing"


def test_a_file_exchanged_for_a_fifo_never_blocks_the_server(site, server):
    path, fifo, plain = site / "swap", site / "swap-fifo", site / "swap-plain"
    stop = threading.Event()

    def exchange():
        while not stop.is_set():
            os.mkfifo(fifo)
            os.replace(fifo, path)
            plain.write_text("plain")
            os.replace(plain, path)

    path.write_text("plain")
    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        with server.connect() as sock:
            for _ in range(500):
                sock.sendall(b"GET /swap HTTP/1.1\r\nHost: a\r\n\r\n")
                (answer,) = receive_answers(sock, 1)
                assert answer.status in (200, 403, 404)
    finally:
        stop.set()
        thread.join()
        path.unlink()


# ---- malformed and oversize requests ----


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 505),
        (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 200_000, 413),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", 417),
    ],
    ids=range(14),
)
def test_a_bad_request_gets_its_status_and_the_connection_ends(server, data, status):
    (answer,) = split_answers(server.ask(data))
    assert answer.status == status
    if status != 405:
        assert answer.fields["connection"] == "close"


def test_requests_hidden_behind_an_ambiguous_length_are_not_answered(server):
    data = server.ask(
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\n" + GET
    )
    assert [a.status for a in split_answers(data)] == [400]


def test_random_bytes_never_break_the_server(server):
    rng = random.Random(7)
    start = time.monotonic()
    for _ in range(150):
        data = bytearray(rng.choice([rng.randbytes(rng.randint(1, 400)), GET, GET * 3]))
        for _ in range(rng.randint(0, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with server.connect() as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            receive_all(sock)
    assert time.monotonic() - start < 60
    assert server.get("/ok.txt").body == b"ok"


def test_clients_that_vanish_leave_no_descriptor_behind(server):
    folder = f"/proc/{server.process.pid}/fd"
    server.get("/ok.txt")
    before = len(os.listdir(folder))
    for i in range(100):
        sock = server.connect()
        sock.sendall((GET, GET[:10], b"", b"GET /big.bin HTTP/1.1\r\nHost: a\r\n\r\n")[i % 4])
        if i % 2:
            linger = b"\1\0\0\0\0\0\0\0"  # closing resets the connection
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        sock.close()
    end = time.monotonic() + 15
    while len(os.listdir(folder)) > before + 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(os.listdir(folder)) <= before + 2


# ---- slow clients (the timeouts of this server are 1 to 1.5 s) ----


def seconds_until_closed(sock):
    start = time.monotonic()
    data = receive_all(sock)
    return time.monotonic() - start, data


def test_a_client_that_says_nothing_is_closed(server):
    with server.connect() as sock:
        seconds, data = seconds_until_closed(sock)
    assert 0.5 < seconds < 6
    assert data == b""


def test_an_idle_kept_connection_is_closed_without_an_answer(server):
    with server.connect() as sock:
        sock.sendall(GET)
        receive_answers(sock, 1)
        seconds, data = seconds_until_closed(sock)
    assert 1 < seconds < 6
    assert data == b""


def test_a_request_that_never_ends_gets_408(server):
    with server.connect() as sock:
        sock.sendall(GET[:-2])
        seconds, data = seconds_until_closed(sock)
    assert 0.5 < seconds < 6
    assert [a.status for a in split_answers(data)] == [408]


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nHost: a\r\nA: ", b"GET /", b"\r\n\r\n",
                                   b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"])
def test_trickling_bytes_do_not_buy_time(server, start):
    with server.connect() as sock:
        sock.settimeout(0.1)
        begin = time.monotonic()
        data = b""
        sock.sendall(start)
        while time.monotonic() - begin < 10:
            try:
                part = sock.recv(65536)
                if not part:
                    break
                data += part
            except TimeoutError:
                sock.sendall(b"\r\n" if start == b"\r\n\r\n" else b"a")
            except ConnectionResetError:
                break
        seconds = time.monotonic() - begin
    assert seconds < 6
    assert data == b"" or [a.status for a in split_answers(data)] == [408]


def test_many_slow_clients_do_not_keep_others_waiting(server):
    slow = [server.connect() for _ in range(100)]
    try:
        for sock in slow:
            sock.sendall(b"GET / HTTP/1.1\r\nX: ")
        start = time.monotonic()
        for _ in range(20):
            assert server.get("/ok.txt").body == b"ok"
        assert time.monotonic() - start < 5
    finally:
        for sock in slow:
            sock.close()


def test_a_client_that_does_not_read_is_cut_off(server):
    with server.connect() as sock:
        sock.sendall(b"GET /big.bin HTTP/1.1\r\nHost: a\r\n\r\n")
        sock.recv(1)
        # Nothing is read; the server gives up, so what is left ends before the file does.
        time.sleep(3)
        assert len(receive_all(sock)) < 20_000_000


def test_a_client_that_reads_by_drops_is_cut_off(server):
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(10)
        sock.connect(server.address)
        sock.sendall(b"GET /big.bin HTTP/1.1\r\nHost: a\r\n\r\n")
        start = time.monotonic()
        while time.monotonic() - start < 25:
            try:
                part = sock.recv(50)
            except ConnectionResetError:
                break
            if not part:
                break
            time.sleep(0.06)
        else:
            pytest.fail("a client taking 800 bytes a second was served for 25 s")


# ---- limits on connections and requests ----


def test_connections_over_the_limit_wait_and_then_get_their_turn(site):
    with Server(site, "--max-connections", "3", "--keep-alive-timeout", "1") as server:
        socks = [server.connect() for _ in range(8)]
        try:
            for sock in socks:
                sock.sendall(GET)
            for sock in socks:
                (answer,) = receive_answers(sock, 1)
                assert answer.body == b"ok"
        finally:
            for sock in socks:
                sock.close()


def test_a_connection_ends_after_its_last_request(site):
    with Server(site, "--max-requests", "3") as server:
        answers = split_answers(server.ask(GET * 5))
        assert len(answers) == 3
        assert answers[-1].fields["connection"] == "close"


def test_running_out_of_descriptors_is_survived(site):
    """The server's limit is lowered from outside while clients keep connecting."""
    with Server(site, "--keep-alive-timeout", "30") as server:
        pid = server.process.pid
        used = len(os.listdir(f"/proc/{pid}/fd"))
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 6, hard))
        socks = [server.connect() for _ in range(20)]
        for sock in socks[:3]:
            sock.sendall(GET)
            receive_answers(sock, 1)
        socks[-1].sendall(GET)
        for sock in socks[:-1]:
            sock.close()
        with socks[-1] as last:
            (answer,) = receive_answers(last, 1)
            assert answer.status in (200, 503)
        assert server.get("/ok.txt").status == 200
        assert server.stop() == (0, "")
