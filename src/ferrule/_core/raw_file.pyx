"""ferrule.open: builtins.open over files that park only their fiber.

RawFile stands where io.FileIO stands in builtins.open; everything above it is the io module's own.
It cannot inherit from io.RawIOBase (their instance layouts conflict), so it is registered as one
and has the mixin methods itself.
"""
cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

from ferrule._core.files cimport (
    BulkTurns, Handle, O_ACCMODE, O_APPEND, O_CLOEXEC, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC,
    O_WRONLY, PySys_Audit, SEEK_CUR, SEEK_END, S_IFCHR, S_IFDIR,
)
from ferrule._core.operation cimport OP_FTRUNCATE
from ferrule._core.scheduler cimport Scheduler, current_scheduler, raise_error

import io
import os
import warnings

from ferrule._core.scheduler import Cancelled

cdef extern from "<errno.h>" nogil:
    int EISDIR

cdef extern from "<unistd.h>" nogil:
    int posix_isatty "isatty"(int fd)

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(object o)

# builtins.open takes the block size, 4 KiB on most file systems.  A write costs a change of thread
# here, and a read that misses the page cache two switches, so fewer and larger ones are better.
cdef Py_ssize_t BUFFER_SIZE = 64 * 1024

cdef object BufferedReader = io.BufferedReader
cdef object BufferedWriter = io.BufferedWriter
cdef object BufferedRandom = io.BufferedRandom
cdef object TextIOWrapper = io.TextIOWrapper
cdef object UnsupportedOperation = io.UnsupportedOperation


