/* ring.h and the running kernel. */
#include "kernel_ring.h"

#include <sys/resource.h>
#include <sys/wait.h>

static const struct {
    const char *name;
    uint32_t flags;
} setups[] = {
    {"plain", 0},
    {"coop", URING_SETUP_COOP_TASKRUN},
    {"defer", URING_SETUP_SINGLE_ISSUER | URING_SETUP_DEFER_TASKRUN},
    {"sqe128", URING_SETUP_SQE128},
    {"no sqarray", URING_SETUP_NO_SQARRAY},
    {"cqe32", URING_SETUP_CQE32},
    {"cqe mixed", URING_SETUP_CQE_MIXED},
    {"no mmap", URING_SETUP_NO_MMAP},
    {"no mmap, all wide", URING_SETUP_NO_MMAP | URING_SETUP_SQE128 | URING_SETUP_CQE32},
};

/* A ring's test, once for each way to set one up that this kernel has. */
static void on_each_setup(void (*test)(struct ring *), uint32_t entries, uint32_t cq_entries) {
    for (size_t i = 0; i < sizeof setups / sizeof *setups; i++) {
        struct ring r;
        int err = open_ring_with(&r, setups[i].flags, entries, cq_entries);
        if (err == -EINVAL) {
            printf("  not here: %s\n", setups[i].name);
            continue;
        }
        CHECK_EQ(err, 0);
        test(&r);
        ring_close(&r);
        CHECK_EQ(r.fd, -1);
    }
}

static void go_round(struct ring *r) {
    uint64_t sent = 0, seen = 0;
    struct uring_cqe out[3];
    while (seen < 1000) {
        for (uint32_t n = 1 + random_below(4); n > 0; n--) queue(r, URING_OP_NOP, sent++);
        submit_and_wait(r, (uint32_t)(sent - seen));
        for (uint32_t n; (n = ring_copy_cqes(r, out, 3));)
            for (uint32_t i = 0; i < n; i++) {
                CHECK_EQ(out[i].user_data, seen++);
                CHECK_EQ(out[i].res, 0);
            }
        CHECK_EQ(seen, sent);
    }
}
static void a_small_ring_goes_round_many_times(void) { on_each_setup(go_round, 4, 8); }

static void fill(struct ring *r) {
    struct uring_cqe out[8];
    for (uint64_t i = 0; i < 4; i++) queue(r, URING_OP_NOP, i);
    CHECK(ring_get_sqe(r) == NULL);
    submit_and_wait(r, 4);
    CHECK_EQ(ring_sq_ready(r), 0);
    CHECK(ring_get_sqe(r) != NULL);
    CHECK_EQ(ring_copy_cqes(r, out, 8), 4);
}
static void a_full_queue_has_room_again_after_submit(void) { on_each_setup(fill, 4, 8); }

static void overflow(struct ring *r) {
    struct uring_cqe out[64];
    uint64_t sent = 0, seen = 0;
    while (sent < 40) {
        for (int i = 0; i < 4; i++) queue(r, URING_OP_NOP, sent++);
        submit_and_wait(r, 0);
    }
    while (seen < sent) {
        uint32_t n = ring_copy_cqes(r, out, 64);
        for (uint32_t i = 0; i < n; i++) CHECK_EQ(out[i].user_data, seen++);
        if (!n) submit_and_wait(r, 1);
    }
    CHECK_EQ(*r->cq_koverflow, 0);
}
static void completions_beyond_the_queue_come_later_and_in_order(void) {
    on_each_setup(overflow, 4, 8);
}

static void wait_in_vain(struct ring *r) {
    struct uring_timespec soon = {.tv_nsec = 1000000};
    CHECK_EQ(ring_enter(r, 0, 1, URING_ENTER_GETEVENTS, &soon), -ETIME);
    CHECK_EQ(ring_cq_ready(r), 0);
}
static void a_wait_ends_at_its_timeout(void) { on_each_setup(wait_in_vain, 4, 8); }

static void use_registered_fd(struct ring *r) {
    struct uring_cqe out[2];
    int err = ring_register_own_fd(r);
    if (err == -EINVAL) return; /* Linux < 5.18 */
    CHECK_EQ(err, 0);
    CHECK_EQ(r->enter_flags, URING_ENTER_REGISTERED_RING);
    /* By the index alone: the number itself is nobody's meanwhile. */
    int fd = r->fd, kept = dup(fd);
    CHECK(kept >= 0);
    close(fd);
    queue(r, URING_OP_NOP, 1);
    submit_and_wait(r, 1);
    CHECK_EQ(dup2(kept, fd), fd);
    close(kept);
    CHECK_EQ(ring_unregister_own_fd(r), 0);
    CHECK_EQ(r->enter_fd, r->fd);
    queue(r, URING_OP_NOP, 2);
    submit_and_wait(r, 1);
    CHECK_EQ(ring_copy_cqes(r, out, 2), 2);
    CHECK_EQ(out[0].user_data, 1);
    CHECK_EQ(out[1].user_data, 2);
    CHECK_EQ(ring_unregister_own_fd(r), 0); /* twice changes nothing */
}
static void enter_goes_by_the_registered_fd_until_it_is_unregistered(void) {
    on_each_setup(use_registered_fd, 4, 8);
}

