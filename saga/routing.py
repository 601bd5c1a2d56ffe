"""Which sagas an event concerns (rulings R2, R12, R14): decided from headers and key, the payload stays closed.

Only where a saga's key is not the record's key is the payload read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from ..events.catalog import ServiceAnnouncement
from ..events.codec import Codec
from ..events.envelope import Delivery, Envelope
from ..events.errors import ConfigurationError, DecodeError, LimitExceeded
from ..events.failures import HandlerFailed
from ..events.handled import HEADER, read_handled
from ..tracing.ids import name_with_run
from .correlation import Asked, FieldReader, asked_by, reader
from .definition import Definition
from .inputs import HandlerGaveUp, Observed, UndoAsked
from .instance import Parent
from .lock import LockPlan
from .names import parse_saga_id, saga_id
from .occurrence import LONGEST_ELEMENT
from .outcomes import COMMANDS_TOPIC, MOST_DEPTH, OUTCOMES, SagaEnded, UndoSaga

FAILURES = HandlerFailed.spec().topic
UNKNOWN = "unknown"
"""Why an event concerns nobody: no definition names its type."""

UNDO_EMPTY = "undo-empty"
"""Header on the answer to an undo: the participant had nothing to undo."""

_ENDED = SagaEnded.spec().type

MOST_TRIGGERS = 150
"""Ids in an `undoes` header: it shares 8,192 bytes with all other headers."""

MOST_ID = 500
MOST_NAME = 1_500
"""Characters of an event's id and of a saga's name: PostgreSQL's index entries hold 2,704 bytes, and one has both."""

SHORT = 100
"""A key of so few characters makes no name that is too long: each becomes twelve at most."""


class Target(NamedTuple):
    """A saga that an event concerns: the latest run of its key, unless the event names one.

    `named` says that the event's saga headers are about this saga, its step and attempt included. `element` is the
    element's key, where the event answers a step that runs once per element and no header names it. `lock` is the key
    of the lock that a saga wants, where the event starts it.
    """

    type: str
    key: str
    run: int | None
    named: bool = False
    element: str | None = None
    lock: str | None = None

    def seen(self, event: Observed) -> Observed:
        """Give the event as this saga sees it: saga headers that are about another one tell it nothing."""
        if not self.named and (event.step is not None or event.attempt is not None or event.occurrence is not None):
            event = replace(event, step=None, attempt=None, occurrence=None)
        if self.lock is not None:
            event = replace(event, lock=self.lock)
        return event if self.element is None else replace(event, occurrence=None, element=self.element)


class Arrival(NamedTuple):
    """A record with what it means: `input` and the sagas that it concerns; none and a reason where it means nothing."""

    delivery: Delivery
    envelope: Envelope
    input: Observed | HandlerGaveUp | UndoAsked
    targets: tuple[Target, ...]
    reason: str = ""

    @property
    def kept(self) -> Delivery:
        """The record with the value that the history keeps: the record's own, or what a decoder has made of it."""
        value = self.envelope.value
        return self.delivery if value is None else self.delivery._replace(value=value)


