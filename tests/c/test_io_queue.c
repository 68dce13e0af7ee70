/* io_queue.h: every request is answered once, whoever submits it and however the queue ends. */
#define _GNU_SOURCE
#include "io_queue.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

#include "check.h"

#define DEPTH 64u

static struct io_queue queue;
static struct io_client client;

static uint32_t size = DEPTH; /* of the queue, in which there is room for the client's requests */

static void open_with(uint32_t threads, enum io_way way) {
    struct io_queue_options options = {.threads = threads, .size = size, .kernel_threads = 2};
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
        struct pollfd p = {.fd = client.event.fd, .events = POLLIN};
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

static void a_refusal_says_cancelled_before_full_before_no_memory(void) {
    open_with(1, IO_PLAIN);
    int error = 0;
    io_queue_inject(&queue, IO_FAULT_MEMORY, 1, ENOMEM);
    CHECK(!io_client_request(&client, &error));
    CHECK_EQ(error, -ENOMEM);
    CHECK_EQ(client.unfreed, 0); /* it took no room */
    for (uint32_t i = 0; i < DEPTH; i++) io_client_submit(&client, request(IO_ATTEMPT, OP_NOP));
    io_queue_inject(&queue, IO_FAULT_MEMORY, 1, ENOMEM);
    CHECK(!io_client_request(&client, &error));
    CHECK_EQ(error, -EAGAIN);
    io_queue_cancel(&queue);
    CHECK(!io_client_request(&client, &error));
    CHECK_EQ(error, -EINTR);
    close_both();
}

static void what_was_popped_and_not_freed_is_not_waited_for(void) {
    open_with(1, IO_PLAIN);
    CHECK(!io_client_begin_wait(&client, 1));
    io_client_submit(&client, request(IO_ATTEMPT, OP_NOP));
    struct io_request *r = pop_one();
    CHECK_EQ(client.unfreed, 1);
    CHECK(!io_client_begin_wait(&client, 1));
    CHECK_EQ(client.waiters, 0);
    io_client_free(&client, r);
    close_both();
}

/* ---- what waits in the kernel ---- */

static char directory[] = "/tmp/test_io_queue_XXXXXX", fifos[8][64];

static void make_fifos(void) {
    CHECK(mkdtemp(directory));
    for (int i = 0; i < 8; i++) {
        snprintf(fifos[i], sizeof fifos[i], "%s/%d", directory, i);
        CHECK_EQ(mkfifo(fifos[i], 0600), 0);
    }
}

static void remove_fifos(void) {
    for (int i = 0; i < 8; i++) unlink(fifos[i]);
    rmdir(directory);
}

/* Waits for somebody who writes: in a ring because of O_CREAT, which it gives to a thread at once;
 * else it would try without waiting, and would succeed. */
static struct io_request *open_fifo(int number) {
    struct io_request *r = request(IO_ATTEMPT, OP_OPENAT);
    r->op->addr = fifos[number];
    r->op->flags = O_RDONLY | O_CREAT | O_CLOEXEC;
    io_client_submit(&client, r);
    io_client_flush(&client);
    return r;
}

/* Whether it is in time: it has happened, or will. */
static bool becomes(uint64_t (*count)(void), uint64_t wanted) {
    for (int i = 0; i < 10000 && count() != wanted; i++) sleep_ms(1);
    return count() == wanted;
}

static uint64_t count_in_ring(void) { return io_queue_counts(&queue).in_ring; }
static uint64_t count_calls(void) { return io_queue_counts(&queue).calls; }

static bool has_no_ring(void) { return ATOMIC_LOAD(&queue.ring_error, RELAXED) != 0; }

/* By a worker that sleeps in the call, and by one of the kernel's threads for a ring. */
static void an_open_that_ends_after_the_cancel_is_closed_by(enum io_way way) {
    int before = open("/", O_RDONLY | O_CLOEXEC);
    close(before);
    open_with(1, way);
    int lowest = open("/", O_RDONLY | O_CLOEXEC), error = 0;
    close(lowest); /* where the next ones begin; a ring has descriptors too */
    struct io_request *r = open_fifo(0);
    CHECK(becomes(way == IO_RING && !has_no_ring() ? count_in_ring : count_calls, 1));
    sleep_ms(10);
    io_queue_cancel(&queue);
    CHECK(!io_client_request(&client, &error));
    int writer = open(fifos[0], O_WRONLY | O_CLOEXEC);
    CHECK(writer >= 0);
    CHECK(pop_one() == r);
    CHECK_EQ(r->result, -EINTR);
    CHECK_EQ(write(writer, "x", 1), -1); /* nobody reads */
    CHECK_EQ(errno, EPIPE);
    close(writer);
    close_both();
    lowest = open("/", O_RDONLY | O_CLOEXEC);
    CHECK_EQ(lowest, before);
    close(lowest);
}

static void an_open_that_ends_after_the_cancel_is_closed(void) {
    an_open_that_ends_after_the_cancel_is_closed_by(IO_PLAIN);
    an_open_that_ends_after_the_cancel_is_closed_by(IO_RING);
}

/* Threads of this process that the kernel made for rings. */
static uint64_t count_kernel_threads(void) {
    uint64_t count = 0;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *e; (e = readdir(tasks));) {
        char path[300], name[32] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", e->d_name);
        FILE *file = fopen(path, "r");
        if (!file) continue;
        if (!fgets(name, sizeof name, file)) name[0] = 0;
        fclose(file);
        count += strncmp(name, "iou-wrk", 7) == 0;
    }
    closedir(tasks);
    return count;
}

