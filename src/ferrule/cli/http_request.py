"""From bytes to requests: httptools does the parsing, this holds the limits and the status codes.

No I/O here.  A `RequestReader` is fed whatever arrived and hands out complete requests in order;
after an error it hands out nothing more, because where the next request starts is unknown.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from http import HTTPMethod, HTTPStatus
from urllib.parse import unquote_to_bytes

import httptools

# The header fields this server acts on; the others are counted and dropped.
_USED_FIELDS = frozenset(
    (
        b"host",
        b"range",
        b"if-range",
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
        b"expect",
    )
)
_LIST_FIELDS = frozenset((b"if-match", b"if-none-match"))
_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*", re.ASCII)
_REQUEST_LINE = re.compile(rb"^([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) [!-~]+ HTTP/1\.[01]\r$", re.M)
_METHODS = frozenset(method.value.encode() for method in HTTPMethod)
_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class RequestError(Exception):
    """A request that gets an error response."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(slots=True)
class RequestLimits:
    """How large a request may be, in bytes."""

    target: int = 8 * 1024
    header: int = 32 * 1024
    header_fields: int = 100
    body: int = 64 * 1024


@dataclass(slots=True)
class Request:
    """One request.  Field names are lower case; only those this server acts on are kept."""

    method: bytes
    target: bytes
    version: str
    keep_alive: bool
    fields: dict[bytes, bytes] = field(default_factory=dict)
    repeated: set[bytes] = field(default_factory=set)


