/* A walk's beginning and end, and its consumer's side. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "walk_parts.h"

#define LARGEST_TABLE 4096 /* descriptors that room is made for at once */

/* ---- the consumer ---- */

static void walk_drop(struct walk *k) {
    if (ATOMIC_SUB(&k->refs, 1, ACQ_REL) == 1) walk_free(k);
}

/* Without threads: another one may stop the walk while the consumer reads.  Who has `taking` may
 * touch the worker; the consumer looks again after it gave it up. */
static void abandon_inline(struct walk *k) {
    if (!ATOMIC_LOAD(&k->stopping, SEQ_CST) || ATOMIC_SWAP(&k->taking, 1, SEQ_CST)) return;
    worker_abandon(k->workers[0]);
    ATOMIC_STORE(&k->taking, 0, SEQ_CST);
}

static int step_inline(struct walk *k, struct walk_batch **batch) {
    struct walk_worker *w = k->workers[0];
    int step = k->quit ? STEP_STOPPED : worker_step(w);
    if (ATOMIC_LOAD(&k->out_of_memory, ACQUIRE)) return WALK_FAILED;
    if (step == STEP_PAUSE) return WALK_WAIT;
    if (step != STEP_FULL) {
        k->quit = 1;
        worker_abandon(w);
    }
    *batch = w->batch;
    w->batch = NULL;
    if (*batch && batch_is_empty(*batch)) {
        batch_free(*batch);
        *batch = NULL;
    }
    return *batch ? WALK_BATCH : WALK_ENDED;
}

static int take_inline(struct walk *k, struct walk_batch **batch) {
    if (ATOMIC_SWAP(&k->taking, 1, SEQ_CST)) return WALK_ENDED; /* it is being stopped */
    int state = step_inline(k, batch);
    ATOMIC_STORE(&k->taking, 0, SEQ_CST);
    abandon_inline(k);
    return state;
}

static int take_ready(struct walk *k, struct walk_batch **batch) {
    int state = WALK_BATCH;
    pthread_mutex_lock(&k->mutex);
    *batch = k->ready;
    if (*batch) {
        k->ready = (*batch)->next;
        k->ready_count--;
        pthread_cond_signal(&k->room);
    } else if (k->running) {
        k->is_waiting = 1;
        state = WALK_WAIT;
    } else {
        state = ATOMIC_LOAD(&k->out_of_memory, ACQUIRE) ? WALK_FAILED : WALK_ENDED;
    }
    pthread_mutex_unlock(&k->mutex);
    return state;
}

int walk_take(struct walk *k, struct walk_batch **batch) {
    *batch = NULL;
    int state = k->config.threads ? take_ready(k, batch) : take_inline(k, batch);
    if (*batch) {
        ATOMIC_ADD(&k->refs, 1, RELAXED);
        (*batch)->walk = k;
    }
    return state;
}

void batch_return(struct walk_batch *b) {
    struct walk *k = b->walk;
    b->walk = NULL;
    batch_clear(b);
    pthread_mutex_lock(&k->mutex);
    walk_keep_spare(k, b);
    pthread_mutex_unlock(&k->mutex);
    walk_drop(k);
}

int walk_wake_fd(const struct walk *k) { return k->wake.fd; }

void walk_calm(struct walk *k) {
    event_clear(&k->wake);
}

void walk_stop(struct walk *k, int64_t patience_ns) {
    struct timespec until;
    walk_deadline(patience_ns, &until);
    pthread_mutex_lock(&k->mutex);
    ATOMIC_STORE(&k->stopping, 1, SEQ_CST);
    pthread_cond_broadcast(&k->work);
    pthread_cond_broadcast(&k->room);
    while (k->running && pthread_cond_timedwait(&k->gone, &k->mutex, &until) == 0) {}
    pthread_mutex_unlock(&k->mutex);
    if (!k->config.threads) abandon_inline(k);
}

void walk_release(struct walk *k) { walk_drop(k); }

/* ---- its beginning and end ---- */

static void worker_free(struct walk_worker *w) {
    if (!w) return;
    worker_abandon(w);
    while (w->stack_base < w->stack_top) node_drop(w->stack[w->stack_base++]);
    if (w->batch) batch_free(w->batch);
    node_drop(w->path_node);
    pthread_mutex_destroy(&w->mutex);
    for (uint32_t i = 0; w->text && i < w->walk->config.text_streams; i++) text_free(&w->text[i]);
    free(w->text);
    free(w->spare);
    free(w->stack);
    free(w->path);
    free(w->buffer);
    free(w);
}

