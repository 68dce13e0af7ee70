# Operations on what is neither a file nor a socket: futexes, processes, epoll, drivers, buffers.

# The system call's masks and sizes; glibc has no names for them.
cdef enum:
    FUTEX2_SIZE_U32 = 2
    FUTEX_BITSET_MATCH_ANY = 0xffffffff
    MAX_FUTEXES = 128
    MAX_EPOLL_EVENTS = 65536
    BLOCK_URING_CMD_DISCARD = 0x1200


cdef int check_futex(Py_buffer *view) except -1:
    if view.len < 4 or <uintptr_t>view.buf & 3:
        raise ValueError("a futex is 4 bytes, aligned to 4: give a buffer that begins with it")
    return 0


def _futex_wanted(futex, uint64_t value, unsigned int flags=FUTEX2_SIZE_U32):
    return futex, value, flags


cdef class SystemOperations(SocketOperations):
    """Preparing operations on futexes, child processes, epoll, drivers and legacy buffers."""

    cdef SQE futex(self, uint8_t opcode, object futex, uint64_t value, uint64_t mask,
                   uint32_t futex_flags):
        cdef SQE sqe = self.place()
        cdef Py_buffer view
        export_buffer(futex, &view, False)
        try:
            check_futex(&view)
        except ValueError:
            PyBuffer_Release(&view)
            raise
        sqe.begin_with(opcode, &view, NULL, 0)
        sqe.fill(<int>futex_flags, view.buf, 0, value)
        sqe.raw.addr3 = mask
        return sqe

    def prep_futex_wait(self, futex, uint64_t value, uint64_t mask=FUTEX_BITSET_MATCH_ANY,
                        unsigned int futex_flags=FUTEX2_SIZE_U32, *, user_data=None):
        """Wait on a futex while it holds `value` (futex_wait(2); Linux 6.7).

        futex        a buffer that begins with the 32-bit word, aligned to 4 bytes; held till then
        mask         woken by wakes whose mask shares a bit with it
        futex_flags  FUTEX2_*: the size (U32 only, so far), 128 for PRIVATE
        res          0 when woken; -EAGAIN when it held another value
        """
        return self.futex(URING_OP_FUTEX_WAIT, futex, value, mask, futex_flags).tag(user_data)

    def prep_futex_wake(self, futex, uint64_t count, uint64_t mask=FUTEX_BITSET_MATCH_ANY,
                        unsigned int futex_flags=FUTEX2_SIZE_U32, *, user_data=None):
        """Wake up to `count` waiters of a futex (futex_wake(2); Linux 6.7).  res: how many."""
        return self.futex(URING_OP_FUTEX_WAKE, futex, count, mask, futex_flags).tag(user_data)

    def prep_futex_waitv(self, futexes, *, user_data=None):
        """Wait until one of several futexes is woken (futex_waitv(2); Linux 6.7).

        futexes  up to 128 of (buffer, value) or (buffer, value, futex_flags)
        res      the index of one that was woken
        """
        cdef SQE sqe = self.place()
        cdef list wanted = [_futex_wanted(*item) for item in futexes]
        cdef uint32_t i, count = <uint32_t>len(wanted)
        if not 1 <= count <= MAX_FUTEXES:
            raise ValueError(f"from 1 to {MAX_FUTEXES} futexes, not {count}")
        cdef bytes block = zeroed(count * (sizeof(futex_wait_entry) + sizeof(iovec)))
        cdef futex_wait_entry *entries = <futex_wait_entry *>PyBytes_AS_STRING(block)
        for i in range(count):
            entries[i].value = wanted[i][1]
            entries[i].flags = wanted[i][2]
        cdef Py_buffer *views = export_all(
            [item[0] for item in wanted], <iovec *>(entries + count), False)
        try:
            for i in range(count):
                check_futex(&views[i])
                entries[i].address = <uint64_t><uintptr_t>views[i].buf
        except ValueError:
            release_views(views, count)
            raise
        sqe.begin_with(URING_OP_FUTEX_WAITV, NULL, views, count)
        sqe.keep_block(block)
        sqe.fill(0, entries, count, 0)
        return sqe.tag(user_data)

    def prep_waitid(self, int idtype, int id, int options, *, user_data=None):
        """waitid(2): wait for a child (os.P_PID, os.P_PGID, os.P_ALL, os.P_PIDFD; Linux 6.7).

        options  os.WEXITED and the like.  The completion's `child` is what os.waitid returns.
        """
        cdef SQE sqe = self.place()
        cdef bytes block = zeroed(sizeof(siginfo_t))
        sqe.begin(URING_OP_WAITID)
        sqe.keep_block(block)
        sqe.fill(id, NULL, <uint32_t>idtype, <uint64_t><uintptr_t>PyBytes_AS_STRING(block))
        sqe.raw.file_index = <uint32_t>options
        return sqe.tag(user_data)

    def prep_epoll_ctl(self, epoll, file, int op, unsigned int events=0, data=None, *,
                       user_data=None):
        """epoll_ctl(2): op is 1 to add, 2 to delete, 3 to change (Linux 5.6).  res: 0.

        data  64 bits that epoll gives back; default: the descriptor, as select.epoll has it
        """
        cdef SQE sqe = self.place()
        cdef int epoll_fd = sqe.descriptor(epoll)
        cdef int fd = sqe.descriptor(file)
        cdef bytes block = zeroed(sizeof(epoll_event))
        cdef epoll_event *event = <epoll_event *>PyBytes_AS_STRING(block)
        event.events = events
        event.data.u64 = <uint64_t>fd if data is None else <uint64_t>data
        sqe.begin(URING_OP_EPOLL_CTL)
        sqe.keep_block(block)
        sqe.fill(epoll_fd, event, <uint32_t>op, fd)
        sqe.keep_file(epoll)
        if not PyLong_CheckExact(file):
            sqe.keep_extra(file)
        return sqe.tag(user_data)

    def prep_epoll_wait(self, epoll, unsigned int maxevents, *, user_data=None):
        """epoll_wait(2) without a timeout (link one; Linux 6.15).  res: how many events.

        The completion's `events` is a list of (data, events), as select.epoll.poll returns it.
        """
        cdef SQE sqe = self.place()
        cdef int fd = sqe.descriptor(epoll)
        if not 1 <= maxevents <= MAX_EPOLL_EVENTS:
            raise ValueError(f"maxevents must be from 1 to {MAX_EPOLL_EVENTS}, not {maxevents}")
        cdef bytes block = zeroed(maxevents * sizeof(epoll_event))
        sqe.begin(URING_OP_EPOLL_WAIT)
        sqe.keep_block(block)
        sqe.fill(fd, PyBytes_AS_STRING(block), maxevents, 0)
        sqe.keep_file(epoll)
        return sqe.tag(user_data)

    def prep_uring_cmd(self, unsigned int cmd_op, file, data=b"", *, user_data=None):
        """A driver's own command (Linux 5.19).  res: what the driver says.

        data  up to 16 bytes for the command area of the SQE, 80 on a ring with SQE128.  What
              addresses in it point to is yours to keep until the completion.
        """
        cdef SQE sqe = self.place()
        cdef int fd = sqe.descriptor(file)
        cdef bytes command = bytes(data)
        cdef size_t room = 80 if sqe.owner.r.setup_flags & URING_SETUP_SQE128 else 16
        if <size_t>len(command) > room:
            raise ValueError(f"data must be at most {room} bytes on this ring, not {len(command)}")
        sqe.begin(URING_OP_URING_CMD)
        sqe.fill(fd, NULL, 0, cmd_op)
        memcpy(&sqe.raw.addr3, <const char *>command, len(command))
        sqe.keep_file(file)
        return sqe.tag(user_data)

    def prep_cmd_discard(self, file, uint64_t offset, uint64_t length, *, user_data=None):
        """Discard a range of a block device (BLKDISCARD; Linux 6.12).  res: 0.

        Both in bytes, multiples of the logical block.
        """
        cdef SQE sqe = self.place()
        cdef int fd = sqe.descriptor(file)
        need(URING_OP_LISTEN, "prep_cmd_discard", "6.12")
        sqe.begin(URING_OP_URING_CMD)
        sqe.fill(fd, <void *><uintptr_t>offset, 0, BLOCK_URING_CMD_DISCARD)
        sqe.raw.addr3 = length
        sqe.keep_file(file)
        return sqe.tag(user_data)

    def prep_provide_buffers(self, memory, unsigned int length, unsigned int count,
                             unsigned int bgid, unsigned int bid=0, *, user_data=None):
        """Give the kernel buffers the old way, one operation for `count` of them (Linux 5.7).

        memory  a writable buffer of count x length bytes, held until the ring is closed; buffer
                `bid + i` is its part from i x length.  A BufferRing is better in every way, from
                5.19 on.
        """
        cdef SQE sqe = self.place()
        if bgid > 0xffff or count == 0 or bid + count > 0x10000:
            raise ValueError("bgid and the buffers' ids must be from 0 to 65535, count at least 1")
        if bgid in sqe.owner.groups:
            raise ValueError(f"group {bgid} is a BufferRing")
        view = memoryview(memory)
        if view.readonly or not view.contiguous:
            raise TypeError("a writable, contiguous bytes-like object is required")
        if length == 0 or <size_t>count * length > <size_t>view.nbytes:
            raise ValueError(f"{count} buffers of {length} bytes do not fit into {view.nbytes}")
        cdef Py_buffer address
        export_buffer(memory, &address, True)
        sqe.begin_with(URING_OP_PROVIDE_BUFFERS, &address, NULL, 0)
        sqe.owner.provided.setdefault(bgid, []).append(view)
        sqe.fill(<int>count, address.buf, length, bid)
        sqe.raw.buf_index = <uint16_t>bgid
        return sqe.tag(user_data)

    def prep_remove_buffers(self, unsigned int count, unsigned int bgid, *, user_data=None):
        """Take back up to `count` buffers of prep_provide_buffers (Linux 5.7).  res: how many."""
        cdef SQE sqe = self.place()
        if bgid > 0xffff or not 1 <= count <= 0x10000:
            raise ValueError("bgid must be from 0 to 65535, count from 1 to 65536")
        sqe.begin(URING_OP_REMOVE_BUFFERS)
        sqe.fill(<int>count, NULL, 0, 0)
        sqe.raw.buf_index = <uint16_t>bgid
        return sqe.tag(user_data)
