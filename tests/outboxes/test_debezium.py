"""The shape of the table is that which Debezium's outbox event router takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from choreo import Outbox
from choreo.events.envelope import Delivery, read_envelope
from choreo.events.outboxes.table import outbox_tables
from tests.outboxes.system import Ordered, System

DOCS = (Path(__file__).parents[2] / "docs" / "outbox.md").read_text()
PLACEMENT = "transforms.outbox.table.fields.additional.placement"
ROUTER = {"id", "aggregatetype", "aggregateid", "type", "payload"}
"""The columns that the router needs, under the names that it has for them by default."""


def _settings() -> dict[str, str]:
    [block] = re.findall(r"```properties\n(.*?)```", DOCS, re.DOTALL)
    return dict(line.split("=", 1) for line in block.splitlines())


def test_the_table_has_the_routers_columns_and_types() -> None:
    columns = outbox_tables().outbox.columns
    assert set(columns.keys()) >= ROUTER
    for name in ROUTER:
        assert not columns[name].nullable
    assert all(columns[name].type.python_type is str for name in ROUTER - {"payload"})
    assert columns["payload"].type.python_type is bytes


def test_what_the_docs_place_into_headers_is_there() -> None:
    settings = _settings()
    placed = settings[PLACEMENT].split(",")
    columns = outbox_tables().outbox.columns
    for place in placed:
        column, where, _ = place.split(":")
        assert column in columns
        assert where == "header"
    assert settings["table.include.list"] == f"public.{outbox_tables().outbox.name}"


async def test_what_the_router_would_send_is_an_event_to_choreo(system: System, outbox: Outbox) -> None:
    """Played by hand: topic, key, value and headers as the router makes them of a row and these settings."""
    async with system.database.transaction() as connection:
        await outbox.add(connection, Ordered(number="4711", total=7), id="e-1")
    [row] = await system.rows()
    placed = [place.split(":") for place in _settings()[PLACEMENT].split(",")]
    headers = [("id", row.id.encode())]
    headers += [(alias, str(getattr(row, column) or "").encode()) for column, _, alias in placed]
    delivery = Delivery(row.aggregatetype, 0, 0, 0, row.aggregateid.encode(), bytes(row.payload), tuple(headers))
    envelope = read_envelope(delivery)
    assert (envelope.id, envelope.type, envelope.source, envelope.key) == ("e-1", "Ordered", "shop", "4711")
    assert envelope.content_type == "application/json"
    assert envelope.time > 0
    assert delivery.topic == "orders"
    assert Ordered.model_validate_json(delivery.value or b"") == Ordered(number="4711", total=7)


@pytest.mark.parametrize("column", sorted(outbox_tables().outbox.columns.keys()))
def test_every_column_is_told_in_the_docs(column: str) -> None:
    assert f"`{column}`" in DOCS
