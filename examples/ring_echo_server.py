"""A multishot echo server on the ring alone: ring_echo_server.py [PORT [SECONDS]].

One accept, and one receive per connection, stay armed.  When data comes the kernel picks a buffer
of a group that all connections share; the data is sent from where it lies, and the buffer goes
back.  Clients that read slowly keep buffers from going back: receives then end with ENOBUFS, and
are armed again when there are buffers.  Who takes nothing for SECONDS (10) is disconnected.
"""

import contextlib
import errno
import socket
import sys
from collections import deque

from ferrule.ring import Ring, SqeFlags

ENTRIES = 256
BUFFERS = 256
SIZE = 4096


def main(port=7001, seconds=10):
    with (
        contextlib.suppress(KeyboardInterrupt),
        socket.create_server(("127.0.0.1", int(port))) as listener,
        Server(listener, float(seconds)) as server,
    ):
        print("echoing on port", listener.getsockname()[1], flush=True)
        server.run()


class Server:
    def __init__(self, listener, seconds):
        self.listener, self.seconds = listener, seconds
        self.ring = Ring(ENTRIES)
        self.group = self.ring.register_buf_ring(BUFFERS, SIZE)
        self.sockets = set()
        self.starved = deque()  # connections whose receive found no buffer

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.ring.close()  # first: it cancels what is in flight on the sockets
        for sock in self.sockets:
            sock.close()

    def run(self):
        self.accept()
        while True:
            self.ring.submit_and_wait(1)
            # Each makes us queue three operations at most.
            for cqe in self.ring.copy_cqes(ENTRIES // 3):
                cqe.user_data(cqe)
            while self.starved and self.ring.sq_space_left() and self.group.available():
                self.starved.popleft().receive()

    def accept(self, _=None):
        self.ring.prep_multishot_accept(
            self.listener, socket.SOCK_CLOEXEC, user_data=self.accepted
        )

    def accepted(self, cqe):
        if cqe.ok:
            sock = socket.socket(fileno=cqe.res)
            self.sockets.add(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Connection(self, sock).receive()
        if not cqe.more:
            # After an error, such as EMFILE, trying at once would fail at once.
            self.ring.prep_timeout(0 if cqe.ok else 1, user_data=self.accept)


class Connection:
    def __init__(self, server, sock):
        self.server, self.sock = server, sock
        self.unsent = deque()  # completions of the receive; the first is being sent
        self.receiving = True

    def receive(self):
        self.server.ring.prep_recv_multishot(
            self.sock, self.server.group, user_data=self.received
        )

    def received(self, cqe):
        if cqe.res > 0:
            self.unsent.append(cqe)
            if len(self.unsent) == 1:
                self.send()
        if cqe.res == -errno.ENOBUFS:
            self.server.starved.append(self)
        elif not cqe.more and cqe.res > 0:
            self.receive()  # it ended because the completion queue was full
        elif not cqe.more:
            self.receiving = False
            self.close_at_the_end()

    def send(self):
        ring = self.server.ring
        data = self.server.group.get(self.unsent[0])
        ring.prep_send(self.sock, data, socket.MSG_WAITALL, user_data=self.sent).link()
        ring.prep_link_timeout(self.server.seconds).flags |= SqeFlags.CQE_SKIP_SUCCESS

    def sent(self, cqe):
        done = self.unsent.popleft()
        self.server.group.recycle(done)
        if cqe.res < done.res:
            self.give_up()
        elif self.unsent:
            self.send()
        self.close_at_the_end()

    def give_up(self):
        """The client is gone, or too slow.  The receive ends with the socket."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.server.group.recycle(*self.unsent)
        self.unsent.clear()

    def close_at_the_end(self):
        if not self.receiving and not self.unsent:
            self.server.sockets.discard(self.sock)
            self.sock.close()


main(*sys.argv[1:])
