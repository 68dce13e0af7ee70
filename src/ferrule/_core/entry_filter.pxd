from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "text_buffer.h" nogil:
    struct text_buffer:
        char *bytes
        size_t size, room
        int failed

    void text_append(text_buffer *t, const char *data, size_t length)
    void text_free(text_buffer *t)

cdef extern from "entry_format.h" nogil:
    enum:
        PIECE_TEXT
        TIME_ACCESS, TIME_CHANGE, TIME_MODIFY, TIME_BIRTH, TIME_USED

    struct format_piece:
        char letter, field, how, left, zero, sharp, plus, space, safe
        int32_t width, precision
        char *text
        uint32_t length

    struct entry_format:
        pass

    entry_format *format_new(uint32_t pieces)
    void format_free(entry_format *f)
    int format_set(entry_format *f, uint32_t at, const format_piece *piece)
    int format_add_colour(entry_format *f, const char *key, const char *code)

cdef extern from "entry_filter.h" nogil:
    struct entry_stat:
        uint32_t mode, nlink, uid, gid, blksize, mask
        uint64_t inode, dev, rdev
        int64_t size, blocks, atime_ns, mtime_ns, ctime_ns, btime_ns

    struct entry_view:
        const char *path
        uint32_t path_length, name_at, depth
        uint8_t type
        uint64_t inode
        int dir_fd
        const char *at
        const entry_stat *stat
        int (*fetch_stat)(entry_view *, uint32_t mask)
        void *walk

    enum:
        FILTER_MATCHED, FILTER_PRUNE, FILTER_QUIT
        FILTER_CONSTANT, FILTER_GLOB, FILTER_TYPE, FILTER_DEPTH, FILTER_HIDDEN, FILTER_REGEX
        FILTER_TARGET_TYPE, FILTER_NUMBER, FILTER_TIME, FILTER_MODE, FILTER_UNOWNED, FILTER_SAME
        FILTER_EMPTY, FILTER_ACCESS
        FILTER_ACTION, FILTER_PRINT, FILTER_FORMAT, FILTER_PRUNING, FILTER_QUITTING
        FILTER_EXTERNAL
        COMPARE_EQUAL, COMPARE_LESS, COMPARE_MORE
        SUBJECT_NAME, SUBJECT_PATH, SUBJECT_TARGET
        FOLLOWS_NONE, FOLLOWS_ROOTS, FOLLOWS_ALL
        NUMBER_LINKS, NUMBER_UID, NUMBER_GID, NUMBER_INODE, NUMBER_SIZE, NUMBER_DEVICE
        FILTER_ENDS_TRUE, FILTER_ENDS_FALSE

    struct filter_outcome:
        uint64_t actions
        int error
        text_buffer *text

    struct filter_step:
        uint8_t kind, subject, comparison, ignore_case, field, stream
        uint32_t on_true, on_false
        int64_t number, other
        const char *text
        uint32_t length
        entry_format *format

    struct entry_filter:
        pass

    ctypedef int filter_call(void *context, uint32_t number, entry_view *view,
                             filter_outcome *outcome)

    entry_filter *filter_new()
    void filter_drop(entry_filter *f)
    int64_t filter_add(entry_filter *f, const filter_step *step)
    int filter_find_syntax(const char *name)
    const char *filter_syntax_name(int number)
    const char *filter_complaint(const entry_filter *f)
    int filter_begin(entry_filter *f, uint32_t step)
    void filter_set_external(entry_filter *f, filter_call *call, void *context)
    uint32_t filter_evaluate(const entry_filter *f, entry_view *view, filter_outcome *outcome)
    uint32_t filter_stat_mask(const entry_filter *f)
    uint32_t filter_streams(const entry_filter *f)
    int entry_open_dir(entry_view *v)


cdef class EntryFilter:
    cdef entry_filter *filter
    cdef readonly object tree
