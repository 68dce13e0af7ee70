/* What git ignores: the rules of .gitignore files, and which paths they match.
 *
 * The rules of one file stand on those of the files above it; the nearest file that says anything
 * about a path decides, and in a file the last line that does.  A directory that is ignored is not
 * to be entered, so nothing below it is ever asked about: as in git, it cannot be included again.
 *
 * Rules do not change once parsed, and are shared by threads.  No Python object in sight.
 */
#ifndef FERRULE_IGNORE_RULES_H
#define FERRULE_IGNORE_RULES_H

#include <stddef.h>
#include <stdint.h>

#define IGNORE_FILE_LIMIT (1u << 20) /* bytes in one file */

struct ignore_rules;

/* The rules in `text`, upon those `above` (NULL: none), of which the new ones hold a reference.
 * They are for the directory whose entries' paths go on after `base` bytes.  `lead` is what comes
 * before that rest, for a file that lies above a walk's root: the root's path from there, ending in
 * a slash, else "".  NULL without memory. */
struct ignore_rules *ignore_rules_new(struct ignore_rules *above, const char *text, size_t length,
                                      uint32_t base, const char *lead);

/* The same of a file, not following a link, as git does.  No file there: *rules is `above`, held
 * once more, as after every error.  Else 0 or an errno, of which EFBIG says that it has more than
 * IGNORE_FILE_LIMIT bytes. */
int ignore_rules_load(struct ignore_rules **rules, struct ignore_rules *above, int dir_fd,
                      const char *name, uint32_t base, const char *lead);

struct ignore_rules *ignore_rules_hold(struct ignore_rules *r);
void ignore_rules_drop(struct ignore_rules *r); /* or NULL */

enum ignore_verdict { IGNORE_UNDECIDED, IGNORE_INCLUDED, IGNORE_IGNORED };

/* What the rules say of an entry whose name is path + name_at; or -ENOMEM. */
int ignore_rules_judge(const struct ignore_rules *r, const char *path, uint32_t length,
                       uint32_t name_at, int is_directory);

#endif
