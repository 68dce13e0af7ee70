"""Futexes, child processes, epoll, driver commands, legacy buffers, and messages between rings."""

import errno
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import threading

import pytest

from ferrule.ring import (
    FILE_INDEX_ALLOC,
    CqeFlags,
    MsgRingFlags,
    NopFlags,
    Op,
    PollFlags,
    Ring,
    SetupFlags,
    TimeoutFlags,
    query,
    send_msg_ring,
)
from ring_support import CANCELED, clean_ring, each_setup, finish, results, tcp_pair

# ---- no-ops, polls, timeouts ------------------------------------------------------------


@each_setup
def test_nop_completes_with_an_injected_result(flags):
    with clean_ring(flags=flags) as ring:
        ring.prep_nop("good", flags=NopFlags.INJECT_RESULT, result=42)
        ring.prep_nop("bad", flags=NopFlags.INJECT_RESULT, result=-errno.EIO)
        assert results(finish(ring, 2)) == {"good": 42, "bad": -errno.EIO}


@each_setup
def test_nop_looks_a_file_up_when_asked(flags):
    with clean_ring(flags=flags) as ring:
        ring.prep_nop("open", flags=NopFlags.FILE, fd=0)
        ring.prep_nop("closed", flags=NopFlags.FILE, fd=1_000_000)
        assert results(finish(ring, 2)) == {"open": 0, "closed": -errno.EBADF}


def test_level_triggered_poll_is_refused_by_the_kernel():
    # The flag is in the ABI since 6.0; no kernel up to 6.18 takes it with an ADD.
    with clean_ring() as ring, tcp_pair() as (_, server):
        ring.prep_poll_add(server, select.POLLIN).len = PollFlags.ADD_LEVEL
        assert finish(ring)[0].res == -errno.EINVAL


@each_setup
def test_multishot_timeout_ticks_as_often_as_asked(flags):
    with clean_ring(flags=flags) as ring:
        ring.prep_timeout(0.002, 3, TimeoutFlags.MULTISHOT)
        cqes = finish(ring, 3)
        assert [(cqe.res, cqe.more) for cqe in cqes] == [
            (-errno.ETIME, True), (-errno.ETIME, True), (-errno.ETIME, False)]


# ---- futexes ------------------------------------------------------------------------------


def futex_word(value=0):
    memory = mmap.mmap(-1, 4096)
    memory[:4] = struct.pack("I", value)
    return memory


@each_setup
def test_futex_wait_ends_when_it_is_woken(flags):
    word = futex_word(7)
    with clean_ring(flags=flags) as ring:
        ring.prep_futex_wait(word, 7, user_data="wait")
        ring.submit()
        ring.prep_futex_wake(word, 1, user_data="wake")
        assert results(finish(ring, 2)) == {"wait": 0, "wake": 1}
        with memoryview(word):
            pass
    word.close()


@each_setup
def test_futex_that_holds_another_value_is_not_waited_for(flags):
    word = futex_word(7)
    with clean_ring(flags=flags) as ring:
        ring.prep_futex_wait(word, 8)
        assert finish(ring)[0].res == -errno.EAGAIN


def test_futex_mask_chooses_the_waiter():
    word = futex_word()
    with clean_ring() as ring:
        ring.prep_futex_wait(word, 0, 0b01, user_data="one")
        ring.prep_futex_wait(word, 0, 0b10, user_data="two")
        ring.submit()
        ring.prep_futex_wake(word, 10, 0b10, user_data="wake")
        assert results(finish(ring, 2)) == {"two": 0, "wake": 1}
        ring.prep_cancel("one")
        assert results(finish(ring, 2))["one"] == CANCELED


@each_setup
def test_wait_for_several_futexes_names_the_one_that_was_woken(flags):
    words = [futex_word(value) for value in (1, 2, 3)]
    with clean_ring(flags=flags) as ring:
        ring.prep_futex_waitv(
            [(words[0], 1), (words[1], 2, 2), (words[2], 3)], user_data="wait")
        ring.submit()
        with pytest.raises(BufferError):
            words[1].close()
        ring.prep_futex_wake(words[2], 1, user_data="wake")
        assert results(finish(ring, 2)) == {"wait": 2, "wake": 1}
        for word in words:
            word.close()


