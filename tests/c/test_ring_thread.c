/* ring_thread.h: who owns a ring, and what is known of one that has ended. */
#include "ring_thread.h"

#include "check.h"

#define THREADS 8

static struct ring_thread *kept[THREADS];

static void *take(void *place) {
    struct ring_thread **mine = place;
    CHECK(ring_this_thread == NULL);
    *mine = ring_thread_take();
    CHECK(*mine && *mine == ring_this_thread);
    CHECK(ring_thread_take() == *mine);
    ring_thread_drop(*mine);
    CHECK(!ring_thread_has_ended(*mine));
    CHECK_EQ((*mine)->ident, (unsigned long)pthread_self());
    return NULL;
}

static void each_thread_is_its_own_and_outlives_itself_while_it_is_held(void) {
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, take, &kept[i]), 0);
    for (int i = 0; i < THREADS; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < THREADS; i++) {
        CHECK(ring_thread_has_ended(kept[i]));
        for (int j = 0; j < i; j++) CHECK(kept[i] != kept[j]);
    }
    for (int i = 0; i < THREADS; i++) ring_thread_drop(kept[i]);
}

static struct ring_thread *run_thread(void) {
    struct ring_thread *made;
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, take, &made), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    return made;
}

/* The C library gives the number of the last thread to the next, mostly. */
static void a_thread_with_the_number_of_one_that_ended_is_another(void) {
    int same = 0;
    for (int i = 0; i < 100 && !same; i++) {
        struct ring_thread *first = run_thread(), *second = run_thread();
        CHECK(first != second && ring_thread_has_ended(first));
        same = first->ident == second->ident;
        ring_thread_drop(first);
        ring_thread_drop(second);
    }
    CHECK(same);
}

static void nothing_is_dropped_without_harm(void) { ring_thread_drop(NULL); }

int main(void) {
    CHECK_EQ(ring_thread_watch(), 0);
    RUN(each_thread_is_its_own_and_outlives_itself_while_it_is_held);
    RUN(a_thread_with_the_number_of_one_that_ended_is_another);
    RUN(nothing_is_dropped_without_harm);
    return 0;
}
