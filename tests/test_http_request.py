"""Requests out of bytes: limits, errors, and independence of how the bytes were cut."""

import random

import pytest

pytest.importorskip("httptools", reason="needs the extra: pip install 'ferrule[cli]'")

from ferrule.cli.http_request import (
    RequestError,
    RequestLimits,
    RequestReader,
    decode_path,
    split_target,
)

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


def read_all(data, step=None, limits=None):
    """The targets of the requests in ``data``, and the status that ended them, if any."""
    reader = RequestReader(limits or RequestLimits())
    found = []
    parts = [data[i : i + step] for i in range(0, len(data), step)] if step else [data]
    try:
        for part in parts:
            reader.feed(part)
            while (request := reader.take()) is not None:
                found.append(request)
    except RequestError as exc:
        return found, exc.status.value
    return found, None


def status_of(data, **kwargs):
    return read_all(data, **kwargs)[1]


def test_a_request_is_read_one_byte_at_a_time():
    (request,), status = read_all(GET, step=1)
    assert status is None
    assert (request.method, request.target, request.version) == (b"GET", b"/a", "1.1")
    assert request.keep_alive


def test_pipelined_requests_are_the_same_for_every_place_they_are_split_at():
    data = (
        b"GET /1 HTTP/1.1\r\nHost: a\r\nRange: bytes=0-1\r\n\r\n"
        b"HEAD /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
        b"GET /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n\r\n"
        b"GET /4?q HTTP/1.0\r\n\r\n"
    )
    whole, _ = read_all(data)
    assert [r.target for r in whole] == [b"/1", b"/2", b"/3", b"/4?q"]
    for at in range(1, len(data)):
        reader = RequestReader(RequestLimits())
        found = []
        for part in (data[:at], data[at:]):
            reader.feed(part)
            while (request := reader.take()) is not None:
                found.append(request)
        assert found == whole


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/0.9\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/x\r\nHost: a\r\n\r\n", 505),
        (b"GET / FTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"G\0T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: b\0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n", 417),
    ],
)
def test_a_bad_request_gets_its_status_at_once_and_byte_by_byte(data, status):
    assert status_of(data) == status
    by_byte = status_of(data, step=1)
    assert by_byte == status or (status == 501 and by_byte == 400)


def test_a_request_before_a_bad_one_is_still_handed_out():
    found, status = read_all(GET + b"nonsense\r\n\r\n")
    assert [r.target for r in found] == [b"/a"]
    assert status == 400


@pytest.mark.parametrize("step", [None, 1000])
def test_a_target_over_the_limit_is_414_even_when_it_never_ends(step):
    limits = RequestLimits(target=2000, header=8000)
    assert status_of(b"GET /" + b"a" * 2001, step=step, limits=limits) == 414


@pytest.mark.parametrize("step", [None, 7, 1000])
def test_a_header_over_the_limit_is_431_even_when_it_never_ends(step):
    limits = RequestLimits(header=4000)
    start = b"GET / HTTP/1.1\r\nHost: a\r\nA: "
    assert status_of(start + b"b" * 5000, step=step, limits=limits) == 431
    assert status_of(start + b"b" * 5000 + b"\r\n\r\n", step=step, limits=limits) == 431


def test_too_many_header_fields_are_431():
    fields = b"".join(b"A%d: b\r\n" % i for i in range(101))
    assert status_of(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n") == 431


def test_endless_blank_lines_are_not_read_for_ever():
    assert status_of(b"\r\n" * 40_000, step=1000) == 431


def test_a_body_over_the_limit_is_413():
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n"
    limits = RequestLimits(body=4000)
    assert status_of(head + b"x" * 4001, limits=limits) == 413
    assert status_of(head + b"x" * 4000, limits=limits) is None


def test_endless_chunk_extensions_are_not_read_for_ever():
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;"
    assert status_of(head + b"e" * 500_000, step=10_000) == 413


def test_an_upgrade_is_ignored_and_the_next_request_is_read():
    data = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + GET
    found, status = read_all(data)
    assert [r.target for r in found] == [b"/a", b"/a"]
    assert status is None


def test_the_reader_is_idle_only_between_requests():
    reader = RequestReader(RequestLimits())
    assert reader.idle
    reader.feed(GET[:1])
    assert not reader.idle
    reader.feed(GET[1:] + b"G")
    assert reader.take() is not None
    assert not reader.idle
    reader.feed(GET[1:])
    assert reader.take() is not None
    assert reader.idle


def test_an_expected_continue_is_asked_for_once_and_only_before_the_body():
    reader = RequestReader(RequestLimits())
    reader.feed(b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
    assert reader.awaits_continue is not None
    assert reader.awaits_continue is None
    reader.feed(b"ab")
    assert reader.take() is not None


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/a/b?c=d?e", (b"/a/b", b"?c=d?e")),
        (b"http://host:80/a?b", (b"/a", b"?b")),
        (b"HTTP://host", (b"/", b"")),
        (b"http://host?x", (b"/", b"?x")),
    ],
)
def test_a_target_is_split_into_path_and_query(target, expected):
    assert split_target(target) == expected


@pytest.mark.parametrize("target", [b"*", b"a:1", b"ftp://host/a", b"/a#b", b""])
def test_a_target_that_is_no_path_is_refused(target):
    with pytest.raises(RequestError) as info:
        split_target(target)
    assert info.value.status == 400


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/", ([], True)),
        (b"/a/b", ([b"a", b"b"], False)),
        (b"//a///b/", ([b"a", b"b"], True)),
        (b"/./a/.", ([b"a"], True)),
        (b"/a%20b%C3%A9", ([b"a b\xc3\xa9"], False)),
        (b"/%252e%252e/a", ([b"%2e%2e", b"a"], False)),
        (b"/..%5c..%5ca", ([b"..\\..\\a"], False)),
        (b"/...", ([b"..."], False)),
    ],
)
def test_a_path_is_decoded_once(path, expected):
    assert decode_path(path) == expected


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (b"/..", 403),
        (b"/a/../b", 403),
        (b"/%2e%2e/a", 403),
        (b"/.%2E/a", 403),
        (b"/%2e./a", 403),
        (b"/a%2fb", 400),
        (b"/..%2f..%2fetc", 400),
        (b"/a%00b", 400),
        (b"/a%0", 400),
        (b"/a%zz", 400),
        (b"/%", 400),
        (b"/%u002e%u002e/a", 400),
    ],
)
def test_a_path_that_no_file_can_have_is_refused(path, status):
    with pytest.raises(RequestError) as info:
        decode_path(path)
    assert info.value.status == status


def test_random_bytes_are_refused_or_awaited_but_never_raise_anything_else():
    rng = random.Random(3)
    seeds = [GET, b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"]
    for _ in range(2000):
        data = bytearray(rng.choice([*seeds, rng.randbytes(60)]) * rng.randint(1, 3))
        for _ in range(rng.randint(0, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        _, status = read_all(bytes(data), step=rng.choice([None, 1, 7]))
        assert status in (None, 400, 413, 414, 417, 431, 501, 505)
