"""The pure decisions around `advance`: in which order, until when all was read, whom an event concerns, how fast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from choreo.events.catalog import EventRef, HandlerAnnouncement, ServiceAnnouncement
from choreo.events.clock import SECOND
from choreo.events.envelope import Delivery, Envelope, TopicPartition
from choreo.events.errors import ConfigurationError, DecodeError, LimitExceeded
from choreo.events.failures import HandlerFailed
from choreo.events.partitioner import partition_for
from choreo.saga.advance import begin
from choreo.saga.barrier import ReadBarrier, answered_until, read_until
from choreo.saga.definition import RetryPlan
from choreo.saga.inputs import HandlerGaveUp, Observed
from choreo.saga.names import is_saga_type, kebab_case, parse_saga_id, saga_id
from choreo.saga.ordering import in_order
from choreo.saga.rate import Rate
from choreo.saga.routing import FAILURES, MOST_ID, MOST_TRIGGERS, UNDO_EMPTY, UNKNOWN, Routes, Target, triggers
from tests.saga.play import LINE, define, plan

ONE, TWO, THREE = (TopicPartition("topic", number) for number in range(3))


# ---- order -----------------------------------------------------------------------------------------------------------


def arrived(id_: str, time: int, place: TopicPartition = ONE, cause: str | None = None) -> tuple[Delivery, Envelope]:
    delivery = Delivery(place.topic, place.partition, 0, 0, b"k", b"v", ())
    return delivery, Envelope(id_, "type", "source", time, "k", causation_id=cause)


def order_of(*batch: tuple[Delivery, Envelope]) -> str:
    return "".join(envelope.id for _, envelope in in_order(batch))


def test_ruling_8_partitions_are_merged_by_time() -> None:
    assert order_of(arrived("b", 2, ONE), arrived("d", 4, ONE), arrived("a", 1, TWO), arrived("c", 3, TWO)) == "abcd"


def test_ruling_8_the_order_within_a_partition_stays_whatever_the_times_say() -> None:
    assert order_of(arrived("a", 9, ONE), arrived("b", 1, ONE)) == "ab"
    assert order_of(arrived("a", 9, ONE), arrived("b", 1, ONE), arrived("c", 5, TWO)) == "cab"


def test_ruling_8_at_one_time_the_partitions_have_an_order_of_their_own() -> None:
    assert order_of(arrived("b", 1, TWO), arrived("a", 1, ONE), arrived("c", 1, TWO)) == "abc"


def test_ruling_8_causes_come_before_what_they_led_to() -> None:
    assert order_of(arrived("b", 1, ONE, "a"), arrived("x", 2, ONE), arrived("a", 3, TWO)) == "xab"
    assert order_of(arrived("c", 1, ONE, "b"), arrived("b", 2, TWO, "a"), arrived("a", 3, THREE)) == "abc"
    assert order_of(arrived("b", 1, ONE, "a"), arrived("c", 2, TWO, "a"), arrived("a", 3, THREE)) == "abc"


def test_ruling_8_a_cause_that_is_not_in_the_batch_or_came_before_holds_nothing_up() -> None:
    assert order_of(arrived("a", 1, ONE, "elsewhere"), arrived("b", 2, ONE, "a"), arrived("c", 3, ONE, "a")) == "abc"
    assert order_of(arrived("a", 1, ONE, "a"), arrived("b", 2, ONE)) == "ab"


def test_ruling_8_a_circle_of_causes_is_nonsense_but_nothing_is_dropped() -> None:
    batch = (arrived("a", 1, ONE, "c"), arrived("b", 2, TWO, "a"), arrived("c", 3, THREE, "b"), arrived("d", 4, ONE))
    assert sorted(order_of(*batch)) == list("abcd")


# ---- the barrier -----------------------------------------------------------------------------------------------------


def test_ruling_1_a_partition_is_read_until_the_time_at_which_its_end_was_asked_for() -> None:
    barrier = ReadBarrier()
    barrier.assign([ONE, TWO], {ONE: 5})
    assert barrier.until() == {ONE: 5, TWO: 0}
    assert barrier.wants_ends()
    barrier.mark({ONE: 10, TWO: 3, THREE: 1}, 100)
    assert barrier.unread() == {ONE: (10, 100), TWO: (3, 100)}, "the third is not ours"
    barrier.advance({ONE: 9, TWO: 3, THREE: 9})
    assert barrier.until() == {ONE: 5, TWO: 100}
    assert not barrier.wants_ends()
    barrier.advance({ONE: 10})
    assert barrier.until() == {ONE: 100, TWO: 100}
    assert barrier.wants_ends()


def test_ruling_1_a_partition_is_never_read_less_far_than_before() -> None:
    barrier = ReadBarrier()
    barrier.assign([ONE], {ONE: 500})
    barrier.mark({ONE: 1}, 100)
    barrier.advance({ONE: 2})
    assert barrier.until() == {ONE: 500}
    barrier.mark({ONE: 3}, 600)
    barrier.assign([ONE], {ONE: 500})
    assert barrier.wants_ends(), "after a rebalance the marks are void"


def test_ruling_1_what_another_coordinator_has_read_counts_too() -> None:
    saved, own = {ONE: 5, TWO: 7}, {ONE: 6, TWO: 2}
    assert read_until(["topic", "unknown"], {"topic": 3}, saved, own, 9) == {ONE: 6, TWO: 7, THREE: 0}
    assert read_until(["topic"], {"topic": 3}, saved, own, 6) == {ONE: 6, TWO: 6, THREE: 0}, (
        "then there may be a fourth"
    )


class Standing(NamedTuple):
    """Topics that always had as many partitions as they have."""

    counts: Mapping[str, int]

    def places(self, topic: str, key: str) -> Iterable[int]:
        return (partition_for(key.encode(), self.counts[topic]),)


def test_ruling_1_every_partition_that_can_carry_an_answer_counts() -> None:
    spread = {"placed": "orders", "a.done": "stock", "a.failed": "stock", "a.undone": "topic"}
    definition = replace(define(plan("a", 0)), topics=spread)
    instance = begin(LINE, "4711", 1, Observed("s", "placed"), 1).instance
    counts = {"orders": 4, "stock": 4, "topic": 4, FAILURES: 4}
    mine = partition_for(b"4711", 4)
    everywhere = {TopicPartition(topic, number): 50 for topic in counts for number in range(4)}
    where = Standing(counts)
    assert answered_until(definition, instance, everywhere, where) == 50
    for topic in sorted({*definition.consumed_topics, FAILURES}):
        assert answered_until(definition, instance, {**everywhere, TopicPartition(topic, mine): 9}, where) == 9
    other = TopicPartition(FAILURES, (mine + 1) % 4)
    assert answered_until(definition, instance, {**everywhere, other: 9}, where) == 50, "no answer of it lies there"


# ---- the rate --------------------------------------------------------------------------------------------------------


def test_ruling_1_a_bucket_holds_one_second_of_commands_and_fills_again() -> None:
    rate = Rate(4)
    ids = [f"c{number}" for number in range(10)]
    now = 1_000 * SECOND
    waiting = rate.hold_back(ids, now)
    assert waiting == {f"c{number}": now + (number - 3) * SECOND // 4 for number in range(4, 10)}
    assert rate.hold_back(["d"], now) == {"d": now + 7 * SECOND // 4}
    assert rate.hold_back(["e"], now + 2 * SECOND) == {}
    assert rate.hold_back(["f"], now + 2 * SECOND + SECOND // 4) == {}
    assert Rate(4).hold_back([], now) == {}


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("fulfilment/4711", ("fulfilment", "4711", 1)),
        ("order-fulfilment/a%2Fb~12", ("order-fulfilment", "a/b", 12)),
        ("a/b%20c", ("a", "b c", 1)),
    ],
)
def test_a_name_is_read_as_it_is_written(text: str, parts: tuple[str, str, int]) -> None:
    name = parse_saga_id(text)
    assert name == parts
    assert name.id == saga_id(*parts) == text


@pytest.mark.parametrize("text", ["", "fulfilment", "fulfilment/", "/4711", "Fulfilment/1", "a/b~", "a/b~x", "a/b~-1"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not the name of a saga; write type/key"):
        parse_saga_id(text)


def test_a_type_is_lower_case_words() -> None:
    assert [is_saga_type(each) for each in ("a", "order-2", "Order", "2nd", "a--b", "a-", "a_b")] == [True, True] + [
        False
    ] * 5
    assert [kebab_case(each) for each in ("OrderFulfilment", "HTTPOrder", "Order_2", "Order2Go")] == [
        "order-fulfilment",
        "http-order",
        "order-2",
        "order2-go",
    ]


# ---- whom an event concerns ------------------------------------------------------------------------------------------


def event(type_: str, **options: Any) -> Envelope:
    return Envelope(**{"id": "e", "type": type_, "source": "shop", "time": 7, "key": "4711", **options})


def came(envelope: Envelope, timestamp: int = 100) -> Delivery:
    return Delivery("topic", 0, 0, timestamp, envelope.key.encode(), b"value", ())


def unread(*_: object) -> str:
    raise AssertionError("the payload stays closed")


def targets_of(routes: Routes, envelope: Envelope, timestamp: int = 100) -> list[Target]:
    return list(routes.observe(came(envelope, timestamp), envelope, unread).targets)


def test_an_event_concerns_the_saga_of_its_key() -> None:
    routes = Routes([LINE], {}, {})
    assert targets_of(routes, event("reserve.done")) == [Target("order", "4711", None)]


def test_everything_that_an_event_says_of_itself_is_observed() -> None:
    envelope = event(
        "reserve.undone",
        causation_id="c",
        saga_id="order/4711",
        saga_run=2,
        saga_step="reserve",
        saga_attempt=3,
        saga_occurrence="o",
        traceparent="t",
        extra=((UNDO_EMPTY, b"1"),),
    )
    arrival = Routes([LINE], {}, {}).observe(came(envelope), envelope, unread)
    assert arrival.input == Observed("e", "reserve.undone", "shop", 7, "c", "reserve", 3, "t", True, occurrence="o")
    assert arrival.targets == (Target("order", "4711", 2, named=True),)
    assert arrival.reason == ""
    plain = Routes([LINE], {}, {}).observe(came(event("placed")), event("placed"), unread).input
    assert plain == Observed("e", "placed", "shop", 7)


def test_an_event_that_nobody_names_concerns_nobody_and_says_why() -> None:
    routes = Routes([LINE], {"order": 200_000}, {})
    stranger, ours = event("stranger"), event("reserve.undo")
    assert routes.observe(came(stranger), stranger, unread).reason == UNKNOWN
    assert routes.observe(came(ours), ours, unread).reason == "produced by choreo"
    early = routes.observe(came(event("placed"), 199), event("placed"), unread)
    assert (early.targets, early.reason) == ((), "before the definition")
    assert targets_of(routes, event("placed"), 200) == [Target("order", "4711", None)], "ruling 2: from then on"


def test_ruling_12_the_header_decides_only_for_the_type_that_it_names() -> None:
    routes = Routes([LINE], {}, {})
    for name, target in [
        ("order/other", Target("order", "other", 1, named=True)),
        ("order/other~3", Target("order", "other", 3, named=True)),
        ("parcel/other", Target("order", "4711", None)),
        ("basket/other", Target("order", "4711", None)),
        ("nonsense", Target("order", "4711", None)),
    ]:
        assert targets_of(routes, event("reserve.done", saga_id=name)) == [target]


def test_a_start_event_begins_the_saga_of_its_own_key() -> None:
    routes = Routes([LINE], {}, {})
    for other in ("order/parent", "order/1"):
        assert targets_of(routes, event("placed", saga_id=other)) == [Target("order", "4711", None)]
    assert targets_of(routes, event("placed", saga_id="order/4711~2")) == [Target("order", "4711", 2, named=True)]


def test_the_newest_version_that_names_an_event_says_where_its_key_is() -> None:
    old = define(plan("a", 0), correlate={"a.done": "ref"})
    new = define(plan("a", 0), plan("b", 1))
    object.__setattr__(new, "version", 2)
    routes = Routes([new, old], {}, {})
    assert targets_of(routes, event("a.done")) == [Target("order", "4711", None)]
    read = Routes([old], {}, {}).observe(came(event("a.done")), event("a.done"), lambda d, e, field: f"by {field}")
    assert read.targets == (Target("order", "by ref", None),)
    assert targets_of(routes, event("b.done")) == [Target("order", "4711", None)]


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"key": ""}, DecodeError, "has no key"),
        ({"id": "a\x00b"}, DecodeError, "NUL"),
        ({"key": "a\x00b"}, DecodeError, "NUL"),
        ({"causation_id": "\x00"}, DecodeError, "NUL"),
        ({"content_type": "\x00"}, DecodeError, "NUL"),
        (
            {"id": "x" * (MOST_ID + 1)},
            LimitExceeded,
            f"its id has {MOST_ID + 1} characters, at most {MOST_ID}",
        ),
        ({"key": "ü" * 500}, LimitExceeded, "its key makes a saga's name of more than 1500 characters"),
    ],
)
def test_what_no_store_can_keep_is_refused(wrong: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        targets_of(Routes([LINE], {}, {}), event("placed", **wrong))
    assert targets_of(Routes([LINE], {}, {}), event("placed", id="x" * MOST_ID, key="k" * 1_400))


CATALOG = {
    "stock": ServiceAnnouncement(
        service="stock",
        group="stock",
        handlers=[
            HandlerAnnouncement(
                name=name, consumes=[], produces=[EventRef(type=made, topic="t")], undoes=None, claims=False
            )
            for name, made in (("reserve", "reserve.done"), ("other", "other.done"), ("tell", "told"))
        ],
    )
}


def failed(event_type: str = "placed", key: str = "4711", service: str = "stock") -> HandlerFailed:
    values = {name: "x" for name, info in HandlerFailed.model_fields.items() if info.annotation is str}
    given = {
        **values,
        "service": service,
        "handler": "reserve",
        "event_id": "e1",
        "event_type": event_type,
        "key": key,
        "dead": True,
        "error_class": "Boom",
        "message": "no",
        "attempts": 5,
    }
    return HandlerFailed.model_construct(**given)


def test_ruling_14_a_report_concerns_the_saga_of_the_event_and_says_what_its_handler_makes() -> None:
    envelope = event("HandlerFailed", traceparent="t")
    routes = Routes([LINE], {"order": 200_000}, {})
    arrival = routes.failure(came(envelope, 200), envelope, failed(), CATALOG)
    assert arrival.targets == (Target("order", "4711", None),)
    assert arrival.input == HandlerGaveUp(
        "e", "e1", "placed", "stock", "reserve", ("reserve.done",), True, "Boom", "no", 5, "t", "x"
    )
    assert arrival.reason == ""
    for report, timestamp in ((failed("stranger"), 200), (failed(key=""), 200), (failed(), 199)):
        nobody = routes.failure(came(envelope, timestamp), envelope, report, CATALOG)
        assert (nobody.targets, nobody.reason) == ((), "no saga")
    unknown = routes.failure(came(envelope, 200), envelope, failed(service="nobody"), CATALOG)
    assert isinstance(unknown.input, HandlerGaveUp)
    assert unknown.input.produces == ()
    named = event("HandlerFailed", saga_id="order/9~2")
    assert routes.failure(came(named, 200), named, failed(key=""), CATALOG).targets == (
        Target("order", "9", 2, named=True),
    )


def test_ruling_5_an_undo_names_what_may_have_triggered_its_step() -> None:
    facts = [("placed", "1"), ("reserve.done", "2"), ("", "3"), ("placed", "1"), ("other", "4")]
    assert triggers(facts, frozenset(("placed",)), None) == ("1", "3")
    assert triggers(facts, frozenset(("placed",)), frozenset(("reserve.done", "other"))) == ("2", "3", "4")
    many = [("placed", str(number)) for number in range(MOST_TRIGGERS + 5)]
    assert triggers(many, frozenset(("placed",)), None)[0] == "5"
    assert len(triggers(many, frozenset(("placed",)), None)) == MOST_TRIGGERS


# ---- pauses ----------------------------------------------------------------------------------------------------------


def test_pauses_double_up_to_the_longest() -> None:
    pauses = RetryPlan(attempts=9, first=3, most=20)
    assert [pauses.pause(number) for number in range(1, 6)] == [3, 6, 12, 20, 20]
    assert RetryPlan(first=1, most=1 << 60).pause(10_000) == 1 << 40
