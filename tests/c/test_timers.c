/* timers.h against a model that looks at everything. */
#include "timers.h"

#include "check.h"

#define NODES 300

static struct timer nodes[NODES];

static void check_heap(const struct timers *t) {
    uint32_t in_heap = 0;
    const struct timer *nearest = NULL;
    for (uint32_t i = 0; i < NODES; i++) {
        if (!nodes[i].place) continue;
        in_heap++;
        CHECK(t->heap[nodes[i].place] == &nodes[i]);
        if (!nearest || nodes[i].when < nearest->when) nearest = &nodes[i];
    }
    CHECK_EQ(in_heap, t->count);
    CHECK(!nearest == !timers_nearest(t));
    if (nearest) CHECK_EQ(timers_nearest(t)->when, nearest->when);
    for (uint32_t place = 2; place <= t->count; place++)
        CHECK(t->heap[place / 2]->when <= t->heap[place]->when);
}

/* Few distinct times, so that ties are common, and the ends of the range. */
static int64_t random_time(void) {
    switch (random_below(20)) {
    case 0: return INT64_MIN;
    case 1: return INT64_MAX;
    default: return (int64_t)random_below(100) - 50;
    }
}

static void any_sequence_leaves_a_heap_with_the_nearest_on_top(void) {
    struct timers t = {0};
    for (int step = 0; step < 20000; step++) {
        struct timer *node = &nodes[random_below(NODES)];
        int64_t when = random_time();
        if (!node->place) {
            CHECK_EQ(timers_add(&t, node, when), 0);
            CHECK_EQ(node->when, when);
        } else if (random_below(2)) {
            timers_move(&t, node, when);
            CHECK_EQ(node->when, when);
        } else {
            timers_remove(&t, node);
            CHECK_EQ(node->place, 0);
        }
        check_heap(&t);
    }
    for (uint32_t i = 0; i < NODES; i++) timers_remove(&t, &nodes[i]);
    CHECK(timers_nearest(&t) == NULL);
    timers_free(&t);
}

static void taking_the_nearest_again_and_again_gives_them_in_order(void) {
    struct timers t = {0};
    int64_t before = INT64_MIN;
    for (uint32_t i = 0; i < NODES; i++) CHECK_EQ(timers_add(&t, &nodes[i], random_time()), 0);
    for (uint32_t i = 0; i < NODES; i++) {
        struct timer *node = timers_nearest(&t);
        CHECK(node->when >= before);
        before = node->when;
        timers_remove(&t, node);
    }
    CHECK(timers_nearest(&t) == NULL);
    timers_free(&t);
}

static void removing_what_is_not_in_the_heap_changes_nothing(void) {
    struct timers t = {0};
    struct timer stranger = {.when = 1};
    timers_remove(&t, &stranger);
    CHECK_EQ(timers_add(&t, &nodes[0], 5), 0);
    timers_remove(&t, &stranger);
    CHECK(timers_nearest(&t) == &nodes[0]);
    timers_remove(&t, &nodes[0]);
    timers_free(&t);
}

static void a_freed_heap_can_be_used_again(void) {
    struct timers t = {0};
    for (int round = 0; round < 2; round++) {
        CHECK_EQ(timers_add(&t, &nodes[0], 5), 0);
        timers_remove(&t, &nodes[0]);
        timers_free(&t);
    }
}

int main(void) {
    seed_random();
    RUN(any_sequence_leaves_a_heap_with_the_nearest_on_top);
    RUN(taking_the_nearest_again_and_again_gives_them_in_order);
    RUN(removing_what_is_not_in_the_heap_changes_nothing);
    RUN(a_freed_heap_can_be_used_again);
    return 0;
}
