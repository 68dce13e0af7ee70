# The Python side of directory walks.
from libc.stdint cimport int64_t, uint32_t

from ferrule._core.dir_walk cimport walk, walk_batch, walk_config
from ferrule._core.entry_filter cimport EntryFilter


cdef class Engine:
    """A walk of dir_walk.h, and how its consumer waits for it."""
    cdef walk *k
    cdef walk_config config
    cdef EntryFilter filter, exclude    # as long as workers may use them
    cdef bint has_stat                  # the columns have what an os.stat_result has
    cdef bint is_text                   # paths are given as str
    cdef bint started
    cdef int in_use                     # atomic: somebody is waiting for the next batch
    cdef int pid
    cdef object timeout
    # The next batch, or None at the end.
    cdef Batch take(self)
    cdef Batch take_one(self)
    cdef int start(self) except -1
    cdef int wait(self, int64_t deadline, int64_t patience) except -1
    cdef int check_here(self) except -1


cdef class Batch:
    """Entries as columns, and the errors that came among them."""
    cdef walk_batch *b
    cdef Engine engine
    cdef object block
    cdef object path_of(self, uint32_t i)
    cdef object name_of(self, uint32_t i)
    cdef object text(self, const char *bytes, uint32_t length)
    cdef object error_at(self, uint32_t i)
    # From the columns, where they have all of it; else None.
    cdef object stat_at(self, uint32_t i)
