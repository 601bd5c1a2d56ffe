"""The coordinator's spans: a pure function of the story, and the tree that Jaeger shows."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from choreo.events.envelope import Delivery, Envelope
from choreo.events.settings import Settings
from choreo.tracing.export import open_tracing
from choreo.tracing.headers import format_traceparent
from choreo.tracing.ids import span_id, trace_id
from choreo.tracing.place import Place
from choreo.tracing.saga_spans import SagaStory, StepStory, derived_span, end_spans, started_spans, step_spans
from choreo.tracing.spanfile import to_row
from tests.support.otlp import OtlpSink, outline
from tests.tracing.stories import BEGIN, COMPENSATED, ORIGIN, STEPS, at, message

COORDINATOR = Resource({"service.name": "saga"})
TRACE = trace_id("shop", "fulfilment/4711")


def whole(story: SagaStory) -> list[ReadableSpan]:
    spans = started_spans(story, COORDINATOR)
    for step in story.steps:
        spans += step_spans(story, step, COORDINATOR)
    return spans + end_spans(story, COORDINATOR)


def test_the_golden_tree_over_http(sink: OtlpSink, settings: Settings) -> None:
    """Five steps, a retry, a failure and its compensation, with the services' attempts: exactly this tree."""
    saga = open_tracing(settings, "saga")
    payments = open_tracing(settings, "payments")
    spans = whole(COMPENSATED)
    random.Random(7).shuffle(spans)
    place = Place("shop", "fulfilment/4711", "fulfilment", "charge", "step")
    delivery = Delivery("inventory", 0, 5, BEGIN // 1_000, b"4711", b"", ())
    reserved = Envelope("e-2", "StockReserved", "inventory", at(0.4), "4711", traceparent=message(1))
    for attempt in (1, 2):
        with pytest.raises(TimeoutError), payments.process(delivery, reserved, group="p", place=place, attempt=attempt):
            raise TimeoutError
    with payments.process(delivery, reserved, group="p", place=place, attempt=3) as run:
        out = run.send("payments", "e-3")
    out.end()
    saga.emit(spans)
    saga.emit(whole(COMPENSATED))  # a coordinator that was killed before it noted the emission emits again
    assert saga.close()
    assert payments.close()

    assert sink.outline(TRACE) == [
        "saga fulfilment [saga] ERROR -> origin",
        "  saga fulfilment started [saga] -> origin",
        "  step reserve [saga] -> trigger",
        "  step screen [saga] -> trigger",
        "  step charge [saga] -> trigger",
        "    process inventory [payments] ERROR -> message",
        "    process inventory [payments] ERROR -> message",
        "    process inventory [payments] -> message",
        "      send payments [payments]",
        "  wait cool-off [saga] -> trigger",
        "  step ship [saga] ERROR -> trigger",
        "  compensate charge [saga] -> trigger",
        "  compensate reserve [saga] -> trigger",
    ]
    assert sink.outline(ORIGIN.trace_id) == ["saga start fulfilment [saga] orphan -> saga"]
    assert len([row for row in sink.received if row.service == "saga"]) == 2 * len(spans)
    assert sink.encodings == [""] * sink.requests, "uncompressed by default"
    ids = [(row.trace_id, row.span_id) for row in sink.spans()]
    assert len(ids) == len(set(ids)), "no span id with two contents"


def test_the_root_spans_everything_and_says_how_it_ended() -> None:
    (root,) = end_spans(COMPENSATED, COORDINATOR)
    assert root.name == "saga fulfilment"
    assert root.parent is None
    assert root.context.trace_id == TRACE
    assert root.context.span_id == span_id("shop", "fulfilment/4711", "root")
    assert (root.start_time, root.end_time) == (BEGIN * 1_000, at(7.2) * 1_000)
    assert root.status.status_code is StatusCode.ERROR
    assert root.status.description == "compensated after ship"
    assert list((root.attributes or {}).items()) == [
        ("saga.id", "fulfilment/4711"),
        ("saga.type", "fulfilment"),
        ("saga.version", 3),
        ("saga.status", "compensated"),
        ("saga.epoch", 0),
        ("saga.failed_step", "ship"),
    ]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("COMPLETED", False),
        ("CANCELLED", False),
        ("COMPENSATED", True),
        ("FAILED", True),
        ("timed_out", True),
    ],
)
def test_a_root_is_an_error_if_the_saga_failed_or_was_compensated(status: str, error: bool) -> None:
    (root,) = end_spans(replace(COMPENSATED, status=status), COORDINATOR)
    assert (root.status.status_code is StatusCode.ERROR) is error
    assert (root.attributes or {})["saga.status"] == status.lower()


