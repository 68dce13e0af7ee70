#define _GNU_SOURCE
#include "operation.h"
#include "operation_system.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include "operation_uring.h"
#define RING(opcode, prepare) opcode, prepare
#else
#define RING(opcode, prepare) NO_RING
#endif
#define NO_RING -1, NULL

/* ---- attempts: plain system calls ---- */

static int64_t try_nop(struct op *o) { (void)o; return 0; }

static int64_t try_read(struct op *o) {
    return result_of(o->off == -1 ? read(o->fd, o->addr, len_of(o))
                                  : pread(o->fd, o->addr, len_of(o), o->off));
}
static int64_t try_write(struct op *o) {
    return result_of(o->off == -1 ? write(o->fd, o->addr, len_of(o))
                                  : pwrite(o->fd, o->addr, len_of(o), o->off));
}
static int64_t try_recv(struct op *o) {
    return result_of(recv(o->fd, o->addr, len_of(o), (int)o->flags));
}
static int64_t try_send(struct op *o) {
    return result_of(send(o->fd, o->addr, len_of(o), (int)o->flags | MSG_NOSIGNAL));
}
static int64_t try_recvmsg(struct op *o) { return result_of(recvmsg(o->fd, &o->msg, (int)o->flags)); }
static int64_t try_sendmsg(struct op *o) {
    return result_of(sendmsg(o->fd, &o->msg, (int)o->flags | MSG_NOSIGNAL));
}
static int64_t try_connect(struct op *o) {
    return result_of(connect(o->fd, o->addr, (socklen_t)o->len));
}
static int64_t try_poll(struct op *o) {
    struct pollfd p = {.fd = o->fd, .events = (short)o->flags};
    int n = poll(&p, 1, -1);
    return n < 0 ? -errno : p.revents;
}
static int64_t try_openat(struct op *o) {
    return result_of(openat(o->fd, o->addr, (int)o->flags, o->mode));
}
static int64_t try_close(struct op *o) {
    int64_t r = result_of(close(o->fd));
    return r == -EINTR ? 0 : r; /* closed all the same: a second try would hit another file */
}
static int64_t try_statx(struct op *o) {
    return result_of(statx(o->fd, o->addr, (int)o->flags, o->mode, (struct statx *)o->addr2));
}
static int64_t try_fsync(struct op *o) {
    return result_of(o->flags & URING_FSYNC_DATASYNC ? fdatasync(o->fd) : fsync(o->fd));
}
static int64_t try_ftruncate(struct op *o) { return result_of(ftruncate(o->fd, (off_t)o->len)); }
static int64_t try_flock(struct op *o) { return result_of(flock(o->fd, (int)o->flags)); }
static int64_t try_getdents(struct op *o) { return system_read_entries(o->fd, o->addr, len_of(o)); }
static int64_t try_readlinkat(struct op *o) {
    return result_of(readlinkat(o->fd, o->addr, o->addr2, o->len));
}
static int64_t try_faccessat(struct op *o) {
    return result_of(faccessat(o->fd, o->addr, (int)o->mode, (int)o->flags));
}
static int64_t try_unlinkat(struct op *o) { return result_of(unlinkat(o->fd, o->addr, (int)o->flags)); }
static int64_t try_mkdirat(struct op *o) { return result_of(mkdirat(o->fd, o->addr, o->mode)); }
static int64_t try_linkat(struct op *o) {
    return result_of(linkat(o->fd, o->addr, o->fd2, o->addr2, (int)o->flags));
}
static int64_t try_symlinkat(struct op *o) { return result_of(symlinkat(o->addr, o->fd, o->addr2)); }
static int64_t try_lseek(struct op *o) {
    return result_of(lseek(o->fd, o->off, (int)o->flags));
}
static int64_t try_fchmod(struct op *o) { return result_of(fchmod(o->fd, o->mode)); }

/* ---- attempts that cannot sleep ---- */

int64_t op_try_recv(int fd, void *buf, uint64_t len, int flags) {
    return result_of(recv(fd, buf, len < MAX_LEN ? len : MAX_LEN, flags | MSG_DONTWAIT));
}

