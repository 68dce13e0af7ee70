#define _GNU_SOURCE
#include "owner_names.h"

#include <errno.h>
#include <grp.h>
#include <pthread.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#define OWNER_BUCKETS 64
#define OWNER_BYTES_LIMIT (1u << 24) /* of one entry: a group with very many members */

struct owner {
    struct owner *next;
    uint32_t id;
    char *name;
};

struct owner_names {
    pthread_mutex_t mutex;
    struct owner *owners[2][OWNER_BUCKETS];
};

struct owner_names *owner_names_new(void) {
    struct owner_names *names = calloc(1, sizeof *names);
    if (names) pthread_mutex_init(&names->mutex, NULL);
    return names;
}

void owner_names_free(struct owner_names *names) {
    if (!names) return;
    for (int kind = 0; kind < 2; kind++)
        for (int i = 0; i < OWNER_BUCKETS; i++)
            for (struct owner *o = names->owners[kind][i], *next; o; o = next) {
                next = o->next;
                free(o->name);
                free(o);
            }
    pthread_mutex_destroy(&names->mutex);
    free(names);
}

/* 0, or an errno; *name is NULL if there is none. */
static int ask(enum owner_kind kind, uint32_t id, char *buffer, size_t room, char **name) {
    struct passwd user, *found_user = NULL;
    struct group group, *found_group = NULL;
    int r = kind == OWNER_USER ? getpwuid_r(id, &user, buffer, room, &found_user)
                               : getgrgid_r(id, &group, buffer, room, &found_group);
    *name = found_user ? user.pw_name : found_group ? group.gr_name : NULL;
    return r;
}

static char *look_up(enum owner_kind kind, uint32_t id) {
    char *buffer = NULL, *name = NULL, *copy = NULL;
    for (size_t room = 1024; room <= OWNER_BYTES_LIMIT; room *= 4) {
        char *bigger = realloc(buffer, room);
        if (!bigger) break;
        buffer = bigger;
        if (ask(kind, id, buffer, room, &name) != ERANGE) break;
    }
    if (name) copy = strdup(name);
    free(buffer);
    return copy;
}

/* The mutex is held while a name server is asked: others would ask it for the same. */
const char *owner_name(struct owner_names *names, enum owner_kind kind, uint32_t id) {
    struct owner **bucket = &names->owners[kind][id % OWNER_BUCKETS];
    pthread_mutex_lock(&names->mutex);
    struct owner *o = *bucket;
    while (o && o->id != id) o = o->next;
    if (!o && (o = calloc(1, sizeof *o))) {
        o->id = id;
        o->name = look_up(kind, id);
        o->next = *bucket;
        *bucket = o;
    }
    const char *name = o ? o->name : NULL;
    pthread_mutex_unlock(&names->mutex);
    return name;
}
