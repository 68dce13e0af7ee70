/* entry_filter.c: steps, patterns, and the order in which they run. */
#define _GNU_SOURCE
#include "entry_filter.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <pthread.h>
#include <sys/stat.h>

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
    filter_drop(f);
    return bits == FILTER_MATCHED;
}

static void an_empty_filter_matches_everything(void) {
    struct entry_filter *f = filter_new();
    CHECK_EQ(evaluate(f, "a", 0, DT_REG), FILTER_MATCHED);
    CHECK_EQ(filter_begin(f, FILTER_ENDS_FALSE), 0);
    CHECK_EQ(evaluate(f, "a", 0, DT_REG), 0);
    filter_drop(f);
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
        filter_drop(f);
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
    filter_drop(f);
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
    filter_drop(f);
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
        filter_drop(f);
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
    filter_drop(f);
}

/* ---- what needs stat ---- */

static struct entry_stat facts;
static int fetches, fetch_error;
static uint32_t fetched_mask;

static int fetch(struct entry_view *v, uint32_t mask) {
    fetches++;
    fetched_mask = mask;
    if (fetch_error) return fetch_error;
    facts.mask = STATX_BASIC_STATS;
    v->stat = &facts;
    return 0;
}

/* One step alone: whether it is true. */
static int is_true(struct filter_step step, struct entry_view v, int *error) {
    struct entry_filter *f = filter_new();
    struct filter_outcome outcome = {0};
    step.on_true = FILTER_ENDS_TRUE;
    step.on_false = FILTER_ENDS_FALSE;
    add(f, step);
    v.fetch_stat = fetch;
    uint32_t bits = filter_evaluate(f, &v, &outcome);
    filter_drop(f);
    if (error) *error = outcome.error;
    else CHECK_EQ(outcome.error, 0);
    return bits == FILTER_MATCHED;
}

static int holds(struct filter_step step) {
    return is_true(step, view_of("x/f", 1, S_ISDIR(facts.mode) ? DT_DIR : DT_REG), NULL);
}

static void numbers_are_counted_in_units_rounded_up(void) {
    struct filter_step step = {.kind = FILTER_NUMBER, .field = NUMBER_SIZE, .other = 512};
    for (facts.size = 0; facts.size < 2000; facts.size += 1 + random_below(40)) {
        int64_t units = (facts.size + 511) / 512;
        for (step.number = 0; step.number < 5; step.number++) {
            step.comparison = COMPARE_EQUAL;
            CHECK_EQ(holds(step), units == step.number);
            step.comparison = COMPARE_LESS;
            CHECK_EQ(holds(step), units < step.number);
            step.comparison = COMPARE_MORE;
            CHECK_EQ(holds(step), units > step.number);
        }
    }
    facts.size = INT64_MAX;
    CHECK(holds((struct filter_step){.kind = FILTER_NUMBER, .field = NUMBER_SIZE, .other = 1 << 20,
                                     .comparison = COMPARE_MORE, .number = 1}));
    facts.size = 0;
}

static void a_time_is_in_a_window_that_begins_after_its_first_moment(void) {
    struct filter_step step = {.kind = FILTER_TIME, .field = TIME_MODIFY, .number = 100,
                               .other = 10};
    for (facts.mtime_ns = 95; facts.mtime_ns < 115; facts.mtime_ns++)
        CHECK_EQ(holds(step), facts.mtime_ns > 100 && facts.mtime_ns <= 110);
    step.number = INT64_MIN;
    facts.mtime_ns = INT64_MAX;
    CHECK(!holds(step));
    step.field = TIME_BIRTH; /* the file system does not have it */
    step.comparison = COMPARE_MORE;
    CHECK(!holds(step));
}

static void modes_are_compared_by_their_bits(void) {
    struct filter_step step = {.kind = FILTER_MODE};
    for (int round = 0; round < 5000; round++) {
        uint32_t mode = random_below(010000), wanted = random_below(4) ? random_below(010000) : 0;
        facts.mode = S_IFREG | mode;
        step.number = wanted;
        step.other = 07777;
        step.comparison = COMPARE_EQUAL;
        CHECK_EQ(holds(step), mode == wanted);
        step.comparison = COMPARE_LESS;
        CHECK_EQ(holds(step), (mode & wanted) == wanted);
        step.comparison = COMPARE_MORE;
        CHECK_EQ(holds(step), !wanted || (mode & wanted));
    }
    facts.mode = S_IFDIR | 0111;
    step = (struct filter_step){.kind = FILTER_MODE, .number = 0, .other = 0111};
    CHECK(holds(step));
    facts.mode = 0;
}

