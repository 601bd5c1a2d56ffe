"""What a check found: a code, how bad it is, where, a sentence, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

from ...events.errors import ConfigurationError

Severity = Literal["error", "warning", "hint"]
_ORDER: tuple[Severity, ...] = ("error", "warning", "hint")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found.

    Args:
        code: which rule; `docs/checking.md` lists them.
        severity: "error" will not work, "warning" may not, "hint" is worth a thought.
        sentence: what is wrong.
        remedy: what to do.
        saga, step, event, topic, service: where; "" for what does not apply.
        ignored: why it does not count, "" where it does.
    """

    code: str
    severity: Severity
    sentence: str
    remedy: str
    saga: str = ""
    step: str = ""
    event: str = ""
    topic: str = ""
    service: str = ""
    ignored: str = ""

    @property
    def place(self) -> str:
        """Where it is, as one phrase."""
        parts = [self.saga, f"step {self.step}" if self.step else "", self.event, self.service, self.topic]
        return ", ".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        """Give it as `saga.finding/v1`."""
        places = {name: getattr(self, name) or None for name in ("saga", "step", "event", "topic", "service")}
        return {
            "schema": "saga.finding/v1",
            "code": self.code,
            "severity": self.severity,
            "sentence": self.sentence,
            "remedy": self.remedy,
            **places,
            "ignored": self.ignored or None,
        }


class Findings(Sequence[Finding]):
    """What a check found, the worst first; those that are ignored come last and do not count.

    Args:
        found: in any order.
    """

    def __init__(self, found: Iterable[Finding]) -> None:
        self._found = sorted(
            dict.fromkeys(found),
            key=lambda each: (bool(each.ignored), _ORDER.index(each.severity), each.code, each.place),
        )

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Finding]: ...
    def __getitem__(self, index: int | slice) -> Finding | Sequence[Finding]:
        return self._found[index]

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found)

    def __repr__(self) -> str:
        return f"<{self.summary()}>"

    def of(self, *severities: Severity) -> list[Finding]:
        """List those of these severities that count."""
        return [each for each in self._found if each.severity in severities and not each.ignored]

    def fatal(self, *, strict: bool = False) -> list[Finding]:
        """List those that must not be: errors, and with `strict` warnings too."""
        return self.of("error", "warning") if strict else self.of("error")

    def summary(self) -> str:
        """Count them in words."""
        counts = [f"{len(self.of(each))} {each}{'s' if len(self.of(each)) != 1 else ''}" for each in _ORDER]
        ignored = sum(bool(each.ignored) for each in self._found)
        return " · ".join([*counts, *([f"{ignored} ignored"] if ignored else [])])

    def assert_none(self, *, strict: bool = False) -> None:
        """Fail a test where something must not be.

        Args:
            strict: warnings count too.

        Raises:
            AssertionError: with one line for each finding.
        """
        bad = self.fatal(strict=strict)
        if bad:
            lines = [f"  {each.severity} {each.code} ({each.place}): {each.sentence}; {each.remedy}" for each in bad]
            raise AssertionError("\n".join([f"saga check found {self.summary()}", *lines]))


def ignoring(found: Iterable[Finding], ignore: Mapping[str, str]) -> list[Finding]:
    """Mark what somebody has looked at and accepts.

    Args:
        found: what the rules say.
        ignore: a reason by `code`, or by `code:place` where the place is a saga, step, event, topic or service.

    Returns:
        The same findings, marked; and a warning for each entry that fits nothing any more.

    Raises:
        ConfigurationError: an entry has no reason.
    """
    for entry, reason in ignore.items():
        if not reason.strip():
            raise ConfigurationError(f"ignore {entry}: say why, as in --ignore '{entry}=the warehouse reads it'")
    used: set[str] = set()
    marked = []
    for each in found:
        fitting = [entry for entry in ignore if _fits(entry, each)]
        used.update(fitting)
        marked.append(replace(each, ignored=ignore[fitting[0]]) if fitting else each)
    unused = [
        Finding("unused-ignore", "warning", f"nothing is found any more that {entry} would ignore", "take it out")
        for entry in ignore
        if entry not in used
    ]
    return [*marked, *unused]


def _fits(entry: str, finding: Finding) -> bool:
    code, _, place = entry.partition(":")
    places = (finding.saga, finding.step, finding.event, finding.topic, finding.service)
    return code == finding.code and (not place or place in places)
