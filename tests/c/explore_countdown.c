/* countdown.h in every order of its steps: nobody touches a group after its owner has left it. */
#include "explore.h"

#include "countdown.h"

static struct group { struct countdown members; uint32_t ended; } group;
static uint32_t woken, wakings, cancelled, left;
static bool (*end_of_member)(struct countdown *);

static void start(void) {
    memset(&group, 0, sizeof group);
    woken = wakings = left = 0;
    cancelled = 1; /* whenever it likes: the wait may end for another reason at once */
    countdown_add(&group.members);
    countdown_add(&group.members);
    explore_share(&group, sizeof group);
    explore_share(&woken, sizeof woken);
    explore_share(&wakings, sizeof wakings);
    explore_share(&left, sizeof left);
}

static void end(void) {
    ATOMIC_ADD(&group.ended, 1, RELAXED);
    if (!(end_of_member ? end_of_member : countdown_end)(&group.members)) return;
    wakings++;
    ATOMIC_STORE(&woken, 1, RELEASE);
}

static void member(void) { end(); }

static void member_who_adds_another(void) {
    countdown_add(&group.members);
    end();
    end(); /* the other's */
}

static void await_waking(void) {
    explore_wait(&woken);
    ATOMIC_STORE(&woken, 0, RELAXED);
}

static void leave(uint32_t expected) {
    EXPECT(ATOMIC_LOAD(&group.ended, RELAXED) == expected);
    EXPECT(ATOMIC_LOAD(&woken, RELAXED) == 0); /* no waking comes to one who does not wait */
    left = 1;
    ATOMIC_FENCE(); /* its own last store comes before whoever gets the memory next */
    explore_forbid(&group, sizeof group);
}

static void owner_of_two(void) {
    while (countdown_wait(&group.members)) await_waking();
    leave(2);
}

static void owner_of_three(void) {
    while (countdown_wait(&group.members)) await_waking();
    leave(3);
}

/* Its first wait is cancelled; the second is not. */
static void owner_who_stops_waiting(void) {
    if (countdown_wait(&group.members)) {
        explore_wait(&cancelled);
        if (countdown_stop_waiting(&group.members)) await_waking();
    }
    while (countdown_wait(&group.members)) await_waking();
    leave(2);
}

static void owner_who_forgets_the_waking(void) {
    if (countdown_wait(&group.members)) {
        explore_wait(&cancelled);
        countdown_stop_waiting(&group.members);
    }
    while (countdown_wait(&group.members)) await_waking();
    leave(2);
}

static void owner_has_left(void) {
    EXPECT(left == 1);
    EXPECT(wakings <= 1);
    EXPECT(woken == 0);
}

static struct exploration with(void (*owner)(void), void (*second)(void)) {
    return (struct exploration){.start = start, .finish = owner_has_left, .store_buffers = true,
                                .bodies = {owner, member, second}};
}

static void an_owner_leaves_once_all_members_have_ended(void) {
    struct exploration given = with(owner_of_two, member);
    explore_all(&given);
    given = with(owner_of_three, member_who_adds_another);
    explore_all(&given);
}

static void an_owner_whose_wait_is_cancelled_gets_no_stray_waking(void) {
    struct exploration given = with(owner_who_stops_waiting, member);
    explore_all(&given);
}

static bool end_and_look(struct countdown *c) {
    ATOMIC_SUB(&c->word, COUNTDOWN_MEMBER, ACQ_REL);
    return ATOMIC_LOAD(&c->word, ACQUIRE) == COUNTDOWN_WAITED;
}

static void explorer_finds_a_member_who_looks_after_its_end(void) {
    struct exploration given = with(owner_of_two, member);
    end_of_member = end_and_look;
    explore_finds(&given, "memory that is gone");
    end_of_member = NULL;
}

static void explorer_finds_a_waking_that_nobody_awaits(void) {
    struct exploration given = with(owner_who_forgets_the_waking, member);
    explore_finds(&given, "woken");
}

static void explorer_finds_a_count_that_is_not_changed_in_one_step(void) {
    struct exploration given = with(owner_of_two, member);
    given.torn = &group.members.word;
    explore_finds(&given, "explore_countdown.c");
}

int main(void) {
    RUN(an_owner_leaves_once_all_members_have_ended);
    RUN(an_owner_whose_wait_is_cancelled_gets_no_stray_waking);
    RUN(explorer_finds_a_member_who_looks_after_its_end);
    RUN(explorer_finds_a_waking_that_nobody_awaits);
    RUN(explorer_finds_a_count_that_is_not_changed_in_one_step);
    return 0;
}
