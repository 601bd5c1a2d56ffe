"""A file's rows become events, each once, whatever happens in between."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from choreo.events import rows as rows_module
from choreo.events import source as source_module
from choreo.events.envelope import Envelope, Record, read_envelope
from choreo.events.errors import BrokerUnreachable, ConfigurationError, SchemaRefused
from choreo.events.event import Event
from choreo.events.ids import derived_id
from choreo.events.ledger import Ledger
from choreo.events.memory import MemoryBroker
from choreo.events.publisher import Publisher
from choreo.events.source import Dated, Progress, PublishReport, in_time_order, publish_file
from choreo.events.transport import TopicSpec


class Ordered(Event, topic="market", key="order_id"):
    order_id: str
    total: Decimal = Field(max_digits=10, decimal_places=2)


class Paid(Event, topic="market", key="order_id"):
    order_id: str


DAY = datetime(2026, 1, 1, tzinfo=UTC)


def orders(row: dict[str, Any]) -> Iterator[Event | Dated]:
    yield Dated(Ordered(order_id=row["id"], total=row["total"]), DAY + timedelta(days=int(row["day"])))
    if row["paid"]:
        yield Dated(Paid(order_id=row["id"]), DAY + timedelta(days=int(row["paid"])))


HEADER = "id,total,day,paid\n"
ROWS = "a,1.50,5,9\nb,2,1,\nc,3,2,7\n"


class Market(MemoryBroker):
    """A broker that is away from the `fails_at`-th send on, before (`lost`) or after it wrote."""

    fails_at = 10**9
    lost = True
    sends = 0

    @property
    def url(self) -> str:
        return "kafka://market"

    async def send(self, records: Sequence[Record]) -> None:
        market = any(record.topic == "market" for record in records)
        self.sends += market
        failing = market and self.sends >= self.fails_at
        if not (failing and self.lost):
            await super().send(records)
        if failing:
            raise BrokerUnreachable("the broker went away")


@pytest.fixture
async def broker() -> AsyncIterator[Market]:
    async with Market() as broker:
        await broker.create_topics([TopicSpec("market", partitions=1)])
        yield broker


Publish = Callable[..., Any]


@pytest.fixture
def publish(broker: Market, tmp_path: Path) -> Publish:
    async def publish(
        content: str | bytes, mapping: Any = orders, *, file: str = "orders.csv", name: str = "orders", **options: Any
    ) -> PublishReport:
        path = tmp_path / file
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        async with Publisher(broker, source="test") as publisher:
            return await publish_file(publisher, mapping, path, name=name, home=tmp_path / "home", **options)

    return publish


async def seen(broker: Market) -> list[Envelope]:
    return [read_envelope(delivery) for delivery in await broker.snapshot("market")]


def problems(report: PublishReport) -> list[str]:
    return [str(each) for each in report.malformed]


async def test_each_row_becomes_its_events_with_their_times(broker: Market, publish: Publish) -> None:
    report = await publish(HEADER + ROWS)
    assert (report.rows, report.published, report.already, report.malformed) == (3, 5, 0, [])
    found = await seen(broker)
    assert [(each.type, each.key) for each in found] == [
        ("Ordered", "a"),
        ("Paid", "a"),
        ("Ordered", "b"),
        ("Ordered", "c"),
        ("Paid", "c"),
    ]
    assert found[0].time == (DAY + timedelta(days=5)).timestamp() * 1_000_000


async def test_in_time_order_sorts_before_publishing(broker: Market, publish: Publish) -> None:
    await publish(HEADER + ROWS, in_time_order(lambda row: orders(row)))
    found = await seen(broker)
    assert [each.key for each in found] == ["b", "c", "a", "c", "a"]
    assert [each.time for each in found] == sorted(each.time for each in found)


async def test_more_than_can_be_sorted_is_refused(publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "MOST_SORTED", 4)
    with pytest.raises(ConfigurationError, match="more than 4 events to sort by time; split the file"):
        await publish(HEADER + ROWS, in_time_order(lambda row: orders(row)))


async def test_ruling_18_ids_come_from_source_name_row_content_and_index(broker: Market, publish: Publish) -> None:
    await publish(HEADER + "b,2,1,\n")
    content = '{"day":"1","id":"b","paid":"","total":"2"}'
    assert [each.id for each in await seen(broker)] == [derived_id("source", "orders", content, "0")]


async def test_ruling_18_the_same_file_again_publishes_nothing_new(broker: Market, publish: Publish) -> None:
    await publish(HEADER + ROWS)
    again = await publish(HEADER + ROWS)
    assert (again.published, again.already) == (0, 5)
    more = await publish(HEADER + ROWS + "d,4,1,\n")
    assert (more.published, more.already) == (1, 5)
    # The columns' order is not content; another name is another source.
    moved = await publish("total,id,day,paid\n2,b,1,\n")
    assert (moved.published, moved.already) == (0, 1)
    other = await publish(HEADER + ROWS, name="others")
    assert other.published == 5
    assert len(await seen(broker)) == 11


async def test_equal_rows_are_one_row(broker: Market, publish: Publish) -> None:
    report = await publish(HEADER + "b,2,1,\nb,2,1,\n")
    assert (report.rows, report.published, report.already) == (2, 1, 1)


@pytest.mark.parametrize("lost", [True, False])
async def test_an_interrupted_run_goes_on_with_the_same_ids(
    broker: Market, publish: Publish, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "_BATCH", 2)
    broker.fails_at, broker.lost = 2, lost
    with pytest.raises(BrokerUnreachable):
        await publish(HEADER + ROWS)
    before = [each.id for each in await seen(broker)]
    assert len(before) == (2 if lost else 4)
    broker.fails_at = 10**9
    report = await publish(HEADER + ROWS)
    assert (report.published, report.already) == (3, 2)
    ids = [each.id for each in await seen(broker)]
    # What was sent and not noted is sent once more, under the same id, so that consumers drop the copy.
    assert len(set(ids)) == 5 and len(ids) == (5 if lost else 7)


async def test_a_crash_between_the_acknowledgement_and_the_ledger_repeats_ids_only(
    broker: Market, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(self: Ledger, ids: Sequence[str]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "add", crash)
        with pytest.raises(KeyboardInterrupt):
            await publish(HEADER + ROWS)
    await publish(HEADER + ROWS)
    ids = [each.id for each in await seen(broker)]
    assert len(ids) == 10 and ids[:5] == ids[5:]


async def test_malformed_rows_are_told_with_their_lines_and_the_rest_goes_on(broker: Market, publish: Publish) -> None:
    def mapped(row: dict[str, Any]) -> Any:
        if row["id"] == "none":
            return None
        if row["id"] == "one":
            return Paid(order_id="one")
        if row["id"] == "lookup":
            return row["missing"]
        return orders(row)

    report = await publish(
        HEADER.encode()
        + b"a,1.50,5,\n"  # 2
        + b"b,x,1,\n"  # 3
        + b"c,3\n"  # 4
        + b"d,3,x-secret,7\n"  # 5
        + b"\xff,3,2,\n"  # 6
        + b"\n"  # 7
        + b'"e\n",3,2,\n'  # 8 and 9
        + b"none,0,0,\n"  # 10
        + b"one,0,0,\n"  # 11
        + b"lookup,0,0,\n"  # 12
        + b",1,1,\n"  # 13
        + b'"f"x,1,1,\n'  # 14
        + b"g,1,1,\n",  # 15
        mapped,
    )
    assert problems(report) == [
        "line 3: not a valid Ordered: total: decimal_parsing",
        "line 4: 2 cells, the header has 4",
        f"line 5: ValueError in test_source.py:{orders.__code__.co_firstlineno + 1}",
        "line 6: not UTF-8 text",
        "line 12: there is no column 'missing'",
        "line 13: Ordered: its key 'order_id' is empty, so it has no partition and no saga; fill the field",
        "line 14: not CSV: a quote is misplaced or a cell is too long",
    ]
    assert [each.key for each in await seen(broker)] == ["a", "e\n", "one", "g"]
    assert (report.published, report.malformed_count, report.rows) == (4, 7, 12)


async def test_an_event_that_cannot_be_encoded_or_is_too_large_is_a_malformed_row(
    broker: Market, publish: Publish
) -> None:
    class Timed(Event, topic="market", key="id"):
        id: str
        at: datetime
        text: str

    def timed(row: dict[str, Any]) -> Event:
        return Timed(id=row["id"], at=row["at"], text="x" * int(row["size"]))

    report = await publish(
        "id,at,size\na,2026-01-01T00:00:00,1\nb,2026-01-01T00:00:00Z,1000000\nc,2026-01-01T00:00:00Z,1\n", timed
    )
    assert problems(report)[0].startswith("line 2: Timed.at is a time without a zone")
    assert problems(report)[1].startswith("line 3: an event of 1000")
    assert report.published == 1


async def test_the_list_of_malformed_rows_is_bounded_and_the_count_is_not(publish: Publish) -> None:
    report = await publish(HEADER + "x\n" * 50, most_malformed=3)
    assert (problems(report), report.malformed_count) == (
        [f"line {line}: 1 cells, the header has 4" for line in (2, 3, 4)],
        50,
    )


async def test_json_lines_are_read_too(broker: Market, publish: Publish) -> None:
    lines = [
        json.dumps({"order_id": "a", "total": 1.5}),
        "",
        "{",
        "[1]",
        json.dumps({"order_id": "b", "total": "2.00", "more": [1, {"x": None}]}),
        json.dumps({"total": 1}),
    ]
    report = await publish("\n".join(lines), Ordered, file="orders.jsonl")
    assert problems(report) == [
        "line 3: not JSON",
        "line 4: not a JSON object",
        "line 6: not a valid Ordered: order_id: missing",
    ]
    assert [each.key for each in await seen(broker)] == ["a", "b"]
    sniffed = await publish(lines[0].encode() + b'\n{"order_id": "\xff"}', Ordered, file="orders.txt")
    assert (sniffed.already, problems(sniffed)) == (1, ["line 2: not UTF-8 text"])


async def test_gzip_and_a_byte_order_mark_are_known_by_their_bytes(publish: Publish) -> None:
    plain = await publish(HEADER + ROWS)
    zipped = await publish(gzip.compress(b"\xef\xbb\xbf" + (HEADER + ROWS).encode()), file="orders.data")
    assert (plain.published, zipped.published, zipped.already) == (5, 0, 5)


async def test_a_damaged_gzip_keeps_what_was_read_and_says_where_it_ends(
    broker: Market, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "_BATCH", 10)
    lines = "".join(f"{derived_id(str(number))},1,{number},\n" for number in range(2_000))
    with pytest.raises(ConfigurationError, match=r"orders.csv.gz is damaged after line \d+; the rest cannot be read"):
        await publish(gzip.compress((HEADER + lines).encode())[:-20_000], file="orders.csv.gz")
    assert 0 < len(await seen(broker)) < 2_000


async def test_a_line_without_end_is_not_read_into_memory(
    broker: Market, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "MOST_LINE_BYTES", 100)
    report = await publish(HEADER + "a,1,1,\n" + "x" * 1_000 + "\nb,2,1,\n")
    assert problems(report) == ["line 3: longer than 100 bytes"]
    lines = await publish('{"order_id": "c"}\n{' + " " * 1_000 + '}\n{"order_id": "d"}', Paid, file="a.jsonl")
    assert problems(lines) == ["line 2: longer than 100 bytes"]
    assert [each.key for each in await seen(broker)] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,id\n1,2\n", "line 1: the header names id twice"),
        ("id,,x\n", "line 1: the header of a CSV file names every column"),
        (b"id,\xff\n", "line 1: the header of a CSV file names every column"),
    ],
)
async def test_an_unusable_header_is_one_clear_line(publish: Publish, content: str | bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await publish(content)


async def test_an_empty_file_publishes_nothing(publish: Publish) -> None:
    assert await publish("") == PublishReport()
    assert await publish("\n\n") == PublishReport()
    assert await publish(HEADER) == PublishReport()


async def test_a_missing_file_and_a_wrong_function_are_one_clear_line(
    broker: Market, publish: Publish, tmp_path: Path
) -> None:
    async with Publisher(broker, source="test") as publisher:
        with pytest.raises(ConfigurationError, match=r"cannot read .*none.csv: No such file"):
            await publish_file(publisher, orders, tmp_path / "none.csv", name="x", home=tmp_path)
    with pytest.raises(ConfigurationError, match=r"texts gave str; it should give Event or Dated"):

        def texts(row: dict[str, Any]) -> Any:
            return ["text"]

        await publish(HEADER + ROWS, texts)


async def test_a_schema_that_breaks_readers_stops_the_run(publish: Publish) -> None:
    class Newer(Event, topic="market", key="order_id", type="Paid"):
        order_id: str
        coupon: str

    await publish("order_id\na\n", Paid)
    with pytest.raises(SchemaRefused, match=r"Paid.coupon is new and has no default"):
        await publish("order_id,coupon\na,x\n", Newer)


async def test_progress_is_told_in_rows_and_bytes(publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_BATCH", 2)
    told: list[Progress] = []
    await publish(HEADER + ROWS, on_progress=told.append)
    total = len(HEADER + ROWS)
    assert [each.published for each in told] == [2, 4, 5, 5]
    assert all(each.total == total for each in told)
    assert told[-1] == Progress(3, total, total, 5, 0)


async def test_what_a_memory_broker_forgets_the_ledger_forgets_too(tmp_path: Path) -> None:
    path = tmp_path / "paid.csv"
    path.write_text("order_id\na\n")
    for _ in range(2):
        async with Publisher("memory:", source="test") as publisher:
            report = await publish_file(publisher, Paid, path, name="paid", home=tmp_path)
            assert report.published == 1
    assert not (tmp_path / "publish.db").exists()
