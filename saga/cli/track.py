"""`saga track`: past events through a saga that only watches, judged as they were then."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ...events.errors import ConfigurationError
from . import exits
from .operate import DryRun
from .progress import counting
from .publish import progress, readable, source_name
from .shell import Shell

if TYPE_CHECKING:
    from ...events.database import Database
    from ..backfill import Judged, Tracked
    from ..declaration import Declaration


def track(
    target: str,
    mapping: str = "",
    file: Path | None = None,
    /,
    *,
    from_beginning: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    name: str = "",
    dry_run: DryRun = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Feed past events through a saga that only watches: its deadlines are judged by the events' own times.

    Nothing is sent. The sagas are then in the store, for `saga list` and `saga status`; the report counts ends,
    lateness and durations of all sagas of the type there. Interrupted, or said again, it adds what is missing.

    Args:
        target: module:Saga or path/file.py:Saga.
        mapping: a function from a row to events, each Dated(event, at), as for saga publish; with a file.
        file: CSV with a header, or JSON lines; gzip too.
        from_beginning: instead of a file: everything that is in the saga's topics.
        name: the source's name, as for saga publish: the same rows under the same name are the same events.
        dry_run: into a store that is thrown away.
    """
    from ..loading import load_object, load_parts

    if from_beginning == (file is not None) or bool(mapping) != (file is not None):
        raise ConfigurationError("write saga track SAGA MAPPING FILE, or saga track SAGA --from-beginning")
    sagas = load_parts([target]).sagas
    if len(sagas) != 1:
        raise ConfigurationError(f"{target} holds {len(sagas)} sagas; name one, as in {target.partition(':')[0]}:Saga")
    declaration = sagas[0].declaration()
    if file is None:
        return asyncio.run(_track_topics(shell, declaration, dry_run))
    readable(file)
    source = name or source_name(mapping)
    found = load_object(mapping)
    if not callable(found):
        raise ConfigurationError(f"{mapping} is of type {type(found).__name__}; write a function of a row")
    return asyncio.run(_track_file(shell, declaration, found, file, source, dry_run))


async def _track_file(
    shell: Shell, declaration: Declaration, mapping: Any, file: Path, source: str, dry_run: bool
) -> int:
    from ...events.codec import Codec
    from ...events.source import PastEvents
    from ..backfill import Backfill
    from ..bygone import NoRegistry, from_rows

    async with _store(shell, dry_run) as database:
        backfill = Backfill(declaration, database, Codec(NoRegistry()))
        await backfill.prepare()
        past = PastEvents(mapping, file, name=source)
        with progress(shell) as bar:
            task = bar.add_task(file.name, total=past.reader.total, events="")
            ordered = await asyncio.to_thread(past.events, lambda done: bar.update(task, completed=done))
            bar.update(task, total=len(ordered), completed=0)
            await backfill.feed(
                from_rows(ordered, source), lambda done: bar.update(task, completed=done, events=f"{done:,} events")
            )
        for malformed in past.report.malformed:
            shell.err.print(f"{file}: {malformed}", soft_wrap=True)
        await _tell(shell, database, declaration, backfill.tracked, past.report.malformed_count)
    return exits.ERROR if past.report.malformed_count or backfill.tracked.refused_count else exits.OK


async def _track_topics(shell: Shell, declaration: Declaration, dry_run: bool) -> int:
    from ...events.codec import open_codec
    from ...events.intake import Intake
    from ...events.registry import open_registry
    from ...events.transports import connect
    from ..backfill import Backfill
    from ..bygone import from_topics
    from ..correlation import consumed_classes

    settings = shell.settings
    async with _store(shell, dry_run) as database, connect(settings.broker_url, settings) as transport:
        registry = open_registry(settings, transport)
        try:
            codec = open_codec(registry, settings)
            backfill = Backfill(declaration, database, codec)
            await backfill.prepare()
            intake = Intake(consumed_classes([declaration]), codec)
            events = await from_topics(transport, declaration.definition, intake)
            with counting(shell, "tracking", len(events)) as tell:
                await backfill.feed(events, tell)
        finally:
            await registry.close()
        await _tell(shell, database, declaration, backfill.tracked, 0)
    return exits.ERROR if backfill.tracked.refused_count else exits.OK


