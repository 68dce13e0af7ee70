#define _GNU_SOURCE
#include "entry_filter.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <regex.h>
#include <stdbool.h>
#include <unistd.h>

#include "atomics.h"
#include "operation_system.h"

/* Most patterns are a suffix or a literal, for which fnmatch is slow. */
enum glob_shape { GLOB_GENERAL, GLOB_ANYTHING, GLOB_LITERAL, GLOB_PREFIX, GLOB_SUFFIX, GLOB_INFIX };

struct entry_filter {
    uint32_t refs;
    struct filter_step *steps;
    uint32_t count, room, start;
    uint32_t stat_mask; /* of all steps */
    uint32_t streams;
    const char *complaint;
    struct owner_names *owners;
    filter_call *call;
    void *context;
};

struct evaluation {
    const struct entry_filter *filter;
    struct entry_view *view;
    struct filter_outcome *outcome;
    uint32_t bits;
    bool asked; /* for all that the filter may need of stat */
};

/* ---- regular expressions ---- */

#ifdef __GLIBC__
/* The syntax of a new expression is a variable of the whole process. */
static pthread_mutex_t syntax_mutex = PTHREAD_MUTEX_INITIALIZER;

static const struct { const char *name; reg_syntax_t bits; } syntaxes[] = {
    {"findutils-default", RE_SYNTAX_EMACS | RE_DOT_NEWLINE},
    {"posix-basic", RE_SYNTAX_POSIX_BASIC},
    {"posix-extended", RE_SYNTAX_POSIX_EXTENDED},
    {"posix-minimal-basic", RE_SYNTAX_POSIX_MINIMAL_BASIC},
    {"posix-egrep", RE_SYNTAX_POSIX_EGREP},
    {"posix-awk", RE_SYNTAX_POSIX_AWK},
    {"awk", RE_SYNTAX_AWK},
    {"ed", RE_SYNTAX_ED},
    {"egrep", RE_SYNTAX_EGREP},
    {"emacs", RE_SYNTAX_EMACS},
    {"gnu-awk", RE_SYNTAX_GNU_AWK},
    {"grep", RE_SYNTAX_GREP},
    {"sed", RE_SYNTAX_SED},
};

/* glibc locks an expression while it matches, so threads would take turns: there is one for each,
 * compiled when it is needed.  Threads beyond their number share the first. */
#define COPIES 8
struct filter_regex {
    struct { uint32_t is_taken, is_compiled; struct re_pattern_buffer pattern; } copies[COPIES];
};

static const char *compile_copy(const struct filter_step *s, int i) {
    struct re_pattern_buffer *pattern = &s->regex->copies[i].pattern;
    pthread_mutex_lock(&syntax_mutex);
    reg_syntax_t bits = syntaxes[s->number].bits | (s->ignore_case ? RE_ICASE : 0);
    reg_syntax_t before = re_set_syntax(bits);
    const char *complaint = re_compile_pattern(s->text, s->length, pattern);
    re_set_syntax(before);
    pthread_mutex_unlock(&syntax_mutex);
    if (!complaint) s->regex->copies[i].is_compiled = 1;
    else regfree(pattern);
    return complaint;
}

static const char *compile_regex(struct filter_step *s) {
    s->regex = calloc(1, sizeof *s->regex);
    return s->regex ? compile_copy(s, 0) : "out of memory";
}

/* One that no other thread has; -1: there is none. */
static int take_copy(const struct filter_step *s) {
    for (int i = 0; i < COPIES; i++) {
        if (ATOMIC_SWAP(&s->regex->copies[i].is_taken, 1, ACQUIRE)) continue;
        if (s->regex->copies[i].is_compiled || !compile_copy(s, i)) return i;
        ATOMIC_STORE(&s->regex->copies[i].is_taken, 0, RELEASE);
        break;
    }
    return -1;
}

static bool match_regex(const struct filter_step *s, const char *text, uint32_t length) {
    int i = take_copy(s);
    struct re_pattern_buffer *pattern = &s->regex->copies[i < 0 ? 0 : i].pattern;
    bool matches = re_match(pattern, text, (regoff_t)length, 0, NULL) == (regoff_t)length;
    if (i >= 0) ATOMIC_STORE(&s->regex->copies[i].is_taken, 0, RELEASE);
    return matches;
}

