/* steal_queue.h by one thread, and by eight at once; in every order of its steps it is explored in
 * explore_steal_queue.c.
 */
#include "steal_queue.h"

#include <pthread.h>

#include "check.h"

#define CAPACITY STEAL_QUEUE_CAPACITY
#define THREADS 8
#define ITEMS 50000 /* by each thread */

static struct steal_queue queue, other;
static uint32_t numbers[2 * CAPACITY];

static void open_queues(uint32_t first_index) {
    steal_queue_init(&queue);
    steal_queue_init(&other);
    queue.head = steal_queue_head(first_index, first_index);
    queue.tail = first_index;
    for (uint32_t i = 0; i < 2 * CAPACITY; i++) numbers[i] = i;
}

static void push_numbers(uint32_t from, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) CHECK_EQ(steal_queue_push(&queue, &numbers[from + i]), 0);
}

static void pops_come_in_the_order_of_the_pushes(void) {
    static const uint32_t starts[] = {0, UINT32_MAX - 7};
    for (size_t s = 0; s < 2; s++) {
        open_queues(starts[s]);
        CHECK(steal_queue_pop(&queue) == NULL);
        for (uint32_t round = 0; round < 10; round++) {
            push_numbers(0, 5 + round);
            for (uint32_t i = 0; i < 5 + round; i++) CHECK(steal_queue_pop(&queue) == &numbers[i]);
            CHECK(steal_queue_pop(&queue) == NULL);
            CHECK_EQ(steal_queue_count(&queue), 0);
        }
    }
}

static void a_full_queue_refuses_and_spills_its_older_half(void) {
    void *spilled[CAPACITY];
    open_queues(UINT32_MAX);
    push_numbers(0, CAPACITY);
    CHECK_EQ(steal_queue_push(&queue, &numbers[CAPACITY]), -ENOBUFS);
    CHECK_EQ(steal_queue_count(&queue), CAPACITY);
    CHECK_EQ(steal_queue_spill(&queue, spilled, 3), 3);
    CHECK_EQ(steal_queue_spill(&queue, spilled + 3, CAPACITY), CAPACITY / 2);
    for (uint32_t i = 0; i < CAPACITY / 2 + 3; i++) CHECK(spilled[i] == &numbers[i]);
    push_numbers(CAPACITY, CAPACITY / 2 + 3);
    CHECK_EQ(steal_queue_push(&queue, &numbers[0]), -ENOBUFS);
}

static void a_thief_runs_the_oldest_and_keeps_the_rest_of_one_half(void) {
    for (uint32_t count = 0; count <= CAPACITY; count++) {
        open_queues(UINT32_MAX - 1);
        push_numbers(0, count);
        uint32_t half = count - count / 2;
        CHECK(steal_queue_steal(&queue, &other) == (count ? &numbers[0] : NULL));
        for (uint32_t i = 1; i < half; i++) CHECK(steal_queue_pop(&other) == &numbers[i]);
        CHECK(steal_queue_pop(&other) == NULL);
        for (uint32_t i = half; i < count; i++) CHECK(steal_queue_pop(&queue) == &numbers[i]);
        CHECK(steal_queue_pop(&queue) == NULL);
    }
}

static void a_thief_takes_no_more_than_it_has_room_for(void) {
    for (uint32_t room = 0; room < 3; room++) {
        open_queues(0);
        push_numbers(0, CAPACITY);
        for (uint32_t i = 0; i < CAPACITY - room; i++)
            CHECK_EQ(steal_queue_push(&other, &numbers[CAPACITY + i]), 0);
        CHECK(steal_queue_steal(&queue, &other) == &numbers[0]);
        CHECK_EQ(steal_queue_count(&other), CAPACITY);
        CHECK_EQ(steal_queue_count(&queue), CAPACITY - room - 1);
    }
}

static void the_owner_goes_on_while_a_thief_copies(void) {
    open_queues(0);
    push_numbers(0, CAPACITY);
    uint32_t from;
    CHECK_EQ(steal_queue_claim(&queue, CAPACITY, &from), CAPACITY / 2);
    CHECK(steal_queue_steal(&queue, &other) == NULL); /* the second thief does not */
    for (uint32_t i = CAPACITY / 2; i < CAPACITY; i++)
        CHECK(steal_queue_pop(&queue) == &numbers[i]);
    CHECK_EQ(steal_queue_push(&queue, &numbers[0]), -ENOBUFS); /* the thief keeps its slots */
    for (uint32_t i = 0; i < CAPACITY / 2; i++)
        CHECK(*steal_queue_slot(&queue, from + i) == &numbers[i]);
    steal_queue_release(&queue);
    push_numbers(0, CAPACITY);
    CHECK(steal_queue_steal(&queue, &other) == &numbers[0]);
}

