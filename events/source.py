"""Publishing the rows of a file or a query as events, once: an interrupted run goes on, a second run sends nothing.

An event's id is derived from the source's name, the row's content and its index among the row's events (ruling R18),
and a ledger keeps the ids that the broker acknowledged. A crash between the acknowledgement and the ledger sends those
events once more, under the same ids: consumers of ours drop the copies. Two rows with equal content are one row.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from .avro import canonical
from .clock import from_datetime, system_clock
from .envelope import Record
from .errors import ChoreoError, ConfigurationError, DefinitionError, EventError
from .event import Event
from .ids import derived_id
from .ledger import Ledger
from .outbox import MOST_RECORD_BYTES
from .publisher import Publisher
from .rows import Malformed, Row, RowSource, open_rows

MOST_SORTED = 1_000_000
"""How many events of one file are sorted by time, in memory; a larger file must be in order already, or be split."""

_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Dated:
    """An event with the time at which it happened in the business; `at` has a zone."""

    event: Event
    at: datetime


Mapped: TypeAlias = "Event | Dated | Iterable[Event | Dated] | None"
Mapping: TypeAlias = "Callable[[Row], Mapped] | type[Event]"
"""Turns a row into events: a function of the row, or an event class whose fields are the columns."""

F = TypeVar("F", bound=Callable[..., Any])
_IN_TIME_ORDER = "__choreo_in_time_order__"


def in_time_order(function: F) -> F:
    """Mark a row function whose events are to be published in order of time, whatever the order of the rows."""
    setattr(function, _IN_TIME_ORDER, True)
    return function


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a source has been read (`done` of `total`: bytes of a file, rows of others) and published."""

    rows: int
    done: int
    total: int | None
    published: int
    already: int


@dataclass(slots=True)
class PublishReport:
    """What became of a file.

    Args:
        rows: that were read, the malformed included.
        published: events that were sent now.
        already: events that the ledger knew.
        malformed: the first rows that made no event, with their line numbers.
        malformed_count: how many there were.
    """

    rows: int = 0
    published: int = 0
    already: int = 0
    malformed: list[Malformed] = field(default_factory=list)
    malformed_count: int = 0


@dataclass(frozen=True, slots=True)
class _Item:
    line: int
    index: int
    id: str
    time: int
    event: Event


async def publish_file(
    publisher: Publisher,
    mapping: Mapping,
    path: Path,
    *,
    name: str,
    home: Path,
    rate: float | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    most_malformed: int = 100,
) -> PublishReport:
    """Publish the rows of a file of CSV, JSON lines or Parquet as events, each once.

    Args:
        path: the file.
        publisher, mapping, name, home, rate, on_progress, most_malformed: as for `publish_rows`.

    Raises:
        ConfigurationError: the file cannot be read at all.
        TransportError, RegistryUnreachable, SchemaRefused: as `publish_rows`.
    """
    rows = open_rows(path)
    return await publish_rows(
        publisher,
        mapping,
        rows,
        name=name,
        home=home,
        rate=rate,
        on_progress=on_progress,
        most_malformed=most_malformed,
    )


async def publish_rows(
    publisher: Publisher,
    mapping: Mapping,
    rows: RowSource,
    *,
    name: str,
    home: Path,
    rate: float | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    most_malformed: int = 100,
) -> PublishReport:
    """Publish rows as events, each once.

    Args:
        publisher: open.
        mapping: what a row becomes; a function marked `in_time_order` has its events sorted first.
        rows: where they come from; closed at the end.
        name: the source's name, part of every id: the same rows under another name are other events.
        home: the folder of the ledger, `publish.db`; with a `memory:` broker it is forgotten with the broker.
        rate: events per second at most; what was published before costs none of it.
        on_progress: told after each batch.
        most_malformed: how many malformed rows are listed; all are counted.

    Raises:
        ConfigurationError: the source cannot be read on.
        TransportError, RegistryUnreachable: start again; what was acknowledged is not sent again.
        SchemaRefused: an event class would break readers.
    """
    if rate is not None and rate <= 0:
        rows.close()
        raise ConfigurationError(f"rate {rate:g}: more than 0 events per second")
    run = _Run(publisher, mapping, name, most_malformed, on_progress, rows, rate)
    ledger = await Ledger.open(None if publisher.target.startswith("memory:") else home, f"{publisher.target} {name}")
    try:
        await run.publish(ledger)
    finally:
        await asyncio.to_thread(rows.close)
        await ledger.close()
    return run.report


