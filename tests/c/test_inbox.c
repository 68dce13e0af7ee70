/* inbox.h by one thread, from a signal handler, and by eight threads at once; in every order of its
 * steps it is explored in explore_inbox.c.
 */
#include "inbox.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>

#include "check.h"

#define SENDERS 7
#define MESSAGES 20000 /* of each sender */

static struct inbox inbox;
static struct message {
    struct inbox_node node;
    uint32_t sender, number; /* plain: a race is reported */
} messages[SENDERS][MESSAGES];

static void messages_come_in_the_order_of_their_sending(void) {
    inbox_init(&inbox);
    CHECK(inbox_take(&inbox) == NULL);
    for (int i = 0; i < 3; i++) CHECK_EQ(inbox_push(&inbox, &messages[0][i].node), INBOX_SENT);
    struct inbox_node *node = inbox_take(&inbox);
    for (int i = 0; i < 3; i++, node = node->next) CHECK(node == &messages[0][i].node);
    CHECK(node == NULL);
    CHECK(inbox_take(&inbox) == NULL);
}

static void the_first_to_send_to_a_sleeper_must_wake_it(void) {
    inbox_init(&inbox);
    CHECK(inbox_sleep(&inbox));
    CHECK_EQ(inbox_push(&inbox, &messages[0][0].node), INBOX_WAKE);
    CHECK_EQ(inbox_push(&inbox, &messages[0][1].node), INBOX_SENT);
    CHECK(!inbox_sleep(&inbox));
    CHECK(inbox_take(&inbox) == &messages[0][0].node);
    CHECK(inbox_sleep(&inbox));
    CHECK(inbox_take(&inbox) == NULL); /* woken by something else */
    CHECK_EQ(inbox_push(&inbox, &messages[0][0].node), INBOX_SENT);
}

static void a_closed_inbox_refuses(void) {
    inbox_init(&inbox);
    CHECK_EQ(inbox_push(&inbox, &messages[0][0].node), INBOX_SENT);
    CHECK(inbox_close(&inbox) == &messages[0][0].node);
    CHECK_EQ(inbox_push(&inbox, &messages[0][1].node), INBOX_REFUSED);
    CHECK(inbox_take(&inbox) == NULL);
    CHECK(!inbox_sleep(&inbox));
    CHECK(inbox_close(&inbox) == NULL);
}

/* ---- a signal handler ---- */

static volatile sig_atomic_t signalled;

static void send_from_handler(int sig) {
    if (signalled < MESSAGES) inbox_push(&inbox, &messages[1][signalled++].node);
}

static void a_signal_handler_may_send_at_any_moment(void) {
    struct sigaction old, action = {.sa_handler = send_from_handler};
    struct itimerspec often = {{0, 20000}, {0, 20000}};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    timer_t timer;
    int taken = 0, sent = 0;
    inbox_init(&inbox);
    CHECK_EQ(sigaction(SIGUSR1, &action, &old), 0);
    CHECK_EQ(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
    CHECK_EQ(timer_settime(timer, 0, &often, NULL), 0);
    for (; signalled < 200; sent++) {
        inbox_push(&inbox, &messages[0][0].node);
        for (struct inbox_node *n = inbox_take(&inbox), *next; n; n = next, taken++) next = n->next;
    }
    CHECK_EQ(timer_delete(timer), 0);
    CHECK_EQ(sigaction(SIGUSR1, &old, NULL), 0);
    for (struct inbox_node *n = inbox_take(&inbox); n; n = n->next) taken++;
    CHECK_EQ(taken, sent + signalled);
}

/* ---- eight threads ---- */

static sem_t alarm_clock;
static uint32_t refused;

static void *send_all(void *arg) {
    uint32_t sender = (uint32_t)(uintptr_t)arg;
    for (uint32_t i = 0; i < MESSAGES; i++) {
        struct message *m = &messages[sender][i];
        m->sender = sender;
        m->number = i;
        switch (inbox_push(&inbox, &m->node)) {
        case INBOX_SENT: break;
        case INBOX_WAKE: CHECK_EQ(sem_post(&alarm_clock), 0); break;
        case INBOX_REFUSED: __atomic_fetch_add(&refused, 1, __ATOMIC_RELAXED); break;
        }
    }
    return NULL;
}

static uint32_t next_of[SENDERS];

static uint32_t note(struct inbox_node *node) {
    uint32_t count = 0;
    for (; node; node = node->next, count++) {
        struct message *m = (struct message *)node;
        CHECK_EQ(m->number, next_of[m->sender]);
        next_of[m->sender]++;
    }
    return count;
}

static void receive_from_seven(uint32_t until) {
    pthread_t threads[SENDERS];
    uint32_t taken = 0;
    inbox_init(&inbox);
    memset(next_of, 0, sizeof next_of);
    refused = 0;
    CHECK_EQ(sem_init(&alarm_clock, 0, 0), 0);
    for (uintptr_t i = 0; i < SENDERS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, send_all, (void *)i), 0);
    while (taken < until) {
        taken += note(inbox_take(&inbox));
        if (taken < until && inbox_sleep(&inbox)) CHECK_EQ(sem_wait(&alarm_clock), 0);
    }
    taken += note(inbox_close(&inbox));
    for (int i = 0; i < SENDERS; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
    CHECK_EQ(taken + refused, SENDERS * MESSAGES);
    CHECK_EQ(sem_destroy(&alarm_clock), 0);
}

/* A lost wake-up would be a hang. */
static void what_seven_threads_send_to_one_comes_in_their_orders(void) {
    receive_from_seven(SENDERS * MESSAGES);
}

static void what_comes_after_the_close_is_refused(void) {
    for (uint32_t round = 0; round < 20; round++) receive_from_seven(round * MESSAGES / 10);
}

int main(void) {
    RUN(messages_come_in_the_order_of_their_sending);
    RUN(the_first_to_send_to_a_sleeper_must_wake_it);
    RUN(a_closed_inbox_refuses);
    RUN(a_signal_handler_may_send_at_any_moment);
    RUN(what_seven_threads_send_to_one_comes_in_their_orders);
    RUN(what_comes_after_the_close_is_refused);
    return 0;
}
