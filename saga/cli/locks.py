"""`saga locks`: who holds what, and who waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from .shell import Shell

if TYPE_CHECKING:
    from ..queues import Line

LOCK = "saga.lock/v1"


async def locks(*, shell: Annotated[Shell, Parameter(parse=False)]) -> None:
    """List the semantic locks that are held, with the sagas that wait for them, the next one first."""
    from .. import queues
    from .tables import draw
    from .times import show_time, span

    async with shell.sagas() as database:
        lines, now = await database.read(lambda c: (queues.lines(c), database.now(c)))
    if shell.machine:
        shell.json([_told(line) for line in lines])
        return
    if shell.output == "id":
        shell.lines(str(line.of) for line in lines)
        return
    style = shell.time or "relative"
    table = []
    for line in lines:
        name = str(line.of)
        if line.holder is not None:
            left = f"expires in {span(line.holder.until - now)}"
            table.append([name, line.holder.saga_id, "held", show_time(line.holder.since, style, now), left])
            name = ""
        for place, each in enumerate(line.waiting, start=1):
            left = f"gives up in {span(each.until - now)}"
            table.append([name, each.saga_id, f"waits, {place}.", show_time(each.at, style, now), left])
            name = ""
    if table:
        draw(shell, ["LOCK", "SAGA", "STATE", "SINCE", "LIMIT"], table, elastic={0, 1})
    waiting = sum(len(line.waiting) for line in lines)
    shell.hint(f"{sum(line.holder is not None for line in lines)} locks are held · {waiting} sagas wait")


def _told(line: Line) -> dict[str, Any]:
    from ..report import rfc3339

    holder = line.holder
    return {
        "schema": LOCK,
        "name": line.of.name,
        "key": line.of.key,
        "holder": None if holder is None else holder.saga_id,
        "held_since": None if holder is None else rfc3339(holder.since),
        "expires_at": None if holder is None else rfc3339(holder.until),
        "waiting": [
            {"id": each.saga_id, "since": rfc3339(each.at), "until": rfc3339(each.until)} for each in line.waiting
        ],
    }
