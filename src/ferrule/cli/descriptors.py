"""The limit on open files."""

from __future__ import annotations

import resource


def allow_open_files(needed: int) -> int:
    """Raise the soft limit to ``needed`` descriptors or as near as the hard limit allows.

    Returns the soft limit that holds then.  Never lowers it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = needed if hard == unlimited else min(needed, hard)
    if soft == unlimited:
        return max(needed, soft)
    if wanted > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft
        return wanted
    return soft
