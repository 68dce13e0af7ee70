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
    int fd;                  /* -1 also for a ring that has an index only (REGISTERED_FD_ONLY) */
    int enter_fd;            /* fd, or the index of the registered ring fd */
    uint32_t enter_flags;    /* of every enter: REGISTERED_RING when enter_fd is an index, ... */
    uint32_t setup_flags, features;
    uint8_t sqe_shift;       /* 1: SQEs of 128 bytes */
    uint8_t cqe_shift;       /* 1: CQEs of 32 bytes */
    uint8_t wide;            /* some or all CQEs are of 32 bytes */
    uint8_t flags_used;      /* SQE flags that any request of it ever had */
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

/* Post a completion to the ring `fd`.  Any thread, with or without a ring (Linux 6.13). */
static inline int ring_send(int fd, uint32_t res, uint64_t user_data) {
    struct uring_sqe message = {
        .opcode = URING_OP_MSG_RING, .fd = fd, .len = res, .off = user_data};
    return ring_sys_register(-1, URING_REGISTER_SEND_MSG_RING, &message, 1);
}

static inline int ring_is_open(const struct ring *r) { return r->ring_map != NULL; }

static inline void ring_unmap(struct ring *r) {
    if (r->sqes_map) munmap(r->sqes_map, r->sqes_map_size);
    if (r->ring_map) munmap(r->ring_map, r->ring_map_size);
    r->sqes_map = r->ring_map = NULL;
}

static inline size_t ring_sqe_size(uint32_t flags) { return flags & URING_SETUP_SQE128 ? 128 : 64; }
static inline size_t ring_cqe_size(uint32_t flags) { return flags & URING_SETUP_CQE32 ? 32 : 16; }

/* Point into the queues, which lie at `base` and `sqes`. */
static inline void ring_point(struct ring *r, const struct uring_params *p, char *base,
                              void *sqes) {
    r->sq_khead = (uint32_t *)(base + p->sq_off.head);
    r->sq_ktail = (uint32_t *)(base + p->sq_off.tail);
    r->sq_kflags = (uint32_t *)(base + p->sq_off.flags);
    r->sq_kdropped = (uint32_t *)(base + p->sq_off.dropped);
    r->sq_mask = *(uint32_t *)(base + p->sq_off.ring_mask);
    r->sq_entries = p->sq_entries;
    r->sqes = sqes;
    r->cq_khead = (uint32_t *)(base + p->cq_off.head);
    r->cq_ktail = (uint32_t *)(base + p->cq_off.tail);
    r->cq_koverflow = (uint32_t *)(base + p->cq_off.overflow);
    r->cq_kflags = p->cq_off.flags ? (uint32_t *)(base + p->cq_off.flags) : NULL;
    r->cq_mask = *(uint32_t *)(base + p->cq_off.ring_mask);
    r->cq_entries = p->cq_entries;
    r->cqes = (struct uring_cqe *)(base + p->cq_off.cqes);
    r->sq_array = NULL;
    if (!(p->flags & URING_SETUP_NO_SQARRAY)) {
        /* The identity, written once: SQE i is always submitted from place i. */
        r->sq_array = (uint32_t *)(base + p->sq_off.array);
        for (uint32_t i = 0; i < p->sq_entries; i++) r->sq_array[i] = i;
    }
}

/* A forked child must not be able to touch the parent's queues. */
static inline void *ring_mmap(size_t size, int flags, int fd, uint64_t offset) {
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_POPULATE, fd, (off_t)offset);
    if (map != MAP_FAILED) madvise(map, size, MADV_DONTFORK);
    return map;
}

/* Map the queues that the kernel made for `p`. */
static inline int ring_map(struct ring *r, int fd, const struct uring_params *p) {
    size_t sq_end = p->flags & URING_SETUP_NO_SQARRAY
                        ? 0 : p->sq_off.array + (size_t)p->sq_entries * sizeof(uint32_t);
    size_t cq_end = p->cq_off.cqes + (size_t)p->cq_entries * ring_cqe_size(p->flags);
    r->ring_map_size = sq_end > cq_end ? sq_end : cq_end;
    r->sqes_map_size = (size_t)p->sq_entries * ring_sqe_size(p->flags);
    void *map = ring_mmap(r->ring_map_size, MAP_SHARED, fd, URING_OFF_SQ_RING);
    if (map == MAP_FAILED) return -errno;
    r->ring_map = map;
    map = ring_mmap(r->sqes_map_size, MAP_SHARED, fd, URING_OFF_SQES);
    if (map == MAP_FAILED) {
        int err = errno;
        ring_unmap(r);
        return -err;
    }
    r->sqes_map = map;
    return 0;
}

