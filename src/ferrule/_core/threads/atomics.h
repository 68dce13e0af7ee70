/* The steps that threads take on shared memory, in one place, so that a test can put another
 * thread's turn before each of them: it brings its own (tests/c/explore.h).
 *
 * PLAIN_LOAD and PLAIN_STORE are not atomic: what stands around them keeps other threads away.
 * OWN_LOAD is of what this thread alone writes.
 */
#ifndef FERRULE_ATOMICS_H
#define FERRULE_ATOMICS_H

#ifndef ATOMIC_LOAD

#define ATOMIC_LOAD(from, order) __atomic_load_n(from, __ATOMIC_##order)
#define ATOMIC_STORE(to, value, order) __atomic_store_n(to, value, __ATOMIC_##order)
#define ATOMIC_SWAP(at, value, order) __atomic_exchange_n(at, value, __ATOMIC_##order)
/* The next four return what was there before. */
#define ATOMIC_ADD(at, value, order) __atomic_fetch_add(at, value, __ATOMIC_##order)
#define ATOMIC_SUB(at, value, order) __atomic_fetch_sub(at, value, __ATOMIC_##order)
#define ATOMIC_OR(at, value, order) __atomic_fetch_or(at, value, __ATOMIC_##order)
#define ATOMIC_AND(at, value, order) __atomic_fetch_and(at, value, __ATOMIC_##order)
/* Whether *expected was there and value has taken its place; else *expected is what is there. */
#define ATOMIC_CAS(at, expected, value, order, order_of_failure)                     \
    __atomic_compare_exchange_n(at, expected, value, 0, __ATOMIC_##order,            \
                                __ATOMIC_##order_of_failure)
/* The stores before it are seen by others before the loads behind it are done. */
#define ATOMIC_FENCE() atomic_fence()
#define PLAIN_LOAD(from) (*(from))
#define PLAIN_STORE(to, value) (*(to) = (value))
#define OWN_LOAD(from) (*(from))

/* ThreadSanitizer does not model fences, so no data may be handed over by one alone. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#ifdef __clang__
#pragma clang diagnostic ignored "-Wunknown-warning-option"
#endif
#pragma GCC diagnostic ignored "-Wtsan"
static inline void atomic_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#pragma GCC diagnostic pop

#endif
#endif
