/* dir_walk.h: every entry once, whoever reads and however few descriptors there are; ended at any
 * time; and a directory that hangs.
 */
#define _GNU_SOURCE
#include "walk_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "check.h"

#define WIDE 20  /* directories in the top, each with as many, each with as many files */
#define ENTRIES (WIDE + WIDE * WIDE + WIDE * WIDE * 5)
#define DEEP 400 /* of names of 100 bytes: ten times PATH_MAX */

static char top[] = "/tmp/test_dir_walk_XXXXXX";

static void make(int at, int depth) {
    char name[32];
    for (int i = 0; i < (depth == 2 ? 5 : WIDE); i++) {
        snprintf(name, sizeof name, "%s%d", depth == 2 ? "file" : "dir", i);
        if (depth == 2) {
            close(openat(at, name, O_CREAT | O_WRONLY, 0600));
            continue;
        }
        CHECK_EQ(mkdirat(at, name, 0700), 0);
        int fd = openat(at, name, O_RDONLY | O_DIRECTORY);
        make(fd, depth + 1);
        close(fd);
    }
}

static struct walk_config settings(int order, uint32_t threads) {
    return (struct walk_config){.order = (uint8_t)order, .links = LINKS_ROOTS, .separator = '\n',
                                .min_depth = 1, .max_depth = UINT32_MAX, .batch_entries = 64,
                                .batch_bytes = 4096, .threads = threads, .max_fds = 64};
}

static struct walk *begin(const struct walk_config *config, const char *root) {
    int error;
    struct walk *k = walk_new(config, &root, 1, &error);
    CHECK(k);
    return k;
}

static int next(struct walk *k, uint32_t threads, struct walk_batch **batch) {
    int state;
    while ((state = walk_take(k, batch)) == WALK_WAIT && threads) {
        struct pollfd wake = {.fd = walk_wake_fd(k), .events = POLLIN};
        if (poll(&wake, 1, 10) > 0) walk_calm(k);
        else walk_rescue(k);
    }
    return state;
}

struct seen {
    uint64_t entries, errors, hash;
    uint32_t deepest, longest;
    uint32_t last_depth, steps_up; /* how often a depth came after a greater one */
    uint64_t most_kept;
    struct walk_progress progress; /* in the end */
};

/* A sum that does not depend on the order. */
static void see(struct seen *s, const struct walk_batch *b) {
    s->entries += b->count;
    s->errors += b->error_count;
    for (uint32_t i = 0; i < b->count; i++) {
        uint64_t hash = 14695981039346656037u;
        for (uint32_t at = b->offsets[i]; at < b->offsets[i + 1]; at++)
            hash = (hash ^ (uint8_t)b->paths[at]) * 1099511628211u;
        s->hash += hash;
        if (b->depths[i] > s->deepest) s->deepest = b->depths[i];
        s->steps_up += b->depths[i] < s->last_depth;
        s->last_depth = b->depths[i];
        uint32_t length = b->offsets[i + 1] - b->offsets[i] - 1;
        if (length > s->longest) s->longest = length;
    }
}

static int64_t slowness; /* of reading a directory, in ns */

static struct seen walk_all(const struct walk_config *config, const char *root) {
    struct seen s = {0};
    struct walk_batch *b;
    struct walk *k = begin(config, root);
    int state = WALK_WAIT;
    if (slowness) CHECK_EQ(walk_add_fault(k, STAGE_READ, NULL, 0, 0, slowness), 0);
    CHECK_EQ(walk_start(k), 0);
    while (state != WALK_ENDED) {
        state = next(k, config->threads, &b);
        CHECK(state != WALK_FAILED);
        uint64_t kept = ATOMIC_LOAD(&k->kept, RELAXED);
        if (kept > s.most_kept) s.most_kept = kept;
        if (!b) continue;
        see(&s, b);
        batch_return(b);
    }
    walk_read_progress(k, &s.progress);
    walk_stop(k, 1000000000);
    walk_release(k);
    return s;
}