static void a_closed_queue_takes_nothing_and_gives_what_it_has(void) {
    open_queues(0);
    push_numbers(0, 4);
    CHECK_EQ(steal_queue_push(&other, &numbers[9]), 0);
    steal_queue_close(&queue);
    CHECK_EQ(steal_queue_push(&queue, &numbers[4]), -ESHUTDOWN);
    CHECK(steal_queue_steal(&other, &queue) == NULL);
    CHECK_EQ(steal_queue_count(&other), 1);
    CHECK(steal_queue_steal(&queue, &other) == &numbers[0]);
    CHECK(steal_queue_pop(&queue) == &numbers[2]);
    CHECK(steal_queue_pop(&queue) == &numbers[3]);
    CHECK(steal_queue_pop(&queue) == NULL);
}

/* ---- eight threads ---- */

static struct steal_queue queues[THREADS];
static struct item { uint32_t taken; } items[THREADS][ITEMS]; /* plain: a race is reported */
static uint32_t left, stolen;
static pthread_barrier_t together;

static void take(struct item *item) {
    item->taken++;
    __atomic_fetch_sub(&left, 1, __ATOMIC_RELAXED);
}

static void push_or_spill(struct steal_queue *mine, struct item *item) {
    void *spilled[CAPACITY / 2];
    if (steal_queue_push(mine, item) == 0) return;
    uint32_t n = steal_queue_spill(mine, spilled, CAPACITY / 2);
    for (uint32_t i = 0; i < n; i++) take(spilled[i]);
    take(item);
}

/* Nobody pops before somebody has stolen. */
static struct item *find(struct steal_queue *mine, struct steal_queue *victim) {
    struct item *item = NULL;
    if (__atomic_load_n(&stolen, __ATOMIC_RELAXED)) item = steal_queue_pop(mine);
    if (!item && victim != mine) {
        item = steal_queue_steal(victim, mine);
        if (item) __atomic_fetch_add(&stolen, 1, __ATOMIC_RELAXED);
    }
    return item;
}

/* Pushes in bursts, pops less than it pushes, steals when it has nothing. */
static void *work(void *arg) {
    uint32_t self = (uint32_t)(uintptr_t)arg, pushed = 0;
    uint64_t state = random_state + self;
    struct steal_queue *mine = &queues[self];
    pthread_barrier_wait(&together);
    while (__atomic_load_n(&left, __ATOMIC_RELAXED)) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        uint32_t burst = (uint32_t)(state >> 33) % 40;
        for (uint32_t i = 0; i < burst && pushed < ITEMS; i++)
            push_or_spill(mine, &items[self][pushed++]);
        for (uint32_t i = 0; i < 20; i++) {
            struct item *item = find(mine, &queues[(state >> 40) % THREADS]);
            if (item) take(item);
        }
        CHECK(steal_queue_count(&queues[(state >> 50) % THREADS]) <= CAPACITY);
    }
    return NULL;
}

static void eight_threads_take_each_item_once(void) {
    pthread_t threads[THREADS];
    left = THREADS * ITEMS;
    CHECK_EQ(pthread_barrier_init(&together, NULL, THREADS), 0);
    for (int i = 0; i < THREADS; i++) steal_queue_init(&queues[i]);
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, work, (void *)i), 0);
    for (int i = 0; i < THREADS; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < THREADS; i++) {
        CHECK(steal_queue_pop(&queues[i]) == NULL);
        for (int k = 0; k < ITEMS; k++) CHECK_EQ(items[i][k].taken, 1);
    }
    printf("  %u of %u steals and pops were steals\n", stolen, THREADS * ITEMS);
    pthread_barrier_destroy(&together);
}

int main(void) {
    seed_random();
    RUN(pops_come_in_the_order_of_the_pushes);
    RUN(a_full_queue_refuses_and_spills_its_older_half);
    RUN(a_thief_runs_the_oldest_and_keeps_the_rest_of_one_half);
    RUN(a_thief_takes_no_more_than_it_has_room_for);
    RUN(the_owner_goes_on_while_a_thief_copies);
    RUN(a_closed_queue_takes_nothing_and_gives_what_it_has);
    RUN(eight_threads_take_each_item_once);
    return 0;
}
