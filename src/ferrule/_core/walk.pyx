"""Walking directory trees: entries and batches for Python.  See dir_walk.h for how.

A consumer that has to wait parks its fiber, or blocks its thread without the GIL.  Workers never
need the GIL: they set an event when the consumer has said that it waits.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, ENOMEM, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from ferrule._core.dir_walk cimport (
    FIELD_ATIME, FIELD_BLKSIZE, FIELD_BLOCKS, FIELD_BTIME, FIELD_CTIME, FIELD_DEV, FIELD_GID,
    FIELD_INO, FIELD_MODE, FIELD_MTIME, FIELD_NLINK, FIELD_RDEV, FIELD_SIZE, FIELD_UID,
    LINKS_ALWAYS, LINKS_NEVER, LINKS_ROOTS, ORDER_ANY, ORDER_BREADTH, ORDER_DEPTH, ORDER_POST,
    WALK_ENDED, WALK_FAILED, WALK_FIELDS, WALK_WAIT, batch_return, walk_add_fault, walk_batch,
    walk_calm, walk_error, walk_field_rows, walk_forget_types, walk_is_pruned, walk_new,
    walk_progress, walk_prune, walk_read_progress, walk_release, walk_rescue, walk_start,
    walk_stop, walk_take, walk_wake_fd,
)
from ferrule._core.files cimport file_facts, stat_result
from ferrule._core.fs_paths import lstat as lstat_in_fiber, stat as stat_in_fiber
from ferrule._core.operation cimport OP_POLL
from ferrule._core.scheduler cimport (
    Scheduler, Slot, deadline_after, monotonic_ns, raise_error, scheduler_or_none,
)
from ferrule._core.sockets import in_fiber

import collections
import enum
import os
import stat as mode_bits

cdef extern from "Python.h":
    object PyUnicode_DecodeFSDefaultAndSize(const char *s, Py_ssize_t size)

cdef extern from *:
    """
    /* With the GIL nobody else is in compiled code that runs no Python code; and Engine.take sees
     * by itself who comes while it waits. */
    #ifdef Py_GIL_DISABLED
    #define ENTER_ALONE(at) ATOMIC_SWAP(at, 1, SEQ_CST)
    #define LEAVE_ALONE(at) ATOMIC_STORE(at, 0, SEQ_CST)
    #else
    #define ENTER_ALONE(at) ((void)(at), 0)
    #define LEAVE_ALONE(at) ((void)(at))
    #endif
    """
    bint ENTER_ALONE(int *at) nogil
    void LEAVE_ALONE(int *at) nogil

cdef extern from "atomics.h" nogil:
    int swap_in_use "ATOMIC_SWAP"(int *at, int value, int order)
    int SEQ_CST

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    enum:
        POLLIN
    int poll(pollfd *fds, unsigned long count, int timeout)

cdef extern from "<unistd.h>" nogil:
    int getpid()

cdef enum:
    STUCK_NS = 10_000_000       # after that see whether a worker holds something back
    LOOK_NS = 100_000_000       # the longest wait between two such looks
    STOP_NS = 20_000_000        # what close() grants workers that are in the kernel


class EntryType(enum.IntEnum):
    """What an entry is; the numbers are those of `batch.types`, and of <dirent.h>."""

    UNKNOWN = 0
    FIFO = 1
    CHARACTER_DEVICE = 2
    DIRECTORY = 4
    BLOCK_DEVICE = 6
    FILE = 8
    LINK = 10
    SOCKET = 12


cdef list TYPES = [None] * 16
for _type in EntryType:
    TYPES[_type.value] = _type
for _number in range(16):
    TYPES[_number] = TYPES[_number] or EntryType.UNKNOWN

Progress = collections.namedtuple("Progress", "directories entries errors queued")
Progress.__doc__ = "Directories read, entries handed over, errors met; directories queued."

cdef str ITERATED = "the walk is being iterated by another fiber or thread"
cdef tuple STAGES = ("open", "read", "stat")
cdef dict ORDERS = {
    "any": ORDER_ANY, "breadth-first": ORDER_BREADTH, "depth-first": ORDER_DEPTH,
    "post-order": ORDER_POST,
}
cdef dict LINKS = {"never": LINKS_NEVER, "roots": LINKS_ROOTS, "always": LINKS_ALWAYS}
cdef dict FIELDS = {walk_field_rows[f].name.decode(): f for f in range(WALK_FIELDS)}
STAT_FIELDS = tuple(FIELDS)
cdef uint32_t WHOLE_STAT = (1u << WALK_FIELDS) - 1 - (1u << FIELD_BTIME)


cdef class Engine:
    """A walk, and how its consumer waits for it."""

    def __cinit__(self, list roots, *, bint is_text=True, str order="any", bint sorted=False,
                  str symlinks="roots", bint hidden=True, bint one_file_system=False,
                  uint32_t min_depth=1, uint32_t max_depth=0xffffffff, stat=(),
                  EntryFilter filter=None, EntryFilter exclude=None, bint gitignore=False,
                  bytes ignore=b"", uint32_t threads=0,
                  uint32_t max_fds=64, uint32_t max_kept=0, uint32_t batch_entries=1024,
                  uint32_t batch_bytes=65536, bytes separator=b"\0",
                  uint32_t text_streams=0, timeout=None):
        cdef walk_config *c = &self.config
        cdef const char **paths
        cdef int error = 0
        memset(c, 0, sizeof(walk_config))
        c.order = ORDERS[order]
        c.sorted = sorted
        if sorted and c.order == ORDER_ANY:
            c.order = ORDER_DEPTH
        c.links = LINKS[symlinks]
        c.skip_hidden = not hidden
        c.one_file_system = one_file_system
        c.min_depth = min_depth
        c.max_depth = max_depth
        for name in stat:
            c.fields |= 1u << <int>FIELDS[name]
        self.has_stat = c.fields & WHOLE_STAT == WHOLE_STAT
        self.filter = filter
        self.exclude = exclude
        if filter is not None:
            c.filter = filter.filter
        if exclude is not None:
            c.exclude = exclude.filter
        c.gitignore = gitignore
        c.ignore.text = PyBytes_AS_STRING(ignore)
        c.ignore.length = len(ignore)
        c.threads = threads
        c.max_fds = max_fds
        c.max_kept = max_kept
        c.batch_entries = max(1, batch_entries)
        c.batch_bytes = max(1, batch_bytes)
        c.separator = separator[0]
        c.text_streams = text_streams
        self.is_text = is_text
        self.timeout = timeout
        self.pid = getpid()
        for path in roots:
            if b"\0" in path:
                raise ValueError("embedded null byte in the path")
        paths = <const char **>malloc((len(roots) + 1) * sizeof(char *))
        if paths == NULL:
            raise MemoryError
        for i, path in enumerate(roots):
            paths[i] = PyBytes_AS_STRING(path)
        self.k = walk_new(c, paths, <uint32_t>len(roots), &error)
        free(paths)
        if self.k == NULL:
            if error == ENOMEM:
                raise MemoryError
            raise_error(-error)

    def __dealloc__(self):
        if self.k != NULL and getpid() == self.pid:  # a forked child has nobody to wait for
            walk_stop(self.k, 0)
            walk_release(self.k)

    cdef int check_here(self) except -1:
        if getpid() != self.pid:
            raise RuntimeError("the walk did not survive fork(): start a new one")
        return 0

    cdef int start(self) except -1:
        # Not before it is asked for: a walk that nobody iterates costs no thread.
        self.started = True
        cdef int err = walk_start(self.k)
        if err < 0:
            raise_error(err)
        return 0

    cdef Batch take(self):
        self.check_here()
        if swap_in_use(&self.in_use, 1, SEQ_CST):
            raise ValueError(ITERATED)
        try:
            return self.take_one()
        finally:
            swap_in_use(&self.in_use, 0, SEQ_CST)

    cdef Batch take_one(self):
        cdef Batch batch
        cdef walk_batch *b = NULL
        cdef int state
        cdef int64_t deadline = 0, patience = STUCK_NS
        if not self.started:
            self.start()
        if self.timeout is not None:
            deadline = deadline_after(self.timeout)
        while True:
            with nogil:
                state = walk_take(self.k, &b)
            if state != WALK_WAIT:
                break
            if self.config.threads:
                self.wait(deadline, patience)
                patience = min(2 * patience, LOOK_NS)
            else:
                PyErr_CheckSignals()
        if state == WALK_FAILED:
            raise MemoryError
        if state == WALK_ENDED:
            return None
        batch = Batch.__new__(Batch)
        batch.b = b
        batch.engine = self
        return batch

    cdef int wait(self, int64_t deadline, int64_t patience) except -1:
        """Until there may be a batch, but at most `patience` ns: then see to workers stuck."""
        cdef int64_t now = monotonic_ns()
        cdef int64_t until = now + patience
        if deadline and deadline <= now:
            raise TimeoutError("no entry came in time")
        if deadline and deadline < until:
            until = deadline
        if await_readable(walk_wake_fd(self.k), until):
            walk_calm(self.k)
        else:
            with nogil:
                walk_rescue(self.k)
        return 0

    def close(self):
        """End the walk.  Idempotent; from any thread; not a switch point.

        A worker that is in the kernel goes as soon as that call returns.
        """
        self.check_here()
        with nogil:
            walk_stop(self.k, STOP_NS)

    def progress(self):
        """(directories read, entries handed over, errors, directories queued) up to now.

        From any thread.
        """
        cdef walk_progress p
        walk_read_progress(self.k, &p)
        return p.directories, p.entries, p.errors, p.queued

    def _forget_types(self):
        """For tests, before the first entry is asked for: the directories tell no types."""
        walk_forget_types(self.k)

    def _add_fault(self, str stage, *, bytes name=None, uint32_t nth=0, int error=0, delay=0.0):
        """For tests, before the first entry is asked for: see walk_fault in dir_walk.h."""
        if walk_add_fault(self.k, STAGES.index(stage), NULL if name is None else <char *>name, nth,
                          error, <int64_t>(delay * 1e9)) < 0:
            raise MemoryError


cdef bint await_readable(int fd, int64_t until) except -1:
    """Park the fiber, or block the thread without the GIL; whether it became readable."""
    if in_fiber():
        return poll_in_fiber(scheduler_or_none(), fd, until)
    cdef pollfd p
    cdef int64_t left
    cdef int n, error
    p.fd = fd
    p.events = POLLIN
    left = max(0, until - monotonic_ns())
    with nogil:
        n = poll(&p, 1, <int>((left + 999_999) // 1_000_000))
        error = errno
    PyErr_CheckSignals()
    if n < 0 and error != EINTR:
        raise_error(-error)
    return n > 0


cdef bint poll_in_fiber(Scheduler s, int fd, int64_t until) except -1:
    cdef Slot *slot
    cdef int64_t result
    s.about_to_wait()
    slot = s.take_slot(OP_POLL, fd)
    slot.o.flags = POLLIN
    try:
        result = s.perform(slot, until, True)
    except TimeoutError:
        return False
    finally:
        s.give_slot(slot)
    if result < 0:
        raise_error(result)
    return True


# ---- batches ----

@cython.final
cdef class Column:
    """A column's memory, for the buffer protocol; it keeps the batch."""
    cdef Batch batch
    cdef void *at
    cdef bytes form
    cdef Py_ssize_t count, width

    def __getbuffer__(self, Py_buffer *view, int flags):
        if flags & PyBUF_WRITABLE:
            raise BufferError("a batch is read-only")
        view.buf = self.at
        view.obj = self
        view.len = self.count * self.width
        view.readonly = 1
        view.itemsize = self.width
        view.format = PyBytes_AS_STRING(self.form) if flags & PyBUF_FORMAT else NULL
        view.ndim = 1
        view.shape = &self.count if flags & PyBUF_ND else NULL
        view.strides = &self.width if (flags & PyBUF_STRIDES) == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL


