"""The real parts of the suite (Kafka, PostgreSQL, MariaDB, Apicurio ...) and what happens when one is missing.

In CI (the variable `CI` is set) that is a failure. For a person the tests are skipped, each part is explained in one
line, and the last lines of the run count them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:  # the benchmarks start the same parts, also where nobody tests
    import pytest


class Missing(Exception):
    """A part is not there; the text says in one line what is missing and how to get it."""


def missing(part: str, how: str) -> NoReturn:
    """End the test because a real part is not there.

    Args:
        part: its name, as `Apache Kafka`.
        how: what is missing and how to get it, in one line.
    """
    import pytest

    if os.environ.get("CI"):
        pytest.fail(f"{part} is missing: {how}", pytrace=False)
    pytest.skip(f"{part} is missing: {how}")


def count_skipped(reports: Iterable[pytest.TestReport]) -> list[str]:
    """One line for each reason to skip, with the number of tests that did not run for it."""
    reasons: Counter[str] = Counter()
    for report in reports:
        if isinstance(report.longrepr, tuple):  # (file, line, reason)
            reasons[report.longrepr[2].removeprefix("Skipped: ")] += 1
    return [f"{count} tests did not run: {reason}" for reason, count in sorted(reasons.items())]
