/* What is known about a file, whichever call told: fstat or statx. */
#ifndef FERRULE_FILE_FACTS_H
#define FERRULE_FILE_FACTS_H

#include <errno.h>
#include <stdint.h>

#include "system_names.h"

struct file_facts {
    uint64_t dev, ino, nlink, rdev;
    int64_t size, blocks, block_size;
    uint32_t mode, uid, gid;
    int64_t atime, mtime, ctime; /* seconds */
    uint32_t atime_ns, mtime_ns, ctime_ns;
};

static inline void facts_of_statx(const void *out, struct file_facts *f) {
    const struct statx *s = out;
    *f = (struct file_facts){
        .dev = makedev(s->stx_dev_major, s->stx_dev_minor), .ino = s->stx_ino,
        .nlink = s->stx_nlink, .rdev = makedev(s->stx_rdev_major, s->stx_rdev_minor),
        .size = s->stx_size, .blocks = s->stx_blocks, .block_size = s->stx_blksize,
        .mode = s->stx_mode, .uid = s->stx_uid, .gid = s->stx_gid,
        .atime = s->stx_atime.tv_sec, .mtime = s->stx_mtime.tv_sec,
        .ctime = s->stx_ctime.tv_sec, .atime_ns = s->stx_atime.tv_nsec,
        .mtime_ns = s->stx_mtime.tv_nsec, .ctime_ns = s->stx_ctime.tv_nsec};
}

/* What the kernel knows already: a network file system is not asked, so this never sleeps. */
static inline int facts_of_fd(int fd, struct file_facts *f) {
    struct statx s;
    int r = statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_BASIC_STATS,
                  &s);
    if (r < 0 && (errno == ENOSYS || errno == EPERM)) { /* a seccomp filter of old */
        struct stat plain;
        r = fstat(fd, &plain);
        if (r == 0) statx_of_stat(&plain, &s);
    }
    *f = (struct file_facts){0};
    if (r < 0) return -errno;
    facts_of_statx(&s, f);
    return 0;
}

/* On a block device, so no other machine and no other process has to be asked. */
static inline int facts_are_local(const struct file_facts *f) { return major(f->dev) != 0; }

#endif