cdef object column(Batch batch, void *at, bytes form, Py_ssize_t width, Py_ssize_t count):
    cdef Column c = Column.__new__(Column)
    c.batch = batch
    c.at = at
    c.form = form
    c.width = width
    c.count = count
    return memoryview(c)


@cython.no_gc_clear  # its end needs the engine, with which it is in no cycle
cdef class Batch:
    """Entries as columns: read-only memoryviews that NumPy takes without copying.

    Path number i is ``paths[offsets[i]:offsets[i + 1] - 1]``.
    """

    def __dealloc__(self):
        if self.b != NULL and getpid() == self.engine.pid:
            batch_return(self.b)

    def __len__(self):
        return self.b.count

    def __getitem__(self, Py_ssize_t i):
        if i < 0:
            i += self.b.count
        if not 0 <= i < self.b.count:
            raise IndexError("entry index out of range")
        return new_entry(self, <uint32_t>i)

    def __iter__(self):
        for i in range(self.b.count):
            yield new_entry(self, i)

    @property
    def paths(self):
        """The paths as one block of bytes, each followed by the separator."""
        if self.block is None:
            self.block = PyBytes_FromStringAndSize(self.b.paths, self.b.paths_size)
        return self.block

    @property
    def offsets(self):
        """Where in `paths` each path begins, and where the last one ends; one more than entries."""
        return column(self, self.b.offsets, b"I", 4, self.b.count + 1)

    @property
    def name_offsets(self):
        """Where in its path each name begins."""
        return column(self, self.b.name_at, b"I", 4, self.b.count)

    @property
    def types(self):
        """What each entry is: numbers of `EntryType`."""
        return column(self, self.b.types, b"B", 1, self.b.count)

    @property
    def depths(self):
        """How deep each entry is; 1 for what is in the top itself."""
        return column(self, self.b.depths, b"I", 4, self.b.count)

    @property
    def inodes(self):
        """The inode numbers."""
        return column(self, self.b.inodes, b"Q", 8, self.b.count)

    @property
    def sizes(self):
        """The sizes in bytes, -1 where it could not be asked.  Needs stat="size"."""
        return self.column("size")

    @property
    def mtimes(self):
        """When each was modified, in nanoseconds since 1970.  Needs stat="mtime_ns"."""
        return self.column("mtime_ns")

    def column(self, str name):
        """A column that was asked for with ``stat=``; ValueError for another."""
        cdef int f = FIELDS.get(name, -1)
        if f < 0 or self.b.fields[f] == NULL:
            raise ValueError(f"there is no column {name!r}: ask for it with stat=[{name!r}]")
        return column(self, self.b.fields[f], walk_field_rows[f].format, walk_field_rows[f].width,
                      self.b.count)

    def names(self):
        """The names, as a list of str, or of bytes if the walk was given bytes."""
        return [self.name_of(i) for i in range(self.b.count)]

    def path_list(self):
        """The paths, as a list of str, or of bytes if the walk was given bytes."""
        return [self.path_of(i) for i in range(self.b.count)]

    @property
    def errors(self):
        """What went wrong among these entries: OSErrors with ``stage`` and ``depth``."""
        return [self.error_at(i) for i in range(self.b.error_count)]

    def prune(self, Py_ssize_t i):
        """Have nothing below the directory that is entry ``i`` read, nor given any more.

        What later batches have of it is marked: see `is_pruned`.
        """
        if not 0 <= i < self.b.count:
            raise IndexError("entry index out of range")
        walk_prune(self.engine.k, self.b, <uint32_t>i)

    def is_pruned(self, Py_ssize_t i):
        """Whether entry ``i`` is below a directory that was pruned."""
        if not 0 <= i < self.b.count:
            raise IndexError("entry index out of range")
        return walk_is_pruned(self.engine.k, self.b, <uint32_t>i)

    def text_of(self, Py_ssize_t stream):
        """What the filter's actions wrote to a stream."""
        if not 0 <= stream < self.b.streams:
            raise IndexError("no such stream")
        return PyBytes_FromStringAndSize(self.b.text[stream].bytes, self.b.text[stream].size)

    cdef object text(self, const char *at, uint32_t length):
        if self.engine.is_text:
            return PyUnicode_DecodeFSDefaultAndSize(at, length)
        return PyBytes_FromStringAndSize(at, length)

    cdef object path_of(self, uint32_t i):
        cdef uint32_t start = self.b.offsets[i]
        return self.text(self.b.paths + start, self.b.offsets[i + 1] - 1 - start)

    cdef object name_of(self, uint32_t i):
        cdef uint32_t start = self.b.offsets[i] + self.b.name_at[i]
        return self.text(self.b.paths + start, self.b.offsets[i + 1] - 1 - start)

    cdef object error_at(self, uint32_t i):
        cdef walk_error *e = &self.b.errors[i]
        path = self.text(self.b.error_text + e.path_offset, e.path_length)
        error = OSError(e.error, os.strerror(e.error), path)
        error.stage = STAGES[e.stage]
        error.depth = e.depth
        return error

    cdef object stat_at(self, uint32_t i):
        cdef file_facts facts
        cdef int64_t billion = 1_000_000_000
        cdef void **f = self.b.fields
        cdef int64_t atime, mtime, ctime
        if not self.engine.has_stat or (<int64_t *>f[FIELD_SIZE])[i] < 0:
            return None
        atime, mtime = (<int64_t *>f[FIELD_ATIME])[i], (<int64_t *>f[FIELD_MTIME])[i]
        ctime = (<int64_t *>f[FIELD_CTIME])[i]
        facts.mode, facts.nlink = (<uint32_t *>f[FIELD_MODE])[i], (<uint32_t *>f[FIELD_NLINK])[i]
        facts.uid, facts.gid = (<uint32_t *>f[FIELD_UID])[i], (<uint32_t *>f[FIELD_GID])[i]
        facts.ino, facts.dev = (<uint64_t *>f[FIELD_INO])[i], (<uint64_t *>f[FIELD_DEV])[i]
        facts.rdev = (<uint64_t *>f[FIELD_RDEV])[i]
        facts.size, facts.blocks = (<int64_t *>f[FIELD_SIZE])[i], (<int64_t *>f[FIELD_BLOCKS])[i]
        facts.block_size = (<uint32_t *>f[FIELD_BLKSIZE])[i]
        facts.atime, facts.atime_ns = atime // billion, <uint32_t>(atime % billion)
        facts.mtime, facts.mtime_ns = mtime // billion, <uint32_t>(mtime % billion)
        facts.ctime, facts.ctime_ns = ctime // billion, <uint32_t>(ctime % billion)
        return stat_result(&facts)


