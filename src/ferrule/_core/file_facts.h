/* What is known about a file, whichever call told: fstat or statx. */
#ifndef FERRULE_FILE_FACTS_H
#define FERRULE_FILE_FACTS_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

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

static inline int facts_of_fstat(int fd, struct file_facts *f) {
    struct stat s;
    if (fstat(fd, &s) < 0) {
        *f = (struct file_facts){0};
        return -errno;
    }
    *f = (struct file_facts){
        .dev = s.st_dev, .ino = s.st_ino, .nlink = s.st_nlink, .rdev = s.st_rdev,
        .size = s.st_size, .blocks = s.st_blocks, .block_size = s.st_blksize,
        .mode = s.st_mode, .uid = s.st_uid, .gid = s.st_gid,
        .atime = s.st_atim.tv_sec, .mtime = s.st_mtim.tv_sec, .ctime = s.st_ctim.tv_sec,
        .atime_ns = s.st_atim.tv_nsec, .mtime_ns = s.st_mtim.tv_nsec,
        .ctime_ns = s.st_ctim.tv_nsec};
    return 0;
}

/* What the kernel knows already: a network file system is not asked, so this never sleeps. */
static inline int facts_of_fd(int fd, struct file_facts *f) {
    struct statx s;
    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_BASIC_STATS,
              &s) == 0) {
        facts_of_statx(&s, f);
        return 0;
    }
    if (errno != ENOSYS && errno != EPERM) {
        int err = errno;
        *f = (struct file_facts){0};
        return -err;
    }
    return facts_of_fstat(fd, f); /* a seccomp filter of old */
}

/* On a block device, so no other machine and no other process has to be asked. */
static inline int facts_are_local(const struct file_facts *f) { return major(f->dev) != 0; }

#endif
