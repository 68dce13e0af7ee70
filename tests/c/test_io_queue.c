/* io_queue.h: every request is answered once, whoever submits it and however the queue ends. */
#define _GNU_SOURCE
#include "io_queue.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>

#include "check.h"

#define DEPTH 64u

static struct io_queue queue;
static struct io_client client;

static void open_with(uint32_t threads, enum io_way way) {
    struct io_queue_options options = {.threads = threads, .size = DEPTH, .kernel_threads = 2};
    if (way != IO_PLAIN) {
        options.ways[OP_NOP] = options.ways[OP_STATX] = options.ways[OP_CLOSE] = IO_RING;
        options.ways[OP_OPENAT] = options.ways[OP_READ] = way;
    }
    CHECK_EQ(io_queue_open(&queue, &options), 0);
    CHECK_EQ(io_client_open(&client, &queue, DEPTH, NULL, NULL), 0);
}

static void close_both(void) {
    io_queue_close(&queue);
    io_client_close(&client);
}

static struct io_request *request(uint8_t kind, uint8_t op_kind) {
    int error = 0;
    struct io_request *r = io_client_request(&client, &error);
    if (!r) return NULL;
    r->kind = kind;
    r->op->kind = op_kind;
    r->op->fd = AT_FDCWD;
    r->op->off = -1;
    r->op->flags = r->op->mode = 0;
    return r;
}

static struct io_request *read_file(const char *path) {
    struct io_request *r = request(IO_READ_FILE, OP_OPENAT);
    if (!r) return NULL;
    CHECK(io_request_reserve(r, strlen(path) + 1));
    strcpy(r->space, path);
    r->op->addr = r->space;
    r->op->flags = O_RDONLY | O_CLOEXEC;
    r->limit = INT64_MAX;
    return r;
}

static struct io_request *pop_one(void) {
    struct io_request *r;
    while (!io_client_pop(&client, &r, 1)) {
        if (!io_client_begin_wait(&client, 1)) continue;
        struct pollfd p = {.fd = client.event_fd, .events = POLLIN};
        CHECK_EQ(poll(&p, 1, 20000), 1);
        io_client_end_wait(&client);
    }
    return r;
}

static void a_file_is_read_whole_by(enum io_way way) {
    open_with(2, way);
    for (int i = 0; i < 500; i++) {
        io_client_submit(&client, read_file("/proc/self/stat"));
        struct io_request *r = pop_one();
        CHECK(r->result > 10 && r->result == (int64_t)r->done);
        io_client_free(&client, r);
    }
    close_both();
}

static void a_file_is_read_whole(void) {
    a_file_is_read_whole_by(IO_PLAIN);
    a_file_is_read_whole_by(IO_CACHED);
    a_file_is_read_whole_by(IO_RING);
}

static void a_full_client_refuses_until_one_is_freed(void) {
    open_with(1, IO_PLAIN);
    int error = 0;
    for (uint32_t i = 0; i < DEPTH; i++) io_client_submit(&client, request(IO_ATTEMPT, OP_NOP));
    CHECK(!io_client_request(&client, &error));
    CHECK_EQ(error, -EAGAIN);
    struct io_request *r = pop_one();
    CHECK(!io_client_request(&client, &error)); /* popping alone gives nothing back */
    io_client_free(&client, r);
    CHECK(io_client_request(&client, &error));
    close_both();
}

static void what_comes_after_the_stop_is_answered_and_closes_are_carried_out(void) {
    open_with(1, IO_PLAIN);
    struct io_request *nop = request(IO_ATTEMPT, OP_NOP), *closing = request(IO_ATTEMPT, OP_CLOSE);
    closing->op->fd = open("/", O_RDONLY);
    int error = 0, fd = closing->op->fd;
    io_queue_cancel(&queue);
    CHECK(!io_client_request(&client, &error));
    CHECK_EQ(error, -EINTR);
    io_client_submit(&client, nop);
    io_client_submit(&client, closing);
    io_client_flush(&client);
    CHECK(pop_one() == nop);
    CHECK_EQ(nop->result, -EINTR);
    CHECK(pop_one() == closing);
    CHECK_EQ(closing->result, 0);
    CHECK_EQ(fcntl(fd, F_GETFD), -1);
    close_both();
}

/* ---- many threads ---- */

static uint32_t submitted, popped;

static void *submit_and_pop(void *arg) {
    uint32_t *left = arg;
    struct io_request *r;
    while (*left) {
        r = *left % 3 ? request(IO_ATTEMPT, OP_NOP) : read_file("/proc/self/stat");
        if (r) {
            io_client_submit(&client, r);
            ATOMIC_ADD(&submitted, 1, RELAXED);
            --*left;
        } else if (io_client_pop(&client, &r, 1)) {
            io_client_free(&client, r);
            ATOMIC_ADD(&popped, 1, RELAXED);
        } else if (io_client_begin_wait(&client, 4)) {
            struct pollfd p = {.fd = client.event_fd, .events = POLLIN};
            poll(&p, 1, 20000);
            io_client_end_wait(&client);
            io_client_pass_on(&client);
        }
    }
    return NULL;
}

static void eight_threads_by(enum io_way way) {
    pthread_t threads[8];
    uint32_t left[8];
    open_with(4, way);
    submitted = popped = 0;
    for (int i = 0; i < 8; i++) {
        left[i] = 300;
        CHECK_EQ(pthread_create(&threads[i], NULL, submit_and_pop, &left[i]), 0);
    }
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    while (popped < submitted) {
        io_client_free(&client, pop_one());
        popped++;
    }
    CHECK_EQ(submitted, 8 * 300);
    CHECK_EQ(client.unfreed, 0);
    close_both();
}

static void eight_threads_submit_and_pop_at_once(void) {
    eight_threads_by(IO_PLAIN);
    eight_threads_by(IO_RING);
}

static void a_close_at_any_point_discards_what_was_not_popped(void) {
    for (int i = 0; i < 50; i++) {
        open_with(1 + random_below(4), random_below(3));
        for (uint32_t n = random_below(DEPTH); n; n--)
            io_client_submit(&client, random_below(2) ? read_file("/proc/self/stat")
                                                      : request(IO_ATTEMPT, OP_NOP));
        if (random_below(2)) io_client_flush(&client);
        close_both();
    }
}

/* But a ring that breaks: that leaks on purpose (tests/test_ioqueue_faults.py). */
static void faults_of_every_kind_lose_no_request(void) {
    static const int errors[] = {EAGAIN, EBUSY, EPERM, ENOMEM};
    for (int i = 0; i < 40; i++) {
        open_with(1, IO_RING);
        uint32_t kinds[] = {IO_FAULT_RING, IO_FAULT_ENTER, OP_OPENAT, OP_READ, OP_CLOSE};
        io_queue_inject(&queue, kinds[i % 5], 1 + random_below(5),
                        errors[random_below(kinds[i % 5] == IO_FAULT_ENTER ? 2 : 4)]);
        uint32_t n = 1 + random_below(DEPTH - 1);
        for (uint32_t k = 0; k < n; k++) io_client_submit(&client, read_file("/proc/self/stat"));
        while (n--) io_client_free(&client, pop_one());
        close_both();
    }
}

int main(void) {
    seed_random();
    RUN(a_file_is_read_whole);
    RUN(a_full_client_refuses_until_one_is_freed);
    RUN(what_comes_after_the_stop_is_answered_and_closes_are_carried_out);
    RUN(eight_threads_submit_and_pop_at_once);
    RUN(a_close_at_any_point_discards_what_was_not_popped);
    RUN(faults_of_every_kind_lose_no_request);
    return 0;
}
