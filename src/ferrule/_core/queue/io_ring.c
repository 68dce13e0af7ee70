/* The ring of one worker of an I/O queue, made by the thread whose it is when it first needs it. */
#ifdef __linux__
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>

#include "io_worker.h"
#include "ring.h"

#define BELL UINT64_MAX      /* user_data that is no request's place */
#define NOBODY (UINT64_MAX - 1)
#define SQ_ENTRIES (2 * IO_RING_DEPTH) /* and room for the bell and a cancel */
#define CQ_ENTRIES (4 * IO_RING_DEPTH)
#define TRIES 100            /* at a submission, of a millisecond each at most */

struct io_ring {
    struct ring ring;
    struct io_request *places[IO_RING_DEPTH]; /* by user_data */
    uint32_t in_flight;
    bool supported[256];
    bool bell_armed, cancel_sent, broken;
};

/* ---- set-up ---- */

/* Best first; decided by trying. */
static const uint32_t ladder[] = {
    URING_SETUP_SINGLE_ISSUER | URING_SETUP_DEFER_TASKRUN | URING_SETUP_SUBMIT_ALL |
        URING_SETUP_CQSIZE | URING_SETUP_CLAMP | URING_SETUP_NO_SQARRAY,
    URING_SETUP_SINGLE_ISSUER | URING_SETUP_DEFER_TASKRUN | URING_SETUP_SUBMIT_ALL |
        URING_SETUP_CQSIZE | URING_SETUP_CLAMP,
    URING_SETUP_COOP_TASKRUN | URING_SETUP_SUBMIT_ALL | URING_SETUP_CQSIZE | URING_SETUP_CLAMP,
    URING_SETUP_CQSIZE | URING_SETUP_CLAMP,
};

static int open_ring(struct ring *r) {
    int err = -EINVAL;
    for (size_t i = 0; err == -EINVAL && i < sizeof ladder / sizeof *ladder; i++) {
        struct uring_params p = {.flags = ladder[i], .cq_entries = CQ_ENTRIES};
        err = ring_open(r, SQ_ENTRIES, &p);
    }
    return err;
}

static void probe(struct io_ring *ring) {
    struct uring_probe asked = {0};
    if (ring_register(&ring->ring, URING_REGISTER_PROBE, &asked, 256) < 0) return;
    for (int i = 0; i < asked.ops_len; i++)
        ring->supported[i] = asked.ops[i].flags & URING_PROBE_SUPPORTED;
}

static int make_ring(struct io_worker *w) {
    int64_t fault = io_queue_fault(w->queue, IO_FAULT_RING);
    if (fault) return (int)fault;
    struct io_ring *ring = calloc(1, sizeof *ring);
    if (!ring) return -ENOMEM;
    int err = open_ring(&ring->ring);
    if (err < 0) {
        free(ring);
        return err;
    }
    probe(ring);
    ring_register_own_fd(&ring->ring); /* Linux 5.18; without it enter looks the fd up */
    /* Threads that the kernel starts belong to this thread and not to rings that were attached, so
     * each ring has its limit. */
    uint32_t limits[2] = {w->queue->kernel_threads, w->queue->kernel_threads};
    ring_register(&ring->ring, URING_REGISTER_IOWQ_MAX_WORKERS, limits, 2);
    w->ring = ring;
    ATOMIC_ADD(&w->queue->rings, 1, RELAXED);
    return 0;
}

/* One refusal is enough for all workers. */
bool io_ring_is_usable(struct io_worker *w, const struct op *o) {
    int opcode = op_rows[o->kind].uring_op;
    if (opcode < 0 || ATOMIC_LOAD(&w->queue->ring_error, RELAXED)) return false;
    if (!w->ring) {
        int err = make_ring(w);
        if (err < 0) {
            ATOMIC_STORE(&w->queue->ring_error, err, RELAXED);
            return false;
        }
    }
    return w->ring->supported[opcode] && !w->ring->broken &&
           w->ring->in_flight < IO_RING_DEPTH;
}

uint32_t io_ring_in_flight(const struct io_worker *w) { return w->ring ? w->ring->in_flight : 0; }

void io_ring_close(struct io_worker *w) {
    if (!w->ring) return;
    ring_unregister_own_fd(&w->ring->ring);
    ring_close(&w->ring->ring);
    free(w->ring);
    w->ring = NULL;
}

void io_ring_abandon(struct io_worker *w) {
    if (w->ring && w->ring->ring.fd >= 0) close(w->ring->ring.fd);
}

/* ---- submission ---- */

static uint32_t free_place(const struct io_ring *ring) {
    uint32_t place = 0;
    while (ring->places[place]) place++;
    return place;
}

void io_ring_start(struct io_worker *w, struct io_request *r) {
    struct io_ring *ring = w->ring;
    struct uring_sqe *sqe = ring_get_sqe(&ring->ring); /* there are twice as many as places */
    uint32_t place = free_place(ring);
    op_rows[r->op->kind].prepare(r->op, sqe);
    sqe->opcode = (uint8_t)op_rows[r->op->kind].uring_op;
    sqe->user_data = place;
    ring->places[place] = r;
    ring->in_flight++;
    io_count(&w->counts.in_ring);
}

