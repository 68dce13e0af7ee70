/* ring.h against a kernel of our own. */
#include "fake_kernel.h"

static void check_zeroed(const struct uring_sqe *sqe, size_t size) {
    for (size_t i = 0; i < size; i++) CHECK_EQ(((const unsigned char *)sqe)[i], 0);
}

static void the_submission_queue_is_full_at_its_entries(void) {
    static const uint32_t flags[] = {0, URING_SETUP_SQE128};
    for (size_t f = 0; f < 2; f++)
        for (size_t i = 0; i < STARTS; i++)
            for (uint32_t entries = 1; entries <= 16; entries *= 2) {
                struct ring r;
                struct kernel k;
                size_t size = flags[f] ? 128 : 64;
                open_queues(&r, &k, flags[f], entries, entries, starts[i]);
                for (uint32_t n = 0; n < entries; n++) {
                    struct uring_sqe *sqe = ring_get_sqe(&r);
                    CHECK(sqe != NULL);
                    check_zeroed(sqe, size);
                    CHECK_EQ((char *)sqe - (char *)r.sqes,
                             ((starts[i] + n) & (entries - 1)) * size);
                    memset(sqe, 0xff, size);
                }
                CHECK(ring_get_sqe(&r) == NULL);
                CHECK_EQ(ring_flush(&r), entries);
                CHECK(ring_get_sqe(&r) == NULL); /* shown, but not consumed */
                k.sq_head++;
                CHECK(ring_get_sqe(&r) != NULL);
                CHECK(ring_get_sqe(&r) == NULL);
                close_queues(&r);
            }
}

static void nothing_is_shown_before_the_flush(void) {
    for (size_t i = 0; i < STARTS; i++) {
        struct ring r;
        struct kernel k;
        open_queues(&r, &k, 0, 8, 8, starts[i]);
        CHECK_EQ(ring_flush(&r), 0);
        for (int n = 0; n < 3; n++) ring_get_sqe(&r);
        CHECK_EQ(k.sq_tail, starts[i]);
        CHECK_EQ(ring_sq_ready(&r), 3);
        CHECK_EQ(ring_flush(&r), 3);
        CHECK_EQ(k.sq_tail, starts[i] + 3);
        k.sq_head += 2;
        CHECK_EQ(ring_flush(&r), 1);
        close_queues(&r);
    }
}

static void submissions_keep_their_order_round_and_round(void) {
    for (size_t i = 0; i < STARTS; i++) {
        struct ring r;
        struct kernel k;
        uint64_t sent = 0, seen = 0;
        open_queues(&r, &k, 0, 8, 8, starts[i]);
        for (int step = 0; step < 5000; step++) {
            for (uint32_t n = random_below(9); n > 0; n--) {
                struct uring_sqe *sqe = ring_get_sqe(&r);
                CHECK(!sqe == (sent - seen == 8));
                if (sqe) sqe->user_data = sent++;
            }
            ring_flush(&r);
            for (uint32_t n = random_below(9); n > 0 && k.sq_head != k.sq_tail; n--)
                CHECK_EQ(r.sqes[k.sq_head++ & r.sq_mask].user_data, seen++);
            CHECK_EQ(ring_sq_ready(&r), sent - seen);
        }
        close_queues(&r);
    }
}

static void completions_are_copied_in_order_across_the_wrap(void) {
    for (size_t i = 0; i < STARTS; i++) {
        struct ring r;
        struct kernel k;
        uint64_t posted = 0, taken = 0;
        open_queues(&r, &k, 0, 4, 8, starts[i]);
        for (int step = 0; step < 5000; step++) {
            for (uint32_t n = random_below(9); n > 0; n--) posted += post(&r, &k, posted, 0, 0);
            CHECK_EQ(ring_cq_ready(&r), posted - taken);
            uint32_t max = random_below(12), there = (uint32_t)(posted - taken);
            struct uring_cqe *out = malloc(max * sizeof *out); /* exact: one more is an overflow */
            CHECK(out != NULL);
            uint32_t n = ring_copy_cqes(&r, out, max);
            CHECK_EQ(n, there < max ? there : max);
            for (uint32_t at = 0; at < n; at++) CHECK_EQ(out[at].user_data, taken++);
            free(out);
        }
        close_queues(&r);
    }
}

static void completions_of_both_sizes_are_copied_whole_and_in_order(void) {
    static const uint32_t layouts[] = {URING_SETUP_CQE32, URING_SETUP_CQE_MIXED};
    for (size_t layout = 0; layout < 2; layout++)
        for (size_t i = 0; i < STARTS; i++) {
            struct ring r;
            struct kernel k;
            uint64_t posted = 0, taken = 0;
            open_queues(&r, &k, layouts[layout], 4, 8, starts[i]);
            for (int step = 0; step < 5000; step++) {
                /* Which are big follows from their number: those that leave 0 or 1 divided by 3. */
                for (uint32_t n = random_below(9); n > 0; n--) {
                    int big = layouts[layout] == URING_SETUP_CQE32 || posted % 3 < 2;
                    posted += post(&r, &k, posted, (int32_t)posted, big ? posted + 1 : 0);
                }
                uint32_t max = random_below(6), there = (uint32_t)(posted - taken);
                struct uring_cqe *out = malloc(max * sizeof *out);
                uint64_t(*big)[2] = malloc(max * sizeof *big);
                CHECK(out && big);
                memset(big, 0, max * sizeof *big);
                ring_drop_fillers(&r);
                CHECK(!there == !ring_cq_ready(&r));
                uint32_t n = random_below(2) ? ring_copy_wide_cqes(&r, out, big, max)
                                             : (free(big), big = NULL, ring_copy_cqes(&r, out, max));
                CHECK_EQ(n, there < max ? there : max);
                for (uint32_t at = 0; at < n; at++, taken++) {
                    int is_big = layouts[layout] == URING_SETUP_CQE32 || taken % 3 < 2;
                    CHECK_EQ(out[at].user_data, taken);
                    CHECK_EQ(out[at].res, (int32_t)taken);
                    if (big) CHECK_EQ(big[at][0], is_big ? taken + 1 : 0);
                    if (big) CHECK_EQ(big[at][1], is_big ? 3 * (taken + 1) : 0);
                }
                free(out);
                free(big);
            }
            close_queues(&r);
        }
}

static void the_kernels_flags_are_read(void) {
    struct ring r;
    struct kernel k;
    open_queues(&r, &k, 0, 1, 1, 0);
    k.sq_flags = 5;
    CHECK_EQ(ring_sq_flags(&r), 5);
    close_queues(&r);
}

int main(void) {
    seed_random();
    RUN(the_submission_queue_is_full_at_its_entries);
    RUN(nothing_is_shown_before_the_flush);
    RUN(submissions_keep_their_order_round_and_round);
    RUN(completions_are_copied_in_order_across_the_wrap);
    RUN(completions_of_both_sizes_are_copied_whole_and_in_order);
    RUN(the_kernels_flags_are_read);
    return 0;
}
