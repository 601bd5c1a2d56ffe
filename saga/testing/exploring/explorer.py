"""Runs of one saga with its services, seed by seed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from random import Random
from typing import Any

from ....events.codec import Codec
from ....events.errors import ConfigurationError
from ....events.event import Event
from ....events.keys import Keys, read_keys
from ....events.settings import Settings
from ....services.provided import Overrides, Provided, check_overrides, of_service
from ....services.service import Service
from ...loading import Parts
from ...saga import Saga
from ..keys import TEST_KEYS
from ..standins import StandIn, standin_services
from ..world import event_classes
from .faults import KINDS, USUAL, Plan, Survey, make_plan
from .invariants import check
from .outcome import Explored, Failure
from .quiet import collecting_seldom, quiet
from .run import Run
from .seed import Seed
from .simulation import Kit, Simulation, Violation
from .story import story

Events = Sequence[Event] | Callable[[Random], Iterable[Event]]
Rule = Callable[[Run], object]
Seeds = int | Iterable[int | str | Seed]

_COLLECT = 10
"""Runs between two looks for garbage."""


class Explorer:
    """Runs seeds of one saga with its services, in this process; `explore` is what tests call.

    Args:
        sagas, services, events, play, always, finally_, faults, fresh, overrides: as `explore`.
    """

    def __init__(
        self,
        sagas: type[Saga] | Sequence[type[Saga]],
        services: Sequence[Service] = (),
        *,
        events: Events,
        play: Mapping[type[Event], StandIn | Sequence[StandIn]] | None = None,
        always: Rule | None = None,
        finally_: Rule | None = None,
        faults: Collection[str] | None = None,
        fresh: Callable[[], object] | None = None,
        overrides: Overrides | None = None,
    ) -> None:
        wanted = list(USUAL) if faults is None else list(faults)
        if unknown := [kind for kind in wanted if kind not in KINDS]:
            raise ConfigurationError(f"explore(faults=...): {unknown[0]!r} is none of {', '.join(KINDS)}")
        self._kinds = [kind for kind in KINDS if kind in wanted]
        self._parts = Parts(tuple(services), (sagas,) if isinstance(sagas, type) else tuple(sagas))
        self._play = play or {}
        self._overrides = overrides or {}
        check_overrides(services, self._overrides)
        for service in services:  # settings that are missing are no finding
            Provided(service, Settings.model_construct(broker="memory:"), of_service(service, self._overrides))
        self._events = events
        self._always = always
        self._finally = finally_
        self._fresh = fresh
        self._survey: Survey | None = None
        self._open()

    def _open(self) -> None:
        play = self._play
        self._kit = Kit(self._parts, lambda: standin_services(play), self._overrides)
        with quiet():
            self._kit.prepare()
        self._classes = {cls.spec().type: cls for cls in event_classes(self._everything())}
        self._codec = Codec(self._kit.schemas, Keys(read_keys(TEST_KEYS)))
        _now(self._codec.prepare(self._classes.values()))

    def _everything(self) -> Parts:
        return Parts((*self._parts.services, *self._kit.stand_ins()), self._parts.sagas)

    def reopen(self) -> None:
        """Begin anew with stores of one's own: after a fork, and after the code has changed."""
        self._open()

    def close(self) -> None:
        """Let go of the stores."""
        self._kit.close()

    # ---- one run -----------------------------------------------------------------------------------------------

    def run(self, seed: int | str | Seed, explored: Explored | None = None) -> Failure | None:
        """Run one seed.

        Args:
            seed: which.
            explored: where to count the faults.

        Returns:
            What went wrong; None if nothing did.
        """
        seed = seed if isinstance(seed, Seed) else Seed(str(seed))
        simulation, failure = self._run(seed)
        if explored is not None:
            explored.runs += 1
            explored.planned.update((fault.kind, fault.target) for fault in simulation.plan.faults)
            explored.hit.update((fault.kind, fault.target) for fault in simulation.troubles.hits)
        return failure

    def digest(self, seed: int | str | Seed) -> str:
        """Run a seed and give a digest of all that it left: every record of the broker, every row of every store."""
        with quiet():
            simulation, _ = self._run(seed if isinstance(seed, Seed) else Seed(str(seed)))
        content = blake2b(digest_size=16)
        for sent in simulation.broker.log:
            content.update(repr(sent).encode())
        for name, disk in sorted(simulation.disks.items()):
            content.update("\n".join((name, *disk.dump())).encode())
        return content.hexdigest()

    def _run(self, seed: Seed) -> tuple[Simulation, Failure | None]:
        plan, events = self._planned(seed)
        if self._fresh is not None:
            self._fresh()
        views: dict[Simulation, Run] = {}

        def view(simulation: Simulation) -> Run:
            if simulation not in views:
                views[simulation] = Run(simulation, self._codec, self._classes)
            return views[simulation]

        rule = self._always
        always = None if rule is None else lambda simulation: _judge("always", rule, view(simulation))
        simulation = Simulation(self._kit, plan, seed.number, events, always)
        try:
            simulation.run()
            check(simulation)
            if self._finally is not None:
                _judge("finally", self._finally, view(simulation))
        except Violation as error:
            return simulation, Failure(seed, error.rule, error.told, story(simulation))
        return simulation, None

    def _planned(self, seed: Seed) -> tuple[Plan, list[Event]]:
        events = self._happenings(seed.number)
        plan = Plan() if seed.text == "calm" else make_plan(seed.number, self.survey, self._kinds, self._doubling())
        if seed.events is not None:
            events = [events[place] for place in seed.events if place < len(events)]
        if seed.faults is not None:
            plan = replace(plan, faults=tuple(plan.faults[each] for each in seed.faults if each < len(plan.faults)))
        if seed.plain:
            plan = Plan(faults=plan.faults)
        return plan, events

    def _happenings(self, number: int) -> list[Event]:
        if callable(self._events):
            return list(self._events(Random(f"events/{number}")))
        return list(self._events)

    def _doubling(self) -> list[str]:
        return [service.name for service in self._parts.services if service.store is not None]

    @property
    def survey(self) -> Survey:
        """What there is to hit: seen in a run in which nothing goes wrong.

        Raises:
            AssertionError: not even that one is as it should be.
        """
        if self._survey is None:
            simulation, failure = self._run(Seed("calm"))
            if failure is not None:
                raise AssertionError(f"{failure}\n\nwithout any fault")
            self._survey = _surveyed(simulation, self._everything())
        return self._survey

    # ---- many runs ---------------------------------------------------------------------------------------------

    def first_failure(self, seeds: Seeds) -> Failure | None:
        """Run seeds one after another until one fails; a run without faults comes first.

        Returns:
            The first failure, not shrunk; None if there is none.
        """
        with quiet():
            if self._survey is None:
                simulation, failure = self._run(Seed("calm"))
                if failure is not None:
                    return failure
                self._survey = _surveyed(simulation, self._everything())
            return self.explore(seeds).failure

    def explore(self, seeds: Seeds, stop: Callable[[], bool] = lambda: False) -> Explored:
        """Run seeds one after another, up to the first that fails.

        Args:
            seeds: which.
            stop: asked before each whether to stop.
        """
        explored = Explored()
        began = time.monotonic()
        with collecting_seldom() as collect:
            for seed in seeds_of(seeds):
                if stop():
                    break
                explored.failure = self.run(seed, explored)
                if explored.failure is not None:
                    break
                if explored.runs % _COLLECT == 0:
                    collect()
        explored.seconds = time.monotonic() - began
        return explored

    def shrink(self, failure: Failure) -> Failure:
        """Find a shorter run that breaks the same rule: fewer faults, fewer events, one process of each kind."""
        plan, events = self._planned(failure.seed)
        number = failure.seed.number
        kept = list(failure.seed.events or range(len(events)))
        faults = list(failure.seed.faults if failure.seed.faults is not None else range(len(plan.faults)))
        plain = failure.seed.plain
        best = failure

        def tried(kept: Sequence[int], faults: Sequence[int], plain: bool) -> bool:
            nonlocal best
            if events and not kept:
                return False  # where nothing is published no saga begins, and that breaks a rule of its own
            _, found = self._run(Seed.of(number, tuple(kept), tuple(faults), plain=plain))
            if found is None or found.rule != failure.rule:
                return False
            best = found
            return True

        if failure.seed.text == "calm":
            return failure
        if not plain and tried(kept, faults, True):
            plain = True
        faults = _fewer(faults, lambda few: tried(kept, few, plain))
        kept = _fewer(kept, lambda few: tried(few, faults, plain))
        _fewer(faults, lambda few: tried(kept, few, plain))
        return best


