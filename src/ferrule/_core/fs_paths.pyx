"""ferrule.fs: the calls that take paths, and directories.  See files.pyx for the rules."""
from cpython.buffer cimport PyBUF_SIMPLE, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, EINTR, EINVAL, EMFILE, ENFILE, ENOSYS, EPERM, errno
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from ferrule._core.files cimport (
    AT_EACCESS, AT_EMPTY_PATH, AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW,
    DirectoryNumber, EOPNOTSUPP, F_DUPFD_CLOEXEC, Handle, O_DIRECTORY, O_NOFOLLOW, O_PATH,
    O_RDONLY, PySys_Audit, SEEK_SET, facts_are_local, facts_of_fd, fcntl, file_facts, inject,
    keep_object, note_refusal, open_cached, openat2_is_refused, path_bytes, perform_in, posix_close,
    raise_path_error, stat_of_open, stat_result, stat_waiting,
)
from ferrule._core.operation cimport (
    OP_COPY_RANGE, OP_FACCESSAT, OP_FSYNC, OP_GETDENTS, OP_IN_WORKER, OP_KINDS, OP_LINKAT,
    OP_MKDIRAT, OP_READLINKAT, OP_RENAMEAT, OP_STATX, OP_SYMLINKAT, OP_UNLINKAT, op_rows,
)
from ferrule._core.scheduler cimport Scheduler, Slot, current_scheduler, raise_error

import os

cdef extern from *:
    """
    struct fe_dirent { /* as getdents64 writes them */
        uint64_t ino;
        int64_t off;
        unsigned short reclen;
        unsigned char type;
        char name[];
    };
    """
    struct fe_dirent:
        uint64_t ino
        uint16_t reclen
        unsigned char type
        char name[1]

cdef enum:
    GETDENTS_BYTES = 32 * 1024
    LINK_BYTES = 4096           # PATH_MAX: no link is longer


# ---- calls that take paths ----
#
# Never inline: a look-up may read the disk.  Only a stat needs no more than an O_PATH descriptor,
# and that can be had without sleeping when the path is cached.

cdef object number_or_none(object path):
    """A descriptor's number, where a path may be one."""
    if isinstance(path, int):
        return path
    if isinstance(path, Handle):
        return path.fileno()
    return None


cdef int64_t call_path(Scheduler s, int kind, bytes path, DirectoryNumber directory, uint32_t flags,
                       uint32_t mode) except? -4096:
    cdef Slot *slot
    cdef int64_t r = -EINTR
    while r == -EINTR:
        slot = s.take_slot(kind, directory.fd)
        try:
            keep_object(slot, path)
            slot.o.addr = PyBytes_AS_STRING(path)
            slot.o.flags = flags
            slot.o.mode = mode
            r = perform_in(directory.handle, s, slot)
        finally:
            s.give_slot(slot)
    return r


cdef int64_t call_paths(Scheduler s, int kind, bytes path, DirectoryNumber directory, bytes path2,
                        DirectoryNumber directory2, uint32_t flags) except? -4096:
    cdef Slot *slot
    cdef int64_t r = -EINTR
    cdef int fd2 = directory2.fd
    if directory2.handle is not None and directory2.handle is not directory.handle:
        # Only the first one's close() knows of the operation: the second needs a number of its own.
        fd2 = directory2.handle.copy_number()
        if fd2 < 0:
            return fd2
    try:
        while r == -EINTR:
            slot = s.take_slot(kind, directory.fd)
            try:
                keep_object(slot, (path, path2))
                slot.o.addr = PyBytes_AS_STRING(path)
                slot.o.fd2 = fd2
                slot.o.addr2 = PyBytes_AS_STRING(path2)
                slot.o.flags = flags
                r = perform_in(directory.handle, s, slot)
            finally:
                s.give_slot(slot)
    finally:
        if fd2 != directory2.fd:
            posix_close(fd2)
    return r


