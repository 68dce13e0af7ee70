"""Many file-system requests in flight at once, from one consumer or several.

An ``IOQueue`` is usable alone: it needs no runtime.  Requests are submitted with the methods named
after what they do, and come back, in the order of their completion, as the very objects that the
methods returned::

    with IOQueue() as queue:
        for path in paths:
            queue.stat(path)
        for request in queue.drain():
            print(request.path, request.error or request.value.st_size)

Worker threads carry them out, by plain system calls or by a ring of their own, whichever was
measured to be faster; see docs/ioqueue.md.  In a fiber a wait parks only the fiber.
"""

from ferrule._core.io_queue import Entry, IOQueue, OpenDirectory, QueueFull, Request, Results
from ferrule._core.stat_result import StatResult

__all__ = ["Entry", "IOQueue", "OpenDirectory", "QueueFull", "Request", "Results", "StatResult"]
