# What the running kernel can do: asked once per process, never guessed from its version.

# By opcode: IORING_OP_'s name, and the first Linux that has it.
OPERATIONS = (
    ("NOP", "5.1"), ("READV", "5.1"), ("WRITEV", "5.1"), ("FSYNC", "5.1"), ("READ_FIXED", "5.1"),
    ("WRITE_FIXED", "5.1"), ("POLL_ADD", "5.1"), ("POLL_REMOVE", "5.1"), ("SYNC_FILE_RANGE", "5.2"),
    ("SENDMSG", "5.3"), ("RECVMSG", "5.3"), ("TIMEOUT", "5.4"), ("TIMEOUT_REMOVE", "5.5"),
    ("ACCEPT", "5.5"), ("ASYNC_CANCEL", "5.5"), ("LINK_TIMEOUT", "5.5"), ("CONNECT", "5.5"),
    ("FALLOCATE", "5.6"), ("OPENAT", "5.6"), ("CLOSE", "5.6"), ("FILES_UPDATE", "5.6"),
    ("STATX", "5.6"), ("READ", "5.6"), ("WRITE", "5.6"), ("FADVISE", "5.6"), ("MADVISE", "5.6"),
    ("SEND", "5.6"), ("RECV", "5.6"), ("OPENAT2", "5.6"), ("EPOLL_CTL", "5.6"), ("SPLICE", "5.7"),
    ("PROVIDE_BUFFERS", "5.7"), ("REMOVE_BUFFERS", "5.7"), ("TEE", "5.8"), ("SHUTDOWN", "5.11"),
    ("RENAMEAT", "5.11"), ("UNLINKAT", "5.11"), ("MKDIRAT", "5.15"), ("SYMLINKAT", "5.15"),
    ("LINKAT", "5.15"), ("MSG_RING", "5.18"), ("FSETXATTR", "5.19"), ("SETXATTR", "5.19"),
    ("FGETXATTR", "5.19"), ("GETXATTR", "5.19"), ("SOCKET", "5.19"), ("URING_CMD", "5.19"),
    ("SEND_ZC", "6.0"), ("SENDMSG_ZC", "6.1"), ("READ_MULTISHOT", "6.7"), ("WAITID", "6.7"),
    ("FUTEX_WAIT", "6.7"), ("FUTEX_WAKE", "6.7"), ("FUTEX_WAITV", "6.7"),
    ("FIXED_FD_INSTALL", "6.8"), ("FTRUNCATE", "6.9"), ("BIND", "6.11"), ("LISTEN", "6.11"),
    ("RECV_ZC", "6.15"), ("EPOLL_WAIT", "6.15"), ("READV_FIXED", "6.15"), ("WRITEV_FIXED", "6.15"),
    ("PIPE", "6.16"),
)

# By io_uring_register's opcode, the same.
REGISTRATIONS = (
    ("REGISTER_BUFFERS", "5.1"), ("UNREGISTER_BUFFERS", "5.1"), ("REGISTER_FILES", "5.1"),
    ("UNREGISTER_FILES", "5.1"), ("REGISTER_EVENTFD", "5.2"), ("UNREGISTER_EVENTFD", "5.2"),
    ("REGISTER_FILES_UPDATE", "5.5"), ("REGISTER_EVENTFD_ASYNC", "5.6"), ("REGISTER_PROBE", "5.6"),
    ("REGISTER_PERSONALITY", "5.6"), ("UNREGISTER_PERSONALITY", "5.6"),
    ("REGISTER_RESTRICTIONS", "5.10"), ("REGISTER_ENABLE_RINGS", "5.10"),
    ("REGISTER_FILES2", "5.13"), ("REGISTER_FILES_UPDATE2", "5.13"), ("REGISTER_BUFFERS2", "5.13"),
    ("REGISTER_BUFFERS_UPDATE", "5.13"), ("REGISTER_IOWQ_AFF", "5.14"),
    ("UNREGISTER_IOWQ_AFF", "5.14"), ("REGISTER_IOWQ_MAX_WORKERS", "5.15"),
    ("REGISTER_RING_FDS", "5.18"), ("UNREGISTER_RING_FDS", "5.18"), ("REGISTER_PBUF_RING", "5.19"),
    ("UNREGISTER_PBUF_RING", "5.19"), ("REGISTER_SYNC_CANCEL", "6.0"),
    ("REGISTER_FILE_ALLOC_RANGE", "6.0"), ("REGISTER_PBUF_STATUS", "6.8"), ("REGISTER_NAPI", "6.9"),
    ("UNREGISTER_NAPI", "6.9"), ("REGISTER_CLOCK", "6.12"), ("REGISTER_CLONE_BUFFERS", "6.12"),
    ("REGISTER_SEND_MSG_RING", "6.13"), ("REGISTER_ZCRX_IFQ", "6.15"),
    ("REGISTER_RESIZE_RINGS", "6.13"), ("REGISTER_MEM_REGION", "6.13"), ("REGISTER_QUERY", "6.18"),
)

cdef uint8_t kernel_has[256]
cdef bint kernel_was_asked = False


