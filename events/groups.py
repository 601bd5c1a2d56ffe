"""A consumer group as a value: who is in it, which rebalance it is at, who holds which partition.

The protocol is Kafka's eager one (revoke, drain, join, assign). A *round* is one rebalance: it begins when a member
comes or goes, and settles when every member has joined it. A member keeps its partitions until it joins the next round
or is expired, so a partition never has two owners. No I/O and no clock: both embedded brokers drive it, memory.py in a
dict and local.py in a table.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .envelope import TopicPartition


@dataclass(slots=True)
class Member:
    """One member: its name, what it reads, the round that it has joined, and what it holds."""

    client: str
    topics: tuple[str, ...]
    round: int
    partitions: frozenset[TopicPartition] = frozenset()


@dataclass(frozen=True, slots=True)
class View:
    """What a member sees of its group.

    Args:
        round: the group's present rebalance.
        joined: this member has joined it.
        partitions: what it is assigned; None until the round has settled.
    """

    round: int
    joined: bool
    partitions: frozenset[TopicPartition] | None


@dataclass(slots=True)
class Group:
    """The state of one group; `since` is when its round began, in microseconds."""

    round: int = 0
    since: int = 0
    settled: bool = True
    members: dict[str, Member] = field(default_factory=dict)

    def join(self, member: str, client: str, topics: Sequence[str], now: int) -> None:
        """Let a new member in, which holds nothing yet."""
        self._begin(now)
        self.members[member] = Member(client, tuple(topics), self.round)

    def rejoin(self, member: str) -> None:
        """Note that a member has let go of its partitions and takes part in the present round."""
        if member in self.members:
            self.members[member].round = self.round
            self.members[member].partitions = frozenset()

    def remove(self, members: Collection[str], now: int) -> None:
        """Let members go, those who left and those who died."""
        gone = [member for member in members if self.members.pop(member, None)]
        if gone:
            self._begin(now)

    def laggards(self, now: int, limit: int) -> list[str]:
        """Name the members that have not joined the present round within `limit` microseconds."""
        if self.settled or now - self.since < limit:
            return []
        return [name for name, member in self.members.items() if member.round != self.round]

    def settle(self, partitions: Mapping[str, int]) -> bool:
        """Assign the partitions if every member has joined the round; say whether that was done now.

        Args:
            partitions: the number of partitions of each topic.
        """
        if self.settled or any(member.round != self.round for member in self.members.values()):
            return False
        assigned = assign_range({name: member.topics for name, member in self.members.items()}, partitions)
        for name, member in self.members.items():
            member.partitions = assigned[name]
        self.settled = True
        return True

    def view(self, member: str) -> View | None:
        """Show the group to one member; None when it is not in the group (any more)."""
        found = self.members.get(member)
        if found is None:
            return None
        joined = found.round == self.round
        return View(self.round, joined, found.partitions if self.settled and joined else None)

    def owns(self, member: str, partitions: Iterable[TopicPartition]) -> bool:
        """Say whether a member holds all these partitions, which is what it takes to commit."""
        found = self.members.get(member)
        return found is not None and found.partitions.issuperset(partitions)

    def clients(self) -> tuple[str, ...]:
        """Give the names of the members."""
        return tuple(sorted(member.client for member in self.members.values()))

    def topics(self) -> set[str]:
        """Give every topic that some member reads."""
        return {topic for member in self.members.values() for topic in member.topics}

    def dump(self) -> str:
        """Write it as JSON."""
        members = {
            name: [member.client, member.topics, member.round, sorted(member.partitions)]
            for name, member in self.members.items()
        }
        return json.dumps([self.round, self.since, self.settled, members])

    @classmethod
    def load(cls, text: str) -> Group:
        """Read what `dump` wrote."""
        round_, since, settled, members = json.loads(text)
        return cls(
            round_,
            since,
            settled,
            {
                name: Member(client, tuple(topics), joined, frozenset(TopicPartition(*pair) for pair in partitions))
                for name, (client, topics, joined, partitions) in members.items()
            },
        )

    def _begin(self, now: int) -> None:
        # Whoever comes or goes while a round is open takes part in that one; it has assigned nothing yet.
        if self.settled:
            self.round += 1
            self.since = now
            self.settled = False


def assign_range(
    members: Mapping[str, Sequence[str]], partitions: Mapping[str, int]
) -> dict[str, frozenset[TopicPartition]]:
    """Assign by range, as Kafka's RangeAssignor: equal partition counts put one key's partitions at one member (R9).

    Args:
        members: the topics that each member reads.
        partitions: the number of partitions of each topic.
    """
    assigned: dict[str, set[TopicPartition]] = {name: set() for name in members}
    for topic in sorted({topic for topics in members.values() for topic in topics}):
        readers = sorted(name for name, topics in members.items() if topic in topics)
        share, extra = divmod(partitions.get(topic, 0), len(readers))
        first = 0
        for index, name in enumerate(readers):
            count = share + (index < extra)
            assigned[name].update(TopicPartition(topic, number) for number in range(first, first + count))
            first += count
    return {name: frozenset(found) for name, found in assigned.items()}
