/* idle_set.h by one thread, and with eight threads that sleep for real; in every order of its steps
 * it is explored in explore_idle_set.c.
 */
#include "idle_set.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

#include "check.h"
#include "steal_queue.h"

#define THREADS 8
#define ITEMS 5000
#define BURST 20

static struct idle_set idle;

static void fall_asleep(int index) {
    idle_begin_search(&idle);
    idle_sleep(&idle, index);
}

static void ten_pieces_of_work_wake_one_sleeper_until_it_has_looked(void) {
    idle = (struct idle_set){0};
    CHECK_EQ(idle_claim(&idle), IDLE_ALL_AWAKE);
    for (int i = 0; i < IDLE_THREADS_MAX; i++) fall_asleep(i);
    CHECK_EQ(idle_claim(&idle), 0);
    for (int i = 0; i < 9; i++) CHECK_EQ(idle_claim(&idle), IDLE_SEARCHED);
    CHECK(idle_awake(&idle, 0)); /* claimed: a searcher */
    CHECK_EQ(idle_claim(&idle), IDLE_SEARCHED);
    CHECK(idle_end_search(&idle));
    CHECK_EQ(idle_claim(&idle), 1);
}

static void nobody_is_woken_while_somebody_searches(void) {
    idle = (struct idle_set){0};
    fall_asleep(5);
    idle_begin_search(&idle);
    idle_begin_search(&idle);
    CHECK_EQ(idle_claim(&idle), IDLE_SEARCHED);
    CHECK(!idle_end_search(&idle));
    CHECK_EQ(idle_claim(&idle), IDLE_SEARCHED);
    CHECK(idle_end_search(&idle));
    CHECK_EQ(idle_claim(&idle), 5);
}

static void who_wakes_by_himself_is_not_claimed(void) {
    idle = (struct idle_set){0};
    fall_asleep(63);
    CHECK(!idle_awake(&idle, 63));
    CHECK_EQ(idle_claim(&idle), IDLE_ALL_AWAKE);
    CHECK_EQ(idle.searching, 0);
}

/* ---- eight threads ---- */

static struct steal_queue queues[THREADS];
static sem_t alarms[THREADS];
static struct item { uint32_t done; } items[THREADS][ITEMS]; /* plain: a race is reported */
static uint32_t left, ended;

static bool is_work_left(void) {
    for (int i = 0; i < THREADS; i++)
        if (steal_queue_count(&queues[i])) return true;
    return false;
}

static void wake_one(void) {
    int index = idle_claim(&idle);
    if (index >= 0) CHECK_EQ(sem_post(&alarms[index]), 0);
}

static struct item *find(int self) {
    struct item *item = NULL;
    for (int i = 1; i < THREADS && !item; i++)
        item = steal_queue_steal(&queues[(self + i) % THREADS], &queues[self]);
    return item;
}

static void finish(struct item *item) {
    item->done++;
    if (__atomic_sub_fetch(&left, 1, __ATOMIC_ACQ_REL)) return;
    __atomic_store_n(&ended, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < THREADS; i++) CHECK_EQ(sem_post(&alarms[i]), 0);
}

static bool sleep_until_woken(int self) {
    idle_sleep(&idle, self);
    if (is_work_left() || __atomic_load_n(&ended, __ATOMIC_ACQUIRE)) {
        idle_search_again(&idle, self);
        return true;
    }
    CHECK_EQ(sem_wait(&alarms[self]), 0);
    return idle_awake(&idle, self);
}

/* Now and then it waits until all that it made has been taken. */
static void make_work(int self) {
    for (int i = 0; i < ITEMS; i++) {
        CHECK_EQ(steal_queue_push(&queues[self], &items[self][i]), 0);
        wake_one();
        while (i % BURST == 0 && steal_queue_count(&queues[self])) sched_yield();
    }
}

static void do_work(int self) {
    bool searches = false;
    while (!__atomic_load_n(&ended, __ATOMIC_ACQUIRE)) {
        if (!searches) idle_begin_search(&idle);
        struct item *item = find(self);
        if (item) {
            if (idle_end_search(&idle) && is_work_left()) wake_one();
            do finish(item);
            while ((item = steal_queue_pop(&queues[self])));
            searches = false;
        } else {
            searches = sleep_until_woken(self);
        }
    }
}

static void *live(void *arg) {
    int self = (int)(uintptr_t)arg;
    if (self % 2) do_work(self);
    else make_work(self);
    return NULL;
}

/* A lost wake-up would be a hang: those who make the work never do it. */
static void sleepers_do_all_the_work_of_busy_threads(void) {
    for (int round = 0; round < 5; round++) {
        pthread_t threads[THREADS];
        idle = (struct idle_set){0};
        memset(items, 0, sizeof items);
        left = THREADS / 2 * ITEMS;
        ended = 0;
        for (int i = 0; i < THREADS; i++) {
            steal_queue_init(&queues[i]);
            CHECK_EQ(sem_init(&alarms[i], 0, 0), 0);
        }
        for (uintptr_t i = 0; i < THREADS; i++)
            CHECK_EQ(pthread_create(&threads[i], NULL, live, (void *)i), 0);
        for (int i = 0; i < THREADS; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
        for (int i = 0; i < THREADS; i++)
            for (int k = 0; k < ITEMS; k++) CHECK_EQ(items[i][k].done, i % 2 == 0);
    }
}

int main(void) {
    RUN(ten_pieces_of_work_wake_one_sleeper_until_it_has_looked);
    RUN(nobody_is_woken_while_somebody_searches);
    RUN(who_wakes_by_himself_is_not_claimed);
    RUN(sleepers_do_all_the_work_of_busy_threads);
    return 0;
}
