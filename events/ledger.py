"""Which events of which source the broker has acknowledged: the table behind `publish_file`."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from uuid import UUID

from sqlalchemy import Column, Connection, LargeBinary, MetaData, Table, select
from sqlalchemy.dialects.sqlite import insert

from .database import Database

HEAD = "0001"
metadata = MetaData()
published = Table(
    "choreo_published",
    metadata,
    Column("source", LargeBinary, primary_key=True),
    Column("id", LargeBinary, primary_key=True),
    sqlite_with_rowid=False,
)
_CHUNK = 500


class Ledger:
    """The acknowledged ids of one source on one broker; open it with `Ledger.open`."""

    def __init__(self, database: Database, source: str) -> None:
        self._database = database
        self._source = blake2b(source.encode(), digest_size=8).digest()

    @classmethod
    async def open(cls, home: Path | None, source: str) -> Ledger:
        """Open the ledger of a source.

        Args:
            home: the folder of `publish.db`; None keeps it in memory.
            source: the broker and the source's name.

        Raises:
            StoreUnreachable, StoreMismatch
        """
        database = await Database.open("sqlite::memory:" if home is None else f"sqlite:{home / 'publish.db'}")
        try:
            await database.ensure_schema("ledger", metadata, HEAD)
        except BaseException:
            await database.close()
            raise
        return cls(database, source)

    async def known(self, ids: Sequence[str]) -> set[str]:
        """Give those of these ids that were acknowledged."""

        def work(connection: Connection) -> set[str]:
            found: set[str] = set()
            for start in range(0, len(ids), _CHUNK):
                chunk = [UUID(each).bytes for each in ids[start : start + _CHUNK]]
                rows = connection.execute(
                    select(published.c.id).where(published.c.source == self._source, published.c.id.in_(chunk))
                )
                found.update(str(UUID(bytes=row.id)) for row in rows)
            return found

        return await self._database.read(work)

    async def add(self, ids: Sequence[str]) -> None:
        """Note ids as acknowledged, in one transaction."""
        rows = [{"source": self._source, "id": UUID(each).bytes} for each in ids]
        await self._database.write(
            lambda connection: connection.execute(insert(published).on_conflict_do_nothing(), rows)
        )

    async def close(self) -> None:
        """Close the file."""
        await self._database.close()
