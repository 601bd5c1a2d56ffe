"""Make the records that a saga sends, and put its questions to the user's functions, within one transaction.

Only here are payloads decoded, each event once per transaction.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from ..events.codec import UnknownSchema, to_record
from ..events.envelope import Record
from ..events.errors import DecodeError, LimitExceeded
from ..events.event import Event
from ..events.ids import derived_id
from ..events.outbox import MOST_RECORD_BYTES
from . import store
from .building import Element, SagaFacts, build, decide, find_elements
from .commands import command_envelope, depth_of, outcome_envelope
from .declaration import Declaration
from .definition import Definition
from .inputs import Announce, Ask, Send, Tell, command_id
from .instance import Fact, Instance
from .knowledge import Knowledge
from .names import parse_saga_id
from .occurrence import base_of, element_of, wire_of
from .outcomes import MOST_DEPTH, OUTCOMES, UndoSaga
from .routing import triggers
from .work import Work

UNDO_SAGA = UndoSaga.spec().type


class Crafting:
    """Makes what sagas send.

    Args:
        connection: within the transaction.
        knowledge: what the coordinator knows.
        now: the store's clock, microseconds.
    """

    def __init__(self, connection: Connection, knowledge: Knowledge, now: int) -> None:
        self._connection = connection
        self._knowledge = knowledge
        self._now = now

    def record(self, work: Work, definition: Definition, output: Send | Announce, id_: str, cause: str) -> Record:
        """Make the record of a command or of a saga's own event.

        Args:
            work: the saga.
            definition: of it.
            output: what `advance` asked for.
            id_: the event's id.
            cause: id of the input that led to it.

        Raises:
            EventError: it cannot be built from the saga's events.
            UnknownSchema: the codec must learn a schema first.
        """
        instance = work.instance
        declaration = self._declaration(instance)
        facts = self._facts(work, declaration)
        element: Element | None = None
        undoes: tuple[str, ...] = ()
        if isinstance(output, Send):
            element = self._element(work, declaration, facts, output.step)
            undoes = self._undoes(definition, output)
            self._check_depth(definition, instance, output)
        if output.type == UNDO_SAGA:
            assert isinstance(output, Send)
            event: Event = self._undo_saga(work, definition, declaration, facts, output)
        else:
            event = build(declaration, output.type, facts, element)
        envelope = command_envelope(
            self._knowledge.sender, definition, instance, output, id_, cause, undoes, event, self._now
        )
        record = to_record(event, envelope, self._knowledge.codec)
        if record.size() > MOST_RECORD_BYTES:
            raise LimitExceeded(f"{output.type} has {record.size()} bytes; at most {MOST_RECORD_BYTES} can be sent")
        return record

    def outcome(self, instance: Instance, output: Tell, cause: str) -> Record:
        """Make the record of what a child tells its parent; no code of the user is needed for it."""
        parent = parse_saga_id(output.to.id)
        event = OUTCOMES[output.type](key=parent.key, saga=instance.id, parent=output.to.id)
        told = derived_id("outcome", instance.id, output.to.id, output.type, output.undo or str(instance.epoch))
        envelope = outcome_envelope(self._knowledge.sender, instance, output, told, cause, self._now)
        return to_record(event, envelope, self._knowledge.codec)

    def _check_depth(self, definition: Definition, instance: Instance, output: Send) -> None:
        nested = definition.by_name[base_of(output.step)].child
        if nested is not None and output.kind == "do" and depth_of(instance) >= MOST_DEPTH:
            raise LimitExceeded(
                f"it would begin {nested} within {depth_of(instance) + 1} sagas, at most {MOST_DEPTH} may be nested; "
                "do they begin each other?"
            )

    def _undo_saga(
        self, work: Work, definition: Definition, declaration: Declaration, facts: SagaFacts, output: Send
    ) -> UndoSaga:
        """Name the child by the key under which it was begun."""
        plan = definition.by_name[base_of(output.step)]
        instance = work.instance
        attempt = instance.steps[output.step].attempt
        begun = store.load_sent(self._connection, command_id(instance.id, *wire_of(output.step), "do", attempt))
        if begun is not None:
            key = (begun.key or b"").decode()
        else:  # it is begun and undone in one transaction
            element = self._element(work, declaration, facts, output.step)
            key = build(declaration, plan.send or "", facts, element).key_text()
        return UndoSaga(key=key, type=plan.child or "")

    def answer(self, work: Work, question: Ask) -> tuple[Any, bytes | None]:
        """Ask a function of the user.

        Returns:
            What it says; for "each" the keys of the elements, with the elements as JSON.

        Raises:
            EventError: it raised, or gave what is no answer.
            UnknownSchema: the codec must learn a schema first.
        """
        declaration = self._declaration(work.instance)
        facts = self._facts(work, declaration)
        if question.kind != "each":
            return decide(declaration, question.step, question.kind, facts), None
        found = find_elements(declaration, question.step, facts)
        return tuple(found), declaration.fans[question.step].dump(found, self._knowledge.codec.keys, work.instance.id)

    def _facts(self, work: Work, declaration: Declaration) -> SagaFacts:
        return SagaFacts(work.instance, lambda fact: self._decoded(work, declaration, fact))

    def _declaration(self, instance: Instance) -> Declaration:
        declaration = self._knowledge.declarations.get((instance.type, instance.version))
        if declaration is None:
            raise DecodeError(
                f"version {instance.version} of {instance.type} is not loaded here; run it with `saga run`"
            )
        return declaration

    def _decoded(self, work: Work, declaration: Declaration, fact: Fact) -> Event:
        if (event := work.events.get(fact.id)) is not None:
            return event
        value, content_type = self._value(work, fact.id)
        if value is None:
            raise DecodeError(f"the payload of {fact.type} {fact.id} is not in the history")
        try:
            where = declaration.definition.correlate.get(fact.type, "key:")
            key = work.instance.key if where.startswith("key:") else ""
            event = self._knowledge.codec.decode(declaration.events[fact.type], value, content_type, key, fact.id)
            work.events[fact.id] = event
            return event
        except UnknownSchema as error:
            if error.schema_id not in self._knowledge.unreadable:
                raise
            raise DecodeError(
                f"{fact.type} {fact.id} was written with schema {error.schema_id}, which nobody knows"
            ) from None

    def _value(self, work: Work, event_id: str) -> tuple[bytes | None, str]:
        found = work.values.get(event_id)
        if found is None:
            found = work.values[event_id] = store.event_value(self._connection, work.instance.id, event_id)
        return found

    def _element(self, work: Work, declaration: Declaration, facts: SagaFacts, step: str) -> Element | None:
        """Give the element that a step's command is about, as it was when its turn came."""
        key = element_of(step)
        if key is None:
            return None
        base = base_of(step)
        fan = declaration.fans[base]
        decided = work.instance.steps[base].decided
        if decided is not None and decided not in work.elements:
            value, _ = self._value(work, decided)
            work.elements[decided] = fan.load(value or b"[]", self._knowledge.codec.keys, work.instance.id)
        elements = work.elements[decided] if decided is not None else find_elements(declaration, base, facts, {})
        return Element(step, fan.key_value(key), elements.get(key), fan.by)

    def _undoes(self, definition: Definition, output: Send) -> tuple[str, ...]:
        if output.kind == "do":
            return ()
        plan = definition.by_name[base_of(output.step)]
        near = frozenset(definition.triggers[plan.name])
        handlers = [h for service in self._knowledge.catalog.values() for h in service.handlers]
        makers = [h for h in handlers if {made.type for made in h.produces} & {*plan.done, *plan.failed}]
        consumed = frozenset(c.type for h in makers for c in h.consumes) if makers else None
        return triggers([(fact.type, fact.id) for fact in output.undoes], near, consumed)