static void stat_is_fetched_once_and_for_all_steps(void) {
    struct entry_filter *f = filter_new();
    uint32_t birth = add(f, (struct filter_step){.kind = FILTER_TIME, .field = TIME_BIRTH,
                                                 .on_true = FILTER_ENDS_TRUE,
                                                 .on_false = FILTER_ENDS_FALSE});
    uint32_t uid = add(f, (struct filter_step){.kind = FILTER_NUMBER, .field = NUMBER_UID,
                                               .on_true = birth, .on_false = birth});
    add(f, (struct filter_step){.kind = FILTER_SAME, .number = 1, .on_true = uid, .on_false = uid});
    CHECK_EQ(filter_stat_mask(f), STATX_BASIC_STATS | STATX_BTIME);
    for (fetch_error = 0; fetch_error <= EACCES; fetch_error += EACCES) {
        struct entry_view v = view_of("x/f", 1, DT_REG);
        struct filter_outcome outcome = {0};
        v.fetch_stat = fetch;
        fetches = 0;
        CHECK_EQ(filter_evaluate(f, &v, &outcome), 0);
        CHECK_EQ(fetches, 1);
        CHECK_EQ(fetched_mask, STATX_BASIC_STATS | STATX_BTIME);
        CHECK_EQ(outcome.error, fetch_error);
    }
    fetch_error = 0;
    filter_drop(f);
}

/* ---- what asks the kernel ---- */

static char folder[] = "/tmp/filterXXXXXX";
static int folder_fd;

static void make_folder(void) {
    CHECK(mkdtemp(folder) != NULL);
    folder_fd = open(folder, O_RDONLY | O_DIRECTORY);
    CHECK(folder_fd >= 0);
    CHECK_EQ(mkdirat(folder_fd, "empty", 0755), 0);
    CHECK_EQ(mkdirat(folder_fd, "full", 0755), 0);
    close(openat(folder_fd, "full/file", O_CREAT | O_WRONLY, 0644));
    CHECK_EQ(symlinkat("full", folder_fd, "link"), 0);
    CHECK_EQ(symlinkat("nowhere", folder_fd, "dangling"), 0);
    CHECK_EQ(symlinkat("loop", folder_fd, "loop"), 0);
}

static void remove_folder(void) {
    static const char *files[] = {"full/file", "link", "dangling", "loop"};
    for (int i = 0; i < 4; i++) CHECK_EQ(unlinkat(folder_fd, files[i], 0), 0);
    CHECK_EQ(unlinkat(folder_fd, "empty", AT_REMOVEDIR), 0);
    CHECK_EQ(unlinkat(folder_fd, "full", AT_REMOVEDIR), 0);
    close(folder_fd);
    CHECK_EQ(rmdir(folder), 0);
}

static struct entry_view in_folder(const char *name, uint8_t type) {
    struct entry_view v = view_of(name, 1, type);
    v.dir_fd = folder_fd;
    v.at = name;
    return v;
}

static int open_again(struct entry_view *v) {
    v->dir_fd = folder_fd;
    return 0;
}

static int cannot_open(struct entry_view *v) { return EMFILE; }

static void only_a_directory_without_entries_is_empty(void) {
    struct filter_step step = {.kind = FILTER_EMPTY};
    int error;
    CHECK(is_true(step, in_folder("empty", DT_DIR), NULL));
    CHECK(!is_true(step, in_folder("full", DT_DIR), NULL));
    CHECK(!is_true(step, in_folder("link", DT_LNK), NULL));
    CHECK(!is_true(step, in_folder("gone", DT_DIR), &error));
    CHECK_EQ(error, ENOENT);
    facts.size = 0;
    CHECK(is_true(step, in_folder("full/file", DT_REG), NULL));
    facts.size = 1;
    CHECK(!is_true(step, in_folder("full/file", DT_REG), NULL));
    facts.size = 0;
}

static void a_directory_that_was_closed_is_opened_for_who_needs_it(void) {
    struct filter_step step = {.kind = FILTER_EMPTY};
    struct entry_view v = in_folder("empty", DT_DIR);
    int error;
    v.dir_fd = -1;
    v.open_dir = open_again;
    CHECK(is_true(step, v, NULL));
    v.open_dir = cannot_open;
    CHECK(!is_true(step, v, &error));
    CHECK_EQ(error, EMFILE);
    step = (struct filter_step){.kind = FILTER_CONSTANT, .number = 1};
    CHECK(is_true(step, v, NULL));
}

