/* ignore_rules.h: what git says of the same lines, and text that no one would write. */
#define _GNU_SOURCE
#include "ignore_rules.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

#include "check.h"

static struct ignore_rules *rules_of(const char *text) {
    struct ignore_rules *r = ignore_rules_new(NULL, text, strlen(text), 0, "");
    CHECK(r != NULL);
    return r;
}

static int judge(const struct ignore_rules *r, const char *path) {
    uint32_t length = (uint32_t)strlen(path), name_at;
    int is_directory = path[length - 1] == '/';
    length -= (uint32_t)is_directory;
    for (name_at = length; name_at && path[name_at - 1] != '/'; name_at--) {}
    return ignore_rules_judge(r, path, length, name_at, is_directory);
}

static const struct {
    const char *text, *ignored, *others; /* paths, each followed by a newline */
} table[] = {
    {"foo", "foo\nfoo/\na/foo\n", "foob\nafoo\nfoo.o\n"},
    {"/foo", "foo\n", "a/foo\n"},
    {"foo/", "foo/\na/foo/\n", "foo\na/foo\n"},
    {"a/foo", "a/foo\na/foo/\n", "b/a/foo\nfoo\na/foo/x\n"},
    {"/*.c", "x.c\n.c\n", "a/x.c\nx.h\n"},
    {"*.o", "x.o\na/.o\n", "x.ob\no\n"},
    {"*", "x\na/b\n.x\n", ""},
    {"f?o", "foo\na/f?o\n", "fo\nfooo\n"},
    {"a?b/c", "axb/c\n", "a/b/c\n"},
    {"a*b/c", "ab/c\naxxb/c\n", "a/b/c\naxb/d\n"},
    {"**/foo", "foo\na/b/foo\n", "a/foob\n"},
    {"/**/foo", "foo\na/b/foo\n", "a/foob\n"},
    {"a/**/b", "a/b\na/x/b\na/x/y/b\n", "a/xb\nb\nx/a/b\n"},
    {"a/**", "a/b\na/b/c\n", "a\na/\nb/a\n"},
    {"a/**/", "a/b/\na/b/c/\n", "a/b\na/\n"},
    {"a/x**y/b", "a/xy/b\na/xzzy/b\n", "a/x/y/b\n"},
    {"**/a*/**/b", "ax/b\nx/a/y/z/b\n", "x/b\nax/yb\n"},
    {"[a-c]x", "ax\ncx\n", "dx\n-x\n"},
    {"[!a-c]x\n", "dx\n-x\n", "ax\n"},
    {"[^a-c]x\n", "dx\n", "bx\n"},
    {"[]-]x", "]x\n-x\n", "ax\n"},
    {"[a\\]b]x", "]x\nax\n", "\\x\n"},
    {"[[:digit:][:upper:]_]x", "0x\nZx\n_x\n", "ax\n:x\n"},
    {"[[:digit]x", "[x\n:x\ndx\n", "0x\n"},
    {"[[:nothing:]]x", "", "nx\n:x\n"},
    {"[abc", "", "[abc\na\n"},
    {"a/[!b]/c", "a/x/c\n", "a///c\na/b/c\n"},
    {"x\\", "", "x\nx\\\n"},
    {"\\#x\n#y\n\\!z", "#x\n!z\n", "y\n#y\nz\n"},
    {"x \ny\\ \nz\\  ", "x\ny \nz \n", "x \ny\nz  \n"},
    {"x\r\ny\r\n", "x\ny\n", "x\r\n"},
    {"\xef\xbb\xbfx\ny", "x\ny\n", ""},
    {"\n\n/\n//\n!\n   \n", "", "x\na/\n \n"},
    {"!x\nx", "x\n", ""},
};

static void expect_all(const struct ignore_rules *r, const char *paths, int ignored) {
    char path[64];
    for (const char *end; *paths; paths = end + 1) {
        end = strchr(paths, '\n');
        memcpy(path, paths, (size_t)(end - paths));
        path[end - paths] = 0;
        if ((judge(r, path) == IGNORE_IGNORED) != ignored) fprintf(stderr, "path %s\n", path);
        CHECK_EQ(judge(r, path) == IGNORE_IGNORED, ignored);
    }
}

