/* ring_batch.h: a completion finds its own operation or none, and strangers' stay in their order. */
#include "ring_batch.h"

#include "fake_kernel.h"

#define QUEUES 2
#define CAPACITY 6
#define STRANGER (1ULL << 32) /* user_data that is no batch's */

static struct batch queues[QUEUES];
static struct batch_table table;

static void open_batches(uint64_t generation) {
    for (uint32_t i = 0; i < QUEUES; i++) {
        CHECK_EQ(batch_allocate(&queues[i], i, CAPACITY, generation), 0);
        CHECK_EQ(batch_add(&table, &queues[i], i), 0);
    }
}

static void close_batches(void) {
    for (uint32_t i = 0; i < QUEUES; i++) batch_remove(&table, &queues[i], i);
    CHECK_EQ(table.in_flight, 0);
    CHECK_EQ(table.stored, 0);
    batch_free_table(&table);
}

/* What the kernel consumed and has yet to complete, in no order. */
struct pending {
    uint64_t keys[2 * QUEUES * CAPACITY];
    uint32_t count;
};

static void consume(struct ring *r, struct kernel *k, struct pending *p) {
    for (ring_flush(r); k->sq_head != k->sq_tail; k->sq_head++)
        p->keys[p->count++] = ring_sqe_at(r, k->sq_head)->user_data;
}

/* The result of an operation is its tag, so that the two can be told to belong together. */
static int32_t result_of(uint64_t key) {
    struct batch *b = batch_find(&table, key);
    CHECK(b != NULL);
    return (int32_t)batch_slot_of(b, key)->tag;
}

static void complete_some(struct ring *r, struct kernel *k, struct pending *p) {
    while (p->count && random_below(3)) {
        uint32_t i = random_below(p->count);
        if (!post(r, k, p->keys[i], result_of(p->keys[i]), 0)) return;
        p->keys[i] = p->keys[--p->count];
    }
}

static void take(struct ring *r, struct batch *b, uint64_t *seen) {
    struct batch_results out = {.room = random_below(CAPACITY + 1)};
    out.results = malloc(out.room * sizeof *out.results); /* exact */
    out.tags = malloc(out.room * sizeof *out.tags);
    CHECK(out.results && out.tags);
    batch_unstore(&table, b, &out);
    batch_gather(r, &table, b, &out);
    for (uint32_t i = 0; i < out.taken; i++) {
        CHECK_EQ(out.results[i], out.tags[i]);
        CHECK_EQ(out.tags[i] % QUEUES, b - queues); /* of this queue */
        CHECK(*seen & 1ULL << out.tags[i]);         /* in flight, and once */
        *seen &= ~(1ULL << out.tags[i]);
    }
    free(out.results);
    free(out.tags);
}

static void check_counts(void) {
    uint32_t in_flight = 0, stored = 0;
    for (uint32_t i = 0; i < QUEUES; i++) {
        CHECK_EQ(queues[i].free_count + queues[i].in_flight + queues[i].stored, CAPACITY);
        in_flight += queues[i].in_flight;
        stored += queues[i].stored;
    }
    CHECK_EQ(table.in_flight, in_flight);
    CHECK_EQ(table.stored, stored);
}

