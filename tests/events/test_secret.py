"""`Secret[...]`: what shows it, what does not, and how it travels encrypted."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretBytes, ValidationError, field_validator
from structlog.processors import JSONRenderer

from choreo import ConfigurationError, DecodeError, DefinitionError, EncodeError, Event, Secret
from choreo.events.avro import Schema
from choreo.events.codec import Codec, to_record
from choreo.events.compatibility import check_backward
from choreo.events.envelope import CLOUDEVENTS_JSON, Envelope
from choreo.events.keys import Keys, bound_to, open_keys, read_keys
from choreo.events.secret import MASK, masked, scrub, secret_paths
from choreo.events.settings import load_settings
from tests.support.registries import DictRegistry

CANARY = "4111-canary-1111"
OLD, NEW = bytes(range(32)), bytes(range(1, 33))


class Card(BaseModel):
    number: str
    pin: Secret[int]


class Paid(Event, topic="payments", key="order_id"):
    order_id: str
    card: Secret[str]
    amount: Secret[Decimal] | None = None
    notes: list[Secret[str]] = []
    cards: dict[str, Card] = {}
    whole: Secret[Card] | None = None
    either: Secret[int | str | None] = Field(default_factory=lambda: Secret(None))


class Sealed(Paid, encrypted="secrets"):
    pass


class Whole(Paid, encrypted=True):
    pass


class PaidJson(Paid, format="json"):
    pass


class SealedJson(PaidJson, encrypted="secrets"):
    pass


class WholeJson(PaidJson, encrypted=True):
    pass


ALL = [Paid, Sealed, Whole, PaidJson, SealedJson, WholeJson]
ENCRYPTED = [Sealed, Whole, SealedJson, WholeJson]


def filled(cls: type[Paid]) -> Paid:
    return cls(
        order_id="1",
        card=Secret(CANARY),
        amount=Secret(Decimal("19.9")),
        notes=[Secret(CANARY), Secret("b")],
        cards={"first": Card(number="7", pin=Secret(123456))},
        whole=Secret(Card(number=CANARY, pin=Secret(654321))),
        either=Secret(CANARY),
    )


async def coded(cls: type[Event], keys: Keys | None = None) -> Codec:
    codec = Codec(DictRegistry(), keys if keys is not None else Keys({"2026": NEW, "2025": OLD}))
    await codec.prepare([cls])
    return codec


def envelope(cls: type[Event], id_: str = "id-1") -> Envelope:
    return Envelope(id=id_, type=cls.spec().type, source="test", time=0, key="1")


# -- what shows it ----------------------------------------------------------------------------------------------------


def test_a_secret_is_shown_to_nobody_who_does_not_ask() -> None:
    event = filled(Paid)
    shown = [
        repr(event), str(event), f"{event.card} {event.card:>30} {event.amount:.2f}", event.model_dump_json(),
        str(event.model_dump()), str(event.model_dump(mode="json")), JSONRenderer()(None, "", {"event": event}),
        json.dumps(event.model_dump(), default=str), str([event.card]), repr(vars(event)),
    ]  # fmt: skip
    for text in shown:
        assert CANARY not in text and "123456" not in text and "654321" not in text and "19.9" not in text
    assert MASK in shown[0]
    assert event.card.reveal() == CANARY
    assert event.amount is not None and event.amount.reveal() == Decimal("19.9")


def test_a_secret_is_a_value_and_does_not_change() -> None:
    secret = Secret(CANARY)
    assert secret == Secret(CANARY) != Secret("other")
    assert secret != CANARY, "else a comparison would tell it apart from a text in a failed assertion"
    assert hash(secret) == hash(Secret(CANARY))
    assert pickle.loads(pickle.dumps(secret)) == copy.deepcopy(secret) == secret
    with pytest.raises(AttributeError, match="cannot be changed"):
        secret._value = "x"  # type: ignore[misc]


def test_an_error_of_validation_quotes_no_secret() -> None:
    class Strict(Event, topic="t", key="id"):
        id: str
        card: Secret[str]
        other: Secret[int] = Field(default_factory=lambda: Secret(1))

        @field_validator("card")
        @classmethod
        def refuse(cls, card: Secret[str]) -> Secret[str]:
            raise ValueError(f"not {card}")

    for wrong in (
        {"id": "1", "card": CANARY},
        {"id": "1", "card": [CANARY]},
        {"id": "1", "card": "x", "other": CANARY},
    ):
        with pytest.raises(ValidationError) as caught:
            Strict.model_validate(wrong)
        assert CANARY not in str(caught.value)
    with pytest.raises(ValidationError) as caught:
        Strict.model_validate_json(json.dumps({"id": [CANARY], "card": "x"}))
    assert CANARY not in str(caught.value)


def test_paths_name_the_places_and_a_mask_goes_there() -> None:
    assert secret_paths(Paid) == ("amount", "card", "cards.pin", "either", "notes", "whole")
    shown = masked({"card": "x", "cards": {"a": {"pin": 1, "number": 2}}, "amount": None}, secret_paths(Paid))
    assert shown == {"card": MASK, "cards": {"a": {"pin": MASK, "number": 2}}, "amount": None}


def test_what_a_library_quotes_is_scrubbed() -> None:
    event = filled(Paid)
    assert scrub(f"card {CANARY} with 123456 refused for 19.9", event) == f"card {MASK} with {MASK} refused for {MASK}"
    assert scrub("b is too short to be looked for", event) == "b is too short to be looked for"


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (Secret, "a secret of what"),
        (Secret[str] | int, "only stand beside None"),
        (Secret[str | int] | None, "a union within a secret within a union"),
        (Secret[dict], "has no Avro mapping"),
    ],
)
def test_a_secret_that_cannot_travel_is_refused_where_it_is_defined(annotation: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        type("Bad", (Event,), {"__annotations__": {"id": str, "bad": annotation}}, topic="t", key="id")


def test_a_key_is_no_secret_and_a_secret_has_no_default() -> None:
    with pytest.raises(DefinitionError, match="the key travels in the clear"):

        class BadKey(Event, topic="t", key="id"):
            id: Secret[str]

    with pytest.raises(DefinitionError, match="a secret that stands in the code is none"):

        class BadDefault(Event, topic="t", key="id"):
            id: str
            card: Secret[str] = Secret("1")


# -- how it travels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ALL)
async def test_a_secret_comes_back_as_it_was(cls: type[Paid]) -> None:
    codec = await coded(cls)
    event = filled(cls)
    record = to_record(event, envelope(cls), codec)
    content_type = dict(record.headers)["content-type"].decode()
    assert codec.decode(cls, record.value or b"", content_type, id_="id-1") == event
    opened = codec.decode_any(record.value or b"", content_type, cls.spec().type, "id-1")
    assert (opened["card"], opened["order_id"]) == (CANARY, "1")
    shown = codec.decode_any(record.value or b"", content_type, mask=True)
    if "json" not in content_type or cls.spec().encrypted:
        assert CANARY not in str(shown) and "654321" not in str(shown)
    else:
        assert dict(record.headers)["secret-fields"].decode().split(",") == list(cls.spec().secrets)
    assert to_record(event, envelope(cls), codec).value == record.value, "a copy has the same bytes"


@pytest.mark.parametrize("cls", ENCRYPTED)
async def test_what_is_encrypted_is_not_on_the_wire(cls: type[Paid]) -> None:
    codec = await coded(cls)
    value = codec.encode(filled(cls), "id-1")
    for shown in (CANARY.encode(), b"123456", b"654321", base64.b64encode(CANARY.encode())[:12]):
        assert shown not in value
    empty = cls(order_id="1", card=Secret(""))
    assert codec.decode(cls, codec.encode(empty, "2"), "", id_="2") == empty


@pytest.mark.parametrize("cls", ENCRYPTED)
async def test_what_is_encrypted_cannot_be_moved_or_changed(cls: type[Paid]) -> None:
    codec = await coded(cls)
    value = codec.encode(filled(cls), "id-1")
    with pytest.raises(DecodeError, match="does not decrypt with key '2026'"):
        codec.decode(cls, value, "", id_="id-2")
    changed = bytearray(value)
    changed[-9] ^= 1
    with pytest.raises(DecodeError):
        codec.decode(cls, bytes(changed), "", id_="id-1")
    other = Codec(codec._registry, Keys({"2026": OLD}))
    if cls.spec().format == "avro":
        await other.learn(int.from_bytes(value[1:5], "big"))
    with pytest.raises(DecodeError, match="does not decrypt"):
        other.decode(cls, value, "", id_="id-1")


def test_one_field_of_an_event_cannot_take_anothers_place() -> None:
    keys = Keys({"a": OLD})
    sealed = keys.seal(b"x", "Paid", "1", ("card",))
    assert keys.open(sealed, "Paid", "1", ("card",)) == b"x"
    for place in (("Paid", "1", ("pin",)), ("Other", "1", ("card",)), ("Paid", "2", ("card",)), ("Paid", "1", ())):
        with pytest.raises(DecodeError, match="does not decrypt"):
            keys.open(sealed, *place)


def test_the_wire_form_is_what_the_docs_say() -> None:
    sealed = Keys({"k1": OLD}).seal(b"secret", "Paid", "id-1", ("card",))
    assert (sealed[0], sealed[1], sealed[2:4]) == (1, 2, b"k1")
    assert len(sealed) == 2 + 2 + 12 + len(b"secret") + 16
    assert bound_to("Paid", "é", ("card",)).hex(" ", 4) == (
        b"\0\0\0\x10choreo-sealed/v1\0\0\0\x04Paid\0\0\0\x02\xc3\xa9\0\0\0\x04card".hex(" ", 4)
    )
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    bound = bound_to("Paid", "id-1", ("card",))
    assert AESGCM(OLD).decrypt(sealed[4:16], sealed[16:], bound) == b"secret"
    by_hand = b"\x01\x02k1" + b"n" * 12 + AESGCM(OLD).encrypt(b"n" * 12, b"theirs", bound)
    assert Keys({"k1": OLD}).open(by_hand, "Paid", "id-1", ("card",)) == b"theirs"


async def test_keys_are_rotated_by_being_put_first() -> None:
    registry = DictRegistry()
    before, after = Codec(registry, Keys({"2025": OLD, "2026": NEW})), Codec(registry, Keys({"2026": NEW, "2025": OLD}))
    for codec in (before, after):
        await codec.prepare([Sealed])
    event = filled(Sealed)
    old, new = before.encode(event, "1"), after.encode(event, "1")
    assert (b"2025" in old, b"2026" in new) == (True, True)
    for codec in (before, after):
        assert codec.decode(Sealed, old, "", id_="1") == codec.decode(Sealed, new, "", id_="1") == event
    gone = Codec(registry, Keys({"2026": NEW}))
    await gone.prepare([Sealed])
    with pytest.raises(DecodeError, match="is encrypted with key '2025', and the keys here are 2026: add it"):
        gone.decode(Sealed, old, "", id_="1")


@pytest.mark.parametrize(("before", "after"), [(Paid, Sealed), (Paid, Whole), (Sealed, Paid), (PaidJson, WholeJson)])
async def test_an_event_may_begin_or_cease_to_be_encrypted(before: type[Paid], after: type[Paid]) -> None:
    codec = await coded(before)
    old = type(before.__name__, (before,), {}, type="Paid", encrypted=before.spec().encrypted)
    new = type(after.__name__, (after,), {}, type="Paid", encrypted=after.spec().encrypted)
    await codec.prepare([old])
    value = codec.encode(filled(old), "1")
    assert codec.decode(new, value, "", id_="1").card == Secret(CANARY)


async def test_an_encrypted_event_without_a_key_is_refused_at_start() -> None:
    with pytest.raises(ConfigurationError, match="Sealed is encrypted and there is no key: set CHOREO_KEYS"):
        await coded(Sealed, Keys({}))


def test_the_schema_shows_bytes_and_says_what_to_hide() -> None:
    schema: Schema = Sealed.spec().schema or {}
    fields = {field["name"]: field["type"] for field in schema["fields"]}
    assert fields["card"] == {"type": "bytes", "encrypted": "string"}
    assert schema["secret"] == list(secret_paths(Paid))
    whole: Schema = Whole.spec().schema or {}
    assert [field["name"] for field in whole["fields"]] == ["sealed"]
    assert whole["fields"][0]["type"]["type"] == "bytes"
    assert fields["order_id"] == "string"


def test_a_changed_type_within_what_is_encrypted_is_refused() -> None:
    def schema(inner: object) -> Schema:
        field = {"name": "card", "type": {"type": "bytes", "encrypted": inner}}
        return {"type": "record", "name": "Paid", "fields": [field]}

    assert check_backward(schema("long"), schema("int")) == []
    assert "Paid.card was string and is now long" in check_backward(schema("long"), schema("string"))[0]
    clear = {"type": "record", "name": "Paid", "fields": [{"name": "card", "type": "string"}]}
    assert check_backward(schema("string"), clear) == []
    assert check_backward(Whole.spec().schema or {}, {**(Paid.spec().schema or {}), "name": "Whole"}) == []


async def test_a_value_that_does_not_fit_is_told_by_its_field() -> None:
    codec = await coded(Sealed)
    event = Sealed(order_id="1", card=Secret("x"), amount=Secret(Decimal("1e-20")))
    with pytest.raises(EncodeError, match=r"Sealed.amount does not fit in 38 digits"):
        codec.encode(event, "1")
    event = Sealed(order_id="1", card=Secret("x"), cards={"a": Card(number="1", pin=Secret(2**70))})
    with pytest.raises(EncodeError, match=r"Sealed.cards does not fit"):
        codec.encode(event, "1")


async def test_structured_events_are_decrypted_too() -> None:
    codec = await coded(SealedJson)
    data = json.loads(codec.encode(filled(SealedJson), "9"))
    value = json.dumps({"specversion": "1.0", "id": "9", "type": "SealedJson", "source": "x", "data": data}).encode()
    assert codec.decode(SealedJson, value, CLOUDEVENTS_JSON, id_="9") == filled(SealedJson)


@pytest.mark.parametrize(
    "bad", [b"", b"\x01", b"\x02\x01a" + b"x" * 40, b"\x01\xff" + b"x" * 40, b"\x01\x03k\n1" + b"x" * 40]
)
def test_malformed_ciphertext_is_told_without_a_crash(bad: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        Keys({"a": OLD}).open(bad, "Paid", "1", ("card",))
    assert "Paid.card" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "bad", [b'{"order_id":"1","card":{"$encrypted":7}}', b'{"order_id":"1","card":{"$encrypted":"%"}}']
)
async def test_malformed_json_ciphertext_is_told_without_a_crash(bad: bytes) -> None:
    codec = await coded(SealedJson)
    with pytest.raises(DecodeError):
        codec.decode(SealedJson, bad, "application/json", id_="1")


# -- where keys come from ---------------------------------------------------------------------------------------------


def provided() -> dict[str, SecretBytes]:
    return {"kms": SecretBytes(NEW)}


def raising() -> dict[str, bytes]:
    raise RuntimeError(CANARY)


def test_keys_come_from_the_settings_or_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"2026={base64.b64encode(NEW).decode()}, 2025={base64.urlsafe_b64encode(OLD).decode()}"
    settings = load_settings(keys=text)
    assert repr(open_keys(settings)) == "Keys(2026, 2025)"
    assert text[5:20] not in repr(settings)
    assert read_keys(settings.keys) == {"2026": NEW, "2025": OLD}
    assert not open_keys(load_settings())
    assert repr(open_keys(load_settings(key_provider="tests.events.test_secret:provided"))) == "Keys(kms)"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"keys": CANARY}, "entry 1 is not id=base64"),
        ({"keys": f"a={CANARY}!"}, "key 'a' is not base64"),
        ({"keys": "a=AAAA"}, "key 'a' has 3 bytes, AES-256 takes 32"),
        ({"keys": "a=AAAA,a=AAAA"}, "two keys are called 'a'"),
        ({"key_provider": "nowhere"}, "is not module:function"),
        ({"key_provider": "tests.events.test_secret:raising"}, "raised RuntimeError"),
        ({"key_provider": "tests.events.test_secret:coded", "keys": "a=AAAA"}, "are both set"),
    ],
)
def test_wrong_keys_are_told_without_showing_them(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_keys(load_settings(**settings))
    assert said in str(caught.value) and CANARY not in str(caught.value)
