/* The io_uring ABI in numbers, kernel 6.18 and the headers up to 7.1.
 *
 * Defined here and never taken from <linux/io_uring.h>: the system header is usually older than
 * the kernel that runs.  A number is ABI, so it can be written down once; whether the running
 * kernel honours it is found out by probing.
 */
#ifndef FERRULE_URING_ABI_H
#define FERRULE_URING_ABI_H

#include <stdint.h>

/* The same on every architecture but alpha and the MIPS ABIs, which Ferrule does not support. */
#define FE_SYS_IO_URING_SETUP 425
#define FE_SYS_IO_URING_ENTER 426
#define FE_SYS_IO_URING_REGISTER 427

struct uring_sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t ioprio;
    int32_t fd;
    union { uint64_t off; uint64_t addr2; struct { uint32_t cmd_op; uint32_t pad1; }; };
    union { uint64_t addr; uint64_t splice_off_in; struct { uint32_t level; uint32_t optname; }; };
    uint32_t len;
    uint32_t op_flags;
    uint64_t user_data;
    union { uint16_t buf_index; uint16_t buf_group; };
    uint16_t personality;
    union { int32_t splice_fd_in; uint32_t file_index; uint32_t optlen; uint32_t zcrx_ifq_idx; struct { uint16_t addr_len; uint16_t pad3; }; };
    union { uint64_t addr3; uint64_t optval; };
    uint64_t pad2;
};

struct uring_cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
};

struct uring_sq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1;
    uint64_t user_addr;
};

struct uring_cq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1;
    uint64_t user_addr;
};

struct uring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
    struct uring_sq_offsets sq_off;
    struct uring_cq_offsets cq_off;
};

struct uring_timespec { int64_t tv_sec, tv_nsec; };

struct uring_getevents_arg {
    uint64_t sigmask;
    uint32_t sigmask_sz, min_wait_usec;
    uint64_t ts;
};

struct uring_reg_wait {
    struct uring_timespec ts;
    uint32_t min_wait_usec, flags;
    uint64_t sigmask;
    uint32_t sigmask_sz, pad[3];
    uint64_t pad2[2];
};

struct uring_region_desc {
    uint64_t user_addr, size;
    uint32_t flags, id;
    uint64_t mmap_offset, resv[4];
};

struct uring_mem_region_reg { uint64_t region_uptr, flags, resv[2]; };

struct uring_restriction {
    uint16_t opcode;
    uint8_t arg, resv;
    uint32_t resv2[3];
};

struct uring_napi {
    uint32_t busy_poll_to;
    uint8_t prefer_busy_poll, opcode, pad[2];
    uint32_t op_param, resv;
};

struct uring_buf {
    uint64_t addr;
    uint32_t len;
    uint16_t bid;
    uint16_t resv; /* bufs[0].resv is the ring's tail */
};

struct uring_buf_reg {
    uint64_t ring_addr;
    uint32_t ring_entries;
    uint16_t bgid, flags;
    uint32_t min_left, resv1;
    uint64_t resv[2];
};

struct uring_rsrc_update { uint32_t offset, resv; uint64_t data; };

struct uring_rsrc_register { uint32_t nr, flags; uint64_t resv2, data, tags; };

struct uring_rsrc_update2 { uint32_t offset, resv; uint64_t data, tags; uint32_t nr, resv2; };

struct uring_clone_buffers { uint32_t src_fd, flags, src_off, dst_off, nr, pad[3]; };

struct uring_file_index_range { uint32_t off, len; uint64_t resv; };

struct uring_sync_cancel_reg {
    uint64_t addr;
    int32_t fd;
    uint32_t flags;
    struct uring_timespec timeout; /* both -1: no limit */
    uint8_t opcode, pad[7];
    uint64_t pad2[3];
};

struct uring_buf_status { uint32_t buf_group, head, resv[8]; };

struct uring_query_hdr {
    uint64_t next_entry, query_data;
    uint32_t query_op, size;
    int32_t result;
    uint32_t resv[3];
};

