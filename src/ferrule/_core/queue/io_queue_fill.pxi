# From Python's arguments to a request.

cdef enum What:
    NOP, OPEN, OPENDIR, READDIR, CLOSE, CLOSEDIR, STAT, READ_FILE, WRITE_FILE, READ, WRITE, UNLINK
    MKDIR, RMDIR, RENAME, LINK, SYMLINK, READLINK, FSYNC, FADVISE, GETXATTR, SETXATTR, LISTXATTR
    REMOVEXATTR

cdef tuple NAMES = (
    "nop", "open", "opendir", "readdir", "close", "closedir", "stat", "read_file", "write_file",
    "read", "write", "unlink", "mkdir", "rmdir", "rename", "link", "symlink", "readlink", "fsync",
    "fadvise", "getxattr", "setxattr", "listxattr", "removexattr",
)

# The rows that the ring may be used for, by the names that `in_ring` takes.
cdef dict RING_ROWS = {
    "open": OP_OPENAT, "close": OP_CLOSE, "stat": OP_STATX, "read": OP_READ, "write": OP_WRITE,
    "unlink": OP_UNLINKAT, "mkdir": OP_MKDIRAT, "rename": OP_RENAMEAT, "link": OP_LINKAT,
    "symlink": OP_SYMLINKAT, "fsync": OP_FSYNC, "fadvise": OP_FADVISE, "nop": OP_NOP,
}


# ---- of a queue ----

cdef uint32_t checked_count(object value, str name, int most) except 0:
    cdef object number = value.__index__()
    if not 1 <= number <= most:
        raise ValueError(f"{name} must be from 1 to {most}, not {number}")
    return number


cdef object default_threads():
    """As many as there are processors, since most calls do not sleep; but never one alone."""
    try:
        count = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        count = os.cpu_count() or 1
    return max(2, min(8, count))


cdef int choose_ways(io_queue_options *options, bint use_ring, in_ring) except -1:
    cdef bint cached
    if isinstance(in_ring, str):
        raise TypeError("in_ring must be a collection of names")
    for name in in_ring:
        if name not in RING_ROWS:
            raise ValueError(f"in_ring may have {', '.join(sorted(RING_ROWS))}; not {name!r}")
        if use_ring:
            cached = name in ("open", "read")
            options.ways[<int>RING_ROWS[name]] = IO_CACHED if cached else IO_RING
    return 0


cdef uint32_t fault_kind(str name) except *:
    cdef int kind
    if name == "ring":
        return IO_FAULT_RING
    if name == "enter":
        return IO_FAULT_ENTER
    if name == "memory":
        return IO_FAULT_MEMORY
    for kind in range(OP_KINDS):
        if op_rows[kind].name.decode() == name:
            return kind
    raise ValueError(f"no such operation: {name!r}")


# ---- paths and descriptors ----

cdef object encode(path):
    """An ASCII str as it is, for its bytes are what is wanted; anything else as bytes."""
    if not PyUnicode_CheckExact(path) or not PyUnicode_IS_COMPACT_ASCII(path):
        path = os.fsencode(path)
    if memchr(text_of(path), 0, length_of(path)) != NULL:
        raise ValueError("embedded null byte")
    return path


cdef inline const char *text_of(encoded) noexcept:
    if PyUnicode_CheckExact(encoded):
        return <const char *>PyUnicode_DATA(encoded)
    return PyBytes_AS_STRING(encoded)


cdef inline size_t length_of(encoded) noexcept:
    if PyUnicode_CheckExact(encoded):
        return PyUnicode_GET_LENGTH(encoded)
    return PyBytes_GET_SIZE(encoded)


cdef inline size_t room_for(encoded) noexcept:
    return length_of(encoded) + 1


cdef inline char *put(io_request *r, encoded, size_t at=0) noexcept:
    """Copy a path into the request's space, where there is room for it."""
    memcpy(r.space + at, text_of(encoded), length_of(encoded))
    r.space[at + length_of(encoded)] = 0
    return r.space + at


cdef int fd_of(fd) except -1:
    if not isinstance(fd, int):
        fd = fd.fileno()
    if fd < 0:
        raise ValueError(f"file descriptor cannot be a negative integer ({fd})")
    return fd


cdef int number_of(dir_fd, Request request) except -1000:
    """What a path is relative to: a number, or an object with a fileno(), which is kept."""
    if dir_fd is None:
        return AT_FDCWD
    if request is not None:
        request.keep = dir_fd
    return fd_of(dir_fd)


cdef object encode_path_or_fd(path, int *directory):
    if isinstance(path, int):
        if directory[0] != AT_FDCWD:
            raise ValueError("can't specify dir_fd with a descriptor")
        directory[0] = fd_of(path)
        return b""
    return encode(path)


# ---- requests ----

cdef inline op *begin(io_request *r, io_kind kind, int op_kind) noexcept:
    r.kind = kind
    return op_begin(r.op, op_kind)


cdef enum:
    DIRECTORY_BLOCK = 32 << 10
    LINK_SPACE = 4096           # PATH_MAX: no link is longer
    XATTR_SPACE = 64 << 10      # XATTR_SIZE_MAX


