/* A bounded queue of pointers for any number of readers and writers.
 *
 * A ring of slots, of which each reader and each writer takes the next index, unconditionally and
 * never to give it back; what remains is between the two who meet at one slot.  A reader that finds
 * it empty and will not wait marks it, and the writer that comes for the same turn skips it and
 * takes another index.  Readers may be rounds ahead, so a slot counts its marks:
 *
 *               push                pop that waits      pop that does not
 *     empty     full(entry)         waits               skip(1), found nothing
 *     full      waits               empty, the entry    empty, the entry
 *     skip(n)   skip(n - 1), again  waits               skip(n + 1), found nothing
 *
 * with skip(0) for empty.  Who waits says so in the slot, and sleeps in one of a few monitors that
 * the slots share; who changes a slot where somebody waits wakes all who sleep there.
 *
 * So a pop that does not wait may find nothing although something is there, for a writer that is
 * behind; and readers that poll without a pause can keep writers behind for ever.  Poll when there
 * is something else to do.
 *
 * See Nikolaev and Ravindran for the idea of unconditional indexes: https://arxiv.org/abs/2201.02179
 */
#ifndef FERRULE_SLOT_QUEUE_H
#define FERRULE_SLOT_QUEUE_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "atomics.h"
#include "monitor.h"

#define SLOT_QUEUE_LINE 64
#define SLOT_QUEUE_MONITORS 64u
#define SLOT_QUEUE_PATIENCE 1000u /* pauses, at first and at most */
#define SLOT_QUEUE_IMPATIENCE 7u  /* at least, to see whether it is enough again */

/* How many a batch holds: a cache line of pointers. */
#ifndef SLOT_BATCH
#define SLOT_BATCH (SLOT_QUEUE_LINE / sizeof(void *))
#endif

struct slot_queue {
    uintptr_t *slots;
    struct monitor *monitors;
    size_t mask; /* of slots */
    unsigned monitor_bits;
    /* Lines of their own, wherever this struct lies. */
    char before_head[SLOT_QUEUE_LINE];
    size_t head; /* the next writer's; indexes run freely and are masked on use */
    char before_tail[SLOT_QUEUE_LINE];
    size_t tail; /* the next reader's */
    char before_patience[SLOT_QUEUE_LINE];
    uint32_t patience; /* pauses before a sleep */
    char after_patience[SLOT_QUEUE_LINE];
};

/* ---- a slot's word: an entry, or a count of skips, above two bits ---- */

#define SLOT_EMPTY ((uintptr_t)0)
#define SLOT_AWAITED ((uintptr_t)1) /* somebody sleeps until the word changes */
#define SLOT_SKIPS ((uintptr_t)2)   /* a count */
#define SLOT_ONE_SKIP ((uintptr_t)4)

/* NULL when there is none. */
static inline void *slot_entry(uintptr_t word) {
    return word & SLOT_SKIPS ? NULL : (void *)(word & ~SLOT_AWAITED);
}

static inline uintptr_t slot_after_push(uintptr_t word, void *entry) {
    word &= ~SLOT_AWAITED;
    if (word == SLOT_EMPTY) return (uintptr_t)entry;
    return word == (SLOT_ONE_SKIP | SLOT_SKIPS) ? SLOT_EMPTY : word - SLOT_ONE_SKIP;
}

static inline uintptr_t slot_after_pop(uintptr_t word) {
    if (slot_entry(word)) return SLOT_EMPTY;
    return ((word & ~SLOT_AWAITED) + SLOT_ONE_SKIP) | SLOT_SKIPS;
}

/* ---- to wait for a slot, and to wake who does ---- */

/* Readers wait at the same time for neighbours, or a batch apart: they get different monitors. */
static inline struct monitor *slot_queue_monitor(struct slot_queue *q, size_t index) {
    uint32_t hash = (uint32_t)(index & q->mask) * 0x9e3779b1u;
    return &q->monitors[(uint64_t)hash >> (32 - q->monitor_bits)];
}

static inline void slot_queue_pause(void) {
#if defined __x86_64__ || defined __i386__
    __builtin_ia32_pause();
#elif defined __aarch64__
    __asm__ volatile("yield");
#endif
}

