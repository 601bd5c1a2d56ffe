"""Time comes in from outside: whole microseconds since the Unix epoch, UTC."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from .errors import DefinitionError

Clock = Callable[[], int]
"""A function that gives the time in microseconds since the Unix epoch."""

SECOND = 1_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST, _LAST = ((each.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND for each in (datetime.min, datetime.max))
_UNITS = {
    "us": 1,
    "ms": 1_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3_600 * SECOND,
    "d": 86_400 * SECOND,
    "w": 604_800 * SECOND,
}


def system_clock() -> int:
    """Read this machine's clock, in microseconds."""
    return time.time_ns() // 1_000


def to_datetime(microseconds: int) -> datetime:
    """Convert to an aware datetime in UTC, exactly."""
    return _EPOCH + timedelta(microseconds=microseconds)


def from_datetime(moment: datetime) -> int:
    """Convert an aware datetime to microseconds, exactly.

    Raises:
        ValueError: the datetime has no zone.
    """
    if moment.tzinfo is None:
        raise ValueError("a datetime without a time zone has no place on the time line; give it a tzinfo")
    return (moment - _EPOCH) // _MICROSECOND


def to_rfc3339(microseconds: int) -> str:
    """Format as RFC 3339 in UTC with microseconds, e.g. `2026-11-21T09:02:11.402000Z`."""
    seconds, rest = divmod(microseconds, SECOND)
    return f"{_second(seconds)}.{rest:06d}Z"


@lru_cache(maxsize=1_024)
def _second(seconds: int) -> str:
    """Format whole seconds, which the events of a batch share."""
    # strftime would not pad the years before 1000.
    return to_datetime(seconds * SECOND).isoformat(timespec="seconds").removesuffix("+00:00")


def from_rfc3339(text: str) -> int:
    """Parse RFC 3339 to microseconds; finer digits are cut.

    Raises:
        ValueError: it is not a time, has no zone, or lies outside the years 1 to 9999 in UTC.
    """
    found = from_datetime(datetime.fromisoformat(text))
    if not _FIRST <= found <= _LAST:  # 0001-01-01T00:00+01:00 can be read, and never be written again
        raise ValueError("a time outside the years 1 to 9999")
    return found


def duration(value: str | int | float | timedelta) -> int:
    """Parse a duration to microseconds: `"200ms"`, `"30s"`, `"5m"`, `"2h"`, `"3d"`, `"1h30m"`, seconds, or a timedelta.

    Raises:
        DefinitionError: it is not a duration, or not positive.
    """
    result = -1
    if isinstance(value, timedelta):
        result = value // _MICROSECOND
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        result = round(value * SECOND)
    elif isinstance(value, str):
        result = _parse(value)
    if result <= 0:
        raise DefinitionError(
            f'{value!r} is not a positive duration; write it like "200ms", "30s", "5m", "2h", "3d" or "1h30m"'
        )
    return result


def _parse(text: str) -> int:
    total, number, rest = 0, "", text.strip().replace(" ", "")
    while rest:
        if rest[0].isdigit() or rest[0] == ".":
            number, rest = number + rest[0], rest[1:]
            continue
        unit = rest[:2] if rest[:2] in _UNITS else rest[:1]
        if not number or unit not in _UNITS:
            return -1
        try:
            total += round(float(number) * _UNITS[unit])
        except ValueError:
            return -1
        number, rest = "", rest[len(unit) :]
    return -1 if number else total


def format_duration(microseconds: int) -> str:
    """Format for people: `0.4s`, `14.8s`, `3m 04s`, `2h 05m`, `3d 04h`."""
    seconds = microseconds / SECOND
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02d}h"
