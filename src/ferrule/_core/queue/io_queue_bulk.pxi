# Many requests of one kind: made in C from a list, without a Python object for each.

cdef enum:
    BULK_WINDOW = 256           # in flight at once: enough for some rings, and stays in the cache


@cython.final
cdef class Bulk:
    """One call of a bulk method, with a client of its own."""
    cdef IOQueue queue
    cdef Client client
    cdef What what
    cdef object items           # a list or tuple
    cdef list results
    cdef Py_ssize_t sent, collected
    cdef int directory
    cdef uint32_t flags
    cdef uint64_t mode
    cdef bint return_errors
    cdef bint in_turn           # results are (item, result) in the order of their coming
    cdef object failure         # the first that there was, when errors are raised

    cdef list run(self):
        self.results = [None] * len(self.items)
        self.begin()
        while self.go_on():
            pass
        return self.results

    cdef int begin(self) except -1:
        self.client = self.queue._take_client()
        return 0

    cdef bint go_on(self) except -1:
        """Collect some; False when there is no more.  Once this has raised, it is over."""
        if self.client is None:
            return False
        try:
            if self.collected < self._wanted():
                self._send()
                if not self._collect():
                    self._wait()
                return True
        except BaseException:
            self.break_off()
            raise
        self.client.c.cancelled = False
        self.queue.spare.append(self.client)
        self.client = None
        if self.failure is not None:
            raise self.failure
        return False

    cdef int break_off(self) except -1:
        """What has begun goes on; nobody waits for it."""
        cdef Client client = self.client
        if client is not None:
            self.client = None
            io_client_cancel(&client.c)
            self.queue.orphans.append(client)
        return 0

    cdef Py_ssize_t _wanted(self) except -1:
        """After a failure only what was sent."""
        return self.sent if self.failure is not None else len(self.items)

    cdef int _send(self) except -1:
        cdef Py_ssize_t end = min(self._wanted(), self.collected + BULK_WINDOW)
        while self.sent < end:
            self._send_one(self.items[self.sent])
            self.sent += 1
        return 0

    cdef int _send_one(self, item) except -1:
        cdef io_request *r
        cdef int directory = self.directory
        if self.what == WRITE_FILE:
            r = self._write_file(item)
        else:
            encoded = (encode_path_or_fd(item, &directory) if self.what == STAT
                       else encode(item))
            r = self.client.request(room_for_path(self.what, encoded))
            fill_path(r, self.what, encoded, directory, self.flags, self.mode)
        r.op.waiter = <void *>self.sent
        io_client_submit(&self.client.c, r)
        return 0

    cdef io_request *_write_file(self, item) except NULL:
        path, data = item
        cdef Request lender = new_request(WRITE_FILE, path, None)
        cdef io_request *r
        encoded = encode(path)
        lend(lender, data)
        r = self.client.request(room_for(encoded))
        fill_write_file(r, encoded, self.directory, self.flags, <mode_t>self.mode)
        r.source = <const char *>lender.view.buf
        r.limit = lender.view.len
        self.client.held[r.op.index] = lender
        return r

    cdef Py_ssize_t _collect(self) except -1:
        """Take what is answered; how many there were."""
        cdef io_request *out[POPPED_AT_ONCE]
        cdef uint32_t n = io_client_pop(&self.client.c, out, POPPED_AT_ONCE), i
        for i in range(n):
            try:
                self._take(out[i])
            except BaseException:
                put_back(self.client, out + i, n - i)
                raise
            self.collected += 1
        return n

    cdef int _take(self, io_request *r) except -1:
        cdef Py_ssize_t position = <Py_ssize_t>r.op.waiter
        item = self.items[position]
        path = item[0] if self.what == WRITE_FILE else item
        if r.result >= 0:
            self._keep(position, item, value_of(self.what, r, path, None))
        elif self.return_errors:
            self._keep(position, item, error_of(r.result, path))
        elif self.failure is None:
            self.failure = error_of(r.result, path)
            io_client_cancel(&self.client.c)
        self.client.held[r.op.index] = None
        io_client_free(&self.client.c, r)
        return 0

    cdef int _keep(self, Py_ssize_t position, item, result) except -1:
        if self.in_turn:
            self.results.append((item, result))
        else:
            self.results[position] = result
        return 0

    cdef int _wait(self) except -1:
        """Half of what is in flight: then there is work for the workers while this goes on."""
        cdef Py_ssize_t in_flight = self.sent - self.collected
        self.queue._check_open()
        check_cancelled()
        if in_flight:
            self.queue._wait(self.client, in_flight - in_flight // 2, 0)
        spend_budget()
        self.queue._check_open()
        return 0


@cython.final
cdef class Results:
    """An iterator over (path, result) of many requests, in the order of their coming."""
    cdef Bulk bulk
    cdef Py_ssize_t at
    cdef mutex guard            # of the next line
    cdef bint busy              # a fiber or thread is inside

    def __iter__(self):
        return self

    def __next__(self):
        self._enter()
        try:
            return self._next()
        finally:
            self.busy = False

    cdef int _enter(self) except -1:
        mutex_lock(&self.guard)
        cdef bint busy = self.busy
        self.busy = True
        mutex_unlock(&self.guard)
        if busy:
            raise ValueError("another fiber or thread waits in this iterator")
        return 0

    cdef object _next(self):
        cdef list found = self.bulk.results
        while self.at >= len(found):
            self.at = 0
            found.clear()
            if not self.bulk.go_on():
                raise StopIteration
        result = found[self.at]
        found[self.at] = None  # it is the caller's alone
        self.at += 1
        return result

    def close(self):
        """Drop what has not come.  Idempotent; not a switch point."""
        self._enter()
        self.bulk.break_off()
        self.busy = False

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __del__(self):
        if self.bulk is not None:
            self.bulk.break_off()


cdef Results results_of(Bulk bulk):
    cdef Results results = Results.__new__(Results)
    bulk.in_turn = True
    bulk.results = []
    results.bulk = bulk
    bulk.begin()
    return results


cdef int put_back(Client client, io_request **out, uint32_t n) except -1:
    """Popped, and not finished for want of memory: they are the next again."""
    while n:
        n -= 1
        io_client_unpop(&client.c, out[n])
    return 0
