/* How many members a group has that have not ended, whether its owner waits for the last of them,
 * and whether it is closed: nobody becomes a member any more.
 *
 * All three are in one word, so a member's end is one step, and what that step returns tells it
 * whether to wake the owner.  It touches the group no more, since an owner that found no member may
 * leave at once and take the memory along.  Whom to wake it must know beforehand.  Whoever takes
 * the owner's waiting out of the word, once for each wait, is a member that then wakes it, or the
 * owner itself, which then is not waked.
 */
#ifndef FERRULE_GROUP_COUNT_H
#define FERRULE_GROUP_COUNT_H

#include <stdbool.h>
#include <stdint.h>

#include "atomics.h"

#define GROUP_WAITED 1u
#define GROUP_CLOSED 2u
#define GROUP_MEMBER 4u

struct group_count {
    uint32_t word;
};

static inline void group_count_init(struct group_count *c) { c->word = 0; }

/* Anybody's while the group exists.  False if it is closed. */
static inline bool group_count_add(struct group_count *c) {
    uint32_t word = ATOMIC_LOAD(&c->word, RELAXED);
    do {
        if (word & GROUP_CLOSED) return false;
    } while (!ATOMIC_CAS(&c->word, &word, word + GROUP_MEMBER, RELAXED, RELAXED));
    return true;
}

/* A member's last step.  Whether it must wake the owner. */
static inline bool group_count_end(struct group_count *c) {
    uint32_t word = ATOMIC_LOAD(&c->word, RELAXED), rest;
    do {
        rest = word - GROUP_MEMBER;
        if (rest < GROUP_MEMBER) rest &= ~GROUP_WAITED;
        /* The release pairs with the acquires below, also through later ends: the owner sees all
         * that members did.  The acquire is for who wakes it, on behalf of the others. */
    } while (!ATOMIC_CAS(&c->word, &word, rest, ACQ_REL, RELAXED));
    return (word & GROUP_WAITED) > (rest & GROUP_WAITED);
}

/* The owner.  Whether it must wait: until it is waked; then it calls this again, since others may
 * have come.  If not, there is no member, and with `closes` the group is closed in the same step. */
static inline bool group_count_wait(struct group_count *c, bool closes) {
    uint32_t word = ATOMIC_LOAD(&c->word, ACQUIRE), next;
    do {
        next = word | (word >= GROUP_MEMBER ? GROUP_WAITED : closes ? GROUP_CLOSED : 0);
        if (next == word) return false;
    } while (!ATOMIC_CAS(&c->word, &word, next, ACQUIRE, ACQUIRE));
    return next & GROUP_WAITED;
}

/* The owner, whose wait ended for another reason.  If false, the waking is on its way all the same,
 * and it must await it; if true, none will come. */
static inline bool group_count_stop_waiting(struct group_count *c) {
    return ATOMIC_AND(&c->word, ~GROUP_WAITED, ACQUIRE) & GROUP_WAITED;
}

#endif
