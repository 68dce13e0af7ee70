# Operations on sockets.

cdef uint32_t ACCEPT_FLAGS = URING_ACCEPT_DONTWAIT | URING_ACCEPT_POLL_FIRST
cdef uint32_t ZC_FLAGS = URING_RECVSEND_POLL_FIRST | URING_SEND_ZC_REPORT_USAGE
cdef uint32_t BUNDLE_FLAGS = URING_RECVSEND_POLL_FIRST | URING_RECVSEND_BUNDLE


# The bits of ioprio that are the caller's.  The others belong to a method of their own, or would
# have the kernel take the buffer for something else.
cdef int check_bits(uint32_t given, uint32_t allowed, str names) except -1:
    if given & ~allowed:
        raise ValueError(f"only {names} may be set here, not {given:#x}")
    return 0


cdef int check_poll_first(uint32_t ioprio) except -1:
    check_bits(ioprio, URING_RECVSEND_POLL_FIRST, "RecvSendFlags.POLL_FIRST")
    if ioprio:
        need(URING_OP_SOCKET, "POLL_FIRST", "5.19")
    return 0


cdef int check_bundle(Ring ring, uint32_t ioprio, object buffer) except -1:
    check_bits(ioprio, BUNDLE_FLAGS, "RecvSendFlags.POLL_FIRST and BUNDLE")
    check_poll_first(ioprio & ~URING_RECVSEND_BUNDLE)
    if ioprio & URING_RECVSEND_BUNDLE:
        if buffer is not None:
            raise ValueError("a bundle takes its buffers from a group: "
                             "give None, and buffer_select(group)")
        need_feature(ring, URING_FEAT_RECVSEND_BUNDLE, "a bundle", "6.10")
    return 0


cdef int check_accept(Ring ring, uint32_t ioprio) except -1:
    check_bits(ioprio, ACCEPT_FLAGS, "AcceptFlags.DONTWAIT and POLL_FIRST")
    if ioprio:
        need_feature(ring, URING_FEAT_RECVSEND_BUNDLE, "DONTWAIT or POLL_FIRST of accept", "6.10")
    return 0


# What gives completions of 32 bytes needs a ring that has room for them.
cdef int need_large_completions(Ring ring, str what) except -1:
    if not ring.r.setup_flags & (URING_SETUP_CQE32 | URING_SETUP_CQE_MIXED):
        raise NotSupported(EOPNOTSUPP, f"{what} needs a ring made with CQE32 or CQE_MIXED")
    return 0


cdef SQE fill_socket(SQE sqe, uint8_t opcode, int domain, int type, int protocol):
    sqe.begin(opcode)
    sqe.fill(domain, NULL, <uint32_t>protocol, <uint32_t>type)
    return sqe


cdef SQE fill_accept(SQE sqe, uint8_t opcode, object file, int flags, uint32_t ioprio):
    check_accept(sqe.owner, ioprio)
    cdef int fd = sqe.descriptor(file)
    cdef bytes block = zeroed(sizeof(AcceptBlock))
    cdef AcceptBlock *memory = <AcceptBlock *>PyBytes_AS_STRING(block)
    sqe.begin(opcode)
    sqe.keep_block(block)
    memory.size = sizeof(sockaddr_storage)
    sqe.fill(fd, &memory.address, 0, <uint64_t><uintptr_t>&memory.size)
    sqe.raw.op_flags = <uint32_t>flags
    sqe.raw.ioprio = <uint16_t>ioprio
    sqe.keep_file(file)
    return sqe


# Without an address: one place for it could not hold those of several connections.
cdef SQE fill_multishot_accept(SQE sqe, uint8_t opcode, object file, int flags, uint32_t ioprio):
    need(URING_OP_SOCKET, "multishot accept", "5.19")
    check_accept(sqe.owner, ioprio)
    sqe.plain(opcode, file, 0, 0, 0, <uint32_t>flags)
    sqe.raw.ioprio = <uint16_t>(ioprio | URING_ACCEPT_MULTISHOT)
    return sqe