def seeds_of(seeds: Seeds) -> Iterator[Seed]:
    """List seeds."""
    if isinstance(seeds, int):
        return (Seed(str(number)) for number in range(seeds))
    return (seed if isinstance(seed, Seed) else Seed(str(seed)) for seed in seeds)


def _judge(name: str, rule: Rule, run: Run) -> None:
    try:
        rule(run)
    except Exception as error:
        told = str(error) or type(error).__name__
        raise Violation(
            name, told if isinstance(error, AssertionError) else f"{type(error).__name__}: {told}"
        ) from error


def _fewer(items: list[int], fails: Callable[[list[int]], bool]) -> list[int]:
    """Leave out as much as may be left out: halves first, then one by one."""
    size = max(1, len(items) // 2)
    while True:
        at = 0
        while at < len(items):
            few = items[:at] + items[at + size :]
            if fails(few):
                items = few
            else:
                at += size
        if size == 1:
            return items
        size //= 2


def _surveyed(simulation: Simulation, parts: Parts) -> Survey:
    groups: Counter[str] = Counter()
    topics = simulation.groups()
    for sent in simulation.broker.placed():
        for group, names in topics.items():
            if sent.topic in names:
                groups[f"{group}/{sent.topic}/{sent.partition}"] += 1
    handlers = {handler.full_name: handler for service in parts.services for handler in service.handlers}
    undoable: set[str] = set()
    for cls in parts.sagas:
        definition = cls.definition()
        pivot = definition.pivot
        for plan in definition.steps:
            if pivot is None or plan.name in definition.ancestors[pivot.name]:
                undoable.update(plan.done)
    makers = [
        name
        for name, handler in handlers.items()
        if handler.undoes is None and {event.spec().type for event in handler.signature.produces} & undoable
    ]
    return Survey(
        passes=simulation.troubles.passes,
        calls=simulation.troubles.calls,
        makers=tuple(makers),
        tries={name: handler.retry.attempts for name, handler in handlers.items()},
        types=simulation.troubles.types,
        sends=simulation.troubles.sends,
        commits=simulation.troubles.commits,
        groups=groups,
        records=simulation.records,
    )


def _now(work: Any) -> None:
    """Run what never waits."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")
