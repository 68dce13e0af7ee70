/* The names of users and groups, each looked up once.  Any number of threads may ask. */
#ifndef FERRULE_OWNER_NAMES_H
#define FERRULE_OWNER_NAMES_H

#include <stdint.h>

enum owner_kind { OWNER_USER, OWNER_GROUP };

struct owner_names;

/* NULL without memory. */
struct owner_names *owner_names_new(void);
void owner_names_free(struct owner_names *names);
/* NULL: it has none, or cannot be looked up.  Lives as long as `names`. */
const char *owner_name(struct owner_names *names, enum owner_kind kind, uint32_t id);

#endif