static void leave_to_child(struct ring *r) {
    int pipe_fds[2], status;
    CHECK_EQ(pipe(pipe_fds), 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        /* The kernel reads for us, so that a missing mapping is an error and no signal. */
        int gone = write(pipe_fds[1], r->ring_map, 1) < 0 && errno == EFAULT
                   && write(pipe_fds[1], r->sqes_map, 1) < 0 && errno == EFAULT;
        _exit(gone ? 0 : 1);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    go_round(r);
}
static void a_forked_child_does_not_have_the_queues(void) { on_each_setup(leave_to_child, 4, 8); }

static int ring_mappings(void) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    int count = 0;
    CHECK(maps != NULL);
    while (fgets(line, sizeof line, maps)) count += strstr(line, "[io_uring]") != NULL;
    fclose(maps);
    return count;
}

/* Leave room for `more` bytes; returns the limit that was. */
static struct rlimit limit_address_space(rlim_t more) {
    struct rlimit before, now;
    unsigned long pages;
    FILE *statm = fopen("/proc/self/statm", "r");
    CHECK(statm != NULL && fscanf(statm, "%lu", &pages) == 1);
    fclose(statm);
    CHECK_EQ(getrlimit(RLIMIT_AS, &before), 0);
    now = before;
    now.rlim_cur = pages * (rlim_t)sysconf(_SC_PAGESIZE) + more;
    CHECK_EQ(setrlimit(RLIMIT_AS, &now), 0);
    return before;
}

static void a_refused_setup_leaves_a_closed_ring(void) {
    static const uint32_t flags[] = {0, URING_SETUP_NO_MMAP};
    for (size_t i = 0; i < 2; i++) {
        struct ring r;
        memset(&r, 0xff, sizeof r);
        CHECK_EQ(open_ring_with(&r, flags[i], 0, 0), -EINVAL);
        CHECK_EQ(r.fd, -1);
        CHECK(!ring_is_open(&r));
        ring_close(&r);
    }
}

static void a_failed_mapping_leaves_nothing_mapped_and_the_fd_open(void) {
    struct ring r = {.fd = -1};
    struct uring_params p = {0};
    int fd = ring_sys_setup(4, &p), before = ring_mappings();
    CHECK(fd >= 0);
    struct uring_params wrong = p;
    wrong.sq_entries = 1 << 30;            /* 64 GiB of SQEs, for which there is no room ... */
    wrong.flags |= URING_SETUP_NO_SQARRAY; /* ... and no longer array, so the queues do map */
    struct rlimit limit = limit_address_space(16 << 20);
    int err = ring_map(&r, fd, &wrong);
    CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
    CHECK_EQ(err, -ENOMEM);
    CHECK(!r.ring_map && !r.sqes_map);
    CHECK_EQ(ring_mappings(), before);
    CHECK_EQ(ring_map(&r, fd, &p), 0);
    CHECK_EQ(ring_mappings(), before + 2);
    ring_unmap(&r);
    CHECK_EQ(ring_mappings(), before);
    CHECK_EQ(close(fd), 0);
}

static void memory_for_a_ring_is_enough_for_any_size(void) {
    static const uint32_t flags[] = {0, URING_SETUP_SQE128, URING_SETUP_CQE32};
    for (size_t i = 0; i < 3; i++)
        for (uint32_t entries = 1; entries <= 4096; entries = entries * 2 + entries / 3) {
            struct ring r;
            struct uring_cqe cqe;
            int err = open_ring_with(&r, URING_SETUP_NO_MMAP | flags[i], entries,
                                     random_below(2) ? entries + random_below(5000) : 0);
            if (err == -EINVAL) return; /* Linux < 6.5 */
            CHECK_EQ(err, 0);
            /* Each SQE and each CQE is used, the last ones too. */
            for (uint32_t n = 0; n < 2 * r.cq_entries; n += r.sq_entries) {
                for (uint32_t at = 0; at < r.sq_entries; at++) queue(&r, URING_OP_NOP, n + at);
                submit_and_wait(&r, r.sq_entries);
                for (uint32_t at = 0; at < r.sq_entries; at++) {
                    CHECK_EQ(ring_copy_cqes(&r, &cqe, 1), 1);
                    CHECK_EQ(cqe.user_data, n + at);
                }
            }
            ring_close(&r);
        }
}

int main(void) {
    seed_random();
    exit_unless_rings_work();
    RUN(a_small_ring_goes_round_many_times);
    RUN(a_full_queue_has_room_again_after_submit);
    RUN(completions_beyond_the_queue_come_later_and_in_order);
    RUN(a_wait_ends_at_its_timeout);
    RUN(enter_goes_by_the_registered_fd_until_it_is_unregistered);
    RUN(a_forked_child_does_not_have_the_queues);
    RUN(a_refused_setup_leaves_a_closed_ring);
    RUN(a_failed_mapping_leaves_nothing_mapped_and_the_fd_open);
    RUN(memory_for_a_ring_is_enough_for_any_size);
    return 0;
}
