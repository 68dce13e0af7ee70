# Directory walks as Cython sees them (dir_walk.h, walk_batch.h).
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ferrule._core.entry_filter cimport entry_filter, entry_stat, text_buffer


cdef extern from "walk_batch.h" nogil:
    enum:
        FIELD_MODE, FIELD_NLINK, FIELD_UID, FIELD_GID, FIELD_BLKSIZE, FIELD_SIZE, FIELD_BLOCKS
        FIELD_ATIME, FIELD_MTIME, FIELD_CTIME, FIELD_BTIME, FIELD_INO, FIELD_DEV, FIELD_RDEV
        WALK_FIELDS

    struct walk_field_row:
        const char *name
        uint32_t mask
        uint8_t width
        const char *format

    const walk_field_row walk_field_rows[]

    enum walk_stage:
        STAGE_OPEN
        STAGE_READ
        STAGE_STAT

    struct walk_error:
        uint32_t at, depth, path_offset, path_length
        int error
        uint8_t stage

    struct walk_node:
        pass

    struct walk_batch:
        uint32_t count
        char *paths
        uint32_t paths_size
        uint32_t *offsets
        uint32_t *name_at
        uint32_t *depths
        uint64_t *inodes
        uint64_t *actions
        walk_node **nodes
        uint8_t *types
        text_buffer *text
        uint32_t streams
        void **fields
        walk_error *errors
        uint32_t error_count
        char *error_text


cdef extern from "dir_walk.h" nogil:
    struct ignore_given:
        const char *text
        size_t length

    enum:
        ORDER_ANY
        ORDER_BREADTH
        ORDER_DEPTH
        ORDER_POST
        LINKS_NEVER
        LINKS_ROOTS
        LINKS_ALWAYS
        WALK_BATCH
        WALK_ENDED
        WALK_WAIT
        WALK_FAILED

    struct walk_config:
        uint8_t order, links, sorted, skip_hidden, one_file_system, gitignore
        char separator
        uint32_t min_depth, max_depth, fields, batch_entries, batch_bytes
        uint32_t threads, text_streams, max_fds, max_kept
        entry_filter *filter
        entry_filter *exclude
        ignore_given ignore

    struct walk_progress:
        uint64_t directories, entries, errors, queued

    struct walk:
        pass

    walk *walk_new(const walk_config *config, const char **roots, uint32_t count, int *error)
    int walk_start(walk *k)
    int walk_add_fault(walk *k, int stage, const char *name, uint32_t nth, int error,
                       int64_t delay_ns)
    void walk_forget_types(walk *k)
    int walk_take(walk *k, walk_batch **batch)
    int walk_wake_fd(walk *k)
    void walk_calm(walk *k)
    void walk_rescue(walk *k)
    void walk_prune(walk *k, walk_batch *batch, uint32_t entry)
    bint walk_is_pruned(walk *k, walk_batch *batch, uint32_t entry)
    void walk_read_progress(walk *k, walk_progress *p)
    void walk_stop(walk *k, int64_t patience_ns)
    void walk_release(walk *k)
    void batch_return(walk_batch *batch)
