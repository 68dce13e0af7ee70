/* Many file-system requests in flight: worker threads that take them from one queue, and any number
 * of clients that put them in and get the answers.
 *
 *     client ── batch ──► pending (slot_queue) ──► worker: plain calls, and its ring
 *        ▲                                            │
 *        └───────────── answers (a stack) ◄───────────┘
 *
 * No Python.  A client may be used from any thread.  Each request that io_client_submit accepted is
 * answered exactly once: also when the queue is cancelled (-EINTR, unless it had begun), and
 * also when it comes after the stop.
 *
 * Workers take one request at a time: what waits behind one that hangs is free for the others.
 *
 * Nothing that a worker touches after its answer may be freed before it has been joined: so a
 * client lives until its queue is closed, but may be used again and again.
 *
 * The end, in this order:
 *   1. io_queue_cancel: what has not begun is answered with -EINTR, and so is whatever comes;
 *      the gate closes, and behind the last request goes `stop`, which each worker passes on.
 *   2. io_queue_interrupt, again and again until io_queue_alive says 0: calls that wait for others
 *      (a FIFO's open) are interrupted by a signal, requests in rings cancelled.
 *   3. io_queue_close joins the threads and frees.  Then answers that nobody took are discarded by
 *      io_client_close.
 */
#ifndef FERRULE_IO_QUEUE_H
#define FERRULE_IO_QUEUE_H

#include <pthread.h>

#include "event.h"
#include "io_request.h"
#include "slot_queue.h"

/* How a worker makes an attempt. */
enum io_way {
    IO_PLAIN,  /* the system call */
    IO_CACHED, /* a call that cannot sleep; what would have slept goes to the ring */
    IO_RING,   /* the ring */
};

/* What faults can be injected into beside operations. */
enum { IO_FAULT_RING = OP_KINDS, IO_FAULT_ENTER, IO_FAULT_MEMORY, IO_FAULTS };

#define IO_FAULTS_PLANNED 16
struct io_fault { uint32_t kind, nth; int32_t error; };

struct io_counts { /* of a worker, written by it alone */
    uint64_t requests, calls, cached, in_ring, enters;
};

struct io_worker {
    pthread_t thread;
    struct io_queue *queue;
    struct io_ring *ring; /* once something needed one */
    bool stopping;
    struct io_counts counts;
};

struct io_queue {
    struct slot_queue pending;
    pthread_mutex_t overflow_mutex; /* of the next line: what found no room in `pending` */
    struct io_request *overflow, *overflow_last;
    uint32_t overflowed; /* atomic: how many */
    struct io_request stop;
    uint32_t gate; /* how many push now, and IO_GATE_CLOSED */
    bool cancelled, interrupting;
    uint8_t ways[OP_KINDS];
    struct io_worker *workers;
    uint32_t worker_count, alive;
    uint32_t kernel_threads; /* of each ring */
    int32_t ring_error;      /* why there are no rings, once one was refused */
    uint32_t rings;
    struct event doorbell;   /* ends the waits of those that wait in their rings */
    uint32_t in_rings;       /* how many do */
    pthread_mutex_t fault_mutex;
    uint32_t fault_count;
    struct io_fault faults[IO_FAULTS_PLANNED];
};

struct io_queue_options {
    uint32_t threads;
    uint32_t size;           /* requests in flight that take the fast way */
    uint32_t kernel_threads; /* that each ring may have at most */
    uint8_t ways[OP_KINDS];
};

/* 0, or -errno; then there is nothing to close. */
int io_queue_open(struct io_queue *q, const struct io_queue_options *options);
/* Any thread, any number of times. */
void io_queue_cancel(struct io_queue *q);
void io_queue_interrupt(struct io_queue *q);
static inline uint32_t io_queue_alive(const struct io_queue *q) {
    return ATOMIC_LOAD(&q->alive, ACQUIRE);
}
/* After the cancel.  Waits for the workers, interrupting them, and frees. */
void io_queue_close(struct io_queue *q);
/* In a forked child, where there are no workers: its descriptors are closed, nothing is freed. */
void io_queue_abandon(struct io_queue *q);

