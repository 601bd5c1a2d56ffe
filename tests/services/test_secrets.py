"""Secrets in a running service: events that cannot be decrypted, and what their dead letters tell and hide."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import SecretStr

from choreo.events.codec import Codec, to_record
from choreo.events.envelope import JSON, Envelope, Record, write_headers
from choreo.events.event import Event
from choreo.events.keys import Keys, read_keys
from choreo.events.secret import MASK, Secret
from choreo.events.transport import TopicSpec
from choreo.services.ladder import retry_topic
from choreo.services.retry import Retry
from choreo.services.service import Exhausted, Service
from tests.services.shop import NOW, Rig

KEYS = SecretStr("new=AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=")
CARD = "4111-1111-1111-1111"


class Stored(Event, topic="vault", key="id", encrypted="secrets"):
    id: str
    card: Secret[str]


class Loose(Event, topic="vault", key="id", format="json"):
    id: str
    card: Secret[str]


class Lent(Event, topic="lent", key="id", format="json"):
    id: str
    card: Secret[str]


def _vault(store: str, exhausted: Exhausted = "dead") -> tuple[Service, list[str]]:
    service = Service("vault", store=store)
    seen: list[str] = []

    @service.on(Stored, Loose, retry=Retry(attempts=1, first="1h", most="2h"), exhausted=exhausted)
    async def keep(event: Stored | Loose) -> None:
        if event.id == "quoted":
            raise ValueError(f"gateway refuses card={event.card.reveal()}")
        seen.append(event.card.reveal())

    return service, seen


@pytest.fixture
async def vault(rig: Rig) -> Rig:
    await rig.broker.create_topics([TopicSpec("vault", 1), TopicSpec("vault.dlq", 1)])
    rig.settings = rig.settings.model_copy(update={"keys": KEYS})
    return rig


async def _sealed(rig: Rig, event: Event, keys: Keys) -> Record:
    codec = Codec(rig.registry, keys)
    await codec.prepare([type(event)])
    return to_record(event, Envelope(f"id-{event.key_text()}", event.spec().type, "test", NOW, ""), codec)


async def test_what_cannot_be_decrypted_is_a_dead_letter_with_a_clear_reason(vault: Rig, store: str) -> None:
    service, seen = _vault(store)
    own = Keys(read_keys(KEYS))
    good = await _sealed(vault, Stored(id="good", card=Secret(CARD)), own)
    moved = await _sealed(vault, Stored(id="moved", card=Secret(CARD)), own)
    headers = tuple((name, b"another" if name == "ce_id" else value) for name, value in moved.headers)
    unknown = await _sealed(vault, Stored(id="unknown", card=Secret(CARD)), Keys({"old": bytes(32)}))
    await vault.broker.send([unknown, replace(moved, headers=headers), good])
    worker = await vault.run(service)
    assert (seen, worker.counters.dead) == ([CARD], 2)
    letters = {letter.delivery.key: letter for letter in await vault.published("vault.dlq")}
    assert letters[b"unknown"].header("dlq-error") == "DecodeError"
    told = letters[b"unknown"].header("dlq-message")
    assert told == "Stored.card is encrypted with key 'old', and the keys here are new: add it to CHOREO_KEYS"
    assert "Stored.card does not decrypt with key 'new'" in (letters[b"moved"].header("dlq-message") or "")
    news = await vault.published("choreo.failures")
    assert sorted(each.envelope.key for each in news) == ["moved", "unknown"]
    assert told in {each.event["message"] for each in news}


@pytest.mark.parametrize("exhausted", ["dead", "park", retry_topic("1h")], ids=["dead", "park", "retry_topic"])
async def test_what_an_error_quotes_is_masked_wherever_the_event_goes(
    vault: Rig, store: str, exhausted: Exhausted, capsys: pytest.CaptureFixture[str]
) -> None:
    service, _ = _vault(store, exhausted)
    await vault.broker.create_topics([TopicSpec(name, 1) for name in service.retry_topics])
    own = Keys(read_keys(KEYS))
    await vault.broker.send([await _sealed(vault, Stored(id="quoted", card=Secret(CARD)), own)])
    await vault.run(service)
    for letter in await vault.published("vault.dlq"):
        assert letter.header("dlq-message") == f"gateway refuses card={MASK}"
    told = capsys.readouterr()
    assert MASK in told.out + told.err and CARD not in told.out + told.err
    [news] = await vault.published("choreo.failures")
    assert news.event["message"] == f"gateway refuses card={MASK}"


async def test_a_dead_letter_says_where_a_foreign_event_may_hold_secrets(vault: Rig, store: str) -> None:
    service, _ = _vault(store)
    envelope = Envelope("1", "Loose", "elsewhere", NOW, "", JSON)
    value = b'{"id": 7.5, "card": "' + CARD.encode() + b'"}'
    await vault.broker.send([Record("vault", b"7", value, write_headers(envelope))])
    await vault.run(service)
    [letter] = await vault.published("vault.dlq")
    assert letter.header("secret-fields") == "card"
    assert CARD not in (letter.header("dlq-message") or "")


async def test_a_handlers_answer_in_json_says_where_it_holds_secrets(vault: Rig, store: str) -> None:
    service = Service("vault", store=store)

    @service.on(Stored)
    async def lend(event: Stored) -> Lent:
        return Lent(id=event.id, card=event.card)

    await vault.broker.create_topics([TopicSpec("lent", 1)])
    await vault.broker.send([await _sealed(vault, Stored(id="1", card=Secret(CARD)), Keys(read_keys(KEYS)))])
    await vault.run(service)
    [lent] = await vault.published("lent")
    assert (lent.envelope.content_type, lent.header("secret-fields")) == (JSON, "card")
