"""Every operation of the ring: files, sockets, polls, timers, cancellation, messages."""

import array
import errno
import os
import select
import socket
import stat
import time

import pytest

from ferrule.ring import (
    AT_FDCWD,
    CancelFlags,
    Op,
    Ring,
    SetupFlags,
    TimeoutFlags,
)
from ring_support import (
    CANCELED,
    clean_ring,
    each_setup,
    finish,
    hand_over,
    results,
    tcp_listener,
)

# ---- files ----------------------------------------------------------------------------------


@each_setup
def test_file_is_opened_written_read_and_closed_through_the_ring(flags, tmp_path):
    path = tmp_path / "file"
    with clean_ring(flags=flags) as ring:
        ring.prep_openat(None, path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fd = finish(ring)[0].raise_for_error()
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
        ring.prep_write(fd, b"hello world", 0)
        assert finish(ring)[0].res == 11
        buffer = bytearray(20)
        ring.prep_read(fd, buffer, 6)
        assert finish(ring)[0].res == 5
        assert buffer[:5] == b"world"
        ring.prep_read(fd, buffer, 11)
        assert finish(ring)[0].res == 0
        ring.prep_close(fd)
        assert finish(ring)[0].res == 0
        with pytest.raises(OSError):
            os.fstat(fd)


@each_setup
def test_offset_minus_one_uses_and_moves_the_file_position(flags, tmp_path):
    with clean_ring(flags=flags) as ring, open(tmp_path / "f", "w+b", buffering=0) as file:
        for part in (b"abc", b"def"):
            ring.prep_write(file, part)
            assert finish(ring)[0].res == 3
        file.seek(1)
        buffer = bytearray(2)
        ring.prep_read(file, buffer)
        finish(ring)
        assert buffer == b"bc"
        assert file.tell() == 3


@each_setup
def test_vectors_are_filled_and_written_in_order(flags, tmp_path):
    with clean_ring(flags=flags) as ring, open(tmp_path / "f", "w+b") as file:
        ring.prep_writev(file, [b"one", b"", bytearray(b"two"), memoryview(b"three")], 0)
        assert finish(ring)[0].res == 11
        parts = [bytearray(4), bytearray(0), array.array("b", bytes(20))]
        ring.prep_readv(file, parts, 0)
        assert finish(ring)[0].res == 11
        assert parts[0] == b"onet"
        assert parts[2].tobytes()[:7] == b"wothree"
        ring.prep_readv(file, [], 0)
        assert finish(ring)[0].res == 0


def test_vector_flags_reach_the_kernel(tmp_path):
    with clean_ring() as ring, open(tmp_path / "f", "w+b") as file:
        ring.prep_writev(file, [b"x"], 0, os.RWF_DSYNC)
        assert finish(ring)[0].res == 1
        ring.prep_writev(file, [b"x"], 0, 1 << 30)
        assert finish(ring)[0].res in (-errno.EOPNOTSUPP, -errno.EINVAL)


def test_open_relative_to_a_directory(tmp_path):
    (tmp_path / "inside").write_text("x")
    directory = os.open(tmp_path, os.O_RDONLY)
    with clean_ring() as ring:
        ring.prep_openat(directory, "inside", os.O_RDONLY)
        ring.prep_statx(directory, b"inside")
        opened, looked = sorted(finish(ring, 2), key=lambda cqe: cqe.opcode)
        os.close(opened.raise_for_error())
        assert looked.stat.st_size == 1
    os.close(directory)


def test_failed_path_operation_names_the_path(tmp_path):
    missing = tmp_path / "missing"
    with clean_ring() as ring:
        for prepare in (ring.prep_openat, ring.prep_statx):
            prepare(AT_FDCWD, missing)
            with pytest.raises(FileNotFoundError) as caught:
                finish(ring)[0].raise_for_error()
            assert caught.value.filename == str(missing)


@each_setup
def test_statx_agrees_with_os_stat(flags, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1234)
    os.utime(path, ns=(1_000_000_000_123, 2_000_000_000_456))
    with clean_ring(flags=flags) as ring:
        ring.prep_statx(None, path)
        found = finish(ring)[0].stat
        wanted = os.stat(path)
        for name in ("st_mode", "st_ino", "st_dev", "st_rdev", "st_nlink", "st_uid", "st_gid",
                     "st_size", "st_blksize", "st_blocks", "st_atime_ns", "st_mtime_ns",
                     "st_ctime_ns"):
            assert getattr(found, name) == getattr(wanted, name), name
        for name in ("st_atime", "st_mtime", "st_ctime"):
            assert getattr(found, name) == pytest.approx(getattr(wanted, name)), name
        assert found.stx_mask & 0x7FF == 0x7FF
        assert found.st_birthtime_ns >= 0
        assert found.st_birthtime == pytest.approx(found.st_birthtime_ns / 1e9)
        assert found.stx_attributes & ~found.stx_attributes_mask == 0
        assert "st_size=1234" in repr(found)


def test_statx_follows_links_unless_told_not_to(tmp_path):
    (tmp_path / "link").symlink_to("/dev/null")
    with clean_ring() as ring:
        ring.prep_statx(None, tmp_path / "link", user_data="target")
        ring.prep_statx(None, tmp_path / "link", 0x100, user_data="link")  # AT_SYMLINK_NOFOLLOW
        modes = {cqe.user_data: cqe.stat.st_mode for cqe in finish(ring, 2)}
        assert stat.S_ISCHR(modes["target"])
        assert stat.S_ISLNK(modes["link"])


def test_completions_without_a_value_have_none():
    with clean_ring() as ring:
        ring.prep_nop()
        [cqe] = finish(ring)
        assert cqe.stat is cqe.address is cqe.message is cqe.buffer_id is None
        assert not cqe.more
        assert not cqe.notification
        assert cqe.opcode == Op.NOP


# ---- sockets ----------------------------------------------------------------------------------


@each_setup
def test_accept_gives_the_descriptor_and_the_peers_address(flags):
    with clean_ring(flags=flags) as ring, tcp_listener() as listener:
        ring.prep_accept(listener, socket.SOCK_CLOEXEC)
        ring.submit()
        with socket.create_connection(listener.getsockname()) as client:
            [cqe] = finish(ring)
            with socket.socket(fileno=cqe.raise_for_error()) as server:
                assert cqe.address == client.getsockname()
                assert not os.get_inheritable(server.fileno())


def test_accept_over_ipv6_gives_the_four_part_address():
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with clean_ring() as ring, listener:
        ring.prep_accept(listener)
        with socket.socket(socket.AF_INET6) as client:
            ring.prep_connect(client, listener.getsockname())
            cqes = finish(ring, 2)
            [accepted] = [cqe for cqe in cqes if cqe.opcode == Op.ACCEPT]
            os.close(accepted.raise_for_error())
            assert accepted.address == client.getsockname()


@each_setup
def test_connect_reaches_a_listener_and_reports_a_refusal(flags):
    with clean_ring(flags=flags) as ring, tcp_listener() as listener:
        name = listener.getsockname()
        with socket.socket() as client:
            ring.prep_connect(client, name)
            assert finish(ring)[0].res == 0
            assert client.getpeername() == name
        listener.close()
        with socket.socket() as client:
            ring.prep_connect(client, name)
            with pytest.raises(ConnectionRefusedError):
                finish(ring)[0].raise_for_error()


@pytest.mark.parametrize("name", ["path", "\0ferrule-ring-test", b"\0ferrule-bytes"])
def test_connect_and_accept_on_unix_sockets(name, tmp_path):
    if name == "path":
        name = str(tmp_path / "socket")
    with clean_ring() as ring, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        with socket.socket(socket.AF_UNIX) as client:
            ring.prep_connect(client, name, user_data="connect")
            ring.prep_accept(listener, user_data="accept")
            cqes = {cqe.user_data: cqe for cqe in finish(ring, 2)}
            assert cqes["connect"].res == 0
            assert cqes["accept"].address == ""
            os.close(cqes["accept"].raise_for_error())
            assert client.getpeername() == listener.getsockname()


@each_setup
def test_send_and_recv_carry_bytes(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right:
        buffer = bytearray(10)
        ring.prep_recv(right, buffer, user_data="recv")
        ring.prep_send(left, b"hello", user_data="send")
        assert results(finish(ring, 2)) == {"recv": 5, "send": 5}
        assert buffer[:5] == b"hello"
        left.close()
        ring.prep_recv(right, buffer)
        assert finish(ring)[0].res == 0


@each_setup
def test_send_to_a_closed_peer_is_an_error_and_no_signal(flags):
    left, right = socket.socketpair()
    right.close()
    with clean_ring(flags=flags) as ring, left:
        ring.prep_send(left, b"x")
        with pytest.raises(BrokenPipeError):
            finish(ring)[0].raise_for_error()


@each_setup
def test_recv_with_dontwait_does_not_wait(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right:
        ring.prep_recv(left, bytearray(1), socket.MSG_DONTWAIT)
        assert finish(ring)[0].res == -errno.EAGAIN


@each_setup
def test_recv_on_a_nonblocking_socket_waits(flags):
    left, right = socket.socketpair()
    left.setblocking(False)
    with clean_ring(flags=flags) as ring, left, right:
        ring.prep_recv(left, bytearray(1))
        ring.submit()
        assert ring.copy_cqes(1, 1, timeout=0.02) == []
        right.send(b"x")
        assert ring.copy_cqe(timeout=5).res == 1


@each_setup
def test_messages_carry_addresses(flags):
    with (
        clean_ring(flags=flags) as ring,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        sender.bind(("127.0.0.1", 0))
        receiver.bind(("127.0.0.1", 0))
        ring.prep_sendmsg(sender, [b"in ", b"pieces"], address=receiver.getsockname())
        assert finish(ring)[0].res == 9
        parts = [bytearray(5), bytearray(5)]
        ring.prep_recvmsg(receiver, parts)
        [cqe] = finish(ring)
        assert cqe.message == (9, [], 0, sender.getsockname())
        assert cqe.address == sender.getsockname()
        assert parts == [b"in pi", b"eces\0"]


def test_truncated_datagram_is_flagged():
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with clean_ring() as ring, left, right:
        left.send(b"long message")
        ring.prep_recvmsg(right, [bytearray(4)])
        message = finish(ring)[0].message
        assert message.nbytes == 4
        assert message.msg_flags & socket.MSG_TRUNC


def test_messages_carry_descriptors(tmp_path):
    left, right = socket.socketpair()
    with clean_ring() as ring, left, right, open(tmp_path / "f", "w+") as file:
        sent = array.array("i", [file.fileno()])
        ring.prep_sendmsg(left, [b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)])
        room = socket.CMSG_SPACE(sent.itemsize)
        ring.prep_recvmsg(right, [bytearray(1)], room, socket.MSG_CMSG_CLOEXEC)
        received = next(cqe for cqe in finish(ring, 2) if cqe.opcode == Op.RECVMSG).message
        assert received.msg_flags & ~socket.MSG_CMSG_CLOEXEC == 0
        [(level, kind, data)] = received.ancdata
        assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        fd = array.array("i", data)[0]
        assert os.path.sameopenfile(fd, file.fileno())
        os.close(fd)


def test_several_control_messages_arrive_in_order():
    left, right = socket.socketpair(socket.AF_UNIX)
    right.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with clean_ring() as ring, left, right:
        fds = array.array("i", [left.fileno()])
        ring.prep_sendmsg(left, [b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        finish(ring)
        ring.prep_recvmsg(right, [bytearray(1)], 256)
        message = finish(ring)[0].message
        kinds = [kind for _, kind, _ in message.ancdata]
        assert sorted(kinds) == [socket.SCM_RIGHTS, socket.SCM_CREDENTIALS]
        for _, kind, data in message.ancdata:
            if kind == socket.SCM_RIGHTS:
                os.close(array.array("i", data)[0])


@each_setup
def test_multishot_accept_goes_on_until_cancelled(flags):
    with clean_ring(flags=flags) as ring, tcp_listener() as listener:
        sqe = ring.prep_multishot_accept(listener, user_data="accept")
        ring.submit()
        for _ in range(3):
            with socket.create_connection(listener.getsockname()) as client:
                cqe = ring.copy_cqe(timeout=5)
                assert cqe.user_data == "accept"
                assert cqe.more
                assert cqe.address is None
                with socket.socket(fileno=cqe.raise_for_error()) as server:
                    assert server.getpeername() == client.getsockname()
        ring.prep_cancel(sqe, user_data="cancel")
        cqes = {cqe.user_data: cqe for cqe in finish(ring, 2)}
        assert cqes["cancel"].res == 0
        assert cqes["accept"].res == CANCELED
        assert not cqes["accept"].more


# ---- poll -------------------------------------------------------------------------------------


@each_setup
def test_poll_tells_what_is_so(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right:
        ring.prep_poll_add(left, select.POLLIN)
        ring.submit()
        assert ring.copy_cqes(1, 1, timeout=0.02) == []
        right.send(b"x")
        assert ring.copy_cqe(timeout=5).res == select.POLLIN


@each_setup
def test_multishot_poll_reports_each_event(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right:
        sqe = ring.prep_poll_multishot(left, select.POLLIN, user_data="poll")
        ring.submit()
        for _ in range(3):
            right.send(b"x")
            cqe = ring.copy_cqe(timeout=5)
            assert cqe.res & select.POLLIN
            assert cqe.more
            left.recv(1)
        ring.prep_poll_remove(sqe, user_data="remove")
        assert results(finish(ring, 2)) == {"remove": 0, "poll": CANCELED}


@each_setup
def test_poll_is_removed_by_user_data_or_not_found(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right:
        ring.prep_poll_add(left, select.POLLIN, user_data="poll")
        ring.submit()
        ring.prep_poll_remove("poll", user_data="remove")
        assert results(finish(ring, 2)) == {"remove": 0, "poll": CANCELED}
        ring.prep_poll_remove("poll")
        assert finish(ring)[0].res == -errno.ENOENT


@each_setup
def test_poll_update_changes_the_events(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right:
        ring.prep_poll_add(left, select.POLLIN, user_data="poll")
        ring.submit()
        ring.prep_poll_update("poll", select.POLLOUT, False, user_data="update")
        cqes = results(finish(ring, 2))
        assert cqes["update"] == 0
        assert cqes["poll"] & select.POLLOUT


# ---- timers -----------------------------------------------------------------------------------


@each_setup
def test_timeout_strikes_when_its_time_is_up(flags):
    with clean_ring(flags=flags) as ring:
        started = time.monotonic()
        ring.prep_timeout(0.03)
        assert finish(ring)[0].res == -errno.ETIME
        assert time.monotonic() - started >= 0.03


@each_setup
def test_timeout_ends_after_a_number_of_completions(flags):
    with clean_ring(flags=flags) as ring:
        ring.prep_timeout(30, 2, user_data="t")
        ring.prep_nop("a")
        ring.prep_nop("b")
        assert results(finish(ring, 3)) == {"a": 0, "b": 0, "t": 0}


@each_setup
def test_absolute_timeout_uses_the_clock(flags):
    with clean_ring(flags=flags) as ring:
        ring.prep_timeout(time.monotonic() + 0.03, 0, TimeoutFlags.ABS)
        started = time.monotonic()
        assert finish(ring)[0].res == -errno.ETIME
        assert time.monotonic() - started > 0.02
        ring.prep_timeout(time.time() - 1, 0, TimeoutFlags.ABS | TimeoutFlags.REALTIME)
        assert finish(ring)[0].res == -errno.ETIME


@each_setup
def test_timeout_is_removed_and_updated(flags):
    with clean_ring(flags=flags) as ring:
        sqe = ring.prep_timeout(30, user_data="t")
        ring.submit()
        ring.prep_timeout_update(sqe, 0.01, user_data="update")
        assert results(finish(ring, 2)) == {"update": 0, "t": -errno.ETIME}
        ring.prep_timeout(30, user_data="t")
        ring.submit()
        ring.prep_timeout_remove("t", user_data="remove")
        assert results(finish(ring, 2)) == {"remove": 0, "t": CANCELED}
        ring.prep_timeout_remove("t")
        assert finish(ring)[0].res == -errno.ENOENT


@each_setup
def test_link_timeout_cancels_the_operation_before_it(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right:
        ring.prep_recv(left, bytearray(1), user_data="recv").link()
        ring.prep_link_timeout(0.02, user_data="limit")
        assert results(finish(ring, 2)) == {"recv": CANCELED, "limit": -errno.ETIME}


@each_setup
def test_link_timeout_gives_way_to_an_operation_in_time(flags):
    with clean_ring(flags=flags) as ring:
        ring.prep_nop("quick").link()
        ring.prep_link_timeout(30, user_data="limit")
        assert results(finish(ring, 2)) == {"quick": 0, "limit": CANCELED}


@each_setup
def test_linked_timeout_can_be_updated(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right:
        ring.prep_recv(left, bytearray(1), user_data="recv").link()
        limit = ring.prep_link_timeout(30, user_data="limit")
        ring.submit()
        ring.prep_timeout_update(limit, 0.01, TimeoutFlags.LINK_UPDATE, user_data="update")
        assert results(finish(ring, 3)) == {
            "update": 0, "recv": CANCELED, "limit": -errno.ETIME,
        }


# ---- cancellation: the table of results ---------------------------------------------------------


@each_setup
@pytest.mark.parametrize("by", ["sqe", "user_data", "key"])
def test_cancel_of_a_pending_receive(flags, by):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right:
        sqe = ring.prep_recv(left, bytearray(1), user_data="recv")
        ring.submit()
        if by == "key":
            ring.prep_cancel64(sqe.key, user_data="cancel")
        else:
            ring.prep_cancel(sqe if by == "sqe" else "recv", user_data="cancel")
        assert results(finish(ring, 2)) == {"cancel": 0, "recv": CANCELED}


@each_setup
def test_cancel_without_a_match_is_not_found(flags):
    with clean_ring(flags=flags) as ring:
        done = ring.prep_nop()
        finish(ring)
        for target in ("nobody", done):
            ring.prep_cancel(target)
            assert finish(ring)[0].res == -errno.ENOENT


@each_setup
@pytest.mark.parametrize("cancel", [CancelFlags.ANY, CancelFlags.ANY | CancelFlags.ALL])
def test_cancel_of_any_without_a_match_counts_zero(flags, cancel):
    with clean_ring(flags=flags) as ring:
        ring.prep_cancel(flags=cancel)
        assert finish(ring)[0].res == 0
        ring.prep_cancel("nobody", CancelFlags.ALL)
        assert finish(ring)[0].res == 0


@each_setup
def test_cancel_of_all_by_descriptor_counts_the_matches(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right:
        for number in range(3):
            ring.prep_recv(left, bytearray(1), user_data=number)
        ring.prep_recv(right, bytearray(1), user_data="other")
        ring.submit()
        ring.prep_cancel_fd(left, CancelFlags.ALL, user_data="cancel")
        assert results(finish(ring, 4)) == {"cancel": 3, 0: CANCELED, 1: CANCELED, 2: CANCELED}
        ring.prep_cancel_fd(right, user_data="cancel")
        assert results(finish(ring, 2)) == {"cancel": 0, "other": CANCELED}


@each_setup
def test_cancel_by_a_dup_of_the_descriptor_matches(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right, left.dup() as twin:
        ring.prep_recv(left, bytearray(1), user_data="recv")
        ring.submit()
        ring.prep_cancel_fd(twin, user_data="cancel")
        assert results(finish(ring, 2)) == {"cancel": 0, "recv": CANCELED}


@each_setup
def test_cancel_by_a_closed_descriptor_fails_and_the_receive_goes_on(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, right:
        fd = left.fileno()
        ring.prep_recv(fd, bytearray(1), user_data="recv")
        hand_over(ring)
        left.close()
        ring.prep_cancel_fd(fd, user_data="cancel")
        assert results(finish(ring)) == {"cancel": -errno.EBADF}
        right.send(b"x")
        assert results(finish(ring)) == {"recv": 1}


@each_setup
def test_cancel_of_all_operations_of_a_kind(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right:
        ring.prep_recv(left, bytearray(1), user_data="recv")
        ring.prep_poll_add(left, select.POLLIN, user_data="poll")
        ring.submit()
        ring.prep_cancel(opcode=Op.POLL_ADD, flags=CancelFlags.ALL, user_data="cancel")
        assert results(finish(ring, 2)) == {"cancel": 1, "poll": CANCELED}
        ring.prep_cancel_fd(left, opcode=Op.POLL_ADD, user_data="cancel")
        assert results(finish(ring)) == {"cancel": -errno.ENOENT}
        ring.prep_cancel("recv", opcode=Op.RECV, user_data="cancel")
        assert results(finish(ring, 2)) == {"cancel": 0, "recv": CANCELED}


@each_setup
def test_cancel_of_everything_counts_everything(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right:
        ring.prep_recv(left, bytearray(1), user_data="recv")
        ring.prep_poll_add(right, select.POLLIN, user_data="poll")
        ring.prep_timeout(30, user_data="timeout")
        ring.submit()
        ring.prep_cancel(flags=CancelFlags.ANY | CancelFlags.ALL, user_data="cancel")
        assert results(finish(ring, 4)) == {
            "cancel": 3, "recv": CANCELED, "poll": CANCELED, "timeout": CANCELED,
        }


@each_setup
def test_cancel_by_index_of_a_registered_file(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right:
        ring.register_files([left])
        ring.prep_recv(0, bytearray(1), user_data="recv").use_registered_fd()
        ring.submit()
        ring.prep_cancel_fd(0, CancelFlags.FD_FIXED, user_data="cancel")
        assert results(finish(ring, 2)) == {"cancel": 0, "recv": CANCELED}


def test_cancel_by_a_user_data_that_several_have_asks_which():
    left, right = socket.socketpair()
    with clean_ring() as ring, left, right:
        sqes = [ring.prep_recv(left, bytearray(1), user_data="same") for _ in range(2)]
        ring.submit()
        with pytest.raises(ValueError, match="2 operations in flight have the user_data 'same'"):
            ring.prep_cancel("same")
        for sqe in sqes:
            ring.prep_cancel(sqe)
        finish(ring, 4)


def test_cancel_does_not_find_itself():
    with clean_ring() as ring:
        ring.prep_cancel("me", user_data="me")
        assert finish(ring)[0].res == -errno.ENOENT


def test_cancel_refuses_an_operation_of_another_ring():
    with clean_ring() as ring, clean_ring() as other:
        sqe = other.prep_nop()
        with pytest.raises(ValueError, match="belongs to another ring"):
            ring.prep_cancel(sqe)
        finish(other)


@each_setup
def test_exactly_one_outcome_when_data_and_cancel_race(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right:
        received = 0
        for _ in range(200):
            ring.prep_recv(left, bytearray(1), user_data="recv")
            ring.submit()
            right.send(b"x")
            ring.prep_cancel("recv", user_data="cancel")
            got = results(finish(ring, 2))
            if got["recv"] == 1:
                assert got["cancel"] in (0, -errno.ENOENT, -errno.EALREADY)
                received += 1
            else:
                assert (got["recv"], got["cancel"]) == (CANCELED, 0)
                assert left.recv(1) == b"x"  # a cancelled receive took nothing


@each_setup
def test_sync_cancel_waits_for_the_end(flags):
    left, right = socket.socketpair()
    with clean_ring(flags=flags) as ring, left, right:
        try:
            ring.register_sync_cancel(flags=CancelFlags.ANY)
        except FileNotFoundError:
            pass
        except OSError as error:
            pytest.skip(f"no SYNC_CANCEL here: {error}")
        sqe = ring.prep_recv(left, bytearray(1), user_data="recv")
        hand_over(ring)
        ring.register_sync_cancel(sqe)
        assert ring.copy_cqe(timeout=5).res == CANCELED
        ring.prep_recv(left, bytearray(1), user_data="recv")
        hand_over(ring)
        ring.register_sync_cancel(file=left, timeout=5)
        assert ring.copy_cqe(timeout=5).res == CANCELED
        with pytest.raises(FileNotFoundError):
            ring.register_sync_cancel(sqe)
        with pytest.raises(ValueError, match="cancel what"):
            ring.register_sync_cancel()


# ---- messages between rings ---------------------------------------------------------------------


@each_setup
def test_message_arrives_with_its_value_and_number(flags):
    with clean_ring(flags=flags) as sender, clean_ring(flags=flags) as receiver:
        sender.prep_msg_ring(receiver, 42, 123456789)
        assert finish(sender)[0].res == 0
        cqe = receiver.copy_cqe(timeout=5)
        assert (cqe.res, cqe.user_data) == (42, 123456789)


def test_message_cannot_be_taken_for_an_operation():
    with clean_ring() as sender, clean_ring() as receiver:
        left, right = socket.socketpair()
        with left, right:
            sqe = receiver.prep_recv(left, bytearray(1), user_data="recv")
            receiver.submit()
            sender.prep_msg_ring(receiver, 7, sqe.key)
            finish(sender)
            assert receiver.copy_cqe(timeout=5).user_data == sqe.key
            assert receiver.statistics().in_flight == 1
            right.send(b"x")
            assert results(finish(receiver)) == {"recv": 1}


def test_unknown_completion_is_delivered_and_counted():
    # A program that knows only the descriptor may send any number: here, one nobody owns.
    with clean_ring() as sender, Ring(8) as receiver:
        sender.prep_msg_ring(receiver.fd, 1, 0xFFFF)
        finish(sender)
        assert receiver.copy_cqe(timeout=5).user_data == 0xFFFF
        assert receiver.statistics().unmatched == 1


def test_message_to_something_that_is_no_ring_fails():
    left, right = socket.socketpair()
    with clean_ring() as ring, left, right:
        ring.prep_msg_ring(left, 0, 0)
        assert finish(ring)[0].res == -errno.EBADFD


# ---- rings that share ---------------------------------------------------------------------------


def test_attach_wq_takes_the_descriptor_of_another_ring():
    try:
        first = Ring(8, flags=SetupFlags.SQPOLL)
    except OSError as error:
        pytest.skip(f"no SQPOLL here: {error}")
    with first, Ring(8, flags=SetupFlags.SQPOLL, wq_fd=first.fd) as second:
        assert second.flags & SetupFlags.ATTACH_WQ
        second.prep_nop("shared")
        assert finish(second)[0].user_data == "shared"
    with pytest.raises(OSError):
        Ring(8, flags=SetupFlags.SQPOLL, wq_fd=0)
