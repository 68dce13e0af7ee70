"""io_uring for Python, with or without Ferrule's fibers.

A ``Ring`` is a pair of queues shared with the kernel.  Operations are queued with the ``prep_``
methods (liburing's names), handed over together by ``submit``, and come back as ``CQE`` objects::

    with Ring(64) as ring, open("/etc/hostname", "rb") as file:
        data = bytearray(4096)
        ring.prep_read(file, data, 0, user_data="the name")
        ring.submit_and_wait(1)
        cqe = ring.copy_cqe()
        print(cqe.user_data, bytes(data[:cqe.raise_for_error()]))

Whatever the kernel may touch (buffers, paths, addresses, file objects) is held by the operation
until its last completion; a bytearray in flight cannot be resized.  ``user_data`` may be any
object.  Errors of an operation are in its CQE (``res`` below 0, ``raise_for_error``); errors of
the ring itself are exceptions.  Nothing here switches fibers or is a cancellation point: it is
the layer below that.  See docs/ring.md.
"""

from enum import IntEnum, IntFlag

try:
    from ferrule._core.ring import (
        CQE,
        SQE,
        BatchQueue,
        BufferPool,
        BufferPoolEmpty,
        BufferRing,
        CompletionQueue,
        FileTable,
        Message,
        NapiSettings,
        NotSupported,
        Params,
        PooledBuffer,
        Probe,
        Query,
        ReceivedMessage,
        RegisteredBuffer,
        Ring,
        RingStatistics,
        SubmissionQueue,
        SubmissionQueueFull,
        TxTimestamp,
        WaitRegion,
        leaked_operations,
        query,
        send_msg_ring,
    )
except ModuleNotFoundError:  # not built there
    raise ImportError("ferrule.ring is io_uring, which only Linux has") from None
from ferrule._core.stat_result import StatResult

__all__ = [
    "AT_FDCWD",
    "FILE_INDEX_ALLOC",
    "REGISTER_FILES_SKIP",
    "AcceptFlags",
    "AtFlags",
    "BatchQueue",
    "BufferPool",
    "BufferPoolEmpty",
    "BufferRing",
    "BufferRingFlags",
    "CQE",
    "CancelFlags",
    "CloneFlags",
    "CompletionQueue",
    "CqeFlags",
    "EnterFlags",
    "FallocateFlags",
    "Features",
    "FileTable",
    "FixedFdFlags",
    "FsyncFlags",
    "Message",
    "MsgRingFlags",
    "NapiSettings",
    "NapiTracking",
    "NopFlags",
    "NotSupported",
    "Op",
    "Params",
    "PollFlags",
    "PooledBuffer",
    "Probe",
    "Query",
    "ReceivedMessage",
    "RecvSendFlags",
    "RegisterOp",
    "RegisteredBuffer",
    "RenameFlags",
    "ResolveFlags",
    "Ring",
    "RingStatistics",
    "SQE",
    "SetupFlags",
    "SocketOp",
    "SpliceFlags",
    "SqFlags",
    "SqeFlags",
    "StatResult",
    "SubmissionQueue",
    "SubmissionQueueFull",
    "SyncFileRangeFlags",
    "TimeoutFlags",
    "TxTimestamp",
    "WaitRegion",
    "get_probe",
    "leaked_operations",
    "query",
    "send_msg_ring",
]

AT_FDCWD = -100
FILE_INDEX_ALLOC = 0xFFFFFFFF
REGISTER_FILES_SKIP = -2


class Op(IntEnum):
    """Opcodes of Linux 6.18.  What the running kernel has is told by a Probe."""

    NOP = 0
    READV = 1
    WRITEV = 2
    FSYNC = 3
    READ_FIXED = 4
    WRITE_FIXED = 5
    POLL_ADD = 6
    POLL_REMOVE = 7
    SYNC_FILE_RANGE = 8
    SENDMSG = 9
    RECVMSG = 10
    TIMEOUT = 11
    TIMEOUT_REMOVE = 12
    ACCEPT = 13
    ASYNC_CANCEL = 14
    LINK_TIMEOUT = 15
    CONNECT = 16
    FALLOCATE = 17
    OPENAT = 18
    CLOSE = 19
    FILES_UPDATE = 20
    STATX = 21
    READ = 22
    WRITE = 23
    FADVISE = 24
    MADVISE = 25
    SEND = 26
    RECV = 27
    OPENAT2 = 28
    EPOLL_CTL = 29
    SPLICE = 30
    PROVIDE_BUFFERS = 31
    REMOVE_BUFFERS = 32
    TEE = 33
    SHUTDOWN = 34
    RENAMEAT = 35
    UNLINKAT = 36
    MKDIRAT = 37
    SYMLINKAT = 38
    LINKAT = 39
    MSG_RING = 40
    FSETXATTR = 41
    SETXATTR = 42
    FGETXATTR = 43
    GETXATTR = 44
    SOCKET = 45
    URING_CMD = 46
    SEND_ZC = 47
    SENDMSG_ZC = 48
    READ_MULTISHOT = 49
    WAITID = 50
    FUTEX_WAIT = 51
    FUTEX_WAKE = 52
    FUTEX_WAITV = 53
    FIXED_FD_INSTALL = 54
    FTRUNCATE = 55
    BIND = 56
    LISTEN = 57
    RECV_ZC = 58
    EPOLL_WAIT = 59
    READV_FIXED = 60
    WRITEV_FIXED = 61
    PIPE = 62