static void queue_drop(struct walk_node *n) {
    while (n) {
        struct walk_node *next = n->next;
        node_drop(n);
        n = next;
    }
}

void walk_free(struct walk *k) {
    struct walk_batch *lists[] = {k->ready, k->spare};
    for (uint32_t i = 0; k->workers && i < k->worker_room; i++) worker_free(k->workers[i]);
    for (int i = 0; i < 2; i++)
        for (struct walk_batch *b = lists[i], *next; b; b = next) {
            next = b->next;
            batch_free(b);
        }
    filter_drop(k->config.filter);
    filter_drop(k->config.exclude);
    queue_drop(k->pool);
    queue_drop(k->deeper);
    for (uint32_t i = 0; k->roots && i < k->root_count; i++) free(k->roots[i]);
    for (uint32_t i = 0; i < k->fault_count; i++) free(k->faults[i].name);
    if (k->cwd >= 0) close(k->cwd);
    event_close(&k->wake);
    path_set_free(&k->forgotten_prunes);
    pthread_mutex_destroy(&k->mutex);
    pthread_cond_destroy(&k->work);
    pthread_cond_destroy(&k->room);
    pthread_cond_destroy(&k->gone);
    free(k->workers);
    free(k->roots);
    free(k->faults);
    free(k->ignore_text);
    free(k);
}

static struct walk_worker *worker_new(struct walk *k, uint32_t index) {
    struct walk_worker *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    pthread_mutex_init(&w->mutex, NULL);
    w->walk = k;
    w->index = (uint16_t)index;
    w->buffer = malloc(DIRENT_BYTES);
    w->text = calloc(k->config.text_streams + 1, sizeof *w->text);
    if (w->buffer && w->text) return w;
    worker_free(w);
    return NULL;
}

static int copy_roots(struct walk *k, const char *const *roots, uint32_t count) {
    int relative = 0;
    k->roots = calloc(count + 1, sizeof *k->roots);
    if (!k->roots) return -ENOMEM;
    for (; k->root_count < count; k->root_count++) {
        k->roots[k->root_count] = strdup(roots[k->root_count]);
        if (!k->roots[k->root_count]) return -ENOMEM;
        relative |= roots[k->root_count][0] != '/';
    }
    if (relative) { /* if it cannot be had, they are relative to where the process is */
        int fd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0) k->cwd = fd;
    }
    return 0;
}

static int copy_ignore(struct walk *k) {
    struct ignore_given *given = &k->config.ignore;
    if (!given->length) return 0;
    k->ignore_text = malloc(given->length);
    if (!k->ignore_text) return -ENOMEM;
    memcpy(k->ignore_text, given->text, given->length);
    given->text = k->ignore_text;
    return 0;
}

static void init_locks(struct walk *k) {
    pthread_mutex_init(&k->mutex, NULL);
    init_timed_condition(&k->work);
    init_timed_condition(&k->room);
    init_timed_condition(&k->gone);
}

static int make_workers(struct walk *k) {
    uint32_t count = k->config.threads ? k->config.threads : 1;
    k->workers = calloc(count, sizeof *k->workers);
    if (!k->workers) return -ENOMEM;
    k->worker_room = count;
    for (; k->worker_count < count; k->worker_count++) {
        k->workers[k->worker_count] = worker_new(k, k->worker_count);
        if (!k->workers[k->worker_count]) return -ENOMEM;
    }
    k->max_open = k->config.max_fds / count;
    if (k->max_open < 1) k->max_open = 1;
    return 0;
}

static uint32_t mask_of(uint32_t fields) {
    uint32_t mask = 0;
    for (int f = 0; f < WALK_FIELDS; f++)
        if (fields >> f & 1) mask |= walk_field_rows[f].mask;
    return mask;
}

/* Whose directories are left out by calls into the program is not known a second time. */
static uint32_t most_kept(const struct walk *k) {
    const struct walk_config *c = &k->config;
    if (c->order == ORDER_BREADTH && k->filter_prunes && filter_has(c->filter, FILTER_EXTERNAL))
        return UINT32_MAX;
    return c->max_kept ? c->max_kept : WALK_MAX_KEPT;
}

