#define _GNU_SOURCE
#include "io_worker.h"

#include <errno.h>

int64_t io_worker_call(struct io_worker *w, struct io_request *r) {
    int64_t result;
    io_count(&w->counts.calls);
    do result = op_rows[r->op->kind].attempt(r->op);
    while (result == -EINTR && !ATOMIC_LOAD(&w->queue->interrupting, RELAXED));
    return result;
}

/* An attempt that cannot sleep, where there is one; -EAGAIN: the ring would not sleep either. */
static int64_t call_cached(struct io_worker *w, struct io_request *r) {
    struct op *o = r->op;
    int64_t result;
    io_count(&w->counts.cached);
    if (o->kind == OP_OPENAT) result = op_open_cached(o->fd, o->addr, o->flags, o->mode);
    else if (op_rows[o->kind].attempt_now) result = op_rows[o->kind].attempt_now(o);
    else return -EAGAIN;
    switch (result) {
    case -EAGAIN: return result;
    case -EOPNOTSUPP: /* this file cannot tell */
    case -EINVAL:     /* nor can this kernel, or a filter forbids to ask; or it is just wrong */
    case -ENOSYS:
    case -EPERM: return io_worker_call(w, r);
    }
    return result;
}

/* Whether it has a result; if not, it is in the ring. */
static bool attempt(struct io_worker *w, struct io_request *r, int64_t *result) {
    uint8_t way = w->queue->ways[r->op->kind];
    int64_t fault = io_queue_fault(w->queue, r->op->kind);
    if (fault && r->op->kind == OP_CLOSE) op_rows[OP_CLOSE].attempt(r->op); /* fails, and closes */
    if (fault) {
        *result = fault;
        return true;
    }
    if (way == IO_CACHED) {
        *result = call_cached(w, r);
        if (*result != -EAGAIN) return true;
    }
    if (way != IO_PLAIN && io_ring_is_usable(w, r->op)) {
        io_ring_start(w, r);
        return false;
    }
    *result = io_worker_call(w, r);
    return true;
}

/* Until it is answered, or in the ring. */
static void carry_out(struct io_worker *w, struct io_request *r) {
    int64_t result;
    do {
        if (!attempt(w, r, &result)) return;
        if (r->op->kind == OP_OPENAT && io_request_is_cancelled(r))
            result = io_request_undo_open(r, result);
    } while (io_request_go_on(r, result));
    io_client_answer(r);
}

void io_worker_go_on(struct io_worker *w, struct io_request *r, int64_t result) {
    if (r->op->kind == OP_OPENAT && io_request_is_cancelled(r))
        result = io_request_undo_open(r, result);
    if (io_request_go_on(r, result)) carry_out(w, r);
    else io_client_answer(r);
}

static void serve(struct io_worker *w, struct io_request *r) {
    if (r == &w->queue->stop) {
        w->stopping = true;
        slot_queue_push(&w->queue->pending, r); /* for the others */
        while ((r = io_queue_take_overflow(w->queue))) serve(w, r);
        return;
    }
    io_count(&w->counts.requests);
    if (io_request_is_cancelled(r) && !io_request_must_run(r)) {
        r->result = -EINTR;
        io_client_answer(r);
        return;
    }
    carry_out(w, r);
}

static bool take(struct io_worker *w, bool block) {
    struct io_request *r = slot_queue_pop(&w->queue->pending, block);
    io_queue_refill(w->queue); /* before it may hang */
    if (r) serve(w, r);
    return r;
}

#define TAKEN_PER_TURN 16 /* then the ring is looked at */

/* While requests are in the ring: take others, as there is room. */
static bool take_more(struct io_worker *w) {
    int took = 0;
    while (took < TAKEN_PER_TURN && !w->stopping && io_ring_in_flight(w) < IO_RING_DEPTH) {
        if (!take(w, false)) break;
        took++;
    }
    return took > 0;
}

/* The last look comes after it is counted, and so whoever pushes later rings (ring_doorbell). */
static void wait_in_ring(struct io_worker *w) {
    ATOMIC_ADD(&w->queue->in_rings, 1, SEQ_CST);
    ATOMIC_FENCE();
    bool took = take_more(w);
    io_ring_turn(w, !took);
    ATOMIC_SUB(&w->queue->in_rings, 1, RELAXED);
}

void io_worker_run(struct io_worker *w) {
    for (;;) {
        if (!io_ring_in_flight(w)) {
            if (w->stopping) return;
            take(w, true);
        } else if (take_more(w)) {
            io_ring_turn(w, false);
        } else {
            wait_in_ring(w);
        }
    }
}
