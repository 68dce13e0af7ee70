# Set-up: parameters, their checks, and errors that say what to do.

cdef uint32_t SETUP_SQ_AFF = URING_SETUP_SQ_AFF

SETUP_LADDER = (
    URING_SETUP_SINGLE_ISSUER | URING_SETUP_DEFER_TASKRUN | URING_SETUP_TASKRUN_FLAG
    | URING_SETUP_SUBMIT_ALL | URING_SETUP_NO_SQARRAY,                               # Linux 6.6
    URING_SETUP_SINGLE_ISSUER | URING_SETUP_DEFER_TASKRUN | URING_SETUP_TASKRUN_FLAG
    | URING_SETUP_SUBMIT_ALL,                                                        # 6.1
    URING_SETUP_COOP_TASKRUN | URING_SETUP_TASKRUN_FLAG | URING_SETUP_SUBMIT_ALL,    # 5.19
    0,
)

# By bit: IORING_SETUP_'s name, and the first Linux that has it.
cdef tuple SETUP_FLAGS = (
    ("IOPOLL", "5.1"), ("SQPOLL", "5.1"), ("SQ_AFF", "5.1"), ("CQSIZE", "5.5"), ("CLAMP", "5.6"),
    ("ATTACH_WQ", "5.6"), ("R_DISABLED", "5.10"), ("SUBMIT_ALL", "5.18"), ("COOP_TASKRUN", "5.19"),
    ("TASKRUN_FLAG", "5.19"), ("SQE128", "5.19"), ("CQE32", "5.19"), ("SINGLE_ISSUER", "6.0"),
    ("DEFER_TASKRUN", "6.1"), ("NO_MMAP", "6.5"), ("REGISTERED_FD_ONLY", "6.5"),
    ("NO_SQARRAY", "6.6"), ("HYBRID_IOPOLL", "6.13"), ("CQE_MIXED", "6.18"), ("SQE_MIXED", "6.19"),
    ("SQ_REWIND", "7.0"),
)

# A flag, and those of which it needs one.
cdef dict SETUP_NEEDS = {
    URING_SETUP_SQ_AFF: URING_SETUP_SQPOLL,
    URING_SETUP_REGISTERED_FD_ONLY: URING_SETUP_NO_MMAP,
    URING_SETUP_TASKRUN_FLAG: URING_SETUP_COOP_TASKRUN | URING_SETUP_DEFER_TASKRUN,
    URING_SETUP_HYBRID_IOPOLL: URING_SETUP_IOPOLL,
    URING_SETUP_DEFER_TASKRUN: URING_SETUP_SINGLE_ISSUER,
    URING_SETUP_SQ_REWIND: URING_SETUP_NO_SQARRAY,
}