static void the_type_is_of_the_target_or_of_the_link(void) {
    struct filter_step step = {.kind = FILTER_TARGET_TYPE, .number = 1 << DT_DIR};
    int error;
    CHECK(is_true(step, in_folder("link", DT_LNK), NULL));
    CHECK(is_true(step, in_folder("full", DT_DIR), NULL));
    step.number = 1 << DT_LNK;
    CHECK(is_true(step, in_folder("dangling", DT_LNK), NULL));
    CHECK(!is_true(step, in_folder("link", DT_LNK), NULL));
    CHECK(!is_true(step, in_folder("loop", DT_LNK), &error));
    CHECK_EQ(error, ELOOP);
    step.other = FOLLOWS_ALL;
    CHECK(is_true(step, in_folder("link", DT_DIR), NULL));
    CHECK(!is_true(step, in_folder("gone", DT_DIR), NULL));
    step.other = FOLLOWS_ROOTS; /* it is none */
    CHECK(!is_true(step, in_folder("link", DT_LNK), NULL));
}

static void what_a_link_contains_is_matched(void) {
    struct filter_step step = {.kind = FILTER_GLOB, .subject = SUBJECT_TARGET, .text = "no*",
                               .length = 3};
    CHECK(is_true(step, in_folder("dangling", DT_LNK), NULL));
    CHECK(!is_true(step, in_folder("link", DT_LNK), NULL));
    CHECK(!is_true(step, in_folder("full", DT_DIR), NULL));
}

/* ---- regular expressions ---- */

static int regex_matches(const char *pattern, const char *syntax, const char *path) {
    return is_true((struct filter_step){.kind = FILTER_REGEX, .subject = SUBJECT_PATH,
                                        .text = pattern, .length = (uint32_t)strlen(pattern),
                                        .number = filter_find_syntax(syntax)},
                   view_of(path, 1, DT_REG), NULL);
}

static void a_regular_expression_matches_all_of_the_path(void) {
    CHECK(regex_matches("a/.*", "posix-extended", "a/b"));
    CHECK(!regex_matches("a", "posix-extended", "a/b"));
    CHECK(!regex_matches("b", "posix-extended", "a/b"));
    CHECK(regex_matches("a/(b|bc)", "posix-extended", "a/bc"));
    CHECK(!regex_matches("a/(b|bc)", "posix-basic", "a/bc"));
    CHECK(regex_matches("a/\\(b\\|bc\\)", "emacs", "a/bc"));
    CHECK(regex_matches("a.b", "posix-basic", "a\nb"));
    CHECK(!regex_matches("a.b", "emacs", "a\nb"));
}

static void a_wrong_regular_expression_is_complained_of(void) {
    struct entry_filter *f = filter_new();
    struct filter_step step = {.kind = FILTER_REGEX, .text = "(", .length = 1,
                               .number = filter_find_syntax("posix-extended"),
                               .on_true = FILTER_ENDS_TRUE, .on_false = FILTER_ENDS_FALSE};
    CHECK_EQ(filter_add(f, &step), -EINVAL);
    CHECK(filter_complaint(f) != NULL);
    step.number = filter_find_syntax("perl");
    CHECK_EQ(filter_add(f, &step), -EINVAL);
    CHECK(filter_complaint(f) == NULL);
    filter_drop(f);
}

static void *evaluate_often(void *filter) {
    struct filter_outcome outcome = {0};
    for (int i = 0; i < 500; i++) {
        struct entry_stat own = {.mask = STATX_BASIC_STATS, .uid = 3000000000u + (uint32_t)i % 3};
        struct entry_view v = view_of("a/b", 1, DT_REG);
        v.stat = &own;
        CHECK_EQ(filter_evaluate(filter, &v, &outcome), FILTER_MATCHED);
    }
    return NULL;
}

static void threads_share_a_filter(void) {
    struct entry_filter *f = filter_new();
    uint32_t regex = add(f, (struct filter_step){
        .kind = FILTER_REGEX, .text = "a.b", .length = 3, .subject = SUBJECT_PATH,
        .on_true = FILTER_ENDS_TRUE, .on_false = FILTER_ENDS_FALSE});
    add(f, (struct filter_step){.kind = FILTER_UNOWNED, .on_true = regex,
                                .on_false = FILTER_ENDS_FALSE});
    pthread_t threads[12]; /* more than there are copies of the expression */
    for (int i = 0; i < 12; i++) pthread_create(&threads[i], NULL, evaluate_often, f);
    for (int i = 0; i < 12; i++) pthread_join(threads[i], NULL);
    filter_drop(f);
}

/* ---- formats ---- */