def test_started_has_no_length_and_names_the_running_saga() -> None:
    started, _ = started_spans(COMPENSATED, COORDINATOR)
    assert started.name == "saga fulfilment started"
    assert started.start_time == started.end_time == BEGIN * 1_000
    assert started.parent is not None
    assert started.parent.span_id == span_id("shop", "fulfilment/4711", "root")
    assert started.context.span_id == span_id("shop", "fulfilment/4711", "started")
    assert (started.attributes or {})["saga.status"] == "running"


def test_the_anchor_is_the_way_from_the_origin_to_the_saga() -> None:
    _, anchor = started_spans(COMPENSATED, COORDINATOR)
    assert anchor.name == "saga start fulfilment"
    assert anchor.context.trace_id == ORIGIN.trace_id
    assert anchor.context.span_id == span_id("shop", "fulfilment/4711", "anchor")
    assert anchor.parent is not None
    assert anchor.parent.span_id == ORIGIN.span_id
    assert anchor.start_time == anchor.end_time == BEGIN * 1_000
    assert (anchor.attributes or {})["saga.trace_id"] == f"{TRACE:032x}"
    (link,) = anchor.links
    assert (link.context.trace_id, link.context.span_id) == (TRACE, span_id("shop", "fulfilment/4711", "root"))
    assert dict(link.attributes or {}) == {"saga.link": "saga"}


@pytest.mark.parametrize("origin", [None, "garbage", message(1, sampled=False)])
def test_there_is_no_anchor_in_a_trace_that_does_not_exist(origin: str | None) -> None:
    assert [span.name for span in started_spans(replace(COMPENSATED, origin=origin), COORDINATOR)] == [
        "saga fulfilment started"
    ]


def test_a_step_runs_from_its_trigger_to_its_outcome() -> None:
    (charge,) = step_spans(COMPENSATED, STEPS[2], COORDINATOR)
    assert charge.name == "step charge"
    assert charge.context.span_id == span_id("shop", "fulfilment/4711", "step", "charge", "")
    assert (charge.start_time, charge.end_time) == ((at(0.4) + 3) * 1_000, at(3.4) * 1_000)
    assert charge.status.status_code is StatusCode.UNSET, "retried and then successful is no error"
    assert [(event.name, event.timestamp, dict(event.attributes or {})) for event in charge.events] == [
        ("saga.step.attempt_failed", at(1.0) * 1_000, {"saga.attempt": 1, "error.type": "GatewayTimeout"}),
        ("saga.step.attempt_failed", at(2.0) * 1_000, {"saga.attempt": 2, "error.type": "GatewayTimeout"}),
    ]
    assert list((charge.attributes or {}).items()) == [
        ("saga.id", "fulfilment/4711"),
        ("saga.type", "fulfilment"),
        ("saga.version", 3),
        ("saga.step", "charge"),
        ("saga.step.kind", "action"),
        ("saga.step.index", 3),
        ("saga.step.outcome", "done"),
        ("saga.step.attempts", 3),
    ]


def test_a_step_that_failed_for_good_is_an_error_with_its_class() -> None:
    (ship,) = step_spans(COMPENSATED, STEPS[4], COORDINATOR)
    assert ship.status.status_code is StatusCode.ERROR
    assert (ship.attributes or {})["error.type"] == "NoCourier"
    (silent,) = step_spans(COMPENSATED, replace(STEPS[4], failed_attempts=()), COORDINATOR)
    assert silent.status.status_code is StatusCode.ERROR
    assert "error.type" not in (silent.attributes or {})


