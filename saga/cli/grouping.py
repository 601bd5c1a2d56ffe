"""`saga list --group-by`: sagas counted by what they have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .shell import Shell
from .shells import Shells

if TYPE_CHECKING:
    from ..queries import Filter


async def show_groups(shells: Shells, wanted: Filter, *, by: str, limit: int | None) -> None:
    """Print how many sagas of a filter there are by error, step, type or state.

    Args:
        shells: where to, and of which stores.
        wanted: which sagas.
        by: what they are counted by.
        limit: so many groups at most, the largest ones; None for all.
    """
    from .. import across, grouping

    shell = shells.first
    async with shells.sagas() as stores:
        now, found = await across.now(stores), await across.groups(stores, wanted, by)
    shown = found[:limit]
    if shell.machine:
        shell.json([grouping.told(each) for each in shown])
    elif shell.output == "id":
        shell.lines(each["example"] for each in shown)
    else:
        _draw(shell, shown, by, now)
    noun = "errors" if by == "error" else "groups"
    shell.hint(f"{sum(each['count'] for each in found):,} sagas in {len(found):,} {noun}")


def _draw(shell: Shell, found: list[dict[str, Any]], by: str, now: int) -> None:
    from ..grouping import spoken
    from .tables import draw
    from .times import show_time

    if not found:
        return
    style = shell.time or "relative"
    rows, runbooks = [], by == "error" and any(each["runbook"] for each in found)
    for each in found:
        times = [show_time(each[name], style, now) for name in ("first_at", "last_at")]
        what = [each["type"], each["step"] or "-", spoken(each)] if by == "error" else [spoken(each)]
        rows.append(
            [f"{each['count']:,}", *times, *what, each["example"], *([each["runbook"] or "-"] if runbooks else [])]
        )
    headers = ["TYPE", "STEP", "ERROR"] if by == "error" else [by.upper()]
    last = 2 + len(headers)
    draw(
        shell,
        ["COUNT", "FIRST SEEN", "LAST SEEN", *headers, "EXAMPLE", *(["RUNBOOK"] if runbooks else [])],
        rows,
        right={0, 1, 2},
        elastic={last},
    )
