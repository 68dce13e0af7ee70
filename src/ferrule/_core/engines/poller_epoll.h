/* epoll as a poller: arm a descriptor, wait for events, disarm it. */
#ifndef FERRULE_POLLER_EPOLL_H
#define FERRULE_POLLER_EPOLL_H

#include <errno.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "readiness.h"

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441 /* the same number everywhere; Linux 5.11 */
#endif

struct poller {
    int fd;
    int is_coarse; /* waits have milliseconds only */
};

#define POLLER_ONCE (UINT64_C(1) << 32) /* in an event's data, beside the descriptor's number */

static inline int poller_control(struct poller *p, int fd, uint32_t events, uint64_t data, int again) {
    struct epoll_event e = {.events = events, .data.u64 = data | (uint32_t)fd};
    int call = again ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(p->fd, call, fd, &e) == 0) return 0;
    /* The number is another file's than we thought, or this file was there already. */
    if (errno != ENOENT && errno != EEXIST) return -errno;
    call = errno == ENOENT ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    return epoll_ctl(p->fd, call, fd, &e) < 0 ? -errno : 0;
}

/* POLLIN and its like are the same bits as EPOLLIN and its like.  What stands behind the data is
 * always asked for: readiness.h has to know of it. */
static inline int poller_arm(struct poller *p, int fd, int events, int how) {
    int lasts = how & ARM_LASTS;
    return poller_control(p, fd, (uint32_t)events | (lasts ? EPOLLRDHUP | EPOLLPRI | EPOLLET
                                                         : EPOLLONESHOT),
                          lasts ? 0 : POLLER_ONCE, how & ARM_AGAIN);
}

static inline int poller_open(struct poller *p, int wake_fd) {
    p->is_coarse = 0;
    p->fd = epoll_create1(EPOLL_CLOEXEC);
    if (p->fd < 0) return -errno;
    int err = poller_control(p, wake_fd, EPOLLIN, 0, 0);
    if (err < 0) {
        close(p->fd);
        p->fd = -1;
    }
    return err;
}

static inline int poller_wait_coarsely(struct poller *p, int64_t timeout, struct epoll_event *found,
                                       int max) {
    int64_t ms = timeout < 0 ? -1 : (timeout + 999999) / 1000000;
    return epoll_wait(p->fd, found, max, ms > INT32_MAX ? INT32_MAX : (int)ms);
}

static inline int poller_wait_finely(struct poller *p, int64_t timeout, struct epoll_event *found,
                                     int max) {
    struct uring_timespec ts = {timeout / 1000000000, timeout % 1000000000}; /* 64 bits on any ABI */
    int n = (int)syscall(SYS_epoll_pwait2, p->fd, found, max, &ts, NULL, 0);
    if (n >= 0 || (errno != ENOSYS && errno != EPERM)) return n;
    p->is_coarse = 1;
    return poller_wait_coarsely(p, timeout, found, max);
}

#define POLLER_EVENTS 256

/* How many, or -errno.  Waits for `timeout` ns; -1: without end. */
static inline int poller_wait(struct poller *p, int64_t timeout, struct poller_event *events, int max) {
    struct epoll_event found[POLLER_EVENTS];
    if (max > POLLER_EVENTS) max = POLLER_EVENTS;
    int n = timeout <= 0 || p->is_coarse ? poller_wait_coarsely(p, timeout, found, max)
                                         : poller_wait_finely(p, timeout, found, max);
    if (n < 0) return -errno;
    for (int i = 0; i < n; i++) {
        events[i].fd = (int32_t)found[i].data.u64;
        events[i].events = (int16_t)found[i].events;
        events[i].disarmed = found[i].data.u64 & POLLER_ONCE ? -1 : 0;
    }
    return n;
}

/* Also from another thread than the one that waits. */
static inline void poller_disarm(struct poller *p, int fd) {
    struct epoll_event unused = {0}; /* Linux before 2.6.9 looks at it */
    epoll_ctl(p->fd, EPOLL_CTL_DEL, fd, &unused);
}

static inline void poller_close(struct poller *p) {
    if (p->fd >= 0) close(p->fd);
    p->fd = -1;
}

#endif
