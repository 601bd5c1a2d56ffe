"""A step per element that cannot work is refused where it is defined, with step, field and remedy."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from choreo import DefinitionError, Event, Saga, any_of, step
from choreo.events.keys import Keys
from choreo.saga.building import SagaFacts
from choreo.saga.elements import Fan
from choreo.saga.instance import new_instance
from tests.saga.fans import Billed, Line, LineReleased, LineReserved, Ordered, ReleaseLine, ReserveLine, Unpaid


class Bare(BaseModel):
    name: str


class Odd(Event, topic="orders", key="order_id"):
    order_id: str
    lines: set[str]
    bare: list[Bare]
    numbers: list[float]
    total: int


class Nameless(Event, topic="inventory", key="order_id"):
    order_id: str


class Vague(Event, topic="inventory", key="order_id"):
    order_id: str
    sku: float


class Coloured(Event, topic="inventory.commands", key="order_id"):
    order_id: str
    sku: str
    colour: str


USUAL: dict[str, Any] = {"each": "lines", "by": "sku", "done": LineReserved, "undo": None, "within": "30s"}


def unannotated(saga: Any):  # type: ignore[no-untyped-def]
    return saga.started.lines


def of_bare(saga: Any) -> list[Bare]:
    return []


def without_element(saga: Any) -> ReleaseLine:
    raise AssertionError


def refused(start: type[Event] = Ordered, **options: Any) -> str:
    with pytest.raises(DefinitionError) as caught:

        class Wrong(Saga, start=start, key="order_id"):
            reserve = step(**{**USUAL, **options})

    assert caught.value.ids.get("step", "reserve") == "reserve"
    return caught.value.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"each": "line"}, "names a field 'line' that no event before it surely has (there is Ordered); add the field"),
        ({"by": None}, 'by= is missing: which field of its answers names the element?; write by="sku"'),
        ({"each": None}, 'by= names the element of each=, which is missing; add each="lines"'),
        ({"pivot": True}, "does not go with pivot=; one element could pass the point of no return"),
        ({"final": True}, "does not go with final=; a finally-step runs once"),
        ({"done": Nameless}, "by= names a field that Nameless lacks; add 'sku' to it"),
        ({"failed": Nameless}, "by= names a field that Nameless lacks"),
        ({"undo": ReleaseLine, "undone": Nameless}, "by= names a field that Nameless lacks"),
        ({"send": Nameless}, "by= names a field that Nameless lacks"),
        ({"done": Vague}, "by= names Vague.sku, which is no key; make it a str, an int or a UUID"),
        ({"each": unannotated}, "does not say what it gives; annotate it: def unannotated(saga) -> list[Line]"),
        ({"each": lambda saga: []}, "does not say what it gives; annotate it: def elements(saga) -> list[Line]"),
        ({"each": of_bare}, "gives elements of type Bare, which has no field 'sku' to tell one from another"),
        (
            {"undo": without_element, "undone": LineReleased},
            "undo= is a function that does not take the element; write def without_element(saga, element)",
        ),
        ({"send": Coloured}, "Coloured.colour cannot be filled: no event that has surely happened by then"),
    ],
)
def test_a_step_per_element_that_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    assert message in refused(**options)


@pytest.mark.parametrize(
    ("each", "message"),
    [
        ("lines", "names Odd.lines, which is no list; make it list[...] or tuple[..., ...]"),
        ("total", "names Odd.total, which is no list"),
        ("bare", "gives elements of type Bare, which has no field 'sku'"),
        ("numbers", "gives elements of type float, which is no str, int, UUID or pydantic model"),
    ],
)
def test_elements_are_a_list_of_keys_or_of_models_with_a_key(each: str, message: str) -> None:
    assert message in refused(Odd, each=each)


def test_a_step_per_element_is_neither_one_of_several_nor_replaced() -> None:
    with pytest.raises(DefinitionError, match=r"stands in any_of\(\.\.\.\) of ship; write after=reserve, which"):

        class Either(Saga, start=Ordered, key="order_id"):
            reserve = step(**USUAL)
            other = step(done=Billed, undo=None, within="1s")
            ship = step(after=any_of(reserve, other), done=Unpaid, undo=None, within="1s")

    with pytest.raises(DefinitionError, match="each= has an alternative, other; let the service"):

        class Replaced(Saga, start=Ordered, key="order_id"):
            reserve = step(**USUAL)
            other = step(instead_of=reserve, done=Billed, undo=None, within="1s")


def test_a_successor_is_not_filled_from_one_of_the_elements() -> None:
    with pytest.raises(DefinitionError, match=r"ReserveLine\.sku cannot be filled"):

        class Filled(Saga, start=Ordered, key="order_id"):
            reserve = step(**USUAL)
            again = step(after=reserve, send=ReserveLine, done=Billed, undo=None, within="1s")


def test_what_a_view_is_asked_wrongly_says_what_to_write() -> None:
    class Good(Saga, start=Ordered, key="order_id"):
        reserve = step(each="lines", by="sku", done=LineReserved, undo=None, within="30s")
        bill = step(done=Billed, undo=None, within="1s")

    view = Good(SagaFacts(new_instance(Good.definition(), "1", 1), lambda fact: Ordered(order_id="1", lines=[])))
    with pytest.raises(DefinitionError, match="runs once per element; say which"):
        view.maybe(Good.reserve)
    with pytest.raises(DefinitionError, match="runs once, so it has no elements"):
        view.maybe(Good.bill, "a")


def test_keys_of_every_kind_come_back_as_they_were() -> None:
    for item, keys in ((str, ["a", "ä b"]), (int, [1, -2]), (UUID, [UUID(int=5)])):
        fan = Fan("reserve", lambda saga, keys=keys: keys, "id", item)
        found = fan.find((), lambda: None)
        assert fan.load(fan.dump(found, Keys({}), "order/1"), Keys({}), "order/1") == found
        assert [fan.key_value(text) for text in found] == keys
    lines = Fan("reserve", lambda saga: [Line(sku="a", quantity=3)], "sku", Line)
    dumped = lines.dump(lines.find((), lambda: None), Keys({}), "order/1")
    assert lines.load(dumped, Keys({}), "order/1") == {"a": Line(sku="a", quantity=3)}
