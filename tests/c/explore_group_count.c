/* group_count.h in every order of its steps: all members are awaited, nobody touches a group after
 * its owner has left it, and no waking comes to an owner that does not wait for it. */
#include "explore.h"

#include "group_count.h"

static struct group { struct group_count count; uint32_t ended; } group;
static uint32_t woken, wakings, waits, cancelled, left, refused, added;
static bool (*end_of_member)(struct group_count *);
static bool (*addition)(struct group_count *);

static void start(void) {
    memset(&group, 0, sizeof group);
    group_count_init(&group.count);
    woken = wakings = waits = left = refused = 0;
    cancelled = 1; /* the wait may end for another reason at any time */
    added = 0;
    explore_share(&group, sizeof group);
    explore_share(&woken, sizeof woken);
    explore_share(&wakings, sizeof wakings);
    explore_share(&waits, sizeof waits);
    explore_share(&added, sizeof added);
}

static void start_with_one(void) {
    start();
    group_count_add(&group.count);
    added = 1;
}

static void start_with_two(void) {
    start_with_one();
    group_count_add(&group.count);
    added = 2;
}

/* ---- members, and somebody else who knows the group ---- */

static void end(void) {
    ATOMIC_ADD(&group.ended, 1, RELAXED);
    if (!(end_of_member ? end_of_member : group_count_end)(&group.count)) return;
    wakings++;
    ATOMIC_STORE(&woken, 1, RELEASE);
}

static void member(void) { end(); }

static bool add(void) {
    if (!(addition ? addition : group_count_add)(&group.count)) return false;
    added++;
    return true;
}

static void member_that_adds_another(void) {
    EXPECT(add()); /* it is a member itself, so the group cannot be closed */
    end();
    end(); /* the other's */
}

static void stranger_that_adds_members(void) {
    for (int i = 0; i < 2; i++) {
        if (add()) end();
        else refused++;
    }
}

/* ---- owners ---- */

static bool is_to_wait(bool closes) {
    bool waits_now = group_count_wait(&group.count, closes);
    waits += waits_now;
    return waits_now;
}

static void await_waking(void) {
    explore_wait(&woken);
    ATOMIC_STORE(&woken, 0, RELAXED);
}

static void leave(void) {
    EXPECT(ATOMIC_LOAD(&group.ended, RELAXED) == added);
    EXPECT(ATOMIC_LOAD(&woken, RELAXED) == 0); /* no waking comes to one that does not wait */
    left = 1;
    ATOMIC_FENCE(); /* its own last store comes before whoever gets the memory next */
    explore_forbid(&group, sizeof group);
}

static void owner(void) {
    while (is_to_wait(true)) await_waking();
    leave();
}

/* TaskGroup.wait(), after which the group is still open; then the end of the block. */
static void owner_that_waits_twice(void) {
    while (is_to_wait(false)) await_waking();
    owner();
}

/* The first wait is cancelled, the second is not. */
static void owner_that_stops_waiting(void) {
    if (is_to_wait(false)) {
        explore_wait(&cancelled);
        if (!group_count_stop_waiting(&group.count)) await_waking();
    }
    owner();
}

static void owner_that_forgets_the_waking(void) {
    if (is_to_wait(false)) {
        explore_wait(&cancelled);
        group_count_stop_waiting(&group.count);
    }
    owner();
}

/* A stranger may find the group as long as it is there: its memory stays. */
static void owner_that_closes(void) {
    while (is_to_wait(true)) await_waking();
    EXPECT(ATOMIC_LOAD(&group.ended, RELAXED) == ATOMIC_LOAD(&added, RELAXED));
    left = 1;
}

static void owner_has_left(void) {
    EXPECT(left == 1);
    EXPECT(wakings <= waits);
    EXPECT(woken == 0);
}

static void none_came_after_it_was_closed(void) {
    owner_has_left();
    EXPECT(group.count.word == GROUP_CLOSED);
    EXPECT(group.ended == added);
    EXPECT(added + refused == 3);
}