# connect and bind.
cdef SQE fill_address(SQE sqe, uint8_t opcode, object file, object address):
    cdef int fd = sqe.descriptor(file)
    cdef bytes block = zeroed(sizeof(sockaddr_storage))
    cdef socklen_t size = 0
    put_address(address, <sockaddr_storage *>PyBytes_AS_STRING(block), &size)
    sqe.begin(opcode)
    sqe.keep_block(block)
    sqe.fill(fd, PyBytes_AS_STRING(block), 0, size)
    sqe.keep_file(file)
    return sqe


# Every send that has no msghdr.  The block, where one is needed, holds the address and, of several
# buffers, the iovecs.
cdef SQE fill_send(SQE sqe, uint8_t opcode, object file, object buffer, int flags,
                   uint32_t ioprio, object address):
    cdef list sources = None
    cdef Py_ssize_t count = 0
    cdef socklen_t size = 0
    cdef Py_buffer view
    if isinstance(buffer, (list, tuple)):
        need(URING_OP_PIPE, "sending several buffers without sendmsg", "6.17")
        sources = list(buffer)
        count = len(sources)
    elif address is None and buffer is not None:
        sqe.transfer(opcode, file, buffer, False, 0, <uint32_t>(flags | MSG_NOSIGNAL))
        sqe.raw.ioprio = <uint16_t>ioprio
        return sqe
    cdef int fd = sqe.descriptor(file)
    cdef bytes block = send_block(address, count, &size)
    cdef iovec *iovecs = <iovec *>(PyBytes_AS_STRING(block) + sizeof(sockaddr_storage))
    if sources is not None:
        sqe.begin_with(opcode, NULL, export_all(sources, iovecs, False), <uint32_t>count)
        sqe.fill(fd, iovecs, <uint32_t>count, 0)
        ioprio |= URING_SEND_VECTORIZED
    else:
        export_buffer(buffer, &view, False)
        sqe.begin_with(opcode, &view, NULL, 0)
        sqe.fill(fd, view.buf, clamped(view.len), 0)
    return finish_send(sqe, file, flags, ioprio, block, size)


cdef bytes send_block(object address, Py_ssize_t iovecs, socklen_t *size):
    cdef bytes block = zeroed(sizeof(sockaddr_storage) + iovecs * sizeof(iovec))
    if address is not None:
        put_address(address, <sockaddr_storage *>PyBytes_AS_STRING(block), size)
    return block


cdef SQE finish_send(SQE sqe, object file, int flags, uint32_t ioprio, bytes block,
                     socklen_t size):
    sqe.keep_block(block)
    if size:
        sqe.raw.off = <uint64_t><uintptr_t>PyBytes_AS_STRING(block)
        sqe.raw.addr_len = <uint16_t>size
    sqe.raw.op_flags = <uint32_t>(flags | MSG_NOSIGNAL)
    sqe.raw.ioprio = <uint16_t>ioprio
    sqe.keep_file(file)
    return sqe


# With FIXED_BUF in ioprio the buffers are parts of the registered one that `index` tells.
cdef SQE fill_sendmsg(SQE sqe, uint8_t opcode, object file, object buffers, object ancdata,
                      int flags, object address, uint32_t ioprio, object index):
    cdef int fd = sqe.descriptor(file)
    cdef list sources = list(buffers)
    cdef list control = [(int(level), int(kind), bytes(memoryview(data)))
                         for level, kind, data in ancdata]
    cdef size_t room = 0
    for item in control:
        room += CMSG_SPACE(len(<bytes>item[2]))
    cdef bytes block = message_block(len(sources), room)
    cdef MessageBlock *m = <MessageBlock *>PyBytes_AS_STRING(block)
    cdef socklen_t size = 0
    cdef uint16_t registered = 0
    cdef Py_buffer *views
    if address is not None:
        put_address(address, &m.name, &size)
    m.header.msg_namelen = size
    if size == 0:
        m.header.msg_name = NULL
    put_control(m, control)
    if ioprio & URING_RECVSEND_FIXED_BUF:
        views = export_all_fixed(
            sqe.owner, sources, index, m.header.msg_iov, False, &registered)
    else:
        views = export_all(sources, m.header.msg_iov, False)
    sqe.begin_with(opcode, NULL, views, <uint32_t>len(sources))
    sqe.keep_block(block)
    sqe.fill(fd, m, 1, 0)
    sqe.raw.buf_index = registered
    sqe.raw.op_flags = <uint32_t>(flags | MSG_NOSIGNAL)
    sqe.raw.ioprio = <uint16_t>ioprio
    sqe.keep_file(file)
    return sqe


