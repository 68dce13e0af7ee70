/* Batches: operations of one completion each, queued from arrays and completed into arrays.
 * No Python, no locks, no static state.
 *
 * An operation is a slot, from prep until its completion is taken.  Its key, the kernel's
 * user_data, names the slot, the queue, and which use of the slot it is:
 *
 *     63: 0   62, 61: 1   60..34: generation   33..20: queue   19..0: slot
 *
 * so a completion that is late, forged or double finds its own operation or none.
 */
#ifndef FERRULE_RING_BATCH_H
#define FERRULE_RING_BATCH_H

#include <stdbool.h>
#include <stdlib.h>

#include "ring.h"

#define BATCH_BITS (3ULL << 61)
#define BATCH_AT_REST (1ULL << 63) /* in a slot's key: not in flight */
#define BATCH_GONE (BATCH_AT_REST - 3) /* a completion that was taken: nobody's user_data */
#define BATCH_SLOT_BITS 20
#define BATCH_QUEUE_BITS 14
#define BATCH_MAX_CAPACITY (1u << BATCH_SLOT_BITS)
#define BATCH_MAX_QUEUES ((1u << BATCH_QUEUE_BITS) - 1)
#define BATCH_GENERATION (1ULL << (BATCH_SLOT_BITS + BATCH_QUEUE_BITS))
#define BATCH_MAX_LENGTH 0x7ffff000u /* what the kernel moves at most in one operation */

struct batch_slot {
    uint64_t key; /* of the operation in flight; else of the next one, with BATCH_AT_REST */
    uint64_t tag;
    int32_t res;   /* once it is stored: its result, */
    uint32_t next; /* and the slot stored after it */
};

/* A slot is free, in flight, or stored: completed, and not yet taken by the queue's owner. */
struct batch {
    struct batch_slot *slots;
    uint32_t *free; /* a stack of free_count slots */
    uint32_t capacity, free_count, in_flight, stored, first_stored, last_stored;
};

/* The queues of a ring, by their number; NULL where there is none. */
struct batch_table {
    struct batch **queues;
    uint32_t count, in_flight, stored;
    uint64_t completed; /* ever */
};

static inline void batch_free(struct batch *b) {
    free(b->slots);
    free(b->free);
    memset(b, 0, sizeof *b);
}

static inline int batch_allocate(struct batch *b, uint32_t number, uint32_t capacity,
                                 uint64_t generation) {
    memset(b, 0, sizeof *b);
    b->slots = calloc(capacity, sizeof *b->slots);
    b->free = calloc(capacity, sizeof *b->free);
    if (!b->slots || !b->free) {
        batch_free(b);
        return -ENOMEM;
    }
    uint64_t key = generation * BATCH_GENERATION | (uint64_t)number << BATCH_SLOT_BITS |
                   BATCH_BITS | BATCH_AT_REST;
    for (uint32_t i = 0; i < capacity; i++) {
        b->slots[i].key = key | i;
        b->free[i] = capacity - 1 - i; /* low ones first */
    }
    b->capacity = b->free_count = capacity;
    return 0;
}

/* Give queue `number` its place in the table. */
static inline int batch_add(struct batch_table *t, struct batch *b, uint32_t number) {
    if (number >= t->count) {
        struct batch **queues = realloc(t->queues, (number + 1) * sizeof *queues);
        if (!queues) return -ENOMEM;
        while (t->count <= number) queues[t->count++] = NULL;
        t->queues = queues;
    }
    t->queues[number] = b;
    return 0;
}

/* What it has stored is dropped, and what is in flight will find nothing. */
static inline void batch_remove(struct batch_table *t, struct batch *b, uint32_t number) {
    t->queues[number] = NULL;
    t->stored -= b->stored;
    t->in_flight -= b->in_flight;
    batch_free(b);
}

static inline void batch_free_table(struct batch_table *t) {
    free(t->queues);
    t->queues = NULL;
    t->count = 0;
}

/* ---- slots ----------------------------------------------------------------------------- */

static inline struct batch *batch_find(const struct batch_table *t, uint64_t key) {
    if (key >> 61 != 3) return NULL;
    uint32_t number = key >> BATCH_SLOT_BITS & BATCH_MAX_QUEUES;
    if (number >= t->count) return NULL;
    struct batch *b = t->queues[number];
    uint32_t slot = key & (BATCH_MAX_CAPACITY - 1);
    return b && slot < b->capacity && b->slots[slot].key == key ? b : NULL;
}

