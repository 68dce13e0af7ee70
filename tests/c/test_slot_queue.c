/* slot_queue.h: each state of a slot and each turn of it, a queue used by one thread, and by eight;
 * in every order of its steps it is explored in explore_slot_queue.c.
 */
#include "slot_queue.h"

#include <pthread.h>
#include <sched.h>

#include "check.h"

#define THREADS 8
#define ITEMS 20000

/* ---- the slot's word ---- */

static char first_entry[4] __attribute__((aligned(4))), second_entry[4] __attribute__((aligned(4)));

static uintptr_t skips(uintptr_t n) { return n ? n * SLOT_ONE_SKIP | SLOT_SKIPS : SLOT_EMPTY; }

static uintptr_t full(void *entry) { return (uintptr_t)entry; }

/* Against the table at the head of slot_queue.h, whether somebody waits there or not. */
static void every_state_of_a_slot_becomes_what_the_table_says(void) {
    const uintptr_t most = UINTPTR_MAX / SLOT_ONE_SKIP - 1;
    const uintptr_t counts[] = {0, 1, 2, 3, 4, 5, 1000, most / 2, most - 1};
    for (uintptr_t awaited = 0; awaited <= SLOT_AWAITED; awaited++) {
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            uintptr_t n = counts[i], word = skips(n) | awaited;
            CHECK(slot_entry(word) == NULL);
            CHECK(!(word & SLOT_SKIPS) == (n == 0));
            CHECK(slot_after_pop(word) == skips(n + 1));
            CHECK(slot_after_push(word, first_entry) == (n ? skips(n - 1) : full(first_entry)));
        }
        void *entries[] = {first_entry, (void *)(UINTPTR_MAX & ~(uintptr_t)3), (void *)4};
        for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
            CHECK(slot_entry(full(entries[i]) | awaited) == entries[i]);
            CHECK(slot_after_pop(full(entries[i]) | awaited) == SLOT_EMPTY);
            CHECK(!(full(entries[i]) & SLOT_SKIPS));
        }
    }
}

/* ---- one thread ---- */

static struct slot_queue q;

static void start(size_t size) { CHECK_EQ(slot_queue_init(&q, size), 0); }

static void a_size_is_rounded_up_to_a_power_of_two(void) {
    const size_t sizes[][2] = {{0, 1}, {1, 1}, {2, 2}, {3, 4}, {4, 4}, {63, 64}, {65, 128},
                               {4096, 4096}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        start(sizes[i][0]);
        CHECK_EQ(q.mask + 1, sizes[i][1]);
        for (size_t k = 0; k < sizes[i][1]; k++) slot_queue_push(&q, first_entry);
        for (size_t k = 0; k < sizes[i][1]; k++) CHECK(slot_queue_pop(&q, true) == first_entry);
        slot_queue_destroy(&q);
    }
}

static void a_size_beyond_memory_is_refused(void) {
    CHECK_EQ(slot_queue_init(&q, SIZE_MAX), ENOMEM);
    CHECK_EQ(slot_queue_init(&q, SIZE_MAX / 2 + 1), ENOMEM);
    CHECK_EQ(slot_queue_init(&q, SIZE_MAX / 8), ENOMEM);
}

static void entries_come_out_in_the_order_in_which_they_went_in(void) {
    start(4);
    for (int round = 0; round < 10; round++) {
        slot_queue_push(&q, first_entry);
        slot_queue_push(&q, second_entry);
        CHECK(slot_queue_pop(&q, false) == first_entry);
        CHECK(slot_queue_pop(&q, true) == second_entry);
    }
    slot_queue_destroy(&q);
}

static void a_poll_of_an_empty_queue_finds_nothing_and_loses_nothing(void) {
    for (size_t size = 1; size <= 4; size *= 2)
        for (int polls = 0; polls < 12; polls++) {
            start(size);
            for (int i = 0; i < polls; i++) CHECK(slot_queue_pop(&q, false) == NULL);
            slot_queue_push(&q, first_entry);
            CHECK_EQ(q.head, polls + 1); /* it skipped them all */
            CHECK(slot_queue_pop(&q, true) == first_entry);
            slot_queue_destroy(&q);
        }
}

