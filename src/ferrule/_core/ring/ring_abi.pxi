# What ring.pyx uses of C: the ABI and the ring (ours), and a few calls of the C library.
from libc.stdint cimport (int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t,
                          uintptr_t)

cdef extern from "made_here.h":
    int forbid_making(PyTypeObject *type) except -1

cdef extern from "<errno.h>" nogil:
    enum:
        ECANCELED

cdef extern from "uring_abi.h" nogil:
    struct uring_sqe:
        uint8_t opcode
        uint8_t flags
        uint16_t ioprio
        int32_t fd
        uint64_t off
        uint64_t addr
        uint32_t len
        uint32_t op_flags
        uint64_t user_data
        uint16_t buf_index
        uint16_t personality
        uint32_t file_index
        uint64_t addr3
        # other names of the same places
        uint32_t cmd_op
        uint32_t level
        uint32_t optname
        uint64_t optval
        uint32_t optlen
        uint16_t addr_len
        uint32_t zcrx_ifq_idx

    struct uring_cqe:
        uint64_t user_data
        int32_t res
        uint32_t flags

    struct uring_params:
        uint32_t sq_entries
        uint32_t cq_entries
        uint32_t flags
        uint32_t sq_thread_cpu
        uint32_t sq_thread_idle
        uint32_t features
        uint32_t wq_fd
        uint32_t resv[3]

    struct uring_timespec:
        int64_t tv_sec
        int64_t tv_nsec

    struct uring_getevents_arg:
        uint64_t sigmask
        uint32_t sigmask_sz
        uint32_t min_wait_usec
        uint64_t ts

    struct uring_reg_wait:
        uring_timespec ts
        uint32_t min_wait_usec
        uint32_t flags
        uint64_t sigmask
        uint32_t sigmask_sz

    struct uring_region_desc:
        uint64_t user_addr
        uint64_t size
        uint32_t flags

    struct uring_mem_region_reg:
        uint64_t region_uptr
        uint64_t flags

    struct uring_restriction:
        uint16_t opcode
        uint8_t arg

    struct uring_napi:
        uint32_t busy_poll_to
        uint8_t prefer_busy_poll
        uint8_t opcode
        uint32_t op_param

    struct uring_buf:
        uint64_t addr
        uint32_t len
        uint16_t bid
        uint16_t resv

    struct uring_buf_reg:
        uint64_t ring_addr
        uint32_t ring_entries
        uint16_t bgid
        uint16_t flags

    struct uring_buf_status:
        uint32_t buf_group
        uint32_t head

    struct uring_rsrc_update:
        uint32_t offset
        uint64_t data

    struct uring_rsrc_register:
        uint32_t nr
        uint32_t flags
        uint64_t data
        uint64_t tags

    struct uring_rsrc_update2:
        uint32_t offset
        uint64_t data
        uint64_t tags
        uint32_t nr

    struct uring_clone_buffers:
        uint32_t src_fd
        uint32_t flags
        uint32_t src_off
        uint32_t dst_off
        uint32_t nr

    struct uring_file_index_range:
        uint32_t off
        uint32_t len

    struct uring_sync_cancel_reg:
        uint64_t addr
        int32_t fd
        uint32_t flags
        uring_timespec timeout
        uint8_t opcode

    struct uring_query_hdr:
        uint64_t query_data
        uint32_t query_op
        uint32_t size
        int32_t result

    struct uring_query_opcodes:
        uint32_t nr_request_opcodes
        uint32_t nr_register_opcodes
        uint64_t feature_flags
        uint64_t ring_setup_flags
        uint64_t enter_flags
        uint64_t sqe_flags
        uint32_t nr_query_opcodes

    struct uring_recvmsg_out:
        uint32_t namelen
        uint32_t controllen
        uint32_t payloadlen
        uint32_t flags

    struct uring_probe_op:
        uint8_t op
        uint16_t flags

    struct uring_probe:
        uint8_t last_op
        uint8_t ops_len
        uring_probe_op ops[256]

    enum:
        URING_OFF_SQ_RING, URING_OFF_CQ_RING, URING_OFF_SQES, URING_OFF_PBUF_RING
        URING_SETUP_IOPOLL
        URING_SETUP_SQPOLL, URING_SETUP_SQ_AFF, URING_SETUP_CQSIZE, URING_SETUP_CLAMP
        URING_SETUP_ATTACH_WQ, URING_SETUP_R_DISABLED, URING_SETUP_SUBMIT_ALL
        URING_SETUP_COOP_TASKRUN, URING_SETUP_TASKRUN_FLAG, URING_SETUP_SQE128, URING_SETUP_CQE32
        URING_SETUP_SINGLE_ISSUER, URING_SETUP_DEFER_TASKRUN, URING_SETUP_NO_MMAP
        URING_SETUP_REGISTERED_FD_ONLY, URING_SETUP_NO_SQARRAY, URING_SETUP_HYBRID_IOPOLL
        URING_SETUP_CQE_MIXED, URING_SETUP_SQE_MIXED, URING_SETUP_SQ_REWIND
        URING_FEAT_SINGLE_MMAP, URING_FEAT_NODROP, URING_FEAT_SUBMIT_STABLE, URING_FEAT_RW_CUR_POS
        URING_FEAT_CUR_PERSONALITY, URING_FEAT_FAST_POLL, URING_FEAT_POLL_32BITS
        URING_FEAT_SQPOLL_NONFIXED, URING_FEAT_EXT_ARG, URING_FEAT_NATIVE_WORKERS
        URING_FEAT_RSRC_TAGS, URING_FEAT_CQE_SKIP, URING_FEAT_LINKED_FILE, URING_FEAT_REG_REG_RING
        URING_FEAT_RECVSEND_BUNDLE, URING_FEAT_MIN_TIMEOUT, URING_FEAT_RW_ATTR
        URING_FEAT_NO_IOWAIT, URING_ENTER_GETEVENTS, URING_ENTER_SQ_WAKEUP, URING_ENTER_SQ_WAIT
        URING_ENTER_EXT_ARG, URING_ENTER_REGISTERED_RING, URING_ENTER_ABS_TIMER
        URING_ENTER_EXT_ARG_REG, URING_ENTER_NO_IOWAIT, URING_SQ_NEED_WAKEUP, URING_SQ_CQ_OVERFLOW
        URING_SQ_TASKRUN, URING_CQ_EVENTFD_DISABLED, URING_SQE_FIXED_FILE, URING_SQE_IO_DRAIN
        URING_SQE_IO_LINK, URING_SQE_IO_HARDLINK, URING_SQE_ASYNC, URING_SQE_BUFFER_SELECT
        URING_SQE_CQE_SKIP_SUCCESS, URING_CQE_F_BUFFER, URING_CQE_F_MORE
        URING_CQE_F_SOCK_NONEMPTY, URING_CQE_F_NOTIF, URING_CQE_F_BUF_MORE, URING_CQE_F_SKIP
        URING_CQE_F_32, URING_CQE_BUFFER_SHIFT, URING_FSYNC_DATASYNC, URING_TIMEOUT_ABS
        URING_TIMEOUT_UPDATE, URING_TIMEOUT_BOOTTIME, URING_TIMEOUT_REALTIME
        URING_LINK_TIMEOUT_UPDATE, URING_TIMEOUT_ETIME_SUCCESS, URING_TIMEOUT_MULTISHOT
        URING_POLL_ADD_MULTI, URING_POLL_UPDATE_EVENTS, URING_POLL_UPDATE_USER_DATA
        URING_POLL_ADD_LEVEL, URING_CANCEL_ALL, URING_CANCEL_FD, URING_CANCEL_ANY
        URING_CANCEL_FD_FIXED, URING_CANCEL_USERDATA, URING_CANCEL_OP, URING_RECVSEND_POLL_FIRST
        URING_RECV_MULTISHOT, URING_RECVSEND_FIXED_BUF, URING_SEND_ZC_REPORT_USAGE
        URING_RECVSEND_BUNDLE, URING_ACCEPT_MULTISHOT, URING_ACCEPT_DONTWAIT
        URING_ACCEPT_POLL_FIRST, URING_MSG_DATA, URING_MSG_SEND_FD, URING_MSG_RING_CQE_SKIP
        URING_MSG_RING_FLAGS_PASS, URING_FILE_INDEX_ALLOC, URING_RSRC_REGISTER_SPARSE
        URING_REGISTER_FILES_SKIP, URING_REGISTER_SRC_REGISTERED, URING_REGISTER_DST_REPLACE
        URING_PBUF_MMAP, URING_PBUF_INC, URING_REGISTER_BUFFERS
        URING_UNREGISTER_BUFFERS, URING_REGISTER_FILES, URING_UNREGISTER_FILES
        URING_REGISTER_EVENTFD, URING_UNREGISTER_EVENTFD, URING_REGISTER_FILES_UPDATE
        URING_REGISTER_EVENTFD_ASYNC, URING_REGISTER_PROBE, URING_REGISTER_PERSONALITY
        URING_UNREGISTER_PERSONALITY, URING_REGISTER_RESTRICTIONS, URING_REGISTER_ENABLE_RINGS
        URING_REGISTER_FILES2, URING_REGISTER_FILES_UPDATE2, URING_REGISTER_BUFFERS2
        URING_REGISTER_BUFFERS_UPDATE, URING_REGISTER_IOWQ_AFF, URING_UNREGISTER_IOWQ_AFF
        URING_REGISTER_IOWQ_MAX_WORKERS, URING_REGISTER_RING_FDS, URING_UNREGISTER_RING_FDS
        URING_REGISTER_PBUF_RING, URING_UNREGISTER_PBUF_RING, URING_REGISTER_SYNC_CANCEL
        URING_REGISTER_FILE_ALLOC_RANGE, URING_REGISTER_PBUF_STATUS, URING_REGISTER_NAPI
        URING_UNREGISTER_NAPI, URING_REGISTER_CLOCK, URING_REGISTER_CLONE_BUFFERS
        URING_REGISTER_SEND_MSG_RING, URING_REGISTER_ZCRX_IFQ, URING_REGISTER_RESIZE_RINGS
        URING_REGISTER_MEM_REGION, URING_REGISTER_QUERY, URING_REGISTER_USE_REGISTERED_RING
        URING_MAX_CQ_ENTRIES, URING_QUERY_OPCODES, URING_REG_WAIT_TS
        URING_MEM_REGION_TYPE_USER, URING_MEM_REGION_REG_WAIT_ARG, URING_RESTRICTION_REGISTER_OP
        URING_RESTRICTION_SQE_OP, URING_RESTRICTION_SQE_FLAGS_ALLOWED
        URING_RESTRICTION_SQE_FLAGS_REQUIRED, URING_NAPI_STATIC_ADD_ID, URING_NAPI_STATIC_DEL_ID
        URING_PROBE_SUPPORTED, URING_OP_NOP, URING_OP_READV, URING_OP_WRITEV, URING_OP_FSYNC
        URING_OP_READ_FIXED, URING_OP_WRITE_FIXED, URING_OP_POLL_ADD, URING_OP_POLL_REMOVE
        URING_OP_SYNC_FILE_RANGE, URING_OP_SENDMSG, URING_OP_RECVMSG, URING_OP_TIMEOUT
        URING_OP_TIMEOUT_REMOVE, URING_OP_ACCEPT, URING_OP_ASYNC_CANCEL, URING_OP_LINK_TIMEOUT
        URING_OP_CONNECT, URING_OP_FALLOCATE, URING_OP_OPENAT, URING_OP_CLOSE
        URING_OP_FILES_UPDATE, URING_OP_STATX, URING_OP_READ, URING_OP_WRITE, URING_OP_FADVISE
        URING_OP_MADVISE, URING_OP_SEND, URING_OP_RECV, URING_OP_OPENAT2, URING_OP_EPOLL_CTL
        URING_OP_SPLICE, URING_OP_PROVIDE_BUFFERS, URING_OP_REMOVE_BUFFERS, URING_OP_TEE
        URING_OP_SHUTDOWN, URING_OP_RENAMEAT, URING_OP_UNLINKAT, URING_OP_MKDIRAT
        URING_OP_SYMLINKAT, URING_OP_LINKAT, URING_OP_MSG_RING, URING_OP_FSETXATTR
        URING_OP_SETXATTR, URING_OP_FGETXATTR, URING_OP_GETXATTR, URING_OP_SOCKET
        URING_OP_URING_CMD, URING_OP_SEND_ZC, URING_OP_SENDMSG_ZC, URING_OP_READ_MULTISHOT
        URING_OP_WAITID, URING_OP_FUTEX_WAIT, URING_OP_FUTEX_WAKE, URING_OP_FUTEX_WAITV
        URING_OP_FIXED_FD_INSTALL, URING_OP_FTRUNCATE, URING_OP_BIND, URING_OP_LISTEN
        URING_OP_RECV_ZC, URING_OP_EPOLL_WAIT, URING_OP_READV_FIXED, URING_OP_WRITEV_FIXED
        URING_OP_PIPE, URING_OP_NOP128

    enum:
        URING_SEND_VECTORIZED, URING_NOTIF_USAGE_ZC_COPIED, URING_SOCKET_SIOCINQ
        URING_SOCKET_SIOCOUTQ, URING_SOCKET_GETSOCKOPT, URING_SOCKET_SETSOCKOPT
        URING_SOCKET_TX_TIMESTAMP, URING_SOCKET_GETSOCKNAME, URING_CQE_F_TSTAMP_HW
        URING_TIMESTAMP_TYPE_SHIFT

