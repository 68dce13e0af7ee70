/* A lock, and a place where its holder sleeps until something may have changed: in one place, so
 * that a test can bring its own (tests/c/explore_slot_queue.c).
 */
#ifndef FERRULE_MONITOR_H
#define FERRULE_MONITOR_H

#include <pthread.h>

/* A cache line for each, where they lie side by side. */
struct monitor {
    _Alignas(64) pthread_mutex_t mutex;
    pthread_cond_t changed;
};

/* 0 or an errno. */
static inline int monitor_init(struct monitor *m) {
    int err = pthread_mutex_init(&m->mutex, NULL);
    if (err) return err;
    err = pthread_cond_init(&m->changed, NULL);
    if (err) pthread_mutex_destroy(&m->mutex);
    return err;
}

/* Nobody is inside, and nobody comes any more. */
static inline void monitor_destroy(struct monitor *m) {
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->mutex);
}

static inline void monitor_enter(struct monitor *m) { pthread_mutex_lock(&m->mutex); }

static inline void monitor_leave(struct monitor *m) { pthread_mutex_unlock(&m->mutex); }

/* Leaves, sleeps until somebody wakes all, or for no reason, and enters again. */
static inline void monitor_sleep(struct monitor *m) { pthread_cond_wait(&m->changed, &m->mutex); }

/* From outside too. */
static inline void monitor_wake_all(struct monitor *m) { pthread_cond_broadcast(&m->changed); }

#endif
