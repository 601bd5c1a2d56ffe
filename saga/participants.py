"""Who takes part in the choreography, and what each says and hears: pure, from what was announced and from code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from ..events.catalog import DefinitionAnnouncement, EventRef, ServiceAnnouncement

Kind = Literal["service", "saga"]


@dataclass(frozen=True, slots=True)
class Participant:
    """A service, or a saga as its coordinators run it.

    Args:
        name: the service's, or the saga's type.
        kind: which of both.
        group: the consumer group it reads in; empty where nobody has said.
        consumes, produces: events, in order.
        handlers: of a service, its handlers; of a saga, its steps.
        versions: of a saga, the versions that are announced.
        members: live members of its group; None where the broker was not asked.
        announced: whether the broker's catalog has it.
        differs: the code that was given says something else than the catalog.
    """

    name: str
    kind: Kind
    group: str
    consumes: tuple[EventRef, ...]
    produces: tuple[EventRef, ...]
    handlers: tuple[str, ...]
    versions: tuple[int, ...] = ()
    members: int | None = None
    announced: bool = False
    differs: bool = False


class Flow(NamedTuple):
    """An event: where it travels, who publishes it, and who reads it."""

    type: str
    topic: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]


def of_service(announcement: ServiceAnnouncement) -> Participant:
    """Read a service's announcement."""
    handlers = announcement.handlers
    return Participant(
        name=announcement.service,
        kind="service",
        group=announcement.group,
        consumes=_each_once(ref for handler in handlers for ref in handler.consumes),
        produces=_each_once(ref for handler in handlers for ref in handler.produces),
        handlers=tuple(handler.name for handler in handlers),
    )


def of_sagas(announcements: Iterable[DefinitionAnnouncement], group: str) -> list[Participant]:
    """Read announcements of sagas: of each type what its newest version says.

    Args:
        announcements: of any versions.
        group: of the coordinators.
    """
    versions: dict[str, list[DefinitionAnnouncement]] = {}
    for each in announcements:
        versions.setdefault(each.type, []).append(each)
    return [_saga(sorted(found, key=lambda each: each.version), group) for found in versions.values()]


def _saga(versions: Sequence[DefinitionAnnouncement], group: str) -> Participant:
    newest = versions[-1]
    heard = [
        *newest.start,
        *newest.cancel,
        *(type_ for step in newest.steps for type_ in (*step.done, *step.failed, *step.undone)),
    ]
    commands = [type_ for step in newest.steps for type_ in (step.send, step.undo)]
    said = [type_ for type_ in (*commands, newest.completed, newest.compensated) if type_ is not None]
    return Participant(
        name=newest.type,
        kind="saga",
        group=group,
        consumes=_each_once(EventRef(type=type_, topic=newest.topics.get(type_, "")) for type_ in heard),
        produces=()
        if newest.observe_only
        else _each_once(EventRef(type=type_, topic=newest.topics.get(type_, "")) for type_ in said),
        handlers=tuple(step.name for step in newest.steps),
        versions=tuple(each.version for each in versions),
    )


def merged(
    announced: Iterable[Participant], code: Iterable[Participant], members: Mapping[str, int] | None
) -> list[Participant]:
    """Put together what the catalog and the code say; where both speak, the code is shown and what differs is told.

    Args:
        announced: from the broker.
        code: of modules that were named.
        members: live members of each group; None where the broker was not asked.
    """
    found = {(each.kind, each.name): replace(each, announced=True) for each in announced}
    for each in code:
        known = found.get((each.kind, each.name))
        if known is None:
            found[each.kind, each.name] = each
            continue
        differs = _said(each) != _said(known)
        versions = tuple(sorted({*known.versions, *each.versions}))
        found[each.kind, each.name] = replace(each, announced=True, differs=differs, versions=versions)
    counted = [
        each if members is None else replace(each, members=members.get(each.group, 0)) for each in found.values()
    ]
    return sorted(counted, key=lambda each: (each.kind == "saga", each.name))


def flows(participants: Sequence[Participant]) -> list[Flow]:
    """List every event with who publishes and who reads it."""
    refs = _each_once(ref for each in participants for ref in (*each.consumes, *each.produces))
    return sorted(
        Flow(
            ref.type,
            ref.topic,
            tuple(each.name for each in participants if ref in each.produces),
            tuple(each.name for each in participants if ref in each.consumes),
        )
        for ref in refs
    )


def as_json(participants: Sequence[Participant], trouble: str | None) -> dict[str, Any]:
    """Tell it as the shape `saga.catalog/v1`."""
    return {
        "schema": "saga.catalog/v1",
        "participants": [
            {
                "name": each.name,
                "kind": each.kind,
                "group": each.group or None,
                "members": each.members,
                "announced": each.announced,
                "differs": each.differs,
                "versions": list(each.versions),
                "handlers": list(each.handlers),
                "consumes": [ref.model_dump() for ref in each.consumes],
                "produces": [ref.model_dump() for ref in each.produces],
            }
            for each in participants
        ],
        "events": [
            {
                "type": flow.type,
                "topic": flow.topic,
                "producers": list(flow.producers),
                "consumers": list(flow.consumers),
            }
            for flow in flows(participants)
        ],
        "observed": {"broker": "down" if trouble else "ok", "message": trouble},
    }


def mermaid(participants: Sequence[Participant]) -> list[str]:
    """Draw who says what to whom: participants as boxes, events between them; commands of sagas are dashed."""
    from .graph import label

    lines = ["flowchart LR"]
    names = {(each.kind, each.name): f"p{number}" for number, each in enumerate(participants)}
    for each in participants:
        shape = '{{"%s"}}' if each.kind == "saga" else '["%s"]'
        lines.append(f"  {names[each.kind, each.name]}{shape % label(each.name)}")
    for number, flow in enumerate(flows(participants)):
        ref = EventRef(type=flow.type, topic=flow.topic)
        lines.append(f'  e{number}(["{label(flow.type)}<br/>{label(flow.topic)}"])')
        for each in participants:
            place = names[each.kind, each.name]
            if ref in each.produces:
                lines.append(f"  {place} {'-.->' if each.kind == 'saga' else '-->'} e{number}")
            if ref in each.consumes:
                lines.append(f"  e{number} {'-.->' if each.kind == 'saga' else '-->'} {place}")
    return lines


def _said(each: Participant) -> tuple[frozenset[tuple[str, str]], ...]:
    return tuple(frozenset((ref.type, ref.topic) for ref in refs) for refs in (each.consumes, each.produces))


def _each_once(refs: Iterable[EventRef]) -> tuple[EventRef, ...]:
    return tuple({(ref.type, ref.topic): ref for ref in refs}.values())
