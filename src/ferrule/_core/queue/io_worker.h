/* One thread of an I/O queue, and the ring that it may have. */
#ifndef FERRULE_IO_WORKER_H
#define FERRULE_IO_WORKER_H

#include "io_queue.h"

/* Its own, which others may look at. */
static inline void io_count(uint64_t *count) { ATOMIC_STORE(count, OWN_LOAD(count) + 1, RELAXED); }

/* Its body, until the queue's stop. */
void io_worker_run(struct io_worker *w);

/* Make the attempt by a plain call, which may sleep. */
int64_t io_worker_call(struct io_worker *w, struct io_request *r);
/* Go on with a request after an attempt in the ring. */
void io_worker_go_on(struct io_worker *w, struct io_request *r, int64_t result);

/* ---- io_ring.c ---- */

#define IO_RING_DEPTH 64u

#ifdef __linux__

/* Whether there is one, or can be. */
bool io_ring_is_usable(struct io_worker *w, const struct op *o);
/* There is room: of each worker at most IO_RING_DEPTH requests are begun. */
void io_ring_start(struct io_worker *w, struct io_request *r);
uint32_t io_ring_in_flight(const struct io_worker *w);
/* Submit; collect what has completed, or if `wait`, wait until something has or the bell rings. */
void io_ring_turn(struct io_worker *w, bool wait);
/* Nothing is in flight. */
void io_ring_close(struct io_worker *w);
/* In a forked child: the parent's ring must end when the parent says so. */
void io_ring_abandon(struct io_worker *w);
#else
static inline bool io_ring_is_usable(struct io_worker *w, const struct op *o) { return false; }
static inline void io_ring_start(struct io_worker *w, struct io_request *r) {}
static inline uint32_t io_ring_in_flight(const struct io_worker *w) { return 0; }
static inline void io_ring_turn(struct io_worker *w, bool wait) {}
static inline void io_ring_close(struct io_worker *w) {}
static inline void io_ring_abandon(struct io_worker *w) {}
#endif

#endif
