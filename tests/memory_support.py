"""How much memory this process holds, for tests that it must not grow."""

import ctypes
import os


def memory_in_use() -> int:
    """Bytes resident; under AddressSanitizer, which keeps freed blocks for a while, allocated."""
    if "SANITIZE_DIR" in os.environ:
        allocated = ctypes.CDLL(None).__sanitizer_get_current_allocated_bytes
        allocated.restype = ctypes.c_size_t
        return int(allocated())
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
