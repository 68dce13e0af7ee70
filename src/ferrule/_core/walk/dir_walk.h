/* Walking directory trees: workers read and filter directories, and hand over batches of entries.
 *
 * Without threads the consumer reads by itself, one batch per call, so nothing is read before it
 * asks.  With threads each worker reads depth first what it has found, and gives the older half of
 * that away when another has nothing to do; a worker that is stuck in the kernel has both its
 * entries and its work taken from it (walk_rescue).  A directory's own entry always reaches the
 * consumer before what is in it, except in post-order.
 *
 * Everything here is for one consumer at a time.  No Python object in sight.
 */
#ifndef FERRULE_DIR_WALK_H
#define FERRULE_DIR_WALK_H

#include <stdint.h>

#include "ignore_files.h"
#include "walk_batch.h"

#define WALK_MAX_KEPT 250000 /* of some 130 bytes each */

enum walk_order { ORDER_ANY, ORDER_BREADTH, ORDER_DEPTH, ORDER_POST };
enum walk_links { LINKS_NEVER, LINKS_ROOTS, LINKS_ALWAYS };

struct walk_config {
    uint8_t order, links;
    uint8_t sorted;          /* by name, in each directory; not with ORDER_ANY */
    uint8_t skip_hidden;
    uint8_t one_file_system;
    uint8_t gitignore;       /* leave out what git would */
    char separator;          /* after each path of a batch */
    uint32_t min_depth, max_depth; /* of the entries; a root has 0 */
    uint32_t fields;         /* bits of enum walk_field: the columns wanted */
    uint32_t batch_entries, batch_bytes; /* a batch is full once it has one of them */
    uint32_t threads;        /* 0: the consumer reads */
    uint32_t text_streams;   /* that the filter writes to; if any, entries have no columns */
    uint32_t max_fds;        /* how many directories may be open at a time */
    uint32_t max_kept;       /* how many may be remembered, to be read later; 0: WALK_MAX_KEPT */
    struct entry_filter *filter;  /* which entries are wanted; NULL: all */
    struct entry_filter *exclude; /* which are neither wanted nor entered; NULL: none */
    struct ignore_given ignore;         /* as are those that these lines ignore */
};

struct walk_progress {
    uint64_t directories, entries, errors, queued;
    uint64_t components; /* of the paths by which directories were opened */
};

/* An injected fault: the n-th attempt (from 1; 0: each) of a stage, at a name or at any, waits and
 * then fails unless error is 0. */
struct walk_fault {
    int stage, error;
    uint32_t nth, seen;
    int64_t delay_ns;
    char *name; /* NULL: any */
};

/* NULL and *error: ENOMEM, or what the descriptors of a walk could not be opened for. */
struct walk *walk_new(const struct walk_config *config, const char *const *roots, uint32_t count,
                      int *error);
int walk_add_fault(struct walk *k, int stage, const char *name, uint32_t nth, int error,
                   int64_t delay_ns);

/* For tests: as on file systems whose directories tell no types. */
void walk_forget_types(struct walk *k);

/* Once all is set: 0, or -errno if there is no thread at all to read. */
int walk_start(struct walk *k);

enum walk_state { WALK_BATCH, WALK_ENDED, WALK_WAIT, WALK_FAILED };

/* The next batch.  WALK_WAIT: there is none yet; with threads walk_wake_fd becomes readable when
 * there is, without the call is simply to be made again.
 * WALK_FAILED: out of memory.  The batch is the caller's until batch_return. */
int walk_take(struct walk *k, struct walk_batch **batch);
int walk_wake_fd(const struct walk *k);
/* Make the descriptor unreadable again; before the next walk_take. */
void walk_calm(struct walk *k);
/* Take over what workers that are in the kernel now have found and not handed over.  For who has
 * waited for a while. */
void walk_rescue(struct walk *k);

/* Have nothing below entry read, if that is possible still. */
void walk_prune(struct walk *k, struct walk_batch *batch, uint32_t entry);
/* Whether an entry is below a directory that was pruned. */
int walk_is_pruned(struct walk *k, const struct walk_batch *batch, uint32_t entry);

void walk_read_progress(struct walk *k, struct walk_progress *p);

/* End it: workers go as soon as the kernel call that they are in returns, and are waited for up to
 * that long.  Idempotent. */
void walk_stop(struct walk *k, int64_t patience_ns);
/* Give up the consumer's reference, once stopped.  Batches have their own. */
void walk_release(struct walk *k);
void batch_return(struct walk_batch *batch);

#endif
