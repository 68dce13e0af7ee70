/* The operation table: one row per operation, one kernel attempt per row.
 *
 * Every engine and the worker threads use the same rows, so an operation is added in one place and
 * a fallback cannot be forgotten.  Loops (sendall), second steps (a connect's SO_ERROR) and ordering
 * stand above the table.
 *
 * A `struct op` is a slot: it holds the arguments and everything the kernel may write to, because
 * nothing may point at the C stack (greenlet moves it) and nothing may be freed before the last
 * completion.  What a slot borrows (buffers, paths) its owner keeps alive until then.
 */
#ifndef FERRULE_OPERATION_H
#define FERRULE_OPERATION_H

#include <errno.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "uring_abi.h"

#ifndef ETIME /* FreeBSD */
#define ETIME ETIMEDOUT
#endif

enum op_kind {
    OP_NOP,
    OP_READ, OP_WRITE, OP_READV, OP_WRITEV,
    OP_RECV, OP_SEND, OP_RECVMSG, OP_SENDMSG, OP_ACCEPT, OP_CONNECT, OP_POLL,
    OP_OPENAT, OP_CLOSE, OP_STATX, OP_FSYNC, OP_FALLOCATE, OP_FTRUNCATE, OP_FLOCK,
    OP_GETDENTS, OP_READLINKAT, OP_FACCESSAT, OP_UNLINKAT, OP_MKDIRAT, OP_RENAMEAT, OP_LINKAT,
    OP_SYMLINKAT, OP_SENDFILE, OP_TIMEOUT, OP_LSEEK, OP_FCHMOD, OP_COPY_RANGE,
    OP_FADVISE, OP_GETXATTR, OP_SETXATTR, OP_LISTXATTR, OP_REMOVEXATTR,
    OP_KINDS
};

/* Completed: on the engine's list, from which the scheduler takes what is done. */
enum op_state { OP_FREE, OP_PREPARED, OP_IN_FLIGHT, OP_COMPLETED, OP_DONE };

/* op.traits */
#define OP_PROVIDED_BUFFER 1u /* recv: let the engine choose the buffer */
#define OP_MAY_BLOCK 2u       /* in a thread that it may hold for ever (a FIFO's open, a lock) */
#define OP_IN_WORKER 4u       /* in a worker thread, though the ring could do it */
#define OP_TO_RECEIVER 8u     /* the waiter is no task, but takes the completion itself */
#define OP_CONNECTING 16u     /* poll: for the end of a connect; the slot keeps the address */
#define OP_IN_THREAD 32u      /* set by the engine: one of its threads has it */
#define OP_ON_DISK 64u        /* of a file: never "not ready", but it may have to wait for the disk */
#define OP_DRAINS 128u        /* recv: one that comes short has taken all there was */

/* op.how_cancelled */
#define OP_CANCEL_SENT 1u
#define OP_FD_CLOSING 2u

union op_out { /* what the kernel fills in besides buffers */
    struct sockaddr_storage addr;
    char statx[256];
};

struct op {
    uint32_t index, generation; /* together they are the engine's user_data */
    uint8_t kind, state, traits, how_cancelled;
    int32_t fd, fd2;
    uint32_t flags, mode;
    void *addr, *addr2;
    uint64_t len;
    int64_t off;
    int64_t result; /* count or fd, or -errno */
    uint32_t result_flags;
    uint64_t descriptor;           /* identity of the Descriptor that it is for; 0: not Ferrule's */
    struct op *next;               /* free list, backlog, worker queue or completed list */
    struct op *prev;               /* where an engine has a list that is left in the middle */
    struct pool_ticket *ticket;    /* by which a worker gets it */
    struct op *fd_prev, *fd_next;  /* the operations in flight on one descriptor */
    void *waiter;                  /* whose completion this is; opaque here */
    void *payload;                 /* what the engine made of a provided buffer; opaque here */
    struct msghdr msg;
    struct iovec iov;
    struct uring_timespec ts;
    uint32_t out_len;
    union op_out out;
};

struct op_row {
    const char *name;
    int16_t poll_events;  /* readiness that lets an attempt proceed; 0: a file, always "ready" */
    uint8_t can_be_short; /* a result below the length asked for is normal */
    int64_t (*attempt)(struct op *);                        /* plain system calls; may block */
    /* The same without blocking: -EAGAIN if it would, -EOPNOTSUPP if it cannot tell.  Or NULL. */
    int64_t (*attempt_now)(struct op *);
    int16_t uring_op;     /* opcode of the SQE, -1 where the ring has none, and where there is no ring */
    void (*prepare)(const struct op *, struct uring_sqe *); /* fill an SQE that was zeroed */
};

extern const struct op_row op_rows[OP_KINDS];

/* recv(2) and send(2) that never block, for the attempts made before an operation is queued. */
int64_t op_try_recv(int fd, void *buf, uint64_t len, int flags);
int64_t op_try_send(int fd, const void *buf, uint64_t len, int flags);
/* The listener must be O_NONBLOCK: accept has no flag that says so for one call. */
int64_t op_try_accept(struct op *o);
int64_t op_try_read(int fd, void *buf, uint64_t len, int64_t off);
int64_t op_try_write(int fd, const void *buf, uint64_t len, int64_t off);
int64_t op_try_readv(int fd, const struct iovec *iov, int count, int64_t off);
int64_t op_try_writev(int fd, const struct iovec *iov, int count, int64_t off);
int64_t op_try_open(int dirfd, const char *path, uint32_t flags, uint32_t mode);
int64_t op_open_cached(int dirfd, const char *path, uint32_t flags, uint32_t mode);

#endif
