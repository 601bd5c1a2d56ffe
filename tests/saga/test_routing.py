"""What a record means to a coordinator, by its topic and its type; the rest of routing is in test_core.py."""

from __future__ import annotations

import asyncio
from functools import cache

import pytest

from choreo.events.codec import Codec
from choreo.events.envelope import JSON, Delivery, Envelope
from choreo.events.errors import DecodeError
from choreo.events.event import Event
from choreo.events.failures import FAILURES_TOPIC, HandlerFailed
from choreo.events.memory import MemoryBroker
from choreo.events.registry import open_registry
from choreo.events.settings import load_settings
from choreo.saga.inputs import HandlerGaveUp, Observed, UndoAsked
from choreo.saga.instance import Parent
from choreo.saga.outcomes import COMMANDS_TOPIC, UndoSaga
from choreo.saga.routing import UNKNOWN, Arrival, Routes, Target
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