# Take buffers from `group`, with the ioprio that goes with it.
cdef SQE choose_buffers(SQE sqe, BufferRing group, uint32_t ioprio):
    sqe.raw.ioprio = <uint16_t>ioprio
    sqe.raw.flags |= URING_SQE_BUFFER_SELECT
    sqe.join(group)
    return sqe


# A socket command's memory: what it is about, then the option's value or the address.
cdef SQE fill_command(SQE sqe, uint8_t opcode, uint32_t command, object file, uint32_t level,
                      uint32_t name, bytes block):
    cdef int fd = sqe.descriptor(file)
    cdef CommandBlock *memory = NULL
    sqe.begin(opcode)
    sqe.fill(fd, NULL, 0, 0)
    sqe.raw.cmd_op = command
    sqe.raw.level = level
    sqe.raw.optname = name
    if block is not None:
        memory = <CommandBlock *>PyBytes_AS_STRING(block)
        sqe.raw.optval = <uint64_t><uintptr_t>(memory + 1)
        sqe.raw.optlen = memory.size
        sqe.keep_block(block)
    sqe.keep_file(file)
    return sqe


cdef bytes command_block(uint32_t command, uint32_t size, uint32_t asked):
    cdef bytes block = zeroed(sizeof(CommandBlock) + size)
    cdef CommandBlock *memory = <CommandBlock *>PyBytes_AS_STRING(block)
    memory.command = command
    memory.size = size
    memory.asked = asked
    return block


cdef bytes option_block(uint32_t command, object value):
    cdef bytes block, data
    cdef int number
    if command == URING_SOCKET_GETSOCKOPT:
        if value is None:
            return command_block(command, sizeof(int), 0)
        number = value
        if not 0 < number <= MAX_OPTION:
            raise ValueError(f"the length of an option must be from 1 to {MAX_OPTION}")
        return command_block(command, number, number)
    if isinstance(value, int):
        number = value
        data = (<char *>&number)[:sizeof(int)]
    else:
        data = bytes(memoryview(value))
    if len(data) > MAX_OPTION:
        raise ValueError(f"the value of an option must not exceed {MAX_OPTION} bytes")
    block = command_block(command, <uint32_t>len(data), 0)
    memcpy(PyBytes_AS_STRING(block) + sizeof(CommandBlock), <const char *>data, len(data))
    return block


