"""What an unsampled saga costs: a service at most 5 µs per event, held against the SDK within the same run."""

from __future__ import annotations

from tests.support.cost import BUDGET, cases, measure, told

SDK_UNSAMPLED = 7.5
"""Microseconds of one unsampled span of the SDK where the budget was set."""


def test_an_event_of_an_unsampled_saga_keeps_within_the_budget() -> None:
    found = measure(cases(), rounds=5, calls=2_000)
    added = found["unsampled"] - found["no tracing at all"]
    assert added <= BUDGET / SDK_UNSAMPLED * found["one unsampled span of the SDK"], found
    assert added * 5 < found["sampled, without export"], "nothing of a sampled event is done"


def test_the_coordinator_tells_nothing_of_an_unsampled_saga_before_its_end() -> None:
    found = measure({"sampled": told(sampled=True), "not": told(sampled=False)}, rounds=5, calls=1_000)
    assert found["not"] * 5 < found["sampled"], found
