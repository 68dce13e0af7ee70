/* What only some systems have, under the name that it has on Linux, so that what stands above need
 * not know where it runs.  A flag that a system lacks is 0: it asks for nothing. */
#ifndef FERRULE_SYSTEM_NAMES_H
#define FERRULE_SYSTEM_NAMES_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/sysmacros.h>
#endif

#ifndef AT_NO_AUTOMOUNT
#define AT_NO_AUTOMOUNT 0
#endif
#ifndef CLOCK_MONOTONIC_COARSE
#define CLOCK_MONOTONIC_COARSE CLOCK_MONOTONIC
#endif
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* Python ignores SIGPIPE */
#endif
#ifndef O_DIRECT
#define O_DIRECT 0
#endif
#ifndef O_NOATIME
#define O_NOATIME 0
#endif
#ifndef O_PATH
#define O_PATH 0
#endif
#ifndef O_TMPFILE
#define O_TMPFILE 0
#endif
#ifndef SOCK_CLOEXEC
#define SOCK_CLOEXEC 0
#endif
#ifdef __APPLE__
#define fdatasync fsync
#endif

/* ---- statx(2) ---- */

#ifndef __linux__

#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x10000 /* for the statx() below alone */
#endif

#define AT_STATX_DONT_SYNC 0

#define STATX_TYPE 0x1u
#define STATX_MODE 0x2u
#define STATX_NLINK 0x4u
#define STATX_UID 0x8u
#define STATX_GID 0x10u
#define STATX_ATIME 0x20u
#define STATX_MTIME 0x40u
#define STATX_CTIME 0x80u
#define STATX_INO 0x100u
#define STATX_SIZE 0x200u
#define STATX_BLOCKS 0x400u
#define STATX_BASIC_STATS 0x7ffu
#define STATX_BTIME 0x800u

struct statx_timestamp {
    int64_t tv_sec;
    uint32_t tv_nsec;
};

struct statx {
    uint32_t stx_mask, stx_blksize;
    uint64_t stx_attributes;
    uint32_t stx_nlink, stx_uid, stx_gid;
    uint16_t stx_mode;
    uint64_t stx_ino, stx_size, stx_blocks, stx_attributes_mask;
    struct statx_timestamp stx_atime, stx_btime, stx_ctime, stx_mtime;
    uint32_t stx_rdev_major, stx_rdev_minor, stx_dev_major, stx_dev_minor;
};

static inline void statx_of_stat(const struct stat *s, struct statx *to);

static inline int statx(int dir_fd, const char *path, int flags, unsigned mask, struct statx *to) {
    struct stat s;
    (void)mask; /* everything is always there */
    int r = flags & AT_EMPTY_PATH && !*path
                ? fstat(dir_fd, &s) : fstatat(dir_fd, path, &s, flags & AT_SYMLINK_NOFOLLOW);
    if (r == 0) statx_of_stat(&s, to);
    return r;
}

#endif

#define STATX_TIME(of)                                                                            \
    ((struct statx_timestamp){.tv_sec = (of).tv_sec, .tv_nsec = (uint32_t)(of).tv_nsec})
#ifdef __APPLE__
#define STAT_TIME(s, name) STATX_TIME((s)->st_##name##timespec)
#else
#define STAT_TIME(s, name) STATX_TIME((s)->st_##name##tim)
#endif

static inline void statx_of_stat(const struct stat *s, struct statx *to) {
    *to = (struct statx){
        .stx_mask = STATX_BASIC_STATS, .stx_blksize = (uint32_t)s->st_blksize,
        .stx_nlink = (uint32_t)s->st_nlink, .stx_uid = s->st_uid, .stx_gid = s->st_gid,
        .stx_mode = (uint16_t)s->st_mode, .stx_ino = s->st_ino, .stx_size = (uint64_t)s->st_size,
        .stx_blocks = (uint64_t)s->st_blocks, .stx_atime = STAT_TIME(s, a),
        .stx_ctime = STAT_TIME(s, c), .stx_mtime = STAT_TIME(s, m),
        .stx_rdev_major = (uint32_t)major(s->st_rdev), .stx_rdev_minor = (uint32_t)minor(s->st_rdev),
        .stx_dev_major = (uint32_t)major(s->st_dev), .stx_dev_minor = (uint32_t)minor(s->st_dev)};
#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__NetBSD__)
    to->stx_mask |= STATX_BTIME;
    to->stx_btime = STATX_TIME(s->st_birthtimespec);
#endif
}

/* ---- of the C library ---- */

#ifdef __APPLE__

static inline void *memrchr(const void *block, int byte, size_t size) {
    const unsigned char *bytes = block;
    while (size--)
        if (bytes[size] == (unsigned char)byte) return (void *)(bytes + size);
    return NULL;
}

struct sorting {
    int (*compare)(const void *, const void *, void *);
    void *context;
};

static inline int compare_in_order(void *sorting, const void *a, const void *b) {
    const struct sorting *s = sorting;
    return s->compare(a, b, s->context);
}

#endif

/* POSIX's qsort_r; what macOS has under that name is older. */
static inline void sort_with(void *items, size_t count, size_t size,
                             int (*compare)(const void *, const void *, void *), void *context) {
#ifdef __APPLE__
    struct sorting s = {compare, context};
    qsort_r(items, count, size, &s, compare_in_order);
#else
    qsort_r(items, count, size, compare, context);
#endif
}

#endif
