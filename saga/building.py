"""Build what a saga sends, from the events that it has seen, and ask the user's functions what they decide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from ..events.errors import ChoreoError, DecodeError, EncodeError
from ..events.event import Event
from .declaration import Declaration
from .instance import Fact, Instance, Question

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

    def start(self) -> Event:
        """Give the event that started it."""
        fact = self._instance.started_by
        assert fact is not None
        return self._event(fact)

    def done(self, step: str) -> Event | None:
        """Give the event that told a step's success, None before it."""
        fact = self._instance.steps[step].done
        return None if fact is None else self._event(fact)

    def newest_first(self) -> list[Fact]:
        """List the facts in the order in which fields are taken from them: newest step first, start event last."""
        done = [(step.ended_at or 0, index, step.done) for index, step in enumerate(self._instance.steps.values())]
        facts = [fact for _, _, fact in sorted(done, key=lambda each: each[:2], reverse=True) if fact is not None]
        return [*facts, *([self._instance.started_by] if self._instance.started_by else [])]

    def event(self, fact: Fact) -> Event:
        """Give the event of a fact."""
        return self._event(fact)

    def _event(self, fact: Fact) -> Event:
        if fact.id not in self._known:
            self._known[fact.id] = self._decode(fact)
        return self._known[fact.id]


def build(declaration: Declaration, type_: str, facts: SagaFacts) -> Event:
    """Build one event for a saga.

    A class is filled by name: the saga's key first, then each field from the newest event that has it. Nothing is
    decoded where the key alone is enough.

    Raises:
        EncodeError: a field is missing or does not fit, or the user's function raised; never with a payload's value.
        DecodeError: an event of the saga cannot be read.
    """
    cls = declaration.events[type_]
    function = declaration.builds[type_]
    if function is not None:
        return _called(function, declaration, facts, type_)
    wanted: dict[str, Any] = {}
    keys = {cls.spec().key, declaration.definition.key}
    missing = []
    for field in cls.model_fields:
        if field in keys:
            wanted[field] = facts.key
        else:
            missing.append(field)
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


def decide(declaration: Declaration, step: str, kind: Question, facts: SagaFacts) -> Any:
    """Ask a function of the user about a step.

    Args:
        declaration: of the saga.
        step, kind: what is asked about which step.
        facts: the saga's events.

    Returns:
        For "when" a bool.

    Raises:
        EncodeError: the function raised, or gave what is no answer; never with a payload's value.
        DecodeError: an event of the saga cannot be read.
    """
    said = _ask(declaration.asks[step, kind], declaration, facts, f"{kind}= of step {step}")
    if not isinstance(said, bool):
        raise EncodeError(f"{kind}= of step {step} gave {type(said).__name__}; let it give True or False")
    return said


def _ask(function: Callable[[Any], Any], declaration: Declaration, facts: SagaFacts, what: str) -> Any:
    try:
        return function(declaration.view(facts))
    except (DecodeError, EncodeError):
        raise
    except ChoreoError as error:
        raise EncodeError(f"{what} says: {error.message}") from error
    except Exception as error:
        raise EncodeError(f"{what} raised {type(error).__name__}") from error


def _called(function: Callable[[Any], Event], declaration: Declaration, facts: SagaFacts, type_: str) -> Event:
    made: Event = _ask(function, declaration, facts, f"the function for {type_}")
    if not isinstance(made, declaration.events[type_]):
        raise EncodeError(f"the function for {type_} gave {type(made).__name__}")
    return made
