/* steal_queue.h in every order of its steps, at capacities 2 (explore_steal_queue_2.c) and 4. */
#ifndef STEAL_QUEUE_CAPACITY
#define STEAL_QUEUE_CAPACITY 4u
#endif
#include "explore.h"

#include "steal_queue.h"

#define CAPACITY STEAL_QUEUE_CAPACITY
#define MAX_ITEMS 16

static struct steal_queue owners, first_thiefs, second_thiefs;
static uint32_t first_index, pushed, taken[MAX_ITEMS + 1];

static void init_at(struct steal_queue *q, uint32_t index) {
    steal_queue_init(q);
    q->head = steal_queue_head(index, index);
    q->tail = index;
    explore_share(q, sizeof *q);
}

static void start(void) {
    init_at(&owners, first_index);
    init_at(&first_thiefs, 0);
    init_at(&second_thiefs, first_index);
    pushed = 0;
    memset(taken, 0, sizeof taken);
    explore_share(taken, sizeof taken);
}

/* A thread, between two calls: how far it is, and the last item that it took. */
struct taker {
    uint32_t calls, last;
};

static void settle(struct taker *t) { explore_settle((uint64_t)++t->calls << 32 | t->last); }

/* Each taker sees the items in the order in which they were pushed. */
static void take(struct taker *t, void *item) {
    uint32_t number = (uint32_t)(uintptr_t)item;
    EXPECT(number > t->last && number <= MAX_ITEMS);
    t->last = number;
    taken[number]++;
}

static void push(struct taker *t) {
    void *item = (void *)(uintptr_t)++pushed, *spilled[CAPACITY];
    int result = steal_queue_push(&owners, item);
    if (result) {
        EXPECT(result == -ENOBUFS);
        uint32_t n = steal_queue_spill(&owners, spilled, CAPACITY);
        EXPECT(n <= CAPACITY / 2);
        for (uint32_t i = 0; i < n; i++) take(t, spilled[i]);
        taken[pushed]++;
    }
    settle(t);
}

static bool pop(struct taker *t, struct steal_queue *q) {
    void *item = steal_queue_pop(q);
    if (item) take(t, item);
    settle(t);
    return item;
}

static void drain(struct taker *t, struct steal_queue *q) { while (pop(t, q)) {} }

static void steal(struct taker *t, struct steal_queue *victim, struct steal_queue *mine) {
    void *item = steal_queue_steal(victim, mine);
    if (item) take(t, item);
    settle(t);
}

static void owner_that_fills_the_queue(void) {
    struct taker t = {0};
    for (uint32_t i = 0; i < CAPACITY + 1; i++) push(&t);
    drain(&t, &owners);
}

static void owner_that_pushes_and_pops_in_turn(void) {
    struct taker t = {0};
    for (uint32_t i = 0; i < CAPACITY; i++) push(&t);
    for (uint32_t i = 0; i < 2; i++) {
        pop(&t, &owners);
        push(&t);
    }
    drain(&t, &owners);
}

static void owner_that_closes(void) {
    struct taker t = {0};
    push(&t);
    push(&t);
    steal_queue_close(&owners);
    EXPECT(steal_queue_push(&owners, &owners) == -ESHUTDOWN);
    EXPECT(steal_queue_steal(&first_thiefs, &owners) == NULL);
    drain(&t, &owners);
    EXPECT(steal_queue_count(&owners) == 0);
}

static void steal_and_drain(int times, struct steal_queue *mine) {
    struct taker t = {0};
    while (times--) {
        steal(&t, &owners, mine);
        drain(&t, mine);
    }
}

static void thief_who_comes_again(void) { steal_and_drain(2, &first_thiefs); }
static void first_thief(void) { steal_and_drain(CAPACITY > 2 ? 1 : 2, &first_thiefs); }
static void second_thief(void) { steal_and_drain(1, &second_thiefs); }

/* While another thief copies from its own queue. */
static void thief_that_is_robbed(void) {
    struct taker t = {0};
    for (int i = 0; i < 2; i++) {
        steal(&t, &owners, &first_thiefs);
        pop(&t, &first_thiefs);
    }
    drain(&t, &first_thiefs);
}

static void thief_of_a_thief(void) {
    struct taker t = {0};
    steal(&t, &first_thiefs, &second_thiefs);
    drain(&t, &second_thiefs);
}

static void counting_onlooker(void) {
    struct taker t = {0};
    EXPECT(steal_queue_count(&owners) <= CAPACITY);
    settle(&t);
}

