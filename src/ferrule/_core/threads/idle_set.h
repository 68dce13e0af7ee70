/* Which of a runtime's threads sleep, and how many look for work: nobody is woken while somebody
 * looks, and no work is left lying while somebody sleeps and nobody looks.
 *
 * Who makes work (in a steal queue, or wherever others find it) calls idle_claim afterwards, and
 * wakes the thread that it returns.  Who has none calls idle_begin_search, and as a searcher
 *     looks for work and takes it
 *     if there was some: idle_end_search; when that says so, and there is more, idle_claim as above
 *     if not: idle_sleep; looks whether there is any, taking none
 *         there is: idle_search_again, and it goes on as a searcher
 *         there is none: waits in the kernel
 *             idle_awake; when that says so, it has been claimed, and goes on as a searcher,
 *             whatever it was woken by; or, if it has other things to do, idle_end_search as above
 *
 * No wake-up is lost, because of
 *     who makes work:     makes it   fence  looks who sleeps and searches     (idle_claim)
 *     who goes to sleep:  says so    fence  looks for work                    (idle_sleep)
 * One of them sees the other.  Who saw a searcher and woke nobody relies on him, who may have
 * passed by too early; so the last one looks again, on the way to sleep or after idle_end_search.
 * And who saw work on the way to sleep remains a searcher until he has tried to take it.
 * All steps on the two words are SEQ_CST: each claim reads both.
 */
#ifndef FERRULE_IDLE_SET_H
#define FERRULE_IDLE_SET_H

#include <stdbool.h>
#include <stdint.h>

#include "atomics.h"

#define IDLE_THREADS_MAX 64

struct idle_set {
    uint64_t asleep; /* one bit for each thread */
    uint32_t searching;
};

/* What idle_claim returns beside indexes. */
#define IDLE_ALL_AWAKE (-1) /* there is nobody to wake */
#define IDLE_SEARCHED (-2)  /* somebody looks for work already */

static inline void idle_begin_search(struct idle_set *s) {
    ATOMIC_ADD(&s->searching, 1, SEQ_CST);
}

/* Whether it was the last one, who must then look whether there is more, and if so wake another. */
static inline bool idle_end_search(struct idle_set *s) {
    bool was_last = ATOMIC_SUB(&s->searching, 1, SEQ_CST) == 1;
    ATOMIC_FENCE(); /* before the look, as in idle_sleep */
    return was_last;
}

/* A searcher that found nothing.  From here on it may be claimed.  It is asleep before it is no
 * searcher, so that who makes work sees one of them. */
static inline void idle_sleep(struct idle_set *s, int index) {
    ATOMIC_OR(&s->asleep, UINT64_C(1) << index, SEQ_CST);
    ATOMIC_SUB(&s->searching, 1, SEQ_CST);
    ATOMIC_FENCE(); /* pairs with the one in idle_claim */
}

/* Whether somebody claimed it meanwhile, and it is a searcher. */
static inline bool idle_awake(struct idle_set *s, int index) {
    uint64_t bit = UINT64_C(1) << index;
    return !(ATOMIC_AND(&s->asleep, ~bit, SEQ_CST) & bit);
}

/* Its look after idle_sleep found work.  A searcher first, or another might be woken meanwhile. */
static inline void idle_search_again(struct idle_set *s, int index) {
    idle_begin_search(s);
    if (idle_awake(s, index)) ATOMIC_SUB(&s->searching, 1, SEQ_CST); /* the claim counted it too */
}

/* Any thread, after it has made work.  The index of a thread to wake, which is no sleeper any more
 * but a searcher; or one of the above. */
static inline int idle_claim(struct idle_set *s) {
    ATOMIC_FENCE(); /* pairs with the one in idle_sleep */
    for (;;) {
        if (ATOMIC_LOAD(&s->searching, SEQ_CST)) return IDLE_SEARCHED;
        uint64_t asleep = ATOMIC_LOAD(&s->asleep, SEQ_CST);
        if (!asleep) return IDLE_ALL_AWAKE;
        uint32_t nobody = 0;
        if (!ATOMIC_CAS(&s->searching, &nobody, 1, SEQ_CST, SEQ_CST)) return IDLE_SEARCHED;
        while (asleep) {
            uint64_t rest = asleep & (asleep - 1);
            int index = __builtin_ctzll(asleep);
            if (ATOMIC_CAS(&s->asleep, &asleep, rest, SEQ_CST, SEQ_CST)) return index;
        }
        /* All woke up by themselves.  Who took us for a searcher meanwhile has woken nobody, so
         * look again, for those who fell asleep since. */
        if (ATOMIC_SUB(&s->searching, 1, SEQ_CST) > 1) return IDLE_SEARCHED;
    }
}

#endif