def test_bad_futexes_are_refused_and_let_go():
    word = bytearray(64)
    with clean_ring() as ring:
        with pytest.raises(ValueError, match="aligned to 4"):
            ring.prep_futex_wait(memoryview(word)[1:], 0)
        with pytest.raises(ValueError, match="4 bytes"):
            ring.prep_futex_wake(b"abc", 1)
        with pytest.raises(ValueError, match="aligned to 4"):
            ring.prep_futex_waitv([(word, 0), (memoryview(word)[2:], 0)])
        with pytest.raises(ValueError, match="from 1 to 128 futexes"):
            ring.prep_futex_waitv([])
        with pytest.raises(TypeError):
            ring.prep_futex_wait(12, 0)
        assert ring.sq_ready() == 0
        word.append(1)


# ---- child processes ----------------------------------------------------------------------


@each_setup
def test_waitid_tells_how_a_child_ended(flags):
    with clean_ring(flags=flags) as ring:
        child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
        ring.prep_waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        cqe = finish(ring, timeout=30)[0]
        assert cqe.raise_for_error() == 0
        assert (cqe.child.si_pid, cqe.child.si_status) == (child.pid, 7)
        assert (cqe.child.si_signo, cqe.child.si_code) == (signal.SIGCHLD, os.CLD_EXITED)
        assert child.wait() == 7


@each_setup
def test_waitid_that_finds_no_change_has_no_child(flags):
    with clean_ring(flags=flags) as ring, subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        ring.prep_waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG, user_data="now")
        cqe = finish(ring)[0]
        assert (cqe.res, cqe.child) == (0, None)
        ring.prep_waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT, user_data="later")
        ring.submit()
        ring.prep_cancel("later", user_data="cancel")
        ended = results(finish(ring, 2))
        assert ended["later"] == CANCELED
        assert ended["cancel"] in (0, 1)  # of a waitid, 6.18 tells the number cancelled
        child.communicate(b"\n")


def test_waitid_of_a_stranger_fails():
    with clean_ring() as ring:
        ring.prep_waitid(os.P_PID, 1, os.WEXITED)
        assert finish(ring)[0].res == -errno.ECHILD


# ---- epoll ----------------------------------------------------------------------------------


@each_setup
def test_epoll_is_filled_and_waited_for_through_the_ring(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server), select.epoll() as epoll:
        ring.prep_epoll_ctl(epoll, server, 1, select.EPOLLIN)
        ring.prep_epoll_ctl(epoll, client, 1, select.EPOLLIN, 1 << 60)
        assert [cqe.res for cqe in finish(ring, 2)] == [0, 0]
        ring.prep_epoll_wait(epoll, 4, user_data="wait")
        ring.submit()
        client.send(b"x")
        cqe = ring.copy_cqe(timeout=5)
        assert (cqe.res, cqe.events) == (1, [(server.fileno(), select.EPOLLIN)])
        server.send(b"x")
        ring.prep_epoll_wait(epoll, 4)
        assert sorted(finish(ring)[0].events) == [
            (server.fileno(), select.EPOLLIN), (1 << 60, select.EPOLLIN)]
        ring.prep_epoll_ctl(epoll, client, 2)
        ring.prep_epoll_ctl(epoll, server, 2)
        ring.prep_epoll_ctl(epoll, server, 2)
        assert sorted(cqe.res for cqe in finish(ring, 3)) == [-errno.ENOENT, 0, 0]


def test_epoll_wait_needs_room_for_events():
    with clean_ring() as ring, select.epoll() as epoll:
        for count in (0, 65537):
            with pytest.raises(ValueError, match="maxevents must be from 1 to 65536"):
                ring.prep_epoll_wait(epoll, count)
        ring.prep_epoll_wait(epoll, 1, user_data="wait")
        ring.submit()
        ring.prep_cancel("wait", user_data="cancel")
        assert results(finish(ring, 2)) == {"wait": CANCELED, "cancel": 0}


# ---- commands of drivers --------------------------------------------------------------------


@each_setup
def test_command_for_a_socket_tells_how_much_waits_to_be_read(flags):
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        client.send(b"four")
        select.select([server], [], [])
        ring.prep_uring_cmd(0, server)  # SIOCINQ
        assert finish(ring)[0].res == 4


