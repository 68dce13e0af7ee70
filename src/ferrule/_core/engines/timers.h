/* A binary heap of deadlines.  Nodes are embedded in what waits and know their place, so that one
 * can be removed or moved in O(log n).  The heap holds no references: a node must be removed before
 * what contains it is freed.
 */
#ifndef FERRULE_TIMERS_H
#define FERRULE_TIMERS_H

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

struct timer {
    int64_t when;  /* ns, CLOCK_MONOTONIC */
    uint32_t place; /* 1-based place in the heap; 0 = not in it */
    void *owner;
};

struct timers {
    struct timer **heap; /* heap[1] is the nearest */
    uint32_t count, capacity;
};

static inline void timers_set(struct timers *t, uint32_t place, struct timer *node) {
    t->heap[place] = node;
    node->place = place;
}

static inline void timers_sift_up(struct timers *t, struct timer *node) {
    uint32_t i = node->place;
    while (i > 1 && t->heap[i / 2]->when > node->when) {
        timers_set(t, i, t->heap[i / 2]);
        i /= 2;
    }
    timers_set(t, i, node);
}

static inline void timers_sift_down(struct timers *t, struct timer *node) {
    uint32_t i = node->place;
    for (;;) {
        uint32_t child = i * 2;
        if (child > t->count) break;
        if (child < t->count && t->heap[child + 1]->when < t->heap[child]->when) child++;
        if (t->heap[child]->when >= node->when) break;
        timers_set(t, i, t->heap[child]);
        i = child;
    }
    timers_set(t, i, node);
}

static inline int timers_add(struct timers *t, struct timer *node, int64_t when) {
    if (t->count + 1 >= t->capacity) {
        uint32_t capacity = t->capacity ? t->capacity * 2 : 64;
        struct timer **heap = realloc(t->heap, capacity * sizeof *heap);
        if (!heap) return -ENOMEM;
        t->heap = heap;
        t->capacity = capacity;
    }
    node->when = when;
    timers_set(t, ++t->count, node);
    timers_sift_up(t, node);
    return 0;
}

static inline void timers_move(struct timers *t, struct timer *node, int64_t when) {
    int64_t before = node->when;
    node->when = when;
    if (when < before) timers_sift_up(t, node);
    else timers_sift_down(t, node);
}

static inline void timers_remove(struct timers *t, struct timer *node) {
    uint32_t place = node->place;
    if (!place) return;
    struct timer *last = t->heap[t->count--];
    node->place = 0;
    if (last == node) return;
    timers_set(t, place, last);
    timers_sift_up(t, last);
    timers_sift_down(t, last);
}

static inline struct timer *timers_nearest(const struct timers *t) {
    return t->count ? t->heap[1] : NULL;
}

static inline void timers_free(struct timers *t) {
    free(t->heap);
    t->heap = NULL;
    t->count = t->capacity = 0;
}

#endif