static inline bool batch_in_flight(const struct batch_slot *s) { return !(s->key & BATCH_AT_REST); }

static inline struct batch_slot *batch_slot_of(struct batch *b, uint64_t key) {
    return &b->slots[key & (BATCH_MAX_CAPACITY - 1)];
}

/* The operation has ended: its key means nothing any more. */
static inline void batch_rest(struct batch_table *t, struct batch *b, struct batch_slot *s) {
    s->key = (s->key + BATCH_GENERATION) | BATCH_BITS | BATCH_AT_REST;
    b->in_flight--;
    t->in_flight--;
}

/* Keep a completion for the queue's owner.  There is always room: its slot. */
static inline void batch_store(struct batch_table *t, struct batch *b, struct batch_slot *s,
                               int32_t res) {
    uint32_t index = (uint32_t)(s - b->slots);
    batch_rest(t, b, s);
    s->res = res;
    if (b->stored++ == 0)
        b->first_stored = index;
    else
        b->slots[b->last_stored].next = index;
    b->last_stored = index;
    t->stored++;
    t->completed++;
}

/* A completion that was taken out of the completion queue; false when it is no batch's. */
static inline bool batch_settle(struct batch_table *t, uint64_t key, int32_t res) {
    struct batch *b = batch_find(t, key);
    if (!b) return false;
    batch_store(t, b, batch_slot_of(b, key), res);
    return true;
}

/* An operation that the kernel will never see. */
static inline bool batch_forget(struct batch_table *t, uint64_t key) {
    struct batch *b = batch_find(t, key);
    if (!b) return false;
    batch_rest(t, b, batch_slot_of(b, key));
    b->free[b->free_count++] = key & (BATCH_MAX_CAPACITY - 1);
    return true;
}

/* ---- preparing --------------------------------------------------------------------------- */

/* An argument with a value for each operation, or (step 0) one for all. */
struct batch_column {
    const char *at;
    size_t step;
    union { int32_t i; uint32_t u; int64_t q; uint8_t b; } value;
};

enum { BATCH_FDS = 1, BATCH_STARTS, BATCH_LENGTHS, BATCH_OFFSETS, BATCH_FLAGS };

struct batch_plan {
    uint8_t opcode;
    uint16_t buf_index;
    uint32_t op_flags;
    struct batch_column fds;     /* int32_t */
    struct batch_column starts;  /* int64_t; with step 0 where the first slice starts, and each
                                    of the others where the one before it ends */
    struct batch_column lengths; /* uint32_t */
    struct batch_column offsets; /* int64_t */
    struct batch_column flags;   /* uint8_t, IOSQE_ */
    struct batch_column tags;    /* uint64_t; without a place: 0, 1, 2, ... */
    char *memory;
    uint64_t size;
    /* told when a value is refused */
    uint32_t wrong_index;
    int64_t wrong_value, wrong_length;
};

/* Read once (volatile): without the GIL another thread may write to the array meanwhile. */
#define BATCH_VALUE(column, type, i) (*(const volatile type *)((column).at + (i) * (column).step))

static inline struct uring_sqe *batch_sqe(struct ring *r, uint32_t ahead) {
    struct uring_sqe *sqe = ring_sqe_at(r, r->sqe_tail + ahead);
    ring_clear_sqe(r, sqe);
    return sqe;
}

/* How many of `count` operations there is room for. */
static inline uint32_t batch_room(const struct ring *r, const struct batch *b, uint64_t count) {
    uint32_t room = r->sq_entries - ring_sq_ready(r);
    if (room > b->free_count) room = b->free_count;
    return count < room ? (uint32_t)count : room;
}

/* The slot of the operation that is `ahead` of those begun; nothing is taken before batch_begin. */
static inline uint64_t batch_claim(struct batch *b, uint32_t ahead, uint64_t tag) {
    struct batch_slot *s = &b->slots[b->free[b->free_count - 1 - ahead]];
    s->tag = tag;
    return s->key & ~BATCH_AT_REST;
}

