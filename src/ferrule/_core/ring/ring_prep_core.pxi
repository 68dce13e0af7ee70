# Preparing operations: the root of the classes whose prep_ methods Ring and SQE share, and the
# operations that are about other operations.  The methods of a Ring take its next free SQE; those
# of an SQE fill that one.


@cython.freelist(256)
cdef class Operations:
    """Preparing operations: no-op, poll, timeout, cancel, message.

    Each prep_ method fills one SQE and returns it.  Called on a Ring it takes the next free one,
    and leaves nothing queued when it raises: SubmissionQueueFull when submit() has to be called
    first, NotSupported when the kernel lacks the operation, TypeError and ValueError for what the
    arguments deserve.  `user_data` is any object; the completion gives it back.
    """
    # All of SQE's fields are here because Cython keeps a freelist for a root class only, and uses
    # it for subclasses that add none.  In a Ring they stay empty.
    cdef Ring owner
    cdef uring_sqe *raw          # NULL until a place in the queue was taken
    cdef Operation *op
    cdef uint64_t number         # the kernel's user_data: slot and generation
    cdef uint64_t sequence       # how many SQEs were handed out before this one
    cdef bint filled             # by a prep_ method

    # The SQE that the next prep_ method fills.
    cdef SQE place(self):
        raise NotImplementedError

    def prep_nop(self, user_data=None, *, unsigned int flags=0, int result=0, int fd=-1):
        """Do nothing; complete with 0 (Linux 5.1).

        flags   NopFlags, for tests: INJECT_RESULT completes with `result` (6.11); FILE and
                FIXED_FILE look `fd` up, FIXED_BUFFER a registered buffer (buf_index; 6.13); TW
                completes through task work (6.16); CQE32 with a 32-byte completion (6.18)
        """
        cdef SQE sqe = self.place()
        sqe.begin(URING_OP_NOP)
        sqe.fill(fd, NULL, <uint32_t>result, 0)
        sqe.raw.op_flags = flags
        return sqe.tag(user_data)

    def prep_poll_add(self, file, unsigned int mask, *, user_data=None):
        """Wait until one of `mask` (select.POLLIN, ...) is so (Linux 5.1).  res: what is so."""
        return self.place().poll(file, mask, 0).tag(user_data)

    def prep_poll_multishot(self, file, unsigned int mask, *, user_data=None):
        """The same, with a completion at every change, `more` while it goes on (Linux 5.13)."""
        need(URING_OP_RENAMEAT, "a multishot poll", "5.13")
        return self.place().poll(file, mask, URING_POLL_ADD_MULTI).tag(user_data)

    def prep_poll_remove(self, target, *, user_data=None):
        """End a poll: `target` is its SQE or its user_data.  res: 0, or -ENOENT."""
        cdef SQE sqe = self.place()
        cdef uint64_t key = sqe.owner.key_of(target, sqe.op)
        sqe.begin(URING_OP_POLL_REMOVE)
        sqe.fill(-1, <void *><uintptr_t>key, 0, 0)
        return sqe.tag(user_data)

    def prep_poll_update(self, target, unsigned int mask, bint multishot=True, *, user_data=None):
        """Change what a poll waits for (Linux 5.13).  res: 0, -ENOENT or -EALREADY."""
        cdef SQE sqe = self.place()
        cdef uint64_t key = sqe.owner.key_of(target, sqe.op)
        sqe.begin(URING_OP_POLL_REMOVE)
        sqe.fill(-1, <void *><uintptr_t>key,
                 URING_POLL_UPDATE_EVENTS | (URING_POLL_ADD_MULTI if multishot else 0), 0)
        sqe.raw.op_flags = fe_poll_word(mask)
        return sqe.tag(user_data)

    def prep_cancel(self, target=None, unsigned int flags=0, opcode=None, *, user_data=None):
        """Cancel what matches (Linux 5.5; every flag 5.19, `opcode` 6.6).

        target  the SQE to cancel, or a user_data; not used with CancelFlags.ANY
        flags   ALL: every match, res being their number, 0 when there is none.  ANY: whatever.
        opcode  only operations of this kind (Op), alone or together with the target
        res     0, -ENOENT (no match), -EALREADY (runs and cannot be stopped; its result comes)

        The cancelled operation completes too, usually with -ECANCELED.
        """
        cdef SQE sqe = self.place()
        cdef uint64_t key = 0
        cdef uint32_t kind = 0
        if opcode is not None:
            kind = opcode
            flags |= URING_CANCEL_OP
        if target is not None:
            key = sqe.owner.key_of(target, sqe.op)
            if opcode is not None:
                flags |= URING_CANCEL_USERDATA
        elif not flags & (URING_CANCEL_ANY | URING_CANCEL_OP):
            # user_data None is ours to mean: no operation was named.
            raise ValueError("cancel what? give a target, an opcode, or CancelFlags.ANY")
        if flags & URING_CANCEL_FD:
            raise ValueError("cancelling by descriptor is prep_cancel_fd")
        sqe.begin(URING_OP_ASYNC_CANCEL)
        sqe.fill(-1, <void *><uintptr_t>key, kind, 0)
        sqe.raw.op_flags = flags
        return sqe.tag(user_data)

    def prep_cancel64(self, uint64_t key, unsigned int flags=0, *, user_data=None):
        """prep_cancel by the kernel's own 64-bit user_data (SQE.key)."""
        cdef SQE sqe = self.place()
        sqe.begin(URING_OP_ASYNC_CANCEL)
        sqe.fill(-1, <void *><uintptr_t>key, 0, 0)
        sqe.raw.op_flags = flags
        return sqe.tag(user_data)

    def prep_cancel_fd(self, file, unsigned int flags=0, opcode=None, *, user_data=None):
        """Cancel by open file (Linux 5.19): dup'ed descriptors match too.

        With CancelFlags.FD_FIXED `file` is an index of the registered files.
        """
        cdef SQE sqe = self.place()
        cdef int fd = sqe.descriptor(file)
        cdef uint32_t kind = 0
        if opcode is not None:
            kind = opcode
            flags |= URING_CANCEL_OP
        sqe.begin(URING_OP_ASYNC_CANCEL)
        sqe.fill(fd, NULL, kind, 0)
        sqe.raw.op_flags = flags | URING_CANCEL_FD
        sqe.keep_file(file)
        return sqe.tag(user_data)

    def prep_timeout(self, seconds, unsigned int count=0, unsigned int flags=0, *, user_data=None):
        """Complete after `seconds` (res -ETIME) or `count` other completions (res 0; 5.4).

        flags  TimeoutFlags: ABS, `seconds` is a time of the clock; BOOTTIME, REALTIME, another
               clock than the monotonic (5.15); ETIME_SUCCESS, do not break a link (5.16);
               MULTISHOT, again and again, `count` times (0: for ever; 6.4; not with ABS)
        """
        return self.place().timer(URING_OP_TIMEOUT, 0, seconds, count, flags).tag(user_data)

    def prep_timeout_remove(self, target, unsigned int flags=0, *, user_data=None):
        """Cancel a timeout, named by its SQE or user_data (Linux 5.5).  res: 0 or -ENOENT."""
        cdef SQE sqe = self.place()
        cdef uint64_t key = sqe.owner.key_of(target, sqe.op)
        sqe.begin(URING_OP_TIMEOUT_REMOVE)
        sqe.fill(-1, <void *><uintptr_t>key, 0, 0)
        sqe.raw.op_flags = flags
        return sqe.tag(user_data)

    def prep_timeout_update(self, target, seconds, unsigned int flags=0, *, user_data=None):
        """Give a timeout a new duration (Linux 5.11; TimeoutFlags.LINK_UPDATE for a linked one)."""
        cdef SQE sqe = self.place()
        cdef uint64_t key = sqe.owner.key_of(target, sqe.op)
        sqe.timer(URING_OP_TIMEOUT_REMOVE, key, seconds, 0, flags | URING_TIMEOUT_UPDATE)
        return sqe.tag(user_data)

    def prep_link_timeout(self, seconds, unsigned int flags=0, *, user_data=None):
        """Limit the operation queued just before, which must have link() set (Linux 5.5).

        res: -ETIME when it struck (the operation: -ECANCELED), -ECANCELED when it did not.
        """
        return self.place().timer(URING_OP_LINK_TIMEOUT, 0, seconds, 0, flags).tag(user_data)

    def prep_msg_ring(self, target, unsigned int res, uint64_t data, unsigned int flags=0, *,
                      user_data=None):
        """Post a completion into another ring: its res, and `data` as its user_data (5.18).

        target  a Ring, or the descriptor of any ring.  A Ring of this package receives data below
                2**63; its descriptor alone is for rings made by others: name the Ring itself.
        flags   MsgRingFlags.CQE_SKIP: do not complete here when it succeeds
        """
        return self.place().message(target, URING_MSG_DATA, res, data, flags).tag(user_data)

    def prep_msg_ring_cqe_flags(self, target, unsigned int res, uint64_t data, unsigned int flags,
                                unsigned int cqe_flags, *, user_data=None):
        """prep_msg_ring, with CqeFlags for the other ring's completion (Linux 6.3)."""
        cdef SQE sqe = self.place()
        need(URING_OP_SENDMSG_ZC, "prep_msg_ring_cqe_flags", "6.3")
        sqe.message(target, URING_MSG_DATA, res, data, flags | URING_MSG_RING_FLAGS_PASS)
        sqe.raw.file_index = cqe_flags
        return sqe.tag(user_data)

    def prep_msg_ring_fd(self, target, unsigned int source_slot, unsigned int target_slot,
                         uint64_t data, unsigned int flags=0, *, user_data=None):
        """Install registered file `source_slot` of this ring in `target_slot` of another's table.

        The other ring gets a completion with the slot as its res and `data` as its user_data,
        unless MsgRingFlags.CQE_SKIP is given.  target_slot may be FILE_INDEX_ALLOC.  Linux 6.0.
        """
        cdef SQE sqe = self.place()
        need(URING_OP_SEND_ZC, "prep_msg_ring_fd", "6.0")
        sqe.message(target, URING_MSG_SEND_FD, 0, data, flags)
        sqe.raw.addr3 = source_slot
        sqe.direct(target_slot)
        return sqe.tag(user_data)

    def prep_msg_ring_fd_alloc(self, target, unsigned int source_slot, uint64_t data,
                               unsigned int flags=0, *, user_data=None):
        """prep_msg_ring_fd into whichever slot is free there."""
        return self.prep_msg_ring_fd(
            target, source_slot, <uint32_t>URING_FILE_INDEX_ALLOC, data, flags, user_data=user_data)
