# What an operation came to: CQE, and the Python values behind its out-parameters.

cdef struct AcceptBlock:
    socklen_t size
    sockaddr_storage address


cdef struct StatBlock:
    statx_buf stat
    # the path follows


cdef struct OpenBlock:
    uint64_t flags, mode, resolve   # struct open_how
    # the path follows


cdef struct XattrBlock:
    uint64_t size, value            # how much room there is for the value, and where
    # the path and the attribute's name follow, then the value


cdef struct FilesBlock:
    uint32_t first, padding         # the first slot, or FILE_INDEX_ALLOC
    # the descriptors follow; with ALLOC the kernel puts the slots in their place


cdef struct MessageBlock:
    msghdr header
    sockaddr_storage name
    # the iovecs follow, then the control data


# Of a socket command; the value or the address follows.
cdef struct CommandBlock:
    uint32_t command
    socklen_t size           # of what follows; the kernel updates an address's
    uint32_t asked           # how many bytes of an option the caller wants; 0: an int
    uint32_t pad


cdef list control_of(msghdr *header):
    cdef cmsghdr *c = CMSG_FIRSTHDR(header)
    cdef Py_ssize_t n, left
    cdef char *end = <char *>header.msg_control + header.msg_controllen
    cdef list control = []
    while c != NULL:
        n = c.cmsg_len - CMSG_LEN(0)
        # MSG_CTRUNC can leave a length that goes beyond what was copied.
        left = end - <char *>CMSG_DATA(c)
        if n < 0 or left < 0:
            break
        control.append((c.cmsg_level, c.cmsg_type, (<char *>CMSG_DATA(c))[:min(n, left)]))
        c = CMSG_NXTHDR(header, c)
    return control


cdef object message_of(bytes block, int32_t res):
    cdef MessageBlock *m = <MessageBlock *>PyBytes_AS_STRING(block)
    address = get_address(&m.name, min(m.header.msg_namelen, sizeof(sockaddr_storage)))
    return Message(res, control_of(&m.header), m.header.msg_flags, address)


# Whether a recvmsg is multishot, and the caller's message lies in a provided buffer.
cdef inline bint is_multishot(bytes block) noexcept:
    return (<MessageBlock *>PyBytes_AS_STRING(block)).header.msg_iov == NULL


# Close the descriptors in the control data of a message that nobody will see.
cdef void close_received(Operation *op, uring_cqe *raw) noexcept:
    cdef msghdr *header = &(<MessageBlock *>PyBytes_AS_STRING(<bytes>op.block)).header
    cdef uring_recvmsg_out out
    cdef char *memory
    if not is_multishot(<bytes>op.block):
        close_passed(<char *>header.msg_control, header.msg_controllen)
    elif op.group != NULL and raw.flags & URING_CQE_F_BUFFER:
        memory = (<BufferRing>op.group).written(raw.res, raw.flags)
        if memory != NULL:
            memcpy(&out, memory, sizeof(out))
            close_passed(memory + sizeof(out) + header.msg_namelen,
                         min(out.controllen, header.msg_controllen))


cdef void close_passed(const char *control, size_t size) noexcept:
    cdef cmsghdr c
    cdef size_t at, step
    cdef int fd
    while size >= CMSG_LEN(0):
        memcpy(&c, control, sizeof(c))
        at = CMSG_LEN(0)
        step = CMSG_SPACE(c.cmsg_len - at)
        if c.cmsg_len < at or c.cmsg_len > size:
            return
        while c.cmsg_level == SOL_SOCKET and c.cmsg_type == SCM_RIGHTS and (
                at + sizeof(fd) <= c.cmsg_len):
            memcpy(&fd, control + at, sizeof(fd))
            c_close(fd)
            at += sizeof(fd)
        if step > size:
            return
        control += step
        size -= step


