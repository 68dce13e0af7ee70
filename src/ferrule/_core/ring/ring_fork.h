/* Fork: which rings are open in this process, and which fork we are in.
 *
 * A child inherits the ring's fd but not its mappings (MADV_DONTFORK).  It closes the fd, so that
 * the parent's ring ends when the parent says so, and finds its rings dead by their epoch.
 * Static state: for one includer only.
 */
#ifndef FERRULE_RING_FORK_H
#define FERRULE_RING_FORK_H

#include <pthread.h>
#include <stdint.h>
#include <unistd.h>

struct open_ring {
    int fd;
    struct open_ring *prev, *next;
};

static struct open_ring fork_rings = {-1, &fork_rings, &fork_rings};
static pthread_mutex_t fork_lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t fork_epoch;

static void fork_add(struct open_ring *node, int fd) {
    pthread_mutex_lock(&fork_lock);
    node->fd = fd;
    node->prev = &fork_rings;
    node->next = fork_rings.next;
    node->next->prev = node;
    fork_rings.next = node;
    pthread_mutex_unlock(&fork_lock);
}

static void fork_remove(struct open_ring *node) {
    pthread_mutex_lock(&fork_lock);
    if (node->next) {
        node->prev->next = node->next;
        node->next->prev = node->prev;
        node->prev = node->next = NULL;
    }
    pthread_mutex_unlock(&fork_lock);
}

static void fork_before(void) { pthread_mutex_lock(&fork_lock); }

static void fork_in_parent(void) { pthread_mutex_unlock(&fork_lock); }

static void fork_in_child(void) {
    fork_epoch++;
    while (fork_rings.next != &fork_rings) {
        struct open_ring *node = fork_rings.next;
        close(node->fd);
        fork_rings.next = node->next;
        node->next->prev = &fork_rings;
        node->prev = node->next = NULL;
    }
    pthread_mutex_unlock(&fork_lock);
}

static int fork_watch(void) { return pthread_atfork(fork_before, fork_in_parent, fork_in_child); }

#endif
