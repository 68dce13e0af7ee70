"""Ferrule: virtual threads for Python on io_uring."""

__version__ = "0.1.0"
