# The loop threads of one runtime, and what they share.

@cython.final
cdef class Crew:
    def __init__(self, new_backend, size_t size, max_fibers):
        if not 1 <= size <= <size_t>IDLE_THREADS_MAX:
            raise ValueError(f"threads must be 1 to {IDLE_THREADS_MAX}, not {size}")
        self.new_backend = new_backend
        self.size = size
        self.max_fibers = 0xffffffff if max_fibers is None else max_fibers
        self.threads = []
        self.overflow = collections.deque()
        self.schedulers = []
        self.schedulers.append(Scheduler(self, new_backend()))
        self.root = CancelScope()
        self.root.home = self.schedulers[0]
        self.root.members = set()

    # ---- tasks ----

    cdef int enter_task(self, Task task) except -1:
        """Make a new task a member of its scope, or refuse it."""
        cdef CancelScope scope = task.parent
        cdef bint full, ending, enters = True
        mutex_lock(&self.guard)
        try:
            full = self.live_tasks >= self.max_fibers
            ending = self.stopping
            if not full and not ending:
                enters = scope.add_member(task)
            if not full and not ending and enters:
                task.effective = scope.effective
                self.live_tasks += 1
        finally:
            mutex_unlock(&self.guard)
        if ending:
            raise ConcurrencyUnavailable("the runtime is ending")
        if full:
            raise ConcurrencyUnavailable(f"max_fibers={self.max_fibers} tasks have not ended")
        return check_entered(enters)

    cdef int enter_group(self, Task task, GroupScope group) except -1:
        """Make a task that its spawner runs itself a member of a group."""
        mutex_lock(&self.guard)
        try:
            enters = group.add_member(task)
        finally:
            mutex_unlock(&self.guard)
        return check_entered(enters)

    cdef int stop_if_done(self) except -1:
        """Step 3 of the shutdown, for whoever ended a task."""
        cdef Scheduler s
        mutex_lock(&self.guard)
        cdef bint stops = self.live_tasks == 0 and not self.stopping
        self.stopping = self.stopping or stops
        mutex_unlock(&self.guard)
        if stops:
            for s in self.schedulers:
                s.rouse()
        return 0

    cdef int root_fails(self, exc) except -1:
        """End the run with ``exc``: cancel everything; the first failure is what run() raises."""
        mutex_lock(&self.guard)
        if self.failure is None:
            self.failure = exc
        mutex_unlock(&self.guard)
        return self.root.cancel_now()

    def outcome(self):
        """What run() returns or raises."""
        cdef Task main = self.main
        self.main = None
        failure = KeyboardInterrupt() if self.interrupted else self.failure
        self.failure = None
        if failure is None:
            return main.result()
        if main.outcome == RAISED and failure.__context__ is None and failure is not main.value:
            failure.__context__ = main.value  # what went wrong while it was ending
        raise failure

    def interrupt(self):
        """Ctrl-C: called from the signal handler, in any state of the loop."""
        cdef Scheduler first = self.schedulers[0]
        self.interrupted = True
        first.post(self.root.cancel)

    def external_work(self, int change):
        """Work outside that may wake a fiber begins (1) or has ended (-1).  From any thread."""
        cdef Scheduler s
        mutex_lock(&self.guard)
        self.external_waits += change
        cdef bint ended = self.external_waits == 0
        mutex_unlock(&self.guard)
        if ended:  # who relied on it has to look whether anything else can wake a fiber
            for s in self.schedulers:
                if s.relies_on_outside:
                    s.rouse()

    # ---- threads ----

    cdef int task_waits(self) except -1:
        """There is a new task that any thread may take: see to it that one comes for it."""
        cdef int index = idle_claim(&self.idle)
        if index >= 0:
            (<Scheduler>self.schedulers[index]).rouse()
        elif (index == IDLE_ALL_AWAKE and len(self.schedulers) < self.size
                and not self.no_more):
            self._add_thread()
        return 0

    cdef int deal(self, Task task) except -1:
        """Give a new task to the thread whose turn it is: tests leave no chance in it."""
        if len(self.schedulers) < self.size and not self.no_more:
            self._add_thread()
        self.dealt += 1
        cdef Scheduler s = self.schedulers[self.dealt % len(self.schedulers)]
        if s.closed:
            s = self.schedulers[0]
        task.scheduler = task.home = s
        return wake(task)

    cdef int _add_thread(self) except -1:
        """Start one more thread, unless one is being started, which will look for work itself."""
        cdef Scheduler s = None
        mutex_lock(&self.guard)
        cdef bint starts = not self.starting and not self.stopping
        self.starting = self.starting or starts
        mutex_unlock(&self.guard)
        if not starts:
            return 0
        try:
            s = Scheduler(self, self.new_backend())
            thread = threading.Thread(target=s.run_beside, name=f"ferrule-loop-{s.index}",
                                      daemon=True)
            thread._ferrule_worker = True  # for the deadlock check: not a foreign one
            self.schedulers.append(s)
            thread.start()
            self.threads.append(thread)
        except (OSError, MemoryError, RuntimeError):
            self.no_more = True
            if s is not None:
                s.give_up()
        finally:
            self.starting = False
        return 0

    cdef int join_threads(self) except -1:
        for thread in self.threads:  # grows meanwhile if one of them was just starting another
            thread.join()
        return 0

    cdef bint has_work(self) except -1:
        """Whether there is a new task that a thread could take."""
        cdef Scheduler s
        if self.overflow:
            return True
        for s in self.schedulers:
            if steal_queue_count(&s.new_tasks):
                return True
        return False

    cdef bint is_quiet(self) except -1:
        """Whether every thread waits, or is about to, and nothing it has could end that."""
        mutex_lock(&self.guard)
        cdef bint quiet = self._is_quiet()
        mutex_unlock(&self.guard)
        return quiet

    cdef bint begin_report(self, Scheduler s) except -1:
        """Whether all are quiet; then ``s``, which asks, is not: it is to do something about it.

        Of several threads that ask at once one is told so; the others see that it is at work.
        """
        mutex_lock(&self.guard)
        cdef bint quiet = self._is_quiet()
        if quiet:
            quiet_end(&s.quiet)
        mutex_unlock(&self.guard)
        return quiet

    cdef bint _is_quiet(self) except -1:
        cdef Scheduler s
        cdef uint64_t changes, before = 0, after = 0
        cdef bint quiet = not self.stopping
        for s in self.schedulers:
            changes = quiet_changes(&s.quiet)
            quiet = quiet and changes & 1
            before += changes
        quiet = quiet and not self.external_waits and not self.has_work()
        for s in self.schedulers:
            quiet = quiet and not s.ready_count and inbox_is_empty(&s.inbox)
        for s in self.schedulers:
            after += quiet_changes(&s.quiet)
        return quiet and before == after


cdef int check_entered(bint enters) except -1:
    if not enters:
        raise RuntimeError("the group has been left")
    return 0
