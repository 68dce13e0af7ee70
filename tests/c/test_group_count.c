/* group_count.h by one thread, and by eight at once whose groups are freed as soon as they are left;
 * in every order of its steps it is explored in explore_group_count.c.
 */
#include "group_count.h"

#include <pthread.h>
#include <semaphore.h>

#include "check.h"

#define MEMBERS 7
#define EACH 50 /* members that each thread adds and ends */
#define GROUPS 200

static void an_empty_group_is_left_at_once_and_then_refuses(void) {
    struct group_count count;
    group_count_init(&count);
    CHECK(!group_count_wait(&count, false));
    CHECK(group_count_add(&count));
    CHECK(!group_count_end(&count));
    CHECK(!group_count_wait(&count, true));
    CHECK(!group_count_add(&count));
}

static void the_last_member_wakes_an_owner_that_waits(void) {
    struct group_count count;
    group_count_init(&count);
    CHECK(group_count_add(&count));
    CHECK(group_count_add(&count));
    CHECK(group_count_wait(&count, true));
    CHECK(!group_count_end(&count));
    CHECK(group_count_add(&count)); /* not closed while there are members */
    CHECK(!group_count_end(&count));
    CHECK(group_count_end(&count));
    CHECK(!group_count_wait(&count, true));
}

static void an_owner_that_stopped_waiting_is_not_waked(void) {
    struct group_count count;
    group_count_init(&count);
    CHECK(group_count_add(&count));
    CHECK(group_count_wait(&count, false));
    CHECK(group_count_stop_waiting(&count));
    CHECK(!group_count_end(&count));
    CHECK(group_count_add(&count));
    CHECK(group_count_wait(&count, false));
    CHECK(group_count_end(&count));
    CHECK(!group_count_stop_waiting(&count));
}

/* ---- eight threads ---- */

static struct group {
    struct group_count count;
    uint32_t ended[MEMBERS]; /* plain: a race is reported */
} *next_group[GROUPS];
static sem_t begin[MEMBERS], waking;

static void end(struct group *group) {
    if (group_count_end(&group->count)) CHECK_EQ(sem_post(&waking), 0);
}

static void *be_member(void *arg) {
    size_t me = (size_t)(uintptr_t)arg;
    for (int g = 0; g < GROUPS; g++) {
        CHECK_EQ(sem_wait(&begin[me]), 0);
        struct group *group = next_group[g];
        for (int i = 0; i < EACH; i++) {
            CHECK(group_count_add(&group->count));
            group->ended[me]++;
            end(group);
        }
        end(group);
    }
    return NULL;
}

static void await_members(struct group *group, bool closes) {
    while (group_count_wait(&group->count, closes)) CHECK_EQ(sem_wait(&waking), 0);
}

/* A waking that is lost would be a hang. */
static void a_group_is_freed_once_seven_threads_have_ended_its_members(void) {
    pthread_t threads[MEMBERS];
    CHECK_EQ(sem_init(&waking, 0, 0), 0);
    for (uintptr_t i = 0; i < MEMBERS; i++) {
        CHECK_EQ(sem_init(&begin[i], 0, 0), 0);
        CHECK_EQ(pthread_create(&threads[i], NULL, be_member, (void *)i), 0);
    }
    for (int g = 0; g < GROUPS; g++) {
        struct group *group = next_group[g] = calloc(1, sizeof *group);
        CHECK(group != NULL);
        group_count_init(&group->count);
        for (int i = 0; i < MEMBERS; i++) {
            CHECK(group_count_add(&group->count));
            CHECK_EQ(sem_post(&begin[i]), 0);
        }
        if (group_count_wait(&group->count, false) && !group_count_stop_waiting(&group->count))
            CHECK_EQ(sem_wait(&waking), 0);
        await_members(group, g % 2);
        for (int i = 0; i < MEMBERS; i++) CHECK_EQ(group->ended[i], EACH);
        CHECK(group_count_add(&group->count) == !(g % 2));
        memset(group, 0xff, sizeof *group);
        free(group);
    }
    for (int i = 0; i < MEMBERS; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
        CHECK_EQ(sem_destroy(&begin[i]), 0);
    }
    int unused;
    CHECK_EQ(sem_getvalue(&waking, &unused), 0);
    CHECK_EQ(unused, 0);
    CHECK_EQ(sem_destroy(&waking), 0);
}

int main(void) {
    RUN(an_empty_group_is_left_at_once_and_then_refuses);
    RUN(the_last_member_wakes_an_owner_that_waits);
    RUN(an_owner_that_stopped_waiting_is_not_waked);
    RUN(a_group_is_freed_once_seven_threads_have_ended_its_members);
    return 0;
}
