/* Who reads what, and the way of batches to the consumer. */
#define _GNU_SOURCE
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "walk_parts.h"

#define WORKER_STACK (512 * 1024) /* regexec takes a good part of it */
#define STUCK_NS 10000000         /* without work for so long: see whether somebody is stuck */

/* ---- directories to be read ---- */

static void queue_append(struct walk_node **head, struct walk_node **tail, struct walk_node *n) {
    n->next = NULL;
    if (*head) (*tail)->next = n;
    else ATOMIC_STORE(head, n, RELAXED); /* see worker_share */
    *tail = n;
}

/* Under the walk's mutex.  Who has taken one is busy until it has handed in what it found. */
static struct walk_node *pool_take(struct walk_worker *w) {
    struct walk *k = w->walk;
    struct walk_node *n = k->pool;
    if (!n) return NULL;
    ATOMIC_STORE(&k->pool, n->next, RELAXED);
    n->next = NULL;
    k->busy += !w->is_busy;
    w->is_busy = 1;
    return n;
}

int worker_push(struct walk_worker *w, struct walk_node *node) {
    if (w->stack_top == w->stack_room) {
        uint32_t count = w->stack_top - w->stack_base;
        if (w->stack_base > count) {
            memmove(w->stack, w->stack + w->stack_base, count * sizeof *w->stack);
        } else {
            uint32_t room = w->stack_room ? w->stack_room * 2 : 64;
            void *bigger = realloc(w->stack, room * sizeof *w->stack);
            if (!bigger) {
                node_drop(node);
                return -ENOMEM;
            }
            w->stack = bigger;
            w->stack_room = room;
            if (w->stack_base)
                memmove(w->stack, w->stack + w->stack_base, count * sizeof *w->stack);
        }
        w->stack_base = 0;
        w->stack_top = count;
    }
    w->stack[w->stack_top++] = node;
    return 0;
}

/* ---- breadth first: what is remembered ---- */

void walk_keep(struct walk *k, struct walk_node *n) {
    for (; n && ATOMIC_ADD(&n->kept, 1, RELAXED) == 0; n = n->parent)
        ATOMIC_ADD(&k->kept, 1, RELAXED);
}

void walk_let_go(struct walk *k, struct walk_node *n) {
    for (; n && ATOMIC_SUB(&n->kept, 1, RELAXED) == 1; n = n->parent)
        ATOMIC_SUB(&k->kept, 1, RELAXED);
}

void walk_remember_prune(struct walk *k, const struct walk_node *n) {
    struct path_in_set *p = malloc(sizeof *p + n->path_length);
    if (p) {
        p->length = n->path_length;
        node_write_path(n, p->path);
    }
    if (!p || !path_set_add(&k->forgotten_prunes, p)) walk_fail(k);
    ATOMIC_STORE(&k->prunes_forgotten, 1, RELAXED);
}

int walk_was_pruned(struct walk *k, const char *path, uint32_t length) {
    if (!ATOMIC_LOAD(&k->prunes_forgotten, RELAXED)) return 0;
    pthread_mutex_lock(&k->mutex);
    int has = path_set_has(&k->forgotten_prunes, path, length);
    pthread_mutex_unlock(&k->mutex);
    return has;
}

void walk_forget(struct walk *k, struct walk_node *n) {
    pthread_mutex_lock(&k->mutex);
    n->is_forgotten = 1;
    if (ATOMIC_LOAD(&n->pruned, RELAXED)) walk_remember_prune(k, n);
    pthread_mutex_unlock(&k->mutex);
    node_drop(n);
}

void worker_forget_queued(struct walk_worker *w) {
    struct walk *k = w->walk;
    while (w->stack_top > w->stack_base) {
        struct walk_node *n = w->stack[--w->stack_top];
        worker_child_done(w, n->parent);
        walk_let_go(k, n);
        ATOMIC_SUB(&k->pending, 1, RELAXED);
        walk_forget(k, n);
    }
}

/* Breadth first there is one queue, and its order is the walk's. */
static void hand_in_deeper(struct walk_worker *w) {
    struct walk *k = w->walk;
    while (w->stack_base < w->stack_top)
        queue_append(&k->deeper, &k->deeper_end, w->stack[w->stack_base++]);
    w->stack_base = w->stack_top = 0;
}

static void begin_deeper(struct walk *k) {
    ATOMIC_STORE(&k->pool, k->deeper, RELAXED);
    k->pool_end = k->deeper_end;
    k->deeper = NULL;
}

