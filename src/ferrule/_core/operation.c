#define _GNU_SOURCE
#include "operation.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#endif
#define MAX_LEN 0x7ffff000u /* the kernel's own limit for one transfer; results are 32-bit */

static inline int64_t result_of(int64_t r) { return r < 0 ? -errno : r; }
static inline size_t len_of(const struct op *o) { return o->len < MAX_LEN ? o->len : MAX_LEN; }

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
static int64_t try_readv(struct op *o) {
    return result_of(preadv2(o->fd, o->addr, (int)o->len, o->off, (int)o->flags));
}
static int64_t try_writev(struct op *o) {
    return result_of(pwritev2(o->fd, o->addr, (int)o->len, o->off, (int)o->flags));
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
static int64_t try_accept(struct op *o) {
    return result_of(accept4(o->fd, o->addr, (socklen_t *)o->addr2, (int)o->flags));
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
static int64_t try_fallocate(struct op *o) {
    return result_of(fallocate(o->fd, (int)o->mode, o->off, (off_t)o->len));
}
static int64_t try_ftruncate(struct op *o) { return result_of(ftruncate(o->fd, (off_t)o->len)); }
static int64_t try_flock(struct op *o) { return result_of(flock(o->fd, (int)o->flags)); }
static int64_t try_getdents(struct op *o) {
    return result_of(syscall(SYS_getdents64, o->fd, o->addr, len_of(o)));
}
static int64_t try_readlinkat(struct op *o) {
    return result_of(readlinkat(o->fd, o->addr, o->addr2, o->len));
}
static int64_t try_faccessat(struct op *o) {
    return result_of(faccessat(o->fd, o->addr, (int)o->mode, (int)o->flags));
}
static int64_t try_unlinkat(struct op *o) { return result_of(unlinkat(o->fd, o->addr, (int)o->flags)); }
static int64_t try_mkdirat(struct op *o) { return result_of(mkdirat(o->fd, o->addr, o->mode)); }
static int64_t try_renameat(struct op *o) {
    return result_of(syscall(SYS_renameat2, o->fd, o->addr, o->fd2, o->addr2, o->flags));
}
static int64_t try_linkat(struct op *o) {
    return result_of(linkat(o->fd, o->addr, o->fd2, o->addr2, (int)o->flags));
}
static int64_t try_symlinkat(struct op *o) { return result_of(symlinkat(o->addr, o->fd, o->addr2)); }
static int64_t try_sendfile(struct op *o) {
    off_t off = o->off;
    return result_of(sendfile(o->fd, o->fd2, &off, len_of(o)));
}
static int64_t try_lseek(struct op *o) {
    return result_of(lseek(o->fd, o->off, (int)o->flags));
}
static int64_t try_fchmod(struct op *o) { return result_of(fchmod(o->fd, o->mode)); }
static int64_t try_copy_range(struct op *o) { /* from fd2 to fd, at both files' positions */
    return result_of(copy_file_range(o->fd2, NULL, o->fd, NULL, len_of(o), 0));
}
static int64_t try_fadvise(struct op *o) {
    return -posix_fadvise(o->fd, o->off, (off_t)o->len, (int)o->flags);
}

/* Of the path `addr`, or without one of `fd`; `addr2` is the name, `iov` the value, `mode` may have
 * AT_SYMLINK_NOFOLLOW. */
static int64_t try_getxattr(struct op *o) {
    return result_of(!o->addr ? fgetxattr(o->fd, o->addr2, o->iov.iov_base, o->iov.iov_len)
                     : o->mode ? lgetxattr(o->addr, o->addr2, o->iov.iov_base, o->iov.iov_len)
                               : getxattr(o->addr, o->addr2, o->iov.iov_base, o->iov.iov_len));
}
static int64_t try_setxattr(struct op *o) {
    const void *value = o->iov.iov_base;
    size_t size = o->iov.iov_len;
    return result_of(!o->addr ? fsetxattr(o->fd, o->addr2, value, size, (int)o->flags)
                     : o->mode ? lsetxattr(o->addr, o->addr2, value, size, (int)o->flags)
                               : setxattr(o->addr, o->addr2, value, size, (int)o->flags));
}
static int64_t try_listxattr(struct op *o) {
    return result_of(!o->addr ? flistxattr(o->fd, o->iov.iov_base, o->iov.iov_len)
                     : o->mode ? llistxattr(o->addr, o->iov.iov_base, o->iov.iov_len)
                               : listxattr(o->addr, o->iov.iov_base, o->iov.iov_len));
}
static int64_t try_removexattr(struct op *o) {
    return result_of(!o->addr ? fremovexattr(o->fd, o->addr2)
                     : o->mode ? lremovexattr(o->addr, o->addr2) : removexattr(o->addr, o->addr2));
}
static int64_t try_timeout(struct op *o) {
    struct timespec ts = {.tv_sec = o->ts.tv_sec, .tv_nsec = o->ts.tv_nsec};
    clockid_t clock = o->flags & URING_TIMEOUT_REALTIME ? CLOCK_REALTIME
                      : o->flags & URING_TIMEOUT_BOOTTIME ? CLOCK_BOOTTIME : CLOCK_MONOTONIC;
    int r = clock_nanosleep(clock, o->flags & URING_TIMEOUT_ABS ? TIMER_ABSTIME : 0, &ts, NULL);
    return r ? -r : -ETIME;
}

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
    return flags >= 0 && !(flags & O_NONBLOCK) ? -EAGAIN : try_accept(o);
}

/* -EAGAIN: not in the page cache; -EOPNOTSUPP: this file cannot tell. */
int64_t op_try_read(int fd, void *buf, uint64_t len, int64_t off) {
    struct iovec iov = {.iov_base = buf, .iov_len = len < MAX_LEN ? len : MAX_LEN};
    return result_of(preadv2(fd, &iov, 1, off, RWF_NOWAIT));
}

/* -EAGAIN: it would wait; -EOPNOTSUPP: this file system cannot tell (ext4). */
int64_t op_try_write(int fd, const void *buf, uint64_t len, int64_t off) {
    struct iovec iov = {.iov_base = (void *)buf, .iov_len = len < MAX_LEN ? len : MAX_LEN};
    return result_of(pwritev2(fd, &iov, 1, off, RWF_NOWAIT));
}

int64_t op_try_readv(int fd, const struct iovec *iov, int count, int64_t off) {
    return result_of(preadv2(fd, iov, count, off, RWF_NOWAIT));
}

int64_t op_try_writev(int fd, const struct iovec *iov, int count, int64_t off) {
    return result_of(pwritev2(fd, iov, count, off, RWF_NOWAIT));
}

struct open_how_v0 { uint64_t flags, mode, resolve; };
#define RESOLVE_CACHED 0x20 /* Linux 5.12 */
#define SYS_OPENAT2 437     /* the same number everywhere */

/* -EAGAIN: the look-up would sleep.  A FIFO's open waits for its other end all the same. */
int64_t op_open_cached(int dirfd, const char *path, uint32_t flags, uint32_t mode) {
    struct open_how_v0 how = {.flags = flags, .mode = mode, .resolve = RESOLVE_CACHED};
    return result_of(syscall(SYS_OPENAT2, dirfd, path, &how, sizeof how));
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
    return flags >= 0 && !(flags & O_NONBLOCK) ? -EOPNOTSUPP : try_accept(o);
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
static int64_t try_readv_now(struct op *o) {
    return result_of(preadv2(o->fd, o->addr, (int)o->len, o->off, (int)o->flags | RWF_NOWAIT));
}
static int64_t try_writev_now(struct op *o) {
    return result_of(pwritev2(o->fd, o->addr, (int)o->len, o->off, (int)o->flags | RWF_NOWAIT));
}

/* ---- the same as SQEs ---- */

static void prep_nop(const struct op *o, struct uring_sqe *s) { (void)o; (void)s; }

static void prep_fd(const struct op *o, struct uring_sqe *s) { s->fd = o->fd; }

static void prep_rw(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->len = (uint32_t)len_of(o);
    s->off = (uint64_t)o->off;
}
static void prep_rwv(const struct op *o, struct uring_sqe *s) {
    prep_rw(o, s);
    s->op_flags = o->flags;
}
static void prep_recv(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->len = (uint32_t)len_of(o);
    s->op_flags = o->flags;
}
static void prep_send(const struct op *o, struct uring_sqe *s) {
    prep_recv(o, s);
    s->op_flags = o->flags | MSG_NOSIGNAL;
}
static void prep_recvmsg(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)&o->msg;
    s->len = 1;
    s->op_flags = o->flags;
}
static void prep_sendmsg(const struct op *o, struct uring_sqe *s) {
    prep_recvmsg(o, s);
    s->op_flags = o->flags | MSG_NOSIGNAL;
}
static void prep_accept(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->addr2 = (uint64_t)(uintptr_t)o->addr2;
    s->op_flags = o->flags;
}
static void prep_connect(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->off = o->len;
}
static void prep_poll(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    s->op_flags = o->flags << 16 | o->flags >> 16; /* poll32 is stored half-swapped there */
#else
    s->op_flags = o->flags;
#endif
}
static void prep_openat(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->len = o->mode;
    s->op_flags = o->flags;
    /* Tried inline, the ring adds O_NONBLOCK, and a FIFO without a writer would open at once. */
    s->flags |= URING_SQE_ASYNC;
}
static void prep_statx(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->len = o->mode;
    s->off = (uint64_t)(uintptr_t)o->addr2;
    s->op_flags = o->flags;
}
static void prep_fsync(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->op_flags = o->flags;
}
static void prep_fallocate(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->off = (uint64_t)o->off;
    s->addr = o->len;
    s->len = o->mode;
}
static void prep_ftruncate(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->off = o->len;
}
static void prep_path(const struct op *o, struct uring_sqe *s) { /* unlinkat, mkdirat */
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->len = o->mode;
    s->op_flags = o->flags;
}
static void prep_two_paths(const struct op *o, struct uring_sqe *s) { /* renameat, linkat */
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->len = (uint32_t)o->fd2;
    s->off = (uint64_t)(uintptr_t)o->addr2;
    s->op_flags = o->flags;
}
static void prep_symlinkat(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->off = (uint64_t)(uintptr_t)o->addr2;
}
static void prep_fadvise(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->off = (uint64_t)o->off;
    s->len = o->len <= UINT32_MAX ? (uint32_t)o->len : 0; /* 0: to the end */
    s->op_flags = o->flags;
}
static void prep_timeout(const struct op *o, struct uring_sqe *s) {
    s->fd = -1;
    s->addr = (uint64_t)(uintptr_t)&o->ts;
    s->len = 1;
    s->op_flags = o->flags;
}

const struct op_row op_rows[OP_KINDS] = {
    [OP_NOP] = {"nop", URING_OP_NOP, 0, 0, try_nop, try_nop, prep_nop},
    [OP_READ] = {"read", URING_OP_READ, POLLIN, 1, try_read, try_read_now, prep_rw},
    [OP_WRITE] = {"write", URING_OP_WRITE, POLLOUT, 1, try_write, try_write_now, prep_rw},
    [OP_READV] = {"readv", URING_OP_READV, POLLIN, 0, try_readv, try_readv_now, prep_rwv},
    [OP_WRITEV] = {"writev", URING_OP_WRITEV, POLLOUT, 0, try_writev, try_writev_now, prep_rwv},
    [OP_RECV] = {"recv", URING_OP_RECV, POLLIN, 1, try_recv, try_recv_now, prep_recv},
    [OP_SEND] = {"send", URING_OP_SEND, POLLOUT, 1, try_send, try_send_now, prep_send},
    [OP_RECVMSG] = {"recvmsg", URING_OP_RECVMSG, POLLIN, 0, try_recvmsg, try_recvmsg_now, prep_recvmsg},
    [OP_SENDMSG] = {"sendmsg", URING_OP_SENDMSG, POLLOUT, 0, try_sendmsg, try_sendmsg_now, prep_sendmsg},
    [OP_ACCEPT] = {"accept", URING_OP_ACCEPT, POLLIN, 0, try_accept, try_accept_now, prep_accept},
    [OP_CONNECT] = {"connect", URING_OP_CONNECT, POLLOUT, 0, try_connect, NULL, prep_connect},
    [OP_POLL] = {"poll", URING_OP_POLL_ADD, 0, 0, try_poll, try_poll_now, prep_poll},
    [OP_OPENAT] = {"openat", URING_OP_OPENAT, 0, 0, try_openat, NULL, prep_openat},
    [OP_CLOSE] = {"close", URING_OP_CLOSE, 0, 0, try_close, NULL, prep_fd},
    [OP_STATX] = {"statx", URING_OP_STATX, 0, 0, try_statx, NULL, prep_statx},
    [OP_FSYNC] = {"fsync", URING_OP_FSYNC, 0, 0, try_fsync, NULL, prep_fsync},
    [OP_FALLOCATE] = {"fallocate", URING_OP_FALLOCATE, 0, 0, try_fallocate, NULL, prep_fallocate},
    [OP_FTRUNCATE] = {"ftruncate", URING_OP_FTRUNCATE, 0, 0, try_ftruncate, NULL, prep_ftruncate},
    [OP_FLOCK] = {"flock", -1, 0, 0, try_flock, NULL, NULL},
    [OP_GETDENTS] = {"getdents", -1, 0, 0, try_getdents, NULL, NULL},
    [OP_READLINKAT] = {"readlinkat", -1, 0, 0, try_readlinkat, NULL, NULL},
    [OP_FACCESSAT] = {"faccessat", -1, 0, 0, try_faccessat, NULL, NULL},
    [OP_UNLINKAT] = {"unlinkat", URING_OP_UNLINKAT, 0, 0, try_unlinkat, NULL, prep_path},
    [OP_MKDIRAT] = {"mkdirat", URING_OP_MKDIRAT, 0, 0, try_mkdirat, NULL, prep_path},
    [OP_RENAMEAT] = {"renameat", URING_OP_RENAMEAT, 0, 0, try_renameat, NULL, prep_two_paths},
    [OP_LINKAT] = {"linkat", URING_OP_LINKAT, 0, 0, try_linkat, NULL, prep_two_paths},
    [OP_SYMLINKAT] = {"symlinkat", URING_OP_SYMLINKAT, 0, 0, try_symlinkat, NULL, prep_symlinkat},
    [OP_SENDFILE] = {"sendfile", -1, POLLOUT, 1, try_sendfile, NULL, NULL},
    [OP_TIMEOUT] = {"timeout", URING_OP_TIMEOUT, 0, 0, try_timeout, NULL, prep_timeout},
    [OP_LSEEK] = {"lseek", -1, 0, 0, try_lseek, NULL, NULL},
    [OP_FCHMOD] = {"fchmod", -1, 0, 0, try_fchmod, NULL, NULL},
    [OP_COPY_RANGE] = {"copy_range", -1, 0, 1, try_copy_range, NULL, NULL},
    [OP_FADVISE] = {"fadvise", URING_OP_FADVISE, 0, 0, try_fadvise, NULL, prep_fadvise},
    /* The ring has no one operation that takes a path or a descriptor, and always uses a thread. */
    [OP_GETXATTR] = {"getxattr", -1, 0, 0, try_getxattr, NULL, NULL},
    [OP_SETXATTR] = {"setxattr", -1, 0, 0, try_setxattr, NULL, NULL},
    [OP_LISTXATTR] = {"listxattr", -1, 0, 0, try_listxattr, NULL, NULL},
    [OP_REMOVEXATTR] = {"removexattr", -1, 0, 0, try_removexattr, NULL, NULL},
};
