"""One frame of `saga watch`: how far a saga is, its steps side by side, and what changed last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.text import Text

from .glyphs import phase_look, step_look
from .times import clock_time, span

if TYPE_CHECKING:
    from ..inputs import Change
    from ..looking import View
    from ..queries import Entry
    from .shell import Shell

_LATEST = 5
_MOST_BAR = 40
_LEAST_BAR = 10
_GAP = 6
_MOST_CHIPS = 40
_QUIET = ("PENDING", "SKIPPED", "DONE", "COMPENSATED")
"""States of steps that `--compact` leaves out."""


class Progress(NamedTuple):
    """How many steps need nothing more, of how many are known."""

    done: int = 0
    known: int = 0

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.done / self.known if self.known else 0.0

    def onward(self, told: dict[str, Any]) -> Progress:
        """Take in what is told now: a bar never runs backwards, though steps may be undone, or become more."""
        now = Progress(told["progress"]["done"], told["progress"]["known"])
        return now if now.share >= self.share else self


def frame(shell: Shell, view: View, progress: Progress, width: int, *, compact: bool, bars: bool) -> list[Text]:
    """Lay out a saga that is watched.

    Args:
        shell: for the style of times.
        view: the saga.
        progress: how far it is.
        width: of the terminal.
        compact: only what has failed or is under way.
        bars: draw the bar.
    """
    chips = _chips(view, width, compact=compact)
    lines = [_title(view, progress, width, bars=bars), *chips, *([Text()] if chips else [])]
    lines += [Text.assemble("⚠ ", (each["type"], "yellow"), f"  {each['message']}") for each in view.told["conditions"]]
    if view.observed.broker == "down":
        lines.append(Text.assemble(("⚠ ", "red"), f"the broker is down: {view.observed.broker_error}"))
    latest = [line for entry in view.entries[-_LATEST:] for line in change_lines(shell, view, entry)][-_LATEST:]
    lines += [Text(line, "dim") for line in latest]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return lines


def change_lines(shell: Shell, view: View, entry: Entry) -> list[str]:
    """Tell what an input changed: when, which step, its state, by what, and where that stands or what is awaited."""
    time = clock_time(entry.at, shell.time or "local")
    return [
        f"{time}  {change.step or 'saga':<14}  {change.state:<12}  {change.reason or entry.type:<24}  "
        f"{_awaited(view, change) or _place(entry)}".rstrip()
        for change in entry.changes
    ]


def _awaited(view: View, change: Change) -> str:
    """Say whom or what a step waits for as long as it does."""
    if change.state not in ("WAITING", "RETRYING", "COMPENSATING") or change.step is None:
        return ""
    step = next(
        (
            each
            for each in view.told["steps"]
            if change.step == (each["compensates"] if change.state == "COMPENSATING" else each["name"])
            and (change.state == "COMPENSATING") == (each["compensates"] is not None)
        ),
        None,
    )
    if step is None or step["state"] != change.state or not (step["note"] or "").startswith("waiting for "):
        return ""
    return f"{step['note']}" + (f" from {step['service']}" if step["service"] else "")


def _place(entry: Entry) -> str:
    return entry.place or (entry.source if entry.kind == "operator" else "")


def _title(view: View, progress: Progress, width: int, *, bars: bool) -> Text:
    told = view.told
    person = any(condition["type"] == "WaitingForPerson" for condition in told["conditions"])
    look = phase_look(told["phase"], waits_for_person=person)
    took = span(told["duration_ms"] * 1_000)
    title = Text.assemble((look.glyph, look.style), " ", (told["id"], "bold"), f"  {told['phase']}")
    counted = f"{progress.done}/{progress.known}  {took}"
    room = min(_MOST_BAR, width - title.cell_len - len(counted) - _GAP)
    if bars and room >= _LEAST_BAR:
        full = int(room * progress.share)
        title.append("    ")
        title.append("━" * full, look.style)
        title.append("╺" + "─" * (room - full - 1) if full < room else "", "dim")
    return title.append(f"  {counted}")


def _chips(view: View, width: int, *, compact: bool) -> list[Text]:
    """Set the steps side by side, as many in a line as have room."""
    chips = []
    for step in view.told["steps"]:
        if step["compensates"] is not None and step["state"] == "SKIPPED":
            continue
        if compact and step["state"] in _QUIET:
            continue
        look = step_look(step["state"])
        took = f" {span(step['duration_ms'] * 1_000)}" if step["duration_ms"] is not None else ""
        chips.append(Text.assemble((look.glyph, look.style), f" {step['name']} {step['state']}{took}"))
    return _in_columns(chips[:_MOST_CHIPS], width, len(chips) - _MOST_CHIPS)


def _in_columns(chips: Sequence[Text], width: int, more: int) -> list[Text]:
    if not chips:
        return []
    wide = max(chip.cell_len for chip in chips) + 3
    columns = max(1, width // wide)
    lines = []
    for start in range(0, len(chips), columns):
        line = Text()
        for chip in chips[start : start + columns]:
            line.append_text(chip).append(" " * (wide - chip.cell_len))
        line.rstrip()
        lines.append(line)
    return [*lines, Text(f"and {more} more")] if more > 0 else lines
