"""Times on the command line of `ferrule find`, in nanoseconds since the epoch."""

from __future__ import annotations

import time
from typing import Any

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
DAY = 86_400 * SECOND
LIMIT = (1 << 63) - 1
_UNITS = {"sec": 1, "second": 1, "min": 60, "minute": 60, "hour": 3600, "day": 86_400,
          "week": 604_800, "fortnight": 1_209_600}
_DAYS = {"now": 0, "today": 0, "yesterday": -1, "tomorrow": 1}


class Clock:
    """What "now" is for all tests, and from when days are counted."""

    def __init__(self, now: int | None = None) -> None:
        self.now = time.time_ns() if now is None else now
        self.day_start = self.now - DAY

    def start_at_midnight(self) -> None:
        """Count days from the beginning of today (-daystart)."""
        local = time.localtime(self.now // SECOND)
        since = local.tm_hour * 3600 + local.tm_min * 60 + local.tm_sec
        self.day_start = (self.now // SECOND - since) * SECOND

    def days(self, field: str, sign: str, days: float) -> tuple[Any, ...]:
        """The test of -mtime and its like.  "Less" reaches a second further, as GNU find's does."""
        origin = self.day_start + (DAY - SECOND if sign == "<" else 0)
        return _age_test(field, sign, origin, days, DAY)

    def used(self, sign: str, days: float) -> tuple[Any, ...]:
        """The test of -used: from the change of the status to the last access."""
        length = min(round(days * DAY), LIMIT)
        if sign == "=":
            return ("time", "used", "=", length - DAY - 1, DAY)
        return ("time", "used", sign, length)

    def minutes(self, field: str, sign: str, minutes: float) -> tuple[Any, ...]:
        """The test of -mmin and its like."""
        return _age_test(field, sign, self.day_start + DAY, minutes, MINUTE)


def _age_test(field: str, sign: str, origin: int, count: float, unit: int) -> tuple[Any, ...]:
    whole = int(count)
    moment = origin - whole * unit - round((count - whole) * unit)
    moment = max(-LIMIT, min(moment, LIMIT))
    if sign == "=":
        return ("time", field, "=", moment, unit)
    # The younger, the greater its time: the comparison turns round.
    return ("time", field, "<" if sign == ">" else ">", moment)


def parse_moment(text: str, now: int) -> int:
    """A date of -newermt: ISO 8601, a time of today, @seconds, now, today, yesterday, tomorrow, or
    "3 days ago" and "-3 days".

    Raises ValueError.
    """
    words = text.lower().split()
    if text.startswith("@"):
        return _from_decimal(text[1:])
    if len(words) == 1 and words[0] in _DAYS:  # as date(1): this time of the day
        return now + _DAYS[words[0]] * DAY
    if len(words) in (2, 3) and _is_number(words[0]):
        return _from_distance(words, now)
    return _from_iso(text.strip(), now)


def _is_number(word: str) -> bool:
    return word.removeprefix("-").removeprefix("+").isdecimal()


def _from_distance(words: list[str], now: int) -> int:
    if words[2:] not in ([], ["ago"]):
        raise ValueError(f"not ago: {words[2]}")
    distance = int(words[0]) * _unit(words[1]) * SECOND
    return now - distance if words[2:] else now + distance


def _unit(word: str) -> int:
    unit = _UNITS.get(word) or _UNITS.get(word.removesuffix("s"))
    if unit is None:
        raise ValueError(f"no unit of time: {word}")
    return unit


def _from_decimal(text: str) -> int:
    whole, _, fraction = text.partition(".")
    negative = whole.startswith("-")
    moment = abs(int(whole)) * SECOND + int((fraction + "000000000")[:9])
    return -moment if negative else moment


def _from_iso(text: str, now: int) -> int:
    import re
    from datetime import UTC, datetime, timedelta

    if text[2:3] == ":":  # of today
        text = f"{datetime.fromtimestamp(now // SECOND):%Y-%m-%d}T{text}"
    parts = re.fullmatch(r"(.*:\d\d)[.,](\d+)(\D.*)?", text)  # datetime has microseconds
    fraction = int((parts[2] + "00000000")[:9]) if parts else 0
    moment = datetime.fromisoformat(parts[1] + (parts[3] or "") if parts else text)
    # A naive one is local time, also where the local clock was set forward.
    since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(seconds=1) * SECOND + fraction
