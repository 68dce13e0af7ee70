/* Threads for the operations that an engine cannot do itself.  They run the rows' plain attempts
 * and touch no Python object.
 *
 * An operation is with a worker from pool_submit until it is on the done list; only then may its
 * slot be freed.  A queued operation can be taken back; a running one is interrupted by a signal
 * whose handler does nothing (installed without SA_RESTART, so the call answers EINTR).  The signal
 * may come just before the call begins to wait, so whoever cancels repeats it until the operation
 * is done (pool_interrupt).
 */
#ifndef FERRULE_WORKER_POOL_H
#define FERRULE_WORKER_POOL_H

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "operation.h"

#define POOL_SIGNAL SIGURG /* ignored by default, so a stray one harms nobody */
#define POOL_IDLE_SECONDS 10
#ifdef __APPLE__ /* whose condition variables know no other */
#define POOL_CLOCK CLOCK_REALTIME
#else
#define POOL_CLOCK CLOCK_MONOTONIC
#endif

struct pool_worker {
    pthread_t thread;
    struct op *running;
    struct pool_worker *next;
};

struct pool {
    pthread_mutex_t mutex;
    pthread_cond_t work, quiet;
    struct op *head, *tail;       /* queued */
    uint32_t queued;
    struct op *done;              /* finished, newest first */
    struct pool_worker *workers;  /* alive */
    uint32_t threads, idle, max_threads;
    int stopping;
    void (*notify)(void *); /* called when the done list stops being empty, from a worker */
    void *notify_arg;
};

static inline void pool_ignore_signal(int sig) { (void)sig; }

static inline void pool_init(struct pool *p, uint32_t max_threads, void (*notify)(void *), void *arg) {
    memset(p, 0, sizeof *p);
    pthread_mutex_init(&p->mutex, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
#ifndef __APPLE__
    pthread_condattr_setclock(&attr, POOL_CLOCK);
#endif
    pthread_cond_init(&p->work, &attr);
    pthread_cond_init(&p->quiet, NULL);
    pthread_condattr_destroy(&attr);
    p->max_threads = max_threads;
    p->notify = notify;
    p->notify_arg = arg;
}

static inline struct op *pool_take(struct pool *p) {
    struct op *o = p->head;
    if (o) {
        p->head = o->next;
        if (!p->head) p->tail = NULL;
        p->queued--;
        o->next = NULL;
    }
    return o;
}

/* Under the mutex. */
static inline void pool_finish(struct pool *p, struct op *o) {
    int first = p->done == NULL;
    o->next = p->done;
    p->done = o;
    if (first && !p->stopping) p->notify(p->notify_arg);
}

static inline void pool_leave(struct pool *p, struct pool_worker *self) {
    struct pool_worker **at = &p->workers;
    while (*at != self) at = &(*at)->next;
    *at = self->next;
    p->threads--;
    free(self);
    pthread_cond_broadcast(&p->quiet);
}

/* Sends go in the steps in which the socket takes them, as with the other engines: a blocking send(2)
 * would wait until it has taken everything. */
static inline int64_t pool_attempt_once(struct op *o) {
    int sends = o->kind == OP_SEND || o->kind == OP_SENDMSG;
    return sends ? op_rows[o->kind].attempt_now(o) : op_rows[o->kind].attempt(o);
}

static inline int pool_may_wait(const struct op *o) {
    int has_flags = o->kind == OP_RECV || o->kind == OP_RECVMSG || o->kind == OP_SEND ||
                    o->kind == OP_SENDMSG;
    return op_rows[o->kind].poll_events && !(o->traits & OP_IN_WORKER) &&
           !(has_flags && o->flags & MSG_DONTWAIT);
}

/* -EAGAIN comes from sends, and from descriptors that somebody made O_NONBLOCK. */
static inline int64_t pool_attempt(struct op *o) {
    int64_t result;
    while ((result = pool_attempt_once(o)) == -EAGAIN && pool_may_wait(o)) {
        struct pollfd p = {.fd = o->fd, .events = op_rows[o->kind].poll_events};
        if (poll(&p, 1, -1) < 0) return -errno;
    }
    return result;
}

static inline int64_t pool_perform(struct op *o) {
    int64_t result;
    do result = pool_attempt(o);
    while (result == -EINTR && !__atomic_load_n(&o->how_cancelled, __ATOMIC_ACQUIRE));
    return result;
}

struct pool_start { struct pool *pool; struct pool_worker *self; };

static void *pool_main(void *arg) {
    struct pool_start start = *(struct pool_start *)arg;
    struct pool *p = start.pool;
    free(arg);
    pthread_mutex_lock(&p->mutex);
    for (;;) {
        struct op *o = pool_take(p);
        if (o) {
            start.self->running = o;
            pthread_mutex_unlock(&p->mutex);
            int64_t result = pool_perform(o);
            pthread_mutex_lock(&p->mutex);
            start.self->running = NULL;
            o->result = result;
            pool_finish(p, o);
            continue;
        }
        if (p->stopping) break;
        struct timespec until;
        clock_gettime(POOL_CLOCK, &until);
        until.tv_sec += POOL_IDLE_SECONDS;
        p->idle++;
        int timed_out = pthread_cond_timedwait(&p->work, &p->mutex, &until) == ETIMEDOUT;
        p->idle--;
        if (timed_out && !p->head) break;
    }
    pool_leave(p, start.self);
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

/* Unless the program does something with it. */
static inline void pool_catch_signal(void) {
    struct sigaction old;
    if (sigaction(POOL_SIGNAL, NULL, &old) == 0 &&
        (old.sa_handler == SIG_DFL || old.sa_handler == SIG_IGN)) {
        struct sigaction ignore = {.sa_handler = pool_ignore_signal};
        sigaction(POOL_SIGNAL, &ignore, NULL);
    }
}

/* Under the mutex.  Signals are for the main thread: workers block all but the interrupting one. */
static inline int pool_spawn(struct pool *p) {
    pool_catch_signal();
    struct pool_worker *self = calloc(1, sizeof *self);
    struct pool_start *start = malloc(sizeof *start);
    if (!self || !start) {
        free(self);
        free(start);
        return -ENOMEM;
    }
    *start = (struct pool_start){p, self};
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, POOL_SIGNAL);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 128 * 1024);
    int err = pthread_create(&self->thread, &attr, pool_main, start);
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err) {
        free(self);
        free(start);
        return -err;
    }
    self->next = p->workers;
    p->workers = self;
    p->threads++;
    return 0;
}