cdef class RawFile(Handle):
    """What io.FileIO is to builtins.open: an unbuffered binary file."""
    cdef readonly str mode
    cdef bint is_readable, is_writable
    cdef int is_seekable         # -1: not known yet
    cdef readonly bint closefd
    cdef bint muted              # close() is being called on a file that nobody else holds
    cdef bint wrapped            # a buffer of ours is above and will close it

    cdef int fail(self, int64_t result) except -1:
        return raise_error(result)

    cdef int check(self) except -1:
        if self.fd < 0 or self.closing:
            raise ValueError("I/O operation on closed file")
        return 0

    cdef Scheduler runtime(self):
        # Without a fiber only what the collector flushes goes on; see Handle.write_some.
        return None if self.finalizing else current_scheduler()

    # -- reading --

    def readable(self):
        """Whether the file was opened for reading."""
        self.check()
        return self.is_readable

    def readinto(self, buffer, /):
        """Read into a writable buffer; how many bytes, 0 at the end.

        The buffer cannot be resized until this returns.  A switch and cancellation point.
        """
        self.check_readable()
        return self.read_into(buffer, -1)

    def read(self, size=-1, /):
        """At most ``size`` bytes in one go, b"" at the end; all there is if negative or None."""
        cdef int64_t n = -1 if size is None else size
        self.check_readable()
        if n < 0:
            return self.read_rest(current_scheduler())
        return self.read_bytes(current_scheduler(), n, -1)

    def readall(self):
        """Everything up to the end."""
        self.check_readable()
        return self.read_rest(current_scheduler())

    cdef int check_readable(self) except -1:
        self.check()
        if not self.is_readable:
            raise UnsupportedOperation("File not open for reading")
        return 0

    # -- writing --

    def writable(self):
        """Whether the file was opened for writing."""
        self.check()
        return self.is_writable

    def write(self, data, /):
        """Write bytes; how many were taken.

        Fewer only after an error or a cancellation half-way, which comes up at the next call.  A
        switch and cancellation point.
        """
        cdef Py_buffer view
        cdef BulkTurns turns = None
        cdef Scheduler s
        self.check()
        if not self.is_writable:
            raise UnsupportedOperation("File not open for writing")
        s = self.runtime()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            turns = self.begin_bulk(s, view.len)
            return self.write_counted(s, data, <char *>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
            if turns is not None:
                turns.give(1)

    cdef object write_counted(self, Scheduler s, object data, const char *buf, uint64_t n):
        # What was written is reported whatever comes then: the buffer above would write it again.
        cdef uint64_t done = 0
        cdef int64_t r
        try:
            while True:
                r = self.write_some(s, data, buf + done, n - done, -1)
                if r < 0 and done == 0:
                    self.fail(r)
                if r > 0:
                    done += r
                if r <= 0 or done == n:
                    return done
        except Cancelled:
            if done == 0:
                raise
            return done

    def flush(self):
        """Nothing: the file is unbuffered."""
        self.check()

    def truncate(self, size=None, /):
        """Set the size to ``size`` bytes, default the position.

        A switch and cancellation point.
        """
        cdef int64_t n
        self.check()
        if not self.is_writable:
            raise UnsupportedOperation("File not open for writing")
        if size is None:
            size = self.tell()
        n = self.call(OP_FTRUNCATE, 0, 0, 0, <uint64_t><int64_t>size)
        if n < 0:
            self.fail(n)
        return size

    # -- the position --

    def seekable(self):
        """Whether the file has a position."""
        self.check()
        if self.is_seekable < 0:
            self.is_seekable = self.move(0, SEEK_CUR) >= 0
        return bool(self.is_seekable)

    def seek(self, offset, whence=0, /):
        """Move the position (0: from the start, 1: from here, 2: from the end); the new one."""
        cdef int64_t n
        self.check()
        n = self.move(offset, whence)
        if n < 0:
            self.fail(n)
        return n

    def tell(self):
        """The position in bytes."""
        cdef int64_t n
        self.check()
        n = self.move(0, SEEK_CUR)
        if n < 0:
            self.fail(n)
        return n

    # -- the rest of io.RawIOBase --

    def isatty(self):
        """Whether the file is a terminal."""
        self.check()
        return self.kind == S_IFCHR and bool(posix_isatty(self.fd))

    @property
    def _blksize(self):
        return BUFFER_SIZE

    def _dealloc_warn(self, source):
        # The buffer above calls this when the collector closes it, before it flushes.
        self.finalizing = True
        if self.fd >= 0 and self.owned and not self.muted:
            warnings.warn(f"unclosed file {source!r}", ResourceWarning, source=source)

    def __del__(self):
        # The collector may call this before it closes the buffer above, which still has to flush.
        if not self.wrapped and self.fd >= 0 and self.owned and not self.closing:
            self._dealloc_warn(self)
            self.shut()

    def __enter__(self):
        if self.fd < 0 or self.closing:
            raise ValueError("I/O operation on closed file.")
        return self

    def __exit__(self, *exc):
        self.close()

    def __iter__(self):
        self.check()
        return self

    def __next__(self):
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def readline(self, size=-1, /):
        """One line, or ``size`` bytes of it; one byte per read, as the file is unbuffered."""
        cdef int64_t limit = -1 if size is None else size
        line = bytearray()
        while limit < 0 or len(line) < limit:
            byte = self.read(1)
            line += byte
            if not byte or byte == b"\n":
                break
        return bytes(line)

    def readlines(self, hint=-1, /):
        """The lines that are left, or as many as ``hint`` bytes begin."""
        lines = []
        total = 0
        for line in self:
            lines.append(line)
            total += len(line)
            if hint is not None and 0 < hint <= total:
                break
        return lines

    def writelines(self, lines, /):
        """Write each of ``lines``."""
        for line in lines:
            self.write(line)

    def __repr__(self):
        if self.fd < 0:
            return "<ferrule.RawFile [closed]>"
        return (f"<ferrule.RawFile name={self.name!r} mode={self.mode!r} "
                f"closefd={bool(self.closefd)}>")

    def __reduce__(self):
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")


io.RawIOBase.register(RawFile)


@cython.internal
cdef class CloseFully:
    """The close() of a file with a write buffer: what is buffered gets out though cancelled.

    It shadows the method in the file's own __dict__, so the file stays of the io module's own type.
    It must not keep the file alive (a cycle would leave closing to the collector), and a weak
    reference is dead by the time the collector closes the file; so it borrows, and `Tether`, which
    lives in the file's __dict__ and nowhere else, tells it when that has gone.

    In open(...).close() the file is dropped as soon as this has been looked up; then the collector
    closes it first.  One holder more than usual shows that, and keeps the warning away.
    """
    cdef PyObject *file
    cdef RawFile raw
    cdef CloseFully upper        # of the text layer above
    cdef int holders             # of this object while the collector calls it
    cdef bint closing

    def __call__(self):
        """Flush and close the file.  Never a cancellation point."""
        if self.file == NULL:
            return
        file = <object>self.file
        before = self.raw.finishing, self.closing
        self.raw.finishing = self.closing = True
        try:
            if file._finalizing and not before[1]:
                self.raw.muted = Py_REFCNT(self) > self.holders
                if self.upper is not None and not self.upper.closing:
                    self.flush_upper()
            type(file).close(file)
        except Cancelled:
            # A pipe or terminal that would have had to wait: it is closed, what is left is lost,
            # and the next cancellation point raises again.
            pass
        finally:
            self.raw.finishing, self.closing = before

    cdef int flush_upper(self) except -1:
        # In a cycle the collector takes the lower layer first; the text above would be lost.
        try:
            self.upper()
        except Exception:
            pass  # it was detached
        return 0


@cython.internal
cdef class Tether:
    cdef CloseFully held

    def __dealloc__(self):
        if self.held is not None:
            self.held.file = NULL


cdef CloseFully close_fully(object file, RawFile raw):
    cdef CloseFully closer = CloseFully.__new__(CloseFully)
    cdef Tether tether = Tether.__new__(Tether)
    closer.file = <PyObject *>file
    closer.raw = raw
    closer.holders = 3  # the __dict__, the tether, the caller
    tether.held = closer
    file._ferrule_tether = tether
    file.close = closer
    return closer


cdef tuple parse_mode(str mode):
    """(flags of open(2), RawFile.mode, whether text), or the ValueErrors of builtins.open."""
    cdef bint creating = "x" in mode, reading = "r" in mode, writing = "w" in mode
    cdef bint appending = "a" in mode, updating = "+" in mode, text = "t" in mode
    cdef bint binary = "b" in mode
    cdef int flags
    if len(set(mode)) != len(mode) or set(mode) - set("axrwb+t"):
        raise ValueError(f"invalid mode: {mode!r}")
    if text and binary:
        raise ValueError("can't have text and binary mode at once")
    if creating + reading + writing + appending > 1:
        raise ValueError("must have exactly one of create/read/write/append mode")
    if creating + reading + writing + appending == 0:
        raise ValueError("Must have exactly one of create/read/write/append mode and at most "
                         "one plus")
    flags = O_RDWR if updating else O_RDONLY if reading else O_WRONLY
    flags |= O_CREAT if creating or writing or appending else 0
    flags |= O_EXCL if creating else O_TRUNC if writing else O_APPEND if appending else 0
    raw_mode = ("x" if creating else "a" if appending else "r" if reading or updating else "w")
    return flags, raw_mode + "b" + ("+" if updating else ""), not binary


cdef dict parsed_modes = {}  # every mode that was asked for and is valid: a few dozen at most


cdef RawFile open_raw(Scheduler s, object file, int flags, str mode, bint closefd, object opener):
    cdef RawFile raw = RawFile.__new__(RawFile)
    cdef int access = flags & O_ACCMODE
    raw.mode = mode
    raw.closefd = raw.owned = closefd
    raw.is_readable = access != O_WRONLY
    raw.is_writable = access != O_RDONLY
    raw.is_seekable = -1
    raw.partial_counts = True
    if isinstance(file, int):
        raw.owned = False  # a number that turns out bad is not ours to close
        raw.adopt(file, flags)
        raw.owned = closefd
    elif not closefd:
        raise ValueError("Cannot use closefd=False with file name")
    elif opener is None:
        raw.open_path(s, file, flags, 0o666, None)
    else:
        fd = opener(file, flags | O_CLOEXEC)
        if not isinstance(fd, int):
            raise TypeError("expected integer from opener")
        if fd < 0:
            raise ValueError(f"opener returned {fd}")
        raw.adopt(fd, flags)
        os.set_inheritable(fd, False)
    raw.name = file
    return raw


def open(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True,
         opener=None):
    """Open a file as builtins.open does, and return what it returns: the io module's own classes.

    Arguments, results and errors are those of builtins.open.  Every operation on the file parks
    only the calling fiber: a switch and cancellation point, except close(), which flushes and
    closes even in a cancelled scope.  One fiber at a time may be inside an operation of a
    buffered file (RuntimeError: reentrant call); `ferrule.fs.File` has no such limit.
    """
    cdef Scheduler s = current_scheduler()
    cdef RawFile raw
    cdef Py_ssize_t size
    cdef CloseFully closer = None
    cdef bint text, line_buffering = False
    if not isinstance(file, int):
        file = os.fspath(file)
    if not isinstance(mode, str):
        raise TypeError(f"open() argument 'mode' must be str, not {type(mode).__name__}")
    parsed = parsed_modes.get(mode)
    if parsed is None:
        parsed = parsed_modes[mode] = parse_mode(mode)
    flags, raw_mode, text = parsed
    if not text:
        if encoding is not None:
            raise ValueError("binary mode doesn't take an encoding argument")
        if errors is not None:
            raise ValueError("binary mode doesn't take an errors argument")
        if newline is not None:
            raise ValueError("binary mode doesn't take a newline argument")
        if buffering == 1:
            warnings.warn("line buffering (buffering=1) isn't supported in binary mode, the "
                          "default buffer size will be used", RuntimeWarning)
    elif buffering == 0:
        raise ValueError("can't have unbuffered text I/O")
    size = buffering
    file_object = file
    PySys_Audit("open", "OOi", <PyObject *>file_object, <PyObject *>mode, <int>flags)
    raw = open_raw(s, file, flags, raw_mode, closefd, opener)
    result = raw
    try:
        if raw.kind == S_IFDIR:
            raise OSError(EISDIR, os.strerror(EISDIR), file)
        if <int>flags & O_APPEND:
            raw.move(0, SEEK_END)
        if size == 1 or size < 0:
            line_buffering = text and (size == 1 or raw.isatty())
            size = BUFFER_SIZE
        if size == 0:
            return raw
        if not raw.is_writable:
            result = BufferedReader(raw, size)
        else:
            result = BufferedRandom(raw, size) if raw.is_readable else BufferedWriter(raw, size)
            closer = close_fully(result, raw)
        raw.wrapped = True
        if text:
            result = TextIOWrapper(result, encoding, errors, newline, line_buffering)
            result.mode = mode
            if closer is not None:
                closer.upper = close_fully(result, raw)
                closer.upper.holders += 1
        return result
    except BaseException:
        result.close()
        raise
