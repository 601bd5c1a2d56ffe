"""A batch in lanes: parts with no saga and no partition in common, so that each may be a transaction of its own.

A transaction on PostgreSQL waits a third of its time for the server; two side by side fill each other's pauses. They
are to each other what two coordinators of one group are: each has sagas and partitions of its own, and stores how far
these were read with what that has led to.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy.exc import DBAPIError

from ..events.envelope import Delivery, TopicPartition
from .refusals import Refused, blames_input
from .routing import Arrival

MOST = {"sqlite": 1, "postgresql": 2}
"""Lanes at most: SQLite has one writer at a time, and a third transaction finds no pause left to fill."""

LEAST = 100
"""Records that are worth a transaction of their own."""

_Place = tuple[str, int]


class Lane(NamedTuple):
    """Part of a batch.

    Args:
        arrivals: in the order in which they are to be applied.
        refused: what could not be read or routed.
        read: up to where its partitions are read with it.
    """

    arrivals: Sequence[Arrival]
    refused: Sequence[Refused]
    read: Mapping[TopicPartition, int]


Apply = Callable[[Lane], Awaitable[None]]


def divided(batch: Lane, most: int) -> list[Lane]:
    """Divide a batch into lanes of about the same length.

    Args:
        batch: a whole one.
        most: lanes.

    Returns:
        At least one. Partitions that share a saga, or a lock that sagas want, are in one lane.
    """
    most = min(most, len(batch.arrivals) // LEAST)
    group = _groups(batch) if most > 1 else {}
    sizes = Counter(group[_place(arrival.delivery)] for arrival in batch.arrivals) if group else Counter()
    if len(sizes) < 2:
        return [batch]
    loads = [0] * min(most, len(sizes))
    nth: dict[_Place, int] = {}
    for each, size in sizes.most_common():
        nth[each] = loads.index(min(loads))
        loads[nth[each]] += size
    lane = {place: nth.get(each, 0) for place, each in group.items()}
    arrivals: list[list[Arrival]] = [[] for _ in loads]
    refused: list[list[Refused]] = [[] for _ in loads]
    read: list[dict[TopicPartition, int]] = [{} for _ in loads]
    for arrival in batch.arrivals:
        arrivals[lane[_place(arrival.delivery)]].append(arrival)
    for one in batch.refused:
        refused[lane[_place(one.arrival.delivery)]].append(one)
    for where, end in batch.read.items():
        read[lane[where]][where] = end
    return [Lane(*parts) for parts in zip(arrivals, refused, read, strict=True)]


def _groups(batch: Lane) -> dict[_Place, _Place]:
    """Give for each partition one of those that must be in its lane, the same one for all of them."""
    above: dict[_Place, _Place] = {place: place for place in batch.read}

    def top(place: _Place) -> _Place:
        while above[place] != place:
            place = above[place]
        return place

    first: dict[tuple[str, ...], _Place] = {}
    for arrival in batch.arrivals:
        place = _place(arrival.delivery)
        for target in arrival.targets:
            name = (target.type, target.key)
            for each in (name,) if target.lock is None else (name, (target.lock,)):
                other = first.setdefault(each, place)
                if other != place:
                    above[top(place)] = top(other)
    return {place: top(place) for place in above}


def _place(delivery: Delivery) -> _Place:
    return delivery.topic, delivery.partition


async def apply_all(lanes: Sequence[Lane], apply: Apply) -> None:
    """Apply lanes side by side, each to its end; where the store refuses a record, that one is set aside.

    Args:
        lanes: with nothing in common.
        apply: applies one, as one transaction.

    Raises:
        ChoreoError, DBAPIError: what stopped a lane; the others are applied all the same.
    """
    outcomes = await asyncio.gather(*(_apply(lane, apply) for lane in lanes), return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome


async def _apply(lane: Lane, apply: Apply) -> None:
    """Apply a lane; where the store refuses it, find the record that is to blame and set that one aside."""
    try:
        await apply(lane)
    except DBAPIError as error:
        if not blames_input(error):
            raise
        arrivals, refused, read = lane
        if len(arrivals) <= 1:
            blamed = [Refused(arrival, f"the store refuses it: {type(error.orig).__name__}") for arrival in arrivals]
            await apply(Lane([], [*refused, *blamed], read))
            return
        middle = len(arrivals) // 2
        await _apply(Lane(arrivals[:middle], refused, {}), apply)
        await _apply(Lane(arrivals[middle:], [], read), apply)
