/* entry_filter.c: steps, patterns, and the order in which they run. */
#define _GNU_SOURCE
#include "entry_filter.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>

#include "check.h"

static struct entry_view view_of(const char *path, uint32_t depth, uint8_t type) {
    const char *slash = strrchr(path, '/');
    return (struct entry_view){.path = path, .path_length = (uint32_t)strlen(path), .depth = depth,
                               .name_at = slash ? (uint32_t)(slash + 1 - path) : 0, .type = type};
}

static uint32_t add(struct entry_filter *f, struct filter_step step) {
    int64_t at = filter_add(f, &step);
    CHECK(at >= 0);
    return (uint32_t)at;
}

static uint32_t evaluate(struct entry_filter *f, const char *path, uint32_t depth, uint8_t type) {
    struct entry_view v = view_of(path, depth, type);
    struct filter_outcome outcome = {0};
    return filter_evaluate(f, &v, &outcome);
}

static int matches(const char *pattern, const char *name, int ignore_case) {
    struct entry_filter *f = filter_new();
    add(f, (struct filter_step){.kind = FILTER_GLOB, .text = pattern,
                                .length = (uint32_t)strlen(pattern),
                                .ignore_case = (uint8_t)ignore_case, .on_true = FILTER_ENDS_TRUE,
                                .on_false = FILTER_ENDS_FALSE});
    uint32_t bits = evaluate(f, name, 1, DT_REG);
    filter_free(f);
    return bits == FILTER_MATCHED;
}

static void an_empty_filter_matches_everything(void) {
    struct entry_filter *f = filter_new();
    CHECK_EQ(evaluate(f, "a", 0, DT_REG), FILTER_MATCHED);
    CHECK_EQ(filter_begin(f, FILTER_ENDS_FALSE), 0);
    CHECK_EQ(evaluate(f, "a", 0, DT_REG), 0);
    filter_free(f);
}

static void any_pattern_matches_what_fnmatch_matches(void) {
    static const char *parts[] = {"*", "?", "a", "b", ".", "[ab]", "\\*", "[!a]", "ab"};
    for (int round = 0; round < 20000; round++) {
        char pattern[64] = "", name[16] = "";
        for (uint32_t i = random_below(4); i; i--) strcat(pattern, parts[random_below(9)]);
        for (uint32_t i = random_below(6); i; i--)
            strncat(name, &"ab.*A"[random_below(5)], 1);
        int ignore_case = random_below(2) == 1;
        int expected = !fnmatch(pattern, name, ignore_case ? FNM_CASEFOLD : 0);
        if (matches(pattern, name, ignore_case) != expected)
            fprintf(stderr, "pattern '%s', name '%s'\n", pattern, name), abort();
    }
}

static void a_root_has_the_name_of_its_last_component(void) {
    static const struct { const char *path, *name; } cases[] = {
        {"a", "a"}, {"a/b", "b"}, {"a/b//", "b"}, {"/", "/"}, {"//", "/"}, {"./", "."},
        {"/usr", "usr"}, {"..", ".."}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t at, length;
        filter_name_of(cases[i].path, (uint32_t)strlen(cases[i].path), &at, &length);
        CHECK_EQ(length, strlen(cases[i].name));
        CHECK(!memcmp(cases[i].path + at, cases[i].name, length));
        struct entry_filter *f = filter_new();
        add(f, (struct filter_step){.kind = FILTER_GLOB, .text = cases[i].name,
                                    .length = (uint32_t)strlen(cases[i].name),
                                    .on_true = FILTER_ENDS_TRUE, .on_false = FILTER_ENDS_FALSE});
        CHECK_EQ(evaluate(f, cases[i].path, 0, DT_DIR), FILTER_MATCHED);
        filter_free(f);
    }
}

