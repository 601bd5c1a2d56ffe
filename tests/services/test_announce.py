"""Services look for the sagas that coordinators have announced, often where there are coordinators."""

from __future__ import annotations

from collections.abc import Sequence

from choreo.events.catalog import DefinitionAnnouncement, announce
from choreo.events.envelope import TopicPartition
from choreo.events.memory import MemoryBroker
from choreo.services.announce import Definitions


class Asked(MemoryBroker):
    """A broker that counts how often it is asked for the ends of topics."""

    times = 0

    async def end_offsets(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        self.times += 1
        return await super().end_offsets(topics)


async def test_where_no_coordinator_has_ever_been_it_is_looked_for_less_and_less_often() -> None:
    async with Asked() as broker:
        definitions = Definitions(broker)
        for _ in range(100):
            assert await definitions.changed() is None
        assert broker.times == 1 + 1 + (100 - 3) // 4  # calls 1, 3, 7, 11 and so on


async def test_once_a_coordinator_is_there_each_call_looks_and_news_are_given_once() -> None:
    async with Asked() as broker:
        definitions = Definitions(broker)
        assert await definitions.changed() is None
        await announce(broker, DefinitionAnnouncement(type="order", version=1, hash=""))
        found = [await definitions.changed() for _ in range(4)]
        assert [None if each is None else [one.type for one in each] for each in found] == [None, ["order"], None, None]
        before = broker.times
        await definitions.changed()
        assert broker.times == before + 1