static struct exploration with(void (*begin)(void), void (*first)(void), void (*second)(void),
                               void (*third)(void)) {
    return (struct exploration){.start = begin, .finish = owner_has_left, .store_buffers = true,
                                .bodies = {first, second, third}};
}

static void an_owner_leaves_once_all_members_have_ended(void) {
    struct exploration given = with(start_with_two, owner, member, member);
    explore_all(&given);
    given = with(start_with_two, owner, member, member_that_adds_another);
    explore_all(&given);
    given.bodies[1] = member_that_adds_another;
    explore_all(&given);
}

static void an_owner_may_wait_and_keep_the_group_open(void) {
    struct exploration given = with(start_with_two, owner_that_waits_twice, member,
                                    member_that_adds_another);
    explore_all(&given);
}

static void an_owner_whose_wait_is_cancelled_gets_no_stray_waking(void) {
    struct exploration given = with(start_with_two, owner_that_stops_waiting, member, member);
    explore_all(&given);
    given = with(start_with_one, owner_that_stops_waiting, member_that_adds_another, NULL);
    explore_all(&given);
}

static void a_stranger_adds_members_that_are_awaited_or_refused(void) {
    struct exploration given = with(start_with_one, owner_that_closes, member,
                                    stranger_that_adds_members);
    given.finish = none_came_after_it_was_closed;
    explore_all(&given);
}

/* ---- planted mistakes ---- */

/* As one that unlocks the group after it has said that it ended. */
static bool end_and_look(struct group_count *c) {
    bool wakes = group_count_end(c);
    ATOMIC_LOAD(&c->word, ACQUIRE);
    return wakes;
}

static void explorer_finds_a_member_that_looks_after_its_end(void) {
    struct exploration given = with(start_with_two, owner, member, member);
    end_of_member = end_and_look;
    explore_finds(&given, "memory that is gone");
    end_of_member = NULL;
}

/* Right as long as only members add: whoever comes after the last of them wakes the owner again. */
static bool end_and_leave_it_waited_for(struct group_count *c) {
    return ATOMIC_SUB(&c->word, GROUP_MEMBER, ACQ_REL) == (GROUP_MEMBER | GROUP_WAITED);
}

static void explorer_finds_an_owner_that_is_waked_twice_for_one_wait(void) {
    struct exploration given = with(start_with_one, owner_that_closes, member,
                                    stranger_that_adds_members);
    end_of_member = end_and_leave_it_waited_for;
    explore_finds(&given, "explore_group_count.c");
    end_of_member = NULL;
}

static bool add_without_looking(struct group_count *c) {
    ATOMIC_ADD(&c->word, GROUP_MEMBER, RELAXED);
    return true;
}

static void explorer_finds_a_member_that_comes_too_late(void) {
    struct exploration given = with(start_with_one, owner_that_closes, member,
                                    stranger_that_adds_members);
    addition = add_without_looking;
    explore_finds(&given, "explore_group_count.c");
    addition = NULL;
}

static void explorer_finds_a_waking_that_nobody_awaits(void) {
    struct exploration given = with(start_with_two, owner_that_forgets_the_waking, member, member);
    explore_finds(&given, "woken");
}

static void explorer_finds_a_count_that_is_not_changed_in_one_step(void) {
    struct exploration given = with(start_with_two, owner, member, member);
    given.torn = &group.count.word;
    explore_finds(&given, "explore_group_count.c");
}

int main(void) {
    RUN(an_owner_leaves_once_all_members_have_ended);
    RUN(an_owner_may_wait_and_keep_the_group_open);
    RUN(an_owner_whose_wait_is_cancelled_gets_no_stray_waking);
    RUN(a_stranger_adds_members_that_are_awaited_or_refused);
    RUN(explorer_finds_a_member_that_looks_after_its_end);
    RUN(explorer_finds_an_owner_that_is_waked_twice_for_one_wait);
    RUN(explorer_finds_a_member_that_comes_too_late);
    RUN(explorer_finds_a_waking_that_nobody_awaits);
    RUN(explorer_finds_a_count_that_is_not_changed_in_one_step);
    return 0;
}
