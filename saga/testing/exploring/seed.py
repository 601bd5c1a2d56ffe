"""A seed, as people pass it on: which run, and what of it is left after shrinking."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ....events.errors import ConfigurationError

_FORM = re.compile(r"(\d+|calm)(?::e([\d,]*))?(?::f([\d,]*))?(:plain)?")


@dataclass(frozen=True)
class Seed:
    """Names one run: `Seed("17")`, or `Seed("17:e0:f1:plain")` for what shrinking has left of it.

    Args:
        text: as `explore` printed it.

    Raises:
        ConfigurationError: it is no seed.
    """

    text: str
    number: int = field(init=False, compare=False)
    events: tuple[int, ...] | None = field(init=False, compare=False)
    faults: tuple[int, ...] | None = field(init=False, compare=False)
    plain: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        found = _FORM.fullmatch(self.text)
        if found is None:
            raise ConfigurationError(
                f'{self.text!r} is no seed; write a number, or what explore printed, e.g. "17:e0:f1"'
            )
        number, events, faults, plain = found.groups()
        calm = number == "calm"
        object.__setattr__(self, "number", 0 if calm else int(number))
        object.__setattr__(self, "events", _numbers(events))
        object.__setattr__(self, "faults", () if calm else _numbers(faults))
        object.__setattr__(self, "plain", calm or plain is not None)

    @classmethod
    def of(cls, number: int, events: tuple[int, ...], faults: tuple[int, ...], *, plain: bool) -> Seed:
        """Make the seed of a part of a run: these events and faults of it, by their places."""
        kept = ",".join(map(str, events))
        wrong = ",".join(map(str, faults))
        return cls(f"{number}:e{kept}:f{wrong}{':plain' if plain else ''}")

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f'Seed("{self.text}")'


def _numbers(text: str | None) -> tuple[int, ...] | None:
    return None if text is None else tuple(int(part) for part in text.split(",") if part)
