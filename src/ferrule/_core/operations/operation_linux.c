/* What differs between systems, on Linux. */
#ifdef __linux__
#define _GNU_SOURCE
#include "operation_system.h"

#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

int64_t system_readv(struct op *o) {
    return result_of(preadv2(o->fd, o->addr, (int)o->len, o->off, (int)o->flags));
}
int64_t system_writev(struct op *o) {
    return result_of(pwritev2(o->fd, o->addr, (int)o->len, o->off, (int)o->flags));
}
int64_t system_accept(struct op *o) {
    return result_of(accept4(o->fd, o->addr, (socklen_t *)o->addr2, (int)o->flags));
}
int64_t system_fallocate(struct op *o) {
    return result_of(fallocate(o->fd, (int)o->mode, o->off, (off_t)o->len));
}
int64_t system_read_entries(int fd, void *to, size_t room) {
    return result_of(syscall(SYS_getdents64, fd, to, room));
}
int64_t system_renameat(struct op *o) {
    return result_of(syscall(SYS_renameat2, o->fd, o->addr, o->fd2, o->addr2, o->flags));
}
int64_t system_sendfile(struct op *o) {
    off_t off = o->off;
    return result_of(sendfile(o->fd, o->fd2, &off, len_of(o)));
}
int64_t system_copy_range(struct op *o) { /* from fd2 to fd, at both files' positions */
    return result_of(copy_file_range(o->fd2, NULL, o->fd, NULL, len_of(o), 0));
}
int64_t system_timeout(struct op *o) {
    struct timespec ts = {.tv_sec = o->ts.tv_sec, .tv_nsec = o->ts.tv_nsec};
    clockid_t clock = o->flags & URING_TIMEOUT_REALTIME ? CLOCK_REALTIME
                      : o->flags & URING_TIMEOUT_BOOTTIME ? CLOCK_BOOTTIME : CLOCK_MONOTONIC;
    int r = clock_nanosleep(clock, o->flags & URING_TIMEOUT_ABS ? TIMER_ABSTIME : 0, &ts, NULL);
    return r ? -r : -ETIME;
}
int64_t system_fadvise(struct op *o) {
    return -posix_fadvise(o->fd, o->off, (off_t)o->len, (int)o->flags);
}

/* Of the path `addr`, or without one of `fd`; `addr2` is the name, `iov` the value, `mode` may have
 * AT_SYMLINK_NOFOLLOW. */
int64_t system_getxattr(struct op *o) {
    return result_of(!o->addr ? fgetxattr(o->fd, o->addr2, o->iov.iov_base, o->iov.iov_len)
                     : o->mode ? lgetxattr(o->addr, o->addr2, o->iov.iov_base, o->iov.iov_len)
                               : getxattr(o->addr, o->addr2, o->iov.iov_base, o->iov.iov_len));
}
int64_t system_setxattr(struct op *o) {
    const void *value = o->iov.iov_base;
    size_t size = o->iov.iov_len;
    return result_of(!o->addr ? fsetxattr(o->fd, o->addr2, value, size, (int)o->flags)
                     : o->mode ? lsetxattr(o->addr, o->addr2, value, size, (int)o->flags)
                               : setxattr(o->addr, o->addr2, value, size, (int)o->flags));
}
int64_t system_listxattr(struct op *o) {
    return result_of(!o->addr ? flistxattr(o->fd, o->iov.iov_base, o->iov.iov_len)
                     : o->mode ? llistxattr(o->addr, o->iov.iov_base, o->iov.iov_len)
                               : listxattr(o->addr, o->iov.iov_base, o->iov.iov_len));
}
int64_t system_removexattr(struct op *o) {
    return result_of(!o->addr ? fremovexattr(o->fd, o->addr2)
                     : o->mode ? lremovexattr(o->addr, o->addr2) : removexattr(o->addr, o->addr2));
}
int64_t system_readv_now(struct op *o) {
    return result_of(preadv2(o->fd, o->addr, (int)o->len, o->off, (int)o->flags | RWF_NOWAIT));
}
int64_t system_writev_now(struct op *o) {
    return result_of(pwritev2(o->fd, o->addr, (int)o->len, o->off, (int)o->flags | RWF_NOWAIT));
}

/* ---- attempts that cannot sleep ---- */

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

#endif
