"""Which test files run on one engine after another, and why the others do not."""

from __future__ import annotations

from fnmatch import fnmatch

# A file that is not here runs on every engine.
ON_NO_ENGINE = {
    "test_ring_*": "the binding of io_uring, which needs no runtime",
    "test_wakeups": "how rings wake each other",
    "test_threads_backend": "what only the engine of threads has",
    "test_backend_choice": "which engine is chosen",
    "test_libkqueue": "what that library does, without us",
    "test_doctor": "reports on every engine, whichever is used",
    "test_backend_docs": "reads the documents",
    "test_layers": "reads the sources",
    "test_portability": "compiles for other systems",
    "test_seed_map": "reads the documents",
    "test_stubs": "compares the stubs with the modules",
    "test_bench*": "the benchmarks' own arithmetic",
    "test_conditions": "a function of a request's fields",
    "test_http_request": "a parser",
    "test_entry_filter": "compiled filters, without a runtime",
    "test_find*": "ferrule find, which starts no runtime",
    "test_walk_ignore": "rules of walks, which need no runtime",
    "test_ioqueue_operations": "the I/O queue alone, which needs no runtime",
}


def why_on_no_engine(module: str) -> str | None:
    """Why the tests of a module do not run on one engine after another; None: they do."""
    for pattern, reason in ON_NO_ENGINE.items():
        if fnmatch(module, pattern):
            return reason
    return None
