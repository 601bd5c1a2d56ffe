"""`saga versions`: how many sagas run under each version, who has its code, and which may be retired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from .shell import Shell

if TYPE_CHECKING:
    from ..versions import Version


async def versions(
    type: str = "",  # noqa: A002 - the option's name
    /,
    *,
    late: str = "7d",
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """List the versions of each saga type: sagas by phase, who has the code loaded, and whether it may be retired.

    A version may be retired when no saga of it is open, paused or failed, and none was undone within the last --late: a
    late success may need an undo until then. The newest stays, since new sagas begin under it.

    Args:
        type: of this saga type only.
        late: how long after its end an undone saga may still be opened again by a late success.
    """
    from ...events.clock import duration
    from .. import queries
    from .. import versions as known

    async with shell.sagas() as database:
        now = await database.read(database.now)
        if type:
            await database.read(lambda connection: queries.newest_definition(connection, type))
        found = await database.read(lambda c: known.versions(c, now, type_=type, late=duration(late)))
    if shell.machine:
        shell.json([told(each) for each in found])
    elif shell.output == "id":
        shell.lines(f"{each.type}@{each.version}" for each in found)
    else:
        _draw(shell, found, now)
        free = sum(not each.keeps for each in found)
        shell.hint(f"{len(found)} versions · {free} may be retired: its code need not be loaded any more")


def told(version: Version) -> dict[str, Any]:
    from ..report import rfc3339

    return {
        "schema": "saga.version/v1",
        "type": version.type,
        "version": version.version,
        "hash": version.hash,
        "registered_at": rfc3339(version.registered_at),
        "newest": version.newest,
        "phases": dict(version.phases),
        "coordinators": list(version.coordinators),
        "may_be_retired": not version.keeps,
        "keeps": list(version.keeps),
    }


def _draw(shell: Shell, found: list[Version], now: int) -> None:
    from rich.text import Text

    from .tables import draw
    from .times import show_time

    style = shell.time or "relative"
    words = ("RUNNING", "COMPENSATING", "COMPLETED", "COMPENSATED", "FAILED", "CANCELLED")
    table: list[list[str | Text]] = []
    for each in found:
        phases = [f"{each.phases[word]:,} {word.lower()}" for word in words if each.phases.get(word)]
        nowhere = Text("nowhere", "yellow" if any(each.phases.get(word) for word in words[:2]) else "dim")
        table.append(
            [
                each.type,
                str(each.version),
                each.hash[:8],
                show_time(each.registered_at, style, now),
                " · ".join(phases) or "none",
                ", ".join(name.removeprefix("choreo-coordinator-") for name in each.coordinators) or nowhere,
                "yes" if not each.keeps else f"no: {'; '.join(each.keeps)}",
            ]
        )
    headers = ["TYPE", "VERSION", "HASH", "REGISTERED", "SAGAS", "LOADED BY", "MAY BE RETIRED"]
    if table:
        draw(shell, headers, table, right={1}, elastic={4, 5})
