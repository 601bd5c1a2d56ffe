"""One saga as everybody is shown it: the store opened for reading, and what is read of a saga in one look."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..events.catalog import ServiceAnnouncement
from ..events.database import Database, schema_version
from ..events.errors import StoreMismatch, StoreUnreachable
from ..events.settings import Settings
from . import beside, family, queries, queues, report, whereabouts
from .tables import HEAD, metadata
from .usual import pace_of


class View(NamedTuple):
    """Everything that is shown of one saga."""

    found: queries.Found
    entries: Sequence[queries.Entry]
    observed: report.Observed
    told: dict[str, Any]


@asynccontextmanager
async def opened(url: str, *, aside: bool = False) -> AsyncIterator[Database]:
    """Open the coordinator's store; one that is not there is not made.

    Args:
        url: of the store.
        aside: long reads must not hold up others (`Database.open`).

    Raises:
        StoreUnreachable: there is none, or it does not answer.
        StoreMismatch: it is of another release.
    """
    _must_exist(url)
    database = await Database.open(url, aside=aside)
    try:
        if await database.read(lambda connection: schema_version(connection, "saga")) is None:
            raise StoreMismatch(
                f"the store {database.url} holds no sagas; a coordinator makes its tables when it starts"
            )
        await database.ensure_schema("saga", metadata, HEAD)
        yield database
    finally:
        await database.close()


async def look(database: Database, settings: Settings, id_: str, observed: report.Observed) -> View:
    """Read a saga.

    Args:
        database: the store.
        settings: the namespace, and where Jaeger is.
        id_: the saga's whole name.
        observed: what was seen beside the store.

    Raises:
        SagaNotFound: there is none of that name.
    """
    found, entries, brakes, queued = await database.read(
        lambda c: (
            queries.load(c, id_),
            queries.read_history(c, id_),
            queries.brakes(c),
            whereabouts.queued_commands(c, id_),
        )
    )
    lock = found.instance.lock
    line = None if lock is None else await database.read(lambda c: queues.line_of(c, lock.of))
    observed = observed._replace(at=await database.read(database.now))
    begun = await database.read(lambda c: family.children(c, found.definition, id_))
    pace = await database.read(lambda c: pace_of(c, found.instance.type))
    told = report.status(found, entries, observed, brakes, settings.namespace, queued, line, begun, pace)
    await database.read(lambda c: beside.complete(c, told, found, observed, brakes, observed.at, settings.stuck_after))
    if settings.jaeger:
        told["trace"]["url"] = f"{settings.jaeger.rstrip('/')}/trace/{told['trace']['trace_id']}"
    return View(found, entries, observed, told)


def producers(catalog: Mapping[str, ServiceAnnouncement]) -> dict[str, str]:
    """Say who publishes what: services by event type, as they announce it."""
    found: dict[str, str] = {}
    for announcement in catalog.values():
        for handler in announcement.handlers:
            for made in handler.produces:
                found.setdefault(made.type, announcement.service)
    return found


def _must_exist(store: str) -> None:
    path = store.removeprefix("sqlite:")
    if path not in (store, ":memory:") and not Path(path).exists():
        raise StoreUnreachable(
            f"there is no store at {path}; name one with --store or --home, or make it with `saga run`"
        )
