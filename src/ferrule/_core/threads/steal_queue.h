/* The ready work of one thread, oldest first, of which idle threads steal half.
 *
 * The owner alone adds, at the tail, and closes; owner and thieves take at the head.  The head is
 * two indexes in one word: `real`, where the next taker begins, and `kept`, the first slot that may
 * not be written yet.  They differ while a thief copies what it has claimed.  So the owner goes on
 * popping and pushing meanwhile, and only a second thief is turned away.
 *
 * Indexes run freely and are masked on use.  A thread that stood still between its load of the head
 * and its CAS while exactly 2^32 items passed would be deceived.
 */
#ifndef FERRULE_STEAL_QUEUE_H
#define FERRULE_STEAL_QUEUE_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "atomics.h"

#ifndef STEAL_QUEUE_CAPACITY
#define STEAL_QUEUE_CAPACITY 256u
#endif
_Static_assert(STEAL_QUEUE_CAPACITY >= 2 &&
               (STEAL_QUEUE_CAPACITY & (STEAL_QUEUE_CAPACITY - 1)) == 0, "a power of two");

struct steal_queue {
    uint64_t head; /* kept << 32 | real */
    uint32_t tail; /* written by the owner alone */
    bool closed;   /* the owner's */
    void *items[STEAL_QUEUE_CAPACITY];
};

static inline uint32_t steal_queue_real(uint64_t head) { return (uint32_t)head; }
static inline uint32_t steal_queue_kept(uint64_t head) { return (uint32_t)(head >> 32); }

static inline uint64_t steal_queue_head(uint32_t kept, uint32_t real) {
    return (uint64_t)kept << 32 | real;
}

static inline void **steal_queue_slot(struct steal_queue *q, uint32_t index) {
    return &q->items[index & (STEAL_QUEUE_CAPACITY - 1)];
}

static inline void steal_queue_init(struct steal_queue *q) { memset(q, 0, sizeof *q); }

/* The owner.  The acquire pairs with the release of a thief that has copied (steal_queue_release):
 * what it read may be written over now. */
static inline uint32_t steal_queue_room(struct steal_queue *q) {
    uint32_t kept = steal_queue_kept(ATOMIC_LOAD(&q->head, ACQUIRE));
    return STEAL_QUEUE_CAPACITY - (OWN_LOAD(&q->tail) - kept);
}

/* The owner.  0; -ENOBUFS when full: then spill, and put the item behind what was spilled;
 * -ESHUTDOWN when closed. */
static inline int steal_queue_push(struct steal_queue *q, void *item) {
    if (q->closed) return -ESHUTDOWN;
    if (!steal_queue_room(q)) return -ENOBUFS;
    uint32_t tail = OWN_LOAD(&q->tail);
    PLAIN_STORE(steal_queue_slot(q, tail), item);
    /* Pairs with the load in steal_queue_claim: whoever sees this tail sees the item. */
    ATOMIC_STORE(&q->tail, tail + 1, RELEASE);
    return 0;
}

/* The owner.  Takes the oldest, `most` of them or fewer, and returns how many. */
static inline uint32_t steal_queue_take(struct steal_queue *q, void **out, uint32_t most) {
    uint64_t head = ATOMIC_LOAD(&q->head, ACQUIRE), next;
    uint32_t real, n;
    do {
        real = steal_queue_real(head);
        n = OWN_LOAD(&q->tail) - real;
        if (n > most) n = most;
        if (!n) return 0;
        uint32_t kept = steal_queue_kept(head);
        next = steal_queue_head(kept == real ? real + n : kept, real + n);
        /* The release is for steal_queue_claim: a thief that sees this head sees no older tail. */
    } while (!ATOMIC_CAS(&q->head, &head, next, ACQ_REL, ACQUIRE));
    /* Nobody else writes to these slots, and the owner is here. */
    for (uint32_t i = 0; i < n; i++) out[i] = PLAIN_LOAD(steal_queue_slot(q, real + i));
    return n;
}

/* The owner.  The oldest, or NULL. */
static inline void *steal_queue_pop(struct steal_queue *q) {
    void *item = NULL;
    steal_queue_take(q, &item, 1);
    return item;
}

/* The owner, when a push found no room.  Moves half a queue, or `most`, to `out` and returns how
 * many.  It makes no room while a thief still copies, so the new item goes where these go. */
static inline uint32_t steal_queue_spill(struct steal_queue *q, void **out, uint32_t most) {
    const uint32_t half = STEAL_QUEUE_CAPACITY / 2;
    return steal_queue_take(q, out, most < half ? most : half);
}

/* A thief.  Claims half of what is there, rounded up, or `most`; returns how many, with the first
 * at *from.  Until steal_queue_release the owner writes over none of them. */
static inline uint32_t steal_queue_claim(struct steal_queue *q, uint32_t most, uint32_t *from) {
    uint64_t head = ATOMIC_LOAD(&q->head, ACQUIRE);
    for (;;) {
        uint32_t real = steal_queue_real(head);
        if (steal_queue_kept(head) != real) return 0; /* another thief is at it */
        uint32_t n = ATOMIC_LOAD(&q->tail, ACQUIRE) - real;
        n -= n / 2;
        if (n > most) n = most;
        if (!n) return 0;
        /* If the head was older than the tail, n is nonsense, and so this fails.  The release is
         * for the next thief, as in steal_queue_take. */
        if (ATOMIC_CAS(&q->head, &head, steal_queue_head(real, real + n), ACQ_REL, ACQUIRE)) {
            *from = real;
            return n;
        }
    }
}

static inline void steal_queue_release(struct steal_queue *q) {
    uint64_t head = ATOMIC_LOAD(&q->head, RELAXED);
    uint32_t real;
    do real = steal_queue_real(head); /* the owner may have popped meanwhile */
    while (!ATOMIC_CAS(&q->head, &head, steal_queue_head(real, real), RELEASE, RELAXED));
}

/* By the owner of `mine`.  Moves half of what the victim has to `mine`, as far as there is room,
 * all but the oldest, which it returns; NULL when there was nothing, when another thief is at it,
 * or when `mine` is closed.  So NULL does not mean that the victim is empty. */
static inline void *steal_queue_steal(struct steal_queue *victim, struct steal_queue *mine) {
    if (mine->closed) return NULL;
    uint32_t from, n = steal_queue_claim(victim, steal_queue_room(mine) + 1, &from);
    if (!n) return NULL;
    uint32_t tail = OWN_LOAD(&mine->tail);
    void *first = PLAIN_LOAD(steal_queue_slot(victim, from));
    for (uint32_t i = 1; i < n; i++) {
        void *item = PLAIN_LOAD(steal_queue_slot(victim, from + i));
        PLAIN_STORE(steal_queue_slot(mine, tail++), item);
    }
    steal_queue_release(victim);
    if (n > 1) ATOMIC_STORE(&mine->tail, tail, RELEASE); /* as in push */
    return first;
}

/* Any thread.  How many were there a moment ago; not 0 if one was there all the time. */
static inline uint32_t steal_queue_count(struct steal_queue *q) {
    uint32_t real = steal_queue_real(ATOMIC_LOAD(&q->head, ACQUIRE)); /* first: see claim */
    uint32_t n = ATOMIC_LOAD(&q->tail, ACQUIRE) - real;
    return n < STEAL_QUEUE_CAPACITY ? n : STEAL_QUEUE_CAPACITY;
}

/* The owner, or who has joined the owner's thread.  From here on nothing can be added, by pushing
 * or by stealing; who then pops until NULL has seen the last. */
static inline void steal_queue_close(struct steal_queue *q) { q->closed = true; }

#endif
