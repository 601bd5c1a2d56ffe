"""`check`: each finding, with what makes it and what does not."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from choreo.events.errors import ConfigurationError
from choreo.events.event import Event
from choreo.saga.checking.check import check, of_report
from choreo.saga.checking.findings import Finding, Findings
from choreo.saga.checking.scope import Scope
from choreo.saga.cli.app import call
from choreo.saga.lock import lock
from choreo.saga.saga import Saga
from choreo.saga.step import step
from choreo.services.context import Transaction
from choreo.services.service import Service


class Said(Event, topic="orders", key="order_id"):
    order_id: str


class Placed(Said): ...


class Reserved(Said, topic="inventory"):
    shelf: str


class Refused(Said, topic="inventory"): ...


class Release(Said, topic="inventory.commands"):
    shelf: str = ""


class Released(Said, topic="inventory"): ...


class Ship(Said, topic="shipping.commands"): ...


class Shipped(Said, topic="shipping"): ...


class Closed(Said): ...


class Order(Saga, start=Placed, key="order_id", completed=Closed):
    reserve = step(done=Reserved, failed=Refused, undo=Release, undone=Released, within="30s")
    ship = step(after=reserve, send=Ship, done=Shipped, within="1d", pivot=True)


def services(
    *,
    reserves: bool = True,
    refuses: bool = True,
    releases: bool = True,
    answers: bool = True,
    guarded: bool = True,
    ships: bool = True,
    closes: bool = True,
) -> list[Service]:
    """The services of an order, some of them left out."""
    inventory, shipping, orders = Service("inventory"), Service("shipping"), Service("orders")

    async def reserve(event: Placed, tx: Transaction) -> Any: ...

    outcomes = [cls for cls, is_said in ((Reserved, reserves), (Refused, refuses)) if is_said]
    reserve.__annotations__["return"] = outcomes[0] | outcomes[1] if len(outcomes) == 2 else [*outcomes, None][0]  # type: ignore[operator]
    inventory.on(Placed)(reserve)
    if releases:

        async def release(event: Release, tx: Transaction) -> Any: ...

        release.__annotations__["return"] = Released if answers else None
        inventory.on(Release, undoes=reserve if guarded else None)(release)
    if ships:

        @shipping.on(Ship)
        async def ship(event: Ship) -> Shipped: ...  # type: ignore[empty-body]

    if closes:

        @orders.on(Closed)
        async def close(event: Closed) -> None: ...

    return [inventory, shipping, orders]


def codes(found: Findings) -> list[tuple[str, str]]:
    return [(each.severity, each.code) for each in found if each.code != "start-from-outside"]


def test_a_saga_with_all_its_services_has_nothing_but_a_hint_at_where_it_starts() -> None:
    found = check(Order, *services())
    assert [(each.severity, each.code, each.event) for each in found] == [("hint", "start-from-outside", "Placed")]
    found.assert_none(strict=True)


def test_without_services_nobody_is_missed() -> None:
    assert list(check(Order)) == []


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("reserves", [("error", "no-producer"), ("error", "undoes-another")]),
        ("refuses", [("warning", "no-producer")]),
        ("releases", [("error", "no-handler"), ("error", "undo-unanswered")]),
        ("answers", [("error", "undo-unanswered")]),
        ("guarded", [("warning", "undo-unguarded")]),
        ("ships", [("error", "no-handler"), ("error", "no-producer")]),
        ("closes", [("hint", "no-consumer")]),
    ],
)
def test_what_nobody_does_is_found(missing: str, expected: list[tuple[str, str]]) -> None:
    assert codes(check(Order, *services(**{missing: False}))) == expected


def test_an_event_that_nobody_reads_is_a_warning() -> None:
    audit = Service("audit")

    class Noted(Said): ...

    @audit.on(Placed)
    async def note(event: Placed) -> Noted: ...  # type: ignore[empty-body]

    assert codes(check(Order, audit, *services())) == [("warning", "no-consumer")]


def test_an_undo_that_no_saga_asks_for_is_a_warning() -> None:
    class Short(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, failed=Refused, undo=None, within="30s")
        ship = step(after=reserve, send=Ship, done=Shipped, within="1d", pivot=True)

    assert ("warning", "undo-unasked") in codes(check(Short, *services(closes=False)))


def test_a_topic_that_does_not_exist_is_an_error() -> None:
    there = {"orders": 4, "inventory": 4, "inventory.commands": 4, "shipping.commands": 4}
    [finding] = check(Order, topics=there)
    assert (finding.severity, finding.code, finding.topic) == ("error", "topic-missing", "shipping")


def test_ruling_9_unequal_partitions_are_a_warning() -> None:
    there = {"orders": 4, "inventory": 6, "inventory.commands": 4, "shipping.commands": 4, "shipping": 4}
    [finding] = check(Order, topics=there)
    assert (finding.severity, finding.code) == ("warning", "unequal-partitions")
    assert "inventory 6, orders 4" in finding.sentence


def test_one_event_on_two_topics_is_an_error() -> None:
    catalog = [service.announcement() for service in services()]
    text = catalog[1].model_dump_json().replace('"topic":"shipping"', '"topic":"parcels"')
    moved = [catalog[0], type(catalog[1]).model_validate_json(text), catalog[2]]
    [finding] = [each for each in check(Order, catalog=moved) if each.code == "other-topic"]
    assert (finding.severity, finding.event, finding.topic) == ("error", "Shipped", "parcels")


def test_ruling_7_a_choreographed_pivot_is_a_warning() -> None:
    class Loose(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, failed=Refused, undo=Release, undone=Released, within="30s")
        ship = step(after=reserve, done=Shipped, within="1d", pivot=True)

    assert codes(check(Loose)) == [("warning", "unasked-pivot")]
    [finding] = check(
        Loose, model=Scope(duplicates=0, crashes=0, commands=0, attempts=1), ignore={"unasked-pivot": "x"}
    )[:1]
    assert (finding.severity, finding.code) == ("warning", "model:unasked-pivot")


def test_a_limit_behind_the_deadline_is_a_warning() -> None:
    class Slow(Saga, start=Placed, key="order_id", deadline="10s"):
        reserve = step(done=Reserved, failed=Refused, undo=Release, undone=Released, within="30s")

    [finding] = check(Slow)
    assert (finding.severity, finding.code, finding.step) == ("warning", "limit-after-deadline", "reserve")


def undo_blindly(saga: Any) -> Release:
    return Release(order_id=saga.key, shelf=saga.reserve.shelf)


def undo_with_care(saga: Any) -> Release:
    done = saga.maybe(Careful.reserve)
    return Release(order_id=saga.key, shelf=done.shelf if done else "")


def undo_never(saga: Any) -> Release:
    raise RuntimeError("no")


class Careful(Saga, start=Placed, key="order_id"):
    reserve = step(done=Reserved, failed=Refused, undo=undo_with_care, undone=Released, within="30s")


@pytest.mark.parametrize(
    ("undo", "told"), [(undo_blindly, "when the outcome of reserve is unknown"), (undo_never, "RuntimeError")]
)
def test_an_undo_that_cannot_be_built_in_some_state_is_an_error(undo: Callable[[Any], Release], told: str) -> None:
    class Careless(Saga, start=Placed, key="order_id"):
        reserve = step(done=Reserved, failed=Refused, undo=undo, undone=Released, within="30s")

    [finding] = check(Careless)
    assert (finding.severity, finding.code, finding.step, finding.event) == (
        "error",
        "unbuildable",
        "reserve",
        "Release",
    )
    assert told in finding.sentence


def test_an_undo_that_asks_with_maybe_can_always_be_built() -> None:
    assert list(check(Careful)) == []


class Charged(Said, topic="payment"):
    amount: Decimal


class Refund(Said, topic="payment.commands"): ...


class Refunded(Said, topic="payment"): ...


class PaidOut(Said, topic="payout"): ...


def test_money_given_before_it_is_taken_is_a_hint() -> None:
    class Rash(Saga, start=Placed, key="order_id"):
        payout = step(done=PaidOut, undo=None, within="30s")
        charge = step(after=payout, done=Charged, undo=Refund, undone=Refunded, within="30s")

    class Wise(Saga, start=Placed, key="order_id"):
        charge = step(done=Charged, undo=Refund, undone=Refunded, within="30s")
        payout = step(after=charge, done=PaidOut, undo=None, within="30s")

    assert [(each.severity, each.code, each.step) for each in check(Rash)] == [("hint", "money-order", "payout")]
    assert list(check(Wise)) == []


def test_a_first_step_that_no_lock_holds_back_is_told() -> None:
    class Loose(Saga, start=Placed, key="order_id", lock=lock("order_id", name="order")):
        reserve = step(done=Refused, undo=None, within="30s")

    class Held(Saga, start=Placed, key="order_id", lock=lock("order_id", name="order")):
        ship = step(send=Ship, done=Shipped, undo=None, within="1d")
        close = step(after=ship, done=Refused, undo=None, within="30s")

    assert [(each.severity, each.code, each.step) for each in check(Loose)] == [("warning", "unheld-step", "reserve")]
    assert list(check(Held)) == []


def test_an_event_may_say_itself_that_it_moves_no_money() -> None:
    class Transferred(Said, topic="calls"):
        __money__ = ""

    class Call(Saga, start=Placed, key="order_id"):
        transfer = step(done=Transferred, undo=None, within="30s")
        charge = step(after=transfer, done=Charged, undo=Refund, undone=Refunded, within="30s")

    assert list(check(Call)) == []


# ---- what is accepted -----------------------------------------------------------------------------------------------


def test_what_is_ignored_has_a_reason_and_does_not_count() -> None:
    found = check(
        Order, *services(ships=False), ignore={"no-handler:Ship": "done by hand", "no-producer": "so is this"}
    )
    assert found.fatal() == []
    assert {each.ignored for each in found if each.ignored} == {"done by hand", "so is this"}
    found.assert_none()


def test_an_entry_that_ignores_nothing_any_more_is_a_warning() -> None:
    assert codes(check(Order, ignore={"no-handler:Ship": "done by hand"})) == [("warning", "unused-ignore")]


def test_an_entry_without_a_reason_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="say why"):
        check(Order, ignore={"no-handler": " "})


def test_a_test_fails_with_a_line_for_each_finding() -> None:
    with pytest.raises(AssertionError, match=r"error no-handler \(order, step ship, Ship\): no service handles"):
        check(Order, *services(ships=False)).assert_none()
    check(Order, *services(refuses=False)).assert_none()
    with pytest.raises(AssertionError, match="no-producer"):
        check(Order, *services(refuses=False)).assert_none(strict=True)


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_checks_the_demo_shop(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check", "choreo.saga.demo.shop", "--strict"]) == 0
    said = capsys.readouterr()
    assert "start-from-outside" in said.out
    assert "0 errors · 0 warnings · 1 hint" in said.err


def test_the_command_says_findings_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check", "choreo.saga.demo.shop:Fulfilment", "choreo.saga.demo.shop:payment", "-o", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    schema = json.loads((Path(__file__).parents[2] / "docs/schemas/saga.finding.v1.json").read_text())
    assert {each["schema"] for each in found} == {"saga.finding/v1"}
    assert set(found[0]) == set(schema["properties"])
    assert "no-producer" in {each["code"] for each in found}


def test_an_error_at_definition_is_a_finding_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken_shop.py"
    broken.write_text(
        textwrap.dedent(
            """
            from choreo import Event, Saga, step
            class Placed(Event, topic="orders", key="order_id"):
                order_id: str
            class Reserved(Event, topic="inventory", key="order_id"):
                order_id: str
            class Order(Saga, start=Placed, key="order_id"):
                reserve = step(done=Reserved)
            """
        )
    )
    assert call(["check", str(broken)]) == 1
    out = capsys.readouterr().out
    assert "error    definition" in out
    assert "broken_shop.py:7: Order, step reserve: within= is missing, and every wait needs a limit" in out
    assert '-> write within="30s"' in out
    assert "Traceback" not in out


def test_strict_makes_a_warning_fail(capsys: pytest.CaptureFixture[str]) -> None:
    targets = ["choreo.saga.demo.shop", "--ignore", "start-from-outside=the web shop", "--ignore", "gone=it was there"]
    assert call(["check", *targets]) == 0
    assert call(["check", *targets, "--strict"]) == 1
    assert "unused-ignore" in capsys.readouterr().out


def test_an_ignore_without_a_reason_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check", "choreo.saga.demo.shop", "--ignore", "no-consumer"]) == 2
    assert "say why" in capsys.readouterr().err


def test_the_command_looks_at_the_broker_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = ["--home", str(tmp_path)]
    assert call(["check", "choreo.saga.demo.shop", "--live", *home]) == 1
    assert "topic-missing" in capsys.readouterr().out
    assert call(["topics", "apply", "choreo.saga.demo.shop", *home]) == 0
    assert call(["check", "choreo.saga.demo.shop", "--live", *home]) == 0


def test_findings_are_values() -> None:
    one = Finding("code", "error", "sentence", "remedy", saga="order")
    assert list(Findings([one, one])) == [one]
    assert of_report.__doc__
