"""What may go wrong in a run, as values: which faults there are, and which of them a seed plans. Pure.

A fault is bound to progress, not to the clock: to a pass of a place in the code, a call, a commit, or the number of
records on the broker. So it meets the work that it is meant to meet, however long a run takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import NamedTuple

KINDS: Mapping[str, str] = {
    "kill": "a process dies at a place in the code",
    "crash": "a process dies at any moment",
    "freeze": "a process stands still; when that lasts, the others take it for dead",
    "fail-before": "a handler fails before its effect",
    "fail-after": "a handler fails after its effect",
    "gives-up": "a handler fails at one event each time",
    "duplicate": "a record comes twice",
    "delay": "a process's records are on their way for long",
    "torn": "the connection breaks while records are sent",
    "broker-away": "nobody reaches the broker",
    "lag": "a group reads one partition late",
    "store-busy": "a commit fails",
    "store-unknown": "a commit succeeds and an error says that it failed",
    "store-away": "nobody reaches a store",
    "join": "one more process comes, and goes again",
    "clock-forward": "the clock jumps forward",
    "clock-back": "the clock jumps back",
    "pause": "a person pauses a saga, and lets it go on later",
    "retry": "a person tries a step again that has failed",
    "skip": "a person lets a saga go on without a step",
}
"""Every kind of fault, and what it means."""

PEOPLE = ("pause", "retry", "skip")
"""What people do. It comes on top of what else a seed plans."""

USUAL = tuple(kind for kind in KINDS if kind != "skip")
"""What happens unless kinds are named: who skips a step wants another outcome, and rules about outcomes break."""


class Fault(NamedTuple):
    """One thing that goes wrong.

    Args:
        kind: one of `KINDS`.
        target: whom or what it hits.
        nth: at which pass, call, commit or record; from 1.
        amount: how long (seconds), or how often.
    """

    kind: str
    target: str
    nth: int
    amount: float = 0.0

    def __str__(self) -> str:
        at = f"{self.target} #{self.nth}" if self.target else f"at record {self.nth}"
        match self.kind:
            case "kill":
                process, _, place = self.target.partition("@")
                return f"kill {process} at pass {self.nth} of {place}, back after {self.amount:g}s"
            case "crash":
                return f"kill {self.target} at record {self.nth}, back after {self.amount:g}s"
            case "freeze" | "join" | "store-away" | "lag":
                return f"{self.kind} {self.target} at record {self.nth} for {self.amount:g}s"
            case "broker-away":
                return f"broker-away at record {self.nth} for {self.amount:g}s"
            case "fail-before" | "fail-after":
                return f"{self.kind} {self.target} from call {self.nth}, {self.amount:g} times"
            case "gives-up":
                return f"gives-up {self.target} at the event of call {self.nth}"
            case "duplicate":
                return f"duplicate {at}, after {self.amount:g}s"
            case "delay":
                return f"delay send {self.nth} of {self.target} by {self.amount:g}s"
            case "torn":
                return f"torn send {self.nth} of {self.target}, {int(self.amount)} records arrive"
            case "clock-forward" | "clock-back":
                return f"{self.kind} by {self.amount:g}s at record {self.nth}"
            case "pause":
                return f"a person pauses a saga at record {self.nth} for {self.amount:g}s"
            case "retry":
                return f"a person looks at record {self.nth}, for {self.amount:g}s at most, and says retry"
            case "skip":
                return f"a person skips a step at record {self.nth}"
            case _:
                return f"{self.kind} {at}"


@dataclass
class Survey:
    """What happens in a run in which nothing goes wrong: what there is to hit, and how often it comes by.

    Args:
        passes: of each place by each kind of process, `inventory@service.before_commit`.
        calls: of each handler.
        makers: the handlers whose failure a saga can undo: those of steps before the pivot.
        undoers: the handlers of undo commands.
        tries: attempts that each handler has.
        types: records of each event type that services and sagas published.
        sends: of each kind of process.
        commits: of each store.
        groups: partitions that each group reads something from, `inventory/orders/2`.
        records: on the broker.
    """

    passes: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    makers: tuple[str, ...] = ()
    undoers: tuple[str, ...] = ()
    tries: Mapping[str, int] = field(default_factory=dict)
    types: Counter[str] = field(default_factory=Counter)
    sends: Counter[str] = field(default_factory=Counter)
    commits: Counter[str] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    records: int = 0

    def targets(self, kinds: Collection[str]) -> list[tuple[str, str]]:
        """List every kind with everything that it can hit, in one order for ever."""
        processes = sorted({place.partition("@")[0] for place in self.passes})
        by_kind: dict[str, list[str]] = {
            "kill": sorted(self.passes),
            "crash": processes,
            "freeze": processes,
            "fail-before": sorted(name for name in self.calls if self.tries.get(name, 1) > 1),
            "fail-after": sorted(name for name in self.calls if self.tries.get(name, 1) > 1),
            "gives-up": sorted(name for name in self.makers if name in self.calls),
            "duplicate": sorted(self.types),
            "delay": sorted(self.sends),
            "torn": sorted(self.sends),
            "broker-away": [""],
            "lag": sorted(self.groups),
            "store-busy": sorted(self.commits),
            "store-unknown": sorted(self.commits),
            "store-away": sorted(self.commits),
            "join": processes,
            "clock-forward": [""],
            "clock-back": [""],
        }
        return [(kind, target) for kind, targets in by_kind.items() if kind in kinds for target in targets]


_TYPING = 1.5


@dataclass(frozen=True)
class Plan:
    """Everything that a seed decides.

    Args:
        coordinators: how many there are.
        doubled: a service that runs twice; "" for none.
        session: seconds until a process that died is missed.
        latency: the longest way of a record to the broker, seconds.
        gap: the longest pause between two events, seconds.
        batch: records in one transaction of the coordinator at most.
        faults: what goes wrong.
    """

    coordinators: int = 1
    doubled: str = ""
    session: float = 3.0
    latency: float = 0.0
    gap: float = 0.0
    batch: int = 1_000
    faults: tuple[Fault, ...] = ()


def make_plan(number: int, survey: Survey, kinds: Collection[str], services: Collection[str]) -> Plan:
    """Plan the run of a seed: the same number gives the same plan.

    The first fault goes round through everything that can be hit, so that many seeds leave nothing out; the others are
    drawn.

    Args:
        number: of the seed.
        survey: what can be hit.
        kinds: the kinds of faults that are wanted.
        services: names of those that may run twice.
    """
    random = Random(f"plan/{number}")
    targets = survey.targets(kinds)
    faults = []
    if targets:
        chosen = [targets[number % len(targets)]]
        by_kind = sorted({kind for kind, _ in targets})
        for _ in range(random.choice((0, 1, 1, 2, 3))):
            kind = random.choice(by_kind)
            chosen.append(random.choice([each for each in targets if each[0] == kind]))
        faults = [_fault(kind, target, survey, random) for kind, target in chosen]
    people = _of_people(number, survey, [kind for kind in PEOPLE if kind in kinds])
    names = sorted(services)
    plan = Plan(
        coordinators=random.choice((1, 1, 2)),
        doubled=random.choice((*names, *([""] * len(names)))) if names else "",
        session=random.choice((0.2, 3.0, 10.0)),
        latency=random.choice((0.0, 0.01, 0.3)),
        gap=random.choice((0.0, 0.05, 2.0)),
        batch=random.choice((1, 3, 1_000)),
        faults=(*faults, *people),
    )
    # Nobody types quickly enough to meet a saga whose records are no time on their way.
    return replace(plan, latency=_TYPING) if people else plan


def _of_people(number: int, survey: Survey, kinds: Sequence[str]) -> list[Fault]:
    """Plan what people do, in two runs of five."""
    random = Random(f"people/{number}")
    if not kinds or random.random() < 0.6:
        return []
    acts = (random.choice(kinds) for _ in range(random.choice((1, 1, 2))))
    return [
        Fault(kind, "", random.randint(1, max(1, survey.records)), random.choice((0.1, 5.0, 90.0))) for kind in acts
    ]


def _fault(kind: str, target: str, survey: Survey, random: Random) -> Fault:
    def any_of(count: int) -> int:
        return random.randint(1, max(1, count))

    match kind:
        case "kill":
            return Fault(kind, target, any_of(survey.passes[target]), random.choice((0.0, 0.5, 5.0, 40.0)))
        case "crash":
            return Fault(kind, target, any_of(survey.records), random.choice((0.0, 0.5, 5.0, 40.0)))
        case "freeze":
            return Fault(kind, target, any_of(survey.records), random.choice((0.1, 2.0, 15.0)))
        case "fail-before" | "fail-after":
            most = survey.tries.get(target, 1) - 1
            return Fault(kind, target, any_of(survey.calls[target]), random.randint(1, most))
        case "gives-up":
            return Fault(kind, target, any_of(survey.calls[target]))
        case "duplicate":
            return Fault(kind, target, any_of(survey.types[target]), random.choice((0.0, 0.0, 0.3, 5.0, 60.0)))
        case "delay":
            return Fault(kind, target, any_of(survey.sends[target]), random.choice((0.1, 1.0, 8.0)))
        case "torn":
            return Fault(kind, target, any_of(survey.sends[target]), random.choice((0, 1, 1_000)))
        case "broker-away":
            return Fault(kind, target, any_of(survey.records), random.choice((0.2, 3.0, 20.0)))
        case "lag":
            return Fault(kind, target, any_of(survey.records), random.choice((0.3, 5.0, 60.0)))
        case "store-busy" | "store-unknown":
            return Fault(kind, target, any_of(survey.commits[target]))
        case "store-away":
            return Fault(kind, target, any_of(survey.records), random.choice((0.2, 3.0, 20.0)))
        case "join":
            return Fault(kind, target, any_of(survey.records), random.choice((0.1, 1.0, 5.0)))
        case "clock-forward":
            return Fault(kind, target, any_of(survey.records), random.choice((1.0, 60.0, 7_200.0)))
        case "clock-back":
            return Fault(kind, target, any_of(survey.records), random.choice((0.1, 5.0, 120.0)))
    raise AssertionError(kind)
