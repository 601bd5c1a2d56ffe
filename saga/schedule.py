"""When sagas start by the clock: a cron expression in a time zone, and its ticks. Pure: the time comes in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ..events.clock import SECOND, from_datetime, to_datetime
from ..events.errors import DefinitionError
from ..events.event import Event

Missed = Literal["last", "all", "skip"]
StartAt = Callable[[datetime], Event]
"""Makes the start event of a tick, which is an aware datetime in the schedule's zone."""

GRACE = 60 * SECOND
"""A tick that nobody could fire within this time was missed."""

MOST_TICKS = 100
"""Ticks of one schedule that are caught up in one transaction."""

# Where clocks are set back an hour comes twice: begun this much earlier, the ticks are the same wherever one begins.
_HOUR = 3_600 * SECOND
_BACK = 3 * _HOUR
_LOOKS = tuple(hours * _HOUR for hours in (1, 24, 800, 8_800, 80_000))


@dataclass(frozen=True, slots=True)
class SchedulePlan:
    """When instances of a saga start; made by `cron()`.

    Args:
        cron: five fields, as in a crontab.
        zone: IANA name of the time zone.
        missed: which of the ticks that nobody could fire are caught up.
    """

    cron: str
    zone: str = "UTC"
    missed: Missed = "last"

    def after(self, at: int) -> int | None:
        """Give the first tick after a time, microseconds; None where there is none for fifty years.

        Where clocks are set forward or back it is Debian's cron: a fixed time that is skipped comes at once after the
        gap, one that comes twice counts once, and with `*` as its minutes or hours it goes by elapsed time.
        """
        return next((tick for tick in self._from(at - _BACK) if tick > at), None)

    def until(self, first: int, now: int) -> list[int]:
        """Give the ticks to fire of those from `first` on that are due, oldest first, at most `MOST_TICKS`."""
        if self.missed == "all":
            found: list[int] = []
            for tick in self._from(first - _BACK):
                if tick > now or len(found) == MOST_TICKS:
                    break
                if tick >= first:
                    found.append(tick)
            return found
        last = self._last(first, now)
        if last is None or (self.missed == "skip" and now - last > GRACE):
            return []
        return [last]

    def local(self, tick: int) -> datetime:
        """Give a tick as a time in the schedule's zone."""
        return to_datetime(tick).astimezone(ZoneInfo(self.zone))

    def _last(self, first: int, now: int) -> int | None:
        """Find the newest tick that is due, looking back further and further: there may be years of minutes."""
        for look in _LOOKS:
            begin = max(first, now - look)
            last = None
            for tick in self._from(begin - _BACK):
                if tick > now:
                    break
                if tick >= begin:
                    last = tick
            if last is not None or begin == first:
                return last
        return None

    def _from(self, at: int) -> Iterator[int]:
        return (from_datetime(tick.astimezone(UTC)) for tick in CronSim(self.cron, self.local(at)))


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it was declared: its plan, and what makes the start event of a tick (None: filled by itself)."""

    plan: SchedulePlan
    start: StartAt | None


def cron(expression: str, *, tz: str = "UTC", start: StartAt | None = None, missed: Missed = "last") -> Schedule:
    """Start a saga by the clock: one for each tick, however many coordinators there are.

    Args:
        expression: minute, hour, day of month, month, day of week, as in a crontab, e.g. `"*/15 8-17 * * MON-FRI"`.
        tz: IANA name of the time zone, e.g. `"Europe/Berlin"`.
        start: makes the start event from the tick's time, an aware datetime; without it the start event has the tick as
            its key, `20261121T010000Z`, and its defaults otherwise.
        missed: of the ticks while no coordinator ran, fire the "last" one, "all" of them, or "skip" them.

    Raises:
        DefinitionError: naming the argument.
    """
    if missed not in get_args(Missed):
        raise DefinitionError(f"cron(missed={missed!r}): write {' or '.join(map(repr, get_args(Missed)))}")
    try:
        ZoneInfo(tz)
    except (KeyError, ValueError, OSError, TypeError):
        raise DefinitionError(
            f'cron(tz={tz!r}): there is no such time zone; write one like "Europe/Berlin" or "UTC"'
        ) from None
    plan = SchedulePlan(expression, tz, missed)
    try:
        never = plan.after(0) is None
    except (CronSimError, AttributeError) as error:
        raise DefinitionError(
            f"cron({expression!r}): {str(error) or 'not a cron expression'}; write five fields (minute, hour, day of "
            'month, month, day of week), as in "0 2 * * *"'
        ) from None
    if never:
        raise DefinitionError(f"cron({expression!r}): such a time never comes")
    return Schedule(plan, start)


def tick_name(tick: int) -> str:
    """Name a tick, microseconds: ISO 8601 in UTC, in the form that needs no escapes, e.g. `20261121T010000Z`."""
    return to_datetime(tick).strftime("%Y%m%dT%H%M%SZ")
