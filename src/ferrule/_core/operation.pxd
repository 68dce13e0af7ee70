# The operation table and its slots, as Cython sees them (operation.h, slots.h, timers.h).
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from posix.types cimport off_t


cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len


cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        unsigned short sa_family
    struct sockaddr_storage:
        unsigned short ss_family
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags


cdef extern from "uring_abi.h" nogil:
    struct uring_timespec:
        int64_t tv_sec
        int64_t tv_nsec
    enum:
        URING_TIMEOUT_ABS
        URING_TIMEOUT_BOOTTIME
        URING_TIMEOUT_REALTIME
        URING_FSYNC_DATASYNC


cdef extern from "operation.h" nogil:
    enum op_kind:
        OP_NOP
        OP_READ
        OP_WRITE
        OP_READV
        OP_WRITEV
        OP_RECV
        OP_SEND
        OP_RECVMSG
        OP_SENDMSG
        OP_ACCEPT
        OP_CONNECT
        OP_POLL
        OP_OPENAT
        OP_CLOSE
        OP_STATX
        OP_FSYNC
        OP_FALLOCATE
        OP_FTRUNCATE
        OP_FLOCK
        OP_GETDENTS
        OP_READLINKAT
        OP_FACCESSAT
        OP_UNLINKAT
        OP_MKDIRAT
        OP_RENAMEAT
        OP_LINKAT
        OP_SYMLINKAT
        OP_SENDFILE
        OP_TIMEOUT
        OP_LSEEK
        OP_FCHMOD
        OP_COPY_RANGE
        OP_FADVISE
        OP_GETXATTR
        OP_SETXATTR
        OP_LISTXATTR
        OP_REMOVEXATTR
        OP_KINDS

    enum op_state:
        OP_FREE
        OP_PREPARED
        OP_IN_FLIGHT
        OP_COMPLETED
        OP_DONE

    enum:
        OP_PROVIDED_BUFFER
        OP_MAY_BLOCK
        OP_IN_WORKER
        OP_TO_RECEIVER
        OP_CONNECTING
        OP_IN_THREAD
        OP_ON_DISK
        OP_DRAINS
        OP_CANCEL_SENT
        OP_FD_CLOSING

    union op_out:
        sockaddr_storage addr
        char statx[256]

    struct op:
        uint32_t index
        uint32_t generation
        uint8_t kind
        uint8_t state
        uint8_t traits
        uint8_t how_cancelled
        int32_t fd
        int32_t fd2
        uint32_t flags
        uint32_t mode
        void *addr
        void *addr2
        uint64_t len
        int64_t off
        int64_t result
        uint32_t result_flags
        uint64_t descriptor
        op *next
        op *prev
        op *fd_prev
        op *fd_next
        void *waiter
        void *payload
        msghdr msg
        iovec iov
        uring_timespec ts
        uint32_t out_len
        op_out out

    struct op_row:
        const char *name
        int16_t uring_op
        int16_t poll_events
        uint8_t can_be_short
        int64_t (*attempt_now)(op *o) noexcept nogil

    const op_row op_rows[1]

    int64_t op_try_recv(int fd, void *buf, uint64_t len, int flags)
    int64_t op_try_send(int fd, const void *buf, uint64_t len, int flags)
    int64_t op_try_accept(op *o)
    int64_t op_try_read(int fd, void *buf, uint64_t len, int64_t off)
    int64_t op_try_write(int fd, const void *buf, uint64_t len, int64_t off)
    int64_t op_try_readv(int fd, const iovec *iov, int count, int64_t off)
    int64_t op_try_writev(int fd, const iovec *iov, int count, int64_t off)
    int64_t op_try_open(int dirfd, const char *path, uint32_t flags, uint32_t mode)


cdef extern from "slots.h" nogil:
    struct slots:
        uint32_t chunk_count
        uint32_t in_use
        size_t stride
    uint32_t SLOTS_PER_CHUNK
    op *slots_at(const slots *s, uint32_t index)
    op *slots_take(slots *s, uint8_t kind, int32_t fd)
    void slots_give(slots *s, op *o)
    uint64_t slots_user_data(const op *o)
    op *slots_find(const slots *s, uint64_t user_data)
    void slots_free(slots *s)


cdef extern from "timers.h" nogil:
    struct timer:
        int64_t when
        uint32_t place
        void *owner
    struct timers:
        uint32_t count
    int timers_add(timers *t, timer *node, int64_t when)
    void timers_move(timers *t, timer *node, int64_t when)
    void timers_remove(timers *t, timer *node)
    timer *timers_nearest(const timers *t)
    void timers_free(timers *t)
