/* What systems do not agree on about threads. */
#ifndef FERRULE_SYSTEM_THREADS_H
#define FERRULE_SYSTEM_THREADS_H

#include <pthread.h>
#include <time.h>
#if defined(__has_include)
#if __has_include(<sys/single_threaded.h>)
#include <sys/single_threaded.h>
#define is_single_threaded() __libc_single_threaded
#endif
#endif
#ifndef is_single_threaded
#define is_single_threaded() 0 /* not known */
#endif

/* What pthread_cond_timedwait's times are of. */
#ifdef __APPLE__ /* whose condition variables know no other */
#define WAIT_CLOCK CLOCK_REALTIME
#else
#define WAIT_CLOCK CLOCK_MONOTONIC
#endif

static inline void init_timed_condition(pthread_cond_t *condition) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
#ifndef __APPLE__
    pthread_condattr_setclock(&attr, WAIT_CLOCK);
#endif
    pthread_cond_init(condition, &attr);
    pthread_condattr_destroy(&attr);
}

/* For who looks from outside; at most 15 bytes. */
static inline void name_thread(pthread_t thread, const char *name) {
#ifdef __linux__
    pthread_setname_np(thread, name);
#else
    (void)thread; /* macOS can name only the thread that runs */
    (void)name;
#endif
}

#endif
