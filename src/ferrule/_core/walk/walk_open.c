/* Opening directories within a budget of descriptors, at any depth.
 *
 * A directory is opened relative to the nearest one above it that this worker has open, which
 * spares the look-up of the whole path and lets paths be longer than PATH_MAX.  It stays open while
 * directories in it are to be opened.  At the budget the one that is needed last is closed: the
 * oldest when reading depth first, the newest when reading breadth first.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <time.h>
#include <unistd.h>

#include "walk_parts.h"

#define OPEN_FLAGS (O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOCTTY)
#define FULL_RETRIES 200 /* of a millisecond each: for others to close something */
#define STRIDE 16u       /* names in a path, from which on places on the way are opened, too */

static void list_open(struct walk_worker *w, struct walk_node *n, int fd) {
    n->fd = fd;
    n->older = w->newest;
    n->newer = NULL;
    if (w->newest) w->newest->newer = n;
    else w->oldest = n;
    w->newest = node_hold(n);
    w->open_count++;
}

void worker_close(struct walk_worker *w, struct walk_node *n) {
    close(n->fd);
    n->fd = -1;
    if (n->newer) n->newer->older = n->older;
    else w->newest = n->older;
    if (n->older) n->older->newer = n->newer;
    else w->oldest = n->newer;
    w->open_count--;
    node_drop(n);
}

void worker_close_all(struct walk_worker *w) {
    while (w->newest) worker_close(w, w->newest);
}

void worker_child_done(struct walk_worker *w, struct walk_node *n) {
    if (!n || ATOMIC_SUB(&n->children, 1, ACQ_REL) != 1) return;
    if (n->reader != w->index) ATOMIC_STORE(&w->walk->workers[n->reader]->passed, 1, RELAXED);
    else if (n->is_read && n->fd >= 0) worker_close(w, n);
}

/* Close those that were passed, from the oldest.  Half of what may be open stays, as places to begin
 * at: else who goes down a chain in turn with others would always begin at the top. */
static void close_passed(struct walk_worker *w) {
    struct walk_node *n = w->oldest, *newer;
    for (; n && w->open_count > w->walk->max_open / 2; n = newer) {
        newer = n->newer;
        if (n->is_read && ATOMIC_LOAD(&n->children, ACQUIRE) == 0) worker_close(w, n);
    }
}

static struct walk_frame *frame_of(struct walk_worker *w, const struct walk_node *n) {
    struct walk_frame *f = w->frame;
    while (f && f->node != n) f = f->below;
    return f;
}

/* Close the one that is needed last; 0 if there is none that may be closed. */
static int close_one(struct walk_worker *w) {
    struct walk_node *top = w->frame ? w->frame->node : NULL;
    uint32_t count = w->open_count;
    if (ATOMIC_SWAP(&w->passed, 0, RELAXED)) close_passed(w);
    if (w->open_count < count) return 1;
    int newest_first = w->walk->config.order == ORDER_BREADTH;
    struct walk_node *n = newest_first ? w->newest : w->oldest;
    while (n && n == top) n = newest_first ? n->older : n->newer;
    if (!n) return 0;
    struct walk_frame *f = n->is_read ? NULL : frame_of(w, n);
    if (f) {
        int err = frame_read_rest(w, f);
        if (err < 0) worker_add_error(w, w->path, n->path_length, n->depth, -err, STAGE_READ);
    }
    worker_close(w, n);
    return 1;
}

static int open_once(int dir, const char *path, int flags) {
    int fd;
    do fd = openat(dir, path, flags);
    while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

/* In steps of what the kernel takes at a time. */
static int open_long(int dir, const char *path, int flags) {
    char part[PATH_MAX];
    int at = dir;
    for (;;) {
        size_t left = strlen(path), n = left;
        if (left >= PATH_MAX) {
            for (n = PATH_MAX - 1; n > 0 && path[n] != '/'; n--) {}
        }
        memcpy(part, path, n);
        part[n] = 0;
        /* Of no length for a name that is too long: refused. */
        int fd = open_once(at, part, n == left ? flags : O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (at != dir) close(at);
        if (fd < 0 || n == left) return fd;
        at = fd;
        path += n;
        while (*path == '/') path++;
    }
}

/* Where to begin, and the rest of the path from there. */
static int nearest_open(const struct walk_worker *w, const struct walk_node *n, const char **rest,
                        uint32_t *components) {
    for (const struct walk_node *above = n->parent; above; above = above->parent) {
        if (above->reader != w->index || above->fd < 0) continue;
        *rest = w->path + above->path_length;
        while (**rest == '/') ++*rest;
        *components = n->depth - above->depth;
        return above->fd;
    }
    *components = n->depth + 1;
    *rest = w->path;
    return w->walk->cwd;
}

static int open_path(struct walk_worker *w, const struct walk_node *n) {
    int flags = OPEN_FLAGS | (n->follow ? 0 : O_NOFOLLOW);
    const char *rest;
    uint32_t components;
    int dir = nearest_open(w, n, &rest, &components);
    ATOMIC_STORE(&w->components, OWN_LOAD(&w->components) + components, RELAXED);
    int fault = walk_meets_fault(w->walk, STAGE_OPEN, n->name);
    if (fault) return fault;
    int fd = open_once(dir, rest, flags);
    if (fd == -ENAMETOOLONG && strlen(rest) >= PATH_MAX) fd = open_long(dir, rest, flags);
    return fd;
}

static void wait_a_moment(void) {
    struct timespec moment = {0, 1000000};
    nanosleep(&moment, NULL);
}

static int open_listed(struct walk_worker *w, struct walk_node *n) {
    int tries = 0;
    while (w->open_count >= w->walk->max_open && close_one(w)) {}
    for (;;) {
        worker_pause(w);
        int fd = open_path(w, n);
        worker_resume(w);
        if (fd >= 0) {
            n->reader = w->index;
            list_open(w, n, fd);
            return 0;
        }
        if (fd != -EMFILE && fd != -ENFILE) return fd;
        /* Other parts of the process, or the machine, use what the budget counted on. */
        if (close_one(w)) continue;
        if (tries++ == FULL_RETRIES || ATOMIC_LOAD(&w->walk->stopping, RELAXED)) return fd;
        worker_pause(w);
        wait_a_moment();
        worker_resume(w);
    }
}

static uint32_t distance_to_open(const struct walk_worker *w, const struct walk_node *n) {
    const struct walk_node *above = n->parent;
    uint32_t distance = 1;
    for (; above && (above->reader != w->index || above->fd < 0); above = above->parent) distance++;
    return distance;
}

/* In post-order a chain that is deeper than the budget has to be opened again on the way up, each
 * directory of it: so that this does not begin at the top each time, some on the way to the first
 * one are opened, the more the nearer they are. */
static void open_on_the_way(struct walk_worker *w, struct walk_node *n) {
    uint32_t left = distance_to_open(w, n), distance = STRIDE;
    if (left <= STRIDE || w->walk->max_open <= STRIDE) return;
    while (distance * 2 < left) distance *= 2;
    for (; distance >= STRIDE; distance /= 2) {
        struct walk_node *above = n;
        for (uint32_t i = 0; i < distance; i++) above = above->parent;
        char *end = w->path + above->path_length, was = *end;
        *end = 0;
        if (above->fd < 0) open_listed(w, above); /* if it fails, so will what is in it */
        *end = was;
    }
}

int worker_open(struct walk_worker *w, struct walk_node *n) {
    if (w->walk->config.order == ORDER_POST) open_on_the_way(w, n);
    return open_listed(w, n);
}
