/* Attempts that each system makes in its own way: operation_linux.c, operation_bsd.c.
 *
 * Where a system has no such call the answer is -EOPNOTSUPP or -ENOSYS, as an old Linux would give.
 */
#ifndef FERRULE_OPERATION_SYSTEM_H
#define FERRULE_OPERATION_SYSTEM_H

#include <errno.h>
#include <fcntl.h>

#include "operation.h"

#ifdef __APPLE__
#define fdatasync fsync
#endif
#ifndef O_PATH
#define O_PATH 0
#endif
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* Python ignores SIGPIPE */
#endif
#define MAX_LEN 0x7ffff000u /* Linux's own limit for one transfer; results are 32-bit */

static inline int64_t result_of(int64_t r) { return r < 0 ? -errno : r; }
static inline size_t len_of(const struct op *o) { return o->len < MAX_LEN ? o->len : MAX_LEN; }

int64_t system_readv(struct op *o);
int64_t system_writev(struct op *o);
int64_t system_accept(struct op *o);
int64_t system_statx(struct op *o);
int64_t system_fallocate(struct op *o);
int64_t system_getdents(struct op *o);
int64_t system_renameat(struct op *o);
int64_t system_sendfile(struct op *o);
int64_t system_copy_range(struct op *o);
int64_t system_timeout(struct op *o);
int64_t system_fadvise(struct op *o);
int64_t system_getxattr(struct op *o);
int64_t system_setxattr(struct op *o);
int64_t system_listxattr(struct op *o);
int64_t system_removexattr(struct op *o);
int64_t system_readv_now(struct op *o);
int64_t system_writev_now(struct op *o);

#endif
