"""One applied input as a row of the history, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from msgspec.structs import asdict

from ..events.codec import SECRET_FIELDS
from ..events.envelope import AVRO, JSON
from ..events.errors import StoreMismatch
from .inputs import (
    Admitted,
    Decided,
    Elapsed,
    HandlerGaveUp,
    Input,
    Loaded,
    Locked,
    Migrated,
    Observed,
    Operator,
    Transition,
    Unbuildable,
    UndoAsked,
    Unloaded,
)
from .instance import Instance
from .routing import Arrival
from .store import HistoryRow, write_input


def history_row(
    instance: Instance,
    transition: Transition,
    input_: Input,
    event_id: str,
    arrival: Arrival | None,
    now: int,
    elements: bytes | None = None,
    hidden: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> HistoryRow:
    """Tell what an input was and what it changed; `elements` are those of a step that runs once for each, as JSON.

    `hidden` says where events hold secrets that no schema tells of: the history tells it with their content type.
    """
    kind, type_, time, text = _told(input_, now)
    content_type = None if arrival is None else _content_type(arrival, hidden)
    return HistoryRow(
        saga_id=instance.id,
        seq=instance.seq,
        event_id=event_id,
        kind=kind,
        type=type_,
        at=now,
        event_time=time,
        verdict=transition.verdict,
        reason=transition.reason,
        changes=transition.changes,
        input=text,
        delivery=arrival.kept if arrival is not None else None,
        content_type=content_type if elements is None else JSON,
        value=elements,
    )


def _content_type(arrival: Arrival, hidden: Mapping[str, tuple[str, ...]]) -> str:
    envelope = arrival.envelope
    if not envelope.extra and envelope.content_type == AVRO and envelope.type not in hidden:
        return AVRO  # its schema tells
    told = next((value.decode(errors="replace") for name, value in envelope.extra if name == SECRET_FIELDS), "")
    secrets = told or ",".join(hidden.get(envelope.type, ()))
    if envelope.content_type == AVRO and not secrets:
        return envelope.content_type  # its schema tells
    return f'{envelope.content_type}; {SECRET_FIELDS}="{secrets}"'


def read_input(kind: str, text: str) -> Input:
    """Read an input that the history keeps.

    Args:
        kind: the row's.
        text: the row's input.

    Raises:
        StoreMismatch: a newer release wrote it.
    """
    if kind not in _KINDS:
        raise StoreMismatch(f"the history has an input of kind {kind!r}; a newer release wrote it, run that one")
    values = json.loads(text)
    for name in ("produces", "value", "outputs"):
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    cls = _KINDS[kind]
    made: Input = cls.read(values) if cls in (Observed, UndoAsked) else cls(**values)
    return made


_KINDS: dict[str, type[Any]] = {
    "event": Observed,
    "failure": HandlerGaveUp,
    "timer": Elapsed,
    "operator": Operator,
    "unbuildable": Unbuildable,
    "decided": Decided,
    "paused": Unloaded,
    "released": Loaded,
    "migrated": Migrated,
    "lock": Locked,
    "admitted": Admitted,
    "undo": UndoAsked,
}


def _told(input_: Input, now: int) -> tuple[str, str, int, str]:
    """Give an input's kind, type, own time, and its text for the history."""
    match input_:
        case Observed():
            return "event", input_.type, input_.time, write_input(input_)
        case UndoAsked():
            return "undo", "UndoSaga", now, json.dumps(asdict(input_))
        case HandlerGaveUp():
            return "failure", "HandlerFailed", now, write_input(input_)
        case Elapsed():
            return "timer", "", input_.until, json.dumps({"until": input_.until})
        case Operator():
            told: dict[str, Any] = {
                "id": input_.id,
                "kind": input_.kind,
                "by": input_.by,
                "reason": input_.reason,
                "step": input_.step,
            }
            return "operator", input_.kind, now, json.dumps(told)
        case Unbuildable():
            return (
                "unbuildable",
                input_.kind,
                now,
                json.dumps({"step": input_.step, "kind": input_.kind, "message": input_.message}),
            )
        case Decided():
            return (
                "decided",
                input_.kind,
                now,
                json.dumps({"step": input_.step, "kind": input_.kind, "value": input_.value}),
            )
        case Unloaded():
            return "paused", "", now, json.dumps({"outputs": input_.outputs, "cause": input_.cause})
        case Loaded():
            return "released", "", now, "{}"
        case Migrated():
            moved = {
                "was": input_.was,
                "version": input_.version,
                "hash": input_.hash,
                "by": input_.by,
                "reason": input_.reason,
            }
            return "migrated", f"version {input_.version}", now, json.dumps(moved)
        case Admitted():
            return "admitted", "", now, "{}"
        case Locked():
            locked = {"granted": input_.granted, "holder": input_.holder, "ahead": input_.ahead}
            return "lock", "", now, json.dumps(locked)
