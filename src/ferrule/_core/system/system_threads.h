/* Starting threads, and what systems do not agree on about them. */
#ifndef FERRULE_SYSTEM_THREADS_H
#define FERRULE_SYSTEM_THREADS_H

#include <pthread.h>
#include <signal.h>
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

/* Signals are for the program's own threads: this one blocks all but `interrupting`, if not 0.  `how`
 * is PTHREAD_CREATE_JOINABLE or _DETACHED.  0, or an errno. */
static inline int start_thread(pthread_t *thread, int how, size_t stack_size, int interrupting,
                               void *(*run)(void *), void *arg) {
    pthread_attr_t attr;
    sigset_t blocked, before;
    sigfillset(&blocked);
    if (interrupting) sigdelset(&blocked, interrupting);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, how);
    pthread_attr_setstacksize(&attr, stack_size);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int err = pthread_create(thread, &attr, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return err;
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
