/* Reading directories: from the kernel's entries to a batch's columns, through the filter. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#include "operation_system.h"
#include "walk_parts.h"

#define PAUSE_NS 20000000 /* after so long a consumer that reads by itself sees to its signals */

#define LARGEST_FOUND 280  /* bytes of one, its name 255 */

struct found { /* as getdents64 writes them */
    uint64_t inode;
    int64_t position;
    unsigned short size;
    unsigned char type;
    char name[];
};

/* An entry at hand; fetch_stat gets the view, which is its beginning. */
struct visit {
    struct entry_view view;
    struct walk_worker *worker;
    struct walk_node *dir; /* NULL: a root */
    int follow;            /* its facts are those of what it links to */
    int again;             /* what went wrong was told before */
    int stat_error;
};

void walk_fail(struct walk *k) {
    ATOMIC_STORE(&k->out_of_memory, 1, RELEASE);
    ATOMIC_STORE(&k->stopping, 1, RELEASE);
}

void worker_pause(struct walk_worker *w) {
    if (w->walk->config.threads) pthread_mutex_unlock(&w->mutex);
}

void worker_resume(struct walk_worker *w) {
    if (w->walk->config.threads) pthread_mutex_lock(&w->mutex);
}

int walk_meets_fault(struct walk *k, int stage, const char *name) {
    if (!k->fault_count) return 0;
    if (strrchr(name, '/')) name = strrchr(name, '/') + 1; /* of a root */
    for (uint32_t i = 0; i < k->fault_count; i++) {
        struct walk_fault *f = &k->faults[i];
        if (f->stage != stage || (f->name && strcmp(f->name, name) != 0)) continue;
        if (ATOMIC_ADD(&f->seen, 1, RELAXED) + 1 != f->nth && f->nth) continue;
        struct timespec delay = {f->delay_ns / 1000000000, f->delay_ns % 1000000000};
        if (f->delay_ns) nanosleep(&delay, NULL);
        if (f->error) return -f->error;
    }
    return 0;
}

/* ---- what goes into the batch ---- */

static struct walk_batch *take_spare(struct walk *k) {
    struct walk_batch *b;
    pthread_mutex_lock(&k->mutex);
    b = k->spare;
    if (b) {
        k->spare = b->next;
        k->spare_count--;
        b->next = NULL;
    }
    pthread_mutex_unlock(&k->mutex);
    return b;
}

static struct walk_batch *batch_of(struct walk_worker *w) {
    struct walk *k = w->walk;
    if (!w->batch) w->batch = take_spare(k);
    const struct walk_config *c = &k->config;
    if (!w->batch) w->batch = batch_new(c->batch_entries, c->fields, c->text_streams);
    if (!w->batch) walk_fail(k);
    return w->batch;
}

int worker_add_error(struct walk_worker *w, const char *path, uint32_t length, uint32_t depth,
                     int error, int stage) {
    struct walk_batch *b = batch_of(w);
    if (!b) return -ENOMEM;
    ATOMIC_STORE(&w->errors, w->errors + 1, RELAXED);
    if (batch_add_error(b, path, length, depth, error, stage) == 0) return 0;
    walk_fail(w->walk);
    return -ENOMEM;
}

static int is_full(const struct walk_worker *w) {
    const struct walk_batch *b = w->batch;
    const struct walk_config *c = &w->walk->config;
    if (!b) return 0;
    for (uint32_t i = 0; i < b->streams; i++)
        if (b->text[i].size >= (c->batch_entries == 1 ? 1 : c->batch_bytes)) return 1;
    return b->count == b->capacity || b->paths_size >= c->batch_bytes ||
           b->error_count >= b->capacity;
}

/* What the filter wrote for the entry at hand: not into the batch at once, which may change hands
 * while the filter asks the kernel. */
static void add_text(struct walk_worker *w) {
    struct walk_batch *b = NULL;
    for (uint32_t i = 0; i < w->walk->config.text_streams; i++) {
        struct text_buffer *t = &w->text[i];
        if (t->size && !b && !(b = batch_of(w))) return;
        if (t->size) text_append(&b->text[i], t->bytes, t->size);
        if (t->failed || (b && b->text[i].failed)) walk_fail(w->walk);
        t->size = 0;
    }
}

