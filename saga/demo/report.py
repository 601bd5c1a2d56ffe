"""What the demo prints: the outcomes, the proof, one order in full, and what to type next."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ..cli.shell import Shell
from ..cli.status import status
from ..cli.trace import draw
from ..instance import Instance
from ..words import Phase, StepState
from .books import Books, Check
from .traffic import FIRST, Mix

SCHEMA = "saga.demo/v1"
_GLYPHS = {Phase.COMPLETED: ("✔", "green"), Phase.COMPENSATED: ("↩", "yellow"), Phase.FAILED: ("✖", "red")}


def begin(shell: Shell, mix: Mix, folder: Path) -> None:
    """Say what is going to happen."""
    shell.hint(
        f"{mix.orders:,} orders, five services, one coordinator: cards are declined, stock runs out, a carrier is\n"
        "late, a handler crashes, events come twice. Kill it whenever you like: started again, it goes on.\n"
        f"Everything stays in {folder}."
    )


def gave_up(shell: Shell, sagas: Mapping[str, Instance], patience: float) -> None:
    """Say which sagas do not end."""
    still = sorted(key for key, instance in sagas.items() if not instance.phase.ended)
    example = f", such as {still[0]}, which waits for {sagas[still[0]].current_step}" if still else ""
    told = f"the demo gives up: nothing has moved for {patience:.0f} s, and {len(still):,} sagas are open{example}"
    shell.complain(told, kind="DemoStuck", code=1)


async def end(shell: Shell, books: Books, checks: Sequence[Check], folder: Path) -> None:
    """Print the outcomes, the proof, one compensated order, and what to type next."""
    if shell.machine:
        shell.json(_told(books, checks, folder))
    else:
        shell.show()
        shell.show(_outcomes(books))
        shell.show()
        shell.show(_proof(checks))
        key = _example(books)
        # The very commands that are named below, with the settings that they will have.
        broker, store = f"local:{folder / 'broker.db'}", f"sqlite:{folder / 'saga.db'}"
        here = replace(shell, home=str(folder), broker=broker, store=store, quiet=True)
        shell.show()
        await status(key, shell=here)
        shell.show()
        await draw(key, shell=here)
        shell.hint(_next(key, folder))
    wrong = [check for check in checks if not check.holds]
    if wrong:
        told = "; ".join(f"{check.name}: {check.told}" for check in wrong)
        shell.complain(f"the proof fails: {told}", kind="ProofFailed", code=1)


def _told(books: Books, checks: Iterable[Check], folder: Path) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "home": str(folder),
        "orders": len(books.orders),
        "outcomes": [
            {"phase": phase.value, "because": because or None, "orders": number}
            for phase, because, number in _counted(books)
        ],
        "proof": [{"name": check.name, "holds": check.holds, "told": check.told} for check in checks],
    }


def _counted(books: Books) -> list[tuple[Phase, str, int]]:
    counted = Counter((instance.phase, _because(instance)) for instance in books.sagas.values())
    ordered = sorted(counted.items(), key=lambda each: (each[0][0] is not Phase.COMPLETED, each[0][0], -each[1]))
    return [(phase, because, number) for (phase, because), number in ordered]


def _because(instance: Instance) -> str:
    if instance.cause is not None:
        return f"{instance.cause['step']}: {instance.cause['error']}"
    optional = [name for name, step in instance.steps.items() if step.state is StepState.DEGRADED]
    return ", ".join(f"without {name}: {instance.steps[name].error}" for name in optional)


def _outcomes(books: Books) -> Table:
    table = _table("OUTCOME")
    table.add_column("ORDERS", justify="right")
    table.add_column("BECAUSE")
    for phase, because, number in _counted(books):
        glyph, colour = _GLYPHS.get(phase, ("●", "blue"))
        table.add_row(Text(glyph, colour), Text(phase.value, colour), f"{number:,}", because)
    return table


def _proof(checks: Iterable[Check]) -> Table:
    table = _table("PROOF")
    table.add_column("")
    for check in checks:
        glyph, colour = ("✔", "green") if check.holds else ("✖", "red")
        table.add_row(Text(glyph, colour), Text(check.name, colour), check.told)
    return table


def _table(first: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column(first)
    return table


def _example(books: Books) -> str:
    """The most telling order: undone, and of those the one with the longest story."""
    undone = [instance for instance in books.sagas.values() if instance.phase is Phase.COMPENSATED]
    return max(undone, key=lambda instance: (instance.seq, instance.key)).key if undone else str(FIRST)


def _next(key: str, folder: Path) -> str:
    home = shlex.quote(str(folder))
    commands = (
        (f"saga list --home {home}", "all orders"),
        (f"saga status {key} --home {home}", "where an order is, and why"),
        (f"saga trace {key} --home {home}", "who did what, and how long it took"),
        (f"saga ignored --home {home}", "what was read and changed nothing: duplicates, and late events"),
    )
    width = max(len(command) for command, _ in commands)
    return "\n".join(["", "next", *(f"  {command:<{width}}   {meaning}" for command, meaning in commands)])
