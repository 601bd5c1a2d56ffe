"""A definition as data: what was registered once reads and hashes for ever as it did."""

from __future__ import annotations

import json

import pytest

from choreo.events.clock import SECOND
from choreo.saga.definition import Definition, StepPlan
from choreo.saga.demo.saga import Fulfilment
from choreo.saga.lock import LockPlan
from choreo.saga.policy import Policy
from choreo.saga.schedule import SchedulePlan
from tests.saga.play import define, plan


def test_the_hash_of_a_definition_of_the_first_release_stays_what_it_was() -> None:
    assert Fulfilment.definition().hash == "4a408111e64ec1cd"


def test_what_came_later_is_written_only_where_it_is_used() -> None:
    written = json.loads(define(plan("a", 0)).to_json())
    assert not {"cancel", "policies", "lock", "schedule"} & set(written)
    assert not {"any_of", "when", "instead_of", "final", "each", "by", "approval", "child"} & set(written["steps"][0])


def test_a_definition_with_everything_survives_its_own_json() -> None:
    definition = define(
        plan("a", 0, when=True),
        plan("b", 1, instead_of="a"),
        plan("c", 2, any_of=(("a", "d"),)),
        plan("d", 3, each="lines", by="sku"),
        plan("e", 4, approval="credit"),
        plan("f", 5, child="packing", final=True),
        cancel=("cancelled",),
        policies={"a.done": Policy(late="ask")},
        lock=LockPlan("customer_id", waits=60 * SECOND),
        schedule=SchedulePlan("0 2 * * *", "Europe/Berlin"),
    )
    assert Definition.from_json(definition.to_json()) == definition
    assert Definition.from_json(definition.to_json()).hash == definition.hash


@pytest.mark.parametrize(
    "other",
    [
        plan("b", 1, any_of=(("a",),)),
        plan("b", 1, "a", when=True),
        plan("b", 1, instead_of="a"),
        plan("b", 1, "a", final=True),
    ],
)
def test_what_decides_is_part_of_the_hash(other: StepPlan) -> None:
    assert define(plan("a", 0), other).hash != define(plan("a", 0), plan("b", 1, "a")).hash


def test_when_instances_start_is_no_part_of_what_they_do() -> None:
    nightly = define(plan("a", 0), schedule=SchedulePlan("0 2 * * *"))
    assert nightly.hash == define(plan("a", 0)).hash


GRAPH = define(
    plan("card", 0),
    plan("transfer", 1),
    plan("cash", 2, instead_of="transfer"),
    plan("ship", 3, any_of=(("card", "transfer"),)),
)


def test_a_step_comes_after_every_step_that_it_may_wait_for() -> None:
    assert GRAPH.ancestors["ship"] == {"card", "transfer", "cash"}
    assert GRAPH.ancestors["cash"] == {"transfer"}
    assert GRAPH.descendants["transfer"] == {"cash", "ship"}
    assert [step.name for step in GRAPH.successors["transfer"]] == ["cash", "ship"]
    assert [step.name for step in GRAPH.chains["transfer"]] == ["transfer", "cash"]


def test_the_field_of_the_key_is_known_where_one_field_holds_it() -> None:
    places = {
        "in.record": "key:ref",
        "in.payload": "ref",
        "deeper": "order.ref",
        "in.header": "header:ref",
        "asked": "call:f",
    }
    saga = define(plan("a", 0), correlate=places)
    assert {type_: saga.key_field(type_) for type_ in ("a.done", *places)} == {
        "a.done": "order_id",
        "in.record": "ref",
        "in.payload": "ref",
        "deeper": None,
        "in.header": None,
        "asked": None,
    }


def test_an_alternative_follows_the_failure_of_what_it_replaces_and_the_start_where_that_is_silent() -> None:
    for failed, followed in ((("air.failed",), ("air.failed",)), ((), ("placed",))):
        saga = define(plan("air", 0, failed=failed), plan("sea", 1, instead_of="air"))
        assert saga.triggers["sea"] == followed


def test_only_what_no_child_answers_names_its_element_in_the_payload() -> None:
    alone = plan("pack", 0, each="lines", by="sku")
    assert define(alone).named_by["pack.done"] == (alone, "sku")
    assert define(plan("pack", 0, each="lines", by="sku", child="packing")).named_by == {}
    assert define(plan("pack", 0, each="lines")).named_by == {}
    assert define(plan("pack", 0)).named_by == {}


def test_a_saga_runs_once_for_a_key_and_is_more_than_an_observer_unless_it_is_said() -> None:
    saga = define(plan("a", 0))
    assert (saga.rerun, saga.observe_only, saga.active_from, saga.unmatched) == (False, False, "registration", "park")
