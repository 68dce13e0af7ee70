/* Threads for the operations that an engine cannot do itself.  They run the rows' plain attempts
 * and touch no Python object.
 *
 *     owner ── ticket ──► pending (slot_queue) ──► worker: the row's attempt
 *       ▲                                            │
 *       └───────────────── done (a stack) ◄──────────┘
 *
 * All calls are the owner's, a loop thread: no lock stands between it and its workers, and no push
 * of its ever waits, since what finds no ticket waits with the owner.
 *
 * An operation is in the pool from pool_submit until pool_reap returns it; only then may its slot be
 * freed.  What stands in the queue is a ticket, which the owner and a worker contend for: so an
 * operation that has not begun can be taken back, although nothing leaves the middle of the queue.
 * One that runs is interrupted by a signal whose handler does nothing (installed without SA_RESTART,
 * so the call answers EINTR).  The signal may come just before the call begins to wait, so whoever
 * cancels repeats it until the operation is done (pool_interrupt).
 *
 * Threads start with the load: `eager` of them at once, more only while operations wait and those
 * that are done took long, as they do that sleep.  They go when the owner has had nothing for them
 * for a while.
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
#include "slot_queue.h"
#include "system_threads.h"

#ifndef POOL_TICKETS
#define POOL_TICKETS 1024u /* at least as many as threads */
#endif
#ifndef POOL_IDLE_NS
#define POOL_IDLE_NS 10000000000
#endif
#define POOL_SIGNAL SIGURG /* ignored by default, so a stray one harms nobody */
#define POOL_STACK (128u << 10)
#define POOL_LOOK_NS 200000 /* between two looks at how long operations take */
#define POOL_SHORT_NS 20000 /* no more threads for operations that take less */

enum pool_state { POOL_QUEUED, POOL_RUNNING, POOL_FINISHED, POOL_TAKEN_BACK };

struct pool_ticket {
    struct op *op;
    struct pool_ticket *next; /* of the free, or of the done */
    uint32_t state;
    pthread_t thread; /* where it runs */
};

struct pool {
    /* The owner's alone. */
    struct pool_ticket *tickets, *free;
    uint32_t out;             /* tickets that are not free */
    struct op *head, *tail;   /* those for which there was no ticket */
    struct op *taken_back;    /* newest first */
    uint32_t threads, eager, max_threads;
    int64_t looked_at, idle_since; /* 0: no reason to look */
    uint32_t finished;        /* since the last look */
    void (*notify)(void *);   /* called when there is something to reap again, also by workers */
    void *notify_arg;

    /* The workers' too. */
    struct slot_queue pending;
    struct pool_ticket leave; /* who takes it ends */
    struct pool_ticket *done; /* newest first */
    pthread_mutex_t mutex;    /* of `alive`; so long as it is held, no thread ends */
    pthread_cond_t gone;
    uint32_t alive;
};

static inline void pool_ignore_signal(int sig) { (void)sig; }

static inline int64_t pool_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static inline void pool_init(struct pool *p, uint32_t eager, uint32_t max_threads,
                             void (*notify)(void *), void *arg) {
    memset(p, 0, sizeof *p);
    p->eager = eager < max_threads ? eager : max_threads;
    p->max_threads = max_threads;
    p->notify = notify;
    p->notify_arg = arg;
}

/* Memory for a pool that is used. */
static inline int pool_prepare(struct pool *p) {
    if (p->tickets) return 0;
    /* So many that no push waits: for the tickets, and for all threads to be told to leave. */
    int err = slot_queue_init(&p->pending, POOL_TICKETS + p->max_threads);
    if (err) return -err;
    p->tickets = calloc(POOL_TICKETS, sizeof *p->tickets);
    if (!p->tickets) {
        slot_queue_destroy(&p->pending);
        return -ENOMEM;
    }
    for (uint32_t i = POOL_TICKETS; i-- > 0;) {
        p->tickets[i].next = p->free;
        p->free = &p->tickets[i];
    }
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->gone, NULL);
    return 0;
}

/* ---- the workers' side ---- */

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
    while (result == -EINTR && !ATOMIC_LOAD(&o->how_cancelled, ACQUIRE));
    return result;
}

