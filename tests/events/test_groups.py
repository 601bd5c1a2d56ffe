"""The group's state machine as a value: no partition ever has two owners, whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from choreo.events.envelope import TopicPartition
from choreo.events.groups import Group, assign_range

PARTITIONS = {"a": 5, "b": 5, "c": 1}


def test_range_assignment_is_kafkas() -> None:
    members = {"m2": ["a", "b"], "m1": ["a", "b", "c"], "m3": ["a"]}
    assigned = assign_range(members, PARTITIONS)
    shown = {name: sorted(f"{topic}{number}" for topic, number in places) for name, places in assigned.items()}
    assert shown == {"m1": ["a0", "a1", "b0", "b1", "b2", "c0"], "m2": ["a2", "a3", "b3", "b4"], "m3": ["a4"]}


def test_a_group_survives_its_own_json() -> None:
    group = Group()
    group.join("m1", "one", ["a"], 7)
    group.settle(PARTITIONS)
    group.join("m2", "two", ["a", "b"], 8)
    assert Group.load(group.dump()) == group


def test_one_who_does_not_join_in_time_is_named() -> None:
    group = Group()
    group.join("m1", "one", ["a"], 0)
    group.settle(PARTITIONS)
    group.join("m2", "two", ["a"], 100)
    assert group.laggards(149, limit=50) == []
    assert group.laggards(150, limit=50) == ["m1"]
    group.rejoin("m1")
    assert group.laggards(150, limit=50) == []


class Rebalances(RuleBasedStateMachine):
    """Members come, drain, leave and die at random; `holding` is what each one believes it may work on."""

    def __init__(self) -> None:
        super().__init__()
        self.group = Group()
        self.holding: dict[str, frozenset[TopicPartition]] = {}
        self.count = 0

    @rule(topics=st.lists(st.sampled_from(sorted(PARTITIONS)), min_size=1, unique=True))
    def join(self, topics: list[str]) -> None:
        self.count += 1
        self.group.join(f"m{self.count}", f"client-{self.count}", topics, self.count)
        self.holding[f"m{self.count}"] = frozenset()
        self.group.settle(PARTITIONS)

    @rule(data=st.data())
    def drain_and_rejoin(self, data: st.DataObject) -> None:
        if self.holding:
            member = data.draw(st.sampled_from(sorted(self.holding)))
            view = self.group.view(member)
            if view is not None and not view.joined:
                self.holding[member] = frozenset()
                self.group.rejoin(member)
                self.group.settle(PARTITIONS)

    @rule(data=st.data())
    def take_over(self, data: st.DataObject) -> None:
        if self.holding:
            member = data.draw(st.sampled_from(sorted(self.holding)))
            view = self.group.view(member)
            if view is not None and view.partitions is not None:
                self.holding[member] = view.partitions

    @rule(data=st.data())
    def leave_or_die(self, data: st.DataObject) -> None:
        if self.holding:
            member = data.draw(st.sampled_from(sorted(self.holding)))
            del self.holding[member]
            self.group.remove([member], self.count)
            self.group.settle(PARTITIONS)

    @invariant()
    def no_partition_has_two_owners(self) -> None:
        held = [place for places in self.holding.values() for place in places]
        assert len(held) == len(set(held))

    @invariant()
    def who_holds_may_commit(self) -> None:
        for member, places in self.holding.items():
            assert self.group.owns(member, places)

    @invariant()
    def a_settled_group_leaves_nothing_over(self) -> None:
        if self.group.settled and self.group.members:
            assigned = {place for member in self.group.members.values() for place in member.partitions}
            topics = self.group.topics()
            assert assigned == {TopicPartition(t, n) for t in topics for n in range(PARTITIONS[t])}


Rebalances.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRebalances = Rebalances.TestCase
