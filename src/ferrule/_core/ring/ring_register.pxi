# What is set up once and used by many operations (io_uring_register).

class NapiSettings(NamedTuple):
    """How a ring polls network cards (Ring.register_napi): seconds, preference, NapiTracking.

    unregister_napi() does not learn the tracking: None.
    """
    busy_poll_to: float
    prefer_busy_poll: bool
    tracking: object


cdef class Registrations(TableRegistrations):
    """Registering what many operations use: limits, notifications, provided buffers."""

    # ---- what the ring may do, and as whom --------------------------------------------------

    def register_personality(self):
        """Keep the calling thread's credentials (user, groups, capabilities) for operations that
        name them in SQE.personality, whatever the credentials are by then (Linux 5.6).

        Returns their id.  Without it an operation has the credentials of the thread that submits
        it, or, with SQPOLL, of the one that made the ring.
        """
        return self.register(URING_REGISTER_PERSONALITY, NULL, 0)

    def unregister_personality(self, unsigned int personality):
        """Forget credentials.  Operations in flight keep them.  ValueError for an unknown id."""
        cdef Ring ring = <Ring>self
        cdef int result
        ring.check()
        result = ring_register(&ring.r, URING_UNREGISTER_PERSONALITY, NULL, personality)
        if result == -EINVAL:
            raise ValueError(f"this ring has no personality {personality}")
        if result < 0:
            raise register_error(-result, URING_UNREGISTER_PERSONALITY)

    def register_restrictions(self, *, register_ops=(), sqe_ops=(), sqe_flags_allowed=0,
                              sqe_flags_required=0):
        """Allow this ring nothing but what is named here, from enable_rings() on and for good.
        Only on a ring made with R_DISABLED, and once (Linux 5.10).

        register_ops        registrations (RegisterOp)
        sqe_ops             operations (Op)
        sqe_flags_allowed   SqeFlags that an operation may have
        sqe_flags_required  SqeFlags that every operation must have

        Other operations complete with -EACCES, other registrations raise PermissionError.  What
        close() needs to end operations in flight is always allowed: a cancel, and giving back the
        ring's index.
        """
        cdef list wanted = [(URING_RESTRICTION_REGISTER_OP, op) for op in register_ops]
        cdef uring_restriction *restriction
        cdef bytes block
        wanted += [(URING_RESTRICTION_SQE_OP, op) for op in sqe_ops]
        wanted.append((URING_RESTRICTION_SQE_FLAGS_ALLOWED,
                       sqe_flags_allowed | sqe_flags_required))
        wanted.append((URING_RESTRICTION_SQE_FLAGS_REQUIRED, sqe_flags_required))
        if kernel_has[URING_OP_SEND_ZC]:
            wanted.append((URING_RESTRICTION_REGISTER_OP, URING_REGISTER_SYNC_CANCEL))
            wanted.append((URING_RESTRICTION_REGISTER_OP, URING_UNREGISTER_RING_FDS))
        else:
            wanted.append((URING_RESTRICTION_SQE_OP, URING_OP_ASYNC_CANCEL))
        block = zeroed(len(wanted) * sizeof(uring_restriction))
        restriction = <uring_restriction *>PyBytes_AS_STRING(block)
        for kind, value in wanted:
            if not 0 <= value <= 255:
                raise ValueError(f"an opcode or flags must be from 0 to 255, not {value}")
            restriction.opcode = kind
            restriction.arg = value
            restriction += 1
        self.register(URING_REGISTER_RESTRICTIONS, PyBytes_AS_STRING(block), len(wanted))

    # ---- notifications ----------------------------------------------------------------------

    def register_eventfd(self, file, bint only_async=False):
        """Signal an eventfd at every completion (Linux 5.2), or with `only_async` at those that
        kernel threads bring, which submit() and waits do not find by themselves (5.6).

        For a ring of its own thread, waits are simpler.  One eventfd at a time: else OSError
        (EBUSY).
        """
        cdef int fd = PyObject_AsFileDescriptor(file)
        self.register(
            URING_REGISTER_EVENTFD_ASYNC if only_async else URING_REGISTER_EVENTFD, &fd, 1)

    def unregister_eventfd(self):
        """Stop signalling.  OSError (ENXIO) when no eventfd is registered."""
        self.register(URING_UNREGISTER_EVENTFD, NULL, 0)

    def cq_eventfd_enabled(self):
        """Whether completions signal the registered eventfd."""
        cdef Ring ring = <Ring>self
        ring.check()
        return ring.r.cq_kflags == NULL or not (
            fe_load_acquire(ring.r.cq_kflags) & URING_CQ_EVENTFD_DISABLED)

    def cq_eventfd_toggle(self, bint enabled):
        """Let completions signal the registered eventfd, or not for now.  Cheap: it writes a bit
        that the kernel reads (Linux 5.8)."""
        cdef Ring ring = <Ring>self
        ring.check()
        if ring.r.cq_kflags == NULL:
            if not enabled:
                raise lacking("cq_eventfd_toggle", "5.8")
        else:
            fe_store_release(ring.r.cq_kflags, 0 if enabled else URING_CQ_EVENTFD_DISABLED)

    # ---- the ring itself --------------------------------------------------------------------

    def register_query(self):
        """What the kernel has, asked through this ring: a Query (Linux 6.18).  query() asks
        without one."""
        cdef uring_query_opcodes answer
        cdef uring_query_hdr header
        fill_query(&header, &answer)
        self.register(URING_REGISTER_QUERY, &header, 0)
        return query_of(&answer)

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
        if ring.disabled and not ring.by_index():
            ring.adopt()
        self.register(URING_REGISTER_ENABLE_RINGS, NULL, 0)
        ring.disabled = False
        ring.bind_thread()

    def register_ring_fd(self):
        """Let this thread enter the ring without looking up its descriptor (Linux 5.18): some 60 ns
        less for each system call.

        The ring belongs to this thread until unregister_ring_fd() or close().
        """
        cdef Ring ring = <Ring>self
        ring.check()
        ring.adopt()
        cdef int result = ring_register_own_fd(&ring.r)
        if result < 0:
            raise register_error(-result, URING_REGISTER_RING_FDS)
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

    def resize_rings(self, entries, cq_entries=None):
        """Give the queues other sizes, larger or smaller; what is in flight goes on (Linux 6.13).

        entries     of the submission queue, a power of two from 1 to 32768
        cq_entries  of the completion queue, at least as many; default 2 x entries

        Only for a ring with DEFER_TASKRUN whose submission queue is empty: submit() first.
        Completions that wait stay; OSError (EOVERFLOW) when they do not fit, and with CQE32 or
        CQE_MIXED there must be none.  Errors leave the ring as it was.
        """
        cdef Ring ring = <Ring>self
        cdef uring_params p
        cdef uint32_t size = word(cq_entries or 0, "cq_entries")
        cdef int result
        check_entries(entries)
        ring.check()
        memset(&p, 0, sizeof(p))
        p.sq_entries = entries
        if cq_entries is not None:
            p.flags = URING_SETUP_CQSIZE
            p.cq_entries = size
        if not ring.r.setup_flags & URING_SETUP_DEFER_TASKRUN:
            raise ValueError("only a ring made with DEFER_TASKRUN can be resized")
        if not ring.r.setup_flags & URING_SETUP_NO_MMAP:
            ring.fileno()  # the new queues are mapped through it
        ring.ready()  # takes those out that nobody else could take
        ring.check()  # that may have run any code
        if ring.r.sqe_tail != fe_load_acquire(ring.r.sq_khead):
            raise ValueError("the submission queue must be empty: submit() first")
        if ring.r.wide and ring_cq_ready(&ring.r):
            raise ValueError("completions wait, of which some may be large: take them first")
        result = ring_resize(&ring.r, &p)
        if result == -EINVAL and contradictions(entries, &p):
            raise OSError(EINVAL, "; ".join(contradictions(entries, &p)))
        if result == -EOVERFLOW:
            raise OSError(EOVERFLOW, f"{ring_cq_ready(&ring.r)} completions wait, more than "
                          f"{p.cq_entries} entries hold: take some first")
        if result < 0:
            raise register_error(-result, URING_REGISTER_RESIZE_RINGS)
        if result > 0:
            ring.release()
            raise MemoryError("the new queues cannot be mapped: the ring is closed")

    # ---- kernel threads, network cards ------------------------------------------------------

    def register_iowq_aff(self, cpus):
        """Let the kernel threads for operations that must block run on these CPUs only (numbers;
        Linux 5.14).  With SQPOLL: those of the submission thread; else of the calling thread.
        Threads that exist already stay where they are."""
        # CPUs beyond those it has, and an empty mask, the kernel would take in silence.
        cdef int count = os.sysconf("SC_NPROCESSORS_CONF")
        cdef bytearray mask = bytearray((count + 63) // 64 * 8)
        for cpu in cpus:
            if not 0 <= cpu < count:
                raise ValueError(f"a CPU must be from 0 to {count - 1}, not {cpu}")
            mask[cpu // 8] |= 1 << cpu % 8
        if not any(mask):
            raise ValueError("at least one CPU is needed")
        self.register(URING_REGISTER_IOWQ_AFF, PyByteArray_AS_STRING(mask), <uint32_t>len(mask))

    def unregister_iowq_aff(self):
        """Let new ones run on every CPU again (Linux 5.14)."""
        self.register(URING_UNREGISTER_IOWQ_AFF, NULL, 0)

    def register_napi(self, busy_poll_to, bint prefer_busy_poll=False, int tracking=0):
        """Look for packets instead of sleeping: a wait polls the network cards' queues for up to
        `busy_poll_to` seconds first (Linux 6.9).

        prefer_busy_poll  and ask the cards for no interrupts meanwhile
        tracking          NapiTracking: which queues (6.13)

        Returns the NapiSettings before.
        """
        cdef uring_timespec ts = timespec_of(busy_poll_to, "busy_poll_to")
        if tracking:
            need(URING_OP_LISTEN, "napi tracking", "6.13")
        return self.napi(URING_REGISTER_NAPI, microseconds(
            min(ts.tv_sec, 4294) * 1_000_000_000 + ts.tv_nsec), prefer_busy_poll, 0, tracking)

    def unregister_napi(self):
        """Sleep at once again.  Returns the NapiSettings before (Linux 6.9)."""
        return self.napi(URING_UNREGISTER_NAPI, 0, False, 0, 0)

    def register_napi_add_id(self, unsigned int napi_id):
        """With NapiTracking.STATIC: poll this queue (its SO_INCOMING_NAPI_ID; Linux 6.13)."""
        self.napi(URING_REGISTER_NAPI, 0, False, URING_NAPI_STATIC_ADD_ID, napi_id)

    def register_napi_del_id(self, unsigned int napi_id):
        """Do not poll it any more (Linux 6.13)."""
        self.napi(URING_REGISTER_NAPI, 0, False, URING_NAPI_STATIC_DEL_ID, napi_id)

    cdef object napi(self, uint32_t opcode, uint32_t microseconds, bint prefer, uint8_t what,
                     uint32_t parameter):
        cdef Ring ring = <Ring>self
        cdef uring_napi reg
        cdef int result
        ring.check()
        memset(&reg, 0, sizeof(reg))
        reg.busy_poll_to = microseconds
        reg.prefer_busy_poll = prefer
        reg.opcode = what
        reg.op_param = parameter
        result = ring_register(&ring.r, opcode, &reg, 1)
        if result == -EEXIST and what == URING_NAPI_STATIC_ADD_ID:
            raise FileExistsError(EEXIST, f"the queue {parameter} is polled already")
        if result < 0:
            raise register_error(-result, opcode)
        return NapiSettings(reg.busy_poll_to / 1e6, bool(reg.prefer_busy_poll),
                            reg.op_param if opcode == URING_REGISTER_NAPI else None)

    def register_iowq_max_workers(self, unsigned int bounded=0, unsigned int unbounded=0):
        """Limit the kernel threads for operations that must block; 0 leaves a limit (5.15).

        `bounded` ones work on regular files, `unbounded` ones on all else.  The limits hold for
        every ring of the calling thread, or of the submission thread with SQPOLL; so a ring does
        not set any by itself.  Without them it may be as many as 4 for each CPU, and as the limit
        of processes (`ulimit -u`).  Returns the limits before: (bounded, unbounded).
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
    if result == -EINVAL and lacks_registration(URING_REGISTER_SEND_MSG_RING):
        raise lacking("sending a message without a ring", "6.13")
    if result < 0:
        raise OSError(-result, f"sending a message to a ring: {os.strerror(-result)}")
