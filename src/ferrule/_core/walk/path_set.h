/* A set of paths.  Whoever uses it sees to it that others do not at the same time. */
#ifndef FERRULE_PATH_SET_H
#define FERRULE_PATH_SET_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct path_in_set {
    uint64_t hash;
    uint32_t length;
    char path[];
};

struct path_set {
    struct path_in_set **slots; /* open addressing; at most half of them are used */
    size_t room, count;
};

static inline uint64_t path_hash(const char *path, uint32_t length) {
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (uint32_t i = 0; i < length; i++) hash = (hash ^ (uint8_t)path[i]) * 1099511628211u;
    return hash;
}

/* Where it is, or would be. */
static inline struct path_in_set **path_set_find(const struct path_set *s, uint64_t hash,
                                                 const char *path, uint32_t length) {
    size_t at = hash & (s->room - 1);
    for (struct path_in_set *p; (p = s->slots[at]); at = (at + 1) & (s->room - 1))
        if (p->hash == hash && p->length == length && !memcmp(p->path, path, length)) break;
    return &s->slots[at];
}

static inline int path_set_has(const struct path_set *s, const char *path, uint32_t length) {
    return s->count && *path_set_find(s, path_hash(path, length), path, length);
}

static inline int path_set_grow(struct path_set *s) {
    struct path_set bigger = {.room = s->room ? 2 * s->room : 64, .count = s->count};
    bigger.slots = calloc(bigger.room, sizeof *bigger.slots);
    if (!bigger.slots) return 0;
    for (size_t i = 0; i < s->room; i++) {
        struct path_in_set *p = s->slots[i];
        if (p) *path_set_find(&bigger, p->hash, p->path, p->length) = p;
    }
    free(s->slots);
    *s = bigger;
    return 1;
}

/* One of malloc, whose path and length are set, is the set's from here on.  0 without memory. */
static inline int path_set_add(struct path_set *s, struct path_in_set *p) {
    if (2 * (s->count + 1) > s->room && !path_set_grow(s)) {
        free(p);
        return 0;
    }
    p->hash = path_hash(p->path, p->length);
    struct path_in_set **at = path_set_find(s, p->hash, p->path, p->length);
    s->count += !*at;
    free(*at);
    *at = p;
    return 1;
}

static inline void path_set_free(struct path_set *s) {
    for (size_t i = 0; i < s->room; i++) free(s->slots[i]);
    free(s->slots);
    *s = (struct path_set){0};
}

#endif
