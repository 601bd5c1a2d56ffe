"""Many dead letters are a batch too; the command itself works it off, for they stand on the broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from ...events.errors import ConfigurationError, StoreMismatch, StoreUnreachable
from .operate import signed
from .shell import Shell

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ...events.database import Database

_POLL = 0.5


class LetterJob:
    """A batch of dead letters under way.

    Args:
        shell: where to tell it.
        database: the store.
        id: of the batch.
    """

    def __init__(self, shell: Shell, database: Database, id: str) -> None:  # noqa: A002 - what it is called
        self._shell = shell
        self._database = database
        self.id = id

    async def goes_on(self) -> bool:
        """Wait while it is paused; tell whether it goes on, or was aborted."""
        from .. import jobs

        told = False
        while True:
            state = (await self._database.read(lambda c: jobs.progress(c, self.id))).job.state
            if state != "paused":
                if state == "aborted":
                    self._shell.hint(f"batch {self.id} was aborted; what is left stays open")
                return state != "aborted"
            if not told:
                self._shell.hint(f"batch {self.id} is paused; saga batch resume {self.id}")
                told = True
            await asyncio.sleep(_POLL)

    async def done(self, ids: Sequence[str]) -> None:
        """Note that these letters are settled, and end with the last one."""
        from .. import jobs

        await self._database.write(lambda c: jobs.settle_many(c, self.id, ids, self._database.now(c)))


@asynccontextmanager
async def letter_job(
    shell: Shell, kind: str, ids: Sequence[str], *, reason: str, rate: float, again: str = ""
) -> AsyncIterator[LetterJob | None]:
    """Make a batch of these letters, or take one up again; None for a single letter, and where there is no store.

    Args:
        shell: where the store is.
        kind: "dlq retry" or "dlq discard".
        ids: the letters.
        reason: why.
        rate: at most so many per second.
        again: id of the batch that is taken up.
    """
    from ...events.ids import new_id
    from .. import jobs

    if len(ids) < 2 and not again:
        yield None
        return
    async with AsyncExitStack() as stack:
        try:
            database = await stack.enter_async_context(shell.sagas())
        except (StoreUnreachable, StoreMismatch):
            yield None
            return
        id_ = again or f"b-{new_id()[-12:]}"
        if not again:

            def create(connection: Connection) -> None:
                jobs.create(
                    connection,
                    id_,
                    kind,
                    ids,
                    signed(),
                    reason=reason,
                    about="dead letters",
                    rate=max(1, round(rate)),
                    now=database.now(connection),
                    by_hand=True,
                )

            await database.write(create)
        shell.hint(f"batch {id_}: {len(ids):,} dead letters; after a kill: saga {kind} --batch {id_} --reason ...")
        yield LetterJob(shell, database, id_)


async def left_of(shell: Shell, id_: str, kind: str) -> list[str]:
    """Name the letters of a batch that are still to be settled.

    Raises:
        ConfigurationError: the batch is of something else, or over.
    """
    from .. import jobs

    async with shell.sagas() as database:
        found = await database.read(lambda c: jobs.progress(c, id_))
        rows = await database.read(lambda c: jobs.items(c, id_, state=jobs.PENDING))
    if found.job.kind != kind:
        raise ConfigurationError(f"batch {id_} is of {found.job.kind}; take it up with that command")
    if found.job.state in ("done", "aborted"):
        raise ConfigurationError(f"batch {id_} is {found.job.state}")
    return [row.target for row in rows]