int64_t op_try_send(int fd, const void *buf, uint64_t len, int flags) {
    return result_of(send(fd, buf, len < MAX_LEN ? len : MAX_LEN,
                          flags | MSG_DONTWAIT | MSG_NOSIGNAL));
}

/* accept4 has no flag against waiting.  O_NONBLOCK does it, but belongs to everybody who shares the
 * socket (dup, a child process), so it is looked at each time. */
int64_t op_try_accept(struct op *o) {
    int flags = fcntl(o->fd, F_GETFL);
    return flags >= 0 && !(flags & O_NONBLOCK) ? -EAGAIN : system_accept(o);
}

/* The same, never waiting: O_NONBLOCK keeps a FIFO's open from waiting for its other end; it is the
 * caller's to look at what was opened and to take the flag back. */
int64_t op_try_open(int dirfd, const char *path, uint32_t flags, uint32_t mode) {
    if (!(flags & O_PATH)) flags |= O_NONBLOCK; /* openat2 refuses it there */
    return op_open_cached(dirfd, path, flags | O_CLOEXEC, mode);
}

/* As rows have them: -EAGAIN leads to waiting, and so does what cannot be told. */

static int64_t try_accept_now(struct op *o) {
    int flags = fcntl(o->fd, F_GETFL);
    return flags >= 0 && !(flags & O_NONBLOCK) ? -EOPNOTSUPP : system_accept(o);
}

static int64_t try_recv_now(struct op *o) {
    if (o->flags & MSG_WAITALL) return -EOPNOTSUPP; /* it would answer with a part */
    return op_try_recv(o->fd, o->addr, o->len, (int)o->flags);
}
static int64_t try_send_now(struct op *o) {
    return op_try_send(o->fd, o->addr, o->len, (int)o->flags);
}
static int64_t try_recvmsg_now(struct op *o) {
    if (o->flags & MSG_WAITALL) return -EOPNOTSUPP;
    return result_of(recvmsg(o->fd, &o->msg, (int)o->flags | MSG_DONTWAIT));
}
static int64_t try_sendmsg_now(struct op *o) {
    return result_of(sendmsg(o->fd, &o->msg, (int)o->flags | MSG_DONTWAIT | MSG_NOSIGNAL));
}
static int64_t try_poll_now(struct op *o) {
    struct pollfd p = {.fd = o->fd, .events = (short)o->flags};
    int n = poll(&p, 1, 0);
    return n < 0 ? -errno : n == 0 ? -EAGAIN : p.revents;
}
static int64_t try_read_now(struct op *o) { return op_try_read(o->fd, o->addr, o->len, o->off); }
static int64_t try_write_now(struct op *o) { return op_try_write(o->fd, o->addr, o->len, o->off); }

