/* idle_set.h in every order of its steps: threads that sleep, and one that makes work and never
 * does it.  Work lies in plain boxes, or, so that both headers are seen together, in a steal queue.
 */
#define STEAL_QUEUE_CAPACITY 2u
#include "explore.h"

#include "idle_set.h"
#include "steal_queue.h"

#define WORKERS 3
#define BOXES 2
#define MAX_ITEMS 2

static struct idle_set idle;
static uint32_t boxes[BOXES]; /* a bit for each item */
static struct steal_queue makers, workers[WORKERS];
static uint32_t woken[WORKERS], wakes, made, done[MAX_ITEMS + 1];

static struct {
    bool queues; /* instead of boxes */
    /* Mistakes of those who use it. */
    bool no_look_before_sleep, no_look_of_the_last, heedless_of_claims, awake_is_enough;
    int (*claim)(struct idle_set *);
} rules;

static void start(void) {
    memset(&idle, 0, sizeof idle);
    memset(boxes, 0, sizeof boxes);
    memset(woken, 0, sizeof woken);
    memset(done, 0, sizeof done);
    wakes = made = 0;
    explore_share(&idle, sizeof idle);
    explore_share(boxes, sizeof boxes);
    explore_share(woken, sizeof woken);
    explore_share(done, sizeof done);
    explore_share(&wakes, sizeof wakes);
    explore_share(&made, sizeof made);
    steal_queue_init(&makers);
    explore_share(&makers, sizeof makers);
    for (int i = 0; i < WORKERS; i++) steal_queue_init(&workers[i]);
    explore_share(workers, sizeof workers);
}

/* ---- work ---- */

/* Where a thread is when it remembers nothing else. */
enum place { AWAKE, SEARCHING, FINDING, LOOKING = FINDING + BOXES, LOOKING_LAST = LOOKING + BOXES,
             MAKING = LOOKING_LAST + BOXES };

static bool is_work_left(enum place place) {
    if (rules.queues) return steal_queue_count(&makers);
    for (uint32_t b = 0; b < BOXES; b++) {
        if (ATOMIC_LOAD(&boxes[b], ACQUIRE)) return true;
        explore_settle(place + b);
    }
    return false;
}

static uint32_t take_from(uint32_t *box) {
    uint32_t items = ATOMIC_LOAD(box, ACQUIRE);
    while (items)
        if (ATOMIC_CAS(box, &items, items & (items - 1), ACQ_REL, ACQUIRE))
            return (uint32_t)__builtin_ctz(items);
    return 0;
}

static uint32_t find(int self) {
    if (rules.queues) return (uint32_t)(uintptr_t)steal_queue_steal(&makers, &workers[self]);
    for (uint32_t b = 0; b < BOXES; b++) {
        uint32_t item = take_from(&boxes[b]);
        if (item) return item;
        explore_settle(FINDING + b);
    }
    return 0;
}

static void wake_one(void) {
    int index = (rules.claim ? rules.claim : idle_claim)(&idle);
    if (index < 0) return;
    wakes++;
    ATOMIC_STORE(&woken[index], 1, RELEASE);
}

static void make(void) {
    uint32_t item = ++made;
    if (rules.queues) EXPECT(steal_queue_push(&makers, (void *)(uintptr_t)item) == 0);
    else ATOMIC_STORE(&boxes[item % BOXES], 1u << item, RELEASE);
    wake_one();
    explore_settle(MAKING + made);
}

/* ---- threads ---- */

static void end_search(void) {
    if (idle_end_search(&idle) && !rules.no_look_of_the_last && is_work_left(LOOKING_LAST))
        wake_one();
}

static void wait_in_kernel(int self) {
    explore_wait(&woken[self]);
    ATOMIC_STORE(&woken[self], 0, RELAXED);
}

/* Whether it is a searcher then. */
static bool wake_up(int self) { return idle_awake(&idle, self) && !rules.heedless_of_claims; }

static bool sleep_until_woken(int self) {
    idle_sleep(&idle, self);
    if (!rules.no_look_before_sleep && is_work_left(LOOKING)) {
        if (rules.awake_is_enough) return wake_up(self);
        idle_search_again(&idle, self);
        return true;
    }
    wait_in_kernel(self);
    return wake_up(self);
}

static void work(int self, bool searches) {
    for (;;) {
        explore_settle(searches ? SEARCHING : AWAKE);
        if (!searches) idle_begin_search(&idle);
        uint32_t item = find(self);
        if (item) {
            done[item]++;
            end_search();
            searches = false;
        } else {
            searches = sleep_until_woken(self);
        }
    }
}

static void first_worker(void) { work(0, false); }
static void second_worker(void) { work(1, false); }

static void work_after_sleep(int self) {
    wait_in_kernel(self);
    work(self, wake_up(self));
}

static void first_sleeper(void) { work_after_sleep(0); }
static void second_sleeper(void) { work_after_sleep(1); }
static void third_sleeper(void) { work_after_sleep(2); }

static void start_with_one_asleep(void) {
    start();
    idle.asleep = 1;
}

static void start_with_three_asleep(void) {
    start();
    idle.asleep = 7;
}

/* Something else wakes it, and then it is busy for ever. */
static void worker_who_becomes_busy(void) {
    idle_begin_search(&idle);
    if (sleep_until_woken(0)) end_search();
}

static void sleeper_who_becomes_busy(void) {
    wait_in_kernel(0);
    if (wake_up(0)) end_search();
}

