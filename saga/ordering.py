"""The order in which a batch is applied (ruling R8): merged by time, causes before what they led to."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from ..events.envelope import Delivery, Envelope

Arrived = tuple[Delivery, Envelope]


def in_order(batch: Sequence[Arrived]) -> list[Arrived]:
    """Merge the partitions of a batch by event time, then move each event behind its cause.

    The order within a partition stays: it is the one thing that a broker promises.
    """
    partitions: dict[tuple[str, int], list[Arrived]] = {}
    for arrived in batch:
        delivery = arrived[0]
        partitions.setdefault((delivery.topic, delivery.partition), []).append(arrived)
    if len(partitions) > 1:
        streams = [
            [(envelope.time, place, index, (delivery, envelope)) for index, (delivery, envelope) in enumerate(records)]
            for place, records in partitions.items()
        ]
        # A record that is earlier than the one before it in its partition cannot overtake that one.
        for stream in streams:
            latest = 0
            for index, (time, place, number, arrived) in enumerate(stream):
                latest = max(latest, time)
                stream[index] = (latest, place, number, arrived)
        merged = [entry[3] for entry in heapq.merge(*streams)]  # no two have the same place and index
    else:
        merged = list(batch)
    return causes_first(merged)


def causes_first(batch: list[Arrived]) -> list[Arrived]:
    """Move each event behind its cause, where that is in the same batch."""
    ids = {envelope.id: index for index, (_, envelope) in enumerate(batch)}
    late = [
        index
        for index, (_, envelope) in enumerate(batch)
        if envelope.causation_id is not None and ids.get(envelope.causation_id, -1) > index
    ]
    if not late:
        return batch
    waiting: dict[str, list[Arrived]] = {}
    moved = set(late)
    for index in late:
        cause = batch[index][1].causation_id
        waiting.setdefault(cause or "", []).append(batch[index])
    ordered: list[Arrived] = []

    def emit(arrived: Arrived) -> None:
        stack = [arrived]
        while stack:
            current = stack.pop()
            ordered.append(current)
            stack.extend(reversed(waiting.pop(current[1].id, [])))

    for index, arrived in enumerate(batch):
        if index not in moved:
            emit(arrived)
    for left in waiting.values():  # a cycle of causes: nonsense, but nothing is dropped
        ordered.extend(left)
    return ordered
