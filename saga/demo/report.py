"""What the demo prints: the outcomes, the proof, one order in full, and what to type next."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...events.settings import Settings
from ..instance import Instance
from ..words import Phase, StepState
from .books import Books, Check
from .traffic import Mix

_GLYPHS = {Phase.COMPLETED: ("✔", "green"), Phase.COMPENSATED: ("↩", "yellow"), Phase.FAILED: ("✖", "red")}


def out() -> Console:
    """Where results go."""
    return Console(highlight=False, soft_wrap=True)


def errors() -> Console:
    """Where everything else goes."""
    return Console(stderr=True, highlight=False)


def begin(mix: Mix, folder: Path) -> None:
    """Say what is going to happen."""
    errors().print(
        f"five services, one saga coordinator, {mix.orders:,} orders with seed {mix.seed}: "
        "cards are declined, stock runs out, a carrier is late, a handler crashes, events arrive twice"
    )
    errors().print(f"everything stays in {folder}; kill it and start it again: it goes on")


def gave_up(books: Books, patience: float) -> None:
    """Say which sagas do not end."""
    still = sorted(key for key, instance in books.sagas.items() if not instance.phase.ended)
    example = f", such as {still[0]} ({books.sagas[still[0]].current_step})" if still else ""
    errors().print(f"nothing has moved for {patience:.0f} s, and {len(still):,} sagas are open{example}")


async def end(books: Books, checks: Sequence[Check], settings: Settings) -> None:
    """Print the outcomes, the proof, one compensated order, and what to type next."""
    console = out()
    console.print(_outcomes(books))
    console.print(_proof(checks))
    told = _example(books)
    if told is not None:
        await _show(told, settings)
    _next(told, settings)


def _outcomes(books: Books) -> Table:
    table = Table("", "OUTCOME", "ORDERS", "BECAUSE", box=None, pad_edge=False)
    counted = Counter((instance.phase, _because(instance)) for instance in books.sagas.values())
    for (phase, because), number in sorted(counted.items(), key=lambda each: (each[0][0], -each[1])):
        glyph, colour = _GLYPHS.get(phase, ("●", "blue"))
        table.add_row(Text(glyph, colour), Text(phase.value, colour), Text(f"{number:,}", justify="right"), because)
    return table


def _because(instance: Instance) -> str:
    if instance.cause is not None:
        return f"{instance.cause['step']}: {instance.cause['error']}"
    optional = [name for name, step in instance.steps.items() if step.state is StepState.DEGRADED]
    return ", ".join(f"without {name}: {instance.steps[name].error}" for name in optional)


def _proof(checks: Sequence[Check]) -> Table:
    table = Table("", "PROOF", "", box=None, pad_edge=False)
    for check in checks:
        glyph, colour = ("✔", "green") if check.holds else ("✖", "red")
        table.add_row(Text(glyph, colour), Text(check.name, colour), check.told)
    return table


def _example(books: Books) -> Instance | None:
    """The most telling order: undone, and of those the one with the longest story."""
    undone = [instance for instance in books.sagas.values() if instance.phase is Phase.COMPENSATED]
    return max(undone, key=lambda instance: (instance.seq, instance.key), default=None)


async def _show(instance: Instance, settings: Settings) -> None:
    pass


def _next(told: Instance | None, settings: Settings) -> None:
    key = told.key if told is not None else "4711"
    home = shlex.quote(str(settings.home))
    console = errors()
    console.print("next")
    for command, meaning in (
        (f"saga list --home {home}", "all orders, those that need attention first"),
        (f"saga status {key} --home {home}", "where is this order, and why"),
        (f"saga trace {key} --home {home}", "who did what, and how long it took"),
    ):
        console.print(f"  {command:<48}  {meaning}")
