"""One piece of work, an event for one handler, and what can become of it. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Literal

from ..events.envelope import Delivery, Envelope, Record, TopicPartition
from ..events.event import Event
from ..events.handled import write_handled
from ..events.ids import Derived
from .inbox import Key, State, reference
from .ladder import RetryTopic
from .priorities import ranks_of
from .service import Handler, Service

if TYPE_CHECKING:
    from ..tracing.sends import SendSpan
    from .batches import Collector
    from .gates import Gate

Kind = Literal["handled", "duplicates", "refused", "dead", "parked", "delayed"]
"""What a finished job counts as."""


class Stage(Enum):
    """What a job has to do next."""

    RUN = "run"
    LOOK = "look"  # the same event was in flight when this one came: look in the inbox first
    CLAIM = "claim"  # commit a claim, then run
    UNDO = "undo"  # ask the guard, then run
    TX = "tx"  # run inside the batch's transaction
    BEHIND = "behind"  # its key may be parked: wait behind it, or run
    RECORD = "record"  # it has a result, which must become durable


class Route:
    """What the worker needs to know of a handler, worked out once."""

    __slots__ = (
        "_outputs",
        "claims",
        "collector",
        "forward",
        "gate",
        "guarded",
        "handler",
        "name",
        "parks",
        "ranks",
        "rungs",
        "stage",
        "tx",
    )

    def __init__(self, service: Service, handler: Handler) -> None:
        self.handler = handler
        self.name = handler.full_name
        self._outputs: list[Derived] = []
        self.tx = handler.signature.transactional
        self.guarded = service.guarded(handler)
        self.claims = service.claims(handler)
        self.forward = handler.undoes.full_name if handler.undoes is not None else None
        self.gate: Gate | None = None
        """Where its jobs wait for their turn; set by whoever runs them, None where there is nothing to wait for."""
        self.collector: Collector | None = None
        """Where a batch handler's jobs are collected."""
        topics = [event.spec().topic for event in handler.events]
        self.ranks = ranks_of(topics, handler.limits.priority, service.priorities)
        self.rungs = len(handler.exhausted.delays) if isinstance(handler.exhausted, RetryTopic) else 0
        self.parks = handler.exhausted == "park"
        self.stage = Stage.UNDO if self.forward else Stage.TX if self.tx else Stage.CLAIM if self.claims else Stage.RUN

    def output_id(self, index: int, event_id: str) -> str:
        """Give the id of what the handler publishes: the same whenever it handles this event."""
        while index >= len(self._outputs):
            after = (self.handler.service, self.handler.name, str(len(self._outputs)))
            self._outputs.append(Derived(("output",), after))
        return self._outputs[index](event_id)


class Receipt:
    """Counts the jobs of one delivery: when none is left, its offset is finished.

    Args:
        delivery: the record.
        place: the partition that it was read from.
        left: its jobs.
        epoch: how often its partition was taken away before.
    """

    __slots__ = ("delivery", "epoch", "left", "place")

    def __init__(self, delivery: Delivery, place: TopicPartition, left: int, epoch: int) -> None:
        self.delivery = delivery
        self.place = place
        self.left = left
        self.epoch = epoch


@dataclass(slots=True)
class Park:
    """An event that is to wait in the store.

    Args:
        attempts: tries so far; 0 for one that only waits behind another.
        due_at: when to try it, in microseconds.
        error: why it failed, for people.
    """

    attempts: int
    due_at: int
    error: str | None = None


@dataclass(slots=True)
class Result:
    """What is to be recorded of a job.

    Args:
        kind: what it counts as.
        state: of its inbox row; None leaves the inbox as it is.
        records: what to publish.
        answered: the records are kept with the row, to be sent again when the command comes again.
        park: where it waits now.
    """

    kind: Kind
    state: State | None = None
    records: Sequence[Record] = ()
    answered: bool = False
    park: Park | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """Do the same stage again after `delay` microseconds."""

    delay: int


def lane_of(envelope: Envelope) -> str:
    """Name what an event is serialized by: its key, or itself; a NUL, which no database takes, is replaced."""
    name = envelope.key or envelope.id
    return name.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in name else name


@dataclass(slots=True, eq=False)
class Job:
    """One event for one handler.

    Args:
        route: the handler.
        envelope, delivery: the event as it was read.
        receipt: of its delivery; None for one that comes from the parking place.
        stage: what to do next.
        retried: it comes from the parking place, or from a retry topic.
        rung: how many retry topics it has been on.
        told: sagas have heard that it is parked.
        replayed: a person sent it again from the dead letters.
        attempt: the try that is under way or was last, from 1.
        failed_at: when it first failed, in microseconds; 0 while it has not.
        claimed: until when its claim holds, in microseconds; None without a claim.
        event: its payload, once it is decoded.
        result: what is to be recorded, once it ran.
        active: it runs, or is part of a transaction: it must not be dropped.
        holds: it has the turn in its lane.
        dropped: its partition is not ours any more, so nothing of it counts.
        sends: spans of its outputs that are open, when tracing is on.
        began: when its last try began, microseconds; 0 before the first.
        span_id: of that try's span; "" where it has none.
        step: the id of the saga's step that it is a command for.
        key: its place in the inbox.
        lane: what it is serialized with: the handler's events of one key; an event without a key is alone.
    """

    route: Route
    envelope: Envelope
    delivery: Delivery
    receipt: Receipt | None
    stage: Stage
    retried: bool = False
    rung: int = 0
    told: bool = False
    replayed: bool = False
    attempt: int = 0
    failed_at: int = 0
    claimed: int | None = None
    event: Event | None = None
    result: Result | None = None
    active: bool = False
    holds: bool = False
    dropped: bool = False
    sends: list[SendSpan] = field(default_factory=list)
    began: int = 0
    span_id: str = ""
    step: str | None = field(init=False)
    key: Key = field(init=False)
    lane: Key = field(init=False)

    def __post_init__(self) -> None:
        self.step = reference(self.envelope) if self.envelope.saga_attempt is not None else None
        self.key = (self.route.name, self.envelope.id)
        self.lane = (self.route.name, lane_of(self.envelope))

    def handled(self, now: int) -> tuple[str, bytes]:
        """Give the header that tells how long its last try was waited for and ran, up to `now` (microseconds)."""
        queued = self.began // 1_000 - self.delivery.timestamp if self.attempt == 1 else -1
        return write_handled(queued, (now - self.began) // 1_000, self.span_id)

    def climb(self, rung: int) -> None:
        """Note that it comes from a retry topic, and which one: from 1."""
        self.retried = self.told = True
        self.rung, self.attempt = rung, self.route.handler.retry.attempts + rung - 1

    @property
    def command(self) -> bool:
        """Its answer is kept: it is a saga's command, or an undo."""
        return self.step is not None or self.route.forward is not None
