"""Bars on a common scale of time, as text: what `saga status` and `saga trace` draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..events.clock import SECOND
from .report import Segment

EDGE = "▏"
_FILL = {"work": "█", "pause": "·", "open": "━"}
_OPEN_HEAD = "●"
_LABEL_ROOM = 8
_MINUTE, _HOUR, _DAY = 60 * SECOND, 3_600 * SECOND, 86_400 * SECOND
_TICKS = (
    *(n * 1_000 for n in (1, 2, 5, 10, 20, 50, 100, 200, 500)),
    *(n * SECOND for n in (1, 2, 5, 10, 15, 30)),
    *(n * _MINUTE for n in (1, 2, 5, 10, 15, 30)),
    *(n * _HOUR for n in (1, 2, 3, 6, 12)),
    *(n * _DAY for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)),
)


class Scale(NamedTuple):
    """A stretch of time on a number of columns; times are microseconds."""

    start: int
    end: int
    width: int

    def column(self, at: int) -> int:
        """Give the column of a moment, within the scale."""
        length = max(1, self.end - self.start)
        return max(0, min(self.width, (at - self.start) * self.width // length))


def bar(segments: Sequence[Segment], scale: Scale) -> str:
    """Draw a bar: `█` work, `·` a pause, `━` awaited; whatever happened is at least one column wide."""
    cells = [" "] * scale.width
    for kind in ("pause", "open", "work"):
        for segment in segments:
            if segment.kind == kind:
                first = min(scale.column(segment.start), scale.width - 1)
                last = max(first + 1, scale.column(segment.end))
                cells[first:last] = _FILL[kind] * (last - first)
                if kind == "open":
                    cells[first] = _OPEN_HEAD
    return f"{EDGE}{''.join(cells)}{EDGE}"


def axis(scale: Scale) -> str:
    """Label the scale with round times since its start."""
    length = max(1, scale.end - scale.start)
    most = max(1, scale.width // _LABEL_ROOM)
    tick = next((each for each in _TICKS if length // each <= most), length)
    text = ""
    at = 0
    while at <= length:
        place = scale.column(scale.start + at) + 1
        label = _label(at, tick)
        if place >= len(text) + bool(text) and place + len(label) <= scale.width + 2:
            text = text.ljust(place) + label
        at += tick
    return text.ljust(scale.width + 2)


def _label(at: int, tick: int) -> str:
    for size, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "m"), (SECOND, "s")):
        if tick >= size:
            return f"{at // size}{unit}"
    return f"{at // 1_000}ms" if at else "0"
