/* A kernel of our own: queues in heap blocks of their exact size, so that a step beyond either end is
 * seen, and indices that start where we like.
 */
#ifndef FAKE_KERNEL_H
#define FAKE_KERNEL_H

#include "ring.h"

#include "check.h"

/* Where the indices stand at first: also just before they wrap at 2^32. */
static const uint32_t starts[] = {0, 1, 5, UINT32_MAX - 2, UINT32_MAX};
#define STARTS (sizeof starts / sizeof *starts)

struct kernel {
    uint32_t sq_head, sq_tail, sq_flags, cq_head, cq_tail;
};

static inline void open_queues(struct ring *r, struct kernel *k, uint32_t setup_flags,
                               uint32_t sq_entries, uint32_t cq_entries, uint32_t start) {
    size_t sq_size = sq_entries * ring_sqe_size(setup_flags);
    size_t cq_size = cq_entries * ring_cqe_size(setup_flags);
    *k = (struct kernel){start, start, 0, start, start};
    *r = (struct ring){.fd = -1, .enter_fd = -1, .setup_flags = setup_flags,
                       .sqe_shift = (setup_flags & URING_SETUP_SQE128) != 0,
                       .cqe_shift = (setup_flags & URING_SETUP_CQE32) != 0,
                       .wide = (setup_flags & (URING_SETUP_CQE32 | URING_SETUP_CQE_MIXED)) != 0,
                       .sqe_head = start, .sqe_tail = start,
                       .sq_mask = sq_entries - 1, .sq_entries = sq_entries,
                       .sq_khead = &k->sq_head, .sq_ktail = &k->sq_tail,
                       .sq_kflags = &k->sq_flags,
                       .cq_mask = cq_entries - 1, .cq_entries = cq_entries,
                       .cq_khead = &k->cq_head, .cq_ktail = &k->cq_tail,
                       .sqes = malloc(sq_size), .cqes = malloc(cq_size)};
    CHECK(r->sqes && r->cqes);
    memset(r->sqes, 0xff, sq_size);
    memset(r->cqes, 0xff, cq_size);
}

static inline void close_queues(struct ring *r) {
    free(r->sqes);
    free(r->cqes);
}

/* Post a completion of 16 bytes, or of 32 whose second half is `extra`; 0 when there is no room. */
static inline int post(struct ring *r, struct kernel *k, uint64_t user_data, int32_t res,
                       uint64_t extra) {
    uint32_t places = extra && !r->cqe_shift ? 2 : 1, place = k->cq_tail & r->cq_mask;
    uint32_t filler = places == 2 && place == r->cq_mask; /* a big one does not go round the end */
    if (r->cq_entries - (k->cq_tail - k->cq_head) < places + filler) return 0;
    if (filler) {
        r->cqes[place] = (struct uring_cqe){.flags = URING_CQE_F_SKIP};
        place = ++k->cq_tail & r->cq_mask;
    }
    struct uring_cqe *cqe = &r->cqes[(size_t)place << r->cqe_shift];
    *cqe = (struct uring_cqe){.user_data = user_data, .res = res,
                              .flags = places == 2 ? URING_CQE_F_32 : 0};
    if (places == 2 || r->cqe_shift) {
        uint64_t second[2] = {extra, 3 * extra}; /* might be a completion itself */
        memcpy(cqe + 1, second, sizeof second);
    }
    k->cq_tail += places;
    return 1;
}

#endif
