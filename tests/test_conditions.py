"""Preconditions and ranges, as RFC 9110 has them."""

import pytest

from ferrule.cli.conditions import select

TAG = b'"t-1"'
MODIFIED = 1_700_000_000
DATE = b"Tue, 14 Nov 2023 22:13:20 GMT"
EARLIER = b"Tue, 14 Nov 2023 22:13:19 GMT"


def chosen(size=100, method=b"GET", **fields):
    found = select(
        method,
        {name.replace("_", "-").encode(): value for name, value in fields.items()},
        size=size,
        etag=TAG,
        modified=MODIFIED,
    )
    return found.status.value, found.start, found.stop


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (b"bytes=0-0", (206, 0, 1)),
        (b"bytes=0-99", (206, 0, 100)),
        (b"bytes=10-19", (206, 10, 20)),
        (b"bytes=10-", (206, 10, 100)),
        (b"bytes=10-1000", (206, 10, 100)),
        (b"bytes=99-", (206, 99, 100)),
        (b"bytes=-1", (206, 99, 100)),
        (b"bytes=-1000", (206, 0, 100)),
        (b"BYTES = 1-2 ", (206, 1, 3)),
        (b"bytes=100-", (416, 0, 0)),
        (b"bytes=9999999999999999999-", (416, 0, 0)),
        (b"bytes=-0", (416, 0, 0)),
        (b"bytes=5-4", (200, 0, 100)),
        (b"bytes=-", (200, 0, 100)),
        (b"bytes=", (200, 0, 100)),
        (b"bytes=0-1,3-4", (200, 0, 100)),
        (b"bytes=a-b", (200, 0, 100)),
        (b"bytes=+1-2", (200, 0, 100)),
        (b"bytes=1--2", (200, 0, 100)),
        (b"lines=0-1", (200, 0, 100)),
        (b"bytes=" + b"9" * 5000 + b"-", (200, 0, 100)),
        (b"bytes=\xd9\xa1-\xd9\xa2", (200, 0, 100)),
    ],
)
def test_one_range_is_served_and_anything_else_ignored(spec, expected):
    assert chosen(range=spec) == expected


@pytest.mark.parametrize("spec", [b"bytes=0-", b"bytes=-5", b"bytes=0-0"])
def test_an_empty_file_is_served_whole_whatever_range_is_asked_for(spec):
    assert chosen(size=0, range=spec) == (200, 0, 0)


def test_head_ignores_a_range():
    assert chosen(method=b"HEAD", range=b"bytes=0-1") == (200, 0, 100)


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (TAG, 206),
        (b'"other"', 200),
        (b'W/"t-1"', 200),
        (DATE, 206),
        (EARLIER, 200),
        (b"nonsense", 200),
    ],
)
def test_if_range_gives_the_whole_file_unless_it_is_the_same(condition, status):
    assert chosen(range=b"bytes=0-1", if_range=condition)[0] == status


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        (TAG, 304),
        (b'W/"t-1"', 304),
        (b'"a", "t-1"', 304),
        (b'"a",W/"t-1" , "b"', 304),
        (b"*", 304),
        (b'"a"', 200),
        (b"t-1", 200),
        (b"", 200),
    ],
)
def test_if_none_match_compares_weakly(tags, status):
    assert chosen(if_none_match=tags)[0] == status


@pytest.mark.parametrize(
    ("date", "status"),
    [
        (DATE, 304),
        (b"Tuesday, 14-Nov-23 22:13:20 GMT", 304),
        (b"Tue Nov 14 22:13:20 2023", 304),
        (b"Wed, 15 Nov 2023 00:00:00 GMT", 304),
        (EARLIER, 200),
        (b"nonsense", 200),
        (b"", 200),
        (b"Tue, 99 Nov 2023 99:13:20 GMT", 200),
        (b"\xff", 200),
        (b"1" * 10_000, 200),
    ],
)
def test_if_modified_since_is_not_modified_up_to_the_second(date, status):
    assert chosen(if_modified_since=date)[0] == status


def test_if_none_match_wins_over_if_modified_since():
    assert chosen(if_none_match=b'"a"', if_modified_since=DATE)[0] == 200


def test_a_precondition_that_fails_gives_412():
    assert chosen(if_match=b'"a"')[0] == 412
    assert chosen(if_match=b'W/"t-1"')[0] == 412
    assert chosen(if_match=TAG)[0] == 200
    assert chosen(if_match=b"*")[0] == 200
    assert chosen(if_unmodified_since=EARLIER)[0] == 412
    assert chosen(if_unmodified_since=DATE)[0] == 200
