# File descriptors that only their fiber waits for; what raw files, fs.File and fs.Directory share.
cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from ferrule._core.operation cimport op
from ferrule._core.scheduler cimport Descriptor, Scheduler, Slot
from ferrule._core.sync cimport Semaphore


cdef extern from "<errno.h>" nogil:
    int ECANCELED, EOPNOTSUPP

cdef extern from "system_names.h" nogil:
    int AT_EACCESS, AT_EMPTY_PATH, AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW
    int O_ACCMODE, O_APPEND, O_ASYNC, O_CLOEXEC, O_CREAT, O_DIRECT, O_DIRECTORY, O_EXCL, O_NOATIME
    int O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY
    int F_DUPFD_CLOEXEC, F_SETFL
    uint32_t S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFMT, S_IFREG
    uint32_t STATX_BASIC_STATS
    int SEEK_SET, SEEK_CUR, SEEK_END
    int fcntl(int fd, int command, ...)
    int posix_close "close"(int fd)

cdef extern from "<poll.h>" nogil:
    int POLLIN, POLLOUT

cdef extern from "Python.h":
    int PySys_Audit(const char *event, const char *fmt, ...) except -1

cdef extern from "file_facts.h" nogil:
    struct file_facts:
        uint64_t dev, ino, nlink, rdev
        int64_t size, blocks, block_size
        uint32_t mode, uid, gid
        int64_t atime, mtime, ctime
        uint32_t atime_ns, mtime_ns, ctime_ns
    int facts_of_fd(int fd, file_facts *f)
    void facts_of_statx(const void *out, file_facts *f)
    bint facts_are_local(const file_facts *f)

cdef enum:
    CHUNK = 256 * 1024          # copying it takes some 16 µs: what an inline attempt may hold up
    HERE = -1                   # offset: at the file's own position


@cython.final
cdef class BulkTurns(Semaphore):
    pass


cdef class Handle(Descriptor):
    cdef readonly object name     # the path as given, or the number
    cdef object __weakref__
    cdef int flags                # as given to open
    cdef uint32_t kind            # the S_IFMT bits
    cdef int64_t block_size, size_at_open
    cdef bint is_local            # on a block device: nobody else has to be asked
    cdef bint pristine            # nothing has moved the position since the open
    cdef bint read_now, write_now  # whether RWF_NOWAIT is worth a try
    cdef bint owned               # close() closes the number
    cdef bint partial_counts      # a read that is cancelled half-way returns what it has
    cdef bint finishing           # inside close(): what is buffered must still get out
    cdef bint finalizing          # in the garbage collector: nothing may switch

    cdef int open_path(self, Scheduler s, object path, int flags, uint32_t mode,
                       object dir_fd) except -1
    cdef int adopt(self, int fd, int flags) except -1
    cdef int copy_number(self) noexcept
    cdef int learn(self, file_facts *facts) noexcept
    cdef int64_t read_some(self, Scheduler s, object owner, char *buf, uint64_t n,
                           int64_t off) except? -4096
    cdef int64_t read_full(self, Scheduler s, object owner, char *buf, uint64_t n,
                           int64_t off) except? -4096
    cdef object read_into(self, object buffer, int64_t off)
    cdef object read_rest(self, Scheduler s)
    cdef object read_bytes(self, Scheduler s, uint64_t n, int64_t off)
    cdef int64_t write_some(self, Scheduler s, object owner, const char *buf, uint64_t n,
                            int64_t off) except? -4096
    cdef int64_t write_full(self, Scheduler s, object owner, const char *buf, uint64_t n,
                            int64_t off) except? -4096
    cdef int64_t move(self, int64_t off, int whence) except? -4096
    cdef int64_t call(self, int kind, uint32_t flags, uint32_t mode, int64_t off, uint64_t n,
                      bint cancellable=*) except? -4096
    cdef int shut(self) except -1
    cdef int fail(self, int64_t result) except -1

    cdef int64_t _wait_transfer(self, Scheduler s, int kind, object owner, const char *buf,
                                uint64_t n, int64_t off) except? -4096
    cdef int64_t _write_in_place(self, const char *buf, uint64_t n, int64_t off) noexcept
    # One attempt's length, and who makes it.
    cdef void fit_transfer(self, op *o, uint64_t n) noexcept
    cdef int _wait_ready(self, Scheduler s, int events) except -1
    cdef bint _is_bulk(self, uint64_t n) noexcept
    cdef BulkTurns begin_bulk(self, Scheduler s, uint64_t n)
    cdef bint _must_not_wait(self, Scheduler s)
    cdef int _close_trait(self) noexcept
    cdef bint _may_switch(self, Scheduler s) noexcept


cdef class DirectoryNumber:
    """A dir_fd= argument; keeps the Handle that it may have come from alive while it is used."""
    cdef int fd
    cdef Handle handle


cdef int64_t checked_offset(object offset) except -1
cdef int64_t checked_size(object size) except -1
cdef bytes path_bytes(object path)
cdef int raise_path_error(int64_t result, object path, object path2=*) except -1
cdef int64_t inject(Scheduler s, int kind, uint64_t *n) except? -4096
cdef int keep_object(Slot *slot, object owner) except -1
cdef int64_t perform_in(Handle directory, Scheduler s, Slot *slot) except? -4096
cdef object stat_result(const file_facts *facts)
cdef object stat_of_open(Handle handle)
cdef int64_t stat_waiting(Scheduler s, bytes path, DirectoryNumber directory, int flags,
                          file_facts *facts) except? -4096
cdef bint openat2_is_refused() noexcept
# By what the cache knows, never waiting; `directory` is whose number it is, if anybody's.
cdef int64_t open_cached(int dir_fd, Handle directory, bytes path, int flags) noexcept
cdef int note_refusal(int64_t result) noexcept
