"""`saga store`: the stores' tables."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from .backup import backup
from .operate import DryRun
from .sharding import shard
from .shell import Shell
from .tables import draw

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ...events.database import Database
    from ...events.settings import Settings

store = App(
    name="store",
    help="Stores: bring them to this release, back up or split the coordinator's.",
    help_format="plaintext",
)
store.command(backup)
store.command(shard)


@store.command
def upgrade(
    *targets: str,
    reason: Annotated[str, Parameter(show_default=False)] = "",
    dry_run: DryRun = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Bring the tables of the coordinator's store and of the services' stores to this release.

    Each room of a store is upgraded in one transaction, forward only. Stop what writes to a SQLite file first.

    Args:
        targets: also the stores of these services, named as for `saga run`; those in the home folder are found.
        reason: why, for the audit.
        dry_run: only say what would be applied.
    """
    asyncio.run(_upgrade(shell, _stores(shell.settings, targets), reason, dry_run))


async def _upgrade(shell: Shell, stores: dict[str, set[str]], reason: str, dry_run: bool) -> None:
    from ...events.database import Database, schema_version
    from ...events.migrate import ROOMS, missing
    from ...events.migrate import upgrade as migrate

    done: list[dict[str, Any]] = []
    for url, rooms in stores.items():
        # What is only looked at is not made: a store that is not there lacks what an empty one lacks.
        absent = dry_run and _is_absent(url)
        database = await Database.open("sqlite::memory:" if absent else url)
        try:
            for room in ROOMS:
                known = await database.read(partial(schema_version, room=room))
                if known is None and room not in rooms:
                    continue
                pending = await database.read(partial(missing, room=room)) if dry_run else []
                applied = [] if dry_run else await migrate(database, room)
                done.append(
                    {
                        "schema": "saga.upgrade/v1",
                        "store": url if absent else database.url,
                        "room": room,
                        "from": known,
                        "applied": applied,
                        "pending": pending,
                    }
                )
            if url == shell.settings.store_url:
                await _record(
                    database, reason, [each for each in done if each["applied"] and each["store"] == database.url]
                )
        finally:
            await database.close()
    if shell.machine:
        shell.json(done)
        return
    table = [
        [
            each["store"],
            each["room"],
            each["from"] or "new",
            ", ".join([*each["applied"], *each["pending"]]) or "up to date",
        ]
        for each in done
    ]
    draw(shell, ["STORE", "ROOM", "WAS", "WOULD APPLY" if dry_run else "APPLIED"], table, elastic={0})
    number = sum(bool(each["applied"] or each["pending"]) for each in done)
    shell.hint(f"{number} of {len(done)} rooms {'would be ' if dry_run else ''}upgraded")


def _is_absent(url: str) -> bool:
    return url.startswith("sqlite:") and not Path(url.removeprefix("sqlite:")).exists()


async def _record(database: Database, reason: str, upgraded: list[dict[str, Any]]) -> None:
    """Write into the audit that a store was upgraded, once it can hold one."""
    from .. import audit
    from .operate import signed

    def write(connection: Connection) -> None:
        for each in upgraded:
            details = {"room": each["room"], "from": each["from"], "applied": list(each["applied"])}
            audit.record(
                connection,
                "store upgrade",
                signed(),
                outcome=audit.DONE,
                target="store",
                reason=reason,
                details=details,
            )

    if upgraded:
        await database.write(write)


def _stores(settings: Settings, targets: tuple[str, ...]) -> dict[str, set[str]]:
    """Find the stores, with the rooms that each must have; others are upgraded where they are there."""
    from ..loading import load_parts

    found: dict[str, set[str]] = {settings.store_url: {"events", "saga"}}
    for service in load_parts(targets).services if targets else ():
        if service.store is not None:
            url = service.store if isinstance(service.store, str) else settings.service_store_url(service.name)
            found.setdefault(url, {"events", "services"})
    for path in _files(settings):
        found.setdefault(f"sqlite:{path}", set())
    return found


def _files(settings: Settings) -> list[Path]:
    """Give the SQLite files where the services' stores lie by default; what is no store has none of our rooms."""
    pattern = settings.service_store_url("*").removeprefix("sqlite:")
    if "://" in pattern:
        return []
    folder, name = Path(pattern).parent, Path(pattern).name
    ours = {"broker.db", "spans.db", "publish.db"}
    return sorted(path for path in folder.glob(name) if path.name not in ours)
