"""`saga list -w`: a list that is shown again and again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ...events.errors import StoreUnreachable
from .shell import Shell

if TYPE_CHECKING:
    from ..queries import Filter, SagaRow

_PAUSE = 1.0
_BELOW = 3
"""Lines that the frame needs besides its rows: headers, footer, and the one that the cursor stands in."""


async def follow_list(shell: Shell, wanted: Filter, *, sort: str, limit: int | None) -> None:
    """Show a list until somebody interrupts it.

    On a terminal it is one frame that is drawn again, and the last one stays. Elsewhere each saga that has changed is
    one line, or one object. A store that is away for a while is asked again.

    Args:
        shell: where to.
        wanted: which sagas.
        sort, limit: as for `saga list`.
    """
    if shell.interactive and shell.output in ("text", "wide"):
        await _frames(shell, wanted, sort, limit)
    else:
        await _changes(shell, wanted, sort, limit)


async def _frames(shell: Shell, wanted: Filter, sort: str, limit: int | None) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from .listing import footer, list_lines, read_list

    room = max(1, shell.out.height - _BELOW)
    most = room if limit is None else min(limit, room)
    async with shell.sagas() as database:
        with Live(console=shell.out, auto_refresh=False, transient=False) as live:
            while True:
                try:
                    now = await database.read(database.now)
                    rows, counts, notes = await read_list(database, wanted, sort=sort, limit=most)
                    lines = list_lines(shell, rows, now, notes, shell.out.width)
                    for line in lines:
                        line.no_wrap, line.overflow = True, "ellipsis"
                    live.update(Group(*lines, Text(footer(len(rows), counts), "dim")), refresh=True)
                except StoreUnreachable as error:
                    live.update(Text(f"waiting for the store: {error.message}", "yellow"), refresh=True)
                await asyncio.sleep(_PAUSE)


async def _changes(shell: Shell, wanted: Filter, sort: str, limit: int | None) -> None:
    from .. import queries
    from ..report import summary
    from .times import clock_time

    seen: dict[str, SagaRow] = {}
    async with shell.sagas() as database:
        while True:
            try:
                now = await database.read(database.now)
                rows = await database.read(lambda c: queries.list_sagas(c, wanted, sort=sort, limit=limit))
            except StoreUnreachable as error:
                shell.hint(f"waiting for the store: {error.message}")
                await asyncio.sleep(_PAUSE)
                continue
            for row in sorted(rows, key=lambda row: (row.updated_at, row.id)):
                if seen.get(row.id) == row:
                    continue
                if shell.machine:
                    shell.json_line(summary(row, now))
                elif shell.output == "id":
                    shell.lines([row.id])
                else:
                    time = clock_time(row.updated_at, shell.time or "local")
                    note = " ".join([*row.conditions, *([row.error] if row.error else [])])
                    shell.lines([f"{time}  {row.id:<24}  {row.phase:<12}  {row.step or '-':<16}  {note}".rstrip()])
            seen = {row.id: row for row in rows}
            await asyncio.sleep(_PAUSE)
