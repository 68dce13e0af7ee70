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

# On other engines than uring only by `make soak`: what stands above the engines, and takes long.
BY_SOAK = {
    "test_examples": "whole programs, in processes of their own",
    "test_demo": "whole programs, in processes of their own",
    "test_serve": "a whole program; its parts are sockets and files",
    "test_serve_security": "a whole program, and its time limits",
    "test_static_files": "a part of that program",
    "test_file_tree": "a part of that program",
    "test_inspect": "pictures of tasks",
    "test_watchdog": "pictures of tasks",
    "test_task_trees": "random programs of tasks, without I/O",
    "test_soak": "long by intent",
    "test_walk*": "walks, whose only operation is one poll",
    "test_ioqueue*": "the queue, whose only operation is one poll",
    "test_threads": "several loop threads, whatever they wait in",
    "test_misuse": "mistakes, found before an engine is asked",
    "test_map": "made of groups and queues",
    "test_executor": "made of groups and queues",
    "test_local": "storage of tasks",
    "test_context": "storage of tasks",
}


def why_on_no_engine(module: str) -> str | None:
    """Why the tests of a module do not run on one engine after another; None: they do."""
    return reason_for(module, ON_NO_ENGINE)


def reason_for(module: str, reasons: dict[str, str]) -> str | None:
    for pattern, reason in reasons.items():
        if fnmatch(module, pattern):
            return reason
    return None
