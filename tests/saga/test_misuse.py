"""Every wrong use of `step()` and of a saga's class line is found at definition, and told what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from choreo import DefinitionError, Event, Retry, Saga, any_of, step
from choreo.saga.declaration import Facts
from tests.saga.test_declaration import Paid, Placed, Refund, Refunded, Refused, Release, Released, Reserved, Shipped

Wrong = Callable[[], Any]


def one_step(**options: Any) -> Wrong:
    """A saga of one step with these arguments."""
    given = {"done": Reserved, "undo": None, "within": "30s", **options}
    return lambda: type(Saga)("Bad", (Saga,), {"reserve": step(**given)}, start=Placed, key="order_id")


def two_steps(**options: Any) -> Wrong:
    """A saga of two steps, the second with these arguments."""

    def wrong() -> Any:
        reserve = step(done=Reserved, undo=None, within="30s")
        given = {"done": Paid, "undo": None, "within": "30s", **options}
        given = {name: value(reserve) if name in RELATIVE else value for name, value in given.items()}
        body = {"reserve": reserve, "charge": step(**given)}
        return type(Saga)("Bad", (Saga,), body, start=Placed, key="order_id")

    return wrong


RELATIVE = ("after", "instead_of")


def saga(**options: Any) -> Wrong:
    """A saga with these arguments."""
    given = {"start": Placed, "key": "order_id", **options}
    body = {"reserve": step(done=Reserved, failed=Refused, undo=Release, undone=Released, within="30s")}
    return lambda: type(Saga)("Bad", (Saga,), body, **given)


def name_twice() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=None, within="30s")
        reserve = step(done=Paid, undo=None, within="30s")  # type: ignore[assignment]  # noqa: PIE794


def hidden_by_a_method() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=None, within="30s")

        def reserve(self) -> None:  # type: ignore[no-redef]  # noqa: F811
            pass

        charge = step(done=Paid, undo=None, within="30s")


def two_names() -> None:
    class Bad(Saga, start=Placed, key="order_id"):
        reserve = book = step(done=Reserved, undo=None, within="30s")


def step_of_another_saga() -> None:
    class Good(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=None, within="30s")

    class Bad(Saga, start=Placed, key="order_id"):
        charge = step(after=any_of(Good.reserve, Good.reserve), done=Paid, undo=None, within="30s")


def inherited() -> None:
    class Good(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=None, within="30s")

    class Bad(Good, start=Placed, key="order_id"):
        charge = step(done=Paid, undo=None, within="30s")


def cycle() -> None:
    first = step(done=Reserved, undo=None, within="30s")
    second = step(after=first, done=Paid, undo=None, within="30s")
    first.options = replace(first.options, after=(second,))  # a class body cannot say it: a name comes before its use
    type(Saga)("Bad", (Saga,), {"reserve": first, "charge": second}, start=Placed, key="order_id")


def undo_that_makes_something_else() -> None:
    def undo(saga: Any) -> int:
        return 3

    one_step(undo=undo, undone=Released)()


def one_undo_for_two_steps() -> None:
    def release(saga: Any) -> Release:
        return Release(order_id=saga.key)

    def release_again(saga: Any) -> Release:
        return Release(order_id=saga.key)

    class Bad(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=release, undone=Released, within="30s")
        charge = step(after=reserve, done=Paid, undo=release_again, undone=Refunded, within="30s")


class Keyless(Event, topic="orders", key="id"):
    id: str


CLASSES = "name an event class, or several in a tuple"
DURATION = 'is not understood; write it like "200ms", "30s"'
CHARGE, RESERVE = "Bad, step charge: ", "Bad, step reserve: "


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (name_twice, RESERVE + "the name is given twice, and the first would be lost; rename one of them"),
        (hidden_by_a_method, "the name is given twice, and the first would be lost"),
        (two_names, "one step() has two names; write a step(...) for each"),
        (cycle, RESERVE + "after= leads back to itself; leave one of these out: reserve, charge"),
        (inherited, "Bad: Good is a saga, and steps are not inherited; derive it from Saga"),
        (one_step(done=int), RESERVE + f"done=int is not understood; {CLASSES}"),
        (one_step(done="Reserved"), RESERVE + f"done='Reserved' is not understood; {CLASSES}"),
        (one_step(done=[Reserved, Paid]), RESERVE + f"done=Reserved, Paid is not understood; {CLASSES}"),
        (one_step(done=Reserved(order_id="secret", reservation="r")), RESERVE + "done=an instance of Reserved is not"),
        (one_step(failed="Refused"), RESERVE + f"failed='Refused' is not understood; {CLASSES}"),
        (one_step(failed=ValueError), RESERVE + f"failed=ValueError is not understood; {CLASSES}"),
        (one_step(undo=Release, undone="Released"), RESERVE + f"undone='Released' is not understood; {CLASSES}"),
        (one_step(undo="release"), RESERVE + "undo='release' is not understood; name an event class, or a function"),
        (one_step(undo=Release(order_id="secret")), RESERVE + "undo=an instance of Release is not understood"),
        (one_step(undo=int, undone=Released), RESERVE + "undo=int is not understood; name an event class, or a func"),
        (one_step(undo=lambda saga: 3, undone=Released), "step reserve: undo: say what the function makes"),
        (undo_that_makes_something_else, "step reserve: undo: say what the function makes"),
        (one_undo_for_two_steps, "Release is made in two ways; use one event class for each"),
        (one_step(send=3), RESERVE + "send=3 is not understood; name an event class, or a function"),
        (one_step(within=object()), RESERVE + "within=<object object at"),
        (one_step(within="soon"), RESERVE + f"within='soon' {DURATION}"),
        (one_step(within=0), RESERVE + f"within=0 {DURATION}"),
        (one_step(within=True), RESERVE + f"within=True {DURATION}"),
        (one_step(within="-3s"), RESERVE + f"within='-3s' {DURATION}"),
        (one_step(undo=Release, undone=Released, undo_within="x"), RESERVE + f"undo_within='x' {DURATION}"),
        (one_step(retry=3, send=Release), RESERVE + "retry=3 is not understood; write Retry(attempts=5"),
        (one_step(retry=Retry(on=OSError), send=Release), "errors, jitter and within are for the handlers of services"),
        (one_step(undo_retry=3), RESERVE + "undo_retry=3 is not understood; write Retry(attempts=5"),
        (one_step(pivot="yes"), RESERVE + "pivot='yes' is not understood; write True or False"),
        (one_step(optional=1), RESERVE + "optional=1 is not understood; write True or False"),
        (one_step(final="always"), RESERVE + "final='always' is not understood; write True or False"),
        (one_step(when=True), RESERVE + "when=True is not understood; write a function of the saga: lambda saga:"),
        (one_step(when=Reserved), RESERVE + "when=Reserved is not understood; write a function of the saga"),
        (one_step(each=3), RESERVE + "each=3 is not understood; name a field of an event of the saga"),
        (one_step(each="lines", by=3), RESERVE + "by=3 is not understood; name the field of the answers"),
        (two_steps(after=lambda reserve: "reserve"), CHARGE + "after='reserve' is not understood; name a step of this"),
        (two_steps(after=lambda reserve: Reserved), CHARGE + "after=Reserved is not understood; name a step of this"),
        (two_steps(after=lambda reserve: [reserve]), CHARGE + "after=<step reserve> is not understood; name a step"),
        (
            two_steps(after=lambda reserve: (reserve, 3)),
            CHARGE + "after=3 is not understood; name a step of this class",
        ),
        (two_steps(after=lambda reserve: any_of(reserve, "b")), CHARGE + "after=AnyOf("),  # type: ignore[arg-type]
        (two_steps(instead_of=lambda reserve: "reserve"), CHARGE + "instead_of='reserve' is not understood; name the"),
        (step_of_another_saga, CHARGE + "after= names <step reserve> of another saga; name a step of this class"),
        (saga(start="OrderPlaced"), f"Bad: start='OrderPlaced' is not understood; {CLASSES}"),
        (saga(start=Placed(order_id="secret", total=1)), "Bad: start=an instance of Placed is not understood"),
        (saga(start=Keyless), "Bad, start: Keyless has no field 'order_id' to tell which saga it belongs to"),
        (saga(key=3), "Bad: key=3 is not understood; name the field of the business key"),
        (
            saga(key="number"),
            "has no field 'number' to tell which saga it belongs to; add the field, or say correlate=",
        ),
        (saga(version="1"), "Bad: version='1'; give a whole number of at least 1"),
        (saga(version=True), "Bad: version=True; give a whole number of at least 1"),
        (saga(type=3), "Bad: type=3 is not understood; write it like"),
        (saga(type="Order Fulfilment"), "'Order Fulfilment' is not a saga type; use lower-case words"),
        (saga(deadline="soon"), f"Bad: deadline='soon' {DURATION}"),
        (saga(completed="Done"), "Bad: completed='Done' is not understood; name an event class, or a function"),
        (saga(compensated=int), "Bad: compensated=int is not understood; name an event class, or a function"),
        (saga(correlate={"Paid": "ref"}), 'is not understood; write {LegacyShipped: "ref"}'),
        (saga(correlate=Reserved), "Bad: correlate=Reserved is not understood; write {LegacyShipped"),
        (saga(correlate={Reserved: "nowhere"}), "Reserved has no field 'nowhere'"),
        (saga(observe_only="yes"), "Bad: observe_only='yes' is not understood; write True or False"),
        (saga(rerun=1), "Bad: rerun=1 is not understood; write True or False"),
        (saga(unmatched="drop"), 'Bad: unmatched=\'drop\' is not understood; write "park" or "ignore"'),
        (saga(active_from="yesterday"), "Bad: active_from='yesterday' is not understood; write \"registration\""),
        (saga(active_from=datetime(2026, 1, 1)), "or a datetime with a time zone"),
        (saga(cancel="CustomerCancelled"), f"Bad: cancel='CustomerCancelled' is not understood; {CLASSES}"),
        (saga(cancel=Placed), "Placed is the start and the cancel event; one event must tell one thing"),
    ],
)
def test_each_wrong_use_is_found_at_definition_and_told_what_to_write(wrong: Wrong, says: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        wrong()
    told = str(refused.value)
    assert says in told
    assert "\n" not in told
    assert "secret" not in told, "no payload in an error"


def test_what_stands_for_a_saga_elsewhere_is_refused_too() -> None:
    with pytest.raises(DefinitionError, match="Saga itself declares nothing"):
        Saga.declaration()
    with pytest.raises(DefinitionError, match="give a whole number of at least 1"):
        Retry(attempts=0)


def test_nobody_sets_a_step_on_an_instance() -> None:
    class Good(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, undo=Release, undone=Released, within="30s")
        charge = step(after=reserve, done=Paid, undo=Refund, undone=Refunded, within="30s")
        ship = step(after=charge, done=Shipped, within="3d", pivot=True)

    class Nothing(Facts):
        key = "4711"

    with pytest.raises(AttributeError, match="nobody sets it"):
        Good(Nothing()).reserve = Reserved(order_id="1", reservation="r")  # type: ignore[assignment, abstract]