def preview(mapping: Mapping, source: RowSource, *, rows: int) -> Iterator[tuple[int, Event, int | None] | Malformed]:
    """Say what the first rows of a source become; nothing is published.

    Args:
        mapping: as for `publish_rows`.
        source: closed at the end.
        rows: how many rows are read.

    Returns:
        Line, event, and its time (microseconds, None where the mapping gives none), or what is wrong with a row.

    Raises:
        ConfigurationError: the source cannot be read at all.
    """
    try:
        for found in islice(source, rows):
            if isinstance(found, Malformed):
                yield found
                continue
            line, row = found
            try:
                made = _events(mapping, row)
                for each in made:
                    _event_of(mapping, each).key_text()
            except (ConfigurationError, DefinitionError):
                raise
            except Exception as error:
                yield Malformed(line, _reason(error, row))
                continue
            for each in made:
                yield line, _event_of(mapping, each), from_datetime(each.at) if isinstance(each, Dated) else None
    finally:
        source.close()


class _Rows:
    """What the rows of a file become, one after another; malformed ones are told and left out."""

    def __init__(self, mapping: Mapping, name: str, most_malformed: int, reader: RowSource) -> None:
        self.mapping = mapping
        self.name = name
        self.most_malformed = most_malformed
        self.reader = reader
        self.report = PublishReport()

    def items(self) -> Iterator[_Item]:
        for found in self.reader:
            self.report.rows += 1
            if isinstance(found, Malformed):
                self.refuse(found)
                continue
            line, row = found
            try:
                yield from self.mapped(line, row)
            except (ConfigurationError, DefinitionError):
                raise  # no row can do better
            except Exception as error:
                self.refuse(Malformed(line, _reason(error, row)))

    def mapped(self, line: int, row: Row) -> list[_Item]:
        content, now = _content(row), system_clock()
        items = []
        for index, each in enumerate(_events(self.mapping, row)):
            event = _event_of(self.mapping, each)
            time = from_datetime(each.at) if isinstance(each, Dated) else self.undated(now)
            event.key_text()
            items.append(_Item(line, index, derived_id("source", self.name, content, str(index)), time, event))
        return items

    def undated(self, now: int) -> int:
        """Give the time of an event that says none."""
        return now

    def refuse(self, malformed: Malformed) -> None:
        self.report.malformed_count += 1
        if len(self.report.malformed) < self.most_malformed:
            self.report.malformed.append(malformed)


class PastEvents(_Rows):
    """The events of a file in the order in which they happened, each with its time; read once.

    Args:
        mapping, path: as for `publish_file`; every event is a `Dated`.
        name: the source's name: ids are those that `publish_file` gives under it.
        most_malformed: how many malformed rows are listed in `report`; all are counted.

    Raises:
        ConfigurationError: the file cannot be read, or holds more than `MOST_SORTED` events.
    """

    def __init__(self, mapping: Mapping, path: Path, *, name: str, most_malformed: int = 100) -> None:
        super().__init__(mapping, name, most_malformed, open_rows(path))

    def events(self, on_progress: Callable[[int], None] = lambda done: None) -> list[tuple[str, int, Event]]:
        """Give id, time and event of each, sorted by time; `on_progress` is told how much was read."""
        try:
            return [(item.id, item.time, item.event) for item in _sorted(self._telling(on_progress))]
        finally:
            self.reader.close()

    def _telling(self, on_progress: Callable[[int], None]) -> Iterator[_Item]:
        for number, item in enumerate(self.items()):
            if number % _BATCH == 0:
                on_progress(self.reader.done)
            yield item

    def undated(self, now: int) -> int:
        """Refuse it: the past is judged by the times of its events."""
        raise ConfigurationError(f"{_called(self.mapping)} gives events without a time; let it give Dated(event, at)")