/* Begin the next `count` operations, whose SQEs are filled. */
static inline void batch_begin(struct ring *r, struct batch_table *t, struct batch *b,
                               uint32_t count) {
    for (uint32_t i = 0; i < count; i++) b->slots[b->free[--b->free_count]].key &= ~BATCH_AT_REST;
    b->in_flight += count;
    t->in_flight += count;
    r->sqe_tail += count;
}

struct batch_item {
    int32_t fd;
    uint32_t length;
    int64_t start, offset;
    uint8_t flags;
};

static inline struct batch_item batch_item_of(const struct batch_plan *p, uint32_t i, int64_t end) {
    return (struct batch_item){
        .fd = BATCH_VALUE(p->fds, int32_t, i),
        .length = BATCH_VALUE(p->lengths, uint32_t, i),
        .start = p->starts.step ? BATCH_VALUE(p->starts, int64_t, i) : end,
        .offset = BATCH_VALUE(p->offsets, int64_t, i),
        .flags = BATCH_VALUE(p->flags, uint8_t, i),
    };
}

static inline int batch_refuse(struct batch_plan *p, int argument, int64_t value) {
    p->wrong_value = value;
    return argument;
}

/* The argument that has a wrong value, or 0. */
static inline int batch_check(struct batch_plan *p, const struct batch_item *item) {
    const uint8_t allowed = URING_SQE_FIXED_FILE | URING_SQE_IO_DRAIN | URING_SQE_IO_LINK |
                            URING_SQE_IO_HARDLINK | URING_SQE_ASYNC;
    uint64_t start = (uint64_t)item->start;
    p->wrong_length = item->length;
    if (item->fd < 0) return batch_refuse(p, BATCH_FDS, item->fd);
    if (item->length > BATCH_MAX_LENGTH) return batch_refuse(p, BATCH_LENGTHS, item->length);
    if (item->start < 0 || item->length > p->size || start > p->size - item->length)
        return batch_refuse(p, BATCH_STARTS, item->start);
    if (item->offset < -1) return batch_refuse(p, BATCH_OFFSETS, item->offset);
    if (item->flags & ~allowed) return batch_refuse(p, BATCH_FLAGS, item->flags);
    return 0;
}

/* Fill SQEs as planned, each value read once and checked.  Returns how many there was room for, or
 * minus the argument (BATCH_...) that has a wrong value; then nothing was begun. */
static inline int64_t batch_prep(struct ring *r, struct batch_table *t, struct batch *b,
                                 struct batch_plan *p, uint64_t count) {
    uint32_t room = batch_room(r, b, count);
    int64_t end = room ? BATCH_VALUE(p->starts, int64_t, 0) : 0;
    for (uint32_t i = 0; i < room; i++) {
        struct batch_item item = batch_item_of(p, i, end);
        int wrong = batch_check(p, &item);
        if (wrong) {
            p->wrong_index = i;
            return -wrong;
        }
        end = item.start + item.length;
        struct uring_sqe *sqe = batch_sqe(r, i);
        sqe->opcode = p->opcode;
        sqe->flags = item.flags;
        r->flags_used |= item.flags;
        sqe->fd = item.fd;
        sqe->off = (uint64_t)item.offset;
        sqe->addr = (uint64_t)(uintptr_t)(p->memory + item.start);
        sqe->len = item.length;
        sqe->op_flags = p->op_flags;
        sqe->buf_index = p->buf_index;
        sqe->user_data = batch_claim(b, i, p->tags.at ? BATCH_VALUE(p->tags, uint64_t, i) : i);
    }
    batch_begin(r, t, b, room);
    return room;
}

static inline uint32_t batch_prep_nop(struct ring *r, struct batch_table *t, struct batch *b,
                                      uint64_t count, const uint64_t *tags) {
    uint32_t room = batch_room(r, b, count);
    for (uint32_t i = 0; i < room; i++) {
        struct uring_sqe *sqe = batch_sqe(r, i);
        sqe->opcode = URING_OP_NOP;
        sqe->fd = -1;
        sqe->user_data = batch_claim(b, i, tags ? tags[i] : i);
    }
    batch_begin(r, t, b, room);
    return room;
}

/* ---- completing -------------------------------------------------------------------------- */

