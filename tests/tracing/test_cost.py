"""What an unsampled saga costs services and coordinator: at most 5 µs per event, held against the SDK in one run."""

from __future__ import annotations

import pytest

from tests.support.cost import BUDGET, cases, measure, stock, told

SDK_UNSAMPLED = 7.5
"""Microseconds of one unsampled span of the SDK where the budget was set."""


def test_an_event_of_an_unsampled_saga_keeps_within_the_budget() -> None:
    found = measure(cases(), rounds=5, calls=2_000)
    added = found["unsampled"] - found["no tracing at all"]
    assert added <= BUDGET / SDK_UNSAMPLED * found["one unsampled span of the SDK"], found
    assert added * 5 < found["sampled, without export"], "nothing of a sampled event is done"


@pytest.mark.parametrize("turned", [False, True], ids=["one trace", "in its second trace"])
def test_the_coordinator_tells_nothing_of_an_unsampled_saga_before_its_end(turned: bool) -> None:
    here = {"sampled": told(sampled=True, turned=turned), "not": told(sampled=False, turned=turned), "SDK": stock()}
    found = measure(here, rounds=5, calls=1_000)
    assert found["not"] <= BUDGET / SDK_UNSAMPLED * found["SDK"], found
    assert found["not"] * 5 < found["sampled"], found
