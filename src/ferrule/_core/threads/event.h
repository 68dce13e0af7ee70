/* A descriptor that can be read from event_set() until event_clear(): an eventfd, elsewhere a pipe.
 *
 * Any thread may set it; a signal handler, too.
 */
#ifndef FERRULE_EVENT_H
#define FERRULE_EVENT_H

#include <errno.h>
#include <stdint.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/eventfd.h>
#endif

#include "waker.h"

struct event { int fd, write_fd; }; /* -1: there is none */

#define NO_EVENT ((struct event){-1, -1})

static inline int event_open(struct event *e) {
#ifdef __linux__
    e->fd = e->write_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return e->fd < 0 ? -errno : 0;
#else
    int fds[2];
    int err = waker_make_pipe(fds);
    *e = err < 0 ? NO_EVENT : (struct event){fds[0], fds[1]};
    return err;
#endif
}

static inline void event_set(const struct event *e) {
    const uint64_t one = 1;
    while (write(e->write_fd, &one, sizeof one) < 0 && errno == EINTR) {
    } /* full, it can be read as well */
}

static inline void event_clear(const struct event *e) {
    uint64_t buf[32];
    ssize_t n;
    do n = read(e->fd, buf, sizeof buf);
    while (n == sizeof buf || (n < 0 && errno == EINTR));
}

static inline void event_close(struct event *e) {
    if (e->fd >= 0) close(e->fd);
    if (e->write_fd >= 0 && e->write_fd != e->fd) close(e->write_fd);
    *e = NO_EVENT;
}

#endif
