"""`saga doctor`: can this installation work, and what mends it where it cannot?"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ...events.errors import ChoreoError, ConfigurationError
from . import exits
from .operate import Yes, confirm
from .shell import Shell

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import Connection

    from ...events.registry import SchemaRegistry
    from ...events.settings import Settings
    from ...tracing.probe import Probed
    from ..doctor import Finding, Kept, Schemas, Seen
    from ..surroundings import Surroundings

_AREAS = (
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
)
_ALSO = {"kafka": "broker", "services": "groups", "dlq": "letters"}
_PARTITIONS = 4
_DAY = 24 * 3_600 * 1_000_000
_SHOWN = 5.0
"""Seconds that Jaeger has to show a span that its collector took."""

_GLYPHS = {"ok": ("✔", "green"), "warning": ("⚠", "yellow"), "failure": ("✖", "red"), "unknown": ("○", "dim")}


async def doctor(
    *,
    only: Annotated[str, Parameter(show_default=False)] = "",
    strict: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    fix: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    yes: Yes = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Look at all that sagas and services need: store, broker, topics, groups, code, schemas, letters, traces, clocks.

    Ends with 1 when something has failed: as a check before a deployment, or of readiness. With -o junit or -o github
    it speaks to a CI.

    For example: saga doctor --only kafka,store --strict -o github

    Args:
        only: some areas, e.g. store,kafka.
        strict: warnings fail, too.
        fix: mend what can be mended safely, which is to create missing topics; asks before.
        yes: do not ask.
    """
    from ..doctor import examine

    wanted = tuple(_ALSO.get(name, name) for name in filter(None, only.split(","))) or _AREAS
    if unknown := sorted(set(wanted) - set(_AREAS)):
        raise ConfigurationError(f"--only {unknown[0]}: the areas are {', '.join(_AREAS)}")
    seen = await _look(shell, wanted)
    if fix and await _mend(shell, seen, yes):
        seen = await _look(shell, wanted)
    found = [each for each in examine(seen) if each.area in wanted]
    counts = {verdict: sum(each.verdict == verdict for each in found) for verdict in _GLYPHS}
    failed = counts["failure"] > 0 or (strict and counts["warning"] > 0)
    if shell.machine:
        shell.json({"schema": "saga.doctor/v1", "ok": not failed, "findings": [each._asdict() for each in found]})
    elif shell.output in ("junit", "github"):
        from .verdicts import github, junit

        shell.lines(junit(found, strict=strict) if shell.output == "junit" else github(found))
    else:
        _draw(shell, found)
    if shell.output in ("text", "wide"):
        warnings, failures = counts["warning"], counts["failure"]
        shell.hint(
            f"{len(found)} checks · {counts['ok']} ok · {warnings} warning{'s' * (warnings != 1)} · "
            f"{failures} failure{'s' * (failures != 1)}"
        )
    return exits.ERROR if failed else exits.OK


async def _mend(shell: Shell, seen: Seen, yes: bool) -> bool:
    """Create what topics are missing; tell whether anything was done."""
    from ...events.transport import TopicSpec
    from ...events.transports import connect
    from ..doctor import missing_topics, usual_partitions

    missing = missing_topics(seen)
    if not missing:
        shell.hint("there is nothing that can be mended without a person")
        return False
    partitions = usual_partitions(seen) or _PARTITIONS
    if not yes:
        confirm(f"create {', '.join(missing)} with {partitions} partitions each?")
    async with connect(shell.settings.broker_url, shell.settings) as transport:
        made = await transport.create_topics([TopicSpec(name, partitions) for name in missing])
    shell.hint(f"created {', '.join(made)}")
    return True


def _draw(shell: Shell, found: Sequence[Finding]) -> None:
    from rich.text import Text

    from .tables import draw

    rows = []
    for each in found:
        glyph, style = _GLYPHS[each.verdict]
        fix = f"   fix: {each.fix}" if each.fix else ""
        rows.append([Text(glyph, style), each.area, Text.assemble(each.sentence, (fix, "dim"))])
    draw(shell, ["", "", ""], rows)


