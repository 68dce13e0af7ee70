# How long a wait may last, and who may interrupt it.

cdef int64_t NEVER = -1
cdef enum:
    MAX_WAITS = 65536


cdef struct WaitLimits:
    int64_t deadline        # ns on our clock, or NEVER
    bint absolute           # on the ring's clock
    int64_t min_wait        # ns for which all are waited for, then one; 0: always all
    bint masked             # sigmask is given
    uint64_t sigmask
    int64_t offset          # of these limits in the registered region, or -1


# One enter: what is left of the limits, as the kernel takes it.
cdef struct WaitArgument:
    uring_getevents_arg arg
    uring_timespec ts
    uint64_t sigmask
    int64_t left            # ns; NEVER: no limit, or one that only the kernel knows
    int64_t patience        # what is left of min_wait
    bint first              # not entered before in this wait
    uint32_t flags
    const void *at
    size_t size


cdef WaitLimits until(int64_t deadline) noexcept:
    cdef WaitLimits limits
    memset(&limits, 0, sizeof(limits))
    limits.deadline = deadline
    limits.offset = -1
    return limits


cdef WaitLimits ENDLESS = until(NEVER)


cdef void prepare_wait(WaitArgument *a, const WaitLimits *limits) noexcept:
    memset(&a.arg, 0, sizeof(a.arg))
    a.left = NEVER
    a.flags = 0
    a.at = NULL
    a.size = sizeof(a.sigmask)
    if limits.deadline != NEVER:
        a.ts = timespec_at(limits.deadline)
        if limits.absolute:
            a.flags = URING_ENTER_ABS_TIMER
        else:
            a.left = max(limits.deadline - fe_monotonic_ns(), 0)
            a.ts = timespec_at(a.left)
        a.arg.ts = <uint64_t><uintptr_t>&a.ts
    if limits.masked:
        a.sigmask = limits.sigmask
        a.arg.sigmask = <uint64_t><uintptr_t>&a.sigmask
        a.arg.sigmask_sz = sizeof(a.sigmask)
    # Where min_wait is longer than the whole wait the kernel forgets the latter.
    if a.left == NEVER or a.patience < a.left:
        a.arg.min_wait_usec = microseconds(a.patience)
    if limits.offset >= 0 and a.first:
        # Later enters of this wait have less time than is written there.
        a.flags |= URING_ENTER_EXT_ARG | URING_ENTER_EXT_ARG_REG
        a.at = <const void *><uintptr_t>limits.offset
        a.size = sizeof(uring_reg_wait)
    elif a.arg.ts or a.arg.min_wait_usec:
        a.flags |= URING_ENTER_EXT_ARG
        a.at = &a.arg
        a.size = sizeof(a.arg)
    elif limits.masked:
        a.at = &a.sigmask
    a.first = False


# Whether the time of a wait is up.  With min_wait ETIME may also mean that.
cdef bint is_over(const WaitArgument *a, const WaitLimits *limits, int taken) noexcept:
    if limits.deadline == NEVER:
        return False
    if limits.absolute:
        return taken == -ETIME
    return a.left == 0 or (taken == -ETIME and (
        limits.min_wait == 0 or fe_monotonic_ns() >= limits.deadline))


cdef inline uint32_t microseconds(int64_t nanoseconds) noexcept:
    return <uint32_t>((nanoseconds + 999) // 1000)


cdef uring_timespec timespec_at(int64_t nanoseconds) noexcept:
    cdef uring_timespec ts
    ts.tv_sec = nanoseconds // 1_000_000_000
    ts.tv_nsec = nanoseconds % 1_000_000_000
    return ts


cdef uint64_t signal_mask(object signals) except? 0xffffffffffffffff:
    cdef uint64_t mask = 0
    for number in signals:
        if not 1 <= number <= 64:
            raise ValueError(f"a signal number must be from 1 to 64, not {number}")
        mask |= 1ULL << <int>(number - 1)
    return mask


@cython.final
cdef class WaitRegion:
    """Limits of waits in memory that the kernel reads, so that a wait need not pass them each
    time; made by Ring.register_wait_reg, used by Ring.submit_and_wait_reg (Linux 6.13).

    Every place has no limit until set() gives it one.  The region lives as long as its ring.
    """
    cdef uring_reg_wait *waits       # the signal masks lie behind them
    cdef uint64_t *sigmasks
    cdef WaitLimits *limits          # the same, for our own part; deadline: from now
    cdef size_t size
    cdef uint32_t epoch
    cdef readonly uint32_t count

    def __dealloc__(self):
        PyMem_Free(self.limits)
        # In a forked child the mapping does not exist, and something else may lie there.
        if self.waits != NULL and self.epoch == fork_epoch:
            munmap(self.waits, self.size)

    cdef int allocate(self, uint32_t count) except -1:
        cdef uint32_t i
        cdef size_t page = resource.getpagesize()
        self.epoch = fork_epoch
        self.size = (count * (sizeof(uring_reg_wait) + sizeof(uint64_t)) + page - 1) // page * page
        self.limits = <WaitLimits *>PyMem_Calloc(count, sizeof(WaitLimits))
        if self.limits == NULL:
            raise MemoryError
        self.waits = <uring_reg_wait *>anonymous(self.size)
        self.sigmasks = <uint64_t *>(self.waits + count)
        self.count = count
        for i in range(count):
            self.limits[i] = until(NEVER)
            self.limits[i].offset = i * sizeof(uring_reg_wait)
        return 0

    cdef int check_index(self, long long index) except -1:
        if self.epoch != fork_epoch:
            raise RuntimeError("this memory belongs to the parent process")
        if not 0 <= index < self.count:
            raise ValueError(f"index {index} is outside 0..{self.count - 1}")
        return 0

    def set(self, long long index, seconds=None, min_wait=0, sigmask=None):
        """Give the waits that name `index` these limits, as submit_and_wait_min_timeout takes
        them: `seconds` in all (None: without limit), `min_wait` seconds for all completions, and
        the signals to block meanwhile."""
        cdef uring_timespec whole, least = timespec_of(min_wait, "min_wait")
        cdef WaitLimits limits = until(NEVER)
        cdef uring_reg_wait *w
        memset(&whole, 0, sizeof(whole))
        if seconds is not None:
            whole = timespec_of(seconds, "seconds")
            limits.deadline = whole.tv_sec * 1_000_000_000 + whole.tv_nsec
        limits.min_wait = min(least.tv_sec, 4294) * 1_000_000_000 + least.tv_nsec
        if sigmask is not None:
            limits.sigmask = signal_mask(sigmask)
            limits.masked = True
        self.check_index(index)
        limits.offset = index * sizeof(uring_reg_wait)
        self.limits[index] = limits
        self.sigmasks[index] = limits.sigmask
        w = &self.waits[index]
        w.ts = whole
        w.flags = URING_REG_WAIT_TS if seconds is not None else 0
        w.min_wait_usec = 0
        if seconds is None or limits.min_wait < limits.deadline:
            w.min_wait_usec = microseconds(limits.min_wait)
        w.sigmask = <uint64_t><uintptr_t>&self.sigmasks[index] if limits.masked else 0
        w.sigmask_sz = sizeof(uint64_t) if limits.masked else 0

    cdef WaitLimits limits_at(self, uint32_t index) except *:
        cdef WaitLimits limits
        self.check_index(index)
        limits = self.limits[index]
        if limits.deadline != NEVER:
            limits.deadline += fe_monotonic_ns()
        return limits

    def __len__(self):
        return self.count

    def __repr__(self):
        return f"<WaitRegion of {self.count}>"
