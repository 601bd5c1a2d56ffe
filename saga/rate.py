"""The rate of undo commands: a mass failure must not become a flood of refunds (ruling R1)."""

from __future__ import annotations

from collections.abc import Sequence

from ..events.clock import SECOND


class Rate:
    """A bucket that fills with `per_second` tokens a second and holds one second's worth.

    Args:
        per_second: commands per second.
    """

    def __init__(self, per_second: int) -> None:
        self._pause = SECOND // per_second
        self._free_at = 0

    def hold_back(self, ids: Sequence[str], now: int) -> dict[str, int]:
        """Give the ids that have to wait, with the time (microseconds) at which each may go."""
        waiting = {}
        for id_ in ids:
            self._free_at = max(self._free_at, now - SECOND) + self._pause
            if self._free_at > now:
                waiting[id_] = self._free_at
        return waiting
