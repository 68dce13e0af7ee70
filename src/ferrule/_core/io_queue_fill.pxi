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


cdef void fill_open(io_request *r, encoded, int directory, int flags, mode_t mode) noexcept:
    cdef op *o = begin(r, IO_ATTEMPT, OP_OPENAT)
    o.fd = directory
    o.addr = put(r, encoded)
    o.flags = flags | O_CLOEXEC
    o.mode = mode


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