static void lines_mean_what_git_says(void) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct ignore_rules *r = rules_of(table[i].text);
        expect_all(r, table[i].ignored, 1);
        expect_all(r, table[i].others, 0);
        ignore_rules_drop(r);
    }
}

static void the_last_line_that_matches_decides(void) {
    struct ignore_rules *r = rules_of("*.log\n!keep.log\n/keep.log/\n");
    CHECK_EQ(judge(r, "x.log"), IGNORE_IGNORED);
    CHECK_EQ(judge(r, "keep.log"), IGNORE_INCLUDED);
    CHECK_EQ(judge(r, "keep.log/"), IGNORE_IGNORED);
    CHECK_EQ(judge(r, "a/keep.log/"), IGNORE_INCLUDED);
    CHECK_EQ(judge(r, "x"), IGNORE_UNDECIDED);
    ignore_rules_drop(r);
}

static void a_nearer_file_decides_and_is_for_what_lies_below_it(void) {
    struct ignore_rules *top = rules_of("*.o\n/sub/only\n");
    struct ignore_rules *sub = ignore_rules_new(top, "!keep.o\n/here\n", 14, 4, "");
    ignore_rules_drop(top); /* `sub` holds it */
    CHECK_EQ(judge(sub, "sub/keep.o"), IGNORE_INCLUDED);
    CHECK_EQ(judge(sub, "sub/x.o"), IGNORE_IGNORED);
    CHECK_EQ(judge(sub, "sub/here"), IGNORE_IGNORED);
    CHECK_EQ(judge(sub, "sub/x/here"), IGNORE_UNDECIDED);
    CHECK_EQ(judge(sub, "sub/only"), IGNORE_IGNORED);
    ignore_rules_drop(sub);
}

static void a_file_above_the_root_sees_the_whole_path(void) {
    char lead[2000];
    for (size_t length = 2; length < sizeof lead; length = length * 7 + 4) {
        memset(lead, 'd', length - 1);
        lead[length - 1] = '/';
        lead[length] = 0;
        char text[2100];
        int n = snprintf(text, sizeof text, "/%sx\ny\n", lead);
        struct ignore_rules *r = ignore_rules_new(NULL, text, (size_t)n, 5, lead);
        CHECK_EQ(judge(r, "root/x"), IGNORE_IGNORED);
        CHECK_EQ(judge(r, "root/x/x"), IGNORE_UNDECIDED);
        CHECK_EQ(judge(r, "root/z/y"), IGNORE_IGNORED);
        ignore_rules_drop(r);
    }
}

static void any_bytes_are_rules_that_end(void) {
    static const char alphabet[] = "ab/*?[]!-^\\:#. \n\r\0\xe9";
    char text[200], path[100];
    for (int round = 0; round < 20000; round++) {
        size_t length = random_below(sizeof text);
        for (size_t i = 0; i < length; i++) text[i] = alphabet[random_below(sizeof alphabet - 1)];
        /* On the heap and as long as it is, so that a byte too many is seen. */
        char *exact = malloc(length + !length);
        memcpy(exact, text, length);
        struct ignore_rules *r = ignore_rules_new(NULL, exact, length, 0, "");
        free(exact);
        uint32_t n = 1 + random_below(sizeof path - 1);
        for (uint32_t i = 0; i < n; i++) path[i] = alphabet[random_below(7)];
        uint32_t at = random_below(n);
        int verdict = ignore_rules_judge(r, path, n, at, (int)random_below(2));
        CHECK(verdict >= IGNORE_UNDECIDED && verdict <= IGNORE_IGNORED);
        ignore_rules_drop(r);
    }
}

/* 2^n for a matcher that tries every division among the stars. */
static void many_stars_cost_little(void) {
    char text[402], path[4001];
    for (int i = 0; i < 200; i++) memcpy(text + 2 * i, "*a", 2);
    memcpy(text + 400, "b", 2);
    memset(path, 'a', 4000);
    path[4000] = 0;
    for (int anchored = 0; anchored < 2; anchored++) {
        if (anchored) memcpy(text, "/*", 2);
        struct ignore_rules *r = rules_of(text);
        CHECK_EQ(judge(r, path), IGNORE_UNDECIDED);
        ignore_rules_drop(r);
    }
    char deep[1 + 100 * 5];
    for (int i = 0; i < 100; i++) memcpy(deep + 5 * i, "**/*a", 5);
    deep[500] = 0;
    for (int i = 0; i < 4000; i += 4) path[i] = '/';
    struct ignore_rules *r = rules_of(deep);
    CHECK_EQ(judge(r, path + 1), IGNORE_IGNORED);
    path[3999] = 'b';
    CHECK_EQ(judge(r, path + 1), IGNORE_UNDECIDED);
    ignore_rules_drop(r);
}

