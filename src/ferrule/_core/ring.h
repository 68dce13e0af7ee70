/* One io_uring: set-up, the two queues, enter and register.  No Python, no locks, no static state.
 *
 * Every call returns a count or 0, or -errno; errno itself is left alone.  A ring belongs to one
 * thread; nothing here is safe to call from two.
 *
 * Memory order (the other side of each pair is the kernel):
 *   SQ tail  stored with release after the SQEs are written; SQ head loaded with acquire before
 *            an SQE is reused.
 *   CQ tail  loaded with acquire before CQEs are read; CQ head stored with release after they
 *            were copied out.
 */
#ifndef FERRULE_RING_H
#define FERRULE_RING_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "uring_abi.h"

struct ring {
    int fd;
    int enter_fd;            /* fd, or the index of the registered ring fd */
    uint32_t enter_flags;    /* ENTER_REGISTERED_RING when enter_fd is an index */
    uint32_t setup_flags, features;
    /* submission: sqe_head..sqe_tail are handed out but not yet shown to the kernel */
    uint32_t sqe_head, sqe_tail, sq_mask, sq_entries;
    uint32_t *sq_khead, *sq_ktail, *sq_kflags, *sq_kdropped, *sq_array;
    struct uring_sqe *sqes;
    /* completion */
    uint32_t cq_mask, cq_entries;
    uint32_t *cq_khead, *cq_ktail, *cq_koverflow, *cq_kflags;
    struct uring_cqe *cqes;
    void *ring_map, *sqes_map;
    size_t ring_map_size, sqes_map_size;
};

static inline int ring_sys_setup(uint32_t entries, struct uring_params *params) {
    long r = syscall(FE_SYS_IO_URING_SETUP, entries, params);
    return r < 0 ? -errno : (int)r;
}

static inline int ring_sys_enter(int fd, uint32_t to_submit, uint32_t min_complete, uint32_t flags,
                                 const void *arg, size_t argsz) {
    long r = syscall(FE_SYS_IO_URING_ENTER, fd, to_submit, min_complete, flags, arg, argsz);
    return r < 0 ? -errno : (int)r;
}

static inline int ring_sys_register(int fd, uint32_t opcode, void *arg, uint32_t nr_args) {
    long r = syscall(FE_SYS_IO_URING_REGISTER, fd, opcode, arg, nr_args);
    return r < 0 ? -errno : (int)r;
}

static inline void ring_unmap(struct ring *r) {
    if (r->sqes_map) munmap(r->sqes_map, r->sqes_map_size);
    if (r->ring_map) munmap(r->ring_map, r->ring_map_size);
    r->sqes_map = r->ring_map = NULL;
}

/* Map the queues of a ring that ring_sys_setup made.  Takes over fd only on success. */
static inline int ring_map(struct ring *r, int fd, const struct uring_params *p) {
    memset(r, 0, sizeof *r);
    r->fd = -1;
    if (!(p->features & URING_FEAT_SINGLE_MMAP)) return -ENOSYS; /* Linux < 5.4 */
    size_t sqe_size = p->flags & URING_SETUP_SQE128 ? 128 : 64;
    size_t cqe_size = p->flags & URING_SETUP_CQE32 ? 32 : 16;
    size_t sq_end = p->flags & URING_SETUP_NO_SQARRAY
                        ? 0 : p->sq_off.array + (size_t)p->sq_entries * sizeof(uint32_t);
    size_t cq_end = p->cq_off.cqes + (size_t)p->cq_entries * cqe_size;
    r->ring_map_size = sq_end > cq_end ? sq_end : cq_end;
    r->sqes_map_size = (size_t)p->sq_entries * sqe_size;
    void *map = mmap(NULL, r->ring_map_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
                     URING_OFF_SQ_RING);
    if (map == MAP_FAILED) return -errno;
    r->ring_map = map;
    map = mmap(NULL, r->sqes_map_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
               URING_OFF_SQES);
    if (map == MAP_FAILED) {
        int err = errno;
        ring_unmap(r);
        return -err;
    }
    r->sqes_map = map;
    /* A forked child must not be able to touch the parent's queues. */
    madvise(r->ring_map, r->ring_map_size, MADV_DONTFORK);
    madvise(r->sqes_map, r->sqes_map_size, MADV_DONTFORK);

    char *base = r->ring_map;
    r->sq_khead = (uint32_t *)(base + p->sq_off.head);
    r->sq_ktail = (uint32_t *)(base + p->sq_off.tail);
    r->sq_kflags = (uint32_t *)(base + p->sq_off.flags);
    r->sq_kdropped = (uint32_t *)(base + p->sq_off.dropped);
    r->sq_mask = *(uint32_t *)(base + p->sq_off.ring_mask);
    r->sq_entries = p->sq_entries;
    r->sqes = r->sqes_map;
    r->cq_khead = (uint32_t *)(base + p->cq_off.head);
    r->cq_ktail = (uint32_t *)(base + p->cq_off.tail);
    r->cq_koverflow = (uint32_t *)(base + p->cq_off.overflow);
    r->cq_kflags = p->cq_off.flags ? (uint32_t *)(base + p->cq_off.flags) : NULL;
    r->cq_mask = *(uint32_t *)(base + p->cq_off.ring_mask);
    r->cq_entries = p->cq_entries;
    r->cqes = (struct uring_cqe *)(base + p->cq_off.cqes);
    if (!(p->flags & URING_SETUP_NO_SQARRAY)) {
        /* The identity, written once: SQE i is always submitted from place i. */
        r->sq_array = (uint32_t *)(base + p->sq_off.array);
        for (uint32_t i = 0; i < p->sq_entries; i++) r->sq_array[i] = i;
    }
    r->fd = r->enter_fd = fd;
    r->setup_flags = p->flags;
    r->features = p->features;
    return 0;
}