cdef int do_path(int kind, object path, object dir_fd, uint32_t flags, uint32_t mode) except -1:
    cdef DirectoryNumber directory = DirectoryNumber(dir_fd)
    cdef int64_t r = call_path(current_scheduler(), kind, path_bytes(path), directory, flags, mode)
    if r < 0:
        raise_path_error(r, path)
    return 0


cdef int do_paths(int kind, object src, object src_dir_fd, object dst, object dst_dir_fd,
                  uint32_t flags) except -1:
    cdef DirectoryNumber a = DirectoryNumber(src_dir_fd), b = DirectoryNumber(dst_dir_fd)
    cdef int64_t r = call_paths(current_scheduler(), kind, path_bytes(src), a, path_bytes(dst), b,
                                flags)
    if r < 0:
        raise_path_error(r, src, dst)
    return 0


cdef int64_t try_stat(Scheduler s, bytes path, DirectoryNumber directory, bint follow,
                      file_facts *facts) except? -4096:
    cdef int64_t fd = inject(s, OP_STATX, NULL)
    cdef int64_t r
    if fd == 0:
        fd = open_cached(directory.fd, directory.handle, path,
                         O_PATH | (0 if follow else O_NOFOLLOW))
    note_refusal(fd)
    if fd < 0:
        return fd
    r = facts_of_fd(<int>fd, facts)
    posix_close(<int>fd)
    return r if r < 0 or facts_are_local(facts) else -EAGAIN


def stat(path, *, dir_fd=None, bint follow_symlinks=True):
    """The `os.stat_result` of a path or a descriptor, as os.stat."""
    cdef Scheduler s = current_scheduler()
    cdef file_facts facts
    cdef DirectoryNumber directory
    cdef int64_t r = -EAGAIN
    number = number_or_none(path)
    if number is not None:
        return stat_of_number(s, number)
    directory = DirectoryNumber(dir_fd)
    encoded = path_bytes(path)
    s.checkpoint()
    if not openat2_is_refused():
        r = try_stat(s, encoded, directory, follow_symlinks, &facts)
        s.spend_budget()
    if r in (-EAGAIN, -ENOSYS, -EPERM, -EINVAL, -EMFILE, -ENFILE, -EINTR, -EOPNOTSUPP):
        r = stat_waiting(s, encoded, directory, 0 if follow_symlinks else AT_SYMLINK_NOFOLLOW,
                         &facts)
    if r < 0:
        raise_path_error(r, path)
    return stat_result(&facts)


cdef object stat_of_number(Scheduler s, int fd):
    cdef file_facts facts
    cdef DirectoryNumber number
    s.checkpoint()
    cdef int64_t r = inject(s, OP_STATX, NULL)
    if r == 0:
        r = facts_of_fd(fd, &facts)
    if r == 0 and not facts_are_local(&facts):
        number = DirectoryNumber(fd)
        r = stat_waiting(s, b"", number, AT_EMPTY_PATH, &facts)
    if r != 0:
        raise_error(r)
    return stat_result(&facts)


def lstat(path, *, dir_fd=None):
    """As stat(), but of a symbolic link itself."""
    return stat(path, dir_fd=dir_fd, follow_symlinks=False)


def access(path, int mode, *, dir_fd=None, bint effective_ids=False, bint follow_symlinks=True):
    """Whether the process may use the path so (os.F_OK, R_OK, W_OK, X_OK); as os.access."""
    cdef DirectoryNumber directory = DirectoryNumber(dir_fd)
    cdef uint32_t flags = 0
    if effective_ids:
        flags |= AT_EACCESS
    if not follow_symlinks:
        flags |= AT_SYMLINK_NOFOLLOW
    return call_path(current_scheduler(), OP_FACCESSAT, path_bytes(path), directory, flags,
                     mode) == 0


def mkdir(path, int mode=0o777, *, dir_fd=None):
    """Make a directory, as os.mkdir."""
    PySys_Audit("os.mkdir", "Oi", <PyObject *>path, mode)
    do_path(OP_MKDIRAT, path, dir_fd, 0, mode)