# What multishot recvmsg wrote to a buffer: header, name, control data, payload.  The buffer is
# memory that others may write to, so no length in it is believed.
cdef object unpack_message(CQE cqe, object view, const char *memory, size_t size):
    cdef uring_recvmsg_out out
    cdef sockaddr_storage name
    cdef msghdr header
    cdef msghdr *asked
    cdef bytes control
    cdef size_t start
    if cqe.block is None or cqe.opcode != URING_OP_RECVMSG or not is_multishot(cqe.block):
        raise ValueError("this completion is not one of prep_recvmsg_multishot")
    asked = &(<MessageBlock *>PyBytes_AS_STRING(cqe.block)).header
    start = sizeof(out) + asked.msg_namelen + asked.msg_controllen
    if size < start:
        raise ValueError(f"{size} bytes cannot begin with a message's header")
    memcpy(&out, memory, sizeof(out))
    memory += sizeof(out)
    memset(&name, 0, sizeof(name))
    memcpy(&name, memory, min(out.namelen, asked.msg_namelen))
    address = get_address(&name, out.namelen if out.namelen <= asked.msg_namelen else 0)
    memory += asked.msg_namelen
    control = memory[:min(out.controllen, asked.msg_controllen)]  # aligned, which the buffer is not
    memset(&header, 0, sizeof(header))
    header.msg_control = PyBytes_AS_STRING(control)
    header.msg_controllen = len(control)
    data = view[start:start + min(out.payloadlen, size - start)]
    return ReceivedMessage(data, control_of(&header), <int>out.flags, address)


class TxTimestamp(NamedTuple):
    """When sent data left (prep_cmd_sock with TX_TIMESTAMP).

    time_ns   nanoseconds: since the epoch, or by the clock of the network card
    kind      0 given to the network card, 1 entered the packet scheduler, 2 acknowledged (TCP)
    key       of a stream the number of the last byte; of datagrams the datagram's
    hardware  whether the network card took it
    """
    time_ns: int
    kind: int
    key: int
    hardware: bool


class ReceivedMessage(NamedTuple):
    """What multishot recvmsg received, in the order that socket.recvmsg returns it."""
    data: object
    ancdata: list
    msg_flags: int
    address: object


class Message(NamedTuple):
    """What recvmsg received, in the order that socket.recvmsg_into returns it."""
    nbytes: int
    ancdata: list
    msg_flags: int
    address: object


