"""The answer to why a saga is where it is: reasons, what comes by itself, what is usual, and what one can do. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..events.clock import SECOND, format_duration
from .pace import Forecast

_TELL_TIME = ("Working", "NoAnswer", "Slow", "Ended", "EarlyEventParked", "BreakerOpen", "Paused")
"""Codes whose sentences say a time of their own."""


class Reason(NamedTuple):
    """One thing that keeps a saga where it is.

    Args:
        code: its machine-readable word; `docs/cli.md` lists them.
        sentence: what, where and since when, for people.
        step: of which step; None for the saga as a whole.
        since: microseconds; None where it is not known.
        remedies: what a person can do about it: commands, or a sentence.
    """

    code: str
    sentence: str
    step: str | None = None
    since: int | None = None
    remedies: tuple[str, ...] = ()

    def text(self, now: int) -> str:
        """Say it, with how long it is so where the sentence does not."""
        if self.since is None or self.code in _TELL_TIME or now - self.since < SECOND:
            return self.sentence
        return f"{self.sentence}; for {format_duration(now - self.since)} now"


class Prospect(NamedTuple):
    """What happens at a time (microseconds) if nothing changes until then."""

    at: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole answer.

    Args:
        headline: where it is and what it waits for, in one sentence.
        reasons: why, the most likely culprit first; never empty.
        prospects: what happens by itself, and when.
        usual: how long what is open has taken, beside what is usual for it.
    """

    headline: str
    reasons: tuple[Reason, ...]
    prospects: tuple[Prospect, ...] = ()
    usual: tuple[Forecast, ...] = ()

    @property
    def remedies(self) -> tuple[str, ...]:
        """What a person can do, each thing once."""
        return tuple(dict.fromkeys(remedy for reason in self.reasons for remedy in reason.remedies))

    def lines(self, now: int) -> list[tuple[str, str]]:
        """Give it as text: a label for each line (why, then, usually, do) and what it says; the headline is apart.

        Args:
            now: the store's clock, microseconds.
        """
        told = [("why", each.text(now)) for each in self.reasons]
        for prospect in self.prospects:
            when = f"in {format_duration(prospect.at - now)}" if prospect.at > now else "now"
            told.append(("then", f"{when}: {prospect.sentence}"))
        told += [("usually", f"{each.name}: {each}") for each in self.usual]
        return [*told, *(("do", remedy) for remedy in self.remedies)]
