/* worker_pool.h: each operation is done once, and can be taken back or interrupted until then. */
#define _GNU_SOURCE
#define POOL_TICKETS 16u
#define POOL_IDLE_NS 20000000
#include "worker_pool.h"

#include "check.h"

#define OPS 64

static struct op ops[OPS];
static pthread_mutex_t bell = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t rung = PTHREAD_COND_INITIALIZER;
static int notified;

static void notify(void *arg) {
    CHECK(arg == &notified);
    pthread_mutex_lock(&bell);
    notified++;
    pthread_cond_signal(&rung);
    pthread_mutex_unlock(&bell);
}

static int take_notifications(void) {
    pthread_mutex_lock(&bell);
    int n = notified;
    notified = 0;
    pthread_mutex_unlock(&bell);
    return n;
}

static void open_pool(struct pool *p, uint32_t max_threads) {
    take_notifications();
    pool_init(p, max_threads, max_threads, notify, &notified);
}

/* As an engine waits. */
static void wait_for_notice(struct pool *p) {
    struct timespec until;
    int64_t timeout = pool_limit_wait(p, 1000000000);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += timeout;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&bell);
    while (!notified && pthread_cond_timedwait(&rung, &bell, &until) == 0) {
    }
    notified = 0;
    pthread_mutex_unlock(&bell);
}

/* The done list, which must become non-empty; as the engine does, it is looked at when told. */
static struct op *wait_for_done(struct pool *p) {
    struct op *list = pool_reap(p);
    while (!list) {
        wait_for_notice(p);
        list = pool_reap(p);
    }
    return list;
}

static struct op *submit(struct pool *p, struct op *o, uint8_t kind, int fd) {
    static char bytes[OPS]; /* a place for each, so that two reads do not race */
    *o = (struct op){.kind = kind, .state = OP_IN_FLIGHT, .fd = fd, .fd2 = -1, .off = -1,
                     .addr = &bytes[o - ops], .len = 1, .result = -1};
    CHECK_EQ(pool_submit(p, o), 0);
    return o;
}

static void cancel_running(struct pool *p, struct op *o) {
    __atomic_fetch_or(&o->how_cancelled, OP_CANCEL_SENT, __ATOMIC_ACQ_REL);
    while (pool_interrupt(p, o)) sleep_ms(1);
}

static void wait_until_begun(const struct op *o) {
    while (ATOMIC_LOAD(&o->ticket->state, ACQUIRE) != POOL_RUNNING) sleep_ms(1);
}

static void every_operation_is_done_once(void) {
    struct pool p;
    open_pool(&p, 4);
    for (int round = 0; round < 100; round++) {
        uint32_t done = 0, count = 1 + random_below(OPS);
        for (uint32_t i = 0; i < count; i++) submit(&p, &ops[i], OP_NOP, -1);
        while (done < count)
            for (struct op *o = wait_for_done(&p), *next; o; o = next, done++) {
                next = o->next;
                CHECK_EQ(o->result, 0);
                CHECK_EQ(o->state, OP_IN_FLIGHT); /* the pool leaves that to the engine */
                o->state = OP_DONE;
            }
        for (uint32_t i = 0; i < count; i++) CHECK_EQ(ops[i].state, OP_DONE);
        CHECK_EQ(done, count);
        CHECK(p.threads <= 4);
    }
    pool_stop(&p);
}

static void one_worker_finishes_in_the_order_of_submission(void) {
    struct pool p;
    open_pool(&p, 1);
    int done = 0;
    for (int i = 0; i < OPS; i++) submit(&p, &ops[i], OP_NOP, -1);
    while (done < OPS)
        for (struct op *o = wait_for_done(&p); o; o = o->next) CHECK(o == &ops[done++]);
    pool_stop(&p);
}