def test_occurrences_have_spans_of_their_own_and_share_the_name() -> None:
    one, two = (step_spans(COMPENSATED, replace(STEPS[0], occurrence=each), COORDINATOR)[0] for each in ("a", "b"))
    assert one.name == two.name == "step reserve"
    assert one.context.span_id != two.context.span_id


def test_siblings_never_start_at_the_same_time() -> None:
    starts = [
        span.start_time for span in whole(COMPENSATED) if span.parent is not None and span.context.trace_id == TRACE
    ]
    assert len(starts) == len(set(starts))


def test_skew_gives_no_negative_duration() -> None:
    back = StepStory("reserve", 1, "action", at(30), at(0), "DONE", trigger="garbage")
    (span,) = step_spans(COMPENSATED, back, COORDINATOR)
    assert span.start_time == span.end_time
    assert not span.links
    (root,) = end_spans(replace(COMPENSATED, ended_at=None, steps=(back,)), COORDINATOR)
    assert root.start_time == BEGIN * 1_000
    assert root.end_time == span.end_time + 1_000, "room for the length that Jaeger gives a span without one"


def test_the_same_story_gives_the_same_bytes() -> None:
    first = encode_spans(whole(COMPENSATED)).SerializeToString(deterministic=True)
    second = encode_spans(whole(replace(COMPENSATED))).SerializeToString(deterministic=True)
    assert first == second


def test_a_span_emitted_early_is_the_one_emitted_late() -> None:
    """A step's span at its outcome, when the saga runs, is byte-identical to that of the whole story."""
    running = replace(COMPENSATED, status="running", ended_at=None, failed_step=None, steps=STEPS[:1])
    early = [*started_spans(running, COORDINATOR), *step_spans(running, STEPS[0], COORDINATOR)]
    late = [*started_spans(COMPENSATED, COORDINATOR), *step_spans(COMPENSATED, STEPS[0], COORDINATOR)]
    assert encode_spans(early) == encode_spans(late)


def test_r11_a_reopened_saga_has_a_new_trace_linked_to_the_one_before() -> None:
    again = replace(COMPENSATED, epoch=1)
    spans = whole(again)
    assert {span.context.trace_id for span in spans} == {trace_id("shop", "fulfilment/4711", 1)}
    root = spans[-1]
    assert [(link.attributes or {})["saga.link"] for link in root.links] == ["origin", "previous"]
    assert root.links[1].context.trace_id == TRACE
    assert root.links[1].context.span_id == span_id("shop", "fulfilment/4711", "root")
    assert (root.attributes or {})["saga.epoch"] == 1


def test_an_unsampled_saga_is_silent_if_it_ends_well() -> None:
    assert whole(replace(COMPENSATED, sampled=False, status="COMPLETED")) == []


def test_an_unsampled_saga_that_failed_is_told_whole_at_its_end() -> None:
    unsampled = replace(COMPENSATED, sampled=False, origin=message(9, sampled=False))
    assert started_spans(unsampled, COORDINATOR) == []
    assert step_spans(unsampled, STEPS[0], COORDINATOR) == []
    spans = end_spans(unsampled, COORDINATOR)
    rows = [row for span in spans if (row := to_row(span)) is not None]
    assert all(span.context.trace_flags.sampled for span in spans), "else the exporter would drop them"
    from choreo.tracing.tree import build_tree

    lines = outline(build_tree(rows))
    assert lines[0] == "saga fulfilment [saga] ERROR -> origin"
    assert len(lines) == 2 + len(STEPS)
    assert not any("orphan" in line for line in lines)


def test_every_span_of_ours_carries_the_sagas_id_and_no_name_carries_one() -> None:
    for span in whole(COMPENSATED):
        assert (span.attributes or {})["saga.id"] == "fulfilment/4711"
        assert "4711" not in span.name


def test_a_derived_span_is_what_its_values_say() -> None:
    span = derived_span("x", 1, 2, 3, 10, 5, resource=COORDINATOR)
    row = to_row(span)
    assert row is not None
    assert (row.parent_id, row.start, row.end, row.kind, row.attributes) == (f"{3:016x}", 10, 10, "INTERNAL", {})
    assert format_traceparent(span.context).endswith("-01")
