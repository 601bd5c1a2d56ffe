"""A saga that cannot work is refused where it is defined, with step, field and remedy."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from choreo import DefinitionError, Event, NotYet, Retry, Saga, step
from choreo.events.clock import SECOND
from choreo.saga.definition import Definition


class Placed(Event, topic="orders", key="order_id"):
    order_id: str
    total: Decimal


class Reserved(Event, topic="inventory", key="order_id"):
    order_id: str
    reservation: str


class Refused(Event, topic="inventory", key="order_id"):
    order_id: str


class Release(Event, topic="inventory.commands", key="order_id"):
    order_id: str
    reservation: str | None = None


class Released(Event, topic="inventory", key="order_id"):
    order_id: str


class Paid(Event, topic="payments", key="order_id"):
    order_id: str
    amount: Decimal


class Refund(Event, topic="payments.commands", key="order_id"):
    order_id: str
    total: Decimal


class Refunded(Event, topic="payments", key="order_id"):
    order_id: str


class Strict(Event, topic="inventory.commands", key="order_id"):
    order_id: str
    reservation: str


class Nowhere(Event, topic="inventory.commands", key="order_id"):
    order_id: str
    colour: str


class OtherType(Event, topic="payments.commands", key="order_id"):
    order_id: str
    total: int


class Foreign(Event, topic="legacy", key="ref"):
    ref: str


class Shipped(Event, topic="shipping", key="order_id"):
    order_id: str


def test_a_declaration_becomes_data() -> None:
    class Fulfilment(Saga, start=Placed, key="order_id", version=3, deadline="2h"):
        reserve = step(done=Reserved, failed=Refused, undo=Release, undone=Released, within="30s")
        charge = step(after=reserve, done=Paid, undo=Refund, undone=Refunded, within="5m")
        ship = step(after=charge, done=Shipped, within="3d", pivot=True)

    definition = Fulfilment.definition()
    assert (definition.type, definition.version, definition.deadline) == ("fulfilment", 3, 7_200 * SECOND)
    assert [plan.name for plan in definition.steps] == ["reserve", "charge", "ship"]
    assert definition.by_name["charge"].after == ("reserve",)
    assert definition.topics["Release"] == "inventory.commands"
    assert Definition.from_json(definition.to_json()) == definition


def test_the_public_name_is_the_class_in_kebab_case() -> None:
    class OrderFulfilment(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=None, within="30s")

    assert OrderFulfilment.definition().type == "order-fulfilment"


def test_observing_is_another_way_to_run_the_same_definition() -> None:
    class Fulfilment(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=Release, undone=Released, within="30s")

    watching = Fulfilment.observe_only()
    assert watching.definition().observe_only
    assert not Fulfilment.definition().observe_only
    assert watching.definition().hash == Fulfilment.definition().hash


def test_an_instance_gives_the_done_events_of_its_steps() -> None:
    class Fulfilment(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=None, within="30s")
        charge = step(after=reserve, done=Paid, undo=None, within="30s")

    class Known:
        key = "4711"

        def start(self) -> Event:
            return Placed(order_id="4711", total=Decimal(3))

        def done(self, step: str) -> Event | None:
            return Reserved(order_id="4711", reservation="r") if step == "reserve" else None

    saga = Fulfilment(Known())
    assert saga.reserve.reservation == "r"
    assert saga.maybe(Fulfilment.charge) is None
    assert saga.started.total == 3
    with pytest.raises(NotYet, match=r"step charge of Fulfilment is not done; ask saga.maybe"):
        _ = saga.charge


def _no_start() -> None:
    class Bad(Saga, key="order_id"):
        reserve = step(done=Reserved, undo=None, within="30s")


def _no_key() -> None:
    class Bad(Saga, start=Placed):
        reserve = step(done=Reserved, undo=None, within="30s")


def _no_steps() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        pass


def _no_limit() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=None)


def _no_undo() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, within="30s")


def _no_undone() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=Release, within="30s")


def _undone_without_undo() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=None, undone=Released, within="30s")


def _undo_only_from_its_own_event() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=Strict, undone=Released, within="30s")


def _undo_from_nowhere() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=Nowhere, undone=Released, within="30s")


def _undo_of_another_type() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        charge = step(done=Paid, undo=OtherType, undone=Refunded, within="30s")


def _undo_function_without_return() -> None:
    def undo(saga):  # type: ignore[no-untyped-def]
        return Release(order_id=saga.key)

    class Bad(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=undo, undone=Released, within="30s")


def _no_key_field() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        legacy = step(done=Foreign, undo=None, within="30s")


def _foreign_step() -> None:
    class Good(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=None, within="30s")

    class Bad(Saga, start=Placed, key="order_id"):
        charge = step(after=Good.reserve, done=Paid, undo=None, within="30s")


def _two_meanings() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, failed=Reserved, undo=None, within="30s")


def _same_success() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=None, within="30s")
        again = step(done=Reserved, undo=None, within="30s")


def _two_pivots() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, within="30s", pivot=True)
        ship = step(after=reserve, done=Shipped, within="30s", pivot=True)


def _undecided_branch() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=None, within="30s")
        ship = step(done=Shipped, within="30s", pivot=True)


def _undo_after_pivot() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        ship = step(done=Shipped, within="30s", pivot=True)
        charge = step(after=ship, done=Paid, undo=Refund, undone=Refunded, within="30s")


def _retry_without_send() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=None, within="30s", retry=Retry())


def _bad_duration() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=None, within="soon")


def _reserved_name() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        maybe = step(done=Reserved, undo=None, within="30s")  # type: ignore[assignment]


def _version_zero() -> None:
    class Bad(Saga, start=Placed, key="order_id", version=0):
        reserve = step(done=Reserved, undo=None, within="30s")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (_no_start, "which event starts it?"),
        (_no_key, "which field is the business key?"),
        (_no_steps, "it has no steps"),
        (_no_limit, 'step reserve: within= is missing, and every wait needs a limit; write within="30s"'),
        (_no_undo, "step reserve: undo= is missing; name the command that undoes it, or say undo=None"),
        (_no_undone, "step reserve: undone= is missing: each undo waits for its answer"),
        (_undone_without_undo, "step reserve: undone= answers an undo that is not declared"),
        (_undo_only_from_its_own_event, "Strict.reservation cannot be filled when the outcome of reserve is unknown"),
        (_undo_from_nowhere, "Nowhere.colour cannot be filled: no event that has surely happened"),
        (_undo_of_another_type, "Placed.total is Decimal, OtherType.total wants int"),
        (_undo_function_without_return, "say what the function makes"),
        (_no_key_field, "Foreign has no field 'order_id'"),
        (_foreign_step, "names <step reserve> of another saga"),
        (_two_meanings, "Reserved is the success of reserve and the failure of reserve"),
        (_same_success, "Reserved is the success of reserve and the success of again"),
        (_two_pivots, "a saga has one point of no return"),
        (_undecided_branch, "leaves open whether it comes before or after the pivot ship"),
        (_undo_after_pivot, "from the pivot on the saga only goes forward"),
        (_retry_without_send, "is for commanded steps"),
        (_bad_duration, "step reserve: within='soon' is not understood; write it like"),
        (_reserved_name, "'maybe' is a name that Saga uses itself"),
        (_version_zero, "give a whole number of at least 1"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_defined(wrong: Callable[[], Any], says: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        wrong()
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_foreign_event_says_where_its_key_is() -> None:
    class Fulfilment(Saga, start=Placed, key="order_id", correlate={Foreign: "ref"}):
        legacy = step(done=Foreign, undo=None, within="30s")

    assert Fulfilment.definition().correlate == {}, "ref is the record's own key: no payload has to be read"
