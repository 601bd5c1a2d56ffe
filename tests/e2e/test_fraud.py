"""The demo's fraud check, a Faust agent on a real Kafka, and what the shop makes of it, as in the compose file."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from choreo.events.settings import Settings
from choreo.events.transports import connect
from choreo.saga.demo.events import FraudSuspected, OrderPlaced, PaymentCaptured, PaymentDeclined
from choreo.saga.demo.fraud import CardDeclined
from tests.services.shop import Published, Rig, command
from tests.support.cli import Program, environment, saga
from tests.support.commands import compose_commands

PATIENCE = 90.0


@pytest.mark.kafka
async def test_three_declined_cards_of_a_customer_within_ten_minutes_are_suspect(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    given = {"broker": f"kafka://{kafka_bootstrap}", "home": tmp_path, "topic_prefix": f"{uuid.uuid4().hex[:8]}."}
    env = environment(**given, session=5)
    commands = compose_commands()
    made = saga(*commands["topics"][1:], env=env)
    assert made.returncode == 0, made.stderr
    program = Program(commands["fraud"], env=env, folder=tmp_path, name="fraud")
    shop = Program(commands["payment"], env=env, folder=tmp_path, name="payment")
    settings = Settings.model_validate(given)
    async with connect(settings.broker_url, settings) as broker:
        rig = Rig(broker, settings)
        await rig.codec.prepare([OrderPlaced, PaymentCaptured, PaymentDeclined, CardDeclined, FraudSuspected])
        program.start()
        shop.start()
        try:
            for number in ("1", "2", "3"):
                declined = PaymentDeclined(order_id=number, customer="ada")
                await rig.publish(declined, **{**command("charge", key=number), "saga_attempt": None})
            # Twenty minutes ago, a quarter of an hour ago, and now: not within ten minutes.
            now = time.time()
            for customer, minutes in (("tony", (20, 15, 0)), ("leslie", (8, 4, 0))):
                for order, ago in enumerate(minutes):
                    record = rig.record(CardDeclined(customer=customer, order_id=f"{customer}-{order}"))
                    await broker.send([replace(record, timestamp=round((now - 60 * ago) * 1_000))])
            async with asyncio.timeout(PATIENCE):
                while len(found := await rig.published("fraud")) < 2 or not await rig.all_committed(
                    "fraud", "payment", "fraud.cards"
                ):
                    assert program.code is None, program.output[-3000:]
                    await asyncio.sleep(0.2)
            found += await _suspect_of_the_whole_shop(rig, program, shop)
        finally:
            output = program.output
            code = program.stop()
            shop.stop()
    assert code == 0, output[-3000:]
    suspects = {str(each.event["customer"]): each for each in found}
    assert {name: each.event["orders"] for name, each in suspects.items()} == {
        "ada": ["1", "2", "3"],
        "leslie": ["leslie-0", "leslie-1", "leslie-2"],
        "mallory": ["m1", "m2", "m3"],
    }
    ada = suspects["ada"].envelope
    cards = {each.envelope.id: each.envelope for each in await _cards(settings, rig)}
    assert ada.causation_id in cards, "it follows from a CardDeclined, that from a PaymentDeclined of a saga"
    assert ada.saga_id == cards[ada.causation_id].saga_id
    assert ada.saga_id in {f"fulfilment/{number}" for number in ("1", "2", "3")}
    assert suspects["ada"].type == FraudSuspected.spec().type


async def _suspect_of_the_whole_shop(rig: Rig, fraud: Program, shop: Program) -> list[Published]:
    """Order until payment takes no card of a customer any more: from the order to the reaction, all of it on Kafka."""

    async def wait(holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not await holds():
                assert (fraud.code, shop.code) == (None, None), fraud.output[-2000:] + shop.output[-2000:]
                await asyncio.sleep(0.2)

    async def said(type_: str, key: str) -> list[Published]:
        topic = "fraud" if type_ == "FraudSuspected" else "payment"
        return [each for each in await rig.published(topic, type_) if each.envelope.key == key]

    def order(number: str, customer: str, card: str) -> OrderPlaced:
        mail = f"{customer}@mail.example"
        return OrderPlaced(
            order_id=number, customer=customer, email=mail, article="lamp", quantity=1, total=Decimal(20), card=card
        )

    await rig.publish(*(order(f"m{number}", "mallory", "card-declined") for number in (1, 2, 3)))

    async def heard() -> bool:
        suspected = await said("FraudSuspected", "mallory")
        return bool(suspected) and await rig.all_committed("payment", "fraud")

    await wait(heard)
    await rig.publish(order("m4", "mallory", "card-1"), order("n1", "nobody", "card-1"))

    async def answered() -> bool:
        return bool(await said("PaymentDeclined", "m4")) and bool(await said("PaymentCaptured", "n1"))

    await wait(answered)
    assert await said("PaymentCaptured", "m4") == []
    return await said("FraudSuspected", "mallory")


async def _cards(settings: Settings, rig: Rig) -> list:
    async with connect(settings.broker_url, settings) as broker:
        rig.broker = broker
        return await rig.published("fraud.cards")
