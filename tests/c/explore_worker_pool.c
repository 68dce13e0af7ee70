/* worker_pool.h in every order of its steps: an operation is done once, by a worker or by who takes
 * it back; a signal goes only to a thread that is there; whoever waits for what is done is told.
 *
 * The slot queue, which has an exploration of its own, is one of as many slots as are ever needed.
 */
#define _GNU_SOURCE
#include "explore.h"

#include <pthread.h>
#include <signal.h>

#define WORKERS 2
#define OPS 3

/* ---- the queue between owner and workers ---- */

#define FERRULE_SLOT_QUEUE_H
#define ENTRIES 8
#include "atomics.h"
struct slot_queue {
    void *entries[ENTRIES];
    uint32_t full[ENTRIES], head, tail;
};

static int slot_queue_init(struct slot_queue *q, size_t size) { return 0; }
static void slot_queue_destroy(struct slot_queue *q) {}

static void slot_queue_push(struct slot_queue *q, void *entry) {
    CHECK(q->head < ENTRIES);
    PLAIN_STORE(&q->entries[q->head], entry);
    ATOMIC_STORE(&q->full[q->head++], 1, RELEASE);
}

static void *slot_queue_pop(struct slot_queue *q, bool block) {
    uint32_t i = ATOMIC_ADD(&q->tail, 1, RELAXED);
    explore_wait(&q->full[i]);
    return PLAIN_LOAD(&q->entries[i]);
}

/* ---- the system ---- */

static uint32_t is_free, notified, signalled[EXPLORE_THREADS], began[OPS], interrupted[OPS];

static uint32_t self(void) { return (uint32_t)(explorer.current - explorer.threads); }

static int explored_lock(void) {
    explore_wait(&is_free);
    is_free = 0;
    return 0;
}

static int explored_unlock(void) {
    is_free = 1;
    return 0;
}

static int explored_kill(pthread_t thread) {
    explore_step("kill", NULL);
    explore_observe(0);
    EXPECT(!explorer.threads[thread].ended);
    signalled[thread] = 1;
    return 0;
}

#define pthread_mutex_lock(m) explored_lock()
#define pthread_mutex_unlock(m) explored_unlock()
#define pthread_cond_signal(c) ((void)0)
#define pthread_self() ((pthread_t)self())
#define pthread_kill(thread, number) explored_kill(thread)

#include "worker_pool.h"

static struct pool pool;
static struct pool_ticket tickets[OPS];
static struct op ops[OPS];
static uint32_t ticket_count, done, cancels;

static int64_t attempt_nop(struct op *o) {
    ATOMIC_ADD(&began[o - ops], 1, SEQ_CST);
    return 0;
}

/* A signal that comes before the wait is lost. */
static int64_t attempt_read(struct op *o) {
    ATOMIC_ADD(&began[o - ops], 1, SEQ_CST);
    ATOMIC_STORE(&signalled[self()], 0, SEQ_CST);
    explore_wait(&signalled[self()]);
    return -EINTR;
}

const struct op_row op_rows[OP_KINDS] = {
    [OP_NOP] = {.name = "nop", .attempt = attempt_nop},
    [OP_READ] = {.name = "read", .attempt = attempt_read},
};

static void notify(void *arg) { ATOMIC_ADD(&notified, 1, SEQ_CST); }

static void start(void) {
    pool_init(&pool, WORKERS, WORKERS, notify, NULL);
    memset(tickets, 0, sizeof tickets);
    memset(ops, 0, sizeof ops);
    memset(signalled, 0, sizeof signalled);
    memset(began, 0, sizeof began);
    memset(interrupted, 0, sizeof interrupted);
    pool.tickets = tickets;
    for (uint32_t i = ticket_count; i-- > 0;) {
        tickets[i].next = pool.free;
        pool.free = &tickets[i];
    }
    pool.threads = pool.alive = WORKERS;
    notified = done = 0;
    is_free = 1;
    explore_share(&pool, sizeof pool);
    explore_share(tickets, sizeof tickets);
    explore_share(ops, sizeof ops);
    explore_share(&notified, sizeof notified);
    explore_share(signalled, sizeof signalled);
    explore_share(&is_free, sizeof is_free);
    explore_share(began, sizeof began);
    explore_share(&done, sizeof done);
}

/* ---- threads ---- */

static void submit(uint32_t number, uint8_t kind) {
    ops[number] = (struct op){.kind = kind, .result = -1};
    EXPECT(pool_submit(&pool, &ops[number]) == 0);
}

/* Once; for one that runs, again with each look. */
static void cancel(uint32_t number) {
    ATOMIC_OR(&ops[number].how_cancelled, OP_CANCEL_SENT, ACQ_REL);
    interrupted[number] = pool_interrupt(&pool, &ops[number]);
}

static void reap(void) {
    for (struct op *o = pool_reap(&pool); o; o = o->next) {
        EXPECT(o->state == 0);
        o->state = OP_DONE;
        interrupted[o - ops] = 0;
        done++;
    }
}