static char folder[] = "/tmp/ignore_rules.XXXXXX";

static int write_file(int dir, const char *name, const char *text, size_t length) {
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, text, length), length);
    return close(fd);
}

static void a_file_is_loaded_or_says_why_not(void) {
    CHECK(mkdtemp(folder) != NULL);
    int dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct ignore_rules *above = rules_of("up\n"), *r;
    write_file(dir, "rules", "x\n", 2);
    write_file(dir, "comment", "# x\n", 4);
    CHECK_EQ(mkfifoat(dir, "fifo", 0600), 0);
    CHECK_EQ(symlinkat("rules", dir, "link"), 0);
    CHECK_EQ(ignore_rules_load(&r, above, dir, "rules", 0, ""), 0);
    CHECK_EQ(judge(r, "x"), IGNORE_IGNORED);
    CHECK_EQ(judge(r, "up"), IGNORE_IGNORED);
    ignore_rules_drop(r);
    static const char *const none[] = {"comment", "fifo", "link", "missing", "rules/x", "."};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        CHECK_EQ(ignore_rules_load(&r, above, dir, none[i], 0, ""), 0);
        CHECK(r == above);
        ignore_rules_drop(r);
        CHECK_EQ(ignore_rules_load(&r, NULL, dir, none[i], 0, ""), 0);
        CHECK(r == NULL);
    }
    char *big = calloc(1, IGNORE_FILE_LIMIT + 1);
    memset(big, '[', IGNORE_FILE_LIMIT);
    write_file(dir, "big", big, IGNORE_FILE_LIMIT);
    CHECK_EQ(ignore_rules_load(&r, NULL, dir, "big", 0, ""), 0);
    CHECK(r == NULL); /* a class that never ends */
    write_file(dir, "big", big, IGNORE_FILE_LIMIT + 1);
    CHECK_EQ(ignore_rules_load(&r, above, dir, "big", 0, ""), EFBIG);
    CHECK(r == above);
    ignore_rules_drop(r);
    free(big);
    ignore_rules_drop(above);
    static const char *const all[] = {"rules", "comment", "fifo", "link", "big"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) unlinkat(dir, all[i], 0);
    close(dir);
    CHECK_EQ(rmdir(folder), 0);
}

static void *hold_and_drop(void *rules) {
    for (int i = 0; i < 10000; i++) {
        struct ignore_rules *r = ignore_rules_hold(rules);
        CHECK_EQ(judge(r, "a/x.o"), IGNORE_IGNORED);
        ignore_rules_drop(r);
    }
    ignore_rules_drop(rules);
    return NULL;
}

static void threads_share_rules_and_the_last_one_frees_them(void) {
    struct ignore_rules *r = rules_of("*.o\na/*.[ch]\n");
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, hold_and_drop, ignore_rules_hold(r)), 0);
    ignore_rules_drop(r);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
}

static void a_long_chain_is_freed_without_a_deep_stack(void) {
    struct ignore_rules *r = NULL;
    for (int i = 0; i < 200000; i++) {
        struct ignore_rules *next = ignore_rules_new(r, "x\n", 2, 0, "");
        ignore_rules_drop(r);
        r = next;
    }
    ignore_rules_drop(r);
}

int main(void) {
    seed_random();
    RUN(lines_mean_what_git_says);
    RUN(the_last_line_that_matches_decides);
    RUN(a_nearer_file_decides_and_is_for_what_lies_below_it);
    RUN(a_file_above_the_root_sees_the_whole_path);
    RUN(any_bytes_are_rules_that_end);
    RUN(many_stars_cost_little);
    RUN(a_file_is_loaded_or_says_why_not);
    RUN(threads_share_rules_and_the_last_one_frees_them);
    RUN(a_long_chain_is_freed_without_a_deep_stack);
    return 0;
}