struct uring_query_opcodes {
    uint32_t nr_request_opcodes, nr_register_opcodes;
    uint64_t feature_flags, ring_setup_flags, enter_flags, sqe_flags;
    uint32_t nr_query_opcodes, pad;
};

/* What multishot recvmsg writes before the name, the control data and the payload. */
struct uring_recvmsg_out { uint32_t namelen, controllen, payloadlen, flags; };

struct uring_probe_op { uint8_t op, resv; uint16_t flags; uint32_t resv2; };

struct uring_probe {
    uint8_t last_op, ops_len;
    uint16_t resv;
    uint32_t resv2[3];
    struct uring_probe_op ops[256];
};

_Static_assert(sizeof(struct uring_sqe) == 64, "SQE is 64 bytes");
_Static_assert(sizeof(struct uring_cqe) == 16, "CQE is 16 bytes");
_Static_assert(sizeof(struct uring_params) == 120, "params are 120 bytes");
_Static_assert(sizeof(struct uring_getevents_arg) == 24, "EXT_ARG is 24 bytes");
_Static_assert(sizeof(struct uring_buf) == 16, "a provided buffer is 16 bytes");
_Static_assert(sizeof(struct uring_buf_reg) == 40, "buf_reg is 40 bytes");
_Static_assert(sizeof(struct uring_sync_cancel_reg) == 64, "sync_cancel_reg is 64 bytes");
_Static_assert(sizeof(struct uring_buf_status) == 40, "buf_status is 40 bytes");
_Static_assert(sizeof(struct uring_restriction) == 16, "restriction is 16 bytes");
_Static_assert(sizeof(struct uring_napi) == 16, "napi is 16 bytes");
_Static_assert(sizeof(struct uring_reg_wait) == 64, "reg_wait is 64 bytes");
_Static_assert(sizeof(struct uring_region_desc) == 64, "region_desc is 64 bytes");
_Static_assert(sizeof(struct uring_mem_region_reg) == 32, "mem_region_reg is 32 bytes");
_Static_assert(sizeof(struct uring_query_hdr) == 40, "query_hdr is 40 bytes");
_Static_assert(sizeof(struct uring_query_opcodes) == 48, "query_opcodes is 48 bytes");
_Static_assert(sizeof(struct uring_rsrc_update) == 16, "rsrc_update is 16 bytes");
_Static_assert(sizeof(struct uring_rsrc_register) == 32, "rsrc_register is 32 bytes");
_Static_assert(sizeof(struct uring_rsrc_update2) == 32, "rsrc_update2 is 32 bytes");
_Static_assert(sizeof(struct uring_clone_buffers) == 32, "clone_buffers is 32 bytes");
_Static_assert(sizeof(struct uring_file_index_range) == 16, "file_index_range is 16 bytes");
_Static_assert(sizeof(struct uring_recvmsg_out) == 16, "recvmsg_out is 16 bytes");

#define URING_MAX_ENTRIES 32768u
#define URING_MAX_CQ_ENTRIES 65536u

/* mmap offsets */
#define URING_OFF_SQ_RING 0ULL
#define URING_OFF_CQ_RING 0x8000000ULL
#define URING_OFF_SQES 0x10000000ULL
#define URING_OFF_PBUF_RING 0x80000000ULL

/* ring set-up */
#define URING_SETUP_IOPOLL (1u << 0)
#define URING_SETUP_SQPOLL (1u << 1)
#define URING_SETUP_SQ_AFF (1u << 2)
#define URING_SETUP_CQSIZE (1u << 3)
#define URING_SETUP_CLAMP (1u << 4)
#define URING_SETUP_ATTACH_WQ (1u << 5)
#define URING_SETUP_R_DISABLED (1u << 6)
#define URING_SETUP_SUBMIT_ALL (1u << 7)
#define URING_SETUP_COOP_TASKRUN (1u << 8)
#define URING_SETUP_TASKRUN_FLAG (1u << 9)
#define URING_SETUP_SQE128 (1u << 10)
#define URING_SETUP_CQE32 (1u << 11)
#define URING_SETUP_SINGLE_ISSUER (1u << 12)
#define URING_SETUP_DEFER_TASKRUN (1u << 13)
#define URING_SETUP_NO_MMAP (1u << 14)
#define URING_SETUP_REGISTERED_FD_ONLY (1u << 15)
#define URING_SETUP_NO_SQARRAY (1u << 16)
#define URING_SETUP_HYBRID_IOPOLL (1u << 17)
#define URING_SETUP_CQE_MIXED (1u << 18)
#define URING_SETUP_SQE_MIXED (1u << 19)
#define URING_SETUP_SQ_REWIND (1u << 20)