static void free_regex(struct filter_step *s) {
    for (int i = 0; s->regex && i < COPIES; i++)
        if (s->regex->copies[i].is_compiled) regfree(&s->regex->copies[i].pattern);
    free(s->regex);
}
#else
static const struct { const char *name; int flags; } syntaxes[] = {
    {"posix-extended", REG_EXTENDED},
    {"posix-basic", 0},
};

struct filter_regex { regex_t pattern; };

static const char *compile_regex(struct filter_step *s) {
    if (memchr(s->text, 0, s->length)) return "it has a zero byte";
    struct filter_regex *regex = calloc(1, sizeof *regex);
    if (!regex) return "out of memory";
    int flags = syntaxes[s->number].flags | (s->ignore_case ? REG_ICASE : 0);
    switch (regcomp(&regex->pattern, s->text, flags)) {
    case 0: s->regex = regex; return NULL;
    case REG_ESPACE: free(regex); return "out of memory";
    default: free(regex); return "it is no regular expression";
    }
}

/* Of those that begin first POSIX takes the longest. */
static bool match_regex(const struct filter_step *s, const char *text, uint32_t length) {
    regmatch_t all = {0, (regoff_t)length};
    return regexec(&s->regex->pattern, text, 1, &all, REG_STARTEND) == 0 &&
           all.rm_so == 0 && all.rm_eo == (regoff_t)length;
}

static void free_regex(struct filter_step *s) {
    if (s->regex) regfree(&s->regex->pattern);
    free(s->regex);
}
#endif

#define SYNTAXES (int)(sizeof syntaxes / sizeof *syntaxes)

const char *filter_syntax_name(int number) {
    return number >= 0 && number < SYNTAXES ? syntaxes[number].name : NULL;
}

int filter_find_syntax(const char *name) {
    for (int i = 0; i < SYNTAXES; i++)
        if (!strcmp(filter_syntax_name(i), name)) return i;
    return -1;
}

/* ---- building ---- */

static bool is_plain(const char *text, uint32_t length) {
    for (uint32_t i = 0; i < length; i++)
        if ((text[i] & 0x80) || strchr("*?[\\", text[i])) return false;
    return true;
}

static enum glob_shape glob_shape(const struct filter_step *s) {
    const char *text = s->text;
    uint32_t n = s->length;
    if (n == 1 && *text == '*') return GLOB_ANYTHING;
    if (s->ignore_case) return GLOB_GENERAL;
    if (is_plain(text, n)) return GLOB_LITERAL;
    bool open_left = text[0] == '*', open_right = text[n - 1] == '*';
    if (n > 2 && open_left && open_right && is_plain(text + 1, n - 2)) return GLOB_INFIX;
    if (open_left && is_plain(text + 1, n - 1)) return GLOB_SUFFIX;
    if (open_right && is_plain(text, n - 1)) return GLOB_PREFIX;
    return GLOB_GENERAL;
}

struct entry_filter *filter_new(void) {
    struct entry_filter *f = calloc(1, sizeof *f);
    if (!f) return NULL;
    f->refs = 1;
    f->start = FILTER_ENDS_TRUE;
    return f;
}

struct entry_filter *filter_share(struct entry_filter *f) {
    if (f) ATOMIC_ADD(&f->refs, 1, RELAXED);
    return f;
}

static void free_step(struct filter_step *s) {
    free_regex(s);
    format_free(s->format);
    free((char *)s->text);
}

void filter_drop(struct entry_filter *f) {
    if (!f || ATOMIC_SUB(&f->refs, 1, ACQ_REL) != 1) return;
    for (uint32_t i = 0; i < f->count; i++) free_step(&f->steps[i]);
    free(f->steps);
    owner_names_free(f->owners);
    free(f);
}

static bool is_target(const struct entry_filter *f, uint32_t step) {
    return step < f->count || step == FILTER_ENDS_TRUE || step == FILTER_ENDS_FALSE;
}

