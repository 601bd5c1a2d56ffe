"""Where the time of sagas goes: each step's share of it, its quantiles, and whether it has become slower."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

from .durations import WEEK, Week, usual_of
from .pace import LEAST, SAGA, Stretch, Usual

_BEFORE = 4
"""Weeks with which the latest one is compared."""


class Bottleneck(NamedTuple):
    """One step, or one undo, of a saga type.

    Args:
        type, stretch: what.
        usual: of the weeks that were looked at.
        total: its time in all, microseconds.
        share: of the time of all steps of its type, from 0 to 1; steps may run side by side.
        trend: by what part its median is longer in the latest week than before; None where too little is known.
    """

    type: str
    stretch: Stretch
    usual: Usual
    total: int
    share: float
    trend: float | None


def bottlenecks(weeks: Iterable[Week], most_weeks: int) -> list[Bottleneck]:
    """Tell where time goes, by saga type, the largest share first.

    Args:
        weeks: of all that is looked at, in the order of their slots.
        most_weeks: how many of a type's newest weeks count.
    """
    found = []
    for type_, of_type in groupby(weeks, key=lambda week: week.slot.type):
        steps = [week for week in of_type if week.slot.stretch != SAGA]
        newest = max((week.slot.week for week in steps), default=0)
        recent = [week for week in steps if week.slot.week > newest - most_weeks * WEEK]
        whole = sum(week.total for week in recent)
        own = []
        for stretch, group in groupby(recent, key=lambda week: week.slot.stretch):
            counted = list(group)
            total = sum(week.total for week in counted)
            every = [week for week in steps if week.slot.stretch == stretch]
            own.append(Bottleneck(type_, stretch, usual_of(counted), total, total / max(1, whole), _trend(every)))
        found += sorted(own, key=lambda each: (-each.share, each.stretch))
    return found


def _trend(weeks: list[Week]) -> float | None:
    """Compare the latest week (with the one before, where it holds too few) with the weeks before it."""
    newest = max(week.slot.week for week in weeks)
    for first in (newest, newest - WEEK):
        latest = [week for week in weeks if week.slot.week >= first]
        before = [week for week in weeks if first - _BEFORE * WEEK <= week.slot.week < first]
        if min(sum(week.size for week in latest), sum(week.size for week in before)) >= LEAST:
            return usual_of(latest).p50 / max(1, usual_of(before).p50) - 1
    return None