static void begin_home(struct walk_batch *b, struct walk_node *dir) {
    if (b->home_count && b->homes[b->home_count - 1] == dir) return;
    b->homes[b->home_count] = dir ? node_hold(dir) : NULL;
    b->home_starts[b->home_count++] = b->count;
}

/* Hand the entry over, with a reference to the node if it is a directory that will be read. */
static int emit(struct visit *v, struct walk_node *node, uint64_t actions) {
    struct walk_worker *w = v->worker;
    if (w->walk->config.fields && !v->view.stat && !v->stat_error) /* may lose the batch */
        v->stat_error = v->view.fetch_stat(&v->view, w->walk->stat_mask);
    if (v->stat_error)
        worker_add_error(w, w->path, v->view.path_length, v->view.depth, v->stat_error, STAGE_STAT);
    struct walk_batch *b = batch_of(w);
    if (!b) return -ENOMEM;
    if (batch_add_path(b, w->path, v->view.path_length, w->walk->config.separator) < 0) {
        walk_fail(w->walk);
        return -ENOMEM;
    }
    if (w->walk->config.fields) batch_add_stat(b, w->walk->config.fields, v->view.stat);
    begin_home(b, v->dir);
    b->name_at[b->count] = v->view.name_at;
    b->depths[b->count] = v->view.depth;
    b->types[b->count] = v->view.type;
    b->inodes[b->count] = v->view.inode;
    b->actions[b->count] = actions;
    b->nodes[b->count] = node ? node_hold(node) : NULL;
    b->count++;
    ATOMIC_STORE(&w->entries, w->entries + 1, RELAXED);
    return 0;
}

/* ---- facts ---- */

