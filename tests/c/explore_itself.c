/* explore.h: that it takes every order, and no other. */
#include "explore.h"

#include "atomics.h"

static uint32_t counter, here, there, seen_here, seen_there;
static uint64_t outcomes; /* one bit for each */

static void start(void) {
    counter = here = there = seen_here = seen_there = 0;
    explore_share(&counter, sizeof counter);
    explore_share(&here, sizeof here);
    explore_share(&there, sizeof there);
}

static void look_at_nothing(void) {}

static void add_in_two_steps(void) {
    for (int i = 0; i < 2; i++) ATOMIC_STORE(&counter, ATOMIC_LOAD(&counter, RELAXED) + 1, RELAXED);
}

static void add_in_one_step(void) {
    for (int i = 0; i < 2; i++) ATOMIC_ADD(&counter, 1, RELAXED);
}

static void add_if_unchanged(void) {
    for (int i = 0; i < 2; i++) {
        uint32_t old = ATOMIC_LOAD(&counter, RELAXED);
        while (!ATOMIC_CAS(&counter, &old, old + 1, RELAXED, RELAXED)) {}
    }
}

static void note_counter(void) { outcomes |= 1u << counter; }

static void additions_in_two_steps_are_lost_in_every_possible_way(void) {
    struct exploration given = {
        .start = start, .bodies = {add_in_two_steps, add_in_two_steps}, .finish = note_counter};
    for (int buffers = 0; buffers < 2; buffers++) {
        given.store_buffers = buffers;
        outcomes = 0;
        explore_all(&given);
        CHECK_EQ(outcomes, 1 << 2 | 1 << 3 | 1 << 4);
    }
}

static void additions_in_one_step_are_never_lost(void) {
    for (int buffers = 0; buffers < 2; buffers++) {
        struct exploration given = {.start = start,
                                    .bodies = {add_in_one_step, add_if_unchanged, add_in_one_step},
                                    .finish = note_counter,
                                    .store_buffers = buffers};
        outcomes = 0;
        explore_all(&given);
        CHECK_EQ(outcomes, 1 << 6);
        given.torn = &counter;
        outcomes = 0;
        explore_all(&given);
        CHECK(outcomes & 1 << 2 && outcomes & 1 << 5);
    }
}

static void announce_here(void) {
    ATOMIC_STORE(&here, 1, RELEASE);
    ATOMIC_FENCE();
    seen_there = ATOMIC_LOAD(&there, ACQUIRE);
}

static void announce_there(void) {
    ATOMIC_STORE(&there, 1, RELEASE);
    ATOMIC_FENCE();
    seen_here = ATOMIC_LOAD(&here, ACQUIRE);
}

static void note_sights(void) { outcomes |= 1u << (seen_here * 2 + seen_there); }

/* Neither sees the other: what a store buffer allows and a fence forbids. */
static void a_missing_fence_shows_with_store_buffers_alone(void) {
    for (int buffers = 0; buffers < 2; buffers++)
        for (int no_fences = 0; no_fences < 2; no_fences++) {
            struct exploration given = {.start = start,
                                        .bodies = {announce_here, announce_there},
                                        .finish = note_sights,
                                        .store_buffers = buffers,
                                        .no_fences = no_fences};
            outcomes = 0;
            explore_all(&given);
            CHECK_EQ(outcomes, 1 << 1 | 1 << 2 | 1 << 3 | (buffers && no_fences));
        }
}

static void write_then_publish(void) {
    PLAIN_STORE(&here, 7);
    ATOMIC_STORE(&there, 1, RELEASE);
}

static void read_what_is_published(void) {
    if (ATOMIC_LOAD(&there, ACQUIRE)) EXPECT(PLAIN_LOAD(&here) == 7);
}

static void a_message_is_seen_whole_unless_published_early(void) {
    for (int buffers = 0; buffers < 2; buffers++) {
        struct exploration given = {.start = start,
                                    .bodies = {write_then_publish, read_what_is_published},
                                    .finish = look_at_nothing,
                                    .store_buffers = buffers};
        explore_all(&given);
        given.publish_early = true;
        explore_finds(&given, "(&here) == 7");
    }
}

static void wait_for_both(void) {
    explore_wait(&here);
    explore_wait(&there);
    counter = 1;
}

static void set_one(void) {
    if (ATOMIC_LOAD(&there, RELAXED)) ATOMIC_STORE(&here, 1, RELAXED);
    else ATOMIC_STORE(&there, 1, RELAXED);
}

static void a_thread_that_waits_for_ever_is_left_waiting(void) {
    struct exploration given = {
        .start = start, .bodies = {wait_for_both, set_one, set_one}, .finish = note_counter};
    outcomes = 0;
    explore_all(&given);
    CHECK_EQ(outcomes, 1 << 0 | 1 << 1);
}

static void free_at_one(void) {
    ATOMIC_LOAD(&counter, RELAXED);
    explore_forbid(&counter, sizeof counter);
}

static void touch(void) { ATOMIC_LOAD(&counter, RELAXED); }

static void a_step_on_memory_that_is_gone_is_found(void) {
    struct exploration given = {
        .start = start, .bodies = {touch, free_at_one}, .finish = look_at_nothing};
    explore_finds(&given, "memory that is gone");
}

static void look_after_settling(void) {
    ATOMIC_LOAD(&counter, RELAXED);
    ATOMIC_LOAD(&counter, RELAXED);
    explore_settle(1);
    seen_here = ATOMIC_LOAD(&here, RELAXED);
}

static void set_here(void) { ATOMIC_STORE(&here, 1, RELAXED); }

static void note_what_was_seen(void) { outcomes |= 1u << seen_here; }

static void a_thread_at_a_place_is_not_taken_for_one_that_saw_a_zero(void) {
    struct exploration given = {
        .start = start, .bodies = {look_after_settling, set_here}, .finish = note_what_was_seen};
    outcomes = 0;
    explore_all(&given);
    CHECK_EQ(outcomes, 1 << 0 | 1 << 1);
}

int main(void) {
    RUN(additions_in_two_steps_are_lost_in_every_possible_way);
    RUN(additions_in_one_step_are_never_lost);
    RUN(a_missing_fence_shows_with_store_buffers_alone);
    RUN(a_message_is_seen_whole_unless_published_early);
    RUN(a_thread_that_waits_for_ever_is_left_waiting);
    RUN(a_step_on_memory_that_is_gone_is_found);
    RUN(a_thread_at_a_place_is_not_taken_for_one_that_saw_a_zero);
    return 0;
}
