# Operations on sockets.


cdef class SocketOperations(FileOperations):
    """Preparing operations on sockets."""

    def prep_accept(self, file, int flags=0, *, user_data=None):
        """accept4(2); `flags` are SOCK_CLOEXEC and SOCK_NONBLOCK (Linux 5.5).

        res: the new descriptor; the completion's `address` is the peer's.
        """
        cdef SQE sqe = self.place()
        cdef int fd = sqe.descriptor(file)
        cdef bytes block = zeroed(sizeof(AcceptBlock))
        cdef AcceptBlock *memory = <AcceptBlock *>PyBytes_AS_STRING(block)
        sqe.begin(URING_OP_ACCEPT)
        sqe.keep_block(block)
        memory.size = sizeof(sockaddr_storage)
        sqe.fill(fd, &memory.address, 0, <uint64_t><uintptr_t>&memory.size)
        sqe.raw.op_flags = <uint32_t>flags
        sqe.keep_file(file)
        return sqe.tag(user_data)

    def prep_multishot_accept(self, file, int flags=0, *, user_data=None):
        """Accept again and again: a completion per connection, `more` while it goes on (5.19).

        Ask the socket for its peer's address: one shared buffer could not hold them all.
        """
        cdef SQE sqe = self.place()
        cdef int fd = sqe.descriptor(file)
        sqe.begin(URING_OP_ACCEPT)
        sqe.fill(fd, NULL, 0, 0)
        sqe.raw.op_flags = <uint32_t>flags
        sqe.raw.ioprio = URING_ACCEPT_MULTISHOT
        sqe.keep_file(file)
        return sqe.tag(user_data)

    def prep_connect(self, file, address, *, user_data=None):
        """connect(2) to a numeric address in the socket module's form (Linux 5.5).  res: 0."""
        cdef SQE sqe = self.place()
        cdef int fd = sqe.descriptor(file)
        cdef bytes block = zeroed(sizeof(sockaddr_storage))
        cdef socklen_t size = 0
        put_address(address, <sockaddr_storage *>PyBytes_AS_STRING(block), &size)
        sqe.begin(URING_OP_CONNECT)
        sqe.keep_block(block)
        sqe.fill(fd, PyBytes_AS_STRING(block), 0, size)
        sqe.keep_file(file)
        return sqe.tag(user_data)

    def prep_recv(self, file, buffer, int flags=0, *, user_data=None):
        """recv(2) into `buffer`; None when buffer_select follows (Linux 5.6).  res: bytes, 0 at
        the end of the stream."""
        return self.place().transfer(
            URING_OP_RECV, file, buffer, True, 0, <uint32_t>flags).tag(user_data)

    def prep_recv_multishot(self, file, group, int flags=0, *, user_data=None):
        """Receive again and again into the buffers of `group` (a BufferRing or its id; 6.0).

        Each completion names its buffer (buffer_id).  It ends without `more`: at the end of the
        stream (res 0), on an error, and with ENOBUFS when the group has run dry.
        """
        cdef SQE sqe = self.place()
        cdef BufferRing chosen = sqe.owner.group_of(group)
        sqe.transfer(URING_OP_RECV, file, None, True, 0, <uint32_t>flags)
        sqe.raw.ioprio = URING_RECV_MULTISHOT
        sqe.raw.flags |= URING_SQE_BUFFER_SELECT
        sqe.join(chosen)
        return sqe.tag(user_data)

    def prep_send(self, file, buffer, int flags=0, *, user_data=None):
        """send(2) (Linux 5.6).  res: bytes sent; with MSG_WAITALL the kernel sends them all.

        A closed peer gives EPIPE and no SIGPIPE.
        """
        return self.place().transfer(
            URING_OP_SEND, file, buffer, False, 0, <uint32_t>(flags | MSG_NOSIGNAL)).tag(user_data)

    def prep_sendmsg(self, file, buffers, ancdata=(), int flags=0, address=None, *, user_data=None):
        """sendmsg(2) with socket.sendmsg's arguments (Linux 5.3).  res: bytes sent."""
        cdef SQE sqe = self.place()
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
        if address is not None:
            put_address(address, &m.name, &size)
        m.header.msg_namelen = size
        if size == 0:
            m.header.msg_name = NULL
        put_control(m, control)
        sqe.begin_with(URING_OP_SENDMSG, NULL, export_all(sources, m.header.msg_iov, False),
                       <uint32_t>len(sources))
        sqe.keep_block(block)
        sqe.fill(fd, m, 1, 0)
        sqe.raw.op_flags = <uint32_t>(flags | MSG_NOSIGNAL)
        sqe.keep_file(file)
        return sqe.tag(user_data)

    def prep_recvmsg(self, file, buffers, Py_ssize_t ancbufsize=0, int flags=0, *, user_data=None):
        """recvmsg(2) with socket.recvmsg_into's arguments (Linux 5.3).

        The completion's `message` has the ancillary data, the flags and the address.
        """
        cdef SQE sqe = self.place()
        cdef int fd = sqe.descriptor(file)
        cdef list sources = list(buffers)
        if not 0 <= ancbufsize <= MAX_CONTROL:
            raise ValueError("invalid ancillary data buffer length")
        cdef bytes block = message_block(len(sources), ancbufsize)
        cdef MessageBlock *m = <MessageBlock *>PyBytes_AS_STRING(block)
        sqe.begin_with(URING_OP_RECVMSG, NULL, export_all(sources, m.header.msg_iov, True),
                       <uint32_t>len(sources))
        sqe.keep_block(block)
        sqe.fill(fd, m, 1, 0)
        sqe.raw.op_flags = <uint32_t>flags
        sqe.keep_file(file)
        return sqe.tag(user_data)
