/* What differs between systems, on macOS and the BSDs. */
#ifndef __linux__
#include "operation_system.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/param.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/xattr.h>
#endif

/* No flags for one call: those that Linux has are RWF_*. */
int64_t system_readv(struct op *o) {
    if (o->flags) return -EOPNOTSUPP;
    return result_of(o->off == -1 ? readv(o->fd, o->addr, (int)o->len)
                                  : preadv(o->fd, o->addr, (int)o->len, o->off));
}
int64_t system_writev(struct op *o) {
    if (o->flags) return -EOPNOTSUPP;
    return result_of(o->off == -1 ? writev(o->fd, o->addr, (int)o->len)
                                  : pwritev(o->fd, o->addr, (int)o->len, o->off));
}
int64_t system_readv_now(struct op *o) { return -EOPNOTSUPP; }
int64_t system_writev_now(struct op *o) { return -EOPNOTSUPP; }

int64_t op_try_read(int fd, void *buf, uint64_t len, int64_t off) { return -EOPNOTSUPP; }
int64_t op_try_write(int fd, const void *buf, uint64_t len, int64_t off) { return -EOPNOTSUPP; }
int64_t op_try_readv(int fd, const struct iovec *iov, int count, int64_t off) { return -EOPNOTSUPP; }
int64_t op_try_writev(int fd, const struct iovec *iov, int count, int64_t off) { return -EOPNOTSUPP; }
int64_t op_open_cached(int dirfd, const char *path, uint32_t flags, uint32_t mode) { return -ENOSYS; }

int64_t system_accept(struct op *o) {
#ifdef __APPLE__ /* without accept4; what was accepted has the listener's O_NONBLOCK */
    int fd = accept(o->fd, o->addr, (socklen_t *)o->addr2);
    if (fd < 0) return -errno;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    return fd;
#else
    return result_of(accept4(o->fd, o->addr, (socklen_t *)o->addr2, (int)o->flags));
#endif
}

int64_t system_fallocate(struct op *o) {
#ifdef __APPLE__
    return -EOPNOTSUPP;
#else
    return o->mode ? -EOPNOTSUPP : -posix_fallocate(o->fd, o->off, (off_t)o->len);
#endif
}
int64_t system_fadvise(struct op *o) {
#ifdef __APPLE__
    return 0; /* advice need not be taken */
#else
    return -posix_fadvise(o->fd, o->off, (off_t)o->len, (int)o->flags);
#endif
}

int64_t system_renameat(struct op *o) {
    if (!o->flags) return result_of(renameat(o->fd, o->addr, o->fd2, o->addr2));
#ifdef RENAME_EXCL
    if (o->flags == 1) /* Linux's RENAME_NOREPLACE */
        return result_of(renameatx_np(o->fd, o->addr, o->fd2, o->addr2, RENAME_EXCL));
#endif
    return -EINVAL;
}

/* As every caller does where the files are on different systems: by reading and writing. */
int64_t system_sendfile(struct op *o) { return -EOPNOTSUPP; }
int64_t system_copy_range(struct op *o) { return -EXDEV; }

static clockid_t clock_of_timeout(const struct op *o) {
    return o->flags & URING_TIMEOUT_REALTIME ? CLOCK_REALTIME : CLOCK_MONOTONIC;
}

/* In steps of a second, since the clock may be set meanwhile. */
int64_t system_timeout(struct op *o) {
    clockid_t clock = clock_of_timeout(o);
    int64_t until = o->ts.tv_sec * 1000000000 + o->ts.tv_nsec;
    struct timespec now, step;
    clock_gettime(clock, &now);
    if (!(o->flags & URING_TIMEOUT_ABS)) until += (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    for (;;) {
        int64_t left = until - ((int64_t)now.tv_sec * 1000000000 + now.tv_nsec);
        if (left <= 0) return -ETIME;
        step.tv_sec = left >= 1000000000;
        step.tv_nsec = step.tv_sec ? 0 : left;
        if (nanosleep(&step, NULL) < 0) return -errno;
        clock_gettime(clock, &now);
    }
}

#ifdef __APPLE__
#define XATTR_OPTIONS(o) ((o)->mode ? XATTR_NOFOLLOW : 0)

int64_t system_getxattr(struct op *o) {
    void *value = o->iov.iov_base;
    size_t size = o->iov.iov_len;
    return result_of(!o->addr ? fgetxattr(o->fd, o->addr2, value, size, 0, 0)
                     : getxattr(o->addr, o->addr2, value, size, 0, XATTR_OPTIONS(o)));
}
int64_t system_setxattr(struct op *o) {
    void *value = o->iov.iov_base;
    size_t size = o->iov.iov_len;
    int flags = (int)o->flags << 1; /* XATTR_CREATE and XATTR_REPLACE, one bit above Linux's */
    return result_of(!o->addr ? fsetxattr(o->fd, o->addr2, value, size, 0, flags)
                     : setxattr(o->addr, o->addr2, value, size, 0, flags | XATTR_OPTIONS(o)));
}
int64_t system_listxattr(struct op *o) {
    void *names = o->iov.iov_base;
    size_t size = o->iov.iov_len;
    return result_of(!o->addr ? flistxattr(o->fd, names, size, 0)
                     : listxattr(o->addr, names, size, XATTR_OPTIONS(o)));
}
int64_t system_removexattr(struct op *o) {
    return result_of(!o->addr ? fremovexattr(o->fd, o->addr2, 0)
                     : removexattr(o->addr, o->addr2, XATTR_OPTIONS(o)));
}
#else
int64_t system_getxattr(struct op *o) { return -EOPNOTSUPP; }
int64_t system_setxattr(struct op *o) { return -EOPNOTSUPP; }
int64_t system_listxattr(struct op *o) { return -EOPNOTSUPP; }
int64_t system_removexattr(struct op *o) { return -EOPNOTSUPP; }
#endif

#endif
