"""Many alerts about the same: the first few are told one by one, the others together, with their number.

Alerts are alike when they are of one kind, about one type and step, for one reason, with one remedy. What is told is
decided from how many of them wait and how many were told lately, so a restart changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..events.clock import SECOND, format_duration
from ..events.ids import derived_id
from .alerts import Alert, Kind

FEW = 3
"""So many of an hour are told one by one."""

LATELY = 3_600 * SECOND
"""The hour, microseconds."""

GATHER = 60 * SECOND
"""How long the others are gathered, microseconds."""

NAMED = 10
"""So many sagas of a burst are named."""


class Alike(NamedTuple):
    """What alerts have in common; `remedies` is JSON, as the store has it."""

    kind: Kind
    type: str | None
    step: str | None
    reason: str
    remedies: str


class Waiting(NamedTuple):
    """Alerts that are alike and were not told.

    Args:
        alike: what they have in common.
        size: how many there are.
        oldest: when the first of them happened, microseconds.
    """

    alike: Alike
    size: int
    oldest: int


class Part(NamedTuple):
    """What is told of alerts that are alike: so many one by one, and whether the others together."""

    single: int
    together: bool


class Member(NamedTuple):
    """One alert of a burst: its id, its saga, and when it happened."""

    id: str
    saga: str | None
    at: int


def part(waiting: Waiting, lately: int, now: int, *, hurry: bool = False) -> Part:
    """Decide what is told now.

    Args:
        waiting: what was not told.
        lately: how many like them were told within the last hour.
        now: microseconds.
        hurry: gather no longer.
    """
    single = min(waiting.size, max(0, FEW - lately))
    others = waiting.size - single
    if not others or not (hurry or now - waiting.oldest >= GATHER):
        return Part(single, False)
    return Part(waiting.size, False) if others <= FEW else Part(single, True)


def burst(example: Alert, members: Sequence[Member]) -> tuple[Alert, int, list[str]]:
    """Make one alert of many.

    Args:
        example: one of them.
        members: all of them, at least one.

    Returns:
        The alert, about no saga in particular; how many it stands for; and the names of some.
    """
    count, first, last = len(members), min(each.at for each in members), max(each.at for each in members)
    within = f" within {format_duration(last - first)}" if last > first else ""
    step = f" at step {example.step}" if example.step else ""
    of = f" of type {example.type}" if example.type else ""
    told = f"{count:,} more{of}{step}{within}: {example.kind}, {example.reason}; for example {example.summary}"
    ordered = sorted(members, key=lambda each: (each.at, each.id))
    id_ = derived_id("alerts", *(each.id for each in ordered))
    remedies = (*_listing(example), *example.remedies)
    alert = example._replace(
        id=id_, saga=None, key=example.type or example.key, summary=told, at=first, remedies=remedies
    )
    names = dict.fromkeys(each.saga for each in ordered if each.saga is not None)
    return alert, count, list(names)[:NAMED]


def _listing(example: Alert) -> tuple[str, ...]:
    if example.type is None:
        return ()
    match example.kind:
        case "Stuck":
            return (f"saga list --type {example.type} --condition Stuck",)
        case "Late":
            return (f"saga list --type {example.type} --condition Late",)
        case "Failed":
            return (f"saga list --type {example.type} --failed --group-by error",)
    return ()