@cython.final
@cython.freelist(512)
cdef class CQE:
    """One completion: a copy, independent of the ring.

    user_data   the object given when the operation was prepared.  For a message from another
                ring (prep_msg_ring): the int that was sent.
    is_tag      whether this is no operation's, but says that a registered file or buffer is free:
                user_data is the tag it was registered with
    res         the result; below 0 it is -errno (unless `ok`: a notification, a timestamp)
    flags       CqeFlags bits, the buffer id in the upper half
    opcode      of the operation (Op); Op.NOP for a message
    """
    # Both are read as members of the object itself, which the interpreter does without a call.
    cdef object given, result
    cdef bytes block
    cdef int32_t code                # result, in C
    cdef readonly uint32_t flags
    cdef readonly uint8_t opcode
    cdef readonly bint is_tag
    cdef bint peeked, is_big
    cdef uint32_t buffer_start       # where its data begins in its (first) buffer
    cdef uint64_t position           # of a peeked one
    cdef uint64_t big[2]

    cdef void enlarge(self, const uint64_t *big) noexcept:
        self.is_big = True
        self.big[0] = big[0]
        self.big[1] = big[1]

    @property
    def big_cqe(self):
        """The second half of a completion of 32 bytes, as two ints; None for one of 16.

        All are of 32 bytes on a ring made with CQE32 (Linux 5.19), those of operations that ask
        for it on one made with CQE_MIXED (6.18).
        """
        return (self.big[0], self.big[1]) if self.is_big else None

    @property
    def ok(self):
        """Whether the operation succeeded.  A notification and a timestamp are no failure, whatever
        their res."""
        return (self.code >= 0 or (self.flags & URING_CQE_F_NOTIF) != 0
                or self.timestamp is not None)

    @property
    def more(self):
        """Whether this operation will give further completions (multishot)."""
        return (self.flags & URING_CQE_F_MORE) != 0

    @property
    def sock_nonempty(self):
        """Whether the socket had more data or connections waiting."""
        return (self.flags & URING_CQE_F_SOCK_NONEMPTY) != 0

    @property
    def notification(self):
        """Whether this is the notice that a zero-copy send has let go of its buffer."""
        return (self.flags & URING_CQE_F_NOTIF) != 0

    @property
    def copied(self):
        """Of a notification: whether the zero-copy send had to copy after all.  Told only to those
        that asked with SEND_ZC_REPORT_USAGE.  Of any other completion: None."""
        if self.flags & URING_CQE_F_NOTIF:
            return (<uint32_t>self.code & URING_NOTIF_USAGE_ZC_COPIED) != 0
        return None

    @property
    def buffer_more(self):
        """Whether more of the same provided buffer will be used (incremental rings)."""
        return (self.flags & URING_CQE_F_BUF_MORE) != 0

    @property
    def buffer_id(self):
        """Which provided buffer was used (a bundle: the first), or None."""
        if self.flags & URING_CQE_F_BUFFER:
            return self.flags >> URING_CQE_BUFFER_SHIFT
        return None

    def raise_for_error(self):
        """Return res, or raise the OSError that it stands for, with its path or its two paths."""
        if self.ok:
            return self.code
        # Interrupted splices and opens let slip what the kernel says to itself: restart this call.
        err = EINTR if 512 <= -self.code <= 516 else -self.code
        raise OSError(err, os.strerror(err), *self.paths())

    # What OSError wants behind the message: nothing, a path, or two (what is None is for Windows).
    cdef tuple paths(self):
        cdef char *memory
        cdef size_t before = 0
        if self.block is None:
            return ()
        if self.opcode == URING_OP_STATX:
            before = sizeof(StatBlock)
        elif self.opcode == URING_OP_OPENAT2:
            before = sizeof(OpenBlock)
        elif self.opcode == URING_OP_GETXATTR:
            before = sizeof(XattrBlock)
        elif self.opcode not in (URING_OP_OPENAT, URING_OP_UNLINKAT, URING_OP_MKDIRAT,
                                 URING_OP_RENAMEAT, URING_OP_SYMLINKAT, URING_OP_LINKAT,
                                 URING_OP_SETXATTR):
            return ()
        memory = PyBytes_AS_STRING(self.block) + before
        first = <bytes>memory
        if self.opcode not in (URING_OP_RENAMEAT, URING_OP_SYMLINKAT, URING_OP_LINKAT):
            return (os.fsdecode(first),)
        return os.fsdecode(first), None, os.fsdecode(<bytes>(memory + len(first) + 1))

    @property
    def address(self):
        """The peer's address after an accept or a recvmsg, a socket's after prep_cmd_getsockname,
        as the socket module gives it; else None."""
        cdef AcceptBlock *a
        cdef CommandBlock *c
        if self.code < 0 or self.block is None:
            return None
        if self.opcode == URING_OP_ACCEPT:
            a = <AcceptBlock *>PyBytes_AS_STRING(self.block)
            return get_address(&a.address, min(a.size, sizeof(sockaddr_storage)))
        if self.opcode == URING_OP_RECVMSG and not is_multishot(self.block):
            return message_of(self.block, self.code).address
        if self.opcode == URING_OP_URING_CMD:
            c = <CommandBlock *>PyBytes_AS_STRING(self.block)
            if c.command == URING_SOCKET_GETSOCKNAME:
                return get_address(
                    <sockaddr_storage *>(c + 1), min(c.size, sizeof(sockaddr_storage)))
        return None

    @property
    def option(self):
        """After prep_cmd_sock with GETSOCKOPT: the value, an int or bytes as asked for; else
        None."""
        cdef CommandBlock *c
        if self.code < 0 or self.block is None or self.opcode != URING_OP_URING_CMD:
            return None
        c = <CommandBlock *>PyBytes_AS_STRING(self.block)
        if c.command != URING_SOCKET_GETSOCKOPT:
            return None
        if c.asked == 0:
            return (<int *>(c + 1))[0]
        return (<char *>(c + 1))[:min(<uint32_t>self.code, c.asked)]

    @property
    def message(self):
        """After a recvmsg: Message(nbytes, ancdata, msg_flags, address); else None.  For those of
        prep_recvmsg_multishot see BufferRing.take_message."""
        if self.code < 0 or self.block is None or self.opcode != URING_OP_RECVMSG:
            return None
        if is_multishot(self.block):
            return None
        return message_of(self.block, self.code)

    @property
    def timestamp(self):
        """After prep_cmd_sock with TX_TIMESTAMP: a TxTimestamp; else None."""
        if self.opcode != URING_OP_URING_CMD or self.block is None or not self.is_big or (
                not self.flags & URING_CQE_F_MORE):
            return None
        if (<CommandBlock *>PyBytes_AS_STRING(self.block)).command != URING_SOCKET_TX_TIMESTAMP:
            return None
        return TxTimestamp(self.big[0] * 1_000_000_000 + self.big[1],
                           self.flags >> URING_TIMESTAMP_TYPE_SHIFT, <uint32_t>self.code,
                           (self.flags & URING_CQE_F_TSTAMP_HW) != 0)

    @property
    def stat(self):
        """After a statx: a StatResult; else None."""
        if self.code < 0 or self.block is None or self.opcode != URING_OP_STATX:
            return None
        return new_stat_result(&(<StatBlock *>PyBytes_AS_STRING(self.block)).stat)

    @property
    def child(self):
        """After a waitid: an os.waitid_result, or None when no child had changed (WNOHANG)."""
        cdef siginfo_t *info
        if self.code < 0 or self.block is None or self.opcode != URING_OP_WAITID:
            return None
        info = <siginfo_t *>PyBytes_AS_STRING(self.block)
        if info.si_pid == 0:
            return None
        return os.waitid_result(
            (info.si_pid, info.si_uid, info.si_signo, info.si_status, info.si_code))

    @property
    def events(self):
        """After an epoll_wait: a list of (data, events); else None."""
        cdef epoll_event *found
        cdef int32_t i
        if self.code < 0 or self.block is None or self.opcode != URING_OP_EPOLL_WAIT:
            return None
        found = <epoll_event *>PyBytes_AS_STRING(self.block)
        return [(found[i].data.u64, found[i].events) for i in range(self.code)]

    @property
    def xattr(self):
        """After a getxattr or fgetxattr: the value as bytes; None if its length alone was asked."""
        cdef XattrBlock *header
        if self.code < 0 or self.block is None or self.opcode not in (
                URING_OP_GETXATTR, URING_OP_FGETXATTR):
            return None
        header = <XattrBlock *>PyBytes_AS_STRING(self.block)
        if header.size == 0:
            return None
        return (<char *>header)[header.value:header.value + min(header.size, <uint64_t>self.code)]

    @property
    def pipe(self):
        """After a pipe: (read end, write end), descriptors or slots; else None."""
        if self.code < 0 or self.block is None or self.opcode != URING_OP_PIPE:
            return None
        cdef int *ends = <int *>PyBytes_AS_STRING(self.block)
        return ends[0], ends[1]

    @property
    def slots(self):
        """After a files_update: the slots of the file table that were set, in order; else None."""
        cdef FilesBlock *header
        cdef int *chosen
        if self.code < 0 or self.block is None or self.opcode != URING_OP_FILES_UPDATE:
            return None
        header = <FilesBlock *>PyBytes_AS_STRING(self.block)
        if header.first != URING_FILE_INDEX_ALLOC:
            return list(range(header.first, header.first + self.code))
        chosen = <int *>(header + 1)
        return [chosen[i] for i in range(self.code)]

    def __repr__(self):
        return f"CQE(user_data={self.given!r}, res={self.code}, flags={self.flags:#x})"


# Cython does not tell where a field lies, but what was put there can be found.
cdef Py_ssize_t offset_of(object value, CQE cqe) except -1:
    cdef PyObject **word = <PyObject **><void *>cqe
    while word[0] != <PyObject *>value:
        word += 1
    return <char *>word - <char *><void *>cqe


cdef int add_cqe_members() except -1:
    cdef CQE cqe = CQE.__new__(CQE)
    cqe.given, cqe.result = object(), object()
    fe_add_member(<PyTypeObject *>CQE, &fe_user_data, offset_of(cqe.given, cqe))
    fe_add_member(<PyTypeObject *>CQE, &fe_res, offset_of(cqe.result, cqe))
    return 0
