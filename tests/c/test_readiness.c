/* readiness.h and poller_epoll.h: the queues, what is remembered of numbers, and epoll itself. */
#define _GNU_SOURCE
#include "readiness.h"
#include "poller_epoll.h"

#include <fcntl.h>
#include <sys/socket.h>

#include "check.h"

static struct op *new_op(int kind, int fd, uint64_t descriptor) {
    struct op *o = calloc(1, sizeof *o);
    CHECK(o);
    o->kind = (uint8_t)kind;
    o->fd = fd;
    o->descriptor = descriptor;
    return o;
}

static struct op *new_poll(int fd, int events) {
    struct op *o = new_op(OP_POLL, fd, 0);
    o->flags = (uint32_t)events;
    return o;
}

/* ---- the list of numbers ---- */

static void what_is_found_never_moves(void) {
    struct watch_list l = {0};
    CHECK(!watch_find(&l, 5));
    struct watched *five = watch_add(&l, 5);
    struct watched *far = watch_add(&l, 100000);
    CHECK(five && far && five != far);
    CHECK(watch_add(&l, 5) == five && watch_find(&l, 100000) == far);
    CHECK(!watch_find(&l, 50000) && !watch_find(&l, 1 << 30));
    watch_free(&l);
    CHECK(!watch_find(&l, 5));
}

/* ---- queues, against a model ---- */

#define MODEL 200

static void any_sequence_keeps_the_order_of_each_queue(void) {
    struct watched w = {0};
    struct op *queued[MODEL];
    int count = 0;
    static const int kinds[] = {OP_RECV, OP_SEND, OP_POLL, OP_ACCEPT, OP_WRITE};
    for (int step = 0; step < 20000; step++) {
        if (count < MODEL && random_below(2)) {
            struct op *o = new_op(kinds[random_below(5)], 1, 1);
            if (o->kind == OP_POLL) o->flags = (uint32_t[]){POLLIN, POLLOUT, POLLIN | POLLOUT}[random_below(3)];
            watch_queue(&w, o);
            queued[count++] = o;
        } else if (count) {
            int at = (int)random_below((uint32_t)count);
            watch_remove(&w, queued[at]);
            free(queued[at]);
            memmove(&queued[at], &queued[at + 1], (size_t)(--count - at) * sizeof *queued);
        }
        struct op *next[QUEUES];
        for (int place = 0; place < QUEUES; place++) next[place] = w.queues[place].head;
        int wanted = 0;
        for (int i = 0; i < count; i++) {
            CHECK(next[watch_place(queued[i])] == queued[i]);
            next[watch_place(queued[i])] = queued[i]->next;
            wanted |= watch_events(queued[i]);
        }
        for (int place = 0; place < QUEUES; place++) CHECK(!next[place]);
        CHECK_EQ(watch_wanted(&w), wanted);
    }
    while (count) free(queued[--count]);
}

/* ---- what is remembered ---- */

static void another_descriptor_of_a_number_starts_anew(void) {
    struct watched w = {0};
    struct op *one = new_op(OP_RECV, 1, 7), *other = new_op(OP_RECV, 1, 8), *foreign = new_poll(1, POLLIN);
    CHECK(watch_is_ready(&w, one)); /* nothing is known: try */
    w.ready = 0;
    w.armed = POLLIN;
    w.hung = 1;
    CHECK(!watch_is_ready(&w, one));
    CHECK(watch_is_ready(&w, foreign)); /* nothing is remembered for it ... */
    CHECK(!watch_is_ready(&w, one));    /* ... and nothing forgotten */
    CHECK_EQ(w.armed, POLLIN);
    CHECK(watch_is_ready(&w, other));
    CHECK_EQ(w.armed, 0);
    CHECK(!w.hung);
    free(one);
    free(other);
    free(foreign);
}

static void an_end_makes_every_attempt_worth_it(void) {
    struct watched w = {.armed = POLLIN};
    struct poller_event e = {.events = POLLHUP, .disarmed = -1};
    watch_learn(&w, &e);
    CHECK(watch_is_worth(&w, QUEUE_READ) && watch_is_worth(&w, QUEUE_WRITE) && w.hung);
    CHECK_EQ(w.armed, 0);
}

static void a_read_event_says_nothing_about_writing(void) {
    struct watched w = {0};
    struct poller_event e = {.events = POLLIN};
    watch_learn(&w, &e);
    CHECK(watch_is_worth(&w, QUEUE_READ) && !watch_is_worth(&w, QUEUE_WRITE) && !w.hung);
    CHECK(watch_is_worth(&w, QUEUE_EITHER));
}

/* ---- epoll ---- */

static struct poller p;
static int wake[2], ends[2];
static struct poller_event events[8];

