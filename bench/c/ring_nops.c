/* The ceiling: NOPs through src/ferrule/_core/ring/ring.h with nothing above it.
 * ring_nops BATCH SECONDS FLAGS prints NOPs per second. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../../src/ferrule/_core/ring/ring.h"

enum { TURNS = 64 }; /* batches between two looks at the clock */

static void die(const char *what, int err)
{
	fprintf(stderr, "ring_nops: %s: %s\n", what, strerror(-err));
	exit(1);
}

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + 1e-9 * time.tv_nsec;
}

static void do_batch(struct ring *ring, struct uring_cqe *cqes, unsigned batch)
{
	for (unsigned i = 0; i < batch; i++) {
		struct uring_sqe *sqe = ring_get_sqe(ring);
		if (!sqe)
			die("the queue is full", -ENOSPC);
		sqe->user_data = i; /* a blank SQE is a no-op */
	}
	int submitted = ring_enter(ring, ring_flush(ring), batch, URING_ENTER_GETEVENTS, NULL);
	if (submitted != (int)batch)
		die("enter", submitted < 0 ? submitted : -EIO);
	unsigned taken = ring_copy_cqes(ring, cqes, batch);
	for (unsigned i = 0; i < taken; i++)
		if (cqes[i].res || cqes[i].user_data != i)
			die("a NOP failed", -EIO);
	if (taken != batch)
		die("a NOP is missing", -EIO);
}

int main(int argc, char **argv)
{
	if (argc != 4)
		die("BATCH SECONDS FLAGS", -EINVAL);
	unsigned batch = strtoul(argv[1], NULL, 10);
	double seconds = strtod(argv[2], NULL);
	struct uring_params params = {.flags = strtoul(argv[3], NULL, 0)};
	struct uring_cqe *cqes = calloc(batch, sizeof(*cqes));
	struct ring ring;
	int err = cqes ? ring_open(&ring, batch, &params) : -ENOMEM;
	if (err)
		die("ring_open", err);
	do_batch(&ring, cqes, batch);
	double begin = now(), end = begin, done = 0;
	for (; end - begin < seconds; end = now()) {
		for (int turn = 0; turn < TURNS; turn++)
			do_batch(&ring, cqes, batch);
		done += (double)TURNS * batch;
	}
	printf("%.0f\n", done / (end - begin));
	ring_close(&ring);
	free(cqes);
}