# ---- entries ----

@cython.final
@cython.freelist(256)
@cython.no_gc  # it refers to a batch and to what cannot refer back
cdef class Entry:
    """One entry of a walk: what os.DirEntry has, and ``depth`` and ``type``.

    ``path`` is the walk's top joined with what is below it.  What the directory told (the inode,
    mostly the type) costs nothing; the rest is asked once and remembered.
    """
    cdef Batch batch
    cdef uint32_t index
    cdef object known_path, known_name, known_stat, known_lstat

    @property
    def path(self):
        """The whole path: str, or bytes if the walk was given bytes."""
        if self.known_path is None:
            self.known_path = self.batch.path_of(self.index)
        return self.known_path

    @property
    def name(self):
        """The last component of the path."""
        if self.known_name is None:
            self.known_name = self.batch.name_of(self.index)
        return self.known_name

    @property
    def depth(self):
        """How far below the top: 1 for what is in it, 0 for the top itself."""
        return self.batch.b.depths[self.index]

    @property
    def type(self):
        """What it is, an `EntryType`; of a link that the walk followed, what it leads to."""
        return TYPES[self.batch.b.types[self.index] & 15]

    def inode(self):
        """The inode number.  Not a switch point."""
        return self.batch.b.inodes[self.index]

    def is_dir(self, *, bint follow_symlinks=True):
        """Whether it is a directory, or a link to one.  Asks only of a link."""
        return is_mode(self, mode_bits.S_IFDIR, follow_symlinks)

    def is_file(self, *, bint follow_symlinks=True):
        """Whether it is a regular file, or a link to one.  Asks only of a link."""
        return is_mode(self, mode_bits.S_IFREG, follow_symlinks)

    def is_symlink(self):
        """Whether it is a symbolic link that the walk did not follow."""
        return is_mode(self, mode_bits.S_IFLNK, False)

    def is_junction(self):
        """False: there are none here."""
        return False

    def stat(self, *, bint follow_symlinks=True):
        """The `os.stat_result`, of the link's target unless told otherwise.

        Asked once and remembered, or known to a walk with ``stat=True``.  Where it has to be asked,
        in a fiber a switch and cancellation point.
        """
        cdef int known = self.batch.b.types[self.index]
        if not follow_symlinks or known not in (0, mode_bits.S_IFLNK >> 12):
            if self.known_lstat is None:
                self.known_lstat = self.batch.stat_at(self.index)
            if self.known_lstat is None:
                self.known_lstat = ask_stat(self.path, False)
            return self.known_lstat
        if self.known_stat is None:
            self.known_stat = ask_stat(self.path, True)
        return self.known_stat

    def prune(self):
        """Have nothing below this directory read, nor given any more.  Not a switch point.

        Not in post-order, where what is below has been given already.
        """
        if self.batch.engine.config.order == ORDER_POST:
            raise ValueError("in post-order an entry comes after what is below it: use exclude=")
        walk_prune(self.batch.engine.k, self.batch.b, self.index)

    def __fspath__(self):
        return self.path

    def __repr__(self):
        return f"<ferrule.Entry {self.path!r}>"


