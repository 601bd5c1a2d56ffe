"""A graph that could not run is refused where the saga is defined, and a command is filled only from what is sure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from choreo import DefinitionError, Event, Saga, any_of, step
from choreo.saga.definition import Definition


class Placed(Event, topic="orders", key="order_id"):
    order_id: str
    total: int


class Carded(Event, topic="payments", key="order_id"):
    order_id: str
    paid: int
    card: str


class CardRefused(Event, topic="payments", key="order_id"):
    order_id: str


class Transferred(Event, topic="payments", key="order_id"):
    order_id: str
    paid: int


class Refund(Event, topic="payments.commands", key="order_id"):
    order_id: str


class Refunded(Event, topic="payments", key="order_id"):
    order_id: str


class Flown(Event, topic="shipping", key="order_id"):
    order_id: str
    parcel: str


class Sailed(Event, topic="shipping", key="order_id"):
    order_id: str
    parcel: str
    ship: str


class Notify(Event, topic="mail.commands", key="order_id"):
    order_id: str


class NotifyParcel(Event, topic="mail.commands", key="order_id"):
    order_id: str
    parcel: str


class NotifyShip(Event, topic="mail.commands", key="order_id"):
    order_id: str
    ship: str


class NotifyPaid(Event, topic="mail.commands", key="order_id"):
    order_id: str
    paid: int


class NotifyCard(Event, topic="mail.commands", key="order_id"):
    order_id: str
    card: str


class Notified(Event, topic="mail", key="order_id"):
    order_id: str


class Fulfilled(Event, topic="orders", key="order_id"):
    order_id: str
    parcel: str


def a(**options: Any) -> Any:
    return step(**{"done": Carded, "undo": None, "within": "30s", **options})


def b(**options: Any) -> Any:
    return step(**{"done": Transferred, "undo": None, "within": "30s", **options})


def c(**options: Any) -> Any:
    return step(**{"done": Flown, "undo": None, "within": "30s", **options})


def d(**options: Any) -> Any:
    return step(**{"done": Sailed, "undo": None, "within": "30s", **options})


def saga(**steps: Any) -> type[Saga]:
    """A saga class with these steps, checked as if it were written."""
    options = steps.pop("options", {})
    return type(Saga)("Order", (Saga,), steps, start=Placed, key="order_id", **options)


def _one_member() -> None:
    x = a()
    saga(x=x, y=b(after=any_of(x)))


def _member_twice() -> None:
    x, y = a(), b()
    saga(x=x, y=y, z=c(after=any_of(x, y, x)))


def _nested_group() -> None:
    x, y, z = a(), b(), c()
    saga(x=x, y=y, z=z, last=d(after=any_of(x, any_of(y, z))))  # type: ignore[arg-type]


def _member_of_another_saga() -> None:
    x, y = a(), b()
    saga(x=x, z=c(after=any_of(x, y)))


def _pivot_member() -> None:
    x, y = a(undo=None, pivot=True), b()
    saga(x=x, y=y, z=c(after=any_of(x, y)))


def _optional_member() -> None:
    x, y = a(optional=True), b()
    saga(x=x, y=y, z=c(after=any_of(x, y)))


def _member_waited_for_alone() -> None:
    x, y = a(), b()
    saga(x=x, y=y, z=c(after=any_of(x, y)), last=d(after=x))


def _members_in_a_row() -> None:
    x = a()
    y = b(after=x)
    saga(x=x, y=y, z=c(after=any_of(x, y)))


def _alternative_as_member() -> None:
    x, z = a(), c()
    y = b(instead_of=x)
    saga(x=x, y=y, z=z, last=d(after=any_of(y, z)))


def _when_takes_two() -> None:
    saga(x=a(when=lambda saga, event: True))


def _when_is_a_value() -> None:
    saga(x=a(when=True))


def _alternative_of_another_saga() -> None:
    other = a()
    saga(x=b(), y=c(instead_of=other))


def _two_alternatives() -> None:
    x = a()
    saga(x=x, y=b(instead_of=x), z=c(instead_of=x))


def _alternative_of_the_pivot() -> None:
    x = a(pivot=True)
    saga(x=x, y=b(instead_of=x))


def _pivot_as_alternative() -> None:
    x = a()
    saga(x=x, y=b(instead_of=x, pivot=True))


def _optional_with_alternative() -> None:
    x = a(optional=True)
    saga(x=x, y=b(instead_of=x))


def _alternative_of_only_an_undo() -> None:
    x = step(undo=Refund, undone=Refunded)
    saga(x=x, y=b(instead_of=x))


def _alternative_after_what_it_replaces() -> None:
    x = a()
    saga(x=x, y=b(instead_of=x, after=x))


def _cycle_through_an_alternative() -> None:
    x = a()
    z = c(after=x)
    saga(x=x, y=b(instead_of=x, after=z), z=z)


def _finally_with_undo() -> None:
    saga(x=a(), last=d(final=True, undo=Refund, undone=Refunded))


def _finally_after_an_ordinary_step() -> None:
    x = a()
    saga(x=x, last=d(final=True, after=x))


def _ordinary_after_a_finally_step() -> None:
    last = d(final=True)
    saga(last=last, x=a(after=last))


def _finally_as_pivot() -> None:
    saga(x=a(), last=d(final=True, pivot=True))


def _finally_and_optional() -> None:
    saga(x=a(), last=d(final=True, optional=True))


def _finally_as_alternative() -> None:
    x = a()
    saga(x=x, last=d(final=True, instead_of=x))


def _only_finally_steps() -> None:
    saga(last=d(final=True))


def _nothing_at_all() -> None:
    saga(x=step(undo=None))  # type: ignore[call-overload]


def _only_undo_with_failed() -> None:
    saga(x=step(undo=Refund, undone=Refunded, failed=CardRefused))  # type: ignore[call-overload]


def _only_undo_with_send() -> None:
    saga(x=step(undo=Refund, undone=Refunded, send=Notify))  # type: ignore[call-overload]


def _only_undo_with_limit() -> None:
    saga(x=step(undo=Refund, undone=Refunded, within="30s"))  # type: ignore[call-overload]


def _only_undo_as_pivot() -> None:
    saga(x=step(undo=Refund, undone=Refunded, pivot=True))  # type: ignore[call-overload]


def _undecided_alternative() -> None:
    x = a(undo=None)
    saga(x=x, y=b(instead_of=x), z=c(pivot=True))


def _filled_from_one_member() -> None:
    x, y = a(), b()
    saga(x=x, y=y, last=step(after=any_of(x, y), send=NotifyCard, done=Notified, undo=None, within="1h"))


def _filled_from_a_step_that_may_be_skipped() -> None:
    x, y = c(when=lambda saga: True), a()
    saga(x=x, y=y, last=step(after=(x, y), send=NotifyParcel, done=Notified, undo=None, within="1h"))


def _filled_from_what_may_be_replaced() -> None:
    x = d()
    saga(x=x, y=c(instead_of=x), last=step(after=x, send=NotifyShip, done=Notified, undo=None, within="1h"))


def _finally_filled_from_a_step() -> None:
    saga(x=c(), last=step(final=True, send=NotifyParcel, done=Notified, within="1h"))


def _end_filled_from_a_step_that_may_be_skipped() -> None:
    saga(x=c(when=lambda saga: True), options={"completed": Fulfilled})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (_one_member, "step y: after= has any_of(x); name two or more steps"),
        (_member_twice, "step z: after= has any_of(x, y, x); name two or more steps, each once"),
        (_nested_group, "step last: after= has any_of(...) within any_of(...); write one any_of(...)"),
        (_member_of_another_saga, "step z: after= names <step > of another saga"),
        (_pivot_member, "after= has the pivot x in any_of(...), so that it could be given up; put the pivot after"),
        (_optional_member, "step x: optional= makes its failure count in any_of(...) of z like a success"),
        (_member_waited_for_alone, "step last: after= waits for x, which any_of(...) of z may give up; write after=z"),
        (_members_in_a_row, "step z: after= has y and x in any_of(...), and one comes before the other"),
        (_alternative_as_member, "step last: after= has y in any_of(...), which only stands in for x; name x"),
        (_when_takes_two, "step x: when= is not a function of the saga alone; write when=lambda saga:"),
        (_when_is_a_value, "step x: when=True is not understood; write a function of the saga"),
        (_alternative_of_another_saga, "step y: instead_of= names <step > of another saga; name a step of this class"),
        (_two_alternatives, "step z: instead_of= names x, which y replaces already; let them follow one another"),
        (_alternative_of_the_pivot, "step y: instead_of= goes with no pivot"),
        (_pivot_as_alternative, "step y: instead_of= goes with no pivot"),
        (_optional_with_alternative, "step x: optional= lets the saga go on without it, so that y would never"),
        (_alternative_of_only_an_undo, "step y: instead_of= names x, which cannot fail"),
        (_alternative_after_what_it_replaces, "step y: after= names x, which it replaces; leave it out"),
        (_cycle_through_an_alternative, "after= leads back to itself; leave one of these out: y, z"),
        (_finally_with_undo, "step last: undo= goes with no finally-step; leave it out"),
        (_finally_after_an_ordinary_step, "step last: after= of a finally-step is for other finally-steps"),
        (_ordinary_after_a_finally_step, "step x: after= names the finally-step last"),
        (_finally_as_pivot, "step last: pivot= goes with no finally-step"),
        (_finally_and_optional, "step last: optional= goes with no finally-step"),
        (_finally_as_alternative, "step last: instead_of= goes with no finally-step"),
        (_only_finally_steps, "step last: final= is said of every step, and there is nothing to end"),
        (_nothing_at_all, "step x: done= is empty; name the event class that tells its success, or give undo="),
        (_only_undo_with_failed, "step x: failed= has no meaning without done="),
        (_only_undo_with_send, "step x: send= has no meaning without done="),
        (_only_undo_with_limit, "step x: within= has no meaning without done="),
        (_only_undo_as_pivot, "step x: pivot= has no meaning without done="),
        (_undecided_alternative, "leaves open whether it comes before or after the pivot z"),
        (_filled_from_one_member, "NotifyCard.card cannot be filled: no event that has surely happened"),
        (_filled_from_a_step_that_may_be_skipped, "NotifyParcel.parcel cannot be filled: no event that has surely"),
        (_filled_from_what_may_be_replaced, "NotifyShip.ship cannot be filled: no event that has surely"),
        (_finally_filled_from_a_step, "NotifyParcel.parcel cannot be filled: no event that has surely"),
        (_end_filled_from_a_step_that_may_be_skipped, "Fulfilled.parcel cannot be filled: no event that has surely"),
    ],
)
def test_a_graph_that_cannot_work_is_refused_where_it_is_defined(wrong: Callable[[], Any], says: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        wrong()
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_whole_language_becomes_data() -> None:
    class Order(Saga, start=Placed, key="order_id"):
        hold = step(undo=Refund, undone=Refunded)
        card = step(after=hold, done=Carded, failed=CardRefused, undo=None, within="30s")
        transfer = step(after=hold, done=Transferred, undo=None, within="2d")
        fly = step(
            after=any_of(card, transfer), when=lambda saga: saga.started.total > 9, done=Flown, undo=None, within="1d"
        )
        sail = step(instead_of=fly, done=Sailed, undo=None, within="9d")
        tell = step(final=True, send=Notify, done=Notified, within="1h")

    definition = Order.definition()
    plans = definition.by_name
    assert plans["hold"].only_undo
    assert plans["fly"].any_of == (("card", "transfer"),)
    assert plans["fly"].when
    assert plans["sail"].instead_of == "fly"
    assert plans["tell"].final
    assert Definition.from_json(definition.to_json()) == definition
    assert Order.declaration().asks.keys() == {("fly", "when")}


def test_every_member_of_a_group_has_a_field_that_a_command_needs() -> None:
    x, y = a(), b()
    saga(x=x, y=y, last=step(after=any_of(x, y), send=NotifyPaid, done=Notified, undo=None, within="1h"))


def test_a_step_and_its_alternative_both_have_a_field_that_a_command_needs() -> None:
    x = c()
    last = step(after=x, send=NotifyParcel, done=Notified, undo=None, within="1h")
    saga(x=x, y=d(instead_of=x), last=last, options={"completed": Fulfilled})


def test_a_step_that_follows_one_alone_runs_only_if_that_has_run() -> None:
    x = c(when=lambda saga: True)
    saga(x=x, last=step(after=x, send=NotifyParcel, done=Notified, undo=None, within="1h"))


def test_after_the_pivot_an_undo_is_for_steps_that_may_be_given_up() -> None:
    p = a(pivot=True)
    x = c(after=p, undo=Refund, undone=Refunded)
    saga(p=p, x=x, y=d(instead_of=x))
