"""The I/O queue for Python: what is asked for becomes an io_request, and its answer a value.

A Client stands for an io_client, and holds in `held` what its requests lend to the workers, by the
request's index, so the garbage collector sees it: Request objects of the queue's own client,
buffers of those that the bulk methods use.

Whoever waits does so on the client's event, by poll: a fiber as an operation of its engine, a
thread with the GIL released.  Workers never touch a Python object and never take the GIL.
"""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_INCREF
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy, memset, strlen

from ferrule._core.operation cimport (
    OP_CLOSE, OP_FADVISE, OP_FSYNC, OP_GETDENTS, OP_GETXATTR, OP_KINDS, OP_LINKAT, OP_LISTXATTR,
    OP_MKDIRAT, OP_NOP, OP_OPENAT, OP_POLL, OP_READ, OP_READLINKAT, OP_REMOVEXATTR, OP_RENAMEAT,
    OP_SETXATTR, OP_STATX, OP_SYMLINKAT, OP_TIMEOUT, OP_UNLINKAT, OP_WRITE, URING_FSYNC_DATASYNC,
    op, op_rows,
)
from ferrule._core.scheduler cimport (
    Scheduler, Slot, deadline_after, monotonic_ns, mutex, mutex_lock, mutex_unlock, raise_error,
    scheduler_or_none,
)
from ferrule._core.stat_result cimport new_stat_result, statx_buf

import atexit
import errno as _errno
import os
import typing
import warnings
import weakref

include "queue/io_queue_abi.pxi"
include "queue/io_queue_fill.pxi"
include "queue/io_queue_values.pxi"


class QueueFull(BlockingIOError):
    """As many requests as the queue is deep have been submitted and not popped."""


cdef enum:
    LONGEST_PAUSE_NS = 10_000_000
    MOST_THREADS = 1024
    MOST_DEPTH = 1 << 20
    POPPED_AT_ONCE = 64

# What the ring is tried for; the rest is done by plain calls.  See docs/ioqueue.md for the figures.
DEFAULT_IN_RING = ("open", "read", "fsync")


@cython.final
@cython.no_gc_clear
cdef class Client:
    """One io_client of a queue, with what its requests lend."""
    cdef io_client c
    cdef list held
    cdef bint is_open

    def __dealloc__(self):
        if self.is_open:
            io_client_close(&self.c)

    cdef int open(self, io_queue *q, uint32_t depth) except -1:
        cdef int err = io_client_open(&self.c, q, depth, NULL, NULL)
        if err < 0:
            raise_error(err)
        self.is_open = True
        self.held = [None] * depth
        return 0

    cdef uint64_t in_flight(self) noexcept:
        cdef uint64_t answered = max(io_client_completed(&self.c), self.c.popped)
        return self.c.submitted - answered

    cdef io_request *request(self, size_t space) except NULL:
        """A request with so much room for its paths."""
        cdef int err = 0
        cdef io_request *r = io_client_request(&self.c, &err)
        if r == NULL:
            refuse(err)
        if not io_request_reserve(r, space):
            io_client_free(&self.c, r)
            raise MemoryError("no memory for the paths of a request")
        while r.op.index >= <size_t>len(self.held):  # others were lost with a ring
            self.held.append(None)
        return r


cdef int refuse(int err) except -1:
    if err == -EAGAIN:
        raise QueueFull(EAGAIN, "the queue is full: pop answers first")
    if err == -EINTR:
        raise InterruptedError(EINTR, "the queue was cancelled")
    raise MemoryError("no memory for one more request")