class RegisterOp(IntEnum):
    """Registrations of Linux 6.18 (Ring.register_restrictions)."""

    BUFFERS = 0
    UNREGISTER_BUFFERS = 1
    FILES = 2
    UNREGISTER_FILES = 3
    EVENTFD = 4
    UNREGISTER_EVENTFD = 5
    FILES_UPDATE = 6
    EVENTFD_ASYNC = 7
    PROBE = 8
    PERSONALITY = 9
    UNREGISTER_PERSONALITY = 10
    RESTRICTIONS = 11
    ENABLE_RINGS = 12
    FILES2 = 13
    FILES_UPDATE2 = 14
    BUFFERS2 = 15
    BUFFERS_UPDATE = 16
    IOWQ_AFF = 17
    UNREGISTER_IOWQ_AFF = 18
    IOWQ_MAX_WORKERS = 19
    RING_FDS = 20
    UNREGISTER_RING_FDS = 21
    PBUF_RING = 22
    UNREGISTER_PBUF_RING = 23
    SYNC_CANCEL = 24
    FILE_ALLOC_RANGE = 25
    PBUF_STATUS = 26
    NAPI = 27
    UNREGISTER_NAPI = 28
    CLOCK = 29
    CLONE_BUFFERS = 30
    SEND_MSG_RING = 31
    ZCRX_IFQ = 32
    RESIZE_RINGS = 33
    MEM_REGION = 34
    QUERY = 35


class NapiTracking(IntEnum):
    """Which queues of network cards a ring polls (Ring.register_napi)."""

    DYNAMIC = 0  # those that its sockets got packets from
    STATIC = 1  # those of register_napi_add_id (6.13)
    INACTIVE = 255  # in what it returns: none


class SetupFlags(IntFlag):
    """How a ring works (Ring(flags=...)), and since when.

    IOPOLL              completions are looked for, not waited for: reads and writes with O_DIRECT
                        on disks that can poll; -EOPNOTSUPP elsewhere, -EINVAL for what cannot be
                        polled (poll, timeouts, sockets).  A wait uses the CPU
    SQPOLL              a kernel thread takes submissions; submit() only wakes it if it sleeps
    SQ_AFF              it stays on sq_thread_cpu
    CQSIZE              cq_entries is given, at least as many as entries
    CLAMP               sizes beyond the limits become the limits (32768 and 65536)
    ATTACH_WQ           share the SQPOLL thread of wq_fd; without SQPOLL it does nothing
    R_DISABLED          nothing can be submitted before enable_rings()
    SUBMIT_ALL          a bad SQE does not stop those behind it
    COOP_TASKRUN        completions are posted at the thread's next system call, no sooner
    TASKRUN_FLAG        SqFlags.TASKRUN says when some wait for that, so that the ring need not
                        enter the kernel to find out; needs COOP_TASKRUN or DEFER_TASKRUN
    SQE128, CQE32       entries of 128 and 32 bytes (see CQE.big_cqe)
    SINGLE_ISSUER       one thread uses the ring, and the kernel holds it to that
    DEFER_TASKRUN       completions are posted only when that thread enters the kernel for them;
                        needs SINGLE_ISSUER.  The fastest for sockets
    NO_MMAP             the queues lie in memory that Ring maps, not the kernel
    REGISTERED_FD_ONLY  no descriptor, only an index of the thread that made the ring (16 for each
                        thread); needs NO_MMAP
    NO_SQARRAY          no array of indices between the queues, which nobody needs
    HYBRID_IOPOLL       sleep for half of the expected time, then poll; needs IOPOLL
    CQE_MIXED           completions of 16 and of 32 bytes in one queue; excludes CQE32
    SQE_MIXED           submissions of both sizes; excludes SQE128
    SQ_REWIND           not supported: submissions always from the first place
    """

    IOPOLL = 1 << 0  # 5.1
    SQPOLL = 1 << 1  # 5.1
    SQ_AFF = 1 << 2  # 5.1
    CQSIZE = 1 << 3  # 5.5
    CLAMP = 1 << 4  # 5.6
    ATTACH_WQ = 1 << 5  # 5.6
    R_DISABLED = 1 << 6  # 5.10
    SUBMIT_ALL = 1 << 7  # 5.18
    COOP_TASKRUN = 1 << 8  # 5.19
    TASKRUN_FLAG = 1 << 9  # 5.19
    SQE128 = 1 << 10  # 5.19
    CQE32 = 1 << 11  # 5.19
    SINGLE_ISSUER = 1 << 12  # 6.0
    DEFER_TASKRUN = 1 << 13  # 6.1
    NO_MMAP = 1 << 14  # 6.5
    REGISTERED_FD_ONLY = 1 << 15  # 6.5
    NO_SQARRAY = 1 << 16  # 6.6
    HYBRID_IOPOLL = 1 << 17  # 6.13
    CQE_MIXED = 1 << 18  # 6.18
    SQE_MIXED = 1 << 19  # 6.19
    SQ_REWIND = 1 << 20  # 7.0


