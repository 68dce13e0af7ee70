/* ring_fork.h: the list of open rings, and what a child does with it. */
#include "ring_fork.h"

#include <fcntl.h>
#include <sys/wait.h>

#include "check.h"

#define NODES 20

static struct open_ring nodes[NODES];

static int new_fd(void) {
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static int is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

static uint32_t listed(void) {
    uint32_t count = 0;
    for (struct open_ring *n = fork_rings.next; n != &fork_rings; n = n->next) {
        CHECK(n->next->prev == n && n->prev->next == n);
        count++;
    }
    return count;
}

static void wait_for_success(pid_t child) {
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void rings_are_listed_from_add_to_remove_in_any_order(void) {
    uint32_t count = 0;
    for (int step = 0; step < 5000; step++) {
        struct open_ring *node = &nodes[random_below(NODES)];
        if (node->next) fork_remove(node), count--;
        else fork_add(node, 100), count++;
        CHECK_EQ(listed(), count);
    }
    for (int i = 0; i < NODES; i++) fork_remove(&nodes[i]);
    fork_remove(&nodes[0]); /* twice changes nothing */
    CHECK_EQ(listed(), 0);
}

static void a_child_closes_the_rings_and_knows_another_epoch(void) {
    int other = new_fd();
    for (int i = 0; i < NODES; i++) fork_add(&nodes[i], new_fd());
    uint32_t epoch = fork_epoch;
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        CHECK_EQ(fork_epoch, epoch + 1);
        CHECK_EQ(listed(), 0);
        CHECK(is_open(other));
        for (int i = 0; i < NODES; i++) {
            CHECK(!is_open(nodes[i].fd));
            fork_remove(&nodes[i]); /* as the inherited ring's release would */
        }
        fork_add(&nodes[0], other); /* a ring of the child's own */
        CHECK_EQ(listed(), 1);
        pid_t grandchild = fork();
        if (!grandchild) _exit(fork_epoch == epoch + 2 && !is_open(other) ? 0 : 1);
        wait_for_success(grandchild);
        CHECK(is_open(other));
        _exit(0);
    }
    wait_for_success(child);
    CHECK_EQ(fork_epoch, epoch);
    CHECK_EQ(listed(), NODES);
    for (int i = 0; i < NODES; i++) {
        CHECK(is_open(nodes[i].fd));
        close(nodes[i].fd);
        fork_remove(&nodes[i]);
    }
    close(other);
}

static int stop;

static void *open_and_close(void *arg) {
    struct open_ring *node = arg;
    while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
        int fd = new_fd();
        fork_add(node, fd);
        fork_remove(node);
        close(fd);
    }
    return NULL;
}

/* The list is whole in each child, whatever another thread was doing to it. */
static void a_fork_waits_for_threads_that_change_the_list(void) {
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, open_and_close, &nodes[i]), 0);
    for (int i = 0; i < 50; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (!child) _exit(fork_rings.next == &fork_rings && fork_rings.prev == &fork_rings ? 0 : 1);
        wait_for_success(child);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < 3; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
    CHECK_EQ(listed(), 0);
}

int main(void) {
    seed_random();
    CHECK_EQ(fork_watch(), 0);
    RUN(rings_are_listed_from_add_to_remove_in_any_order);
    RUN(a_child_closes_the_rings_and_knows_another_epoch);
    RUN(a_fork_waits_for_threads_that_change_the_list);
    return 0;
}
