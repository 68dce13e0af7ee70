/* slot_queue.h in every order of its steps, with 4 slots and with 2 (explore_slot_queue_2.c): two
 * writers, two readers, and those who sleep.  Batches are of 2.
 *
 * All its stores to shared memory are read-modify-writes, which store buffers do not delay.
 */
#ifndef SLOTS
#define SLOTS 4u
#endif
#define SLOT_BATCH 2u
#include "explore.h"

/* ---- monitors ---- */

#define FERRULE_MONITOR_H
struct monitor {
    uint32_t is_free, sleepers; /* a bit for each thread */
    uint32_t woken[EXPLORE_THREADS];
};

static struct {
    /* Mistakes of those who use monitors. */
    bool nobody_enters, one_is_woken;
    /* Each queue's first sleep ends at once, without a reason. */
    bool first_sleep_fails;
    void (*pop_batch)(void *batch[]);
} rules;

static uint32_t sleeps;

/* Where each thread is: its call, unless that is of a batch of pushes; and what it waits for.  Its
 * future depends on nothing else while it waits: fewer states. */
static uint64_t calls[EXPLORE_THREADS], waits[EXPLORE_THREADS];

static uint32_t self(void) { return (uint32_t)(explorer.current - explorer.threads); }

static void settle_in_wait(bool slept) {
    if (calls[self()]) explore_settle(explore_mix(calls[self()], waits[self()]) + slept);
}

/* In the place of spinning, which is but more loads of the word. */
static bool begin_wait(size_t index, uintptr_t word) {
    waits[self()] = explore_mix(index, word);
    settle_in_wait(false);
    return false;
}

#define SLOT_QUEUE_SPIN(q, index, word) begin_wait(index, *(word))

static int monitor_init(struct monitor *m) {
    *m = (struct monitor){.is_free = 1};
    return 0;
}

static void monitor_destroy(struct monitor *m) { (void)m; }

static void monitor_enter(struct monitor *m) {
    if (rules.nobody_enters) return;
    explore_wait(&m->is_free);
    m->is_free = 0;
}

/* No step: to stay for longer keeps others away and does nothing else. */
static void monitor_leave(struct monitor *m) { m->is_free = 1; }

static void monitor_sleep(struct monitor *m) {
    explore_step("sleep", m);
    explore_observe(0);
    m->is_free = 1;
    m->sleepers |= 1u << self();
    m->woken[self()] = rules.first_sleep_fails && !sleeps++;
    explore_wait(&m->woken[self()]);
    m->sleepers &= ~(1u << self());
    m->woken[self()] = 0;
    monitor_enter(m);
    settle_in_wait(true);
}

static void monitor_wake_all(struct monitor *m) {
    explore_step("wake all", m);
    explore_observe(0);
    for (uint32_t i = 0; i < EXPLORE_THREADS; i++) {
        if (!(m->sleepers & 1u << i) || m->woken[i]) continue;
        m->woken[i] = 1;
        if (rules.one_is_woken) return;
    }
}

#include "slot_queue.h"

/* ---- the queue ---- */

#define MAX_ITEMS 8
#define STOP (MAX_ITEMS + 1)

static struct slot_queue q;
static uintptr_t slots[SLOTS];
static struct monitor monitors[SLOTS];
static size_t first_index;
static uint32_t monitor_bits, pushed, taken[STOP + 1];

static void start(void) {
    q = (struct slot_queue){.slots = slots, .monitors = monitors, .mask = SLOTS - 1,
                            .monitor_bits = monitor_bits, .head = first_index,
                            .tail = first_index};
    memset(slots, 0, sizeof slots);
    for (uint32_t i = 0; i < SLOTS; i++) monitor_init(&monitors[i]);
    memset(taken, 0, sizeof taken);
    pushed = sleeps = 0;
    for (uint32_t i = 0; i < EXPLORE_THREADS; i++) calls[i] = 1;
    explore_share(&q.head, sizeof q.head);
    explore_share(&q.tail, sizeof q.tail);
    explore_share(slots, sizeof slots);
    explore_share(monitors, sizeof monitors);
    explore_share(taken, sizeof taken);
    explore_share(&pushed, sizeof pushed);
    explore_share(&sleeps, sizeof sleeps);
}

