#define _GNU_SOURCE
#include "entry_filter.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdbool.h>

/* Most patterns are a suffix or a literal, for which fnmatch is slow. */
enum glob_shape { GLOB_GENERAL, GLOB_ANYTHING, GLOB_LITERAL, GLOB_PREFIX, GLOB_SUFFIX, GLOB_INFIX };

struct entry_filter {
    struct filter_step *steps;
    uint32_t count, room, start;
    uint32_t stat_mask; /* of all steps */
    uint32_t streams;
    filter_call *call;
    void *context;
};

struct evaluation {
    const struct entry_filter *filter;
    struct entry_view *view;
    struct filter_outcome *outcome;
    uint32_t bits;
};

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
    if (f) f->start = FILTER_ENDS_TRUE;
    return f;
}

static void free_step(struct filter_step *s) { free((char *)s->text); }

void filter_free(struct entry_filter *f) {
    if (!f) return;
    for (uint32_t i = 0; i < f->count; i++) free_step(&f->steps[i]);
    free(f->steps);
    free(f);
}

static bool is_target(const struct entry_filter *f, uint32_t step) {
    return step < f->count || step == FILTER_ENDS_TRUE || step == FILTER_ENDS_FALSE;
}

static bool is_step(const struct entry_filter *f, const struct filter_step *s) {
    if (s->kind >= FILTER_KINDS || s->comparison > COMPARE_MORE || s->subject > SUBJECT_PATH)
        return false;
    if (s->kind == FILTER_GLOB && (!s->text || memchr(s->text, 0, s->length))) return false;
    if (s->kind == FILTER_PRINT && (s->number < 0 || s->number > UINT8_MAX)) return false;
    if (s->kind == FILTER_ACTION && (s->number < 0 || s->number >= FILTER_ACTIONS)) return false;
    return is_target(f, s->on_true) && is_target(f, s->on_false);
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

static int prepare(struct filter_step *s) {
    if (!s->text) return 0;
    char *copy = malloc((size_t)s->length + 1);
    if (!copy) return -ENOMEM;
    memcpy(copy, s->text, s->length);
    copy[s->length] = 0;
    s->text = copy;
    if (s->kind == FILTER_GLOB) s->glob = (uint8_t)glob_shape(s);
    return 0;
}

int64_t filter_add(struct entry_filter *f, const struct filter_step *step) {
    if (!is_step(f, step)) return -EINVAL;
    if (make_room(f) < 0) return -ENOMEM;
    struct filter_step *s = &f->steps[f->count];
    *s = *step;
    int r = prepare(s);
    if (r < 0) return r;
    f->stat_mask |= s->stat_mask;
    if (s->kind == FILTER_PRINT && s->stream >= f->streams) f->streams = s->stream + 1u;
    f->start = f->count;
    return f->count++;
}

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

static bool test_glob(const struct filter_step *s, const struct entry_view *v) {
    if (s->subject == SUBJECT_PATH) return match_glob(s, v->path, v->path_length);
    if (!v->depth) return match_name_of_root(s, v, match_glob);
    return match_glob(s, v->path + v->name_at, v->path_length - v->name_at);
}

static bool is_hidden(const struct entry_view *v) {
    return v->depth && v->path[v->name_at] == '.';
}

/* ---- the other tests ---- */

static bool compare(const struct filter_step *s, int64_t value) {
    switch (s->comparison) {
    case COMPARE_LESS: return value < s->number;
    case COMPARE_MORE: return value > s->number;
    default: return value == s->number;
    }
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

static bool call_external(const struct filter_step *s, struct evaluation *e) {
    if (!e->filter->call) return false;
    int r = e->filter->call(e->filter->context, (uint32_t)s->number, e->view, e->outcome);
    if (r < 0) e->bits |= FILTER_QUIT;
    return r > 0;
}

static bool run_step(const struct filter_step *s, struct evaluation *e) {
    const struct entry_view *v = e->view;
    switch (s->kind) {
    case FILTER_CONSTANT: return s->number != 0;
    case FILTER_GLOB: return test_glob(s, v);
    case FILTER_TYPE: return s->number >> v->type & 1;
    case FILTER_DEPTH: return compare(s, v->depth);
    case FILTER_HIDDEN: return is_hidden(v);
    case FILTER_ACTION: e->outcome->actions |= UINT64_C(1) << s->number; return true;
    case FILTER_PRINT: print(s, e); return true;
    case FILTER_PRUNING: e->bits |= FILTER_PRUNE; return true;
    case FILTER_QUITTING: e->bits |= FILTER_QUIT; return true;
    case FILTER_EXTERNAL: return call_external(s, e);
    default: return false;
    }
}

uint32_t filter_evaluate(const struct entry_filter *f, struct entry_view *view,
                         struct filter_outcome *outcome) {
    struct evaluation e = {f, view, outcome, 0};
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