static inline uint32_t ring_power_of_two(uint32_t n) {
    uint32_t power = 1;
    while (power < n && power < 1u << 31) power <<= 1;
    return power;
}

/* NO_MMAP: supply the memory, in one piece, SQEs behind the queues.  The kernel computes the sizes
 * again and refuses what is too small.  Before it is asked nothing is known of its layout but that
 * the counters take 64 bytes (twice that with CQE32), and the parts are aligned to 64. */
static inline int ring_supply(struct ring *r, uint32_t entries, struct uring_params *p) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t sq = ring_power_of_two(entries);
    size_t cq = p->flags & URING_SETUP_CQSIZE ? ring_power_of_two(p->cq_entries) : 2 * sq;
    if (sq > URING_MAX_ENTRIES) sq = URING_MAX_ENTRIES;
    if (cq > URING_MAX_CQ_ENTRIES) cq = URING_MAX_CQ_ENTRIES;
    size_t queues = 128 + cq * ring_cqe_size(p->flags) + 64 + sq * sizeof(uint32_t);
    queues = (queues + page - 1) / page * page;
    size_t sqes = (sq * ring_sqe_size(p->flags) + page - 1) / page * page;
    void *map = ring_mmap(queues + sqes, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return -errno;
    r->ring_map = map;
    r->ring_map_size = queues + sqes;
    p->cq_off.user_addr = (uint64_t)(uintptr_t)map;
    p->sq_off.user_addr = p->cq_off.user_addr + queues;
    return 0;
}

/* Create a ring.  `p` carries flags, cq_entries, sq_thread_* and wq_fd in, everything out. */
static inline int ring_open(struct ring *r, uint32_t entries, struct uring_params *p) {
    int err = 0;
    memset(r, 0, sizeof *r);
    r->fd = r->enter_fd = -1;
    int ours = (p->flags & URING_SETUP_NO_MMAP) != 0;
    if (ours && (err = ring_supply(r, entries, p)) < 0) return err;
    int fd = ring_sys_setup(entries, p);
    if (fd < 0) {
        ring_unmap(r);
        return fd;
    }
    if (!(p->features & URING_FEAT_SINGLE_MMAP)) err = -ENOSYS; /* Linux < 5.4 */
    if (err == 0 && !ours) err = ring_map(r, fd, p);
    if (err < 0) {
        close(fd);
        return err;
    }
    r->setup_flags = p->flags;
    r->features = p->features;
    r->sqe_shift = (p->flags & URING_SETUP_SQE128) != 0;
    r->cqe_shift = (p->flags & URING_SETUP_CQE32) != 0;
    r->wide = (p->flags & (URING_SETUP_CQE32 | URING_SETUP_CQE_MIXED)) != 0;
    ring_point(r, p, r->ring_map,
               ours ? (void *)(uintptr_t)p->sq_off.user_addr : r->sqes_map);
    r->enter_fd = fd;
    if (p->flags & URING_SETUP_REGISTERED_FD_ONLY) {
        r->enter_flags = URING_ENTER_REGISTERED_RING; /* what set-up returned is an index */
    } else {
        r->fd = fd;
    }
    return 0;
}

/* The kernel may still write to buffers of requests in flight after this: drain first.  An index
 * keeps the ring alive: unregister it before, in the thread whose it is. */
static inline void ring_close(struct ring *r) {
    if (!ring_is_open(r)) return;
    ring_unmap(r);
    if (r->fd >= 0) close(r->fd);
    r->fd = r->enter_fd = -1;
}

/* SQEs handed out and not yet consumed by the kernel. */
static inline uint32_t ring_sq_ready(const struct ring *r) {
    return r->sqe_tail - __atomic_load_n(r->sq_khead, __ATOMIC_ACQUIRE);
}

