#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io_queue.h"

#define CHUNK 32
#define SPACE_KEPT (16u << 10) /* what a request keeps for the next: small files fit */
#define GATE_CLOSED (1u << 31)
#define NEVER UINT64_MAX

/* ---- requests, of the client's own memory ---- */

struct io_chunk {
    struct io_chunk *next;
    struct io_request requests[CHUNK];
    struct op ops[CHUNK];
};

/* Under the mutex. */
static bool add_chunk(struct io_client *c) {
    struct io_chunk *chunk = calloc(1, sizeof *chunk);
    if (!chunk) return false;
    chunk->next = c->chunks;
    c->chunks = chunk;
    for (int i = CHUNK - 1; i >= 0; i--) {
        struct io_request *r = &chunk->requests[i];
        r->op = &chunk->ops[i];
        r->op->index = c->made + (uint32_t)i;
        r->client = c;
        r->next = c->free;
        c->free = r;
    }
    c->made += CHUNK;
    return true;
}

static struct io_request *take_free(struct io_client *c, int *error) {
    if (c->unfreed >= c->depth) {
        *error = -EAGAIN;
        return NULL;
    }
    int64_t fault = io_queue_fault(c->queue, IO_FAULT_MEMORY);
    if (fault || (!c->free && !add_chunk(c))) {
        *error = -ENOMEM;
        return NULL;
    }
    struct io_request *r = c->free;
    c->free = r->next;
    c->unfreed++;
    return r;
}

struct io_request *io_client_request(struct io_client *c, int *error) {
    if (ATOMIC_LOAD(&c->queue->cancelled, RELAXED)) {
        *error = -EINTR;
        return NULL;
    }
    pthread_mutex_lock(&c->mutex);
    struct io_request *r = take_free(c, error);
    pthread_mutex_unlock(&c->mutex);
    return r;
}

void io_client_free(struct io_client *c, struct io_request *r) {
    if (r->space_size > SPACE_KEPT && !r->lost) {
        free(r->space);
        r->space = NULL;
        r->space_size = 0;
    }
    pthread_mutex_lock(&c->mutex);
    c->unfreed--;
    if (!r->lost) {
        r->next = c->free;
        c->free = r;
    }
    pthread_mutex_unlock(&c->mutex);
}

/* ---- open and close ---- */

static void write_event(void *arg) {
    struct io_client *c = arg;
    event_set(&c->event);
}

int io_client_open(struct io_client *c, struct io_queue *q, uint32_t depth,
                   void (*notify)(void *), void *arg) {
    memset(c, 0, sizeof *c);
    c->event = NO_EVENT;
    int err = notify ? 0 : event_open(&c->event);
    if (err < 0) return err;
    pthread_mutex_init(&c->mutex, NULL);
    c->queue = q;
    c->depth = depth;
    c->wake_at = NEVER;
    c->notify = notify ? notify : write_event;
    c->notify_arg = notify ? arg : c;
    return 0;
}

static bool chunk_is_lost(const struct io_chunk *chunk) {
    for (int i = 0; i < CHUNK; i++)
        if (chunk->requests[i].lost) return true;
    return false;
}

static void free_chunk(struct io_chunk *chunk) {
    for (int i = 0; i < CHUNK; i++)
        if (!chunk->requests[i].lost) free(chunk->requests[i].space);
    if (!chunk_is_lost(chunk)) free(chunk); /* else the kernel may still write to it */
}

/* Under the mutex, or where nobody else is any more. */
static void close_event(struct io_client *c) {
    event_close(&c->event);
}

void io_client_retire(struct io_client *c) {
    pthread_mutex_lock(&c->mutex);
    c->retired = true;
    if (!c->waiters) close_event(c);
    pthread_mutex_unlock(&c->mutex);
}

void io_client_close(struct io_client *c) {
    struct io_request *r;
    while (io_client_pop(c, &r, 1)) io_request_discard(r);
    while (c->chunks) {
        struct io_chunk *chunk = c->chunks;
        c->chunks = chunk->next;
        free_chunk(chunk);
    }
    close_event(c);
    pthread_mutex_destroy(&c->mutex);
}

/* ---- requests on their way ---- */

