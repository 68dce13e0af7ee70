/* io_ring.c on a kernel of our own, which completes late, takes less than it is given, or refuses.
 * The worker runs on the thread of the test, so each happens at the moment that the test chooses.
 */
#define _GNU_SOURCE
#include "fake_kernel.h"

#include <fcntl.h>

static struct kernel kernel;
static int opens, open_errors[8]; /* of each attempt; beyond them none */
static uint32_t setup_flags[8];
static int unsupported = -1; /* an opcode */
static uint32_t limits[2], limited;
static int (*on_enter)(struct ring *r, uint32_t wait_nr);
static int enters;

static int open_fake(struct ring *r, uint32_t entries, struct uring_params *p) {
    int error = opens < 8 ? open_errors[opens] : 0;
    if (opens < 8) setup_flags[opens] = p->flags;
    opens++;
    if (error) return -error;
    open_queues(r, &kernel, 0, entries, p->cq_entries, UINT32_MAX - 2);
    return 0;
}

static int register_fake(struct ring *r, uint32_t opcode, void *arg, uint32_t nr_args) {
    if (opcode == URING_REGISTER_PROBE) {
        struct uring_probe *asked = arg;
        asked->ops_len = 100;
        for (int i = 0; i < 100; i++)
            asked->ops[i].flags = i == unsupported ? 0 : URING_PROBE_SUPPORTED;
    } else if (opcode == URING_REGISTER_IOWQ_MAX_WORKERS) {
        CHECK_EQ(nr_args, 2);
        memcpy(limits, arg, sizeof limits);
        limited++;
    }
    return 0;
}

static int enter_fake(struct ring *r, uint32_t to_submit, uint32_t wait_nr, uint32_t flags,
                      const struct uring_timespec *ts) {
    CHECK_EQ(to_submit, kernel.sq_tail - kernel.sq_head);
    CHECK(++enters < 10000); /* it does not go round and round */
    return on_enter(r, wait_nr);
}

#define ring_open open_fake
#define ring_register register_fake
#define ring_enter enter_fake
#define ring_register_own_fd(r) ((void)(r))
#define ring_unregister_own_fd(r) ((void)(r))
#define ring_close close_queues
#include "io_ring.c"

/* ---- a queue without threads ---- */

#define DEPTH 64u

static struct io_queue queue;
static struct io_client client;

static void start(void) {
    struct io_queue_options options = {.size = DEPTH, .kernel_threads = 3};
    const uint8_t in_ring[] = {OP_OPENAT, OP_CLOSE, OP_STATX, OP_NOP, OP_FSYNC};
    for (size_t i = 0; i < sizeof in_ring; i++) options.ways[in_ring[i]] = IO_RING;
    CHECK_EQ(io_queue_open(&queue, &options), 0);
    CHECK_EQ(io_client_open(&client, &queue, DEPTH, NULL, NULL), 0);
    opens = enters = 0;
    limited = 0;
}

static void end(void) {
    io_queue_close(&queue);
    io_client_close(&client);
}

/* Until the queue is cancelled, by on_enter or before, and nothing is in flight. */
static struct io_counts work(void) {
    struct io_worker w = {.queue = &queue};
    io_client_flush(&client);
    io_worker_run(&w);
    io_ring_close(&w);
    return w.counts;
}

static struct io_request *submit(uint8_t kind, uint8_t op_kind) {
    int error = 0;
    struct io_request *r = io_client_request(&client, &error);
    CHECK(r);
    r->kind = kind;
    r->limit = INT64_MAX;
    *r->op = (struct op){.kind = op_kind, .fd = AT_FDCWD, .addr = (char *)"/", .off = -1,
                         .index = r->op->index};
    r->op->addr2 = r->op->out.statx;
    io_client_submit(&client, r);
    return r;
}

static struct io_request *pop(void) {
    struct io_request *r = NULL;
    CHECK_EQ(io_client_pop(&client, &r, 1), 1);
    return r;
}