class RequestReader:
    """Collects requests out of a byte stream.  Belongs to one connection."""

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits
        self._ready: deque[Request] = deque()
        self._error: RequestError | None = None
        self._pending = 0
        self._in_body = False
        self._restart()

    def feed(self, data: bytes) -> None:
        """Take bytes that arrived.  Never raises: errors come out of `take`, in their turn."""
        if self._error is not None:
            return
        self._pending += len(data)
        rest = data
        while rest:
            rest = self._parse(rest)
        if self._error is None:
            self._check_pending()

    def take(self) -> Request | None:
        """The next complete request; None if there is none.  Raises the error that ended them."""
        if self._ready:
            return self._ready.popleft()
        if self._error is not None:
            raise self._error
        return None

    @property
    def idle(self) -> bool:
        """Nothing of a next request has arrived."""
        return not self._pending and not self._ready and self._error is None

    @property
    def awaits_continue(self) -> Request | None:
        """The request whose sender waits for "100 Continue" before the body; asked once."""
        if not self._in_body or self._error is not None or self._ready:
            return None
        request = self._request
        if not request.fields.pop(b"expect", b"") or request.version == "1.0":
            return None
        return request

    def _parse(self, data: bytes) -> bytes:
        """Parse; return what is left when the parser stopped behind an upgrade request."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            # Upgrades are declined by going on as before; llhttp wants a fresh start for that.
            self._restart()
            return data[exc.args[0] :]
        except httptools.HttpParserInvalidMethodError:
            self._fail_method(data)
        except httptools.HttpParserInvalidURLError:
            self._fail(HTTPStatus.BAD_REQUEST, "the request target is malformed")
        except httptools.HttpParserError as exc:
            if "version" in str(exc) and "Invalid" in str(exc):
                self._fail(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.0 and 1.1 are spoken")
            else:
                self._fail(HTTPStatus.BAD_REQUEST, str(exc))
        return b""

    def _restart(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._begin()

    def _begin(self) -> None:
        self._target = b""
        self._fields: dict[bytes, bytes] = {}
        self._repeated: set[bytes] = set()
        self._field_count = self._header_size = self._body_size = 0

    def _fail(self, status: HTTPStatus, detail: str) -> None:
        if self._error is None:
            self._error = RequestError(status, detail)

    def _fail_method(self, data: bytes) -> None:
        # Only the status depends on this guess; the connection ends either way.
        if any(method not in _METHODS for method in _REQUEST_LINE.findall(data)):
            self._fail(HTTPStatus.NOT_IMPLEMENTED, "this method is not known here")
        else:
            self._fail(HTTPStatus.BAD_REQUEST, "this is not an HTTP request")

    def _check_pending(self) -> None:
        """Bound what an unfinished request may pour in, chunk extensions and blank lines too."""
        if self._in_body:
            if self._pending > self._limits.header + 4 * self._limits.body:
                self._fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request body is too large")
        elif self._pending <= self._limits.header:
            return
        elif self._field_count == 0 and len(self._target) > self._limits.target:
            self._fail(HTTPStatus.REQUEST_URI_TOO_LONG, "the request target is too long")
        else:
            self._fail(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the header is too large")

    # ---- what httptools calls ----

    def on_message_begin(self) -> None:
        self._begin()
        self._pending = self._pending or 1

    def on_url(self, part: bytes) -> None:
        self._target += part
        if len(self._target) > self._limits.target:
            self._fail(HTTPStatus.REQUEST_URI_TOO_LONG, "the request target is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            return  # a trailer
        self._field_count += 1
        self._header_size += len(name) + len(value) + 4
        if self._field_count > self._limits.header_fields:
            self._fail(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too many header fields")
        elif self._header_size > self._limits.header:
            self._fail(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the header is too large")
        name = name.lower()
        if name in _USED_FIELDS:
            self._keep_field(name, value.strip())

    def _keep_field(self, name: bytes, value: bytes) -> None:
        before = self._fields.get(name)
        if before is None:
            self._fields[name] = value
        elif name in _LIST_FIELDS:
            self._fields[name] = before + b", " + value
        else:
            self._repeated.add(name)

    def on_headers_complete(self) -> None:
        self._in_body = True
        self._request = Request(
            self._parser.get_method(),
            self._target,
            self._parser.get_http_version(),
            self._parser.should_keep_alive(),
            self._fields,
            self._repeated,
        )
        if self._error is None:
            self._check(self._request)

    def _check(self, request: Request) -> None:
        if request.version not in ("1.1", "1.0"):
            if request.version == "0.9":
                self._fail(HTTPStatus.BAD_REQUEST, "the request line has no version")
            else:
                self._fail(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.0 and 1.1 are spoken")
        # Taken out: what stays are the fields that make a request more than a plain one.
        host = request.fields.pop(b"host", None)
        if host is None:
            if request.version == "1.1":
                self._fail(HTTPStatus.BAD_REQUEST, "a Host field is required")
        elif b"host" in request.repeated or not _HOST.fullmatch(host):
            self._fail(HTTPStatus.BAD_REQUEST, "the Host field is malformed")
        if request.fields.get(b"expect", b"100-continue").lower() != b"100-continue":
            self._fail(HTTPStatus.EXPECTATION_FAILED, "only 100-continue can be expected")

    def on_body(self, part: bytes) -> None:
        self._body_size += len(part)
        if self._body_size > self._limits.body:
            self._fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "no request body of use is that large")

    def on_message_complete(self) -> None:
        self._in_body = False
        self._pending = 0
        if self._error is None:
            self._ready.append(self._request)


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Path and query ("?" included) of a request target.  Raises RequestError."""
    if not target.startswith(b"/"):
        match = _ABSOLUTE.match(target)
        if match is None:
            raise RequestError(HTTPStatus.BAD_REQUEST, "the request target is not a path")
        target = target[match.end() :]
        if not target.startswith(b"/"):
            target = b"/" + target
    if b"#" in target:
        raise RequestError(HTTPStatus.BAD_REQUEST, "a request target has no fragment")
    path, mark, query = target.partition(b"?")
    return path, mark + query


def decode_path(path: bytes) -> tuple[list[bytes], bool]:
    """The names of a path, percent-decoded once, and whether it ends in a slash.

    Split first, decoded after: no escape can make a separator.  Raises RequestError for what no
    file name can be; that ".." is refused rather than resolved leaves nothing to get wrong.
    """
    if _BAD_ESCAPE.search(path):
        raise RequestError(HTTPStatus.BAD_REQUEST, "the path has a malformed escape")
    names = []
    for segment in path.split(b"/"):
        name = unquote_to_bytes(segment)
        if b"/" in name or b"\0" in name:
            raise RequestError(HTTPStatus.BAD_REQUEST, "the path has an escaped slash or NUL")
        if name == b"..":
            raise RequestError(HTTPStatus.FORBIDDEN, "the path leads upwards")
        if name not in (b"", b"."):
            names.append(name)
    return names, path.endswith((b"/", b"/.")) or not names