def unlink(path, *, dir_fd=None):
    """Remove a file, as os.unlink."""
    PySys_Audit("os.remove", "O", <PyObject *>path)
    do_path(OP_UNLINKAT, path, dir_fd, 0, 0)


def rmdir(path, *, dir_fd=None):
    """Remove an empty directory, as os.rmdir."""
    PySys_Audit("os.rmdir", "O", <PyObject *>path)
    do_path(OP_UNLINKAT, path, dir_fd, AT_REMOVEDIR, 0)


def rename(src, dst, *, src_dir_fd=None, dst_dir_fd=None):
    """Rename, replacing what is at ``dst``, as os.rename."""
    PySys_Audit("os.rename", "OO", <PyObject *>src, <PyObject *>dst)
    do_paths(OP_RENAMEAT, src, src_dir_fd, dst, dst_dir_fd, 0)


def link(src, dst, *, src_dir_fd=None, dst_dir_fd=None, bint follow_symlinks=True):
    """Make a hard link ``dst`` to ``src``, as os.link."""
    PySys_Audit("os.link", "OO", <PyObject *>src, <PyObject *>dst)
    do_paths(OP_LINKAT, src, src_dir_fd, dst, dst_dir_fd,
             AT_SYMLINK_FOLLOW if follow_symlinks else 0)


def symlink(src, dst, target_is_directory=False, *, dir_fd=None):
    """Make a symbolic link ``dst`` that says ``src``, as os.symlink."""
    cdef DirectoryNumber directory = DirectoryNumber(dir_fd)
    cdef DirectoryNumber nowhere = DirectoryNumber(None)
    PySys_Audit("os.symlink", "OO", <PyObject *>src, <PyObject *>dst)
    cdef int64_t r = call_paths(current_scheduler(), OP_SYMLINKAT, path_bytes(src), directory,
                                path_bytes(dst), nowhere, 0)
    if r < 0:
        raise_path_error(r, src, dst)


def readlink(path, *, dir_fd=None):
    """What a symbolic link says: str, or bytes for a path of bytes; as os.readlink."""
    cdef Scheduler s = current_scheduler()
    cdef DirectoryNumber directory = DirectoryNumber(dir_fd)
    cdef Slot *slot
    cdef int64_t r = -EINTR
    encoded = path_bytes(path)
    said = PyBytes_FromStringAndSize(NULL, LINK_BYTES)
    while r == -EINTR:
        slot = s.take_slot(OP_READLINKAT, directory.fd)
        try:
            keep_object(slot, (encoded, said))
            slot.o.addr = PyBytes_AS_STRING(encoded)
            slot.o.addr2 = PyBytes_AS_STRING(said)
            slot.o.len = LINK_BYTES
            r = perform_in(directory.handle, s, slot)
        finally:
            s.give_slot(slot)
    if r < 0:
        raise_path_error(r, path)
    said = said[:r]
    return said if isinstance(os.fspath(path), bytes) else os.fsdecode(said)


# ---- directories ----

