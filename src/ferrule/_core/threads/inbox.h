/* What other threads, and signal handlers, send to one: intrusive nodes, any number of senders, one
 * receiver, who alone takes, sleeps and closes.
 *
 * One word says all: the newest node, or that there is none, or none and the receiver sleeps, or
 * that the inbox is closed.  So a sender learns in the step that sends whether it must wake the
 * receiver, and for each sleep at most one has to.
 *
 * After its push a sender touches neither node nor inbox.  The waking that it may owe needs
 * something that outlives the receiver: that one may wake for another reason, close and end.
 */
#ifndef FERRULE_INBOX_H
#define FERRULE_INBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "atomics.h"

struct inbox_node {
    struct inbox_node *next; /* the one sent before; after taking, the one sent next */
};

struct inbox {
    struct inbox_node *newest;
};

/* In the place of the newest node; no node lies there. */
#define INBOX_EMPTY NULL
#define INBOX_ASLEEP ((struct inbox_node *)1)
#define INBOX_CLOSED ((struct inbox_node *)2)

enum inbox_push {
    INBOX_SENT,
    INBOX_WAKE,   /* sent, and the sender must wake the receiver */
    INBOX_REFUSED /* closed: the node is still the sender's */
};

static inline void inbox_init(struct inbox *in) { in->newest = INBOX_EMPTY; }

/* Any thread, and signal handlers. */
static inline enum inbox_push inbox_push(struct inbox *in, struct inbox_node *node) {
    struct inbox_node *newest = ATOMIC_LOAD(&in->newest, RELAXED);
    do {
        if (newest == INBOX_CLOSED) return INBOX_REFUSED;
        PLAIN_STORE(&node->next, newest == INBOX_ASLEEP ? INBOX_EMPTY : newest);
        /* Pairs with the swaps below, also through later pushes: the receiver sees the node. */
    } while (!ATOMIC_CAS(&in->newest, &newest, node, RELEASE, RELAXED));
    return newest == INBOX_ASLEEP ? INBOX_WAKE : INBOX_SENT;
}

/* Newest first turned into oldest first. */
static inline struct inbox_node *inbox_in_order(struct inbox_node *node) {
    struct inbox_node *list = NULL;
    if (node == INBOX_ASLEEP || node == INBOX_CLOSED) return NULL;
    while (node) {
        struct inbox_node *before = PLAIN_LOAD(&node->next);
        PLAIN_STORE(&node->next, list);
        list = node;
        node = before;
    }
    return list;
}

/* All that has come, oldest first.  The receiver is awake. */
static inline struct inbox_node *inbox_take(struct inbox *in) {
    struct inbox_node *newest = ATOMIC_LOAD(&in->newest, RELAXED);
    if (newest == INBOX_EMPTY || newest == INBOX_CLOSED) return NULL;
    return inbox_in_order(ATOMIC_SWAP(&in->newest, INBOX_EMPTY, ACQUIRE));
}

/* Any thread.  Whether nothing has come that was not taken. */
static inline bool inbox_is_empty(struct inbox *in) {
    struct inbox_node *newest = ATOMIC_LOAD(&in->newest, ACQUIRE);
    return newest == INBOX_EMPTY || newest == INBOX_ASLEEP || newest == INBOX_CLOSED;
}

/* Before a wait in the kernel: whether it may begin.  If not, something has come, or it is closed.
 * Each sleep ends with inbox_take, whatever ended the wait. */
static inline bool inbox_sleep(struct inbox *in) {
    struct inbox_node *empty = INBOX_EMPTY;
    return ATOMIC_CAS(&in->newest, &empty, INBOX_ASLEEP, RELAXED, RELAXED);
}

/* What had come, oldest first; from here on every push is refused. */
static inline struct inbox_node *inbox_close(struct inbox *in) {
    return inbox_in_order(ATOMIC_SWAP(&in->newest, INBOX_CLOSED, ACQUIRE));
}

#endif