static struct walk_node *pop_level(struct walk_worker *w) {
    struct walk *k = w->walk;
    pthread_mutex_lock(&k->mutex);
    hand_in_deeper(w);
    if (!k->pool && !k->config.threads) begin_deeper(k);
    struct walk_node *n = pool_take(w);
    pthread_mutex_unlock(&k->mutex);
    return n;
}

struct walk_node *worker_pop(struct walk_worker *w) {
    if (w->walk->config.order == ORDER_BREADTH) return pop_level(w);
    return w->stack_top > w->stack_base ? w->stack[--w->stack_top] : NULL;
}

/* ---- batches ---- */

void walk_keep_spare(struct walk *k, struct walk_batch *b) {
    if (k->spare_count == WALK_SPARE_BATCHES) {
        batch_free(b);
        return;
    }
    b->next = k->spare;
    k->spare = b;
    k->spare_count++;
}

/* Hand over the worker's batch.  Under its mutex and the walk's. */
static void hand_over(struct walk_worker *w) {
    struct walk *k = w->walk;
    struct walk_batch *b = w->batch;
    w->batch = NULL;
    if (!b) return;
    if (k->quit || batch_is_empty(b)) {
        batch_clear(b);
        walk_keep_spare(k, b);
        return;
    }
    b->next = NULL;
    if (k->ready) k->ready_end->next = b;
    else k->ready = b;
    k->ready_end = b;
    k->ready_count++;
    if (k->is_waiting) {
        k->is_waiting = 0;
        event_set(&k->wake);
    }
}

static void flush(struct walk_worker *w) {
    struct walk *k = w->walk;
    pthread_mutex_lock(&k->mutex);
    while (k->ready_count >= k->ready_limit && !k->stopping) pthread_cond_wait(&k->room, &k->mutex);
    hand_over(w);
    pthread_mutex_unlock(&k->mutex);
}

/* ---- sharing ---- */

/* There is work in the pool. */
static void call_workers(struct walk *k) {
    if (k->started < k->worker_count && walk_start_worker(k) < 0)
        k->worker_count = k->started; /* the others go on alone */
    pthread_cond_broadcast(&k->work);
}

/* Move the oldest into the pool.  Their own entries must have been handed over. */
static void give_away(struct walk_worker *w, uint32_t count) {
    struct walk *k = w->walk;
    if (!count) return;
    for (; count; count--) queue_append(&k->pool, &k->pool_end, w->stack[w->stack_base++]);
    call_workers(k);
}

/* So that there is always something in the pool, and nobody sleeps until it is. */
void worker_share(struct walk_worker *w) {
    struct walk *k = w->walk;
    uint32_t count = w->stack_top - w->stack_base;
    if (k->config.threads < 2 || count < 2 || ATOMIC_LOAD(&k->pool, RELAXED)) return;
    if (k->config.order != ORDER_ANY) return;
    pthread_mutex_lock(&k->mutex);
    if (!k->pool) {
        hand_over(w);
        give_away(w, count / 2);
    }
    pthread_mutex_unlock(&k->mutex);
}

/* Whether it has opened nothing since somebody looked, some time ago. */
static int is_stuck(struct walk_worker *w) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t now = t.tv_sec * 1000000000ll + t.tv_nsec;
    uint64_t directories = ATOMIC_LOAD(&w->directories, RELAXED);
    if (w->seen_at && directories == w->seen_directories) return now - w->seen_at >= STUCK_NS / 2;
    w->seen_directories = directories;
    w->seen_at = now;
    return 0;
}

/* What it has found is taken from it in any case, its work only if it is stuck: one that goes down a
 * deep chain would have to begin again at the top. */
static void rescue_from(struct walk *k, struct walk_worker *w) {
    if (pthread_mutex_trylock(&w->mutex) != 0) return; /* it is not in the kernel */
    pthread_mutex_lock(&k->mutex);
    hand_over(w);
    if (k->config.order == ORDER_ANY && is_stuck(w)) give_away(w, w->stack_top - w->stack_base);
    pthread_mutex_unlock(&k->mutex);
    pthread_mutex_unlock(&w->mutex);
}

void walk_rescue(struct walk *k) {
    pthread_mutex_lock(&k->mutex);
    uint32_t started = k->started;
    pthread_mutex_unlock(&k->mutex);
    for (uint32_t i = 0; i < started; i++) rescue_from(k, k->workers[i]);
}