static void open_all(void) {
    CHECK_EQ(pipe2(wake, O_NONBLOCK), 0);
    CHECK_EQ(poller_open(&p, wake[0]), 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
}

static void close_all(void) {
    poller_close(&p);
    close(wake[0]);
    close(wake[1]);
    close(ends[0]);
    close(ends[1]);
}

static void send_byte(void) { CHECK_EQ(write(ends[1], "x", 1), 1); }

static int look(void) { return poller_wait(&p, 0, events, 8); }

static void what_is_there_already_is_reported(void) {
    open_all();
    send_byte();
    CHECK_EQ(poller_arm(&p, ends[0], POLLIN, ARM_LASTS), 0);
    CHECK_EQ(look(), 1);
    CHECK_EQ(events[0].fd, ends[0]);
    CHECK(events[0].events & POLLIN);
    CHECK_EQ(events[0].disarmed, 0);
    CHECK_EQ(look(), 0); /* told once */
    send_byte();
    CHECK_EQ(look(), 1); /* and at each arrival */
    CHECK_EQ(poller_arm(&p, ends[0], POLLIN | POLLOUT, ARM_LASTS | ARM_AGAIN), 0);
    CHECK_EQ(look(), 1);
    CHECK(events[0].events & POLLIN && events[0].events & POLLOUT);
    close_all();
}

static void a_number_armed_once_is_reported_once(void) {
    open_all();
    CHECK_EQ(poller_arm(&p, ends[0], POLLIN, 0), 0);
    send_byte();
    CHECK_EQ(look(), 1);
    CHECK_EQ(events[0].disarmed, -1);
    send_byte();
    CHECK_EQ(look(), 0);
    CHECK_EQ(poller_arm(&p, ends[0], POLLIN, ARM_AGAIN), 0);
    CHECK_EQ(look(), 1);
    close_all();
}

static void a_wrong_guess_about_a_number_is_put_right(void) {
    open_all();
    CHECK_EQ(poller_arm(&p, ends[0], POLLIN, ARM_AGAIN), 0); /* it never was */
    CHECK_EQ(poller_arm(&p, ends[0], POLLIN, 0), 0);         /* it was */
    close(ends[0]);
    int reused = dup(ends[1]);
    CHECK_EQ(reused, ends[0]);
    CHECK_EQ(poller_arm(&p, reused, POLLOUT, ARM_AGAIN | ARM_LASTS), 0); /* another file's now */
    CHECK(look() >= 1);
    close_all();
}

static void a_disarmed_number_is_silent_though_a_copy_lives(void) {
    open_all();
    CHECK_EQ(poller_arm(&p, ends[0], POLLIN, ARM_LASTS), 0);
    int copy = dup(ends[0]);
    poller_disarm(&p, ends[0]);
    close(ends[0]);
    send_byte();
    CHECK_EQ(look(), 0);
    close(copy);
    close_all();
}

static void files_are_refused_and_closed_numbers_too(void) {
    open_all();
    int file = open("/proc/self/exe", O_RDONLY);
    CHECK_EQ(poller_arm(&p, file, POLLIN, ARM_LASTS), -EPERM);
    close(file);
    CHECK_EQ(poller_arm(&p, file, POLLIN, ARM_LASTS), -EBADF);
    close_all();
}

static int64_t waited(int64_t timeout) {
    int64_t before = clock_now(CLOCK_OF_LOOP);
    CHECK_EQ(poller_wait(&p, timeout, events, 8), 0);
    return clock_now(CLOCK_OF_LOOP) - before;
}

static void a_wait_is_never_shorter_than_asked(void) {
    open_all();
    for (int coarse = 0; coarse < 2; coarse++) {
        p.is_coarse |= coarse;
        CHECK(waited(300000) >= 300000);
        CHECK(waited(2500000) >= 2500000);
    }
    close_all();
}

static void a_wake_up_is_an_event_until_it_is_taken(void) {
    open_all();
    CHECK_EQ(write(wake[1], "w", 1), 1);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(poller_wait(&p, -1, events, 8), 1);
        CHECK_EQ(events[0].fd, wake[0]);
    }
    close_all();
}

int main(void) {
    seed_random();
    RUN(what_is_found_never_moves);
    RUN(any_sequence_keeps_the_order_of_each_queue);
    RUN(another_descriptor_of_a_number_starts_anew);
    RUN(an_end_makes_every_attempt_worth_it);
    RUN(a_read_event_says_nothing_about_writing);
    RUN(what_is_there_already_is_reported);
    RUN(a_number_armed_once_is_reported_once);
    RUN(a_wrong_guess_about_a_number_is_put_right);
    RUN(a_disarmed_number_is_silent_though_a_copy_lives);
    RUN(files_are_refused_and_closed_numbers_too);
    RUN(a_wait_is_never_shorter_than_asked);
    RUN(a_wake_up_is_an_event_until_it_is_taken);
    return 0;
}
