/* Must not compile: else what `make test-portability` finds proves nothing. */
#define _GNU_SOURCE
#include <fcntl.h>

int flags = O_TMPFILE;
