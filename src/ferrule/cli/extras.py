"""What ``pip install 'ferrule[cli]'`` brings, and the message for who has not got it."""

from __future__ import annotations

import importlib
import importlib.util


class MissingExtra(Exception):
    """A package of an extra is not installed."""


def require(package: str, purpose: str) -> None:
    """Make sure ``package`` can be imported.  Raises MissingExtra with the remedy."""
    try:
        importlib.import_module(package)
    except ImportError as exc:
        raise MissingExtra(
            f"{purpose} needs the package {package!r}, which cannot be imported ({exc}).  "
            "Install it with:  pip install 'ferrule[cli]'"
        ) from exc


def is_available(package: str) -> bool:
    """Whether ``package`` is installed."""
    return importlib.util.find_spec(package) is not None
