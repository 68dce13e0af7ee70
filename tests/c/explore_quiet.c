/* quiet.h and inbox.h in every order of their steps: threads that pass a message on are found quiet
 * only after its last owner has dropped it.
 */
#include "explore.h"

#include "inbox.h"
#include "quiet.h"

#define WORKERS 2

static struct worker {
    struct quiet quiet;
    struct inbox inbox;
    struct inbox_node node;
    uint32_t woken;
} workers[WORKERS];
static uint32_t passes, passes_at_start, dropped;
static bool looks_once, takes_first;

static void start(void) {
    memset(workers, 0, sizeof workers);
    for (int i = 0; i < WORKERS; i++) inbox_init(&workers[i].inbox);
    passes = passes_at_start;
    dropped = 0;
    explore_share(workers, sizeof workers);
    explore_share(&passes, sizeof passes);
    explore_share(&dropped, sizeof dropped);
}

static void send_to(struct worker *to) {
    if (inbox_push(&to->inbox, &to->node) == INBOX_WAKE) ATOMIC_STORE(&to->woken, 1, RELEASE);
}

/* As a loop's tick. */
static void receive(struct worker *me) {
    quiet_begin(&me->quiet);
    if (inbox_sleep(&me->inbox)) {
        explore_wait(&me->woken);
        ATOMIC_STORE(&me->woken, 0, RELAXED);
    }
    if (!takes_first) quiet_end(&me->quiet);
    EXPECT(inbox_take(&me->inbox) == &me->node);
    quiet_end(&me->quiet);
}

/* Passes the message on until it was passed often enough; then both wait for ever. */
static void work(int index) {
    struct worker *me = &workers[index], *other = &workers[!index];
    while (!ATOMIC_LOAD(&dropped, RELAXED)) {
        receive(me);
        if (ATOMIC_SUB(&passes, 1, RELAXED) == 1) ATOMIC_STORE(&dropped, 1, RELEASE);
        else send_to(other);
    }
    quiet_begin(&me->quiet);
}

static void first_worker(void) {
    send_to(&workers[1]);
    work(0);
}

static void second_worker(void) { work(1); }

/* ---- who asks, in the steps of Crew.is_quiet ---- */

static bool all_are_odd(uint64_t *sum) {
    bool odd = true;
    *sum = 0;
    for (int i = 0; i < WORKERS; i++) {
        uint64_t changes = quiet_changes(&workers[i].quiet);
        odd = odd && changes & 1;
        *sum += changes;
    }
    return odd;
}

static bool is_quiet(void) {
    uint64_t before, after;
    bool quiet = all_are_odd(&before);
    for (int i = 0; i < WORKERS; i++) quiet = quiet && inbox_is_empty(&workers[i].inbox);
    if (looks_once) return quiet;
    all_are_odd(&after);
    return quiet && before == after;
}

static void look(void) {
    if (is_quiet()) EXPECT(ATOMIC_LOAD(&dropped, RELAXED));
}

static void all_is_quiet(void) { EXPECT(dropped && is_quiet()); }

static struct exploration looking(uint32_t times) {
    passes_at_start = times;
    return (struct exploration){.start = start, .finish = all_is_quiet, .store_buffers = true,
                                .bodies = {first_worker, second_worker, look}};
}

static void none_is_found_quiet_while_a_message_is_on_its_way(void) {
    for (uint32_t times = 1; times <= 3; times++) {
        struct exploration given = looking(times);
        explore_all(&given);
    }
}

/* ---- planted mistakes ---- */

static void explorer_finds_counts_that_are_read_once(void) {
    struct exploration given = looking(2);
    looks_once = true;
    explore_finds(&given, "dropped");
    looks_once = false;
}

static void explorer_finds_a_thread_that_takes_while_it_is_quiet(void) {
    struct exploration given = looking(2);
    takes_first = true;
    explore_finds(&given, "dropped");
    takes_first = false;
}

int main(void) {
    RUN(none_is_found_quiet_while_a_message_is_on_its_way);
    RUN(explorer_finds_counts_that_are_read_once);
    RUN(explorer_finds_a_thread_that_takes_while_it_is_quiet);
    return 0;
}
