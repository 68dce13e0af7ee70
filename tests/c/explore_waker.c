/* waker.h in every order of its steps: who sleeps, after a look at what others have said, is woken
 * for everything that is said later; through the pipe, and by messages with the pipe behind them.
 */
#define _GNU_SOURCE
#include "explore.h"

#include <unistd.h>

#define SPEAKERS 3

static ssize_t explored_write(int fd, const void *from, size_t size);
static ssize_t explored_read(int fd, void *to, size_t size);
#define write explored_write
#define read explored_read
#include "waker.h"
#undef write
#undef read

static struct waker waker;
static uint32_t arrived; /* bytes in the pipe, or messages in the ring */
static uint32_t said[SPEAKERS], speakers, ended, messages_fail;
static void (*clear)(void);
static bool wakes_first;

static void start(void) {
    memset(&waker, 0, sizeof waker);
    memset(said, 0, sizeof said);
    arrived = ended = 0;
    messages_fail = 2; /* the second and later ones */
    explore_share(&waker, sizeof waker);
    explore_share(said, sizeof said);
    explore_share(&arrived, sizeof arrived);
    explore_share(&messages_fail, sizeof messages_fail);
}

/* ---- the kernel ---- */

static ssize_t explored_write(int fd, const void *from, size_t size) {
    ATOMIC_ADD(&arrived, 1, SEQ_CST);
    return (ssize_t)size;
}

static ssize_t explored_read(int fd, void *to, size_t size) {
    return (ssize_t)ATOMIC_SWAP(&arrived, 0, SEQ_CST);
}

static bool send_message(void) {
    if (ATOMIC_SUB(&messages_fail, 1, SEQ_CST) == 1) return false;
    ATOMIC_ADD(&arrived, 1, SEQ_CST);
    return true;
}

/* ---- who speaks ---- */

static void say(int speaker) { ATOMIC_STORE(&said[speaker], 1, RELEASE); }

static void speak_through_pipe(int speaker) {
    if (!wakes_first) say(speaker);
    waker_wake(&waker);
    if (wakes_first) say(speaker);
}

/* As an engine's wake() does. */
static void speak_by_message(int speaker) {
    say(speaker);
    if (waker_call(&waker) && !send_message()) waker_write(&waker);
}

static void first_through_pipe(void) { speak_through_pipe(0); }
static void second_through_pipe(void) { speak_through_pipe(1); }
static void third_through_pipe(void) { speak_through_pipe(2); }
static void first_by_message(void) { speak_by_message(0); }
static void second_by_message(void) { speak_by_message(1); }

/* ---- who sleeps ---- */

static void clear_by_store(void) {
    char buf[256];
    explored_read(-1, buf, sizeof buf);
    ATOMIC_STORE(&waker.pending, 0, RELEASE);
}

static void clear_before_reading(void) {
    char buf[256];
    waker_clear(&waker);
    explored_read(-1, buf, sizeof buf);
}

static void drain(void) {
    if (clear) clear();
    else waker_drain(&waker);
}

static void take_message(void) {
    ATOMIC_SUB(&arrived, 1, SEQ_CST);
    waker_clear(&waker);
}

static void hear_all(void (*take)(void)) {
    for (;;) {
        uint32_t heard = 0;
        for (uint32_t i = 0; i < speakers; i++) heard += ATOMIC_LOAD(&said[i], ACQUIRE);
        if (heard == speakers) break;
        explore_settle(1);
        explore_wait(&arrived);
        take();
        explore_settle(2);
    }
    ended = 1;
}

static void sleeper_at_pipe(void) { hear_all(drain); }
static void sleeper_at_ring(void) { hear_all(take_message); }

static void all_was_heard(void) { EXPECT(ended == 1); }

static struct exploration with(void (*sleeper)(void), void (*first)(void), void (*second)(void),
                               void (*third)(void)) {
    speakers = third ? 3 : 2;
    return (struct exploration){.start = start, .finish = all_was_heard, .store_buffers = true,
                                .bodies = {sleeper, first, second, third}};
}

static void a_sleeper_at_the_pipe_is_woken_for_all_that_is_said(void) {
    struct exploration given =
        with(sleeper_at_pipe, first_through_pipe, second_through_pipe, third_through_pipe);
    explore_all(&given);
}

/* Workers of the engine write to the pipe while others send messages. */
static void a_sleeper_is_woken_by_messages_and_by_what_follows_one_that_fails(void) {
    struct exploration given =
        with(sleeper_at_ring, first_by_message, second_by_message, third_through_pipe);
    explore_all(&given);
}

static void explorer_finds_a_call_that_is_cleared_by_a_store(void) {
    struct exploration given = with(sleeper_at_pipe, first_through_pipe, second_through_pipe, NULL);
    clear = clear_by_store;
    explore_finds(&given, "ended == 1");
    clear = NULL;
}

static void explorer_finds_a_call_that_is_cleared_before_the_pipe_is_read(void) {
    struct exploration given =
        with(sleeper_at_pipe, first_through_pipe, second_through_pipe, third_through_pipe);
    clear = clear_before_reading;
    explore_finds(&given, "ended == 1");
    clear = NULL;
}

static void explorer_finds_one_that_wakes_before_it_speaks(void) {
    struct exploration given = with(sleeper_at_pipe, first_through_pipe, second_through_pipe, NULL);
    wakes_first = true;
    explore_finds(&given, "ended == 1");
    wakes_first = false;
}

int main(void) {
    RUN(a_sleeper_at_the_pipe_is_woken_for_all_that_is_said);
    RUN(a_sleeper_is_woken_by_messages_and_by_what_follows_one_that_fails);
    RUN(explorer_finds_a_call_that_is_cleared_by_a_store);
    RUN(explorer_finds_a_call_that_is_cleared_before_the_pipe_is_read);
    RUN(explorer_finds_one_that_wakes_before_it_speaks);
    return 0;
}
