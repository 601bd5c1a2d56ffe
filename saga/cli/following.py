"""`saga list -w`: a list that is shown again and again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ...events.errors import StoreUnreachable
from .shells import Shells

if TYPE_CHECKING:
    from ..queries import Filter, SagaRow

_PAUSE = 1.0
_BELOW = 3
"""Lines that the frame needs besides its rows: headers, footer, and the one that the cursor stands in."""


async def follow_list(shells: Shells, wanted: Filter, *, sort: str, limit: int | None) -> None:
    """Show a list until somebody interrupts it.

    On a terminal it is one frame that is drawn again, and the last one stays. Elsewhere each saga that has changed is
    one line, or one object. A store that is away for a while is asked again.

    Args:
        shells: where to, and of which stores.
        wanted: which sagas.
        sort, limit: as for `saga list`.
    """
    if shells.first.interactive and shells.first.output in ("text", "wide"):
        await _frames(shells, wanted, sort, limit)
    else:
        await _changes(shells, wanted, sort, limit)


async def _frames(shells: Shells, wanted: Filter, sort: str, limit: int | None) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from .. import across
    from .listing import footer, list_lines, read_list

    shell = shells.first
    room = max(1, shell.out.height - _BELOW)
    most = room if limit is None else min(limit, room)
    async with shells.sagas() as stores:
        with Live(console=shell.out, auto_refresh=False, transient=False) as live:
            while True:
                try:
                    now = await across.now(stores)
                    rows, counts, notes = await read_list(stores, wanted, sort=sort, limit=most)
                    lines = list_lines(shell, rows, now, notes, shell.out.width)
                    for line in lines:
                        line.no_wrap, line.overflow = True, "ellipsis"
                    live.update(Group(*lines, Text(footer(len(rows), counts), "dim")), refresh=True)
                except StoreUnreachable as error:
                    live.update(Text(f"waiting for the store: {error.message}", "yellow"), refresh=True)
                await asyncio.sleep(_PAUSE)


async def _changes(shells: Shells, wanted: Filter, sort: str, limit: int | None) -> None:
    from .. import across
    from ..report import summary
    from .times import clock_time

    shell = shells.first
    seen: dict[str, SagaRow] = {}
    async with shells.sagas() as stores:
        while True:
            try:
                now = await across.now(stores)
                rows = await across.list_sagas(stores, wanted, sort=sort, limit=limit)
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
