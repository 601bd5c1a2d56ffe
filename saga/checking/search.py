"""Breadth first through a world: every state once, the shortest run to whatever is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from time import monotonic

from ..advance import advance as real_advance
from ..advance import begin as real_begin
from ..definition import Definition
from .actions import Action
from .judge import Broken
from .nodes import Advance, Begin
from .scope import Scope, covers
from .world import World

HAZARDS = frozenset(("unasked-pivot",))
"""What no coordinator can prevent: it is a fault of the definition."""

_EVERY = 2_000
"""States between two looks at the clock."""


@dataclass(frozen=True)
class BadRun:
    """A run that breaks an invariant.

    Args:
        broken: which, and how it shows.
        lines: what happens, in order.
    """

    broken: Broken
    lines: tuple[str, ...]

    @property
    def hazard(self) -> bool:
        """Whether the definition allows it whatever the coordinator decides; else the coordinator is at fault."""
        return self.broken.invariant in HAZARDS


@dataclass(frozen=True)
class Report:
    """What a model check found.

    Args:
        definition: what was checked.
        scope: how far.
        states, transitions, depth: how much was seen, and the longest of the shortest runs.
        coordinator: states of the coordinator alone.
        calls: of the code under test.
        seconds: how long it took.
        stopped: why it is not complete, "" where it is.
        bad: the shortest bad run of each invariant that is broken.
    """

    definition: Definition
    scope: Scope
    states: int
    transitions: int
    depth: int
    coordinator: int
    calls: int
    seconds: float
    stopped: str
    bad: tuple[BadRun, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong in what was seen."""
        return not self.bad


Progress = Callable[[int, int, int], None]
"""Is told of states, transitions and depth now and then."""


def model_check(
    definition: Definition,
    scope: Scope = Scope(),  # noqa: B008 - a value
    *,
    advance: Advance = real_advance,
    begin: Begin = real_begin,
    every: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Try everything that may happen to a saga in a small world, and judge each decision.

    Args:
        definition: the saga, as data.
        scope: how many faults, attempts and seconds.
        advance, begin: the code under test: the coordinator's own, or a changed copy.
        every: go on after the first bad run, to the shortest one of each invariant.
        progress: is called now and then. A KeyboardInterrupt ends the search, and what was seen is reported.

    Returns:
        What was seen; the bad runs, shortest first.
    """
    return Search(definition, scope, advance, begin, every, progress).run()


class Search:
    """One search; `model_check` makes it and gives its report."""

    def __init__(
        self,
        definition: Definition,
        scope: Scope,
        advance: Advance,
        begin: Begin,
        every: bool,
        progress: Progress | None,
    ) -> None:
        self.definition = definition
        self.scope = scope
        self.world = World(definition, scope, advance, begin)
        self.every = every
        self.progress = progress
        self.parents: dict[int, int] = {}
        self.seen: dict[int, int | list[int]] = {}
        self.bad: dict[str, BadRun] = {}
        self.transitions = 0
        self.depth = 0
        self.nodes_judged = 0

    def run(self) -> Report:
        """Search until everything was seen, something is wrong, or a limit is reached."""
        began = monotonic()
        stopped = ""
        try:
            stopped = self._search(began)
        except KeyboardInterrupt:
            stopped = "interrupted"
        return Report(
            self.definition,
            self.scope,
            len(self.parents),
            self.transitions,
            self.depth,
            len(self.world.nodes.nodes),
            self.world.nodes.calls,
            monotonic() - began,
            stopped,
            tuple(self.bad.values()),
        )

    def _search(self, began: float) -> str:
        world, parents, scope = self.world, self.parents, self.scope
        layer: list[int] = []
        for action, state, broken in world.first():
            if broken is not None:
                self.bad.setdefault(broken.invariant, BadRun(broken, (action.line,)))
            elif state not in parents:
                parents[state] = -1
                layer.append(state)
        budget = scope.states or 1 << 60
        while layer and not (self.bad and not self.every):
            if scope.depth and self.depth >= scope.depth:
                return f"the depth of {scope.depth} actions is reached"
            self.depth += 1
            following: list[int] = []
            for count, state in enumerate(layer):
                if count % _EVERY == 0:
                    if self.progress is not None:
                        self.progress(len(parents), self.transitions, self.depth)
                    if scope.seconds and monotonic() - began > scope.seconds:
                        return f"{scope.seconds:g} seconds are over"
                    if len(parents) > budget:
                        return f"{scope.states} states were seen"
                self._expand(state, following)
                if self.bad and not self.every:
                    return ""
            layer = following
        self._rounds()
        return ""

    def _rounds(self) -> None:
        """Look for timers that fire for ever: with nothing read, time alone must come to an end (V1)."""
        timed = self.world.timed()
        state_of: dict[int, int] = {}
        for state in self.parents:
            state_of.setdefault(self.world.place_of(state), state)
        over: set[int] = set()
        for first in timed:
            way: list[int] = []
            ahead = [iter((first,))]
            while ahead:
                number = next(ahead[-1], None)
                if number is None:
                    ahead.pop()
                    if way:
                        over.add(way.pop())
                elif number in way:
                    self._broken(
                        Broken("V1", "its timers fire again and again, and nothing changes"), state_of[number], None
                    )
                    return
                elif number not in over:
                    way.append(number)
                    ahead.append(iter(timed.get(number, ())))

    def _expand(self, state: int, following: list[int]) -> None:
        world, parents = self.world, self.parents
        acted = False
        for action, after, broken in world.next(state):
            acted = True
            self.transitions += 1
            if broken is not None:
                self._broken(broken, state, action)
                continue
            if after in parents or not self._new(after):
                continue
            parents[after] = state
            following.append(after)
        if not acted or world.quiet(state):
            for broken in world.settled(state):
                self._broken(broken, state, None)
        judged = world.nodes.broken
        if len(judged) > self.nodes_judged:
            found = judged[self.nodes_judged :]
            self.nodes_judged = len(judged)
            for number, broken in found:
                for action, after, _ in world.next(state):
                    if after >= 0 and after & ((1 << 24) - 1) == number:
                        self._broken(broken, state, action)
                        break

    def _new(self, state: int) -> bool:
        """Whether no state that is the same was seen with at least these faults left."""
        place, faults = self.world.place(state)
        known = self.seen.get(place)
        if known is None:
            self.seen[place] = faults
            return True
        if isinstance(known, int):
            if covers(known, faults):
                return False
            self.seen[place] = [known, faults]
            return True
        if any(covers(each, faults) for each in known):
            return False
        known.append(faults)
        return True

    def _broken(self, broken: Broken, state: int, action: Action | None) -> None:
        if broken.invariant in self.bad:
            return
        actions = [*self._way(state), *([action] if action is not None else [])]
        self.bad[broken.invariant] = BadRun(broken, tuple(each.line for each in actions))

    def _way(self, state: int) -> list[Action]:
        """Find the actions that lead to a state: for each pair of states what leads from one to the other."""
        states = [state]
        while (before := self.parents[states[-1]]) >= 0:
            states.append(before)
        states.reverse()
        first = next(action for action, after, _ in self.world.first() if after == states[0])
        found = [first]
        for before, after in pairwise(states):
            found.append(next(action for action, reached, _ in self.world.next(before) if reached == after))
        return found