const struct op_row op_rows[OP_KINDS] = {
    [OP_NOP] = {"nop", 0, 0, try_nop, try_nop, RING(URING_OP_NOP, prep_nop)},
    [OP_READ] = {"read", POLLIN, 1, try_read, try_read_now, RING(URING_OP_READ, prep_rw)},
    [OP_WRITE] = {"write", POLLOUT, 1, try_write, try_write_now, RING(URING_OP_WRITE, prep_rw)},
    [OP_READV] = {"readv", POLLIN, 0, system_readv, system_readv_now, RING(URING_OP_READV, prep_rwv)},
    [OP_WRITEV] = {"writev", POLLOUT, 0, system_writev, system_writev_now, RING(URING_OP_WRITEV, prep_rwv)},
    [OP_RECV] = {"recv", POLLIN, 1, try_recv, try_recv_now, RING(URING_OP_RECV, prep_recv)},
    [OP_SEND] = {"send", POLLOUT, 1, try_send, try_send_now, RING(URING_OP_SEND, prep_send)},
    [OP_RECVMSG] = {"recvmsg", POLLIN, 0, try_recvmsg, try_recvmsg_now, RING(URING_OP_RECVMSG, prep_recvmsg)},
    [OP_SENDMSG] = {"sendmsg", POLLOUT, 0, try_sendmsg, try_sendmsg_now, RING(URING_OP_SENDMSG, prep_sendmsg)},
    [OP_ACCEPT] = {"accept", POLLIN, 0, system_accept, try_accept_now, RING(URING_OP_ACCEPT, prep_accept)},
    [OP_CONNECT] = {"connect", POLLOUT, 0, try_connect, NULL, RING(URING_OP_CONNECT, prep_connect)},
    [OP_POLL] = {"poll", 0, 0, try_poll, try_poll_now, RING(URING_OP_POLL_ADD, prep_poll)},
    [OP_OPENAT] = {"openat", 0, 0, try_openat, NULL, RING(URING_OP_OPENAT, prep_openat)},
    [OP_CLOSE] = {"close", 0, 0, try_close, NULL, RING(URING_OP_CLOSE, prep_fd)},
    [OP_STATX] = {"statx", 0, 0, try_statx, NULL, RING(URING_OP_STATX, prep_statx)},
    [OP_FSYNC] = {"fsync", 0, 0, try_fsync, NULL, RING(URING_OP_FSYNC, prep_fsync)},
    [OP_FALLOCATE] = {"fallocate", 0, 0, system_fallocate, NULL, RING(URING_OP_FALLOCATE, prep_fallocate)},
    [OP_FTRUNCATE] = {"ftruncate", 0, 0, try_ftruncate, NULL, RING(URING_OP_FTRUNCATE, prep_ftruncate)},
    [OP_FLOCK] = {"flock", 0, 0, try_flock, NULL, NO_RING},
    [OP_GETDENTS] = {"getdents", 0, 0, try_getdents, NULL, NO_RING},
    [OP_READLINKAT] = {"readlinkat", 0, 0, try_readlinkat, NULL, NO_RING},
    [OP_FACCESSAT] = {"faccessat", 0, 0, try_faccessat, NULL, NO_RING},
    [OP_UNLINKAT] = {"unlinkat", 0, 0, try_unlinkat, NULL, RING(URING_OP_UNLINKAT, prep_path)},
    [OP_MKDIRAT] = {"mkdirat", 0, 0, try_mkdirat, NULL, RING(URING_OP_MKDIRAT, prep_path)},
    [OP_RENAMEAT] = {"renameat", 0, 0, system_renameat, NULL, RING(URING_OP_RENAMEAT, prep_two_paths)},
    [OP_LINKAT] = {"linkat", 0, 0, try_linkat, NULL, RING(URING_OP_LINKAT, prep_two_paths)},
    [OP_SYMLINKAT] = {"symlinkat", 0, 0, try_symlinkat, NULL, RING(URING_OP_SYMLINKAT, prep_symlinkat)},
    [OP_SENDFILE] = {"sendfile", POLLOUT, 1, system_sendfile, NULL, NO_RING},
    [OP_TIMEOUT] = {"timeout", 0, 0, system_timeout, NULL, RING(URING_OP_TIMEOUT, prep_timeout)},
    [OP_LSEEK] = {"lseek", 0, 0, try_lseek, NULL, NO_RING},
    [OP_FCHMOD] = {"fchmod", 0, 0, try_fchmod, NULL, NO_RING},
    [OP_COPY_RANGE] = {"copy_range", 0, 1, system_copy_range, NULL, NO_RING},
    [OP_FADVISE] = {"fadvise", 0, 0, system_fadvise, NULL, RING(URING_OP_FADVISE, prep_fadvise)},
    /* The ring has no one operation that takes a path or a descriptor, and always uses a thread. */
    [OP_GETXATTR] = {"getxattr", 0, 0, system_getxattr, NULL, NO_RING},
    [OP_SETXATTR] = {"setxattr", 0, 0, system_setxattr, NULL, NO_RING},
    [OP_LISTXATTR] = {"listxattr", 0, 0, system_listxattr, NULL, NO_RING},
    [OP_REMOVEXATTR] = {"removexattr", 0, 0, system_removexattr, NULL, NO_RING},
};