static void *item(uint32_t number) { return (void *)(uintptr_t)(number * SLOT_ONE_SKIP); }

/* A thread, between two calls: how far it is, and how much it has found. */
struct caller {
    uint32_t calls, found;
    bool stopped;
};

static void settle(struct caller *c) {
    calls[self()] = (uint64_t)++c->calls << 32 | c->found << 1 | c->stopped;
    explore_settle(calls[self()]);
}

static void take(struct caller *c, void *entry) {
    uintptr_t number = (uintptr_t)entry / SLOT_ONE_SKIP;
    if (!entry) return;
    EXPECT(number <= STOP);
    taken[number]++;
    c->found++;
    if (number == STOP) c->stopped = true;
}

static void push(struct caller *c) {
    slot_queue_push(&q, item(++pushed));
    settle(c);
}

static void push_batch(struct caller *c, uint32_t count) {
    void *entries[MAX_ITEMS];
    for (uint32_t i = 0; i < count; i++) entries[i] = item(++pushed);
    calls[self()] = 0;
    slot_queue_push_batch(&q, entries, count);
    settle(c);
}

static void pop(struct caller *c, bool block) {
    void *entry = slot_queue_pop(&q, block);
    EXPECT(entry || !block);
    take(c, entry);
    settle(c);
}

static void pop_batch(struct caller *c, bool block) {
    void *batch[SLOT_BATCH];
    if (block && rules.pop_batch) rules.pop_batch(batch);
    else slot_queue_pop_batch(&q, batch, block);
    EXPECT(batch[0] || !block);
    for (uint32_t i = 0; i < SLOT_BATCH; i++) take(c, batch[i]);
    settle(c);
}

/* ---- threads ---- */

static void writer_of_one(void) {
    struct caller c = {0};
    push(&c);
}

static void writer_of_two(void) {
    struct caller c = {0};
    push(&c);
    push(&c);
}

static void writer_of_a_batch(void) {
    struct caller c = {0};
    push_batch(&c, SLOT_BATCH);
}

static void writer_of_more_than_there_is_room_for(void) {
    struct caller c = {0};
    push_batch(&c, SLOTS + 1);
}

static void reader_of_one(void) {
    struct caller c = {0};
    pop(&c, true);
}

static void reader_of_two(void) {
    struct caller c = {0};
    pop(&c, true);
    pop(&c, true);
}

static void reader_of_more_than_there_is_room_for(void) {
    struct caller c = {0};
    while (c.found < SLOTS + 1) pop(&c, true);
}

static void reader_who_polls(void) {
    struct caller c = {0};
    for (int i = 0; i < 2; i++) pop(&c, false);
}

/* He comes to the same slots again, until there is something. */
static void reader_who_polls_round_after_round(void) {
    struct caller c = {0};
    for (uint32_t i = 0; i < SLOTS + 2 && !c.found; i++) pop(&c, false);
}

static void reader_who_polls_for_a_batch(void) {
    struct caller c = {0};
    pop_batch(&c, false);
}

static void reader_of_a_batch(void) {
    struct caller c = {0};
    pop_batch(&c, true);
}

/* Until the stop comes, which it passes on: one for all.  What it has found does not matter to it. */
static void work(bool polls_first) {
    struct caller c = {0};
    if (polls_first) pop_batch(&c, false);
    while (!c.stopped) {
        c.calls = c.found = 0;
        pop_batch(&c, true);
    }
    slot_queue_push(&q, item(STOP));
}

static void worker(void) { work(false); }
static void worker_who_polls_first(void) { work(true); }

static void client_of_one(void) {
    struct caller c = {0};
    push(&c);
    slot_queue_push(&q, item(STOP));
}

static void client_of_two(void) {
    struct caller c = {0};
    push(&c);
    push(&c);
    slot_queue_push(&q, item(STOP));
}

/* ---- in the end ---- */

static uint32_t count_left(void) {
    uint32_t left = pushed;
    for (uint32_t i = 1; i <= pushed; i++) left -= taken[i];
    return left;
}

static void nobody_is_left_waiting(void) {
    for (int i = 0; i < EXPLORE_THREADS; i++) EXPECT(explorer.threads[i].ended);
}

