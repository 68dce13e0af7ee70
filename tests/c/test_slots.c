/* slots.h: a completion finds its own operation or none. */
#include <errno.h>

#include "slots.h"

#include "check.h"

/* What stands around a struct op in an engine must stay whole. */
struct larger {
    struct op op;
    uint64_t own;
};

#define HELD 500

static struct slots new_slots(void) { return (struct slots){.stride = sizeof(struct larger)}; }

static void a_completion_finds_its_own_operation_or_none(void) {
    struct slots s = new_slots();
    struct op *held[HELD] = {0};
    uint64_t live[HELD] = {0};
    uint64_t *gone = calloc(20000, sizeof *gone);
    uint32_t gone_count = 0, held_count = 0;
    CHECK(gone != NULL);
    for (int step = 0; step < 20000; step++) {
        uint32_t i = random_below(HELD);
        if (!held[i]) {
            held[i] = slots_take(&s, OP_READ, (int32_t)i);
            CHECK(held[i] != NULL);
            live[i] = slots_user_data(held[i]);
            CHECK(slots_find(&s, live[i]) == NULL); /* prepared, but not with the kernel */
            held[i]->state = OP_IN_FLIGHT;
            ((struct larger *)held[i])->own = live[i];
            held_count++;
        } else {
            CHECK_EQ(((struct larger *)held[i])->own, live[i]);
            slots_give(&s, held[i]);
            gone[gone_count++] = live[i];
            held[i] = NULL;
            held_count--;
        }
        CHECK_EQ(s.in_use, held_count);
        i = random_below(HELD);
        if (held[i]) CHECK(slots_find(&s, live[i]) == held[i]);
        if (gone_count) CHECK(slots_find(&s, gone[random_below(gone_count)]) == NULL);
    }
    for (uint32_t i = 0; i < gone_count; i++) CHECK(slots_find(&s, gone[i]) == NULL);
    free(gone);
    slots_free(&s);
}

static void slots_never_move_while_others_are_made(void) {
    struct slots s = new_slots();
    struct op *held[20 * SLOTS_PER_CHUNK];
    uint32_t count = sizeof held / sizeof *held;
    for (uint32_t i = 0; i < count; i++) {
        held[i] = slots_take(&s, OP_NOP, -1);
        CHECK(held[i] != NULL);
    }
    CHECK_EQ(s.chunk_count, 20);
    for (uint32_t i = 0; i < count; i++) CHECK(slots_at(&s, held[i]->index) == held[i]);
    slots_free(&s);
    CHECK_EQ(s.chunk_count, 0);
}

static void a_slot_used_again_has_nothing_of_the_last_operation(void) {
    struct slots s = new_slots();
    struct op *o = slots_take(&s, OP_WRITE, 7);
    o->addr = o->addr2 = o->waiter = o->payload = o;
    o->len = 9, o->off = 9, o->result = 9, o->result_flags = 9;
    o->flags = o->mode = 9;
    o->fd2 = 9, o->traits = o->how_cancelled = 1;
    slots_give(&s, o);
    CHECK(slots_take(&s, OP_READ, 8) == o);
    CHECK(!o->addr && !o->addr2 && !o->waiter && !o->payload && !o->next);
    CHECK(!o->len && !o->off && !o->result && !o->result_flags && !o->flags && !o->mode);
    CHECK(!o->traits && !o->how_cancelled);
    CHECK_EQ(o->kind, OP_READ);
    CHECK_EQ(o->fd, 8);
    CHECK_EQ(o->fd2, -1);
    CHECK_EQ(o->state, OP_PREPARED);
    slots_free(&s);
}

static void the_generation_goes_on_past_its_largest_value(void) {
    struct slots s = new_slots();
    struct op *o = slots_take(&s, OP_NOP, -1);
    o->generation = UINT32_MAX;
    o->state = OP_IN_FLIGHT;
    uint64_t last = slots_user_data(o);
    CHECK(slots_find(&s, last) == o);
    slots_give(&s, o);
    CHECK(slots_take(&s, OP_NOP, -1) == o);
    o->state = OP_IN_FLIGHT;
    CHECK_EQ(o->generation, 0);
    CHECK(slots_find(&s, last) == NULL);
    CHECK(slots_find(&s, slots_user_data(o)) == o);
    slots_free(&s);
}

static void a_number_that_no_slot_has_finds_none(void) {
    struct slots s = new_slots();
    CHECK(slots_find(&s, 0) == NULL);
    struct op *o = slots_take(&s, OP_NOP, -1);
    o->state = OP_IN_FLIGHT;
    CHECK(slots_find(&s, SLOTS_PER_CHUNK - 1) == NULL);
    CHECK(slots_find(&s, SLOTS_PER_CHUNK) == NULL);
    CHECK(slots_find(&s, UINT64_MAX) == NULL);
    CHECK(slots_find(&s, UINT32_MAX) == NULL);
    slots_free(&s);
}

static void beyond_the_bound_there_is_no_slot(void) {
    struct slots s = new_slots();
    s.chunk_count = SLOTS_MAX / SLOTS_PER_CHUNK; /* as if all were taken */
    CHECK(slots_take(&s, OP_NOP, -1) == NULL);
    CHECK_EQ(slots_grow(&s), -ENOBUFS);
    CHECK_EQ(s.in_use, 0);
}

int main(void) {
    seed_random();
    RUN(a_completion_finds_its_own_operation_or_none);
    RUN(slots_never_move_while_others_are_made);
    RUN(a_slot_used_again_has_nothing_of_the_last_operation);
    RUN(the_generation_goes_on_past_its_largest_value);
    RUN(a_number_that_no_slot_has_finds_none);
    RUN(beyond_the_bound_there_is_no_slot);
    return 0;
}
