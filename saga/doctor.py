"""Whether an installation can work: findings made of what was seen in the store and on the broker. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ..events.clock import SECOND, format_duration
from ..events.envelope import TopicPartition
from ..tracing.probe import Probed
from .definition import Definition
from .presence import Standing
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
_NAMED = 5


class Finding(NamedTuple):
    """One line of the doctor's: what was looked at, how it is, in words, and what mends it."""

    area: Area
    verdict: Verdict
    sentence: str
    fix: str | None = None


class Kept(NamedTuple):
    """What the doctor saw of the store itself.

    Args:
        kind: which database, in words.
        schema: its tables' version.
        size: bytes.
        backup_age: how long ago it was last backed up, microseconds; None where nobody has said so.
    """

    kind: str
    schema: str
    size: int
    backup_age: int | None


class Schemas(NamedTuple):
    """What the doctor saw of the schemas.

    Args:
        registry: its URL; "" where the broker keeps them.
        subjects: how many there are.
        trouble: why it cannot be asked; None: it can.
        broken: subjects of ours of which the newest schema breaks the rule, with the first objection.
    """

    registry: str
    subjects: int
    trouble: str | None = None
    broken: Sequence[tuple[str, str]] = ()


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
        traces: what became of a probe span; None where no endpoint is set.
        schemas: what was seen of them; None where the broker keeps them and could not be asked.
        brokers: how many a Kafka cluster has; None of another broker, or where that was not asked.
        security: how a Kafka is spoken to, SASL_SSL and so on; "" of another broker.
        kept: what the store is; None where it cannot be used.
        standings: what coordinators say of themselves.
        last_seen: the time, in words, at which a consumer group was last seen with a live member, by its name.
        fewest: how many partitions each topic had when it had the fewest.
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
    traces: Probed | None
    schemas: Schemas | None = None
    brokers: int | None = None
    security: str = ""
    kept: Kept | None = None
    standings: Sequence[Standing] = ()
    last_seen: Mapping[str, str] = field(default_factory=dict)
    fewest: Mapping[str, int] = field(default_factory=dict)


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
    told = f"{seen.store_url}; {sum(seen.phases.values()):,} sagas, {open_:,} open"
    if seen.kept is not None:
        told += f"; {_kept(seen.kept)}"
    found = [Finding("store", "ok", told)]
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


def _kept(kept: Kept) -> str:
    backup = "no backup is known (saga store backup)"
    if kept.backup_age is not None:
        backup = f"last backup {format_duration(kept.backup_age)} ago"
    return f"{kept.kind}, schema {kept.schema}, {_size(kept.size)}, {backup}"


