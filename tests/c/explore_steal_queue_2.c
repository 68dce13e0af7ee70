/* The same at a capacity of 2, where the slots are used again at once. */
#define STEAL_QUEUE_CAPACITY 2u
#include "explore_steal_queue.c"
