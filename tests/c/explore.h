/* Every order in which a few small threads can take their steps on shared memory.
 *
 * The threads are coroutines that run the real headers, whose steps (atomics.h) come here: before
 * each of them any other thread may have its turn.  The search is depth first; a schedule is run
 * again from the start to try its next branch.  A thread is where its observations have led it, so
 * two schedules with the same memory and the same observations have the same futures, of which one
 * is enough.
 *
 * Memory is sequentially consistent; or, with store_buffers, that of x86: each thread's stores wait
 * in a queue of its own until they are written one by one, at any time, or by a read-modify-write
 * or a fence.  That is where a missing fence shows.  What weaker orders (ARM) add is not explored.
 *
 * What threads do between steps must depend on their observations alone; what else they write must
 * be shared with explore_share or be looked at only in the end.
 */
#ifndef EXPLORE_H
#define EXPLORE_H

#undef _FORTIFY_SOURCE /* its longjmp takes a change of stacks for an attack */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <ucontext.h>

#include "check.h"

#define EXPLORE_THREADS 4
#define EXPLORE_DEPTH 512
#define EXPLORE_REGIONS 8
#define EXPLORE_STORES 16
#define EXPLORE_STACK (64 * 1024)

struct explore_store {
    void *to;
    uint64_t value;
    uint8_t size;
};

struct explore_thread {
    void (*body)(void);
    jmp_buf place;
    bool ended;
    uint64_t seen; /* all its observations */
    const uint32_t *waits_for;
    struct explore_store stores[EXPLORE_STORES];
    uint32_t store_count;
    struct explore_store held_back; /* see publish_early */
    char stack[EXPLORE_STACK];
};

struct explore_branch {
    uint8_t chosen, choices, who;
    const char *what;
    uint64_t value;
};

struct explore_region {
    const void *start;
    size_t size;
};

/* What one exploration is given. */
struct exploration {
    void (*start)(void);  /* makes the memory anew and shares it */
    void (*bodies[EXPLORE_THREADS])(void);
    void (*finish)(void); /* when nobody can go on: EXPECTs what must be then */
    bool store_buffers;
    /* Mistakes to plant, to see that they are found. */
    const void *torn;    /* a read-modify-write here is a load and a store */
    bool publish_early;  /* a plain store is done only after the atomic store behind it */
    bool no_fences;      /* with store_buffers */
    uint64_t (*alter)(const void *at, uint64_t value); /* another value is written */
};

static struct explorer {
    const struct exploration *given;
    struct explore_thread threads[EXPLORE_THREADS], outside;
    struct explore_thread *current; /* outside while start and finish run */
    jmp_buf main;
    struct explore_region regions[EXPLORE_REGIONS], forbidden;
    uint32_t region_count, depth;
    struct explore_branch path[EXPLORE_DEPTH];
    uint64_t *visited;
    uint64_t visited_count, visited_size, runs;
    char failure[256];
} explorer;

static inline void explore_share(const void *start, size_t size) {
    CHECK(explorer.region_count < EXPLORE_REGIONS);
    explorer.regions[explorer.region_count++] = (struct explore_region){start, size};
}

/* From here on a step on this memory is a failure; NULL: on none. */
static inline void explore_forbid(const void *start, size_t size) {
    explorer.forbidden = (struct explore_region){start, size};
}

static inline uint64_t explore_mix(uint64_t hash, uint64_t value) {
    uint64_t z = (hash ^ value) * 0xbf58476d1ce4e5b9u + 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 29) * 0x94d049bb133111ebu;
    return z ^ z >> 32;
}

/* ---- threads ---- */

/* Back to the search, until this thread is chosen again. */
static inline void explore_leave(void) {
    if (explorer.current == &explorer.outside) return;
    if (!_setjmp(explorer.current->place)) _longjmp(explorer.main, 1);
}

static inline void explore_enter(struct explore_thread *t) {
    explorer.current = t;
    if (!_setjmp(explorer.main)) _longjmp(t->place, 1);
    explorer.current = &explorer.outside;
}

static inline void explore_fail(const char *what, ...) {
    va_list args;
    va_start(args, what);
    if (!explorer.failure[0]) vsnprintf(explorer.failure, sizeof explorer.failure, what, args);
    va_end(args);
    explore_leave(); /* never to come back */
}

