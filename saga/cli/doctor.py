"""`saga doctor`: can this installation work, and what mends it where it cannot?"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ...events.errors import ChoreoError, ConfigurationError
from . import exits
from .operate import Yes, confirm
from .shell import Shell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from ..doctor import Finding, Seen
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
    seen = await _look(shell)
    if fix and await _mend(shell, seen, yes):
        seen = await _look(shell)
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


async def _look(shell: Shell) -> Seen:
    from ...events.clock import system_clock
    from ...events.database import redacted
    from ..doctor import Seen
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
            told = await database.read(lambda connection: _read(connection, now)) | {"skew": skew}
        except ChoreoError as error:
            store = error.message
    topics = {topic for definition in told["definitions"] for topic in definition.topics.values()}
    around, letters = await _broker(shell, sorted(topics))
    broker = f"broker {settings.broker_url}"
    prefix = f", prefix {settings.topic_prefix}" if settings.topic_prefix else ""
    return Seen(
        settings=f"{broker}, store {redacted(settings.store_url)}, home {settings.home}{prefix}",
        store=store,
        store_url=redacted(settings.store_url),
        around=around,
        letters=letters,
        traces=await _traces(),
        registry=await _registry(shell),
        **told,
    )


def _read(connection: Connection, now: int) -> dict[str, Any]:
    from sqlalchemy import func, select

    from ...events.outbox import outbox
    from .. import queries
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
    }


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


async def _registry(shell: Shell) -> tuple[str, int, str | None] | None:
    from ...events.confluent import open_server

    url = shell.settings.registry
    if not url:
        return None
    try:
        server = open_server(shell.settings)
        try:
            return url, len(await server.subjects()), None
        finally:
            await server.close()
    except ChoreoError as error:
        return "", 0, error.message


async def _traces() -> tuple[str, str | None] | None:
    from urllib.parse import urlsplit

    from .observing import unreachable_host

    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint:
        return None
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    port = parts.port or (443 if parts.scheme == "https" else 4318)
    return endpoint, await unreachable_host(parts.hostname or "", port)
