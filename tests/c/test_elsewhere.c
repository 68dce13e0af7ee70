/* What stands in on other systems for what only Linux or glibc has, run here: operation_bsd.c,
 * entries_bsd.c, the pipe of event.h, POSIX's regular expressions.  The operation table of this
 * program makes their attempts.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <netinet/in.h>
#include <poll.h>
#include <regex.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/param.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "check.h"
#include "entry_filter.h"
#include "file_facts.h"
#include "operation_system.h"
#include "waker.h"

#undef __linux__
#undef __GLIBC__
#define getdents(fd, to, room) getdents64(fd, to, room)
#include "entries_bsd.c"
#include "entry_filter.c"
#include "event.h"
#include "operation_bsd.c"

static struct op operation(uint8_t kind, int fd) {
    return (struct op){.kind = kind, .fd = fd, .fd2 = -1, .off = -1};
}

static int64_t attempt(struct op *o) { return op_rows[o->kind].attempt(o); }

static char folder[] = "/tmp/ferrule-XXXXXX";

static int open_folder(void) {
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static int make_file(int dir, const char *name) {
    int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    return fd;
}

/* ---- events ---- */

static int is_readable(const struct event *e) {
    struct pollfd p = {.fd = e->fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void an_event_can_be_read_until_it_is_cleared(void) {
    struct event e;
    CHECK_EQ(event_open(&e), 0);
    CHECK(e.fd != e.write_fd);
    CHECK(!is_readable(&e));
    for (int times = 1; times < 100000; times *= 10) { /* the last ones find the pipe full */
        for (int i = 0; i < times; i++) event_set(&e);
        CHECK(is_readable(&e));
        event_clear(&e);
        CHECK(!is_readable(&e));
    }
    CHECK(fcntl(e.fd, F_GETFD) & FD_CLOEXEC && fcntl(e.write_fd, F_GETFD) & FD_CLOEXEC);
    event_close(&e);
    CHECK_EQ(e.fd, -1);
    event_close(&e);
}

/* ---- directories ---- */

#define NAMES 400

static void name_of(int number, char *name) {
    sprintf(name, "%d", number);
    memset(name + strlen(name), 'n', (size_t)number % 250 + 1);
    name[strlen(name)] = 0;
}

static void make_names(int dir) {
    for (int i = 0; i < NAMES; i++) {
        char name[256] = {0};
        name_of(i, name);
        name[255] = 0;
        switch (i % 4) {
        case 0: CHECK_EQ(mkdirat(dir, name, 0700), 0); break;
        case 1: CHECK_EQ(symlinkat("nowhere", dir, name), 0); break;
        case 2: CHECK_EQ(mkfifoat(dir, name, 0600), 0); break;
        default: close(make_file(dir, name));
        }
    }
}

static void remove_names(int dir) {
    for (int i = 0; i < NAMES; i++) {
        char name[256] = {0};
        name_of(i, name);
        unlinkat(dir, name, i % 4 ? 0 : AT_REMOVEDIR);
    }
}

static int is_like_stat(int dir, const struct entry *e) {
    struct stat s;
    return fstatat(dir, e->name, &s, AT_SYMLINK_NOFOLLOW) == 0 && s.st_ino == e->inode &&
           IFTODT(s.st_mode) == e->type;
}

/* How many were read, each of which is there; with `removing` it is not any more, then. */
static int read_all(int dir, size_t room, int removing) {
    _Alignas(8) char block[4096];
    int count = 0;
    int64_t size;
    while ((size = system_read_entries(dir, block, room)) > 0) {
        CHECK(size <= (int64_t)room);
        for (int64_t at = 0; at < size;) {
            const struct entry *e = (const void *)(block + at);
            CHECK(e->size % 8 == 0 && e->size > 19 + strlen(e->name));
            at += e->size;
            if (e->name[0] == '.') continue;
            CHECK(is_like_stat(dir, e));
            if (removing) CHECK_EQ(unlinkat(dir, e->name, e->type == DT_DIR ? AT_REMOVEDIR : 0), 0);
            count++;
        }
    }
    CHECK_EQ(size, 0);
    return count;
}

static void every_entry_of_a_directory_is_told_once(void) {
    int dir = open_folder();
    make_names(dir);
    for (size_t room = 300; room <= 4096; room += 949) {
        CHECK_EQ(lseek(dir, 0, SEEK_SET), 0);
        CHECK_EQ(read_all(dir, room, 0), NAMES);
    }
    remove_names(dir);
    close(dir);
}

static void entries_may_be_removed_as_they_are_read(void) {
    int dir = open_folder();
    make_names(dir);
    CHECK_EQ(read_all(dir, 1024, 1), NAMES);
    close(dir);
}

static void a_directory_that_cannot_be_read_says_why(void) {
    char block[1024];
    int dir = open_folder(), file = make_file(dir, "file");
    CHECK_EQ(system_read_entries(file, block, sizeof block), -ENOTDIR);
    CHECK_EQ(system_read_entries(-1, block, sizeof block), -EBADF);
    CHECK_EQ(unlinkat(dir, "file", 0), 0);
    close(file);
    close(dir);
}

/* ---- facts ---- */

static void facts_made_of_stat_are_those_of_statx(void) {
    struct stat s;
    struct statx found, made;
    struct file_facts one, other;
    CHECK_EQ(stat("/", &s), 0);
    CHECK_EQ(statx(AT_FDCWD, "/", 0, STATX_BASIC_STATS, &found), 0);
    statx_of_stat(&s, &made);
    CHECK_EQ(made.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
    facts_of_statx(&found, &one);
    facts_of_statx(&made, &other);
#define SAME(field) CHECK_EQ(one.field, other.field)
    SAME(dev);
    SAME(ino);
    SAME(nlink);
    SAME(rdev);
    SAME(size);
    SAME(blocks);
    SAME(block_size);
    SAME(mode);
    SAME(uid);
    SAME(gid);
    SAME(atime);
    SAME(mtime);
    SAME(ctime);
    SAME(atime_ns);
    SAME(mtime_ns);
    SAME(ctime_ns);
#undef SAME
}

/* ---- regular expressions ---- */

static struct entry_filter *filter_by(const char *pattern, const char *syntax, int *error) {
    struct entry_filter *f = filter_new();
    struct filter_step step = {.kind = FILTER_REGEX, .subject = SUBJECT_PATH, .text = pattern,
                               .length = (uint32_t)strlen(pattern),
                               .number = filter_find_syntax(syntax),
                               .on_true = FILTER_ENDS_TRUE, .on_false = FILTER_ENDS_FALSE};
    int64_t at = filter_add(f, &step);
    *error = at < 0 ? (int)at : 0;
    return f;
}

static int matches(const char *pattern, const char *syntax, const char *path) {
    int error;
    struct filter_outcome outcome = {0};
    struct entry_view v = {.path = path, .path_length = (uint32_t)strlen(path), .type = DT_REG};
    struct entry_filter *f = filter_by(pattern, syntax, &error);
    CHECK_EQ(error, 0);
    int found = filter_evaluate(f, &v, &outcome) == FILTER_MATCHED;
    filter_drop(f);
    return found;
}

static void a_regular_expression_matches_all_of_the_path(void) {
    CHECK(matches("a/.*", "posix-extended", "a/b"));
    CHECK(!matches("a", "posix-extended", "a/b"));
    CHECK(!matches("b", "posix-extended", "a/b"));
    CHECK(matches("a/(b|bc)", "posix-extended", "a/bc"));
    CHECK(matches("a/(bc|b)", "posix-extended", "a/b"));
    CHECK(matches("(a|ab)(c|bcd)", "posix-extended", "abcd"));
    CHECK(!matches("a/(b|bc)", "posix-basic", "a/bc"));
    CHECK(matches("a/b\\{2\\}", "posix-basic", "a/bb"));
}

static void a_wrong_regular_expression_is_complained_of(void) {
    int error;
    struct entry_filter *f = filter_by("(", "posix-extended", &error);
    CHECK_EQ(error, -EINVAL);
    CHECK(filter_complaint(f) != NULL);
    filter_drop(f);
    f = filter_by("a", "emacs", &error);
    CHECK_EQ(error, -EINVAL);
    filter_drop(f);
}

/* ---- attempts ---- */

static void vectors_are_read_and_written_where_told(void) {
    char a[3] = "abc", b[2] = "de", c[5] = {0};
    struct iovec out[2] = {{a, 3}, {b, 2}}, in[2] = {{c, 1}, {c + 1, 4}};
    int dir = open_folder(), file = make_file(dir, "file");
    struct op o = operation(OP_WRITEV, file);
    o.addr = out;
    o.len = 2;
    CHECK_EQ(attempt(&o), 5); /* at the file's position */
    o.off = 10;
    CHECK_EQ(attempt(&o), 5);
    CHECK_EQ(lseek(file, 0, SEEK_CUR), 5);
    o = operation(OP_READV, file);
    o.addr = in;
    o.len = 2;
    o.off = 10;
    CHECK_EQ(attempt(&o), 5);
    CHECK(memcmp(c, "abcde", 5) == 0);
    CHECK_EQ(lseek(file, 0, SEEK_SET), 0);
    o.off = -1;
    CHECK_EQ(attempt(&o), 5);
    CHECK_EQ(lseek(file, 0, SEEK_CUR), 5);
    o.flags = 8; /* RWF_NOWAIT */
    CHECK_EQ(attempt(&o), -EOPNOTSUPP);
    CHECK_EQ(op_rows[OP_READV].attempt_now(&o), -EOPNOTSUPP);
    CHECK_EQ(unlinkat(dir, "file", 0), 0);
    close(file);
    close(dir);
}

static void names_are_moved_and_only_by_calls_that_there_are(void) {
    int dir = open_folder();
    close(make_file(dir, "one"));
    close(make_file(dir, "two"));
    struct op o = operation(OP_RENAMEAT, dir);
    o.fd2 = dir;
    o.addr = "one";
    o.addr2 = "two";
    o.flags = 1; /* RENAME_NOREPLACE */
    CHECK_EQ(attempt(&o), -EINVAL);
    o.flags = 0;
    CHECK_EQ(attempt(&o), 0);
    CHECK_EQ(attempt(&o), -ENOENT);
    CHECK_EQ(unlinkat(dir, "two", 0), 0);
    close(dir);
}

static void space_is_made_and_what_is_missing_says_so(void) {
    struct stat s;
    int dir = open_folder(), file = make_file(dir, "file");
    struct op o = operation(OP_FALLOCATE, file);
    o.off = 0;
    o.len = 12345;
    CHECK_EQ(attempt(&o), 0);
    CHECK_EQ(fstat(file, &s), 0);
    CHECK_EQ(s.st_size, 12345);
    o.mode = 1;
    CHECK_EQ(attempt(&o), -EOPNOTSUPP);
    o = operation(OP_COPY_RANGE, file);
    o.fd2 = file;
    CHECK_EQ(attempt(&o), -EXDEV); /* then it is read and written */
    o = operation(OP_SENDFILE, file);
    CHECK_EQ(attempt(&o), -EOPNOTSUPP);
    CHECK_EQ(op_open_cached(dir, "file", O_RDONLY, 0), -ENOSYS);
    CHECK_EQ(unlinkat(dir, "file", 0), 0);
    close(file);
    close(dir);
}

static int64_t now_on(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int64_t sleep_for(int64_t ns, uint32_t flags) {
    struct op o = operation(OP_TIMEOUT, -1);
    o.flags = flags;
    o.ts.tv_sec = ns / 1000000000;
    o.ts.tv_nsec = ns % 1000000000;
    return attempt(&o);
}

static void sleeps_end_in_time_on_either_clock(void) {
    int64_t begin = now_on(CLOCK_MONOTONIC);
    CHECK_EQ(sleep_for(20000000, 0), -ETIME);
    CHECK(now_on(CLOCK_MONOTONIC) - begin >= 20000000);
    int64_t until = now_on(CLOCK_REALTIME) + 1020000000; /* longer than one step */
    CHECK_EQ(sleep_for(until, URING_TIMEOUT_ABS | URING_TIMEOUT_REALTIME), -ETIME);
    CHECK(now_on(CLOCK_REALTIME) >= until);
    begin = now_on(CLOCK_MONOTONIC);
    CHECK_EQ(sleep_for(begin - 1000000000, URING_TIMEOUT_ABS), -ETIME); /* it is past */
    CHECK(now_on(CLOCK_MONOTONIC) - begin < 500000000);
}

static void ignore_signal(int number) { (void)number; }

static void a_signal_interrupts_a_sleep(void) {
    struct sigaction action = {.sa_handler = ignore_signal};
    sigaction(SIGALRM, &action, NULL);
    ualarm(20000, 0);
    CHECK_EQ(sleep_for(30000000000, 0), -EINTR);
}

int main(void) {
    CHECK(mkdtemp(folder) != NULL);
    RUN(an_event_can_be_read_until_it_is_cleared);
    RUN(every_entry_of_a_directory_is_told_once);
    RUN(entries_may_be_removed_as_they_are_read);
    RUN(a_directory_that_cannot_be_read_says_why);
    RUN(facts_made_of_stat_are_those_of_statx);
    RUN(a_regular_expression_matches_all_of_the_path);
    RUN(a_wrong_regular_expression_is_complained_of);
    RUN(vectors_are_read_and_written_where_told);
    RUN(names_are_moved_and_only_by_calls_that_there_are);
    RUN(space_is_made_and_what_is_missing_says_so);
    RUN(sleeps_end_in_time_on_either_clock);
    RUN(a_signal_interrupts_a_sleep);
    CHECK_EQ(rmdir(folder), 0);
    return 0;
}