static void steps_lead_to_each_other(void) {
    struct entry_filter *f = filter_new(); /* ( -type d -prune ) -o ( -hidden -a print ) */
    uint32_t print = add(f, (struct filter_step){.kind = FILTER_PRINT, .number = '\n',
                                                 .on_true = FILTER_ENDS_TRUE,
                                                 .on_false = FILTER_ENDS_FALSE});
    uint32_t hidden = add(f, (struct filter_step){.kind = FILTER_HIDDEN, .on_true = print,
                                                  .on_false = FILTER_ENDS_FALSE});
    uint32_t prune = add(f, (struct filter_step){.kind = FILTER_PRUNING,
                                                 .on_true = FILTER_ENDS_TRUE, .on_false = hidden});
    add(f, (struct filter_step){.kind = FILTER_TYPE, .number = 1 << DT_DIR, .on_true = prune,
                                .on_false = hidden});
    struct text_buffer text = {0};
    struct filter_outcome outcome = {.text = &text};
    struct entry_view dir = view_of("x/.d", 1, DT_DIR), file = view_of("x/.f", 1, DT_REG),
                      seen = view_of("x/f", 1, DT_REG);
    CHECK_EQ(filter_evaluate(f, &dir, &outcome), FILTER_MATCHED | FILTER_PRUNE);
    CHECK_EQ(filter_evaluate(f, &file, &outcome), FILTER_MATCHED);
    CHECK_EQ(filter_evaluate(f, &seen, &outcome), 0);
    CHECK_EQ(text.size, 5);
    CHECK(!memcmp(text.bytes, "x/.f\n", 5));
    text_free(&text);
    filter_free(f);
}

static void quitting_stops_the_evaluation(void) {
    struct entry_filter *f = filter_new();
    uint32_t action = add(f, (struct filter_step){.kind = FILTER_ACTION, .number = 63,
                                                  .on_true = FILTER_ENDS_TRUE,
                                                  .on_false = FILTER_ENDS_FALSE});
    add(f, (struct filter_step){.kind = FILTER_QUITTING, .on_true = action, .on_false = action});
    struct entry_view v = view_of("a", 1, DT_REG);
    struct filter_outcome outcome = {0};
    CHECK_EQ(filter_evaluate(f, &v, &outcome), FILTER_QUIT);
    CHECK_EQ(outcome.actions, 0);
    filter_begin(f, action);
    CHECK_EQ(filter_evaluate(f, &v, &outcome), FILTER_MATCHED);
    CHECK(outcome.actions == UINT64_C(1) << 63);
    filter_free(f);
}

static int answer(void *context, uint32_t number, struct entry_view *v, struct filter_outcome *o) {
    ++*(int *)context;
    return (int)number - 1;
}

static void an_external_decides_and_may_end_the_walk(void) {
    static const uint32_t expected[] = {FILTER_QUIT, 0, FILTER_MATCHED};
    for (int number = 0; number < 3; number++) {
        struct entry_filter *f = filter_new();
        int calls = 0;
        add(f, (struct filter_step){.kind = FILTER_EXTERNAL, .number = number,
                                    .on_true = FILTER_ENDS_TRUE, .on_false = FILTER_ENDS_FALSE});
        filter_set_external(f, answer, &calls);
        CHECK_EQ(evaluate(f, "a", 1, DT_REG), expected[number]);
        CHECK_EQ(calls, 1);
        filter_free(f);
    }
}

static void what_is_no_step_is_refused(void) {
    struct entry_filter *f = filter_new();
    struct filter_step ahead = {.kind = FILTER_TYPE, .on_true = 0, .on_false = FILTER_ENDS_FALSE};
    CHECK_EQ(filter_add(f, &ahead), -EINVAL);
    struct filter_step no_kind = {.kind = FILTER_KINDS, .on_true = FILTER_ENDS_TRUE,
                                  .on_false = FILTER_ENDS_TRUE};
    CHECK_EQ(filter_add(f, &no_kind), -EINVAL);
    struct filter_step no_text = {.kind = FILTER_GLOB, .on_true = FILTER_ENDS_TRUE,
                                  .on_false = FILTER_ENDS_TRUE};
    CHECK_EQ(filter_add(f, &no_text), -EINVAL);
    struct filter_step no_action = {.kind = FILTER_ACTION, .number = 64,
                                    .on_true = FILTER_ENDS_TRUE, .on_false = FILTER_ENDS_TRUE};
    CHECK_EQ(filter_add(f, &no_action), -EINVAL);
    CHECK_EQ(filter_begin(f, 0), -EINVAL);
    filter_free(f);
}

int main(void) {
    seed_random();
    RUN(an_empty_filter_matches_everything);
    RUN(any_pattern_matches_what_fnmatch_matches);
    RUN(a_root_has_the_name_of_its_last_component);
    RUN(steps_lead_to_each_other);
    RUN(quitting_stops_the_evaluation);
    RUN(an_external_decides_and_may_end_the_walk);
    RUN(what_is_no_step_is_refused);
    return 0;
}
