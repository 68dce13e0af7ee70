"""File name → Content-Type, the same on every machine."""

from __future__ import annotations

import codecs
import mimetypes

# What browsers expect and the standard library's tables of some versions lack or have otherwise.
_TYPES = {
    ".avif": "image/avif",
    ".cjs": "text/javascript",
    ".ico": "image/vnd.microsoft.icon",
    ".js": "text/javascript",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".m4a": "audio/mp4",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".opus": "audio/ogg",
    ".otf": "font/otf",
    ".pyi": "text/x-python",
    ".pyx": "text/x-python",
    ".rst": "text/x-rst",
    ".toml": "application/toml",
    ".ttf": "font/ttf",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xhtml": "application/xhtml+xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
# A compressed file is served as what it is.  Content-Encoding would make the client unpack it.
_COMPRESSED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "br": "application/x-brotli",
}
_BINARY = "application/octet-stream"

# An instance of its own: the module's functions also read what the system has installed.
_guess = mimetypes.MimeTypes(filenames=())


def media_type(name: str, sample: bytes = b"", *, complete: bool = True) -> str:
    """The Content-Type for a file of this name whose content begins with ``sample``.

    Text is declared UTF-8 if the sample is; otherwise no charset is claimed.  ``complete`` says
    that the sample is the whole content, so that it may not end inside a character.
    """
    kind, encoding = _guess_type(name)
    if encoding is not None:
        return _COMPRESSED.get(encoding, _BINARY)
    if kind is None:
        return _BINARY
    if kind.startswith("text/") and _is_utf8(sample, complete):
        return kind + "; charset=utf-8"
    return kind


def _guess_type(name: str) -> tuple[str | None, str | None]:
    dot = name.rfind(".")
    own = _TYPES.get(name[dot:].lower()) if dot > 0 else None
    if own is not None:
        return own, None
    # "./" keeps a name such as "data:text/html,x.y" from being read as a URL.
    return _guess.guess_type("./" + name)


def _is_utf8(sample: bytes, complete: bool) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample, complete)
    except UnicodeDecodeError:
        return False
    return True
