"""Every saga's end, told to whoever wants to know: `SagaEnded` on `choreo.outcomes`, once for each end.

It is made of the states before and after a transaction and written to that transaction's outbox, so it is sent if and
only if the end was committed; a saga that is opened again and ends again has another one (ruling R11).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from msgspec import Struct
from msgspec.json import Encoder

from ..events.clock import to_datetime
from ..events.envelope import JSON, Envelope, Record, write_headers
from ..events.ids import derived_id
from ..tracing.headers import SagaTrace, format_saga_trace
from ..tracing.ids import ROOT, span_id, trace_id
from .commands import Sender
from .instance import Instance
from .outcomes import OUTCOMES_TOPIC, SagaEnded
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


def told(sender: Sender, moves: Iterable[Moved]) -> Iterator[Record]:
    """Make the records that tell of ends; a saga that only observes sends nothing, this neither.

    Args:
        sender: who.
        moves: what sagas went through in the transaction.
    """
    for definition, before, after in moves:
        if has_ended(before, after) and not definition.observe_only:
            yield Record(OUTCOMES_TOPIC, after.key.encode(), _value(after), write_headers(_envelope(sender, after)))


class _Ended(Struct):
    """The fields of `SagaEnded`: every saga ends, and a structure is written in a tenth of a model's time."""

    key: str
    saga: str
    type: str
    run: int
    epoch: int
    version: int
    phase: str
    started_at: datetime
    ended_at: datetime
    step: str | None
    error: str | None


_WRITER = Encoder()
_TYPE = SagaEnded.spec().type


def _value(instance: Instance) -> bytes:
    """Write the value of a `SagaEnded`: the bytes that its codec would write."""
    cause = instance.cause or {}
    assert instance.ended_at is not None
    event = _Ended(
        key=instance.key,
        saga=instance.id,
        type=instance.type,
        run=instance.run,
        epoch=instance.epoch,
        version=instance.version,
        phase=instance.phase.value,
        started_at=to_datetime(instance.started_at),
        ended_at=to_datetime(instance.ended_at),
        step=cause.get("step"),
        error=cause.get("error"),
    )
    return _WRITER.encode(event)


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
        type=_TYPE,
        source=f"choreo/{instance.type}",
        time=instance.ended_at,
        key=instance.key,
        content_type=JSON,
        traceparent=place,  # the saga's root is the parent in both
        saga_traceparent=place,
    )
