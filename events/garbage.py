"""How often a process of ours looks for garbage."""

from __future__ import annotations

import gc

_YOUNG = 50_000
_OLDER, _OLDEST = 20, 50


def collect_seldom() -> None:
    """Look for garbage less often, and never again in what start-up has made; for processes that are only choreo's.

    Nearly everything that a runtime makes is freed by counting references. With thousands of records in flight,
    CPython's collector would walk them again and again: measured at a third of a service's CPU time
    (`benchmarks/README.md`). What it finds is found later, so up to 50,000 more objects may wait for it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _OLDER, _OLDEST)