static inline void pool_serve(struct pool *p, struct pool_ticket *t) {
    uint32_t state = POOL_QUEUED;
    PLAIN_STORE(&t->thread, pthread_self());
    if (ATOMIC_CAS(&t->state, &state, POOL_RUNNING, ACQ_REL, ACQUIRE)) {
        t->op->result = pool_perform(t->op);
        ATOMIC_STORE(&t->state, POOL_FINISHED, RELEASE);
    }
    struct pool_ticket *newest = ATOMIC_LOAD(&p->done, RELAXED);
    do PLAIN_STORE(&t->next, newest);
    while (!ATOMIC_CAS(&p->done, &newest, t, RELEASE, RELAXED));
    if (!newest) p->notify(p->notify_arg);
}

static void *pool_main(void *arg) {
    struct pool *p = arg;
    for (;;) {
        struct pool_ticket *t = slot_queue_pop(&p->pending, true);
        if (t == &p->leave) break;
        pool_serve(p, t);
    }
    pthread_mutex_lock(&p->mutex);
    p->alive--;
    pthread_cond_signal(&p->gone);
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

/* ---- threads ---- */

/* Unless the program does something with it. */
static inline void pool_catch_signal(void) {
    struct sigaction old;
    if (sigaction(POOL_SIGNAL, NULL, &old) == 0 &&
        (old.sa_handler == SIG_DFL || old.sa_handler == SIG_IGN)) {
        struct sigaction ignore = {.sa_handler = pool_ignore_signal};
        sigaction(POOL_SIGNAL, &ignore, NULL);
    }
}

static inline void pool_count_alive(struct pool *p, int change) {
    pthread_mutex_lock(&p->mutex);
    p->alive += (uint32_t)change;
    pthread_mutex_unlock(&p->mutex);
}

static inline int pool_spawn(struct pool *p) {
    pthread_t thread;
    pool_catch_signal();
    pool_count_alive(p, 1);
    int err = start_thread(&thread, PTHREAD_CREATE_DETACHED, POOL_STACK, POOL_SIGNAL, pool_main, p);
    if (err) pool_count_alive(p, -1);
    else p->threads++;
    return -err;
}

/* They end when they come to it. */
static inline void pool_dismiss(struct pool *p) {
    for (; p->threads; p->threads--) slot_queue_push(&p->pending, &p->leave);
}

/* Whether a thread will come to one more operation: 0 if it will. */
static inline int pool_make_room(struct pool *p, uint32_t most) {
    if (p->out < p->threads) return 0;
    return p->threads < most ? pool_spawn(p) : -EAGAIN;
}

/* While operations wait: one thread more if those that are done took long. */
static inline void pool_grow(struct pool *p) {
    int64_t now = pool_now(), elapsed = now - p->looked_at;
    if (p->looked_at && elapsed < POOL_LOOK_NS) return;
    if (p->looked_at && p->finished * (int64_t)POOL_SHORT_NS < elapsed * p->threads) pool_spawn(p);
    p->looked_at = now;
    p->finished = 0;
}

/* ---- the owner's side ---- */

static inline void pool_keep(struct pool *p, struct op *o) {
    o->next = NULL;
    if (p->tail) p->tail->next = o;
    else p->head = o;
    p->tail = o;
}

static inline void pool_push(struct pool *p, struct op *o) {
    struct pool_ticket *t = p->free;
    p->free = t->next;
    p->out++;
    p->idle_since = 0;
    t->op = o;
    ATOMIC_STORE(&t->state, POOL_QUEUED, RELAXED);
    o->ticket = t;
    slot_queue_push(&p->pending, t);
}

static inline void pool_enqueue(struct pool *p, struct op *o) {
    if (p->free && !p->head) pool_push(p, o);
    else pool_keep(p, o);
}

/* The operation waits for its turn if it must.  0, or -errno when there is no thread at all. */
static inline int pool_submit(struct pool *p, struct op *o) {
    o->ticket = NULL;
    int err = pool_prepare(p);
    if (!err) err = pool_make_room(p, p->eager);
    if (err && !p->threads) return err;
    pool_enqueue(p, o);
    return 0;
}

/* 0 if one of at most `most` threads takes the operation at once, else -errno. */
static inline int pool_offer(struct pool *p, struct op *o, uint32_t most) {
    o->ticket = NULL;
    int err = pool_prepare(p);
    if (!err) err = pool_make_room(p, most < p->max_threads ? most : p->max_threads);
    if (!err) pool_enqueue(p, o);
    return err;
}

static inline void pool_take_from_kept(struct pool *p) {
    while (p->head && p->free) {
        struct op *o = p->head;
        p->head = o->next;
        if (!p->head) p->tail = NULL;
        pool_push(p, o);
    }
}

static inline struct op *pool_take_back_list(struct pool *p) {
    struct op *o = p->taken_back, *list = NULL;
    p->taken_back = NULL;
    while (o) {
        struct op *next = o->next;
        o->next = list;
        list = o;
        o = next;
    }
    return list;
}

/* The operations that are done: those taken back, then the finished, oldest first.  To be called
 * after each notice, also when nobody waits for an operation: it may be the ticket of one that was
 * taken back, and until that is reaped nobody is told of another. */
static inline struct op *pool_reap(struct pool *p) {
    struct pool_ticket *t = p->out ? ATOMIC_SWAP(&p->done, NULL, ACQUIRE) : NULL;
    struct op *list = NULL;
    while (t) {
        struct pool_ticket *older = t->next;
        if (ATOMIC_LOAD(&t->state, RELAXED) != POOL_TAKEN_BACK) {
            t->op->ticket = NULL;
            t->op->next = list;
            list = t->op;
            p->finished++;
        }
        t->next = p->free;
        p->free = t;
        p->out--;
        t = older;
    }
    if (p->taken_back) {
        struct op *back = pool_take_back_list(p), *last = back;
        while (last->next) last = last->next;
        last->next = list;
        list = back;
    }
    if (p->head) pool_take_from_kept(p);
    if (p->out > p->threads && p->threads < p->max_threads) pool_grow(p);
    else p->looked_at = 0;
    return list;
}

/* How long the owner may wait before it calls pool_reap, given that it may wait for `timeout`. */
static inline int64_t pool_limit_wait(struct pool *p, int64_t timeout) {
    int64_t rest;
    if (!p->threads) return timeout;
    if (p->out > p->threads && p->threads < p->max_threads) {
        rest = POOL_LOOK_NS;
    } else if (p->out) {
        return timeout;
    } else {
        int64_t now = pool_now();
        if (!p->idle_since) p->idle_since = now;
        rest = p->idle_since + POOL_IDLE_NS - now;
        if (rest <= 0) {
            pool_dismiss(p);
            return timeout;
        }
    }
    return timeout < 0 || rest < timeout ? rest : timeout;
}

static inline void pool_take_back(struct pool *p, struct op *o) {
    int first = !p->taken_back;
    o->result = -ECANCELED;
    o->next = p->taken_back;
    p->taken_back = o;
    if (first) p->notify(p->notify_arg);
}

static inline int pool_leave_kept(struct pool *p, struct op *o) {
    struct op **at = &p->head, *before = NULL;
    while (*at && *at != o) {
        before = *at;
        at = &(*at)->next;
    }
    if (!*at) return 0;
    *at = o->next;
    if (p->tail == o) p->tail = before;
    return 1;
}

/* Cancel: an operation that has not begun is done at once with -ECANCELED; a running one is
 * signalled.  Returns whether it still runs, so that the caller knows to come again. */
static inline int pool_interrupt(struct pool *p, struct op *o) {
    struct pool_ticket *t = o->ticket;
    uint32_t state = POOL_QUEUED;
    if (!t) {
        if (pool_leave_kept(p, o)) pool_take_back(p, o);
        return 0;
    }
    if (ATOMIC_CAS(&t->state, &state, POOL_TAKEN_BACK, ACQ_REL, ACQUIRE)) {
        o->ticket = NULL; /* which comes back by itself */
        pool_take_back(p, o);
        return 0;
    }
    if (state != POOL_RUNNING) return 0;
    pthread_mutex_lock(&p->mutex);
    if (ATOMIC_LOAD(&t->state, ACQUIRE) == POOL_RUNNING) pthread_kill(t->thread, POOL_SIGNAL);
    pthread_mutex_unlock(&p->mutex);
    return 1;
}

/* Wait for every thread to go.  Nothing may be in the pool. */
static inline void pool_stop(struct pool *p) {
    if (!p->tickets) return;
    pool_dismiss(p);
    pthread_mutex_lock(&p->mutex);
    while (p->alive) pthread_cond_wait(&p->gone, &p->mutex);
    pthread_mutex_unlock(&p->mutex);
    pthread_cond_destroy(&p->gone);
    pthread_mutex_destroy(&p->mutex);
    slot_queue_destroy(&p->pending);
    free(p->tickets);
    p->tickets = NULL;
}

#endif