async def _look(shell: Shell, wanted: Collection[str]) -> Seen:
    from ...events.clock import system_clock
    from ...events.database import redacted
    from ..doctor import Seen, needed_topics
    from ..queries import Brakes

    settings = shell.settings
    store: str | None = None
    told: dict[str, Any] = {
        "phases": {},
        "waiting": 0,
        "brakes": Brakes(False, False),
        "definitions": (),
        "nowhere": (),
        "parked": 0,
        "outbox": (0, 0),
        "queued": (0, 0),
        "skew": 0,
    }
    async with AsyncExitStack() as stack:
        try:
            database = await stack.enter_async_context(shell.sagas())
            before = system_clock()
            now = await database.read(database.now)
            skew = now - (before + system_clock()) // 2
            told = await database.read(lambda connection: _read(connection, now, settings.group)) | {"skew": skew}
        except ChoreoError as error:
            store = error.message
    topics = {topic for definition in told["definitions"] for topic in definition.topics.values()}
    around, letters = await _broker(shell, sorted(topics))
    return Seen(
        settings=_configured(settings),
        store=store,
        store_url=redacted(settings.store_url),
        around=around,
        letters=letters,
        traces=await _traces(shell) if "traces" in wanted else None,
        schemas=await _schemas(shell, needed_topics(told["definitions"], around), around.trouble is None),
        brokers=await _brokers(settings) if around.trouble is None else None,
        security=settings.kafka_security if settings.broker_url.startswith("kafka:") else "",
        **told,
    )


def _configured(settings: Settings) -> str:
    from pydantic import SecretStr

    from ...events.contexts import FILE
    from ...events.database import redacted

    told = [
        f"context {settings.context} of {FILE}" if settings.context else "no context",
        f"broker {settings.broker_url}",
        f"store {redacted(settings.store_url)}",
        f"home {settings.home}",
    ]
    if settings.topic_prefix:
        told.append(f"prefix {settings.topic_prefix}")
    values = (getattr(settings, name) for name in type(settings).model_fields)
    secrets = sum(isinstance(value, SecretStr) and bool(value.get_secret_value()) for value in values)
    return ", ".join(told) + (f"; {secrets} secret{'s' * (secrets != 1)} set" if secrets else "")


def _read(connection: Connection, now: int, group: str) -> dict[str, Any]:
    from sqlalchemy import func, select

    from ...events.outbox import outbox
    from .. import partitions, presence, queries
    from ..operators import PENDING
    from ..tables import command

    definitions = queries.newest_definitions(connection)
    queued = select(func.count(), func.min(command.c.at)).where(command.c.state == PENDING)
    waiting = queries.Filter(conditions=("WaitingForPerson",))
    return {
        "phases": queries.count_phases(connection, queries.Filter()),
        "waiting": sum(queries.count_phases(connection, waiting).values()),
        "brakes": queries.brakes(connection),
        "definitions": definitions,
        "nowhere": sorted(queries.loaded_nowhere(connection) & _in_use(connection)),
        "parked": sum(count for count, _ in queries.count_parked(connection).values()),
        "outbox": _aged(connection.execute(select(func.count(), func.min(outbox.c.free_at))).one(), now),
        "queued": _aged(connection.execute(queued).one(), now),
        "kept": _kept(connection, now),
        "standings": presence.standings(connection, group, now),
        "last_seen": {name: _since(at, now) for name, at in presence.last_seen(connection).items()},
        "fewest": partitions.fewest(connection),
    }


