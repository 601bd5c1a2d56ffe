"""What a record means to a coordinator, by its topic and its type; the rest of routing is in test_core.py."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import cache

import pytest

from choreo.events.codec import Codec
from choreo.events.envelope import JSON, Delivery, Envelope
from choreo.events.errors import DecodeError, LimitExceeded
from choreo.events.event import Event
from choreo.events.failures import FAILURES_TOPIC, HandlerFailed
from choreo.events.memory import MemoryBroker
from choreo.events.registry import open_registry
from choreo.events.settings import load_settings
from choreo.saga.inputs import HandlerGaveUp, Observed, UndoAsked
from choreo.saga.instance import Parent
from choreo.saga.lock import LockPlan
from choreo.saga.occurrence import LONGEST_ELEMENT
from choreo.saga.outcomes import COMMANDS_TOPIC, MOST_DEPTH, UndoSaga
from choreo.saga.routing import MOST_ID, MOST_TRIGGERS, UNKNOWN, Arrival, Routes, Target
from tests.saga.play import LINE, define, plan

REPORT = HandlerFailed(
    key="4711",
    service="inventory",
    handler="reserve",
    event_id="e1",
    event_type="placed",
    topic="orders",
    partition=0,
    offset=7,
    dead=True,
    attempts=3,
    error_class="Boom",
    message="it broke",
)
UNDO = UndoSaga(key="4711", type="order")
FROM_PARENT = {"saga_id": "ordering/1", "saga_step": "pack", "saga_depth": 1}
SINCE = 200


@cache  # no fixture: the mutation score runs these tests without pytest
def codec() -> Codec:
    made = Codec(open_registry(load_settings(broker="memory:"), MemoryBroker("")))
    asyncio.run(made.prepare([HandlerFailed, UndoSaga]))
    return made


def routed(body: Event, topic: str, type_: str, timestamp: int = SINCE, **headers: object) -> Arrival:
    envelope = Envelope("e", type_, "svc", 7, "4711", content_type=JSON, **headers)  # type: ignore[arg-type]
    value = codec().encode(body)
    delivery = Delivery(topic, 0, 0, timestamp, b"4711", value, ())
    return Routes([LINE], {"order": SINCE * 1_000}, {}).route(delivery, envelope, codec(), {})


def test_a_report_is_what_has_its_type_and_comes_from_its_topic() -> None:
    told = routed(REPORT, FAILURES_TOPIC, "HandlerFailed")
    assert isinstance(told.input, HandlerGaveUp)
    assert (told.input.handler, told.input.attempts, told.input.dead) == ("reserve", 3, True)
    assert told.targets == (Target("order", "4711", None),)


@pytest.mark.parametrize("topic", ["aaa", FAILURES_TOPIC, COMMANDS_TOPIC, "zzz"])
@pytest.mark.parametrize("type_", ["Aaa", "HandlerFailed", "UndoSaga", "Zzz"])
def test_everything_else_is_an_event(topic: str, type_: str) -> None:
    if (topic, type_) in ((FAILURES_TOPIC, "HandlerFailed"), (COMMANDS_TOPIC, "UndoSaga")):
        return
    told = routed(REPORT, topic, type_)
    assert isinstance(told.input, Observed)
    assert (told.targets, told.reason) == ((), UNKNOWN)


def test_a_parent_undoes_a_saga_by_its_type_and_key() -> None:
    told = routed(UNDO, COMMANDS_TOPIC, "UndoSaga", **FROM_PARENT)
    assert told.input == UndoAsked("e", Parent("ordering/1", "pack", "", 1), None)
    later = routed(UNDO, COMMANDS_TOPIC, "UndoSaga", SINCE + 1, **FROM_PARENT)
    assert later.targets == told.targets
    assert told.targets == (Target("order", "4711", None),)


def test_a_parent_s_command_from_before_the_definition_means_nothing() -> None:
    early = routed(UNDO, COMMANDS_TOPIC, "UndoSaga", SINCE - 1, **FROM_PARENT)
    assert (early.targets, early.reason) == ((), "before the definition")
    stranger = routed(UndoSaga(key="1", type="parcel"), COMMANDS_TOPIC, "UndoSaga", **FROM_PARENT)
    assert (stranger.targets, stranger.reason) == ((), UNKNOWN)
    with pytest.raises(DecodeError, match="does not name the parent that asks for it"):
        routed(UNDO, COMMANDS_TOPIC, "UndoSaga")


def test_a_report_from_before_the_definition_concerns_nobody() -> None:
    assert routed(REPORT, FAILURES_TOPIC, "HandlerFailed", SINCE - 1).targets == ()
    assert routed(REPORT, FAILURES_TOPIC, "HandlerFailed", SINCE + 1).targets == (Target("order", "4711", None),)


def test_an_element_is_read_where_no_header_names_it() -> None:
    lines = plan("pack", 0, each="lines", by="sku")
    routes = Routes([define(lines)], {}, {})

    def element(**headers: object) -> str | None:
        envelope = Envelope("e", "pack.done", "svc", 7, "4711", **headers)  # type: ignore[arg-type]
        [target] = routes.observe(Delivery("topic", 0, 0, 1, b"4711", b"", ()), envelope, lambda *_: "lamp").targets
        return target.element

    named = {"saga_id": "order/4711", "saga_step": "pack", "saga_occurrence": "0f"}
    assert element() == "lamp"
    assert element(**named) is None
    for other in ({"saga_step": "a"}, {"saga_step": "z"}, {"saga_occurrence": None}, {"saga_id": "parcel/1"}):
        assert element(**{**named, **other}) == "lamp", other


def arrived(routes: Routes, type_: str, timestamp: int = 0, **headers: object) -> Arrival:
    """What an event means, whose payload says what is asked for."""
    envelope = Envelope(**{"id": "e", "type": type_, "source": "svc", "time": 7, "key": "4711", **headers})  # type: ignore[arg-type]
    delivery = Delivery("topic", 0, 0, timestamp, b"4711", b"raw", ())
    return routes.observe(delivery, envelope, lambda _, __, where: f"what {where} says")


def test_a_saga_of_which_nothing_says_since_when_it_is_has_always_been() -> None:
    assert arrived(Routes([LINE], {}, {}), "placed").targets == (Target("order", "4711", None),)
    envelope = Envelope("e", "HandlerFailed", "svc", 7, "4711")
    told = Routes([LINE], {}, {}).failure(Delivery("t", 0, 0, 0, b"", b"", ()), envelope, REPORT, {})
    assert told.targets == (Target("order", "4711", None),)


def test_the_start_of_a_saga_with_a_lock_says_which_lock() -> None:
    routes = Routes([LINE], {}, {"order": LockPlan("customer_id")})
    [target] = arrived(routes, "placed").targets
    assert target.lock == "what customer_id says"
    assert target.seen(Observed("e", "placed")).lock == "what customer_id says"
    assert arrived(routes, "reserve.done").targets == (Target("order", "4711", None),)
    parcels = Routes([LINE], {}, {"parcel": LockPlan("customer_id")})
    assert arrived(parcels, "placed").targets == (Target("order", "4711", None),)


def test_the_key_of_a_saga_may_stand_in_the_payload_in_the_record_or_be_asked_of_a_function() -> None:
    def target(where: str, asked: object = None) -> tuple[str | None, str]:
        routes = Routes([define(plan("a", 0), correlate={"a.done": where})], {}, {}, asked)  # type: ignore[arg-type]
        told = arrived(routes, "a.done")
        return next((each.key for each in told.targets), None), told.reason

    assert target("order.ref") == ("what order.ref says", "")
    assert target("key:order_id") == ("4711", "")
    assert target("call:find") == (None, "not loaded")
    assert target("call:find", {"call:order/a.done": (Event, str)}) == ("what call:order/a.done says", "")


def test_headers_about_another_saga_tell_this_one_nothing() -> None:
    said = Observed("e", "pack.done", step="pack", attempt=2, occurrence="0f", lock="ann")
    silent = Observed("e", "pack.done", lock="ann")
    assert Target("order", "1", None, named=True).seen(said) is said
    assert Target("order", "1", None).seen(said) == silent
    for one in ({"step": "pack"}, {"attempt": 2}, {"occurrence": "0f"}):
        assert Target("order", "1", None).seen(Observed("e", "pack.done", lock="ann", **one)) == silent  # type: ignore[arg-type]
    assert Target("order", "1", None).seen(silent) is silent
    by_payload = Target("order", "1", None, named=True, element="lamp").seen(said)
    assert (by_payload.step, by_payload.occurrence, by_payload.element) == ("pack", None, "lamp")


def test_the_history_keeps_the_value_as_it_came_or_as_a_decoder_has_read_it() -> None:
    routes = Routes([LINE], {}, {})
    assert arrived(routes, "placed").kept.value == b"raw"
    assert arrived(routes, "placed", value=b"{}").kept.value == b"{}"


def test_an_undo_was_empty_where_the_header_says_so_and_nowhere_else() -> None:
    routes = Routes([LINE], {}, {})
    for extra, empty in (((), False), ((("undo-empty", b""),), True), ((("a", b""), ("z", b"")), False)):
        told = arrived(routes, "reserve.undone", extra=extra).input
        assert isinstance(told, Observed)
        assert told.nothing_undone is empty


def test_a_child_is_begun_by_who_says_all_of_its_name_and_not_too_deep() -> None:
    routes = Routes([LINE], {}, {})
    told = arrived(routes, "placed", **FROM_PARENT, saga_run=2, saga_occurrence="0f").input
    assert isinstance(told, Observed)
    assert told.parent == Parent("ordering/1~2", "pack", "0f", 1)
    for missing in ("saga_id", "saga_step"):
        with pytest.raises(DecodeError, match="beside the parent's saga headers"):
            arrived(routes, "placed", **{**FROM_PARENT, missing: None})
    deepest = {**FROM_PARENT, "saga_depth": MOST_DEPTH}
    assert arrived(routes, "placed", **deepest).targets
    with pytest.raises(LimitExceeded, match=f"within {MOST_DEPTH + 1} others, at most {MOST_DEPTH} may be nested"):
        arrived(routes, "placed", **{**FROM_PARENT, "saga_depth": MOST_DEPTH + 1})
    longest = "ordering/".ljust(1_500, "1")
    assert arrived(routes, "placed", **{**FROM_PARENT, "saga_id": longest}).targets
    with pytest.raises(LimitExceeded, match="its parent's name has more than 1500 characters"):
        arrived(routes, "placed", **{**FROM_PARENT, "saga_id": longest + "1"})


def test_as_much_is_read_as_an_index_of_postgresql_holds() -> None:
    locked = Routes([LINE], {}, {"order": LockPlan("customer_id")})

    def start(key: str, lock: str) -> Arrival:
        envelope = Envelope("e", "placed", "svc", 7, key)
        return locked.observe(Delivery("topic", 0, 0, 1, b"", b"", ()), envelope, lambda *_: lock)

    assert (MOST_ID, MOST_TRIGGERS, LONGEST_ELEMENT) == (500, 150, 200)
    assert start("k" * (1_500 - len("order/")), "l" * 500).targets
    with pytest.raises(LimitExceeded, match="its key makes a saga's name of more than 1500 characters"):
        start("k" * (1_501 - len("order/")), "l")
    with pytest.raises(LimitExceeded, match="the key of its lock has 501 characters, at most 500 are read"):
        start("k", "l" * 501)
    with pytest.raises(DecodeError, match="NUL"):
        start("k", "\x00")
    each = Routes([define(plan("pack", 0, each="lines", by="sku"))], {}, {})
    envelope = Envelope("e", "pack.done", "svc", 7, "1")
    came = Delivery("topic", 0, 0, 1, b"", b"", ())
    assert each.observe(came, envelope, lambda *_: "x" * 200).targets
    with pytest.raises(LimitExceeded, match="it names an element by 201 characters, at most 200 are read"):
        each.observe(came, envelope, lambda *_: "x" * 201)


def test_who_an_event_does_not_concern_hides_nobody_whom_it_does() -> None:
    both = define(plan("pack", 0, child="packing", done=("SagaCompleted",)), correlate={"placed": "call:find"})
    other = replace(LINE, type="parcel")
    told = arrived(Routes([replace(LINE, type="early"), other], {"early": 1_000}, {}), "placed")
    assert told.targets == (Target("parcel", "4711", None),)
    told = arrived(Routes([both, other], {}, {}), "placed")
    assert told.targets == (Target("parcel", "4711", None),), "nobody can say which order it is"
    shop, mall = both, replace(both, type="mall")
    told = arrived(Routes([shop, mall], {}, {}), "SagaCompleted", saga_id="mall/1", saga_step="pack")
    assert told.targets == (Target("mall", "1", 1, named=True),)


def test_a_child_is_heard_by_the_saga_that_it_names_only() -> None:
    packing = plan("pack", 0, child="packing", done=("SagaCompleted",), failed=("SagaCancelled",))
    routes = Routes([define(packing)], {}, {})
    stranger = arrived(routes, "SagaCompleted")
    assert (stranger.targets, stranger.reason) == ((), "another saga's child")
    own = arrived(routes, "SagaCompleted", saga_id="order/9", saga_step="pack")
    assert own.targets == (Target("order", "9", 1, named=True),)
