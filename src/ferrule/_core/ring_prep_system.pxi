# Operations on what is neither a file nor a socket: futexes, processes, epoll, drivers, the ring
# itself.


cdef class SystemOperations(SocketOperations):
    """Preparing operations on futexes, child processes, epoll, drivers and the ring's tables."""
