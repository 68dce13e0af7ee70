/* The rows of the table as SQEs (Linux). */
#ifndef FERRULE_OPERATION_URING_H
#define FERRULE_OPERATION_URING_H

#include "operation.h"

void prep_nop(const struct op *o, struct uring_sqe *s);
void prep_fd(const struct op *o, struct uring_sqe *s);
void prep_rw(const struct op *o, struct uring_sqe *s);
void prep_rwv(const struct op *o, struct uring_sqe *s);
void prep_recv(const struct op *o, struct uring_sqe *s);
void prep_send(const struct op *o, struct uring_sqe *s);
void prep_recvmsg(const struct op *o, struct uring_sqe *s);
void prep_sendmsg(const struct op *o, struct uring_sqe *s);
void prep_accept(const struct op *o, struct uring_sqe *s);
void prep_connect(const struct op *o, struct uring_sqe *s);
void prep_poll(const struct op *o, struct uring_sqe *s);
void prep_openat(const struct op *o, struct uring_sqe *s);
void prep_statx(const struct op *o, struct uring_sqe *s);
void prep_fsync(const struct op *o, struct uring_sqe *s);
void prep_fallocate(const struct op *o, struct uring_sqe *s);
void prep_ftruncate(const struct op *o, struct uring_sqe *s);
void prep_path(const struct op *o, struct uring_sqe *s);
void prep_two_paths(const struct op *o, struct uring_sqe *s);
void prep_symlinkat(const struct op *o, struct uring_sqe *s);
void prep_fadvise(const struct op *o, struct uring_sqe *s);
void prep_timeout(const struct op *o, struct uring_sqe *s);

#endif
