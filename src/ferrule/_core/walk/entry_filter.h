/* What a walk looks for: an expression over one directory entry, evaluated without Python.
 *
 * It is a list of steps.  Each tests the entry, or acts on it, and names the step that comes next,
 * if that was true and if it was false; so "and", "or" and "not" are only in these, and evaluation
 * needs no stack however deep the expression was.  A filter does not change once it is built, and
 * any number of threads may evaluate it.
 */
#ifndef FERRULE_ENTRY_FILTER_H
#define FERRULE_ENTRY_FILTER_H

#include <stdint.h>

#include "entry_format.h"
#include "text_buffer.h"

struct entry_stat {
    uint32_t mode, nlink, uid, gid, blksize;
    uint32_t mask; /* STATX_*: what of it is known */
    uint64_t inode, dev, rdev;
    int64_t size, blocks, atime_ns, mtime_ns, ctime_ns, btime_ns;
};

/* One directory entry, as a filter may look at it.  The walk fills it. */
struct entry_view {
    const char *path;     /* ends with a zero byte; a root's is as it was given */
    uint32_t path_length;
    uint32_t name_at;     /* where its last component begins */
    uint32_t depth;       /* of a root 0 */
    uint8_t type;         /* DT_*: of what a link leads to, where the walk follows it */
    uint64_t inode;       /* as the directory has it; 0: not known */
    int dir_fd;           /* with `at`, how the *at functions find it; -1: call open_dir first */
    const char *at;
    int (*open_dir)(struct entry_view *); /* sets `dir_fd`: 0 or an errno; NULL: it is set */
    const struct entry_stat *stat;                          /* NULL: not fetched yet */
    int (*fetch_stat)(struct entry_view *, uint32_t mask);  /* sets `stat`: 0 or an errno */
    void *walk;
};

enum filter_bits {
    FILTER_MATCHED = 1,
    FILTER_PRUNE = 2, /* what is below the entry is not wanted */
    FILTER_QUIT = 4   /* nor is any further entry */
};

struct filter_outcome {
    uint64_t actions;         /* the numbers of the actions that were reached, as bits */
    int error;                /* an errno: the entry could not be asked, and the test was false */
    struct text_buffer *text; /* by the caller: a buffer for each stream that actions write to */
};

enum filter_kind {
    /* tests */
    FILTER_CONSTANT, /* number */
    FILTER_GLOB,     /* text, by fnmatch: of subject */
    FILTER_TYPE,     /* one of the types that are bits of number */
    FILTER_DEPTH,    /* comparison with number */
    FILTER_HIDDEN,   /* the name begins with a dot */
    FILTER_REGEX,    /* text, a regular expression for all of the subject; number: its syntax */
    FILTER_TARGET_TYPE, /* FILTER_TYPE, but of what a link leads to; of the link itself, where the
                           walk follows it; other: enum filter_follows */
    FILTER_NUMBER,   /* comparison of a field, in units of `other` and rounded up, with number */
    FILTER_TIME,     /* a field in nanoseconds: less or more than number, or "equal": above number,
                        and at most `other` more than it */
    FILTER_MODE,     /* permission bits: all those of number, none else (EQUAL), all those (LESS),
                        any of those (MORE); of a directory those of `other` */
    FILTER_UNOWNED,  /* the user has no name; with number 1, the group */
    FILTER_SAME,     /* inode number on device `other` */
    FILTER_EMPTY,    /* a file without bytes, or a directory without entries */
    FILTER_ACCESS,   /* number as access(2) takes it */
    /* actions, all true */
    FILTER_ACTION,   /* number is set in filter_outcome.actions */
    FILTER_PRINT,    /* the path and the byte `number`, to a stream */
    FILTER_FORMAT,   /* what `format` says, to a stream; false if the entry cannot be asked */
    FILTER_PRUNING,
    FILTER_QUITTING,
    /* anything else, true or not */
    FILTER_EXTERNAL, /* the function that was set, called with number */
    FILTER_KINDS
};

enum filter_comparison { COMPARE_EQUAL, COMPARE_LESS, COMPARE_MORE };
enum filter_subject { SUBJECT_NAME, SUBJECT_PATH, SUBJECT_TARGET /* of a link */ };
enum filter_follows { FOLLOWS_NONE, FOLLOWS_ROOTS, FOLLOWS_ALL };
enum filter_field {
    NUMBER_LINKS, NUMBER_UID, NUMBER_GID, NUMBER_INODE, NUMBER_SIZE, NUMBER_DEVICE, NUMBER_FIELDS
};

#define FILTER_ENDS_TRUE UINT32_MAX
#define FILTER_ENDS_FALSE (UINT32_MAX - 1)
#define FILTER_ACTIONS 64

struct filter_step {
    uint8_t kind, subject, comparison;
    uint8_t ignore_case;
    uint8_t field;              /* enum filter_field or time_field */
    uint8_t stream;             /* of what it writes */
    uint32_t on_true, on_false; /* the next step, or FILTER_ENDS_* */
    int64_t number, other;
    const char *text;           /* copied by filter_add; a zero byte follows */
    uint32_t length;
    struct entry_format *format; /* from here on the filter's, also if it could not be added */
    /* The filter's own. */
    uint8_t glob;
    uint32_t stat_mask;
    struct filter_regex *regex;
};

struct entry_filter;

/* 1 or 0; negative ends the walk after the entry. */
typedef int filter_call(void *context, uint32_t number, struct entry_view *view,
                        struct filter_outcome *outcome);

/* NULL without memory. */
/* With one reference. */
struct entry_filter *filter_new(void);
/* One more: a walk's thread that is stuck in the kernel may outlive whoever made the filter. */
struct entry_filter *filter_share(struct entry_filter *f);
/* Give up a reference; the last one takes the filter with it. */
void filter_drop(struct entry_filter *f);
/* The number of the step, which is where evaluation begins until the next one is added: so an
 * expression is built from its end.  Or -ENOMEM, or -EINVAL: not a step, or one that leads to what
 * was not added before; or a regular expression is wrong: then filter_complaint says how. */
int64_t filter_add(struct entry_filter *f, const struct filter_step *step);
/* The number of a syntax of regular expressions, as -regextype names it; -1: there is none. */
int filter_find_syntax(const char *name);
/* The names in order; NULL behind the last one. */
const char *filter_syntax_name(int number);
/* What is wrong with the last regular expression; NULL: nothing. */
const char *filter_complaint(const struct entry_filter *f);
/* Where evaluation begins: a step, or FILTER_ENDS_*.  0 or -EINVAL. */
int filter_begin(struct entry_filter *f, uint32_t step);
void filter_set_external(struct entry_filter *f, filter_call *call, void *context);

/* Bits of enum filter_bits. */
uint32_t filter_evaluate(const struct entry_filter *f, struct entry_view *view,
                         struct filter_outcome *outcome);
/* STATX_* that every evaluation needs; 0: perhaps none. */
uint32_t filter_stat_mask(const struct entry_filter *f);

/* Whether a step is of that kind. */
int filter_has(const struct entry_filter *f, int kind);

/* How many streams its actions write to: so many buffers must be in filter_outcome.text. */
uint32_t filter_streams(const struct entry_filter *f);

/* 0 and dir_fd is set, or an errno. */
static inline int entry_open_dir(struct entry_view *v) {
    return v->dir_fd == -1 && v->open_dir ? v->open_dir(v) : 0;
}

/* The last component of a path, without slashes behind it: "/" of "//", else none. */
void filter_name_of(const char *path, uint32_t length, uint32_t *at, uint32_t *name_length);

#endif