static void maker_of_one(void) { make(); }

static void maker_of_two(void) {
    make();
    make();
}

static void maker_who_wakes_for_something_else(void) {
    ATOMIC_STORE(&woken[0], 1, RELEASE);
    make();
}

static void all_work_is_done(void) {
    for (uint32_t i = 1; i <= made; i++) EXPECT(done[i] == 1);
    EXPECT(idle.searching == 0);
    /* One for each; one more where a searcher saw it before its maker looked for sleepers, or where
     * the claimed one was busy. */
    EXPECT(wakes <= 2 * made);
}

/* ---- what is explored ---- */

static void one_item_was_done_after_one_wake_up(void) {
    all_work_is_done();
    EXPECT(wakes <= 1);
}

static const struct exploration one_item = {
    .start = start, .finish = one_item_was_done_after_one_wake_up, .store_buffers = true,
    .bodies = {first_worker, second_worker, maker_of_one}};
static const struct exploration two_items = {
    .start = start, .finish = all_work_is_done, .store_buffers = true,
    .bodies = {first_worker, second_worker, maker_of_two}};
static const struct exploration three_sleepers = {
    .start = start_with_three_asleep, .finish = all_work_is_done, .store_buffers = true,
    .bodies = {first_sleeper, second_sleeper, third_sleeper, maker_of_two}};
static const struct exploration busy_worker = {
    .start = start, .finish = all_work_is_done, .store_buffers = true,
    .bodies = {worker_who_becomes_busy, second_worker, maker_who_wakes_for_something_else}};

static const struct exploration two_makers = {
    .start = start_with_one_asleep, .finish = all_work_is_done, .store_buffers = false,
    .bodies = {sleeper_who_becomes_busy, second_worker, maker_of_one,
               maker_who_wakes_for_something_else}};

static void work_is_done_though_its_maker_never_does_it(void) {
    explore_all(&one_item);
    explore_all(&two_items);
    explore_all(&three_sleepers);
}

static void work_in_a_steal_queue_is_done(void) {
    struct exploration given = one_item;
    given.store_buffers = false;
    rules.queues = true;
    explore_all(&three_sleepers);
    explore_all(&given);
    rules.queues = false;
}

static void a_claimed_thread_that_is_busy_passes_the_search_on(void) {
    explore_all(&busy_worker);
    explore_all(&two_makers);
}

/* ---- planted ---- */

static void explorer_finds_a_sleeper_who_does_not_look_again(void) {
    rules.no_look_before_sleep = true;
    explore_finds(&one_item, "done[i] == 1");
    rules.no_look_before_sleep = false;
}

static void explorer_finds_a_last_searcher_who_leaves_the_rest(void) {
    rules.no_look_of_the_last = true;
    explore_finds(&busy_worker, "done[i] == 1");
    rules.no_look_of_the_last = false;
}

static void explorer_finds_a_claim_that_is_not_heeded(void) {
    rules.heedless_of_claims = true;
    explore_finds(&one_item, "idle.searching == 0");
    rules.heedless_of_claims = false;
}

static void explorer_finds_a_sleeper_who_sees_work_and_forgets_it(void) {
    rules.awake_is_enough = true;
    explore_finds(&busy_worker, "done[i] == 1");
    rules.awake_is_enough = false;
}

static void explorer_finds_a_missing_fence(void) {
    struct exploration given = one_item;
    given.no_fences = true;
    explore_finds(&given, "done[i] == 1");
}

static void explorer_finds_words_that_are_not_changed_in_one_step(void) {
    struct exploration given = two_items;
    given.torn = &idle.asleep;
    explore_finds(&given, "explore_idle_set.c");
    given.torn = &idle.searching;
    explore_finds(&given, "explore_idle_set.c");
}

/* Gives its mark back and looks no further. */
static int claim_once(struct idle_set *s) {
    ATOMIC_FENCE();
    uint32_t nobody = 0;
    uint64_t asleep = ATOMIC_LOAD(&s->asleep, SEQ_CST);
    if (!asleep || !ATOMIC_CAS(&s->searching, &nobody, 1, SEQ_CST, SEQ_CST)) return IDLE_SEARCHED;
    while (asleep) {
        uint64_t rest = asleep & (asleep - 1);
        int index = __builtin_ctzll(asleep);
        if (ATOMIC_CAS(&s->asleep, &asleep, rest, SEQ_CST, SEQ_CST)) return index;
    }
    ATOMIC_SUB(&s->searching, 1, SEQ_CST);
    return IDLE_SEARCHED;
}

static void explorer_finds_a_claim_that_looks_only_once(void) {
    rules.claim = claim_once;
    explore_finds(&two_makers, "done[i] == 1");
    rules.claim = NULL;
}

int main(void) {
    RUN(explorer_finds_a_sleeper_who_does_not_look_again);
    RUN(explorer_finds_a_last_searcher_who_leaves_the_rest);
    RUN(explorer_finds_a_claim_that_is_not_heeded);
    RUN(explorer_finds_a_sleeper_who_sees_work_and_forgets_it);
    RUN(explorer_finds_a_missing_fence);
    RUN(explorer_finds_words_that_are_not_changed_in_one_step);
    RUN(explorer_finds_a_claim_that_looks_only_once);
    RUN(work_is_done_though_its_maker_never_does_it);
    RUN(a_claimed_thread_that_is_busy_passes_the_search_on);
    RUN(work_in_a_steal_queue_is_done);
    return 0;
}
