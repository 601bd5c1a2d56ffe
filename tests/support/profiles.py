"""How long Hypothesis looks: the same cases every time in CI, as many more as one likes in a soak."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine

SOAK = int(os.environ.get("CHOREO_SOAK", "1"))
"""How many times as many cases as in CI; above 1 they are different ones each time."""

QUICK = "CHOREO_QUICK_SEARCH" in os.environ
"""Ends at the first case that fails, as it is: for whoever only asks whether there is one (tests.mutants)."""


def bounded(cases: int, *, steps: int = 50, shrink: bool = True) -> settings:
    """Give the settings of one property.

    Args:
        cases: how many are tried in CI.
        steps: of a state machine, at most.
        shrink: look for the smallest case that fails; where a case takes long, that takes minutes.
    """
    return settings(
        max_examples=max(20, cases // 5) if QUICK else cases * SOAK,
        stateful_step_count=steps,
        derandomize=SOAK == 1,
        database=None,
        deadline=None,
        print_blob=True,
        phases=(Phase.explicit, Phase.generate, *((Phase.shrink,) if shrink and not QUICK else ())),
        report_multiple_bugs=not QUICK,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


def machine_test(machine: type[RuleBasedStateMachine], *, cases: int, steps: int = 50) -> Any:
    """Make the test class of a state machine."""
    test: Any = machine.TestCase
    test.settings = bounded(cases, steps=steps)
    return test
