"""What a service's spans look like, and what they cost nothing for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, Tracer, get_current_span

from choreo.events.envelope import Delivery, Envelope, Record, read_envelope, write_headers
from choreo.tracing.headers import SAMPLED, UNSAMPLED, format_traceparent, parse_traceparent, saga_traceparent
from choreo.tracing.ids import span_id, trace_id
from choreo.tracing.place import Place
from choreo.tracing.sampling import Sampling
from choreo.tracing.sends import MOST_OPEN, Sends, error_type
from choreo.tracing.spans import Tracing

DELIVERY = Delivery("orders", 3, 41, 1_000, b"4711", b"{}", ())
PLACE = Place("shop", "fulfilment/4711", "fulfilment", "reserve", "step")
CREATION = format_traceparent(SpanContext(7, 9, True, SAMPLED))
UNSAMPLED_CREATION = format_traceparent(SpanContext(7, 9, True, UNSAMPLED))


def envelope(**fields: Any) -> Envelope:
    return replace(Envelope("e-1", "OrderPlaced", "shop", 0, "4711", traceparent=CREATION), **fields)


class Rig:
    """A `Tracing` whose spans are kept, and whose started spans are counted."""

    def __init__(self, sampling: Sampling | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        tracer = self.provider.get_tracer("test")
        self.started: list[str] = []
        rig = self

        class CountingTracer(Tracer):
            def start_span(self, name: str, *args: object, **more: object) -> trace.Span:
                rig.started.append(name)
                return tracer.start_span(name, *args, **more)  # type: ignore[arg-type]

            def start_as_current_span(self, *args: object, **more: object) -> Iterator[trace.Span]:  # type: ignore[override]
                raise AssertionError("not used")

        self.tracing = Tracing(
            tracer=CountingTracer(), namespace="shop", sampling=sampling or Sampling(), clock=lambda: 1_031_000
        )

    @property
    def ended(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_handler_span_stands_under_the_derived_step_and_links_to_the_message(rig: Rig) -> None:
    with rig.tracing.process(DELIVERY, envelope(), group="inventory", place=PLACE):
        pass
    (span,) = rig.ended
    assert span.name == "process orders"
    assert span.kind is SpanKind.CONSUMER
    assert span.context.trace_id == trace_id("shop", "fulfilment/4711")
    assert span.parent is not None
    assert span.parent.span_id == span_id("shop", "fulfilment/4711", "step", "reserve", "")
    (link,) = span.links
    assert (link.context.trace_id, link.context.span_id) == (7, 9)
    assert dict(link.attributes or {}) == {"saga.link": "message"}
    assert span.status.status_code is StatusCode.UNSET


def test_a_handler_span_has_exactly_these_attributes_in_this_order(rig: Rig) -> None:
    with rig.tracing.process(DELIVERY, envelope(), group="inventory", place=PLACE, redelivered=True):
        pass
    assert list((rig.ended[0].attributes or {}).items()) == [
        ("messaging.system", "kafka"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "orders"),
        ("messaging.consumer.group.name", "inventory"),
        ("messaging.destination.partition.id", "3"),
        ("messaging.kafka.offset", 41),
        ("messaging.message.id", "e-1"),
        ("messaging.message.conversation_id", "fulfilment/4711"),
        ("saga.id", "fulfilment/4711"),
        ("saga.type", "fulfilment"),
        ("saga.step", "reserve"),
        ("saga.step.kind", "action"),
        ("saga.attempt", 1),
        ("saga.queue_ms", 31),
        ("saga.redelivered", True),
    ]


def test_a_compensation_stands_under_the_compensation_span(rig: Rig) -> None:
    with rig.tracing.process(DELIVERY, envelope(), group="g", place=replace(PLACE, kind="comp")):
        pass
    (span,) = rig.ended
    assert span.parent is not None
    assert span.parent.span_id == span_id("shop", "fulfilment/4711", "comp", "reserve", "")
    assert (span.attributes or {})["saga.step.kind"] == "compensation"


def test_a_run_outside_the_steps_stands_under_the_root(rig: Rig) -> None:
    with rig.tracing.process(DELIVERY, envelope(), group="g", place=Place("shop", "fulfilment/4711", "fulfilment")):
        pass
    (span,) = rig.ended
    assert span.parent is not None
    assert span.parent.span_id == span_id("shop", "fulfilment/4711", "root")
    assert "saga.step" not in (span.attributes or {})


def test_every_attempt_is_a_span_and_only_the_failed_one_is_an_error(rig: Rig) -> None:
    class CardDeclined(Exception):
        pass

    with pytest.raises(CardDeclined), rig.tracing.process(DELIVERY, envelope(), group="g", place=PLACE, attempt=1):
        raise CardDeclined("card 4111 1111 1111 1111")
    with rig.tracing.process(DELIVERY, envelope(), group="g", place=PLACE, attempt=2):
        pass
    first, second = rig.ended
    assert first.parent == second.parent
    assert first.status.status_code is StatusCode.ERROR
    assert str((first.attributes or {})["error.type"]).endswith("CardDeclined")
    assert second.status.status_code is StatusCode.UNSET
    assert (second.attributes or {})["saga.attempt"] == 2
    assert "saga.queue_ms" not in (second.attributes or {})  # it would be the back-off, not the queue
    assert "4111" not in first.to_json(), "the error's text may hold payload"


def test_a_failure_without_an_exception_is_marked(rig: Rig) -> None:
    with rig.tracing.process(DELIVERY, envelope(), group="g") as attempt:
        attempt.fail("CommitRefused")
    assert rig.ended[0].status.status_code is StatusCode.ERROR
    assert (rig.ended[0].attributes or {})["error.type"] == "CommitRefused"


def test_an_error_type_is_qualified_unless_it_is_a_builtin() -> None:
    assert error_type(ValueError()) == "ValueError"
    assert error_type(asyncio.CancelledError()) == "asyncio.exceptions.CancelledError"


async def test_the_users_own_spans_nest_across_awaits_and_tasks_do_not_mix(rig: Rig) -> None:
    own = rig.provider.get_tracer("user")

    async def handle(key: str) -> None:
        place = replace(PLACE, saga_id=f"fulfilment/{key}")
        with rig.tracing.process(DELIVERY, envelope(), group="g", place=place):
            await asyncio.sleep(0)
            with own.start_as_current_span(f"query {key}"):
                await asyncio.sleep(0)

    await asyncio.gather(*(handle(str(n)) for n in range(5)))
    assert not get_current_span().get_span_context().is_valid
    for key in range(5):
        (query,) = [span for span in rig.ended if span.name == f"query {key}"]
        assert query.context.trace_id == trace_id("shop", f"fulfilment/{key}")
        (process,) = [
            s for s in rig.ended if s.name == "process orders" and s.context.trace_id == query.context.trace_id
        ]
        assert query.parent is not None
        assert query.parent.span_id == process.context.span_id


def test_ruling_12_other_sagas_of_the_run_are_linked(rig: Rig) -> None:
    other = Place("shop", "loyalty/4711", "loyalty", "points", "step")
    with rig.tracing.process(DELIVERY, envelope(), group="g", place=replace(PLACE, others=(other,))):
        pass
    saga = rig.ended[0].links[1]
    assert dict(saga.attributes or {}) == {"saga.link": "saga"}
    assert saga.context.trace_id == trace_id("shop", "loyalty/4711")
    assert saga.context.span_id == span_id("shop", "loyalty/4711", "step", "points", "")


def test_without_a_saga_the_creation_context_is_parent_and_link(rig: Rig) -> None:
    with rig.tracing.process(DELIVERY, envelope(), group="g"):
        pass
    (span,) = rig.ended
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (7, 9)
    assert [dict(link.attributes or {}) for link in span.links] == [{"saga.link": "message"}]
    assert "saga.id" not in (span.attributes or {})


@pytest.mark.parametrize("text", [None, "", "garbage", "0x" + CREATION, CREATION + "-x"])
def test_without_a_usable_context_a_new_trace_begins(rig: Rig, text: str | None) -> None:
    with rig.tracing.process(DELIVERY, envelope(traceparent=text), group="g"):
        pass
    (span,) = rig.ended
    assert span.parent is None
    assert not span.links


def test_on_an_untrusted_topic_nothing_becomes_a_parent(rig: Rig) -> None:
    forged = envelope(saga_id="fulfilment/4711", saga_traceparent=saga_traceparent("shop", "fulfilment/4711", 0, False))
    with rig.tracing.process(DELIVERY, forged, group="g", place=PLACE, trusted=False) as attempt:
        out = attempt.send("inventory", "e-2")
    process = next(span for span in rig.ended if span.name == "process orders")
    assert process.parent is None
    assert process.context.trace_id not in (7, trace_id("shop", "fulfilment/4711"))
    assert [(link.attributes or {})["saga.link"] for link in process.links] == ["message", "saga"]
    assert out.saga_traceparent is None


def test_the_epoch_and_decision_of_the_header_win(rig: Rig) -> None:
    header = saga_traceparent("shop", "fulfilment/4711", 2, True)
    given = envelope(saga_id="fulfilment/4711", saga_traceparent=header, traceparent=UNSAMPLED_CREATION)
    with rig.tracing.process(DELIVERY, given, group="g", place=PLACE) as attempt:
        assert attempt.sampled
        assert attempt.send("inventory", "e-2").saga_traceparent == header
    assert rig.ended[0].context.trace_id == trace_id("shop", "fulfilment/4711", 2)


def test_a_header_of_another_saga_is_not_taken_for_this_one(rig: Rig) -> None:
    other = saga_traceparent("shop", "loyalty/1", 0, False)
    with rig.tracing.process(DELIVERY, envelope(saga_traceparent=other), group="g", place=PLACE):
        pass
    assert rig.ended[0].context.trace_id == trace_id("shop", "fulfilment/4711")
    own = saga_traceparent("shop", "fulfilment/4711", 1, True)
    with rig.tracing.process(DELIVERY, envelope(saga_traceparent=own), group="g", place=PLACE):
        pass
    assert rig.ended[1].context.trace_id == trace_id("shop", "fulfilment/4711", 1)


@pytest.mark.parametrize("hop", [None, "", "garbage", UNSAMPLED_CREATION])
def test_a_legacy_hop_that_strips_or_rewrites_headers_keeps_the_saga_whole(rig: Rig, hop: str | None) -> None:
    with rig.tracing.process(
        DELIVERY, envelope(traceparent=hop, saga_traceparent=hop and hop.upper()), group="g", place=PLACE
    ):
        pass
    assert rig.ended[0].context.trace_id == trace_id("shop", "fulfilment/4711")


def test_two_traceparents_count_as_none(rig: Rig) -> None:
    headers = (*write_headers(envelope()), ("traceparent", CREATION.encode()))
    read = read_envelope(DELIVERY._replace(headers=headers))
    with rig.tracing.process(DELIVERY, read, group="g", place=PLACE):
        pass
    assert not rig.ended[0].links


def test_skewed_clocks_give_no_negative_queue_time(rig: Rig) -> None:
    with rig.tracing.process(DELIVERY._replace(timestamp=31_000), envelope(), group="g"):
        pass
    assert "saga.queue_ms" not in (rig.ended[0].attributes or {})


class TestUnsampled:
    """An unsampled saga costs no span of the SDK, and what handlers do under it is not sampled either."""

    header = saga_traceparent("shop", "fulfilment/4711", 0, False)

    def test_no_span_is_made(self, rig: Rig) -> None:
        given = envelope(saga_id="fulfilment/4711", saga_traceparent=self.header)
        with rig.tracing.process(DELIVERY, given, group="g", place=PLACE) as attempt:
            assert not attempt.sampled
            out = attempt.send("inventory", "e-2")
        assert rig.started == []
        assert (out.traceparent, out.saga_traceparent) == (self.header, self.header)

    def test_no_span_is_made_where_the_message_is_unsampled_and_no_saga_known(self, rig: Rig) -> None:
        given = envelope(traceparent=UNSAMPLED_CREATION, tracestate="a=1")
        with rig.tracing.process(DELIVERY, given, group="g") as attempt:
            out = attempt.send("inventory", "e-2")
        assert rig.started == []
        assert (out.traceparent, out.tracestate, out.saga_traceparent) == (UNSAMPLED_CREATION, "a=1", None)

    def test_the_users_own_spans_are_not_sampled(self, rig: Rig) -> None:
        own = rig.provider.get_tracer("user")
        given = envelope(saga_id="fulfilment/4711", saga_traceparent=self.header)
        with (
            pytest.raises(ValueError),
            rig.tracing.process(DELIVERY, given, group="g", place=PLACE),
            own.start_as_current_span("query") as span,
        ):
            assert span.get_span_context().trace_id == trace_id("shop", "fulfilment/4711")
            raise ValueError
        assert rig.ended == []

    def test_a_ratio_decides_where_no_header_does_and_all_services_agree(self) -> None:
        few, also, more = (Rig(Sampling(ratio)) for ratio in (0.1, 0.1, 0.4))
        sampled: dict[int, list[bool]] = {}
        for number in range(400):
            place = replace(PLACE, saga_id=f"fulfilment/{number}")
            for rig in (few, also, more):
                with rig.tracing.process(DELIVERY, envelope(traceparent=None), group="g", place=place) as attempt:
                    sampled.setdefault(number, []).append(attempt.sampled)
        assert all(a == b and (c or not a) for a, b, c in sampled.values())
        assert 15 < sum(a for a, _, _ in sampled.values()) < 70

    def test_the_first_services_decision_is_carried_on(self) -> None:
        rig = Rig(Sampling(0.0))
        with rig.tracing.process(DELIVERY, envelope(traceparent=None), group="g", place=PLACE) as attempt:
            out = attempt.send("inventory", "e-2")
        assert out.saga_traceparent == self.header
        with rig.tracing.process(DELIVERY, envelope(), group="g", place=PLACE) as attempt:
            assert attempt.sampled, "a sampled origin makes the saga sampled"


class TestSend:
    def test_it_stands_under_the_handler_and_its_context_goes_out(self, rig: Rig) -> None:
        with rig.tracing.process(DELIVERY, envelope(), group="g", place=PLACE) as attempt:
            pass
        out = attempt.send("inventory", "e-2")  # outputs are often known only after the handler returned
        out.end()
        process, send = rig.ended
        assert (send.name, send.kind) == ("send inventory", SpanKind.PRODUCER)
        assert send.parent is not None
        assert send.parent.span_id == process.context.span_id
        assert parse_traceparent(out.traceparent) == SpanContext(
            send.context.trace_id, send.context.span_id, True, SAMPLED
        )
        assert list((send.attributes or {}).items()) == [
            ("messaging.system", "kafka"),
            ("messaging.operation.name", "send"),
            ("messaging.operation.type", "send"),
            ("messaging.destination.name", "inventory"),
            ("messaging.message.id", "e-2"),
            ("messaging.message.conversation_id", "fulfilment/4711"),
            ("saga.id", "fulfilment/4711"),
        ]

    def test_it_ends_with_the_brokers_acknowledgement(self, rig: Rig) -> None:
        sent = rig.tracing.send("inventory", "e-1")
        assert sent.tracestate is None
        record = Record("inventory", b"4711", b"{}", write_headers(envelope(traceparent=sent.traceparent)))
        foreign = Record("inventory", None, None, (("traceparent", CREATION.encode()),))
        rig.tracing.acknowledged([foreign, Record("inventory", None, None)])
        assert rig.ended == []
        rig.tracing.acknowledged([record])
        rig.tracing.acknowledged([record])
        assert [span.name for span in rig.ended] == ["send inventory"]
        assert sum(name == "traceparent" for name, _ in record.headers) == 1

    def test_it_stands_under_the_current_span_of_the_application(self, rig: Rig) -> None:
        with rig.provider.get_tracer("web").start_as_current_span("POST /checkout") as request:
            rig.tracing.send("orders", "e-1").end()
        assert rig.ended[0].parent == request.get_span_context()

    def test_it_begins_a_trace_where_there_is_no_current_span(self, rig: Rig) -> None:
        rig.tracing.send("orders", "e-1").end()
        assert rig.ended[0].parent is None

    def test_it_can_stand_under_a_given_parent(self, rig: Rig) -> None:
        rig.tracing.send("orders", "e-1", saga_id="x/1", parent=SpanContext(5, 6, True, SAMPLED)).end()
        assert rig.ended[0].context.trace_id == 5

    def test_a_discarded_send_leaves_nothing(self, rig: Rig) -> None:
        out = rig.tracing.send("orders", "e-1")
        out.discard()
        out.end()
        rig.tracing.close()
        assert rig.ended == []

    def test_a_failed_send_is_an_error(self, rig: Rig) -> None:
        rig.tracing.send("orders", "e-1").end(TimeoutError("no answer"))
        assert rig.ended[0].status.status_code is StatusCode.ERROR
        assert (rig.ended[0].attributes or {})["error.type"] == "TimeoutError"

    def test_an_unsampled_parent_makes_no_span(self, rig: Rig) -> None:
        out = rig.tracing.send("orders", "e-1", parent=SpanContext(7, 9, True, UNSAMPLED))
        assert rig.started == []
        assert out.traceparent == UNSAMPLED_CREATION

    def test_a_trace_that_the_sampler_drops_is_carried_as_unsampled(self, rig: Rig) -> None:
        sends = Sends(TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("off"))
        out = sends.open("orders", "e-1", trace.INVALID_SPAN_CONTEXT)
        context = parse_traceparent(out.traceparent)
        assert context is not None
        assert not context.trace_flags.sampled

    def test_open_sends_are_bounded_and_end_at_the_close(self, rig: Rig) -> None:
        for number in range(MOST_OPEN + 3):
            rig.tracing.send("orders", str(number))
        assert [(span.attributes or {})["messaging.message.id"] for span in rig.ended] == ["0", "1", "2"]
        assert rig.tracing.close()
        assert len(rig.ended) == MOST_OPEN + 3


def test_switched_off_it_only_passes_the_context_on() -> None:
    tracing = Tracing()
    assert not tracing.enabled
    assert not tracing.emits
    header = saga_traceparent("shop", "fulfilment/4711", 0, True)
    given = envelope(saga_traceparent=header, tracestate="a=1")
    with tracing.process(DELIVERY, given, group="g", place=PLACE) as attempt:
        assert not get_current_span().get_span_context().is_valid
        out = attempt.send("inventory", "e-2")
        attempt.fail("X")
    assert (out.traceparent, out.tracestate, out.saga_traceparent) == (CREATION, "a=1", header)
    assert tracing.send("orders", "e-1").traceparent is None
    assert tracing.flush()
    assert tracing.close()
    assert tracing.resource.attributes == {}
