"""Lists over several stores: what each shard answers, as if one had."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection

from ..events.database import Database
from . import grouping, queries
from .queries import OPEN, Filter, Found, SagaRow
from .words import Phase

T = TypeVar("T")


async def _each(stores: Sequence[Database], work: Callable[[Connection], T]) -> list[T]:
    """Run a read in every store, side by side, and give what each returns."""
    return await asyncio.gather(*(store.read(work) for store in stores))


async def now(stores: Sequence[Database]) -> int:
    """Read the stores' clocks, and give the latest, microseconds."""
    return max(await asyncio.gather(*(store.read(store.now) for store in stores)))


async def list_sagas(stores: Sequence[Database], wanted: Filter, *, sort: str, limit: int | None) -> list[SagaRow]:
    """List sagas; see `queries.list_sagas`."""
    return _merged(await _each(stores, partial(queries.list_sagas, wanted=wanted, sort=sort, limit=limit)), sort, limit)


async def list_and_count(
    stores: Sequence[Database], wanted: Filter, *, sort: str, limit: int | None
) -> tuple[list[SagaRow], dict[str, int]]:
    """List sagas, and count by phase how many there are: of each store both at one moment."""

    def read(connection: Connection) -> tuple[list[SagaRow], dict[str, int]]:
        rows = queries.list_sagas(connection, wanted, sort=sort, limit=limit)
        return rows, queries.count_phases(connection, wanted)

    found = await _each(stores, read)
    total = sum((Counter(counts) for _, counts in found), Counter[str]())
    return _merged([rows for rows, _ in found], sort, limit), dict(total)


async def states(stores: Sequence[Database], ids: Sequence[str]) -> dict[str, Found]:
    """Load many sagas whole, each from the store that has it."""
    found: dict[str, Found] = {}
    for part in await _each(stores, partial(queries.states, ids=ids)):
        found |= part
    return found


async def groups(stores: Sequence[Database], wanted: Filter, by: str) -> list[dict[str, Any]]:
    """Count sagas by what they have in common; see `grouping.groups`. The example is the largest part's."""
    answers = await _each(stores, partial(grouping.groups, wanted=wanted, by=by))
    if len(answers) == 1:
        return answers[0]
    whole: dict[tuple[Any, ...], dict[str, Any]] = {}
    for part in sorted((group for answer in answers for group in answer), key=lambda group: -group["count"]):
        same = part["value"], part.get("signature")
        if (before := whole.get(same)) is None:
            whole[same] = dict(part)
        else:
            before["count"] += part["count"]
            before["first_at"] = min(before["first_at"], part["first_at"])
            before["last_at"] = max(before["last_at"], part["last_at"])
    return sorted(whole.values(), key=lambda group: (-group["count"], group["value"] or ""))


def _merged(found: Sequence[list[SagaRow]], sort: str, limit: int | None) -> list[SagaRow]:
    if len(found) == 1:
        return found[0]
    return sorted((row for rows in found for row in rows), key=_ORDER[sort])[:limit]


def _urgency(row: SagaRow) -> int:
    return 0 if row.phase == Phase.FAILED else 1 if row.phase in OPEN else 2


_ORDER: dict[str, Callable[[SagaRow], Any]] = {
    "attention": lambda row: (_urgency(row), -row.started_at, row.id),
    "started": lambda row: (-row.started_at, row.id),
    "updated": lambda row: (-row.updated_at, row.id),
    "key": lambda row: (row.type, row.key, row.run),
    "duration": lambda row: (row.started_at - (row.ended_at or row.updated_at), row.id),
}
"""Each of `queries.SORTS`, as the databases have it."""
