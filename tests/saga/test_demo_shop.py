"""The demo's shop: what its saga shows, and that its services know events only."""

from __future__ import annotations

import subprocess
import sys

from choreo.saga.demo.saga import Fulfilment
from choreo.saga.demo.shop import SERVICES


def test_the_saga_has_a_parallel_branch_a_pivot_and_an_optional_step() -> None:
    definition = Fulfilment.definition()
    assert definition.ancestors["charge"] == frozenset()
    assert definition.ancestors["book"] == {"reserve"}
    assert definition.ancestors["ship"] == {"reserve", "charge", "book"}
    assert definition.pivot is definition.by_name["ship"]
    assert [plan.name for plan in definition.steps if plan.optional] == ["notify"]


def test_everything_before_the_pivot_can_be_undone_by_a_guarded_handler() -> None:
    definition = Fulfilment.definition()
    undone_by = {
        event.spec().type: handler.undoes.name
        for service in SERVICES
        for handler in service.handlers
        if handler.undoes is not None
        for event in handler.events
    }
    before = definition.ancestors["ship"]
    assert {undone_by[plan.undo] for plan in definition.steps if plan.undo is not None} == before


def test_an_unknown_pivot_is_asked_again_so_it_needs_nobody() -> None:
    assert Fulfilment.definition().by_name["ship"].send == "ShipOrder"


def test_the_services_know_no_saga() -> None:
    program = "import sys, choreo.saga.demo.services; print('choreo.saga.saga' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
