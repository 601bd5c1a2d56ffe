"""What a person does to a saga in the middle of a run: pauses it, retries what has failed, skips a step."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError

from ....events.clock import Clock
from ....events.database import Database
from ....events.errors import ChoreoError
from ... import operators, queries
from ...queries import OPEN
from ...tables import command, saga
from ...words import StepState
from .faults import Fault

T = TypeVar("T")

_AGAIN = 0.5
"""Seconds until a store that did not answer is asked again, and between two looks for an answer."""

_FAILED = (StepState.RETRYING, StepState.FAILED)
_AHEAD = (StepState.PENDING, StepState.WAITING, StepState.RETRYING, StepState.UNKNOWN)


async def act(fault: Fault, database: Database, clock: Clock) -> None:
    """Do it, and wait until a coordinator has answered; what is paused is let go on.

    What the saga's state does not permit is refused, which is an answer as well.

    Args:
        fault: what, and for how long.
        database: the coordinators' store.
        clock: of the run.
    """
    name = f"person-{fault.kind}-{fault.nth}"
    chosen = await _done(database, lambda connection: _choose(connection, fault))
    if chosen is None:
        return
    saga_id, step = chosen
    if fault.kind == "pause":
        await _ask(database, clock, f"{name}-1", "pause", saga_id, None)
        await asyncio.sleep(fault.amount)
        await _ask(database, clock, f"{name}-2", "resume", saga_id, None)
        return
    if fault.kind == "retry":
        await _until_failed(database, saga_id, fault.amount)
    await _ask(database, clock, name, fault.kind, saga_id, step)


def _choose(connection: Connection, fault: Fault) -> tuple[str, str | None] | None:
    """Choose a saga, an open one if there is any, and for a skip one of its steps that are still ahead."""
    for query in (select(saga.c.id).where(saga.c.phase.in_(OPEN)), select(saga.c.id)):
        ids = connection.execute(query.order_by(saga.c.id)).scalars().all()
        if ids:
            id_ = ids[fault.nth % len(ids)]
            break
    else:
        return None
    if fault.kind != "skip":
        return id_, None
    steps = queries.load(connection, id_).instance.steps
    ahead = [name for name, step in steps.items() if step.state in _AHEAD] or list(steps)
    return id_, ahead[fault.nth % len(ahead)]


async def _until_failed(database: Database, saga_id: str, seconds: float) -> None:
    """Wait until a step has failed, for so long at most: nobody tries again what goes well."""
    for _ in range(math.ceil(seconds / _AGAIN)):
        found = await _done(database, lambda connection: queries.load(connection, saga_id))
        if any(step.state in _FAILED for step in found.instance.steps.values()):
            return
        await asyncio.sleep(_AGAIN)


async def _ask(database: Database, clock: Clock, id_: str, kind: str, saga_id: str, step: str | None) -> None:
    def ask(connection: Connection) -> None:
        if connection.execute(select(command.c.id).where(command.c.id == id_)).first() is None:  # else it was heard
            more = {} if step is None else {"step": step}
            operators.ask(
                connection, kind, saga_id=saga_id, by="somebody", reason="explored", id=id_, at=clock(), **more
            )

    await _done(database, ask, write=True)
    while True:
        answer = await _done(database, lambda connection: operators.answer(connection, id_))
        if answer.state != operators.PENDING:
            return
        await asyncio.sleep(_AGAIN)


async def _done(database: Database, work: Callable[[Connection], T], *, write: bool = False) -> T:
    """Do it as often as the store needs."""
    while True:
        try:
            return await (database.write(work) if write else database.read(work))
        except (ChoreoError, DBAPIError):
            await asyncio.sleep(_AGAIN)
