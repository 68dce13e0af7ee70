/* kqueue as a poller: the kernel's own on macOS and the BSDs, libkqueue's on Linux (for tests).
 *
 * One-shot registrations, keyed by descriptor and filter.  Each is made by a call of its own: put
 * off to the next wait, a change might meet a number that has been closed and given to another file.
 *
 * libkqueue 2.3 differs (tests/libkqueue tries each): see the end of this file, and
 *   - errno may be an older call's, so errors are read from receipts;
 *   - a registration outlives its descriptor, and the next one of that number fails or, made with the
 *     same filter, does nothing: it is deleted and made again.
 */
#ifndef FERRULE_POLLER_KQUEUE_H
#define FERRULE_POLLER_KQUEUE_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/event.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "readiness.h"

struct poller {
    int fd;
    int woken; /* the last wait reported the user event */
#ifdef LIBKQUEUE
    pthread_mutex_t guard;
    int *copies; /* by descriptor, 0: none */
    int copies_room;
#endif
};

#define POLLER_WAKE 0 /* the identity of the user event */
#define POLLER_EVENTS 256

static inline int poller_change(struct poller *p, uintptr_t ident, int filter, int flags,
                                uint32_t fflags, int fd) {
    struct kevent change, receipt = {0};
    struct timespec now = {0, 0};
    int r;
    EV_SET(&change, ident, filter, flags | EV_RECEIPT, fflags, 0, (void *)(intptr_t)fd);
    do r = kevent(p->fd, &change, 1, &receipt, 1, &now);
    while (r < 0 && errno == EINTR);
    if (receipt.flags & EV_ERROR) return -(int)receipt.data;
    return r < 0 ? -errno : 0;
}

#ifdef LIBKQUEUE

/* It has one filter per descriptor, so waits for room to write have a copy of theirs. */

static inline int poller_replace(struct poller *p, int ident, int filter, int fd) {
    poller_change(p, (uintptr_t)ident, filter, EV_DELETE, 0, fd);
    int err = poller_change(p, (uintptr_t)ident, filter, EV_ADD | EV_ONESHOT, 0, fd);
    return err == -EFAULT || err == -ENOENT ? -EBADF : err;
}

/* Under the guard. */
static inline void poller_drop_copy(struct poller *p, int fd) {
    if (fd >= p->copies_room || !p->copies[fd]) return;
    poller_change(p, (uintptr_t)p->copies[fd], EVFILT_WRITE, EV_DELETE, 0, fd);
    close(p->copies[fd]);
    p->copies[fd] = 0;
}

static inline int poller_make_copy(struct poller *p, int fd) {
    if (fd >= p->copies_room) {
        int room = 2 * fd + 64;
        int *grown = realloc(p->copies, room * sizeof *grown);
        if (!grown) return -ENOMEM;
        memset(grown + p->copies_room, 0, (room - p->copies_room) * sizeof *grown);
        p->copies = grown;
        p->copies_room = room;
    }
    poller_drop_copy(p, fd);
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return copy < 0 ? -errno : (p->copies[fd] = copy);
}

static inline int poller_add(struct poller *p, int fd, int filter) {
    if (filter == EVFILT_READ) return poller_replace(p, fd, filter, fd);
    pthread_mutex_lock(&p->guard);
    int copy = poller_make_copy(p, fd);
    int err = copy < 0 ? copy : poller_replace(p, copy, filter, fd);
    pthread_mutex_unlock(&p->guard);
    return err;
}

/* It reports no eventfd and the like, which have no type here. */
static inline int poller_has_filter(mode_t mode) { return (mode & S_IFMT) != 0; }

static inline void poller_reported(struct poller *p, int fd, int filter) {
    if (filter == EVFILT_READ) return;
    pthread_mutex_lock(&p->guard);
    poller_drop_copy(p, fd);
    pthread_mutex_unlock(&p->guard);
}

static inline void poller_delete(struct poller *p, int fd) {
    poller_change(p, (uintptr_t)fd, EVFILT_READ, EV_DELETE, 0, fd);
    poller_reported(p, fd, EVFILT_WRITE);
}

static inline void poller_begin(struct poller *p) {
    pthread_mutex_init(&p->guard, NULL);
    p->copies = NULL;
    p->copies_room = 0;
}

