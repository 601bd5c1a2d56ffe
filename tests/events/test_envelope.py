"""The envelope in headers: written once each, read strictly, and never trusted beyond its limits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo.events.envelope import (
    MOST_HEADER_BYTES,
    MOST_HEADERS,
    RESERVED,
    Delivery,
    Envelope,
    Headers,
    Heading,
    Record,
    TopicPartition,
    read_envelope,
    write_headers,
)
from choreo.events.errors import DecodeError, LimitExceeded
from choreo.events.handled import HEADER
from choreo.events.ids import derived_id

FULL = Envelope(
    id="0198f3c2-7a1e-7c40-9d53-2f61a8be0c11",
    type="OrderPlaced",
    source="shop",
    time=1_795_251_731_402_001,
    key="4711",
    content_type="application/json",
    causation_id="c-1",
    saga_id="fulfilment/4711",
    saga_type="fulfilment",
    saga_run=2,
    saga_step="reserve",
    saga_occurrence="",
    saga_attempt=0,
    saga_version=17,
    saga_depth=2,
    undoes=("e-1", "e-2"),
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    tracestate="a=b",
    baggage="k=v",
    saga_traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    extra=(("x-tenant", b"\xff"), ("x-tenant", b"2")),
)


def delivery(headers: Headers, key: bytes | None = b"4711") -> Delivery:
    return Delivery("orders", 3, 17, 1_795_251_731_402, key, b"value", headers)


def changed(**changes: bytes | None) -> Headers:
    replaced = {name.replace("_", "-") if not name.startswith("ce") else name: value for name, value in changes.items()}
    kept = [(name, value) for name, value in write_headers(FULL) if name not in replaced]
    return (*kept, *((name, value) for name, value in replaced.items() if value is not None))


def test_a_full_envelope_survives_the_wire() -> None:
    assert read_envelope(delivery(write_headers(FULL))) == FULL


def test_the_headers_are_those_of_the_contract() -> None:
    assert write_headers(FULL) == (
        ("ce_specversion", b"1.0"),
        ("ce_id", b"0198f3c2-7a1e-7c40-9d53-2f61a8be0c11"),
        ("ce_type", b"OrderPlaced"),
        ("ce_source", b"shop"),
        ("ce_time", b"2026-11-21T09:02:11.402001Z"),
        ("content-type", b"application/json"),
        ("causation-id", b"c-1"),
        ("saga-id", b"fulfilment/4711"),
        ("saga-type", b"fulfilment"),
        ("saga-step", b"reserve"),
        ("saga-occurrence", b""),
        ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", b"a=b"),
        ("baggage", b"k=v"),
        ("saga-traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("saga-run", b"2"),
        ("saga-attempt", b"0"),
        ("saga-version", b"17"),
        ("saga-depth", b"2"),
        ("undoes", b"e-1,e-2"),
        ("x-tenant", b"\xff"),
        ("x-tenant", b"2"),
    )


names = st.text("abcdefghijklmnop-", min_size=1, max_size=8)
optional = st.none() | st.text(st.characters(codec="utf-8"), max_size=20)
numbers = st.none() | st.integers(0, 9_999_999_999)


envelopes = st.builds(
    Envelope,
    id=st.text(min_size=1, max_size=40),
    type=st.text(max_size=20),
    source=st.text(min_size=1, max_size=20),
    time=st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
    key=st.text(max_size=20),
    content_type=st.sampled_from(["application/avro", "application/json"]),
    causation_id=optional,
    saga_id=optional,
    saga_type=optional,
    saga_run=numbers,
    saga_step=optional,
    saga_occurrence=optional,
    saga_attempt=numbers,
    saga_version=numbers,
    saga_depth=numbers,
    undoes=st.lists(st.text("0123456789abcdef-", min_size=1), max_size=3).map(tuple),
    traceparent=st.none() | st.text(min_size=1, max_size=60),
    tracestate=st.none() | st.text(min_size=1, max_size=60),
    saga_traceparent=st.none() | st.text(min_size=1, max_size=60),
    extra=st.lists(st.tuples(names.filter(lambda name: name not in RESERVED), st.binary(max_size=10)), max_size=4).map(
        tuple
    ),
)


@given(envelopes)
def test_every_envelope_survives_the_wire(envelope: Envelope) -> None:
    assert read_envelope(delivery(write_headers(envelope), envelope.key.encode())) == envelope


@given(envelopes, envelopes, envelopes)
def test_an_answer_has_the_headers_of_its_envelope_however_much_of_them_is_spelled_once(
    cause: Envelope, answer: Envelope, trace: Envelope
) -> None:
    envelope = Envelope(
        answer.id,
        answer.type,
        answer.source,
        answer.time,
        answer.key,
        answer.content_type,
        causation_id=cause.id,
        saga_id=cause.saga_id,
        saga_type=cause.saga_type,
        saga_run=cause.saga_run,
        saga_step=answer.saga_step,
        saga_occurrence=answer.saga_occurrence,
        traceparent=trace.traceparent,
        tracestate=trace.tracestate,
        saga_traceparent=trace.saga_traceparent,
        extra=(*answer.extra, *cause.extra),
    )
    heading = Heading(answer.type, answer.source, answer.content_type, cause.extra)
    step, occurrence = answer.saga_step, answer.saga_occurrence
    for _ in range(2):
        found = heading.answer(answer.id, answer.time, cause, step, occurrence, trace, answer.extra)
        assert found == write_headers(envelope)


def test_a_foreign_record_gets_an_envelope_from_its_place() -> None:
    envelope = read_envelope(delivery((("x", b"1"),), key=None))
    assert envelope == Envelope(
        id=derived_id("record", "orders", "3", "17"),
        type="",
        source="orders",
        time=1_795_251_731_402_000,
        key="",
        content_type="",
        extra=(("x", b"1"),),
    )


@pytest.mark.parametrize("name", sorted(RESERVED - {"traceparent", "tracestate", "baggage", "saga-traceparent"}))
def test_a_reserved_header_twice_is_refused(name: str) -> None:
    value = dict(write_headers(FULL))[name]
    with pytest.raises(DecodeError, match=f"header '{name}' stands twice"):
        read_envelope(delivery((*write_headers(FULL), (name, value))))


@pytest.mark.parametrize("name", ["traceparent", "tracestate", "baggage", "saga-traceparent"])
@pytest.mark.parametrize("value", [b"\xff", b"00-x-y-01"])
def test_a_malformed_or_double_trace_header_is_ignored(name: str, value: bytes) -> None:
    attribute = name.replace("-", "_")
    twice = read_envelope(delivery((*write_headers(FULL), (name, value))))
    assert getattr(twice, attribute) is None and twice.id == FULL.id
    bad = read_envelope(delivery(changed(**{attribute: b"\xff"})))
    assert getattr(bad, attribute) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ce_id": b"\xff"}, "header 'ce_id' is not UTF-8 text"),
        ({"saga_id": b"\xc3"}, "header 'saga-id' is not UTF-8 text"),
        ({"ce_time": b"yesterday"}, "header 'ce_time' is not an RFC 3339 time"),
        ({"ce_time": b"2026-11-21T09:02:11"}, "header 'ce_time' is not an RFC 3339 time"),
        ({"saga_run": b"-1"}, "header 'saga-run' is not a whole number"),
        ({"saga_run": b"1.5"}, "header 'saga-run' is not a whole number"),
        ({"saga_attempt": "²".encode()}, "header 'saga-attempt' is not a whole number"),
        ({"saga_version": b"9" * 11}, "header 'saga-version' is not a whole number"),
        ({"saga_version": b""}, "header 'saga-version' is not a whole number"),
    ],
)
def test_a_malformed_header_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        read_envelope(delivery(changed(**changes)))


def test_a_header_without_value_and_a_key_that_is_no_text_are_refused() -> None:
    with pytest.raises(DecodeError, match="header 'ce_id' is not UTF-8 text"):
        read_envelope(delivery((("ce_id", None),)))  # type: ignore[arg-type]
    with pytest.raises(DecodeError, match="key is not UTF-8 text"):
        read_envelope(delivery((), key=b"\xff"))
    assert read_envelope(delivery((("x", None),))).extra == (("x", None),)  # type: ignore[arg-type]


def test_too_many_or_too_large_headers_are_refused_before_anything_is_parsed() -> None:
    read_envelope(delivery((("x", b""),) * MOST_HEADERS))
    with pytest.raises(LimitExceeded, match=f"{MOST_HEADERS + 1} headers, at most {MOST_HEADERS}"):
        read_envelope(delivery((("ce_time", b"bad"),) * (MOST_HEADERS + 1)))
    read_envelope(delivery((("x", b"1" * (MOST_HEADER_BYTES - 1)),)))
    with pytest.raises(LimitExceeded, match=f"at most {MOST_HEADER_BYTES}"):
        read_envelope(delivery((("ce_time", b"bad"), ("x", b"1" * MOST_HEADER_BYTES))))


def test_a_record_knows_its_size_and_a_delivery_its_place() -> None:
    assert Record("t", b"key", b"value", (("ab", b"c"),)).size() == 11
    assert Record("t", None, None).size() == 0
    assert delivery(()).place == TopicPartition("orders", 3)


def test_the_contract_page_lists_exactly_the_reserved_headers() -> None:
    page = (Path(__file__).parents[2] / "docs" / "wire.md").read_text(encoding="utf-8")
    table = page.partition("## Headers")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)) == RESERVED | {HEADER}
