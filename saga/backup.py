"""Backups of the coordinator's store: a copy of a SQLite file, and when there was the last one."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, delete, insert, select

from ..events.errors import ConfigurationError, StoreUnreachable
from .tables import control

_NAME = "backup"


def copy_file(store: Path, target: Path) -> int:
    """Copy a SQLite store as it is at one moment, while others go on reading and writing it; give its size in bytes.

    SQLite's own online backup makes the copy, beside the target and checked before it gets its name: what lies there is
    whole. Blocks.

    Raises:
        ConfigurationError: there is something at the target, or it cannot be written.
        StoreUnreachable: the store cannot be read, or the copy is not sound.
    """
    if target.exists():
        raise ConfigurationError(f"{target} is there already; a backup replaces nothing")
    part = target.with_name(f"{target.name}.part")
    try:
        reading = f"file:{quote(str(store))}?mode=ro"
        with closing(sqlite3.connect(reading, uri=True)) as source, closing(sqlite3.connect(part)) as copy:
            source.backup(copy)
            # As WAL it would be three files, and one of them a backup.
            copy.execute("PRAGMA journal_mode = DELETE")
            sound = copy.execute("PRAGMA quick_check").fetchone()[0]
        if sound != "ok":
            raise StoreUnreachable(f"the copy of {store} is not sound: {str(sound)[:200]}")
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        os.link(part, target)  # unlike a rename, this replaces nothing
    except FileExistsError:
        raise ConfigurationError(f"{target} is there already; a backup replaces nothing") from None
    except OSError as error:
        raise ConfigurationError(f"cannot write {target}: {error.strerror}") from None
    except sqlite3.Error as error:
        raise StoreUnreachable(f"{store} cannot be copied to {target}: {error}") from None
    finally:
        with suppress(OSError):
            part.unlink()
    return target.stat().st_size


def note_backup(connection: Connection, by: str, how: str, at: int) -> None:
    """Write down that the store was backed up.

    Args:
        connection: within a write.
        by: who did it.
        how: where to, or by what.
        at: the moment of which the backup is, microseconds.
    """
    connection.execute(delete(control).where(control.c.name == _NAME))
    connection.execute(insert(control).values(name=_NAME, value=how, at=at, by=by))


def backed_up_at(connection: Connection) -> int | None:
    """Give the moment of which the last backup is that somebody has told of, microseconds; None: there is none."""
    return connection.execute(select(control.c.at).where(control.c.name == _NAME)).scalar()
