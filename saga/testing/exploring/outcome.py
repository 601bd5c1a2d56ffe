"""What came of runs, as values."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from .seed import Seed


@dataclass(frozen=True)
class Failure:
    """A run that has shown what must not be.

    Args:
        seed: which run.
        rule: the rule that it broke: one of `docs/guarantees.md`, `always` or `finally`.
        told: how.
        story: what happened.
    """

    seed: Seed
    rule: str
    told: str
    story: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.told}\n\n{self.story}"


@dataclass
class Explored:
    """What an exploration has seen.

    Args:
        runs: how many.
        seconds: how long it took.
        planned, hit: runs in which each fault was planned, and in which it happened, by kind and target.
        failure: the first run that failed, in the order of the seeds.
    """

    runs: int = 0
    seconds: float = 0.0
    planned: Counter[tuple[str, str]] = field(default_factory=Counter)
    hit: Counter[tuple[str, str]] = field(default_factory=Counter)
    failure: Failure | None = None

    def __str__(self) -> str:
        pace = self.runs / self.seconds if self.seconds else 0.0
        lines = [f"{self.runs} runs in {self.seconds:.1f}s ({pace:.1f} a second)", "  planned happened"]
        for kind, target in sorted(self.planned):
            lines.append(f"{self.planned[kind, target]:>9} {self.hit[kind, target]:>8}  {kind} {target}".rstrip())
        return "\n".join(lines)

    def add(self, other: Explored) -> None:
        """Take in what another exploration has seen."""
        self.runs += other.runs
        self.planned.update(other.planned)
        self.hit.update(other.hit)
