"""The words of dead letters are erased for ever, and everything else about them stays."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from choreo.events.envelope import Record, TopicPartition
from choreo.events.errors import ConfigurationError, Refused
from choreo.events.kafka import KafkaTransport
from choreo.events.local import LocalBroker
from choreo.events.memory import MemoryBroker
from choreo.events.settings import Settings
from choreo.events.transport import TopicSpec, Transport
from choreo.events.transports import Prefixed
from choreo.services.forgetting import erase_letters
from choreo.services.letters import Filed, read_letters, redrive, settle, settlement

SECRET = b"Kunigunde"


@pytest.fixture(params=["memory", "local", pytest.param("kafka", marks=pytest.mark.kafka)])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Transport]:
    inner: Transport
    if request.param == "memory":
        inner = MemoryBroker()
    elif request.param == "local":
        inner = LocalBroker(tmp_path / "broker.db")
    else:
        inner = KafkaTransport(f"kafka://{request.getfixturevalue('kafka_bootstrap')}", Settings())
    async with inner:
        transport = Prefixed(inner, f"t{uuid.uuid4().hex[:8]}.")
        await transport.create_topics([TopicSpec("orders.dlq", 1), TopicSpec("quiet.dlq", 1)])
        yield transport


def _letter(key: str, number: int) -> Record:
    headers = {
        "ce_id": f"e-{key}-{number}",
        "ce_type": "Placed",
        "saga-id": f"order/{key}",
        "x-customer": SECRET.decode(),
        "dlq-topic": "orders",
        "dlq-service": "mail",
        "dlq-error": "ValueError",
        "dlq-message": f"{SECRET.decode()} has no address",
        "dlq-attempts": "3",
        "dlq-time": "2026-11-21T10:00:00.000Z",
    }
    told = tuple((name, text.encode()) for name, text in headers.items())
    return Record("orders.dlq", key.encode(), SECRET, told, timestamp=1_790_000_000_000 + number)


def _facts(filed: Filed) -> tuple[object, ...]:
    letter = filed.letter
    return (letter.id, letter.key, letter.event_id, letter.type, letter.saga, letter.error, letter.at, filed.state)


async def test_words_go_and_the_letters_their_ids_and_what_became_of_them_stay(broker: Transport) -> None:
    await broker.send([_letter(key, number) for number, key in enumerate(("1", "2", "1", "3"))])
    before = await read_letters(broker)
    one = next(each.letter for each in before if each.letter.event_id == "e-1-2")
    await settle(broker, [], [settlement(one, "discarded", at=1, by="ann", reason="of no use")])
    before = await read_letters(broker)
    assert await erase_letters(broker, lambda letter: letter.key == "1") == 2
    after = await read_letters(broker)
    assert sorted(map(_facts, after)) == sorted(map(_facts, before))
    assert {each.letter.key: each.letter.erased for each in after} == {"1": True, "2": False, "3": False}
    kept = [each.letter.delivery for each in after if not each.letter.erased]
    assert all(each.value == SECRET and dict(each.headers)["dlq-message"] for each in kept)
    assert {each.timestamp for each in kept} == {1_790_000_000_001, 1_790_000_000_003}
    raw = [each for each in await broker.snapshot("orders.dlq") if each.key == b"1"]
    assert SECRET not in b"".join((each.value or b"") + repr(each.headers).encode() for each in raw)
    (left,) = {each.offset for each in raw if each.offset < 4} or {None}
    assert left is None, "what they said is not in the log any more"
    erased = next(each.letter for each in after if each.letter.erased)
    with pytest.raises(Refused, match="was erased"):
        redrive(erased, "again")


async def test_erased_again_nothing_moves(broker: Transport) -> None:
    await broker.send([_letter("1", 0)])
    assert await erase_letters(broker, lambda letter: letter.key == "1") == 1
    ends = await broker.end_offsets(["orders.dlq", "quiet.dlq"])
    assert await erase_letters(broker, lambda letter: letter.key == "1") == 0
    assert await broker.end_offsets(["orders.dlq", "quiet.dlq"]) == ends


async def test_a_death_between_the_copy_and_the_cut_is_made_good_by_saying_it_again(
    broker: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.send([_letter("1", 0), _letter("2", 1)])
    before = [_facts(each) for each in await read_letters(broker)]

    async def die(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(broker), "delete_records", lambda self, before: die(before))
        with pytest.raises(KeyboardInterrupt):
            await erase_letters(broker, lambda letter: letter.key == "1")
    assert sorted(map(_facts, await read_letters(broker))) == sorted(before), "none is there twice"
    assert await erase_letters(broker, lambda letter: letter.key == "1") == 1
    assert SECRET not in b"".join(each.value or b"" for each in await broker.snapshot("orders.dlq") if each.key == b"1")


@pytest.mark.kafka
async def test_a_compacted_topic_says_that_nothing_can_be_deleted(kafka_bootstrap: str) -> None:
    name = f"compacted-{uuid.uuid4().hex[:8]}.dlq"
    async with KafkaTransport(f"kafka://{kafka_bootstrap}", Settings()) as broker:
        await broker.create_topics([TopicSpec(name, 1, compacted=True)])
        await broker.send([Record(name, b"1", b"x")])
        with pytest.raises(ConfigurationError, match="compacted"):
            await broker.delete_records({TopicPartition(name, 0): 1})