static void a_ring_has_no_more_of_the_kernels_threads_than_it_may(void) {
    open_with(1, IO_RING); /* two */
    for (int i = 0; i < 8; i++) open_fifo(i);
    if (becomes(count_in_ring, 8) && !has_no_ring()) {
        CHECK(becomes(count_kernel_threads, 2));
        sleep_ms(20);
        CHECK_EQ(count_kernel_threads(), 2);
    } else {
        CHECK(has_no_ring());
    }
    close_both();
}

/* The one that is free when all others are held up; so each is tried in the end. */
static void every_worker_has_a_ring_when_it_needs_one(void) {
    open_with(2, IO_RING);
    queue.ways[OP_OPENAT] = IO_PLAIN; /* nobody has begun */
    for (int i = 0; i < 1000 && ATOMIC_LOAD(&queue.rings, RELAXED) < 2 && !has_no_ring(); i++) {
        struct io_request *waiting = open_fifo(0);
        CHECK(becomes(count_calls, (uint64_t)i + 1));
        io_client_submit(&client, request(IO_ATTEMPT, OP_NOP));
        struct io_request *r = pop_one();
        CHECK(r != waiting);
        io_client_free(&client, r);
        int writer = open(fifos[0], O_WRONLY | O_CLOEXEC);
        CHECK((r = pop_one()) == waiting);
        close((int)r->result);
        close(writer);
        io_client_free(&client, r);
    }
    CHECK(queue.rings == 2 || has_no_ring());
    close_both();
}

/* Else the thread that submits, which may be the only one that could release the workers, waits. */
static void a_submit_never_waits_for_room(void) {
    for (size = 1; size <= 8; size *= 2)
        for (uint32_t threads = 1; threads <= 2; threads++) {
            open_with(threads, IO_PLAIN);
            for (uint32_t i = 0; i < threads; i++) open_fifo((int)i);
            CHECK(becomes(count_calls, threads));
            for (uint32_t i = threads; i < DEPTH; i++)
                io_client_submit(&client, request(IO_ATTEMPT, OP_NOP));
            io_client_flush(&client);
            int writer = open(fifos[0], O_WRONLY | O_CLOEXEC);
            for (uint32_t i = 0; i < DEPTH - threads + 1; i++) { /* all but the second fifo */
                struct io_request *r = pop_one();
                if (r->op->kind == OP_OPENAT) close((int)r->result);
                io_client_free(&client, r);
            }
            close(writer);
            close_both();
        }
    size = DEPTH;
}

/* Also what found no room is answered, and what must run does. */
static void a_close_answers_what_found_no_room(void) {
    size = 2;
    open_with(1, IO_PLAIN);
    open_fifo(0);
    CHECK(becomes(count_calls, 1));
    struct io_request *last = NULL;
    for (uint32_t i = 1; i < DEPTH; i++) {
        last = request(IO_ATTEMPT, i == DEPTH - 1 ? OP_CLOSE : OP_NOP);
        last->op->fd = open("/", O_RDONLY | O_CLOEXEC);
        if (last->op->kind != OP_CLOSE) close(last->op->fd);
        io_client_submit(&client, last);
    }
    int fd = last->op->fd;
    io_client_flush(&client);
    io_queue_close(&queue);
    CHECK_EQ(io_client_completed(&client), DEPTH);
    CHECK_EQ(fcntl(fd, F_GETFD), -1);
    io_client_close(&client);
    size = DEPTH;
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
            struct pollfd p = {.fd = client.event.fd, .events = POLLIN};
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
    size = 2; /* most find no room */
    eight_threads_by(IO_PLAIN);
    eight_threads_by(IO_RING);
    size = DEPTH;
}

static void a_close_at_any_point_discards_what_was_not_popped(void) {
    for (int i = 0; i < 100; i++) {
        size = i % 2 ? DEPTH : 1 + random_below(8);
        open_with(1 + random_below(4), random_below(3));
        for (uint32_t n = random_below(DEPTH); n; n--)
            io_client_submit(&client, random_below(2) ? read_file("/proc/self/stat")
                                                      : request(IO_ATTEMPT, OP_NOP));
        if (random_below(2)) io_client_flush(&client);
        close_both();
    }
    size = DEPTH;
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
    alarm(300);
    signal(SIGPIPE, SIG_IGN);
    make_fifos();
    RUN(a_file_is_read_whole);
    RUN(a_full_client_refuses_until_one_is_freed);
    RUN(a_refusal_says_cancelled_before_full_before_no_memory);
    RUN(what_was_popped_and_not_freed_is_not_waited_for);
    RUN(an_open_that_ends_after_the_cancel_is_closed);
    RUN(a_ring_has_no_more_of_the_kernels_threads_than_it_may);
    RUN(every_worker_has_a_ring_when_it_needs_one);
    RUN(a_submit_never_waits_for_room);
    RUN(a_close_answers_what_found_no_room);
    RUN(what_comes_after_the_stop_is_answered_and_closes_are_carried_out);
    RUN(eight_threads_submit_and_pop_at_once);
    RUN(a_close_at_any_point_discards_what_was_not_popped);
    RUN(faults_of_every_kind_lose_no_request);
    remove_fifos();
    return 0;
}
