/* The slots of one thread: chunks that never move, a free list, and the check that turns a
 * completion's user_data back into an operation only if it is still the same one.
 */
#ifndef FERRULE_SLOTS_H
#define FERRULE_SLOTS_H

#include <stdlib.h>
#include <string.h>

#include "operation.h"

#define SLOTS_PER_CHUNK 64u
#define SLOTS_MAX (1u << 21) /* a bound on what a program can have in flight */

struct slots {
    char **chunks;
    uint32_t chunk_count, in_use;
    size_t stride; /* sizeof of what begins with a struct op */
    struct op *free;
};

static inline struct op *slots_at(const struct slots *s, uint32_t index) {
    return (struct op *)(s->chunks[index / SLOTS_PER_CHUNK] + s->stride * (index % SLOTS_PER_CHUNK));
}

static inline int slots_grow(struct slots *s) {
    if (s->chunk_count >= SLOTS_MAX / SLOTS_PER_CHUNK) return -ENOBUFS;
    char **chunks = realloc(s->chunks, (s->chunk_count + 1) * sizeof *chunks);
    if (!chunks) return -ENOMEM;
    s->chunks = chunks;
    char *chunk = calloc(SLOTS_PER_CHUNK, s->stride);
    if (!chunk) return -ENOMEM;
    uint32_t first = s->chunk_count * SLOTS_PER_CHUNK;
    s->chunks[s->chunk_count++] = chunk;
    for (uint32_t i = SLOTS_PER_CHUNK; i-- > 0;) {
        struct op *o = (struct op *)(chunk + s->stride * i);
        o->index = first + i;
        o->next = s->free;
        s->free = o;
    }
    return 0;
}

/* A slot with its arguments cleared, or NULL when there is no memory. */
static inline struct op *slots_take(struct slots *s, uint8_t kind, int32_t fd) {
    if (!s->free && slots_grow(s) < 0) return NULL;
    struct op *o = s->free;
    s->free = o->next;
    s->in_use++;
    o->kind = kind;
    o->state = OP_PREPARED;
    o->traits = o->how_cancelled = 0;
    o->fd = fd;
    o->fd2 = -1;
    o->flags = o->mode = 0;
    o->addr = o->addr2 = NULL;
    o->len = 0;
    o->off = 0;
    o->result = 0;
    o->result_flags = 0;
    o->descriptor = 0;
    o->next = o->prev = NULL;
    o->waiter = o->payload = NULL;
    return o;
}

/* The generation moves on, so a completion or cancel that comes later finds nobody. */
static inline void slots_give(struct slots *s, struct op *o) {
    o->state = OP_FREE;
    o->generation++;
    o->next = s->free;
    s->free = o;
    s->in_use--;
}

static inline uint64_t slots_user_data(const struct op *o) {
    return (uint64_t)o->generation << 32 | o->index;
}

static inline struct op *slots_find(const struct slots *s, uint64_t user_data) {
    uint32_t index = (uint32_t)user_data;
    if (index >= s->chunk_count * SLOTS_PER_CHUNK) return NULL;
    struct op *o = slots_at(s, index);
    return o->generation == (uint32_t)(user_data >> 32) && o->state == OP_IN_FLIGHT ? o : NULL;
}

static inline void slots_free(struct slots *s) {
    for (uint32_t i = 0; i < s->chunk_count; i++) free(s->chunks[i]);
    free(s->chunks);
    memset(s, 0, sizeof *s);
}

#endif
