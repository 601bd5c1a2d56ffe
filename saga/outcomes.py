"""How a saga's end is told: to everybody, and between parent and child, with how the one undoes the other.

All travel as events, so parent and child may run in coordinators that share nothing but the broker.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from ..events.errors import TopicMissing
from ..events.event import Event
from ..events.failures import FAILURES_TOPIC
from ..events.transport import TopicSpec, Transport

OUTCOMES_TOPIC = "choreo.outcomes"
ALERTS_TOPIC = "choreo.alerts"
COMMANDS_TOPIC = "choreo.commands"
MOST_DEPTH = 10
"""How deep sagas may begin sagas: two that begin each other would fill the store otherwise (fault 52)."""

End = Literal["COMPLETED", "COMPENSATED", "CANCELLED", "FAILED"]


class SagaEnded(Event, topic=OUTCOMES_TOPIC, key="key", format="json"):
    """A saga has come to its end.

    Args:
        key: the saga's business key.
        saga: its name, with the run where that is not the first, e.g. `fulfilment/4711`.
        type, run: the parts of its name.
        epoch: number of its trace: it rises when it is opened again after an end, and every day that it is open.
        version: of its definition.
        phase: how it ended.
        started_at, ended_at: when.
        step, error: what led to the end, where it is not a good one: the step, and the class of its error.
    """

    key: str
    saga: str
    type: str
    run: int
    epoch: int
    version: int
    phase: End
    started_at: datetime
    ended_at: datetime
    step: str | None = None
    error: str | None = None


class _Outcome(Event, topic=OUTCOMES_TOPIC, key="key", format="json"):
    """What a child says to its parent.

    Args:
        key: the parent's, so that this meets the same saga.
        saga: the child's name.
        parent: the parent's name.
    """

    key: str
    saga: str
    parent: str


class SagaCompleted(_Outcome):
    """A child ended well."""


class SagaCompensated(_Outcome):
    """A child failed, and all that it did is undone."""


class SagaCancelled(_Outcome):
    """A child was undone on request, or could not begin."""


class SagaFailed(_Outcome):
    """A child failed and could not be undone: a person is needed, and what it did stands."""


class SagaUndone(_Outcome):
    """A child was undone because its parent asked for it, or never began and never will."""


class SagaUndoRefused(_Outcome):
    """A child cannot be undone: its pivot is passed, or its own undo has failed for good."""


class UndoSaga(Event, topic=COMMANDS_TOPIC, key="key", format="json"):
    """Undo a child, whatever it is at.

    Args:
        key: the child's.
        type: the child's saga type.
    """

    key: str
    type: str


DONE: tuple[type[SagaCompleted], ...] = (SagaCompleted,)
FAILED: tuple[type[Event], ...] = (SagaCompensated, SagaCancelled, SagaFailed)
UNDONE: tuple[type[Event], ...] = (SagaUndone, SagaUndoRefused)
OUTCOMES = {cls.spec().type: cls for cls in (*DONE, *FAILED, *UNDONE)}
"""Every outcome by its type."""


def nesting_topics(partitions: int, replication: int = 0) -> list[TopicSpec]:
    """Give the topics that parents and children need, and that of alerts."""
    names = [name for topic in (COMMANDS_TOPIC, OUTCOMES_TOPIC, ALERTS_TOPIC) for name in (topic, f"{topic}.dlq")]
    return [TopicSpec(name, partitions=partitions, replication=replication) for name in names]


async def ensure_topics(transport: Transport) -> None:
    """Make the missing ones, as many partitions as the failures have: any saga may be a child one day.

    Raises:
        TopicMissing: not even the failures' topic is there.
    """
    known = await transport.topics([FAILURES_TOPIC, *(spec.name for spec in nesting_topics(1))])
    if FAILURES_TOPIC not in known:
        raise TopicMissing(f"topic {FAILURES_TOPIC} does not exist; make it with `saga topics apply`")
    missing = [spec for spec in nesting_topics(known[FAILURES_TOPIC].partitions) if spec.name not in known]
    if missing:
        await transport.create_topics(missing)