/* Entries of the completion queue in use; in a wide ring not all of them need be completions. */
static inline uint32_t ring_cq_ready(const struct ring *r) {
    return __atomic_load_n(r->cq_ktail, __ATOMIC_ACQUIRE) - *r->cq_khead;
}

static inline struct uring_sqe *ring_sqe_at(const struct ring *r, uint32_t position) {
    return &r->sqes[(size_t)(position & r->sq_mask) << r->sqe_shift];
}

static inline void ring_clear_sqe(const struct ring *r, struct uring_sqe *sqe) {
    memset(sqe, 0, sizeof *sqe);
    if (r->sqe_shift) memset(sqe + 1, 0, sizeof *sqe);
}

/* The next free SQE, zeroed, or NULL when the queue is full. */
static inline struct uring_sqe *ring_get_sqe(struct ring *r) {
    uint32_t head = __atomic_load_n(r->sq_khead, __ATOMIC_ACQUIRE);
    if (r->sqe_tail - head >= r->sq_entries) return NULL;
    struct uring_sqe *sqe = ring_sqe_at(r, r->sqe_tail++);
    ring_clear_sqe(r, sqe);
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

/* The same with an argument of another kind, which `flags` names. */
static inline int ring_enter_arg(struct ring *r, uint32_t to_submit, uint32_t wait_nr,
                                 uint32_t flags, const void *arg, size_t size) {
    return ring_sys_enter(r->enter_fd, to_submit, wait_nr, flags | r->enter_flags, arg, size);
}

/* By the index where the ring has one and the kernel takes it (6.3), else by the descriptor. */
static inline int ring_register(struct ring *r, uint32_t opcode, void *arg, uint32_t nr_args) {
    if (r->enter_flags & URING_ENTER_REGISTERED_RING && r->features & URING_FEAT_REG_REG_RING)
        return ring_sys_register(r->enter_fd, opcode | URING_REGISTER_USE_REGISTERED_RING, arg,
                                 nr_args);
    return ring_sys_register(r->fd, opcode, arg, nr_args);
}

static inline int ring_cqe_is_big(const struct ring *r, const struct uring_cqe *cqe) {
    return r->cqe_shift || (r->wide && cqe->flags & URING_CQE_F_32);
}

/* Of a mixed ring a big CQE takes two places. */
static inline uint32_t ring_cqe_slots(const struct ring *r, const struct uring_cqe *cqe) {
    return ring_cqe_is_big(r, cqe) && !r->cqe_shift ? 2 : 1;
}

/* The completion at *head, or NULL when there is none before `tail`; *head moves behind it.  For
 * wide rings of every layout; fillers, the kernel's or our own, are passed over. */
static inline struct uring_cqe *ring_next_cqe(const struct ring *r, uint32_t *head, uint32_t tail) {
    while (*head != tail) {
        struct uring_cqe *cqe = &r->cqes[(size_t)(*head & r->cq_mask) << r->cqe_shift];
        *head += ring_cqe_slots(r, cqe);
        if (!(cqe->flags & URING_CQE_F_SKIP)) return cqe;
    }
    return NULL;
}

/* Give the places of fillers back that no completion is in front of. */
static inline void ring_drop_fillers(struct ring *r) {
    uint32_t head = *r->cq_khead, next = head;
    uint32_t tail = __atomic_load_n(r->cq_ktail, __ATOMIC_ACQUIRE);
    struct uring_cqe *cqe = ring_next_cqe(r, &next, tail);
    if (cqe) next -= ring_cqe_slots(r, cqe);
    if (next != head) __atomic_store_n(r->cq_khead, next, __ATOMIC_RELEASE);
}

/* ring_copy_cqes of a wide ring.  `big`, if given, gets the second halves of the big ones. */
static __attribute__((noinline, unused)) uint32_t ring_copy_wide_cqes(
        struct ring *r, struct uring_cqe *out, uint64_t (*big)[2], uint32_t max) {
    uint32_t n = 0, head = *r->cq_khead;
    uint32_t tail = __atomic_load_n(r->cq_ktail, __ATOMIC_ACQUIRE);
    struct uring_cqe *cqe;
    while (n < max && (cqe = ring_next_cqe(r, &head, tail))) {
        if (big && ring_cqe_is_big(r, cqe)) memcpy(big[n], cqe + 1, sizeof *big);
        out[n++] = *cqe;
    }
    __atomic_store_n(r->cq_khead, head, __ATOMIC_RELEASE);
    return n;
}

/* Copy the first completion out and free its place; 0 when there is none. */
static inline uint32_t ring_take_cqe(struct ring *r, struct uring_cqe *out, uint64_t (*big)[2]) {
    if (__builtin_expect(r->wide, 0)) return ring_copy_wide_cqes(r, out, big, 1);
    uint32_t head = *r->cq_khead;
    if (head == __atomic_load_n(r->cq_ktail, __ATOMIC_ACQUIRE)) return 0;
    *out = r->cqes[head & r->cq_mask];
    __atomic_store_n(r->cq_khead, head + 1, __ATOMIC_RELEASE);
    return 1;
}

/* Copy up to `max` completions out and free their places. */
static inline uint32_t ring_copy_cqes(struct ring *r, struct uring_cqe *out, uint32_t max) {
    if (__builtin_expect(r->wide, 0)) return ring_copy_wide_cqes(r, out, NULL, max);
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

/* Where the kernel puts the array of indices: behind the completions, aligned. */
static inline size_t ring_array_offset(const struct ring *r, uint32_t cq_entries) {
    size_t header = (char *)r->cqes - (char *)r->ring_map;
    size_t end = (header + cq_entries * sizeof(struct uring_cqe)) << r->cqe_shift;
    return (end + 63) & ~(size_t)63;
}

/* Give the queues the sizes in `p`.  No SQE may be queued, and in a wide ring no CQE.  When it fails
 * the ring is as it was; but 1 means that it is lost: the new queues cannot be mapped. */
static inline int ring_resize(struct ring *r, struct uring_params *p) {
    struct ring fresh = *r;
    uint32_t asked = p->flags;
    int err, ours = (r->setup_flags & URING_SETUP_NO_MMAP) != 0;
    fresh.ring_map = fresh.sqes_map = NULL;
    /* The kernel (6.18) does not say where the array of indices comes to lie. */
    if (r->sq_array
        && (size_t)((char *)r->sq_array - (char *)r->ring_map) != ring_array_offset(r, r->cq_entries))
        return -EOPNOTSUPP;
    if (ours) {
        p->flags |= r->setup_flags & (URING_SETUP_SQE128 | URING_SETUP_CQE32);
        if ((err = ring_supply(&fresh, p->sq_entries, p)) < 0) return err;
        p->flags = asked;
    }
    if ((err = ring_register(r, URING_REGISTER_RESIZE_RINGS, p, 1)) < 0) {
        ring_unmap(&fresh);
        return err;
    }
    p->flags = r->setup_flags;
    if (!p->sq_off.array) p->sq_off.array = (uint32_t)ring_array_offset(r, p->cq_entries);
    if (!ours && ring_map(&fresh, r->fd, p) < 0) return 1;
    ring_point(&fresh, p, fresh.ring_map,
               ours ? (void *)(uintptr_t)p->sq_off.user_addr : fresh.sqes_map);
    ring_unmap(r);
    *r = fresh;
    return 0;
}

/* Register the ring's own fd, so that enter need not look it up.  The index is valid in this
 * thread only, and the slot is given back when the thread ends. */
static inline int ring_register_own_fd(struct ring *r) {
    if (r->enter_flags & URING_ENTER_REGISTERED_RING) return 0;
    struct uring_rsrc_update up = {.offset = -1U, .data = (uint64_t)r->fd};
    int n = ring_register(r, URING_REGISTER_RING_FDS, &up, 1);
    if (n != 1) return n < 0 ? n : -EINVAL;
    r->enter_fd = (int)up.offset;
    r->enter_flags |= URING_ENTER_REGISTERED_RING;
    return 0;
}

static inline int ring_unregister_own_fd(struct ring *r) {
    if (!(r->enter_flags & URING_ENTER_REGISTERED_RING)) return 0;
    struct uring_rsrc_update up = {.offset = (uint32_t)r->enter_fd};
    int n = ring_register(r, URING_UNREGISTER_RING_FDS, &up, 1);
    r->enter_fd = r->fd;
    r->enter_flags &= ~URING_ENTER_REGISTERED_RING;
    return n < 0 ? n : 0;
}

#endif