static void any_mixture_completes_each_once_and_keeps_the_strangers_order(void) {
    for (size_t start = 0; start < STARTS; start++) {
        struct ring r;
        struct kernel k;
        struct pending pending = {.count = 0};
        uint64_t in_flight = 0, stranger = 0, next_stranger = 0;
        open_queues(&r, &k, 0, 8, 32, starts[start]);
        open_batches(0x7fffff0); /* the generation wraps on the way */
        for (int step = 0; step < 20000; step++) {
            struct batch *b = &queues[random_below(QUEUES)];
            uint64_t tags[CAPACITY];
            uint32_t wanted = 0;
            for (uint64_t tag = (uint64_t)(b - queues); tag < 64 && wanted < CAPACITY; tag += QUEUES)
                if (!(in_flight & 1ULL << tag)) tags[wanted++] = tag;
            wanted = random_below(wanted + 1);
            uint32_t begun = batch_prep_nop(&r, &table, b, wanted, tags);
            CHECK(begun <= wanted);
            for (uint32_t i = 0; i < begun; i++) in_flight |= 1ULL << tags[i];
            if (random_below(2)) consume(&r, &k, &pending);
            if (random_below(2)) stranger += post(&r, &k, STRANGER + stranger, 0, 0);
            complete_some(&r, &k, &pending);
            if (random_below(2)) take(&r, &queues[random_below(QUEUES)], &in_flight);
            /* A stranger's turn comes when no batch completion is in front of it. */
            struct uring_cqe cqe;
            uint32_t ready = ring_cq_ready(&r);
            if (ready && r.cqes[k.cq_head & r.cq_mask].user_data >> 61 != 3) {
                CHECK_EQ(ring_copy_cqes(&r, &cqe, 1), 1);
                CHECK_EQ(cqe.user_data, STRANGER + next_stranger++);
            }
            check_counts();
        }
        while (in_flight) {
            consume(&r, &k, &pending);
            complete_some(&r, &k, &pending);
            for (int i = 0; i < QUEUES; i++) take(&r, &queues[i], &in_flight);
            struct uring_cqe cqe;
            while (ring_cq_ready(&r) && r.cqes[k.cq_head & r.cq_mask].user_data >> 61 != 3) {
                ring_copy_cqes(&r, &cqe, 1);
                CHECK_EQ(cqe.user_data, STRANGER + next_stranger++);
            }
        }
        close_batches();
        close_queues(&r);
    }
}

static void late_double_and_forged_completions_find_nobody(void) {
    struct ring r;
    struct kernel k;
    open_queues(&r, &k, 0, 8, 8, 0);
    uint64_t last_use = BATCH_GONE;
    open_batches(0x7fffffe);
    for (int use = 0; use < 5; use++) { /* over the generation's end */
        uint64_t tag = 7;
        CHECK_EQ(batch_prep_nop(&r, &table, &queues[0], 1, &tag), 1);
        ring_flush(&r);
        uint64_t key = ring_sqe_at(&r, k.sq_head++)->user_data;
        CHECK(batch_find(&table, key) == &queues[0]);
        CHECK(batch_find(&table, last_use) == NULL);
        last_use = key;
        CHECK(batch_find(&table, key + 1) == NULL);                        /* another slot */
        CHECK(batch_find(&table, key + (1u << BATCH_SLOT_BITS)) == NULL);  /* another queue */
        CHECK(batch_find(&table, key ^ BATCH_GENERATION) == NULL);         /* another use */
        CHECK(batch_find(&table, key | (BATCH_MAX_CAPACITY - 1)) == NULL); /* no slot */
        CHECK(batch_find(&table, key | (uint64_t)BATCH_MAX_QUEUES << BATCH_SLOT_BITS) == NULL);
        CHECK(batch_find(&table, key | BATCH_AT_REST) == NULL);
        CHECK(batch_settle(&table, key, 1));
        CHECK(!batch_settle(&table, key, 2));
        int32_t result = 0;
        struct batch_results out = {.results = &result, .room = 1};
        batch_unstore(&table, &queues[0], &out);
        CHECK_EQ(out.taken, 1);
        CHECK_EQ(result, 1);
    }
    CHECK(batch_find(&table, BATCH_GONE) == NULL);
    close_batches();
    close_queues(&r);
}

