"""Topics that transactional producers of others write to, on a real Kafka: what is no record holds up no saga."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from aiokafka import AIOKafkaProducer

from choreo import Event
from choreo.events.clock import SECOND
from choreo.events.codec import to_record
from choreo.events.envelope import Envelope
from choreo.events.ids import new_id
from choreo.events.settings import Settings
from choreo.events.transports import connect
from choreo.saga import positions
from tests.saga.stage import Order, Paid, Placed, Reserved, Stage

pytestmark = pytest.mark.kafka


class Foreign:
    """A transactional producer that knows nothing of choreo."""

    def __init__(self, stage: Stage, bootstrap: str, prefix: str) -> None:
        self._stage = stage
        self._prefix = prefix
        self.kafka = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=uuid.uuid4().hex)

    async def send(self, event: Event) -> None:
        """Send within the open transaction."""
        stage = self._stage
        made = Envelope(new_id(), event.spec().type, "foreign", stage.now, event.key_text())
        record = to_record(event, made, stage.codec)
        await self.kafka.send_and_wait(
            self._prefix + record.topic, record.value, record.key, headers=list(record.headers)
        )


@pytest.fixture
async def world(kafka_bootstrap: str, tmp_path: Path) -> AsyncIterator[tuple[Stage, Foreign]]:
    prefix = f"t{uuid.uuid4().hex[:8]}."
    settings = Settings(broker=f"kafka://{kafka_bootstrap}", topic_prefix=prefix, home=tmp_path)
    broker = connect(settings.broker_url, settings)
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", sagas=(Order,), broker=broker, settings=settings) as stage:
        foreign = Foreign(stage, kafka_bootstrap, prefix)
        await foreign.kafka.start()
        try:
            yield stage, foreign
        finally:
            await foreign.kafka.stop()


async def test_the_ends_of_transactions_hold_up_no_timer_and_are_no_lag(world: tuple[Stage, Foreign]) -> None:
    stage, foreign = world
    coordinator = await stage.start()
    for number in range(3):
        async with foreign.kafka.transaction():
            await foreign.send(Placed(order_id=str(number)))
    await foreign.kafka.begin_transaction()
    await foreign.send(Reserved(order_id="1"))
    await foreign.kafka.abort_transaction()
    found = await stage.until(lambda all_: len(all_) == 3)
    await stage.settled()
    assert {each.steps["reserve"].state.value for each in (await stage.instances()).values()} == {"WAITING"}
    stage.now += 60 * SECOND
    found = await stage.until(lambda all_: all(each.phase != "RUNNING" for each in all_.values()))
    assert {each.steps["reserve"].error for each in found.values()} == {"Timeout"}
    await stage.settled()
    async with asyncio.timeout(60):
        while True:  # the broker's own lag display as well
            group = await stage.broker.group(coordinator.group)
            ends = await stage.broker.end_offsets(["orders", "inventory"])
            if all(group.committed.get(place, 0) == end for place, end in ends.items()):
                break
            await asyncio.sleep(0.1)


async def test_row_26_an_open_transaction_hides_answers_so_timers_wait_for_it_and_that_is_told(
    world: tuple[Stage, Foreign], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 32: a producer that never ends its transaction."""
    monkeypatch.setattr(positions, "HIDDEN_AFTER", 1 * SECOND)
    stage, foreign = world
    await stage.start()
    await stage.publish(Placed(order_id="1"))
    await stage.until(lambda all_: len(all_) == 1)
    await foreign.kafka.begin_transaction()
    await foreign.send(Paid(order_id="hanging"))
    await foreign.send(Reserved(order_id="1"))  # hides what comes after it in that partition
    await stage.publish(Reserved(order_id="1"))
    with structlog.testing.capture_logs() as logs:
        stage.now += 60 * SECOND
        async with asyncio.timeout(60):
            while not any("open transaction" in entry["event"] for entry in logs):
                stage.now += 1 * SECOND
                await asyncio.sleep(0.2)
    told = next(entry for entry in logs if "open transaction" in entry["event"])
    # As many as were hidden when the log was looked at, which may have been before the last one came.
    assert (told["topic"], told["records"]) in {("inventory", 1), ("inventory", 2), ("payments", 1)}
    (held,) = (await stage.instances()).values()
    assert held.phase == "RUNNING", "the answer may be among what is hidden, and it is"
    await foreign.kafka.abort_transaction()
    await stage.until(lambda all_: all_["order/1"].steps["reserve"].state == "DONE")
