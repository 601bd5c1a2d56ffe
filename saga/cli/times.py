"""Times as people read them; JSON has its own form (`report.rfc3339`)."""

from __future__ import annotations

import os
from contextvars import ContextVar
from datetime import UTC, datetime, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ...events.clock import SECOND, duration, format_duration, from_datetime, to_datetime
from ...events.errors import ConfigurationError, DefinitionError

TimeStyle = Literal["relative", "local", "utc", "raw"]

local_zone: ContextVar[str] = ContextVar("local_zone", default="")
"""The zone that `--tz` names for this call."""


def show_time(at: int, style: TimeStyle, now: int) -> str:
    """Format a moment.

    Args:
        at: microseconds.
        style: "relative" to now (`6m`), "local" with its offset, "utc" (RFC 3339), or "raw" microseconds.
        now: microseconds.
    """
    if style == "raw":
        return str(at)
    if style == "relative":
        return age(now - at)
    if style == "utc":
        return to_datetime(at).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    local = to_datetime(at).astimezone(zone())
    offset = local.strftime("%z")
    return f"{local:%Y-%m-%d %H:%M:%S} {offset[:3]}:{offset[3:]}"


def clock_time(at: int, style: TimeStyle) -> str:
    """Format the time of day with milliseconds, as lines of a log have it."""
    if style == "raw":
        return str(at)
    local = to_datetime(at).astimezone(UTC if style == "utc" else zone())
    return f"{local:%H:%M:%S}.{local.microsecond // 1_000:03d}"


def age(microseconds: int) -> str:
    """Format how long ago something was, in one unit: `4s`, `6m`, `3h`, `2d`."""
    seconds = max(0, microseconds) // SECOND
    for limit, size, unit in ((60, 1, "s"), (3_600, 60, "m"), (86_400, 3_600, "h")):
        if seconds < limit:
            return f"{seconds // size}{unit}"
    return f"{seconds // 86_400}d"


def span(microseconds: int) -> str:
    """Format how long something took; below a tenth of a second in milliseconds."""
    if 0 <= microseconds < SECOND // 10:
        return f"{microseconds // 1_000}ms"
    return format_duration(max(0, microseconds))


def moment(text: str, now: int, option: str) -> int:
    """Read a moment of an option: a duration back from now (`1h`), a date, or RFC 3339.

    Raises:
        ConfigurationError: it is none of these.
    """
    try:
        return now - duration(text)
    except DefinitionError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"{option} {text!r} is no time; write 1h, 30m, 2026-11-21 or 2026-11-21T09:00:00Z"
        ) from None
    if found.tzinfo is None:
        local = zone()
        found = found.astimezone() if local is None else found.replace(tzinfo=local)
    return from_datetime(found)


def zone() -> tzinfo | None:
    """Give the zone that `--tz` or else `CHOREO_TZ` names; None is the machine's own, which `TZ` sets.

    Raises:
        ConfigurationError: there is no such zone.
    """
    flag = local_zone.get()
    name = flag or os.environ.get("CHOREO_TZ", "")
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigurationError(
            f"{'--tz' if flag else 'setting CHOREO_TZ'}: {name!r} is no time zone; write one such as Europe/Berlin"
        ) from None