static void check_format(struct format_piece piece, struct entry_view v, const char *expected) {
    struct entry_format *format = format_new(1);
    struct text_buffer text = {0};
    v.stat = &facts;
    facts.mask = STATX_BASIC_STATS;
    CHECK_EQ(format_set(format, 0, &piece), 0);
    format_entry(format, &v, &text);
    text_append_byte(&text, 0);
    if (strcmp(text.bytes, expected)) {
        fprintf(stderr, "%c: '%s', not '%s'\n", piece.letter, text.bytes, expected);
        abort();
    }
    text_free(&text);
    format_free(format);
}

static void pieces_are_written_with_their_widths(void) {
    struct entry_view v = view_of("root/dir/name", 2, DT_REG);
#define PIECE(...) ((struct format_piece){.precision = -1, __VA_ARGS__})
    check_format(PIECE(.letter = 'p'), v, "root/dir/name");
    check_format(PIECE(.letter = 'f', .width = 6), v, "  name");
    check_format(PIECE(.letter = 'f', .width = 6, .left = 1), v, "name  ");
    check_format(((struct format_piece){.letter = 'f', .precision = 2}), v, "na");
    check_format(PIECE(.letter = 'h'), v, "root/dir");
    check_format(PIECE(.letter = 'P'), v, "dir/name");
    check_format(PIECE(.letter = 'H'), v, "root");
    check_format(PIECE(.letter = 'd', .width = 3, .zero = 1), v, "002");
    facts.mode = S_IFREG | 04751;
    check_format(PIECE(.letter = 'm', .sharp = 1), v, "04751");
    check_format(PIECE(.letter = 'M'), v, "-rwsr-x--x");
    facts.mtime_ns = -1;
    check_format(PIECE(.letter = 'T', .field = TIME_MODIFY, .how = '@'), v, "-1.9999999990");
    struct entry_view odd = view_of("a\n\x7f", 1, DT_REG);
    check_format(PIECE(.letter = 'p', .safe = 1), odd, "a??");
    check_format(PIECE(.letter = PIECE_ESCAPED), view_of("a \n\x01\xff", 0, DT_REG),
                 "a\\ \\n\\001\\377");
    facts = (struct entry_stat){0};
}

static void json_escapes_what_is_no_text(void) {
    struct entry_format *format = format_new(1);
    struct text_buffer text = {0};
    struct entry_view v = view_of("\"\\\n\xc3\xa9\xff"
                                  "\xed\xa0\x80\xf4\x90\x80\x80", 0, DT_REG);
    v.stat = &facts;
    CHECK_EQ(format_set(format, 0, &(struct format_piece){.letter = PIECE_JSON}), 0);
    format_entry(format, &v, &text);
    static const char expected[] =
        "{\"path\": \"\\\"\\\\\\u000a\xc3\xa9\\udcff"
        "\\udced\\udca0\\udc80\\udcf4\\udc90\\udc80\\udc80\", ";
    CHECK(!memcmp(text.bytes, expected, sizeof expected - 1));
    text_free(&text);
    format_free(format);
}

static void what_is_no_piece_is_refused(void) {
    struct entry_format *format = format_new(1);
    CHECK_EQ(format_set(format, 0, &(struct format_piece){.letter = 'Z'}), -EINVAL);
    CHECK_EQ(format_set(format, 1, &(struct format_piece){.letter = 'p'}), -EINVAL);
    CHECK_EQ(format_set(format, 0, &(struct format_piece){.letter = 'p', .width = 301}), -EINVAL);
    CHECK_EQ(format_set(format, 0, &(struct format_piece){.letter = 'T', .field = 9}), -EINVAL);
    CHECK_EQ(format_set(format, 0, &(struct format_piece){.letter = PIECE_TEXT}), -EINVAL);
    format_free(format);
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
    RUN(numbers_are_counted_in_units_rounded_up);
    RUN(a_time_is_in_a_window_that_begins_after_its_first_moment);
    RUN(modes_are_compared_by_their_bits);
    RUN(stat_is_fetched_once_and_for_all_steps);
    make_folder();
    RUN(only_a_directory_without_entries_is_empty);
    RUN(a_directory_that_was_closed_is_opened_for_who_needs_it);
    RUN(the_type_is_of_the_target_or_of_the_link);
    RUN(what_a_link_contains_is_matched);
    remove_folder();
    RUN(a_regular_expression_matches_all_of_the_path);
    RUN(a_wrong_regular_expression_is_complained_of);
    RUN(threads_share_a_filter);
    RUN(pieces_are_written_with_their_widths);
    RUN(json_escapes_what_is_no_text);
    RUN(what_is_no_piece_is_refused);
    return 0;
}
