"""`saga schedules`: what starts by the clock, and when next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from .operate import USUAL, Way, ask
from .shell import Shell

if TYPE_CHECKING:
    from ..ticks import ScheduleRow

SCHEDULE = "saga.schedule/v1"

schedules = App(name="schedules", help="What starts by the clock: list, pause, resume.", help_format="plaintext")


@schedules.default
async def list_(*, shell: Annotated[Shell, Parameter(parse=False)]) -> None:
    """List the sagas that start by the clock, with their last and their next tick."""
    from .. import ticks
    from .tables import draw
    from .times import show_time

    async with shell.sagas() as database:
        rows, now = await database.read(lambda c: (ticks.all_schedules(c), database.now(c)))
    if shell.machine:
        shell.json([_told(row) for row in rows])
        return
    if shell.output == "id":
        shell.lines(row.type for row in rows)
        return
    style = "local" if shell.time in (None, "relative") else shell.time
    table = [
        [
            row.type,
            row.cron,
            row.zone,
            "-" if row.last_at is None else show_time(row.last_at, style, now),
            "-" if row.paused or row.next_at is None else show_time(row.next_at, style, now),
            _note(row),
        ]
        for row in rows
    ]
    if table:
        draw(shell, ["TYPE", "CRON", "ZONE", "LAST", "NEXT", "NOTE"], table)
    shell.hint(f"{len(rows)} schedules · {sum(row.paused for row in rows)} paused")


@schedules.command
async def pause(
    type: str,  # noqa: A002 - the option's name
    /,
    *,
    reason: str,
    way: Way = USUAL,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Let no tick of a schedule fire until it is resumed.

    Args:
        type: of the saga.
        reason: why, for the record.
    """
    return await _on_schedule(shell, "pause-schedule", type, reason, way)


@schedules.command
async def resume(
    type: str,  # noqa: A002 - the option's name
    /,
    *,
    reason: str = "",
    way: Way = USUAL,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Let a schedule go on with its next tick; those while it was paused do not fire.

    Args:
        type: of the saga.
        reason: why, for the record.
    """
    return await _on_schedule(shell, "resume-schedule", type, reason, way)


async def _on_schedule(shell: Shell, kind: str, type_: str, reason: str, way: Way) -> int:
    from ...events.errors import SagaNotFound
    from .. import ticks

    async with shell.sagas() as database:
        known = [row.type for row in await database.read(ticks.all_schedules)]
        if type_ not in known:
            there = f"; {' and '.join(known)} {'has' if len(known) == 1 else 'have'} one" if known else ""
            raise SagaNotFound(f"saga type {type_!r} has no schedule{there}")
        return await ask(shell, database, kind, None, reason, way, about=type_, type=type_)


def _note(row: ScheduleRow) -> str:
    if row.paused:
        return f"paused by {row.by or 'somebody'}" + (f": {row.reason}" if row.reason else "")
    return f"tried again: {row.error}" if row.error else "-"


def _told(row: ScheduleRow) -> dict[str, Any]:
    from ..report import rfc3339

    return {
        "schema": SCHEDULE,
        "type": row.type,
        "version": row.version,
        "cron": row.cron,
        "zone": row.zone,
        "missed": row.missed,
        "last_at": rfc3339(row.last_at),
        "next_at": None if row.paused else rfc3339(row.next_at),
        "paused": row.paused,
        "by": row.by or None,
        "reason": row.reason or None,
        "error": row.error,
    }
