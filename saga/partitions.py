"""How many partitions the topics have and have had: where they grow, keys move, and answers may lie in either place.

Kafka gives a topic more partitions while it is written to. From then on a key's records go to another partition, sooner
or later for each producer, while earlier ones may still be unread in the old one. So the read barrier of ruling R1
looks at every partition in which a key has ever stood; the fewest that a topic had is kept in the store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

import structlog
from sqlalchemy import Connection

from ..events.database import Database
from ..events.envelope import TopicPartition
from ..events.partitioner import partition_for
from ..events.transport import Transport
from . import store
from .barrier import answered_until, read_until
from .definition import Definition
from .instance import Instance

log = structlog.get_logger("choreo.coordinator")

_FEWEST = "partitions"


class Partitions:
    """The topics' partition counts, as one coordinator knows them.

    Attributes:
        counts: how many partitions each topic has.
        as_of: until when `counts` is known to hold, microseconds: a partition made later may hold what nobody has read.
    """

    def __init__(self, database: Database, transport: Transport) -> None:
        self._database = database
        self._transport = transport
        self._topics: frozenset[str] = frozenset()
        self._fewest: dict[str, int] = {}
        self.counts: Mapping[str, int] = {}
        self.as_of = 0

    async def begin(self, topics: Iterable[str]) -> list[str]:
        """Look after these topics from now on, as far as they exist.

        Args:
            topics: that can carry an answer.

        Returns:
            Those that exist, sorted.
        """
        self._topics = frozenset(topics)
        await self.look()
        self._topics = frozenset(self.counts)
        return sorted(self._topics)

    async def look(self, now: int | None = None) -> None:
        """Ask the broker, and keep what has changed.

        Args:
            now: the store's clock, read before this call; by default it is read here.
        """
        if now is None:
            now = await self._database.read(self._database.now)
        counts = {name: info.partitions for name, info in (await self._transport.topics(self._topics)).items()}
        if counts != self.counts:
            await self._learn(counts, now)
        self.counts, self.as_of = counts, max(self.as_of, now)

    def places(self, topic: str, key: str) -> set[int]:
        """Give the partitions of a topic in which a key may have stood."""
        count = self.counts[topic]
        text = key.encode()
        return {partition_for(text, each) for each in range(min(self._fewest.get(topic, count), count), count + 1)}

    def until(
        self, topics: Iterable[str], saved: Mapping[TopicPartition, int], own: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """Tell until when each partition of these topics was read; see `read_until`."""
        return read_until(topics, self.counts, saved, own, self.as_of)

    def answered(
        self, definition: Callable[[Instance], Definition], until: Mapping[TopicPartition, int]
    ) -> Callable[[Instance], int]:
        """Make the function that tells until when a saga's answers were read; see `answered_until`."""
        return lambda instance: answered_until(definition(instance), instance, until, self)

    async def _learn(self, counts: Mapping[str, int], now: int) -> None:
        for topic, count in counts.items():
            if count > (before := self.counts.get(topic, count)):
                log.warning(
                    "a topic has more partitions now: its keys move, and what comes of a key meanwhile may be out of "
                    "order; nothing is lost",
                    topic=topic,
                    before=before,
                    now=count,
                )
        kept = await self._database.read(fewest)
        self._fewest = {topic: min(count, kept.get(topic, count)) for topic, count in counts.items()}
        if any(kept.get(topic) != count for topic, count in self._fewest.items()):
            await self._database.write(lambda connection: _keep(connection, self._fewest, now))


def fewest(connection: Connection) -> dict[str, int]:
    """Read how many partitions each topic had when it had the fewest."""
    kept: dict[str, int] = json.loads(store.switch(connection, _FEWEST) or "{}")
    return kept


def _keep(connection: Connection, counts: Mapping[str, int], now: int) -> None:
    """Write the fewest, with what another coordinator may have written meanwhile."""
    kept = fewest(connection)
    both = {topic: min(kept.get(topic, count), counts.get(topic, count)) for topic, count in {**kept, **counts}.items()}
    store.set_switch(connection, _FEWEST, json.dumps(both, sort_keys=True), now, "coordinator")
