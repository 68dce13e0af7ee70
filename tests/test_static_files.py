"""The cache of the file server, its pages and its types."""

import os
import time

import pytest

pytest.importorskip("httptools", reason="needs the extra: pip install 'ferrule[cli]'")

from ferrule.cli.http_request import RequestError
from ferrule.cli.listing import Entry, render_listing
from ferrule.cli.media_types import media_type
from ferrule.cli.static_files import SETTLED_NS, CacheLimits, OpenFile, Page, Redirect, StaticFiles
from in_fiber import in_fiber


@pytest.fixture
def files(tmp_path):
    (tmp_path / "dir").mkdir()
    write(tmp_path / "a.txt", "one")
    made = StaticFiles(tmp_path, CacheLimits(body=100))
    yield made
    made.close()


def write(path, text):
    path.write_text(text)
    settle(path)


def settle(path):
    """Wait until the file's last change is old enough for it to be cached."""
    while time.time_ns() - os.stat(path).st_ctime_ns <= SETTLED_NS:
        time.sleep(0.005)


def load_and_keep(files, path):
    file = files.load(path)
    assert isinstance(file, OpenFile)
    files.keep(path, file)
    return file


@in_fiber
def test_a_kept_file_is_fresh(files):
    file = load_and_keep(files, b"/a.txt")
    assert files.fresh(b"/a.txt") is file
    assert file.body == b"one"


@in_fiber
def test_a_changed_file_is_not_fresh(files, tmp_path):
    load_and_keep(files, b"/a.txt")
    (tmp_path / "a.txt").write_text("two")
    assert files.fresh(b"/a.txt") is None
    assert files.load(b"/a.txt").body == b"two"


@pytest.mark.parametrize("change", ["unlink", "replace", "rename", "chmod"])
@in_fiber
def test_a_file_whose_name_or_mode_changed_is_not_fresh(files, tmp_path, change):
    path = tmp_path / "a.txt"
    load_and_keep(files, b"/a.txt")
    if change == "unlink":
        path.unlink()
    elif change == "replace":
        other = tmp_path / "b.txt"
        other.write_text("two")
        os.replace(other, path)
    elif change == "rename":
        path.rename(tmp_path / "c.txt")
    else:
        path.chmod(0o600)
    assert files.fresh(b"/a.txt") is None


@in_fiber
def test_a_file_that_changed_a_moment_ago_is_not_kept(files, tmp_path):
    (tmp_path / "a.txt").write_text("new")
    file = files.load(b"/a.txt")
    if file.settled:
        pytest.skip("this machine was too slow to read the file while it was new")
    files.keep(b"/a.txt", file)
    assert files.fresh(b"/a.txt") is None
    assert file.file.closed


@in_fiber
def test_an_old_entry_is_looked_up_anew(files, monkeypatch):
    load_and_keep(files, b"/a.txt")
    monkeypatch.setattr(files.limits, "age", 0.0)
    assert files.fresh(b"/a.txt") is None


@in_fiber
def test_a_file_in_use_is_closed_after_its_last_reader(files):
    file = load_and_keep(files, b"/a.txt")
    file.acquire()
    files.shrink(0)
    assert not file.file.closed
    file.release()
    assert file.file.closed


@in_fiber
def test_the_cache_keeps_to_its_limits(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}").write_text("x" * 50)
    settle(tmp_path / "9")
    files = StaticFiles(tmp_path, CacheLimits(files=3))
    before = len(os.listdir("/proc/self/fd"))
    for i in range(10):
        load_and_keep(files, b"/%d" % i)
    assert len(os.listdir("/proc/self/fd")) == before + 3
    assert [files.fresh(b"/%d" % i) is not None for i in (0, 6, 7, 8, 9)] == [
        False, False, True, True, True,
    ]
    files.close()
    files = StaticFiles(tmp_path, CacheLimits(total=1000))
    for i in range(10):
        load_and_keep(files, b"/%d" % i)
    assert 0 < sum(files.fresh(b"/%d" % i) is not None for i in range(10)) < 5
    files.close()


@in_fiber
def test_nothing_stays_open_after_close(files):
    before = len(os.listdir("/proc/self/fd"))
    load_and_keep(files, b"/a.txt")
    files.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1


