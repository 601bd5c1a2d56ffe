"""Trace headers: strict, cheap, and never an error."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanContext

from choreo.tracing.headers import (
    MOST_BAGGAGE_BYTES,
    SAMPLED,
    UNSAMPLED,
    UnsampledSpan,
    format_traceparent,
    format_tracestate,
    is_sampled,
    is_unsampled,
    parse_saga_traceparent,
    parse_traceparent,
    parse_tracestate,
    replace_header,
    saga_traceparent,
    usable_baggage,
)
from choreo.tracing.ids import span_id, trace_id

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"

MALFORMED = [
    None,
    "",
    "garbage",
    GOOD.upper(),
    GOOD[:-1],
    GOOD + "0",
    GOOD + "-",
    GOOD + "-more",
    f"ff-{TRACE}-{SPAN}-01",
    f"0-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE}-{SPAN}-0x",
    f"00-{TRACE[:-1]}_-{SPAN}-01",
    f"00-{TRACE[:-1]}\u0663-{SPAN}-01",
    f"00_{TRACE}_{SPAN}_01",
    f" {GOOD}",
    f"{GOOD}\n",
    f"{GOOD},{GOOD}",
    "01" + GOOD[2:] + "0",
    "01" + GOOD[2:] + "-" + "x" * 10_000,
]


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_traceparent_is_ignored(text: str | None) -> None:
    assert parse_traceparent(text) is None
    assert parse_saga_traceparent(text) is None


@given(st.text(max_size=80))
def test_no_text_is_an_error(text: str) -> None:
    parse_traceparent(text, text)
    parse_tracestate(text)
    is_sampled(text)
    is_sampled(text.encode("utf-8", "replace"))


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (GOOD, True),
        (GOOD[:-2] + "00", False),
        (GOOD[:-2] + "03", True),
        (GOOD[:-2] + "02", False),
        ("cc" + GOOD[2:], True),
    ],
)
def test_a_traceparent_is_parsed(text: str, sampled: bool) -> None:
    context = parse_traceparent(text)
    assert context is not None
    assert f"{context.trace_id:032x}" == TRACE
    assert f"{context.span_id:016x}" == SPAN
    assert context.is_remote
    assert context.trace_flags.sampled is sampled
    assert is_sampled(text) is is_sampled(text.encode()) is sampled


def test_fields_after_those_of_a_later_version_are_skipped() -> None:
    assert parse_traceparent("cc" + GOOD[2:] + "-what-the-future-holds") is not None


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_what_is_written_is_read_back(trace: int, span: int, sampled: bool) -> None:
    context = SpanContext(trace, span, True, SAMPLED if sampled else UNSAMPLED)
    text = format_traceparent(context)
    assert parse_traceparent(text) == context
    assert is_sampled(text.encode()) is sampled


@given(st.integers(0, 255))
def test_the_flag_is_read_from_the_bytes_as_from_the_number(flags: int) -> None:
    text = f"00-{TRACE}-{SPAN}-{flags:02x}"
    assert is_sampled(text) is is_sampled(text.encode()) is bool(flags & 1)


@pytest.mark.parametrize("value", [None, "", b"", "00", b"00-"])
def test_a_short_header_is_not_sampled(value: str | bytes | None) -> None:
    assert is_sampled(value) is False


@pytest.mark.parametrize(("epoch", "sampled"), [(0, True), (0, False), (3, True)])
def test_the_sagas_header_carries_trace_root_epoch_and_decision(epoch: int, sampled: bool) -> None:
    saga = parse_saga_traceparent(saga_traceparent("staging", "fulfilment/4711~2", epoch, sampled))
    assert saga is not None
    assert saga.trace_id == trace_id("staging", "fulfilment/4711~2", epoch)
    assert saga.root_id == span_id("staging", "fulfilment/4711~2", "root")
    assert saga.sampled is sampled


def test_a_frozen_saga_traceparent() -> None:
    expected = "00-4f63c243ad9b58561e6ca4ee1414a4a3-" + f"{span_id('', 'fulfilment/4711', 'root'):016x}" + "-01"
    assert saga_traceparent("", "fulfilment/4711", 0, True) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "novalue",
        "A=1",
        "a=1,a=2",
        "a=\u00e9",
        "a=b=c",
        "a=" + "x" * 600,
        ",".join(f"k{n}=v" for n in range(33)),
        " , ",
    ],
)
def test_a_malformed_tracestate_is_left_out_without_a_log_line(text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert parse_tracestate(text) is None
        context = parse_traceparent(GOOD, text)
    assert context is not None
    assert not context.trace_state
    assert not caplog.records


def test_a_tracestate_is_kept_in_order() -> None:
    context = parse_traceparent(GOOD, "rojo=00f067aa0ba902b7, t61@congo=t61rcWkgMzE,")
    assert context is not None
    assert format_tracestate(context.trace_state) == "rojo=00f067aa0ba902b7,t61@congo=t61rcWkgMzE"
    assert format_tracestate(SpanContext(1, 1, True).trace_state) is None


def test_baggage_above_eight_kilobytes_is_dropped_whole() -> None:
    assert usable_baggage("a=1") == "a=1"
    assert usable_baggage("a=" + "x" * (MOST_BAGGAGE_BYTES - 2)) is not None
    assert usable_baggage("a=" + "x" * (MOST_BAGGAGE_BYTES - 1)) is None
    assert usable_baggage("é" * (MOST_BAGGAGE_BYTES // 2 + 1)) is None
    assert usable_baggage(None) is usable_baggage("") is None


def test_a_header_is_replaced_never_appended() -> None:
    headers = (("traceparent", b"old"), ("ce_id", b"1"), ("traceparent", b"older"))
    assert replace_header(headers, "traceparent", GOOD) == (("ce_id", b"1"), ("traceparent", GOOD.encode()))
    assert replace_header(headers, "traceparent", None) == (("ce_id", b"1"),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (saga_traceparent("", "fulfilment/4711", 0, False), True),
        (saga_traceparent("", "fulfilment/4711", 0, True), False),
        (f"00-{'a' * 32}-{'b' * 16}-02", True),
        (f"00-{'a' * 32}-{'b' * 16}-ff", False),
        (f"01-{'a' * 32}-{'b' * 16}-00", False),
        (f"00-{'0' * 32}-{'b' * 16}-00", False),
        (f"00-{'a' * 32}-{'0' * 16}-00", False),
        (f"00-{'A' * 32}-{'b' * 16}-00", False),
        (f"00-{'a' * 32}-{'b' * 16}-00\n", False),
        ("", False),
        (None, False),
    ],
)
def test_what_is_surely_unsampled_is_seen_without_parsing(text: str | None, expected: bool) -> None:
    assert is_unsampled(text) is expected
    if expected:
        context = UnsampledSpan(str(text), "a=1").get_span_context()
        assert context == parse_traceparent(text, "a=1")
        assert not context.trace_flags.sampled
        assert context.trace_state.to_header() == "a=1"
