/* How many threads attempt something just now, for the one that ends it for ever.
 *
 * Who attempts counts itself, then looks whether it is ended already; who ends it says so, then looks
 * at the count: so one of the two sees the other.  It is no mutex, since attempts go on side by side.
 * On a GIL build it is nothing: an attempt holds the GIL.
 */
#ifndef FERRULE_ATTEMPTS_H
#define FERRULE_ATTEMPTS_H

#include <Python.h>

#ifdef Py_GIL_DISABLED
static inline void attempt_begin(uint32_t *n) { __atomic_add_fetch(n, 1, __ATOMIC_SEQ_CST); }
static inline void attempt_end(uint32_t *n) { __atomic_sub_fetch(n, 1, __ATOMIC_RELEASE); }
/* Not before the count is there, which a plain load may be on ARM. */
static inline int attempt_ended(const int *flag) { return __atomic_load_n(flag, __ATOMIC_SEQ_CST); }
static inline int attempts_go_on(uint32_t *n) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return __atomic_load_n(n, __ATOMIC_ACQUIRE) != 0;
}
#else
static inline void attempt_begin(uint32_t *n) { (void)n; }
static inline void attempt_end(uint32_t *n) { (void)n; }
static inline int attempt_ended(const int *flag) { return *flag; }
static inline int attempts_go_on(uint32_t *n) { return (void)n, 0; }
#endif

#endif
