"""How far a stream framework has come with what was brought to it, and whether it has forgotten to commit that.

Faust keeps the acknowledged offsets of a partition in a list and commits up to the first hole in it. After a rebalance
such a hole may stay for ever (faust-streaming/faust#318 and others): everything is handled, and nothing committed any
more. What was handled without a hole is known here, so that case can be told from a slow one. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..events.envelope import TopicPartition

STALLED = 30.0
"""Seconds without any progress after which handled events that are not committed count as forgotten."""

_MOST_TRIES = 3


@dataclass(slots=True)
class _Run:
    """Offsets of a partition that one reader handled one after another: `first` up to, and without, `following`."""

    first: int
    following: int


@dataclass(slots=True)
class _Look:
    """What was last seen of a partition.

    Args:
        committed, end: how far the group had come, and where the partition ended.
        since: when that was seen first, seconds.
        tries: how often it was said to be stalled since then.
    """

    committed: int | None
    end: int
    since: float
    tries: int = 0


class Following:
    """What was handled of each partition, and what of it nobody commits."""

    def __init__(self) -> None:
        self._readers: dict[str, set[str]] = {}
        self._runs: dict[tuple[str, TopicPartition], _Run] = {}
        self._looks: dict[TopicPartition, _Look] = {}

    def reads(self, reader: str, topics: Iterable[str]) -> None:
        """Note that a reader handles every event of these topics."""
        for topic in topics:
            self._readers.setdefault(topic, set()).add(reader)

    def handled(self, reader: str, place: TopicPartition, offset: int) -> bool:
        """Note that a reader has finished an event for good; say whether it had done so before."""
        run = self._runs.get((reader, place))
        if run is None or not run.first <= offset <= run.following:
            self._runs[reader, place] = _Run(offset, offset + 1)
            return False
        again = offset < run.following
        run.following = max(run.following, offset + 1)
        return again

    def stalled(
        self, committed: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int], now: float
    ) -> dict[TopicPartition, int]:
        """Give the partitions that are handled to their end and not committed; from where each is to be read again.

        Each is named three times at most, as long as nothing moves: reading again did not help then.

        Args:
            committed: how far the group has committed.
            ends: where the partitions end that are ours.
            now: seconds on a clock that only goes forward.
        """
        found: dict[TopicPartition, int] = {}
        for gone in self._looks.keys() - ends.keys():
            del self._looks[gone]
        self._runs = {key: run for key, run in self._runs.items() if key[1] in ends}
        for place, end in ends.items():
            at, look = committed.get(place), self._looks.get(place)
            if look is None or (look.committed, look.end) != (at, end):
                self._looks[place] = _Look(at, end, now)
            elif now - look.since >= STALLED and look.tries < _MOST_TRIES:
                begin = self._handled_from(place, at, end)
                if begin is not None:
                    look.since, look.tries = now, look.tries + 1
                    found[place] = begin
        return found

    def _handled_from(self, place: TopicPartition, committed: int | None, end: int) -> int | None:
        """Give what follows the committed events if all readers have handled that, up to the end."""
        runs = [self._runs.get((reader, place)) for reader in self._readers.get(place.topic, ())]
        begin = committed
        if begin is None:
            begin = min((run.first for run in runs if run is not None), default=end)
        whole = all(run is not None and run.first <= begin and run.following == end for run in runs)
        return begin if runs and whole and begin < end else None
