/* The rows of the table as SQEs. */
#ifdef __linux__
#define _GNU_SOURCE
#include "operation_uring.h"

#include "operation_system.h"

void prep_nop(const struct op *o, struct uring_sqe *s) { (void)o; (void)s; }

void prep_fd(const struct op *o, struct uring_sqe *s) { s->fd = o->fd; }

void prep_rw(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->len = (uint32_t)len_of(o);
    s->off = (uint64_t)o->off;
}
void prep_rwv(const struct op *o, struct uring_sqe *s) {
    prep_rw(o, s);
    s->op_flags = o->flags;
}
void prep_recv(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->len = (uint32_t)len_of(o);
    s->op_flags = o->flags;
}
void prep_send(const struct op *o, struct uring_sqe *s) {
    prep_recv(o, s);
    s->op_flags = o->flags | MSG_NOSIGNAL;
}
void prep_recvmsg(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)&o->msg;
    s->len = 1;
    s->op_flags = o->flags;
}
void prep_sendmsg(const struct op *o, struct uring_sqe *s) {
    prep_recvmsg(o, s);
    s->op_flags = o->flags | MSG_NOSIGNAL;
}
void prep_accept(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->addr2 = (uint64_t)(uintptr_t)o->addr2;
    s->op_flags = o->flags;
}
void prep_connect(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->off = o->len;
}
void prep_poll(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    s->op_flags = o->flags << 16 | o->flags >> 16; /* poll32 is stored half-swapped there */
#else
    s->op_flags = o->flags;
#endif
}
void prep_openat(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->len = o->mode;
    s->op_flags = o->flags;
    /* Tried inline, the ring adds O_NONBLOCK, and a FIFO without a writer would open at once. */
    s->flags |= URING_SQE_ASYNC;
}
void prep_statx(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->len = o->mode;
    s->off = (uint64_t)(uintptr_t)o->addr2;
    s->op_flags = o->flags;
}
void prep_fsync(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->op_flags = o->flags;
}
void prep_fallocate(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->off = (uint64_t)o->off;
    s->addr = o->len;
    s->len = o->mode;
}
void prep_ftruncate(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->off = o->len;
}
void prep_path(const struct op *o, struct uring_sqe *s) { /* unlinkat, mkdirat */
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->len = o->mode;
    s->op_flags = o->flags;
}
void prep_two_paths(const struct op *o, struct uring_sqe *s) { /* renameat, linkat */
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->len = (uint32_t)o->fd2;
    s->off = (uint64_t)(uintptr_t)o->addr2;
    s->op_flags = o->flags;
}
void prep_symlinkat(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->addr = (uint64_t)(uintptr_t)o->addr;
    s->off = (uint64_t)(uintptr_t)o->addr2;
}
void prep_fadvise(const struct op *o, struct uring_sqe *s) {
    s->fd = o->fd;
    s->off = (uint64_t)o->off;
    s->len = o->len <= UINT32_MAX ? (uint32_t)o->len : 0; /* 0: to the end */
    s->op_flags = o->flags;
}
void prep_timeout(const struct op *o, struct uring_sqe *s) {
    s->fd = -1;
    s->addr = (uint64_t)(uintptr_t)&o->ts;
    s->len = 1;
    s->op_flags = o->flags;
}

#endif
