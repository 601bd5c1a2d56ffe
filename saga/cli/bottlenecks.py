"""`saga bottlenecks`: where the time of sagas goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ...events.errors import ConfigurationError
from .shell import Shell

if TYPE_CHECKING:
    from ..bottlenecks import Bottleneck


async def bottlenecks(
    *,
    type: list[str] | None = None,  # noqa: A002 - the option's name
    weeks: int = 4,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Show where the time of sagas goes: each step's share, its quantiles, and whether it has become slower.

    Counted is what ended well, from a step's turn to its answer. The trend compares the median of the latest week with
    the four weeks before.

    For example: saga bottlenecks --type fulfilment --weeks 1

    Args:
        type: only of this type.
        weeks: how many of the newest weeks count.
    """
    from ..bottlenecks import bottlenecks as look
    from ..durations import weeks_of

    if weeks < 1:
        raise ConfigurationError(f"--weeks {weeks}: write 1 or more")
    async with shell.sagas() as database:
        known = await database.read(lambda connection: weeks_of(connection, type or ()))
    found = look(known, weeks)
    if shell.machine:
        shell.json([told(each) for each in found])
        return
    _draw(shell, found)
    counted = sum(each.usual.size for each in found)
    shell.hint(f"{counted:,} durations in {len(found)} steps" if found else "no step has ended well yet")


def told(each: Bottleneck) -> dict[str, Any]:
    return {
        "schema": "saga.bottleneck/v1",
        "type": each.type,
        "step": each.stretch.step,
        "undo": each.stretch.kind == "undo",
        "count": each.usual.size,
        "total_ms": each.total // 1_000,
        "p50_ms": each.usual.p50 // 1_000,
        "p95_ms": each.usual.p95 // 1_000,
        "p99_ms": each.usual.p99 // 1_000,
        "share": round(each.share, 4),
        "trend": None if each.trend is None else round(each.trend, 4),
    }


def _draw(shell: Shell, found: list[Bottleneck]) -> None:
    from .tables import draw
    from .times import span

    rows = [
        [
            each.type,
            each.stretch.step + (" (undo)" if each.stretch.kind == "undo" else ""),
            f"{each.usual.size:,}",
            span(each.usual.p50),
            span(each.usual.p95),
            f"{100 * each.share:.0f} %",
            "-" if each.trend is None else f"{100 * each.trend:+.0f} %",
        ]
        for each in found
    ]
    if rows:
        headers = ["SAGA", "STEP", "DONE", "HALF WITHIN", "95 % WITHIN", "SHARE", "TREND"]
        draw(shell, headers, rows, right={2, 3, 4, 5, 6}, elastic={0, 1})
