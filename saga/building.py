"""Build what a saga sends, from the events that it has seen, and ask the user's functions what they decide."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from pydantic import ValidationError

from ..events.clock import from_datetime
from ..events.errors import ChoreoError, DecodeError, EncodeError
from ..events.event import Event
from ..events.secret import scrub
from .declaration import Declaration
from .instance import Fact, Instance, Question
from .occurrence import base_of, members

Decode = Callable[[Fact], Event]
"""Gives the event of a fact, decoded."""


class SagaFacts:
    """The events of one instance, decoded when somebody asks, each once.

    Args:
        instance: whose events.
        decode: gives the event of a fact.
    """

    def __init__(self, instance: Instance, decode: Decode) -> None:
        self._instance = instance
        self._decode = decode
        self._known: dict[str, Event] = {}

    @property
    def key(self) -> str:
        """The saga's business key."""
        return self._instance.key

    @property
    def seen(self) -> tuple[Event, ...]:
        """The events that were decoded so far."""
        return tuple(self._known.values())

    def start(self) -> Event:
        """Give the event that started it."""
        fact = self._instance.started_by
        assert fact is not None
        return self._event(fact)

    def done(self, step: str) -> Event | None:
        """Give the event that told a step's success, None before it."""
        found = self._instance.steps.get(step)
        return None if found is None or found.done is None else self._event(found.done)

    def every(self, step: str) -> list[Event]:
        """Give the events that told the success of a step's occurrences so far, in the order of the elements."""
        return [event for name in members(self._instance, step) if (event := self.done(name)) is not None]

    def newest_first(self) -> list[Fact]:
        """List the facts in the order in which fields are taken from them: newest step first, start event last.

        What was said about one of several elements is left out: it says nothing about the saga.
        """
        steps = [step for name, step in self._instance.steps.items() if base_of(name) == name]
        done = [(step.ended_at or 0, index, step.done) for index, step in enumerate(steps)]
        facts = [fact for _, _, fact in sorted(done, key=lambda each: each[:2], reverse=True) if fact is not None]
        return [*facts, *([self._instance.started_by] if self._instance.started_by else [])]

    def before(self, steps: Collection[str]) -> list[Fact]:
        """The same of these steps alone, the start event among them."""
        own = {step.done for name, step in self._instance.steps.items() if name in steps}
        return [fact for fact in self.newest_first() if fact in own or fact == self._instance.started_by]

    def event(self, fact: Fact) -> Event:
        """Give the event of a fact."""
        return self._event(fact)

    def _event(self, fact: Fact) -> Event:
        if fact.id not in self._known:
            self._known[fact.id] = self._decode(fact)
        return self._known[fact.id]


class Element(NamedTuple):
    """The element that something is built for: the name of the occurrence, its key, and the element itself.

    `value` is None where nobody ever said what the elements are: the occurrence answered before its turn.
    """

    name: str
    key: Any
    value: Any
    by: str


def build(declaration: Declaration, type_: str, facts: SagaFacts, element: Element | None = None) -> Event:
    """Build one event for a saga.

    A class is filled by name: the saga's key first, then each field from the newest event that has it; for an element
    its key, what its own occurrence said, and its own fields go before the saga's. Nothing is decoded where the key
    alone is enough.

    Raises:
        EncodeError: a field is missing or does not fit, or the user's function raised; never with a payload's value.
        DecodeError: an event of the saga cannot be read.
    """
    cls = declaration.events[type_]
    function = declaration.builds[type_]
    if function is not None:
        return _called(function, declaration, facts, type_, element)
    wanted: dict[str, Any] = {}
    keys = {cls.spec().key, declaration.definition.key}
    missing = []
    for field in cls.model_fields:
        if field in keys:
            wanted[field] = facts.key
        elif element is not None and field == element.by:
            wanted[field] = element.key
        else:
            missing.append(field)
    if missing and element is not None:
        _fill_from_element(declaration, facts, element, wanted, missing)
    for fact in facts.newest_first() if missing else ():
        source = declaration.events[fact.type]
        if any(field in source.model_fields for field in missing):
            event = facts.event(fact)
            for field in [field for field in missing if field in source.model_fields]:
                wanted[field] = getattr(event, field)
                missing.remove(field)
        if not missing:
            break
    try:
        return cls.model_validate(wanted)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise EncodeError(f"{type_}.{name} cannot be filled from the saga's events: {first['msg']}") from None


