"""A member of a Kafka group against a client that does everything at the worst moment: nothing is skipped.

The client here behaves as aiokafka does, with other things happening at each of its awaits: rebalances, seeks and
pauses by the member's own user, fetches that bring what was prefetched for an earlier position or assignment.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping, Sequence

import pytest

from choreo.events.embedded import Offsets
from choreo.events.envelope import Delivery, TopicPartition
from choreo.events.errors import BrokerUnreachable
from choreo.events.kafka_member import Found, KafkaMember

PLACES = tuple(TopicPartition("topic", number) for number in range(3))
END = 120


class WorstClient:
    """Kafka's client for one member, and the broker behind it."""

    def __init__(self, chance: random.Random, *, breaks: bool = False) -> None:
        self._chance = chance
        self._breaks = breaks
        self._positions: Offsets = {}
        self._paused: set[TopicPartition] = set()
        self.kept: Offsets = {}
        self.broke = 0

    async def _meanwhile(self) -> None:
        for _ in range(self._chance.choice((0, 0, 1, 2, 5))):
            await asyncio.sleep(0)

    def join(self, member: KafkaMember, topics: Sequence[str]) -> None:
        self.member = member

    def lose(self) -> None:
        """The assignment is void: so are positions and pauses."""
        self._positions, self._paused = {}, set()

    async def fetch(
        self, places: Collection[TopicPartition] | None, own: Collection[TopicPartition], timeout: float, most: int
    ) -> Found:
        await self._meanwhile()
        if self._breaks and self._chance.random() < 0.05:
            self.broke += 1
            raise BrokerUnreachable("now and then")
        found: dict[TopicPartition, list[Delivery]] = {}
        open_ = [p for p in self._positions if p not in self._paused and (places is None or p in places)]
        for place in self._chance.sample(open_, k=len(open_)):
            begin = self._positions[place]
            end = min(END, begin + self._chance.randint(0, 9), begin + most)
            if end > begin:
                # Every seventh offset is no record: the end of somebody's transaction.
                records = [_record(place, offset) for offset in range(begin, end) if offset % 7]
                self._positions[place] = end
                if records:
                    found[place] = records
                    most -= len(records)
        passed = {place: self._positions[place] for place in own if place in self._positions}
        await self._meanwhile()
        return Found(found, passed)

    def seek(self, place: TopicPartition, offset: int) -> None:
        self._positions[place] = offset

    def pause(self, places: Collection[TopicPartition]) -> None:
        self._paused.update(places)

    def resume(self, places: Collection[TopicPartition]) -> None:
        self._paused.difference_update(places)

    async def commit(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        await self._meanwhile()
        self.kept.update(offsets)

    async def committed(self, places: Sequence[TopicPartition]) -> Offsets:
        await self._meanwhile()
        return {place: self.kept[place] for place in places if place in self.kept}

    async def begin_offsets(self, places: Sequence[TopicPartition]) -> Offsets:
        await self._meanwhile()
        return dict.fromkeys(places, 0)

    async def end_offsets(self, places: Sequence[TopicPartition]) -> Offsets:
        await self._meanwhile()
        return dict.fromkeys(places, END)

    stable_offsets = offsets_at = end_offsets  # type: ignore[assignment]

    async def close(self) -> None:
        self.lose()


def _record(place: TopicPartition, offset: int) -> Delivery:
    return Delivery(place.topic, place.partition, offset, offset, b"k", b"v", ())


class Reader:
    """A user that commits only what it has worked on, and that notices every gap."""

    def __init__(self, client: WorstClient, chance: random.Random) -> None:
        self._client = client
        self._chance = chance
        self.member = KafkaMember(client, "group", ["topic"], self, "earliest")
        self.next: Offsets = {}
        self.worked: set[tuple[TopicPartition, int]] = set()
        self.rebalances = 0

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        await self._client._meanwhile()
        await self.member.commit({place: self.next[place] for place in partitions if place in self.next})
        self.next = {}

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        self.rebalances += 1
        await self._client._meanwhile()

    async def turn(self) -> None:
        try:
            records = await self.member.poll(most=self._chance.randint(1, 12), timeout=0)
        except BrokerUnreachable:
            return
        for record in records:
            expected = self.next.get(record.place, self._client.kept.get(record.place, 0))
            skipped = [offset for offset in range(expected, record.offset) if offset % 7]
            assert not skipped, f"{record.place}: {skipped} were skipped"
            self.next[record.place] = record.offset + 1
            self.worked.add((record.place, record.offset))
        for place in self.next:
            position = self.member.position(place)
            if position is not None and self.member.assignment() >= {place}:
                left = [offset for offset in range(self.next[place], position) if offset % 7]
                assert not left, f"{place} is said to be read to {position}, but {left} were not"
        dice = self._chance.random()
        ours = sorted(self.member.assignment())
        if dice < 0.15 and ours:
            self.member.pause([self._chance.choice(ours)])
        elif dice < 0.4:
            self.member.resume(ours)
        elif dice < 0.5 and ours:
            place = self._chance.choice(ours)
            back = self._client.kept.get(place, 0)
            if place in self.next and self.member.position(place) is not None:
                self.member.seek(place, back)
                self.next[place] = back
        elif dice < 0.7:
            await self.member.commit({p: o for p, o in self.next.items() if p in self.member.assignment()})


@pytest.mark.parametrize("seed", range(6))
async def test_row_31_whatever_happens_at_each_await_no_record_is_skipped(seed: int) -> None:
    chance = random.Random(seed)
    client = WorstClient(chance, breaks=True)
    reader = Reader(client, chance)
    member = reader.member

    async def rebalance() -> None:
        while True:
            for _ in range(chance.randint(1, 40)):
                await asyncio.sleep(0)
            await member.revoked()
            client.lose()
            await client._meanwhile()
            member.assigned(frozenset(chance.sample(PLACES, k=chance.randint(1, 3))))

    await reader.turn()
    group = asyncio.create_task(rebalance())
    try:
        for _ in range(300):
            await reader.turn()
    finally:
        group.cancel()
        await asyncio.gather(group, return_exceptions=True)
    # The group comes to rest, with everything here: what is paused and by whom does not matter any more.
    await member.revoked()
    client.lose()
    member.assigned(frozenset(PLACES))
    async with asyncio.timeout(60):
        while any((place, END - 2) not in reader.worked for place in PLACES):
            await reader.turn()
            member.resume(PLACES)
    await member.close()
    assert reader.rebalances > 5
    assert client.broke > 3
    assert reader.worked == {(place, offset) for place in PLACES for offset in range(END) if offset % 7}


async def test_a_pause_between_two_assignments_keeps_no_partition_for_ever() -> None:
    """Who pauses then thinks of the assignment before, and never resumes what it does not know to be paused."""
    chance = random.Random(1)
    client = WorstClient(chance)
    reader = Reader(client, chance)
    await reader.member.poll(most=1, timeout=0)
    reader.member.assigned(frozenset(PLACES))
    reader.member.pause(PLACES)  # before the task that takes over has begun
    async with asyncio.timeout(60):
        while len(reader.worked) < 10:
            for record in await reader.member.poll(most=10, timeout=0):
                reader.worked.add((record.place, record.offset))
    await reader.member.close()


async def test_row_31_nothing_is_read_of_partitions_that_go_again_while_they_are_taken_over() -> None:
    client = WorstClient(random.Random(2))
    told: list[str] = []

    class Slow:
        async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
            told.append("revoked")
            for _ in range(20):
                await asyncio.sleep(0)
            told.append("let go")

        async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
            told.append("assigned")
            for _ in range(5):
                await asyncio.sleep(0)

    member = KafkaMember(client, "group", ["topic"], Slow(), "earliest")
    await member.poll(most=1, timeout=0)
    member.assigned(frozenset(PLACES))
    await asyncio.sleep(0)
    going = asyncio.create_task(member.revoked())
    while not going.done():
        assert await member.poll(most=10, timeout=0) == []
    assert told == ["assigned", "revoked", "let go"]
    member.assigned(frozenset(PLACES))
    async with asyncio.timeout(60):
        while not await member.poll(most=10, timeout=0.01):
            pass
    await member.close()