/* features the kernel reports at set-up */
#define URING_FEAT_SINGLE_MMAP (1u << 0)
#define URING_FEAT_NODROP (1u << 1)
#define URING_FEAT_SUBMIT_STABLE (1u << 2)
#define URING_FEAT_RW_CUR_POS (1u << 3)
#define URING_FEAT_CUR_PERSONALITY (1u << 4)
#define URING_FEAT_FAST_POLL (1u << 5)
#define URING_FEAT_POLL_32BITS (1u << 6)
#define URING_FEAT_SQPOLL_NONFIXED (1u << 7)
#define URING_FEAT_EXT_ARG (1u << 8)
#define URING_FEAT_NATIVE_WORKERS (1u << 9)
#define URING_FEAT_RSRC_TAGS (1u << 10)
#define URING_FEAT_CQE_SKIP (1u << 11)
#define URING_FEAT_LINKED_FILE (1u << 12)
#define URING_FEAT_REG_REG_RING (1u << 13)
#define URING_FEAT_RECVSEND_BUNDLE (1u << 14)
#define URING_FEAT_MIN_TIMEOUT (1u << 15)
#define URING_FEAT_RW_ATTR (1u << 16)
#define URING_FEAT_NO_IOWAIT (1u << 17)

/* io_uring_enter */
#define URING_ENTER_GETEVENTS (1u << 0)
#define URING_ENTER_SQ_WAKEUP (1u << 1)
#define URING_ENTER_SQ_WAIT (1u << 2)
#define URING_ENTER_EXT_ARG (1u << 3)
#define URING_ENTER_REGISTERED_RING (1u << 4)
#define URING_ENTER_ABS_TIMER (1u << 5)
#define URING_ENTER_EXT_ARG_REG (1u << 6)
#define URING_ENTER_NO_IOWAIT (1u << 7)

/* words of the rings */
#define URING_SQ_NEED_WAKEUP (1u << 0)
#define URING_SQ_CQ_OVERFLOW (1u << 1)
#define URING_SQ_TASKRUN (1u << 2)
#define URING_CQ_EVENTFD_DISABLED (1u << 0)

/* SQE flags */
#define URING_SQE_FIXED_FILE (1u << 0)
#define URING_SQE_IO_DRAIN (1u << 1)
#define URING_SQE_IO_LINK (1u << 2)
#define URING_SQE_IO_HARDLINK (1u << 3)
#define URING_SQE_ASYNC (1u << 4)
#define URING_SQE_BUFFER_SELECT (1u << 5)
#define URING_SQE_CQE_SKIP_SUCCESS (1u << 6)

/* CQE flags */
#define URING_CQE_F_BUFFER (1u << 0)
#define URING_CQE_F_MORE (1u << 1)
#define URING_CQE_F_SOCK_NONEMPTY (1u << 2)
#define URING_CQE_F_NOTIF (1u << 3)
#define URING_CQE_F_BUF_MORE (1u << 4)
#define URING_CQE_F_SKIP (1u << 5)
#define URING_CQE_F_32 (1u << 15)
#define URING_CQE_BUFFER_SHIFT 16
#define URING_CQE_F_TSTAMP_HW (1u << 16)
#define URING_TIMESTAMP_TYPE_SHIFT 17

