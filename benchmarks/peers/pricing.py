"""The work of the handlers, as on every runtime: Avro to a model, price it, a model to Avro, eight headers."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from pydantic import BaseModel

_HEAD = 5  # magic byte and schema id of the Confluent wire format


class Received(BaseModel):
    """What comes in."""

    order_id: str
    customer: str
    country: str
    placed_at: int
    total: int
    weight: float
    items: list[str]
    note: str | None = None


class Priced(Received):
    """What goes out."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a program is asked for on its input.

    Args:
        hosts: Kafka's address.
        group: the consumer group.
        source: the topic to read.
        target: the topic to write to.
        count: events to handle before the watch stops; the topic holds more.
        home: a folder for files.
    """

    hosts: str
    group: str
    source: str
    target: str
    count: int
    home: str
    read: Any
    write: Any
    head: bytes

    def decode(self, value: bytes) -> Any:
        """Read Avro."""
        return schemaless_reader(BytesIO(value[_HEAD:]), self.read, None)

    def encode(self, priced: Priced) -> bytes:
        """Write Avro."""
        value = BytesIO()
        value.write(self.head)
        schemaless_writer(value, self.write, priced.model_dump())
        return value.getvalue()


def read_job() -> Job:
    """Read it from the input."""
    told = json.loads(sys.stdin.read())
    read, write = (parse_schema(schema) for schema in told["schemas"])
    head = b"\0" + told["schema_id"].to_bytes(4, "big")
    source, target = told["topics"]
    return Job(told["hosts"], told["group"], source, target, told["count"], told["home"], read, write, head)


def price(received: Received) -> Priced:
    """Do the business."""
    return Priced(
        order_id=received.order_id,
        customer=received.customer,
        country=received.country,
        placed_at=received.placed_at,
        total=received.total + len(received.items),
        weight=received.weight,
        items=received.items,
        note=received.note,
    )


def spell(known: Mapping[str, str]) -> dict[str, str]:
    """Read the headers of an event, and write those of what follows from it."""
    datetime.fromisoformat(known["ce_time"])
    return {
        "ce_specversion": "1.0",
        "ce_id": f"{known['ce_id']}:0",
        "ce_type": "OrderPriced",
        "ce_source": "peer",
        "ce_time": datetime.now(UTC).isoformat(),
        "content-type": "application/avro",
        "causation-id": known["ce_id"],
        "saga-id": known["saga-id"],
    }
