/* What a readiness engine knows of each descriptor number, and the operations that wait for it.
 *
 * `ready` is a memory: a bit that is set makes an attempt worth making.  It is cleared by an attempt
 * that would have had to wait, and set by the poller's events; as long as it is clear, the poller
 * has been asked to report (`armed`), or will be before anything waits.  So nothing is lost, and
 * events are mere hints: one that is stale or spurious costs an attempt.
 *
 * A number says nothing about the file behind it: it may have been closed and given to another one
 * since.  So what is known belongs to the Descriptor that it was learned for, which has an identity
 * that is never used again.  Descriptors that are not Ferrule's have none: nothing is remembered.
 */
#ifndef FERRULE_READINESS_H
#define FERRULE_READINESS_H

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "operation.h"
#include "timers.h"

#ifndef POLLRDHUP
#define POLLRDHUP 0x2000 /* no system without it uses this bit; poll(2) is never asked for it */
#endif

enum queue_place { QUEUE_READ, QUEUE_WRITE, QUEUE_EITHER, QUEUES };

struct op_queue { struct op *head, *tail; };

struct watched {
    struct op_queue queues[QUEUES]; /* each in the order of arrival */
    uint64_t descriptor;            /* whose file the rest is about */
    int16_t armed;                  /* poll(2) events that the poller reports */
    int16_t ready;                  /* POLLIN, POLLOUT */
    uint8_t known;                  /* it was armed before, for this descriptor or another */
    uint8_t hung;                   /* an end or an error is there, or will be behind the data */
};

#define WATCHED_PER_CHUNK 256u

struct watch_list { /* by number; what it gives never moves */
    struct watched **chunks;
    uint32_t chunk_count;
};

struct poller_event {
    int32_t fd;
    int16_t events;   /* of poll(2) */
    int16_t disarmed; /* which will not be reported again until they are armed again */
};

/* How to arm */
#define ARM_LASTS 1 /* until the descriptor is given up */
#define ARM_AGAIN 2 /* this number was armed before: which call is likely to be the right one */

static inline struct watched *watch_find(const struct watch_list *l, int fd) {
    uint32_t chunk = (uint32_t)fd / WATCHED_PER_CHUNK;
    return chunk < l->chunk_count && l->chunks[chunk]
               ? &l->chunks[chunk][(uint32_t)fd % WATCHED_PER_CHUNK] : NULL;
}

/* NULL when there is no memory. */
static inline struct watched *watch_add(struct watch_list *l, int fd) {
    uint32_t chunk = (uint32_t)fd / WATCHED_PER_CHUNK;
    if (chunk >= l->chunk_count) {
        struct watched **chunks = realloc(l->chunks, (chunk + 1) * sizeof *chunks);
        if (!chunks) return NULL;
        memset(chunks + l->chunk_count, 0, (chunk + 1 - l->chunk_count) * sizeof *chunks);
        l->chunks = chunks;
        l->chunk_count = chunk + 1;
    }
    if (!l->chunks[chunk]) l->chunks[chunk] = calloc(WATCHED_PER_CHUNK, sizeof **l->chunks);
    return l->chunks[chunk] ? &l->chunks[chunk][(uint32_t)fd % WATCHED_PER_CHUNK] : NULL;
}

static inline void watch_free(struct watch_list *l) {
    for (uint32_t i = 0; i < l->chunk_count; i++) free(l->chunks[i]);
    free(l->chunks);
    l->chunks = NULL;
    l->chunk_count = 0;
}

/* The readiness an operation waits for, as poll(2) events. */
static inline int watch_events(const struct op *o) {
    return o->kind == OP_POLL ? (int16_t)o->flags : op_rows[o->kind].poll_events;
}

static inline enum queue_place watch_place(const struct op *o) {
    int events = watch_events(o);
    return events == POLLIN ? QUEUE_READ : events == POLLOUT ? QUEUE_WRITE : QUEUE_EITHER;
}

/* Whether an attempt is worth making. */
static inline int watch_is_ready(struct watched *w, const struct op *o) {
    if (o->descriptor == 0) return 1;
    if (w->descriptor != o->descriptor) {
        w->descriptor = o->descriptor;
        w->armed = w->hung = 0;
        w->ready = POLLIN | POLLOUT;
    }
    return watch_place(o) == QUEUE_EITHER || (w->ready & watch_events(o));
}

static inline void watch_queue(struct watched *w, struct op *o) {
    struct op_queue *q = &w->queues[watch_place(o)];
    o->next = NULL;
    o->prev = q->tail;
    if (q->tail) q->tail->next = o;
    else q->head = o;
    q->tail = o;
}

static inline void watch_remove(struct watched *w, struct op *o) {
    struct op_queue *q = &w->queues[watch_place(o)];
    if (o->prev) o->prev->next = o->next;
    else q->head = o->next;
    if (o->next) o->next->prev = o->prev;
    else q->tail = o->prev;
    o->next = o->prev = NULL;
}

/* What those who wait need to be told of. */
static inline int watch_wanted(const struct watched *w) {
    int events = 0;
    if (w->queues[QUEUE_READ].head) events |= POLLIN;
    if (w->queues[QUEUE_WRITE].head) events |= POLLOUT;
    for (const struct op *o = w->queues[QUEUE_EITHER].head; o; o = o->next) events |= watch_events(o);
    return events;
}

/* Whether to attempt what stands in a queue. */
static inline int watch_is_worth(const struct watched *w, enum queue_place place) {
    return place == QUEUE_EITHER || (w->ready & (place == QUEUE_READ ? POLLIN : POLLOUT));
}

static inline void watch_learn(struct watched *w, const struct poller_event *e) {
    w->armed &= ~e->disarmed;
    if (e->events & (POLLIN | POLLPRI | POLLRDHUP)) w->ready |= POLLIN;
    if (e->events & POLLOUT) w->ready |= POLLOUT;
    if (e->events & (POLLHUP | POLLERR)) w->ready |= POLLIN | POLLOUT;
    if (e->events & (POLLHUP | POLLERR | POLLRDHUP | POLLPRI)) w->hung = 1;
}

/* ---- timers of clocks that the loop's own heap cannot follow ---- */

enum clock_place { CLOCK_OF_LOOP, CLOCK_OF_DAY, CLOCK_OF_BOOT, CLOCKS };

static inline enum clock_place clock_of(const struct op *o) {
    return o->flags & URING_TIMEOUT_REALTIME ? CLOCK_OF_DAY
           : o->flags & URING_TIMEOUT_BOOTTIME ? CLOCK_OF_BOOT : CLOCK_OF_LOOP;
}

static inline int64_t clock_now(enum clock_place clock) {
    struct timespec now;
    clockid_t id = clock == CLOCK_OF_DAY ? CLOCK_REALTIME : CLOCK_MONOTONIC;
#ifdef CLOCK_BOOTTIME
    if (clock == CLOCK_OF_BOOT) id = CLOCK_BOOTTIME;
#endif
    clock_gettime(id, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* A timeout's node lies where other operations have what the kernel fills in. */
static inline struct timer *clock_node(struct op *o) { return (struct timer *)&o->out; }

static inline int clock_add(struct timers *heap, struct op *o) {
    struct timer *node = clock_node(o);
    int64_t when = (int64_t)o->ts.tv_sec * 1000000000 + o->ts.tv_nsec;
    if (!(o->flags & URING_TIMEOUT_ABS)) when += clock_now(clock_of(o));
    node->place = 0;
    node->owner = o;
    return timers_add(heap, node, when);
}

#endif