/* Create a ring.  `p` carries flags, cq_entries, sq_thread_* and wq_fd in, everything out. */
static inline int ring_open(struct ring *r, uint32_t entries, struct uring_params *p) {
    int fd = ring_sys_setup(entries, p);
    if (fd < 0) {
        memset(r, 0, sizeof *r);
        r->fd = -1;
        return fd;
    }
    int err = ring_map(r, fd, p);
    if (err < 0) close(fd);
    return err;
}

/* The kernel may still write to buffers of requests in flight after this: drain first. */
static inline void ring_close(struct ring *r) {
    if (r->fd < 0) return;
    ring_unmap(r);
    close(r->fd);
    r->fd = -1;
}

/* SQEs handed out and not yet consumed by the kernel. */
static inline uint32_t ring_sq_ready(const struct ring *r) {
    return r->sqe_tail - __atomic_load_n(r->sq_khead, __ATOMIC_ACQUIRE);
}

static inline uint32_t ring_cq_ready(const struct ring *r) {
    return __atomic_load_n(r->cq_ktail, __ATOMIC_ACQUIRE) - *r->cq_khead;
}

/* The next free SQE, zeroed, or NULL when the queue is full. */
static inline struct uring_sqe *ring_get_sqe(struct ring *r) {
    uint32_t head = __atomic_load_n(r->sq_khead, __ATOMIC_ACQUIRE);
    if (r->sqe_tail - head >= r->sq_entries) return NULL;
    uint32_t shift = r->setup_flags & URING_SETUP_SQE128 ? 1 : 0;
    struct uring_sqe *sqe = &r->sqes[(size_t)(r->sqe_tail++ & r->sq_mask) << shift];
    memset(sqe, 0, sizeof *sqe << shift);
    return sqe;
}

/* Show all handed-out SQEs to the kernel; returns how many it has yet to consume. */
static inline uint32_t ring_flush(struct ring *r) {
    if (r->sqe_head != r->sqe_tail) {
        r->sqe_head = r->sqe_tail;
        __atomic_store_n(r->sq_ktail, r->sqe_tail, __ATOMIC_RELEASE);
    }
    return ring_sq_ready(r);
}

static inline uint32_t ring_sq_flags(const struct ring *r) {
    return __atomic_load_n(r->sq_kflags, __ATOMIC_RELAXED);
}

/* enter with what is flushed; `ts` may be NULL (wait without end).  EXT_ARG needs 5.11. */
static inline int ring_enter(struct ring *r, uint32_t to_submit, uint32_t wait_nr, uint32_t flags,
                             const struct uring_timespec *ts) {
    if (!ts)
        return ring_sys_enter(r->enter_fd, to_submit, wait_nr, flags | r->enter_flags, NULL, 8);
    struct uring_getevents_arg arg = {.ts = (uint64_t)(uintptr_t)ts};
    return ring_sys_enter(r->enter_fd, to_submit, wait_nr,
                          flags | r->enter_flags | URING_ENTER_EXT_ARG, &arg, sizeof arg);
}

static inline int ring_register(struct ring *r, uint32_t opcode, void *arg, uint32_t nr_args) {
    return ring_sys_register(r->fd, opcode, arg, nr_args);
}

/* Copy up to `max` completions out and free their places. */
static inline uint32_t ring_copy_cqes(struct ring *r, struct uring_cqe *out, uint32_t max) {
    uint32_t head = *r->cq_khead;
    uint32_t n = __atomic_load_n(r->cq_ktail, __ATOMIC_ACQUIRE) - head;
    if (n > max) n = max;
    if (!n) return 0;
    uint32_t first = r->cq_entries - (head & r->cq_mask);
    if (first > n) first = n;
    memcpy(out, &r->cqes[head & r->cq_mask], first * sizeof *out);
    memcpy(out + first, r->cqes, (n - first) * sizeof *out);
    __atomic_store_n(r->cq_khead, head + n, __ATOMIC_RELEASE);
    return n;
}

/* Register the ring's own fd, so that enter need not look it up.  The index is valid in this
 * thread only, and the slot is given back when the thread ends. */
static inline int ring_register_own_fd(struct ring *r) {
    if (r->enter_flags & URING_ENTER_REGISTERED_RING) return 0;
    struct uring_rsrc_update up = {.offset = -1U, .data = (uint64_t)r->fd};
    int n = ring_register(r, URING_REGISTER_RING_FDS, &up, 1);
    if (n != 1) return n < 0 ? n : -EINVAL;
    r->enter_fd = (int)up.offset;
    r->enter_flags = URING_ENTER_REGISTERED_RING;
    return 0;
}

static inline int ring_unregister_own_fd(struct ring *r) {
    if (!(r->enter_flags & URING_ENTER_REGISTERED_RING)) return 0;
    struct uring_rsrc_update up = {.offset = (uint32_t)r->enter_fd};
    int n = ring_register(r, URING_UNREGISTER_RING_FDS, &up, 1);
    r->enter_fd = r->fd;
    r->enter_flags = 0;
    return n < 0 ? n : 0;
}

#endif
