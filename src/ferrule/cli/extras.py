"""What ``pip install 'ferrule[cli]'`` brings, and the message for who has not got it."""

from __future__ import annotations

import importlib


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
    """Whether ``package`` is installed and can be imported."""
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True
