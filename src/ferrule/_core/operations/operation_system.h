/* Attempts that each system makes in its own way: operation_linux.c, operation_bsd.c.
 *
 * Where a system has no such call the answer is -EOPNOTSUPP or -ENOSYS, as an old Linux would give.
 */
#ifndef FERRULE_OPERATION_SYSTEM_H
#define FERRULE_OPERATION_SYSTEM_H

#include <errno.h>

#include "operation.h"
#include "system_names.h"

#define MAX_LEN 0x7ffff000u /* Linux's own limit for one transfer; results are 32-bit */

static inline int64_t result_of(int64_t r) { return r < 0 ? -errno : r; }
static inline size_t len_of(const struct op *o) { return o->len < MAX_LEN ? o->len : MAX_LEN; }

int64_t system_readv(struct op *o);
int64_t system_writev(struct op *o);
int64_t system_accept(struct op *o);
int64_t system_fallocate(struct op *o);
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

/* A directory's next entries, as getdents64 writes them on Linux; 0 at its end, or -errno. */
int64_t system_read_entries(int fd, void *to, size_t room);

#endif
