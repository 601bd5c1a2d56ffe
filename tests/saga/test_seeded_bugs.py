"""`explore` finds bugs that are put into the real code; `make mutants` hunts them all, this a handful."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.bugs import BUGS, QUICKEST
from tests.mutants.patching import Moved, replaced
from tests.mutants.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_each_bug_can_still_be_put_into_the_code(bug: object) -> None:
    assert isinstance(bug, type(BUGS[0]))
    compile(replaced(f"choreo.{bug.module}", bug.old, bug.new), bug.module, "exec")


def test_a_bug_whose_code_has_moved_on_is_told_loudly() -> None:
    with pytest.raises(Moved, match="has 0 times, not once: no such text"):
        replaced("choreo.saga.batch", "no such text", "")


def test_there_are_at_least_thirty_of_them() -> None:
    assert len(BUGS) >= 30
    assert len({bug.name for bug in BUGS}) == len(BUGS)


def test_five_of_them_are_found() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "tests.mutants", "bugs", "--quickest"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"{len(QUICKEST)} of {len(QUICKEST)} bugs were found" in found.stdout


def test_a_skipped_step_whose_handler_gave_up_all_the_same_may_be_undone() -> None:
    """Another step has failed first, so a carrier is no longer wanted; but one may have been booked."""
    explorer = SCENARIOS["shop"](("gives-up",))
    try:
        assert explorer.first_failure([60]) is None
    finally:
        explorer.close()


def test_an_answer_in_the_very_moment_of_its_limit_has_not_come_before_it() -> None:
    """A room that is read so late that it is booked in the microsecond in which the coordinator gives it up."""
    explorer = SCENARIOS["trip"](("lag",))
    try:
        assert explorer.first_failure([74]) is None
    finally:
        explorer.close()