static void a_batch_has_holes_where_nothing_was(void) {
    void *batch[SLOT_BATCH], *entries[] = {first_entry, second_entry};
    start(4);
    slot_queue_push_batch(&q, entries, 2);
    slot_queue_pop_batch(&q, batch, true);
    CHECK(batch[0] == first_entry && batch[1] == second_entry);
    for (size_t i = 2; i < SLOT_BATCH; i++) CHECK(batch[i] == NULL);
    slot_queue_pop_batch(&q, batch, false);
    for (size_t i = 0; i < SLOT_BATCH; i++) CHECK(batch[i] == NULL);
    slot_queue_push_batch(&q, entries, 2); /* takes more indexes until both are in */
    CHECK_EQ(q.head, 2 * SLOT_BATCH + 2);
    slot_queue_pop_batch(&q, batch, true);
    CHECK(batch[0] == first_entry && batch[1] == second_entry);
    slot_queue_destroy(&q);
}

static void a_batch_of_none_changes_nothing(void) {
    start(2);
    slot_queue_push_batch(&q, NULL, 0);
    CHECK_EQ(q.head, 0);
    slot_queue_destroy(&q);
}

static void a_try_takes_what_there_is_room_for_and_leaves_the_spare_slots(void) {
    void *entries[] = {first_entry, second_entry, first_entry, second_entry};
    start(4);
    CHECK_EQ(slot_queue_try_push_batch(&q, entries, 4, 1), 0);
    CHECK_EQ(q.head, 0);
    CHECK_EQ(slot_queue_try_push_batch(&q, entries, 2, 1), 2);
    CHECK_EQ(slot_queue_try_push_batch(&q, entries, 1, 1), 1);
    CHECK_EQ(slot_queue_try_push_batch(&q, entries, 1, 1), 0);
    CHECK_EQ(slot_queue_try_push_batch(&q, entries, 1, 0), 1);
    CHECK_EQ(slot_queue_try_push_batch(&q, entries, 1, 0), 0);
    for (int i = 0; i < 4; i++) CHECK(slot_queue_pop(&q, false));
    for (int i = 0; i < 9; i++) CHECK(!slot_queue_pop(&q, false)); /* readers are ahead */
    CHECK_EQ(slot_queue_try_push_batch(&q, entries, 2, 1), 2);
    CHECK(slot_queue_pop(&q, true) == first_entry);
    CHECK(slot_queue_pop(&q, true) == second_entry);
    slot_queue_destroy(&q);
}

/* Readers wait where their batches begin. */
static void who_waits_for_neighbouring_slots_or_batches_shares_no_monitor(void) {
    start(4096);
    for (size_t i = 0; i < 4096 - 8 * SLOT_BATCH; i++)
        for (size_t k = 1; k < 8; k++) {
            CHECK(slot_queue_monitor(&q, i) != slot_queue_monitor(&q, i + k));
            CHECK(slot_queue_monitor(&q, i) != slot_queue_monitor(&q, i + k * SLOT_BATCH));
        }
    slot_queue_destroy(&q);
}

static void patience_follows_what_spinning_brings(void) {
    uintptr_t word = SLOT_EMPTY;
    start(2);
    q.patience = SLOT_QUEUE_PATIENCE;
    CHECK(!slot_queue_spin(&q, 0, &word));
    CHECK_EQ(q.patience, SLOT_QUEUE_PATIENCE * 3 / 4);
    for (int i = 0; i < 100; i++) CHECK(!slot_queue_spin(&q, 0, &word));
    CHECK_EQ(q.patience, SLOT_QUEUE_IMPATIENCE);
    slot_queue_push(&q, first_entry);
    CHECK(slot_queue_spin(&q, 0, &word));
    CHECK(slot_entry(word) == first_entry);
    CHECK_EQ(q.patience, SLOT_QUEUE_IMPATIENCE);
    q.patience = 1;
    word = SLOT_EMPTY;
    CHECK(slot_queue_spin(&q, 0, &word));
    CHECK_EQ(q.patience, 2);
    q.patience = 0; /* on two processors */
    word = SLOT_EMPTY;
    CHECK(!slot_queue_spin(&q, 0, &word));
    CHECK_EQ(q.patience, 0);
    slot_queue_destroy(&q);
}

