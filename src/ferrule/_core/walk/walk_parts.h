/* What a walk is made of; for its own sources. */
#ifndef FERRULE_WALK_PARTS_H
#define FERRULE_WALK_PARTS_H

#include <pthread.h>
#include <time.h>

#include "dir_walk.h"
#include "event.h"
#include "path_set.h"
#include "system_names.h"
#include "system_threads.h"

#define DIRENT_BYTES (64 * 1024)
#define WALK_SPARE_BATCHES 8

/* A directory being read.  In depth-first orders they are stacked, the innermost on top; else there
 * is one at a time. */
struct walk_frame {
    struct walk_frame *below;
    struct walk_node *node;    /* a reference */
    char *entries;             /* as getdents64 wrote them: the worker's buffer, or `own` */
    char *own;
    size_t at, end;
    uint32_t *sorted;          /* where in `entries` each begins, by name; NULL: unsorted */
    uint32_t sorted_at, sorted_count;
    uint32_t skip;             /* levels above what is to be read: it was read before */
    uint8_t is_open;           /* was opened */
    uint8_t is_complete;       /* the directory has no more to give than is in `entries` */
};

struct walk_worker {
    struct walk *walk;
    /* Held by the worker all the time, except while it is in the kernel: so whoever gets it then
     * may take `batch` and the stack. */
    pthread_mutex_t mutex;
    struct walk_batch *batch;  /* being filled; NULL: none yet, or it was taken */
    struct walk_node **stack;  /* found and to be read; references */
    uint32_t stack_base, stack_top, stack_room;
    /* The rest is the worker's alone. */
    struct walk_frame *frame, *spare;
    struct walk_node *newest, *oldest; /* the directories it has open; references */
    uint32_t open_count;
    uint32_t passed;           /* atomic: others opened the last one that was in one of them */
    char *path;                /* of the entry at hand */
    struct walk_node *path_node; /* whose it begins with, or begins with its parent's; a reference */
    uint32_t path_room;
    uint32_t prefix;           /* bytes of it that are the directory's, with the slash */
    char *buffer;
    struct entry_stat stat;    /* of the entry at hand */
    struct text_buffer *text;  /* what the filter wrote for it, by stream */
    uint32_t turns;
    uint32_t prunes_seen;
    uint16_t index;
    uint8_t is_busy;           /* counted in walk.busy */
    uint8_t reads_again;       /* there is no room for what is in what it reads */
    /* Under the mutex: what who looked for workers that are stuck saw last, and when. */
    uint64_t seen_directories;
    int64_t seen_at;
    /* Counted by the worker, read by anyone. */
    uint64_t directories, entries, errors, components;
};

struct walk {
    struct walk_config config;
    uint32_t refs;
    char **roots;
    uint32_t root_count, root_at;
    int cwd;                   /* what relative roots are relative to, whatever chdir() does */
    struct event wake;
    char *ignore_text;         /* config.ignore's */
    uint8_t goes_by_rules;     /* of config.ignore or config.gitignore */
    uint8_t is_plain;          /* nothing has to be known of an entry but what the directory says */
    uint8_t no_types;
    uint8_t filter_prunes;
    uint32_t stat_mask;        /* of statx, for the columns */
    uint32_t max_open;         /* per worker */
    struct walk_fault *faults;
    uint32_t fault_count;
    struct walk_worker **workers;
    uint32_t worker_room;      /* how many there are */
    uint32_t worker_count;     /* how many may have a thread */

    uint32_t stopping;         /* atomic: nobody wants any more */
    uint32_t out_of_memory;    /* atomic */
    uint32_t taking;           /* atomic: without threads, somebody uses the worker */
    uint32_t prunes;           /* atomic: how often the consumer pruned */
    uint64_t pending;          /* atomic: directories found, and not read to the end */
    uint64_t kept;             /* atomic: breadth first, these and those above them */
    uint32_t max_kept;
    uint8_t prunes_forgotten;  /* atomic: there are some in forgotten_prunes */

    pthread_mutex_t mutex;     /* of what follows */
    pthread_cond_t work, room, gone;
    struct walk_node *pool, *pool_end;  /* given away; breadth-first: of this depth */
    struct walk_node *deeper, *deeper_end; /* breadth-first: of the next depth */
    uint32_t busy;
    struct walk_batch *ready, *ready_end;
    uint32_t ready_count, ready_limit;
    struct walk_batch *spare;
    uint32_t spare_count;
    uint32_t started, running; /* threads */
    struct path_set forgotten_prunes; /* of directories that were pruned and are not remembered */
    uint8_t quit;              /* the filter said so: nothing more is handed over */
    uint8_t is_waiting;        /* the consumer */
};

/* ---- dir_read.c ---- */
enum walk_step { STEP_FULL = 1, STEP_PAUSE, STEP_IDLE, STEP_QUIT, STEP_STOPPED };
/* Read on until a batch is full (STEP_FULL) or the worker has nothing to read. */
int worker_step(struct walk_worker *w);
int worker_add_error(struct walk_worker *w, const char *path, uint32_t length, uint32_t depth,
                     int error, int stage);
/* Read it from the next step on.  Takes the reference. */
int worker_enter(struct walk_worker *w, struct walk_node *node);
/* Give up everything that is being read or open. */
void worker_abandon(struct walk_worker *w);
/* Around a call that may sleep. */
void worker_pause(struct walk_worker *w);
void worker_resume(struct walk_worker *w);
int walk_meets_fault(struct walk *k, int stage, const char *name);
void walk_fail(struct walk *k); /* out of memory */

/* ---- walk_open.c ---- */
/* Open a directory whose path is in w->path: 0 or -errno. */
int worker_open(struct walk_worker *w, struct walk_node *node);
void worker_close(struct walk_worker *w, struct walk_node *node);
void worker_close_all(struct walk_worker *w);
/* A child of it was opened, or will not be. */
void worker_child_done(struct walk_worker *w, struct walk_node *node);
/* Read the rest of a frame's directory, so that it may be closed: 0 or -errno. */
int frame_read_rest(struct walk_worker *w, struct walk_frame *f);

/* ---- walk_share.c ---- */
int worker_push(struct walk_worker *w, struct walk_node *node);
struct walk_node *worker_pop(struct walk_worker *w);
/* Breadth first: count it among those that are kept, and no more. */
void walk_keep(struct walk *k, struct walk_node *n);
void walk_let_go(struct walk *k, struct walk_node *n);
/* Takes the reference to one that is not queued: its level will be read again. */
void walk_forget(struct walk *k, struct walk_node *n);
/* Those that the worker has queued since it took its last one. */
void worker_forget_queued(struct walk_worker *w);
/* Under the mutex. */
void walk_remember_prune(struct walk *k, const struct walk_node *n);
int walk_was_pruned(struct walk *k, const char *path, uint32_t length);
/* Between two directories: let others have a part, if they have nothing to do. */
void worker_share(struct walk_worker *w);
/* Start the next thread, under the walk's mutex: 0 or -errno. */
int walk_start_worker(struct walk *k);
void walk_keep_spare(struct walk *k, struct walk_batch *b);
void walk_deadline(int64_t ns, struct timespec *t);

/* ---- dir_walk.c ---- */
void walk_free(struct walk *k);

#endif
