"""Preconditions and ranges: which status a request for a file gets, and which of its bytes."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus

# Nineteen digits hold every file size; longer numbers are not worth converting.
_RANGE = re.compile(rb"bytes[ \t]*=[ \t]*(\d{0,19})-(\d{0,19})[ \t]*", re.IGNORECASE)
_TAG = re.compile(rb'(?:W/)?"[^"]*"')


@dataclass(slots=True, frozen=True)
class Selection:
    """The answer: a status, and the half-open range of bytes that goes with it."""

    status: HTTPStatus
    start: int = 0
    stop: int = 0


def select(
    method: bytes,
    fields: Mapping[bytes, bytes],
    *,
    size: int,
    etag: bytes,
    modified: int,
) -> Selection:
    """Evaluate the conditional and range fields, in the order of RFC 9110 section 13.2.2.

    ``modified`` is in whole seconds since the epoch, ``etag`` a strong tag with its quotes.
    """
    if not fields:
        return Selection(HTTPStatus.OK, 0, size)
    if not _may_proceed(fields, etag, modified):
        return Selection(HTTPStatus.PRECONDITION_FAILED)
    if _is_unchanged(fields, etag, modified):
        return Selection(HTTPStatus.NOT_MODIFIED)
    spec = fields.get(b"range")
    if spec is None or method != b"GET" or not _range_applies(fields, etag, modified):
        return Selection(HTTPStatus.OK, 0, size)
    return _select_range(spec, size)


def _may_proceed(fields: Mapping[bytes, bytes], etag: bytes, modified: int) -> bool:
    tags = fields.get(b"if-match")
    if tags is not None:
        return tags == b"*" or etag in _TAG.findall(tags)
    date = _parse_date(fields.get(b"if-unmodified-since"))
    return date is None or modified <= date


def _is_unchanged(fields: Mapping[bytes, bytes], etag: bytes, modified: int) -> bool:
    tags = fields.get(b"if-none-match")
    if tags is not None:
        # The weak comparison: caches between us may have weakened our tag.
        return tags == b"*" or etag in (tag.removeprefix(b"W/") for tag in _TAG.findall(tags))
    date = _parse_date(fields.get(b"if-modified-since"))
    return date is not None and modified <= date


def _range_applies(fields: Mapping[bytes, bytes], etag: bytes, modified: int) -> bool:
    condition = fields.get(b"if-range")
    if condition is None:
        return True
    if condition.startswith((b'"', b"W/")):
        return condition == etag
    # A date is a strong validator only if the file cannot have changed again within its second.
    return _parse_date(condition) == modified and modified < time.time() - 1


def _select_range(spec: bytes, size: int) -> Selection:
    """One range; anything else in the field (several, other units, nonsense) is ignored."""
    whole = Selection(HTTPStatus.OK, 0, size)
    match = _RANGE.fullmatch(spec)
    if match is None or size == 0:
        return whole
    first, last = match.groups()
    if not first:
        if not last:
            return whole
        length = min(int(last), size)
        if length == 0:
            return Selection(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
        return Selection(HTTPStatus.PARTIAL_CONTENT, size - length, size)
    start = int(first)
    if last and int(last) < start:
        return whole
    if start >= size:
        return Selection(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
    stop = min(int(last) + 1, size) if last else size
    return Selection(HTTPStatus.PARTIAL_CONTENT, start, stop)


def _parse_date(value: bytes | None) -> int | None:
    """Seconds since the epoch; None for no date and for what is none."""
    if value is None or len(value) > 64:
        return None
    try:
        date = parsedate_to_datetime(value.decode("ascii"))
        return int(date.replace(tzinfo=date.tzinfo or UTC).timestamp())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
