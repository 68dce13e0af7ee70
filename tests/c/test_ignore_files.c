/* ignore_files.h: which files are read for a directory, on repositories made for it. */
#define _GNU_SOURCE
#include "ignore_files.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>

#include "check.h"

static char top[] = "/tmp/ignore_files.XXXXXX";
static int top_fd;
static const struct ignore_given nothing = {NULL, 0};

static void make_folder(const char *path) { CHECK_EQ(mkdirat(top_fd, path, 0700), 0); }

static void make_file(const char *path, const char *text) {
    int fd = openat(top_fd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static int remove_one(const char *path, const struct stat *s, int type, struct FTW *where) {
    return remove(path);
}

static int open_in_top(const char *path) {
    int fd = openat(top_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

/* Rules as a walk that begins at `root` has them there; its paths are those below the root. */
static struct ignore_rules *enter_root(const char *root, const struct ignore_given *given) {
    struct ignore_rules *r;
    const char *failed = NULL;
    int fd = open_in_top(root);
    CHECK_EQ(ignore_enter_root(&r, given, fd, 0, &failed), 0);
    CHECK_EQ(ignore_enter(&r, given, fd, 0, LOOK_FOR_IGNORE_FILES, &failed), 0);
    close(fd);
    return r;
}

/* The rules one directory further down, in place of those given. */
static void enter(struct ignore_rules **r, const char *path, uint32_t base) {
    const char *failed = NULL;
    int fd = open_in_top(path);
    CHECK_EQ(ignore_enter(r, &nothing, fd, base, LOOK_FOR_IGNORE_FILES, &failed), 0);
    close(fd);
}

static int skips(const struct ignore_rules *r, const char *path) {
    uint32_t length = (uint32_t)strlen(path), name_at = length;
    for (; name_at && path[name_at - 1] != '/'; name_at--) {}
    return r && ignore_rules_judge(r, path, length, name_at, 0) == IGNORE_IGNORED;
}

static void names_are_told_apart(void) {
    CHECK_EQ(ignore_file_found(".git"), FOUND_GIT);
    CHECK_EQ(ignore_file_found(".gitignore"), FOUND_GITIGNORE);
    CHECK_EQ(ignore_file_found(".github") | ignore_file_found(".") | ignore_file_found("git"), 0);
}

static void every_file_up_to_the_top_counts(void) {
    struct ignore_rules *r = enter_root("repo/a/b", &nothing);
    CHECK_EQ(skips(r, "by_top"), 1);
    CHECK_EQ(skips(r, "x/by_top"), 1);
    CHECK_EQ(skips(r, "by_path"), 1); /* /a/b/by_path */
    CHECK_EQ(skips(r, "x/by_path"), 0);
    CHECK_EQ(skips(r, "by_a"), 1);
    CHECK_EQ(skips(r, "by_exclude"), 1);
    CHECK_EQ(skips(r, "kept"), 0); /* excluded by the top, included again by a */
    CHECK_EQ(skips(r, "by_outside"), 0);
    ignore_rules_drop(r);
}

static void a_repository_inside_starts_anew(void) {
    struct ignore_rules *r = enter_root("repo", &nothing);
    CHECK_EQ(skips(r, "by_top"), 1);
    enter(&r, "repo/inner", 6);
    CHECK_EQ(skips(r, "inner/by_top"), 0);
    CHECK_EQ(skips(r, "inner/by_inner"), 1);
    ignore_rules_drop(r);
}

static void a_linked_work_tree_has_the_exclusions_of_its_repository(void) {
    char text[200];
    snprintf(text, sizeof text, "gitdir: %s/repo/.git/worktrees/linked\n", top);
    make_file("linked/.git", text);
    struct ignore_rules *r = enter_root("linked/deep", &nothing);
    CHECK_EQ(skips(r, "by_exclude"), 1);
    CHECK_EQ(skips(r, "by_top"), 0);
    ignore_rules_drop(r);
    make_file("linked/.git", "gitdir: nowhere\n");
    r = enter_root("linked/deep", &nothing);
    CHECK(r == NULL);
    make_file("linked/.git", "rubbish");
    r = enter_root("linked", &nothing);
    CHECK(r == NULL);
}

static void given_lines_are_the_weakest_and_count_without_a_repository(void) {
    static const char text[] = "by_given\n!by_top\n/a/b/at_path\n";
    const struct ignore_given given = {text, strlen(text)};
    struct ignore_rules *r = enter_root("plain", &given);
    CHECK_EQ(skips(r, "x/by_given"), 1);
    CHECK_EQ(skips(r, "a/b/at_path"), 1);
    ignore_rules_drop(r);
    CHECK_EQ(ignore_only_given(&r, &given, 5), 0);
    CHECK_EQ(skips(r, "root/by_given"), 1);
    ignore_rules_drop(r);
    r = enter_root("repo/a/b", &given);
    CHECK_EQ(skips(r, "at_path"), 1); /* anchored at the repository's top */
    CHECK_EQ(skips(r, "by_top"), 1);  /* .gitignore is stronger */
    ignore_rules_drop(r);
    r = enter_root("repo", &given);
    enter(&r, "repo/inner", 6);
    CHECK_EQ(skips(r, "inner/by_given"), 0); /* there it is given `nothing` */
    ignore_rules_drop(r);
}

static void what_cannot_be_read_is_named_and_the_rest_counts(void) {
    char *big = malloc(IGNORE_FILE_LIMIT + 2);
    memset(big, 'x', IGNORE_FILE_LIMIT + 1);
    big[IGNORE_FILE_LIMIT + 1] = 0;
    make_file("repo/.git/info/exclude", big);
    free(big);
    struct ignore_rules *r = NULL;
    const char *failed = NULL;
    int fd = open_in_top("repo");
    CHECK_EQ(ignore_enter(&r, &nothing, fd, 0, FOUND_GIT | FOUND_GITIGNORE, &failed), EFBIG);
    CHECK(strcmp(failed, "info/exclude") == 0);
    CHECK_EQ(skips(r, "by_top"), 1);
    ignore_rules_drop(r);
    close(fd);
}

int main(void) {
    CHECK(mkdtemp(top) != NULL);
    top_fd = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    static const char *const folders[] = {
        "repo", "repo/.git", "repo/.git/info", "repo/.git/worktrees", "repo/.git/worktrees/linked",
        "repo/a", "repo/a/b", "repo/inner", "repo/inner/.git", "linked", "linked/deep", "plain"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) make_folder(folders[i]);
    make_file(".gitignore", "by_outside\n");
    make_file("repo/.gitignore", "by_top\n/a/b/by_path\nkept\n");
    make_file("repo/.git/info/exclude", "by_exclude\n");
    make_file("repo/.git/worktrees/linked/commondir", "../..\n");
    make_file("repo/a/.gitignore", "by_a\n!kept\n");
    make_file("repo/inner/.gitignore", "by_inner\n");
    RUN(names_are_told_apart);
    RUN(every_file_up_to_the_top_counts);
    RUN(a_repository_inside_starts_anew);
    RUN(a_linked_work_tree_has_the_exclusions_of_its_repository);
    RUN(given_lines_are_the_weakest_and_count_without_a_repository);
    RUN(what_cannot_be_read_is_named_and_the_rest_counts);
    close(top_fd);
    CHECK_EQ(nftw(top, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
    return 0;
}