static bool enter_gate(struct io_queue *q) {
    if (!(ATOMIC_ADD(&q->gate, 1, ACQUIRE) & GATE_CLOSED)) return true;
    ATOMIC_SUB(&q->gate, 1, RELEASE);
    return false;
}

/* It came after the stop. */
static void answer_here(struct io_request *r) {
    r->result = io_request_must_run(r) ? op_rows[r->op->kind].attempt(r->op) : -EINTR;
    io_client_answer(r);
}

static void ring_doorbell(struct io_queue *q) {
    ATOMIC_FENCE(); /* pairs with the count before a worker's last look */
    if (!ATOMIC_LOAD(&q->in_rings, RELAXED)) return;
    event_set(&q->doorbell);
}

/* Under the queue's overflow_mutex, inside the gate. */
static void push_overflow(struct io_queue *q) {
    while (q->overflow) {
        struct io_request *r = q->overflow, *next = r->next;
        if (!slot_queue_try_push_batch(&q->pending, (void *[]){r}, 1, 1)) return;
        q->overflow = next;
        ATOMIC_SUB(&q->overflowed, 1, RELAXED);
    }
}

/* Never waits: who submits may be the loop's thread, and all workers may be held up.  One slot is
 * left for the stop. */
static void push(struct io_queue *q, struct io_request **batch, uint32_t n) {
    uint32_t done = (uint32_t)slot_queue_try_push_batch(&q->pending, (void *const *)batch, n, 1);
    if (done == n) return;
    pthread_mutex_lock(&q->overflow_mutex);
    for (; done < n; done++) {
        batch[done]->next = NULL;
        if (q->overflow) q->overflow_last->next = batch[done];
        else q->overflow = batch[done];
        q->overflow_last = batch[done];
        ATOMIC_ADD(&q->overflowed, 1, SEQ_CST);
    }
    /* If there is no room, whoever takes the next one will see these; if there is, he may not have. */
    push_overflow(q);
    pthread_mutex_unlock(&q->overflow_mutex);
}

void io_queue_refill(struct io_queue *q) {
    if (!ATOMIC_LOAD(&q->overflowed, SEQ_CST) || !enter_gate(q)) return;
    pthread_mutex_lock(&q->overflow_mutex);
    push_overflow(q);
    pthread_mutex_unlock(&q->overflow_mutex);
    ring_doorbell(q);
    ATOMIC_SUB(&q->gate, 1, RELEASE);
}

struct io_request *io_queue_take_overflow(struct io_queue *q) {
    pthread_mutex_lock(&q->overflow_mutex);
    struct io_request *r = q->overflow;
    if (r) {
        q->overflow = r->next;
        ATOMIC_SUB(&q->overflowed, 1, RELAXED);
    }
    pthread_mutex_unlock(&q->overflow_mutex);
    return r;
}

/* Under the mutex. */
static void push_batch(struct io_client *c) {
    struct io_queue *q = c->queue;
    uint32_t n = c->batched;
    if (!n) return;
    c->batched = 0;
    if (enter_gate(q)) {
        push(q, c->batch, n);
        ring_doorbell(q); /* before the gate: after it the queue may be closed, and the bell */
        ATOMIC_SUB(&q->gate, 1, RELEASE);
    } else {
        for (uint32_t i = 0; i < n; i++) answer_here(c->batch[i]);
    }
}

void io_client_submit(struct io_client *c, struct io_request *r) {
    io_request_begin(r);
    pthread_mutex_lock(&c->mutex);
    c->submitted++;
    c->batch[c->batched++] = r;
    if (c->batched == SLOT_BATCH || c->waiters) push_batch(c);
    pthread_mutex_unlock(&c->mutex);
}

void io_client_flush(struct io_client *c) {
    pthread_mutex_lock(&c->mutex);
    push_batch(c);
    pthread_mutex_unlock(&c->mutex);
}

void io_queue_cancel(struct io_queue *q) {
    ATOMIC_STORE(&q->cancelled, true, RELAXED);
    if (ATOMIC_OR(&q->gate, GATE_CLOSED, ACQ_REL) & GATE_CLOSED) return;
    /* Nobody stays inside for longer than it takes to push, so nothing lands behind the stop. */
    while (ATOMIC_LOAD(&q->gate, ACQUIRE) != GATE_CLOSED) sched_yield();
    slot_queue_push(&q->pending, &q->stop);
    ring_doorbell(q);
}