@cython.no_gc_clear
cdef class IOQueue:
    """Many file-system requests in flight at once; see `ferrule.ioqueue`."""
    cdef io_queue q
    cdef Client main
    cdef list clients, spare, orphans     # of the bulk methods: all, free ones, broken off
    cdef mutex guard                      # of closed_
    cdef bint is_running, closed_, dead
    cdef object __weakref__
    cdef readonly uint32_t depth, threads

    def __init__(self, depth=1024, threads=None, use_ring=True, *, in_ring=DEFAULT_IN_RING,
                 int kernel_threads=8):
        cdef io_queue_options options
        cdef int err
        if self.main is not None:
            raise RuntimeError("this queue is open already")
        self.depth = checked_count(depth, "depth", MOST_DEPTH)
        self.threads = checked_count(
            default_threads() if threads is None else threads, "threads", MOST_THREADS)
        memset(&options, 0, sizeof(options))
        options.threads = self.threads
        options.size = max(self.depth, 2 * BULK_WINDOW)
        options.kernel_threads = checked_count(kernel_threads, "kernel_threads", MOST_THREADS)
        choose_ways(&options, use_ring, in_ring)
        self.clients, self.spare, self.orphans = [], [], []
        err = io_queue_open(&self.q, &options)
        if err < 0:
            raise_error(err)
        self.main = Client.__new__(Client)
        try:
            self.main.open(&self.q, self.depth)
        except BaseException:
            io_queue_close(&self.q)
            self.main = None
            raise
        self.is_running = True
        open_queues.add(self)

    def __enter__(self):
        self._check_open()
        return self

    def __exit__(self, *exc):
        self.close()

    def __repr__(self):
        if self.main is None or self.closed_:
            return "<IOQueue, closed>"
        return (f"<IOQueue, {self.main.in_flight()} requests in flight, "
                f"{self.ready} answers ready, {self.threads} threads>")

    cdef int _check_open(self) except -1:
        if self.dead:
            raise RuntimeError("the queue belongs to the process that forked; make a new one here")
        if self.main is None or self.closed_:
            raise ValueError("I/O operation on closed queue")
        return 0

    # ---- what is known of it ----

    @property
    def closed(self):
        """Whether it was closed."""
        return self.main is None or self.closed_

    @property
    def cancelled(self):
        """Whether it was cancelled: nothing more is taken."""
        return bool(self.q.cancelled)

    @property
    def in_flight(self):
        """Requests that were submitted and not answered; bulk calls are not counted."""
        return 0 if self.main is None else self.main.in_flight()

    @property
    def ready(self):
        """Answers that have not been popped."""
        if self.main is None:
            return 0
        return max(io_client_completed(&self.main.c), self.main.c.popped) - self.main.c.popped

    @property
    def capacity(self):
        """How many more requests can be submitted before answers must be popped."""
        return 0 if self.main is None else self.depth - self.main.c.unfreed

    def __len__(self):
        """Requests that were submitted and not popped."""
        return 0 if self.main is None else self.main.c.unfreed

    def __bool__(self):
        return True

    def statistics(self):
        """Counts since the queue was made, as a dict."""
        cdef io_counts counts = io_queue_counts(&self.q)
        error = -self.q.ring_error
        return {
            "requests": counts.requests, "calls": counts.calls, "cached_calls": counts.cached,
            "ring_operations": counts.in_ring, "ring_enters": counts.enters,
            "rings": self.q.rings,
            "ring_error": None if not error else OSError(error, os.strerror(error)),
            "threads_alive": io_queue_alive(&self.q),
        }

    # ---- faults, for tests ----

    def inject_fault(self, str kind, int nth, *, int error):
        """Make the ``nth`` coming attempt (1: the next) of an operation fail with an errno.

        ``kind`` is a name of the operation table, or "ring" (its set-up), "enter" or "memory".
        """
        if nth < 1 or error < 1:
            raise ValueError("nth counts from 1; error is an errno")
        self._check_open()
        cdef int err = io_queue_inject(&self.q, fault_kind(kind), nth, error)
        if err < 0:
            raise_error(err)

    def forget_faults(self):
        """Take back what was planned and has not happened."""
        self._check_open()
        io_queue_forget_faults(&self.q)

    # ---- submitting ----

    cdef io_request *_request(self, size_t space=0) except NULL:
        self._check_open()
        return self.main.request(space)

    cdef Request _submit(self, io_request *r, Request request):
        self.main.held[r.op.index] = request
        io_client_submit(&self.main.c, r)
        if not self.is_running:  # without the GIL another thread may just have closed it
            self._discard_answers(self.main)
        return request

    def nop(self, *, user_data=None):
        """Do nothing.  Its value is None."""
        cdef Request request = new_request(NOP, None, user_data)
        cdef io_request *r = self._request()
        begin(r, IO_ATTEMPT, OP_NOP)
        return self._submit(r, request)

    def open(self, path, int flags=O_RDONLY, mode_t mode=0o777, *, dir_fd=None, user_data=None):
        """Open a file, as os.open.  Its value is the descriptor, which is the caller's to close."""
        return self._submit_path(OPEN, path, dir_fd, flags, mode, user_data)

    def opendir(self, path=".", *, dir_fd=None, user_data=None):
        """Open a directory and read its first entries.  Its value is an `OpenDirectory`."""
        return self._submit_path(OPENDIR, path, dir_fd, 0, 0, user_data)

    def readdir(self, OpenDirectory directory not None, *, user_data=None):
        """Read the next entries.  Its value is a list of `Entry`; empty at the end."""
        cdef Request request = new_request(READDIR, directory.name, user_data)
        cdef int fd = directory.fileno()
        cdef io_request *r = self._request(DIRECTORY_BLOCK)
        request.keep = directory
        fill_readdir(r, fd)
        return self._submit(r, request)

    def close_fd(self, fd, *, user_data=None):
        """Close a descriptor.  Carried out also when the queue is cancelled.  Its value is None."""
        cdef Request request = new_request(CLOSE, None, user_data)
        cdef int number = fd_of(fd)
        cdef io_request *r = self._request()
        begin(r, IO_ATTEMPT, OP_CLOSE).fd = number
        return self._submit(r, request)

    def closedir(self, OpenDirectory directory not None, *, user_data=None):
        """Close a directory, as `close_fd`."""
        cdef Request request = new_request(CLOSEDIR, directory.name, user_data)
        cdef int number = directory.fileno()
        cdef io_request *r = self._request()
        begin(r, IO_ATTEMPT, OP_CLOSE).fd = number
        directory.fd = -1
        return self._submit(r, request)

    def stat(self, path, *, dir_fd=None, bint follow_symlinks=True, uint32_t mask=BASIC_STATS,
             user_data=None):
        """Ask for a file's status; ``path`` may be a descriptor.  Its value is a StatResult.

        ``mask`` says which fields are wanted (STATX_* bits); the value's ``stx_mask`` says which
        there are.
        """
        return self._submit_path(STAT, path, dir_fd, follow_symlinks, mask, user_data)

    def read_file(self, path, *, dir_fd=None, max_bytes=None, user_data=None):
        """Open a file, read it to its end, and close it.  Its value is bytes.

        OSError with EFBIG if there are more than ``max_bytes``.  A FIFO is not waited for.
        """
        cdef uint64_t limit = limit_of(max_bytes)
        return self._submit_path(READ_FILE, path, dir_fd, 0, limit, user_data)

    def write_file(self, path, data, *, int flags=O_CREAT | O_TRUNC, mode_t mode=0o666,
                   dir_fd=None, user_data=None):
        """Open a file, write all of ``data``, and close it.  Its value is how many bytes.

        The buffer cannot be resized until the request is answered.  ``flags`` are those of os.open
        beside O_WRONLY.  A FIFO is not waited for: ENXIO if nobody reads.
        """
        cdef Request request = new_request(WRITE_FILE, path, user_data)
        cdef int directory = number_of(dir_fd, request)
        encoded = encode(path)
        lend(request, data)
        cdef io_request *r = self._request(room_for(encoded))
        fill_write_file(r, encoded, directory, flags, mode)
        r.source = <const char *>request.view.buf
        r.limit = request.view.len
        return self._submit(r, request)

    def read(self, fd, Py_ssize_t length, offset=None, *, user_data=None):
        """Read up to ``length`` bytes at ``offset``, or where the file is.  Its value is bytes.

        At an offset fewer only at the end of the file; without one, as os.read.
        """
        cdef Request request = new_request(READ, None, user_data)
        cdef int number = fd_of(fd)
        cdef int64_t at = offset_of(offset)
        cdef io_request *r
        if length < 0:
            raise ValueError("length must not be negative")
        request.keep = PyBytes_FromStringAndSize(NULL, length)
        r = self._request()
        fill_transfer(r, OP_READ, number, PyBytes_AS_STRING(request.keep), length, at)
        return self._submit(r, request)

    def write(self, fd, data, offset=None, *, user_data=None):
        """Write all of ``data`` at ``offset``, or where the file is.  Its value is how many bytes.

        Without an offset it may be fewer, as os.write.  The buffer cannot be resized until the
        request is answered.
        """
        cdef Request request = new_request(WRITE, None, user_data)
        cdef int number = fd_of(fd)
        cdef int64_t at = offset_of(offset)
        cdef io_request *r
        lend(request, data)
        r = self._request()
        fill_transfer(r, OP_WRITE, number, request.view.buf, request.view.len, at)
        return self._submit(r, request)

    def unlink(self, path, *, dir_fd=None, user_data=None):
        """Remove a file, as os.unlink.  Its value is None."""
        return self._submit_path(UNLINK, path, dir_fd, 0, 0, user_data)

    def mkdir(self, path, mode_t mode=0o777, *, dir_fd=None, user_data=None):
        """Make a directory, as os.mkdir.  Its value is None."""
        return self._submit_path(MKDIR, path, dir_fd, 0, mode, user_data)

    def rmdir(self, path, *, dir_fd=None, user_data=None):
        """Remove an empty directory, as os.rmdir.  Its value is None."""
        return self._submit_path(RMDIR, path, dir_fd, 0, 0, user_data)

    def rename(self, src, dst, *, src_dir_fd=None, dst_dir_fd=None, user_data=None):
        """Rename, replacing what is there, as os.rename.  Its value is None."""
        return self._submit_paths(RENAME, src, src_dir_fd, dst, dst_dir_fd, 0, user_data)

    def link(self, src, dst, *, src_dir_fd=None, dst_dir_fd=None, bint follow_symlinks=True,
             user_data=None):
        """Make another name for a file, as os.link.  Its value is None."""
        return self._submit_paths(LINK, src, src_dir_fd, dst, dst_dir_fd,
                                  AT_SYMLINK_FOLLOW if follow_symlinks else 0, user_data)

    def symlink(self, src, dst, *, dir_fd=None, user_data=None):
        """Make a symbolic link ``dst`` to ``src``, as os.symlink.  Its value is None."""
        return self._submit_paths(SYMLINK, src, None, dst, dir_fd, 0, user_data)

    def readlink(self, path, *, dir_fd=None, user_data=None):
        """Ask where a symbolic link leads.  Its value is a str, or bytes if ``path`` is."""
        return self._submit_path(READLINK, path, dir_fd, 0, 0, user_data)

    def fsync(self, fd, *, bint data_only=False, user_data=None):
        """Wait until a file is on the disk; ``data_only`` is fdatasync.  Its value is None."""
        cdef Request request = new_request(FSYNC, None, user_data)
        cdef int number = fd_of(fd)
        cdef io_request *r = self._request()
        cdef op *o = begin(r, IO_ATTEMPT, OP_FSYNC)
        o.fd = number
        o.flags = URING_FSYNC_DATASYNC if data_only else 0
        return self._submit(r, request)

    def fadvise(self, fd, int64_t offset, uint64_t length, int advice, *, user_data=None):
        """Announce how a file will be read, as os.posix_fadvise.  Its value is None."""
        cdef Request request = new_request(FADVISE, None, user_data)
        cdef int number = fd_of(fd)
        cdef io_request *r = self._request()
        cdef op *o = begin(r, IO_ATTEMPT, OP_FADVISE)
        o.fd = number
        o.off = offset
        o.len = length
        o.flags = advice
        return self._submit(r, request)

    def getxattr(self, path, attribute, *, bint follow_symlinks=True, user_data=None):
        """Ask for an extended attribute, as os.getxattr; ``path`` may be a descriptor.  Bytes."""
        return self._submit_xattr(GETXATTR, path, attribute, None, follow_symlinks, 0, user_data)

    def setxattr(self, path, attribute, value, int flags=0, *, bint follow_symlinks=True,
                 user_data=None):
        """Set an extended attribute, as os.setxattr.  Its value is None."""
        return self._submit_xattr(SETXATTR, path, attribute, value, follow_symlinks, flags,
                                  user_data)

    def listxattr(self, path=".", *, bint follow_symlinks=True, user_data=None):
        """Ask for the names of the extended attributes.  Its value is a list of str."""
        return self._submit_xattr(LISTXATTR, path, "", None, follow_symlinks, 0, user_data)

    def removexattr(self, path, attribute, *, bint follow_symlinks=True, user_data=None):
        """Remove an extended attribute, as os.removexattr.  Its value is None."""
        return self._submit_xattr(REMOVEXATTR, path, attribute, None, follow_symlinks, 0,
                                  user_data)

    cdef Request _submit_path(self, What what, path, dir_fd, uint32_t flags, uint64_t mode,
                              user_data):
        cdef Request request = new_request(what, path, user_data)
        cdef int directory = number_of(dir_fd, request)
        encoded = encode_path_or_fd(path, &directory) if what == STAT else encode(path)
        cdef io_request *r = self._request(room_for_path(what, encoded))
        fill_path(r, what, encoded, directory, flags, mode)
        return self._submit(r, request)

    cdef Request _submit_paths(self, What what, src, src_dir_fd, dst, dst_dir_fd, uint32_t flags,
                               user_data):
        cdef Request request = new_request(what, src, user_data)
        cdef int from_fd = number_of(src_dir_fd, request)
        cdef int to_fd = number_of(dst_dir_fd, request)
        request.path2 = dst
        request.keep = (src_dir_fd, dst_dir_fd)
        first, second = encode(src), encode(dst)
        cdef io_request *r = self._request(room_for(first) + room_for(second))
        fill_paths(r, what, first, from_fd, second, to_fd, flags)
        return self._submit(r, request)

    cdef Request _submit_xattr(self, What what, path, attribute, value, bint follow_symlinks,
                               int flags, user_data):
        cdef Request request = new_request(what, path, user_data)
        cdef int fd = AT_FDCWD
        first, second = encode_path_or_fd(path, &fd), encode(attribute)
        if value is not None:
            lend(request, value)
        cdef io_request *r = self._request(room_for(first) + room_for(second) + XATTR_SPACE)
        fill_xattr(r, what, first, fd, second, follow_symlinks, flags)
        if value is not None:
            r.op.iov.iov_base = request.view.buf
            r.op.iov.iov_len = request.view.len
        return self._submit(r, request)

    def flush(self):
        """Hand over what was submitted.  Not a switch point.

        Requests travel in batches of eight; popping, draining and closing flush by themselves.
        """
        self._check_open()
        io_client_flush(&self.main.c)

    # ---- many at once ----

    def stat_many(self, paths, *, dir_fd=None, bint follow_symlinks=True,
                  uint32_t mask=BASIC_STATS, bint return_errors=False):
        """Return the StatResults of many paths or descriptors, in their order.

        The first failure ends the call and is raised, once what had begun is over; with
        ``return_errors`` it stands in its place in the list.  Answers to other requests are left
        alone.  Parks only the fiber, or releases the GIL.  A switch and cancellation point.
        """
        return self._run_many(STAT, paths, dir_fd, follow_symlinks, mask, return_errors)

    def read_files(self, paths, *, dir_fd=None, max_bytes=None, bint return_errors=False):
        """Return the contents of many files, in the paths' order.  Else as `stat_many`."""
        return self._run_many(READ_FILE, paths, dir_fd, 0, limit_of(max_bytes), return_errors)

    def iter_files(self, paths, *, dir_fd=None, max_bytes=None, bint return_errors=False):
        """Return an iterator over (path, contents), in the order in which they come.

        Holds no more than a few hundred files at a time.  The first failure is raised when all that
        had begun is over; with ``return_errors`` it stands in the place of the contents.  Parks
        only the fiber, or releases the GIL.  Each step may be a switch and cancellation point.
        """
        return results_of(self._bulk(READ_FILE, paths, dir_fd, 0, limit_of(max_bytes),
                                     return_errors))

    def write_files(self, files, *, int flags=O_CREAT | O_TRUNC, mode_t mode=0o666, dir_fd=None,
                    bint return_errors=False):
        """Write many files, given as (path, data); return their sizes.  Else as `stat_many`."""
        return self._run_many(WRITE_FILE, files, dir_fd, flags, mode, return_errors)

    def unlink_many(self, paths, *, dir_fd=None, bint return_errors=False):
        """Remove many files; return a list of None.  Else as `stat_many`."""
        return self._run_many(UNLINK, paths, dir_fd, 0, 0, return_errors)

    cdef list _run_many(self, What what, items, dir_fd, uint32_t flags, uint64_t mode,
                        bint return_errors):
        return self._bulk(what, items, dir_fd, flags, mode, return_errors).run()

    cdef Bulk _bulk(self, What what, items, dir_fd, uint32_t flags, uint64_t mode,
                    bint return_errors):
        cdef Bulk bulk = Bulk.__new__(Bulk)
        self._check_open()
        check_cancelled()
        bulk.queue = self
        bulk.what = what
        bulk.items = items if type(items) in (list, tuple) else list(items)
        bulk.directory = number_of(dir_fd, None)
        bulk.flags = flags
        bulk.mode = mode
        bulk.return_errors = return_errors
        return bulk

    cdef Client _take_client(self):
        cdef Client client
        self._reap_orphans()
        if self.spare:
            try:
                return self.spare.pop()
            except IndexError:
                pass  # another thread was faster
        client = Client.__new__(Client)
        client.open(&self.q, BULK_WINDOW)
        self.clients.append(client)
        return client

    cdef int _reap_orphans(self) except -1:
        """The clients of calls that were broken off, once all is answered."""
        cdef Client client
        cdef list busy = []
        while self.orphans:
            try:
                client = self.orphans.pop()
            except IndexError:
                break
            self._discard_answers(client)
            if client.in_flight():
                busy.append(client)
            else:
                client.c.cancelled = False
                self.spare.append(client)
        self.orphans += busy
        return 0

    # ---- answers ----

    def pop(self, bint block=True, timeout=None):
        """Return an answered request, the oldest; None if nothing is in flight.

        Without ``block`` also None when none is answered yet.  TimeoutError after ``timeout``
        seconds.  Parks only the fiber, or releases the GIL.  A switch and cancellation point if it
        blocks.
        """
        found = self._pop(1, 1, block, timeout)
        return found[0] if found else None

    def pop_many(self, Py_ssize_t n, bint block=True, timeout=None):
        """Return up to ``n`` answered requests, the oldest first; at least one, if it blocks.

        An empty list means that nothing is in flight, or without ``block`` that nothing is answered
        yet.  TimeoutError after ``timeout`` seconds.  A switch and cancellation point if it blocks.
        """
        if n < 1:
            raise ValueError("n must be at least 1")
        return self._pop(n, 1, block, timeout)

    def drain(self, timeout=None):
        """Wait until all that was submitted is answered; return what has not been popped.

        TimeoutError after ``timeout`` seconds; then nothing is lost.  A switch and cancellation
        point.
        """
        cdef Client client
        self._check_open()
        client = self.main
        return self._pop(PY_SSIZE_T_MAX, client.c.submitted - client.c.popped, True, timeout)

    cdef list _pop(self, Py_ssize_t most, uint64_t wanted, bint block, timeout):
        cdef int64_t deadline = deadline_after(timeout) if timeout is not None else 0
        cdef bint waited = False
        cdef list found
        self._check_open()
        if block:
            check_cancelled()
        while True:
            if not block or wanted <= 1 or not self._lacks(wanted):
                found = self._take(self.main, most)
                if waited:
                    io_client_pass_on(&self.main.c)
                if found or not block or not self.main.in_flight():
                    break
            if not self._wait(self.main, wanted, deadline):
                raise TimeoutError("no answer in time")
            waited = True
            self._check_open()
        if block and not waited:
            spend_budget()
        return found

    cdef bint _lacks(self, uint64_t wanted) noexcept:
        cdef uint64_t submitted = self.main.c.submitted, popped = self.main.c.popped
        cdef uint64_t answered = max(io_client_completed(&self.main.c), popped)
        return answered < submitted and answered - popped < wanted

    cdef list _take(self, Client client, Py_ssize_t most):
        cdef io_request *out[POPPED_AT_ONCE]
        cdef uint32_t n, i
        cdef list found = []
        while len(found) < most:
            n = io_client_pop(&client.c, out, <uint32_t>min(most - len(found), POPPED_AT_ONCE))
            for i in range(n):
                try:
                    found.append(self._finish(client, out[i]))
                except BaseException:
                    put_back(client, out + i, n - i)
                    if found:
                        return found
                    raise
            if n == 0:
                break
        return found

    cdef Request _finish(self, Client client, io_request *r):
        cdef Request request = client.held[r.op.index]
        finish(request, r)
        client.held[r.op.index] = None
        io_client_free(&client.c, r)
        return request

    # ---- waiting ----

    cdef bint _wait(self, Client client, uint64_t wanted, int64_t deadline) except -1:
        """Until so many are answered, or all, or something else has happened; False: too late."""
        cdef bint in_time = False
        cdef int fd = client.c.event.fd
        if not io_client_begin_wait(&client.c, wanted):
            return True
        try:
            in_time = wait_for_event(fd, deadline)
        except BaseException:
            io_client_end_wait(&client.c)
            io_client_pass_on(&client.c)
            raise
        io_client_end_wait(&client.c)
        return in_time

    # ---- the end ----

    def cancel(self):
        """Answer with InterruptedError (EINTR) what has not begun, and whatever comes from now on.

        Closes are carried out all the same; an open that comes to its end later is closed again.
        What runs goes on.  Not a switch point; from any thread, any number of times.
        """
        self._check_open()
        io_client_flush(&self.main.c)
        io_queue_cancel(&self.q)

    def close(self):
        """Cancel, end the threads, and close what was opened and nobody popped.  Idempotent.

        Calls that wait for somebody else (a FIFO's open) are interrupted.  Parks only the fiber;
        never raises Cancelled.
        """
        if self.main is None or not self._claim_end():
            return
        open_queues.discard(self)
        if self.dead:
            return
        io_client_flush(&self.main.c)
        io_queue_cancel(&self.q)
        io_client_signal(&self.main.c)
        self._await_workers()
        with nogil:
            io_queue_close(&self.q)
        self.is_running = False
        self._discard()

    cdef bint _claim_end(self) noexcept:
        """Whether nobody has closed it before."""
        mutex_lock(&self.guard)
        cdef bint first = not self.closed_
        self.closed_ = True
        mutex_unlock(&self.guard)
        return first

    cdef int _await_workers(self) except -1:
        cdef int64_t pause_ns = 50_000
        while io_queue_alive(&self.q):
            io_queue_interrupt(&self.q)
            pause(pause_ns)
            pause_ns = min(2 * pause_ns, LONGEST_PAUSE_NS)
        return 0

    cdef int _discard(self) except -1:
        cdef Client client
        for client in [self.main, *self.clients]:
            self._discard_answers(client)
            io_client_retire(&client.c)
        return 0

    cdef int _discard_answers(self, Client client) except -1:
        cdef io_request *r
        while io_client_pop(&client.c, &r, 1):
            io_request_discard(r)
            self._drop(client, r)
        return 0

    cdef int _drop(self, Client client, io_request *r) except -1:
        held = client.held[r.op.index]
        client.held[r.op.index] = None
        if isinstance(held, Request):
            interrupt(<Request>held, r)
        io_client_free(&client.c, r)
        return 0

    def __del__(self):
        # By the collector: nothing may switch, and nobody asked to be blocked for long.
        if not self.is_running or self.dead or not self._claim_end():
            return
        try:
            warnings.warn(f"unclosed I/O queue ({self.main.in_flight()} requests in flight): call "
                          "close() or use it as a context manager", ResourceWarning, source=self)
        finally:
            self._close_at_once()

    cdef int _close_at_once(self) except -1:
        cdef int tries = 0
        io_client_flush(&self.main.c)
        io_queue_cancel(&self.q)
        with nogil:
            while io_queue_alive(&self.q) and tries < 100:
                io_queue_interrupt(&self.q)
                usleep(1000)
                tries += 1
        if io_queue_alive(&self.q):
            Py_INCREF(self)  # what a thread still works for is kept for ever
            return 0
        io_queue_close(&self.q)
        self.is_running = False
        self._discard()
        return 0

    cdef int _abandon(self) except -1:
        """In a forked child, whose copies of the locks may be held for ever."""
        cdef Client client
        self.dead = True
        io_queue_abandon(&self.q)
        for client in [self.main, *self.clients]:
            client.is_open = False
            event_close(&client.c.event)
        return 0


def _after_fork_in_child():
    cdef IOQueue queue
    for queue in list(open_queues):
        queue._abandon()


include "queue/io_queue_bulk.pxi"


def _close_all():
    for queue in list(open_queues):
        queue.close()


cdef object open_queues = weakref.WeakSet()
atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)

for made_here in (Request, OpenDirectory, Client, Bulk, Results):
    forbid_making(<PyTypeObject *>made_here)
del made_here
