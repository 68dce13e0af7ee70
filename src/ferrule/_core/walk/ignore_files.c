#define _GNU_SOURCE
#include "ignore_files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "system_names.h"

#define EXCLUDE "info/exclude"
#define GITDIR "gitdir: "

/* What is read on the way into one directory; the first error stays. */
struct entering {
    struct ignore_rules **rules;
    uint32_t base;
    const char *lead;
    int error;
    const char **failed;
};

static void add_failure(struct entering *e, int error, const char *name) {
    if (!error || e->error) return;
    e->error = error;
    *e->failed = name;
}

static void add_file(struct entering *e, int dir_fd, const char *name) {
    struct ignore_rules *upon = *e->rules;
    int err = ignore_rules_load(e->rules, upon, dir_fd, name, e->base, e->lead);
    ignore_rules_drop(upon);
    add_failure(e, err, name);
}

/* A line of a small file, without its end; -1 if there is none. */
static int read_line(int dir_fd, const char *name, char line[PATH_MAX]) {
    int fd = openat(dir_fd, name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t n = read(fd, line, PATH_MAX - 1);
    close(fd);
    if (n <= 0) return -1;
    line[n] = 0;
    line[strcspn(line, "\r\n")] = 0;
    return 0;
}

static int open_folder(int dir_fd, const char *path) {
    return openat(dir_fd, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/* Of a linked work tree or a submodule .git is a file that says where; the former shares the
 * exclusions of the repository it is linked to. */
static int open_linked_repository(int dir_fd) {
    char line[PATH_MAX];
    if (read_line(dir_fd, ".git", line) < 0 || strncmp(line, GITDIR, strlen(GITDIR)) != 0) return -1;
    int own = open_folder(dir_fd, line + strlen(GITDIR));
    if (own < 0 || read_line(own, "commondir", line) < 0) return own;
    int common = open_folder(own, line);
    close(own);
    return common;
}

static void add_repository(struct entering *e, int dir_fd) {
    int repository = open_folder(dir_fd, ".git");
    if (repository < 0 && errno == ENOTDIR) repository = open_linked_repository(dir_fd);
    if (repository < 0) return;
    add_file(e, repository, EXCLUDE);
    close(repository);
}

/* Where there are no rules yet. */
static void begin_with_given(struct entering *e, const struct ignore_given *given) {
    *e->rules = NULL;
    if (!given->length) return;
    *e->rules = ignore_rules_new(NULL, given->text, given->length, e->base, e->lead);
    if (!*e->rules) add_failure(e, ENOMEM, "");
}

int ignore_only_given(struct ignore_rules **rules, const struct ignore_given *given, uint32_t base) {
    const char *failed;
    struct entering e = {.rules = rules, .base = base, .lead = "", .failed = &failed};
    begin_with_given(&e, given);
    return e.error;
}

static int has_git(int dir_fd) { return faccessat(dir_fd, ".git", F_OK, AT_SYMLINK_NOFOLLOW) == 0; }

int ignore_enter(struct ignore_rules **rules, const struct ignore_given *given, int dir_fd,
                 uint32_t base, unsigned found, const char **failed) {
    struct entering e = {.rules = rules, .base = base, .lead = "", .failed = failed};
    if (found & LOOK_FOR_IGNORE_FILES)
        found = FOUND_GITIGNORE | (has_git(dir_fd) ? FOUND_GIT : 0);
    if (found & FOUND_GIT) {
        ignore_rules_drop(*rules);
        begin_with_given(&e, given);
        add_repository(&e, dir_fd);
    }
    if (found & FOUND_GITIGNORE) add_file(&e, dir_fd, ".gitignore");
    return e.error;
}

/* ---- above a root ---- */

/* Where a directory is, without a slash at the end but for "/" itself, which becomes empty. */
static ssize_t absolute_path(int fd, char path[PATH_MAX]) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 2);
    if (n <= 0 || n == PATH_MAX - 2 || path[0] != '/') return -1; /* no /proc, too long, detached */
    if (n == 1) n = 0;
    path[n] = 0;
    return n;
}

/* The end of the nearest directory above that has a .git; -1 if there is none. */
static ssize_t find_top(char *path, ssize_t length) {
    for (ssize_t end = length; end > 0;) {
        while (path[--end] != '/') {}
        char kept = path[end];
        path[end] = 0;
        int fd = open_folder(AT_FDCWD, end ? path : "/");
        path[end] = kept;
        int is_top = fd >= 0 && has_git(fd);
        if (fd >= 0) close(fd);
        if (is_top) return end;
    }
    return -1;
}

/* From the repository's top down to the directory that the root is in. */
static void add_those_above(struct entering *e, const struct ignore_given *given, char *path,
                            ssize_t top, ssize_t length) {
    path[length] = '/'; /* what is behind a directory of it is what leads to the root's entries */
    path[length + 1] = 0;
    for (ssize_t end = top; end < length; end += (ssize_t)strcspn(path + end + 1, "/") + 1) {
        path[end] = 0;
        int fd = open_folder(AT_FDCWD, end ? path : "/");
        e->lead = path + end + 1;
        if (fd >= 0) {
            if (end == top) {
                begin_with_given(e, given);
                add_repository(e, fd);
            }
            add_file(e, fd, ".gitignore");
            close(fd);
        } else {
            add_failure(e, errno, "..");
        }
        path[end] = '/';
    }
}

int ignore_enter_root(struct ignore_rules **rules, const struct ignore_given *given, int dir_fd,
                      uint32_t base, const char **failed) {
    struct entering e = {.rules = rules, .base = base, .lead = "", .failed = failed};
    char path[PATH_MAX];
    *rules = NULL;
    ssize_t length = absolute_path(dir_fd, path);
    ssize_t top = length < 0 || has_git(dir_fd) ? -1 : find_top(path, length);
    if (top >= 0) add_those_above(&e, given, path, top, length);
    else begin_with_given(&e, given);
    return e.error;
}