/* ---- answers ---- */

bool io_request_is_cancelled(const struct io_request *r) {
    return ATOMIC_LOAD(&r->client->cancelled, RELAXED) ||
           ATOMIC_LOAD(&r->client->queue->cancelled, RELAXED);
}

void io_client_signal(struct io_client *c) {
    if (!ATOMIC_SWAP(&c->signalled, true, ACQ_REL)) c->notify(c->notify_arg);
}

void io_client_answer(struct io_request *r) {
    struct io_client *c = r->client;
    struct io_request *newest = ATOMIC_LOAD(&c->newest, RELAXED);
    do PLAIN_STORE(&r->next, newest);
    while (!ATOMIC_CAS(&c->newest, &newest, r, RELEASE, RELAXED));
    /* From here on the request is the client's.  Both steps are SEQ_CST, as in begin_wait: who
     * waits sees the answer, or is seen. */
    uint64_t completed = ATOMIC_ADD(&c->completed, 1, SEQ_CST) + 1;
    if (completed >= ATOMIC_LOAD(&c->wake_at, SEQ_CST)) io_client_signal(c);
}

/* Under the mutex: what was answered since, behind what was taken before. */
static void take_answers(struct io_client *c) {
    struct io_request *r = ATOMIC_SWAP(&c->newest, NULL, ACQUIRE), *oldest = NULL, *last = r;
    while (r) {
        struct io_request *before = r->next;
        r->next = oldest;
        oldest = r;
        r = before;
    }
    if (c->taken) c->taken_last->next = oldest;
    else c->taken = oldest;
    if (last) c->taken_last = last;
}

uint32_t io_client_pop(struct io_client *c, struct io_request **out, uint32_t most) {
    uint32_t n = 0;
    pthread_mutex_lock(&c->mutex);
    push_batch(c);
    if (ATOMIC_LOAD(&c->newest, RELAXED)) take_answers(c);
    for (; n < most && c->taken; n++) {
        out[n] = c->taken;
        c->taken = c->taken->next;
    }
    c->popped += n;
    pthread_mutex_unlock(&c->mutex);
    return n;
}

void io_client_unpop(struct io_client *c, struct io_request *r) {
    pthread_mutex_lock(&c->mutex);
    if (!c->taken) c->taken_last = r;
    r->next = c->taken;
    c->taken = r;
    c->popped--;
    pthread_mutex_unlock(&c->mutex);
}

/* ---- waiting for them ---- */

bool io_client_begin_wait(struct io_client *c, uint64_t wanted) {
    pthread_mutex_lock(&c->mutex);
    push_batch(c);
    uint64_t all = c->submitted - c->popped; /* 0: there will be none */
    uint64_t target = c->popped + (wanted < all ? wanted : all);
    if (!c->waiters || target < c->wake_at) ATOMIC_STORE(&c->wake_at, target, SEQ_CST);
    bool waits = all && !c->retired &&
                 ATOMIC_LOAD(&c->completed, SEQ_CST) < target;
    if (waits) c->waiters++;
    else if (!c->waiters) ATOMIC_STORE(&c->wake_at, NEVER, RELAXED);
    pthread_mutex_unlock(&c->mutex);
    return waits;
}

void io_client_end_wait(struct io_client *c) {
    pthread_mutex_lock(&c->mutex);
    /* Those that still wait have targets of their own, which nobody remembers: the next answer. */
    ATOMIC_STORE(&c->wake_at, --c->waiters ? c->popped + 1 : NEVER, SEQ_CST);
    if (ATOMIC_LOAD(&c->signalled, ACQUIRE)) {
        if (c->event.fd >= 0) event_clear(&c->event);
        /* After the read and before anybody looks: a signal that comes now writes again. */
        ATOMIC_STORE(&c->signalled, false, SEQ_CST);
    }
    if (c->retired && !c->waiters) close_event(c);
    pthread_mutex_unlock(&c->mutex);
}

void io_client_pass_on(struct io_client *c) {
    pthread_mutex_lock(&c->mutex);
    uint64_t completed = ATOMIC_LOAD(&c->completed, SEQ_CST);
    bool concerns = c->waiters && (completed > c->popped || completed >= c->submitted);
    pthread_mutex_unlock(&c->mutex);
    if (concerns) io_client_signal(c);
}