static int64_t nanoseconds(struct statx_timestamp t) {
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void copy_facts(const struct statx *s, struct entry_stat *to) {
    *to = (struct entry_stat){
        .mask = s->stx_mask, .mode = s->stx_mode, .nlink = s->stx_nlink, .uid = s->stx_uid,
        .gid = s->stx_gid, .inode = s->stx_ino, .size = (int64_t)s->stx_size,
        .blocks = (int64_t)s->stx_blocks, .blksize = s->stx_blksize,
        .dev = makedev(s->stx_dev_major, s->stx_dev_minor),
        .rdev = makedev(s->stx_rdev_major, s->stx_rdev_minor),
        .atime_ns = nanoseconds(s->stx_atime), .mtime_ns = nanoseconds(s->stx_mtime),
        .ctime_ns = nanoseconds(s->stx_ctime), .btime_ns = nanoseconds(s->stx_btime)};
}

/* A directory that was closed for the budget is opened again; its path is a part of w->path. */
static int open_dir(struct entry_view *view) {
    struct visit *v = (struct visit *)view;
    struct walk_worker *w = v->worker;
    if (!v->dir || v->dir->fd >= 0) return 0;
    char *slash = w->path + v->dir->path_length, was = *slash;
    *slash = 0;
    int err = worker_open(w, v->dir);
    *slash = was;
    view->dir_fd = v->dir->fd;
    return -err;
}

static int statx_entry(struct visit *v, int follow, uint32_t mask, struct statx *out) {
    struct walk_worker *w = v->worker;
    int err = -open_dir(&v->view);
    if (err < 0) return err;
    worker_pause(w);
    err = walk_meets_fault(w->walk, STAGE_STAT, v->view.path + v->view.name_at);
    if (!err)
        do err = statx(v->view.dir_fd, v->view.at,
                       AT_NO_AUTOMOUNT | (follow ? 0 : AT_SYMLINK_NOFOLLOW), mask, out) < 0
                     ? -errno : 0;
        while (err == -EINTR);
    worker_resume(w);
    return err;
}

static int fetch_stat(struct entry_view *view, uint32_t mask) {
    struct visit *v = (struct visit *)view;
    struct statx out;
    mask |= v->worker->walk->stat_mask | STATX_TYPE;
    int err = statx_entry(v, v->follow, mask, &out);
    if (v->follow && (err == -ENOENT || err == -ENOTDIR)) {
        v->follow = 0; /* a link to nowhere is itself */
        err = statx_entry(v, 0, mask, &out);
    }
    if (err < 0) return -err;
    copy_facts(&out, &v->worker->stat);
    view->stat = &v->worker->stat;
    return 0;
}

static int is_loop(const struct visit *v) {
    for (const struct walk_node *n = v->dir; n; n = n->parent)
        if (n->ino == v->view.stat->inode && n->dev == v->view.stat->dev) return 1;
    return 0;
}

/* A loop begins at a link, but may close at a directory that is in one above by its name. */
static int may_be_loop(const struct visit *v) {
    for (const struct walk_node *n = v->dir; n; n = n->parent)
        if (n->ino == v->view.inode) return 1;
    return 0;
}

/* Make sure of the type.  -1: there is no such entry for the consumer, but an error. */
static int resolve_type(struct visit *v) {
    const struct walk_config *c = &v->worker->walk->config;
    int was_link = v->view.type == DT_LNK;
    int all = c->links == LINKS_ALWAYS;
    v->follow = all || (c->links == LINKS_ROOTS && !v->dir);
    if (v->view.type != DT_UNKNOWN && !(was_link && v->follow)) {
        v->follow = 0;
        if (!all || v->view.type != DT_DIR || !may_be_loop(v)) return 0;
    }
    int stage = STAGE_STAT, err = fetch_stat(&v->view, STATX_TYPE | STATX_INO);
    if (!err) {
        v->view.type = IFTODT(v->view.stat->mode);
        v->view.inode = v->view.stat->inode;
        if (!all || v->view.type != DT_DIR || !is_loop(v)) return 0;
        stage = STAGE_OPEN;
        err = ELOOP;
    }
    if (!v->again)
        worker_add_error(v->worker, v->worker->path, v->view.path_length, v->view.depth, err,
                         stage);
    return -1;
}

/* ---- one entry ---- */

static struct walk_frame *frame_push(struct walk_worker *w, struct walk_node *node);

/* At once, below what is being read.  Takes the reference. */
static int enter_now(struct walk_worker *w, struct walk_node *node, uint32_t skip) {
    struct walk *k = w->walk;
    ATOMIC_ADD(&k->pending, 1, RELAXED);
    if (node->parent) ATOMIC_ADD(&node->parent->children, 1, RELAXED);
    if (k->config.order == ORDER_BREADTH) walk_keep(k, node);
    if (worker_enter(w, node) < 0) return -ENOMEM;
    w->frame->skip = skip;
    return 0;
}

static int enter_queue(struct walk_worker *w, struct walk_node *node) {
    struct walk *k = w->walk;
    ATOMIC_ADD(&k->pending, 1, RELAXED);
    if (node->parent) ATOMIC_ADD(&node->parent->children, 1, RELAXED);
    if (k->config.order == ORDER_BREADTH) walk_keep(k, node);
    return worker_push(w, node);
}

/* Breadth first, what is one level below that which is read has to wait.  Where too much waits,
 * nothing of it is remembered: the directory at the top of what is read will be read again in the
 * place of it, down to there.  So each depth is still read before the next. */
static int has_room(struct walk_worker *w) {
    struct walk *k = w->walk;
    if (!w->frame || (!w->reads_again && ATOMIC_LOAD(&k->kept, RELAXED) < k->max_kept)) return 1;
    if (!w->reads_again) worker_forget_queued(w);
    w->reads_again = 1;
    return 0;
}

/* To be read: at once, or when its turn has come.  Takes the reference. */
static int enter_later(struct walk_worker *w, struct walk_node *node) {
    struct walk *k = w->walk;
    int order = k->config.order;
    if (order == ORDER_BREADTH && !has_room(w)) {
        walk_forget(k, node);
        return 0;
    }
    if (order >= ORDER_DEPTH ||
        (order == ORDER_ANY && w->frame && ATOMIC_LOAD(&k->pending, RELAXED) >= k->max_kept))
        return enter_now(w, node, 0);
    return enter_queue(w, node);
}

/* The frame on top is the last one of what was taken from the queue. */
static void read_again(struct walk_worker *w) {
    struct walk_node *node = w->frame->node;
    w->reads_again = 0;
    node->skip = w->frame->skip + 1;
    if (enter_queue(w, node_hold(node)) < 0) walk_fail(w->walk);
}

static struct walk_node *node_for(struct visit *v) {
    const char *name = v->dir ? v->view.path + v->view.name_at : v->view.path;
    uint32_t length = v->dir ? v->view.path_length - v->view.name_at : v->view.path_length;
    struct walk_node *node = node_new(v->dir, name, length);
    if (!node) {
        walk_fail(v->worker->walk);
        return NULL;
    }
    node->follow = (uint8_t)v->follow;
    node->ino = v->view.inode;
    return node;
}

/* Through the filter, to the batch; then the directory `node`, if it is one, to those to be read.
 * STEP_QUIT if the filter says that this was the last. */
static int judge(struct visit *v, struct walk_node *node) {
    struct walk_worker *w = v->worker;
    const struct walk_config *c = &w->walk->config;
    uint32_t bits = FILTER_MATCHED;
    struct filter_outcome outcome = {.text = w->text};
    if (c->filter) bits = filter_evaluate(c->filter, &v->view, &outcome);
    if (outcome.error) v->stat_error = outcome.error;
    if (node && bits & FILTER_PRUNE) {
        node_drop(node);
        node = NULL;
    }
    if (c->text_streams) {
        add_text(w);
        ATOMIC_STORE(&w->entries, w->entries + 1, RELAXED);
    }
    if (bits & FILTER_MATCHED && v->view.depth >= c->min_depth && !c->text_streams)
        emit(v, node, outcome.actions);
    else if (v->stat_error)
        worker_add_error(w, w->path, v->view.path_length, v->view.depth, v->stat_error, STAGE_STAT);
    if (node && enter_later(w, node) < 0) walk_fail(w->walk);
    return bits & FILTER_QUIT ? STEP_QUIT : 0;
}

static int is_ignored(struct visit *v) {
    struct walk *k = v->worker->walk;
    const struct entry_view *view = &v->view;
    /* Git's own directory is never part of what git looks after. */
    if (k->config.gitignore && ignore_file_found(view->path + view->name_at) == FOUND_GIT) return 1;
    int verdict = ignore_rules_judge(v->dir->rules, view->path, view->path_length, view->name_at,
                                     view->type == DT_DIR);
    if (verdict < 0) walk_fail(k);
    return verdict == IGNORE_IGNORED;
}

static int is_excluded(struct visit *v) {
    const struct walk_config *c = &v->worker->walk->config;
    struct filter_outcome outcome = {0};
    if (c->skip_hidden && v->view.path[v->view.name_at] == '.') return 1;
    if (v->worker->walk->goes_by_rules && is_ignored(v)) return 1;
    return c->exclude && filter_evaluate(c->exclude, &v->view, &outcome) & FILTER_MATCHED;
}

/* An entry whose type is known, and which is not left out. */
static int visit(struct visit *v) {
    struct walk *k = v->worker->walk;
    struct walk_node *node = NULL;
    if (v->view.type == DT_DIR && v->view.depth < k->config.max_depth) {
        node = node_for(v);
        if (!node) return 0;
        if (k->config.order == ORDER_POST) { /* judged once it has been read */
            if (enter_later(v->worker, node) < 0) walk_fail(k);
            return 0;
        }
    }
    return judge(v, node);
}

static int path_room(struct walk_worker *w, uint64_t wanted) {
    if (wanted <= w->path_room) return 0;
    wanted += wanted / 2;
    char *bigger = wanted > WALK_PATH_LIMIT ? NULL : realloc(w->path, wanted);
    if (!bigger) {
        walk_fail(w->walk);
        return -ENOMEM;
    }
    w->path = bigger;
    w->path_room = (uint32_t)wanted;
    return 0;
}

/* Whether there is such an entry at all. */
static int begin_visit(struct visit *v, struct walk_worker *w, struct walk_node *dir,
                       const struct found *e) {
    uint32_t length = (uint32_t)strlen(e->name);
    if (path_room(w, (uint64_t)w->prefix + length + 1) < 0) return 0;
    memcpy(w->path + w->prefix, e->name, length + 1);
    uint8_t type = w->walk->no_types ? DT_UNKNOWN : e->type;
    v->view = (struct entry_view){
        .path = w->path, .path_length = w->prefix + length, .name_at = w->prefix,
        .depth = dir->depth + 1, .type = type, .inode = e->inode, .dir_fd = dir->fd,
        .at = w->path + w->prefix, .fetch_stat = fetch_stat, .open_dir = open_dir, .walk = w};
    v->worker = w;
    v->dir = dir;
    v->follow = v->stat_error = 0;
    return (w->walk->is_plain && type != DT_UNKNOWN) || (resolve_type(v) == 0 && !is_excluded(v));
}

static int visit_found(struct walk_worker *w, struct walk_node *dir, const struct found *e) {
    struct visit v;
    v.again = 0;
    return begin_visit(&v, w, dir, e) ? visit(&v) : 0;
}

/* What the filter said when it was given, or would say now; what it writes was written then. */
static int prunes_again(struct visit *v) {
    struct walk_worker *w = v->worker;
    const struct walk_config *c = &w->walk->config;
    struct filter_outcome outcome = {.text = w->text};
    if (walk_was_pruned(w->walk, w->path, v->view.path_length)) return 1;
    if (!w->walk->filter_prunes) return 0;
    uint32_t bits = filter_evaluate(c->filter, &v->view, &outcome);
    for (uint32_t i = 0; i < c->text_streams; i++) w->text[i].size = 0;
    return (bits & FILTER_PRUNE) != 0;
}

/* An entry that was given before, in a directory that is read again. */
static void go_down_again(struct walk_worker *w, struct walk_frame *f, const struct found *e) {
    struct visit v;
    v.again = 1;
    int may_be_directory = e->type == DT_DIR || e->type == DT_UNKNOWN || w->walk->no_types ||
                           (e->type == DT_LNK && w->walk->config.links == LINKS_ALWAYS);
    if (!may_be_directory || !begin_visit(&v, w, f->node, e)) return;
    if (v.view.type != DT_DIR || prunes_again(&v)) return;
    struct walk_node *node = node_for(&v);
    if (node) enter_now(w, node, f->skip - 1);
}

/* Whose path w->path begins with, now. */
static void know_path(struct walk_worker *w, struct walk_node *node) {
    struct walk_node *last = w->path_node;
    w->path_node = node ? node_hold(node) : NULL;
    node_drop(last);
}

/* ---- roots ---- */

static uint32_t last_component(const char *path, uint32_t length) {
    uint32_t at = length;
    while (at > 0 && path[at - 1] == '/') at--;
    if (at == 0) return 0;
    while (at > 0 && path[at - 1] != '/') at--;
    return at;
}

static int visit_root(struct walk_worker *w, const char *root) {
    struct walk *k = w->walk;
    uint32_t length = (uint32_t)strlen(root);
    if (path_room(w, (uint64_t)length + 1) < 0) return 0;
    memcpy(w->path, root, length + 1);
    know_path(w, NULL);
    struct visit v = {
        .view = {.path = w->path, .path_length = length, .name_at = last_component(root, length),
                 .type = DT_UNKNOWN, .dir_fd = k->cwd, .at = w->path, .fetch_stat = fetch_stat,
                 .open_dir = open_dir, .walk = w},
        .worker = w};
    if (resolve_type(&v) < 0) return 0;
    if (v.view.type == DT_DIR || k->config.min_depth == 0) return visit(&v);
    worker_add_error(w, w->path, length, 0, ENOTDIR, STAGE_OPEN);
    return 0;
}

/* ---- frames ---- */

static struct walk_frame *frame_push(struct walk_worker *w, struct walk_node *node) {
    struct walk_frame *f = w->spare, *below = w->frame;
    if (f) w->spare = NULL;
    else f = malloc(sizeof *f);
    if (!f) return NULL;
    *f = (struct walk_frame){.below = below, .node = node};
    /* The buffer is for the innermost. */
    if (below && below->entries == w->buffer && below->at < below->end) {
        below->own = malloc(below->end - below->at);
        if (!below->own) {
            w->spare = f;
            return NULL;
        }
        memcpy(below->own, below->entries + below->at, below->end - below->at);
        below->entries = below->own;
        below->end -= below->at;
        below->at = 0;
    }
    w->frame = f;
    return f;
}

static void frame_pop(struct walk_worker *w) {
    struct walk_frame *f = w->frame;
    if (w->walk->config.order == ORDER_BREADTH) walk_let_go(w->walk, f->node);
    w->frame = f->below;
    free(f->own);
    free(f->sorted);
    node_drop(f->node);
    if (w->spare) free(f);
    else w->spare = f;
    if (w->frame) {
        struct walk_node *dir = w->frame->node;
        w->prefix = dir->path_length + (uint32_t)path_needs_slash(dir);
        w->path[w->prefix - 1] = '/'; /* if the path is empty, there is nothing above */
        know_path(w, dir); /* its entries' names come to stand over what was below it */
    }
    ATOMIC_SUB(&w->walk->pending, 1, RELAXED);
}

/* How many bytes of entries came, or -errno. */
static int64_t read_entries(struct walk_worker *w, struct walk_node *dir, char *to, size_t room) {
    worker_pause(w);
    int64_t n = walk_meets_fault(w->walk, STAGE_READ, dir->name);
    if (n == 0)
        do n = system_read_entries(dir->fd, to, room);
        while (n == -EINTR);
    worker_resume(w);
    return n == -ENOENT ? 0 : n; /* it was removed: this is its end */
}

static int grow_own(struct walk_frame *f, size_t *room) {
    size_t wanted = f->end + DIRENT_BYTES;
    if (wanted <= *room) return 0;
    if (wanted < *room * 2) wanted = *room * 2;
    char *bigger = realloc(f->own, wanted);
    if (!bigger) return -ENOMEM;
    f->own = f->entries = bigger;
    *room = wanted;
    return 0;
}

int frame_read_rest(struct walk_worker *w, struct walk_frame *f) {
    size_t room = f->own ? f->end : 0;
    int64_t n = 1;
    if (f->is_complete || !f->is_open) return 0;
    if (!f->own) f->at = f->end = 0; /* the buffer was used up, or is another's by now */
    while (n > 0) {
        if (grow_own(f, &room) < 0) {
            walk_fail(w->walk);
            return 0;
        }
        n = read_entries(w, f->node, f->own + f->end, DIRENT_BYTES);
        if (n > 0) f->end += (size_t)n;
    }
    f->is_complete = 1;
    if (f->end < room) {
        char *smaller = realloc(f->own, f->end ? f->end : 1);
        if (smaller) f->own = f->entries = smaller;
    }
    return (int)n;
}

static int by_name(const void *a, const void *b, void *entries) {
    const struct found *x = (const void *)((char *)entries + *(const uint32_t *)a);
    const struct found *y = (const void *)((char *)entries + *(const uint32_t *)b);
    return strcmp(x->name, y->name);
}

static int frame_sort(struct walk_frame *f) {
    uint32_t n = 0;
    for (size_t at = 0; at < f->end; n++) at += ((struct found *)(f->entries + at))->size;
    f->sorted = malloc((n + 1) * sizeof *f->sorted);
    if (!f->sorted) return -ENOMEM;
    for (size_t at = 0; at < f->end; at += ((struct found *)(f->entries + at))->size)
        f->sorted[f->sorted_count++] = (uint32_t)at;
    sort_with(f->sorted, n, sizeof *f->sorted, by_name, f->entries);
    return 0;
}

static int note_identity(struct walk_worker *w, struct walk_node *node) {
    struct stat s;
    worker_pause(w);
    int err = fstat(node->fd, &s) < 0 ? -errno : 0;
    worker_resume(w);
    if (err < 0) return err;
    node->dev = s.st_dev;
    node->ino = s.st_ino;
    return 0;
}

/* Whether it is on another file system than its root, on which all above it are. */
static int is_elsewhere(const struct walk_node *node) {
    return node->parent && node->dev != node->parent->dev;
}

static void frame_failed(struct walk_worker *w, struct walk_frame *f, int err, int stage) {
    f->is_complete = 1;
    if (f->skip) return; /* it was told before */
    worker_add_error(w, w->path, f->node->path_length, f->node->depth, -err, stage);
}

/* As much of a directory as the buffer takes: most are read to their end, with no more calls than
 * that takes anyway. */
static void frame_fill(struct walk_worker *w, struct walk_frame *f) {
    f->entries = w->buffer;
    while (!f->is_complete && DIRENT_BYTES - f->end >= LARGEST_FOUND) {
        int64_t n = read_entries(w, f->node, f->entries + f->end, DIRENT_BYTES - f->end);
        if (n > 0) f->end += (size_t)n;
        else f->is_complete = 1;
        if (n < 0) frame_failed(w, f, (int)n, STAGE_READ);
    }
}

static unsigned ignore_files_of(const struct walk_frame *f) {
    unsigned found = f->is_complete ? 0 : LOOK_FOR_IGNORE_FILES;
    for (size_t at = 0; at < f->end;) {
        const struct found *e = (void *)(f->entries + at);
        found |= ignore_file_found(e->name);
        at += e->size;
    }
    return found;
}

static void rules_failed(struct walk_worker *w, const struct walk_node *node, int err,
                         const char *name) {
    uint32_t prefix = node->path_length + (uint32_t)path_needs_slash(node);
    size_t length = strlen(name);
    if (path_room(w, prefix + length + 1ull) < 0) return;
    if (prefix) w->path[prefix - 1] = '/';
    memcpy(w->path + prefix, name, length);
    worker_add_error(w, w->path, prefix + (uint32_t)length, node->depth + 1, err, STAGE_READ);
    w->path[node->path_length] = 0;
}

/* The rules for what is in a directory: looked for among its entries, not asked for one by one. */
static void frame_read_rules(struct walk_worker *w, struct walk_frame *f) {
    struct walk *k = w->walk;
    struct walk_node *node = f->node;
    const struct ignore_given *given = &k->config.ignore;
    uint32_t base = node->path_length + (uint32_t)path_needs_slash(node);
    const char *failed = "";
    int err = 0;
    node->has_rules = 1;
    worker_pause(w);
    if (!node->parent)
        err = k->config.gitignore ? ignore_enter_root(&node->rules, given, node->fd, base, &failed)
                                  : ignore_only_given(&node->rules, given, base);
    worker_resume(w);
    if (err && !f->skip) rules_failed(w, node, err, failed);
    if (!k->config.gitignore) return;
    if (!f->sorted) frame_fill(w, f);
    unsigned found = ignore_files_of(f);
    if (!found) return;
    worker_pause(w);
    err = ignore_enter(&node->rules, given, node->fd, base, found, &failed);
    worker_resume(w);
    if (err && !f->skip) rules_failed(w, node, err, failed);
}

/* Mostly its directory's is there, from that itself or from another in it: so a deep chain takes
 * no more than its names. */
static void write_path(struct walk_worker *w, struct walk_node *node) {
    struct walk_node *dir = node->parent, *last = w->path_node;
    if (dir && last && (last == dir || last->parent == dir)) {
        uint32_t at = node->path_length - node->name_length;
        if (at > dir->path_length) w->path[at - 1] = '/';
        memcpy(w->path + at, node->name, node->name_length);
    } else {
        node_write_path(node, w->path);
    }
    w->path[node->path_length] = 0;
    know_path(w, node);
}

static void frame_open(struct walk_worker *w, struct walk_frame *f) {
    struct walk *k = w->walk;
    struct walk_node *node = f->node;
    f->is_open = 1;
    node->is_read = 0;
    if (path_room(w, node->path_length + 2ull) < 0) return;
    write_path(w, node);
    int err = worker_open(w, node);
    worker_child_done(w, node->parent);
    if (err == 0 && (k->config.links == LINKS_ALWAYS || k->config.one_file_system))
        err = note_identity(w, node);
    if (!f->skip) ATOMIC_STORE(&w->directories, w->directories + 1, RELAXED);
    if (err < 0) frame_failed(w, f, err, STAGE_OPEN);
    else if (k->config.one_file_system && is_elsewhere(node)) f->is_complete = 1;
    else if (k->config.sorted) {
        err = frame_read_rest(w, f);
        if (err < 0) frame_failed(w, f, err, STAGE_READ);
        if (frame_sort(f) < 0) walk_fail(k);
    }
    if (k->goes_by_rules && !node->has_rules && node->fd >= 0 && !(f->is_complete && !f->sorted))
        frame_read_rules(w, f);
    w->prefix = node->path_length + (uint32_t)path_needs_slash(node);
    if (w->prefix) w->path[w->prefix - 1] = '/';
}

/* The next entry but "." and "..", or NULL at the end. */
static const struct found *frame_next(struct walk_worker *w, struct walk_frame *f) {
    for (;;) {
        const struct found *e;
        if (f->sorted) {
            if (f->sorted_at == f->sorted_count) return NULL;
            e = (void *)(f->entries + f->sorted[f->sorted_at++]);
        } else {
            if (f->at >= f->end) {
                if (f->is_complete) return NULL;
                free(f->own);
                f->own = NULL;
                f->entries = w->buffer;
                f->at = f->end = 0;
                int64_t n = read_entries(w, f->node, w->buffer, DIRENT_BYTES);
                if (n < 0) frame_failed(w, f, (int)n, STAGE_READ);
                if (n <= 0) {
                    f->is_complete = 1;
                    return NULL;
                }
                f->end = (size_t)n;
            }
            e = (void *)(f->entries + f->at);
            f->at += e->size;
            if (e->position == INT64_MAX) f->is_complete = 1; /* there is no later one */
        }
        const char *name = e->name;
        if (name[0] != '.' || (name[1] && (name[1] != '.' || name[2]))) return e;
    }
}

/* In post-order: the directory itself, now that what is in it has been handed over. */
static int judge_read(struct walk_worker *w, struct walk_frame *f) {
    struct walk_node *node = f->node, *dir = node->parent;
    uint32_t name_at = dir ? node->path_length - node->name_length
                           : last_component(node->name, node->name_length);
    w->path[node->path_length] = 0;
    struct visit v = {
        .view = {.path = w->path, .path_length = node->path_length, .name_at = name_at,
                 .depth = node->depth, .type = DT_DIR, .inode = node->ino,
                 .dir_fd = dir ? dir->fd : w->walk->cwd, .at = w->path + (dir ? name_at : 0),
                 .fetch_stat = fetch_stat, .open_dir = open_dir, .walk = w},
        .worker = w, .dir = dir, .follow = node->follow};
    return judge(&v, NULL);
}

static int frame_end(struct walk_worker *w) {
    struct walk_frame *f = w->frame;
    struct walk_node *node = f->node;
    int step = w->walk->config.order == ORDER_POST ? judge_read(w, f) : 0;
    node->is_read = 1;
    if (w->reads_again && !f->below) read_again(w);
    if (node->fd >= 0 && ATOMIC_LOAD(&node->children, ACQUIRE) == 0) worker_close(w, node);
    frame_pop(w);
    return step;
}

/* The consumer pruned something: leave what of it is being read. */
static void drop_pruned(struct walk_worker *w) {
    struct walk_frame *outermost = NULL;
    w->prunes_seen = ATOMIC_LOAD(&w->walk->prunes, ACQUIRE);
    for (struct walk_frame *f = w->frame; f; f = f->below)
        if (node_is_pruned(f->node)) outermost = f;
    while (outermost) {
        struct walk_frame *f = w->frame;
        if (f == outermost) outermost = NULL;
        f->node->is_read = 1;
        if (!f->is_open) worker_child_done(w, f->node->parent);
        if (f->node->fd >= 0 && f->node->children == 0) worker_close(w, f->node);
        frame_pop(w);
    }
}

void worker_abandon(struct walk_worker *w) {
    while (w->frame) frame_pop(w);
    worker_close_all(w);
}

int worker_enter(struct walk_worker *w, struct walk_node *node) {
    if (!w->frame) w->reads_again = 0;
    struct walk_frame *f = frame_push(w, node);
    if (f) {
        f->skip = node->skip;
        return 0;
    }
    node_drop(node);
    walk_fail(w->walk);
    return -ENOMEM;
}

static int next_directory(struct walk_worker *w) {
    struct walk_node *node = worker_pop(w);
    if (!node) return STEP_IDLE;
    worker_enter(w, node);
    return 0;
}

static int64_t coarse_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* Looks at the clock at each directory, and at every 256th entry. */
static int is_long(struct walk_worker *w, int64_t begun, int at_directory) {
    if (w->walk->config.threads || (!at_directory && ++w->turns % 256)) return 0;
    return coarse_clock() - begun >= PAUSE_NS;
}

int worker_step(struct walk_worker *w) {
    struct walk *k = w->walk;
    int64_t begun = k->config.threads ? 0 : coarse_clock();
    int step = 0;
    while (step == 0) {
        struct walk_frame *f = w->frame;
        const struct found *e;
        if (ATOMIC_LOAD(&k->stopping, RELAXED)) return STEP_STOPPED;
        if (is_full(w)) return STEP_FULL;
        if (ATOMIC_LOAD(&k->prunes, RELAXED) != w->prunes_seen) {
            drop_pruned(w);
        } else if (f && !f->is_open) {
            if (w->prunes_seen && node_is_pruned(f->node)) drop_pruned(w);
            else frame_open(w, f);
        } else if (f && (e = frame_next(w, f))) {
            if (f->skip) go_down_again(w, f, e);
            else step = visit_found(w, f->node, e);
        } else if (f) {
            step = frame_end(w);
            worker_share(w);
        } else if (w->index == 0 && k->root_at < k->root_count) {
            step = visit_root(w, k->roots[k->root_at++]);
        } else {
            step = next_directory(w);
        }
        if (step == 0 && is_long(w, begun, f != w->frame)) step = STEP_PAUSE;
    }
    return step;
}
