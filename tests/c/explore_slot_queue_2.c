/* The same with 2 slots, where batches fill the queue and readers are soon a round ahead. */
#define SLOTS 2u
#include "explore_slot_queue.c"
