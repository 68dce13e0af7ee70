/* Which files of rules are for a directory, and where a walk finds them: .gitignore in it and above
 * it up to its repository's top, that repository's info/exclude, and the lines that a caller gave.
 *
 * A repository inside another one starts anew: the rules around it say nothing about what is in it.
 */
#ifndef FERRULE_IGNORE_FILES_H
#define FERRULE_IGNORE_FILES_H

#include <string.h>

#include "ignore_rules.h"

/* Lines for every repository, and for trees that lie in none: the weakest. */
struct ignore_given {
    const char *text;
    size_t length;
};

/* What a directory was seen to have.  LOOK_FOR_IGNORE_FILES: nobody has read it all. */
enum ignore_found { FOUND_GITIGNORE = 1, FOUND_GIT = 2, LOOK_FOR_IGNORE_FILES = 4 };

/* Of an entry's name, a bit of enum ignore_found or 0. */
static inline unsigned ignore_file_found(const char *name) {
    if (name[0] != '.' || name[1] != 'g') return 0;
    return !strcmp(name, ".gitignore") ? FOUND_GITIGNORE : !strcmp(name, ".git") ? FOUND_GIT : 0;
}

/* The rules of a caller's lines alone; 0 or ENOMEM. */
int ignore_only_given(struct ignore_rules **rules, const struct ignore_given *given, uint32_t base);

/* The rules around a root, from outside it; the entries' paths go on after `base` bytes.  An errno
 * says that the file *failed, in some directory above, could not be read; the rest was. */
int ignore_enter_root(struct ignore_rules **rules, const struct ignore_given *given, int dir_fd,
                      uint32_t base, const char **failed);

/* Replace the rules around a directory by those for what is in it.  The errno is as above, *failed
 * in this directory. */
int ignore_enter(struct ignore_rules **rules, const struct ignore_given *given, int dir_fd,
                 uint32_t base, unsigned found, const char **failed);

#endif
