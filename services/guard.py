"""The guard: pure decisions on what the inbox holds. May this event run? Is there anything to undo? (rulings R4, R5)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .inbox import Key, Row, State

Forward = Literal["run", "duplicate", "refused"]


def judge_event(row: Row | None, step: Row | None, *, replayed: bool = False, retried: bool = False) -> Forward:
    """Say whether an event may run.

    Args:
        row: what the inbox holds of this event for this handler.
        step: what it holds of the command's step, whatever the attempt; None where there is nothing to look for.
        replayed: a person sent it again from the dead letters.
        retried: it comes from the parking place of this very handler.

    Returns:
        run; duplicate (it was met before); refused (it was undone before it came).
    """
    if row is not None and row.state in ("refused", "unknown"):
        return "refused"
    if (
        row is None
        or row.state == "claimed"
        or (row.state == "parked" and retried)
        or (row.state == "failed" and replayed)
    ):
        # A claim that is found on delivery is of a run that never ended: the partition is ours now, so it is taken
        # over.
        return "refused" if step is not None and step.state in ("refused", "unknown") else "run"
    return "duplicate"


@dataclass(frozen=True, slots=True)
class Undo:
    """What an undo command finds.

    Args:
        verdict: run (something happened, or may have); wait (it is happening now); empty (nothing did, nor ever will).
        until: with wait: when the claim ends at the latest, in microseconds.
        marks: states to write for the forward handler, by event id, so that nothing of it runs from now on.
        known: of these ids, those that have a row already.
    """

    verdict: Literal["run", "wait", "empty"]
    until: int = 0
    marks: Mapping[str, State] | None = None
    known: frozenset[str] = frozenset()


def judge_undo(forward: str, events: tuple[str, ...], step: str | None, rows: Mapping[Key, Row], now: int) -> Undo:
    """Say what an undo command has to do.

    Only absence means that nothing happened. A claim that expired, or a try that failed half way, may have had its
    effect: the outcome is unknown, so the undo runs. A row whose `until` is set was claimed once, whatever became of
        it.

    Args:
        forward: the handler that is to be undone.
        events: ids of the events that may have triggered it (the `undoes` header).
        step: the id under which the step is known (`inbox.reference`), if the command is of a saga.
        rows: what the inbox holds.
        now: microseconds.
    """
    ids = (*events, step) if step is not None else events
    if not ids:
        return Undo("run", marks={})  # nothing says what to look for, so nothing proves that it did not happen
    happened = False
    marks: dict[str, State] = {}
    for event_id in ids:
        row = rows.get((forward, event_id))
        if row is None:
            marks[event_id] = "refused"
        elif row.state == "claimed" and row.until is not None and row.until > now:
            return Undo("wait", until=row.until)
        elif row.state in ("claimed", "failed", "parked"):
            tried = row.until is not None
            happened |= tried
            marks[event_id] = "unknown" if tried else "refused"
        elif row.state in ("done", "unknown"):
            happened = True
            if event_id == step and row.state == "done":
                marks[event_id] = "unknown"  # no later attempt of an undone step may run
    known = frozenset(event_id for event_id in marks if (forward, event_id) in rows)
    return Undo("run" if happened else "empty", marks=marks, known=known)