enum uring_op {
    URING_OP_NOP, URING_OP_READV, URING_OP_WRITEV, URING_OP_FSYNC, URING_OP_READ_FIXED,
    URING_OP_WRITE_FIXED, URING_OP_POLL_ADD, URING_OP_POLL_REMOVE, URING_OP_SYNC_FILE_RANGE,
    URING_OP_SENDMSG, URING_OP_RECVMSG, URING_OP_TIMEOUT, URING_OP_TIMEOUT_REMOVE,
    URING_OP_ACCEPT, URING_OP_ASYNC_CANCEL, URING_OP_LINK_TIMEOUT, URING_OP_CONNECT,
    URING_OP_FALLOCATE, URING_OP_OPENAT, URING_OP_CLOSE, URING_OP_FILES_UPDATE, URING_OP_STATX,
    URING_OP_READ, URING_OP_WRITE, URING_OP_FADVISE, URING_OP_MADVISE, URING_OP_SEND,
    URING_OP_RECV, URING_OP_OPENAT2, URING_OP_EPOLL_CTL, URING_OP_SPLICE,
    URING_OP_PROVIDE_BUFFERS, URING_OP_REMOVE_BUFFERS, URING_OP_TEE, URING_OP_SHUTDOWN,
    URING_OP_RENAMEAT, URING_OP_UNLINKAT, URING_OP_MKDIRAT, URING_OP_SYMLINKAT, URING_OP_LINKAT,
    URING_OP_MSG_RING, URING_OP_FSETXATTR, URING_OP_SETXATTR, URING_OP_FGETXATTR,
    URING_OP_GETXATTR, URING_OP_SOCKET, URING_OP_URING_CMD, URING_OP_SEND_ZC,
    URING_OP_SENDMSG_ZC, URING_OP_READ_MULTISHOT, URING_OP_WAITID, URING_OP_FUTEX_WAIT,
    URING_OP_FUTEX_WAKE, URING_OP_FUTEX_WAITV, URING_OP_FIXED_FD_INSTALL, URING_OP_FTRUNCATE,
    URING_OP_BIND, URING_OP_LISTEN, URING_OP_RECV_ZC, URING_OP_EPOLL_WAIT, URING_OP_READV_FIXED,
    URING_OP_WRITEV_FIXED, URING_OP_PIPE, URING_OP_NOP128 /* 6.19 */
};
_Static_assert(URING_OP_OPENAT == 18 && URING_OP_OPENAT2 == 28 && URING_OP_MSG_RING == 40
               && URING_OP_PIPE == 62, "opcode numbers are ABI");

/* per-operation flags */
#define URING_FSYNC_DATASYNC (1u << 0)
#define URING_TIMEOUT_ABS (1u << 0)
#define URING_TIMEOUT_UPDATE (1u << 1)
#define URING_TIMEOUT_BOOTTIME (1u << 2)
#define URING_TIMEOUT_REALTIME (1u << 3)
#define URING_LINK_TIMEOUT_UPDATE (1u << 4)
#define URING_TIMEOUT_ETIME_SUCCESS (1u << 5)
#define URING_TIMEOUT_MULTISHOT (1u << 6)
#define URING_POLL_ADD_MULTI (1u << 0)
#define URING_POLL_UPDATE_EVENTS (1u << 1)
#define URING_POLL_UPDATE_USER_DATA (1u << 2)
#define URING_POLL_ADD_LEVEL (1u << 3)
#define URING_CANCEL_ALL (1u << 0)
#define URING_CANCEL_FD (1u << 1)
#define URING_CANCEL_ANY (1u << 2)
#define URING_CANCEL_FD_FIXED (1u << 3)
#define URING_CANCEL_USERDATA (1u << 4)
#define URING_CANCEL_OP (1u << 5)
#define URING_RECVSEND_POLL_FIRST (1u << 0)
#define URING_RECV_MULTISHOT (1u << 1)
#define URING_RECVSEND_FIXED_BUF (1u << 2)
#define URING_SEND_ZC_REPORT_USAGE (1u << 3)
#define URING_RECVSEND_BUNDLE (1u << 4)
#define URING_SEND_VECTORIZED (1u << 5)
#define URING_NOTIF_USAGE_ZC_COPIED (1u << 31) /* res of a notification */
#define URING_ACCEPT_MULTISHOT (1u << 0)
#define URING_ACCEPT_DONTWAIT (1u << 1)
#define URING_ACCEPT_POLL_FIRST (1u << 2)
#define URING_SOCKET_SIOCINQ 0
#define URING_SOCKET_SIOCOUTQ 1
#define URING_SOCKET_GETSOCKOPT 2
#define URING_SOCKET_SETSOCKOPT 3
#define URING_SOCKET_TX_TIMESTAMP 4
#define URING_SOCKET_GETSOCKNAME 5
#define URING_MSG_DATA 0
#define URING_MSG_SEND_FD 1
#define URING_MSG_RING_CQE_SKIP (1u << 0)
#define URING_MSG_RING_FLAGS_PASS (1u << 1)
#define URING_PBUF_MMAP (1u << 0)
#define URING_PBUF_INC (1u << 1)
#define URING_FILE_INDEX_ALLOC 0xffffffffu
#define URING_RSRC_REGISTER_SPARSE (1u << 0)
#define URING_REGISTER_FILES_SKIP (-2)
#define URING_REGISTER_SRC_REGISTERED (1u << 0)
#define URING_REGISTER_DST_REPLACE (1u << 1)

