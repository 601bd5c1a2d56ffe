"""Where a handler's run stands: by header, else by type and key (rulings R12 and R13)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from choreo.events.catalog import DefinitionAnnouncement, StepAnnouncement
from choreo.events.envelope import Envelope
from choreo.tracing.place import Place, Placement


def step(name: str, after: str = "", done: str = "", **more: Any) -> StepAnnouncement:
    return StepAnnouncement(name=name, index=1, after=after.split(), done=done.split(), **more)


def definition(type_: str, *steps: StepAnnouncement, **more: Any) -> DefinitionAnnouncement:
    announced = DefinitionAnnouncement(type=type_, version=1, hash="h", namespace="shop", start=["OrderPlaced"])
    return announced.model_copy(update={"steps": list(steps), **more})


FULFILMENT = definition(
    "fulfilment",
    step("reserve", "", "StockReserved", failed=["StockRefused"], undo="ReleaseStock", undone=["StockReleased"]),
    step("charge", "reserve", "PaymentCaptured", failed=["PaymentDeclined"], undo="RefundPayment", undone=["Refunded"]),
    step("ship", "charge", "OrderShipped"),
    step("notify", "ship", "ReceiptSent", send="SendReceipt"),
)
LOYALTY = definition("loyalty", step("points", "", "StockReserved"))


def event(type_: str, **fields: Any) -> Envelope:
    return replace(Envelope("e-1", type_, "shop", 0, "4711"), **fields)


def place(envelope: Envelope, produces: tuple[str, ...], *definitions: DefinitionAnnouncement) -> Place | None:
    return Placement(produces, definitions or (FULFILMENT,), namespace="mine").place(envelope)


def test_a_forward_handler_stands_under_the_step_that_it_answers() -> None:
    found = place(event("OrderPlaced"), ("StockReserved", "StockRefused"))
    assert found == Place("shop", "fulfilment/4711", "fulfilment", "reserve", "step")
    assert found.path == ("step", "reserve", "")


def test_a_commanded_handler_stands_under_the_step_that_sent_it() -> None:
    found = place(event("SendReceipt", saga_id="fulfilment/4711", saga_step="notify"), ("ReceiptSent",))
    assert found is not None
    assert found.path == ("step", "notify", "")


@pytest.mark.parametrize("produces", [("StockReleased",), ()])
def test_an_undo_stands_under_the_compensation(produces: tuple[str, ...]) -> None:
    found = place(event("ReleaseStock", saga_id="fulfilment/4711", saga_step="reserve"), produces)
    assert found is not None
    assert found.path == ("comp", "reserve", "")


def test_a_handler_that_answers_an_undo_by_another_input_stands_under_the_compensation() -> None:
    found = place(event("WarehouseCalledBack", saga_id="fulfilment/4711"), ("StockReleased",))
    assert found is not None
    assert found.path == ("comp", "reserve", "")


def test_the_headers_name_run_and_occurrence() -> None:
    command = event("SendReceipt", saga_id="fulfilment/9", saga_run=2, saga_step="notify", saga_occurrence="b7")
    found = place(command, ("ReceiptSent",))
    assert found is not None
    assert (found.saga_id, found.path) == ("fulfilment/9~2", ("step", "notify", "b7"))


def test_the_occurrence_of_the_step_before_is_not_ours() -> None:
    before = event("StockReserved", saga_id="fulfilment/4711", saga_step="reserve", saga_occurrence="b7")
    found = place(before, ("PaymentCaptured",))
    assert found is not None
    assert found.path == ("step", "charge", "")


def test_a_second_hop_within_a_step_keeps_its_occurrence() -> None:
    hop = event("CardChecked", saga_id="fulfilment/4711", saga_step="charge", saga_occurrence="b7")
    found = place(hop, ("PaymentCaptured",))
    assert found is not None
    assert found.path == ("step", "charge", "b7")


def test_a_handler_of_several_steps_is_in_the_one_that_the_input_makes_ready() -> None:
    everything = ("StockReserved", "PaymentCaptured", "OrderShipped")
    for type_, step in [("OrderPlaced", "reserve"), ("StockReserved", "charge"), ("PaymentCaptured", "ship")]:
        by_key = place(event(type_), everything)
        by_header = place(event(type_, saga_id="fulfilment/4711", saga_step="reserve"), everything)
        assert by_key is not None
        assert by_header is not None
        assert by_key.step == by_header.step == step


def test_one_command_type_of_two_steps_is_told_apart_by_the_header() -> None:
    twice = definition("fulfilment", step("first", send="Notify"), step("second", send="Notify"))
    found = place(event("Notify", saga_id="fulfilment/4711", saga_step="second"), (), twice)
    assert found is not None
    assert found.step == "second"


def test_a_run_that_answers_no_step_stands_under_the_saga_if_the_header_names_it() -> None:
    assert place(event("OrderShipped", saga_id="fulfilment/4711"), ("Indexed",)) == Place(
        "shop", "fulfilment/4711", "fulfilment"
    )
    assert place(event("OrderShipped"), ("Indexed",)) is None


def test_an_unannounced_saga_is_placed_by_its_headers_alone() -> None:
    undo = event("CancelTrip", saga_id="travel/7", saga_step="book", undoes=("e-0",))
    assert place(undo, ("TripCancelled",)) == Place("mine", "travel/7", "travel", "book", "comp")
    assert place(event("TripBooked", saga_id="travel/7", saga_step="book"), ()) == Place("mine", "travel/7", "travel")


def test_ruling_12_other_sagas_of_the_same_run_are_linked() -> None:
    found = place(event("OrderPlaced", saga_id="fulfilment/4711"), ("StockReserved",), FULFILMENT, LOYALTY)
    assert found is not None
    assert (found.saga_id, found.step) == ("fulfilment/4711", "reserve")
    assert [(each.saga_id, each.path) for each in found.others] == [("loyalty/4711", ("step", "points", ""))]


def test_without_a_header_the_order_of_definitions_does_not_matter() -> None:
    one = place(event("OrderPlaced"), ("StockReserved",), FULFILMENT, LOYALTY)
    two = place(event("OrderPlaced"), ("StockReserved",), LOYALTY, FULFILMENT)
    assert one is not None
    assert one == two
    assert one.saga_type == "fulfilment"
    assert len(one.others) == 1


@pytest.mark.parametrize("more", [{"rerun": True}, {"correlate": {"OrderPlaced": "ref"}}])
def test_ruling_13_without_a_header_nothing_is_assumed_of_an_uncertain_run_or_key(more: dict[str, Any]) -> None:
    uncertain = FULFILMENT.model_copy(update=more)
    assert place(event("OrderPlaced"), ("StockReserved",), uncertain) is None
    by_header = place(event("OrderPlaced", saga_id="fulfilment/4711", saga_run=3), ("StockReserved",), uncertain)
    assert by_header is not None
    assert (by_header.saga_id, by_header.step) == ("fulfilment/4711~3", "reserve")


def test_an_input_that_the_definition_does_not_name_is_not_placed_by_its_key() -> None:
    assert place(event("ProviderWebhook"), ("PaymentCaptured",)) is None


def test_an_event_without_a_key_is_not_placed() -> None:
    assert place(event("OrderPlaced", key=""), ("StockReserved",)) is None


@pytest.mark.parametrize("saga_id", ["", "4711", "/4711", "fulfilment/", "x/" + "k" * 2_000])
def test_a_malformed_saga_id_is_ignored(saga_id: str) -> None:
    found = place(event("OrderPlaced", saga_id=saga_id), ("StockReserved",))
    assert found is not None
    assert found.saga_id == "fulfilment/4711"


def test_the_newest_version_that_knows_the_handler_counts() -> None:
    newer = definition("fulfilment", step("hold", "", "StockReserved"), version=2)
    found = place(event("OrderPlaced"), ("StockReserved",), FULFILMENT, newer)
    assert found is not None
    assert found.step == "hold"
    older = place(event("PaymentCaptured"), ("OrderShipped",), FULFILMENT, newer)
    assert older is not None
    assert older.step == "ship"


def test_many_strange_types_are_forgotten() -> None:
    placement = Placement(("StockReserved",), (FULFILMENT,))
    for number in range(3_000):
        assert placement.place(event(f"Strange{number}")) is None
    assert placement.place(event("OrderPlaced")) is not None
