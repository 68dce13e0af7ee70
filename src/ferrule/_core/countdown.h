/* How many members a group still has, and whether its owner waits for the last of them to end.
 *
 * Both are in one word, so a member's end is one step, and what that step returns tells it whether
 * to wake the owner.  It touches the group no more, since an owner who saw no member may leave at
 * once and take the memory along.  Whom to wake it must know beforehand; who waits cannot leave
 * before it is woken.
 */
#ifndef FERRULE_COUNTDOWN_H
#define FERRULE_COUNTDOWN_H

#include <stdbool.h>
#include <stdint.h>

#include "atomics.h"

#define COUNTDOWN_WAITED 1u /* the owner waits */
#define COUNTDOWN_MEMBER 2u

struct countdown {
    uint32_t word;
};

static inline void countdown_init(struct countdown *c) { c->word = 0; }

/* The owner while it does not wait, or a member. */
static inline void countdown_add(struct countdown *c) {
    ATOMIC_ADD(&c->word, COUNTDOWN_MEMBER, RELAXED);
}

/* A member's last step.  Whether it must wake the owner. */
static inline bool countdown_end(struct countdown *c) {
    /* The release pairs with the acquires below: the owner sees all that members did.  The acquire
     * is for who wakes it, on behalf of the others. */
    return ATOMIC_SUB(&c->word, COUNTDOWN_MEMBER, ACQ_REL) == (COUNTDOWN_MEMBER | COUNTDOWN_WAITED);
}

/* The owner.  Whether it must wait: until it is woken, once; then it calls this again.  If not,
 * there is no member, and none will touch the group again. */
static inline bool countdown_wait(struct countdown *c) {
    uint32_t word = ATOMIC_LOAD(&c->word, ACQUIRE);
    do {
        if (word < COUNTDOWN_MEMBER) {
            /* Woken, or there was no need to wait.  Nobody else is left. */
            if (word) ATOMIC_STORE(&c->word, 0, RELAXED);
            return false;
        }
    } while (!ATOMIC_CAS(&c->word, &word, word | COUNTDOWN_WAITED, ACQUIRE, ACQUIRE));
    return true;
}

/* The owner, whose wait ended for another reason.  Whether the waking is on its way all the same,
 * and it must await it; if not, it will not come. */
static inline bool countdown_stop_waiting(struct countdown *c) {
    uint32_t word = ATOMIC_AND(&c->word, ~COUNTDOWN_WAITED, ACQUIRE);
    return word == COUNTDOWN_WAITED;
}

#endif
