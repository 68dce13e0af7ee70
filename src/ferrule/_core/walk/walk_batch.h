/* Entries on their way from a worker to the consumer, as columns.
 *
 * The paths are one block, each followed by the separator: so a reader prints them all with one
 * write.  A batch belongs to one thread at a time, which fills it or reads it.
 */
#ifndef FERRULE_WALK_BATCH_H
#define FERRULE_WALK_BATCH_H

#include <stdint.h>

#include "entry_filter.h"
#include "walk_node.h"

/* What can be asked of statx, each a column. */
enum walk_field {
    FIELD_MODE, FIELD_NLINK, FIELD_UID, FIELD_GID, FIELD_BLKSIZE,              /* uint32_t */
    FIELD_SIZE, FIELD_BLOCKS, FIELD_ATIME, FIELD_MTIME, FIELD_CTIME, FIELD_BTIME, /* int64_t */
    FIELD_INO, FIELD_DEV, FIELD_RDEV,                                          /* uint64_t */
    WALK_FIELDS
};

struct walk_field_row {
    const char *name;
    uint32_t mask;   /* of statx; 0: comes with every answer */
    uint8_t width;
    const char *format; /* of Python's struct module */
    uint16_t offset; /* in struct entry_stat */
};

extern const struct walk_field_row walk_field_rows[WALK_FIELDS];

/* What went wrong, and where: an error of a batch comes before its entry number `at`. */
enum walk_stage { STAGE_OPEN, STAGE_READ, STAGE_STAT };

struct walk_error {
    uint32_t at, depth;
    uint32_t path_offset, path_length; /* in error_text */
    int error;
    uint8_t stage;
};

struct walk_batch {
    struct walk_batch *next;
    struct walk *walk; /* a reference, while the consumer has it */
    uint32_t count, capacity;
    char *paths;
    uint32_t paths_size, paths_room;
    uint32_t *offsets;         /* one more than entries */
    uint32_t *name_at;         /* of the name in its path */
    uint32_t *depths;
    uint64_t *inodes;
    uint64_t *actions;         /* of the filter's that the entry passed, as bits */
    struct walk_node **nodes;  /* of directories that will be read, else NULL; references */
    struct walk_node **homes;  /* the directories that the entries are in; references */
    uint32_t *home_starts;     /* the first entry of each */
    uint32_t home_count;
    uint8_t *types;            /* DT_* */
    struct text_buffer *text;  /* what the filter's actions wrote, by stream */
    uint32_t streams;
    void *fields[WALK_FIELDS]; /* NULL: not asked for */
    struct walk_error *errors;
    uint32_t error_count, error_room;
    char *error_text;
    uint32_t error_text_size, error_text_room;
    void *block;               /* that the columns lie in */
};

/* NULL without memory.  `fields` is a set of bits. */
struct walk_batch *batch_new(uint32_t capacity, uint32_t fields, uint32_t streams);
/* Empty, to be filled again. */
void batch_clear(struct walk_batch *b);
void batch_free(struct walk_batch *b);

/* 0, or -ENOMEM and the batch is as it was. */
int batch_add_path(struct walk_batch *b, const char *path, uint32_t length, char separator);
int batch_add_error(struct walk_batch *b, const char *path, uint32_t length, uint32_t depth,
                    int error, int stage);

void batch_add_stat(struct walk_batch *b, uint32_t fields, const struct entry_stat *stat);

int batch_is_empty(const struct walk_batch *b);

/* The directory that an entry is in; NULL for a root. */
struct walk_node *batch_home(const struct walk_batch *b, uint32_t entry);

#endif
