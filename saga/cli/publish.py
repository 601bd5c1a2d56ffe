"""`saga publish`: the rows of a file or of a query as events, each once; or one event."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ...events.errors import ConfigurationError
from . import exits
from .shell import Shell

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from ...events.event import Event
    from ...events.publisher import Publisher
    from ...events.rows import RowSource
    from ...events.source import Progress, PublishReport

_SHOWN = 10


def publish(
    mapping: str,
    file: Path | None = None,
    /,
    *,
    data: str = "",
    database: str = "",
    query: str = "",
    param: tuple[str, ...] = (),
    rate: Annotated[float | None, Parameter(show_default=False)] = None,
    name: str = "",
    id: Annotated[str, Parameter(show_default=False)] = "",  # noqa: A002 - the word of the envelope
    dry_run: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Publish the rows of a file or of a SQL query as events, or one event.

    Interrupted, it goes on where it was; publishing the same rows again publishes nothing new. Malformed rows are told
    with their line numbers, the rest goes on; the exit code is then 1.

    Args:
        mapping: module:object or path/file.py:object: an Event class, or a function from a row to events.
        file: CSV with a header, JSON lines, gzip too; or Parquet (pip install 'choreo[parquet]').
        data: one event's fields as JSON, instead of a file; mapping is its Event class.
        database: where the query goes, instead of a file: sqlite:PATH, postgresql://..., or any URL of SQLAlchemy.
        query: a SELECT, with :name where a parameter stands; its rows are streamed.
        param: name=value, once for each parameter of the query; a text: CAST it where another type is wanted.
        rate: at most so many events per second.
        name: the source's name, part of every event's id; default: the mapping's module and name.
        id: of the one event; default: a fresh one.
        dry_run: only show the first rows as events.
    """
    from ..loading import load_object

    found = load_object(mapping)
    source = name or source_name(mapping)
    if not callable(found):
        raise ConfigurationError(
            f"{mapping} is of type {type(found).__name__}; write an Event class or a function of a row"
        )
    given = [bool(data), file is not None, bool(database)]
    if sum(given) != 1:
        many = ", only one of them" if any(given) else ""
        raise ConfigurationError(
            f"name a file, or a --database with its --query, or give one event's fields with --data{many}"
        )
    if bool(database) != bool(query) or (param and not query):
        raise ConfigurationError("--database, --query and --param go together: where to ask, what, and its parameters")
    if rate is not None and (rate <= 0 or data):
        raise ConfigurationError(f"--rate {rate:g}: more than 0 events per second, of a file or a query")
    if not data:
        if id:
            raise ConfigurationError("--id is for one event; the events of a file get theirs from its rows")
        rows, what = _rows(file, database, query, param)
        if dry_run:
            return _preview(shell, found, rows, what)
        return asyncio.run(_publish_rows(shell, found, rows, what, source, rate))
    event = event_of(found, mapping, data)
    return _show_one(shell, event) if dry_run else asyncio.run(_publish_one(shell, event, source, id))


def readable(file: Path) -> None:
    """Look before the broker is opened, which an embedded one would make."""
    try:
        file.open("rb").close()
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror or error}") from None


def source_name(mapping: str) -> str:
    """Name a source by what it is, not by where it lies, so that its ids do not depend on the working directory."""
    where, _, name = mapping.partition(":")
    return f"{Path(where).stem if where.endswith('.py') else where}.{name}"


# -- one event --------------------------------------------------------------------------------------------------------


def read_event(mapping: str, data: str) -> Event:
    """Make one event of a class, `module:Class` or `file.py:Class`, from its fields as JSON.

    Raises:
        ConfigurationError: it is no event class, or the fields do not fit.
    """
    from ..loading import load_object

    return event_of(load_object(mapping), mapping, data)


def event_of(found: Any, mapping: str, data: str) -> Event:
    """Make one event of a class from its fields as JSON.

    Raises:
        ConfigurationError: it is no event class, or the fields do not fit.
    """
    from pydantic import ValidationError

    from ...events.event import Event

    if not (isinstance(found, type) and issubclass(found, Event)):
        raise ConfigurationError(f"{mapping} is no Event class; --data needs one")
    try:
        return found.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"--data: {found.__name__}{'.' if field else ''}{field}: {first['msg']}") from None


def _show_one(shell: Shell, event: Event) -> int:
    if shell.machine:
        shell.json(_shown(event))
    else:
        shell.lines([_line(event)])
    shell.hint("nothing was published (--dry-run)")
    return exits.OK


