"""How often a process of ours looks for garbage."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import gc
from choreo.events.garbage import collect_seldom
collect_seldom()
kept = gc.get_freeze_count()
young = [[] for _ in range(20_000)]  # a burst of records
print(kept > 1_000, gc.get_count()[0] >= 20_000, gc.isenabled())
"""


def test_a_burst_of_objects_does_not_set_off_the_collector_and_start_up_is_never_walked_again() -> None:
    told = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True)
    assert told.stdout.split() == ["True", "True", "True"]
