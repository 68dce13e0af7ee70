# Set-up: parameters, their checks, and errors that say what to do.

cdef uint32_t SETUP_SQ_AFF = URING_SETUP_SQ_AFF

SETUP_LADDER = (
    URING_SETUP_SINGLE_ISSUER | URING_SETUP_DEFER_TASKRUN | URING_SETUP_SUBMIT_ALL
    | URING_SETUP_NO_SQARRAY,                                                        # Linux 6.6
    URING_SETUP_SINGLE_ISSUER | URING_SETUP_DEFER_TASKRUN | URING_SETUP_SUBMIT_ALL,  # 6.1
    URING_SETUP_COOP_TASKRUN | URING_SETUP_SUBMIT_ALL,                               # 5.19
    0,
)

# They change the size or the place of queue entries, which part of this binding does not follow.
cdef dict NOT_HANDLED = {
    URING_SETUP_CQE32: "CQE32", URING_SETUP_NO_MMAP: "NO_MMAP",
    URING_SETUP_REGISTERED_FD_ONLY: "REGISTERED_FD_ONLY", URING_SETUP_CQE_MIXED: "CQE_MIXED",
    URING_SETUP_SQE_MIXED: "SQE_MIXED", URING_SETUP_SQ_REWIND: "SQ_REWIND",
}


class Params:
    """io_uring_params, for Ring.from_params.  Set-up writes the kernel's answers back."""
    __module__ = "ferrule.ring"
    __slots__ = ("sq_entries", "cq_entries", "flags", "sq_thread_cpu", "sq_thread_idle",
                 "features", "wq_fd", "resv")

    def __init__(self, flags=0, *, sq_thread_cpu=0, sq_thread_idle=0, cq_entries=0, wq_fd=0):
        self.sq_entries = 0
        self.cq_entries = cq_entries
        self.flags = flags
        self.sq_thread_cpu = sq_thread_cpu
        self.sq_thread_idle = sq_thread_idle
        self.features = 0
        self.wq_fd = wq_fd
        self.resv = (0, 0, 0)

    def __repr__(self):
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"Params({fields})"


cdef int check_entries(object entries) except -1:
    if not isinstance(entries, int):
        raise TypeError(f"entries must be an int, not {type(entries).__name__}")
    if not 1 <= entries <= MAX_ENTRIES or entries & (entries - 1):
        raise ValueError(f"entries must be a power of two from 1 to {MAX_ENTRIES}, not {entries}")
    return 0


cdef int must_be_zero(object value, str name, str unless="") except -1:
    if value != 0:
        raise ValueError(f"{name} must be 0, not {value!r}{unless}")
    return 0


cdef int fill_params(uring_params *p, object params) except -1:
    memset(p, 0, sizeof(uring_params))
    p.flags = params.flags
    for bit, name in NOT_HANDLED.items():
        if p.flags & bit:
            raise NotSupported(EOPNOTSUPP, f"ferrule.ring does not handle the set-up flag {name}")
    must_be_zero(params.sq_entries, "sq_entries")
    must_be_zero(params.features, "features")
    if not p.flags & URING_SETUP_CQSIZE:
        must_be_zero(params.cq_entries, "cq_entries", " (it needs the flag CQSIZE)")
    if not p.flags & URING_SETUP_ATTACH_WQ:
        must_be_zero(params.wq_fd, "wq_fd", " (it needs the flag ATTACH_WQ)")
    for i, value in enumerate(params.resv):
        must_be_zero(value, f"resv[{i}]")
    p.cq_entries = params.cq_entries
    p.sq_thread_cpu = params.sq_thread_cpu
    p.sq_thread_idle = params.sq_thread_idle
    p.wq_fd = PyObject_AsFileDescriptor(params.wq_fd)
    return 0


# What the kernel says of a new ring, against what it was asked for.
cdef bint sane(ring *r, uring_params *p) noexcept:
    return (p.sq_entries > 0 and p.cq_entries >= p.sq_entries
            and r.sq_mask == p.sq_entries - 1 and r.cq_mask == p.cq_entries - 1
            and r.sq_khead[0] == 0 and r.sq_ktail[0] == 0 and r.sq_kdropped[0] == 0
            and r.cq_khead[0] == 0 and r.cq_ktail[0] == 0 and r.cq_koverflow[0] == 0
            and r.sqe_head == 0 and r.sqe_tail == 0)


cdef str refusal():
    try:
        with open("/proc/sys/kernel/io_uring_disabled") as file:
            setting = file.read().strip()
    except OSError:
        setting = "0"
    if setting == "2":
        return ("kernel.io_uring_disabled is 2, for everybody; "
                "`sysctl kernel.io_uring_disabled=0` allows it")
    if setting == "1":
        return ("kernel.io_uring_disabled is 1, for all but privileged users; "
                "`sysctl kernel.io_uring_disabled=0`, or membership in kernel.io_uring_group, "
                "allows it")
    return ("a seccomp filter, as containers have it, or another security module refuses it; "
            "allow io_uring_setup, io_uring_enter and io_uring_register in its profile")


cdef object setup_error(int err, uint32_t flags):
    if err == EPERM:
        cause = refusal()
    elif err == ENOSYS:
        cause = ("this kernel has no io_uring (Linux 5.4 with CONFIG_IO_URING is needed), or a "
                 "seccomp filter hides it")
    elif err == ENOMEM:
        cause = ("not enough memory; before Linux 5.12 the queues count as locked memory: "
                 "raise `ulimit -l`, or use fewer entries")
    elif err == EMFILE or err == ENFILE:
        cause = "no free descriptor; close some, or raise `ulimit -n`"
    elif err == EINVAL:
        cause = (f"this kernel does not know one of the flags {flags:#x}, they contradict each "
                 "other, or cq_entries does not fit; flags=None lets the kernel's best be found")
    else:
        return OSError(err, f"io_uring set-up failed: {os.strerror(err)}")
    return OSError(err, f"io_uring set-up failed: {os.strerror(err)}: {cause}")


cdef object wrong_thread():
    return RuntimeError("another thread is the issuer of this ring (SINGLE_ISSUER)")


cdef object enter_error(int result):
    cdef int err = -result
    if err == EEXIST:
        return wrong_thread()
    if err == EAGAIN:
        text = "the kernel has no memory for a request now: take completions, then submit again"
    elif err == EBUSY:
        text = "completions overflowed: take some with copy_cqes, then submit again"
    elif err == EBADR:
        text = "a completion was lost for lack of memory: close this ring and make another"
    elif err == EBADFD:
        text = "this ring is disabled (R_DISABLED): call enable_rings() first"
    else:
        text = "io_uring_enter: " + os.strerror(err)
    return OSError(err, text)


cdef object register_error(int err, uint32_t opcode):
    if err == EEXIST:
        return wrong_thread()
    return OSError(err, f"io_uring_register({opcode}): {os.strerror(err)}")


cdef object registered_fd(object file):
    if PyLong_CheckExact(file) and (file == -1 or file == URING_REGISTER_FILES_SKIP):
        return file
    return PyObject_AsFileDescriptor(file)


cdef bytes descriptors(list numbers):
    cdef bytes block = zeroed(len(numbers) * sizeof(int))
    cdef int *fds = <int *>PyBytes_AS_STRING(block)
    cdef Py_ssize_t i
    for i in range(len(numbers)):
        fds[i] = numbers[i]
    return block


# Whether a target names this user_data.  Only types whose == runs no foreign code are compared.
cdef bint same(object user_data, object target):
    if user_data is target:
        return True
    return type(user_data) is type(target) and type(target) in (int, str, bytes) and (
        user_data == target)