def test_command_that_a_file_does_not_have_fails(tmp_path):
    with clean_ring() as ring, open(tmp_path / "f", "w+b") as file:
        ring.prep_uring_cmd(12345, file, b"sixteen bytes ..")
        assert finish(ring)[0].res == -errno.EOPNOTSUPP
        with pytest.raises(ValueError, match="at most 16 bytes on this ring, not 17"):
            ring.prep_uring_cmd(0, file, bytes(17))
        ring.prep_cmd_discard(file, 0, 4096)
        assert finish(ring)[0].res == -errno.EOPNOTSUPP


def loop_device(path):
    with open(path, "wb") as file:
        file.write(b"x" * (1 << 20))
    done = subprocess.run(
        ["losetup", "--find", "--show", str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no loop device here: {done.stderr.strip()}")
    return done.stdout.strip()


def test_discard_empties_a_range_of_a_block_device(tmp_path):
    device = loop_device(tmp_path / "disk")
    try:
        with clean_ring() as ring, open(device, "r+b", buffering=0) as disk:
            ring.prep_cmd_discard(disk, 4096, 8192)
            assert finish(ring)[0].res == 0
            data = os.pread(disk.fileno(), 16384, 0)
            assert data == b"x" * 4096 + bytes(8192) + b"x" * 4096
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


# ---- buffers provided one operation at a time -----------------------------------------------


@each_setup
def test_buffers_provided_the_old_way_are_picked_and_taken_back(flags):
    memory = bytearray(4 * 16)
    with clean_ring(flags=flags) as ring, tcp_pair() as (client, server):
        ring.prep_provide_buffers(memory, 16, 4, 5, 10, user_data="provide")
        assert finish(ring)[0].res == 0
        with pytest.raises(BufferError):
            memory.append(0)
        ring.prep_recv(server, None).buffer_select(5).len = 16
        client.send(b"hello")
        cqe = finish(ring)[0]
        assert cqe.res == 5
        start = (cqe.buffer_id - 10) * 16
        assert memory[start:start + 5] == b"hello"
        ring.prep_remove_buffers(8, 5)
        assert finish(ring)[0].res == 3
        ring.prep_recv(server, None).buffer_select(5).len = 16
        client.send(b"more")
        assert finish(ring)[0].res == -errno.ENOBUFS
    memory.append(0)


def test_bad_provided_buffers_are_refused_and_let_go():
    memory = bytearray(64)
    with clean_ring() as ring:
        for arguments, error in [
            ((memory, 16, 5, 0), ValueError),
            ((memory, 0, 1, 0), ValueError),
            ((memory, 16, 0, 0), ValueError),
            ((memory, 16, 4, 65536), ValueError),
            ((memory, 16, 4, 0, 65533), ValueError),
            ((b"read only", 1, 1, 0), TypeError),
            ((None, 1, 1, 0), TypeError),
        ]:
            with pytest.raises(error):
                ring.prep_provide_buffers(*arguments)
        with pytest.raises(ValueError, match="count from 1 to 65536"):
            ring.prep_remove_buffers(0, 0)
        assert ring.sq_ready() == 0
        memory.append(0)


# ---- messages between rings -----------------------------------------------------------------


def test_message_carries_completion_flags():
    with clean_ring() as ring, clean_ring() as other:
        ring.prep_msg_ring_cqe_flags(other, 5, 99, 0, CqeFlags.SOCK_NONEMPTY)
        assert finish(ring)[0].res == 0
        cqe = other.copy_cqe(timeout=5)
        assert (cqe.res, cqe.user_data, cqe.sock_nonempty, cqe.opcode) == (5, 99, True, Op.NOP)


def test_registered_file_is_passed_to_a_chosen_slot_of_another_ring():
    with clean_ring() as ring, clean_ring() as other, tcp_pair() as (client, server):
        ring.register_files([client, -1])
        other.register_files([-1, -1, -1])
        ring.prep_msg_ring_fd(other, 0, 2, 7)
        assert finish(ring)[0].res >= 0
        cqe = other.copy_cqe(timeout=5)
        assert cqe.user_data == 7
        other.prep_send(2, b"through slot 2").use_registered_fd()
        assert finish(other)[0].res == 14
        assert server.recv(100) == b"through slot 2"
        ring.prep_msg_ring_fd(other, 1, 2, 7)
        assert finish(ring)[0].res == -errno.EBADF


def test_registered_file_is_passed_to_any_free_slot():
    with clean_ring() as ring, clean_ring() as other, tcp_pair() as (client, server):
        ring.register_files([client])
        other.register_files([server, -1])
        ring.prep_msg_ring_fd_alloc(other, 0, 8)
        assert finish(ring)[0].res == 1
        assert other.copy_cqe(timeout=5).res == 1
        ring.prep_msg_ring_fd(other, 0, FILE_INDEX_ALLOC, 8, MsgRingFlags.CQE_SKIP)
        assert finish(ring)[0].res == -errno.ENFILE
        assert other.copy_cqes() == []
        other.prep_send(1, b"x").use_registered_fd()
        assert finish(other)[0].res == 1
        assert server.recv(1) == b"x"


@each_setup
def test_message_is_sent_from_a_thread_without_a_ring(flags):
    with clean_ring(flags=flags) as ring:
        sender = threading.Timer(0.02, send_msg_ring, [ring, 5, 99])
        sender.start()
        cqe = ring.copy_cqe(timeout=5)
        assert (cqe.res, cqe.user_data, cqe.opcode) == (5, 99, Op.NOP)
        sender.join()


@each_setup
def test_message_reaches_the_ring_of_another_thread(flags):
    with clean_ring(flags=flags) as ring:

        def send():
            with clean_ring(flags=flags) as own:
                own.prep_msg_ring(ring, 5, 99)
                assert finish(own)[0].res == 0

        sender = threading.Thread(target=send)
        sender.start()
        assert ring.copy_cqe(timeout=5).user_data == 99
        sender.join()


def test_message_without_a_ring_is_refused_where_it_cannot_arrive():
    with pytest.raises(OSError, match=os.strerror(errno.EBADFD)), Ring(
            4, flags=SetupFlags.R_DISABLED) as ring:
        send_msg_ring(ring, 0, 0)
    with pytest.raises(OverflowError, match="below 2"), clean_ring() as ring:
        send_msg_ring(ring, 0, 1 << 63)
    with pytest.raises(OSError, match=os.strerror(errno.EBADFD)), open(os.devnull) as file:
        send_msg_ring(file, 0, 0)


@each_setup
def test_query_agrees_with_what_a_ring_says(flags):
    answer = query()
    with clean_ring(flags=flags) as ring:
        assert answer.request_opcodes == ring.register_probe().last_op + 1
        assert answer.features & ring.features == ring.features
        assert answer.setup_flags & ring.flags == ring.flags
    assert answer.register_opcodes > 35  # it knows of itself
    assert answer.query_opcodes >= 1


def test_variants_that_the_kernel_lacks_are_refused_by_name(hidden_operations):
    hidden_operations(
        Op.FUTEX_WAIT, Op.FUTEX_WAKE, Op.FUTEX_WAITV, Op.WAITID, Op.EPOLL_WAIT, Op.SENDMSG_ZC,
        Op.SEND_ZC, Op.LISTEN)
    word = bytearray(4)
    with Ring(8) as ring:
        for since, prepare in [
            ("6.7", lambda: ring.prep_futex_wait(word, 0)),
            ("6.7", lambda: ring.prep_futex_wake(word, 0)),
            ("6.7", lambda: ring.prep_futex_waitv([(word, 0)])),
            ("6.7", lambda: ring.prep_waitid(os.P_ALL, 0, os.WEXITED)),
            ("6.15", lambda: ring.prep_epoll_wait(0, 1)),
            ("6.3", lambda: ring.prep_msg_ring_cqe_flags(ring, 0, 0, 0, 0)),
            ("6.0", lambda: ring.prep_msg_ring_fd(ring, 0, 0, 0)),
            ("6.12", lambda: ring.prep_cmd_discard(0, 0, 0)),
        ]:
            with pytest.raises(OSError, match=f"needs Linux {since}"):
                prepare()
        assert ring.sq_ready() == 0
    word.append(0)
