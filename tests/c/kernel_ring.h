/* Rings of the running kernel, for tests that need one. */
#ifndef KERNEL_RING_H
#define KERNEL_RING_H

#include "ring.h"

#include "check.h"

/* Returns 0, or -errno when this kernel has no ring with these flags. */
static inline int open_ring_with(struct ring *r, uint32_t flags, uint32_t entries,
                                 uint32_t cq_entries) {
    struct uring_params p = {.flags = flags, .cq_entries = cq_entries};
    if (cq_entries) p.flags |= URING_SETUP_CQSIZE;
    return ring_open(r, entries, &p);
}

static inline void exit_unless_rings_work(void) {
    struct ring r;
    int err = open_ring_with(&r, 0, 1, 0);
    if (err < 0) {
        printf("no io_uring here: %s\n", strerror(-err));
        exit(SKIPPED);
    }
    ring_close(&r);
}

static inline struct uring_sqe *queue(struct ring *r, uint8_t opcode, uint64_t user_data) {
    struct uring_sqe *sqe = ring_get_sqe(r);
    CHECK(sqe != NULL);
    sqe->opcode = opcode;
    sqe->fd = -1;
    sqe->user_data = user_data;
    return sqe;
}

/* Submit all that is queued and wait for `count` completions to be there. */
static inline void submit_and_wait(struct ring *r, uint32_t count) {
    uint32_t n = ring_flush(r);
    CHECK_EQ(ring_enter(r, n, count, URING_ENTER_GETEVENTS, NULL), n);
}

#endif
