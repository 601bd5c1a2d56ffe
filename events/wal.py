"""SQLite's write-ahead log, switched on by however many processes open one fresh file at the same time."""

from __future__ import annotations

import sqlite3
import time

_PAUSE = 0.005


def write_ahead(connection: sqlite3.Connection, seconds: float) -> None:
    """Keep a file's journal as a write-ahead log from now on.

    A connection that meets another one's write while the file is still in its old mode is told at once that it is
    locked, whatever its timeout says: waiting might never end (https://sqlite.org/c3ref/busy_handler.html). So of two
    processes that open a fresh file together one would fail.

    Args:
        connection: to the file, in no transaction.
        seconds: how long to wait for others.

    Raises:
        sqlite3.OperationalError: somebody else wrote all that time.
        sqlite3.DatabaseError: it is no database.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                raise
        time.sleep(_PAUSE)
