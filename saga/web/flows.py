"""The catalog as a picture: who publishes on the left, events in the middle, who reads them on the right. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..participants import Flow, Participant

_WIDE, _TALL, _GAP, _ROOM, _MARGIN = 220, 34, 12, 150, 10
_COLOURS = {"service": ("#d8ebff", "#0b5cad"), "saga": ("#eadcff", "#6b3fa0"), "event": ("#f2f2f2", "#6e6e6e")}


def svg(participants: Sequence[Participant], flows: Sequence[Flow]) -> str:
    """Draw it; the words beside it say the same."""
    kinds = {each.name: each.kind for each in participants}
    left = [name for name in kinds if any(name in flow.producers for flow in flows)]
    right = [name for name in kinds if any(name in flow.consumers for flow in flows)]
    height = _MARGIN * 2 + max(len(left), len(right), len(flows), 1) * (_TALL + _GAP)
    places = {("from", name): _place(0, number, len(left), height) for number, name in enumerate(left)}
    places |= {("event", f"{flow.type} {flow.topic}"): _place(1, n, len(flows), height) for n, flow in enumerate(flows)}
    places |= {("to", name): _place(2, number, len(right), height) for number, name in enumerate(right)}
    width = _MARGIN * 2 + 3 * _WIDE + 2 * _ROOM
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-label="Who publishes and reads which event" font-family="system-ui, sans-serif" '
        'font-size="12">'
    ]
    for flow in flows:
        event = places["event", f"{flow.type} {flow.topic}"]
        drawn += [_line(places["from", name], event, kinds.get(name)) for name in flow.producers if name in kinds]
        drawn += [_line(event, places["to", name], kinds.get(name)) for name in flow.consumers if name in kinds]
    for (column, name), place in places.items():
        kind = "event" if column == "event" else kinds[name]
        drawn.append(_box(name.partition(" ")[0] if column == "event" else name, kind, place, name))
    return "\n".join([*drawn, "</svg>"])


def _place(column: int, number: int, many: int, height: int) -> tuple[int, int]:
    step = (height - 2 * _MARGIN) / max(1, many)
    return _MARGIN + column * (_WIDE + _ROOM), round(_MARGIN + step * (number + 0.5) - _TALL / 2)


def _line(before: tuple[int, int], after: tuple[int, int], kind: str | None) -> str:
    x1, y1, x2, y2 = before[0] + _WIDE, before[1] + _TALL // 2, after[0], after[1] + _TALL // 2
    middle = (x1 + x2) // 2
    dash = ' stroke-dasharray="5 4"' if kind == "saga" else ""
    return f'<path d="M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}" fill="none" stroke="#555"{dash}/>'


def _box(name: str, kind: str, place: tuple[int, int], told: str) -> str:
    x, y = place
    fill, line = _COLOURS[kind]
    shown = name if len(name) <= 28 else name[:27] + "…"
    weight = "" if kind == "event" else ' font-weight="600"'
    rounded = 17 if kind == "event" else 6
    return (
        f'<g><title>{escape(told)}</title><rect x="{x}" y="{y}" width="{_WIDE}" height="{_TALL}" rx="{rounded}" '
        f'fill="{fill}" stroke="{line}" stroke-width="1.5"/><text x="{x + 14}" y="{y + 21}" fill="#1b1b1b"'
        f"{weight}>{escape(shown)}</text></g>"
    )
