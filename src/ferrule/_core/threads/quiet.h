/* Whether all threads are quiet at once: each waits, and nothing it has could end that.
 *
 * Nobody can look at a thread and into its inbox in one step, and between two steps it may take
 * what lay there.  So each counts its changes, odd while it is quiet, and who asks looks at all the
 * counts, then into all inboxes, then at the counts again.  If all are odd and none has changed,
 * all were quiet when the last count had been read and the first inbox was not looked into yet; a
 * message on its way at that moment lay in an inbox, and stayed there.
 */
#ifndef FERRULE_QUIET_H
#define FERRULE_QUIET_H

#include <stdbool.h>
#include <stdint.h>

#include "atomics.h"

struct quiet {
    uint64_t changes;
};

/* The thread itself: before it waits, and again once it does not; each may be said twice. */
static inline void quiet_begin(struct quiet *q) {
    uint64_t changes = OWN_LOAD(&q->changes);
    if (!(changes & 1)) ATOMIC_STORE(&q->changes, changes + 1, RELEASE);
}

static inline void quiet_end(struct quiet *q) {
    /* Before whatever the thread takes from then on: pairs with the read of the second count, which
     * comes after the look that found it gone. */
    if (OWN_LOAD(&q->changes) & 1) ATOMIC_ADD(&q->changes, 1, SEQ_CST);
}

/* Anybody. */
static inline uint64_t quiet_changes(const struct quiet *q) {
    return ATOMIC_LOAD(&q->changes, SEQ_CST);
}

#endif