cdef extern from "ring.h" nogil:
    struct ring:
        int fd
        int enter_fd
        uint32_t enter_flags
        uint32_t setup_flags
        uint32_t features
        uint8_t sqe_shift
        uint8_t cqe_shift
        bint wide
        uint8_t flags_used
        uint32_t sqe_head
        uint32_t sqe_tail
        uint32_t sq_mask
        uint32_t sq_entries
        uint32_t *sq_khead
        uint32_t *sq_ktail
        uint32_t *sq_kdropped
        uring_sqe *sqes
        uint32_t cq_mask
        uint32_t cq_entries
        uint32_t *cq_khead
        uint32_t *cq_ktail
        uint32_t *cq_koverflow
        uint32_t *cq_kflags
        uring_cqe *cqes
        void *ring_map
        void *sqes_map

    int ring_sys_register(int fd, uint32_t opcode, void *arg, uint32_t nr_args)
    bint ring_is_open(const ring *r)
    int ring_open(ring *r, uint32_t entries, uring_params *p)
    int ring_resize(ring *r, uring_params *p)
    void ring_close(ring *r)
    uint32_t ring_sq_ready(const ring *r)
    uint32_t ring_cq_ready(const ring *r)
    uring_sqe *ring_sqe_at(const ring *r, uint32_t position)
    void ring_clear_sqe(const ring *r, uring_sqe *sqe)
    uring_sqe *ring_get_sqe(ring *r)
    uint32_t ring_flush(ring *r)
    uint32_t ring_sq_flags(const ring *r)
    int ring_enter(ring *r, uint32_t to_submit, uint32_t wait_nr, uint32_t flags,
                   const uring_timespec *ts)
    int ring_enter_arg(ring *r, uint32_t to_submit, uint32_t wait_nr, uint32_t flags,
                       const void *arg, size_t size)
    int ring_register(ring *r, uint32_t opcode, void *arg, uint32_t nr_args)
    bint ring_cqe_is_big(const ring *r, const uring_cqe *cqe)
    uring_cqe *ring_next_cqe(const ring *r, uint32_t *head, uint32_t tail)
    void ring_drop_fillers(ring *r)
    uint32_t ring_take_cqe(ring *r, uring_cqe *out, uint64_t (*big)[2])
    uint32_t ring_copy_cqes(ring *r, uring_cqe *out, uint32_t max)
    int ring_register_own_fd(ring *r)
    int ring_unregister_own_fd(ring *r)

