/* Mistakes that the sanitizers must catch, or their silence about the rest would mean nothing.
 * As a program it makes the one that its argument names; Python loads it as a library.
 */
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* volatile: the compiler must not see through the mistakes */
volatile int sink;
volatile int one = 1;
volatile size_t size = 64;
void (*volatile release)(void *) = free;

void heap_overflow(void) {
    char *block = malloc(size);
    memset(block, 0, size);
    sink = block[63 + one];
    free(block);
}

void use_after_free(void) {
    char *block = malloc(64);
    memset(block, 0, 64);
    release(block);
    sink = block[63 * one];
}

static char *leave_frame(void) {
    char local[64];
    memset(local, 0, sizeof local);
    char *volatile escaped = local;
    return escaped;
}

/* What an SQE that points at the C stack would be. */
void use_after_return(void) { sink = leave_frame()[one]; }

void signed_overflow(void) { sink = INT_MAX + one; }

void wide_shift(void) { sink = one << (31 + one); }

/* What a timeout in seconds becomes without a check. */
void float_overflow(void) { sink = (int)(1e300 * one); }

static int shared;

static void *add_to_shared(void *arg) {
    shared++;
    return arg;
}

void data_race(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, add_to_shared, NULL);
    shared++;
    pthread_join(thread, NULL);
}

void *volatile lost;

void leak(void) {
    lost = malloc(64);
    lost = NULL;
}

void no_mistake(void) {}

static const struct {
    const char *name;
    void (*make)(void);
} mistakes[] = {
    {"heap_overflow", heap_overflow},     {"use_after_free", use_after_free},
    {"use_after_return", use_after_return}, {"signed_overflow", signed_overflow},
    {"wide_shift", wide_shift},           {"float_overflow", float_overflow},
    {"data_race", data_race},             {"leak", leak},
    {"no_mistake", no_mistake},
};

int main(int argc, char **argv) {
    for (size_t i = 0; argc == 2 && i < sizeof mistakes / sizeof *mistakes; i++)
        if (!strcmp(mistakes[i].name, argv[1])) {
            mistakes[i].make();
            return 0;
        }
    return 2;
}