static void each_item_came_out_once(void) {
    for (uint32_t i = 1; i <= pushed; i++) EXPECT(taken[i] == 1);
    for (uint32_t i = pushed + 1; i <= MAX_ITEMS; i++) EXPECT(taken[i] == 0);
    EXPECT(steal_queue_count(&owners) == 0);
    EXPECT(owners.head == steal_queue_head(owners.tail, owners.tail));
}

/* Also where the indexes wrap. */
static void explore_everywhere(struct exploration given) {
    static const uint32_t starts[] = {0, UINT32_MAX - 1};
    given.start = start;
    given.finish = each_item_came_out_once;
    given.store_buffers = true;
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        first_index = starts[i];
        explore_all(&given);
    }
    first_index = 0;
}

static void one_thief_robs_an_owner_who_pushes_and_pops(void) {
    explore_everywhere((struct exploration){
        .bodies = {owner_that_pushes_and_pops_in_turn, thief_who_comes_again}});
}

static void one_thief_robs_an_owner_whose_queue_overflows(void) {
    explore_everywhere((struct exploration){
        .bodies = {owner_that_fills_the_queue, thief_who_comes_again}});
}

static void two_thieves_rob_one_owner(void) {
    explore_everywhere((struct exploration){
        .bodies = {owner_that_fills_the_queue, first_thief, second_thief}});
}

static void a_thief_is_robbed_itself(void) {
    explore_everywhere((struct exploration){
        .bodies = {owner_that_fills_the_queue, thief_that_is_robbed, thief_of_a_thief}});
}

static void nothing_lands_in_a_closed_queue(void) {
    explore_everywhere((struct exploration){
        .bodies = {owner_that_closes, first_thief, second_thief}});
}

static void a_count_by_an_onlooker_is_never_beyond_the_capacity(void) {
    explore_everywhere((struct exploration){
        .bodies = {owner_that_fills_the_queue, first_thief, counting_onlooker}});
}

/* ---- planted ---- */

static const struct exploration sound = {
    .start = start,
    .finish = each_item_came_out_once,
    .bodies = {owner_that_pushes_and_pops_in_turn, thief_who_comes_again},
};

static void explorer_finds_a_head_that_is_not_moved_in_one_step(void) {
    struct exploration given = sound;
    given.torn = &owners.head;
    explore_finds(&given, "taken[i] == 1");
}

static uint64_t forget_what_is_kept(const void *at, uint64_t value) {
    uint32_t real = steal_queue_real(value);
    return at == &owners.head ? steal_queue_head(real, real) : value;
}

static void explorer_finds_a_steal_that_does_not_keep_its_slots(void) {
    struct exploration given = sound;
    given.alter = forget_what_is_kept;
    explore_finds(&given, "explore_steal_queue.c");
}

static void explorer_finds_a_tail_published_before_its_item(void) {
    struct exploration given = sound;
    given.publish_early = true;
    explore_finds(&given, "explore_steal_queue.c");
}

static void thief_that_never_releases(void) {
    struct taker t = {0};
    uint32_t from;
    if (steal_queue_claim(&owners, 1, &from))
        take(&t, PLAIN_LOAD(steal_queue_slot(&owners, from)));
}

static void explorer_finds_a_steal_that_is_never_released(void) {
    struct exploration given = sound;
    given.bodies[1] = thief_that_never_releases;
    explore_finds(&given, "owners.head == ");
}

static void thief_that_copies_late(void) {
    struct taker t = {0};
    uint32_t from;
    if (!steal_queue_claim(&owners, 1, &from)) return;
    steal_queue_release(&owners);
    take(&t, PLAIN_LOAD(steal_queue_slot(&owners, from)));
}

static void explorer_finds_a_steal_that_copies_after_its_release(void) {
    struct exploration given = sound;
    given.bodies[1] = thief_that_copies_late;
    explore_finds(&given, "explore_steal_queue.c");
}

int main(void) {
    RUN(one_thief_robs_an_owner_who_pushes_and_pops);
    RUN(one_thief_robs_an_owner_whose_queue_overflows);
    RUN(two_thieves_rob_one_owner);
    RUN(a_thief_is_robbed_itself);
    RUN(nothing_lands_in_a_closed_queue);
    RUN(a_count_by_an_onlooker_is_never_beyond_the_capacity);
    RUN(explorer_finds_a_head_that_is_not_moved_in_one_step);
    RUN(explorer_finds_a_steal_that_does_not_keep_its_slots);
    RUN(explorer_finds_a_tail_published_before_its_item);
    RUN(explorer_finds_a_steal_that_is_never_released);
    RUN(explorer_finds_a_steal_that_copies_after_its_release);
    return 0;
}