async def _publish_one(shell: Shell, event: Event, source: str, id_: str) -> int:
    from ...events.publisher import Publisher

    spec, key = event.spec(), event.key_text()
    told = {"type": spec.type, "topic": spec.topic, "key": key}
    async with Publisher(source=source, settings=shell.settings) as publisher:
        [published] = await publisher.publish(event, id=id_ or None)
    if shell.machine:
        shell.json({"schema": "saga.published/v1", "id": published, **told})
    elif shell.output == "id":
        shell.lines([published])
    else:
        shell.lines([f"{spec.type} {key} published to {spec.topic}  {published}"])
    return exits.OK


# -- rows -------------------------------------------------------------------------------------------------------------


def _rows(file: Path | None, database: str, query: str, parameters: tuple[str, ...]) -> tuple[RowSource, str]:
    """Open what rows come from, before the broker is, which an embedded one would make; and name it."""
    if file is not None:
        from ...events.rows import open_rows

        return open_rows(file), str(file)
    from ...events.query import QueryRows

    values = {}
    for each in parameters:
        name, found, value = each.partition("=")
        if not found or not name:
            raise ConfigurationError(f"--param {each!r}: write it as name=value")
        values[name] = value
    rows = QueryRows(database, query, values)
    return rows, rows.name


async def _publish_rows(shell: Shell, mapping: Any, rows: RowSource, what: str, source: str, rate: float | None) -> int:
    from ...events.publisher import Publisher
    from ...events.source import publish_rows

    settings = shell.settings
    try:
        async with Publisher(source=source, settings=settings) as publisher:
            with progress(shell) as bar:
                task = bar.add_task(what.rpartition("/")[2], total=rows.total, events="")

                def on_progress(progress: Progress) -> None:
                    bar.update(task, total=progress.total, completed=progress.done, events=_count(progress))

                report = await publish_rows(
                    publisher, mapping, rows, name=source, home=settings.home, rate=rate, on_progress=on_progress
                )
    finally:
        await asyncio.to_thread(rows.close)  # also where no broker answers
    _tell(shell, report, what, publisher)
    return exits.ERROR if report.malformed_count else exits.OK


def progress(shell: Shell) -> Bar:
    """Make the bar of a source: how much is read, and what it became in `fields["events"]`."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[events]}"),
        TimeRemainingColumn(),
        console=shell.err,
        disable=shell.quiet or not shell.err.is_terminal,
        transient=True,
    )


def _count(progress: Progress) -> str:
    return f"{progress.published + progress.already:,} events"


def _tell(shell: Shell, report: PublishReport, file: str, publisher: Publisher) -> None:
    for malformed in report.malformed:
        shell.err.print(f"{file}: {malformed}", soft_wrap=True)
    if (more := report.malformed_count - len(report.malformed)) > 0:
        shell.err.print(f"{file}: {more:,} more malformed rows", soft_wrap=True)
    if shell.machine:
        shell.json(
            {
                "schema": "saga.published-file/v1",
                "file": file,
                "source": publisher.source,
                "rows": report.rows,
                "published": report.published,
                "already": report.already,
                "malformed": report.malformed_count,
                "malformed_rows": [{"line": each.line, "reason": each.reason} for each in report.malformed],
            }
        )
    elif shell.output != "id":
        parts = [f"{report.rows:,} rows", f"{report.published:,} events published"]
        if report.already:
            parts.append(f"{report.already:,} published before")
        if report.malformed_count:
            parts.append(f"{report.malformed_count:,} rows malformed")
        shell.lines([" · ".join(parts)])


# -- a dry run --------------------------------------------------------------------------------------------------------


def _preview(shell: Shell, mapping: Any, rows: RowSource, file: str) -> int:
    """Show what the first rows become; nothing is sent, and no broker is needed."""
    from ...events.rows import Malformed
    from ...events.source import preview

    shown: list[dict[str, Any]] = []
    bad = 0
    for found in preview(mapping, rows, rows=_SHOWN):
        if isinstance(found, Malformed):
            bad += 1
            shell.err.print(f"{file}: {found}", soft_wrap=True)
            continue
        line, event, time = found
        if shell.machine:
            shown.append({**_shown(event, time), "line": line})
        else:
            shell.lines([f"line {line}: {_line(event, time)}"])
    if shell.machine:
        shell.json(shown)
    shell.hint(f"nothing was published: --dry-run shows what the first {_SHOWN} rows become")
    return exits.ERROR if bad else exits.OK


def _shown(event: Event, time: int | None = None) -> dict[str, Any]:
    from ..report import rfc3339

    spec = event.spec()
    return {
        "schema": "saga.preview/v1",
        "type": spec.type,
        "topic": spec.topic,
        "key": event.key_text(),
        "time": rfc3339(time),
        "data": event.model_dump(mode="json"),
    }


def _line(event: Event, time: int | None = None) -> str:
    from ..report import rfc3339

    spec = event.spec()
    at = f" at {rfc3339(time)}" if time is not None else ""
    return f"{spec.type} {event.key_text()} to {spec.topic}{at}  {event.model_dump_json()}"