static struct uring_sqe *consume(struct ring *r) {
    if (kernel.sq_head == kernel.sq_tail) return NULL;
    return ring_sqe_at(r, kernel.sq_head++);
}

static void complete(struct ring *r, uint64_t user_data, int32_t result) {
    CHECK(post(r, &kernel, user_data, result, 0));
}

/* ---- an end while something is in flight ---- */

static int late_fd;
static void (*cancel)(void);
static uint64_t held;
static bool is_held;

static void cancel_client(void) { io_client_cancel(&client); }
static void cancel_queue(void) { io_queue_cancel(&queue); }

/* What is opened is consumed, then cancelled, and only then has it an end. */
static int open_after_the_cancel(struct ring *r, uint32_t wait_nr) {
    struct uring_sqe *sqe;
    int consumed = 0;
    for (; (sqe = consume(r)); consumed++) {
        if (sqe->opcode == URING_OP_OPENAT) {
            cancel();
            late_fd = open("/", O_RDONLY | O_CLOEXEC);
            complete(r, sqe->user_data, late_fd);
        } else if (sqe->opcode == URING_OP_FSYNC) {
            held = sqe->user_data;
            is_held = true;
        }
    }
    if (wait_nr && is_held) {
        complete(r, held, 0);
        is_held = false;
        io_queue_cancel(&queue);
    }
    return consumed;
}

static void an_open_that_ends_after_the_cancel_is_closed_and_answers_eintr(void) {
    const uint8_t kinds[] = {IO_ATTEMPT, IO_OPENDIR, IO_READ_FILE, IO_WRITE_FILE};
    void (*cancels[])(void) = {cancel_client, cancel_queue};
    on_enter = open_after_the_cancel;
    for (int c = 0; c < 2; c++)
        for (size_t i = 0; i < sizeof kinds; i++) {
            cancel = cancels[c];
            start();
            struct io_request *r = submit(kinds[i], OP_OPENAT);
            submit(IO_ATTEMPT, OP_FSYNC); /* keeps the worker there */
            struct io_counts counts = work();
            CHECK_EQ(counts.in_ring, 2);
            CHECK_EQ(counts.calls, 0); /* nothing was begun behind it */
            CHECK(pop() == r);
            CHECK_EQ(r->result, -EINTR);
            CHECK_EQ(fcntl(late_fd, F_GETFD), -1);
            end();
        }
}

static int fail_after_the_cancel(struct ring *r, uint32_t wait_nr) {
    struct uring_sqe *sqe;
    int consumed = 0;
    for (; (sqe = consume(r)); consumed++) {
        if (sqe->user_data == BELL) continue;
        io_queue_cancel(&queue);
        complete(r, sqe->user_data, -ENOENT);
    }
    return consumed;
}

static void an_open_that_fails_after_the_cancel_says_why(void) {
    on_enter = fail_after_the_cancel;
    start();
    struct io_request *r = submit(IO_ATTEMPT, OP_OPENAT);
    work();
    CHECK(pop() == r);
    CHECK_EQ(r->result, -ENOENT);
    end();
}

static int complete_all(struct ring *r, uint32_t wait_nr) {
    struct uring_sqe *sqe;
    int consumed = 0;
    for (; (sqe = consume(r)); consumed++)
        if (sqe->user_data != BELL) complete(r, sqe->user_data, 0);
    return consumed;
}

static void a_cancel_before_it_begins_keeps_all_but_closes_from_the_ring(void) {
    on_enter = complete_all;
    start();
    struct io_request *opening = submit(IO_ATTEMPT, OP_OPENAT), *asking = submit(IO_ATTEMPT, OP_STATX);
    struct io_request *closing = submit(IO_ATTEMPT, OP_CLOSE);
    io_client_flush(&client);
    io_queue_cancel(&queue);
    struct io_counts counts = work();
    CHECK_EQ(counts.in_ring, 1);
    CHECK_EQ(counts.calls + counts.cached, 0);
    for (int i = 0; i < 3; i++) pop();
    CHECK_EQ(opening->result, -EINTR);
    CHECK_EQ(asking->result, -EINTR);
    CHECK_EQ(closing->result, 0);
    end();
}