def _size(number: int) -> str:
    for unit, size in (("GB", 1_000_000_000), ("MB", 1_000_000)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number // 1_000:,} kB"


def _broker(seen: Seen) -> list[Finding]:
    if seen.around.trouble is not None:
        return [Finding("broker", "failure", seen.around.trouble, "start it, or name another with --broker")]
    how = f" over {seen.security}" if seen.security else ""
    who = f"; {seen.brokers:,} {_plural(seen.brokers, 'broker', 'brokers')}" if seen.brokers else ""
    return [Finding("broker", "ok", f"it answers{how}{who}, {len(seen.around.topics):,} topics")]


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
    found = found or [Finding("topics", "ok", f"all {len(_needed(seen)):,} that are needed are there")]
    return found + _grown(seen)


def _grown(seen: Seen) -> list[Finding]:
    """Tell which topics have more partitions than they once had."""
    named = ", ".join(
        f"{topic} from {fewest} to {there.partitions}"
        for topic, fewest in sorted(seen.fewest.items())
        if (there := seen.around.topics.get(topic)) is not None and there.partitions > fewest
    )
    if not named:
        return []
    told = f"have grown: {named}; what came of a key meanwhile may be out of order, limits wait for both its places"
    return [Finding("topics", "ok", told)]


def missing_topics(seen: Seen) -> list[str]:
    """List the topics that sagas and services name and the broker lacks; none where it could not be asked."""
    return sorted(_needed(seen) - seen.around.topics.keys()) if seen.around.trouble is None else []


def needed_topics(definitions: Sequence[Definition], around: Surroundings) -> set[str]:
    """Name the topics that sagas and services name."""
    services = around.services.values()
    consumed = {taken.topic for each in services for one in each.handlers for taken in one.consumes}
    return consumed | {topic for definition in definitions for topic in definition.topics.values()}


def usual_partitions(seen: Seen) -> int | None:
    """Give how many partitions most of the topics have that are needed and there; None where there are none."""
    counts = Counter(seen.around.topics[topic].partitions for topic in _needed(seen) & seen.around.topics.keys())
    return counts.most_common(1)[0][0] if counts else None


def _needed(seen: Seen) -> set[str]:
    return needed_topics(seen.definitions, seen.around)


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
            since = seen.last_seen.get(service.group)
            none = f", none since {since}" if since else ""
            told = f"service {service.service} has no live member{none}; {unread:,} events wait for it"
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
        found.extend(_coordinators(seen))
    else:
        found.append(Finding("coordinator", "unknown", "the broker could not be asked"))
    count, age = seen.queued
    if count and age > _OLD:
        told = f"{count:,} commands of people wait since {format_duration(age)}"
        found.append(Finding("coordinator", "failure", told, "a running coordinator applies them"))
    return found


def _coordinators(seen: Seen) -> list[Finding]:
    """Say how many there are, whether all partitions are read, and what each one reads and how quickly it decides."""
    around = seen.around
    members = around.members(around.coordinators)
    topics = {topic for definition in seen.definitions for topic in definition.consumed_topics}
    unread = sum(around.unread(around.coordinators, place) for place in around.ends if place.topic in topics)
    told = f"{members} in group {around.coordinators!r}, {unread:,} events unread"
    if not members:
        return [Finding("coordinator", "failure", told, "saga run MODULE:SAGA")]
    alive = [each for each in seen.standings if each.client in around.groups[around.coordinators].members]
    if not alive:
        return [Finding("coordinator", "ok", f"{told}; none has said yet what it reads")]
    owned = {place for each in alive for place in each.partitions}
    # A topic of which nobody reads anything may belong to a saga that has been given up.
    read = {place.topic for place in owned if place.topic in around.topics}
    wanted = {TopicPartition(topic, number) for topic in read for number in range(around.topics[topic].partitions)}
    nobodys = sorted(wanted - owned)
    told += f", {len(wanted) - len(nobodys)} of {len(wanted)} partitions owned"
    if nobodys:
        fix = "a coordinator takes them over within its session; if not, look into the log of each"
        named = ", ".join(f"{place.topic}/{place.partition}" for place in nobodys[:_NAMED])
        found = [Finding("coordinator", "warning", f"{told}; nobody reads {named}", fix)]
    else:
        found = [Finding("coordinator", "ok", told)]
    return [*found, *(Finding("coordinator", "ok", _standing(each)) for each in alive)]


def _standing(one: Standing) -> str:
    by_topic: dict[str, list[int]] = {}
    for place in sorted(one.partitions):
        by_topic.setdefault(place.topic, []).append(place.partition)
    reads = ", ".join(f"{topic}/{','.join(map(str, numbers))}" for topic, numbers in by_topic.items())
    delay = "it has decided nothing yet"
    if one.delay_p50 is not None and one.delay_p99 is not None:
        delay = f"decision delay p50 {_brief(one.delay_p50)}, p99 {_brief(one.delay_p99)}"
    return f"{one.client} reads {reads or 'nothing: it stands by'}; {delay}"


def _brief(microseconds: int) -> str:
    return f"{microseconds // 1_000}ms" if microseconds < SECOND else format_duration(microseconds)


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
    schemas = seen.schemas
    if schemas is None:
        return [Finding("schemas", "unknown", "the broker, which keeps them, could not be asked")]
    if schemas.trouble is not None:
        fix = "events wait until the registry answers: see CHOREO_REGISTRY"
        return [Finding("schemas", "failure", schemas.trouble, fix)]
    where = f"{schemas.registry} answers" if schemas.registry else "the broker keeps them"
    told = f"{where}; {schemas.subjects:,} {_plural(schemas.subjects, 'subject', 'subjects')}"
    if not schemas.broken:
        return [Finding("schemas", "ok", f"{told}, all that sagas and services use are compatible")]
    broken = [
        Finding(
            "schemas",
            "warning",
            f"the newest schema of {subject} breaks its readers: {why}",
            f"saga schema diff {subject}",
        )
        for subject, why in schemas.broken
    ]
    return [Finding("schemas", "ok", told), *broken]


def _letters(seen: Seen) -> list[Finding]:
    if seen.letters is None:
        return [Finding("letters", "unknown", "the broker could not be asked")]
    if not seen.letters:
        return [Finding("letters", "ok", "no open dead letters")]
    told = ", ".join(f"{topic} {count:,}" for topic, count in sorted(seen.letters.items()))
    return [Finding("letters", "warning", f"open dead letters: {told}", "saga dlq list")]


def _traces(seen: Seen) -> list[Finding]:
    probed = seen.traces
    if probed is None:
        return [Finding("traces", "ok", "no OTLP endpoint is set; saga trace reads an embedded broker's own file")]
    if probed.trouble is not None:
        fix = "processing goes on; spans are dropped meanwhile"
        return [Finding("traces", "warning", f"{probed.endpoint}: {probed.trouble}", fix)]
    if probed.missed is not None:
        fix = "is what takes spans there the way to this Jaeger, and does a collector between them sample?"
        return [Finding("traces", "warning", f"{probed.endpoint} answers; {probed.missed}", fix)]
    if probed.found_after is None:
        told = "took the probe span; nobody looked for it, as CHOREO_JAEGER names no Jaeger"
        return [Finding("traces", "ok", f"{probed.endpoint} {told}")]
    found = f"the probe span was found in Jaeger after {_brief(probed.found_after)}"
    return [Finding("traces", "ok", f"{probed.endpoint} answers; {found}")]


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
