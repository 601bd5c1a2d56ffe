"""`saga store backup`: a copy of the coordinator's store, and the note of it that `saga doctor` reads."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ...events.errors import ConfigurationError
from .operate import DryRun, signed
from .shell import Shell

if TYPE_CHECKING:
    from sqlalchemy import Connection

BACKUP = "saga.backup/v1"


async def backup(
    file: Path | None = None,
    /,
    *,
    made_by: Annotated[str, Parameter(show_default=False)] = "",
    reason: Annotated[str, Parameter(show_default=False)] = "",
    dry_run: DryRun = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Copy the coordinator's store, which is a SQLite file, while coordinators go on; it is noted for saga doctor.

    A store on PostgreSQL is backed up by PostgreSQL's own means: say so with --made-by when they have, for example at
    the end of that script.

    For example: saga store backup /backup/saga-monday.db

    Args:
        file: where to; what is there is never replaced.
        made_by: note that something else has made a backup just now, e.g. pg_dump; nothing is copied.
        reason: why, for the audit.
        dry_run: only say what would be done.
    """
    from .. import audit
    from ..backup import copy_file, note_backup
    from ..report import rfc3339

    store = shell.settings.store_url
    if (file is None) == (not made_by):
        raise ConfigurationError("name the file to copy the store to, or with --made-by what has made a backup")
    if file is not None and not store.startswith("sqlite:"):
        raise ConfigurationError(
            "the store is on PostgreSQL: back it up with pg_dump or as your database is, then note it with --made-by"
        )
    async with shell.sagas() as database:
        told: dict[str, Any] = {
            "schema": BACKUP,
            "store": database.url,
            "file": None if file is None else str(file),
            "by_means_of": made_by or None,
            "bytes": None,
            "at": None,
        }
        if not dry_run:
            at = await database.read(database.now)
            if file is not None:
                told["bytes"] = await asyncio.to_thread(copy_file, Path(store.removeprefix("sqlite:")), file)
            told["at"] = rfc3339(at)

            def note(connection: Connection) -> None:
                who = signed()
                note_backup(connection, who.by, made_by or str(file), at)
                details = {"file": told["file"], "made_by": made_by}
                audit.record(
                    connection,
                    "store backup",
                    who,
                    outcome=audit.DONE,
                    target="store",
                    reason=reason,
                    details=details,
                )

            await database.write(note)
    if shell.machine:
        shell.json(told)
        return
    size = "" if told["bytes"] is None else f", {told['bytes']:,} bytes"
    shell.lines([f"{database.url} -> {file}{size}" if file is not None else f"{database.url}: backed up by {made_by}"])
    if dry_run:
        shell.hint("nothing was done (--dry-run)")