void walk_deadline(int64_t ns, struct timespec *t) {
    clock_gettime(WAIT_CLOCK, t);
    ns += t->tv_nsec;
    t->tv_sec += ns / 1000000000;
    t->tv_nsec = ns % 1000000000;
}

/* Breadth first: the last one that was busy with a depth begins the next. */
static void leave_level(struct walk_worker *w) {
    struct walk *k = w->walk;
    hand_in_deeper(w);
    if (!w->is_busy) return;
    w->is_busy = 0;
    if (--k->busy || k->pool || !k->deeper) return;
    begin_deeper(k);
    if (k->pool->next) call_workers(k); /* this one takes the first */
}

static int is_over(struct walk *k) {
    return ATOMIC_LOAD(&k->pending, ACQUIRE) == 0 || ATOMIC_LOAD(&k->stopping, RELAXED);
}

static struct walk_node *take_work(struct walk_worker *w) {
    struct walk *k = w->walk;
    if (k->config.order != ORDER_ANY) return NULL;
    pthread_mutex_lock(&k->mutex);
    struct walk_node *n = is_over(k) ? NULL : pool_take(w);
    pthread_mutex_unlock(&k->mutex);
    return n;
}

/* A directory to read, or NULL: the walk is over. */
static struct walk_node *await_work(struct walk_worker *w) {
    struct walk *k = w->walk;
    struct walk_node *n = take_work(w);
    if (n) return n;
    flush(w);
    pthread_mutex_unlock(&w->mutex);
    pthread_mutex_lock(&k->mutex);
    leave_level(w);
    while (!is_over(k) && !(n = pool_take(w))) {
        struct timespec until;
        walk_deadline(STUCK_NS, &until);
        if (pthread_cond_timedwait(&k->work, &k->mutex, &until) != ETIMEDOUT) continue;
        pthread_mutex_unlock(&k->mutex);
        worker_close_all(w); /* not before: what comes next may be in one of them */
        walk_rescue(k);
        pthread_mutex_lock(&k->mutex);
    }
    if (!n) pthread_cond_broadcast(&k->work);
    pthread_mutex_unlock(&k->mutex);
    pthread_mutex_lock(&w->mutex);
    return n;
}

/* ---- threads ---- */

static void quit(struct walk_worker *w) {
    struct walk *k = w->walk;
    pthread_mutex_lock(&k->mutex);
    hand_over(w);
    k->quit = 1;
    ATOMIC_STORE(&k->stopping, 1, RELEASE);
    pthread_cond_broadcast(&k->work);
    pthread_cond_broadcast(&k->room);
    pthread_mutex_unlock(&k->mutex);
}

static void leave(struct walk_worker *w) {
    struct walk *k = w->walk;
    worker_abandon(w);
    pthread_mutex_unlock(&w->mutex);
    pthread_mutex_lock(&k->mutex);
    if (--k->running == 0) {
        k->is_waiting = 0;
        event_set(&k->wake);
    }
    /* Before walk_stop returns: so who ends a walk frees it, unless it did not wait. */
    int is_last = ATOMIC_SUB(&k->refs, 1, ACQ_REL) == 1;
    pthread_cond_broadcast(&k->gone);
    pthread_mutex_unlock(&k->mutex);
    if (is_last) walk_free(k);
}

static void *worker_main(void *arg) {
    struct walk_worker *w = arg;
    int step = 0;
    pthread_mutex_lock(&w->mutex);
    while (step != STEP_STOPPED) {
        struct walk_node *n;
        step = worker_step(w);
        if (step == STEP_FULL) {
            flush(w);
            worker_share(w);
        } else if (step == STEP_QUIT) {
            quit(w);
            step = STEP_STOPPED;
        } else if (step == STEP_IDLE) {
            n = await_work(w);
            if (!n || worker_enter(w, n) < 0) step = STEP_STOPPED;
        }
    }
    leave(w);
    return NULL;
}

/* Under the walk's mutex. */
int walk_start_worker(struct walk *k) {
    struct walk_worker *w = k->workers[k->started];
    pthread_t thread;
    int err = start_thread(&thread, PTHREAD_CREATE_DETACHED, WORKER_STACK, 0, worker_main, w);
    if (err) return -err;
    name_thread(thread, "ferrule-walk");
    ATOMIC_ADD(&k->refs, 1, RELAXED);
    /* From its first step: what it takes from the pool then is of the depth that is being read. */
    w->is_busy = 1;
    k->busy++;
    k->started++;
    k->running++;
    return 0;
}