/* ---- eight threads ---- */

struct item {
    uint32_t taken; /* plain: a race is reported */
    uint32_t number;
};

static struct item items[THREADS][ITEMS], stop;
static uint32_t left;

static void take(struct item *item) {
    CHECK_EQ(item->number, (uint32_t)(item - &items[0][0]) + 1);
    item->taken++;
    item->number = 0;
    if (__atomic_sub_fetch(&left, 1, __ATOMIC_ACQ_REL) == 0) slot_queue_push(&q, &stop);
}

/* Whether it goes on.  One stop ends all, as each passes it on. */
static bool take_or_stop(struct item *item) {
    if (item == &stop) slot_queue_push(&q, &stop);
    else if (item) take(item);
    return item != &stop;
}

static void *read_one_by_one(void *arg) {
    while (take_or_stop(slot_queue_pop(&q, true))) {}
    return arg;
}

static void *read_in_batches(void *arg) {
    struct item *batch[SLOT_BATCH];
    bool goes_on = true;
    while (goes_on) {
        slot_queue_pop_batch(&q, (void **)batch, true);
        for (size_t i = 0; i < SLOT_BATCH; i++) goes_on &= take_or_stop(batch[i]);
    }
    return arg;
}

static void *read_without_waiting(void *arg) {
    struct item *item;
    do {
        item = slot_queue_pop(&q, false);
        if (!item) sched_yield();
    } while (take_or_stop(item));
    return arg;
}

/* Waits now and then, so that readers fall asleep. */
static void *write_in_batches(void *arg) {
    struct item *mine = arg, *batch[SLOT_BATCH];
    for (uint32_t i = 0, n; i < ITEMS; i += n) {
        n = 1 + (i * 7 + 3) % SLOT_BATCH;
        if (n > ITEMS - i) n = ITEMS - i;
        for (uint32_t k = 0; k < n; k++) {
            batch[k] = &mine[i + k];
            batch[k]->number = (uint32_t)(batch[k] - &items[0][0]) + 1;
        }
        if (n == 1) slot_queue_push(&q, batch[0]);
        else slot_queue_push_batch(&q, (void **)batch, n);
        if (i % 512 == 0) sched_yield();
        if (i % 4096 == 0) sleep_ms(1);
    }
    return NULL;
}

static void run_eight_threads(size_t size, uint32_t patience) {
    void *(*readers[])(void *) = {read_one_by_one, read_in_batches, read_without_waiting,
                                  read_in_batches};
    pthread_t threads[THREADS];
    memset(items, 0, sizeof items);
    left = THREADS / 2 * ITEMS;
    start(size);
    q.patience = patience;
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, i % 2 ? readers[i / 2] : write_in_batches,
                                items[i]), 0);
    for (int i = 0; i < THREADS; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < THREADS; i++)
        for (int k = 0; k < ITEMS; k++) CHECK_EQ(items[i][k].taken, i % 2 == 0);
    slot_queue_destroy(&q);
}

/* A lost wake-up would be a hang. */
static void four_readers_take_each_item_of_four_writers_once(void) {
    run_eight_threads(2, 0);
    run_eight_threads(16, SLOT_QUEUE_PATIENCE);
    run_eight_threads(1024, 0);
}

int main(void) {
    RUN(every_state_of_a_slot_becomes_what_the_table_says);
    RUN(a_size_is_rounded_up_to_a_power_of_two);
    RUN(a_size_beyond_memory_is_refused);
    RUN(entries_come_out_in_the_order_in_which_they_went_in);
    RUN(a_poll_of_an_empty_queue_finds_nothing_and_loses_nothing);
    RUN(a_batch_has_holes_where_nothing_was);
    RUN(a_batch_of_none_changes_nothing);
    RUN(a_try_takes_what_there_is_room_for_and_leaves_the_spare_slots);
    RUN(who_waits_for_neighbouring_slots_or_batches_shares_no_monitor);
    RUN(patience_follows_what_spinning_brings);
    RUN(four_readers_take_each_item_of_four_writers_once);
    return 0;
}
