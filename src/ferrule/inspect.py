"""Seeing inside a running program: what every fiber does, and what it waits for.

`fibers`, `tree` and `print_tree` show a runtime at one moment, from a fiber of it, from another
thread or from a signal handler; `snapshot` is all of that at once.  `watchdog` reports fibers that
keep their thread or wait too long, and `dump_on_signal` prints everything when a signal arrives.
"""

from ferrule.snapshots import (
    Fiber,
    Node,
    Scope,
    Snapshot,
    Wait,
    fibers,
    print_tree,
    snapshot,
    statistics,
    tree,
)
from ferrule.watchdog import Report, dump_on_signal, watchdog

__all__ = [
    "Fiber", "Node", "Report", "Scope", "Snapshot", "Wait", "dump_on_signal", "fibers",
    "print_tree", "snapshot", "statistics", "tree", "watchdog",
]