/* Whether the word has changed meanwhile.  A sleep and its wake-up cost as much as many pauses (two
 * threads that hand one entry to and fro: 33 us, spinning 0.4), but where the other side is slow
 * each pause is lost: so `patience` is twice what was last enough, and less after each spin in vain.
 * Where there are more threads than processors a spin keeps the other side from running (three on
 * two: 25 % slower), so on two there is none. */
static inline bool slot_queue_spin(struct slot_queue *q, size_t index, uintptr_t *word) {
    uint32_t patience = ATOMIC_LOAD(&q->patience, RELAXED);
    for (uint32_t pauses = 1; pauses <= patience; pauses++) {
        slot_queue_pause();
        uintptr_t now = ATOMIC_LOAD(&q->slots[index & q->mask], RELAXED);
        if (now == *word) continue;
        *word = now;
        if (2 * pauses > patience)
            ATOMIC_STORE(&q->patience, 2 * pauses < SLOT_QUEUE_PATIENCE ? 2 * pauses
                                                                        : SLOT_QUEUE_PATIENCE,
                         RELAXED);
        return true;
    }
    if (patience > SLOT_QUEUE_IMPATIENCE)
        ATOMIC_STORE(&q->patience, patience - patience / 4, RELAXED);
    return false;
}

#ifndef SLOT_QUEUE_SPIN
#define SLOT_QUEUE_SPIN slot_queue_spin
#endif

/* Until the slot's word is another one, which it returns. */
static inline uintptr_t slot_queue_wait(struct slot_queue *q, size_t index, uintptr_t word) {
    uintptr_t *slot = &q->slots[index & q->mask];
    if (SLOT_QUEUE_SPIN(q, index, &word)) return word;
    struct monitor *monitor = slot_queue_monitor(q, index);
    monitor_enter(monitor);
    uintptr_t now = ATOMIC_LOAD(slot, RELAXED);
    if (now == word && !(word & SLOT_AWAITED) &&
        ATOMIC_CAS(slot, &now, word | SLOT_AWAITED, RELAXED, RELAXED))
        now = word |= SLOT_AWAITED;
    while (now == word) {
        monitor_sleep(monitor);
        now = ATOMIC_LOAD(slot, RELAXED);
    }
    monitor_leave(monitor);
    return now;
}

/* After the word has changed.  To have been inside is enough: who saw the old word there sleeps by
 * now.  Woken outside, the sleepers need not wait for us to leave. */
static inline void slot_queue_wake(struct slot_queue *q, size_t index) {
    struct monitor *monitor = slot_queue_monitor(q, index);
    monitor_enter(monitor);
    monitor_leave(monitor);
    monitor_wake_all(monitor);
}

/* ---- one turn of a slot ---- */

/* Whether the entry is in it; if not, the reader of this turn has gone. */
static inline bool slot_queue_put(struct slot_queue *q, size_t index, void *entry) {
    uintptr_t *slot = &q->slots[index & q->mask];
    uintptr_t word = ATOMIC_LOAD(slot, RELAXED);
    for (;;) {
        if (slot_entry(word)) {
            word = slot_queue_wait(q, index, word);
        } else if (ATOMIC_CAS(slot, &word, slot_after_push(word, entry), RELEASE, RELAXED)) {
            /* The release pairs with the acquire of who takes the entry. */
            if (word & SLOT_AWAITED) slot_queue_wake(q, index);
            return !(word & SLOT_SKIPS);
        }
    }
}

static inline void *slot_queue_take(struct slot_queue *q, size_t index, bool block) {
    uintptr_t *slot = &q->slots[index & q->mask];
    uintptr_t word = ATOMIC_LOAD(slot, RELAXED);
    for (;;) {
        if (block && !slot_entry(word)) {
            word = slot_queue_wait(q, index, word);
        } else if (ATOMIC_CAS(slot, &word, slot_after_pop(word), ACQUIRE, RELAXED)) {
            if (word & SLOT_AWAITED) slot_queue_wake(q, index);
            return slot_entry(word);
        }
    }
}

/* ---- the queue ---- */

