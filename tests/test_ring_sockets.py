"""Operations on sockets, their variants and flags, and what is refused."""

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from ferrule._core.ring import _hide_features, _hide_operations, _show_operations
from ferrule.ring import (
    FILE_INDEX_ALLOC,
    AcceptFlags,
    CqeFlags,
    Features,
    NotSupported,
    Op,
    RecvSendFlags,
    SetupFlags,
    SocketOp,
    get_probe,
)
from ring_support import (
    CANCELED,
    cancel_all,
    clean_ring,
    each_setup,
    fill,
    finish,
    hand_over,
    read_exactly,
    receive,
    results,
    tcp_listener,
    tcp_pair,
    udp_pair,
    unavailable,
    until_last,
)

BUNDLE = RecvSendFlags.BUNDLE
POLL_FIRST = RecvSendFlags.POLL_FIRST
REPORT = RecvSendFlags.SEND_ZC_REPORT_USAGE


# ---- making sockets ----------------------------------------------------------------------------


@each_setup
def test_a_server_and_a_client_are_made_through_the_ring_alone(flags):
    with clean_ring(flags=flags) as ring:
        kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC
        ring.prep_socket(socket.AF_INET, kind, user_data="listener")
        ring.prep_socket(socket.AF_INET, kind, socket.IPPROTO_TCP, user_data="client")
        fds = results(finish(ring, 2))
        with socket.socket(fileno=fds["listener"]) as listener, socket.socket(
            fileno=fds["client"]
        ) as client:
            assert not os.get_inheritable(client.fileno())
            ring.prep_bind(listener, ("127.0.0.1", 0)).link()
            ring.prep_listen(listener, 5)
            assert [cqe.res for cqe in finish(ring, 2)] == [0, 0]
            ring.prep_accept(listener, user_data="accept")
            ring.prep_connect(client, listener.getsockname(), user_data="connect")
            done = results(finish(ring, 2))
            assert done["connect"] == 0
            with socket.socket(fileno=done["accept"]) as server:
                ring.prep_shutdown(client, socket.SHUT_WR)
                assert finish(ring)[0].res == 0
                assert server.recv(1) == b""
                server.send(b"still open this way")
                assert client.recv(100) == b"still open this way"


@each_setup
def test_what_socket_bind_and_listen_refuse_is_in_the_completion(flags):
    with clean_ring(flags=flags) as ring, tcp_listener() as listener, socket.socket() as sock:
        ring.prep_socket(socket.AF_INET, 15, user_data="type")
        ring.prep_socket(9999, socket.SOCK_STREAM, user_data="family")
        ring.prep_bind(sock, listener.getsockname(), user_data="in use")
        ring.prep_listen(0, user_data="no socket")
        ring.prep_shutdown(sock, socket.SHUT_RD, user_data="not connected")
        ring.prep_shutdown(sock, 77, user_data="how")
        assert results(finish(ring, 6)) == {
            "type": -errno.EINVAL,
            "family": -errno.EAFNOSUPPORT,
            "in use": -errno.EADDRINUSE,
            "no socket": -errno.ENOTSOCK,
            "not connected": -errno.ENOTCONN,
            "how": -errno.EINVAL,
        }


def test_unix_socket_is_bound_to_a_path_or_finds_a_name(tmp_path):
    path = tmp_path / "socket"
    with clean_ring() as ring, socket.socket(socket.AF_UNIX) as named, socket.socket(
        socket.AF_UNIX
    ) as nameless:
        ring.prep_bind(named, path)
        ring.prep_bind(nameless, "")
        assert [cqe.res for cqe in finish(ring, 2)] == [0, 0]
        assert named.getsockname() == str(path)
        assert nameless.getsockname().startswith(b"\0")


def test_address_of_another_family_is_given_as_its_bytes():
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    except OSError as error:
        pytest.skip(f"no netlink here: {error}")
    with clean_ring() as ring, sock:
        ring.prep_bind(sock, (socket.AF_NETLINK, struct.pack("=HII", 0, 0, 0)))
        assert finish(ring)[0].res == 0
        assert sock.getsockname()[0] != 0