/* ---- taking and collecting overlap ---- */

/* The first request stays in flight until the worker has nothing else to do but wait. */
static int hold_the_first(struct ring *r, uint32_t wait_nr) {
    struct uring_sqe *sqe;
    int consumed = 0;
    for (; (sqe = consume(r)); consumed++) {
        if (sqe->user_data == BELL) continue;
        if (sqe->opcode != URING_OP_FSYNC) {
            complete(r, sqe->user_data, 0);
            continue;
        }
        held = sqe->user_data;
        is_held = true;
    }
    if (!wait_nr || !is_held) return consumed;
    CHECK_EQ(io_client_completed(&client), 20);
    complete(r, held, 0);
    is_held = false;
    io_queue_cancel(&queue);
    return consumed;
}

static void what_is_in_the_ring_holds_up_nothing_behind_it(void) {
    on_enter = hold_the_first;
    start();
    struct io_request *first = submit(IO_ATTEMPT, OP_FSYNC);
    for (int i = 0; i < 10; i++) submit(IO_ATTEMPT, OP_STATX);
    for (int i = 0; i < 10; i++) submit(IO_ATTEMPT, OP_RENAMEAT); /* by a call */
    CHECK_EQ(work().in_ring, 11);
    for (int i = 0; i < 20; i++) CHECK(pop() != first);
    CHECK(pop() == first);
    end();
}

/* ---- when the kernel does not take what it is given ---- */

static int turns, refusal, refusals, left;

/* One at a time; every other time it refuses, and as long as there is something to collect. */
static int take_one_at_a_time(struct ring *r, uint32_t wait_nr) {
    struct uring_sqe *sqe;
    if (refusal && (kernel.cq_head != kernel.cq_tail || turns++ % 2)) {
        refusals++;
        return -refusal;
    }
    if (!(sqe = consume(r))) return 0;
    if (sqe->user_data == BELL) return 1;
    complete(r, sqe->user_data, 7);
    if (--left == 0) io_queue_cancel(&queue);
    return 1;
}

static void each_request_is_answered_once_however_few_the_kernel_takes(void) {
    const int errors[] = {0, EAGAIN, EBUSY};
    on_enter = take_one_at_a_time;
    for (size_t i = 0; i < 3; i++) {
        refusal = errors[i];
        turns = refusals = 0;
        left = 40;
        start();
        for (int n = 0; n < 40; n++) submit(IO_ATTEMPT, OP_STATX);
        CHECK_EQ(work().calls, 0);
        CHECK(!refusal || refusals > 5);
        for (int n = 0; n < 40; n++) CHECK_EQ(pop()->result, 7);
        end();
    }
}

static int refuse_all(struct ring *r, uint32_t wait_nr) {
    io_queue_cancel(&queue);
    return -refusal;
}

static void what_the_kernel_never_takes_is_done_by_calls(void) {
    on_enter = refuse_all;
    refusal = EAGAIN;
    start();
    struct io_request *r = submit(IO_ATTEMPT, OP_STATX);
    CHECK_EQ(work().calls, 1);
    CHECK(pop() == r);
    CHECK_EQ(r->result, 0);
    end();
}

/* One is in flight and one was not taken, when the ring breaks. */
static int take_one_and_break(struct ring *r, uint32_t wait_nr) {
    if (enters > 1) {
        io_queue_cancel(&queue);
        return -EBADR;
    }
    CHECK(consume(r));
    return 1;
}

static void a_ring_that_breaks_answers_what_it_had_and_the_rest_is_done_by_calls(void) {
    on_enter = take_one_and_break;
    start();
    struct io_request *lost = submit(IO_ATTEMPT, OP_STATX), *other = submit(IO_ATTEMPT, OP_STATX);
    CHECK_EQ(work().calls, 1);
    pop();
    pop();
    CHECK_EQ(lost->result, -EBADR);
    CHECK(lost->lost); /* the kernel may still write to it */
    CHECK_EQ(other->result, 0);
    CHECK(!other->lost);
    lost->lost = false; /* this one does not */
    end();
}