# Before 5.6 there is no probe; 5.5 had the operations up to CONNECT.
cdef int ask_kernel(ring *r) except -1:
    global kernel_was_asked
    cdef uring_probe probe
    cdef int i
    cdef bint told
    memset(&probe, 0, sizeof(probe))
    told = ring_register(r, URING_REGISTER_PROBE, &probe, 256) == 0
    for i in range(256):
        kernel_has[i] = probe.ops[i].flags & URING_PROBE_SUPPORTED if told else (
            i <= URING_OP_CONNECT)
    kernel_was_asked = True
    return 0


cdef void fill_query(uring_query_hdr *header, uring_query_opcodes *answer) noexcept:
    memset(answer, 0, sizeof(uring_query_opcodes))
    memset(header, 0, sizeof(uring_query_hdr))
    header.query_op = URING_QUERY_OPCODES
    header.query_data = <uint64_t><uintptr_t>answer
    header.size = sizeof(uring_query_opcodes)


# Ask the kernel what it has, without a ring (Linux 6.18).  0 or -errno.
cdef int query_kernel(uring_query_opcodes *answer) noexcept:
    cdef uring_query_hdr header
    cdef int result
    fill_query(&header, answer)
    result = ring_sys_register(-1, URING_REGISTER_QUERY, &header, 0)
    return header.result if result == 0 else result


cdef tuple version(str text):
    return tuple([int(part) for part in text.split(".")])


# Whether the running kernel lacks a registration, so that EINVAL means that and nothing else.  One
# that does not answer a query is older than 6.18, and than what came with any operation it lacks.
cdef bint lacks_registration(uint32_t opcode) except -1:
    cdef uring_query_opcodes answer
    if query_kernel(&answer) == 0:
        return opcode >= answer.nr_register_opcodes
    known = version(REGISTRATIONS[opcode][1])
    if known >= (6, 18):
        return True
    for i, (_, since) in enumerate(OPERATIONS):
        if not kernel_has[i] and version(since) <= known:
            return True
    return False


cdef object lacking(str what, str since):
    return NotSupported(EOPNOTSUPP, f"{what} needs Linux {since}; this kernel "
                        f"({os.uname().release}) does not have it")


cdef int refuse_opcode(uint8_t opcode) except -1:
    if not kernel_was_asked:
        raise RuntimeError("no ring has been set up in this process")
    name, since = OPERATIONS[opcode]
    raise lacking("IORING_OP_" + name, since)


# For a variant that has no probe of its own: `witness` is an opcode that came in the same Linux, or
# the last before it, so that nothing is refused that might work.
cdef inline int need(uint8_t witness, str what, str since) except -1:
    if not kernel_has[witness]:
        raise lacking(what, since)
    return 0


# For a variant that came in the same Linux as a feature.
cdef inline int need_feature(Ring ring, uint32_t feature, str what, str since) except -1:
    if not ring.r.features & feature:
        raise lacking(what, since)
    return 0


def _hide_features(Ring ring, uint32_t features):
    """For tests: let these features seem missing for a ring."""
    ring.r.features &= ~features


def _hide_operations(opcodes):
    """For tests: let these opcodes seem missing.  Returns those that were there."""
    found = [opcode for opcode in opcodes if kernel_has[<uint8_t>opcode]]
    for opcode in found:
        kernel_has[<uint8_t>opcode] = 0
    return found


def _show_operations(opcodes):
    """For tests: undo _hide_operations."""
    for opcode in opcodes:
        kernel_has[<uint8_t>opcode] = 1


@cython.final
cdef class Probe:
    """Which operations the running kernel has (IORING_REGISTER_PROBE, Linux 5.6)."""
    cdef uring_probe raw

    @property
    def last_op(self):
        """The highest opcode that this kernel knows."""
        return self.raw.last_op

    def opcode_supported(self, int opcode):
        """Whether the kernel can do this operation (Op)."""
        if not 0 <= opcode < self.raw.ops_len:
            return False
        return (self.raw.ops[opcode].flags & URING_PROBE_SUPPORTED) != 0

    def __repr__(self):
        return f"Probe(last_op={self.last_op})"


class Query(NamedTuple):
    """What Linux 6.18 and later tell of their io_uring (query(), Ring.register_query()).

    request_opcodes   how many operations there are: 0 to this, without it
    register_opcodes  how many registrations
    features          Features
    setup_flags       SetupFlags that are known
    enter_flags       EnterFlags
    sqe_flags         SqeFlags
    query_opcodes     how many questions can be asked
    """
    request_opcodes: int
    register_opcodes: int
    features: int
    setup_flags: int
    enter_flags: int
    sqe_flags: int
    query_opcodes: int


cdef object query_of(uring_query_opcodes *answer):
    return Query(answer.nr_request_opcodes, answer.nr_register_opcodes, answer.feature_flags,
                 answer.ring_setup_flags, answer.enter_flags, answer.sqe_flags,
                 answer.nr_query_opcodes)


def query():
    """Ask the kernel what its io_uring has, without a ring (Linux 6.18): a Query.

    NotSupported before; get_probe() and Ring.features tell most of it.
    """
    cdef uring_query_opcodes answer
    cdef int result = query_kernel(&answer)
    if result == -EINVAL or result == -EBADF:
        raise lacking("io_uring's query", "6.18")
    if result < 0:
        raise register_error(-result, URING_REGISTER_QUERY)
    return query_of(&answer)