static void reap_all(uint32_t count) {
    for (;;) {
        uint32_t repeats = 0;
        reap();
        if (done == count) break;
        for (uint32_t i = 0; i < OPS; i++)
            if (interrupted[i]) repeats += interrupted[i] = pool_interrupt(&pool, &ops[i]);
        explore_settle(done);
        if (!repeats) explore_wait(&notified);
        ATOMIC_STORE(&notified, 0, SEQ_CST);
    }
    pool_dismiss(&pool);
}

static void owner_of_two_short_ones(void) {
    submit(0, OP_NOP);
    submit(1, OP_NOP);
    if (cancels) cancel(1);
    reap_all(2);
}

static void owner_of_one_that_waits(void) {
    submit(0, OP_READ);
    submit(1, OP_NOP);
    cancel(0);
    reap_all(2);
}

static void owner_of_more_than_there_are_tickets(void) {
    submit(0, OP_NOP);
    submit(1, OP_NOP);
    submit(2, OP_NOP);
    if (cancels) cancel(2);
    reap_all(3);
}

static void wait_and_reap(void) {
    explore_wait(&notified);
    ATOMIC_STORE(&notified, 0, SEQ_CST);
    reap();
}

/* Of an operation that was taken back the ticket may come when nobody waits for anything. */
static bool reaps_only_what_it_waits_for;

static void owner_that_looks_between_two_operations(void) {
    submit(0, OP_NOP);
    cancel(0);
    while (done < 1) wait_and_reap();
    if (ATOMIC_LOAD(&notified, SEQ_CST)) {
        ATOMIC_STORE(&notified, 0, SEQ_CST);
        if (!reaps_only_what_it_waits_for) reap();
    }
    submit(1, OP_NOP);
    while (done < 2) wait_and_reap();
    pool_dismiss(&pool);
}

static void worker(void) { pool_main(&pool); }

/* ---- in the end ---- */

static void each_was_done_once(void) {
    for (int i = 0; i < EXPLORE_THREADS; i++) EXPECT(explorer.threads[i].ended);
    for (uint32_t i = 0; i < done; i++) {
        EXPECT(ops[i].state == OP_DONE);
        EXPECT(ops[i].result == -ECANCELED ? !began[i]
               : ops[i].kind == OP_READ    ? ops[i].result == -EINTR && began[i] >= 1
                                           : ops[i].result == 0 && began[i] == 1);
    }
    EXPECT(pool.alive == 0);
}

static struct exploration with(void (*owner)(void), uint32_t tickets_given) {
    ticket_count = tickets_given;
    return (struct exploration){.start = start, .bodies = {owner, worker, worker},
                                .finish = each_was_done_once};
}

static void two_workers_do_what_is_submitted(void) {
    struct exploration given = with(owner_of_two_short_ones, 2);
    explore_all(&given);
}

static void one_is_taken_back_or_done(void) {
    struct exploration given = with(owner_of_two_short_ones, 2);
    cancels = 1;
    explore_all(&given);
    cancels = 0;
}

static void one_that_waits_is_interrupted(void) {
    struct exploration given = with(owner_of_one_that_waits, 2);
    explore_all(&given);
}

static void what_finds_no_ticket_gets_one_later_or_is_taken_back(void) {
    struct exploration given = with(owner_of_more_than_there_are_tickets, 1);
    explore_all(&given);
    cancels = 1;
    explore_all(&given);
    cancels = 0;
}

static void the_ticket_of_one_that_was_taken_back_keeps_no_notice_from_the_next(void) {
    struct exploration given = with(owner_that_looks_between_two_operations, 2);
    explore_all(&given);
}

/* ---- planted ---- */

static void explorer_finds_a_notice_after_which_nothing_is_reaped(void) {
    struct exploration given = with(owner_that_looks_between_two_operations, 2);
    reaps_only_what_it_waits_for = true;
    explore_finds(&given, "threads[i].ended");
    reaps_only_what_it_waits_for = false;
}

static void explorer_finds_a_ticket_that_is_not_claimed_in_one_step(void) {
    struct exploration given = with(owner_of_two_short_ones, 2);
    cancels = 1;
    given.torn = &tickets[1].state;
    explore_finds(&given, "explore_worker_pool.c");
    cancels = 0;
}

static void explorer_finds_a_stack_that_is_not_changed_in_one_step(void) {
    struct exploration given = with(owner_of_two_short_ones, 2);
    given.torn = &pool.done;
    explore_finds(&given, "explore_worker_pool.c");
}

int main(void) {
    RUN(explorer_finds_a_ticket_that_is_not_claimed_in_one_step);
    RUN(explorer_finds_a_stack_that_is_not_changed_in_one_step);
    RUN(explorer_finds_a_notice_after_which_nothing_is_reaped);
    RUN(two_workers_do_what_is_submitted);
    RUN(one_is_taken_back_or_done);
    RUN(one_that_waits_is_interrupted);
    RUN(what_finds_no_ticket_gets_one_later_or_is_taken_back);
    RUN(the_ticket_of_one_that_was_taken_back_keeps_no_notice_from_the_next);
    return 0;
}
