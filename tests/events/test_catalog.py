"""Announcements: written under their key, read back newest first, malformed ones skipped."""

from __future__ import annotations

import json

import structlog.testing

from choreo.events.catalog import (
    CATALOG_TOPIC,
    DEFINITIONS_TOPIC,
    DefinitionAnnouncement,
    EventRef,
    HandlerAnnouncement,
    ServiceAnnouncement,
    StepAnnouncement,
    announce,
    catalog_topics,
    read_catalog,
    read_definitions,
)
from choreo.events.envelope import Record
from choreo.events.failures import HandlerFailed
from choreo.events.memory import MemoryBroker

PLACED = EventRef(type="OrderPlaced", topic="orders")
SERVICE = ServiceAnnouncement(
    service="inventory",
    group="inventory",
    handlers=[
        HandlerAnnouncement(
            name="reserve", consumes=[PLACED], produces=[EventRef(type="StockReserved", topic="stock")]
        ),
        HandlerAnnouncement(name="release", undoes="reserve", claims=True),
    ],
)
DEFINITION = DefinitionAnnouncement(
    type="fulfilment",
    version=2,
    hash="9f2c1a",
    start=["OrderPlaced"],
    key="order_id",
    correlate={"LegacyShipped": "ref"},
    topics={"OrderPlaced": "orders"},
    steps=[StepAnnouncement(name="reserve", index=0, done=["StockReserved"], undo="ReleaseStock", pivot=True)],
)


async def test_announcements_are_read_back_by_their_key() -> None:
    async with MemoryBroker() as broker:
        assert await read_catalog(broker) == {}
        assert await read_definitions(broker) == {}
        await announce(broker, SERVICE, DEFINITION)
        assert await read_catalog(broker) == {"inventory": SERVICE}
        assert await read_definitions(broker) == {"fulfilment@2": DEFINITION}


async def test_the_newest_announcement_of_a_key_wins_and_a_tombstone_removes_it() -> None:
    async with MemoryBroker() as broker:
        await announce(broker, SERVICE, ServiceAnnouncement(service="payment", group="g"))
        await announce(broker, SERVICE.model_copy(update={"group": "other"}))
        assert (await read_catalog(broker))["inventory"].group == "other"
        await broker.send([Record(CATALOG_TOPIC, b"payment", None)])
        assert set(await read_catalog(broker)) == {"inventory"}


async def test_a_malformed_announcement_is_skipped_and_logged() -> None:
    async with MemoryBroker() as broker:
        await announce(broker, DEFINITION)
        for value in (b"{", b"[]", b'{"type": "x"}', b"\xff"):
            await broker.send([Record(DEFINITIONS_TOPIC, b"x@1", value)])
        with structlog.testing.capture_logs() as logs:
            assert await read_definitions(broker) == {"fulfilment@2": DEFINITION}
    assert [(each["event"], each["key"], each["log_level"]) for each in logs] == [
        ("an announcement is malformed; skipped", "x@1", "warning")
    ] * 4


async def test_announcements_of_newer_releases_stay_readable() -> None:
    value = json.loads(SERVICE.model_dump_json()) | {"new_in_9": {"a": 1}}
    async with MemoryBroker() as broker:
        await announce(broker)
        await broker.send([Record(CATALOG_TOPIC, b"inventory", json.dumps(value).encode())])
        assert await read_catalog(broker) == {"inventory": SERVICE}


def test_both_topics_are_compacted() -> None:
    assert [(topic.name, topic.compacted) for topic in catalog_topics()] == [
        ("choreo.catalog", True),
        ("choreo.definitions", True),
    ]


def test_handler_failed_is_json_keyed_like_its_input() -> None:
    spec = HandlerFailed.spec()
    assert (spec.topic, spec.key, spec.format, spec.type) == ("choreo.failures", "key", "json", "HandlerFailed")