class Routes:
    """The loaded definitions, by what they consume.

    Args:
        definitions: every version that may have instances: an event goes to a saga if any version consumes it.
        active_from: by saga type, microseconds: earlier events do not concern it (ruling R2).
        locks: by saga type, the lock that a new instance takes.
        asked: functions of users that tell the key of a saga from an event.
    """

    def __init__(
        self,
        definitions: Iterable[Definition],
        active_from: Mapping[str, int],
        locks: Mapping[str, LockPlan],
        asked: Asked | None = None,
    ) -> None:
        self._active_from = active_from
        self._asked = asked or {}
        self._locks = locks
        consumers: dict[str, dict[str, Definition]] = {}
        concerned: dict[str, dict[str, Definition]] = {}
        for definition in sorted(definitions, key=lambda each: each.version):
            for type_ in definition.consumed:
                consumers.setdefault(type_, {})[definition.type] = definition  # the newest that names it
            for type_ in definition.topics:
                concerned.setdefault(type_, {})[definition.type] = definition
        self._consumers = {type_: tuple(found.values()) for type_, found in consumers.items()}
        self._concerned = {type_: tuple(found.values()) for type_, found in concerned.items()}

    def route(
        self, delivery: Delivery, envelope: Envelope, codec: Codec, catalog: Mapping[str, ServiceAnnouncement]
    ) -> Arrival:
        """Say what a record means: a report, a parent's command, or an event.

        Raises:
            EventError: it cannot be read.
            UnknownSchema: the codec must learn a schema first.
        """
        value, content_type = delivery.value or b"", envelope.content_type
        if delivery.topic == FAILURES and envelope.type == HandlerFailed.spec().type:
            return self.failure(delivery, envelope, codec.decode(HandlerFailed, value, content_type), catalog)
        if delivery.topic == COMMANDS_TOPIC and envelope.type == UndoSaga.spec().type:
            return self.undo(delivery, envelope, codec.decode(UndoSaga, value, content_type))
        return self.observe(delivery, envelope, reader(codec, self._asked))

    def observe(self, delivery: Delivery, envelope: Envelope, read: FieldReader) -> Arrival:
        """Say which sagas an event concerns.

        Raises:
            DecodeError: the payload had to be read for its key, and cannot be.
        """
        targets: list[Target] = []
        reason = "produced by choreo" if envelope.type in self._concerned or envelope.type == _ENDED else UNKNOWN
        for definition in self._consumers.get(envelope.type, ()):
            if delivery.timestamp * 1_000 < self._active_from.get(definition.type, 0):
                reason = "before the definition"
                continue
            target = self._named(definition, envelope)
            if target is None and envelope.type in OUTCOMES:
                reason = "another saga's child"
                continue
            if target is not None and envelope.type in definition.start and target.key != envelope.key:
                target = None  # it begins the saga of its own key, whichever saga's handler has published it
            if target is None:
                where = definition.correlate.get(envelope.type)
                if where is not None and where.startswith("call:"):
                    where = asked_by(definition.type, envelope.type)
                    if where not in self._asked:
                        reason = "not loaded"
                        continue
                by_record = where is None or where.startswith("key:")
                key = envelope.key if where is None or by_record else read(delivery, envelope, where)
                if not key:
                    raise DecodeError(f"an event of type {envelope.type} has no key, so it belongs to no saga")
                target = Target(definition.type, key, None)
            if (named := definition.named_by.get(envelope.type)) is not None:
                step, field = named
                if not (target.named and envelope.saga_step == step.name and envelope.saga_occurrence):
                    target = target._replace(element=read(delivery, envelope, field))
            if envelope.type in definition.start and (lock := self._locks.get(definition.type)) is not None:
                target = target._replace(lock=read(delivery, envelope, lock.field))
            _check_storable(envelope, target)
            targets.append(target)
        extra = dict(envelope.extra) if envelope.extra else _NO_HEADERS
        observed = Observed(
            id=envelope.id,
            type=envelope.type,
            source=envelope.source,
            time=envelope.time,
            causation_id=envelope.causation_id,
            step=envelope.saga_step,
            attempt=envelope.saga_attempt,
            occurrence=envelope.saga_occurrence or None,
            traceparent=envelope.traceparent,
            nothing_undone=UNDO_EMPTY in extra,
            parent=_parent(envelope),
            handled=_handled(extra),
        )
        return Arrival(delivery, envelope, observed, tuple(targets), "" if targets else reason)

    def undo(self, delivery: Delivery, envelope: Envelope, command: UndoSaga) -> Arrival:
        """Say which saga a parent undoes.

        Raises:
            DecodeError: it does not say who asks.
        """
        parent = _parent(envelope)
        if parent is None:
            raise DecodeError("it undoes a saga, but does not name the parent that asks for it")
        asked = UndoAsked(envelope.id, parent, envelope.traceparent)
        since = self._active_from.get(command.type)
        if since is None or delivery.timestamp * 1_000 < since:
            return Arrival(delivery, envelope, asked, (), UNKNOWN if since is None else "before the definition")
        target = Target(command.type, command.key, None)
        _check_storable(envelope, target)
        return Arrival(delivery, envelope, asked, (target,))

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
                _check_storable(envelope, target)
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
            retry_topic=report.retry_topic,
            handled=_handled(dict(envelope.extra)),
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
        return Target(name.type, name.key, envelope.saga_run or name.run, named=True)


_NO_HEADERS: Mapping[str, bytes] = {}


def _handled(extra: Mapping[str, bytes]) -> str | None:
    """Give what a handler says of its work."""
    value = extra.get(HEADER)
    return None if value is None else read_handled(value)


def _parent(envelope: Envelope) -> Parent | None:
    """Give the saga that begins, or undoes, a child with this.

    Raises:
        DecodeError, LimitExceeded: it says so in a way that cannot be.
    """
    depth = envelope.saga_depth
    if depth is None:
        return None
    if not (envelope.saga_id and envelope.saga_step):
        raise DecodeError("header 'saga-depth' stands on the start event of a child, beside the parent's saga headers")
    if depth > MOST_DEPTH:
        raise LimitExceeded(f"it begins a saga within {depth} others, at most {MOST_DEPTH} may be nested")
    name = name_with_run(envelope.saga_id, envelope.saga_run)
    if len(name) > MOST_NAME:
        raise LimitExceeded(f"its parent's name has more than {MOST_NAME} characters")
    return Parent(name, envelope.saga_step, envelope.saga_occurrence or "", depth)


def _check_storable(envelope: Envelope, target: Target) -> None:
    """Refuse what no store can keep, before it spoils the transaction of a whole batch."""
    for text in (envelope.id, envelope.content_type, envelope.causation_id or "", target.key, target.lock or ""):
        if "\x00" in text:
            raise DecodeError("its id, its key or a header holds a NUL character, which no store keeps")
    if target.element is not None and len(target.element) > LONGEST_ELEMENT:
        raise LimitExceeded(
            f"it names an element by {len(target.element)} characters, at most {LONGEST_ELEMENT} are read"
        )
    if len(envelope.id) > MOST_ID:
        raise LimitExceeded(f"its id has {len(envelope.id)} characters, at most {MOST_ID} are read")
    if len(target.lock or "") > MOST_ID:
        raise LimitExceeded(f"the key of its lock has {len(target.lock or '')} characters, at most {MOST_ID} are read")
    if len(target.key) > SHORT and len(saga_id(target.type, target.key)) > MOST_NAME:
        raise LimitExceeded(f"its key makes a saga's name of more than {MOST_NAME} characters")


def triggers(
    facts: Sequence[tuple[str, str]], near: frozenset[str], consumed: frozenset[str] | None
) -> tuple[str, ...]:
    """Choose the ids for the `undoes` header: what may have triggered the step (ruling R5), the last ones if too many.

    Args:
        facts: type and id of every event seen so far; an empty type always counts.
        near: types of the step's own trigger: the start or its predecessors' events.
        consumed: event types that the step's handler consumes, as the catalog says; None where it says nothing.
    """
    wanted = near if consumed is None else consumed
    chosen = [id_ for type_, id_ in facts if not type_ or type_ in wanted]
    return tuple(dict.fromkeys(chosen))[-MOST_TRIGGERS:]