cdef class SocketOperations(FileOperations):
    """Preparing operations on sockets.

    An `address` has the socket module's form and is numeric: look names up first.  Any other
    family's is (family, bytes), the bytes being those behind the family in its struct sockaddr.
    `ioprio` is io_uring's own flags, beside the `flags` that the system call has.

    A "direct" operation puts the new socket into the ring's file table (register_file_table,
    register_files) instead of making a descriptor: it is used by its slot's number and
    use_registered_fd(), by this ring only.
    """

    # ---- making sockets -------------------------------------------------------------------

    def prep_socket(self, int domain, int type, int protocol=0, *, user_data=None):
        """socket(2) (Linux 5.19).  res: the new descriptor.

        Unlike socket.socket, it is inherited by exec unless `type` has SOCK_CLOEXEC.
        """
        return fill_socket(self.place(), URING_OP_SOCKET, domain, type, protocol).tag(user_data)

    def prep_socket_direct(self, int domain, int type, int protocol=0,
                           file_index=FILE_INDEX_ALLOC, *, user_data=None):
        """socket(2) into slot `file_index` of the file table (Linux 5.19); what is there is closed.

        type  without SOCK_CLOEXEC
        res   0; with FILE_INDEX_ALLOC the slot, or -ENFILE when none is free.  For a slot: -ENXIO
              without a file table, -EINVAL beyond its end
        """
        cdef uint32_t slot = table_slot(file_index, True)
        refuse_cloexec(type)
        cdef SQE sqe = fill_socket(self.place(), URING_OP_SOCKET, domain, type, protocol)
        sqe.direct(slot)
        return sqe.tag(user_data)

    def prep_socket_direct_alloc(self, int domain, int type, int protocol=0, *, user_data=None):
        """prep_socket_direct with FILE_INDEX_ALLOC (Linux 5.19).  res: the slot, or -ENFILE."""
        return self.prep_socket_direct(domain, type, protocol, user_data=user_data)

    def prep_bind(self, file, address, *, user_data=None):
        """bind(2) (Linux 6.11).  res: 0."""
        return fill_address(self.place(), URING_OP_BIND, file, address).tag(user_data)

    def prep_listen(self, file, int backlog=128, *, user_data=None):
        """listen(2) (Linux 6.11).  res: 0."""
        return self.place().plain(
            URING_OP_LISTEN, file, 0, <uint32_t>max(backlog, 0), 0, 0).tag(user_data)

    def prep_connect(self, file, address, *, user_data=None):
        """connect(2) to a numeric address in the socket module's form (Linux 5.5).  res: 0.

        Waits also where the socket is non-blocking; link a prep_link_timeout to it for a limit.
        After -ECANCELED the socket may be connecting still: close it.
        """
        return fill_address(self.place(), URING_OP_CONNECT, file, address).tag(user_data)

    def prep_shutdown(self, file, int how, *, user_data=None):
        """shutdown(2); `how` is socket.SHUT_RD, SHUT_WR or SHUT_RDWR (Linux 5.11).  res: 0.

        The kernel hands it to a worker thread each time: shutdown(2) itself is quicker.
        """
        return self.place().plain(
            URING_OP_SHUTDOWN, file, 0, <uint32_t>how, 0, 0).tag(user_data)

    # ---- accept ---------------------------------------------------------------------------

    def prep_accept(self, file, int flags=0, *, unsigned int ioprio=0, user_data=None):
        """accept4(2); `flags` are SOCK_CLOEXEC and SOCK_NONBLOCK (Linux 5.5).

        ioprio  AcceptFlags (6.10): DONTWAIT gives -EAGAIN when no connection waits; POLL_FIRST
                does not try before one came.  The last completion's `sock_nonempty` tells which
                is likely
        res     the new descriptor; the completion's `address` is the peer's
        """
        return fill_accept(self.place(), URING_OP_ACCEPT, file, flags, ioprio).tag(user_data)

    def prep_accept_direct(self, file, int flags=0, file_index=FILE_INDEX_ALLOC, *,
                           unsigned int ioprio=0, user_data=None):
        """prep_accept into slot `file_index` of the file table (Linux 5.15); what is there is
        closed.

        flags       without SOCK_CLOEXEC
        file_index  FILE_INDEX_ALLOC lets the kernel pick a free slot (Linux 5.19)
        res         0; with FILE_INDEX_ALLOC the slot, or -ENFILE when none is free, which closes
                    the connection
        """
        cdef uint32_t slot = table_slot(file_index, True)
        need(URING_OP_MKDIRAT, "accepting into a direct descriptor", "5.15")
        refuse_cloexec(flags)
        cdef SQE sqe = fill_accept(self.place(), URING_OP_ACCEPT, file, flags, ioprio)
        sqe.direct(slot)
        return sqe.tag(user_data)

    def prep_multishot_accept(self, file, int flags=0, *, unsigned int ioprio=0, user_data=None):
        """Accept again and again: a completion per connection, `more` while it goes on (5.19).

        It ends without `more`: on an error (-EMFILE: the limit of descriptors, as it was at
        submission), when cancelled, and when the completion queue overflows.  Prepare it again
        then.  Ask the socket for its peer's address: one shared place could not hold them all.
        """
        return fill_multishot_accept(
            self.place(), URING_OP_ACCEPT, file, flags, ioprio).tag(user_data)

    def prep_multishot_accept_direct(self, file, int flags=0, *, unsigned int ioprio=0,
                                     user_data=None):
        """prep_multishot_accept into free slots of the file table (Linux 5.19); `flags` without
        SOCK_CLOEXEC.

        res: the slot of each.  Ends with -ENFILE when none is free; that connection is closed.
        """
        refuse_cloexec(flags)
        cdef SQE sqe = fill_multishot_accept(
            self.place(), URING_OP_ACCEPT, file, flags, ioprio)
        sqe.direct(<uint32_t>URING_FILE_INDEX_ALLOC)
        return sqe.tag(user_data)

    # ---- receive --------------------------------------------------------------------------

    def prep_recv(self, file, buffer, int flags=0, *, unsigned int ioprio=0, user_data=None):
        """recv(2) into `buffer`; None when buffer_select follows (Linux 5.6).

        flags   socket.MSG_*.  MSG_DONTWAIT gives -EAGAIN where nothing waits (a non-blocking
                socket waits all the same, on recent kernels); MSG_WAITALL waits until the buffer
                is full; the result is shorter at the end of the stream and when cancelled
        ioprio  RecvSendFlags.POLL_FIRST: wait for data before the first try (5.19).  BUNDLE: with
                buffer_select, fill several buffers (6.10).  One that a kernel thread might begin
                (ASYNC, in a chain, or in a ring that ever used DRAIN) fills one only
        res     bytes, 0 at the end of the stream; `sock_nonempty` tells whether more waits
        """
        cdef SQE sqe = self.place()
        check_bundle(sqe.owner, ioprio, buffer)
        sqe.transfer(URING_OP_RECV, file, buffer, True, 0, <uint32_t>flags)
        sqe.set_ioprio(<uint16_t>ioprio)
        return sqe.tag(user_data)

    def prep_recv_multishot(self, file, group, int flags=0, *, unsigned int ioprio=0,
                            unsigned int length=0, unsigned int limit=0, user_data=None):
        """Receive again and again into the buffers of `group` (a BufferRing or its id; 6.0).

        flags   as in prep_recv, without MSG_WAITALL
        ioprio  RecvSendFlags.POLL_FIRST; BUNDLE: a completion may fill several buffers (6.10)
        length  the most that one completion may bring, so that a busy socket leaves the others
                their turn; 0: what fits (6.17)
        limit   end without `more` when at least so many bytes have come; 0: do not (6.17)

        Each completion names its buffer (buffer_id).  It ends without `more`: at the end of the
        stream (res 0), on an error, when cancelled, when the completion queue overflows (res is
        that of a receive like the others), and with ENOBUFS when the group has run dry.
        """
        cdef SQE sqe = self.place()
        cdef BufferRing chosen = sqe.owner.group_of(group)
        need(URING_OP_SEND_ZC, "multishot receive", "6.0")
        check_bundle(sqe.owner, ioprio, None)
        if length or limit:
            need(URING_OP_PIPE, "a limit of a multishot receive", "6.17")
        sqe.transfer(URING_OP_RECV, file, None, True, 0, <uint32_t>flags)
        sqe.raw.len = length
        sqe.raw.optlen = limit
        return choose_buffers(sqe, chosen, ioprio | URING_RECV_MULTISHOT).tag(user_data)

    def prep_recvmsg(self, file, buffers, Py_ssize_t ancbufsize=0, int flags=0, *,
                     unsigned int ioprio=0, user_data=None):
        """recvmsg(2) with socket.recvmsg_into's arguments (Linux 5.3); `ioprio` as in prep_recv.

        The completion's `message` has the ancillary data, the flags and the address.
        """
        cdef SQE sqe = self.place()
        check_poll_first(ioprio)
        cdef int fd = sqe.descriptor(file)
        cdef list sources = list(buffers)
        check_control(ancbufsize)
        cdef bytes block = message_block(len(sources), ancbufsize)
        cdef MessageBlock *m = <MessageBlock *>PyBytes_AS_STRING(block)
        sqe.begin_with(URING_OP_RECVMSG, NULL, export_all(sources, m.header.msg_iov, True),
                       <uint32_t>len(sources))
        sqe.keep_block(block)
        sqe.fill(fd, m, 1, 0)
        sqe.raw.op_flags = <uint32_t>flags
        sqe.raw.ioprio = <uint16_t>ioprio
        sqe.keep_file(file)
        return sqe.tag(user_data)

    def prep_recvmsg_multishot(self, file, group, Py_ssize_t ancbufsize=0, int flags=0, *,
                               unsigned int namelen=128, unsigned int ioprio=0, user_data=None):
        """Receive messages again and again into the buffers of `group` (Linux 6.0).

        A buffer holds 16 bytes of header, `namelen` bytes for the address (0: do not tell),
        `ancbufsize` bytes of ancillary data, then the message.  BufferRing.take_message(cqe), or
        get_message(cqe) without a copy, reads them.  What does not fit is cut off: msg_flags then
        has MSG_TRUNC or MSG_CTRUNC, and a longer address is None.  Ends as prep_recv_multishot
        does, and with an empty message, which still has its buffer.
        """
        cdef SQE sqe = self.place()
        cdef BufferRing chosen = sqe.owner.group_of(group)
        cdef bytes block = zeroed(sizeof(MessageBlock))
        cdef MessageBlock *m = <MessageBlock *>PyBytes_AS_STRING(block)
        need(URING_OP_SEND_ZC, "multishot recvmsg", "6.0")
        check_poll_first(ioprio)
        check_control(ancbufsize)
        if namelen > sizeof(sockaddr_storage):
            raise ValueError(f"namelen must be from 0 to {sizeof(sockaddr_storage)}")
        before = sizeof(uring_recvmsg_out) + namelen + ancbufsize
        if before > chosen.buffer_size:
            raise ValueError(f"buffers of {chosen.buffer_size} bytes have no room for the {before} "
                             "bytes before a message")
        cdef int fd = sqe.descriptor(file)
        # The kernel lays a buffer out by these two; no iovec is what marks it as ours to unpack.
        m.header.msg_namelen = namelen
        m.header.msg_controllen = ancbufsize
        sqe.begin(URING_OP_RECVMSG)
        sqe.keep_block(block)
        sqe.fill(fd, m, 1, 0)
        sqe.raw.op_flags = <uint32_t>flags
        sqe.keep_file(file)
        return choose_buffers(sqe, chosen, ioprio | URING_RECV_MULTISHOT).tag(user_data)

    def prep_recv_zc(self, file, unsigned int ifq, unsigned int length=0, *,
                     unsigned int ioprio=0, user_data=None):
        """Receive again and again without a copy, into the memory of a network card's queue that
        was registered as `ifq` (Linux 6.15).

        length  how many bytes in all; 0: without end
        ioprio  RecvSendFlags.POLL_FIRST

        The ring must be made with CQE32 or CQE_MIXED: the larger completions tell where the data
        lies.  res: bytes of one piece; without `more` 0, -EINVAL when there is no such queue, or
        another error.
        """
        cdef SQE sqe = self.place()
        check_poll_first(ioprio)
        need_large_completions(sqe.owner, "zero-copy receive")
        sqe.plain(URING_OP_RECV_ZC, file, 0, length, 0, 0)
        sqe.raw.ioprio = <uint16_t>(ioprio | URING_RECV_MULTISHOT)
        sqe.raw.zcrx_ifq_idx = ifq
        return sqe.tag(user_data)

    # ---- send -----------------------------------------------------------------------------

    def prep_send(self, file, buffer, int flags=0, *, unsigned int ioprio=0, user_data=None):
        """send(2) (Linux 5.6).

        buffer  bytes-like; a list or tuple of such is sent as one (6.17); None when buffer_select
                follows (6.10)
        flags   socket.MSG_*; MSG_NOSIGNAL is implied: a closed peer gives EPIPE and no signal.
                With MSG_WAITALL the kernel goes on until all is sent, and a short send breaks a
                link; without it a short send is a success
        ioprio  RecvSendFlags.POLL_FIRST: the socket is thought to be full (5.19)
        res     bytes sent

        Two sends in flight on one stream may mix: wait for the first, link them, or let them take
        provided buffers (prep_send_bundle).
        """
        cdef SQE sqe = self.place()
        check_poll_first(ioprio)
        if buffer is not None:
            return fill_send(
                sqe, URING_OP_SEND, file, buffer, flags, ioprio, None).tag(user_data)
        need_feature(sqe.owner, URING_FEAT_RECVSEND_BUNDLE, "sending provided buffers", "6.10")
        sqe.transfer(URING_OP_SEND, file, None, False, 0, <uint32_t>(flags | MSG_NOSIGNAL))
        sqe.raw.ioprio = <uint16_t>ioprio
        return sqe.tag(user_data)

    def prep_sendto(self, file, buffer, address, int flags=0, *, unsigned int ioprio=0,
                    user_data=None):
        """sendto(2): prep_send to `address`, for datagrams (Linux 6.1).  res: bytes sent."""
        need(URING_OP_SENDMSG_ZC, "sendto", "6.1")
        check_poll_first(ioprio)
        return fill_send(
            self.place(), URING_OP_SEND, file, buffer, flags, ioprio, address).tag(user_data)

    def prep_send_bundle(self, file, group, int flags=0, *, unsigned int ioprio=0, user_data=None):
        """Send the buffers of `group` in the order they were added, many at once, until there are
        none (Linux 6.10).

        res: bytes sent; buffer_id is the first buffer, and with the completion they are all yours
        again.  `more` while it goes on; -ENOBUFS when there was nothing to send.

        Make the group with register_buf_ring(..., provide=False), write into get(id), and add(id,
        length).  Sends that take buffers of one group do not mix.
        """
        cdef SQE sqe = self.place()
        cdef BufferRing chosen = sqe.owner.group_of(group)
        check_poll_first(ioprio)
        check_bundle(sqe.owner, URING_RECVSEND_BUNDLE, None)
        sqe.transfer(URING_OP_SEND, file, None, False, 0, <uint32_t>(flags | MSG_NOSIGNAL))
        return choose_buffers(sqe, chosen, ioprio | URING_RECVSEND_BUNDLE).tag(user_data)

    def prep_send_zc(self, file, buffer, int flags=0, unsigned int zc_flags=0, address=None, *,
                     user_data=None):
        """send(2) or sendto(2) without copying the data (Linux 6.0).

        buffer    bytes-like; a list or tuple of such is sent as one (6.17)
        zc_flags  RecvSendFlags.SEND_ZC_REPORT_USAGE: let the notification tell whether it had to
                  copy after all (6.2); POLL_FIRST
        address   where to, for datagrams

        Two completions: first res, the bytes sent or an error, with `more`; then, in any time, one
        whose `notification` is true.  Until then the buffer is held, and must not be changed: the
        network card may read it yet.  A send that was refused outright has only the first.  Over
        the loopback the kernel always copies.  -EOPNOTSUPP: not for this kind of socket; -ENOMEM:
        more memory in flight than RLIMIT_MEMLOCK allows.
        """
        check_bits(zc_flags, ZC_FLAGS, "RecvSendFlags.POLL_FIRST and SEND_ZC_REPORT_USAGE")
        return fill_send(
            self.place(), URING_OP_SEND_ZC, file, buffer, flags, zc_flags, address).tag(user_data)

    def prep_send_zc_fixed(self, file, buffer, int flags=0, unsigned int zc_flags=0,
                           buf_index=None, address=None, *, user_data=None):
        """prep_send_zc from memory that was registered, whose pages need not be looked up again
        (Linux 6.0).

        buffer     inside registered buffer `buf_index`, or ValueError.  A RegisteredBuffer, or a
                   memoryview of one, needs no buf_index
        """
        cdef SQE sqe = self.place()
        check_bits(zc_flags, ZC_FLAGS, "RecvSendFlags.POLL_FIRST and SEND_ZC_REPORT_USAGE")
        cdef int fd = sqe.descriptor(file)
        cdef socklen_t size = 0
        cdef bytes block = send_block(address, 0, &size)
        cdef Py_buffer view
        cdef RegisteredBuffer registered = export_fixed(
            sqe.owner, buffer, buf_index, &view, False)
        cdef uint16_t index = <uint16_t>registered.index
        sqe.begin_with(URING_OP_SEND_ZC, &view, NULL, 0)
        sqe.fill(fd, view.buf, clamped(view.len), 0)
        sqe.raw.buf_index = index
        return finish_send(sqe, file, flags, zc_flags | URING_RECVSEND_FIXED_BUF, block,
                           size).tag(user_data)

    def prep_sendmsg(self, file, buffers, ancdata=(), int flags=0, address=None, *,
                     unsigned int ioprio=0, user_data=None):
        """sendmsg(2) with socket.sendmsg's arguments (Linux 5.3); `flags` and `ioprio` as in
        prep_send.  res: bytes sent."""
        check_poll_first(ioprio)
        return fill_sendmsg(self.place(), URING_OP_SENDMSG, file, buffers, ancdata, flags, address,
                            ioprio, None).tag(user_data)

    def prep_sendmsg_zc(self, file, buffers, ancdata=(), int flags=0, address=None,
                        unsigned int zc_flags=0, *, user_data=None):
        """prep_sendmsg without copying the data (Linux 6.1).  Completes, and takes zc_flags, as
        prep_send_zc."""
        check_bits(zc_flags, ZC_FLAGS, "RecvSendFlags.POLL_FIRST and SEND_ZC_REPORT_USAGE")
        return fill_sendmsg(self.place(), URING_OP_SENDMSG_ZC, file, buffers, ancdata, flags,
                            address, zc_flags, None).tag(user_data)

    def prep_sendmsg_zc_fixed(self, file, buffers, ancdata=(), int flags=0, address=None,
                              unsigned int zc_flags=0, buf_index=None, *, user_data=None):
        """prep_sendmsg_zc from pieces of one registered buffer (Linux 6.15).

        buffers    all inside registered buffer `buf_index`, or ValueError; at least one.  Of
                   RegisteredBuffers, or memoryviews of one, buf_index need not be given
        """
        need(URING_OP_READV_FIXED, "sendmsg from a registered buffer", "6.15")
        check_bits(zc_flags, ZC_FLAGS, "RecvSendFlags.POLL_FIRST and SEND_ZC_REPORT_USAGE")
        return fill_sendmsg(self.place(), URING_OP_SENDMSG_ZC, file, buffers, ancdata, flags,
                            address, zc_flags | URING_RECVSEND_FIXED_BUF,
                            buf_index).tag(user_data)

    # ---- commands -------------------------------------------------------------------------

    def prep_cmd_sock(self, unsigned int cmd_op, file, int level=0, int optname=0, value=None, *,
                      user_data=None):
        """A command to a socket (Linux 6.7); the last three arguments are for options only.

        cmd_op  SocketOp: SIOCINQ, SIOCOUTQ: res is how many bytes wait to be read, to be sent.
                GETSOCKOPT: as socket.getsockopt, `value` being the length of a bytes result, None
                for an int; the completion's `option` has it (6.18 knows level SOL_SOCKET only,
                others give -EOPNOTSUPP).  SETSOCKOPT: as socket.setsockopt, `value` an int or
                bytes-like (copied); res is 0.  TX_TIMESTAMP: when sent data left, again and again
                until cancelled (6.17; on a ring made with CQE32 or CQE_MIXED), of a socket with
                SO_TIMESTAMPING; each completion's `timestamp` has one
        """
        need(URING_OP_READ_MULTISHOT, "a socket command", "6.7")
        cdef SQE sqe = self.place()
        cdef bytes block = None
        if cmd_op in (URING_SOCKET_GETSOCKOPT, URING_SOCKET_SETSOCKOPT):
            block = option_block(cmd_op, value)
        elif cmd_op == URING_SOCKET_GETSOCKNAME:
            raise ValueError("asking for an address is prep_cmd_getsockname")
        elif level or optname or value is not None:
            raise ValueError("level, optname and value are for GETSOCKOPT and SETSOCKOPT")
        if cmd_op == URING_SOCKET_TX_TIMESTAMP:
            need(URING_OP_PIPE, "TX_TIMESTAMP", "6.17")
            need_large_completions(sqe.owner, "TX_TIMESTAMP")
            block = command_block(cmd_op, 0, 0)
        return fill_command(sqe, URING_OP_URING_CMD, cmd_op, file, <uint32_t>level,
                            <uint32_t>optname, block).tag(user_data)

    def prep_cmd_getsockname(self, file, bint peer=False, *, user_data=None):
        """getsockname(2), or with `peer` getpeername(2) (Linux 6.19).

        res: 0; the completion's `address` is the answer.
        """
        need(URING_OP_NOP128, "asking for a socket's address", "6.19")
        cdef SQE sqe = self.place()
        cdef bytes block = command_block(URING_SOCKET_GETSOCKNAME, sizeof(sockaddr_storage), 0)
        cdef CommandBlock *memory = <CommandBlock *>PyBytes_AS_STRING(block)
        fill_command(sqe, URING_OP_URING_CMD, URING_SOCKET_GETSOCKNAME, file, 0, 0, block)
        sqe.raw.addr = <uint64_t><uintptr_t>(memory + 1)
        sqe.raw.addr3 = <uint64_t><uintptr_t>&memory.size
        sqe.raw.optlen = peer
        return sqe.tag(user_data)
