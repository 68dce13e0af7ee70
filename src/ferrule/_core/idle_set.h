/* temporary */
#ifndef FERRULE_IDLE_SET_H
#define FERRULE_IDLE_SET_H
#include <stdint.h>
#include <stdbool.h>
struct idle_set { uint64_t asleep; uint32_t searching; };
static inline void idle_begin_search(struct idle_set *s) { __atomic_fetch_add(&s->searching, 1, __ATOMIC_SEQ_CST); }
static inline bool idle_end_search(struct idle_set *s, bool found) {
    return __atomic_fetch_sub(&s->searching, 1, __ATOMIC_SEQ_CST) == 1 && found; }
static inline void idle_sleep(struct idle_set *s, int i) {
    __atomic_fetch_or(&s->asleep, 1ull << i, __ATOMIC_SEQ_CST);
    __atomic_fetch_sub(&s->searching, 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline bool idle_awake(struct idle_set *s, int i) {
    return !(__atomic_fetch_and(&s->asleep, ~(1ull << i), __ATOMIC_SEQ_CST) >> i & 1); }
static inline int idle_claim(struct idle_set *s) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(&s->searching, __ATOMIC_SEQ_CST)) return -1;
    uint64_t now = __atomic_load_n(&s->asleep, __ATOMIC_SEQ_CST);
    while (now) {
        int i = __builtin_ctzll(now);
        __atomic_fetch_add(&s->searching, 1, __ATOMIC_SEQ_CST);
        if (__atomic_compare_exchange_n(&s->asleep, &now, now & ~(1ull << i), 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return i;
        __atomic_fetch_sub(&s->searching, 1, __ATOMIC_SEQ_CST);
    }
    return -1; }
#endif
