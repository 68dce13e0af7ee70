"""A server process and a plain blocking client, for the tests of ``ferrule serve``."""

import contextlib
import re
import select
import signal
import socket
import subprocess
import sys
import time

TIMEOUT = 20


class Server:
    """``python -m ferrule serve`` in a process of its own."""

    def __init__(self, folder, *options, **popen):
        command = [sys.executable, "-m", "ferrule", "serve", str(folder), "--port", "0", *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen
        )
        ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT)
        self.url = self.process.stdout.readline().strip() if ready else ""
        match = re.fullmatch(r"http://(.*):(\d+)/", self.url)
        if match is None:
            self.process.kill()
            _, errors = self.process.communicate()
            raise AssertionError(f"no URL on the first line but {self.url!r}; stderr: {errors}")
        self.address = (match[1].strip("[]"), int(match[2]))

    def connect(self):
        sock = socket.create_connection(self.address, TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def ask(self, data):
        """Send raw bytes on a new connection; return everything that comes until it closes."""
        with self.connect() as sock:
            with contextlib.suppress(ConnectionError):  # answered and closed while we send
                sock.sendall(data)
            return receive_all(sock)

    def get(self, target, *fields, method="GET"):
        """One request on a connection of its own; returns the Answer."""
        lines = [f"{method} {target} HTTP/1.1", "Host: test", "Connection: close", *fields]
        data = self.ask("\r\n".join([*lines, "", ""]).encode("latin-1"))
        (answer,) = split_answers(data, [method])
        return answer

    def stop(self, number=signal.SIGTERM):
        """Send a signal; return exit status and stderr."""
        self.process.send_signal(number)
        return self.finish()

    def finish(self):
        _, errors = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, errors

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class Answer:
    """Status, fields (lower-case names) and body."""

    def __init__(self, head, body):
        lines = head.decode("latin-1").split("\r\n")
        version, status, self.reason = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        self.status = int(status)
        self.fields = {}
        for line in lines[1:]:
            name, value = line.split(": ", 1)
            assert name.lower() not in self.fields, f"{name} twice"
            self.fields[name.lower()] = value
        self.body = body

    def __repr__(self):
        return f"<Answer {self.status} {self.fields} {self.body[:100]!r}>"


def receive_all(sock):
    parts = []
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        try:
            part = sock.recv(1 << 20)
        except ConnectionResetError:
            break
        if not part:
            return b"".join(parts)
        parts.append(part)
    else:
        raise AssertionError("the server never closed the connection")
    return b"".join(parts)


def split_answers(data, methods=()):
    """The answers in ``data``.  ``methods``: of the requests, where not all are GET."""
    answers = []
    methods = list(methods)
    while data:
        head, mark, rest = data.partition(b"\r\n\r\n")
        assert mark, f"no complete header in {data[:200]!r}"
        answer = Answer(head, b"")
        method = methods[len(answers)] if len(answers) < len(methods) else "GET"
        length = int(answer.fields.get("content-length", 0))
        if method == "HEAD" or answer.status in (100, 304):
            length = 0
        assert len(rest) >= length, f"body cut short: {len(rest)} of {length}"
        answer.body, data = rest[:length], rest[length:]
        answers.append(answer)
    return answers


def receive_answers(sock, count, methods=()):
    """Read until ``count`` complete answers are there."""
    data = b""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        try:
            answers = split_answers(data, methods)
        except AssertionError:
            answers = []
        if len(answers) >= count:
            return answers
        part = sock.recv(1 << 20)
        assert part, f"closed after {data!r}"
        data += part
    raise AssertionError(f"only {data[:1000]!r} came")