static bool has_its_arguments(const struct filter_step *s) {
    switch (s->kind) {
    case FILTER_GLOB: return s->text && !memchr(s->text, 0, s->length);
    case FILTER_REGEX: return s->text && s->number >= 0 && s->number < SYNTAXES;
    case FILTER_NUMBER: return s->field < NUMBER_FIELDS && s->other >= 0;
    case FILTER_TIME:
        return (s->field < TIME_FIELDS || s->field == TIME_USED) && s->other >= 0;
    case FILTER_TARGET_TYPE: return s->other >= FOLLOWS_NONE && s->other <= FOLLOWS_ALL;
    case FILTER_PRINT: return s->number >= 0 && s->number <= UINT8_MAX;
    case FILTER_FORMAT: return s->format != NULL;
    case FILTER_ACTION: return s->number >= 0 && s->number < FILTER_ACTIONS;
    default: return s->kind < FILTER_KINDS;
    }
}

static bool is_step(const struct entry_filter *f, const struct filter_step *s) {
    return s->comparison <= COMPARE_MORE && s->subject <= SUBJECT_TARGET &&
           has_its_arguments(s) && is_target(f, s->on_true) && is_target(f, s->on_false);
}

/* What of stat a step looks at. */
static uint32_t stat_mask_of(const struct filter_step *s) {
    switch (s->kind) {
    case FILTER_NUMBER: case FILTER_MODE: case FILTER_UNOWNED: case FILTER_SAME:
        return STATX_BASIC_STATS;
    case FILTER_TIME: return STATX_BASIC_STATS | (s->field == TIME_BIRTH ? STATX_BTIME : 0u);
    case FILTER_FORMAT: return s->format->stat_mask;
    default: return 0;
    }
}

static int make_room(struct entry_filter *f) {
    if (f->count < f->room) return 0;
    uint32_t room = f->room ? f->room * 2 : 8;
    void *bigger = realloc(f->steps, room * sizeof *f->steps);
    if (!bigger) return -ENOMEM;
    f->steps = bigger;
    f->room = room;
    return 0;
}

static int copy_text(struct filter_step *s) {
    if (!s->text) return 0;
    char *copy = malloc((size_t)s->length + 1);
    if (!copy) return -ENOMEM;
    memcpy(copy, s->text, s->length);
    copy[s->length] = 0;
    s->text = copy;
    return 0;
}

static int prepare(struct entry_filter *f, struct filter_step *s) {
    if (s->kind == FILTER_GLOB) s->glob = (uint8_t)glob_shape(s);
    if (s->kind == FILTER_UNOWNED && !f->owners && !(f->owners = owner_names_new()))
        return -ENOMEM;
    if (s->kind != FILTER_REGEX) return 0;
    f->complaint = compile_regex(s);
    return f->complaint ? -EINVAL : 0;
}

static int try_add(struct entry_filter *f, struct filter_step *s) {
    if (!is_step(f, s)) {
        s->text = NULL;
        return -EINVAL;
    }
    int r = copy_text(s);
    if (r < 0) s->text = NULL;
    if (r == 0) r = make_room(f);
    return r < 0 ? r : prepare(f, s);
}

int64_t filter_add(struct entry_filter *f, const struct filter_step *step) {
    struct filter_step s = *step;
    s.regex = NULL;
    f->complaint = NULL;
    int r = try_add(f, &s);
    if (r < 0) {
        free_step(&s);
        return r;
    }
    s.stat_mask = stat_mask_of(&s);
    /* It asks for files alone, so not every evaluation needs it. */
    f->stat_mask |= s.kind == FILTER_EMPTY ? STATX_BASIC_STATS : s.stat_mask;
    if ((s.kind == FILTER_PRINT || s.kind == FILTER_FORMAT) && s.stream >= f->streams)
        f->streams = s.stream + 1u;
    f->start = f->count;
    f->steps[f->count] = s;
    return f->count++;
}

const char *filter_complaint(const struct entry_filter *f) { return f->complaint; }

int filter_begin(struct entry_filter *f, uint32_t step) {
    if (!is_target(f, step)) return -EINVAL;
    f->start = step;
    return 0;
}

void filter_set_external(struct entry_filter *f, filter_call *call, void *context) {
    f->call = call;
    f->context = context;
}

uint32_t filter_stat_mask(const struct entry_filter *f) {
    return f->start < f->count && f->steps[f->start].stat_mask ? f->stat_mask : 0;
}

