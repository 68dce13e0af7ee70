"""Get a page over HTTPS from a server in another fiber, with a certificate made on the spot."""

import subprocess
import tempfile
from pathlib import Path

import ferrule
from ferrule import ssl

PAGE = b"<h1>Hello over TLS</h1>\n"


def main():
    with tempfile.TemporaryDirectory() as folder:
        cert, key = ferrule.blocking(make_certificate, Path(folder))
        server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_context.load_cert_chain(cert, key)
        client_context = ssl.create_default_context(cafile=cert)

    with ferrule.listen_tcp("127.0.0.1", 0) as listener, ferrule.TaskGroup() as group:
        group.spawn(ferrule.serve, lambda conn: answer(conn, server_context), listener)
        status, body = get("localhost", listener.getsockname()[1], "/", client_context)
        print(status)
        print(body.decode(), end="")
        group.cancel()


def answer(conn, context):
    with context.wrap_socket(conn, server_side=True) as tls:
        with tls.makefile("rb") as request:
            while request.readline().strip():
                pass
        tls.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(PAGE), PAGE)
        )
        tls.unwrap()


def get(host, port, path, context):
    """(status line, body)"""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    with ferrule.fail_after(10):
        conn = ferrule.connect_tcp(host, port)
        with context.wrap_socket(conn, server_hostname=host) as tls, tls.makefile("rb") as reply:
            tls.sendall(request.encode())
            status = reply.readline().decode().strip()
            headers = {}
            while line := reply.readline().strip():
                name, _, value = line.partition(b":")
                headers[name.lower()] = value.strip()
            body = reply.read(int(headers[b"content-length"]))
            tls.unwrap()
            return f"{tls.server_hostname}: {status}", body


def make_certificate(folder):
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "1", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert,
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


ferrule.run(main)