/* Nobody uses it, and nobody will. */
static inline void slot_queue_destroy(struct slot_queue *q) {
    if (q->monitors)
        for (size_t i = 0; i < (size_t)1 << q->monitor_bits; i++) monitor_destroy(&q->monitors[i]);
    free(q->monitors);
    free(q->slots);
}

static inline int slot_queue_init_monitors(struct slot_queue *q) {
    size_t count = 1;
    while (count <= q->mask && count < SLOT_QUEUE_MONITORS) {
        count *= 2;
        q->monitor_bits++;
    }
    q->monitors = aligned_alloc(_Alignof(struct monitor), count * sizeof *q->monitors);
    if (!q->monitors) return ENOMEM;
    for (size_t i = 0; i < count; i++) {
        int err = monitor_init(&q->monitors[i]);
        if (!err) continue;
        while (i) monitor_destroy(&q->monitors[--i]);
        free(q->monitors);
        q->monitors = NULL;
        return err;
    }
    return 0;
}

/* At least `size` slots, a power of two.  0 or an errno; then there is nothing to destroy. */
static inline int slot_queue_init(struct slot_queue *q, size_t size) {
    *q = (struct slot_queue){0};
    size_t slots = 1;
    while (slots < size) {
        slots *= 2;
        if (slots > SIZE_MAX / (2 * sizeof *q->slots)) return ENOMEM;
    }
    q->mask = slots - 1;
    q->patience = sysconf(_SC_NPROCESSORS_ONLN) > 2 ? SLOT_QUEUE_PATIENCE : 0;
    q->slots = calloc(slots, sizeof *q->slots);
    int err = q->slots ? slot_queue_init_monitors(q) : ENOMEM;
    if (err) slot_queue_destroy(q);
    return err;
}

/* Waits while the slot is full.  An entry is not NULL, and aligned to 4. */
static inline void slot_queue_push(struct slot_queue *q, void *entry) {
    while (!slot_queue_put(q, ATOMIC_ADD(&q->head, 1, RELAXED), entry)) {}
}

static inline void slot_queue_push_batch(struct slot_queue *q, void *const entries[],
                                         size_t count) {
    while (count) {
        size_t index = ATOMIC_ADD(&q->head, count, RELAXED), end = index + count;
        for (; index != end; index++)
            if (slot_queue_put(q, index, *entries)) {
                entries++;
                count--;
            }
    }
}

/* As many as there is room for, so that no push has to wait for a reader to come; how many.  It
 * leaves `spare` slots to others.  Who takes a reader's place is seen here (SEQ_CST), or sees what
 * was stored before. */
static inline size_t slot_queue_try_push_batch(struct slot_queue *q, void *const entries[],
                                               size_t count, size_t spare) {
    size_t left = count;
    while (left) {
        size_t index = ATOMIC_LOAD(&q->head, RELAXED), end;
        do {
            end = index + left;
            /* The readers may be ahead, so this is signed. */
            ptrdiff_t used = (ptrdiff_t)(end - ATOMIC_LOAD(&q->tail, SEQ_CST));
            if (used > (ptrdiff_t)(q->mask + 1 - spare)) return count - left;
        } while (!ATOMIC_CAS(&q->head, &index, end, RELAXED, RELAXED));
        for (; index != end; index++)
            if (slot_queue_put(q, index, *entries)) {
                entries++;
                left--;
            }
    }
    return count;
}

/* NULL only if it would not wait, and found nothing. */
static inline void *slot_queue_pop(struct slot_queue *q, bool block) {
    return slot_queue_take(q, ATOMIC_ADD(&q->tail, 1, SEQ_CST), block);
}

/* Only the first is waited for, so that there is at least one; the others may be NULL, also in
 * between.  Their indexes are taken after the wait: an entry at an index whose reader sleeps
 * elsewhere would be found by nobody, if readers were a round ahead. */
static inline void slot_queue_pop_batch(struct slot_queue *q, void *batch[SLOT_BATCH],
                                        bool block) {
    size_t found = 0;
    if (block) batch[found++] = slot_queue_pop(q, true);
    size_t index = ATOMIC_ADD(&q->tail, SLOT_BATCH - found, RELAXED);
    while (found < SLOT_BATCH) batch[found++] = slot_queue_take(q, index++, false);
}

#endif