cdef Entry new_entry(Batch batch, uint32_t index):
    cdef Entry entry = Entry.__new__(Entry)
    entry.batch = batch
    entry.index = index
    return entry


cdef object ask_stat(path, bint follow):
    if in_fiber():
        return stat_in_fiber(path) if follow else lstat_in_fiber(path)
    return os.stat(path) if follow else os.lstat(path)


cdef bint is_mode(Entry entry, int kind, bint follow) except -1:
    # A directory entry's type is the upper part of st_mode; 0 is unknown.
    cdef int known = entry.batch.b.types[entry.index] << 12
    if known and not (follow and known == mode_bits.S_IFLNK):
        return known == kind
    try:
        return mode_bits.S_IFMT(entry.stat(follow_symlinks=follow).st_mode) == kind
    except FileNotFoundError:
        return False


# ---- what is iterated ----

cdef class Iteration:
    """What ends with its walk: a context manager, closed also when the iteration ends."""
    cdef readonly Engine engine
    cdef object on_error            # None: raise; else called with each OSError
    cdef bint gives_errors          # they stand among the entries
    cdef bint is_closed

    def __init__(self, Engine engine not None, on_error=None, bint gives_errors=False):
        self.engine = engine
        self.on_error = on_error
        self.gives_errors = gives_errors

    cdef Batch next_batch(self):
        cdef Batch batch = None if self.is_closed else self.engine.take()
        if batch is None:
            self.close()
        return batch

    cdef int fail(self, object error) except -1:
        if self.on_error is None:
            self.close()
            raise error
        self.on_error(error)
        return 0

    def __iter__(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, kind, exc, tb):
        self.close()

    cpdef close(self):
        """End the walk; there is no further entry.  Idempotent; from any thread.

        Not a switch point.  A worker that is in the kernel goes as soon as that call returns.
        """
        self.is_closed = True
        self.engine.close()

    def progress(self):
        """What was done up to now: a `Progress`.  From any thread; not a switch point."""
        return Progress(*self.engine.progress())