#define EXPECT(condition) \
    do { if (!(condition)) explore_fail("%s:%d: %s", __FILE__, __LINE__, #condition); } while (0)

static inline void explore_thread_main(void) {
    explorer.current->body();
    explorer.current->ended = true;
    explore_leave();
}

/* To before its first step. */
static inline void explore_thread_start(struct explore_thread *t, void (*body)(void)) {
    t->body = body;
    t->ended = !body;
    t->seen = t->store_count = 0;
    t->waits_for = t->held_back.to = NULL;
    if (!body) return;
    ucontext_t context;
    CHECK_EQ(getcontext(&context), 0);
    context.uc_stack.ss_sp = t->stack;
    context.uc_stack.ss_size = sizeof t->stack;
    context.uc_link = NULL;
    makecontext(&context, explore_thread_main, 0);
    explorer.current = t;
    if (!_setjmp(explorer.main)) setcontext(&context);
    explorer.current = &explorer.outside;
}

/* ---- memory ---- */

static inline uint64_t explore_read(const void *from, size_t size) {
    uint64_t value = 0;
    memcpy(&value, from, size); /* little-endian */
    return value;
}

static inline void explore_check(const void *at) {
    const char *start = explorer.forbidden.start;
    if (start && (const char *)at >= start && (const char *)at < start + explorer.forbidden.size)
        explore_fail("a step on memory that is gone");
}

static inline void explore_write(struct explore_store store) {
    explore_check(store.to);
    memcpy(store.to, &store.value, store.size);
}

static inline void explore_write_oldest(struct explore_thread *t) {
    explore_write(t->stores[0]);
    memmove(t->stores, t->stores + 1, --t->store_count * sizeof *t->stores);
}

static inline void explore_drain(void) {
    while (explorer.current->store_count) explore_write_oldest(explorer.current);
}

static inline uint64_t explore_load_now(const void *from, size_t size) {
    struct explore_thread *t = explorer.current;
    for (uint32_t i = t->store_count; i-- > 0;)
        if (t->stores[i].to == from) return t->stores[i].value;
    return explore_read(from, size);
}

static inline void explore_store_now(void *to, size_t size, uint64_t value) {
    struct explore_thread *t = explorer.current;
    if (explorer.given->alter) value = explorer.given->alter(to, value);
    struct explore_store store = {to, value, (uint8_t)size};
    if (!explorer.given->store_buffers || t == &explorer.outside) {
        explore_write(store);
        return;
    }
    CHECK(t->store_count < EXPLORE_STORES);
    t->stores[t->store_count++] = store;
}

/* Before each step; the search picks who takes the next one. */
static inline void explore_step(const char *what, const void *at) {
    explore_leave();
    explorer.path[explorer.depth].what = what;
    explore_check(at);
}

static inline uint64_t explore_observe(uint64_t value) {
    struct explore_thread *t = explorer.current;
    t->seen = explore_mix(t->seen, value);
    return explorer.path[explorer.depth].value = value;
}

static inline uint64_t explore_load(const char *what, const void *from, size_t size) {
    explore_step(what, from);
    return explore_observe(explore_load_now(from, size));
}

static inline void explore_store(const char *what, void *to, size_t size, uint64_t value) {
    struct explore_thread *t = explorer.current;
    bool seen_by_others = !explorer.given->store_buffers; /* else when it is written */
    if (seen_by_others) explore_step(what, to);
    explore_store_now(to, size, value);
    explore_observe(value);
    if (t->held_back.to) {
        if (seen_by_others) explore_step("held back", t->held_back.to);
        explore_store_now(t->held_back.to, t->held_back.size, t->held_back.value);
        explore_observe(0);
        t->held_back.to = NULL;
    }
}

static inline void explore_plain_store(const char *what, void *to, size_t size, uint64_t value) {
    struct explore_thread *t = explorer.current;
    if (explorer.given->publish_early && !t->held_back.to)
        t->held_back = (struct explore_store){to, value, (uint8_t)size};
    else
        explore_store(what, to, size, value);
}

enum explore_change { EXPLORE_SWAP, EXPLORE_ADD, EXPLORE_SUB, EXPLORE_OR, EXPLORE_AND };

static inline void explore_finish_change(const char *what, void *at, size_t size, uint64_t value) {
    if (explorer.given->torn == at) {
        explore_step(what, at);
        explore_observe(0); /* or a store of what is there would look as if it were not done yet */
    }
    explore_store_now(at, size, value);
    explore_drain();
}

static inline uint64_t explore_rmw(const char *what, enum explore_change change, void *at,
                                   size_t size, uint64_t value) {
    explore_step(what, at);
    explore_drain();
    uint64_t old = explore_observe(explore_load_now(at, size));
    switch (change) {
    case EXPLORE_SWAP: break;
    case EXPLORE_ADD: value = old + value; break;
    case EXPLORE_SUB: value = old - value; break;
    case EXPLORE_OR: value = old | value; break;
    case EXPLORE_AND: value = old & value; break;
    }
    explore_finish_change(what, at, size, value);
    return old;
}

static inline bool explore_cas(const char *what, void *at, size_t size, void *expected,
                               uint64_t value) {
    explore_step(what, at);
    explore_drain();
    uint64_t old = explore_observe(explore_load_now(at, size));
    bool same = old == explore_read(expected, size);
    if (same) explore_finish_change(what, at, size, value);
    else memcpy(expected, &old, size);
    return same;
}

static inline void explore_fence(void) {
    if (explorer.given->no_fences) return;
    explore_step("fence", NULL);
    explore_drain();
    explore_observe(0);
}

/* The thread's future depends on `place` alone, whatever it has seen so far: fewer states. */
static inline void explore_settle(uint64_t place) {
    /* Not mixed like an observation, or a thread that saw nothing but a 0 would be at place 1. */
    explorer.current->seen = explore_mix(0x7f4a7c159e3779b9u, place);
}

/* A wait in the kernel: the thread goes on once *until is not 0. */
static inline void explore_wait(const uint32_t *until) {
    struct explore_thread *t = explorer.current;
    t->waits_for = until;
    explore_step("waited", NULL);
    t->waits_for = NULL;
    explore_observe(0);
}

#define EXPLORE_VALUE(value) ((uint64_t)(uintptr_t)(value))
#define EXPLORE_TYPED(at, value) ({ (__typeof__(*(at)))(uintptr_t)(value); })
#define EXPLORE_RMW(change, at, value) \
    EXPLORE_TYPED(at, explore_rmw(#change " " #at, EXPLORE_##change, at, sizeof *(at), \
                                  EXPLORE_VALUE(value)))

#define ATOMIC_LOAD(from, order) \
    EXPLORE_TYPED(from, explore_load("load " #from, from, sizeof *(from)))
#define ATOMIC_STORE(to, value, order) \
    explore_store("store " #to, to, sizeof *(to), EXPLORE_VALUE(value))
#define ATOMIC_SWAP(at, value, order) EXPLORE_RMW(SWAP, at, value)
#define ATOMIC_ADD(at, value, order) EXPLORE_RMW(ADD, at, value)
#define ATOMIC_SUB(at, value, order) EXPLORE_RMW(SUB, at, value)
#define ATOMIC_OR(at, value, order) EXPLORE_RMW(OR, at, value)
#define ATOMIC_AND(at, value, order) EXPLORE_RMW(AND, at, value)
#define ATOMIC_CAS(at, expected, value, order, order_of_failure) \
    explore_cas("cas " #at, at, sizeof *(at), expected, EXPLORE_VALUE(value))
#define ATOMIC_FENCE() explore_fence()
#define PLAIN_LOAD(from) EXPLORE_TYPED(from, explore_load("read " #from, from, sizeof *(from)))
#define PLAIN_STORE(to, value) \
    explore_plain_store("write " #to, to, sizeof *(to), EXPLORE_VALUE(value))
#define OWN_LOAD(from) EXPLORE_TYPED(from, explore_load_now(from, sizeof *(from)))

/* ---- the search ---- */

static inline uint64_t explore_state(void) {
    uint64_t hash = 0;
    for (uint32_t r = 0; r < explorer.region_count; r++) {
        const char *bytes = explorer.regions[r].start;
        size_t size = explorer.regions[r].size, step;
        for (size_t i = 0; i < size; i += step) {
            step = size - i < 8 ? size - i : 8;
            hash = explore_mix(hash, explore_read(bytes + i, step));
        }
    }
    for (struct explore_thread *t = explorer.threads; t < explorer.threads + EXPLORE_THREADS; t++) {
        hash = explore_mix(hash, t->seen);
        for (uint32_t i = 0; i < t->store_count; i++) {
            hash = explore_mix(hash, EXPLORE_VALUE(t->stores[i].to));
            hash = explore_mix(hash, t->stores[i].value);
        }
        hash = explore_mix(hash, t->store_count);
    }
    hash = explore_mix(hash, EXPLORE_VALUE(explorer.forbidden.start));
    return hash ? hash : 1;
}

static inline bool explore_insert(uint64_t *set, uint64_t size, uint64_t hash) {
    uint64_t i = hash & (size - 1);
    while (set[i] && set[i] != hash) i = (i + 1) & (size - 1);
    bool is_new = !set[i];
    set[i] = hash;
    return is_new;
}

static inline bool explore_is_new(uint64_t hash) {
    struct explorer *e = &explorer;
    if (e->visited_count * 2 >= e->visited_size) {
        uint64_t size = e->visited_size ? e->visited_size * 2 : 1 << 16;
        uint64_t *set = calloc(size, sizeof *set);
        CHECK(set != NULL);
        for (uint64_t i = 0; i < e->visited_size; i++)
            if (e->visited[i]) explore_insert(set, size, e->visited[i]);
        free(e->visited);
        e->visited = set;
        e->visited_size = size;
    }
    bool is_new = explore_insert(e->visited, e->visited_size, hash);
    e->visited_count += is_new;
    return is_new;
}

/* Thread i takes a step, or, as EXPLORE_THREADS + i, its oldest store is written. */
static inline uint8_t explore_choices(uint8_t *choices) {
    uint8_t n = 0;
    for (uint8_t i = 0; i < EXPLORE_THREADS; i++) {
        struct explore_thread *t = &explorer.threads[i];
        if (!t->ended && (!t->waits_for || *t->waits_for)) choices[n++] = i;
        if (t->store_count) choices[n++] = (uint8_t)(EXPLORE_THREADS + i);
    }
    return n;
}

static inline void explore_take(uint8_t choice) {
    struct explore_branch *branch = &explorer.path[explorer.depth];
    branch->who = choice % EXPLORE_THREADS;
    if (choice < EXPLORE_THREADS) {
        explore_enter(&explorer.threads[choice]);
    } else {
        branch->what = "(its oldest store is written)";
        branch->value = explorer.threads[branch->who].stores[0].value;
        explore_write_oldest(&explorer.threads[branch->who]);
    }
}

/* One schedule: along the path, and on from its end to a state that was seen before. */
static inline uint32_t explore_run(uint32_t path_length) {
    struct explorer *e = &explorer;
    e->region_count = 0;
    e->forbidden.start = NULL;
    e->forbidden.size = 0;
    e->given->start();
    for (int i = 0; i < EXPLORE_THREADS; i++)
        explore_thread_start(&e->threads[i], e->given->bodies[i]);
    e->runs++;
    for (e->depth = 0; !e->failure[0]; e->depth++) {
        uint8_t choices[2 * EXPLORE_THREADS], count = explore_choices(choices);
        if (!count) {
            e->given->finish();
            break;
        }
        if (e->depth == path_length) {
            if (!explore_is_new(explore_state())) break;
            CHECK(path_length < EXPLORE_DEPTH);
            e->path[path_length].chosen = 0;
            e->path[path_length++].choices = count;
        }
        CHECK_EQ(e->path[e->depth].choices, count); /* else a thread saw more than was shared */
        explore_take(choices[e->path[e->depth].chosen]);
    }
    return path_length;
}

/* NULL, or the first failure; its schedule is then in the path. */
static inline const char *explore(const struct exploration *given) {
    struct explorer *e = &explorer;
    free(e->visited);
    memset(e, 0, sizeof *e);
    e->given = given;
    e->current = &e->outside;
    uint32_t length = 0;
    do {
        length = explore_run(length);
        if (e->failure[0]) return e->failure;
        while (length && e->path[length - 1].chosen + 1 == e->path[length - 1].choices) length--;
        if (length) e->path[length - 1].chosen++;
    } while (length);
    printf("  %llu states, %llu schedules\n", (unsigned long long)e->visited_count,
           (unsigned long long)e->runs);
    return NULL;
}

static inline void explore_all(const struct exploration *given) {
    const char *failure = explore(given);
    if (!failure) return;
    for (const struct explore_branch *b = explorer.path; b < explorer.path + explorer.depth; b++)
        fprintf(stderr, "  %d: %s = %llx\n", b->who, b->what, (unsigned long long)b->value);
    fprintf(stderr, "%s\n", failure);
    abort();
}

/* The planted mistake must be found, as the failure that is named. */
static inline void explore_finds(const struct exploration *given, const char *failure) {
    const char *found = explore(given);
    if (!found) fprintf(stderr, "not found: %s\n", failure);
    else if (!strstr(found, failure)) fprintf(stderr, "found instead: %s\n", found);
    CHECK(found && strstr(found, failure));
}

#endif