# A flag, and those it excludes.
cdef dict SETUP_EXCLUDES = {
    URING_SETUP_SQPOLL: (URING_SETUP_COOP_TASKRUN | URING_SETUP_TASKRUN_FLAG
                         | URING_SETUP_DEFER_TASKRUN | URING_SETUP_SQ_REWIND),
    URING_SETUP_CQE32: URING_SETUP_CQE_MIXED,
    URING_SETUP_SQE128: URING_SETUP_SQE_MIXED,
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


cdef uint32_t word(object value, str name) except? 0xffffffff:
    if not 0 <= value <= 0xffffffff:
        raise ValueError(f"{name} must be from 0 to 4294967295, not {value}")
    return value


cdef int fill_params(uring_params *p, object params) except -1:
    memset(p, 0, sizeof(uring_params))
    p.flags = word(params.flags, "flags")
    if p.flags & URING_SETUP_SQ_REWIND:
        raise NotSupported(EOPNOTSUPP, "ferrule.ring does not use the set-up flag SQ_REWIND "
                           "(Linux 7.0)")
    must_be_zero(params.sq_entries, "sq_entries")
    must_be_zero(params.features, "features")
    if not p.flags & URING_SETUP_CQSIZE:
        must_be_zero(params.cq_entries, "cq_entries", " (it needs the flag CQSIZE)")
    if not p.flags & URING_SETUP_ATTACH_WQ:
        must_be_zero(params.wq_fd, "wq_fd", " (it needs the flag ATTACH_WQ)")
    for i, value in enumerate(params.resv):
        must_be_zero(value, f"resv[{i}]")
    p.cq_entries = word(params.cq_entries, "cq_entries")
    p.sq_thread_cpu = word(params.sq_thread_cpu, "sq_thread_cpu")
    p.sq_thread_idle = word(params.sq_thread_idle, "sq_thread_idle")
    p.wq_fd = PyObject_AsFileDescriptor(params.wq_fd)
    return 0


# What the kernel says of a new ring, against what it was asked for.
cdef bint sane(ring *r, uring_params *p) noexcept:
    return (p.sq_entries > 0 and p.cq_entries >= p.sq_entries
            and r.sq_mask == p.sq_entries - 1 and r.cq_mask == p.cq_entries - 1
            and r.sq_khead[0] == 0 and r.sq_ktail[0] == 0 and r.sq_kdropped[0] == 0
            and r.cq_khead[0] == 0 and r.cq_ktail[0] == 0 and r.cq_koverflow[0] == 0
            and r.sqe_head == 0 and r.sqe_tail == 0)


# Why EPERM.
def _explain_refusal(setting="/proc/sys/kernel/io_uring_disabled"):
    try:
        with open(setting) as file:
            value = file.read().strip()
    except OSError:
        value = "0"  # before Linux 6.6 there is no such setting
    if value == "2":
        return ("kernel.io_uring_disabled is 2, for everybody; "
                "`sysctl kernel.io_uring_disabled=0` allows it")
    if value == "1":
        return ("kernel.io_uring_disabled is 1, for all but privileged users; "
                "`sysctl kernel.io_uring_disabled=0`, or membership in kernel.io_uring_group, "
                "allows it")
    return ("a seccomp filter, as containers have it, or another security module refuses it; "
            "allow io_uring_setup, io_uring_enter and io_uring_register in its profile")


cdef str flag_names(uint32_t flags, str between):
    return between.join([name for bit, (name, _) in enumerate(SETUP_FLAGS) if flags & 1 << bit])


# What in these parameters no kernel accepts.
cdef list contradictions(uint32_t entries, uring_params *p):
    cdef list found = []
    for flag, needed in SETUP_NEEDS.items():
        if p.flags & <uint32_t>flag and not p.flags & <uint32_t>needed:
            found.append(f"{flag_names(flag, '')} needs {flag_names(needed, ' or ')}")
    for flag, excluded in SETUP_EXCLUDES.items():
        if p.flags & <uint32_t>flag and p.flags & <uint32_t>excluded:
            found.append(f"{flag_names(flag, '')} excludes "
                         f"{flag_names(p.flags & <uint32_t>excluded, ' and ')}")
    if p.flags & URING_SETUP_CQSIZE and p.cq_entries < entries:
        found.append(f"cq_entries must be at least entries ({entries}), not {p.cq_entries}")
    if p.cq_entries > URING_MAX_CQ_ENTRIES and not p.flags & URING_SETUP_CLAMP:
        found.append(f"cq_entries must be at most {URING_MAX_CQ_ENTRIES}, not {p.cq_entries} "
                     "(CLAMP would take the most)")
    return found


# The first of `flags` that the running kernel does not know, as far as it tells (Linux 6.18).
cdef int unknown_flag(uint32_t flags) noexcept:
    cdef uring_query_opcodes answer
    cdef int bit
    if query_kernel(&answer) == 0:
        for bit in range(32):
            if flags >> bit & 1 and not answer.ring_setup_flags >> bit & 1:
                return bit
    return -1


cdef object invalid_setup(uint32_t entries, uring_params *p):
    cdef int bit = unknown_flag(p.flags)
    cdef list causes
    if bit >= len(SETUP_FLAGS):
        return OSError(EINVAL, f"io_uring set-up failed: there is no set-up flag {1 << bit:#x}")
    if bit >= 0:
        name, since = SETUP_FLAGS[bit]
        return lacking(f"the set-up flag {name}", since)
    causes = contradictions(entries, p)
    if not causes and p.flags & URING_SETUP_SQ_AFF:
        causes.append(f"sq_thread_cpu must be a CPU that is online and allowed to this process, "
                      f"which {p.sq_thread_cpu} is not")
    if not causes and p.flags & URING_SETUP_ATTACH_WQ:
        causes.append("wq_fd must be a ring, with SQPOLL if this one is to have it")
    if not causes:
        needed = [f"{name} {since}" for bit, (name, since) in enumerate(SETUP_FLAGS)
                  if p.flags & 1 << bit]
        causes.append(f"this kernel ({os.uname().release}) may be too old: " + ", ".join(needed)
                      + "; flags=None finds the best it has")
    return OSError(EINVAL, f"io_uring set-up failed: {os.strerror(EINVAL)}: " + "; ".join(causes))


cdef object setup_error(int err, uint32_t entries, uring_params *p):
    if err == EINVAL:
        return invalid_setup(entries, p)
    if err == EPERM:
        cause = _explain_refusal()
        if p.flags & URING_SETUP_SQPOLL:
            cause += "; before Linux 5.11 SQPOLL needs CAP_SYS_ADMIN"
    elif err == ENOSYS:
        cause = ("this kernel has no io_uring (Linux 5.4 with CONFIG_IO_URING is needed), or a "
                 "seccomp filter hides it")
    elif err == ENOMEM:
        cause = ("not enough memory, or a memory limit of this container; before Linux 5.12 the "
                 "queues count as locked memory: raise `ulimit -l`, or use fewer entries")
    elif err == EMFILE or err == ENFILE:
        cause = "no free descriptor; close some, or raise `ulimit -n`"
    elif err == EBUSY:
        cause = ("all 16 indices for rings of this thread are in use: close rings that have one "
                 "(REGISTERED_FD_ONLY, register_ring_fd)")
    elif err == ENXIO or err == EBADF:
        cause = "wq_fd must be the open descriptor of a ring"
    elif err == EOVERFLOW:
        cause = "a mixed queue needs 2 entries or more"
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
    elif err == EOWNERDEAD:
        text = "the thread that takes submissions (SQPOLL) has ended: make another ring"
    else:
        text = "io_uring_enter: " + os.strerror(err)
    return OSError(err, text)


cdef object register_error(int err, uint32_t opcode):
    if err == EEXIST:
        return wrong_thread()
    name, since = REGISTRATIONS[opcode]
    if err == EINVAL and lacks_registration(opcode):
        return lacking("IORING_" + name, since)
    text = f"{name}: {os.strerror(err)}"
    if err == EACCES:
        text += ": the restrictions of this ring do not allow it"
    elif err == EBADFD:
        text += ": only for a ring made with R_DISABLED, until enable_rings()"
    elif err == EBUSY and opcode == URING_REGISTER_RING_FDS:
        text += ": all 16 indices of this thread are in use"
    return OSError(err, text)


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