static inline void poller_end(struct poller *p) {
    for (int fd = 0; fd < p->copies_room; fd++)
        if (p->copies[fd]) close(p->copies[fd]);
    free(p->copies);
    p->copies = NULL;
    p->copies_room = 0;
}

#else

static inline int poller_add(struct poller *p, int fd, int filter) {
    return poller_change(p, (uintptr_t)fd, filter, EV_ADD | EV_ONESHOT, 0, fd);
}
static inline int poller_has_filter(mode_t mode) { return 1; }
static inline void poller_reported(struct poller *p, int fd, int filter) {}
static inline void poller_delete(struct poller *p, int fd) {
    poller_change(p, (uintptr_t)fd, EVFILT_READ, EV_DELETE, 0, fd);
    poller_change(p, (uintptr_t)fd, EVFILT_WRITE, EV_DELETE, 0, fd);
}
static inline void poller_begin(struct poller *p) {}
static inline void poller_end(struct poller *p) {}

#endif

/* -EPERM: no filter tells of these events, or of a file, which is always ready for poll(2).
 * -EOPNOTSUPP: none tells of this kind of descriptor, though it is not always ready. */
static inline int poller_arm(struct poller *p, int fd, int events, int how) {
    struct stat s;
    if (!(events & (POLLIN | POLLOUT)) || events & ~(POLLIN | POLLOUT | POLLHUP | POLLERR))
        return -EPERM;
    if (fstat(fd, &s) < 0) return -errno;
    if (S_ISREG(s.st_mode) || S_ISDIR(s.st_mode)) return -EPERM;
    if (!poller_has_filter(s.st_mode)) return -EOPNOTSUPP;
    int err = 0;
    if (events & POLLIN) err = poller_add(p, fd, EVFILT_READ);
    if (!err && events & POLLOUT) err = poller_add(p, fd, EVFILT_WRITE);
    return err;
}

/* `wake_fd` is for those who can only write: signal handlers and the engine's threads. */
static inline int poller_open(struct poller *p, int wake_fd) {
    p->fd = kqueue();
    if (p->fd < 0) return -errno;
    poller_begin(p);
    fcntl(p->fd, F_SETFD, FD_CLOEXEC);
    int err = poller_change(p, POLLER_WAKE, EVFILT_USER, EV_ADD | EV_CLEAR, 0, 0);
    if (!err) err = poller_change(p, (uintptr_t)wake_fd, EVFILT_READ, EV_ADD, 0, wake_fd);
    if (err) {
        close(p->fd);
        p->fd = -1;
    }
    return err;
}

/* From any thread. */
static inline void poller_wake(struct poller *p) {
    poller_change(p, POLLER_WAKE, EVFILT_USER, 0, NOTE_TRIGGER, 0);
}

static inline struct poller_event poller_translate(const struct kevent *k) {
    int reads = k->filter == EVFILT_READ;
    struct poller_event e = {.fd = (int32_t)(intptr_t)k->udata,
                             .events = reads ? POLLIN : POLLOUT,
                             .disarmed = reads ? POLLIN : POLLOUT};
    if (k->flags & EV_EOF) e.events |= reads ? POLLRDHUP : POLLHUP;
    return e;
}

/* How many, or -errno.  Waits for `timeout` ns; -1: without end. */
static inline int poller_wait(struct poller *p, int64_t timeout, struct poller_event *events, int max) {
    struct kevent found[POLLER_EVENTS];
    struct timespec ts = {.tv_sec = timeout / 1000000000, .tv_nsec = timeout % 1000000000};
    if (max > POLLER_EVENTS) max = POLLER_EVENTS;
    int n = kevent(p->fd, NULL, 0, found, max, timeout < 0 ? NULL : &ts);
    if (n < 0) return -errno;
    int count = 0;
    p->woken = 0;
    for (int i = 0; i < n; i++) {
        if (found[i].filter == EVFILT_USER) {
            p->woken = 1;
            continue;
        }
        events[count] = poller_translate(&found[i]);
        poller_reported(p, events[count++].fd, found[i].filter);
    }
    return count;
}

/* Also from another thread than the one that waits. */
static inline void poller_disarm(struct poller *p, int fd) { poller_delete(p, fd); }

static inline void poller_close(struct poller *p) {
    if (p->fd < 0) return;
    close(p->fd);
    p->fd = -1;
    poller_end(p);
}

#endif