static void an_offer_is_taken_only_by_a_thread_that_is_free(void) {
    struct pool p;
    int pipe_fds[2];
    CHECK_EQ(pipe(pipe_fds), 0);
    open_pool(&p, 3);
    struct op *waiting = submit(&p, &ops[0], OP_READ, pipe_fds[0]);
    wait_until_begun(waiting);
    ops[1] = (struct op){.kind = OP_NOP, .fd = -1};
    CHECK_EQ(pool_offer(&p, &ops[1], 1), -EAGAIN); /* the one there is has something to do */
    CHECK_EQ(p.out, 1);
    CHECK_EQ(pool_offer(&p, &ops[1], 2), 0);
    CHECK(wait_for_done(&p) == &ops[1]);
    CHECK_EQ(write(pipe_fds[1], "x", 1), 1);
    CHECK(wait_for_done(&p) == waiting);
    pool_stop(&p);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static void a_send_does_not_wait_until_all_of_it_is_taken(void) {
    struct pool p;
    int ends[2];
    size_t room = 1 << 24;
    char *bytes = calloc(1, room), received[4096];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    while (send(ends[0], bytes, 4096, MSG_DONTWAIT) > 0) {
    }
    open_pool(&p, 1);
    ops[0] = (struct op){.kind = OP_SEND, .fd = ends[0], .addr = bytes, .len = room};
    CHECK_EQ(pool_submit(&p, &ops[0]), 0);
    wait_until_begun(&ops[0]);
    while (recv(ends[1], received, sizeof received, MSG_DONTWAIT) > 0) {
    }
    CHECK(wait_for_done(&p) == &ops[0]);
    CHECK(ops[0].result > 0 && ops[0].result < (int64_t)room);
    pool_stop(&p);
    close(ends[0]);
    close(ends[1]);
    free(bytes);
}

static void an_operation_that_waits_does_not_hold_up_the_next(void) {
    struct pool p;
    int pipe_fds[2];
    CHECK_EQ(pipe(pipe_fds), 0);
    open_pool(&p, 2);
    struct op *waiting = submit(&p, &ops[0], OP_READ, pipe_fds[0]);
    for (int i = 1; i < 20; i++) {
        submit(&p, &ops[i], OP_NOP, -1);
        CHECK(wait_for_done(&p) == &ops[i]);
    }
    CHECK_EQ(write(pipe_fds[1], "x", 1), 1);
    CHECK(wait_for_done(&p) == waiting);
    CHECK_EQ(waiting->result, 1);
    CHECK_EQ(*(char *)waiting->addr, 'x');
    pool_stop(&p);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static void two_at_once_for_one_idle_thread_start_another(void) {
    struct pool p;
    int pipe_fds[2];
    CHECK_EQ(pipe(pipe_fds), 0);
    open_pool(&p, 2);
    submit(&p, &ops[0], OP_NOP, -1);
    CHECK(wait_for_done(&p) == &ops[0]);
    CHECK_EQ(p.threads, 1);
    submit(&p, &ops[0], OP_READ, pipe_fds[0]);
    submit(&p, &ops[1], OP_NOP, -1);
    CHECK(wait_for_done(&p) == &ops[1]);
    CHECK_EQ(write(pipe_fds[1], "x", 1), 1);
    CHECK(wait_for_done(&p) == &ops[0]);
    pool_stop(&p);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

/* ---- growing and shrinking ---- */

static void operations_that_sleep_bring_more_threads(void) {
    struct pool p;
    int pipe_fds[2];
    CHECK_EQ(pipe(pipe_fds), 0);
    pool_init(&p, 1, 4, notify, &notified);
    for (int i = 0; i < 3; i++) submit(&p, &ops[i], OP_READ, pipe_fds[0]);
    submit(&p, &ops[3], OP_NOP, -1);
    CHECK_EQ(p.threads, 1);
    CHECK(wait_for_done(&p) == &ops[3]);
    CHECK_EQ(p.threads, 4);
    CHECK_EQ(write(pipe_fds[1], "xyz", 3), 3);
    for (int done = 0; done < 3;)
        for (struct op *o = wait_for_done(&p); o; o = o->next) done++;
    pool_stop(&p);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static void look_at(struct pool *p, uint32_t finished) {
    p->looked_at = pool_now() - 10 * POOL_LOOK_NS;
    p->finished = finished;
    pool_grow(p);
    CHECK_EQ(p->finished, 0);
}

static void operations_that_are_short_bring_none(void) {
    struct pool p;
    open_pool(&p, 4);
    submit(&p, &ops[0], OP_NOP, -1);
    CHECK(wait_for_done(&p) == &ops[0]);
    look_at(&p, 1000);
    CHECK_EQ(p.threads, 1);
    look_at(&p, 1);
    CHECK_EQ(p.threads, 2);
    pool_stop(&p);
}

static uint32_t alive(struct pool *p) {
    pthread_mutex_lock(&p->mutex);
    uint32_t count = p->alive;
    pthread_mutex_unlock(&p->mutex);
    return count;
}

static void threads_go_when_there_is_nothing_for_them_and_come_again(void) {
    struct pool p;
    open_pool(&p, 3);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 3; i++) submit(&p, &ops[i], OP_NOP, -1);
        for (int done = 0; done < 3;)
            for (struct op *o = wait_for_done(&p); o; o = o->next) done++;
        CHECK(p.threads > 0);
        CHECK(pool_limit_wait(&p, -1) <= POOL_IDLE_NS); /* from here on they are idle */
        sleep_ms(POOL_IDLE_NS / 1000000 + 1);
        CHECK_EQ(pool_limit_wait(&p, -1), -1);
        CHECK_EQ(p.threads, 0);
        while (alive(&p)) sleep_ms(1);
    }
    pool_stop(&p);
}

static void those_who_leave_take_nothing_with_them(void) {
    struct pool p;
    open_pool(&p, 2);
    for (int round = 0; round < 200; round++) {
        submit(&p, &ops[0], OP_NOP, -1);
        submit(&p, &ops[1], OP_NOP, -1);
        for (int done = 0; done < 2;)
            for (struct op *o = wait_for_done(&p); o; o = o->next) done++;
        pool_dismiss(&p);
    }
    pool_stop(&p);
    CHECK_EQ(p.alive, 0);
}

static void a_pool_that_is_given_up_loses_the_others_at_once_and_the_hanging_one_later(void) {
    static struct pool p; /* never freed: who hangs comes back to it */
    int pipe_fds[2];
    CHECK_EQ(pipe(pipe_fds), 0);
    open_pool(&p, 3);
    struct op *hanging = submit(&p, &ops[0], OP_READ, pipe_fds[0]);
    wait_until_begun(hanging);
    for (int i = 1; i < 3; i++) submit(&p, &ops[i], OP_NOP, -1);
    for (int done = 0; done < 2;)
        for (struct op *o = wait_for_done(&p); o; o = o->next) done++;
    CHECK_EQ(p.threads, 3);
    pool_dismiss(&p);
    while (alive(&p) > 1) sleep_ms(1);
    CHECK_EQ(write(pipe_fds[1], "x", 1), 1);
    while (alive(&p)) sleep_ms(1);
    CHECK(pool_reap(&p) == hanging && hanging->result == 1);
    pool_stop(&p);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

/* ---- cancelling ---- */

static void what_finds_no_ticket_is_done_in_its_turn_or_taken_back(void) {
    struct pool p;
    int pipe_fds[2], count = POOL_TICKETS + 8, done = 0;
    CHECK_EQ(pipe(pipe_fds), 0);
    open_pool(&p, 1);
    wait_until_begun(submit(&p, &ops[0], OP_READ, pipe_fds[0]));
    for (int i = 1; i < count; i++) submit(&p, &ops[i], OP_NOP, -1);
    CHECK_EQ(p.out, POOL_TICKETS);
    struct op *first = &ops[POOL_TICKETS], *middle = &ops[POOL_TICKETS + 3], *last = &ops[count - 1];
    CHECK_EQ(pool_interrupt(&p, middle), 0);
    CHECK_EQ(pool_interrupt(&p, first), 0);
    CHECK_EQ(pool_interrupt(&p, last), 0);
    CHECK(pool_reap(&p) == middle && middle->next == first && first->next == last && !last->next);
    submit(&p, last, OP_NOP, -1); /* the end is still found */
    CHECK_EQ(write(pipe_fds[1], "x", 1), 1);
    while (done < count - 2)
        for (struct op *o = wait_for_done(&p); o; o = o->next, done++)
            CHECK(o != first && o != middle && o->result == (o == &ops[0]));
    CHECK_EQ(p.out, 0);
    pool_stop(&p);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static void a_queued_operation_is_taken_back_from_any_place(void) {
    for (int which = 1; which <= 3; which++) {
        struct pool p;
        int pipe_fds[2];
        CHECK_EQ(pipe(pipe_fds), 0);
        open_pool(&p, 1);
        wait_until_begun(submit(&p, &ops[0], OP_READ, pipe_fds[0]));
        for (int i = 1; i <= 3; i++) submit(&p, &ops[i], OP_NOP, -1);
        CHECK_EQ(pool_interrupt(&p, &ops[which]), 0);
        CHECK(wait_for_done(&p) == &ops[which]);
        CHECK_EQ(ops[which].result, -ECANCELED);
        submit(&p, &ops[4], OP_NOP, -1); /* the queue's end is still found */
        CHECK_EQ(write(pipe_fds[1], "x", 1), 1);
        for (int done = 0; done < 4;)
            for (struct op *o = wait_for_done(&p); o; o = o->next, done++) {
                CHECK(o != &ops[which]);
                CHECK_EQ(o->result, o == &ops[0]);
            }
        CHECK_EQ(p.out, 0);
        pool_stop(&p);
        close(pipe_fds[0]);
        close(pipe_fds[1]);
    }
}

static void a_running_operation_is_interrupted(void) {
    struct pool p;
    int pipe_fds[2];
    CHECK_EQ(pipe(pipe_fds), 0);
    open_pool(&p, 2);
    for (int round = 0; round < 20; round++) {
        struct op *o = submit(&p, &ops[0], OP_READ, pipe_fds[0]);
        if (round % 2) wait_until_begun(o); /* else queued, or just begun */
        cancel_running(&p, o);
        CHECK(wait_for_done(&p) == o);
        CHECK(o->result == -EINTR || (o->result == -ECANCELED && round % 2 == 0));
        CHECK_EQ(pool_interrupt(&p, o), 0); /* done: there is nothing to interrupt */
    }
    pool_stop(&p);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static void an_interrupt_that_nobody_asked_for_is_tried_again(void) {
    struct pool p;
    int pipe_fds[2];
    CHECK_EQ(pipe(pipe_fds), 0);
    open_pool(&p, 1);
    struct op *o = submit(&p, &ops[0], OP_READ, pipe_fds[0]);
    wait_until_begun(o);
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(pool_interrupt(&p, o), 1);
        sleep_ms(1);
    }
    CHECK_EQ(write(pipe_fds[1], "x", 1), 1);
    CHECK(wait_for_done(&p) == o);
    CHECK_EQ(o->result, 1);
    pool_stop(&p);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static void notice_comes_once_for_a_list_that_was_empty(void) {
    struct pool p;
    int pipe_fds[2];
    CHECK_EQ(pipe(pipe_fds), 0);
    open_pool(&p, 1);
    for (int round = 0; round < 3; round++) {
        wait_until_begun(submit(&p, &ops[0], OP_READ, pipe_fds[0]));
        take_notifications(); /* the last round's, if its list was seen first */
        for (int i = 1; i <= 3; i++) {
            submit(&p, &ops[i], OP_NOP, -1);
            CHECK_EQ(pool_interrupt(&p, &ops[i]), 0);
            CHECK_EQ(take_notifications(), i == 1);
        }
        int done = 0;
        for (struct op *o = pool_reap(&p); o; o = o->next) CHECK(o == &ops[++done]);
        CHECK_EQ(done, 3);
        CHECK_EQ(write(pipe_fds[1], "x", 1), 1);
        CHECK(wait_for_done(&p) == &ops[0]);
    }
    pool_stop(&p);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static void stop_waits_for_every_thread(void) {
    for (int round = 0; round < 30; round++) {
        struct pool p;
        open_pool(&p, 8);
        uint32_t done = 0;
        for (int i = 0; i < OPS; i++) submit(&p, &ops[i], OP_NOP, -1);
        while (done < OPS)
            for (struct op *o = wait_for_done(&p); o; o = o->next) done++;
        pool_stop(&p);
        CHECK_EQ(p.threads, 0);
        CHECK_EQ(p.alive, 0);
    }
}

static void any_mixture_of_submits_and_cancels_loses_nothing(void) {
    struct pool p;
    int pipe_fds[2];
    uint32_t in_pool = 0;
    CHECK_EQ(pipe(pipe_fds), 0);
    open_pool(&p, 3);
    memset(ops, 0, sizeof ops);
    for (int step = 0; step < 5000 || in_pool; step++) {
        struct op *o = &ops[random_below(OPS)];
        if (o->state == OP_FREE && step < 5000) {
            if (random_below(8)) submit(&p, o, OP_NOP, -1);
            else submit(&p, o, OP_READ, pipe_fds[0]);
            in_pool++;
        } else if (o->state == OP_IN_FLIGHT) {
            __atomic_fetch_or(&o->how_cancelled, OP_CANCEL_SENT, __ATOMIC_ACQ_REL);
            pool_interrupt(&p, o);
        }
        for (struct op *done = pool_reap(&p), *next; done; done = next, in_pool--) {
            next = done->next;
            CHECK(done->result == 0 || done->result == -ECANCELED
                  || (done->result == -EINTR && done->kind == OP_READ));
            CHECK_EQ(done->state, OP_IN_FLIGHT);
            done->state = OP_FREE;
        }
    }
    pool_stop(&p);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

int main(void) {
    seed_random();
    RUN(every_operation_is_done_once);
    RUN(one_worker_finishes_in_the_order_of_submission);
    RUN(an_operation_that_waits_does_not_hold_up_the_next);
    RUN(an_offer_is_taken_only_by_a_thread_that_is_free);
    RUN(a_send_does_not_wait_until_all_of_it_is_taken);
    RUN(two_at_once_for_one_idle_thread_start_another);
    RUN(operations_that_sleep_bring_more_threads);
    RUN(operations_that_are_short_bring_none);
    RUN(threads_go_when_there_is_nothing_for_them_and_come_again);
    RUN(those_who_leave_take_nothing_with_them);
    RUN(a_pool_that_is_given_up_loses_the_others_at_once_and_the_hanging_one_later);
    RUN(what_finds_no_ticket_is_done_in_its_turn_or_taken_back);
    RUN(a_queued_operation_is_taken_back_from_any_place);
    RUN(a_running_operation_is_interrupted);
    RUN(an_interrupt_that_nobody_asked_for_is_tried_again);
    RUN(notice_comes_once_for_a_list_that_was_empty);
    RUN(stop_waits_for_every_thread);
    RUN(any_mixture_of_submits_and_cancels_loses_nothing);
    return 0;
}