/* How many completions of `b` wait in the completion queue. */
static inline uint32_t batch_ready(const struct ring *r, const struct batch_table *t,
                                   const struct batch *b) {
    uint32_t head = *r->cq_khead, count = 0;
    for (uint32_t n = ring_cq_ready(r); n; n--, head++)
        count += batch_find(t, r->cqes[head & r->cq_mask].user_data) == b;
    return count;
}

/* Move the completions between `first` and `end` that are not gone behind the others, and give the
 * places before them back.  The entries between head and tail are ours to rearrange. */
static inline uint32_t batch_close_gaps(struct ring *r, uint32_t first, uint32_t end) {
    uint32_t to = end;
    for (uint32_t from = end; from != first;) {
        struct uring_cqe *cqe = &r->cqes[--from & r->cq_mask];
        if (cqe->user_data != BATCH_GONE) r->cqes[--to & r->cq_mask] = *cqe;
    }
    __atomic_store_n(r->cq_khead, to, __ATOMIC_RELEASE);
    return end - to;
}

/* Where completions go; `room` is how many fit. */
struct batch_results {
    int32_t *results;
    uint64_t *tags; /* or NULL */
    uint32_t room, taken;
};

static inline void batch_give(struct batch *b, struct batch_slot *s, int32_t res,
                              struct batch_results *out) {
    out->results[out->taken] = res;
    if (out->tags) out->tags[out->taken] = s->tag;
    out->taken++;
    b->free[b->free_count++] = (uint32_t)(s - b->slots);
}

/* Take the batch completions out of the completion queue, and leave all others in their order.
 * Those of `own` go to `out`, until that is full; those of other queues are stored.  Returns how
 * many others were met: they are first now. */
static inline uint32_t batch_gather(struct ring *r, struct batch_table *t, struct batch *own,
                                    struct batch_results *out) {
    uint32_t at = *r->cq_khead, tail = at + ring_cq_ready(r), kept = 0, first_kept = 0;
    for (; at != tail; at++) {
        struct uring_cqe *cqe = &r->cqes[at & r->cq_mask];
        struct batch *b = batch_find(t, cqe->user_data);
        if (!b) {
            if (kept++ == 0) first_kept = at;
            continue;
        }
        struct batch_slot *s = batch_slot_of(b, cqe->user_data);
        if (b != own) {
            batch_store(t, b, s, cqe->res);
        } else {
            if (out->taken == out->room) break;
            batch_rest(t, b, s);
            batch_give(b, s, cqe->res, out);
            t->completed++;
        }
        if (kept) cqe->user_data = BATCH_GONE;
    }
    return batch_close_gaps(r, kept ? first_kept : at, at);
}

/* Take what was stored, oldest first. */
static inline void batch_unstore(struct batch_table *t, struct batch *b,
                                 struct batch_results *out) {
    while (b->stored && out->taken < out->room) {
        struct batch_slot *s = &b->slots[b->first_stored];
        b->first_stored = s->next;
        b->stored--;
        t->stored--;
        batch_give(b, s, s->res, out);
    }
}

/* ---- the end ----------------------------------------------------------------------------- */

/* What the kernel has not seen of `b` becomes an operation that fails, so that what was linked
 * behind it does not run.  `key` and `target` are a cancel's user_data and what it looks for. */
static inline uint32_t batch_withdraw(struct ring *r, struct batch_table *t, struct batch *b,
                                      uint64_t key, uint64_t target) {
    uint32_t count = 0;
    uint32_t at = r->setup_flags & URING_SETUP_SQPOLL ? r->sqe_head : r->sqe_tail - ring_sq_ready(r);
    for (; at != r->sqe_tail; at++) {
        struct uring_sqe *sqe = ring_sqe_at(r, at);
        if (batch_find(t, sqe->user_data) != b) continue;
        batch_forget(t, sqe->user_data);
        uint8_t flags = sqe->flags & (URING_SQE_IO_LINK | URING_SQE_IO_HARDLINK | URING_SQE_IO_DRAIN);
        ring_clear_sqe(r, sqe);
        sqe->opcode = URING_OP_ASYNC_CANCEL;
        sqe->flags = flags;
        sqe->fd = -1;
        sqe->addr = target;
        sqe->user_data = key;
        count++;
    }
    return count;
}

#endif