class _Run(_Rows):
    def __init__(
        self,
        publisher: Publisher,
        mapping: Mapping,
        name: str,
        most_malformed: int,
        on_progress: Callable[[Progress], None],
        reader: RowSource,
        rate: float | None,
    ) -> None:
        super().__init__(mapping, name, most_malformed, reader)
        self.rate = rate
        self.publisher = publisher
        self.on_progress = on_progress

    async def publish(self, ledger: Ledger) -> None:
        items = self.items()
        if getattr(self.mapping, _IN_TIME_ORDER, False):
            items = iter(await asyncio.to_thread(_sorted, items))
        # With a rate a few batches per second, so that it is kept at every moment.
        most = _BATCH if self.rate is None else max(1, min(_BATCH, round(self.rate / 4)))
        clock, ready = asyncio.get_running_loop().time, 0.0
        while batch := await asyncio.to_thread(lambda: list(islice(items, most))):
            known = await ledger.known([item.id for item in batch])
            fresh = {item.id: item for item in batch if item.id not in known}
            self.report.already += len(batch) - len(fresh)
            await self.publisher.prepare({item.event.__class__ for item in fresh.values()})
            records = {item.id: record for item in fresh.values() if (record := self.record(item)) is not None}
            if records:
                ready = max(ready, clock())
                await self.publisher.send(list(records.values()))
                await ledger.add(list(records))
            self.report.published += len(records)
            self.tell()
            if self.rate is not None and records:
                ready += len(records) / self.rate
                await asyncio.sleep(ready - clock())
        self.tell()

    def tell(self) -> None:
        report = self.report
        done, total = self.reader.done, self.reader.total
        self.on_progress(Progress(report.rows, done, total, report.published, report.already))

    def record(self, item: _Item) -> Record | None:
        try:
            record = self.publisher.record(item.event, id=item.id, time=item.time)
        except EventError as error:
            self.refuse(Malformed(item.line, error.message))
            return None
        if record.size() > MOST_RECORD_BYTES:
            self.refuse(
                Malformed(item.line, f"an event of {record.size()} bytes; at most {MOST_RECORD_BYTES} are sent")
            )
            return None
        return record


def _sorted(items: Iterator[_Item]) -> list[_Item]:
    found = list(islice(items, MOST_SORTED + 1))
    if len(found) > MOST_SORTED:
        raise ConfigurationError(
            f"more than {MOST_SORTED} events to sort by time; split the file, or sort it and drop @in_time_order"
        )
    found.sort(key=lambda item: (item.time, item.line, item.index))
    return found


def _events(mapping: Mapping, row: Row) -> list[Event | Dated]:
    if isinstance(mapping, type):
        cls: type[Event] = mapping
        return [cls.model_validate(row)]
    found = mapping(row)
    if found is None:
        return []
    if isinstance(found, (Event, Dated)):
        return [found]
    # Taken at once, so that an error in a generator refuses the whole row.
    return list(found)


def _event_of(mapping: Mapping, each: Event | Dated) -> Event:
    event = each.event if isinstance(each, Dated) else each
    if not isinstance(event, Event):
        raise ConfigurationError(
            f"{_called(mapping)} gave {type(event).__name__}; it should give Event or Dated(event, at)"
        )
    return event


def _content(row: Row) -> str:
    """Write a row as text that is equal for equal rows: JSON, into which values of databases are brought first."""
    try:
        return canonical(row)
    except TypeError:
        return canonical(to_jsonable_python(row, bytes_mode="base64"))


def _called(mapping: Mapping) -> str:
    return getattr(mapping, "__name__", type(mapping).__name__)


def _reason(error: Exception, row: Row) -> str:
    """Say what is wrong with a row without quoting it."""
    if isinstance(error, ChoreoError):
        return error.message
    if isinstance(error, ValidationError):
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        told = (
            f"{problem['loc'][0]}: {problem['type']}" if problem["loc"] else problem["type"] for problem in problems
        )
        return f"not a valid {error.title}: {', '.join(islice(told, 3))}"
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str) and error.args[0] not in row:
        return f"there is no column {error.args[0]!r}"
    frames = traceback.extract_tb(error.__traceback__)
    own = next((frame for frame in reversed(frames) if "site-packages" not in frame.filename), frames[-1])
    return f"{type(error).__name__} in {Path(own.filename).name}:{own.lineno}"
