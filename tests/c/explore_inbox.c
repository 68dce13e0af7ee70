/* inbox.h in every order of its steps. */
#include "explore.h"

#include "inbox.h"

#define SENDERS 3
#define EACH 2 /* at most */

static struct inbox inbox;
static struct message { struct inbox_node node; uint32_t taken; } messages[SENDERS][EACH];
static uint32_t woken, taken, refused, expected, next_of[SENDERS], counts[SENDERS];
static bool sleeps_unannounced;

static void start(void) {
    inbox_init(&inbox);
    memset(messages, 0, sizeof messages);
    memset(next_of, 0, sizeof next_of);
    woken = taken = refused = 0;
    explore_share(&inbox, sizeof inbox);
    explore_share(messages, sizeof messages);
    explore_share(next_of, sizeof next_of);
    explore_share(&woken, sizeof woken);
    explore_share(&taken, sizeof taken);
    explore_share(&refused, sizeof refused);
}

static void send(int sender) {
    for (uint32_t i = 0; i < counts[sender]; i++) {
        enum inbox_push result = inbox_push(&inbox, &messages[sender][i].node);
        if (result == INBOX_REFUSED) refused++;
        else if (result == INBOX_WAKE) ATOMIC_STORE(&woken, 1, RELEASE);
        explore_settle(i + 1);
    }
}

static void first_sender(void) { send(0); }
static void second_sender(void) { send(1); }
static void third_sender(void) { send(2); }

static void note(struct inbox_node *node) {
    for (; node; node = OWN_LOAD(&node->next)) {
        struct message *m = (struct message *)node;
        size_t sender = (size_t)(m - messages[0]) / EACH;
        EXPECT(m == &messages[sender][next_of[sender]]); /* each sender's in their order */
        next_of[sender]++;
        m->taken++;
        taken++;
    }
}

static void receive_all(void) {
    while (taken < expected) {
        note(inbox_take(&inbox));
        explore_settle(1);
        if (taken == expected) break;
        if (sleeps_unannounced ? !ATOMIC_LOAD(&inbox.newest, RELAXED) : inbox_sleep(&inbox)) {
            explore_wait(&woken);
            ATOMIC_STORE(&woken, 0, RELAXED);
        }
        explore_settle(2);
    }
}

static void close_early(void) {
    note(inbox_take(&inbox));
    explore_settle(1);
    if (inbox_sleep(&inbox)) note(inbox_take(&inbox)); /* woken by something else */
    explore_settle(2);
    note(inbox_close(&inbox));
    note(inbox_take(&inbox));
    EXPECT(!inbox_sleep(&inbox));
}

static void all_has_come(void) {
    EXPECT(taken == expected);
    EXPECT(refused == 0);
}

static void each_was_taken_or_refused(void) {
    EXPECT(taken + refused == expected);
    EXPECT(inbox.newest == INBOX_CLOSED);
    for (size_t s = 0; s < SENDERS; s++)
        for (uint32_t i = 0; i < EACH; i++) EXPECT(messages[s][i].taken == (i < next_of[s]));
}

static struct exploration receiving(uint32_t senders) {
    counts[0] = senders > 2 ? 1 : EACH;
    counts[1] = counts[2] = 1;
    expected = 3;
    return (struct exploration){
        .start = start, .finish = all_has_come, .store_buffers = senders == 2,
        .bodies = {receive_all, first_sender, second_sender, senders > 2 ? third_sender : NULL}};
}

static struct exploration closing(uint32_t senders) {
    struct exploration given = receiving(senders);
    given.bodies[0] = close_early;
    given.finish = each_was_taken_or_refused;
    return given;
}

static void a_receiver_who_sleeps_is_woken_for_every_message(void) {
    for (uint32_t senders = 2; senders <= SENDERS; senders++) {
        struct exploration given = receiving(senders);
        explore_all(&given);
    }
}

static void a_closed_inbox_has_given_all_and_refuses_the_rest(void) {
    for (uint32_t senders = 2; senders <= SENDERS; senders++) {
        struct exploration given = closing(senders);
        explore_all(&given);
    }
}

static void explorer_finds_a_receiver_who_sleeps_unannounced(void) {
    struct exploration given = receiving(2);
    sleeps_unannounced = true;
    explore_finds(&given, "taken == expected");
    sleeps_unannounced = false;
}

static void explorer_finds_an_inbox_that_is_not_changed_in_one_step(void) {
    struct exploration given = receiving(2);
    given.torn = &inbox.newest;
    explore_finds(&given, "explore_inbox.c");
    given = closing(2);
    given.torn = &inbox.newest;
    explore_finds(&given, "explore_inbox.c");
}

int main(void) {
    RUN(a_receiver_who_sleeps_is_woken_for_every_message);
    RUN(a_closed_inbox_has_given_all_and_refuses_the_rest);
    RUN(explorer_finds_a_receiver_who_sleeps_unannounced);
    RUN(explorer_finds_an_inbox_that_is_not_changed_in_one_step);
    return 0;
}
