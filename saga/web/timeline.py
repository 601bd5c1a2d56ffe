"""A saga's steps on one scale of time, as rows of a table with bars: what was worked, what waited, what is awaited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..cli.times import span
from ..looking import View
from ..occurrence import unfold
from ..report import Segment, StepReport, segments, undo_segments

WIDTH = 1_000
_LEAST = 4
_TICKS = 4


class Bar(NamedTuple):
    """A part of a row: `work`, `pause` or `open`, from and to in thousandths of the scale."""

    kind: str
    x: int
    width: int


class Row(NamedTuple):
    """A step with its bars, and what they say in words."""

    step: StepReport
    bars: tuple[Bar, ...]
    words: str


class Timeline(NamedTuple):
    """All rows, and the scale's labels."""

    rows: tuple[Row, ...]
    ticks: tuple[str, ...]


def timeline(view: View) -> Timeline:
    """Lay out the steps of a saga."""
    instance, now = view.found.instance, view.observed.at
    start = instance.started_at
    end = max(instance.ended_at or now, start + 1)
    definition = unfold(view.found.definition, instance)
    rows = []
    for step in view.told["steps"]:
        plan = definition.by_name[step["compensates"] or step["name"]]
        state = instance.steps[plan.name]
        found = segments(plan, state, now) if step["compensates"] is None else undo_segments(plan, state, now)
        rows.append(Row(step, tuple(_bar(each, start, end) for each in found), _words(found, start)))
    ticks = tuple(span((end - start) * number // _TICKS) for number in range(_TICKS + 1))
    return Timeline(tuple(rows), ticks)


def _bar(segment: Segment, start: int, end: int) -> Bar:
    length = end - start
    first = max(0, min(WIDTH - _LEAST, (segment.start - start) * WIDTH // length))
    last = max(first + _LEAST, min(WIDTH, (segment.end - start) * WIDTH // length))
    return Bar(segment.kind, first, last - first)


def _words(found: Sequence[Segment], start: int) -> str:
    said = {"work": "work", "pause": "pause", "open": "awaited"}
    return ", ".join(
        f"{said[each.kind]} from +{span(each.start - start)} for {span(each.end - each.start)}" for each in found
    )
