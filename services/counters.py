"""What became of the records that a worker read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What became of the records so far, and how often.

    Args:
        handled, duplicates, refused, dead, parked, delayed: jobs by their end (delayed: to a retry topic); an event
            counts once for each handler, and again for each later try.
        skipped: records of types that the service does not know.
        retries: failed tries that were followed by another.
        transactions: committed to the store.
    """

    handled: int = 0
    duplicates: int = 0
    refused: int = 0
    dead: int = 0
    parked: int = 0
    delayed: int = 0
    skipped: int = 0
    retries: int = 0
    transactions: int = 0

    def add(self, kinds: Iterable[str]) -> None:
        """Count jobs by their ends."""
        for kind, count in Counter(kinds).items():
            setattr(self, kind, getattr(self, kind) + count)
