"""Rules over sagas, services and topics together: who says what, who hears it, and where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ...events.catalog import HandlerAnnouncement, ServiceAnnouncement
from ..definition import Definition
from .findings import Finding


@dataclass(frozen=True)
class Landscape:
    """Everything that is there.

    Args:
        definitions: the sagas.
        services: as they announce themselves.
        topics: partitions by topic, as the broker has them; None where no broker was asked.
        complete: all services are known, so that what nobody does is missed.
    """

    definitions: tuple[Definition, ...]
    services: tuple[ServiceAnnouncement, ...]
    topics: Mapping[str, int] | None = None
    complete: bool = True

    @property
    def handlers(self) -> list[tuple[ServiceAnnouncement, HandlerAnnouncement]]:
        """Every handler with its service."""
        return [(service, handler) for service in self.services for handler in service.handlers]

    def producers(self, type_: str) -> list[tuple[ServiceAnnouncement, HandlerAnnouncement]]:
        """Handlers that publish an event."""
        return [each for each in self.handlers if any(made.type == type_ for made in each[1].produces)]

    def consumers(self, type_: str) -> list[tuple[ServiceAnnouncement, HandlerAnnouncement]]:
        """Handlers that take an event."""
        return [each for each in self.handlers if any(taken.type == type_ for taken in each[1].consumes)]


def of_landscape(there: Landscape) -> Iterator[Finding]:
    """Judge everything together."""
    if there.services and there.complete:
        for definition in there.definitions:
            yield from _answers(there, definition)
            yield from _commands(there, definition)
        yield from _unheard(there)
        yield from _guards(there)
    for definition in there.definitions:
        yield from _places(there, definition)
        if there.topics is not None:
            yield from _partitions(there.topics, definition)
    if there.topics is not None:
        yield from _missing(there, there.topics)


def _answers(there: Landscape, definition: Definition) -> Iterator[Finding]:
    """Who says what the saga waits for."""
    told = {made for other in there.definitions for made in (other.completed, other.compensated) if made}
    for plan in definition.steps:
        if plan.child is not None:
            continue
        if plan.done and not any(there.producers(type_) or type_ in told for type_ in plan.done):
            events = " or ".join(plan.done)
            yield Finding(
                "no-producer",
                "error",
                f"nobody publishes {events}, so the step ends with its limit each time",
                f"let a handler return {plan.done[0]}, or name the service that does",
                saga=definition.type,
                step=plan.name,
                event=plan.done[0],
            )
        for type_ in plan.failed:
            if not there.producers(type_) and type_ not in told:
                yield Finding(
                    "no-producer",
                    "warning",
                    f"nobody publishes {type_}: a failure of the step shows only when its limit passes",
                    f"let a handler return {type_}, or take it out of failed=",
                    saga=definition.type,
                    step=plan.name,
                    event=type_,
                )
        if plan.undo is not None and not any(there.producers(type_) for type_ in plan.undone):
            yield Finding(
                "undo-unanswered",
                "error",
                f"nobody publishes {' or '.join(plan.undone)}, so its undo is never answered and fails for good",
                f"let the handler of {plan.undo} return {plan.undone[0] if plan.undone else 'an answer'}",
                saga=definition.type,
                step=plan.name,
                event=plan.undone[0] if plan.undone else "",
            )
    for type_ in definition.start:
        if not there.producers(type_) and type_ not in told and definition.schedule is None:
            yield Finding(
                "start-from-outside",
                "hint",
                f"no service publishes {type_}, which starts it: it comes from outside",
                "nothing, if that is so; else name the service that publishes it",
                saga=definition.type,
                event=type_,
            )


def _commands(there: Landscape, definition: Definition) -> Iterator[Finding]:
    """Who does what the saga asks for."""
    if definition.observe_only:
        return
    starts = {type_ for other in there.definitions for type_ in other.start}
    for plan in definition.steps:
        if plan.child is not None:
            continue
        for option, type_ in (("send", plan.send), ("undo", plan.undo)):
            if type_ is None:
                continue
            takers = there.consumers(type_)
            if not takers and type_ not in starts:
                yield Finding(
                    "no-handler",
                    "error",
                    f"no service handles the command {type_} ({option}=)",
                    f"declare a handler of {type_}, or name the service that has it",
                    saga=definition.type,
                    step=plan.name,
                    event=type_,
                )
            for service, handler in takers if option == "undo" and plan.done else ():
                yield from _undo_handler(there, definition, plan.name, type_, plan.done, service, handler)


def _undo_handler(
    there: Landscape,
    definition: Definition,
    step: str,
    command: str,
    done: tuple[str, ...],
    service: ServiceAnnouncement,
    handler: HandlerAnnouncement,
) -> Iterator[Finding]:
    name = f"{service.service}.{handler.name}"
    if handler.undoes is None:
        yield Finding(
            "undo-unguarded",
            "warning",
            f"{name} handles {command} and does not say what it undoes: an undo that overtakes its step is lost on it, "
            "and the late step stands (rows 14 and 15)",
            "declare it with undoes= the handler of the step",
            saga=definition.type,
            step=step,
            event=command,
            service=name,
        )
        return
    forward = next((each for each in service.handlers if each.name == handler.undoes), None)
    if forward is not None and not any(made.type in done for made in forward.produces):
        yield Finding(
            "undoes-another",
            "error",
            f"{name} handles {command} and undoes {forward.name}, which does not publish {' or '.join(done)}",
            f"let undoes= name the handler that publishes {done[0]}",
            saga=definition.type,
            step=step,
            event=command,
            service=name,
        )


def _unheard(there: Landscape) -> Iterator[Finding]:
    """What is said and nobody hears."""
    heard = {type_ for definition in there.definitions for type_ in definition.consumed}
    said = [
        (made.type, f"{service.service}.{handler.name}")
        for service, handler in there.handlers
        for made in handler.produces
    ]
    for type_, name in dict(said).items():
        if type_ not in heard and not there.consumers(type_):
            yield Finding(
                "no-consumer",
                "warning",
                f"{name} publishes {type_}, and nobody reads it",
                "take it out, or name who reads it",
                event=type_,
                service=name,
            )
    for definition in there.definitions:
        for end in (definition.completed, definition.compensated):
            if end is not None and end not in heard and not there.consumers(end):
                yield Finding(
                    "no-consumer",
                    "hint",
                    f"the saga publishes {end} at its end, and nobody reads it",
                    "nothing, if it is for others; else name who reads it",
                    saga=definition.type,
                    event=end,
                )


def _guards(there: Landscape) -> Iterator[Finding]:
    """Handlers that undo what no saga asks them to undo."""
    asked = {plan.undo for definition in there.definitions for plan in definition.steps if plan.undo is not None}
    for service, handler in there.handlers:
        commands = {taken.type for taken in handler.consumes}
        if there.definitions and handler.undoes is not None and not commands & asked:
            yield Finding(
                "undo-unasked",
                "warning",
                f"{service.service}.{handler.name} undoes {handler.undoes}, and no saga here asks for "
                f"{' or '.join(sorted(commands))}",
                "name the saga that does, or take the handler out",
                service=f"{service.service}.{handler.name}",
                event=min(commands, default=""),
            )


def _places(there: Landscape, definition: Definition) -> Iterator[Finding]:
    """One event type on two topics."""
    refs = {
        (ref.type, ref.topic, f"{service.service}.{handler.name}")
        for service, handler in there.handlers
        for ref in (*handler.consumes, *handler.produces)
    }
    for type_, topic, name in sorted(refs):
        own = definition.topics.get(type_)
        if own is not None and own != topic:
            yield Finding(
                "other-topic",
                "error",
                f"{name} has {type_} on topic {topic}, the saga on {own}",
                "declare the event once, with one topic=",
                saga=definition.type,
                event=type_,
                topic=topic,
                service=name,
            )


def _partitions(topics: Mapping[str, int], definition: Definition) -> Iterator[Finding]:
    """Unequal partition counts let the events of one saga meet in several coordinators (ruling R9)."""
    counts = {topic: topics[topic] for topic in definition.consumed_topics if topic in topics}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{topic} {count}" for topic, count in sorted(counts.items()))
        yield Finding(
            "unequal-partitions",
            "warning",
            f"the topics of its events have unequal numbers of partitions ({told}): its events meet in several "
            "coordinators, which is slower",
            "give them the same number",
            saga=definition.type,
        )


def _missing(there: Landscape, topics: Mapping[str, int]) -> Iterator[Finding]:
    needed: dict[str, tuple[str, str]] = {}
    for service, handler in there.handlers:
        for ref in (*handler.consumes, *handler.produces):
            needed.setdefault(ref.topic, ("", f"{service.service}.{handler.name}"))
    for definition in there.definitions:
        for topic in _needed(definition):
            needed[topic] = (definition.type, "")
    for topic, (saga, name) in sorted(needed.items()):
        if topic not in topics:
            yield Finding(
                "topic-missing",
                "error",
                f"topic {topic} does not exist on the broker",
                "create it: saga topics apply TARGET...",
                saga=saga,
                service=name,
                topic=topic,
            )


def _needed(definition: Definition) -> Iterable[str]:
    return dict.fromkeys(definition.topics.values())
