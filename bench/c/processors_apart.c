/* How far apart two processors are: prints the nanoseconds that a cache line takes from one to the
 * other and back, in the best of many short stretches, since processors that were idle are slow at
 * first.  `processors_apart FIRST SECOND`
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define STRETCHES 50
#define TRIPS 1000

static _Alignas(128) atomic_int ball;
static int cpus[2];

static void run_on(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set)) {
		perror("sched_setaffinity");
		exit(1);
	}
}

static double now_ns(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

/* Between them they count it up, in turn. */
static void play(int first)
{
	for (int i = first; i < 2 * TRIPS; i += 2) {
		while (atomic_load(&ball) != i)
			;
		atomic_store(&ball, i + 1);
	}
}

static void *play_second(void *unused)
{
	run_on(cpus[1]);
	for (int i = 0; i < STRETCHES; i++)
		play(1);
	return unused;
}

int main(int argc, char **argv)
{
	double best = 1e9;
	pthread_t second;
	if (argc != 3)
		return 2;
	cpus[0] = atoi(argv[1]);
	cpus[1] = atoi(argv[2]);
	run_on(cpus[0]);
	atomic_store(&ball, 2 * TRIPS);
	if (pthread_create(&second, NULL, play_second, NULL))
		return 1;
	for (int i = 0; i < STRETCHES; i++) {
		double begin = now_ns();
		atomic_store(&ball, 0);
		play(0);
		while (atomic_load(&ball) != 2 * TRIPS)
			;
		double took = (now_ns() - begin) / TRIPS;
		best = took < best ? took : best;
	}
	pthread_join(second, NULL);
	printf("%.1f\n", best);
	return 0;
}