/* ---- what a kernel has ---- */

static int complete_and_end(struct ring *r, uint32_t wait_nr) {
    int consumed = complete_all(r, wait_nr);
    io_queue_cancel(&queue);
    return consumed;
}

static void an_operation_that_the_kernel_lacks_is_done_by_a_call(void) {
    on_enter = complete_and_end;
    unsupported = URING_OP_STATX;
    start();
    for (int i = 0; i < 3; i++) submit(IO_ATTEMPT, i == 1 ? OP_STATX : OP_NOP);
    struct io_counts counts = work();
    CHECK_EQ(counts.calls, 1);
    CHECK_EQ(counts.in_ring, 2);
    for (int i = 0; i < 3; i++) CHECK_EQ(pop()->result, 0);
    unsupported = -1;
    end();
}

static void open_with_errors(int error, int count, int expected_opens, int expected_error) {
    struct io_worker workers[2] = {{.queue = &queue}, {.queue = &queue}};
    struct op nop = {.kind = OP_NOP};
    for (int i = 0; i < 8; i++) open_errors[i] = i < count ? error : 0;
    start();
    CHECK_EQ(io_ring_is_usable(&workers[0], &nop), !expected_error);
    CHECK_EQ(queue.ring_error, expected_error);
    CHECK_EQ(opens, expected_opens);
    for (int i = 0; i < opens; i++) CHECK_EQ(setup_flags[i], ladder[i]);
    if (expected_error) { /* the others do not even try */
        CHECK(!io_ring_is_usable(&workers[1], &nop));
        CHECK_EQ(opens, expected_opens);
    }
    io_ring_close(&workers[0]);
    memset(open_errors, 0, sizeof open_errors);
    end();
}

static void setup_flags_are_tried_from_the_best_and_only_einval_goes_on(void) {
    const int rungs = sizeof ladder / sizeof *ladder;
    for (int refused = 0; refused < rungs; refused++)
        open_with_errors(EINVAL, refused, refused + 1, 0);
    open_with_errors(EINVAL, rungs, rungs, -EINVAL);
    open_with_errors(EPERM, 1, 1, -EPERM);
}

/* Those that belong to a thread: attached rings share none. */
static void the_kernels_threads_are_limited_for_each_ring(void) {
    start();
    struct io_worker workers[2] = {{.queue = &queue}, {.queue = &queue}};
    for (uint32_t i = 0; i < 2; i++) {
        CHECK(io_ring_is_usable(&workers[i], &(struct op){.kind = OP_NOP}));
        CHECK_EQ(limited, i + 1);
        CHECK_EQ(limits[0], 3);
        CHECK_EQ(limits[1], 3);
        CHECK(workers[i].ring->supported[URING_OP_NOP]); /* each knows what there is */
    }
    CHECK_EQ(queue.rings, 2);
    for (uint32_t i = 0; i < 2; i++) io_ring_close(&workers[i]);
    end();
}

int main(void) {
    alarm(60);
    RUN(an_open_that_ends_after_the_cancel_is_closed_and_answers_eintr);
    RUN(an_open_that_fails_after_the_cancel_says_why);
    RUN(a_cancel_before_it_begins_keeps_all_but_closes_from_the_ring);
    RUN(what_is_in_the_ring_holds_up_nothing_behind_it);
    RUN(each_request_is_answered_once_however_few_the_kernel_takes);
    RUN(what_the_kernel_never_takes_is_done_by_calls);
    RUN(a_ring_that_breaks_answers_what_it_had_and_the_rest_is_done_by_calls);
    RUN(an_operation_that_the_kernel_lacks_is_done_by_a_call);
    RUN(setup_flags_are_tried_from_the_best_and_only_einval_goes_on);
    RUN(the_kernels_threads_are_limited_for_each_ring);
    return 0;
}