static void each_item_was_taken_once(void) {
    for (uint32_t i = 1; i <= MAX_ITEMS; i++) EXPECT(taken[i] == (i <= pushed));
}

static void all_was_taken(void) {
    nobody_is_left_waiting();
    each_item_was_taken_once();
    for (uint32_t i = 0; i < SLOTS; i++) EXPECT(!(slots[i] & SLOT_AWAITED));
}

/* Those who poll may have left something, then to nobody who waits; or nothing to those who do. */
static void nothing_was_lost(void) {
    struct caller c = {0};
    uint32_t polls = count_left() ? (uint32_t)(q.head - q.tail) : 0;
    if (polls) nobody_is_left_waiting();
    if (explorer.failure[0]) return;
    while (polls--) take(&c, slot_queue_pop(&q, false));
    each_item_was_taken_once();
}

/* Whoever comes afterwards finds it. */
static void the_stop_was_passed_on(void) {
    struct caller c = {0};
    all_was_taken();
    if (explorer.failure[0]) return;
    for (uint32_t i = 0; i < SLOTS && !c.stopped; i++) take(&c, slot_queue_pop(&q, false));
    EXPECT(c.stopped);
}

/* ---- what is explored ---- */

/* Where the indexes wrap, with one monitor for all slots; and, where that is not too much, from 0
 * with one for each. */
static void explore_everywhere(struct exploration given) {
    given.start = start;
    first_index = SIZE_MAX - 1;
    monitor_bits = 0;
    explore_all(&given);
    first_index = 0;
    monitor_bits = (uint32_t)__builtin_ctz(SLOTS);
    if (SLOTS > 2) explore_all(&given);
}

static void two_readers_wait_for_two_writers(void) {
    explore_everywhere((struct exploration){
        .bodies = {writer_of_two, writer_of_two, reader_of_two, reader_of_two},
        .finish = all_was_taken});
}

static void two_writers_wait_for_a_reader(void) {
    explore_everywhere((struct exploration){
        .bodies = {writer_of_more_than_there_is_room_for, reader_of_more_than_there_is_room_for},
        .finish = all_was_taken});
}

static void one_reader_polls_and_one_waits(void) {
    explore_everywhere((struct exploration){
        .bodies = {writer_of_two, writer_of_one, reader_who_polls, reader_of_one},
        .finish = nothing_was_lost});
}

static void two_readers_poll_while_two_writers_push(void) {
    explore_everywhere((struct exploration){
        .bodies = {writer_of_one, writer_of_one, reader_who_polls, reader_who_polls},
        .finish = nothing_was_lost});
}

static void one_reader_is_rounds_ahead_of_one_who_waits(void) {
    explore_everywhere((struct exploration){
        .bodies = {writer_of_two, reader_who_polls_round_after_round, reader_of_one},
        .finish = nothing_was_lost});
    explore_everywhere((struct exploration){
        .bodies = {writer_of_one, reader_who_polls_round_after_round, reader_of_a_batch},
        .finish = nothing_was_lost});
}

static void batches_are_pushed_and_popped(void) {
    explore_everywhere((struct exploration){
        .bodies = {writer_of_a_batch, writer_of_one, reader_of_a_batch, reader_of_one},
        .finish = nothing_was_lost});
    explore_everywhere((struct exploration){
        .bodies = {writer_of_a_batch, reader_who_polls_for_a_batch, reader_of_a_batch},
        .finish = nothing_was_lost});
}

static void one_stop_ends_two_workers(void) {
    explore_everywhere((struct exploration){
        .bodies = {client_of_two, worker, worker},
        .finish = the_stop_was_passed_on});
    explore_everywhere((struct exploration){
        .bodies = {client_of_one, worker, worker_who_polls_first},
        .finish = the_stop_was_passed_on});
}

static void a_sleeper_who_wakes_for_no_reason_sleeps_on(void) {
    rules.first_sleep_fails = true;
    explore_everywhere((struct exploration){
        .bodies = {writer_of_one, writer_of_one, reader_of_one, reader_of_one},
        .finish = all_was_taken});
    explore_everywhere((struct exploration){
        .bodies = {writer_of_more_than_there_is_room_for, reader_of_more_than_there_is_room_for},
        .finish = all_was_taken});
    rules.first_sleep_fails = false;
}