def _kept(connection: Connection, now: int) -> Kept:
    from sqlalchemy import text

    from ..backup import backed_up_at
    from ..doctor import Kept
    from ..tables import HEAD

    if connection.dialect.name == "sqlite":
        mode = connection.execute(text("PRAGMA journal_mode")).scalar_one()
        kind = f"SQLite, {'WAL' if mode == 'wal' else f'journal {mode}'}"
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
        size = pages * connection.execute(text("PRAGMA page_size")).scalar_one()
    else:
        kind = "PostgreSQL " + str(connection.execute(text("SHOW server_version")).scalar_one()).split()[0]
        size = connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
    at = backed_up_at(connection)
    return Kept(kind, HEAD, size, None if at is None else max(0, now - at))


def _since(at: int, now: int) -> str:
    from .times import clock_time, show_time

    if now - at < _DAY:
        return clock_time(at, "local")[: len("HH:MM")]
    return show_time(at, "local", now)[: len("YYYY-MM-DD HH:MM")]


def _in_use(connection: Connection) -> set[tuple[str, int]]:
    from sqlalchemy import select

    from ..queries import OPEN
    from ..tables import saga

    query = select(saga.c.type, saga.c.version).where(saga.c.phase.in_(OPEN)).distinct()
    return {(type_, version) for type_, version in connection.execute(query)}


def _aged(row: Any, now: int) -> tuple[int, int]:
    return int(row[0]), max(0, now - (row[1] or now))


async def _broker(shell: Shell, topics: Sequence[str]) -> tuple[Surroundings, Mapping[str, int] | None]:
    from collections import Counter

    from ...events.transports import connect
    from ...services.letters import read_letters
    from .observing import survey

    around = await survey(shell.settings, topics)
    if around.trouble is not None:
        return around, None
    try:
        async with connect(shell.settings.broker_url, shell.settings) as transport:
            filed = await read_letters(transport)
    except ChoreoError:
        return around, None
    return around, Counter(each.letter.delivery.topic for each in filed if each.settled is None)


async def _brokers(settings: Settings) -> int | None:
    if not settings.broker_url.startswith("kafka:"):
        return None
    from ...events.kafka import KafkaTransport

    try:
        async with KafkaTransport(settings.broker_url, settings) as kafka:
            return await kafka.brokers()
    except ChoreoError:
        return None  # who may not ask for the cluster may still use it


async def _schemas(shell: Shell, topics: Collection[str], reached: bool) -> Schemas | None:
    """Ask the registry, and hold the newest schema of each subject that is used here against those before it."""
    from ...events.registry import open_registry
    from ...events.transports import connect
    from ..doctor import Schemas

    settings = shell.settings
    try:
        async with AsyncExitStack() as stack:
            transport: Any = None
            if not settings.registry:
                if not reached:
                    return None
                transport = await stack.enter_async_context(connect(settings.broker_url, settings))
            registry = open_registry(settings, transport)
            stack.push_async_callback(registry.close)
            subjects = await registry.subjects()
            ours = [each for each in subjects if any(each.startswith(f"{topic}-") for topic in topics)]
            return Schemas(settings.registry, len(subjects), None, await _broken(settings, registry, ours))
    except ChoreoError as error:
        return Schemas(settings.registry, 0, error.message)


async def _broken(settings: Settings, registry: SchemaRegistry, subjects: Sequence[str]) -> Sequence[tuple[str, str]]:
    from ...events.registry import objections

    found = []
    for subject in subjects:
        *before, newest = await registry.history(subject)
        if before and (told := objections(settings.compatibility, newest.schema, before)):
            found.append((subject, told[0]))
    return found


async def _traces(shell: Shell) -> Probed | None:
    import asyncio
    from urllib.parse import urlsplit

    from ...tracing.export import endpoint
    from ...tracing.probe import Probed, probe
    from .observing import unreachable_host

    where = endpoint()
    if not where:
        return None
    parts = urlsplit(where if "://" in where else f"//{where}")
    trouble = await unreachable_host(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 4318))
    if trouble is not None:
        return Probed(where, trouble)
    try:
        return await asyncio.to_thread(probe, shell.settings.jaeger, _SHOWN)
    except ConfigurationError as error:
        return Probed(where, error.message)