cdef extern from "ring_fork.h" nogil:
    struct open_ring:
        int fd
    void fork_add(open_ring *node, int fd)
    void fork_remove(open_ring *node)
    int fork_watch()
    uint32_t fork_epoch

cdef extern from "ring_thread.h" nogil:
    struct ring_thread:
        unsigned long ident
    ring_thread *ring_this_thread
    ring_thread *ring_thread_take()
    void ring_thread_drop(ring_thread *thread)
    bint ring_thread_has_ended(const ring_thread *thread)
    int ring_thread_watch()

cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <fcntl.h>
    #include <net/if.h>
    #include <netinet/in.h>
    #include <poll.h>
    #include <structmember.h>
    #include <signal.h>
    #include <sys/epoll.h>
    #include <sys/mman.h>
    #include <sys/socket.h>
    #include <sys/stat.h>
    #include <sys/sysmacros.h>
    #include <sys/uio.h>
    #include <sys/un.h>
    #include <time.h>

    #ifdef Py_GIL_DISABLED
    #define FE_FREE_THREADED 1
    #else
    #define FE_FREE_THREADED 0
    #endif

    /* The tail of a provided-buffer ring lies in the last two bytes of its first entry. */
    static inline void fe_publish_buffers(struct uring_buf *bufs, uint16_t tail) {
        __atomic_store_n(&bufs[0].resv, tail, __ATOMIC_RELEASE);
    }
    static inline void fe_store_release(uint32_t *p, uint32_t v) {
        __atomic_store_n(p, v, __ATOMIC_RELEASE);
    }
    static inline uint32_t fe_load_acquire(const uint32_t *p) {
        return __atomic_load_n(p, __ATOMIC_ACQUIRE);
    }
    /* SQPOLL: the SQ tail must be visible before NEED_WAKEUP is read. */
    static inline void fe_full_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

    /* The kernel takes the poll mask as two halves, low half first, on every machine. */
    static inline uint32_t fe_poll_word(uint32_t mask) {
    #if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        mask = (mask << 16) | (mask >> 16);
    #endif
        return mask;
    }

    /* struct futex_waitv, which older headers lack. */
    struct futex_wait_entry { uint64_t value, address; uint32_t flags, reserved; };

    /* Borrowed, which Cython's own Py_buffer.obj is not. */
    static inline PyObject *fe_exporter(const Py_buffer *view) { return view->obj; }

    /* Borrowed: the exporter behind a memoryview. */
    static inline PyObject *fe_memoryview_base(PyObject *memory) {
        return PyMemoryView_GET_BASE(memory);
    }

    /* Members of CQE that Cython would make properties. */
    static PyMemberDef fe_user_data = {
        "user_data", T_OBJECT_EX, 0, READONLY,
        "The object given when the operation was prepared."};
    static PyMemberDef fe_res = {
        "res", T_OBJECT_EX, 0, READONLY, "The result; below 0 it is -errno."};
    static inline int fe_add_member(PyTypeObject *type, PyMemberDef *member, Py_ssize_t offset) {
        member->offset = offset;
        PyObject *descriptor = PyDescr_NewMember(type, member);
        if (!descriptor) return -1;
        int failed = PyDict_SetItemString(type->tp_dict, member->name, descriptor);
        Py_DECREF(descriptor);
        PyType_Modified(type);
        return failed;
    }

    static inline int64_t fe_monotonic_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    """
    int EOWNERDEAD
    bint FE_FREE_THREADED
    void fe_publish_buffers(uring_buf *bufs, uint16_t tail) noexcept nogil
    void fe_store_release(uint32_t *p, uint32_t v) noexcept nogil
    uint32_t fe_load_acquire(const uint32_t *p) noexcept nogil
    void fe_full_fence() noexcept nogil
    uint32_t fe_poll_word(uint32_t mask) noexcept nogil
    PyObject *fe_exporter(const Py_buffer *view) noexcept nogil
    PyObject *fe_memoryview_base(object memory) noexcept
    bint PyMemoryView_Check(object) noexcept
    ctypedef struct PyMemberDef:
        pass
    PyMemberDef fe_user_data, fe_res
    int fe_add_member(PyTypeObject *type, PyMemberDef *member, Py_ssize_t offset) except -1
    int64_t fe_monotonic_ns() noexcept nogil

    int PyObject_AsFileDescriptor(object) except -1
    int PyErr_ResourceWarning(object source, Py_ssize_t stack_level,
                              const char *format, ...) except -1

    ctypedef uint32_t socklen_t
    ctypedef unsigned short sa_family_t
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        pass
    struct sockaddr_in:
        sa_family_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        sa_family_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    struct sockaddr_un:
        sa_family_t sun_family
        char sun_path[108]
    struct sockaddr_storage:
        sa_family_t ss_family
    enum:
        CLOCK_MONOTONIC, CLOCK_BOOTTIME
    enum:
        AF_UNIX, AF_INET, AF_INET6, MSG_NOSIGNAL, SOL_SOCKET, SCM_RIGHTS
    uint16_t htons(uint16_t) noexcept nogil
    uint16_t ntohs(uint16_t) noexcept nogil
    uint32_t htonl(uint32_t) noexcept nogil
    uint32_t ntohl(uint32_t) noexcept nogil
    int inet_pton(int family, const char *text, void *out) nogil
    const char *inet_ntop(int family, const void *address, char *out, socklen_t size) nogil
    unsigned int if_nametoindex(const char *name) nogil

    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *m) nogil
    cmsghdr *CMSG_NXTHDR(msghdr *m, cmsghdr *c) nogil
    unsigned char *CMSG_DATA(cmsghdr *c) nogil
    size_t CMSG_SPACE(size_t n) nogil
    size_t CMSG_LEN(size_t n) nogil

    ctypedef struct siginfo_t:
        int si_signo
        int si_code
        int si_pid
        unsigned int si_uid
        int si_status
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    struct futex_wait_entry:
        uint64_t value
        uint64_t address
        uint32_t flags
        uint32_t reserved

    struct pollfd:
        int fd
        short events
        short revents
    enum:
        POLLIN
    int poll(pollfd *fds, unsigned long n, int timeout_ms) nogil

    enum:
        PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MADV_DONTFORK
        MADV_WIPEONFORK, AT_FDCWD, O_CLOEXEC, O_CREAT, O_TMPFILE
    void *MAP_FAILED
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset) nogil
    int munmap(void *addr, size_t length) nogil
    int madvise(void *addr, size_t length, int advice) nogil
    size_t strnlen(const char *text, size_t limit) nogil
    int c_close "close"(int fd) nogil
