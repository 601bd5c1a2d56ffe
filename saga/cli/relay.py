"""`saga relay`: publish what an existing system's transactions have left in its outbox."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from ...events import loops
from ...events.errors import ConfigurationError
from . import exits
from .shell import Shell

if TYPE_CHECKING:
    from ...events.outboxes.relay import OutboxRelay
    from ...events.outboxes.table import Tables
    from ...events.transport import Transport
    from ...services.health import Health
    from ...services.probes import Probes
    from ...tracing.metrics import Metrics

RELAY = "saga.relay/v1"

_FLAG = Parameter(negative="", show_default=False)


relay = App(
    name="relay",
    help="Publish what an existing system's outbox holds.",
    help_format="plaintext",
    help_epilogue="""Examples:
  saga relay --database postgresql://shop@db/shop --bootstrap kafka:9092
  saga relay --database sqlite:shop.db --create-table --until-empty
  saga relay --database mysql://shop@db/shop --status -o json
  saga relay --ddl postgresql >migrations/outbox.sql""",
)


@relay.default
def publish_outbox(
    *,
    database: Annotated[str, Parameter(show_default=False)] = "",
    table: str = "choreo_event_outbox",
    keep: Annotated[str, Parameter(show_default=False)] = "",
    lease: str = "30s",
    batch: int = 500,
    every: str = "10s",
    until_empty: Annotated[bool, _FLAG] = False,
    status: Annotated[bool, _FLAG] = False,
    create_table: Annotated[bool, _FLAG] = False,
    ddl: Annotated[Literal["postgresql", "sqlite", "mysql"] | None, Parameter(show_default=False)] = None,
    health: Annotated[str, Parameter(show_default=False)] = "",
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Publish what an existing system's outbox holds, until a signal: each event at least once, in order within a key.

    Several relays share the work, and take over from one that dies.

    Args:
        database: postgresql://..., mysql://... (MariaDB too) or sqlite:PATH; better as CHOREO_OUTBOX, since others can
            read a command line.
        table: the outbox's name, as in Outbox(table=...).
        keep: for how long published rows stay, e.g. 7d; by default they are removed at once.
        lease: after how long the shards of a relay that died go to others.
        batch: events that are sent at a time.
        every: how often to say how many were published and what waits, or never.
        until_empty: end when nothing waits.
        status: only show what waits.
        create_table: make the tables if they are missing.
        ddl: only print the statements that make the tables, for your own migrations.
        health: answer /healthz, /readyz and /metrics at HOST:PORT, or at PORT on 127.0.0.1.
    """
    from ...events.clock import duration
    from ...events.outboxes.table import ddl as statements

    if ddl is not None:
        shell.lines(f"{statement};" for statement in statements(ddl, table))
        return exits.OK
    url = database or shell.settings.outbox
    if not url:
        raise ConfigurationError("whose outbox? name its database with --database or CHOREO_OUTBOX")
    term = duration(lease)
    if term < 1_000_000:
        raise ConfigurationError(f"--lease {lease}: at least 1s")
    if not 1 <= batch <= 10_000:
        raise ConfigurationError(f"--batch {batch}: 1 to 10,000")
    if status:
        return asyncio.run(_status(shell, url, table))
    return loops.run(
        _relay(
            shell,
            url,
            table,
            create=create_table,
            until_empty=until_empty,
            every=0 if every == "never" else duration(every) / 1_000_000,
            health=health or shell.settings.health,
            options={"keep": duration(keep) if keep else 0, "lease": term, "batch": batch},
        )
    )


async def _status(shell: Shell, url: str, table: str) -> int:
    from ...events.outboxes.database import SystemDatabase
    from ...events.outboxes.lag import read_lag
    from ...events.outboxes.leases import read_relays
    from ...events.outboxes.relay import open_tables

    system = await SystemDatabase.open(url)
    try:
        tables = await open_tables(system, table)
        lag = await system.read(lambda connection: read_lag(connection, system, tables.outbox))
        relays = await system.read(lambda connection: read_relays(connection, system, tables))
    finally:
        await system.close()
    told = _told(system.url, tables, lag, relays=relays, published=None)
    if shell.machine:
        shell.json(told)
        return exits.OK
    shell.lines([_words(told)])
    for topic in told["topics"]:
        shell.lines([f"  {topic['topic']}: {topic['waiting']:,} waiting, the oldest for {_ago(topic['lag_ms'])}"])
    if not relays and lag.waiting:
        shell.hint("no relay runs: saga relay --database ... publishes")
    return exits.OK