@each_setup
def test_shutdown_ends_a_receive_that_waits(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (_client, server):
        ring.prep_recv(server, bytearray(1), user_data="recv")
        hand_over(ring)
        ring.prep_shutdown(server, socket.SHUT_RD, user_data="shutdown")
        assert results(finish(ring, 2)) == {"recv": 0, "shutdown": 0}


# ---- direct descriptors ------------------------------------------------------------------------


@each_setup
def test_direct_socket_lives_in_the_table_and_makes_no_descriptor(flags):
    with clean_ring(flags=flags) as ring, tcp_listener() as listener:
        ring.register_files([-1] * 4)
        before = os.listdir("/proc/self/fd")
        sqe = ring.prep_socket_direct(socket.AF_INET, socket.SOCK_STREAM, 0, 2)
        assert sqe.file_index == 3
        assert finish(ring)[0].res == 0
        ring.prep_connect(2, listener.getsockname()).use_registered_fd().link()
        ring.prep_send(2, b"through place 2", socket.MSG_WAITALL).use_registered_fd()
        assert [cqe.res for cqe in finish(ring, 2)] == [0, 15]
        assert os.listdir("/proc/self/fd") == before
        server, _ = listener.accept()
        with server:
            assert server.recv(100) == b"through place 2"
            # What the place held is closed when another takes it.
            ring.prep_socket_direct(socket.AF_INET, socket.SOCK_STREAM, 0, 2)
            assert finish(ring)[0].res == 0
            assert server.recv(100) == b""


@each_setup
def test_direct_sockets_take_free_places_until_there_are_none(flags):
    with clean_ring(flags=flags) as ring:
        ring.register_files([-1, 0, -1])
        for place in (0, 2, -errno.ENFILE):
            ring.prep_socket_direct_alloc(socket.AF_INET, socket.SOCK_STREAM)
            assert finish(ring)[0].res == place
        ring.register_files_update(2, [-1])
        sqe = ring.prep_socket_direct(socket.AF_INET, socket.SOCK_STREAM, 0, FILE_INDEX_ALLOC)
        assert sqe.file_index == FILE_INDEX_ALLOC
        assert finish(ring)[0].res == 2


@each_setup
def test_what_a_direct_socket_cannot_be_is_in_the_completion(flags):
    with clean_ring(flags=flags) as ring:
        stream = socket.SOCK_STREAM
        ring.prep_socket_direct(socket.AF_INET, stream, 0, 0)
        assert finish(ring)[0].res == -errno.ENXIO  # there is no table
        ring.register_files([-1] * 2)
        ring.prep_socket_direct(socket.AF_INET, stream, 0, 2)
        assert finish(ring)[0].res == -errno.EINVAL  # beyond its end


@each_setup
def test_direct_accept_gives_the_place_and_the_peers_address(flags):
    with clean_ring(flags=flags) as ring, tcp_listener() as listener:
        ring.register_files([-1] * 4)
        for place, wanted, res in ((3, 4, 0), (FILE_INDEX_ALLOC, FILE_INDEX_ALLOC, 0)):
            sqe = ring.prep_accept_direct(listener, 0, place)
            assert sqe.file_index == wanted
            hand_over(ring)
            with socket.create_connection(listener.getsockname()) as client:
                cqe = ring.copy_cqe(timeout=5)
                assert (cqe.res, cqe.address) == (res, client.getsockname())
                buffer = bytearray(10)
                client.send(b"hello")
                index = 3 if place == 3 else cqe.res
                ring.prep_recv(index, buffer).use_registered_fd()
                assert finish(ring)[0].res == 5
                assert buffer[:5] == b"hello"


@each_setup
def test_direct_multishot_accept_ends_when_the_table_is_full(flags):
    with clean_ring(flags=flags) as ring, tcp_listener() as listener, contextlib.ExitStack() as all:
        ring.register_files([-1] * 3)
        sqe = ring.prep_multishot_accept_direct(listener)
        assert sqe.file_index == FILE_INDEX_ALLOC
        hand_over(ring)
        clients = []
        for place in range(3):
            clients.append(
                all.enter_context(socket.create_connection(listener.getsockname()))
            )
            cqe = ring.copy_cqe(timeout=5)
            assert (cqe.res, cqe.more) == (place, True)
            ring.prep_send(cqe.res, b"%d" % place).use_registered_fd()
            finish(ring)
        refused = all.enter_context(socket.create_connection(listener.getsockname()))
        cqe = ring.copy_cqe(timeout=5)
        assert (cqe.res, cqe.more) == (-errno.ENFILE, False)
        assert refused.recv(1) == b""
        assert [client.recv(1) for client in clients] == [b"0", b"1", b"2"]
        with pytest.raises(ValueError, match="DONTWAIT and POLL_FIRST"):
            ring.prep_multishot_accept_direct(listener, ioprio=1 << 5)


@each_setup
def test_file_table_follows_direct_sockets_and_accepts(flags):
    with clean_ring(flags=flags) as ring, tcp_listener() as listener:
        table = ring.register_file_table(4, 3)
        slot = table.allocate()
        ring.prep_socket_direct(socket.AF_INET, socket.SOCK_STREAM, 0, slot)
        ring.prep_socket_direct_alloc(socket.AF_INET, socket.SOCK_STREAM)
        assert [cqe.res for cqe in finish(ring, 2)] == [0, 1]
        ring.prep_multishot_accept_direct(listener)
        hand_over(ring)
        for accepted in (2, 3):
            with socket.create_connection(listener.getsockname()):
                assert ring.copy_cqe(timeout=5).res == accepted
        assert list(table) == [slot, 1, 2, 3]
        cancel_all(ring)


@each_setup
def test_closing_a_ring_does_not_take_a_place_of_the_table_for_a_descriptor(flags):
    # Descriptor 0 would be closed, then whatever the allocated places happen to number.
    with tcp_listener() as listener, clean_ring(flags=flags) as ring:
        ring.register_files([-1] * 3)
        ring.prep_socket_direct(socket.AF_INET, socket.SOCK_STREAM, 0, 0)
        ring.prep_socket_direct_alloc(socket.AF_INET, socket.SOCK_STREAM)
        ring.prep_accept_direct(listener)
        hand_over(ring)
        with socket.create_connection(listener.getsockname()):
            ring.get_events()
            ring.submit_and_wait_timeout(3, 5)
            ring.close()
        for fd in range(3):
            os.fstat(fd)


# ---- accept ------------------------------------------------------------------------------------


@each_setup
def test_accept_with_dontwait_does_not_wait(flags):
    with clean_ring(flags=flags) as ring, tcp_listener() as listener:
        ring.prep_accept(listener, ioprio=AcceptFlags.DONTWAIT)
        assert finish(ring)[0].res == -errno.EAGAIN
        with socket.create_connection(listener.getsockname()):
            ring.prep_accept(listener, ioprio=AcceptFlags.DONTWAIT)
            os.close(finish(ring)[0].raise_for_error())


@each_setup
def test_multishot_accept_with_dontwait_takes_what_waits_and_ends(flags):
    with (
        clean_ring(flags=flags) as ring,
        tcp_listener() as listener,
        contextlib.ExitStack() as clients,
    ):
        for _ in range(3):
            clients.enter_context(socket.create_connection(listener.getsockname()))
        ring.prep_multishot_accept(listener, ioprio=AcceptFlags.DONTWAIT)
        cqes = until_last(ring)
        for cqe in cqes[:-1]:
            os.close(cqe.raise_for_error())
        assert len(cqes) == 4
        assert cqes[-1].res == -errno.EAGAIN


@each_setup
def test_accept_with_poll_first_and_on_a_nonblocking_listener_waits(flags):
    with clean_ring(flags=flags) as ring, tcp_listener() as listener:
        listener.setblocking(False)
        for ioprio in (0, AcceptFlags.POLL_FIRST):
            ring.prep_accept(listener, socket.SOCK_NONBLOCK, ioprio=ioprio)
            hand_over(ring)
            assert ring.copy_cqes(1, 1, timeout=0.02) == []
            with socket.create_connection(listener.getsockname()):
                fd = ring.copy_cqe(timeout=5).raise_for_error()
                assert not os.get_blocking(fd)
                assert os.get_inheritable(fd)
                os.close(fd)


@each_setup
def test_accept_says_whether_more_connections_wait(flags):
    with (
        clean_ring(flags=flags) as ring,
        tcp_listener() as listener,
        contextlib.ExitStack() as clients,
    ):
        for _ in range(2):
            clients.enter_context(socket.create_connection(listener.getsockname()))
        more = []
        for _ in range(2):
            ring.prep_accept(listener)
            [cqe] = finish(ring)
            os.close(cqe.raise_for_error())
            more.append(cqe.sock_nonempty)
        assert more == [True, False]


@each_setup
def test_accept_is_cancelled(flags):
    with clean_ring(flags=flags) as ring, tcp_listener() as listener:
        ring.prep_accept(listener, user_data="accept")
        hand_over(ring)
        ring.prep_cancel("accept", user_data="cancel")
        assert results(finish(ring, 2)) == {"accept": CANCELED, "cancel": 0}


@each_setup
def test_send_linked_to_an_accept_that_times_out_does_not_start(flags):
    with clean_ring(flags=flags) as ring, tcp_listener() as listener, tcp_pair() as (one, other):
        ring.prep_accept(listener, user_data="accept").link()
        ring.prep_link_timeout(0.02, user_data="timeout").link()
        ring.prep_send(one, b"x", user_data="send")
        assert results(finish(ring, 3)) == {
            "accept": CANCELED, "timeout": -errno.ETIME, "send": CANCELED,
        }
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(1)


@each_setup
def test_send_linked_to_an_accept_starts_after_it(flags):
    with clean_ring(flags=flags) as ring, tcp_listener() as listener, tcp_pair() as (one, other):
        ring.prep_accept(listener, user_data="accept").link()
        ring.prep_send(one, b"somebody is here", user_data="send")
        hand_over(ring)
        assert ring.copy_cqes(1, 1, timeout=0.02) == []
        with socket.create_connection(listener.getsockname()):
            done = results(finish(ring, 2))
            os.close(done["accept"])
            assert done["send"] == 16
        assert other.recv(100) == b"somebody is here"


@each_setup
def test_multishot_accepts_bear_a_storm_of_connections(flags):
    """Two listeners, one of them accepting into the table, while clients come and go."""
    with (
        clean_ring(64, cq_entries=256, flags=flags | SetupFlags.CQSIZE) as ring,
        tcp_listener() as plain,
        tcp_listener() as direct,
    ):
        ring.register_files([-1] * 200)
        ring.prep_multishot_accept(plain, socket.SOCK_CLOEXEC, user_data="plain")
        ring.prep_multishot_accept_direct(direct, user_data="direct")
        ring.submit()
        for _ in range(10):
            clients = []
            for listener in (plain, direct) * 8:
                client = socket.socket()
                client.connect(listener.getsockname())
                clients.append(client)
            taken = []
            while len(taken) < 16:
                taken += ring.copy_cqes(16, 1, timeout=5)
            assert all(cqe.more for cqe in taken)
            fds = [cqe.res for cqe in taken if cqe.user_data == "plain"]
            places = [cqe.res for cqe in taken if cqe.user_data == "direct"]
            assert len(fds) == len(places) == len(set(places)) == 8
            for fd in fds:
                os.close(fd)
            for place in places:
                ring.register_files_update(place, [-1])
            for client in clients:
                assert client.recv(1) == b""
                client.close()
        cancelled = results(cancel_all(ring))
        assert cancelled == {"plain": CANCELED, "direct": CANCELED}


@each_setup
def test_multishot_accept_goes_on_or_ends_honestly_when_completions_overflow(flags):
    with (
        clean_ring(4, cq_entries=4, flags=flags | SetupFlags.CQSIZE) as ring,
        tcp_listener() as listener,
        contextlib.ExitStack() as clients,
    ):
        ring.prep_multishot_accept(listener)
        hand_over(ring)
        for _ in range(10):
            clients.enter_context(socket.create_connection(listener.getsockname()))
        accepted = 0
        while accepted < 10:
            cqe = ring.copy_cqe(timeout=5)
            os.close(cqe.raise_for_error())
            accepted += 1
            if not cqe.more:
                ring.prep_multishot_accept(listener)
                ring.submit()
        assert [cqe.res for cqe in cancel_all(ring)] == [CANCELED]


def test_multishot_accept_ends_when_there_are_no_descriptors(run_script):
    done = run_script("""
import errno, os, resource, socket
from ferrule.ring import Ring
with Ring(8) as ring, socket.create_server(("127.0.0.1", 0)) as listener:
    clients = [socket.create_connection(listener.getsockname()) for _ in range(2)]
    free = os.dup(0)
    os.close(free)
    # The kernel takes the limit of the moment of submission.
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, 1024))
    ring.prep_multishot_accept(listener)
    ring.submit()
    first, last = ring.copy_cqe(timeout=5), ring.copy_cqe(timeout=5)
    assert (first.res, first.more) == (free, True), first
    assert (last.res, last.more) == (-errno.EMFILE, False), last
    os.close(first.res)
    ring.prep_accept(listener)
    ring.submit()
    os.close(ring.copy_cqe(timeout=5).raise_for_error())
    for client in clients:
        client.close()
print("done")
""")
    assert (done.stdout, done.stderr) == ("done\n", "")


# ---- connect -----------------------------------------------------------------------------------


@contextlib.contextmanager
def full_listener() -> Iterator[tuple[str, int]]:
    """A listener whose backlog is full: who connects to it waits."""
    with socket.socket() as listener, contextlib.ExitStack() as clients:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()


@each_setup
def test_connect_that_takes_too_long_is_ended_by_its_link_timeout(flags):
    with clean_ring(flags=flags) as ring, full_listener() as name, socket.socket() as client:
        ring.prep_connect(client, name, user_data="connect").link()
        ring.prep_link_timeout(0.05, user_data="timeout")
        assert results(finish(ring, 2)) == {"connect": CANCELED, "timeout": -errno.ETIME}


@each_setup
def test_connect_on_a_nonblocking_socket_waits_and_can_be_cancelled(flags):
    with clean_ring(flags=flags) as ring, full_listener() as name, socket.socket() as client:
        client.setblocking(False)
        ring.prep_connect(client, name, user_data="connect")
        hand_over(ring)
        assert ring.copy_cqes(1, 1, timeout=0.02) == []
        ring.prep_cancel("connect", user_data="cancel")
        assert results(finish(ring, 2)) == {"connect": CANCELED, "cancel": 0}


@each_setup
def test_connect_to_the_unreachable_fails_and_breaks_its_link(flags):
    with clean_ring(flags=flags) as ring, socket.socket() as client:
        ring.prep_connect(client, ("255.255.255.255", 9), user_data="connect").link()
        ring.prep_send(client, b"x", user_data="send")
        assert results(finish(ring, 2)) == {"connect": -errno.ENETUNREACH, "send": CANCELED}


@each_setup
def test_connect_of_a_connected_socket_is_refused(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        ring.prep_connect(client, server.getsockname())
        assert finish(ring)[0].res == -errno.EISCONN


# ---- receive -----------------------------------------------------------------------------------


@each_setup
@pytest.mark.parametrize("early", [False, True], ids=["data comes later", "data waits already"])
def test_recv_with_poll_first_gets_the_data(flags, early):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        buffer = bytearray(10)
        if early:
            client.send(b"data")
        ring.prep_recv(server, buffer, ioprio=POLL_FIRST)
        hand_over(ring)
        if not early:
            assert ring.copy_cqes(1, 1, timeout=0.02) == []
            client.send(b"data")
        assert ring.copy_cqe(timeout=5).res == 4
        assert buffer[:4] == b"data"
        ring.prep_recvmsg(server, [buffer], ioprio=POLL_FIRST, user_data="recvmsg")
        ring.prep_sendmsg(client, [b"a ", b"message"], ioprio=POLL_FIRST, user_data="sendmsg")
        assert results(finish(ring, 2)) == {"recvmsg": 9, "sendmsg": 9}
        assert buffer[:9] == b"a message"


@each_setup
def test_recv_says_whether_more_waits(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        client.send(b"abcdef")
        more = []
        for _ in range(2):
            ring.prep_recv(server, bytearray(3))
            more.append(finish(ring)[0].sock_nonempty)
        assert more == [True, False]


@each_setup
def test_recv_with_waitall_waits_for_all(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        buffer = bytearray(8)
        ring.prep_recv(server, buffer, socket.MSG_WAITALL, user_data="all")
        hand_over(ring)
        client.send(b"abc")
        assert ring.copy_cqes(1, 1, timeout=0.02) == []
        client.send(b"defgh")
        assert ring.copy_cqe(timeout=5).res == 8
        assert buffer == b"abcdefgh"
        parts = [bytearray(3), bytearray(5)]
        ring.prep_recvmsg(server, parts, flags=socket.MSG_WAITALL)
        hand_over(ring)
        client.send(b"ab")
        assert ring.copy_cqes(1, 1, timeout=0.02) == []
        client.send(b"cdefgh")
        assert ring.copy_cqe(timeout=5).res == 8
        assert parts == [b"abc", b"defgh"]


@each_setup
def test_recv_with_waitall_is_short_at_the_end_and_breaks_its_link(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        ring.prep_recv(server, bytearray(8), socket.MSG_WAITALL, user_data="recv").link()
        ring.prep_nop("linked")
        hand_over(ring)
        client.send(b"abc")
        client.shutdown(socket.SHUT_WR)
        assert results(finish(ring, 2)) == {"recv": 3, "linked": CANCELED}


@each_setup
def test_cancelled_recv_with_waitall_gives_what_had_come(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        buffer = bytearray(8)
        ring.prep_recv(server, buffer, socket.MSG_WAITALL, user_data="recv")
        hand_over(ring)
        client.send(b"abc")
        assert ring.copy_cqes(1, 1, timeout=0.02) == []
        ring.prep_cancel("recv", user_data="cancel")
        assert results(finish(ring, 2)) == {"recv": 3, "cancel": 0}
        assert buffer[:3] == b"abc"


@each_setup
def test_datagram_is_received_whole_or_cut_even_with_waitall(flags):
    with clean_ring(flags=flags) as ring, udp_pair() as (one, other):
        for size, flag, received in (
            (10, socket.MSG_WAITALL, 5), (3, 0, 3), (3, socket.MSG_TRUNC, 5), (10, 0, 5),
        ):
            one.sendto(b"01234", other.getsockname())
            ring.prep_recv(other, bytearray(size), flag)
            assert finish(ring)[0].res == received


@each_setup
def test_operations_on_a_socket_that_is_not_ready_wait_or_say_so(flags):
    """Non-blocking or not, a socket is waited for; MSG_DONTWAIT never waits."""
    with clean_ring(16, flags=flags) as ring, tcp_pair() as (client, server):
        for blocking in (True, False):
            server.setblocking(blocking)
            ring.prep_recv(server, bytearray(1), socket.MSG_DONTWAIT, user_data="recv")
            ring.prep_recvmsg(
                server, [bytearray(1)], flags=socket.MSG_DONTWAIT, user_data="recvmsg"
            )
            refused = dict.fromkeys(("recv", "recvmsg"), -errno.EAGAIN)
            assert results(finish(ring, 2)) == refused
            pending = {
                "recv": ring.prep_recv(server, bytearray(1), user_data="recv"),
                "recvmsg": ring.prep_recvmsg(server, [bytearray(1)], user_data="recvmsg"),
                "read": ring.prep_read(server, bytearray(1), user_data="read"),
                "readv": ring.prep_readv(server, [bytearray(1)], user_data="readv"),
            }
            hand_over(ring)
            early = [cqe.user_data for cqe in ring.copy_cqes(4, 1, timeout=0.02)]
            assert early == []
            for _ in range(4):
                client.send(b"x")
                cqe = ring.copy_cqe(timeout=5)
                assert cqe.res == 1
                del pending[cqe.user_data]


@each_setup
def test_send_waits_for_room_and_dontwait_does_not(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        full = fill(client)
        client.setblocking(False)
        ring.prep_send(client, b"x", socket.MSG_DONTWAIT, user_data="send")
        ring.prep_sendmsg(client, [b"x"], flags=socket.MSG_DONTWAIT, user_data="sendmsg")
        refused = dict.fromkeys(("send", "sendmsg"), -errno.EAGAIN)
        assert results(finish(ring, 2)) == refused
        ring.prep_send(client, b"last", ioprio=POLL_FIRST)
        hand_over(ring)
        assert ring.copy_cqes(1, 1, timeout=0.02) == []
        assert read_exactly(server, full) == bytes(full)
        assert ring.copy_cqe(timeout=5).res == 4
        assert server.recv(10) == b"last"


@each_setup
def test_read_and_write_work_on_sockets(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        ring.prep_write(client, b"written").link()
        ring.prep_writev(client, [b" and ", b"gathered"])
        assert [cqe.res for cqe in finish(ring, 2)] == [7, 13]
        first, rest = bytearray(7), [bytearray(5), bytearray(20)]
        ring.prep_read(server, first).link()
        ring.prep_readv(server, rest)
        assert [cqe.res for cqe in finish(ring, 2)] == [7, 13]
        assert bytes(first + rest[0] + rest[1][:8]) == b"written and gathered"


# ---- send --------------------------------------------------------------------------------------


@each_setup
def test_sendto_names_the_receiver(flags, tmp_path):
    with clean_ring(flags=flags) as ring, udp_pair() as (one, other):
        ring.prep_sendto(one, b"datagram", other.getsockname())
        assert finish(ring)[0].res == 8
        assert other.recvfrom(100) == (b"datagram", one.getsockname())
        ring.prep_sendto(one, [b"in ", b"two parts"], other.getsockname())
        assert finish(ring)[0].res == 12
        assert other.recv(100) == b"in two parts"
        ring.prep_sendto(one, b"x", ("255.255.255.255", 9))
        assert finish(ring)[0].res == -errno.EACCES
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver, socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM
        ) as sender:
            receiver.bind(str(tmp_path / "receiver"))
            ring.prep_sendto(sender, b"by path", tmp_path / "receiver", socket.MSG_DONTWAIT)
            assert finish(ring)[0].res == 7
            assert receiver.recv(100) == b"by path"


@each_setup
def test_several_buffers_are_sent_as_one(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        parts = [b"one ", bytearray(b"two "), memoryview(b"three"), b""]
        ring.prep_send(client, parts)
        ring.submit()
        assert finish(ring)[0].res == 13
        assert server.recv(100) == b"one two three"
        ring.prep_send(client, tuple(parts), socket.MSG_WAITALL)
        assert finish(ring)[0].res == 13
        assert server.recv(100) == b"one two three"
        ring.prep_send(client, [])
        assert finish(ring)[0].res == 0


@each_setup
def test_send_with_waitall_sends_all_and_holds_the_buffers_meanwhile(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        data = [bytearray(os.urandom(1 << 20)) for _ in range(8)]
        sent = b"".join(data)
        ring.prep_send(client, data, socket.MSG_WAITALL)
        hand_over(ring)
        assert ring.copy_cqes(1, 1, timeout=0.02) == []
        with pytest.raises(BufferError):
            data[7].append(0)
        received, cqes = receive(ring, server, len(sent))
        assert received == sent
        [cqe] = cqes or [ring.copy_cqe(timeout=5)]
        assert cqe.res == len(sent)
        data[7].append(0)


@each_setup
def test_sends_linked_with_waitall_keep_their_order(flags):
    with clean_ring(16, flags=flags) as ring, tcp_pair() as (client, server):
        parts = [bytes([number]) * 300_000 for number in range(8)]
        for part in parts:
            ring.prep_send(client, part, socket.MSG_WAITALL).link()
        ring.prep_shutdown(client, socket.SHUT_WR)
        ring.submit()
        received, cqes = receive(ring, server, 2_400_000)
        assert received == b"".join(parts)
        cqes += finish(ring, 9 - len(cqes))
        assert [cqe.res for cqe in cqes] == [300_000] * 8 + [0]
        assert server.recv(1) == b""


# ---- commands ----------------------------------------------------------------------------------


@each_setup
def test_commands_count_what_waits_in_the_queues(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        client.send(b"12345")
        ring.prep_cmd_sock(SocketOp.SIOCINQ, server, user_data="in")
        ring.prep_cmd_sock(SocketOp.SIOCOUTQ, client, user_data="out")
        assert results(finish(ring, 2)) == {"in": 5, "out": 0}
        full = fill(client)
        ring.prep_cmd_sock(SocketOp.SIOCINQ, server, user_data="in")
        ring.prep_cmd_sock(SocketOp.SIOCOUTQ, client, user_data="out")
        counted = results(finish(ring, 2))
        assert counted["in"] + counted["out"] >= full
        with tcp_listener() as listener:
            ring.prep_cmd_sock(SocketOp.SIOCINQ, listener)
            assert finish(ring)[0].res == -errno.EINVAL


@each_setup
def test_options_are_set_and_read_as_the_socket_module_does(flags):
    with clean_ring(flags=flags) as ring, socket.socket() as sock:
        option = (socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        ring.prep_cmd_sock(SocketOp.SETSOCKOPT, sock, *option, 1).link()
        ring.prep_cmd_sock(SocketOp.GETSOCKOPT, sock, *option)
        changed, seen = finish(ring, 2)
        assert (changed.res, changed.option) == (0, None)
        assert (seen.res, seen.option) == (4, 1)
        assert sock.getsockopt(*option) == 1
        linger = (socket.SOL_SOCKET, socket.SO_LINGER)
        value = bytearray(struct.pack("ii", 1, 9))
        ring.prep_cmd_sock(SocketOp.SETSOCKOPT, sock, *linger, value)
        value.clear()  # it was copied
        finish(ring)
        ring.prep_cmd_sock(SocketOp.GETSOCKOPT, sock, *linger, 100)
        assert finish(ring)[0].option == sock.getsockopt(*linger, 100) == struct.pack("ii", 1, 9)
        ring.prep_cmd_sock(SocketOp.GETSOCKOPT, sock, *linger, 4)
        assert finish(ring)[0].option == sock.getsockopt(*linger, 4)
        nodelay = (socket.IPPROTO_TCP, socket.TCP_NODELAY)
        ring.prep_cmd_sock(SocketOp.SETSOCKOPT, sock, *nodelay, 1)
        assert finish(ring)[0].res == 0
        assert sock.getsockopt(*nodelay) != 0


@each_setup
def test_option_of_another_level_or_unknown_is_refused_by_the_kernel(flags):
    with clean_ring(flags=flags) as ring, socket.socket() as sock:
        ring.prep_cmd_sock(
            SocketOp.GETSOCKOPT, sock, socket.IPPROTO_TCP, socket.TCP_NODELAY, user_data="level"
        )
        ring.prep_cmd_sock(SocketOp.GETSOCKOPT, sock, socket.SOL_SOCKET, 9999, user_data="name")
        ring.prep_cmd_sock(SocketOp.SETSOCKOPT, sock, socket.SOL_SOCKET, 9999, 1, user_data="set")
        cqes = finish(ring, 3)
        assert results(cqes) == {
            "level": -errno.EOPNOTSUPP, "name": -errno.ENOPROTOOPT, "set": -errno.ENOPROTOOPT,
        }
        assert all(cqe.option is None for cqe in cqes)


def test_command_on_a_direct_socket():
    with clean_ring() as ring:
        ring.register_files([-1])
        ring.prep_socket_direct_alloc(socket.AF_INET, socket.SOCK_STREAM)
        finish(ring)
        option = (socket.SOL_SOCKET, socket.SO_TYPE)
        ring.prep_cmd_sock(SocketOp.GETSOCKOPT, 0, *option).use_registered_fd()
        assert finish(ring)[0].option == socket.SOCK_STREAM


SO_TIMESTAMPING = 37  # not in the socket module of every Python
SOF_TX = {"software": 1 << 1, "sched": 1 << 8, "ack": 1 << 9}
SOF_REPORT = 1 << 4 | 1 << 7 | 1 << 11  # software ones, each with its key and without the data


@pytest.mark.parametrize("wide", [SetupFlags.CQE32, SetupFlags.CQE_MIXED])
@each_setup
def test_timestamps_of_sent_data_come_again_and_again(flags, wide):
    if reason := unavailable(flags | wide):
        pytest.skip(reason)
    with clean_ring(flags=flags | wide) as ring, udp_pair() as (one, other):
        one.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, SOF_TX["software"] | SOF_REPORT)
        ring.prep_cmd_sock(SocketOp.TX_TIMESTAMP, one, user_data="sent")
        hand_over(ring)
        before = time.time_ns()
        for key in range(3):
            one.sendto(b"x", other.getsockname())
            cqe = ring.copy_cqe(timeout=5)
            assert (cqe.user_data, cqe.more, cqe.ok) == ("sent", True, True)
            assert cqe.timestamp[1:] == (0, key, False)
            assert before <= cqe.timestamp.time_ns <= time.time_ns()
        [last] = cancel_all(ring)
        assert (last.res, last.timestamp) == (CANCELED, None)


def test_timestamps_of_a_stream_tell_its_bytes_and_what_became_of_them():
    with clean_ring(flags=SetupFlags.CQE32) as ring, tcp_pair() as (client, server):
        wanted = SOF_TX["software"] | SOF_TX["sched"] | SOF_TX["ack"] | SOF_REPORT
        client.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, wanted)
        ring.prep_cmd_sock(SocketOp.TX_TIMESTAMP, client)
        ring.submit()
        client.send(b"12345")
        server.recv(5)
        stamps = [ring.copy_cqe(timeout=5).timestamp for _ in range(3)]
        assert {(stamp.kind, stamp.key) for stamp in stamps} == {(0, 4), (1, 4), (2, 4)}
        cancel_all(ring)


def test_socket_address_needs_a_newer_kernel_or_is_told():
    with clean_ring() as ring, tcp_pair() as (client, server):
        if get_probe().opcode_supported(63):  # 6.19 has it too
            ring.prep_cmd_getsockname(client)
            assert finish(ring)[0].address == client.getsockname()
            ring.prep_cmd_getsockname(client, peer=True)
            assert finish(ring)[0].address == server.getsockname()
            return
        with pytest.raises(NotSupported, match=r"needs Linux 6\.19"):
            ring.prep_cmd_getsockname(client)
        # What a newer kernel would see; this one knows that it has no such command.
        _show_operations([63])
        try:
            sqe = ring.prep_cmd_getsockname(client, True)
        finally:
            _hide_operations([63])
        assert (sqe.opcode, sqe.off, sqe.file_index) == (Op.URING_CMD, SocketOp.GETSOCKNAME, 1)
        assert 0 < sqe.addr - sqe.addr3 < 64
        [cqe] = finish(ring)
        assert (cqe.res, cqe.address) == (-errno.EOPNOTSUPP, None)


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("wide", [SetupFlags.CQE32, SetupFlags.CQE_MIXED])
def test_zero_copy_receive_without_a_queue_of_a_network_card_fails(wide):
    """No network card here can do it: what is tested is that the kernel takes the operation."""
    if not get_probe().opcode_supported(Op.RECV_ZC):
        pytest.skip("this kernel has no RECV_ZC")
    flags = SetupFlags.SINGLE_ISSUER | SetupFlags.DEFER_TASKRUN | wide
    with clean_ring(flags=flags) as ring, tcp_pair() as (_, server):
        for ifq, length in ((0, 0), (7, 1000)):
            sqe = ring.prep_recv_zc(server, ifq, length, ioprio=POLL_FIRST)
            assert sqe.ioprio == RecvSendFlags.RECV_MULTISHOT | POLL_FIRST
            assert (sqe.file_index, sqe.len) == (ifq, length)
            [cqe] = finish(ring)
            assert (cqe.res, cqe.more) == (-errno.EINVAL, False)


def test_what_needs_large_completions_is_refused_on_a_ring_without():
    with clean_ring() as ring, tcp_pair() as (client, server):
        with pytest.raises(NotSupported, match="zero-copy receive needs a ring made with CQE32"):
            ring.prep_recv_zc(server, 0)
        with pytest.raises(NotSupported, match="TX_TIMESTAMP needs a ring made with CQE32"):
            ring.prep_cmd_sock(SocketOp.TX_TIMESTAMP, client)


WRONG = {
    "accept bits": lambda r, s, g: r.prep_accept(s, ioprio=AcceptFlags.MULTISHOT),
    "multishot accept bits": lambda r, s, g: r.prep_multishot_accept(s, ioprio=8),
    "accept slot": lambda r, s, g: r.prep_accept_direct(s, 0, -1),
    "accept cloexec": lambda r, s, g: r.prep_accept_direct(s, socket.SOCK_CLOEXEC),
    "accepts cloexec": lambda r, s, g: r.prep_multishot_accept_direct(s, socket.SOCK_CLOEXEC),
    "socket slot": lambda r, s, g: r.prep_socket_direct(2, 1, 0, FILE_INDEX_ALLOC - 1),
    "socket cloexec": lambda r, s, g: r.prep_socket_direct_alloc(2, 1 | socket.SOCK_CLOEXEC),
    "recv bits": lambda r, s, g: r.prep_recv(s, bytearray(1), ioprio=2),
    "recv bundle": lambda r, s, g: r.prep_recv(s, bytearray(1), ioprio=BUNDLE),
    "multishot bits": lambda r, s, g: r.prep_recv_multishot(s, g, ioprio=4),
    "recvmsg bits": lambda r, s, g: r.prep_recvmsg(s, [], ioprio=BUNDLE),
    "recvmsg control": lambda r, s, g: r.prep_recvmsg(s, [], -1),
    "message control": lambda r, s, g: r.prep_recvmsg_multishot(s, g, -1),
    "message name": lambda r, s, g: r.prep_recvmsg_multishot(s, g, namelen=129),
    "message room": lambda r, s, g: r.prep_recvmsg_multishot(s, g, 200),
    "message bits": lambda r, s, g: r.prep_recvmsg_multishot(s, g, ioprio=BUNDLE),
    "send bits": lambda r, s, g: r.prep_send(s, b"", ioprio=RecvSendFlags.SEND_VECTORIZED),
    "sendto bits": lambda r, s, g: r.prep_sendto(s, b"", ("::", 1), ioprio=BUNDLE),
    "sendto name": lambda r, s, g: r.prep_sendto(s, b"", ("localhost", 1)),
    "bundle bits": lambda r, s, g: r.prep_send_bundle(s, g, ioprio=REPORT),
    "bundle group": lambda r, s, g: r.prep_send_bundle(s, 77),
    "zc bits": lambda r, s, g: r.prep_send_zc(s, b"", 0, RecvSendFlags.FIXED_BUF),
    "sendmsg bits": lambda r, s, g: r.prep_sendmsg(s, [], ioprio=REPORT),
    "sendmsg_zc bits": lambda r, s, g: r.prep_sendmsg_zc(s, [], zc_flags=BUNDLE),
    "option length": lambda r, s, g: r.prep_cmd_sock(SocketOp.GETSOCKOPT, s, 1, 1, 0),
    "option size": lambda r, s, g: r.prep_cmd_sock(SocketOp.SETSOCKOPT, s, 1, 1, bytes(70000)),
    "option for none": lambda r, s, g: r.prep_cmd_sock(SocketOp.SIOCINQ, s, 1),
    "name by cmd": lambda r, s, g: r.prep_cmd_sock(SocketOp.GETSOCKNAME, s),
    "family": lambda r, s, g: r.prep_bind(s, (70000, b"")),
    "raw address": lambda r, s, g: r.prep_bind(s, (2, bytes(127))),
    "descriptor": lambda r, s, g: r.prep_listen(-1),
    "type: buffer": lambda r, s, g: r.prep_send(s, "text"),
    "type: buffers": lambda r, s, g: r.prep_send(s, [b"x", "text"]),
    "type: writable": lambda r, s, g: r.prep_recv(s, b"const"),
    "type: zc": lambda r, s, g: r.prep_send_zc(s, None),
    "type: address": lambda r, s, g: r.prep_bind(s, 5),
    "type: option": lambda r, s, g: r.prep_cmd_sock(SocketOp.SETSOCKOPT, s, 1, 1, "text"),
    "type: file": lambda r, s, g: r.prep_shutdown("no file", 0),
    "overflow: option": lambda r, s, g: r.prep_cmd_sock(SocketOp.SETSOCKOPT, s, 1, 1, 1 << 31),
    "slot": lambda r, s, g: r.prep_accept_direct(s, 0, 1 << 70),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG.keys())
def test_wrong_argument_is_refused_and_nothing_is_queued(call, request):
    kinds = {"type": TypeError, "overflow": OverflowError}
    expected = kinds.get(request.node.callspec.id.split(":")[0], ValueError)
    with clean_ring() as ring, socket.socket() as sock, ring.register_buf_ring(2, 200) as group:
        with pytest.raises(expected):
            call(ring, sock, group)
        assert ring.sq_ready() == ring.statistics().in_flight == 0
        ring.prep_nop("usable")
        assert finish(ring)[0].user_data == "usable"


LACKING = {
    "6.10 accept": (Features.RECVSEND_BUNDLE, lambda r, s, g: r.prep_accept(s, ioprio=2)),
    "6.10 bundle": (Features.RECVSEND_BUNDLE, lambda r, s, g: r.prep_send_bundle(s, g)),
    "6.10 recv": (Features.RECVSEND_BUNDLE, lambda r, s, g: r.prep_recv(s, None, ioprio=BUNDLE)),
    "6.10 send": (Features.RECVSEND_BUNDLE, lambda r, s, g: r.prep_send(s, None)),
    "5.15 slot": (Op.MKDIRAT, lambda r, s, g: r.prep_accept_direct(s, 0, 1)),
    "5.19 multishot": (Op.SOCKET, lambda r, s, g: r.prep_multishot_accept(s)),
    "5.19 direct": (Op.SOCKET, lambda r, s, g: r.prep_multishot_accept_direct(s)),
    "5.19 socket": (Op.SOCKET, lambda r, s, g: r.prep_socket(2, 1)),
    "5.19 poll first": (Op.SOCKET, lambda r, s, g: r.prep_recv(s, None, ioprio=POLL_FIRST)),
    "6.0 multishot": (Op.SEND_ZC, lambda r, s, g: r.prep_recv_multishot(s, g)),
    "6.0 messages": (Op.SEND_ZC, lambda r, s, g: r.prep_recvmsg_multishot(s, g)),
    "6.0 zc": (Op.SEND_ZC, lambda r, s, g: r.prep_send_zc(s, b"")),
    "6.1 sendto": (Op.SENDMSG_ZC, lambda r, s, g: r.prep_sendto(s, b"", ("::", 1))),
    "6.1 sendmsg_zc": (Op.SENDMSG_ZC, lambda r, s, g: r.prep_sendmsg_zc(s, [])),
    "6.7 cmd": (Op.READ_MULTISHOT, lambda r, s, g: r.prep_cmd_sock(SocketOp.SIOCINQ, s)),
    "6.11 bind": (Op.BIND, lambda r, s, g: r.prep_bind(s, ("", 0))),
    "6.11 listen": (Op.LISTEN, lambda r, s, g: r.prep_listen(s)),
    "5.11 shutdown": (Op.SHUTDOWN, lambda r, s, g: r.prep_shutdown(s, 0)),
    "6.17 limit": (Op.PIPE, lambda r, s, g: r.prep_recv_multishot(s, g, limit=1)),
    "6.17 buffers": (Op.PIPE, lambda r, s, g: r.prep_send(s, [])),
}


@pytest.mark.parametrize(("what", "call"), LACKING.values(), ids=LACKING.keys())
def test_what_an_older_kernel_lacks_is_refused_by_its_version(
    what, call, request, hidden_operations
):
    with clean_ring() as ring, socket.socket() as sock, ring.register_buf_ring(2, 200) as group:
        if isinstance(what, Features):
            _hide_features(ring, what)
        else:
            hidden_operations(what)
        since = request.node.callspec.id.split()[0]
        with pytest.raises(NotSupported, match=f"needs Linux {since};"):
            call(ring, sock, group)
        assert ring.sq_ready() == ring.statistics().in_flight == 0


def test_flags_of_the_completion_are_named():
    assert CqeFlags.NOTIF | CqeFlags.MORE == 10
    assert SocketOp.GETSOCKNAME == 5