@cython.final
cdef class Walk(Iteration):
    """The entries of a walk, an iterator."""
    cdef Batch batch
    cdef uint32_t at, error_at
    cdef object predicate
    cdef int in_use

    def __init__(self, Engine engine not None, on_error=None, bint gives_errors=False,
                 predicate=None):
        Iteration.__init__(self, engine, on_error, gives_errors)
        self.predicate = predicate

    def __next__(self):
        if ENTER_ALONE(&self.in_use):
            raise ValueError(ITERATED)
        try:
            return self.next_given()
        finally:
            LEAVE_ALONE(&self.in_use)

    cdef object next_given(self):
        cdef Entry entry
        cdef walk_batch *b
        while True:
            if self.batch is None:
                self.batch = self.next_batch()
                self.at = self.error_at = 0
            if self.is_closed:  # by the end, or by anybody
                self.batch = None
                raise StopIteration
            b = self.batch.b
            if self.error_at < b.error_count and b.errors[self.error_at].at <= self.at:
                self.error_at += 1
                error = self.batch.error_at(self.error_at - 1)
                if self.gives_errors:
                    return error
                self.fail(error)
            elif self.at == b.count:
                self.batch = None
            else:
                self.at += 1
                if walk_is_pruned(self.engine.k, b, self.at - 1):
                    continue
                entry = new_entry(self.batch, self.at - 1)
                if self.predicate is None or self.predicate(entry):
                    return entry


@cython.final
cdef class BatchWalk(Iteration):
    """The batches of a walk, an iterator."""

    def __next__(self):
        cdef Batch batch = self.next_batch()
        cdef uint32_t i
        if batch is None:
            raise StopIteration
        if not self.gives_errors:
            for i in range(batch.b.error_count):
                self.fail(batch.error_at(i))
        return batch
