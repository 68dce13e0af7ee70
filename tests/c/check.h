/* What the C tests share.  A test is a function named after a behaviour; main lists them with RUN.
 * `make sanitize` builds each program under AddressSanitizer with UBSan and under ThreadSanitizer.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SKIPPED 77 /* exit status: nothing could be tested here; the last line printed says why */

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                  \
        }                                                                             \
    } while (0)

#define CHECK_EQ(left, right)                                                                    \
    do {                                                                                         \
        long long left_ = (long long)(left), right_ = (long long)(right);                        \
        if (left_ != right_) {                                                                   \
            fprintf(stderr, "%s:%d: %s is %lld, and %s is %lld\n", __FILE__, __LINE__, #left,    \
                    left_, #right, right_);                                                      \
            abort();                                                                             \
        }                                                                                        \
    } while (0)

#define RUN(test)          \
    do {                   \
        puts(#test);       \
        fflush(stdout);    \
        test();            \
    } while (0)

static uint64_t random_state;

/* Another sequence each time; SEED=... in the environment repeats one. */
static inline void seed_random(void) {
    const char *given = getenv("SEED");
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    random_state = given ? strtoull(given, NULL, 0)
                         : (uint64_t)now.tv_nsec << 20 ^ (uint64_t)now.tv_sec ^ (uint64_t)getpid();
    printf("SEED=%llu\n", (unsigned long long)random_state);
}

/* splitmix64 */
static inline uint64_t random_bits(void) {
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline uint32_t random_below(uint32_t bound) { return (uint32_t)(random_bits() % bound); }

static inline void sleep_ms(long ms) {
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&ts, NULL);
}

#endif
