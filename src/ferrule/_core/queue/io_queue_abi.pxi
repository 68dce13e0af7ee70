# The engine (io_queue.h), as Cython sees it.

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    object PyUnicode_DecodeFSDefaultAndSize(const char *s, Py_ssize_t size)
    bint PyUnicode_CheckExact(object o)
    bint PyUnicode_IS_COMPACT_ASCII(object o)
    void *PyUnicode_DATA(object o)
    Py_ssize_t PyUnicode_GET_LENGTH(object o)

cdef extern from "made_here.h":
    int forbid_making(PyTypeObject *type) except -1

cdef extern from "system_names.h" nogil:
    int AT_EMPTY_PATH, AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW
    int AT_NO_AUTOMOUNT
    int O_CLOEXEC, O_CREAT, O_DIRECTORY, O_NOCTTY, O_NONBLOCK, O_RDONLY, O_TRUNC, O_WRONLY
    ctypedef unsigned int mode_t
    uint32_t BASIC_STATS "STATX_BASIC_STATS"

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int posix_poll "poll"(pollfd *fds, unsigned long n, int timeout)
    int POLLIN

cdef extern from "<string.h>" nogil:
    int strcmp(const char *a, const char *b)

cdef extern from "<unistd.h>" nogil:
    int posix_close "close"(int fd)
    int usleep(unsigned int microseconds)

cdef extern from "io_request.h" nogil:
    enum io_kind:
        IO_ATTEMPT
        IO_TRANSFER
        IO_READ_FILE
        IO_WRITE_FILE
        IO_OPENDIR
    struct io_request:
        op *op
        int64_t result
        uint64_t done
        uint64_t limit
        const char *source
        char *space
        size_t space_size
        uint8_t kind
        bint at_end
    bint io_request_reserve(io_request *r, size_t size)
    void io_request_discard(io_request *r)

cdef extern from "io_queue.h" nogil:
    enum io_way:
        IO_PLAIN
        IO_CACHED
        IO_RING
    enum:
        IO_FAULT_RING
        IO_FAULT_ENTER
        IO_FAULT_MEMORY
    struct io_counts:
        uint64_t requests, calls, cached, in_ring, enters
    struct io_queue:
        bint cancelled
        int32_t ring_error
        uint32_t rings
    struct io_queue_options:
        uint32_t threads
        uint32_t size
        uint32_t kernel_threads
        uint8_t ways[1]
    int io_queue_open(io_queue *q, const io_queue_options *options)
    void io_queue_cancel(io_queue *q)
    void io_queue_interrupt(io_queue *q)
    uint32_t io_queue_alive(const io_queue *q)
    void io_queue_close(io_queue *q)
    void io_queue_abandon(io_queue *q)
    io_counts io_queue_counts(const io_queue *q)
    int io_queue_inject(io_queue *q, uint32_t kind, uint32_t nth, int32_t error)
    void io_queue_forget_faults(io_queue *q)
    struct event:
        int fd
    void event_close(event *e)
    struct io_client:
        uint64_t submitted
        uint64_t popped
        uint32_t unfreed
        bint cancelled
        event event
    int io_client_open(io_client *c, io_queue *q, uint32_t depth, void (*notify)(void *) noexcept,
                       void *arg)
    void io_client_retire(io_client *c)
    void io_client_close(io_client *c)
    io_request *io_client_request(io_client *c, int *error)
    void io_client_free(io_client *c, io_request *r)
    void io_client_submit(io_client *c, io_request *r)
    void io_client_flush(io_client *c)
    uint32_t io_client_pop(io_client *c, io_request **out, uint32_t most)
    void io_client_unpop(io_client *c, io_request *r)
    bint io_client_begin_wait(io_client *c, uint64_t wanted)
    void io_client_end_wait(io_client *c)
    void io_client_pass_on(io_client *c)
    void io_client_signal(io_client *c)
    void io_client_cancel(io_client *c)
    uint64_t io_client_completed(const io_client *c)

# Fields that workers change are read as they do.
cdef extern from *:
    """
    /* A fresh attempt; what the rest of an op is for no request of a queue uses. */
    static inline struct op *op_begin(struct op *o, uint8_t kind) {
        o->kind = kind;
        o->fd = o->fd2 = -1;
        o->flags = o->mode = 0;
        o->addr = o->addr2 = NULL;
        o->len = 0;
        o->off = -1;
        return o;
    }
    struct linux_dirent64_head {
        uint64_t ino;
        int64_t off;
        unsigned short reclen;
        unsigned char type;
        char name[];
    };
    """
    op *op_begin(op *o, uint8_t kind) nogil
    struct linux_dirent64_head:
        uint64_t ino
        unsigned short reclen
        unsigned char type
        char name[1]