class Features(IntFlag):
    """What the kernel says of itself at set-up (Ring.features)."""

    SINGLE_MMAP = 1 << 0
    NODROP = 1 << 1
    SUBMIT_STABLE = 1 << 2
    RW_CUR_POS = 1 << 3
    CUR_PERSONALITY = 1 << 4
    FAST_POLL = 1 << 5
    POLL_32BITS = 1 << 6
    SQPOLL_NONFIXED = 1 << 7
    EXT_ARG = 1 << 8
    NATIVE_WORKERS = 1 << 9
    RSRC_TAGS = 1 << 10
    CQE_SKIP = 1 << 11
    LINKED_FILE = 1 << 12
    REG_REG_RING = 1 << 13
    RECVSEND_BUNDLE = 1 << 14
    MIN_TIMEOUT = 1 << 15
    RW_ATTR = 1 << 16
    NO_IOWAIT = 1 << 17


class EnterFlags(IntFlag):
    """Flags of io_uring_enter; the ring sets them itself."""

    GETEVENTS = 1 << 0
    SQ_WAKEUP = 1 << 1
    SQ_WAIT = 1 << 2
    EXT_ARG = 1 << 3
    REGISTERED_RING = 1 << 4
    ABS_TIMER = 1 << 5
    EXT_ARG_REG = 1 << 6
    NO_IOWAIT = 1 << 7


class SqFlags(IntFlag):
    """What the kernel says in the submission queue (Ring.sq.flags)."""

    NEED_WAKEUP = 1 << 0
    CQ_OVERFLOW = 1 << 1
    TASKRUN = 1 << 2


class SqeFlags(IntFlag):
    """Flags of one submission (SQE.flags)."""

    FIXED_FILE = 1 << 0
    IO_DRAIN = 1 << 1
    IO_LINK = 1 << 2
    IO_HARDLINK = 1 << 3
    ASYNC = 1 << 4
    BUFFER_SELECT = 1 << 5
    CQE_SKIP_SUCCESS = 1 << 6


class CloneFlags(IntFlag):
    """What register_clone_buffers may do."""

    SRC_REGISTERED = 1 << 0
    DST_REPLACE = 1 << 1


class BufferRingFlags(IntFlag):
    """How a BufferRing works (Ring.register_buf_ring)."""

    MMAP = 1 << 0  # 6.4
    INC = 1 << 1  # 6.12


class CqeFlags(IntFlag):
    """Flags of one completion (CQE.flags); the upper half is the buffer id."""

    BUFFER = 1 << 0
    MORE = 1 << 1
    SOCK_NONEMPTY = 1 << 2
    NOTIF = 1 << 3
    BUF_MORE = 1 << 4
    SKIP = 1 << 5
    F_32 = 1 << 15


class FsyncFlags(IntFlag):
    DATASYNC = 1 << 0


class SyncFileRangeFlags(IntFlag):
    """What prep_sync_file_range does with dirty pages, in this order."""

    WAIT_BEFORE = 1 << 0
    WRITE = 1 << 1
    WAIT_AFTER = 1 << 2