static void a_wrong_value_is_named_and_begins_nothing(void) {
    static const struct {
        int32_t fd;
        int64_t start;
        uint32_t length;
        int64_t offset;
        uint8_t flags;
        int64_t expected;
    } cases[] = {
        {0, 0, 100, -1, 0, 1},
        {0, 100, 0, INT64_MAX, 0, 1},
        {-1, 0, 1, 0, 0, -BATCH_FDS},
        {INT32_MIN, 0, 1, 0, 0, -BATCH_FDS},
        {0, 0, 101, 0, 0, -BATCH_STARTS},
        {0, 1, 100, 0, 0, -BATCH_STARTS},
        {0, -1, 1, 0, 0, -BATCH_STARTS},
        {0, INT64_MAX, 1, 0, 0, -BATCH_STARTS},
        {0, INT64_MIN, 1, 0, 0, -BATCH_STARTS},
        {0, 0, UINT32_MAX, 0, 0, -BATCH_LENGTHS},
        {0, 0, BATCH_MAX_LENGTH, 0, 0, -BATCH_STARTS},
        {0, 0, 1, -2, 0, -BATCH_OFFSETS},
        {0, 0, 1, INT64_MIN, 0, -BATCH_OFFSETS},
        {0, 0, 1, 0, 0xff, -BATCH_FLAGS},
    };
    char memory[100];
    struct ring r;
    struct kernel k;
    open_batches(1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        open_queues(&r, &k, 0, 8, 8, 0);
        struct batch_plan plan = {.opcode = URING_OP_READ, .memory = memory, .size = sizeof memory,
                                  .fds.at = (const char *)&cases[i].fd,
                                  .starts.at = (const char *)&cases[i].start,
                                  .lengths.at = (const char *)&cases[i].length,
                                  .offsets.at = (const char *)&cases[i].offset,
                                  .flags.at = (const char *)&cases[i].flags};
        CHECK_EQ(batch_prep(&r, &table, &queues[0], &plan, 1), cases[i].expected);
        CHECK_EQ(r.sqe_tail, cases[i].expected == 1);
        CHECK_EQ(queues[0].in_flight, cases[i].expected == 1);
        if (r.sqe_tail) CHECK(batch_forget(&table, ring_sqe_at(&r, 0)->user_data));
        CHECK_EQ(queues[0].free_count, CAPACITY);
        close_queues(&r);
    }
    close_batches();
}

static void what_the_kernel_has_not_seen_is_withdrawn(void) {
    static const uint32_t layouts[] = {0, URING_SETUP_SQE128};
    for (size_t layout = 0; layout < 2; layout++)
        for (size_t i = 0; i < STARTS; i++) {
            struct ring r;
            struct kernel k;
            open_queues(&r, &k, layouts[layout], 8, 8, starts[i]);
            open_batches(1);
            CHECK_EQ(batch_prep_nop(&r, &table, &queues[0], 3, NULL), 3);
            CHECK_EQ(batch_prep_nop(&r, &table, &queues[1], 3, NULL), 3);
            ring_sqe_at(&r, r.sqe_head + 1)->flags = URING_SQE_IO_LINK | URING_SQE_ASYNC;
            uint64_t first = ring_sqe_at(&r, r.sqe_head)->user_data;
            ring_flush(&r);
            k.sq_head++; /* the first is seen */
            CHECK_EQ(batch_withdraw(&r, &table, &queues[0], 55, 66), 2);
            CHECK_EQ(queues[0].in_flight, 1);
            CHECK_EQ(queues[1].in_flight, 3);
            CHECK(batch_find(&table, first) == &queues[0]);
            struct uring_sqe *linked = ring_sqe_at(&r, k.sq_head);
            CHECK_EQ(linked->opcode, URING_OP_ASYNC_CANCEL);
            CHECK_EQ(linked->flags, URING_SQE_IO_LINK); /* what is behind it must not run */
            CHECK_EQ(linked->user_data, 55);
            CHECK_EQ(linked->addr, 66);
            CHECK(batch_settle(&table, first, 0));
            for (uint32_t at = 3; at < 6; at++)
                CHECK(batch_forget(&table, ring_sqe_at(&r, starts[i] + at)->user_data));
            close_batches();
            close_queues(&r);
        }
}

int main(void) {
    seed_random();
    RUN(any_mixture_completes_each_once_and_keeps_the_strangers_order);
    RUN(late_double_and_forged_completions_find_nobody);
    RUN(a_wrong_value_is_named_and_begins_nothing);
    RUN(what_the_kernel_has_not_seen_is_withdrawn);
    return 0;
}
