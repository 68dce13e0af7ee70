"""The walk of ``ferrule find``: what the filter wrote is written out as it comes.

Here no entry becomes a Python object but those that an action in Python is called with.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EBADF, EINTR, ENOMEM, errno
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from ferrule._core.dir_walk cimport (
    LINKS_ALWAYS, LINKS_NEVER, LINKS_ROOTS, ORDER_BREADTH, ORDER_POST, WALK_BATCH, WALK_ENDED,
    WALK_FAILED, WALK_WAIT, batch_return, walk, walk_batch, walk_calm, walk_config, walk_error,
    walk_new, walk_progress, walk_read_progress, walk_release, walk_rescue, walk_start, walk_stop,
    walk_take, walk_wake_fd,
)
from ferrule._core.entry_filter cimport (
    EntryFilter, entry_open_dir, entry_view, filter_outcome, filter_set_external, filter_streams,
    text_buffer,
)

import os

cdef extern from "<fcntl.h>" nogil:
    enum:
        AT_FDCWD

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    enum:
        POLLIN
        POLLOUT
    int poll(pollfd *fds, unsigned long count, int timeout)

cdef extern from "<unistd.h>" nogil:
    ssize_t write(int fd, const void *data, size_t count)

cdef enum:
    LOOK_MS = 20                # so long without a batch: see whether a worker holds one back
    BATCH_BYTES = 64 * 1024
    ALL_ENTRIES = 1 << 16

cdef dict LINKS = {"P": LINKS_NEVER, "H": LINKS_ROOTS, "L": LINKS_ALWAYS}
cdef tuple STAGES = ("open", "read", "stat")


@cython.final
cdef class Visited:
    """The entry that an action is called with; it is good for that call alone."""
    cdef entry_view *view

    cdef entry_view *check(self) except NULL:
        if self.view == NULL:
            raise ValueError("the walk has gone on")
        return self.view

    @property
    def path(self):
        """Its path, bytes: a root as it was given, and what is below that."""
        cdef entry_view *v = self.check()
        return PyBytes_FromStringAndSize(v.path, v.path_length)

    @property
    def depth(self):
        """0 for a root."""
        return self.check().depth

    @property
    def is_directory(self):
        """Whether it is one, or a link to one that the walk follows."""
        return self.check().type == 4

    @property
    def at(self):
        """(descriptor of a directory or None, the path from there), as ``dir_fd`` takes them.

        Raises OSError if the directory was closed and cannot be opened again.
        """
        cdef entry_view *v = self.check()
        cdef int error = entry_open_dir(v)
        if error or v.dir_fd == -1:
            raise OSError(error or EBADF, os.strerror(error or EBADF))
        return None if v.dir_fd == AT_FDCWD else v.dir_fd, <bytes>v.at


@cython.final
cdef class Finder:
    """One walk: see `run`.

    ``actions`` are called for the filter's external steps, each with a `Visited`; what is true of
    the answer is the step's.  ``fds`` are the descriptors of the filter's streams.
    ``on_error(path, errno, stage)`` hears of what could not be opened, read or asked.
    ``before_write(stream)`` and ``on_turn()`` may be None; the latter is called several times a
    second.  With actions there are no threads.
    """
    cdef walk *k
    cdef EntryFilter filter
    cdef tuple actions, fds
    cdef object on_error, before_write, on_turn, failure
    cdef uint32_t threads

    def __cinit__(self, list roots not None, EntryFilter filter not None, tuple fds not None, *,
                  tuple actions=(), str links="P", bint contents_first=False, bint sorted=False,
                  bint one_file_system=False, uint32_t max_depth=0xffffffff, uint32_t threads=0,
                  uint32_t max_fds=64, uint32_t max_kept=0, bint at_once=False, on_error,
                  before_write=None, on_turn=None):
        cdef walk_config config
        memset(&config, 0, sizeof(walk_config))
        if actions and threads:
            raise ValueError("actions are called in the order of the entries: threads must be 0")
        if len(fds) < max(1, filter_streams(filter.filter)):
            raise ValueError("the filter writes to a stream without a descriptor")
        self.filter = filter
        self.fds = fds
        self.actions = actions
        self.on_error = on_error
        self.before_write = before_write
        self.on_turn = on_turn
        self.threads = threads
        config.order = ORDER_POST if contents_first else ORDER_BREADTH
        config.links = LINKS[links]
        config.sorted = sorted
        config.one_file_system = one_file_system
        config.max_depth = max_depth
        config.batch_entries = ALL_ENTRIES
        config.batch_bytes = 1 if at_once else BATCH_BYTES
        config.threads = threads
        config.text_streams = <uint32_t>len(fds)
        config.max_fds = max_fds
        config.max_kept = max_kept
        config.filter = filter.filter
        filter_set_external(filter.filter, call_action, <void *>self)
        self.k = new_walk(&config, roots)

    def __dealloc__(self):
        if self.k != NULL:
            walk_stop(self.k, 0)
            walk_release(self.k)

    def run(self):
        """Walk to the end.  Raises what an action raised, and OSError if output cannot be written.

        Blocks the thread, without the GIL where nothing calls Python.
        """
        cdef walk_batch *b = NULL
        cdef int state = walk_start(self.k)
        if state < 0:
            raise OSError(-state, os.strerror(-state))
        while True:
            with nogil:
                state = walk_take(self.k, &b)
            if state == WALK_FAILED:
                raise MemoryError
            if state == WALK_WAIT:
                self.wait()
            elif state == WALK_BATCH:
                try:
                    self.take(b)
                finally:
                    batch_return(b)
            if self.failure is not None:
                raise self.failure
            if state == WALK_ENDED:
                return
            PyErr_CheckSignals()
            if self.on_turn is not None:
                self.on_turn()

    def close(self):
        """End the walk; threads that are in the kernel are waited for a moment.  Idempotent."""
        with nogil:
            walk_stop(self.k, 20_000_000)

    def progress(self):
        """(directories read, entries seen, errors, directories queued) up to now."""
        cdef walk_progress p
        walk_read_progress(self.k, &p)
        return p.directories, p.entries, p.errors, p.queued

    cdef int wait(self) except -1:
        cdef pollfd p
        cdef int n
        if not self.threads:  # it only lets us see to signals
            return 0
        p.fd = walk_wake_fd(self.k)
        p.events = POLLIN
        with nogil:
            n = poll(&p, 1, LOOK_MS)
            if n > 0:
                walk_calm(self.k)
            elif n == 0:
                walk_rescue(self.k)
        return 0

    cdef int take(self, walk_batch *b) except -1:
        cdef walk_error *e
        cdef uint32_t i
        for i in range(b.error_count):
            e = &b.errors[i]
            path = PyBytes_FromStringAndSize(b.error_text + e.path_offset, e.path_length)
            self.on_error(path, e.error, STAGES[e.stage])
        return self.write_out(b.text)

    cdef int write_out(self, text_buffer *text) except -1:
        cdef Py_ssize_t i
        for i in range(len(self.fds)):
            if text[i].failed:
                raise MemoryError
            if text[i].size:
                if self.before_write is not None:
                    self.before_write(i)
                write_all(self.fds[i], text[i].bytes, text[i].size)
                text[i].size = 0
        return 0

    # What was written for the entry so far comes before what the action writes.
    cdef object act(self, uint32_t number, entry_view *view, text_buffer *text):
        cdef Visited visited = Visited.__new__(Visited)
        self.write_out(text)
        visited.view = view
        try:
            return self.actions[number](visited)
        finally:
            visited.view = NULL


cdef walk *new_walk(walk_config *config, list roots) except NULL:
    cdef const char **paths
    cdef walk *k
    cdef int error = 0
    for path in roots:
        if not isinstance(path, bytes) or b"\0" in path:
            raise ValueError(f"not a path: {path!r}")
    paths = <const char **>malloc((len(roots) + 1) * sizeof(char *))
    if paths == NULL:
        raise MemoryError
    for i, path in enumerate(roots):
        paths[i] = PyBytes_AS_STRING(path)
    k = walk_new(config, paths, <uint32_t>len(roots), &error)
    free(paths)
    if k == NULL:
        if error == ENOMEM:
            raise MemoryError
        raise OSError(error, os.strerror(error))
    return k


cdef int call_action(void *context, uint32_t number, entry_view *view,
                     filter_outcome *outcome) noexcept with gil:
    cdef Finder finder = <Finder>context
    try:
        return bool(finder.act(number, view, outcome.text))
    except BaseException as exc:
        finder.failure = exc
        return -1


cdef int write_all(int fd, const char *data, size_t size) except -1:
    cdef ssize_t n
    cdef int error
    cdef pollfd p
    while size:
        with nogil:
            n = write(fd, data, size)
            error = errno
        if n >= 0:
            data += n
            size -= n
        elif error == EAGAIN:
            p.fd = fd
            p.events = POLLOUT
            with nogil:
                poll(&p, 1, -1)
        elif error != EINTR:
            raise OSError(error, os.strerror(error))
        PyErr_CheckSignals()
    return 0