def _fill_from_element(
    declaration: Declaration, facts: SagaFacts, element: Element, wanted: dict[str, Any], missing: list[str]
) -> None:
    """Fill fields from what an occurrence has said, then from its element."""
    for source in (facts.done(element.name), element.value):
        for field in [field for field in missing if field in getattr(type(source), "model_fields", ())]:
            wanted[field] = getattr(source, field)
            missing.remove(field)


def decide(declaration: Declaration, step: str, kind: Question, facts: SagaFacts) -> Any:
    """Ask a function of the user about a step.

    Args:
        declaration: of the saga.
        step, kind: what is asked about which step.
        facts: the saga's events.

    Returns:
        For "when" a bool, for "due" microseconds or None.

    Raises:
        EncodeError: the function raised, or gave what is no answer; never with a payload's value.
        DecodeError: an event of the saga cannot be read.
    """
    said = _ask(declaration.asks[step, kind], declaration, facts, f"{kind}= of step {step}")
    if kind == "due":
        return _moment(said, step)
    if not isinstance(said, bool):
        raise EncodeError(f"{kind}= of step {step} gave {type(said).__name__}; let it give True or False")
    return said


def find_elements(
    declaration: Declaration, step: str, facts: SagaFacts, default: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Ask what the elements of a step are; give them by key.

    Args:
        declaration: of the saga.
        step: its name.
        facts: the saga's events.
        default: what to give where that cannot be said; None raises.

    Raises:
        EncodeError: they cannot be found or told apart; never with a payload's value.
        DecodeError: an event of the saga cannot be read.
    """
    fan = declaration.fans[step]
    before = facts.before(declaration.definition.ancestors[step])
    having = [fact for fact in before if fan.each in declaration.events[fact.type].model_fields]
    try:
        return fan.find((facts.event(fact) for fact in having), lambda: declaration.view(facts))
    except EncodeError:
        if default is None:
            raise
        return default


def _moment(said: Any, step: str) -> int | None:
    """Read when a step is due; a date is over at its end."""
    if isinstance(said, datetime) and said.tzinfo is not None:
        return from_datetime(said)
    if isinstance(said, date) and not isinstance(said, datetime):
        return from_datetime(datetime(said.year, said.month, said.day, tzinfo=UTC) + timedelta(days=1)) - 1
    if said is not None:
        kind = "a datetime without a zone" if isinstance(said, datetime) else type(said).__name__
        raise EncodeError(f"due= of step {step} gave {kind}; let it give an aware datetime, a date or None")
    return None


def _ask(function: Callable[[Any], Any], declaration: Declaration, facts: SagaFacts, what: str) -> Any:
    try:
        return function(declaration.view(facts))
    except (DecodeError, EncodeError):
        raise
    except ChoreoError as error:
        raise EncodeError(f"{what} says: {scrub(error.message, *facts.seen)}") from error
    except Exception as error:
        raise EncodeError(f"{what} raised {type(error).__name__}") from error


def _called(
    function: Callable[..., Event], declaration: Declaration, facts: SagaFacts, type_: str, element: Element | None
) -> Event:
    if element is not None and element.value is None:
        raise EncodeError(f"the function for {type_} needs the element, and nobody has said what the elements are")
    given = function if element is None else lambda saga: function(saga, element.value)
    made: Event = _ask(given, declaration, facts, f"the function for {type_}")
    if not isinstance(made, declaration.events[type_]):
        raise EncodeError(f"the function for {type_} gave {type(made).__name__}")
    return made
