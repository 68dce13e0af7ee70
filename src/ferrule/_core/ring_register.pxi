# What is set up once and used by many operations (io_uring_register).


cdef class Registrations(TableRegistrations):
    """Registering what many operations use: limits, notifications, provided buffers."""

    def register_eventfd(self, file, bint only_async=False):
        """Signal an eventfd at every completion, or only at those not reached inside submit."""
        cdef int fd = PyObject_AsFileDescriptor(file)
        self.register(
            URING_REGISTER_EVENTFD_ASYNC if only_async else URING_REGISTER_EVENTFD, &fd, 1)

    def unregister_eventfd(self):
        """Stop signalling."""
        self.register(URING_UNREGISTER_EVENTFD, NULL, 0)

    def register_probe(self):
        """Ask the kernel which operations it has: a Probe (Linux 5.6)."""
        cdef Probe probe = Probe.__new__(Probe)
        self.register(URING_REGISTER_PROBE, &probe.raw, 256)
        return probe

    def register_wait_reg(self, unsigned int count=64):
        """Keep the limits of `count` waits in memory that the kernel reads (Linux 6.13).

        Returns the WaitRegion; submit_and_wait_reg() names its places.  Only on a ring made with
        R_DISABLED, before enable_rings(), and once: else ValueError.
        """
        cdef Ring ring = <Ring>self
        cdef WaitRegion region
        cdef uring_region_desc described
        cdef uring_mem_region_reg reg
        ring.check()
        if not 1 <= count <= MAX_WAITS:
            raise ValueError(f"count must be from 1 to {MAX_WAITS}, not {count}")
        if not ring.disabled or ring.wait_region is not None:
            raise ValueError("waits are registered once, on a ring made with R_DISABLED, before "
                             "enable_rings()")
        region = WaitRegion.__new__(WaitRegion)
        region.allocate(count)
        memset(&described, 0, sizeof(described))
        described.user_addr = <uint64_t><uintptr_t>region.waits
        described.size = region.size
        described.flags = URING_MEM_REGION_TYPE_USER
        memset(&reg, 0, sizeof(reg))
        reg.region_uptr = <uint64_t><uintptr_t>&described
        reg.flags = URING_MEM_REGION_REG_WAIT_ARG
        self.register(URING_REGISTER_MEM_REGION, &reg, 1)
        ring.wait_region = region
        return region

    def register_clock(self, int clock):
        """The clock of this ring's waits: time.CLOCK_MONOTONIC, as it is at first, or
        time.CLOCK_BOOTTIME, which goes on while the machine is suspended (Linux 6.12)."""
        cdef uint32_t block[4]
        if clock != CLOCK_MONOTONIC and clock != CLOCK_BOOTTIME:
            raise ValueError(
                f"clock must be time.CLOCK_MONOTONIC or time.CLOCK_BOOTTIME, not {clock}")
        memset(block, 0, sizeof(block))
        block[0] = clock
        self.register(URING_REGISTER_CLOCK, block, 0)

    def enable_rings(self):
        """Start a ring made with R_DISABLED; the calling thread becomes its issuer (Linux 5.10)."""
        cdef Ring ring = <Ring>self
        cdef unsigned long thread = PyThread_get_thread_ident()
        if FE_FREE_THREADED and not ring.by_index():
            ring.thread = thread
        self.register(URING_REGISTER_ENABLE_RINGS, NULL, 0)
        ring.thread = thread
        ring.disabled = False
        ring.bind_thread()

    def register_ring_fd(self):
        """Let this thread enter the ring without looking up its descriptor (Linux 5.18).

        The ring belongs to this thread until unregister_ring_fd() or close().
        """
        cdef Ring ring = <Ring>self
        ring.check()
        cdef int result = ring_register_own_fd(&ring.r)
        if result < 0:
            raise register_error(-result, URING_REGISTER_RING_FDS)
        ring.thread = PyThread_get_thread_ident()
        ring.bind_thread()

    def unregister_ring_fd(self):
        """Undo register_ring_fd."""
        cdef Ring ring = <Ring>self
        ring.check()
        ring.fileno()  # without a descriptor nothing would be left of the ring
        cdef int result = ring_unregister_own_fd(&ring.r)
        if result < 0:
            raise register_error(-result, URING_UNREGISTER_RING_FDS)
        ring.bind_thread()

    def close_ring_fd(self):
        """Close the ring's descriptor and keep only the index that register_ring_fd() gave it.

        Frees a descriptor; the ring then belongs to this thread for good, and cannot be polled or
        named to another ring.  Raises NotSupported before Linux 6.3 (REG_REG_RING), ValueError
        when there is no index.
        """
        cdef Ring ring = <Ring>self
        ring.fileno()
        if not ring.r.features & URING_FEAT_REG_REG_RING:
            raise lacking("a ring without a descriptor", "6.3")
        if not ring.by_index():
            raise ValueError("this ring has no index: call register_ring_fd() first")
        fork_remove(&ring.fork_node)
        c_close(ring.r.fd)
        ring.r.fd = -1
        fork_add(&ring.fork_node, -1)

    def register_iowq_max_workers(self, unsigned int bounded=0, unsigned int unbounded=0):
        """Limit the kernel threads for operations that must block; 0 leaves a limit (5.15).

        `bounded` ones work on regular files, `unbounded` ones on all else.  The limits hold for
        every ring of the calling thread.  Returns the limits before: (bounded, unbounded).
        """
        cdef uint32_t limits[2]
        limits[0] = bounded
        limits[1] = unbounded
        self.register(URING_REGISTER_IOWQ_MAX_WORKERS, limits, 2)
        return limits[0], limits[1]

    def register_buf_ring(self, unsigned int entries, unsigned int buffer_size,
                          unsigned int bgid=0, unsigned int flags=0, *, bint provide=True):
        """Give the kernel `entries` buffers (a power of two, up to 32768) of `buffer_size` bytes to
        pick from, as group `bgid`.  Returns the BufferRing (Linux 5.19).

        flags    BufferRingFlags: INC, one buffer serves several completions (6.12); MMAP, the
                 kernel's own memory holds the ring of entries (6.4; before 6.8 it had a hole)
        provide  False: the kernel gets no buffer yet; add() those that have been filled, to send
        """
        cdef Ring ring = <Ring>self
        cdef uring_buf_reg reg
        cdef BufferRing group
        cdef long bid
        ring.check()
        if entries == 0 or entries > MAX_ENTRIES or entries & (entries - 1):
            raise ValueError(
                f"entries must be a power of two from 1 to {MAX_ENTRIES}, not {entries}")
        if not 0 < buffer_size <= MAX_RW_COUNT:
            raise ValueError(f"buffer_size must be from 1 to {MAX_RW_COUNT}, not {buffer_size}")
        if bgid > 0xffff:
            raise ValueError(f"bgid must be from 0 to 65535, not {bgid}")
        if bgid in ring.groups:
            raise ValueError(f"this ring has a buffer ring with the id {bgid} already")
        fd = ring.fileno() if flags & URING_PBUF_MMAP else -1
        group = BufferRing.__new__(BufferRing)
        group.allocate(entries, buffer_size, <uint16_t>bgid, flags & URING_PBUF_MMAP != 0)
        memset(&reg, 0, sizeof(reg))
        reg.flags = <uint16_t>flags
        reg.ring_addr = <uint64_t><uintptr_t>group.entries_map
        reg.ring_entries = entries
        reg.bgid = <uint16_t>bgid
        if flags & ~<unsigned int>(URING_PBUF_MMAP | URING_PBUF_INC):
            raise ValueError(f"flags must be of BufferRingFlags, not {flags:#x}")
        self.register(URING_REGISTER_PBUF_RING, &reg, 1)
        ring.groups[bgid] = group
        group.ring_object = <PyObject *>ring
        if flags & URING_PBUF_MMAP:
            try:
                group.map_entries(fd)
            except OSError:
                self.unregister_buf_ring(bgid)
                raise
        if provide:
            for bid in range(entries):
                group.put(bid, buffer_size)
            group.publish()
        return group

    def unregister_buf_ring(self, unsigned int bgid):
        """Take group `bgid` from the kernel; BufferRing.close() does the same."""
        cdef Ring ring = <Ring>self
        cdef uring_buf_reg reg
        cdef BufferRing group = ring.groups.get(bgid)
        if group is None:
            ring.check()
            raise ValueError(f"this ring has no buffer ring with the id {bgid}")
        memset(&reg, 0, sizeof(reg))
        reg.bgid = <uint16_t>bgid
        self.register(URING_UNREGISTER_PBUF_RING, &reg, 1)
        group.ring_object = NULL
        del ring.groups[bgid]

    def register_sync_cancel(self, target=None, unsigned int flags=0, file=None, opcode=None,
                             timeout=None):
        """Cancel what matches (as prep_cancel) and wait until it has ended (Linux 6.0).

        Blocks the thread, for at most `timeout` seconds (then TimeoutError), with the GIL released.
        Raises FileNotFoundError when nothing matches.  The cancelled operations complete as ever.
        Of a SQPOLL ring's it does not reach those that run in kernel threads: prep_cancel does.
        """
        cdef Ring ring = <Ring>self
        cdef uring_sync_cancel_reg reg
        cdef int result = -EINTR
        cdef int64_t left, end = ring.deadline(timeout)
        ring.check()
        memset(&reg, 0, sizeof(reg))
        reg.fd = -1
        reg.timeout.tv_sec = reg.timeout.tv_nsec = -1
        if file is not None:
            reg.fd = PyObject_AsFileDescriptor(file)
            flags |= URING_CANCEL_FD
        if opcode is not None:
            reg.opcode = opcode
            flags |= URING_CANCEL_OP
        if target is not None:
            reg.addr = ring.key_of(target, NULL)
        elif not flags & (URING_CANCEL_ANY | URING_CANCEL_OP | URING_CANCEL_FD):
            raise ValueError("cancel what? give a target, a file, an opcode, or CancelFlags.ANY")
        reg.flags = flags
        while result == -EINTR:
            ring.check()  # a conversion or a signal handler may have closed it
            if end != NEVER:
                left = max(end - fe_monotonic_ns(), 0)
                reg.timeout.tv_sec = left // 1_000_000_000
                reg.timeout.tv_nsec = left % 1_000_000_000
            ring.waiters += 1
            with nogil:
                result = ring_register(&ring.r, URING_REGISTER_SYNC_CANCEL, &reg, 1)
            ring.waiters -= 1
            PyErr_CheckSignals()
        if result == -ETIME:
            raise TimeoutError(errno.ETIME, f"not ended within {timeout} s")
        if result < 0:
            raise register_error(-result, URING_REGISTER_SYNC_CANCEL)
        return result


def send_msg_ring(target, unsigned int res, uint64_t data, unsigned int flags=0):
    """Post a completion into a ring without having one: its res, and `data` as its user_data.

    From any thread, at once; wakes who waits in that ring.  Linux 6.13.

    target  a Ring, which receives data below 2**63, or the descriptor of a ring made by others
    flags   none so far that would mean something here

    OSError: EBADFD, the ring is disabled; EOVERFLOW, its completion queue is full.
    """
    cdef uring_sqe message
    cdef int result
    memset(&message, 0, sizeof(message))
    if isinstance(target, Ring):
        if data > MESSAGE_MAX:
            raise OverflowError("data for a Ring must be below 2**63")
        data |= MESSAGE_BIT
    message.opcode = URING_OP_MSG_RING
    message.fd = PyObject_AsFileDescriptor(target)
    message.addr = URING_MSG_DATA
    message.len = res
    message.off = data
    message.op_flags = flags
    result = ring_sys_register(-1, URING_REGISTER_SEND_MSG_RING, &message, 1)
    if result == -EINVAL and flags == 0:
        raise lacking("sending a message without a ring", "6.13")
    if result < 0:
        raise OSError(-result, f"sending a message to a ring: {os.strerror(-result)}")