struct io_counts io_queue_counts(const struct io_queue *q);

/* The nth coming attempt (1: the next) fails with this errno. -ENOSPC: too many are planned. */
int io_queue_inject(struct io_queue *q, uint32_t kind, uint32_t nth, int32_t error);
void io_queue_forget_faults(struct io_queue *q);

/* ---- clients ---- */

struct io_chunk;

struct io_client {
    struct io_queue *queue;
    pthread_mutex_t mutex; /* of what follows, up to the empty line */
    struct io_request *batch[SLOT_BATCH];
    uint32_t batched;
    struct io_request *taken, *taken_last; /* answered, oldest first */
    uint64_t submitted, popped;            /* ever */
    uint32_t waiters;
    bool retired;                          /* its queue has stopped */
    uint32_t depth, unfreed, made;
    struct io_request *free;
    struct io_chunk *chunks;

    struct io_request *newest; /* answered and not taken */
    uint64_t completed;        /* ever; those have been put there */
    uint64_t wake_at;          /* when `completed` is this, somebody wants to know */
    bool signalled;            /* and was told */
    bool cancelled;
    void (*notify)(void *);    /* by a worker: never for a client that does not wait */
    void *notify_arg;
    struct event event;        /* what the default notify sets, or none */
};

/* `notify` may be NULL: then `event` becomes readable.  0 or -errno. */
int io_client_open(struct io_client *c, struct io_queue *q, uint32_t depth,
                   void (*notify)(void *), void *arg);
/* After its queue's end: nobody waits any more, and with the last who does goes the event. */
void io_client_retire(struct io_client *c);
/* Nobody uses it any more.  Discards what was not popped. */
void io_client_close(struct io_client *c);

/* A request of the client's own, with an op.  *error is -EINTR after a cancel, -EAGAIN when `depth`
 * of them have not been freed, or -ENOMEM. */
struct io_request *io_client_request(struct io_client *c, int *error);
void io_client_free(struct io_client *c, struct io_request *r);

/* From here on it is the queue's, until it is popped.  Requests travel in batches; one that is not
 * full goes with flush, pop and begin_wait, and when somebody waits. */
void io_client_submit(struct io_client *c, struct io_request *r);
void io_client_flush(struct io_client *c);

/* Up to `most` answered ones, oldest first; how many.  Never waits. */
uint32_t io_client_pop(struct io_client *c, struct io_request **out, uint32_t most);
/* Put one back that was popped last: it will be the next. */
void io_client_unpop(struct io_client *c, struct io_request *r);

/* Before a wait for `wanted` answers more than were popped, or all that there will be.  False: do
 * not wait, they are there.  Else the caller waits to be notified, and ends the wait. */
bool io_client_begin_wait(struct io_client *c, uint64_t wanted);
void io_client_end_wait(struct io_client *c);
/* After the end of a wait and the pop behind it: what was left is for another who waits, and so is
 * the news that nothing will come. */
void io_client_pass_on(struct io_client *c);
/* Wake who waits, for it to look around. */
void io_client_signal(struct io_client *c);

/* Requests of this client alone that have not begun are answered with -EINTR. */
static inline void io_client_cancel(struct io_client *c) {
    ATOMIC_STORE(&c->cancelled, true, RELAXED);
}

static inline uint64_t io_client_completed(const struct io_client *c) {
    return ATOMIC_LOAD(&c->completed, ACQUIRE);
}

/* Called by workers. */
void io_client_answer(struct io_request *r);
bool io_request_is_cancelled(const struct io_request *r);
int64_t io_queue_fault(struct io_queue *q, uint32_t kind);
/* After each that was taken from `pending`: move there what found no room. */
void io_queue_refill(struct io_queue *q);
/* After the stop: one that never did, or NULL. */
struct io_request *io_queue_take_overflow(struct io_queue *q);

#endif