int filter_has(const struct entry_filter *f, int kind) {
    for (uint32_t i = 0; i < f->count; i++)
        if (f->steps[i].kind == kind) return 1;
    return 0;
}

uint32_t filter_streams(const struct entry_filter *f) { return f->streams; }

/* ---- names ---- */

void filter_name_of(const char *path, uint32_t length, uint32_t *at, uint32_t *name_length) {
    uint32_t end = length;
    while (end > 1 && path[end - 1] == '/') end--;
    uint32_t begin = end;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    if (begin == end && end > 0) begin--; /* nothing but slashes */
    *at = begin;
    *name_length = end - begin;
}

/* Only a root can end with slashes, which are no part of its name; then fnmatch needs a copy. */
static bool match_name_of_root(const struct filter_step *s, const struct entry_view *v,
                               bool (*match)(const struct filter_step *, const char *, uint32_t)) {
    uint32_t at, length;
    filter_name_of(v->path, v->path_length, &at, &length);
    if (at + length == v->path_length) return match(s, v->path + at, length);
    char *copy = malloc((size_t)length + 1);
    if (!copy) return false;
    memcpy(copy, v->path + at, length);
    copy[length] = 0;
    bool matches = match(s, copy, length);
    free(copy);
    return matches;
}

static bool match_glob(const struct filter_step *s, const char *text, uint32_t length) {
    uint32_t rest = s->length - 1; /* of the pattern, beside one star */
    switch (s->glob) {
    case GLOB_ANYTHING: return true;
    case GLOB_LITERAL: return length == s->length && !memcmp(text, s->text, length);
    case GLOB_PREFIX: return length >= rest && !memcmp(text, s->text, rest);
    case GLOB_SUFFIX: return length >= rest && !memcmp(text + length - rest, s->text + 1, rest);
    case GLOB_INFIX: return memmem(text, length, s->text + 1, rest - 1) != NULL;
    default: return !fnmatch(s->text, text, s->ignore_case ? FNM_CASEFOLD : 0);
    }
}

static bool match_text(const struct filter_step *s, const char *text, uint32_t length) {
    return s->kind == FILTER_REGEX ? match_regex(s, text, length) : match_glob(s, text, length);
}

/* A link whose target cannot be read has none. */
static bool match_target(const struct filter_step *s, const struct entry_view *v) {
    if (v->type != DT_LNK) return false;
    char *target = malloc(PATH_MAX); /* no link is longer */
    if (!target) return false;
    ssize_t length = readlinkat(v->dir_fd, v->at, target, PATH_MAX - 1);
    if (length >= 0) target[length] = 0;
    bool matches = length >= 0 && match_text(s, target, (uint32_t)length);
    free(target);
    return matches;
}

static bool test_text(const struct filter_step *s, const struct entry_view *v) {
    if (s->subject == SUBJECT_TARGET) return match_target(s, v);
    if (s->subject == SUBJECT_PATH) return match_text(s, v->path, v->path_length);
    if (!v->depth) return match_name_of_root(s, v, match_text);
    return match_text(s, v->path + v->name_at, v->path_length - v->name_at);
}

static bool is_hidden(const struct entry_view *v) {
    return v->depth && v->path[v->name_at] == '.';
}

/* ---- the other tests ---- */

/* NULL, and the error is noted, if the entry cannot be asked.  All that may be needed is fetched at
 * once; what the file system does not have is missing in the answer's mask. */
static const struct entry_stat *need_stat(struct evaluation *e, uint32_t mask) {
    struct entry_view *v = e->view;
    if (v->stat && (v->stat->mask & mask) == mask) return v->stat;
    if (!e->asked) {
        e->asked = true;
        int error = v->fetch_stat ? v->fetch_stat(v, e->filter->stat_mask) : ENOSYS;
        if (error) e->outcome->error = error;
    }
    return e->outcome->error ? NULL : v->stat;
}

static bool needs_directory(const struct filter_step *s, const struct entry_view *v) {
    switch (s->kind) {
    case FILTER_GLOB: case FILTER_REGEX: return s->subject == SUBJECT_TARGET && v->type == DT_LNK;
    case FILTER_TARGET_TYPE: case FILTER_ACCESS: return true;
    case FILTER_EMPTY: return v->type == DT_DIR;
    case FILTER_FORMAT: return v->type == DT_LNK;
    default: return false;
    }
}