@asynccontextmanager
async def _store(shell: Shell, dry_run: bool) -> AsyncIterator[Database]:
    """Open the coordinator's store, or one that is thrown away."""
    from ...events.database import Database

    with tempfile.TemporaryDirectory(prefix="choreo-track-") as folder:
        database = await Database.open(f"sqlite:{Path(folder) / 'saga.db'}" if dry_run else shell.settings.store_url)
        try:
            yield database
        finally:
            await database.close()


async def _tell(shell: Shell, database: Database, declaration: Declaration, tracked: Tracked, malformed: int) -> None:
    from ..judging import judge, told
    from ..report import rfc3339

    type_ = declaration.definition.type
    figures = told(await database.read(lambda connection: judge(connection, type_)))
    if shell.machine:
        shell.json(
            {
                "schema": "saga.tracked/v1",
                "type": type_,
                "events": tracked.events,
                "already": tracked.already,
                "malformed": malformed,
                "refused": tracked.refused_count,
                "began_at": rfc3339(tracked.began or None),
                "end_at": rfc3339(tracked.end or None),
                "judged": [
                    {"step": stretch.step or None, "undo": stretch.kind == "undo", **_shares(judged)}
                    for stretch, judged in sorted(tracked.judged.items())
                ],
                **figures,
            }
        )
        return
    if shell.output == "id":
        return
    for refused in tracked.refused:
        shell.err.print(refused, soft_wrap=True)
    parts = [f"{tracked.events:,} events"]
    parts += [f"{tracked.already:,} known before"] if tracked.already else []
    parts += [f"{malformed:,} rows malformed"] if malformed else []
    parts += [f"{tracked.refused_count:,} refused"] if tracked.refused_count else []
    shell.lines([" · ".join(parts)])
    _draw(shell, figures)
    _draw_judged(shell, tracked)


def _shares(judged: Judged) -> dict[str, int]:
    return {"count": judged.size, "beyond_p95": judged.p95, "beyond_p99": judged.p99}


def _draw_judged(shell: Shell, tracked: Tracked) -> None:
    """Say how often what was usual by then was exceeded: where nothing was wrong, that is the rate of false alarms."""
    from .tables import draw

    table = [
        [
            stretch.step + (" (undo)" if stretch.kind == "undo" else "") or "the saga",
            f"{judged.size:,}",
            f"{100 * judged.p95 / judged.size:.1f} %",
            f"{100 * judged.p99 / judged.size:.1f} %",
        ]
        for stretch, judged in sorted(tracked.judged.items())
    ]
    if table:
        shell.lines([""])
        draw(shell, ["BY ITS OWN PAST", "JUDGED", "BEYOND 95 %", "BEYOND 99 %"], table, right={1, 2, 3})


def _draw(shell: Shell, figures: dict[str, Any]) -> None:
    from .tables import draw

    phases = [f"{count:,} {phase.lower()}" for phase, count in figures["phases"].items()]
    shell.lines([" · ".join([f"{figures['sagas']:,} sagas", *phases, f"{figures['late']:,} late"])])
    table = []
    for step in figures["steps"]:
        states = " · ".join(f"{count:,} {state.lower()}" for state, count in step["states"].items())
        late = f"{step['late']:,}" + (f" (and {step['missed']:,} not yet)" if step["missed"] else "")
        by = _spans(step["lateness"], ("p50_ms", "max_ms"))
        table.append(
            [step["name"], states, *_spans(step["took"]), late if step["late"] or step["missed"] else "-", *by]
        )
    headers = ["STEP", "SAGAS", "HALF WITHIN", "95 % WITHIN", "LONGEST", "LATE", "HALF BY", "MOST BY"]
    draw(shell, headers, table, right={2, 3, 4}, elastic={1})


def _spans(quantiles: dict[str, int] | None, names: tuple[str, ...] = ("p50_ms", "p95_ms", "max_ms")) -> list[str]:
    from .times import span

    return ["-" if quantiles is None else span(quantiles[name] * 1_000) for name in names]