class FallocateFlags(IntFlag):
    """What prep_fallocate does to a range, by file system; none: make room for it."""

    KEEP_SIZE = 1 << 0
    PUNCH_HOLE = 1 << 1  # with KEEP_SIZE
    COLLAPSE_RANGE = 1 << 3
    ZERO_RANGE = 1 << 4
    INSERT_RANGE = 1 << 5
    UNSHARE_RANGE = 1 << 6


class SpliceFlags(IntFlag):
    """Flags of prep_splice and prep_tee; the os module has the first four too."""

    MOVE = 1 << 0
    NONBLOCK = 1 << 1
    MORE = 1 << 2
    GIFT = 1 << 3
    FD_IN_FIXED = 1 << 31


class AtFlags(IntFlag):
    """How a path is taken: by prep_statx, prep_unlinkat (REMOVEDIR), prep_linkat."""

    SYMLINK_NOFOLLOW = 0x100
    REMOVEDIR = 0x200
    SYMLINK_FOLLOW = 0x400
    NO_AUTOMOUNT = 0x800
    EMPTY_PATH = 0x1000
    STATX_FORCE_SYNC = 0x2000
    STATX_DONT_SYNC = 0x4000


class RenameFlags(IntFlag):
    """Flags of prep_renameat."""

    NOREPLACE = 1 << 0
    EXCHANGE = 1 << 1
    WHITEOUT = 1 << 2


class ResolveFlags(IntFlag):
    """What the path of prep_openat2 may not lead through."""

    NO_XDEV = 1 << 0
    NO_MAGICLINKS = 1 << 1
    NO_SYMLINKS = 1 << 2
    BENEATH = 1 << 3
    IN_ROOT = 1 << 4
    CACHED = 1 << 5  # 5.12


class FixedFdFlags(IntFlag):
    """Flags of prep_fixed_fd_install."""

    NO_CLOEXEC = 1 << 0


class TimeoutFlags(IntFlag):
    ABS = 1 << 0
    UPDATE = 1 << 1
    BOOTTIME = 1 << 2
    REALTIME = 1 << 3
    LINK_UPDATE = 1 << 4
    ETIME_SUCCESS = 1 << 5
    MULTISHOT = 1 << 6


class NopFlags(IntFlag):
    """What a no-op does for a test (prep_nop)."""

    INJECT_RESULT = 1 << 0  # 6.11
    FILE = 1 << 1  # 6.13
    FIXED_FILE = 1 << 2
    FIXED_BUFFER = 1 << 3
    TW = 1 << 4  # 6.16
    CQE32 = 1 << 5  # 6.18


class PollFlags(IntFlag):
    ADD_MULTI = 1 << 0
    UPDATE_EVENTS = 1 << 1
    UPDATE_USER_DATA = 1 << 2
    ADD_LEVEL = 1 << 3


class CancelFlags(IntFlag):
    """What a cancel matches (prep_cancel, prep_cancel_fd, register_sync_cancel)."""

    ALL = 1 << 0
    FD = 1 << 1
    ANY = 1 << 2
    FD_FIXED = 1 << 3
    USERDATA = 1 << 4
    OP = 1 << 5


class RecvSendFlags(IntFlag):
    """`ioprio` and `zc_flags` of sends and receives; the prep_ methods set the others."""

    POLL_FIRST = 1 << 0  # 5.19
    RECV_MULTISHOT = 1 << 1
    FIXED_BUF = 1 << 2
    SEND_ZC_REPORT_USAGE = 1 << 3  # 6.2
    BUNDLE = 1 << 4  # 6.10
    SEND_VECTORIZED = 1 << 5


class AcceptFlags(IntFlag):
    """`ioprio` of accepts; the prep_ methods set MULTISHOT."""

    MULTISHOT = 1 << 0
    DONTWAIT = 1 << 1  # 6.10
    POLL_FIRST = 1 << 2  # 6.10


class SocketOp(IntEnum):
    """What prep_cmd_sock does to a socket."""

    SIOCINQ = 0  # 6.7
    SIOCOUTQ = 1  # 6.7
    GETSOCKOPT = 2  # 6.7
    SETSOCKOPT = 3  # 6.7
    TX_TIMESTAMP = 4  # 6.17
    GETSOCKNAME = 5  # 6.19


class MsgRingFlags(IntFlag):
    CQE_SKIP = 1 << 0
    FLAGS_PASS = 1 << 1


def get_probe() -> Probe:
    """Which operations the running kernel has, asked through a ring made for it and closed."""
    with Ring(1) as ring:
        return ring.register_probe()