static bool compare(const struct filter_step *s, int64_t value) {
    switch (s->comparison) {
    case COMPARE_LESS: return value < s->number;
    case COMPARE_MORE: return value > s->number;
    default: return value == s->number;
    }
}

static int64_t number_of(const struct entry_stat *s, int field) {
    switch (field) {
    case NUMBER_LINKS: return s->nlink;
    case NUMBER_UID: return s->uid;
    case NUMBER_GID: return s->gid;
    case NUMBER_INODE: return (int64_t)s->inode;
    case NUMBER_DEVICE: return (int64_t)s->dev;
    default: return s->size;
    }
}

static bool test_number(const struct filter_step *s, struct evaluation *e) {
    const struct entry_stat *stat = need_stat(e, s->stat_mask);
    if (!stat) return false;
    int64_t number = number_of(stat, s->field), unit = s->other ? s->other : 1;
    return compare(s, number / unit + (number % unit != 0));
}

static int64_t time_of(const struct entry_stat *s, int field) {
    switch (field) {
    case TIME_ACCESS: return s->atime_ns;
    case TIME_CHANGE: return s->ctime_ns;
    case TIME_BIRTH: return s->btime_ns;
    case TIME_USED: return (int64_t)((uint64_t)s->atime_ns - (uint64_t)s->ctime_ns);
    default: return s->mtime_ns;
    }
}

static bool test_time(const struct filter_step *s, struct evaluation *e) {
    const struct entry_stat *stat = need_stat(e, s->stat_mask);
    if (!stat || (s->field == TIME_BIRTH && !(stat->mask & STATX_BTIME))) return false;
    if (s->field == TIME_USED && stat->atime_ns < stat->ctime_ns) return false;
    int64_t time = time_of(stat, s->field);
    if (s->comparison != COMPARE_EQUAL) return compare(s, time);
    return time > s->number && (uint64_t)time - (uint64_t)s->number <= (uint64_t)s->other;
}

static bool test_mode(const struct filter_step *s, struct evaluation *e) {
    const struct entry_stat *stat = need_stat(e, s->stat_mask);
    if (!stat) return false;
    uint32_t wanted = (uint32_t)(S_ISDIR(stat->mode) ? s->other : s->number);
    switch (s->comparison) {
    case COMPARE_LESS: return (stat->mode & wanted) == wanted;
    case COMPARE_MORE: return !wanted || stat->mode & wanted;
    default: return (stat->mode & 07777) == wanted;
    }
}

static bool is_unowned(const struct filter_step *s, struct evaluation *e) {
    const struct entry_stat *stat = need_stat(e, s->stat_mask);
    if (!stat) return false;
    enum owner_kind kind = s->number ? OWNER_GROUP : OWNER_USER;
    return !owner_name(e->filter->owners, kind, s->number ? stat->gid : stat->uid);
}

static bool is_same(const struct filter_step *s, struct evaluation *e) {
    const struct entry_stat *stat = need_stat(e, s->stat_mask);
    return stat && stat->inode == (uint64_t)s->number && stat->dev == (uint64_t)s->other;
}

static bool test_target_type(const struct filter_step *s, struct evaluation *e) {
    const struct entry_view *v = e->view;
    bool follows = s->other == FOLLOWS_ALL || (s->other == FOLLOWS_ROOTS && !v->depth);
    struct stat stat;
    if (!follows && v->type != DT_LNK) return s->number >> v->type & 1;
    if (fstatat(v->dir_fd, v->at, &stat, follows ? AT_SYMLINK_NOFOLLOW : 0) == 0)
        return s->number >> IFTODT(stat.st_mode) & 1;
    if (errno != ENOENT && errno != ENOTDIR) {
        e->outcome->error = errno;
        return false;
    }
    return !follows && s->number >> DT_LNK & 1; /* it leads nowhere */
}

struct dirent64_head { /* as getdents64 writes it */
    uint64_t ino;
    int64_t off;
    uint16_t reclen;
    uint8_t type;
    char name[];
};

