#define _GNU_SOURCE
#include "io_queue.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "io_worker.h"
#include "system_threads.h"
#include "worker_pool.h"

#define STACK_SIZE (256u << 10) /* a ring's turn has a few KiB of them */
#define FIRST_PAUSE_NS 50000
#define LONGEST_PAUSE_NS 10000000

/* ---- threads ---- */

static void *worker_main(void *arg) {
    struct io_worker *w = arg;
    io_worker_run(w);
    io_ring_close(w);
    ATOMIC_SUB(&w->queue->alive, 1, RELEASE);
    return NULL;
}

static int start_worker(struct io_queue *q, struct io_worker *w, uint32_t number) {
    char name[16];
    w->queue = q;
    int err = start_thread(&w->thread, PTHREAD_CREATE_JOINABLE, STACK_SIZE, POOL_SIGNAL, worker_main,
                           w);
    if (err) return -err;
    snprintf(name, sizeof name, "ferrule-io-%u", number % 1000);
    name_thread(w->thread, name);
    return 0;
}

static int start_workers(struct io_queue *q, uint32_t threads) {
    int err = 0;
    q->alive = threads; /* before the first of them can end */
    pool_catch_signal();
    while (!err && q->worker_count < threads) {
        err = start_worker(q, &q->workers[q->worker_count], q->worker_count);
        q->worker_count += !err;
    }
    if (err) ATOMIC_SUB(&q->alive, threads - q->worker_count, RELEASE);
    return err;
}

/* ---- open and close ---- */

static void release(struct io_queue *q) {
    io_queue_forget_faults(q);
    free(q->workers);
    q->workers = NULL;
    q->worker_count = 0;
    event_close(&q->doorbell);
    slot_queue_destroy(&q->pending);
    pthread_mutex_destroy(&q->overflow_mutex);
    pthread_mutex_destroy(&q->fault_mutex);
}

int io_queue_open(struct io_queue *q, const struct io_queue_options *options) {
    memset(q, 0, sizeof *q);
    q->kernel_threads = options->kernel_threads;
    memcpy(q->ways, options->ways, sizeof q->ways);
    int err = slot_queue_init(&q->pending, (size_t)options->size + 1); /* the stop is one more */
    if (err) return -err;
    err = event_open(&q->doorbell);
    if (err < 0) {
        slot_queue_destroy(&q->pending);
        return err;
    }
    pthread_mutex_init(&q->overflow_mutex, NULL);
    pthread_mutex_init(&q->fault_mutex, NULL);
    q->workers = calloc(options->threads, sizeof *q->workers);
    err = q->workers ? start_workers(q, options->threads) : -ENOMEM;
    if (err) io_queue_close(q);
    return err;
}

void io_queue_interrupt(struct io_queue *q) {
    ATOMIC_STORE(&q->interrupting, true, RELEASE);
    event_set(&q->doorbell);
    for (uint32_t i = 0; i < q->worker_count; i++) pthread_kill(q->workers[i].thread, POOL_SIGNAL);
}

/* A signal may come just before the call that it is to interrupt, so it is repeated. */
void io_queue_close(struct io_queue *q) {
    struct timespec pause = {.tv_nsec = FIRST_PAUSE_NS};
    io_queue_cancel(q);
    while (io_queue_alive(q)) {
        io_queue_interrupt(q);
        nanosleep(&pause, NULL);
        if (pause.tv_nsec < LONGEST_PAUSE_NS) pause.tv_nsec *= 2;
    }
    for (uint32_t i = 0; i < q->worker_count; i++) pthread_join(q->workers[i].thread, NULL);
    release(q);
}

void io_queue_abandon(struct io_queue *q) {
    event_close(&q->doorbell);
    for (uint32_t i = 0; i < q->worker_count; i++) io_ring_abandon(&q->workers[i]);
}

/* ---- what is counted ---- */

struct io_counts io_queue_counts(const struct io_queue *q) {
    struct io_counts sum = {0};
    for (uint32_t i = 0; i < q->worker_count; i++) {
        const struct io_counts *one = &q->workers[i].counts;
        sum.requests += ATOMIC_LOAD(&one->requests, RELAXED);
        sum.calls += ATOMIC_LOAD(&one->calls, RELAXED);
        sum.cached += ATOMIC_LOAD(&one->cached, RELAXED);
        sum.in_ring += ATOMIC_LOAD(&one->in_ring, RELAXED);
        sum.enters += ATOMIC_LOAD(&one->enters, RELAXED);
    }
    return sum;
}

/* ---- faults, for tests ---- */

int io_queue_inject(struct io_queue *q, uint32_t kind, uint32_t nth, int32_t error) {
    int err = -ENOSPC;
    pthread_mutex_lock(&q->fault_mutex);
    for (int i = 0; err && i < IO_FAULTS_PLANNED; i++) {
        if (q->faults[i].nth) continue;
        q->faults[i] = (struct io_fault){kind, nth, error};
        ATOMIC_ADD(&q->fault_count, 1, RELAXED);
        err = 0;
    }
    pthread_mutex_unlock(&q->fault_mutex);
    return err;
}

void io_queue_forget_faults(struct io_queue *q) {
    pthread_mutex_lock(&q->fault_mutex);
    memset(q->faults, 0, sizeof q->faults);
    ATOMIC_STORE(&q->fault_count, 0, RELAXED);
    pthread_mutex_unlock(&q->fault_mutex);
}

/* Of those planned for the same attempt the first is what happens. */
static int64_t planned_fault(struct io_queue *q, uint32_t kind) {
    int64_t result = 0;
    for (int i = 0; i < IO_FAULTS_PLANNED; i++) {
        struct io_fault *fault = &q->faults[i];
        if (!fault->nth || fault->kind != kind || --fault->nth) continue;
        ATOMIC_SUB(&q->fault_count, 1, RELAXED);
        if (!result) result = -fault->error;
    }
    return result;
}

int64_t io_queue_fault(struct io_queue *q, uint32_t kind) {
    if (!ATOMIC_LOAD(&q->fault_count, RELAXED)) return 0;
    pthread_mutex_lock(&q->fault_mutex);
    int64_t result = planned_fault(q, kind);
    pthread_mutex_unlock(&q->fault_mutex);
    return result;
}
