"""`saga retention`: what is kept of sagas that have ended, for how long, and what goes next."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from .shell import Shell

RETENTION = "saga.retention/v1"
_NAMES = ("histories and commands of ended sagas", "ended sagas themselves", "what people asked for")


async def retention(*, shell: Annotated[Shell, Parameter(parse=False)]) -> None:
    """Show what is kept of sagas that have ended, what goes now and within a week, and what has gone.

    A running coordinator removes it by itself, in small steps, once everything up to then was read. CHOREO_RETENTION
    says after how long; `forever` or 0 turns it off. Open and FAILED sagas, and children of open ones, stay.
    """
    from ...events.clock import format_duration
    from .. import retention as retained
    from .tables import draw

    keep = shell.settings.kept
    async with shell.sagas() as database:
        if keep is not None:
            plan = await database.read(lambda c: retained.plan(c, keep, database.now(c)))
        else:
            gone = await database.read(retained.removed)
            plan = retained.Plan(retained.Removed(), retained.Removed(), gone)
    if shell.machine:
        shell.json(
            {
                "schema": RETENTION,
                "keep_ms": None if keep is None else keep // 1_000,
                "due": plan.due._asdict(),
                "within_a_week": plan.soon._asdict(),
                "removed": plan.removed._asdict(),
            }
        )
        return
    if keep is None:
        shell.lines(["everything is kept for ever (CHOREO_RETENTION)"])
    else:
        times = format_duration(keep), format_duration(retained.TOMBSTONES * keep)
        shell.lines(
            [f"kept after the end: history and commands {times[0]}, the saga itself {times[1]} (CHOREO_RETENTION)"]
        )
    rows = [
        [name, f"{due:,}", f"{soon:,}", f"{gone:,}"]
        for name, due, soon, gone in zip(_NAMES, plan.due, plan.soon, plan.removed, strict=True)
    ]
    draw(shell, ["WHAT", "DUE NOW", "WITHIN 7 DAYS", "GONE SO FAR"], rows, right={1, 2, 3})
    shell.hint("a running coordinator removes what is due within minutes; the audit is never cleaned up")