static int prepare(struct walk *k, const char *const *roots, uint32_t count) {
    const struct walk_config *c = &k->config;
    k->filter_prunes = c->filter && filter_has(c->filter, FILTER_PRUNING);
    k->max_kept = most_kept(k);
    k->stat_mask = mask_of(c->fields);
    if (c->filter) k->stat_mask |= filter_stat_mask(c->filter);
    k->goes_by_rules = c->gitignore || c->ignore.length;
    k->is_plain =
        !c->exclude && !c->skip_hidden && !k->goes_by_rules && c->links != LINKS_ALWAYS;
    k->ready_limit = 4 + 2 * c->threads;
    int err = copy_roots(k, roots, count);
    if (err == 0) err = copy_ignore(k);
    if (err == 0) err = make_workers(k);
    if (err < 0 || !c->threads) return err;
    return event_open(&k->wake);
}

struct walk *walk_new(const struct walk_config *config, const char *const *roots, uint32_t count,
                      int *error) {
    struct walk *k = calloc(1, sizeof *k);
    *error = ENOMEM;
    if (!k) return NULL;
    k->config = *config;
    filter_share(k->config.filter);
    filter_share(k->config.exclude);
    if (k->config.order >= ORDER_DEPTH || (k->config.sorted && k->config.threads))
        k->config.threads = k->config.threads != 0; /* strict orders are one worker's */
    k->refs = 1;
    k->cwd = AT_FDCWD;
    k->wake = NO_EVENT;
    init_locks(k);
    *error = -prepare(k, roots, count);
    if (*error == 0) return k;
    walk_free(k);
    return NULL;
}

/* Where threads share the table of descriptors Linux waits for all processors (synchronize_rcu, some
 * 10 ms) each time it doubles the table.  Before there are threads it does not. */
static void grow_descriptor_table(const struct walk *k) {
    int wanted = k->config.max_fds < LARGEST_TABLE ? (int)k->config.max_fds : LARGEST_TABLE;
    int fd = is_single_threaded() ? fcntl(k->wake.fd, F_DUPFD_CLOEXEC, wanted) : -1;
    if (fd >= 0) close(fd);
}

int walk_start(struct walk *k) {
    if (!k->config.threads) return 0;
    grow_descriptor_table(k);
    pthread_mutex_lock(&k->mutex);
    int err = walk_start_worker(k);
    pthread_mutex_unlock(&k->mutex);
    return err;
}

int walk_add_fault(struct walk *k, int stage, const char *name, uint32_t nth, int error,
                   int64_t delay_ns) {
    void *bigger = realloc(k->faults, (k->fault_count + 1) * sizeof *k->faults);
    if (!bigger) return -ENOMEM;
    k->faults = bigger;
    struct walk_fault *f = &k->faults[k->fault_count];
    *f = (struct walk_fault){.stage = stage, .error = error, .nth = nth, .delay_ns = delay_ns};
    if (name && !(f->name = strdup(name))) return -ENOMEM;
    k->fault_count++;
    return 0;
}

void walk_forget_types(struct walk *k) { k->no_types = 1; }

/* ---- pruning, progress ---- */

void walk_prune(struct walk *k, struct walk_batch *batch, uint32_t entry) {
    struct walk_node *n = batch->nodes[entry];
    if (!n) return;
    pthread_mutex_lock(&k->mutex);
    if (n->is_forgotten && !n->pruned) walk_remember_prune(k, n);
    ATOMIC_STORE(&n->pruned, 1, RELAXED);
    ATOMIC_ADD(&k->prunes, 1, RELEASE);
    pthread_mutex_unlock(&k->mutex);
}

int walk_is_pruned(struct walk *k, const struct walk_batch *batch, uint32_t entry) {
    if (ATOMIC_LOAD(&k->prunes, RELAXED) == 0) return 0;
    const struct walk_node *home = batch_home(batch, entry);
    if (node_is_pruned(home)) return 1;
    if (k->config.order != ORDER_BREADTH) return 0;
    const char *path = batch->paths + batch->offsets[entry];
    for (; home; home = home->parent) /* what was read again is another node */
        if (walk_was_pruned(k, path, home->path_length)) return 1;
    return 0;
}

void walk_read_progress(struct walk *k, struct walk_progress *p) {
    *p = (struct walk_progress){.queued = ATOMIC_LOAD(&k->pending, RELAXED)};
    for (uint32_t i = 0; i < k->worker_room; i++) {
        const struct walk_worker *w = k->workers[i];
        p->directories += ATOMIC_LOAD(&w->directories, RELAXED);
        p->entries += ATOMIC_LOAD(&w->entries, RELAXED);
        p->errors += ATOMIC_LOAD(&w->errors, RELAXED);
        p->components += ATOMIC_LOAD(&w->components, RELAXED);
    }
}