static bool is_dot(const char *name) {
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* 1, 0 or -errno. */
static int has_no_entries(int fd) {
    _Alignas(8) char buffer[1024];
    for (;;) {
        int64_t size = system_read_entries(fd, buffer, sizeof buffer);
        if (size <= 0) return size ? (int)size : 1;
        for (int64_t at = 0; at < size;) {
            const struct dirent64_head *entry = (const void *)(buffer + at);
            if (!is_dot(entry->name)) return 0;
            at += entry->reclen;
        }
    }
}

static bool is_empty_directory(struct evaluation *e) {
    int fd = openat(e->view->dir_fd, e->view->at, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK);
    int r = fd < 0 ? -errno : has_no_entries(fd);
    if (fd >= 0) close(fd);
    if (r < 0) e->outcome->error = -r;
    return r > 0;
}

static bool is_empty(struct evaluation *e) {
    if (e->view->type == DT_DIR) return is_empty_directory(e);
    if (e->view->type != DT_REG) return false;
    const struct entry_stat *stat = need_stat(e, STATX_SIZE);
    return stat && stat->size == 0;
}

/* ---- actions ---- */

static void print(const struct filter_step *s, struct evaluation *e) {
    if (!e->outcome->text) return;
    struct text_buffer *t = &e->outcome->text[s->stream];
    const struct entry_view *v = e->view;
    char *to = text_extend(t, (size_t)v->path_length + 1);
    if (!to) return;
    memcpy(to, v->path, v->path_length);
    to[v->path_length] = (char)s->number;
    text_extended(t, (size_t)v->path_length + 1);
}

static bool print_format(const struct filter_step *s, struct evaluation *e) {
    const struct entry_format *f = s->format;
    if (f->stat_mask && !need_stat(e, f->stat_mask)) {
        if (f->needs_stat) return false;
        e->outcome->error = 0;
    }
    if (e->outcome->text) format_entry(f, e->view, &e->outcome->text[s->stream]);
    return true;
}

static bool call_external(const struct filter_step *s, struct evaluation *e) {
    if (!e->filter->call) return false;
    int r = e->filter->call(e->filter->context, (uint32_t)s->number, e->view, e->outcome);
    if (r < 0) e->bits |= FILTER_QUIT;
    return r > 0;
}

static bool run_step(const struct filter_step *s, struct evaluation *e) {
    struct entry_view *v = e->view;
    if (v->dir_fd == -1 && needs_directory(s, v) && (e->outcome->error = entry_open_dir(v)))
        return false;
    switch (s->kind) {
    case FILTER_CONSTANT: return s->number != 0;
    case FILTER_GLOB: case FILTER_REGEX: return test_text(s, v);
    case FILTER_TYPE: return s->number >> v->type & 1;
    case FILTER_DEPTH: return compare(s, v->depth);
    case FILTER_HIDDEN: return is_hidden(v);
    case FILTER_TARGET_TYPE: return test_target_type(s, e);
    case FILTER_NUMBER: return test_number(s, e);
    case FILTER_TIME: return test_time(s, e);
    case FILTER_MODE: return test_mode(s, e);
    case FILTER_UNOWNED: return is_unowned(s, e);
    case FILTER_SAME: return is_same(s, e);
    case FILTER_EMPTY: return is_empty(e);
    case FILTER_ACCESS: return faccessat(v->dir_fd, v->at, (int)s->number, 0) == 0;
    case FILTER_ACTION: e->outcome->actions |= UINT64_C(1) << s->number; return true;
    case FILTER_PRINT: print(s, e); return true;
    case FILTER_FORMAT: return print_format(s, e);
    case FILTER_PRUNING: e->bits |= FILTER_PRUNE; return true;
    case FILTER_QUITTING: e->bits |= FILTER_QUIT; return true;
    case FILTER_EXTERNAL: return call_external(s, e);
    default: return false;
    }
}

uint32_t filter_evaluate(const struct entry_filter *f, struct entry_view *view,
                         struct filter_outcome *outcome) {
    struct evaluation e = {f, view, outcome, 0, false};
    uint32_t at = f->start;
    outcome->actions = 0;
    outcome->error = 0;
    while (at < f->count) {
        const struct filter_step *s = &f->steps[at];
        at = run_step(s, &e) ? s->on_true : s->on_false;
        if (e.bits & FILTER_QUIT) return e.bits;
    }
    return e.bits | (at == FILTER_ENDS_TRUE ? FILTER_MATCHED : 0);
}
