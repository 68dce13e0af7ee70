/* A directory that a walk has found: queued, being read, or kept because something below it is.
 *
 * It knows only its own name; the path is put together when the directory is opened.  So a chain of
 * thousands of directories costs what their names do.
 */
#ifndef FERRULE_WALK_NODE_H
#define FERRULE_WALK_NODE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "atomics.h"
#include "ignore_rules.h"

#define NO_READER UINT16_MAX
#define WALK_PATH_LIMIT (1u << 30) /* bytes in one path */

struct walk_node {
    struct walk_node *parent; /* a reference; NULL for a root */
    struct walk_node *next;   /* in a queue */
    struct walk_node *newer, *older; /* among those that its reader keeps open */
    struct ignore_rules *rules; /* those around it; once it is read, those for what is in it */
    uint64_t dev, ino; /* once opened, where a walk needs them; else 0 */
    uint32_t refs;
    uint32_t children; /* queued, and not opened yet */
    uint32_t kept;     /* breadth first, atomic: for itself, and by those in it */
    uint32_t skip;     /* how many levels below it what is to be read begins */
    uint32_t depth;
    uint32_t path_length, name_length; /* of a root both are the path as it was given */
    int fd;                            /* its reader's alone, as `newer` and `older` are */
    uint16_t reader;                   /* the worker that opened it, before it has children */
    uint8_t follow;                    /* a symbolic link that is to be followed */
    uint8_t is_read;                   /* to its end */
    uint8_t pruned;                    /* by the consumer: nothing below it is wanted */
    uint8_t has_rules;                 /* `rules` are those for what is in it */
    uint8_t is_forgotten;              /* not queued after all; under the walk's mutex */
    char name[];
};

static inline int path_needs_slash(const struct walk_node *dir) {
    return dir->parent || dir->path_length == 0 || dir->name[dir->path_length - 1] != '/';
}

static inline struct walk_node *node_hold(struct walk_node *n) {
    ATOMIC_ADD(&n->refs, 1, RELAXED);
    return n;
}

/* With one reference, the caller's; NULL without memory. */
static inline struct walk_node *node_new(struct walk_node *parent, const char *name,
                                         uint32_t length) {
    struct walk_node *n = malloc(sizeof *n + length + 1);
    if (!n) return NULL;
    memset(n, 0, sizeof *n);
    n->refs = 1;
    n->fd = -1;
    n->reader = NO_READER;
    n->name_length = n->path_length = length;
    if (parent) {
        n->parent = node_hold(parent);
        n->depth = parent->depth + 1;
        n->rules = parent->rules ? ignore_rules_hold(parent->rules) : NULL;
        n->path_length += parent->path_length + (uint32_t)path_needs_slash(parent);
    }
    memcpy(n->name, name, length);
    n->name[length] = 0;
    return n;
}

/* A loop, because the last reference to a long chain may be that to its end. */
static inline void node_drop(struct walk_node *n) {
    while (n && ATOMIC_SUB(&n->refs, 1, ACQ_REL) == 1) {
        struct walk_node *parent = n->parent;
        ignore_rules_drop(n->rules);
        free(n);
        n = parent;
    }
}

/* path_length bytes, without a zero byte at the end. */
static inline void node_write_path(const struct walk_node *n, char *to) {
    for (; n; n = n->parent) {
        uint32_t at = n->path_length - n->name_length;
        memcpy(to + at, n->name, n->name_length);
        if (n->parent && at > n->parent->path_length) to[at - 1] = '/';
    }
}

/* Whether it, or a directory above it, was pruned. */
static inline int node_is_pruned(const struct walk_node *n) {
    for (; n; n = n->parent)
        if (ATOMIC_LOAD(&n->pruned, RELAXED)) return 1;
    return 0;
}

#endif
