"""The coordinator alone with wide sagas: a step for each line of a basket, and a service that packs line by line."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from sqlalchemy import text

from choreo.events.codec import Codec, to_record
from choreo.events.database import Database
from choreo.events.envelope import Envelope, Record
from choreo.events.event import Event
from choreo.events.ids import derived_id
from choreo.events.registry import open_registry
from choreo.events.settings import load_settings
from choreo.events.transports import connect
from choreo.saga.coordinator import Coordinator
from choreo.saga.loading import Parts
from choreo.saga.saga import Saga
from choreo.saga.step import step

from .orders import RUN
from .shop import GROWTH, SECONDS
from .stopwatch import Measured, Stopwatch

_CHUNK = 5_000


class Line(BaseModel):
    """One article."""

    sku: str
    quantity: int = 1


class BasketPlaced(Event, topic=f"{RUN}.baskets", key="basket_id"):
    """A customer ordered many articles."""

    basket_id: str
    lines: list[Line]


class LinePacked(Event, topic=f"{RUN}.baskets", key="basket_id"):
    """One of them is in its parcel."""

    basket_id: str
    sku: str


class UnpackLine(Event, topic=f"{RUN}.baskets.commands", key="basket_id"):
    """Command: take it out again."""

    basket_id: str
    sku: str


class LineUnpacked(Event, topic=f"{RUN}.baskets", key="basket_id"):
    """It is out again."""

    basket_id: str
    sku: str


class BasketSent(Event, topic=f"{RUN}.baskets", key="basket_id"):
    """All of it is on its way."""

    basket_id: str


class Basket(Saga, start=BasketPlaced, key="basket_id", type=f"basket-{RUN}", deadline="2h", active_from="beginning"):
    """Pack each line, then send."""

    pack = step(each="lines", by="sku", done=LinePacked, undo=UnpackLine, undone=LineUnpacked, within="1h")
    send = step(after=pack, done=BasketSent, undo=None, within="1h")


async def track(broker: str, home: Path, count: int) -> Measured:
    """Measure it: so many baskets of so many lines (CHOREO_BENCH_GROWTH), one after another on a full topic."""
    settings = load_settings(broker=broker, home=home, group=f"{RUN}.coordinator")
    wide = json.loads(os.environ[GROWTH])["elements"]
    watch = Stopwatch()
    async with connect(broker, settings) as transport:
        await transport.create_topics(Parts(sagas=(Basket,)).topics())
        registry = open_registry(settings, transport)
        codec = Codec(registry)
        await codec.prepare([BasketPlaced, LinePacked, BasketSent])
        records = [record for number in range(count) for record in _records(number, wide, codec)]
        for start in range(0, len(records), _CHUNK):
            await transport.send(records[start : start + _CHUNK])
        await registry.close()
        database = await Database.open(settings.store_url, by_index=True)
        coordinator = Coordinator([Basket], transport=transport, database=database, settings=settings)
        try:
            await coordinator.start()
            watch.start()
            async with asyncio.timeout(SECONDS):
                while coordinator.events < len(records):
                    await asyncio.sleep(0.005)
                while not await coordinator.caught_up():
                    await asyncio.sleep(0.005)
            watch.lap()
            query = text("SELECT count(*) FROM choreo_saga WHERE phase = 'COMPLETED'")
            ended = await database.read(lambda connection: connection.execute(query).scalar_one())
        finally:
            await coordinator.stop()
            await database.close()
    assert ended == count, f"{ended} of {count} baskets were sent"
    return watch.measured(len(records), sagas=count, longest=wide + 2)


def _records(number: int, wide: int, codec: Codec) -> Iterator[Record]:
    name = f"basket-{number:06d}"
    lines = [Line(sku=f"article-{each:05d}") for each in range(wide)]
    events: list[Event] = [BasketPlaced(basket_id=name, lines=lines)]
    events += [LinePacked(basket_id=name, sku=line.sku) for line in lines]
    events.append(BasketSent(basket_id=name))
    cause = None
    for index, event in enumerate(events):
        id_ = derived_id("bench", name, str(index))
        envelope = Envelope(id_, event.spec().type, event.spec().topic, 1_795_000_000_000_000, name, causation_id=cause)
        cause = id_
        yield to_record(event, envelope, codec)
