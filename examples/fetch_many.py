"""Fetch pages from many fibers at once, and give up on those that take too long."""

import ferrule

PAGES = 100
PATIENCE = 1.0  # seconds for all of them


def main():
    with ferrule.listen_tcp("127.0.0.1", 0) as listener, ferrule.TaskGroup() as servers:
        servers.spawn(ferrule.serve, answer, listener)
        pages = fetch_all(listener.getsockname()[1])
        servers.cancel()
    late = [number for number in range(PAGES) if number not in pages]
    print(f"{len(pages)} pages, {sum(map(len, pages.values()))} bytes")
    print(f"too late: {late}")


def fetch_all(port):
    """The pages that came in time, by number."""
    pages = {}
    with ferrule.move_on_after(PATIENCE), ferrule.TaskGroup() as group:
        for number in range(PAGES):
            group.spawn(fetch, port, number, pages)
    return pages


def fetch(port, number, pages):
    with ferrule.connect_tcp("127.0.0.1", port) as conn, conn.makefile("rb") as reply:
        conn.sendall(f"GET /{number} HTTP/1.0\r\n\r\n".encode())
        _headers, _, body = reply.read().partition(b"\r\n\r\n")
        pages[number] = body


def answer(conn):
    """A server whose every 25th page takes an hour."""
    with conn.makefile("rb") as request:
        number = int(request.readline().split()[1].strip(b"/"))
        while request.readline().strip():
            pass
    if number % 25 == 0:
        ferrule.sleep(3600)
    conn.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + b"This is page %d.\n" % number)


ferrule.run(main)
