/* What is known about a file, whichever call told: fstat or statx. */
#ifndef FERRULE_FILE_FACTS_H
#define FERRULE_FILE_FACTS_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>
#ifdef __linux__
#include <sys/sysmacros.h>
#endif

struct file_facts {
    uint64_t dev, ino, nlink, rdev;
    int64_t size, blocks, block_size;
    uint32_t mode, uid, gid;
    int64_t atime, mtime, ctime; /* seconds */
    uint32_t atime_ns, mtime_ns, ctime_ns;
};

#ifdef __APPLE__
#define STAT_TIME(s, name) (s)->st_##name##timespec
#else
#define STAT_TIME(s, name) (s)->st_##name##tim
#endif

static inline void facts_of_stat(const struct stat *s, struct file_facts *f) {
    *f = (struct file_facts){
        .dev = s->st_dev, .ino = s->st_ino, .nlink = s->st_nlink, .rdev = s->st_rdev,
        .size = s->st_size, .blocks = s->st_blocks, .block_size = s->st_blksize,
        .mode = s->st_mode, .uid = s->st_uid, .gid = s->st_gid,
        .atime = STAT_TIME(s, a).tv_sec, .mtime = STAT_TIME(s, m).tv_sec,
        .ctime = STAT_TIME(s, c).tv_sec, .atime_ns = (uint32_t)STAT_TIME(s, a).tv_nsec,
        .mtime_ns = (uint32_t)STAT_TIME(s, m).tv_nsec,
        .ctime_ns = (uint32_t)STAT_TIME(s, c).tv_nsec};
}

static inline int facts_of_fstat(int fd, struct file_facts *f) {
    struct stat s;
    if (fstat(fd, &s) < 0) {
        *f = (struct file_facts){0};
        return -errno;
    }
    facts_of_stat(&s, f);
    return 0;
}

#ifdef __linux__

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

#else

/* Without statx an operation of that name gives a struct stat. */
static inline void facts_of_statx(const void *out, struct file_facts *f) { facts_of_stat(out, f); }

static inline int facts_of_fd(int fd, struct file_facts *f) { return facts_of_fstat(fd, f); }

#endif

/* On a block device, so no other machine and no other process has to be asked. */
static inline int facts_are_local(const struct file_facts *f) { return major(f->dev) != 0; }

#endif
