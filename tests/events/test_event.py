"""An event class is checked where it is defined, with a line that names the field and the remedy."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, RootModel, ValidationError

from choreo.events.errors import DefinitionError, MissingKey
from choreo.events.event import Event


class Region(StrEnum):
    NORTH = "north"
    SOUTH = "south"


class Plain(Enum):
    ONE = 1


class OrderPlaced(Event, topic="orders", key="order_id"):
    order_id: str
    total: Decimal


def test_a_class_knows_its_place_on_the_wire() -> None:
    spec = OrderPlaced.spec()
    assert (spec.type, spec.topic, spec.key, spec.format, spec.name) == (
        "OrderPlaced",
        "orders",
        "order_id",
        "avro",
        "OrderPlaced",
    )
    assert spec.schema is not None and spec.schema["name"] == "OrderPlaced"


def test_events_cannot_be_changed() -> None:
    event = OrderPlaced(order_id="1", total=Decimal("1.5"))
    with pytest.raises(ValidationError):
        event.order_id = "2"  # type: ignore[misc]


def test_topic_and_key_and_format_are_inherited_but_type_is_not() -> None:
    class OfOrder(Event, key="order_id", topic="orders", type="order.v1", format="json"):
        order_id: str

    class Shipped(OfOrder):
        parcel: str

    spec = Shipped.spec()
    assert (spec.type, spec.topic, spec.key, spec.format, spec.schema) == (
        "Shipped",
        "orders",
        "order_id",
        "json",
        None,
    )
    assert OfOrder.spec().type == "order.v1"


def test_a_base_without_topic_is_abstract_and_says_so_when_used() -> None:
    class Base(Event, key="order_id"):
        order_id: str

    class Paid(Base, topic="payments"): ...

    assert Paid.spec().key == "order_id"
    with pytest.raises(DefinitionError, match=r'Base has no topic.*topic="\.\.\."'):
        Base.spec()


def test_the_type_may_hold_what_avro_names_may_not() -> None:
    class Placed(Event, topic="orders", key="id", type="shop.order-placed/v1"):
        id: str

    assert Placed.spec().type == "shop.order-placed/v1"
    assert (Placed.spec().schema or {})["name"] == "shop_order_placed_v1"


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (str, "ü 1", "ü 1"),
        (int, 4711, "4711"),
        (UUID, UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (Region, Region.NORTH, "north"),
        (Plain, Plain.ONE, "1"),
        (Literal["a", "b"], "b", "b"),
    ],
)
def test_a_key_has_one_textual_form(annotation: Any, value: object, text: str) -> None:
    class Keyed(Event, topic="t", key="key"):
        key: annotation

    assert Keyed(key=value).key_text() == text


def test_an_empty_key_is_one_clear_line() -> None:
    with pytest.raises(MissingKey, match=r"OrderPlaced: its key 'order_id' is empty.*fill the field") as caught:
        OrderPlaced(order_id="", total=Decimal(1)).key_text()
    assert caught.value.ids == {"event_type": "OrderPlaced", "topic": "orders"}
    with pytest.raises(MissingKey):
        OrderPlaced.model_construct(total=Decimal(1)).key_text()


def define(annotations: dict[str, Any], **arguments: Any) -> type[Event]:
    arguments = {"topic": "t", "key": "id", **arguments}
    body = {"__annotations__": {"id": str, **annotations}, "__module__": __name__}
    return type(Event)(
        "Wrong", (Event,), body, **{name: value for name, value in arguments.items() if value is not None}
    )


class Unmapped: ...


class Names(RootModel[list[str]]): ...


class Node(BaseModel):
    children: list[Node]


class One(BaseModel):
    a: int


def _same_name() -> type[BaseModel]:
    class One(BaseModel):
        b: int

    return One


@pytest.mark.parametrize(
    ("annotations", "arguments", "message"),
    [
        ({}, {"topic": "a b"}, r"'a b' is no topic name; use"),
        ({}, {"topic": ".."}, "is no topic name"),
        ({}, {"topic": "t" * 246}, "is no topic name"),
        ({}, {"key": None}, r'which field is the key\? write class Wrong\(Event, topic="t", key='),
        ({}, {"topic": None, "format": "json"}, "an event needs a topic"),
        ({}, {"key": "order"}, r"the key 'order' is not one of its fields \(id\)"),
        ({"id": str | None}, {}, "Wrong.id: the key may be None"),
        ({"id": float}, {}, "Wrong.id: a key needs one textual form; use str, int, UUID"),
        ({"id": bool}, {}, "Wrong.id: a key needs one textual form"),
        ({"id": list[str]}, {}, "Wrong.id: a key needs one textual form"),
        ({"id": str | int}, {}, "Wrong.id: a key needs one textual form"),
        ({}, {"type": "a type"}, "'a type' is no event type"),
        ({}, {"format": "xml"}, 'use format="avro" or format="json"'),
        ({}, {"format": "json", "schema": {}}, "schema= is for Avro"),
        ({"wait": timedelta}, {}, r"Wrong.wait: timedelta has no Avro mapping; use int \(say, milliseconds\)"),
        ({"it": Unmapped}, {}, "Wrong.it: Unmapped has no Avro mapping; use one of the types of docs/events.md"),
        ({"it": list[Unmapped]}, {}, "Wrong.it: Unmapped has no Avro mapping"),
        ({"it": Any}, {}, "Wrong.it: Any has no Avro mapping; name the types"),
        ({"it": dict}, {}, r"Wrong.it: dict has no Avro mapping; use dict\[str"),
        ({"it": dict[int, str]}, {}, r"Wrong.it: dict has no Avro mapping; use dict\[str"),
        ({"it": list}, {}, "Wrong.it: list has no Avro mapping; say what it holds"),
        ({"it": tuple[int, str]}, {}, "Wrong.it: tuple has no Avro mapping; use list"),
        ({"it": Names}, {}, "Wrong.it: Names has no Avro mapping"),
        ({"it": UUID | str}, {}, "Wrong.it: .*both written as Avro 'string'"),
        ({"it": str | Region}, {}, "Wrong.it: .*both written as Avro 'string'"),
        ({"it": Literal["a", 1]}, {}, "Wrong.it: a Literal needs choices"),
        ({"it": Node}, {}, "Node contains itself"),
        ({"größe": int}, {}, "Wrong.größe: not an Avro name"),
        ({"a": One, "b": _same_name()}, {}, "two classes are called 'One'"),
        ({"it": Unmapped}, {"format": "json"}, "Wrong.it: its type cannot be read from JSON"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_defined(
    annotations: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(DefinitionError, match=message) as caught:
        define(annotations, **arguments)
    assert "\n" not in caught.value.message


def test_a_field_may_not_hide_what_event_needs() -> None:
    with (
        pytest.warns(UserWarning, match="shadows an attribute"),
        pytest.raises(DefinitionError, match=r"Wrong.spec: Event uses this name itself"),
    ):
        define({"spec": str})


def test_json_events_may_hold_what_avro_cannot() -> None:
    cls = define({"wait": timedelta, "anything": Any}, format="json")
    assert cls.spec().schema is None


class Early(Event, topic="t", key="id"):
    id: str
    later: Later


class Later(BaseModel):
    n: int


class Orphan(Event, topic="t", key="id"):
    id: str
    other: Missing  # type: ignore[name-defined]  # noqa: F821


def test_a_class_may_name_one_that_is_defined_later() -> None:
    spec = Early.spec()
    assert spec.schema is not None and spec.schema["fields"][1]["type"]["name"] == "Later"
    with pytest.raises(DefinitionError, match="Orphan: an annotation names a class that is not defined"):
        Orphan.spec()