@in_fiber
def test_a_large_file_is_not_read_into_memory(files, tmp_path):
    write(tmp_path / "big", "x" * 101)
    file = files.load(b"/big")
    assert file.body is None
    assert file.size == 101
    file.retire()


@in_fiber
def test_a_directory_without_its_slash_is_redirected(files):
    assert files.load(b"/dir") == Redirect(b"/dir/")


@in_fiber
def test_a_redirect_never_names_another_host(files, tmp_path):
    (tmp_path / "evil.example").mkdir()
    assert files.load(b"//evil.example") == Redirect(b"/evil.example/")
    assert files.load(b"//%2e/evil%2eexample") == Redirect(b"/evil.example/")


@in_fiber
def test_a_file_with_a_slash_behind_it_is_not_found(files):
    with pytest.raises(RequestError) as info:
        files.load(b"/a.txt/")
    assert info.value.status == 404


@in_fiber
def test_an_index_page_is_served_for_its_directory(files, tmp_path):
    (tmp_path / "dir" / "index.html").write_text("<p>hi")
    file = files.load(b"/dir/")
    assert file.body == b"<p>hi"
    assert b"text/html; charset=utf-8" in file.fields
    file.retire()


@in_fiber
def test_a_listing_has_what_can_be_served_and_nothing_else(files, tmp_path):
    (tmp_path / "dir" / "sub").mkdir()
    os.mkfifo(tmp_path / "dir" / "fifo")
    os.symlink("../../..", tmp_path / "dir" / "out")
    os.symlink("missing", tmp_path / "dir" / "broken")
    os.symlink("../a.txt", tmp_path / "dir" / "in.txt")
    page = files.load(b"/dir/")
    assert isinstance(page, Page)
    text = page.body.decode()
    assert 'href="./sub/"' in text
    assert 'href="./in.txt"' in text
    assert 'href="../"' in text
    for name in ("fifo", "out", "broken"):
        assert f"./{name}" not in text


@pytest.mark.parametrize(
    ("name", "href", "shown"),
    [
        (b"<script>alert(1)</script>", "./%3Cscript%3Ealert%281%29%3C%2Fscript%3E", "&lt;script"),
        (b'"onclick=x', "./%22onclick%3Dx", "&quot;onclick"),
        (b"javascript:x", "./javascript%3Ax", "javascript:x"),
        (b"a b&c?d#e%f", "./a%20b%26c%3Fd%23e%25f", "a b&amp;c?d#e%f"),
        (b"\xff\xfe", "./%FF%FE", "\ufffd\ufffd"),
        ("é".encode(), "./%C3%A9", "é"),
    ],
)
def test_names_are_escaped_in_a_listing(name, href, shown):
    page = render_listing([], [Entry(name, False, 1, 0.0)], truncated=False).decode()
    assert f'href="{href}"' in page
    assert shown in page
    assert "<script>" not in page


def test_a_date_that_no_calendar_has_does_not_break_a_listing():
    assert b"./a" in render_listing([], [Entry(b"a", False, 1, 1e300)], truncated=False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.HTM", "text/html; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.svg", "image/svg+xml"),
        ("a.png", "image/png"),
        ("a.jpg", "image/jpeg"),
        ("a.webp", "image/webp"),
        ("a.woff2", "font/woff2"),
        ("a.wasm", "application/wasm"),
        ("a.py", "text/x-python; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.pdf", "application/pdf"),
        ("a.mp4", "video/mp4"),
        ("a.tar.gz", "application/gzip"),
        ("a.svgz", "application/gzip"),
        ("a.js.gz", "application/gzip"),
        ("a.unknown", "application/octet-stream"),
        ("README", "application/octet-stream"),
        (".js", "application/octet-stream"),
        ("data:text/html,x.unknown", "application/octet-stream"),
    ],
)
def test_types_are_what_browsers_expect(name, expected):
    assert media_type(name, b"text") == expected


def test_text_that_is_not_utf8_claims_no_charset():
    assert media_type("a.txt", b"caf\xe9") == "text/plain"
    assert media_type("a.txt", "é".encode()[:1], complete=False) == "text/plain; charset=utf-8"
    assert media_type("a.txt", "é".encode()[:1]) == "text/plain"
