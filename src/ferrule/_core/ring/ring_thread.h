/* Threads as owners of rings.  The number that the system gives to a thread becomes another one's
 * when it has ended, so each has an object instead, which its rings hold on to.
 * Static state: for one includer only.
 */
#ifndef FERRULE_RING_THREAD_H
#define FERRULE_RING_THREAD_H

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

struct ring_thread {
    unsigned long ident; /* while it runs, as Python knows it */
    uint32_t references, ended;
};

static pthread_key_t ring_thread_key;
static _Thread_local struct ring_thread *ring_this_thread; /* NULL until it takes a ring */

static void ring_thread_drop(struct ring_thread *thread) {
    if (thread && __atomic_sub_fetch(&thread->references, 1, __ATOMIC_ACQ_REL) == 0) free(thread);
}

static void ring_thread_end(void *thread) {
    ring_this_thread = NULL;
    __atomic_store_n(&((struct ring_thread *)thread)->ended, 1, __ATOMIC_RELEASE);
    ring_thread_drop(thread);
}

static int ring_thread_watch(void) { return pthread_key_create(&ring_thread_key, ring_thread_end); }

static int ring_thread_has_ended(const struct ring_thread *thread) {
    return (int)__atomic_load_n(&thread->ended, __ATOMIC_ACQUIRE);
}

/* The calling thread, and a reference to it; NULL when there is no memory. */
static struct ring_thread *ring_thread_take(void) {
    struct ring_thread *thread = ring_this_thread;
    if (!thread) {
        if (!(thread = calloc(1, sizeof *thread))) return NULL;
        if (pthread_setspecific(ring_thread_key, thread)) {
            free(thread);
            return NULL;
        }
        thread->ident = (unsigned long)pthread_self();
        thread->references = 1; /* its own, until it ends */
        ring_this_thread = thread;
    }
    __atomic_add_fetch(&thread->references, 1, __ATOMIC_RELAXED);
    return thread;
}

#endif