static int open_descriptors(void) {
    int n = 0;
    for (int fd = 0; fd < 1024; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void every_order_gives_every_entry_once(void) {
    struct walk_config config = settings(ORDER_DEPTH, 0);
    struct seen wanted = walk_all(&config, top);
    CHECK_EQ(wanted.entries, ENTRIES);
    for (uint32_t threads = 0; threads <= 8; threads += 2)
        for (int order = ORDER_ANY; order <= ORDER_POST; order++)
            for (int sorted = 0; sorted <= (order != ORDER_ANY); sorted++) {
                config = settings(order, threads);
                config.sorted = (uint8_t)sorted;
                struct seen s = walk_all(&config, top);
                CHECK_EQ(s.entries, wanted.entries);
                CHECK_EQ(s.hash, wanted.hash);
                CHECK_EQ(s.errors, 0);
            }
}

static void remove_tree(const char *root) {
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s", root);
    CHECK_EQ(system(command), 0);
}

/* Where threads start and end is most of it: each of these directories has two without anything in
 * them, and one that goes on. */
static void narrow_trees_are_read_to_their_end(void) {
    static char narrow[] = "/tmp/test_dir_walk_XXXXXX";
    enum { LEVELS = 5 };
    CHECK(mkdtemp(narrow));
    int at = open(narrow, O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < LEVELS; i++) {
        CHECK_EQ(mkdirat(at, "one", 0700) | mkdirat(at, "two", 0700) | mkdirat(at, "on", 0700), 0);
        int fd = openat(at, "on", O_RDONLY | O_DIRECTORY);
        close(at);
        at = fd;
    }
    close(at);
    for (int round = 0; round < 1000; round++) {
        struct walk_config config = settings(round % 2 ? ORDER_ANY : ORDER_BREADTH, 2 + round % 3);
        config.batch_entries = 1 + (uint32_t)(random_bits() % 8);
        slowness = round % 4 < 2 ? 0 : (int64_t)(random_bits() % 200000);
        CHECK_EQ(walk_all(&config, narrow).entries, 3 * LEVELS);
    }
    slowness = 0;
    remove_tree(narrow);
}

/* Beyond those that there may be, breadth first reads directories again, any order reads at once. */
static void few_directories_are_remembered_and_all_is_given_in_its_order(void) {
    struct walk_config config = settings(ORDER_BREADTH, 0);
    struct seen wanted = walk_all(&config, top);
    CHECK(wanted.most_kept > WIDE * WIDE);
    for (uint32_t max = 1; max <= 1000; max = max * 3 + 1)
        for (uint32_t threads = 0; threads <= 4; threads++)
            for (int order = ORDER_ANY; order <= ORDER_BREADTH; order++)
                for (int sorted = 0; sorted <= order; sorted++) {
                    config = settings(order, threads);
                    config.sorted = (uint8_t)sorted;
                    config.max_kept = max;
                    config.max_fds = max < 10 ? 1 : 64;
                    struct seen s = walk_all(&config, top);
                    CHECK_EQ(s.entries, wanted.entries);
                    CHECK_EQ(s.hash, wanted.hash);
                    CHECK_EQ(s.errors, 0);
                    CHECK_EQ(s.progress.directories, wanted.progress.directories);
                    CHECK_EQ(s.progress.queued, 0);
                    if (order == ORDER_ANY) continue;
                    CHECK_EQ(s.steps_up, 0);
                    CHECK(s.most_kept <= max + 4 * (threads + 1)); /* and those being read */
                }
}

static void what_the_consumer_keeps_does_not_count(void) {
    struct walk_config config = settings(ORDER_BREADTH, 0);
    config.max_kept = WIDE * WIDE + WIDE + 10;
    struct walk *k = begin(&config, top);
    struct walk_batch *kept[1000], *b;
    struct walk_progress p;
    int count = 0;
    while (next(k, 0, &b) == WALK_BATCH) kept[count++] = b;
    walk_read_progress(k, &p);
    CHECK_EQ(p.components, p.directories); /* each was opened once */
    while (count) batch_return(kept[--count]);
    walk_stop(k, 0);
    walk_release(k);
}

static void a_few_descriptors_are_enough(void) {
    struct walk_config config = settings(ORDER_DEPTH, 0);
    struct seen wanted = walk_all(&config, top);
    for (uint32_t budget = 1; budget <= 4; budget++)
        for (uint32_t threads = 0; threads <= 4; threads += 2)
            for (int order = ORDER_ANY; order <= ORDER_POST; order++) {
                config = settings(order, threads);
                config.max_fds = budget;
                config.fields = 1u << FIELD_SIZE;
                struct seen s = walk_all(&config, top);
                CHECK_EQ(s.hash, wanted.hash);
                CHECK_EQ(s.errors, 0);
            }
}

static void the_process_may_have_no_more_descriptors_than_that(void) {
    struct rlimit was, low;
    getrlimit(RLIMIT_NOFILE, &was);
    for (uint32_t threads = 0; threads <= 4; threads += 2)
        for (int order = ORDER_ANY; order <= ORDER_POST; order++) {
            low = was;
            low.rlim_cur = (rlim_t)open_descriptors() + 1 + 2 * (threads > 0);
            CHECK_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
            struct walk_config config = settings(order, threads);
            struct seen s = walk_all(&config, top);
            CHECK_EQ(setrlimit(RLIMIT_NOFILE, &was), 0);
            CHECK_EQ(s.errors, 0);
            CHECK_EQ(s.entries, ENTRIES);
        }
}

static void a_walk_may_end_at_any_time(void) {
    int before = open_descriptors();
    for (int round = 0; round < 300; round++) {
        struct walk_config config =
            settings((int)(random_bits() % 4), (uint32_t)(random_bits() % 9));
        if (random_bits() % 2) config.max_kept = 1 + random_below(100);
        struct walk *k = begin(&config, top);
        struct walk_batch *kept = NULL, *b;
        if (random_bits() % 8) {
            CHECK_EQ(walk_start(k), 0);
            uint64_t turns = random_bits() % 40;
            for (uint64_t i = 0; i < turns && next(k, config.threads, &b) == WALK_BATCH; i++) {
                if (b->count && random_bits() % 2) walk_prune(k, b, random_bits() % b->count);
                if (kept) batch_return(kept);
                kept = b;
            }
        }
        walk_stop(k, 1000000000);
        walk_release(k);
        if (kept) batch_return(kept); /* it outlives its walk */
    }
    for (int tries = 0; open_descriptors() != before && tries < 1000; tries++) usleep(1000);
    CHECK_EQ(open_descriptors(), before);
}

static uint64_t milliseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* What others can read comes long before the one directory that hangs. */
static void a_directory_that_hangs_does_not_stop_the_rest(void) {
    for (int stage = STAGE_OPEN; stage <= STAGE_READ; stage++) {
        struct walk_config config = settings(ORDER_ANY, 2);
        struct walk *k = begin(&config, top);
        struct walk_batch *b;
        uint64_t begun = milliseconds(), entries = 0;
        CHECK_EQ(walk_add_fault(k, stage, "dir7", 1, 0, 3000000000), 0);
        CHECK_EQ(walk_start(k), 0);
        while (entries < ENTRIES - (WIDE + WIDE * 5) && next(k, 2, &b) == WALK_BATCH) {
            entries += b->count;
            batch_return(b);
        }
        CHECK(entries >= ENTRIES - (WIDE + WIDE * 5));
        CHECK(milliseconds() - begun < 2500);
        begun = milliseconds();
        walk_stop(k, 10000000);
        CHECK(milliseconds() - begun < 1000);
        walk_release(k);
    }
}

static void make_deep(int levels) {
    char name[101];
    int at = open(top, O_RDONLY | O_DIRECTORY);
    memset(name, 'd', 100);
    name[100] = 0;
    for (int i = 0; i < levels; i++) {
        CHECK_EQ(mkdirat(at, name, 0700), 0);
        int fd = openat(at, name, O_RDONLY | O_DIRECTORY);
        close(at);
        at = fd;
    }
    close(openat(at, "end", O_CREAT | O_WRONLY, 0600));
    close(at);
}

static void remove_deep(int levels) {
    char up[] = "..", name[101];
    memset(name, 'd', 100);
    name[100] = 0;
    int at = open(top, O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < levels; i++) {
        int fd = openat(at, name, O_RDONLY | O_DIRECTORY);
        close(at);
        at = fd;
    }
    unlinkat(at, "end", 0);
    for (int i = 0; i < levels; i++) {
        int fd = openat(at, up, O_RDONLY | O_DIRECTORY);
        close(at);
        at = fd;
        CHECK_EQ(unlinkat(at, name, AT_REMOVEDIR), 0);
    }
    close(at);
}

static void paths_may_be_longer_than_the_kernel_takes(void) {
    make_deep(DEEP);
    for (uint32_t budget = 1; budget <= 64; budget *= 8)
        for (uint32_t threads = 0; threads <= 2; threads += 2)
            for (int order = ORDER_ANY; order <= ORDER_POST; order++) {
                struct walk_config config = settings(order, threads);
                config.max_fds = budget;
                config.fields = 1u << FIELD_MTIME;
                struct seen s = walk_all(&config, top);
                CHECK_EQ(s.errors, 0);
                CHECK_EQ(s.entries, ENTRIES + DEEP + 1);
                CHECK_EQ(s.deepest, DEEP + 1);
                CHECK_EQ(s.longest, strlen(top) + DEEP * 101 + 4);
            }
    remove_deep(DEEP);
}

/* Not by their paths, from the top: that would be a thousand names for each. */
static void chains_are_opened_link_by_link(void) {
    static char chains[] = "/tmp/test_dir_walk_XXXXXX";
    enum { LINKS = 1500 };
    CHECK(mkdtemp(chains));
    for (int chain = 0; chain < 3; chain++) {
        int at = open(chains, O_RDONLY | O_DIRECTORY);
        for (int i = 0; i < LINKS; i++) {
            const char *name = i ? "link" : (const char *[]){"a", "b", "c"}[chain];
            CHECK_EQ(mkdirat(at, name, 0700), 0);
            int fd = openat(at, name, O_RDONLY | O_DIRECTORY);
            close(at);
            at = fd;
        }
        close(at);
        for (uint32_t threads = 0; threads <= 4; threads++)
            for (int order = ORDER_ANY; order <= ORDER_POST; order++) {
                struct walk_config config = settings(order, threads);
                if (order == ORDER_POST) config.fields = 1u << FIELD_SIZE; /* from where it lies */
                struct seen s = walk_all(&config, chains);
                CHECK_EQ(s.entries, LINKS * (chain + 1));
                CHECK_EQ(s.progress.directories, s.entries + 1);
                CHECK(s.progress.components < 20 * s.progress.directories);
            }
    }
    remove_tree(chains);
}

static void errors_come_among_the_entries(void) {
    for (int stage = STAGE_OPEN; stage <= STAGE_STAT; stage++) {
        struct walk_config config = settings(ORDER_ANY, 0);
        config.fields = 1u << FIELD_SIZE;
        struct walk *k = begin(&config, top);
        struct walk_batch *b;
        uint32_t errors = 0, entries = 0;
        CHECK_EQ(walk_add_fault(k, stage, "dir3", 1, EIO, 0), 0);
        while (next(k, 0, &b) == WALK_BATCH) {
            for (uint32_t i = 0; i < b->error_count; i++, errors++) {
                CHECK_EQ(b->errors[i].error, EIO);
                CHECK_EQ(b->errors[i].stage, stage);
                CHECK(memcmp(b->error_text + b->errors[i].path_offset +
                             b->errors[i].path_length - 4, "dir3", 4) == 0);
            }
            entries += b->count;
            batch_return(b);
        }
        CHECK_EQ(errors, 1);
        CHECK(stage == STAGE_STAT ? entries == ENTRIES : entries < ENTRIES);
        walk_stop(k, 0);
        walk_release(k);
    }
}

int main(void) {
    seed_random();
    alarm(300); /* a walk that does not end is ended by this */
    CHECK(mkdtemp(top));
    int fd = open(top, O_RDONLY | O_DIRECTORY);
    make(fd, 0);
    close(fd);
    RUN(every_order_gives_every_entry_once);
    RUN(narrow_trees_are_read_to_their_end);
    RUN(few_directories_are_remembered_and_all_is_given_in_its_order);
    RUN(what_the_consumer_keeps_does_not_count);
    RUN(a_few_descriptors_are_enough);
    RUN(the_process_may_have_no_more_descriptors_than_that);
    RUN(a_walk_may_end_at_any_time);
    RUN(a_directory_that_hangs_does_not_stop_the_rest);
    RUN(paths_may_be_longer_than_the_kernel_takes);
    RUN(chains_are_opened_link_by_link);
    RUN(errors_come_among_the_entries);
    remove_tree(top);
    return 0;
}
