/* Which files of rules are for a directory, and where a walk finds them: .gitignore in it and above
 * it up to its repository's top, that repository's info/exclude, and those that the caller named.
 *
 * A repository inside another one starts anew: the rules around it say nothing about what is in it.
 */
#ifndef FERRULE_IGNORE_FILES_H
#define FERRULE_IGNORE_FILES_H

#include <string.h>

#include "ignore_rules.h"

/* Files for every repository, and for trees that lie in none; a later one is stronger. */
struct ignore_files {
    const char *const *paths;
    uint32_t count;
    int cwd; /* that the paths are relative to */
};

/* What a directory was seen to have.  LOOK_FOR_IGNORE_FILES: nobody has read it all. */
enum ignore_found { FOUND_GITIGNORE = 1, FOUND_GIT = 2, LOOK_FOR_IGNORE_FILES = 4 };

/* Of an entry's name, a bit of enum ignore_found or 0. */
static inline unsigned ignore_file_found(const char *name) {
    if (name[0] != '.' || name[1] != 'g') return 0;
    return !strcmp(name, ".gitignore") ? FOUND_GITIGNORE : !strcmp(name, ".git") ? FOUND_GIT : 0;
}

/* The rules around a root, from outside it; the entries' paths go on after `base` bytes.  An errno
 * says that the file *failed (a path, or a name in some directory above) could not be read; the
 * rest was. */
int ignore_enter_root(struct ignore_rules **rules, const struct ignore_files *files, int dir_fd,
                      uint32_t base, const char **failed);

/* Replace the rules around a directory, which it is given, by those for what is in it.  The errno
 * is as above, and *failed a name in this directory or one of the files' paths. */
int ignore_enter(struct ignore_rules **rules, const struct ignore_files *files, int dir_fd,
                 uint32_t base, unsigned found, const char **failed);

/* 1 if git would not show an entry, 0, or -ENOMEM.  `.git` itself is never part of a work tree. */
static inline int ignore_skips(const struct ignore_rules *rules, const char *path, uint32_t length,
                               uint32_t name_at, int is_directory) {
    if (ignore_file_found(path + name_at) == FOUND_GIT) return 1;
    int verdict = rules ? ignore_rules_judge(rules, path, length, name_at, is_directory) : 0;
    return verdict < 0 ? verdict : verdict == IGNORE_IGNORED;
}

#endif
