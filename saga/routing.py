"""Which sagas an event concerns (rulings R2, R12, R14): decided from headers and key, the payload stays closed.

Only where a saga's key is not the record's key is the payload read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..events.catalog import ServiceAnnouncement
from ..events.envelope import Delivery, Envelope
from ..events.errors import ConfigurationError, DecodeError
from ..events.failures import HandlerFailed
from .declaration import Declaration
from .definition import Definition
from .inputs import HandlerGaveUp, Observed
from .names import parse_saga_id

FAILURES = HandlerFailed.spec().topic
UNDO_EMPTY = "undo-empty"
"""Header on the answer to an undo: the participant had nothing to undo."""

FieldReader = Callable[[Delivery, Envelope, str], str]
"""Reads one field of a payload as text; raises DecodeError."""


class Target(NamedTuple):
    """A saga that an event concerns: the latest run of its key, unless the event names one."""

    type: str
    key: str
    run: int | None


class Arrival(NamedTuple):
    """A record with what it means: `input` and the sagas that it concerns; none and a reason where it means nothing."""

    delivery: Delivery
    envelope: Envelope
    input: Observed | HandlerGaveUp
    targets: tuple[Target, ...]
    reason: str = ""


class Routes:
    """The loaded definitions, by what they consume.

    Args:
        declarations: of every saga type the newest version, and older ones that still have instances.
        active_from: by saga type, microseconds: earlier events do not concern it (ruling R2).
    """

    def __init__(self, declarations: Iterable[Declaration], active_from: Mapping[str, int]) -> None:
        self.declarations: dict[str, Declaration] = {}
        for declaration in declarations:
            definition = declaration.definition
            known = self.declarations.get(definition.type)
            if known is None or known.definition.version < definition.version:
                self.declarations[definition.type] = declaration
        self._active_from = active_from
        self._consumers: dict[str, list[Definition]] = {}
        self._concerned: dict[str, list[Definition]] = {}
        for declaration in self.declarations.values():
            definition = declaration.definition
            for type_ in definition.consumed:
                self._consumers.setdefault(type_, []).append(definition)
            for type_ in definition.topics:
                self._concerned.setdefault(type_, []).append(definition)

    @property
    def topics(self) -> list[str]:
        """Every topic that must be read."""
        return sorted({FAILURES, *(t for d in self.declarations.values() for t in d.definition.consumed_topics)})

    def observe(self, delivery: Delivery, envelope: Envelope, read: FieldReader) -> Arrival:
        """Say which sagas an event concerns.

        Raises:
            DecodeError: the payload had to be read for its key, and cannot be.
        """
        targets: list[Target] = []
        reason = "unknown" if envelope.type not in self._concerned else "produced by choreo"
        for definition in self._consumers.get(envelope.type, ()):
            if delivery.timestamp * 1_000 < self._active_from.get(definition.type, 0):
                reason = "before the definition"
                continue
            target = self._named(definition, envelope)
            if target is None:
                field = definition.correlate.get(envelope.type)
                key = envelope.key if field is None else read(delivery, envelope, field)
                if not key:
                    raise DecodeError(f"an event of type {envelope.type} has no key, so it belongs to no saga")
                target = Target(definition.type, key, None)
            targets.append(target)
        observed = Observed(
            id=envelope.id,
            type=envelope.type,
            source=envelope.source,
            time=envelope.time,
            causation_id=envelope.causation_id,
            step=envelope.saga_step,
            attempt=envelope.saga_attempt,
            traceparent=envelope.traceparent,
            nothing_undone=any(name == UNDO_EMPTY for name, _ in envelope.extra),
        )
        return Arrival(delivery, envelope, observed, tuple(targets), "" if targets else reason)

    def failure(
        self, delivery: Delivery, envelope: Envelope, report: HandlerFailed, catalog: Mapping[str, ServiceAnnouncement]
    ) -> Arrival:
        """Say which sagas a service's report of a failed handler concerns."""
        service = catalog.get(report.service)
        handlers = service.handlers if service is not None else ()
        produces = tuple(
            made.type for handler in handlers if handler.name == report.handler for made in handler.produces
        )
        targets = []
        for definition in self._concerned.get(report.event_type, ()):
            target = self._named(definition, envelope) or Target(definition.type, report.key, None)
            if target.key and delivery.timestamp * 1_000 >= self._active_from.get(definition.type, 0):
                targets.append(target)
        gave_up = HandlerGaveUp(
            id=envelope.id,
            event_id=report.event_id,
            event_type=report.event_type,
            service=report.service,
            handler=report.handler,
            produces=produces,
            dead=report.dead,
            error=report.error_class,
            message=report.message,
            attempts=report.attempts,
            traceparent=envelope.traceparent,
        )
        return Arrival(delivery, envelope, gave_up, tuple(targets), "" if targets else "no saga")

    def _named(self, definition: Definition, envelope: Envelope) -> Target | None:
        """The header decides, but only for the saga type that it names (ruling R12)."""
        if envelope.saga_id is None:
            return None
        try:
            name = parse_saga_id(envelope.saga_id)
        except ConfigurationError:
            return None
        if name.type != definition.type:
            return None
        return Target(name.type, name.key, envelope.saga_run or name.run)


def triggers(
    facts: Sequence[tuple[str, str]], near: frozenset[str], consumed: frozenset[str] | None
) -> tuple[str, ...]:
    """Choose the ids for the `undoes` header: what may have triggered the step (ruling R5).

    Args:
        facts: type and id of every event seen so far; an empty type always counts.
        near: types of the step's own trigger: the start or its predecessors' events.
        consumed: event types that the step's handler consumes, as the catalog says; None where it says nothing.
    """
    wanted = near if consumed is None else consumed
    chosen = [id_ for type_, id_ in facts if not type_ or type_ in wanted]
    return tuple(dict.fromkeys(chosen))
