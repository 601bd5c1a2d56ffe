"""How what a saga sends is marked: ids, the saga headers, and its place in the trace."""

from __future__ import annotations

from typing import NamedTuple

from ..events.envelope import Envelope
from ..events.event import Event
from ..tracing.headers import saga_traceparent
from ..tracing.ids import ROOT, compensation_path, span_id, step_path, trace_id
from .definition import Definition
from .inputs import Announce, Send, Tell
from .instance import Instance
from .names import parse_saga_id, saga_id
from .occurrence import traced, wire_of
from .routing import UNDO_EMPTY


class Sender(NamedTuple):
    """Who sends: the deployment's namespace."""

    namespace: str


def command_envelope(
    sender: Sender,
    definition: Definition,
    instance: Instance,
    output: Send | Announce,
    id_: str,
    cause: str,
    undoes: tuple[str, ...],
    event: Event,
    now: int,
) -> Envelope:
    """Make the envelope of a command, or of a saga's own event (`docs/wire.md`).

    Args:
        sender: who.
        definition, instance: of the saga.
        output: what `advance` asked for.
        id_: the event's id.
        cause: id of the input that led to it.
        undoes: for an undo, what may have triggered the step.
        event: what is sent.
        now: microseconds.
    """
    spec = event.spec()
    send = output if isinstance(output, Send) else None
    trace = None
    step, occurrence = wire_of(send.step) if send is not None else ("", "")
    sampled = instance.sampled and (send is None or traced(instance, send.step))
    if send is not None:
        path = (compensation_path if send.kind == "undo" else step_path)(step, occurrence)
        within = trace_id(sender.namespace, instance.id, instance.epoch)
        under = span_id(sender.namespace, instance.id, *path)
        trace = f"00-{within:032x}-{under:016x}-{'01' if sampled else '00'}"
    nested = definition.by_name[step].child if step else None
    return Envelope(
        id=id_,
        type=spec.type,
        source=f"choreo/{definition.type}",
        time=now,
        key=event.key_text(),
        causation_id=cause,
        saga_id=instance.id.partition("~")[0],
        saga_type=instance.type,
        saga_run=instance.run,
        saga_step=step or None,
        saga_occurrence=occurrence or None,
        saga_attempt=send.attempt if send else None,
        saga_version=instance.seq,
        saga_depth=depth_of(instance) + 1 if nested is not None else None,
        undoes=undoes,
        traceparent=trace,
        saga_traceparent=saga_traceparent(sender.namespace, instance.id, instance.epoch, sampled),
    )


def outcome_envelope(sender: Sender, instance: Instance, output: Tell, id_: str, cause: str, now: int) -> Envelope:
    """Make the envelope of what a child tells its parent: the parent's saga headers, so that it answers its step.

    Args:
        sender: who.
        instance: the child.
        output: what is told, and to whom.
        id_, cause: the event's id, and that of what led to it.
        now: microseconds.
    """
    parent = parse_saga_id(output.to.id)
    trace = trace_id(sender.namespace, instance.id, instance.epoch)
    root = span_id(sender.namespace, instance.id, *ROOT)
    return Envelope(
        id=id_,
        type=output.type,
        source=f"choreo/{instance.type}",
        time=now,
        key=parent.key,
        causation_id=output.undo or cause,
        saga_id=saga_id(parent.type, parent.key),
        saga_type=parent.type,
        saga_run=parent.run,
        saga_step=output.to.step,
        saga_occurrence=output.to.occurrence or None,
        traceparent=f"00-{trace:032x}-{root:016x}-{'01' if instance.sampled else '00'}",
        extra=((UNDO_EMPTY, b"1"),) if output.empty else (),
    )


def depth_of(instance: Instance) -> int:
    """Say in how many sagas this one is nested."""
    return 0 if instance.parent is None else instance.parent.depth
