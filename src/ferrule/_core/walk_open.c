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
    if (n->reader == w->index && n->is_read && n->fd >= 0) worker_close(w, n);
}

static struct walk_frame *frame_of(struct walk_worker *w, const struct walk_node *n) {
    struct walk_frame *f = w->frame;
    while (f && f->node != n) f = f->below;
    return f;
}

/* Close the one that is needed last; 0 if there is none that may be closed. */
static int close_one(struct walk_worker *w) {
    struct walk_node *top = w->frame ? w->frame->node : NULL;
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
static int nearest_open(const struct walk_worker *w, const struct walk_node *n, const char **rest) {
    for (const struct walk_node *above = n->parent; above; above = above->parent) {
        if (above->reader != w->index || above->fd < 0) continue;
        *rest = w->path + above->path_length;
        while (**rest == '/') ++*rest;
        return above->fd;
    }
    *rest = w->path;
    return w->walk->cwd;
}

static int open_path(struct walk_worker *w, const struct walk_node *n) {
    int flags = OPEN_FLAGS | (n->follow ? 0 : O_NOFOLLOW);
    const char *rest;
    int dir = nearest_open(w, n, &rest);
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

int worker_open(struct walk_worker *w, struct walk_node *n) {
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
