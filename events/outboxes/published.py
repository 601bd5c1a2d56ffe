"""What becomes of rows that the broker has: removed or marked, without waiting for anybody's open transaction.

InnoDB locks every row that it looks at. Given a list of keys it may look at the whole of a small table, and so wait for
the rows of transactions that have not ended. Joined to a list of numbers, in that order and by the primary key, it
looks up each row by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, Table, delete, update

_CHUNK = 500


def remove_rows(connection: Connection, outbox: Table, seqs: Sequence[int]) -> None:
    """Delete the rows of these numbers."""
    for chunk in _chunks(seqs):
        if _innodb(connection):
            connection.exec_driver_sql(f"DELETE found FROM {_found(connection, outbox, chunk)}")
        else:
            connection.execute(delete(outbox).where(outbox.c.seq.in_(chunk)))


def mark_rows(connection: Connection, outbox: Table, seqs: Sequence[int], now: int) -> None:
    """Mark the rows of these numbers as published."""
    for chunk in _chunks(seqs):
        if _innodb(connection):
            found = _found(connection, outbox, chunk)
            connection.exec_driver_sql(f"UPDATE {found} SET found.published_at = {now:d}")  # noqa: S608
        else:
            connection.execute(update(outbox).where(outbox.c.seq.in_(chunk)).values(published_at=now))


def _innodb(connection: Connection) -> bool:
    return connection.dialect.name in ("mysql", "mariadb")


def _found(connection: Connection, outbox: Table, seqs: Sequence[int]) -> str:
    """Spell a join that looks up rows one by one; only whole numbers and the table's checked name go into it."""
    table = connection.dialect.identifier_preparer.format_table(outbox)
    first, *others = (f"{seq:d}" for seq in seqs)
    listed = " UNION ALL SELECT ".join((f"{first} AS seq", *others))
    return f"(SELECT {listed}) AS listed STRAIGHT_JOIN {table} AS found FORCE INDEX (PRIMARY) ON found.seq = listed.seq"


def _chunks(seqs: Sequence[int]) -> Iterator[Sequence[int]]:
    return (seqs[start : start + _CHUNK] for start in range(0, len(seqs), _CHUNK))
