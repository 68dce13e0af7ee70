/* What ends the wait of a loop from outside: a pipe that its thread watches, and whether a wake-up
 * is on its way, so that many cost one write.  Any thread and signal handlers may call waker_wake(),
 * or waker_call() and, if that says so, waker_write() or a way of their own; the rest is the owner's.
 */
#ifndef FERRULE_WAKER_H
#define FERRULE_WAKER_H

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "atomics.h"

struct waker { int read_fd, write_fd, pending; };

static inline int waker_make_pipe(int *fds) {
#ifdef __APPLE__ /* without a call that does it at once */
    if (pipe(fds) < 0) return -errno;
    for (int i = 0; i < 2; i++) {
        fcntl(fds[i], F_SETFD, FD_CLOEXEC);
        fcntl(fds[i], F_SETFL, O_NONBLOCK);
    }
    return 0;
#else
    return pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0 ? -errno : 0;
#endif
}

static inline int waker_open(struct waker *w) {
    int fds[2];
    int err = waker_make_pipe(fds);
    if (err < 0) return err;
    w->read_fd = fds[0];
    w->write_fd = fds[1];
    /* A wake before there was a pipe must not mute it. */
    ATOMIC_STORE(&w->pending, 0, RELEASE);
    return 0;
}

/* Whether the caller has to do the waking. */
static inline int waker_call(struct waker *w) {
    return !ATOMIC_SWAP(&w->pending, 1, ACQ_REL);
}

static inline void waker_write(struct waker *w) {
    ssize_t n = write(w->write_fd, "w", 1);
    (void)n; /* a full pipe wakes as well */
}

static inline void waker_wake(void *arg) {
    struct waker *w = arg;
    if (waker_call(w)) waker_write(w);
}

/* The wake-up has come.  Before anybody looks at an inbox: a call that comes now is a new one.  A
 * swap, so that what was done before a call that found one on its way is seen from here on. */
static inline void waker_clear(struct waker *w) {
    (void)ATOMIC_SWAP(&w->pending, 0, ACQ_REL);
}

static inline void waker_drain(struct waker *w) {
    char buf[256];
    while (read(w->read_fd, buf, sizeof buf) == sizeof buf) {
    }
    waker_clear(w);
}

static inline int waker_was_called(const struct waker *w) {
    return ATOMIC_LOAD(&w->pending, ACQUIRE);
}

static inline void waker_close(struct waker *w) {
    if (w->read_fd >= 0) close(w->read_fd);
    if (w->write_fd >= 0) close(w->write_fd);
    w->read_fd = w->write_fd = -1;
}

#endif