cdef int lend(Request request, data) except -1:
    """The request holds the buffer until it is answered."""
    PyObject_GetBuffer(data, &request.view, PyBUF_SIMPLE)
    request.has_view = True
    return 0


cdef int64_t offset_of(offset) except -2:
    if offset is None:
        return -1
    cdef int64_t number = offset
    if number < 0:
        raise ValueError("offset must not be negative")
    return number


cdef uint64_t limit_of(max_bytes) except? 0:
    if max_bytes is None:
        return PY_SSIZE_T_MAX
    if max_bytes < 0:
        raise ValueError("max_bytes must not be negative")
    return min(max_bytes, PY_SSIZE_T_MAX)


cdef size_t room_for_path(What what, encoded) noexcept:
    return room_for(encoded) + (LINK_SPACE if what == READLINK else 0)


cdef void fill_path(io_request *r, What what, encoded, int directory, uint32_t flags,
                    uint64_t mode) noexcept:
    """Of requests with one path.  Of `flags` and `mode` each takes what it needs."""
    if what == STAT:
        fill_stat(r, encoded, directory, flags, <uint32_t>mode)
        return
    cdef op *o = begin(r, kind_of(what), OP_OPENAT)
    o.fd = directory
    o.addr = put(r, encoded)
    o.flags = flags
    o.mode = <uint32_t>mode
    if what == OPEN:
        o.flags |= O_CLOEXEC
    elif what == OPENDIR:
        o.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC
    elif what == READ_FILE:
        # It may be a FIFO, which nobody writes to.
        o.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY
        o.mode = 0
        r.limit = mode
    elif what == READLINK:
        o.kind = OP_READLINKAT
        o.addr2 = r.space + room_for(encoded)
        o.len = LINK_SPACE
    elif what == MKDIR:
        o.kind = OP_MKDIRAT
    else:
        o.kind = OP_UNLINKAT
        o.flags = AT_REMOVEDIR if what == RMDIR else 0


cdef io_kind kind_of(What what) noexcept:
    if what == READ_FILE:
        return IO_READ_FILE
    if what == OPENDIR:
        return IO_OPENDIR
    return IO_ATTEMPT


cdef void fill_stat(io_request *r, encoded, int directory, bint follow, uint32_t mask) noexcept:
    cdef op *o = begin(r, IO_ATTEMPT, OP_STATX)
    o.fd = directory
    o.addr = put(r, encoded)
    o.addr2 = o.out.statx
    o.flags = AT_NO_AUTOMOUNT
    if length_of(encoded) == 0 and directory != AT_FDCWD:
        o.flags |= AT_EMPTY_PATH
    if not follow:
        o.flags |= AT_SYMLINK_NOFOLLOW
    o.mode = mask


cdef void fill_write_file(io_request *r, encoded, int directory, int flags, mode_t mode) noexcept:
    cdef op *o = begin(r, IO_WRITE_FILE, OP_OPENAT)
    o.fd = directory
    o.addr = put(r, encoded)
    o.flags = O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | flags
    o.mode = mode


cdef void fill_transfer(io_request *r, int kind, int fd, void *buf, size_t length,
                        int64_t offset) noexcept:
    cdef op *o = begin(r, IO_TRANSFER, kind)
    o.fd = fd
    o.addr = buf
    o.len = length
    o.off = offset


cdef void fill_readdir(io_request *r, int fd) noexcept:
    cdef op *o = begin(r, IO_ATTEMPT, OP_GETDENTS)
    o.fd = fd
    o.addr = r.space
    o.len = DIRECTORY_BLOCK


cdef void fill_paths(io_request *r, What what, first, int from_fd, second, int to_fd,
                     uint32_t flags) noexcept:
    cdef op *o = begin(r, IO_ATTEMPT, OP_RENAMEAT if what == RENAME else OP_LINKAT)
    o.fd = from_fd
    o.addr = put(r, first)
    o.fd2 = to_fd
    o.addr2 = put(r, second, room_for(first))
    o.flags = flags
    if what == SYMLINK:
        o.kind = OP_SYMLINKAT
        o.fd = to_fd


cdef void fill_xattr(io_request *r, What what, path, int fd, attribute, bint follow,
                     int flags) noexcept:
    cdef op *o = begin(r, IO_ATTEMPT, xattr_row(what))
    cdef size_t used = room_for(path) + room_for(attribute)
    if fd != AT_FDCWD:
        o.fd = fd
    else:
        o.addr = put(r, path)
    o.addr2 = put(r, attribute, room_for(path))
    o.iov.iov_base = r.space + used
    o.iov.iov_len = XATTR_SPACE
    o.mode = 0 if follow else AT_SYMLINK_NOFOLLOW
    o.flags = flags


cdef int xattr_row(What what) noexcept:
    if what == GETXATTR:
        return OP_GETXATTR
    if what == SETXATTR:
        return OP_SETXATTR
    return OP_LISTXATTR if what == LISTXATTR else OP_REMOVEXATTR