/* Under the mutex: see to it that one more operation finds a thread; 0 if it will.  A thread that was
 * woken counts as idle until it runs, so idle alone would leave an operation behind one that waits
 * for ever. */
static inline int pool_make_room(struct pool *p) {
    if (p->queued < p->idle) return 0;
    return p->threads < p->max_threads ? pool_spawn(p) : -EAGAIN;
}

/* Under the mutex. */
static inline void pool_enqueue(struct pool *p, struct op *o) {
    o->next = NULL;
    if (p->tail) p->tail->next = o;
    else p->head = o;
    p->tail = o;
    p->queued++;
    pthread_cond_signal(&p->work);
}

/* The operation waits for its turn if it must.  0, or -errno when there is no thread at all. */
static inline int pool_submit(struct pool *p, struct op *o) {
    pthread_mutex_lock(&p->mutex);
    int err = pool_make_room(p);
    if (p->threads) err = 0;
    if (!err) pool_enqueue(p, o);
    pthread_mutex_unlock(&p->mutex);
    return err;
}

/* 0 if one of at most `most` threads takes the operation at once, else -errno. */
static inline int pool_offer(struct pool *p, struct op *o, uint32_t most) {
    pthread_mutex_lock(&p->mutex);
    int err = p->queued < p->idle || p->threads < most ? pool_make_room(p) : -EAGAIN;
    if (!err) pool_enqueue(p, o);
    pthread_mutex_unlock(&p->mutex);
    return err;
}

/* The finished operations, oldest first. */
static inline struct op *pool_reap(struct pool *p) {
    pthread_mutex_lock(&p->mutex);
    struct op *o = p->done, *list = NULL;
    p->done = NULL;
    pthread_mutex_unlock(&p->mutex);
    while (o) {
        struct op *next = o->next;
        o->next = list;
        list = o;
        o = next;
    }
    return list;
}

/* Cancel: a queued operation is done at once with -ECANCELED; a running one is signalled.  Returns
 * whether it still runs, so that the caller knows to come again. */
static inline int pool_interrupt(struct pool *p, struct op *o) {
    int runs = 0;
    pthread_mutex_lock(&p->mutex);
    struct op **at = &p->head, *before = NULL;
    while (*at && *at != o) {
        before = *at;
        at = &(*at)->next;
    }
    if (*at) {
        *at = o->next;
        if (p->tail == o) p->tail = before;
        p->queued--;
        o->result = -ECANCELED;
        pool_finish(p, o);
    } else {
        for (struct pool_worker *w = p->workers; w; w = w->next)
            if (w->running == o) {
                runs = 1;
                pthread_kill(w->thread, POOL_SIGNAL);
            }
    }
    pthread_mutex_unlock(&p->mutex);
    return runs;
}

/* Wait for every thread to go.  Nothing may be queued or running. */
static inline void pool_stop(struct pool *p) {
    pthread_mutex_lock(&p->mutex);
    p->stopping = 1;
    pthread_cond_broadcast(&p->work);
    while (p->threads) pthread_cond_wait(&p->quiet, &p->mutex);
    pthread_mutex_unlock(&p->mutex);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->quiet);
    pthread_mutex_destroy(&p->mutex);
}

#endif
