"""The one seam to a broker: what choreo asks of it, and nothing more.

`kafka.py` and the embedded brokers (`memory.py`, `local.py`) implement it and obey one contract-test suite
(`tests/events/test_transport_contract.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from .envelope import Delivery, Record, TopicPartition

Begin = Literal["earliest", "latest"]
"""Where a group without a committed offset begins, when its listener does not seek."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it should be: `compacted` only for the topics that hold the latest state per key."""

    name: str
    partitions: int = 4
    compacted: bool = False
    replication: int = 0
    """Replicas; 0 leaves it to the broker's default."""
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as it is."""

    name: str
    partitions: int


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """A consumer group as it is: client ids of its live members, and the committed offset of each partition."""

    name: str
    members: tuple[str, ...]
    committed: Mapping[TopicPartition, int]


class Listener(Protocol):
    """Told of a rebalance. Both calls are awaited before the group goes on; they must end within the drain time."""

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Finish and commit what was read of these partitions: they are about to go."""

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """These are ours now; `consumer.seek` may be called here, before anything is read."""


class Consumer(Protocol):
    """One member of one consumer group."""

    async def poll(self, *, most: int, timeout: float) -> list[Delivery]:
        """Take at most `most` records, waiting at most `timeout` seconds for the first; in order within a partition.

        Where more are at hand, each partition gives its share, so that none is read far ahead of the others.

        Never cancel a poll: give it a short timeout instead.

        Raises:
            PositionLost: a position lies outside the log.
            BrokerUnreachable: the connection is gone for good.
        """

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit the *next* offset to read of each partition.

        Raises:
            CommitRefused: the group moved on and a partition is not ours any more; nothing was committed.
        """

    def assignment(self) -> frozenset[TopicPartition]:
        """Give the partitions that are ours now."""

    def position(self, partition: TopicPartition) -> int | None:
        """Give the offset from which `poll` goes on, if known; what no poll returns (control records) is passed."""

    async def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Give the group's committed offsets; a partition without one is left out."""

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read this partition from `offset` on."""

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """Stop returning records of these partitions; membership goes on."""

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """Return records of these partitions again."""

    async def begin_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Give the first offset still in the log of each partition."""

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Give the offset that the next record of each partition will get, whoever's transaction is open."""

    async def stable_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Give the offset up to which each partition can be read now: its end, or where an open transaction began."""

    async def offsets_at(self, partitions: Sequence[TopicPartition], timestamp: int) -> dict[TopicPartition, int]:
        """Give the first offset whose timestamp is at or after `timestamp` (milliseconds); the end where none is."""

    async def close(self) -> None:
        """Leave the group at once, so that others take over without waiting."""


class Transport(Protocol):
    """A connection to a broker; open it with `transports.connect(url)` and use it as an async context manager."""

    @property
    def url(self) -> str:
        """The address, without secrets."""

    async def __aenter__(self) -> Transport: ...
    async def __aexit__(self, *exc: object) -> None: ...

    async def send(self, records: Sequence[Record]) -> None:
        """Send records in order and return when *all* are acknowledged durably (acks=all).

        On an error some may have been written: send all again, with the same ids.

        Raises:
            TopicMissing, LimitExceeded, BrokerUnreachable
        """

    async def subscribe(
        self,
        group: str,
        topics: Sequence[str],
        *,
        listener: Listener | None = None,
        begin: Begin = "earliest",
        client: str = "choreo",
    ) -> Consumer:
        """Join a consumer group.

        Args:
            group: its name.
            topics: all must exist.
            listener: told of rebalances, the first assignment included.
            begin: where to begin without a committed offset.
            client: the member's name, shown in `members`.

        Raises:
            TopicMissing: naming every topic that is missing.
        """

    async def topics(self, names: Collection[str] | None = None) -> dict[str, TopicInfo]:
        """List the topics.

        Args:
            names: those of interest; of a large cluster it takes long to list all.

        Returns:
            Those of them that exist.
        """

    async def create_topics(self, topics: Sequence[TopicSpec]) -> list[str]:
        """Create those that do not exist; give the names that were created."""

    async def end_offsets(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """Give the end of every partition of these topics."""

    async def snapshot(self, topic: str) -> list[Delivery]:
        """Read a topic from its beginning to its present end, outside any group (for compacted state topics)."""

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        """Drop what partitions hold before these offsets, for ever.

        Raises:
            TopicMissing, BrokerUnreachable
            ConfigurationError: the broker does not allow it, as where a topic is compacted.
        """

    async def group(self, name: str) -> GroupInfo:
        """Describe a consumer group; an unknown one has no members and no offsets."""
