"""Whether an installation can work: findings made of what was seen in the store and on the broker. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..events.clock import SECOND, format_duration
from .definition import Definition
from .queries import Brakes
from .surroundings import Surroundings

Verdict = Literal["ok", "warning", "failure", "unknown"]
Area = Literal[
    "config",
    "store",
    "broker",
    "topics",
    "groups",
    "coordinator",
    "definitions",
    "schemas",
    "letters",
    "traces",
    "clock",
]

_SKEW = 2 * SECOND
_OLD = 30 * SECOND


class Finding(NamedTuple):
    """One line of the doctor's: what was looked at, how it is, in words, and what mends it."""

    area: Area
    verdict: Verdict
    sentence: str
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What the doctor saw.

    Args:
        settings: lines that tell the configuration, without secrets.
        store: why the store cannot be used; None where it can.
        store_url: which, without secrets.
        phases: sagas by phase.
        waiting: how many wait for a person.
        brakes: what holds all sagas back.
        definitions: those in the store.
        nowhere: versions with open sagas whose code is loaded nowhere.
        parked: events that wait for their saga.
        outbox: rows that are not on the broker yet, and the age of the oldest (microseconds).
        queued: commands that nobody has applied, and the age of the oldest.
        skew: of the store's clock to this machine's, microseconds.
        around: what was seen on the broker.
        letters: open dead letters by topic; None where the broker was not asked.
        traces: the endpoint of traces, and why it cannot be reached (None: it can); None where none is set.
        registry: the schema registry's URL, how many subjects it has, and why it cannot be asked (None: it can); None
            where none is set, and the broker keeps the schemas.
    """

    settings: str
    store: str | None
    store_url: str
    phases: Mapping[str, int]
    waiting: int
    brakes: Brakes
    definitions: Sequence[Definition]
    nowhere: Sequence[tuple[str, int]]
    parked: int
    outbox: tuple[int, int]
    queued: tuple[int, int]
    skew: int
    around: Surroundings
    letters: Mapping[str, int] | None
    traces: tuple[str, str | None] | None
    registry: tuple[str, int, str | None] | None = None


def examine(seen: Seen) -> list[Finding]:
    """Say of each area how it is; the areas always come in the same order."""
    parts: tuple[Callable[[Seen], list[Finding]], ...] = (
        lambda each: [Finding("config", "ok", each.settings)],
        _store,
        _broker,
        _topics,
        _groups,
        _coordinator,
        _definitions,
        _schemas,
        _letters,
        _traces,
        _clock,
    )
    return [finding for part in parts for finding in part(seen)]


def _store(seen: Seen) -> list[Finding]:
    if seen.store is not None:
        return [Finding("store", "failure", seen.store, "start a coordinator, or name its store with --store")]
    open_ = sum(count for phase, count in seen.phases.items() if phase in ("RUNNING", "COMPENSATING"))
    found = [Finding("store", "ok", f"{seen.store_url}; {sum(seen.phases.values()):,} sagas, {open_:,} open")]
    count, age = seen.outbox
    if count and age > _OLD:
        told = f"{count:,} events wait in the outbox, the oldest since {format_duration(age)}"
        found.append(Finding("store", "warning", told, "a coordinator that reaches the broker sends them"))
    if seen.waiting:
        told = f"{seen.waiting:,} {_plural(seen.waiting, 'saga waits', 'sagas wait')} for a person"
        found.append(Finding("store", "warning", told, "saga list --waiting-for-person"))
    if seen.brakes.timers_held:
        told = "timers are held: too many sagas would have timed out at once"
        found.append(Finding("store", "failure", told, "find out what was down, then saga resume"))
    if seen.brakes.undo_stopped:
        found.append(Finding("store", "warning", "all compensation is stopped", "saga resume"))
    if seen.parked:
        told = f"{seen.parked:,} {_plural(seen.parked, 'event waits', 'events wait')} for a saga that has not begun"
        found.append(Finding("store", "warning", told, "saga ignored"))
    return found


def _broker(seen: Seen) -> list[Finding]:
    if seen.around.trouble is not None:
        return [Finding("broker", "failure", seen.around.trouble, "start it, or name another with --broker")]
    return [Finding("broker", "ok", f"it answers; {len(seen.around.topics):,} topics")]


def _topics(seen: Seen) -> list[Finding]:
    around = seen.around
    if around.trouble is not None:
        return [Finding("topics", "unknown", "the broker could not be asked")]
    missing, found = missing_topics(seen), []
    if missing:
        told = f"missing: {', '.join(missing)}"
        found.append(Finding("topics", "failure", told, "saga topics apply MODULE"))
    for definition in seen.definitions:
        counts = {
            topic: around.topics[topic].partitions for topic in definition.consumed_topics if topic in around.topics
        }
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{topic} {count}" for topic, count in sorted(counts.items()))
            sentence = f"{definition.type} reads topics of unequal partition counts: {told}"
            fix = "give them one count: then one coordinator tends to meet all events of a saga"
            found.append(Finding("topics", "warning", sentence, fix))
    return found or [Finding("topics", "ok", f"all {len(_needed(seen)):,} that are needed are there")]


def missing_topics(seen: Seen) -> list[str]:
    """List the topics that sagas and services name and the broker lacks; none where it could not be asked."""
    return sorted(_needed(seen) - seen.around.topics.keys()) if seen.around.trouble is None else []


def usual_partitions(seen: Seen) -> int | None:
    """Give how many partitions most of the topics have that are needed and there; None where there are none."""
    counts = Counter(seen.around.topics[topic].partitions for topic in _needed(seen) & seen.around.topics.keys())
    return counts.most_common(1)[0][0] if counts else None


def _needed(seen: Seen) -> set[str]:
    services = seen.around.services.values()
    consumed = {taken.topic for each in services for one in each.handlers for taken in one.consumes}
    return consumed | {topic for definition in seen.definitions for topic in definition.topics.values()}


def _groups(seen: Seen) -> list[Finding]:
    around = seen.around
    if around.trouble is not None:
        return [Finding("groups", "unknown", "the broker could not be asked")]
    found = []
    for service in sorted(around.services.values(), key=lambda each: each.service):
        topics = {taken.topic for handler in service.handlers for taken in handler.consumes}
        unread = sum(around.unread(service.group, place) for place in around.ends if place.topic in topics)
        if around.members(service.group) == 0:
            verdict: Verdict = "failure" if unread else "warning"
            told = f"service {service.service} has no live member, {unread:,} events wait for it"
            found.append(Finding("groups", verdict, told, f"start service {service.service}"))
    alive = len(around.services) - len(found)
    for each in around.breakers:
        error = f", last with {each.error}" if each.error else ""
        told = (
            f"service {each.service} leaves its handler {each.handler} alone: its circuit breaker is open{error}; "
            f"{each.waiting:,} {_plural(each.waiting, 'event waits', 'events wait')} for it"
        )
        found.append(Finding("groups", "warning", told, f"mend what {each.handler} calls: it goes on by itself"))
    if not around.services:
        return [Finding("groups", "warning", "no service has announced itself", "saga run MODULE")]
    return [Finding("groups", "ok", f"{alive} of {len(around.services)} services have live members"), *found]


def _coordinator(seen: Seen) -> list[Finding]:
    around, found = seen.around, []
    if around.trouble is None:
        members = around.members(around.coordinators)
        topics = {topic for definition in seen.definitions for topic in definition.consumed_topics}
        unread = sum(around.unread(around.coordinators, place) for place in around.ends if place.topic in topics)
        told = f"{members} in group {around.coordinators!r}, {unread:,} events unread"
        fix = None if members else "saga run MODULE:SAGA"
        found.append(Finding("coordinator", "ok" if members else "failure", told, fix))
    else:
        found.append(Finding("coordinator", "unknown", "the broker could not be asked"))
    count, age = seen.queued
    if count and age > _OLD:
        told = f"{count:,} commands of people wait since {format_duration(age)}"
        found.append(Finding("coordinator", "failure", told, "a running coordinator applies them"))
    return found


def _definitions(seen: Seen) -> list[Finding]:
    if seen.store is not None:
        return [Finding("definitions", "unknown", "the store could not be asked")]
    found = []
    for type_, version in seen.nowhere:
        told = f"version {version} of {type_} has open sagas, and its code is loaded nowhere: they are paused"
        found.append(Finding("definitions", "failure", told, f"saga run a coordinator with {type_}@{version}"))
    known = len(seen.definitions)
    told = f"{known:,} saga {_plural(known, 'type', 'types')}; no open saga waits for code"
    return found or [Finding("definitions", "ok", told)]


def _schemas(seen: Seen) -> list[Finding]:
    if seen.registry is None:
        if seen.around.trouble is not None:
            return [Finding("schemas", "unknown", "the broker, which keeps them, could not be asked")]
        return [Finding("schemas", "ok", "the broker keeps them")]
    url, subjects, trouble = seen.registry
    if trouble is not None:
        return [Finding("schemas", "failure", trouble, "events wait until the registry answers: see CHOREO_REGISTRY")]
    return [Finding("schemas", "ok", f"{url} answers; {subjects:,} subjects")]


def _letters(seen: Seen) -> list[Finding]:
    if seen.letters is None:
        return [Finding("letters", "unknown", "the broker could not be asked")]
    if not seen.letters:
        return [Finding("letters", "ok", "no open dead letters")]
    told = ", ".join(f"{topic} {count:,}" for topic, count in sorted(seen.letters.items()))
    return [Finding("letters", "warning", f"open dead letters: {told}", "saga dlq list")]


def _traces(seen: Seen) -> list[Finding]:
    if seen.traces is None:
        return [Finding("traces", "ok", "no OTLP endpoint is set; saga trace reads an embedded broker's own file")]
    endpoint, trouble = seen.traces
    if trouble is None:
        return [Finding("traces", "ok", f"{endpoint} answers")]
    return [Finding("traces", "warning", f"{endpoint}: {trouble}", "processing goes on; spans are dropped meanwhile")]


def _clock(seen: Seen) -> list[Finding]:
    if seen.store is not None:
        return [Finding("clock", "unknown", "the store could not be asked")]
    skew = abs(seen.skew)
    if skew > _SKEW:
        told = f"the store's clock and this machine's differ by {format_duration(skew)}"
        return [Finding("clock", "warning", told, "synchronize them; limits count by the store's")]
    return [Finding("clock", "ok", f"the store's clock is within {format_duration(_SKEW)} of this machine's")]


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