async def _relay(
    shell: Shell,
    url: str,
    table: str,
    *,
    create: bool,
    until_empty: bool,
    every: float,
    health: str,
    options: dict[str, Any],
) -> int:
    from ...events.outboxes.database import SystemDatabase
    from ...events.outboxes.relay import OutboxRelay, open_tables
    from ...events.transports import connect
    from ...tracing.metrics import exported_metrics
    from .run import stop_on_signal

    settings = shell.settings
    system = await SystemDatabase.open(url)
    try:
        tables = await open_tables(system, table, create=create)
        with exported_metrics(os.environ.get("OTEL_SERVICE_NAME", "choreo-relay"), scraped=bool(health)) as metrics:
            async with AsyncExitStack() as stack:
                transport = await stack.enter_async_context(connect(settings.broker_url, settings))
                one = OutboxRelay(system, transport, tables, **options)
                probes = _probes(health, transport, one, metrics)
                if probes is not None:
                    await stack.enter_async_context(probes)
                stopping = stop_on_signal()
                where = f", health {probes.host}:{probes.port}" if probes is not None else ""
                shell.hint(f"relaying  {tables.outbox.fullname} of {system.url} to {transport.url}{where}")
                telling = asyncio.create_task(_tell(shell, system.url, tables, one, every))
                try:
                    await one.run(stopping, until_empty=until_empty)
                finally:
                    telling.cancel()
                    await asyncio.gather(telling, return_exceptions=True)
                lag = await one.measure()
        told = _told(system.url, tables, lag, relays=one.relays, published=one.published)
    finally:
        await system.close()
    if shell.machine:
        shell.json(told)
    else:
        shell.lines([_words(told)])
    return exits.OK


def _probes(address: str, transport: Transport, one: OutboxRelay, metrics: Metrics | None) -> Probes | None:
    """Answer probes and scrapes, where somebody wants to: ready is who reaches both the outbox and the broker."""
    if not address:
        return None
    from ...services.probes import Probes, scraping

    async def look() -> Sequence[Health]:
        await asyncio.gather(one.measure(), transport.topics([]))
        return []

    async def measure() -> None:
        await one.measure()

    return Probes(address, look, 0, scraping(measure, metrics) if metrics is not None else None)


async def _tell(shell: Shell, url: str, tables: Tables, one: OutboxRelay, every: float) -> None:
    """Say from time to time how it goes: a line of JSON with `-o jsonl`, else a hint where something has changed."""
    last = None
    while every > 0:
        await asyncio.sleep(every)
        told = _told(url, tables, one.lag, relays=one.relays, published=one.published)
        if shell.output == "jsonl":
            shell.json(told)
        elif (now := (one.published, one.lag.waiting, one.relays)) != last:
            last = now
            shell.hint(_words(told))


def _told(url: str, tables: Tables, lag: Any, *, relays: int, published: int | None) -> dict[str, Any]:
    return {
        "schema": RELAY,
        "database": url,
        "table": tables.outbox.fullname,
        "published": published,
        "waiting": lag.waiting,
        "lag_ms": lag.oldest // 1_000,
        "relays": relays,
        "topics": [
            {"topic": each.topic, "waiting": each.waiting, "lag_ms": each.oldest // 1_000} for each in lag.topics
        ],
    }


def _words(told: dict[str, Any]) -> str:
    published = "" if told["published"] is None else f"{told['published']:,} published · "
    late = f", the oldest for {_ago(told['lag_ms'])}" if told["waiting"] else ""
    relays = "1 relay" if told["relays"] == 1 else f"{told['relays']} relays"
    return f"{published}{told['waiting']:,} waiting{late} · {relays}"


def _ago(milliseconds: int) -> str:
    from ...events.clock import format_duration

    return format_duration(milliseconds * 1_000)