/* io_uring_register */
#define URING_REGISTER_BUFFERS 0
#define URING_UNREGISTER_BUFFERS 1
#define URING_REGISTER_FILES 2
#define URING_UNREGISTER_FILES 3
#define URING_REGISTER_EVENTFD 4
#define URING_UNREGISTER_EVENTFD 5
#define URING_REGISTER_FILES_UPDATE 6
#define URING_REGISTER_EVENTFD_ASYNC 7
#define URING_REGISTER_PROBE 8
#define URING_REGISTER_PERSONALITY 9
#define URING_UNREGISTER_PERSONALITY 10
#define URING_REGISTER_RESTRICTIONS 11
#define URING_REGISTER_ENABLE_RINGS 12
#define URING_REGISTER_FILES2 13
#define URING_REGISTER_FILES_UPDATE2 14
#define URING_REGISTER_BUFFERS2 15
#define URING_REGISTER_BUFFERS_UPDATE 16
#define URING_REGISTER_IOWQ_AFF 17
#define URING_UNREGISTER_IOWQ_AFF 18
#define URING_REGISTER_IOWQ_MAX_WORKERS 19
#define URING_REGISTER_RING_FDS 20
#define URING_UNREGISTER_RING_FDS 21
#define URING_REGISTER_PBUF_RING 22
#define URING_UNREGISTER_PBUF_RING 23
#define URING_REGISTER_SYNC_CANCEL 24
#define URING_REGISTER_FILE_ALLOC_RANGE 25
#define URING_REGISTER_PBUF_STATUS 26
#define URING_REGISTER_NAPI 27
#define URING_UNREGISTER_NAPI 28
#define URING_REGISTER_CLOCK 29
#define URING_REGISTER_CLONE_BUFFERS 30
#define URING_REGISTER_SEND_MSG_RING 31
#define URING_REGISTER_ZCRX_IFQ 32
#define URING_REGISTER_RESIZE_RINGS 33
#define URING_REGISTER_MEM_REGION 34
#define URING_REGISTER_QUERY 35
#define URING_REGISTER_USE_REGISTERED_RING 0x80000000u

#define URING_PROBE_SUPPORTED 1
#define URING_QUERY_OPCODES 0
#define URING_RESTRICTION_REGISTER_OP 0
#define URING_RESTRICTION_SQE_OP 1
#define URING_RESTRICTION_SQE_FLAGS_ALLOWED 2
#define URING_RESTRICTION_SQE_FLAGS_REQUIRED 3
#define URING_NAPI_STATIC_ADD_ID 1
#define URING_NAPI_STATIC_DEL_ID 2
#define URING_REG_WAIT_TS 1
#define URING_MEM_REGION_TYPE_USER 1
#define URING_MEM_REGION_REG_WAIT_ARG 1

#endif
