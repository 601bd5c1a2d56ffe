"""Every saga's end, told to whoever wants to know: `SagaEnded` on `choreo.outcomes`, once for each end.

It is made of the states before and after a transaction and written to that transaction's outbox, so it is sent if and
only if the end was committed; a saga that is opened again and ends again has another one (ruling R11).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

from ..events.clock import to_datetime
from ..events.codec import Codec, to_record
from ..events.envelope import Envelope, Record
from ..events.ids import derived_id
from ..tracing.headers import SagaTrace, format_saga_trace
from ..tracing.ids import ROOT, span_id, trace_id
from .commands import Sender
from .instance import Instance
from .outcomes import End, SagaEnded
from .work import Moved


def has_ended(before: Instance | None, after: Instance) -> bool:
    """Tell whether a saga came to an end between two states of it; `before` is None for a new one."""
    return after.phase.ended and (before is None or not before.phase.ended or before.epoch != after.epoch)


def end_id(saga: str, epoch: int) -> str:
    """Derive the id of the event that tells an end.

    Args:
        saga: the saga's name with its run.
        epoch: number of its trace, another one for each end.
    """
    return derived_id("ended", saga, str(epoch))


def told(sender: Sender, codec: Codec, moves: Iterable[Moved]) -> Iterator[Record]:
    """Make the records that tell of ends; a saga that only observes sends nothing, this neither.

    Args:
        sender: who.
        codec: prepared for `SagaEnded`.
        moves: what sagas went through in the transaction.
    """
    for definition, before, after in moves:
        if has_ended(before, after) and not definition.observe_only:
            yield to_record(_event(after), _envelope(sender, after), codec)


def _event(instance: Instance) -> SagaEnded:
    cause = instance.cause or {}
    assert instance.ended_at is not None
    # Its parts are ours and of their types: nothing needs to be validated for each saga.
    return SagaEnded.model_construct(
        key=instance.key,
        saga=instance.id,
        type=instance.type,
        run=instance.run,
        epoch=instance.epoch,
        version=instance.version,
        phase=cast(End, instance.phase.value),
        started_at=to_datetime(instance.started_at),
        ended_at=to_datetime(instance.ended_at),
        step=cause.get("step"),
        error=cause.get("error"),
    )


def _envelope(sender: Sender, instance: Instance) -> Envelope:
    """Mark it with the saga's trace, and without saga headers: what answers it does not belong to the ended saga."""
    name = instance.id
    place = format_saga_trace(
        SagaTrace(
            trace_id(sender.namespace, name, instance.epoch), span_id(sender.namespace, name, *ROOT), instance.sampled
        )
    )
    assert instance.ended_at is not None
    return Envelope(
        id=end_id(name, instance.epoch),
        type=SagaEnded.spec().type,
        source=f"choreo/{instance.type}",
        time=instance.ended_at,
        key=instance.key,
        traceparent=place,  # the saga's root is the parent in both
        saga_traceparent=place,
    )