cdef class DirectoryHandle(Handle):
    """An open directory; what `ferrule.fs.Directory` adds names to."""

    @classmethod
    def open(cls, path, *, dir_fd=None, bint follow_symlinks=True):
        """Open the directory ``path``; NotADirectoryError for a link that is not to be followed.

        A switch and cancellation point.
        """
        cdef DirectoryHandle self = cls.__new__(cls)
        cdef int flags = O_RDONLY | O_DIRECTORY | (0 if follow_symlinks else O_NOFOLLOW)
        self.open_path(current_scheduler(), path, flags, 0, dir_fd)
        return self

    @classmethod
    def of_number(cls, int fd):
        """An open directory of its own for the one behind a descriptor."""
        cdef DirectoryHandle self = cls.__new__(cls)
        cdef int mine = fcntl(fd, F_DUPFD_CLOEXEC, 0)
        if mine < 0:
            raise_error(-errno)
        self.adopt(mine, O_RDONLY)
        self.name = fd
        return self

    cdef int fail(self, int64_t result) except -1:
        return raise_path_error(result, self.name if not isinstance(self.name, int) else None)

    def read_entries(self):
        """The next [(name as bytes, inode, type of DT_*)] of the directory, [] at the end."""
        cdef Scheduler s = current_scheduler()
        cdef Slot *slot
        cdef int64_t r = -EINTR, at = 0
        cdef fe_dirent *entry
        cdef char *base
        cdef list found = []
        block = PyBytes_FromStringAndSize(NULL, GETDENTS_BYTES)
        base = PyBytes_AS_STRING(block)
        while not found:
            r = -EINTR
            while r == -EINTR:
                self.check_open()
                slot = s.take_slot(OP_GETDENTS, self.fd)
                try:
                    keep_object(slot, block)
                    slot.o.addr = base
                    slot.o.len = GETDENTS_BYTES
                    r = self.perform(s, slot, 0, True)
                finally:
                    s.give_slot(slot)
            if r < 0:
                self.fail(r)
            if r == 0:
                break
            at = 0
            while at < r:
                entry = <fe_dirent *>(base + at)
                at += entry.reclen
                name = <bytes>entry.name
                if name != b"." and name != b"..":
                    found.append((name, entry.ino, entry.type))
        return found

    def rewind(self):
        """Begin again with the first entry.  Not a switch point."""
        self.move(0, SEEK_SET)

    def stat(self):
        """The directory's own `os.stat_result`."""
        return stat_of_open(self)

    def fsync(self):
        """Wait until the names in the directory are on the disk."""
        cdef int64_t r = self.call(OP_FSYNC, 0, 0, 0, 0)
        if r < 0:
            self.fail(r)


def copy_some(Handle source, Handle target, uint64_t size):
    """Copy up to ``size`` bytes between the positions of two files, in the kernel; how many.

    0 at the end of the source.  OSError with EXDEV, EINVAL and others where the kernel cannot.
    """
    cdef Scheduler s = current_scheduler()
    cdef Slot *slot
    cdef int64_t r = -EINTR
    while r == -EINTR:
        source.check_open()
        target.check_open()
        slot = s.take_slot(OP_COPY_RANGE, target.fd)
        try:
            keep_object(slot, source)
            slot.o.fd2 = source.fd
            slot.o.len = size
            r = target.perform(s, slot, 0, True)
        finally:
            s.give_slot(slot)
    if r < 0:
        raise_error(r)
    return r


# ---- for bench/files_choices.py ----

def perform_row(str kind, *, int fd=AT_FDCWD, path=None, path2=None, buffer=None, int flags=0,
                int mode=0, int64_t offset=0, size=None, bint in_worker=False):
    """One attempt of one row by the way named, never inline: its result, or -errno."""
    cdef Scheduler s = current_scheduler()
    cdef Slot *slot = s.take_slot(kind_of(kind), fd)
    try:
        if path is not None:
            keep_object(slot, (path, path2))
            slot.o.addr = PyBytes_AS_STRING(path)
        if path2 is not None:
            slot.o.fd2 = AT_FDCWD
            slot.o.addr2 = PyBytes_AS_STRING(path2)
        if buffer is not None:
            PyObject_GetBuffer(buffer, &slot.view, PyBUF_SIMPLE)
            slot.has_view = True
            slot.o.addr = slot.view.buf
            slot.o.len = slot.view.len
        if kind == "statx":
            slot.o.addr2 = &slot.o.out
        if size is not None:
            slot.o.len = size
        slot.o.flags = flags
        slot.o.mode = mode
        slot.o.off = offset
        if in_worker:
            slot.o.traits |= OP_IN_WORKER
        return s.perform(slot, 0, True)
    finally:
        s.give_slot(slot)


cdef int kind_of(str name) except -1:
    cdef int kind
    for kind in range(OP_KINDS):
        if op_rows[kind].name.decode() == name:
            return kind
    raise ValueError(f"no such operation: {name!r}")