/* A poll, which leaves nothing for the kernel to write to when the ring is closed. */
static void arm_bell(struct io_worker *w) {
    struct uring_sqe *sqe = w->ring->bell_armed ? NULL : ring_get_sqe(&w->ring->ring);
    if (!sqe) return;
    struct op bell = {.fd = w->queue->doorbell.fd, .flags = POLLIN};
    op_rows[OP_POLL].prepare(&bell, sqe);
    sqe->opcode = URING_OP_POLL_ADD;
    sqe->user_data = BELL;
    w->ring->bell_armed = true;
}

static void cancel_all(struct io_ring *ring) {
    struct uring_sqe *sqe = ring->cancel_sent ? NULL : ring_get_sqe(&ring->ring);
    if (!sqe) return;
    sqe->opcode = URING_OP_ASYNC_CANCEL;
    sqe->fd = -1;
    sqe->op_flags = URING_CANCEL_ANY | URING_CANCEL_ALL;
    sqe->user_data = NOBODY;
    ring->cancel_sent = true;
    ring->bell_armed = false;
}

/* ---- completion ---- */

static void take(struct io_worker *w, const struct uring_cqe *cqe) {
    struct io_ring *ring = w->ring;
    if (cqe->user_data == BELL) {
        ring->bell_armed = false;
        event_clear(&w->queue->doorbell); /* before the look at what was pushed */
    }
    if (cqe->user_data >= IO_RING_DEPTH) return;
    struct io_request *r = ring->places[cqe->user_data];
    ring->places[cqe->user_data] = NULL;
    ring->in_flight--;
    io_worker_go_on(w, r, cqe->res == -ECANCELED ? -EINTR : cqe->res);
}

static uint32_t reap(struct io_worker *w) {
    struct uring_cqe cqes[IO_RING_DEPTH];
    uint32_t n = ring_copy_cqes(&w->ring->ring, cqes, IO_RING_DEPTH);
    for (uint32_t i = 0; i < n; i++) take(w, &cqes[i]);
    return n;
}

/* ---- when the kernel takes no more ---- */

static int enter(struct io_worker *w, uint32_t n, uint32_t wait_nr) {
    int64_t fault = io_queue_fault(w->queue, IO_FAULT_ENTER);
    if (fault) return (int)fault;
    io_count(&w->counts.enters);
    return ring_enter(&w->ring->ring, n, wait_nr, URING_ENTER_GETEVENTS, NULL);
}

/* What the kernel has not consumed is taken out of the queue, and done by plain calls. */
static void take_back(struct io_worker *w) {
    struct ring *r = &w->ring->ring;
    struct io_request *back[SQ_ENTRIES];
    uint32_t count = 0, head = ATOMIC_LOAD(r->sq_khead, ACQUIRE);
    for (uint32_t at = head; at != r->sqe_tail; at++) {
        uint64_t place = ring_sqe_at(r, at)->user_data;
        if (place == BELL) w->ring->bell_armed = false;
        if (place >= IO_RING_DEPTH) continue;
        back[count++] = w->ring->places[place];
        w->ring->places[place] = NULL;
    }
    r->sqe_head = r->sqe_tail = head;
    ATOMIC_STORE(r->sq_ktail, head, RELEASE); /* it looks only inside enter */
    w->ring->in_flight -= count;
    for (uint32_t i = 0; i < count; i++) io_worker_go_on(w, back[i], io_worker_call(w, back[i]));
}

/* The ring cannot even be waited for.  What is in flight is answered; the kernel may still write
 * to it, so it is used for nothing else. */
static void give_up(struct io_worker *w, int error) {
    struct io_ring *ring = w->ring;
    ring->broken = true;
    take_back(w);
    for (uint32_t place = 0; place < IO_RING_DEPTH; place++) {
        struct io_request *r = ring->places[place];
        if (!r) continue;
        ring->places[place] = NULL;
        ring->in_flight--;
        if (r->file >= 0) close(r->file);
        r->lost = true;
        r->result = error;
        io_client_answer(r);
    }
}

static void sleep_a_moment(void) {
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static bool is_passing(int error) {
    return error == -EAGAIN || error == -EBUSY || error == -EINTR || error == -ETIME;
}

/* -EAGAIN, -EBUSY, or fewer than there are: collect all that it has, then try again.  Whether it
 * has consumed everything. */
static bool submit_the_rest(struct io_worker *w) {
    for (int i = 0; i < TRIES && ring_flush(&w->ring->ring); i++) {
        uint32_t consumed = w->ring->in_flight;
        while (reap(w)) {}
        int err = enter(w, ring_flush(&w->ring->ring), 0);
        if (err < 0 && !is_passing(err)) {
            give_up(w, err);
            return false;
        }
        if (err <= 0 && w->ring->in_flight >= consumed) sleep_a_moment();
    }
    return ring_flush(&w->ring->ring) == 0;
}

void io_ring_turn(struct io_worker *w, bool wait) {
    if (ATOMIC_LOAD(&w->queue->interrupting, RELAXED)) cancel_all(w->ring);
    if (wait) arm_bell(w);
    uint32_t n = ring_flush(&w->ring->ring);
    int err = enter(w, n, wait && !ring_cq_ready(&w->ring->ring));
    if (err < 0 && !is_passing(err)) {
        give_up(w, err);
        return;
    }
    if (ring_flush(&w->ring->ring) && !submit_the_rest(w) && !w->ring->broken) take_back(w);
    while (reap(w) == IO_RING_DEPTH) {}
}

#endif