/* ---- planted ---- */

static const struct exploration two_and_two = {
    .start = start,
    .bodies = {writer_of_one, writer_of_one, reader_of_one, reader_of_one},
    .finish = all_was_taken,
};
static const struct exploration ahead = {
    .start = start,
    .bodies = {writer_of_one, reader_who_polls_round_after_round, reader_of_a_batch},
    .finish = nothing_was_lost,
};

static void explorer_finds_words_that_are_not_changed_in_one_step(void) {
    struct exploration given = two_and_two;
    given.torn = &slots[0];
    explore_finds(&given, "explore_slot_queue.c");
    given.torn = &q.head;
    explore_finds(&given, "explore_slot_queue.c");
    given.torn = &q.tail;
    explore_finds(&given, "explore_slot_queue.c");
}

static bool is_slot(const void *at) {
    return (const uintptr_t *)at >= slots && (const uintptr_t *)at < slots + SLOTS;
}

static uint64_t without_sleepers(const void *at, uint64_t word) {
    return is_slot(at) ? word & ~SLOT_AWAITED : word;
}

static void explorer_finds_a_sleeper_who_does_not_say_so(void) {
    struct exploration given = two_and_two;
    given.alter = without_sleepers;
    explore_finds(&given, "threads[i].ended");
}

static uint64_t without_skips(const void *at, uint64_t word) {
    return is_slot(at) && word & SLOT_SKIPS ? SLOT_EMPTY : word;
}

static void explorer_finds_a_reader_who_goes_without_a_mark(void) {
    struct exploration given = ahead;
    given.alter = without_skips;
    explore_finds(&given, "explore_slot_queue.c");
}

static uint64_t at_most_one_skip(const void *at, uint64_t word) {
    return is_slot(at) && word & SLOT_SKIPS ? SLOT_ONE_SKIP | SLOT_SKIPS : word;
}

static void explorer_finds_marks_that_are_not_counted(void) {
    struct exploration given = ahead;
    given.alter = at_most_one_skip;
    explore_finds(&given, "explore_slot_queue.c");
}

static void explorer_finds_a_monitor_that_keeps_nobody_out(void) {
    rules.nobody_enters = true;
    explore_finds(&two_and_two, "threads[i].ended");
    rules.nobody_enters = false;
}

static void explorer_finds_one_who_is_woken_in_the_place_of_all(void) {
    rules.one_is_woken = true;
    monitor_bits = 0;
    explore_finds(&two_and_two, "threads[i].ended");
    rules.one_is_woken = false;
}

/* Takes all its indexes at once. */
static void pop_batch_that_sleeps_in_front_of_its_turns(void *batch[]) {
    size_t index = ATOMIC_ADD(&q.tail, SLOT_BATCH, RELAXED);
    for (size_t i = 0; i < SLOT_BATCH; i++)
        batch[i] = slot_queue_take(&q, index + i, i == 0);
}

static void explorer_finds_a_batch_that_sleeps_in_front_of_its_turns(void) {
    rules.pop_batch = pop_batch_that_sleeps_in_front_of_its_turns;
    explore_finds(&ahead, "threads[i].ended");
    rules.pop_batch = NULL;
}

int main(void) {
    RUN(explorer_finds_words_that_are_not_changed_in_one_step);
    RUN(explorer_finds_a_sleeper_who_does_not_say_so);
    RUN(explorer_finds_a_reader_who_goes_without_a_mark);
    RUN(explorer_finds_marks_that_are_not_counted);
    RUN(explorer_finds_a_monitor_that_keeps_nobody_out);
    RUN(explorer_finds_one_who_is_woken_in_the_place_of_all);
    RUN(explorer_finds_a_batch_that_sleeps_in_front_of_its_turns);
    RUN(two_readers_wait_for_two_writers);
    RUN(two_writers_wait_for_a_reader);
    RUN(one_reader_polls_and_one_waits);
    RUN(two_readers_poll_while_two_writers_push);
    RUN(one_reader_is_rounds_ahead_of_one_who_waits);
    RUN(batches_are_pushed_and_popped);
    RUN(one_stop_ends_two_workers);
    RUN(a_sleeper_who_wakes_for_no_reason_sleeps_on);
    return 0;
}
